//! Layers of others, and tars at all: every entry has one meaning for every reader, or the archive is refused.
//!
//! A base image comes from a stranger. Nothing here writes below a root: entries become values, contents go where the caller
//! puts them, so there is nothing to escape from; what an engine could be tricked with is refused all the same.
//! Owns: bounds, paths, links, whiteouts, and how layers lie on each other. Never: believe a size or a digest that was
//! stated; follow a link; hand out an entry of a kind that [`Kind`] has not.
//! Rules: OCI image specification, layer.md; CVE-2025-62518 for sizes that stand twice, CVE-2018-15664 and CVE-2026-33056
//! for writing through links.

use crate::digest::{Digest, Hashing};
use crate::image::{Descriptor, media_type};
use crate::layer::OPAQUE;
use crate::tar::{BLOCK, Block, Pax};
use crate::tree::{Entry, Kind, Tree, TreeError, TreePath, WHITEOUT_PREFIX};
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Bound;
use std::path::PathBuf;

/// Headers that name or describe another entry: Go's bound.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;
/// Small archives of zeros are allowed to be silly.
const RATIO_FREE_BYTES: u64 = 16 << 20;

/// How much of a stranger's archive is read before it is refused.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Of an image or archive: everything after decompression, headers included.
    pub unpacked_bytes: u64,
    /// Unpacked to packed, beyond the first 16 MiB. Text deflates by 10, zeros by 1000.
    pub ratio: u64,
    pub entries: u64,
    /// All paths, targets of links and extended attributes together, since they are kept in memory.
    pub names_bytes: u64,
    /// Parts of a path.
    pub depth: usize,
}

impl Default for Limits {
    /// A CUDA image has some 10 GB and 100,000 entries.
    fn default() -> Self {
        Self { unpacked_bytes: 64 << 30, ratio: 200, entries: 1 << 20, names_bytes: 64 << 20, depth: 64 }
    }
}

