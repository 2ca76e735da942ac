//! Looking: every question at once, each on a thread of its own, and whatever has not answered when the time is up stays open.
//!
//! The only part of doctor that touches the machine. It writes a scratch program and a log, and nothing else.

use super::configuration::{self, CaFile, File};
use super::machine::{Cache, CacheFacts, Engine, Port, Project as Pinned, Volume};
use super::network::{self, Measured, SetProxy};
use super::toolchain::{self, RustChoice};
use super::{Answer, Facts, Group, Privacy, Trouble, certificate, message};
use crate::cache::gc::{Kind, Survey};
use crate::cache::store::Store;
use crate::error::{Code, Error, Result, masked};
use crate::execute::outside::{self, Outside};
use crate::facts;
use crate::files;
use crate::loopback;
use crate::platform::Platform;
use crate::process::{self, Invocation};
use crate::project::leaks::{self, Leaks};
use crate::project::{ModelSource, Project};
use crate::report::{Event, Sink};
use crate::satellite;
use crate::settings::{Settings, env};
use crate::tr;
use crate::workspace::{OFFLINE, Workspace};
use protocol::Ecosystem;
use rustix::fs::Access;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// All of doctor takes five seconds at most; the rest is for the start of cargo, the launcher and this program.
const BUDGET: Duration = Duration::from_millis(3700);
/// How long the launcher may try to build the gateway, with what ending it may take left over.
const BUILDING: Duration = Duration::from_millis(2400);
/// What a started gateway takes to answer beyond the time that it may measure.
const ANSWERING: Duration = Duration::from_millis(300);
/// What measuring has at least, however long the tools took to name their defaults: more than the gateway asks for before it calls
/// an endpoint dead.
const SHARE: Duration = Duration::from_millis(1200);
/// Of each log; the lines that are translated stand near its end or in a short one.
const LOG_BYTES: u64 = 4 << 20;

const MANAGERS: [&str; 5] = ["apt-get", "dnf", "apk", "pacman", "zypper"];
/// What a linker needs beside the compiler, by package manager.
const LINKING: [(&str, &str); 5] = [
    ("apt-get", "gcc libc6-dev"),
    ("dnf", "gcc glibc-devel"),
    ("apk", "gcc musl-dev"),
    ("pacman", "gcc"),
    ("zypper", "gcc glibc-devel"),
];

/// `drift`: where xtask.lock is not what xtask.toml asks for.
pub fn gather(settings: &Settings, project: &Project, groups: &BTreeSet<Group>, drift: Vec<String>) -> Result<Facts> {
    let deadline = Instant::now() + BUDGET;
    let wants = |group| groups.contains(&group);
    let outside = Outside::new(settings, project, Sink::nowhere(), log_of(settings))?;
    // Everything is asked before anything is waited for.
    let network = wants(Group::Mirrors).then(|| measure(settings, project, deadline));
    let tools = wants(Group::Toolchain).then(|| Tools::ask(settings, project));
    let survey = wants(Group::Cache).then(|| {
        let cache = settings.cache.clone();
        asked(move || Survey::of(&cache, &Store::at(&cache)))
    });
    let leaks = wants(Group::Project).then(|| {
        let (settings, project) = (settings.clone(), project.clone());
        asked(move || leaks(&settings, &project))
    });
    let engines = wants(Group::Engine)
        .then(|| engine_places(settings).into_iter().map(|it| asked(move || engine(it))).collect::<Vec<_>>());

    let mut facts = Facts { privacy: privacy(settings), ..Facts::default() };
    if wants(Group::Disk) {
        facts.disk = Some(volumes(settings, project));
    }
    if wants(Group::Ports) {
        facts.ports = Some(ports(settings, project));
    }
    if wants(Group::Mirrors) {
        facts.configuration = Some(configuration(settings, &outside));
        facts.messages = messages(&settings.workspace);
    }
    facts.toolchain = tools.map(|tools| tools.collect(settings, project, outside.profile().is_some(), deadline));
    facts.engines = engines.map(|engines| engines.into_iter().filter_map(|it| left(&it, deadline)).flatten().collect());
    facts.project =
        leaks.map(|leaks| Pinned { drift, leaks: left(&leaks, deadline).map(|it| it.map_err(Trouble::from)) });
    facts.cache = survey.map(|survey| cache(settings, left(&survey, deadline)));
    facts.network = network.map(|measured| {
        let late = || Measured::Not { why: tr!("the gateway did not answer in time"), evidence: Vec::new() };
        self::network(settings, project, &outside, left(&measured, deadline + SHARE + ANSWERING).unwrap_or_else(late))
    });
    Ok(facts)
}

