//! From declared images to steps: base, layers, image.
//!
//! A layer's key has the digests of what it holds, so it waits, like a binary for its library, until that is made: a rebuilt library
//! with the same bytes costs no layer. An image's key has its layers' keys, and is known as soon as they are.

use super::steps::{chosen_wheels, compiler_and_libc, keyed, not_pinned, unknown, wheel_set};
use super::{Place, Plan, Premise, Step, Work, named_for};
use crate::attest;
use crate::cache::key::{self, Inputs, Key};
use crate::cache::reason::Reason;
use crate::cache::store::Entry;
use crate::error::{Code, Error, Result};
use crate::facts::Go;
use crate::platform::Platform;
use crate::project::Project;
use crate::project::image::{Base, Content, FileMode, FileSet, Image, Layer};
use crate::project::pins::{BaseImage, DebianPin, LayerPin};
use crate::registry::BaseReference;
use crate::report::Status;
use crate::tr;
use crate::wheel::Interpreter;
use std::collections::{BTreeMap, BTreeSet};

/// Of every layer that is not declared otherwise: each engine reads it, however old.
pub const CODEC: oci::Codec = oci::Codec::Gzip(6);

/// How a layer is compressed.
pub fn codec_of(image: &Image, layer: &Layer) -> oci::Codec {
    layer.codec.or(image.codec).map_or(CODEC, |codec| codec.0)
}

/// How layers are compressed, and by whom: both decide their bytes.
fn told(codec: oci::Codec) -> String {
    format!("{codec} {}", codec.encoder())
}

/// Adds the image's steps, and those that only its layers need.
pub(super) fn image(premise: &Premise, name: &str, plan: &mut Plan) -> Result<()> {
    let image = premise.project.declaration.image.get(name).ok_or_else(|| unknown("image", name))?;
    let cross = premise.wants.cross;
    let platform = cross.map_or_else(Platform::name_here, |cross| cross.platform.name());
    let id = named_for(name, cross.as_ref());
    let mut layers = Vec::new();
    let mut interpreter = None;
    let mut documents = None;
    match &image.base {
        Some(Base::Debian(base)) => {
            interpreter = Some(interpreter_of_base(premise.project, base, &platform)?);
            let step = debian_base(premise, base, &platform)?;
            layers.push(step.id.clone());
            add(plan, step);
        }
        Some(Base::Registry(reference)) => {
            let pin = pinned_base(premise.project, reference, &platform)?;
            for layer in &pin.layer {
                let step = base_layer(premise, reference, layer)?;
                layers.push(step.id.clone());
                add(plan, step);
            }
            let step = registry_base(premise, reference, pin, &platform)?;
            documents = Some((step.id.clone(), step.key));
            add(plan, step);
        }
        None => {}
    }
    for layer in &image.layer {
        let step = self::layer(premise, name, layer, interpreter.as_ref(), plan)?;
        layers.push(step.id.clone());
        add(plan, step);
    }
    let keys: Option<Vec<Key>> = layers.iter().map(|id| plan.step(id).and_then(|step| step.key)).collect();
    let step = match keys {
        Some(keys) => {
            let work = Work::Image { name: name.to_owned() };
            let base = documents.as_ref().and_then(|(_, key)| *key);
            let inputs = key::Image { base, ..inputs(premise, name, image, &platform, keys) };
            keyed(premise, work, &id, Inputs::Image(inputs), Place::Store)?
        }
        None => waiting(premise, Work::Image { name: name.to_owned() }, &id, &layers),
    };
    // Layers first, in their order.
    layers.extend(documents.map(|(id, _)| id));
    let made = Step { needs: layers, ..step };
    let attestation = attestation(premise, name, image, &made, plan)?;
    plan.steps.extend([made, attestation]);
    Ok(())
}

