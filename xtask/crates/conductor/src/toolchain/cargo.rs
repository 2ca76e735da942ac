//! Cargo: the closure of a package in its lock file, and cargo's own messages.

use crate::error::{Code, Error, Result};
use crate::tr;
use cargo_metadata::{DependencyKind, Message, Metadata};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What a package's manifest says, as `cargo metadata --no-deps` gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub package: String,
    pub folder: PathBuf,
    /// Name of the C library's target: `candle_semantic_router`.
    pub library: Option<String>,
    /// Direct dependencies that are linked or run at build time.
    pub dependencies: BTreeSet<String>,
    /// Folders of those that are packages beside this one.
    pub path_dependencies: BTreeSet<PathBuf>,
    /// Root of the workspace that it belongs to: profiles stand in the manifest there, and what members inherit.
    pub workspace: PathBuf,
}

impl Manifest {
    pub fn of_metadata(metadata: &str, manifest: &Path) -> Result<Self> {
        let wrong = |what: &str| {
            Error::new(Code::BadPackage, tr!("{subject}: {message}", subject = manifest.display(), message = what))
        };
        let metadata: Metadata = cargo_metadata::MetadataCommand::parse(metadata)
            .map_err(|error| wrong(&tr!("cargo's answer cannot be read")).because(error))?;
        let package = metadata.packages.iter().find(|package| package.manifest_path.as_std_path() == manifest);
        let package = package.ok_or_else(|| wrong(&tr!("this manifest declares no package")))?;
        let is_library =
            |target: &&cargo_metadata::Target| target.crate_types.contains(&cargo_metadata::CrateType::CDyLib);
        let linked = package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
        Ok(Self {
            package: package.name.to_string(),
            folder: manifest.parent().unwrap_or(manifest).to_owned(),
            library: package.targets.iter().find(is_library).map(|target| target.name.clone()),
            dependencies: linked.clone().map(|dependency| dependency.name.clone()).collect(),
            path_dependencies: linked
                .filter_map(|dependency| Some(dependency.path.clone()?.into_std_path_buf()))
                .collect(),
            workspace: metadata.workspace_root.clone().into_std_path_buf(),
        })
    }
}

#[derive(Debug, Deserialize)]
struct LockFile {
    #[serde(default)]
    package: Vec<LockedPackage>,
}