/// Tracked lock files and settings that name a mirror.
fn leaks(settings: &Settings, project: &Project) -> Result<Vec<Leaks>> {
    let git = settings.environment.find("git");
    let git = git.ok_or_else(|| Error::new(Code::NoAnswer, tr!("there is no git on PATH")))?;
    let root = &settings.workspace.root;
    let tracked = captured(&git, &["ls-files".into(), "-z".into()], settings, root)?;
    let watched = tracked.split('\0').filter(|path| leaks::watched(path));
    leaks::find(root, watched, &outside::profiles(settings, project)?.mirror_hosts())
}

fn asked<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (sender, answer) = mpsc::channel();
    // Not joined: what hangs ends with this process.
    thread::spawn(move || sender.send(work()));
    answer
}

fn left<T>(answer: &Receiver<T>, deadline: Instant) -> Option<T> {
    answer.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
}

fn log_of(settings: &Settings) -> PathBuf {
    settings.workspace.logs().join("doctor.log")
}

fn privacy(settings: &Settings) -> Privacy {
    let get = |name: &str| settings.environment.get(name).map(str::to_owned);
    Privacy { home: get("HOME"), users: ["USER", "LOGNAME"].into_iter().filter_map(get).collect() }
}

/// Questions to installed tools under way.
struct Tools {
    rust: Receiver<Result<(String, String)>>,
    compiler: Receiver<Result<(String, String)>>,
    go: Receiver<Result<facts::Go>>,
    python: Receiver<Result<facts::Python>>,
    git: Receiver<Result<String>>,
}

impl Tools {
    fn ask(settings: &Settings, project: &Project) -> Self {
        fn with<T: Send + 'static>(
            settings: &Settings,
            project: &Project,
            ask: impl FnOnce(&facts::Probe) -> Result<T> + Send + 'static,
        ) -> Receiver<Result<T>> {
            let (settings, project) = (settings.clone(), project.clone());
            asked(move || {
                let stats = crate::cache::stat::StatIndex::open(settings.workspace.stat_index());
                ask(&facts::Probe::new(&settings, &project, &stats))
            })
        }
        let first_line = |text: &str| text.lines().next().unwrap_or_default().trim().to_owned();
        Self {
            rust: with(settings, project, move |probe| {
                probe.rust().map(|rust| (first_line(&rust.cargo_version), first_line(&rust.version)))
            }),
            compiler: with(settings, project, |probe| {
                let compiler = probe.compiler()?;
                links(&compiler.path, probe.settings)?;
                Ok((compiler.version.lines().next().unwrap_or_default().to_owned(), compiler.libc))
            }),
            go: with(settings, project, |probe| probe.go()),
            python: with(settings, project, |probe| probe.python()),
            git: with(settings, project, move |probe| {
                let git = probe.settings.environment.find("git");
                let git = git.ok_or_else(|| {
                    Error::new(Code::NoAnswer, tr!("there is no git on PATH"))
                        .hint(facts::install(probe.settings, &MANAGERS.map(|manager| (manager, "git"))))
                })?;
                Ok(first_line(&captured(&git, &["--version".into()], probe.settings, Path::new("/"))?))
            }),
        }
    }

    fn collect(
        self,
        settings: &Settings,
        project: &Project,
        gateway_scans: bool,
        deadline: Instant,
    ) -> toolchain::Facts {
        fn answer<T>(from: &Receiver<Result<T>>, deadline: Instant) -> Answer<T> {
            left(from, deadline).map(|answer| answer.map_err(Trouble::from))
        }
        let on_path = |name: &&str| settings.environment.find(name).is_some();
        toolchain::Facts {
            rust: answer(&self.rust, deadline),
            rust_choices: rust_choices(settings),
            third_party_registry: third_party_registry(settings),
            gateway_scans,
            compiler: answer(&self.compiler, deadline),
            go: answer(&self.go, deadline),
            go_pin: project.pins.go.as_ref().map(|go| go.version.clone()),
            python: answer(&self.python, deadline).map(|answer| answer.map(|it| it.interpreter.version)),
            git: answer(&self.git, deadline),
            others: ["pip", "uv", "npm"].iter().filter(|name| on_path(name)).map(|name| (*name).to_owned()).collect(),
        }
    }
}

