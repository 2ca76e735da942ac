//! The Python simple index, as a child (pip, uv) on one side and upstream indexes on the other speak it: which files a
//! project offers, where they are, and the files.
//!
//! Owns: reading a project page, as JSON or as HTML, and writing ours. Never: let an index say which bytes are right, or
//! what a file needs, where a pin does; pass on a file that has no sha256 anywhere: such a one is listed and refused.
//! A file's path with us is `files/PROJECT/SHA256/SHA256 OF ITS METADATA/FILENAME`, with `-` for a hash that is not known:
//! whichever mirror the page came from, it names the same bytes, and nobody has to be asked again to know them.
//! Rules: PEP 503 (names, HTML), PEP 691 (JSON), PEP 592 (yanked), PEP 658 and 714 (metadata), PEP 700 (size).

use crate::Gateway;
use crate::documents::{Kept, Sought, Standing, at_most, seek};
use crate::downloads::{Found, Pin};
use crate::error::{Error, Kind};
use crate::fetch::{Errand, Fetched, blocking, fetch, parsed};
use crate::reply::{Reply, absent, delivered, head, typed};
use crate::request::{Ask, Document, looks_like_a_web_page, web_page};
use crate::server::Asked;
use crate::upstream::ask_each;
use crate::url::{Url, encode_path};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Response, StatusCode};
use protocol::coding::percent_decode;
use protocol::names::normalised;
use protocol::{Ecosystem, Failure, FailureKind, ListedFile, Upstream};
use serde::Deserialize;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

const JSON: &str = "application/vnd.pypi.simple.v1+json";
pub const ACCEPT: &str =
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";
/// The longest project pages are a few megabytes.
const MAX_PAGE_BYTES: usize = 32 << 20;
/// Ten thousand files have fifteen values each.
const MAX_VALUES: usize = 1 << 20;
const MAX_ATTRIBUTES: usize = 32;
/// As many links as a page of that many values has files.
const MAX_LINKS: usize = 1 << 18;

/// What upstreams' pages said in this run, by URL of the upstream and project.
#[derive(Default)]
pub struct Pages(RefCell<HashMap<(String, String), Files>>);

type Files = Rc<Vec<File>>;

pub struct File {
    pub listed: ListedFile,
    pub url: Url,
    /// Empty for a file that was yanked without one, and for all others.
    yanked_because: String,
    /// Of its `.metadata`, where the index has that.
    metadata_sha256: Option<String>,
    /// As the index writes it.
    uploaded: Option<String>,
}

/// `simple/PROJECT/`, or a file where our pages say that it is.
pub async fn serve(gateway: &Rc<Gateway>, asked: &Asked) -> Result<Response<Reply>, Failure> {
    let path = asked.path.strip_suffix('/').unwrap_or(&asked.path);
    let words: Option<Vec<String>> = path.split('/').map(word).collect();
    match words.as_deref().unwrap_or_default() {
        [folder, project] if folder == "simple" => index(gateway, asked, &normalised(project)).await,
        [folder, project, sha256, metadata, filename] if folder == "files" => {
            match filename.strip_suffix(".metadata") {
                Some(wheel) => download(gateway, asked, project, wheel, metadata, ".metadata").await,
                None => download(gateway, asked, project, filename, sha256, "").await,
            }
        }
        _ => Ok(absent(&format!("{} is nothing that a simple index has", asked.path))),
    }
}

/// A part of a path without its percent-encoding: a project, a hash or a file name; never `..`.
fn word(part: &str) -> Option<String> {
    let text = String::from_utf8(percent_decode(part)).ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+!~".contains(&byte);
    (!text.is_empty() && !text.starts_with('.') && text.bytes().all(plain)).then_some(text)
}

async fn index(gateway: &Gateway, asked: &Asked, project: &str) -> Result<Response<Reply>, Failure> {
    let Some(kept) = project_page(gateway, asked, project).await? else {
        return Ok(absent(&format!("no index of this profile has a project {project}")));
    };
    let files = files_of(&kept).await.map_err(|error| error.failure(&format!("project {project}"), Vec::new()))?;
    let accepted = asked.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let links = files.iter().map(|file| Link::of(gateway, &asked.folder, project, file));
    if accepted.contains(JSON) || accepted.contains("application/vnd.pypi.simple.latest+json") {
        let files: Vec<Value> = links.map(|link| link.json()).collect();
        let page = json!({"meta": {"api-version": "1.0"}, "name": project, "files": files});
        Ok(typed(StatusCode::OK, JSON, page.to_string().into()))
    } else {
        let anchors: String = links.map(|link| link.html()).collect();
        let page = format!("<!DOCTYPE html>\n<html><body>\n{anchors}</body></html>\n");
        Ok(typed(StatusCode::OK, "text/html; charset=utf-8", page.into()))
    }
}