/// Why an archive is not read to its end.
#[derive(Debug)]
#[must_use]
pub enum ReadError {
    /// It cannot be read or decompressed.
    Unreadable(io::Error),
    /// An entry, or what stands in its place, has no one meaning or is nothing that a layer may hold.
    Entry {
        /// As it stands in the archive; the number of the entry where it has no name.
        entry: String,
        why: String,
    },
    /// It goes beyond one of [`Limits`].
    Bound { what: &'static str, limit: u64 },
    /// Not the bytes that somebody vouched for.
    Wrong { what: &'static str, expected: String, got: String },
    /// No layer that can be read.
    MediaType(String),
    /// A content could not be stored.
    Store { path: TreePath, cause: io::Error },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(_) => write!(f, "the archive cannot be read"),
            Self::Entry { entry, why } => write!(f, "entry `{}` is refused: {why}", entry.escape_debug()),
            Self::Bound { what, limit } => write!(f, "the archive has more {what} than the {limit} allowed"),
            Self::Wrong { what, expected, got } => write!(f, "the {what} is {got}, not {expected}"),
            Self::MediaType(it) => write!(f, "`{}` is no media type of a layer that can be read", it.escape_debug()),
            Self::Store { path, .. } => write!(f, "cannot store the content of `{path}`"),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(cause) | Self::Store { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        // A bound that was met inside a reader travels as an error of the system.
        error.downcast::<Self>().unwrap_or_else(Self::Unreadable)
    }
}

/// The entries of one tar, in its order. After [`Self::next`] gave a file, its content is read from this value itself.
pub struct Reader<R> {
    input: R,
    limits: Limits,
    /// Of the current entry: content, then filling up to the block.
    content_bytes: u64,
    filling_bytes: u64,
    seen: BTreeMap<TreePath, Seen>,
    entries: u64,
    names_bytes: u64,
    ended: bool,
}

/// What stands at a path of this archive so far.
enum Seen {
    Directory,
    File,
    Symlink(String),
    Gone,
}

/// Long names from GNU headers or a PAX header: what stands before an entry.
#[derive(Default)]
struct Before {
    path: Option<String>,
    link: Option<String>,
    pax: Option<Pax>,
}

impl<R: Read> Reader<R> {
    pub fn new(input: R, limits: Limits) -> Self {
        let (seen, ended) = (BTreeMap::new(), false);
        Self { input, limits, content_bytes: 0, filling_bytes: 0, seen, entries: 0, names_bytes: 0, ended }
    }

    /// The next entry with the size of its content; the rest of the last one is passed over. A whiteout is an entry with the
    /// path that it removes, an opaque one ([`Kind::OpaqueWhiteout`]) an entry with the path of its folder, which may have
    /// another entry of its own. The root's own entry, `./`, is left out.
    /// # Errors: every variant but Wrong, `MediaType` and Store; after an error the reader is worth nothing.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<(TreePath, Entry<u64>)>, ReadError> {
        while !self.ended {
            self.skip(self.content_bytes + self.filling_bytes)?;
            (self.content_bytes, self.filling_bytes) = (0, 0);
            if let Some(entry) = self.entry()? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// `None` for the end, and for the root.
    fn entry(&mut self) -> Result<Option<(TreePath, Entry<u64>)>, ReadError> {
        let mut before = Before::default();
        loop {
            let Some(block) = self.block()? else {
                if before.path.is_some() || before.link.is_some() || before.pax.is_some() {
                    return Err(self.refuse("a header that describes another entry has none behind it"));
                }
                return Ok(None);
            };
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(ReadError::Bound { what: "entries", limit: self.limits.entries });
            }
            let long = before.path.is_some() || before.link.is_some();
            match block.flag {
                b'x' if !long && before.pax.is_none() => before.pax = Some(self.pax(&block, false)?),
                b'g' if !long && before.pax.is_none() => drop(self.pax(&block, true)?),
                b'L' if before.path.is_none() && before.pax.is_none() => before.path = Some(self.long_name(&block)?),
                b'K' if before.link.is_none() && before.pax.is_none() => before.link = Some(self.long_name(&block)?),
                b'x' | b'g' | b'L' | b'K' => {
                    return Err(self.refuse("headers that describe an entry contradict each other"));
                }
                _ => return self.meant(block, before),
            }
        }
    }

    /// One entry from all of its headers.
    fn meant(&mut self, block: Block, before: Before) -> Result<Option<(TreePath, Entry<u64>)>, ReadError> {
        let pax = before.pax.unwrap_or_default();
        let mut size_bytes = block.size_bytes;
        if let Some(pax_bytes) = pax.size_bytes {
            if pax_bytes != size_bytes && !block.leaves_size_to(pax_bytes) {
                let why = format!("its size is {size_bytes} in one header and {pax_bytes} in another");
                return Err(named(&block.path, why));
            }
            size_bytes = pax_bytes;
        }
        let name = pax.path.or(before.path).unwrap_or(block.path);
        let link = pax.link.or(before.link).unwrap_or(block.link);
        let xattrs_bytes: usize = pax.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.names_bytes += (name.len() + link.len() + xattrs_bytes) as u64;
        if self.names_bytes > self.limits.names_bytes {
            return Err(ReadError::Bound { what: "bytes of names", limit: self.limits.names_bytes });
        }
        let refuse = |why: &str| named(&name, why.to_owned());
        let is_directory = block.flag == b'5';
        let plain = name.strip_prefix("./").unwrap_or(&name);
        let plain = if is_directory { plain.strip_suffix('/').unwrap_or(plain) } else { plain };
        let bare = is_directory && matches!(plain, "" | ".") && name.starts_with('.');
        if !matches!(block.flag, b'0' | 0) && size_bytes != 0 {
            return Err(refuse("only files have a size"));
        }
        if !matches!(block.flag, b'1' | b'2') && !link.is_empty() {
            return Err(refuse("only links have a target"));
        }
        if bare {
            return Ok(None);
        }
        let number = |value: u64, what| u32::try_from(value).map_err(|_| refuse(what));
        let mut entry = Entry {
            kind: Kind::Directory,
            mode: block.mode,
            uid: number(pax.uid.unwrap_or(block.uid), "no user has its uid")?,
            gid: number(pax.gid.unwrap_or(block.gid), "no group has its gid")?,
            modified_seconds: pax.modified_seconds.unwrap_or(block.modified_seconds.cast_signed()),
            xattrs: pax.xattrs,
        };
        let (parent, last) = plain.rsplit_once('/').map_or(("", plain), |(parent, last)| (parent, last));
        let path = if let Some(hidden) = last.strip_prefix(WHITEOUT_PREFIX) {
            if !matches!(block.flag, b'0' | 0) || size_bytes != 0 {
                return Err(refuse("it marks a removal and is no empty file"));
            }
            entry.kind = if last == OPAQUE { Kind::OpaqueWhiteout } else { Kind::Whiteout };
            match (&entry.kind, parent) {
                (Kind::OpaqueWhiteout, folder) => folder.to_owned(),
                (_, "") => hidden.to_owned(),
                (_, folder) => format!("{folder}/{hidden}"),
            }
        } else {
            plain.to_owned()
        };
        let path = TreePath::new(path).map_err(|error| match error {
            TreeError::Path { why, .. } => refuse(why),
            other => refuse(&other.to_string()),
        })?;
        if path.ancestors().count() >= self.limits.depth {
            return Err(ReadError::Bound { what: "parts in a path", limit: self.limits.depth as u64 });
        }
        if matches!(entry.kind, Kind::Directory) {
            entry.kind = match block.flag {
                b'0' | 0 => Kind::File(size_bytes),
                b'1' => self.hardlink(&link).map_err(refuse)?,
                b'2' => Kind::Symlink(link),
                b'5' => Kind::Directory,
                b'3' | b'4' => return Err(refuse("it is a device")),
                b'6' => return Err(refuse("it is a pipe")),
                flag => return Err(refuse(&format!("its type is `{}`", char::from(flag).escape_debug()))),
            };
        }
        if let Some(why) = entry.impossible() {
            return Err(refuse(&why));
        }
        self.place(&path, &entry.kind).map_err(|why| refuse(&why))?;
        if let Kind::File(_) = entry.kind {
            self.content_bytes = size_bytes;
            self.filling_bytes = size_bytes.next_multiple_of(BLOCK as u64) - size_bytes;
        }
        Ok(Some((path, entry)))
    }

    fn hardlink(&self, link: &str) -> Result<Kind<u64>, &'static str> {
        let target = TreePath::new(link.strip_prefix("./").unwrap_or(link)).map_err(|error| match error {
            TreeError::Path { why, .. } => why,
            _ => "its target is no path",
        })?;
        match self.seen.get(&target) {
            Some(Seen::File) => Ok(Kind::Hardlink(target)),
            // A second name of a link is a link.
            Some(Seen::Symlink(to)) => Ok(Kind::Symlink(to.clone())),
            _ => Err("it links to no file before it in this archive"),
        }
    }

    /// Remembers what stands at a path, unless it contradicts what stands there or around it.
    fn place(&mut self, path: &TreePath, kind: &Kind<u64>) -> Result<(), String> {
        let blocking = |seen: &Seen| !matches!(seen, Seen::Directory);
        if let Some(other) = path.ancestors().find(|it| self.seen.get(*it).is_some_and(blocking)) {
            return Err(format!("`{}` on the way to it is no folder", other.escape_debug()));
        }
        let seen = match kind {
            Kind::OpaqueWhiteout => {
                let taken = self.seen.get(path).is_some_and(blocking);
                return if taken { Err("its folder is none".into()) } else { Ok(()) };
            }
            Kind::Directory => Seen::Directory,
            Kind::File(_) | Kind::Hardlink(_) => Seen::File,
            Kind::Symlink(target) => Seen::Symlink(target.clone()),
            Kind::Whiteout => Seen::Gone,
        };
        match self.seen.get(path) {
            // Concatenated tars repeat folders; the last one counts everywhere.
            Some(Seen::Directory) if matches!(seen, Seen::Directory) => return Ok(()),
            Some(_) => return Err("it stands twice".into()),
            None => {}
        }
        let prefix = format!("{}/", path.as_str());
        let next = self.seen.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded)).next();
        if blocking(&seen) && next.is_some_and(|(below, _)| below.as_str().starts_with(&prefix)) {
            return Err("it is no folder, and entries before it are below it".into());
        }
        self.seen.insert(path.clone(), seen);
        Ok(())
    }

    /// The next header, or `None` where the archive ends: at two empty blocks with nothing but zeros behind them, or where
    /// the input ends before a header, as tars of some tools do.
    fn block(&mut self) -> Result<Option<Block>, ReadError> {
        let mut block = [0; BLOCK];
        match self.fill(&mut block)? {
            0 if self.entries > 0 => {
                self.ended = true;
                return Ok(None);
            }
            BLOCK => {}
            _ => return Err(self.refuse("the archive ends within a header")),
        }
        if let Some(block) = Block::parse(&block).map_err(|why| self.refuse(why))? {
            return Ok(Some(block));
        }
        if self.fill(&mut block)? != BLOCK {
            return Err(self.refuse("the archive ends after one empty block"));
        }
        let mut rest = vec![0; 64 * 1024];
        rest[..BLOCK].copy_from_slice(&block);
        let mut length = BLOCK;
        while length > 0 {
            // Some readers would go on there.
            if rest[..length].iter().any(|byte| *byte != 0) {
                return Err(self.refuse("there is something behind the end of the archive"));
            }
            length = self.fill(&mut rest)?;
        }
        self.ended = true;
        Ok(None)
    }

    fn extension(&mut self, block: &Block) -> Result<Vec<u8>, ReadError> {
        if block.size_bytes > MAX_EXTENSION_BYTES {
            return Err(ReadError::Bound { what: "bytes of a header", limit: MAX_EXTENSION_BYTES });
        }
        let length = block.size_bytes as usize;
        let mut bytes = vec![0; length.next_multiple_of(BLOCK)];
        if self.fill(&mut bytes)? != bytes.len() {
            return Err(self.refuse("the archive ends within a header"));
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    fn pax(&mut self, block: &Block, global: bool) -> Result<Pax, ReadError> {
        let records = self.extension(block)?;
        Pax::parse(&records, global).map_err(|why| self.refuse(why))
    }

    fn long_name(&mut self, block: &Block) -> Result<String, ReadError> {
        let name = self.extension(block)?;
        let name = name.strip_suffix(b"\0").unwrap_or(&name);
        match std::str::from_utf8(name) {
            Ok(name) if !name.is_empty() && !name.contains('\0') => Ok(name.to_owned()),
            _ => Err(self.refuse("its long name is no text")),
        }
    }

    /// Reads until the buffer is full or the input ends.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(filled)
    }

    fn skip(&mut self, length: u64) -> Result<(), ReadError> {
        let skipped = io::copy(&mut (&mut self.input).take(length), &mut io::sink())?;
        if skipped < length { Err(self.refuse("the archive ends within its content")) } else { Ok(()) }
    }

    /// About the entry that is being read, which has no name yet or not any more.
    fn refuse(&self, why: impl Into<String>) -> ReadError {
        ReadError::Entry { entry: format!("#{}", self.entries), why: why.into() }
    }
}

