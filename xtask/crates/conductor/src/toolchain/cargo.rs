//! Cargo: the closure of a package in its lock file, and cargo's own messages.

use crate::error::{Error, Result};
use cargo_metadata::{DependencyKind, Message, Metadata};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What a package's manifest says, as `cargo metadata --no-deps` gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub package: String,
    /// File stem of the library: `candle_semantic_router`.
    pub library: String,
    /// Direct dependencies that are linked or run at build time.
    pub dependencies: BTreeSet<String>,
}

impl Manifest {
    pub fn of_metadata(metadata: &str, manifest: &Path) -> Result<Self> {
        let wrong = |what: &str| Error::configuration(format!("{}: {what}", manifest.display()));
        let metadata: Metadata = cargo_metadata::MetadataCommand::parse(metadata)
            .map_err(|error| wrong("cargo's answer cannot be read").because(error))?;
        let package = metadata
            .packages
            .iter()
            .find(|package| package.manifest_path.as_std_path() == manifest)
            .ok_or_else(|| wrong("this manifest declares no package"))?;
        let library = package
            .targets
            .iter()
            .find(|target| target.crate_types.contains(&cargo_metadata::CrateType::CDyLib))
            .ok_or_else(|| {
                wrong("the package has no C library").hint("add crate-type = [\"cdylib\"] to its [lib] table")
            })?;
        let dependencies = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind != DependencyKind::Development)
            .map(|dependency| dependency.name.clone())
            .collect();
        Ok(Self { package: package.name.to_string(), library: library.name.clone(), dependencies })
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
    #[serde(default)]
    dependencies: Vec<String>,
}

/// `name version` → checksum of every package that `manifest` reaches without its dev-dependencies. A package without a
/// checksum (Git, path) stands with an empty one.
pub fn locked_closure(lock: &str, path: &Path, manifest: &Manifest) -> Result<BTreeMap<String, String>> {
    let lock: LockFile = crate::document::parse(path, lock)?;
    let root = lock.package.iter().find(|package| package.name == manifest.package);
    let root = root.ok_or_else(|| {
        Error::configuration(format!("{} has no entry for {}", path.display(), manifest.package))
            .hint(format!("run `cargo update --workspace` in {}", path.parent().unwrap_or(path).display()))
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
                if closure.insert(id, package.checksum.clone().unwrap_or_default()).is_none() {
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

/// The folders below `registry/src` that hold the packages of a full `cargo metadata`.
pub fn registry_folders(metadata: &str) -> Result<BTreeSet<PathBuf>> {
    let metadata: Metadata = cargo_metadata::MetadataCommand::parse(metadata)
        .map_err(|error| Error::bug("cargo metadata cannot be read").because(error))?;
    let registry = metadata.packages.iter().filter(|package| package.source.is_some());
    let folder =
        |package: &cargo_metadata::Package| Some(package.manifest_path.parent()?.parent()?.as_std_path().to_owned());
    Ok(registry.filter_map(folder).collect())
}

/// `name version` of each registry package that the root package reaches without its dev-dependencies, on the platform asked for.
pub fn resolved(metadata: &str) -> Result<BTreeSet<String>> {
    let unreadable = || Error::bug("cargo metadata cannot be read");
    let metadata: Metadata =
        cargo_metadata::MetadataCommand::parse(metadata).map_err(|error| unreadable().because(error))?;
    let resolve = metadata.resolve.as_ref().ok_or_else(unreadable)?;
    let mut open: Vec<_> = resolve.root.iter().collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let node = resolve.nodes.iter().filter(|node| node.id == *id);
        for dependency in node.flat_map(|node| &node.deps) {
            if dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development) {
                open.push(&dependency.pkg);
            }
        }
    }
    let registry = metadata.packages.iter().filter(|package| package.source.is_some() && seen.contains(&package.id));
    Ok(registry.map(|package| format!("{} {}", package.name, package.version)).collect())
}

/// What one line of `--message-format=json-render-diagnostics` tells us.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// A crate was compiled, or found compiled.
    Compiled(String),
    /// Files of the C library of `library`.
    Library(Vec<PathBuf>),
    Nothing,
}

pub fn told(line: &str, library: &str) -> Told {
    match serde_json::from_str::<Message>(line) {
        Ok(Message::CompilerArtifact(artifact)) => {
            let is_library = artifact.target.name == library
                && artifact.target.crate_types.contains(&cargo_metadata::CrateType::CDyLib);
            if is_library {
                Told::Library(artifact.filenames.into_iter().map(Into::into).collect())
            } else {
                Told::Compiled(artifact.target.name)
            }
        }
        _ => Told::Nothing,
    }
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

/// The parts of a cargo configuration file that can reach the bytes of a library; `None` if it has none.
pub fn deciding_tables(text: &str, path: &Path) -> Result<Option<String>> {
    let table: toml::Table = crate::document::parse(path, text)?;
    let deciding: BTreeMap<_, _> = ["build", "target", "profile", "env", "unstable"]
        .into_iter()
        .filter_map(|name| Some((name, table.get(name)?)))
        .collect();
    Ok((!deciding.is_empty()).then(|| serde_json::to_string(&deciding).unwrap_or_default()))
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
            dependencies = ["a", "d 2.0.0", "testing"]
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
            name = "testing"
            version = "1.0.0"
            checksum = "tt"
            dependencies = ["d 1.0.0"]
        "#;
        let manifest = Manifest {
            package: "root".into(),
            library: "root".into(),
            dependencies: ["a".to_owned(), "d".to_owned()].into(),
        };
        let closure = locked_closure(lock, Path::new("Cargo.lock"), &manifest).unwrap();
        let expected = [("a 1.0.0", "aa"), ("b 1.0.0", "bb"), ("d 2.0.0", "d2")];
        assert_eq!(closure, expected.map(|(id, sum)| (id.to_owned(), sum.to_owned())).into());
    }

    #[test]
    fn dep_info_names_its_files_with_blanks_unescaped() {
        let text = "/t/libx.so: src/lib.rs src/with\\ blank.rs\n\nsrc/lib.rs:\n";
        assert_eq!(dep_info(text), [PathBuf::from("src/lib.rs"), PathBuf::from("src/with blank.rs")]);
    }

    #[test]
    fn a_mirror_in_a_configuration_file_decides_nothing_a_flag_does() {
        let path = Path::new("config.toml");
        assert_eq!(deciding_tables("[source.x]\nregistry = 'y'\n[net]\noffline = true", path).unwrap(), None);
        assert!(deciding_tables("[build]\nrustflags = ['-g']", path).unwrap().is_some());
    }
}