/// Standard output of a short run that succeeds.
fn captured(program: &Path, arguments: &[std::ffi::OsString], settings: &Settings, directory: &Path) -> Result<String> {
    let environment = settings.environment.only(env::PASSED);
    let invocation = Invocation {
        program: program.to_owned(),
        arguments: arguments.to_vec(),
        directory: directory.to_owned(),
        environment,
    };
    let failed = || Error::new(Code::NoAnswer, tr!("`{command}` fails", command = invocation.command_line()));
    let output = process::capture_within(BUDGET, &invocation).map_err(|error| failed().because(error))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(failed().because(std::io::Error::other(said)))
        }
    }
}

/// Compiles and links a program that does nothing.
fn links(compiler: &Path, settings: &Settings) -> Result<()> {
    let scratch = files::temporary_folder(&std::env::temp_dir(), "doctor")?;
    let source = scratch.join("main.c");
    let made = files::write(&source, b"int main(void) { return 0; }\n").and_then(|()| {
        let arguments = [source.clone().into(), "-o".into(), scratch.join("main").into()];
        captured(compiler, &arguments, settings, &scratch)
            .map_err(|error| error.hint(facts::install(settings, &LINKING)))
    });
    let _ = files::remove(&scratch);
    made.map(drop)
}

/// Toolchain files from the checkout upwards, as rustup looks for them, and its own overrides.
fn rust_choices(settings: &Settings) -> Vec<RustChoice> {
    let root = &settings.workspace.root;
    let mut choices = Vec::new();
    for folder in root.ancestors() {
        for name in ["rust-toolchain", "rust-toolchain.toml"] {
            let path = folder.join(name);
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let table = text.parse::<toml::Table>().ok();
            let channel = table.as_ref().and_then(|table| table.get("toolchain")?.get("channel")?.as_str());
            let channel = channel.unwrap_or_else(|| text.lines().next().unwrap_or_default()).trim().to_owned();
            choices.push(RustChoice { by: path.display().to_string(), channel, of_the_checkout: folder == root });
        }
    }
    let home = || Some(Path::new(settings.environment.get("HOME")?).join(".rustup"));
    let rustup = settings.environment.get("RUSTUP_HOME").map(PathBuf::from).or_else(home);
    let file = rustup.and_then(|folder| std::fs::read_to_string(folder.join("settings.toml")).ok());
    let overrides = file.and_then(|text| text.parse::<toml::Table>().ok()?.get("overrides")?.as_table().cloned());
    for (folder, channel) in overrides.unwrap_or_default() {
        if root.starts_with(&folder)
            && let Some(channel) = channel.as_str()
        {
            let (by, of_the_checkout) = (format!("rustup override set ({folder})"), root == Path::new(&folder));
            choices.push(RustChoice { by, channel: channel.to_owned(), of_the_checkout });
        }
    }
    choices
}

/// The configuration files that cargo would read here, the nearest first.
fn cargo_files(settings: &Settings) -> impl Iterator<Item = PathBuf> {
    let home = || Some(Path::new(settings.environment.get("HOME")?).join(".cargo"));
    let home = settings.environment.get("CARGO_HOME").map(PathBuf::from).or_else(home);
    let nearby = settings.workspace.root.ancestors().map(|folder| folder.join(".cargo"));
    nearby.chain(home).map(|folder| folder.join("config.toml"))
}

