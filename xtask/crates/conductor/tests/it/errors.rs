//! Failures as a person and a script meet them: codes, exit codes, the last line, the page that explains them.
//!
//! Owns: every exit code and every code that this machine can be brought to, provoked in the built program; that docs/errors.md is
//! the one of the code. Never: a door into the program that exists for tests only: a crash is provoked by a thread that cannot
//! start (`RUST_MIN_STACK`, the standard library's own variable, beyond any memory). Rules: `code.rs`.

use crate::cli::{Ended, Project};
use crate::{Folder, read, repository, repository_files};
use conductor::code::{Code, ExitCode};
use conductor::language::columns_of;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A stack that needs nothing but wheels.
const STACK: &str = r#"[project]
name = "demo"
[wheel-set.web]
projects = ["web==1"]
[service.web]
program = { python = { wheel-set = "web" } }
ports = { http = 1 }
ready = { port = "http", path = "/" }
[run]
service = "web"
port = "http"
path = "/"
"#;

/// The failure's code, as a script finds it, and the exit code that goes with it.
fn told(ended: &Ended) -> String {
    let lines = ended.json();
    let [.., finding, summary] = lines.as_slice() else { panic!("no finding: {}{}", ended.stdout, ended.stderr) };
    assert_eq!((&finding["event"], &summary["event"]), (&"finding".into(), &"summary".into()), "{}", ended.stdout);
    assert_eq!((&summary["ok"], &summary["exit_code"]), (&false.into(), &ended.exit.into()), "{}", ended.stdout);
    let id = finding["code"].as_str().unwrap().to_owned();
    let code = Code::ALL.iter().find(|code| code.id() == id).unwrap();
    assert_eq!(code.exit() as i32, ended.exit, "{id}: {}", ended.stderr);
    if finding["severity"] == "error" {
        assert!(ended.stderr.contains(&format!("error[{id}]: ")), "{}", ended.stderr);
    }
    id
}

/// Nothing of ours is left in English: the failure itself and each hint. (Causes and excerpts may be somebody else's words.)
fn told_in_chinese(code: &str, ended: &Ended) {
    let failure = format!("错误[{code}]：");
    assert!(ended.stderr.contains(&failure), "{code} in Chinese: {}", ended.stderr);
    for line in ended.stderr.lines() {
        if let Some(text) = line.strip_prefix(&failure).or_else(|| line.strip_prefix("提示：")) {
            let plain = text.starts_with("cargo xtask ");
            assert!(plain || text.chars().any(|c| columns_of(c) == 2), "{code} in Chinese: {line}");
        }
        assert!(!["caused by: ", "hint: ", "error["].iter().any(|it| line.trim_start().starts_with(it)), "{line}");
    }
}

fn check(code: &str, project: &Project, line: &str, environment: &[(&str, &str)]) -> Ended {
    told_in_chinese(code, &project.run_with(&format!("{line} --lang zh"), environment));
    let ended = project.run_with(&format!("{line} --format json"), environment);
    assert_eq!(told(&ended), code, "`{line}`: {}", ended.stderr);
    ended
}

/// The project of the other tests with other files.
fn with(files: &[(&str, &str)]) -> Project {
    let project = Project::new();
    files.iter().for_each(|(path, text)| project.folder.write(path, text));
    project
}

/// The same with these programs on PATH and no other.
fn with_tools(files: &[(&str, &str)], tools: &[&str]) -> Project {
    let mut project = with(files);
    fs::create_dir(project.folder.0.join("bin")).unwrap();
    for tool in tools {
        let found = std::env::split_paths(&project.path).map(|folder| folder.join(tool)).find(|path| path.is_file());
        symlink(found.unwrap(), project.folder.0.join("bin").join(tool)).unwrap();
    }
    project.path = project.folder.0.join("bin").into_os_string();
    project
}

/// A project with one image out of the file `p`; `OPTIONS`, or `OPTIONS|FILES`.
fn image(more: &str) -> Project {
    let table = "image.i = { entrypoint = [\"/x\"], user = \"1:1\", MORE layer = [{ name = \"l\", files = FILES }] }";
    let files = "[{ from = { path = \"p\" }, to = \"/x\", mode = \"0755\" }]";
    let (option, files) = more.split_once('|').unwrap_or((more, files));
    let text = format!("project.name = \"demo\"\n{}", table.replace("MORE", option).replace("FILES", files));
    with(&[("xtask.toml", &text), ("p", "text"), ("q", "other")])
}

