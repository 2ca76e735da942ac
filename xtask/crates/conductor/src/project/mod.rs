//! A repository as data: what `xtask.toml` declares and what `xtask.lock` pins.
//!
//! The program knows the *shape* of such a project (a Rust cdylib outside any workspace, a cgo Go module, pinned models,
//! services around them); names, paths, crates, tags and flags come from here. Nothing in this module touches the machine
//! except [`Project::read`].

pub mod pins;

use crate::document;
use crate::error::{Code, Error, Result};
use crate::files;
use crate::mirror;
use crate::workspace::Workspace;
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
    /// Programs of a running stack, by name; started in the order of `after`.
    #[serde(default)]
    pub service: BTreeMap<String, Service>,
    pub run: Option<Run>,
    /// Test suites, by name.
    #[serde(default)]
    pub suite: BTreeMap<String, Suite>,
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

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SuiteCommand {
    pub tool: SuiteTool,
    #[serde(default)]
    pub directory: String,
    pub arguments: Vec<String>,
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
    Python { wheel_set: Option<String> },
}

/// The declaration with its pins.
#[derive(Clone, Debug, PartialEq)]
pub struct Project {
    pub declaration: Declaration,
    pub pins: pins::Pins,
}

impl Project {
    /// Every folder of a checkout that results are put into, innermost first.
    pub fn output_folders(&self, workspace: &Workspace) -> Vec<PathBuf> {
        let mut folders = vec![workspace.dist_lib(), workspace.dist_bin(), workspace.dist()];
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
        let text = files::read_text(&path).map_err(|error| {
            Error::new(Code::NoProject, format!("{} declares no project", workspace.root.display()))
                .because(error)
                .hint("run this inside a checkout that has an xtask.toml, or name one with --repo DIR")
        })?;
        let declaration: Declaration = document::parse(&path, &text)?;
        let pins = match files::read_if_present(&workspace.pins())? {
            Some(bytes) => pins::Pins::parse(&workspace.pins(), &String::from_utf8_lossy(&bytes))?,
            None => pins::Pins::default(),
        };
        let project = Self { declaration, pins };
        project.check(&Source { path: &path, text: &text })?;
        Ok(project)
    }

    /// References between tables: each must lead somewhere.
    fn check(&self, source: &Source) -> Result<()> {
        let it = &self.declaration;
        let tables = [
            ("native-library", it.native_library.keys().collect::<Vec<_>>()),
            ("go-binary", it.go_binary.keys().collect()),
            ("wheel-set", it.wheel_set.keys().collect()),
            ("model", it.model.keys().collect()),
            ("service", it.service.keys().collect()),
            ("suite", it.suite.keys().collect()),
        ];
        for (table, name) in tables.iter().flat_map(|(table, names)| names.iter().map(move |name| (table, name))) {
            source.plain_name(table, name)?;
        }
        if let Some(name) = it.go_binary.keys().find(|name| it.native_library.contains_key(*name)) {
            let path = source.path.display();
            return Err(Error::new(
                Code::BadName,
                format!("{path}: `{name}` is both a native-library and a go-binary"),
            )
            .hint("targets are called by name: give one of them another"));
        }
        for (name, binary) in &it.go_binary {
            for library in &binary.links {
                source.known(&format!("go-binary.{name}.links"), library, it.native_library.keys())?;
            }
        }
        for (name, service) in &it.service {
            let at = format!("service.{name}");
            match &service.program {
                Program::Binary(binary) => source.known(&format!("{at}.program"), binary, it.go_binary.keys())?,
                Program::Python { wheel_set } | Program::Wheel { wheel_set, .. } => {
                    source.known(&format!("{at}.program"), wheel_set, it.wheel_set.keys())?;
                }
            }
            for other in &service.after {
                source.known(&format!("{at}.after"), other, it.service.keys())?;
            }
            for model in &service.models {
                source.known(&format!("{at}.models"), model, it.model.keys())?;
            }
            source.known(&format!("{at}.ready.port"), &service.ready.port, service.ports.keys())?;
        }
        if let Some(run) = &it.run {
            source.known("run.service", &run.service, it.service.keys())?;
            if let Some(service) = it.service.get(&run.service) {
                source.known("run.port", &run.port, service.ports.keys())?;
            }
        }
        Ok(())
    }
}

/// The text that a declaration was read from, for messages.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    /// Names become file names and parts of step ids.
    fn plain_name(&self, table: &str, name: &str) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !name.is_empty() && !name.starts_with('.') && name.chars().all(plain) {
            return Ok(());
        }
        let path = self.path.display();
        Err(Error::new(Code::BadName, format!("{path}: {table}.`{name}` is not a name"))
            .hint("use letters, digits, `-`, `_` and `.`, and no `.` first"))
    }

    /// `value`, found at `key`, must be one of `names`.
    fn known<'n>(&self, key: &str, value: &str, names: impl Iterator<Item = &'n String> + Clone) -> Result<()> {
        if names.clone().any(|name| name == value) {
            return Ok(());
        }
        let all = names.clone().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let place = self.line_of(key, value).map_or_else(String::new, |line| format!(":{line}"));
        let path = self.path.display();
        let error = Error::new(
            Code::Undeclared,
            format!("{path}{place}: {key} names `{value}`, which is not declared ({all})"),
        );
        Err(document::did_you_mean(error, value, names.map(String::as_str)))
    }

    /// The line that holds the value in quotes, best one that also holds the key's last word.
    fn line_of(&self, key: &str, value: &str) -> Option<usize> {
        let word = key.rsplit('.').next().unwrap_or(key);
        let quoted = |line: &str| ['"', '\''].iter().any(|quote| line.contains(&format!("{quote}{value}{quote}")));
        let with = |test: &dyn Fn(&str) -> bool| self.text.lines().position(|line| quoted(line) && test(line));
        with(&|line| line.contains(word)).or_else(|| with(&|_| true)).map(|index| index + 1)
    }
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
}

impl Local {
    pub fn read(workspace: &Workspace) -> Result<Self> {
        let path = workspace.local();
        match files::read_if_present(&path)? {
            Some(bytes) => document::parse(&path, &String::from_utf8_lossy(&bytes)),
            None => Ok(Self::default()),
        }
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
    fn a_reference_to_nothing_is_answered_with_the_nearest_name() {
        let text = r#"
            project = { name = "x" }
            native-library.binding = { path = "b", header = "b/b.h" }
            go-binary.router = { module = "r", main = "./cmd", links = ["bindin"] }
        "#;
        let declaration = document::parse(Path::new("xtask.toml"), text).unwrap();
        let project = Project { declaration, pins: pins::Pins::default() };
        let error = project.check(&Source { path: Path::new("xtask.toml"), text }).unwrap_err();
        assert!(error.render().contains("xtask.toml:4: go-binary.router.links names `bindin`"), "{}", error.render());
        assert_eq!(error.hints(), ["did you mean `binding`?"]);
    }
}
