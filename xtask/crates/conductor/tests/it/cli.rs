//! The command line as a script meets it: arguments in, standard output, standard error, exit code and files out.
//!
//! Owns: one case a behaviour, against the built program in a small project of its own. Never: need the network or anything that the
//! README does not ask for. Rules: JSON lines in `report/json.rs`.

use crate::Folder;
use expect_test::{Expect, expect};
use std::ffi::OsString;
use std::fs;
use std::process::Command;

const DECLARATION: &str = r#"[project]
name = "demo"

[native-library.hello]
path = "hello"
header = "hello/hello.h"
"#;

/// A project with one native library that has no dependency, and an environment in which nobody has configured anything.
pub struct Project {
    pub folder: Folder,
    pub path: OsString,
}

pub struct Ended {
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Project {
    pub fn new() -> Self {
        let folder = Folder::new();
        folder.write("xtask.toml", DECLARATION);
        let package = "[package]\nname = \"hello\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[lib]\ncrate-type = [\"cdylib\"]\n[workspace]\n";
        folder.write("hello/Cargo.toml", package);
        folder.write("hello/Cargo.lock", "version = 4\n\n[[package]]\nname = \"hello\"\nversion = \"1.0.0\"\n");
        folder.write("hello/hello.h", "int hello(void);\n");
        folder.write("hello/src/lib.rs", "#[unsafe(no_mangle)]\npub extern \"C\" fn hello() -> i32 { 42 }\n");
        Self { folder, path: std::env::var_os("PATH").unwrap_or_default() }
    }

    pub fn run(&self, line: &str) -> Ended {
        self.run_with(line, &[])
    }

    pub fn run_with(&self, line: &str, environment: &[(&str, &str)]) -> Ended {
        let output = self.command(line).envs(environment.iter().copied()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&*self.folder.0.to_string_lossy(), "[REPO]");
        Ended { exit: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    pub fn command(&self, line: &str) -> Command {
        let home = self.folder.0.join("home");
        fs::create_dir_all(&home).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_conductor"));
        command
            .args(line.split_whitespace())
            .current_dir(&self.folder.0)
            .env_clear()
            .envs(
                ["CARGO", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"]
                    .iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .env("PATH", &self.path)
            .env("HOME", home);
        command
    }
}

impl Ended {
    /// Everything that it said, with what differs from run to run marked.
    fn transcript(&self) -> String {
        let lines = self.stderr.lines().chain(self.stdout.lines()).map(|line| match line.split_once("Finished in ") {
            Some((indent, _)) => format!("{indent}Finished in [TIME]\n"),
            None => redacted(line) + "\n",
        });
        lines.chain([format!("exit {}\n", self.exit)]).collect()
    }

    pub fn json(&self) -> Vec<serde_json::Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    }
}

/// `"seconds":0.017` → `"seconds":[TIME]`.
pub fn redacted(line: &str) -> String {
    match line.split_once("\"seconds\":") {
        Some((before, after)) => format!(
            "{before}\"seconds\":[TIME]{}",
            after.trim_start_matches(|c: char| c.is_ascii_digit() || ".e-".contains(c))
        ),
        None => line.to_owned(),
    }
}

fn check(project: &Project, line: &str, expected: &Expect) {
    expected.assert_eq(&project.run(line).transcript());
}

#[test]
fn help_lists_the_commands_and_succeeds() {
    let ended = Project::new().run("--help");
    assert_eq!(ended.exit, 0);
    let commands: Vec<&str> = ended
        .stdout
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    expect![
        "build images emit test lint run plan why doctor mirror lock cache clean explain schema completions man help"
    ]
    .assert_eq(&commands.join(" "));
}

#[test]
fn a_mistyped_word_is_answered_with_the_nearest() {
    let project = Project::new();
    check(
        &project,
        "buidl",
        &expect![[r#"
            error[XT0201]: unrecognized subcommand 'buidl'
            Usage: cargo xtask [OPTIONS] <COMMAND>
            hint: a similar subcommand exists: 'build'
            exit 2
        "#]],
    );
    check(
        &project,
        "build --offlin",
        &expect![[r#"
            error[XT0201]: unexpected argument '--offlin' found
            Usage: cargo xtask build --offline [TARGET]...
            hint: a similar argument exists: '--offline'
            exit 2
        "#]],
    );
    check(
        &project,
        "build helo",
        &expect![[r#"
            error[XT0202]: there is no target `helo`; xtask.toml declares `hello`
            hint: did you mean `hello`?
            exit 2
        "#]],
    );
    check(
        &project,
        "plan --progress loud",
        &expect![[r#"
            error[XT0203]: --progress is `loud`; it must be one of: auto, tty, plain, quiet
            exit 2
        "#]],
    );
}

#[test]
fn a_bad_declaration_is_answered_with_file_line_key_and_suggestion() {
    let project = Project::new();
    project.folder.write("xtask.toml", &DECLARATION.replace("header", "heeder"));
    check(
        &project,
        "plan",
        &expect![[r#"
            error[XT0303]: unknown field `heeder`, expected one of `path`, `header`, `sources`, `environment`, `features`, `feature-of-setting`
             --> [REPO]/xtask.toml:6:1
              |
            6 | heeder = "hello/hello.h"
              | ^^^^^^
            hint: did you mean `header`?
            exit 3
        "#]],
    );
    project.folder.write("xtask.toml", &DECLARATION.replace("\"hello/hello.h\"", "3"));
    check(
        &project,
        "plan",
        &expect![[r#"
            error[XT0304]: invalid type: integer `3`, expected a string
             --> [REPO]/xtask.toml:6:10
              |
            6 | header = 3
              |          ^
            hint: write a text, in quotes: "…"
            exit 3
        "#]],
    );
    project.folder.write("xtask.toml", "[project\n");
    check(
        &project,
        "plan --format json",
        &expect![[r#"
            error[XT0302]: unclosed table, expected `]`
             --> [REPO]/xtask.toml:1:9
              |
            1 | [project
              |         ^
            {"code":"XT0302","event":"finding","fix":null,"message":"unclosed table, expected `]`","schema":1,"severity":"error","subject":"[REPO]/xtask.toml:1:9"}
            {"cache":{"hit":0,"ran":0,"restored":0},"event":"summary","exit_code":3,"hosts_contacted":[],"mirror":{},"ok":false,"schema":1,"seconds":[TIME]}
            exit 3
        "#]],
    );
}

#[test]
fn an_unknown_profile_is_answered_with_those_there_are() {
    let project = Project::new();
    check(
        &project,
        "mirror env --mirror nc",
        &expect![[r#"
            error[XT0308]: there is no mirror profile `nc`
            hint: did you mean `cn`? Known: cn, corporate, direct
            exit 3
        "#]],
    );
    check(
        &project,
        "mirror use lab",
        &expect![[r#"
            error[XT0308]: there is no mirror profile `lab`
            hint: known profiles: cn, corporate, direct; define one as [mirror.lab.…] in xtask.local.toml
            exit 3
        "#]],
    );
    assert!(!project.folder.0.join("xtask.local.toml").exists());
}

#[test]
fn what_the_launcher_contacted_is_in_the_summary() {
    let ended =
        Project::new().run_with("mirror list --format json", &[("XTASK_CONTACTED", "a.example=served dl.example")]);
    let summary: serde_json::Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(summary["hosts_contacted"], serde_json::json!(["a.example", "dl.example"]), "{summary}");
    assert_eq!(summary["mirror"]["crates"], "a.example");
}

#[test]
fn a_profile_of_ones_own_is_listed_shown_and_used() {
    let project = Project::new();
    let lab = "# mine\n[mirror.lab]\negress = \"mirrors-only\"\n[mirror.lab.python]\nlist = [\"https://me:secret@mirror.example/simple/\"]\n";
    project.folder.write("xtask.local.toml", lab);
    check(
        &project,
        "mirror list",
        &expect![[r#"
            no profile is in force: each tool does what you configured (`cargo xtask mirror use NAME` chooses one)
              cn           built-in, as of 2026-11: public mirrors in China
              corporate    built-in: your organisation's own repository manager, at XTASK_CORP_HOST
              direct       built-in: each tool's own default
              lab          xtask.local.toml
            exit 0
        "#]],
    );
    check(
        &project,
        "mirror show lab",
        &expect![[r#"
            egress          mirrors-only
            go.fallthrough  any-error
            go.sumdb        proxy
            hub.disable_xet true
            hub.send_token  false
            name            lab
            python.list     https://****@mirror.example/simple/
            python.from     xtask.local.toml
            exit 0
        "#]],
    );
    check(
        &project,
        "mirror use lab --dry-run",
        &expect![[r#"
            would write [REPO]/xtask.local.toml:
            mirror.use = "lab"
            # mine
            [mirror.lab]
            egress = "mirrors-only"
            [mirror.lab.python]
            list = ["https://me:secret@mirror.example/simple/"]

            exit 0
        "#]],
    );
    check(
        &project,
        "mirror use lab",
        &expect![[r#"
            xtask.local.toml now says: mirror lab
            exit 0
        "#]],
    );
    check(
        &project,
        "mirror list --format json",
        &expect![[r#"
            {"as_of":"2026-11","egress":"prefer-mirrors","event":"mirror","name":"cn","origins":["built-in"],"schema":1,"selected":false}
            {"egress":"mirrors-only","event":"mirror","name":"corporate","origins":["built-in"],"schema":1,"selected":false}
            {"egress":"direct","event":"mirror","name":"direct","origins":["built-in"],"schema":1,"selected":false}
            {"egress":"mirrors-only","event":"mirror","name":"lab","origins":["xtask.local.toml"],"schema":1,"selected":true}
            {"cache":{"hit":0,"ran":0,"restored":0},"event":"summary","exit_code":0,"hosts_contacted":[],"mirror":{},"ok":true,"schema":1,"seconds":[TIME]}
            exit 0
        "#]],
    );
    let text = fs::read_to_string(project.folder.0.join("xtask.local.toml")).unwrap();
    assert!(text.contains("# mine") && text.contains("[mirror.lab.python]"), "{text}");
}

#[test]
fn mirror_env_says_what_every_tool_would_get_and_no_secret() {
    let project = Project::new();
    project
        .folder
        .write("xtask.local.toml", "[mirror.lab.python]\nlist = [\"https://me:secret@mirror.example/simple/\"]\n");
    let ended = project.run("mirror env --mirror lab --egress mirrors-only --format json");
    assert_eq!(ended.exit, 0, "{}", ended.stderr);
    assert!(!ended.stdout.contains("secret") && !ended.stderr.contains("secret"), "{}", ended.stdout);
    let lines = ended.json();
    let tools = lines[0]["tools"].as_array().unwrap();
    let pip = tools.iter().find(|tool| tool["tool"] == "pip").unwrap();
    assert!(pip["set"]["PIP_INDEX_URL"].as_str().unwrap().ends_with("@mirror.example/simple/"), "{pip}");
}

/// By hand there is one endpoint a tool: its patience is not cut short, and it knows no private names.
#[test]
fn mirror_env_is_for_people_on_standard_output_with_what_they_must_know() {
    let project = Project::new();
    let lab = "[mirror.lab.python]\nlist = ['https://mirror.example/simple/']\n\
               private = [{ names = ['corp-*'], list = ['https://corp.example/simple/'] }]\n";
    project.folder.write("xtask.local.toml", lab);
    for line in ["mirror env --mirror lab", "mirror env --mirror lab --shell bash"] {
        let ended = project.run(line);
        assert_eq!((ended.exit, ended.stderr.as_str()), (0, ""), "{line}");
        for told in ["no fallback", "corp-* (python) are private", "PIP_INDEX_URL=https://mirror.example/simple/"] {
            assert!(ended.stdout.contains(told), "{line}: {told}: {}", ended.stdout);
        }
    }
    let cn = project.run("mirror env --mirror cn").stdout;
    assert!(cn.contains("xtask-mirror") && !cn.contains("CARGO_"), "{cn}");
}

#[test]
fn a_dry_run_shows_the_tools_that_it_would_start_and_hosts_by_what_comes_from_them() {
    let project = Project::new();
    let told = |line: &str| project.run(line).stderr;
    let (plan, all) = (told("build --mirror cn --dry-run"), told("build --mirror cn --dry-run -v"));
    let tools = |text: &str| {
        text.lines().filter_map(|it| it.trim().strip_prefix("tool ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(tools(&plan), ["cargo"], "{plan}");
    assert!(tools(&all).len() > 5, "{all}");
    let hosts: Vec<_> = plan.lines().skip_while(|line| !line.contains("may contact")).collect();
    assert!(hosts[0].starts_with(" may contact crates: rsproxy.cn, ") && hosts.len() > 1, "{plan}");
    assert!(hosts.iter().all(|line| line.len() <= 100), "{plan}");
}

#[test]
fn the_first_profile_named_wins_flag_before_variable_before_file() {
    let project = Project::new();
    project.folder.write(
        "xtask.local.toml",
        "mirror.use = \"cn\"\n[mirror.lab.python]\nlist = [\"https://mirror.example/simple/\"]\n",
    );
    let selected = |line: &str, environment: &[(&str, &str)]| {
        let lines = project.run_with(line, environment).json();
        lines.iter().find(|line| line["selected"] == true).map(|line| line["name"].as_str().unwrap().to_owned())
    };
    assert_eq!(selected("mirror list --format json", &[]).as_deref(), Some("cn"));
    assert_eq!(selected("mirror list --format json", &[("XTASK_MIRROR", "lab")]).as_deref(), Some("lab"));
    assert_eq!(
        selected("mirror list --format json --mirror direct", &[("XTASK_MIRROR", "lab")]).as_deref(),
        Some("direct")
    );
    assert_eq!(selected("mirror list --format json --mirror off", &[("XTASK_MIRROR", "lab")]), None);
}

#[test]
fn the_checkout_is_found_upwards_or_named() {
    let project = Project::new();
    let elsewhere = Folder::new();
    let outside = |line: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_conductor"))
            .args(line.split_whitespace())
            .current_dir(&elsewhere.0)
            .env_remove("XTASK_REPO_ROOT")
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (exit, text) = outside("mirror list");
    assert!(exit == Some(3) && text.contains("--repo DIR"), "{exit:?} {text}");
    assert_eq!(outside(&format!("mirror list --repo {}", project.folder.0.display())).0, Some(0));
    let (exit, text) = outside("mirror list --repo no-such-folder");
    assert!(exit == Some(3) && text.contains("no-such-folder"), "{exit:?} {text}");
}

#[test]
fn a_library_is_built_explained_and_found_again() {
    let project = Project::new();
    let steps = |ended: &Ended| -> Vec<String> {
        assert_eq!(ended.exit, 0, "{}", ended.stderr);
        let done = |line: &serde_json::Value| line["event"] == "step" && line["state"] == "done";
        ended
            .json()
            .iter()
            .filter(|line| done(line))
            .map(|line| format!("{} {}", line["id"], line["status"]).replace('"', ""))
            .collect()
    };
    let dry = project.run("build --dry-run --format json");
    assert_eq!(dry.json()[0]["steps"][0]["status"], "run", "{}", dry.stderr);
    assert!(
        !project.folder.0.join("dist").exists() && !project.folder.0.join("target").exists(),
        "a dry run wrote something"
    );
    assert_eq!(steps(&project.run("build --format json")), ["native-library:hello ran"]);
    let library = project.folder.0.join("dist/lib/libhello.so");
    assert!(library.is_file());
    assert_eq!(steps(&project.run("build --format json")), ["native-library:hello hit"]);
    fs::remove_dir_all(project.folder.0.join("dist")).unwrap();
    assert_eq!(steps(&project.run("build --format json")), ["native-library:hello restored"]);
    project.folder.write("hello/src/lib.rs", "#[unsafe(no_mangle)]\npub extern \"C\" fn hello() -> i32 { 43 }\n");
    let why = project.run("why hello");
    assert!(why.exit == 0 && why.stderr.contains("sources: src/lib.rs: "), "{}", why.stderr);
}
#[test]
fn old_variables_are_obeyed_or_refused_by_name_where_they_were_obeyed() {
    let project = Project::new();
    let plan = |words: &str, variables: &[(&str, &str)]| {
        let ended = project.run_with(&format!("plan --format json {words}"), variables);
        assert_eq!(ended.exit, 0, "{}", ended.stderr);
        ended.json()[0]["steps"][0]["key"].clone()
    };
    let flash_attn = ("ENABLE_FLASH_ATTN", "1");
    let ended = project.run_with("plan", &[flash_attn]);
    assert_eq!(ended.exit, 3);
    assert!(ended.stderr.contains("ENABLE_FLASH_ATTN=1 asks for feature set `flash-attn`"), "{}", ended.stderr);
    project.folder.write("xtask.toml", &format!("{DECLARATION}features = {{ cpu = [], flash-attn = [\"fast\"] }}\n"));
    let package = project.folder.0.join("hello/Cargo.toml");
    let text = fs::read_to_string(&package).unwrap().replace("[lib]", "[features]\nfast = []\n[lib]");
    fs::write(package, text).unwrap();
    let asked = plan("--features flash-attn", &[]);
    assert_eq!(plan("", &[flash_attn]), asked);
    assert_ne!(plan("--features cpu", &[flash_attn]), asked, "the flag beats the variable");
    assert_ne!(plan("", &[("ENABLE_FLASH_ATTN", "0")]), asked);

    let gpu = ("TEST_GPU_DEVICE", "1");
    plan("", &[gpu]);
    let ended = project.run_with("test", &[gpu]);
    assert_eq!(ended.exit, 3);
    assert!(ended.stderr.contains("unset TEST_GPU_DEVICE; write instead: CUDA_VISIBLE_DEVICES=N"), "{}", ended.stderr);

    let run = "\n[service.web]\nprogram = { binary = \"no\" }\nports = { http = 1 }\nready = { port = \"http\", path = \"/\" }\n[run]\nservice = \"web\"\nport = \"http\"\npath = \"/\"\nconfig = \"hello/hello.h\"\n[go-binary.no]\nmodule = \"go\"\nmain = \".\"\n";
    project.folder.write("xtask.toml", &format!("{DECLARATION}{run}"));
    let ended = project.run_with("run --dry-run", &[("CONFIG_FILE", "gone.yaml")]);
    assert_eq!(ended.exit, 3);
    assert!(ended.stderr.contains("CONFIG_FILE is `gone.yaml`, and there is no such file"), "{}", ended.stderr);
}

/// A cache in which a probe of profile `lab` is kept, `age` seconds old.
fn measured(project: &Project, age: u64) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let record = |ecosystem: &str, url: &str, verdict: &str, more: serde_json::Value| {
        let mut report = serde_json::json!({
            "ecosystem": ecosystem, "url": url, "origin": "mirror lab", "verdict": verdict, "message": "", "hosts": ["a"],
        });
        report.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::json!({ "profile": "lab", "at": now - age, "circumstances": "0".repeat(64), "report": report })
    };
    let good = serde_json::json!({
        "connect_milliseconds": 12, "first_byte_milliseconds": 34, "bytes_per_second": 2_097_152, "score_milliseconds": 5600,
        "message": "crate x 1.0.0",
    });
    let partial = serde_json::json!({ "message": "it leads away", "failed_host": "dl.example" });
    let records = [
        // As a later probe of crates alone leaves them behind.
        record("go", "https://a.example/go", "dead", serde_json::json!({ "message": "no connection" })),
        record("crates", "https://a.example/index/", "partial", partial),
        record("crates", "https://b.example/", "ok", good),
    ];
    let text = serde_json::json!({ "version": 1, "measured": records }).to_string();
    project.folder.write("cache/measured-v1.json", &text);
    let lab = "\n[mirror.lab.crates]\nlist = [\"sparse+https://a.example/index/\"]\n";
    project.folder.write("xtask.toml", &format!("{DECLARATION}{lab}"));
}

#[test]
fn what_was_measured_is_shown_with_its_age_where_nothing_may_be_contacted() {
    let project = Project::new();
    measured(&project, 600);
    let cache = project.folder.0.join("cache");
    let environment = [("XTASK_CACHE_DIR", cache.to_str().unwrap())];
    let ended = project.run_with("mirror probe lab --offline", &environment);
    expect![[r#"
        ecosystem  endpoint                  verdict  connect  first byte      speed  score     age
        crates     https://a.example/index/  partial        -           -          -      -  10 min
                   it leads away; failed host: dl.example
                   https://b.example/        ok         12 ms       34 ms  2.0 MiB/s  5.6 s  10 min
        go         https://a.example/go      dead           -           -          -      -  10 min
                   no connection

        can serve: crates 1/2, go 0/1
        score: the time that all downloads of this project would take from there
    "#]]
    .assert_eq(&ended.stdout);
    let ended = project.run_with("mirror probe lab --offline --ecosystem go --format json", &environment);
    let probes: Vec<_> = ended.json().into_iter().filter(|it| it["event"] == "probe").collect();
    assert_eq!(probes.len(), 1, "{}", ended.stdout);
    assert_eq!((&probes[0]["verdict"], &probes[0]["cached"]), (&"dead".into(), &true.into()));
    assert!((600..660).contains(&probes[0]["age_seconds"].as_u64().unwrap()));
    let ended = project.run_with("mirror probe lab --ecosystem crate", &environment);
    assert_eq!(ended.exit, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("there are crates, go"), "{}", ended.stderr);
}
