//! Mirrors' hosts in files that everybody who checks the project out gets: lock files and tool settings.
//!
//! Such a file sends other people, and other networks, to a place that one machine chose. Never: repeats a line, which may hold a
//! credential; asks Git or opens a connection. Rules: a lock file leaks where a URL names the host; a setting also where it stands
//! alone (`trusted-host = HOST`). Loopback and the gateway's name are never anybody else's.

use crate::error::{Code, Error, Result};
use crate::files;
use crate::mirror::GATEWAY_HOST;
use crate::tr;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;

/// Larger ones are refused, so that looking costs a bounded time; real ones are below 10 MB.
const MAX_BYTES: u64 = 64 << 20;

const LOCKS: [&str; 11] = [
    "Cargo.lock",
    "go.sum",
    "go.work.sum",
    "package-lock.json",
    "npm-shrinkwrap.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "uv.lock",
    "poetry.lock",
    "pdm.lock",
    "Pipfile.lock",
];
const SETTINGS: [&str; 5] = [".npmrc", "pip.conf", "uv.toml", "go.env", ".cargo/config.toml"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaks {
    /// As Git names it, from the root of the checkout.
    pub file: String,
    /// Line, from 1, and host.
    pub places: BTreeSet<(usize, String)>,
}

impl Leaks {
    /// What takes the hosts out again, for a person to judge.
    pub fn fix(&self) -> String {
        let file = &self.file;
        let (folder, name) = file.rsplit_once('/').unwrap_or((".", file));
        match name {
            "package-lock.json" | "npm-shrinkwrap.json" => {
                format!("npm --prefix {folder} install --package-lock-only --omit-lockfile-registry-resolved")
            }
            _ if LOCKS.contains(&name) => tr!(
                "make {file} again while its tool is told of no mirror; before a commit `git checkout -- {file}` takes it back",
                file
            ),
            _ => tr!(
                "take it out of {file}: `--mirror NAME` and `cargo xtask mirror env` reach every tool without a file",
                file
            ),
        }
    }
}

/// Whether `path` is a lock file or a tool's settings, wherever it stands.
pub fn watched(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let requirements = name.starts_with("requirements") && (name.ends_with(".txt") || name.ends_with(".in"));
    LOCKS.contains(&name) || requirements || SETTINGS.iter().any(|it| Path::new(path).ends_with(it))
}

/// Those of `paths`, below `root`, that name one of `mirrors`. Links and what is no longer there are passed over.
pub fn find<'p>(
    root: &Path,
    paths: impl IntoIterator<Item = &'p str>,
    mirrors: &BTreeSet<String>,
) -> Result<Vec<Leaks>> {
    let mut found = Vec::new();
    for path in paths {
        let place = root.join(path);
        let Some(metadata) = place.symlink_metadata().ok().filter(|it| it.is_file()) else { continue };
        if metadata.len() > MAX_BYTES {
            let message = tr!(
                "{path} is too large to be looked through for mirrors: more than {bound} bytes",
                path,
                bound = MAX_BYTES
            );
            return Err(Error::new(Code::Findings, message));
        }
        let is_lock = LOCKS.contains(&path.rsplit('/').next().unwrap_or(path));
        let bytes = files::read(&place)?;
        let lines = String::from_utf8_lossy(&bytes);
        let places = lines
            .lines()
            .enumerate()
            .flat_map(|(index, line)| hosts(line, is_lock, mirrors).into_iter().map(move |host| (index + 1, host)));
        let leaks = Leaks { file: path.to_owned(), places: places.collect() };
        if !leaks.places.is_empty() {
            found.push(leaks);
        }
    }
    Ok(found)
}

/// The hosts of one line that are not for everybody.
fn hosts(line: &str, is_lock: bool, mirrors: &BTreeSet<String>) -> Vec<String> {
    let part_of_a_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = line[at..].find(part_of_a_name).map(|skipped| at + skipped) {
        at = line[start..].find(|c| !part_of_a_name(c)).map_or(line.len(), |length| start + length);
        let name = line[start..at].trim_matches('.').to_lowercase();
        let before = &line[..start];
        if name == "1" && before.ends_with("//[::") {
            found.push("[::1]".to_owned());
            continue;
        }
        let address = name.parse::<Ipv4Addr>().ok();
        let loopback = name == "localhost" || address.is_some_and(|it| it.is_loopback() || it.is_unspecified());
        let mirror = mirrors.contains(&name);
        let leaks = name == GATEWAY_HOST
            || (mirror || loopback) && in_url(before)
            || mirror && !is_lock && !loopback && name.contains('.');
        if leaks {
            found.push(name);
        }
    }
    found
}

