//! What `direct` means on this machine: each tool's own default, found out at run time, since no file of ours names one.
//!
//! One function an ecosystem; the first answer wins and says where it came from: the tool's variable, its configuration
//! files, the installed tool itself, data of a pinned artefact. Nothing leaves the machine: cargo and rustup, which state
//! their servers nowhere, are asked through a proxy of ours that refuses everything and reads the host they wanted.
//! Only the path behind a host (`/`, `/simple/`) is our knowledge.

use super::endpoint::{Masked, MirrorUrl};
use super::profile::{Ecosystem, database_host};
use crate::tr;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// The defaults that are known, for whoever has to name their hosts.
pub type Defaults = BTreeMap<Ecosystem, Known>;

/// A default and who said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// An index URL; for Go a whole `GOPROXY` list.
    pub value: Masked,
    /// rustup's update root, the Debian security archive, where the files of pip's own index are, Go's checksum database (`NAME`,
    /// `NAME+KEY URL`).
    pub second: Option<Masked>,
    /// For messages: `PIP_INDEX_URL`, `/etc/pip.conf`, `go env GOPROXY`.
    pub origin: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Known(Known),
    /// Each way the user has to say it, as a phrase that completes "either …".
    Unknown {
        ways: Vec<String>,
    },
}

pub type ReadText<'a> = dyn Fn(&Path) -> io::Result<String> + Sync + 'a;
pub type Run<'a> = dyn Fn(&[&str], &BTreeMap<String, String>) -> io::Result<Output> + Sync + 'a;

/// How long one tool may think: every answer is a line that it has at hand, but a machine that is busy building is slow to give it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What this module may ask of the machine. The only spawner of processes stays the caller's.
pub struct Machine<'a> {
    pub environment: &'a BTreeMap<String, String>,
    pub current_dir: &'a Path,
    /// An empty folder that cargo and rustup may write to; the caller removes it.
    pub scratch: &'a Path,
    pub read: &'a ReadText<'a>,
    /// Runs argv with exactly this environment, for at most [`PATIENCE`].
    pub run: &'a Run<'a>,
    /// `go.env` of a pinned Go that is at hand.
    pub pinned_go_env: Option<&'a str>,
}

/// What `direct` means for one ecosystem. Files, registries and Git have no default: each upstream is its own.
pub fn ask(ecosystem: Ecosystem, machine: &Machine) -> Answer {
    match ecosystem {
        Ecosystem::Rustup => rustup(machine),
        Ecosystem::Crates => crates(machine),
        Ecosystem::Go => go(machine),
        Ecosystem::Python => python(machine),
        Ecosystem::Hub => hub(machine),
        Ecosystem::Npm => npm(machine),
        Ecosystem::Apt => apt(machine),
        Ecosystem::Files | Ecosystem::Oci | Ecosystem::Git => Answer::Unknown { ways: Vec::new() },
    }
}

/// [`ask`] for several at once, side by side: what is known, and the ways to say what is not.
pub fn ask_all(ecosystems: &BTreeSet<Ecosystem>, machine: &Machine) -> (Defaults, Vec<String>) {
    let (mut defaults, mut unknown) = (Defaults::new(), Vec::new());
    thread::scope(|scope| {
        let asked: Vec<_> = ecosystems.iter().map(|&it| (it, scope.spawn(move || ask(it, machine)))).collect();
        for (ecosystem, answer) in asked {
            match answer.join() {
                Ok(Answer::Known(known)) => drop(defaults.insert(ecosystem, known)),
                Ok(Answer::Unknown { ways }) => unknown.extend(ways),
                Err(_) => {}
            }
        }
    });
    (defaults, unknown)
}

impl Known {
    pub fn new(value: &str, origin: impl fmt::Display) -> Self {
        let shown = |entry: &str| MirrorUrl::parse(entry).map_or_else(|_| entry.to_owned(), |url| url.to_string());
        let masked = value.split_inclusive([',', '|']).map(|entry| {
            let end = entry.trim_end_matches([',', '|']).len();
            shown(&entry[..end]) + &entry[end..]
        });
        Self { value: Masked::new(value, masked.collect::<String>()), second: None, origin: origin.to_string() }
    }

