//! Making images: bases out of Debian packages, layers out of what other steps made, and the documents over them.
//!
//! A base of Debian packages and a layer each become four files of one result: the compressed blob, what is known of it, and what a dynamic linker
//! could notice of its files. So nothing that is asked later has to unpack a layer again.

use super::base::base_tree;
use super::{Made, Workshop};
use crate::cache::key::{self, Inputs, Key};
use crate::cache::store::{Entry, Lock, Lookup, Product};
use crate::digest::Digest;
use crate::error::{Code, Error, Result};
use crate::facts::Facts;
use crate::files;
use crate::plan::{self, Step};
use crate::process::{self, Companion, Invocation};
use crate::project::image::{Content, FileMode, FileSet, Image, Layer, Owner};
use crate::project::pins::DebianPin;
use crate::report::{Done, Event};
use crate::settings::env;
use crate::toolchain::abi::Parts;
use crate::toolchain::cross::Cross;
use crate::tr;
use oci::digest::Hashing;
use oci::image::{Written, media_type};
use oci::layout::{Named, Source};
use oci::{Referrer, Tree, TreePath};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Files of a result of kind `debian-base` or `layer`: the compressed tar, its [`oci::Layer`], its [`Parts`], path → digest of its files.
const BLOB: &str = "blob";
pub(super) const RECORD: &str = "record.json";
pub(super) const PARTS: &str = "parts.json";
const FILES: &str = "files.json";
/// Files of a result of kind `image`.
const CONFIGURATION: &str = "config.json";
pub(super) const MANIFEST: &str = "manifest.json";

/// A layer in the store.
#[derive(Clone, Debug)]
pub struct MadeLayer {
    /// `None`: a builder made it, and keeps it in its own cache.
    pub key: Option<Key>,
    pub record: oci::Layer,
    /// `None`: of a base from a registry, whose bytes are brought when somebody lacks them.
    pub blob: Option<PathBuf>,
    pub parts: Parts,
}

/// An image in the store: everything that has to be at its targets.
#[derive(Clone, Debug)]
pub struct MadeImage {
    /// `linux/amd64`
    pub platform: String,
    pub documents: Written,
    /// The lowest first.
    pub layers: Vec<MadeLayer>,
    /// What is attached to it.
    pub referrers: Vec<Referrer>,
}

impl MadeImage {
    /// All that has to be at a target, under a name.
    pub fn delivery(&self, name: &str) -> Result<Named> {
        let source = |layer: &MadeLayer| layer.blob.clone().map_or(Source::Elsewhere, Source::File);
        let places = self.layers.iter().map(|layer| (layer.record.descriptor.digest, source(layer))).collect();
        let named = Named::new(name, &self.documents, &places)
            .map_err(|error| Error::bug(tr!("image {name} does not hang together", name)).because(error))?;
        Ok(Named { referrers: self.referrers.clone(), ..named })
    }
}

