//! `images --builder docker` and `--builder buildkit://HOST`: what was made here, put together by a BuildKit.
//!
//! Owns: who builds, what is handed to it, and its results as images. Layers stay the unit: a builder is sent those archives that it
//! lacks, and unpacks them one over the other. Never: hand out what a builder calls one thing and its bytes another.

use super::{Named, loading};
use crate::cli::{self, ImageBuilder, ImageOrigin, ImageTarget};
use crate::engine::{self, Built, place};
use crate::error::{Code, Error, Result};
use crate::execute::Workshop;
use crate::execute::image::{MadeImage, MadeLayer};
use crate::execute::registry_base;
use crate::files;
use crate::platform::Platform;
use crate::report::{self, Done, Event, bytes};
use crate::settings::Settings;
use crate::toolchain::abi::Parts;
use crate::tr;
use oci::image::{Written, media_type};
use oci::layout::{Layout, LayoutError, Source};
use oci::read::LayerFile;
use oci::{Blob, Layer};
use protocol::engine::{Build, Export, Place, Recipe};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A BuildKit.
pub struct Builder {
    places: Vec<Place>,
    /// In events.
    name: &'static str,
}

/// Who was asked for; `None`: this program.
pub fn builder(settings: &Settings, args: &cli::Images) -> Result<Option<Builder>> {
    Ok(match &args.builder {
        ImageBuilder::Auto | ImageBuilder::Embedded => None,
        ImageBuilder::Engine => {
            Some(Builder { places: place::places(args.engine.as_deref(), &settings.environment)?, name: "docker" })
        }
        ImageBuilder::BuildKit(address) => {
            Some(Builder { places: vec![place::builder(address, &settings.environment)?], name: "buildkit" })
        }
    })
}

/// Compiling is a builder's work, and for its own platform.
pub fn must_suit(args: &cli::Images) -> Result<()> {
    if args.from == ImageOrigin::Native {
        return Ok(());
    }
    let wrong = |message: String, hint: String| Err(Error::new(Code::CommandLine, message).hint(hint));
    if matches!(args.builder, ImageBuilder::Auto | ImageBuilder::Embedded) {
        return wrong(
            tr!("--from source needs a builder that compiles"),
            tr!("name one: --builder docker, or --builder buildkit://HOST; or leave --from out"),
        );
    }
    match args.platform.iter().find(|it| Some(**it) != Platform::here()) {
        Some(other) => wrong(
            tr!("--from source makes images for this machine, not for {other}", other),
            tr!("leave --from out: what `build` makes here can be for any platform"),
        ),
        None => Ok(()),
    }
}

/// Images that a builder handed out, in a folder that goes with them.
pub struct HandedOut<'a> {
    pub images: Vec<Named<'a>>,
    folder: PathBuf,
}

impl Drop for HandedOut<'_> {
    fn drop(&mut self) {
        let _ = files::remove(&self.folder);
    }
}

/// An image that its builder keeps, under a name.
pub struct Kept {
    name: String,
    reference: String,
    platform: String,
    built: Built,
}

/// What a builder is asked for: an image of one platform.
pub struct Order<'a> {
    pub name: &'a str,
    /// `extproc:latest`
    pub reference: String,
    /// `linux/amd64`
    pub platform: String,
    /// Everything but what becomes of the result.
    pub build: Build,
}

/// What came of orders: images that an engine keeps itself, and those that were handed out.
pub struct Results<'a> {
    pub kept: Vec<Kept>,
    pub handed_out: Option<HandedOut<'a>>,
}

