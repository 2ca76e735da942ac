//! The tar format, as far as layers and archives of images use it: what we write, and the one meaning of what we read.
//!
//! We write ustar, and a PAX header where a value does not fit; never a prefix field, a GNU extension, a user's name, an
//! access time. Each choice is fixed: another one would be another diff id.
//! Owns: header blocks and PAX records, both ways. Never: know whiteouts or trees; guess where readers differ.
//! Rules: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Tar Internals".

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

pub const BLOCK: usize = 512;
/// Beyond these a value goes into a PAX record and its field says 0: eleven and seven octal digits.
const MAX_OCTAL_11: u64 = 0o777_7777_7777;
const MAX_OCTAL_7: u64 = 0o777_7777;
const NAME_BYTES: usize = 100;

/// The entry types that we write and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    File,
    Hardlink,
    Symlink,
    Directory,
}

impl Type {
    fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::Hardlink => b'1',
            Self::Symlink => b'2',
            Self::Directory => b'5',
        }
    }
}

/// One entry's header, PAX included.
pub struct Header<'a> {
    pub kind: Type,
    /// A folder's without the `/` at its end.
    pub path: &'a str,
    pub link: &'a str,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size_bytes: u64,
    pub modified_seconds: i64,
    /// Sorted by name, so that they are always written in one order.
    pub xattrs: Vec<(&'a str, &'a [u8])>,
}

impl Header<'_> {
    pub fn write(&self, output: &mut impl Write) -> io::Result<()> {
        let path = if self.kind == Type::Directory { format!("{}/", self.path) } else { self.path.to_owned() };
        let mut records = Vec::new();
        let fits = |text: &str| text.len() <= NAME_BYTES && text.is_ascii();
        let mut number = |key: &str, value: u64, max: u64| {
            if value > max {
                record(&mut records, key, value.to_string().as_bytes());
            }
            if value > max { 0 } else { value }
        };
        let size_bytes = number("size", self.size_bytes, MAX_OCTAL_11);
        let uid = number("uid", self.uid.into(), MAX_OCTAL_7);
        let gid = number("gid", self.gid.into(), MAX_OCTAL_7);
        let modified = u64::try_from(self.modified_seconds).ok().filter(|seconds| *seconds <= MAX_OCTAL_11);
        if modified.is_none() {
            record(&mut records, "mtime", self.modified_seconds.to_string().as_bytes());
        }
        for (key, text) in [("path", path.as_str()), ("linkpath", self.link)] {
            if !fits(text) {
                record(&mut records, key, text.as_bytes());
            }
        }
        for (name, value) in &self.xattrs {
            record(&mut records, &format!("SCHILY.xattr.{name}"), value);
        }
        if !records.is_empty() {
            let length = records.len() as u64;
            output.write_all(&block(b'x', "PaxHeader", "", [0o644, 0, 0, length, 0]))?;
            output.write_all(&records)?;
            pad(length, output)?;
        }
        let numbers = [self.mode.into(), uid, gid, size_bytes, modified.unwrap_or(0)];
        output.write_all(&block(self.kind.flag(), &path, self.link, numbers))
    }
}

/// Zeros up to the next block.
pub fn pad(size_bytes: u64, output: &mut impl Write) -> io::Result<()> {
    output.write_all(&[0; BLOCK][..padding(size_bytes)])
}

/// The two empty blocks behind the last entry.
pub fn end(output: &mut impl Write) -> io::Result<()> {
    output.write_all(&[0; 2 * BLOCK])
}

