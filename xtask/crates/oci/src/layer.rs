//! A tree becomes a layer: tar, compressed, hashed on both sides of the compression, in one pass.
//!
//! Owns: order, compression and what is recorded about it. Never: hold more than a buffer of a file; let a thread, a clock,
//! a processor or how a content is stored decide a byte.
//! Rules: OCI image specification, layer.md; docs/decisions/0012-layer-codecs.md for the codecs.

use crate::digest::{Digest, Hashing};
use crate::image::{Descriptor, media_type};
use crate::tar::{self, Header, Type};
use crate::tree::{Content, Entry, Kind, Tree, TreeError, TreePath, WHITEOUT_PREFIX};
use flate2::{Compression, GzBuilder, write::GzEncoder};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::str::FromStr;

/// What hides everything that lower layers have in the folder in which it stands.
pub(crate) const OPAQUE: &str = ".wh..wh..opq";
/// An encoder is fed in pieces of one size, since where a piece ends may move where it looks for a match.
const PIECE_BYTES: usize = 128 * 1024;

/// How a layer is compressed. Its text, `gzip-6`, belongs into the key of whatever is made with it, with [`Self::encoder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not compressed.
    Tar,
    /// Level 1 to 9.
    Gzip(u32),
    /// Level 1 to 19. Written where the feature `zstd` is on; named and read everywhere.
    Zstd(i32),
}

impl Default for Codec {
    fn default() -> Self {
        Self::Gzip(6)
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tar => write!(f, "tar"),
            Self::Gzip(level) => write!(f, "gzip-{level}"),
            Self::Zstd(level) => write!(f, "zstd-{level}"),
        }
    }
}

/// The text of no codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct NotACodec;

impl FromStr for Codec {
    type Err = NotACodec;

    fn from_str(text: &str) -> Result<Self, NotACodec> {
        let (name, level) = text.split_once('-').map_or((text, None), |(name, level)| (name, Some(level)));
        // As it is written again: neither a sign nor a zero in front.
        let level = level.map(|level| level.parse::<u32>().ok().filter(|number| number.to_string() == level));
        let codec = match (name, level) {
            ("tar", None) => Self::Tar,
            ("gzip", Some(Some(level))) => Self::Gzip(level),
            ("zstd", Some(Some(level))) => Self::Zstd(i32::try_from(level).map_err(|_| NotACodec)?),
            _ => return Err(NotACodec),
        };
        if codec.has_level() { Ok(codec) } else { Err(NotACodec) }
    }
}

impl Codec {
    fn has_level(self) -> bool {
        match self {
            Self::Tar => true,
            Self::Gzip(level) => (1..=9).contains(&level),
            Self::Zstd(level) => (1..=19).contains(&level),
        }
    }

    /// Who compresses: another version may give other bytes for the same tar.
    pub fn encoder(self) -> &'static str {
        match self {
            Self::Tar => "none",
            Self::Gzip(_) => "zlib-rs 0.6.8",
            Self::Zstd(_) => "zstd-sys 2.1.3+zstd.1.5.7",
        }
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Tar => media_type::LAYER,
            Self::Gzip(_) => media_type::LAYER_GZIP,
            Self::Zstd(_) => media_type::LAYER_ZSTD,
        }
    }
}

/// A layer that was written; what a cache keeps of it beside its blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Digest and size of what was written, and its media type.
    pub descriptor: Descriptor,
    /// Digest of the tar before compression: the layer's identity in the image's configuration.
    pub diff_id: Digest,
}

/// Why a layer was not written; what came out so far is worth nothing.
#[derive(Debug)]
#[must_use]
pub enum LayerError {
    /// The tree is no layer.
    Tree(TreeError),
    /// A folder has entries and no entry of its own: see [`Tree::add_parents`].
    Undeclared { path: TreePath },
    /// A content could not be read.
    Content { path: TreePath, file: PathBuf, cause: io::Error },
    /// A file of this machine is not as long as the tree says.
    Changed { path: TreePath, file: PathBuf, expected_bytes: u64 },
    /// The output did not take what it was given.
    Output(io::Error),
}

impl fmt::Display for LayerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tree(error) => write!(f, "{error}"),
            Self::Undeclared { path } => {
                write!(f, "folder `{path}` is not declared, so engines would disagree about it")
            }
            Self::Content { path, file, .. } => write!(f, "cannot read {} for `{path}`", file.display()),
            Self::Changed { path, file, expected_bytes } => {
                write!(f, "{} for `{path}` is not the {expected_bytes} bytes that it was", file.display())
            }
            Self::Output(_) => write!(f, "cannot write the layer"),
        }
    }
}

