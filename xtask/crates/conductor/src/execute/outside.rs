//! How the outside is reached in this run: the profile in force, what `direct` means here, and the gateway, started when the first
//! byte is needed.
//!
//! Without a profile the tools are left to what the user configured; what we fetch ourselves comes from each tool's own
//! default. With one, every tool goes through the gateway, and so does our own fetching.

use super::push::credentials;
use super::{measure, samples};
use crate::cache::measured::{Measured, circumstances};
use crate::document::Source;
use crate::error::{Code, Error, ExitCode, Result};
use crate::files;
use crate::language;
use crate::mirror::direct::{self, Defaults, Machine};
use crate::mirror::env::{
    Context, Gateway as Door, HUB_TOKENS, Note, Tool, ToolEnvironment, go_private, tool_environment,
};
use crate::mirror::setup::{Places, base_places, defaults_needed, places};
use crate::mirror::{
    self, Ecosystem, Egress, Endpoint, Layer, Masked, MirrorUrl, Profile, Profiles, Unexpanded, Unresolved, UrlPair,
};
use crate::process::{self, Invocation};
use crate::project::Project;
use crate::registry::{BaseReference, RegistryPlace};
use crate::report::{Sink, ToolMapping};
use crate::satellite::{self, Gateway};
use crate::settings::{MirrorChoice, Origin, Settings, env};
use crate::tr;
use protocol::{Credentials, Limits, Pins, Proxy, SCHEMA, Setup, Upstream};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// What builds fetch from.
const BUILDS: [Ecosystem; 4] = [Ecosystem::Crates, Ecosystem::Go, Ecosystem::Python, Ecosystem::Hub];

/// The release that Debian packages are taken from.
pub const DEBIAN_RELEASE: &str = "bookworm";

pub struct Outside<'a> {
    settings: &'a Settings,
    project: &'a Project,
    profiles: Profiles,
    profile: Option<Profile>,
    sink: Sink,
    log: PathBuf,
    /// Our environment as text, for the mapping.
    environment: BTreeMap<String, String>,
    /// Whose defaults are asked for, beside those of what is needed: each answer costs a child or two.
    scope: BTreeSet<Ecosystem>,
    defaults: OnceLock<(Defaults, Vec<String>)>,
    /// Known hashes, told before the gateway starts.
    pins: Mutex<Pins>,
    /// Bounds of the launcher that builds the gateway.
    building: process::Deadline,
    /// What this run will fetch from, as far as somebody said: nobody else's endpoints are measured.
    needed: Mutex<BTreeSet<Ecosystem>>,
    gateway: Mutex<Option<std::sync::Arc<Gateway>>>,
    /// Programs of satellites that were built, so that steps side by side ask once.
    satellites: Mutex<BTreeMap<String, PathBuf>>,
}

