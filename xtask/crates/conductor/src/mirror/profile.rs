//! The `[mirror.NAME.ECOSYSTEM]` tables, their layers, and the profile they resolve to.
//!
//! A stronger layer replaces an ecosystem's table whole, so that nobody has to know a weaker list to change it. An
//! ecosystem without a table is `direct`; what is said of a whole profile (`proxy`, `hosts`) is replaced key by key. `${NAME}`
//! is put in when a profile is chosen. Nothing here knows a variable of any tool. Rules: `[mirror]` in `xtask.toml`.

use super::direct::Defaults;
use super::endpoint::{Endpoint, MirrorUrl, UrlPair, deserialize_text};
use super::expand::{self, Expand, Unexpanded, Variables};
use super::names::Private;
use super::template::{self, Files, Oci, OciPlace};
use crate::tr;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

const BUILT_IN: &str = include_str!("builtin.toml");

/// Names with a meaning of their own where a profile's name is expected.
const RESERVED: [&str; 2] = [AUTO, "off"];
/// The profile made of all others.
pub const AUTO: &str = "auto";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Ecosystem {
    Rustup,
    Crates,
    Go,
    Python,
    Hub,
    Npm,
    Apt,
    Files,
    Oci,
    Git,
}

impl Ecosystem {
    /// Its name towards the gateway; `None`: the gateway does not speak it.
    pub fn protocol(self) -> Option<protocol::Ecosystem> {
        Some(match self {
            Self::Rustup => protocol::Ecosystem::Rustup,
            Self::Crates => protocol::Ecosystem::Crates,
            Self::Go => protocol::Ecosystem::Go,
            Self::Python => protocol::Ecosystem::Python,
            Self::Hub => protocol::Ecosystem::Hub,
            Self::Npm => protocol::Ecosystem::Npm,
            Self::Apt => protocol::Ecosystem::Apt,
            Self::Files => protocol::Ecosystem::File,
            Self::Oci => protocol::Ecosystem::Oci,
            Self::Git => return None,
        })
    }
}

/// How far a profile may be left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Egress {
    /// The lists as they stand.
    #[default]
    PreferMirrors,
    /// `direct` entries do not exist: nothing outside the profile is contacted.
    MirrorsOnly,
    /// Only `direct` exists.
    Direct,
}

/// The `mirror` key of one file: `mirror.use = "NAME"` (or short `mirror = "NAME"`) and the profiles it declares.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    pub selected: Option<String>,
    pub profiles: BTreeMap<String, ProfileTable>,
}

impl<'de> Deserialize<'de> for Section {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Key;
        impl<'de> Visitor<'de> for Key {
            type Value = Section;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&tr!("the name of a mirror profile, or `[mirror.NAME.ECOSYSTEM]` tables"))
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Section, E> {
                Ok(Section { selected: Some(name.to_owned()), profiles: BTreeMap::new() })
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Section, A::Error> {
                let mut section = Section::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "use" {
                        section.selected = Some(map.next_value()?);
                    } else if RESERVED.contains(&name.as_str()) {
                        map.next_value::<IgnoredAny>()?;
                        return Err(A::Error::custom(tr!("`{name}` cannot be the name of a mirror profile", name)));
                    } else {
                        section.profiles.insert(name, map.next_value()?);
                    }
                }
                Ok(section)
            }
        }
        deserializer.deserialize_any(Key)
    }
}

#[cfg(test)]
impl schemars::JsonSchema for Section {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MirrorSection".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let profile = generator.subschema_for::<ProfileTable>();
        schemars::json_schema!({
            "description": "The name of a mirror profile, or profiles as `[mirror.NAME.ECOSYSTEM]` tables.",
            "anyOf": [
                { "type": "string" },
                { "type": "object", "properties": { "use": { "type": "string" } }, "additionalProperties": profile },
            ],
        })
    }
}

/// `[mirror.NAME]` as one file declares it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ProfileTable {
    pub egress: Option<Egress>,
    /// `2026-11`: when the places were last looked up.
    #[serde(default, deserialize_with = "date")]
    pub as_of: Option<String>,
    /// Where the places of an ecosystem come from, as text for people.
    pub provenance: Option<BTreeMap<Ecosystem, String>>,
    /// A PEM file, added to the trust of everything that this profile reaches; relative to the checkout.
    pub ca_bundle: Option<String>,
    /// The HTTP proxy that everything goes through.
    #[serde(default, deserialize_with = "proxy")]
    pub proxy: Option<MirrorUrl>,
    /// Hosts and `.domains` that are reached without the proxy.
    #[serde(default, deserialize_with = "no_proxy")]
    pub no_proxy: Option<Vec<String>>,
    /// Further hosts that the endpoints lead to: download hosts, CDNs.
    pub hosts: Option<Vec<Host>>,
    pub rustup: Option<Rustup>,
    pub crates: Option<Crates>,
    pub go: Option<Go>,
    pub python: Option<Python>,
    pub hub: Option<Hub>,
    pub npm: Option<Npm>,
    pub apt: Option<Apt>,
    /// Upstream prefix (`dl.k8s.io`) to URL templates with `{path}`.
    pub files: Option<Files>,
    /// Registry (`docker.io`) to reference templates with `{repo}` or `{leaf}`.
    pub oci: Option<Oci>,
    pub git: Option<Git>,
}

/// `NAME` or `NAME:PORT`, without scheme and path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(with = "String"))]
pub struct Host(String);

deserialize_text!(Host);

