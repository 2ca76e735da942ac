//! The Go module proxy protocol, as a child go on one side and upstream proxies on the other speak it, and the hash by
//! which Go knows a module.
//!
//! Owns: the escaped form of module paths, `h1:`, what is asked of a checksum database. Never: compare zip bytes, since
//! proxies may re-zip; answer so that Go would go around us (`direct`, the checksum database's own host).
//! A zip or go.mod that go.sum names is verified here. What it does not name has no hash that we could know: a zip must
//! be a sound one whose entries are all below `module@version/`, and Go itself compares it with the checksum database,
//! whose signature we cannot check. So such a thing, and any answer of the database, is asked for anew in every run; the
//! stored copy is for when nobody answers.
//! Rules: `go help goproxy`; golang.org/x/mod module.EscapePath and sumdb/dirhash.Hash1; golang.org/design/25530-sumdb.

use crate::Gateway;
use crate::documents::{Kept, Sought, Standing, seek, seek_from};
use crate::downloads::{Pin, copy, hex};
use crate::error::{Error, Kind};
use crate::fetch::{Errand, Fetched, fetch};
use crate::reply::{Reply, absent, delivered, refuse, typed};
use crate::request::{Document, looks_like_a_web_page, web_page};
use crate::server::Asked;
use crate::unpack::{Archive, Refusal};
use crate::upstream::NOBODY_HAS_IT;
use crate::url::{Url, encode_path};
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use protocol::coding::{base64, percent_decode};
use protocol::{Ecosystem, Failure, FailureKind, Upstream};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::rc::Rc;
use tokio::sync::Semaphore;

/// Lists of versions and go.mod files; Go itself stops reading a go.mod at 16 MiB.
const MAX_DOCUMENT_BYTES: usize = 16 << 20;
/// More than Go itself accepts in a module zip (500 MiB), so that we are never the stricter one.
const MAX_ZIP_CONTENT_BYTES: u64 = 1 << 30;
const MAX_ZIP_ENTRIES: u64 = 1 << 18;
/// Modules that are asked for before Go does, at once.
const AHEAD: usize = 8;

pub async fn module(
    gateway: &Gateway,
    errand: &Errand,
    module: &str,
    version: &str,
    h1: &str,
) -> Result<Fetched, Failure> {
    let subject = format!("module {module}@{version}");
    let pin = Pin::h1(h1).map_err(|error| error.failure(&subject, Vec::new()))?;
    let wanted = errand.wanted(Ecosystem::Go, subject, pin, None);
    let relative = format!("{}/@v/{}.zip", encode_path(&escape(module)), encode_path(&escape(version)));
    let upstreams = gateway.upstreams(Ecosystem::Go, module).await;
    fetch(gateway, &wanted, &upstreams, async |upstream: &Upstream| Url::parse(&upstream.url)?.below(&relative)).await
}

/// What Go asks a proxy about one module.
#[derive(Debug, PartialEq, Eq)]
enum Question {
    List,
    Latest,
    /// Of a version, a branch or a revision.
    Info(String),
    Mod(String),
    Zip(String),
}

/// `MODULE/@v/list`, `MODULE/@v/VERSION.{info,mod,zip}`, `MODULE/@latest`, or `sumdb/NAME/…`.
pub async fn serve(gateway: &Rc<Gateway>, asked: &Asked) -> Result<Response<Reply>, Failure> {
    let segments = asked.segments().and_then(|parts| parts.into_iter().map(plain).collect::<Option<Vec<_>>>());
    let answered = match segments.as_deref() {
        Some([first, rest @ ..]) if first == "sumdb" => database(gateway, asked, rest).await,
        Some(segments) => match question(segments) {
            Some((module, Question::Zip(version))) => archive(gateway, asked, &module, &version).await,
            Some((module, question)) => about(gateway, asked, &module, &question).await,
            None => Ok(None),
        },
        None => Ok(None),
    };
    match answered {
        Ok(Some(reply)) => Ok(reply),
        Ok(None) => Ok(absent(&format!("no module proxy of this profile has {}", asked.path))),
        // Go's own rules tell what is nowhere (404) from what could not be had.
        Err(failure) if failure.message == NOBODY_HAS_IT => {
            let mut reply = refuse(gateway, &asked.step, &failure);
            *reply.status_mut() = StatusCode::NOT_FOUND;
            Ok(reply)
        }
        Err(failure) => Err(failure),
    }
}

