//! npm's registry protocol: packuments that lead to tarballs, and the tarballs.
//!
//! Owns: what a packument must hold to be passed on, and the one path below which children find every tarball. Never: pass
//! on a tarball whose hash neither a lock file nor a checked packument names, a packument that lacks a locked version or
//! contradicts it, or the name of a mirror.
//! Audits, logins, searches and whatever else npm writes to a registry are refused; installing works without them.
//! Rules: npm's `package-metadata.md`; npm's `replace-registry-host`, which keeps the path that a lock file holds.

use crate::Gateway;
use crate::documents::{Kept, Sought, Standing, at_most, seek};
use crate::downloads::Pin;
use crate::error::{Error, Kind};
use crate::fetch::{Wanted, blocking, fetch, parsed};
use crate::reply::{Reply, absent, delivered, typed};
use crate::request::{Ask, Document, looks_like_a_web_page, web_page};
use crate::server::Asked;
use crate::upstream::NOBODY_HAS_IT;
use crate::url::Url;
use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use protocol::{Ecosystem, Failure, FailureKind, Pins, Upstream};
use serde_json::Value;
use std::rc::Rc;

const MAX_PACKUMENT_BYTES: usize = 64 << 20;
/// The longest packuments have a value every twenty bytes.
const MAX_VALUES: usize = 3 << 20;
/// The packument with only what an installation needs: a tenth of the whole.
const SHORT: &str = "application/vnd.npm.install-v1+json";

/// What a path below the registry means.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Packument {
        name: String,
    },
    /// `version` or a tag.
    Manifest {
        name: String,
        version: String,
    },
    Tarball {
        name: String,
        version: String,
    },
}

pub async fn serve(gateway: &Rc<Gateway>, asked: &Asked) -> Result<Response<Reply>, Failure> {
    let short = asked.headers.get(header::ACCEPT).is_some_and(|it| it.to_str().is_ok_and(|it| it.contains(SHORT)));
    let nowhere = |what: &str| absent(&format!("no registry of this profile has {what}"));
    match place(&asked.path) {
        Some(Place::Packument { name }) => Ok(match packument(gateway, asked, &name, short).await? {
            Some(packument) => {
                // Writing it takes as long as reading it.
                let (folder, subject) = (asked.folder.clone(), format!("packument of {name}"));
                let written = blocking(move || Ok(local(packument, &name, &folder).to_string())).await;
                let text = written.map_err(|error| error.failure(&subject, Vec::new()))?;
                return Ok(typed(StatusCode::OK, if short { SHORT } else { "application/json" }, text.into()));
            }
            None => nowhere(&name),
        }),
        Some(Place::Manifest { name, version }) => Ok(match packument(gateway, asked, &name, false).await? {
            Some(packument) => {
                let packument = local(packument, &name, &asked.folder);
                let tagged = packument["dist-tags"][&version].as_str().unwrap_or(&version);
                match packument["versions"].get(tagged) {
                    Some(manifest) => json("application/json", manifest),
                    None => nowhere(&format!("{name} {version}")),
                }
            }
            None => nowhere(&name),
        }),
        Some(Place::Tarball { name, version }) => tarball(gateway, asked, &name, &version).await,
        None => Ok(absent(&format!("{} is nothing that an installation asks of a registry", asked.path))),
    }
}

fn json(content_type: &str, value: &Value) -> Response<Reply> {
    typed(StatusCode::OK, content_type, value.to_string().into())
}

