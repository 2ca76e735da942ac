//! What compiles: Rust, C, Go, Python, and what decides which of them is used.
//!
//! Floors come from the tools' security fixes: cargo's for links in crates of third-party registries, Go's for module proxies that
//! nobody vouches for.

use super::{Answer, Check, Finding, Fix, Trouble};
use crate::facts::Go;
use crate::toolchain::go;
use crate::tr;

/// What the tools said of themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `cargo -V`, and the first line of `rustc -vV`.
    pub rust: Answer<(String, String)>,
    /// Files and overrides that choose a Rust here: where, which, and whether the checkout itself has it.
    pub rust_choices: Vec<RustChoice>,
    /// A cargo configuration file that replaces the default registry.
    pub third_party_registry: Option<String>,
    /// A profile is in force: the gateway scans crates for links before cargo sees them.
    pub gateway_scans: bool,
    /// Compiler and C library, once they have compiled and linked a program.
    pub compiler: Answer<(String, String)>,
    pub go: Answer<Go>,
    /// `go` of xtask.lock.
    pub go_pin: Option<String>,
    /// Major and minor.
    pub python: Answer<(u32, u32)>,
    pub git: Answer<String>,
    /// `pip`, `uv`, `npm`: those on PATH.
    pub others: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RustChoice {
    pub by: String,
    pub channel: String,
    pub of_the_checkout: bool,
}

/// The first cargo that lets no crate overwrite another one's source.
const CARGO_FLOOR: (u32, u32) = (1, 96);
/// The first patch of each release of Go that is safe behind an untrusted proxy; older releases get none.
const GO_FLOORS: [(u32, i32); 2] = [(26, 9), (27, 2)];
const OLDEST_PYTHON: (u32, u32) = (3, 10);

/// Whether this Go is safe behind an untrusted module proxy; `None` for what is no version.
pub fn go_is_safe(text: &str) -> Option<bool> {
    let (major, minor, patch) = go::version(text)?;
    let of_release = GO_FLOORS.iter().find(|(release, _)| *release == minor).map(|(_, floor)| *floor);
    let newer = GO_FLOORS.iter().all(|(release, _)| minor > *release);
    Some(major > 1 || (major == 1 && (newer || of_release.is_some_and(|floor| patch >= floor))))
}

pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some((cargo, rustc)) = answered(&facts.rust, Check::Rust, "cargo", &mut findings) {
        findings.push(Finding::ok(Check::Rust, "cargo", format!("{cargo}, {rustc}")));
        findings.extend(cargo_floor(facts, cargo));
    }
    findings.extend(facts.rust_choices.iter().map(rust_choice));
    if let Some((compiler, libc)) = answered(&facts.compiler, Check::Compiler, "cc", &mut findings) {
        let message = tr!("{compiler} compiled and linked a program", compiler);
        findings.push(Finding::ok(Check::Compiler, "cc", message));
        findings.push(self::libc(libc));
    }
    findings.extend(go_findings(facts));
    if let Some((major, minor)) = answered(&facts.python, Check::Python, "python3", &mut findings) {
        findings.push(match (*major, *minor) >= OLDEST_PYTHON {
            true => Finding::ok(Check::Python, "python3", format!("Python {major}.{minor}")),
            false => Finding::error(
                Check::Python,
                "python3",
                tr!("Python {major}.{minor} is too old: 3.10 is the oldest that works", major, minor),
                Fix::Yours(tr!("install a newer python3 and put it first on PATH")),
            ),
        });
    }
    if let Some(version) = answered(&facts.git, Check::Git, "git", &mut findings) {
        findings.push(Finding::ok(Check::Git, "git", version));
    }
    if !facts.others.is_empty() {
        findings.push(Finding::info(Check::Others, facts.others.join(", "), tr!("on PATH; nothing here needs them")));
    }
    findings
}

/// The answer; what kept it away becomes a finding.
fn answered<'a, T>(answer: &'a Answer<T>, check: Check, subject: &str, findings: &mut Vec<Finding>) -> Option<&'a T> {
    match answer {
        Some(Ok(it)) => return Some(it),
        Some(Err(Trouble { message, fix })) => {
            let fix = fix.clone().unwrap_or_else(|| tr!("run `cargo xtask explain {code}`", code = check.id()));
            findings.push(Finding::error(check, subject, message, Fix::Yours(fix)));
        }
        None => findings.push(Finding::warning(
            check,
            subject,
            tr!("did not answer in time: a wrapper that downloads first, or a machine under load"),
            Fix::Yours(format!("{subject} --version")),
        )),
    }
    None
}

