//! Places whose URL depends on what is asked for: plain files behind an upstream's prefix, repositories of a registry.
//!
//! A table's key says what is served (`dl.k8s.io`, `docker.io`, `*` for everything without a key of its own), its list says
//! where, in order; what no key covers is `direct`.

use super::endpoint::{Endpoint, MirrorUrl, deserialize_text};
use super::expand::{Expand, Unexpanded, Variables};
use crate::tr;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// Everything without a key of its own.
const ANY: &str = "*";

/// Upstream prefix (`dl.k8s.io`, `nodejs.org/dist`) to URLs with `{path}`, which is what follows the prefix, and perhaps
/// `{host}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(with = "BTreeMap<String, Vec<String>>"))]
pub struct Files(BTreeMap<String, Vec<Endpoint>>);

/// Registry (`docker.io`) to `HOST/PATH/{repo}`, where `{repo}` is the repository, `{leaf}` its last element and
/// `{registry}` the registry. Kept as a URL; plain `http://` is for registries on this machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(with = "BTreeMap<String, Vec<String>>"))]
pub struct Oci(BTreeMap<String, Vec<Endpoint>>);

/// Where a repository of a registry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OciPlace {
    /// The registry itself.
    Direct,
    /// `{registry}/v2/{repository}/manifests/…`, `registry` without a slash at its end.
    Mirror { registry: MirrorUrl, repository: String },
}

impl Files {
    /// The places of `url` (`https://dl.k8s.io/v1/kubectl`), in order.
    pub fn places(&self, url: &str) -> Vec<Endpoint> {
        let upstream = url.split_once("://").map_or(url, |(_, rest)| rest);
        let below = |key: &str| upstream.strip_prefix(key)?.strip_prefix('/').map(str::to_owned);
        let longest =
            self.0.iter().filter_map(|(key, list)| Some((key.len(), below(key)?, list))).max_by_key(|it| it.0);
        let host = upstream.split('/').next().unwrap_or(upstream);
        let any = || Some((0, below(host)?, self.0.get(ANY)?));
        let Some((_, path, list)) = longest.or_else(any) else { return vec![Endpoint::Direct] };
        list.iter().filter_map(|endpoint| filled(endpoint, &[("{path}", &path), ("{host}", host)])).collect()
    }

    pub fn lists(&self) -> impl Iterator<Item = (&str, &[Endpoint])> {
        lists(&self.0)
    }
}

impl Oci {
    /// The places of `repository` (`library/debian`) of `registry` (`docker.io`), in order.
    pub fn places(&self, registry: &str, repository: &str) -> Vec<OciPlace> {
        let Some(list) = self.0.get(registry).or_else(|| self.0.get(ANY)) else { return vec![OciPlace::Direct] };
        let leaf = repository.rsplit('/').next().unwrap_or(repository);
        let holes = [("{repo}", repository), ("{leaf}", leaf), ("{registry}", registry)];
        let place = |endpoint: &Endpoint| {
            let Endpoint::Url(url) = filled(endpoint, &holes)? else { return Some(OciPlace::Direct) };
            let (registry, repository) = url.split_at_path();
            Some(OciPlace::Mirror { registry, repository })
        };
        list.iter().filter_map(place).collect()
    }

    pub fn lists(&self) -> impl Iterator<Item = (&str, &[Endpoint])> {
        lists(&self.0)
    }
}

/// Keeps of every list what `keep` says; a key whose list ends up empty is served by nobody.
pub(super) fn retain(files: &mut Files, oci: &mut Oci, keep: impl Fn(&Endpoint) -> bool) {
    files.0.values_mut().chain(oci.0.values_mut()).for_each(|list| list.retain(&keep));
}

fn lists(map: &BTreeMap<String, Vec<Endpoint>>) -> impl Iterator<Item = (&str, &[Endpoint])> {
    map.iter().map(|(key, list)| (key.as_str(), list.as_slice()))
}

