//! `doctor [--fix] [GROUP…]`: looks, tells, and repairs what a command of ours repairs without a loss.

use super::{lock, print, print_as};
use crate::cli;
use crate::doctor::{self, Finding, Fix, Group, Severity, Style, gather};
use crate::document::did_you_mean;
use crate::error::{Code, Error, Result};
use crate::process::{self, Deadline, Invocation};
use crate::project::Project;
use crate::report::Sink;
use crate::settings::{Format, Settings, env};
use crate::tr;
use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};

pub fn doctor(settings: &Settings, project: &Project, sink: &Sink, args: &cli::Doctor) -> Result<()> {
    let groups: BTreeSet<Group> = match args.groups.is_empty() {
        true => Group::ALL.into(),
        false => args.groups.iter().map(|name| named(name)).collect::<Result<_>>()?,
    };
    let drift = lock::drift(settings, project)?;
    let findings = doctor::examine(&gather::gather(settings, project, &groups, drift)?);
    tell(settings, &findings)?;
    if args.fix {
        return repair(settings, sink, &findings, args.yes);
    }
    verdict(&findings)
}

fn named(name: &str) -> Result<Group> {
    Group::named(name).ok_or_else(|| {
        let known = Group::ALL.map(Group::name);
        let message = tr!("there is no group `{name}`; there are {known}", name, known = known.join(", "));
        did_you_mean(Error::new(Code::UnknownName, message), name, known)
    })
}

fn tell(settings: &Settings, findings: &[Finding]) -> Result<()> {
    if settings.format == Format::Json {
        return findings.iter().try_for_each(|finding| print(settings, "finding", &finding.reported(), ""));
    }
    let encoding = env::CHARACTERS.iter().find_map(|name| settings.environment.get(name)).unwrap_or_default();
    let unicode = encoding.to_ascii_lowercase().replace('-', "").contains("utf8");
    let style = Style { unicode, color: settings.color && std::io::stdout().is_terminal() };
    print_as(Format::Human, "", &(), &doctor::text(findings, style, settings.verbosity))
}

/// Errors alone make a failure; it is that of the first.
fn verdict(findings: &[Finding]) -> Result<()> {
    let mut errors = findings.iter().filter(|it| it.severity == Severity::Error);
    let Some(first) = errors.next() else { return Ok(()) };
    let others = errors.count();
    let message = tr!("{subject}: {message}", subject = first.subject, message = first.message);
    let error = Error::new(first.check.failure(), message).about(first.check.id());
    let error = first.fix.iter().fold(error, |error, fix| error.hint(fix.shown()));
    Err(if others == 0 { error } else { error.hint(tr!("further errors above: {others}", others)) })
}

/// Shows what would be run, and runs it after a yes. What only a person can do stays with them.
fn repair(settings: &Settings, sink: &Sink, findings: &[Finding], yes: bool) -> Result<()> {
    let mut plan: Vec<&[String]> = Vec::new();
    for finding in findings {
        if let Some(Fix::Safe(words)) = &finding.fix
            && !plan.contains(&words.as_slice())
        {
            plan.push(words);
        }
    }
    if plan.is_empty() {
        sink.note(tr!("there is nothing that a command of this tool repairs"));
        return verdict(findings);
    }
    for words in &plan {
        sink.note(tr!("would run: cargo xtask {words}", words = words.join(" ")));
    }
    if settings.dry_run || !(yes || confirmed()) {
        if !settings.dry_run {
            sink.note(tr!("nothing was run; `--yes` agrees beforehand"));
        }
        return verdict(findings);
    }
    let program = std::env::current_exe()
        .map_err(|error| Error::new(Code::CannotStart, tr!("this program has no path")).because(error))?;
    for words in plan {
        let command = format!("cargo xtask {}", words.join(" "));
        let invocation = Invocation {
            program: program.clone(),
            arguments: words.iter().map(Into::into).collect(),
            directory: settings.workspace.root.clone(),
            environment: settings.environment.0.clone(),
        };
        let log = settings.workspace.logs().join("doctor.log");
        process::run(&invocation, Deadline::BUILD, &log, |_, line| sink.note(line))?.into_result(&command)?;
    }
    sink.note(tr!("run `cargo xtask doctor` again to see what is left"));
    Ok(())
}

/// Asks whoever sits at the terminal; nobody there is a no.
fn confirmed() -> bool {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return false;
    }
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "{} ", tr!("run this? [y/N]")).and_then(|()| stderr.flush());
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes" | "是")
}
