//! Bases from registries: their configuration, and what is known of each of their layers once its bytes were read.
//!
//! A layer's own bytes stay where the gateway keeps what it fetched, or at the registry: what the store has of it, its record, is
//! enough for an image until some target lacks the blob. Owns: what of a stranger's layer is looked at. Never: believe bytes before
//! the digests of both forms were checked; write a path of an archive anywhere.
//! Rules: OCI image specification, layer.md; dpkg's `status`, and `status.d` of images without dpkg; os-release(5).

use super::image::{PARTS, RECORD, read_json, write_json};
use super::{Made, Workshop};
use crate::cache::key::Key;
use crate::cache::store::{Lock, Product};
use crate::error::{Code, Error, Result};
use crate::files;
use crate::plan::Step;
use crate::project::pins::{BaseImage, LayerPin};
use crate::registry::BaseReference;
use crate::report::{Done, Event};
use crate::toolchain::abi::Parts;
use crate::tr;
use oci::layout::{Named, Source};
use oci::read::{LayerFile, LayerReader, Limits, ReadError};
use protocol::Artifact;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// File of a result of kind `registry-base`.
const CONFIGURATION: &str = "config.json";
/// File of a result of kind `base-layer`, beside its record and parts.
const SYSTEM: &str = "system.json";
/// A larger program is not held in memory to look at it.
const MAX_ELF_BYTES: u64 = 512 << 20;
/// Of the texts that are read: an installation of everything has 20 MB.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// What a layer says of the system that it belongs to.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// `ID` and `VERSION_CODENAME` of os-release.
    pub release: Option<(String, String)>,
    /// File of dpkg's → packages that are installed by it; a higher layer's replaces a lower one's.
    pub packages: BTreeMap<String, Vec<Package>>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub architecture: String,
}

impl Workshop<'_> {
    pub(super) fn registry_base(
        &self,
        step: &Step,
        reference: &BaseReference,
        image: &BaseImage,
        lock: &Lock,
    ) -> Result<Made> {
        let file = self.base_blob(&step.id, reference, image.config.digest, image.config.size_bytes)?;
        let bytes = files::read(&file)?;
        let layers: Vec<_> = image.layer.iter().map(LayerPin::descriptor).collect();
        let base = oci::image::Config::parse(&bytes).and_then(|config| oci::Image::base(&layers, config));
        let base = base.map_err(|error| refused(reference).because(error))?;
        if base.layers.iter().zip(&image.layer).any(|((_, diff_id), pin)| *diff_id != pin.diff_id) {
            let message = tr!("xtask.lock and the configuration of {reference} name other layers", reference);
            return Err(Error::new(Code::NotPinned, message).hint(format!("cargo xtask lock update {reference}")));
        }
        self.in_scratch(|scratch| {
            files::write(&scratch.join(CONFIGURATION), &bytes)?;
            self.publish_files(step, lock, scratch, &[CONFIGURATION])
        })
    }

    pub(super) fn base_layer(
        &self,
        step: &Step,
        reference: &BaseReference,
        pin: &LayerPin,
        lock: &Lock,
    ) -> Result<Made> {
        let descriptor = pin.descriptor();
        let path = self.base_blob(&step.id, reference, pin.digest, pin.size_bytes)?;
        let file = LayerFile { path, descriptor: descriptor.clone(), diff_id: pin.diff_id };
        let (parts, system) = look(&file).map_err(|error| {
            let code = match error {
                ReadError::Wrong { .. } => Code::OtherBytes,
                _ => Code::BadImage,
            };
            Error::new(code, tr!("layer {digest} of {reference} is refused", digest = pin.digest, reference))
                .because(error)
                .hint(tr!("a layer like that is not used, whoever made it: name another base"))
        })?;
        self.in_scratch(|scratch| {
            write_json(&scratch.join(RECORD), &oci::Layer { descriptor, diff_id: pin.diff_id })?;
            write_json(&scratch.join(PARTS), &parts)?;
            write_json(&scratch.join(SYSTEM), &system)?;
            self.publish_files(step, lock, scratch, &[RECORD, PARTS, SYSTEM])
        })
    }

    fn publish_files(&self, step: &Step, lock: &Lock, scratch: &Path, paths: &[&str]) -> Result<Made> {
        let product = |path: &&str| Product {
            path: (*path).to_owned(),
            file: scratch.join(path),
            executable: false,
            expected: None,
        };
        let products: Vec<_> = paths.iter().map(product).collect();
        let entry = self.store.publish(lock, &step.id, step.flat_inputs(), Default::default(), &products)?;
        Ok(Made { entry: Some(entry), done: Done::Ran, cpu_seconds: 0.0 })
    }

    /// An image that holds nothing but its base. `layers`: those of the base.
    pub(super) fn based_on(&self, base: &Key, layers: &[oci::Descriptor]) -> Result<oci::Image> {
        let bytes = files::read(&self.file(&self.result(base)?, CONFIGURATION)?)?;
        let image = oci::image::Config::parse(&bytes).and_then(|config| oci::Image::base(layers, config));
        image.map_err(|error| Error::bug(tr!("the configuration of a base")).because(error))
    }

    /// What the layers of a base say together.
    pub(super) fn system(&self, layers: &[Key]) -> Result<System> {
        let mut system = System::default();
        for layer in layers {
            let above: System = read_json(&self.file(&self.result(layer)?, SYSTEM)?)?;
            system.release = above.release.or(system.release);
            system.packages.extend(above.packages);
        }
        Ok(system)
    }

    /// An image whose blobs are here, but for those that its target holds.
    pub fn brought(
        &self,
        step: &str,
        name: &str,
        image: &Named,
        holds: impl Fn(&oci::Descriptor) -> bool,
    ) -> Result<Named> {
        let mut brought = image.clone();
        let Some(reference) = self.project.declaration.image[name].registry_base() else { return Ok(brought) };
        for (descriptor, source) in brought.blobs.values_mut() {
            if matches!(source, Source::Elsewhere) && !holds(descriptor) {
                *source = Source::File(self.base_blob(step, reference, descriptor.digest, descriptor.size)?);
            }
        }
        Ok(brought)
    }

    fn base_blob(
        &self,
        step: &str,
        reference: &BaseReference,
        digest: oci::Digest,
        size_bytes: u64,
    ) -> Result<PathBuf> {
        let (repository, sha256) = (reference.name(), digest.hex());
        let progress = |text| self.sink.send(Event::Progress { id: step.to_owned(), text });
        let artifact = Artifact::Blob { repository, sha256, size_bytes };
        let fetched = self.outside.gateway()?.pull(step, reference, artifact, progress);
        fetched.map(|fetched| fetched.path).map_err(|error| self.outside.with_ways(error))
    }
}

