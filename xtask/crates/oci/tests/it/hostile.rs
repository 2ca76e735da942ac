//! Archives made to harm, each refused for its own reason; and that the reason is not that everything is refused.

use crate::tars::{Part, directory, file, gnu, hardlink, long, open_ended, part, pax, symlink, tar};
use crate::{Folder, installed, run};
use oci::read::{LayerReader, Limits, ReadError, Reader};
use oci::{Descriptor, Digest, Entry, Kind, TreePath};
use std::io::{self, Write};
use std::process::Command;

type Entries = Vec<(TreePath, Entry<u64>)>;

fn limits() -> Limits {
    Limits { unpacked_bytes: 1 << 20, ratio: 200, entries: 64, names_bytes: 64 << 10, depth: 16 }
}

fn read(bytes: &[u8]) -> Result<Entries, ReadError> {
    let mut reader = Reader::new(bytes, limits());
    let mut entries = Vec::new();
    while let Some((path, entry)) = reader.next()? {
        if let Kind::File(size_bytes) = entry.kind {
            assert_eq!(io::copy(&mut reader, &mut io::sink())?, size_bytes);
        }
        entries.push((path, entry));
    }
    Ok(entries)
}

/// Name, archive, and what the refusal says.
type Case = (&'static str, Vec<u8>, &'static str);

fn paths() -> Vec<Case> {
    let escapes = "walks through `.` or `..`";
    let long_part = "x".repeat(256);
    let long_path = "ab/".repeat(1400) + "c";
    let deep = "d/".repeat(20) + "f";
    let ok = || file("ok", b"x");
    vec![
        ("above the root", tar(&[file("../evil", b"x")]), escapes),
        ("above the root after a folder", tar(&[file("a/../../evil", b"x")]), escapes),
        ("above the root and back", tar(&[file("a/../b", b"x")]), escapes),
        ("dots at the end", tar(&[directory("a/..")]), escapes),
        ("a dot in the middle", tar(&[file("a/./b", b"x")]), escapes),
        ("two dots after a dot", tar(&[file("./../evil", b"x")]), escapes),
        ("the parent as a folder", tar(&[directory("../")]), escapes),
        ("absolute", tar(&[file("/etc/passwd", b"x")]), "absolute"),
        ("absolute behind a dot", tar(&[file(".//etc/passwd", b"x")]), "absolute"),
        ("the root by its own name", tar(&[directory("/")]), "empty"),
        ("an empty part", tar(&[file("a//b", b"x")]), "empty part"),
        ("no name", tar(&[file("", b"x")]), "empty"),
        ("a name that is not UTF-8", tar(&[file("", b"x").with(0, b"a\xff")]), "not UTF-8"),
        ("a file that ends as a folder", tar(&[file("a/", b"x")]), "empty part"),
        ("an old file that ends as a folder", tar(&[part(0, "a/")]), "empty part"),
        ("a folder with two slashes", tar(&[directory("a//")]), "empty part"),
        ("a part too long", tar(&[pax(&[("path", &long_part)]), ok()]), "more than 255 bytes"),
        ("a path too long", tar(&[pax(&[("path", &long_path)]), ok()]), "longer than 4096 bytes"),
        ("a path too deep", tar(&[file(&deep, b"x")]), "parts in a path"),
        ("above the root by PAX", tar(&[pax(&[("path", "../evil")]), ok()]), escapes),
        ("absolute by PAX", tar(&[pax(&[("path", "/evil")]), ok()]), "absolute"),
        ("above the root by GNU's long name", tar(&[long(b'L', "../evil"), gnu(ok())]), escapes),
        ("above the root by the prefix", tar(&[ok().with(345, b"..")]), escapes),
        ("absolute by the prefix", tar(&[ok().with(345, b"/etc")]), "absolute"),
        ("a NUL in a PAX path", tar(&[pax(&[("path", "a\0b")]), ok()]), "no text"),
        ("a NUL in a long name", tar(&[long(b'L', "a\0b"), gnu(ok())]), "no text"),
    ]
}