/// Lock files hold whatever path their registry had, which npm keeps behind ours: `NAME/-/LEAF-VERSION.tgz`, also with
/// the scope repeated before the file, with `download` for `-` (npmmirror), or below a folder (`repository/npm/…`).
fn place(path: &str) -> Option<Place> {
    let path = path.replace("%2f", "/").replace("%2F", "/").replace("%40", "@");
    let segments: Vec<&str> = path.split('/').collect();
    if !segments.iter().all(|part| is_word(part.strip_prefix('@').unwrap_or(part))) {
        return None;
    }
    let named = |segments: &[&str]| match segments {
        [.., scope, leaf] if scope.starts_with('@') && !leaf.starts_with('@') => Some(format!("{scope}/{leaf}")),
        [.., leaf] if !leaf.starts_with(['@', '-']) => Some((*leaf).to_owned()),
        _ => None,
    };
    if let Some(file) = segments.last().and_then(|file| file.strip_suffix(".tgz")) {
        let separator = segments.iter().rposition(|part| matches!(*part, "-" | "download"))?;
        let name = named(&segments[..separator])?;
        let leaf = name.rsplit('/').next()?;
        let version = file.strip_prefix(leaf)?.strip_prefix('-')?.to_owned();
        let between = segments.len() - separator - 2;
        return (between == 0 || (between == 1 && name == format!("{}/{leaf}", segments[separator + 1])))
            .then_some(Place::Tarball { name, version });
    }
    match segments.as_slice() {
        [leaf] => Some(Place::Packument { name: named(&[leaf])? }),
        [scope, leaf] if scope.starts_with('@') => Some(Place::Packument { name: named(&[scope, leaf])? }),
        [leaf, version] => Some(Place::Manifest { name: named(&[leaf])?, version: (*version).to_owned() }),
        [scope, leaf, version] if scope.starts_with('@') => {
            Some(Place::Manifest { name: named(&[scope, leaf])?, version: (*version).to_owned() })
        }
        _ => None,
    }
}

/// Letters, digits and `-_.~+`: all of a package's name and version. Never `..` or anything percent-encoded.
fn is_word(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('.')
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~+".contains(&byte))
}

/// Where a package's tarball is below a registry; npm itself takes this for granted.
fn tarball_path(name: &str, version: &str) -> String {
    format!("{name}/-/{}-{version}.tgz", name.rsplit('/').next().unwrap_or(name))
}

/// The packument from the first upstream whose answer agrees with the lock files; `None`: there is no such package.
async fn packument(gateway: &Gateway, asked: &Asked, name: &str, short: bool) -> Result<Option<Value>, Failure> {
    let pinned = pinned(&gateway.setup.pins, name);
    let accept = if short { SHORT } else { "application/json" };
    let mut headers = asked.forwarded(&[]);
    headers.push((header::ACCEPT, HeaderValue::from_static(accept)));
    let sought = Sought {
        step: &asked.step,
        ecosystem: Ecosystem::Npm,
        name,
        subject: format!("packument of {name}"),
        key: format!("{accept} {name}"),
        headers,
        max_bytes: MAX_PACKUMENT_BYTES,
    };
    let found = seek(
        gateway,
        &sought,
        async |upstream: &Upstream| packument_url(upstream, name),
        async |document: &Document| checked(&document.bytes, name, &pinned).await.map(|_| Kept::of(document)),
        async |kept: &Kept| Standing::of(checked(&kept.bytes, name, &pinned).await, !pinned.is_empty()),
    );
    match found.await? {
        // What was kept before the lock file changed is no answer now that nobody else has any.
        Some(kept) => checked(&kept.bytes, name, &pinned).await.map(Some),
        None if pinned.is_empty() => Ok(None),
        None => Err(Error::new(Kind::Absent, NOBODY_HAS_IT)),
    }
    .map_err(|error| error.failure(&sought.subject, Vec::new()))
}

/// As [`check`], beside the sockets.
async fn checked(bytes: &Bytes, name: &str, pinned: &Pinned) -> Result<Value, Error> {
    let (name, pinned) = (name.to_owned(), pinned.clone());
    parsed(bytes, move |bytes| check(bytes, &name, &pinned)).await
}

/// Version and integrity of each locked version of a package.
type Pinned = Vec<(String, String)>;

fn pinned(pins: &Pins, name: &str) -> Pinned {
    let start = format!("{name} ");
    let of_name = pins
        .npm
        .range(start.clone()..)
        .map_while(|(package, integrity)| Some((package.strip_prefix(start.as_str())?.to_owned(), integrity.clone())));
    of_name.collect()
}

/// # Errors: Html, Malformed, Absent for a packument older than the lock file, Hash for one that contradicts it.
fn check(bytes: &[u8], name: &str, pinned: &Pinned) -> Result<Value, Error> {
    if looks_like_a_web_page(bytes) {
        return Err(web_page(bytes));
    }
    at_most(MAX_VALUES, bytes)?;
    let malformed = |why: String| Error::new(Kind::Malformed, format!("its answer is not a packument: {why}"));
    let packument: Value = serde_json::from_slice(bytes).map_err(|cause| malformed(cause.to_string()))?;
    if packument["name"] != name {
        return Err(malformed(format!("it names {}", packument["name"])));
    }
    let versions = packument["versions"].as_object().ok_or_else(|| malformed("it has no versions".to_owned()))?;
    for (version, integrity) in pinned {
        let Some(manifest) = versions.get(version) else {
            let message = format!("its packument is stale: version {version} of the lock file is missing");
            return Err(Error::new(Kind::Absent, message));
        };
        let offered = offered(manifest)?;
        // Old packages were locked by sha1 and are offered with more by now.
        if let Ok(locked) = Pin::integrity(integrity)
            && algorithm(&offered) == algorithm(&locked)
            && offered != locked
        {
            return Err(Error::hash(locked.text(), offered.text()));
        }
    }
    Ok(packument)
}

