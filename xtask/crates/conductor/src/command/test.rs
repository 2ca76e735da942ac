//! `test [SUITE…]`: every suite of xtask.toml, with what it needs made first. A part that cannot run here says so and is counted as
//! skipped; `--require` turns that into a failure.

use super::run::{python_environment, python_flags};
use crate::cli;
use crate::document::did_you_mean;
use crate::error::{Code, Error, ExitCode, Result};
use crate::execute::{Results, Workshop};
use crate::facts::Library;
use crate::files;
use crate::interrupt;
use crate::plan::{Step, Work};
use crate::process::{self, Deadline, Invocation, Stream};
use crate::project::{Project, Suite, SuiteCommand, SuiteTool};
use crate::report::{Event, Sink, seconds};
use crate::settings::{Settings, env};
use crate::toolchain::cargo;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

const SUITE: Deadline = Deadline { whole: Duration::from_secs(3600), silence: None };

pub fn test(settings: &Settings, project: &Project, sink: Sink, args: &cli::Test) -> Result<()> {
    let suites = &project.declaration.suite;
    let named: Vec<&String> =
        if args.suites.is_empty() { suites.keys().collect() } else { args.suites.iter().collect() };
    for name in &named {
        if !suites.contains_key(*name) {
            let known = suites.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let error =
                Error::new(Code::UnknownName, format!("there is no suite `{name}`; xtask.toml declares {known}"));
            return Err(did_you_mean(error, name, suites.keys().map(String::as_str)));
        }
    }
    let known: BTreeSet<&str> = ["all"]
        .into_iter()
        .chain(suites.keys().map(String::as_str))
        .chain(suites.values().flat_map(|suite| suite.parts.iter().map(String::as_str)))
        .collect();
    if let Some(unknown) = args.require.iter().find(|name| !known.contains(name.as_str())) {
        let names = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        return Err(Error::new(Code::UnknownName, format!("nothing called `{unknown}` can be required ({names})")));
    }
    let mut wants = super::no_wants(&cli::Variant::default());
    for suite in named.iter().map(|name| &suites[*name]) {
        wants.libraries.extend(suite.libraries.iter().cloned());
        suite.binaries.iter().for_each(|name| super::want_binary(&mut wants, project, name));
        wants.wheel_sets.extend(suite.wheel_sets.iter().cloned());
        wants.models.extend(suite.models.iter().cloned());
    }
    let workshop = Workshop::new(settings, project, sink.clone())?;
    if settings.dry_run {
        return super::show_plan(&workshop, &wants, false);
    }
    for command in named.iter().flat_map(|name| &suites[*name].commands).filter(|it| it.tool == SuiteTool::Cargo) {
        pin_crates(&workshop, &settings.workspace.root.join(&command.directory))?;
    }
    let results = workshop.make(&wants, false, &|plan, facts| super::describe(&workshop, plan, facts, false))?;
    let (mut passed, mut failed) = (0, Vec::new());
    for name in named {
        interrupt::check()?;
        let start = Instant::now();
        // A suite's own name requires all of its parts.
        let require = if args.require.contains(name) { vec!["all".to_owned()] } else { args.require.clone() };
        let result = run_suite(&workshop, &results, name, &suites[name], &require);
        let (outcome, message) = match &result {
            Ok(()) => ("ok", None),
            Err(error) if matches!(error.exit(), ExitCode::Interrupted | ExitCode::Terminated) => return result,
            Err(error) => ("FAILED", Some(error.render())),
        };
        match result {
            Ok(()) => passed += 1,
            Err(_) => failed.push(name.clone()),
        }
        sink.send(Event::Suite {
            name: name.clone(),
            outcome: outcome.to_owned(),
            seconds: seconds(start.elapsed()),
            message,
        });
    }
    // The closing line that test runners are read by.
    sink.note(format!("suites: {passed} passed, {} failed", failed.len()));
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::new(Code::SuiteFailed, format!("failed suites: {}", failed.join(", ")))
        .hint(format!("whole output: {}", workshop.logs.display())))
}

/// The lock file that cargo would use in `folder`: its own or the next one upwards.
fn pin_crates(workshop: &Workshop, folder: &Path) -> Result<()> {
    let root = &workshop.settings.workspace.root;
    for path in folder.ancestors().take_while(|it| it.starts_with(root)).map(|it| it.join("Cargo.lock")) {
        if let Some(lock) = files::read_if_present(&path)? {
            workshop.outside.pin_crates(&cargo::checksums(&String::from_utf8_lossy(&lock), &path)?);
            return Ok(());
        }
    }
    Ok(())
}

