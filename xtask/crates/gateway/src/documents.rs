//! Short texts that lead to artifacts: index entries, project pages, packuments, manifests. Asked of the upstreams, checked
//! against the pins, kept on disk.
//!
//! ```text
//! downloads/documents/<64 hex>   one line of JSON (its headers, and the sha256 of the rest), then the text
//! ```
//! A stored text that agrees with the pins is as good as any, so it is given out without asking anybody; otherwise it is
//! what remains when nobody answers. Owns: that choice, and those files. Never: give out a text that contradicts a pin.
//! Rules: ARCHITECTURE.md, "Invariants".

use crate::Gateway;
use crate::downloads::hex;
use crate::error::{Error, Kind};
use crate::fetch::blocking;
use crate::request::{Ask, Document};
use crate::upstream::{NOBODY_HAS_IT, ask_in_turn};
use crate::url::Url;
use bytes::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use protocol::{Ecosystem, Failure, FailureKind, Upstream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::future::Future;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What is looked for, and what makes an answer acceptable.
pub struct Sought<'a> {
    pub step: &'a str,
    pub ecosystem: Ecosystem,
    /// The name that private patterns are about: a crate, module, project, package or repository.
    pub name: &'a str,
    /// For messages and the ledger: `index entry of crate serde`.
    pub subject: String,
    /// What tells this text from others of its ecosystem, mirror not included: `se/rd/serde`. It names the stored copy.
    pub key: String,
    /// Sent with the request; accept and user agent belong here.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub max_bytes: usize,
}

impl<'a> Sought<'a> {
    pub fn ask(&'a self, upstream: &'a Upstream, url: &'a Url) -> Ask<'a> {
        Ask {
            step: self.step,
            ecosystem: self.ecosystem,
            artifact: &self.subject,
            upstream,
            url,
            headers: self.headers.clone(),
        }
    }
}

/// A text and what is known about it.
#[derive(Clone, Debug)]
pub struct Kept {
    pub note: Note,
    pub bytes: Bytes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// Where it came from, redirects followed: relative links are resolved against it.
    pub url: String,
    pub content_type: String,
    pub etag: Option<String>,
    /// Other headers that a protocol needs again, by lower-case name.
    pub headers: Vec<(String, String)>,
    sha256: String,
}

impl Kept {
    pub fn of(document: &Document) -> Self {
        let text =
            |name: HeaderName| document.headers.get(name).and_then(|value| Some(value.to_str().ok()?.to_owned()));
        let note = Note {
            url: format!("{}{}", document.url.origin, document.url.path_and_query()),
            content_type: text(header::CONTENT_TYPE).unwrap_or_default(),
            etag: text(header::ETAG),
            headers: Vec::new(),
            sha256: String::new(),
        };
        Self { note, bytes: document.bytes.clone() }
    }
}

/// The text from the store where `settled` accepts it, else from the first upstream whose answer `accept` makes into one,
/// else from the store. `None`: every upstream says that there is no such text.
///
/// # Errors: as [`ask_in_turn`].
pub async fn seek(
    gateway: &Gateway,
    sought: &Sought<'_>,
    locate: impl AsyncFn(&Upstream) -> Result<Url, Error>,
    accept: impl Fn(&Document) -> Result<Kept, Error>,
    settled: impl Fn(&Kept) -> bool,
) -> Result<Option<Kept>, Failure> {
    let upstreams = gateway.upstreams(sought.ecosystem, sought.name);
    seek_from(gateway, sought, upstreams, locate, accept, settled).await
}

/// As [`seek`], of upstreams that are not the ecosystem's own.
pub async fn seek_from(
    gateway: &Gateway,
    sought: &Sought<'_>,
    upstreams: impl Future<Output = Vec<Upstream>>,
    locate: impl AsyncFn(&Upstream) -> Result<Url, Error>,
    accept: impl Fn(&Document) -> Result<Kept, Error>,
    settled: impl Fn(&Kept) -> bool,
) -> Result<Option<Kept>, Failure> {
    let attempt = async |upstream: &Upstream| accept(&read(gateway, sought, upstream, &locate(upstream).await?).await?);
    seek_among(gateway, sought, upstreams, attempt, settled).await
}

/// The document at one upstream.
pub async fn read(gateway: &Gateway, sought: &Sought<'_>, upstream: &Upstream, url: &Url) -> Result<Document, Error> {
    gateway.client.document(sought.ask(upstream, url), sought.max_bytes).await
}

/// As [`seek_from`] (the upstreams are not computed where the store settles it), each asked in the caller's own way.
pub async fn seek_among(
    gateway: &Gateway,
    sought: &Sought<'_>,
    upstreams: impl Future<Output = Vec<Upstream>>,
    attempt: impl AsyncFn(&Upstream) -> Result<Kept, Error>,
    settled: impl Fn(&Kept) -> bool,
) -> Result<Option<Kept>, Failure> {
    let path = gateway.documents.path(sought.ecosystem, &sought.key);
    let stored = blocking(move || Ok(load(&path))).await;
    let stored = stored.map_err(|error| error.failure(&sought.subject, Vec::new()))?;
    if let Some(stored) = stored.as_ref().filter(|stored| settled(stored)) {
        return Ok(Some(stored.clone()));
    }
    let upstreams = gateway.ranked(sought.ecosystem, &upstreams.await).await;
    let next = gateway.next(sought.ecosystem);
    let answer = ask_in_turn(&sought.subject, &upstreams, &gateway.limits, next, async |upstream: &Upstream| {
        attempt(upstream).await
    });
    match answer.await {
        Ok(kept) => {
            keep(gateway, sought.ecosystem, &sought.key, &kept).await;
            Ok(Some(kept))
        }
        Err(failure) if failure.message == NOBODY_HAS_IT => Ok(None),
        Err(failure) => match stored {
            // Nobody can be asked: what was true at the last run serves this one, as an index or as nothing.
            Some(stored) if matches!(failure.kind, FailureKind::Network | FailureKind::Configuration) => {
                Ok(Some(stored))
            }
            _ => Err(failure),
        },
    }
}

/// Keeps a text under one more key. One that cannot be kept is asked for again: nothing is lost but time.
pub async fn keep(gateway: &Gateway, ecosystem: Ecosystem, key: &str, kept: &Kept) {
    let (path, folder) = (gateway.documents.path(ecosystem, key), gateway.documents.root.clone());
    let copy = kept.clone();
    let _ = blocking(move || save(&folder, &path, &copy)).await;
}

#[derive(Clone, Debug)]
pub struct Documents {
    root: PathBuf,
}

impl Documents {
    pub fn open(downloads: &Path) -> Result<Self, Error> {
        let root = downloads.join("documents");
        let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(&root);
        created.map_err(|cause| Error::disk("create", &root, &cause))?;
        Ok(Self { root })
    }

