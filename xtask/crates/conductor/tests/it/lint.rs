//! `cargo xtask lint`, linter by linter, against seeded defects.
//!
//! Owns: that each linter that needs no download is seen failing, says why, and leaves every byte as it was. Never: need the network;
//! the linters that come as wheels are tried in `tests/test_lint.py`. Rules: `[linter.…]` of xtask.toml.

use crate::Folder;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

const DECLARATION: &str = r#"
project.name = "demo"
toolchain.go.minimum = "1.25.0"
wheel-set.tiny.projects = ["six==1.17.0"]

[linter.rustfmt]
about = "format of Rust"
files.endings = [".rs"]
commands = [{ tool = "cargo", directory = "hello", arguments = ["fmt", "--check"], probe = ["fmt", "--version"] }]

[linter.locks]
about = "lock files"
files.endings = ["Cargo.toml", "xtask.toml"]
commands = [{ tool = "cargo", directory = "hello", arguments = ["update", "--workspace", "--locked"] }, { tool = "pins" }]

[linter.mirror-hosts]
about = "files for everybody"
files.endings = ["Cargo.lock", ".npmrc"]
commands = [{ tool = "mirror-hosts" }]

[linter.gofmt]
about = "format of Go"
files.endings = [".go"]
commands = [{ tool = "gofmt", directory = "go", arguments = ["-d", "{files}"] }]

[linter.tidy]
about = "requirements of Go"
files.endings = ["go.mod"]
commands = [{ tool = "go", directory = "go", arguments = ["mod", "tidy", "-diff"] }]

[linter.nothing]
about = "looks at files that are not there"
files.endings = [".zig"]
commands = [{ tool = "gofmt", arguments = ["-d", "{files}"] }]

[linter.absent]
about = "a tool that nobody has"
files.interpreters = ["bash"]
commands = [{ tool = "cargo", arguments = ["no-such-tool"], probe = ["no-such-tool", "--version"] }]
"#;

struct Project(Folder);

impl Project {
    /// In order, except that `xtask.lock` lacks what is declared.
    fn new() -> Self {
        let folder = Folder::new();
        folder.write("xtask.toml", DECLARATION);
        folder.write(".gitignore", "/home/\n/target/\n");
        folder.write("run", "#!/usr/bin/env bash\n");
        folder.write(
            "hello/Cargo.toml",
            "[package]\nname = \"hello\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[workspace]\n",
        );
        folder.write("hello/Cargo.lock", "version = 4\n\n[[package]]\nname = \"hello\"\nversion = \"1.0.0\"\n");
        folder.write("hello/src/lib.rs", "pub fn hello() {}\n");
        folder.write("go/go.mod", "module example.com/demo\n\ngo 1.25.0\n");
        folder.write("go/demo.go", "package demo\n");
        folder.write("home/none", "");
        let git = Command::new("git").args(["init", "--quiet"]).current_dir(&folder.0).status().unwrap();
        assert!(git.success());
        Self(folder)
    }

    fn lint(&self, words: &[&str]) -> Output {
        self.conductor(&[&["lint"], words].concat())
    }

