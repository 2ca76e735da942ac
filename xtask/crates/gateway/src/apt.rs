//! A Debian archive: `base/…` and, where a profile keeps it elsewhere, `security/…`.
//!
//! ```text
//! dists/SUITE/InRelease                     signed; names each index with its sha256
//! dists/SUITE/main/binary-ARCH/Packages.xz  an index, also as by-hash/SHA256/HEX; names each package with its sha256
//! pool/….deb                                a package
//! ```
//! apt checks the signature and every hash below it, and stops at the first answer that is wrong; so the same hashes are
//! checked here first, while another mirror can still be asked. Owns: the shape and age of an InRelease, and which index
//! names a package. Never: judge a signature (apt does), or pass on a file that no InRelease leads to.
//! `Release` with `Release.gpg` beside it is not served: two files of one moment cannot be had from a list of mirrors.
//! Rules: Debian's repository format; apt's `Acquire::By-Hash`.

mod release;

use crate::Gateway;
use crate::documents::{Kept, Sought, Standing, seek_from};
use crate::downloads::{Found, Pin};
use crate::error::{Error, Kind};
use crate::fetch::{Errand, Fetched, Wanted, blocking, fetch};
use crate::reply::{Reply, absent, delivered, head, whole};
use crate::request::Document;
use crate::server::Asked;
use crate::upstream::NOBODY_HAS_IT;
use crate::url::Url;
use hyper::{Method, Response, StatusCode};
use protocol::coding::percent_decode;
use protocol::{Ecosystem, Failure, FailureKind, Upstream};
use release::{File, Release};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::SystemTime;

const MAX_RELEASE_BYTES: usize = 8 << 20;

/// What this run has learnt; the names in it begin with the archive: `base/dists/bookworm`.
#[derive(Default)]
pub struct Apt {
    /// Suite → the newest InRelease seen.
    releases: RefCell<BTreeMap<String, Rc<Release>>>,
    /// Path → package, of the indexes that were read.
    packages: RefCell<HashMap<String, File>>,
    /// sha256 of each of those indexes.
    read: RefCell<HashSet<String>>,
}

pub async fn serve(gateway: &Rc<Gateway>, asked: &Asked) -> Result<Response<Reply>, Failure> {
    let nothing = || Ok(absent(&format!("{} is nothing that a Debian archive has", asked.path)));
    let Some(segments) = asked.segments() else { return nothing() };
    let step = asked.step.as_str();
    match segments.as_slice() {
        ["base" | "security", "dists", .., "InRelease"] => {
            let suite = asked.path.trim_end_matches("/InRelease");
            match newest(gateway, step, suite).await? {
                Some(release) => Ok(whole(StatusCode::OK, release.bytes.clone())),
                None => nothing(),
            }
        }
        ["base" | "security", "dists", .., "by-hash", "SHA256", sha256] => {
            let Ok(pin) = Pin::sha256(sha256) else { return nothing() };
            match file(gateway, asked, &File { sha256: pin.text().to_owned(), size_bytes: None }).await {
                // Where a mirror has no such folder apt asks by name.
                Err(failure) if failure.message == NOBODY_HAS_IT => nothing(),
                answer => answer,
            }
        }
        ["base" | "security", "dists", ..] => match listed(gateway, step, &asked.path).await? {
            Some(index) => file(gateway, asked, &index).await,
            None => nothing(),
        },
        ["base" | "security", "pool", ..] => {
            let path = String::from_utf8_lossy(&percent_decode(&asked.path)).into_owned();
            match package(gateway, step, &path).await? {
                Some(package) => file(gateway, asked, &package).await,
                None => Err(Failure {
                    kind: FailureKind::Configuration,
                    subject: format!("Debian file {path}"),
                    message:
                        "no index of a suite that was asked for through this gateway names it; run `apt-get update` \
                              first"
                            .to_owned(),
                    attempts: Vec::new(),
                }),
            }
        }
        _ => nothing(),
    }
}

/// The newest InRelease of a suite, for whoever checks its signature.
pub async fn release(gateway: &Gateway, errand: &Errand, suite: &str) -> Result<String, Failure> {
    let absent = || Error::new(Kind::Absent, NOBODY_HAS_IT).failure(&format!("InRelease of {suite}"), Vec::new());
    let release = newest(gateway, &errand.step, suite).await?.ok_or_else(absent)?;
    Ok(String::from_utf8_lossy(&release.bytes).into_owned())
}

