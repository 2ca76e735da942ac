//! An embedding model: a directory opened once, immutable from then on, usable from any number of threads.
//!
//! ```text
//! DIR/config.json                 architecture and shapes        (config.rs)
//! DIR/tokenizer.json              normaliser, vocabulary, ...    (tokenizer.rs)
//! DIR/model.safetensors           weights                        (weights.rs)
//! DIR/sentence_bert_config.json   length limit, optional         (config.rs)
//! DIR/tokenizer_config.json       length limit, optional         (config.rs)
//! DIR/1_Pooling/config.json       pooling, optional              (config.rs)
//! ```
//! Files are checked before they are believed: a damaged one is an error that names it, never a crash or a wrong vector.
//! They are read, not memory-mapped: a mapped file that somebody truncates later kills the process with SIGBUS.

mod bert;
mod config;
mod files;
mod fused;
mod tokenizer;
mod weights;

use std::path::Path;

use crate::error::Error;
use crate::pooling;

/// Where inference runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Cpu,
    /// The first CUDA device if the library was built with the `cuda` feature and there is one; else the CPU.
    Fastest,
}

/// A sentence embedding of length 1, [dimension] f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    pub vector: Vec<f32>,
    /// Tokens the model saw: after truncation, special ones included.
    pub tokens: usize,
}

/// A token as the vocabulary has it, with its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub id: u32,
    pub text: String,
}

/// Tokens of one forward pass. It bounds memory, and attention scores grow with a sequence's square, not with this.
const BATCH_TOKENS: usize = 2048;

#[derive(Debug)]
pub struct EmbeddingModel {
    tokenizer: tokenizer::Tokenizer,
    encoder: bert::Encoder,
}

impl EmbeddingModel {
    /// Opens the model in `dir`.
    ///
    /// # Errors
    /// [`Error::Open`] with the file and the cause: missing, too large, damaged, or of an unsupported kind.
    pub fn open(dir: &Path, device: Device) -> Result<Self, Error> {
        Self::load(dir, device)
            .map_err(|source| Error::Open { dir: dir.to_owned(), source: Box::new(source) })
    }

    fn load(dir: &Path, device: Device) -> Result<Self, Error> {
        let device = match device {
            Device::Cpu => candle_core::Device::Cpu,
            Device::Fastest => candle_core::Device::cuda_if_available(0).map_err(Error::Device)?,
        };
        let config = config::Config::load(dir)?;
        config::require_mean_pooling(dir)?;
        let limits = config::Limits::load(dir, &config)?;
        let tokenizer = tokenizer::Tokenizer::load(dir, limits, config.vocab_size)?;
        let mut weights = weights::Weights::open(dir, device)?;
        let encoder = bert::Encoder::load(&config, &mut weights)?;
        Ok(Self { tokenizer, encoder })
    }

    /// Embeds one text, cut at `max_length` tokens (`None`: the model's own limit).
    pub fn embed(&self, text: &str, max_length: Option<usize>) -> Result<Embedding, Error> {
        let ids = self.tokenizer.ids(text, max_length)?;
        Ok(self.encode(&[&ids])?.remove(0))
    }

    /// Embeds many texts at once; result `i` belongs to text `i`.
    pub fn embed_many(
        &self,
        texts: &[&str],
        max_length: Option<usize>,
    ) -> Result<Vec<Embedding>, Error> {
        let sequences = texts
            .iter()
            .map(|text| self.tokenizer.ids(text, max_length))
            .collect::<Result<Vec<_>, _>>()?;
        let mut embeddings = Vec::with_capacity(texts.len());
        let mut batch: Vec<&[u32]> = Vec::new();
        let mut batch_tokens = 0;
        for ids in &sequences {
            if !batch.is_empty() && batch_tokens + ids.len() > BATCH_TOKENS {
                embeddings.append(&mut self.encode(&batch)?);
                batch.clear();
                batch_tokens = 0;
            }
            batch_tokens += ids.len();
            batch.push(ids);
        }
        if !batch.is_empty() {
            embeddings.append(&mut self.encode(&batch)?);
        }
        Ok(embeddings)
    }

    /// The tokens that [`embed`](Self::embed) would see.
    pub fn tokenize(&self, text: &str, max_length: Option<usize>) -> Result<Vec<Token>, Error> {
        self.tokenizer.tokens(text, max_length)
    }

    /// Runs the encoder over sequences packed end to end and pools each one.
    fn encode(&self, sequences: &[&[u32]]) -> Result<Vec<Embedding>, Error> {
        let tokens = sequences.iter().map(|ids| ids.len()).sum();
        let hidden = self
            .encoder
            .forward(sequences)
            .and_then(|hidden| hidden.flatten_all()?.to_vec1::<f32>())
            .map_err(|source| Error::Inference { tokens, source })?;
        let dimension = self.encoder.hidden_size();
        let mut rest = hidden.as_slice();
        sequences
            .iter()
            .map(|ids| {
                let (rows, tail) = rest.split_at(ids.len() * dimension);
                rest = tail;
                Ok(Embedding {
                    vector: pooling::mean_normalized(rows, dimension)?,
                    tokens: ids.len(),
                })
            })
            .collect()
    }
}
