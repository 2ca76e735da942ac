//! `images`: what is made, looked at before it goes anywhere, and put at its targets.

mod building;
mod loading;
mod sources;

use super::gates;
use crate::cache::key::Key;
use crate::cli::{self, ImageBuilder, ImageOrigin, ImagePlace, ImageTarget};
use crate::digest::Digest;
use crate::document::did_you_mean;
use crate::engine;
use crate::error::{Code, Error, Result};
use crate::execute::Workshop;
use crate::execute::image::{MadeImage, MadeLayer};
use crate::execute::push::{Delivery, Pusher};
use crate::facts::Wants;
use crate::files;
use crate::mirror::Ecosystem;
use crate::plan;
use crate::platform::Platform;
use crate::project::Project;
use crate::project::image::Content;
use crate::registry::{Reference, RegistryPlace};
use crate::report::{self, Done, Event, Finding, ImageAttestation, ImageLayer, Severity, Sink};
use crate::settings::{Settings, env};
use crate::toolchain::abi::{self, Parts};
use crate::tr;
use oci::layout::LayoutError;
use protocol::Pushed;
use protocol::engine::Loaded;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The oldest C library of a distribution that is still cared for (manylinux_2_28): nobody says which one a base from a registry has
/// before it is read, and then what it lacks is named.
const REGISTRY_GLIBC: (u32, u32) = (2, 28);

/// A made image with the name that it gets.
struct Named<'a> {
    name: &'a str,
    platforms: Vec<MadeImage>,
    /// All of them under its reference: `extproc:latest`, with what DOCKER_REGISTRY says before it.
    delivery: oci::layout::Named,
    builder: &'static str,
}

impl<'a> Named<'a> {
    fn new(name: &'a str, reference: &str, platforms: Vec<MadeImage>, builder: &'static str) -> Result<Self> {
        let mut deliveries = platforms.iter().map(|image| image.delivery(reference)).collect::<Result<Vec<_>>>()?;
        let delivery = match deliveries.pop() {
            Some(only) if deliveries.is_empty() => only,
            last => oci::layout::Named::platforms(reference, deliveries.into_iter().chain(last).collect()),
        };
        Ok(Self { name, platforms, delivery, builder })
    }

    /// For those who take one only: this machine's, unless another was asked for alone.
    fn for_platform(&self, platform: Option<Platform>) -> &MadeImage {
        let wanted = platform.or(Platform::here()).map(|it| it.to_string());
        let found = self.platforms.iter().find(|it| Some(&it.platform) == wanted.as_ref());
        found.unwrap_or(&self.platforms[0])
    }
}