fn named(entry: &str, why: String) -> ReadError {
    ReadError::Entry { entry: entry.chars().take(200).collect(), why }
}

/// The content of the current file.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.content_bytes).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let length = self.input.read(&mut buffer[..wanted])?;
        if length == 0 {
            return Err(io::Error::other(self.refuse("the archive ends within its content")));
        }
        self.content_bytes -= length as u64;
        Ok(length)
    }
}

/// One layer as it lies on this machine.
#[derive(Clone, Debug)]
pub struct LayerFile {
    pub path: PathBuf,
    pub descriptor: Descriptor,
    pub diff_id: Digest,
}

/// A layer that is decompressed, bounded and checked while it is read.
pub struct LayerReader<R: Read> {
    reader: Reader<Bounded<R>>,
    descriptor: Descriptor,
    diff_id: Digest,
}

impl LayerReader<File> {
    /// # Errors: Unreadable, `MediaType`.
    pub fn open(layer: &LayerFile, limits: Limits) -> Result<Self, ReadError> {
        Self::new(File::open(&layer.path)?, &layer.descriptor, layer.diff_id, limits)
    }
}

impl<R: Read> LayerReader<R> {
    /// # Errors: `MediaType`.
    pub fn new(input: R, descriptor: &Descriptor, diff_id: Digest, limits: Limits) -> Result<Self, ReadError> {
        // No more is read than the descriptor says, and one byte to notice that there is more.
        let input = BufReader::with_capacity(64 * 1024, Hashing::new(input.take(descriptor.size.saturating_add(1))));
        let unpacked = match descriptor.media_type.as_str() {
            media_type::LAYER => Unpacked::Tar(input),
            media_type::LAYER_GZIP | media_type::DOCKER_LAYER_GZIP => {
                Unpacked::Gzip(Box::new(MultiGzDecoder::new(input)))
            }
            media_type::LAYER_ZSTD => Unpacked::Zstd(Box::new(Frames::new(input))),
            other => return Err(ReadError::MediaType(other.to_owned())),
        };
        let (max_bytes, ratio) = (limits.unpacked_bytes, limits.ratio);
        let bounded = Bounded { unpacked: Hashing::new(unpacked), max_bytes, ratio };
        let reader = Reader::new(bounded, limits);
        Ok(Self { reader, descriptor: descriptor.clone(), diff_id })
    }

