//! A repository as data: what `xtask.toml` declares and what `xtask.lock` pins.
//!
//! The program knows the *shape* of such a project (a Rust cdylib outside any workspace, a cgo Go module, pinned models,
//! services around them); names, paths, crates, tags and flags come from here. Nothing in this module touches the machine
//! except [`Project::read`] and [`leaks::find`].

pub mod image;
pub mod leaks;
pub mod pins;

use crate::document::{self, Source};
use crate::error::{Code, Error, Result};
use crate::files;
use crate::language::translated;
use crate::mirror;
use crate::platform::Platform;
use crate::registry::BaseReference;
use crate::tr;
use crate::workspace::Workspace;
use image::{Content, Image};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// `xtask.toml`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Declaration {
    pub project: ProjectTable,
    #[serde(default)]
    pub toolchain: Toolchain,
    /// Rust libraries with a C ABI, by name.
    #[serde(default)]
    pub native_library: BTreeMap<String, NativeLibrary>,
    /// Go programs, by name.
    #[serde(default)]
    pub go_binary: BTreeMap<String, GoBinary>,
    /// Sets of Python wheels pinned in `xtask.lock`, by name.
    #[serde(default)]
    pub wheel_set: BTreeMap<String, WheelSet>,
    /// Models pinned in `xtask.lock`, by name.
    #[serde(default)]
    pub model: BTreeMap<String, Model>,
    /// Root file systems made of Debian packages, pinned in `xtask.lock`, by name.
    #[serde(default)]
    pub debian_base: BTreeMap<String, DebianBase>,
    /// Container images, by name.
    #[serde(default)]
    pub image: BTreeMap<String, Image>,
    /// Programs of a running stack, by name; started in the order of `after`.
    #[serde(default)]
    pub service: BTreeMap<String, Service>,
    pub run: Option<Run>,
    /// Test suites, by name.
    #[serde(default)]
    pub suite: BTreeMap<String, Suite>,
    /// Linters, by name: suites with `files`, whose commands change nothing.
    #[serde(default)]
    pub linter: BTreeMap<String, Suite>,
    /// Mirror profiles of this project, and the one used where neither flag, variable nor `xtask.local.toml` names one.
    #[serde(default)]
    pub mirror: mirror::Section,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ProjectTable {
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Toolchain {
    #[serde(default)]
    pub go: GoToolchain,
    #[serde(default)]
    pub rust: RustToolchain,
    /// What compiles C and links for other platforms than this machine's.
    pub zig: Option<ZigToolchain>,
}

/// Zig, out of the wheel that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ZigToolchain {
    pub wheel_set: String,
    /// The program's place in it.
    pub path: String,
}

