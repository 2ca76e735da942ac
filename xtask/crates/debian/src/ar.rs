//! The outer archive of a package: `debian-binary`, `control.tar*`, `data.tar*`, in this order and nothing else.
//!
//! Owns: where each member begins and ends. Never: read a member's own format.
//! Source: deb(5), "FORMAT". Stricter than dpkg: members of other names (`_gpgorigin`) are refused, as no package of an archive has
//! them, and a reader that skips them must agree with ours on which.

use crate::compression::{Compression, Decoder};
use crate::error::{Error, Result};
use std::io::{Read, Take};

const MAGIC: &[u8] = b"!<arch>\n";
const HEADER_BYTES: usize = 60;

/// A package as it is read, from its first byte to its last.
pub struct Deb<R> {
    /// The package, for messages.
    subject: String,
    input: R,
}

impl<R: Read> Deb<R> {
    /// Reads up to the first archive.
    ///
    /// # Errors: Malformed.
    pub fn new(subject: &str, input: R) -> Result<Self> {
        let mut deb = Self { subject: subject.to_owned(), input };
        let mut magic = [0; MAGIC.len()];
        deb.exact(&mut magic)?;
        if magic != MAGIC {
            return Err(deb.malformed("it does not begin as a package does"));
        }
        let (name, size_bytes) = deb.header()?;
        let mut version = [0; 4];
        if name != "debian-binary" || size_bytes != version.len() as u64 {
            return Err(deb.malformed("its first member is not `debian-binary` of four bytes"));
        }
        deb.exact(&mut version)?;
        if &version != b"2.0\n" {
            let why = format!("its format has version {:?}, read here is 2.0", String::from_utf8_lossy(&version));
            return Err(deb.malformed(&why));
        }
        Ok(deb)
    }

    /// The next member, which must be `name` with the ending of a compression; `read` takes in all that it unpacks to.
    ///
    /// # Errors: Malformed, and those of `read`.
    pub fn archive<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Decoder<Take<&mut R>>, u64) -> Result<T>,
    ) -> Result<T> {
        let (found, size_bytes) = self.header()?;
        let compression = found.strip_prefix(name).and_then(Compression::of_ending);
        let Some(compression) = compression else {
            return Err(self.malformed(&format!("where {name} is due it has `{}`", found.escape_debug())));
        };
        let decoder = Decoder::new(compression, self.input.by_ref().take(size_bytes));
        let mut decoder = decoder.map_err(|cause| unreadable(&self.subject, &cause))?;
        let outcome = read(&mut decoder, size_bytes)?;
        let ended = decoder.ended();
        if !ended.map_err(|cause| unreadable(&self.subject, &cause))? {
            return Err(self.malformed(&format!("{found} has bytes after its end")));
        }
        if size_bytes % 2 == 1 {
            let mut pad = [0];
            self.exact(&mut pad)?;
            if pad != *b"\n" {
                return Err(self.malformed(&format!("{found} is not padded by a line feed")));
            }
        }
        Ok(outcome)
    }

    /// # Errors: Malformed where there is another member or any other byte.
    pub fn end(mut self) -> Result<()> {
        match self.input.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.malformed("it goes on after its last member")),
            Err(cause) => Err(unreadable(&self.subject, &cause)),
        }
    }

    /// Name and size of the next member.
    fn header(&mut self) -> Result<(String, u64)> {
        let mut header = [0; HEADER_BYTES];
        self.exact(&mut header)?;
        let text = std::str::from_utf8(&header).ok().filter(|text| text.is_ascii() && text.ends_with("`\n"));
        let field = |range: std::ops::Range<usize>| text.map(|text| text[range].trim_end_matches(' '));
        let size = field(48..58).filter(|size| !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_digit()));
        match (field(0..16), size.and_then(|size| size.parse().ok())) {
            (Some(name), Some(size_bytes)) => Ok((name.to_owned(), size_bytes)),
            _ => Err(self.malformed("a member has no header that can be read")),
        }
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.input.read_exact(buffer).map_err(|cause| unreadable(&self.subject, &cause))
    }

    fn malformed(&self, why: &str) -> Error {
        Error::malformed(&self.subject, why)
    }
}

fn unreadable(subject: &str, cause: &std::io::Error) -> Error {
    Error::malformed(subject, format!("it cannot be read to its end: {cause}"))
}
