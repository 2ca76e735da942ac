//! A declared image as plain files, for people who do not use this program when they build it.
//!
//! Owns: the table of stages, which follows each file of an image back to what it is made from; [`dockerfile`] writes it down for
//! BuildKit, [`mirrors`] what a profile means to the tools in it. Never: write a mirror, a proxy or a credential into a stage, look
//! at the disk, or take what is not in the checkout's own declaration and locks. Rules: docs/decisions/0018.

pub mod dockerfile;
pub mod mirrors;

use crate::error::{Code, Error, Result};
use crate::facts::{Binary, Facts, Library};
use crate::files;
use crate::plan;
use crate::platform::Platform;
use crate::project::image::{Content, FileMode, Image, Owner};
use crate::project::pins::{self, WheelPin};
use crate::project::{GoBinary, Project};
use crate::tr;
use crate::wheel::WheelName;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What is built from what until an image is filled; each part is there once, however often it is used.
#[derive(Debug)]
pub struct Stages<'a> {
    /// Of the project.
    pub project: &'a str,
    pub name: &'a str,
    pub image: &'a Image,
    /// Its Debian base.
    pub base: Option<&'a str>,
    /// What it is built on where that is an image of a registry, by digest.
    pub from: Option<String>,
    /// The Debian release of the base, and so of the tools.
    pub suite: &'a str,
    /// Empty: any.
    pub rust_version: &'a str,
    /// Where a program is built.
    pub go: Option<&'a pins::Go>,
    pub libraries: BTreeMap<&'a str, LibraryStage<'a>>,
    pub binaries: BTreeMap<&'a str, BinaryStage<'a>>,
    pub wheels: BTreeMap<&'a str, WheelStage<'a>>,
    pub printed: Vec<PrintedStage<'a>>,
    pub placed: Vec<PlacedStage<'a>>,
    /// What goes into the image, the lowest layer first.
    pub copies: Vec<Copied<'a>>,
}

#[derive(Debug)]
pub struct LibraryStage<'a> {
    pub facts: &'a Library,
    /// Of the package; like every path here, relative to the checkout.
    pub folder: String,
    pub profile: &'a str,
    pub sources: BTreeSet<String>,
}

#[derive(Debug)]
pub struct BinaryStage<'a> {
    pub declared: &'a GoBinary,
    pub folder: String,
    /// What `go mod download` reads.
    pub locks: BTreeSet<String>,
    /// The rest.
    pub sources: BTreeSet<String>,
    /// C headers that Go's own cache does not look at are among them.
    pub headers: bool,
}

#[derive(Debug)]
pub struct WheelStage<'a> {
    /// Of the interpreter in the image; `None`: it holds none.
    pub python: Option<(u32, u32)>,
    /// Lines for `pip --require-hashes`.
    pub requirements: Vec<String>,
    pub executable: BTreeSet<&'a str>,
}

/// What a program of the project prints.
#[derive(Debug)]
pub struct PrintedStage<'a> {
    pub binary: &'a str,
    pub arguments: &'a [String],
    pub reads: &'a [String],
}

/// Files that lie as in the image, since no one instruction brings them there as they are declared.
#[derive(Debug)]
pub struct PlacedStage<'a> {
    pub copied: Copied<'a>,
    pub owner: Owner,
}

/// A file or folder on its way into the image.
#[derive(Debug)]
pub struct Copied<'a> {
    pub layer: &'a str,
    /// `None`: from the checkout.
    pub stage: Option<String>,
    pub from: String,
    pub to: String,
    /// `None`: as it is.
    pub mode: Option<FileMode>,
}

/// Where a stage leaves what others take.
pub const OUT: &str = "/out";
/// What a stage has placed as in the image.
pub const PLACED: &str = "/placed";