    /// With what [`Self::second`] says.
    pub fn and(mut self, second: Option<&str>) -> Self {
        self.second = second.map(|second| Self::new(second, "").value);
        self
    }

    /// Both URLs of a default that needs two.
    pub fn pair(&self) -> Option<(MirrorUrl, MirrorUrl)> {
        MirrorUrl::parse(self.value.expose()).ok().zip(MirrorUrl::parse(self.second.as_ref()?.expose()).ok())
    }

    /// The URLs of the value; none for Go's `direct` and `off`.
    pub fn urls(&self) -> Vec<MirrorUrl> {
        self.value.expose().split([',', '|']).filter_map(|entry| MirrorUrl::parse(entry).ok()).collect()
    }

    /// Of the value; of a pair both. Go's checksum database is a name, which is not asked for by everybody.
    pub fn hosts(&self) -> Vec<String> {
        let second = self.pair().map(|(_, second)| second);
        self.urls().iter().chain(&second).map(MirrorUrl::host_with_port).collect()
    }

    /// With Go's checksum database, which Go asks itself where no proxy passes it on.
    pub fn all_hosts(&self, ecosystem: Ecosystem) -> Vec<String> {
        let database = self.second.as_ref().filter(|_| ecosystem == Ecosystem::Go);
        self.hosts().into_iter().chain(database.map(|name| database_host(name.expose()))).collect()
    }
}

