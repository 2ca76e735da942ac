//! Builds a binary of the nested workspace, trying the crates endpoints of the chosen profile in turn.
//!
//! It leaves no cargo configuration file behind (settings are arguments of that one cargo, and where they hold a password
//! a private file for as long as it runs: arguments can be read by everybody on the machine) and never contacts anything
//! while the crates are already here. Cargo itself knows no fallback and waits for minutes on a
//! silent host, hence the bounds, the probe and the order. Cargo verifies every crate against `Cargo.lock`, so a lying
//! endpoint is one more endpoint that failed.

use crate::arguments::Request;
use crate::bypass::Bypass;
use crate::failure::{self, Failure};
use crate::guard::{Guard, Onward, Proxy};
use crate::profile::{Choice, Endpoint, Profiles, Reach};
use crate::stamp;
use crate::toml::{self, Value};
use crate::tr;
use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// A host that does not even accept a connection in this time is not asked for crates.
const PROBE_SECONDS: u64 = 3;

/// Bounds of one endpoint. Without them cargo waits 132 s on a silent host and for ever on one byte a second; with them
/// it gives up after two tries of about six seconds. A caller's own values are kept.
const HASTY: [(&str, &str); 3] =
    [("CARGO_HTTP_TIMEOUT", "5"), ("CARGO_HTTP_LOW_SPEED_LIMIT", "1000"), ("CARGO_NET_RETRY", "1")];

/// Bounds of the endpoints that were too slow for those, once there is nobody else: cargo's own.
const PATIENT: [(&str, &str); 3] =
    [("CARGO_HTTP_TIMEOUT", "30"), ("CARGO_HTTP_LOW_SPEED_LIMIT", "10"), ("CARGO_NET_RETRY", "2")];

/// What names a proxy to cargo.
const PROXY_VARIABLES: [&str; 6] =
    ["CARGO_HTTP_PROXY", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "http_proxy"];

/// Where systems keep the authorities they trust. Source: the list of `openssl-probe`.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// One binary of the nested workspace `xtask/crates`:
/// ```text
/// target/xtask/tool/            cargo's target folder for all of them
///   conductor.stamp             what its binary was built from
///   endpoint                    the crates endpoint that last served: another URL would compile every crate again
/// ```
pub struct Tool<'a> {
    root: &'a Path,
    package: &'a str,
    workspace: PathBuf,
    target: PathBuf,
}

/// A binary that is there, and whom bringing it about took.
pub struct Built {
    pub binary: PathBuf,
    /// The hosts that were contacted, `HOST=served` where the endpoint is that delivered; empty where everything was here.
    pub contacted: Vec<String>,
}

/// What is the same for every endpoint that is tried.
struct Try<'a> {
    reach: &'a Reach,
    /// `None`: no profile was chosen, and cargo waits as it likes.
    bounds: Option<[(&'static str, &'static str); 3]>,
    offline: bool,
    /// Whether giving this endpoint up leaves anybody to ask.
    others: bool,
    /// Holds cargo to the hosts of the profile.
    guard: Option<&'a Guard>,
}

/// How one run of cargo ended.
#[derive(Clone)]
enum Outcome {
    Built(PathBuf),
    /// This endpoint did not deliver, in cargo's last words.
    Unserved(String),
    /// The same, only because it took too long.
    Slow(String),
    /// A crate was not the one that `Cargo.lock` pins.
    Forged(String),
    /// These URLs are outside the profile, and were not asked.
    Outside(BTreeSet<String>),
}

impl Outcome {
    /// In cargo's words or the system's. Source: curl's error 28 and cargo 1.95, `sources/registry/http_remote.rs`.
    fn failed(reason: String) -> Self {
        let slow =
            ["[28]", "timed out", "bytes/sec", "failed to transfer more than"].iter().any(|it| reason.contains(it));
        if slow { Self::Slow(reason) } else { Self::Unserved(reason) }
    }

    /// Why nothing came of it.
    fn told(&self) -> Option<String> {
        match self {
            Self::Built(_) => None,
            Self::Unserved(reason) | Self::Slow(reason) | Self::Forged(reason) => Some(reason.clone()),
            Self::Outside(urls) => {
                let urls = urls.iter().cloned().collect::<Vec<_>>().join(", ");
                Some(tr!("it leads to {urls}, outside the profile, and `mirrors-only` forbids to contact that", urls))
            }
        }
    }
}

impl<'a> Tool<'a> {
    pub fn new(root: &'a Path, package: &'a str) -> Result<Self, Failure> {
        let workspace = root.join("xtask").join("crates");
        let plain = package.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !plain || !workspace.join(package).join("Cargo.toml").is_file() {
            let message =
                tr!("there is no package `{package}` in {workspace}", package, workspace = workspace.display());
            return Err(
                Failure::new(failure::USAGE, message).hint(tr!("is this checkout complete? `git status` tells"))
            );
        }
        Ok(Self { root, package, workspace, target: root.join("target").join("xtask").join("tool") })
    }

