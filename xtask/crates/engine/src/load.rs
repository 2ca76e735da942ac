//! Images into an engine's own store.
//!
//! Owns: what travels. An image that is there is only given its name; of another one the layers that an earlier image under one of
//! these names has are left out, where the engine looks for a layer before it opens its file. Never: hold an archive in memory or
//! write it to a disk; believe an engine that says it has loaded what it then does not have.
//! Rules: Docker Engine API 1.41 (`/images/load`); moby `image/tarexport/load.go`: a layer whose chain is known is not read.

use crate::connect::{Access, Connected};
use crate::{emit, failure};
use bollard::Docker;
use bollard::body_try_stream;
use bollard::errors::Error;
use bollard::query_parameters::{ImportImageOptionsBuilder, ListImagesOptionsBuilder, TagImageOptionsBuilder};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use oci::image::{Config, Manifest, Written, media_type};
use oci::layout::{LayoutError, Named, Source};
use oci::{Blob, Digest, Platform};
use protocol::engine::{Event, Failure, Image, Lack, Loaded, Outcome, Store};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Of the archive, in flight: this many pieces of this size at most.
const PIECE_BYTES: usize = 256 << 10;
const PIECES: usize = 8;
/// Unpacking a layer of a gigabyte on a slow disk takes minutes, and says nothing meanwhile.
const STALL: Duration = Duration::from_secs(600);
const TICK: Duration = Duration::from_millis(100);

/// An image as it is given to the engine.
struct Prepared<'a> {
    asked: &'a Image,
    named: Named,
    /// What an engine may know it by: the digest of its configuration, or of its manifest.
    ids: [String; 2],
    /// Digest of each layer's tar and of its blob, the lowest first.
    layers: Vec<(String, Digest)>,
}

pub async fn load(connected: &Connected, images: &[Image]) -> Result<Outcome, Failure> {
    let engine = connected.name();
    let failed = |error: &Error| failure::of(&engine, error);
    let Access::Engine(docker) = &connected.access else {
        return Err(Failure::Unable { engine, lacks: Lack::Store });
    };
    let mut prepared = Vec::new();
    for image in images {
        prepared.push(prepare(image).map_err(|message| Failure::Bug { message })?);
    }
    let mut missing = Vec::new();
    let mut present = BTreeSet::new();
    for (index, image) in prepared.iter().enumerate() {
        match known(docker, &image.ids).await.map_err(|error| failed(&error))? {
            Some(id) => {
                tag(docker, &id, &image.asked.reference).await.map_err(|error| failed(&error))?;
                present.insert(index);
            }
            None => missing.push(image),
        }
    }
    let has_zstd = |image: &&&Prepared| {
        image.named.blobs.values().any(|(descriptor, _)| descriptor.media_type == media_type::LAYER_ZSTD)
    };
    if let (false, Some(image)) = (connected.engine.zstd, missing.iter().find(has_zstd)) {
        return Err(Failure::NoZstd { engine, reference: image.asked.reference.clone() });
    }
    let mut sent_bytes = 0;
    if !missing.is_empty() {
        let archive = |without: &BTreeSet<Digest>| archive(&missing, without);
        let there = match connected.engine.store {
            Store::Docker => layers_there(docker, &missing).await.map_err(|error| failed(&error))?,
            Store::Containerd | Store::Containers | Store::None => BTreeSet::new(),
        };
        let sent = send(docker, &engine, archive(&there)).await;
        // A layer may have been removed since it was seen, and an engine may want them all.
        let sent = match sent {
            Err(Failure::Refused { .. }) if !there.is_empty() => send(docker, &engine, archive(&BTreeSet::new())).await,
            sent => sent,
        };
        sent_bytes = sent?;
    }
    let mut loaded = Vec::new();
    for (index, image) in prepared.iter().enumerate() {
        let reference = image.asked.reference.clone();
        let found = docker.inspect_image(&reference).await;
        let id = match found {
            Ok(found) => found.id.unwrap_or_default(),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => String::new(),
            Err(error) => return Err(failed(&error)),
        };
        if !image.ids.contains(&prefixed(&id)) {
            let message = format!("it was given {reference} and has something else under that name: {id}");
            return Err(Failure::Refused { engine, message });
        }
        loaded.push(Loaded { reference, id: prefixed(&id), present: present.contains(&index) });
    }
    Ok(Outcome::Loaded { images: loaded, sent_bytes })
}

