//! `xtask.lock`: the hash of everything that is fetched, and no host. Written by `cargo xtask lock update` only.

use crate::digest::Digest;
use crate::error::{Code, Result};
use crate::files;
use crate::tr;
use protocol::Artifact;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Pins {
    /// Version of this file's format.
    #[serde(default)]
    pub version: u32,
    #[serde(default)]
    pub go: Option<Go>,
    #[serde(default)]
    pub rustup: Option<Rustup>,
    /// Wheel set → its files, for every interpreter and platform.
    #[serde(default)]
    pub wheel_set: BTreeMap<String, Vec<WheelPin>>,
    #[serde(default)]
    pub model: BTreeMap<String, ModelPins>,
    /// Debian base → `linux-amd64` → its whole closure.
    #[serde(default)]
    pub debian_base: BTreeMap<String, BTreeMap<String, Vec<DebianPin>>>,
    /// Reference of a base, as it is declared → what it leads to.
    #[serde(default)]
    pub registry_base: BTreeMap<String, RegistryBase>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Go {
    /// `1.27.3`
    pub version: String,
    /// `linux-amd64` → the same toolchain as a module zip and as a wheel.
    pub platform: BTreeMap<String, GoPlatform>,
}

/// What a machine without Rust begins with, for `mirror bootstrap`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rustup {
    /// Of rustup itself: `1.29.0`.
    pub version: String,
    /// Of the toolchain that it installs: `1.95.0`.
    pub toolchain: String,
    /// sha256 of `dist/channel-rust-TOOLCHAIN.toml`, which has the hash of every component.
    pub manifest: Digest,
    /// `x86_64-unknown-linux-gnu` → sha256 of its `rustup-init`.
    pub init: BTreeMap<String, Digest>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GoPlatform {
    /// Go's directory hash of the `golang.org/toolchain` module.
    pub h1: String,
    pub wheel: WheelPin,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct WheelPin {
    pub project: String,
    pub filename: String,
    pub sha256: Digest,
    pub size_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ModelPins {
    pub file: Vec<FilePin>,
    /// The wheel that a `wheel` source names.
    #[serde(default)]
    pub wheel: Option<WheelPin>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FilePin {
    pub path: String,
    pub sha256: Digest,
    pub size_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DebianPin {
    pub name: String,
    pub version: String,
    /// Of the package: `amd64`, `all`.
    pub architecture: String,
    /// In which archive, and where: `base/pool/main/g/glibc/libc6_2.36-9_amd64.deb`.
    pub path: String,
    pub sha256: Digest,
    pub size_bytes: u64,
}

impl DebianPin {
    pub fn artifact(&self) -> Artifact {
        let (path, sha256) = (self.path.clone(), self.sha256.to_string());
        Artifact::Debian { path, sha256, size_bytes: self.size_bytes }
    }

    /// Whether its path is that of a package below an archive, as every index has it.
    fn is_placed(&self) -> bool {
        let pool = ["base/pool/", "security/pool/"].iter().find_map(|pool| self.path.strip_prefix(pool));
        pool.is_some_and(files::stays_below)
            && self.path.ends_with(".deb")
            && !self.path.contains(['?', '#', '%', '\\'])
    }
}

/// An image of a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RegistryBase {
    /// Of the index, or of the manifest where there is none.
    pub digest: oci::Digest,
    /// `linux-amd64` → the image for it.
    pub platform: BTreeMap<String, BaseImage>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BaseImage {
    pub manifest: oci::Digest,
    pub config: BlobPin,
    /// The lowest first.
    pub layer: Vec<LayerPin>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlobPin {
    pub digest: oci::Digest,
    pub size_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LayerPin {
    pub digest: oci::Digest,
    pub diff_id: oci::Digest,
    pub media_type: String,
    pub size_bytes: u64,
}

impl LayerPin {
    pub fn descriptor(&self) -> oci::Descriptor {
        oci::Descriptor::new(self.media_type.clone(), self.digest, self.size_bytes)
    }
}

pub const VERSION: u32 = 1;

impl Pins {
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let source = crate::document::Source::new(path, text.as_bytes());
        let pins: Self = source.parse()?;
        for (name, model) in &pins.model {
            let files = model.file.iter().map(|file| file.path.as_str());
            if let Some(outside) = files.chain([name.as_str()]).find(|path| !files::stays_below(path)) {
                let message = tr!("`{outside}` is no path inside models/", outside);
                return Err(source.error(Code::WrongValue, &["model", name, "file"], &message));
            }
        }
        for (name, platforms) in &pins.debian_base {
            if let Some(DebianPin { path, .. }) = platforms.values().flatten().find(|pin| !pin.is_placed()) {
                let message = tr!("`{path}` is no path of a package below base/pool/ or security/pool/", path);
                return Err(source.error(Code::WrongValue, &["debian-base", name], &message));
            }
        }
        Ok(pins)
    }

    /// The file's text: one line a pin, sorted, so that a change reads well in a diff.
    pub fn render(&self) -> String {
        let mut text = format!(
            "# Pins of everything that is fetched: hashes, never hosts. Written by `cargo xtask lock update`.\nversion = {VERSION}\n"
        );
        // Writing to a String cannot fail.
        if let Some(go) = &self.go {
            let _ = write!(text, "\n[go]\nversion = \"{}\"\n", go.version);
            for (platform, pins) in &go.platform {
                let _ =
                    write!(text, "\n[go.platform.{platform}]\nh1 = \"{}\"\nwheel = {}\n", pins.h1, wheel(&pins.wheel));
            }
        }
        if let Some(Rustup { version, toolchain, manifest, init }) = &self.rustup {
            let _ = write!(
                text,
                "\n[rustup]\nversion = \"{version}\"\ntoolchain = \"{toolchain}\"\nmanifest = \"{manifest}\"\n\n[rustup.init]\n"
            );
            for (platform, sha256) in init {
                let _ = writeln!(text, "{platform} = \"{sha256}\"");
            }
        }
        if !self.wheel_set.is_empty() {
            text.push_str("\n[wheel-set]\n");
        }
        for (name, wheels) in &self.wheel_set {
            let _ = writeln!(text, "{name} = [");
            for pin in wheels {
                let _ = writeln!(text, "  {},", wheel(pin));
            }
            text.push_str("]\n");
        }
        for (name, pins) in &self.model {
            let _ = write!(text, "\n[model.{name}]\n");
            if let Some(pin) = &pins.wheel {
                let _ = writeln!(text, "wheel = {}", wheel(pin));
            }
            text.push_str("file = [\n");
            for file in &pins.file {
                let _ = writeln!(
                    text,
                    "  {{ path = \"{}\", sha256 = \"{}\", size-bytes = {} }},",
                    file.path, file.sha256, file.size_bytes
                );
            }
            text.push_str("]\n");
        }
        for (name, platforms) in &self.debian_base {
            let _ = write!(text, "\n[debian-base.{name}]\n");
            for (platform, packages) in platforms {
                let _ = writeln!(text, "{platform} = [");
                for DebianPin { name, version, architecture, path, sha256, size_bytes } in packages {
                    let _ = writeln!(
                        text,
                        "  {{ name = \"{name}\", version = \"{version}\", architecture = \"{architecture}\", path = \"{path}\", sha256 = \"{sha256}\", size-bytes = {size_bytes} }},"
                    );
                }
                text.push_str("]\n");
            }
        }
        for (reference, base) in &self.registry_base {
            let _ = write!(text, "\n[registry-base.\"{reference}\"]\ndigest = \"{}\"\n", base.digest);
            for (platform, BaseImage { manifest, config, layer }) in &base.platform {
                let _ = write!(
                    text,
                    "\n[registry-base.\"{reference}\".platform.{platform}]\nmanifest = \"{manifest}\"\nconfig = {{ digest = \"{}\", size-bytes = {} }}\nlayer = [\n",
                    config.digest, config.size_bytes
                );
                for LayerPin { digest, diff_id, media_type, size_bytes } in layer {
                    let _ = writeln!(
                        text,
                        "  {{ digest = \"{digest}\", diff-id = \"{diff_id}\", media-type = \"{media_type}\", size-bytes = {size_bytes} }},"
                    );
                }
                text.push_str("]\n");
            }
        }
        text
    }
}

fn wheel(pin: &WheelPin) -> String {
    format!(
        "{{ project = \"{}\", filename = \"{}\", sha256 = \"{}\", size-bytes = {} }}",
        pin.project, pin.filename, pin.sha256, pin.size_bytes
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_file_stays_inside_models() {
        let digest = Digest::of(b"x");
        for path in ["../x", "/x", "a/../../x", ""] {
            let text = format!("[[model.m.file]]\npath = \"{path}\"\nsha256 = \"{digest}\"\nsize-bytes = 1\n");
            let error = Pins::parse(Path::new("xtask.lock"), &text).unwrap_err();
            assert_eq!(error.code(), Code::WrongValue, "{path}");
        }
    }

    #[test]
    fn a_pinned_package_lies_in_the_pool_of_an_archive() {
        let verdict = |path: &str| {
            let digest = Digest::of(b"x");
            let pin = format!("name = 'a', version = '1', architecture = 'all', sha256 = '{digest}', size-bytes = 1");
            let text = format!("[debian-base.b]\nlinux-amd64 = [{{ {pin}, path = '{path}' }}]\n");
            Pins::parse(Path::new("xtask.lock"), &text).map(drop).map_err(|error| error.code())
        };
        assert_eq!(verdict("security/pool/updates/main/a_1_all.deb"), Ok(()));
        for path in [
            "pool/a.deb",
            "base/dists/a.deb",
            "base/pool/../a.deb",
            "base/pool/a",
            "base/pool/a?.deb",
            "base/pool//a.deb",
        ] {
            assert_eq!(verdict(path), Err(Code::WrongValue), "{path}");
        }
    }

    #[test]
    fn what_is_written_reads_back_equal() {
        let pin = WheelPin {
            project: "six".into(),
            filename: "six-1.0-py3-none-any.whl".into(),
            sha256: Digest::of(b"six"),
            size_bytes: 3,
        };
        let platform = BTreeMap::from([("linux-amd64".into(), GoPlatform { h1: "h1:x=".into(), wheel: pin.clone() })]);
        let file = FilePin { path: "config.json".into(), sha256: Digest::of(b"c"), size_bytes: 1 };
        let package = DebianPin {
            name: "libc6".into(),
            version: "1:2.36-9+deb12u10~x".into(),
            architecture: "amd64".into(),
            path: "base/pool/main/g/glibc/libc6_2.36-9+deb12u10~x_amd64.deb".into(),
            sha256: Digest::of(b"d"),
            size_bytes: 1,
        };
        let digest = oci::Digest::of(b"b");
        let layer = LayerPin { digest, diff_id: digest, media_type: "application/x".into(), size_bytes: 2 };
        let image = BaseImage { manifest: digest, config: BlobPin { digest, size_bytes: 3 }, layer: vec![layer] };
        let registry_base = RegistryBase { digest, platform: [("linux-amd64".to_owned(), image)].into() };
        let pins = Pins {
            version: VERSION,
            go: Some(Go { version: "1.27.3".into(), platform }),
            rustup: Some(Rustup {
                version: "1.29.0".into(),
                toolchain: "1.95.0".into(),
                manifest: Digest::of(b"m"),
                init: [("x86_64-unknown-linux-gnu".to_owned(), Digest::of(b"i"))].into(),
            }),
            wheel_set: [("mock".to_owned(), vec![pin.clone()])].into(),
            model: [("mini".to_owned(), ModelPins { file: vec![file], wheel: Some(pin) })].into(),
            debian_base: [("base".to_owned(), [("linux-amd64".to_owned(), vec![package])].into())].into(),
            registry_base: [("registry.example:5000/team/base:1".to_owned(), registry_base)].into(),
        };
        assert_eq!(Pins::parse(Path::new("xtask.lock"), &pins.render()).unwrap(), pins);
    }
}
