//! Sentence embeddings, similarity and tokenization for the semantic router.
//!
//! Owns the models and the C ABI of `include/candle_semantic_router.h`. It never opens a socket: a model is a directory
//! that somebody else has filled. It never panics across the ABI: `ffi` turns each panic into an error.
//!
//! `ffi` knows C types and no mathematics; `model`, `pooling` and `error` know no C types, and Rust callers
//! (the golden tests among them) use them directly.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod error;
mod ffi;
pub mod model;
pub mod pooling;

pub use error::Error;
pub use model::{Device, Embedding, EmbeddingModel, Token};
