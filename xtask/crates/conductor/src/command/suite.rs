//! Suites and linters of xtask.toml, run alike: what they need is made first, then their commands run one after another. One that
//! cannot run here says so and is counted as skipped; `--require` turns that into a failure. Never: change a tracked file.

use super::run::{python_environment, python_flags};
use crate::cli;
use crate::document::did_you_mean;
use crate::error::{Code, Error, ExitCode, Result};
use crate::execute::{Results, Workshop, outside};
use crate::facts::{Library, Wants};
use crate::files;
use crate::interrupt;
use crate::language::right_aligned;
use crate::mirror::env::Tool;
use crate::plan::{self, Premise, Step, Work};
use crate::process::{self, Deadline, Invocation, Stream};
use crate::project::{Files, Project, Suite, SuiteCommand, SuiteTool, leaks};
use crate::report::{Event, Sink, seconds};
use crate::settings::{Settings, env};
use crate::toolchain::cargo;
use crate::tr;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};

const SUITE: Deadline = Deadline { whole: Duration::from_secs(3600), silence: None };

/// What tells `test` and `lint` apart.
pub(super) struct Kind<'a> {
    /// The table of xtask.toml, which is also the word for one of them.
    pub name: &'static str,
    pub declared: &'a BTreeMap<String, Suite>,
}

/// How one of them ended.
enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

/// Runs those that are `named`, or all. `Err` with exit code 9 where one failed, after the others have run.
pub(super) fn run(
    settings: &Settings,
    project: &Project,
    sink: Sink,
    kind: &Kind,
    named: &[String],
    require: &[String],
) -> Result<()> {
    let Kind { name: word, declared } = kind;
    let named: Vec<&String> = if named.is_empty() { declared.keys().collect() } else { named.iter().collect() };
    for name in &named {
        if !declared.contains_key(*name) {
            let known = declared.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let error = Error::new(
                Code::UnknownName,
                tr!("there is no {word} `{name}`; xtask.toml declares {known}", word, name, known),
            );
            return Err(did_you_mean(error, name, declared.keys().map(String::as_str)));
        }
    }
    let known: BTreeSet<&str> = ["all"]
        .into_iter()
        .chain(declared.keys().map(String::as_str))
        .chain(declared.values().flat_map(|suite| suite.parts.iter().map(String::as_str)))
        .collect();
    if let Some(unknown) = require.iter().find(|name| !known.contains(name.as_str())) {
        let names = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        return Err(Error::new(
            Code::UnknownName,
            tr!("nothing called `{unknown}` can be required ({names})", unknown, names),
        ));
    }
    if named.is_empty() {
        let path = settings.workspace.declaration();
        return Err(Error::new(Code::WrongValue, tr!("{path} declares no [{word}.NAME]", path = path.display(), word)));
    }
    let workshop = Workshop::new(settings, project, sink.clone())?;
    let mut wants = super::no_wants(settings, project, &cli::Variant::default())?;
    let mut without = BTreeMap::new();
    for name in &named {
        let suite = &declared[*name];
        if let Some(why) = no_wheel(&workshop, suite)? {
            without.insert(*name, why);
            continue;
        }
        wants.libraries.extend(suite.libraries.iter().cloned());
        suite.binaries.iter().for_each(|name| super::want_binary(&mut wants, project, name));
        wants.wheel_sets.extend(suite.wheel_sets.iter().cloned());
        wants.models.extend(suite.models.iter().cloned());
        wants.go |= suite.commands.iter().any(|it| matches!(it.tool, SuiteTool::Go | SuiteTool::Gofmt));
    }
    if settings.dry_run {
        super::show_plan(&workshop, &wants, false)?;
        for (name, command) in named.iter().flat_map(|name| declared[*name].commands.iter().map(move |it| (name, it))) {
            let tool = command.tool.shown();
            let words = shown(&command.arguments, None, &command.directory);
            sink.note(format!("{} {name}: {tool} {words}", right_aligned(&tr!("would run"), 12)));
        }
        return Ok(());
    }
    for command in named.iter().flat_map(|name| &declared[*name].commands).filter(|it| it.tool == SuiteTool::Cargo) {
        pin_crates(&workshop, &settings.workspace.root.join(&command.directory))?;
    }
    let results = workshop.make(&wants, false, &|plan, facts| super::describe(&workshop, plan, facts, false))?;
    let runner = Runner { workshop: &workshop, results: &results, kind: word };
    let (mut passed, mut skipped, mut failed) = (0, 0, Vec::new());
    for name in named {
        interrupt::check()?;
        let start = Instant::now();
        // Its own name requires all of its parts.
        let require = if require.contains(name) { vec!["all".to_owned()] } else { require.to_vec() };
        let (outcome, message) = match runner.run(name, &declared[name], without.get(name), &require)? {
            Outcome::Passed => {
                passed += 1;
                ("ok", None)
            }
            Outcome::Skipped(why) => {
                skipped += 1;
                ("skipped", Some(why))
            }
            Outcome::Failed(why) => {
                failed.push(name.clone());
                ("FAILED", Some(why))
            }
        };
        sink.send(Event::Suite {
            kind: word,
            name: name.clone(),
            outcome: outcome.to_owned(),
            seconds: seconds(start.elapsed()),
            message,
        });
    }
    // The closing line that test runners are read by, in every language.
    let skipped = if skipped == 0 { String::new() } else { format!(", {skipped} skipped") };
    sink.note(format!("{word}s: {passed} passed, {} failed{skipped}", failed.len()));
    if failed.is_empty() {
        return Ok(());
    }
    let code = if *word == "linter" { Code::Findings } else { Code::SuiteFailed };
    Err(Error::new(code, tr!("failed: {names}", names = failed.join(", ")))
        .hint(tr!("whole output: {logs}", logs = workshop.logs.display())))
}

