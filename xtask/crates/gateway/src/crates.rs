//! Cargo's sparse registry protocol, as seen by a child cargo on one side and by upstream registries on the other.
//!
//! Owns: our `config.json`, the check of index entries against the lock files, crate downloads. Never: pass on a crate
//! that no lock file pins, or an index entry that contradicts one: cargo would blame the lock file.
//! Rules: the Cargo book, "Registry Index".

use crate::Gateway;
use crate::documents::{self, Kept, Sought, Standing, seek};
use crate::downloads::{Pin, Verified};
use crate::error::{Error, Kind};
use crate::fetch::{Fetched, blocking, fetch, parsed};
use crate::reply::{Reply, absent, delivered, text, typed, whole};
use crate::request::{Ask, Document, looks_like_a_web_page, web_page};
use crate::server::Asked;
use crate::tarball;
use crate::upstream::NOBODY_HAS_IT;
use crate::url::Url;
use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use protocol::{Ecosystem, Failure, FailureKind, Upstream};
use serde::Deserialize;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::rc::Rc;

/// The index entry of the largest crates is a few megabytes.
const MAX_ENTRY_BYTES: usize = 32 << 20;
/// One version's line; the longest, with thousands of features, have some ten thousand.
const MAX_LINE_BYTES: usize = 1 << 20;
/// Entries that are asked for at once: as many connections to one mirror as are kept.
const AHEAD: usize = 8;

/// Lower-case name → version → sha256.
type Pins = HashMap<String, BTreeMap<String, String>>;

#[derive(Default)]
pub struct Crates {
    pub pins: Pins,
    /// Index URL → its `dl`.
    downloads: RefCell<HashMap<String, String>>,
    asked_ahead: Cell<bool>,
    brought_ahead: Cell<bool>,
}

impl Crates {
    /// `pins`: `name version` → sha256 in hex.
    pub fn new(pins: &BTreeMap<String, String>) -> Self {
        let mut by_name = Pins::new();
        for (package, sha256) in pins {
            if let Some((name, version)) = package.split_once(' ') {
                by_name
                    .entry(name.to_ascii_lowercase())
                    .or_default()
                    .insert(version.to_owned(), sha256.to_ascii_lowercase());
            }
        }
        Self { pins: by_name, ..Self::default() }
    }
}

/// `config.json`, `dl/NAME/VERSION/CHECKSUM`, or an index entry such as `se/rd/serde`.
pub async fn serve(gateway: &Rc<Gateway>, asked: &Asked) -> Result<Response<Reply>, Failure> {
    let segments: Vec<&str> = asked.path.split('/').collect();
    // A crate may be called `dl…`; its index entry has three parts (`dl/op/dlopen`), a download four.
    match segments.as_slice() {
        ["config.json"] => {
            let dl = format!(r#"{{"dl":"{}dl/{{crate}}/{{version}}/{{sha256-checksum}}"}}"#, asked.folder);
            Ok(typed(StatusCode::OK, "application/json", dl.into()))
        }
        ["dl", name, version, checksum] if is_word(name) && is_word(version) && is_word(checksum) => {
            download(gateway, asked, name, version, checksum).await
        }
        path if matches!(path.len(), 2 | 3) && path.iter().all(|part| is_word(part)) => index(gateway, asked).await,
        _ => Ok(absent(&format!("{} is nothing that a sparse index has", asked.path))),
    }
}

/// Letters, digits and `-_.+`: all of a crate's name, a version, a checksum. Never `..` or anything percent-encoded.
fn is_word(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('.')
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte))
}

async fn index(gateway: &Rc<Gateway>, asked: &Asked) -> Result<Response<Reply>, Failure> {
    let name = asked.path.rsplit('/').next().unwrap_or_default();
    let child = Rc::new((asked.step.clone(), asked.forwarded(&[])));
    match entry(gateway, &child, &asked.path, name).await? {
        Some(entry) => Ok(conditional(&asked.headers, &entry)),
        // cargo asks for spellings that may not exist.
        None if !gateway.crates.pins.contains_key(name) => {
            Ok(text(StatusCode::NOT_FOUND, "no registry index of this profile has it"))
        }
        None => {
            let subject = format!("index entry of crate {name}");
            Err(Error::new(Kind::Absent, NOBODY_HAS_IT).failure(&subject, Vec::new()))
        }
    }
}

/// On whose behalf, and what is sent in its name.
type Child = Rc<(String, Vec<(HeaderName, HeaderValue)>)>;