/// The proxy in force for cargo alone, where it is on this machine and nobody listens there: file, proxy.
fn silent_cargo_proxy(settings: &Settings) -> Option<(String, String)> {
    let (file, proxy) = cargo_files(settings).find_map(|path| {
        let table: toml::Table = std::fs::read_to_string(&path).ok()?.parse().ok()?;
        Some((path, table.get("http")?.get("proxy")?.as_str()?.to_owned()))
    })?;
    let authority = proxy.rsplit("://").next()?.rsplit('@').next()?.trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':')?;
    let silent = matches!(host, "127.0.0.1" | "localhost") && loopback::is_free(port.parse().ok()?);
    silent.then(|| (file.display().to_string(), authority.to_owned()))
}

/// A cargo configuration file that leads to another registry than cargo's own.
fn third_party_registry(settings: &Settings) -> Option<String> {
    let leads_away = |path: &PathBuf| {
        let table = std::fs::read_to_string(path).ok().and_then(|text| text.parse::<toml::Table>().ok());
        table.is_some_and(|table| {
            let replaced = table.get("source").and_then(|source| source.get("crates-io")?.get("replace-with"));
            replaced.is_some() || table.get("registries").is_some()
        })
    };
    cargo_files(settings).find(leads_away).map(|path| path.display().to_string())
}

fn configuration(settings: &Settings, outside: &Outside) -> configuration::Facts {
    let variables = settings.environment.0.iter();
    let get = |name: &str| settings.environment.get(name);
    let home = |below: &str| get("HOME").map(|home| Path::new(home).join(below));
    let configured = |below: &str| {
        let folder = get("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| home(".config"))?;
        Some(folder.join(below))
    };
    let named = |name: &str| get(name).map(PathBuf::from);
    let places = [
        (File::Pip, named("PIP_CONFIG_FILE")),
        (File::Pip, configured("pip/pip.conf")),
        (File::Pip, home(".pip/pip.conf")),
        (File::Pip, Some("/etc/pip.conf".into())),
        (File::Uv, named("UV_CONFIG_FILE")),
        (File::Uv, configured("uv/uv.toml")),
        (File::Uv, Some("/etc/uv/uv.toml".into())),
        (File::Npm, named("NPM_CONFIG_USERCONFIG").or_else(|| home(".npmrc"))),
        (File::Git, home(".gitconfig")),
        (File::Git, configured("git/config")),
    ];
    let read = |(kind, path): (File, Option<PathBuf>)| {
        let path = path?;
        Some((kind, path.display().to_string(), std::fs::read_to_string(path).ok()?))
    };
    configuration::Facts {
        notes: outside.notes().into_iter().map(|(tool, note)| (satellite::name(&tool), note)).collect(),
        environment: variables.filter_map(|(name, value)| Some((name.clone(), value.to_str()?.to_owned()))).collect(),
        files: places
            .into_iter()
            .chain(cargo_files(settings).map(|it| (File::Cargo, Some(it))))
            .filter_map(read)
            .collect(),
        silent_cargo_proxy: silent_cargo_proxy(settings),
        has_uv: settings.environment.find("uv").is_some(),
        ca_file: get("SSL_CERT_FILE").map(|path| CaFile { path: path.to_owned(), certificates: authorities(path) }),
    }
}

fn authorities(path: &str) -> std::result::Result<(usize, usize), String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Ok(certificate::count(&text, now))
}