    /// # Errors
    /// Why a build is needed.
    pub fn fresh(&self) -> Result<PathBuf, String> {
        stamp::check(&self.stamp(), self.root)
    }

    pub fn build(&self, request: &Request, reason: &str) -> Result<Built, Failure> {
        let profiles = Profiles::of(request.repo.as_deref().unwrap_or(self.root));
        let choice = profiles.choose(request)?;
        let offline_asked = profiles.offline(request);
        fs::create_dir_all(&self.target).map_err(|error| {
            Failure::new(failure::DISK, tr!("cannot create the folder {target}", target = self.target.display()))
                .because(error)
        })?;
        let through = match &choice {
            Choice::Plain { .. } => String::new(),
            Choice::Profile { name, .. } => tr!(", crates through mirror `{name}`", name),
        };
        eprintln!("{}", tr!("building {name} ({reason}){through}", name = self.name(), reason, through));
        let nothing = Reach::default();
        let (bounded, reach) = match &choice {
            Choice::Plain { .. } => (false, &nothing),
            Choice::Profile { reach, .. } => (true, reach),
        };
        let mut failures = Vec::new();
        let (cached, asked) = self.attempts(&choice, offline_asked);
        let bounds = bounded.then_some(HASTY);
        for endpoint in cached {
            match self.cargo(&endpoint, &Try { reach, bounds, offline: true, others: false, guard: None })? {
                Outcome::Built(binary) => return Ok(self.built(binary, &endpoint, Vec::new())),
                failed if offline_asked => failures.push((endpoint, failed)),
                _ => {}
            }
        }
        let guard = match &reach.only {
            Some(allowed) if !asked.is_empty() => Some(Guard::start(allowed.clone(), self.onward(reach)?)?),
            _ => None,
        };
        let guard = guard.as_ref();
        let probed = bounded && reach.proxy.is_none() && !proxied();
        let mut contacted: Vec<String> = asked.iter().filter(|_| probed).filter_map(Endpoint::host).collect();
        let verdicts = if probed { probe(&asked) } else { vec![Ok(()); asked.len()] };
        let mut round = asked.into_iter().zip(verdicts).collect::<Vec<_>>();
        for bounds in [HASTY, PATIENT] {
            // Whoever chose mirrors is sent past one that was reached and is slow only after it was given time.
            let (mut reached_slow, mut last_resort) = (false, None);
            for (index, (endpoint, verdict)) in round.iter().enumerate() {
                if let Err(outcome) = verdict {
                    failures.push((endpoint.clone(), outcome.clone()));
                    continue;
                }
                if reached_slow && *endpoint == Endpoint::Direct && bounds == HASTY {
                    last_resort = Some(endpoint.clone());
                    continue;
                }
                let others = round[index + 1..].iter().any(|(_, verdict)| verdict.is_ok());
                let started = SystemTime::now();
                let bounds = bounded.then_some(bounds);
                let outcome = self.cargo(endpoint, &Try { reach, bounds, offline: false, others, guard })?;
                let Outcome::Built(binary) = outcome else {
                    contacted.extend(endpoint.host());
                    reached_slow |= bounded && matches!(outcome, Outcome::Slow(_));
                    failures.push((endpoint.clone(), outcome));
                    continue;
                };
                let served = served_by(endpoint, started);
                if bounded && !(served.is_empty() && failures.is_empty()) {
                    eprintln!("{}", tr!("crates from {endpoint}{others}", endpoint, others = passed_over(&failures)));
                }
                contacted.extend(served);
                return Ok(self.built(binary, endpoint, contacted));
            }
            // A network or a machine under load may be slower than our haste: better late than never.
            let is_slow = |(_, outcome): &(Endpoint, Outcome)| matches!(outcome, Outcome::Slow(_));
            let (slow, others) = failures.into_iter().partition::<Vec<_>, _>(is_slow);
            if !bounded || bounds == PATIENT || slow.is_empty() || (last_resort.is_none() && !routed()) {
                failures = [others, slow].concat();
                break;
            }
            failures = others;
            let shown = slow.iter().map(|(endpoint, _)| endpoint.to_string()).collect::<Vec<_>>().join(", ");
            eprintln!("{}", tr!("slow: {endpoints}; asked again with more patience", endpoints = shown));
            round = slow.into_iter().map(|(endpoint, _)| endpoint).chain(last_resort).map(|it| (it, Ok(()))).collect();
        }
        Err(self.unserved(&choice, request, &profiles, failures))
    }

    fn built(&self, binary: PathBuf, endpoint: &Endpoint, contacted: Vec<String>) -> Built {
        // Best effort: without it the next build may start at another endpoint.
        let _ = stamp::write_atomically(&self.last_endpoint(), &endpoint.to_string());
        Built { binary, contacted }
    }