impl Builder {
    pub fn build<'a>(
        &self,
        workshop: &Workshop,
        args: &cli::Images,
        platform: Option<Platform>,
        orders: &[Order<'a>],
    ) -> Result<Results<'a>> {
        let is_kept = |target: &&ImageTarget| **target == ImageTarget::Engine && args.builder == ImageBuilder::Engine;
        // What an engine may refuse comes first.
        let handed_out = match args.to.iter().any(|target| !is_kept(&target)) {
            true => Some(self.hand_out(workshop, args, orders)?),
            false => None,
        };
        let mut kept = Vec::new();
        if args.to.iter().any(|target| is_kept(&target)) {
            // An engine takes one of several.
            let wanted = platform.or(Platform::here()).map(|it| it.to_string());
            let of_platform = |order: &&Order| {
                let others = orders.iter().filter(|it| it.name == order.name);
                Some(&order.platform) == wanted.as_ref() || others.count() == 1
            };
            for order in orders.iter().filter(of_platform) {
                let built = self.run(workshop, order, Export::Store { reference: order.reference.clone() })?;
                kept.push(Kept {
                    name: order.name.to_owned(),
                    reference: order.reference.clone(),
                    platform: order.platform.clone(),
                    built,
                });
            }
        }
        Ok(Results { kept, handed_out })
    }

    fn hand_out<'a>(&self, workshop: &Workshop, args: &cli::Images, orders: &[Order<'a>]) -> Result<HandedOut<'a>> {
        let folder = files::temporary_folder(&workshop.settings.workspace.build(), "built")?;
        let mut it = HandedOut { images: Vec::new(), folder };
        for of_image in orders.chunk_by(|one, next| one.name == next.name) {
            let Some(Order { name, reference, .. }) = of_image.first() else { continue };
            let mut platforms = Vec::new();
            for (index, order) in of_image.iter().enumerate() {
                let place = it.folder.join(format!("{name}-{index}"));
                let archive = place.with_extension("tar");
                self.run(workshop, order, Export::Archive { file: archive.clone() })?;
                oci::archive::unpack(&archive, &place).map_err(|error| unreadable(name, error))?;
                files::remove(&archive)?;
                let mut made = taken(&place, &order.platform).map_err(|error| unreadable(name, error))?;
                if args.from == ImageOrigin::Source {
                    look_into(name, &mut made)?;
                }
                platforms.push(made);
            }
            it.images.push(Named::new(name, reference, platforms, self.name)?);
        }
        workshop.sink.note(tr!("bills of materials and provenance are attached by `--builder embedded` alone"));
        Ok(it)
    }

    fn run(&self, workshop: &Workshop, order: &Order, export: Export) -> Result<Built> {
        let id = format!("build:{}", order.name);
        let (invocation, log) = loading::satellite(workshop, &id.replace(':', "-"))?;
        let start = Instant::now();
        workshop.sink.send(Event::Start { id: id.clone(), reason: None });
        let progress = |text| workshop.sink.send(Event::Progress { id: id.clone(), text });
        let build = Build { export, ..order.build.clone() };
        let result = engine::build(invocation, &log, self.places.clone(), build, progress);
        let (seconds, log) = (start.elapsed().as_secs_f64(), Some(log));
        let built = result.inspect_err(|_| {
            workshop.sink.send(Event::Fail { id: id.clone(), seconds, given_up: false, log: log.clone() });
        })?;
        let done = if built.sent_bytes == 0 && built.ran == 0 { Done::Hit } else { Done::Ran };
        workshop.sink.send(Event::Done { id, done, seconds, cpu_seconds: 0.0, key: None, reason: None, log });
        let engine = engine::told(&built.engine);
        let size = bytes(built.sent_bytes);
        let sent = if built.sent_bytes == 0 { tr!("nothing was sent") } else { tr!("{size} sent", size) };
        let (there, count) = (built.cached, built.cached + built.ran);
        workshop.sink.note(tr!("{engine}: {sent}; {there} of {count} steps were there", engine, sent, there, count));
        Ok(built)
    }
}