impl Machine<'_> {
    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn home(&self, below: &str) -> Option<PathBuf> {
        self.variable("HOME").map(|home| Path::new(home).join(below))
    }

    fn user_configuration(&self, below: &str) -> Option<PathBuf> {
        let folder = self.variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| self.home(".config"))?;
        Some(folder.join(below))
    }

    /// Standard output of a run that succeeded.
    fn ask(&self, argv: &[&str], environment: &BTreeMap<String, String>) -> Option<String> {
        let output = (self.run)(argv, environment).ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    }

    fn environment_without(&self, names: &[&str]) -> BTreeMap<String, String> {
        let kept = self.environment.iter().filter(|(name, _)| !names.contains(&name.as_str()));
        kept.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// Go's module proxies, as a `GOPROXY` list, and its checksum database.
fn go(machine: &Machine) -> Answer {
    match go_proxies(machine) {
        Answer::Known(known) => Answer::Known(known.and(checksum_database(machine).as_deref())),
        unknown => unknown,
    }
}

fn go_proxies(machine: &Machine) -> Answer {
    if let Some(list) = machine.variable("GOPROXY") {
        return Answer::Known(Known::new(list, "GOPROXY"));
    }
    let file = go_environment_file(machine);
    if let Some((path, list)) = file.as_ref().and_then(|(path, values)| Some((path, values.get("GOPROXY")?))) {
        return Answer::Known(Known::new(list, path.display()));
    }
    if let Some(list) = go_env(machine, "GOPROXY") {
        return Answer::Known(Known::new(&list, "go env GOPROXY"));
    }
    if let Some(list) = machine.pinned_go_env.and_then(|text| parse_go_environment(text).remove("GOPROXY")) {
        return Answer::Known(Known::new(&list, "go.env of the pinned Go"));
    }
    unknown(tr!("set GOPROXY to a module proxy's URL"))
}

/// `off` is no answer: it is refused wherever it is met.
fn checksum_database(machine: &Machine) -> Option<String> {
    let file = || go_environment_file(machine)?.1.remove("GOSUMDB");
    let pinned = || parse_go_environment(machine.pinned_go_env?).remove("GOSUMDB");
    let said = machine.variable("GOSUMDB").map(str::to_owned).or_else(file);
    said.filter(|name| name != "off")
        .or_else(|| go_env(machine, "GOSUMDB"))
        .or_else(pinned)
        .filter(|name| name != "off")
}

fn go_env(machine: &Machine, name: &str) -> Option<String> {
    let mut environment = machine.environment.clone();
    // Otherwise a go.mod nearby may make go look for another toolchain first.
    environment.insert("GOTOOLCHAIN".to_owned(), "local".to_owned());
    let said = machine.ask(&["go", "env", name], &environment)?;
    Some(said.trim().to_owned()).filter(|value| !value.is_empty())
}

/// The file that `go env -w` writes, and its values; `None` where there is none or `GOENV=off`.
/// Source: <https://pkg.go.dev/cmd/go#hdr-Environment_variables>.
pub fn go_environment_file(machine: &Machine) -> Option<(PathBuf, BTreeMap<String, String>)> {
    let path = match machine.variable("GOENV") {
        Some("off") => return None,
        Some(path) => PathBuf::from(path),
        None if cfg!(target_os = "macos") => machine.home("Library/Application Support/go/env")?,
        None => machine.user_configuration("go/env")?,
    };
    let text = (machine.read)(&path).ok()?;
    Some((path, parse_go_environment(&text)))
}

/// `NAME=value` lines; anything else is a comment.
fn parse_go_environment(text: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    text.lines().map(str::trim).filter(|line| !line.starts_with('#')).filter_map(pair).collect()
}

/// The index URL of pip, which is uv's too.
fn python(machine: &Machine) -> Answer {
    for name in ["PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"] {
        if let Some(url) = machine.variable(name) {
            // uv allows `name=URL`.
            let url = url.split_once('=').filter(|(name, _)| !name.contains('/')).map_or(url, |(_, url)| url);
            return Answer::Known(Known::new(url, name));
        }
    }
    for path in pip_configuration_files(machine) {
        if let Some(url) = (machine.read)(&path).ok().and_then(|text| pip_index_url(&text)) {
            return Answer::Known(Known::new(&url, path.display()));
        }
    }
    let said = machine.ask(&["python3", "-I", "-c", PIPS_OWN_CONSTANT], machine.environment);
    let said: Vec<&str> = said.as_deref().unwrap_or_default().trim().split('\t').collect();
    if let [origin, url, files] = *said {
        return Answer::Known(Known::new(url, origin).and(Some(files)));
    }
    unknown(tr!("set PIP_INDEX_URL to a simple index"))
}

/// pip's constant, from the installed pip or from a wheel of it that python or the distribution carries.
const PIPS_OWN_CONSTANT: &str = r#"
import glob, importlib, os, sys, sysconfig

def ask(origin):
    try:
        index = importlib.import_module("pip._internal.models.index").PyPI
        print(origin, index.simple_url.rstrip("/") + "/", "https://" + index.file_storage_domain + "/", sep="\t")
    except Exception:
        return False
    return True

def wheels():
    folders = [sysconfig.get_config_var("WHEEL_PKG_DIR"), "/usr/share/python-wheels"]
    spec = importlib.util.find_spec("ensurepip")
    if spec and spec.origin:
        folders.append(os.path.join(os.path.dirname(spec.origin), "_bundled"))
    return [wheel for folder in folders if folder for wheel in sorted(glob.glob(os.path.join(folder, "pip-*.whl")))]

import importlib.util
if not ask("the installed pip"):
    for wheel in wheels():
        for name in [name for name in sys.modules if name.split(".")[0] == "pip"]:
            del sys.modules[name]
        sys.path.insert(0, wheel)
        if ask(wheel):
            break
"#;

/// In pip's order of strength. Source: <https://pip.pypa.io/en/stable/topics/configuration/>.
fn pip_configuration_files(machine: &Machine) -> Vec<PathBuf> {
    if machine.variable("PIP_CONFIG_FILE") == Some("/dev/null") {
        return Vec::new();
    }
    let of = |folder: &str| Path::new(folder).join("pip/pip.conf");
    let global = machine.variable("XDG_CONFIG_DIRS").unwrap_or("/etc/xdg").split(':').map(of);
    [
        machine.variable("PIP_CONFIG_FILE").map(PathBuf::from),
        machine.variable("VIRTUAL_ENV").map(|folder| Path::new(folder).join("pip.conf")),
        machine.user_configuration("pip/pip.conf"),
        machine.home(".pip/pip.conf"),
        Some(PathBuf::from("/etc/pip.conf")),
    ]
    .into_iter()
    .flatten()
    .chain(global)
    .collect()
}

/// `index-url` of `[install]`, else of `[global]`.
fn pip_index_url(text: &str) -> Option<String> {
    let mut section = "";
    let mut found: BTreeMap<&str, &str> = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        } else if let Some((key, value)) = line.split_once(['=', ':'])
            && key.trim().replace('_', "-") == "index-url"
        {
            found.insert(section, value.trim());
        }
    }
    found.get("install").or_else(|| found.get("global")).filter(|url| !url.is_empty()).map(|&url| url.to_owned())
}

