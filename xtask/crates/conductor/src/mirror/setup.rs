//! What the gateway is told of a profile: who may be asked for what, in which order, and with which credentials.
//!
//! Without a profile every list is the tool's own default. Never: a variable or a file; they come in as values.

use super::direct::{Defaults, Known};
use super::endpoint::{Endpoint, MirrorUrl, UrlPair};
use super::profile::{ChecksumDatabase, Ecosystem, Egress, Fallthrough, Profile};
use super::template::OciPlace;
use crate::error::Result;
use protocol::{Credentials, Private, Upstream};
use std::collections::{BTreeMap, BTreeSet};

const DIRECT: &str = "direct";

/// The parts of a [`protocol::Setup`] that a profile decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Places {
    pub upstreams: BTreeMap<protocol::Ecosystem, Vec<Upstream>>,
    pub only_after_absence: BTreeSet<protocol::Ecosystem>,
    pub databases: Vec<Upstream>,
    pub registries: BTreeMap<String, Vec<Upstream>>,
    pub files: BTreeMap<String, Vec<Upstream>>,
    pub private: BTreeMap<protocol::Ecosystem, Vec<Private>>,
    pub allowed_hosts: Option<BTreeSet<String>>,
}

/// The ecosystems whose default is needed to fill the lists.
pub fn defaults_needed(profile: Option<&Profile>) -> BTreeSet<Ecosystem> {
    let lists = LISTS
        .iter()
        .map(|(ecosystem, list)| (*ecosystem, profile.is_none_or(|it| list(it).contains(&Endpoint::Direct))));
    let pairs = PAIRS
        .iter()
        .map(|(ecosystem, list)| (*ecosystem, profile.is_none_or(|it| list(it).contains(&UrlPair::Direct))));
    lists.chain(pairs).filter_map(|(ecosystem, needed)| needed.then_some(ecosystem)).collect()
}

type List = fn(&Profile) -> &[Endpoint];
type Pairs = fn(&Profile) -> &[UrlPair];

const LISTS: [(Ecosystem, List); 5] = [
    (Ecosystem::Crates, |profile| &profile.crates.list),
    (Ecosystem::Go, |profile| &profile.go.proxy),
    (Ecosystem::Python, |profile| &profile.python.list),
    (Ecosystem::Hub, |profile| &profile.hub.endpoints),
    (Ecosystem::Npm, |profile| &profile.npm.list),
];
const PAIRS: [(Ecosystem, Pairs); 2] =
    [(Ecosystem::Rustup, |profile| &profile.rustup.list), (Ecosystem::Apt, |profile| &profile.apt.list)];

/// `hub_token` goes to the hub's own default, and to mirrors whose profile says so.
pub fn places(profile: Option<&Profile>, defaults: &Defaults, hub_token: Option<&str>) -> Places {
    let mut places = Places::default();
    let by = profile.map_or_else(|| "direct".to_owned(), |profile| format!("mirror {}", profile.name));
    for (ecosystem, list) in LISTS {
        let endpoints = profile.map_or(&[Endpoint::Direct][..], list);
        let mut found = Vec::new();
        for endpoint in endpoints {
            match endpoint {
                Endpoint::Url(url) => found.push(upstream(url, &by)),
                Endpoint::Direct => {
                    found.extend(defaults.get(&ecosystem).into_iter().flat_map(direct));
                }
            }
        }
        if let (Ecosystem::Hub, Some(token)) = (ecosystem, hub_token) {
            let welcome = |upstream: &Upstream| upstream.origin != by || profile.is_none_or(|it| it.hub.send_token);
            for upstream in found.iter_mut().filter(|it| it.authorization.is_none() && welcome(it)) {
                upstream.authorization = Some(format!("Bearer {token}"));
            }
        }
        insert(&mut places.upstreams, ecosystem, found, &by);
    }
    for (ecosystem, list) in PAIRS {
        let pairs = profile.map_or(&[UrlPair::Direct][..], list);
        let pair = |first: &MirrorUrl, second: &MirrorUrl, origin: &str| Upstream {
            second: Some(second.without_credentials()),
            second_authorization: second.expose_authorization(),
            ..upstream(first, origin)
        };
        let found = pairs.iter().filter_map(|it| match it {
            UrlPair::Urls(first, second) => Some(pair(first, second, &by)),
            UrlPair::Direct => {
                let known = defaults.get(&ecosystem)?;
                let (first, second) = known.pair()?;
                Some(pair(&first, &second, &origin_of(known)))
            }
        });
        insert(&mut places.upstreams, ecosystem, found.collect(), &by);
    }
    let Some(profile) = profile else {
        places.databases.extend(defaults.get(&Ecosystem::Go).and_then(default_database));
        return places;
    };
    if profile.go.fallthrough == Fallthrough::NotFound {
        places.only_after_absence.insert(protocol::Ecosystem::Go);
    }
    for database in &profile.go.sumdb {
        match database {
            ChecksumDatabase::Name(name) => places.databases.extend(self::database(name, &by)),
            ChecksumDatabase::Proxy if profile.go.proxy.contains(&Endpoint::Direct) => {
                places.databases.extend(defaults.get(&Ecosystem::Go).and_then(default_database));
            }
            ChecksumDatabase::Proxy => {}
        }
    }
    for (registry, list) in profile.oci.lists() {
        let found = list.iter().filter_map(|it| match it {
            Endpoint::Url(url) => {
                let (host, repository) = url.split_at_path();
                let url = format!("{}/v2/{repository}", host.without_credentials());
                Some(Upstream { url, ..upstream(&host, &by) })
            }
            Endpoint::Direct if registry.contains('.') => {
                let url = format!("https://{registry}/v2/{{repo}}");
                Some(Upstream {
                    url,
                    second: None,
                    last_resort: false,
                    origin: DIRECT.to_owned(),
                    authorization: None,
                    second_authorization: None,
                    login: None,
                })
            }
            Endpoint::Direct => None,
        });
        places.registries.insert(registry.to_owned(), found.collect());
    }
    for (prefix, list) in profile.files.lists() {
        let found = list.iter().filter_map(|it| it.url().map(|url| upstream(url, &by)));
        places.files.insert(prefix.to_owned(), found.collect());
    }
    for (ecosystem, _) in LISTS {
        let private = profile.private_names(ecosystem).iter().map(|it| Private {
            names: it.names.iter().map(|name| name.as_str().to_owned()).collect(),
            upstreams: it.list.iter().map(|url| upstream(url, &by)).collect(),
        });
        let private: Vec<Private> = private.collect();
        if let (Some(ecosystem), false) = (ecosystem.protocol(), private.is_empty()) {
            places.private.insert(ecosystem, private);
        }
    }
    places.allowed_hosts = (profile.egress == Egress::MirrorsOnly).then(|| profile.allowed_hosts(defaults));
    places
}

