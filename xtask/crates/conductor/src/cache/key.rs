//! What decides a result, and nothing else.
//!
//! A key is the SHA-256 of the JSON of one of the structs below: field names are part of it, in their order, maps are sorted,
//! so there is no order or separator to get wrong. Computing one needs no network, no Go and no downloaded dependency.
//!
//! | input | in the key of | why |
//! | --- | --- | --- |
//! | `schema` | all | a change of how we build makes every old result foreign |
//! | kind, name | all | two libraries with equal sources are still two |
//! | source digests, by path inside the package | native library, Go binary | they are compiled in |
//! | manifest | native library, Go binary | profile, features, edition; `go`, `require` and `replace` lines |
//! | locked packages (name, version; checksum, or commit) of the closure | native library | dev-dependencies are not linked in |
//! | `go.sum` | Go binary | Go has no smaller closure without the modules at hand |
//! | `rustc -vV`, target | native library | code generation |
//! | `cargo -V` | native library | its defaults for profiles, `-C metadata` |
//! | Go version | Go binary | code generation, standard library |
//! | C compiler, linker, libc versions; for another platform zig by hash and the oldest glibc | both | they make the symbol versions that a result needs |
//! | platform, where it is another | Go binary | code generation |
//! | features, cargo profile, tags, ldflags, linking | both | they select code |
//! | environment (see `settings::env`) | both | the variables that the tools obey and that we pass on |
//! | variables declared in `xtask.toml`, and the files that they name | both | whoever reads such a variable reads the file |
//! | settings in cargo configuration files | native library | tables such as `build`, `target`, `profile` and `env` decide code |
//! | library interface: exported symbols, header | Go binary, shared linking | what a link can notice |
//! | library digest | Go binary, static linking | its bytes are copied in |
//! | pinned hashes | toolchain, wheel set, model | they *are* the result |
//! | files to be made executable | wheel set | modes belong to a result |
//! | Debian packages by hash, their suite; what is left out of them, who is in `passwd` | Debian base | the layer is made of nothing else |
//! | place, mode and digest of each file; keys of unpacked wheels | layer | they are the layer |
//! | digests of both forms, media type | base layer | the bytes are pinned, wherever they are |
//! | digest of the configuration, diff-ids | base from a registry | likewise |
//! | codec, time stamp | Debian base, layer, image | they are in the bytes |
//! | keys of the layers, configuration | image | the manifest holds nothing else |
//! | the image, what was linked or unpacked into it; commit, locks, tools | attestation | that is what it tells |
//!
//! Left out on purpose: **mtime** (checkouts differ), **absolute paths** (`--remap-path-prefix`, `-trimpath` keep them out of
//! the bytes), **user, umask, locale, time** (cannot reach the bytes), **mirror, proxy, CA** (every byte that arrives has a pin:
//! a mirror must not change an artifact), **variables not declared** (children do not get them).

use super::reason;
use crate::digest::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Raised whenever our way of building changes the bytes of an unchanged declaration.
const SCHEMA: u32 = 5;

/// Names one result of one step for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(Digest);

impl Key {
    pub fn short(&self) -> String {
        self.0.short()
    }
}