/// A segment without its percent-encoding (Go encodes even `!`); `None` where it then holds what no module path does.
fn plain(segment: &str) -> Option<String> {
    let text = String::from_utf8(percent_decode(segment)).ok()?;
    let fits = |byte: u8| byte.is_ascii_graphic() && !b"/\\?#%".contains(&byte);
    text.bytes().all(fits).then_some(text)
}

fn question(segments: &[String]) -> Option<(String, Question)> {
    let (module, question) = match segments {
        [module @ .., latest] if latest == "@latest" => (module, Question::Latest),
        [module @ .., folder, list] if folder == "@v" && list == "list" => (module, Question::List),
        [module @ .., folder, file] if folder == "@v" => {
            let (version, kind) = file.rsplit_once('.')?;
            let version = unescape(version)?;
            let question = match kind {
                "info" => Question::Info(version),
                "mod" => Question::Mod(version),
                "zip" => Question::Zip(version),
                _ => return None,
            };
            (module, question)
        }
        _ => return None,
    };
    Some((unescape(&module.join("/"))?, question)).filter(|(module, _)| !module.is_empty())
}

/// Where every proxy has the answer.
fn place(module: &str, question: &Question) -> String {
    let file = |version: &str, kind: &str| format!("@v/{}.{kind}", encode_path(&escape(version)));
    let answer = match question {
        Question::List => "@v/list".to_owned(),
        Question::Latest => "@latest".to_owned(),
        Question::Info(version) => file(version, "info"),
        Question::Mod(version) => file(version, "mod"),
        Question::Zip(version) => file(version, "zip"),
    };
    format!("{}/{answer}", encode_path(&escape(module)))
}

/// Everything about a module but its zip.
async fn about(
    gateway: &Rc<Gateway>,
    asked: &Asked,
    module: &str,
    question: &Question,
) -> Result<Option<Response<Reply>>, Failure> {
    let sums = &gateway.setup.pins.go_sums;
    let place = place(module, question);
    let (subject, content_type) = match question {
        Question::List => (format!("versions of module {module}"), "text/plain; charset=utf-8"),
        Question::Latest => (format!("latest version of module {module}"), "application/json"),
        Question::Info(version) => (format!("module {module}@{version} (.info)"), "application/json"),
        Question::Mod(version) | Question::Zip(version) => {
            (format!("module {module}@{version} (go.mod)"), "text/plain; charset=utf-8")
        }
    };
    let sought = Sought {
        step: &asked.step,
        ecosystem: Ecosystem::Go,
        name: module,
        subject,
        key: place.clone(),
        headers: asked.forwarded(&[]),
        max_bytes: MAX_DOCUMENT_BYTES,
    };
    let stale = RefCell::new(None);
    let accept = async |document: &Document| {
        let kept = Kept::of(document);
        check(&kept.bytes, module, question, sums).inspect_err(|error| {
            if *question == Question::List && error.kind == Kind::Absent {
                stale.borrow_mut().get_or_insert(kept.clone());
            }
        })?;
        Ok(kept)
    };
    let settled = async |kept: &Kept| {
        let checked = check(&kept.bytes, module, question, sums);
        checked.unwrap_or_else(|error| Standing::of::<()>(Err(error), false))
    };
    let was_missing = Cell::new(false);
    let locate = async |upstream: &Upstream| {
        was_missing.set(true);
        Url::parse(&upstream.url)?.below(&place)
    };
    let _turn = gateway.turns.take(&format!("go {place}")).await;
    let found = seek(gateway, &sought, locate, accept, settled).await?;
    if let Question::Info(version) | Question::Mod(version) = question
        && was_missing.get()
        && found.is_some()
    {
        ask_ahead(gateway, asked, module, version);
    }
    // A tag that went away everywhere: the list without it is the truth.
    let found = found.or(stale.into_inner());
    match (found, question) {
        (Some(kept), _) => Ok(Some(typed(StatusCode::OK, content_type, kept.bytes))),
        (None, Question::Mod(version)) if sums.contains_key(&format!("{module} {version}/go.mod")) => {
            Err(Error::new(Kind::Absent, NOBODY_HAS_IT).failure(&sought.subject, Vec::new()))
        }
        (None, _) => Ok(None),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    version: String,
}

/// What the answer is worth: pinned are a go.mod by its hash, and by its version what a version of go.sum stands for.
/// # Errors: Html, Malformed, Absent for a list older than go.sum, Hash for a go.mod that contradicts it.
fn check(bytes: &[u8], module: &str, question: &Question, sums: &BTreeMap<String, String>) -> Result<Standing, Error> {
    if looks_like_a_web_page(bytes) {
        return Err(web_page(bytes));
    }
    let malformed = |what: &str| Error::new(Kind::Malformed, format!("its answer is no {what}"));
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("text"))?;
    match question {
        Question::List => {
            let listed: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
            if listed.iter().any(|version| !version.starts_with('v')) {
                return Err(malformed("list of versions"));
            }
            let of_module = format!("{module} v");
            let named =
                sums.range(of_module.clone()..).map(|(name, _)| name).take_while(|name| name.starts_with(&of_module));
            let mut versions = named.map(|name| name[module.len() + 1..].trim_end_matches("/go.mod"));
            match versions.find(|version| is_release(version) && !listed.contains(version)) {
                Some(version) => {
                    let message = format!("its list is stale: version {version} of go.sum is missing");
                    Err(Error::new(Kind::Absent, message))
                }
                None => Ok(Standing::Passing),
            }
        }
        Question::Latest | Question::Info(_) => {
            let info: Info = serde_json::from_str(text).map_err(|_| malformed("version's description"))?;
            match question {
                Question::Info(version) if info.version == *version => {
                    let name = format!("{module} {version}");
                    let pinned = sums.contains_key(&name) || sums.contains_key(&format!("{name}/go.mod"));
                    Ok(if pinned { Standing::Pinned } else { Standing::Unchanging })
                }
                Question::Info(version) if is_release(version) => {
                    Err(malformed(&format!("description of {version} but of {}", info.version.escape_debug())))
                }
                _ => Ok(Standing::Passing),
            }
        }
        Question::Mod(version) | Question::Zip(version) => match sums.get(&format!("{module} {version}/go.mod")) {
            Some(h1) => {
                let got = summary([(hex(&Sha256::digest(bytes)).as_str(), "go.mod")]);
                if got == *h1 { Ok(Standing::Pinned) } else { Err(Error::hash(h1, &got)) }
            }
            None if text.lines().any(|line| line.trim_start().starts_with("module")) => Ok(Standing::Passing),
            None => Err(malformed("go.mod")),
        },
    }
}