/// What `lock update rustup` pins, for machines that have no Rust yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RustToolchain {
    /// Of the toolchain: `1.95.0`; empty: none is pinned.
    #[serde(default)]
    pub version: String,
    /// Of rustup: `1.29.0`.
    #[serde(default)]
    pub rustup: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GoToolchain {
    /// A `go` on PATH of this version or newer is used; an older one is passed over for the version in `xtask.lock`.
    #[serde(default)]
    pub minimum: String,
    /// The version that `lock update go` pins.
    #[serde(default)]
    pub version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NativeLibrary {
    /// Folder of the package: its own `Cargo.toml` and `Cargo.lock`, outside any workspace.
    pub path: String,
    /// The C header that is the library's contract, relative to the repository.
    pub header: String,
    /// More inputs than `Cargo.toml`, `build.rs`, `src/` and the header: files or folders inside the package.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Variables that the sources or build scripts read at compile time; they become part of the key.
    #[serde(default)]
    pub environment: Vec<String>,
    /// Name given to `--features` → cargo features of the package; `cpu` is the default choice.
    #[serde(default)]
    pub features: BTreeMap<String, Vec<String>>,
    /// Setting of a YAML file (`use_cpu: false`) → the cargo feature without which the library does not obey it: an image that holds
    /// such a file beside the library is refused.
    #[serde(default)]
    pub feature_of_setting: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GoBinary {
    /// Folder of the Go module.
    pub module: String,
    /// The main package inside the module: `./cmd`.
    pub main: String,
    #[serde(default)]
    pub tags: Vec<String>,
    /// For `go build -ldflags`; the run path to the libraries is added.
    #[serde(default)]
    pub ldflags: Vec<String>,
    /// Native libraries that cgo links.
    #[serde(default)]
    pub links: Vec<String>,
    /// Variables that the build reads beside Go's own; they become part of the key.
    #[serde(default)]
    pub environment: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct WheelSet {
    /// `project==version`, or the path of a requirements file that holds such lines.
    #[serde(default)]
    pub requirements: Option<String>,
    #[serde(default)]
    pub projects: Vec<String>,
    /// Paths inside the unpacked set that must be executable whatever the wheel says.
    #[serde(default)]
    pub executable: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Model {
    /// Where its files may come from, in this order; the pins decide what is accepted.
    pub sources: Vec<ModelSource>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum ModelSource {
    /// A folder that already holds the files; absolute, or relative to the repository.
    Directory(String),
    /// A wheel of the Python index with the files below `path`; its own pin is in `xtask.lock`.
    Wheel { project: String, path: String },
    /// A hub repository at a commit.
    Hub { repo: String, revision: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DebianBase {
    /// `bookworm`; `lock update` looks into its updates and security updates too.
    pub suite: String,
    /// They come with all that they depend on; what they recommend is named here, or left out.
    pub packages: Vec<String>,
    /// Packages or provided names that dependencies are followed to no further: `debconf`.
    #[serde(default)]
    pub without: Vec<String>,
    /// Paths of the packages that are left out with all below them, `*` for any characters of one part: `usr/share/man`.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Paths below those that are not: `usr/share/doc/*/copyright`.
    #[serde(default)]
    pub keep: Vec<String>,
    /// Users beside root and nobody, by name, each with a group and a home of their own.
    #[serde(default)]
    pub users: BTreeMap<String, DebianUser>,
    /// OpenPGP keyring that verifies the suite, relative to the repository; absent: Debian's own, where its package puts it.
    #[serde(default)]
    pub keyring: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DebianUser {
    /// Of the user and of the group.
    pub id: u32,
    /// Absolute.
    pub home: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Service {
    pub program: Program,
    /// Placeholders: `{port}` names of this service as `{ports.http}`, of another as `{mock-vllm.ports.http}`,
    /// `{root}`, `{run}` (a folder for generated files), `{config}` (the file that `config` generates).
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Working folder, relative to the repository.
    #[serde(default)]
    pub directory: Option<String>,
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Name → preferred TCP port on the loopback address.
    #[serde(default)]
    pub ports: BTreeMap<String, u16>,
    /// Answers 200 once the service can be used.
    pub ready: Ready,
    /// Services that must be ready first.
    #[serde(default)]
    pub after: Vec<String>,
    #[serde(default)]
    pub models: Vec<String>,
    /// Command whose standard output becomes `{config}` before the service starts.
    #[serde(default)]
    pub config: Option<Generated>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Program {
    /// A Go binary of this project.
    Binary(String),
    /// The Python interpreter with a wheel set on its path and nothing else.
    Python { wheel_set: String },
    /// An executable inside a wheel set.
    Wheel { wheel_set: String, path: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Ready {
    pub port: String,
    pub path: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Generated {
    pub binary: String,
    pub arguments: Vec<String>,
}

/// How `run --once` reaches the stack and what it shows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Run {
    pub service: String,
    pub port: String,
    pub path: String,
    /// Response headers that tell the decision taken.
    #[serde(default)]
    pub show_headers: Vec<String>,
    /// Configuration file of the stack, `{run.config}` in services; the variable CONFIG_FILE names another.
    pub config: Option<String>,
    /// URLs printed once the stack is ready: label → `{service.ports.name}` template.
    #[serde(default)]
    pub urls: BTreeMap<String, String>,
}

/// Commands run one after another; each is a list of words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Suite {
    pub about: String,
    /// Parts that a machine may be unable to run; names for `--require`.
    #[serde(default)]
    pub parts: Vec<String>,
    /// What a linter looks at. A command with no such file below its directory fails: it would pass whatever the code is.
    pub files: Option<Files>,
    #[serde(default)]
    pub commands: Vec<SuiteCommand>,
    /// What must be there first.
    #[serde(default)]
    pub libraries: Vec<String>,
    #[serde(default)]
    pub binaries: Vec<String>,
    #[serde(default)]
    pub wheel_sets: Vec<String>,
    #[serde(default)]
    pub models: Vec<String>,
}

/// Files of the checkout that Git does not ignore, by any of these.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Files {
    /// Ends of paths: `.rs`, `go.mod`.
    #[serde(default)]
    pub endings: Vec<String>,
    /// Programs named in a first line: `bash` for `#!/usr/bin/env bash`.
    #[serde(default)]
    pub interpreters: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SuiteCommand {
    pub tool: SuiteTool,
    #[serde(default)]
    pub directory: String,
    /// A linter's word `{files}` stands for all of its files below `directory`.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Arguments that succeed wherever the tool is installed; the command is skipped where they fail.
    #[serde(default)]
    pub probe: Vec<String>,
    /// Placeholders as in services, and `{wheel-set:NAME}`.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum SuiteTool {
    Cargo,
    Go,
    /// The formatter beside the `go` in force.
    Gofmt,
    Python {
        wheel_set: Option<String>,
    },
    /// An executable inside a wheel set.
    Wheel {
        wheel_set: String,
        path: String,
    },
    /// No child: compares `xtask.lock` with what the declaration asks for.
    Pins,
    /// No child: looks for mirrors' hosts in the linter's files.
    MirrorHosts,
}

impl SuiteTool {
    /// Its name, for people.
    pub fn shown(&self) -> &str {
        match self {
            Self::Cargo => "cargo",
            Self::Go => "go",
            Self::Gofmt => "gofmt",
            Self::Python { .. } => "python3",
            Self::Wheel { path, .. } => path.rsplit('/').next().unwrap_or(path),
            Self::Pins => translated("a look at xtask.lock"),
            Self::MirrorHosts => translated("a look for mirrors' hosts"),
        }
    }
}

/// The declaration with its pins.
#[derive(Clone, Debug, PartialEq)]
pub struct Project {
    pub declaration: Declaration,
    pub pins: pins::Pins,
    /// The text of the declaration, for messages.
    pub source: Source,
}

impl Declaration {
    /// The images of registries that images are built on, each once.
    pub fn registry_bases(&self) -> impl Iterator<Item = &BaseReference> {
        self.image.values().filter_map(Image::registry_base).collect::<BTreeSet<_>>().into_iter()
    }
}

impl GoBinary {
    /// The declared flags, and a run path that follows the binary wherever `dist/` is moved, and into an image, where the libraries lie
    /// in `lib/` beside it.
    pub fn link_flags(&self) -> String {
        let run_path = if self.links.is_empty() { "" } else { " -r $ORIGIN/../lib:$ORIGIN/lib" };
        format!("{}{run_path}", self.ldflags.join(" ")).trim().to_owned()
    }
}

impl Project {
    /// Every folder of a checkout that results are put into, innermost first.
    pub fn output_folders(&self, workspace: &Workspace) -> Vec<PathBuf> {
        let images = workspace.images();
        let mut folders = workspace.dist_built();
        folders.extend(Platform::ALL.map(|platform| workspace.dist().join(platform.name())));
        folders.extend([
            images.join("blobs/sha256"),
            images.join("blobs"),
            images,
            workspace.docker(),
            workspace.dist(),
        ]);
        for (name, pins) in &self.pins.model {
            let root = workspace.models().join(name);
            let parents = pins.file.iter().flat_map(|file| Path::new(&file.path).ancestors().skip(1));
            let inner: BTreeSet<PathBuf> = parents.map(|folder| root.join(folder)).collect();
            folders.extend(inner.into_iter().rev());
        }
        folders.push(workspace.models());
        folders
    }

    pub fn read(workspace: &Workspace) -> Result<Self> {
        let path = workspace.declaration();
        let bytes = files::read(&path).map_err(|error| {
            Error::new(Code::NoProject, tr!("{root} declares no project", root = workspace.root.display()))
                .because(error)
                .hint(tr!("run this inside a checkout that has an xtask.toml, or name one with --repo DIR"))
        })?;
        let source = Source::new(&path, &bytes);
        let declaration: Declaration = source.parse()?;
        let pins = files::read_if_present(&workspace.pins()).and_then(|bytes| match bytes {
            Some(bytes) => Source::new(&workspace.pins(), &bytes).parse(),
            None => Ok(pins::Pins::default()),
        });
        // Nobody writes it by hand, so what is wrong in it is no typing mistake.
        let pins = pins.map_err(|error| {
            let name = workspace.pins();
            let hint = tr!(
                "take the committed {name} back with Git; or remove it, and `cargo xtask lock update` writes it anew",
                name = name.display()
            );
            error.hint(hint)
        })?;
        let project = Self { declaration, pins, source };
        project.check()?;
        Ok(project)
    }

    /// References between tables: each must lead somewhere.
    fn check(&self) -> Result<()> {
        let it = &self.declaration;
        let tables = [
            ("native-library", it.native_library.keys().collect::<Vec<_>>()),
            ("go-binary", it.go_binary.keys().collect()),
            ("wheel-set", it.wheel_set.keys().collect()),
            ("model", it.model.keys().collect()),
            ("debian-base", it.debian_base.keys().collect()),
            ("image", it.image.keys().collect()),
            ("service", it.service.keys().collect()),
            ("suite", it.suite.keys().collect()),
            ("linter", it.linter.keys().collect()),
        ];
        for (table, name) in tables.iter().flat_map(|(table, names)| names.iter().map(move |name| (table, name))) {
            self.plain_name(table, name)?;
        }
        if let Some(zig) = &it.toolchain.zig {
            self.known(&["toolchain", "zig", "wheel-set"], &zig.wheel_set, it.wheel_set.keys())?;
        }
        if let Some(name) = it.go_binary.keys().find(|name| it.native_library.contains_key(*name)) {
            let message = tr!("`{name}` is both a native-library and a go-binary", name);
            let error = self.source.error(Code::BadName, &["go-binary", name], &message);
            return Err(error.hint(tr!("targets are called by name: give one of them another")));
        }
        for (name, binary) in &it.go_binary {
            self.all_known(&["go-binary", name, "links"], &binary.links, it.native_library.keys())?;
            // Go would look for any other among its own packages.
            if binary.main != "." && !binary.main.starts_with("./") {
                let place = ["go-binary", name, "main"];
                let message =
                    tr!("{place}: `{main}` is no package of the module", place = place.join("."), main = binary.main);
                let error = self.source.error(Code::WrongValue, &place, &message);
                return Err(error.hint(tr!("write `./{path}`", path = binary.main.trim_start_matches('/'))));
            }
        }
        for (name, base) in &it.debian_base {
            self.check_base(name, base)?;
        }
        for (name, image) in &it.image {
            self.check_image(name, image)?;
        }
        for (name, service) in &it.service {
            self.check_service(name, service)?;
        }
        if let Some(run) = &it.run {
            self.known(&["run", "service"], &run.service, it.service.keys())?;
            if let Some(service) = it.service.get(&run.service) {
                self.known(&["run", "port"], &run.port, service.ports.keys())?;
            }
            for (label, url) in &run.urls {
                self.check_placeholders(&["run", "urls", label], url, &self.places())?;
            }
        }
        for (name, suite) in &it.suite {
            self.check_suite("suite", name, suite)?;
        }
        for (name, linter) in &it.linter {
            self.check_suite("linter", name, linter)?;
        }
        self.start_order().map(drop)
    }

    /// What would be found out only when something is fetched or unpacked.
    fn check_base(&self, name: &str, base: &DebianBase) -> Result<()> {
        let wrong = |key: &str, message: String| {
            let place = ["debian-base", name, key];
            self.source.error(Code::WrongValue, &place, &format!("{place}: {message}", place = place.join(".")))
        };
        if !debian::relation::is_package_name(&base.suite) {
            return Err(wrong("suite", tr!("`{suite}` is no suite, such as `bookworm`", suite = base.suite)));
        }
        for (key, packages) in [("packages", &base.packages), ("without", &base.without)] {
            if let Some(package) = packages.iter().find(|package| !debian::relation::is_package_name(package)) {
                return Err(wrong(key, tr!("`{package}` is no name of a package", package)));
            }
        }
        for (key, patterns) in [("exclude", &base.exclude), ("keep", &base.keep)] {
            if let Some(pattern) = patterns.iter().find(|pattern| debian::Pattern::new(pattern).is_err()) {
                return Err(wrong(key, tr!("`{pattern}` is no path below the root, such as `usr/share/man`", pattern)));
            }
        }
        Ok(())
    }

    fn check_image(&self, name: &str, image: &Image) -> Result<()> {
        let it = &self.declaration;
        let wrong = |place: &[&str], message: &str| self.source.error(Code::WrongValue, place, message);
        if let Some(base) = image.debian_base() {
            self.known(&["image", name, "base", "debian"], base, it.debian_base.keys())?;
        }
        // A base from a registry may say it.
        let inherits = image.registry_base().is_some();
        if image.user.is_none() && !inherits {
            let message = tr!("image.{name} does not say who runs it", name);
            return Err(wrong(&["image", name], &message)
                .hint(tr!("name a user by numbers, user = \"65532:65532\"; an image that runs as root has to say so: user = \"0:0\"")));
        }
        if image.entrypoint.is_empty() && !inherits {
            let message = tr!("image.{name} starts nothing", name);
            return Err(wrong(&["image", name, "entrypoint"], &message)
                .hint(tr!("name the program by its path in the image: entrypoint = [\"/app/server\"]")));
        }
        let mut names = BTreeSet::new();
        for (index, layer) in image.layer.iter().enumerate() {
            self.plain_name(&format!("image.{name}.layer"), &layer.name)?;
            let index = index.to_string();
            let place = ["image", name, "layer", &index];
            if !names.insert(&layer.name) {
                let message = tr!("image.{name} has two layers called {layer}", name, layer = layer.name);
                return Err(self.source.error(Code::BadName, &place, &message));
            }
            for files in &layer.files {
                let [table, image, layers, layer] = place;
                let at = |key| [table, image, layers, layer, "files", "from", key];
                match &files.from {
                    Content::Library(library) => self.known(&at("library"), library, it.native_library.keys())?,
                    Content::Binary(binary) | Content::Printed { binary, .. } => {
                        self.known(&at("binary"), binary, it.go_binary.keys())?;
                    }
                    Content::WheelSet(wheel_set) | Content::Wheel { wheel_set, .. } => {
                        self.known(&at("wheel-set"), wheel_set, it.wheel_set.keys())?;
                        if inherits {
                            let message =
                                tr!("image.{name}: which wheels suit a base from a registry is not known", name);
                            return Err(wrong(&at("wheel-set"), &message)
                                .hint(tr!("use base = {{ debian = \"NAME\" }} with the packages of a Python")));
                        }
                    }
                    Content::Path(_) => {}
                }
                if !files.to.starts_with('/') || !files::stays_below(files.to.trim_matches('/')) {
                    let message = tr!("image.{name}: `{to}` is no absolute path", name, to = files.to);
                    let place = [table, image, layers, layer, "files", "to", &files.to];
                    return Err(wrong(&place, &message).hint(tr!("write `/{to}`", to = files.to.trim_matches('/'))));
                }
            }
        }
        Ok(())
    }

    /// Files of the checkout that an image holds or is made with.
    pub fn files_of(&self, image: &str) -> Vec<&String> {
        let layers = self.declaration.image.get(image).into_iter().flat_map(|image| &image.layer);
        layers
            .flat_map(|layer| &layer.files)
            .flat_map(|files| match &files.from {
                Content::Path(path) => std::slice::from_ref(path),
                Content::Printed { reads, .. } => reads,
                _ => &[],
            })
            .collect()
    }

    fn check_service(&self, name: &str, service: &Service) -> Result<()> {
        let it = &self.declaration;
        let at = ["service", name];
        let [table, _] = at;
        match &service.program {
            Program::Binary(binary) => self.known(&[table, name, "program", "binary"], binary, it.go_binary.keys())?,
            Program::Python { wheel_set } => {
                self.known(&[table, name, "program", "python", "wheel-set"], wheel_set, it.wheel_set.keys())?;
            }
            Program::Wheel { wheel_set, .. } => {
                self.known(&[table, name, "program", "wheel", "wheel-set"], wheel_set, it.wheel_set.keys())?;
            }
        }
        self.all_known(&[table, name, "after"], &service.after, it.service.keys())?;
        self.all_known(&[table, name, "models"], &service.models, it.model.keys())?;
        self.known(&[table, name, "ready", "port"], &service.ready.port, service.ports.keys())?;
        let mut places = self.places();
        places.extend(service.ports.keys().map(|port| format!("ports.{port}")));
        if let Some(config) = &service.config {
            self.known(&[table, name, "config", "binary"], &config.binary, it.go_binary.keys())?;
            for word in &config.arguments {
                self.check_placeholders(&[table, name, "config", "arguments", word], word, &places)?;
            }
            places.push("config".to_owned());
        }
        for word in &service.arguments {
            self.check_placeholders(&[table, name, "arguments", word], word, &places)?;
        }
        for (variable, value) in &service.environment {
            self.check_placeholders(&[table, name, "environment", variable], value, &places)?;
        }
        Ok(())
    }

    fn check_suite(&self, table: &str, name: &str, suite: &Suite) -> Result<()> {
        let it = &self.declaration;
        self.all_known(&[table, name, "libraries"], &suite.libraries, it.native_library.keys())?;
        self.all_known(&[table, name, "binaries"], &suite.binaries, it.go_binary.keys())?;
        self.all_known(&[table, name, "wheel-sets"], &suite.wheel_sets, it.wheel_set.keys())?;
        self.all_known(&[table, name, "models"], &suite.models, it.model.keys())?;
        if table == "linter" && suite.commands.is_empty() {
            let message = tr!("{table}.{name} has no commands", table, name);
            let error = self.source.error(Code::WrongValue, &[table, name], &message);
            return Err(error.hint(tr!("a check that runs nothing would always pass")));
        }
        if (table == "linter") != suite.files.is_some() {
            let message = tr!("{table}.{name}: `files` belongs to each linter and to no suite", table, name);
            let error = self.source.error(Code::WrongValue, &[table, name], &message);
            return Err(error.hint(tr!("write files = {{ endings = [\".rs\"] }} for a linter of Rust")));
        }
        let mut places = vec!["root".to_owned()];
        places.extend(suite.wheel_sets.iter().map(|wheel_set| format!("wheel-set:{wheel_set}")));
        for (index, command) in suite.commands.iter().enumerate() {
            let index = index.to_string();
            if let SuiteTool::Python { wheel_set: Some(wheel_set) } = &command.tool {
                let place = [table, name, "commands", &index, "tool", "python", "wheel-set"];
                self.known(&place, wheel_set, suite.wheel_sets.iter())?;
            }
            if let SuiteTool::Wheel { wheel_set, .. } = &command.tool {
                let place = [table, name, "commands", &index, "tool", "wheel", "wheel-set"];
                self.known(&place, wheel_set, suite.wheel_sets.iter())?;
            }
            for (variable, value) in &command.environment {
                let place = [table, name, "commands", &index, "environment", variable];
                self.check_placeholders(&place, value, &places)?;
            }
        }
        Ok(())
    }

    /// Services with those that they need before them.
    pub fn start_order(&self) -> Result<Vec<&String>> {
        let services = &self.declaration.service;
        let mut order: Vec<&String> = Vec::new();
        while order.len() < services.len() {
            let left = || services.iter().filter(|(name, _)| !order.contains(name));
            match left().find(|(_, service)| service.after.iter().all(|other| order.contains(&other))) {
                Some((name, _)) => order.push(name),
                None => {
                    let stuck: Vec<&str> = left().map(|(name, _)| name.as_str()).collect();
                    let message = tr!("services wait for each other: {stuck}", stuck = stuck.join(", "));
                    let error = self.source.error(Code::ServiceCycle, &["service", stuck[0], "after"], &message);
                    return Err(error.hint(tr!("take one of them out of the other's `after`")));
                }
            }
        }
        Ok(order)
    }

    /// Names become file names and parts of step ids.
    fn plain_name(&self, table: &str, name: &str) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !name.is_empty() && !name.starts_with('.') && name.chars().all(plain) {
            return Ok(());
        }
        let error =
            self.source.error(Code::BadName, &[table, name], &tr!("{table}.`{name}` is not a name", table, name));
        Err(error.hint(tr!("use letters, digits, `-`, `_` and `.`, and no `.` first")))
    }

    fn all_known<'n>(
        &self,
        place: &[&str],
        values: &[String],
        names: impl Iterator<Item = &'n String> + Clone,
    ) -> Result<()> {
        values.iter().try_for_each(|value| self.known(place, value, names.clone()))
    }

    /// `value`, found at `place`, must be one of `names`.
    fn known<'n>(&self, place: &[&str], value: &str, names: impl Iterator<Item = &'n String> + Clone) -> Result<()> {
        known(&self.source, &place.join("."), &[place, &[value]].concat(), value, names.map(String::as_str))
    }

    /// What every service's texts may name: ports of all, and folders.
    fn places(&self) -> Vec<String> {
        let ports = |(name, service): (&String, &Service)| {
            service.ports.keys().map(|port| format!("{name}.ports.{port}")).collect::<Vec<_>>()
        };
        let folders = ["root", "run"].map(str::to_owned);
        let config = self.declaration.run.as_ref().and_then(|run| run.config.as_ref()).map(|_| "run.config".to_owned());
        self.declaration.service.iter().flat_map(ports).chain(folders).chain(config).collect()
    }

    /// Every `{name}` of `text`, which stands at `place`, must be one of `names`.
    fn check_placeholders(&self, place: &[&str], text: &str, names: &[String]) -> Result<()> {
        let mut rest = text;
        while let Some((_, after)) = rest.split_once('{') {
            let Some((name, behind)) = after.split_once('}') else {
                let message = tr!("`{text}` has an open placeholder", text);
                return Err(self.source.error(Code::WrongValue, place, &message).hint(tr!("close it with `}}`")));
            };
            let braced = format!("{{{name}}}");
            known(
                &self.source,
                &place.join("."),
                &[place, &[&braced]].concat(),
                name,
                names.iter().map(String::as_str),
            )?;
            rest = behind;
        }
        Ok(())
    }
}

/// `value`, written at `place` under `key`, must be one of `names`.
fn known<'n>(
    source: &Source,
    key: &str,
    place: &[&str],
    value: &str,
    names: impl Iterator<Item = &'n str> + Clone,
) -> Result<()> {
    if names.clone().any(|name| name == value) {
        return Ok(());
    }
    let all = names.clone().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let all = if all.is_empty() { tr!("nothing is") } else { all };
    let message = tr!("{key} names `{value}`, which is not declared ({all})", key, value, all);
    Err(document::did_you_mean(source.error(Code::Undeclared, place, &message), value, names))
}

/// `xtask.local.toml`: one person's settings, never tracked.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Local {
    pub egress: Option<String>,
    pub offline: Option<bool>,
    pub progress: Option<String>,
    pub color: Option<String>,
    pub cache_dir: Option<String>,
    pub cache_max_size: Option<String>,
    pub cache_max_age_days: Option<u64>,
    /// Preferred ports of services: `[ports.envoy] http = 8802`.
    #[serde(default)]
    pub ports: BTreeMap<String, BTreeMap<String, u16>>,
    #[serde(default)]
    pub mirror: mirror::Section,
    /// The text that it was read from, for messages.
    #[serde(skip)]
    pub source: Source,
}

impl Local {
    pub fn read(workspace: &Workspace, project: &Project) -> Result<Self> {
        let path = workspace.local();
        let Some(bytes) = files::read_if_present(&path)? else { return Ok(Self::default()) };
        let source = Source::new(&path, &bytes);
        let local = Self { source: source.clone(), ..source.parse()? };
        let services = &project.declaration.service;
        for (service, ports) in &local.ports {
            known(&source, "ports", &["ports", service], service, services.keys().map(String::as_str))?;
            for port in ports.keys() {
                let declared = services[service].ports.keys().map(String::as_str);
                known(&source, &format!("ports.{service}"), &["ports", service, port], port, declared)?;
            }
        }
        Ok(local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = include_str!("../../../../schema/xtask.schema.json");

    #[test]
    fn the_checked_in_schema_is_the_one_of_the_types() {
        let schema = serde_json::to_string_pretty(&schemars::schema_for!(Declaration)).unwrap() + "\n";
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/../../schema/xtask.schema.json"), &schema).unwrap();
        } else {
            assert!(SCHEMA == schema, "the schema is out of date: run this test with UPDATE_EXPECT=1");
        }
    }

    #[test]
    fn a_reference_to_nothing_is_answered_with_its_line_and_the_nearest_name() {
        let text = r#"
            project = { name = "x" }
            native-library.binding = { path = "b", header = "b/b.h" }
            go-binary.router = { module = "r", main = "./cmd", links = ["binding"] }
            wheel-set.proxy = { projects = ["proxy==1"] }
            model.small = { sources = [] }
            run = { service = "web", port = "http", path = "/", urls = { chat = "http://127.0.0.1:{web.ports.http}/" } }

            [service.web]
            program = { wheel = { wheel-set = "proxy", path = "bin" } }
            arguments = ["--listen", "{ports.http}", "--config={config}"]
            environment = { ROOT = "{root}" }
            ports = { http = 1 }
            ready = { port = "http", path = "/" }
            after = ["api"]
            config = { binary = "router", arguments = ["{api.ports.grpc}"] }
            [service.api]
            program = { binary = "router" }
            ports = { grpc = 2 }
            ready = { port = "grpc", path = "/" }
            models = ["small"]

            [suite.all]
            about = "x"
            wheel-sets = ["proxy"]
            commands = [{ tool = { python = { wheel-set = "proxy" } }, arguments = [], environment = { BIN = "{wheel-set:proxy}/bin" } }]
        "#;
        let check = |text: &str| {
            let source = Source::new(std::path::Path::new("xtask.toml"), text.as_bytes());
            Project { declaration: source.parse()?, pins: pins::Pins::default(), source }.check()
        };
        check(text).unwrap();
        // What is written instead of what, the code, and what the mark stands below.
        for (right, wrong, code, marked) in [
            ("[\"binding\"]", "[\"bindin\"]", Code::Undeclared, "bindin"),
            ("wheel-set = \"proxy\", path", "wheel-set = \"prox\", path", Code::Undeclared, "prox"),
            ("after = [\"api\"]", "after = [\"ap\"]", Code::Undeclared, "ap"),
            ("models = [\"small\"]", "models = [\"smal\"]", Code::Undeclared, "smal"),
            ("binary = \"router\" }", "binary = \"route\" }", Code::Undeclared, "route"),
            ("service = \"web\"", "service = \"wep\"", Code::Undeclared, "wep"),
            ("{ports.http}", "{ports.htp}", Code::Undeclared, "{ports.htp}"),
            ("{api.ports.grpc}", "{config}", Code::Undeclared, "{config}"),
            ("{web.ports.http}", "{web.port.http}", Code::Undeclared, "{web.port.http}"),
            ("{root}", "{root", Code::WrongValue, "{root"),
            ("{ python = { wheel-set = \"proxy\"", "{ python = { wheel-set = \"p\"", Code::Undeclared, "p"),
            ("{wheel-set:proxy}", "{wheel-set:p}", Code::Undeclared, "{wheel-set:p}"),
            ("models = [\"small\"]", "after = [\"web\"]", Code::ServiceCycle, "[\"web\"]"),
            ("go-binary.router", "go-binary.binding", Code::BadName, "binding"),
            ("\"./cmd\"", "\"cmd\"", Code::WrongValue, "cmd"),
            ("model.small", "model.'.small'", Code::BadName, "'.small'"),
        ] {
            assert!(text.contains(right), "{right}");
            let error = check(&text.replace(right, wrong)).unwrap_err();
            let shown = error.render();
            assert_eq!(error.code(), code, "{shown}");
            let mut lines = shown.lines().skip_while(|line| !line.contains("-->")).skip(2);
            let (line, mark) = (lines.next().unwrap(), lines.next().unwrap());
            let at = mark.find('^').unwrap();
            assert_eq!(line[at..mark.trim_end().len()].trim_matches('"'), marked, "{shown}");
        }
        assert_eq!(
            check(&text.replace("[\"binding\"]", "[\"bindin\"]")).unwrap_err().hints(),
            ["did you mean `binding`?"]
        );
    }
}
