//! The one mapping from a profile to what each tool is told: variables, removed variables, arguments, files.
//!
//! In a run of ours every tool is sent to the gateway, under names that never change, so that nothing it stores or writes
//! depends on a mirror, a port or a password. For people who use the tools by hand it is the first endpoint of each list,
//! without anything that could fall back. Nobody else may know a tool's mirror variables. The profile wins over what the caller exported, and says so; without
//! a profile the caller's settings are left alone. Either way what would switch a verification off never reaches a
//! tool. Rules: each tool's documentation, and for what they do in truth, measured: cargo ignores `CARGO_SOURCE_*`, Go
//! moves on at `,` for 404 and 410 only, pip and uv do not read each other's settings, uv ignores pip's files.

use super::direct::Defaults;
use super::endpoint::{Endpoint, Masked, MirrorUrl, UrlPair};
use super::profile::{ChecksumDatabase, Ecosystem, Egress, Fallthrough, Profile};
use crate::tr;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tool {
    Cargo,
    Rustup,
    Go,
    Pip,
    Uv,
    HuggingFace,
    Npm,
    Apt,
}

impl Tool {
    pub const ALL: [Self; 8] =
        [Self::Cargo, Self::Rustup, Self::Go, Self::Pip, Self::Uv, Self::HuggingFace, Self::Npm, Self::Apt];
}

/// Where children reach the gateway of this run.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// `127.0.0.1:PORT`.
    pub address: String,
    /// The step that the child works for: the ledger knows requests by it.
    pub user: String,
    pub password: Masked,
}

impl Gateway {
    fn proxy(&self) -> Masked {
        self.password.map(|password| format!("http://{}:{password}@{}", self.user, self.address))
    }
}

/// What the mapping depends on besides the tool.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// `None`: no profile, or `off`.
    pub profile: Option<&'a Profile>,
    /// What the caller exported.
    pub environment: &'a BTreeMap<String, String>,
    /// The values of `go env -w`, from [`go_environment_file`](super::direct::go_environment_file): they work on every
    /// Go below unless a variable says otherwise.
    pub go_file: &'a BTreeMap<String, String>,
    /// What `direct` entries stand for, as far as it is known.
    pub defaults: &'a Defaults,
    pub gateway: Option<&'a Gateway>,
    /// The Debian release that apt's sources are for: `bookworm`.
    pub suite: &'a str,
}

/// Changes to a tool's inherited environment, and arguments for its command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ToolEnvironment {
    pub set: BTreeMap<String, Masked>,
    pub remove: BTreeSet<String>,
    pub arguments: Vec<Masked>,
    /// What a tool reads from a file only, by the file's usual name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, Masked>,
    pub notes: Vec<Note>,
}

/// What the user would otherwise wonder about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "note", rename_all = "kebab-case")]
pub enum Note {
    /// The caller's setting gives way to the chosen profile.
    Overridden { variable: String, profile: String },
    /// The caller's setting would switch a verification off.
    Refused { variable: String, value: String, reason: String },
    /// A secret stays at home.
    Withheld { variable: String, host: String },
    /// The tool ignores this setting.
    Ineffective { variable: String, instead: String },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match self {
            Self::Overridden { variable, profile } => {
                tr!("{variable} gives way to mirror `{profile}`", variable, profile)
            }
            Self::Refused { variable, value, reason } => {
                tr!("{variable}={value} is refused: {reason}", variable, value, reason)
            }
            Self::Withheld { variable, host } => {
                tr!("{variable} is not sent to {host}; `send_token = true` in its profile allows it", variable, host)
            }
            Self::Ineffective { variable, instead } => {
                tr!("{variable} has no effect; use {instead}", variable, instead)
            }
        })
    }
}

impl ToolEnvironment {
    /// Changes the environment of a child, which so far holds what it inherits.
    pub fn apply<V: From<String>>(&self, environment: &mut BTreeMap<String, V>) {
        environment.retain(|name, _| !self.remove.contains(name));
        environment.extend(self.set.iter().map(|(name, value)| (name.clone(), value.expose().to_owned().into())));
    }

    fn set(&mut self, name: &str, value: impl Into<Masked>) {
        self.set.insert(name.to_owned(), value.into());
    }

