//! The model hub's protocol, as huggingface_hub and its like speak it on one side and hub endpoints on the other.
//!
//! A file is described by the head of its `resolve` answer: commit, size, and an ETag that is the hash of its bytes (sha256
//! of a large file, git's blob hash of a small one). The client checks nothing but the length, so we hold the bytes to that
//! hash, and to the lock file's where it names the file. A file whose ETag is no hash is refused. What a commit says never
//! changes: it is asked once a run. A branch is asked each time and means what the first good upstream says. No hash covers
//! a size: it is one upstream's word until the file is here, and no bytes are refused for it. A file that one upstream
//! lacks is asked of the next.
//! Owns: `resolve`, the `api` documents that list a repository. Never: pass on a redirect, a token, or anything of xet,
//! whose bytes would come from hosts that nobody chose. Revisions with a slash (`refs/pr/1`) are not served.
//! Rules: huggingface_hub's `file_download.py` and `_snapshot_download.py`; ARCHITECTURE.md, "Invariants".

use crate::Gateway;
use crate::documents::{Kept, Sought, Standing, at_most, keep, read, seek, seek_among};
use crate::downloads::Pin;
use crate::error::{Error, Kind};
use crate::fetch::{Errand, Fetched, blocking, fetch};
use crate::reply::{Reply, absent, delivered, head, typed};
use crate::request::{Document, Head, looks_like_a_web_page, web_page};
use crate::server::Asked;
use crate::url::{Url, decode_path, encode_path};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use protocol::{Ecosystem, Failure, Upstream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::cell::RefCell;
use std::rc::Rc;

/// A page of a tree has a thousand entries; a repository's own description may list ten thousand files.
const MAX_DOCUMENT_BYTES: usize = 32 << 20;
const MAX_VALUES: usize = 1 << 18;
const COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");
const LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");
const LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");
const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
/// The parameters that change what a listing says.
const PARAMETERS: [&str; 7] = ["recursive", "expand", "limit", "cursor", "blobs", "full", "securityStatus"];

/// A pinned file, for a job.
pub async fn file(
    gateway: &Gateway,
    errand: &Errand,
    place: Place<'_>,
    sha256: &str,
    size_bytes: u64,
) -> Result<Fetched, Failure> {
    let subject = place.subject();
    let pin = Pin::sha256(sha256).map_err(|error| error.failure(&subject, Vec::new()))?;
    let wanted = errand.wanted(Ecosystem::Hub, subject, pin, Some(size_bytes));
    let relative = place.resolve(place.revision);
    let upstreams = gateway.upstreams(Ecosystem::Hub, place.repo).await;
    fetch(gateway, &wanted, &upstreams, async |upstream: &Upstream| Url::parse(&upstream.url)?.below(&relative)).await
}

/// `path` is plain, not percent-encoded.
pub struct Place<'a> {
    /// With its kind where it is no model: `datasets/org/name`.
    pub repo: &'a str,
    pub revision: &'a str,
    pub path: &'a str,
}

impl Place<'_> {
    fn subject(&self) -> String {
        format!("model file {}@{} {}", self.repo, self.revision, self.path)
    }

    /// Below an endpoint, at this revision.
    fn resolve(&self, revision: &str) -> String {
        format!("{}/resolve/{}/{}", encode_path(self.repo), encode_path(revision), encode_path(self.path))
    }

    fn pin<'a>(&self, gateway: &'a Gateway, revision: &str) -> Option<&'a str> {
        gateway.setup.pins.hub.get(&format!("{}@{revision} {}", self.repo, self.path)).map(String::as_str)
    }
}