/// What an image is made from. `facts` are those that making it natively asks for.
pub fn stages<'a>(
    project: &'a Project,
    facts: &'a Facts,
    root: &Path,
    profile: &'a str,
    default_suite: &'a str,
    name: &'a str,
) -> Result<Stages<'a>> {
    let image = &project.declaration.image[name];
    let base = image.debian_base().map(String::as_str);
    let from = match image.registry_base() {
        Some(reference) => {
            let name = reference.to_string();
            let pin = project.pins.registry_base.get(&name);
            let pin = pin.ok_or_else(|| plan::not_pinned(project, "registry-base", &name))?;
            Some(format!("{}@{}", reference.name(), pin.digest))
        }
        None => None,
    };
    let declared = base.and_then(|base| project.declaration.debian_base.get(base));
    let builder = Builder { project, facts, root, profile, base };
    let mut it = Stages {
        project: &project.declaration.project.name,
        name,
        image,
        base,
        from,
        suite: declared.map_or(default_suite, |base| &base.suite),
        rust_version: &project.declaration.toolchain.rust.version,
        go: None,
        libraries: BTreeMap::new(),
        binaries: BTreeMap::new(),
        wheels: BTreeMap::new(),
        printed: Vec::new(),
        placed: Vec::new(),
        copies: Vec::new(),
    };
    for layer in &image.layer {
        for files in &layer.files {
            let mode = files.mode.unwrap_or(FileMode::FILE);
            let copied = |stage: Option<String>, from: String, to: String, mode| Copied {
                layer: &layer.name,
                stage,
                from,
                to,
                mode,
            };
            let copied = match &files.from {
                Content::Library(library) => {
                    let file = &builder.add_library(&mut it, library)?.file;
                    let from = format!("{OUT}/lib/{file}");
                    copied(Some(dockerfile::library_stage(library)), from, plan::placed(files, file), Some(mode))
                }
                Content::Binary(binary) => {
                    builder.add_binary(&mut it, binary)?;
                    let (from, to) = (format!("{OUT}/bin/{binary}"), plan::placed(files, binary));
                    let mode = files.mode.unwrap_or(FileMode::PROGRAM);
                    copied(Some(dockerfile::binary_stage(binary)), from, to, Some(mode))
                }
                Content::WheelSet(set) => {
                    builder.add_wheels(&mut it, set)?;
                    let to = format!("{}/", files.to.trim_end_matches('/'));
                    copied(Some(dockerfile::wheel_stage(set)), format!("{OUT}/"), to, files.mode)
                }
                Content::Wheel { wheel_set, path } => {
                    builder.add_wheels(&mut it, wheel_set)?;
                    let from = format!("{OUT}/{}", inside(path));
                    copied(Some(dockerfile::wheel_stage(wheel_set)), from, plan::placed(files, path), Some(mode))
                }
                Content::Path(path) => copied(None, path.clone(), plan::placed(files, path), Some(mode)),
                Content::Printed { binary, arguments, reads } => {
                    builder.add_binary(&mut it, binary)?;
                    it.printed.push(PrintedStage { binary, arguments, reads });
                    let stage = dockerfile::printed_stage(it.printed.len());
                    copied(Some(stage), format!("{OUT}/printed"), files.to.clone(), Some(mode))
                }
            };
            // COPY gives an owner to the folders above too, and a mode to those below.
            let is_folder = matches!(files.from, Content::WheelSet(_));
            let copied = match files.owner != Owner::default() || is_folder && files.mode.is_some() {
                false => copied,
                true => {
                    it.placed.push(PlacedStage { copied, owner: files.owner });
                    let stage = Some(dockerfile::placed_stage(it.placed.len()));
                    let (from, to) = (format!("{PLACED}/"), "/".to_owned());
                    Copied { layer: &layer.name, stage, from, to, mode: None }
                }
            };
            it.copies.push(copied);
        }
    }
    it.must_be_writable()?;
    Ok(it)
}

struct Builder<'a, 'r> {
    project: &'a Project,
    facts: &'a Facts,
    root: &'r Path,
    profile: &'a str,
    base: Option<&'a str>,
}

