//! From declaration and facts to steps: one function a kind.

use super::{Place, Plan, Premise, Step, Work, images, named_for};
use crate::cache::key::{GoBinary, Inputs, NativeLibrary, Pinned};
use crate::cache::reason::Reason;
use crate::cache::store::Lookup;
use crate::error::{Code, Error, Result};
use crate::facts::{Compiler, Go, Wants};
use crate::project::pins::WheelPin;
use crate::project::{ModelSource, Project, ZigToolchain};
use crate::report::Status;
use crate::settings::env;
use crate::toolchain::cross::Cross;
use crate::tr;
use crate::wheel::{self, Interpreter};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

/// The plan for everything that is wanted.
pub fn build(premise: &Premise) -> Result<Plan> {
    let mut plan = Plan::default();
    let Wants { libraries, binaries, here, cross, .. } = premise.wants;
    for (cross, libraries) in [(*cross, libraries), (None, &here.libraries)] {
        for name in libraries {
            plan.steps.push(native_library(premise, name, cross)?);
        }
    }
    distinct_files(premise)?;
    let mut made = Vec::new();
    for (cross, binaries) in [(*cross, binaries), (None, &here.binaries)] {
        for name in binaries {
            made.push(go_binary(premise, name, cross, &plan)?);
        }
    }
    let mut binaries = made;
    if let Some(zig) = zig_for(premise, plan.steps.iter_mut().chain(binaries.iter_mut().map(|(step, _)| step)))? {
        plan.steps.insert(0, zig);
    }
    let toolchain = go_toolchain(premise, premise.wants.go || binaries.iter().any(|(_, prepare)| *prepare))?;
    let toolchain_id = toolchain.as_ref().map(|step| step.id.clone());
    plan.steps.extend(toolchain);
    for (mut binary, prepare) in binaries {
        let zig = binary.needs.iter().find(|id| id.starts_with("wheel-set:")).cloned();
        let modules = go_modules(&binary.work, toolchain_id.iter().cloned().chain(zig).collect(), prepare);
        binary.needs.extend(toolchain_id.clone());
        binary.needs.push(modules.id.clone());
        plan.steps.push(modules);
        plan.steps.push(binary);
    }
    for name in &premise.wants.wheel_sets {
        plan.steps.push(wheel_set(premise, name, None)?);
    }
    for name in &premise.wants.models {
        plan.steps.push(model(premise, name)?);
    }
    for name in &premise.wants.images {
        images::image(premise, name, &mut plan)?;
    }
    for name in &premise.wants.bases {
        images::add_base(premise, name, &mut plan)?;
    }
    Ok(plan)
}

/// Two libraries with one file name would take each other's place.
fn distinct_files(premise: &Premise) -> Result<()> {
    let mut owners: BTreeMap<&String, &String> = BTreeMap::new();
    for (name, library) in &premise.facts.libraries {
        if let Some(other) = owners.insert(&library.file, name) {
            let message = tr!(
                "native-library.{other} and native-library.{name} both make {file}",
                other,
                name,
                file = library.file
            );
            let place = ["native-library", name, "path"];
            return Err(premise
                .project
                .source
                .error(Code::BadName, &place, &message)
                .hint(tr!("give one of them another [lib] name in its Cargo.toml")));
        }
    }
    Ok(())
}