fn links() -> Vec<Case> {
    let no_file = "links to no file before it";
    vec![
        (
            "a file through a link",
            tar(&[symlink("a", "/etc"), file("a/passwd", b"x")]),
            "on the way to it is no folder",
        ),
        ("a file through links in a row", tar(&[symlink("a", "b"), symlink("b", "/"), file("a/x", b"")]), "no folder"),
        ("a folder through a link", tar(&[symlink("a", ".."), directory("a/b/")]), "no folder"),
        ("a removal through a link", tar(&[symlink("a", "/etc"), file("a/.wh.passwd", b"")]), "no folder"),
        ("an opaque folder that is a link", tar(&[symlink("a", "/etc"), file("a/.wh..wh..opq", b"")]), "none"),
        ("a folder's place taken by a link", tar(&[file("a/b", b"x"), symlink("a", "/etc")]), "are below it"),
        ("a link's place taken by a folder", tar(&[symlink("a", "/etc"), directory("a/")]), "twice"),
        ("a link's place taken by a file", tar(&[symlink("a", "/etc/passwd"), file("a", b"x")]), "twice"),
        ("a file below a file", tar(&[file("a", b"x"), file("a/b", b"x")]), "no folder"),
        ("a hard link above the root", tar(&[hardlink("a", "../../etc/passwd")]), "`..`"),
        ("a hard link to an absolute path", tar(&[hardlink("a", "/etc/passwd")]), "absolute"),
        ("a hard link to nothing", tar(&[hardlink("a", "b")]), no_file),
        ("a hard link to itself", tar(&[hardlink("a", "a")]), no_file),
        ("a hard link to what comes later", tar(&[hardlink("a", "b"), file("b", b"x")]), no_file),
        ("a hard link to a folder", tar(&[directory("d/"), hardlink("a", "d")]), no_file),
        ("a hard link through a link", tar(&[symlink("s", "/etc"), hardlink("a", "s/passwd")]), no_file),
        ("a hard link to a removal", tar(&[file(".wh.b", b""), hardlink("a", "b")]), no_file),
        ("a hard link without a target", tar(&[hardlink("a", "")]), "empty"),
        ("a link without a target", tar(&[symlink("a", "")]), "empty"),
        ("a link with a NUL in PAX", tar(&[pax(&[("linkpath", "a\0b")]), symlink("a", "b")]), "no text"),
        ("a file with a target", tar(&[file("a", b"x").with(157, b"/etc/passwd")]), "only links have a target"),
        ("a PAX hard link above the root", tar(&[pax(&[("linkpath", "../b")]), hardlink("a", "b")]), "`..`"),
        ("a GNU hard link above the root", tar(&[long(b'K', "../b"), gnu(hardlink("a", "b"))]), "`..`"),
    ]
}

fn kinds() -> Vec<Case> {
    vec![
        ("a character device", tar(&[part(b'3', "dev/null")]), "device"),
        ("a block device", tar(&[part(b'4', "dev/sda")]), "device"),
        ("a pipe", tar(&[part(b'6', "pipe")]), "pipe"),
        ("a contiguous file", tar(&[part(b'7', "a")]), "type is `7`"),
        ("a sparse file of GNU", tar(&[gnu(part(b'S', "a"))]), "type is `S`"),
        ("a multi-volume part", tar(&[gnu(part(b'M', "a"))]), "type is `M`"),
        ("a dump folder", tar(&[gnu(part(b'D', "a"))]), "type is `D`"),
        ("a volume name", tar(&[gnu(part(b'V', "a"))]), "type is `V`"),
        ("a type that nobody knows", tar(&[part(b'Z', "a")]), "type is `Z`"),
        ("a device as a removal", tar(&[part(b'3', ".wh.a")]), "no empty file"),
        ("a removal with content", tar(&[file(".wh.a", b"x")]), "no empty file"),
        ("a removal that is a link", tar(&[symlink(".wh.a", "b")]), "no empty file"),
        ("a removal of the parent", tar(&[file("a/.wh...", b"")]), "`..`"),
        ("a removal of nothing", tar(&[file("a/.wh.", b"")]), "empty part"),
        ("a removal of the folder", tar(&[file("a/.wh..", b"")]), "`.`"),
        ("everything below the root hidden", tar(&[file(".wh..wh..opq", b"")]), "empty"),
        ("a file of aufs", tar(&[file(".wh..wh.aufs", b"")]), "marks removals"),
        ("something below a removal", tar(&[directory(".wh.a/")]), "no empty file"),
        ("something below a removed name", tar(&[file(".wh.a/b", b"x")]), "marks removals"),
        ("removed and there", tar(&[file("a", b"x"), file(".wh.a", b"")]), "twice"),
        ("there and removed", tar(&[file(".wh.a", b""), file("a", b"x")]), "twice"),
        ("the same file twice", tar(&[file("a", b"x"), file("a", b"y")]), "twice"),
        ("the same file with a dot", tar(&[file("a", b"x"), file("./a", b"y")]), "twice"),
        ("a folder becomes a file", tar(&[directory("a/"), file("a", b"y")]), "twice"),
    ]
}

