//! Pins of bases from registries: a tag → the digest that it has now → manifest, configuration and layers for each platform.
//!
//! Everything below the first digest is what that digest says. What a tag means is the word of whoever answers first, so who that
//! was is told; the digest in the declaration says it without anybody's word.
//! Owns: which image of an index is for which platform. Never: fetch a layer.
//! Rules: OCI image specification, image-index.md and manifest.md.

use crate::error::{Code, Error, Result};
use crate::execute::Workshop;
use crate::execute::registry_base::refused;
use crate::files;
use crate::platform::Platform;
use crate::project::pins::{BaseImage, BlobPin, LayerPin, RegistryBase};
use crate::registry::BaseReference;
use crate::tr;
use oci::image::{Config, DocumentError, Index, Manifest, media_type};
use oci::{Descriptor, Digest};
use protocol::Artifact;
use std::collections::BTreeMap;

/// The image that a base is on each platform that it is there for.
pub fn pins(workshop: &Workshop, base: &BaseReference) -> Result<RegistryBase> {
    let (root, text, upstream) = document(workshop, base, &base.wanted(), None)?;
    let unsound = |error: DocumentError| refused(base).because(error);
    let mut platform = BTreeMap::new();
    if media_type::is_index(&root.media_type) {
        let index = Index::parse(text.as_bytes(), &root.media_type).map_err(unsound)?;
        for wanted in Platform::ALL {
            let fits = |it: &&Descriptor| {
                let said = it.platform.as_ref();
                media_type::is_manifest(&it.media_type)
                    && said.is_some_and(|said| said.os == "linux" && said.architecture == wanted.architecture())
            };
            if let Some(manifest) = index.manifests.iter().find(fits) {
                platform.insert(wanted.name(), image(workshop, base, manifest, None)?.0);
            }
        }
    } else {
        let (image, architecture) = self::image(workshop, base, &root, Some(text))?;
        let found = Platform::ALL.into_iter().find(|it| it.architecture() == architecture);
        platform.extend(found.map(|found| (found.name(), image)));
    }
    if platform.is_empty() {
        let known = Platform::ALL.map(|it| it.to_string()).join(", ");
        return Err(Error::new(Code::CannotPin, tr!("{reference} is for none of {known}", reference = base, known))
            .hint(tr!("name another image, or another tag of it")));
    }
    if base.digest.is_none() {
        let (name, digest) = (base.name(), root.digest);
        workshop.sink.note(tr!(
            "{upstream} says that {reference} is {digest}: to need nobody's word, declare {name}@{digest}",
            upstream,
            reference = base,
            digest,
            name
        ));
    }
    Ok(RegistryBase { digest: root.digest, platform })
}

/// A manifest or index with its text, by tag or by the descriptor that leads to it; last who gave it.
fn document(
    workshop: &Workshop,
    base: &BaseReference,
    reference: &str,
    expected: Option<&Descriptor>,
) -> Result<(Descriptor, String, String)> {
    let outside = &workshop.outside;
    let answer = outside.gateway()?.manifest(base, reference);
    let (told, text, upstream) = answer.map_err(|error| outside.with_ways(error))?;
    let media_type = expected.map_or(told, |it| it.media_type.clone());
    let descriptor = Descriptor::new(media_type, Digest::of(text.as_bytes()), text.len() as u64);
    Ok((descriptor, text, upstream))
}

/// The image behind a manifest, and its architecture.
fn image(
    workshop: &Workshop,
    base: &BaseReference,
    manifest: &Descriptor,
    text: Option<String>,
) -> Result<(BaseImage, String)> {
    let text = match text {
        Some(text) => text,
        None => document(workshop, base, &manifest.digest.to_string(), Some(manifest))?.1,
    };
    let unsound = |error: DocumentError| refused(base).because(error);
    let parsed = Manifest::parse(text.as_bytes(), &manifest.media_type).map_err(unsound)?;
    let config = BlobPin { digest: parsed.config.digest, size_bytes: parsed.config.size };
    let (repository, sha256) = (base.name(), config.digest.hex());
    let artifact = Artifact::Blob { repository, sha256, size_bytes: config.size_bytes };
    let outside = &workshop.outside;
    let fetched = outside.gateway()?.pull("lock", base, artifact, |_| {});
    let path = fetched.map_err(|error| outside.with_ways(error))?.path;
    let read = Config::parse(&files::read(&path)?).and_then(|config| oci::Image::base(&parsed.layers, config));
    let image = read.map_err(unsound)?;
    let layer = |(descriptor, diff_id): (Descriptor, Digest)| LayerPin {
        digest: descriptor.digest,
        diff_id,
        media_type: descriptor.media_type,
        size_bytes: descriptor.size,
    };
    let architecture = image.platform.architecture;
    let layer = image.layers.into_iter().map(layer).collect();
    Ok((BaseImage { manifest: manifest.digest, config, layer }, architecture))
}
