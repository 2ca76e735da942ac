//! The codes of findings: a contract with scripts, never given a second meaning. docs/doctor.md is written from here.

use crate::error::Code;
use crate::tr;
use std::fmt;

/// What is looked at together, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    Toolchain,
    Mirrors,
    Engine,
    Cache,
    Disk,
    Ports,
    Project,
}

impl Group {
    pub const ALL: [Self; 7] =
        [Self::Toolchain, Self::Mirrors, Self::Engine, Self::Cache, Self::Disk, Self::Ports, Self::Project];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Toolchain => "toolchain",
            Self::Mirrors => "mirrors",
            Self::Engine => "engine",
            Self::Cache => "cache",
            Self::Disk => "disk",
            Self::Ports => "ports",
            Self::Project => "project",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.name() == name)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A line a check: variant, code, group, and the failure that a command ends with where it is an error.
macro_rules! checks {
    ($($variant:ident = $id:literal, $group:ident, $code:ident;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Check {
            $($variant,)*
        }

        impl Check {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub const fn id(self) -> &'static str {
                match self {
                    $(Self::$variant => $id,)*
                }
            }

            pub const fn group(self) -> Group {
                match self {
                    $(Self::$variant => Group::$group,)*
                }
            }

            /// What the command ends with where this is the first error.
            pub const fn failure(self) -> Code {
                match self {
                    $(Self::$variant => Code::$code,)*
                }
            }
        }
    };
}

checks! {
    Rust = "toolchain.rust", Toolchain, NoRust;
    CargoFloor = "toolchain.cargo-floor", Toolchain, NoRust;
    RustChosen = "toolchain.rust-chosen", Toolchain, NoRust;
    Compiler = "toolchain.c", Toolchain, NoCompiler;
    Go = "toolchain.go", Toolchain, NoGo;
    GoFloor = "toolchain.go-floor", Toolchain, NoGo;
    Python = "toolchain.python", Toolchain, NoPython;
    Libc = "toolchain.libc", Toolchain, NoPython;
    Git = "toolchain.git", Toolchain, NoAnswer;
    Others = "toolchain.others", Toolchain, NoAnswer;

    CaFile = "setting.ca-file", Mirrors, Unreachable;
    Harmful = "setting.harmful", Mirrors, BadVariable;
    Ineffective = "setting.ineffective", Mirrors, BadVariable;
    Overridden = "setting.overridden", Mirrors, BadVariable;
    LoopbackProxied = "setting.no-proxy", Mirrors, Unreachable;
    ProxyPassword = "network.proxy-password", Mirrors, Unreachable;
    WrongAuthority = "network.tls", Mirrors, Unreachable;
    Html = "mirror.html", Mirrors, Unreachable;
    ProxyUnusable = "network.proxy-unusable", Mirrors, Unreachable;
    ProxyDead = "network.proxy-dead", Mirrors, Unreachable;
    Unplugged = "network.unplugged", Mirrors, Unreachable;
    NameLookup = "network.dns", Mirrors, Unreachable;
    Blocked = "network.blocked", Mirrors, Unreachable;
    NotMeasured = "network.not-measured", Mirrors, Unreachable;
    Offline = "network.offline", Mirrors, Unreachable;
    Dead = "mirror.dead", Mirrors, Unreachable;
    Tls = "mirror.tls", Mirrors, Unreachable;
    Limited = "mirror.limited", Mirrors, Unreachable;
    Partial = "mirror.partial", Mirrors, Unreachable;
    Stale = "mirror.stale", Mirrors, Unreachable;
    Served = "mirror.ok", Mirrors, Unreachable;
    Misleading = "log.misleading", Mirrors, ChildFailed;

    Engine = "engine.found", Engine, NoAnswer;
    EngineSilent = "engine.silent", Engine, NoAnswer;
    EngineInsecure = "engine.insecure", Engine, NoAnswer;

    CacheFolder = "cache.folder", Cache, Disk;
    CacheOwner = "cache.owner", Cache, PermissionDenied;
    CacheLocks = "cache.locks", Cache, Disk;
    CacheQuarantine = "cache.quarantine", Cache, AlteredObject;
    CacheSize = "cache.size", Cache, Disk;

    DiskFull = "disk.full", Disk, DiskFull;
    DiskReadOnly = "disk.read-only", Disk, ReadOnly;
    DiskLow = "disk.low", Disk, DiskFull;
    DiskSpace = "disk.space", Disk, DiskFull;

    PortBusy = "ports.busy", Ports, PortTaken;
    PortsFree = "ports.free", Ports, PortTaken;

    Pins = "project.pins", Project, NotPinned;
    MirrorLeak = "project.mirror-leak", Project, Findings;
}

