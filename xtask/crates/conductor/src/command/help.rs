//! `help`: the help of a command, as `--help` after it, and where each target of the old Makefiles went. Needs no project.

use super::habits::{self, Answer};
use crate::cli::{self, Cli};
use crate::document::did_you_mean;
use crate::error::{Code, Error, Result};
use crate::settings::Format;
use crate::tr;
use clap::CommandFactory as _;
use serde_json::json;
use std::fmt::Write as _;

/// The help of the command that `words` name.
fn of_command(words: &[String]) -> Result<String> {
    let mut command = Cli::command();
    command.build();
    let mut found = &mut command;
    for word in words {
        let names: Vec<String> = found.get_subcommands().map(|it| it.get_name().to_owned()).collect();
        let below = found.get_bin_name().unwrap_or("cargo xtask").to_owned();
        found = found.find_subcommand_mut(word).ok_or_else(|| {
            let error = Error::new(Code::UnknownName, tr!("`{below}` has no command `{word}`", below, word));
            did_you_mean(error, word, names.iter().map(String::as_str))
        })?;
    }
    Ok(found.render_long_help().to_string())
}

fn from_make(format: Format, target: Option<&str>) -> Result<()> {
    let Some(target) = target else {
        return super::print_as(format, "habits", &json!({ "targets": all() }), &text());
    };
    let answer = habits::answer(target).ok_or_else(|| {
        let error =
            Error::new(Code::UnknownName, tr!("no Makefile of the old pipeline had a target `{target}`", target))
                .hint(tr!("`cargo xtask help --from-make` lists them all"));
        did_you_mean(error, target, habits::targets().map(|(_, name, _)| name))
    })?;
    let text = format!("make {target} → {}", answer.text());
    super::print_as(format, "habits", &json!({ "targets": [entry(target, answer)] }), &text)
}

fn entry(target: &str, answer: Answer) -> serde_json::Value {
    let (state, text, note) = match answer {
        Answer::Now(command, note) => ("now", command, note),
        Answer::Coming(command) => ("coming", command, ""),
        Answer::Never(reason) => ("none", reason, ""),
    };
    json!({ "target": target, "state": state, "answer": text, "note": note })
}

fn all() -> Vec<serde_json::Value> {
    habits::targets().map(|(_, target, answer)| entry(target, answer)).collect()
}

/// Groups of targets, each with its answer below those that share it.
fn text() -> String {
    let mut text = String::new();
    for (group, rows) in habits::GROUPS {
        let _ = writeln!(text, "{group}");
        for (names, answer) in *rows {
            let names = names.split_whitespace().collect::<Vec<_>>().join(", ");
            let _ = writeln!(text, "  {names}\n      {}", answer.text());
        }
        text.push('\n');
    }
    text
}

pub fn help(args: &cli::Help, format: Format) -> Result<()> {
    match &args.from_make {
        Some(target) => from_make(format, target.as_deref()),
        None => {
            let text = of_command(&args.command)?;
            super::print_as(format, "help", &json!({ "text": text }), &text)
        }
    }
}