impl<'a> Builder<'a, '_> {
    fn add_library(&self, stages: &mut Stages<'a>, name: &'a str) -> Result<&'a Library> {
        let facts = self.facts.libraries.get(name).ok_or_else(|| not_gathered(name))?;
        let folder = self.relative(&facts.folder);
        let from_package = |label: &String| match label.strip_prefix("//") {
            Some(from_root) => from_root.to_owned(),
            None => joined(&folder, label),
        };
        let mut sources: BTreeSet<String> = facts.sources.keys().map(from_package).collect();
        sources.insert(joined(&folder, "Cargo.lock"));
        sources.extend(self.configuration(facts));
        // A package's src/ as a whole: a file that comes to it needs no new Dockerfile.
        let folders: Vec<String> = sources
            .iter()
            .filter_map(|path| Some(joined(path.strip_suffix("Cargo.toml")?.trim_end_matches('/'), "src")))
            .collect();
        let whole = |path: String| folders.iter().find(|folder| is_below(&path, folder)).cloned().unwrap_or(path);
        let sources = sources.into_iter().map(whole).collect();
        stages.libraries.insert(name, LibraryStage { facts, folder, profile: self.profile, sources });
        Ok(facts)
    }

    /// Files of the checkout that tell cargo what decides code, and those that include them. A label is
    /// `LEVEL above the package, FILE[, include FILE]…: KEY`.
    fn configuration(&self, library: &Library) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for label in library.configuration.keys() {
            let said = label.rsplit_once(": ").and_then(|(said, _)| said.split_once(" above the package, "));
            let Some((level, files)) = said else { continue };
            let above = level.parse().ok().and_then(|level| library.folder.ancestors().nth(level));
            let mut folder = above.unwrap_or(&library.folder).join(".cargo");
            for file in files.split(", include ") {
                let path = files::normalize(&folder.join(file));
                found.extend(path.starts_with(self.root).then(|| self.relative(&path)));
                folder = path.parent().unwrap_or(&path).to_owned();
            }
        }
        found
    }

    fn add_binary(&self, stages: &mut Stages<'a>, name: &'a str) -> Result<()> {
        let (facts, declared) = self
            .facts
            .binaries
            .get(name)
            .zip(self.project.declaration.go_binary.get(name))
            .ok_or_else(|| not_gathered(name))?;
        let missing = || Error::new(Code::NotPinned, tr!("xtask.lock pins no Go")).hint("cargo xtask lock update go");
        stages.go = Some(self.project.pins.go.as_ref().ok_or_else(missing)?);
        for library in &declared.links {
            self.add_library(stages, library)?;
        }
        let (locks, sources) = self.go_sources(facts);
        let folder = self.relative(&facts.folder);
        stages
            .binaries
            .insert(name, BinaryStage { declared, folder, locks, sources, headers: facts.headers.is_some() });
        Ok(())
    }

    /// What of the modules Go reads first, and the rest, by what lies at the top of each module.
    fn go_sources(&self, facts: &Binary) -> (BTreeSet<String>, BTreeSet<String>) {
        let modules: Vec<(&String, String)> =
            facts.modules.iter().map(|(path, folder)| (path, self.relative(folder))).collect();
        // Go wants to see every one that is replaced, whether a package of it enters or not.
        let mut locks: BTreeSet<String> = modules.iter().map(|(_, folder)| joined(folder, "go.mod")).collect();
        let mut sources = BTreeSet::new();
        for label in facts.sources.keys() {
            let owners = modules.iter().filter_map(|(path, folder)| {
                Some((path.len(), folder, label.strip_prefix(path.as_str())?.strip_prefix('/')?))
            });
            let Some((_, folder, inside)) = owners.max_by_key(|(length, ..)| *length) else { continue };
            match inside {
                "go.mod" | "go.sum" => drop(locks.insert(joined(folder, inside))),
                _ => drop(sources.insert(joined(folder, inside.split('/').next().unwrap_or(inside)))),
            }
        }
        (locks, sources)
    }

    fn add_wheels(&self, stages: &mut Stages<'a>, name: &'a str) -> Result<()> {
        let base = self.base.ok_or_else(|| {
            let message =
                tr!("wheels need a base in image.{image}: it decides which of them suit", image = stages.name);
            self.project.source.error(Code::WrongValue, &["image", stages.name], &message)
        })?;
        let mut requirements: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut python = None;
        for platform in Platform::ALL {
            let Ok(interpreter) = plan::interpreter_of_base(self.project, base, &platform.name()) else { continue };
            python = Some(interpreter.version).filter(|(_, minor)| *minor > 0);
            // A set may have nothing for a platform; where it has nothing for this one, making the image says so.
            let Ok(wheels) = plan::wheels_for(self.project, name, &interpreter) else { continue };
            for WheelPin { project, filename, sha256, .. } in wheels {
                let Ok(wheel) = filename.parse::<WheelName>() else { continue };
                let hashes = requirements.entry(format!("{project}=={version}", version = wheel.version)).or_default();
                hashes.insert(format!("--hash=sha256:{sha256}"));
            }
        }
        if requirements.is_empty() {
            return Err(plan::not_pinned(self.project, "wheel-set", name));
        }
        let line = |(project, hashes): (String, BTreeSet<String>)| {
            [project].into_iter().chain(hashes).collect::<Vec<_>>().join(" ")
        };
        let declared = self.project.declaration.wheel_set.get(name);
        let executable = declared.into_iter().flat_map(|set| &set.executable).map(|path| inside(path)).collect();
        let requirements = requirements.into_iter().map(line).collect();
        stages.wheels.insert(name, WheelStage { python, requirements, executable });
        Ok(())
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(self.root).unwrap_or(path).display().to_string()
    }
}

