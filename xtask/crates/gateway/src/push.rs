//! Pushing to OCI registries: an image's blobs, its manifests by their digest, and last its tag.
//!
//! Whatever happens on the way, a tag names the image of before or the whole new one. What the registry has is not sent: it is
//! asked for each blob first. An upload goes in one piece; what is cut off goes on where the registry says that it ended, and a
//! registry that takes no such pieces gets smaller ones.
//! Owns: the push API, who is told the credentials, how long a registry that misbehaves is borne. Never: tag what is not wholly
//! there, send a credential to another origin than the registry's own and the token service that it names, ask a mirror, or
//! speak plain http with another machine.
//! Rules: OCI distribution specification 1.1, "Push"; the registry token specification of its reference implementation;
//! docs/decisions/0014-registry-push.md.

use crate::error::{Error, Kind};
use crate::fetch::Errand;
use crate::ledger::emit;
use crate::oci::{self, Challenge, DIGEST, TokenRequest, parameter};
use crate::request::{Ask, Client, Load, Sent, Taken, looks_like_a_web_page};
use crate::url::Url;
use crate::{Gateway, secrets};
use bytes::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use protocol::{
    Cause, Credentials, Ecosystem, Event, Failure, FailureKind, Limits, Push, PushBlob, PushContent, PushManifest,
    Pushed, Upstream,
};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::channel;
use tokio::task::JoinSet;

/// Blobs on their way at once.
const LANES: usize = 4;
/// How often in a row something is tried that brings nothing, and how often in all.
const MAX_TRIES: u32 = 5;
const MAX_FAILURES: u32 = 32;
/// Before the second try; doubled before each further one.
const PAUSE: Duration = Duration::from_millis(200);
const MAX_REDIRECTS: usize = 5;
/// Tokens expire between being asked for and being used; who refuses each of so many lets nobody in.
const MAX_PROOFS: usize = 3;
/// How large the pieces are of who takes none as large as the whole, and how small they get.
const CHUNK_BYTES: u64 = 16 << 20;
const MIN_CHUNK_BYTES: u64 = 16 << 10;
const PIECE_BYTES: usize = 128 << 10;
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// A registry that has all bytes of a blob hashes them and may move them to its storage before it answers.
const SETTLING_BYTES_PER_SECOND: u64 = 4 << 20;
const SETTLING: u32 = 6;
const MIN_CHUNK: HeaderName = HeaderName::from_static("oci-chunk-min-length");
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";

/// # Errors: Refused where the registry does not want the image, Network where it was not reached or did not last, Egress, Disk
/// and Configuration as elsewhere. Nothing is tagged then.
pub async fn push(gateway: &Rc<Gateway>, errand: &Errand, push: Push) -> Result<Pushed, Failure> {
    let subject = format!("{}/{}:{}", push.registry.split("://").last().unwrap_or_default(), push.repository, push.tag);
    let session = Session::new(gateway, errand, push).map_err(|error| error.failure(&subject, Vec::new()))?;
    session.push().await.map_err(|error| {
        let kind = match error.kind {
            Kind::Forbidden => FailureKind::Egress,
            Kind::Disk => FailureKind::Disk,
            Kind::Hash { .. } => FailureKind::Integrity,
            Kind::Configuration => FailureKind::Configuration,
            Kind::Dead | Kind::Tls | Kind::Stalled | Kind::Cut { .. } | Kind::Limited { .. } => FailureKind::Network,
            _ => FailureKind::Refused,
        };
        let attempts = vec![error.attempt(&session.upstream, 1)];
        Failure { kind, subject, message: error.message, attempts }
    })
}

/// One image on its way to one repository.
struct Session {
    gateway: Rc<Gateway>,
    client: Rc<Client>,
    limits: Limits,
    id: u64,
    step: String,
    /// The registry, without credentials: they are added where they belong.
    upstream: Upstream,
    /// `…/v2/team/extproc`
    base: Url,
    push: Push,
    /// For the registry's own origin.
    authorization: RefCell<Option<String>>,
    done: Cell<Pushed>,
    /// Bytes of blobs that are settled, and when somebody was told.
    settled_bytes: Cell<u64>,
    told: Cell<Instant>,
}