/// A document of a base is none that may be built on.
pub fn refused(reference: &BaseReference) -> Error {
    Error::new(Code::BadImage, tr!("{reference} cannot be built on", reference))
        .hint(tr!("name another image, or another tag of it"))
}

/// Reads a layer once: what a dynamic linker could notice, and what dpkg says.
pub fn look(file: &LayerFile) -> std::result::Result<(Parts, System), ReadError> {
    let (mut parts, mut system) = (Parts::default(), System::default());
    let mut reader = LayerReader::open(file, Limits::default())?;
    while let Some((path, entry)) = reader.next()? {
        let path = path.to_string();
        match entry.kind {
            oci::Kind::File(size_bytes) => {
                let mut content = reader.content();
                let mut start = [0; 4];
                let length = filled(&mut content, &mut start)?;
                let whole = |content: &mut dyn Read, limit: u64| {
                    let mut bytes = start[..length].to_vec();
                    content.take(limit).read_to_end(&mut bytes).map(|_| bytes)
                };
                if start == *b"\x7fELF" && size_bytes > MAX_ELF_BYTES {
                    parts.unreadable.insert(path, format!("{size_bytes} bytes"));
                } else if start == *b"\x7fELF" {
                    parts.add_file(&path, &whole(&mut content, MAX_ELF_BYTES)?);
                } else if is_told_by(&path) {
                    system.take(&path, &whole(&mut content, MAX_TEXT_BYTES)?);
                }
            }
            oci::Kind::Symlink(target) => drop(parts.links.insert(path, target)),
            oci::Kind::Hardlink(target) => drop(parts.links.insert(path, format!("/{target}"))),
            oci::Kind::Whiteout | oci::Kind::OpaqueWhiteout => drop(parts.removed.insert(path)),
            oci::Kind::Directory => {}
        }
    }
    reader.finish()?;
    Ok((parts, system))
}

