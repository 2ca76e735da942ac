//! Images as one tar: an image layout with a `manifest.json` beside it, so that `docker load` of any age, podman, skopeo and
//! containerd take it, each in its own way.
//!
//! Owns: its entries and their order. Never: write two archives for the same images.
//! Rules: OCI image specification, image-layout.md; Docker image specification v1.2, "Combined Image JSON + Filesystem
//! Changeset Format", whose layers `docker load` decompresses since 1.10 (zstd since 23.0).

use crate::digest::{Digest, Hashing};
use crate::image::{Descriptor, DocumentError, Index, Manifest, Platform, REF_NAME, media_type};
use crate::layout::{BLOBS, LayoutError, Named, Source, VERSION};
use crate::read::{Limits, Reader};
use crate::tar::{self, Header, Type};
use crate::tree::Kind;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

/// The name by which containerd, and Docker on top of it, knows an image of an archive.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// One image of `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: [String; 1],
    layers: Vec<String>,
}

/// Writes images, each name `repository:tag`, as one tar. Of an image for several platforms, `docker load` gets the one for
/// `platform`. Layers in zstd need Docker 23 or podman.
/// # Errors: Disk for a file that cannot be read and for the output (`path` is then empty); Blob for one of another size;
/// Untagged; Document, Absent, Missing for images that do not hang together.
pub fn write(images: &[Named], platform: &Platform, mut output: impl Write) -> Result<(), LayoutError> {
    let mut docker = Vec::new();
    let mut manifests = Vec::new();
    for image in images {
        // A port before a path is no tag.
        if !image.name.rsplit('/').next().is_some_and(|last| last.contains(':')) {
            return Err(LayoutError::Untagged { name: image.name.clone() });
        }
        let manifest = manifest(image, platform)?;
        docker.push(DockerImage {
            config: place(&manifest.config),
            repo_tags: [image.name.clone()],
            layers: manifest.layers.iter().map(place).collect(),
        });
        let mut root = image.root.clone();
        for key in [CONTAINERD_NAME, REF_NAME] {
            root.annotations.insert(key.to_owned(), image.name.clone());
        }
        manifests.push(root);
    }
    let failed = |cause| LayoutError::Disk { action: "write the archive", path: Path::new("").into(), cause };
    let blobs: BTreeMap<_, _> = images.iter().flat_map(|image| &image.blobs).collect();
    for folder in ["blobs", BLOBS] {
        header(Type::Directory, folder, 0, &mut output).map_err(failed)?;
    }
    for (descriptor, source) in blobs.into_values() {
        header(Type::File, &place(descriptor), descriptor.size, &mut output).map_err(failed)?;
        match source {
            Source::Bytes(bytes) => output.write_all(bytes).map_err(failed)?,
            Source::File(path) => copy(path, descriptor.size, &mut output)?,
            Source::Elsewhere => return Err(LayoutError::Missing { digest: descriptor.digest }),
        }
        tar::pad(descriptor.size, &mut output).map_err(failed)?;
    }
    let docker = serde_json::to_vec(&docker).map_err(|cause| failed(cause.into()))?;
    let index = Index::new(manifests).blob().bytes;
    for (name, bytes) in [("index.json", index.as_slice()), ("manifest.json", &docker), ("oci-layout", VERSION)] {
        let size_bytes = bytes.len() as u64;
        header(Type::File, name, size_bytes, &mut output).map_err(failed)?;
        output.write_all(bytes).map_err(failed)?;
        tar::pad(size_bytes, &mut output).map_err(failed)?;
    }
    tar::end(&mut output).and_then(|()| output.flush()).map_err(failed)
}

