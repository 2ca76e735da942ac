//! `images --builder docker` and `--builder buildkit://HOST`: what was made here, put together by a BuildKit.
//!
//! Owns: who builds, what is handed to it, and its results as images. Layers stay the unit: a builder is sent those archives that it
//! lacks, and unpacks them one over the other. Never: hand out what a builder calls one thing and its bytes another.

use super::{Named, loading};
use crate::cli::{self, ImageBuilder, ImageTarget};
use crate::engine::{self, Built, place};
use crate::error::{Code, Error, Result};
use crate::execute::Workshop;
use crate::execute::image::{MadeImage, MadeLayer};
use crate::files;
use crate::platform::Platform;
use crate::report::{self, Done, Event, bytes};
use crate::settings::Settings;
use crate::toolchain::abi::Parts;
use crate::tr;
use oci::image::{Written, media_type};
use oci::layout::{Layout, LayoutError, Source};
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
    reference: String,
    platform: String,
    built: Built,
}

impl Builder {
    /// What the targets need: images that an engine keeps itself, and those that are handed out.
    pub fn build<'a>(
        &self,
        workshop: &Workshop,
        args: &cli::Images,
        platform: Option<Platform>,
        made: &[Named<'a>],
    ) -> Result<(Option<Vec<Kept>>, Option<HandedOut<'a>>)> {
        let is_kept = |target: &ImageTarget| *target == ImageTarget::Engine && args.builder == ImageBuilder::Engine;
        let handed_out = args.to.iter().any(|target| !is_kept(target));
        // What an engine may refuse comes first.
        let handed_out = handed_out.then(|| self.hand_out(workshop, args, made)).transpose()?;
        let keep = |image: &Named| {
            let (made, reference) = (image.for_platform(platform), image.delivery.name.clone());
            let export = Export::Store { reference: reference.clone() };
            let built = self.run(workshop, args, image, made, export)?;
            Ok(Kept { reference, platform: made.platform.clone(), built })
        };
        let kept = args.to.iter().any(is_kept).then(|| made.iter().map(keep).collect::<Result<_>>()).transpose()?;
        Ok((kept, handed_out))
    }

    fn hand_out<'a>(&self, workshop: &Workshop, args: &cli::Images, made: &[Named<'a>]) -> Result<HandedOut<'a>> {
        let folder = files::temporary_folder(&workshop.settings.workspace.build(), "built")?;
        let mut it = HandedOut { images: Vec::new(), folder };
        for image in made {
            let mut platforms = Vec::new();
            for (index, made) in image.platforms.iter().enumerate() {
                let place = it.folder.join(format!("{}-{index}", image.name));
                let archive = place.with_extension("tar");
                self.run(workshop, args, image, made, Export::Archive { file: archive.clone() })?;
                oci::archive::unpack(&archive, &place).map_err(|error| unreadable(image.name, error))?;
                files::remove(&archive)?;
                platforms.push(taken(&place, made).map_err(|error| unreadable(image.name, error))?);
            }
            it.images.push(Named::new(image.name, &image.delivery.name, platforms, self.name)?);
        }
        workshop.sink.note(tr!("bills of materials and provenance are attached by `--builder embedded` alone"));
        Ok(it)
    }

    fn run(
        &self,
        workshop: &Workshop,
        args: &cli::Images,
        image: &Named,
        made: &MadeImage,
        export: Export,
    ) -> Result<Built> {
        let id = format!("build:{}", image.name);
        let build = assembly(workshop, &id, args, image, made, export)?;
        let (invocation, log) = loading::satellite(workshop, &id.replace(':', "-"))?;
        let start = Instant::now();
        workshop.sink.send(Event::Start { id: id.clone(), reason: None });
        let progress = |text| workshop.sink.send(Event::Progress { id: id.clone(), text });
        let result = engine::build(invocation, &log, self.places.clone(), build, progress);
        let seconds = start.elapsed().as_secs_f64();
        let built = result.inspect_err(|_| {
            workshop.sink.send(Event::Fail { id: id.clone(), seconds, given_up: false, log: Some(log.clone()) });
        })?;
        let done = if built.sent_bytes == 0 { Done::Hit } else { Done::Ran };
        workshop.sink.send(Event::Done {
            id: id.clone(),
            done,
            seconds,
            cpu_seconds: 0.0,
            key: None,
            reason: None,
            log: Some(log),
        });
        let engine = engine::told(&built.engine);
        let size = bytes(built.sent_bytes);
        let sent = if built.sent_bytes == 0 { tr!("nothing was sent") } else { tr!("{size} sent", size) };
        let (there, count) = (built.cached, built.cached + built.ran);
        workshop.sink.note(tr!("{engine}: {sent}; {there} of {count} steps were there", engine, sent, there, count));
        Ok(built)
    }
}

/// The archives of an image's layers, and the configuration over them.
fn assembly(
    workshop: &Workshop,
    step: &str,
    args: &cli::Images,
    image: &Named,
    made: &MadeImage,
    export: Export,
) -> Result<Build> {
    let whole = workshop.brought(step, image.name, &made.delivery(&image.delivery.name)?, |_| false)?;
    let (mut context, mut archives) = (BTreeMap::new(), Vec::new());
    for layer in &made.layers {
        let descriptor = &layer.record.descriptor;
        let codec = if descriptor.media_type == media_type::LAYER_ZSTD { "zst" } else { "gz" };
        // By its content: a builder keeps what it was sent under this name.
        let path = format!("{}.tar.{codec}", descriptor.digest.hex());
        let file = match whole.blobs.get(&descriptor.digest) {
            Some((_, Source::File(file))) => file.clone(),
            _ => {
                return Err(Error::bug(tr!(
                    "layer {digest} of image {name} is no file",
                    digest = descriptor.digest,
                    name = image.name
                )));
            }
        };
        context.insert(path.clone(), file);
        archives.push(path);
    }
    let config = String::from_utf8(made.documents.config.bytes.clone())
        .map_err(|error| Error::bug(tr!("image {name} does not hang together", name = image.name)).because(error))?;
    Ok(Build {
        name: format!("{}/{}", workshop.project.declaration.project.name, image.name),
        architecture: made.platform.rsplit('/').next().unwrap_or_default().to_owned(),
        recipe: Recipe::Layers { archives, config },
        context,
        secrets: BTreeMap::new(),
        logins: BTreeMap::new(),
        no_cache: args.no_cache,
        export,
    })
}

/// An image that a builder handed out, for the platform of the one that it was made from.
fn taken(place: &Path, made: &MadeImage) -> std::result::Result<MadeImage, LayoutError> {
    let layout = Layout::open(place)?;
    let architecture = made.platform.rsplit('/').next().unwrap_or_default();
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
    Ok(MadeImage { platform: made.platform.clone(), documents, layers: layers.collect(), referrers: Vec::new() })
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
pub fn tell(workshop: &Workshop, image: &Named, kept: &Kept) {
    workshop.sink.send(Event::Image(report::Image {
        name: image.name.to_owned(),
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
