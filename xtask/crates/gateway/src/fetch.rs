//! One pinned artifact: find it here, or bring it from whichever upstream delivers the pinned bytes.
//!
//! Owns: resume and verification. Never: name an upstream guilty of bytes that an older partial brought, or publish what
//! does not equal its pin.
//! Rules: ARCHITECTURE.md, "Invariants".

use crate::Gateway;
use crate::documents::{gave, remains};
use crate::downloads::{Found, Holder, Partial, Pin, Source, Verified};
use crate::error::{Error, Kind};
use crate::go;
use crate::ledger::emit;
use crate::request::{Answer, Ask, looks_like_a_web_page, web_page};
use crate::upstream::ask_in_turn;
use crate::url::Url;
use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use protocol::{Ecosystem, Event, Failure, FailureKind, Upstream};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::OwnedMutexGuard;

/// No artifact of ours comes near it; an upstream that does not stop is stopped here.
const MAX_UNSIZED_BYTES: u64 = 4 << 30;
/// A hub takes files of 50 GB.
const MAX_MODEL_BYTES: u64 = 64 << 30;
/// Pieces between the socket and the disk; with hyper's buffers a few megabytes at most.
const PIECES_AHEAD: usize = 16;
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
const LOCK_POLL: Duration = Duration::from_millis(100);
/// How often a holder is looked at for a sign of life.
const LOOK: Duration = Duration::from_secs(1);

pub struct Wanted {
    /// On whose behalf, for the ledger.
    pub step: String,
    pub ecosystem: Ecosystem,
    /// For messages and the ledger: `crate serde 1.0.228`.
    pub subject: String,
    pub pin: Pin,
    pub size_bytes: Option<u64>,
    /// Whose progress events these are; children's downloads have none.
    pub job: Option<u64>,
}

impl Wanted {
    /// What the conductor asked for is reported as done.
    fn lasting(&self) -> bool {
        self.job.is_some()
    }
}

/// Who is fetching what: whoever wants the same waits for the first, and then finds it here.
#[derive(Default)]
pub struct Turns(RefCell<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    pub async fn take(&self, what: &str) -> OwnedMutexGuard<()> {
        let turn = self.0.borrow_mut().entry(what.to_owned()).or_default().clone();
        turn.lock_owned().await
    }
}

/// On whose behalf the conductor asks, and how its answers are told apart.
pub struct Errand {
    pub id: u64,
    pub step: String,
}

impl Errand {
    pub fn wanted(&self, ecosystem: Ecosystem, subject: String, pin: Pin, size_bytes: Option<u64>) -> Wanted {
        Wanted { step: self.step.clone(), ecosystem, subject, pin, size_bytes, job: Some(self.id) }
    }
}

pub struct Fetched {
    pub verified: Verified,
    /// The base URL that delivered it; `None`: it was already here.
    pub upstream: Option<String>,
}

