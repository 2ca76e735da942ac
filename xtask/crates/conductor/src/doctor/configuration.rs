//! Settings of other tools that do nothing, or harm.
//!
//! What the mapping of `mirror/env.rs` already knows of a tool's variables comes from there as notes; here is the rest: variables
//! that the mapping does not touch, and files.

use super::{Check, Finding, Fix};
use crate::mirror::env::Note;
use crate::tr;
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What the mapping says of each tool's settings: tool, note.
    pub notes: Vec<(String, Note)>,
    pub environment: BTreeMap<String, String>,
    /// Configuration files that are there: which, where, what.
    pub files: Vec<(File, String, String)>,
    /// On PATH.
    pub has_uv: bool,
    pub ca_file: Option<CaFile>,
    /// A proxy on this machine that a configuration file of cargo names and nobody listens for: file, proxy.
    pub silent_cargo_proxy: Option<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    Pip,
    Uv,
    Npm,
    Git,
    Cargo,
}

/// What SSL_CERT_FILE names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaFile {
    pub path: String,
    /// Certificates in it, and those of them that are still valid; or why it cannot be read.
    pub certificates: Result<(usize, usize), String>,
}

/// Variables that switch a verification off, with the values that do, and what names an authority instead.
const HARMFUL: &[(&str, &[&str], &str)] = &[
    ("GIT_SSL_NO_VERIFY", &["1", "true", "yes", "on"], "GIT_SSL_CAINFO"),
    ("PYTHONHTTPSVERIFY", &["0"], "SSL_CERT_FILE"),
    ("CARGO_HTTP_CHECK_REVOKE", &["false"], "CARGO_HTTP_CAINFO"),
];

/// Variables that nothing reads any more, and what is read.
const OLD: &[(&str, &str, &str)] = &[
    ("rustup", "RUSTUP_DIST_ROOT", "RUSTUP_DIST_SERVER"),
    ("huggingface_hub", "HF_HUB_ENABLE_HF_TRANSFER", "HF_XET_HIGH_PERFORMANCE"),
];

/// Mirrors that many pages on the web still recommend, and that are no more.
const ENDED: &[&str] = &["pypi.douban.com", "pypi.doubanio.com", "registry.npm.taobao.org", "npm.taobao.org"];

pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = facts.notes.iter().map(|(tool, note)| noted(facts, tool, note)).collect();
    let get = |name: &str| facts.environment.get(name).map(String::as_str).filter(|value| !value.is_empty());
    for (name, values, instead) in HARMFUL {
        if facts.environment.get(*name).is_some_and(|it| values.contains(&it.to_ascii_lowercase().as_str())) {
            let message = tr!("switches the check of certificates off; {instead} names another authority", instead);
            findings.push(Finding::warning(Check::Harmful, *name, message, Fix::Yours(format!("unset {name}"))));
        }
    }
    for (tool, old, new) in OLD.iter().filter(|(_, old, _)| get(old).is_some()) {
        findings.push(ineffective(tool, old, Fix::Yours(format!("unset {old}; export {new}=…"))));
    }
    // Both are read, the old one only where the new one is missing.
    if get("HUGGINGFACE_HUB_CACHE").is_some() && get("HF_HUB_CACHE").is_some() {
        findings.push(ineffective(
            "huggingface_hub",
            "HUGGINGFACE_HUB_CACHE",
            Fix::Yours("unset HUGGINGFACE_HUB_CACHE".into()),
        ));
    }
    findings.extend(index_for_the_other(facts, &get));
    findings.extend(facts.files.iter().filter_map(|(file, path, text)| in_file(*file, path, text)));
    findings.extend(ended(facts));
    findings.extend(facts.silent_cargo_proxy.as_ref().map(|(file, proxy)| {
        let message =
            tr!("[http] proxy = {proxy}, where nobody listens: a cargo that you start yourself reaches nothing", proxy);
        let fix = Fix::Yours(tr!("start that proxy, or take the line out of {file}", file));
        Finding::warning(Check::ProxyDead, file, message, fix)
    }));
    findings.extend(proxied_loopback(&get));
    findings.extend(facts.ca_file.as_ref().and_then(ca_file));
    findings
}

