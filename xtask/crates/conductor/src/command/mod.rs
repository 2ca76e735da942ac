//! What each command strings together: settings, facts, a plan, its execution, events. One function a command.

mod bases;
mod cache;
mod clean;
mod completions;
mod doctor;
mod emit;
mod explain;
mod gates;
pub mod habits;
mod help;
mod images;
mod lint;
mod lock;
mod mirror;
mod probe;
mod registry_bases;
mod run;
mod suite;
mod test;

use crate::cli::{self, Cli, Command};
use crate::crash;
use crate::document::did_you_mean;
use crate::error::{Code, Error, ExitCode, Result};
use crate::execute::{Workshop, ecosystems};
use crate::facts::{Facts, Wants};
use crate::interrupt;
use crate::language::{self, right_aligned};
use crate::mirror::env::Tool;
use crate::plan::{Plan, Step, Work, glibc_of};
use crate::platform::Platform;
use crate::project::{Local, Project};
use crate::report::{self, Event, Finding, Reporter, Severity, Sink, Status};
use crate::settings::env::{self, Environment};
use crate::settings::{self, Format, Settings};
use crate::toolchain::cross::Cross;
use crate::tr;
use serde::Serialize;
use std::collections::HashSet;
use std::io::Write as _;
use std::path::Path;

/// Runs a command to its end, everything told.
pub fn run(cli: Cli, stderr_is_terminal: bool) -> ExitCode {
    if let Command::Explain(explain) = &cli.command {
        return finish(crash::caught(|| explain::explain(explain, wanted_format())));
    }
    if let Command::Help(help) = &cli.command {
        return finish(crash::caught(|| help::help(help, wanted_format())));
    }
    let started = crash::caught(|| {
        let (settings, project) = prepare(&cli, stderr_is_terminal)?;
        let reporter = Reporter::start(&settings);
        Ok((settings, project, reporter))
    });
    let (settings, project, reporter) = match started {
        Ok(started) => started,
        Err(error) => return finish(Err(error)),
    };
    // What was fetched to build this very program belongs to this run.
    for host in settings.environment.get(settings::env::CONTACTED).unwrap_or_default().split(' ') {
        reporter.sink().contacted_by_launcher(host);
    }
    for (name, meant) in settings::variables::misspelt(&settings.environment) {
        reporter.sink().send(Event::Finding(Finding {
            code: "variable.unknown".to_owned(),
            severity: Severity::Warning,
            subject: name.to_owned(),
            message: tr!("no variable of this tool is called so, and nothing reads it"),
            fix: Some(tr!("did you mean {meant}?", meant)),
        }));
    }
    let result = crash::caught(|| dispatch(&cli.command, &settings, &project, reporter.sink()))
        .and_then(|()| crash::check())
        // A failure after Ctrl-C is a consequence of it: the children share the terminal.
        .map_err(|error| interrupt::check().err().filter(|_| interrupt::requested().is_some()).unwrap_or(error));
    reporter.finish(result.map_err(with_report).as_ref().copied())
}

/// The end of a run without a reporter: the choice of one is among what failed.
pub fn finish(result: Result<()>) -> ExitCode {
    report::finish_without_reporter(result.map_err(with_report).as_ref().copied(), wanted_format())
}

fn with_report(error: Error) -> Error {
    if error.exit() == ExitCode::Bug { crash::reportable(error) } else { error }
}

/// The format where there are no settings.
fn wanted_format() -> Format {
    settings::format(&words(), &Environment::of_this_process())
}

/// Speaks the language that words and variables ask for, from now on.
pub fn choose_language() {
    language::choose(settings::language(&words(), &Environment::of_this_process()));
}

/// The command line as it was typed.
fn words() -> Vec<String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// What was asked for goes to standard output, in the format that was asked for.
fn print(settings: &Settings, event: &str, value: &impl Serialize, text: &str) -> Result<()> {
    print_as(settings.format, event, value, text)
}

fn print_as(format: Format, event: &str, value: &impl Serialize, text: &str) -> Result<()> {
    let line = match format {
        Format::Human => text.trim_end().to_owned(),
        Format::Json => {
            let mut value =
                serde_json::to_value(value).map_err(|error| Error::bug(tr!("cannot serialise")).because(error))?;
            value["schema"] = 1.into();
            value["event"] = event.into();
            value.to_string()
        }
    };
    let mut stdout = std::io::stdout();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        // A reader that went away (`| head`) is not our failure.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::disk("write", Path::new(&tr!("standard output")), error))
        }
        _ => Ok(()),
    }
}

