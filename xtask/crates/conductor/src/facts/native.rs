//! What a native library is made of: its package, the packages that it reaches by path, its lock, and the cargo configuration in force.

use super::probe::Probe;
use super::{Library, Rust, Wants};
use crate::cache::stat::Stat;
use crate::digest::Digest;
use crate::document::did_you_mean;
use crate::error::{Code, Error, Result};
use crate::files;
use crate::process::{self, Invocation};
use crate::settings::env;
use crate::toolchain::cargo::{self, Manifest};
use crate::tr;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

impl Probe<'_> {
    pub fn library(&self, name: &str, rust: &Rust, wants: &Wants) -> Result<Library> {
        let declared = self.project.declaration.native_library.get(name);
        let declared = declared.ok_or_else(|| Error::bug(tr!("no library {name}", name)))?;
        let root = &self.settings.workspace.root;
        let folder = root.join(&declared.path);
        self.must_hold(&folder, "Cargo.toml", ["native-library", name, "path"])?;
        let manifest = self.manifest(&folder.join("Cargo.toml"), rust)?;
        let library = manifest.library.clone().ok_or_else(|| {
            let message = tr!("native-library.{name}: {path} has no C library", name, path = declared.path);
            self.project
                .source
                .error(Code::BadPackage, &["native-library", name, "path"], &message)
                .hint(tr!("add crate-type = [\"cdylib\"] to the [lib] table of its Cargo.toml"))
        })?;
        let lock_path = folder.join("Cargo.lock");
        self.note(&lock_path);
        let lock = files::read_text(&lock_path).map_err(|error| {
            Error::new(Code::BadPackage, tr!("native-library.{name}: {path} is not locked", name, path = declared.path))
                .because(error)
                .hint(tr!("run `cargo generate-lockfile` in {path} and commit Cargo.lock", path = declared.path))
        })?;
        let features = &wants.features;
        let cargo_features = match declared.features.get(features) {
            Some(list) => list.clone(),
            None if features == "cpu" => Vec::new(),
            None => {
                let known = declared.features.keys().cloned().collect::<Vec<_>>().join(", ");
                let error = Error::new(
                    Code::UnknownName,
                    tr!("native-library.{name} has no feature set `{features}` ({known})", name, features, known),
                );
                return Err(did_you_mean(error, features, declared.features.keys().map(String::as_str)));
            }
        };
        let configuration = self.cargo_configuration(&folder, &rust.cargo_home)?;
        self.check_profile(name, &wants.profile, &manifest, &configuration)?;
        let header = root.join(&declared.header);
        let mut sources = Sources { probe: self, root, folder: &folder, found: BTreeMap::new() };
        let files = declared.sources.iter().map(|source| (folder.join(source), "sources", source));
        for (path, key, text) in files.chain([(header.clone(), "header", &declared.header)]) {
            if !sources.take_if_present(&path)? {
                let message = tr!("native-library.{name}.{key}: there is no {path}", name, key, path = path.display());
                let place = ["native-library", name, key, text];
                return Err(self.project.source.error(Code::Undeclared, &place, &message));
            }
        }
        let mut crates = BTreeSet::new();
        let mut open = vec![manifest.clone()];
        let mut seen = BTreeSet::new();
        while let Some(package) = open.pop() {
            if !seen.insert(package.folder.clone()) {
                continue;
            }
            if !package.folder.starts_with(root) {
                return Err(Error::new(
                    Code::BadPackage,
                    tr!(
                        "native-library.{name}: the path dependency {folder} is outside the repository",
                        name,
                        folder = package.folder.display()
                    ),
                )
                .hint(tr!("its files cannot be told apart between checkouts; move it inside, or publish it")));
            }
            sources.take(&package.folder.join("Cargo.toml"))?;
            sources.take(&package.workspace.join("Cargo.toml"))?;
            for part in ["build.rs", "src"] {
                sources.take_if_present(&package.folder.join(part))?;
            }
            crates.insert(package.package.replace('-', "_"));
            for path in &package.path_dependencies {
                open.push(self.manifest(&path.join("Cargo.toml"), rust)?);
            }
        }
        let sources = sources.found;
        Ok(Library {
            name: name.to_owned(),
            file: format!("lib{library}.so"),
            target: library,
            header: self.digest(&header)?,
            locked: cargo::locked_closure(&lock, &lock_path, &manifest)?,
            checksums: cargo::checksums(&lock, &lock_path)?,
            target_rustflags: configuration.iter().any(|file| file.target_rustflags),
            configuration: configuration.into_iter().flat_map(|file| file.settings).collect(),
            environment: declared.environment.clone(),
            environment_files: self.environment_files(&declared.environment)?,
            folder,
            sources,
            crates,
            feature_set: features.to_owned(),
            cargo_features,
            seen: self.seen(),
        })
    }

    /// A profile that cargo does not know is refused before anything is fetched.
    fn check_profile(
        &self,
        library: &str,
        profile: &str,
        manifest: &Manifest,
        configuration: &[ConfigurationFile],
    ) -> Result<()> {
        let path = manifest.workspace.join("Cargo.toml");
        let root = cargo::Configuration::parse(&files::read_text(&path)?, &path)?;
        let built_in = ["dev", "release", "test", "bench"].map(str::to_owned);
        let configured = configuration.iter().flat_map(|file| &file.profiles);
        let known: BTreeSet<&String> = built_in.iter().chain(&root.profiles).chain(configured).collect();
        if known.iter().any(|name| *name == profile) {
            return Ok(());
        }
        let list = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let error = Error::new(
            Code::UnknownName,
            tr!("native-library.{library} has no cargo profile `{profile}`; there are {list}", library, profile, list),
        );
        Err(did_you_mean(error, profile, known.iter().map(|name| name.as_str())))
    }

    fn manifest(&self, path: &Path, rust: &Rust) -> Result<Manifest> {
        // What a workspace gives its members stands in a manifest above.
        let above = path.ancestors().skip(2).take_while(|folder| folder.starts_with(&self.settings.workspace.root));
        let mut inherited = String::new();
        for manifest in above.map(|folder| folder.join("Cargo.toml")).filter(|manifest| manifest.is_file()) {
            inherited.push_str(&self.digest(&manifest)?.to_string());
        }
        let text = files::read(path).map_err(|error| {
            let folder = path.parent().unwrap_or(path);
            Error::new(Code::BadPackage, tr!("there is no package in {folder}", folder = folder.display()))
                .because(error)
        })?;
        let arguments = ["metadata", "--no-deps", "--format-version", "1", "--offline", "--manifest-path"];
        let invocation = Invocation {
            program: rust.cargo.clone(),
            arguments: arguments.into_iter().map(Into::into).chain([path.to_owned().into_os_string()]).collect(),
            directory: path.parent().unwrap_or(path).to_owned(),
            environment: self.settings.environment.only(env::PASSED),
        };
        let depends_on = format!("{} {inherited} {:?}", Digest::of(&text), Stat::of(&rust.cargo));
        let metadata = self.stats.answer(&invocation.command_line(), &depends_on, || {
            process::ask(&invocation).map_err(|silent| match process::capture(&invocation) {
                Ok(said) if said.status.code() == Some(101) => {
                    Error::new(Code::BadPackage, tr!("cargo cannot use {path}", path = path.display()))
                        .excerpt(String::from_utf8_lossy(&said.stderr))
                        .hint(tr!("correct it where cargo points"))
                }
                _ => silent,
            })
        })?;
        Manifest::of_metadata(&metadata, path)
    }

    /// The configuration files that cargo reads for a package, as far as they decide code: those of its folder and all above it, of
    /// CARGO_HOME, and what they include. Labels are relative to the package, so that checkouts share results.
    fn cargo_configuration(&self, package: &Path, cargo_home: &Path) -> Result<Vec<ConfigurationFile>> {
        let above = package.ancestors().enumerate();
        let above = above.map(|(level, folder)| (format!("{level} above the package"), folder.join(".cargo")));
        let mut open: Vec<(String, PathBuf)> = above
            .chain([("CARGO_HOME".to_owned(), cargo_home.to_owned())])
            .flat_map(|(label, folder)| {
                ["config.toml", "config"].map(|name| (format!("{label}, {name}"), folder.join(name)))
            })
            .collect();
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        while let Some((label, path)) = open.pop() {
            if !seen.insert(path.clone()) {
                continue;
            }
            self.note(&path);
            let Ok(Some(bytes)) = files::read_if_present(&path) else { continue };
            let configuration = cargo::Configuration::parse(&String::from_utf8_lossy(&bytes), &path)?;
            for include in configuration.includes {
                let included = path.parent().unwrap_or(&path).join(&include);
                open.push((format!("{label}, include {include}"), included));
            }
            let digest = |(key, value): (String, String)| (format!("{label}: {key}"), Digest::of(value.as_bytes()));
            found.push(ConfigurationFile {
                settings: configuration.deciding.into_iter().map(digest).collect(),
                target_rustflags: configuration.target_rustflags,
                profiles: configuration.profiles,
            });
        }
        Ok(found)
    }
}