fn cargo_floor(facts: &Facts, said: &str) -> Option<Finding> {
    let version = said.split_whitespace().nth(1)?;
    let mut parts = version.split('.').map(|part| part.parse::<u32>());
    let version = (parts.next()?.ok()?, parts.next()?.ok()?);
    if version >= CARGO_FLOOR {
        return None;
    }
    let (major, minor) = CARGO_FLOOR;
    Some(match &facts.third_party_registry {
        Some(file) if !facts.gateway_scans => Finding::warning(
            Check::CargoFloor,
            "cargo",
            tr!(
                "older than {major}.{minor}, and {file} leads it to another registry, whose crates can overwrite each other's source (CVE-2026-5223); with a mirror profile the gateway refuses such crates",
                major,
                minor,
                file
            ),
            Fix::Yours("rustup update stable".to_owned()),
        ),
        _ => Finding::info(
            Check::CargoFloor,
            "cargo",
            match facts.gateway_scans {
                true => tr!(
                    "older than {major}.{minor}; the gateway scans crates for links before cargo sees them",
                    major,
                    minor
                ),
                false => tr!(
                    "older than {major}.{minor}, which matters with registries of third parties only; none is configured",
                    major,
                    minor
                ),
            },
        ),
    })
}

fn rust_choice(choice: &RustChoice) -> Finding {
    let RustChoice { by, channel, of_the_checkout } = choice;
    let message = tr!("chooses Rust {channel} here", channel);
    match of_the_checkout {
        true => Finding::info(Check::RustChosen, by, message),
        false => Finding::warning(
            Check::RustChosen,
            by,
            tr!("{message}, although it lies outside of the checkout", message),
            Fix::Yours("rustup show active-toolchain".to_owned()),
        ),
    }
}

/// `glibc 2.36`, as `getconf GNU_LIBC_VERSION` has it.
fn libc(said: &str) -> Finding {
    match said.strip_prefix("glibc ") {
        Some(_) => Finding::ok(Check::Libc, "libc", said),
        None => Finding::warning(
            Check::Libc,
            "libc",
            tr!("the C library is not glibc ({said}): no pinned wheel or toolchain fits it", said),
            Fix::Yours(tr!("build in a container or on a machine with glibc, such as Debian")),
        ),
    }
}