/// The index that cargo uses for crates without a registry of their own.
fn crates(machine: &Machine) -> Answer {
    match replaced_source(machine) {
        Some(Ok(known)) => return Answer::Known(known),
        Some(Err(way)) => return unknown(way),
        None => {}
    }
    match ask_cargo(machine) {
        Ok(Some(host)) => Answer::Known(Known::new(&format!("sparse+https://{host}/"), "cargo")),
        Ok(None) | Err(_) => unknown(tr!("replace `source.crates-io` in a cargo configuration file by a sparse index")),
    }
}

/// Follows `[source.crates-io] replace-with`, nearest file first. `Err`: replaced by something that is no sparse index.
fn replaced_source(machine: &Machine) -> Option<Result<Known, String>> {
    let home = machine.variable("CARGO_HOME").map(PathBuf::from).or_else(|| machine.home(".cargo"));
    let nearby = machine.current_dir.ancestors().map(|folder| folder.join(".cargo"));
    let files: Vec<(PathBuf, toml::Table)> = nearby
        .chain(home)
        .map(|folder| folder.join("config.toml"))
        .filter_map(|path| Some((path.clone(), (machine.read)(&path).ok()?.parse().ok()?)))
        .collect();
    let get = |path: [&str; 3]| -> Option<(&Path, &str)> {
        files.iter().find_map(|(file, table)| {
            let value = table.get(path[0])?.get(path[1])?.get(path[2])?;
            Some((file.as_path(), value.as_str()?))
        })
    };
    let (mut file, mut name) = get(["source", "crates-io", "replace-with"])?;
    // More links than this are a circle, which cargo refuses too.
    for _ in 0..8 {
        match get(["source", name, "replace-with"]) {
            Some((next_file, next)) => (file, name) = (next_file, next),
            None => break,
        }
    }
    let url = get(["source", name, "registry"]).or_else(|| get(["registries", name, "index"]));
    Some(match url.filter(|(_, url)| url.starts_with("sparse+")) {
        Some((_, url)) => Ok(Known::new(&format!("{}/", url.trim_end_matches('/')), file.display())),
        None => Err(tr!(
            "give `source.{name}`, which replaces crates-io in {file}, a sparse index (`registry = \"sparse+https://…/\"`)",
            name,
            file = file.display()
        )),
    })
}

/// Lets cargo look for a crate with an empty CARGO_HOME.
fn ask_cargo(machine: &Machine) -> io::Result<Option<String>> {
    let mut environment = machine.environment_without(&["CARGO_NET_OFFLINE"]);
    for (name, value) in [
        ("CARGO_HOME", machine.scratch.join("cargo").display().to_string()),
        ("CARGO_HTTP_TIMEOUT", "2".to_owned()),
        ("CARGO_NET_RETRY", "0".to_owned()),
    ] {
        environment.insert(name.to_owned(), value);
    }
    let cargo = machine.variable("CARGO").unwrap_or("cargo");
    let argv = [cargo, "search", "--registry", "crates-io", "--limit", "1", "x"];
    wanted_host(machine, &argv, environment, &["CARGO_HTTP_PROXY"])
}

/// rustup's servers: `RUSTUP_DIST_SERVER` and `RUSTUP_UPDATE_ROOT`.
fn rustup(machine: &Machine) -> Answer {
    let root = |dist: &str| match machine.variable("RUSTUP_UPDATE_ROOT") {
        Some(root) => root.to_owned(),
        None => format!("{}/rustup", dist.trim_end_matches('/')),
    };
    if let Some(dist) = machine.variable("RUSTUP_DIST_SERVER") {
        return Answer::Known(Known::new(dist, "RUSTUP_DIST_SERVER").and(Some(&root(dist))));
    }
    match ask_rustup(machine) {
        Ok(Some(host)) => {
            let dist = format!("https://{host}");
            Answer::Known(Known::new(&dist, "rustup").and(Some(&root(&dist))))
        }
        Ok(None) | Err(_) => unknown(tr!("set RUSTUP_DIST_SERVER and RUSTUP_UPDATE_ROOT")),
    }
}