/// What two readers would take for different archives.
fn meanings() -> Vec<Case> {
    let hidden = tar(&[file("hidden", b"x")]);
    let size = hidden.len().to_string();
    let f = || file("a", b"x");
    let plain = "not a plain number";
    let global = |records: &[(&str, &str)]| pax(records).with(156, b"g");
    let records = |text: &str| part(b'x', "PaxHeader").holding(text.as_bytes());
    vec![
        // CVE-2025-62518: the archive inside is content for one reader and entries for another.
        ("PAX says more than ustar", tar(&[pax(&[("size", &size)]), file("a", b""), file("b", b"")]), "in one header"),
        ("PAX says nothing, ustar something", tar(&[pax(&[("size", "0")]), f().holding(&hidden)]), "in one header"),
        ("PAX says less than ustar", tar(&[pax(&[("size", "1")]), f().holding(b"xyz")]), "in one header"),
        ("a PAX size for a folder", tar(&[pax(&[("size", "512")]), directory("a/")]), "in one header"),
        ("a folder with a size", tar(&[directory("a/").holding(b"x")]), "only files have a size"),
        ("a link with a size", tar(&[symlink("a", "b").holding(b"x")]), "only files have a size"),
        ("a hard link with content", tar(&[f(), hardlink("b", "a").holding(b"x")]), "only files have a size"),
        ("a PAX size twice", tar(&[pax(&[("size", "1"), ("size", "2")]), f()]), "twice"),
        ("a PAX path twice", tar(&[pax(&[("path", "a"), ("path", "b")]), f()]), "twice"),
        ("a PAX path without a value", tar(&[pax(&[("path", "")]), f()]), "without a value"),
        ("a PAX size with a sign", tar(&[pax(&[("size", "+1")]), f()]), plain_pax()),
        ("a PAX size below zero", tar(&[pax(&[("size", "-1")]), f()]), plain_pax()),
        ("a PAX size in octal style", tar(&[pax(&[("size", "0x1")]), f()]), plain_pax()),
        ("a PAX size beyond 63 bits", tar(&[pax(&[("size", "9223372036854775808")]), f()]), plain_pax()),
        ("a PAX size for all entries", tar(&[global(&[("size", "9")]), f()]), "for all entries"),
        ("a PAX path for all entries", tar(&[global(&[("path", "b")]), f()]), "for all entries"),
        ("a sparse file by PAX", tar(&[pax(&[("GNU.sparse.realsize", "9")]), f()]), "GNU.sparse"),
        ("a sparse name by PAX", tar(&[pax(&[("GNU.sparse.name", "/etc/passwd")]), f()]), "GNU.sparse"),
        ("a sparse file of star", tar(&[pax(&[("SCHILY.realsize", "9")]), f()]), "sparse"),
        ("another character set", tar(&[pax(&[("hdrcharset", "BINARY")]), f()]), "nobody defined"),
        ("a keyword that nobody knows", tar(&[pax(&[("Path", "b")]), f()]), "nobody defined"),
        ("a PAX time that is none", tar(&[pax(&[("mtime", "1e9")]), f()]), "no time"),
        ("a PAX time that is infinite", tar(&[pax(&[("mtime", "inf")]), f()]), "no time"),
        ("a PAX user beyond 32 bits", tar(&[pax(&[("uid", "4294967296")]), f()]), "no user"),
        ("a PAX record too long", tar(&[records("99 path=b\n"), f()]), "malformed"),
        ("a PAX record too short", tar(&[records("7 path=b\n"), f()]), "malformed"),
        ("a PAX length with a zero before it", tar(&[records("010 path=b\n"), f()]), "malformed"),
        ("a PAX length that is no number", tar(&[records("+9 path=b\n"), f()]), "malformed"),
        ("a PAX length beyond everything", tar(&[records("99999999999999999999 path=b\n"), f()]), "malformed"),
        ("a PAX record without a line end", tar(&[records("9 path=bb"), f()]), "malformed"),
        ("a PAX record without a key", tar(&[records("5 =b\n"), f()]), "malformed"),
        ("a PAX record in another one", tar(&[records("11 a\n9 b=c\n"), f()]), "malformed"),
        ("two PAX headers for an entry", tar(&[pax(&[("path", "b")]), pax(&[("path", "c")]), f()]), "contradict"),
        ("PAX and a long name", tar(&[pax(&[("path", "b")]), long(b'L', "c"), gnu(f())]), "contradict"),
        ("a long name and PAX", tar(&[long(b'L', "c"), pax(&[("path", "b")]), f()]), "contradict"),
        ("two long names", tar(&[long(b'L', "b"), long(b'L', "c"), gnu(f())]), "contradict"),
        ("a PAX header at the end", tar(&[f(), pax(&[("path", "b")])]), "none behind it"),
        ("a long name at the end", tar(&[f(), long(b'L', "b")]), "none behind it"),
        ("a PAX header of a megabyte", tar(&[pax(&[("comment", &"x".repeat(1 << 20))]), f()]), "bytes of a header"),
        ("a header without its checksum", tar(&[f().with(148, b"000000\0 ").unsummed()]), "checksum"),
        ("a checksum of signed bytes", tar(&[signed(file("\u{e4}", b"x"))]), "checksum"),
        ("the format of 1979", tar(&[f().with(257, &[0; 8])]), "neither ustar nor GNU"),
        ("another version of ustar", tar(&[f().with(263, b"99")]), "neither ustar nor GNU"),
        ("times where Python reads a prefix", tar(&[gnu(f()).with(345, b"00000000001")]), "extension"),
        ("star's times", tar(&[f().with(508, b"tar\0")]), "extension"),
        ("an empty size", tar(&[f().sized(&[0; 12])]), plain),
        ("a size of spaces", tar(&[f().sized(b"            ")]), plain),
        ("a size that Python reads as 8", tar(&[f().sized(b"0000000001_0")]), plain),
        ("a size with an eight", tar(&[f().sized(b"00000000008\0")]), plain),
        ("a size cut by a NUL", tar(&[f().sized(b"0000001\x000007")]), plain),
        ("a size below zero", tar(&[f().sized(b"-0000000001\0")]), plain),
        ("a size below zero in binary", tar(&[gnu(f()).sized(&[0xff; 12])]), plain),
        ("a binary size in ustar", tar(&[f().sized(b"\x80\0\0\0\0\0\0\0\0\0\0\x01")]), plain),
        (
            "a binary size beyond 63 bits",
            tar(&[gnu(f()).sized(b"\x80\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff")]),
            plain,
        ),
        ("a binary size with high bits", tar(&[gnu(f()).sized(b"\x81\0\0\0\0\0\0\0\0\0\0\x01")]), plain),
        ("a device number that Go cannot read", tar(&[f().with(329, b"x")]), plain),
    ]
}

