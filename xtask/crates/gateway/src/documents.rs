//! Short texts that lead to artifacts: index entries, project pages, packuments, manifests. Asked of the upstreams, checked
//! against the pins, kept on disk.
//!
//! ```text
//! downloads/documents/<64 hex>   one line of JSON (its headers, and the sha256 of the rest), then the text
//! ```
//! A stored text is settled by pins alone: where they cover it, it is as good as any and nobody is asked, else it is asked
//! for anew in each run (see [`Standing`]), and that one upstream lacks or describes a thing binds no other. Then the stored
//! text is what remains when nobody answers, and it remains to those only who would have been asked: what the public gave is
//! no answer for a private name, nor is what a place gave that is not this name's own.
//! Owns: that choice, and those files. Never: give out a text that contradicts a pin.
//! Rules: ARCHITECTURE.md, "Invariants".

use crate::Gateway;
use crate::downloads::hex;
use crate::error::{Error, Kind};
use crate::fetch::blocking;
use crate::request::{Ask, Document};
use crate::upstream::{NOBODY_HAS_IT, Next, ask_in_turn};
use crate::url::Url;
use bytes::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use protocol::{Ecosystem, Failure, FailureKind, Upstream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::HashSet;
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

/// Refuses JSON of which a parser makes much more than it is long: in memory a value takes up to a hundred bytes, in a text
/// two. Commas inside strings count as well; no document of a registry comes near its bound.
/// # Errors: Malformed.
pub fn at_most(max_values: usize, json: &[u8]) -> Result<(), Error> {
    let values = json.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count();
    if values <= max_values {
        return Ok(());
    }
    Err(Error::new(
        Kind::Malformed,
        format!("its answer has {values} values, more than the {max_values} that are read"),
    ))
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
    /// Base URL of the upstream that was asked.
    pub giver: String,
    /// Whether that was a private name's own place.
    private: bool,
}

/// What a stored text is worth without asking anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Pins cover it, whoever gave it and when.
    Pinned,
    /// No pin does, but whoever gave it would say the same again: asked for once a run.
    Unchanging,
    /// Asked for each time; what remains when nobody answers.
    Passing,
    /// A pin contradicts it: no answer at all.
    Refuted,
}

impl Standing {
    /// From the check that an answer has to pass. `pinned`: pins took part in it.
    pub fn of<T>(checked: Result<T, Error>, pinned: bool) -> Self {
        match checked {
            Ok(_) if pinned => Self::Pinned,
            Err(error) if matches!(error.kind, Kind::Hash { .. }) => Self::Refuted,
            _ => Self::Passing,
        }
    }
}

impl Kept {
    pub fn of(document: &Document) -> Self {
        let text =
            |name: HeaderName| document.headers.get(name).and_then(|value| Some(value.to_str().ok()?.to_owned()));
        let note = Note {
            url: format!("{}{}", document.url.origin, document.url.path_and_query()),
            content_type: text(header::CONTENT_TYPE).unwrap_or_default(),
            etag: text(header::ETAG),
            ..Note::default()
        };
        Self { note, bytes: document.bytes.clone() }
    }

    /// Who says so; `private`: as the own place of a private name.
    pub fn told_by(mut self, upstream: &Upstream, private: bool) -> Self {
        (self.note.giver, self.note.private) = (upstream.url.clone(), private);
        self
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
    accept: impl AsyncFn(&Document) -> Result<Kept, Error>,
    settled: impl AsyncFn(&Kept) -> Standing,
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
    accept: impl AsyncFn(&Document) -> Result<Kept, Error>,
    settled: impl AsyncFn(&Kept) -> Standing,
) -> Result<Option<Kept>, Failure> {
    let attempt =
        async |upstream: &Upstream| accept(&read(gateway, sought, upstream, &locate(upstream).await?).await?).await;
    seek_among(gateway, sought, upstreams, attempt, settled).await
}

/// The document at one upstream.
pub async fn read(gateway: &Gateway, sought: &Sought<'_>, upstream: &Upstream, url: &Url) -> Result<Document, Error> {
    gateway.client.document(sought.ask(upstream, url), sought.max_bytes).await
}

/// As [`seek_from`], each asked in the caller's own way.
pub async fn seek_among(
    gateway: &Gateway,
    sought: &Sought<'_>,
    upstreams: impl Future<Output = Vec<Upstream>>,
    attempt: impl AsyncFn(&Upstream) -> Result<Kept, Error>,
    settled: impl AsyncFn(&Kept) -> Standing,
) -> Result<Option<Kept>, Failure> {
    let (upstreams, private) = (upstreams.await, gateway.private(sought.ecosystem, sought.name).is_some());
    let path = gateway.documents.path(sought.ecosystem, &sought.key);
    let answered = gateway.documents.answered.borrow().contains(&path);
    let stored = blocking(move || Ok(load(&path))).await;
    let stored = stored.map_err(|error| error.failure(&sought.subject, Vec::new()))?;
    let mut stored = stored.filter(|kept| kept.note.is_for(private, &upstreams));
    if let Some(kept) = &stored {
        match settled(kept).await {
            Standing::Pinned => return Ok(stored),
            Standing::Unchanging if answered => return Ok(stored),
            Standing::Unchanging | Standing::Passing => {}
            Standing::Refuted => stored = None,
        }
    }
    let upstreams = gateway.ranked(sought.ecosystem, &upstreams).await;
    let next = gateway.next(sought.ecosystem);
    let asked = RefCell::new(HashSet::new());
    let answer = ask_in_turn(&sought.subject, &upstreams, &gateway.limits, next, async |upstream: &Upstream| {
        asked.borrow_mut().insert(upstream.url.clone());
        attempt(upstream).await.map(|kept| kept.told_by(upstream, private))
    });
    match answer.await {
        Ok(kept) => {
            keep(gateway, sought.ecosystem, &sought.key, &kept).await;
            Ok(Some(kept))
        }
        Err(failure) if failure.message == NOBODY_HAS_IT => Ok(None),
        // Nobody can be asked: what was true at the last run serves this one, as an index or as nothing.
        Err(failure) => {
            let remains = |kept: &Kept| kept.note.remains(next, private, &asked.borrow(), &failure);
            stored.filter(remains).map(Some).ok_or(failure)
        }
    }
}

impl Note {
    /// Whether its giver is one of those who may be asked for the name.
    fn is_for(&self, private: bool, upstreams: &[Upstream]) -> bool {
        self.private == private && (!private || upstreams.iter().any(|own| own.url == self.giver))
    }

