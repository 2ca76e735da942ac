//! rustup's distribution server (`dist-server/…`) and its update root (`update-root/…`).
//!
//! rustup believes whatever its server says: a `.sha256` comes from the same place as the file. Here a channel manifest is
//! right if it is the pinned one, whichever mirror has it, and a component if a manifest that was accepted names its hash.
//! Owns: those two checks, and our own `.sha256` files. Never: change a manifest (rustup keeps it, and replaces its own
//! server's name in it), or pass on a component that no manifest names. A channel that is not pinned, and rustup itself,
//! have no hash but their server's own: they are passed where the two agree, with a finding that says so.
//! Rules: rustup's `dist` module, "manifest v2"; `release-stable.toml` of its update root.

use crate::Gateway;
use crate::documents::{Kept, Sought, Standing, seek};
use crate::downloads::{Pin, hex};
use crate::error::{Error, Kind};
use crate::fetch::fetch;
use crate::reply::{Reply, absent, delivered, text, typed};
use crate::request::{Ask, Document, looks_like_a_web_page, web_page};
use crate::server::Asked;
use crate::url::Url;
use bytes::Bytes;
use hyper::{Response, StatusCode};
use protocol::{Ecosystem, Failure, FailureKind, Upstream};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The longest manifests are a megabyte.
const MAX_MANIFEST_BYTES: usize = 32 << 20;
const MAX_TEXT_BYTES: usize = 64 << 10;

/// What this run has learnt.
#[derive(Default)]
pub struct Rustup {
    /// Path of a manifest → the one text that this run gives for it, and whose components it gives.
    manifests: RefCell<HashMap<String, Bytes>>,
    /// Path of a component → sha256.
    components: RefCell<HashMap<String, String>>,
}

pub async fn serve(gateway: &Rc<Gateway>, asked: &Asked) -> Result<Response<Reply>, Failure> {
    let nothing = || absent(&format!("{} is nothing that rustup's servers have", asked.path));
    let Some(segments) = asked.segments() else { return Ok(nothing()) };
    match segments.as_slice() {
        ["dist-server", "dist", .., file] => {
            let path = asked.path.trim_start_matches("dist-server/");
            let manifest_path = path.strip_suffix(".sha256").unwrap_or(path);
            if !file.starts_with("channel-") {
                return component(gateway, asked, path).await;
            }
            let hash_asked = path != manifest_path;
            let known = pinned(gateway, manifest_path).filter(|_| hash_asked).cloned();
            let sha256 = match known {
                Some(sha256) => sha256,
                None => match manifest(gateway, &asked.step, manifest_path).await? {
                    Some(bytes) if !hash_asked => return Ok(typed(StatusCode::OK, "application/toml", bytes)),
                    Some(bytes) => hex(&Sha256::digest(&bytes)),
                    None => return Ok(nothing()),
                },
            };
            let name = file.trim_end_matches(".sha256");
            Ok(text(StatusCode::OK, &format!("{sha256}  {name}\n")))
        }
        ["update-root", "release-stable.toml"] => release(gateway, asked).await,
        ["update-root", .., file] if file.starts_with("rustup-init") => itself(gateway, asked).await,
        _ => Ok(nothing()),
    }
}

/// A pin is of a file directly below `dist/`; dated folders hold other channels under the same names.
fn pinned<'a>(gateway: &'a Gateway, path: &str) -> Option<&'a String> {
    gateway.setup.pins.channels.get(path.strip_prefix("dist/")?)
}

/// The manifest at a path, pinned or with its upstream's own hash; its components are known from then on.
async fn manifest(gateway: &Gateway, step: &str, path: &str) -> Result<Option<Bytes>, Failure> {
    if let Some(known) = gateway.rustup.manifests.borrow().get(path) {
        return Ok(Some(known.clone()));
    }
    let pin = pinned(gateway, path);
    let subject = format!("channel manifest {}", path.trim_start_matches("dist/"));
    let sought = sought(step, &subject, path, MAX_MANIFEST_BYTES);
    let own_hash = RefCell::new(String::new());
    let found = seek(
        gateway,
        &sought,
        async |upstream: &Upstream| {
            let url = Url::parse(&upstream.url)?.below(path)?;
            if pin.is_none() {
                *own_hash.borrow_mut() = hash_beside(gateway, &sought, upstream, &url).await?;
            }
            Ok(url)
        },
        async |document: &Document| {
            let expected = pin.cloned().unwrap_or_else(|| own_hash.borrow().clone());
            check(&document.bytes, &expected).map(|()| Kept::of(document))
        },
        async |kept: &Kept| pin.map_or(Standing::Passing, |pin| Standing::of(check(&kept.bytes, pin), true)),
    );
    let Some(kept) = found.await? else { return Ok(None) };
    let named = hashes(&String::from_utf8_lossy(&kept.bytes)).collect::<Vec<_>>();
    if let Some(pin) = pin {
        // What was kept under another pin, or without one, is no answer now that nobody else has any.
        check(&kept.bytes, pin).map_err(|error| error.failure(&subject, Vec::new()))?;
        gateway.rustup.components.borrow_mut().extend(named);
    } else {
        gateway.tell_unpinned(&subject, "lock it to make a mirror's word irrelevant");
        for (path, sha256) in named {
            // What a pinned manifest says is not for others to change.
            gateway.rustup.components.borrow_mut().entry(path).or_insert(sha256);
        }
    }
    gateway.rustup.manifests.borrow_mut().insert(path.to_owned(), kept.bytes.clone());
    Ok(Some(kept.bytes))
}