/// A step with a key: its status follows from what the store and its place hold.
pub(super) fn keyed(premise: &Premise, work: Work, name: &str, inputs: Inputs, place: Place) -> Result<Step> {
    let mut step = Step { status: Status::Run, place, ..Step::skipped(work, name) };
    // Only what is compiled can come out differently; pinned bytes cannot.
    let compiled = matches!(step.work, Work::NativeLibrary { .. } | Work::GoBinary { .. });
    step.anew = compiled && premise.fresh.is_some_and(|made| !made.contains(&step.id));
    let key = inputs.key();
    match premise.view.lookup(&key)? {
        _ if step.anew => step.reason = Some(Reason::because(tr!("asked for with --fresh"))),
        Lookup::Hit(entry) => {
            let missing = entry
                .outputs
                .iter()
                .find(|output| step.place.of(output).is_some_and(|path| !premise.view.is_in_place(&path, output)));
            step.status = if missing.is_some() { Status::Restore } else { Status::Hit };
            step.reason = missing.map(|output| Reason::because(tr!("{path} is not in place", path = output.path)));
            step.entry = Some(entry);
        }
        Lookup::Broken(files) => {
            let names: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
            step.reason = Some(Reason::because(tr!("altered in the store: {names}", names = names.join(", "))));
            step.broken = files;
        }
        Lookup::Absent => {
            step.reason = Some(match premise.view.last_inputs(&step.id) {
                None => Reason::because(tr!("first time in this checkout")),
                Some(last) => {
                    step.changed = Reason::compare(&last, &inputs.flat());
                    smallest(&step.changed)
                }
            });
        }
    }
    step.inputs = Some(inputs);
    step.key = Some(key);
    Ok(step)
}

/// One reason for several: the first, with the count of the others.
pub(super) fn smallest(reasons: &[Reason]) -> Reason {
    match reasons {
        [] => Reason::because(tr!("its result is gone from the store")),
        [only] => only.clone(),
        [first, others @ ..] => {
            let mut first = first.clone();
            first.input.push_str(&tr!(" (and {count} more)", count = others.len()));
            first
        }
    }
}

fn environment(premise: &Premise, names: &[impl AsRef<str>]) -> BTreeMap<String, String> {
    let plain = |value: OsString| value.to_string_lossy().into_owned();
    premise.settings.environment.only(names).into_iter().map(|(name, value)| (name, plain(value))).collect()
}

pub(super) fn unknown(what: &str, name: &str) -> Error {
    Error::bug(tr!("the facts about {what} {name} were not gathered", what, name))
}

fn compiler<'a>(premise: &'a Premise) -> Result<&'a Compiler> {
    premise.facts.compiler.as_ref().ok_or_else(|| unknown("the", "C compiler"))
}

/// What compiles C for a platform, and for which C library.
pub(super) fn compiler_and_libc(premise: &Premise, cross: Option<Cross>) -> Result<(String, String)> {
    match cross {
        None => compiler(premise).map(|it| (it.version.clone(), it.libc.clone())),
        Some(cross) => {
            let (_, zig) = zig(premise.project, cross)?;
            Ok((zig.pins.into_iter().map(|(project, wheel)| format!("{project} {wheel}")).collect(), cross.libc()))
        }
    }
}

/// The program inside its wheel set, and what names that set in the store.
pub fn zig(project: &Project, cross: Cross) -> Result<(&ZigToolchain, Pinned)> {
    let declared = project.declaration.toolchain.zig.as_ref().ok_or_else(|| {
        let platform = cross.platform;
        Error::new(Code::Undeclared, tr!("xtask.toml names nothing that compiles C for {platform}", platform))
            .hint(tr!("add [toolchain.zig] with `wheel-set` and `path`, and a wheel set that holds ziglang"))
    })?;
    Ok((declared, wheel_set_pins(project, &declared.wheel_set, &for_programs())?))
}

/// Wheels that hold a static program suit every Python, and the oldest C library that they are marked with.
fn for_programs() -> Interpreter {
    Interpreter { version: (3, 0), architecture: std::env::consts::ARCH.to_owned(), glibc: Some((2, 17)) }
}

/// The step that brings zig, if any of these has to be compiled with it; each of those then needs it.
fn zig_for<'s>(premise: &Premise, steps: impl Iterator<Item = &'s mut Step>) -> Result<Option<Step>> {
    let Some(cross) = premise.wants.cross else { return Ok(None) };
    let is_for_it = |step: &&mut Step| {
        let (Work::NativeLibrary { cross, .. } | Work::GoBinary { cross, .. }) = step.work else { return false };
        step.status == Status::Run && cross.is_some()
    };
    let mut steps = steps.filter(is_for_it).peekable();
    if steps.peek().is_none() {
        return Ok(None);
    }
    let (declared, _) = zig(premise.project, cross)?;
    let step = wheel_set(premise, &declared.wheel_set, Some(for_programs()))?;
    steps.for_each(|it| it.needs.push(step.id.clone()));
    Ok(Some(step))
}