/// What became of a blob.
enum Fate {
    Present,
    Mounted,
    Sent,
}

/// An upload that the registry knows.
struct Upload {
    at: Url,
    /// What the registry has.
    offset: u64,
    /// The registry wants pieces of at least this.
    least_bytes: u64,
    /// `None`: all that is left in one piece.
    chunk_bytes: Option<u64>,
}

/// What follows an answer to a piece.
enum Step {
    Done,
    Next,
    /// It brought nothing; the registry is asked how far it is.
    Again(Error),
    /// The registry forgot the upload.
    Anew(Error),
}

impl Session {
    fn new(gateway: &Rc<Gateway>, errand: &Errand, push: Push) -> Result<Rc<Self>, Error> {
        push.credentials.iter().for_each(secrets::learn_login);
        let upstream = Upstream {
            url: push.registry.clone(),
            second: None,
            last_resort: false,
            origin: "registry".to_owned(),
            authorization: None,
            second_authorization: None,
            login: None,
        };
        let base = Url::parse(&push.registry)?.below(&format!("v2/{}", push.repository))?;
        Ok(Rc::new(Self {
            gateway: gateway.clone(),
            client: gateway.client.clone(),
            limits: gateway.limits.clone(),
            id: errand.id,
            step: errand.step.clone(),
            upstream,
            base,
            push,
            authorization: RefCell::default(),
            done: Cell::default(),
            settled_bytes: Cell::default(),
            told: Cell::new(Instant::now()),
        }))
    }

    async fn push(self: &Rc<Self>) -> Result<Pushed, Error> {
        let Some(root) = self.push.manifests.last() else {
            return Err(Error::new(Kind::Configuration, "there is no manifest to push"));
        };
        // The first question, so that one token serves all that follow.
        let tagged = self.digest_of(&self.push.tag).await?;
        let before = self.done.get();
        self.blobs().await?;
        let all_present = self.done.get().present == before.present + self.push.blobs.len() as u64;
        if all_present && tagged.as_deref() == Some(&root.digest) {
            return Ok(self.done.get());
        }
        if let Err(error) = self.manifests().await {
            // A registry may take some time to know what it took, or have lost what it said to have.
            if error.kind != Kind::Absent {
                return Err(error);
            }
            tokio::time::sleep(PAUSE).await;
            let counted = self.done.get().present;
            self.blobs().await?;
            self.done.set(Pushed { present: counted, ..self.done.get() });
            self.manifests().await?;
        }
        self.manifest(root, &self.push.tag).await?;
        Ok(self.done.get())
    }

    /// Every blob, some at a time.
    async fn blobs(self: &Rc<Self>) -> Result<(), Error> {
        let waiting = Rc::new(RefCell::new((0..self.push.blobs.len()).collect::<VecDeque<_>>()));
        let mut lanes = JoinSet::new();
        for _ in 0..LANES.min(self.push.blobs.len()) {
            let (session, waiting) = (self.clone(), waiting.clone());
            lanes.spawn_local(async move {
                loop {
                    let Some(index) = waiting.borrow_mut().pop_front() else { return Ok::<_, Error>(()) };
                    let blob = &session.push.blobs[index];
                    let fate = session.blob(blob).await?;
                    session.settle(blob, &fate);
                }
            });
        }
        // Dropping the others ends them.
        while let Some(lane) = lanes.join_next().await {
            lane.map_err(|cause| Error::new(Kind::Configuration, cause.to_string()))??;
        }
        Ok(())
    }

    fn settle(&self, blob: &PushBlob, fate: &Fate) {
        let mut done = self.done.get();
        match fate {
            Fate::Present => done.present += 1,
            Fate::Mounted => done.mounted += 1,
            Fate::Sent => done.sent += 1,
        }
        self.done.set(done);
        self.settled_bytes.set(self.settled_bytes.get() + blob.size_bytes);
        self.progress(0);
    }