    fn conductor(&self, words: &[&str]) -> Output {
        let home = self.0.0.join("home");
        let inherited = ["PATH", "CARGO", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"];
        Command::new(env!("CARGO_BIN_EXE_conductor"))
            .args(words)
            .current_dir(&self.0.0)
            .env_clear()
            .envs(inherited.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .envs([("HOME", home.as_os_str()), ("CARGO_HOME", home.as_os_str()), ("GOPROXY", "off".as_ref())])
            .output()
            .unwrap()
    }

    /// Every file that Git does not ignore.
    fn bytes(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.0.0.clone()];
        while let Some(folder) = open.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_file() {
                    found.insert(path.clone(), fs::read(path).unwrap());
                } else if ![".git", "home", "target"].iter().any(|name| path.ends_with(name)) {
                    open.push(path);
                }
            }
        }
        found
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// New enough for `go mod tidy -diff` and a `gofmt -d` that fails.
fn has_go() -> bool {
    let output = Command::new("go").args(["env", "GOVERSION"]).current_dir("/").output();
    let version = output.map(|it| String::from_utf8_lossy(&it.stdout).into_owned()).unwrap_or_default();
    let minor = version.trim().strip_prefix("go1.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    let found = minor.is_some_and(|minor| minor >= 25);
    if !found {
        println!("skipped: there is no go on PATH, or it is older than 1.25");
    }
    found
}

/// Linter, whether it needs Go, files with the defect, and what is said of it.
type Case = (&'static str, bool, &'static [(&'static str, &'static str)], &'static str);

#[test]
fn each_linter_passes_on_what_is_in_order_and_fails_on_its_defect_without_rewriting_a_file() {
    const DRIFT: &str = "[package]\nname = \"hello\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[dependencies]\nother = { path = \"../other\" }\n[workspace]\n";
    const UNUSED: &str = "module example.com/demo\n\ngo 1.25.0\n\nrequire example.com/unused v1.0.0\n\nreplace example.com/unused => ./unused\n";
    let cases: &[Case] = &[
        ("rustfmt", false, &[("hello/src/lib.rs", "pub fn  hello() {}\n")], "pub fn hello() {}"),
        (
            "locks",
            false,
            &[
                ("hello/Cargo.toml", DRIFT),
                ("other/Cargo.toml", "[package]\nname = \"other\"\nversion = \"1.0.0\"\n"),
                ("other/src/lib.rs", ""),
            ],
            "because --locked was passed",
        ),
        (
            "mirror-hosts",
            false,
            &[
                ("xtask.local.toml", "[mirror.lab.npm]\nlist = ['http://npm.lab.example:8081/']\n"),
                ("web/.npmrc", "fund=false\nregistry=https://u:secret@npm.lab.example/\n"),
            ],
            "web/.npmrc:2: npm.lab.example",
        ),
        ("gofmt", true, &[("go/demo.go", "package  demo\n")], "+package demo"),
        (
            "tidy",
            true,
            &[("go/go.mod", UNUSED), ("go/unused/go.mod", "module example.com/unused\n")],
            "-require example.com/unused",
        ),
    ];
    for (linter, needs_go, defect, finding) in cases {
        if *needs_go && !has_go() {
            continue;
        }
        let project = Project::new();
        let pins = "version = 1\n[wheel-set]\ntiny = [{ project = \"six\", filename = \"six-1.17.0-py2.py3-none-any.whl\", sha256 = \"4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274\", size-bytes = 11050 }]\n";
        project.0.write("xtask.lock", pins);
        let output = project.lint(&[linter]);
        assert_eq!(output.status.code(), Some(0), "{linter}: {}", stderr(&output));
        assert!(stderr(&output).contains("linters: 1 passed, 0 failed"), "{linter}: {}", stderr(&output));
        defect.iter().for_each(|(path, text)| project.0.write(path, text));
        let before = project.bytes();
        let output = project.lint(&[linter]);
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(9), "{linter}: {told}");
        assert!(told.contains(finding), "{linter} does not say `{finding}`: {told}");
        assert!(told.contains("linters: 0 passed, 1 failed"), "{linter}: {told}");
        assert!(!told.contains("secret"), "{linter}: {told}");
        assert_eq!(changed(&before, &project.bytes()), [""; 0], "{linter} rewrote a file");
    }
}

fn changed(before: &BTreeMap<PathBuf, Vec<u8>>, after: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<String> {
    let paths = before.keys().chain(after.keys());
    paths
        .filter(|path| before.get(*path) != after.get(*path))
        .map(|path: &PathBuf| path.display().to_string())
        .collect()
}

#[test]
fn a_pin_that_is_missing_or_another_is_drift() {
    let project = Project::new();
    let told = stderr(&project.lint(&["locks"]));
    assert!(told.contains("tiny: six==1.17.0 is wanted and not pinned"), "{told}");
    let other = "version = 1\n[wheel-set]\ntiny = [{ project = \"six\", filename = \"six-1.16.0-py2.py3-none-any.whl\", sha256 = \"4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274\", size-bytes = 1 }]\n";
    project.0.write("xtask.lock", other);
    let told = stderr(&project.lint(&["locks"]));
    assert!(told.contains("tiny: six==1.16.0 is pinned and not wanted"), "{told}");
}

#[test]
fn a_base_whose_pins_are_not_what_is_declared_is_drift() {
    let project = Project::new();
    let declaration = crate::read(project.0.0.join("xtask.toml"));
    let base = "[debian-base.small]\nsuite = \"stable\"\npackages = [\"app\"]\nwithout = [\"debconf\"]\n";
    project.0.write("xtask.toml", &format!("{declaration}\n{base}"));
    let pin = |name: &str| {
        let hash = "0".repeat(64);
        format!(
            "{{ name = \"{name}\", version = \"1\", architecture = \"all\", path = \"base/pool/{name}.deb\", sha256 = \"{hash}\", size-bytes = 1 }}"
        )
    };
    let pins = format!("[debian-base.small]\nlinux-amd64 = [{}, {}]\n", pin("app"), pin("debconf"));
    project.0.write("xtask.lock", &format!("version = 1\n{pins}[debian-base.gone]\n"));
    let told = stderr(&project.lint(&["locks"]));
    for line in [
        "small: app for linux-arm64 is wanted and not pinned",
        "small: debconf for linux-amd64 is pinned and not wanted",
        "gone: pinned, and declared nowhere",
    ] {
        assert!(told.contains(line), "{told}");
    }
    assert!(!told.contains("app for linux-amd64"), "{told}");
}

#[test]
fn a_linter_with_nothing_to_look_at_fails_and_names_its_declaration() {
    if !has_go() {
        return;
    }
    let output = Project::new().lint(&["nothing"]);
    assert_eq!(output.status.code(), Some(9));
    assert!(stderr(&output).contains("linter.nothing has nothing to look at"), "{}", stderr(&output));
}

#[test]
fn a_tool_that_is_not_here_is_skipped_by_name_and_a_failure_where_it_is_required() {
    let project = Project::new();
    let output = project.lint(&["absent", "--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let line =
        String::from_utf8_lossy(&output.stdout).lines().find(|line| line.contains("outcome")).unwrap().to_owned();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((line["event"].as_str(), line["outcome"].as_str()), (Some("linter"), Some("skipped")), "{line}");
    assert!(
        line["message"].as_str().unwrap().contains("no-such-tool --version` fails: error: no such command"),
        "{line}"
    );
    assert!(stderr(&output).contains("linters: 0 passed, 0 failed, 1 skipped"));
    for name in ["absent", "all"] {
        let output = project.lint(&["absent", "--require", name]);
        assert_eq!(output.status.code(), Some(9), "--require {name}: {}", stderr(&output));
    }
}

#[test]
fn a_linter_without_files_or_commands_is_refused_where_it_is_declared() {
    let project = Project::new();
    for (declared, message) in [
        ("[linter.x]\nabout = \"x\"\ncommands = [{ tool = \"pins\" }]\n", "linter.x: `files` belongs to each linter"),
        ("[linter.x]\nabout = \"x\"\nfiles.endings = [\".rs\"]\n", "linter.x has no commands"),
    ] {
        project.0.write("xtask.toml", &format!("project.name = \"demo\"\n{declared}"));
        let output = project.lint(&[]);
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        assert!(stderr(&output).contains(message), "{}", stderr(&output));
    }
}

#[test]
fn a_suite_is_run_counted_and_its_first_failure_ends_it() {
    let project = Project::new();
    let python =
        |code: &str| format!("{{ tool = {{ python = {{}} }}, directory = \".\", arguments = [\"-c\", \"{code}\"] }}");
    let good = format!("[suite.good]\nabout = \"x\"\ncommands = [{}]\n", python("print('skipped: one part')"));
    let (fail, mark) = (python("import sys; sys.exit(3)"), python("open('mark', 'w')"));
    let bad = format!("[suite.bad]\nabout = \"x\"\ncommands = [{fail}, {mark}]\n");
    project.0.write("xtask.toml", &format!("project.name = \"demo\"\n{good}{bad}"));
    let output = project.conductor(&["test", "good"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("skipped: one part") && stderr(&output).contains("suites: 1 passed, 0 failed"));
    let output = project.conductor(&["test"]);
    assert_eq!(output.status.code(), Some(9), "{}", stderr(&output));
    assert!(stderr(&output).contains("(exit 3)") && stderr(&output).contains("suites: 1 passed, 1 failed"));
    assert!(!project.0.0.join("mark").exists(), "the command after the failed one has run");
}