/// Lets rustup look for a toolchain that cannot exist, with nothing of the user's in its reach: there is nothing that it
/// could install or update.
fn ask_rustup(machine: &Machine) -> io::Result<Option<String>> {
    let mut environment = machine.environment_without(&["RUSTUP_UPDATE_ROOT", "RUSTUP_DIST_ROOT", "RUSTUP_TOOLCHAIN"]);
    for (name, value) in [
        ("RUSTUP_HOME", machine.scratch.join("rustup").display().to_string()),
        ("CARGO_HOME", machine.scratch.join("rustup-cargo").display().to_string()),
        ("RUSTUP_MAX_RETRIES", "0".to_owned()),
        ("RUSTUP_AUTO_INSTALL", "0".to_owned()),
    ] {
        environment.insert(name.to_owned(), value);
    }
    let argv = ["rustup", "toolchain", "install", "--no-self-update", "--profile", "minimal", "0.0.0"];
    wanted_host(machine, &argv, environment, &["HTTPS_PROXY", "https_proxy"])
}

/// The host that a program wants to reach: it is given a proxy that refuses, and names its host in `CONNECT`.
fn wanted_host(
    machine: &Machine,
    argv: &[&str],
    mut environment: BTreeMap<String, String>,
    proxy_variables: &[&str],
) -> io::Result<Option<String>> {
    let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    // Where even loopback is down nobody ever connects, not even to end the wait.
    proxy.set_nonblocking(true)?;
    let address = proxy.local_addr()?;
    for name in ["NO_PROXY", "no_proxy"] {
        environment.remove(name);
    }
    environment.extend(proxy_variables.iter().map(|&name| (name.to_owned(), format!("http://{address}"))));
    let done = Arc::new(AtomicBool::new(false));
    let listening = thread::spawn({
        let done = Arc::clone(&done);
        move || refuse(&proxy, &done)
    });
    let run = (machine.run)(argv, &environment);
    done.store(true, Ordering::SeqCst);
    let host = listening.join().ok().flatten();
    run.map(|_| host)
}

/// npm's registry.
fn npm(machine: &Machine) -> Answer {
    for name in ["npm_config_registry", "NPM_CONFIG_REGISTRY"] {
        if let Some(url) = machine.variable(name) {
            return Answer::Known(Known::new(url, name));
        }
    }
    let mut environment = machine.environment.clone();
    environment.insert("npm_config_update_notifier".to_owned(), "false".to_owned());
    // It reads its files itself, the user's and the machine's.
    let said = machine.ask(&["npm", "config", "get", "registry"], &environment);
    match said.as_deref().map(str::trim).filter(|url| MirrorUrl::parse(url).is_ok()) {
        Some(url) => Answer::Known(Known::new(url, "npm config")),
        None => unknown(tr!("set npm_config_registry to a registry's URL")),
    }
}

/// Debian's archive and its security archive, as this Debian uses them.
fn apt(machine: &Machine) -> Answer {
    let is_debian = |text: String| text.lines().any(|line| matches!(line, "ID=debian" | "ID=\"debian\""));
    let debian = (machine.read)(Path::new("/etc/os-release")).is_ok_and(is_debian);
    let targets = ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)"];
    let said = debian.then(|| machine.ask(&targets, machine.environment)).flatten().unwrap_or_default();
    match debian_archives(&said) {
        Some((base, security)) => Answer::Known(Known::new(base, "apt").and(Some(&security))),
        None => unknown(tr!("name a Debian archive and its security archive under [mirror.NAME.apt]")),
    }
}