    /// As [`Reader::next`]. The content of a file is read from [`Self::content`].
    /// # Errors: as there.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<(TreePath, Entry<u64>)>, ReadError> {
        self.reader.next()
    }

    pub fn content(&mut self) -> &mut impl Read {
        &mut self.reader
    }

    /// Reads what is left and checks everything that was vouched for. Before this, nothing that was read is more than a claim.
    /// # Errors: Wrong; and those of [`Reader::next`].
    pub fn finish(mut self) -> Result<Taken, ReadError> {
        while self.next()?.is_some() {}
        let entries = self.reader.entries;
        let (unpacked, diff_id, unpacked_bytes) = self.reader.input.unpacked.finish();
        let (_, digest, size_bytes) = unpacked.into_input().into_inner().finish();
        let wrong = |what, expected: &dyn ToString, got: &dyn ToString| {
            Err(ReadError::Wrong { what, expected: expected.to_string(), got: got.to_string() })
        };
        if size_bytes > self.descriptor.size {
            let more = format!("more than {}", self.descriptor.size);
            return wrong("size of the layer in bytes", &self.descriptor.size, &more);
        }
        if size_bytes < self.descriptor.size {
            return wrong("size of the layer in bytes", &self.descriptor.size, &size_bytes);
        }
        if digest != self.descriptor.digest {
            return wrong("digest of the layer", &self.descriptor.digest, &digest);
        }
        if diff_id != self.diff_id {
            return wrong("digest of the unpacked layer", &self.diff_id, &diff_id);
        }
        Ok(Taken { unpacked_bytes, entries })
    }
}

