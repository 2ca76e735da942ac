//! `mirror bootstrap`: a POSIX shell script that gets Rust through a profile, for a machine that has none yet.
//!
//! The script is `bootstrap.sh`, itself a script that linters read, with the profile's servers and the pins of `xtask.lock`
//! put in; the one for `cn` is checked in beside the README, since whoever needs it cannot start this program. It never holds
//! a default server: a `direct` entry is left out, as only rustup knows what it means. A URL is put between single quotes,
//! which no URL of ours can hold.

use super::profile::Profile;
use crate::digest::Digest;
use std::collections::BTreeMap;

const TEMPLATE: &str = include_str!("bootstrap.sh");

/// What the script installs.
pub struct Wanted<'a> {
    pub toolchain: &'a str,
    /// sha256 of the toolchain's manifest.
    pub manifest: &'a Digest,
    pub rustup: &'a str,
    /// Platform → sha256 of its rustup-init.
    pub init: &'a BTreeMap<String, Digest>,
}

/// `None`: the profile names no server of rustup's.
pub fn script(profile: &Profile, wanted: &Wanted) -> Option<String> {
    let without_slash = |url: &str| url.trim_end_matches('/').to_owned();
    let servers: Vec<String> = profile
        .rustup
        .list
        .iter()
        .filter_map(|pair| pair.urls())
        .map(|(dist, root)| format!("  echo '{} {}'", without_slash(dist.expose()), without_slash(root.expose())))
        .collect();
    let hashes: Vec<String> =
        wanted.init.iter().map(|(platform, sha256)| format!("    {platform}) echo {sha256} ;;")).collect();
    let values = [
        ("@PROFILE@", profile.name.as_str()),
        ("@RUST@", wanted.toolchain),
        ("@RUSTUP@", wanted.rustup),
        ("@MANIFEST@", &wanted.manifest.to_string()),
        ("  : # @SERVERS@", &servers.join("\n")),
        ("    # @PINS@", &hashes.join("\n")),
    ];
    let filled = |text: String, (hole, value): (&str, &str)| text.replace(hole, value);
    (!servers.is_empty()).then(|| values.into_iter().fold(TEMPLATE.to_owned(), filled))
}