pub fn images(settings: &Settings, project: &Project, sink: Sink, args: &cli::Images) -> Result<()> {
    if let (Some(_), Some(image)) = (&args.command, args.images.first()) {
        return Err(Error::new(
            Code::CommandLine,
            tr!("`{image}` stands before a command that makes no images", image),
        ));
    }
    match &args.command {
        Some(cli::ImagesCommand::Diff(diff)) => return self::diff(settings, diff),
        Some(cli::ImagesCommand::Engine(engine)) => {
            return loading::engine(settings, project, sink, engine.address.as_deref());
        }
        None => {}
    }
    building::must_suit(args)?;
    // Said before anything is made.
    if args.to.contains(&ImageTarget::Engine) || args.builder == ImageBuilder::Engine {
        engine::must_be_somewhere(&engine::place::places(args.engine.as_deref(), &settings.environment)?)?;
    }
    let builder = building::builder(settings, args)?;
    let names = chosen(project, &args.images)?;
    names.iter().try_for_each(|name| can_be_made_for(project, name, &args.platform))?;
    let workshop = Workshop::new(settings, project, sink)?;
    let wanted = wanted(settings, project, &names, args)?;
    for place in registries(args) {
        workshop.outside.must_reach(place)?;
        names.iter().try_for_each(|name| pushed_to(settings, args, place, name, names.len()).map(drop))?;
    }
    if names.iter().any(|name| project.declaration.image[*name].registry_base().is_some()) {
        workshop.outside.need([Ecosystem::Oci]);
    }
    if settings.dry_run {
        let hosts: Vec<String> = registries(args).map(RegistryPlace::authority).collect();
        return wanted.iter().try_for_each(|(_, wants)| super::show_plan_and(&workshop, wants, false, hosts.clone()));
    }
    // Whoever is not logged in hears it before anything is built.
    let pushers = registries(args).map(|place| Pusher::new(settings, &workshop.outside, place));
    let mut pushers = pushers.collect::<Result<VecDeque<_>>>()?;
    // Of several, what loads an archive gets the one for this machine.
    let platform = match wanted.as_slice() {
        [(only, _)] => *only,
        _ => Platform::here(),
    };
    let (made, anew) = match args.from {
        ImageOrigin::Native => make(&workshop, &names, &wanted, args)?,
        ImageOrigin::Source => Default::default(),
    };
    must_hold_no_secret(&workshop, &made)?;
    let built = match &builder {
        Some(builder) => {
            let orders = match args.from {
                ImageOrigin::Native => building::assemblies(&workshop, args, &made)?,
                ImageOrigin::Source => sources::orders(&workshop, args, &names, &wanted)?,
            };
            Some(builder.build(&workshop, args, platform, &orders)?)
        }
        None => None,
    };
    let handed_out = built.as_ref().and_then(|it| it.handed_out.as_ref());
    if let (ImageOrigin::Source, Some(handed_out)) = (args.from, handed_out) {
        for (image, made) in handed_out.images.iter().flat_map(|it| it.platforms.iter().map(move |made| (it, made))) {
            must_fit(project, image.name, made)?;
            must_start(&workshop.sink, image.name, platform, made)?;
        }
        must_hold_no_secret(&workshop, &handed_out.images)?;
    }
    let made = handed_out.map_or(made.as_slice(), |it| it.images.as_slice());
    for target in &args.to {
        if let Some(kept) = built.as_ref().map(|it| it.kept.as_slice()).filter(|it| !it.is_empty())
            && *target == ImageTarget::Engine
        {
            kept.iter().for_each(|kept| building::tell(&workshop, kept));
            continue;
        }
        let landed = deliver(&workshop, args, target, platform, made, &mut pushers)?;
        made.iter().zip(landed).for_each(|(image, landed)| tell(&workshop, target, platform, image, landed, &anew));
    }
    Ok(())
}

fn must_hold_no_secret(workshop: &Workshop, images: &[Named]) -> Result<()> {
    let each = images.iter().flat_map(|image| image.platforms.iter().map(|made| (image.name, made)));
    gates::no_secret_leaves(workshop, &each.collect::<Vec<_>>())
}

/// What is needed of each platform that was named. `None`: this machine's.
fn wanted(
    settings: &Settings,
    project: &Project,
    names: &[&str],
    args: &cli::Images,
) -> Result<Vec<(Option<Platform>, Wants)>> {
    let platforms: BTreeSet<Option<Platform>> = match args.platform.as_slice() {
        [] => [None].into(),
        named => named.iter().copied().map(Some).collect(),
    };
    let of_platform = |platform| {
        let wants = wants(settings, project, names, platform, &args.variant)?;
        gates::features_suffice(settings, project, &wants, names)?;
        Ok((platform, wants))
    };
    platforms.into_iter().map(of_platform).collect()
}