/// Starts measuring; without a gateway what the launcher says while it tries to build one.
fn measure(settings: &Settings, project: &Project, deadline: Instant) -> Receiver<Measured> {
    let (mut settings, project) = (settings.clone(), project.clone());
    asked(move || {
        if settings.offline.value {
            return Measured::Forbidden;
        }
        // One try is evidence enough.
        for (name, value) in [("CARGO_NET_RETRY", "0"), ("CARGO_HTTP_TIMEOUT", "2")] {
            settings.environment.0.insert(name.to_owned(), value.into());
        }
        let (sink, said) = Sink::heard();
        let log = log_of(&settings);
        let measured = Outside::new(&settings, &project, sink, log).and_then(|outside| {
            let gateway = outside.building_within(BUILDING).gateway_unmeasured()?;
            let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(ANSWERING);
            gateway.probe(Vec::new(), left.max(SHARE))
        });
        match measured {
            Ok(reports) => Measured::Reports(reports),
            Err(error) => {
                // The build did not end in time. What it runs is for its log.
                let unbuilt = error.code() == Code::Silent;
                let trouble = Trouble::from(error);
                let notes = said.try_iter().filter_map(|event| match event {
                    Event::Note(text) => Some(masked(&text)),
                    _ => None,
                });
                let evidence = notes.chain([trouble.message.clone()]).collect();
                let why = match unbuilt {
                    true => tr!("the part of this tool that measures is not compiled yet, which takes about a minute"),
                    false => trouble.message,
                };
                Measured::Not { why, evidence }
            }
        }
    })
}

fn network(settings: &Settings, project: &Project, outside: &Outside, measured: Measured) -> network::Facts {
    let get = |name: &str| settings.environment.get(name);
    let without_user = |url: &str| match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (None, Some((_, host))) => host.to_owned(),
        _ => url.to_owned(),
    };
    let proxy = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].into_iter().find_map(|name| {
        let url = get(name).filter(|url| !url.is_empty())?;
        Some(SetProxy { variable: name.to_owned(), url: without_user(url), has_password: url.contains('@') })
    });
    let resolver = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let devices = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let device = |line: &str| Some(line.split_once(':')?.0.trim().to_owned()).filter(|name| name != "lo");
    network::Facts {
        profile: outside.profile().map(|profile| profile.name.clone()),
        routed: routed(),
        interfaces: devices.lines().filter_map(device).collect(),
        name_servers: resolver
            .lines()
            .filter_map(|line| Some(line.strip_prefix("nameserver")?.trim().to_owned()))
            .collect(),
        proxy,
        ca_file: get("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(str::to_owned),
        needed: needed(project),
        measured,
    }
}

/// What builds of this project fetch from.
fn needed(project: &Project) -> BTreeSet<Ecosystem> {
    let it = &project.declaration;
    let sources = || it.model.values().flat_map(|model| &model.sources);
    let wheels = !it.wheel_set.is_empty() || sources().any(|source| matches!(source, ModelSource::Wheel { .. }));
    [
        (Ecosystem::Crates, !it.native_library.is_empty()),
        (Ecosystem::Go, !it.go_binary.is_empty()),
        (Ecosystem::Python, wheels),
        (Ecosystem::Hub, sources().any(|source| matches!(source, ModelSource::Hub { .. }))),
    ]
    .into_iter()
    .filter_map(|(ecosystem, needed)| needed.then_some(ecosystem))
    .collect()
}

/// Whether there is a default route, by this process's own network. Source: proc(5), net/route and net/ipv6_route.
pub fn routed() -> Option<bool> {
    let v4 = std::fs::read_to_string("/proc/net/route").ok();
    let v6 = std::fs::read_to_string("/proc/net/ipv6_route").ok();
    let default4 = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        matches!(fields.as_slice(), [_, "00000000", _, _, _, _, _, "00000000", ..])
    };
    let default6 = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.len() > 9 && fields[0].bytes().all(|digit| digit == b'0') && fields[1] == "00" && fields[9] != "lo"
    };
    (v4.is_some() || v6.is_some())
        .then(|| v4.unwrap_or_default().lines().any(default4) || v6.unwrap_or_default().lines().any(default6))
}

/// What the logs of the newest run hold, unless it was to contact nobody.
fn messages(workspace: &Workspace) -> Vec<message::Seen> {
    let runs = files::list(&workspace.logs()).into_iter().filter(|path| path.is_dir());
    let last = runs.max().filter(|run| !run.to_string_lossy().ends_with(OFFLINE));
    let mut seen = Vec::new();
    for log in last.map(|run| files::list(&run)).unwrap_or_default() {
        let mut text = Vec::new();
        let read = std::fs::File::open(&log).and_then(|file| file.take(LOG_BYTES).read_to_end(&mut text));
        if read.is_err() {
            continue;
        }
        let place = workspace.relative(&log).display().to_string();
        let rows = message::translate(&String::from_utf8_lossy(&text));
        seen.extend(rows.into_iter().map(|(line, row)| message::Seen { place: format!("{place}:{line}"), row }));
    }
    seen
}