impl TryFrom<String> for Host {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let plausible = expand::plausible(&text).map_err(|wrong| wrong.to_string())?;
        let plausible = plausible.trim_start_matches("https://");
        let (name, port) = plausible.split_once(':').unwrap_or((plausible, "443"));
        let named = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'));
        if !named || port.parse::<u16>().is_err() {
            let text = text.rsplit_once('@').map_or(text.clone(), |(_, host)| format!("****@{host}"));
            return Err(tr!("`{text}` is no host: expected `NAME` or `NAME:PORT`, without scheme and path", text));
        }
        Ok(Self(text))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Expand for Host {
    fn expand(self, variables: &Variables) -> Result<Option<Self>, Unexpanded> {
        let Some(text) = self.0.expand(variables)? else { return Ok(None) };
        Self::try_from(text).map(Some).map_err(Unexpanded::Text)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Rustup {
    /// Pairs of `RUSTUP_DIST_SERVER` and `RUSTUP_UPDATE_ROOT`.
    pub list: Vec<UrlPair>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Crates {
    /// Sparse indexes, `sparse+https://…/`.
    #[serde(deserialize_with = "sparse_indexes")]
    pub list: Vec<Endpoint>,
    /// Mirrors of the index whose files come from cargo's default download host.
    #[serde(default, deserialize_with = "sparse_indexes", skip_serializing_if = "Vec::is_empty")]
    pub index_only: Vec<Endpoint>,
    /// Names that are asked of their own places only, never of `list`.
    #[serde(default, deserialize_with = "private_crates", skip_serializing_if = "Vec::is_empty")]
    pub private: Vec<Private>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Go {
    #[serde(deserialize_with = "plain_urls")]
    pub proxy: Vec<Endpoint>,
    #[serde(default = "through_the_proxy")]
    pub sumdb: Vec<ChecksumDatabase>,
    #[serde(default)]
    pub fallthrough: Fallthrough,
    /// Names that are asked of their own places only, never of `proxy`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private: Vec<Private>,
}

/// When the next proxy of the list is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Fallthrough {
    /// Go's `|`. Right for public mirrors, which are equivalent: one that is down or blocked must not stop a build.
    #[default]
    AnyError,
    /// Go's `,`: 404 and 410 only. Right for a list that begins with a private proxy: when it refuses or is down, the
    /// names of private modules must not be asked of a public one.
    NotFound,
}

/// Which checksum database Go asks. There is no `off`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(with = "String"))]
pub enum ChecksumDatabase {
    /// Go's default database, through the first proxy that serves it.
    Proxy,
    /// A value of `GOSUMDB`: `sum.golang.google.cn`, `NAME+KEY URL`.
    Name(String),
}

impl TryFrom<String> for ChecksumDatabase {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "proxy" => Ok(Self::Proxy),
            "off" | "" => Err(tr!(
                "the checksum database cannot be switched off: it is what makes a mirror safe; use \"proxy\" or a database's name"
            )),
            // It is printed, and given to Go as it is.
            _ if text.contains('@') => Err(tr!("the URL of a checksum database holds no user or password")),
            _ => Ok(Self::Name(text)),
        }
    }
}

impl From<ChecksumDatabase> for String {
    fn from(database: ChecksumDatabase) -> Self {
        match database {
            ChecksumDatabase::Proxy => "proxy".to_owned(),
            ChecksumDatabase::Name(name) => name,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Python {
    /// Index URLs (PEP 503), `https://…/simple/`.
    #[serde(deserialize_with = "plain_urls")]
    pub list: Vec<Endpoint>,
    /// Names that are asked of their own places only, never of `list`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private: Vec<Private>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Hub {
    #[serde(deserialize_with = "plain_urls")]
    pub endpoints: Vec<Endpoint>,
    /// Xet hands a download over to a host that the endpoint does not choose.
    #[serde(default = "yes")]
    pub disable_xet: bool,
    /// Whether the user's token may go to these endpoints.
    #[serde(default)]
    pub send_token: bool,
    /// Names that are asked of their own places only, never of `endpoints`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private: Vec<Private>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Npm {
    #[serde(deserialize_with = "plain_urls")]
    pub list: Vec<Endpoint>,
    /// Names that are asked of their own places only, never of `list`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private: Vec<Private>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Apt {
    /// Pairs of the base archive and the security archive.
    pub list: Vec<UrlPair>,
}

/// Git knows no order: one place for what begins with a prefix.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Git {
    /// `{ "https://github.com/" = "https://mirror/github/" }`, as `url.BASE.insteadOf`.
    pub instead_of: BTreeMap<GitPrefix, MirrorUrl>,
}

/// What repositories' URLs begin with: `https://github.com/`, `git@github.com:`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(with = "String"))]
pub struct GitPrefix(String);

deserialize_text!(GitPrefix);

impl TryFrom<String> for GitPrefix {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if !text.ends_with(['/', ':']) || text.contains(char::is_whitespace) || text.contains('$') {
            return Err(tr!("`{text}` is no beginning of a repository's URL: expected a last `/` or `:`", text));
        }
        let user = text.split_once("://").and_then(|(_, rest)| Some(rest.rsplit_once('@')?.0));
        if user.is_some_and(|user| user.contains(':')) {
            return Err(tr!("the beginning of a repository's URL holds no password"));
        }
        Ok(Self(text))
    }
}

impl GitPrefix {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A profile with every ecosystem's list settled: layers merged, variables put in, egress applied.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    pub name: String,
    pub egress: Egress,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<MirrorUrl>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub no_proxy: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<Host>,
    pub rustup: Rustup,
    pub crates: Crates,
    pub go: Go,
    pub python: Python,
    pub hub: Hub,
    pub npm: Npm,
    pub apt: Apt,
    pub files: Files,
    pub oci: Oci,
    pub git: Git,
    /// For each ecosystem that has a table: where it stands and where its places come from.
    pub sources: BTreeMap<Ecosystem, Declared>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Declared {
    /// The layer: `xtask.local.toml`, `built-in`.
    pub origin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provenance: Option<String>,
}

/// One source of declarations.
#[derive(Clone, Debug)]
pub struct Layer {
    /// For messages: `xtask.local.toml`, `built-in`.
    pub origin: String,
    pub section: Section,
}

/// Every profile that is known here.
#[derive(Clone, Debug)]
pub struct Profiles {
    layers: Vec<Layer>,
    variables: Variables,
}

/// A line of `mirror list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    pub name: String,
    pub egress: Egress,
    /// The layers that declare it, strongest first.
    pub origins: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
    pub selected: bool,
}

/// Why a name gives no profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    #[error("{}", tr!("there is no mirror profile `{name}`", name))]
    Unknown {
        name: String,
        known: Vec<String>,
        /// The known name it may have been meant to be.
        nearest: Option<String>,
    },
    #[error("{}", tr!("`{key}` of mirror `{profile}` ({origin}) has no value here", key, profile, origin))]
    Variables {
        profile: String,
        /// `crates`, `proxy`.
        key: &'static str,
        /// The layer that says it.
        origin: String,
        source: Box<Unexpanded>,
    },
}

impl Profiles {
    /// `files` in order of strength (`xtask.local.toml`, `xtask.toml`); the built-in profiles come last. `variables` are
    /// those of the environment, for `${NAME}`.
    ///
    /// # Errors
    /// Only if the profiles compiled into this program are malformed, which a test rules out.
    pub fn new(files: Vec<Layer>, variables: Variables) -> Result<Self, toml::de::Error> {
        #[derive(Deserialize)]
        struct BuiltIn {
            mirror: Section,
        }
        let BuiltIn { mirror } = toml::from_str(BUILT_IN)?;
        let mut layers = files;
        layers.push(Layer { origin: "built-in".to_owned(), section: mirror });
        Ok(Self { layers, variables })
    }

    /// The profile that a file selects, and which file.
    pub fn selected(&self) -> Option<(&str, &str)> {
        self.layers.iter().find_map(|layer| Some((layer.section.selected.as_deref()?, layer.origin.as_str())))
    }

    pub fn names(&self) -> BTreeSet<&str> {
        self.layers.iter().flat_map(|layer| layer.section.profiles.keys()).map(String::as_str).collect()
    }

    /// `selected` is the name in force, whoever said it.
    pub fn list(&self, selected: Option<&str>) -> Vec<Listed> {
        let listed = |name: &str| Listed {
            name: name.to_owned(),
            egress: self.declaring(name).find_map(|(_, table)| table.egress).unwrap_or_default(),
            as_of: self.declaring(name).find_map(|(_, table)| table.as_of.clone()),
            origins: self.declaring(name).map(|(origin, _)| origin.to_owned()).collect(),
            selected: selected == Some(name),
        };
        self.names().into_iter().map(listed).collect()
    }

    /// `egress` is what flag or environment say; it wins over the profile's own. `auto` is each tool's own default first and
    /// then every endpoint of every known profile, which costs nothing where the default works.
    pub fn resolve(&self, name: &str, egress: Option<Egress>) -> Result<Profile, Unresolved> {
        if name == AUTO {
            return self.auto(egress);
        }
        if self.declaring(name).next().is_none() {
            let known: Vec<String> = self.names().into_iter().map(str::to_owned).collect();
            let nearest = nearest(name, &known);
            return Err(Unresolved::Unknown { name: name.to_owned(), known, nearest });
        }
        self.settled(name, egress)
    }

    /// A profile by its declarations; an ecosystem that none of them has is `direct`.
    fn settled(&self, name: &str, egress: Option<Egress>) -> Result<Profile, Unresolved> {
        let direct = || vec![Endpoint::Direct];
        let mut sources = BTreeMap::new();
        let mut profile = Profile {
            name: name.to_owned(),
            egress: egress.or(self.declaring(name).find_map(|(_, table)| table.egress)).unwrap_or_default(),
            as_of: self.declaring(name).find_map(|(_, table)| table.as_of.clone()),
            ca_bundle: self.value(name, "ca_bundle", |it| it.ca_bundle.as_ref())?,
            proxy: self.value(name, "proxy", |it| it.proxy.as_ref())?,
            no_proxy: self.value(name, "no_proxy", |it| it.no_proxy.as_ref())?.unwrap_or_default(),
            hosts: self.value(name, "hosts", |it| it.hosts.as_ref())?.unwrap_or_default(),
            rustup: self
                .value(name, "rustup", |it| it.rustup.as_ref())?
                .unwrap_or(Rustup { list: vec![UrlPair::Direct] }),
            crates: self.value(name, "crates", |it| it.crates.as_ref())?.unwrap_or_else(|| Crates {
                list: direct(),
                index_only: Vec::new(),
                private: Vec::new(),
            }),
            go: self.value(name, "go", |it| it.go.as_ref())?.unwrap_or_else(|| Go {
                proxy: direct(),
                sumdb: through_the_proxy(),
                fallthrough: Fallthrough::default(),
                private: Vec::new(),
            }),
            python: self
                .value(name, "python", |it| it.python.as_ref())?
                .unwrap_or_else(|| Python { list: direct(), private: Vec::new() }),
            hub: self.value(name, "hub", |it| it.hub.as_ref())?.unwrap_or_else(|| Hub {
                endpoints: direct(),
                disable_xet: true,
                send_token: false,
                private: Vec::new(),
            }),
            npm: self
                .value(name, "npm", |it| it.npm.as_ref())?
                .unwrap_or_else(|| Npm { list: direct(), private: Vec::new() }),
            apt: self.value(name, "apt", |it| it.apt.as_ref())?.unwrap_or(Apt { list: vec![UrlPair::Direct] }),
            files: self.value(name, "files", |it| it.files.as_ref())?.unwrap_or_default(),
            oci: self.value(name, "oci", |it| it.oci.as_ref())?.unwrap_or_default(),
            git: self.value(name, "git", |it| it.git.as_ref())?.unwrap_or_default(),
            sources: BTreeMap::new(),
        };
        for (origin, table) in self.declaring(name) {
            for ecosystem in table.ecosystems() {
                sources.entry(ecosystem).or_insert_with(|| Declared {
                    origin: origin.to_owned(),
                    provenance: table.provenance.as_ref().and_then(|it| it.get(&ecosystem)).cloned(),
                });
            }
        }
        profile.sources = sources;
        profile.apply_egress();
        Ok(profile)
    }

    /// The names, without ports, of every mirror that a profile known here leads to. Not of its `direct` entries, its private
    /// places, which are no mirrors, or a profile whose variables nobody set.
    pub fn mirror_hosts(&self) -> BTreeSet<String> {
        let of = |name: &str| {
            let mut profile = self.settled(name, Some(Egress::PreferMirrors)).ok()?;
            // Leaving out `direct` takes these as well.
            let index_only = std::mem::take(&mut profile.crates.index_only);
            profile.egress = Egress::MirrorsOnly;
            profile.apply_egress();
            profile.crates = Crates { index_only, private: Vec::new(), ..profile.crates };
            for private in [
                &mut profile.go.private,
                &mut profile.python.private,
                &mut profile.hub.private,
                &mut profile.npm.private,
            ] {
                private.clear();
            }
            Some(profile.allowed_hosts(&Defaults::default()))
        };
        let hosts = self.names().into_iter().filter_map(of).flatten();
        // An address in brackets keeps its own colons.
        let name = |host: String| match host.find(']') {
            Some(end) => host[..=end].to_owned(),
            None => host.split(':').next().unwrap_or_default().to_owned(),
        };
        hosts.map(name).collect()
    }

    fn auto(&self, egress: Option<Egress>) -> Result<Profile, Unresolved> {
        fn join<T: PartialEq>(list: &mut Vec<T>, more: Vec<T>) {
            for entry in more {
                if !list.contains(&entry) {
                    list.push(entry);
                }
            }
        }
        let mut profile = self.settled(AUTO, Some(Egress::PreferMirrors))?;
        for name in self.names() {
            // One whose variables nobody set is not for this machine.
            let Ok(it) = self.settled(name, Some(Egress::PreferMirrors)) else { continue };
            profile.ca_bundle = profile.ca_bundle.or(it.ca_bundle);
            join(&mut profile.hosts, it.hosts);
            join(&mut profile.rustup.list, it.rustup.list);
            join(&mut profile.crates.list, it.crates.list);
            join(&mut profile.crates.private, it.crates.private);
            join(&mut profile.go.proxy, it.go.proxy);
            join(&mut profile.go.private, it.go.private);
            join(&mut profile.python.list, it.python.list);
            join(&mut profile.python.private, it.python.private);
            join(&mut profile.hub.endpoints, it.hub.endpoints);
            join(&mut profile.hub.private, it.hub.private);
            join(&mut profile.npm.list, it.npm.list);
            join(&mut profile.npm.private, it.npm.private);
            join(&mut profile.apt.list, it.apt.list);
        }
        profile.egress = egress.unwrap_or_default();
        profile.apply_egress();
        Ok(profile)
    }

    fn declaring<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, &'a ProfileTable)> {
        self.layers.iter().filter_map(move |layer| Some((layer.origin.as_str(), layer.section.profiles.get(name)?)))
    }

    /// What the strongest layer says under `key`, with its variables put in.
    fn value<T: Clone + Expand>(
        &self,
        profile: &str,
        key: &'static str,
        get: impl Fn(&ProfileTable) -> Option<&T>,
    ) -> Result<Option<T>, Unresolved> {
        let found = self.declaring(profile).find_map(|(origin, table)| Some((origin, get(table)?)));
        let Some((origin, written)) = found else { return Ok(None) };
        written.clone().expand(&self.variables).map_err(|source| Unresolved::Variables {
            profile: profile.to_owned(),
            key,
            origin: origin.to_owned(),
            source: Box::new(source),
        })
    }
}

impl ProfileTable {
    /// Those that have a table here.
    fn ecosystems(&self) -> impl Iterator<Item = Ecosystem> {
        [
            (Ecosystem::Rustup, self.rustup.is_some()),
            (Ecosystem::Crates, self.crates.is_some()),
            (Ecosystem::Go, self.go.is_some()),
            (Ecosystem::Python, self.python.is_some()),
            (Ecosystem::Hub, self.hub.is_some()),
            (Ecosystem::Npm, self.npm.is_some()),
            (Ecosystem::Apt, self.apt.is_some()),
            (Ecosystem::Files, self.files.is_some()),
            (Ecosystem::Oci, self.oci.is_some()),
            (Ecosystem::Git, self.git.is_some()),
        ]
        .into_iter()
        .filter_map(|(ecosystem, declared)| declared.then_some(ecosystem))
    }
}

impl Profile {
    fn apply_egress(&mut self) {
        let lists = [
            &mut self.crates.list,
            &mut self.crates.index_only,
            &mut self.go.proxy,
            &mut self.python.list,
            &mut self.hub.endpoints,
            &mut self.npm.list,
        ];
        let pairs = [&mut self.rustup.list, &mut self.apt.list];
        match self.egress {
            Egress::PreferMirrors => {}
            Egress::MirrorsOnly => {
                lists.into_iter().for_each(|list| list.retain(|endpoint| *endpoint != Endpoint::Direct));
                pairs.into_iter().for_each(|list| list.retain(|pair| *pair != UrlPair::Direct));
                template::retain(&mut self.files, &mut self.oci, |endpoint| *endpoint != Endpoint::Direct);
                // Their files come from elsewhere.
                self.crates.index_only.clear();
            }
            // Private names stay what they are: their places are no mirrors, and the public lists must not hear of them. So do
            // proxy and trust, without which nothing may be reachable at all.
            Egress::Direct => {
                lists.into_iter().for_each(|list| *list = vec![Endpoint::Direct]);
                pairs.into_iter().for_each(|list| *list = vec![UrlPair::Direct]);
                self.crates.index_only.clear();
                self.go.sumdb = through_the_proxy();
                self.files = Files::default();
                self.oci = Oci::default();
                self.git = Git::default();
                self.hosts.clear();
                self.sources.clear();
                self.as_of = None;
            }
        }
    }

