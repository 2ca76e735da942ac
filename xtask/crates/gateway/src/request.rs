//! One request to one upstream: admission, connection, redirects, and bodies that cannot keep us waiting.
//!
//! Owns: the redirect policy, the time bounds of an answer, kept-alive connections. Never: follow https down to http, send
//! a credential to another origin than its own, or hold more of a body in memory than the caller's bound.
//! Rules: ARCHITECTURE.md, "Invariants".

use crate::connect::{Connector, Forward, Peer};
use crate::error::{Error, Kind};
use crate::ledger::Entry;
use crate::oci::{self, Challenge, TokenRequest};
use crate::secrets;
use crate::upstream::{Hosts, PROGRESS_BYTES, others_left};
use crate::url::{Origin, Url};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use protocol::{Cause, Credentials, Ecosystem, Limits, Upstream, Verdict};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Write;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Receiver;

const MAX_HOPS: usize = 10;
const MAX_IDLE_PER_ORIGIN: usize = 8;
/// As much of a web page or an error page as is read to cite its first words.
const CITED_BYTES: usize = 2048;
/// How long its first words are waited for; the status says enough without them.
const CITING: Duration = Duration::from_secs(1);
/// Texts shrink to a tenth or a thirtieth; what grows more than this beyond its first megabyte was made to.
const MAX_GROWTH: usize = 200;
/// Of a text whose length nobody says, while another upstream is left.
const MIN_TEXT_BYTES_PER_SECOND: u64 = 10_000;
const MAX_TOKEN_BYTES: usize = 1 << 20;
const USER_AGENT: &str = concat!("cargo-xtask-gateway/", env!("CARGO_PKG_VERSION"));

pub struct Client {
    connector: Rc<Connector>,
    hosts: Hosts,
    limits: Limits,
    /// `Some`: nobody else is connected to.
    allowed_hosts: Option<BTreeSet<String>>,
    idle: RefCell<HashMap<Origin, Vec<Idle>>>,
    /// Base URL of an upstream's repository → what proved who asks, mostly a token; sent to that URL's origin only.
    proofs: RefCell<HashMap<String, String>>,
    /// Registries that gave a manifest, and how long their blobs' first byte is waited for.
    patience: RefCell<HashMap<Origin, Duration>>,
    /// Hosts whose error pages do not come; not waited for again.
    mute: RefCell<HashSet<Origin>>,
    trail: Option<Rc<RefCell<Trail>>>,
}

/// The way of a probe's requests, kept outside of them: a probe that has to break off must know how far it came.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    /// Who was asked, each once, in this order.
    pub origins: Vec<Origin>,
    /// Who was asked last.
    pub last: Option<Origin>,
    /// Of the first connection.
    pub peer: Peer,
    pub connect: Option<Duration>,
    /// In all connections together.
    pub connecting: Duration,
    pub issuer: Option<String>,
    /// Of the last answer.
    pub status: Option<u16>,
    /// The longest wait from a request to its answer, redirects included, connections not.
    pub first_byte: Option<Duration>,
}

struct Idle {
    sender: SendRequest<Load>,
    peer: Peer,
    forward: Option<Forward>,
}

/// What is asked, of whom, and under which name it enters the ledger.
pub struct Ask<'a> {
    /// On whose behalf.
    pub step: &'a str,
    pub ecosystem: Ecosystem,
    pub artifact: &'a str,
    pub upstream: &'a Upstream,
    pub url: &'a Url,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// An answer with status 2xx or 304 whose body is still to be read.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// Where the redirects ended.
    pub url: Url,
    pub peer: Peer,
    body: Incoming,
    connection: Option<(Rc<Client>, Idle)>,
    entry: Entry,
    pace: Pace,
}

/// An answer to what was sent, whatever its status.
pub struct Sent {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub page: Vec<u8>,
    pub peer: Peer,
    /// Whether it came after the whole load was gone.
    pub whole: bool,
    pub retry_after: Option<Duration>,
}

impl Sent {
    /// What it says of itself: its status, and the first words behind it.
    pub fn told(&self) -> String {
        let words = oci::refusal(&self.page).unwrap_or_else(|| first_words(&self.page));
        let said = if words.is_empty() { String::new() } else { format!(": “{words}”") };
        format!("{}{said}", self.status)
    }
}

/// What a HEAD said on its way.
pub struct Head {
    /// 2xx, 3xx where the way was not followed to its end, or 404.
    pub status: StatusCode,
    /// One a hop, the last is the answer's.
    pub hops: Vec<HeaderMap>,
    pub peer: Peer,
}

/// A short text held in memory: an index entry, a project page.
pub struct Document {
    pub headers: HeaderMap,
    pub url: Url,
    pub bytes: Bytes,
}

impl Client {
    /// Whether some host counts what it is asked: see [`Hosts::limit_anybody`].
    pub fn is_limited(&self) -> bool {
        self.hosts.limit_anybody()
    }

