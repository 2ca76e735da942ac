//! Registries that images are pushed to and their bases pulled from: the references that a person types, and who the files of
//! docker and podman say that we are there.
//!
//! Owns: what a reference is, how its host is spoken to, which entry of an auth file is meant. Never: open a file, start a helper
//! or repeat a secret.
//! Rules: `registry`'s and `name`'s grammar of the distribution project; containers-auth.json(5); `docker login`.

use crate::tr;
use protocol::Credentials;
use protocol::coding::{base64, base64_decoded};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// `host[:port]/path`, below which images have their names, or with `:tag` the one name of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryPlace {
    /// `registry.example:5000`
    pub host: String,
    /// `team`; may be empty.
    path: String,
    tag: Option<String>,
}

/// Where one image goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub host: String,
    /// `team/extproc`
    pub repository: String,
    pub tag: String,
}

/// An image to build on: `host[:port]/path` with a tag, a digest, or both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct BaseReference {
    pub host: String,
    /// `team/base`
    pub repository: String,
    pub tag: Option<String>,
    /// Wins over the tag, which then only tells a reader what it was.
    pub digest: Option<oci::Digest>,
}

/// As Docker calls its own registry in its configuration, and where that really is.
const HUB: &str = "docker.io";
const HUB_KEY: &str = "https://index.docker.io/v1/";
const HUB_API: &str = "registry-1.docker.io";

impl FromStr for RegistryPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || tr!("write registry:HOST/PATH, as in registry:registry.example:5000/team");
        if text.contains("://") || text.contains('@') {
            return Err(wanted());
        }
        let (host, rest) = text.split_once('/').unwrap_or((text, ""));
        let host = host.to_ascii_lowercase();
        if !is_host(&host) {
            return Err(wanted());
        }
        let (path, tag) = rest.split_once(':').map_or((rest, None), |(path, tag)| (path, Some(tag)));
        let path = path.trim_end_matches('/');
        let sound = if path.is_empty() { tag.is_none() } else { path.split('/').all(is_component) };
        if !sound || !tag.is_none_or(is_tag) {
            return Err(wanted());
        }
        Ok(Self { host, path: path.to_owned(), tag: tag.map(str::to_owned) })
    }
}

impl fmt::Display for RegistryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        if !self.path.is_empty() {
            write!(f, "/{}", self.path)?;
        }
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
    }
}

impl RegistryPlace {
    /// Whether it is the whole name of one image.
    pub fn is_full(&self) -> bool {
        self.tag.is_some()
    }

    /// Where an image goes that is called so. `None`: a registry takes no such name.
    pub fn reference(&self, name: &str, tag: &str) -> Option<Reference> {
        let repository = match (&self.tag, self.path.as_str()) {
            (Some(_), path) => path.to_owned(),
            (None, "") => name.to_owned(),
            (None, path) => format!("{path}/{name}"),
        };
        let tag = self.tag.as_deref().unwrap_or(tag).to_owned();
        let sound = repository.split('/').all(is_component) && is_tag(&tag);
        let repository = repository_at(&self.host, repository);
        sound.then(|| Reference { host: self.host.clone(), repository, tag })
    }

    /// Scheme, host and port of its API: plain http is spoken on this machine only.
    pub fn origin(&self) -> String {
        let scheme = if is_loopback(&self.host) { "http" } else { "https" };
        format!("{scheme}://{}", if self.host == HUB { HUB_API } else { &self.host })
    }

    /// As lists of allowed hosts have it: with its port where that is unusual.
    pub fn authority(&self) -> String {
        let usual = if is_loopback(&self.host) { ":80" } else { ":443" };
        let host = if self.host == HUB { HUB_API } else { &self.host };
        host.strip_suffix(usual).unwrap_or(host).to_owned()
    }

    /// What a credential helper is asked for.
    pub fn server(&self) -> &str {
        if self.host == HUB { HUB_KEY } else { &self.host }
    }
}

impl BaseReference {
    /// As the registry itself would be told.
    pub fn place(&self) -> RegistryPlace {
        RegistryPlace { host: self.host.clone(), path: self.repository.clone(), tag: None }
    }

    /// `registry.example/team/base`
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// What the registry is asked for: the digest, else the tag.
    pub fn wanted(&self) -> String {
        self.digest.map(|digest| digest.to_string()).or_else(|| self.tag.clone()).unwrap_or_default()
    }
}

impl TryFrom<String> for BaseReference {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wanted =
            || tr!("`{text}` is not HOST/NAME:TAG or HOST/NAME@sha256:…, as registry.example/team/base:1", text);
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| wanted())?)),
            None => (text.as_str(), None),
        };
        let place: RegistryPlace = rest.parse().map_err(|_| wanted())?;
        if place.path.is_empty() || place.tag.is_none() && digest.is_none() {
            return Err(wanted());
        }
        let repository = repository_at(&place.host, place.path);
        Ok(Self { host: place.host, repository, tag: place.tag, digest })
    }
}