/// Takes an archive that somebody else wrote apart into an image layout, in a folder that is empty. Each blob is what its name says;
/// what is no part of a layout stays out.
/// # Errors: Foreign for what is no archive of images, Blob, Disk.
pub fn unpack(archive: &Path, folder: &Path) -> Result<(), LayoutError> {
    let disk = |action, path: &Path| {
        let path = path.to_owned();
        move |cause| LayoutError::Disk { action, path, cause }
    };
    let input = File::open(archive).map_err(disk("read", archive))?;
    let blobs = folder.join(BLOBS);
    fs::create_dir_all(&blobs).map_err(disk("create", &blobs))?;
    let mut reader = Reader::new(io::BufReader::with_capacity(1 << 20, input), Limits::default());
    loop {
        let foreign = |why: String| LayoutError::Foreign { path: archive.to_owned(), why };
        let Some((path, entry)) = reader.next().map_err(|error| foreign(error.to_string()))? else { return Ok(()) };
        let name = path.to_string();
        let digest = name.strip_prefix(BLOBS).and_then(|name| name.strip_prefix('/'));
        let is_ours = digest.is_some() || ["index.json", "oci-layout"].contains(&name.as_str());
        let Kind::File(_) = entry.kind else { continue };
        if !is_ours {
            continue;
        }
        let expected: Option<Digest> = match digest {
            Some(hex) => Some(format!("sha256:{hex}").parse().map_err(|_| foreign(format!("{name} is no digest")))?),
            None => None,
        };
        let file = folder.join(&name);
        let output = File::create_new(&file).map_err(disk("write", &file))?;
        let mut output = Hashing::new(io::BufWriter::new(output));
        io::copy(&mut reader, &mut output).map_err(disk("write", &file))?;
        output.flush().map_err(disk("write", &file))?;
        let (_, digest, _) = output.finish();
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(LayoutError::Blob { path: file, expected: expected.to_string(), got: digest.to_string() });
        }
    }
}

fn place(descriptor: &Descriptor) -> String {
    format!("{BLOBS}/{}", descriptor.digest.hex())
}

fn header(kind: Type, path: &str, size_bytes: u64, output: &mut impl Write) -> io::Result<()> {
    let mode = if kind == Type::Directory { 0o755 } else { 0o644 };
    let (uid, gid, modified_seconds, xattrs) = (0, 0, 0, Vec::new());
    Header { kind, path, link: "", mode, uid, gid, size_bytes, modified_seconds, xattrs }.write(output)
}

/// The manifest that `docker load` is told about.
fn manifest(image: &Named, platform: &Platform) -> Result<Manifest, LayoutError> {
    let document = |descriptor: &Descriptor| match image.blobs.get(&descriptor.digest) {
        Some((_, Source::Bytes(bytes))) => Ok(bytes.clone()),
        _ => Err(LayoutError::Missing { digest: descriptor.digest }),
    };
    let failed = |cause: DocumentError| LayoutError::Document { digest: image.root.digest, cause };
    let mut root = image.root.clone();
    if media_type::is_index(&root.media_type) {
        let index = Index::parse(&document(&root)?, &root.media_type).map_err(failed)?;
        let fits = |it: &&Descriptor| it.platform.as_ref() == Some(platform);
        let absent = || LayoutError::Absent {
            name: format!("{} for {platform}", image.name),
            known: index.manifests.iter().filter_map(|it| Some(it.platform.as_ref()?.to_string())).collect(),
        };
        root = index.manifests.iter().find(fits).cloned().ok_or_else(absent)?;
    }
    Manifest::parse(&document(&root)?, &root.media_type).map_err(failed)
}

fn copy(path: &Path, size_bytes: u64, output: &mut impl Write) -> Result<(), LayoutError> {
    let failed = |cause| LayoutError::Disk { action: "read", path: path.to_owned(), cause };
    // One byte more notices a file that has grown.
    let mut reader = File::open(path).map_err(failed)?.take(size_bytes + 1);
    let copied = io::copy(&mut reader, output).map_err(failed)?;
    if copied == size_bytes {
        return Ok(());
    }
    let (expected, got) = (format!("{size_bytes} bytes"), format!("{copied} bytes or more"));
    Err(LayoutError::Blob { path: path.to_owned(), expected, got })
}