impl Stages<'_> {
    /// Every path of the checkout that a stage reads.
    pub fn context(&self) -> BTreeSet<String> {
        let libraries = self.libraries.values().flat_map(|stage| &stage.sources);
        let binaries = self.binaries.values().flat_map(|stage| stage.locks.iter().chain(&stage.sources));
        let printed = self.printed.iter().flat_map(|stage| stage.reads);
        let copies = self.all_copies().filter(|copied| copied.stage.is_none()).map(|copied| &copied.from);
        let all: BTreeSet<String> = libraries.chain(binaries).chain(printed).chain(copies).cloned().collect();
        all.iter().filter(|path| !all.iter().any(|folder| is_below(path, folder))).cloned().collect()
    }

    fn all_copies(&self) -> impl Iterator<Item = &Copied<'_>> {
        self.copies.iter().chain(self.placed.iter().map(|stage| &stage.copied))
    }

    /// A Dockerfile and its list of what is sent have no way to write some characters in a path so that every BuildKit reads them alike.
    fn must_be_writable(&self) -> Result<()> {
        let is_plain = |c: char| c.is_alphanumeric() || "/._-+@=,".contains(c);
        let context = self.context();
        let to = self.all_copies().flat_map(|copied| [&copied.from, &copied.to]);
        let folders = &self.image.working_directory;
        let odd = context.iter().chain(to).chain(folders).find(|path| !path.chars().all(is_plain));
        if let Some(path) = odd {
            return Err(Error::new(
                Code::WrongValue,
                tr!("`{path}` of image {image} cannot be written into a Dockerfile", path, image = self.name),
            )
            .hint(tr!("a path may have letters, digits and /._-+@=,")));
        }
        let arguments = self.printed.iter().flat_map(|stage| stage.arguments);
        let flags = self.binaries.values().flat_map(|stage| stage.declared.ldflags.iter().chain(&stage.declared.tags));
        let values = self.image.environment.values().chain(self.image.labels.values());
        match arguments.chain(flags).chain(values).find(|text| text.contains(['\n', '\r'])) {
            None => Ok(()),
            Some(text) => Err(Error::new(
                Code::WrongValue,
                tr!("`{path}` of image {image} cannot be written into a Dockerfile", path = text, image = self.name),
            )
            .hint(tr!("an instruction has one line"))),
        }
    }
}

fn not_gathered(name: &str) -> Error {
    Error::bug(tr!("the facts about {what} {name} were not gathered", what = "image", name))
}

/// Without the folder of its project, which only our own unpacking makes.
fn inside(path: &str) -> &str {
    path.split_once('/').map_or(path, |(_, inside)| inside)
}

