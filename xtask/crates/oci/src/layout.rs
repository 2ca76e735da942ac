//! Images as a folder that every tool reads: `oci-layout`, `index.json`, `blobs/sha256/…`.
//!
//! ```text
//! DIR/oci-layout            the version
//!     index.json            name → manifest or index; written last, by renaming
//!     blobs/sha256/<hex>    complete from the moment that it has this name
//! ```
//! So whoever is killed at any moment leaves the images of before or the new ones, and the next run adds only the blobs that
//! are not there.
//! Owns: what is written when, and reading it back with every digest checked. Never: replace an image that it was not given,
//! write into a folder of something else.
//! Rules: OCI image specification, image-layout.md.

use crate::digest::{Digest, Hashing};
use crate::image::{
    Blob, Config, Descriptor, DocumentError, Index, MAX_DOCUMENT_BYTES, Manifest, Platform, REF_NAME, Written,
    media_type,
};
use crate::read::LayerFile;
use crate::referrer::Referrer;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub(crate) const VERSION: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
pub(crate) const BLOBS: &str = "blobs/sha256";
/// Ends the name of what a killed writer left.
const PARTIAL: &str = ".partial";
/// Indexes in indexes; nobody writes more than one.
const MAX_DEPTH: usize = 3;

/// Where the bytes of a blob are.
#[derive(Clone, Debug)]
pub enum Source {
    Bytes(Vec<u8>),
    /// A file that nobody changes: its name in a layout is a hard link where that is possible.
    File(PathBuf),
    /// Not on this machine: a layer of a base, at its registry. Who lacks it must be given a file.
    Elsewhere,
}

/// An image with its name and everything that belongs to it.
#[derive(Clone, Debug)]
pub struct Named {
    /// As `skopeo copy oci:DIR:NAME` wants it; for archives a reference, `repository:tag`.
    pub name: String,
    /// Its manifest, or an index of one for each platform.
    pub root: Descriptor,
    /// Each blob once.
    pub blobs: BTreeMap<Digest, (Descriptor, Source)>,
    /// What is attached to it or to the image for one of its platforms.
    pub referrers: Vec<Referrer>,
}

impl Named {
    /// `layers`: where the blob of each layer of the image lies, by its digest.
    /// # Errors: Missing for a layer without a place.
    pub fn new(name: &str, image: &Written, layers: &BTreeMap<Digest, Source>) -> Result<Self, LayoutError> {
        let manifest = Manifest::parse(&image.manifest.bytes, media_type::MANIFEST)
            .map_err(|cause| LayoutError::Document { digest: image.manifest.descriptor.digest, cause })?;
        let mut blobs = BTreeMap::new();
        for layer in manifest.layers {
            let source = layers.get(&layer.digest).ok_or(LayoutError::Missing { digest: layer.digest })?;
            blobs.insert(layer.digest, (layer, source.clone()));
        }
        for Blob { descriptor, bytes } in [&image.config, &image.manifest] {
            blobs.insert(descriptor.digest, (descriptor.clone(), Source::Bytes(bytes.clone())));
        }
        let root = image.manifest.descriptor.clone();
        Ok(Self { name: name.to_owned(), root, blobs, referrers: Vec::new() })
    }

    /// One name for an image for several platforms, in this order.
    pub fn platforms(name: &str, images: Vec<Self>) -> Self {
        let index = Index::new(images.iter().map(|image| image.root.clone()).collect()).blob();
        let referrers = images.iter().flat_map(|image| image.referrers.clone()).collect();
        let mut blobs: BTreeMap<_, _> = images.into_iter().flat_map(|image| image.blobs).collect();
        let root = index.descriptor.clone();
        blobs.insert(root.digest, (index.descriptor, Source::Bytes(index.bytes)));
        Self { name: name.to_owned(), root, blobs, referrers }
    }
}

/// What [`publish`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    pub added: usize,
    pub added_bytes: u64,
    /// Blobs that were there already.
    pub kept: usize,
}