/// `v1.2.3` and `v1.2.3-rc.1`: what a tag makes and a list holds. No pseudo-version, and no `+incompatible`, which a
/// proxy may leave out.
fn is_release(version: &str) -> bool {
    let Some(numbers) = version.strip_prefix('v').filter(|rest| !rest.contains('+')) else { return false };
    let (core, pre_release) = numbers.split_once('-').unwrap_or((numbers, ""));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (time, revision) = pre_release.rsplit_once('-').unwrap_or((pre_release, ""));
    let time = time.rsplit('.').next().unwrap_or_default();
    let pseudo = revision.len() == 12 && time.len() == 14 && digits(time);
    core.split('.').count() == 3 && core.split('.').all(digits) && !pseudo
}

/// What was asked for before anybody wanted it.
pub struct Ahead {
    /// `module version`
    modules: RefCell<HashSet<String>>,
    lanes: Semaphore,
}

impl Default for Ahead {
    fn default() -> Self {
        Self { modules: RefCell::default(), lanes: Semaphore::new(AHEAD) }
    }
}

/// Brings a module's description and zip once its go.mod is missing, where go.sum names the zip and so the build needs it.
/// Go asks for the former one by one and for the latter as many as the machine has cores, each a journey to the mirror.
fn ask_ahead(gateway: &Rc<Gateway>, asked: &Asked, module: &str, version: &str) {
    let name = format!("{module} {version}");
    let is_needed = gateway.setup.pins.go_sums.contains_key(&name) && !gateway.client.is_limited();
    if !is_needed || !gateway.go.modules.borrow_mut().insert(name) {
        return;
    }
    let (gateway, asked, module, version) = (gateway.clone(), asked.clone(), module.to_owned(), version.to_owned());
    tokio::task::spawn_local(async move {
        let _lane = gateway.go.lanes.acquire().await;
        // Whoever needs them asks again, and hears why it failed.
        let _ = Box::pin(about(&gateway, &asked, &module, &Question::Info(version.clone()))).await;
        if let Ok((_, fetching)) = zip(&gateway, &asked, &module, &version) {
            let _ = fetching.await;
        }
    });
}