impl<'a> Outside<'a> {
    pub fn new(settings: &'a Settings, project: &'a Project, sink: Sink, log: PathBuf) -> Result<Self> {
        let profiles = profiles(settings, project)?;
        let egress = settings.egress.as_ref().map(|egress| egress.value);
        let profile = match &settings.mirror.value {
            MirrorChoice::Off if egress.is_some_and(|egress| egress != Egress::Direct) => {
                let known = profiles.names().into_iter().collect::<Vec<_>>().join(", ");
                let message = tr!("`egress` says how far a mirror profile may be left, and none is in force");
                let error = match settings.egress.as_ref().map(|egress| egress.origin) {
                    Some(Origin::LocalFile) => settings.local.source.error(Code::NoProfile, &["egress"], &message),
                    _ => Error::new(Code::NoProfile, message),
                };
                return Err(error.hint(tr!("choose one with --mirror NAME ({known})", known)));
            }
            MirrorChoice::Off => None,
            MirrorChoice::Named(name) => Some(resolve(&profiles, name, egress, chosen_in(settings, project))?),
        };
        Ok(Self {
            environment: settings
                .environment
                .0
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), value.to_str()?.to_owned())))
                .collect(),
            settings,
            project,
            profiles,
            profile,
            sink,
            log,
            scope: BUILDS.into(),
            defaults: OnceLock::new(),
            pins: Mutex::default(),
            building: process::Deadline::BUILD,
            needed: Mutex::default(),
            gateway: Mutex::default(),
            satellites: Mutex::default(),
        })
    }

    /// The same for somebody who asks about every ecosystem, and not only about those that builds fetch from.
    pub fn for_every_ecosystem(mut self) -> Self {
        self.scope.extend(defaults_needed(None));
        self
    }

    /// The same for whoever cannot wait for a whole build of the gateway.
    pub fn building_within(mut self, whole: Duration) -> Self {
        self.building.whole = whole;
        self
    }

    /// What the mapping says of each tool's settings.
    pub fn notes(&self) -> Vec<(Tool, Note)> {
        let of = |tool: Tool| self.mapping(tool, None).notes.into_iter().map(move |note| (tool, note));
        Tool::ALL.into_iter().flat_map(of).collect()
    }

    /// Any profile by its name.
    pub fn resolved(&self, name: &str) -> Result<Profile> {
        resolve(&self.profiles, name, self.settings.egress.as_ref().map(|egress| egress.value), None)
    }

    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    /// Tells hashes that children's downloads must have. The gateway learns them when it starts, and gives out no crate that
    /// is not among them.
    pub fn pin(&self, tell: impl FnOnce(&mut Pins)) {
        tell(&mut self.pins.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Tells which ecosystems this run fetches from, before the first byte is asked for.
    pub fn need(&self, ecosystems: impl IntoIterator<Item = Ecosystem>) {
        self.needed.lock().unwrap_or_else(PoisonError::into_inner).extend(ecosystems);
    }

    /// What each tool's own default is, as far as this machine tells, and the ways to say what it does not.
    fn direct(&self) -> &(Defaults, Vec<String>) {
        self.defaults.get_or_init(|| {
            // Only what was made here may be removed afterwards: there is no other folder to fall back to.
            let scratch = match files::temporary_folder(&std::env::temp_dir(), "direct") {
                Ok(scratch) => scratch,
                Err(error) => {
                    return (Defaults::new(), vec![tr!("{error}: make TMPDIR a folder that can be written", error)]);
                }
            };
            let run = |argv: &[&str], environment: &BTreeMap<String, String>| {
                let (program, arguments) = argv.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
                process::capture_within(
                    direct::PATIENCE,
                    &Invocation {
                        program: PathBuf::from(program),
                        arguments: arguments.iter().map(OsString::from).collect(),
                        directory: PathBuf::from("/"),
                        environment: environment.iter().map(|(name, value)| (name.clone(), value.into())).collect(),
                    },
                )
            };
            // A chosen profile means that inherited mirror variables are not what `direct` stands for.
            let environment = match &self.profile {
                Some(_) => crate::mirror::env::without_mirror_variables(&self.environment),
                None => self.environment.clone(),
            };
            let machine = Machine {
                environment: &environment,
                current_dir: &self.settings.workspace.root,
                scratch: &scratch,
                read: &|path| std::fs::read_to_string(path),
                run: &run,
                pinned_go_env: None,
            };
            let needed = self.needed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let asked = &defaults_needed(self.profile.as_ref()) & &(&self.scope | &needed);
            let answer = direct::ask_all(&asked, &machine);
            let _ = files::remove(&scratch);
            answer
        })
    }

    /// rustup's servers in the order of the profile: where toolchains are, and where rustup itself is.
    pub fn rustup_servers(&self) -> Vec<(MirrorUrl, MirrorUrl)> {
        let direct = [UrlPair::Direct];
        let list = self.profile.as_ref().map_or(&direct[..], |profile| &profile.rustup.list);
        let servers = |pair: &UrlPair| match pair {
            UrlPair::Urls(dist, root) => Some((dist.clone(), root.clone())),
            UrlPair::Direct => self.direct().0.get(&Ecosystem::Rustup)?.pair(),
        };
        list.iter().filter_map(servers).collect()
    }

    /// The values of `go env -w` that steer fetching.
    pub fn go_user_configuration(&self) -> BTreeMap<String, String> {
        self.go_file().into_iter().filter(|(name, _)| env::GO_FETCH.contains(&name.as_str())).collect()
    }

    fn go_file(&self) -> BTreeMap<String, String> {
        let machine = Machine {
            environment: &self.environment,
            current_dir: &self.settings.workspace.root,
            scratch: &self.settings.workspace.root,
            read: &|path| std::fs::read_to_string(path),
            run: &|_, _| Err(std::io::ErrorKind::Unsupported.into()),
            pinned_go_env: None,
        };
        direct::go_environment_file(&machine).map(|(_, values)| values).unwrap_or_default()
    }

    fn mapping(&self, tool: Tool, door: Option<&Door>) -> ToolEnvironment {
        let known = Defaults::new();
        // Only Go's plain list holds defaults; asking is not free, so nobody else does.
        let defaults = match (&self.profile, tool, door) {
            (Some(profile), Tool::Go, None)
                if profile.go.proxy.contains(&Endpoint::Direct) && !self.settings.offline.value =>
            {
                &self.direct().0
            }
            _ => &known,
        };
        let context = Context {
            profile: self.profile.as_ref(),
            environment: &self.environment,
            go_file: &self.go_file(),
            defaults,
            gateway: door,
            suite: DEBIAN_RELEASE,
        };
        tool_environment(tool, &context)
    }

    fn route(&self) -> Route {
        match (&self.profile, self.settings.offline.value) {
            (None, false) => Route::Configured,
            (None, true) => Route::Nowhere,
            (Some(_), false) => Route::Gateway,
            (Some(_), true) => Route::Store,
        }
    }

    /// What a tool that works for a step is told, so that it reaches what it may reach.
    pub fn tool(&self, tool: Tool, step: &str) -> Result<ToolEnvironment> {
        let door = |gateway: &Gateway| Door {
            address: gateway.door.address.clone(),
            user: protocol::user_of_step(step),
            password: Masked::new(gateway.door.password.clone(), "***"),
        };
        Ok(match self.route() {
            Route::Configured => self.mapping(tool, None),
            Route::Gateway => self.mapping(tool, Some(&door(&*self.gateway()?))),
            Route::Nowhere => closed(tool, self.mapping(tool, None)),
            Route::Store => match self.gateway() {
                Ok(gateway) => self.mapping(tool, Some(&door(&gateway))),
                // It was never built. The same names as through it, so that what it brought is found; nobody answers.
                Err(_) => {
                    let nobody =
                        Door { address: "127.0.0.1:9".to_owned(), user: String::new(), password: Masked::from("") };
                    closed(tool, self.mapping(tool, Some(&nobody)))
                }
            },
        })
    }

    /// For a tool that needs nothing from outside any more: nothing is started for it.
    pub fn tool_without_fetching(&self, tool: Tool) -> ToolEnvironment {
        closed(tool, self.mapping(tool, None))
    }

    /// Who delivers Go modules, for messages.
    pub fn go_proxies(&self) -> String {
        match &self.profile {
            Some(profile) => tr!("mirror {name}", name = profile.name),
            None => self.environment.get("GOPROXY").cloned().unwrap_or_else(|| tr!("Go's own default")),
        }
    }

    /// What every tool would get in a run that starts those of `planned`. Starts and contacts nothing.
    pub fn mappings(&self, planned: &BTreeSet<Tool>) -> Vec<ToolMapping> {
        let door =
            Door { address: "127.0.0.1:PORT".to_owned(), user: "STEP".to_owned(), password: Masked::new("***", "***") };
        let door = self.profile.is_some().then_some(&door);
        let of = |tool| ToolMapping { started: planned.contains(&tool), ..told(tool, &self.mapping(tool, door)) };
        Tool::ALL.into_iter().map(of).collect()
    }

    /// What people who use the tools by hand would set: no gateway runs for them, so nothing falls back.
    pub fn plain_mappings(&self) -> Vec<ToolMapping> {
        Tool::ALL.into_iter().map(|tool| told(tool, &self.mapping(tool, None))).collect()
    }

    /// The same with what they hold, for whoever exports them.
    pub fn plain(&self, tool: Tool) -> ToolEnvironment {
        self.mapping(tool, None)
    }

    /// The hosts that `ecosystems` may lead to, by its name; last those that endpoints of the profile lead to.
    pub fn hosts(&self, ecosystems: &BTreeSet<Ecosystem>) -> Vec<(String, Vec<String>)> {
        if self.settings.offline.value || ecosystems.is_empty() {
            return Vec::new();
        }
        self.need(ecosystems.iter().copied());
        let (defaults, _) = self.direct();
        let mut by_ecosystem = match &self.profile {
            Some(profile) => profile.hosts(defaults),
            None => defaults.iter().map(|(it, known)| (*it, known.all_hosts(*it))).collect(),
        };
        // Of registries only those of bases.
        by_ecosystem.insert(Ecosystem::Oci, self.base_hosts());
        let listed = by_ecosystem.into_iter().filter(|(it, _)| ecosystems.contains(it));
        let mut hosts: Vec<_> = listed.map(|(it, hosts)| (satellite::name(&it), hosts)).collect();
        // No ecosystem's own.
        let led_to = self.profile.iter().flat_map(|profile| profile.hosts.iter().map(ToString::to_string));
        hosts.push((tr!("what these lead to"), led_to.collect()));
        for (_, hosts) in &mut hosts {
            let mut seen = BTreeSet::new();
            hosts.retain(|host| seen.insert(host.clone()));
        }
        hosts.retain(|(_, hosts)| !hosts.is_empty());
        hosts
    }

    /// The gateway of this run, started on first use. With `--mirror auto` it knows the fastest before it is asked.
    pub fn gateway(&self) -> Result<std::sync::Arc<Gateway>> {
        self.started(self.profile.as_ref().is_some_and(|profile| profile.name == mirror::AUTO))
    }

    /// For who measures himself.
    pub fn gateway_unmeasured(&self) -> Result<std::sync::Arc<Gateway>> {
        self.started(false)
    }

    fn started(&self, measured: bool) -> Result<std::sync::Arc<Gateway>> {
        let mut gateway = self.gateway.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &*gateway {
            return Ok(std::sync::Arc::clone(running));
        }
        let program = self.satellite("gateway", &tr!("the gateway"))?;
        // Its own variables reach it through the setup; the environment only says where it is.
        let environment =
            self.settings.environment.only(&["PATH", "HOME", "TMPDIR", "LANG", "RUST_BACKTRACE", "XTASK_GATEWAY_LOG"]);
        let invocation =
            Invocation { program, arguments: Vec::new(), directory: self.settings.workspace.root.clone(), environment };
        let begun = Instant::now();
        let setup = Setup { bases: self.bases()?, ..self.setup() };
        self.check_proxy(&setup.proxy)?;
        let spent = begun.elapsed();
        let started = std::sync::Arc::new(Gateway::start(invocation, &setup, self.log.clone(), self.sink.clone())?);
        if measured && !self.settings.offline.value {
            let needed = self.needed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let needed = if needed.is_empty() { BUILDS.into() } else { needed };
            let needed = needed.into_iter().filter_map(Ecosystem::protocol).collect();
            measure::choose(&started, self.settings, &setup, &needed, spent, &self.sink)?;
        }
        *gateway = Some(std::sync::Arc::clone(&started));
        Ok(started)
    }

    /// Where the bases of declared images are pulled from, in a run that may need one: who keeps a login may ask a person.
    fn bases(&self) -> Result<BTreeMap<String, Vec<Upstream>>> {
        let needed = self.needed.lock().unwrap_or_else(PoisonError::into_inner).contains(&Ecosystem::Oci);
        let mut bases = BTreeMap::new();
        if !needed || self.settings.offline.value {
            return Ok(bases);
        }
        for base in self.project.declaration.registry_bases() {
            let login = || Ok(credentials(self.settings, &base.place())?.map(|(login, _)| login));
            bases.insert(base.name(), self.base_places(base, login)?);
        }
        Ok(bases)
    }

    fn base_places(
        &self,
        base: &BaseReference,
        login: impl FnOnce() -> Result<Option<Credentials>>,
    ) -> Result<Vec<Upstream>> {
        base_places(self.profile.as_ref(), &base.host, &base.repository, &base.place().origin(), login)
    }

    /// The hosts that bases are pulled from.
    fn base_hosts(&self) -> Vec<String> {
        let bases = self.project.declaration.registry_bases();
        let places = bases.flat_map(|base| self.base_places(base, || Ok(None)).unwrap_or_default());
        places.filter_map(|place| Some(MirrorUrl::parse(&place.url).ok()?.host_with_port())).collect()
    }

    /// The gateway speaks http to a proxy; said here, where the variable's name is known.
    fn check_proxy(&self, proxy: &Proxy) -> Result<()> {
        let Some(url) = [&proxy.https, &proxy.http].into_iter().flatten().find(|url| url.starts_with("socks")) else {
            return Ok(());
        };
        let names = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
        let variable = names.into_iter().find(|name| self.environment.get(*name) == Some(url)).unwrap_or("proxy");
        let message =
            tr!("{variable} names a SOCKS proxy, {url}, and this tool speaks to http proxies only", variable, url);
        Err(Error::new(Code::NoEndpoint, message).hint(tr!(
            "the same program mostly has an http port too: export HTTPS_PROXY=http://127.0.0.1:PORT HTTP_PROXY=http://127.0.0.1:PORT"
        )))
    }

    /// What the gateway refused to children of a step since the last call for it.
    pub fn refused(&self, step: &str) -> Option<Error> {
        let gateway = self.gateway.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let refused = gateway.and_then(|gateway| gateway.refused(step))?;
        Some(if self.settings.offline.value { self.with_ways(refused) } else { refused })
    }

    /// The program of a satellite, built if it is not there. `what`: as a person calls it.
    pub fn satellite(&self, package: &str, what: &str) -> Result<PathBuf> {
        let mut satellites = self.satellites.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = satellites.get(package) {
            return Ok(program.clone());
        }
        let program = self.built(package, what)?;
        satellites.insert(package.to_owned(), program.clone());
        Ok(program)
    }

    fn built(&self, package: &str, what: &str) -> Result<PathBuf> {
        let Some(launcher) = &self.settings.launcher else {
            return Err(Error::bug(tr!("{what} is built by the launcher, which did not start this process", what))
                .hint(tr!("start this program as `cargo xtask`")));
        };
        let mut arguments: Vec<OsString> = vec!["--build-satellite".into(), package.into()];
        if let Some(profile) = &self.profile {
            arguments.extend(["--mirror".into(), profile.name.clone().into()]);
        }
        if self.settings.offline.value {
            arguments.push("--offline".into());
        }
        if let Some(egress) = &self.settings.egress {
            arguments.extend(["--egress".into(), satellite::name(&egress.value).into()]);
        }
        let spoken = language::WORDS.iter().find(|(_, language)| *language == language::current());
        arguments.extend(spoken.into_iter().flat_map(|(word, _)| ["--lang".into(), (*word).into()]));
        // The profile may be one that the checkout at hand defines.
        arguments.extend(["--repo".into(), self.settings.workspace.root.clone().into()]);
        let invocation = Invocation {
            program: launcher.clone(),
            arguments,
            directory: self.settings.workspace.root.clone(),
            // The launcher starts cargo as the user would: it gets everything.
            environment: self.settings.environment.0.clone(),
        };
        let mut path = None;
        let finished = process::run(&invocation, self.building, &self.log, |stream, text| match stream {
            process::Stream::Out => match text.strip_prefix("contacted ") {
                Some(host) => self.sink.contacted_by_launcher(host),
                None => path = Some(PathBuf::from(text)),
            },
            process::Stream::Err => self.sink.note(text),
        })?;
        let code = finished.status.code();
        let failed = finished.into_result(&tr!("building {what}", what));
        match (failed, path) {
            (Ok(_), Some(path)) => Ok(path),
            (Err(error), _) if code == Some(ExitCode::Network as i32) => Err(self.unreachable(error)),
            (Err(error), _) => Err(error),
            (Ok(_), None) => Err(Error::bug(tr!("the launcher did not say where {what} is", what))),
        }
    }

    /// What the gateway is told. It holds credentials.
    pub fn setup(&self) -> Setup {
        let variable = |names: [&str; 2]| {
            names.iter().find_map(|name| self.environment.get(*name).cloned()).filter(|it| !it.is_empty())
        };
        let offline = self.settings.offline.value;
        let token = HUB_TOKENS.iter().find_map(|name| self.environment.get(*name)).filter(|it| !it.is_empty());
        let mut places = match &self.profile {
            _ if offline => Places::default(),
            profile => places(profile.as_ref(), &self.direct().0, token.map(String::as_str)),
        };
        // Where Go may not fetch them from their own hosts: of nobody, rather than of a mirror.
        if self.profile.as_ref().is_some_and(|it| it.egress == Egress::MirrorsOnly) {
            let names = go_private(&self.environment, &self.go_file());
            if !names.is_empty() {
                let private = places.private.entry(protocol::Ecosystem::Go).or_default();
                private.push(protocol::Private { names, upstreams: Vec::new() });
            }
        }
        let own_proxy =
            self.profile.as_ref().and_then(|profile| profile.proxy.as_ref()).map(|url| url.expose().to_owned());
        let own_exceptions =
            self.profile.as_ref().map(|profile| profile.no_proxy.join(",")).filter(|it| !it.is_empty());
        let (samples, sampled) = samples::samples(self.settings, self.project);
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner).clone();
        pins.crates.extend(sampled.crates);
        pins.go_sums.extend(sampled.go_sums);
        pins.wheels.extend(sampled.wheels);
        pins.npm.extend(sampled.npm);
        pins.hub.extend(sampled.hub);
        pins.channels.extend(sampled.channels);
        let bundle = self.profile.as_ref().and_then(|profile| profile.ca_bundle.as_ref());
        let mut setup = Setup {
            schema: SCHEMA,
            downloads: self.settings.cache.downloads(),
            upstreams: places.upstreams,
            only_after_absence: places.only_after_absence,
            databases: places.databases,
            registries: places.registries,
            bases: BTreeMap::new(),
            files: places.files,
            private: places.private,
            allowed_hosts: if offline { Some(BTreeSet::new()) } else { places.allowed_hosts },
            pins,
            samples,
            measured: Vec::new(),
            proxy: Proxy {
                https: own_proxy
                    .clone()
                    .or_else(|| variable(["HTTPS_PROXY", "https_proxy"]))
                    .or_else(|| variable(["ALL_PROXY", "all_proxy"])),
                http: own_proxy
                    .or_else(|| variable(["HTTP_PROXY", "http_proxy"]))
                    .or_else(|| variable(["ALL_PROXY", "all_proxy"])),
                no_proxy: own_exceptions.or_else(|| variable(["NO_PROXY", "no_proxy"])),
            },
            ca_bundles: variable(["SSL_CERT_FILE"; 2]).map(PathBuf::from).into_iter().collect(),
            further_authorities: bundle.map(|path| self.settings.workspace.root.join(path)).into_iter().collect(),
            limits: Limits::default(),
        };
        setup.measured = circumstances(&setup)
            .map(|circumstances| Measured::open(&self.settings.cache).fresh(circumstances))
            .unwrap_or_default();
        setup
    }

    /// Adds the ways to say a default that this machine does not know, where that is what was missing.
    pub fn with_ways(&self, error: Error) -> Error {
        if !matches!(error.exit(), ExitCode::Network | ExitCode::Configuration) {
            return error;
        }
        if self.settings.offline.value {
            return self.not_here(error.to_string());
        }
        if error.exit() != ExitCode::Configuration {
            return error;
        }
        let ways = self.direct().1.clone();
        ways.into_iter()
            .fold(error, |error, way| error.hint(way))
            .hint(tr!("or choose a mirror profile with --mirror NAME"))
    }

    /// Whether this run may push to a registry; asked before anything is made.
    pub fn must_reach(&self, place: &RegistryPlace) -> Result<()> {
        let host = place.authority();
        if self.settings.offline.value {
            return Err(Error::new(Code::Offline, tr!("--offline forbids pushing to {host}", host))
                .hint(tr!("push without it, or make a layout with --to oci:DIR and push that later")));
        }
        match &self.profile {
            Some(it) if it.egress == Egress::MirrorsOnly && !it.allowed_hosts(&Defaults::new()).contains(&host) => {
                Err(Error::new(
                    Code::OutsideProfile,
                    tr!("`mirrors-only` forbids to contact {host}, and nothing is pushed to a mirror", host),
                )
                .hint(satellite::let_in(&host, &it.name)))
            }
            _ => Ok(()),
        }
    }

    /// What `--offline` cannot do without.
    pub fn not_here(&self, what: String) -> Error {
        Error::new(Code::Offline, tr!("what is needed is not here, and --offline forbids fetching it"))
            .because(std::io::Error::other(what))
            .hint(tr!("run once without --offline"))
    }

    /// A child that could not fetch: a network failure, with what helps here.
    pub fn unreachable(&self, error: Error) -> Error {
        let hint = match (&self.profile, self.settings.offline.value) {
            (_, true) => tr!("--offline forbids fetching; run once without it"),
            (None, _) => {
                tr!("choose a mirror profile with --mirror NAME (see `cargo xtask mirror list`), or set HTTPS_PROXY")
            }
            (Some(profile), _) => {
                tr!(
                    "add endpoints under [mirror.{name}.…] in xtask.local.toml, or choose another profile",
                    name = profile.name
                )
            }
        };
        let code = if self.settings.offline.value { Code::Offline } else { Code::Unreachable };
        let mut network = Error::new(code, tr!("what is needed could not be fetched")).hint(hint);
        for old in error.hints() {
            network = network.hint(old.clone());
        }
        let excerpt = error.excerpt_text().unwrap_or_default().to_owned();
        network.because(error).excerpt(excerpt)
    }
}

