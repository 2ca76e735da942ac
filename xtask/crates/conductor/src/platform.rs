//! The platforms that something can be made for, by the names that tools give them.

use crate::tr;
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;

/// What machines of a kind are called. Written `linux/arm64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum Platform {
    Amd64,
    Arm64,
}

impl Platform {
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// This machine's, for which nothing has to be said.
    pub fn here() -> Option<Self> {
        let linux = cfg!(target_os = "linux");
        Self::ALL.into_iter().find(|it| linux && it.machine_name() == std::env::consts::ARCH)
    }

    /// `arm64`, as Go, Debian and OCI say.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// `aarch64`, as Rust, zig, wheels and the kernel say.
    pub fn machine_name(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// `linux-arm64`: in names of steps, folders and pins.
    pub fn name(self) -> String {
        format!("linux-{}", self.architecture())
    }

    /// Of this machine, which may be one that nothing can be made for elsewhere.
    pub fn name_here() -> String {
        Self::here().map_or_else(|| format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH), Self::name)
    }

    /// That one of pins has.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    pub fn rust_target(self) -> String {
        format!("{}-unknown-linux-gnu", self.machine_name())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture())
    }
}

impl TryFrom<String> for Platform {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|it| it.to_string() == text).ok_or_else(|| {
            let known = Self::ALL.map(|it| it.to_string()).join(", ");
            tr!("there is no platform `{text}`, only {known}", text, known)
        })
    }
}