/// `REPO/resolve/REVISION/PATH`, `api/models/REPO`, `…/revision/REVISION`, `…/tree/REVISION/PATH`.
pub async fn serve(gateway: &Rc<Gateway>, asked: &Asked) -> Result<Response<Reply>, Failure> {
    let unknown = || Ok(absent(&format!("{} is nothing that a hub has", asked.path)));
    let Some(segments) = asked.segments() else { return unknown() };
    if let ["api", kind @ ("models" | "datasets" | "spaces"), rest @ ..] = segments.as_slice() {
        return match Listing::of(kind, rest) {
            Some(listing) => list(gateway, asked, &listing).await,
            None => unknown(),
        };
    }
    let kind_length = usize::from(matches!(segments.first(), Some(&("datasets" | "spaces"))));
    let Some(at) =
        [1, 2].map(|length| kind_length + length).into_iter().find(|at| segments.get(*at) == Some(&"resolve"))
    else {
        return unknown();
    };
    let [revision, path @ ..] = &segments[at + 1..] else { return unknown() };
    let (repo, path) = (segments[..at].join("/"), decode_path(&path.join("/")));
    match (path, is_name(&repo) && is_name(revision)) {
        (Some(path), true) if !path.is_empty() => {
            resolve(gateway, asked, &Place { repo: &repo, revision, path: &path }).await
        }
        _ => unknown(),
    }
}

/// What repositories and revisions are made of; nothing of it needs encoding.
fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte))
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn is_commit(revision: &str) -> bool {
    is_hex(revision, 40)
}

/// What a hub says of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Facts {
    commit: String,
    /// A hash in hex: 64 digits of sha256 or 40 of git's blob; empty where the file is absent.
    etag: String,
    size_bytes: Option<u64>,
    /// The commit has no such file.
    #[serde(default)]
    absent: bool,
}

async fn resolve(gateway: &Rc<Gateway>, asked: &Asked, place: &Place<'_>) -> Result<Response<Reply>, Failure> {
    let subject = place.subject();
    let facts = match fetched(gateway, place).await {
        Some(facts) => Ok(facts),
        None => facts(gateway, asked, place).await?,
    };
    let facts = match facts {
        Ok(facts) if !facts.absent => facts,
        Ok(facts) => return Ok(missing(&subject, "EntryNotFound", Some(&facts.commit))),
        Err(code) => return Ok(missing(&subject, &code, None)),
    };
    let pinned = place.pin(gateway, place.revision).or_else(|| place.pin(gateway, &facts.commit));
    let pin = match pinned {
        Some(sha256) => Pin::sha256(sha256),
        None if facts.etag.len() == 64 => Pin::sha256(&facts.etag),
        None => Pin::sha1("gitblob", &facts.etag),
    };
    let pin = pin.map_err(|error| error.failure(&subject, Vec::new()))?;
    let size_bytes = length(gateway, &pin).await.or(facts.size_bytes);
    let etag = format!("\"{}\"", facts.etag);
    let told = [(COMMIT, Some(facts.commit.clone())), (header::ETAG, Some(etag.clone())), (LINKED_ETAG, Some(etag))];
    let told = told.into_iter().chain([(LINKED_SIZE, size_bytes.map(|size| size.to_string()))]);
    let headers: Vec<_> = told.filter_map(|(name, value)| Some((name, HeaderValue::from_str(&value?).ok()?))).collect();
    if asked.method == Method::HEAD {
        return Ok(head(headers, size_bytes));
    }
    let wanted = asked.wanted(Ecosystem::Hub, subject, pin.clone(), None);
    // Of the commit: every upstream then means the same bytes.
    let (own, repo, relative) = (gateway.clone(), place.repo.to_owned(), place.resolve(&facts.commit));
    let fetching = async move {
        let upstreams = own.upstreams(Ecosystem::Hub, &repo).await;
        fetch(&own, &wanted, &upstreams, async |upstream: &Upstream| Url::parse(&upstream.url)?.below(&relative)).await
    };
    delivered(gateway, asked, headers, &pin, size_bytes, fetching).await
}