/// What was made here as orders: the archives of each image's layers, and the configuration over them.
pub fn assemblies<'a>(workshop: &Workshop, args: &cli::Images, made: &[Named<'a>]) -> Result<Vec<Order<'a>>> {
    let of_image = |image: &Named<'a>| {
        let order = |made: &MadeImage| {
            let (name, reference, platform) = (image.name, image.delivery.name.clone(), made.platform.clone());
            Ok(Order { name, reference, platform, build: assembly(workshop, args, image, made)? })
        };
        image.platforms.iter().map(order).collect::<Result<Vec<_>>>()
    };
    Ok(made.iter().map(of_image).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn assembly(workshop: &Workshop, args: &cli::Images, image: &Named, made: &MadeImage) -> Result<Build> {
    let step = format!("build:{}", image.name);
    let whole = workshop.brought(&step, image.name, &made.delivery(&image.delivery.name)?, |_| false)?;
    let (mut context, mut archives) = (BTreeMap::new(), Vec::new());
    for layer in &made.layers {
        let descriptor = &layer.record.descriptor;
        let codec = if descriptor.media_type == media_type::LAYER_ZSTD { "zst" } else { "gz" };
        // By its content: a builder keeps what it was sent under this name.
        let path = format!("{}.tar.{codec}", descriptor.digest.hex());
        let Some((_, Source::File(file))) = whole.blobs.get(&descriptor.digest) else {
            let (digest, name) = (descriptor.digest, image.name);
            return Err(Error::bug(tr!("layer {digest} of image {name} is no file", digest, name)));
        };
        context.insert(path.clone(), file.clone());
        archives.push(path);
    }
    let config = String::from_utf8(made.documents.config.bytes.clone())
        .map_err(|error| Error::bug(tr!("image {name} does not hang together", name = image.name)).because(error))?;
    Ok(Build { context, ..build(workshop, args, image.name, &made.platform, Recipe::Layers { archives, config }) })
}

/// An order for a builder, so far without files and secrets.
pub fn build(workshop: &Workshop, args: &cli::Images, name: &str, platform: &str, recipe: Recipe) -> Build {
    Build {
        name: format!("{}/{name}", workshop.project.declaration.project.name),
        architecture: platform.rsplit('/').next().unwrap_or_default().to_owned(),
        recipe,
        context: BTreeMap::new(),
        secrets: BTreeMap::new(),
        logins: BTreeMap::new(),
        no_cache: args.no_cache,
        export: Export::Store { reference: String::new() },
    }
}

/// What was compiled elsewhere is looked at as what is compiled here.
fn look_into(name: &str, made: &mut MadeImage) -> Result<()> {
    for layer in &mut made.layers {
        let oci::Layer { descriptor, diff_id } = layer.record.clone();
        let path = layer.blob.clone().unwrap_or_default();
        let file = LayerFile { path, descriptor, diff_id };
        layer.parts = registry_base::look(&file)
            .map_err(|error| {
                Error::new(Code::EngineFailed, tr!("what the builder handed out as {image} is no image", image = name))
                    .because(error)
            })?
            .0;
    }
    Ok(())
}

/// An image that a builder handed out.
fn taken(place: &Path, platform: &str) -> std::result::Result<MadeImage, LayoutError> {
    let layout = Layout::open(place)?;
    let architecture = platform.rsplit('/').next().unwrap_or_default();
    let found = layout.only(&oci::Platform::linux(architecture))?;
    let document = |descriptor: &oci::Descriptor| {
        let descriptor = oci::Descriptor::new(descriptor.media_type.clone(), descriptor.digest, descriptor.size);
        layout.document(&descriptor).map(|bytes| Blob { descriptor, bytes })
    };
    let documents = Written { config: document(&found.manifest.config)?, manifest: document(&found.descriptor)? };
    let layers = found.layers.into_iter().map(|layer| MadeLayer {
        key: None,
        record: Layer { descriptor: layer.descriptor, diff_id: layer.diff_id },
        blob: Some(layer.path),
        parts: Parts::default(),
    });
    Ok(MadeImage { platform: platform.to_owned(), documents, layers: layers.collect(), referrers: Vec::new() })
}

fn unreadable(image: &str, error: LayoutError) -> Error {
    match error {
        LayoutError::Disk { action, path, cause } => Error::disk(action, &path, cause),
        error => Error::new(Code::EngineFailed, tr!("what the builder handed out as {image} is no image", image))
            .because(error)
            .hint(tr!("run the command again, or choose another builder: --builder embedded")),
    }
}

/// Says what an engine keeps.
pub fn tell(workshop: &Workshop, kept: &Kept) {
    workshop.sink.send(Event::Image(report::Image {
        name: kept.name.clone(),
        reference: format!("docker:{}", kept.reference),
        digest: kept.built.id.clone(),
        platform: kept.platform.clone(),
        // The engine compresses them when it hands them on, and not before.
        layers: Vec::new(),
        attestations: Vec::new(),
        builder: "docker",
        id: Some(kept.built.id.clone()),
        present: Some(kept.built.sent_bytes == 0),
        pushed: None,
    }));
}