fn go_findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let update = || Fix::safe("lock update go");
    if let Some(pin) = facts.go_pin.as_deref().filter(|pin| go_is_safe(pin) != Some(true)) {
        let message = tr!(
            "xtask.lock pins Go {pin}, which is not safe behind an untrusted module proxy: 1.26.9 and 1.27.2 are the first that are",
            pin
        );
        findings.push(Finding::error(Check::GoFloor, "xtask.lock", message, update()));
    }
    match answered(&facts.go, Check::Go, "go", &mut findings) {
        Some(Go::Installed { version, .. }) if go_is_safe(version) == Some(true) => {
            findings.push(Finding::ok(Check::Go, "go", tr!("Go {version} on PATH is used", version)));
        }
        Some(Go::Installed { version, .. }) => findings.push(Finding::error(
            Check::GoFloor,
            "go",
            tr!("Go {version} on PATH would be used, and is not safe behind an untrusted module proxy: 1.26.9 and 1.27.2 are the first that are", version),
            Fix::Yours(tr!("raise toolchain.go.minimum in xtask.toml, so that the pinned Go is used")),
        )),
        Some(Go::Pinned { version, passed_over, .. }) => {
            let message = match passed_over {
                Some(old) => tr!("Go {old} on PATH is too old and passed over for the pinned {version}", old, version),
                None => tr!("none on PATH; the pinned {version} is used", version),
            };
            findings.push(Finding::ok(Check::Go, "go", message));
        }
        None => {}
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    fn good() -> Facts {
        Facts {
            rust: Some(Ok(("cargo 1.97.0 (x 2026-09-01)".into(), "rustc 1.97.0".into()))),
            rust_choices: Vec::new(),
            third_party_registry: None,
            gateway_scans: false,
            compiler: Some(Ok(("gcc 12".into(), "glibc 2.36".into()))),
            go: Some(Ok(Go::Installed { path: "go".into(), version: "1.27.3".into() })),
            go_pin: Some("1.27.3".into()),
            python: Some(Ok((3, 11))),
            git: Some(Ok("git version 2.39.5".into())),
            others: Vec::new(),
        }
    }

    fn check(facts: Facts, code: &str, severity: Severity, words: &str) {
        let findings = examine(&facts);
        let found = findings.iter().find(|it| it.check.id() == code && it.severity == severity);
        let found = found.unwrap_or_else(|| panic!("{code} {severity:?}: {findings:#?}"));
        assert!(found.message.contains(words), "{found:?}");
        assert_eq!(found.fix.is_some(), matches!(severity, Severity::Error | Severity::Warning), "{found:?}");
    }

    #[test]
    fn a_good_machine_is_told_so_and_nothing_else() {
        let findings = examine(&good());
        assert!(findings.iter().all(|it| it.severity == Severity::Ok), "{findings:#?}");
        let codes: Vec<_> = findings.iter().map(|it| it.check.id()).collect();
        let all =
            ["toolchain.rust", "toolchain.c", "toolchain.libc", "toolchain.go", "toolchain.python", "toolchain.git"];
        assert_eq!(codes, all);
    }

    #[test]
    fn each_trouble_of_a_tool_has_its_code() {
        fn trouble<T>() -> Answer<T> {
            Some(Err(Trouble { message: "it is not there".into(), fix: Some("apt-get install it".into()) }))
        }
        check(Facts { rust: trouble(), ..good() }, "toolchain.rust", Severity::Error, "not there");
        check(Facts { compiler: trouble(), ..good() }, "toolchain.c", Severity::Error, "not there");
        check(Facts { go: trouble(), ..good() }, "toolchain.go", Severity::Error, "not there");
        check(Facts { python: trouble(), ..good() }, "toolchain.python", Severity::Error, "not there");
        check(Facts { git: trouble(), ..good() }, "toolchain.git", Severity::Error, "not there");
        check(Facts { rust: None, ..good() }, "toolchain.rust", Severity::Warning, "in time");
        check(Facts { python: Some(Ok((3, 9))), ..good() }, "toolchain.python", Severity::Error, "3.9");
        let musl = Some(Ok(("gcc 12".into(), "unknown".into())));
        check(Facts { compiler: musl, ..good() }, "toolchain.libc", Severity::Warning, "unknown");
        check(Facts { others: vec!["uv".into()], ..good() }, "toolchain.others", Severity::Info, "PATH");
    }

    #[test]
    fn an_old_cargo_matters_with_a_registry_of_third_parties_and_no_gateway() {
        let old = |third_party_registry: Option<&str>, gateway_scans| Facts {
            rust: Some(Ok(("cargo 1.95.0 (f2d3ce0bd 2026-03-21)".into(), "rustc 1.95.0".into()))),
            third_party_registry: third_party_registry.map(str::to_owned),
            gateway_scans,
            ..good()
        };
        check(old(Some("/x/config.toml"), false), "toolchain.cargo-floor", Severity::Warning, "/x/config.toml");
        check(old(Some("/x/config.toml"), true), "toolchain.cargo-floor", Severity::Info, "scans");
        check(old(None, false), "toolchain.cargo-floor", Severity::Info, "none is configured");
    }

    #[test]
    fn go_is_held_to_the_floor_of_its_release() {
        let versions = [
            ("1.24.11", false),
            ("1.26.8", false),
            ("1.26.9", true),
            ("1.27rc1", false),
            ("1.27.1", false),
            ("1.27.2", true),
            ("1.28.0", true),
            ("2.0.0", true),
        ];
        for (version, safe) in versions {
            assert_eq!(go_is_safe(version), Some(safe), "{version}");
        }
        check(
            Facts { go_pin: Some("1.27.1".into()), ..good() },
            "toolchain.go-floor",
            Severity::Error,
            "pins Go 1.27.1",
        );
        let installed = Some(Ok(Go::Installed { path: "go".into(), version: "1.27.0".into() }));
        check(Facts { go: installed, ..good() }, "toolchain.go-floor", Severity::Error, "1.27.0 on PATH");
        let pinned = Go::Pinned { version: "1.27.3".into(), platform: "x".into(), passed_over: Some("1.26.8".into()) };
        check(Facts { go: Some(Ok(pinned)), ..good() }, "toolchain.go", Severity::Ok, "passed over");
    }

    #[test]
    fn this_project_pins_a_go_at_or_above_its_floor() {
        let lock = include_str!("../../../../../xtask.lock");
        let pins = crate::project::pins::Pins::parse(std::path::Path::new("xtask.lock"), lock).unwrap();
        assert_eq!(pins.go.and_then(|go| go_is_safe(&go.version)), Some(true));
    }

    #[test]
    fn a_toolchain_file_above_the_checkout_is_a_surprise() {
        let choice =
            |of_the_checkout| RustChoice { by: "rust-toolchain.toml".into(), channel: "1.80".into(), of_the_checkout };
        let with = |of_the_checkout| Facts { rust_choices: vec![choice(of_the_checkout)], ..good() };
        check(with(true), "toolchain.rust-chosen", Severity::Info, "1.80");
        check(with(false), "toolchain.rust-chosen", Severity::Warning, "outside");
    }
}