fn sought<'a>(step: &'a str, subject: &str, key: &str, max_bytes: usize) -> Sought<'a> {
    let (ecosystem, name, headers) = (Ecosystem::Rustup, "", Vec::new());
    Sought { step, ecosystem, name, subject: subject.to_owned(), key: key.to_owned(), headers, max_bytes }
}

/// # Errors: Html, Malformed, Hash.
fn check(manifest: &[u8], expected_sha256: &str) -> Result<(), Error> {
    if looks_like_a_web_page(manifest) {
        return Err(web_page(manifest));
    }
    let got = hex(&Sha256::digest(manifest));
    if !got.eq_ignore_ascii_case(expected_sha256) {
        return Err(Error::hash(expected_sha256, &got));
    }
    if hashes(&String::from_utf8_lossy(manifest)).next().is_none() {
        return Err(Error::new(Kind::Malformed, "its answer is not a channel manifest: it names no component"));
    }
    Ok(())
}

/// Path below the server and sha256 of each file that a manifest names, whichever server its URLs are of.
///
/// A manifest is TOML that one program writes: a key a line, each URL followed by its hash.
fn hashes(manifest: &str) -> impl Iterator<Item = (String, String)> + '_ {
    let mut url = None;
    manifest.lines().filter_map(move |line| {
        let (key, value) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim().trim_matches('"')))?;
        match key {
            "url" | "xz_url" => {
                url = value.find("/dist/").map(|at| value[at + 1..].to_owned());
                None
            }
            "hash" | "xz_hash" | "hash-sha256" => Some((url.take()?, value.to_owned())),
            _ => None,
        }
    })
}

/// The hash in the `.sha256` file beside a URL.
async fn hash_beside(gateway: &Gateway, sought: &Sought<'_>, upstream: &Upstream, url: &Url) -> Result<String, Error> {
    let url = Url::parse(&format!("{}{}.sha256", url.origin, url.path))?;
    let artifact = format!("{}.sha256", sought.subject);
    let (step, ecosystem, headers) = (sought.step, sought.ecosystem, Vec::new());
    let ask = Ask { step, ecosystem, artifact: &artifact, upstream, url: &url, headers };
    first_hash(&gateway.client.document(ask, MAX_TEXT_BYTES).await?)
}

/// # Errors: Html, Malformed.
fn first_hash(document: &Document) -> Result<String, Error> {
    if looks_like_a_web_page(&document.bytes) {
        return Err(web_page(&document.bytes));
    }
    let text = String::from_utf8_lossy(&document.bytes);
    Pin::sha256(text.split_whitespace().next().unwrap_or_default())
        .map(|pin| pin.text().to_owned())
        .map_err(|error| Error::new(Kind::Malformed, format!("its .sha256 file has no hash: {}", error.message)))
}

async fn component(gateway: &Rc<Gateway>, asked: &Asked, path: &str) -> Result<Response<Reply>, Failure> {
    let subject = format!("toolchain file {}", path.trim_start_matches("dist/"));
    // `rustup target add` goes by the manifest that it keeps, without asking for it again.
    for channel in gateway.setup.pins.channels.keys() {
        manifest(gateway, &asked.step, &format!("dist/{channel}")).await?;
    }
    let Some(sha256) = gateway.rustup.components.borrow().get(path).cloned() else {
        return Err(Failure {
            kind: FailureKind::Configuration,
            subject,
            message: "no channel manifest that was asked for or is locked names it, so nothing says what it is"
                .to_owned(),
            attempts: Vec::new(),
        });
    };
    let path = path.to_owned();
    file(gateway, asked, subject, &sha256, move |upstream: &Upstream| Url::parse(&upstream.url)?.below(&path)).await
}