/// Makes a platform after the other: the same sources, each with its own plan. Beside the images: what was not there before.
fn make<'a>(
    workshop: &Workshop,
    names: &[&'a str],
    wanted: &[(Option<Platform>, Wants)],
    args: &cli::Images,
) -> Result<(Vec<Named<'a>>, BTreeSet<Key>)> {
    let mut images: BTreeMap<&str, Vec<MadeImage>> = BTreeMap::new();
    let mut anew = BTreeSet::new();
    for (platform, wants) in wanted {
        let results = workshop.make(wants, false, &|plan, facts| super::describe(workshop, plan, facts, false))?;
        for &name in names {
            let id = plan::named_for(name, wants.cross.as_ref());
            let step = |kind| results.plan.step(&format!("{kind}:{id}"));
            let unplanned = || Error::bug(tr!("image {name} was not planned", name));
            let (image, attestation) = step("image").zip(step("attestation")).ok_or_else(unplanned)?;
            let image = workshop.made_image(image, attestation)?;
            must_fit(workshop.project, name, &image)?;
            must_start(&workshop.sink, name, *platform, &image)?;
            images.entry(name).or_default().push(image);
        }
        anew.extend(results.made);
    }
    let named = |&name: &&'a str| {
        let platforms = images.remove(name).unwrap_or_default();
        let reference = reference(workshop.settings, name, args.tag.as_deref());
        Named::new(name, &reference, platforms, "embedded")
    };
    Ok((names.iter().map(named).collect::<Result<_>>()?, anew))
}

/// Where an image is now, and what it took.
struct Landed {
    reference: String,
    /// In an engine.
    there: Option<Loaded>,
    /// At a registry.
    pushed: Option<Pushed>,
}

/// Puts images at a target. `pushers`: of the registries that are still to come.
fn deliver(
    workshop: &Workshop,
    args: &cli::Images,
    target: &ImageTarget,
    platform: Option<Platform>,
    made: &[Named],
    pushers: &mut VecDeque<Pusher>,
) -> Result<Vec<Landed>> {
    let at =
        |image: &Named| Landed { reference: format!("{target}:{}", image.delivery.name), there: None, pushed: None };
    match target {
        ImageTarget::Engine => {
            let there = loading::load(workshop, &workshop.sink, args.engine.as_deref(), platform, made)?;
            Ok(made.iter().zip(there).map(|(image, there)| Landed { there, ..at(image) }).collect())
        }
        ImageTarget::Registry(place) => {
            let mut pusher = pushers.pop_front().ok_or_else(|| Error::bug(tr!("nobody pushes to {place}", place)))?;
            let land = |image: &Named| -> Result<Landed> {
                let reference = pushed_to(workshop.settings, args, place, image.name, made.len())?;
                let pushed = push(workshop, &mut pusher, image, &reference)?;
                Ok(Landed { reference: format!("registry:{reference}"), there: None, pushed: Some(pushed) })
            };
            made.iter().map(land).collect()
        }
        ImageTarget::Layout(_) | ImageTarget::Archive(_) => {
            receive(workshop, target, platform, made)?;
            Ok(made.iter().map(at).collect())
        }
    }
}

fn registries(args: &cli::Images) -> impl Iterator<Item = &RegistryPlace> {
    args.to.iter().filter_map(|target| match target {
        ImageTarget::Registry(place) => Some(place),
        _ => None,
    })
}

/// Where an image goes at a registry, one of so many. `--tag` and the variable say the tag where the target does not.
fn pushed_to(
    settings: &Settings,
    args: &cli::Images,
    place: &RegistryPlace,
    name: &str,
    images: usize,
) -> Result<Reference> {
    let contradicts = |message| Error::new(Code::CommandLine, message);
    if place.is_full() && images > 1 {
        let message = tr!("registry:{place} names one image, and {images} are made", place, images);
        return Err(contradicts(message).hint(tr!("name one of them, or leave the tag to --tag")));
    }
    if place.is_full() && args.tag.is_some() {
        return Err(contradicts(tr!("registry:{place} has a tag, and --tag says another one", place)));
    }
    let tag = tag(settings, args.tag.as_deref());
    place.reference(name, tag).ok_or_else(|| {
        Error::new(Code::BadName, tr!("no registry takes {name}:{tag} as the name of an image", name, tag))
    })
}

