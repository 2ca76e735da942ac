//! The documents, held against the program.
//!
//! Owns: that what README.md, ARCHITECTURE.md and docs/ say can be typed, opened and found. `sh` blocks hold commands: here each is
//! parsed by the real command line, and what costs nothing is executed (with `--dry-run` where it would change something). The
//! README's test command is executed for real by `.ci/run`. Other blocks are `text`: output, and what needs root.

use crate::{Folder, read, repository, repository_files};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn documents() -> Vec<PathBuf> {
    let ours = |file: &PathBuf| {
        file.extension().is_some_and(|it| it == "md") && (file.components().count() == 1 || file.starts_with("docs"))
    };
    let documents: Vec<_> = repository_files().into_iter().filter(ours).collect();
    for name in ["README.md", "README.zh.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        assert!(documents.iter().any(|it| it == Path::new(name)), "there is no {name}");
    }
    documents
}

/// The lines of all blocks fenced as `language`, comments at their ends cut off.
fn lines(text: &str, language: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(fence) = line.trim_start().strip_prefix("```") {
            inside = !inside && fence == language;
        } else if inside {
            found.extend(
                line.split("  #")
                    .next()
                    .map(str::trim)
                    .filter(|line| !line.is_empty() && !line.starts_with('#'))
                    .map(str::to_owned),
            );
        }
    }
    found
}

fn conductor(arguments: &[&str]) -> Output {
    let cache = Folder::new();
    Command::new(env!("CARGO_BIN_EXE_conductor"))
        .args(arguments)
        .current_dir(repository())
        .env("XTASK_CACHE_DIR", &cache.0)
        .env_remove("XTASK_MIRROR")
        .env("XTASK_LANG", "en")
        .output()
        .unwrap()
}

#[test]
fn every_command_in_the_documents_is_one() {
    let mut count = 0;
    for document in documents() {
        for line in lines(&read(&document), "sh") {
            // What a shell takes over from a command of ours counts as the command.
            let taken = line.strip_prefix("eval \"$(").and_then(|rest| rest.strip_suffix(")\"")).unwrap_or(&line);
            let words: Vec<&str> = taken.split_whitespace().collect();
            let (output, what) = match words.as_slice() {
                ["cargo", "xtask", arguments @ ..] => (understood(arguments), "is not accepted"),
                [program @ "tools/bench/run", arguments @ ..] => {
                    let help = Command::new(repository().join(program)).arg("--help").output().unwrap();
                    let text = String::from_utf8_lossy(&help.stdout).into_owned();
                    for word in arguments.iter().filter(|word| word.parse::<u32>().is_err()) {
                        assert!(text.contains(word), "{}: `{line}`: {program} knows no `{word}`", document.display());
                    }
                    (help, "has no help")
                }
                _ => panic!(
                    "{}: `{line}`: blocks of `sh` hold commands of this repository; fence the rest as `text`",
                    document.display()
                ),
            };
            assert!(
                output.status.success(),
                "{}: `{line}` {what}:\n{}",
                document.display(),
                String::from_utf8_lossy(&output.stderr)
            );
            count += 1;
        }
    }
    assert!(count >= 8, "only {count} commands were found");
}

/// What a reader types and writes, and the number of chapters. (A `text` block is output too, which has a language.)
fn typed(document: &str) -> (Vec<String>, usize) {
    let text = read(document);
    let programs = ["cargo ", "sudo ", "rustup ", "curl "];
    let mut typed = [lines(&text, "sh"), lines(&text, "toml")].concat();
    typed.extend(lines(&text, "text").into_iter().filter(|line| programs.iter().any(|it| line.starts_with(it))));
    (typed, text.lines().filter(|line| line.starts_with("## ")).count())
}

#[test]
fn both_readmes_have_the_same_commands_settings_and_chapters() {
    let english = typed("README.md");
    assert!(english.0.len() > 20 && english.1 > 5, "the blocks were not found: {english:?}");
    assert_eq!(typed("README.zh.md"), english);
}