    /// `under_way_bytes`: of a blob that is not settled yet.
    fn progress(&self, under_way_bytes: u64) {
        if self.told.get().elapsed() >= PROGRESS_INTERVAL {
            self.told.set(Instant::now());
            let whole_bytes: u64 = self.push.blobs.iter().map(|blob| blob.size_bytes).sum();
            let received_bytes = (self.settled_bytes.get() + under_way_bytes).min(whole_bytes);
            emit(&Event::Progress { id: self.id, received_bytes, total_bytes: Some(whole_bytes) });
        }
    }

    async fn blob(&self, blob: &PushBlob) -> Result<Fate, Error> {
        if self.has(blob).await? {
            return Ok(Fate::Present);
        }
        let Some(mut upload) = self.mounted_or_begun(blob).await? else { return Ok(Fate::Mounted) };
        let blob = &self.brought(blob).await?;
        check_size(blob)?;
        let (mut tries, mut failures, mut furthest) = (0, 0, 0);
        loop {
            let before = upload.offset;
            let (error, anew) = match self.advance(blob, &mut upload).await? {
                Step::Done => return Ok(Fate::Sent),
                Step::Next if upload.offset > before => {
                    if upload.offset > furthest {
                        (furthest, tries) = (upload.offset, 0);
                    }
                    continue;
                }
                Step::Next => (malformed("it accepted a piece of the blob and kept nothing of it"), false),
                Step::Again(error) => (error, false),
                Step::Anew(error) => (error, true),
            };
            (tries, failures) = (tries + 1, failures + 1);
            if tries >= MAX_TRIES || failures >= MAX_FAILURES {
                return Err(error);
            }
            let wait = self.wait(&error, tries)?;
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            // Some close the connection where a piece is too large, instead of saying so.
            if matches!(error.kind, Kind::Cut { .. }) && tries > 1 {
                let piece_bytes = upload.chunk_bytes.unwrap_or(blob.size_bytes).min(CHUNK_BYTES);
                upload.chunk_bytes = Some((piece_bytes / 4).max(MIN_CHUNK_BYTES).max(upload.least_bytes));
            }
            // Where its own word does not help, it does not know how far it is.
            let lost = error.kind == Kind::Range && tries > 1;
            if anew || lost || !self.resumed(blob, &mut upload).await? {
                upload = Upload { chunk_bytes: upload.chunk_bytes, ..self.begin(blob).await? };
            }
            if upload.offset > furthest {
                (furthest, tries) = (upload.offset, 0);
            }
        }
    }