/// The facts of a pinned file that is here: the lock file and the file itself say all.
async fn fetched(gateway: &Gateway, place: &Place<'_>) -> Option<Facts> {
    let pinned = place.pin(gateway, place.revision).filter(|_| is_commit(place.revision))?;
    let size_bytes = length(gateway, &Pin::sha256(pinned).ok()?).await?;
    let (commit, etag) = (place.revision.to_owned(), pinned.to_ascii_lowercase());
    Some(Facts { commit, etag, size_bytes: Some(size_bytes), absent: false })
}

/// How long a file is that is here.
async fn length(gateway: &Gateway, pin: &Pin) -> Option<u64> {
    let (downloads, pin) = (gateway.downloads.clone(), pin.clone());
    blocking(move || downloads.length(&pin)).await.ok()?
}

/// 404 in the words of a hub: clients go by the code, and remember by the commit what does not exist.
fn missing(what: &str, code: &str, commit: Option<&str>) -> Response<Reply> {
    let mut reply = absent(&format!("no upstream has {what} ({code})"));
    for (name, value) in [(ERROR_CODE, Some(code)), (COMMIT, commit)] {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            reply.headers_mut().insert(name, value);
        }
    }
    reply
}

/// The facts of a file, or the hub's code for what does not exist.
async fn facts(gateway: &Gateway, asked: &Asked, place: &Place<'_>) -> Result<Result<Facts, String>, Failure> {
    let pinned = place.pin(gateway, place.revision);
    let mut headers = asked.forwarded(&[]);
    headers.push((header::ACCEPT_ENCODING, HeaderValue::from_static("identity")));
    let sought = Sought {
        step: &asked.step,
        ecosystem: Ecosystem::Hub,
        name: place.repo,
        subject: place.subject(),
        key: format!("file {}@{} {}", place.repo, place.revision, place.path),
        headers,
        max_bytes: MAX_DOCUMENT_BYTES,
    };
    let (relative, code) = (place.resolve(place.revision), RefCell::new("EntryNotFound".to_owned()));
    let gone = RefCell::new(None);
    let attempt = async |upstream: &Upstream| {
        let url = Url::parse(&upstream.url)?.below(&relative)?;
        let head = gateway.client.head(&sought.ask(upstream, &url), is_enough).await?;
        let facts = Facts::of(&head, place.revision, pinned).map_err(|error| error.at(&head.peer));
        match facts {
            // Only its first words tell a person whose page it is.
            Err(error) if error.kind == Kind::Html => {
                Err(web_page(&read(gateway, &sought, upstream, &url).await?.bytes).at(&head.peer))
            }
            Err(error) => {
                if let Some(told) = text(&head.hops, &ERROR_CODE).filter(|_| error.kind == Kind::Absent) {
                    *code.borrow_mut() = told.chars().filter(char::is_ascii_alphanumeric).take(40).collect();
                }
                Err(error)
            }
            Ok(facts) if facts.absent => {
                gone.borrow_mut().get_or_insert(facts);
                Err(Error::new(Kind::Absent, "404 Not Found: EntryNotFound").at(&head.peer))
            }
            Ok(facts) => Ok(facts.kept()),
        }
    };
    let settled = async |kept: &Kept| match Facts::read(kept).map(|facts| facts.agree(pinned)) {
        Some(Ok(())) if is_commit(place.revision) => Standing::Unchanging,
        Some(checked) => Standing::of(checked, false),
        None => Standing::Refuted,
    };
    let upstreams = gateway.upstreams(Ecosystem::Hub, place.repo).await;
    let found = seek_among(gateway, &sought, async { upstreams.clone() }, attempt, settled).await?;
    match (found, gone.into_inner()) {
        (Some(kept), _) => Ok(Facts::read(&kept).ok_or_else(|| code.into_inner())),
        (None, Some(gone)) => {
            // Everybody says so. But a commit loses no file either: what was known of it is worth more.
            let known = gateway.documents.recall(Ecosystem::Hub, &sought.key);
            let known = known.and_then(|bytes| serde_json::from_slice::<Facts>(&bytes).ok());
            if let Some(first) = upstreams.first()
                && !(is_commit(place.revision) && known.is_some_and(|facts| !facts.absent))
            {
                let private = gateway.private(Ecosystem::Hub, place.repo).is_some();
                keep(gateway, Ecosystem::Hub, &sought.key, &gone.kept().told_by(first, private)).await;
            }
            Ok(Ok(gone))
        }
        (None, None) => Ok(Err(code.into_inner())),
    }
}