impl std::str::FromStr for Key {
    type Err = <Digest as std::str::FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The inputs of one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Inputs {
    NativeLibrary(NativeLibrary),
    GoBinary(GoBinary),
    Toolchain(Pinned),
    WheelSet(Pinned),
    Model(Pinned),
    DebianBase(DebianBase),
    RegistryBase(RegistryBase),
    BaseLayer(BaseLayer),
    Layer(Layer),
    Image(Image),
    Attestation(Attestation),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NativeLibrary {
    pub name: String,
    /// Path inside the package → digest: every file that can enter the library, `Cargo.toml` and the header included.
    pub sources: BTreeMap<String, Digest>,
    /// `name version` → checksum, for each package that the library links or builds with.
    pub locked: BTreeMap<String, String>,
    pub rustc: String,
    pub cargo: String,
    pub target: String,
    pub features: Vec<String>,
    pub profile: String,
    pub c_compiler: String,
    pub libc: String,
    /// Variables that compilers and linkers obey.
    pub environment: BTreeMap<String, String>,
    /// Variables that `xtask.toml` declares; what they hold is unknown, and never shown.
    pub declared_environment: BTreeMap<String, String>,
    /// Those of them that name a file.
    pub declared_files: BTreeMap<String, Digest>,
    /// `file: key` → digest of each setting that decides code in the cargo configuration files in force.
    pub cargo_configuration: BTreeMap<String, Digest>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GoBinary {
    pub name: String,
    /// `module/path/file` → digest: the packages that the main package reaches inside its module and its local replacements,
    /// with `go.mod` and `go.sum`.
    pub sources: BTreeMap<String, Digest>,
    pub main: String,
    pub go: String,
    pub tags: Vec<String>,
    pub ldflags: Vec<String>,
    /// `linux-arm64`, where it is not the platform of the machine that compiles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    pub c_compiler: String,
    pub libc: String,
    /// Variables that compilers and linkers obey.
    pub environment: BTreeMap<String, String>,
    /// Variables that `xtask.toml` declares; what they hold is unknown, and never shown.
    pub declared_environment: BTreeMap<String, String>,
    /// Those of them that name a file.
    pub declared_files: BTreeMap<String, Digest>,
    /// Library name → digest of its interface (shared linking).
    pub interfaces: BTreeMap<String, Digest>,
}

/// A result that is its pins: verified bytes, unpacked or placed by a fixed rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pinned {
    pub name: String,
    /// What is pinned (`go1.27.3 linux-amd64`, a model's file) → its hash; project → wheel and hash.
    pub pins: BTreeMap<String, String>,
    /// Files that are executable whatever their archive says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub executable: Vec<String>,
}

/// A base layer out of Debian packages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DebianBase {
    pub name: String,
    /// `linux-amd64`
    pub platform: String,
    /// What `os-release` says where no package has one.
    pub suite: String,
    /// Package → version and sha256 of its file.
    pub packages: BTreeMap<String, String>,
    pub exclude: Vec<String>,
    pub keep: Vec<String>,
    /// `name id home`
    pub users: Vec<String>,
    pub codec: String,
    pub modified_seconds: u64,
}

/// The configuration of a base from a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RegistryBase {
    pub config: String,
    /// Of its layers.
    pub diff_ids: Vec<String>,
}

/// What is known of a layer of such a base, wherever it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BaseLayer {
    pub digest: String,
    pub diff_id: String,
    pub media_type: String,
    pub size_bytes: u64,
}

/// A layer of one image; two with the same contents are one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Path in the image → mode and digest.
    pub files: BTreeMap<String, String>,
    /// Place in the image → key of the wheel set that is put there, and the file of it where it is one file.
    pub wheels: BTreeMap<String, String>,
    /// Path in the image → what prints it.
    pub printed: BTreeMap<String, Printed>,
    pub codec: String,
    pub modified_seconds: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Printed {
    pub mode: String,
    pub binary: Digest,
    pub libraries: Vec<Digest>,
    pub arguments: Vec<String>,
    /// Path in the checkout → digest.
    pub reads: BTreeMap<String, Digest>,
}

/// Configuration and manifest over layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Image {
    pub name: String,
    pub platform: String,
    /// Configuration of a base from a registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<Key>,
    /// The lowest first.
    pub layers: Vec<Key>,
    pub entrypoint: Vec<String>,
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub ports: Vec<u16>,
    pub user: String,
    /// Empty, as `user` and `entrypoint` are: the base's.
    pub working_directory: String,
    pub labels: BTreeMap<String, String>,
    pub created_seconds: u64,
}

