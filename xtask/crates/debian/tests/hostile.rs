//! Packages made by hand: what is taken of them, and what is refused.
//!
//! Owns: archives that dpkg-deb would never write. Each hostile one must be refused for its own reason, and leave nothing outside
//! the scratch folder.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use debian::{Pattern, Policy, Source, User, base_tree};
use flate2::Compression;
use flate2::write::GzEncoder;
use oci::{Content, Kind, Tree};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An entry of a tar, down to its bytes.
#[derive(Clone)]
struct Entry {
    path: Vec<u8>,
    flag: u8,
    mode: &'static str,
    target: Vec<u8>,
    /// As the header says it; the content's own where `None`.
    size: Option<String>,
    owner: &'static str,
    magic: &'static [u8; 8],
    prefix: &'static [u8],
    content: Vec<u8>,
}

fn entry(flag: u8, path: &str, target: &str, content: &str) -> Entry {
    Entry {
        path: path.into(),
        flag,
        mode: if flag == b'5' { "755" } else { "644" },
        target: target.into(),
        size: None,
        owner: "0",
        magic: b"ustar  \0",
        prefix: b"",
        content: content.into(),
    }
}

fn file(path: &str, content: &str) -> Entry {
    entry(b'0', path, "", content)
}

fn folder(path: &str) -> Entry {
    entry(b'5', path, "", "")
}

fn symlink(path: &str, target: &str) -> Entry {
    entry(b'2', path, target, "")
}

fn hardlink(path: &str, target: &str) -> Entry {
    entry(b'1', path, target, "")
}

impl Entry {
    fn bytes(&self) -> Vec<u8> {
        let mut block = vec![0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        let size = self.size.clone().unwrap_or_else(|| format!("{:011o}", self.content.len()));
        put(0, &self.path);
        put(100, self.mode.as_bytes());
        put(108, self.owner.as_bytes());
        put(116, b"0");
        put(124, size.as_bytes());
        put(136, b"00000000007");
        put(148, b"        ");
        put(156, &[self.flag]);
        put(157, &self.target);
        put(257, self.magic);
        put(345, self.prefix);
        let sum = block.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block.extend(&self.content);
        block.resize(block.len().next_multiple_of(512), 0);
        block
    }
}

fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut bytes: Vec<u8> = entries.iter().flat_map(Entry::bytes).collect();
    bytes.extend([0; 1024]);
    bytes
}

fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in members {
        bytes.extend(format!("{name:<16}0           0     0     100644  {:<10}`\n", content.len()).into_bytes());
        bytes.extend(*content);
        if content.len() % 2 == 1 {
            bytes.push(b'\n');
        }
    }
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const CONTROL: &str = "Package: aa\nVersion: 1\nArchitecture: all\n";

fn control(name: &str) -> Vec<u8> {
    tar(&[file("./control", &CONTROL.replace("aa", name)), file("./postinst", "#!/bin/sh\ntouch /ran\n")])
}

fn deb(entries: &[Entry]) -> Vec<u8> {
    package("aa", entries)
}

fn package(name: &str, entries: &[Entry]) -> Vec<u8> {
    ar(&[("debian-binary", b"2.0\n"), ("control.tar.gz", &gzip(&control(name))), ("data.tar.gz", &gzip(&tar(entries)))])
}

