//! The packer satellite: a pipe from a tar to a compressed layer, `packer CODEC` with a codec as keys have it, `zstd-3`.
//!
//! It is a program of its own for the C of libzstd, which would make everybody's first build a third longer. Memory is bounded by the
//! level, since nothing is held but the encoder's window.
//! Owns: the two ends; the bytes between them are `oci`'s. Never: open a file, or judge whether the tar was whole: who wrote it knows.
//! Rules: docs/decisions/0012-layer-codecs.md.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(codec) = std::env::args().nth(1).and_then(|text| text.parse().ok()) else {
        eprintln!("packer: started by cargo xtask, as `packer zstd-3 <TAR >LAYER`");
        return ExitCode::FAILURE;
    };
    // Without the standard streams' own buffers: one cuts at line ends.
    let file = |descriptor: io::Result<_>| descriptor.map(File::from);
    let packed = file(io::stdin().as_fd().try_clone_to_owned()).and_then(|tar| {
        let layer = file(io::stdout().as_fd().try_clone_to_owned())?;
        oci::layer::compress(codec, tar, layer)
    });
    match packed {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("packer: {cause}");
            ExitCode::FAILURE
        }
    }
}