/// How children reach what they need in this run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Route {
    /// No profile: as the user configured each tool.
    Configured,
    /// A profile: everything through the gateway.
    Gateway,
    /// `--offline` with a profile: through a gateway that asks nobody and serves what it has.
    Store,
    /// `--offline` without one: each tool has what it has.
    Nowhere,
}

fn told(tool: Tool, mapping: &ToolEnvironment) -> ToolMapping {
    ToolMapping {
        tool: satellite::name(&tool),
        set: mapping.set.iter().map(|(name, value)| (name.clone(), value.to_string())).collect(),
        removed: mapping.remove.iter().cloned().collect(),
        arguments: mapping.arguments.iter().map(ToString::to_string).collect(),
        files: mapping.files.iter().map(|(name, text)| (name.clone(), text.to_string())).collect(),
        notes: mapping.notes.iter().map(ToString::to_string).collect(),
        started: true,
    }
}

/// The same without any way out, in the words of tools that are told so by a variable.
fn closed(tool: Tool, mut mapping: ToolEnvironment) -> ToolEnvironment {
    match tool {
        Tool::Cargo => drop(mapping.set.insert("CARGO_NET_OFFLINE".to_owned(), "true".into())),
        Tool::Go => drop(mapping.set.insert("GOPROXY".to_owned(), "off".into())),
        _ => {}
    }
    mapping
}