/// The page of a project as the first upstream wrote it that has every pinned file; a stale one where all are stale.
async fn project_page(gateway: &Gateway, asked: &Asked, project: &str) -> Result<Option<Kept>, Failure> {
    let sought = Sought {
        step: &asked.step,
        ecosystem: Ecosystem::Python,
        name: project,
        subject: format!("project {project}"),
        key: format!("simple/{project}"),
        headers: [vec![(header::ACCEPT, HeaderValue::from_static(ACCEPT))], asked.forwarded(&[])].concat(),
        max_bytes: MAX_PAGE_BYTES,
    };
    let pinned: BTreeMap<&str, &BTreeSet<String>> = {
        let named = gateway.setup.pins.wheels.iter().map(|(filename, hashes)| (filename.as_str(), hashes));
        named.filter(|(filename, _)| project_of(filename) == project).collect()
    };
    let (asking, stale) = (RefCell::new(String::new()), RefCell::new(None));
    let locate = async |upstream: &Upstream| {
        asking.replace(upstream.url.clone());
        page_url(upstream, project)
    };
    let accept = async |document: &Document| {
        let kept = Kept::of(document);
        let files = files_of(&kept).await?;
        check(&files, &pinned).inspect_err(|error| {
            if error.kind == Kind::Absent {
                stale.borrow_mut().get_or_insert(kept.clone());
            }
        })?;
        gateway.pages.0.borrow_mut().insert((asking.borrow().clone(), project.to_owned()), Rc::new(files));
        Ok(kept)
    };
    let settled = async |kept: &Kept| {
        Standing::of(files_of(kept).await.and_then(|files| check(&files, &pinned)), !pinned.is_empty())
    };
    let found = seek(gateway, &sought, locate, accept, settled).await?;
    // A file that went away everywhere: whoever needs it hears so when it is asked for.
    Ok(found.or(stale.into_inner()))
}

/// # Errors: Absent for a page without a pinned file, Hash for one that contradicts a pin.
fn check(files: &[File], pinned: &BTreeMap<&str, &BTreeSet<String>>) -> Result<(), Error> {
    for (filename, hashes) in pinned {
        let Some(file) = files.iter().find(|file| file.listed.filename == *filename) else {
            return Err(Error::new(Kind::Absent, format!("its page is stale: {filename} of the lock file is missing")));
        };
        if let Some(offered) = file.listed.sha256.as_ref().filter(|offered| !hashes.contains(*offered)) {
            return Err(Error::hash(&hashes.iter().cloned().collect::<Vec<_>>().join(" or "), offered));
        }
    }
    Ok(())
}

/// PEP 427: the name of a wheel ends at its first `-`; that of a source archive before the version.
fn project_of(filename: &str) -> String {
    let name = match filename.strip_suffix(".whl") {
        Some(wheel) => wheel.split_once('-').map(|(name, _)| name),
        None => filename.rsplit_once('-').map(|(name, _)| name),
    };
    normalised(name.unwrap_or(filename))
}

/// A file as our pages name it.
struct Link<'a> {
    file: &'a File,
    url: String,
    sha256: Option<String>,
    /// Of its metadata. A pinned file has none beside it: that would be a mirror's word for what it needs, and has no pin.
    metadata: Option<&'a str>,
}

impl<'a> Link<'a> {
    fn of(gateway: &Gateway, folder: &str, project: &str, file: &'a File) -> Self {
        let filename = &file.listed.filename;
        let pinned = gateway.setup.pins.wheels.get(filename);
        let sha256 = file.listed.sha256.clone().or_else(|| pinned?.first().cloned());
        let metadata = file.metadata_sha256.as_deref().filter(|_| pinned.is_none());
        let url = format!(
            "{folder}files/{project}/{}/{}/{}",
            sha256.as_deref().unwrap_or("-"),
            metadata.unwrap_or("-"),
            encode_path(filename)
        );
        Self { file, url, sha256, metadata }
    }