impl Workshop<'_> {
    pub(super) fn debian_base(&self, step: &Step, name: &str, platform: &str, lock: &Lock) -> Result<Made> {
        let unknown = || Error::bug(tr!("base {name} is not declared and pinned", name));
        let declared = self.project.declaration.debian_base.get(name).ok_or_else(unknown)?;
        let pins = self.project.pins.debian_base.get(name).and_then(|it| it.get(platform)).ok_or_else(unknown)?;
        let mut packages = Vec::new();
        for (index, pin) in pins.iter().enumerate() {
            let (index, count) = (index + 1, pins.len());
            packages.push(self.fetch_package(
                step,
                pin,
                &tr!("package {index} of {count}: {name}", index, count, name = pin.name),
            )?);
        }
        self.in_scratch(|scratch| {
            let contents = scratch.join("contents");
            files::create_folder(&contents)?;
            let tree = base_tree(name, declared, pins, &packages, self.modified_seconds(), &contents)?;
            self.publish_layer(step, lock, tree, plan::CODEC, scratch)
        })
    }

    /// Of everything that nobody else dated.
    fn modified_seconds(&self) -> i64 {
        i64::try_from(self.settings.source_date_epoch).unwrap_or(i64::MAX)
    }

    fn fetch_package(&self, step: &Step, pin: &DebianPin, what: &str) -> Result<PathBuf> {
        let progress = |text| self.sink.send(Event::Progress { id: step.id.clone(), text: format!("{what} {text}") });
        let fetched = self.outside.gateway()?.fetch(&step.id, pin.artifact(), progress);
        fetched.map(|fetched| fetched.path).map_err(|error| self.outside.with_ways(error))
    }

    pub(super) fn layer(
        &self,
        step: &Step,
        image: &str,
        layer: &str,
        cross: Option<Cross>,
        facts: &Facts,
        lock: &Lock,
    ) -> Result<Made> {
        let (declared, layer) = self.declared_layer(image, layer)?;
        let codec = plan::codec_of(declared, layer);
        let mut tree = Tree::new();
        for files in &layer.files {
            self.fill(&mut tree, files, step, cross, facts)?;
        }
        self.in_scratch(|scratch| self.publish_layer(step, lock, tree, codec, scratch))
    }

    fn declared_layer(&self, image: &str, layer: &str) -> Result<(&Image, &Layer)> {
        let declared = self.project.declaration.image.get(image);
        declared
            .and_then(|image| Some((image, image.layer.iter().find(|it| it.name == layer)?)))
            .ok_or_else(|| Error::bug(tr!("image {image} declares no layer {layer}", image, layer)))
    }

    /// Puts a set of files where it belongs.
    fn fill(&self, tree: &mut Tree, files: &FileSet, step: &Step, cross: Option<Cross>, facts: &Facts) -> Result<()> {
        let made = |kind: &str, name: &str| linked(step, &format!("{kind}:{}", plan::named_for(name, cross.as_ref())));
        let mode = files.mode.unwrap_or(FileMode::FILE);
        match &files.from {
            Content::Library(name) => self.add_output(tree, files, made("native-library", name)?, mode),
            Content::Binary(name) => {
                self.add_output(tree, files, made("go-binary", name)?, files.mode.unwrap_or(FileMode::PROGRAM))
            }
            Content::Path(path) => {
                let file = self.settings.workspace.root.join(path);
                let bytes = files::read(&file)?;
                if facts.files.get(path) != Some(&Digest::of(&bytes)) {
                    return Err(Error::new(
                        Code::InputsChanged,
                        tr!("{what} changed while {id} was made", what = path, id = step.id),
                    )
                    .hint(tr!("nothing was published; run the command again")));
                }
                self.add(tree, &plan::placed(files, path), oci::Content::Bytes(bytes), mode, files.owner)
            }
            Content::WheelSet(name) => {
                let wheels = self.wheels_of(step, &files.to, name)?;
                for output in &wheels.outputs {
                    // Below the folder of its project.
                    let Some((_, inside)) = output.path.split_once('/') else { continue };
                    let file = self.store.file_of(&wheels, output);
                    let content = oci::Content::File { path: file, size_bytes: output.size_bytes };
                    let mode = files.mode.unwrap_or(FileMode::of_output(output.executable));
                    let place = format!("{}/{inside}", files.to.trim_end_matches('/'));
                    self.add(tree, &place, content, mode, files.owner)?;
                }
                Ok(())
            }
            Content::Wheel { wheel_set, path } => {
                let place = plan::placed(files, path);
                let wheels = self.wheels_of(step, &place, wheel_set)?;
                let output = wheels.outputs.iter().find(|output| output.path == *path).ok_or_else(|| {
                    let message = tr!("wheel set {wheel_set} has no file {path}", wheel_set, path);
                    self.project.source.error(Code::Undeclared, &["image", path], &message)
                })?;
                let file = self.store.file_of(&wheels, output);
                let content = oci::Content::File { path: file, size_bytes: output.size_bytes };
                self.add(tree, &place, content, mode, files.owner)
            }
            Content::Printed { binary, arguments, .. } => {
                let text = process::ask(&self.printing(binary, arguments))?;
                self.add(tree, &files.to, oci::Content::Bytes(text.into_bytes()), mode, files.owner)
            }
        }
    }

    fn printing(&self, binary: &str, arguments: &[String]) -> Invocation {
        Invocation {
            program: self.settings.workspace.dist_bin(None).join(binary),
            arguments: arguments.iter().map(Into::into).collect(),
            directory: self.settings.workspace.root.clone(),
            environment: self.settings.environment.only(env::PASSED),
        }
    }

    /// The children that a layer starts.
    pub fn layer_commands(&self, image: &str, layer: &str) -> Vec<String> {
        let files = self.declared_layer(image, layer).map(|(_, layer)| layer.files.as_slice()).unwrap_or_default();
        let command = |files: &FileSet| match &files.from {
            Content::Printed { binary, arguments, .. } => Some(format!("{binary} {}", arguments.join(" "))),
            _ => None,
        };
        files.iter().filter_map(command).collect()
    }

    fn add_output(&self, tree: &mut Tree, files: &FileSet, entry: &Entry, mode: FileMode) -> Result<()> {
        for output in &entry.outputs {
            let content = oci::Content::File { path: self.store.file_of(entry, output), size_bytes: output.size_bytes };
            self.add(tree, &plan::placed(files, &output.path), content, mode, files.owner)?;
        }
        Ok(())
    }

    fn add(&self, tree: &mut Tree, place: &str, content: oci::Content, mode: FileMode, owner: Owner) -> Result<()> {
        let file = oci::Entry::file(content, mode.bits(), self.modified_seconds());
        let entry = oci::Entry { uid: owner.uid, gid: owner.gid, ..file };
        TreePath::new(place.trim_start_matches('/')).and_then(|path| tree.insert(path, entry)).map_err(|error| {
            Error::new(Code::BadImage, tr!("{place} cannot be put into an image", place)).because(error)
        })
    }

    /// The wheel set that belongs at a place of a layer.
    fn wheels_of(&self, step: &Step, place: &str, name: &str) -> Result<Entry> {
        let unknown = || Error::bug(tr!("wheel set {name} of {id} was not made", name, id = step.id));
        let Some(Inputs::Layer(inputs)) = &step.inputs else { return Err(unknown()) };
        let key = inputs.wheels.get(place).and_then(|text| text.split(' ').find_map(|word| word.parse().ok()));
        self.result(&key.ok_or_else(unknown)?)
    }

    pub(super) fn result(&self, key: &Key) -> Result<Entry> {
        match self.store.lookup(key, &self.stats, false)? {
            Lookup::Hit(entry) => Ok(entry),
            _ => Err(Error::bug(tr!("the result {key} was not made", key))),
        }
    }

    /// With a folder that is gone afterwards, whatever happens.
    pub(super) fn in_scratch(&self, work: impl FnOnce(&Path) -> Result<Made>) -> Result<Made> {
        let scratch = files::temporary_folder(&self.settings.workspace.build(), "layer")?;
        let made = work(&scratch);
        let _ = files::remove(&scratch);
        made
    }

    fn publish_layer(
        &self,
        step: &Step,
        lock: &Lock,
        mut tree: Tree,
        codec: oci::Codec,
        scratch: &Path,
    ) -> Result<Made> {
        tree.add_parents(self.modified_seconds());
        let parts = parts(&tree)?;
        let blob = scratch.join(BLOB);
        let output = files::create_scratch(&blob)?;
        let record = match codec {
            oci::Codec::Zstd(_) => self.packed(step, &tree, codec, output)?,
            _ => oci::layer::write(&tree, codec, output).map_err(|error| unwritten(step, error))?,
        };
        let product = |path: &str, expected| Product {
            path: path.to_owned(),
            file: scratch.join(path),
            executable: false,
            expected,
        };
        write_json(&scratch.join(RECORD), &record)?;
        write_json(&scratch.join(PARTS), &parts)?;
        write_json(&scratch.join(FILES), &file_digests(&tree)?)?;
        let digest = record.descriptor.digest.hex().parse().ok();
        let products = [product(BLOB, digest), product(RECORD, None), product(PARTS, None), product(FILES, None)];
        let entry = self.store.publish(lock, &step.id, step.flat_inputs(), Default::default(), &products)?;
        Ok(Made { entry: Some(entry), done: Done::Ran, cpu_seconds: 0.0 })
    }

    /// Writes a layer through the packer, whose C is not linked here: a tar goes in, and nobody holds more of it than a pipe does.
    fn packed(&self, step: &Step, tree: &Tree, codec: oci::Codec, output: File) -> Result<oci::Layer> {
        let invocation = Invocation {
            program: self.outside.satellite("packer", &tr!("the packer"))?,
            arguments: vec![codec.to_string().into()],
            directory: self.settings.workspace.root.clone(),
            environment: self.settings.environment.only(&["PATH", "RUST_BACKTRACE"]),
        };
        let log = self.log(&step.id);
        let mut packer = Companion::start("packer", &invocation, &log, true)?;
        let no_pipes = || Error::bug(tr!("the packer has no pipes"));
        let (tar, mut packed) = packer.pipes().ok_or_else(no_pipes)?;
        let (written, received) = std::thread::scope(|scope| {
            let receiving = scope.spawn(move || {
                let mut hashing = Hashing::new(output);
                std::io::copy(&mut packed, &mut hashing).map(|_| hashing.finish())
            });
            (oci::layer::write(tree, oci::Codec::Tar, tar), receiving.join())
        });
        let status = packer.wait()?;
        let layer = written.map_err(|error| unwritten(step, error))?;
        let received = received.map_err(|_| no_pipes())?;
        let (_, digest, size) = received.map_err(|error| Error::disk("write", Path::new(BLOB), error))?;
        if !status.success() {
            let message = tr!("the packer ended ({status}); its log: {log}", status, log = log.display());
            return Err(Error::new(Code::ChildFailed, message));
        }
        Ok(oci::Layer { descriptor: oci::Descriptor::new(codec.media_type(), digest, size), ..layer })
    }

    /// Reads a layer that was made.
    pub fn made_layer(&self, key: &Key) -> Result<MadeLayer> {
        let entry = self.result(key)?;
        let is_here = entry.outputs.iter().any(|output| output.path == BLOB);
        let blob = is_here.then(|| self.file(&entry, BLOB)).transpose()?;
        Ok(MadeLayer {
            key: Some(*key),
            record: read_json(&self.file(&entry, RECORD)?)?,
            blob,
            parts: read_json(&self.file(&entry, PARTS)?)?,
        })
    }

    /// Path in the image → digest of every file that a layer holds.
    pub(super) fn files_of_layer(&self, key: &Key) -> Result<BTreeMap<String, Digest>> {
        read_json(&self.file(&self.result(key)?, FILES)?)
    }

    pub(super) fn file(&self, entry: &Entry, path: &str) -> Result<PathBuf> {
        let output = entry.outputs.iter().find(|output| output.path == path);
        let output = output.ok_or_else(|| Error::bug(tr!("{step} has no file {path}", step = entry.step, path)))?;
        Ok(self.store.file_of(entry, output))
    }

    pub(super) fn image(&self, step: &Step, name: &str, lock: &Lock) -> Result<Made> {
        let Some(Inputs::Image(inputs)) = &step.inputs else {
            return Err(Error::bug(tr!("image {name} has no inputs", name)));
        };
        let architecture = inputs.platform.rsplit('-').next().unwrap_or_default();
        let mut layers = Vec::new();
        for (key, made_by) in inputs.layers.iter().zip(&step.needs) {
            layers.push((self.made_layer(key)?, made_by));
        }
        let ours = layers.iter().position(|(layer, _)| layer.blob.is_some()).unwrap_or(layers.len());
        let below: Vec<_> = layers[..ours].iter().map(|(layer, _)| layer.record.descriptor.clone()).collect();
        let base = match &inputs.base {
            Some(base) => self.based_on(base, &below)?,
            None => oci::Image { platform: oci::Platform::linux(architecture), ..oci::Image::default() },
        };
        let created_seconds = i64::try_from(inputs.created_seconds).unwrap_or(i64::MAX);
        let mut image = oci::Image { created_seconds, ..base };
        for (layer, made_by) in &layers[ours..] {
            image.push(&layer.record, &format!("cargo xtask images: {made_by}"));
        }
        for (variable, value) in &inputs.environment {
            image.set_env(variable, value);
        }
        let execution = &mut image.execution;
        // Arguments are those of an entrypoint: a base's go with its own.
        if !inputs.entrypoint.is_empty() {
            execution.entrypoint.clone_from(&inputs.entrypoint);
            execution.cmd.clear();
        }
        if !inputs.arguments.is_empty() {
            execution.cmd.clone_from(&inputs.arguments);
        }
        for (own, inherited) in
            [(&inputs.user, &mut execution.user), (&inputs.working_directory, &mut execution.working_dir)]
        {
            if !own.is_empty() {
                inherited.clone_from(own);
            }
        }
        execution.labels.extend(inputs.labels.clone());
        execution.exposed_ports.extend(inputs.ports.iter().map(|port| format!("{port}/tcp")));
        self.must_be_started(name, inputs, execution)?;
        let written = image.write();
        self.in_scratch(|scratch| {
            files::write(&scratch.join(CONFIGURATION), &written.config.bytes)?;
            files::write(&scratch.join(MANIFEST), &written.manifest.bytes)?;
            let product = |path: &str| Product {
                path: path.to_owned(),
                file: scratch.join(path),
                executable: false,
                expected: None,
            };
            let products = [product(CONFIGURATION), product(MANIFEST)];
            let entry = self.store.publish(lock, &step.id, step.flat_inputs(), Default::default(), &products)?;
            Ok(Made { entry: Some(entry), done: Done::Ran, cpu_seconds: 0.0 })
        })
    }

    /// What a base was to say, and nobody declared.
    fn must_be_started(&self, name: &str, declared: &key::Image, execution: &oci::image::Execution) -> Result<()> {
        let lacks = |message: String, hint: String| {
            Err(self.project.source.error(Code::WrongValue, &["image", name, "base"], &message).hint(hint))
        };
        if execution.entrypoint.is_empty() && execution.cmd.is_empty() {
            return lacks(
                tr!("image.{name} starts nothing, and its base neither", name),
                tr!("name the program by its path in the image: entrypoint = [\"/app/server\"]"),
            );
        }
        let user = execution.user.split(':').next().unwrap_or_default();
        if declared.user.is_empty() && ["", "0", "root"].contains(&user) {
            return lacks(
                tr!("image.{name} runs as root, since its base does", name),
                tr!(
                    "name a user by numbers, user = \"65532:65532\"; an image that runs as root has to say so: user = \"0:0\""
                ),
            );
        }
        Ok(())
    }

    /// Reads an image of a finished plan, with what is said about it.
    pub fn made_image(&self, step: &Step, attestation: &Step) -> Result<MadeImage> {
        let unmade = || Error::bug(tr!("{id} was not made", id = step.id));
        let entry = step.entry.as_ref().ok_or_else(unmade)?;
        let Some(Inputs::Image(inputs)) = &step.inputs else { return Err(unmade()) };
        let blob =
            |media_type, path| -> Result<_> { Ok(oci::Blob::new(media_type, files::read(&self.file(entry, path)?)?)) };
        let mut manifest = blob(media_type::MANIFEST, MANIFEST)?;
        let referrers = self.referrers(attestation, &manifest.descriptor)?;
        // As an index of several platforms wants it.
        let architecture = inputs.platform.rsplit('-').next().unwrap_or_default();
        manifest.descriptor.platform = Some(oci::Platform::linux(architecture));
        Ok(MadeImage {
            platform: inputs.platform.replace('-', "/"),
            referrers,
            documents: Written { config: blob(media_type::CONFIG, CONFIGURATION)?, manifest },
            layers: inputs.layers.iter().map(|key| self.made_layer(key)).collect::<Result<_>>()?,
        })
    }
}