/// podman says an id without the name of its hash.
fn prefixed(id: &str) -> String {
    if id.contains(':') { id.to_owned() } else { format!("sha256:{id}") }
}

fn prepare(image: &Image) -> Result<Prepared<'_>, String> {
    let blob = |media_type, text: &str| Blob::new(media_type, text.as_bytes().to_vec());
    let documents = Written {
        config: blob(media_type::CONFIG, &image.config),
        manifest: blob(media_type::MANIFEST, &image.manifest),
    };
    let places = image.layers.iter().map(|(digest, path)| Some((digest.parse().ok()?, Source::File(path.clone()))));
    let places: BTreeMap<Digest, _> = places.collect::<Option<_>>().ok_or("a layer's digest cannot be read")?;
    let named = Named::new(&image.reference, &documents, &places).map_err(|error| error.to_string())?;
    let config = Config::parse(&documents.config.bytes).map_err(|error| error.to_string())?;
    let manifest =
        Manifest::parse(&documents.manifest.bytes, media_type::MANIFEST).map_err(|error| error.to_string())?;
    let layers = config.rootfs.diff_ids.iter().map(ToString::to_string);
    Ok(Prepared {
        asked: image,
        ids: [&documents.config, &documents.manifest].map(|it| it.descriptor.digest.to_string()),
        layers: layers.zip(manifest.layers.iter().map(|it| it.digest)).collect(),
        named,
    })
}