#[test]
fn a_command_line_that_cannot_be_used_ends_with_2() {
    let project = Project::new();
    check("XT0201", &project, "buidl", &[]);
    check("XT0201", &project, "mirror list --no-such-flag", &[]);
    check("XT0202", &project, "why nothing", &[]);
    check("XT0202", &project, "test --dry-run --require pyton", &[]);
    check("XT0203", &project, "plan --color sometimes", &[]);
    check("XT0203", &project, "plan --egress everywhere", &[]);
    for (line, near) in [("--egress direkt", "direct"), ("--progress plan", "plain"), ("--color allways", "always")] {
        let ended = check("XT0203", &project, &format!("plan {line}"), &[]);
        assert!(ended.stderr.contains(&format!("\nhint: did you mean `{near}`?")), "{}", ended.stderr);
    }
    let ended = check("XT0202", &project, "build TAG=1", &[]);
    assert!(ended.stderr.contains("\nhint: a variable goes before the command: TAG=1 cargo"), "{}", ended.stderr);
    check("XT0204", &with(&[("xtask.toml", STACK)]), "run --once no-such.json", &[]);
}

#[test]
fn a_file_or_variable_that_cannot_be_used_ends_with_3() {
    check("XT0317", &Project::new(), "test", &[("TEST_GPU_DEVICE", "1")]);
    let declared = |text: &str| with(&[("xtask.toml", text)]);
    let demo = |more: &str| declared(&format!("project.name = \"demo\"\n{more}"));
    let project = Project::new();
    let ended = check("XT0301", &project, "plan --repo no-such-folder", &[]);
    assert!(ended.stderr.contains("\nhint: name a checkout"), "{}", ended.stderr);
    check("XT0302", &declared("[project"), "plan", &[]);
    check("XT0303", &demo("projekt = 1"), "plan", &[]);
    check("XT0304", &declared("project = 1"), "plan", &[]);
    check("XT0304", &with(&[("xtask.local.toml", "color = \"sometimes\"")]), "plan", &[]);
    for base in [
        "suite = 'a b', packages = []",
        "suite = 'bookworm', packages = ['libc6 (= 1)']",
        "suite = 'bookworm', packages = ['libc6'], without = ['a/b']",
        "suite = 'bookworm', packages = ['libc6'], exclude = ['/usr/share/man']",
        "suite = 'bookworm', packages = ['libc6'], keep = ['../etc']",
    ] {
        let ended = check("XT0304", &demo(&format!("debian-base.b = {{ {base} }}")), "plan", &[]);
        assert!(ended.stderr.contains("debian-base.b."), "{}", ended.stderr);
    }
    check("XT0305", &demo("suite.x = { about = \"\", models = [\"no\"] }"), "plan", &[]);
    check("XT0305", &with(&[("xtask.local.toml", "ports.envoy.http = 1")]), "plan", &[]);
    check("XT0306", &demo("wheel-set.'a b' = {}"), "plan", &[]);
    check("XT0307", &project, "plan", &[("XTASK_OFFLINE", "perhaps")]);
    let ended = check("XT0307", &project, "plan", &[("XTASK_LOCK_TIMEOUT", "long")]);
    assert!(ended.stderr.contains("\nhint: unset XTASK_LOCK_TIMEOUT"), "{}", ended.stderr);
    check("XT0308", &project, "mirror show no-such-profile", &[]);
    check("XT0308", &project, "build --dry-run --egress mirrors-only", &[]);
    let chosen = with(&[("xtask.local.toml", "# mine\nmirror.use = \"cm\"\n")]);
    for line in ["plan", "mirror list"] {
        let ended = check("XT0308", &chosen, line, &[]);
        assert!(ended.stderr.contains("\n2 | mirror.use = \"cm\"\n  |              ^^^^\n"), "{}", ended.stderr);
    }
    check("XT0309", &project, "plan", &[("HOME", "")]);
    check("XT0310", &declared(STACK), "run --dry-run", &[]);
    check("XT0311", &demo("model.m.sources = [{ directory = \"no\" }]"), "lock update m", &[]);
    let ended = check("XT0318", &image("max-megabytes = 0,"), "images", &[]);
    assert!(ended.stderr.contains("image i has 1 MB, and may have 0"), "{}", ended.stderr);
    let twice = "|[{ from = { path = \"p\" }, to = \"/x\" }, { from = { path = \"q\" }, to = \"/x/y\" }]";
    check("XT0318", &image(twice), "images", &[]);
    check("XT0305", &image("|[{ from = { path = \"no\" }, to = \"/x\" }]"), "images", &[]);
    check("XT0305", &image("base = { debian = \"no\" },"), "images", &[]);
    check("XT0304", &image("|[{ from = { path = \"p\" }, to = \"x\" }]"), "images", &[]);
    for (attribute, wrong) in
        [("mode", "4755"), ("mode", "rwx"), ("mode", "0888"), ("owner", "nobody"), ("owner", "+1:1")]
    {
        let files = format!("|[{{ from = {{ path = \"p\" }}, to = \"/x\", {attribute} = \"{wrong}\" }}]");
        let ended = check("XT0304", &image(&files), "images", &[]);
        assert!(ended.stderr.contains(&format!("`{wrong}` is no")), "{}", ended.stderr);
    }
    check("XT0304", &image("platforms = [\"linux/mips\"],"), "images", &[]);
    let ended = check("XT0304", &image("platforms = [\"linux/arm64\"],"), "images --platform linux/amd64", &[]);
    assert!(ended.stderr.contains("--platform linux/arm64"), "{}", ended.stderr);
    check("XT0202", &image(""), "images j", &[]);
    check("XT0201", &image(""), "images --to docker.io/x", &[]);
    let program = image("");
    fs::copy(std::env::current_exe().unwrap(), program.folder.0.join("p")).unwrap();
    let ended = check("XT0319", &program, "images", &[]);
    assert!(ended.stderr.contains("/x needs libc.so.6, which is in none of /lib/"), "{}", ended.stderr);
    assert!(!program.folder.0.join("dist").exists(), "nothing is put anywhere before it was looked at");
    let leaks = image("");
    leaks.folder.write("p", "url = https://me:hunter2hunter2@host/\n");
    for (name, value) in [("APP_TOKEN", "hunter2hunter2"), ("HTTPS_PROXY", "http://me:hunter2hunter2@proxy:3128")] {
        let ended = check("XT0320", &leaks, "images", &[(name, value)]);
        let told = format!("/x of image i holds the credential of variable {name}\n");
        assert!(ended.stderr.contains(&told), "{}", ended.stderr);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    }
    assert!(!leaks.folder.0.join("dist").exists(), "nothing is put anywhere before it was looked at");
    let in_label = image("labels = { a = \"hunter2hunter2\" },");
    check("XT0320", &in_label, "images", &[("APP_TOKEN", "hunter2hunter2")]);
    let hello = read(Project::new().folder.0.join("xtask.toml"));
    let table = "feature-of-setting = { \"gpu: true\" = \"cuda\" }\nfeatures.fast = [\"cuda\"]\nheader =";
    let files =
        "[{ from = { library = \"hello\" }, to = \"/lib/\" }, { from = { path = \"c.yaml\" }, to = \"/c.yaml\" }]";
    let layer = format!("layer = [{{ name = \"l\", files = {files} }}]");
    let asks = format!(
        "{}\n[image.i]\nentrypoint = [\"/x\"]\nuser = \"1:1\"\n{layer}\n",
        hello.replacen("header =", table, 1)
    );
    let ended = check("XT0321", &with(&[("xtask.toml", &asks), ("c.yaml", "model: m\ngpu: yes\n")]), "images", &[]);
    let told = "c.yaml:2 in image i says `gpu: true`, and hello is built without `cuda`";
    assert!(ended.stderr.contains(told) && ended.stderr.contains("--features fast, or"), "{}", ended.stderr);
    fs::remove_file(project.folder.0.join("hello/Cargo.lock")).unwrap();
    check("XT0312", &project, "plan", &[]);
    let reads = "pub const X: Option<&str> = option_env!(\"UNDECLARED\");";
    check("XT0313", &with(&[("hello/src/lib.rs", reads)]), "build", &[]);
    check("XT0314", &declared(&STACK.replace("ready =", "after = [\"web\"]\nready =")), "plan", &[]);
}