fn algorithm(pin: &Pin) -> &str {
    pin.text().split_once('-').map_or("sha256", |(algorithm, _)| algorithm)
}

/// What a version's manifest says that its tarball is.
fn offered(manifest: &Value) -> Result<Pin, Error> {
    let dist = &manifest["dist"];
    let hash = match (dist["integrity"].as_str(), dist["shasum"].as_str()) {
        (Some(integrity), _) => Pin::integrity(integrity),
        (None, Some(shasum)) => Pin::sha1("sha1", shasum),
        (None, None) => Err(Error::new(Kind::Malformed, "it is named nowhere")),
    };
    hash.map_err(|error| {
        Error::new(Kind::Malformed, format!("its packument has no hash of a tarball: {}", error.message))
    })
}

/// The packument as children see it: every tarball is ours.
fn local(mut packument: Value, name: &str, folder: &str) -> Value {
    for (version, manifest) in packument["versions"].as_object_mut().into_iter().flatten() {
        if let Some(tarball) = manifest.pointer_mut("/dist/tarball") {
            *tarball = format!("{folder}{}", tarball_path(name, version)).into();
        }
    }
    packument
}

async fn tarball(gateway: &Rc<Gateway>, asked: &Asked, name: &str, version: &str) -> Result<Response<Reply>, Failure> {
    let subject = format!("npm package {name} {version}");
    let fail = |error: Error| error.failure(&subject, Vec::new());
    let pin = match gateway.setup.pins.npm.get(&format!("{name} {version}")) {
        Some(integrity) => Pin::integrity(integrity).map_err(fail)?,
        None => {
            if !gateway.setup.pins.npm.is_empty() {
                gateway.tell_unpinned(&subject, "no lock file of this build names it");
            }
            let packument = packument(gateway, asked, name, true).await?;
            match packument.as_ref().and_then(|packument| packument["versions"].get(version)) {
                Some(manifest) => offered(manifest).map_err(fail)?,
                None => return Ok(absent(&format!("no registry of this profile has {name} {version}"))),
            }
        }
    };
    let wanted = asked.wanted(Ecosystem::Npm, subject, pin.clone(), None);
    let (own, name, version) = (gateway.clone(), name.to_owned(), version.to_owned());
    let fetching = async move {
        let upstreams = own.upstreams(Ecosystem::Npm, &name).await;
        let path = tarball_path(&name, &version);
        let usual =
            fetch(&own, &wanted, &upstreams, async |upstream: &Upstream| Url::parse(&upstream.url)?.below(&path));
        match usual.await {
            // Some registries keep tarballs elsewhere; asking each for its packument first would double all requests.
            Err(failure) if failure.kind == FailureKind::Network => {
                let named = fetch(&own, &wanted, &upstreams, async |upstream: &Upstream| {
                    named_tarball(&own, &wanted, upstream, &name, &version).await
                });
                named.await.map_err(|other| if other.kind == FailureKind::Network { failure } else { other })
            }
            fetched => fetched,
        }
    };
    delivered(gateway, asked, Vec::new(), &pin, None, fetching).await
}

/// Where an upstream's own packument says that a tarball is.
async fn named_tarball(
    gateway: &Gateway,
    wanted: &Wanted,
    upstream: &Upstream,
    name: &str,
    version: &str,
) -> Result<Url, Error> {
    let url = packument_url(upstream, name)?;
    let artifact = format!("packument of {name}");
    let headers = vec![(header::ACCEPT, HeaderValue::from_static(SHORT))];
    let ask = Ask { step: &wanted.step, ecosystem: Ecosystem::Npm, artifact: &artifact, upstream, url: &url, headers };
    let document = gateway.client.document(ask, MAX_PACKUMENT_BYTES).await?;
    let packument = checked(&document.bytes, name, &Pinned::new()).await?;
    let tarball = packument["versions"][version]["dist"]["tarball"].as_str().ok_or_else(|| {
        Error::new(Kind::Absent, format!("its packument of {name} has no tarball of version {version}"))
    })?;
    Url::parse(&upstream.url)?.origin.led_to(document.url.join(tarball)?)
}

