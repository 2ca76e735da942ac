//! Pulling from OCI registries: manifests and blobs by digest or tag. `push` is the other direction.
//!
//! A registry client speaks to us as if we were its registry, `/v2/docker.io/library/rust/manifests/latest`, or names the
//! registry as containerd's mirrors do, `/v2/library/rust/manifests/latest?ns=docker.io`. A digest is the hash of the
//! bytes, so a manifest or blob asked for by digest is the same from any upstream and is kept. A tag means what the first
//! upstream that answers says, and is asked for each time.
//! Owns: the pull API, for children and for bases of our own images; the answer to a registry's request for a token, patience
//! with registries that throttle by sleeping. Never: give out bytes that do not have their digest, use the user's login at a
//! registry for a child, or send a mirror's credentials to a token service of another origin than the upstream's own two.
//! Rules: OCI distribution specification 1.1, "Pull"; the registry token specification of its reference implementation.

use crate::Gateway;
use crate::documents::{Kept, Sought, Standing, at_most, keep, read, seek_among};
use crate::downloads::{Pin, hex};
use crate::error::{Error, Kind};
use crate::fetch::{Errand, Fetched, blocking, fetch};
use crate::reply::{Reply, absent, delivered, head, typed};
use crate::request::{Ask, Document, Load, Taken, looks_like_a_web_page, web_page};
use crate::secrets;
use crate::server::Asked;
use crate::upstream::NOBODY_HAS_IT;
use crate::url::{Origin, Url, encode_path};
use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use protocol::{Credentials, Ecosystem, Failure, Outcome, Upstream};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

/// Registries must take manifests of 4 MiB; containerd reads 8.
const MAX_MANIFEST_BYTES: usize = 8 << 20;
const MAX_VALUES: usize = 1 << 18;
/// Some public mirrors throttle by sleeping before the first byte of a blob: a registry that gave us the manifest is
/// alive, so it is waited for before the next one is asked.
const BLOB_FIRST_BYTE: Duration = Duration::from_secs(60);
/// The same where there is no next one.
const ONLY_BLOB_FIRST_BYTE: Duration = Duration::from_secs(20 * 60);
/// Of every kind, whatever the child named: what is kept serves each of them.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
pub const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// A repository as a child named it.
struct Place {
    /// `docker.io`.
    registry: String,
    /// `library/rust`.
    repo: String,
}

impl Place {
    /// `registry`: from `?ns=`; else it is the first part of the name.
    fn of(registry: Option<&str>, name: &[&str]) -> Option<Self> {
        let (registry, repo) = match (registry, name) {
            (Some(registry), repo) => (registry, repo),
            (None, [registry, repo @ ..]) => (*registry, repo),
            (None, []) => return None,
        };
        let plain = |part: &&str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if repo.is_empty() || !repo.iter().all(plain) {
            return None;
        }
        let library = if registry == "docker.io" && repo.len() == 1 { "library/" } else { "" };
        Some(Self { registry: registry.to_owned(), repo: format!("{library}{}", repo.join("/")) })
    }

    /// This repository at the registry's upstreams; each one's URL is the repository's own.
    async fn upstreams(&self, gateway: &Gateway) -> Vec<Upstream> {
        let leaf = self.repo.rsplit('/').next().unwrap_or_default();
        let mut upstreams = gateway.registry(&self.registry, &self.repo).await;
        for upstream in &mut upstreams {
            upstream.url = upstream.url.replace("{repo}", &self.repo).replace("{leaf}", leaf);
        }
        upstreams
    }
}

/// How long blobs are, from the manifests of this run: repository and digest → bytes; `None` where two manifests differ, of
/// which a tag may have led to any.
#[derive(Default)]
pub struct Sizes(RefCell<HashMap<(String, String), Option<u64>>>);