/// Why a layout was not written or read.
#[derive(Debug)]
#[must_use]
pub enum LayoutError {
    Disk {
        action: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
    /// The folder holds something else.
    Foreign {
        path: PathBuf,
        why: String,
    },
    /// A blob that an image needs is nowhere.
    Missing {
        digest: Digest,
    },
    /// A blob is not what its descriptor says.
    Blob {
        path: PathBuf,
        expected: String,
        got: String,
    },
    Document {
        digest: Digest,
        cause: DocumentError,
    },
    /// An archive's image needs a tag.
    Untagged {
        name: String,
    },
    /// There is no image of this name, or none for this platform.
    Absent {
        name: String,
        known: Vec<String>,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk { action, path, .. } => write!(f, "cannot {action} {}", path.display()),
            Self::Foreign { path, why } => write!(f, "{} is no image layout: {why}", path.display()),
            Self::Missing { digest } => write!(f, "blob {digest} is nowhere"),
            Self::Blob { path, expected, got } => write!(f, "{} is {got}, not {expected}", path.display()),
            Self::Document { digest, .. } => write!(f, "blob {digest} is no document of an image"),
            Self::Untagged { name } => {
                let name = name.escape_debug();
                write!(f, "`{name}` is no `repository:tag`, by which engines would know the image")
            }
            Self::Absent { name, known } => {
                write!(f, "there is no image `{}`, but: {}", name.escape_debug(), known.join(", ").escape_debug())
            }
        }
    }
}

impl std::error::Error for LayoutError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Disk { cause, .. } => Some(cause),
            Self::Document { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

fn disk<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> LayoutError + 'a {
    move |cause| LayoutError::Disk { action, path: path.to_owned(), cause }
}

/// Puts images under their names into the layout at `root`, which is made where it is not there; others stay. On the disk
/// when this returns. Waits for another process that does the same.
/// # Errors: Disk, Foreign, Blob; the layout then has the images of before.
pub fn publish(root: &Path, images: &[Named]) -> Result<Published, LayoutError> {
    let blobs = root.join(BLOBS);
    refuse_foreign(root)?;
    fs::create_dir_all(&blobs).map_err(disk("create", &blobs))?;
    let folder = File::open(root).map_err(disk("open", root))?;
    // Held until the descriptor is closed, so a killed process holds nothing.
    folder.lock().map_err(disk("lock", root))?;
    sweep(&blobs)?;
    sweep(root)?;
    replace(&root.join("oci-layout"), VERSION)?;

    let mut published = Published::default();
    let referrers = || images.iter().flat_map(|image| &image.referrers);
    let attached = referrers().flat_map(|it| it.clone().into_blobs());
    let attached = attached.map(|it| (it.descriptor.digest, (it.descriptor, Source::Bytes(it.bytes))));
    let mut wanted: BTreeMap<_, _> = attached.collect();
    wanted.extend(images.iter().flat_map(|image| image.blobs.clone()));
    for (digest, (descriptor, source)) in &wanted {
        let path = blobs.join(digest.hex());
        if is_there(&path, descriptor) {
            published.kept += 1;
            continue;
        }
        add(&path, descriptor, source)?;
        published.added += 1;
        published.added_bytes += descriptor.size;
    }
    for folder in [&blobs, &root.join("blobs"), root] {
        sync(folder)?;
    }
    let index = root.join("index.json");
    let mut manifests: Vec<Descriptor> = match read_index(&index)? {
        Some(before) => before.manifests,
        None => Vec::new(),
    };
    manifests.retain(|it| !images.iter().any(|image| it.annotations.get(REF_NAME) == Some(&image.name)));
    manifests.extend(images.iter().map(|image| {
        let mut root = image.root.clone();
        root.annotations.insert(REF_NAME.to_owned(), image.name.clone());
        root
    }));
    forget_referrers(root, &mut manifests, &referrers().collect::<Vec<_>>());
    manifests.extend(referrers().map(|it| it.manifest.descriptor.clone()));
    // The order in which images came must not show.
    manifests.sort_by(|a, b| (a.annotations.get(REF_NAME), a.digest).cmp(&(b.annotations.get(REF_NAME), b.digest)));
    // Two names of one image have what is attached to it in common.
    manifests.dedup();
    replace(&index, &Index::new(manifests).blob().bytes)?;
    Ok(published)
}

/// Whether the layout at `root` has a blob; what it has is not asked for again by [`publish`].
pub fn holds(root: &Path, descriptor: &Descriptor) -> bool {
    is_there(&root.join(BLOBS).join(descriptor.digest.hex()), descriptor)
}

fn is_there(path: &Path, descriptor: &Descriptor) -> bool {
    fs::symlink_metadata(path).is_ok_and(|it| it.is_file() && it.len() == descriptor.size)
}