fn padding(size_bytes: u64) -> usize {
    (size_bytes.next_multiple_of(BLOCK as u64) - size_bytes) as usize
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// `numbers`: mode, uid, gid, size, time of modification. Texts are cut where a PAX record holds them whole.
fn block(flag: u8, path: &str, link: &str, numbers: [u64; 5]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let ascii =
        |text: &str| text.bytes().map(|byte| if byte.is_ascii() { byte } else { b'_' }).take(NAME_BYTES).collect();
    let (path, link): (Vec<u8>, Vec<u8>) = (ascii(path), ascii(link));
    let [mode, uid, gid, size_bytes, modified] = numbers;
    put(0, &path);
    put(100, format!("{mode:07o}\0{uid:07o}\0{gid:07o}\0{size_bytes:011o}\0{modified:011o}\0        ").as_bytes());
    put(156, &[flag]);
    put(157, &link);
    put(257, b"ustar\x0000");
    put(329, b"0000000\x000000000\0");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// A header block of somebody else, its fields as they stand there.
pub struct Block {
    pub flag: u8,
    pub path: String,
    pub link: String,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub size_bytes: u64,
    pub modified_seconds: u64,
}

impl Block {
    /// `None` for an empty block.
    /// # Errors: why common readers would not agree about it.
    pub fn parse(block: &[u8; BLOCK]) -> Result<Option<Self>, String> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        // Old tars summed signed bytes, and some readers still try that.
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        let stated: u64 = block[148..156].iter().map(|byte| u64::from(*byte)).sum();
        if number("checksum", &block[148..156], false)? != sum - stated + 8 * u64::from(b' ') {
            return Err("its header does not have its checksum".into());
        }
        // A version of its own makes Go read a format without prefix, and GNU tar one with it.
        let gnu = match &block[257..265] {
            b"ustar\x0000" => false,
            b"ustar  \0" => true,
            _ => return Err("its format is neither ustar nor GNU".into()),
        };
        // Python reads a prefix there, GNU tar times and a sparse map, star times.
        if block[if gnu { 345 } else { 500 }..].iter().any(|byte| *byte != 0) {
            return Err("its header uses an extension that readers disagree about".into());
        }
        for (name, field) in [("major device", &block[329..337]), ("minor device", &block[337..345])] {
            if field.iter().any(|byte| !matches!(byte, 0 | b' ')) {
                number(name, field, gnu)?;
            }
        }
        let name = text("name", &block[..NAME_BYTES])?;
        let prefix = if gnu { "" } else { text("prefix", &block[345..500])? };
        Ok(Some(Self {
            flag: block[156],
            path: if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") },
            link: text("link", &block[157..257])?.to_owned(),
            mode: (number("mode", &block[100..108], gnu)? & 0o7777) as u32,
            uid: number("uid", &block[108..116], gnu)?,
            gid: number("gid", &block[116..124], gnu)?,
            size_bytes: number("size", &block[124..136], gnu)?,
            modified_seconds: number("time", &block[136..148], gnu)?,
        }))
    }

    /// Whether `size_bytes` stands in a PAX record since the field cannot hold it.
    pub fn leaves_size_to(&self, size_bytes: u64) -> bool {
        size_bytes > MAX_OCTAL_11 && matches!(self.size_bytes, 0 | MAX_OCTAL_11)
    }
}

/// Text up to the first NUL.
fn text<'a>(name: &str, field: &'a [u8]) -> Result<&'a str, String> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    std::str::from_utf8(&field[..end]).map_err(|_| format!("its {name} is not UTF-8"))
}

