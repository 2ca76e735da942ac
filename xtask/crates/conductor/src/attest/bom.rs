//! A bill of materials, before it takes a form.
//!
//! Owns: components, their package URLs, an identity that follows from the image. Never: know a format.
//! Rules: the purl specification, PURL-SPECIFICATION.rst and PURL-TYPES.rst.

use super::FORMAT;
use crate::digest::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The image that a document is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub name: String,
    /// Of its manifest.
    pub digest: oci::Digest,
    /// Go's name: `amd64`.
    pub architecture: String,
    /// Seconds since 1970, `SOURCE_DATE_EPOCH`: as in the image.
    pub created_seconds: i64,
}

impl Subject {
    pub fn purl(&self) -> String {
        purl("oci", "", &self.name, Some(&self.digest.to_string()), &[("arch", &self.architecture)])
    }

    /// An identity for a document of one form: a UUID of version 8, whose bits are ours to choose (RFC 9562), out of the image's digest.
    pub fn uuid(&self, form: &str) -> String {
        let mut hex: Vec<char> =
            Digest::of(format!("{form} {FORMAT} {}", self.digest).as_bytes()).to_string().chars().collect();
        hex[12] = '8';
        hex[16] = '8';
        let part = |from: usize, to: usize| hex[from..to].iter().collect::<String>();
        format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A package that is linked, unpacked or interpreted.
    Library,
    /// A file of our layers.
    File,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    pub kind: Kind,
    /// Of a file its path in the image.
    pub name: String,
    pub version: Option<String>,
    pub purl: Option<String>,
    /// An SPDX licence expression, where the package itself has one.
    pub licence: Option<String>,
    /// In hexadecimal: of a file its content, of a package the archive that it came in.
    pub sha256: Option<String>,
    /// What is not known of it.
    pub note: Option<&'static str>,
    /// References of the components that hold it; none: the image.
    pub within: BTreeSet<String>,
}

impl Component {
    pub fn file(path: &str, sha256: &str) -> Self {
        let (name, sha256) = (path.to_owned(), Some(sha256.to_owned()));
        Self {
            kind: Kind::File,
            name,
            version: None,
            purl: None,
            licence: None,
            sha256,
            note: None,
            within: BTreeSet::new(),
        }
    }

    pub fn package(name: &str, version: Option<&str>, purl: String) -> Self {
        let (name, version, purl) = (name.to_owned(), version.map(str::to_owned), Some(purl));
        Self {
            kind: Kind::Library,
            name,
            version,
            purl,
            licence: None,
            sha256: None,
            note: None,
            within: BTreeSet::new(),
        }
    }

    /// By what other components know it.
    pub fn reference(&self) -> String {
        self.purl.clone().unwrap_or_else(|| format!("file:{}", self.name))
    }
}

/// What an image holds. The same package in two files is one component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bom {
    pub subject: Subject,
    components: BTreeMap<String, Component>,
}

impl Bom {
    pub fn new(subject: Subject) -> Self {
        Self { subject, components: BTreeMap::new() }
    }

    pub fn add(&mut self, component: Component) {
        let within = component.within.clone();
        self.components.entry(component.reference()).or_insert(component).within.extend(within);
    }

    /// By reference.
    pub fn components(&self) -> impl Iterator<Item = (&String, &Component)> {
        self.components.iter()
    }

    /// Who holds whom, by reference; the image under its own.
    pub fn held(&self) -> BTreeMap<String, BTreeSet<&String>> {
        let root = BTreeSet::from([self.subject.purl()]);
        let mut held: BTreeMap<String, BTreeSet<&String>> = BTreeMap::new();
        for (reference, component) in &self.components {
            held.entry(reference.clone()).or_default();
            for by in if component.within.is_empty() { &root } else { &component.within } {
                held.entry(by.clone()).or_default().insert(reference);
            }
        }
        held
    }
}

/// A package URL in its canonical form. `namespace` and `name` may be paths.
pub fn purl(kind: &str, namespace: &str, name: &str, version: Option<&str>, qualifiers: &[(&str, &str)]) -> String {
    // What the types of packages in our images say of letters; crates keep theirs.
    let folded = |text: &str| if kind == "cargo" { text.to_owned() } else { text.to_lowercase() };
    let mut purl = format!("pkg:{kind}");
    for part in namespace.split('/').chain(name.split('/')).filter(|part| !part.is_empty()) {
        purl.push('/');
        purl.push_str(&encoded(&folded(part)));
    }
    if let Some(version) = version {
        purl.push('@');
        purl.push_str(&encoded(version));
    }
    for (index, (key, value)) in qualifiers.iter().enumerate() {
        purl.push(if index == 0 { '?' } else { '&' });
        let _ = write!(purl, "{key}={}", encoded(value));
    }
    purl
}

/// "Character encoding" of the specification: a colon stays.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => encoded.push(byte.into()),
            other => drop(write!(encoded, "%{other:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The expected texts are those of packageurl-python 0.17 for the same parts.
    #[test]
    fn package_urls_are_in_their_canonical_form() {
        let cases = [
            (
                purl("deb", "debian", "libstdc++6", Some("12.2.0-14+deb12u1"), &[("arch", "amd64")]),
                "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64",
            ),
            (
                purl("deb", "debian", "x", Some("1:2~rc1"), &[("arch", "all"), ("distro", "bookworm")]),
                "pkg:deb/debian/x@1:2~rc1?arch=all&distro=bookworm",
            ),
            (
                purl("golang", "", "github.com/BurntSushi/toml", Some("v1.5.0+incompatible"), &[]),
                "pkg:golang/github.com/burntsushi/toml@v1.5.0%2Bincompatible",
            ),
            (purl("cargo", "", "Inflector", Some("0.11.4"), &[]), "pkg:cargo/Inflector@0.11.4"),
            (purl("pypi", "", "pydantic-core", Some("2.41.5"), &[]), "pkg:pypi/pydantic-core@2.41.5"),
            (purl("golang", "", "stdlib", None, &[]), "pkg:golang/stdlib"),
        ];
        for (made, expected) in cases {
            assert_eq!(made, expected);
        }
    }

    #[test]
    fn a_package_in_two_files_is_one_component_that_both_hold() {
        let mut bom = Bom::new(subject());
        let within = |file: &str| Component {
            within: [file.to_owned()].into(),
            ..Component::package("a", Some("1"), purl("cargo", "", "a", Some("1"), &[]))
        };
        ["file:/x", "file:/y"].iter().for_each(|file| bom.add(within(file)));
        bom.add(Component::file("/x", "00"));
        assert_eq!(bom.components().count(), 2);
        let a = "pkg:cargo/a@1".to_owned();
        let held = bom.held();
        assert_eq!(held["file:/x"], [&a].into());
        assert_eq!(held["file:/y"], [&a].into());
        assert_eq!(held[&bom.subject.purl()], [&"file:/x".to_owned()].into());
    }

    #[test]
    fn an_identity_follows_from_the_image_and_is_a_uuid() {
        let uuid = subject().uuid("cyclonedx");
        assert_eq!(uuid, subject().uuid("cyclonedx"));
        assert_ne!(uuid, subject().uuid("spdx"));
        assert_eq!((uuid.len(), &uuid[14..15], &uuid[19..20]), (36, "8", "8"));
    }

    pub fn subject() -> Subject {
        Subject {
            name: "extproc".into(),
            digest: oci::Digest::of(b"manifest"),
            architecture: "amd64".into(),
            created_seconds: 1_709_210_096,
        }
    }
}