/// What is said about an image, once it is known what it is made of.
fn attestation(premise: &Premise, name: &str, image: &Image, made: &Step, plan: &Plan) -> Result<Step> {
    let work = Work::Attestation { image: name.to_owned() };
    let cross = premise.wants.cross;
    let id = named_for(name, cross.as_ref());
    let (Some(Inputs::Image(of_image)), Some(key)) = (&made.inputs, made.key) else {
        let unmade = [made.id.clone()];
        return Ok(Step { needs: unmade.to_vec(), ..waiting(premise, work, &id, &unmade) });
    };
    let Premise { settings, project, facts, wants, .. } = premise;
    let mut inputs = key::Attestation {
        name: name.to_owned(),
        platform: of_image.platform.clone(),
        format: attest::FORMAT,
        image: Some(key),
        layers: of_image.layers[of_image.layers.len() - image.layer.len()..].to_vec(),
        commit: facts.commit.clone(),
        created_seconds: settings.source_date_epoch,
        ..key::Attestation::default()
    };
    let mut interpreter = None;
    if let Some(reference) = image.registry_base() {
        let pin = pinned_base(project, reference, &of_image.platform)?;
        inputs.base = Some((reference.name(), pin.manifest.to_string()));
        inputs.base_layers = of_image.layers[..pin.layer.len()].to_vec();
    }
    if let Some(base) = image.debian_base() {
        interpreter = Some(interpreter_of_base(premise.project, base, &of_image.platform)?);
        let text = |pin: &DebianPin| format!("{} {} {}", pin.version, pin.architecture, pin.sha256);
        let pins = pins_of_base(premise.project, base, &of_image.platform)?;
        inputs.packages = pins.iter().map(|pin| (pin.name.clone(), text(pin))).collect();
        inputs.suite = project.declaration.debian_base.get(base).map(|base| base.suite.clone()).unwrap_or_default();
    }
    let mut locks = BTreeSet::from(["xtask.lock".to_owned()]);
    for files in image.layer.iter().flat_map(|layer| &layer.files) {
        let made = |kind: &str, name: &str| {
            let id = format!("{kind}:{}", named_for(name, cross.as_ref()));
            plan.step(&id).and_then(|step| step.entry.as_ref()).ok_or_else(|| unknown("step", &id))
        };
        match &files.from {
            Content::Library(library) => {
                let entry = made("native-library", library)?;
                for output in &entry.outputs {
                    inputs.libraries.insert(placed(files, &output.path), entry.key);
                }
                let declared = project.declaration.native_library.get(library);
                locks.extend(declared.map(|library| format!("{}/Cargo.lock", library.path)));
                inputs.chosen = [("features", wants.features.clone()), ("profile", wants.profile.clone())].into();
            }
            Content::Binary(binary) => {
                let entry = made("go-binary", binary)?;
                for output in &entry.outputs {
                    inputs.binaries.insert(placed(files, &output.path), entry.key);
                }
                let declared = project.declaration.go_binary.get(binary);
                locks.extend(declared.map(|binary| format!("{}/go.sum", binary.module)));
            }
            Content::WheelSet(set) | Content::Wheel { wheel_set: set, .. } => {
                let one = match &files.from {
                    Content::Wheel { path, .. } => path.split('/').next(),
                    _ => None,
                };
                for pin in chosen_wheels(premise, set, interpreter.as_ref())? {
                    if one.is_none_or(|project| project == pin.project) {
                        inputs.wheels.insert(pin.project.clone(), format!("{} {}", pin.filename, pin.sha256));
                    }
                }
            }
            Content::Path(_) | Content::Printed { .. } => {}
        }
    }
    inputs.locks =
        facts.locks.iter().filter(|(path, _)| locks.contains(*path)).map(|(path, it)| (path.clone(), *it)).collect();
    inputs.toolchains = toolchains(premise, !inputs.libraries.is_empty(), !inputs.binaries.is_empty())?;
    let step = keyed(premise, work, &id, Inputs::Attestation(inputs), Place::Store)?;
    Ok(Step { needs: vec![made.id.clone()], ..step })
}