    fn json(&self) -> Value {
        let ListedFile { filename, size_bytes, requires_python, yanked, .. } = &self.file.listed;
        let because = self.file.yanked_because.as_str();
        let hashes = |sha256: Option<&str>| sha256.map_or(json!({}), |hex| json!({ "sha256": hex }));
        let mut entry = json!({
            "filename": filename,
            "url": self.url,
            "hashes": hashes(self.sha256.as_deref()),
            "requires-python": requires_python,
            "yanked": if *yanked && !because.is_empty() { json!(because) } else { json!(yanked) },
        });
        if self.metadata.is_some() {
            for key in ["core-metadata", "dist-info-metadata"] {
                entry[key] = hashes(self.metadata);
            }
        }
        if let Some(size_bytes) = size_bytes {
            entry["size"] = json!(size_bytes);
        }
        if let Some(uploaded) = &self.file.uploaded {
            entry["upload-time"] = json!(uploaded);
        }
        entry
    }

    fn html(&self) -> String {
        let ListedFile { filename, requires_python, yanked, .. } = &self.file.listed;
        let fragment = self.sha256.as_ref().map(|hex| format!("#sha256={hex}")).unwrap_or_default();
        let mut anchor = format!("<a href=\"{}{fragment}\"", self.url);
        if let Some(requires) = requires_python {
            anchor.push_str(&format!(" data-requires-python=\"{}\"", escaped(requires)));
        }
        if *yanked {
            anchor.push_str(&format!(" data-yanked=\"{}\"", escaped(&self.file.yanked_because)));
        }
        if let Some(hex) = self.metadata {
            anchor.push_str(&format!(" data-core-metadata=\"sha256={hex}\" data-dist-info-metadata=\"sha256={hex}\""));
        }
        format!("{anchor}>{}</a><br/>\n", escaped(filename))
    }
}

/// A file (`ending` is empty) or what stands beside it, verified against the hash in its path.
async fn download(
    gateway: &Rc<Gateway>,
    asked: &Asked,
    project: &str,
    filename: &str,
    sha256: &str,
    ending: &'static str,
) -> Result<Response<Reply>, Failure> {
    let subject = format!("file {filename}{ending}");
    let refuse = |kind, message: String| Failure { kind, subject: subject.clone(), message, attempts: Vec::new() };
    if sha256 == "-" {
        let message =
            "neither its index nor a lock file of this build says its sha256, so nobody could tell right bytes";
        return Err(refuse(FailureKind::Configuration, message.to_owned()));
    }
    let pin = Pin::sha256(sha256).map_err(|error| error.failure(&subject, Vec::new()))?;
    let pinned = gateway.setup.pins.wheels.get(filename);
    if pinned.is_some() && !ending.is_empty() {
        return Ok(absent(&format!("{filename} is pinned, and nothing beside it is: it says itself what it needs")));
    }
    if let Some(hashes) = pinned.filter(|hashes| !hashes.contains(pin.text())) {
        let expected = hashes.iter().cloned().collect::<Vec<_>>().join(" or ");
        let message =
            format!("the index offers other bytes than the lock file pins: expected {expected}, got {sha256}");
        return Err(refuse(FailureKind::Integrity, message));
    }
    if asked.method == Method::HEAD
        && let Some(size_bytes) = size_unless_here(gateway, asked, project, filename, &pin, ending).await
    {
        let mut reply = head(Vec::new(), Some(size_bytes));
        // uv would read a wheel's end by range, and gives up where a slow download is answered with the whole instead.
        reply.headers_mut().remove(header::ACCEPT_RANGES);
        return Ok(reply);
    }
    if pinned.is_none() && ending.is_empty() && !gateway.setup.pins.wheels.is_empty() {
        gateway.tell_unpinned(&subject, "no lock file of this build names it");
    }
    let wanted = asked.wanted(Ecosystem::Python, subject, pin.clone(), None);
    let (own, project, filename) = (gateway.clone(), normalised(project), filename.to_owned());
    let fetching = async move {
        let upstreams = own.upstreams(Ecosystem::Python, &project).await;
        fetch(&own, &wanted, &upstreams, async |upstream: &Upstream| {
            let url = file_url(&own, &wanted.step, upstream, &project, &filename).await?;
            if ending.is_empty() { Ok(url) } else { Url::parse(&format!("{}{}{ending}", url.origin, url.path)) }
        })
        .await
    };
    delivered(gateway, asked, Vec::new(), &pin, None, fetching).await
}