/// From lines `SITE RELEASE`: the archive that also has the release's updates, since others may carry a release's name too.
fn debian_archives(targets: &str) -> Option<(&str, String)> {
    let targets: Vec<(&str, &str)> = targets.lines().filter_map(|line| line.split_once(' ')).collect();
    let (base, release) =
        targets.iter().find_map(|(site, release)| Some((*site, release.strip_suffix("-updates")?)))?;
    let security = targets.iter().find(|(_, it)| it.strip_suffix("-security") == Some(release)).map(|(site, _)| *site);
    Some((base, security.map_or_else(|| format!("{base}-security"), str::to_owned)))
}

/// The Hugging Face hub.
fn hub(machine: &Machine) -> Answer {
    if let Some(url) = machine.variable("HF_ENDPOINT") {
        return Answer::Known(Known::new(url, "HF_ENDPOINT"));
    }
    let script = "from huggingface_hub.constants import ENDPOINT; print(ENDPOINT)";
    let said = machine.ask(&["python3", "-E", "-c", script], machine.environment);
    match said.as_deref().map(str::trim).filter(|url| MirrorUrl::parse(url).is_ok()) {
        Some(url) => Answer::Known(Known::new(url, "the installed huggingface_hub")),
        None => unknown(tr!("set HF_ENDPOINT to the hub's URL, or install huggingface_hub, which knows it")),
    }
}

/// Answers every connection with 403 until `done`; the host of the first `CONNECT`.
fn refuse(proxy: &TcpListener, done: &AtomicBool) -> Option<String> {
    let mut host = None;
    while !done.load(Ordering::SeqCst) {
        match proxy.accept() {
            Ok((stream, _)) => {
                let wanted = stream.set_nonblocking(false).and_then(|()| refuse_one(stream)).ok().flatten();
                host = host.or(wanted);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(5)),
            Err(_) => break,
        }
    }
    host
}

fn refuse_one(mut stream: TcpStream) -> io::Result<Option<String>> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut head = BufReader::new(stream.try_clone()?.take(8192));
    let mut request = String::new();
    head.read_line(&mut request)?;
    // The rest of the head is read so that closing does not reset the connection under the answer.
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    let authority = request.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    Ok(authority.map(|authority| authority.trim_end_matches(":443").to_owned()))
}

