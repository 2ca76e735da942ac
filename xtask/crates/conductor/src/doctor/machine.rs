//! What this machine offers beside compilers and a network: container engines, the cache, room, ports; and what the checkout pins and
//! leads to.

use super::{Answer, Check, Finding, Fix};
use crate::language::translated;
use crate::project::leaks::Leaks;
use crate::report::bytes;
use crate::tr;

/// Places of one file that are told; the lines of the others are seen when these are looked at.
const LEAKS_TOLD: usize = 5;

/// A socket of a container engine, or the place that DOCKER_HOST names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    pub place: String,
    /// What it says it is, or why it does not.
    pub answer: Result<String, String>,
    /// `insecure-registries` of its configuration, where that can be read.
    pub insecure: Vec<String>,
}

pub fn examine_engines(engines: &[Engine]) -> Vec<Finding> {
    if engines.is_empty() {
        return vec![Finding::info(
            Check::Engine,
            tr!("container engine"),
            tr!("none was found; nothing that exists today needs one"),
        )];
    }
    let mut findings = Vec::new();
    for it in engines {
        findings.push(match &it.answer {
            Ok(version) => Finding::ok(Check::Engine, &it.place, version),
            Err(why) => Finding::warning(
                Check::EngineSilent,
                &it.place,
                tr!("there, and nobody answers: {why}", why),
                Fix::Yours("docker info".to_owned()),
            ),
        });
        if !it.insecure.is_empty() {
            findings.push(Finding::warning(
                Check::EngineInsecure,
                "/etc/docker/daemon.json",
                tr!(
                    "insecure-registries switches the check of the sender off for {registries}",
                    registries = it.insecure.join(", ")
                ),
                Fix::Yours(tr!(
                    "put their authority into /etc/docker/certs.d/HOST/ca.crt and remove insecure-registries"
                )),
            ));
        }
    }
    findings
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    pub path: String,
    /// `None`: it is not there yet.
    pub there: Option<CacheFacts>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheFacts {
    /// `None`: it took too long to find out.
    pub size_bytes: Option<u64>,
    pub kept_below_bytes: u64,
    /// User ids: of the folder, and ours.
    pub owner: u32,
    pub me: u32,
    pub writable: bool,
    /// The kind of file system, where it is one of a network.
    pub network: Option<String>,
    pub quarantined: usize,
}

pub fn examine_cache(cache: &Cache) -> Vec<Finding> {
    let path = &cache.path;
    let Some(it) = &cache.there else {
        return vec![Finding::ok(Check::CacheFolder, path, tr!("not there yet; the first build makes it"))];
    };
    let mut findings = Vec::new();
    if !it.writable {
        let (owner, me) = (it.owner, it.me);
        findings.push(Finding::error(
            Check::CacheOwner,
            path,
            tr!("belongs to user {owner} and cannot be written by this one, {me}", owner, me),
            Fix::Yours(format!("sudo chown -R \"$(id -u)\" {path}")),
        ));
    }
    if let Some(kind) = &it.network {
        findings.push(Finding::warning(
            Check::CacheLocks,
            path,
            tr!("lies on a network file system ({kind}), where locks may not hold", kind),
            Fix::Yours("export XTASK_CACHE_DIR=/path/on/a/local/disk".to_owned()),
        ));
    }
    if it.quarantined > 0 {
        let count = it.quarantined;
        let message = tr!("altered files that were set aside: {count}", count);
        findings.push(Finding::warning(Check::CacheQuarantine, path, message, Fix::safe("cache verify")));
    }
    let limit = bytes(it.kept_below_bytes);
    if let Some(size) = it.size_bytes.filter(|size| *size > it.kept_below_bytes).map(bytes) {
        let message = tr!("holds {size}, more than the {limit} that it is kept below", size, limit);
        findings.push(Finding::warning(Check::CacheSize, path, message, Fix::safe("cache gc")));
    } else if findings.is_empty() {
        let message = match it.size_bytes.map(bytes) {
            Some(size) => tr!("holds {size}, kept below {limit}", size, limit),
            None => tr!("kept below {limit}; how much it holds took too long to find out", limit),
        };
        findings.push(Finding::ok(Check::CacheFolder, path, message));
    }
    findings
}

/// A folder that is written to, and the file system below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// What for: `cache`, `build`, `temporary`.
    pub name: String,
    pub path: String,
    /// Otherwise there is nothing of ours in it that could make room.
    pub there: bool,
    pub free_bytes: u64,
    pub size_bytes: u64,
    /// Files that can still be made; `None` where the file system has no such limit.
    pub free_files: Option<u64>,
    pub writable: bool,
    /// What the pins still to be fetched take at least.
    pub needed_bytes: u64,
}