    /// Sends a tool that obeys the usual proxy variables through the gateway, whose names are all plain http: what it asks
    /// of others over https goes as the caller wants it.
    fn enter(&mut self, context: &Context, gateway: &Gateway) {
        for name in ["HTTP_PROXY", "http_proxy"] {
            self.set(name, gateway.proxy());
        }
        for name in ["NO_PROXY", "no_proxy"] {
            let Some(list) = context.environment.get(name) else { continue };
            let covers =
                |entry: &str| matches!(entry.trim().trim_start_matches(['*', '.']), "" | "invalid" | GATEWAY_HOST);
            if !list.split(',').any(covers) {
                continue;
            }
            // `*` means that no proxy is used at all, and that stays true of everything but the gateway.
            if list.split(',').any(|entry| entry.trim() == "*") {
                self.remove.extend(["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].map(str::to_owned));
            }
            let rest: Vec<&str> = list.split(',').filter(|entry| !covers(entry)).collect();
            if rest.is_empty() {
                self.remove.insert(name.to_owned());
            } else {
                self.set(name, rest.join(","));
            }
        }
    }

    /// Takes an inherited variable that the profile does not set out of the tool's way.
    fn clear(&mut self, context: &Context, names: &[&str]) {
        let Some(profile) = context.profile else { return };
        for &name in names {
            let Some(inherited) = context.environment.get(name) else { continue };
            let set = self.set.get(name).map(Masked::expose);
            if set.is_none() {
                self.remove.insert(name.to_owned());
            }
            if set != Some(inherited) {
                self.notes.push(Note::Overridden { variable: name.to_owned(), profile: profile.name.clone() });
            }
        }
    }

    /// Removes a variable whatever the profile, since it would switch a verification off.
    fn refuse(&mut self, context: &Context, name: &str, reason: String) {
        if let Some(value) = context.environment.get(name).filter(|value| !value.is_empty()) {
            self.remove.insert(name.to_owned());
            self.note_refused(name, value, reason);
        }
    }

    fn note_refused(&mut self, name: &str, value: &str, reason: String) {
        let (variable, value) = (name.to_owned(), value.to_owned());
        self.notes.push(Note::Refused { variable, value, reason });
    }
}

pub fn tool_environment(tool: Tool, context: &Context) -> ToolEnvironment {
    match tool {
        Tool::Cargo => cargo(context),
        Tool::Rustup => rustup(context),
        Tool::Go => go(context),
        Tool::Pip => pip(context),
        Tool::Uv => uv(context),
        Tool::HuggingFace => hugging_face(context),
        Tool::Npm => npm(context),
        Tool::Apt => apt(context),
    }
}

/// The environment as it would be without any mirror setting: what an explicit `direct` profile starts from.
pub fn without_mirror_variables(environment: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut environment = environment.clone();
    environment.retain(|name, _| !Tool::ALL.iter().any(|tool| mirror_variables(*tool).contains(&name.as_str())));
    environment
}

/// What a profile decides in the caller's stead. cargo has no such variable.
fn mirror_variables(tool: Tool) -> &'static [&'static str] {
    match tool {
        Tool::Cargo => &[],
        Tool::Rustup => &["RUSTUP_DIST_SERVER", "RUSTUP_UPDATE_ROOT", "RUSTUP_DIST_ROOT"],
        Tool::Go => &["GOPROXY", "GOSUMDB"],
        Tool::Pip => &["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"],
        Tool::Uv => &["UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"],
        Tool::HuggingFace => &["HF_ENDPOINT"],
        Tool::Npm => &["npm_config_registry", "NPM_CONFIG_REGISTRY"],
        Tool::Apt => &[],
    }
}

/// A constant name, so that a new port does not rename cargo's source folder and compile every crate again. The port and
/// the password go with the proxy setting, which is environment: argv can be read by everybody.
pub const GATEWAY_HOST: &str = "xtask-gateway.invalid";
const GATEWAY_INDEX: &str = "sparse+http://xtask-gateway.invalid/crates/";
/// pip takes plain http from this name only, unless certificates are not checked at all.
const GATEWAY_FOR_PIP: &str = "http://localhost/python/simple/";
/// The gateway answers within its own bounds, and trickles what takes longer.
const PATIENCE_SECONDS: &str = "60";

/// The gateway has bounds of its own and asks several places before its first byte: cargo waits, and tries once.
const CARGO_GATEWAY_PATIENCE: [(&str, &str); 2] = [("CARGO_HTTP_TIMEOUT", "3600"), ("CARGO_NET_RETRY", "0")];

/// Source: <https://doc.rust-lang.org/cargo/reference/source-replacement.html>.
fn cargo(context: &Context) -> ToolEnvironment {
    let mut it = ToolEnvironment::default();
    for variable in context.environment.keys().filter(|name| name.starts_with("CARGO_SOURCE_")) {
        let instead = tr!("`--mirror NAME`, or `[source]` in a cargo configuration file");
        it.notes.push(Note::Ineffective { variable: variable.clone(), instead });
    }
    let replace = |it: &mut ToolEnvironment, name: &str, index: &Masked| {
        let settings = [
            Masked::from(format!("source.crates-io.replace-with=\"{name}\"")),
            index.map(|url| format!("source.{name}.registry=\"{url}\"")),
        ];
        it.arguments.extend(settings.into_iter().flat_map(|setting| ["--config".into(), setting]));
    };
    if let Some(gateway) = context.gateway {
        replace(&mut it, "xtask-gateway", &GATEWAY_INDEX.into());
        it.set("CARGO_HTTP_PROXY", gateway.proxy());
        for (name, value) in CARGO_GATEWAY_PATIENCE {
            it.set(name, value);
        }
        // `NO_PROXY=*` would send cargo looking for the constant name.
        it.remove.extend(["NO_PROXY", "no_proxy"].map(str::to_owned));
        return it;
    }
    match context.profile.map(|profile| profile.crates.list.first()) {
        // cargo's own patience stays: behind this one endpoint there is none to go on to.
        Some(Some(Endpoint::Url(url))) => replace(&mut it, "xtask-mirror", url.masked()),
        Some(None) => it.set("CARGO_NET_OFFLINE", "true"),
        Some(Some(Endpoint::Direct)) | None => {}
    }
    it
}

/// Source: <https://rust-lang.github.io/rustup/environment-variables.html>.
fn rustup(context: &Context) -> ToolEnvironment {
    let mut it = ToolEnvironment::default();
    if let Some(gateway) = context.gateway {
        it.set("RUSTUP_DIST_SERVER", format!("http://{GATEWAY_HOST}/rustup/dist-server"));
        it.set("RUSTUP_UPDATE_ROOT", format!("http://{GATEWAY_HOST}/rustup/update-root"));
        it.enter(context, gateway);
    } else if let Some((dist, update_root)) = context.profile.and_then(|profile| profile.rustup.list.first()?.urls()) {
        let without_slash = |url: &str| url.trim_end_matches('/').to_owned();
        it.set("RUSTUP_DIST_SERVER", dist.masked().map(without_slash));
        it.set("RUSTUP_UPDATE_ROOT", update_root.masked().map(without_slash));
    }
    if context.gateway.is_none() && context.profile.is_some_and(|profile| profile.rustup.list.is_empty()) {
        it.set("RUSTUP_AUTO_INSTALL", "0");
    }
    it.clear(context, mirror_variables(Tool::Rustup));
    it
}

/// Source: <https://go.dev/ref/mod#environment-variables>, `go help environment`.
fn go(context: &Context) -> ToolEnvironment {
    let mut it = ToolEnvironment::default();
    // Another toolchain would be downloaded by Go itself, past our pins.
    it.set("GOTOOLCHAIN", "local");
    if let Some(profile) = context.profile {
        if let Some(gateway) = context.gateway {
            it.set("GOPROXY", format!("http://{GATEWAY_HOST}/go"));
            it.enter(context, gateway);
        } else if let Some(list) = goproxy(profile, context.defaults) {
            it.set("GOPROXY", list);
        }
        if profile.egress == Egress::MirrorsOnly {
            // Go's word for nothing: what the user calls private would be fetched from its own host, which is not in the profile.
            it.set("GONOPROXY", "none");
            it.set("GOVCS", "*:off");
            it.clear(context, &["GONOPROXY", "GOVCS"]);
        }
        // Unset is Go's default database, which Go asks through the first proxy that serves it.
        if let Some(ChecksumDatabase::Name(name)) = profile.go.sumdb.first() {
            it.set("GOSUMDB", name.as_str());
        }
    }
    let off = |name: &str| context.environment.get(name).is_some_and(|value| guard_go(name, value).is_some());
    it.clear(context, &mirror_variables(Tool::Go).iter().copied().filter(|name| !off(name)).collect::<Vec<_>>());
    for (name, value) in context.environment {
        match guard_go(name, value) {
            None => {}
            Some((None, reason)) => {
                it.remove.insert(name.clone());
                it.note_refused(name, value, reason);
            }
            Some((Some(rest), reason)) => {
                it.set(name, rest);
                it.note_refused(name, value, reason);
            }
        }
    }
    // A variable cannot unset what the file says, so the file is put aside and the rest of it carried over.
    if context.go_file.iter().any(|(name, value)| guard_go(name, value).is_some()) {
        it.set("GOENV", "off");
        for (name, value) in context.go_file {
            let kept = match guard_go(name, value) {
                None => Some(value.clone()),
                Some((rest, reason)) => {
                    it.note_refused(name, value, reason);
                    rest
                }
            };
            let kept = kept.filter(|_| !it.set.contains_key(name) && !context.environment.contains_key(name));
            if let Some(value) = kept {
                it.set(name, value);
            }
        }
    }
    it
}

/// Modules that the user calls private, by variable or else by Go's file: of such no mirror may hear.
pub fn go_private(environment: &BTreeMap<String, String>, go_file: &BTreeMap<String, String>) -> Vec<String> {
    let said = |name: &str| environment.get(name).or_else(|| go_file.get(name)).filter(|it| !it.is_empty());
    let patterns = said("GONOPROXY").or_else(|| said("GOPRIVATE")).map_or("", String::as_str).split(',').map(str::trim);
    patterns.filter(|it| it.contains(char::is_alphanumeric) && *it != "none").map(str::to_owned).collect()
}

/// `None`: nothing to say, Go's own default stands.
fn goproxy(profile: &Profile, defaults: &Defaults) -> Option<Masked> {
    if profile.go.proxy.is_empty() {
        return Some("off".into());
    }
    let separator = match profile.go.fallthrough {
        Fallthrough::AnyError => "|",
        Fallthrough::NotFound => ",",
    };
    let mut list: Option<Masked> = None;
    let last = profile.go.proxy.len() - 1;
    for (index, endpoint) in profile.go.proxy.iter().enumerate() {
        // Go's own word `direct` means version control hosts; ours means Go's default list, if it is known. Go reads no further
        // than its `direct`, so only the last entry may bring one.
        let entry = match endpoint {
            Endpoint::Url(url) => url.masked().clone(),
            Endpoint::Direct => match defaults.get(&Ecosystem::Go) {
                Some(known) if index == last => known.value.clone(),
                Some(known) => {
                    let urls = known.urls();
                    let join = |shown: &dyn Fn(&MirrorUrl) -> String| {
                        urls.iter().map(shown).collect::<Vec<_>>().join(separator)
                    };
                    Masked::new(join(&|url| url.expose().to_owned()), join(&|url| url.to_string()))
                }
                None => continue,
            },
        };
        list = Some(match list {
            None => entry,
            Some(list) => Masked::new(
                format!("{}{separator}{}", list.expose(), entry.expose()),
                format!("{list}{separator}{entry}"),
            ),
        });
    }
    list.filter(|_| profile.go.proxy.iter().any(|endpoint| *endpoint != Endpoint::Direct))
}

/// Go's switches that turn a verification off: what remains of the value, and why the rest is refused.
fn guard_go(name: &str, value: &str) -> Option<(Option<String>, String)> {
    match name {
        "GOSUMDB" if value == "off" => Some((None, tr!("the checksum database is what makes a module proxy safe"))),
        "GONOSUMCHECK" | "GOINSECURE" if !value.is_empty() => Some((None, tr!("modules are always verified"))),
        "GOFLAGS" => {
            let insecure = |flag: &&str| matches!(flag.trim_start_matches('-'), "insecure" | "insecure=true");
            value.split_whitespace().any(|flag| insecure(&flag)).then(|| {
                let rest = value.split_whitespace().filter(|flag| !insecure(flag)).collect::<Vec<_>>().join(" ");
                (Some(rest), tr!("modules are always verified"))
            })
        }
        // Private modules are the user's to name; a pattern without a name would make every module private.
        "GOPRIVATE" | "GONOSUMDB" => {
            let nameless = |pattern: &&str| !pattern.is_empty() && !pattern.contains(char::is_alphanumeric);
            value.split(',').any(|pattern| nameless(&pattern)).then(|| {
                let rest = value.split(',').filter(|pattern| !nameless(pattern)).collect::<Vec<_>>().join(",");
                (Some(rest).filter(|rest| !rest.is_empty()), tr!("it exempts every module from the checksum database"))
            })
        }
        _ => None,
    }
}

/// Source: <https://pip.pypa.io/en/stable/topics/configuration/>. An extra index would be merged with the mirror's, so
/// that whoever has the higher version of a name wins: it goes.
fn pip(context: &Context) -> ToolEnvironment {
    let mut it = ToolEnvironment::default();
    match (context.gateway, context.profile.map(|profile| profile.python.list.first())) {
        (Some(gateway), _) => {
            it.set("PIP_INDEX_URL", GATEWAY_FOR_PIP);
            it.set("PIP_PROXY", gateway.proxy());
            it.set("PIP_DEFAULT_TIMEOUT", PATIENCE_SECONDS);
            it.set("PIP_RETRIES", "0");
            // Whatever its files add to the index is another place to ask, and merged with ours.
            it.set("PIP_CONFIG_FILE", "/dev/null");
        }
        (None, Some(Some(Endpoint::Url(url)))) => it.set("PIP_INDEX_URL", url.masked().clone()),
        (None, Some(None)) => it.set("PIP_NO_INDEX", "1"),
        (None, Some(Some(Endpoint::Direct)) | None) => {}
    }
    it.clear(context, mirror_variables(Tool::Pip));
    it.refuse(
        context,
        "PIP_TRUSTED_HOST",
        tr!("it switches the check of certificates off; PIP_CERT names another authority"),
    );
    it
}

/// Source: <https://docs.astral.sh/uv/reference/environment/>.
fn uv(context: &Context) -> ToolEnvironment {
    let mut it = ToolEnvironment::default();
    match (context.gateway, context.profile.map(|profile| profile.python.list.first())) {
        (Some(gateway), _) => {
            it.set("UV_DEFAULT_INDEX", format!("http://{GATEWAY_HOST}/python/simple/"));
            it.set("UV_HTTP_TIMEOUT", PATIENCE_SECONDS);
            it.set("UV_HTTP_RETRIES", "0");
            it.enter(context, gateway);
        }
        (None, Some(Some(Endpoint::Url(url)))) => it.set("UV_DEFAULT_INDEX", url.masked().clone()),
        (None, Some(None)) => it.set("UV_OFFLINE", "1"),
        (None, Some(Some(Endpoint::Direct)) | None) => {}
    }
    it.clear(context, mirror_variables(Tool::Uv));
    it.refuse(
        context,
        "UV_INSECURE_HOST",
        tr!("it switches the check of certificates off; SSL_CERT_FILE names another authority"),
    );
    it
}

/// Source: <https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>.
fn hugging_face(context: &Context) -> ToolEnvironment {
    let mut it = ToolEnvironment::default();
    let Some(profile) = context.profile else { return it };
    if let Some(gateway) = context.gateway {
        it.set("HF_ENDPOINT", format!("http://{GATEWAY_HOST}/hub"));
        it.set("HF_HUB_DISABLE_XET", "1");
        for name in ["HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"] {
            it.set(name, PATIENCE_SECONDS);
        }
        // The gateway holds the token, and gives it to whom the profile allows.
        it.set("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1");
        it.remove.extend(HUB_TOKENS.map(str::to_owned));
        it.enter(context, gateway);
        it.clear(context, mirror_variables(Tool::HuggingFace));
        return it;
    }
    match profile.hub.endpoints.first() {
        Some(Endpoint::Url(url)) => {
            it.set("HF_ENDPOINT", url.masked().map(|url| url.trim_end_matches('/').to_owned()));
            if profile.hub.disable_xet {
                it.set("HF_HUB_DISABLE_XET", "1");
            }
            if !profile.hub.send_token {
                withhold_token(&mut it, context, url);
            }
        }
        Some(Endpoint::Direct) => {}
        None => it.set("HF_HUB_OFFLINE", "1"),
    }
    it.clear(context, mirror_variables(Tool::HuggingFace));
    it
}

pub const HUB_TOKENS: [&str; 2] = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];