    /// The places of a name that is private in its ecosystem, which may be none; `None`: it is public.
    pub fn private(&self, ecosystem: Ecosystem, name: &str) -> Option<&[MirrorUrl]> {
        let entry = self.private_names(ecosystem).iter().find(|private| private.holds(ecosystem, name))?;
        Some(&entry.list)
    }

    /// Empty for ecosystems whose names are nobody's.
    pub fn private_names(&self, ecosystem: Ecosystem) -> &[Private] {
        match ecosystem {
            Ecosystem::Crates => &self.crates.private,
            Ecosystem::Go => &self.go.private,
            Ecosystem::Python => &self.python.private,
            Ecosystem::Hub => &self.hub.private,
            Ecosystem::Npm => &self.npm.private,
            Ecosystem::Rustup | Ecosystem::Apt | Ecosystem::Files | Ecosystem::Oci | Ecosystem::Git => &[],
        }
    }

    /// The places of a plain file, by the URL that its maker gives it.
    pub fn file_places(&self, url: &str) -> Vec<Endpoint> {
        let mut places = self.files.places(url);
        places.retain(|place| self.egress != Egress::MirrorsOnly || *place != Endpoint::Direct);
        places
    }

    /// The places of a repository (`library/debian`) of a registry (`docker.io`).
    pub fn oci_places(&self, registry: &str, repository: &str) -> Vec<OciPlace> {
        let mut places = self.oci.places(registry, repository);
        places.retain(|place| self.egress != Egress::MirrorsOnly || *place != OciPlace::Direct);
        places
    }