fn run_suite(workshop: &Workshop, results: &Results, name: &str, suite: &Suite, require: &[String]) -> Result<()> {
    for (index, command) in suite.commands.iter().enumerate() {
        let id = format!("suite-{name}-{}", index + 1);
        let invocation = invocation(workshop, results, &id, command, require)?;
        let log = workshop.log(&id);
        let what = invocation.command_line();
        workshop.sink.send(Event::Testing { suite: name.to_owned(), command: what.clone() });
        let finished = process::run(&invocation, SUITE, &log, |_: Stream, text| {
            // What a test runner counts and what it skips belongs on screen.
            let told = text.starts_with("test result:")
                || text.contains("skipped:")
                || text.starts_with("ok ")
                || text.starts_with("Ran ");
            if told {
                workshop.sink.note(format!("{:>12} {text}", ""));
            } else {
                let (id, text) = (name.to_owned(), text.to_owned());
                workshop.sink.send(Event::Progress { id: id.clone(), text: text.clone() });
                workshop.sink.send(Event::Output { id, text });
            }
        })?;
        finished.into_result(&what)?;
    }
    Ok(())
}

fn invocation(
    workshop: &Workshop,
    results: &Results,
    id: &str,
    command: &SuiteCommand,
    require: &[String],
) -> Result<Invocation> {
    let settings = workshop.settings;
    let facts = &results.facts;
    let mut arguments: Vec<OsString> = Vec::new();
    let (program, mut environment) = match &command.tool {
        SuiteTool::Cargo => match library_in(workshop, results, &command.directory).zip(facts.rust.as_ref()) {
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
                let cargo = cargo.ok_or_else(|| Error::new(Code::NoRust, "there is no cargo on PATH"))?;
                let mut environment = settings.environment.only(env::PASSED);
                environment.extend(settings.environment.only(env::PASSED_TO_RUN));
                environment.extend(settings.environment.only(env::NATIVE_KEYED));
                let told = workshop.outside.cargo()?;
                told.apply(&mut environment);
                let folder = command.directory.replace('/', "-");
                environment.insert("CARGO_TARGET_DIR".to_owned(), settings.workspace.test_build(&folder).into());
                let mut words = command.arguments.iter();
                arguments.extend(words.next().map(Into::into));
                arguments.extend(told.arguments.iter().map(|word| word.expose().into()));
                arguments.extend(words.map(Into::into));
                (cargo, environment)
            }
        },
        SuiteTool::Go => {
            let mut environment = workshop.go_environment(facts)?;
            environment.extend(settings.environment.only(env::PASSED_TO_RUN));
            let library = |step: &Step| matches!(step.work, Work::NativeLibrary { .. });
            let made = results.plan.steps.iter().filter(|step| library(step)).filter_map(|step| step.entry.as_ref());
            let folder = workshop.link_folder(made)?;
            environment.insert("LIBRARY_PATH".to_owned(), folder.clone().into());
            environment.insert("LD_LIBRARY_PATH".to_owned(), folder.into());
            arguments.extend(command.arguments.iter().map(Into::into));
            (workshop.go_program(facts)?, environment)
        }
        SuiteTool::Python { wheel_set } => {
            let python = match &facts.python {
                Some(python) => (python.path.clone(), python.interpreter.version),
                None => (
                    settings
                        .environment
                        .find("python3")
                        .ok_or_else(|| Error::new(Code::NoPython, "there is no python3 on PATH"))?,
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

/// The native library whose package is in `directory`.
fn library_in<'r>(workshop: &Workshop, results: &'r Results, directory: &str) -> Option<&'r Library> {
    let folder = workshop.settings.workspace.root.join(directory);
    results.facts.libraries.values().find(|library| library.folder == folder)
}

/// `{root}` and `{wheel-set:NAME}`.
fn fill(workshop: &Workshop, results: &Results, text: &str) -> Result<String> {
    let text = text.replace("{root}", &workshop.settings.workspace.root.display().to_string());
    let Some((before, rest)) = text.split_once("{wheel-set:") else { return Ok(text) };
    let (name, after) = rest.split_once('}').ok_or_else(|| Error::bug(format!("`{text}` has an open placeholder")))?;
    let tree = workshop.root_of(results, &format!("wheel-set:{name}"))?;
    Ok(format!("{before}{}{after}", tree.display()))
}