/// Removes the blobs that no image of the layout needs any more, and says how many bytes they had. Whoever reads an image that
/// has just been replaced may miss them, so this is not part of [`publish`].
/// # Errors: those of [`Layout::open`] and [`Layout::document`] for what is reachable; then nothing is removed.
pub fn prune(root: &Path) -> Result<u64, LayoutError> {
    let folder = File::open(root).map_err(disk("open", root))?;
    folder.lock().map_err(disk("lock", root))?;
    let layout = Layout::open(root)?;
    let mut needed = BTreeSet::new();
    let mut open = layout.index.manifests.clone();
    while let Some(descriptor) = open.pop() {
        let digest = descriptor.digest;
        if !needed.insert(digest.hex()) {
            continue;
        }
        let failed = |cause| LayoutError::Document { digest, cause };
        if media_type::is_index(&descriptor.media_type) {
            let index = Index::parse(&layout.document(&descriptor)?, &descriptor.media_type).map_err(failed)?;
            open.extend(index.manifests);
        } else if media_type::is_manifest(&descriptor.media_type) {
            let manifest = Manifest::parse(&layout.document(&descriptor)?, &descriptor.media_type).map_err(failed)?;
            open.push(manifest.config);
            open.extend(manifest.layers);
        }
    }
    let blobs = root.join(BLOBS);
    let mut removed_bytes = 0;
    for entry in fs::read_dir(&blobs).map_err(disk("list", &blobs))? {
        let entry = entry.map_err(disk("list", &blobs))?;
        if !needed.contains(&*entry.file_name().to_string_lossy()) {
            removed_bytes += entry.metadata().map_err(disk("read", &entry.path()))?.len();
            fs::remove_file(entry.path()).map_err(disk("remove", &entry.path()))?;
        }
    }
    Ok(removed_bytes)
}

/// Takes out what refers to an image that is not there any more, and what `new` replaces: of the same type and about the same image.
fn forget_referrers(root: &Path, manifests: &mut Vec<Descriptor>, new: &[&Referrer]) {
    let layout = Layout { root: root.to_owned(), index: Index::new(manifests.clone()) };
    let about = |bytes: &[u8]| Manifest::parse(bytes, media_type::MANIFEST).ok()?.subject.map(|it| it.digest);
    let replaced: BTreeSet<_> =
        new.iter().map(|it| (about(&it.manifest.bytes), it.manifest.descriptor.artifact_type.as_ref())).collect();
    // Of an image for several platforms each has its own.
    let mut present: BTreeSet<Digest> = manifests.iter().map(|it| it.digest).collect();
    for index in manifests.iter().filter(|it| media_type::is_index(&it.media_type)) {
        let parsed = layout.document(index).ok().and_then(|bytes| Index::parse(&bytes, &index.media_type).ok());
        present.extend(parsed.into_iter().flat_map(|index| index.manifests).map(|it| it.digest));
    }
    manifests.retain(|it| {
        if it.annotations.contains_key(REF_NAME) || !media_type::is_manifest(&it.media_type) {
            return true;
        }
        match layout.document(it).ok().and_then(|bytes| about(&bytes)) {
            Some(subject) => {
                present.contains(&subject) && !replaced.contains(&(Some(subject), it.artifact_type.as_ref()))
            }
            // Not ours to judge.
            None => true,
        }
    });
}

fn refuse_foreign(root: &Path) -> Result<(), LayoutError> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(disk("list", root))?,
    };
    for entry in entries {
        let name = entry.map_err(disk("list", root))?.file_name();
        let name = name.to_string_lossy();
        if name == "oci-layout" {
            return Ok(());
        }
        if !(matches!(&*name, "blobs" | "index.json") || name.ends_with(PARTIAL)) {
            let why = format!("it holds `{}` and no `oci-layout`", name.escape_debug());
            return Err(LayoutError::Foreign { path: root.to_owned(), why });
        }
    }
    Ok(())
}