#[derive(Debug, Deserialize)]
struct LockedPackage {
    name: String,
    version: String,
    checksum: Option<String>,
    /// `git+https://host/path#commit`
    source: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

impl LockedPackage {
    /// What pins its content: the checksum, of a Git package the commit (where it comes from is no input), of a path nothing.
    fn pin(&self) -> &str {
        let commit = || self.source.as_ref()?.rsplit_once('#').map(|(_, commit)| commit);
        self.checksum.as_deref().or_else(commit).unwrap_or_default()
    }
}

/// `name version` → pin of every package that `manifest` reaches without its dev-dependencies.
pub fn locked_closure(lock: &str, path: &Path, manifest: &Manifest) -> Result<BTreeMap<String, String>> {
    let lock: LockFile = crate::document::parse(path, lock)?;
    let root = lock.package.iter().find(|package| package.name == manifest.package);
    let root = root.ok_or_else(|| {
        Error::new(
            Code::BadPackage,
            tr!("{path} has no entry for {package}", path = path.display(), package = manifest.package),
        )
        .hint(tr!("run `cargo update --workspace` in {parent}", parent = path.parent().unwrap_or(path).display()))
    })?;
    let direct = root
        .dependencies
        .iter()
        .filter(|reference| manifest.dependencies.contains(reference.split(' ').next().unwrap_or("")));
    let mut open: Vec<&String> = direct.collect();
    let mut closure = BTreeMap::new();
    while let Some(reference) = open.pop() {
        // `name`, `name version` or `name version (source)`, as many words as are needed to be unambiguous.
        let mut words = reference.split(' ');
        let (name, version) = (words.next().unwrap_or(""), words.next());
        for package in &lock.package {
            if package.name == name && version.is_none_or(|version| version == package.version) {
                let id = format!("{} {}", package.name, package.version);
                if closure.insert(id, package.pin().to_owned()).is_none() {
                    open.extend(&package.dependencies);
                }
            }
        }
    }
    Ok(closure)
}

/// Every registry package of a lock file: `name version` → checksum.
pub fn checksums(lock: &str, path: &Path) -> Result<BTreeMap<String, String>> {
    let lock: LockFile = crate::document::parse(path, lock)?;
    Ok(lock
        .package
        .into_iter()
        .filter_map(|package| Some((format!("{} {}", package.name, package.version), package.checksum?)))
        .collect())
}

/// A registry package that is small as a rule: lock files know no sizes, but who depends on nothing and has a short name
/// seldom holds much.
pub fn small_package(lock: &str, path: &Path) -> Option<(String, String)> {
    let lock: LockFile = crate::document::parse(path, lock).ok()?;
    let packages = lock.package.into_iter().filter(|package| package.checksum.is_some());
    let smallest = packages.min_by_key(|it| (!it.dependencies.is_empty(), it.name.len(), it.name.clone()))?;
    Some((smallest.name, smallest.version))
}

/// The folders below `registry/src` that hold the packages of a full `cargo metadata`.
pub fn registry_folders(metadata: &str) -> Result<BTreeSet<PathBuf>> {
    let metadata: Metadata = cargo_metadata::MetadataCommand::parse(metadata)
        .map_err(|error| Error::bug(tr!("cargo metadata cannot be read")).because(error))?;
    let registry = metadata.packages.iter().filter(|package| package.source.is_some());
    let folder =
        |package: &cargo_metadata::Package| Some(package.manifest_path.parent()?.parent()?.as_std_path().to_owned());
    Ok(registry.filter_map(folder).collect())
}

/// `name version` of each registry package that the root package reaches without its dev-dependencies, on the platform asked for.
pub fn resolved(metadata: &str) -> Result<BTreeSet<String>> {
    let metadata = parsed(metadata)?;
    let registry = reached(&metadata, |_, kind| kind != DependencyKind::Development)?;
    let registry = registry.into_iter().filter(|package| package.source.is_some());
    Ok(registry.map(|package| format!("{} {}", package.name, package.version)).collect())
}

/// `name version` → licence expression of every package whose code is linked into the root package, its own included: of the packages
/// `compiled` for it, by id, neither those that only run meanwhile (build scripts, procedural macros) nor what only these stand on.
/// Metadata alone would be too much: there, what tests ask of a package counts as well.
pub fn linked(metadata: &str, compiled: &BTreeSet<String>) -> Result<BTreeMap<String, String>> {
    let metadata = parsed(metadata)?;
    let is_macro = |package: &cargo_metadata::Package| {
        package.targets.iter().any(|target| target.kind.contains(&cargo_metadata::TargetKind::ProcMacro))
    };
    let linked = reached(&metadata, |package, kind| {
        kind == DependencyKind::Normal && compiled.contains(&package.id.repr) && !is_macro(package)
    })?;
    // Before there were expressions, `/` meant OR: the Cargo book, "The license and license-file fields".
    let licence = |package: &cargo_metadata::Package| package.license.clone().unwrap_or_default().replace('/', " OR ");
    Ok(linked.into_iter().map(|it| (format!("{} {}", it.name, it.version), licence(it))).collect())
}

fn parsed(metadata: &str) -> Result<Metadata> {
    cargo_metadata::MetadataCommand::parse(metadata)
        .map_err(|error| Error::bug(tr!("cargo metadata cannot be read")).because(error))
}

/// The packages that the root package reaches, itself included, over the edges that `follow` allows.
fn reached(
    metadata: &Metadata,
    follow: impl Fn(&cargo_metadata::Package, DependencyKind) -> bool,
) -> Result<Vec<&cargo_metadata::Package>> {
    let resolve = metadata.resolve.as_ref().ok_or_else(|| Error::bug(tr!("cargo metadata cannot be read")))?;
    let packages: BTreeMap<_, _> = metadata.packages.iter().map(|package| (&package.id, package)).collect();
    let mut open: Vec<_> = resolve.root.iter().collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let node = resolve.nodes.iter().filter(|node| node.id == *id);
        for dependency in node.flat_map(|node| &node.deps) {
            let Some(package) = packages.get(&dependency.pkg) else { continue };
            if dependency.dep_kinds.iter().any(|kind| follow(package, kind.kind)) {
                open.push(&dependency.pkg);
            }
        }
    }
    Ok(seen.into_iter().filter_map(|id| packages.get(id).copied()).collect())
}

/// What one line of `--message-format=json-render-diagnostics` tells us.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// A crate was compiled, or found compiled: its name, and the id of its package as cargo's metadata has it.
    Compiled {
        crate_name: String,
        package: String,
    },
    /// Files of the C library of `library`.
    Library(Vec<PathBuf>),
    /// A build script ran, now or when its last result was made.
    Script(Script),
    Nothing,
}