fn filled(content: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match content.read(&mut buffer[length..])? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

const RELEASES: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];
const STATUS: &str = "var/lib/dpkg/status";
const STATUS_FOLDER: &str = "var/lib/dpkg/status.d/";

fn is_told_by(path: &str) -> bool {
    let of_one = path.strip_prefix(STATUS_FOLDER).is_some_and(|name| !name.ends_with(".md5sums"));
    of_one || path == STATUS || RELEASES.contains(&path)
}

impl System {
    /// Takes in a text. What cannot be read tells nothing.
    fn take(&mut self, path: &str, text: &[u8]) {
        if RELEASES.contains(&path) {
            let text = String::from_utf8_lossy(text);
            let value = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
                line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
            };
            self.release = Some((value("ID"), value("VERSION_CODENAME")));
            return;
        }
        let package = |paragraph: debian::control::Paragraph| {
            let installed = paragraph.get("Status").is_none_or(|status| status.ends_with(" installed"));
            let field = |name| paragraph.get(name).filter(|it| !it.is_empty()).map(str::to_owned);
            let package =
                Package { name: field("Package")?, version: field("Version")?, architecture: field("Architecture")? };
            installed.then_some(package)
        };
        let paragraphs = debian::control::Paragraphs::new(path, text).map_while(std::result::Result::ok);
        self.packages.insert(path.to_owned(), paragraphs.filter_map(package).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer with these files and what is removed, as a file.
    fn layer(folder: &Path, files: &[(&str, &[u8])], removed: &str) -> LayerFile {
        let mut tree = oci::Tree::new();
        for (path, bytes) in files {
            let entry = oci::Entry::file(oci::Content::Bytes(bytes.to_vec()), 0o644, 0);
            tree.insert(oci::TreePath::new(*path).unwrap(), entry).unwrap();
        }
        let kind = oci::Kind::Whiteout;
        let gone = oci::Entry { kind, ..oci::Entry::file(oci::Content::Bytes(Vec::new()), 0o644, 0) };
        tree.insert(oci::TreePath::new(removed).unwrap(), gone).unwrap();
        tree.add_parents(0);
        let path = folder.join("layer");
        let record = oci::layer::write(&tree, oci::Codec::default(), files::create_scratch(&path).unwrap()).unwrap();
        LayerFile { path, descriptor: record.descriptor, diff_id: record.diff_id }
    }

    #[test]
    fn of_a_layer_is_kept_what_the_gate_and_the_bill_of_materials_ask_for() {
        let folder = files::temporary_folder(&std::env::temp_dir(), "base-layer").unwrap();
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let status = b"Package: a\nVersion: 1:2-3\nArchitecture: all\nStatus: install ok installed\n\n\
            Package: b\nVersion: 1\nArchitecture: all\nStatus: deinstall ok config-files\n";
        let files: [(&str, &[u8]); 5] = [
            ("etc/os-release", b"NAME='X'\nID=debian\nVERSION_CODENAME=\"bookworm\"\n"),
            ("usr/bin/it", &program),
            ("var/lib/dpkg/status", status),
            ("var/lib/dpkg/status.d/c", b"Package: c\nVersion: 3\nArchitecture: amd64\n"),
            ("var/lib/dpkg/status.d/c.md5sums", b"0 usr/bin/it\n"),
        ];
        let mut layer = layer(&folder, &files, "usr/lib/gone.so");
        let (parts, system) = look(&layer).unwrap();
        assert!(parts.files["usr/bin/it"].needed.contains(&"libc.so.6".to_owned()));
        assert_eq!(
            (parts.files.len(), parts.removed.into_iter().collect::<Vec<_>>()),
            (1, vec!["usr/lib/gone.so".into()])
        );
        assert_eq!(system.release, Some(("debian".into(), "bookworm".into())));
        let named: Vec<_> =
            system.packages.values().flatten().map(|it| (it.name.as_str(), it.version.as_str())).collect();
        assert_eq!(named, [("a", "1:2-3"), ("c", "3")]);
        layer.diff_id = oci::Digest::of(b"other");
        assert!(matches!(look(&layer), Err(ReadError::Wrong { .. })));
        files::remove(&folder).unwrap();
    }
}
