//! Making what is said about an image: out of the results that it was made of, none of which is unpacked again.
//!
//! Owns: which fact goes where. Never: shape a document; `attest` does.

use super::image::MANIFEST;
use super::{Made, Workshop};
use crate::attest::{self, Bom, Component, Material, Provenance, Subject, purl};
use crate::cache::key::{Attestation, Inputs, Key};
use crate::cache::store::{Lock, Product};
use crate::error::{Error, Result};
use crate::files;
use crate::plan::Step;
use crate::report::Done;
use crate::toolchain::buildinfo;
use crate::tr;
use crate::wheel;
use oci::{Annotations, Descriptor, Referrer};
use std::collections::{BTreeMap, BTreeSet};

/// Files of a result of kind `attestation`, with the type of each.
const DOCUMENTS: [(&str, &str); 3] =
    [("cyclonedx.json", attest::CYCLONEDX), ("provenance.json", attest::IN_TOTO), ("spdx.json", attest::SPDX)];
/// Tells what an in-toto statement is about before it is fetched.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

impl Workshop<'_> {
    pub(super) fn attestation(&self, step: &Step, name: &str, lock: &Lock) -> Result<Made> {
        let (Some(Inputs::Attestation(inputs)), Some(image)) = (&step.inputs, step_image(step)) else {
            return Err(Error::bug(tr!("image {name} has no inputs", name)));
        };
        let manifest = files::read(&self.file(&self.result(&image)?, MANIFEST)?)?;
        let subject = Subject {
            name: name.to_owned(),
            digest: oci::Digest::of(&manifest),
            architecture: inputs.platform.rsplit('-').next().unwrap_or_default().to_owned(),
            created_seconds: i64::try_from(inputs.created_seconds).unwrap_or(i64::MAX),
        };
        let bom = self.bom(inputs, subject.clone())?;
        let documents = [bom.cyclonedx(), provenance(inputs, subject).statement(), bom.spdx()];
        self.in_scratch(|scratch| {
            let mut products = Vec::new();
            for ((path, _), document) in DOCUMENTS.iter().zip(&documents) {
                let file = scratch.join(path);
                files::write(&file, document.to_string().as_bytes())?;
                products.push(Product { path: (*path).to_owned(), file, executable: false, expected: None });
            }
            let entry = self.store.publish(lock, &step.id, step.flat_inputs(), Default::default(), &products)?;
            Ok(Made { entry: Some(entry), done: Done::Ran, cpu_seconds: 0.0 })
        })
    }

    fn bom(&self, inputs: &Attestation, subject: Subject) -> Result<Bom> {
        let mut bom = Bom::new(subject);
        for (name, pin) in &inputs.packages {
            let [version, architecture, sha256] = words(pin);
            let qualifiers = [("arch", architecture), ("distro", inputs.suite.as_str())];
            let package =
                Component::package(name, Some(version), purl("deb", "debian", name, Some(version), &qualifiers));
            bom.add(Component { sha256: Some(sha256.to_owned()), ..package });
        }
        if let Some((name, digest)) = &inputs.base {
            self.add_base(&mut bom, name, digest, &inputs.base_layers)?;
        }
        for (project, pin) in &inputs.wheels {
            let [filename, sha256] = words(pin);
            let version = wheel::version(filename);
            let package = Component::package(project, Some(&version), purl("pypi", "", project, Some(&version), &[]));
            bom.add(Component { sha256: Some(sha256.to_owned()), ..package });
        }
        for layer in &inputs.layers {
            for (path, digest) in self.files_of_layer(layer)? {
                bom.add(Component::file(&path, &digest.to_string()));
            }
        }
        let within = |path: &String| [Component::file(path, "").reference()].into();
        for (path, key) in &inputs.libraries {
            let entry = self.result(key)?;
            for (name_and_version, licence) in &entry.crates {
                let [name, version] = words(name_and_version);
                let package = Component::package(name, Some(version), purl("cargo", "", name, Some(version), &[]));
                let checksum = entry.inputs.get(&format!("locked: {name_and_version}"));
                let licence = Some(licence.clone()).filter(|it| !it.is_empty());
                // Of a Git package the lock file has the commit, of one beside ours nothing.
                let sha256 = checksum.filter(|it| it.len() == 64).cloned();
                bom.add(Component { licence, sha256, within: within(path), ..package });
            }
        }
        for (path, key) in &inputs.binaries {
            let entry = self.result(key)?;
            for output in &entry.outputs {
                let info = buildinfo::of_file(&self.store.file_of(&entry, output))?;
                let standard = buildinfo::Module { path: "stdlib".to_owned(), version: Some(info.go) };
                for module in info.modules.iter().chain([&standard]) {
                    let version = module.version.as_deref();
                    let package =
                        Component::package(&module.path, version, purl("golang", "", &module.path, version, &[]));
                    bom.add(Component { within: within(path), ..package });
                }
            }
        }
        Ok(bom)
    }

    /// A base from a registry with the packages that it says to hold; where it says nothing, that stands there.
    fn add_base(&self, bom: &mut Bom, name: &str, digest: &str, layers: &[Key]) -> Result<()> {
        let system = self.system(layers)?;
        let base = Component::package(name, Some(digest), base_purl(name, digest));
        let packages: Vec<_> = system.packages.values().flatten().collect();
        let note = packages.is_empty().then_some("it names no packages: what it holds is not listed here");
        let within = BTreeSet::from([base.reference()]);
        bom.add(Component { note, ..base });
        let (distribution, release) = system.release.unwrap_or_default();
        for package in packages {
            let mut qualifiers = vec![("arch", package.architecture.as_str())];
            qualifiers.extend(Some(("distro", release.as_str())).filter(|(_, release)| !release.is_empty()));
            let purl = purl("deb", &distribution, &package.name, Some(&package.version), &qualifiers);
            let package = Component::package(&package.name, Some(&package.version), purl);
            bom.add(Component { within: within.clone(), ..package });
        }
        Ok(())
    }

    /// What a finished step says about an image, attached to it.
    pub(super) fn referrers(&self, step: &Step, image: &Descriptor) -> Result<Vec<Referrer>> {
        let entry = step.entry.as_ref().ok_or_else(|| Error::bug(tr!("{id} was not made", id = step.id)))?;
        let attach = |(path, media_type): &(&str, &str)| {
            let document = files::read(&self.file(entry, path)?)?;
            let predicate = (PREDICATE_TYPE.to_owned(), attest::PREDICATE_TYPE.to_owned());
            let annotations = Annotations::from_iter((*media_type == attest::IN_TOTO).then_some(predicate));
            Ok(Referrer::new(image, media_type, document, annotations))
        };
        DOCUMENTS.iter().map(attach).collect()
    }
}