fn prepare(cli: &Cli, stderr_is_terminal: bool) -> Result<(Settings, Project)> {
    let environment = Environment::of_this_process();
    let current = std::env::current_dir()
        .map_err(|error| Error::new(Code::NoProject, tr!("the current folder is gone")).because(error))?;
    let workspace = settings::find_workspace(cli.global.repo.as_deref(), &environment, &current)?;
    let project = Project::read(&workspace)?;
    let local = Local::read(&workspace, &project)?;
    let settings =
        Settings::resolve(&cli.global, workspace, environment, local, &project.declaration, stderr_is_terminal)?;
    Ok((settings, project))
}

fn dispatch(command: &Command, settings: &Settings, project: &Project, sink: Sink) -> Result<()> {
    match command {
        Command::Build(build) => self::build(settings, project, sink, &build.targets, build.fresh),
        Command::Plan(targets) => plan(settings, project, sink, targets),
        Command::Why(why) => self::why(settings, project, sink, why),
        Command::Run(run) => run::run(settings, project, sink, run),
        Command::Images(images) => images::images(settings, project, sink, images),
        Command::Emit(cli::Emit::Dockerfile(args)) => emit::dockerfile(settings, project, sink, args),
        Command::Test(test) => test::test(settings, project, sink, test),
        Command::Lint(lint) => lint::lint(settings, project, sink, lint),
        Command::Doctor(args) => doctor::doctor(settings, project, &sink, args),
        Command::Mirror(mirror) => mirror::mirror(settings, project, sink, mirror),
        Command::Lock(lock) => lock::lock(settings, project, sink, lock.command.as_ref()),
        Command::Cache(cache) => cache::cache(settings, &sink, cache),
        Command::Clean(clean) => clean::clean(settings, project, &sink, clean.all),
        // Told before there are settings: it must work where they cannot be read.
        Command::Explain(_) | Command::Help(_) => Ok(()),
        Command::Completions(args) => completions::completions(settings, project, args.shell),
        Command::Man(args) => completions::man(settings, &sink, args),
        Command::Schema => {
            let text = include_str!("../../../../schema/xtask.schema.json");
            let json_schema: serde_json::Value =
                serde_json::from_str(text).map_err(|error| Error::bug(tr!("the schema")).because(error))?;
            print(settings, "json-schema", &serde_json::json!({ "json_schema": json_schema }), text)
        }
    }
}

fn build(settings: &Settings, project: &Project, sink: Sink, targets: &cli::Targets, fresh: bool) -> Result<()> {
    let wants = wanted(settings, project, targets)?;
    let workshop = Workshop::new(settings, project, sink)?;
    if settings.dry_run {
        return show_plan(&workshop, &wants, fresh);
    }
    workshop.make(&wants, fresh, &|plan, facts| describe(&workshop, plan, facts, false))?;
    Ok(())
}

fn plan(settings: &Settings, project: &Project, sink: Sink, targets: &cli::Targets) -> Result<()> {
    let wants = wanted(settings, project, targets)?;
    show_plan(&Workshop::new(settings, project, sink)?, &wants, false)
}

/// Prints the plan. Nothing is written, started or contacted beyond what the installed tools are asked.
fn show_plan(workshop: &Workshop, wants: &Wants, fresh: bool) -> Result<()> {
    show_plan_and(workshop, wants, fresh, Vec::new())
}

/// `targets`: hosts that are contacted with what was made.
fn show_plan_and(workshop: &Workshop, wants: &Wants, fresh: bool, targets: Vec<String>) -> Result<()> {
    let facts = workshop.gather(wants)?;
    let none = HashSet::new();
    let plan = workshop.plan(wants, &facts, fresh.then_some(&none))?;
    let mut event = describe(workshop, &plan, &facts, true);
    if let (Event::Plan { egress, .. }, false) = (&mut event, targets.is_empty()) {
        egress.push((tr!("oci (push)"), targets));
    }
    workshop.sink.send(event);
    Ok(())
}

fn describe(workshop: &Workshop, plan: &Plan, facts: &Facts, asked: bool) -> Event {
    let runs = asked || plan.running().next().is_some();
    let ecosystems = plan.running().flat_map(|step| ecosystems(workshop.project, step)).collect();
    let tool = |step: &Step| match step.work {
        Work::NativeLibrary { .. } => Some(Tool::Cargo),
        Work::GoModules { .. } | Work::GoBinary { .. } => Some(Tool::Go),
        Work::GoToolchain { .. } | Work::WheelSet { .. } | Work::Model { .. } => None,
        Work::DebianBase { .. } | Work::RegistryBase { .. } | Work::BaseLayer { .. } => None,
        Work::Layer { .. } | Work::Image { .. } | Work::Attestation { .. } => None,
    };
    let tools = plan.running().filter_map(tool).collect();
    Event::Plan {
        steps: plan.steps.iter().map(|step| step.planned(commands(workshop, step, facts))).collect(),
        egress: workshop.outside.hosts(&ecosystems),
        tools: if runs && workshop.outside.profile().is_some() {
            workshop.outside.mappings(&tools)
        } else {
            Vec::new()
        },
        asked,
    }
}