/// The index entry, from the first upstream whose entry agrees with the lock files.
async fn entry(gateway: &Rc<Gateway>, child: &Child, path: &str, name: &str) -> Result<Option<Kept>, Failure> {
    let pinned = gateway.crates.pins.get(name);
    let sought = Sought {
        step: &child.0,
        ecosystem: Ecosystem::Crates,
        name,
        subject: format!("index entry of crate {name}"),
        key: path.to_owned(),
        headers: child.1.clone(),
        max_bytes: MAX_ENTRY_BYTES,
    };
    let _turn = gateway.turns.take(&format!("crates {path}")).await;
    let locate = async |upstream: &Upstream| {
        ask_ahead(gateway, child);
        Url::parse(&upstream.url)?.below(path)
    };
    // The check goes beside the sockets, and so do the versions that it looks for.
    let check = async |bytes: &Bytes| {
        let pinned = pinned.cloned();
        parsed(bytes, move |bytes| check_entry(bytes, pinned.as_ref())).await
    };
    let accept = async |document: &Document| check(&document.bytes).await.map(|()| Kept::of(document));
    let settled = async |kept: &Kept| Standing::of(check(&kept.bytes).await, pinned.is_some());
    seek(gateway, &sought, locate, accept, settled).await
}

/// Brings every entry that the lock files need, once a run, as soon as one is missing. Through a proxy cargo asks for two
/// at a time, and each would take a journey to the mirror and back; a registry that it reaches itself gets all at once.
fn ask_ahead(gateway: &Rc<Gateway>, child: &Child) {
    if gateway.crates.asked_ahead.replace(true) {
        return;
    }
    let mut names: Vec<String> = gateway.crates.pins.keys().cloned().collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    let names = Rc::new(RefCell::new(names));
    for _ in 0..AHEAD {
        let (gateway, child, names) = (gateway.clone(), child.clone(), names.clone());
        tokio::task::spawn_local(async move {
            loop {
                if gateway.client.is_limited() {
                    return;
                }
                let Some(name) = names.borrow_mut().pop() else { return };
                // Whoever needs it asks again, and hears why it failed.
                let _ = entry(&gateway, &child, &format!("{}/{name}", prefix(&name)), &name).await;
            }
        });
    }
}

/// 304 for a child that holds this very entry.
fn conditional(request: &HeaderMap, entry: &Kept) -> Response<Reply> {
    let etag = entry.note.etag.as_deref().and_then(|etag| HeaderValue::from_str(etag).ok());
    let current = etag.is_some() && request.get(header::IF_NONE_MATCH) == etag.as_ref();
    let (status, body) =
        if current { (StatusCode::NOT_MODIFIED, Bytes::new()) } else { (StatusCode::OK, entry.bytes.clone()) };
    let mut reply = whole(status, body);
    if let Some(etag) = etag {
        reply.headers_mut().insert(header::ETAG, etag);
    }
    reply
}

/// One crate file, verified against the index's checksum, which stands in the URL, and against the lock file's.
async fn download(
    gateway: &Rc<Gateway>,
    asked: &Asked,
    name: &str,
    version: &str,
    checksum: &str,
) -> Result<Response<Reply>, Failure> {
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
    let fetching = fetching(gateway.clone(), asked, name, version, pin.clone());
    delivered(gateway, asked, Vec::new(), &pin, None, fetching).await
}

fn fetching(
    gateway: Rc<Gateway>,
    asked: &Asked,
    name: &str,
    version: &str,
    pin: Pin,
) -> impl Future<Output = Result<Fetched, Failure>> + use<> {
    let wanted = asked.wanted(Ecosystem::Crates, format!("crate {name} {version}"), pin, None);
    let (asked, name, version) = (asked.clone(), name.to_owned(), version.to_owned());
    async move {
        let upstreams = gateway.upstreams(Ecosystem::Crates, &name).await;
        let fetched = fetch(&gateway, &wanted, &upstreams, async |upstream: &Upstream| {
            bring_ahead(&gateway, &asked);
            let template = download_template(&gateway, &wanted.step, upstream).await?;
            let home = Url::parse(&upstream.url)?.origin;
            home.led_to(Url::parse(&fill(&template, &name, &version, wanted.pin.text()))?)
        })
        .await?;
        examine(&gateway, &wanted.subject, &fetched.verified, format!("{name}-{version}")).await?;
        Ok(fetched)
    }
}