/// Removes what killed writers left; whoever holds the lock is the only writer.
fn sweep(folder: &Path) -> Result<(), LayoutError> {
    for entry in fs::read_dir(folder).map_err(disk("list", folder))? {
        let entry = entry.map_err(disk("list", folder))?;
        if entry.file_name().to_string_lossy().ends_with(PARTIAL) {
            fs::remove_file(entry.path()).map_err(disk("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// Gives a blob its name, by a hard link or by a verified copy.
fn add(path: &Path, descriptor: &Descriptor, source: &Source) -> Result<(), LayoutError> {
    let mut reader: Box<dyn Read> = match source {
        Source::Elsewhere => return Err(LayoutError::Missing { digest: descriptor.digest }),
        Source::Bytes(bytes) => Box::new(bytes.as_slice()),
        Source::File(file) => {
            let opened = File::open(file).map_err(disk("read", file))?;
            let size_bytes = opened.metadata().map_err(disk("read", file))?.len();
            if size_bytes != descriptor.size {
                let (expected, got) = (format!("{} bytes", descriptor.size), format!("{size_bytes} bytes"));
                return Err(LayoutError::Blob { path: file.clone(), expected, got });
            }
            // A file of another size under this name: an accident of somebody.
            let _ = fs::remove_file(path);
            if fs::hard_link(file, path).is_ok() {
                return Ok(());
            }
            Box::new(opened)
        }
    };
    write(path, |output| {
        let mut output = Hashing::new(output);
        io::copy(&mut reader, &mut output).map_err(disk("write", path))?;
        let (_, digest, _) = output.finish();
        if digest == descriptor.digest {
            return Ok(());
        }
        let (expected, got) = (descriptor.digest.to_string(), digest.to_string());
        Err(LayoutError::Blob { path: path.to_owned(), expected, got })
    })
}

/// A small file with exactly these bytes.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), LayoutError> {
    if fs::read(path).is_ok_and(|before| before == bytes) {
        return Ok(());
    }
    write(path, |output| output.write_all(bytes).map_err(disk("write", path)))?;
    sync(path.parent().unwrap_or(Path::new(".")))
}

/// Beside, flushed, renamed.
fn write(path: &Path, fill: impl FnOnce(&mut File) -> Result<(), LayoutError>) -> Result<(), LayoutError> {
    let mut name = path.as_os_str().to_owned();
    name.push(PARTIAL);
    let partial = PathBuf::from(name);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).open(&partial).map_err(disk("create", &partial))?;
    fill(&mut file)?;
    file.set_permissions(Permissions::from_mode(0o644)).map_err(disk("set the mode of", &partial))?;
    file.sync_all().map_err(disk("sync", &partial))?;
    fs::rename(&partial, path).map_err(disk("publish", path))
}

fn sync(folder: &Path) -> Result<(), LayoutError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk("sync", folder))
}

/// At most as much as a document may have, and one byte to notice that there is more.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_DOCUMENT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read_index(path: &Path) -> Result<Option<Index>, LayoutError> {
    match read_bounded(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        bytes => {
            let bytes = bytes.map_err(disk("read", path))?;
            let foreign = |cause: DocumentError| LayoutError::Foreign { path: path.to_owned(), why: cause.to_string() };
            Index::parse(&bytes, media_type::INDEX).map(Some).map_err(foreign)
        }
    }
}

/// A layout that is read.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
    index: Index,
}

/// An image of a layout, its documents verified; its layers are when they are read.
#[derive(Clone, Debug)]
pub struct Found {
    pub descriptor: Descriptor,
    pub manifest: Manifest,
    pub config: Config,
    /// Bottom first.
    pub layers: Vec<LayerFile>,
}

impl Layout {
    /// # Errors: Disk, Foreign.
    pub fn open(root: &Path) -> Result<Self, LayoutError> {
        let foreign = |why: &str| LayoutError::Foreign { path: root.to_owned(), why: why.to_owned() };
        let version = root.join("oci-layout");
        let bytes = read_bounded(&version).map_err(disk("read", &version))?;
        let version: serde_json::Value = serde_json::from_slice(&bytes).map_err(|cause| foreign(&cause.to_string()))?;
        if version.get("imageLayoutVersion").and_then(|it| it.as_str()) != Some("1.0.0") {
            return Err(foreign("its version is not 1.0.0"));
        }
        let index = read_index(&root.join("index.json"))?.ok_or_else(|| foreign("it has no index.json"))?;
        Ok(Self { root: root.to_owned(), index })
    }

    /// Every image that has a name, with its manifest or index.
    pub fn images(&self) -> impl Iterator<Item = (&str, &Descriptor)> {
        self.index.manifests.iter().filter_map(|it| Some((it.annotations.get(REF_NAME)?.as_str(), it)))
    }

