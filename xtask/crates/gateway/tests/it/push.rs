//! Pushing: a small registry that keeps the rules, a table of how others break them, and what must hold whatever they do: the
//! right bytes or a clear failure, and never a tag on half an image.

use crate::gateway::{Folder, Gateway, base64, setup};
use crate::server::{Hit, Server, noise, read_head, sha256};
use protocol::{
    Cause, Credentials, Ecosystem, Failure, FailureKind, Job, Outcome, Push, PushBlob, PushContent, PushManifest,
    Pushed, Setup,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Larger than what sockets hold by themselves.
const LAYER_BYTES: usize = 8 << 20;
const MB: usize = 1 << 20;

/// An index of one manifest with a configuration, a large layer and a small one.
struct Image {
    blobs: Vec<PushBlob>,
    manifests: Vec<PushManifest>,
}

impl Image {
    fn new(folder: &Folder) -> Self {
        let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        let blob = |bytes: &[u8], content| PushBlob {
            digest: format!("sha256:{}", sha256(bytes)),
            size_bytes: bytes.len() as u64,
            content,
            mount_from: None,
        };
        let mut blobs = vec![blob(config.as_bytes(), PushContent::Text(config.to_owned()))];
        for (name, bytes) in [("large", noise(LAYER_BYTES)), ("small", noise(300))] {
            let path = folder.0.join(name);
            fs::write(&path, &bytes).unwrap();
            blobs.push(blob(&bytes, PushContent::File(path)));
        }
        let descriptor = |blob: &PushBlob| format!(r#"{{"digest":"{}","size":{}}}"#, blob.digest, blob.size_bytes);
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{},{}]}}"#,
            descriptor(&blobs[0]),
            descriptor(&blobs[1]),
            descriptor(&blobs[2])
        );
        let document = |media_type: &str, text: String| PushManifest {
            media_type: media_type.to_owned(),
            digest: format!("sha256:{}", sha256(text.as_bytes())),
            text,
        };
        let manifest = document(MANIFEST, manifest);
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":{}}}]}}"#,
            manifest.digest,
            manifest.text.len()
        );
        Self { blobs, manifests: vec![manifest, document(INDEX, index)] }
    }

    fn to(&self, registry: &str) -> Push {
        Push {
            registry: registry.to_owned(),
            repository: "team/app".to_owned(),
            blobs: self.blobs.clone(),
            manifests: self.manifests.clone(),
            tag: "v1".to_owned(),
            credentials: None,
        }
    }

    fn large(&self) -> &str {
        &self.blobs[1].digest
    }
}

/// What a request to a registry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    HeadTag,
    HeadBlob,
    Begin,
    /// The end of an upload, with or without bytes.
    Put,
    Patch,
    Status,
    PutManifest,
    PutTag,
    Other,
}

#[derive(Clone, Debug)]
struct Asked {
    kind: Kind,
    /// How many of this kind came before, about the large layer only where it is about a blob.
    before: usize,
    hit: Hit,
}

#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn of(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(it, _)| *it != name);
        self.headers.push((name, value.into()));
        self
    }

    fn error(status: u16, code: &str) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"so it is"}}]}}"#).into_bytes();
        Self { status, headers: Vec::new(), body }
    }

    fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(it, _)| *it != name);
        self
    }
}

/// What a registry does with a request.
enum Act {
    Usual,
    /// This, and nothing is kept of the request.
    Instead(Answer),
    /// What it should do, told otherwise.
    Told(fn(Answer) -> Answer),
    /// It keeps so many bytes of the body and closes the connection.
    CutAfter(usize),
    /// The same, and it does not close it.
    StallAfter(usize),
    /// It keeps so many bytes of a piece, and says so.
    KeepOnly(usize),
    /// It answers before it reads the body.
    Hasty(Answer),
    Silent,
}

type Fault = dyn Fn(&Asked) -> Act + Send + Sync;

#[derive(Default)]
struct State {
    blobs: BTreeMap<String, Vec<u8>>,
    /// By digest and by tag.
    manifests: BTreeMap<String, Vec<u8>>,
    uploads: BTreeMap<usize, Vec<u8>>,
    asked: Vec<Asked>,
    /// Of bodies that brought parts of blobs.
    payload_bytes: usize,
    /// The rule of all rules.
    tagged_half: bool,
}

/// A registry that keeps the specification where `fault` does not break it.
struct Registry {
    url: String,
    state: Arc<Mutex<State>>,
}