fn unwritten(step: &Step, error: oci::layer::LayerError) -> Error {
    Error::new(Code::BadImage, tr!("cannot write the layer {id}", id = step.id)).because(error)
}

fn linked<'s>(step: &'s Step, id: &str) -> Result<&'s Entry> {
    let unmade = || Error::bug(tr!("{id} was not made", id));
    step.linked.iter().find(|entry| entry.step == id).ok_or_else(unmade)
}

/// What a dynamic linker could notice of a tree.
fn parts(tree: &Tree) -> Result<Parts> {
    let mut parts = Parts::default();
    for (path, entry) in tree.iter() {
        match &entry.kind {
            oci::Kind::File(oci::Content::Bytes(bytes)) => parts.add_file(path.as_str(), bytes),
            oci::Kind::File(oci::Content::File { path: file, .. }) if files::begins_with(file, b"\x7fELF")? => {
                parts.add_file(path.as_str(), &files::read(file)?);
            }
            oci::Kind::Symlink(target) => drop(parts.links.insert(path.to_string(), target.clone())),
            oci::Kind::Hardlink(target) => drop(parts.links.insert(path.to_string(), format!("/{target}"))),
            _ => {}
        }
    }
    Ok(parts)
}

/// Of the files of a tree; other names of a file are not files of their own.
fn file_digests(tree: &Tree) -> Result<BTreeMap<String, Digest>> {
    let mut digests = BTreeMap::new();
    for (path, entry) in tree.iter() {
        let digest = match &entry.kind {
            oci::Kind::File(oci::Content::Bytes(bytes)) => Digest::of(bytes),
            oci::Kind::File(oci::Content::File { path, .. }) => {
                Digest::of_file(path).map_err(|error| Error::disk("read", path, error))?.0
            }
            _ => continue,
        };
        digests.insert(format!("/{path}"), digest);
    }
    Ok(digests)
}

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|error| Error::bug(tr!("cannot serialise")).because(error))?;
    files::write(path, &bytes)
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_slice(&files::read(path)?)
        .map_err(|error| Error::bug(tr!("cannot read {path}", path = path.display())).because(error))
}