/// Brings the crates that every target needs, once a run, as soon as one is missing: see [`ask_ahead`].
fn bring_ahead(gateway: &Rc<Gateway>, asked: &Asked) {
    if gateway.crates.brought_ahead.replace(true) {
        return;
    }
    let (gateway, asked, pins) = (gateway.clone(), asked.clone(), gateway.crates.pins.clone());
    let place = |name: &String| gateway.documents.path(Ecosystem::Crates, &format!("{}/{name}", prefix(name)));
    let entries: Vec<_> = pins.keys().map(|name| (name.clone(), place(name))).collect();
    tokio::task::spawn_local(async move {
        let needed = blocking(move || {
            let entries = entries.into_iter().filter_map(|(name, place)| Some((name, documents::load(&place)?.bytes)));
            Ok(needed_everywhere(&pins, entries))
        });
        let needed = Rc::new(RefCell::new(needed.await.unwrap_or_default()));
        for _ in 0..AHEAD {
            let (gateway, asked, needed) = (gateway.clone(), asked.clone(), needed.clone());
            tokio::task::spawn_local(async move {
                loop {
                    if gateway.client.is_limited() {
                        return;
                    }
                    let Some((name, version, pin)) = needed.borrow_mut().pop_front() else { return };
                    // Whoever needs it asks again, and hears why it failed.
                    let _ = fetching(gateway.clone(), &asked, &name, &version, pin).await;
                }
            });
        }
    });
}

/// The pinned crates, as the index spells them, that are reached from those that no other one names, past no dependency of
/// some targets only: nobody on Linux needs the libraries of Windows. What is left out is brought when cargo asks for it.
fn needed_everywhere(pins: &Pins, entries: impl Iterator<Item = (String, Bytes)>) -> VecDeque<(String, String, Pin)> {
    let (mut crates, mut named) = (BTreeMap::<String, Vec<(Described, Pin)>>::new(), HashSet::new());
    for (name, entry) in entries {
        for (version, sha256) in &pins[&name] {
            let (spelled, pin) = (format!("\"{version}\""), Pin::sha256(sha256));
            let lines = std::str::from_utf8(&entry).unwrap_or_default().lines();
            let mut lines = lines.filter(|line| line.len() < MAX_LINE_BYTES && line.contains(&spelled));
            // A mirror wrote it: it spells the pinned name and no other, which could be a path or somebody's private one.
            let is_it = |it: &Described| it.vers == *version && it.name.eq_ignore_ascii_case(&name);
            let line = lines.find_map(|line| serde_json::from_str(line).ok().filter(is_it));
            let Some((mut line, pin)) = line.zip(pin.ok()) else { continue };
            line.deps.retain(|it| it.kind.as_deref() != Some("dev") && it.crate_name() != name);
            named.extend(line.deps.iter().map(Dependency::crate_name));
            crates.entry(name.clone()).or_default().push((line, pin));
        }
    }
    let mut left: Vec<String> = crates.keys().filter(|name| !named.contains(*name)).cloned().collect();
    let mut needed = VecDeque::new();
    while let Some(name) = left.pop() {
        for (line, pin) in crates.remove(&name).unwrap_or_default() {
            left.extend(line.deps.iter().filter(|it| it.target.is_none()).map(Dependency::crate_name));
            needed.push_back((line.name, line.vers, pin));
        }
    }
    needed
}

/// # Errors: Integrity for a crate that would write outside its own folder, whatever its hash.
async fn examine(gateway: &Gateway, subject: &str, file: &Verified, root: String) -> Result<(), Failure> {
    // Reading it means inflating it, which takes longer than all else that a stored crate costs.
    let harmless = format!("harmless by rules {} as {root}: {}", tarball::RULES, file.sha256);
    if gateway.documents.recall(Ecosystem::Crates, &harmless).is_some() {
        return Ok(());
    }
    let path = file.path.clone();
    let examined = blocking(move || tarball::examine(&path, &root).map_err(|cause| Error::disk("read", &path, &cause)));
    match examined.await.map_err(|error| error.failure(subject, Vec::new()))? {
        // Whoever cannot note it examines it again.
        Ok(()) => {
            let _ = gateway.documents.remember(Ecosystem::Crates, &harmless, Bytes::new());
            Ok(())
        }
        Err(why) => Err(Failure {
            kind: FailureKind::Integrity,
            subject: subject.to_owned(),
            message: format!("these are the pinned bytes, and they are no harmless crate: {why}"),
            attempts: Vec::new(),
        }),
    }
}

#[derive(Deserialize)]
pub struct Config {
    pub dl: String,
}

