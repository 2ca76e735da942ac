//! `completions SHELL` and `man`: what shells and `man` read, generated from the types of the command line and never by hand.
//!
//! A script completes both `cargo-xtask …` and, where the shell lets it, `cargo xtask …`. Names of targets, suites, linters, pins and
//! profiles are those of the project at the time of generation.

use crate::cli::{self, Cli, Shell};
use crate::error::{Error, Result};
use crate::files;
use crate::mirror::{Layer, Profiles};
use crate::project::Project;
use crate::report::Sink;
use crate::settings::Settings;
use crate::tr;
use clap::CommandFactory as _;
use clap::builder::PossibleValuesParser;
use serde_json::json;

/// As cargo calls a program for `cargo xtask`; also what zsh and fish look for.
const PROGRAM: &str = "cargo-xtask";

/// Hands `cargo xtask …` over and leaves every other word to the completion that cargo had before.
const BASH: &str = r#"
_cargo_with_xtask() {
    if [[ ${COMP_WORDS[1]} == xtask && $COMP_CWORD -gt 1 ]]; then
        COMP_WORDS=("cargo-xtask" "${COMP_WORDS[@]:2}")
        COMP_CWORD=$((COMP_CWORD - 1))
        _cargo__xtask "cargo-xtask" "$2" "${COMP_WORDS[COMP_CWORD - 1]}"
    elif [[ -n $_cargo_without_xtask ]]; then
        "$_cargo_without_xtask" "$@"
    fi
}
_cargo_without_xtask=$(complete -p cargo 2>/dev/null | sed -n 's/.*-F \([^ ]*\) .*/\1/p')
[[ $_cargo_without_xtask == _cargo_with_xtask ]] && _cargo_without_xtask=
complete -F _cargo_with_xtask -o bashdefault -o default cargo
"#;

const FISH: &str = r#"
complete -c cargo -n '__fish_seen_subcommand_from xtask' -f -a '(complete -C "cargo-xtask "(string join " " -- (commandline -opc)[3..] (commandline -ct)))'
"#;

pub fn completions(settings: &Settings, project: &Project, shell: Shell) -> Result<()> {
    let mut command = with_names(Cli::command().name(PROGRAM).bin_name(PROGRAM), &names(settings, project)?);
    let mut bytes = Vec::new();
    let mut write = |shell| clap_complete::generate(shell, &mut command, PROGRAM, &mut bytes);
    let more: &str = match shell {
        Shell::Bash => {
            write(clap_complete::Shell::Bash);
            BASH
        }
        Shell::Zsh => {
            // cargo's own completion calls `_cargo-xtask` for us.
            write(clap_complete::Shell::Zsh);
            ""
        }
        Shell::Fish => {
            write(clap_complete::Shell::Fish);
            FISH
        }
        Shell::Powershell => {
            write(clap_complete::Shell::PowerShell);
            ""
        }
        Shell::Elvish => {
            write(clap_complete::Shell::Elvish);
            ""
        }
    };
    let mut text = String::from_utf8_lossy(&bytes).into_owned() + more;
    // clap_complete 4.6 names the branches of a program with a hyphen in two ways, so bash would reach none of them.
    text = text.replace("cargo__subcmd__xtask", "cargo__xtask");
    if shell == Shell::Fish {
        text += &positional(&[], &command);
    }
    super::print(settings, "completions", &json!({ "text": text }), &text)
}

/// Value name of an argument → what may stand there in this project.
fn names(settings: &Settings, project: &Project) -> Result<Vec<(&'static str, Vec<String>)>> {
    let it = &project.declaration;
    let layer =
        |origin: &str, section: &crate::mirror::Section| Layer { origin: origin.to_owned(), section: section.clone() };
    let layers = vec![layer("xtask.local.toml", &settings.local.mirror), layer("xtask.toml", &it.mirror)];
    let profiles = Profiles::new(layers, Default::default())
        .map_err(|error| Error::bug(tr!("the built-in profiles")).because(error))?;
    let pins = it.wheel_set.keys().chain(it.model.keys()).cloned().chain(["go", "rustup"].map(str::to_owned));
    Ok(vec![
        (cli::TARGET, it.native_library.keys().chain(it.go_binary.keys()).cloned().collect()),
        (cli::SUITE, it.suite.keys().cloned().collect()),
        (cli::LINTER, it.linter.keys().cloned().collect()),
        (cli::PIN, pins.collect()),
        (cli::PROFILE, profiles.names().into_iter().map(str::to_owned).collect()),
        (cli::FEATURES, it.native_library.values().flat_map(|library| library.features.keys().cloned()).collect()),
    ])
}

