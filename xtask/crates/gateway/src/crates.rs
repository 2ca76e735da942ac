//! Cargo's sparse registry protocol, as seen by a child cargo on one side and by upstream registries on the other.
//!
//! Owns: our `config.json`, the check of index entries against the lock files, crate downloads. Never: pass on a crate
//! that no lock file pins, or an index entry that contradicts one: cargo would blame the lock file.
//! Rules: the Cargo book, "Registry Index".

use crate::Gateway;
use crate::downloads::Pin;
use crate::error::{Error, Kind};
use crate::fetch::{Fetched, Wanted, fetch};
use crate::request::{Ask, looks_like_a_web_page, web_page};
use crate::upstream::ask_each;
use crate::url::Url;
use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use protocol::{Ecosystem, Failure, FailureKind, Upstream};
use serde::Deserialize;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};

/// What children are told to use. The name never changes, so cargo's source folder keeps its name from run to run.
pub const HOST: &str = "xtask-gateway.invalid";
/// The index entry of the largest crates is a few megabytes.
const MAX_ENTRY_BYTES: usize = 64 << 20;
/// Entries kept for the second cargo of a run.
const MAX_CACHED_BYTES: usize = 64 << 20;

pub struct Crates {
    /// Lower-case name → version → sha256.
    pins: HashMap<String, BTreeMap<String, String>>,
    /// Index URL → its `dl`.
    downloads: RefCell<HashMap<String, String>>,
    entries: RefCell<HashMap<String, Entry>>,
    cached_bytes: Cell<usize>,
}

#[derive(Clone)]
pub struct Entry {
    pub etag: Option<HeaderValue>,
    pub bytes: Bytes,
}

pub enum Index {
    Entry(Entry),
    NotModified,
    /// No upstream knows it and no lock file names it: cargo asks for spellings that may not exist.
    Absent,
}

impl Crates {
    /// `pins`: `name version` → sha256 in hex.
    pub fn new(pins: &BTreeMap<String, String>) -> Self {
        let mut by_name: HashMap<String, BTreeMap<String, String>> = HashMap::new();
        for (package, sha256) in pins {
            if let Some((name, version)) = package.split_once(' ') {
                by_name
                    .entry(name.to_ascii_lowercase())
                    .or_default()
                    .insert(version.to_owned(), sha256.to_ascii_lowercase());
            }
        }
        Self { pins: by_name, downloads: RefCell::default(), entries: RefCell::default(), cached_bytes: Cell::new(0) }
    }
}

