//! What this machine and this checkout are, as far as a plan needs to know: plain values, gathered once by [`gather`].
//!
//! Facts say what *is*; they decide nothing. Every answer of a tool is remembered by the stat of that tool, so a no-op starts no
//! process at all.

mod native;
mod probe;

pub use native::label;
pub use probe::{Probe, install};

use crate::cache::stat::{Snapshot, StatIndex};
use crate::digest::Digest;
use crate::error::Result;
use crate::project::Project;
use crate::settings::Settings;
use crate::toolchain::cross::Cross;
use crate::wheel::Interpreter;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Which facts are wanted; nothing else is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    pub libraries: BTreeSet<String>,
    pub binaries: BTreeSet<String>,
    pub wheel_sets: BTreeSet<String>,
    pub models: BTreeSet<String>,
    pub images: BTreeSet<String>,
    /// For this machine's platform, beside those of the images.
    pub bases: BTreeSet<String>,
    /// A Go toolchain, whatever it is for.
    pub go: bool,
    /// Libraries, binaries and images are made for another platform than this machine's.
    pub cross: Option<Cross>,
    /// What of these is made for this machine all the same: programs whose output goes into images.
    pub here: Compiled,
    /// Cargo feature set and profile of the libraries.
    pub features: String,
    pub profile: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    pub libraries: BTreeSet<String>,
    pub binaries: BTreeSet<String>,
}

impl Wants {
    /// Libraries for whichever platform.
    fn all_libraries(&self) -> BTreeSet<&String> {
        self.libraries.union(&self.here.libraries).collect()
    }

    fn all_binaries(&self) -> BTreeSet<&String> {
        self.binaries.union(&self.here.binaries).collect()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub rust: Option<Rust>,
    pub compiler: Option<Compiler>,
    pub go: Option<Go>,
    pub python: Option<Python>,
    pub libraries: BTreeMap<String, Library>,
    pub binaries: BTreeMap<String, Binary>,
    /// Files of the checkout that go into images or are read for them, by their path in it.
    pub files: BTreeMap<String, Digest>,
    /// Where images are wanted: the commit that is checked out, unless something in the checkout differs from it.
    pub commit: Option<String>,
    /// Where images are wanted: the lock files of their parts, by their path in the checkout.
    pub locks: BTreeMap<String, Digest>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rust {
    pub cargo: PathBuf,
    pub rustc: PathBuf,
    /// `rustc -vV`, whole.
    pub version: String,
    /// `cargo -V`: cargo's own defaults and its `-C metadata` reach the bytes.
    pub cargo_version: String,
    /// `x86_64-unknown-linux-gnu`
    pub host: String,
    /// Where the sources of its standard library lie if they are installed; code of generics is then said to come from there.
    pub standard_sources: PathBuf,
    pub cargo_home: PathBuf,
    pub seen: Snapshot,
}

/// The C compiler that links, and the C library that it links against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    pub path: PathBuf,
    /// First lines of what compiler and linker say of themselves.
    pub version: String,
    pub libc: String,
    pub seen: Snapshot,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Go {
    /// On PATH and new enough.
    Installed { path: PathBuf, version: String },
    /// None on PATH, or an older one: the pinned toolchain is needed.
    Pinned { version: String, platform: String, passed_over: Option<String> },
}

impl Go {
    pub fn version(&self) -> &str {
        match self {
            Self::Installed { version, .. } | Self::Pinned { version, .. } => version,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Python {
    pub path: PathBuf,
    pub interpreter: Interpreter,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// As declared.
    pub name: String,
    /// Absolute folder of the package.
    pub folder: PathBuf,
    /// `libcandle_semantic_router.so`
    pub file: String,
    /// Name of the library target.
    pub target: String,
    pub sources: BTreeMap<String, Digest>,
    pub header: Digest,
    pub locked: BTreeMap<String, String>,
    /// Every registry package in the lock file → checksum: what the gateway checks crates against.
    pub checksums: BTreeMap<String, String>,
    /// Crate names of the package and of those that it reaches by path.
    pub crates: BTreeSet<String>,
    /// `file: key` → digest of each setting that decides code in the cargo configuration files in force.
    pub configuration: BTreeMap<String, Digest>,
    /// One of them has flags under `[target]`, which make cargo ignore those under `[build]`.
    pub target_rustflags: bool,
    /// Variables that the sources read at compile time, as declared.
    pub environment: Vec<String>,
    /// Those of them that name a file → its digest.
    pub environment_files: BTreeMap<String, Digest>,
    /// What was looked at for all of this.
    pub seen: Snapshot,
    /// The name given to `--features`, and the cargo features that it stands for.
    pub feature_set: String,
    pub cargo_features: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    pub folder: PathBuf,
    /// Path of each local module → its folder: that of the program, and those that stand for what it requires.
    pub modules: BTreeMap<String, PathBuf>,
    pub sources: BTreeMap<String, Digest>,
    /// Digest of the C files and archives that cgo may read from outside a package's folder, where a package imports "C".
    pub headers: Option<Digest>,
    /// Declared variables that name a file → its digest.
    pub environment_files: BTreeMap<String, Digest>,
    /// What was looked at for all of this.
    pub seen: Snapshot,
}

impl Facts {
    /// How everything looked that the facts about what is wanted came from.
    pub fn seen(&self, wants: &Wants) -> Snapshot {
        let mut all = Snapshot::default();
        let libraries = wants.libraries.iter().filter_map(|name| Some(&self.libraries.get(name)?.seen));
        let binaries = wants.binaries.iter().filter_map(|name| Some(&self.binaries.get(name)?.seen));
        let rust = self.rust.iter().filter(|_| !wants.libraries.is_empty()).map(|rust| &rust.seen);
        let compiler = self.compiler.iter().map(|compiler| &compiler.seen);
        libraries.chain(binaries).chain(rust).chain(compiler).for_each(|seen| all.add(seen.clone()));
        all
    }
}

/// Looks at the machine and the checkout.
pub fn gather(settings: &Settings, project: &Project, wants: &Wants, stats: &StatIndex) -> Result<Facts> {
    let probe = probe::Probe::new(settings, project, stats);
    let mut facts = Facts::default();
    let (libraries, binaries) = (wants.all_libraries(), wants.all_binaries());
    if !libraries.is_empty() || !binaries.is_empty() {
        facts.compiler = Some(probe.compiler()?);
    }
    if !libraries.is_empty() {
        let rust = probe.rust()?;
        if let Some(cross) = &wants.cross {
            probe.must_compile_for(&rust, cross.platform)?;
        }
        for name in libraries {
            facts.libraries.insert(name.clone(), probe.library(name, &rust, wants)?);
        }
        facts.rust = Some(rust);
    }
    if wants.go || !binaries.is_empty() {
        facts.go = Some(probe.go()?);
        let go = probe.seen();
        for name in binaries {
            let mut binary = probe.binary(name)?;
            binary.seen.add(go.clone());
            facts.binaries.insert(name.clone(), binary);
        }
    }
    if !wants.images.is_empty() {
        facts.commit = probe.commit();
        facts.locks = probe.locks(wants)?;
    }
    for name in &wants.images {
        for path in project.files_of(name) {
            facts.files.insert(path.to_owned(), probe.file(name, path)?);
        }
    }
    if !wants.wheel_sets.is_empty() {
        facts.python = Some(probe.python()?);
    }
    Ok(facts)
}