fn plain_pax() -> &'static str {
    "no plain number"
}

/// Summed as signed bytes, which GNU tar, Go and Python accept.
fn signed(part: Part) -> Part {
    let mut header = part.header;
    header[148..156].fill(b' ');
    let sum: i32 = header.iter().map(|byte| i32::from(byte.cast_signed())).sum();
    part.with(148, format!("{sum:06o}\0 ").as_bytes()).unsummed()
}

fn bounds_and_ends() -> Vec<Case> {
    let two = [file("a", b"x"), file("b", b"y")];
    let many: Vec<Part> = (0..65).map(|i| file(&i.to_string(), b"")).collect();
    let folders: Vec<Part> = (0..65).map(|_| directory("d/")).collect();
    let long_path = ["x".repeat(200).as_str(); 15].join("/");
    let names: Vec<Part> =
        (0..25).flat_map(|i| [pax(&[("path", &format!("{i}{long_path}"))]), file("a", b"")]).collect();
    let xattrs = pax(&[("SCHILY.xattr.user.a", &"x".repeat(70_000))]);
    let behind = |bytes: &[u8]| [tar(&two).as_slice(), bytes].concat();
    let cut = |bytes: Vec<u8>, length: usize| bytes[..length].to_vec();
    let lone = [open_ended(&two[..1]).as_slice(), &[0; 512], &open_ended(&two[1..]), &[0; 1024]].concat();
    vec![
        ("too many entries", tar(&many), "more entries"),
        ("one folder too often", tar(&folders), "more entries"),
        ("too many bytes of names", tar(&names), "more bytes of names"),
        ("too many bytes of attributes", tar(&[xattrs, file("a", b"")]), "more bytes of names"),
        ("nothing", Vec::new(), "ends within a header"),
        ("an end after half a header", cut(tar(&two), 700), "ends within"),
        ("an end within content", cut(tar(&[file("a", &[1; 2000])]), 1000), "ends within its content"),
        (
            "an end within a PAX header",
            cut(tar(&[pax(&[("path", "b")]), file("a", b"x")]), 700),
            "ends within a header",
        ),
        ("an end after one empty block", [open_ended(&two).as_slice(), &[0; 512]].concat(), "one empty block"),
        ("entries behind one empty block", lone, "behind the end"),
        ("entries behind the end", behind(&tar(&[file("c", b"z")])), "behind the end"),
        ("a byte behind the end", behind(&[[0; 600].as_slice(), b"x"].concat()), "behind the end"),
        ("a size beyond the archive", tar(&[file("a", b"x").sized(b"77777777777\0")]), "ends within its content"),
        ("a long name beyond everything", tar(&[long(b'L', "a").sized(b"77777777777\0")]), "bytes of a header"),
    ]
}