fn joined(folder: &str, path: &str) -> String {
    if folder.is_empty() { path.to_owned() } else { format!("{folder}/{path}") }
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::project::image::Layer;
    use crate::workspace::Workspace;
    use expect_test::expect_file;
    use std::path::PathBuf;

    /// The project of tests/fixture with more in its image, and what is found when it is looked at.
    fn fixture(layers: &str) -> (Project, Facts, PathBuf) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).unwrap().join("tests/fixture");
        let mut project = Project::read(&Workspace { root: root.clone() }).unwrap();
        #[derive(serde::Deserialize)]
        struct Layers {
            layer: Vec<Layer>,
        }
        let image = project.declaration.image.get_mut("reader").unwrap();
        image.layer.extend(toml::from_str::<Layers>(layers).unwrap().layer);
        image.environment.insert("PRICE".to_owned(), "$5 \"net\"".to_owned());
        image.ports.push(8000);
        let digests = |paths: &[&str]| paths.iter().map(|path| ((*path).to_owned(), Digest::of(b"x"))).collect();
        let library = Library {
            name: "engine".to_owned(),
            folder: root.join("engine"),
            file: "libgauge.so".to_owned(),
            target: "gauge".to_owned(),
            sources: digests(&[
                "Cargo.toml",
                "build.rs",
                "limit.txt",
                "part/Cargo.toml",
                "part/src/lib.rs",
                "src/lib.rs",
                "//service/gauge/gauge.h",
            ]),
            header: Digest::of(b"x"),
            locked: BTreeMap::new(),
            checksums: BTreeMap::new(),
            crates: BTreeSet::new(),
            configuration: digests(&[
                "1 above the package, config.toml, include flags.toml: build",
                "CARGO_HOME, config.toml: build",
            ]),
            target_rustflags: false,
            environment: vec!["GAUGE_LABEL".to_owned()],
            environment_files: BTreeMap::new(),
            seen: Default::default(),
            feature_set: "cpu".to_owned(),
            cargo_features: vec!["wide".to_owned()],
        };
        let module = "example.invalid/service";
        let sources =
            ["go.mod", "go.sum", "app/reader/main.go", "app/reader/words.txt", "gauge/gauge.go", "gauge/gauge.h"];
        let sources = sources.map(|path| format!("{module}/{path}"));
        let binary = Binary {
            folder: root.join("service"),
            modules: [(module.to_owned(), root.join("service"))].into(),
            sources: digests(&sources.each_ref().map(String::as_str)),
            headers: None,
            environment_files: BTreeMap::new(),
            seen: Default::default(),
        };
        let libraries = [("engine".to_owned(), library)].into();
        let binaries = [("reader".to_owned(), binary)].into();
        (project, Facts { libraries, binaries, ..Facts::default() }, root)
    }

    const LAYERS: &str = r#"
        [[layer]]
        name = "more"
        files = [
          { from = { wheel-set = "tiny" }, to = "/app/packages" },
          { from = { path = "pebble/weights.txt" }, to = "/app/pebble/", mode = "0755" },
          { from = { wheel-set = "tiny" }, to = "/app/private", mode = "0440", owner = "1:2" },
          { from = { printed = { binary = "reader", arguments = ["it's $HOME"], reads = ["pebble/weights.txt"] } }, to = "/app/more.txt" },
        ]
    "#;

    #[test]
    fn the_stages_of_an_image_as_files() {
        let (project, facts, root) = fixture(LAYERS);
        let stages = stages(&project, &facts, &root, "release", "bookworm", "reader").unwrap();
        expect_file![concat!(env!("CARGO_MANIFEST_DIR"), "/src/emit/reader.Dockerfile")]
            .assert_eq(&dockerfile::dockerfile(&stages, "dist/docker"));
        expect_file![concat!(env!("CARGO_MANIFEST_DIR"), "/src/emit/reader.Dockerfile.dockerignore")]
            .assert_eq(&dockerfile::ignore(&stages, "dist/docker"));
    }

    #[test]
    fn an_edited_text_is_told_from_one_as_it_was_written() {
        let text = dockerfile::sealed("FROM scratch\n");
        assert!(dockerfile::is_untouched(&text));
        for edited in
            [text.replace("scratch", "debian"), format!("{text}\n"), "FROM scratch\n".to_owned(), String::new()]
        {
            assert!(!dockerfile::is_untouched(&edited), "{edited}");
        }
    }

    #[test]
    fn what_a_dockerfile_cannot_say_is_refused_by_name() {
        for (layer, named) in [
            (r#"files = [{ from = { path = "a b.txt" }, to = "/a" }]"#, "a b.txt"),
            (r#"files = [{ from = { path = "a*" }, to = "/a" }]"#, "a*"),
            (r#"files = [{ from = { path = "a" }, to = "/$HOME" }]"#, "/$HOME"),
            (r#"files = [{ from = { printed = { binary = "reader", arguments = ["a\nb"] } }, to = "/a" }]"#, "a\nb"),
        ] {
            let (project, facts, root) = fixture(&format!("[[layer]]\nname = \"odd\"\n{layer}"));
            let refused = stages(&project, &facts, &root, "release", "bookworm", "reader").unwrap_err();
            assert_eq!(refused.code(), Code::WrongValue);
            assert!(refused.to_string().contains(named), "{refused}");
        }
    }
}