/// # Errors: each kind of [`FailureKind`] but Bug.
pub async fn fetch(
    gateway: &Gateway,
    wanted: &Wanted,
    upstreams: &[Upstream],
    locate: impl AsyncFn(&Upstream) -> Result<Url, Error>,
) -> Result<Fetched, Failure> {
    let fail = |error: Error| error.failure(&wanted.subject, Vec::new());
    let here = |verified| Ok(Fetched { verified, upstream: None });
    // What nothing pins is asked for, whatever is here.
    let pinned = !matches!(wanted.pin, Pin::Module(_));
    if pinned && let Some(verified) = find(gateway, wanted).await.map_err(fail)? {
        return here(verified);
    }
    let _turn = gateway.turns.take(wanted.pin.text()).await;
    let partial = adopt(gateway, wanted).await.map_err(fail)?;
    // Whoever held the lock before us may have finished it.
    if pinned && let Some(verified) = find(gateway, wanted).await.map_err(fail)? {
        discard(&partial);
        return here(verified);
    }
    let held = lock(&partial).len();
    let whole = held > 0 && wanted.size_bytes.is_none_or(|size| size == held);
    if whole && verify(&partial, &wanted.pin).await.is_ok() {
        return here(publish(gateway, partial, wanted).await.map_err(fail)?);
    }
    let asked = RefCell::new(HashSet::new());
    let reach = Reach { most_bytes: Cell::new(held), restarts_left: Cell::new(upstreams.len()) };
    let download = async |upstream: &Upstream| {
        asked.borrow_mut().insert(upstream.url.clone());
        let url = locate(upstream).await?;
        receive(gateway, wanted, upstream, &url, &partial, &reach).await.map(|()| upstream.clone())
    };
    let upstreams = gateway.ranked(wanted.ecosystem, upstreams).await;
    let next = gateway.next(wanted.ecosystem);
    let outcome = ask_in_turn(&wanted.subject, &upstreams, &gateway.limits, next, download).await;
    match outcome {
        Ok(upstream) => {
            let verified = publish(gateway, partial, wanted).await.map_err(fail)?;
            if let Pin::Module(name) = &wanted.pin {
                gave(gateway, wanted.ecosystem, module_of(name), &key_of(name), &upstream).await;
            }
            Ok(Fetched { verified, upstream: Some(upstream.url) })
        }
        Err(failure) => {
            let useless = lock(&partial).len() == 0 || lock(&partial).is_own();
            if failure.kind == FailureKind::Disk || useless {
                discard(&partial);
            }
            if let Pin::Module(name) = &wanted.pin
                && remains(
                    gateway,
                    wanted.ecosystem,
                    module_of(name),
                    &key_of(name),
                    &upstreams,
                    &asked.borrow(),
                    &failure,
                )
                && let Some(verified) = find(gateway, wanted).await.map_err(fail)?
            {
                return here(verified);
            }
            Err(failure)
        }
    }
}

/// The module of `module@version`.
fn module_of(name: &str) -> &str {
    name.rsplit_once('@').map_or(name, |(module, _)| module)
}

/// Under which its giver is noted.
fn key_of(name: &str) -> String {
    format!("giver of the zip of {name}")
}

/// How far this download ever came, so that upstreams that undo each other's work do not count as progress.
struct Reach {
    most_bytes: Cell<u64>,
    /// How often a partial that turned out wrong may be begun again as if it were new.
    restarts_left: Cell<usize>,
}

impl Reach {
    /// By how much `len` is more than ever before.
    fn gain(&self, len: u64) -> u64 {
        let most = self.most_bytes.replace(self.most_bytes.get().max(len));
        len.saturating_sub(most)
    }

    fn restart(&self) {
        if let Some(left) = self.restarts_left.get().checked_sub(1) {
            self.restarts_left.set(left);
            self.most_bytes.set(0);
        }
    }
}

type Shared = Arc<Mutex<Partial>>;

fn lock(partial: &Shared) -> MutexGuard<'_, Partial> {
    partial.lock().unwrap_or_else(PoisonError::into_inner)
}

fn discard(partial: &Shared) {
    lock(partial).discard();
}

async fn find(gateway: &Gateway, wanted: &Wanted) -> Result<Option<Verified>, Error> {
    let (downloads, pin, lasting) = (gateway.downloads.clone(), wanted.pin.clone(), wanted.lasting());
    let found = blocking(move || match downloads.find(&pin)? {
        Found::Verified(verified) if lasting => downloads.settle(&verified).map(|()| Found::Verified(verified)),
        found => Ok(found),
    });
    match found.await? {
        Found::Verified(verified) => Ok(Some(verified)),
        Found::Absent => Ok(None),
        Found::Quarantined(place) => {
            emit(&Event::Finding {
                code: "downloads.altered".to_owned(),
                subject: wanted.subject.clone(),
                message: format!(
                    "its file here had other bytes than its name says; moved to {} and fetched again",
                    place.display()
                ),
                trouble: None,
            });
            Ok(None)
        }
    }
}