    /// First what needs no network, since crates that are here already are verified and cost nothing; then whom to ask.
    fn attempts(&self, choice: &Choice, offline: bool) -> (Vec<Endpoint>, Vec<Endpoint>) {
        let last = fs::read_to_string(self.last_endpoint()).unwrap_or_default();
        let is_last = |endpoint: &Endpoint| endpoint.to_string() == last;
        match choice {
            Choice::Plain { known, contacts } => {
                let mut cached: Vec<Endpoint> = known.iter().filter(|&endpoint| is_last(endpoint)).cloned().collect();
                if offline || !contacts {
                    cached.push(Endpoint::Direct);
                    return (cached, Vec::new());
                }
                (cached, vec![Endpoint::Direct])
            }
            Choice::Profile { endpoints, .. } => {
                let mut endpoints = endpoints.clone();
                endpoints.sort_by_key(|endpoint| !is_last(endpoint));
                if offline {
                    return (endpoints, Vec::new());
                }
                let candidates = if endpoints.first().is_some_and(is_last) { 1 } else { endpoints.len() };
                (endpoints[..candidates].to_vec(), endpoints)
            }
        }
    }

    /// Runs cargo once and relays what it says, except the error of an endpoint that did not deliver.
    ///
    /// One `cargo build` rather than a `cargo fetch` before it: fetching would bring the crates of the whole workspace,
    /// tests and satellites included, over a network that is slow.
    fn cargo(&self, endpoint: &Endpoint, attempt: &Try) -> Result<Outcome, Failure> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(&cargo);
        command.args(["build", "--locked", "--package", self.package, "--bin", self.package]);
        // Where the binary is depends on the caller's cargo configuration: cargo says it.
        command.arg("--message-format=json-render-diagnostics");
        command.args(attempt.offline.then_some("--offline"));
        let settings = Settings::of(endpoint, &self.target)?;
        command.args(settings.arguments());
        command.current_dir(&self.workspace).env("CARGO_TARGET_DIR", &self.target);
        // The tool runs on this machine, whatever the caller is building for.
        command.env_remove("CARGO_BUILD_TARGET");
        self.reach(attempt.reach, &mut command)?;
        if let Some(guard) = attempt.guard {
            command.env("CARGO_HTTP_PROXY", guard.proxy()).env("NO_PROXY", "").env("no_proxy", "");
        }
        if let Some(bounds) = attempt.bounds {
            command.envs(bounds.into_iter().filter(|(name, _)| env::var_os(name).is_none()));
        }
        if std::io::stderr().is_terminal() && env::var_os("CARGO_TERM_COLOR").is_none() {
            command.env("CARGO_TERM_COLOR", "always");
        }
        let started = SystemTime::now();
        let cannot_start = |error| {
            let message =
                tr!("cannot build {name}: cannot start {cargo}", name = self.name(), cargo = cargo.to_string_lossy());
            Failure::new(failure::MISSING, message).because(error).hint(tr!("start it through cargo: `cargo xtask …`"))
        };
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().map_err(cannot_start)?;
        let messages = child.stdout.take().map(|mut pipe| {
            thread::spawn(move || {
                let mut text = String::new();
                pipe.read_to_string(&mut text).map(|_| text).unwrap_or_default()
            })
        });
        let mut hinted = false;
        let mut silent = None;
        let mut served = false;
        // cargo warns when it gives up its first try. An endpoint that has not served anything by then is left at once; one that
        // has gets its second try, as has the last one there is.
        let complaint = child.stderr.take().map(|pipe| {
            relay(pipe, |line| {
                served |= line.contains("Downloaded ");
                let Some((_, reason)) = line.split_once("spurious network error") else { return true };
                if attempt.bounds.is_none() && !hinted {
                    hinted = true;
                    let hint =
                        tr!("behind a slow or filtered network choose a mirror profile: `--mirror NAME` (cn, …)");
                    eprintln!("{}", tr!("hint: {hint}", hint));
                }
                let kept = attempt.guard.is_some_and(Guard::kept_from_any);
                if kept || (attempt.others && !served) {
                    silent = Some(reason.split_once("): ").map_or(reason, |(_, reason)| reason).trim().to_owned());
                }
                silent.is_none()
            })
        });
        if silent.is_some() {
            let _ = child.kill();
        }
        let complaint = complaint.unwrap_or_default();
        let status = child.wait().map_err(cannot_start)?;
        let account = attempt.guard.map(Guard::account).unwrap_or_default();
        if !status.success() && !account.outside.is_empty() {
            return Ok(Outcome::Outside(account.outside));
        }
        if let Some(reason) = silent {
            return Ok(Outcome::failed(account.unreached.unwrap_or(reason)));
        }
        let messages = messages.and_then(|reader| reader.join().ok()).unwrap_or_default();
        if status.success() {
            eprint!("{complaint}");
            let binary = executable(&messages).ok_or_else(|| {
                Failure::new(failure::CHILD, tr!("cargo built no binary `{package}`", package = self.package))
            })?;
            // Best effort: without a stamp the next run asks cargo again.
            let _ = stamp::record(&self.stamp(), &binary, &self.workspace, started);
            return Ok(Outcome::Built(binary));
        }
        let plain = without_colours(&complaint);
        match fault(&plain) {
            Some(Fault::Endpoint) => Ok(Outcome::failed(account.unreached.unwrap_or_else(|| reason(&plain)))),
            Some(Fault::Crate) => Ok(Outcome::Forged(self.forgery(&plain))),
            None => {
                eprint!("{complaint}");
                Err(self.failed(&plain, &command, status.to_string()))
            }
        }
    }

    /// Tells cargo how the profile's endpoints are reached, which the caller's own variables do not change.
    fn reach(&self, reach: &Reach, command: &mut Command) -> Result<(), Failure> {
        if let Some(proxy) = &reach.proxy {
            command.env("CARGO_HTTP_PROXY", proxy);
            let no_proxy = reach.no_proxy.join(",");
            command.env("NO_PROXY", &no_proxy).env("no_proxy", no_proxy);
        }
        let Some(own) = &reach.ca_bundle else { return Ok(()) };
        // cargo trusts one file, in place of the machine's: the file has to hold both.
        let own = self.root.join(own);
        let cannot = |path: &Path, error| {
            let message =
                tr!("cannot use the certificate authorities of the mirror profile: {path}", path = path.display());
            Failure::new(failure::CONFIGURATION, message).because(error)
        };
        let mut bundle = fs::read(&own).map_err(|error| cannot(&own, error))?;
        bundle.push(b'\n');
        let said = ["CARGO_HTTP_CAINFO", "SSL_CERT_FILE"].into_iter().filter_map(env::var_os).map(PathBuf::from);
        if let Some(machines) = said.chain(AUTHORITIES.map(PathBuf::from)).find_map(|path| fs::read(path).ok()) {
            bundle.extend(machines);
        }
        let path = self.target.join("authorities.pem");
        stamp::write_atomically(&path, &String::from_utf8_lossy(&bundle)).map_err(|error| cannot(&path, error))?;
        command.env("CARGO_HTTP_CAINFO", path);
        Ok(())
    }

    /// How cargo would reach the hosts that it now reaches through the guard. Source: cargo 1.95, `util/network/http.rs`, and
    /// curl's manual, "Environment".
    fn onward(&self, reach: &Reach) -> Result<Onward, Failure> {
        let said = |names: &[&str]| names.iter().find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()));
        let all = reach.proxy.clone().or_else(|| said(&["CARGO_HTTP_PROXY"])).or_else(|| self.configured_proxy());
        let of = |names: &[&str]| all.clone().or_else(|| said(names)).map(|url| Proxy::read(&url)).transpose();
        let proxies = [
            of(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])?,
            of(&["http_proxy", "all_proxy", "ALL_PROXY"])?,
        ];
        let own = || said(&["no_proxy", "NO_PROXY"]).unwrap_or_default();
        let no_proxy = if reach.proxy.is_some() { reach.no_proxy.join(",") } else { own() };
        Ok(Onward { proxies, no_proxy: no_proxy.split([',', ' ']).filter_map(Bypass::parse).collect() })
    }

    /// `http.proxy` of cargo's configuration files, else of git's, which cargo obeys too.
    fn configured_proxy(&self) -> Option<String> {
        let folders = self.workspace.ancestors().map(|folder| folder.join(".cargo")).chain([cargo_home()]);
        let mut files = folders.flat_map(|folder| ["config", "config.toml"].map(|name| folder.join(name)));
        let of_cargo =
            files.find_map(|file| match toml::read(&fs::read_to_string(file).ok()?).ok()?.get(&["http", "proxy"]) {
                Some(Value::Text(url)) => Some(url.clone()),
                _ => None,
            });
        // Outside of any repository, whose own settings cargo does not read.
        let git = || Command::new("git").args(["config", "--get", "http.proxy"]).current_dir("/").output().ok();
        let of_git = || Some(String::from_utf8(git()?.stdout).ok()?.trim().to_owned());
        of_cargo.or_else(of_git).filter(|url| !url.is_empty())
    }

    fn failed(&self, complaint: &str, command: &Command, status: String) -> Failure {
        let message = tr!("cannot build {name}", name = self.name());
        if complaint.contains("No space left on device") {
            return Failure::new(failure::DISK, message)
                .because(tr!("no space left on the file system of {target}", target = self.target.display()))
                .hint(tr!("free some space; what is finished so far is kept"));
        }
        if complaint.contains("linker `cc` not found") {
            return Failure::new(failure::MISSING, message).because(tr!("there is no C linker (`cc`) on PATH")).hint(
                tr!("install one: `apt-get install gcc` or `dnf install gcc` (macOS: `xcode-select --install`)"),
            );
        }
        // Up to the settings, which may hold credentials.
        let words = command.get_args().take_while(|word| *word != "--config");
        let line = [command.get_program()].into_iter().chain(words).map(|word| word.to_string_lossy());
        let line = line.collect::<Vec<_>>().join(" ");
        Failure::new(failure::CHILD, message).because(tr!(
            "`{line}` in {workspace} failed ({status}); its message is above",
            line,
            workspace = self.workspace.display(),
            status
        ))
    }

    /// Cargo names the crate only; what was expected stands in the lock file.
    fn forgery(&self, complaint: &str) -> String {
        let lock = fs::read_to_string(self.workspace.join("Cargo.lock")).unwrap_or_default();
        let (of_file, of_index) = ("failed to verify the checksum of `", "checksum for `");
        let file = complaint.split_once(of_file);
        let words = file.or_else(|| complaint.split_once(of_index)).map_or("", |(_, rest)| rest);
        let mut words = words.split([' ', '`']);
        let (name, version) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let entry = format!("name = \"{name}\"\nversion = \"{}\"\n", version.trim_start_matches('v'));
        let pinned = lock.split("\n\n").find_map(|package| package.split_once(&entry)?.1.split_once("checksum = \""));
        match pinned.and_then(|(_, rest)| rest.split('"').next()) {
            Some(sha256) if file.is_none() => {
                tr!(
                    "its index gives `{name} {version}` another checksum than Cargo.lock pins (sha256 {sha})",
                    name,
                    version,
                    sha = sha256
                )
            }
            Some(sha256) => {
                tr!(
                    "it sent `{name} {version}` with other bytes than Cargo.lock pins (sha256 {sha})",
                    name,
                    version,
                    sha = sha256
                )
            }
            None => reason(complaint),
        }
    }

    fn unserved(
        &self,
        choice: &Choice,
        request: &Request,
        profiles: &Profiles,
        failures: Vec<(Endpoint, Outcome)>,
    ) -> Failure {
        let forged = failures.iter().any(|(_, outcome)| matches!(outcome, Outcome::Forged(_)));
        let outside = failures.iter().find_map(|(_, outcome)| match outcome {
            Outcome::Outside(urls) if !forged => urls.first().cloned(),
            _ => None,
        });
        let exit = if forged { failure::INTEGRITY } else { failure::NETWORK };
        let name = self.name();
        let mut it = if outside.is_some() {
            let message = tr!("cannot build {name}: only a host outside the profile could deliver its crates", name);
            Failure::new(exit, message).code(failure::OUTSIDE_PROFILE)
        } else {
            Failure::new(exit, tr!("cannot build {name}: its crates could not be fetched", name))
        };
        let offline = profiles.offline(request);
        let own = if offline { None } else { OwnSetting::at_fault(choice, &failures) };
        if let Some(OwnSetting { cause: Some(cause), .. }) = &own {
            it = it.because(cause);
        }
        for (endpoint, outcome) in failures {
            let place = match endpoint {
                Endpoint::Direct => tr!("cargo's own registry"),
                Endpoint::Registry(_) => endpoint.to_string(),
            };
            if let Some(reason) = outcome.told() {
                it = it.because(tr!("{subject}: {message}", subject = place, message = reason));
            }
        }
        let others = profiles.names().join(", ");
        let hint = match choice {
            _ if own.is_some() => own.map(|own| own.hint).unwrap_or_default(),
            _ if offline => tr!("run it once without `--offline`, or copy CARGO_HOME from a machine where it ran"),
            Choice::Plain { contacts: false, .. } => {
                tr!("`mirrors-only` needs a profile: `--mirror NAME` ({others})", others)
            }
            Choice::Plain { .. } => {
                tr!(
                    "behind a slow or filtered network choose a profile: `--mirror NAME` ({others}), or set HTTPS_PROXY",
                    others
                )
            }
            Choice::Profile { name, .. } if outside.is_some() => tr!(
                "if that host may be contacted: `hosts = [\"{host}\"]` under [mirror.{name}] in xtask.local.toml",
                host = outside.as_deref().and_then(host_of).unwrap_or_default(),
                name
            ),
            Choice::Profile { name, .. } => tr!(
                "add an endpoint under [mirror.{name}.crates] in xtask.local.toml, choose another profile with `--mirror \
                 NAME` ({others}), or set HTTPS_PROXY",
                name,
                others
            ),
        };
        let without_network = !offline && !forged && !routed();
        it.hint(if without_network {
            tr!("this machine has no network: no route leads out of it; once it has one: {hint}", hint)
        } else {
            hint
        })
    }

    fn name(&self) -> &str {
        if self.package == "conductor" { "xtask" } else { self.package }
    }

    fn stamp(&self) -> PathBuf {
        self.target.join(format!("{}.stamp", self.package))
    }

    fn last_endpoint(&self) -> PathBuf {
        self.target.join("endpoint")
    }
}