fn unknown(way: String) -> Answer {
    Answer::Unknown { ways: vec![way] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::env;
    use std::fs;
    use std::process::Command;
    use std::sync::atomic::AtomicUsize;

    /// Asks the real tools of this machine, with the given variables on top of a bare environment.
    fn ask(question: fn(&Machine) -> Answer, variables: &[(&str, &str)], files: &[(&str, &str)]) -> Answer {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("xtask-direct-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let root = env::temp_dir().join(name);
        let home = root.join("home");
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::create_dir_all(&home).unwrap();
        fs::create_dir_all(root.join("scratch")).unwrap();
        fs::create_dir_all(root.join("project")).unwrap();
        let mut environment: BTreeMap<String, String> = ["PATH", "CARGO", "RUSTUP_TOOLCHAIN", "GOROOT"]
            .iter()
            .filter_map(|&name| Some((name.into(), env::var(name).ok()?)))
            .collect();
        let rustup = env::var("RUSTUP_HOME").unwrap_or_else(|_| env::var("HOME").unwrap() + "/.rustup");
        environment.insert("RUSTUP_HOME".into(), rustup);
        environment.insert("HOME".into(), home.display().to_string());
        environment.extend(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        let answer = question(&Machine {
            environment: &environment,
            current_dir: &root.join("project"),
            scratch: &root.join("scratch"),
            read: &|path| fs::read_to_string(path),
            run: &|argv, environment| {
                Command::new(argv[0]).args(&argv[1..]).env_clear().envs(environment).current_dir(&root).output()
            },
            pinned_go_env: Some("# Go\nGOPROXY=https://pinned.example,direct\n"),
        });
        // `go` leaves a child behind that may still write its counters below this HOME.
        let removed = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(10));
            fs::remove_dir_all(&root).is_ok()
        });
        assert!(removed, "{}", root.display());
        answer
    }

    #[track_caller]
    fn known(answer: Answer) -> (String, String) {
        match answer {
            Answer::Known(known) => (known.value.expose().to_owned(), known.origin),
            Answer::Unknown { ways } => panic!("unknown: {ways:?}"),
        }
    }

    fn pair(value: &str, origin: &str) -> (String, String) {
        (value.into(), origin.into())
    }

    #[test]
    fn the_installed_tools_name_a_default_each_and_nothing_is_contacted() {
        let (list, origin) = known(ask(go, &[], &[]));
        let own =
            Command::new("go").args(["env", "GOPROXY"]).env("GOENV", "off").env_remove("GOPROXY").output().unwrap();
        assert_eq!((list.as_str(), origin.as_str()), (String::from_utf8(own.stdout).unwrap().trim(), "go env GOPROXY"));

        let (url, origin) = known(ask(python, &[], &[]));
        assert!(url.starts_with("https://") && url.ends_with("/simple/"), "{url} from {origin}");
        let Answer::Known(pip) = ask(python, &[], &[]) else { unreachable!() };
        // A firewall that is opened for the index alone lets no wheel in.
        assert!(pip.hosts().len() == 2 && pip.hosts().iter().all(|host| host.contains('.')), "{:?}", pip.hosts());

        let Answer::Known(rustup) = ask(rustup, &[], &[]) else { panic!("rustup did not say its server") };
        let (dist, root) = rustup.pair().unwrap();
        assert_eq!((rustup.origin.as_str(), dist.host()), ("rustup", root.host()));
        assert!(dist.host().contains('.') && root.expose().ends_with("/rustup"), "{rustup:?}");

        let (url, origin) = known(ask(crates, &[], &[]));
        assert_eq!(origin, "cargo");
        let url = MirrorUrl::parse(&url).unwrap();
        assert!(url.is_sparse_index() && url.host().contains('.') && url.expose().ends_with('/'), "{url}");
    }

    #[test]
    fn a_variable_wins_over_a_file_and_a_file_over_the_tool() {
        let file = &[("home/.config/go/env", "GOFLAGS=-mod=mod\nGOPROXY=https://file.example\n")];
        assert_eq!(known(ask(go, &[("GOPROXY", "https://a,direct")], file)), pair("https://a,direct", "GOPROXY"));
        let (list, origin) = known(ask(go, &[], file));
        assert!(list == "https://file.example" && origin.ends_with("home/.config/go/env"), "{list} {origin}");
        assert_eq!(known(ask(go, &[("GOENV", "off"), ("PATH", "/nowhere")], file)).1, "go.env of the pinned Go");

        let file = &[(
            "home/.pip/pip.conf",
            "[global]\nindex-url = https://global/\n[install]\nindex_url: https://install/\n",
        )];
        assert_eq!(
            known(ask(python, &[("UV_DEFAULT_INDEX", "corp=https://uv/")], file)),
            pair("https://uv/", "UV_DEFAULT_INDEX")
        );
        assert_eq!(known(ask(python, &[], file)).0, "https://install/");
        let file = &[("home/.config/pip/pip.conf", "[global]\nindex_url=https://global/\n[freeze]\nindex-url = x\n")];
        assert_eq!(known(ask(python, &[], file)).0, "https://global/");
    }

    #[test]
    fn a_replaced_cargo_source_is_followed_and_one_that_is_no_index_is_said() {
        let replaced = "[source.crates-io]\nreplace-with = 'a'\n[source.a]\nreplace-with = 'b'\n";
        let near = ("project/.cargo/config.toml", replaced);
        let home = ("home/.cargo/config.toml", "[registries.b]\nindex = 'sparse+https://u:secret@b/index'");
        let Answer::Known(it) = ask(crates, &[], &[near, home]) else { panic!() };
        assert_eq!(it.value.expose(), "sparse+https://u:secret@b/index/");
        assert_eq!(format!("{it:?}").matches("secret").count(), 0);
        let vendored = ("home/.cargo/config.toml", "[source.b]\ndirectory = 'vendor'");
        let Answer::Unknown { ways } = ask(crates, &[], &[near, vendored]) else { panic!() };
        assert!(ways[0].contains("`source.b`") && ways[0].contains("project/.cargo/config.toml"), "{ways:?}");
    }

    #[test]
    fn without_pip_and_cargo_the_answer_is_how_to_say_it() {
        let Answer::Unknown { ways } = ask(python, &[("PATH", "/nowhere")], &[]) else { panic!() };
        assert_eq!(ways, ["set PIP_INDEX_URL to a simple index"]);
        let nowhere = &[("PATH", "/nowhere"), ("CARGO", "/nowhere/cargo")];
        assert!(matches!(ask(crates, nowhere, &[]), Answer::Unknown { .. }));
    }

    #[test]
    fn npm_and_apt_name_theirs_where_they_are_installed() {
        for (question, program) in [(npm as fn(&Machine) -> Answer, "npm"), (apt, "apt-get")] {
            if Command::new(program).arg("--version").output().is_err() {
                eprintln!("skipped: there is no {program} here");
                continue;
            }
            let debian = fs::read_to_string("/etc/os-release").is_ok_and(|text| text.contains("\nID=debian\n"));
            match ask(question, &[], &[]) {
                Answer::Known(it) => assert!(it.urls()[0].host().contains('.'), "{it:?}"),
                Answer::Unknown { ways } => assert!(program == "apt-get" && !debian, "{ways:?}"),
            }
        }
        let mine = [("npm_config_registry", "https://npm.example/"), ("HF_ENDPOINT", "https://hub.example")];
        assert_eq!(known(ask(npm, &mine, &[])), pair("https://npm.example/", "npm_config_registry"));
        assert_eq!(known(ask(hub, &mine, &[])), pair("https://hub.example", "HF_ENDPOINT"));
        let npmrc = ("home/.npmrc", "registry=https://file.example/\n");
        if Command::new("npm").arg("--version").output().is_ok() {
            assert_eq!(known(ask(npm, &[], &[npmrc])), pair("https://file.example/", "npm config"));
        }
    }

    #[test]
    fn the_archive_with_updates_is_debians_whoever_else_uses_its_release_names() {
        let targets = "https://other.example/linux/debian trixie\nhttp://a/debian trixie\nhttp://a/debian trixie-updates\n\
                       http://s/debian-security trixie-security\n";
        assert_eq!(debian_archives(targets), Some(("http://a/debian", "http://s/debian-security".to_owned())));
        assert_eq!(debian_archives("http://a/debian trixie-updates\n").unwrap().1, "http://a/debian-security");
        assert_eq!(debian_archives("http://a/debian trixie\n"), None);
    }

    #[test]
    fn several_are_asked_side_by_side_and_what_is_unknown_is_said_how_to_say() {
        let environment: BTreeMap<String, String> =
            [("GOPROXY", "https://go"), ("GOSUMDB", "sum.example"), ("PIP_INDEX_URL", "https://pip/simple/")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
        let root = env::temp_dir();
        let machine = Machine {
            environment: &environment,
            current_dir: &root,
            scratch: &root,
            read: &|_| Err(io::ErrorKind::NotFound.into()),
            run: &|_, _| Err(io::ErrorKind::NotFound.into()),
            pinned_go_env: None,
        };
        let (defaults, ways) =
            ask_all(&[Ecosystem::Go, Ecosystem::Python, Ecosystem::Apt, Ecosystem::Oci].into(), &machine);
        assert_eq!(defaults.keys().copied().collect::<Vec<_>>(), [Ecosystem::Go, Ecosystem::Python]);
        assert_eq!(defaults[&Ecosystem::Go].second.as_ref().unwrap().expose(), "sum.example");
        assert_eq!(ways.len(), 1, "{ways:?}");
    }

    #[test]
    fn a_list_is_masked_entry_by_entry() {
        let it = Known::new("https://u:secret@a/go|https://b,direct", "GOPROXY");
        assert_eq!(it.value.to_string(), "https://****@a/go|https://b,direct");
        assert_eq!(it.hosts(), ["a", "b"]);
        let it = it.and(Some("sum.example+key https://s:1/"));
        assert_eq!((it.hosts().len(), it.all_hosts(Ecosystem::Go)), (2, ["a", "b", "s:1"].map(str::to_owned).to_vec()));
    }
}