fn push(workshop: &Workshop, pusher: &mut Pusher, image: &Named, reference: &Reference) -> Result<Pushed> {
    let (sink, id, started) = (&workshop.sink, format!("push:{}", image.name), Instant::now());
    let base = workshop.project.declaration.image[image.name].registry_base();
    sink.send(Event::Start { id: id.clone(), reason: None });
    let pushed = pusher.push(sink, &id, &Delivery { image: &image.delivery, base, reference });
    let seconds = started.elapsed().as_secs_f64();
    sink.send(match &pushed {
        Ok(pushed) => {
            let done = if pushed.sent + pushed.mounted == 0 { Done::Hit } else { Done::Ran };
            Event::Done { id, done, seconds, cpu_seconds: 0.0, key: None, reason: None, log: None }
        }
        Err(_) => Event::Fail { id, seconds, given_up: false, log: None },
    });
    pushed
}

/// Images by the names that were typed; all where there are none.
pub(super) fn chosen<'a>(project: &'a Project, named: &[String]) -> Result<Vec<&'a str>> {
    let known = &project.declaration.image;
    let nobody = || Error::new(Code::Undeclared, tr!("xtask.toml declares no image"));
    if known.is_empty() {
        return Err(nobody().hint(tr!("add a table [image.NAME]")));
    }
    if named.is_empty() {
        return Ok(known.keys().map(String::as_str).collect());
    }
    let find = |name: &String| match known.get_key_value(name) {
        Some((name, _)) => Ok(name.as_str()),
        None => {
            let list = known.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let error = Error::new(
                Code::UnknownName,
                tr!("there is no image `{name}`; xtask.toml declares {list}", name, list),
            );
            Err(did_you_mean(error, name, known.keys().map(String::as_str)))
        }
    };
    named.iter().map(find).collect()
}

/// Refuses a platform that an image is not declared for.
pub(super) fn can_be_made_for(project: &Project, name: &str, named: &[Platform]) -> Result<()> {
    let declared = &project.declaration.image[name].platforms;
    let wanted = if named.is_empty() { Platform::here().into_iter().collect() } else { named.to_vec() };
    let Some(other) = wanted.iter().find(|it| !declared.is_empty() && !declared.contains(it)) else { return Ok(()) };
    let list: Vec<String> = declared.iter().map(ToString::to_string).collect();
    let message = tr!("image {name} is declared for {list}, not for {other}", name, list = list.join(", "), other);
    let error = project.source.error(Code::WrongValue, &["image", name, "platforms"], &message);
    Err(error.hint(tr!("name a platform that it has: --platform {list}", list = list.join(","))))
}

/// The images, with everything that goes into them.
pub(super) fn wants(
    settings: &Settings,
    project: &Project,
    images: &[&str],
    platform: Option<Platform>,
    variant: &cli::Variant,
) -> Result<Wants> {
    let mut wants = super::no_wants(settings, project, variant)?;
    let bases = images.iter().filter_map(|name| project.declaration.image[*name].debian_base());
    let mut on_registry_bases =
        images.iter().filter(|name| project.declaration.image[**name].registry_base().is_some());
    let floor = on_registry_bases.next().map(|_| REGISTRY_GLIBC);
    wants.cross = super::cross(project, platform, bases, floor)?;
    for name in images {
        wants.images.insert((*name).to_owned());
        for files in project.declaration.image[*name].layer.iter().flat_map(|layer| &layer.files) {
            match &files.from {
                Content::Library(library) => drop(wants.libraries.insert(library.clone())),
                Content::Binary(binary) => super::want_binary(&mut wants, project, binary),
                Content::Printed { binary, .. } if wants.cross.is_some() => {
                    wants.here.binaries.insert(binary.clone());
                    wants.here.libraries.extend(super::linked_by(project, binary));
                }
                Content::Printed { binary, .. } => super::want_binary(&mut wants, project, binary),
                // Chosen for the image's own interpreter, by its own step.
                Content::WheelSet(_) | Content::Wheel { .. } | Content::Path(_) => {}
            }
        }
    }
    Ok(wants)
}