impl Registry {
    fn start(fault: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let registry = Self { url, state: Arc::default() };
        let (state, fault): (_, Arc<Fault>) = (registry.state.clone(), Arc::new(fault));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, fault) = (state.clone(), fault.clone());
                thread::spawn(move || serve(stream, &state, &*fault));
            }
        });
        registry
    }

    fn count(&self, kind: Kind) -> usize {
        self.state.lock().unwrap().asked.iter().filter(|asked| asked.kind == kind).count()
    }

    fn payload_bytes(&self) -> usize {
        self.state.lock().unwrap().payload_bytes
    }

    /// Whether the tag names the image, and all of it is there with its bytes.
    fn holds(&self, image: &Image) -> bool {
        let state = self.state.lock().unwrap();
        let root = image.manifests.last().unwrap();
        state.manifests.get("v1").is_some_and(|bytes| *bytes == root.text.as_bytes())
            && image
                .manifests
                .iter()
                .all(|it| state.manifests.get(&it.digest).is_some_and(|bytes| bytes == it.text.as_bytes()))
            && image.blobs.iter().all(|it| state.blobs.get(&it.digest).is_some_and(|bytes| is(bytes, &it.digest)))
    }
}

fn is(bytes: &[u8], digest: &str) -> bool {
    format!("sha256:{}", sha256(bytes)) == digest
}