/// What the index says about the size of a file that is not here yet: no reason to download it for a HEAD.
async fn size_unless_here(
    gateway: &Gateway,
    asked: &Asked,
    project: &str,
    filename: &str,
    pin: &Pin,
    ending: &str,
) -> Option<u64> {
    let (downloads, pin) = (gateway.downloads.clone(), pin.clone());
    let found = blocking(move || downloads.find(&pin)).await;
    if !ending.is_empty() || matches!(found, Ok(Found::Verified(_))) {
        return None;
    }
    let page = project_page(gateway, asked, &normalised(project)).await.ok()??;
    let files = files_of(&page).await.ok()?;
    files.iter().find(|file| file.listed.filename == filename)?.listed.size_bytes
}

pub async fn wheel(
    gateway: &Gateway,
    errand: &Errand,
    project: &str,
    filename: &str,
    sha256: &str,
    size_bytes: u64,
) -> Result<Fetched, Failure> {
    let subject = format!("wheel {filename}");
    let pin = Pin::sha256(sha256).map_err(|error| error.failure(&subject, Vec::new()))?;
    let wanted = errand.wanted(Ecosystem::Python, subject, pin, Some(size_bytes));
    let project = normalised(project);
    let upstreams = gateway.upstreams(Ecosystem::Python, &project).await;
    fetch(gateway, &wanted, &upstreams, async |upstream: &Upstream| {
        file_url(gateway, &errand.step, upstream, &project, filename).await
    })
    .await
}

/// Where an upstream's own page says that a file is.
async fn file_url(
    gateway: &Gateway,
    step: &str,
    upstream: &Upstream,
    project: &str,
    filename: &str,
) -> Result<Url, Error> {
    let key = (upstream.url.clone(), project.to_owned());
    let known = gateway.pages.0.borrow().get(&key).cloned();
    let files = match known {
        Some(files) => files,
        None => {
            let files = Rc::new(page(gateway, step, upstream, project).await?);
            gateway.pages.0.borrow_mut().insert(key, files.clone());
            files
        }
    };
    match files.iter().find(|file| file.listed.filename == filename) {
        Some(file) => Url::parse(&upstream.url)?.origin.led_to(file.url.clone()),
        None => {
            let offered = files.len();
            let message = format!("its page of {project} lists {offered} files, and {filename} is not among them");
            Err(Error::new(Kind::Absent, message))
        }
    }
}

/// What the first upstream that answers offers for a project.
pub async fn list(gateway: &Gateway, errand: &Errand, project: &str) -> Result<Vec<ListedFile>, Failure> {
    let subject = format!("project {project}");
    let project = normalised(project);
    let upstreams = gateway.upstreams(Ecosystem::Python, &project).await;
    let upstreams = gateway.ranked(Ecosystem::Python, &upstreams).await;
    let files = ask_each(&subject, &upstreams, &gateway.limits, async |upstream: &Upstream| {
        page(gateway, &errand.step, upstream, &project).await
    });
    Ok(files.await?.into_iter().map(|file| file.listed).collect())
}

async fn page(gateway: &Gateway, step: &str, upstream: &Upstream, project: &str) -> Result<Vec<File>, Error> {
    let url = page_url(upstream, project)?;
    let headers = vec![(header::ACCEPT, HeaderValue::from_static(ACCEPT))];
    let artifact = format!("project {project}");
    let ask = Ask { step, ecosystem: Ecosystem::Python, artifact: &artifact, upstream, url: &url, headers };
    files_of(&Kept::of(&gateway.client.document(ask, MAX_PAGE_BYTES).await?)).await
}

fn page_url(upstream: &Upstream, project: &str) -> Result<Url, Error> {
    Url::parse(&upstream.url)?.below(&format!("{}/", encode_path(project)))
}

/// As [`read`], beside the sockets.
async fn files_of(page: &Kept) -> Result<Vec<File>, Error> {
    let own = page.clone();
    parsed(&page.bytes, move |_| read(&own)).await
}

