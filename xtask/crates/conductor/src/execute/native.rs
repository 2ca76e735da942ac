//! Making a native library: fetch, cross-check the key, compile, read the interface, publish.

use super::{Made, Workshop};
use crate::cache::lock::{self, Mode, Patience};
use crate::cache::store::{Learned, Lock, Product};
use crate::error::{self, Code, Error, Result};
use crate::facts::{Facts, Library, Rust, Wants, label};
use crate::files;
use crate::mirror::env::Tool;
use crate::plan::{self, Step};
use crate::process::{Deadline, Invocation, Stream};
use crate::report::Done;
use crate::settings::env;
use crate::toolchain::cargo::{self, Reruns, Script, Told};
use crate::toolchain::cross::Cross;
use crate::toolchain::elf;
use crate::tr;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Cargo itself gives up on a dead host long before this; it is the last resort.
const FETCH: Deadline = Deadline { whole: Duration::from_secs(3600), silence: Some(Duration::from_secs(900)) };

impl Workshop<'_> {
    pub(super) fn native_library(
        &self,
        step: &Step,
        name: &str,
        cross: Option<Cross>,
        facts: &Facts,
        lock: &Lock,
    ) -> Result<Made> {
        let (library, rust) = match (facts.libraries.get(name), &facts.rust) {
            (Some(library), Some(rust)) => (library, rust),
            _ => return Err(Error::bug(tr!("the facts about library {name} were not gathered", name))),
        };
        let package = Package { id: &step.id, library, rust, cross };
        let wants = Wants { libraries: [name.to_owned()].into(), cross, ..step_wants(step, library) };
        let mut cpu_seconds = 0.0;
        // Cargo locks its folder only while it runs; the file must still be ours when it is hashed.
        let folder = self.native_build(&package);
        files::create_folder(&folder)?;
        let patience = Patience { limit: self.settings.lock_timeout, tick: &mut self.waiting(&step.id) };
        let _building = lock::lock(&folder.join("xtask.lock"), Mode::Exclusive, patience)?;

        cpu_seconds += self.fetch_crates(&package)?;
        let Checked { remaps, packages, metadata } = self.cross_check(&package)?;
        let features = library.cargo_features.join(",");
        let profile = wants.profile.as_str();
        let mut arguments =
            vec!["rustc", "--locked", "--offline", "--lib", "--crate-type", "cdylib", "--profile", profile];
        if !features.is_empty() {
            arguments.extend(["--features", &features]);
        }
        arguments.push("--message-format=json-render-diagnostics");
        let mut compile = self.cargo(&package, arguments, &remaps)?;
        if cross.is_some() {
            // Zig gives the linker a path, which a library without a name of its own would leave in every program.
            let name = format!("link-arg=-Wl,-soname,{}", library.file);
            compile.arguments.extend(["--", "-C", &name].map(OsString::from));
        }
        let (total, mut count) = (library.locked.len(), 0_usize);
        let (mut files, mut scripts, mut compiled) = (Vec::new(), Vec::new(), BTreeSet::new());
        let finished = self.child(&step.id, &compile, Deadline::BUILD, |stream, text| match stream {
            Stream::Out => match cargo::told(text, &library.target) {
                Told::Compiled { crate_name, package } => {
                    count += 1;
                    compiled.insert(package);
                    Some(tr!("compiled {crate_name} ({count} of about {total})", crate_name, count, total))
                }
                Told::Library(found) => {
                    files = found;
                    None
                }
                Told::Script(script) => {
                    scripts.push(script);
                    None
                }
                Told::Nothing => None,
            },
            Stream::Err => None,
        })?;
        cpu_seconds += finished.cpu_seconds;
        finished.into_result("cargo rustc")?;
        let file = files.into_iter().find(|path| path.file_name().is_some_and(|file| file == library.file.as_str()));
        let file = file.ok_or_else(|| {
            Error::new(Code::BadPackage, tr!("cargo built no {file}", file = library.file))
                .hint(tr!("the package's [lib] table must have crate-type = [\"cdylib\"]"))
        })?;
        // First: what came meanwhile is no undeclared input.
        self.still_the_same(step, facts, &wants)?;
        // Of others, the lock file pins every file.
        let scripts: Vec<_> =
            scripts.iter().filter_map(|script| Some((script, packages.get(&script.package)?))).collect();
        for (script, package) in &scripts {
            self.check_script(library, rust, script, package)?;
        }
        let set = scripts.iter().flat_map(|(script, _)| &script.variables).collect();
        self.check_dep_info(library, rust, &file, &set)?;

        let interfaces = [(name.to_owned(), elf::interface(&file, &library.header)?)].into();
        let products = [Product { path: library.file.clone(), file, executable: false, expected: None }];
        let learned = Learned { interfaces, crates: cargo::linked(&metadata, &compiled)? };
        let entry = self.store.publish(lock, &step.id, step.flat_inputs(), learned, &products)?;
        Ok(Made { entry: Some(entry), done: Done::Ran, cpu_seconds })
    }

    /// Brings the crates of a package; the CPU seconds that it took.
    fn fetch_crates(&self, package: &Package) -> Result<f64> {
        let Package { id, library, rust, .. } = *package;
        let mut fetch = vec!["fetch", "--locked", "--target", &rust.host];
        let target = package.target();
        if package.cross.is_some() {
            // What build scripts stand on is for this machine.
            fetch.extend(["--target", &target]);
        }
        let fetch = self.cargo(package, fetch, &[])?;
        let fetched =
            self.child(id, &fetch, FETCH, |stream, text| (stream == Stream::Err).then(|| text.trim().to_owned()))?;
        if fetched.status.success() {
            return Ok(fetched.cpu_seconds);
        }
        let why =
            why_no_crates(&fetched.tail, |name| library.checksums.keys().any(|id| id.split(' ').next() == Some(name)));
        let Err(error) = fetched.into_result("cargo fetch") else {
            return Err(Error::bug(tr!("a failed fetch succeeded")));
        };
        let (missing, all) = self.crates_not_here(library, rust);
        if self.settings.offline.value && missing > 0 && matches!(why, NoCrates::Network | NoCrates::Unknown) {
            // That this is a build without network, cargo tells as the one name that it looked up first.
            let folder = library.folder.display();
            return Err(self.outside.not_here(tr!(
                "{missing} of {all} crates of {folder}/Cargo.lock are not here",
                missing,
                all,
                folder
            )));
        }
        // The gateway knows better than cargo why: artefact, mirror, expected and got.
        if let Some(refused) = self.outside.refused(id) {
            return Err(refused);
        }
        let folder = library.folder.display();
        Err(match why {
            NoCrates::Network => self.outside.unreachable(error),
            NoCrates::StaleLock => {
                let message = tr!("{folder}/Cargo.lock does not fit the Cargo.toml beside it any more", folder);
                Error::new(Code::BadPackage, message).because(error).hint(tr!(
                    "run `cargo update --workspace` in {folder}, read the change of Cargo.lock and commit it",
                    folder
                ))
            }
            NoCrates::Package => {
                let message = tr!("cargo cannot use the package in {folder}", folder);
                let excerpt = error.excerpt_text().unwrap_or_default().to_owned();
                let it = Error::new(Code::BadPackage, message).because(error).excerpt(excerpt);
                it.hint(tr!("correct what cargo names; `cargo fetch` in {folder} says whether it is", folder))
            }
            NoCrates::OtherBytes => {
                let excerpt = error.excerpt_text().unwrap_or_default().to_owned();
                let message = tr!("a crate is not the one that {folder}/Cargo.lock pins", folder);
                let it = Error::new(Code::OtherBytes, message).because(error).excerpt(excerpt);
                it.hint(tr!("it is used by nobody; take another source with --mirror NAME"))
            }
            NoCrates::Disk(cause) => Error::disk("fetch crates into", &rust.cargo_home, cause),
            NoCrates::Unknown => error,
        })
    }

    /// How many crates of a build neither cargo nor the gateway has, and of how many.
    fn crates_not_here(&self, library: &Library, rust: &Rust) -> (usize, usize) {
        let registries = files::list(&rust.cargo_home.join("registry/cache"));
        let is_here = |id: &str, sha256: &str| {
            let file = format!("{}.crate", id.replacen(' ', "-", 1));
            registries.iter().any(|folder| folder.join(&file).exists())
                || self.settings.cache.downloaded(sha256).exists()
        };
        let pinned = || library.checksums.iter().filter(|(id, _)| library.locked.contains_key(*id));
        (pinned().filter(|(id, sha256)| !is_here(id, sha256)).count(), pinned().count())
    }

    /// Cargo on the package of a library for its tests: same folder and flags as the library's own build, so that the
    /// dependencies are compiled once.
    pub fn test_of_library(&self, id: &str, library: &Library, rust: &Rust, words: &[String]) -> Result<Invocation> {
        let package = Package { id, library, rust, cross: None };
        self.fetch_crates(&package)?;
        let checked = self.cross_check(&package)?;
        self.cargo(&package, words.iter().map(String::as_str), &checked.remaps)
    }

    /// A cargo invocation on the library's package, with the mirror's arguments and a whole environment.
    fn cargo<'s>(
        &self,
        package: &Package,
        arguments: impl IntoIterator<Item = &'s str>,
        remaps: &[String],
    ) -> Result<Invocation> {
        let Package { id, library, rust, cross } = *package;
        let mut environment = self.settings.environment.only(env::PASSED);
        environment.extend(self.settings.environment.only(env::NATIVE_KEYED));
        environment.extend(self.settings.environment.only(&library.environment));
        let mirror = self.outside.tool(Tool::Cargo, id)?;
        mirror.apply(&mut environment);
        environment.insert("CARGO_TARGET_DIR".to_owned(), self.native_build(package).into());
        environment.insert("CARGO_BUILD_BUILD_DIR".to_owned(), self.native_build(package).into());
        environment.insert("CARGO_TERM_COLOR".to_owned(), "never".into());
        // The compiler that the key names, and no other: a crate's own rust-toolchain.toml must not make rustup fetch one.
        environment.insert("RUSTC".to_owned(), rust.rustc.clone().into());
        environment.insert("RUSTUP_AUTO_INSTALL".to_owned(), "0".into());
        if let Some(cross) = cross {
            self.with_zig(cross, cross.cargo_variables(), &mut environment)?;
        }
        let mut words: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        match flags_with(&environment, remaps) {
            Some(flags) => {
                environment.insert("CARGO_ENCODED_RUSTFLAGS".to_owned(), flags);
            }
            None if remaps.is_empty() => {}
            None => {
                // Cargo joins lists of one key, but reads `build` only where no `target` has flags.
                let key = if library.target_rustflags { "target.'cfg(all())'.rustflags" } else { "build.rustflags" };
                let list = serde_json::to_string(remaps).unwrap_or_default();
                words.extend(["--config".into(), format!("{key}={list}").into()]);
            }
        }
        words.extend(mirror.arguments.iter().map(|word| word.expose().into()));
        Ok(Invocation { program: rust.cargo.clone(), arguments: words, directory: library.folder.clone(), environment })
    }

    /// Asks cargo, now that everything is at hand, which packages really enter; one that the key did not know is a defect.
    fn cross_check(&self, package: &Package) -> Result<Checked> {
        let Package { id, library, .. } = *package;
        let features = library.cargo_features.join(",");
        let target = package.target();
        let words = ["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", &target];
        let words = words.into_iter().chain(["--features", &features]);
        let answer = crate::process::ask(&self.cargo(package, words, &[])?)?;
        let resolved = cargo::resolved(&answer)?;
        let undeclared: Vec<_> = resolved.iter().filter(|id| !library.locked.contains_key(*id)).cloned().collect();
        if undeclared.is_empty() {
            let remaps = remaps(&cargo::registry_folders(&answer)?, &library.folder, package.rust);
            return Ok(Checked { remaps, packages: cargo::local_packages(&answer)?, metadata: answer });
        }
        Err(Error::bug(tr!(
            "{id} is built with packages that its key does not know: {undeclared}",
            id,
            undeclared = undeclared.join(", ")
        )))
    }

    /// Apart for another platform: cargo would compile macros and build scripts anew each time that it changes.
    fn native_build(&self, package: &Package) -> PathBuf {
        self.settings.workspace.native_build(&plan::named_for(&package.library.name, package.cross.as_ref()))
    }

    /// The first file of what `path` names for whose content the key does not answer: it neither knows it, nor what it was made or
    /// fetched from.
    fn undeclared(&self, library: &Library, rust: &Rust, path: &Path) -> Result<Option<PathBuf>> {
        let is_input = |file: &PathBuf| {
            let generated = file.starts_with(self.settings.workspace.build());
            let fetched = file.starts_with(&rust.cargo_home);
            let label = label(&self.settings.workspace.root, &library.folder, file);
            generated || fetched || library.sources.contains_key(&label)
        };
        Ok(files_of(path)?.into_iter().find(|file| !is_input(file)))
    }

    /// Compares what a build script of `package` says to depend on with the key.
    fn check_script(&self, library: &Library, rust: &Rust, script: &Script, package: &Path) -> Result<()> {
        let output = String::from_utf8_lossy(&files::read(&script.output)?).into_owned();
        let reruns = Reruns::of_output(&output);
        let build_script = tr!("the build script in {package}", package = package.display());
        let refuse = |what: String, hint: String| {
            Err(Error::new(Code::UndeclaredInput, format!("{build_script} {what}")).hint(hint))
        };
        for file in &reruns.files {
            let path = package.join(file);
            if !path.exists() {
                return refuse(
                    tr!("depends on {path}, which is not there", path = path.display()),
                    tr!("no key can name it: create it, or let the script print only what it reads"),
                );
            }
            if let Some(file) = self.undeclared(library, rust, &path)? {
                return refuse(
                    tr!("depends on {file}, which is not declared as an input", file = file.display()),
                    tr!("add it to `sources` of this native-library in xtask.toml"),
                );
            }
        }
        let is_keyed = |name: &str| library.environment.iter().any(|declared| declared == name);
        if let Some(name) = reruns.variables.iter().find(|it| env::PASSED.contains(&it.as_str()) && !is_keyed(it)) {
            return refuse(
                tr!("depends on the variable {name}, which is not declared", name),
                tr!("add it to `environment` of this native-library in xtask.toml"),
            );
        }
        // Cargo's rule where a script says nothing: each file of its package is an input.
        if reruns == Reruns::default()
            && let Some(file) = self.undeclared(library, rust, package)?
        {
            return refuse(
                tr!("does not say what it reads, so that {file} counts, which is not declared", file = file.display()),
                tr!(
                    "print cargo:rerun-if-changed=… for each file that it reads (build.rs, if there is none), or declare `sources`"
                ),
            );
        }
        Ok(())
    }

    /// Compares the files and the variables that rustc read with those in the key; build scripts set the variables in `set`.
    fn check_dep_info(&self, library: &Library, rust: &Rust, file: &Path, set: &BTreeSet<&String>) -> Result<()> {
        let read = |path: &Path| {
            files::read_if_present(path).map(|bytes| String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
        };
        // Cargo's own file names the sources of the package and of those that it reaches by path.
        for source in cargo::dep_info(&read(&file.with_extension("d"))?) {
            // A folder is one that a build script asks to be run again for.
            if let Some(source) = self.undeclared(library, rust, &library.folder.join(source))? {
                return Err(Error::new(
                    Code::UndeclaredInput,
                    tr!("{source} is compiled in but not declared as an input", source = source.display()),
                )
                .hint(tr!("add it to `sources` of this native-library in xtask.toml")));
            }
        }
        // rustc's own files, one a crate, name the variables.
        let folder = file.with_file_name("deps");
        let listed = std::fs::read_dir(&folder).map_err(|error| Error::disk("list", &folder, error))?;
        for path in listed.flatten().map(|entry| entry.path()) {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
            let name = stem.split('-').next().unwrap_or(stem);
            let is_ours = name == library.target || library.crates.contains(name);
            if !is_ours || path.extension().is_none_or(|extension| extension != "d") {
                continue;
            }
            for variable in cargo::compile_time_variables(&read(&path)?) {
                let declared = env::NATIVE_KEYED.contains(&variable.as_str())
                    || library.environment.contains(&variable)
                    || set.contains(&variable);
                // Cargo sets the others of its name from the manifest, which is an input.
                let from_manifest = variable.starts_with("CARGO_") && !env::PASSED.contains(&variable.as_str());
                if !declared && !from_manifest && variable != "OUT_DIR" {
                    return Err(Error::new(
                        Code::UndeclaredInput,
                        tr!(
                            "{name} reads the variable {variable} at compile time, which is not declared",
                            name,
                            variable
                        ),
                    )
                    .hint(tr!("add it to `environment` of this native-library in xtask.toml")));
                }
            }
        }
        Ok(())
    }
}