    pub fn new(connector: Connector, limits: Limits, allowed_hosts: Option<BTreeSet<String>>) -> Self {
        Self {
            connector: Rc::new(connector),
            hosts: Hosts::default(),
            limits,
            allowed_hosts,
            idle: RefCell::default(),
            proofs: RefCell::default(),
            patience: RefCell::default(),
            mute: RefCell::default(),
            trail: None,
        }
    }

    /// A client with the same ways out and rules that knows no host and no connection yet, and leaves a trail.
    pub fn tracked(&self, trail: Rc<RefCell<Trail>>) -> Self {
        Self {
            connector: self.connector.clone(),
            hosts: Hosts::default(),
            limits: self.limits.clone(),
            allowed_hosts: self.allowed_hosts.clone(),
            idle: RefCell::default(),
            proofs: RefCell::default(),
            patience: RefCell::default(),
            mute: RefCell::default(),
            trail: Some(trail),
        }
    }

    fn note(&self, change: impl FnOnce(&mut Trail)) {
        if let Some(trail) = &self.trail {
            change(&mut trail.borrow_mut());
        }
    }

    /// From now on blobs of this registry may take so long to begin.
    pub fn wait_for_blobs(&self, registry: &Origin, first_byte: Duration) {
        self.patience.borrow_mut().insert(registry.clone(), first_byte);
    }

    /// Sends the request and follows redirects until an answer that carries content.
    /// # Errors: any kind but Hash, Range and Disk; the ledger has its line in each case.
    pub async fn get(self: &Rc<Self>, ask: &Ask<'_>) -> Result<Answer, Error> {
        self.get_from(ask, true).await
    }

    /// `authorize`: whether a registry's request for a token is answered; its token service itself gets none.
    pub async fn get_from(self: &Rc<Self>, ask: &Ask<'_>, authorize: bool) -> Result<Answer, Error> {
        let mut entry = begin(ask);
        let (started, connecting) = (Instant::now(), self.trail.as_ref().map(|trail| trail.borrow().connecting));
        let followed = self.follow(ask, &Method::GET, authorize, &mut entry, &mut |_| false).await;
        self.note(|trail| {
            let connected = trail.connecting.saturating_sub(connecting.unwrap_or_default());
            let waited = followed.is_ok().then(|| started.elapsed().saturating_sub(connected));
            trail.first_byte = trail.first_byte.max(waited);
        });
        match followed {
            Ok((response, idle, url)) => Ok(Answer {
                status: response.status().as_u16(),
                headers: response.headers().clone(),
                url,
                peer: idle.peer.clone(),
                body: response.into_body(),
                connection: Some((self.clone(), idle)),
                entry,
                pace: Pace::new(&self.limits),
            }),
            Err(error) => Err(failed(entry, error)),
        }
    }

    /// Asks for the head only, and follows redirects until one of them is `enough`.
    /// # Errors: as [`Client::get`], but a 404 is an answer: its headers may say what exactly is missing.
    pub async fn head(self: &Rc<Self>, ask: &Ask<'_>, enough: impl Fn(&HeaderMap) -> bool) -> Result<Head, Error> {
        let (mut entry, mut hops) = (begin(ask), Vec::new());
        let mut passed = |headers: &HeaderMap| {
            hops.push(headers.clone());
            enough(headers)
        };
        match self.follow(ask, &Method::HEAD, true, &mut entry, &mut passed).await {
            Ok((response, idle, url)) => {
                let status = response.status();
                if !status.is_redirection() {
                    hops.push(response.headers().clone());
                }
                entry.judged(if status == StatusCode::NOT_FOUND { Verdict::Absent } else { Verdict::Ok });
                let peer = idle.peer.clone();
                self.recycle_when_drained(response.into_body(), idle, url.origin);
                Ok(Head { status, hops, peer })
            }
            Err(error) => Err(failed(entry, error)),
        }
    }

    /// A whole text of at most `max_bytes`, unpacked where the server sent it compressed.
    pub async fn document(self: &Rc<Self>, ask: Ask<'_>, max_bytes: usize) -> Result<Document, Error> {
        self.document_from(ask, max_bytes, true).await
    }

