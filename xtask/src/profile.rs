//! Which crates endpoints the chosen mirror profile lists, for the one fetch that happens before the conductor exists.
//!
//! It never validates a profile as a whole: the conductor reads the same files with a real parser. A file that cannot be
//! read here declares nothing, and a failure that this may have caused names it.

use crate::arguments::Request;
use crate::failure::{self, Failure};
use crate::toml::{self, Document, Value};
use crate::tr;
use std::collections::BTreeSet;
use std::env;
use std::fmt;
use std::fs;
use std::path::Path;

const LOCAL: &str = "xtask.local.toml";
const BUILT_IN: &str = include_str!("../crates/conductor/src/mirror/builtin.toml");

/// A place that serves crates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Whatever cargo does when nobody tells it anything.
    Direct,
    /// `sparse+https://…/`.
    Registry(String),
}

impl Endpoint {
    fn read(text: &str) -> Option<Self> {
        if text == "direct" {
            return Some(Self::Direct);
        }
        let address = text.strip_prefix("sparse+")?;
        let host = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://"))?;
        // It becomes a TOML string in an argument: no quote or escape may end that string early.
        let plain = !text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\\'));
        (plain && host.ends_with('/') && !host.starts_with('/')).then(|| Self::Registry(text.to_owned()))
    }

    /// Without port; `direct` is known to cargo alone.
    pub fn host(&self) -> Option<String> {
        let authority = self.authority()?;
        Some(authority.rsplit_once(':').map_or(&*authority, |(host, _)| host).to_owned())
    }

    /// `host:port` without credentials.
    pub fn authority(&self) -> Option<String> {
        let Self::Registry(url) = self else { return None };
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.split('/').next()?;
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.chars().all(|c| c.is_ascii_digit()));
        let port = if scheme.ends_with("https") { 443 } else { 80 };
        Some(if has_port { host.to_owned() } else { format!("{host}:{port}") })
    }
}

/// Without credentials: this goes to screens and logs.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Registry(url) = self else { return f.write_str("direct") };
        let Some((scheme, rest)) = url.split_once("://") else { return f.write_str(url) };
        // Also where a password holds a `/`, and in a query.
        let (user, place) = rest.rsplit_once('@').map_or(("", rest), |(_, place)| ("****@", place));
        let shown = place.split(['?', '#']).next().unwrap_or(place);
        let query = if shown.len() < place.len() { "?…" } else { "" };
        write!(f, "{scheme}://{user}{shown}{query}")
    }
}

/// Where to look for crates, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice {
    /// Nobody chose a profile: cargo as it is. `known` are the endpoints of all profiles, in case an earlier run through
    /// one of them already brought everything.
    Plain {
        known: Vec<Endpoint>,
        contacts: bool,
    },
    Profile {
        name: String,
        endpoints: Vec<Endpoint>,
        reach: Reach,
    },
}

/// How the endpoints of a profile are reached.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reach {
    pub proxy: Option<String>,
    /// Hosts that are reached without the proxy.
    pub no_proxy: Vec<String>,
    /// A PEM file, trusted besides the machine's own authorities.
    pub ca_bundle: Option<String>,
    /// `mirrors-only`: nobody else is contacted. `host`, for its usual port, or `host:port`.
    pub only: Option<BTreeSet<String>>,
}

pub struct Profiles {
    /// Looks `${NAME}` up.
    variable: fn(&str) -> Option<String>,
    /// The strongest first.
    layers: Vec<Layer>,
    /// `FILE:LINE`.
    unreadable: Vec<String>,
}

struct Layer {
    file: String,
    document: Document,
}

impl Profiles {
    pub fn of(checkout: &Path) -> Self {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let mut it = Self { variable, layers: Vec::new(), unreadable: Vec::new() };
        for file in [LOCAL, "xtask.toml"] {
            if let Ok(text) = fs::read_to_string(checkout.join(file)) {
                it.add(file, &text);
            }
        }
        it.add(&tr!("the built-in profiles"), BUILT_IN);
        it
    }

    fn add(&mut self, file: &str, text: &str) {
        match toml::read(text) {
            Ok(document) => self.layers.push(Layer { file: file.to_owned(), document }),
            Err(line) => self.unreadable.push(format!("{file}:{line}")),
        }
    }