    /// The hosts (with their ports where those are not the usual ones) that a build may ask for each ecosystem, in order of
    /// preference. A `direct` entry counts as the host in
    /// `defaults`; where that is not known it stands as `direct`, which is honest and visible.
    pub fn hosts(&self, defaults: &Defaults) -> BTreeMap<Ecosystem, Vec<String>> {
        let direct = |ecosystem| match defaults.get(&ecosystem) {
            Some(known) => known.hosts(),
            None => vec![DIRECT.to_owned()],
        };
        let of = |ecosystem, list: &[Endpoint]| -> Vec<String> {
            let hosts = |it: &Endpoint| it.url().map_or_else(|| direct(ecosystem), |url| vec![url.host_with_port()]);
            let private = self.private_names(ecosystem).iter().flat_map(|it| &it.list).map(|url| url.host_with_port());
            list.iter().flat_map(hosts).chain(private).collect()
        };
        let of_pairs = |ecosystem, list: &[UrlPair]| -> Vec<String> {
            let hosts =
                |(first, second): (&MirrorUrl, &MirrorUrl)| vec![first.host_with_port(), second.host_with_port()];
            list.iter().flat_map(|pair| pair.urls().map_or_else(|| direct(ecosystem), hosts)).collect()
        };
        // A table's key is the upstream itself.
        let of_templates = |(key, list): (&str, &[Endpoint])| -> Vec<String> {
            let upstream = key.split(['/', ':']).next().filter(|host| *host != "*").unwrap_or(DIRECT);
            list.iter().map(|it| it.url().map_or_else(|| upstream.to_owned(), MirrorUrl::host_with_port)).collect()
        };
        let mut go = of(Ecosystem::Go, &self.go.proxy);
        go.extend(self.go.sumdb.iter().filter_map(|database| match database {
            ChecksumDatabase::Proxy if !self.go.proxy.contains(&Endpoint::Direct) => None,
            ChecksumDatabase::Proxy => {
                defaults.get(&Ecosystem::Go)?.second.as_ref().map(|it| database_host(it.expose()))
            }
            ChecksumDatabase::Name(name) => Some(database_host(name)),
        }));
        let mut crates = of(Ecosystem::Crates, &self.crates.list);
        crates.extend(of(Ecosystem::Crates, &self.crates.index_only));
        let mut all = BTreeMap::from([
            (Ecosystem::Rustup, of_pairs(Ecosystem::Rustup, &self.rustup.list)),
            (Ecosystem::Crates, crates),
            (Ecosystem::Go, go),
            (Ecosystem::Python, of(Ecosystem::Python, &self.python.list)),
            (Ecosystem::Hub, of(Ecosystem::Hub, &self.hub.endpoints)),
            (Ecosystem::Npm, of(Ecosystem::Npm, &self.npm.list)),
            (Ecosystem::Apt, of_pairs(Ecosystem::Apt, &self.apt.list)),
            (Ecosystem::Files, self.files.lists().flat_map(of_templates).collect()),
            (Ecosystem::Oci, self.oci.lists().flat_map(of_templates).collect()),
            (Ecosystem::Git, self.git.instead_of.values().map(|url| url.host_with_port()).collect()),
        ]);
        for hosts in all.values_mut() {
            let mut seen = BTreeSet::new();
            hosts.retain(|host| seen.insert(host.clone()));
        }
        all
    }