/// What tells one cargo to use an endpoint.
enum Settings {
    Words(Vec<String>),
    /// Removed when dropped.
    File(PathBuf),
}

impl Settings {
    fn of(endpoint: &Endpoint, folder: &Path) -> Result<Self, Failure> {
        // A signal ends a launcher before it removes its own: credentials must not stay.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.strip_prefix("endpoint-")?.strip_suffix(".toml"));
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        let Endpoint::Registry(url) = endpoint else { return Ok(Self::Words(Vec::new())) };
        let settings = vec![
            r#"source.crates-io.replace-with="xtask-mirror""#.to_owned(),
            format!("source.xtask-mirror.registry=\"{url}\""),
        ];
        if !url.contains('@') {
            return Ok(Self::Words(settings));
        }
        let path = folder.join(format!("endpoint-{}.toml", std::process::id()));
        let _ = fs::remove_file(&path);
        let write = |mut file: fs::File| file.write_all(settings.join("\n").as_bytes());
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).and_then(write).map_err(
            |error| Failure::new(failure::DISK, tr!("cannot write {path}", path = path.display())).because(error),
        )?;
        Ok(Self::File(path))
    }

    fn arguments(&self) -> Vec<OsString> {
        let of = |value: OsString| ["--config".into(), value];
        match self {
            Self::Words(words) => words.iter().flat_map(|word| of(word.into())).collect(),
            Self::File(path) => of(path.into()).into(),
        }
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        if let Self::File(path) = self {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether hosts are reached through a proxy, so that connecting to them directly proves nothing.
fn proxied() -> bool {
    PROXY_VARIABLES.iter().any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// A setting of the caller's, rather than an endpoint, that keeps cargo from everything.
struct OwnSetting {
    cause: Option<String>,
    hint: String,
}

impl OwnSetting {
    /// Judged by cargo's words, since NO_PROXY or a configuration file may put a variable out of force.
    fn at_fault(choice: &Choice, failures: &[(Endpoint, Outcome)]) -> Option<Self> {
        let own = Reach::default();
        let reach = if let Choice::Profile { reach, .. } = choice { reach } else { &own };
        let said = |text: &str| {
            failures
                .iter()
                .any(|(_, it)| matches!(it, Outcome::Unserved(reason) | Outcome::Slow(reason) if reason.to_lowercase().contains(text)))
        };
        let set = |names: &[&'static str]| {
            names.iter().find_map(|name| Some((*name, env::var(name).ok().filter(|value| !value.is_empty())?)))
        };
        if reach.ca_bundle.is_none()
            && said("certificate")
            && let Some((variable, path)) = set(&["CARGO_HTTP_CAINFO", "SSL_CERT_FILE"])
        {
            let hint = tr!(
                "{variable}={value} is all that cargo trusts here: correct it, or `unset {variable}`",
                variable,
                value = path
            );
            return Some(Self { cause: None, hint });
        }
        let (variable, value) = if reach.proxy.is_none() { set(&PROXY_VARIABLES)? } else { return None };
        let proxy = Endpoint::Registry(if value.contains("://") { value } else { format!("http://{value}") });
        let authority = proxy.authority()?;
        if !said("proxy") && !proxy.host().is_some_and(|host| said(&host.to_lowercase())) {
            return None;
        }
        let deadline = Instant::now() + Duration::from_secs(PROBE_SECONDS);
        let cause = connect(&authority, deadline).err().map(|reason| {
            tr!("the proxy {proxy} that {variable} names does not answer: {reason}", proxy, variable, reason)
        });
        let hint = tr!(
            "{variable}={value} is in force: start that proxy, correct the variable, or `unset {variable}`",
            variable,
            value = proxy
        );
        Some(Self { cause, hint })
    }
}

/// Whether any route leads out of this machine. Nothing is sent: the addresses are those reserved for documentation.
fn routed() -> bool {
    let leads = |(from, to)| UdpSocket::bind(from).and_then(|socket| socket.connect::<&str>(to)).is_ok();
    [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")].into_iter().any(leads)
}

/// Which endpoints are worth asking, and why the others are not. Where nothing at all answers, the probe is what is wrong (a
/// proxy that only cargo or git is told about), so everything is asked.
fn probe(endpoints: &[Endpoint]) -> Vec<Result<(), Outcome>> {
    let deadline = Instant::now() + Duration::from_secs(PROBE_SECONDS);
    let (sender, answers) = mpsc::channel();
    let silent = Outcome::Slow(tr!("no connection within {probe_seconds} s", probe_seconds = PROBE_SECONDS));
    let mut verdicts = vec![Ok(()); endpoints.len()];
    let mut pending = 0;
    for (index, authority) in endpoints.iter().map(Endpoint::authority).enumerate() {
        let Some(authority) = authority else { continue };
        let sender = sender.clone();
        pending += 1;
        verdicts[index] = Err(silent.clone());
        // Not joined: looking up a name cannot be bounded.
        thread::spawn(move || sender.send((index, connect(&authority, deadline))));
    }
    while pending > 0 {
        let Ok((index, verdict)) = answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) else {
            break;
        };
        verdicts[index] = verdict.map_err(Outcome::failed);
        pending -= 1;
    }
    let believed = endpoints.iter().zip(&verdicts).any(|(it, verdict)| *it != Endpoint::Direct && verdict.is_ok());
    if believed { verdicts } else { vec![Ok(()); endpoints.len()] }
}

fn connect(authority: &str, deadline: Instant) -> Result<(), String> {
    let mut reason = tr!("its name has no address");
    for address in
        authority.to_socket_addrs().map_err(|error| tr!("its name cannot be looked up (DNS): {error}", error))?
    {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(_) => return Ok(()),
            Err(error) => reason = format!("{address}: {error}"),
        }
    }
    Err(reason)
}

fn cargo_home() -> PathBuf {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"))).unwrap_or_default()
}

/// Of a URL without credentials, with its port where it names one.
fn host_of(url: &str) -> Option<&str> {
    url.split_once("://")?.1.split('/').next()
}

/// `; passed over: A (why), B (why)`.
fn passed_over(failures: &[(Endpoint, Outcome)]) -> String {
    let passed: Vec<String> =
        failures.iter().filter_map(|(endpoint, outcome)| Some(format!("{endpoint} ({})", outcome.told()?))).collect();
    if passed.is_empty() { String::new() } else { tr!("; passed over: {passed}", passed = passed.join(", ")) }
}

/// The hosts from which crate files came since `started`, as [`Built::contacted`] writes them: an index may lead to another host for them. cargo keeps the files of
/// each registry in a folder named `HOST-HASH`, and beside the index what it was told of the downloads.
fn served_by(endpoint: &Endpoint, started: SystemTime) -> BTreeSet<String> {
    let registry = cargo_home().join("registry");
    // File systems may round times down.
    let since = started.checked_sub(Duration::from_secs(1)).unwrap_or(started);
    let mut hosts = BTreeSet::new();
    for folder in fs::read_dir(registry.join("cache")).into_iter().flatten().flatten() {
        let name = folder.file_name().to_string_lossy().into_owned();
        let Some((host, _)) = name.rsplit_once('-') else { continue };
        let filled = folder.metadata().and_then(|it| it.modified()).is_ok_and(|time| time >= since);
        if !filled || endpoint.host().is_some_and(|expected| expected != host) {
            continue;
        }
        hosts.insert(format!("{host}=served"));
        let settings = fs::read_to_string(registry.join("index").join(&name).join("config.json")).unwrap_or_default();
        let download = settings.split_once("\"dl\"").and_then(|(_, rest)| rest.split('"').nth(1)?.split_once("://"));
        hosts.extend(download.and_then(|(_, rest)| Some(rest.split(['/', ':']).next()?.to_owned())));
    }
    hosts
}

/// Passes cargo's lines on as they come, up to its first error, which the caller judges; returns the rest. Ends early where
/// `go_on` says so.
fn relay(pipe: impl Read, mut go_on: impl FnMut(&str) -> bool) -> String {
    let mut complaint = String::new();
    for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
        let line = masked(&String::from_utf8_lossy(&line));
        let plain = without_colours(&line);
        if !go_on(&plain) {
            break;
        }
        if complaint.is_empty() && !plain.starts_with("error") {
            eprintln!("{line}");
        } else {
            complaint = complaint + &line + "\n";
        }
    }
    complaint
}

/// cargo cites the URL of its index with the user and password that it was given.
fn masked(text: &str) -> String {
    let mut parts = text.split("://");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |shown, part| {
        let end =
            part.find(|c: char| c.is_whitespace() || c.is_control() || "`'\"<>".contains(c)).unwrap_or(part.len());
        let (url, rest) = part.split_at(end);
        let place = url.rsplit_once('@').map_or(url.to_owned(), |(_, place)| format!("****@{place}"));
        format!("{shown}://{place}{rest}")
    })
}