/// Waits for the partial's lock while its holder shows a sign of life: an alive one is itself bounded by the limits. One that
/// was stopped (a suspended job, a frozen container) holds its lock as well, and is downloaded past.
async fn adopt(gateway: &Gateway, wanted: &Wanted) -> Result<Shared, Error> {
    let limits = &gateway.limits;
    let patience = Duration::from_secs(limits.connect_seconds + limits.first_byte_seconds + limits.stall_seconds);
    let (mut looked, mut alive) = (Instant::now(), Instant::now());
    let mut seen: Option<Holder> = None;
    loop {
        let (downloads, pin) = (gateway.downloads.clone(), wanted.pin.clone());
        if let Some(partial) = blocking(move || downloads.adopt(&pin)).await? {
            return Ok(Arc::new(Mutex::new(partial)));
        }
        tokio::time::sleep(LOCK_POLL).await;
        if looked.elapsed() < LOOK {
            continue;
        }
        looked = Instant::now();
        let (downloads, pin) = (gateway.downloads.clone(), wanted.pin.clone());
        let holder = blocking(move || Ok(downloads.holder(&pin))).await?;
        let who = holder.pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
        let tell = |code: &str, message: String| {
            emit(&Event::Finding { code: code.to_owned(), subject: wanted.subject.clone(), message, trouble: None });
        };
        if seen.is_none() {
            tell("downloads.waiting", format!("{who} is downloading it; waiting for that one"));
        }
        // Another task of ours does something by definition.
        if seen.as_ref() != Some(&holder) || holder.pid == Some(std::process::id()) {
            alive = looked;
            seen = Some(holder.clone());
        }
        // Whoever did nothing since it held the last artifact is not waited for again.
        let known =
            holder.pid.zip(holder.ticks).is_some_and(|(pid, ticks)| gateway.stopped.borrow().get(&pid) == Some(&ticks));
        if alive.elapsed() < patience && !known {
            continue;
        }
        let (downloads, pin) = (gateway.downloads.clone(), wanted.pin.clone());
        let Some(own) = blocking(move || downloads.adopt_beside(&pin)).await? else { continue };
        gateway.stopped.borrow_mut().extend(holder.pid.zip(holder.ticks));
        let (len, seconds) = (holder.len, patience.as_secs());
        let advice = holder.pid.map(|pid| format!("; `kill -CONT {pid}` lets it go on, `kill {pid}` ends it"));
        let message =
            format!("{who} holds it at {len} bytes and has done nothing for {seconds} s or more: fetched beside it");
        tell("downloads.held", message + &advice.unwrap_or_default());
        return Ok(Arc::new(Mutex::new(own)));
    }
}

async fn verify(partial: &Shared, pin: &Pin) -> Result<(), Error> {
    let (expected, got) = match pin {
        Pin::Sha256(expected) => (expected.clone(), lock(partial).sha256()),
        Pin::Other(expected) => {
            let (path, pin) = (lock(partial).path().to_owned(), pin.clone());
            (expected.clone(), blocking(move || pin.hash_of(&path)).await?)
        }
        Pin::H1(expected) => (expected.clone(), directory_hash(partial, "").await?),
        Pin::Module(name) => {
            let got = directory_hash(partial, &format!("{name}/")).await?;
            let expected = format!("a zip of the files below {name}/");
            if got.starts_with("h1:") { (got.clone(), got) } else { (expected, got) }
        }
    };
    if expected == got { Ok(()) } else { Err(Error::hash(&expected, &got)) }
}

/// Go's hash of a module zip whose entries begin with `prefix`, or what is wrong with it.
async fn directory_hash(partial: &Shared, prefix: &str) -> Result<String, Error> {
    let (path, prefix) = (lock(partial).path().to_owned(), prefix.to_owned());
    let hashed = blocking(move || match go::directory_hash(&path, &prefix) {
        Err(refusal) if refusal.kind == FailureKind::Disk => Err(Error::new(Kind::Disk, refusal.message)),
        Err(refusal) => Ok(refusal.message),
        Ok(hash) => Ok(hash),
    });
    hashed.await
}

async fn publish(gateway: &Gateway, partial: Shared, wanted: &Wanted) -> Result<Verified, Error> {
    let (downloads, pin, lasting) = (gateway.downloads.clone(), wanted.pin.clone(), wanted.lasting());
    blocking(move || downloads.publish(&lock(&partial), &pin, lasting)).await
}