    async fn document_from(
        self: &Rc<Self>,
        mut ask: Ask<'_>,
        max_bytes: usize,
        authorize: bool,
    ) -> Result<Document, Error> {
        let others = others_left();
        if others && self.hosts.is_slow(&ask.url.origin) {
            return Err(Error::new(Kind::KnownSlow, "not asked again while others are left: it was too slow"));
        }
        ask.headers.push((header::ACCEPT_ENCODING, HeaderValue::from_static("gzip")));
        let mut answer = self.get_from(&ask, authorize).await?;
        let compressed = answer.headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding == "gzip");
        let bytes = match answer.read_to_end(max_bytes, compressed, others).await {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) => {
                if error.kind == Kind::Slow {
                    self.hosts.slow(&ask.url.origin);
                }
                return Err(answer.rejected(error));
            }
        };
        answer.entry.judged(Verdict::Ok);
        Ok(Document { headers: answer.headers.clone(), url: answer.url.clone(), bytes })
    }

    /// One request that may carry something, and its answer as it is: no redirect is followed and no status is an error.
    ///
    /// `load` makes what is sent, again where a kept connection turns out to be closed. `patience`: from the last byte of it to
    /// the answer.
    /// # Errors: as [`Client::get`]; the ledger has its line in each case.
    pub async fn send(
        self: &Rc<Self>,
        ask: &Ask<'_>,
        method: &Method,
        load: &dyn Fn() -> Load,
        patience: Duration,
    ) -> Result<Sent, Error> {
        let mut entry = begin(ask);
        let taken = Cell::new(0);
        let exchanged = match self.must_be_allowed(ask.url) {
            Ok(()) => self.hand_over(ask, method, load, patience, &taken).await,
            Err(error) => Err(error),
        };
        entry.sent(taken.get());
        let (response, idle, whole) = match exchanged {
            Ok(exchanged) => exchanged,
            Err(error) => return Err(failed(entry, error)),
        };
        let (parts, mut body) = response.into_parts();
        entry.answered(parts.status.as_u16());
        let (mut page, mut pace) = (Vec::new(), Pace::new(&self.limits));
        let (peer, mut ended) = (idle.peer.clone(), false);
        // Tokens and errors; of longer ones the beginning says enough.
        while page.len() < MAX_TOKEN_BYTES && !ended {
            match pace.chunk(&mut body).await {
                Ok(Some(chunk)) => {
                    entry.received(chunk.len());
                    page.extend_from_slice(&chunk);
                }
                Ok(None) => ended = true,
                Err(_) => break,
            }
        }
        if ended && whole {
            self.recycle(ask.url.origin.clone(), idle);
        }
        entry.judged(match parts.status.as_u16() {
            200..400 => Verdict::Ok,
            404 | 410 => Verdict::Absent,
            429 => Verdict::Limited,
            _ => Verdict::Status,
        });
        let retry_after = retry_after(&parts.headers);
        Ok(Sent { status: parts.status, headers: parts.headers, page, peer, whole, retry_after })
    }

    /// `taken`: how much of the load left us, whatever came of it.
    async fn hand_over(
        self: &Rc<Self>,
        ask: &Ask<'_>,
        method: &Method,
        load: &dyn Fn() -> Load,
        patience: Duration,
        taken: &Cell<u64>,
    ) -> Result<(Response<Incoming>, Idle, bool), Error> {
        loop {
            let kept = self.take_idle(&ask.url.origin);
            let is_kept = kept.is_some();
            let mut idle = match kept {
                Some(mut idle) => {
                    idle.peer.url = Some(ask.url.to_string());
                    if idle.sender.ready().await.is_err() {
                        continue;
                    }
                    idle
                }
                None => self.connect(ask.url).await?,
            };
            let (peer, load) = (idle.peer.clone(), load());
            let (whole_bytes, progress) = (load.left_bytes(), load.taken());
            let request = build(ask, method, ask.url, None, idle.forward.as_ref(), load)?;
            let answer = self.paced(idle.sender.send_request(request), &progress, whole_bytes, patience).await;
            taken.set(taken.get() + progress.get());
            match answer {
                Ok(Ok(response)) => return Ok((response, idle, progress.get() == whole_bytes)),
                // The server closed it while it was idle; that says nothing about a new one.
                Ok(Err(_)) if is_kept && progress.get() == 0 => {}
                Ok(Err(cause)) => return Err(broken(&cause, &peer)),
                Err(error) => return Err(error.at(&peer)),
            }
        }
    }

    /// Waits for an answer while every window takes a minimum of the load, and for `patience` once all of it is gone.
    async fn paced<T>(
        &self,
        answer: impl Future<Output = T>,
        taken: &Cell<u64>,
        whole_bytes: u64,
        patience: Duration,
    ) -> Result<T, Error> {
        let window = Duration::from_secs(self.limits.stall_seconds);
        let mut answer = std::pin::pin!(answer);
        while taken.get() < whole_bytes {
            let before = taken.get();
            if let Ok(answer) = tokio::time::timeout(window, &mut answer).await {
                return Ok(answer);
            }
            let gone_bytes = taken.get() - before;
            if taken.get() < whole_bytes && gone_bytes < self.limits.minimum_bytes {
                let seconds = window.as_secs();
                let message = format!("it took {gone_bytes} bytes in {seconds} s");
                return Err(Error::new(Kind::Stalled, message).told(Cause::Slow { bytes: gone_bytes, seconds }));
            }
        }
        tokio::time::timeout(patience, answer).await.map_err(|_| {
            let message = format!("no answer within {} s of the request", patience.as_secs());
            Error::new(Kind::Stalled, message).told(Cause::NoAnswer { milliseconds: milliseconds(patience) })
        })
    }

    async fn follow(
        self: &Rc<Self>,
        ask: &Ask<'_>,
        method: &Method,
        authorize: bool,
        entry: &mut Entry,
        passed: &mut dyn FnMut(&HeaderMap) -> bool,
    ) -> Result<(Response<Incoming>, Idle, Url), Error> {
        let mut url = ask.url.clone();
        let mut may_authorize = authorize && ask.ecosystem == Ecosystem::Oci;
        for _ in 0..=MAX_HOPS {
            let (response, idle) = self.exchange(ask, method, &url).await?;
            let status = response.status();
            entry.answered(status.as_u16());
            let challenge = Challenge::of(response.headers());
            if status == StatusCode::UNAUTHORIZED
                && url.origin == ask.url.origin
                && may_authorize
                && (challenge.is_some() || ask.upstream.login.is_some())
            {
                may_authorize = false;
                self.recycle_when_drained(response.into_body(), idle, url.origin.clone());
                // One line of the ledger for each of the two requests.
                std::mem::replace(entry, begin(ask)).judged(Verdict::Status);
                let proof = Box::pin(self.prove(ask, challenge.as_ref())).await?;
                secrets::learn(&proof);
                self.proofs.borrow_mut().insert(ask.upstream.url.clone(), proof);
                continue;
            }
            let location =
                response.headers().get(header::LOCATION).filter(|_| status.is_redirection() && status.as_u16() != 304);
            let Some(location) = location.filter(|_| !passed(response.headers())) else {
                if location.is_some() || (method == Method::HEAD && status == StatusCode::NOT_FOUND) {
                    return Ok((response, idle, url));
                }
                return match self.refusal(&url.origin, response, entry).await {
                    Ok(response) => Ok((response, idle, url)),
                    Err(error) if status == StatusCode::UNAUTHORIZED && ask.ecosystem == Ecosystem::Oci => {
                        Err(unauthorized(ask, error.message).at(&idle.peer))
                    }
                    Err(error) => Err(error.at(&idle.peer)),
                };
            };
            let location = location
                .to_str()
                .map_err(|_| Error::new(Kind::Malformed, "a redirect to an unreadable place").at(&idle.peer))?;
            let target = url
                .join(location)
                .map_err(|error| Error::new(Kind::Malformed, format!("redirect: {}", error.message)).at(&idle.peer))?;
            let target = url.origin.led_to(target).map_err(|error| error.at(&idle.peer))?;
            if target.origin != url.origin {
                entry.redirected_to(&target.origin.authority());
            }
            self.recycle_when_drained(response.into_body(), idle, url.origin);
            url = target;
        }
        Err(Error::new(Kind::Malformed, format!("more than {MAX_HOPS} redirects, the last to {url}")))
    }

    /// What a registry's question who asks is answered with: the value of an `Authorization` header.
    async fn prove(self: &Rc<Self>, ask: &Ask<'_>, challenge: Option<&Challenge>) -> Result<String, Error> {
        let token = match (challenge, &ask.upstream.login) {
            (_, Some(Credentials::Token(token))) => token.clone(),
            (None, Some(Credentials::Password(basic))) => return Ok(basic.clone()),
            (Some(challenge), Some(login)) => self.token_for(ask, challenge, login).await?,
            (Some(challenge), None) => self.token(ask, challenge).await?,
            (None, _) => return Err(unauthorized(ask, "it asks for a password, and none is known".to_owned())),
        };
        Ok(format!("Bearer {token}"))
    }

    /// A token for the user, who logged in at this registry: it names the service over TLS, and could as well ask for the password
    /// itself.
    async fn token_for(
        self: &Rc<Self>,
        ask: &Ask<'_>,
        challenge: &Challenge,
        login: &Credentials,
    ) -> Result<String, Error> {
        let request = TokenRequest::new(challenge, challenge.scopes(), Some(login), &ask.url.origin)?;
        let artifact = format!("token for {}", ask.artifact);
        let upstream = Upstream { url: ask.url.origin.to_string(), login: None, ..ask.upstream.clone() };
        let headers = request.headers.clone();
        let ask = Ask { artifact: &artifact, upstream: &upstream, url: &request.url, headers, ..*ask };
        let patience = Duration::from_secs(self.limits.first_byte_seconds);
        let sent = self.send(&ask, &request.method, &|| request.load(), patience).await?;
        match sent.status.is_success() {
            true => oci::token(&sent.page).map_err(|error| error.at(&sent.peer)),
            false => Err(unauthorized(&ask, sent.told()).at(&sent.peer)),
        }
    }

    /// Asks a registry's token service. The upstream's credentials go there only if it is at one of its own origins.
    async fn token(self: &Rc<Self>, ask: &Ask<'_>, challenge: &Challenge) -> Result<String, Error> {
        let url = challenge.url()?;
        if ask.url.origin.https && !url.origin.https {
            let message = format!("it sends to a token service without TLS, {}; that is never asked", url.origin);
            return Err(Error::new(Kind::Tls, message));
        }
        let artifact = format!("token for {}", ask.artifact);
        // Its base names no repository, so that no token is sent for a token.
        let upstream = Upstream { url: ask.url.origin.to_string(), ..ask.upstream.clone() };
        let ask = Ask { artifact: &artifact, upstream: &upstream, url: &url, headers: Vec::new(), ..*ask };
        let document = self.document_from(ask, MAX_TOKEN_BYTES, false).await?;
        oci::token(&document.bytes)
    }

    /// Turns every status that carries no content into its error, with the first words of the page.
    async fn refusal(
        &self,
        origin: &Origin,
        mut response: Response<Incoming>,
        entry: &mut Entry,
    ) -> Result<Response<Incoming>, Error> {
        let status = response.status();
        if status.is_success() || status.as_u16() == 304 {
            return Ok(response);
        }
        let retry_after = retry_after(response.headers());
        let kind = match status.as_u16() {
            404 | 410 => Kind::Absent,
            416 => Kind::Range,
            429 => Kind::Limited { retry_after },
            503 if retry_after.is_some() => Kind::Limited { retry_after },
            // RFC 6585: the answer of a captive portal.
            511 => Kind::Html,
            code => Kind::Status(code),
        };
        let mut pace = Pace::new(&self.limits);
        let mut page = Vec::new();
        if !self.mute.borrow().contains(origin) {
            let reading = async {
                while page.len() < CITED_BYTES
                    && let Ok(Some(chunk)) = pace.chunk(response.body_mut()).await
                {
                    entry.received(chunk.len());
                    page.extend_from_slice(&chunk);
                }
            };
            if tokio::time::timeout(CITING, reading).await.is_err() {
                self.mute.borrow_mut().insert(origin.clone());
            }
        }
        let words = oci::refusal(&page).unwrap_or_else(|| first_words(&page));
        let said = if words.is_empty() { String::new() } else { format!(": “{words}”") };
        let wait = retry_after.map(|wait| format!(", asking to wait {} s", wait.as_secs())).unwrap_or_default();
        let error = Error::new(kind, format!("{status}{wait}{said}"));
        Err(if error.kind == Kind::Html { error.told(Cause::Page { words }) } else { error })
    }

    fn must_be_allowed(&self, url: &Url) -> Result<(), Error> {
        let origin = &url.origin;
        if self.allowed_hosts.as_ref().is_some_and(|allowed| !allowed.contains(&origin.authority())) {
            let message =
                format!("{url} is outside the profile, and `mirrors-only` forbids to contact {}", origin.authority());
            let cause = Cause::Outside { url: url.to_string(), host: origin.authority() };
            return Err(Error::new(Kind::Forbidden, message).told(cause));
        }
        Ok(())
    }

    /// One request to one origin, on a kept connection where there is one.
    async fn exchange(
        self: &Rc<Self>,
        ask: &Ask<'_>,
        method: &Method,
        url: &Url,
    ) -> Result<(Response<Incoming>, Idle), Error> {
        let origin = &url.origin;
        self.must_be_allowed(url)?;
        self.note(|trail| {
            if !trail.origins.contains(origin) {
                trail.origins.push(origin.clone());
            }
            trail.last = Some(origin.clone());
        });
        let _admission = self
            .hosts
            .admit(origin)
            .await
            .map_err(|error| error.at(&Peer { url: Some(url.to_string()), ..Peer::default() }))?;
        let result = self.exchange_admitted(ask, method, url).await;
        if let Ok((response, _)) = &result {
            self.note(|trail| trail.status = Some(response.status().as_u16()));
        }
        match &result {
            Ok((response, _)) => {
                match retry_after(response.headers()).filter(|_| matches!(response.status().as_u16(), 429 | 503)) {
                    Some(wait) if wait > Duration::from_secs(self.limits.retry_after_seconds) => {
                        let limited = Kind::Limited { retry_after: Some(wait) };
                        let message = format!("it asked to wait {} s, longer than the limit", wait.as_secs());
                        self.hosts.dead(origin, &Error::new(limited, message))
                    }
                    Some(wait) => self.hosts.asleep(origin, wait),
                    None => self.hosts.alive(origin),
                }
            }
            Err(error) if matches!(error.kind, Kind::Dead | Kind::Tls | Kind::Stalled) => {
                self.hosts.dead(origin, error)
            }
            Err(_) => {}
        }
        result
    }

    async fn exchange_admitted(
        &self,
        ask: &Ask<'_>,
        method: &Method,
        url: &Url,
    ) -> Result<(Response<Incoming>, Idle), Error> {
        let patient = self.patience.borrow().get(&ask.url.origin).copied().filter(|_| oci::is_blob(ask));
        let first_byte = patient.unwrap_or(Duration::from_secs(self.limits.first_byte_seconds));
        let proof = self.proofs.borrow().get(&ask.upstream.url).cloned();
        let request = |idle: &Idle| build(ask, method, url, proof.as_deref(), idle.forward.as_ref(), Load::Nothing);
        let silence = |peer: &Peer| {
            let message = format!("no answer within {} s of the request", first_byte.as_secs());
            let cause = Cause::NoAnswer { milliseconds: milliseconds(first_byte) };
            Error::new(Kind::Stalled, message).told(cause).at(peer)
        };
        while let Some(mut idle) = self.take_idle(&url.origin) {
            idle.peer.url = Some(url.to_string());
            if idle.sender.ready().await.is_err() {
                continue;
            }
            let request = request(&idle)?;
            match tokio::time::timeout(first_byte, idle.sender.send_request(request)).await {
                Ok(Ok(response)) => return Ok((response, idle)),
                // The server closed it while it was idle; that says nothing about a new one.
                Ok(Err(_)) => {}
                Err(_) => return Err(silence(&idle.peer)),
            }
        }
        let mut idle = self.connect(url).await?;
        let peer = idle.peer.clone();
        let request = request(&idle)?;
        match tokio::time::timeout(first_byte, idle.sender.send_request(request)).await {
            Ok(Ok(response)) => Ok((response, idle)),
            Ok(Err(cause)) => Err(broken(&cause, &peer)),
            Err(_) => Err(silence(&peer)),
        }
    }

    async fn connect(&self, url: &Url) -> Result<Idle, Error> {
        let started = Instant::now();
        let opened = self.connector.open(url).await;
        self.note(|trail| {
            trail.connecting += started.elapsed();
            if trail.peer.url.is_none() {
                trail.peer = match &opened {
                    Ok(connection) => connection.peer.clone(),
                    Err(error) => (*error.peer).clone(),
                };
                trail.connect = opened.is_ok().then(|| started.elapsed());
                trail.issuer = self.connector.issuer(&url.origin.host);
            }
        });
        let connection = opened?;
        let peer = connection.peer;
        let (sender, driver) =
            handshake(TokioIo::new(connection.stream)).await.map_err(|cause| broken(&cause, &peer))?;
        tokio::task::spawn_local(driver);
        Ok(Idle { sender, peer, forward: connection.forward })
    }

    fn take_idle(&self, origin: &Origin) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(origin)?;
        connections.retain(|connection| !connection.sender.is_closed());
        connections.pop()
    }

    fn recycle(&self, origin: Origin, connection: Idle) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(origin).or_default();
        if connections.len() < MAX_IDLE_PER_ORIGIN && !connection.sender.is_closed() {
            connections.push(connection);
        }
    }

    /// A redirect's own body is of no interest, its connection is: crate downloads redirect once each.
    fn recycle_when_drained(self: &Rc<Self>, mut body: Incoming, connection: Idle, origin: Origin) {
        let client = self.clone();
        tokio::task::spawn_local(async move {
            let mut pace = Pace::new(&client.limits);
            let mut drained = 0;
            while let Ok(Some(chunk)) = pace.chunk(&mut body).await {
                drained += chunk.len();
                if drained > CITED_BYTES {
                    return;
                }
            }
            client.recycle(origin, connection);
        });
    }
}

