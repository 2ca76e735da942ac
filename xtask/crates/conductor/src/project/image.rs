//! `[image.NAME]`: what a container image is made of, as data.

use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Image {
    /// What its layers lie on; none: nothing.
    pub base: Option<Base>,
    /// The lowest first. What changes most often belongs last: only the layers above a change are made and sent again.
    pub layer: Vec<Layer>,
    /// Words of the process; arguments of `docker run` are added to them.
    pub entrypoint: Vec<String>,
    /// Arguments where `docker run` names none.
    #[serde(default)]
    pub arguments: Vec<String>,
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// TCP ports that the process listens on.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// `UID:GID`; an image that runs as root has to say so.
    pub user: String,
    #[serde(default = "root")]
    pub working_directory: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How large its compressed layers may be in all; a larger image is refused.
    pub max_megabytes: Option<u64>,
}

fn root() -> String {
    "/".to_owned()
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Base {
    /// A `[debian-base]` of this project.
    Debian(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Layer {
    pub name: String,
    pub files: Vec<FileSet>,
}

/// Files of one source at one place of the image, owned by root.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FileSet {
    pub from: Content,
    /// Absolute path in the image; one that ends in `/` is a folder that keeps the names of what is put into it.
    pub to: String,
    /// Every user may execute the files.
    #[serde(default)]
    pub executable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Content {
    /// A native library of this project.
    Library(String),
    /// A Go binary of this project.
    Binary(String),
    /// Every file of a wheel set, its projects laid over each other.
    WheelSet(String),
    /// One file of a wheel set.
    Wheel { wheel_set: String, path: String },
    /// A file of the checkout.
    Path(String),
    /// What one of this project's Go binaries prints; `reads` are the files of the checkout that it is told to read.
    Printed {
        binary: String,
        arguments: Vec<String>,
        #[serde(default)]
        reads: Vec<String>,
    },
}