/// The profiles that are built in, declared and defined here, whether or not the one that is chosen is among them.
pub fn profiles(settings: &Settings, project: &Project) -> Result<Profiles> {
    let layer =
        |origin: &str, section: &crate::mirror::Section| Layer { origin: origin.to_owned(), section: section.clone() };
    let layers =
        vec![layer("xtask.local.toml", &settings.local.mirror), layer("xtask.toml", &project.declaration.mirror)];
    let text = |(name, value): (&String, &OsString)| Some((name.clone(), value.to_str()?.to_owned()));
    let variables = settings.environment.0.iter().filter_map(text).collect();
    Profiles::new(layers, variables).map_err(|error| Error::bug(tr!("the built-in profiles")).because(error))
}

/// The file whose `mirror.use` names the profile in force.
pub fn chosen_in<'p>(settings: &'p Settings, project: &'p Project) -> Option<&'p Source> {
    match settings.mirror.origin {
        Origin::LocalFile => Some(&settings.local.source),
        Origin::Declaration => Some(&project.source),
        _ => None,
    }
}

/// `source`: the file whose `mirror.use` named it.
pub fn resolve(profiles: &Profiles, name: &str, egress: Option<Egress>, source: Option<&Source>) -> Result<Profile> {
    profiles.resolve(name, egress).map_err(|unresolved| {
        let message = unresolved.to_string();
        let hint = match &unresolved {
            Unresolved::Unknown { known, nearest: Some(near), .. } => {
                tr!("did you mean `{near}`? Known: {known}", near, known = known.join(", "))
            }
            Unresolved::Unknown { known, .. } => {
                let known = known.join(", ");
                tr!("known profiles: {known}; define one as [mirror.{name}.…] in xtask.local.toml", known, name)
            }
            Unresolved::Variables { key, source, .. } => {
                let error = Error::new(Code::WrongValue, &message).because(source.to_string());
                let instead = tr!("say [mirror.{name}.{key}] in xtask.local.toml without it", name, key);
                return error.hint(match &**source {
                    Unexpanded::Unset(variable) => tr!("export {variable}=…, or {instead}", variable, instead),
                    _ => instead,
                });
            }
        };
        match source {
            Some(source) => source.error(Code::NoProfile, &["mirror", "use"], &message),
            None => Error::new(Code::NoProfile, message),
        }
        .hint(hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::{Declaration, Local};
    use crate::workspace::Workspace;

    #[test]
    fn what_offline_forbids_is_not_blamed_on_a_profile() {
        let declaration: Declaration = toml::from_str("project = { name = 'x' }").unwrap();
        let project = Project { declaration, pins: Default::default(), source: Default::default() };
        let failure = protocol::Failure {
            kind: protocol::FailureKind::Configuration,
            subject: "wheel six".into(),
            message: "there is no upstream that may be asked for it".into(),
            attempts: Vec::new(),
        };
        let told = |offline: bool| {
            let args = crate::cli::Global { offline, ..Default::default() };
            let environment = env::Environment([("HOME".to_owned(), "/home/me".into())].into());
            let (workspace, declared) = (Workspace { root: "/repo".into() }, &project.declaration);
            let settings = Settings::resolve(&args, workspace, environment, Local::default(), declared, false).unwrap();
            let outside = Outside::new(&settings, &project, Sink::nowhere(), "log".into()).unwrap();
            outside.with_ways(satellite::explain(&failure, &BTreeMap::new())).render()
        };
        expect_test::expect![[r#"
            error[XT0402]: what is needed is not here, and --offline forbids fetching it
              caused by: wheel six: there is no upstream that may be asked for it
            hint: run once without --offline"#]]
        .assert_eq(&told(true));
        let online = told(false);
        assert!(online.contains("hint: list one under [mirror.") && online.contains("--mirror NAME"), "{online}");
    }

    #[test]
    fn the_gateway_gets_plain_urls_in_the_order_of_the_profile() {
        let declaration: Declaration = toml::from_str("project = { name = 'x' }").unwrap();
        let args =
            crate::cli::Global { mirror: Some("cn".into()), egress: Some("mirrors-only".into()), ..Default::default() };
        let environment = env::Environment([("HOME".to_owned(), "/home/me".into())].into());
        let workspace = Workspace { root: "/repo".into() };
        let settings = Settings::resolve(&args, workspace, environment, Local::default(), &declaration, false).unwrap();
        let project = Project { declaration, pins: Default::default(), source: Default::default() };
        let outside = Outside::new(&settings, &project, Sink::nowhere(), "log".into()).unwrap();
        let upstreams = outside.setup().upstreams;
        let first = |ecosystem| upstreams[&ecosystem][0].clone();
        assert_eq!(first(protocol::Ecosystem::Crates).url, "https://rsproxy.cn/index/");
        assert_eq!(first(protocol::Ecosystem::Go).url, "https://goproxy.cn");
        assert_eq!(first(protocol::Ecosystem::Go).origin, "mirror cn");
        let all = upstreams.values().flatten();
        assert!(all.clone().count() > 8);
        assert!(all.into_iter().all(|upstream| upstream.url.starts_with("http")));
    }
}