#[test]
fn a_package_that_cargo_refuses_is_no_matter_of_the_network() {
    let manifest = read(Project::new().folder.0.join("hello/Cargo.toml"));
    let near = ("hello/near/Cargo.toml", "[package]\nname = \"near\"\nversion = \"1.0.0\"\nedition = \"2021\"\n");
    let depends = format!("{manifest}\n[dependencies]\nnear = {{ path = \"near\" }}\n");
    let stale = with(&[("hello/Cargo.toml", &depends), near, ("hello/near/src/lib.rs", "")]);
    let ended = check("XT0312", &stale, "build", &[]);
    assert!(ended.stderr.contains("\nhint: run `cargo update --workspace` in "), "{}", ended.stderr);
    let broken = with(&[("hello/Cargo.toml", &format!("{manifest}\n[dependencies\n"))]);
    let ended = check("XT0312", &broken, "build", &[]);
    assert!(ended.stderr.contains("Cargo.toml:"), "the line of the mistake: {}", ended.stderr);
}

#[test]
fn a_folder_that_is_not_there_is_shown_in_its_line_with_the_one_beside_it() {
    let declared = |library: &str, module: &str, main: &str| {
        let text = format!(
            "project.name = \"demo\"\n[native-library.hello]\npath = \"{library}\"\nheader = \"hello/hello.h\"\n\
             [go-binary.tool]\nmodule = \"{module}\"\nmain = \"{main}\"\n[toolchain.go]\nminimum = \"99.0.0\"\nversion = \"99.0.0\"\n"
        );
        // Pinned for any machine, so that none needs a Go.
        let pin = |platform: &str| {
            let hash = "0".repeat(64);
            let wheel = format!("{{ project = \"g\", filename = \"g.whl\", sha256 = \"{hash}\", size-bytes = 1 }}");
            format!("[go.platform.{platform}]\nh1 = \"h1:x=\"\nwheel = {wheel}\n")
        };
        let pins = format!("[go]\nversion = \"99.0.0\"\n{}{}", pin("linux-amd64"), pin("linux-arm64"));
        let go = ("service/go.mod", "module example.invalid/service\n");
        with(&[("xtask.toml", &text), ("xtask.lock", &pins), go, ("service/app/reader/main.go", "package main\n")])
    };
    for (library, module, main, code, line, near) in [
        ("helo", "service", "./app/reader", "XT0305", "3 | path = \"helo\"\n  |        ^^^^^^", "hello"),
        ("hello", "servce", "./app/reader", "XT0305", "6 | module = \"servce\"\n  |          ^^^^^^^^", "service"),
        (
            "hello",
            "service",
            "./app/raeder",
            "XT0305",
            "7 | main = \"./app/raeder\"\n  |        ^^^^^^^^^^^^^^",
            "reader",
        ),
    ] {
        let ended = check(code, &declared(library, module, main), "plan", &[]);
        let expected = format!("{line}\nhint: did you mean `{near}`?");
        assert!(ended.stderr.contains(&expected), "{}", ended.stderr);
    }
    let ended = check("XT0304", &declared("hello", "service", "app/reader"), "plan", &[]);
    assert!(ended.stderr.contains("hint: write `./app/reader`"), "{}", ended.stderr);
}

