//! The tar archives inside packages, as dpkg-deb writes them.
//!
//! Owns: one meaning for each archive. Never: guess; what two readers could take differently is refused: PAX headers (dpkg refuses
//! them too), base-256 numbers, sparse files, sizes of what has no content, bytes after the end.
//! Source: tar(5), "GNU tar Archives" and "POSIX ustar Archives".

use std::io::{self, Read};

const BLOCK_BYTES: usize = 512;
/// PATH_MAX, with the NUL that ends it.
const MAX_NAME_BYTES: u64 = 4097;

#[derive(Debug, PartialEq, Eq)]
pub struct Header {
    /// As written: `./usr/bin/`.
    pub path: String,
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified_seconds: i64,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    File {
        size_bytes: u64,
    },
    Hardlink(String),
    Symlink(String),
    Directory,
    /// A device or a pipe: which one.
    Special(&'static str),
}

/// Why an archive is not read further.
#[derive(Debug)]
pub enum Problem {
    Malformed(String),
    Unreadable(io::Error),
}

impl From<io::Error> for Problem {
    fn from(cause: io::Error) -> Self {
        Self::Unreadable(cause)
    }
}

fn malformed<T>(why: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Malformed(why.into()))
}

/// Entries one after another; what is not read of a content is passed over.
pub struct Archive<R> {
    input: R,
    /// Of the current entry's content.
    left_bytes: u64,
    /// Zeros after the content.
    padding_bytes: u64,
}

impl<R: Read> Archive<R> {
    pub fn new(input: R) -> Self {
        Self { input, left_bytes: 0, padding_bytes: 0 }
    }

    /// `None` after the end, which is two blocks of zeros and then zeros alone.
    pub fn next(&mut self) -> Result<Option<Header>, Problem> {
        let (mut long_path, mut long_target) = (None, None);
        loop {
            self.skip()?;
            let mut block = [0; BLOCK_BYTES];
            self.input.read_exact(&mut block)?;
            if block == [0; BLOCK_BYTES] {
                if long_path.is_some() || long_target.is_some() {
                    return malformed("a long name belongs to no entry");
                }
                return self.end().map(|()| None);
            }
            let raw = Raw::read(&block)?;
            self.left_bytes = raw.size_bytes;
            self.padding_bytes = raw.size_bytes.next_multiple_of(BLOCK_BYTES as u64) - raw.size_bytes;
            let long = match raw.flag {
                b'L' => &mut long_path,
                b'K' => &mut long_target,
                _ => return raw.header(long_path, long_target).map(Some),
            };
            if long.is_some() {
                return malformed("an entry has two long names");
            }
            if raw.size_bytes > MAX_NAME_BYTES {
                return malformed(format!("a name has {} bytes", raw.size_bytes));
            }
            let mut name = Vec::new();
            self.read_to_end(&mut name)?;
            *long = Some(text(name.strip_suffix(b"\0").unwrap_or(&name))?);
        }
    }

    fn skip(&mut self) -> io::Result<()> {
        let skipped = self.left_bytes + self.padding_bytes;
        (self.left_bytes, self.padding_bytes) = (0, 0);
        match io::copy(&mut self.input.by_ref().take(skipped), &mut io::sink())? {
            bytes if bytes == skipped => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// After the first block of zeros.
    fn end(&mut self) -> Result<(), Problem> {
        let (mut buffer, mut zeros) = ([0; BLOCK_BYTES], 0);
        loop {
            match self.input.read(&mut buffer)? {
                0 if zeros >= BLOCK_BYTES => return Ok(()),
                0 => return malformed("it ends before its end is marked"),
                length if buffer[..length].iter().any(|byte| *byte != 0) => {
                    return malformed("it goes on after its end");
                }
                length => zeros += length,
            }
        }
    }
}

/// The content of the current entry.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        match self.input.read(&mut buffer[..wanted])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => {
                self.left_bytes -= length as u64;
                Ok(length)
            }
        }
    }
}