/// What cargo says of a package whose crates are at hand.
struct Checked {
    /// Flags that keep the folders of its crates out of the bytes.
    remaps: Vec<String>,
    /// Id → folder of those that are reached by path.
    packages: BTreeMap<String, PathBuf>,
    /// All that it said.
    metadata: String,
}

/// What cargo is at work on.
struct Package<'a> {
    /// Of the step.
    id: &'a str,
    library: &'a Library,
    rust: &'a Rust,
    cross: Option<Cross>,
}

impl Package<'_> {
    fn target(&self) -> String {
        self.cross.map_or_else(|| self.rust.host.clone(), |cross| cross.platform.rust_target())
    }
}

/// Why `cargo fetch --locked` failed.
#[derive(Debug)]
enum NoCrates {
    Network,
    /// Cargo.toml was edited, Cargo.lock was not.
    StaleLock,
    /// A manifest, lock file or configuration that cargo does not accept.
    Package,
    OtherBytes,
    Disk(io::Error),
    Unknown,
}

/// Reads that out of what cargo said, which has one exit code for all of it. `locks`: whether Cargo.lock holds a package of that name,
/// so that it once was in an index.
fn why_no_crates(said: &[String], locks: impl Fn(&str) -> bool) -> NoCrates {
    // Warnings stand before the error and may speak of anything.
    let start = said.iter().position(|line| line.starts_with("error: ")).unwrap_or(said.len());
    let said = said[start..].join("\n");
    let says = |words: &[&str]| words.iter().any(|&words| said.contains(words));
    let cause = said.split("(os error ").skip(1).filter_map(|rest| rest.split_once(')')?.0.parse().ok());
    let disk = cause.map(io::Error::from_raw_os_error).find(|cause| error::disk_code(cause.kind()) != Code::Disk);
    let absent = said.split_once("no matching package named `").and_then(|(_, rest)| Some(rest.split_once('`')?.0));
    if let Some(cause) = disk {
        NoCrates::Disk(cause)
    } else if says(&["because --locked was passed"]) {
        NoCrates::StaleLock
    } else if says(&["failed to verify the checksum of", "changed between lock files"]) {
        NoCrates::OtherBytes
    } else if says(&["you're using offline mode", "(locked to ", "in the offline mode"]) || absent.is_some_and(locks) {
        // An index that lacks what was once locked lags behind, or is not asked.
        NoCrates::Network
    } else if says(&[
        "no matching package",
        "failed to select a version for",
        "failed to load manifest",
        "failed to parse manifest",
        "failed to parse lock file",
        "could not parse TOML",
        "believes it's in a workspace",
        "failed to read `",
        "Cargo.toml:",
    ]) {
        NoCrates::Package
    } else if says(&[
        "failed to download",
        "download of ",
        "failed to query replaced source",
        "failed to get successful HTTP response",
        "failed to clone into",
        "failed to fetch into",
        "unable to update http",
        "unable to get packages from source",
        "failed to get `",
        "network",
    ]) {
        NoCrates::Network
    } else {
        NoCrates::Unknown
    }
}