/// Source: <https://docs.npmjs.com/cli/using-npm/config>. A lock file may name the host that its author used: that host is
/// replaced, whichever it is, so that no lock file has to be rewritten.
fn npm(context: &Context) -> ToolEnvironment {
    let mut it = ToolEnvironment::default();
    let Some(profile) = context.profile else { return it };
    match (context.gateway, profile.npm.list.first()) {
        (Some(gateway), _) => {
            it.set("npm_config_registry", format!("http://{GATEWAY_HOST}/npm/"));
            it.set("npm_config_proxy", gateway.proxy());
            it.set("npm_config_noproxy", "");
            // It has tried every place already; npm would wait ten and sixty seconds in between.
            it.set("npm_config_fetch_retries", "0");
            for name in ["npm_config_audit", "npm_config_fund", "npm_config_update_notifier"] {
                it.set(name, "false");
            }
        }
        (None, Some(Endpoint::Url(url))) => it.set("npm_config_registry", url.masked().clone()),
        (None, None) => it.set("npm_config_offline", "true"),
        (None, Some(Endpoint::Direct)) => {}
    }
    if it.set.contains_key("npm_config_registry") {
        it.set("npm_config_replace_registry_host", "always");
    }
    it.clear(context, mirror_variables(Tool::Npm));
    let off = |value: &String| matches!(value.as_str(), "false" | "0" | "");
    for name in ["npm_config_strict_ssl", "NPM_CONFIG_STRICT_SSL", "NODE_TLS_REJECT_UNAUTHORIZED"] {
        if context.environment.get(name).is_some_and(off) {
            it.refuse(
                context,
                name,
                tr!("it switches the check of certificates off; NODE_EXTRA_CA_CERTS adds an authority"),
            );
        }
    }
    it
}