/// A module's zip: verified against go.sum, else against its own name only.
fn zip(
    gateway: &Rc<Gateway>,
    asked: &Asked,
    module: &str,
    version: &str,
) -> Result<(Pin, impl Future<Output = Result<Fetched, Failure>> + use<>), Failure> {
    let subject = format!("module {module}@{version}");
    let pin = match gateway.setup.pins.go_sums.get(&format!("{module} {version}")) {
        Some(h1) => Pin::h1(h1).map_err(|error| error.failure(&subject, Vec::new()))?,
        None => Pin::Module(format!("{module}@{version}")),
    };
    let wanted = asked.wanted(Ecosystem::Go, subject, pin.clone(), None);
    let (own, module) = (gateway.clone(), module.to_owned());
    let place = place(&module, &Question::Zip(version.to_owned()));
    let fetching = async move {
        let upstreams = own.upstreams(Ecosystem::Go, &module).await;
        fetch(&own, &wanted, &upstreams, async |upstream: &Upstream| Url::parse(&upstream.url)?.below(&place)).await
    };
    Ok((pin, fetching))
}

async fn archive(
    gateway: &Rc<Gateway>,
    asked: &Asked,
    module: &str,
    version: &str,
) -> Result<Option<Response<Reply>>, Failure> {
    let (pin, fetching) = zip(gateway, asked, module, version)?;
    let headers = vec![(header::CONTENT_TYPE, HeaderValue::from_static("application/zip"))];
    let reply = delivered(gateway, asked, headers, &pin, None, fetching).await;
    match reply {
        // Go looks for a module under every prefix of a package's path: that most are nowhere is no news.
        Err(failure) if failure.message == NOBODY_HAS_IT && matches!(pin, Pin::Module(_)) => Ok(None),
        reply => reply.map(Some),
    }
}

/// `NAME/supported`, `NAME/lookup/MODULE@VERSION`, `NAME/tile/…`, `NAME/latest`: from whichever proxy passes the database
/// on, else from a host of its own.
async fn database(gateway: &Gateway, asked: &Asked, segments: &[String]) -> Result<Option<Response<Reply>>, Failure> {
    let is_operation = |part: &String| matches!(part.as_str(), "supported" | "lookup" | "tile" | "latest");
    let Some(at) = segments.iter().position(is_operation).filter(|at| *at > 0) else { return Ok(None) };
    let (name, rest) = (segments[..at].join("/"), segments[at..].join("/"));
    let looked_up = rest.strip_prefix("lookup/").and_then(|record| record.rsplit_once('@'));
    let record = looked_up.and_then(|(module, version)| Some((unescape(module)?, unescape(version)?)));
    match (segments[at].as_str(), &record) {
        // Go would otherwise ask the database's own host, past us. Who passes it on is found out question by question.
        ("supported", _) => return Ok(Some(typed(StatusCode::OK, "text/plain; charset=utf-8", "".into()))),
        ("lookup", None) => return Ok(None),
        // The name of a private module is not for the public.
        ("lookup", Some((module, _))) if gateway.private(Ecosystem::Go, module).is_some() => {
            let reply = absent(&format!("{module} is private and so is asked of no checksum database; set GONOSUMDB"));
            return Ok(Some(reply));
        }
        _ => {}
    }
    let sought = Sought {
        step: &asked.step,
        ecosystem: Ecosystem::Go,
        name: record.as_ref().map_or("", |(module, _)| module),
        subject: format!("checksum database {name}: {rest}"),
        key: format!("sumdb/{name}/{rest}"),
        headers: asked.forwarded(&[]),
        max_bytes: MAX_DOCUMENT_BYTES,
    };
    let path = encode_path(&rest);
    let upstreams = async {
        let mut upstreams = gateway.upstreams(Ecosystem::Go, sought.name).await;
        upstreams.extend(gateway.setup.databases.iter().cloned());
        upstreams
    };
    let found = seek_from(
        gateway,
        &sought,
        upstreams,
        async |upstream: &Upstream| {
            let home = Url::parse(&upstream.url)?;
            if gateway.setup.databases.contains(upstream) {
                home.below(&path)
            } else {
                home.below(&format!("sumdb/{}/{path}", encode_path(&name)))
            }
        },
        async |document: &Document| {
            check_record(&document.bytes, &name, segments[at].as_str(), record.as_ref(), &gateway.setup.pins.go_sums)?;
            Ok(Kept::of(document))
        },
        async |_: &Kept| Standing::Passing,
    );
    let content_type = if segments[at] == "tile" { "application/octet-stream" } else { "text/plain; charset=utf-8" };
    Ok(found.await?.map(|kept| typed(StatusCode::OK, content_type, kept.bytes)))
}