fn ineffective(tool: &str, setting: &str, fix: Fix) -> Finding {
    Finding::warning(Check::Ineffective, setting, tr!("ignored by {tool}", tool), fix)
}

fn noted(facts: &Facts, tool: &str, note: &Note) -> Finding {
    match note {
        Note::Ineffective { variable, instead } => {
            ineffective(tool, variable, Fix::Yours(tr!("unset {variable} and use {instead}", variable, instead)))
        }
        Note::Refused { variable, reason, .. } => Finding::warning(
            Check::Harmful,
            variable,
            tr!("{tool} never gets it from this tool: {reason}", tool, reason),
            // What is no variable comes from the file of `go env -w`.
            Fix::Yours(match tool == "go" && !facts.environment.contains_key(variable) {
                true => format!("go env -u {variable}"),
                false => format!("unset {variable}"),
            }),
        ),
        Note::Overridden { variable, .. } | Note::Withheld { variable, .. } => {
            Finding::info(Check::Overridden, variable, note.to_string())
        }
    }
}

/// pip and uv do not read each other's settings.
fn index_for_the_other<'a>(facts: &Facts, get: &impl Fn(&str) -> Option<&'a str>) -> Option<Finding> {
    let for_uv = ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX"].iter().any(|name| get(name).is_some());
    let uv_file = facts.files.iter().any(|(file, ..)| *file == File::Uv);
    if !facts.has_uv || for_uv || uv_file {
        return None;
    }
    if get("PIP_INDEX_URL").is_some() {
        let fix = "export UV_DEFAULT_INDEX=\"$PIP_INDEX_URL\"";
        return Some(ineffective("uv", "PIP_INDEX_URL", Fix::Yours(fix.to_owned())));
    }
    let names_index =
        |(file, _, text): &&(File, String, String)| *file == File::Pip && setting(text, "index-url").is_some();
    let (_, path, _) = facts.files.iter().find(names_index)?;
    let fix = "export UV_DEFAULT_INDEX=\"$(pip config get global.index-url)\"";
    Some(ineffective("uv", path, Fix::Yours(fix.to_owned())))
}

/// The last value of a key in lines of `key = value`, whatever the section.
fn setting<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let pairs = lines.filter_map(|line| line.split_once(['=', ':']));
    let named = pairs.filter(|(name, _)| name.trim().to_ascii_lowercase().replace('_', "-") == key);
    named.map(|(_, value)| value.trim()).next_back()
}

/// Files and variables that name a mirror that is no more.
fn ended(facts: &Facts) -> Vec<Finding> {
    let files = facts.files.iter().map(|(_, path, text)| (path, text));
    let named = files.chain(&facts.environment).filter_map(|(place, text)| {
        let host = ENDED.iter().find(|host| text.contains(&format!("/{host}")))?;
        let message = tr!("names {host}, a mirror that has ended", host);
        // What each tool can be told today stands there.
        let fix = Fix::Yours("cargo xtask mirror env --mirror cn".to_owned());
        Some(Finding::warning(Check::Dead, place, message, fix))
    });
    named.collect()
}

/// A file that switches a verification off.
fn in_file(file: File, path: &str, text: &str) -> Option<Finding> {
    let off = |value: &str| matches!(value.to_ascii_lowercase().as_str(), "false" | "0" | "no" | "off");
    let (key, fix) = match file {
        File::Pip => ("trusted-host", "pip config unset global.trusted-host".to_owned()),
        File::Uv => ("allow-insecure-host", tr!("remove allow-insecure-host from {path}", path)),
        File::Npm => ("strict-ssl", "npm config delete strict-ssl".to_owned()),
        File::Git => ("sslverify", "git config --global --unset http.sslVerify".to_owned()),
        File::Cargo => return None,
    };
    let value = setting(text, key)?;
    let harms = match file {
        File::Pip => true,
        File::Uv => value != "[]",
        File::Npm | File::Git | File::Cargo => off(value),
    };
    let message = tr!("{key} switches the check of certificates off", key);
    harms.then(|| Finding::warning(Check::Harmful, path, message, Fix::Yours(fix)))
}