fn text<'a>(hops: &'a [HeaderMap], name: &HeaderName) -> Option<&'a str> {
    hops.iter().find_map(|headers| headers.get(name)).and_then(|value| value.to_str().ok())
}

/// Whether a redirect says all that there is to know, so that the host it leads to need not be asked.
fn is_enough(headers: &HeaderMap) -> bool {
    hash(headers, &LINKED_ETAG).is_some() && headers.contains_key(LINKED_SIZE) && headers.contains_key(COMMIT)
}

/// An entity tag that is a hash of the file's bytes.
fn hash(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let text = headers.get(name)?.to_str().ok()?.trim_start_matches("W/").trim_matches('"');
    (is_hex(text, 64) || is_hex(text, 40)).then(|| text.to_owned())
}

impl Facts {
    /// # Errors: Html, Absent, Malformed naming the header that is missing, Hash where the lock file says otherwise.
    fn of(head: &Head, revision: &str, pinned: Option<&str>) -> Result<Self, Error> {
        let Some(last) = head.hops.last() else { return Err(Error::new(Kind::Malformed, "it gave no headers")) };
        let told = text(&head.hops, &COMMIT).filter(|commit| is_commit(commit));
        if head.status == StatusCode::NOT_FOUND {
            let code = text(&head.hops, &ERROR_CODE);
            return match (code, told, pinned) {
                // A commit never gains a file.
                (Some("EntryNotFound"), Some(commit), None) => {
                    Ok(Self { commit: commit.to_owned(), etag: String::new(), size_bytes: None, absent: true })
                }
                _ => Err(Error::new(
                    Kind::Absent,
                    format!("404 Not Found{}", code.map(|it| format!(": {it}")).unwrap_or_default()),
                )),
            };
        }
        let etag = head.hops.iter().find_map(|headers| hash(headers, &LINKED_ETAG));
        let etag = etag.or_else(|| head.hops.iter().rev().find_map(|headers| hash(headers, &header::ETAG)));
        let content_type = last.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if told.is_none() && etag.is_none() && content_type.starts_with("text/html") {
            return Err(web_page(&[]));
        }
        let malformed = |message: String| Err(Error::new(Kind::Malformed, message));
        let commit = match told {
            Some(told) if is_commit(revision) && told != revision => {
                return malformed(format!("asked for commit {revision}, it answers with {told}"));
            }
            Some(told) => told,
            None if is_commit(revision) => revision,
            None => {
                return malformed(format!(
                    "its answer has no X-Repo-Commit header, so it does not say what `{revision}` is; pin a commit, or \
                     set up the mirror to pass the header on"
                ));
            }
        };
        let Some(etag) = etag.or_else(|| pinned.map(str::to_owned)) else {
            return malformed(
                "neither its X-Linked-Etag nor its ETag header is a sha256 or a git blob hash, so its bytes could not \
                 be verified"
                    .to_owned(),
            );
        };
        let size = text(&head.hops, &LINKED_SIZE);
        let size =
            size.or_else(|| last.get(header::CONTENT_LENGTH).filter(|_| head.status.is_success())?.to_str().ok());
        let facts =
            Self { commit: commit.to_owned(), etag, size_bytes: size.and_then(|it| it.parse().ok()), absent: false };
        facts.agree(pinned).map(|()| facts)
    }

