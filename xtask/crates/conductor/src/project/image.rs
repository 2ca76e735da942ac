//! `[image.NAME]`: what a container image is made of, as data.

use crate::platform::Platform;
use crate::registry::BaseReference;
use crate::tr;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
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
    /// Words of the process; arguments of `docker run` are added to them [default: of a base from a registry its own]
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Arguments where `docker run` names none [default: with the entrypoint of a base its arguments too]
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Added to that of a base from a registry, as `ports` and `labels` are.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// TCP ports that the process listens on.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// `UID:GID`; an image that runs as root has to say so [default: of a base from a registry its own]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub user: Option<Owner>,
    /// [default: of a base from a registry its own, else `/`]
    pub working_directory: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How its layers are compressed, one of `gzip`, `gzip-9`, `zstd`, `zstd-19` with any level between [default: gzip-6, which
    /// every engine reads]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub codec: Option<Codec>,
    /// What it can be made for, as `linux/arm64`; anything else is refused before work begins [default: every platform]
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub platforms: Vec<Platform>,
    /// How large its compressed layers may be in all; a larger image is refused.
    pub max_megabytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename_all = "kebab-case"))]
pub enum Base {
    /// A `[debian-base]` of this project.
    Debian(String),
    /// An image of a registry, `registry.example/team/base:1` or `…/base@sha256:…`, pinned in `xtask.lock`.
    #[cfg_attr(test, schemars(untagged, with = "String"))]
    Registry(BaseReference),
}

impl<'de> Deserialize<'de> for Base {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrTable;

        impl<'de> Visitor<'de> for TextOrTable {
            type Value = Base;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("{ debian = \"NAME\" } or \"HOST/NAME:TAG\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Base, E> {
                BaseReference::try_from(text.to_owned()).map(Base::Registry).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Base, A::Error> {
                #[derive(Deserialize)]
                #[serde(rename_all = "kebab-case")]
                enum Table {
                    Debian(String),
                }
                let Table::Debian(name) = Table::deserialize(MapAccessDeserializer::new(table))?;
                Ok(Base::Debian(name))
            }
        }

        deserializer.deserialize_any(TextOrTable)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Layer {
    pub name: String,
    pub files: Vec<FileSet>,
    /// Of this layer alone [default: that of the image]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub codec: Option<Codec>,
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

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Codec(pub oci::Codec);

impl TryFrom<String> for Codec {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let codec = match text.as_str() {
            "gzip" => Some(oci::Codec::default()),
            // As fast as gzip is slow, and smaller.
            "zstd" => Some(oci::Codec::Zstd(3)),
            text => text.parse().ok().filter(|codec| *codec != oci::Codec::Tar),
        };
        codec.map(Self).ok_or_else(|| tr!("`{text}` is not gzip, gzip-1 to gzip-9, zstd, or zstd-1 to zstd-19", text))
    }
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

impl Image {
    /// The image of a registry that it is built on.
    pub fn registry_base(&self) -> Option<&BaseReference> {
        match &self.base {
            Some(Base::Registry(reference)) => Some(reference),
            _ => None,
        }
    }

    /// The `[debian-base]` that it is built on.
    pub fn debian_base(&self) -> Option<&String> {
        match &self.base {
            Some(Base::Debian(name)) => Some(name),
            _ => None,
        }
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