fn without_colours(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once('m').map_or("", |(_, rest)| rest))
}

#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Endpoint,
    Crate,
}

/// Whose fault cargo's error is; `None`: not the endpoint's, so another one would not help.
/// Source: cargo 1.95, `sources/registry/`, `core/package.rs`, `core/resolver/errors.rs`.
fn fault(complaint: &str) -> Option<Fault> {
    const ENDPOINT: [&str; 11] = [
        "failed to get `",
        "failed to download",
        "failed to fetch",
        "download of ",
        "failed to query replaced source",
        "unable to update",
        // A stale index, or a page that is no index.
        "no matching package",
        "failed to select a version",
        "perhaps a crate was updated",
        "--offline was specified",
        "already defined by `crates-io`",
    ];
    // The file, and what the index says of it.
    const CRATE: [&str; 2] = ["failed to verify the checksum", "changed between lock files"];
    const OURS: [&str; 3] = ["could not compile", "--locked was passed", "No space left on device"];
    if OURS.iter().any(|text| complaint.contains(text)) {
        None
    } else if CRATE.iter().any(|text| complaint.contains(text)) {
        Some(Fault::Crate)
    } else {
        ENDPOINT.iter().any(|text| complaint.to_lowercase().contains(text)).then_some(Fault::Endpoint)
    }
}