    /// Every host that anything may be asked for under this profile: those of [`Self::hosts`], and those they lead to. A
    /// `direct` entry whose host is not known adds nothing.
    pub fn allowed_hosts(&self, defaults: &Defaults) -> BTreeSet<String> {
        let listed = self.hosts(defaults).into_values().flatten().filter(|host| host != DIRECT);
        listed.chain(self.hosts.iter().map(|host| host.to_string().to_lowercase())).collect()
    }
}

/// A host that is not known.
const DIRECT: &str = "direct";

/// Tables with lists only: each list without the entries that say nothing here.
macro_rules! expand_lists {
    ($($table:ident: $($list:ident),+;)+) => {
        $(impl Expand for $table {
            fn expand(mut self, variables: &Variables) -> Result<Option<Self>, Unexpanded> {
                $(self.$list = self.$list.expand(variables)?.unwrap_or_default();)+
                Ok(Some(self))
            }
        })+
    };
}

expand_lists! {
    Rustup: list;
    Crates: list, index_only, private;
    Go: proxy, private;
    Python: list, private;
    Hub: endpoints, private;
    Npm: list, private;
    Apt: list;
    Git: instead_of;
}

/// `NAME`, `NAME+KEY` or `NAME+KEY URL`: the URL's host, else the name, which is a host by Go's convention.
pub fn database_host(name: &str) -> String {
    let url = name.split_once(' ').and_then(|(_, url)| MirrorUrl::parse(url).ok());
    url.map_or_else(|| name.split('+').next().unwrap_or(name).to_owned(), |url| url.host_with_port())
}

/// Entries of a list of one kind: a mistake is found while its own line is read.
struct Sparse(Endpoint);
struct Plain(Endpoint);
deserialize_text!(Sparse, Plain);

impl TryFrom<String> for Sparse {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let endpoint = Endpoint::try_from(text).map_err(|wrong| wrong.to_string())?;
        match endpoint.url().filter(|url| !url.is_sparse_index() || !url.expose().ends_with('/')) {
            Some(url) => {
                let index = format!("sparse+{}/", url.to_string().trim_start_matches("sparse+").trim_end_matches('/'));
                Err(tr!("`{url}` is not a sparse index: write `{index}`", url, index))
            }
            None => Ok(Self(endpoint)),
        }
    }
}