impl Sizes {
    fn learn(&self, place: &Place, manifest: &[u8]) {
        let manifest: Value = serde_json::from_slice(manifest).unwrap_or_default();
        let layers = manifest["layers"].as_array().into_iter().flatten();
        for blob in layers.chain([&manifest["config"]]) {
            let digest = blob["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
            if let (Some(digest), Some(size)) = (digest, blob["size"].as_u64()) {
                let mut known = self.0.borrow_mut();
                let known = known.entry((place.repo.clone(), digest.to_owned())).or_insert(Some(size));
                *known = known.filter(|known| *known == size);
            }
        }
    }

    fn of(&self, place: &Place, pin: &Pin) -> Option<u64> {
        self.0.borrow().get(&(place.repo.clone(), pin.text().to_owned())).copied().flatten()
    }
}

/// `` (is this a registry?), `NAME/manifests/REFERENCE`, `NAME/blobs/DIGEST`.
pub async fn serve(gateway: &Rc<Gateway>, asked: &Asked) -> Result<Response<Reply>, Failure> {
    if asked.path.is_empty() {
        let mut reply = typed(StatusCode::OK, "application/json", "{}".into());
        reply.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        return Ok(reply);
    }
    let unknown = || Ok(absent(&format!("{} is nothing that is pulled from a registry", asked.path)));
    let (Some(segments), namespace) = (asked.segments(), asked.query.as_deref().and_then(namespace)) else {
        return unknown();
    };
    let [name @ .., kind @ ("manifests" | "blobs"), reference] = segments.as_slice() else { return unknown() };
    let reference = reference.replace("%3A", ":").replace("%3a", ":");
    let digest = reference.strip_prefix("sha256:").and_then(|hex| Pin::sha256(hex).ok());
    let Some(place) = Place::of(namespace, name) else { return unknown() };
    if !gateway.setup.registries.contains_key(&place.registry) {
        return Ok(absent(&format!("registry {} is not in this profile", place.registry)));
    }
    match (*kind, digest) {
        ("blobs", Some(pin)) => blob(gateway, asked, place, pin).await,
        ("manifests", pin) if pin.is_some() || is_tag(&reference) => {
            manifest(gateway, asked, &place, &reference, pin).await
        }
        _ => unknown(),
    }
}

/// The registry that a mirror of containerd's stands in for.
fn namespace(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("ns="))
}

fn is_tag(reference: &str) -> bool {
    reference.len() <= 128
        && reference.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !reference.starts_with(['.', '-'])
}

async fn manifest(
    gateway: &Rc<Gateway>,
    asked: &Asked,
    place: &Place,
    reference: &str,
    digest: Option<Pin>,
) -> Result<Response<Reply>, Failure> {
    let name = format!("{}/{}", place.registry, place.repo);
    let upstreams = place.upstreams(gateway).await;
    let sought = sought(&asked.step, &name, reference, digest.as_ref(), asked.forwarded(&[]));
    let Some(kept) = seek_manifest(gateway, &sought, upstreams, reference, digest).await? else {
        return Ok(absent(&format!("no upstream has the {}", sought.subject)));
    };
    gateway.sizes.learn(place, &kept.bytes);
    let mut reply = typed(StatusCode::OK, &kept.note.content_type, kept.bytes.clone());
    reply.headers_mut().extend(digest_header(&sha256(&kept.bytes)));
    // hyper sends the body of no answer to a HEAD, and its length all the same.
    Ok(reply)
}

/// `name`: of the repository with its registry.
fn sought<'a>(
    step: &'a str,
    name: &'a str,
    reference: &str,
    digest: Option<&Pin>,
    mut headers: Vec<(HeaderName, HeaderValue)>,
) -> Sought<'a> {
    let separator = if digest.is_some() { "@" } else { ":" };
    let subject = format!("manifest of {name}{separator}{reference}");
    let key = digest.map_or_else(|| subject.clone(), |pin| stored_name(pin.text()));
    headers.push((header::ACCEPT, HeaderValue::from_static(MANIFESTS)));
    Sought { step, ecosystem: Ecosystem::Oci, name, subject, key, headers, max_bytes: MAX_MANIFEST_BYTES }
}

/// `upstreams`: each one's URL is the repository's own. `None`: all of them say that there is none.
async fn seek_manifest(
    gateway: &Gateway,
    sought: &Sought<'_>,
    upstreams: Vec<Upstream>,
    reference: &str,
    digest: Option<Pin>,
) -> Result<Option<Kept>, Failure> {
    let only = upstreams.len() == 1;
    let attempt = async |upstream: &Upstream| {
        let url = Url::parse(&upstream.url)?.below(&format!("manifests/{reference}"))?;
        check(&read(gateway, sought, upstream, &url).await?, digest.as_ref())
    };
    let found = seek_among(gateway, sought, async { upstreams }, attempt, async |kept: &Kept| match &digest {
        Some(pin) if pin.text() == sha256(&kept.bytes) => Standing::Pinned,
        Some(_) => Standing::Refuted,
        None => Standing::Passing,
    });
    let Some(kept) = found.await? else { return Ok(None) };
    // Whoever gave it, in this run or an earlier one, is worth waiting for.
    if let Ok(giver) = Url::parse(&kept.note.url) {
        gateway.client.wait_for_blobs(&giver.origin, if only { ONLY_BLOB_FIRST_BYTE } else { BLOB_FIRST_BYTE });
    }
    keep(gateway, Ecosystem::Oci, &stored_name(&sha256(&kept.bytes)), &kept).await;
    Ok(Some(kept))
}

