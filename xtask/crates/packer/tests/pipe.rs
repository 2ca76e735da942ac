//! The packer gives the bytes that the library itself writes, whatever the pieces in which a tar comes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use oci::{Codec, Content, Digest, Entry, Tree, TreePath};
use std::io::{Read, Write};
use std::process::{Command, Stdio};

fn tree() -> Tree {
    let mut tree = Tree::new();
    let text: Vec<u8> = (0..600_000_u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
    tree.insert(TreePath::new("file").unwrap(), Entry::file(Content::Bytes(text), 0o644, 0)).unwrap();
    tree
}

#[test]
fn a_tar_in_any_pieces_becomes_the_layer_that_the_library_writes() {
    let mut tar = Vec::new();
    oci::layer::write(&tree(), Codec::Tar, &mut tar).unwrap();
    for codec in [Codec::Zstd(3), Codec::Zstd(9), Codec::Gzip(6)] {
        let expected = oci::layer::write(&tree(), codec, std::io::sink()).unwrap();
        for piece_bytes in [1_000, 70_000, tar.len()] {
            let mut packer = Command::new(env!("CARGO_BIN_EXE_packer"));
            let mut packer =
                packer.arg(codec.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let (mut input, mut output, mut packed) =
                (packer.stdin.take().unwrap(), packer.stdout.take().unwrap(), Vec::new());
            std::thread::scope(|scope| {
                let tar = &tar;
                scope.spawn(move || tar.chunks(piece_bytes).for_each(|piece| input.write_all(piece).unwrap()));
                output.read_to_end(&mut packed).unwrap();
            });
            assert!(packer.wait().unwrap().success());
            assert_eq!(Digest::of(&packed), expected.descriptor.digest, "{codec} in pieces of {piece_bytes}");
        }
    }
}

#[test]
fn what_is_no_codec_packs_nothing() {
    for word in ["", "zstd-0", "zstd-20", "zstd", "xz-1"] {
        let output = Command::new(env!("CARGO_BIN_EXE_packer")).arg(word).stdin(Stdio::null()).output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{word}");
    }
}