fn native_library(premise: &Premise, name: &str, cross: Option<Cross>) -> Result<Step> {
    let place = Place::Folder(premise.settings.workspace.dist_lib(cross.map(|it| it.platform)));
    let work = Work::NativeLibrary { name: name.to_owned(), cross };
    let inputs = native_library_inputs(premise, name, cross)?;
    keyed(premise, work, &named_for(name, cross.as_ref()), inputs, place)
}

fn native_library_inputs(premise: &Premise, name: &str, cross: Option<Cross>) -> Result<Inputs> {
    let facts = premise.facts.libraries.get(name).ok_or_else(|| unknown("library", name))?;
    let rust = premise.facts.rust.as_ref().ok_or_else(|| unknown("the", "Rust toolchain"))?;
    let (c_compiler, libc) = compiler_and_libc(premise, cross)?;
    Ok(Inputs::NativeLibrary(NativeLibrary {
        name: name.to_owned(),
        sources: facts.sources.clone(),
        locked: facts.locked.clone(),
        rustc: rust.version.clone(),
        cargo: rust.cargo_version.clone(),
        target: cross.map_or_else(|| rust.host.clone(), |cross| cross.platform.rust_target()),
        features: facts.cargo_features.clone(),
        profile: premise.wants.profile.clone(),
        c_compiler,
        libc,
        environment: environment(premise, env::NATIVE_KEYED),
        declared_environment: environment(premise, &facts.environment),
        declared_files: facts.environment_files.clone(),
        cargo_configuration: facts.configuration.clone(),
    }))
}

/// The inputs of a step that was just made, from facts gathered anew: equal to its own unless one changed meanwhile. What a binary
/// links came out of the store and stays what it was.
pub fn inputs_again(premise: &Premise, step: &Step) -> Result<Inputs> {
    match (&step.work, &step.inputs) {
        (Work::NativeLibrary { name, cross }, _) => native_library_inputs(premise, name, *cross),
        (Work::GoBinary { name, cross }, Some(Inputs::GoBinary(then))) => {
            let now = go_binary_inputs(premise, name, *cross)?;
            Ok(Inputs::GoBinary(GoBinary { interfaces: then.interfaces.clone(), ..now }))
        }
        _ => Err(Error::bug(tr!("{id} has no inputs to gather again", id = step.id))),
    }
}

/// All but the interfaces of what it links.
fn go_binary_inputs(premise: &Premise, name: &str, cross: Option<Cross>) -> Result<GoBinary> {
    let facts = premise.facts.binaries.get(name).ok_or_else(|| unknown("binary", name))?;
    let declared = premise.project.declaration.go_binary.get(name).ok_or_else(|| unknown("binary", name))?;
    let go = premise.facts.go.as_ref().ok_or_else(|| unknown("the", "Go toolchain"))?;
    let (c_compiler, libc) = compiler_and_libc(premise, cross)?;
    Ok(GoBinary {
        name: name.to_owned(),
        sources: facts.sources.clone(),
        main: declared.main.clone(),
        go: go.version().to_owned(),
        tags: declared.tags.clone(),
        ldflags: declared.ldflags.clone(),
        platform: cross.map(|cross| cross.platform.name()),
        c_compiler,
        libc,
        environment: environment(premise, env::GO_KEYED),
        declared_environment: environment(premise, &declared.environment),
        declared_files: facts.environment_files.clone(),
        interfaces: BTreeMap::new(),
    })
}