/// A file, or the files below a folder as cargo lists those of a package: without what is built, and without packages inside.
fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let skip = |inside: &Path| inside.ends_with("target") || path.join(inside).join("Cargo.toml").is_file();
    Ok(files::walk(path, &skip)?.into_iter().map(|inside| path.join(inside)).collect())
}

fn step_wants(step: &Step, library: &Library) -> Wants {
    let profile = match &step.inputs {
        Some(crate::cache::key::Inputs::NativeLibrary(inputs)) => inputs.profile.clone(),
        _ => String::new(),
    };
    Wants { profile, features: library.feature_set.clone(), ..Wants::default() }
}

/// Source paths are embedded in a library (panics name their place). With the registry's, the package's and the toolchain's folders
/// renamed, the bytes are the same whatever mirror, checkout, CARGO_HOME and RUSTUP_HOME, and with or without the sources of the
/// standard library, whose own name for them is the one used here.
fn remaps(registries: &BTreeSet<PathBuf>, package: &Path, rust: &Rust) -> Vec<String> {
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let commit = rust.version.lines().find_map(|line| line.strip_prefix("commit-hash: ")).unwrap_or("unknown");
    let ours = [remap(&rust.standard_sources, &format!("/rustc/{commit}")), remap(package, "/source")];
    registries.iter().map(|folder| remap(folder, "/registry")).chain(ours).collect()
}