impl TryFrom<String> for Plain {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let endpoint = Endpoint::try_from(text).map_err(|wrong| wrong.to_string())?;
        match endpoint.url().filter(|url| url.is_sparse_index()) {
            Some(url) => Err(tr!("`{url}`: `sparse+` belongs to crates only", url)),
            None => Ok(Self(endpoint)),
        }
    }
}

fn sparse_indexes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Endpoint>, D::Error> {
    Ok(Vec::<Sparse>::deserialize(deserializer)?.into_iter().map(|it| it.0).collect())
}

fn plain_urls<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Endpoint>, D::Error> {
    Ok(Vec::<Plain>::deserialize(deserializer)?.into_iter().map(|it| it.0).collect())
}

fn private_crates<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Private>, D::Error> {
    let all = Vec::<Private>::deserialize(deserializer)?;
    for url in all.iter().flat_map(|private| &private.list) {
        Sparse::try_from(url.expose().to_owned()).map_err(D::Error::custom)?;
    }
    Ok(all)
}

fn proxy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MirrorUrl>, D::Error> {
    let url = MirrorUrl::deserialize(deserializer)?;
    if url.is_sparse_index() {
        return Err(D::Error::custom(tr!("`{url}` is no proxy: expected `http://HOST:PORT`", url)));
    }
    Ok(Some(url))
}

fn no_proxy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    let list = Vec::<String>::deserialize(deserializer)?;
    if list.iter().any(|entry| entry.contains('@')) {
        return Err(D::Error::custom(tr!("`no_proxy` holds hosts and `.domains`, never a user or password")));
    }
    Ok(Some(list))
}

/// `2026-11` or `2026-11-30`.
fn date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parts: Vec<Option<u32>> =
        text.split('-').map(|part| part.parse().ok().filter(|_| matches!(part.len(), 2 | 4))).collect();
    match parts[..] {
        [Some(2000..), Some(1..=12)] | [Some(2000..), Some(1..=12), Some(1..=31)] => Ok(Some(text)),
        _ => Err(D::Error::custom(tr!("`{text}` is no date: expected `2026-11` or `2026-11-30`", text))),
    }
}

fn through_the_proxy() -> Vec<ChecksumDatabase> {
    vec![ChecksumDatabase::Proxy]
}

fn yes() -> bool {
    true
}

/// The known name with the fewest edits, if they are few for its length.
fn nearest(name: &str, known: &[String]) -> Option<String> {
    let candidates = known.iter().map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate));
    candidates.min().filter(|(edits, _)| *edits <= name.len().max(3) / 3).map(|(_, candidate)| candidate.clone())
}