/// Runs file work beside the sockets.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(cause) => Err(Error::new(Kind::Disk, format!("a file task of the gateway ended: {cause}"))),
    }
}

/// What takes longer than a thread's journey to parse.
const LONG_BYTES: usize = 128 << 10;

/// Reads what a mirror sent, beside the sockets where that may take long: one text must not hold up every other child.
pub async fn parsed<T: Send + 'static>(
    bytes: &Bytes,
    read: impl FnOnce(&[u8]) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    if bytes.len() < LONG_BYTES {
        return read(bytes);
    }
    let bytes = bytes.clone();
    blocking(move || read(&bytes)).await
}

/// Completes the partial from one URL and verifies it.
async fn receive(
    gateway: &Gateway,
    wanted: &Wanted,
    upstream: &Upstream,
    url: &Url,
    partial: &Shared,
    reach: &Reach,
) -> Result<(), Error> {
    // Set where this upstream cannot continue what is here: then all of it is compared with what it sends.
    let mut from_zero = false;
    loop {
        {
            // Zips of one module may differ between proxies: only the same URL continues them.
            let mut partial = lock(partial);
            let same = partial.source().is_some_and(|source| source.url == url.to_string());
            if partial.len() > 0 && matches!(wanted.pin, Pin::H1(_) | Pin::Module(_)) && !same {
                partial.restart()?;
            }
        }
        let resumed = lock(partial).len() > 0;
        match receive_once(gateway, wanted, upstream, url, partial, from_zero, reach).await {
            Err(error) if resumed && !from_zero && error.kind == Kind::Range => from_zero = true,
            // An older partial may be what is wrong: once from zero before anyone is blamed.
            Err(error) if resumed && !from_zero && matches!(error.kind, Kind::Hash { .. }) => {
                lock(partial).restart()?;
                reach.restart();
            }
            Err(error) if matches!(error.kind, Kind::Hash { .. }) => {
                lock(partial).restart()?;
                return Err(error);
            }
            result => return result,
        }
    }
}