struct ConfigurationFile {
    settings: Vec<(String, Digest)>,
    target_rustflags: bool,
    profiles: Vec<String>,
}

/// Inputs under labels that name no place on this machine.
struct Sources<'a> {
    probe: &'a Probe<'a>,
    root: &'a Path,
    folder: &'a Path,
    found: BTreeMap<String, Digest>,
}

impl Sources<'_> {
    fn take(&mut self, path: &Path) -> Result<()> {
        let digest = self.probe.digest(path)?;
        self.found.insert(label(self.root, self.folder, path), digest);
        Ok(())
    }

    /// A file, or a folder with all below it; `false` where there is neither.
    fn take_if_present(&mut self, path: &Path) -> Result<bool> {
        self.probe.note(path);
        if path.is_dir() {
            for file in files::walk(path, &|_| false)? {
                let file = path.join(file);
                file.parent().into_iter().for_each(|folder| self.probe.note(folder));
                self.take(&file)?;
            }
        } else if path.is_file() {
            self.take(path)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }
}

/// An input's name in a key: relative to the package, or `//` and relative to the repository. Never an absolute path: two checkouts of
/// one commit share their results.
pub fn label(root: &Path, package: &Path, path: &Path) -> String {
    let path = files::normalize(path);
    match path.strip_prefix(package) {
        Ok(inside) => inside.display().to_string(),
        Err(_) => format!("//{}", path.strip_prefix(root).unwrap_or(&path).display()),
    }
}