/// The manifest or index of a base, for a job.
pub async fn base_manifest(
    gateway: &Gateway,
    errand: &Errand,
    repository: &str,
    reference: &str,
) -> Result<Outcome, Failure> {
    let digest = reference.strip_prefix("sha256:").and_then(|hex| Pin::sha256(hex).ok());
    let sought = sought(&errand.step, repository, reference, digest.as_ref(), Vec::new());
    let absent = || Error::new(Kind::Absent, NOBODY_HAS_IT).failure(&sought.subject, Vec::new());
    let kept =
        seek_manifest(gateway, &sought, gateway.base(repository), reference, digest).await?.ok_or_else(absent)?;
    let text = String::from_utf8(kept.bytes.to_vec())
        .map_err(|_| Error::new(Kind::Malformed, "it is no text").failure(&sought.subject, Vec::new()))?;
    Ok(Outcome::Manifest { media_type: kept.note.content_type, text, upstream: kept.note.giver })
}

/// A blob of a base, for a job.
pub async fn base_blob(
    gateway: &Gateway,
    errand: &Errand,
    repository: &str,
    sha256: &str,
    size_bytes: u64,
) -> Result<Fetched, Failure> {
    let subject = format!("blob sha256:{sha256} of {repository}");
    let pin = Pin::sha256(sha256).map_err(|error| error.failure(&subject, Vec::new()))?;
    let wanted = errand.wanted(Ecosystem::Oci, subject, pin, Some(size_bytes));
    let relative = format!("blobs/sha256:{sha256}");
    let locate = async |upstream: &Upstream| Url::parse(&upstream.url)?.below(&relative);
    fetch(gateway, &wanted, &gateway.base(repository), locate).await
}

/// Of a manifest, whichever name led to it.
fn stored_name(sha256: &str) -> String {
    format!("manifest sha256:{sha256}")
}

fn digest_header(sha256: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((DIGEST, HeaderValue::from_str(&format!("sha256:{sha256}")).ok()?))
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// # Errors: Html, Malformed, or Hash where the bytes do not have the digest that was asked for or that came with them.
fn check(document: &Document, digest: Option<&Pin>) -> Result<Kept, Error> {
    if looks_like_a_web_page(&document.bytes) {
        return Err(web_page(&document.bytes));
    }
    let got = sha256(&document.bytes);
    let told = document.headers.get(DIGEST).and_then(|told| told.to_str().ok()?.strip_prefix("sha256:"));
    if let Some(expected) = digest.map(Pin::text).or(told).filter(|expected| *expected != got) {
        return Err(Error::hash(expected, &got));
    }
    at_most(MAX_VALUES, &document.bytes)?;
    let manifest: Value = serde_json::from_slice(&document.bytes)
        .map_err(|cause| Error::new(Kind::Malformed, format!("its manifest is no JSON: {cause}")))?;
    if manifest["schemaVersion"] != 2 {
        return Err(Error::new(Kind::Malformed, "its manifest is not one of schema version 2"));
    }
    let mut kept = Kept::of(document);
    // What the manifest says of itself is covered by its digest; the header is not.
    if let Some(own) = manifest["mediaType"].as_str() {
        kept.note.content_type = own.to_owned();
    }
    Ok(kept)
}

async fn blob(gateway: &Rc<Gateway>, asked: &Asked, place: Place, pin: Pin) -> Result<Response<Reply>, Failure> {
    let subject = format!("blob sha256:{} of {}/{}", pin.text(), place.registry, place.repo);
    let mut headers = vec![(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))];
    headers.extend(digest_header(pin.text()));
    let relative = format!("blobs/sha256:{}", pin.text());
    let size_bytes = gateway.sizes.of(&place, &pin);
    if asked.method == Method::HEAD {
        if size_bytes.is_some() {
            return Ok(head(headers, size_bytes));
        }
        return match size(gateway, asked, &place, &pin, &subject, &relative).await? {
            Some(size) => Ok(head(headers, size)),
            None => Ok(absent(&format!("no upstream has {subject}"))),
        };
    }
    let wanted = asked.wanted(Ecosystem::Oci, subject, pin.clone(), size_bytes);
    let own = gateway.clone();
    let fetching = async move {
        let upstreams = place.upstreams(&own).await;
        fetch(&own, &wanted, &upstreams, async |upstream: &Upstream| Url::parse(&upstream.url)?.below(&relative)).await
    };
    delivered(gateway, asked, headers, &pin, size_bytes, fetching).await
}