/// A build script's run.
#[derive(Debug, PartialEq, Eq)]
pub struct Script {
    /// The package's id, as cargo's metadata has it.
    pub package: String,
    /// What it printed, as cargo keeps it.
    pub output: PathBuf,
    /// Variables that it sets for the compiler.
    pub variables: BTreeSet<String>,
}

pub fn told(line: &str, library: &str) -> Told {
    match serde_json::from_str::<Message>(line) {
        Ok(Message::CompilerArtifact(artifact)) => {
            let is_library = artifact.target.name == library
                && artifact.target.crate_types.contains(&cargo_metadata::CrateType::CDyLib);
            if is_library {
                Told::Library(artifact.filenames.into_iter().map(Into::into).collect())
            } else {
                Told::Compiled { crate_name: artifact.target.name, package: artifact.package_id.repr }
            }
        }
        Ok(Message::BuildScriptExecuted(script)) => Told::Script(Script {
            package: script.package_id.repr,
            output: script.out_dir.with_file_name("output").into(),
            variables: script.env.into_iter().map(|(name, _)| name).collect(),
        }),
        _ => Told::Nothing,
    }
}

/// What a build script asks to be run again for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reruns {
    /// As written: relative to the package.
    pub files: BTreeSet<PathBuf>,
    pub variables: BTreeSet<String>,
}

impl Reruns {
    /// Reads what the script printed. Source: "Build Scripts" of the Cargo book; `cargo:` is the older form of `cargo::`.
    pub fn of_output(output: &str) -> Self {
        let mut reruns = Self::default();
        for line in output.lines() {
            let instruction = line.strip_prefix("cargo::").or_else(|| line.strip_prefix("cargo:"));
            match instruction.and_then(|instruction| instruction.split_once('=')) {
                Some(("rerun-if-changed", path)) => reruns.files.insert(path.trim_end().into()),
                Some(("rerun-if-env-changed", name)) => reruns.variables.insert(name.trim_end().to_owned()),
                _ => false,
            };
        }
        reruns
    }
}

/// Package id → folder of the packages that are reached by path, from a full `cargo metadata`.
pub fn local_packages(metadata: &str) -> Result<BTreeMap<String, PathBuf>> {
    let metadata: Metadata = cargo_metadata::MetadataCommand::parse(metadata)
        .map_err(|error| Error::bug(tr!("cargo metadata cannot be read")).because(error))?;
    let local = metadata.packages.into_iter().filter(|package| package.source.is_none());
    Ok(local.filter_map(|it| Some((it.id.repr, it.manifest_path.parent()?.as_std_path().to_owned()))).collect())
}

/// The source files in a dep-info (`.d`) file, whose first rule is `output: file file …` with blanks escaped.
pub fn dep_info(text: &str) -> Vec<PathBuf> {
    let rule = text.lines().next().and_then(|line| line.split_once(": ")).map_or("", |(_, files)| files);
    let mut files = vec![String::new()];
    let mut characters = rule.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => files.last_mut().into_iter().for_each(|file| file.extend(characters.next())),
            ' ' => files.push(String::new()),
            c => files.last_mut().into_iter().for_each(|file| file.push(c)),
        }
    }
    files.into_iter().filter(|file| !file.is_empty()).map(PathBuf::from).collect()
}

/// Variables that the compiled sources read, from the dep-info (`.d`) of rustc: `# env-dep:NAME=value`, or `NAME` alone where unset.
pub fn compile_time_variables(dep_info: &str) -> BTreeSet<String> {
    let lines = dep_info.lines().filter_map(|line| line.strip_prefix("# env-dep:"));
    lines.map(|line| line.split('=').next().unwrap_or(line).to_owned()).collect()
}

/// A cargo configuration file, as far as it can reach the bytes of a library.
#[derive(Debug, PartialEq, Eq)]
pub struct Configuration {
    /// `table.key` → value as JSON, of the tables that decide code.
    pub deciding: BTreeMap<String, String>,
    pub target_rustflags: bool,
    /// Names of the profiles that it sets or makes.
    pub profiles: Vec<String>,
    /// Paths relative to the file.
    pub includes: Vec<String>,
}

/// How many compilers run, and where their files go: both are ours to say.
const UNDECIDING: &[&str] = &["build.jobs", "build.target-dir", "build.build-dir"];