fn filled(endpoint: &Endpoint, holes: &[(&str, &str)]) -> Option<Endpoint> {
    let Endpoint::Url(url) = endpoint else { return Some(Endpoint::Direct) };
    let text = holes.iter().fold(url.expose().to_owned(), |text, (hole, value)| text.replace(hole, value));
    MirrorUrl::parse(&text).ok().map(Endpoint::Url)
}

/// The endpoint that an entry of an `oci` list says: a reference without scheme is reached by https.
fn registry(text: String) -> Result<Endpoint, String> {
    let bare = !text.contains("://") && !text.starts_with("${") && text != "direct";
    let endpoint =
        Endpoint::try_from(if bare { format!("https://{text}") } else { text }).map_err(|it| it.to_string())?;
    match endpoint.url() {
        Some(url) if url.expose().starts_with("http://") && !url.is_loopback() => Err(tr!(
            "`{url}` is plain http, which is for registries on this machine; write `{bare}` for https",
            url,
            bare = url.masked().map(|url| url.trim_start_matches("http://").to_owned())
        )),
        _ => Ok(endpoint),
    }
}

/// Refuses a template without the hole that makes it one, and holes that nothing fills.
fn check(endpoint: &Endpoint, needed: &[&str], known: &[&str]) -> Result<(), String> {
    let Some(url) = endpoint.url() else { return Ok(()) };
    let text = url.expose();
    if url.is_sparse_index() || !needed.iter().any(|hole| text.contains(hole)) {
        return Err(tr!("`{url}` is no template: expected {needed} in it", url, needed = needed.join(" or ")));
    }
    let mut rest = text.replace("${", "");
    for hole in known {
        rest = rest.replace(hole, "");
    }
    match rest.split_once('{').map(|(_, rest)| rest.split('}').next().unwrap_or(rest)) {
        // The end of a variable is `}` alone.
        Some(unknown) => {
            Err(tr!("`{url}` holds `{{{unknown}}}`; known are {known}", url, unknown, known = known.join(", ")))
        }
        None => Ok(()),
    }
}

/// Entries as they are written: a mistake is found while its own line is read.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key(String);

struct FileEntry(Endpoint);

struct OciEntry(Endpoint);

deserialize_text!(Key, FileEntry, OciEntry);

impl TryFrom<String> for Key {
    type Error = String;
    fn try_from(key: String) -> Result<Self, String> {
        if key.contains("://") || key.contains(char::is_whitespace) || key.ends_with('/') || key.is_empty() {
            return Err(tr!(
                "`{key}` is no upstream: expected `HOST` or `HOST/PATH` without scheme and last slash, or `*`",
                key
            ));
        }
        Ok(Self(key))
    }
}

impl TryFrom<String> for FileEntry {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let endpoint = Endpoint::try_from(text).map_err(|it| it.to_string())?;
        check(&endpoint, &["{path}"], &["{path}", "{host}"])?;
        Ok(Self(endpoint))
    }
}

impl TryFrom<String> for OciEntry {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let endpoint = registry(text)?;
        check(&endpoint, &["{repo}", "{leaf}"], &["{repo}", "{leaf}", "{registry}"])?;
        Ok(Self(endpoint))
    }
}

impl<'de> Deserialize<'de> for Files {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = BTreeMap::<Key, Vec<FileEntry>>::deserialize(deserializer)?;
        Ok(Self(map.into_iter().map(|(key, list)| (key.0, list.into_iter().map(|it| it.0).collect())).collect()))
    }
}

impl<'de> Deserialize<'de> for Oci {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = BTreeMap::<Key, Vec<OciEntry>>::deserialize(deserializer)?;
        Ok(Self(map.into_iter().map(|(key, list)| (key.0, list.into_iter().map(|it| it.0).collect())).collect()))
    }
}

impl Expand for Files {
    fn expand(self, variables: &Variables) -> Result<Option<Self>, Unexpanded> {
        Ok(self.0.expand(variables)?.map(Self))
    }
}