impl std::error::Error for LayerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Content { cause, .. } | Self::Output(cause) => Some(cause),
            _ => None,
        }
    }
}

/// Writes `tree` as one layer. The output is flushed, not synced.
/// # Errors: every variant of [`LayerError`].
pub fn write<W: Write>(tree: &Tree, codec: Codec, output: W) -> Result<Layer, LayerError> {
    let names = Names::of(tree).map_err(LayerError::Tree)?;
    let encoder = Encoder::new(codec, Hashing::new(output)).map_err(LayerError::Output)?;
    let mut tar = Pieces { full: Vec::with_capacity(PIECE_BYTES), into: Hashing::new(encoder) };
    for (path, entry) in tree.iter() {
        if let Some(parent) = path.parent()
            && tree.get(parent.as_str()).is_none()
        {
            return Err(LayerError::Undeclared { path: parent });
        }
        write_entry(tree, &names, path, entry, &mut tar)?;
    }
    let finish = || -> io::Result<Layer> {
        tar::end(&mut tar)?;
        tar.into.write_all(&tar.full)?;
        let (encoder, diff_id, _) = tar.into.finish();
        let (mut output, digest, size) = encoder.finish()?.finish();
        output.flush()?;
        let descriptor = Descriptor::new(codec.media_type(), digest, size);
        Ok(Layer { descriptor, diff_id })
    };
    finish().map_err(LayerError::Output)
}

/// Compresses a tar as [`write`] would have.
/// # Errors: of either side, and for a codec that is not linked.
pub fn compress(codec: Codec, mut tar: impl Read, output: impl Write) -> io::Result<()> {
    let mut pieces = Pieces { full: Vec::with_capacity(PIECE_BYTES), into: Encoder::new(codec, output)? };
    io::copy(&mut tar, &mut pieces)?;
    pieces.into.write_all(&pieces.full)?;
    pieces.into.finish()?.flush()
}

fn write_entry(
    tree: &Tree,
    names: &Names,
    path: &TreePath,
    entry: &Entry,
    tar: &mut impl Write,
) -> Result<(), LayerError> {
    let output = LayerError::Output;
    // Of all names of a file, the first one in the tree's order has the content; a reader must have it before the others.
    let (kind, link, shown) = match &entry.kind {
        Kind::Directory | Kind::OpaqueWhiteout => (Type::Directory, "", entry),
        Kind::Symlink(target) => (Type::Symlink, target.as_str(), entry),
        Kind::Whiteout => {
            let folder = path.parent().map_or(String::new(), |parent| format!("{}/", parent.as_str()));
            let marker = format!("{folder}{WHITEOUT_PREFIX}{}", path.name());
            return write_marker(&marker, entry.modified_seconds, tar).map_err(output);
        }
        Kind::File(_) | Kind::Hardlink(_) => {
            let file = names.file(path);
            let shown = tree.get(file.as_str()).unwrap_or(entry);
            match names.first(file) {
                first if first == path => (Type::File, "", shown),
                first => (Type::Hardlink, first.as_str(), shown),
            }
        }
    };
    let content = match &shown.kind {
        Kind::File(content) if kind == Type::File => Some(content),
        _ => None,
    };
    let size_bytes = content.map_or(0, Content::size_bytes);
    let header = Header {
        kind,
        path: path.as_str(),
        link,
        mode: if kind == Type::Symlink { 0o777 } else { shown.mode },
        uid: shown.uid,
        gid: shown.gid,
        size_bytes,
        modified_seconds: shown.modified_seconds,
        xattrs: match kind {
            Type::Hardlink => Vec::new(),
            _ => shown.xattrs.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect(),
        },
    };
    header.write(tar).map_err(output)?;
    match content {
        None => {}
        Some(Content::Bytes(bytes)) => tar.write_all(bytes).map_err(output)?,
        Some(Content::File { path: file, size_bytes }) => copy(path, file, *size_bytes, tar)?,
    }
    tar::pad(size_bytes, tar).map_err(output)?;
    if entry.kind == Kind::OpaqueWhiteout {
        write_marker(&format!("{}/{OPAQUE}", path.as_str()), entry.modified_seconds, tar).map_err(output)?;
    }
    Ok(())
}

/// An empty file whose name says that something is gone.
fn write_marker(path: &str, modified_seconds: i64, tar: &mut impl Write) -> io::Result<()> {
    let (kind, link, mode, uid, gid, size_bytes) = (Type::File, "", 0o644, 0, 0, 0);
    Header { kind, path, link, mode, uid, gid, size_bytes, modified_seconds, xattrs: Vec::new() }.write(tar)
}