/// By which of its names the engine has an image.
async fn known(docker: &Docker, ids: &[String; 2]) -> Result<Option<String>, Error> {
    for id in ids {
        match docker.inspect_image(id).await {
            Ok(_) => return Ok(Some(id.clone())),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

async fn tag(docker: &Docker, id: &str, reference: &str) -> Result<(), Error> {
    let (repository, tag) = split(reference);
    docker.tag_image(id, Some(TagImageOptionsBuilder::new().repo(repository).tag(tag).build())).await
}

/// `host:5000/name:tag` → name with its host, and tag.
fn split(reference: &str) -> (&str, &str) {
    let tag = reference.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
    tag.unwrap_or((reference, "latest"))
}

/// Blobs of layers that the engine has unpacked already, below the same layers: those of images with the same names.
async fn layers_there(docker: &Docker, images: &[&Prepared<'_>]) -> Result<BTreeSet<Digest>, Error> {
    let repositories = images.iter().map(|image| split(&image.asked.reference).0.to_owned()).collect::<Vec<_>>();
    let filters = HashMap::from([("reference".to_owned(), repositories)]);
    let listed = docker.list_images(Some(ListImagesOptionsBuilder::new().filters(&filters).build())).await?;
    let mut chains = Vec::new();
    for summary in listed {
        // It may be removed at this moment, which makes it no chain of ours.
        if let Ok(image) = docker.inspect_image(&summary.id).await {
            chains.extend(image.root_fs.and_then(|it| it.layers));
        }
    }
    let mut there = BTreeSet::new();
    let mut wanted = BTreeSet::new();
    for image in images {
        let common = chains.iter().map(|chain| shared(&image.layers, chain)).max().unwrap_or(0);
        there.extend(image.layers.iter().take(common).map(|(_, blob)| *blob));
        wanted.extend(image.layers.iter().skip(common).map(|(_, blob)| *blob));
    }
    // One archive serves all of them.
    Ok(&there - &wanted)
}

/// How many layers two images have in common from the bottom.
fn shared(layers: &[(String, Digest)], chain: &[String]) -> usize {
    layers.iter().zip(chain).take_while(|((diff_id, _), there)| diff_id == *there).count()
}

/// What is sent: images whose blobs are all there but for `without`.
struct Archive {
    images: Vec<Named>,
    platform: Platform,
    size_bytes: u64,
}

fn archive(images: &[&Prepared<'_>], without: &BTreeSet<Digest>) -> Archive {
    let mut named: Vec<Named> = images.iter().map(|image| image.named.clone()).collect();
    for image in &mut named {
        image.blobs.retain(|digest, _| !without.contains(digest));
    }
    let sizes: BTreeMap<_, _> =
        named.iter().flat_map(|it| &it.blobs).map(|(digest, (descriptor, _))| (*digest, descriptor.size)).collect();
    let architecture = images.first().map_or("amd64", |image| &image.asked.architecture);
    Archive { images: named, platform: Platform::linux(architecture), size_bytes: sizes.values().sum() }
}

/// Bytes that went into the connection.
async fn send(docker: &Docker, engine: &str, archive: Archive) -> Result<u64, Failure> {
    let total_bytes = archive.size_bytes;
    let sent = Arc::new(AtomicU64::new(0));
    let (pieces, body) = mpsc::channel(PIECES);
    let writing = tokio::task::spawn_blocking(move || write(&archive, pieces));
    let counted = Arc::clone(&sent);
    let body = stream::unfold(body, |mut body: mpsc::Receiver<io::Result<Bytes>>| async move {
        body.recv().await.map(|piece| (piece, body))
    })
    .inspect(move |piece| {
        counted.fetch_add(piece.as_ref().map_or(0, Bytes::len) as u64, Ordering::Relaxed);
    });
    let options = ImportImageOptionsBuilder::new().build();
    let answer = docker.import_image(options, body_try_stream(body), None);
    let answered = listen(engine, &sent, total_bytes, answer).await;
    // Where it could not read that is the reason: the engine then only saw an archive that broke off.
    let written = writing.await.map_err(|cause| Failure::Bug { message: cause.to_string() })?;
    let broken_off = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    match (written, answered) {
        // The engine stopped listening; why, its answer says best.
        (Err(LayoutError::Disk { cause, .. }), Ok(())) if broken_off(&cause) => {
            Err(Failure::Lost { engine: engine.to_owned(), message: cause.to_string() })
        }
        (Err(LayoutError::Disk { cause, .. }), Err(failure)) if broken_off(&cause) => Err(failure),
        (Err(LayoutError::Disk { action, path, cause }), _) => {
            Err(Failure::Unreadable { message: format!("cannot {action} {}: {cause}", path.display()) })
        }
        (Err(error), _) => Err(Failure::Unreadable { message: error.to_string() }),
        (Ok(()), Err(failure)) => Err(failure),
        (Ok(()), Ok(())) => Ok(sent.load(Ordering::Relaxed)),
    }
}

/// Hears the engine out, tells how far it is, and gives up where nothing happens any more.
async fn listen<T>(
    engine: &str,
    sent: &AtomicU64,
    total_bytes: u64,
    mut answer: impl Stream<Item = Result<T, Error>> + Unpin,
) -> Result<(), Failure> {
    let (mut told, mut moved) = (0, Instant::now());
    loop {
        match tokio::time::timeout(TICK, answer.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(_))) => moved = Instant::now(),
            Ok(Some(Err(error))) => return Err(failure::of(engine, &error)),
            Err(_) if moved.elapsed() > STALL => {
                return Err(Failure::Stalled { engine: engine.to_owned(), seconds: STALL.as_secs() });
            }
            Err(_) => {}
        }
        let sent_bytes = sent.load(Ordering::Relaxed);
        if sent_bytes != told {
            (told, moved) = (sent_bytes, Instant::now());
            emit(&Event::Progress { sent_bytes: sent_bytes.min(total_bytes), total_bytes });
        }
    }
}

fn write(archive: &Archive, pieces: mpsc::Sender<io::Result<Bytes>>) -> Result<(), LayoutError> {
    let output = io::BufWriter::with_capacity(PIECE_BYTES, Pieces(pieces.clone()));
    let written = oci::archive::write(&archive.images, &archive.platform, output);
    if let Err(error) = &written {
        // A body that ends early would look whole; this breaks the request off.
        let _ = pieces.blocking_send(Err(io::Error::other(error.to_string())));
    }
    written
}

struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.0.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(split("extproc:v1"), ("extproc", "v1"));
        assert_eq!(split("host:5000/team/extproc:v1"), ("host:5000/team/extproc", "v1"));
        assert_eq!(split("host:5000/extproc"), ("host:5000/extproc", "latest"));
    }

    #[test]
    fn only_layers_above_the_same_layers_are_the_same() {
        let layer = |name: &str| (name.to_owned(), Digest::of(name.as_bytes()));
        let layers = [layer("base"), layer("library"), layer("router")];
        let chain = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        for (there, common) in
            [(chain(&["base", "library"]), 2), (chain(&["base", "other", "router"]), 1), (chain(&["library"]), 0)]
        {
            assert_eq!(shared(&layers, &there), common, "{there:?}");
        }
    }
}
