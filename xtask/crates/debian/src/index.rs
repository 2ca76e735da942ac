//! The packages that a suite has: its `Packages` files, for one architecture.
//!
//! Owns: which of several versions is the candidate, and who provides a name. Never: hold what no resolution asks for; an
//! index of Debian has sixty thousand packages.
//! Source: Debian repository format, "Packages Indices"; apt's policy where all suites have one priority: the newest.

use crate::control::{Paragraph, Paragraphs};
use crate::error::{Error, Result};
use crate::relation::{Clause, Relation, clauses, is_package_name};
use crate::version::Version;
use std::collections::BTreeMap;
use std::io::BufRead;

/// A package as an index describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: Version,
    /// Of the package itself: `amd64`, `all`.
    pub architecture: String,
    /// Below the archive: `pool/main/g/glibc/libc6_2.36-9_amd64.deb`.
    pub path: String,
    /// 64 lower-case hex digits.
    pub sha256: String,
    pub size_bytes: u64,
    /// Which of the archives has it, as [`Index::read`] was told.
    pub archive: String,
    /// Fields as they stand: few of them are ever read.
    depends: String,
    pre_depends: String,
    conflicts: String,
    breaks: String,
    provides: Vec<Relation>,
}

impl Package {
    /// What it cannot be without, `Pre-Depends` first.
    ///
    /// # Errors: Malformed.
    pub fn needs(&self) -> Result<Vec<Clause>> {
        self.fields([("Pre-Depends", &self.pre_depends), ("Depends", &self.depends)])
    }

    /// What it cannot be beside.
    ///
    /// # Errors: Malformed.
    pub fn excludes(&self) -> Result<Vec<Clause>> {
        self.fields([("Conflicts", &self.conflicts), ("Breaks", &self.breaks)])
    }

    fn fields(&self, fields: [(&str, &str); 2]) -> Result<Vec<Clause>> {
        let [first, second] = fields.map(|(name, text)| clauses(&format!("{name} of {}", self.name), text));
        Ok(first?.into_iter().chain(second?).collect())
    }

    /// Whether it is what the relation asks for, by its own name or by one that it provides.
    pub fn satisfies(&self, relation: &Relation, architecture: &str) -> bool {
        let foreign = |it: &String| !["any", "native", "all", architecture].contains(&it.as_str());
        if relation.qualifier.as_ref().is_some_and(foreign) {
            return false;
        }
        let provided = |it: &Relation| {
            it.name == relation.name && relation.accepts(it.version.as_ref().map(|(_, version)| version))
        };
        (self.name == relation.name && relation.accepts(Some(&self.version))) || self.provides.iter().any(provided)
    }

    fn read(subject: &str, archive: &str, paragraph: &Paragraph) -> Result<Self> {
        let name = paragraph.need(subject, "Package")?;
        let subject = format!("{name} in {subject}");
        let malformed = |why: String| Error::malformed(&subject, why);
        if !is_package_name(name) {
            return Err(malformed("it is no name of a package".to_owned()));
        }
        let need = |field| paragraph.need(&subject, field);
        let text = |field| paragraph.get(field).unwrap_or_default().to_owned();
        let (path, sha256) = (need("Filename")?, need("SHA256")?);
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !path.split('/').all(plain) || path.contains(|c: char| c.is_whitespace() || "\\?#%\"".contains(c)) {
            return Err(malformed(format!("its Filename `{path}` is no path below an archive")));
        }
        if sha256.len() != 64 || !sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(malformed(format!("its SHA256 is `{sha256}`")));
        }
        let size = need("Size")?;
        let provides = clauses(&format!("Provides of {name}"), &text("Provides"))?;
        Ok(Self {
            name: name.to_owned(),
            version: Version::parse(need("Version")?)?,
            architecture: need("Architecture")?.to_owned(),
            path: path.to_owned(),
            sha256: sha256.to_owned(),
            size_bytes: size.parse().map_err(|_| malformed(format!("its Size is `{size}`")))?,
            archive: archive.to_owned(),
            depends: text("Depends"),
            pre_depends: text("Pre-Depends"),
            conflicts: text("Conflicts"),
            breaks: text("Breaks"),
            provides: provides.into_iter().flatten().collect(),
        })
    }
}

/// The candidates of all suites together.
#[derive(Debug)]
pub struct Index {
    pub architecture: String,
    packages: BTreeMap<String, Package>,
    /// Name → who provides it, by name.
    providers: BTreeMap<String, Vec<String>>,
}

impl Index {
    pub fn new(architecture: &str) -> Self {
        Self { architecture: architecture.to_owned(), packages: BTreeMap::new(), providers: BTreeMap::new() }
    }