/// Less than this holds not even a log.
const NOTHING_BYTES: u64 = 1 << 20;
const NO_FILES: u64 = 16;

pub fn examine_disk(volumes: &[Volume]) -> Vec<Finding> {
    volumes.iter().map(examine_volume).collect()
}

fn examine_volume(it: &Volume) -> Finding {
    let (name, path, free, size) = (&it.name, &it.path, bytes(it.free_bytes), bytes(it.size_bytes));
    let subject = format!("{} {path}", translated(name));
    let clear = match name.as_str() {
        "cache" if it.there => Fix::safe("cache gc"),
        "cache" => Fix::Yours("export XTASK_CACHE_DIR=/path/with/room".to_owned()),
        "build" if it.there => Fix::Yours("cargo xtask clean".to_owned()),
        "build" => Fix::Yours(tr!("make room there: delete something, or check out on another file system")),
        _ => Fix::Yours("export TMPDIR=/path/with/room".to_owned()),
    };
    if !it.writable {
        let fix = match name.as_str() {
            "cache" => "export XTASK_CACHE_DIR=/path/that/can/be/written",
            "build" => "sudo chown -R \"$(id -u)\" .",
            _ => "export TMPDIR=/path/that/can/be/written",
        };
        return Finding::error(
            Check::DiskReadOnly,
            subject,
            tr!("cannot be written by this user"),
            Fix::Yours(fix.to_owned()),
        );
    }
    if it.free_bytes < NOTHING_BYTES {
        return Finding::error(
            Check::DiskFull,
            subject,
            tr!("the file system is full: {free} of {size} are free", free, size),
            clear,
        );
    }
    if let Some(files) = it.free_files.filter(|files| *files < NO_FILES) {
        let message = tr!("the file system is full: it can hold {files} more files, whatever their size", files);
        return Finding::error(Check::DiskFull, subject, message, clear);
    }
    if it.free_bytes < it.needed_bytes {
        let needed = bytes(it.needed_bytes);
        let message = tr!(
            "{free} of {size} are free, and what is pinned and not fetched yet takes {needed} at least",
            free,
            size,
            needed
        );
        return Finding::warning(Check::DiskLow, subject, message, clear);
    }
    Finding::ok(Check::DiskSpace, subject, tr!("{free} of {size} are free", free, size))
}

impl Volume {
    /// For tests: room for everything.
    #[cfg(test)]
    pub fn good(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            path: "/x".to_owned(),
            there: true,
            free_bytes: 1 << 40,
            size_bytes: 1 << 41,
            free_files: None,
            writable: true,
            needed_bytes: 1 << 20,
        }
    }
}

/// A port of a service, as `run` would use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub number: u16,
    pub service: String,
    pub name: String,
    pub taken: bool,
    /// Who listens there, where the system tells.
    pub holder: Option<String>,
}