impl Answer {
    /// The next piece of the body; `None` at its end.
    /// # Errors: Stalled, Lull or Cut.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        match self.pace.chunk(&mut self.body).await {
            Ok(Some(chunk)) => {
                self.entry.received(chunk.len());
                Ok(Some(chunk))
            }
            Ok(None) => {
                if let Some((client, connection)) = self.connection.take() {
                    client.recycle(self.url.origin.clone(), connection);
                }
                Ok(None)
            }
            Err(mut error) => {
                let connection = self.connection.take();
                if error.kind == Kind::Stalled {
                    if self.entry.received_bytes() >= PROGRESS_BYTES {
                        // A path through the network was lost, not the host.
                        error.kind = Kind::Lull { gained_bytes: 0 };
                    } else if let Some((client, _)) = connection {
                        client.hosts.dead(&self.url.origin, &error);
                    }
                }
                Err(error)
            }
        }
    }

    /// As [`Self::chunk`]. `others`: whether somebody else could be asked for it.
    /// # Errors: Slow too.
    async fn piece(&mut self, others: bool) -> Result<Option<Bytes>, Error> {
        let piece = self.chunk().await?;
        let length = self.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if others && piece.is_some() && self.pace.is_too_slow(length) {
            let (came_bytes, seconds) = (self.pace.came_bytes, self.pace.spent.as_secs());
            let message = format!("{came_bytes} bytes in {seconds} s; another upstream is asked for it");
            return Err(Error::new(Kind::Slow, message).told(Cause::Slow { bytes: came_bytes, seconds }));
        }
        Ok(piece)
    }

    async fn read_to_end(&mut self, max_bytes: usize, compressed: bool, others: bool) -> Result<Vec<u8>, Error> {
        let too_long = || Error::new(Kind::Malformed, format!("its answer is longer than {max_bytes} bytes"));
        let mut plain = Bounded { bytes: Vec::new(), max_bytes };
        if compressed {
            let mut decoder = flate2::write::GzDecoder::new(plain);
            let undecodable = |cause: std::io::Error| match cause.kind() {
                std::io::ErrorKind::FileTooLarge => Error::new(
                    Kind::Malformed,
                    format!("unpacked, its answer is longer than {max_bytes} bytes or grows beyond reason"),
                ),
                _ => Error::new(Kind::Malformed, format!("its gzip encoding is broken: {cause}")),
            };
            let mut received_bytes = 0;
            while let Some(chunk) = self.piece(others).await? {
                received_bytes += chunk.len();
                decoder.get_mut().max_bytes = max_bytes.min((1 << 20) + received_bytes * MAX_GROWTH);
                decoder.write_all(&chunk).map_err(undecodable)?;
            }
            plain = decoder.finish().map_err(undecodable)?;
        } else {
            while let Some(chunk) = self.piece(others).await? {
                plain.write_all(&chunk).map_err(|_| too_long())?;
            }
        }
        Ok(plain.bytes)
    }

    pub fn accepted(mut self) {
        self.entry.judged(Verdict::Ok);
    }

    /// Ends this answer with an error: the ledger's verdict and the error's peer follow from it.
    pub fn rejected(&mut self, error: Error) -> Error {
        self.entry.judged(error.verdict());
        error.at(&self.peer)
    }

    /// An error if this is a web page and no artifact can be one.
    pub fn is_web_page(&self) -> bool {
        let content_type = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        content_type.is_some_and(|value| value.trim_start().to_ascii_lowercase().starts_with("text/html"))
    }
}

