//! `[image.NAME]`: what a container image is made of, as data.

use crate::platform::Platform;
use crate::tr;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;

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
    #[cfg_attr(test, schemars(with = "String"))]
    pub user: Owner,
    #[serde(default = "root")]
    pub working_directory: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What it can be made for, as `linux/arm64`; anything else is refused before work begins [default: every platform]
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub platforms: Vec<Platform>,
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

/// Files of one source at one place of the image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FileSet {
    pub from: Content,
    /// Absolute path in the image; one that ends in `/` is a folder that keeps the names of what is put into it.
    pub to: String,
    /// Permission bits, as `0755` [default: 0644; of a Go binary 0755, of a wheel set what its wheels say]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub mode: Option<FileMode>,
    /// `UID:GID` [default: 0:0, so that the process of another user cannot change them]
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "String"))]
    pub owner: Owner,
}

/// Permission bits without setuid, setgid and sticky.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct FileMode(u32);

impl FileMode {
    pub const FILE: Self = Self(0o644);
    pub const PROGRAM: Self = Self(0o755);

    pub fn of_output(executable: bool) -> Self {
        if executable { Self::PROGRAM } else { Self::FILE }
    }

    pub fn bits(self) -> u32 {
        self.0
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl TryFrom<String> for FileMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.strip_prefix('0').filter(|digits| digits.len() == 3);
        let bits = digits.and_then(|digits| u32::from_str_radix(digits, 8).ok());
        bits.map(Self).ok_or_else(|| tr!("`{text}` is no mode like 0644 or 0755", text))
    }
}

/// Numbers, since a name may mean somebody else in another base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

impl TryFrom<String> for Owner {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let id = |word: &str| word.parse().ok().filter(|_| word.bytes().all(|byte| byte.is_ascii_digit()));
        let ids = text.split_once(':').and_then(|(uid, gid)| Some(Self { uid: id(uid)?, gid: id(gid)? }));
        ids.ok_or_else(|| tr!("`{text}` is not UID:GID in numbers, as 65532:65532", text))
    }
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