/// Documented commands that cost too much for here: where each is executed as it stands, and what stands there.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("run --once examples/chat.json", ".ci/run", "cargo xtask run --once examples/chat.json"),
    ("test", ".ci/run", "cargo xtask test --require all"),
    ("test rust go", ".ci/run", "cargo xtask test --require all"),
    ("lint", ".ci/run", "cargo xtask lint --require all"),
    ("clean", "tests/faults/test_kill.py", "\"clean\""),
    ("build --offline", "tests/test_build.py", "\"--offline\", wrapper=unplugged()"),
    ("mirror probe cn", "xtask/crates/conductor/tests/it/cli.rs", "mirror probe lab"),
    ("doctor", "tests/test_doctor.py", "\"doctor\""),
    ("images", "tests/test_images.py", "\"images\", \"--repo\""),
    ("images extproc --to tar:extproc.tar", "tests/test_images.py", "f\"tar:{cls.archive}\""),
    ("images --to docker", "tests/test_engine.py", "\"--to\", \"docker\""),
    (
        "images --builder docker --to docker",
        "tests/test_builders.py",
        "\"--builder\", \"docker\", \"--to\", \"docker\"",
    ),
    (
        "images --to registry:registry.example/team --tag v1",
        "tests/test_push.py",
        "/team\", \"--tag\", \"v1\", images=()",
    ),
    ("emit dockerfile --mirror cn", "tests/test_source.py", "\"emit\", \"dockerfile\", \"--mirror\""),
    ("mirror use cn", "xtask/crates/conductor/tests/it/cli.rs", "mirror use"),
];

/// Executes what is free as it stands, what is executed elsewhere in its dry form; anything else is a document's promise that nobody
/// keeps.
fn understood(arguments: &[&str]) -> Output {
    let free = matches!(arguments, ["plan" | "why" | "schema" | "help" | "explain" | "completions", ..])
        || matches!(arguments, ["mirror", "list" | "show" | "env", ..])
        // In a cache of its own.
        || matches!(arguments, ["cache", ..])
        || arguments.contains(&"--dry-run");
    if free {
        return conductor(arguments);
    }
    let line = arguments.join(" ");
    let (_, place, words) = ELSEWHERE
        .iter()
        .find(|(documented, ..)| *documented == line)
        .unwrap_or_else(|| panic!("`cargo xtask {line}` is documented and executed nowhere: add where"));
    assert!(read(place).contains(words), "{place} no longer executes `{words}`");
    match arguments {
        ["build" | "run" | "test" | "lint", ..] => conductor(&[arguments, &["--dry-run"]].concat()),
        _ => conductor(&[arguments, &["--help"]].concat()),
    }
}

/// `text` blocks hold output, and commands for which there is a reason not to run them: here is each.
#[test]
fn a_command_in_a_block_that_nobody_executes_has_a_reason() {
    const REASONS: &[(&str, &str)] = &[
        ("sudo apt-get install -y git gcc libc6-dev python3 rustup", "needs root"),
        ("rustup default stable", "changes the reader's toolchain"),
        ("cargo xtask test faults", "a part of what `.ci/run` runs, with how to run it otherwise below"),
        ("cargo xtask run", "never ends by itself; tests/test_stack.py starts and ends it"),
        ("curl -s http://127.0.0.1:8801/", "needs the stack of the line above; tests/test_stack.py sends it"),
    ];
    let programs = ["cargo ", "sudo ", "curl ", "rustup ", "git ", "go ", "make ", "$ "];
    let mut without = Vec::new();
    for document in documents() {
        let text = read(&document);
        for line in lines(&text, "text") {
            let known = REASONS.iter().any(|(start, _)| line.starts_with(start));
            // A picture of processes is no command.
            if programs.iter().any(|it| line.starts_with(it)) && !known && !line.contains('▶') {
                without.push(format!("{}: {line}", document.display()));
            }
        }
    }
    assert!(without.is_empty(), "fence as `sh`, or say why not: {}", without.join("\n"));
}