/// The lock file that cargo would use in `folder`: its own or the next one upwards.
fn pin_crates(workshop: &Workshop, folder: &Path) -> Result<()> {
    let root = &workshop.settings.workspace.root;
    for path in folder.ancestors().take_while(|it| it.starts_with(root)).map(|it| it.join("Cargo.lock")) {
        if let Some(lock) = files::read_if_present(&path)? {
            let checksums = cargo::checksums(&String::from_utf8_lossy(&lock), &path)?;
            workshop.outside.pin(|pins| pins.crates.extend(checksums));
            return Ok(());
        }
    }
    Ok(())
}

/// A command's words as one would type them in its folder, its files only counted.
fn shown(words: &[String], files: Option<usize>, directory: &str) -> String {
    let words = words.iter().map(|word| match (word.as_str(), files) {
        ("{files}", Some(count)) => tr!("({count} files)", count),
        ("{files}", None) => tr!("(its files)"),
        _ => process::quoted(word.as_ref()),
    });
    let place = if directory.is_empty() { "." } else { directory };
    tr!("{command} (in {place})", command = words.collect::<Vec<_>>().join(" "), place)
}

struct Runner<'a> {
    workshop: &'a Workshop<'a>,
    results: &'a Results,
    kind: &'static str,
}

impl Runner<'_> {
    /// `without`: what this machine lacks for all of it.
    fn run(&self, name: &str, suite: &Suite, without: Option<&String>, require: &[String]) -> Result<Outcome> {
        let mut failures = Vec::new();
        for (index, command) in suite.commands.iter().enumerate() {
            let result = match without {
                Some(why) => Ok(Some(why.clone())),
                None => self.run_command(name, index, suite, command, require),
            };
            match result {
                Ok(None) => {}
                Ok(Some(why)) if !require.iter().any(|it| it == "all" || suite.parts.contains(it)) => {
                    return Ok(Outcome::Skipped(why));
                }
                Ok(Some(why)) => {
                    failures.push(tr!("required, and cannot run here: {why}", why));
                    break;
                }
                Err(error) if matches!(error.exit(), ExitCode::Interrupted | ExitCode::Terminated) => {
                    return Err(error);
                }
                Err(error) => failures.push(error.render()),
            }
            // Later commands of a suite may build on earlier ones; a linter's findings are all wanted at once.
            if !failures.is_empty() && suite.files.is_none() {
                break;
            }
        }
        Ok(if failures.is_empty() { Outcome::Passed } else { Outcome::Failed(failures.join("\n")) })
    }

    /// `Some(why)` where this machine cannot run it.
    fn run_command(
        &self,
        name: &str,
        index: usize,
        suite: &Suite,
        command: &SuiteCommand,
        require: &[String],
    ) -> Result<Option<String>> {
        let id = format!("{}-{name}-{}", self.kind, index + 1);
        let workshop = self.workshop;
        let files = suite.files.as_ref().map(|files| self.files(files, &command.directory)).transpose()?;
        if files.as_ref().is_some_and(Vec::is_empty) {
            let path = workshop.settings.workspace.declaration();
            let place = if command.directory.is_empty() { "." } else { &command.directory };
            return Err(Error::new(
                Code::WrongValue,
                tr!(
                    "{path}: {kind}.{name} has nothing to look at: no file in {place} is one of its `files`",
                    path = path.display(),
                    kind = self.kind,
                    name,
                    place
                ),
            ));
        }
        if command.tool == SuiteTool::Pins {
            return super::lock::check_drift(workshop.settings, workshop.project).map(|()| None);
        }
        if command.tool == SuiteTool::MirrorHosts {
            return self.check_leaks(&command.directory, &files.unwrap_or_default()).map(|()| None);
        }
        let mut invocation = self.invocation(&id, suite, command, require)?;
        if !command.probe.is_empty() {
            let arguments = command.probe.iter().map(Into::into).collect();
            if let Some(why) = why_not(&Invocation { arguments, ..invocation.clone() }) {
                return Ok(Some(why));
            }
        }
        let count = files.as_ref().map(Vec::len);
        if let Some(files) = files {
            let words = std::mem::take(&mut invocation.arguments).into_iter();
            invocation.arguments =
                words.flat_map(|word| if word == "{files}" { files.clone() } else { vec![word] }).collect();
        }
        let log = workshop.log(&id);
        // Where the program is, and all of its files, is for the log.
        let program = invocation.program.file_name().unwrap_or_default().to_string_lossy();
        let what = format!("{program} {}", shown(&command.arguments, count, &command.directory));
        let event = Event::Testing { kind: self.kind, suite: name.to_owned(), command: what.clone() };
        workshop.sink.send(event);
        let finished = process::run(&invocation, SUITE, &log, |_: Stream, text| {
            // What a test runner counts and what it skips belongs on screen.
            let told = text.starts_with("test result:")
                || text.contains("skipped:")
                || text.starts_with("ok ")
                || text.starts_with("Ran ");
            if told && self.kind == "suite" {
                workshop.sink.note(format!("{:>12} {text}", ""));
            } else {
                let (id, text) = (name.to_owned(), text.to_owned());
                workshop.sink.send(Event::Progress { id: id.clone(), text: text.clone() });
                workshop.sink.send(Event::Output { id, text });
            }
        })?;
        finished.into_result(&what)?;
        Ok(None)
    }

    fn check_leaks(&self, directory: &str, files: &[OsString]) -> Result<()> {
        let Workshop { settings, project, .. } = *self.workshop;
        let mirrors = outside::profiles(settings, project)?.mirror_hosts();
        let paths = files.iter().filter_map(|path| path.to_str()?.strip_prefix("./"));
        let found = leaks::find(&settings.workspace.root.join(directory), paths, &mirrors)?;
        if found.is_empty() {
            return Ok(());
        }
        let lines = found
            .iter()
            .flat_map(|leaks| leaks.places.iter().map(|(line, host)| format!("{}:{line}: {host}", leaks.file)));
        let error = Error::new(Code::Findings, tr!("files for everybody name mirrors that this machine knows"));
        let error = error.excerpt(lines.collect::<Vec<_>>().join("\n"));
        Err(found.iter().fold(error, |error, leaks| error.hint(leaks.fix())))
    }

    /// The files below `directory` that are wanted, relative to it; Git says which there are, so that build folders stay out.
    fn files(&self, files: &Files, directory: &str) -> Result<Vec<OsString>> {
        let settings = self.workshop.settings;
        let folder = settings.workspace.root.join(directory);
        let git = settings.environment.find("git");
        let git = git.ok_or_else(|| {
            Error::new(Code::CannotStart, tr!("there is no git on PATH, which knows the files of this checkout"))
        })?;
        let listing = process::ask(&Invocation {
            program: git,
            arguments: ["ls-files", "-z", "--cached", "--others", "--exclude-standard"].map(Into::into).into(),
            directory: folder.clone(),
            environment: settings.environment.only(env::PASSED),
        })?;
        let paths: BTreeSet<&str> = listing.split('\0').filter(|path| !path.is_empty()).collect();
        let wanted = |path: &&str| {
            let file = folder.join(path);
            file.is_file()
                && (files.endings.iter().any(|ending| path.ends_with(ending.as_str()))
                    || interpreter(&file).is_some_and(|it| files.interpreters.contains(&it)))
        };
        // A name must not be taken for a flag: some of those rewrite files.
        Ok(paths.into_iter().filter(wanted).map(|path| format!("./{path}").into()).collect())
    }

    fn invocation(&self, id: &str, suite: &Suite, command: &SuiteCommand, require: &[String]) -> Result<Invocation> {
        let Self { workshop, results, .. } = *self;
        let settings = workshop.settings;
        let facts = &results.facts;
        let mut arguments: Vec<OsString> = Vec::new();
        let (program, mut environment) = match &command.tool {
            // A linter compiles nothing that is used: the library's own flags and folder are for its tests.
            SuiteTool::Cargo => match library_in(workshop, results, &command.directory)
                .filter(|_| suite.files.is_none())
                .zip(facts.rust.as_ref())
            {
                Some((library, rust)) => {
                    let invocation = workshop.test_of_library(id, library, rust, &command.arguments)?;
                    arguments = invocation.arguments;
                    (invocation.program, invocation.environment)
                }
                None => {
                    let rust = facts.rust.as_ref().map(|rust| rust.cargo.clone());
                    let cargo = rust
                        .or_else(|| settings.environment.get("CARGO").map(Into::into))
                        .or_else(|| settings.environment.find("cargo"));
                    let cargo = cargo.ok_or_else(|| Error::new(Code::NoRust, tr!("there is no cargo on PATH")))?;
                    let mut environment = settings.environment.only(env::PASSED);
                    environment.extend(settings.environment.only(env::PASSED_TO_RUN));
                    environment.extend(settings.environment.only(env::NATIVE_KEYED));
                    let told = workshop.outside.tool(Tool::Cargo, id)?;
                    told.apply(&mut environment);
                    let folder = command.directory.replace('/', "-");
                    environment.insert("CARGO_TARGET_DIR".to_owned(), settings.workspace.test_build(&folder).into());
                    let mut words = command.arguments.iter();
                    arguments.extend(words.next().map(Into::into));
                    // rustfmt fetches nothing, and takes `--config` for its own.
                    if command.arguments.first().is_none_or(|word| word != "fmt") {
                        arguments.extend(told.arguments.iter().map(|word| word.expose().into()));
                    }
                    arguments.extend(words.map(Into::into));
                    (cargo, environment)
                }
            },
            SuiteTool::Go => {
                let mut environment = workshop.go_environment(facts, None, Some(id))?;
                environment.extend(settings.environment.only(env::PASSED_TO_RUN));
                let library = |step: &Step| matches!(step.work, Work::NativeLibrary { .. });
                let made =
                    results.plan.steps.iter().filter(|step| library(step)).filter_map(|step| step.entry.as_ref());
                let folder = workshop.link_folder(made)?;
                environment.insert("LIBRARY_PATH".to_owned(), folder.clone().into());
                environment.insert("LD_LIBRARY_PATH".to_owned(), folder.into());
                arguments.extend(command.arguments.iter().map(Into::into));
                (workshop.go_program(facts)?, environment)
            }
            SuiteTool::Gofmt => {
                arguments.extend(command.arguments.iter().map(Into::into));
                (workshop.go_program(facts)?.with_file_name("gofmt"), settings.environment.only(env::PASSED))
            }
            SuiteTool::Wheel { wheel_set, path } => {
                arguments.extend(command.arguments.iter().map(Into::into));
                let tree = workshop.root_of(results, &format!("wheel-set:{wheel_set}"))?;
                (tree.join(path), settings.environment.only(env::PASSED))
            }
            SuiteTool::Pins | SuiteTool::MirrorHosts => return Err(Error::bug(tr!("this linter is no child"))),
            SuiteTool::Python { wheel_set } => {
                let python = match &facts.python {
                    Some(python) => (python.path.clone(), python.interpreter.version),
                    None => (
                        settings
                            .environment
                            .find("python3")
                            .ok_or_else(|| Error::new(Code::NoPython, tr!("there is no python3 on PATH")))?,
                        (3, 11),
                    ),
                };
                let mut environment = settings.environment.0.clone();
                if let Some(wheel_set) = wheel_set {
                    let tree = workshop.root_of(results, &format!("wheel-set:{wheel_set}"))?;
                    arguments.extend(python_flags(python.1));
                    python_environment(workshop, &tree, None, &mut environment)?;
                }
                environment.insert("PYTHONDONTWRITEBYTECODE".to_owned(), "1".into());
                arguments.extend(command.arguments.iter().map(Into::into));
                (python.0, environment)
            }
        };
        for (name, value) in &command.environment {
            environment.insert(name.clone(), fill(workshop, results, value)?.into());
        }
        for name in [env::LAUNCHER, env::REPO_ROOT] {
            if let Some(value) = settings.environment.0.get(name) {
                environment.insert(name.to_owned(), value.clone());
            }
        }
        let require = require.join(",");
        let require =
            if require.is_empty() { settings.environment.get(env::REQUIRE).unwrap_or("").to_owned() } else { require };
        environment.insert(env::REQUIRE.to_owned(), require.into());
        let directory = settings.workspace.root.join(&command.directory);
        Ok(Invocation { program, arguments, directory, environment })
    }
}

