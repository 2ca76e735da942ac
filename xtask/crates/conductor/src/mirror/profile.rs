//! The `[mirror.NAME.ECOSYSTEM]` tables, their layers, and the profile they resolve to.
//!
//! A stronger layer replaces an ecosystem's table whole, so that nobody has to know a weaker list to change it. An
//! ecosystem without a table is `direct`. Nothing here knows a variable of any tool. Rules: `[mirror]` in `xtask.toml`.

use super::direct::Defaults;
use super::endpoint::{Endpoint, MirrorUrl, UrlPair};
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

const BUILT_IN: &str = include_str!("builtin.toml");

/// Names with a meaning of their own where a profile's name is expected.
const RESERVED: [&str; 2] = [AUTO, "off"];
const AUTO: &str = "auto";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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
                f.write_str("the name of a mirror profile, or `[mirror.NAME.ECOSYSTEM]` tables")
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
                        return Err(A::Error::custom(format!("`{name}` cannot be the name of a mirror profile")));
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
    pub rustup: Option<Rustup>,
    pub crates: Option<Crates>,
    pub go: Option<Go>,
    pub python: Option<Python>,
    pub hub: Option<Hub>,
    pub npm: Option<Npm>,
    pub apt: Option<Apt>,
    /// Upstream prefix (`dl.k8s.io`) to URL templates with `{path}`.
    pub files: Option<BTreeMap<String, Vec<String>>>,
    /// Registry (`docker.io`) to reference templates with `{repo}` or `{leaf}`.
    pub oci: Option<BTreeMap<String, Vec<String>>>,
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
            "off" | "" => Err("the checksum database cannot be switched off: it is what makes a mirror safe; use \
                               \"proxy\" or a database's name"
                .to_owned()),
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
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Npm {
    #[serde(deserialize_with = "plain_urls")]
    pub list: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Apt {
    /// Pairs of the base archive and the security archive.
    pub list: Vec<UrlPair>,
}

/// A profile with every ecosystem's list settled: layers merged, egress applied.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    pub name: String,
    pub egress: Egress,
    pub rustup: Rustup,
    pub crates: Crates,
    pub go: Go,
    pub python: Python,
    pub hub: Hub,
    pub npm: Npm,
    pub apt: Apt,
    pub files: BTreeMap<String, Vec<String>>,
    pub oci: BTreeMap<String, Vec<String>>,
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
}

/// A line of `mirror list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    pub name: String,
    pub egress: Egress,
    /// The layers that declare it, strongest first.
    pub origins: Vec<String>,
    pub selected: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no mirror profile `{name}`")]
pub struct UnknownProfile {
    pub name: String,
    pub known: Vec<String>,
    /// The known name it may have been meant to be.
    pub nearest: Option<String>,
}