fn json((key, value): (String, &toml::Value)) -> (String, String) {
    (key, serde_json::to_string(value).unwrap_or_default())
}

impl Configuration {
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let table: toml::Table = crate::document::parse(path, text)?;
        let mut deciding = BTreeMap::new();
        for name in ["build", "target", "profile", "env", "unstable", "host", "patch", "paths"] {
            match table.get(name) {
                Some(toml::Value::Table(keys)) => {
                    let keys = keys.iter().map(|(key, value)| (format!("{name}.{key}"), value));
                    deciding.extend(keys.filter(|(key, _)| !UNDECIDING.contains(&key.as_str())).map(json));
                }
                Some(value) => deciding.extend([json((name.to_owned(), value))]),
                None => {}
            }
        }
        let profiles = table.get("profile").and_then(toml::Value::as_table);
        let flags = |target: &toml::Value| target.get("rustflags").is_some();
        let targets = table.get("target").and_then(toml::Value::as_table);
        let include = |value: &toml::Value| value.as_str().or_else(|| value.get("path")?.as_str()).map(str::to_owned);
        let includes = match table.get("include") {
            Some(toml::Value::Array(list)) => list.iter().filter_map(include).collect(),
            Some(one) => include(one).into_iter().collect(),
            None => Vec::new(),
        };
        Ok(Self {
            target_rustflags: targets.is_some_and(|targets| targets.values().any(flags)),
            deciding,
            profiles: profiles.into_iter().flat_map(|table| table.keys().cloned()).collect(),
            includes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locked_closure_leaves_out_what_only_tests_need() {
        let lock = r#"
            [[package]]
            name = "root"
            version = "0.1.0"
            dependencies = ["a", "d 2.0.0", "g", "testing"]
            [[package]]
            name = "a"
            version = "1.0.0"
            checksum = "aa"
            dependencies = ["b"]
            [[package]]
            name = "b"
            version = "1.0.0"
            checksum = "bb"
            [[package]]
            name = "d"
            version = "1.0.0"
            checksum = "d1"
            [[package]]
            name = "d"
            version = "2.0.0"
            checksum = "d2"
            [[package]]
            name = "g"
            version = "0.1.0"
            source = "git+https://me:secret@host.example/g?branch=main#0123abc"
            [[package]]
            name = "testing"
            version = "1.0.0"
            checksum = "tt"
            dependencies = ["d 1.0.0"]
        "#;
        let manifest = Manifest {
            package: "root".into(),
            folder: "/root".into(),
            library: Some("root".into()),
            dependencies: ["a", "d", "g"].map(str::to_owned).into(),
            path_dependencies: BTreeSet::new(),
            workspace: "/root".into(),
        };
        let closure = locked_closure(lock, Path::new("Cargo.lock"), &manifest).unwrap();
        let expected = [("a 1.0.0", "aa"), ("b 1.0.0", "bb"), ("d 2.0.0", "d2"), ("g 0.1.0", "0123abc")];
        assert_eq!(closure, expected.map(|(id, sum)| (id.to_owned(), sum.to_owned())).into());
    }

    #[test]
    fn what_only_runs_while_compiling_is_not_linked() {
        let package = |name: &str, kind: &str, licence: &str| {
            let id = format!("{name} 1.0.0");
            serde_json::json!({
                "name": name, "version": "1.0.0", "id": id, "license": (!licence.is_empty()).then_some(licence),
                "source": (name != "root").then_some("registry+https://index.example"), "dependencies": [], "features": {},
                "manifest_path": format!("/{name}/Cargo.toml"),
                "targets": [{ "name": name, "kind": [kind], "crate_types": [kind], "src_path": "/x.rs", "edition": "2024" }],
            })
        };
        let node = |name: &str, needs: &[(&str, Option<&str>)]| {
            let deps: Vec<_> = needs
                .iter()
                .map(|(name, kind)| serde_json::json!({ "name": name, "pkg": format!("{name} 1.0.0"), "dep_kinds": [{ "kind": kind, "target": null }] }))
                .collect();
            let ids: Vec<_> = needs.iter().map(|(name, _)| format!("{name} 1.0.0")).collect();
            serde_json::json!({ "id": format!("{name} 1.0.0"), "dependencies": ids, "deps": deps, "features": [] })
        };
        let metadata = serde_json::json!({
            "packages": [
                package("root", "cdylib", ""), package("a", "lib", "MIT/Apache-2.0"), package("derive", "proc-macro", "MIT"),
                package("syn", "lib", "MIT"), package("cc", "lib", "MIT"), package("quick", "lib", "MIT"), package("b", "lib", "ISC"),
                package("for-tests", "lib", "ISC"),
            ],
            "workspace_members": ["root 1.0.0"], "workspace_root": "/root", "target_directory": "/t", "version": 1,
            "resolve": {
                "root": "root 1.0.0",
                "nodes": [
                    node("root", &[("a", None), ("derive", None), ("cc", Some("build")), ("quick", Some("dev"))]),
                    node("a", &[("b", None), ("for-tests", None)]),
                    node("for-tests", &[]), node("derive", &[("syn", None)]), node("syn", &[]), node("cc", &[]),
                    node("quick", &[]), node("b", &[]),
                ],
            },
        })
        .to_string();
        let compiled = ["root", "a", "b", "cc", "derive", "syn"].map(|name| format!("{name} 1.0.0")).into();
        let expected = [("a 1.0.0", "MIT OR Apache-2.0"), ("b 1.0.0", "ISC"), ("root 1.0.0", "")];
        assert_eq!(
            linked(&metadata, &compiled).unwrap(),
            expected.map(|(id, licence)| (id.to_owned(), licence.to_owned())).into()
        );
        let built = ["a", "b", "cc", "derive", "for-tests", "syn"].map(|name| format!("{name} 1.0.0"));
        assert_eq!(resolved(&metadata).unwrap(), built.into());
    }

    #[test]
    fn dep_info_names_its_files_with_blanks_unescaped() {
        let text = "/t/libx.so: src/lib.rs src/with\\ blank.rs\n\nsrc/lib.rs:\n";
        assert_eq!(dep_info(text), [PathBuf::from("src/lib.rs"), PathBuf::from("src/with blank.rs")]);
    }

    #[test]
    fn a_mirror_in_a_configuration_file_decides_nothing_a_flag_does() {
        let parse = |text: &str| Configuration::parse(text, Path::new("config.toml")).unwrap();
        let nothing = "# a remark\n[source.x]\nregistry = 'y'\n[net]\noffline = true\n[build]\njobs = 3";
        assert_eq!(parse(nothing).deciding, BTreeMap::new());
        let build = parse("paths = ['x']\n[build]\nrustflags = ['-g']\n[profile.fast]\ninherits = 'release'");
        let expected =
            [("build.rustflags", "[\"-g\"]"), ("paths", "[\"x\"]"), ("profile.fast", r#"{"inherits":"release"}"#)];
        assert_eq!(build.deciding, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        assert_eq!((build.target_rustflags, build.profiles), (false, vec!["fast".to_owned()]));
        assert!(parse("[target.'cfg(unix)']\nrustflags = ['-g']").target_rustflags);
        assert_eq!(parse("include = ['a.toml', { path = 'b.toml', optional = true }]").includes, ["a.toml", "b.toml"]);
    }

    #[test]
    fn a_build_scripts_output_says_what_it_depends_on() {
        let output = "cargo:rerun-if-changed=a b.txt\ncargo::rerun-if-changed=/x/y\r\ncargo:rerun-if-env-changed=LANG\n\
            cargo:rustc-env=N=1\n cargo:rerun-if-changed=no\nrerun-if-changed=no\ncargo:rerun-if-changed\n";
        let expected =
            Reruns { files: ["a b.txt", "/x/y"].map(PathBuf::from).into(), variables: ["LANG".to_owned()].into() };
        assert_eq!(Reruns::of_output(output), expected);
        let line = r#"{"reason": "build-script-executed", "package_id": "path+file:///e#0.1.0", "linked_libs": [],
            "linked_paths": [], "cfgs": [], "env": [["N", "1"]], "out_dir": "/t/release/build/e-1/out"}"#;
        let script = Script {
            package: "path+file:///e#0.1.0".to_owned(),
            output: "/t/release/build/e-1/output".into(),
            variables: ["N".to_owned()].into(),
        };
        assert_eq!(told(line, "e"), Told::Script(script));
    }

    #[test]
    fn variables_that_sources_read_are_found_in_dep_info() {
        let text =
            "/t/libx.so: src/lib.rs\n\nsrc/lib.rs:\n\n# env-dep:CARGO_PKG_NAME=x\n# env-dep:CI\n# env-dep:TZ=UTC\n";
        assert_eq!(compile_time_variables(text).into_iter().collect::<Vec<_>>(), ["CARGO_PKG_NAME", "CI", "TZ"]);
    }
}
