//! The compressions of package members and indexes, as one reader.
//!
//! Owns: how much memory a decoder may take, and that nothing follows what was decoded. Never: bound what comes out; readers do.

use flate2::bufread::GzDecoder;
use lzma_rust2::{Action, Status, XzStream};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use std::io::{self, BufRead, BufReader, Read};

/// xz of level 9 takes 65 MiB; Debian's packages have level 6.
const MAX_XZ_KIBIBYTES: u32 = 96 << 10;
/// Level 19, which Ubuntu's packages have, takes 8 MiB.
const MAX_ZSTD_WINDOW_BYTES: u64 = 64 << 20;

/// What the end of a member's or an index's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Plain,
    Gzip,
    Xz,
    Zstd,
}

impl Compression {
    /// Of `data.tar.xz` after `data.tar`: `.xz`; `None` for one that is not read here.
    pub fn of_ending(ending: &str) -> Option<Self> {
        match ending {
            "" => Some(Self::Plain),
            ".gz" => Some(Self::Gzip),
            ".xz" => Some(Self::Xz),
            ".zst" => Some(Self::Zstd),
            _ => None,
        }
    }
}

pub enum Decoder<R: Read> {
    Plain(BufReader<R>),
    Gzip(Box<GzDecoder<BufReader<R>>>),
    Xz(Box<Xz<R>>),
    Zstd(Box<StreamingDecoder<BufReader<R>, FrameDecoder>>),
}

impl<R: Read> Decoder<R> {
    /// # Errors: of reading the first bytes, which zstd needs at once.
    pub fn new(compression: Compression, packed: R) -> io::Result<Self> {
        let packed = BufReader::with_capacity(64 << 10, packed);
        Ok(match compression {
            Compression::Plain => Self::Plain(packed),
            Compression::Gzip => Self::Gzip(Box::new(GzDecoder::new(packed))),
            Compression::Xz => {
                Self::Xz(Box::new(Xz { packed, stream: XzStream::new_mem_limit(false, MAX_XZ_KIBIBYTES) }))
            }
            Compression::Zstd => {
                let decoder = StreamingDecoder::new_with_max_window_size(packed, MAX_ZSTD_WINDOW_BYTES);
                Self::Zstd(Box::new(decoder.map_err(io::Error::other)?))
            }
        })
    }

    /// After the end: whether the packed bytes have ended too. A second stream would be content to one reader and rubbish to another.
    pub fn ended(self) -> io::Result<bool> {
        let mut packed = match self {
            Self::Plain(packed) => packed,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Xz(decoder) => decoder.packed,
            Self::Zstd(decoder) => decoder.into_inner(),
        };
        Ok(packed.fill_buf()?.is_empty())
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(packed) => packed.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Xz(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// The crate's own reader is generic, so that its work would be compiled here, where nothing is optimised.
pub struct Xz<R> {
    packed: BufReader<R>,
    stream: XzStream,
}

impl<R: Read> Read for Xz<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let packed = self.packed.fill_buf()?;
            let (length, action) = (packed.len(), if packed.is_empty() { Action::Finish } else { Action::Run });
            let done = self.stream.process(packed, buffer, action)?;
            self.packed.consume(done.bytes_consumed);
            if done.bytes_produced > 0 || done.status == Status::StreamEnd || buffer.is_empty() {
                return Ok(done.bytes_produced);
            }
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