    fn agree(&self, pinned: Option<&str>) -> Result<(), Error> {
        match pinned {
            Some(pinned) if self.absent || (self.etag.len() == 64 && !self.etag.eq_ignore_ascii_case(pinned)) => {
                Err(Error::hash(pinned, &self.etag))
            }
            _ => Ok(()),
        }
    }

    fn kept(&self) -> Kept {
        Kept { note: Default::default(), bytes: serde_json::to_vec(self).unwrap_or_default().into() }
    }

    fn read(kept: &Kept) -> Option<Self> {
        serde_json::from_slice(&kept.bytes).ok()
    }
}

/// One of the two documents that say which files a repository has.
struct Listing<'a> {
    /// As in a [`Place`].
    repo: String,
    /// `None`: the default branch.
    revision: Option<&'a str>,
    /// The files themselves, and not the repository's description; below a folder where that is not empty.
    tree: Option<&'a [&'a str]>,
}

impl<'a> Listing<'a> {
    fn of(kind: &str, rest: &'a [&'a str]) -> Option<Self> {
        let verb = [1, 2].into_iter().find(|at| matches!(rest.get(*at), Some(&("revision" | "tree"))));
        let repo = rest.get(..verb.unwrap_or(rest.len()))?;
        let (revision, tree) = match verb.map(|at| &rest[at..]) {
            None => (None, None),
            Some(["revision", revision]) => (Some(*revision), None),
            Some(["tree", revision, folder @ ..]) => (Some(*revision), Some(folder)),
            Some(_) => return None,
        };
        let sound = matches!(repo.len(), 1 | 2) && repo.iter().chain(&revision).all(|part| is_name(part));
        let kind = if kind == "models" { String::new() } else { format!("{kind}/") };
        sound.then(|| Self { repo: format!("{kind}{}", repo.join("/")), revision, tree })
    }

    /// # Errors: Html, Malformed, Absent where a pinned file is not listed, Hash where another one is.
    fn check(&self, gateway: &Gateway, bytes: &[u8], whole: bool) -> Result<Value, Error> {
        if looks_like_a_web_page(bytes) {
            return Err(web_page(bytes));
        }
        let malformed = |what: &str| Error::new(Kind::Malformed, format!("its listing of {} {what}", self.repo));
        at_most(MAX_VALUES, bytes)?;
        let mut value: Value =
            serde_json::from_slice(bytes).map_err(|cause| malformed(&format!("is no JSON: {cause}")))?;
        let (files, name, revision) = if self.tree.is_some() {
            (Some(value.as_array().ok_or_else(|| malformed("is no list"))?), "path", self.revision)
        } else {
            let sha = value["sha"].as_str().filter(|sha| is_commit(sha));
            let sha = sha.ok_or_else(|| malformed("has no `sha` that is a commit"))?;
            if let Some(asked) = self.revision.filter(|asked| is_commit(asked) && *asked != sha) {
                return Err(malformed(&format!("is of commit {sha} where {asked} was asked for")));
            }
            (value["siblings"].as_array(), "rfilename", Some(sha))
        };
        let prefix = format!("{}@{} ", self.repo, revision.unwrap_or_default());
        for (file, sha256) in
            gateway.setup.pins.hub.iter().filter_map(|(key, pin)| Some((key.strip_prefix(&prefix)?, pin)))
        {
            let Some(files) = files else { break };
            match files.iter().find(|entry| entry[name] == file) {
                None if whole => {
                    return Err(Error::new(
                        Kind::Absent,
                        format!("its listing is stale: {file} of the lock is missing"),
                    ));
                }
                Some(entry) => match entry["lfs"]["oid"].as_str().or(entry["lfs"]["sha256"].as_str()) {
                    Some(oid) if !oid.eq_ignore_ascii_case(sha256) => return Err(Error::hash(sha256, oid)),
                    _ => {}
                },
                None => {}
            }
        }
        without_xet(&mut value);
        Ok(value)
    }
}

/// A client that hears of xet leaves the hub for its storage.
fn without_xet(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("xetHash");
            fields.values_mut().for_each(without_xet);
        }
        Value::Array(entries) => entries.iter_mut().for_each(without_xet),
        _ => {}
    }
}