fn tag<'a>(settings: &'a Settings, tag: Option<&'a str>) -> &'a str {
    tag.or_else(|| settings.environment.get(env::DOCKER_TAG)).unwrap_or("latest")
}

fn reference(settings: &Settings, name: &str, tag: Option<&str>) -> String {
    let tag = self::tag(settings, tag);
    match settings.environment.get(env::DOCKER_REGISTRY) {
        Some(registry) => format!("{}/{name}:{tag}", registry.trim_end_matches('/')),
        None => format!("{name}:{tag}"),
    }
}

/// What is larger than its budget goes nowhere.
fn must_fit(project: &Project, name: &str, image: &MadeImage) -> Result<()> {
    let Some(limit) = project.declaration.image[name].max_megabytes else { return Ok(()) };
    let size_bytes: u64 = image.layers.iter().map(|layer| layer.record.descriptor.size).sum();
    if size_bytes <= limit * 1_000_000 {
        return Ok(());
    }
    let message =
        tr!("image {name} has {size} MB, and may have {limit}", name, size = size_bytes.div_ceil(1_000_000), limit);
    let error = project.source.error(Code::BadImage, &["image", name, "max-megabytes"], &message);
    let largest = image.layers.iter().max_by_key(|layer| layer.record.descriptor.size);
    let largest = largest.map_or(0, |layer| layer.record.descriptor.size);
    Err(error.hint(tr!("its largest layer has {size}", size = report::bytes(largest))))
}

/// Every program finds its interpreter, its libraries and their symbols.
fn must_start(sink: &Sink, name: &str, platform: Option<Platform>, image: &MadeImage) -> Result<()> {
    let (mut parts, mut above) = (Parts::default(), Parts::default());
    image.layers.iter().for_each(|layer| parts.add_layer(&layer.parts));
    image.layers.iter().filter(|layer| layer.blob.is_some()).for_each(|layer| above.add_layer(&layer.parts));
    let Some(platform) = platform.or(Platform::here()) else { return Ok(()) };
    let lacks = parts.lacks(abi::machine_of(platform));
    // A base from a registry may hold what nobody starts, and nobody here can mend it.
    let (lacks, of_base): (Vec<_>, Vec<_>) = lacks.into_iter().partition(|lack| above.has(&lack.subject));
    let severities =
        lacks.iter().map(|it| (it, Severity::Error)).chain(of_base.iter().map(|it| (it, Severity::Warning)));
    for (lack, severity) in severities {
        sink.send(Event::Finding(Finding {
            code: "image.would-not-start".to_owned(),
            severity,
            subject: format!("{name}:{}", lack.subject),
            message: lack.message.clone(),
            fix: None,
        }));
    }
    let Some(first) = lacks.first() else { return Ok(()) };
    let lines: Vec<String> = lacks.iter().map(|lack| format!("  - {} {}", lack.subject, lack.message)).collect();
    let message = tr!("{subject} would not start in image {name}", subject = first.subject, name);
    let fix = match first.message.contains('@') {
        true => tr!("use a base of a newer suite for image.{name}, or build on a system as old as the base", name),
        false => tr!("add the package that has it to the base of image.{name}, or the file to a layer", name),
    };
    Err(Error::new(Code::WouldNotStart, message).excerpt(lines.join("\n")).hint(fix))
}