#[test]
fn a_file_that_cannot_be_read_is_answered_with_what_to_write() {
    let ended = check("XT0304", &with(&[("xtask.toml", "")]), "plan", &[]);
    assert!(ended.stderr.contains("\nhint: add two lines: [project], "), "{}", ended.stderr);
    let lock = "`cargo xtask lock update` writes it anew";
    let ended = check("XT0302", &with(&[("xtask.lock", "garbage")]), "plan", &[]);
    assert!(ended.stderr.contains(lock), "{}", ended.stderr);
    let ended = check("XT0604", &with(&[("xtask.lock/x", "")]), "plan", &[]);
    assert!(ended.stderr.contains(lock), "{}", ended.stderr);
    let project = Project::new();
    fs::write(project.folder.0.join("xtask.toml"), b"project.name = 'caf\xe9'").unwrap();
    let ended = check("XT0302", &project, "plan", &[]);
    assert!(ended.stderr.contains("this is not UTF-8") && ended.stderr.contains("xtask.toml:1:20"), "{}", ended.stderr);
}

/// A package whose dependency is in a registry at a port that nobody listens on.
fn unreachable() -> Project {
    let registry = "sparse+http://127.0.0.1:9/";
    let manifest = "[package]\nname = \"hello\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[lib]\ncrate-type = [\"cdylib\"]\n[workspace]\n[dependencies]\nfar = { version = \"1\", registry = \"lab\" }\n";
    let lock = format!(
        "version = 4\n\n[[package]]\nname = \"far\"\nversion = \"1.0.0\"\nsource = \"{registry}\"\nchecksum = \"{}\"\n\n[[package]]\nname = \"hello\"\nversion = \"1.0.0\"\ndependencies = [\n \"far\",\n]\n",
        "0".repeat(64)
    );
    let config = format!("[registries.lab]\nindex = \"{registry}\"\n[net]\nretry = 0\n");
    with(&[("hello/Cargo.toml", manifest), ("hello/Cargo.lock", &lock), ("hello/.cargo/config.toml", &config)])
}