/// The fields of one block.
struct Raw {
    path: String,
    target: String,
    flag: u8,
    mode: u64,
    uid: u64,
    gid: u64,
    size_bytes: u64,
    modified_seconds: u64,
}

impl Raw {
    fn read(block: &[u8; BLOCK_BYTES]) -> Result<Self, Problem> {
        // The checksum is of the block with blanks in its own place.
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) })
            .sum();
        if number(&block[148..156])? != sum {
            return malformed("a header's checksum is wrong");
        }
        let mut path = text(until_nul(&block[..100]))?;
        match &block[257..265] {
            b"ustar\x0000" => {
                let prefix = text(until_nul(&block[345..500]))?;
                if !prefix.is_empty() {
                    path = format!("{prefix}/{path}");
                }
            }
            // Here stand times and parts of sparse files, which dpkg-deb never writes.
            b"ustar  \0" if block[345..].iter().all(|byte| *byte == 0) => {}
            _ => return malformed("a header is neither ustar nor GNU's"),
        }
        Ok(Self {
            path,
            target: text(until_nul(&block[157..257]))?,
            flag: block[156],
            mode: number(&block[100..108])?,
            uid: number(&block[108..116])?,
            gid: number(&block[116..124])?,
            size_bytes: number(&block[124..136])?,
            modified_seconds: number(&block[136..148])?,
        })
    }

    fn header(self, long_path: Option<String>, long_target: Option<String>) -> Result<Header, Problem> {
        let path = long_path.unwrap_or(self.path);
        let linked = matches!(self.flag, b'1' | b'2');
        let target = match long_target {
            Some(_) if !linked => return malformed(format!("`{}` has a target and is no link", path.escape_debug())),
            Some(target) => target,
            None => self.target,
        };
        let kind = match self.flag {
            b'0' | 0 if !path.ends_with('/') => Kind::File { size_bytes: self.size_bytes },
            b'1' => Kind::Hardlink(target),
            b'2' => Kind::Symlink(target),
            b'3' => Kind::Special("character device"),
            b'4' => Kind::Special("block device"),
            b'5' => Kind::Directory,
            b'6' => Kind::Special("named pipe"),
            flag => {
                let flag = char::from(flag).escape_debug();
                return malformed(format!("`{}` is of type `{flag}`, which no package has", path.escape_debug()));
            }
        };
        if self.size_bytes > 0 && !matches!(kind, Kind::File { .. }) {
            return malformed(format!("`{}` is no file and has content", path.escape_debug()));
        }
        let bits = |value: u64, name: &str| {
            let why = || Problem::Malformed(format!("the {name} of `{}` is {value:o}", path.escape_debug()));
            u32::try_from(value).map_err(|_| why())
        };
        let mode = bits(self.mode, "mode")?;
        if mode & !0o7777 != 0 {
            return malformed(format!("the mode of `{}` is {mode:o}", path.escape_debug()));
        }
        let (uid, gid) = (bits(self.uid, "owner")?, bits(self.gid, "group")?);
        let modified_seconds = i64::try_from(self.modified_seconds).unwrap_or(i64::MAX);
        Ok(Header { path, kind, mode, uid, gid, modified_seconds })
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn text(bytes: &[u8]) -> Result<String, Problem> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => malformed(format!("the name `{}` is no UTF-8, or holds a NUL", bytes.escape_ascii())),
    }
}

/// Octal digits, ended by blanks or NULs; blanks may stand before them.
fn number(field: &[u8]) -> Result<u64, Problem> {
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|byte| matches!(byte, b' ' | 0)).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    let value = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let value = if digits.is_empty() { Some(0) } else { value.and_then(|text| u64::from_str_radix(text, 8).ok()) };
    match value {
        Some(value) if rest.iter().all(|byte| matches!(byte, b' ' | 0)) => Ok(value),
        _ => malformed(format!("`{}` in a header is no octal number", field.escape_ascii())),
    }
}