/// Sockets of engines that are there, and whether they speak Docker's API.
fn engine_places(settings: &Settings) -> Vec<(PathBuf, bool)> {
    let runtime = settings.environment.get("XDG_RUNTIME_DIR").map(PathBuf::from);
    let below = |folder: &str, socket: &str| {
        [Some(PathBuf::from(folder)), runtime.clone()]
            .into_iter()
            .flatten()
            .map(|it| it.join(socket))
            .collect::<Vec<_>>()
    };
    let named =
        settings.environment.get("DOCKER_HOST").and_then(|host| host.strip_prefix("unix://")).map(PathBuf::from);
    let docker = named.into_iter().chain(below("/var/run", "docker.sock")).chain(below("/run", "podman/podman.sock"));
    let docker = docker.map(|path| (path, true));
    let buildkit = below("/run", "buildkit/buildkitd.sock").into_iter().map(|path| (path, false));
    let mut real = BTreeSet::new();
    let is_new = |(path, _): &(PathBuf, bool)| {
        let there = path.metadata().is_ok_and(|it| it.file_type().is_socket());
        there && real.insert(std::fs::canonicalize(path).unwrap_or_else(|_| path.clone()))
    };
    docker.chain(buildkit).filter(is_new).collect()
}

/// A socket that this user may not open is no engine of theirs.
fn engine((path, speaks_http): (PathBuf, bool)) -> Option<Engine> {
    let place = path.display().to_string();
    let answer = match loopback::get_unix(&path, speaks_http.then_some("/version"), Duration::from_secs(2)) {
        Ok(None) => Ok("BuildKit".to_owned()),
        Ok(Some(response)) => {
            let value: serde_json::Value = serde_json::from_slice(&response.body).unwrap_or_default();
            let text = |pointer: &str| value.pointer(pointer).and_then(|it| it.as_str()).unwrap_or_default().to_owned();
            Ok(format!("{} {}", text("/Components/0/Name"), text("/Version")).trim().to_owned())
        }
        Err(error) => Err(error.to_string()),
    };
    let settings = std::fs::read_to_string("/etc/docker/daemon.json").unwrap_or_default();
    let settings: serde_json::Value = serde_json::from_str(&settings).unwrap_or_default();
    let insecure = settings.get("insecure-registries").and_then(|list| list.as_array()).cloned().unwrap_or_default();
    let insecure = insecure.iter().filter_map(|it| it.as_str().map(str::to_owned)).collect();
    Some(Engine { place, answer, insecure: if speaks_http { insecure } else { Vec::new() } })
}

fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(path)
}

fn writable(path: &Path) -> bool {
    rustix::fs::access(path, Access::WRITE_OK).is_ok()
}

/// `survey`: `None` where it took too long.
fn cache(settings: &Settings, survey: Option<Survey>) -> Cache {
    let folder = &settings.cache.0;
    let there = folder.metadata().ok().map(|metadata| CacheFacts {
        size_bytes: survey.as_ref().map(Survey::size_bytes),
        kept_below_bytes: settings.cache_limits.size.0,
        owner: metadata.uid(),
        me: rustix::process::geteuid().as_raw(),
        writable: writable(folder),
        network: network_file_system(folder),
        quarantined: survey.map_or(0, |it| it.totals().get(&Kind::Quarantine).map_or(0, |(count, _)| *count)),
    });
    Cache { path: folder.display().to_string(), there }
}

/// Source: statfs(2), and the kernel's `linux/magic.h`.
fn network_file_system(path: &Path) -> Option<String> {
    const KINDS: [(u64, &str); 7] = [
        (0x6969, "NFS"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB"),
        (0x0102_1997, "9P"),
        (0x6573_5546, "FUSE"),
        (0x0bd0_0bd0, "Lustre"),
        (0x5346_414f, "AFS"),
    ];
    let kind = rustix::fs::statfs(path).ok()?.f_type as u64 & 0xffff_ffff;
    KINDS.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| (*name).to_owned())
}