/// Octal digits between spaces and NULs; with GNU's magic also its binary form. Nothing else that one of the readers takes:
/// Python `1_0` and `+7`, Go a number cut by a NUL, GNU tar a base-64 one.
fn number(name: &str, field: &[u8], gnu: bool) -> Result<u64, String> {
    let refuse = || format!("its {name} is not a plain number");
    if gnu && field[0] == 0x80 {
        let value = field[1..].iter().try_fold(0_u64, |value, byte| Some(value.checked_mul(256)? + u64::from(*byte)));
        return value.filter(|value| i64::try_from(*value).is_ok()).ok_or_else(refuse);
    }
    let start = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
    let digits = field[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = field[start..].split_at(digits);
    if digits.is_empty() || rest.iter().any(|byte| !matches!(byte, 0 | b' ')) || digits.iter().any(|it| *it > b'7') {
        return Err(refuse());
    }
    Ok(digits.iter().fold(0, |value, digit| value * 8 + u64::from(digit - b'0')))
}

/// What a PAX header says about the entry behind it.
#[derive(Default)]
pub struct Pax {
    pub path: Option<String>,
    pub link: Option<String>,
    pub size_bytes: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub modified_seconds: Option<i64>,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

impl Pax {
    /// `global`: of a header for all entries, which may hold a comment and nothing else.
    /// # Errors: why common readers would not agree about it.
    pub fn parse(mut records: &[u8], global: bool) -> Result<Self, String> {
        let mut pax = Self::default();
        let mut keys = BTreeSet::new();
        while !records.is_empty() {
            let (key, value, rest) = next_record(records).ok_or("its PAX header is malformed")?;
            records = rest;
            let shown = key.escape_debug();
            if !keys.insert(key) {
                return Err(format!("its PAX header has `{shown}` twice"));
            }
            // What stands empty takes a value back for some readers and is an empty value for others.
            if value.is_empty() {
                return Err(format!("its PAX header has `{shown}` without a value"));
            }
            if global && key != "comment" {
                return Err(format!("a PAX header for all entries has `{shown}`"));
            }
            let text = || match std::str::from_utf8(value) {
                Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
                _ => Err(format!("its PAX header has a `{shown}` that is no text")),
            };
            let digits = || {
                let text = text()?;
                let plain = text.bytes().all(|byte| byte.is_ascii_digit());
                let value = text.parse().ok().filter(|value: &u64| plain && i64::try_from(*value).is_ok());
                value.ok_or_else(|| format!("its PAX header has a `{shown}` that is no plain number"))
            };
            let time = || time(&text()?).ok_or_else(|| format!("its PAX header has a `{shown}` that is no time"));
            match key {
                "path" => pax.path = Some(text()?),
                "linkpath" => pax.link = Some(text()?),
                "size" => pax.size_bytes = Some(digits()?),
                "uid" => pax.uid = Some(digits()?),
                "gid" => pax.gid = Some(digits()?),
                "mtime" => pax.modified_seconds = Some(time()?),
                "atime" | "ctime" => drop(time()?),
                "uname" | "gname" | "comment" => drop(text()?),
                "hdrcharset" | "charset" if value == b"ISO-IR 10646 2000 UTF-8" => {}
                "SCHILY.realsize" => return Err("it is a sparse file".into()),
                key if key.starts_with("GNU.") => return Err(format!("its PAX header has `{shown}`")),
                key => match key.strip_prefix("SCHILY.xattr.") {
                    Some(name) => drop(pax.xattrs.insert(name.to_owned(), value.to_owned())),
                    // A vendor's, which changes nothing for the others.
                    None if key.contains('.') => {}
                    None => return Err(format!("its PAX header has `{shown}`, which nobody defined")),
                },
            }
        }
        Ok(pax)
    }
}

/// Key, value and what follows.
fn next_record(records: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ').filter(|length| (1..=7).contains(length))?;
    let digits = &records[..space];
    if digits[0] == b'0' || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let record = record.strip_suffix(b"\n")?.get(space + 1..)?;
    let equals = record.iter().position(|byte| *byte == b'=').filter(|equals| *equals > 0)?;
    let key = std::str::from_utf8(&record[..equals]).ok().filter(|key| !key.contains(['\0', '\n', ' ']))?;
    Some((key, &record[equals + 1..], rest))
}

/// Whole seconds, rounded down.
fn time(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let plain = |text: &str| text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits.is_empty() || !plain(digits) || !plain(fraction) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let below = whole.starts_with('-') && fraction.bytes().any(|digit| digit != b'0');
    Some(seconds - i64::from(below))
}