    /// The blob with bytes that are here.
    async fn brought<'b>(&self, blob: &'b PushBlob) -> Result<Cow<'b, PushBlob>, Error> {
        let PushContent::Base(repository) = &blob.content else { return Ok(Cow::Borrowed(blob)) };
        let errand = Errand { id: self.id, step: self.step.clone() };
        let sha256 = blob.digest.trim_start_matches("sha256:");
        let fetched = oci::base_blob(&self.gateway, &errand, repository, sha256, blob.size_bytes).await;
        let content = PushContent::File(fetched.map_err(|failure| Error::of_failure(&failure))?.verified.path);
        Ok(Cow::Owned(PushBlob { content, ..blob.clone() }))
    }

    /// Whether the registry has a blob of this length.
    async fn has(&self, blob: &PushBlob) -> Result<bool, Error> {
        let url = self.base.below(&format!("blobs/{}", blob.digest))?;
        let answer = self.steady(&blob_name(blob), &Method::HEAD, &url, Vec::new(), &|| Load::Nothing).await?;
        let length = answer.headers.get(header::CONTENT_LENGTH).and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
        match answer.status.as_u16() {
            200 => Ok(length == Some(blob.size_bytes)),
            401 => Err(self.unauthorized(&answer)),
            // The upload will tell.
            _ => Ok(false),
        }
    }

    /// `None`: the registry took it from another repository.
    async fn mounted_or_begun(&self, blob: &PushBlob) -> Result<Option<Upload>, Error> {
        let Some(from) = &blob.mount_from else { return self.begin(blob).await.map(Some) };
        let uploads = self.base.below("blobs/uploads/")?;
        let query = format!("{}&{}", parameter("mount", &blob.digest), parameter("from", from));
        let url = uploads.with_parameter(&query);
        let answer = self.steady(&blob_name(blob), &Method::POST, &url, Vec::new(), &|| Load::Nothing).await?;
        match answer.status {
            StatusCode::CREATED => check_digest(&answer, &blob.digest).map(|()| None),
            StatusCode::ACCEPTED => self.begun(&answer, &url).map(Some),
            // Who may not read the other repository may still write to this one.
            _ => self.begin(blob).await.map(Some),
        }
    }

    async fn begin(&self, blob: &PushBlob) -> Result<Upload, Error> {
        let url = self.base.below("blobs/uploads/")?;
        let answer = self.steady(&blob_name(blob), &Method::POST, &url, Vec::new(), &|| Load::Nothing).await?;
        match answer.status {
            StatusCode::ACCEPTED => self.begun(&answer, &url),
            _ => Err(self.refused(&answer)),
        }
    }

    fn begun(&self, answer: &Sent, url: &Url) -> Result<Upload, Error> {
        let nowhere = || malformed("it began an upload and did not say where (no Location)").at(&answer.peer);
        let at = self.location(answer, url)?.ok_or_else(nowhere)?;
        let least = answer.headers.get(MIN_CHUNK).and_then(|it| it.to_str().ok()?.trim().parse().ok());
        Ok(Upload { at, offset: 0, least_bytes: least.unwrap_or_default(), chunk_bytes: None })
    }

    /// One piece of an upload, or its end.
    /// # Errors: what no repetition could help.
    async fn advance(&self, blob: &PushBlob, upload: &mut Upload) -> Result<Step, Error> {
        let left_bytes = blob.size_bytes - upload.offset;
        let whole = upload.offset == 0 && upload.chunk_bytes.is_none();
        let piece_bytes = if whole { left_bytes } else { left_bytes.min(upload.chunk_bytes.unwrap_or(u64::MAX)) };
        let closing = whole || left_bytes == 0;
        let mut headers = vec![(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))];
        let (method, url) = if closing {
            (Method::PUT, upload.at.clone().with_parameter(&parameter("digest", &blob.digest)))
        } else {
            let range = format!("{}-{}", upload.offset, upload.offset + piece_bytes - 1);
            headers.extend(HeaderValue::from_str(&range).ok().map(|range| (header::CONTENT_RANGE, range)));
            (Method::PATCH, upload.at.clone())
        };
        let taken = Taken::default();
        let load = || {
            taken.set(0);
            load(&blob.content, upload.offset, piece_bytes, &taken)
        };
        let name = blob_name(blob);
        let asking = self.ask(&name, &method, &url, headers, &load, self.settling(piece_bytes));
        let answer = match self.watched(asking, &taken, upload.offset).await {
            Ok(answer) => answer,
            Err(error) if is_passing(&error.kind) => return Ok(Step::Again(error)),
            Err(error) => return Err(error),
        };
        let refused = self.refused(&answer);
        match answer.status.as_u16() {
            201 if closing && answer.whole => check_digest(&answer, &blob.digest).map(|()| Step::Done),
            // Some say 201 or 204 where 202 is meant.
            201 | 202 | 204 if !closing && answer.whole => {
                let sent_to = upload.offset + piece_bytes;
                upload.at = self.location(&answer, &url)?.unwrap_or_else(|| upload.at.clone());
                match range_end(&answer) {
                    Some(end) if end > sent_to => {
                        Ok(Step::Anew(malformed("it claims to have more of the blob than was sent").at(&answer.peer)))
                    }
                    Some(end) => {
                        upload.offset = end;
                        Ok(Step::Next)
                    }
                    None => {
                        upload.offset = sent_to;
                        Ok(Step::Next)
                    }
                }
            }
            200..=399 if !answer.whole => {
                Ok(Step::Anew(malformed("it answered before it had the bytes").at(&answer.peer)))
            }
            416 => Ok(Step::Again(refused)),
            // It takes no upload in one piece.
            405 | 411 | 501 if whole => {
                upload.chunk_bytes = Some(CHUNK_BYTES.max(upload.least_bytes));
                Ok(Step::Anew(refused))
            }
            413 if !closing || whole => {
                let smaller = piece_bytes.min(CHUNK_BYTES) / 4;
                if smaller < MIN_CHUNK_BYTES.max(upload.least_bytes) {
                    return Err(refused);
                }
                upload.chunk_bytes = Some(smaller);
                Ok(Step::Again(refused))
            }
            404 | 410 => Ok(Step::Anew(refused)),
            // The bytes were altered on their way, or it joined pieces wrongly: from the beginning.
            400 if oci::refusal(&answer.page)
                .is_some_and(|it| it.starts_with("DIGEST_INVALID") || it.contains("SIZE_INVALID")) =>
            {
                Ok(Step::Anew(refused))
            }
            408 | 429 | 500 | 502..=504 => Ok(Step::Again(refused)),
            _ => Err(refused),
        }
    }

    /// Asks how far an upload is. `false`: the registry does not say, or does not know it.
    async fn resumed(&self, blob: &PushBlob, upload: &mut Upload) -> Result<bool, Error> {
        let url = upload.at.clone();
        let answer = self.steady(&blob_name(blob), &Method::GET, &url, Vec::new(), &|| Load::Nothing).await?;
        let end = range_end(&answer).filter(|end| answer.status.is_success() && *end <= blob.size_bytes);
        let Some(end) = end else { return Ok(false) };
        upload.at = self.location(&answer, &url)?.unwrap_or(url);
        upload.offset = end;
        Ok(true)
    }

    async fn manifests(&self) -> Result<(), Error> {
        for manifest in &self.push.manifests {
            self.manifest(manifest, &manifest.digest).await?;
        }
        Ok(())
    }

    /// # Errors: Absent where the registry lacks something that the manifest names.
    async fn manifest(&self, manifest: &PushManifest, reference: &str) -> Result<(), Error> {
        let url = self.base.below(&format!("manifests/{reference}"))?;
        let media_type = HeaderValue::from_str(&manifest.media_type)
            .map_err(|_| Error::new(Kind::Configuration, "the manifest's media type is none"))?;
        let bytes = Bytes::from(manifest.text.clone());
        let load = || Load::Bytes { bytes: bytes.clone(), taken: Taken::default() };
        let name = format!("manifest {}", manifest.digest);
        let answer = self.steady(&name, &Method::PUT, &url, vec![(header::CONTENT_TYPE, media_type)], &load).await?;
        match answer.status {
            StatusCode::CREATED => check_digest(&answer, &manifest.digest),
            _ if oci::refusal(&answer.page)
                .is_some_and(|it| it.starts_with("MANIFEST_BLOB_UNKNOWN") || it.starts_with("BLOB_UNKNOWN")) =>
            {
                let mut error = self.refused(&answer);
                error.kind = Kind::Absent;
                Err(error)
            }
            _ => Err(self.refused(&answer)),
        }
    }

    /// What a tag names now, where the registry says so.
    async fn digest_of(&self, tag: &str) -> Result<Option<String>, Error> {
        let url = self.base.below(&format!("manifests/{tag}"))?;
        let headers = vec![(header::ACCEPT, HeaderValue::from_static(ACCEPTED))];
        let name = format!("manifest of tag {tag}");
        let answer = self.steady(&name, &Method::HEAD, &url, headers, &|| Load::Nothing).await?;
        match answer.status.as_u16() {
            200 => Ok(answer.headers.get(DIGEST).and_then(|it| it.to_str().ok()).map(str::to_owned)),
            401 => Err(self.unauthorized(&answer)),
            _ => Ok(None),
        }
    }

    /// A short request, repeated while what hinders it may pass.
    async fn steady(
        &self,
        name: &str,
        method: &Method,
        url: &Url,
        headers: Vec<(HeaderName, HeaderValue)>,
        load: &dyn Fn() -> Load,
    ) -> Result<Sent, Error> {
        let mut tries = 1;
        loop {
            let asked = self.ask(name, method, url, headers.clone(), load, self.settling(0)).await;
            let error = match asked {
                Ok(answer) if !matches!(answer.status.as_u16(), 408 | 429 | 500 | 502..=504) => return Ok(answer),
                Ok(answer) => self.refused(&answer),
                Err(error) if is_passing(&error.kind) => error,
                Err(error) => return Err(error),
            };
            if tries == MAX_TRIES {
                return Err(error);
            }
            tokio::time::sleep(self.wait(&error, tries)?).await;
            tries += 1;
        }
    }

    /// How long after the given try the next one is made.
    /// # Errors: the same where the registry asks for more than anybody waits.
    fn wait(&self, error: &Error, tries: u32) -> Result<Duration, Error> {
        match error.kind {
            Kind::Limited { retry_after: Some(wait) }
                if wait > Duration::from_secs(self.limits.retry_after_seconds) =>
            {
                Err(error.clone())
            }
            Kind::Limited { retry_after: Some(wait) } => Ok(wait),
            // Nothing of it passes by waiting.
            Kind::Range | Kind::Malformed | Kind::Absent => Ok(Duration::ZERO),
            _ => Ok(PAUSE * 2_u32.pow(tries.min(MAX_TRIES) - 1)),
        }
    }

    /// After the last of so many bytes.
    fn settling(&self, size_bytes: u64) -> Duration {
        let usual = Duration::from_secs(self.limits.first_byte_seconds);
        match size_bytes {
            0 => usual,
            _ => usual * SETTLING + Duration::from_secs(size_bytes / SETTLING_BYTES_PER_SECOND),
        }
    }

    /// Tells how far a piece is while it is sent.
    async fn watched<T>(&self, asking: impl Future<Output = T>, taken: &Taken, offset: u64) -> T {
        let mut asking = std::pin::pin!(asking);
        let answer = loop {
            match tokio::time::timeout(PROGRESS_INTERVAL, &mut asking).await {
                Ok(answer) => break answer,
                Err(_) => self.progress(offset + taken.get()),
            }
        };
        let mut done = self.done.get();
        done.sent_bytes += taken.get();
        self.done.set(done);
        answer
    }

    /// One request with the credentials that it needs, along redirects that keep it as it is.
    async fn ask(
        &self,
        name: &str,
        method: &Method,
        url: &Url,
        headers: Vec<(HeaderName, HeaderValue)>,
        load: &dyn Fn() -> Load,
        patience: Duration,
    ) -> Result<Sent, Error> {
        let (mut url, mut redirects, mut proofs) = (url.clone(), 0, 0);
        loop {
            let authorization = self.authorization.borrow().clone().filter(|_| url.origin == self.base.origin);
            let answer = self.send(name, method, &url, &headers, authorization.clone(), load, patience).await?;
            let is_read = matches!(*method, Method::GET | Method::HEAD);
            match answer.status.as_u16() {
                401 if proofs < MAX_PROOFS && url.origin == self.base.origin => {
                    proofs += 1;
                    self.prove(&answer, authorization.as_deref()).await?;
                }
                307 | 308 if redirects < MAX_REDIRECTS => {
                    redirects += 1;
                    url = self.redirect(&answer, &url)?;
                }
                301..=303 if is_read && redirects < MAX_REDIRECTS => {
                    redirects += 1;
                    url = self.redirect(&answer, &url)?;
                }
                300..=399 => {
                    let message = format!("it redirects where that cannot be followed ({})", answer.status);
                    return Err(malformed(&message).at(&answer.peer));
                }
                _ => return Ok(answer),
            }
        }
    }

    #[allow(clippy::too_many_arguments)] // A request has these parts.
    async fn send(
        &self,
        name: &str,
        method: &Method,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
        authorization: Option<String>,
        load: &dyn Fn() -> Load,
        patience: Duration,
    ) -> Result<Sent, Error> {
        if !url.origin.https && !url.origin.is_loopback() {
            let message =
                format!("plain http is spoken with this machine's own loopback only, not with {}", url.origin);
            return Err(Error::new(Kind::Tls, message));
        }
        let mut headers = headers.to_vec();
        if let Some(authorization) = authorization {
            let value = HeaderValue::from_str(&authorization)
                .map_err(|_| Error::new(Kind::Configuration, "its credentials cannot be put into a request"))?;
            headers.push((header::AUTHORIZATION, value));
        }
        let ask =
            Ask { step: &self.step, ecosystem: Ecosystem::Oci, artifact: name, upstream: &self.upstream, url, headers };
        self.client.send(&ask, method, load, patience).await
    }

    fn redirect(&self, answer: &Sent, from: &Url) -> Result<Url, Error> {
        self.location(answer, from)?.ok_or_else(|| malformed("a redirect to nowhere").at(&answer.peer))
    }

    /// Where an answer leads to, if it says so.
    fn location(&self, answer: &Sent, from: &Url) -> Result<Option<Url>, Error> {
        let Some(location) = answer.headers.get(header::LOCATION) else { return Ok(None) };
        let target = location
            .to_str()
            .map_err(|_| malformed("it leads to an unreadable place"))
            .and_then(|location| {
                from.join(location).map_err(|error| malformed(&format!("Location: {}", error.message)))
            })
            .and_then(|target| from.origin.led_to(target));
        target.map(Some).map_err(|error| error.at(&answer.peer))
    }

    /// Answers a demand for credentials. `sent`: what was refused.
    async fn prove(&self, answer: &Sent, sent: Option<&str>) -> Result<(), Error> {
        if self.authorization.borrow().as_deref() != sent {
            // Another lane has renewed it meanwhile.
            return Ok(());
        }
        let authorization = match (Challenge::of(&answer.headers), &self.push.credentials) {
            (_, Some(Credentials::Token(token))) => format!("Bearer {token}"),
            (Some(challenge), _) => format!("Bearer {}", self.token(&challenge, answer).await?),
            (None, Some(Credentials::Password(basic))) if wants_password(answer) => basic.clone(),
            (None, _) => return Err(self.unauthorized(answer)),
        };
        secrets::learn(&authorization);
        if sent == Some(authorization.as_str()) {
            return Err(self.unauthorized(answer));
        }
        self.authorization.replace(Some(authorization));
        Ok(())
    }

    /// A token for all that a push needs, whatever the registry asked for first. The registry names the service over TLS, and
    /// could as well ask for the password itself.
    async fn token(&self, challenge: &Challenge, answer: &Sent) -> Result<String, Error> {
        let from: HashSet<&String> = self.push.blobs.iter().filter_map(|blob| blob.mount_from.as_ref()).collect();
        let mut scopes = vec![format!("repository:{}:pull,push", self.push.repository)];
        scopes.extend(from.iter().map(|repository| format!("repository:{repository}:pull")));
        let name = format!("token for {}", self.push.repository);
        let request = TokenRequest::new(challenge, &scopes, self.push.credentials.as_ref(), &self.base.origin)
            .map_err(|error| error.at(&answer.peer))?;
        let TokenRequest { method, url, headers, .. } = &request;
        let mut tries = 1;
        loop {
            // No redirect is followed: the credentials are for this place.
            let load = || request.load();
            let sent = self.send(&name, method, url, headers, None, &load, self.settling(0)).await;
            let error = match sent {
                Ok(granted) if granted.status.is_success() => {
                    return oci::token(&granted.page).map_err(|error| error.at(&granted.peer));
                }
                Ok(refused) if matches!(refused.status.as_u16(), 400 | 401 | 403) => {
                    return Err(self.unauthorized(&refused));
                }
                Ok(refused) => self.refused(&refused),
                Err(error) => error,
            };
            if tries == MAX_TRIES || !is_passing(&error.kind) {
                return Err(error);
            }
            tokio::time::sleep(self.wait(&error, tries)?).await;
            tries += 1;
        }
    }

    fn unauthorized(&self, answer: &Sent) -> Error {
        let (named, text) = (self.push.credentials.is_some(), answer.told());
        Error::new(Kind::Status(401), &text).at(&answer.peer).told(Cause::Unauthorized { named, text })
    }

    /// A status that is no success, as an error.
    fn refused(&self, answer: &Sent) -> Error {
        let kind = match answer.status.as_u16() {
            401 => return self.unauthorized(answer),
            413 => Kind::Status(413),
            416 => Kind::Range,
            404 | 410 => Kind::Absent,
            429 => Kind::Limited { retry_after: answer.retry_after },
            503 if answer.retry_after.is_some() => Kind::Limited { retry_after: answer.retry_after },
            code => Kind::Status(code),
        };
        let text = answer.told();
        let cause = match &kind {
            Kind::Limited { .. } => None,
            _ if looks_like_a_web_page(&answer.page) => Some(Cause::Page { words: text.clone() }),
            _ => Some(Cause::Status { text: text.clone() }),
        };
        let error = Error::new(kind, &text).at(&answer.peer);
        match cause {
            Some(cause) => error.told(cause),
            None => error,
        }
    }
}