    /// Takes in a `Packages` file; of two versions of one package the newer stays, of equal ones the first.
    /// `subject` names the file in messages, `archive` is kept with each package.
    ///
    /// # Errors: Malformed.
    pub fn read(&mut self, subject: &str, archive: &str, text: impl BufRead) -> Result<()> {
        for paragraph in Paragraphs::new(subject, text) {
            let package = Package::read(subject, archive, &paragraph?)?;
            if ![self.architecture.as_str(), "all"].contains(&package.architecture.as_str()) {
                let why = format!("{} is for {}, not {}", package.name, package.architecture, self.architecture);
                return Err(Error::malformed(subject, why));
            }
            match self.packages.get(&package.name) {
                Some(old) if old.version >= package.version => {}
                _ => {
                    for provided in &package.provides {
                        let providers = self.providers.entry(provided.name.clone()).or_default();
                        if let Err(at) = providers.binary_search(&package.name) {
                            providers.insert(at, package.name.clone());
                        }
                    }
                    self.packages.insert(package.name.clone(), package);
                }
            }
        }
        Ok(())
    }

    pub fn get(&self, name: &str) -> Option<&Package> {
        self.packages.get(name)
    }

    /// Every candidate that is what the relation asks for: the package of that name first, then who provides it, by name.
    pub fn candidates(&self, relation: &Relation) -> Vec<&Package> {
        let named = std::iter::once(&relation.name).filter_map(|name| self.packages.get(name));
        let providers = self.providers.get(&relation.name).into_iter().flatten().filter(|name| **name != relation.name);
        let all = named.chain(providers.filter_map(|name| self.packages.get(name)));
        all.filter(|package| package.satisfies(relation, &self.architecture)).collect()
    }

    /// `libc6 2.36-9` of each package of the clause's names, whether it satisfies it or not.
    pub(crate) fn found(&self, clause: &[Relation]) -> Vec<String> {
        let found = clause.iter().filter_map(|it| self.packages.get(&it.name));
        let mut found: Vec<_> = found.map(|it| format!("{} {}", it.name, it.version)).collect();
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> String {
        let hash = "a".repeat(64);
        format!("{text}\nFilename: pool/x.deb\nSize: 1\nSHA256: {hash}\n\n")
    }

    fn read(text: &str) -> Result<Index> {
        let mut index = Index::new("amd64");
        index.read("x", "base", text.as_bytes()).map(|()| index)
    }

    #[test]
    fn the_newest_version_of_all_suites_is_the_candidate() {
        let mut index = read(&entry("Package: aa\nVersion: 1\nArchitecture: amd64\nProvides: pp (= 1)")).unwrap();
        let newer = entry("Package: aa\nVersion: 1.1\nArchitecture: all\nProvides: qq");
        let older = entry("Package: aa\nVersion: 1.0\nArchitecture: all");
        index.read("y", "security", (newer + &older).as_bytes()).unwrap();
        let aa = index.get("aa").unwrap();
        assert_eq!((aa.version.as_str(), aa.archive.as_str(), aa.architecture.as_str()), ("1.1", "security", "all"));
        let candidates = |text: &str| {
            let clauses = clauses("x", text).unwrap();
            index.candidates(&clauses[0][0]).iter().map(|it| it.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(candidates("qq"), ["aa"]);
        assert_eq!(candidates("qq (>= 1)"), [""; 0], "provided without a version");
        assert_eq!(candidates("pp"), [""; 0], "the candidate provides it no more");
        assert_eq!(candidates("aa:any (>= 1.1)"), ["aa"]);
        assert_eq!(candidates("aa:arm64"), [""; 0]);
    }

    #[test]
    fn an_index_that_is_not_sound_is_refused() {
        let sound = entry("Package: aa\nVersion: 1\nArchitecture: amd64");
        assert!(read(&sound).is_ok());
        for (from, to) in [
            ("Package: aa", "Package: ../aa"),
            ("Package: aa\n", ""),
            ("Version: 1", "Version: "),
            ("Architecture: amd64", "Architecture: arm64"),
            ("pool/x.deb", "/pool/x.deb"),
            ("pool/x.deb", "pool/../../x.deb"),
            ("pool/x.deb", "pool/x deb"),
            ("pool/x.deb", "pool/%2e%2e/x.deb"),
            ("Size: 1", "Size: -1"),
            ("SHA256: a", "SHA256: A"),
            ("SHA256: a", "SHA256: "),
            ("Version: 1", "Version: 1\nProvides: x"),
        ] {
            assert!(read(&sound.replacen(from, to, 1)).is_err(), "{to}");
        }
    }
}
