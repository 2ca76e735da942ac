//! House rules that a compiler does not know.
//!
//! Owns: each rule, as data where it can be. Never: judge by a list that somebody must keep (files come from Git, host names
//! from the tools). Rules: ARCHITECTURE.md, "Invariants".

use crate::{Folder, read, repository, repository_files};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const CONDUCTOR: &str = "xtask/crates/conductor/src";

/// A source file of the conductor, as `module::path` (without `mod`) and text without its tests.
pub fn conductor_sources() -> Vec<(PathBuf, String)> {
    let files = repository_files()
        .into_iter()
        .filter(|file| file.starts_with(CONDUCTOR) && file.extension().is_some_and(|it| it == "rs"));
    let sources: Vec<_> =
        files.map(|file| (file.strip_prefix(CONDUCTOR).unwrap().to_owned(), without_tests(&read(&file)))).collect();
    assert!(sources.len() > 30, "the sources were not found");
    sources
}

/// `text` up to its test module, comments blanked so that prose may name what code may not.
pub fn without_tests(text: &str) -> String {
    let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap();
    let blank = |line: &str| if line.trim_start().starts_with("//") { String::new() } else { line.to_owned() };
    code.lines().map(blank).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_rust_file_opens_with_what_it_owns() {
    let bare: Vec<PathBuf> = repository_files()
        .into_iter()
        .filter(|file| file.extension().is_some_and(|it| it == "rs") && !read(file).starts_with("//! "))
        .collect();
    assert!(bare.is_empty(), "these open without a module comment: {bare:?}");
}

/// The layers of the conductor, top first, as the list in its `lib.rs` has them: the document is the rule.
fn layers() -> Vec<Vec<String>> {
    let name = |text: &str| text.split_once("`]").map(|(name, _)| name.to_owned());
    read(format!("{CONDUCTOR}/lib.rs"))
        .lines()
        .filter_map(|line| line.strip_prefix("//! - "))
        .map(|line| line.split("[`").skip(1).filter_map(name).collect())
        .collect()
}

#[test]
fn every_module_of_the_conductor_is_in_the_list_of_lib_rs() {
    let declared: BTreeSet<String> = without_tests(&read(format!("{CONDUCTOR}/lib.rs")))
        .lines()
        .filter_map(|line| Some(line.strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned()))
        .collect();
    let listed: BTreeSet<String> = layers().into_iter().flatten().collect();
    assert_eq!(listed, declared);
}

#[test]
fn a_module_imports_only_from_its_own_layer_and_those_below() {
    let layers = layers();
    let layer = |module: &str| layers.iter().position(|layer| layer.iter().any(|name| name == module));
    let mut wrong = BTreeSet::new();
    let mut inside = BTreeMap::<String, BTreeSet<String>>::new();
    for (file, text) in conductor_sources() {
        let module = file.iter().next().unwrap().to_string_lossy().replace(".rs", "");
        let Some(from) = layer(&module) else { continue };
        for import in imports(&text) {
            match layer(&import) {
                Some(to) if to < from => {
                    wrong.insert(format!("{} imports {import}, which stands above {module}", file.display()));
                }
                Some(to) if to == from && import != module => {
                    inside.entry(module.clone()).or_default().insert(import);
                }
                _ => {}
            }
        }
    }
    assert!(!inside.is_empty(), "no import was found at all");
    wrong.extend(
        inside
            .keys()
            .filter(|module| reaches(&inside, module, module))
            .map(|module| format!("{module} imports itself through its own layer")),
    );
    assert!(wrong.is_empty(), "{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
}

/// First segments after `crate::`, in `use` declarations, their braces included, and in expressions.
fn imports(text: &str) -> BTreeSet<String> {
    let segment = |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for rest in text.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => {
                // `crate::{a::{b, c}, d}`: names at the first depth.
                let mut depth = 0;
                let mut start = true;
                for (at, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        _ if start && !c.is_whitespace() => {
                            found.insert(segment(&group[at..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
            None => {
                found.insert(segment(rest));
            }
        }
    }
    found
}

fn reaches(edges: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str) -> bool {
    let mut open: Vec<&String> = edges.get(from).into_iter().flatten().collect();
    let mut seen = BTreeSet::new();
    while let Some(module) = open.pop() {
        if module == to {
            return true;
        }
        if seen.insert(module) {
            open.extend(edges.get(module).into_iter().flatten());
        }
    }
    false
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::error::Error;\nuse crate::{digest::{Digest, parse}, files, wheel as w};\nfn x() { crate::report::bytes(1); }";
    let expected = ["digest", "error", "files", "report", "wheel"];
    assert_eq!(imports(text).into_iter().collect::<Vec<_>>(), expected);
}

/// A call, where alone it may stand, and what to use elsewhere. Tests are exempt.
const CONFINED: &[(&str, &[&str], &str)] = &[
    ("Command::new", &["process.rs"], "process::run, ask, capture or Companion"),
    ("fs::write", &[], "files::write, which publishes atomically"),
    ("fs::rename", &["files.rs"], "files::rename"),
    ("fs::copy", &[], "files::Draft::copy"),
    ("fs::remove_", &["files.rs"], "files::remove"),
    ("fs::hard_link", &[], "files::Draft::copy: whoever edits one name must not reach the other"),
    ("File::create", &[], "files::write"),
    ("TcpListener", &["loopback.rs", "mirror/direct.rs"], "loopback"),
    ("TcpStream", &["loopback.rs", "mirror/direct.rs"], "loopback"),
    ("UdpSocket", &[], "the gateway: only it sees the outside"),
    ("process::exit", &["main.rs"], "an Error with its exit code"),
    ("env::var", &["settings/env.rs"], "Settings: the environment is read once"),
    ("env::set_var", &[], "an Invocation's own environment"),
];

#[test]
fn calls_that_reach_the_machine_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for (file, text) in conductor_sources() {
        for (call, homes, instead) in CONFINED {
            if text.contains(call) && !homes.iter().any(|home| Path::new(home) == file) {
                wrong.push(format!("{}: `{call}` may stand in {homes:?} only; use {instead}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // A home that no longer makes its call would leave a rule that guards nothing.
    for (call, homes, _) in CONFINED {
        for home in *homes {
            assert!(
                without_tests(&read(format!("{CONDUCTOR}/{home}"))).contains(call),
                "{home} no longer calls `{call}`"
            );
        }
    }
}

/// The default registries' host names come from the tools of this machine; a tool that is not here cannot say its own.
#[test]
fn no_file_names_a_default_registry() {
    let apt = urls(&answer("apt-get", &["indextargets", "--format", "$(SITE)"], &[]));
    let asked: [(&str, Vec<String>); 5] = [
        ("go", urls(&answer("go", &["env", "GOPROXY", "GOSUMDB"], &[("GOENV", "off")]))),
        (
            "pip",
            urls(&answer(
                "python3",
                &["-c", "from pip._internal.models import index as i; print(i.PyPI.url, i.PyPI.file_storage_domain)"],
                &[],
            )),
        ),
        ("npm", urls(&answer("npm", &["config", "get", "registry", "--globalconfig=/dev/null"], &[]))),
        ("apt", apt.clone()),
        ("cargo", cargo_host().into_iter().collect()),
    ];
    let mut hosts = BTreeSet::new();
    for (tool, found) in asked {
        if found.is_empty() {
            println!("skipped: {tool} is not here or names no default host");
        }
        hosts.extend(found);
    }
    assert!(!hosts.is_empty(), "no tool at all answered: cargo runs this test");
    // apt tells what this machine is configured for, which may well be a mirror of a built-in profile.
    let profiles = urls(&read(format!("{CONDUCTOR}/mirror/builtin.toml")));
    hosts.retain(|host| !apt.contains(host) || !profiles.contains(host));
    let mut wrong = Vec::new();
    for file in repository_files() {
        // Tools write these themselves; they hold hashes and, for cargo, the registry's constant name.
        if ["Cargo.lock", "go.sum"].iter().any(|name| file.ends_with(name)) {
            continue;
        }
        let text = String::from_utf8_lossy(&std::fs::read(repository().join(&file)).unwrap()).into_owned();
        wrong.extend(
            hosts.iter().filter(|host| text.contains(host.as_str())).map(|host| format!("{}: {host}", file.display())),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Standard output of a tool that was asked for its defaults, without the variables that would change them; empty where it fails.
fn answer(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let home = Folder::new();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let output = Command::new(program)
        .args(arguments)
        .current_dir("/")
        .env_clear()
        .env("PATH", path)
        .env("HOME", &home.0)
        .envs(environment.iter().copied())
        .output();
    output
        .ok()
        .filter(|it| it.status.success())
        .map(|it| String::from_utf8_lossy(&it.stdout).into_owned())
        .unwrap_or_default()
}

/// Host names in `text`: what looks like one between blanks, commas, slashes and bars.
fn urls(text: &str) -> Vec<String> {
    let is_host = |word: &&str| {
        word.contains('.')
            && !word.contains("..")
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
    };
    // An address or a name of one's own network is nobody's default.
    let public = |word: &&str| {
        word.rsplit('.').next().is_some_and(|last| last.len() > 1 && last.bytes().all(|b| b.is_ascii_alphabetic()))
    };
    text.split(|c: char| c.is_whitespace() || "/,|:@+\"".contains(c))
        .filter(is_host)
        .filter(public)
        .map(str::to_owned)
        .collect()
}

/// Cargo states its registry nowhere; asked for a crate through a proxy of ours that refuses, it names the host, and nothing
/// leaves this machine.
fn cargo_host() -> Option<String> {
    let folder = Folder::new();
    folder.write(
        "Cargo.toml",
        "[package]\nname = \"probe\"\nedition = \"2021\"\n[dependencies]\nserde = \"1\"\n[workspace]\n",
    );
    folder.write("src/lib.rs", "");
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let address = proxy.local_addr().unwrap();
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut child = Command::new(cargo)
        .arg("generate-lockfile")
        .current_dir(&folder.0)
        .env_remove("CARGO_REGISTRY_DEFAULT")
        .envs([("CARGO_HOME", folder.0.join("home").into_os_string()), ("CARGO_NET_RETRY", "0".into())])
        .env("CARGO_HTTP_PROXY", format!("http://{address}"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut host = None;
    while host.is_none() && Instant::now() < deadline {
        match proxy.accept() {
            Ok((mut stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                let mut head = [0; 512];
                let count = stream.read(&mut head).unwrap_or(0);
                let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let head = String::from_utf8_lossy(&head[..count]).into_owned();
                host = head.strip_prefix("CONNECT ").and_then(|rest| Some(rest.split(':').next()?.to_owned()));
            }
            Err(_) if child.try_wait().unwrap().is_some() => break,
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
    let _ = child.kill();
    child.wait().unwrap();
    host
}