/// What is said about an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Attestation {
    pub name: String,
    pub platform: String,
    /// Of the documents.
    pub format: u32,
    pub image: Option<Key>,
    /// Layers of our files.
    pub layers: Vec<Key>,
    /// Path in the image → the library that lies there.
    pub libraries: BTreeMap<String, Key>,
    /// Path in the image → the Go program that lies there.
    pub binaries: BTreeMap<String, Key>,
    /// Project → file name and sha256 of its wheel.
    pub wheels: BTreeMap<String, String>,
    /// Debian package → version, architecture and sha256 of its file.
    pub packages: BTreeMap<String, String>,
    /// Debian suite of these.
    pub suite: String,
    /// Name and digest of a base from a registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<(String, String)>,
    /// Its layers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub base_layers: Vec<Key>,
    /// What the caller chose: cargo features and profile.
    pub chosen: BTreeMap<&'static str, String>,
    /// Of a checkout in which everything is committed.
    pub commit: Option<String>,
    /// Lock files that were in force, by path.
    pub locks: BTreeMap<String, Digest>,
    /// `rustc` → version and commit; `go` → version and sha256 of its wheel; what the C compiler says of itself.
    pub toolchains: BTreeMap<&'static str, String>,
    pub created_seconds: u64,
}

impl Inputs {
    /// Reads every input: whoever needs it twice keeps it.
    pub fn key(&self) -> Key {
        // The text is canonical: fields in the order of the structs, maps and sets sorted. These structs hold only strings, lists and
        // maps with string keys: serialisation cannot fail.
        Key(Digest::of(&serde_json::to_vec(&(SCHEMA, self)).unwrap_or_default()))
    }

    /// The same inputs as one level of `name → value`, for comparing with an earlier result. This is written to disk and shown, so
    /// a value that may hold a credential stands there as its digest.
    pub fn flat(&self) -> BTreeMap<String, String> {
        let mut flat = BTreeMap::new();
        flatten(String::new(), &serde_json::to_value(self).unwrap_or_default(), &mut flat);
        flat.insert("schema".to_owned(), SCHEMA.to_string());
        for (name, value) in &mut flat {
            let flags = name.starts_with("environment: ");
            if name.starts_with("declared_environment: ") || flags && reason::may_hold_a_credential(value) {
                *value = format!("hidden (sha256 {})", Digest::of(value.as_bytes()).short());
            }
        }
        flat
    }
}