/// How much of the bounds a layer has used.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    pub unpacked_bytes: u64,
    pub entries: u64,
}

type Packed<R> = BufReader<Hashing<io::Take<R>>>;

/// What a layer unpacks to, hashed, as long as it stays within the bounds.
struct Bounded<R: Read> {
    unpacked: Hashing<Unpacked<R>>,
    max_bytes: u64,
    ratio: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.unpacked.read(buffer)?;
        let bytes = self.unpacked.size_bytes();
        let bound = |what, limit| Err(io::Error::other(ReadError::Bound { what, limit }));
        if bytes > self.max_bytes {
            return bound("unpacked bytes", self.max_bytes);
        }
        let packed_bytes = self.unpacked.get_ref().input().get_ref().size_bytes();
        if bytes > RATIO_FREE_BYTES.max(packed_bytes.saturating_mul(self.ratio)) {
            return bound("unpacked bytes for each packed one", self.ratio);
        }
        Ok(length)
    }
}

/// A layer without its compression, to the very end of the input.
enum Unpacked<R: Read> {
    Tar(Packed<R>),
    /// Members behind each other are one stream (RFC 1952); garbage behind them is an error.
    Gzip(Box<MultiGzDecoder<Packed<R>>>),
    Zstd(Box<Frames<Packed<R>>>),
}

impl<R: Read> Unpacked<R> {
    fn input(&self) -> &Packed<R> {
        match self {
            Self::Tar(input) => input,
            Self::Gzip(decoder) => decoder.get_ref(),
            Self::Zstd(frames) => &frames.input,
        }
    }

    fn into_input(self) -> Packed<R> {
        match self {
            Self::Tar(input) => input,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(frames) => frames.input,
        }
    }
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tar(input) => input.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(frames) => frames.read(buffer),
        }
    }
}

/// Frames of zstd behind each other, those passed over that hold a tool's own data (RFC 8878, 3.1.2).
struct Frames<R> {
    input: R,
    decoder: FrameDecoder,
    inside: bool,
}

impl<R: BufRead> Frames<R> {
    fn new(input: R) -> Self {
        Self { input, decoder: FrameDecoder::new(), inside: false }
    }