    /// # Errors
    /// Configuration: no such profile, or its list is not one of crates endpoints.
    pub fn choose(&self, request: &Request) -> Result<Choice, Failure> {
        let chosen = request.mirror.clone().or_else(|| self.selected());
        let name = chosen.as_deref().unwrap_or("off");
        let asked = request.egress.as_deref().or_else(|| self.local("egress").and_then(Value::text));
        if matches!(name, "off" | "direct") || asked == Some("direct") {
            let known = if chosen.is_none() { self.all_endpoints() } else { Vec::new() };
            return Ok(Choice::Plain { known, contacts: asked != Some("mirrors-only") });
        }
        let mut endpoints = match name {
            "auto" => [vec![Endpoint::Direct], self.all_endpoints()].concat(),
            _ if self.names().contains(&name) => self.endpoints(name)?,
            _ => return Err(self.unknown(name)),
        };
        let egress = asked.or_else(|| self.text(&["mirror", name, "egress"]));
        match egress {
            Some("mirrors-only") => endpoints.retain(|endpoint| *endpoint != Endpoint::Direct),
            Some("direct") => endpoints = vec![Endpoint::Direct],
            _ => {}
        }
        if endpoints.is_empty() {
            let message = tr!("mirror `{name}` leaves no endpoint to fetch crates from", name);
            let hint =
                tr!("add `list = [\"sparse+https://…/\"]` under [mirror.{name}.crates] in xtask.local.toml", name);
            return Err(Failure::new(failure::CONFIGURATION, message).hint(hint));
        }
        let only = if egress == Some("mirrors-only") { Some(self.hosts(name, &endpoints)?) } else { None };
        let reach = Reach {
            only,
            proxy: self.said(name, "proxy")?.pop(),
            no_proxy: self.said(name, "no_proxy")?,
            ca_bundle: self.said(name, "ca_bundle")?.pop(),
        };
        Ok(Choice::Profile { name: name.to_owned(), endpoints, reach })
    }

    /// Hosts of these endpoints, and those that the profile says they lead to.
    fn hosts(&self, name: &str, endpoints: &[Endpoint]) -> Result<BTreeSet<String>, Failure> {
        let profiles = if name == "auto" { self.names() } else { vec![name] };
        let mut hosts: Vec<String> = endpoints.iter().filter_map(Endpoint::authority).collect();
        for profile in profiles {
            match self.said(profile, "hosts") {
                // A profile that nobody chose need not be usable.
                Err(_) if name == "auto" => {}
                said => hosts.extend(said?),
            }
        }
        Ok(hosts.iter().map(|host| host.to_lowercase()).collect())
    }

    /// The text or texts that the strongest layer has under a key of a profile, with their variables put in.
    fn said(&self, name: &str, key: &str) -> Result<Vec<String>, Failure> {
        let found = self.layers.iter().find_map(|layer| Some((layer, layer.document.get(&["mirror", name, key])?)));
        let Some((layer, value)) = found else { return Ok(Vec::new()) };
        let texts = match value {
            Value::List(list) => list.iter().filter_map(Value::text).collect(),
            value => Vec::from_iter(value.text()),
        };
        let put_in = texts.into_iter().map(|text| self.put_in(text, name, key, layer));
        put_in.filter(|text| text.as_ref().map_or(true, |text| !text.is_empty())).collect()
    }