#[cfg(test)]
mod tests {
    use super::super::direct::Known;
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(default)]
        mirror: Section,
    }

    fn layer(origin: &str, text: &str) -> Layer {
        let file: File = toml::from_str(text).unwrap_or_else(|error| panic!("{error}"));
        Layer { origin: origin.into(), section: file.mirror }
    }

    fn profiles(local: &str, tracked: &str) -> Profiles {
        Profiles::new(vec![layer("xtask.local.toml", local), layer("xtask.toml", tracked)], Variables::new()).unwrap()
    }

    fn shown(list: &[Endpoint]) -> String {
        list.iter()
            .map(|endpoint| super::super::Masked::from(endpoint.clone()).to_string())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn a_table_replaces_the_weaker_one_of_its_ecosystem_only() {
        let profiles = profiles(
            "[mirror.cn.go]\nproxy = ['https://go.local']\nfallthrough = 'not-found'",
            "[mirror.cn.go]\nproxy = ['https://go.tracked']\n[mirror.cn.npm]\nlist = ['https://npm.tracked/']",
        );
        let cn = profiles.resolve("cn", None).unwrap();
        assert_eq!((shown(&cn.go.proxy).as_str(), cn.go.fallthrough), ("https://go.local", Fallthrough::NotFound));
        assert_eq!(cn.go.sumdb, [ChecksumDatabase::Proxy]);
        assert_eq!(shown(&cn.npm.list), "https://npm.tracked/");
        assert!(cn.crates.list.len() > 1 && cn.crates.list.last() == Some(&Endpoint::Direct));
    }

    #[test]
    fn mirrors_only_has_no_direct_entry_anywhere_and_direct_nothing_else() {
        let profiles = profiles("", "");
        let json = |egress| serde_json::to_string(&profiles.resolve("cn", Some(egress)).unwrap()).unwrap();
        assert!(json(Egress::PreferMirrors).contains("\"direct\""));
        assert!(!json(Egress::MirrorsOnly).contains("\"direct\""));
        let closed = profiles.resolve("cn", Some(Egress::MirrorsOnly)).unwrap().hosts(&Defaults::new());
        assert!(!closed.values().flatten().any(|host| host == "direct"), "{closed:?}");
        let mut direct = profiles.resolve("cn", Some(Egress::Direct)).unwrap();
        direct.name = "direct".into();
        assert_eq!(direct, profiles.resolve("direct", None).unwrap());
    }

    #[test]
    fn the_selection_is_read_in_both_spellings_and_the_local_file_wins() {
        assert_eq!(profiles("", "mirror = 'cn'").selected(), Some(("cn", "xtask.toml")));
        let both = profiles("mirror.use = 'lab'\n[mirror.lab.go]\nproxy = ['direct']", "mirror = 'cn'");
        assert_eq!(both.selected(), Some(("lab", "xtask.local.toml")));
        let listed = both.list(Some("lab"));
        assert_eq!(
            listed.iter().map(|it| (it.name.as_str(), it.selected)).collect::<Vec<_>>(),
            [("cn", false), ("corporate", false), ("direct", false), ("lab", true)]
        );
        assert_eq!(listed[0].origins, ["built-in"]);
    }

    #[test]
    fn auto_asks_each_tools_own_default_before_any_mirror() {
        let profiles = Profiles::new(Vec::new(), Variables::new()).unwrap();
        let auto = profiles.resolve("auto", None).unwrap();
        let cn = profiles.resolve("cn", None).unwrap();
        let mirrors: Vec<_> = cn.crates.list.iter().filter(|it| **it != Endpoint::Direct).collect();
        assert_eq!(auto.crates.list[0], Endpoint::Direct);
        assert_eq!(auto.crates.list[1..].iter().collect::<Vec<_>>(), mirrors);
        assert_eq!(auto.go.proxy[0], Endpoint::Direct);
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        let unknown = |name| match profiles("", "[mirror.campus]").resolve(name, None) {
            Err(Unresolved::Unknown { known, nearest, .. }) => (known.join(" "), nearest),
            other => panic!("{other:?}"),
        };
        assert_eq!(unknown("campsu").1.as_deref(), Some("campus"));
        assert_eq!(unknown("nowhere"), ("campus cn corporate direct".to_owned(), None));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_where_it_stands() {
        for (text, message) in [
            ("[mirror.x.crate]", "unknown field `crate`, expected one of `egress`, `as_of`"),
            ("[mirror.x.crates]\nlist = ['https://a/']", "not a sparse index: write `sparse+https://a/`"),
            ("[mirror.x.crates]\nlist = ['sparse+https://a']", "write `sparse+https://a/`"),
            ("[mirror.x.go]\nproxy = ['sparse+https://a/']", "belongs to crates only"),
            ("[mirror.x.go]\nproxy = ['off']", "`off` is not a URL"),
            ("[mirror.x.go]\nproxy = []\nsumdb = ['off']", "cannot be switched off"),
            ("[mirror.x.apt]\nlist = [['http://a']]", "exactly two URLs"),
            ("[mirror.off]", "`off` cannot be the name"),
            ("[mirror.x]\nas_of = '2026-13'", "`2026-13` is no date"),
            ("[mirror.x]\nproxy = 'corp:3128'", "`corp:3128` is not a URL"),
            ("[mirror.x]\nproxy = 'sparse+https://corp/'", "is no proxy"),
            ("[mirror.x]\nhosts = ['https://cdn.example/']", "is no host"),
            ("[mirror.x]\nprovenance.pypi = 'y'", "unknown variant `pypi`"),
            (
                "[mirror.x.git]\ninstead_of = { 'https://github.com' = 'https://m/' }",
                "is no beginning of a repository's URL",
            ),
            ("[mirror.x.npm]\nlist = []\nprivate = [{ names = ['*'] }]", "would make every name private"),
            ("[mirror.x.npm]\nlist = []\nprivate = [{ names = ['@a/*'], list = ['direct'] }]", "`direct` is not a URL"),
            (
                "[mirror.x.crates]\nlist = []\nprivate = [{ names = ['a-*'], list = ['https://a/'] }]",
                "not a sparse index",
            ),
            ("[mirror.x.go]\nproxy = ['https://${HOST/']", "`${` begins a variable"),
            ("mirror = 1", "the name of a mirror profile"),
        ] {
            let error = toml::from_str::<File>(text).err().expect(text);
            assert!(error.message().contains(message) && error.span().is_some(), "{text}: {error}");
        }
    }

    #[test]
    fn hosts_are_those_of_the_lists_in_order_and_once() {
        let profiles = profiles(
            "[mirror.x.go]\nproxy = ['https://u:p@a:1/go', 'https://b', 'https://a', 'direct']\nsumdb = ['proxy', 'sum+key https://s/']\n\
             [mirror.x.oci]\n'docker.io' = ['m.example/docker.io/{repo}']",
            "",
        );
        let hosts = profiles.resolve("x", None).unwrap().hosts(&Defaults::new());
        assert_eq!(hosts[&Ecosystem::Go], ["a:1", "b", "a", "direct", "s"]);
        assert_eq!(hosts[&Ecosystem::Oci], ["m.example"]);
        assert_eq!(hosts[&Ecosystem::Python], ["direct"]);
    }

    #[test]
    fn a_private_name_has_its_own_places_or_none_and_every_other_is_public() {
        let text = "[mirror.x.python]\nlist = ['https://public/simple/']\n\
                    private = [{ names = ['corp-*'], list = ['https://corp/simple/'] }, { names = ['secret'] }]\n\
                    [mirror.x.go]\nproxy = ['https://go']\nprivate = [{ names = ['*.corp.example'], list = ['https://corp/go'] }]";
        for egress in [None, Some(Egress::MirrorsOnly), Some(Egress::Direct)] {
            let x = profiles(text, "").resolve("x", egress).unwrap();
            let places = |ecosystem, name| {
                x.private(ecosystem, name).map(|list| list.iter().map(MirrorUrl::host).collect::<Vec<_>>())
            };
            assert_eq!(places(Ecosystem::Python, "Corp.tools"), Some(vec!["corp"]));
            assert_eq!(places(Ecosystem::Python, "secret"), Some(vec![]));
            assert_eq!(places(Ecosystem::Python, "numpy"), None);
            assert_eq!(places(Ecosystem::Go, "git.corp.example/a/b"), Some(vec!["corp"]));
            assert_eq!(places(Ecosystem::Npm, "corp-x"), None);
            assert!(x.allowed_hosts(&Defaults::new()).contains("corp"));
        }
        let auto = profiles(text, "").resolve("auto", None).unwrap();
        assert!(auto.private(Ecosystem::Python, "corp-x").is_some(), "auto must not make a private name public");
    }

    #[test]
    fn what_is_printed_as_it_stands_takes_no_password() {
        for (line, word) in [
            ("no_proxy = ['http://u:hunter2@h']", "never a user"),
            ("hosts = ['u:hunter2@h.example']", "****@h.example"),
            ("go = { proxy = ['direct'], sumdb = ['sum.example https://u:hunter2@h'] }", "no user or password"),
            ("git.instead_of = { 'https://u:hunter2@gh/' = 'https://mirror/' }", "no password"),
        ] {
            let error = toml::from_str::<File>(&format!("[mirror.lab]\n{line}")).err().unwrap();
            assert!(error.message().contains(word) && !error.message().contains("hunter2"), "{}", error.message());
        }
    }

    #[test]
    fn hosts_of_mirrors_are_those_of_every_profile_without_what_is_direct_or_private() {
        let declared = "[mirror.lab.npm]\nlist = ['https://u:p@Npm.Lab.example:8081/', 'direct']\n\
                        private = [{ names = ['@lab/*'], list = ['https://own.lab.example/'] }]\n\
                        [mirror.lab.crates]\nlist = ['direct']\nindex_only = ['sparse+https://index.lab.example/']\n\
                        [mirror.lab.files]\n'up.example' = ['https://files.lab.example/{path}', 'direct']\n";
        let hosts = profiles(declared, "").mirror_hosts();
        for host in [
            "npm.lab.example",
            "files.lab.example",
            "goproxy.cn",
            "cdn.npmmirror.com",
            "docker.m.daocloud.io",
            "index.lab.example",
        ] {
            assert!(hosts.contains(host), "{host} is not in {hosts:?}");
        }
        for host in ["own.lab.example", "up.example", "direct", "docker.io", "github.com"] {
            assert!(!hosts.contains(host), "{host}");
        }
    }

    #[test]
    fn a_variable_is_put_in_when_its_profile_is_chosen_and_an_unset_one_names_profile_and_file() {
        let host = Variables::from([("XTASK_CORP_HOST".to_owned(), "u:secret@corp.example:8443".to_owned())]);
        let with = |variables: &Variables| Profiles::new(Vec::new(), variables.clone()).unwrap();
        let corporate = with(&host).resolve("corporate", None).unwrap();
        assert_eq!(shown(&corporate.go.proxy), "https://****@corp.example:8443/artifactory/api/go/go-remote");
        assert_eq!((&corporate.proxy, &corporate.ca_bundle), (&None, &None));
        let all = corporate.allowed_hosts(&Defaults::new());
        assert_eq!(
            all.iter().map(String::as_str).collect::<Vec<_>>(),
            ["corp.example:8443"],
            "a public host in `corporate`"
        );
        let json = serde_json::to_string(&corporate).unwrap();
        assert!(!json.contains("secret") && !json.contains("${"), "{json}");

        let unset = with(&Variables::new());
        let Err(error) = unset.resolve("corporate", None) else { panic!("nothing was missed") };
        assert_eq!(error.to_string(), "`rustup` of mirror `corporate` (built-in) has no value here");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(source, "`XTASK_CORP_HOST` is not set");
        assert!(unset.resolve("cn", None).is_ok() && unset.resolve("auto", None).is_ok());

        let path = Variables::from([("XTASK_CORP_HOST".to_owned(), "u:secret@corp example".to_owned())]);
        let Err(Unresolved::Variables { source, .. }) = with(&path).resolve("corporate", None) else { panic!() };
        assert!(!source.to_string().contains("secret"), "{source}");
    }

    #[test]
    fn what_is_said_of_a_whole_profile_is_replaced_key_by_key_and_each_table_says_where_it_stands() {
        let profiles = profiles(
            "[mirror.cn]\nproxy = 'http://u:secret@proxy:3128'\n[mirror.cn.go]\nproxy = ['https://go.local']",
            "[mirror.cn]\nca_bundle = 'corp.pem'\nproxy = 'http://weaker'\nno_proxy = ['.corp']\n\
             [mirror.cn.git]\ninstead_of = { 'https://github.com/' = 'https://git.tracked/gh/' }",
        );
        let cn = profiles.resolve("cn", None).unwrap();
        assert_eq!(cn.proxy.as_ref().map(MirrorUrl::to_string).as_deref(), Some("http://****@proxy:3128"));
        assert_eq!((cn.ca_bundle.as_deref(), &cn.no_proxy[..]), (Some("corp.pem"), &[".corp".to_owned()][..]));
        let source = |ecosystem| (cn.sources[&ecosystem].origin.as_str(), cn.sources[&ecosystem].provenance.is_some());
        assert_eq!(source(Ecosystem::Go), ("xtask.local.toml", false), "the provenance of a list that was replaced");
        assert_eq!(source(Ecosystem::Git), ("xtask.toml", false));
        assert_eq!(source(Ecosystem::Oci), ("built-in", true));
        assert!(cn.as_of.is_some());
        let hosts = cn.allowed_hosts(&Defaults::new());
        assert!(
            ["git.tracked", "cdn.npmmirror.com", "go.local", "m.daocloud.io"].iter().all(|host| hosts.contains(*host))
        );
        assert!(!hosts.contains("direct") && !hosts.contains("goproxy.cn") && !hosts.contains("proxy"), "{hosts:?}");
    }

    #[test]
    fn a_default_that_is_known_stands_for_direct_with_its_second_host() {
        let defaults = Defaults::from([
            (Ecosystem::Go, Known::new("https://a,direct", "test").and(Some("sum.example+key"))),
            (Ecosystem::Apt, Known::new("http://base/debian", "test").and(Some("http://security/debian"))),
        ]);
        let profiles = profiles("[mirror.x.go]\nproxy = ['https://m', 'direct']", "");
        let hosts = profiles.resolve("x", None).unwrap().hosts(&defaults);
        assert_eq!(
            (&hosts[&Ecosystem::Go][..], &hosts[&Ecosystem::Apt][..]),
            (&["m", "a", "sum.example"].map(str::to_owned)[..], &["base", "security"].map(str::to_owned)[..])
        );
        let closed = profiles.resolve("x", Some(Egress::MirrorsOnly)).unwrap().allowed_hosts(&defaults);
        assert_eq!(closed.iter().map(String::as_str).collect::<Vec<_>>(), ["m"]);
    }

    #[test]
    fn a_file_or_a_registry_that_no_mirror_has_is_direct_unless_only_mirrors_may_be_asked() {
        let profiles = profiles("", "");
        let cn = profiles.resolve("cn", None).unwrap();
        assert_eq!(cn.file_places("https://elsewhere.example/x"), [Endpoint::Direct]);
        assert_eq!(cn.oci_places("docker.io", "library/debian").last(), Some(&OciPlace::Direct));
        let closed = profiles.resolve("cn", Some(Egress::MirrorsOnly)).unwrap();
        assert_eq!(closed.file_places("https://elsewhere.example/x"), []);
        assert!(!closed.oci_places("docker.io", "library/debian").contains(&OciPlace::Direct));
    }
}