#[test]
fn what_cannot_be_reached_ends_with_4_and_other_bytes_with_5() {
    check("XT0401", &unreachable(), "build", &[]);
    check("XT0402", &unreachable(), "build --offline", &[]);
    let pins = format!("[[model.m.file]]\npath = \"x\"\nsha256 = \"{}\"\nsize-bytes = 1\n", "0".repeat(64));
    let declaration = "project.name = \"demo\"\nmodel.m.sources = [{ directory = \"m\" }]\nsuite.s = { about = \"\", models = [\"m\"] }\n";
    check("XT0501", &with(&[("xtask.toml", declaration), ("xtask.lock", &pins), ("m/x", "!")]), "test", &[]);
}

#[test]
fn a_failing_disk_ends_with_6() {
    let project = with(&[("home/.cache/xtask", "a file where a folder must be")]);
    let ended = check("XT0604", &project, "build", &[]);
    assert!(
        ended.json().iter().any(|line| line["subject"].as_str().is_some_and(|it| it.contains("home/.cache/xtask")))
    );
}

/// Starts a build that would last a minute and waits until it is under way.
fn slow_build(project: &Project) -> Child {
    project.folder.write("hello/build.rs", "fn main() { std::thread::sleep(std::time::Duration::from_secs(60)) }");
    let child = project.command("build --format json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = project.folder.0.join("target/xtask/native/hello/release/build");
    let deadline = Instant::now() + Duration::from_secs(60);
    let built = |path: fs::DirEntry| path.path().join("build-script-build").is_file();
    while !fs::read_dir(&started).is_ok_and(|entries| entries.flatten().any(built)) {
        assert!(Instant::now() < deadline, "the build script was never compiled");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

fn end(child: Child, signal: rustix::process::Signal) -> Ended {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { exit: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

#[test]
fn waiting_too_long_ends_with_7_and_signals_with_130_and_143() {
    let project = Project::new();
    let builder = slow_build(&project);
    let ended = check("XT0701", &project, "build", &[("XTASK_LOCK_TIMEOUT", "1")]);
    assert!(ended.stderr.contains(&builder.id().to_string()), "the holder is not named: {}", ended.stderr);
    assert_eq!(told(&end(builder, rustix::process::Signal::INT)), "XT1300");
    assert_eq!(told(&end(slow_build(&Project::new()), rustix::process::Signal::TERM)), "XT1430");
}

#[test]
fn a_missing_or_broken_program_ends_with_8() {
    let go =
        "project.name = \"demo\"\ntoolchain.go.minimum = \"1.21.0\"\ngo-binary.x = { module = \"x\", main = \".\" }\n";
    let go = [("xtask.toml", go), ("x/go.mod", "module x\n"), ("x/main.go", "package main\nfunc main() {}\n")];
    check("XT0801", &with_tools(&[], &["gcc", "cc"]), "build", &[("CARGO", "")]);
    let ended = check("XT0802", &with_tools(&[], &["cargo", "rustc"]), "build", &[]);
    assert!(ended.stderr.contains("hint: install gcc"), "{}", ended.stderr);
    check("XT0803", &with_tools(&go, &["gcc", "cc"]), "build", &[]);
    check("XT0804", &with_tools(&[("xtask.toml", STACK)], &[]), "run --dry-run", &[]);
    let project = with_tools(&[], &["gcc", "cc", "cargo"]);
    project.folder.write("bin/rustc", "#!/bin/sh\nexit 1\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(project.folder.0.join("bin/rustc"), mode).unwrap();
    let cargo = project.folder.0.join("bin/cargo").display().to_string();
    check("XT0805", &project, "build", &[("CARGO", &cargo)]);
}

#[test]
fn a_failed_child_ends_with_9_and_its_last_lines_stay_on_screen() {
    let declared = "[project]\nname = \"demo\"\n[linter.x]\nabout = \"x\"\nfiles.endings = [\".none\"]\ncommands = [{ tool = \"pins\" }]\n";
    check("XT0906", &with(&[("xtask.toml", declared)]), "lint", &[]);
    let ended = check("XT0901", &with(&[("hello/src/lib.rs", "this is not Rust")]), "build", &[]);
    assert!(ended.stderr.contains("(exit 101)") && ended.stderr.contains("this is not Rust"), "{}", ended.stderr);
    let log = ended.stderr.split("hint: whole output: ").nth(1).unwrap().lines().next().unwrap();
    assert!(log.starts_with("[REPO]/target/xtask/logs/"), "{log}");
    let suite = "suite.s = { about = \"\", commands = [{ tool = \"cargo\", arguments = [\"no-such-command\"] }] }";
    let differing = image("");
    assert_eq!(differing.run("images --to oci:a").exit, 0);
    differing.folder.write("p", "another text");
    assert_eq!(differing.run("images --to oci:b").exit, 0);
    check("XT0907", &differing, "images diff oci:a oci:b", &[]);
    check("XT0904", &with(&[("xtask.toml", &format!("project.name = \"demo\"\n{suite}"))]), "test", &[]);
    let edits = "fn main() { std::fs::write(\"src/lib.rs\", \"// edited\\n\").unwrap() }";
    check("XT0905", &with(&[("hello/build.rs", edits)]), "build", &[]);
}

#[test]
fn a_crash_ends_with_101_says_where_and_keeps_the_last_line() {
    let project = Project::new();
    let logs = Folder::new();
    let environment = [("RUST_MIN_STACK", "1000000000000000"), ("TMPDIR", logs.0.to_str().unwrap())];
    let ended = check("XT1010", &project, "plan", &environment);
    let text = &ended.stderr;
    assert!(text.starts_with("error[XT1010]: xtask crashed at ") && text.contains(".rs:"), "{text}");
    assert!(text.contains("nothing half-made was published: please report it"), "{text}");
    assert!(!text.contains("stack backtrace") && !text.contains("   0:"), "{text}");
    let log = text.split("hint: where in the program: ").nth(1).unwrap().lines().next().unwrap();
    assert!(log.starts_with(logs.0.to_str().unwrap()) && fs::read_to_string(log).unwrap().contains("   0: "), "{log}");
}

/// The reporter's thread finds room for its stack, the next one does not: the crash is in the middle of the command.
#[test]
fn a_crash_in_the_middle_of_a_command_is_told_with_the_logs_of_the_run() {
    let project = Project::new();
    let mut command = project.command("plan --format json");
    let shell = ["-c", "ulimit -v 1600000 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_conductor")];
    let environment = command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
    let environment: Vec<_> = environment.collect();
    command = std::process::Command::new("sh");
    command.args(shell).args(["plan", "--format", "json"]).current_dir(&project.folder.0).env_clear().envs(environment);
    let output = command.env("RUST_MIN_STACK", (1 << 30).to_string()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    let ended = Ended { exit: output.status.code().unwrap_or(-1), stdout, stderr };
    assert_eq!(told(&ended), "XT1010");
    let logs = project.folder.0.join("target/xtask/logs");
    let said = format!("hint: the logs of this run are in {}/", logs.display());
    assert!(ended.stderr.contains("xtask crashed at ") && ended.stderr.contains(&said), "{}", ended.stderr);
    assert_eq!(fs::read_dir(logs).unwrap().count(), 1);
}

#[test]
fn explain_works_where_nothing_else_does() {
    let project = with(&[("xtask.toml", "[broken")]);
    for word in ["XT0303", "xt0303", "0303"] {
        let ended = project.run(&format!("explain {word}"));
        assert_eq!((ended.exit, ended.stderr.as_str()), (0, ""));
        assert!(
            ended.stdout.starts_with("XT0303: a file has a key that there is not (exit code 3)\n\n"),
            "{}",
            ended.stdout
        );
    }
    let all = project.run("explain");
    assert_eq!((all.exit, all.stdout.lines().count()), (0, Code::ALL.len()));
    let lines = project.run("explain xt0303 --format json").json();
    assert_eq!((&lines[0]["event"], &lines[0]["exit_code"]), (&"explanation".into(), &3.into()));
    assert_eq!((&lines[1]["event"], &lines[1]["ok"]), (&"summary".into(), &true.into()));
    let ended = check("XT0202", &project, "explain XT0330", &[]);
    assert!(ended.stderr.contains("hint: did you mean `XT03"), "{}", ended.stderr);
}

/// docs/errors.md, from the code.
fn page() -> String {
    let mut page = String::from(
        "# Errors\nWritten from `xtask/crates/conductor/src/code.rs`; `cargo xtask explain CODE` prints the same. With `--format json` a failure is a\nline `{\"event\":\"finding\",\"code\":\"XT…\",…}` before the last one.\n\n## Exit codes\n| exit code | means | codes |\n| --- | --- | --- |\n",
    );
    for exit in ExitCode::ALL {
        let ids: Vec<String> = Code::ALL.iter().filter(|code| code.exit() == *exit).map(|code| code.id()).collect();
        let ids = match ids.as_slice() {
            [first, .., last] => format!("{first} – {last}"),
            ids => ids.join(""),
        };
        writeln!(page, "| {} | {} | {ids} |", *exit as i32, exit.meaning()).unwrap();
    }
    for code in Code::ALL {
        write!(page, "\n## {}: {}\n{}\n", code.id(), code.title(), code.explanation()).unwrap();
    }
    page
}

#[test]
fn the_page_of_errors_is_the_one_of_the_code() {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(repository().join("docs/errors.md"), page()).unwrap();
    }
    assert!(read("docs/errors.md") == page(), "docs/errors.md is out of date: run this test with UPDATE_EXPECT=1");
}

#[test]
fn every_code_is_explained_used_and_provoked_by_a_test() {
    let source =
        |file: &std::path::PathBuf| file.starts_with("xtask/crates/conductor/src") && !file.ends_with("code.rs");
    let files = repository_files();
    let (mut program, mut tests) = (String::new(), read("xtask/crates/conductor/tests/it/errors.rs"));
    for file in files.iter().filter(|file| source(file)) {
        let text = read(file);
        let (code, test) = text.split_once("\n#[cfg(test)]\nmod tests").unwrap_or((&text, ""));
        program.push_str(code);
        tests.push_str(test);
    }
    let used = |text: &str, code: &Code| {
        let name = format!("Code::{code:?}");
        let whole = |at: usize| !text[at + name.len()..].starts_with(|c: char| c.is_ascii_alphanumeric());
        text.match_indices(&name).any(|(at, _)| whole(at))
    };
    let mut wrong = Vec::new();
    for code in Code::ALL {
        let id = code.id();
        let title = code.title();
        if title.ends_with('.') || title.len() > 70 || !title.starts_with(|c: char| c.is_lowercase() || c == 'x') {
            wrong.push(format!("{id}: the title is no line"));
        }
        let text = code.explanation();
        if text.split("\n\n").count() < 2 && code.exit() as i32 <= 101 {
            wrong.push(format!("{id}: says what it means, but not what to do"));
        }
        if let Some(long) = text.lines().find(|line| line.chars().count() > 130) {
            wrong.push(format!("{id}: too long a line: {long}"));
        }
        if !used(&program, code) {
            wrong.push(format!("{id} ({code:?}): no failure has it"));
        }
        if !used(&tests, code) && !tests.contains(&format!("\"{id}\"")) {
            wrong.push(format!("{id} ({code:?}): no test provokes it"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let exits: BTreeSet<i32> = Code::ALL.iter().map(|code| code.exit() as i32).chain([0]).collect();
    assert_eq!(exits, ExitCode::ALL.iter().map(|exit| *exit as i32).collect(), "each exit code has its codes");
}