fn all() -> Vec<Case> {
    [paths(), links(), kinds(), meanings(), bounds_and_ends()].concat()
}

#[test]
fn every_hostile_archive_is_refused_for_its_own_reason() {
    let cases = all();
    assert!(cases.len() >= 130, "{}", cases.len());
    let mut wrong = Vec::new();
    for (name, bytes, reason) in cases {
        match read(&bytes) {
            Err(error) if error.to_string().contains(reason) => {}
            Err(error) => wrong.push(format!("{name}: not `{reason}`: {error}")),
            Ok(entries) => wrong.push(format!("{name}: accepted: {entries:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn listing(bytes: &[u8]) -> Vec<String> {
    read(bytes).unwrap_or_else(|error| panic!("{error}")).iter().map(shown).collect()
}

/// Type, path, size, target: what every reader can be asked for.
fn shown((path, entry): &(TreePath, Entry<u64>)) -> String {
    let path = path.as_str();
    match &entry.kind {
        Kind::Directory => format!("d {path} 0"),
        Kind::File(size_bytes) => format!("f {path} {size_bytes}"),
        Kind::Symlink(target) => format!("l {path} 0 {target}"),
        Kind::Hardlink(target) => format!("h {path} 0 {}", target.as_str()),
        Kind::Whiteout => format!("gone {path}"),
        Kind::OpaqueWhiteout => format!("opaque {path}"),
    }
}

/// Every form that well-behaved writers use.
fn sound() -> Vec<u8> {
    let long_name = format!("{}/f", "long".repeat(30));
    let prefixed = file("f", b"12345").with(345, b"usr/share/prefix");
    let big_user = gnu(file("user", b"")).with(108, &[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]);
    tar(&[
        pax(&[("comment", "a commit")]).with(156, b"g"),
        directory("./"),
        directory("./usr/"),
        directory("usr/"),
        file("./usr/a", &[7; 1025]),
        hardlink("usr/b", "./usr/a"),
        symlink("usr/c", "../../etc"),
        part(0, "old"),
        prefixed,
        pax(&[("path", "usr/\u{fc}\u{4e2d}"), ("mtime", "1700000000.123456789"), ("SCHILY.xattr.user.a", "b=c\nd")]),
        file("usr/_", b"x"),
        pax(&[("size", "2")]),
        file("sized", b"xy"),
        long(b'L', &long_name),
        gnu(file("long", b"z")),
        long(b'K', &long_name),
        gnu(hardlink("k", "long")),
        big_user,
        pax(&[("LIBARCHIVE.creationtime", "1"), ("mtime", "-1.5")]),
        file("before 1970", b""),
    ])
}

#[test]
fn archives_of_well_behaved_writers_are_read() {
    let long_name = format!("{}/f", "long".repeat(30));
    let expected = [
        "d usr 0",
        "d usr 0",
        "f usr/a 1025",
        "h usr/b 0 usr/a",
        "l usr/c 0 ../../etc",
        "f old 0",
        "f usr/share/prefix/f 5",
        "f usr/\u{fc}\u{4e2d} 1",
        "f sized 2",
        &format!("f {long_name} 1"),
        &format!("h k 0 {long_name}"),
        "f user 0",
        "f before 1970 0",
    ];
    assert_eq!(listing(&sound()), expected);
    let entries = read(&sound()).unwrap();
    let entry = |path: &str| entries.iter().find(|(it, _)| it.as_str() == path).unwrap().1.clone();
    assert_eq!(entry("usr/\u{fc}\u{4e2d}").xattrs, [("user.a".to_owned(), b"b=c\nd".to_vec())].into());
    assert_eq!(entry("usr/\u{fc}\u{4e2d}").modified_seconds, 1_700_000_000);
    assert_eq!((entry("user").uid, entry("before 1970").modified_seconds), (0x7fff_ffff, -2));
    // A second name of a link is a link; an end without its empty blocks is one; a removal has the path that it removes.
    let links = [symlink("s", "/x"), hardlink("t", "s"), file("d/.wh.gone", b""), file("d/.wh..wh..opq", b"")];
    assert_eq!(listing(&open_ended(&links)), ["l s 0 /x", "l t 0 /x", "gone d/gone", "opaque d"]);
}

/// Prints for each archive named on standard input what Python makes of it, or `refused`.
const PYTHON: &str = r#"
import sys, tarfile
for path in sys.stdin.read().split():
    try:
        # GNU tar and Go report what Python's iteration passes over in silence: so does errorlevel 2 with a full read.
        archive = tarfile.open(path, errorlevel=2)
        names = []
        for it in archive:
            kind = {b"0": "f", b"\0": "f", b"1": "h", b"2": "l", b"5": "d"}.get(it.type, "?")
            name = it.name.removeprefix("./").rstrip("/")
            if name in ("", "."):
                continue
            size = it.size if kind == "f" else 0
            names.append(f"{kind} {name} {size}" + (f" {it.linkname.removeprefix('./') if kind == 'h' else it.linkname}" if kind in "hl" else ""))
        print("|".join(names))
    except Exception as error:
        print("refused:", error)
"#;

const GO: &str = r#"package main

import ("archive/tar"; "bufio"; "fmt"; "io"; "os"; "strings")

func list(path string) string {
	file, err := os.Open(path)
	if err != nil { return err.Error() }
	defer file.Close()
	reader, names := tar.NewReader(file), []string{}
	for {
		header, err := reader.Next()
		if err == io.EOF { return strings.Join(names, "|") }
		if err != nil { return "refused: " + err.Error() }
		if header.Typeflag == 'g' { continue }
		kind := map[byte]string{'0': "f", '1': "h", '2': "l", '5': "d"}[header.Typeflag]
		name := strings.TrimRight(strings.TrimPrefix(header.Name, "./"), "/")
		if name == "" || name == "." { continue }
		size := header.Size
		line := fmt.Sprintf("%s %s %d", kind, name, size)
		switch kind {
		case "h": line += " " + strings.TrimPrefix(header.Linkname, "./")
		case "l": line += " " + header.Linkname
		}
		names = append(names, line)
	}
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() { fmt.Println(list(lines.Text())) }
}
"#;

/// Names and types as GNU tar lists them; `None` where it complains.
fn gnu_listing(path: &std::path::Path) -> Option<Vec<String>> {
    let mut tar = Command::new("tar");
    let output = tar.args(["--list", "--verbose", "--numeric-owner", "--quoting-style=literal", "--file"]).arg(path);
    let output = output.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("LC_ALL", "C.UTF-8");
    let output = output.output().unwrap();
    if !output.status.success() {
        return None;
    }
    let mut names = Vec::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        // `-rw-r--r-- 0/0 1025 1970-01-01 00:00 usr/a`, with any number of spaces before the size.
        let mut rest = line;
        let mut field = || {
            let (field, after) = rest.trim_start().split_once(' ')?;
            rest = after;
            Some(field)
        };
        let (modes, _, size, ..) = (field()?, field()?, field()?, field()?, field()?);
        let (kind, joint) = match modes.as_bytes()[0] {
            b'-' => ("f", None),
            b'h' => ("h", Some(" link to ")),
            b'l' => ("l", Some(" -> ")),
            b'd' => ("d", None),
            _ => ("?", None),
        };
        let (name, target) = match joint {
            Some(joint) => rest.split_once(joint)?,
            None => (rest, ""),
        };
        let name = name.strip_prefix("./").unwrap_or(name).trim_end_matches('/');
        let target = if kind == "h" { target.strip_prefix("./").unwrap_or(target) } else { target };
        let size = if kind == "f" { size } else { "0" };
        if !name.is_empty() {
            names.push(format!("{kind} {name} {size} {target}").trim_end().to_owned());
        }
    }
    Some(names)
}

/// What is not refused is the same archive for GNU tar, Go and Python: 10,000 archives with bytes changed where it matters,
/// checksums made to fit.
#[test]
fn what_is_accepted_has_the_same_entries_for_gnu_tar_go_and_python() {
    if !(installed("tar") && installed("python3") && installed("go")) {
        return;
    }
    const MUTANTS: usize = 10_000;
    let folder = Folder::new();
    let seed = sound();
    let headers: Vec<usize> =
        (0..seed.len()).step_by(512).filter(|at| seed[at + 257..].starts_with(b"ustar")).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    // Bytes that mean something to some reader.
    let bytes = b"\0 /.0123457789xgLKSV=\n-+_\x80\xffaA";
    let mut accepted = Vec::new();
    for _ in 0..MUTANTS {
        let mut mutant = seed.clone();
        for _ in 0..=random(2) {
            let header = headers[random(headers.len())];
            // In the header, or in the records and names that stand behind it.
            let described = if b"xgLK".contains(&seed[header + 156]) { 640 } else { 512 };
            let at = header + random(described);
            mutant[at] = bytes[random(bytes.len())];
            let mut block: [u8; 512] = mutant[header..header + 512].try_into().unwrap();
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            mutant[header + 148..header + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let Ok(entries) = read(&mutant) else { continue };
        // A line a name is all that the listings can tell apart.
        let telling = |text: &str| !text.contains(['|', '\n', '\r', ' ', '\\']) && !text.chars().any(char::is_control);
        let plain = |(path, entry): &(TreePath, Entry<u64>)| {
            let path = path.as_str().replace("before 1970", "");
            telling(&path) && !matches!(&entry.kind, Kind::Symlink(target) if !telling(target))
        };
        if mutant != seed && entries.iter().all(plain) {
            accepted.push((mutant, entries.iter().map(shown).collect::<Vec<_>>()));
        }
    }
    assert!(accepted.len() > MUTANTS / 50, "{} accepted are too few to tell", accepted.len());
    let files: Vec<_> =
        accepted.iter().enumerate().map(|(i, (mutant, _))| folder.file(&format!("{i}.tar"), mutant)).collect();
    let names = files.iter().map(|file| format!("{}\n", file.display())).collect::<String>();
    let names = folder.file("names", names.as_bytes());
    let asked = |command: &mut Command| {
        let output = run(command.stdin(std::fs::File::open(&names).unwrap()));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let python = asked(Command::new("python3").args(["-I", "-X", "utf8", "-c", PYTHON]));
    let source = folder.file("list.go", GO.as_bytes());
    let go = asked(Command::new("go").env("GO111MODULE", "off").arg("run").arg(source));
    assert_eq!((python.len(), go.len()), (files.len(), files.len()));
    let mut wrong = Vec::new();
    for (((file, (_, ours)), python), go) in files.iter().zip(&accepted).zip(python).zip(go) {
        let ours = ours.join("|");
        // A process each: GNU tar is asked about every eighth.
        let gnu = match file.file_stem().unwrap().to_str().unwrap().parse::<usize>().unwrap() % 8 {
            0 => gnu_listing(file).map_or("refused".to_owned(), |names| names.join("|")),
            _ => ours.clone(),
        };
        for (reader, theirs) in [("Python", python), ("Go", go), ("GNU tar", gnu)] {
            if theirs != ours {
                wrong.push(format!("{reader}: {theirs}\n     ours: {ours}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), files.len(), wrong[..wrong.len().min(5)].join("\n"));
    eprintln!("{MUTANTS} mutants, {} accepted, all alike", files.len());
}

fn described(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64)
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstandard(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

fn layer(media_type: &str, packed: &[u8], diff_id: Digest, limits: Limits) -> Result<u64, ReadError> {
    LayerReader::new(packed, &described(media_type, packed), diff_id, limits)?.finish().map(|taken| taken.entries)
}

#[test]
fn layers_in_every_codec_are_read_to_their_end_whatever_their_members_and_frames() {
    let tar = sound();
    let diff_id = Digest::of(&tar);
    let entries = layer(TAR, &tar, diff_id, limits()).unwrap();
    let (first, second) = tar.split_at(3000);
    let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    let packed = [
        (GZIP, gzipped(&tar)),
        (GZIP, [gzipped(first), gzipped(second)].concat()),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", gzipped(&tar)),
        (ZSTD, zstandard(&tar)),
        (ZSTD, [skipped.to_vec(), zstandard(first), zstandard(second), skipped.to_vec()].concat()),
    ];
    for (media_type, packed) in packed {
        assert_eq!(layer(media_type, &packed, diff_id, limits()).unwrap(), entries, "{media_type}");
    }
}

#[test]
fn layers_that_are_not_what_was_vouched_for_are_refused() {
    let tar = tar(&[file("a", b"x")]);
    let (diff_id, gzip, zstd) = (Digest::of(&tar), gzipped(&tar), zstandard(&tar));
    let refused = |media_type: &str, packed: &[u8], descriptor: Descriptor, diff_id| {
        let descriptor = Descriptor { media_type: media_type.into(), ..descriptor };
        let read = LayerReader::new(packed, &descriptor, diff_id, limits()).and_then(LayerReader::finish);
        let error = read.map(|taken| taken.entries).unwrap_err();
        let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
        format!("{error}{cause}")
    };
    let sized = |size| Descriptor { size, ..described(GZIP, &gzip) };
    let length = gzip.len() as u64;
    let flipped = |at: usize| {
        let mut bytes = gzip.clone();
        bytes[at] ^= 1;
        bytes
    };
    let cases = [
        ("a layer that is longer", refused(GZIP, &gzip, sized(length - 1), diff_id), "size of the layer"),
        ("a layer that is shorter", refused(GZIP, &gzip, sized(length + 1), diff_id), "size of the layer"),
        ("another layer", refused(GZIP, &gzip, Descriptor::new("", diff_id, length), diff_id), "digest of the layer"),
        ("another tar", refused(GZIP, &gzip, sized(length), Digest::of(b"")), "digest of the unpacked layer"),
        ("a flipped checksum", refused(GZIP, &flipped(gzip.len() - 5), sized(length), diff_id), "cannot be read"),
        ("a flipped time", refused(GZIP, &flipped(4), sized(length), diff_id), "digest of the layer"),
        ("cut gzip", refused(GZIP, &gzip[..30], described(GZIP, &gzip[..30]), diff_id), "cannot be read"),
        ("cut zstd", refused(ZSTD, &zstd[..30], described(ZSTD, &zstd[..30]), diff_id), "cannot be read"),
        ("gzip called zstd", refused(ZSTD, &gzip, described(ZSTD, &gzip), diff_id), "cannot be read"),
        ("zstd called gzip", refused(GZIP, &zstd, described(GZIP, &zstd), diff_id), "cannot be read"),
        ("gzip called tar", refused(TAR, &gzip, described(TAR, &gzip), diff_id), "is refused"),
        ("no layer", refused("text/html", &gzip, described("", &gzip), diff_id), "no media type of a layer"),
        (
            "garbage behind gzip",
            {
                let bytes = [gzip.as_slice(), b"garbage that no reader should pass over"].concat();
                refused(GZIP, &bytes, described(GZIP, &bytes), diff_id)
            },
            "cannot be read",
        ),
        (
            "zeros behind gzip",
            {
                let bytes = [gzip.as_slice(), &[0; 100]].concat();
                refused(GZIP, &bytes, described(GZIP, &bytes), diff_id)
            },
            "cannot be read",
        ),
        (
            "garbage behind zstd",
            {
                let bytes = [zstd.as_slice(), b"garbage"].concat();
                refused(ZSTD, &bytes, described(ZSTD, &bytes), diff_id)
            },
            "cannot be read",
        ),
    ];
    let wrong: Vec<_> = cases.into_iter().filter(|(_, error, reason)| !error.contains(reason)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn flipped_bytes_of_packed_layers_cause_no_panic_and_no_other_tar() {
    let tar = sound();
    let (diff_id, limits) = (Digest::of(&tar), Limits { unpacked_bytes: 64 << 20, ..limits() });
    for (media_type, packed) in [(GZIP, gzipped(&tar)), (ZSTD, zstandard(&tar))] {
        let mut accepted = 0;
        for at in 0..packed.len() {
            for bit in 0..8 {
                let mut flipped = packed.clone();
                flipped[at] ^= 1 << bit;
                accepted += usize::from(layer(media_type, &flipped, diff_id, limits.clone()).is_ok());
            }
        }
        // What is accepted has the same tar: the flip met a time in gzip's header, a window's size or a checksum of zstd.
        assert!(accepted < packed.len(), "{media_type}: {accepted} of {} flips", 8 * packed.len());
    }
}

#[test]
fn bombs_are_left_at_their_bound() {
    let zeros = tar(&[file("zeros", &vec![0; 64 << 20])]);
    let diff_id = Digest::of(&zeros);
    let wide = Limits { unpacked_bytes: 1 << 30, ..limits() };
    let bound = |media_type, packed: &[u8], limits| match layer(media_type, packed, diff_id, limits) {
        Err(ReadError::Bound { what, .. }) => what,
        other => panic!("{media_type}: {other:?}"),
    };
    let gzip = gzipped(&zeros);
    assert_eq!(bound(GZIP, &gzip, wide.clone()), "unpacked bytes for each packed one");
    assert_eq!(bound(ZSTD, &zstandard(&zeros), wide.clone()), "unpacked bytes for each packed one");
    assert_eq!(bound(GZIP, &gzip, limits()), "unpacked bytes");
    assert_eq!(bound(TAR, &zeros, limits()), "unpacked bytes");
    // A bomb hidden where nothing is read: behind the end of the archive.
    let behind = gzipped(&[tar(&[file("a", b"x")]), vec![0; 64 << 20]].concat());
    assert_eq!(bound(GZIP, &behind, wide), "unpacked bytes for each packed one");
}