fn is_passing(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Dead | Kind::Stalled | Kind::Cut { .. } | Kind::Limited { .. } | Kind::Status(408 | 500 | 502..=504)
    )
}

fn malformed(message: &str) -> Error {
    Error::new(Kind::Malformed, message)
}

fn blob_name(blob: &PushBlob) -> String {
    format!("blob {}", blob.digest)
}

fn wants_password(answer: &Sent) -> bool {
    let demands = answer.headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|it| it.to_str().ok());
    demands.map(str::trim_start).any(|it| it.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic")))
}

/// # Errors: Hash where the registry says that it has something else.
fn check_digest(answer: &Sent, expected: &str) -> Result<(), Error> {
    match answer.headers.get(DIGEST).map(|it| it.to_str().unwrap_or_default()) {
        Some(told) if told != expected => {
            let message = format!("it says that it has {told}, and was given {expected}");
            Err(malformed(&message).at(&answer.peer))
        }
        _ => Ok(()),
    }
}

/// How far a registry says that an upload is. `0-0` is how many say that nothing is there.
fn range_end(answer: &Sent) -> Option<u64> {
    let range = answer.headers.get(header::RANGE)?.to_str().ok()?.trim().trim_start_matches("bytes=");
    match range.split_once('-')? {
        ("0", "0") => Some(0),
        ("0", end) => end.parse::<u64>().ok()?.checked_add(1),
        _ => None,
    }
}