/// A file that xtask.lock pins, or an InRelease whose signature was checked. A security update is in the base archive too from the
/// next point release on, while the security archive may have forgotten it: a pin outlives its first place.
pub async fn pinned(
    gateway: &Gateway,
    errand: &Errand,
    path: &str,
    sha256: &str,
    size_bytes: u64,
) -> Result<Fetched, Failure> {
    let subject = format!("Debian file {path}");
    let pin = Pin::sha256(sha256).map_err(|error| error.failure(&subject, Vec::new()))?;
    let wanted = errand.wanted(Ecosystem::Apt, subject, pin, Some(size_bytes));
    let fetched = async |path: &str| {
        let locate = async |upstream: &Upstream| locate(upstream, path);
        fetch(gateway, &wanted, &upstreams(gateway, path).await, locate).await
    };
    match (fetched(path).await, path.strip_prefix("security/pool/updates/")) {
        (Err(failure), Some(below)) if failure.message == NOBODY_HAS_IT => {
            fetched(&format!("base/pool/{below}")).await.map_err(|_| failure)
        }
        (outcome, _) => outcome,
    }
}

/// Who has an archive: a profile may name mirrors of the base archive alone.
async fn upstreams(gateway: &Gateway, path: &str) -> Vec<Upstream> {
    let mut upstreams = gateway.upstreams(Ecosystem::Apt, path).await;
    upstreams.retain(|upstream| root(upstream, path).is_some());
    upstreams
}

fn root<'a>(upstream: &'a Upstream, path: &str) -> Option<&'a str> {
    if path.starts_with("security/") { upstream.second.as_deref() } else { Some(&upstream.url) }
}

/// Where an upstream has what children ask below `base/` or `security/`.
fn locate(upstream: &Upstream, path: &str) -> Result<Url, Error> {
    let (root, (_, below)) = root(upstream, path)
        .zip(path.split_once('/'))
        .ok_or_else(|| Error::new(Kind::Configuration, format!("it has no archive for {path}")))?;
    Url::parse(root)?.below(below)
}

/// The InRelease of a suite that is sound, not expired, and not older than what was seen of it in this run.
async fn newest(gateway: &Gateway, step: &str, suite: &str) -> Result<Option<Rc<Release>>, Failure> {
    let seen = gateway.apt.releases.borrow().get(suite).cloned();
    let path = format!("{suite}/InRelease");
    let sought = Sought {
        step,
        ecosystem: Ecosystem::Apt,
        name: &path,
        subject: format!("InRelease of {suite}"),
        key: path.clone(),
        headers: Vec::new(),
        max_bytes: MAX_RELEASE_BYTES,
    };
    let stale = RefCell::new(None);
    let found = seek_from(
        gateway,
        &sought,
        upstreams(gateway, &path),
        async |upstream: &Upstream| locate(upstream, &path),
        async |document: &Document| {
            let release = Release::read(&document.bytes)?;
            let fresh = release.fresh(SystemTime::now(), seen.as_deref());
            fresh.inspect_err(|error| *stale.borrow_mut() = Some(error.clone()))?;
            Ok(Kept::of(document))
        },
        async |_: &Kept| Standing::Passing,
    );
    let release = match (found.await?, seen, stale.into_inner()) {
        (Some(kept), _, _) => {
            let fail = |error: Error| error.failure(&sought.subject, Vec::new());
            Rc::new(Release::read(&kept.bytes).map_err(fail)?)
        }
        (None, Some(seen), _) => seen,
        (None, None, Some(stale)) => return Err(stale.failure(&sought.subject, Vec::new())),
        (None, None, None) => return Ok(None),
    };
    if gateway.apt.releases.borrow_mut().insert(suite.to_owned(), release.clone()).is_none() {
        let mut suites = remembered(gateway);
        if suites.insert(suite.to_owned()) {
            let text = suites.into_iter().fold(String::new(), |text, suite| text + &suite + "\n");
            // What is not remembered is asked for again by `apt-get update`.
            let _ = gateway.documents.remember(Ecosystem::Apt, SUITES, text.into());
        }
    }
    Ok(Some(release))
}

/// Suites that this store has seen, in whatever run: apt installs from lists that it got in an earlier one.
const SUITES: &str = "suites";

fn remembered(gateway: &Gateway) -> BTreeSet<String> {
    let text = gateway.documents.recall(Ecosystem::Apt, SUITES).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}

/// The releases of the suites that are wanted, from this run, else asked for; and why one could not be had.
async fn releases(
    gateway: &Gateway,
    step: &str,
    wanted: impl Fn(&str) -> bool,
) -> (Vec<(String, Rc<Release>)>, Option<Failure>) {
    let (mut found, mut missing) = (Vec::new(), None);
    let mut suites = remembered(gateway);
    suites.extend(gateway.apt.releases.borrow().keys().cloned());
    for suite in suites.into_iter().filter(|suite| wanted(suite)) {
        let here = gateway.apt.releases.borrow().get(&suite).cloned();
        let release = match here {
            Some(release) => Ok(Some(release)),
            None => newest(gateway, step, &suite).await,
        };
        match release {
            Ok(release) => found.extend(release.map(|release| (suite, release))),
            Err(failure) => missing = Some(failure),
        }
    }
    (found, missing)
}