async fn receive_once(
    gateway: &Gateway,
    wanted: &Wanted,
    upstream: &Upstream,
    url: &Url,
    partial: &Shared,
    from_zero: bool,
    reach: &Reach,
) -> Result<(), Error> {
    let mut headers = vec![(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"))];
    let from = if from_zero { 0 } else { lock(partial).len() };
    if from > 0 {
        headers.push((header::RANGE, header_value(&format!("bytes={from}-"))?));
        let validator = lock(partial)
            .source()
            .filter(|source| source.url == url.to_string())
            .and_then(|source| source.etag.clone());
        if let Some(etag) = validator {
            headers.push((header::IF_RANGE, header_value(&etag)?));
        }
    }
    let ask =
        Ask { step: &wanted.step, ecosystem: wanted.ecosystem, artifact: &wanted.subject, upstream, url, headers };
    let mut answer = gateway.client.get(&ask).await?;
    if let Err(mut error) = body(wanted, url, partial, from, &mut answer).await {
        if let Kind::Cut { gained_bytes } | Kind::Lull { gained_bytes } = &mut error.kind {
            *gained_bytes = reach.gain(lock(partial).len());
        }
        return Err(answer.rejected(error));
    }
    match verify(partial, &wanted.pin).await {
        Ok(()) => {
            answer.accepted();
            Ok(())
        }
        Err(error) => Err(answer.rejected(error)),
    }
}

async fn body(wanted: &Wanted, url: &Url, partial: &Shared, from: u64, answer: &mut Answer) -> Result<(), Error> {
    if answer.is_web_page() {
        let page = answer.chunk().await?.unwrap_or_default();
        return Err(web_page(&page));
    }
    let length = answer.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    // Where this body begins, and how long the whole is.
    let (at, total_bytes) = match answer.status {
        206 => match content_range(answer) {
            Some((at, total)) if at == from => (at, total),
            _ => return Err(Error::new(Kind::Range, format!("asked for bytes from {from}, it sent others"))),
        },
        // Ranges are not spoken here, or the entity changed: this is the whole.
        200 => (0, length),
        status => {
            return Err(Error::new(Kind::Status(status), format!("status {status} where a file was asked for")));
        }
    };
    if let (Some(pinned), Some(offered)) = (wanted.size_bytes, total_bytes)
        && pinned != offered
    {
        let start = answer.chunk().await?.unwrap_or_default();
        if looks_like_a_web_page(&start) {
            return Err(web_page(&start));
        }
        if from > 0 && answer.status == 206 {
            return Err(Error::new(Kind::Range, format!("it sent a part of {offered} bytes, {pinned} are wanted")));
        }
        return Err(Error::hash(&format!("{} in {pinned} bytes", wanted.pin.text()), &format!("{offered} bytes")));
    }
    let etag =
        answer.headers.get(header::ETAG).and_then(|value| value.to_str().ok()).filter(|etag| !etag.starts_with("W/"));
    lock(partial).set_source(Source { url: url.to_string(), etag: etag.map(str::to_owned) })?;
    write_body(wanted, partial, at, total_bytes, answer).await
}

/// Moves the body to the partial, reading the next piece while the last one is hashed and written.
async fn write_body(
    wanted: &Wanted,
    partial: &Shared,
    from: u64,
    total_bytes: Option<u64>,
    answer: &mut Answer,
) -> Result<(), Error> {
    let most = if wanted.ecosystem == Ecosystem::Hub { MAX_MODEL_BYTES } else { MAX_UNSIZED_BYTES };
    let limit_bytes = wanted.size_bytes.unwrap_or(most);
    let (pieces, mut arriving) = tokio::sync::mpsc::channel::<Bytes>(PIECES_AHEAD);
    let writer = {
        let partial = partial.clone();
        tokio::task::spawn_blocking(move || {
            let (mut partial, mut at) = (lock(&partial), from);
            while let Some(piece) = arriving.blocking_recv() {
                partial.take(at, &piece)?;
                at += piece.len() as u64;
            }
            Ok(())
        })
    };
    let mut received_bytes = from;
    let mut told = Instant::now();
    let reading = loop {
        let piece = match answer.chunk().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        if received_bytes == 0 && looks_like_a_web_page(&piece) {
            break Err(web_page(&piece));
        }
        received_bytes += piece.len() as u64;
        if received_bytes > limit_bytes {
            break Err(Error::hash(&format!("{} in {limit_bytes} bytes", wanted.pin.text()), "more bytes"));
        }
        if pieces.send(piece).await.is_err() {
            break Ok(()); // The writer stopped; its own error says why.
        }
        if let Some(id) = wanted.job.filter(|_| told.elapsed() >= PROGRESS_INTERVAL) {
            told = Instant::now();
            emit(&Event::Progress { id, received_bytes, total_bytes: wanted.size_bytes.or(total_bytes) });
        }
    };
    drop(pieces);
    match writer.await {
        Ok(written) => written?,
        Err(cause) => {
            return Err(Error::new(Kind::Disk, format!("the writing task ended: {cause}")));
        }
    }
    reading?;
    // A body that is only delimited by its end can be cut without anyone noticing, and a server may send less of a range
    // than was asked for.
    match wanted.size_bytes.or(total_bytes) {
        Some(total) if received_bytes < total => Err(Error::new(
            Kind::Cut { gained_bytes: 0 },
            format!("the body ended at {received_bytes} of {total} bytes"),
        )),
        // What an older partial had behind the end.
        _ => lock(partial).shorten(received_bytes),
    }
}

/// Where a partial answer begins, and how long the whole is if it says so: `bytes 5-9/100`, `bytes 5-9/*`.
fn content_range(answer: &Answer) -> Option<(u64, Option<u64>)> {
    let value = answer.headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split('-').next()?.parse().ok()?, total.parse().ok()))
}

pub fn header_value(text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(text).map_err(|cause| Error::new(Kind::Configuration, cause.to_string()))
}