fn volumes(settings: &Settings, project: &Project) -> Vec<Volume> {
    let temporary = std::env::temp_dir();
    let build = settings.workspace.build();
    let needed = if settings.cache.0.exists() { 0 } else { pinned_bytes(project) };
    let places = [
        ("cache", settings.cache.0.as_path(), needed),
        ("build", build.as_path(), 0),
        ("temporary", temporary.as_path(), 0),
    ];
    let volume = |(name, path, needed_bytes): (&str, &Path, u64)| {
        let there = existing(path);
        let it = rustix::fs::statvfs(there).ok()?;
        Some(Volume {
            name: name.to_owned(),
            path: path.display().to_string(),
            there: path.exists(),
            free_bytes: it.f_bavail.saturating_mul(it.f_frsize),
            size_bytes: it.f_blocks.saturating_mul(it.f_frsize),
            free_files: (it.f_files > 0).then_some(it.f_favail),
            writable: writable(there),
            needed_bytes,
        })
    };
    places.into_iter().filter_map(volume).collect()
}

/// What is pinned for one machine: of a project's wheels the largest counts, since one of them fits.
fn pinned_bytes(project: &Project) -> u64 {
    let pins = &project.pins;
    let go =
        pins.go.as_ref().and_then(|go| go.platform.get(&Platform::name_here())).map_or(0, |it| it.wheel.size_bytes);
    let wheels = pins.wheel_set.values().map(|set| {
        let mut largest = BTreeMap::<&str, u64>::new();
        for pin in set {
            let size = largest.entry(&pin.project).or_default();
            *size = pin.size_bytes.max(*size);
        }
        largest.values().sum::<u64>()
    });
    let models = pins.model.values().flat_map(|model| &model.file).map(|file| file.size_bytes);
    go + wheels.sum::<u64>() + models.sum::<u64>()
}

fn ports(settings: &Settings, project: &Project) -> Vec<Port> {
    let mut ports = Vec::new();
    for (service, declared) in &project.declaration.service {
        for (name, number) in &declared.ports {
            let local = settings.local.ports.get(service).and_then(|ports| ports.get(name));
            let number = *local.unwrap_or(number);
            let taken = !loopback::is_free(number);
            let holder = if taken { listener(number) } else { None };
            ports.push(Port { number, service: service.clone(), name: name.clone(), taken, holder });
        }
    }
    ports.sort_by_key(|port| port.number);
    ports
}

/// The program that listens on a port, as far as this user may see it. Source: proc(5), net/tcp.
fn listener(port: u16) -> Option<String> {
    const LISTENING: &str = "0A";
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().filter_map(|path| std::fs::read_to_string(path).ok());
    let ending = format!(":{port:04X}");
    let inode = tables.collect::<String>().lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields.len() > 9 && fields[1].ends_with(&ending) && fields[3] == LISTENING).then(|| fields[9].to_owned())
    })?;
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    files::list(Path::new("/proc")).into_iter().find_map(|process| {
        let id: u32 = process.file_name()?.to_str()?.parse().ok()?;
        let opened = files::list(&process.join("fd"));
        opened.iter().any(|file| std::fs::read_link(file).is_ok_and(|it| it == socket)).then_some(())?;
        let name = std::fs::read_to_string(process.join("comm")).ok()?;
        Some(tr!("{program} (process {id})", program = name.trim(), id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tools_said_in_an_offline_run_is_nobodys_fault() {
        let workspace = Workspace { root: files::temporary_folder(&std::env::temp_dir(), "messages").unwrap() };
        let run = |name: &str, offline| {
            let folder = workspace.logs_of_run(name, offline);
            files::create_folder(&folder).unwrap();
            files::write(&folder.join("x.log"), b"error: no matching package named `serde` found\n").unwrap();
            messages(&workspace).len()
        };
        assert_eq!((run("0001-7", false), run("0002-7", true), run("0003-7", false)), (1, 0, 1));
        files::remove(&workspace.root).unwrap();
    }
}