    /// Where a blob lies, if it is there.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(BLOBS).join(digest.hex())
    }

    /// The image of this name for this platform.
    /// # Errors: Absent; Disk, Blob, Document.
    pub fn image(&self, name: &str, platform: &Platform) -> Result<Found, LayoutError> {
        let absent = || LayoutError::Absent { name: name.to_owned(), known: self.names() };
        let (_, root) = self.images().find(|(it, _)| *it == name).ok_or_else(absent)?;
        self.found(name, root, platform)
    }

    /// The image for this platform of a layout that holds one, whatever it is called.
    /// # Errors: Absent; Disk, Blob, Document.
    pub fn only(&self, platform: &Platform) -> Result<Found, LayoutError> {
        match self.index.manifests.as_slice() {
            [root] => self.found("its image", root, platform),
            _ => Err(LayoutError::Absent { name: "one image alone".to_owned(), known: self.names() }),
        }
    }

    fn names(&self) -> Vec<String> {
        self.images().map(|(name, _)| name.to_owned()).collect()
    }

    fn found(&self, name: &str, root: &Descriptor, platform: &Platform) -> Result<Found, LayoutError> {
        let descriptor = self
            .select(root, platform, 0)?
            .ok_or_else(|| LayoutError::Absent { name: format!("{name} for {platform}"), known: self.names() })?;
        let digest = descriptor.digest;
        let document = |digest| move |cause| LayoutError::Document { digest, cause };
        let manifest =
            Manifest::parse(&self.document(&descriptor)?, &descriptor.media_type).map_err(document(digest))?;
        let config = Config::parse(&self.document(&manifest.config)?).map_err(document(manifest.config.digest))?;
        if manifest.layers.len() != config.rootfs.diff_ids.len() {
            let why = "it has another number of layers than its configuration".to_owned();
            return Err(document(digest)(DocumentError { document: "manifest", why }));
        }
        let layers = manifest.layers.iter().zip(&config.rootfs.diff_ids).map(|(descriptor, diff_id)| LayerFile {
            path: self.path(&descriptor.digest),
            descriptor: descriptor.clone(),
            diff_id: *diff_id,
        });
        let layers = layers.collect();
        Ok(Found { descriptor, manifest, config, layers })
    }

    /// The manifest for a platform: what an index does not say stands in the image's configuration.
    fn select(&self, root: &Descriptor, platform: &Platform, depth: usize) -> Result<Option<Descriptor>, LayoutError> {
        let document = |cause| LayoutError::Document { digest: root.digest, cause };
        if !media_type::is_index(&root.media_type) {
            if root.platform.is_some() {
                return Ok(Some(root.clone()));
            }
            let manifest = Manifest::parse(&self.document(root)?, &root.media_type).map_err(document)?;
            let config = Config::parse(&self.document(&manifest.config)?).map_err(document)?;
            let same = (&config.os, &config.architecture) == (&platform.os, &platform.architecture);
            return Ok(same.then(|| root.clone()));
        }
        if depth == MAX_DEPTH {
            let why = format!("it is an index {MAX_DEPTH} deep in others");
            return Err(document(DocumentError { document: "index", why }));
        }
        let index = Index::parse(&self.document(root)?, &root.media_type).map_err(document)?;
        let fits = |it: &Platform| {
            (&it.os, &it.architecture) == (&platform.os, &platform.architecture)
                && (platform.variant.is_none() || it.variant == platform.variant)
        };
        for manifest in index.manifests.iter().filter(|it| it.platform.as_ref().is_none_or(fits)) {
            if let Some(found) = self.select(manifest, platform, depth + 1)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// A small blob, with its size and digest checked.
    /// # Errors: Disk, Blob.
    pub fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, LayoutError> {
        let path = self.path(&descriptor.digest);
        let wrong = |expected: String, got: String| LayoutError::Blob { path: path.clone(), expected, got };
        if descriptor.size > MAX_DOCUMENT_BYTES as u64 {
            let got = format!("a document of {} bytes", descriptor.size);
            return Err(wrong(format!("one of at most {MAX_DOCUMENT_BYTES}"), got));
        }
        let bytes = read_bounded(&path).map_err(disk("read", &path))?;
        if bytes.len() as u64 != descriptor.size {
            return Err(wrong(format!("{} bytes", descriptor.size), format!("{} bytes or more", bytes.len())));
        }
        match Digest::of(&bytes) {
            digest if digest == descriptor.digest => Ok(bytes),
            digest => Err(wrong(descriptor.digest.to_string(), digest.to_string())),
        }
    }
}