/// # Errors: Html for a page without a single link to a file, Malformed.
pub fn read(page: &Kept) -> Result<Vec<File>, Error> {
    let base = Url::parse(&page.note.url)?;
    if page.note.content_type.contains("json") { from_json(&page.bytes, &base) } else { from_html(&page.bytes, &base) }
}

#[derive(Deserialize)]
struct Page {
    files: Vec<PageFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct PageFile {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
    requires_python: Option<String>,
    size: Option<u64>,
    upload_time: Option<String>,
    /// Hashes, or a flag without any.
    #[serde(default, alias = "dist-info-metadata")]
    core_metadata: Value,
    /// A flag, or the reason as a text.
    #[serde(default)]
    yanked: Value,
}

fn from_json(bytes: &[u8], base: &Url) -> Result<Vec<File>, Error> {
    if looks_like_a_web_page(bytes) {
        return Err(web_page(bytes));
    }
    at_most(MAX_VALUES, bytes)?;
    let page: Page = serde_json::from_slice(bytes)
        .map_err(|cause| Error::new(Kind::Malformed, format!("its project page is not PEP 691 JSON: {cause}")))?;
    let files = page.files.into_iter().filter_map(|file| {
        let listed = ListedFile {
            filename: file.filename,
            sha256: file.hashes.get("sha256").and_then(|hex| sha256(hex)),
            size_bytes: file.size,
            requires_python: file.requires_python,
            yanked: !matches!(file.yanked, Value::Null | Value::Bool(false)),
        };
        Some(File {
            listed,
            url: base.join(&file.url).ok()?,
            yanked_because: file.yanked.as_str().unwrap_or_default().to_owned(),
            metadata_sha256: file.core_metadata.get("sha256").and_then(Value::as_str).and_then(sha256),
            uploaded: file.upload_time,
        })
    });
    Ok(files.collect())
}

fn from_html(bytes: &[u8], base: &Url) -> Result<Vec<File>, Error> {
    let text = String::from_utf8_lossy(bytes);
    let hash = |text: &str| text.strip_prefix("sha256=").and_then(sha256);
    let files: Vec<File> = anchors(&text)
        .into_iter()
        .filter_map(|anchor| {
            let href = anchor.attribute("href")?;
            let listed = ListedFile {
                filename: anchor.text.trim().to_owned(),
                sha256: href.split_once('#').and_then(|(_, fragment)| hash(fragment)),
                size_bytes: None,
                requires_python: anchor.attribute("data-requires-python").map(str::to_owned),
                yanked: anchor.attribute("data-yanked").is_some(),
            };
            let metadata =
                anchor.attribute("data-core-metadata").or_else(|| anchor.attribute("data-dist-info-metadata"));
            Some(File {
                listed,
                url: base.join(href).ok()?,
                yanked_because: anchor.attribute("data-yanked").unwrap_or_default().to_owned(),
                metadata_sha256: metadata.and_then(hash),
                uploaded: None,
            })
        })
        .collect();
    let archives = [".whl", ".tar.gz", ".zip", ".tar.bz2"];
    // A portal has links too, but not to archives. A project without any file is not a page that we could use either.
    if files.iter().any(|file| archives.iter().any(|ending| file.listed.filename.ends_with(ending))) {
        Ok(files)
    } else {
        Err(web_page(bytes))
    }
}

/// A sha256 as pins have it; `None` for what is none, so that it can stand in a path.
fn sha256(hex: &str) -> Option<String> {
    Pin::sha256(hex).ok().map(|pin| pin.text().to_owned())
}

struct Anchor {
    attributes: Vec<(String, String)>,
    text: String,
}

impl Anchor {
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The `<a …>text</a>` elements of a page: all that PEP 503 uses of HTML.
fn anchors(html: &str) -> Vec<Anchor> {
    let mut found = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find('<').filter(|_| found.len() < MAX_LINKS) {
        rest = &rest[start + 1..];
        let Some(after) = rest.strip_prefix(['a', 'A']) else { continue };
        rest = after;
        if !rest.starts_with(|c: char| c.is_ascii_whitespace()) {
            continue;
        }
        let (attributes, after) = attributes(rest);
        let text = after.split('<').next().unwrap_or_default();
        found.push(Anchor { attributes, text: unescaped(text) });
        rest = after;
    }
    found
}

/// The attributes of a tag, and what follows its `>`.
fn attributes(tag: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    let mut rest = tag;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
        let name_end = rest.find(|c: char| c.is_ascii_whitespace() || "=>/".contains(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(name_end);
        if name.is_empty() {
            // `>`, the end of the page, or a stray `=`.
            let after = after.find('>').map_or("", |end| &after[end + 1..]);
            return (found, after);
        }
        let after = after.trim_ascii_start();
        let Some(value) = after.strip_prefix('=').map(str::trim_ascii_start) else {
            if found.len() < MAX_ATTRIBUTES {
                found.push((name.to_ascii_lowercase(), String::new()));
            }
            rest = after;
            continue;
        };
        let quoted = value.chars().next().filter(|quote| "\"'".contains(*quote));
        let (value, after) = match quoted {
            Some(quote) => value[1..].split_once(quote).unwrap_or((&value[1..], "")),
            None => value.split_at(value.find(|c: char| c.is_ascii_whitespace() || c == '>').unwrap_or(value.len())),
        };
        if found.len() < MAX_ATTRIBUTES {
            found.push((name.to_ascii_lowercase(), unescaped(value)));
        }
        rest = after;
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        plain.push_str(&rest[..start]);
        rest = &rest[start..];
        // The longest that is known, `&#x10FFFF;`, has ten bytes.
        let end = rest.bytes().take(12).position(|byte| byte == b';');
        let entity = end.map(|end| &rest[1..end]);
        let decoded = entity.and_then(|entity| match entity {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            number => {
                let number = number.strip_prefix('#')?;
                let code = number
                    .strip_prefix(['x', 'X'])
                    .map_or_else(|| number.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok());
                code.and_then(char::from_u32)
            }
        });
        plain.push(decoded.unwrap_or('&'));
        rest = &rest[decoded.and(entity).map_or(1, |entity| entity.len() + 2)..];
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const AA: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn base() -> Result<Url, Error> {
        Url::parse("https://pypi.example/simple/foo/")
    }

    #[test]
    fn an_html_page_is_read_as_pep_503_writes_it() -> Result<(), Error> {
        let page = concat!(
            "<!DOCTYPE html><html><body><abbr>x</abbr>\n",
            "<a href=\"../../packages/foo-1.0-py3-none-any.whl#sha256=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\" data-requires-python=\"&gt;=3.10&#44;&lt;4\">foo-1.0-py3-none-any.whl</a><br/>",
            "<a data-yanked  href='https://files.example/foo-2.0.tar.gz?a=1&amp;b=2'>foo-2.0.tar.gz</a></body></html>",
        );
        let files = from_html(page.as_bytes(), &base()?)?;
        let told: Vec<_> = files
            .iter()
            .map(|file| {
                (
                    file.listed.filename.as_str(),
                    file.url.origin.host.as_str(),
                    file.url.path_and_query(),
                    file.listed.yanked,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("foo-1.0-py3-none-any.whl", "pypi.example", "/packages/foo-1.0-py3-none-any.whl".to_owned(), false),
                ("foo-2.0.tar.gz", "files.example", "/foo-2.0.tar.gz?a=1&b=2".to_owned(), true),
            ]
        );
        assert_eq!(files[0].listed.requires_python.as_deref(), Some(">=3.10,<4"));
        assert_eq!(files[0].listed.sha256.as_deref(), Some(AA));
        Ok(())
    }

    #[test]
    fn a_portal_is_no_project_page() -> Result<(), Error> {
        let error = from_html(b"<html><a href=/login>Sign in</a> to the guest network</html>", &base()?).err();
        assert!(error.is_some_and(|error| error.kind == Kind::Html
            && error.message.contains("Sign in to the guest network")));
        Ok(())
    }

    #[test]
    fn pages_that_are_made_to_be_slow_are_read_as_fast_as_others() -> Result<(), Error> {
        for flood in ["<A href=x>", "&", "<a b c d e", "<a href=\"&&&&\">"] {
            let started = std::time::Instant::now();
            let page =
                format!("{}<a href=\"foo-1.0.tar.gz\">foo-1.0.tar.gz</a>", flood.repeat((1 << 20) / flood.len()));
            let _ = from_html(page.as_bytes(), &base()?);
            assert!(started.elapsed().as_secs() < 10, "{flood}: {:?}", started.elapsed());
        }
        Ok(())
    }
}