    /// A note of ours for later runs, kept as texts are.
    pub fn remember(&self, ecosystem: Ecosystem, key: &str, bytes: Bytes) -> Result<(), Error> {
        save(&self.root, &self.path(ecosystem, key), &Kept { note: Note::default(), bytes })
    }

    pub fn recall(&self, ecosystem: Ecosystem, key: &str) -> Option<Bytes> {
        load(&self.path(ecosystem, key)).map(|kept| kept.bytes)
    }

    fn path(&self, ecosystem: Ecosystem, key: &str) -> PathBuf {
        self.root.join(hex(&Sha256::digest(format!("{ecosystem:?} {key}"))))
    }
}

/// `None`: there is none, or it is not what was written.
fn load(path: &Path) -> Option<Kept> {
    let bytes = Bytes::from(fs::read(path).ok()?);
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let note: Note = serde_json::from_slice(&bytes[..end]).ok()?;
    let rest = bytes.slice(end + 1..);
    (hex(&Sha256::digest(&rest)) == note.sha256).then_some(Kept { note, bytes: rest })
}

/// Without fsync: a torn text is not what its first line says, and so is none.
fn save(folder: &Path, path: &Path, kept: &Kept) -> Result<(), Error> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let beside = folder.join(format!("new-{}-{number}", std::process::id()));
    let failed = |cause| Error::disk("write", &beside, &cause);
    let note = Note { sha256: hex(&Sha256::digest(&kept.bytes)), ..kept.note.clone() };
    let mut head = serde_json::to_vec(&note).map_err(|cause| Error::new(Kind::Malformed, cause.to_string()))?;
    head.push(b'\n');
    let written = File::create(&beside)
        .and_then(|mut file| file.write_all(&head).and_then(|()| file.write_all(&kept.bytes)))
        .and_then(|()| fs::rename(&beside, path));
    written.map_err(|cause| {
        let _ = fs::remove_file(&beside);
        failed(cause)
    })
}