/// `Retry-After` in seconds; its other form, a date, needs clocks that agree and is not obeyed.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// Whether bytes that should be an artifact begin as a web page does, whatever the header said.
pub fn looks_like_a_web_page(bytes: &[u8]) -> bool {
    let start: Vec<u8> = bytes.trim_ascii_start().iter().take(14).map(u8::to_ascii_lowercase).collect();
    start.starts_with(b"<!doctype html") || start.starts_with(b"<html")
}

/// # Returns the error that names the page by its first words.
pub fn web_page(bytes: &[u8]) -> Error {
    let words = first_words(bytes);
    let message = format!("a web page came instead, a captive portal or a login: “{words}”");
    Error::new(Kind::Html, message).told(Cause::Page { words })
}

/// The first readable words of a page: tags, scripts' quotes and control characters taken out, at most 80 characters.
fn first_words(page: &[u8]) -> String {
    let text = String::from_utf8_lossy(&page[..page.len().min(CITED_BYTES)]);
    let mut inside_tag = false;
    let mut words = String::new();
    for c in text.chars() {
        match c {
            '<' => inside_tag = true,
            '>' => {
                inside_tag = false;
                words.push(' ');
            }
            _ if inside_tag => {}
            c if c.is_control() => words.push(' '),
            c => words.push(c),
        }
    }
    secrets::masked_page(&words.split_whitespace().collect::<Vec<_>>().join(" ")).chars().take(80).collect()
}