/// apt takes its sources from a file only. Source: sources.list(5), apt.conf(5).
fn apt(context: &Context) -> ToolEnvironment {
    let mut it = ToolEnvironment::default();
    let Some(profile) = context.profile else { return it };
    let roots = match (context.gateway, profile.apt.list.first().and_then(UrlPair::urls)) {
        (Some(gateway), _) => {
            it.enter(context, gateway);
            Some((
                Masked::from(format!("http://{GATEWAY_HOST}/apt/base")),
                Masked::from(format!("http://{GATEWAY_HOST}/apt/security")),
            ))
        }
        (None, Some((base, security))) => Some((base.masked().clone(), security.masked().clone())),
        (None, None) => None,
    };
    if let Some((base, security)) = roots {
        let stanza = |url: &str, suites: &str| {
            format!(
                "Types: deb\nURIs: {url}\nSuites: {suites}\nComponents: main\n\
                 Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
            )
        };
        let both = |base: &str, security: &str| {
            let (release, fixes) = (context.suite, format!("{}-security", context.suite));
            format!("{}\n{}", stanza(base, &format!("{release} {release}-updates")), stanza(security, &fixes))
        };
        let sources =
            Masked::new(both(base.expose(), security.expose()), both(&base.to_string(), &security.to_string()));
        it.files.insert("debian.sources".to_owned(), sources);
    }
    it
}