    /// Reads the next frame's header, or passes over a frame.
    fn enter(&mut self) -> io::Result<()> {
        match self.decoder.reset(&mut self.input) {
            Ok(()) => self.inside = true,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                let length = u64::from(length);
                if io::copy(&mut (&mut self.input).take(length), &mut io::sink())? < length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Err(error) => return Err(io::Error::other(error)),
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.inside {
                if self.input.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.enter()?;
                continue;
            }
            if self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.input, one).map_err(io::Error::other)?;
            }
            let length = self.decoder.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            self.inside = !self.decoder.is_finished();
        }
    }
}

/// What is known of a file's content where trees are only compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileDigest {
    pub digest: Digest,
    pub size_bytes: u64,
}

/// A `store` for [`flatten`] that keeps no content.
pub fn hash(_: &TreePath, _: u64, content: &mut dyn Read) -> io::Result<FileDigest> {
    let mut hashing = Hashing::new(io::sink());
    io::copy(content, &mut hashing)?;
    let (_, digest, size_bytes) = hashing.finish();
    Ok(FileDigest { digest, size_bytes })
}

/// The root file system that verified layers make, bottom first. `store` gets path, size and content of each file, also of
/// those that a later layer removes. A hard link becomes a file of its own with the same content: what replaces one of its
/// names later leaves the others as they are.
/// # Errors: every variant of [`ReadError`]; the bounds count for all layers together.
pub fn flatten<C: Clone>(
    layers: &[LayerFile],
    limits: &Limits,
    mut store: impl FnMut(&TreePath, u64, &mut dyn Read) -> io::Result<C>,
) -> Result<Tree<C>, ReadError> {
    let mut tree = Tree::default();
    let mut left = limits.clone();
    for layer in layers {
        let mut reader = LayerReader::open(layer, left.clone())?;
        let mut added: BTreeMap<TreePath, Entry<C>> = BTreeMap::new();
        let (mut removed, mut cleared) = (Vec::new(), Vec::new());
        while let Some((path, entry)) = reader.next()? {
            let Entry { mode, uid, gid, modified_seconds, xattrs, .. } = entry;
            let kind = match entry.kind {
                Kind::Whiteout => {
                    removed.push(path);
                    continue;
                }
                Kind::OpaqueWhiteout => {
                    cleared.push(path);
                    continue;
                }
                Kind::Directory => Kind::Directory,
                Kind::Symlink(target) => Kind::Symlink(target),
                Kind::File(size_bytes) => {
                    let stored = store(&path, size_bytes, reader.content());
                    Kind::File(stored.map_err(|cause| match cause.downcast() {
                        Ok(error) => error,
                        Err(cause) => ReadError::Store { path: path.clone(), cause },
                    })?)
                }
                // Another name of what the reader saw there, so with its owner, mode and time too.
                Kind::Hardlink(target) => {
                    let Some(file) = added.get(&target).cloned() else {
                        return Err(named(path.as_str(), format!("it links to `{target}`, which is not there")));
                    };
                    added.insert(path, file);
                    continue;
                }
            };
            added.insert(path, Entry { kind, mode, uid, gid, modified_seconds, xattrs });
        }
        let taken = reader.finish()?;
        left.unpacked_bytes = left.unpacked_bytes.saturating_sub(taken.unpacked_bytes);
        left.entries = left.entries.saturating_sub(taken.entries);
        // Removals count for the layers below, wherever they stand in this one.
        for path in removed.iter().chain(&cleared) {
            let other = path.ancestors().find(|it| tree.get(it).is_some_and(|entry| !entry.is_directory()));
            if let Some(other) = other {
                let why = format!("`{}` on the way to what it removes is no folder", other.escape_debug());
                return Err(named(path.as_str(), why));
            }
        }
        removed.iter().for_each(|path| tree.remove_all(path.as_str()));
        cleared.iter().for_each(|path| tree.clear(path.as_str()));
        for (path, entry) in added {
            put(&mut tree, path, entry)?;
        }
    }
    tree.add_parents(0);
    Ok(tree)
}

/// An entry of a higher layer: a folder joins a folder, everything else takes the place of what was there.
fn put<C>(tree: &mut Tree<C>, path: TreePath, entry: Entry<C>) -> Result<(), ReadError> {
    let joins = entry.is_directory() && tree.get(path.as_str()).is_some_and(Entry::is_directory);
    if joins {
        tree.remove(path.as_str());
    } else {
        tree.remove_all(path.as_str());
    }
    // Below a link of a lower layer: engines differ in whether they follow it.
    tree.insert(path, entry).map_err(|error| named("a layer", error.to_string()))
}