impl Check {
    pub fn named(id: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|check| check.id() == id)
    }

    /// How deep a cause lies: what makes others fail comes before them. A full disk breaks everything; a CA file that cannot be
    /// read or a proxy that wants a password is seen more exactly than the silence that follows from it.
    pub fn depth(self) -> usize {
        const CAUSES: [Check; 11] = [
            Check::DiskFull,
            Check::DiskReadOnly,
            Check::CaFile,
            Check::ProxyUnusable,
            Check::ProxyPassword,
            Check::WrongAuthority,
            Check::Html,
            Check::ProxyDead,
            Check::Unplugged,
            Check::NameLookup,
            Check::Blocked,
        ];
        CAUSES.iter().position(|it| *it == self).unwrap_or(CAUSES.len())
    }

    /// What it means and what it is good for to know, for `explain` and docs/doctor.md.
    pub fn meaning(self) -> String {
        match self {
            Self::Rust => tr!("cargo and rustc build the native library; both must answer."),
            Self::CargoFloor => tr!(
                "Before 1.96 cargo lets a crate of a third-party registry overwrite another one's unpacked source by a link (CVE-2026-5223). With a profile in force the gateway scans every crate for links before cargo sees it."
            ),
            Self::RustChosen => tr!(
                "A toolchain file above the checkout, or an override of rustup, decides which Rust compiles here. It decides silently, and rustup may download what it names."
            ),
            Self::Compiler => tr!("Rust and Go link with the C compiler; a trivial program was compiled and linked."),
            Self::Go => {
                tr!("The Go on PATH if it is new enough, else the one that xtask.lock pins and the gateway fetches.")
            }
            Self::GoFloor => tr!(
                "Behind a module proxy that nobody vouches for, Go must be 1.26.9, 1.27.2 or newer: older ones can be made to accept other bytes."
            ),
            Self::Python => tr!("Services and tools that come as wheels run with python3, 3.10 or newer."),
            Self::Libc => {
                tr!("Pinned wheels and toolchains need the GNU C library; those of other C libraries are not pinned.")
            }
            Self::Git => tr!("Git tells which files belong to the checkout."),
            Self::Others => {
                tr!("Tools that nothing here needs, and whose settings may explain what you see elsewhere.")
            }
            Self::CaFile => tr!(
                "SSL_CERT_FILE names the certificates that are trusted in place of the system's. One that is missing, empty or out of date makes every TLS connection fail."
            ),
            Self::Harmful => tr!(
                "A setting that switches a verification off, which makes every mirror and proxy on the way trusted. What this tool starts never gets it."
            ),
            Self::Ineffective => tr!(
                "A setting that the tool it is meant for does not read, so that it gives a feeling of being configured and does nothing."
            ),
            Self::Overridden => tr!("A setting of yours that gives way to the profile in force."),
            Self::LoopbackProxied => tr!(
                "A proxy is set without an exception for this machine, so tools ask the proxy for services on loopback, which it cannot reach."
            ),
            Self::ProxyPassword => tr!("The proxy answered 407: it wants a user and a password in its URL."),
            Self::WrongAuthority => tr!(
                "Every TLS connection was refused because of the certificate. Usually a proxy of your organisation re-signs traffic, and its authority is not trusted here. No setting of this tool switches the check off."
            ),
            Self::Html => tr!(
                "A web page came where an artifact was asked for: a login page of the network (a captive portal) or a block page."
            ),
            Self::ProxyUnusable => tr!(
                "The proxy that the variables name speaks a protocol that this tool does not: it needs an http proxy."
            ),
            Self::ProxyDead => tr!("The proxy that the variables name does not accept a connection."),
            Self::Unplugged => tr!(
                "This machine has no route to anywhere: no cable, no wireless network, or a container without a network."
            ),
            Self::NameLookup => tr!(
                "Names of hosts have no addresses here: the name server does not answer, or the network resolves names only at its proxy."
            ),
            Self::Blocked => {
                tr!("Nothing answers although there is a route: a firewall drops packets, or allows a proxy only.")
            }
            Self::NotMeasured => tr!("The endpoints could not be measured in the time that doctor takes."),
            Self::Offline => tr!("Nothing was contacted, because you said so."),
            Self::Dead => tr!("An endpoint does not answer. Others of its list are asked instead."),
            Self::Tls => {
                tr!("An endpoint shows a certificate that is not trusted. Others of its list are asked instead.")
            }
            Self::Limited => tr!("An endpoint refuses for now: too many requests, or not for this client."),
            Self::Partial => {
                tr!("An endpoint answers, and a host that it leads to does not: a download, checksum or file host.")
            }
            Self::Stale => tr!(
                "An endpoint lacks a version that a lock file of this project names. It is passed over for that version only."
            ),
            Self::Served => tr!("An endpoint serves what this project needs."),
            Self::Misleading => tr!(
                "A line in the logs of the last run that says something else than what is wrong, and what is probably meant."
            ),
            Self::Engine => tr!("A container engine that answers, or none: nothing that exists today needs one."),
            Self::EngineSilent => tr!("A socket of a container engine is there and nobody answers behind it."),
            Self::EngineInsecure => {
                tr!("The engine accepts images from the named registries without checking who sends them.")
            }
            Self::CacheFolder => tr!("Where results and downloads of this user are kept, for every checkout."),
            Self::CacheOwner => {
                tr!("The cache cannot be written by this user: usually a run as root, or a container, made it.")
            }
            Self::CacheLocks => tr!(
                "The cache lies on a network file system, where locks may not hold: results stay right, and work may be done twice."
            ),
            Self::CacheQuarantine => tr!(
                "Stored files were found altered and set aside; they are not used. If it happens again the disk is failing."
            ),
            Self::CacheSize => {
                tr!("The cache is larger than it is kept; the next collection removes what was not used for longest.")
            }
            Self::DiskFull => {
                tr!("A file system that is written to has no room: whatever fails now probably fails for this reason.")
            }
            Self::DiskReadOnly => tr!("A folder that is written to cannot be written."),
            Self::DiskLow => tr!("Less is free than what the pins still to be fetched need."),
            Self::DiskSpace => tr!("How much is free where results, builds and temporary files go."),
            Self::PortBusy => {
                tr!("Another program listens on a port of this project's services; `run` would refuse to start.")
            }
            Self::PortsFree => tr!("Nobody listens on the ports of this project's services."),
            Self::Pins => tr!("Whether xtask.lock pins what xtask.toml declares."),
            Self::MirrorLeak => tr!(
                "A tracked lock file or tool setting names a mirror, this machine or the gateway, and sends everybody there who checks the project out."
            ),
        }
    }
}