impl fmt::Display for BaseReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

/// Docker's own registry keeps images with a name of one part elsewhere.
fn repository_at(host: &str, path: String) -> String {
    if host == HUB && !path.contains('/') { format!("library/{path}") } else { path }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.host, self.repository, self.tag)
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    }
}

pub fn is_loopback(host: &str) -> bool {
    let name = without_port(host);
    name == "localhost" || name.trim_matches(['[', ']']).parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// A name without a dot would be a user's on Docker's registry, and nobody says which is meant.
fn is_host(host: &str) -> bool {
    let name = without_port(host);
    let port = host.strip_prefix(name).and_then(|port| port.strip_prefix(':'));
    let address = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    let known = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => plain && !name.is_empty() && (name.contains('.') || name == "localhost" || port.is_some()),
    };
    known && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let is_separator = |c: char| "._-".contains(c);
    let parts = component.split(is_separator);
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    component.starts_with(plain)
        && component.ends_with(plain)
        && parts.flat_map(str::chars).all(plain)
        && !["..", "._", "_.", "___", "-.", ".-", "-_", "_-"].iter().any(|twice| component.contains(twice))
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= 128
        && !tag.is_empty()
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Who an auth file says that we are at a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// `docker-credential-NAME` knows.
    Helper(String),
    Known(Credentials),
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AuthFile {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl Auth {
    fn credentials(&self) -> Option<Credentials> {
        let set = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        if let Some(token) = set(&self.registrytoken) {
            return Some(Credentials::Token(token));
        }
        if let Some(token) = set(&self.identitytoken) {
            return Some(Credentials::IdentityToken(token));
        }
        let pair = match set(&self.auth) {
            // Docker ends it with a zero byte.
            Some(auth) => String::from_utf8(base64_decoded(&auth)?).ok()?.trim_end_matches('\0').to_owned(),
            None => format!("{}:{}", set(&self.username)?, self.password),
        };
        pair.contains(':').then(|| password(&pair))
    }
}

fn password(pair: &str) -> Credentials {
    Credentials::Password(format!("Basic {}", base64(pair.as_bytes())))
}

/// Whom an auth file names for a registry, the first to be asked first.
/// # Errors: where in the file it stops being one; never what it holds.
pub fn logins(file: &str, place: &RegistryPlace) -> Result<Vec<Login>, String> {
    let file: AuthFile = serde_json::from_str(file)
        .map_err(|error| tr!("line {line}, column {column}", line = error.line(), column = error.column()))?;
    let mut logins = Vec::new();
    let keys = keys(place);
    logins.extend(keys.iter().find_map(|key| file.cred_helpers.get(key)).cloned().map(Login::Helper));
    if !file.creds_store.is_empty() {
        logins.push(Login::Helper(file.creds_store.clone()));
    }
    // `https://registry.example/v1/` means the host, as `registry.example` does.
    let plain = |key: &str| {
        let key = key.split_once("://").map_or(key, |(_, rest)| rest);
        let key = key.trim_end_matches('/');
        key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key).to_owned()
    };
    let known = |key: &String| file.auths.iter().find(|(name, _)| *name == key || plain(name) == *key);
    logins.extend(keys.iter().filter_map(known).find_map(|(_, auth)| auth.credentials()).map(Login::Known));
    Ok(logins)
}

/// What an entry for a registry may be called, the most specific first: podman's may name a repository.
fn keys(place: &RegistryPlace) -> Vec<String> {
    let mut whole = place.to_string();
    if let Some(tag) = &place.tag {
        whole.truncate(whole.len() - tag.len() - 1);
    }
    let mut keys = vec![whole];
    while let Some((shorter, _)) = keys.last().and_then(|key| key.rsplit_once('/')) {
        keys.push(shorter.to_owned());
    }
    if place.host == HUB {
        keys.extend([HUB_KEY.to_owned(), "index.docker.io".to_owned()]);
    }
    keys
}

/// What a helper answered. `None`: it is no answer, or holds nothing.
pub fn helped(answer: &[u8]) -> Option<Credentials> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let Answer { username, secret } = serde_json::from_slice(answer).ok()?;
    if secret.is_empty() {
        return None;
    }
    Some(match username.as_str() {
        "<token>" => Credentials::IdentityToken(secret),
        _ => password(&format!("{username}:{secret}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Result<RegistryPlace, String> {
        text.parse()
    }

    #[test]
    fn a_reference_is_a_host_and_a_path_or_the_whole_name_of_one_image() {
        for (text, origin, reference) in [
            ("registry.example/team", "https://registry.example", "registry.example/team/extproc:v1"),
            ("Registry.example:5000/a/b/", "https://registry.example:5000", "registry.example:5000/a/b/extproc:v1"),
            ("registry.example/team/router:v2", "https://registry.example", "registry.example/team/router:v2"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000", "127.0.0.1:5000/extproc:v1"),
            ("localhost/a__b", "http://localhost", "localhost/a__b/extproc:v1"),
            ("[::1]:5000/a", "http://[::1]:5000", "[::1]:5000/a/extproc:v1"),
            ("registry:5000/a-b.c", "https://registry:5000", "registry:5000/a-b.c/extproc:v1"),
            ("docker.io/me", "https://registry-1.docker.io", "docker.io/me/extproc:v1"),
            ("docker.io", "https://registry-1.docker.io", "docker.io/library/extproc:v1"),
        ] {
            let place = place(text).unwrap();
            let told = place.reference("extproc", "v1").map(|it| it.to_string());
            assert_eq!((place.origin().as_str(), told.as_deref()), (origin, Some(reference)), "{text}");
        }
        for text in [
            "",
            "team/app",
            "https://registry.example/team",
            "registry.example/Team",
            "registry.example/a//b",
            "registry.example/a@sha256:00",
            "registry.example:port/a",
            "registry.example/:v1",
            "registry.example/a:",
            "registry.example/a:b:c",
            "registry.example/../a",
            "user@registry.example/a",
            "registry.example/a:-b",
        ] {
            assert!(place(text).is_err(), "{text}: {:?}", place(text));
        }
        for (text, name, wanted) in [
            ("registry.example/team/base:1", "registry.example/team/base", "1"),
            ("127.0.0.1:5000/base:1", "127.0.0.1:5000/base", "1"),
            ("docker.io/base:1", "docker.io/library/base", "1"),
            (&format!("registry.example/base:1@{}", oci::Digest::of(b"x")), "registry.example/base", "sha256:"),
        ] {
            let reference = BaseReference::try_from(text.to_owned()).unwrap();
            assert_eq!((reference.name().as_str(), reference.wanted().starts_with(wanted)), (name, true), "{text}");
            assert_eq!(reference.to_string().replace("library/", ""), text);
        }
        for text in [
            "base:1",
            "registry.example/base",
            "registry.example:1",
            "registry.example/base@sha256:0",
            "registry.example/base:",
        ] {
            assert!(BaseReference::try_from(text.to_owned()).is_err(), "{text}");
        }
        assert_eq!(place("registry.example/a").unwrap().reference("extproc", "no tag"), None);
        assert_eq!(place("registry.example:443/a").unwrap().authority(), "registry.example");
    }

    #[test]
    fn the_entry_for_a_registry_is_found_as_docker_and_podman_find_it() {
        let basic = |pair: &str| Login::Known(password(pair));
        let auth = |pair: &str| base64(pair.as_bytes());
        let file = format!(
            r#"{{"auths": {{
                "registry.example": {{"auth": "{}"}},
                "registry.example/team": {{"auth": "{}"}},
                "https://old.example/v1/": {{"username": "u", "password": "p:q"}},
                "https://index.docker.io/v1/": {{"auth": "{}"}},
                "token.example": {{"auth": "{}", "identitytoken": "refresh"}},
                "empty.example": {{}},
                "broken.example": {{"auth": "!"}}
            }}, "credHelpers": {{"helped.example": "ecr-login"}}}}"#,
            auth("all:1"),
            auth("team:2"),
            auth("hub:3"),
            auth("00000000:"),
        );
        for (text, expected) in [
            ("registry.example", vec![basic("all:1")]),
            ("registry.example/other", vec![basic("all:1")]),
            ("registry.example/team/deep", vec![basic("team:2")]),
            ("registry.example/team:v1", vec![basic("team:2")]),
            ("registry.example:5000/team", vec![]),
            ("old.example/x", vec![basic("u:p:q")]),
            ("docker.io/me", vec![basic("hub:3")]),
            ("token.example/x", vec![Login::Known(Credentials::IdentityToken("refresh".into()))]),
            ("helped.example/x", vec![Login::Helper("ecr-login".into())]),
            ("empty.example/x", vec![]),
            ("broken.example/x", vec![]),
        ] {
            assert_eq!(logins(&file, &place(text).unwrap()), Ok(expected), "{text}");
        }
        let store = r#"{"auths": {"a.example": {}}, "credsStore": "desktop"}"#;
        assert_eq!(logins(store, &place("a.example/x").unwrap()), Ok(vec![Login::Helper("desktop".into())]));
        let error = logins("{\"auths\": {\"a.example\": {\"auth\": hunter2", &place("a.example").unwrap()).unwrap_err();
        assert!(!error.contains("hunter2") && error.contains("column"), "{error}");
        assert_eq!(
            helped(br#"{"ServerURL":"x","Username":"<token>","Secret":"s"}"#),
            Some(Credentials::IdentityToken("s".into()))
        );
        assert_eq!(helped(br#"{"ServerURL":"x","Username":"u","Secret":"s"}"#), Some(password("u:s")));
        assert_eq!(
            (
                helped(b"credentials not found"),
                format!("{:?}", helped(br#"{"Username":"u","Secret":"hunter2"}"#)).contains("hunter2")
            ),
            (None, false)
        );
    }
}
