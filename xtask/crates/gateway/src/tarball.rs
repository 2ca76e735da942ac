//! What a crate file may hold: plain files and folders below `NAME-VERSION/`.
//!
//! The lock file says which bytes are a crate, not that they mean well, and a cargo older than its fix follows a link of one
//! archive while it unpacks it (CVE-2026-5223). So a crate is read here before any cargo sees it.
//! Owns: that reading, in which everything that two readers of tar could understand differently is refused. Never: write
//! anything, or hold more than one header in memory.
//! Rules: POSIX.1-2024, pax, "ustar Interchange Format"; GNU tar's long names, which `cargo package` writes.

use flate2::read::GzDecoder;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Component, Path};

/// Raised with each rule: what an earlier set let pass is examined again.
pub const RULES: u32 = 1;
const BLOCK_BYTES: usize = 512;
/// Of a name that does not fit into a header.
const MAX_NAME_BYTES: u64 = 64 * 1024;
/// As much as cargo itself unpacks.
const MAX_CONTENT_BYTES: u64 = 512 << 20;
const MAX_RATIO: u64 = 20;

/// `Ok(Err)`: why this is no crate that may be unpacked, naming the entry.
/// # Errors: of reading the file.
pub fn examine(path: &Path, root: &str) -> io::Result<Result<(), String>> {
    let file = File::open(path)?;
    let max_bytes = MAX_CONTENT_BYTES.max(file.metadata()?.len().saturating_mul(MAX_RATIO));
    // One member, as cargo reads it. What gzip or tar cannot read is the archive's fault: its bytes were just hashed.
    let mut reader = GzDecoder::new(BufReader::with_capacity(64 * 1024, file)).take(max_bytes);
    Ok(entries(&mut reader, root))
}

fn entries(reader: &mut impl Read, root: &str) -> Result<(), String> {
    let mut long_name: Option<Vec<u8>> = None;
    loop {
        let mut block = [0; BLOCK_BYTES];
        match fill(reader, &mut block)? {
            0 => return Ok(()),
            BLOCK_BYTES if block.iter().all(|byte| *byte == 0) => continue,
            BLOCK_BYTES => {}
            _ => return Err("its last block is cut".to_owned()),
        }
        let header = Header(&block);
        header.check_sum()?;
        let kind = block[156];
        let size = header.octal(124..136).ok_or("a header has no readable size")?;
        if matches!(kind, b'L' | b'x' | b'g') {
            if size > MAX_NAME_BYTES {
                return Err("a header's extension is too long".to_owned());
            }
            let extension = content(reader, size)?;
            let mut names = Vec::new();
            if kind == b'L' {
                names.push(until_nul(&extension));
            } else {
                for (key, value) in records(&extension).ok_or("a header's extension is unreadable")? {
                    match key {
                        b"path" if kind == b'x' => names.push(value),
                        b"path" | b"linkpath" | b"size" => return Err("a header's extension hides an entry".into()),
                        _ => {}
                    }
                }
            }
            for name in names {
                // Readers differ in which of two names they believe.
                if long_name.replace(name.to_vec()).is_some() {
                    return Err("an entry has two names".to_owned());
                }
            }
            continue;
        }
        let name = long_name.take().unwrap_or_else(|| header.name());
        let name = String::from_utf8(name).map_err(|_| "an entry's name is not UTF-8")?;
        let refuse = |why: &str| Err(format!("entry `{}` {why}", name.escape_debug()));
        match kind {
            b'0' | 0 | b'5' => {}
            b'1' => return refuse("is a hard link"),
            b'2' => return refuse("is a symbolic link"),
            b'3' | b'4' | b'6' => return refuse("is a device or a pipe"),
            _ => return refuse("is of a kind that no crate needs"),
        }
        let mut parts = Path::new(&name).components().filter(|part| *part != Component::CurDir);
        if parts.next() != Some(Component::Normal(root.as_ref())) {
            return refuse(&format!("is not below `{root}/`"));
        }
        if !parts.all(|part| matches!(part, Component::Normal(_))) || name.contains('\0') {
            return refuse("walks through `..`");
        }
        skip(reader, size)?;
    }
}

struct Header<'a>(&'a [u8; BLOCK_BYTES]);