fn classify(hit: &Hit) -> Kind {
    let (path, _) = hit.target.split_once('?').unwrap_or((&hit.target, ""));
    let tagged = path.ends_with("/manifests/v1");
    match hit.method.as_str() {
        "HEAD" if tagged => Kind::HeadTag,
        "HEAD" if path.contains("/blobs/") => Kind::HeadBlob,
        "POST" if path.ends_with("/blobs/uploads/") => Kind::Begin,
        "PUT" if tagged => Kind::PutTag,
        "PUT" if path.contains("/manifests/") => Kind::PutManifest,
        "PUT" => Kind::Put,
        "PATCH" => Kind::Patch,
        "GET" if path.contains("/uploads/") => Kind::Status,
        _ => Kind::Other,
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>, fault: &Fault) {
    let mut stream = BufReader::new(stream);
    while let Some(hit) = read_head(&mut stream) {
        let length: usize = hit.headers.get("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
        let kind = classify(&hit);
        let asked = {
            let mut state = state.lock().unwrap();
            let before = state.asked.iter().filter(|it| it.kind == kind).count();
            let asked = Asked { kind, before, hit };
            state.asked.push(asked.clone());
            asked
        };
        let act = fault(&asked);
        if let Act::Hasty(answer) = act {
            write(stream.get_mut(), &asked, &answer);
            // What was sent meanwhile is read, so that the answer is not lost to a reset.
            let _ = stream.get_mut().shutdown(std::net::Shutdown::Write);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
            return;
        }
        let wanted = match act {
            Act::CutAfter(bytes) | Act::StallAfter(bytes) => length.min(bytes),
            _ => length,
        };
        let mut body = vec![0; wanted];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let mut locked = state.lock().unwrap();
        if matches!(kind, Kind::Put | Kind::Patch) {
            locked.payload_bytes += body.len();
        }
        let answer = match act {
            Act::Usual | Act::Hasty(_) => locked.answer(&asked, &body),
            Act::Told(told) => told(locked.answer(&asked, &body)),
            Act::KeepOnly(bytes) => locked.answer(&asked, &body[..bytes.min(body.len())]),
            Act::Instead(answer) => answer,
            Act::CutAfter(_) | Act::StallAfter(_) | Act::Silent => {
                if let Some(upload) = locked.upload(&asked.hit) {
                    upload.extend(body);
                }
                drop(locked);
                if !matches!(act, Act::CutAfter(_)) {
                    thread::sleep(Duration::from_secs(60));
                }
                return;
            }
        };
        drop(locked);
        if !write(stream.get_mut(), &asked, &answer) {
            return;
        }
    }
}

fn write(stream: &mut TcpStream, asked: &Asked, answer: &Answer) -> bool {
    let mut head = format!("HTTP/1.1 {} X\r\n", answer.status);
    if !answer.headers.iter().any(|(name, _)| *name == "Content-Length") {
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    answer.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    let body: &[u8] = if asked.hit.method == "HEAD" { b"" } else { &answer.body };
    stream.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| stream.write_all(body)).is_ok()
}

impl State {
    fn upload(&mut self, hit: &Hit) -> Option<&mut Vec<u8>> {
        let (path, _) = hit.target.split_once('?').unwrap_or((&hit.target, ""));
        let id = path.rsplit('/').next()?.parse().ok()?;
        self.uploads.get_mut(&id)
    }

    fn answer(&mut self, asked: &Asked, body: &[u8]) -> Answer {
        let (path, query) = asked.hit.target.split_once('?').unwrap_or((&asked.hit.target, ""));
        let name = path.rsplit('/').next().unwrap().to_owned();
        let parameter = |name: &str| {
            let value = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).map(str::to_owned);
            value.map(|value| value.replace("%3A", ":"))
        };
        let at = |id: usize| format!("/v2/team/app/blobs/uploads/{id}?state=a%2Fb");
        let range = |upload: &[u8]| format!("0-{}", upload.len().saturating_sub(1));
        match asked.kind {
            Kind::HeadTag => match self.manifests.get("v1") {
                Some(bytes) => Answer::of(200).with("Docker-Content-Digest", format!("sha256:{}", sha256(bytes))),
                None => Answer::of(404),
            },
            Kind::HeadBlob => match self.blobs.get(&name) {
                Some(bytes) => Answer::of(200).with("Content-Length", bytes.len().to_string()),
                None => Answer::of(404),
            },
            Kind::Begin => {
                if let Some(digest) =
                    parameter("mount").filter(|digest| self.blobs.contains_key(&format!("other {digest}")))
                {
                    let bytes = self.blobs[&format!("other {digest}")].clone();
                    self.blobs.insert(digest.clone(), bytes);
                    return Answer::of(201).with("Docker-Content-Digest", digest);
                }
                let id = self.uploads.len() + 1;
                self.uploads.insert(id, Vec::new());
                Answer::of(202).with("Location", at(id)).with("Range", "0-0")
            }
            Kind::Status => match self.upload(&asked.hit) {
                Some(upload) => Answer::of(204).with("Range", range(upload)),
                None => Answer::error(404, "BLOB_UPLOAD_UNKNOWN"),
            },
            Kind::Patch => {
                let Some(upload) = self.upload(&asked.hit) else { return Answer::error(404, "BLOB_UPLOAD_UNKNOWN") };
                let from = asked.hit.headers.get("content-range").and_then(|it| it.split('-').next()?.parse().ok());
                if from != Some(upload.len()) {
                    return Answer::error(416, "RANGE").with("Range", range(upload));
                }
                upload.extend(body);
                Answer::of(202).with("Range", range(upload)).with("Location", at(name.parse().unwrap()))
            }
            Kind::Put => {
                let digest = parameter("digest").unwrap();
                let Some(upload) = self.upload(&asked.hit) else { return Answer::error(404, "BLOB_UPLOAD_UNKNOWN") };
                upload.extend(body);
                let bytes = std::mem::take(upload);
                self.uploads.insert(name.parse().unwrap(), Vec::new());
                if !is(&bytes, &digest) {
                    return Answer::error(400, "DIGEST_INVALID");
                }
                self.blobs.insert(digest.clone(), bytes);
                Answer::of(201).with("Docker-Content-Digest", digest).with("Location", "/somewhere")
            }
            Kind::PutManifest | Kind::PutTag => {
                let text = String::from_utf8(body.to_vec()).unwrap();
                let named: BTreeSet<&str> = text.split('"').filter(|it| it.starts_with("sha256:")).collect();
                let known = |digest: &&str| self.blobs.contains_key(*digest) || self.manifests.contains_key(*digest);
                if !named.iter().all(known) {
                    self.tagged_half |= asked.kind == Kind::PutTag;
                    return Answer::error(400, "MANIFEST_BLOB_UNKNOWN");
                }
                let digest = format!("sha256:{}", sha256(body));
                self.manifests.insert(digest.clone(), body.to_vec());
                self.manifests.insert(name, body.to_vec());
                Answer::of(201).with("Docker-Content-Digest", digest)
            }
            Kind::Other => Answer::of(404),
        }
    }
}

/// Shorter bounds than elsewhere: each silence is repeated.
fn bounds(folder: &Folder) -> Setup {
    let mut setup = setup(folder, Ecosystem::Oci, &[]);
    (setup.limits.first_byte_seconds, setup.limits.stall_seconds) = (1, 1);
    setup
}

fn push(gateway: &mut Gateway, push: Push) -> Result<Pushed, Failure> {
    gateway.perform(Job::Push(push)).map(|outcome| match outcome {
        Outcome::Pushed(pushed) => pushed,
        other => unreachable!("a push ended with {other:?}"),
    })
}

/// About the large layer: its uploads are the only ones whose bodies are as long.
fn large(asked: &Asked) -> bool {
    asked.hit.headers.get("content-length").and_then(|it| it.parse().ok()).is_some_and(|length: usize| length > MB)
}

fn html() -> Answer {
    Answer { body: b"<!DOCTYPE html><title>Guest network</title><p>Please sign in".to_vec(), ..Answer::of(200) }
}

/// How the push of a case ends: with the image, or with words that its failure holds.
enum End {
    Pushed,
    Failed(FailureKind, &'static str),
}

struct Case {
    name: &'static str,
    fault: Box<Fault>,
    end: End,
}

fn case(name: &'static str, end: End, fault: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Case {
    Case { name, fault: Box::new(fault), end }
}

/// The first time at this kind, or each time.
fn once(kind: Kind, act: fn() -> Act) -> impl Fn(&Asked) -> Act + Send + Sync {
    move |asked| if asked.kind == kind && asked.before == 0 { act() } else { Act::Usual }
}

fn always(kind: Kind, act: fn() -> Act) -> impl Fn(&Asked) -> Act + Send + Sync {
    move |asked| if asked.kind == kind { act() } else { Act::Usual }
}

fn status(status: u16) -> Act {
    Act::Instead(Answer::of(status))
}

fn told(status: u16, code: &str) -> Act {
    Act::Instead(Answer::error(status, code))
}

/// Whatever is longer is refused.
fn pieces_up_to(most: usize, refusal: fn() -> Act) -> impl Fn(&Asked) -> Act + Send + Sync {
    move |asked| {
        let length = asked.hit.headers.get("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
        if matches!(asked.kind, Kind::Put | Kind::Patch) && length > most { refusal() } else { Act::Usual }
    }
}

/// The first time of a large body.
fn large_once(kinds: &'static [Kind], act: fn() -> Act) -> impl Fn(&Asked) -> Act + Send + Sync {
    let done = Mutex::new(false);
    move |asked| {
        let mut done = done.lock().unwrap();
        let now = !*done && kinds.contains(&asked.kind) && large(asked);
        *done |= now;
        if now { act() } else { Act::Usual }
    }
}

/// After the large layer was cut: only then somebody asks how far it is.
fn cut_and(status: fn() -> Act) -> impl Fn(&Asked) -> Act + Send + Sync {
    let cut = large_once(&[Kind::Put], || Act::CutAfter(3 * MB));
    move |asked| if asked.kind == Kind::Status { status() } else { cut(asked) }
}

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    use End::{Failed, Pushed};
    use FailureKind::{Network, Refused};
    const BYTES: &[Kind] = &[Kind::Put, Kind::Patch];
    vec![
        // Where an upload goes.
        case("no Location", Failed(Refused, "no Location"), always(Kind::Begin, || Act::Told(|it| it.without("Location")))),
        case("relative Location", Pushed, always(Kind::Begin, || Act::Told(|it| {
            let id = it.headers.iter().find(|(name, _)| *name == "Location").unwrap().1.rsplit('/').next().unwrap().to_owned();
            it.with("Location", id)
        }))),
        case("Location that is none", Failed(Refused, "only http and https"), always(Kind::Begin, || Act::Told(|it| it.with("Location", "file:///etc/passwd")))),
        case("Location without TLS elsewhere", Failed(Network, "plain http"), always(Kind::Begin, || Act::Told(|it| it.with("Location", "http://192.0.2.1/v2/")))),
        case("no Location after a piece", Pushed, |asked| match asked.kind {
            Kind::Put if large(asked) => status(405),
            Kind::Patch => Act::Told(|it| it.without("Location").without("Range")),
            _ => Act::Usual,
        }),
        case("begins with 200", Failed(Refused, "200"), always(Kind::Begin, || status(200))),
        case("redirects in a circle", Failed(Refused, "redirects"), always(Kind::Begin, || Act::Instead(Answer::of(307).with("Location", "/v2/team/app/blobs/uploads/")))),
        case("redirects with 302 what is written", Failed(Refused, "redirects"), always(Kind::Begin, || Act::Instead(Answer::of(302).with("Location", "/login")))),
        // Sizes.
        case("no upload in one piece (405)", Pushed, |asked| if asked.kind == Kind::Put && large(asked) { status(405) } else { Act::Usual }),
        case("least size of pieces", Pushed, |asked| match asked.kind {
            Kind::Begin => Act::Told(|it| it.with("OCI-Chunk-Min-Length", (3 * MB).to_string())),
            Kind::Put if large(asked) => status(501),
            Kind::Patch if asked.before < 2 && !large(asked) => told(400, "SIZE_INVALID"),
            _ => Act::Usual,
        }),
        case("413 above 1 MiB", Pushed, pieces_up_to(MB, || Act::Hasty(Answer::of(413)))),
        case("closes above 1 MiB without a word", Pushed, pieces_up_to(MB, || Act::CutAfter(0))),
        case("413 for everything", Failed(Refused, "413"), always(Kind::Put, || status(413))),
        case("413 for pieces that must be large", Failed(Refused, "413"), |asked| match asked.kind {
            Kind::Begin => Act::Told(|it| it.with("OCI-Chunk-Min-Length", (4 * MB).to_string())),
            Kind::Put | Kind::Patch if large(asked) => status(413),
            _ => Act::Usual,
        }),
        // How far an upload is.
        case("416 once", Pushed, large_once(BYTES, || Act::Instead(Answer::of(416).with("Range", "0-0")))),
        case("416 always", Failed(Refused, "416"), always(Kind::Put, || status(416))),
        case("cut in the middle", Pushed, large_once(BYTES, || Act::CutAfter(3 * MB))),
        case("cut again and again", Pushed, |asked| if large(asked) { Act::CutAfter(MB) } else { Act::Usual }),
        case("cut with a status that nobody knows", Pushed, cut_and(|| told(404, "BLOB_UPLOAD_UNKNOWN"))),
        case("cut with a status that is not spoken", Pushed, cut_and(|| status(405))),
        case("cut with a status beyond the blob", Pushed, cut_and(|| Act::Told(|it| it.with("Range", "0-99999999999")))),
        case("cut with a status that is no range", Pushed, cut_and(|| Act::Told(|it| it.with("Range", "all")))),
        case("cut with a status that is too small", Pushed, cut_and(|| Act::Told(|it| it.with("Range", "bytes=0-1023")))),
        case("stalls in the middle", Pushed, large_once(BYTES, || Act::StallAfter(3 * MB))),
        case("silent at the end", Pushed, once(Kind::Put, || Act::Silent)),
        case("keeps a part of each piece", Pushed, |asked| match asked.kind {
            Kind::Put if large(asked) => status(405),
            Kind::Patch => Act::KeepOnly(3 * MB),
            _ => Act::Usual,
        }),
        case("keeps nothing of a piece", Failed(Refused, "kept nothing"), |asked| match asked.kind {
            Kind::Put if large(asked) => status(405),
            Kind::Patch => Act::KeepOnly(0),
            _ => Act::Usual,
        }),
        case("has more than was sent", Failed(Refused, "more of the blob"), |asked| match asked.kind {
            Kind::Put if large(asked) => status(405),
            Kind::Patch => Act::Told(|it| it.with("Range", "0-88888888")),
            _ => Act::Usual,
        }),
        case("upload expired", Pushed, once(Kind::Put, || told(404, "BLOB_UPLOAD_UNKNOWN"))),
        case("uploads always expired", Failed(Refused, "404"), always(Kind::Put, || told(404, "BLOB_UPLOAD_UNKNOWN"))),
        // Digests.
        case("bytes altered on their way", Pushed, once(Kind::Put, || told(400, "DIGEST_INVALID"))),
        case("bytes always altered", Failed(Refused, "DIGEST_INVALID"), always(Kind::Put, || told(400, "DIGEST_INVALID"))),
        case("another digest for a blob", Failed(Refused, "sha256:00"), always(Kind::Put, || Act::Told(|it| it.with("Docker-Content-Digest", "sha256:00")))),
        case("another digest for a manifest", Failed(Refused, "sha256:00"), always(Kind::PutManifest, || Act::Told(|it| it.with("Docker-Content-Digest", "sha256:00")))),
        case("no digest at all", Pushed, |asked| match asked.kind {
            Kind::Put | Kind::PutManifest | Kind::PutTag => Act::Told(|it| it.without("Docker-Content-Digest")),
            _ => Act::Usual,
        }),
        case("accepts a blob with 202", Failed(Refused, "202"), always(Kind::Put, || Act::Told(|it| Answer { status: 202, ..it }))),
        case("answers before it has the bytes", Pushed, large_once(BYTES, || Act::Hasty(Answer::of(201)))),
        case("always answers before it has the bytes", Failed(Refused, "before it had the bytes"), |asked| if large(asked) { Act::Hasty(Answer::of(201)) } else { Act::Usual }),
        // What it has.
        case("has a blob of another length", Pushed, once(Kind::HeadBlob, || Act::Instead(Answer::of(200).with("Content-Length", "7")))),
        case("has a blob of no length", Pushed, always(Kind::HeadBlob, || Act::Instead(Answer { body: vec![0; 9], ..Answer::of(200) }))),
        case("claimed a blob that is not there", Pushed, |asked| match asked.kind {
            Kind::HeadBlob if asked.before < 3 => Act::Instead(Answer::of(200).with("Content-Length", "300")),
            _ => Act::Usual,
        }),
        case("claims a blob that is not there", Failed(Refused, "MANIFEST_BLOB_UNKNOWN"), always(Kind::HeadBlob, || Act::Instead(Answer::of(200).with("Content-Length", "300")))),
        case("refuses the manifest", Failed(Refused, "MANIFEST_INVALID"), always(Kind::PutManifest, || told(400, "MANIFEST_INVALID"))),
        case("a tag that may not be moved", Failed(Refused, "TAG_IMMUTABLE"), always(Kind::PutTag, || told(409, "TAG_IMMUTABLE"))),
        case("a tag that is already another image's", Pushed, once(Kind::HeadTag, || Act::Instead(Answer::of(200).with("Docker-Content-Digest", "sha256:00")))),
        // Trouble that passes, and such that does not.
        case("502 at first", Pushed, |asked| if asked.before == 0 { status(502) } else { Act::Usual }),
        case("500 always at the end", Failed(Refused, "500"), always(Kind::Put, || status(500))),
        case("429 for a second", Pushed, once(Kind::Put, || Act::Instead(Answer::of(429).with("Retry-After", "1")))),
        case("429 without a time", Pushed, once(Kind::Begin, || status(429))),
        case("429 for an hour", Failed(Network, "3600"), always(Kind::Begin, || Act::Instead(Answer::of(429).with("Retry-After", "3600")))),
        case("503 with a time", Pushed, once(Kind::PutTag, || Act::Instead(Answer::of(503).with("Retry-After", "1")))),
        case("silent", Failed(Network, "NoAnswer"), always(Kind::Begin, || Act::Silent)),
        case("a portal", Failed(Refused, "Guest network"), |_| Act::Instead(html())),
        case("no right to write", Failed(Refused, "DENIED"), always(Kind::Begin, || told(403, "DENIED"))),
        case("wants a login", Failed(Refused, "named: false"), |_| Act::Instead(Answer::of(401).with("WWW-Authenticate", "Basic realm=\"x\""))),
        case("wants a login and says not which", Failed(Refused, "named: false"), |_| status(401)),
    ]
}

#[test]
fn whatever_a_registry_does_the_image_is_whole_or_not_tagged_and_the_failure_is_clear() {
    let waiting = Mutex::new(cases());
    assert!(waiting.lock().unwrap().len() >= 50);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(case) = { waiting.lock().unwrap().pop() } {
                    if let Err(why) = check(case) {
                        failures.lock().unwrap().push(why);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn check(Case { name, fault, end }: Case) -> Result<(), String> {
    let (folder, registry) = (Folder::new(), Registry::start(fault));
    let image = Image::new(&folder);
    let mut gateway = Gateway::start(&bounds(&folder));
    let started = Instant::now();
    let result = push(&mut gateway, image.to(&registry.url));
    let (seconds, state) = (started.elapsed().as_secs_f64(), registry.state.clone());
    let wrong = |why: &str| Err(format!("{name}: {why} after {seconds:.1} s: {result:?}"));
    if state.lock().unwrap().tagged_half {
        return wrong("half an image was tagged");
    }
    if seconds > 25.0 {
        return wrong("it took too long");
    }
    let is_tagged = state.lock().unwrap().manifests.contains_key("v1");
    match (&result, end) {
        (Ok(_), End::Pushed) if !registry.holds(&image) => wrong("the image is not there"),
        (Ok(_), End::Pushed) if registry.payload_bytes() > 5 * LAYER_BYTES => wrong("it was sent too often"),
        (Ok(_), End::Pushed) => Ok(()),
        (Err(_), End::Failed(..)) if is_tagged => wrong("it failed and tagged"),
        (Err(failure), End::Failed(kind, words)) => {
            let cause = format!("{:?} {}", failure.attempts.first().map(|it| &it.cause), failure.message);
            if failure.kind == kind && cause.contains(words) { Ok(()) } else { wrong("another failure") }
        }
        _ => wrong("another end"),
    }
}

#[test]
fn what_a_registry_has_is_not_sent_and_an_unchanged_image_costs_a_question_a_blob() {
    let (folder, registry) = (Folder::new(), Registry::start(|_| Act::Usual));
    let image = Image::new(&folder);
    let mut gateway = Gateway::start(&bounds(&folder));
    let whole: u64 = image.blobs.iter().map(|blob| blob.size_bytes).sum();
    let first = push(&mut gateway, image.to(&registry.url)).unwrap();
    assert_eq!(first, Pushed { sent: 3, sent_bytes: whole, mounted: 0, present: 0 });
    let before = registry.state.lock().unwrap().asked.len();
    let second = push(&mut gateway, image.to(&registry.url)).unwrap();
    assert_eq!(second, Pushed { sent: 0, sent_bytes: 0, mounted: 0, present: 3 });
    assert_eq!(registry.state.lock().unwrap().asked.len() - before, 1 + 3);
    // Another tag of it needs nothing but the tag.
    let third = push(&mut gateway, Push { tag: "v2".to_owned(), ..image.to(&registry.url) }).unwrap();
    assert_eq!((third.sent_bytes, registry.payload_bytes() as u64), (0, whole));
    // A registry that lost a blob gets it again, whatever the tag says.
    registry.state.lock().unwrap().blobs.remove(image.large());
    let fourth = push(&mut gateway, image.to(&registry.url)).unwrap();
    assert_eq!((fourth.sent, fourth.sent_bytes, registry.holds(&image)), (1, LAYER_BYTES as u64, true));
    gateway.close();
    // What the ledger says was sent, less the documents: index twice and manifest, in three pushes that changed something.
    let told: usize = gateway.egress().iter().map(|egress| egress.sent_bytes as usize).sum();
    let documents: usize = image.manifests.iter().map(|it| it.text.len()).sum();
    let index = image.manifests[1].text.len();
    assert_eq!(told, registry.payload_bytes() + 3 * (documents + index));
}

#[test]
fn a_cut_upload_goes_on_where_it_ended() {
    let (folder, registry) = (Folder::new(), Registry::start(large_once(&[Kind::Put], || Act::CutAfter(5 * MB))));
    let image = Image::new(&folder);
    let mut gateway = Gateway::start(&bounds(&folder));
    push(&mut gateway, image.to(&registry.url)).unwrap();
    assert!(registry.holds(&image));
    let whole: u64 = image.blobs.iter().map(|blob| blob.size_bytes).sum();
    assert_eq!((registry.payload_bytes() as u64, registry.count(Kind::Patch)), (whole, 1));
}

#[test]
fn a_blob_of_another_repository_is_mounted_or_else_sent() {
    type Told = fn() -> Act;
    let cases: [(&str, Told, bool); 6] = [
        ("mounted", || Act::Usual, true),
        ("not there", || Act::Told(|_| Answer::error(404, "BLOB_UNKNOWN")), false),
        ("not allowed", || told(403, "DENIED"), false),
        ("not spoken", || status(405), false),
        ("bad request", || status(400), false),
        ("begun instead", || Act::Usual, false),
    ];
    for (name, act, mounts) in cases {
        let fault = move |asked: &Asked| match asked.kind {
            Kind::Begin if asked.hit.target.contains("mount=") => act(),
            _ => Act::Usual,
        };
        let (folder, registry) = (Folder::new(), Registry::start(fault));
        let image = Image::new(&folder);
        if name != "begun instead" {
            registry.state.lock().unwrap().blobs.insert(format!("other {}", image.large()), noise(LAYER_BYTES));
        }
        let mut wanted = image.to(&registry.url);
        wanted.blobs[1].mount_from = Some("team/other".to_owned());
        let mut gateway = Gateway::start(&bounds(&folder));
        let pushed = push(&mut gateway, wanted).unwrap();
        assert_eq!((pushed.mounted, pushed.sent), if mounts { (1, 2) } else { (0, 3) }, "{name}");
        assert!(registry.holds(&image), "{name}");
        let asked = &registry.state.lock().unwrap().asked;
        assert!(asked.iter().any(|it| it.hit.target.contains("&from=team/other")), "{name}");
        let begun = asked.iter().filter(|it| it.kind == Kind::Begin).count();
        assert_eq!(begun, if matches!(name, "mounted" | "begun instead") { 3 } else { 4 }, "{name}");
    }
}

/// A registry that lets in whoever sends this, and asks others for it so.
fn guarded(authorization: String, demand: String) -> impl Fn(&Asked) -> Act + Send + Sync {
    move |asked| match asked.hit.headers.get("authorization") {
        Some(sent) if *sent == authorization => Act::Usual,
        _ => Act::Instead(Answer::of(401).with("WWW-Authenticate", demand.clone())),
    }
}

#[test]
fn credentials_go_to_the_registry_and_to_the_token_service_that_it_names() {
    let basic = format!("Basic {}", base64("me:hunter2"));
    let grants =
        || Server::start(|_| crate::server::Reply::ok(r#"{"token":"hunter-token","access_token":"hunter-token"}"#));
    let bearer = |realm: &Server| {
        // The scope that it asks for is what its first question needed.
        format!("Bearer realm=\"{}/token\",service=\"reg\",scope=\"repository:team/app:pull\"", realm.url)
    };
    let scope = "service=reg&scope=repository%3Ateam/app%3Apull%2Cpush";
    let cases = [
        ("password", Some(Credentials::Password(basic.clone())), false),
        ("token for a password", Some(Credentials::Password(basic.clone())), true),
        ("token for nobody", None, true),
        ("token for a token", Some(Credentials::IdentityToken("hunter-refresh".into())), true),
        ("token of the file", Some(Credentials::Token("hunter-token".into())), true),
    ];
    for (name, credentials, by_token) in cases {
        let realm = grants();
        let registry = match by_token {
            false => Registry::start(guarded(basic.clone(), "Basic realm=\"x\"".into())),
            true => Registry::start(guarded("Bearer hunter-token".into(), bearer(&realm))),
        };
        let folder = Folder::new();
        let image = Image::new(&folder);
        let mut gateway = Gateway::start(&bounds(&folder));
        push(&mut gateway, Push { credentials: credentials.clone(), ..image.to(&registry.url) }).unwrap();
        assert!(registry.holds(&image), "{name}");
        // One demand and one token serve the whole push.
        let asked = registry.state.lock().unwrap().asked.clone();
        assert_eq!(asked.iter().filter(|it| !it.hit.headers.contains_key("authorization")).count(), 1, "{name}");
        let hits = realm.hits();
        match (name, hits.as_slice()) {
            ("token for a password", [hit]) => {
                assert_eq!((&hit.target, hit.headers.get("authorization")), (&format!("/token?{scope}"), Some(&basic)));
            }
            ("token for nobody", [hit]) => {
                assert_eq!((&hit.target, hit.headers.get("authorization")), (&format!("/token?{scope}"), None));
            }
            ("token for a token", [hit, ..]) => {
                assert_eq!((hit.method.as_str(), hit.target.as_str()), ("POST", "/token"));
            }
            ("password" | "token of the file", []) => {}
            (name, hits) => panic!("{name}: {hits:?}"),
        }
        gateway.close();
        assert!(!gateway.output.contains("hunter"), "{name}: {}", gateway.output);
    }
}

#[test]
fn a_login_that_is_refused_is_told_once_and_a_token_that_expires_is_renewed() {
    let folder = Folder::new();
    let image = Image::new(&folder);
    let named = Some(Credentials::Password(format!("Basic {}", base64("me:hunter2"))));
    let demand = || "Basic realm=\"x\"".to_owned();
    let registry = Registry::start(guarded("Basic other".into(), demand()));
    let mut gateway = Gateway::start(&bounds(&folder));
    let failure = push(&mut gateway, Push { credentials: named.clone(), ..image.to(&registry.url) }).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused);
    assert!(matches!(failure.attempts[0].cause, Cause::Unauthorized { named: true, .. }), "{failure:?}");
    assert_eq!(registry.state.lock().unwrap().asked.len(), 2, "asked without and with it");

    // Every token is good for eight requests.
    let given = Arc::new(Mutex::new((0, 0)));
    let (grants, used) = (given.clone(), given);
    let realm = Server::start(move |_| {
        let mut given = grants.lock().unwrap();
        *given = (given.0 + 1, 0);
        crate::server::Reply::ok(format!("{{\"token\":\"hunter-{}\"}}", given.0))
    });
    let demand = format!("Bearer realm=\"{}/token\",service=\"reg\"", realm.url);
    let registry = Registry::start(move |asked| {
        let mut given = used.lock().unwrap();
        given.1 += 1;
        let current = format!("Bearer hunter-{}", given.0);
        match asked.hit.headers.get("authorization") {
            Some(sent) if *sent == current && given.1 <= 8 => Act::Usual,
            _ => Act::Instead(Answer::of(401).with("WWW-Authenticate", demand.clone())),
        }
    });
    push(&mut gateway, Push { credentials: named, ..image.to(&registry.url) }).unwrap();
    assert!(registry.holds(&image) && realm.hits().len() > 1);
    gateway.close();
    assert!(!gateway.output.contains("hunter"), "{}", gateway.output);
}

#[test]
fn a_redirect_takes_the_bytes_and_never_the_credentials() {
    let (folder, storage) = (Folder::new(), Registry::start(|_| Act::Usual));
    let image = Image::new(&folder);
    storage.state.lock().unwrap().uploads.insert(1, Vec::new());
    let away = format!("{}/v2/team/app/blobs/uploads/1?digest={}", storage.url, image.large().replace(':', "%3A"));
    let basic = format!("Basic {}", base64("me:hunter2"));
    let guard = guarded(basic.clone(), "Basic realm=\"x\"".into());
    let large_digest = image.large().replace(':', "%3A");
    let registry = Registry::start(move |asked| match guard(asked) {
        Act::Usual if asked.kind == Kind::Put && asked.hit.target.contains(&large_digest) => {
            Act::Instead(Answer::of(307).with("Location", away.clone()))
        }
        // Its storage has it.
        Act::Usual if asked.kind == Kind::PutManifest || asked.kind == Kind::PutTag => Act::Instead(Answer::of(201)),
        act => act,
    });
    let mut gateway = Gateway::start(&bounds(&folder));
    push(&mut gateway, Push { credentials: Some(Credentials::Password(basic)), ..image.to(&registry.url) }).unwrap();
    let stored = storage.state.lock().unwrap();
    assert!(is(&stored.blobs[image.large()], image.large()));
    assert!(stored.asked.iter().all(|it| !it.hit.headers.contains_key("authorization")), "{:?}", stored.asked);
    gateway.close();
    assert!(!gateway.output.contains("hunter"), "{}", gateway.output);
}

#[test]
fn nothing_is_sent_where_nothing_may_be_contacted_or_is_no_tls() {
    let (folder, registry) = (Folder::new(), Registry::start(|_| Act::Usual));
    let image = Image::new(&folder);
    let mut gateway = Gateway::start(&Setup { allowed_hosts: Some(BTreeSet::new()), ..bounds(&folder) });
    let failure = push(&mut gateway, image.to(&registry.url)).unwrap_err();
    assert_eq!((failure.kind, registry.state.lock().unwrap().asked.len()), (FailureKind::Egress, 0));
    let mut gateway = Gateway::start(&bounds(&folder));
    let failure = push(&mut gateway, image.to("http://192.0.2.1:5000")).unwrap_err();
    assert!(failure.message.contains("plain http"), "{failure:?}");
    gateway.close();
    assert!(gateway.egress().is_empty(), "{:?}", gateway.egress());
}