/// The innermost cause that cargo gives, put right where its words mislead.
fn reason(complaint: &str) -> String {
    // `…response from `URL` (ADDRESS), got 403`, and after that the page that came.
    let answer = complaint.rsplit_once("successful HTTP response from `").and_then(|(_, rest)| rest.split_once('`'));
    let status = answer.and_then(|(_, rest)| rest.lines().next()?.split_once("got ")).map(|(_, status)| status.trim());
    if let (Some((url, _)), Some(status)) = (answer, status) {
        return tr!("it answered {status} for {url}", status, url = url.split(['?', '#']).next().unwrap_or(url));
    }
    let misleading = [
        (
            "registries require a credential-provider",
            tr!("it answered 401: it wants a user and a password, or refuses those it was given"),
        ),
        ("config.json not found", tr!("it answered 404 for config.json: there is no index at this place")),
        (
            "already defined by `crates-io`",
            tr!("this is cargo's own registry; as a mirror's endpoint it is written \"direct\""),
        ),
        ("expected value at line 1 column 1", tr!("answered with a page that is no index (a login or blocking page?)")),
        ("--offline was specified", tr!("its crates are not in CARGO_HOME")),
        ("you're using offline mode", tr!("its crates are not in CARGO_HOME")),
        (
            "no matching package",
            tr!("its index lacks a crate: it is stale, or the answer was a login or blocking page"),
        ),
    ];
    if let Some((_, meaning)) = misleading.into_iter().find(|(text, _)| complaint.contains(text)) {
        return meaning;
    }
    let last = complaint.lines().rev().map(str::trim).find(|line| !line.is_empty());
    last.map_or_else(|| tr!("no message"), str::to_owned)
}