/// A folder of its own, which is gone with it.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("debian-hostile-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(path.join("scratch")).unwrap();
        Self(path)
    }

    fn policy() -> Policy {
        let pattern = |text: &&str| Pattern::new(text).unwrap();
        Policy {
            suite: "bookworm".into(),
            exclude: ["usr/share/doc", "usr/share/man"].iter().map(pattern).collect(),
            keep: ["usr/share/doc/*/copyright"].iter().map(pattern).collect(),
            users: vec![User { name: "nonroot".into(), id: 65532, home: "/home/nonroot".into() }],
            modified_seconds: 5,
        }
    }

    /// Unpacks packages named `aa`, `bb` ….
    fn unpack(&self, packages: &[Vec<u8>]) -> Result<Tree, String> {
        let source = |(position, bytes): (usize, &Vec<u8>)| {
            let name = ["aa", "bb"][position].to_owned();
            let file = self.0.join(format!("{name}.deb"));
            fs::write(&file, bytes).unwrap();
            Source { name, version: "1".into(), architecture: "all".into(), file }
        };
        let sources: Vec<_> = packages.iter().enumerate().map(source).collect();
        base_tree(&sources, &Self::policy(), &self.0.join("scratch")).map_err(|error| error.to_string())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn refused(why: &str, packages: &[Vec<u8>]) {
    let place = Place::new();
    let outcome = place.unpack(packages);
    let error = outcome.err().unwrap_or_else(|| panic!("accepted, wanted: {why}"));
    assert!(error.contains(why), "wanted: {why}\ngot: {error}");
    let mut names: Vec<_> = fs::read_dir(&place.0).unwrap().map(|it| it.unwrap().file_name()).collect();
    names.retain(|name| !["aa.deb", "bb.deb", "scratch"].iter().any(|known| name == known));
    assert!(names.is_empty(), "{why}: left {names:?}");
}

fn with(path: &str, change: impl Fn(&mut Entry)) -> Vec<u8> {
    let mut changed = file(path, "x");
    change(&mut changed);
    deb(&[changed])
}

#[test]
fn entries_that_break_the_policy_are_refused() {
    let cases: &[(&str, &[Entry])] = &[
        ("`./../etc/passwd` is no path of a tree", &[file("./../etc/passwd", "x")]),
        ("`../x` is no path of a tree", &[file("../x", "x")]),
        ("`./usr/../../x` is no path of a tree", &[file("./usr/../../x", "x")]),
        ("`/etc/passwd` is no path of a tree", &[file("/etc/passwd", "x")]),
        (".//etc/passwd` is no path of a tree", &[file(".//etc/passwd", "x")]),
        ("`./usr//x` is no path of a tree", &[file("./usr//x", "x")]),
        ("`./usr/./x` is no path of a tree", &[file("./usr/./x", "x")]),
        ("is the root and no folder", &[symlink("./", "/etc")]),
        ("is the root and no folder", &[file(".", "x")]),
        ("has a control character", &[file("./usr/a\nb", "x")]),
        ("has a control character", &[file("./usr/\u{1b}[2J", "x")]),
        ("begins with `.wh.`", &[file("./usr/.wh.lib", "")]),
        (
            "has a part of more than 255 bytes",
            &[
                Entry { content: format!("./{}", "a".repeat(256)).into(), ..entry(b'L', "././@LongLink", "", "") },
                file("./a", "x"),
            ],
        ),
        ("is a character device", &[entry(b'3', "./dev/null", "", "")]),
        ("is a block device", &[entry(b'4', "./dev/sda", "", "")]),
        ("is a named pipe", &[entry(b'6', "./run/initctl", "", "")]),
        // A link, then a file through it.
        ("cannot be beside `etc`", &[symlink("./etc", "/tmp"), file("./etc/passwd", "x")]),
        ("`usr/a` stands twice in aa", &[symlink("./usr/a", ".."), folder("./usr/a/"), file("./usr/a/x", "x")]),
        ("cannot be beside `usr/a/x`", &[file("./usr/a/x", "x"), symlink("./usr/a", "/etc")]),
        ("cannot be beside `usr/a`", &[file("./usr/a", "x"), file("./usr/a/b", "x")]),
        ("links to `../../../etc/passwd`, out of the root", &[symlink("./usr/x", "../../../etc/passwd")]),
        ("links to `/../etc`, out of the root", &[symlink("./usr/x", "/../etc")]),
        ("links to `a/../../../x`, out of the root", &[symlink("./usr/x", "a/../../../x")]),
        ("its target is empty", &[symlink("./usr/x", "")]),
        ("is a link into usr/ in every base", &[symlink("./lib", "/tmp")]),
        ("is a link into usr/ in every base", &[file("./bin", "x")]),
        ("links to `etc/shadow`, no file that came before it", &[hardlink("./usr/x", "./etc/shadow")]),
        ("links to no path of a tree", &[hardlink("./usr/x", "../etc/shadow")]),
        ("links to no path of a tree", &[hardlink("./usr/x", "/etc/shadow")]),
        ("no file that came before it", &[symlink("./usr/a", "/etc/shadow"), hardlink("./usr/x", "./usr/a")]),
        ("no file that came before it", &[folder("./usr/a/"), hardlink("./usr/x", "./usr/a")]),
        ("no file that came before it", &[hardlink("./usr/x", "./usr/y"), file("./usr/y", "x")]),
        ("no file that came before it", &[file("./usr/share/man/x", "x"), hardlink("./usr/x", "./usr/share/man/x")]),
        ("`usr/x` stands twice in aa", &[file("./usr/x", "1"), file("./usr/x", "2")]),
        // One path, before and after the merge.
        ("`usr/lib/x` stands twice in aa", &[file("./usr/lib/x", "1"), file("./lib/x", "2")]),
    ];
    for (why, entries) in cases {
        refused(why, &[deb(entries)]);
    }
}

#[test]
fn what_two_packages_cannot_both_have_is_refused() {
    let shared = |mode| Entry { mode, ..folder("./usr/share/") };
    for (why, first, second) in [
        ("`usr/x` is in aa and in bb", file("./usr/x", "same"), file("./usr/x", "same")),
        ("`usr/x` is in aa and in bb", folder("./usr/x/"), file("./usr/x", "")),
        ("`usr/x` is in aa and in bb", symlink("./usr/x", "y"), folder("./usr/x")),
        ("cannot be beside `usr/x` (of aa)", symlink("./usr/x", "/etc"), file("./usr/x/passwd", "x")),
        ("links to `usr/x`, no file that came before it", file("./usr/x", "x"), hardlink("./usr/y", "./usr/x")),
        ("is a folder of mode 777, owner 0:0; in aa of mode 755", shared("755"), shared("777")),
    ] {
        refused(why, &[package("aa", &[first]), package("bb", &[second])]);
    }
}

#[test]
fn archives_that_can_be_read_in_two_ways_are_refused() {
    for (why, bytes) in [
        ("is of type `x`", with("./x", |it| it.flag = b'x')),
        ("is of type `g`", with("./x", |it| it.flag = b'g')),
        ("is of type `S`", with("./x", |it| it.flag = b'S')),
        ("is of type `7`", with("./x", |it| it.flag = b'7')),
        ("is of type `0`", with("./x/", |_| {})),
        ("is no file and has content", with("./x", |it| it.flag = b'5')),
        ("is no file and has content", with("./x", |it| (it.flag, it.target) = (b'1', b"./y".to_vec()))),
        ("is no octal number", with("./x", |it| it.size = Some("00000000009".into()))),
        ("is no octal number", with("./x", |it| it.size = Some("\u{0}1".into()))),
        ("is no octal number", with("./x", |it| it.owner = "-1")),
        ("the mode of `./x` is 10644", with("./x", |it| it.mode = "10644")),
        ("neither ustar nor GNU's", with("./x", |it| it.magic = b"ustar\x0001")),
        ("neither ustar nor GNU's", with("./x", |it| it.magic = &[0; 8])),
        ("neither ustar nor GNU's", with("./x", |it| it.prefix = b"usr/share")),
        ("is no UTF-8, or holds a NUL", with("./x", |it| it.path = b"./\xff".to_vec())),
        ("a name has 5000 bytes", with("./x", |it| (it.flag, it.content) = (b'L', vec![b'a'; 5000]))),
        ("a long name belongs to no entry", with("./x", |it| it.flag = b'L')),
        ("is no UTF-8, or holds a NUL", with("./x", |it| (it.flag, it.content) = (b'L', b"a\0b\0".to_vec()))),
        ("an entry has two long names", deb(&[entry(b'L', "x", "", "a"), entry(b'L', "x", "", "b"), file("c", "")])),
        ("has a target and is no link", deb(&[entry(b'K', "x", "", "a"), file("./c", "")])),
    ] {
        refused(why, &[bytes]);
    }
    let binary = ("debian-binary", &b"2.0\n"[..]);
    let control = control("aa");
    let members = |data: &[u8]| ar(&[binary, ("control.tar", &control), ("data.tar", data)]);
    let whole = tar(&[file("./x", "x")]);
    let mut unsummed = whole.clone();
    unsummed[0] = b'/';
    for (why, data) in [
        ("a header's checksum is wrong", unsummed),
        ("it goes on after its end", [whole.clone(), file("./y", "y").bytes()].concat()),
        ("it goes on after its end", [&whole[..whole.len() - 512], &whole[..]].concat()),
        ("it ends before its end is marked", whole[..whole.len() - 512].to_vec()),
        ("failed to fill whole buffer", whole[..whole.len() - 1024].to_vec()),
        ("failed to fill whole buffer", Vec::new()),
        ("unexpected end of file", with_size("77777777777")),
        ("cannot be read to its end", whole[..whole.len() - 1100].to_vec()),
    ] {
        refused(why, &[members(&data)]);
    }
}

/// A file that says to be larger than its archive.
fn with_size(size: &str) -> Vec<u8> {
    tar(&[Entry { size: Some(size.into()), ..file("./x", "x") }])
}

#[test]
fn packages_of_another_shape_are_refused() {
    let binary = ("debian-binary", &b"2.0\n"[..]);
    let (control, data) = (control("aa"), gzip(&tar(&[file("./x", "x")])));
    let (control, data) = (("control.tar", control.as_slice()), ("data.tar.gz", data.as_slice()));
    let whole = ar(&[binary, control, data]);
    let twice = [data.1, data.1].concat();
    let other = tar(&[file("./control", &CONTROL.replace("Version: 1", "Version: 2"))]);
    let double = tar(&[file("./control", CONTROL), file("./control", CONTROL)]);
    let linked = tar(&[symlink("./control", "/etc/passwd")]);
    let huge = tar(&[file("./control", &format!("{CONTROL}X: {}\n", "x".repeat(2 << 20)))]);
    let odd = ar(&[binary, control, data]).len();
    for (why, bytes) in [
        ("does not begin as a package does", whole[1..].to_vec()),
        ("cannot be read to its end", Vec::new()),
        ("its first member is not", ar(&[control, data])),
        ("its first member is not", ar(&[("debian-binary/", b"2.0\n"), control, data])),
        ("its format has version", ar(&[("debian-binary", b"3.0\n"), control, data])),
        ("where control.tar is due it has `data.tar.gz`", ar(&[binary, data, control])),
        ("where control.tar is due it has `_gpgorigin`", ar(&[binary, ("_gpgorigin", b"x"), control, data])),
        ("where data.tar is due it has `control.tar`", ar(&[binary, control, control, data])),
        ("where data.tar is due it has `data.tar.lzma`", ar(&[binary, control, ("data.tar.lzma", data.1)])),
        ("where data.tar is due it has `../data.tar`", ar(&[binary, control, ("../data.tar", data.1)])),
        ("it goes on after its last member", ar(&[binary, control, data, data])),
        ("it goes on after its last member", [whole.clone(), b"x".to_vec()].concat()),
        ("cannot be read to its end", whole[..odd - 9].to_vec()),
        ("cannot be read to its end", ar(&[binary, control])),
        ("data.tar.gz has bytes after its end", ar(&[binary, control, ("data.tar.gz", &twice)])),
        ("data.tar.gz has bytes after its end", ar(&[binary, control, ("data.tar.gz", &[data.1, b"\0\0"].concat())])),
        ("cannot be read to its end", ar(&[binary, control, ("data.tar.xz", data.1)])),
        ("cannot be read to its end", ar(&[binary, control, ("data.tar.gz", &[0; 64])])),
        ("its Version is `2`, pinned is `1`", ar(&[binary, ("control.tar", &other), data])),
        ("it has no control file", ar(&[binary, ("control.tar", &tar(&[file("./x", "")])), data])),
        ("or there twice", ar(&[binary, ("control.tar", &double), data])),
        ("its control file is none", ar(&[binary, ("control.tar", &linked), data])),
        ("too long", ar(&[binary, ("control.tar", &huge), data])),
        ("a member has no header", {
            let mut bytes = whole.clone();
            bytes[8 + 48] = b'-';
            bytes
        }),
    ] {
        refused(why, &[bytes]);
    }
}

#[test]
fn bombs_are_stopped_before_the_disk_is_full() {
    // A hundred mebibytes of zeros pack to a tenth of one.
    let zeros = "\0".repeat(100 << 20);
    let place = Place::new();
    let error = place.unpack(&[deb(&[file("./x", &zeros)])]).unwrap_err();
    assert!(error.contains("it unpacks to more than a package of its size may"), "{error}");
    let scratch = fs::read_dir(place.0.join("scratch")).unwrap();
    let written: u64 = scratch.map(|it| it.unwrap().metadata().unwrap().len()).sum();
    assert!(written <= 80 << 20, "{written}");
}

#[test]
fn no_part_of_a_package_is_a_package_and_no_altered_byte_is_a_crash() {
    let whole = deb(&[file("./usr/x", "some content"), symlink("./usr/y", "x")]);
    let outcome = |bytes: Vec<u8>| Place::new().unpack(&[bytes]);
    assert!(outcome(whole.clone()).is_ok());
    for length in 0..whole.len() {
        assert!(outcome(whole[..length].to_vec()).is_err(), "{length} of {} bytes", whole.len());
    }
    for at in 0..whole.len() {
        let mut altered = whole.clone();
        altered[at] ^= 1 << (at % 8);
        // Some are packages still, of another time or owner.
        let _ = outcome(altered);
    }
}

fn text(tree: &Tree, path: &str) -> String {
    match &tree.get(path).unwrap_or_else(|| panic!("no {path}")).kind {
        Kind::File(Content::Bytes(bytes)) => String::from_utf8(bytes.clone()).unwrap(),
        Kind::File(Content::File { path, size_bytes }) => {
            let text = fs::read_to_string(path).unwrap();
            assert_eq!(text.len() as u64, *size_bytes);
            text
        }
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn a_package_becomes_a_merged_tree_and_no_script_is_part_of_it() {
    let place = Place::new();
    let long = format!("./usr/share/{}", "long/".repeat(30));
    let first = package(
        "aa",
        &[
            folder("./"),
            Entry { mode: "700", ..folder("./lib/") },
            Entry { mode: "4755", owner: "7", ..file("./bin/su", "su") },
            Entry { mode: "1777", ..folder("./srv/") },
            file("./lib/z", "z"),
            hardlink("./lib/y", "./lib/z"),
            hardlink("./lib/a", "./lib/z"),
            symlink("./lib/l", "/lib/z"),
            symlink("./lib64/ld.so", "../lib/z"),
            Entry { content: format!("{long}name\0").into(), ..entry(b'L', "././@LongLink", "", "") },
            file("./usr/share/long", "long"),
            Entry { magic: b"ustar\x0000", prefix: b"./usr/share/p", ..file("name", "prefixed") },
            folder("./usr/share/doc/"),
            Entry { mode: "711", ..folder("./usr/share/doc/aa/") },
            file("./usr/share/doc/aa/README", "left out"),
            file("./usr/share/doc/aa/copyright", "kept"),
            file("./usr/share/man/x", "left out"),
            file("./usr/share/ca-certificates/mozilla/b.crt", "B"),
            file("./usr/share/ca-certificates/mozilla/Á.crt", "Á\n"),
            file("./usr/share/ca-certificates/mozilla/a.crt", "A\n"),
        ],
    );
    let second = package(
        "bb",
        &[folder("./srv"), file("./etc/nsswitch.conf", "mine")].map(|it| match it.flag {
            b'5' => Entry { mode: "1777", ..it },
            _ => it,
        }),
    );
    let tree = place.unpack(&[first, second]).unwrap();
    let mark = |path: &str| {
        let entry = tree.get(path).unwrap_or_else(|| panic!("no {path}"));
        format!("{:o} {}:{} {}", entry.mode, entry.uid, entry.gid, entry.modified_seconds)
    };
    assert_eq!((text(&tree, "usr/bin/su").as_str(), mark("usr/bin/su").as_str()), ("su", "755 7:0 7"));
    assert_eq!((mark("usr/lib").as_str(), mark("srv").as_str()), ("700 0:0 7", "1777 0:0 7"));
    assert_eq!((mark("usr/share/doc/aa").as_str(), mark("usr/share/doc").as_str()), ("711 0:0 7", "755 0:0 7"));
    assert_eq!((mark("usr/sbin").as_str(), mark("tmp").as_str()), ("755 0:0 5", "1777 0:0 5"));
    assert_eq!((mark("home/nonroot").as_str(), mark("root").as_str()), ("700 65532:65532 5", "700 0:0 5"));
    // The file is where a writer comes first.
    assert_eq!((text(&tree, "usr/lib/a").as_str(), mark("usr/lib/a").as_str()), ("z", "644 0:0 7"));
    for path in ["usr/lib/y", "usr/lib/z"] {
        let kind = format!("{:?}", tree.get(path).unwrap().kind);
        assert_eq!(kind, "Hardlink(TreePath(\"usr/lib/a\"))", "{path}");
    }
    for (path, target) in [
        ("bin", "usr/bin"),
        ("lib", "usr/lib"),
        ("sbin", "usr/sbin"),
        ("lib64", "usr/lib64"),
        ("usr/lib/l", "/lib/z"),
        ("usr/lib64/ld.so", "../lib/z"),
        ("etc/os-release", "../usr/lib/os-release"),
        ("usr/lib/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt"),
    ] {
        assert_eq!(tree.get(path).unwrap().kind, Kind::Symlink(target.into()), "{path}");
    }
    for (path, content) in [
        (&format!("{}name", &long[2..]) as &str, "long"),
        ("usr/share/p/name", "prefixed"),
        ("usr/share/doc/aa/copyright", "kept"),
        ("etc/ssl/certs/ca-certificates.crt", "A\nB\nÁ\n"),
        ("etc/nsswitch.conf", "mine"),
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532::/home/nonroot:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n",
        ),
        ("etc/group", "root:x:0:\nnonroot:x:65532:\nnogroup:x:65534:\n"),
        ("usr/lib/os-release", "NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nID=debian\n"),
        ("var/lib/dpkg/status.d/aa", "Package: aa\nVersion: 1\nArchitecture: all\nStatus: install ok installed\n"),
    ] {
        assert_eq!(text(&tree, path), content, "{path}");
    }
    let gone = ["lib32", "usr/share/man", "usr/share/doc/aa/README", "postinst", "ran", "etc/ld.so.cache"];
    assert!(gone.iter().all(|path| tree.get(path).is_none()));
}

/// A tar of `./usr/x` with the content `x`, as xz packs it.
const XZ: &str = "fd377a585a000004e6d6b4460200210116000000742fe5a3e007ff003e5d00170bcb2789f2ed46d847103b086497b288d0673cdcf9b5273064b1891a865437bfde8a33ab1a5a9488b9f75515d4a14cc91c77a4bd3a2d5658ebbcec2c00000000cc7cf47f068126de00015a80100000004118bf8fb1c467fb020000000004595a";

#[test]
fn a_package_is_read_in_every_compression_and_nothing_may_follow() {
    let plain = tar(&[file("./usr/x", "x")]);
    let xz = (0..XZ.len()).step_by(2).map(|at| u8::from_str_radix(&XZ[at..at + 2], 16).unwrap()).collect();
    let zstd = ruzstd::encoding::compress_to_vec(plain.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
    for (ending, packed) in [("", plain.clone()), (".gz", gzip(&plain)), (".xz", xz), (".zst", zstd)] {
        let name = format!("data.tar{ending}");
        let deb = |data: &[u8]| ar(&[("debian-binary", b"2.0\n"), ("control.tar", &control("aa")), (&name, data)]);
        let place = Place::new();
        assert_eq!(text(&place.unpack(&[deb(&packed)]).unwrap(), "usr/x"), "x", "{name}");
        let twice = [packed.as_slice(), &packed].concat();
        let refusal = if ending.is_empty() { "it goes on after its end" } else { "has bytes after its end" };
        refused(refusal, &[deb(&twice)]);
        refused(
            "cannot be read to its end",
            &[deb(&packed[..packed.len() / 2 - 300 * usize::from(ending.is_empty())])],
        );
    }
}

#[test]
fn users_that_passwd_cannot_hold_are_refused() {
    let place = Place::new();
    for (name, id, home) in [
        ("a:b", 1, "/x"),
        ("", 1, "/x"),
        ("-a", 1, "/x"),
        ("aa", 1, "relative"),
        ("aa", 1, "/x:y"),
        ("aa", 1, "/x\ny"),
        ("aa", 1, "/../x"),
        ("root", 1, "/x"),
        ("aa", 0, "/x"),
        ("aa", 65534, "/x"),
        ("bb", 1, "/x"),
        ("aa", 2, "/x"),
    ] {
        let user = |name: &str, id, home: &str| User { name: name.into(), id, home: home.into() };
        let users = vec![user(name, id, home), user("bb", 2, "/bb")];
        let policy = Policy { users, ..Place::policy() };
        assert!(base_tree(&[], &policy, &place.0).is_err(), "{name:?} {id} {home:?}");
    }
}