    /// `${NAME}` and `${NAME:-text}`, as the conductor reads them.
    fn put_in(&self, text: &str, name: &str, key: &str, layer: &Layer) -> Result<String, Failure> {
        let place = || tr!("`{key}` of mirror `{name}` ({file})", key, name, file = layer.file);
        let mut parts = text.split("${");
        let mut whole = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let Some((inner, rest)) = part.split_once('}') else {
                let message = tr!("{place} holds a `${{` without its `}}`", place = place());
                return Err(Failure::new(failure::CONFIGURATION, message));
            };
            let (variable, otherwise) = inner.split_once(":-").map_or((inner, None), |(name, text)| (name, Some(text)));
            let value = (self.variable)(variable).or(otherwise.map(str::to_owned)).ok_or_else(|| {
                Failure::new(failure::CONFIGURATION, tr!("{place} has no value here", place = place()))
                    .because(tr!("`{name}` is not set", name = variable))
                    .hint(tr!(
                        "export {variable}=…, or say [mirror.{name}] {key} in xtask.local.toml without it",
                        variable,
                        name,
                        key
                    ))
            })?;
            whole = whole + &value + rest;
        }
        Ok(whole)
    }

    /// `mirror.use = "NAME"`; `mirror = "NAME"` says the same in a file that declares no profile.
    fn selected(&self) -> Option<String> {
        self.layers.iter().find_map(|layer| {
            let value = layer.document.get(&["mirror", "use"]).or_else(|| layer.document.get(&["mirror"]));
            value.and_then(Value::text).map(str::to_owned)
        })
    }

    /// Whether nothing may be contacted.
    pub fn offline(&self, request: &Request) -> bool {
        request.offline.unwrap_or_else(|| self.local("offline") == Some(&Value::Flag(true)))
    }

    /// A setting of this checkout's user.
    fn local(&self, key: &str) -> Option<&Value> {
        self.layers.iter().find(|layer| layer.file == LOCAL)?.document.get(&[key])
    }

    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .layers
            .iter()
            .flat_map(|layer| layer.document.names_below(&["mirror"]))
            .filter(|&name| name != "use")
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn text(&self, path: &[&str]) -> Option<&str> {
        self.layers.iter().find_map(|layer| layer.document.get(path)).and_then(Value::text)
    }

    /// The strongest layer's table counts whole. A profile without one leaves cargo alone.
    fn endpoints(&self, name: &str) -> Result<Vec<Endpoint>, Failure> {
        let table = ["mirror", name, "crates"];
        let Some(layer) = self.layers.iter().find(|layer| !layer.document.names_below(&table).is_empty()) else {
            return Ok(vec![Endpoint::Direct]);
        };
        let list = match layer.document.get(&["mirror", name, "crates", "list"]) {
            Some(Value::List(list)) => list.as_slice(),
            Some(_) => &[Value::Other],
            None => &[],
        };
        let texts = list.iter().map(|value| self.put_in(value.text().unwrap_or_default(), name, "crates", layer));
        let texts = texts.collect::<Result<Vec<_>, _>>()?;
        texts.iter().map(|text| Endpoint::read(text)).collect::<Option<_>>().ok_or_else(|| {
            let message =
                tr!("`mirror.{name}.crates.list` in {file} is not a list of crates endpoints", name, file = layer.file);
            Failure::new(failure::CONFIGURATION, message)
                .hint(tr!("an endpoint is \"sparse+https://HOST/PATH/\" with its last slash, or \"direct\""))
        })
    }

    fn all_endpoints(&self) -> Vec<Endpoint> {
        let mut all: Vec<Endpoint> = Vec::new();
        for endpoint in self.names().iter().filter_map(|name| self.endpoints(name).ok()).flatten() {
            if endpoint != Endpoint::Direct && !all.contains(&endpoint) {
                all.push(endpoint);
            }
        }
        all
    }

    fn unknown(&self, name: &str) -> Failure {
        let mut failure = Failure::new(failure::CONFIGURATION, tr!("there is no mirror profile `{name}`", name));
        for place in &self.unreadable {
            failure =
                failure.because(tr!("{place} cannot be read as TOML, so profiles declared there are unknown", place));
        }
        failure.hint(tr!("known profiles: {names}; `off` uses none", names = self.names().join(", ")))
    }
}

impl Value {
    fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profiles(local: &str, tracked: &str) -> Profiles {
        let variable = |name: &str| (name == "LAB_HOST").then(|| "u:secret@lab.example".to_owned());
        let mut it = Profiles { variable, layers: Vec::new(), unreadable: Vec::new() };
        it.add(LOCAL, local);
        it.add("xtask.toml", tracked);
        it.add("the built-in profiles", BUILT_IN);
        it
    }

    fn choose(profiles: &Profiles, mirror: Option<&str>, egress: Option<&str>) -> Result<(String, String), String> {
        let request = Request { mirror: mirror.map(Into::into), egress: egress.map(Into::into), ..Request::default() };
        match profiles.choose(&request) {
            Ok(Choice::Plain { contacts, .. }) => Ok(("plain".into(), contacts.to_string())),
            Ok(Choice::Profile { name, endpoints, .. }) => {
                Ok((name, endpoints.iter().map(Endpoint::to_string).collect::<Vec<_>>().join(" ")))
            }
            Err(failure) => Err(failure.to_string()),
        }
    }

    #[test]
    fn an_endpoint_is_shown_without_what_may_be_a_secret() {
        for (url, shown) in [
            ("sparse+https://corp/index/", "sparse+https://corp/index/"),
            ("sparse+https://u:hunter/2@corp/index/", "sparse+https://****@corp/index/"),
            ("sparse+https://u:p@corp/index/?token=hunter2/", "sparse+https://****@corp/index/?…"),
        ] {
            assert_eq!(Endpoint::Registry(url.to_owned()).to_string(), shown);
        }
    }