/// huggingface_hub sends the token to whatever host HF_ENDPOINT names, from the variables and from its own file.
fn withhold_token(it: &mut ToolEnvironment, context: &Context, url: &MirrorUrl) {
    it.set("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1");
    for name in HUB_TOKENS {
        if context.environment.contains_key(name) {
            it.remove.insert(name.to_owned());
            it.notes.push(Note::Withheld { variable: name.to_owned(), host: url.host().to_owned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::direct::Known;
    use crate::mirror::{Egress, Layer, Profiles, Section};
    use std::env;
    use std::fs;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;
    use std::thread;

    const LAB: &str = "
        [mirror.lab.crates]
        list = ['sparse+https://u:secret@crates.lab/index/', 'direct']
        [mirror.lab.rustup]
        list = [['https://rust.lab/', 'https://rust.lab/rustup/']]
        [mirror.lab.go]
        proxy = ['https://u:secret@go.lab', 'https://go2.lab/proxy/', 'direct']
        sumdb = ['sum.golang.google.cn']
        [mirror.lab.python]
        list = ['https://python.lab/simple/']
        [mirror.lab.hub]
        endpoints = ['https://hub.lab/']
        [mirror.private.go]
        proxy = ['https://go.lab', 'direct']
        fallthrough = 'not-found'
    ";

    fn profile(name: &str, egress: Option<Egress>) -> Profile {
        #[derive(serde::Deserialize)]
        struct File {
            mirror: Section,
        }
        let File { mirror } = toml::from_str(LAB).unwrap();
        Profiles::new(vec![Layer { origin: "lab".into(), section: mirror }], Default::default())
            .unwrap()
            .resolve(name, egress)
            .unwrap()
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn defaults() -> Defaults {
        let go = Known::new("https://default.example,direct", "test");
        Defaults::from([(Ecosystem::Go, go)])
    }

    fn environment(
        tool: Tool,
        profile: Option<&Profile>,
        inherited: &[(&str, &str)],
        go_file: &[(&str, &str)],
    ) -> ToolEnvironment {
        let (environment, go_file, defaults) = (map(inherited), map(go_file), defaults());
        let context = Context {
            profile,
            environment: &environment,
            go_file: &go_file,
            defaults: &defaults,
            gateway: None,
            suite: "bookworm",
        };
        tool_environment(tool, &context)
    }

    fn applied(it: &ToolEnvironment, inherited: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut environment = map(inherited);
        it.apply(&mut environment);
        environment
    }

    fn notes(it: &ToolEnvironment) -> Vec<String> {
        it.notes.iter().map(Note::to_string).collect()
    }

    /// The mapping as the installed Go reads it, with `inherited` and a `go env -w` file in force.
    fn as_go_reads_it(
        profile: Option<&Profile>,
        inherited: &[(&str, &str)],
        file: &[(&str, &str)],
    ) -> BTreeMap<String, String> {
        let name = format!("xtask-goenv-{}-{:?}", std::process::id(), thread::current().id());
        let path = env::temp_dir().join(name);
        fs::write(&path, file.iter().map(|(name, value)| format!("{name}={value}\n")).collect::<String>()).unwrap();
        let mut inherited = inherited.to_vec();
        let goenv = path.display().to_string();
        inherited.push(("GOENV", &goenv));
        let mapping = environment(Tool::Go, profile, &inherited, file);
        let mut command = Command::new("go");
        command.args(["env", "-json"]).env_clear().envs(["PATH", "HOME"].map(|name| (name, env::var(name).unwrap())));
        let output = command.envs(applied(&mapping, &inherited)).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        fs::remove_file(path).unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    #[test]
    fn go_reads_the_list_the_separator_and_a_checksum_database() {
        let lab = as_go_reads_it(
            Some(&profile("lab", None)),
            &[("GOPROXY", "https://mine"), ("GOPRIVATE", "corp.example/*"), ("GOTOOLCHAIN", "auto")],
            &[],
        );
        assert_eq!(lab["GOPROXY"], "https://u:secret@go.lab|https://go2.lab/proxy/|https://default.example,direct");
        assert_eq!(lab["GOSUMDB"], "sum.golang.google.cn");
        assert_eq!((lab["GOTOOLCHAIN"].as_str(), lab["GOPRIVATE"].as_str()), ("local", "corp.example/*"));
        let private = as_go_reads_it(Some(&profile("private", None)), &[], &[]);
        assert_eq!(private["GOPROXY"], "https://go.lab,https://default.example,direct");
        let closed = as_go_reads_it(Some(&profile("lab", Some(Egress::MirrorsOnly))), &[], &[]);
        assert_eq!(closed["GOPROXY"], "https://u:secret@go.lab|https://go2.lab/proxy/");
        // What is private is fetched from its own host, unless nothing but the mirrors may be asked.
        let private = [("GOPRIVATE", "corp.example"), ("GONOPROXY", "*"), ("GOVCS", "*:all")];
        for (variables, file) in [(&private[..], &[][..]), (&[], &private)] {
            let read = |egress| as_go_reads_it(Some(&profile("lab", Some(egress))), variables, file);
            let (open, closed) = (read(Egress::PreferMirrors), read(Egress::MirrorsOnly));
            assert_eq!((open["GONOPROXY"].as_str(), open["GOVCS"].as_str()), ("*", "*:all"));
            assert_eq!((closed["GONOPROXY"].as_str(), closed["GOVCS"].as_str()), ("none", "*:off"));
            assert_eq!(closed["GOPRIVATE"], "corp.example");
        }
        let nothing = as_go_reads_it(Some(&profile("direct", Some(Egress::MirrorsOnly))), &[], &[]);
        assert_eq!(nothing["GOPROXY"], "off");
        // Go reads no further than its own `direct`: a default that is not last comes without it.
        let mut first = profile("lab", None);
        first.go.proxy.rotate_right(1);
        let list = &as_go_reads_it(Some(&first), &[], &[])["GOPROXY"];
        assert_eq!(list, "https://default.example|https://u:secret@go.lab|https://go2.lab/proxy/");
    }

    #[test]
    fn what_the_user_calls_private_is_known_as_go_knows_it() {
        let private =
            |variables: &[(&str, &str)], file: &[(&str, &str)]| go_private(&map(variables), &map(file)).join(" ");
        assert_eq!(private(&[("GOPRIVATE", "a.example, b.example/*,*")], &[]), "a.example b.example/*");
        assert_eq!(private(&[("GOPRIVATE", "a.example"), ("GONOPROXY", "b.example")], &[]), "b.example");
        assert_eq!(private(&[("GONOPROXY", "none")], &[("GOPRIVATE", "a.example")]), "");
        assert_eq!(private(&[], &[("GOPRIVATE", "a.example")]), "a.example");
    }

    #[test]
    fn go_never_gets_a_verification_switch_from_variable_or_file() {
        let untouched = as_go_reads_it(None, &[], &[]);
        assert!(!matches!(untouched["GOSUMDB"].as_str(), "" | "off"));
        let switches = [
            ("GOSUMDB", "off"),
            ("GOINSECURE", "*"),
            ("GOFLAGS", "-mod=mod -insecure"),
            ("GOPRIVATE", "*,corp.example"),
            ("GONOSUMDB", "*"),
        ];
        for profile in [None, Some(&profile("direct", None)), Some(&profile("cn", None))] {
            for (variables, file) in [(&switches[..], &[][..]), (&[], &switches)] {
                let go = as_go_reads_it(profile, variables, file);
                assert_eq!(go["GOSUMDB"], untouched["GOSUMDB"], "{variables:?} {file:?}");
                assert_eq!(go["GOINSECURE"], "");
                assert_eq!((go["GOFLAGS"].as_str(), go["GOPRIVATE"].as_str()), ("-mod=mod", "corp.example"));
                assert_eq!(go["GONOSUMDB"], "corp.example", "follows GOPRIVATE");
            }
        }
        let refused = environment(Tool::Go, None, &[("GOSUMDB", "off")], &[]);
        assert_eq!(
            notes(&refused),
            ["GOSUMDB=off is refused: the checksum database is what makes a module proxy safe"]
        );
        assert_eq!(environment(Tool::Go, None, &[("GONOSUMCHECK", "1")], &[]).remove.len(), 1);
    }

    #[test]
    fn without_a_profile_the_callers_settings_stand_and_direct_clears_them_and_says_so() {
        let mine = [
            ("GOPROXY", "https://mine"),
            ("PIP_INDEX_URL", "https://mine"),
            ("UV_INDEX", "https://mine"),
            ("HF_ENDPOINT", "https://mine"),
            ("RUSTUP_DIST_SERVER", "https://mine"),
        ];
        let direct = profile("direct", None);
        for (tool, (name, _)) in [Tool::Go, Tool::Pip, Tool::Uv, Tool::HuggingFace, Tool::Rustup].into_iter().zip(mine)
        {
            let off = environment(tool, None, &mine, &[]);
            assert_eq!((applied(&off, &mine).get(name).map(String::as_str), off.notes), (Some("https://mine"), vec![]));
            let direct = environment(tool, Some(&direct), &mine, &[]);
            assert_eq!(applied(&direct, &mine).get(name), None);
            assert_eq!(notes(&direct), [format!("{name} gives way to mirror `direct`")]);
        }
        assert_eq!(environment(Tool::Cargo, Some(&direct), &[], &[]), ToolEnvironment::default());
        let bare = without_mirror_variables(&map(&mine));
        assert_eq!(bare, BTreeMap::new());
    }

    #[test]
    fn nothing_that_is_shown_or_logged_holds_a_password() {
        let lab = profile("lab", None);
        for tool in Tool::ALL {
            let it = environment(tool, Some(&lab), &[], &[]);
            let shown = format!("{it:?} {} {:?}", serde_json::to_string(&it).unwrap(), it.arguments);
            assert!(!shown.contains("secret"), "{shown}");
        }
        let cargo = environment(Tool::Cargo, Some(&lab), &[("CARGO_SOURCE_CRATES_IO_REPLACE_WITH", "x")], &[]);
        let arguments: Vec<_> = cargo.arguments.iter().map(Masked::expose).collect();
        assert_eq!(
            arguments,
            [
                "--config",
                "source.crates-io.replace-with=\"xtask-mirror\"",
                "--config",
                "source.xtask-mirror.registry=\"sparse+https://u:secret@crates.lab/index/\"",
            ]
        );
        assert!(notes(&cargo)[0].starts_with("CARGO_SOURCE_CRATES_IO_REPLACE_WITH has no effect"));
    }

    #[test]
    fn the_hub_token_stays_at_home_unless_the_profile_says_otherwise() {
        let mut lab = profile("lab", None);
        let inherited = [("HF_TOKEN", "hf_secret")];
        let it = environment(Tool::HuggingFace, Some(&lab), &inherited, &[]);
        let given = applied(&it, &inherited);
        assert_eq!(
            given,
            map(&[
                ("HF_ENDPOINT", "https://hub.lab"),
                ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
                ("HF_HUB_DISABLE_XET", "1")
            ])
        );
        assert_eq!(notes(&it), ["HF_TOKEN is not sent to hub.lab; `send_token = true` in its profile allows it"]);
        lab.hub.send_token = true;
        let it = environment(Tool::HuggingFace, Some(&lab), &inherited, &[]);
        assert!(applied(&it, &inherited).contains_key("HF_TOKEN"));
    }

    #[test]
    fn pip_reads_the_index_and_trusts_no_host() {
        let inherited = [
            ("PIP_TRUSTED_HOST", "python.lab"),
            ("PIP_EXTRA_INDEX_URL", "https://mine"),
            ("PIP_CONFIG_FILE", "/dev/null"),
        ];
        let lab = profile("lab", None);
        let it = environment(Tool::Pip, Some(&lab), &inherited, &[]);
        assert_eq!(notes(&it).len(), 2, "{it:?}");
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "config", "list"]).env_clear();
        pip.envs(["PATH", "HOME"].map(|name| (name, env::var(name).unwrap()))).envs(applied(&it, &inherited));
        let output = pip.output().unwrap();
        if !output.status.success() {
            eprintln!("skipped: python3 has no pip: {}", String::from_utf8_lossy(&output.stderr));
            return;
        }
        let read = String::from_utf8(output.stdout).unwrap();
        assert!(read.contains(":env:.index-url='https://python.lab/simple/'"), "{read}");
        assert!(!read.contains("trusted") && !read.contains("extra"), "{read}");
    }

    #[test]
    fn rustup_gets_both_roots_without_their_slash_and_uv_its_index() {
        let lab = profile("lab", None);
        let rustup = environment(Tool::Rustup, Some(&lab), &[("RUSTUP_DIST_ROOT", "x")], &[]);
        let expected =
            map(&[("RUSTUP_DIST_SERVER", "https://rust.lab"), ("RUSTUP_UPDATE_ROOT", "https://rust.lab/rustup")]);
        assert_eq!(applied(&rustup, &[("RUSTUP_DIST_ROOT", "x")]), expected);
        let uv = environment(Tool::Uv, Some(&lab), &[("UV_INSECURE_HOST", "python.lab")], &[]);
        assert_eq!(
            applied(&uv, &[("UV_INSECURE_HOST", "x")]),
            map(&[("UV_DEFAULT_INDEX", "https://python.lab/simple/")])
        );
    }

    #[test]
    fn every_tool_is_led_through_the_gateway_by_exactly_these_rules() {
        let password = Masked::new("pass", "****");
        let gateway = Gateway { address: "127.0.0.1:7".into(), user: "step".into(), password };
        let (nothing, lab) = (BTreeMap::new(), profile("lab", None));
        let environment = map(&[("NO_PROXY", "corp.example,.invalid"), ("HF_TOKEN", "x"), ("UV_INDEX", "y")]);
        let told = |tool: Tool| {
            let (environment, defaults) = (&environment, &Defaults::new());
            let context = Context {
                profile: Some(&lab),
                environment,
                go_file: &nothing,
                defaults,
                gateway: Some(&gateway),
                suite: "s",
            };
            let it = tool_environment(tool, &context);
            let mut given = environment.clone();
            it.apply(&mut given);
            assert!(!it.arguments.iter().any(|argument| argument.expose().contains("pass")), "{tool:?}");
            (given, it.files)
        };
        let proxy = "http://step:pass@127.0.0.1:7";
        let through = [
            ("HTTP_PROXY", proxy),
            ("http_proxy", proxy),
            ("NO_PROXY", "corp.example"),
            ("HF_TOKEN", "x"),
            ("UV_INDEX", "y"),
        ];
        let with = |more: &[(&str, &str)], without: &[&str]| {
            let mut all = map(&through);
            all.extend(map(more));
            all.retain(|name, _| !without.contains(&name.as_str()));
            all
        };
        let go = [
            ("GOPROXY", "http://xtask-gateway.invalid/go"),
            ("GOTOOLCHAIN", "local"),
            ("GOSUMDB", "sum.golang.google.cn"),
        ];
        assert_eq!(told(Tool::Go).0, with(&go, &[]));
        let rustup = [
            ("RUSTUP_DIST_SERVER", "http://xtask-gateway.invalid/rustup/dist-server"),
            ("RUSTUP_UPDATE_ROOT", "http://xtask-gateway.invalid/rustup/update-root"),
        ];
        assert_eq!(told(Tool::Rustup).0, with(&rustup, &[]));
        let uv = [
            ("UV_DEFAULT_INDEX", "http://xtask-gateway.invalid/python/simple/"),
            ("UV_HTTP_TIMEOUT", "60"),
            ("UV_HTTP_RETRIES", "0"),
        ];
        assert_eq!(told(Tool::Uv).0, with(&uv, &["UV_INDEX"]));
        let hub = [
            ("HF_ENDPOINT", "http://xtask-gateway.invalid/hub"),
            ("HF_HUB_DISABLE_XET", "1"),
            ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
            ("HF_HUB_ETAG_TIMEOUT", "60"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "60"),
        ];
        assert_eq!(told(Tool::HuggingFace).0, with(&hub, &["HF_TOKEN"]));
        let pip = [
            ("PIP_INDEX_URL", "http://localhost/python/simple/"),
            ("PIP_PROXY", proxy),
            ("PIP_CONFIG_FILE", "/dev/null"),
            ("PIP_DEFAULT_TIMEOUT", "60"),
            ("PIP_RETRIES", "0"),
        ];
        let mut expected = environment.clone();
        expected.extend(map(&pip));
        assert_eq!(told(Tool::Pip).0, expected);
        let npm = [
            ("npm_config_registry", "http://xtask-gateway.invalid/npm/"),
            ("npm_config_proxy", proxy),
            ("npm_config_noproxy", ""),
            ("npm_config_replace_registry_host", "always"),
            ("npm_config_fetch_retries", "0"),
            ("npm_config_audit", "false"),
            ("npm_config_fund", "false"),
            ("npm_config_update_notifier", "false"),
        ];
        let mut expected = environment.clone();
        expected.extend(map(&npm));
        assert_eq!(told(Tool::Npm).0, expected);
        let (given, files) = told(Tool::Apt);
        assert_eq!(given, with(&[], &[]));
        let sources = files["debian.sources"].expose();
        for (url, suites) in [("base", "s s-updates"), ("security", "s-security")] {
            let lines = format!("URIs: http://xtask-gateway.invalid/apt/{url}\nSuites: {suites}\n");
            assert!(sources.contains(&lines), "{sources}");
        }
    }

    #[test]
    fn cargo_asks_the_gateway_by_its_constant_name_with_the_password_in_no_argument() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let password = Masked::new("pass", "****");
        let gateway = Gateway { address: listener.local_addr().unwrap().to_string(), user: "xtask".into(), password };
        let (environment, nothing, lab) = (map(&[("NO_PROXY", "*")]), BTreeMap::new(), profile("lab", None));
        let context = Context {
            profile: Some(&lab),
            environment: &environment,
            go_file: &nothing,
            defaults: &Defaults::new(),
            gateway: Some(&gateway),
            suite: "bookworm",
        };
        let it = tool_environment(Tool::Cargo, &context);
        assert!(!it.arguments.iter().any(|argument| argument.expose().contains("pass")));

        let folder = env::temp_dir().join(format!("xtask-cargo-{}", std::process::id()));
        fs::create_dir_all(folder.join("src")).unwrap();
        fs::write(folder.join("src/lib.rs"), "").unwrap();
        let manifest = "[package]\nname = 'a'\nversion = '0.1.0'\n[dependencies]\nleaf = '1'\n[workspace]\n";
        fs::write(folder.join("Cargo.toml"), manifest).unwrap();
        let asked = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            head
        });
        let mut cargo = Command::new(env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
        cargo.arg("fetch").args(it.arguments.iter().map(Masked::expose)).current_dir(&folder).env_clear();
        cargo.envs(
            env::vars()
                .filter(|(name, _)| matches!(name.as_str(), "PATH" | "HOME" | "RUSTUP_HOME" | "RUSTUP_TOOLCHAIN")),
        );
        cargo.envs(applied(&it, &[("NO_PROXY", "*")])).env("CARGO_HOME", folder.join("home"));
        assert!(!cargo.output().unwrap().status.success());
        // Ends the wait where cargo asked somebody else.
        let _ = TcpStream::connect(&gateway.address);
        let head = asked.join().unwrap();
        fs::remove_dir_all(folder).unwrap();
        assert_eq!(
            head.first().map(String::as_str),
            Some("GET http://xtask-gateway.invalid/crates/config.json HTTP/1.1")
        );
        // printf 'xtask:pass' | base64
        assert!(
            head.iter().any(|line| line.eq_ignore_ascii_case("proxy-authorization: Basic eHRhc2s6cGFzcw==")),
            "{head:?}"
        );
    }
}