async fn list(gateway: &Gateway, asked: &Asked, listing: &Listing<'_>) -> Result<Response<Reply>, Failure> {
    let query = parameters(asked.query.as_deref().unwrap_or_default());
    let has = |name: &str| query.split('&').any(|pair| pair.to_ascii_lowercase().starts_with(name));
    let relative = format!("{}{}{query}", asked.path, if query.is_empty() { "" } else { "?" });
    let what = if listing.tree.is_some() { "files" } else { "description" };
    let sought = Sought {
        step: &asked.step,
        ecosystem: Ecosystem::Hub,
        name: &listing.repo,
        subject: format!("{what} of {}@{}", listing.repo, listing.revision.unwrap_or("its default branch")),
        key: relative.clone(),
        headers: asked.forwarded(&[]),
        max_bytes: MAX_DOCUMENT_BYTES,
    };
    // A page, a folder or the top level does not list everything.
    let whole = match listing.tree {
        Some(folder) => folder.is_empty() && has("recursive=true") && !has("cursor="),
        None => true,
    };
    let found = seek(
        gateway,
        &sought,
        async |upstream: &Upstream| Url::parse(&upstream.url)?.below(&relative),
        async |document: &Document| {
            let next = next_page(&document.headers);
            let value = listing.check(gateway, &document.bytes, whole && next.is_none())?;
            let mut kept = Kept::of(document);
            kept.bytes = serde_json::to_vec(&value).unwrap_or_default().into();
            kept.note.headers = next.map(|next| ("next".to_owned(), next)).into_iter().collect();
            Ok(kept)
        },
        async |kept: &Kept| match listing.check(gateway, &kept.bytes, false) {
            Ok(_) if listing.revision.is_some_and(is_commit) => Standing::Unchanging,
            checked => Standing::of(checked, false),
        },
    )
    .await?;
    let Some(kept) = found else {
        let code = if listing.revision.is_some() { "RevisionNotFound" } else { "RepoNotFound" };
        return Ok(missing(&sought.subject, code, None));
    };
    let mut reply = typed(StatusCode::OK, "application/json", kept.bytes);
    if let Some((_, next)) = kept.note.headers.first() {
        let link = format!("<{}{}?{next}>; rel=\"next\"", asked.folder, asked.path);
        if let Ok(link) = HeaderValue::from_str(&link) {
            reply.headers_mut().insert(header::LINK, link);
        }
    }
    Ok(reply)
}

/// The known parameters of a query, as they came.
fn parameters(query: &str) -> String {
    let known = |pair: &&str| PARAMETERS.contains(&pair.split('=').next().unwrap_or_default());
    query.split('&').filter(known).collect::<Vec<_>>().join("&")
}