/// # Errors: Html, Malformed, Hash for a record that contradicts go.sum. The signature is for Go to check: it has the key.
fn check_record(
    bytes: &[u8],
    database: &str,
    operation: &str,
    record: Option<&(String, String)>,
    sums: &BTreeMap<String, String>,
) -> Result<(), Error> {
    if looks_like_a_web_page(bytes) {
        return Err(web_page(bytes));
    }
    let malformed = |what: &str| Error::new(Kind::Malformed, format!("its answer is no {what} of {database}"));
    if operation == "tile" {
        return if bytes.is_empty() { Err(malformed("tile")) } else { Ok(()) };
    }
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("record"))?;
    let (head, signed) = text.split_once("go.sum database tree\n").ok_or_else(|| malformed("signed tree"))?;
    if !signed.lines().any(|line| line.starts_with(&format!("\u{2014} {database} "))) {
        return Err(malformed("signed tree"));
    }
    let Some((module, version)) = record else { return Ok(()) };
    let mut lines = head.lines().skip(1).take_while(|line| !line.is_empty()).peekable();
    lines.peek().ok_or_else(|| malformed("record"))?;
    for line in lines {
        let (name, h1) = line.rsplit_once(' ').ok_or_else(|| malformed("record"))?;
        let about = name.strip_suffix("/go.mod").unwrap_or(name);
        if about.split_once(' ') != Some((module.as_str(), version.as_str())) {
            return Err(malformed(&format!("record of {module}@{version} but of {}", about.escape_debug())));
        }
        if let Some(pinned) = sums.get(name).filter(|pinned| *pinned != h1) {
            return Err(Error::hash(pinned, h1));
        }
    }
    Ok(())
}

/// Capitals become `!` and the small letter: a proxy may keep its files where names fold case.
pub fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        if c.is_ascii_uppercase() {
            escaped.push('!');
        }
        escaped.push(c.to_ascii_lowercase());
        escaped
    })
}

/// `None`: nothing that Go would escape so.
fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '!' => plain.push(characters.next().filter(char::is_ascii_lowercase)?.to_ascii_uppercase()),
            c if c.is_ascii_uppercase() => return None,
            c => plain.push(c),
        }
    }
    Some(plain)
}

/// dirhash.Hash1 of the files of a zip, all of whose entries begin with `prefix`.
/// # Errors: Integrity where this is no zip that Go could read; Disk.
pub fn directory_hash(path: &Path, prefix: &str) -> Result<String, Refusal> {
    let unsound = |message: String| Refusal { kind: FailureKind::Integrity, message };
    let mut archive = Archive::open(path, MAX_ZIP_ENTRIES)?;
    let names = archive.names()?;
    if let Some(stray) = names.iter().find(|name| !name.starts_with(prefix)) {
        return Err(unsound(format!("entry `{}` is not below `{prefix}`", stray.escape_debug())));
    }
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by(|a, b| names[*a].cmp(&names[*b]));
    let hashes = archive.read_each(&order, MAX_ZIP_CONTENT_BYTES, |_, _, mut reader| {
        let mut hasher = Sha256::new();
        copy(&mut reader, &mut |piece| hasher.update(piece))
            .map_err(|cause| unsound(format!("it is not a sound zip archive: {cause}")))?;
        Ok(hex(&hasher.finalize()))
    })?;
    Ok(summary(hashes.iter().zip(&order).map(|(hash, index)| (hash.as_str(), names[*index].as_str()))))
}

/// The sha256 of the lines `<sha256>  <name>\n`, in base64. `files` come sorted by name.
fn summary<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut summary = Sha256::new();
    for (hash, name) in files {
        summary.update(format!("{hash}  {name}\n"));
    }
    format!("h1:{}", base64(&summary.finalize()))
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn capitals_are_escaped_as_go_escapes_them() {
        assert_eq!(escape("github.com/Azure/azure-sdk"), "github.com/!azure/azure-sdk");
    }
}