/// Gives every argument, of commands below too, the values that its value name stands for: `NAME|auto|off` is the project's names and
/// two words.
fn with_names(command: clap::Command, names: &[(&'static str, Vec<String>)]) -> clap::Command {
    let command = command.mut_args(|argument| {
        let Some(value) = argument.get_value_names().and_then(|names| names.first()).map(ToString::to_string) else {
            return argument;
        };
        let words = value.split('|').flat_map(|word| match names.iter().find(|(name, _)| *name == word) {
            Some((_, known)) => known.clone(),
            None if word.chars().all(|c| c.is_ascii_lowercase() || c == '-') => vec![word.to_owned()],
            None => Vec::new(),
        });
        let words: Vec<String> = words.collect();
        if words.is_empty() { argument } else { argument.value_parser(PossibleValuesParser::new(words)) }
    });
    command.mut_subcommands(|below| with_names(below, names))
}

/// What clap's script for fish leaves out: the values of arguments that are no flags.
fn positional(words: &[&str], command: &clap::Command) -> String {
    let values: Vec<String> = command
        .get_positionals()
        .flat_map(|argument| argument.get_possible_values())
        .map(|value| value.get_name().to_owned())
        .collect();
    let mut lines = String::new();
    if !values.is_empty() {
        let seen: Vec<String> = words.iter().map(|word| format!("__fish_seen_subcommand_from {word}")).collect();
        lines = format!("complete -c {PROGRAM} -n '{}' -f -a '{}'\n", seen.join("; and "), values.join(" "));
    }
    for below in command.get_subcommands() {
        lines += &positional(&[words, &[below.get_name()]].concat(), below);
    }
    lines
}

/// One page a command: `cargo-xtask.1`, `cargo-xtask-build.1`, … Without a folder the first goes to standard output.
pub fn man(settings: &Settings, sink: &Sink, args: &cli::Man) -> Result<()> {
    let pages = pages()?;
    let Some(folder) = &args.output else {
        let text = &pages[0].1;
        return super::print(settings, "man", &json!({ "text": text }), text);
    };
    if !settings.dry_run {
        files::create_folder(folder)?;
    }
    for (name, text) in &pages {
        let path = folder.join(name);
        if settings.dry_run {
            sink.note(tr!("would write {path}", path = path.display()));
        } else {
            files::write(&path, text.as_bytes())?;
        }
    }
    sink.note(tr!(
        "{count} pages; `man -l {first}` shows the first",
        count = pages.len(),
        first = folder.join(&pages[0].0).display()
    ));
    Ok(())
}

/// File name and text of each page, the main one first.
fn pages() -> Result<Vec<(String, String)>> {
    let mut pages = Vec::new();
    let mut open = vec![(PROGRAM.to_owned(), Cli::command().name(PROGRAM).bin_name("cargo xtask"))];
    while let Some((name, mut command)) = open.pop() {
        command = command.name(name.clone());
        let mut bytes = Vec::new();
        clap_mangen::Man::new(command.clone())
            .title(name.to_uppercase())
            .render(&mut bytes)
            .map_err(|error| Error::bug(tr!("cannot write a manual page")).because(error))?;
        let below = command.get_subcommands().map(|it| (format!("{name}-{}", it.get_name()), it.clone()));
        open.extend(below.filter(|(_, it)| !it.is_hide_set()));
        pages.push((format!("{name}.1"), String::from_utf8_lossy(&bytes).into_owned()));
    }
    Ok(pages)
}