impl Profiles {
    /// `files` in order of strength (`xtask.local.toml`, `xtask.toml`); the built-in profiles come last.
    ///
    /// # Errors
    /// Only if the profiles compiled into this program are malformed, which a test rules out.
    pub fn new(files: Vec<Layer>) -> Result<Self, toml::de::Error> {
        #[derive(Deserialize)]
        struct BuiltIn {
            mirror: Section,
        }
        let BuiltIn { mirror } = toml::from_str(BUILT_IN)?;
        let mut layers = files;
        layers.push(Layer { origin: "built-in".to_owned(), section: mirror });
        Ok(Self { layers })
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
            egress: self.strongest(name, |table| table.egress.as_ref()).unwrap_or_default(),
            origins: self.declaring(name).map(|(origin, _)| origin.to_owned()).collect(),
            selected: selected == Some(name),
        };
        self.names().into_iter().map(listed).collect()
    }

    /// `egress` is what flag or environment say; it wins over the profile's own. `auto` is each tool's own default first and
    /// then every endpoint of every known profile, which costs nothing where the default works.
    pub fn resolve(&self, name: &str, egress: Option<Egress>) -> Result<Profile, UnknownProfile> {
        if name == AUTO {
            return Ok(self.auto(egress));
        }
        if self.declaring(name).next().is_none() {
            let known: Vec<String> = self.names().into_iter().map(str::to_owned).collect();
            let nearest = nearest(name, &known);
            return Err(UnknownProfile { name: name.to_owned(), known, nearest });
        }
        Ok(self.settled(name, egress))
    }

    /// A profile by its declarations; an ecosystem that none of them has is `direct`.
    fn settled(&self, name: &str, egress: Option<Egress>) -> Profile {
        let direct = || vec![Endpoint::Direct];
        let mut profile = Profile {
            name: name.to_owned(),
            egress: egress.or(self.strongest(name, |table| table.egress.as_ref())).unwrap_or_default(),
            rustup: self.strongest(name, |it| it.rustup.as_ref()).unwrap_or(Rustup { list: vec![UrlPair::Direct] }),
            crates: self
                .strongest(name, |it| it.crates.as_ref())
                .unwrap_or(Crates { list: direct(), index_only: Vec::new() }),
            go: self.strongest(name, |it| it.go.as_ref()).unwrap_or_else(|| Go {
                proxy: direct(),
                sumdb: through_the_proxy(),
                fallthrough: Fallthrough::default(),
            }),
            python: self.strongest(name, |it| it.python.as_ref()).unwrap_or(Python { list: direct() }),
            hub: self.strongest(name, |it| it.hub.as_ref()).unwrap_or(Hub {
                endpoints: direct(),
                disable_xet: true,
                send_token: false,
            }),
            npm: self.strongest(name, |it| it.npm.as_ref()).unwrap_or(Npm { list: direct() }),
            apt: self.strongest(name, |it| it.apt.as_ref()).unwrap_or(Apt { list: vec![UrlPair::Direct] }),
            files: self.strongest(name, |it| it.files.as_ref()).unwrap_or_default(),
            oci: self.strongest(name, |it| it.oci.as_ref()).unwrap_or_default(),
        };
        profile.apply_egress();
        profile
    }

    fn auto(&self, egress: Option<Egress>) -> Profile {
        fn join<T: PartialEq>(list: &mut Vec<T>, more: Vec<T>) {
            for entry in more {
                if !list.contains(&entry) {
                    list.push(entry);
                }
            }
        }
        let mut profile = self.settled(AUTO, Some(Egress::PreferMirrors));
        for name in self.names() {
            let it = self.settled(name, Some(Egress::PreferMirrors));
            join(&mut profile.rustup.list, it.rustup.list);
            join(&mut profile.crates.list, it.crates.list);
            join(&mut profile.go.proxy, it.go.proxy);
            join(&mut profile.python.list, it.python.list);
            join(&mut profile.hub.endpoints, it.hub.endpoints);
            join(&mut profile.npm.list, it.npm.list);
            join(&mut profile.apt.list, it.apt.list);
        }
        profile.egress = egress.unwrap_or_default();
        profile.apply_egress();
        profile
    }

    fn declaring<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, &'a ProfileTable)> {
        self.layers.iter().filter_map(move |layer| Some((layer.origin.as_str(), layer.section.profiles.get(name)?)))
    }

    fn strongest<T: Clone>(&self, name: &str, table: impl Fn(&ProfileTable) -> Option<&T>) -> Option<T> {
        self.declaring(name).find_map(|(_, profile)| table(profile)).cloned()
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
                // Their files come from elsewhere.
                self.crates.index_only.clear();
            }
            Egress::Direct => {
                lists.into_iter().for_each(|list| *list = vec![Endpoint::Direct]);
                pairs.into_iter().for_each(|list| *list = vec![UrlPair::Direct]);
                self.crates.index_only.clear();
                self.go.sumdb = through_the_proxy();
                self.files.clear();
                self.oci.clear();
            }
        }
    }

    /// The hosts that a build may ask for each ecosystem, in order of preference. A `direct` entry counts as the host in
    /// `defaults`; where that is not known it stands as `direct`, which is honest and visible.
    pub fn hosts(&self, defaults: &Defaults) -> BTreeMap<Ecosystem, Vec<String>> {
        let direct = |ecosystem| match defaults.get(&ecosystem) {
            Some(known) => known.hosts(),
            None => vec!["direct".to_owned()],
        };
        let of = |ecosystem, list: &[Endpoint]| -> Vec<String> {
            list.iter()
                .flat_map(|endpoint| {
                    endpoint.url().map_or_else(|| direct(ecosystem), |url| vec![url.host().to_owned()])
                })
                .collect()
        };
        let of_pairs = |ecosystem, list: &[UrlPair]| -> Vec<String> {
            let hosts =
                |(first, second): (&MirrorUrl, &MirrorUrl)| vec![first.host().to_owned(), second.host().to_owned()];
            list.iter().flat_map(|pair| pair.urls().map_or_else(|| direct(ecosystem), hosts)).collect()
        };
        let of_templates = |map: &BTreeMap<String, Vec<String>>| -> Vec<String> {
            let host = |template: &String| {
                let rest = template.split_once("://").map_or(template.as_str(), |(_, rest)| rest);
                rest.split('/').next().unwrap_or(rest).to_owned()
            };
            map.values().flatten().map(host).collect()
        };
        let mut go = of(Ecosystem::Go, &self.go.proxy);
        go.extend(self.go.sumdb.iter().filter_map(|database| match database {
            ChecksumDatabase::Proxy => None,
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
            (Ecosystem::Files, of_templates(&self.files)),
            (Ecosystem::Oci, of_templates(&self.oci)),
        ]);
        for hosts in all.values_mut() {
            let mut seen = BTreeSet::new();
            hosts.retain(|host| seen.insert(host.clone()));
        }
        all
    }
}