/// Flags that the user set by a variable, with ours behind them, as cargo wants a list: separated by the unit separator. `None` where
/// no variable is set: then the configuration files speak, and ours join them.
fn flags_with(environment: &BTreeMap<String, OsString>, ours: &[String]) -> Option<OsString> {
    let get = |name: &str| environment.get(name).and_then(|value| value.to_str()).filter(|value| !value.is_empty());
    let users: Vec<&str> = match get("CARGO_ENCODED_RUSTFLAGS") {
        Some(encoded) => encoded.split('\x1f').collect(),
        None => get("RUSTFLAGS")?.split_whitespace().collect(),
    };
    Some(users.into_iter().chain(ours.iter().map(String::as_str)).collect::<Vec<_>>().join("\x1f").into())
}

impl Workshop<'_> {
    /// The children of a library's step, for plans. The prefixes that are renamed are known once cargo has fetched.
    pub fn library_commands(&self, name: &str, step: &Step, facts: &Facts) -> Vec<String> {
        let Some(library) = facts.libraries.get(name) else { return Vec::new() };
        let profile = step_wants(step, library).profile;
        let mut compile = format!("cargo rustc --locked --offline --lib --crate-type cdylib --profile {profile}");
        if !library.cargo_features.is_empty() {
            compile.push_str(&format!(" --features {}", library.cargo_features.join(",")));
        }
        vec!["cargo fetch --locked".to_owned(), compile]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_s_words_tell_what_a_failed_fetch_is() {
        // As cargo says them, shortened to the lines that tell. Cargo.lock holds `ryu`.
        for (said, expected) in [
            (
                "    Updating crates.io index\nerror: cannot update the lock file /p/Cargo.lock because --locked was passed to prevent this",
                "StaleLock",
            ),
            (
                "warning: patch `ryu v1.0.0 (/p/r)` was not used in the crate graph\nerror: cannot update the lock file /p/Cargo.lock because --locked was passed to prevent this",
                "StaleLock",
            ),
            (
                "error: failed to load manifest for dependency `d`\nCaused by:\n  failed to read `/p/nodir/Cargo.toml`\nCaused by:\n  No such file or directory (os error 2)",
                "Package",
            ),
            ("error: unclosed inline table, expected `}`\n  --> Cargo.toml:9:10", "Package"),
            (
                "error: failed to select a version for the requirement `ryu = \"^99999\"`\ncandidate versions found which didn't match: 1.0.23",
                "Package",
            ),
            (
                "error: failed to select a version for `ryu`.\n    ... required by package `hello v1.0.0 (/p)`",
                "Package",
            ),
            ("error: no matching package named `mistyped` found\nlocation searched: crates.io index", "Package"),
            (
                "error: failed to parse lock file at: /p/Cargo.lock\nCaused by:\n  TOML parse error at line 6, column 8",
                "Package",
            ),
            (
                "error: failed to parse manifest at `/p/Cargo.toml`\nCaused by:\n  registry index was not found in any configuration: `nope`",
                "Package",
            ),
            ("error: current package believes it's in a workspace when it's not:", "Package"),
            (
                "error: could not load Cargo configuration\nCaused by:\n  could not parse TOML configuration in `/p/.cargo/config.toml`",
                "Package",
            ),
            (
                "error: no matching package named `ryu` found\nlocation searched: `m` index (which is replacing registry `crates-io`)",
                "Network",
            ),
            (
                "error: no matching package named `mistyped` found\nAs a reminder, you're using offline mode (--offline) which can",
                "Network",
            ),
            (
                "error: failed to select a version for the requirement `ryu = \"^1\"` (locked to 1.0.23)\ncandidate versions found which didn't match: 1.0.1",
                "Network",
            ),
            (
                "error: failed to get `ryu` as a dependency of package `hello v1.0.0 (/p)`\nCaused by:\n  download of config.json failed\nCaused by:\n  [7] Could not connect to server",
                "Network",
            ),
            (
                "error: failed to get `ryu` as a dependency of package `hello v1.0.0 (/p)`\nCaused by:\n  failed to query replaced source registry `crates-io`\nCaused by:\n  config.json not found in registry",
                "Network",
            ),
            (
                "error: failed to download from `http://h/ryu/1.0.23/download`\nCaused by:\n  failed to get successful HTTP response from `http://h/`, got 404",
                "Network",
            ),
            (
                "error: failed to get `g` as a dependency of package `hello v1.0.0 (/p)`\nCaused by:\n  failed to load source for dependency `g`\nCaused by:\n  failed to clone into: /c/git/db/x",
                "Network",
            ),
            (
                "error: failed to download replaced source registry `crates-io`\nCaused by:\n  failed to verify the checksum of `ryu v1.0.23`",
                "OtherBytes",
            ),
            ("error: checksum for `ryu v1.0.23` changed between lock files", "OtherBytes"),
            ("  Downloaded ryu v1.0.23\nerror: No space left on device (os error 28)", "StorageFull"),
            (
                "error: failed to download `ryu v1.0.23`\nCaused by:\n  failed to create directory `/c/registry/src`\nCaused by:\n  Read-only file system (os error 30)",
                "ReadOnlyFilesystem",
            ),
            (
                "warning: failed to write cache, error: No space left on device (os error 28)\nerror: cannot update the lock file /p/Cargo.lock because --locked was passed to prevent this",
                "StaleLock",
            ),
            ("error: toolchain '1.33.0-x86_64-unknown-linux-gnu' is not installed", "Unknown"),
        ] {
            let lines: Vec<String> = said.lines().map(str::to_owned).collect();
            let why = why_no_crates(&lines, |name| name == "ryu");
            let found = match &why {
                NoCrates::Disk(cause) => format!("{:?}", cause.kind()),
                other => format!("{other:?}"),
            };
            assert_eq!(found, expected, "{said}");
        }
    }
}