/// The children that a step would start, as a person would type them.
fn commands(workshop: &Workshop, step: &Step, facts: &Facts) -> Vec<String> {
    if step.status != Status::Run {
        return Vec::new();
    }
    match &step.work {
        Work::NativeLibrary { name, .. } => workshop.library_commands(name, step, facts),
        Work::GoBinary { name, cross } => workshop.binary_commands(name, *cross),
        Work::GoModules { .. } => vec!["go mod download -x".to_owned()],
        Work::Layer { image, layer, .. } => workshop.layer_commands(image, layer),
        Work::GoToolchain { .. } | Work::WheelSet { .. } | Work::Model { .. } => Vec::new(),
        Work::DebianBase { .. } | Work::RegistryBase { .. } | Work::BaseLayer { .. } => Vec::new(),
        Work::Image { .. } | Work::Attestation { .. } => Vec::new(),
    }
}

/// The plan of one target, and every input that differs.
fn why(settings: &Settings, project: &Project, sink: Sink, why: &cli::Why) -> Result<()> {
    let (wants, id) = explained(settings, project, why)?;
    let workshop = Workshop::new(settings, project, sink)?;
    let facts = workshop.gather(&wants)?;
    let mut plan = workshop.plan(&wants, &facts, None)?;
    if let Some(id) = &id {
        plan.keep(id);
    }
    // Nothing is fetched, so no tool is asked where from.
    let steps = plan.steps.iter().map(|step| step.planned(commands(&workshop, step, &facts))).collect();
    workshop.sink.send(Event::Plan { steps, egress: Default::default(), tools: Vec::new(), asked: true });
    for step in plan.running() {
        for reason in &step.changed {
            workshop.sink.note(format!("{} {}: {reason}", right_aligned(&tr!("why"), 12), step.id));
        }
    }
    if plan.running().next().is_none() {
        workshop.sink.note(format!(
            "{} {}",
            right_aligned(&tr!("why"), 12),
            tr!("{target} is up to date", target = why.target)
        ));
    }
    Ok(())
}

/// What a plan must want to explain a target, and the step that is meant where it was named by its id.
fn explained(settings: &Settings, project: &Project, why: &cli::Why) -> Result<(Wants, Option<String>)> {
    let it = &project.declaration;
    let mut wants = no_wants(settings, project, &why.variant)?;
    let names = |kind: &'static str| -> Vec<(&'static str, &str)> {
        let names: Vec<&String> = match kind {
            "native-library" => it.native_library.keys().collect(),
            "go-binary" | "go-modules" => it.go_binary.keys().collect(),
            "wheel-set" => it.wheel_set.keys().collect(),
            _ => it.model.keys().collect(),
        };
        names.into_iter().map(|name| (kind, name.as_str())).collect()
    };
    let targets: Vec<_> = ["native-library", "go-binary", "wheel-set", "model"].into_iter().flat_map(names).collect();
    let steps: Vec<_> = targets.iter().copied().chain(names("go-modules")).chain([("toolchain", "go")]).collect();
    let by_id = steps.iter().copied().find(|(kind, name)| why.target == format!("{kind}:{name}"));
    let by_name: Vec<_> = targets.iter().copied().filter(|(_, name)| *name == why.target).collect();
    let (kind, name) = match (by_id, by_name.as_slice()) {
        (Some(step), _) | (None, &[step]) => step,
        (None, []) => {
            let known: Vec<_> = targets.iter().map(|(_, name)| *name).collect();
            let ids: Vec<_> = steps.iter().map(|(kind, name)| format!("{kind}:{name}")).collect();
            let listed = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let error = Error::new(
                Code::UnknownName,
                tr!("there is no target `{target}`; xtask.toml declares {listed}", target = why.target, listed),
            );
            return Err(did_you_mean(error, &why.target, known.into_iter().chain(ids.iter().map(String::as_str))));
        }
        (None, several) => {
            let ids: Vec<_> = several.iter().map(|(kind, name)| format!("`{kind}:{name}`")).collect();
            return Err(Error::new(
                Code::UnknownName,
                tr!("`{target}` is the name of several things", target = why.target),
            )
            .hint(tr!("say which: {ids}", ids = ids.join(" or "))));
        }
    };
    match kind {
        "native-library" => drop(wants.libraries.insert(name.to_owned())),
        "wheel-set" => drop(wants.wheel_sets.insert(name.to_owned())),
        "model" => drop(wants.models.insert(name.to_owned())),
        "toolchain" => it.go_binary.keys().for_each(|binary| want_binary(&mut wants, project, binary)),
        _ => want_binary(&mut wants, project, name),
    }
    Ok((wants, by_id.map(|_| why.target.clone())))
}