/// `NAME`, `NAME+KEY` or `NAME+KEY URL`: the URL's host, else the name, which is a host by Go's convention.
fn database_host(name: &str) -> String {
    let url = name.split_once(' ').and_then(|(_, url)| MirrorUrl::parse(url).ok());
    url.map_or_else(|| name.split('+').next().unwrap_or(name).to_owned(), |url| url.host().to_owned())
}

fn sparse_indexes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Endpoint>, D::Error> {
    let list = Vec::<Endpoint>::deserialize(deserializer)?;
    match list.iter().filter_map(Endpoint::url).find(|url| !url.is_sparse_index() || !url.expose().ends_with('/')) {
        Some(url) => Err(D::Error::custom(format!(
            "`{url}` is not a sparse index: expected `sparse+https://HOST/PATH/` with its last slash"
        ))),
        None => Ok(list),
    }
}

fn plain_urls<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Endpoint>, D::Error> {
    let list = Vec::<Endpoint>::deserialize(deserializer)?;
    match list.iter().filter_map(Endpoint::url).find(|url| url.is_sparse_index()) {
        Some(url) => Err(D::Error::custom(format!("`{url}`: `sparse+` belongs to crates only"))),
        None => Ok(list),
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
        Profiles::new(vec![layer("xtask.local.toml", local), layer("xtask.toml", tracked)]).unwrap()
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
            [("cn", false), ("direct", false), ("lab", true)]
        );
        assert_eq!(listed[0].origins, ["built-in"]);
    }

    #[test]
    fn auto_asks_each_tools_own_default_before_any_mirror() {
        let profiles = Profiles::new(Vec::new()).unwrap();
        let auto = profiles.resolve("auto", None).unwrap();
        let cn = profiles.resolve("cn", None).unwrap();
        let mirrors: Vec<_> = cn.crates.list.iter().filter(|it| **it != Endpoint::Direct).collect();
        assert_eq!(auto.crates.list[0], Endpoint::Direct);
        assert_eq!(auto.crates.list[1..].iter().collect::<Vec<_>>(), mirrors);
        assert_eq!(auto.go.proxy[0], Endpoint::Direct);
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        let unknown = |name| profiles("", "[mirror.campus]").resolve(name, None).unwrap_err();
        assert_eq!(unknown("campsu").nearest.as_deref(), Some("campus"));
        assert_eq!(unknown("nowhere").nearest, None);
        assert_eq!(unknown("x").known, ["campus", "cn", "direct"]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_where_it_stands() {
        for (text, message) in [
            ("[mirror.x.crate]", "unknown field `crate`, expected one of `egress`, `rustup`, `crates`"),
            ("[mirror.x.crates]\nlist = ['https://a/']", "not a sparse index"),
            ("[mirror.x.crates]\nlist = ['sparse+https://a']", "not a sparse index"),
            ("[mirror.x.go]\nproxy = ['sparse+https://a/']", "belongs to crates only"),
            ("[mirror.x.go]\nproxy = ['off']", "`off` is not a URL"),
            ("[mirror.x.go]\nproxy = []\nsumdb = ['off']", "cannot be switched off"),
            ("[mirror.x.apt]\nlist = [['http://a']]", "exactly two URLs"),
            ("[mirror.off]", "`off` cannot be the name"),
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
        assert_eq!(hosts[&Ecosystem::Go], ["a", "b", "direct", "s"]);
        assert_eq!(hosts[&Ecosystem::Oci], ["m.example"]);
        assert_eq!(hosts[&Ecosystem::Python], ["direct"]);
    }
}