/// Puts images at a target.
fn receive(workshop: &Workshop, target: &ImageTarget, platform: Option<Platform>, made: &[Named]) -> Result<()> {
    let settings = workshop.settings;
    let place = place(settings, target)?;
    let holds = |blob: &oci::Descriptor| match &place {
        Place::Layout(folder) => oci::layout::holds(folder, blob),
        Place::Archive(_) => false,
    };
    let brought =
        |image: &Named| workshop.brought(&format!("image:{}", image.name), image.name, &image.delivery, holds);
    let images = made.iter().map(brought).collect::<Result<Vec<_>>>()?;
    match place {
        Place::Layout(folder) => {
            oci::layout::publish(&folder, &images).map_err(|error| undelivered(target, error))?;
            // Ours alone: blobs of replaced images would pile up there, and only `clean` would ever take them.
            if folder.starts_with(settings.workspace.dist()) {
                oci::layout::prune(&folder).map_err(|error| undelivered(target, error))?;
                note_for_clean(settings, &folder)?;
            }
            Ok(())
        }
        Place::Archive(file) => files::publish_with(&file, 0o644, |output| {
            let platform = oci_platform(platform);
            oci::archive::write(&images, &platform, std::io::BufWriter::new(output)).map_err(std::io::Error::other)
        }),
    }
}

fn undelivered(target: &ImageTarget, error: LayoutError) -> Error {
    let message = tr!("cannot put images at {target}", target = target.to_string());
    match error {
        LayoutError::Disk { action, path, cause } => Error::disk(action, &path, cause).context(message),
        error @ LayoutError::Foreign { .. } => Error::new(Code::BadImage, message)
            .because(error)
            .hint(tr!("name an empty folder, or one that does not exist")),
        error => Error::new(Code::AlteredObject, message).because(error),
    }
}

/// `clean` removes what lies where we put it with the bytes that we gave it.
fn note_for_clean(settings: &Settings, layout: &Path) -> Result<()> {
    let mut placed: BTreeMap<PathBuf, Digest> = BTreeMap::new();
    for path in files::walk_with_hidden(layout)?.iter().map(|path| layout.join(path)) {
        // A blob is called by its digest; the few other files are small.
        let digest = match path.file_name().and_then(|name| name.to_str()?.parse().ok()) {
            Some(named) => named,
            None => Digest::of_file(&path).map_err(|error| Error::disk("read", &path, error))?.0,
        };
        placed.insert(path, digest);
    }
    let bytes =
        serde_json::to_vec(&placed).map_err(|error| Error::bug(tr!("cannot serialise outputs")).because(error))?;
    files::write(&settings.workspace.placed("images"), &bytes)
}

enum Place {
    Layout(PathBuf),
    Archive(PathBuf),
}

/// What a person types belongs to the folder in which it is typed; the default belongs to the checkout.
fn place(settings: &Settings, target: &ImageTarget) -> Result<Place> {
    let default = target.to_string() == cli::IMAGES_TARGET;
    let path = |path: &Path| match default {
        true => Ok(settings.workspace.root.join(path)),
        false => std::path::absolute(path).map_err(|error| Error::disk("read", path, error)),
    };
    Ok(match target {
        ImageTarget::Layout(folder) => Place::Layout(path(folder)?),
        ImageTarget::Archive(file) => Place::Archive(path(file)?),
        ImageTarget::Engine => return Err(Error::bug(tr!("an engine is no file"))),
        ImageTarget::Registry(_) => return Err(Error::bug(tr!("a registry is no place on this machine"))),
    })
}

/// `None`: this machine's.
fn oci_platform(platform: Option<Platform>) -> oci::Platform {
    let architecture = platform.or(Platform::here()).map_or(std::env::consts::ARCH, Platform::architecture);
    oci::Platform::linux(architecture)
}