fn packument_url(upstream: &Upstream, name: &str) -> Result<Url, Error> {
    Url::parse(&upstream.url)?.below(&name.replace('/', "%2f"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_that_a_lock_file_may_hold_leads_to_one_tarball() {
        let tarball = |name: &str| Some(Place::Tarball { name: name.to_owned(), version: "1.0.0-rc.1".to_owned() });
        for (path, name) in [
            ("a-b/-/a-b-1.0.0-rc.1.tgz", "a-b"),
            ("a-b/download/a-b-1.0.0-rc.1.tgz", "a-b"),
            ("@s/a/-/a-1.0.0-rc.1.tgz", "@s/a"),
            ("@s%2fa/-/a-1.0.0-rc.1.tgz", "@s/a"),
            ("@s/a/-/@s/a-1.0.0-rc.1.tgz", "@s/a"),
            ("%40s%2Fa/download/@s/a-1.0.0-rc.1.tgz", "@s/a"),
            ("repository/npm/a/-/a-1.0.0-rc.1.tgz", "a"),
            ("repository/npm/@s/a/-/a-1.0.0-rc.1.tgz", "@s/a"),
        ] {
            assert_eq!(place(path), tarball(name), "{path}");
        }
        let (a, scoped) = ("a".to_owned(), "@s/a".to_owned());
        for (path, expected) in [
            ("a", Place::Packument { name: a.clone() }),
            ("@s/a", Place::Packument { name: scoped.clone() }),
            ("@s%2fa", Place::Packument { name: scoped.clone() }),
            ("a/latest", Place::Manifest { name: a, version: "latest".to_owned() }),
            ("@s%2fa/1.0.0", Place::Manifest { name: scoped, version: "1.0.0".to_owned() }),
        ] {
            assert_eq!(place(path), Some(expected), "{path}");
        }
        for path in [
            "",
            "-/ping",
            "-/npm/v1/security/advisories/bulk",
            "-/user/org.couchdb.user:x",
            "a/-/b-1.0.0.tgz",
            "@s/a/-/@t/a-1.0.0.tgz",
            "a/-/../a-1.0.0.tgz",
            "a%2f..%2fb",
            "a/-/x/y/a-1.0.0.tgz",
            "@s",
            "a//b",
            "a/..",
            "@s/..",
        ] {
            assert_eq!(place(path), None, "{path}");
        }
    }

    #[test]
    fn a_packument_must_agree_with_the_lock_file() {
        let locked = "sha1-AAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let verdict = |text: &str| {
            check(text.as_bytes(), "a", &vec![("1.0.0".to_owned(), locked.to_owned())])
                .map(drop)
                .map_err(|it| it.code())
        };
        let dist = |dist: &str| verdict(&format!(r#"{{"name":"a","versions":{{"1.0.0":{{"dist":{dist}}}}}}}"#));
        assert_eq!(dist(&format!(r#"{{"shasum":"{}"}}"#, "0".repeat(40))), Ok(()));
        assert_eq!(dist(&format!(r#"{{"integrity":"{locked}"}}"#)), Ok(()));
        assert_eq!(dist(&format!(r#"{{"shasum":"{}"}}"#, "1".repeat(40))), Err("mirror.hash"));
        // Hashes of two kinds say nothing about each other.
        assert_eq!(dist(&format!(r#"{{"integrity":"sha512-{}=="}}"#, "A".repeat(86))), Ok(()));
        assert_eq!(dist(r#"{"integrity":"sha512-AAAA"}"#), Err("mirror.malformed"));
        assert_eq!(dist("{}"), Err("mirror.malformed"));
        assert_eq!(verdict(r#"{"name":"a","versions":{}}"#), Err("mirror.absent"));
        assert_eq!(verdict(r#"{"name":"b","versions":{"1.0.0":{}}}"#), Err("mirror.malformed"));
        assert_eq!(verdict(r#"{"error":"not found"}"#), Err("mirror.malformed"));
        assert_eq!(verdict("<html>Welcome</html>"), Err("mirror.html"));
    }
}
