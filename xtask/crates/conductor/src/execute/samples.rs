//! What mirrors are asked for when they are measured: an artifact of each ecosystem that a lock file of this project names.
//!
//! Owns: the choice, small ones first. Never: fail; a lock file that cannot be read names nothing here, and the build that
//! needs it says what is wrong with it.

use crate::files;
use crate::process::{self, Invocation};
use crate::project::{ModelSource, Project};
use crate::settings::Settings;
use crate::toolchain::{cargo, go};
use protocol::{Pins, Samples};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `go env` answers at once; a `go` that first looks for another toolchain is not waited for.
const GO_ANSWERS: Duration = Duration::from_secs(2);

/// Samples, and the pins that they are checked against.
pub fn samples(settings: &Settings, project: &Project) -> (Samples, Pins) {
    let root = &settings.workspace.root;
    let read = |path: PathBuf| {
        let bytes = files::read_if_present(&path).ok().flatten()?;
        Some((String::from_utf8_lossy(&bytes).into_owned(), path))
    };
    let (mut samples, mut pins) =
        (Samples { suite: Some(super::outside::DEBIAN_RELEASE.to_owned()), ..Samples::default() }, Pins::default());

    for library in project.declaration.native_library.values() {
        let Some((lock, path)) = read(root.join(&library.path).join("Cargo.lock")) else { continue };
        pins.crates.extend(cargo::checksums(&lock, &path).unwrap_or_default());
        samples.krate = samples.krate.or_else(|| cargo::small_package(&lock, &path));
    }
    for binary in project.declaration.go_binary.values() {
        let Some((sums, _)) = read(root.join(&binary.module).join("go.sum")) else { continue };
        pins.go_sums.extend(go::sums(&sums));
    }
    samples.module = module(&pins.go_sums);
    samples.checksum_database = samples.module.as_ref().and_then(|_| checksum_database(settings));

    let models = project.pins.model.values();
    let go_wheels = project.pins.go.iter().flat_map(|go| go.platform.values().map(|platform| &platform.wheel));
    let wheels: Vec<_> =
        project.pins.wheel_set.values().flatten().chain(models.flat_map(|it| &it.wheel)).chain(go_wheels).collect();
    for wheel in &wheels {
        pins.wheels.entry(wheel.filename.clone()).or_default().insert(wheel.sha256.to_string());
    }
    samples.wheel = wheels
        .iter()
        .min_by_key(|wheel| (wheel.size_bytes, &wheel.filename))
        .map(|wheel| (wheel.project.clone(), wheel.filename.clone(), wheel.sha256.to_string()));

    if let Some(rustup) = &project.pins.rustup {
        let channel = format!("channel-rust-{}.toml", rustup.toolchain);
        pins.channels.insert(channel.clone(), rustup.manifest.to_string());
        samples.channel = Some(channel);
    }

    let mut smallest = u64::MAX;
    for (name, model) in &project.declaration.model {
        for source in &model.sources {
            let ModelSource::Hub { repo, revision } = source else { continue };
            for file in project.pins.model.get(name).into_iter().flat_map(|pins| &pins.file) {
                pins.hub.insert(format!("{repo}@{revision} {}", file.path), file.sha256.to_string());
                if file.size_bytes < smallest {
                    smallest = file.size_bytes;
                    samples.hub_file =
                        Some((repo.clone(), revision.clone(), file.path.clone(), file.sha256.to_string()));
                }
            }
        }
    }
    if let Some((lock, _)) = read(root.join("package-lock.json")) {
        pins.npm = packages(&lock);
    }
    samples.package = pins.npm.keys().min_by_key(|it| (it.len(), *it)).and_then(|it| split(it));
    (samples, pins)
}

/// `name version`.
fn split(id: &str) -> Option<(String, String)> {
    id.rsplit_once(' ').map(|(name, version)| (name.to_owned(), version.to_owned()))
}

/// A module whose zip and go.mod are both in go.sum. Sizes are not there; toolchains are large.
fn module(sums: &BTreeMap<String, String>) -> Option<(String, String)> {
    let whole = |id: &&String| sums.contains_key(&format!("{id}/go.mod")) && !id.starts_with(TOOLCHAIN);
    sums.keys().filter(whole).min_by_key(|id| (id.len(), *id)).and_then(|id| split(id))
}

const TOOLCHAIN: &str = "golang.org/toolchain ";

/// The name of the database that Go would ask, from Go itself; `None` where it asks none.
fn checksum_database(settings: &Settings) -> Option<String> {
    let environment = settings.environment.only(&["PATH", "HOME", "XDG_CONFIG_HOME", "GOENV", "GOROOT"]);
    let invocation = Invocation {
        program: "go".into(),
        arguments: vec!["env".into(), "GOSUMDB".into()],
        // A go.mod nearby could name another toolchain.
        directory: Path::new("/").to_owned(),
        environment: environment.into_iter().chain([("GOTOOLCHAIN".to_owned(), "local".into())]).collect(),
    };
    let output = process::capture_within(GO_ANSWERS, &invocation).ok().filter(|it| it.status.success())?;
    let said = String::from_utf8(output.stdout).ok()?;
    // `name`, `name+key`, or either with a URL behind it.
    let name = said.split_whitespace().next()?.split('+').next()?;
    (name != "off").then(|| name.to_owned())
}

/// `name version` → integrity, of a package-lock.json that has it.
fn packages(lock: &str) -> BTreeMap<String, String> {
    #[derive(Deserialize)]
    struct Lock {
        #[serde(default)]
        packages: BTreeMap<String, Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        /// Where it is installed under another name.
        name: Option<String>,
        version: Option<String>,
        integrity: Option<String>,
    }
    let packages = serde_json::from_str::<Lock>(lock).map(|lock| lock.packages).unwrap_or_default();
    let pin = |(path, package): (String, Package)| {
        let name = package.name.or_else(|| path.rsplit_once("node_modules/").map(|(_, name)| name.to_owned()))?;
        let integrity = package.integrity.filter(|it| it.starts_with("sha512-"))?;
        Some((format!("{name} {}", package.version?), integrity))
    };
    packages.into_iter().filter_map(pin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_without_its_zip_in_go_sum_was_never_fetched_and_is_no_sample() {
        let sums = |lines: &[&str]| lines.iter().map(|line| ((*line).to_owned(), "h1:x".to_owned())).collect();
        let all = sums(&[
            "a v1",
            "example.com/b v2",
            "example.com/b v2/go.mod",
            "golang.org/toolchain v0",
            "golang.org/toolchain v0/go.mod",
        ]);
        assert_eq!(module(&all), Some(("example.com/b".into(), "v2".into())));
        assert_eq!(module(&sums(&["a v1/go.mod"])), None);
    }

    #[test]
    fn packages_of_npm_are_known_by_name_and_version() {
        let lock = r#"{"packages":{"":{"name":"root","version":"1.0.0"},"node_modules/@s/a":{"version":"2.0.0","integrity":"sha512-x"},
            "node_modules/b/node_modules/c":{"version":"3.0.0","integrity":"sha512-y"},"node_modules/old":{"version":"1.0.0","integrity":"sha1-z"}}}"#;
        let expected = [("@s/a 2.0.0", "sha512-x"), ("c 3.0.0", "sha512-y")];
        assert_eq!(packages(lock), expected.map(|(id, hash)| (id.to_owned(), hash.to_owned())).into());
    }
}
