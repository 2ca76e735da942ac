//! Debian packages as the base of an image.
//!
//! Owns: reading an archive's indexes, the closure of named packages, and what of them becomes a file tree. Never: open a
//! connection, start a process, run a package's script, read the environment, or write outside the folder that it is given.
//! Who checks signatures and hashes: the conductor (gpgv) and the gateway; here bytes are parsed with the distrust that an
//! unchecked index or package deserves.
//! Rules: Debian Policy; deb(5), deb822(5), deb-version(7).
//!
//! Reading order: [`release`], [`index`] (with `control`, `version`, `relation`) → [`resolve`] → `unpack` (with `ar`, `tar`,
//! `compression`, `pattern`) → `base` (what scripts would have made).

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod ar;
mod base;
mod compression;
pub mod control;
mod error;
pub mod index;
mod pattern;
pub mod relation;
pub mod release;
mod resolve;
mod tar;
mod unpack;
pub mod version;

pub use base::{Policy, User, base_tree};
pub use compression::{Compression, Decoder};
pub use error::{Error, Result};
pub use index::{Index, Package};
pub use pattern::Pattern;
pub use release::Release;
pub use resolve::resolve;
pub use unpack::Source;