/// # Errors: Disk where the file is not as long as its descriptor says.
fn check_size(blob: &PushBlob) -> Result<(), Error> {
    let PushContent::File(path) = &blob.content else { return Ok(()) };
    let size_bytes = path.metadata().map_err(|cause| Error::disk("read", path, &cause))?.len();
    if size_bytes == blob.size_bytes {
        return Ok(());
    }
    let message = format!("{} has {size_bytes} bytes, not {}", path.display(), blob.size_bytes);
    Err(Error::new(Kind::Disk, message))
}

/// A piece of a blob.
fn load(content: &PushContent, offset: u64, size_bytes: u64, taken: &Taken) -> Load {
    let taken = taken.clone();
    let path = match content {
        _ if size_bytes == 0 => return Load::Nothing,
        PushContent::Text(text) => {
            let (from, to) = (usize::try_from(offset).unwrap_or(usize::MAX), usize::try_from(offset + size_bytes));
            let bytes = text.as_bytes().get(from..to.unwrap_or(usize::MAX)).unwrap_or_default();
            return Load::Bytes { bytes: Bytes::copy_from_slice(bytes), taken };
        }
        PushContent::File(path) => path.clone(),
        // It was brought before.
        PushContent::Base(_) => return Load::Nothing,
    };
    let (sender, pieces) = channel(2);
    tokio::task::spawn_blocking(move || {
        let read = || -> std::io::Result<()> {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut left = file.take(size_bytes);
            loop {
                let mut piece = vec![0; PIECE_BYTES];
                let count = left.read(&mut piece)?;
                piece.truncate(count);
                // Who does not listen any more has given up.
                if count == 0 || sender.blocking_send(Ok(piece.into())).is_err() {
                    return Ok(());
                }
            }
        };
        if let Err(cause) = read() {
            let _ = sender.blocking_send(Err(cause));
        }
    });
    Load::Pieces { pieces, left_bytes: size_bytes, taken }
}