/// Nothing yet, to be built as `variant` says.
fn no_wants(settings: &Settings, project: &Project, variant: &cli::Variant) -> Result<Wants> {
    let features = match &variant.features {
        Some(features) => features.clone(),
        None if settings.environment.get(env::ENABLE_FLASH_ATTN) == Some("1") => old_flash_attn(project)?,
        None => DEFAULT_FEATURES.to_owned(),
    };
    Ok(Wants { features, profile: variant.profile.clone(), ..Wants::default() })
}

/// What is built where nobody says otherwise.
const DEFAULT_FEATURES: &str = "cpu";

/// The feature set that the old ENABLE_FLASH_ATTN stands for.
fn old_flash_attn(project: &Project) -> Result<String> {
    const FLASH_ATTN: &str = "flash-attn";
    if project.declaration.native_library.values().any(|library| library.features.contains_key(FLASH_ATTN)) {
        return Ok(FLASH_ATTN.to_owned());
    }
    let name = env::ENABLE_FLASH_ATTN;
    Err(Error::new(
        Code::OldVariable,
        tr!(
            "{name}=1 asks for feature set `{features}`, which no native library declares",
            name,
            features = FLASH_ATTN
        ),
    )
    .hint(tr!("unset {name}, or choose a feature set with --features NAME", name)))
}

/// A binary, with the libraries that it links.
fn want_binary(wants: &mut Wants, project: &Project, name: &str) {
    wants.binaries.insert(name.to_owned());
    wants.libraries.extend(linked_by(project, name));
}

/// The libraries that a binary links.
fn linked_by(project: &Project, binary: &str) -> impl Iterator<Item = String> {
    let declared = project.declaration.go_binary.get(binary);
    declared.into_iter().flat_map(|binary| binary.links.iter().cloned())
}

/// What `--platform` comes to: nothing where it is this machine's. Results run on every base among `bases` that is pinned for it, and
/// with the C library `floor`.
fn cross<'b>(
    project: &'b Project,
    platform: Option<Platform>,
    bases: impl Iterator<Item = &'b String>,
    floor: Option<(u32, u32)>,
) -> Result<Option<Cross>> {
    let Some(platform) = platform.filter(|it| Some(*it) != Platform::here()) else { return Ok(None) };
    let pins = bases.filter_map(|base| project.pins.debian_base.get(base)?.get(&platform.name()));
    let glibc = pins.filter_map(|pins| glibc_of(pins)).chain(floor).min().ok_or_else(|| {
        Error::new(Code::NotPinned, tr!("xtask.lock pins no Debian base with a C library for {platform}", platform))
            .hint(tr!("what is made for another platform runs with the C library of a [debian-base]: `cargo xtask lock update`"))
    })?;
    Ok(Some(Cross { platform, glibc }))
}

/// Names of targets as wants; a binary brings the libraries that it links.
fn wanted(settings: &Settings, project: &Project, targets: &cli::Targets) -> Result<Wants> {
    let it = &project.declaration;
    let mut wants = no_wants(settings, project, &targets.variant)?;
    wants.cross = cross(project, targets.platform, it.debian_base.keys(), None)?;
    let all: Vec<&String> = it.native_library.keys().chain(it.go_binary.keys()).collect();
    let named: Vec<&String> = if targets.targets.is_empty() { all.clone() } else { targets.targets.iter().collect() };
    for name in named {
        if it.go_binary.contains_key(name) {
            want_binary(&mut wants, project, name);
        } else if it.native_library.contains_key(name) {
            wants.libraries.insert(name.clone());
        } else {
            let known = all.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let error = Error::new(
                Code::UnknownName,
                tr!("there is no target `{name}`; xtask.toml declares {known}", name, known),
            );
            if name.contains('=') {
                return Err(error.hint(tr!("a variable goes before the command: {name} cargo xtask build", name)));
            }
            if name == "all" {
                return Err(error.hint(tr!("all are built where none is named")));
            }
            return Err(did_you_mean(error, name, all.iter().map(|name| name.as_str())));
        }
    }
    Ok(wants)
}