/// An image of a registry, by the name of its repository with the host, and the digest of its manifest.
fn base_purl(name: &str, digest: &str) -> String {
    let leaf = name.rsplit('/').next().unwrap_or(name);
    purl("oci", "", leaf, Some(digest), &[("repository_url", name)])
}

fn step_image(step: &Step) -> Option<Key> {
    match &step.inputs {
        Some(Inputs::Attestation(inputs)) => inputs.image,
        _ => None,
    }
}

/// The words of a pin as a key has it.
fn words<const N: usize>(text: &str) -> [&str; N] {
    let mut words = text.split(' ');
    [(); N].map(|()| words.next().unwrap_or_default())
}

fn provenance(inputs: &Attestation, subject: Subject) -> Provenance {
    let material = |name: &str, uri: Option<String>, digest: Option<(&'static str, &str)>| Material {
        name: name.to_owned(),
        uri,
        digest: digest.filter(|(_, it)| !it.is_empty()).map(|(algorithm, it)| (algorithm, it.to_owned())),
    };
    let mut materials = Vec::new();
    materials.extend(inputs.commit.as_ref().map(|commit| material("source", None, Some(("gitCommit", commit)))));
    materials
        .extend(inputs.locks.iter().map(|(path, digest)| material(path, None, Some(("sha256", &digest.to_string())))));
    for (name, pin) in &inputs.packages {
        let [version, architecture, sha256] = words(pin);
        let qualifiers = [("arch", architecture), ("distro", inputs.suite.as_str())];
        materials.push(material(
            name,
            Some(purl("deb", "debian", name, Some(version), &qualifiers)),
            Some(("sha256", sha256)),
        ));
    }
    if let Some((name, digest)) = &inputs.base {
        let sha256 = digest.trim_start_matches("sha256:");
        materials.push(material(name, Some(base_purl(name, digest)), Some(("sha256", sha256))));
    }
    for (project, pin) in &inputs.wheels {
        let [filename, sha256] = words(pin);
        let version = wheel::version(filename);
        materials.push(material(
            filename,
            Some(purl("pypi", "", project, Some(&version), &[])),
            Some(("sha256", sha256)),
        ));
    }
    for (tool, digest) in [("rustc", "gitCommit"), ("go", "sha256")] {
        let Some(text) = inputs.toolchains.get(tool) else { continue };
        let [version, identity] = words(text);
        materials.push(material(tool, Some(purl("generic", "", tool, Some(version), &[])), Some((digest, identity))));
    }
    let mut external: BTreeMap<_, _> = inputs.chosen.clone();
    external.extend([("image", inputs.name.clone()), ("platform", inputs.platform.replace('-', "/"))]);
    let steps = |kind: &str, keys: &BTreeMap<String, Key>| {
        keys.iter().map(|(path, key)| (format!("{kind}:{path}"), key.to_string())).collect::<Vec<_>>()
    };
    let mut internal: BTreeMap<String, String> = [
        ("sourceDateEpoch".to_owned(), inputs.created_seconds.to_string()),
        ("checkout".to_owned(), if inputs.commit.is_some() { "committed" } else { "modified" }.to_owned()),
    ]
    .into();
    internal.extend(steps("library", &inputs.libraries));
    internal.extend(steps("binary", &inputs.binaries));
    internal
        .extend(["cc", "libc"].into_iter().filter_map(|it| Some((it.to_owned(), inputs.toolchains.get(it)?.clone()))));
    Provenance { subject, external, internal, materials }
}
