//! Planning decides, execution obeys: a [`Plan`] is a value with every `if` behind it. This module does no I/O; what it must know
//! of the store and of `dist/` it asks a [`View`].
//!
//! A Go binary's key needs the interface of the library that it links. While that library still has to be made, the
//! binary's step is *provisional*: it waits for the next round, in which the plan is made anew and knows.

mod images;
mod steps;

use crate::cache::key::{Inputs, Key};
use crate::cache::reason::Reason;
use crate::cache::store::{Entry, Lookup, Output};
use crate::error::Result;
use crate::facts::{Facts, Wants};
use crate::project::Project;
use crate::project::pins::{BaseImage, LayerPin};
use crate::registry::BaseReference;
use crate::report::{PlannedStep, Status};
use crate::settings::Settings;
use crate::toolchain::cross::Cross;
use crate::wheel::Interpreter;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

pub use images::{CODEC, codec_of, glibc_of, interpreter_of_base, placed};
pub use steps::{build, chosen_wheels, go_toolchain_pins, inputs_again, not_pinned, wheels_for, zig};

/// What a plan may know of the results that exist.
pub trait View {
    fn lookup(&self, key: &Key) -> Result<Lookup>;
    /// Whether `path` already holds this output.
    fn is_in_place(&self, path: &Path, output: &Output) -> bool;
    /// Inputs of the last result of this step in this checkout.
    fn last_inputs(&self, step: &str) -> Option<BTreeMap<String, String>>;
}

/// Everything that a plan is a function of.
pub struct Premise<'a> {
    pub settings: &'a Settings,
    pub project: &'a Project,
    pub facts: &'a Facts,
    pub wants: &'a Wants,
    /// Ignore known results, except those of the steps named here.
    pub fresh: Option<&'a HashSet<String>>,
    pub view: &'a dyn View,
}

#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In an order in which each step stands after those that it needs.
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub struct Step {
    /// `kind:name`
    pub id: String,
    pub work: Work,
    pub needs: Vec<String>,
    /// `None`: depends on a step that has to run first, or has no result of its own.
    pub inputs: Option<Inputs>,
    /// Of these inputs.
    pub key: Option<Key>,
    pub status: Status,
    pub reason: Option<Reason>,
    /// Every input that differs from the last result in this checkout.
    pub changed: Vec<Reason>,
    /// Decided in the next round.
    pub provisional: bool,
    /// To be made although its result may be known.
    pub anew: bool,
    /// Where each output belongs, once they are known.
    pub place: Place,
    /// The result, where the store has it.
    pub entry: Option<Entry>,
    /// Files of the store to be set aside first.
    pub broken: Vec<PathBuf>,
    /// What a binary links and what a layer holds, as the store has them.
    pub linked: Vec<Entry>,
}

/// Where a result goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Used in the store.
    Store,
    Folder(PathBuf),
}

impl Place {
    pub fn of(&self, output: &Output) -> Option<PathBuf> {
        match self {
            Self::Store => None,
            Self::Folder(folder) => Some(folder.join(&output.path)),
        }
    }
}

/// What a step does, by the name of what it makes; the details are in the declaration, the pins and the facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    GoToolchain {
        version: String,
        platform: String,
    },
    GoModules {
        binary: String,
        cross: Option<Cross>,
    },
    /// `cross`: for another platform than this machine's, here and below.
    NativeLibrary {
        name: String,
        cross: Option<Cross>,
    },
    GoBinary {
        name: String,
        cross: Option<Cross>,
    },
    /// For the interpreter of this machine, or of the base of an image.
    WheelSet {
        name: String,
        interpreter: Option<Interpreter>,
    },
    Model {
        name: String,
    },
    /// The lowest layer of images, out of Debian packages.
    DebianBase {
        name: String,
        platform: String,
    },
    /// The configuration of a base from a registry.
    RegistryBase {
        reference: BaseReference,
        image: BaseImage,
    },
    /// What is known of a layer of such a base.
    BaseLayer {
        reference: BaseReference,
        layer: LayerPin,
    },
    Layer {
        image: String,
        layer: String,
        cross: Option<Cross>,
    },
    Image {
        name: String,
    },
    /// Bills of materials and provenance of an image.
    Attestation {
        image: String,
    },
}

/// How a step for another platform is told from the one for this machine.
pub fn named_for(name: &str, cross: Option<&Cross>) -> String {
    cross.map_or_else(|| name.to_owned(), |cross| format!("{name}@{}", cross.platform.name()))
}

impl Work {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::GoToolchain { .. } => "toolchain",
            Self::GoModules { .. } => "go-modules",
            Self::NativeLibrary { .. } => "native-library",
            Self::GoBinary { .. } => "go-binary",
            Self::WheelSet { .. } => "wheel-set",
            Self::Model { .. } => "model",
            Self::DebianBase { .. } => "debian-base",
            Self::RegistryBase { .. } => "registry-base",
            Self::BaseLayer { .. } => "base-layer",
            Self::Layer { .. } => "layer",
            Self::Image { .. } => "image",
            Self::Attestation { .. } => "attestation",
        }
    }
}

impl Step {
    /// A step that nobody needs; the start of every other.
    fn skipped(work: Work, name: &str) -> Self {
        Self {
            id: format!("{}:{name}", work.kind()),
            work,
            needs: Vec::new(),
            inputs: None,
            key: None,
            status: Status::Skip,
            reason: None,
            changed: Vec::new(),
            provisional: false,
            anew: false,
            place: Place::Store,
            entry: None,
            broken: Vec::new(),
            linked: Vec::new(),
        }
    }

    /// The inputs as an entry keeps them; none for a step without a key.
    pub fn flat_inputs(&self) -> BTreeMap<String, String> {
        self.inputs.as_ref().map(Inputs::flat).unwrap_or_default()
    }

    pub fn planned(&self, commands: Vec<String>) -> PlannedStep {
        PlannedStep {
            id: self.id.clone(),
            kind: self.work.kind(),
            key: self.key,
            status: self.status,
            reason: self.reason.clone(),
            changed: self.changed.clone(),
            provisional: self.provisional,
            commands,
        }
    }
}

impl Plan {
    pub fn step(&self, id: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.id == id)
    }

    /// Leaves one step and those that it needs.
    pub fn keep(&mut self, id: &str) {
        let mut kept: Vec<String> = vec![id.to_owned()];
        for step in self.steps.iter().rev() {
            if kept.contains(&step.id) {
                kept.extend(step.needs.iter().cloned());
            }
        }
        self.steps.retain(|step| kept.contains(&step.id));
    }

    pub fn is_settled(&self) -> bool {
        self.steps.iter().all(|step| !step.provisional)
    }

    /// Steps that have to fetch or to make something.
    pub fn running(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.status == Status::Run)
    }
}