/// The tools that compiled an image's parts.
fn toolchains(premise: &Premise, rust: bool, go: bool) -> Result<BTreeMap<&'static str, String>> {
    let facts = premise.facts;
    let mut tools = BTreeMap::new();
    if let Some(rustc) = facts.rust.as_ref().filter(|_| rust) {
        let line = |name: &str| rustc.version.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        tools.insert("rustc", format!("{} {}", line("release: "), line("commit-hash: ")));
    }
    if let Some(tool) = facts.go.as_ref().filter(|_| go) {
        let pins = premise.project.pins.go.as_ref();
        let sha256 = match tool {
            Go::Pinned { platform, .. } => {
                pins.and_then(|go| go.platform.get(platform)).map(|it| it.wheel.sha256.to_string())
            }
            Go::Installed { .. } => None,
        };
        tools.insert("go", format!("{} {}", tool.version(), sha256.unwrap_or_default()));
    }
    if rust || go {
        let (compiler, libc) = compiler_and_libc(premise, premise.wants.cross)?;
        tools.extend([("cc", compiler), ("libc", libc)]);
    }
    Ok(tools)
}

/// Images share bases and wheel sets.
fn add(plan: &mut Plan, step: Step) {
    if plan.step(&step.id).is_none() {
        plan.steps.push(step);
    }
}

fn inputs(premise: &Premise, name: &str, image: &Image, platform: &str, layers: Vec<Key>) -> key::Image {
    key::Image {
        name: name.to_owned(),
        platform: platform.to_owned(),
        base: None,
        layers,
        entrypoint: image.entrypoint.clone(),
        arguments: image.arguments.clone(),
        environment: image.environment.clone(),
        ports: image.ports.clone(),
        user: image.user.map(|user| user.to_string()).unwrap_or_default(),
        working_directory: image.working_directory.clone().unwrap_or_else(|| match image.registry_base() {
            Some(_) => String::new(),
            None => "/".to_owned(),
        }),
        labels: image.labels.clone(),
        created_seconds: premise.settings.source_date_epoch,
    }
}

/// A step that is decided in the next round.
fn waiting(premise: &Premise, work: Work, name: &str, unmade: &[String]) -> Step {
    let step = Step { status: Status::Run, provisional: true, ..Step::skipped(work, name) };
    let reason = match premise.view.last_inputs(&step.id) {
        None => tr!("first time in this checkout"),
        Some(_) => tr!("{unmade} is made first", unmade = unmade.join(", ")),
    };
    Step { reason: Some(Reason::because(reason)), ..step }
}

/// Adds a base for this machine's platform.
pub(super) fn add_base(premise: &Premise, name: &str, plan: &mut Plan) -> Result<()> {
    let step = debian_base(premise, name, &Platform::name_here())?;
    add(plan, step);
    Ok(())
}

fn debian_base(premise: &Premise, name: &str, platform: &str) -> Result<Step> {
    let declared = premise.project.declaration.debian_base.get(name).ok_or_else(|| unknown("base", name))?;
    let pins = pins_of_base(premise.project, name, platform)?;
    let inputs = Inputs::DebianBase(key::DebianBase {
        name: name.to_owned(),
        platform: platform.to_owned(),
        suite: declared.suite.clone(),
        packages: pins.iter().map(|pin| (pin.name.clone(), format!("{} {}", pin.version, pin.sha256))).collect(),
        exclude: declared.exclude.clone(),
        keep: declared.keep.clone(),
        users: declared.users.iter().map(|(name, user)| format!("{name} {} {}", user.id, user.home)).collect(),
        codec: told(CODEC),
        modified_seconds: premise.settings.source_date_epoch,
    });
    let work = Work::DebianBase { name: name.to_owned(), platform: platform.to_owned() };
    keyed(premise, work, &format!("{name}/{platform}"), inputs, Place::Store)
}