/// The `config.json` that makes children download through us.
pub fn config_json() -> Bytes {
    Bytes::from(format!(r#"{{"dl":"http://{HOST}/crates/dl/{{crate}}/{{version}}/{{sha256-checksum}}"}}"#))
}

/// The index entry at `path` (`se/rd/serde`), from the first upstream whose entry agrees with the lock files.
pub async fn index(gateway: &Gateway, path: &str, if_none_match: Option<&HeaderValue>) -> Result<Index, Failure> {
    let cached = gateway.crates.entries.borrow().get(path).cloned();
    if let Some(entry) = cached {
        let current = if_none_match.is_some() && entry.etag.as_ref() == if_none_match;
        return Ok(if current { Index::NotModified } else { Index::Entry(entry) });
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    let pinned = gateway.crates.pins.get(name);
    let subject = format!("index entry of crate {name}");
    let answer =
        ask_each(&subject, gateway.upstreams(Ecosystem::Crates), &gateway.limits, async |upstream: &Upstream| {
            let url = Url::parse(&upstream.url)?.below(path)?;
            let headers = if_none_match.map(|etag| (header::IF_NONE_MATCH, etag.clone())).into_iter().collect();
            let ask = Ask { ecosystem: Ecosystem::Crates, artifact: &subject, upstream, url: &url, headers };
            let document = gateway.client.document(ask, MAX_ENTRY_BYTES).await?;
            if document.status == 304 {
                return Ok(Index::NotModified);
            }
            check_entry(&document.bytes, pinned)?;
            Ok(Index::Entry(Entry { etag: document.headers.get(header::ETAG).cloned(), bytes: document.bytes }))
        })
        .await;
    match answer {
        Ok(Index::Entry(entry)) => {
            let total = gateway.crates.cached_bytes.get() + entry.bytes.len();
            if total <= MAX_CACHED_BYTES {
                gateway.crates.cached_bytes.set(total);
                gateway.crates.entries.borrow_mut().insert(path.to_owned(), entry.clone());
            }
            Ok(Index::Entry(entry))
        }
        Err(failure) if pinned.is_none() && failure.message == crate::upstream::NOBODY_HAS_IT => Ok(Index::Absent),
        other => other,
    }
}

/// One crate file, verified against the index's checksum, which stands in the URL, and against the lock file's.
pub async fn download(gateway: &Gateway, name: &str, version: &str, checksum: &str) -> Result<Fetched, Failure> {
    let subject = format!("crate {name} {version}");
    let refuse = |kind, message: String| Failure { kind, subject: subject.clone(), message, attempts: Vec::new() };
    let Some(pinned) = gateway.crates.pins.get(&name.to_ascii_lowercase()).and_then(|versions| versions.get(version))
    else {
        return Err(refuse(
            FailureKind::Configuration,
            "no lock file of this build names it; bring Cargo.lock up to date with `cargo update --workspace`"
                .to_owned(),
        ));
    };
    if pinned != checksum {
        return Err(refuse(
            FailureKind::Integrity,
            format!("the index offers other bytes than Cargo.lock pins: expected {pinned}, got {checksum}"),
        ));
    }
    let pin = Pin::sha256(pinned).map_err(|error| error.failure(&subject, Vec::new()))?;
    let wanted = Wanted { ecosystem: Ecosystem::Crates, subject: subject.clone(), pin, size_bytes: None, job: None };
    fetch(gateway, &wanted, gateway.upstreams(Ecosystem::Crates), async |upstream: &Upstream| {
        Url::parse(&fill(&download_template(gateway, upstream).await?, name, version, checksum))
    })
    .await
}

#[derive(Deserialize)]
struct Config {
    dl: String,
}

/// Where an upstream's index says that crates are; asked once a run.
async fn download_template(gateway: &Gateway, upstream: &Upstream) -> Result<String, Error> {
    if let Some(known) = gateway.crates.downloads.borrow().get(&upstream.url) {
        return Ok(known.clone());
    }
    let url = Url::parse(&upstream.url)?.below("config.json")?;
    let ask = Ask {
        ecosystem: Ecosystem::Crates,
        artifact: "config.json of the index",
        upstream,
        url: &url,
        headers: Vec::new(),
    };
    let document = gateway.client.document(ask, MAX_ENTRY_BYTES).await?;
    if looks_like_a_web_page(&document.bytes) {
        return Err(web_page(&document.bytes));
    }
    let config: Config = serde_json::from_slice(&document.bytes)
        .map_err(|cause| Error::new(Kind::Malformed, format!("{url} is not a registry's config.json: {cause}")))?;
    gateway.crates.downloads.borrow_mut().insert(upstream.url.clone(), config.dl.clone());
    Ok(config.dl)
}

/// A `dl` template with its markers filled in.
fn fill(template: &str, name: &str, version: &str, checksum: &str) -> String {
    let markers = ["{crate}", "{version}", "{prefix}", "{lowerprefix}", "{sha256-checksum}"];
    if !markers.iter().any(|marker| template.contains(marker)) {
        return format!("{}/{name}/{version}/download", template.trim_end_matches('/'));
    }
    let prefix = prefix(name);
    template
        .replace("{crate}", name)
        .replace("{version}", version)
        .replace("{lowerprefix}", &prefix.to_ascii_lowercase())
        .replace("{prefix}", &prefix)
        .replace("{sha256-checksum}", checksum)
}

/// The folder of a crate in an index. `name` is ASCII: the server has checked it.
fn prefix(name: &str) -> String {
    match name.len() {
        1 | 2 => name.len().to_string(),
        3 => format!("3/{}", &name[..1]),
        _ => format!("{}/{}", &name[..2], &name[2..4]),
    }
}

#[derive(Deserialize)]
struct Line {
    vers: String,
    cksum: String,
}

/// # Errors: Html, Malformed, Absent for an entry older than the lock file, Hash for one that contradicts it.
fn check_entry(bytes: &[u8], pinned: Option<&BTreeMap<String, String>>) -> Result<(), Error> {
    if looks_like_a_web_page(bytes) {
        return Err(web_page(bytes));
    }
    let mut offered: HashMap<String, String> = HashMap::new();
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        let line: Line = serde_json::from_slice(line)
            .map_err(|cause| Error::new(Kind::Malformed, format!("its answer is not an index entry: {cause}")))?;
        offered.insert(line.vers, line.cksum);
    }
    for (version, sha256) in pinned.into_iter().flatten() {
        match offered.get(version) {
            None => {
                return Err(Error::new(
                    Kind::Absent,
                    format!("its index is stale: version {version} of Cargo.lock is missing"),
                ));
            }
            Some(cksum) if !cksum.eq_ignore_ascii_case(sha256) => {
                return Err(Error::hash(sha256, cksum));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn download_templates_are_filled_as_the_cargo_book_says() {
        for (template, expected) in [
            ("https://d.example/crates", "https://d.example/crates/SerDe/1.0.0/download"),
            (
                "https://d.example/{prefix}/{lowerprefix}/{crate}-{version}.crate",
                "https://d.example/Se/rD/se/rd/SerDe-1.0.0.crate",
            ),
            ("https://d.example/{sha256-checksum}", "https://d.example/ab"),
        ] {
            assert_eq!(fill(template, "SerDe", "1.0.0", "ab"), expected);
        }
        assert_eq!((prefix("a"), prefix("ab"), prefix("abc")), ("1".into(), "2".into(), "3/a".into()));
    }

    #[test]
    fn an_index_entry_must_agree_with_the_lock_file() {
        let pinned = BTreeMap::from([("1.0.0".to_owned(), "aa".to_owned())]);
        let verdict = |entry: &str| check_entry(entry.as_bytes(), Some(&pinned)).map_err(|error| error.code());
        assert_eq!(verdict("{\"vers\":\"0.9.0\",\"cksum\":\"bb\"}\n{\"vers\":\"1.0.0\",\"cksum\":\"aa\"}\n"), Ok(()));
        assert_eq!(verdict("{\"vers\":\"0.9.0\",\"cksum\":\"bb\"}\n"), Err("mirror.absent"));
        assert_eq!(verdict("{\"vers\":\"1.0.0\",\"cksum\":\"bb\"}\n"), Err("mirror.hash"));
        assert_eq!(verdict("<html>Welcome</html>"), Err("mirror.html"));
        assert_eq!(verdict("no json"), Err("mirror.malformed"));
    }
}