/// A file that is pinned, by whatever says so.
async fn file(
    gateway: &Rc<Gateway>,
    asked: &Asked,
    subject: String,
    sha256: &str,
    locate: impl Fn(&Upstream) -> Result<Url, Error> + 'static,
) -> Result<Response<Reply>, Failure> {
    let pin = Pin::sha256(sha256).map_err(|error| error.failure(&subject, Vec::new()))?;
    let wanted = asked.wanted(Ecosystem::Rustup, subject, pin.clone(), None);
    let own = gateway.clone();
    let fetching = async move {
        let upstreams = own.upstreams(Ecosystem::Rustup, "").await;
        fetch(&own, &wanted, &upstreams, async |upstream: &Upstream| locate(upstream)).await
    };
    delivered(gateway, asked, Vec::new(), &pin, None, fetching).await
}

/// The version that rustup compares with its own before it asks for anything else.
async fn release(gateway: &Gateway, asked: &Asked) -> Result<Response<Reply>, Failure> {
    let sought = sought(&asked.step, "release file of rustup", &asked.path, MAX_TEXT_BYTES);
    let check = async |document: &Document| {
        if looks_like_a_web_page(&document.bytes) {
            return Err(web_page(&document.bytes));
        }
        let names_version = String::from_utf8_lossy(&document.bytes).lines().any(|line| line.starts_with("version"));
        let malformed = || Error::new(Kind::Malformed, "its answer names no version of rustup");
        names_version.then(|| Kept::of(document)).ok_or_else(malformed)
    };
    let locate = async |upstream: &Upstream| updates(upstream, &asked.path);
    let found = seek(gateway, &sought, locate, check, async |_: &Kept| Standing::Passing);
    Ok(match found.await? {
        Some(kept) => typed(StatusCode::OK, "application/toml", kept.bytes),
        None => absent("no update root of this profile has it"),
    })
}

/// rustup's own program, or its hash.
async fn itself(gateway: &Rc<Gateway>, asked: &Asked) -> Result<Response<Reply>, Failure> {
    let path = asked.path.strip_suffix(".sha256").unwrap_or(&asked.path);
    let beside = format!("{path}.sha256");
    let subject = path.trim_start_matches("update-root/").to_owned();
    let sought = sought(&asked.step, &format!("hash of {subject}"), &beside, MAX_TEXT_BYTES);
    let found = seek(
        gateway,
        &sought,
        async |upstream: &Upstream| updates(upstream, &beside),
        async |document: &Document| {
            first_hash(document).map(|sha256| Kept { bytes: sha256.into(), ..Kept::of(document) })
        },
        async |_: &Kept| Standing::Passing,
    );
    let Some(kept) = found.await? else { return Ok(absent(&format!("no update root of this profile has {subject}"))) };
    let sha256 = String::from_utf8_lossy(&kept.bytes).into_owned();
    if asked.path == beside {
        return Ok(text(StatusCode::OK, &format!("{sha256} *{subject}\n")));
    }
    gateway.tell_unpinned(&subject, "rustup from the distribution's packages is signed");
    let path = path.to_owned();
    file(gateway, asked, subject, &sha256, move |upstream: &Upstream| updates(upstream, &path)).await
}

/// Where an upstream has a path below `update-root/`.
fn updates(upstream: &Upstream, path: &str) -> Result<Url, Error> {
    let root = upstream.second.as_deref().ok_or_else(|| {
        Error::new(Kind::Configuration, "its profile names no update root beside the distribution server")
    })?;
    Url::parse(root)?.below(path.trim_start_matches("update-root/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"manifest-version = "2"
[pkg.rustc.target.a]
available = true
url = "https://mirror.example/rust-static/dist/2026-04-16/rustc.tar.gz"
hash = "aa"
xz_url = "https://s.example/dist/2026-04-16/rustc.tar.xz"
xz_hash = "bb"
[pkg.rustc.target.b]
available = false
hash = "cc"
[[artifacts.source-code.target."*"]]
url = "https://s.example/dist/2026-04-16/src.tar.gz"
hash-sha256 = "dd"
"#;

    #[test]
    fn a_manifest_names_files_by_their_path_whichever_server_wrote_it() {
        let found: Vec<_> = hashes(MANIFEST).collect();
        let pair = |file: &str, hash: &str| (format!("dist/2026-04-16/{file}"), hash.to_owned());
        assert_eq!(found, [pair("rustc.tar.gz", "aa"), pair("rustc.tar.xz", "bb"), pair("src.tar.gz", "dd")]);
    }

    #[test]
    fn a_manifest_is_the_expected_one_or_none() {
        let of = |text: &str| hex(&Sha256::digest(text.as_bytes()));
        let verdict = |text: &str, sha256: &str| check(text.as_bytes(), sha256).map_err(|error| error.code());
        assert_eq!(verdict(MANIFEST, &of(MANIFEST).to_ascii_uppercase()), Ok(()));
        assert_eq!(verdict(MANIFEST, &of("")), Err("mirror.hash"));
        assert_eq!(verdict("no manifest", &of("no manifest")), Err("mirror.malformed"));
        assert_eq!(verdict("<html>Welcome</html>", &of(MANIFEST)), Err("mirror.html"));
    }
}