/// The binary's step, and whether Go's downloads and the compilation of what it stands on should start at once.
fn go_binary(premise: &Premise, name: &str, cross: Option<Cross>, plan: &Plan) -> Result<(Step, bool)> {
    let declared = premise.project.declaration.go_binary.get(name).ok_or_else(|| unknown("binary", name))?;
    let mut inputs = go_binary_inputs(premise, name, cross)?;
    let mut needs = Vec::new();
    let mut linked = Vec::new();
    let mut unmade = Vec::new();
    for library in &declared.links {
        let id = format!("native-library:{}", named_for(library, cross.as_ref()));
        let step = plan.step(&id).ok_or_else(|| unknown("library", library))?;
        linked.extend(step.entry.clone());
        match step.entry.as_ref().and_then(|entry| entry.interfaces.get(library)) {
            Some(interface) => {
                inputs.interfaces.insert(library.clone(), *interface);
            }
            None => unmade.push(id.clone()),
        }
        needs.push(id);
    }
    let place = Place::Folder(premise.settings.workspace.dist_bin(cross.map(|it| it.platform)));
    let work = Work::GoBinary { name: name.to_owned(), cross };
    let id = named_for(name, cross.as_ref());
    if unmade.is_empty() {
        let mut step = keyed(premise, work, &id, Inputs::GoBinary(inputs), place)?;
        step.needs = needs;
        step.linked = linked;
        let prepare = step.status == Status::Run;
        return Ok((step, prepare));
    }
    let step = Step { needs, status: Status::Run, provisional: true, place, ..Step::skipped(work, &id) };
    let flat = Inputs::GoBinary(inputs).flat();
    let changed = premise.view.last_inputs(&step.id).map(|mut last| {
        last.retain(|name, _| !name.starts_with("interfaces"));
        Reason::compare(&last, &flat)
    });
    // Where nothing but the library changed, its interface most likely did not, and the binary will turn out a hit.
    let prepare = premise.fresh.is_some() || changed.as_ref().is_none_or(|reasons| !reasons.is_empty());
    let reason = match &changed {
        None => Reason::because(tr!("first time in this checkout")),
        Some(reasons) if reasons.is_empty() => {
            Reason::because(tr!("{unmade} is made first", unmade = unmade.join(", ")))
        }
        Some(reasons) => smallest(reasons),
    };
    let step = Step { reason: Some(reason), changed: changed.unwrap_or_default(), ..step };
    Ok((step, prepare))
}

/// `None` where the installed Go is used.
fn go_toolchain(premise: &Premise, wanted: bool) -> Result<Option<Step>> {
    let Some(Go::Pinned { version, platform, passed_over }) = &premise.facts.go else { return Ok(None) };
    let pins = premise.project.pins.go.as_ref().and_then(|go| go.platform.get(platform));
    let pins = pins.ok_or_else(|| unknown("the pins of", platform))?;
    let work = Work::GoToolchain { version: version.clone(), platform: platform.clone() };
    if !wanted {
        // A toolchain has thousands of files: whoever does not need it does not look at them.
        return Ok(Some(Step::skipped(work, "go")));
    }
    let inputs = Inputs::Toolchain(go_toolchain_pins(version, platform, &pins.h1));
    let mut step = keyed(premise, work, "go", inputs, Place::Store)?;
    if step.status == Status::Run && step.broken.is_empty() {
        let minimum = &premise.project.declaration.toolchain.go.minimum;
        step.reason = Some(Reason::because(match passed_over {
            Some(found) => tr!("go {found} on PATH is older than {minimum}", found, minimum),
            None => tr!("there is no go on PATH"),
        }));
    }
    Ok(Some(step))
}

/// Either artifact may serve the toolchain; they hold the same files, so one of the two hashes is enough to name the result.
pub fn go_toolchain_pins(version: &str, platform: &str, h1: &str) -> Pinned {
    let pins = [(format!("go{version} {platform}"), h1.to_owned())].into();
    Pinned { name: "go".to_owned(), pins, ..Pinned::default() }
}

