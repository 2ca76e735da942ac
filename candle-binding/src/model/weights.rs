//! Tensors out of `model.safetensors`.
//!
//! The header is checked as a whole before a single tensor is believed: it is small enough, its offsets follow each
//! other without gap or overlap, each tensor's bytes match its shape, and together they end where the file ends. Each
//! tensor is then read alone and only if its shape is the expected one, so memory is bounded by the file's real size.
//! Source: the safetensors format description; `safetensors::tensor::Metadata` does the check of offsets and shapes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, Metadata};

use crate::error::Error;

/// An encoder of 335 million parameters has 1.3 GB in f32.
const FILE_LIMIT_BYTES: u64 = 4 << 30;
/// BERT-large with its 391 tensors has a header of 45 kB.
const HEADER_LIMIT_BYTES: u64 = 16 << 20;
/// The header's own length stands before it.
const PREFIX_BYTES: u64 = 8;

/// Prefixes under which checkpoints keep the same encoder: saved alone, or as a part of a model with a head.
const PREFIXES: [&str; 2] = ["", "bert."];

#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    file: File,
    metadata: Metadata,
    data_start: u64,
    prefix: &'static str,
    device: Device,
}

impl Weights {
    pub fn open(dir: &Path, device: Device) -> Result<Self, Error> {
        let path = dir.join("model.safetensors");
        let read_failed = |source| Error::Read { path: path.clone(), source };
        let damaged = |problem| Error::Weights { path: path.clone(), problem };
        let mut file = File::open(&path).map_err(read_failed)?;
        let size_bytes = file.metadata().map_err(read_failed)?.len();
        if size_bytes > FILE_LIMIT_BYTES {
            return Err(Error::TooLarge {
                path: path.clone(),
                size_bytes,
                limit_bytes: FILE_LIMIT_BYTES,
            });
        }
        if size_bytes < PREFIX_BYTES {
            return Err(damaged(format!(
                "it has {size_bytes} bytes, less than the length of a header"
            )));
        }
        let mut prefix = [0; PREFIX_BYTES as usize];
        file.read_exact(&mut prefix).map_err(read_failed)?;
        let header_bytes = u64::from_le_bytes(prefix);
        let limit_bytes = HEADER_LIMIT_BYTES.min(size_bytes - PREFIX_BYTES);
        if header_bytes > limit_bytes {
            return Err(damaged(format!(
                "its header claims {header_bytes} bytes where at most {limit_bytes} are possible"
            )));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(read_failed)?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| damaged(format!("its header is wrong: {error}")))?;
        let data_start = PREFIX_BYTES + header_bytes;
        let wanted_bytes = data_start.saturating_add(metadata.data_len() as u64);
        if wanted_bytes != size_bytes {
            return Err(damaged(format!(
                "its header describes {wanted_bytes} bytes, the file has {size_bytes}"
            )));
        }
        let has = |prefix: &&str| {
            metadata.info(&format!("{prefix}embeddings.word_embeddings.weight")).is_some()
        };
        let prefix = PREFIXES.into_iter().find(has).unwrap_or_default();
        Ok(Self { path, file, metadata, data_start, prefix, device })
    }

    /// The tensor `name` as f32 on the model's device.
    ///
    /// # Errors
    /// [`Error::Tensor`] if it is absent, of another shape than `shape`, or not of a floating-point type.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        let name = format!("{}{name}", self.prefix);
        let wrong =
            |problem| Error::Tensor { path: self.path.clone(), name: name.clone(), problem };
        let info = self.metadata.info(&name).ok_or_else(|| wrong("is absent".to_owned()))?;
        if info.shape != shape {
            return Err(wrong(format!(
                "has shape {:?} where config.json means {shape:?}",
                info.shape
            )));
        }
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                return Err(wrong(format!("has type {other:?} where F32, F16 or BF16 is needed")));
            }
        };
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        self.file
            .seek(SeekFrom::Start(self.data_start + start as u64))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|source| Error::Read { path: self.path.clone(), source })?;
        Tensor::from_raw_buffer(&bytes, dtype, shape, &self.device)
            .and_then(|tensor| tensor.to_dtype(DType::F32))
            .map_err(|error| wrong(error.to_string()))
    }
}