/// How long a blob is, without downloading it. `None`: no upstream has it; `Some(None)`: none says.
///
/// A digest does not cover it: until the blob is here it is one upstream's word, and asked for in each run.
async fn size(
    gateway: &Gateway,
    asked: &Asked,
    place: &Place,
    pin: &Pin,
    subject: &str,
    relative: &str,
) -> Result<Option<Option<u64>>, Failure> {
    let (downloads, here) = (gateway.downloads.clone(), pin.clone());
    let length = blocking(move || downloads.length(&here)).await;
    if let Some(size_bytes) = length.map_err(|error| error.failure(subject, Vec::new()))? {
        return Ok(Some(Some(size_bytes)));
    }
    let name = format!("{}/{}", place.registry, place.repo);
    let sought = Sought {
        step: &asked.step,
        ecosystem: Ecosystem::Oci,
        name: &name,
        subject: subject.to_owned(),
        key: format!("size of sha256:{}", pin.text()),
        headers: asked.forwarded(&[]),
        max_bytes: 0,
    };
    let exists = Cell::new(false);
    let attempt = async |upstream: &Upstream| {
        let url = Url::parse(&upstream.url)?.below(relative)?;
        let head = gateway.client.head(&sought.ask(upstream, &url), |_| false).await?;
        if head.status == StatusCode::NOT_FOUND {
            return Err(Error::new(Kind::Absent, "404 Not Found").at(&head.peer));
        }
        let length = head.hops.last().and_then(|headers| headers.get(header::CONTENT_LENGTH));
        let Some(length) = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok()) else {
            exists.set(true);
            return Err(Error::new(Kind::Malformed, "it does not say how long the blob is").at(&head.peer));
        };
        Ok(Kept { note: Default::default(), bytes: length.to_string().into() })
    };
    let settled = async |_: &Kept| Standing::Unchanging;
    match seek_among(gateway, &sought, place.upstreams(gateway), attempt, settled).await {
        Err(_) if exists.get() => Ok(Some(None)),
        found => Ok(found?.map(|kept| std::str::from_utf8(&kept.bytes).ok()?.parse().ok())),
    }
}

pub fn is_blob(ask: &Ask<'_>) -> bool {
    ask.ecosystem == Ecosystem::Oci && ask.url.path.contains("/blobs/")
}

/// What a registry says in its own form of an error: `…is not in the allowlist`.
pub fn refusal(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Refusal {
        errors: Vec<Cause>,
    }
    #[derive(Deserialize)]
    struct Cause {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let refusal: Refusal = serde_json::from_slice(body).ok()?;
    let cause = refusal.errors.first()?;
    let told = format!("{} {}", cause.code, cause.message);
    Some(secrets::masked_page(told.trim()).chars().filter(|c| !c.is_control()).take(300).collect())
}

/// A registry's demand for a token: `Bearer realm="https://auth.example/token",service="…",scope="repository:x:pull"`.
#[derive(Debug, PartialEq, Eq)]
pub struct Challenge {
    realm: String,
    service: Option<String>,
    scope: Option<String>,
}

impl Challenge {
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let texts = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        texts.filter_map(Self::read).next()
    }

    fn read(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        // A quoted value may hold commas: `pull,push`.
        while let Some((name, after)) = rest.split_once('=') {
            let (value, left) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_at(after.find(',').unwrap_or(after.len())),
            };
            match name.trim_start_matches([',', ' ']).to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                "scope" => scope = Some(value.to_owned()),
                _ => {}
            }
            rest = left;
        }
        Some(Self { realm: realm?, service, scope })
    }

    pub fn url(&self) -> Result<Url, Error> {
        self.url_for(self.scopes())
    }

    /// What it asks for.
    pub fn scopes(&self) -> &[String] {
        self.scope.as_slice()
    }

    /// The same with other scopes than it asks for.
    pub fn url_for(&self, scopes: &[String]) -> Result<Url, Error> {
        self.url_with(&self.query(scopes))
    }

    /// The token service itself, for what is sent to it.
    pub fn service_url(&self) -> Result<Url, Error> {
        self.url_with("")
    }

    /// As a query and as a form.
    pub fn query(&self, scopes: &[String]) -> String {
        let scopes = scopes.iter().map(|scope| parameter("scope", scope));
        self.service.iter().map(|service| parameter("service", service)).chain(scopes).collect::<Vec<_>>().join("&")
    }

    fn url_with(&self, query: &str) -> Result<Url, Error> {
        let separator = match query {
            "" => "",
            _ if self.realm.contains('?') => "&",
            _ => "?",
        };
        Url::parse(&format!("{}{separator}{query}", self.realm))
            .map_err(|error| Error::new(Kind::Malformed, format!("its token service: {}", error.message)))
    }
}