fn tell(
    workshop: &Workshop,
    target: &ImageTarget,
    platform: Option<Platform>,
    image: &Named,
    landed: Landed,
    anew: &BTreeSet<Key>,
) {
    let Landed { reference, there, pushed } = landed;
    let layer = |layer: &MadeLayer| {
        let oci::Descriptor { digest, size, media_type, .. } = &layer.record.descriptor;
        ImageLayer {
            digest: digest.to_string(),
            diff_id: layer.record.diff_id.to_string(),
            size_bytes: *size,
            media_type: media_type.clone(),
            reused: layer.key.is_some_and(|key| !anew.contains(&key)),
        }
    };
    let attestation = |referrer: &oci::Referrer| {
        let oci::Descriptor { digest, artifact_type, .. } = &referrer.manifest.descriptor;
        ImageAttestation { digest: digest.to_string(), artifact_type: artifact_type.clone().unwrap_or_default() }
    };
    let told = |digest: &oci::Digest, platform: String| report::Image {
        name: image.name.to_owned(),
        reference: reference.clone(),
        digest: digest.to_string(),
        platform,
        layers: Vec::new(),
        attestations: Vec::new(),
        builder: image.builder,
        id: there.as_ref().map(|it| it.id.clone()),
        present: there.as_ref().map(|it| it.present),
        // Said once, of what the name leads to.
        pushed: pushed.filter(|_| *digest == image.delivery.root.digest),
    };
    let held = match target {
        // An engine takes one.
        ImageTarget::Engine => std::slice::from_ref(image.for_platform(platform)),
        _ => image.platforms.as_slice(),
    };
    for made in held {
        workshop.sink.send(Event::Image(report::Image {
            layers: made.layers.iter().map(layer).collect(),
            attestations: match target {
                ImageTarget::Layout(_) => made.referrers.iter().map(attestation).collect(),
                ImageTarget::Archive(_) | ImageTarget::Engine | ImageTarget::Registry(_) => Vec::new(),
            },
            ..told(&made.documents.manifest.descriptor.digest, made.platform.clone())
        }));
    }
    if held.len() > 1 {
        let platforms = held.iter().map(|made| made.platform.as_str()).collect::<Vec<_>>().join(",");
        workshop.sink.send(Event::Image(told(&image.delivery.root.digest, platforms)));
    }
}

/// Names what differs between two images; it is a failure if anything does.
fn diff(settings: &Settings, args: &cli::ImagesDiff) -> Result<()> {
    let (left, right) = (flattened(&args.left, args.platform)?, flattened(&args.right, args.platform)?);
    let differences = oci::diff::diff(&left, &right);
    let lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
    let text = if lines.is_empty() { tr!("no difference") } else { lines.join("\n") };
    super::print(settings, "images-diff", &serde_json::json!({ "differences": lines }), &text)?;
    match differences.first() {
        None => Ok(()),
        Some(first) => Err(Error::new(
            Code::ImagesDiffer,
            tr!("{count} differences; the first is at {path}", count = differences.len(), path = first.path),
        )),
    }
}

/// Every file of an image, by path.
fn flattened(image: &ImagePlace, platform: Option<Platform>) -> Result<oci::Tree<oci::read::FileDigest>> {
    let failed = |error: LayoutError| {
        let code = if matches!(error, LayoutError::Absent { .. }) { Code::UnknownName } else { Code::AlteredObject };
        match error {
            LayoutError::Disk { action, path, cause } => Error::disk(action, &path, cause),
            error => Error::new(code, tr!("cannot read the image {image}", image = image.to_string())).because(error),
        }
    };
    let layout = oci::layout::Layout::open(&image.folder).map_err(failed)?;
    let names: Vec<&str> = layout.images().map(|(name, _)| name).collect();
    let name = match (&image.name, names.as_slice()) {
        (Some(name), _) => name.as_str(),
        (None, [only]) => only,
        (None, several) => {
            let message = tr!("{folder} holds several images", folder = image.folder.display());
            let known = several.join(", ");
            return Err(Error::new(Code::UnknownName, message).hint(tr!("say which behind a `:`: {known}", known)));
        }
    };
    let found = layout.image(name, &oci_platform(platform)).map_err(failed)?;
    oci::read::flatten(&found.layers, &oci::read::Limits::default(), oci::read::hash).map_err(|error| {
        Error::new(Code::AlteredObject, tr!("cannot read the image {image}", image = image.to_string())).because(error)
    })
}
