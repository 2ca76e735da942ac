//! What the conductor and the engine satellite say to each other.
//!
//! As with the gateway the conductor writes [`Request`] lines to its standard input and reads [`Event`] lines from its standard
//! output; end of input ends it. Requests are answered one after the other: any number of [`Event::Progress`], then
//! [`Event::Done`] or [`Event::Failed`].

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Version of this conversation; both ends are built from one commit.
pub const SCHEMA: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub schema: u32,
    /// Where an engine may be: the first that answers is used.
    pub places: Vec<Place>,
    #[serde(flatten)]
    pub job: Job,
}

/// Where a container engine may listen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// `unix:///run/docker.sock`, `tcp://HOST:PORT`
    pub address: String,
    /// Who named it, for messages: `DOCKER_HOST`, `context office`.
    pub origin: String,
    /// `None`: it is spoken to in plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "kebab-case")]
pub enum Job {
    /// Who answers, and what it can do → [`Outcome::Probed`].
    Probe,
    /// Bring images into the engine's own store; of what is there already nothing is sent → [`Outcome::Loaded`].
    Load { images: Vec<Image> },
    /// Have an image made by BuildKit → [`Outcome::Built`].
    Build(Build),
}

/// An image of one platform that BuildKit makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Under which a builder keeps what it was sent, so that the next build sends what changed: `semantic-router/extproc`.
    pub name: String,
    /// `arm64`; the system is Linux.
    pub architecture: String,
    pub recipe: Recipe,
    /// Path in the context, without a leading `/` → its file. Nothing else can be had.
    pub context: BTreeMap<String, PathBuf>,
    /// Id → text, for instructions that mount it.
    pub secrets: BTreeMap<String, Secret>,
    /// Host of a registry → who we are there.
    pub logins: BTreeMap<String, BuilderLogin>,
    /// Make everything again, whatever the builder has.
    pub no_cache: bool,
    pub export: Export,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "recipe", rename_all = "kebab-case")]
pub enum Recipe {
    /// Archives of the context, the lowest first, and the image's configuration, whose layers are the builder's to fill in.
    Layers { archives: Vec<String>, config: String },
    Dockerfile {
        text: String,
        /// They may be proxies, which have passwords.
        arguments: BTreeMap<String, Secret>,
        /// Whether instructions reach what listens on the builder's own loopback address.
        host_network: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "export", rename_all = "kebab-case")]
pub enum Export {
    /// Into the engine's own store.
    Store { reference: String },
    /// An OCI layout in one tar, which must not be there yet.
    Archive { file: PathBuf },
}

/// What is told to nobody but the builder.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuilderLogin {
    pub user: String,
    pub password: Secret,
}

/// An image of one platform that lies in files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `extproc:latest`
    pub reference: String,
    /// `arm64`; the system is Linux.
    pub architecture: String,
    /// The two documents, byte for byte.
    pub config: String,
    pub manifest: String,
    /// Digest of each layer's blob (`sha256:…`) → its file.
    pub layers: BTreeMap<String, PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// At most ten a second.
    Progress {
        sent_bytes: u64,
        total_bytes: u64,
    },
    /// What a builder does now; what it prints goes to standard error.
    Building {
        name: String,
    },
    Done {
        engine: Engine,
        outcome: Outcome,
    },
    Failed {
        failure: Failure,
    },
}

/// The engine that answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// As [`Place::address`] and [`Place::origin`].
    pub address: String,
    pub origin: String,
    /// `Docker`, `Podman`
    pub name: String,
    pub version: String,
    /// The newest version of Docker's API that it speaks: `1.41`.
    pub api: String,
    /// `linux/amd64`
    pub platform: String,
    pub store: Store,
    /// Whether layers in zstd can be loaded.
    pub zstd: bool,
    /// Whether it builds with BuildKit.
    pub buildkit: bool,
}

/// What a BuildKit can do, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Builder {
    /// Empty: older than 0.11, which was the first to say.
    pub version: String,
    /// What it runs instructions for: `linux/amd64`.
    pub platforms: Vec<String>,
    /// What may become of a result: `moby` (kept by the engine), `oci`, `image` (pushed by the builder).
    pub exporters: Vec<String>,
    /// Where its cache can be kept for other builders: `inline`, `registry`.
    pub caches: Vec<String>,
    /// Whether a build may read folders and images under names of its own.
    pub named_contexts: bool,
}

/// How an engine keeps images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Store {
    /// By the digest of the configuration, layers unpacked: a layer that is there need not be sent again.
    Docker,
    /// By the digest of the manifest, layers as they came.
    Containerd,
    /// As podman does.
    Containers,
    /// Not at all: it builds, and hands out.
    None,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    Probed {
        /// `None`: it builds nothing.
        builder: Option<Builder>,
    },
    /// In the order of the request.
    Loaded {
        images: Vec<Loaded>,
        /// Of all archives together.
        sent_bytes: u64,
    },
    Built {
        /// By which the engine knows the image, or the digest of what was exported: `sha256:…`.
        id: String,
        /// Of files; what the builder had already is not among them.
        sent_bytes: u64,
        /// Of its steps, those that were in its cache and the others.
        cached: usize,
        ran: usize,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    pub reference: String,
    /// By which this engine knows it: `sha256:…`.
    pub id: String,
    /// It was there before.
    pub present: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Failure {
    /// None of the places has an engine that answers.
    NoEngine {
        silent: Vec<Silent>,
    },
    /// It speaks an API that is older than what is needed.
    TooOld {
        engine: String,
        api: String,
        needed: String,
    },
    /// It answered, and did not do what it was asked.
    Refused {
        engine: String,
        message: String,
    },
    /// It takes no layers in zstd, and this image has some.
    NoZstd {
        engine: String,
        reference: String,
    },
    /// The disk of the engine is full.
    Full {
        engine: String,
        message: String,
    },
    /// It went away in the middle of an answer.
    Lost {
        engine: String,
        message: String,
    },
    /// It did nothing for that long.
    Stalled {
        engine: String,
        seconds: u64,
    },
    /// It cannot do what was asked.
    Unable {
        engine: String,
        lacks: Lack,
    },
    /// A step of a build failed; the last lines that it printed.
    StepFailed {
        engine: String,
        step: String,
        message: String,
        output: String,
    },
    /// A file on our side could not be read.
    Unreadable {
        message: String,
    },
    Bug {
        message: String,
    },
}

/// What a builder may be without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lack {
    BuildKit,
    /// Handing out what it made as an OCI layout.
    OciExport,
    /// Keeping images itself.
    Store,
}

/// A place without an engine, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silent {
    pub address: String,
    pub origin: String,
    pub cause: SilentCause,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum SilentCause {
    /// There is no such socket.
    Absent,
    /// Nobody listens.
    Refused,
    /// This user may not open the socket.
    Denied,
    NoAnswer {
        seconds: u64,
    },
    /// In the words of the system, of TLS, or of who answered.
    Said {
        text: String,
    },
}