fn registry_base(premise: &Premise, reference: &BaseReference, pin: &BaseImage, platform: &str) -> Result<Step> {
    let inputs = Inputs::RegistryBase(key::RegistryBase {
        config: pin.config.digest.to_string(),
        diff_ids: pin.layer.iter().map(|layer| layer.diff_id.to_string()).collect(),
    });
    let work = Work::RegistryBase { reference: reference.clone(), image: pin.clone() };
    keyed(premise, work, &format!("{reference}/{platform}"), inputs, Place::Store)
}

fn base_layer(premise: &Premise, reference: &BaseReference, layer: &LayerPin) -> Result<Step> {
    let inputs = Inputs::BaseLayer(key::BaseLayer {
        digest: layer.digest.to_string(),
        diff_id: layer.diff_id.to_string(),
        media_type: layer.media_type.clone(),
        size_bytes: layer.size_bytes,
    });
    let work = Work::BaseLayer { reference: reference.clone(), layer: layer.clone() };
    keyed(premise, work, &layer.digest.hex()[..12], inputs, Place::Store)
}

fn pinned_base<'a>(project: &'a Project, reference: &BaseReference, platform: &str) -> Result<&'a BaseImage> {
    let name = reference.to_string();
    let pin = project.pins.registry_base.get(&name).ok_or_else(|| not_pinned(project, "registry-base", &name))?;
    pin.platform.get(platform).ok_or_else(|| {
        let (wanted, known) = (platform, pin.platform.keys().cloned().collect::<Vec<_>>().join(", "));
        let message = tr!("{reference} is no image for {wanted}, but for: {known}", reference, wanted, known);
        Error::new(Code::NotPinned, message)
            .hint(tr!("name a base that has it, or list the `platforms` that the image is made for"))
    })
}

fn pins_of_base<'a>(project: &'a Project, name: &str, platform: &str) -> Result<&'a [DebianPin]> {
    let pins = project.pins.debian_base.get(name).and_then(|base| base.get(platform));
    pins.map(Vec::as_slice).filter(|pins| !pins.is_empty()).ok_or_else(|| not_pinned(project, "debian-base", name))
}

/// The interpreter that wheels in an image on this base must suit, told by its packages. Without a Python among them only wheels
/// that need none of a certain version do.
pub fn interpreter_of_base(project: &Project, name: &str, platform: &str) -> Result<Interpreter> {
    let pins = pins_of_base(project, name, platform)?;
    let python = pins.iter().find_map(|pin| {
        let minor = pin.name.strip_prefix("libpython3.")?.strip_suffix("-minimal")?;
        Some((3, minor.parse().ok()?))
    });
    let glibc = glibc_of(pins);
    let architecture = Platform::of_name(platform).map_or(platform, |it| it.machine_name());
    Ok(Interpreter { version: python.unwrap_or((3, 0)), architecture: architecture.to_owned(), glibc })
}