/// docs/doctor.md.
pub fn page() -> String {
    let mut page = "# Findings of doctor\nWritten from `doctor/check.rs`; a test keeps it current. `cargo xtask doctor [GROUP…]` looks and changes nothing; the first finding is the\ncause where something fundamental is broken. With `--format json` each finding is a line with these codes. An error ends the command with\nthe exit code in the table, warnings end it with 0. `--fix` shows which commands of this tool it would run, and runs them after a yes.\n".to_owned();
    for group in Group::ALL {
        page += &format!("\n## {group}\n| code | exit | means |\n| --- | --- | --- |\n");
        for check in Check::ALL.iter().filter(|check| check.group() == group) {
            page += &format!("| `{}` | {} | {} |\n", check.id(), check.failure().exit() as i32, check.meaning());
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_page_of_findings_is_the_one_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/doctor.md");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(there == page(), "docs/doctor.md is out of date: run this test with UPDATE_EXPECT=1");
    }

    #[test]
    fn every_code_is_there_once_and_every_check_is_made_and_provoked() {
        let ids: BTreeSet<_> = Check::ALL.iter().map(|check| check.id()).collect();
        assert_eq!(ids.len(), Check::ALL.len());
        let rooms = [
            include_str!("configuration.rs"),
            include_str!("machine.rs"),
            include_str!("message.rs"),
            include_str!("network.rs"),
            include_str!("toolchain.rs"),
        ];
        let (mut code, mut tests) = (String::new(), String::new());
        for text in rooms {
            let (room, test) = text.split_once("\n#[cfg(test)]\nmod tests").unwrap();
            code.push_str(room);
            tests.push_str(test);
        }
        for check in Check::ALL {
            assert!(code.contains(&format!("Check::{check:?}")), "nothing finds {}", check.id());
            assert!(tests.contains(check.id()), "no test provokes {}", check.id());
        }
    }
}