    /// Whether it is what remains now that those who were asked failed.
    fn remains(&self, next: Next, private: bool, asked: &HashSet<String>, failure: &Failure) -> bool {
        match failure.kind {
            FailureKind::Network if failure.message == NOBODY_HAS_IT => false,
            // Where an earlier place had the last word, a later one's answer is none.
            FailureKind::Network => next == Next::AfterAnyError || asked.contains(&self.giver),
            // An empty list is what the profile says of a private name.
            FailureKind::Configuration => !private && next == Next::AfterAnyError,
            _ => false,
        }
    }
}

/// Notes who gave a thing that nothing pins and that is no text.
pub async fn gave(gateway: &Gateway, ecosystem: Ecosystem, name: &str, key: &str, upstream: &Upstream) {
    let private = gateway.private(ecosystem, name).is_some();
    let kept = Kept { note: Note::default(), bytes: Bytes::new() }.told_by(upstream, private);
    keep(gateway, ecosystem, key, &kept).await;
}

/// Whether that thing may be given out by the rule for texts, after those who were asked failed.
pub fn remains(
    gateway: &Gateway,
    ecosystem: Ecosystem,
    name: &str,
    key: &str,
    upstreams: &[Upstream],
    asked: &HashSet<String>,
    failure: &Failure,
) -> bool {
    let private = gateway.private(ecosystem, name).is_some();
    let note = load(&gateway.documents.path(ecosystem, key)).map(|kept| kept.note).unwrap_or_default();
    note.is_for(private, upstreams) && note.remains(gateway.next(ecosystem), private, asked, failure)
}

/// Keeps a text under one more key. One that cannot be kept is asked for again: nothing is lost but time.
pub async fn keep(gateway: &Gateway, ecosystem: Ecosystem, key: &str, kept: &Kept) {
    let (path, folder) = (gateway.documents.path(ecosystem, key), gateway.documents.root.clone());
    let (copy, place) = (kept.clone(), path.clone());
    if blocking(move || save(&folder, &place, &copy)).await.is_ok() {
        gateway.documents.answered.borrow_mut().insert(path);
    }
}

pub struct Documents {
    root: PathBuf,
    /// Files that were written in this run.
    answered: RefCell<HashSet<PathBuf>>,
}

impl Documents {
    pub fn open(downloads: &Path) -> Result<Self, Error> {
        let root = downloads.join("documents");
        let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(&root);
        created.map_err(|cause| Error::disk("create", &root, &cause))?;
        Ok(Self { root, answered: RefCell::default() })
    }

    /// A note of ours for later runs, kept as texts are.
    pub fn remember(&self, ecosystem: Ecosystem, key: &str, bytes: Bytes) -> Result<(), Error> {
        save(&self.root, &self.path(ecosystem, key), &Kept { note: Note::default(), bytes })
    }

    pub fn recall(&self, ecosystem: Ecosystem, key: &str) -> Option<Bytes> {
        load(&self.path(ecosystem, key)).map(|kept| kept.bytes)
    }

    pub fn path(&self, ecosystem: Ecosystem, key: &str) -> PathBuf {
        self.root.join(hex(&Sha256::digest(format!("{ecosystem:?} {key}"))))
    }
}

/// `None`: there is none, or it is not what was written.
pub fn load(path: &Path) -> Option<Kept> {
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
