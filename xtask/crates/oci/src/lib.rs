//! The OCI image format as values and bytes.
//!
//! A [`Tree`] says what a layer holds, down to owner and time; nothing here looks that up on this machine. Same input, same
//! bytes: no clock, no locale, no umask, no environment, no thread decides anything.
//! Owns: the format. Never: open a connection, start a program, read the environment, decide what is in an image.
//! Rules: the OCI image specification 1.1, <https://github.com/opencontainers/image-spec/tree/v1.1.1>.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod archive;
pub mod diff;
pub mod digest;
pub mod image;
pub mod layer;
pub mod layout;
pub mod read;
pub mod referrer;
mod tar;
pub mod tree;

pub use digest::Digest;
pub use image::{Annotations, Blob, Descriptor, Execution, Image, Platform};
pub use layer::{Codec, Layer};
pub use referrer::Referrer;
pub use tree::{Content, Entry, Kind, Tree, TreeError, TreePath};