fn flatten(name: String, value: &serde_json::Value, flat: &mut BTreeMap<String, String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                let name = if name.is_empty() { key.clone() } else { format!("{name}: {key}") };
                flatten(name, value, flat);
            }
        }
        serde_json::Value::Array(items) => {
            let items: Vec<_> = items.iter().map(plain).collect();
            flat.insert(name, items.join(" "));
        }
        other => {
            flat.insert(name, plain(other));
        }
    }
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cache::reason::Reason;

    pub fn library() -> NativeLibrary {
        NativeLibrary {
            name: "binding".into(),
            sources: [("src/lib.rs".to_owned(), Digest::of(b"1")), ("Cargo.toml".to_owned(), Digest::of(b"2"))].into(),
            locked: [("serde 1.0.0".to_owned(), "aa".to_owned())].into(),
            rustc: "rustc 1.95.0".into(),
            cargo: "cargo 1.95.0".into(),
            target: "x86_64-unknown-linux-gnu".into(),
            features: vec![],
            profile: "release".into(),
            c_compiler: "cc 12".into(),
            libc: "glibc 2.36".into(),
            environment: BTreeMap::new(),
            declared_environment: BTreeMap::new(),
            declared_files: BTreeMap::new(),
            cargo_configuration: BTreeMap::new(),
        }
    }

    pub fn binary() -> GoBinary {
        GoBinary {
            name: "router".into(),
            sources: [("router/cmd/main.go".to_owned(), Digest::of(b"1"))].into(),
            main: "./cmd".into(),
            go: "go1.27.3".into(),
            tags: vec![],
            ldflags: vec!["-s".into()],
            platform: None,
            c_compiler: "cc 12".into(),
            libc: "glibc 2.36".into(),
            environment: BTreeMap::new(),
            declared_environment: BTreeMap::new(),
            declared_files: BTreeMap::new(),
            interfaces: [("binding".to_owned(), Digest::of(b"i"))].into(),
        }
    }

    /// Each declared input, changed alone, changes the key, and the reason names exactly that input.
    #[test]
    fn every_input_moves_the_key_and_is_named() {
        type Change<T> = (&'static str, fn(&mut T));
        let native: [Change<NativeLibrary>; 18] = [
            ("name", |it| it.name.push('x')),
            ("sources: src/lib.rs", |it| {
                it.sources.insert("src/lib.rs".into(), Digest::of(b"changed"));
            }),
            ("sources: src/new.rs", |it| {
                it.sources.insert("src/new.rs".into(), Digest::of(b"new"));
            }),
            ("sources: Cargo.toml", |it| {
                it.sources.remove("Cargo.toml");
            }),
            ("locked: serde 1.0.0", |it| {
                it.locked.insert("serde 1.0.0".into(), "bb".into());
            }),
            ("locked: toml 1.0.0", |it| {
                it.locked.insert("toml 1.0.0".into(), "cc".into());
            }),
            ("rustc", |it| it.rustc.push('x')),
            ("cargo", |it| it.cargo.push('x')),
            ("target", |it| it.target.push('x')),
            ("features", |it| it.features.push("cuda".into())),
            ("profile", |it| it.profile.push('x')),
            ("c_compiler", |it| it.c_compiler.push('x')),
            ("libc", |it| it.libc.push('x')),
            ("environment: RUSTFLAGS", |it| {
                it.environment.insert("RUSTFLAGS".into(), "-Ctarget-cpu=native".into());
            }),
            ("environment: CFLAGS", |it| {
                it.environment.insert("CFLAGS".into(), "-O2".into());
            }),
            ("declared_environment: LABEL", |it| {
                it.declared_environment.insert("LABEL".into(), "x".into());
            }),
            ("declared_files: CERTIFICATE", |it| {
                it.declared_files.insert("CERTIFICATE".into(), Digest::of(b"c"));
            }),
            ("cargo_configuration: $CARGO_HOME", |it| {
                it.cargo_configuration.insert("$CARGO_HOME".into(), Digest::of(b"c"));
            }),
        ];
        let go: [Change<GoBinary>; 12] = [
            ("name", |it| it.name.push('x')),
            ("sources: router/cmd/main.go", |it| {
                it.sources.insert("router/cmd/main.go".into(), Digest::of(b"changed"));
            }),
            ("sources: router/go.sum", |it| {
                it.sources.insert("router/go.sum".into(), Digest::of(b"s"));
            }),
            ("main", |it| it.main.push('x')),
            ("go", |it| it.go.push('x')),
            ("tags", |it| it.tags.push("x".into())),
            ("ldflags", |it| it.ldflags.push("-w".into())),
            ("platform", |it| it.platform = Some("linux-arm64".into())),
            ("c_compiler", |it| it.c_compiler.push('x')),
            ("libc", |it| it.libc.push('x')),
            ("environment: CGO_CFLAGS", |it| {
                it.environment.insert("CGO_CFLAGS".into(), "-O2".into());
            }),
            ("interfaces: binding", |it| {
                it.interfaces.insert("binding".into(), Digest::of(b"j"));
            }),
        ];
        let mut flipped = 0;
        let mut check = |name: &str, old: Inputs, new: Inputs| {
            assert_ne!(old.key(), new.key(), "{name}");
            let reasons = Reason::compare(&old.flat(), &new.flat());
            assert_eq!(reasons.iter().map(|it| it.input.as_str()).collect::<Vec<_>>(), [name]);
            flipped += 1;
        };
        for (name, change) in native {
            let mut new = library();
            change(&mut new);
            check(name, Inputs::NativeLibrary(library()), Inputs::NativeLibrary(new));
        }
        for (name, change) in go {
            let mut new = binary();
            change(&mut new);
            check(name, Inputs::GoBinary(binary()), Inputs::GoBinary(new));
        }
        assert!(flipped >= 25);
    }

    #[test]
    fn a_key_does_not_depend_on_the_process_that_computes_it() {
        // Frozen: if this moves, raise SCHEMA on purpose rather than by accident.
        let once = Inputs::NativeLibrary(library()).key();
        assert_eq!(once, Inputs::NativeLibrary(library()).key());
        let pinned = || Pinned { name: "a".into(), ..Pinned::default() };
        assert_ne!(Inputs::WheelSet(pinned()).key(), Inputs::Model(pinned()).key());
    }
}