/// Where an upstream's index says that crates are; asked once a run.
async fn download_template(gateway: &Gateway, step: &str, upstream: &Upstream) -> Result<String, Error> {
    let _turn = gateway.turns.take(&format!("crates config.json of {}", upstream.url)).await;
    if let Some(known) = gateway.crates.downloads.borrow().get(&upstream.url) {
        return Ok(known.clone());
    }
    let url = Url::parse(&upstream.url)?.below("config.json")?;
    let ask = Ask {
        step,
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
pub fn fill(template: &str, name: &str, version: &str, checksum: &str) -> String {
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
pub fn prefix(name: &str) -> String {
    match name.len() {
        1 | 2 => name.len().to_string(),
        3 => format!("3/{}", &name[..1]),
        _ => format!("{}/{}", &name[..2], &name[2..4]),
    }
}

#[derive(Deserialize)]
pub struct Line {
    pub vers: String,
    cksum: String,
}

/// A version with what it depends on.
#[derive(Deserialize)]
struct Described {
    name: String,
    vers: String,
    deps: Vec<Dependency>,
}

/// The Cargo book, "Index files".
#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// Its own name where `name` is another one.
    package: Option<String>,
    /// `cfg(…)` or a triple.
    target: Option<String>,
    kind: Option<String>,
}

impl Dependency {
    fn crate_name(&self) -> String {
        self.package.as_ref().unwrap_or(&self.name).to_ascii_lowercase()
    }
}

/// # Errors: Html, Malformed, Absent for an entry older than the lock file, Hash for one that contradicts it.
fn check_entry(bytes: &[u8], pinned: Option<&BTreeMap<String, String>>) -> Result<(), Error> {
    if looks_like_a_web_page(bytes) {
        return Err(web_page(bytes));
    }
    let malformed =
        |cause: &dyn fmt::Display| Error::new(Kind::Malformed, format!("its answer is not an index entry: {cause}"));
    let text = std::str::from_utf8(bytes).map_err(|cause| malformed(&cause))?;
    let read = |wanted: &dyn Fn(&str) -> bool| {
        let lines = text.lines().filter(|line| !line.trim_ascii().is_empty() && wanted(line));
        let lines = lines.map(|line| serde_json::from_str(line).map(|Line { vers, cksum }| (vers, cksum)));
        lines.collect::<Result<HashMap<String, String>, _>>().map_err(|cause| malformed(&cause))
    };
    // Hundreds of versions, of which one or two matter; only where they are not found the rest is of interest.
    let versions: Vec<String> = pinned.into_iter().flatten().map(|(version, _)| format!("\"{version}\"")).collect();
    let mut offered = read(&|line| versions.iter().any(|version| line.contains(version)))?;
    if versions.is_empty() || pinned.is_some_and(|pinned| pinned.keys().any(|version| !offered.contains_key(version))) {
        offered = read(&|_| true)?;
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

    #[test]
    fn needed_everywhere_is_what_no_condition_stands_before() {
        let needs = |name: &str, target: &str, more: &str| format!(r#"{{"name":"{name}","target":{target}{more}}}"#);
        let unix = needs("unix", "\"cfg(unix)\"", "");
        let tested = needs("tested", "null", r#","kind":"dev""#);
        let renamed = needs("alias", "null", r#","kind":"normal","package":"Shared""#);
        let entries = [
            ("root", "Root", format!("{unix},{tested},{renamed}")),
            ("shared", "Shared", needs("root", "null", r#","kind":"dev""#)),
            ("unix", "unix", needs("below-unix", "null", "")),
            ("below-unix", "below-unix", String::new()),
            ("tested", "tested", String::new()),
            ("liar", "../liar", String::new()),
        ];
        let pins: Pins = entries
            .iter()
            .map(|(name, ..)| ((*name).to_owned(), BTreeMap::from([("1.0.0".to_owned(), "a".repeat(64))])))
            .collect();
        let entries = entries.map(|(name, spelled, deps)| {
            let line =
                |version: &str, deps: &str| format!(r#"{{"name":"{spelled}","vers":"{version}","deps":[{deps}]}}"#);
            let other = needs("below-unix", "null", "");
            (name.to_owned(), Bytes::from(format!("{}\n{}\n", line("0.9.0", &other), line("1.0.0", &deps))))
        });
        let mut needed: Vec<_> =
            needed_everywhere(&pins, entries.into_iter()).into_iter().map(|(name, ..)| name).collect();
        needed.sort();
        // A crate that only tests of others use is in a lock file because something of ours uses it.
        assert_eq!(needed, ["Root", "Shared", "tested"]);
    }
}