#[test]
fn every_link_and_every_path_in_the_documents_leads_somewhere() {
    let mut wrong = Vec::new();
    for document in documents() {
        let text = read(&document);
        let folder = document.parent().unwrap();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let links = links
            .filter(|link| !link.contains("://") && !link.starts_with('#'))
            .map(|link| folder.join(link.split('#').next().unwrap()));
        // In prose a path of ours is quoted and has a slash.
        let rooms = [
            "xtask/",
            "docs/",
            "tools/",
            "src/semantic-router/",
            "candle-binding/",
            "examples/",
            "config/",
            "scripts/",
        ];
        let quoted = text.split('`').skip(1).step_by(2).filter(|word| rooms.iter().any(|room| word.starts_with(room)));
        let quoted = quoted.filter(|word| !word.contains([' ', '*', '{', '<', 'N'])).map(PathBuf::from);
        wrong.extend(
            links
                .chain(quoted)
                .filter(|path| !repository().join(path).exists())
                .map(|path| format!("{}: {}", document.display(), path.display())),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_invariant_names_a_test_that_exists() {
    let text = read("ARCHITECTURE.md");
    let table = text.split("\n## Invariants\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
    assert!(rows.len() >= 10, "the table of invariants was not found");
    let sources: String = repository_files()
        .iter()
        .filter(|file| file.extension().is_some_and(|it| it == "rs" || it == "py" || it == "go"))
        .map(read)
        .collect();
    for row in rows {
        let keeper = row.trim_end_matches('|').rsplit('|').next().unwrap();
        let names: Vec<&str> = keeper.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test keeps this: {row}");
        for name in names {
            let defined = ["fn", "def", "func"].iter().any(|word| sources.contains(&format!("{word} {name}(")));
            assert!(defined, "there is no test `{name}`: {row}");
        }
    }
}

#[test]
fn the_code_map_has_every_room_of_the_conductor() {
    let map = read("ARCHITECTURE.md");
    let source = Path::new("xtask/crates/conductor/src");
    let missing: Vec<String> = repository_files()
        .iter()
        .filter_map(|file| file.strip_prefix(source).ok())
        .map(|file| file.iter().next().unwrap().to_string_lossy().into_owned())
        .filter(|room| {
            room != "lib.rs" && !map.contains(&format!("{room}{}", if room.ends_with(".rs") { "" } else { "/" }))
        })
        .collect();
    assert!(missing.is_empty(), "not in ARCHITECTURE.md: {missing:?}");
    // Two that change it beside each other must not leave a room twice.
    let rooms = |line: &str| {
        let first = line.strip_prefix("| ")?.split(" | ").next()?.to_owned();
        Some(first.split(", ").filter(|it| it.starts_with('`')).map(str::to_owned).collect::<Vec<_>>())
    };
    let code_map = map.split("\n## ").find(|chapter| chapter.starts_with("Code map")).unwrap();
    let mut seen = BTreeSet::new();
    let twice: Vec<String> =
        code_map.lines().filter_map(rooms).flatten().filter(|room| !seen.insert(room.clone())).collect();
    assert!(twice.is_empty(), "twice in ARCHITECTURE.md: {twice:?}");
}

#[test]
fn every_profile_in_the_documents_is_accepted() {
    let mut count = 0;
    for document in documents() {
        for block in read(&document).split("\n```toml\n").skip(1) {
            let project = Folder::new();
            project.write("xtask.toml", "[project]\nname = \"demo\"\n");
            project.write("xtask.local.toml", block.split("\n```").next().unwrap());
            let output = conductor(&["mirror", "env", "--repo", &project.0.to_string_lossy()]);
            assert!(output.status.success(), "{}: {}", document.display(), String::from_utf8_lossy(&output.stderr));
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                told.contains("packages.example.com"),
                "{}: the profile is not in force:\n{told}",
                document.display()
            );
            count += 1;
        }
    }
    assert!(count > 0, "no profile was found");
}