fn go_modules(binary: &Work, needs: Vec<String>, wanted: bool) -> Step {
    let (binary, cross) = match binary {
        Work::GoBinary { name, cross } => (name.clone(), *cross),
        _ => Default::default(),
    };
    let name = named_for(&binary, cross.as_ref());
    let mut step = Step { needs, ..Step::skipped(Work::GoModules { binary, cross }, &name) };
    if wanted {
        step.status = Status::Run;
    }
    step
}

/// The pinned files of a wheel set that suit an interpreter, one a project; this machine's where none is named.
pub fn chosen_wheels<'a>(
    premise: &'a Premise,
    name: &str,
    interpreter: Option<&'a Interpreter>,
) -> Result<Vec<&'a WheelPin>> {
    let ours = premise.facts.python.as_ref().map(|python| &python.interpreter);
    let interpreter = interpreter.or(ours).ok_or_else(|| unknown("the", "Python interpreter"))?;
    wheels_for(premise.project, name, interpreter)
}

/// Those of a set that suit an interpreter, one a project.
pub fn wheels_for<'a>(project: &'a Project, name: &str, interpreter: &Interpreter) -> Result<Vec<&'a WheelPin>> {
    let pins = project.pins.wheel_set.get(name).map_or(&[][..], Vec::as_slice);
    let projects: BTreeSet<&String> = pins.iter().map(|pin| &pin.project).collect();
    if projects.is_empty() {
        return Err(not_pinned(project, "wheel-set", name));
    }
    let mut chosen = Vec::new();
    for project in projects {
        let files: Vec<&WheelPin> = pins.iter().filter(|pin| pin.project == *project).collect();
        let (major, minor) = interpreter.version;
        let best = wheel::choose(&files, |pin| &pin.filename, interpreter).ok_or_else(|| {
            Error::new(
                Code::NoPython,
                tr!(
                    "xtask.lock pins no wheel of {project} for CPython {major}.{minor} on {architecture}",
                    project,
                    major,
                    minor,
                    architecture = interpreter.architecture
                ),
            )
            .hint(tr!("put a python3 between 3.10 and 3.14 first on PATH"))
        })?;
        chosen.push(*best);
    }
    Ok(chosen)
}

pub fn not_pinned(project: &Project, table: &str, name: &str) -> Error {
    let message = tr!("xtask.lock pins nothing for {table}.{name}", table, name);
    let error = project.source.error(Code::NotPinned, &[table, name], &message);
    error.hint(tr!("run `cargo xtask lock update {name}`", name))
}

/// The pins are of what is declared: an edit of xtask.toml alone must not be passed over in silence.
fn pinned_as_declared(premise: &Premise, place: &[&str], wanted: &str, pins: &[WheelPin]) -> Result<()> {
    let (project, version) = wheel::requirement(wanted)?;
    let pinned: BTreeSet<String> =
        pins.iter().filter(|pin| pin.project == project).map(|pin| wheel::version(&pin.filename)).collect();
    if pinned.contains(&version) {
        return Ok(());
    }
    let pinned = pinned.into_iter().next().unwrap_or_else(|| "none".to_owned());
    let message = tr!("{project} {version} is asked for, and xtask.lock pins {pinned}", project, version, pinned);
    let name = place.get(1).copied().unwrap_or_default();
    let error = premise.project.source.error(Code::NotPinned, place, &message);
    Err(error.hint(tr!("run `cargo xtask lock update {name}`", name)))
}

pub(super) fn wheel_set(premise: &Premise, name: &str, interpreter: Option<Interpreter>) -> Result<Step> {
    let ours = premise.facts.python.as_ref().map(|python| &python.interpreter);
    let suited = interpreter.as_ref().or(ours).ok_or_else(|| unknown("the", "Python interpreter"))?;
    let inputs = Inputs::WheelSet(wheel_set_pins(premise.project, name, suited)?);
    let pins = premise.project.pins.wheel_set.get(name).map_or(&[][..], Vec::as_slice);
    for wanted in premise.project.declaration.wheel_set.get(name).into_iter().flat_map(|set| &set.projects) {
        pinned_as_declared(premise, &["wheel-set", name, "projects", wanted], wanted, pins)?;
    }
    let id = match &interpreter {
        None => name.to_owned(),
        Some(it) => format!("{name}@{it}"),
    };
    keyed(premise, Work::WheelSet { name: name.to_owned(), interpreter }, &id, inputs, Place::Store)
}