/// Whether what follows `before` is the host of a URL: after `//`, with or without a user.
fn in_url(before: &str) -> bool {
    before.rsplit_once("//").is_some_and(|(_, user)| {
        user.is_empty()
            || user.ends_with('@') && !user.contains(['/', '?', '"', '\'']) && !user.contains(char::is_whitespace)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors() -> BTreeSet<String> {
        ["npm.mirror.example", "mirror", "127.0.0.1"].map(str::to_owned).into()
    }

    #[track_caller]
    fn check(line: &str, in_lock: &[&str], in_setting: &[&str]) {
        assert_eq!(hosts(line, true, &mirrors()), in_lock, "lock: {line}");
        assert_eq!(hosts(line, false, &mirrors()), in_setting, "setting: {line}");
    }

    #[test]
    fn a_host_counts_in_a_url_and_in_a_setting_also_alone() {
        let both = |line, host| check(line, &[host], &[host]);
        both(r#""resolved": "https://npm.mirror.example/six/-/six-1.tgz","#, "npm.mirror.example");
        both("registry=http://u:p%40ss@NPM.Mirror.example:8443/x", "npm.mirror.example");
        both("//npm.mirror.example/:_authToken=x", "npm.mirror.example");
        both("index-url = https://mirror/simple", "mirror");
        both("source = \"sparse+http://xtask-gateway.invalid/crates/\"", "xtask-gateway.invalid");
        both("registry = \"http://127.0.0.1:4873/\"", "127.0.0.1");
        both("registry = \"http://[::1]:4873/\"", "[::1]");
        both("proxy=http://localhost:3128", "localhost");
        check("trusted-host = npm.mirror.example", &[], &["npm.mirror.example"]);
        // Another host, a module's path, a word, an exception from the proxy.
        for line in [
            "https://cdn.npm.mirror.example.org/x",
            "https://x-npm.mirror.example/x",
            "mirror==1.0 # the mirror",
            "noproxy=localhost,127.0.0.1",
            "https://files.example/localhost/mirror",
            r#"{"url": "https://a.example", "to": "x@mirror"}"#,
        ] {
            check(line, &[], &[]);
        }
        check("npm.mirror.example/team/module v1.0.0 h1:x=", &[], &["npm.mirror.example"]);
    }

    #[test]
    fn lock_files_and_settings_are_watched_wherever_they_stand() {
        for path in ["go.sum", "a/b/Cargo.lock", "web/.npmrc", "requirements-dev.txt", "x/.cargo/config.toml"] {
            assert!(watched(path), "{path}");
        }
        for path in ["src/main.rs", "config.toml", "Cargo.lock.md", "my-uv.lock", "docs/requirements.md"] {
            assert!(!watched(path), "{path}");
        }
    }

    #[test]
    fn files_are_told_with_lines_and_the_way_out_and_never_with_what_else_a_line_holds() {
        let folder = std::env::temp_dir().join(format!("leaks-{}", std::process::id()));
        let write = |name: &str, text: &str| {
            std::fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
            std::fs::write(folder.join(name), text).unwrap();
        };
        write("web/package-lock.json", "{\n\"a\": \"https://u:secret@mirror/a\",\n\"b\": \"https://mirror/b\"}\n");
        write("uv.lock", "source = { registry = \"https://neutral.example/simple\" }\n");
        write("go.sum", "x v1 h1:\n\u{fffd}https://mirror/x");
        std::os::unix::fs::symlink("web/package-lock.json", folder.join("yarn.lock")).unwrap();
        let paths = ["go.sum", "uv.lock", "web/package-lock.json", "yarn.lock", "gone.lock"];
        let found = find(&folder, paths, &mirrors()).unwrap();
        let big = std::fs::File::create(folder.join("Pipfile.lock")).unwrap();
        big.set_len(MAX_BYTES + 1).unwrap();
        let refused = find(&folder, ["Pipfile.lock"], &mirrors()).unwrap_err();
        std::fs::remove_dir_all(&folder).unwrap();
        let place = |line: usize| (line, "mirror".to_owned());
        assert_eq!(
            found,
            [
                Leaks { file: "go.sum".into(), places: [place(2)].into() },
                Leaks { file: "web/package-lock.json".into(), places: [place(2), place(3)].into() },
            ]
        );
        assert!(found[0].fix().contains("git checkout -- go.sum"));
        assert!(found[1].fix().starts_with("npm --prefix web install --package-lock-only"));
        assert!(refused.to_string().contains("Pipfile.lock is too large"), "{refused}");
    }
}