/// Exactly the size that the header says, whatever the file has become.
fn copy(path: &TreePath, file: &PathBuf, expected_bytes: u64, tar: &mut impl Write) -> Result<(), LayerError> {
    let unreadable = |cause| LayerError::Content { path: path.clone(), file: file.clone(), cause };
    let mut reader = File::open(file).map_err(unreadable)?;
    // Most files are small; a byte more notices one that has grown.
    let mut buffer = vec![0; usize::try_from(expected_bytes).unwrap_or(PIECE_BYTES).min(PIECE_BYTES - 1) + 1];
    let mut left = expected_bytes;
    loop {
        let length = match reader.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            length => length.map_err(unreadable)?,
        };
        if length as u64 > left || (length == 0 && left > 0) {
            return Err(LayerError::Changed { path: path.clone(), file: file.clone(), expected_bytes });
        }
        if length == 0 {
            return Ok(());
        }
        tar.write_all(&buffer[..length]).map_err(LayerError::Output)?;
        left -= length as u64;
    }
}

/// Which names a file has.
struct Names<'a> {
    /// Hard link → the file that it is a name of, through other links too.
    files: BTreeMap<&'a TreePath, &'a TreePath>,
    /// File with links → the first of all its names.
    firsts: BTreeMap<&'a TreePath, &'a TreePath>,
}

impl<'a> Names<'a> {
    /// # Errors: Dangling, also for links that lead in a circle.
    fn of(tree: &'a Tree) -> Result<Self, TreeError> {
        let (mut files, mut firsts) = (BTreeMap::new(), BTreeMap::new());
        for (path, entry) in tree.iter() {
            let Kind::Hardlink(first_target) = &entry.kind else { continue };
            let dangling = || TreeError::Dangling { path: path.clone(), target: first_target.clone() };
            let mut target = first_target;
            // A chain has fewer links than the tree has entries, or is a circle.
            let mut steps = 0..tree.len();
            let file = loop {
                match tree.get(target.as_str()).map(|entry| &entry.kind) {
                    Some(Kind::File(_)) => break target,
                    Some(Kind::Hardlink(next)) if steps.next().is_some() => target = next,
                    _ => return Err(dangling()),
                }
            };
            files.insert(path, file);
            let first = firsts.entry(file).or_insert(file);
            *first = path.min(*first);
        }
        Ok(Self { files, firsts })
    }

    fn file<'b>(&self, path: &'b TreePath) -> &'b TreePath
    where
        'a: 'b,
    {
        self.files.get(path).copied().unwrap_or(path)
    }

    fn first<'b>(&self, file: &'b TreePath) -> &'b TreePath
    where
        'a: 'b,
    {
        self.firsts.get(file).copied().unwrap_or(file)
    }
}

/// Passes on whole pieces only.
struct Pieces<W> {
    full: Vec<u8>,
    into: W,
}

impl<W: Write> Write for Pieces<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(PIECE_BYTES - self.full.len());
        self.full.extend_from_slice(&bytes[..length]);
        if self.full.len() == PIECE_BYTES {
            self.into.write_all(&self.full)?;
            self.full.clear();
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Encoder<W: Write> {
    Tar(W),
    Gzip(Box<GzEncoder<W>>),
    #[cfg(feature = "zstd")]
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    fn new(codec: Codec, output: W) -> io::Result<Self> {
        if !codec.has_level() {
            return Err(io::Error::other(format!("{codec} has no such level")));
        }
        Ok(match codec {
            Codec::Tar => Self::Tar(output),
            Codec::Gzip(number) => {
                // Neither a time nor a system in the header.
                let header = GzBuilder::new().mtime(0).operating_system(255);
                Self::Gzip(Box::new(header.write(output, Compression::new(number))))
            }
            #[cfg(feature = "zstd")]
            Codec::Zstd(number) => Self::Zstd(zstd::Encoder::new(output, number)?),
            #[cfg(not(feature = "zstd"))]
            Codec::Zstd(_) => return Err(io::Error::new(io::ErrorKind::Unsupported, "libzstd is not linked here")),
        })
    }

    fn finish(self) -> io::Result<W> {
        match self {
            Self::Tar(output) => Ok(output),
            Self::Gzip(encoder) => encoder.finish(),
            #[cfg(feature = "zstd")]
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tar(output) => output.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            #[cfg(feature = "zstd")]
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes into keys is what is linked.
    #[test]
    fn an_encoder_is_named_with_the_version_of_the_lock() {
        let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
        for codec in [Codec::default(), Codec::Zstd(3)] {
            let (name, version) = codec.encoder().split_once(' ').unwrap();
            assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")), "{}", codec.encoder());
        }
    }
}