/// Requires of a body that every window of waiting brings a minimum of bytes.
struct Pace {
    window: Duration,
    minimum_bytes: u64,
    waited: Duration,
    received_bytes: u64,
    /// In all windows together.
    spent: Duration,
    came_bytes: u64,
}

impl Pace {
    fn new(limits: &Limits) -> Self {
        Self {
            window: Duration::from_secs(limits.stall_seconds),
            minimum_bytes: limits.minimum_bytes,
            waited: Duration::ZERO,
            received_bytes: 0,
            spent: Duration::ZERO,
            came_bytes: 0,
        }
    }

    /// Only time spent waiting for the peer counts: a slow disk of ours is not its fault.
    async fn chunk(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, Error> {
        loop {
            let started = Instant::now();
            let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
            let frame = tokio::time::timeout(self.window.saturating_sub(self.waited), frame).await;
            self.waited += started.elapsed();
            self.spent += started.elapsed();
            match frame {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => {
                    let Ok(chunk) = frame.into_data() else {
                        continue;
                    };
                    self.received_bytes += chunk.len() as u64;
                    self.came_bytes += chunk.len() as u64;
                    if self.waited < self.window {
                        return Ok(Some(chunk));
                    }
                    self.close_window()?;
                    return Ok(Some(chunk));
                }
                Ok(Some(Err(cause))) => {
                    return Err(Error::new(
                        Kind::Cut { gained_bytes: 0 },
                        format!("the body ended early: {}", chain(&cause)),
                    ));
                }
                Err(_) => self.close_window()?,
            }
        }
    }

    /// Whether the whole, at the rate so far, comes later than anybody waits for it. Known after two windows; children wait for
    /// six (a minute).
    fn is_too_slow(&self, length: Option<u64>) -> bool {
        let (spent, patience) = (self.spent.as_secs_f64(), self.window.as_secs_f64() * 6.0);
        let least_bytes = spent * MIN_TEXT_BYTES_PER_SECOND as f64;
        spent >= self.window.as_secs_f64() * 2.0
            && match length {
                Some(length) => length > self.came_bytes && spent * length as f64 > patience * self.came_bytes as f64,
                None => spent > patience || (self.came_bytes as f64) < least_bytes,
            }
    }

    fn close_window(&mut self) -> Result<(), Error> {
        let received_bytes = std::mem::take(&mut self.received_bytes);
        self.waited = Duration::ZERO;
        if received_bytes >= self.minimum_bytes {
            return Ok(());
        }
        let message = format!(
            "{received_bytes} bytes in {} s, less than the {} asked for",
            self.window.as_secs(),
            self.minimum_bytes
        );
        let cause = Cause::Slow { bytes: received_bytes, seconds: self.window.as_secs() };
        Err(Error::new(Kind::Stalled, message).told(cause))
    }
}

/// An index may name files on a host of its own choice: the ledger says who led us there.
fn begin(ask: &Ask<'_>) -> Entry {
    let asked = Url::parse(&ask.upstream.url).map_or_else(|_| ask.url.origin.clone(), |home| home.origin);
    let mut entry = Entry::begin(ask.step, ask.ecosystem, ask.artifact, &asked.authority());
    if asked != ask.url.origin {
        entry.redirected_to(&ask.url.origin.authority());
    }
    entry
}

fn failed(mut entry: Entry, error: Error) -> Error {
    entry.judged(error.verdict());
    if matches!(error.kind, Kind::KnownDead | Kind::Asleep { .. }) {
        entry.withdraw_unless_answered();
    }
    error
}

/// `token`: what stands in place of the upstream's own authorization.
fn build(
    ask: &Ask<'_>,
    method: &Method,
    url: &Url,
    proof: Option<&str>,
    forward: Option<&Forward>,
    load: Load,
) -> Result<Request<Load>, Error> {
    let uri = match forward {
        Some(_) => format!("{}{}", url.origin, url.path_and_query()),
        None => url.path_and_query(),
    };
    let mut request = Request::builder().method(method).uri(uri).header(header::HOST, url.origin.authority());
    // A child's own name is passed on: some mirrors refuse whom they do not know.
    if !ask.headers.iter().any(|(name, _)| *name == header::USER_AGENT) {
        request = request.header(header::USER_AGENT, USER_AGENT);
    }
    let at = |root: &str| Url::parse(root).is_ok_and(|root| root.origin == url.origin);
    let secret = if at(&ask.upstream.url) {
        proof.or(ask.upstream.authorization.as_deref())
    } else {
        let second = ask.upstream.second.as_deref().filter(|second| at(second));
        second.and(ask.upstream.second_authorization.as_deref())
    };
    if let Some(secret) = secret {
        request = request.header(header::AUTHORIZATION, secret);
    }
    if let Some(secret) = forward.and_then(|forward| forward.authorization.as_deref()) {
        request = request.header(header::PROXY_AUTHORIZATION, secret);
    }
    for (name, value) in &ask.headers {
        request = request.header(name, value);
    }
    // The cause would cite a header's value, so it is left out.
    request
        .body(load)
        .map_err(|_| Error::new(Kind::Configuration, "its URL or its credentials cannot be put into a request"))
}

fn unauthorized(ask: &Ask<'_>, text: String) -> Error {
    let named = ask.upstream.login.is_some() || ask.upstream.authorization.is_some();
    Error::new(Kind::Status(401), &text).told(Cause::Unauthorized { named, text })
}

fn broken(cause: &hyper::Error, peer: &Peer) -> Error {
    let message = format!("the connection broke before an answer: {}", chain(cause));
    Error::new(Kind::Cut { gained_bytes: 0 }, message).at(peer)
}

pub fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The sentence of an error and of everything that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

struct Bounded {
    bytes: Vec<u8>,
    max_bytes: usize,
}

impl Write for Bounded {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + buffer.len() > self.max_bytes {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a request carries.
pub enum Load {
    Nothing,
    Bytes {
        bytes: Bytes,
        taken: Taken,
    },
    /// Pieces that are read on another thread.
    Pieces {
        pieces: Receiver<std::io::Result<Bytes>>,
        left_bytes: u64,
        taken: Taken,
    },
}

/// How many bytes of a load the connection took.
pub type Taken = Rc<Cell<u64>>;

impl Load {
    fn left_bytes(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Bytes { bytes, .. } => bytes.len() as u64,
            Self::Pieces { left_bytes, .. } => *left_bytes,
        }
    }

    fn taken(&self) -> Taken {
        match self {
            Self::Nothing => Taken::default(),
            Self::Bytes { taken, .. } | Self::Pieces { taken, .. } => taken.clone(),
        }
    }
}

impl Body for Load {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let piece = match &mut *self {
            Self::Nothing => None,
            Self::Bytes { bytes, .. } if bytes.is_empty() => None,
            Self::Bytes { bytes, .. } => Some(Ok(std::mem::take(bytes))),
            Self::Pieces { pieces, left_bytes, .. } => {
                let piece = std::task::ready!(pieces.poll_recv(context));
                if let Some(Ok(piece)) = &piece {
                    *left_bytes = left_bytes.saturating_sub(piece.len() as u64);
                }
                piece
            }
        };
        if let Some(Ok(piece)) = &piece {
            let taken = self.taken();
            taken.set(taken.get() + piece.len() as u64);
        }
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left_bytes() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes())
    }
}