/// The version of the C library among the packages of a base.
pub fn glibc_of(pins: &[DebianPin]) -> Option<(u32, u32)> {
    let libc = pins.iter().find(|pin| pin.name == "libc6")?;
    let (major, rest) = libc.version.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A layer's step; steps that only it needs are added to the plan.
fn layer(
    premise: &Premise,
    image: &str,
    layer: &Layer,
    interpreter: Option<&Interpreter>,
    plan: &mut Plan,
) -> Result<Step> {
    let declared = premise.project.declaration.image.get(image).ok_or_else(|| unknown("image", image))?;
    let codec = told(codec_of(declared, layer));
    let mut inputs =
        key::Layer { codec, modified_seconds: premise.settings.source_date_epoch, ..key::Layer::default() };
    let cross = premise.wants.cross;
    let made_for = |kind: &str, name: &str| format!("{kind}:{}", named_for(name, cross.as_ref()));
    let mut sources = Sources::default();
    for files in &layer.files {
        let (mode, owner) = (files.mode.unwrap_or(FileMode::FILE), files.owner);
        match &files.from {
            Content::Library(name) => {
                if let Some(entry) = sources.made(made_for("native-library", name), plan)?
                    && let Some(output) = entry.outputs.first()
                {
                    inputs.files.insert(placed(files, &output.path), format!("{mode} {owner} {}", output.digest));
                }
            }
            Content::Binary(name) => {
                if let Some(entry) = sources.made(made_for("go-binary", name), plan)?
                    && let Some(output) = entry.outputs.first()
                {
                    let mode = files.mode.unwrap_or(FileMode::PROGRAM);
                    inputs.files.insert(placed(files, &output.path), format!("{mode} {owner} {}", output.digest));
                }
            }
            Content::Path(path) => {
                let digest = premise.facts.files.get(path).ok_or_else(|| unknown("file", path))?;
                inputs.files.insert(placed(files, path), format!("{mode} {owner} {digest}"));
            }
            Content::WheelSet(name) | Content::Wheel { wheel_set: name, .. } => {
                let step = wheel_set(premise, name, interpreter.cloned())?;
                let id = step.id.clone();
                if plan.step(&id).is_none() {
                    plan.steps.push(step);
                }
                let key = plan.step(&id).and_then(|step| step.key).ok_or_else(|| unknown("wheel set", name))?;
                let (place, held) = match &files.from {
                    Content::Wheel { path, .. } => (placed(files, path), format!("{mode} {owner} {key} {path}")),
                    _ => {
                        let modes = files.mode.map_or_else(|| "own".to_owned(), |mode| mode.to_string());
                        (files.to.clone(), format!("{modes} {owner} {key}"))
                    }
                };
                inputs.wheels.insert(place, held);
                sources.needs.insert(id);
            }
            // It runs on this machine, whatever the image is for.
            Content::Printed { binary, arguments, reads } => {
                let declared = premise.project.declaration.go_binary.get(binary);
                let mut libraries = Vec::new();
                for library in declared.into_iter().flat_map(|it| &it.links) {
                    if let Some(entry) = sources.made(format!("native-library:{library}"), plan)? {
                        libraries.extend(entry.outputs.iter().map(|output| output.digest));
                    }
                }
                let Some(entry) = sources.made(format!("go-binary:{binary}"), plan)? else { continue };
                let Some(output) = entry.outputs.first() else { continue };
                let digest = |path: &String| {
                    let digest = premise.facts.files.get(path).ok_or_else(|| unknown("file", path))?;
                    Ok((path.clone(), *digest))
                };
                let printed = key::Printed {
                    mode: format!("{mode} {owner}"),
                    binary: output.digest,
                    libraries,
                    arguments: arguments.clone(),
                    reads: reads.iter().map(digest).collect::<Result<_>>()?,
                };
                inputs.printed.insert(files.to.clone(), printed);
            }
        }
    }
    let work = Work::Layer { image: image.to_owned(), layer: layer.name.clone(), cross };
    let name = named_for(&format!("{image}/{}", layer.name), cross.as_ref());
    let needs = sources.needs.into_iter().collect();
    if sources.unmade.is_empty() {
        let step = keyed(premise, work, &name, Inputs::Layer(inputs), Place::Store)?;
        return Ok(Step { needs, linked: sources.made, ..step });
    }
    Ok(Step { needs, ..waiting(premise, work, &name, &sources.unmade) })
}

/// What a layer is filled from, as far as it is made.
#[derive(Default)]
struct Sources {
    needs: BTreeSet<String>,
    made: Vec<Entry>,
    unmade: Vec<String>,
}

impl Sources {
    /// The result of a step, if there is one yet.
    fn made<'p>(&mut self, id: String, plan: &'p Plan) -> Result<Option<&'p Entry>> {
        let step = plan.step(&id).ok_or_else(|| unknown("step", &id))?;
        match &step.entry {
            Some(entry) => self.made.push(entry.clone()),
            None => self.unmade.push(id.clone()),
        }
        self.needs.insert(id);
        Ok(step.entry.as_ref())
    }
}

/// Where a file of this path lies in the image.
pub fn placed(files: &FileSet, path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    if files.to.ends_with('/') { format!("{}{name}", files.to) } else { files.to.clone() }
}