/// The query of the next page, from `Link: <https://…/tree/main?cursor=…>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get(header::LINK)?.to_str().ok()?;
    let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    let (url, _) = next.trim().strip_prefix('<')?.split_once('>')?;
    Some(parameters(url.split_once('?')?.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const REVISION: &str = "1111111111111111111111111111111111111111";
    const OTHER: &str = "2222222222222222222222222222222222222222";

    fn judged(
        status: u16,
        hops: &[&[(&'static str, &str)]],
        revision: &str,
        pinned: Option<&str>,
    ) -> Result<Facts, Error> {
        let map = |hop: &&[(&'static str, &str)]| {
            let pairs =
                hop.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
            pairs.collect()
        };
        let head = Head {
            status: StatusCode::from_u16(status).unwrap(),
            hops: hops.iter().map(map).collect(),
            peer: Default::default(),
        };
        Facts::of(&head, revision, pinned)
    }

    #[test]
    fn the_head_of_a_file_is_read_as_the_hub_means_it() {
        let linked: &[_] =
            &[("x-repo-commit", REVISION), ("x-linked-etag", &format!("\"{HASH}\"")), ("x-linked-size", "7")];
        let facts = judged(302, &[linked], "main", None).unwrap();
        assert_eq!((facts.commit.as_str(), facts.etag.as_str(), facts.size_bytes), (REVISION, HASH, Some(7)));
        // A small file: git's hash, possibly weak, on the last hop.
        let blob = format!("W/\"{OTHER}\"");
        let hops: [&[_]; 2] =
            [&[("x-repo-commit", REVISION), ("content-length", "99")], &[("etag", &blob), ("content-length", "5")]];
        let facts = judged(200, &hops, "main", None).unwrap();
        assert_eq!((facts.etag.as_str(), facts.size_bytes), (OTHER, Some(5)));
        // The storage's own tag is no hash of the bytes.
        let error = judged(
            200,
            &[&[("x-repo-commit", REVISION), ("etag", "\"d41d8cd98f00b204e9800998ecf8427e-3\"")]],
            "main",
            None,
        );
        assert!(error.unwrap_err().message.contains("X-Linked-Etag"));
    }

    #[test]
    fn a_mirror_that_does_not_say_which_commit_is_named_by_the_missing_header() {
        let etag: &[_] = &[("etag", HASH)];
        let error = judged(200, &[etag], "main", None).unwrap_err();
        assert_eq!((error.code(), error.message.contains("X-Repo-Commit")), ("mirror.malformed", true));
        assert_eq!(judged(200, &[etag], REVISION, None).unwrap().commit, REVISION);
        let lying: &[_] = &[("etag", HASH), ("x-repo-commit", OTHER)];
        assert_eq!(judged(200, &[lying], REVISION, None).unwrap_err().code(), "mirror.malformed");
        assert_eq!(judged(200, &[etag], REVISION, Some(&HASH.replace('a', "b"))).unwrap_err().code(), "mirror.hash");
        assert_eq!(judged(200, &[&[("content-type", "text/html")]], REVISION, None).unwrap_err().code(), "mirror.html");
        assert_eq!(judged(404, &[&[]], REVISION, None).unwrap_err().code(), "mirror.absent");
        let gone: &[_] = &[("x-repo-commit", REVISION), ("x-error-code", "EntryNotFound")];
        assert!(judged(404, &[gone], REVISION, None).unwrap().absent);
        assert_eq!(judged(404, &[gone], REVISION, Some(HASH)).unwrap_err().code(), "mirror.absent");
    }

    #[test]
    fn a_listing_keeps_its_next_page_and_loses_xet() {
        let link = "<https://m.example/api/models/o/m/tree/main?recursive=True&cursor=abc%3D&token=x>; rel=\"next\"";
        let headers: HeaderMap = [(header::LINK, HeaderValue::from_static(link))].into_iter().collect();
        assert_eq!(next_page(&headers).as_deref(), Some("recursive=True&cursor=abc%3D"));
        let mut value = serde_json::json!([{"path": "a", "xetHash": "x", "lfs": {"oid": "b", "xetHash": "y"}}]);
        without_xet(&mut value);
        assert_eq!(value, serde_json::json!([{"path": "a", "lfs": {"oid": "b"}}]));
    }

    #[test]
    fn listings_are_told_apart() {
        let of = |rest: &[&str]| {
            Listing::of("models", rest).map(|it| (it.repo, it.revision.map(str::to_owned), it.tree.map(<[_]>::len)))
        };
        assert_eq!(of(&["gpt2"]), Some(("gpt2".into(), None, None)));
        assert_eq!(of(&["o", "m", "revision", "main"]), Some(("o/m".into(), Some("main".into()), None)));
        assert_eq!(of(&["o", "m", "tree", "main", "a"]), Some(("o/m".into(), Some("main".into()), Some(1))));
        assert_eq!((of(&["o", "m", "commits"]), of(&["o", "m", "tree"]), of(&["a b"])), (None, None, None));
    }
}