/// The path in cargo's last `"executable":"…"` message.
fn executable(messages: &str) -> Option<PathBuf> {
    let (_, rest) = messages.rsplit_once("\"executable\":\"")?;
    let mut path = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return Some(path.into()),
            '\\' => path.push(chars.next()?),
            c => path.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_that_a_killed_launcher_left_are_removed_and_those_of_a_living_one_stay() {
        let folder = env::temp_dir().join(format!("xtask-endpoint-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        // No process has a number above 4194304.
        let (left, living) = (folder.join("endpoint-4194305.toml"), folder.join("endpoint-1.toml"));
        for path in [&left, &living] {
            fs::write(path, "secret").unwrap();
        }
        let own = Settings::of(&Endpoint::Registry("sparse+https://u:p@corp/index/".to_owned()), &folder);
        let Ok(Settings::File(path)) = &own else { panic!("credentials in arguments") };
        assert!(path.exists() && living.exists() && !left.exists());
        drop(own);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn only_an_endpoints_fault_leads_to_the_next_endpoint() {
        for (complaint, expected) in [
            (
                "error: failed to get `a` as a dependency\nCaused by:\n  [7] Could not connect to server",
                Some(Fault::Endpoint),
            ),
            ("error: failed to verify the checksum of `a v1.0.0`", Some(Fault::Crate)),
            ("error: checksum for `a v1.0.0` changed between lock files\n\nunable to verify", Some(Fault::Crate)),
            ("error[E0308]: mismatched types\nerror: could not compile `a` (bin)", None),
            ("error: cannot update the lock file, because --locked was passed", None),
            ("error: failed to parse manifest at `/Cargo.toml`", None),
        ] {
            assert_eq!(fault(complaint), expected, "{complaint}");
        }
    }

    #[test]
    fn the_reason_is_the_innermost_cause_without_colours() {
        let complaint = "\u{1b}[1m\u{1b}[31merror\u{1b}[0m: failed to get `a`\n\nCaused by:\n  [7] refused\n\n";
        assert_eq!(reason(&without_colours(complaint)), "[7] refused");
        let page = "error: failed to get `a`\nCaused by:\n  expected value at line 1 column 1";
        assert!(reason(page).contains("no index"));
    }

    #[test]
    fn the_executable_is_read_with_its_escapes() {
        let messages = r#"{"executable":null}
{"name":"a","executable":"/tmp/a \"b\"/tool","fresh":false}
{"reason":"build-finished"}"#;
        assert_eq!(executable(messages), Some(PathBuf::from(r#"/tmp/a "b"/tool"#)));
    }
}