    #[test]
    fn the_flag_wins_over_the_local_file_and_that_over_the_tracked_one() {
        let lab = "[mirror.lab.crates]\nlist = ['sparse+http://u:secret@127.0.0.1:1/', 'direct']\n";
        let profiles = profiles("mirror = 'off'", &format!("mirror.use = 'cn'\n{lab}"));
        let ok = |name: &str, list: &str| Ok((name.to_owned(), list.to_owned()));
        assert_eq!(choose(&profiles, None, None), ok("plain", "true"));
        assert_eq!(choose(&profiles, Some("lab"), None), ok("lab", "sparse+http://****@127.0.0.1:1/ direct"));
        assert_eq!(choose(&profiles, Some("lab"), Some("mirrors-only")), ok("lab", "sparse+http://****@127.0.0.1:1/"));
        assert_eq!(choose(&profiles, Some("off"), Some("mirrors-only")), ok("plain", "false"));
        let closed = self::profiles(&format!("egress = 'mirrors-only'\noffline = true\n{lab}"), "offline = true");
        assert_eq!(choose(&closed, Some("lab"), None), ok("lab", "sparse+http://****@127.0.0.1:1/"));
        assert!(closed.offline(&Request::default()) && !profiles.offline(&Request::default()));
        let tracked_only = self::profiles("", "mirror.use = 'lab'\n[mirror.lab]\negress = 'prefer-mirrors'");
        assert_eq!(choose(&tracked_only, None, None), ok("lab", "direct"));
    }

    #[test]
    fn the_built_in_profile_can_be_read_and_a_layer_replaces_its_table_whole() {
        let (name, built_in) = choose(&profiles("", ""), Some("cn"), None).unwrap();
        assert!(
            name == "cn" && built_in.starts_with("sparse+https://") && built_in.ends_with("/ direct"),
            "{built_in}"
        );
        let replaced =
            profiles("[mirror.cn.crates]\nlist = ['sparse+https://a/']", "[mirror.cn.go]\nproxy = ['direct']");
        assert_eq!(choose(&replaced, Some("cn"), None).unwrap().1, "sparse+https://a/");
    }

    #[test]
    fn a_name_nobody_declared_is_answered_with_those_that_are() {
        let answer = choose(&profiles("mirror = ", "[mirror.lab]"), Some("cm"), None).unwrap_err();
        assert_eq!(
            answer,
            "error: there is no mirror profile `cm`\n  caused by: xtask.local.toml:1 cannot be read as TOML, so profiles \
             declared there are unknown\nhint: known profiles: cn, corporate, direct, lab; `off` uses none"
        );
        for wrong in ["'https://a/'", "'sparse+https://a'", "'sparse+ftp://a/'", "1", "'sparse+https://a\"b/'"] {
            let profiles = profiles(&format!("[mirror.lab.crates]\nlist = [{wrong}]"), "");
            assert!(
                choose(&profiles, Some("lab"), None).unwrap_err().contains("not a list of crates endpoints"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn variables_are_put_in_and_an_unset_one_names_profile_and_file() {
        let lab = "[mirror.lab]\nproxy = 'http://${LAB_HOST}:3128'\nca_bundle = '${NOBODY:-}'\nno_proxy = ['.lab', '${NOBODY:-}']\n\
                   [mirror.lab.crates]\nlist = ['sparse+https://${LAB_HOST}/index/']";
        let request = Request { mirror: Some("lab".into()), ..Request::default() };
        let Ok(Choice::Profile { endpoints, reach, .. }) = profiles(lab, "").choose(&request) else { panic!() };
        assert_eq!(endpoints, [Endpoint::Registry("sparse+https://u:secret@lab.example/index/".into())]);
        let proxy = Some("http://u:secret@lab.example:3128".to_owned());
        assert_eq!(reach, Reach { proxy, no_proxy: vec![".lab".into()], ca_bundle: None, only: None });

        let unset = choose(&profiles("", ""), Some("corporate"), None).unwrap_err();
        assert!(unset.contains("`crates` of mirror `corporate` (the built-in profiles) has no value here"), "{unset}");
        assert!(unset.contains("`XTASK_CORP_HOST` is not set"), "{unset}");
        let all = choose(&profiles("", ""), Some("auto"), None).unwrap().1;
        assert!(all.starts_with("direct sparse+") && !all.contains("${"), "{all}");
    }

    #[test]
    fn the_authority_has_a_port_and_no_credentials() {
        for (url, authority) in [
            ("sparse+https://a.b/index/", "a.b:443"),
            ("sparse+http://u:p@a:8080/", "a:8080"),
            ("sparse+http://[::1]/", "[::1]:80"),
        ] {
            assert_eq!(Endpoint::Registry(url.into()).authority().as_deref(), Some(authority));
        }
    }
}