/// What names an unpacked wheel set.
fn wheel_set_pins(project: &Project, name: &str, interpreter: &Interpreter) -> Result<Pinned> {
    let wheels = wheels_for(project, name, interpreter)?;
    let pins = wheels.iter().map(|pin| (pin.project.clone(), format!("{} {}", pin.filename, pin.sha256))).collect();
    let declared = project.declaration.wheel_set.get(name);
    let executable = declared.map(|set| set.executable.clone()).unwrap_or_default();
    Ok(Pinned { name: name.to_owned(), pins, executable })
}

fn model(premise: &Premise, name: &str) -> Result<Step> {
    let pins = premise.project.pins.model.get(name).filter(|pins| !pins.file.is_empty());
    let pins = pins.ok_or_else(|| not_pinned(premise.project, "model", name))?;
    for source in premise.project.declaration.model.get(name).into_iter().flat_map(|model| &model.sources) {
        if let ModelSource::Wheel { project, .. } = source {
            pinned_as_declared(premise, &["model", name, "sources"], project, pins.wheel.as_slice())?;
        }
    }
    let pins = pins.file.iter().map(|file| (file.path.clone(), file.sha256.to_string())).collect();
    let inputs = Inputs::Model(Pinned { name: name.to_owned(), pins, ..Pinned::default() });
    let place = Place::Folder(premise.settings.workspace.models().join(name));
    keyed(premise, Work::Model { name: name.to_owned() }, name, inputs, place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::Key;
    use crate::cache::store::{Entry, Layout, Output};
    use crate::digest::Digest;
    use crate::facts::{Binary, Compiled, Facts, Library, Rust};
    use crate::plan::View;
    use crate::project::{Declaration, Local};
    use crate::settings::Settings;
    use crate::workspace::Workspace;
    use std::cell::RefCell;
    use std::path::Path;

    /// A store held in memory: the second real implementation of [`View`].
    #[derive(Default)]
    struct Memory {
        entries: RefCell<BTreeMap<Key, Entry>>,
        last: RefCell<BTreeMap<String, BTreeMap<String, String>>>,
        in_place: bool,
    }

    impl View for Memory {
        fn lookup(&self, key: &Key) -> Result<Lookup> {
            Ok(self.entries.borrow().get(key).map_or(Lookup::Absent, |entry| Lookup::Hit(entry.clone())))
        }
        fn is_in_place(&self, _: &Path, _: &Output) -> bool {
            self.in_place
        }
        fn last_inputs(&self, step: &str) -> Option<BTreeMap<String, String>> {
            self.last.borrow().get(step).cloned()
        }
    }

    impl Memory {
        /// As if the step had run with this interface.
        fn made(&self, step: &Step, interface: Option<&[u8]>) {
            let inputs = step.inputs.as_ref().unwrap();
            let name = step.id.split([':', '@']).nth(1).unwrap().to_owned();
            let entry = Entry {
                key: inputs.key(),
                step: step.id.clone(),
                layout: Layout::Objects,
                outputs: vec![Output { path: "x".into(), digest: Digest::of(b"x"), size_bytes: 1, executable: false }],
                interfaces: interface.map(|bytes| (name, Digest::of(bytes))).into_iter().collect(),
                crates: BTreeMap::new(),
                inputs: inputs.flat(),
            };
            self.last.borrow_mut().insert(step.id.clone(), inputs.flat());
            self.entries.borrow_mut().insert(entry.key, entry);
        }
    }

    struct World {
        settings: Settings,
        project: Project,
        facts: Facts,
        wants: Wants,
    }

    fn world() -> World {
        let declaration: Declaration = toml::from_str(
            r#"
            project = { name = "x" }
            native-library.binding = { path = "b", header = "b/b.h" }
            go-binary.router = { module = "r", main = "./cmd", links = ["binding"] }
            "#,
        )
        .unwrap();
        let settings = Settings::resolve(
            &crate::cli::Global::default(),
            Workspace { root: "/repo".into() },
            crate::settings::env::Environment([("HOME".to_owned(), "/home/me".into())].into()),
            Local::default(),
            &declaration,
            false,
        )
        .unwrap();
        let library = Library {
            name: "binding".into(),
            folder: "/repo/b".into(),
            file: "libb.so".into(),
            target: "b".into(),
            sources: [("src/lib.rs".to_owned(), Digest::of(b"1"))].into(),
            header: Digest::of(b"h"),
            locked: BTreeMap::new(),
            checksums: BTreeMap::new(),
            crates: BTreeSet::new(),
            configuration: BTreeMap::new(),
            target_rustflags: false,
            environment: vec![],
            environment_files: BTreeMap::new(),
            feature_set: "cpu".into(),
            cargo_features: vec![],
            seen: Default::default(),
        };
        let binary = Binary {
            folder: "/repo/r".into(),
            modules: BTreeMap::new(),
            sources: [("r/cmd/main.go".to_owned(), Digest::of(b"1"))].into(),
            headers: None,
            environment_files: BTreeMap::new(),
            seen: Default::default(),
        };
        let facts = Facts {
            rust: Some(Rust {
                cargo: "cargo".into(),
                rustc: "rustc".into(),
                version: "rustc 1".into(),
                cargo_version: "cargo 1".into(),
                host: "x".into(),
                standard_sources: "/s".into(),
                cargo_home: "/c".into(),
                seen: Default::default(),
            }),
            compiler: Some(Compiler {
                path: "cc".into(),
                version: "cc 1".into(),
                libc: "glibc 2".into(),
                seen: Default::default(),
            }),
            go: Some(Go::Installed { path: "go".into(), version: "1.27.3".into() }),
            libraries: [("binding".to_owned(), library)].into(),
            binaries: [("router".to_owned(), binary)].into(),
            ..Facts::default()
        };
        let wants = Wants {
            libraries: ["binding".to_owned()].into(),
            binaries: ["router".to_owned()].into(),
            profile: "release".into(),
            features: "cpu".into(),
            ..Wants::default()
        };
        World {
            settings,
            project: Project { declaration, pins: Default::default(), source: Default::default() },
            facts,
            wants,
        }
    }

    fn plan(world: &World, view: &Memory) -> Plan {
        let World { settings, project, facts, wants } = world;
        build(&Premise { settings, project, facts, wants, fresh: None, view }).unwrap()
    }

    #[test]
    fn another_platform_has_steps_of_its_own_and_brings_zig_only_where_something_is_compiled() {
        let (mut world, mut view) = (world(), Memory::default());
        world.project.declaration.toolchain.zig =
            Some(ZigToolchain { wheel_set: "zig".into(), path: "ziglang/zig".into() });
        let pin = WheelPin {
            project: "ziglang".into(),
            filename: format!("ziglang-0.15.2-py3-none-manylinux_2_12_{}.whl", std::env::consts::ARCH),
            sha256: Digest::of(b"zig"),
            size_bytes: 1,
        };
        world.project.pins.wheel_set.insert("zig".into(), vec![pin]);
        let here = shape(&plan(&world, &view));
        world.wants.cross = Some(Cross { platform: "linux/arm64".parse().unwrap(), glibc: (2, 36) });
        world.wants.here.binaries.insert("router".into());
        world.wants.here.libraries.insert("binding".into());
        let first = plan(&world, &view);
        let ids = || first.steps.iter().map(|step| step.id.as_str());
        assert!(ids().next().unwrap().starts_with("wheel-set:zig@"), "{:?}", shape(&first));
        let cross = first.step("native-library:binding@linux-arm64").unwrap();
        assert!(cross.needs.iter().any(|id| id.starts_with("wheel-set:zig@")));
        assert_eq!(cross.place, Place::Folder("/repo/dist/linux-arm64/lib".into()));
        assert_ne!(cross.key, first.step("native-library:binding").unwrap().key);
        let of_here: Vec<_> = shape(&first).into_iter().filter(|(id, ..)| !id.contains('@')).collect();
        assert_eq!(of_here, here, "what is made for this machine is made as always");

        world.wants.here = Compiled::default();
        view.made(cross, Some(b"interface"));
        view.in_place = true;
        let second = plan(&world, &view);
        view.made(second.step("go-binary:router@linux-arm64").unwrap(), None);
        assert!(plan(&world, &view).steps.iter().all(|step| !step.id.starts_with("wheel-set:")));
        // An older floor is another library.
        world.wants.cross = Some(Cross { platform: "linux/arm64".parse().unwrap(), glibc: (2, 31) });
        let older = plan(&world, &view);
        let changed = &older.step("native-library:binding@linux-arm64").unwrap().changed;
        assert_eq!(changed.iter().map(|it| it.input.as_str()).collect::<Vec<_>>(), ["libc"]);
    }

    fn shape(plan: &Plan) -> Vec<(String, Status, bool)> {
        plan.steps.iter().map(|step| (step.id.clone(), step.status, step.provisional)).collect()
    }

    fn expected(library: Status, modules: Status, binary: Status, provisional: bool) -> Vec<(String, Status, bool)> {
        vec![
            ("native-library:binding".into(), library, false),
            ("go-modules:router".into(), modules, false),
            ("go-binary:router".into(), binary, provisional),
        ]
    }

    #[test]
    fn a_cold_build_prepares_go_beside_the_library_and_links_in_the_next_round() {
        let (world, mut view) = (world(), Memory::default());
        let first = plan(&world, &view);
        assert_eq!(shape(&first), expected(Status::Run, Status::Run, Status::Run, true));
        view.made(&first.steps[0], Some(b"interface"));
        view.in_place = true;
        let second = plan(&world, &view);
        assert_eq!(shape(&second), expected(Status::Hit, Status::Run, Status::Run, false));
        view.made(&second.steps[2], None);
        assert_eq!(shape(&plan(&world, &view)), expected(Status::Hit, Status::Skip, Status::Hit, false));
    }

    #[test]
    fn a_library_with_another_inside_and_the_same_interface_needs_no_link() {
        let (mut world, mut view) = (world(), Memory::default());
        view.in_place = true;
        let first = plan(&world, &view);
        view.made(&first.steps[0], Some(b"interface"));
        let second = plan(&world, &view);
        view.made(&second.steps[2], None);

        let library = world.facts.libraries.get_mut("binding").unwrap();
        library.sources.insert("src/lib.rs".into(), Digest::of(b"comment"));
        let third = plan(&world, &view);
        assert_eq!(shape(&third), expected(Status::Run, Status::Skip, Status::Run, true));
        assert_eq!(third.steps[0].reason.as_ref().unwrap().input, "sources: src/lib.rs");
        view.made(&third.steps[0], Some(b"interface"));
        assert_eq!(shape(&plan(&world, &view)), expected(Status::Hit, Status::Skip, Status::Hit, false));

        // Another interface: the link is made again, and the reason names it.
        view.made(&third.steps[0], Some(b"one more symbol"));
        let relink = plan(&world, &view);
        assert_eq!(shape(&relink), expected(Status::Hit, Status::Run, Status::Run, false));
        assert_eq!(relink.steps[2].reason.as_ref().unwrap().input, "interfaces: binding");
    }

    #[test]
    fn a_result_that_is_not_in_place_is_restored_and_not_made() {
        let (world, view) = (world(), Memory::default());
        let first = plan(&world, &view);
        view.made(&first.steps[0], Some(b"interface"));
        let second = plan(&world, &view);
        view.made(&second.steps[2], None);
        assert_eq!(shape(&plan(&world, &view)), expected(Status::Restore, Status::Skip, Status::Restore, false));
    }
}
