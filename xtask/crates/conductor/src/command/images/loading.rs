//! `images --to docker` and `images engine`: made images into a container engine, and which one that is.

use super::Named;
use crate::command;
use crate::engine::{self, place, place::places};
use crate::error::{Error, Result};
use crate::execute::Workshop;
use crate::execute::image::MadeImage;
use crate::platform::Platform;
use crate::process::Invocation;
use crate::project::Project;
use crate::report::{Done, Event, Sink, bytes};
use crate::settings::Settings;
use crate::tr;
use oci::layout::Source;
use protocol::engine::{Builder, Engine, Image, Loaded};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// What `images engine` says to programs.
#[derive(Serialize)]
struct Probed<'a> {
    #[serde(flatten)]
    engine: &'a Engine,
    #[serde(skip_serializing_if = "Option::is_none")]
    builder: Option<&'a Builder>,
}

/// How the satellite is started, and its log.
pub fn satellite(workshop: &Workshop, log: &str) -> Result<(Invocation, PathBuf)> {
    let program = workshop.outside.satellite("engine", &tr!("the engine satellite"))?;
    let environment =
        workshop.settings.environment.only(&["PATH", "HOME", "TMPDIR", "RUST_BACKTRACE", "SSL_CERT_FILE"]);
    let directory = workshop.settings.workspace.root.clone();
    Ok((
        Invocation { program, arguments: Vec::new(), directory, environment },
        workshop.logs.join(format!("{log}.log")),
    ))
}

/// Who answers, and what it can do.
pub fn engine(settings: &Settings, project: &Project, sink: Sink, typed: Option<&str>) -> Result<()> {
    let places = match typed.and_then(|typed| typed.strip_prefix("buildkit://")) {
        Some(address) => vec![place::builder(address, &settings.environment)?],
        None => places(typed, &settings.environment)?,
    };
    engine::must_be_somewhere(&places)?;
    let workshop = Workshop::new(settings, project, sink)?;
    let (invocation, log) = satellite(&workshop, "engine")?;
    let (engine, builder) = engine::probe(invocation, &log, places)?;
    let lines = [vec![engine::told(&engine)], engine::abilities(&engine, builder.as_ref())].concat();
    command::print(settings, "engine", &Probed { engine: &engine, builder: builder.as_ref() }, &lines.join("\n  "))
}

/// What the engine has of each image afterwards.
pub fn load(
    workshop: &Workshop,
    sink: &Sink,
    typed: Option<&str>,
    platform: Option<Platform>,
    made: &[Named],
) -> Result<Vec<Option<Loaded>>> {
    let places = places(typed, &workshop.settings.environment)?;
    let (invocation, log) = satellite(workshop, "engine")?;
    let id = || "load:docker".to_owned();
    let images = made.iter().map(|it| image(workshop, &id(), it, it.for_platform(platform))).collect::<Result<_>>()?;
    let start = Instant::now();
    sink.send(Event::Start { id: id(), reason: None });
    let progress = |text| sink.send(Event::Progress { id: id(), text });
    let result = engine::load(invocation, &log, places, images, progress);
    let seconds = start.elapsed().as_secs_f64();
    let (engine, loaded, sent_bytes) = result.inspect_err(|_| {
        sink.send(Event::Fail { id: id(), seconds, given_up: false, log: Some(log.clone()) });
    })?;
    let done = if loaded.iter().all(|it| it.present) { Done::Hit } else { Done::Ran };
    sink.send(Event::Done { id: id(), done, seconds, cpu_seconds: 0.0, key: None, reason: None, log: Some(log) });
    let sent = if sent_bytes == 0 { tr!("nothing was sent") } else { tr!("{size} sent", size = bytes(sent_bytes)) };
    sink.note(tr!("{engine}: {sent}", engine = engine::told(&engine), sent));
    Ok(loaded.into_iter().map(Some).collect())
}

fn image(workshop: &Workshop, id: &str, image: &Named, made: &MadeImage) -> Result<Image> {
    let one = workshop.brought(id, image.name, &made.delivery(&image.delivery.name)?, |_| false)?;
    let layer = |(digest, (_, source)): (&oci::Digest, &(_, Source))| match source {
        Source::File(path) => Some((digest.to_string(), path.clone())),
        Source::Bytes(_) | Source::Elsewhere => None,
    };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec());
    let documents = &made.documents;
    let broken = |error| Error::bug(tr!("image {name} does not hang together", name = image.name)).because(error);
    Ok(Image {
        reference: image.delivery.name.clone(),
        architecture: made.platform.rsplit('/').next().unwrap_or_default().to_owned(),
        config: text(&documents.config.bytes).map_err(broken)?,
        manifest: text(&documents.manifest.bytes).map_err(broken)?,
        layers: one.blobs.iter().filter_map(layer).collect(),
    })
}