/// The native library whose package is in `directory`.
fn library_in<'r>(workshop: &Workshop, results: &'r Results, directory: &str) -> Option<&'r Library> {
    let folder = workshop.settings.workspace.root.join(directory);
    results.facts.libraries.values().find(|library| library.folder == folder)
}

/// `{root}` and `{wheel-set:NAME}`.
fn fill(workshop: &Workshop, results: &Results, text: &str) -> Result<String> {
    let text = text.replace("{root}", &workshop.settings.workspace.root.display().to_string());
    let Some((before, rest)) = text.split_once("{wheel-set:") else { return Ok(text) };
    let (name, after) =
        rest.split_once('}').ok_or_else(|| Error::bug(tr!("`{text}` has an open placeholder", text)))?;
    let tree = workshop.root_of(results, &format!("wheel-set:{name}"))?;
    Ok(format!("{before}{}{after}", tree.display()))
}

/// The wheel that nobody makes for this machine, where a suite needs one.
fn no_wheel(workshop: &Workshop, suite: &Suite) -> Result<Option<String>> {
    let wants = Wants { wheel_sets: suite.wheel_sets.iter().cloned().collect(), ..Wants::default() };
    let facts = workshop.gather(&wants)?;
    let Workshop { settings, project, .. } = *workshop;
    let premise = Premise { settings, project, facts: &facts, wants: &wants, fresh: None, view: workshop };
    for name in &suite.wheel_sets {
        match plan::chosen_wheels(&premise, name, None) {
            Err(error) if error.exit() == ExitCode::Missing => return Ok(Some(error.to_string())),
            other => other.map(drop)?,
        }
    }
    Ok(None)
}

/// Why a tool does not answer a question that it answers wherever it is installed.
fn why_not(question: &Invocation) -> Option<String> {
    let line = question.command_line();
    match process::capture(question) {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let said =
                said.lines().find(|line| !line.trim().is_empty()).map_or_else(|| tr!("it says nothing"), str::to_owned);
            Some(tr!("`{line}` fails: {said}", line, said))
        }
        Err(error) => Some(tr!("`{line}` cannot be started: {error}", line, error)),
    }
}

/// `bash` for a file that opens with `#!/usr/bin/env bash` or `#!/bin/bash`.
fn interpreter(file: &Path) -> Option<String> {
    let mut head = [0; 128];
    let count = std::fs::File::open(file).ok()?.read(&mut head).ok()?;
    let head = String::from_utf8_lossy(&head[..count]).into_owned();
    let mut words = head.strip_prefix("#!")?.lines().next()?.split_whitespace();
    let program = Path::new(words.next()?).file_name()?.to_str()?;
    Some(if program == "env" { words.next()?.to_owned() } else { program.to_owned() })
}