/// What a token service is asked, by somebody or by nobody in particular. No redirect may be followed with it.
pub struct TokenRequest {
    pub method: Method,
    pub url: Url,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub form: Bytes,
}

impl TokenRequest {
    /// # Errors: Tls where the service is to be asked in the open; Configuration for credentials that no header can hold.
    pub fn new(
        challenge: &Challenge,
        scopes: &[String],
        credentials: Option<&Credentials>,
        registry: &Origin,
    ) -> Result<Self, Error> {
        let (mut headers, mut form) = (Vec::new(), Bytes::new());
        let (method, url) = match credentials {
            Some(Credentials::IdentityToken(secret)) => {
                let fixed = "grant_type=refresh_token&client_id=cargo-xtask";
                form = format!("{fixed}&{}&{}", challenge.query(scopes), parameter("refresh_token", secret)).into();
                let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
                headers.push((header::CONTENT_TYPE, form_type));
                (Method::POST, challenge.service_url()?)
            }
            Some(Credentials::Password(basic)) => {
                let value = HeaderValue::from_str(basic)
                    .map_err(|_| Error::new(Kind::Configuration, "its credentials cannot be put into a request"))?;
                headers.push((header::AUTHORIZATION, value));
                (Method::GET, challenge.url_for(scopes)?)
            }
            Some(Credentials::Token(_)) | None => (Method::GET, challenge.url_for(scopes)?),
        };
        if registry.https && !url.origin.https {
            let message = format!("it sends to a token service without TLS, {}; that is never asked", url.origin);
            return Err(Error::new(Kind::Tls, message));
        }
        Ok(Self { method, url, headers, form })
    }

    pub fn load(&self) -> Load {
        match self.form.is_empty() {
            true => Load::Nothing,
            false => Load::Bytes { bytes: self.form.clone(), taken: Taken::default() },
        }
    }
}

/// `name=value`, the value encoded.
pub fn parameter(name: &str, value: &str) -> String {
    format!("{name}={}", encode_path(value).replace('+', "%2B").replace('=', "%3D"))
}

/// The token in a token service's answer, which is never cited: it may hold one.
pub fn token(body: &[u8]) -> Result<String, Error> {
    #[derive(Deserialize)]
    struct Granted {
        token: Option<String>,
        // Some send both.
        access_token: Option<String>,
    }
    if looks_like_a_web_page(body) {
        return Err(web_page(body));
    }
    let granted = serde_json::from_slice::<Granted>(body).ok().and_then(|it| it.token.or(it.access_token));
    granted.ok_or_else(|| Error::new(Kind::Malformed, "its token service answered without a token"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demand_for_a_token_is_read_with_its_quoted_commas() {
        let read = Challenge::read(
            r#"Bearer realm="https://auth.example/token",service=reg, scope="repository:a/b:pull,push",error="x""#,
        );
        let expected = Challenge {
            realm: "https://auth.example/token".into(),
            service: Some("reg".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        assert_eq!(read, Some(expected));
        let url = read.unwrap().url().unwrap().path_and_query();
        assert_eq!(url, "/token?service=reg&scope=repository%3Aa/b%3Apull%2Cpush");
        assert_eq!((Challenge::read("Basic realm=\"x\""), Challenge::read("Bearer realm=\"x")), (None, None));
        for granted in [r#"{"access_token":"a","expires_in":300}"#, r#"{"token":"a","access_token":"a"}"#] {
            assert_eq!(token(granted.as_bytes()).unwrap(), "a");
        }
    }

    #[test]
    fn a_repository_is_found_in_either_form() {
        let of = |registry, name: &[&str]| Place::of(registry, name).map(|it| format!("{} {}", it.registry, it.repo));
        assert_eq!(of(None, &["docker.io", "rust"]).as_deref(), Some("docker.io library/rust"));
        assert_eq!(of(Some("docker.io"), &["a", "b"]).as_deref(), Some("docker.io a/b"));
        assert_eq!(of(None, &["ghcr.io", "a"]).as_deref(), Some("ghcr.io a"));
        assert_eq!((of(None, &["ghcr.io"]), of(None, &["ghcr.io", "a%20b"])), (None, None));
    }

    #[test]
    fn a_registrys_own_words_are_kept() {
        let body = br#"{"errors":[{"code":"DENIED","message":"This image is not in the allowlist, see the issue"}]}"#;
        assert_eq!(refusal(body).as_deref(), Some("DENIED This image is not in the allowlist, see the issue"));
        assert_eq!(refusal(b"<html>"), None);
    }
}