/// Where a base of images is pulled from, a URL for its repository each. `registry`: its own origin, with who we are there.
pub fn base_places(
    profile: Option<&Profile>,
    host: &str,
    repository: &str,
    registry: &str,
    login: impl FnOnce() -> Result<Option<Credentials>>,
) -> Result<Vec<Upstream>> {
    let by = profile.map_or_else(|| DIRECT.to_owned(), |profile| format!("mirror {}", profile.name));
    let places = profile.map_or_else(|| vec![OciPlace::Direct], |profile| profile.oci_places(host, repository));
    let direct = match places.contains(&OciPlace::Direct) {
        false => None,
        true => Some(Upstream {
            url: format!("{registry}/v2/{repository}"),
            second: None,
            last_resort: false,
            origin: DIRECT.to_owned(),
            authorization: None,
            second_authorization: None,
            login: login()?,
        }),
    };
    let mut found = Vec::new();
    for place in places {
        match place {
            OciPlace::Mirror { registry, repository } => {
                let url = format!("{}/v2/{repository}", registry.without_credentials());
                found.push(Upstream { url, ..upstream(&registry, &by) });
            }
            OciPlace::Direct => {
                let last_resort = found.iter().any(|it| it.origin == by);
                found.extend(direct.clone().map(|direct| Upstream { last_resort, ..direct }));
            }
        }
    }
    Ok(found)
}

/// `mirrors`: how the places of the profile itself are called. What stands behind the last of them is the last resort.
fn insert(
    map: &mut BTreeMap<protocol::Ecosystem, Vec<Upstream>>,
    ecosystem: Ecosystem,
    mut found: Vec<Upstream>,
    mirrors: &str,
) {
    if let Some(last) = found.iter().rposition(|upstream| upstream.origin == mirrors) {
        found[last + 1..].iter_mut().for_each(|upstream| upstream.last_resort = true);
    }
    if let (Some(ecosystem), false) = (ecosystem.protocol(), found.is_empty()) {
        map.insert(ecosystem, found);
    }
}

fn upstream(url: &MirrorUrl, origin: &str) -> Upstream {
    Upstream {
        // `sparse+` is cargo's word for a protocol, which the gateway knows by the ecosystem.
        url: url.without_credentials().trim_start_matches("sparse+").to_owned(),
        second: None,
        last_resort: false,
        origin: origin.to_owned(),
        authorization: url.expose_authorization(),
        second_authorization: None,
        login: None,
    }
}

fn direct(known: &Known) -> Vec<Upstream> {
    known.urls().iter().map(|url| upstream(url, &origin_of(known))).collect()
}

fn origin_of(known: &Known) -> String {
    format!("direct ({})", known.origin)
}

fn default_database(known: &Known) -> Option<Upstream> {
    database(known.second.as_ref()?.expose(), &origin_of(known))
}

/// `NAME`, `NAME+KEY` or `NAME+KEY URL`: the URL, else the name, which is a host by Go's convention.
fn database(text: &str, origin: &str) -> Option<Upstream> {
    let (name, url) = text.split_once(' ').unwrap_or((text, ""));
    let host = || format!("https://{}", name.split('+').next().unwrap_or(name));
    let url = if url.is_empty() { host() } else { url.to_owned() };
    Some(upstream(&MirrorUrl::parse(&url).ok()?, origin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::{Layer, Profiles, Section};

    #[test]
    fn each_url_of_a_pair_keeps_its_own_credentials() {
        let lab = "[lab.rustup]\nlist = [['https://u:p@dist/', 'https://update/']]\n\
                   [lab.apt]\nlist = [['http://base/', 'http://u:p@security/']]\n";
        let section: Section = toml::from_str(lab).unwrap();
        let layer = Layer { origin: "xtask.toml".into(), section };
        let profile = Profiles::new(vec![layer], Default::default()).unwrap().resolve("lab", None).unwrap();
        let places = places(Some(&profile), &Defaults::default(), None);
        let secrets = |ecosystem| {
            let upstream = &places.upstreams[&ecosystem][0];
            assert!(!format!("{}{:?}", upstream.url, upstream.second).contains("u:p"), "{upstream:?}");
            (upstream.authorization.is_some(), upstream.second_authorization.is_some())
        };
        assert_eq!(secrets(protocol::Ecosystem::Rustup), (true, false));
        assert_eq!(secrets(protocol::Ecosystem::Apt), (false, true));
    }
}
