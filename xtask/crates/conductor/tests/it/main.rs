//! The conductor from outside: its command line, its borders, the house rules, the documents.
//!
//! Owns: what these tests share. Never: look inside the conductor (unit tests do), reach the outside, or write into the
//! checkout. Rules: ARCHITECTURE.md.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails, its helpers included")]

mod bootstrap;
mod borders;
mod cli;
mod docs;
mod emit;
mod errors;
mod help;
mod images;
mod language;
mod lint;
mod tidy;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Says that the running test cannot run here; a failure if XTASK_REQUIRE names the part, or is `all`.
fn skip(part: &str, why: &str) {
    let required = std::env::var("XTASK_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|it| it == part || it == "all"), "{part} is required, and cannot run: {why}");
    // Past libtest, which shows nothing of a test that passes.
    let _ = writeln!(std::io::stderr(), "skipped: {part}: {why}");
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.."))
}

/// The files of the checkout that Git tracks or would track, relative to it, sorted.
fn repository_files() -> Vec<PathBuf> {
    let listing = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(listing).current_dir(repository()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut files: Vec<PathBuf> = text.split_terminator('\0').map(PathBuf::from).collect();
    files.retain(|file| repository().join(file).is_file());
    files.sort();
    files.dedup();
    files
}

fn read(path: impl AsRef<Path>) -> String {
    let path = repository().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("xtask-it-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
