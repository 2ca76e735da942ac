//! What the tool says of itself: help, examples, manual pages, completions, and where old names went.
//!
//! Owns: that every word of it is true of the real command line, and that scripts work in the shells that are here. Never: a list of
//! commands of its own; clap is asked. Rules: `cli.rs`, `command/habits.rs`.

use crate::{Folder, read, repository, repository_files, skip};
use clap::{CommandFactory as _, Parser as _};
use conductor::cli::Cli;
use conductor::command::habits::{Answer, PARITY};
use std::process::{Command, Output};

fn conductor(words: &[&str]) -> Output {
    let cache = Folder::new();
    Command::new(env!("CARGO_BIN_EXE_conductor"))
        .args(words)
        .current_dir(repository())
        .env("XTASK_CACHE_DIR", &cache.0)
        .env_remove("XTASK_MIRROR")
        .env("XTASK_LANG", "en")
        .output()
        .unwrap()
}

fn stdout(words: &[&str]) -> String {
    let output = conductor(words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every command with its words after `cargo xtask`, those below others too.
fn commands() -> Vec<(Vec<String>, clap::Command)> {
    let mut found = Vec::new();
    let mut open = vec![(Vec::new(), Cli::command())];
    while let Some((words, command)) = open.pop() {
        for below in command.get_subcommands() {
            let mut words = words.clone();
            words.push(below.get_name().to_owned());
            open.push((words, below.clone()));
        }
        found.push((words, command));
    }
    assert!(found.len() > 20, "clap told {} commands", found.len());
    found
}

/// The lines below `Examples:` that are commands, without the remark after two blanks.
fn examples(command: &clap::Command) -> Vec<String> {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|line| line.starts_with("cargo xtask"));
    lines.map(|line| line.split("  ").next().unwrap().to_owned()).collect()
}

#[test]
fn every_command_and_every_argument_has_help_and_every_command_two_examples() {
    let mut missing = Vec::new();
    for (words, command) in commands() {
        let name = words.join(" ");
        if command.get_about().is_none() {
            missing.push(format!("`{name}` does not say what it does"));
        }
        if examples(&command).len() < 2 {
            missing.push(format!("`{name}` has fewer than two examples"));
        }
        let arguments = command.get_arguments().filter(|it| it.get_help().is_none());
        missing.extend(arguments.map(|it| format!("`{name}`: {} has no help", it.get_id())));
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn every_example_is_understood_and_what_is_free_runs() {
    let mut ran = 0;
    for (name, command) in commands() {
        for example in examples(&command) {
            let words: Vec<&str> = example.strip_prefix("cargo ").unwrap().split_whitespace().collect();
            let words = words.iter().position(|word| *word == ">").map_or(&words[..], |at| &words[..at]);
            assert!(Cli::try_parse_from(words).is_ok(), "`{example}`: {}", Cli::try_parse_from(words).unwrap_err());
            assert!(
                name.is_empty() || words[1..].starts_with(&name.iter().map(String::as_str).collect::<Vec<_>>()),
                "`{example}` is of another command than `{}`",
                name.join(" ")
            );
            let (first, dry) = (words[1], words.contains(&"--dry-run"));
            let free = matches!(first, "plan" | "why" | "schema" | "help" | "completions")
                || (first == "mirror" && !matches!(words[2], "use" | "probe"))
                || (first == "man" && words.len() == 2)
                || (first == "cache" && (words[2] == "stats" || dry));
            let mut words = words[1..].to_vec();
            if !free && !dry && matches!(first, "build" | "test" | "lint" | "run") {
                words.push("--dry-run");
            }
            if free
                || (matches!(first, "build" | "test" | "lint" | "run" | "mirror" | "clean" | "man")
                    && words.contains(&"--dry-run"))
            {
                let output = conductor(&words);
                assert!(output.status.success(), "`{example}`: {}", String::from_utf8_lossy(&output.stderr));
                ran += 1;
            }
        }
    }
    assert!(ran > 30, "only {ran} examples ran");
}

#[test]
fn help_of_a_command_is_what_the_flag_shows_and_needs_no_project() {
    let nowhere = Folder::new();
    for words in [&["build"][..], &["mirror", "use"], &[]] {
        let run = |words: Vec<&str>| {
            let output =
                Command::new(env!("CARGO_BIN_EXE_conductor")).args(words).current_dir(&nowhere.0).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(run([&["help"], words].concat()), run([words, &["--help"]].concat()));
    }
    let output = conductor(&["help", "buidl"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("did you mean `build`?"));
}

#[test]
fn an_old_target_leads_to_its_command_and_a_mistyped_one_to_the_nearest() {
    assert!(stdout(&["help", "--from-make", "run-router"]).starts_with("make run-router → cargo xtask run"));
    assert!(
        stdout(&["help", "--from-make", "docker-push-extproc"]).contains("coming: cargo xtask images --to registry")
    );
    let all = stdout(&["help", "--from-make"]);
    assert!(
        ["helm-rollback", "test-rust-flash-attn-module", "src/vllm-sr:docker-buildx-push"]
            .iter()
            .all(|it| all.contains(it))
    );
    let output = conductor(&["help", "--from-make", "rnu-router"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("did you mean `run-router`?"));
    let line = stdout(&["help", "--from-make", "vet", "--format", "json"]);
    let line: serde_json::Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert_eq!(line["targets"][0]["answer"], "cargo xtask lint vet");
}

#[test]
fn every_capability_that_exists_has_a_test_that_exists() {
    let sources: String = repository_files()
        .iter()
        .filter(|file| file.extension().is_some_and(|it| it == "rs" || it == "py"))
        .map(read)
        .collect();
    for row in PARITY {
        let exists = matches!(row.answer, Answer::Now(..));
        assert_eq!(exists, !row.test.is_empty(), "{}: a test belongs to what exists, and to nothing else", row.id);
        let defined = ["fn", "def"].iter().any(|word| sources.contains(&format!("{word} {}(", row.test)));
        assert!(!exists || defined, "{} ({}): there is no test `{}`", row.id, row.what, row.test);
    }
}

/// What a shell offers after `words`, asked through the script as a person would have it installed; `None` without that shell.
fn offered(shell: &str, words: &str) -> Option<Vec<String>> {
    let folder = Folder::new();
    folder.write("script", &stdout(&["completions", shell]));
    let script = folder.0.join("script").display().to_string();
    let program = match shell {
        "bash" => format!(
            "source '{script}'; COMP_WORDS=({words}); [[ '{words}' == *' ' ]] && COMP_WORDS+=(''); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             function=$(complete -p \"${{COMP_WORDS[0]}}\" | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); \
             $function \"${{COMP_WORDS[0]}}\" \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        ),
        "fish" => format!("source '{script}'; complete -C '{words}'"),
        _ => panic!("{shell}"),
    };
    let mut command = Command::new(shell);
    if shell == "bash" {
        command.args(["--noprofile", "--norc"]);
    }
    let output = match command.arg("-c").arg(program).env("HOME", &folder.0).output() {
        Ok(output) => output,
        Err(_) => {
            skip("shells", &format!("there is no {shell}"));
            return None;
        }
    };
    assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect())
}

#[test]
fn shells_complete_commands_flags_values_and_names_of_this_project() {
    for shell in ["bash", "fish"] {
        for (words, expected) in [
            ("cargo-xtask bui", &["build"][..]),
            ("cargo xtask bui", &["build"]),
            ("cargo xtask build rou", &["router"]),
            ("cargo xtask test end", &["end-to-end"]),
            ("cargo xtask lint cli", &["clippy"]),
            ("cargo xtask mirror use ", &["cn", "direct", "off"]),
            ("cargo xtask plan --format js", &["json"]),
            ("cargo xtask build --offl", &["--offline"]),
        ] {
            let Some(offered) = offered(shell, words) else { break };
            for word in expected {
                assert!(offered.iter().any(|it| it == word), "{shell}: `{words}` offers {offered:?}, not {word}");
            }
        }
    }
}

/// zsh completes only in a terminal, so its own reader is asked: the script loads, and `_cargo-xtask` is what cargo's completion calls.
#[test]
fn zsh_loads_the_script_as_a_completion_of_cargo_xtask() {
    let folder = Folder::new();
    folder.write("functions/_cargo-xtask", &stdout(&["completions", "zsh"]));
    let program = format!(
        "fpath=('{}' $fpath); autoload -Uz compinit; compinit -u -d '{}'; print ${{_comps[cargo-xtask]}}; autoload +X -Uz _cargo-xtask && print loaded",
        folder.0.join("functions").display(),
        folder.0.join("dump").display()
    );
    let Ok(output) = Command::new("zsh").args(["-f", "-c", &program]).env("HOME", &folder.0).output() else {
        return skip("shells", "there is no zsh");
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text, "_cargo-xtask\nloaded\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn there_is_a_script_for_every_shell_that_is_offered() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = stdout(&["completions", shell]);
        assert!(["cargo-xtask", "offline"].iter().all(|it| script.contains(it)), "{shell}");
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = Folder::new();
    stdout(&["man", "--output", &folder.0.display().to_string()]);
    for (words, command) in commands() {
        let name = ["cargo-xtask".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join("-");
        let page = std::fs::read_to_string(folder.0.join(format!("{name}.1"))).unwrap();
        assert!(
            page.contains(".TH") && page.contains(&command.get_about().unwrap().to_string()[..8]),
            "{name}: {page}"
        );
    }
    assert!(stdout(&["man"]).contains(".TH CARGO-XTASK 1"));
}