fn proxied_loopback<'a>(get: &impl Fn(&str) -> Option<&'a str>) -> Option<Finding> {
    let set = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    let proxy = set.into_iter().find(|name| get(name).is_some())?;
    let excepted = ["NO_PROXY", "no_proxy"].into_iter().filter_map(get).any(|list| {
        list.split([',', ' ']).any(|entry| matches!(entry, "*" | "localhost" | "127.0.0.1" | "127.0.0.0/8"))
    });
    let fix = Fix::Yours("export NO_PROXY=\"localhost,127.0.0.1,::1${NO_PROXY:+,$NO_PROXY}\"".to_owned());
    let message =
        tr!("is set, and NO_PROXY does not except this machine: tools would ask the proxy for services on loopback");
    (!excepted).then(|| Finding::warning(Check::LoopbackProxied, proxy, message, fix))
}

fn ca_file(it: &CaFile) -> Option<Finding> {
    let path = &it.path;
    let message = match &it.certificates {
        Err(why) => tr!("SSL_CERT_FILE names {path}, which cannot be read: {why}", path, why),
        Ok((0, _)) => tr!("SSL_CERT_FILE names {path}, which holds no certificate", path),
        Ok((count, 0)) => {
            tr!("SSL_CERT_FILE names {path}, and all {count} certificates in it are out of date", path, count)
        }
        Ok(_) => return None,
    };
    Some(Finding::error(Check::CaFile, "SSL_CERT_FILE", message, Fix::Yours("unset SSL_CERT_FILE".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    fn with(environment: &[(&str, &str)]) -> Facts {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Facts { environment, has_uv: true, ..Facts::default() }
    }

    fn file(file: File, text: &str) -> Facts {
        Facts { files: vec![(file, "/etc/it".into(), text.into())], has_uv: true, ..Facts::default() }
    }

    /// Code, severity, subject, and words of message and fix; `None`: nothing is found.
    fn check(facts: &Facts, expected: Option<(&str, Severity, &str, &str)>) {
        let findings = examine(facts);
        let Some((code, severity, subject, words)) = expected else {
            assert_eq!(findings, [], "{facts:?}");
            return;
        };
        let [it] = findings.as_slice() else { panic!("{findings:#?}") };
        assert_eq!((it.check.id(), it.severity, it.subject.as_str()), (code, severity, subject), "{it:?}");
        let all = format!("{}\n{}", it.message, it.fix.as_ref().map(Fix::shown).unwrap_or_default());
        assert!(all.contains(words), "{all}");
    }

    #[test]
    fn what_the_mapping_notes_is_told_with_its_severity() {
        let note = |note| Facts { notes: vec![("cargo".into(), note)], ..Facts::default() };
        let variable = || "V".to_owned();
        let source = Note::Ineffective { variable: variable(), instead: "`--mirror NAME`".into() };
        check(&note(source.clone()), Some(("setting.ineffective", Severity::Warning, "V", "ignored by cargo")));
        check(&note(source), Some(("setting.ineffective", Severity::Warning, "V", "use `--mirror NAME`")));
        let refused = Note::Refused { variable: variable(), value: "secret".into(), reason: "why".into() };
        check(&note(refused), Some(("setting.harmful", Severity::Warning, "V", "why\nunset V")));
        let in_file = Note::Refused { variable: "GOSUMDB".into(), value: "off".into(), reason: "why".into() };
        let facts = |environment| Facts { notes: vec![("go".into(), in_file.clone())], ..with(environment) };
        check(&facts(&[]), Some(("setting.harmful", Severity::Warning, "GOSUMDB", "go env -u GOSUMDB")));
        check(&facts(&[("GOSUMDB", "off")]), Some(("setting.harmful", Severity::Warning, "GOSUMDB", "unset GOSUMDB")));
        let overridden = Note::Overridden { variable: variable(), profile: "cn".into() };
        check(&note(overridden), Some(("setting.overridden", Severity::Info, "V", "gives way")));
    }

    #[test]
    fn switches_of_verification_are_found_in_variables_and_files() {
        for (name, values, instead) in HARMFUL {
            check(&with(&[(name, values[0])]), Some(("setting.harmful", Severity::Warning, name, instead)));
            check(&with(&[(name, "/a/good/value")]), None);
        }
        let harmful = |words| Some(("setting.harmful", Severity::Warning, "/etc/it", words));
        check(&file(File::Pip, "[global]\ntrusted_host = pypi.example\n"), harmful("pip config unset"));
        check(&file(File::Uv, "allow-insecure-host = [\"x\"]"), harmful("remove allow-insecure-host from /etc/it"));
        check(&file(File::Npm, "strict-ssl=false"), harmful("npm config delete"));
        check(&file(File::Git, "[http]\n\tsslVerify = False"), harmful("git config"));
        for (kind, text) in
            [(File::Npm, "strict-ssl=true"), (File::Git, "# sslVerify = false"), (File::Uv, "allow-insecure-host = []")]
        {
            check(&file(kind, text), None);
        }
    }

    #[test]
    fn settings_that_nobody_reads_are_named_with_the_ones_that_are_read() {
        fn ineffective<'a>(subject: &'a str, words: &'a str) -> Option<(&'a str, Severity, &'a str, &'a str)> {
            Some(("setting.ineffective", Severity::Warning, subject, words))
        }
        for (_, old, new) in OLD {
            check(&with(&[(old, "1")]), ineffective(old, new));
        }
        let both = with(&[("HUGGINGFACE_HUB_CACHE", "/a"), ("HF_HUB_CACHE", "/b")]);
        check(&both, ineffective("HUGGINGFACE_HUB_CACHE", "unset"));
        check(&with(&[("HUGGINGFACE_HUB_CACHE", "/a")]), None);
        let pip = [("PIP_INDEX_URL", "https://x/simple")];
        check(&with(&pip), ineffective("PIP_INDEX_URL", "UV_DEFAULT_INDEX"));
        check(&Facts { has_uv: false, ..with(&pip) }, None);
        check(&with(&[pip[0], ("UV_DEFAULT_INDEX", "https://x/simple")]), None);
        check(&file(File::Pip, "[global]\nindex-url = https://x/simple"), ineffective("/etc/it", "ignored by uv"));
    }

    #[test]
    fn mirrors_that_have_ended_and_a_silent_proxy_of_cargos_are_named() {
        let dead = |place| Some(("mirror.dead", Severity::Warning, place, "has ended\ncargo xtask mirror env"));
        check(&file(File::Npm, "registry=https://registry.npm.taobao.org/"), dead("/etc/it"));
        check(&file(File::Cargo, "[source.x]\nregistry = 'sparse+https://rsproxy.cn/index/'"), None);
        check(&with(&[("npm_config_registry", "https://registry.npm.taobao.org")]), dead("npm_config_registry"));
        let silent = Some(("/home/me/.cargo/config.toml".to_owned(), "127.0.0.1:1".to_owned()));
        check(
            &Facts { silent_cargo_proxy: silent, ..Facts::default() },
            Some((
                "network.proxy-dead",
                Severity::Warning,
                "/home/me/.cargo/config.toml",
                "127.0.0.1:1, where nobody listens",
            )),
        );
    }

    #[test]
    fn a_proxy_needs_an_exception_for_this_machine() {
        let proxy = ("https_proxy", "http://proxy:3128");
        check(&with(&[proxy]), Some(("setting.no-proxy", Severity::Warning, "https_proxy", "export NO_PROXY=")));
        check(&with(&[proxy, ("no_proxy", "corp.example,127.0.0.1")]), None);
        check(&with(&[("NO_PROXY", "x")]), None);
    }

    #[test]
    fn a_file_of_authorities_is_looked_into() {
        let facts =
            |certificates| Facts { ca_file: Some(CaFile { path: "/ca.pem".into(), certificates }), ..Facts::default() };
        let error = |words| Some(("setting.ca-file", Severity::Error, "SSL_CERT_FILE", words));
        check(&facts(Err("No such file or directory".into())), error("/ca.pem, which cannot be read: No such file"));
        check(&facts(Ok((0, 0))), error("no certificate"));
        check(&facts(Ok((3, 0))), error("all 3 certificates"));
        check(&facts(Ok((3, 1))), None);
    }
}