pub fn examine_ports(ports: &[Port]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Port { number, service, name, holder, .. } in ports.iter().filter(|port| port.taken) {
        let holder = holder.clone().unwrap_or_else(|| tr!("a program of another user"));
        let free = number.saturating_add(1);
        findings.push(Finding::warning(
            Check::PortBusy,
            number.to_string(),
            tr!("{holder} listens where {service} is to listen ({name})", holder, service, name),
            Fix::Yours(format!("printf '[ports.{service}]\\n{name} = {free}\\n' >> xtask.local.toml")),
        ));
    }
    let free: Vec<String> = ports.iter().filter(|port| !port.taken).map(|port| port.number.to_string()).collect();
    if !free.is_empty() {
        findings.push(Finding::ok(Check::PortsFree, free.join(", "), tr!("free")));
    }
    findings
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Project {
    /// Where xtask.lock is not what xtask.toml asks for: name of the pin, in words.
    pub drift: Vec<String>,
    /// Tracked files that name mirrors.
    pub leaks: Answer<Vec<Leaks>>,
}

pub fn examine_project(project: &Project) -> Vec<Finding> {
    let drift = |line: &String| Finding::error(Check::Pins, "xtask.lock", line, Fix::safe("lock update"));
    let mut findings: Vec<Finding> = project.drift.iter().map(drift).collect();
    if findings.is_empty() {
        findings.push(Finding::ok(Check::Pins, "xtask.lock", tr!("pins what xtask.toml declares")));
    }
    let subject = tr!("tracked lock files");
    match &project.leaks {
        None => findings.push(Finding::info(Check::MirrorLeak, subject, tr!("were not looked through in time"))),
        Some(Err(why)) => {
            let message = tr!("were not looked through: {why}", why = why.message);
            findings.push(Finding::info(Check::MirrorLeak, subject, message));
        }
        Some(Ok(leaks)) if leaks.is_empty() => {
            findings.push(Finding::ok(Check::MirrorLeak, subject, tr!("name no mirror")));
        }
        Some(Ok(leaks)) => findings.extend(leaks.iter().map(leaking)),
    }
    findings
}

fn leaking(leaks: &Leaks) -> Finding {
    let places = leaks.places.iter().take(LEAKS_TOLD).map(|(line, host)| format!("{line} ({host})"));
    let mut places = places.collect::<Vec<_>>().join(", ");
    if leaks.places.len() > LEAKS_TOLD {
        places += ", …";
    }
    let message = tr!("leads everybody to a mirror in line {places}", places);
    Finding::warning(Check::MirrorLeak, &leaks.file, message, Fix::Yours(leaks.fix()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Severity, Trouble};

    fn check(findings: &[Finding], code: &str, severity: Severity, words: &str) {
        let [it] = findings else { panic!("{findings:#?}") };
        assert_eq!((it.check.id(), it.severity), (code, severity), "{it:?}");
        let all = format!("{} {} {}", it.subject, it.message, it.fix.as_ref().map(Fix::shown).unwrap_or_default());
        assert!(all.contains(words), "{all}");
    }

    #[test]
    fn engines_are_told_and_none_is_no_fault() {
        let engine = |answer: Result<&str, &str>| Engine {
            place: "/run/docker.sock".into(),
            answer: answer.map(str::to_owned).map_err(str::to_owned),
            insecure: Vec::new(),
        };
        check(&examine_engines(&[]), "engine.found", Severity::Info, "none");
        check(&examine_engines(&[engine(Ok("Docker 28.1"))]), "engine.found", Severity::Ok, "28.1");
        check(&examine_engines(&[engine(Err("refused"))]), "engine.silent", Severity::Warning, "refused");
        let lax = Engine { insecure: vec!["r.example".into()], ..engine(Ok("x")) };
        check(&examine_engines(&[lax])[1..], "engine.insecure", Severity::Warning, "r.example");
    }

    #[test]
    fn a_cache_is_judged_by_owner_file_system_quarantine_and_size() {
        let good = || CacheFacts {
            size_bytes: Some(1 << 30),
            kept_below_bytes: 10 << 30,
            owner: 1000,
            me: 1000,
            writable: true,
            network: None,
            quarantined: 0,
        };
        let examine = |there| examine_cache(&Cache { path: "~/.cache/xtask".into(), there });
        check(&examine(Some(CacheFacts { size_bytes: None, ..good() })), "cache.folder", Severity::Ok, "too long");
        check(&examine(None), "cache.folder", Severity::Ok, "not there yet");
        check(&examine(Some(good())), "cache.folder", Severity::Ok, "1.00 GiB");
        check(
            &examine(Some(CacheFacts { owner: 0, writable: false, ..good() })),
            "cache.owner",
            Severity::Error,
            "user 0",
        );
        check(
            &examine(Some(CacheFacts { network: Some("nfs".into()), ..good() })),
            "cache.locks",
            Severity::Warning,
            "nfs",
        );
        check(
            &examine(Some(CacheFacts { quarantined: 2, ..good() })),
            "cache.quarantine",
            Severity::Warning,
            "cargo xtask cache verify",
        );
        check(
            &examine(Some(CacheFacts { size_bytes: Some(11 << 30), ..good() })),
            "cache.size",
            Severity::Warning,
            "cargo xtask cache gc",
        );
    }

    #[test]
    fn room_is_judged_by_bytes_files_rights_and_need() {
        let examine = |volume| examine_disk(&[volume]);
        check(&examine(Volume::good("cache")), "disk.space", Severity::Ok, "free");
        check(
            &examine(Volume { free_bytes: 4096, ..Volume::good("cache") }),
            "disk.full",
            Severity::Error,
            "cargo xtask cache gc",
        );
        let unmade = |name| examine(Volume { free_bytes: 4096, there: false, ..Volume::good(name) });
        check(&unmade("cache"), "disk.full", Severity::Error, "export XTASK_CACHE_DIR=");
        check(&unmade("build"), "disk.full", Severity::Error, "make room");
        check(
            &examine(Volume { free_files: Some(0), ..Volume::good("build") }),
            "disk.full",
            Severity::Error,
            "0 more files",
        );
        check(
            &examine(Volume { writable: false, ..Volume::good("temporary") }),
            "disk.read-only",
            Severity::Error,
            "TMPDIR",
        );
        check(
            &examine(Volume { needed_bytes: 2 << 40, ..Volume::good("cache") }),
            "disk.low",
            Severity::Warning,
            "2048.00 GiB",
        );
    }

    #[test]
    fn a_busy_port_is_told_with_its_holder_and_the_setting_of_another() {
        let port = |taken, holder: Option<&str>| Port {
            number: 8801,
            service: "envoy".into(),
            name: "http".into(),
            taken,
            holder: holder.map(str::to_owned),
        };
        check(&examine_ports(&[port(false, None)]), "ports.free", Severity::Ok, "8801");
        let busy = examine_ports(&[port(true, Some("nginx (process 7)"))]);
        check(&busy, "ports.busy", Severity::Warning, "nginx (process 7) listens");
        check(&busy, "ports.busy", Severity::Warning, "[ports.envoy]\\nhttp = 8802");
        check(&examine_ports(&[port(true, None)]), "ports.busy", Severity::Warning, "another user");
    }

    #[test]
    fn pins_that_lag_behind_the_declaration_are_an_error() {
        check(&examine_project(&Project::default())[..1], "project.pins", Severity::Ok, "declares");
        let drift = Project { drift: vec!["go: 1.28.0 is wanted, 1.27.3 pinned".to_owned()], leaks: None };
        check(&examine_project(&drift)[..1], "project.pins", Severity::Error, "cargo xtask lock update");
    }

    #[test]
    fn a_tracked_file_that_names_a_mirror_is_told_with_its_lines() {
        let leaks = |leaks| examine_project(&Project { drift: Vec::new(), leaks }).split_off(1);
        let places = (1..=9).map(|line| (line, "goproxy.cn".to_owned())).collect();
        let found = leaks(Some(Ok(vec![Leaks { file: "go.env".into(), places }])));
        check(
            &found,
            "project.mirror-leak",
            Severity::Warning,
            "go.env leads everybody to a mirror in line 1 (goproxy.cn), 2",
        );
        check(&found, "project.mirror-leak", Severity::Warning, "5 (goproxy.cn), … take it out of go.env");
        check(&leaks(Some(Ok(Vec::new()))), "project.mirror-leak", Severity::Ok, "name no mirror");
        let unknown = Trouble { message: "there is no git on PATH".into(), fix: None };
        check(&leaks(Some(Err(unknown))), "project.mirror-leak", Severity::Info, "there is no git");
        check(&leaks(None), "project.mirror-leak", Severity::Info, "in time");
    }
}
