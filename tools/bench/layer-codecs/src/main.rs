//! CPU time and size of what could compress and read layers, on files named in argv: from this folder,
//! `cargo run --target-dir ../../../target/bench ../../../dist/bin/router ../../../dist/lib/*.so`.
//!
//! Owns: the figures of docs/decisions/0012-layer-codecs.md. Never: decide.

use std::io::{self, Read, Write};

/// The CPU time that this thread has used: other processes on the machine do not count.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// What a function returned, and the least CPU time of three runs.
fn timed<T>(work: impl Fn() -> T) -> (T, f64) {
    let run = || {
        let start = cpu_seconds();
        let result = work();
        (result, cpu_seconds() - start)
    };
    let (result, first) = run();
    (result, first.min(run().1).min(run().1))
}

fn gzip(level: u32, input: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(input)?;
    encoder.finish()
}

fn unpacked(mut reader: impl Read) -> io::Result<Vec<u8>> {
    let mut output = Vec::new();
    reader.read_to_end(&mut output)?;
    Ok(output)
}

fn main() -> io::Result<()> {
    let mut input = Vec::new();
    for path in std::env::args_os().skip(1) {
        std::fs::File::open(path)?.read_to_end(&mut input)?;
    }
    let ruzstd = |level| ruzstd::encoding::compress_to_vec(input.as_slice(), level);
    type Work<'a> = Box<dyn Fn() -> io::Result<Vec<u8>> + 'a>;
    let gzipped = gzip(6, &input)?;
    let zstandard = zstd::bulk::compress(&input, 3)?;
    let rows: Vec<(&str, Work)> = vec![
        ("gzip-1 zlib-rs", Box::new(|| gzip(1, &input))),
        ("gzip-4 zlib-rs", Box::new(|| gzip(4, &input))),
        ("gzip-6 zlib-rs", Box::new(|| gzip(6, &input))),
        ("gzip-9 zlib-rs", Box::new(|| gzip(9, &input))),
        ("deflate-6 miniz_oxide", Box::new(|| Ok(miniz_oxide::deflate::compress_to_vec(&input, 6)))),
        ("zstd-1 libzstd", Box::new(|| zstd::bulk::compress(&input, 1))),
        ("zstd-3 libzstd", Box::new(|| zstd::bulk::compress(&input, 3))),
        ("zstd-9 libzstd", Box::new(|| zstd::bulk::compress(&input, 9))),
        ("zstd fastest ruzstd", Box::new(|| Ok(ruzstd(ruzstd::encoding::CompressionLevel::Fastest)))),
        ("read gzip-6 zlib-rs", Box::new(|| unpacked(flate2::read::GzDecoder::new(gzipped.as_slice())))),
        ("read zstd-3 libzstd", Box::new(|| unpacked(zstd::Decoder::new(zstandard.as_slice())?))),
        (
            "read zstd-3 ruzstd",
            Box::new(|| {
                let reader = ruzstd::decoding::StreamingDecoder::new(zstandard.as_slice());
                unpacked(reader.map_err(io::Error::other)?)
            }),
        ),
    ];
    println!("{} bytes", input.len());
    println!("| codec | MB/s of a core | compressed |\n| --- | ---: | ---: |");
    for (name, work) in rows {
        let (output, seconds) = timed(&work);
        let share = match output?.len() {
            whole if whole == input.len() => String::new(),
            size => format!("{:.1} %", size as f64 / input.len() as f64 * 100.0),
        };
        println!("| {name} | {:.0} | {share} |", input.len() as f64 / seconds / 1e6);
    }
    Ok(())
}