/// What the InRelease above a path says about it.
async fn listed(gateway: &Gateway, step: &str, path: &str) -> Result<Option<File>, Failure> {
    let above = |suite: &str| path.strip_prefix(suite).is_some_and(|rest| rest.starts_with('/'));
    let (releases, missing) = releases(gateway, step, above).await;
    let file = releases.iter().find_map(|(suite, release)| release.files.get(&path[suite.len() + 1..]).cloned());
    if file.is_none() { missing.map_or(Ok(None), Err) } else { Ok(file) }
}

/// What an index says about a package; indexes that are here are read first, others are fetched.
async fn package(gateway: &Gateway, step: &str, path: &str) -> Result<Option<File>, Failure> {
    let known = || gateway.apt.packages.borrow().get(path).cloned();
    if let Some(package) = known() {
        return Ok(Some(package));
    }
    let Some((archive, _)) = path.split_once('/') else { return Ok(None) };
    let Some(architecture) = path.strip_suffix(".deb").and_then(|name| name.rsplit('_').next()) else {
        return Ok(None);
    };
    let mut absent = Vec::new();
    let (releases, missing) = releases(gateway, step, |suite| suite.split('/').next() == Some(archive)).await;
    for (suite, release) in releases {
        for (name, index) in release.indexes(architecture) {
            if gateway.apt.read.borrow().contains(&index.sha256) {
                continue;
            }
            let fail = |error: Error| error.failure(name, Vec::new());
            let (downloads, pin) = (gateway.downloads.clone(), Pin::sha256(&index.sha256).map_err(fail)?);
            match blocking(move || downloads.find(&pin)).await.map_err(fail)? {
                Found::Verified(verified) => read(gateway, archive, name, index, verified.path).await.map_err(fail)?,
                _ => absent.push((release.place_of(&suite, name, index), name.to_owned(), index.clone())),
            }
            if let Some(package) = known() {
                return Ok(Some(package));
            }
        }
    }
    for (place, name, index) in absent {
        // One that no mirror has may still not be the one that is needed.
        if let Ok(fetched) = fetched(gateway, step, &place, &index).await {
            let reading = read(gateway, archive, &name, &index, fetched.verified.path).await;
            reading.map_err(|error| error.failure(&name, Vec::new()))?;
        }
        if let Some(package) = known() {
            return Ok(Some(package));
        }
    }
    missing.map_or(Ok(None), Err)
}

/// Takes in the packages of an index that was verified.
async fn read(gateway: &Gateway, archive: &str, name: &str, index: &File, path: PathBuf) -> Result<(), Error> {
    let (packed, archive) = (name.rsplit_once('.').map(|(_, ending)| ending.to_owned()), archive.to_owned());
    let packages = blocking(move || release::packages(&path, packed.as_deref(), &archive)).await?;
    gateway.apt.packages.borrow_mut().extend(packages);
    gateway.apt.read.borrow_mut().insert(index.sha256.clone());
    Ok(())
}

/// # Errors: as [`fetch`].
async fn fetched(gateway: &Gateway, step: &str, path: &str, file: &File) -> Result<Fetched, Failure> {
    let subject = format!("Debian file {path}");
    let wanted = Wanted {
        step: step.to_owned(),
        ecosystem: Ecosystem::Apt,
        pin: Pin::sha256(&file.sha256).map_err(|error| error.failure(&subject, Vec::new()))?,
        subject,
        size_bytes: file.size_bytes,
        job: None,
    };
    fetch(gateway, &wanted, &upstreams(gateway, path).await, async |upstream: &Upstream| locate(upstream, path)).await
}

async fn file(gateway: &Rc<Gateway>, asked: &Asked, file: &File) -> Result<Response<Reply>, Failure> {
    if asked.method == Method::HEAD && file.size_bytes.is_some() {
        return Ok(head(Vec::new(), file.size_bytes));
    }
    let pin = Pin::sha256(&file.sha256).map_err(|error| error.failure(&asked.path, Vec::new()))?;
    let (own, step, path, wanted) = (gateway.clone(), asked.step.clone(), asked.path.clone(), file.clone());
    let fetching = async move { fetched(&own, &step, &path, &wanted).await };
    delivered(gateway, asked, Vec::new(), &pin, file.size_bytes, fetching).await
}