impl Header<'_> {
    fn check_sum(&self) -> Result<(), String> {
        let blank = (148..156).len() as u64 * u64::from(b' ');
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        let expected = sum(&self.0[..148]) + blank + sum(&self.0[156..]);
        if self.octal(148..156) == Some(expected) { Ok(()) } else { Err("it is not a sound tar archive".to_owned()) }
    }

    fn octal(&self, range: std::ops::Range<usize>) -> Option<u64> {
        let text = std::str::from_utf8(until_nul(&self.0[range])).ok()?.trim();
        if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
    }

    fn name(&self) -> Vec<u8> {
        let (name, prefix) = (until_nul(&self.0[..100]), until_nul(&self.0[345..500]));
        // GNU's magic has other fields where ustar has the prefix.
        if &self.0[257..263] == b"ustar\0" && !prefix.is_empty() {
            [prefix, b"/", name].concat()
        } else {
            name.to_vec()
        }
    }
}

/// `length key=value\n`, the length in bytes and of the whole.
fn records(mut extension: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut found = Vec::new();
    while !extension.is_empty() {
        let space = extension.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&extension[..space]).ok()?.parse().ok()?;
        let record = extension.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        found.push((&record[..equals], &record[equals + 1..]));
        extension = &extension[length..];
    }
    Some(found)
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len())]
}

/// How much of the buffer there was.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> Result<usize, String> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(format!("it is not a sound gzip file: {cause}")),
        }
    }
    Ok(filled)
}

fn content(reader: &mut impl Read, size: u64) -> Result<Vec<u8>, String> {
    let mut padded = vec![0; size.next_multiple_of(BLOCK_BYTES as u64) as usize];
    let there = fill(reader, &mut padded)? == padded.len();
    padded.truncate(size as usize);
    if there { Ok(padded) } else { Err("its last entry is cut".to_owned()) }
}

fn skip(reader: &mut impl Read, size: u64) -> Result<(), String> {
    let mut left = size.checked_next_multiple_of(BLOCK_BYTES as u64).ok_or("a header states no possible size")?;
    let mut buffer = [0; 32 * 1024];
    while left > 0 {
        let piece = &mut buffer[..usize::try_from(left).unwrap_or(usize::MAX).min(32 * 1024)];
        if fill(reader, piece)? < piece.len() {
            return Err("its last entry is cut, or it unpacks to more than cargo would".to_owned());
        }
        left -= piece.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of GNU's old format and its padded content.
    fn entry(kind: u8, name: &str, content: &str) -> Vec<u8> {
        let mut block = [0; BLOCK_BYTES];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        block[156] = kind;
        block[148..156].copy_from_slice(b"        ");
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let mut bytes = [block.as_slice(), content.as_bytes()].concat();
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        bytes
    }

    #[test]
    fn what_two_readers_could_understand_differently_is_refused() {
        let (safe, evil) = ("17 path=c-1/safe\n", "13 path=../x\n");
        let broken = [entry(b'0', "c-1/a", "")[..148].to_vec(), vec![b'7'; BLOCK_BYTES - 148]].concat();
        for (archive, expected) in [
            (vec![entry(b'0', "c-1/a", "hello"), entry(b'5', "c-1/b/", "")], None),
            (vec![entry(b'x', "x", safe), entry(b'0', "../x", "")], None),
            (vec![entry(b'x', "x", evil), entry(b'0', "c-1/a", "")], Some("`../x` is not below")),
            (vec![entry(b'L', "l", "../x"), entry(b'x', "x", safe), entry(b'0', "c-1/a", "")], Some("two names")),
            (vec![entry(b'x', "x", &format!("{safe}{safe}")), entry(b'0', "c-1/a", "")], Some("two names")),
            (vec![entry(b'x', "x", "10 size=9\n"), entry(b'0', "c-1/a", "")], Some("hides an entry")),
            (vec![entry(b'g', "g", evil), entry(b'0', "c-1/a", "")], Some("hides an entry")),
            (vec![entry(b'0', "c-1/a/../../x", "")], Some("walks through")),
            (vec![entry(b'2', "c-1/a", "")], Some("is a symbolic link")),
            (vec![entry(b'3', "c-1/a", "")], Some("is a device")),
            (vec![entry(b'S', "c-1/a", "")], Some("no crate needs")),
            (vec![vec![0; 4 * BLOCK_BYTES], entry(b'0', "x", "")], Some("`x` is not below")),
            (vec![broken], Some("not a sound tar")),
            (vec![entry(b'0', "c-1/a", &"y".repeat(600))[..1024].to_vec()], Some("is cut")),
        ] {
            let told = entries(&mut archive.concat().as_slice(), "c-1").err();
            assert_eq!(told.is_some(), expected.is_some(), "{told:?} {expected:?}");
            let (told, expected) = (told.unwrap_or_default(), expected.unwrap_or_default());
            assert!(told.contains(expected), "{told} is not {expected}");
        }
    }
}
