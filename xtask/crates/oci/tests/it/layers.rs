//! Trees written as layers: the same bytes everywhere, and what other people's readers find in them.

use crate::{Folder, installed, run};
use oci::layer::{self, LayerError};
use oci::read::{FileDigest, LayerFile, LayerReader, Limits, flatten, hash};
use oci::tree::TreeError;
use oci::{Codec, Content, Digest, Entry, Kind, Layer, Tree, TreePath};
use std::io::Write;
use std::process::{Command, Stdio};

pub fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

pub fn bytes(content: &[u8]) -> Content {
    Content::Bytes(content.to_vec())
}

/// Each kind of entry, each reason for a PAX header, and a file of more than one piece of the writer.
fn everything() -> Tree {
    let mut tree = Tree::new();
    let long = format!("usr/{}/end", "long".repeat(40));
    let big: Vec<u8> = (0..400_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
    let xattrs = [("security.capability".to_owned(), vec![1, 0, 0, 2, b'\n', b'=', 0]), ("user.b".into(), b"2".into())];
    let rows = [
        ("usr/bin/tool", Entry { xattrs: xattrs.into(), ..Entry::file(bytes(&big), 0o4755, 1_700_000_000) }),
        ("usr/bin/also", Entry::new(Kind::Hardlink(path("usr/bin/tool")), 0, 0)),
        ("usr/bin/too", Entry::new(Kind::Hardlink(path("usr/bin/also")), 0, 0)),
        ("usr/bin/link", Entry::symlink("../lib/x", 5)),
        ("usr/lib", Entry { uid: 65532, gid: 3_000_000, ..Entry::directory(0o1777, 1) }),
        ("usr/lib/empty", Entry::file(bytes(b""), 0o400, -1)),
        ("usr/lib/\u{4e2d}\u{6587}", Entry::symlink("t".repeat(150), 0)),
        (&long, Entry::file(bytes(b"long"), 0o644, 1 << 34)),
        ("opt/gone", Entry::new(Kind::Whiteout, 0, 9)),
        ("opt/hides", Entry::new(Kind::OpaqueWhiteout, 0o750, 9)),
        ("opt/hides/new", Entry::file(bytes(b"new"), 0o644, 9)),
        ("gone", Entry::new(Kind::Whiteout, 0, 9)),
    ];
    for (name, entry) in rows {
        tree.insert(path(name), entry).unwrap();
    }
    tree.add_parents(42);
    tree
}

fn write(tree: &Tree, codec: Codec) -> (Vec<u8>, Layer) {
    let mut output = Vec::new();
    let layer = layer::write(tree, codec, &mut output).unwrap();
    assert_eq!(layer.descriptor.digest, Digest::of(&output));
    assert_eq!(layer.descriptor.size, output.len() as u64);
    (output, layer)
}

/// These bytes, on every machine: another diff id is another format for everybody's layers, another digest another encoder,
/// and [`Codec::encoder`] must then say so.
#[test]
fn one_tree_has_one_digest() {
    let tree = everything();
    let digests = [Codec::Tar, Codec::Gzip(1), Codec::default(), Codec::Gzip(9)].map(|codec| {
        let (_, layer) = write(&tree, codec);
        assert_eq!(layer.diff_id.hex()[..16], *DIFF_ID);
        format!("{codec} {}", &layer.descriptor.digest.hex()[..16])
    });
    assert_eq!(digests, DIGESTS);
}

const DIFF_ID: &str = "3688a36d6fc945ad";
const DIGESTS: [&str; 4] =
    ["tar 3688a36d6fc945ad", "gzip-1 eeb1c9ed2bc03cb1", "gzip-6 2e7f42d3820a92f3", "gzip-9 02733461ed3d08f2"];

/// The test above, in processes that differ in everything that could find its way into a tar.
#[test]
fn umask_time_zone_locale_home_clock_and_processors_change_nothing() {
    let variations = [
        ("umask 000", &[("TZ", "Asia/Shanghai"), ("LC_ALL", "zh_CN.GB18030")]),
        ("umask 777", &[("TZ", "America/St_Johns"), ("HOME", "/nowhere")]),
        ("umask 027", &[("SOURCE_DATE_EPOCH", "1"), ("USER", "somebody")]),
        ("cd /", &[("TMPDIR", "/nowhere"), ("RUST_TEST_THREADS", "7")]),
    ];
    let test = std::env::current_exe().unwrap();
    for (before, environment) in variations {
        let mut command = Command::new("sh");
        let script = format!("{before}; exec \"$0\" --exact layers::one_tree_has_one_digest");
        command.arg("-c").arg(script).arg(&test).envs(environment.iter().copied());
        let output = String::from_utf8(run(&mut command).stdout).unwrap();
        assert!(output.contains("1 passed"), "{before}: {output}");
    }
    let digests: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| write(&everything(), Codec::default()).1.descriptor.digest)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

#[test]
fn where_a_content_lies_changes_nothing() {
    let folder = Folder::new();
    let content: Vec<u8> = (0..300_001_u32).map(|i| (i.wrapping_mul(i) >> 9) as u8).collect();
    let file = folder.file("content", &content);
    let of = |content| {
        let mut tree = Tree::new();
        tree.insert(path("f"), Entry::file(content, 0o644, 0)).unwrap();
        write(&tree, Codec::default())
    };
    let size_bytes = content.len() as u64;
    assert_eq!(of(Content::Bytes(content)), of(Content::File { path: file, size_bytes }));
}

#[test]
fn a_file_that_is_not_as_long_as_it_was_is_noticed() {
    let folder = Folder::new();
    let file = folder.file("content", b"12345");
    for (size_bytes, changed) in [(4, true), (5, false), (6, true), (0, true)] {
        let mut tree = Tree::new();
        let content = Content::File { path: file.clone(), size_bytes };
        tree.insert(path("f"), Entry::file(content, 0o644, 0)).unwrap();
        let written = layer::write(&tree, Codec::Tar, std::io::sink());
        assert_eq!(matches!(written, Err(LayerError::Changed { .. })), changed, "{size_bytes}: {written:?}");
    }
    let mut tree = Tree::new();
    let content = Content::File { path: folder.path("absent"), size_bytes: 1 };
    tree.insert(path("f"), Entry::file(content, 0o644, 0)).unwrap();
    assert!(matches!(layer::write(&tree, Codec::Tar, std::io::sink()), Err(LayerError::Content { .. })));
}

#[test]
fn a_tree_that_is_no_layer_is_refused() {
    let link = |to: &str| Entry::new(Kind::Hardlink(path(to)), 0, 0);
    let refused = |rows: &[(&str, Entry)]| {
        let mut tree = Tree::new();
        rows.iter().for_each(|(name, entry)| tree.insert(path(name), entry.clone()).unwrap());
        layer::write(&tree, Codec::Tar, std::io::sink()).unwrap_err().to_string()
    };
    assert_eq!(refused(&[("a", link("b"))]), "`a` links to `b`, which is no file here");
    assert_eq!(refused(&[("a", link("b")), ("b", link("a"))]), "`a` links to `b`, which is no file here");
    assert_eq!(
        refused(&[("a", link("d")), ("d", Entry::directory(0o755, 0))]),
        "`a` links to `d`, which is no file here"
    );
    let undeclared = refused(&[("a/b", Entry::directory(0o755, 0))]);
    assert_eq!(undeclared, "folder `a` is not declared, so engines would disagree about it");
    let level = layer::write(&Tree::new(), Codec::Gzip(0), std::io::sink()).unwrap_err();
    assert!(matches!(level, LayerError::Output(cause) if cause.to_string() == "gzip-0 has no such level"));
}

/// Prints everything that Python finds in the archive on its standard input.
const PYTHON: &str = r#"
import sys, tarfile
for it in tarfile.open(fileobj=sys.stdin.buffer, mode="r|*"):
    kind = {b"0": "f", b"1": "h", b"2": "l", b"5": "d"}[it.type]
    assert it.uname == it.gname == "", it
    xattrs = [key[13:] for key in it.pax_headers if key.startswith("SCHILY.xattr.")]
    print(kind, it.name[:40], f"{it.mode:o}", it.uid, it.gid, it.size, int(it.mtime), it.linkname[:40], *xattrs)
"#;

#[test]
fn python_finds_every_entry_with_every_attribute() {
    if !installed("python3") {
        return;
    }
    let mut python = Command::new("python3");
    python.args(["-I", "-X", "utf8", "-c", PYTHON]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python.spawn().unwrap();
    python.stdin.take().unwrap().write_all(&write(&everything(), Codec::default()).0).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    let expected = "\
f .wh.gone 644 0 0 0 9 
d opt 755 0 0 0 42 
f opt/.wh.gone 644 0 0 0 9 
d opt/hides 750 0 0 0 9 
f opt/hides/.wh..wh..opq 644 0 0 0 9 
f opt/hides/new 644 0 0 3 9 
d usr 755 0 0 0 42 
d usr/bin 755 0 0 0 42 
f usr/bin/also 4755 0 0 1600000 1700000000  security.capability user.b
l usr/bin/link 777 0 0 0 5 ../lib/x
h usr/bin/too 4755 0 0 0 1700000000 usr/bin/also
h usr/bin/tool 4755 0 0 0 1700000000 usr/bin/also
d usr/lib 1777 65532 3000000 0 1 
f usr/lib/empty 400 0 0 0 -1 
l usr/lib/\u{4e2d}\u{6587} 777 0 0 0 0 tttttttttttttttttttttttttttttttttttttttt
d usr/longlonglonglonglonglonglonglonglong 755 0 0 0 42 
f usr/longlonglonglonglonglonglonglonglong 644 0 0 4 17179869184 
";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

/// A layer as it lies on a disk.
pub fn stored(folder: &Folder, name: &str, tree: &Tree, codec: Codec) -> LayerFile {
    let (packed, layer) = write(tree, codec);
    let Layer { descriptor, diff_id, .. } = layer;
    LayerFile { path: folder.file(name, &packed), descriptor, diff_id }
}

#[test]
fn a_layer_reads_back_as_it_was_written() {
    let folder = Folder::new();
    let layer = stored(&folder, "layer", &everything(), Codec::default());
    let mut reader = LayerReader::open(&layer, Limits::default()).unwrap();
    let mut removals = Vec::new();
    while let Some((path, entry)) = reader.next().unwrap() {
        match entry.kind {
            Kind::Whiteout => removals.push(format!("gone {path}")),
            Kind::OpaqueWhiteout => removals.push(format!("opaque {path}")),
            _ => {}
        }
    }
    assert_eq!(reader.finish().unwrap().entries, 17 + 6, "six of them have a PAX header");
    assert_eq!(removals, ["gone gone", "gone opt/gone", "opaque opt/hides"]);
    let tree = flatten(&[layer], &Limits::default(), hash).unwrap();
    let expected = everything();
    for (path, entry) in expected.iter() {
        match (&entry.kind, tree.get(path.as_str())) {
            (Kind::Whiteout, None) => {}
            (Kind::Hardlink(_), Some(Entry { kind: Kind::File(_), mode: 0o4755, .. })) => {}
            (_, Some(read)) => {
                let attributes = |mode, uid, gid, time, xattrs| (mode, uid, gid, time, xattrs);
                assert_eq!(
                    attributes(read.mode, read.uid, read.gid, read.modified_seconds, read.xattrs.clone()),
                    attributes(entry.mode, entry.uid, entry.gid, entry.modified_seconds, entry.xattrs.clone()),
                    "{path}"
                );
            }
            (_, None) => panic!("{path}"),
        }
    }
}

/// Rows of layers as `(path, entry)`, flattened to `path content`.
fn flattened(layers: &[&[(&str, Entry)]]) -> Result<Vec<String>, String> {
    let folder = Folder::new();
    let layers: Vec<LayerFile> = (0..)
        .zip(layers)
        .map(|(i, rows)| {
            let mut tree = Tree::new();
            rows.iter().for_each(|(name, entry)| tree.insert(path(name), entry.clone()).unwrap());
            tree.add_parents(0);
            stored(&folder, &i.to_string(), &tree, Codec::Gzip(1))
        })
        .collect();
    let text = |_: &TreePath, _: u64, content: &mut dyn std::io::Read| std::io::read_to_string(content);
    let tree = flatten(&layers, &Limits::default(), text).map_err(|error| error.to_string())?;
    let shown = |(path, entry): (&TreePath, &Entry<String>)| match &entry.kind {
        Kind::File(text) => format!("{path} {text}"),
        Kind::Symlink(target) => format!("{path} -> {target}"),
        _ => format!("{path}/ {:o}", entry.mode),
    };
    Ok(tree.iter().map(shown).collect())
}

#[test]
fn layers_lie_on_each_other_as_the_specification_says() {
    let file = |text: &str| Entry::file(bytes(text.as_bytes()), 0o644, 0);
    let folder = |mode| Entry::directory(mode, 0);
    let (gone, opaque) = (|| Entry::new(Kind::Whiteout, 0, 0), || Entry::new(Kind::OpaqueWhiteout, 0o755, 0));
    let link = |to: &str| Entry::new(Kind::Hardlink(path(to)), 0, 0);
    let base: &[(&str, Entry)] = &[("d/a", file("1")), ("d/b", file("2")), ("d/e/f", file("3"))];
    let check = |layers: &[&[(&str, Entry)]], expected: &[&str]| {
        assert_eq!(flattened(layers).unwrap(), expected);
    };
    check(&[base, &[("d/b", gone())]], &["d/ 755", "d/a 1", "d/e/ 755", "d/e/f 3"]);
    check(&[base, &[("d/e", gone()), ("d/g", file("4"))]], &["d/ 755", "d/a 1", "d/b 2", "d/g 4"]);
    check(&[base, &[("d", opaque()), ("d/b", file("5"))]], &["d/ 755", "d/b 5"]);
    check(&[base, &[("d", gone())]], &[]);
    check(&[base, &[("d", folder(0o700))]], &["d/ 700", "d/a 1", "d/b 2", "d/e/ 755", "d/e/f 3"]);
    check(&[base, &[("d", Entry::symlink("x", 0))]], &["d -> x"]);
    check(&[&[("d", Entry::symlink("x", 0))], base], &["d/ 755", "d/a 1", "d/b 2", "d/e/ 755", "d/e/f 3"]);
    check(&[&[("d", Entry::symlink("x", 0))], &[("d", gone())]], &[]);
    // A removal of what was never there removes nothing.
    check(&[&[("a", file("1"))], &[("b/c", gone())]], &["a 1", "b/ 755"]);
    // What replaces one name of a file leaves the other as it is.
    check(&[&[("a", file("1")), ("b", link("a"))], &[("a", file("2"))]], &["a 2", "b 1"]);
}

#[test]
fn what_lies_below_a_link_of_another_layer_is_refused() {
    let folder = Folder::new();
    let mut tree = Tree::new();
    tree.insert(path("lib"), Entry::symlink("usr/lib", 0)).unwrap();
    let base = stored(&folder, "base", &tree, Codec::Tar);
    let refused = |part: crate::tars::Part| {
        let tar = crate::tars::tar(&[part]);
        let digest = Digest::of(&tar);
        let descriptor = oci::Descriptor::new(oci::image::media_type::LAYER, digest, tar.len() as u64);
        let above = LayerFile { path: folder.file("above", &tar), descriptor, diff_id: digest };
        flatten(&[base.clone(), above], &Limits::default(), hash).unwrap_err().to_string()
    };
    let through = "`lib/x` cannot be below `lib`, which is no folder";
    assert_eq!(refused(crate::tars::file("lib/x", b"x")), format!("entry `a layer` is refused: {through}"));
    let removed = refused(crate::tars::file("lib/.wh.x", b""));
    assert_eq!(removed, "entry `lib/x` is refused: `lib` on the way to what it removes is no folder");
    // The same on our side: a layer on top of this base says so before it is written.
    let mut above = Tree::new();
    above.insert(path("lib/x"), Entry::file(bytes(b"x"), 0o644, 0)).unwrap();
    let base: Tree<FileDigest> = flatten(&[base], &Limits::default(), hash).unwrap();
    let refused = TreeError::NotADirectory { path: path("lib"), below: path("lib/x") };
    assert_eq!(above.add_parents_of(&base), Err(refused));
}

#[test]
fn the_bounds_count_for_all_layers_of_an_image_together() {
    let folder = Folder::new();
    let mut tree = Tree::new();
    tree.insert(path("a"), Entry::file(bytes(&[1; 4000]), 0o644, 0)).unwrap();
    let layer = stored(&folder, "layer", &tree, Codec::Gzip(1));
    let twice = |limits: Limits| flatten(&[layer.clone(), layer.clone()], &limits, hash).map(|tree| tree.len());
    assert_eq!(twice(Limits { entries: 2, unpacked_bytes: 12_000, ..Limits::default() }).unwrap(), 1);
    let error = twice(Limits { entries: 1, ..Limits::default() }).unwrap_err().to_string();
    assert_eq!(error, "the archive has more entries than the 0 allowed");
    assert!(twice(Limits { unpacked_bytes: 8000, ..Limits::default() }).is_err());
}

/// The child of the test below: prints by how many bytes its memory grew at most.
#[test]
fn writes_and_reads_a_big_layer_for_the_test_of_memory() {
    let Some(folder) = std::env::var_os("OCI_TEST_OF_MEMORY") else { return };
    let file = std::path::Path::new(&folder).join("big");
    let size_bytes = file.metadata().unwrap().len();
    let mut tree = Tree::new();
    tree.insert(path("big"), Entry::file(Content::File { path: file, size_bytes }, 0o644, 0)).unwrap();
    let layer = std::path::Path::new(&folder).join("layer");
    let Layer { descriptor, diff_id, .. } =
        layer::write(&tree, Codec::Gzip(1), std::fs::File::create(&layer).unwrap()).unwrap();
    let layer = LayerFile { path: layer, descriptor, diff_id };
    flatten(&[layer], &Limits { ratio: 2000, ..Limits::default() }, hash).unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("peak {}", peak.trim());
}

#[test]
fn memory_does_not_grow_with_a_file() {
    let folder = Folder::new();
    // Holes of zeros: nothing to store, everything to pass through.
    std::fs::File::create(folder.path("big")).unwrap().set_len(256 << 20).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "layers::writes_and_reads_a_big_layer_for_the_test_of_memory", "--nocapture"]);
    let output = String::from_utf8(run(command.env("OCI_TEST_OF_MEMORY", folder.path(""))).stdout).unwrap();
    let peak = output.split("peak ").nth(1).unwrap().split(' ').next().unwrap();
    assert!(peak.parse::<u64>().unwrap() < 32 << 10, "{peak} KiB");
}

/// `cargo test -p oci --features zstd`
#[cfg(feature = "zstd")]
#[test]
fn a_layer_in_zstd_has_one_digest_and_reads_back() {
    let digests = [1, 3, 19].map(|level| {
        let folder = Folder::new();
        let layer = stored(&folder, "layer", &everything(), Codec::Zstd(level));
        assert_eq!(layer.diff_id.hex()[..16], *DIFF_ID);
        flatten(std::slice::from_ref(&layer), &Limits::default(), hash).unwrap();
        format!("{} {}", Codec::Zstd(level), &layer.descriptor.digest.hex()[..16])
    });
    assert_eq!(digests, ["zstd-1 1e70711e939c85fb", "zstd-3 3f58b5cb24f4523d", "zstd-19 514d54e96e813127"]);
}