impl Expand for Oci {
    fn expand(self, variables: &Variables) -> Result<Option<Self>, Unexpanded> {
        let again = |endpoint: Endpoint| -> Result<Option<Endpoint>, Unexpanded> {
            let Endpoint::Url(url) = endpoint else { return Ok(Some(endpoint)) };
            let text = super::expand::text(url.expose(), variables)?;
            registry(text).map(Some).map_err(Unexpanded::Text)
        };
        let list =
            |list: Vec<Endpoint>| list.into_iter().filter_map(|it| again(it).transpose()).collect::<Result<_, _>>();
        self.0.into_iter().map(|(key, it)| Ok((key, list(it)?))).collect::<Result<_, _>>().map(Self).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
            format!("{}: {}", line.unwrap_or(0), error.message())
        })
    }

    #[test]
    fn the_longest_prefix_of_whole_elements_decides_and_what_none_covers_is_direct() {
        let files: Files = read(
            "'a.b' = ['https://m/a/{path}', 'direct']\n'a.b/dist' = ['http://n/{path}?from={host}']\n'*' = ['https://o/{host}/{path}']",
        )
        .unwrap();
        let places = |url| -> Vec<String> {
            files.places(url).iter().map(|it| it.url().map_or("direct".into(), |url| url.expose().to_owned())).collect()
        };
        assert_eq!(places("https://a.b/x/y.tgz"), ["https://m/a/x/y.tgz", "direct"]);
        assert_eq!(places("https://a.b/dist/y.tgz"), ["http://n/y.tgz?from=a.b"]);
        assert_eq!(places("https://a.b/distant"), ["https://m/a/distant", "direct"]);
        assert_eq!(places("https://a.bc/x"), ["https://o/a.bc/x"]);
        assert_eq!(Files::default().places("https://a.b/x"), [Endpoint::Direct]);
    }

    #[test]
    fn a_registry_is_swapped_or_prefixed_and_its_api_stands_between_host_and_path() {
        let oci: Oci = read(
            "'docker.io' = ['d.example/{repo}', 'm.example/docker.io/{repo}', 'http://127.0.0.1:5000/k/{leaf}', 'direct']\n\
             '*' = ['${HARBOR}/{registry}/{repo}']",
        )
        .unwrap();
        let oci = oci.expand(&[("HARBOR".to_owned(), "u:p@harbor.example".to_owned())].into()).unwrap().unwrap();
        let places = |registry: &str| -> Vec<String> {
            let shown = |place| match place {
                OciPlace::Direct => "direct".to_owned(),
                OciPlace::Mirror { registry, repository } => format!("{registry} {repository}"),
            };
            oci.places(registry, "library/debian").into_iter().map(shown).collect()
        };
        assert_eq!(
            places("docker.io"),
            [
                "https://d.example library/debian",
                "https://m.example docker.io/library/debian",
                "http://127.0.0.1:5000 k/debian",
                "direct"
            ]
        );
        assert_eq!(places("ghcr.io"), ["https://****@harbor.example ghcr.io/library/debian"]);
    }

    #[test]
    fn a_mistake_is_named_at_its_own_line() {
        for (text, message) in [
            ("a = [\n'direct',\n'https://m/a']", "3: `https://m/a` is no template: expected {path} in it"),
            (
                "a = [\n'https://m/{path}/{file}']",
                "2: `https://m/{path}/{file}` holds `{file}`; known are {path}, {host}",
            ),
            ("'https://a' = []", "1: `https://a` is no upstream"),
        ] {
            let error = read::<Files>(text).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
        for (text, message) in [
            (
                "a = [\n'm/{repo}',\n'm/{path}']",
                "3: `https://m/{path}` is no template: expected {repo} or {leaf} in it",
            ),
            ("a = ['http://m.example/{repo}']", "1: `http://m.example/{repo}` is plain http"),
            ("a = ['m/${X/{repo}']", "1: "),
        ] {
            let error = read::<Oci>(text).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
