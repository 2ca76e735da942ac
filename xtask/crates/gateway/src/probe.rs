//! What upstreams are worth: each asked for what a build would ask of it, side by side, within one budget.
//!
//! Owns: the first request of each protocol (a race asks it too), what a good answer to it is, the way on to every host
//! that an upstream leads to, the score. Never: keep a byte of what it reads, name a private name to anyone, or wait longer
//! than its budget.
//!
//! ```text
//! greeting      a small document: index, version, project page, packument, InRelease
//!   → stale     it lacks a version that a lock file names
//! artifact      a ranged read through all redirects, hashed where it came whole
//!   → partial   a host on that way does not deliver
//! ```
//! Rules: the protocols' own documents, as named in the files that speak them; ARCHITECTURE.md, "Invariants".

use crate::Gateway;
use crate::crates::{self, fill, prefix};
use crate::documents::Kept;
use crate::downloads::hex;
use crate::error::{Error, Kind};
use crate::fetch::header_value;
use crate::go::escape;
use crate::request::{Ask, Client, Document, Trail, looks_like_a_web_page, milliseconds, web_page};
use crate::simple;
use crate::url::{Origin, Url, encode_path};
use hyper::header::{self, HeaderName, HeaderValue};
use protocol::coding::base64;
use protocol::names::normalised;
use protocol::{Cause, Ecosystem, ProbeReport, ProbeVerdict, Setup, Upstream};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Enough to tell a fast link from a slow one, little enough for a slow one.
const RANGE_BYTES: usize = 256 * 1024;
/// A link that needs longer for that is measured by what came: others share it.
const READING: Duration = Duration::from_millis(1500);
/// Who had less time than this and gave no answer is not known to be silent: a machine under load, or a slow line.
const FAIR: Duration = Duration::from_secs(1);
const MAX_DOCUMENT_BYTES: usize = 16 << 20;
const MAX_GREETING_BYTES: usize = 4 << 20;
/// What is left of an answer is read up to here, so that its connection can be used again.
const DRAINED_BYTES: usize = 64 * 1024;

const US: &str = concat!("cargo-xtask-gateway/", env!("CARGO_PKG_VERSION"));

/// As whom a protocol's client introduces itself. Mirrors refuse by these words (pip's own was answered 403 where a browser
/// was served), so a probe under another name would measure somebody else's mirror. Ours stands where the client has room for
/// it.
fn user_agent(ecosystem: Ecosystem) -> String {
    match ecosystem {
        // cargo has a comment after its version.
        Ecosystem::Crates => format!("cargo/1.95.0 ({US})"),
        // Go says nothing more than this; a word more would be another client.
        Ecosystem::Go => "Go-http-client/1.1".to_owned(),
        // pip has a field for its user's own words: PIP_USER_AGENT_USER_DATA.
        Ecosystem::Python => {
            format!(r#"pip/26.0 {{"ci":null,"installer":{{"name":"pip","version":"26.0"}},"user_data":"{US}"}}"#)
        }
        // Its first part is the library that uses huggingface_hub.
        Ecosystem::Hub => format!("{US}; hf_hub/2.4.0; python/3.12.0"),
        Ecosystem::Npm => format!("npm/11.0.0 node/v24.0.0 linux x64 workspaces/false {US}"),
        Ecosystem::Apt => format!("Debian APT-HTTP/1.3 (2.6.1) {US}"),
        Ecosystem::Rustup => format!("rustup/1.29.0 {US}"),
        Ecosystem::Oci => format!("containerd/2.2.5 {US}"),
        // Plain files are fetched by ourselves.
        Ecosystem::File => US.to_owned(),
    }
}

/// What a protocol's client accepts.
fn accept(ecosystem: Ecosystem) -> Option<&'static str> {
    match ecosystem {
        Ecosystem::Python => Some(simple::ACCEPT),
        // The short form of a packument, which some mirrors do not know.
        Ecosystem::Npm => Some("application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*"),
        Ecosystem::Oci => Some(concat!(
            "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, ",
            "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json",
        )),
        _ => None,
    }
}

fn headers(ecosystem: Ecosystem) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
    let mut headers = vec![(header::USER_AGENT, header_value(&user_agent(ecosystem))?)];
    if let Some(accept) = accept(ecosystem) {
        headers.push((header::ACCEPT, HeaderValue::from_static(accept)));
    }
    Ok(headers)
}

/// The first thing that is asked of an upstream.
pub struct Greeting {
    pub url: Url,
    pub artifact: String,
    /// It is about an artifact that a lock file names. Otherwise it is a protocol's root, and that it is answered at all is
    /// what counts.
    sampled: bool,
}

pub fn greeting(gateway: &Gateway, ecosystem: Ecosystem, upstream: &Upstream) -> Result<Greeting, Error> {
    let base = Url::parse(&upstream.url)?;
    let (samples, public) = (&gateway.setup.samples, |name: &str| gateway.is_public(ecosystem, name));
    let sampled =
        |relative: &str, artifact: String| Ok(Greeting { url: base.below(relative)?, artifact, sampled: true });
    let root = |url: Url| Ok(Greeting { artifact: format!("root {}", url.path), url, sampled: false });
    match ecosystem {
        Ecosystem::Crates => sampled("config.json", "config.json of the index".to_owned()),
        Ecosystem::Go => match samples.module.as_ref().filter(|(module, _)| public(module)) {
            Some((module, version)) => {
                sampled(&format!("{}.info", module_path(module, version)), format!("module {module}@{version}"))
            }
            None => root(base),
        },
        Ecosystem::Python => match samples.wheel.as_ref().filter(|(project, ..)| public(&normalised(project))) {
            Some((project, ..)) => {
                sampled(&format!("{}/", encode_path(&normalised(project))), format!("project {project}"))
            }
            None => root(base.below("")?),
        },
        Ecosystem::Hub => match samples.hub_file.as_ref().filter(|(repo, ..)| public(repo)) {
            Some((repo, revision, path, _)) => sampled(
                &format!("{}/resolve/{}/{}", encode_path(repo), encode_path(revision), encode_path(path)),
                format!("model file {repo}@{revision} {path}"),
            ),
            None => root(base),
        },
        Ecosystem::Npm => match samples.package.as_ref().filter(|(name, _)| public(name)) {
            Some((name, _)) => sampled(
                &encode_path(name).replacen('/', "%2f", usize::from(name.starts_with('@'))),
                format!("package {name}"),
            ),
            None => root(base.below("-/ping")?),
        },
        Ecosystem::Apt => match &samples.suite {
            Some(suite) => sampled(&format!("dists/{}/InRelease", encode_path(suite)), format!("suite {suite}")),
            None => root(base.below("dists/stable/InRelease")?),
        },
        Ecosystem::Rustup => match &samples.channel {
            Some(channel) => sampled(&format!("dist/{}.sha256", encode_path(channel)), channel.clone()),
            None => root(base.below("dist/channel-rust-stable.toml.sha256")?),
        },
        // Behind templates only their host is the same for every name.
        Ecosystem::Oci => root(Url::parse(&format!("{}/v2/", base.origin))?),
        Ecosystem::File => root(Url::parse(&format!("{}/", base.origin))?),
    }
}

fn module_path(module: &str, version: &str) -> String {
    format!("{}/@v/{}", encode_path(&escape(module)), encode_path(&escape(version)))
}

impl Greeting {
    /// Asks it, and no more. That it is absent is an answer too: other names may be there.
    pub async fn ask(&self, client: &Rc<Client>, ecosystem: Ecosystem, upstream: &Upstream) -> Result<(), Error> {
        let ask = Ask {
            step: "",
            ecosystem,
            artifact: &self.artifact,
            upstream,
            url: &self.url,
            headers: headers(ecosystem)?,
        };
        if ecosystem == Ecosystem::Python && self.sampled {
            // Its good answer is a web page: only its links tell.
            return match client.document(ask, MAX_GREETING_BYTES).await {
                Ok(page) => simple::read(&Kept::of(&page)).map(drop),
                Err(error) => self.is_answer(ecosystem, &error).then_some(()).ok_or(error),
            };
        }
        // That a registry asks for a token is an answer; a token for nothing in particular is of no use.
        let mut answer = match client.get_from(&ask, false).await {
            Ok(answer) => answer,
            Err(error) => return self.is_answer(ecosystem, &error).then_some(()).ok_or(error),
        };
        let mut received = 0;
        while let Some(piece) = answer.chunk().await? {
            if received == 0 && !self.may_be_a_page(ecosystem) && looks_like_a_web_page(&piece) {
                return Err(answer.rejected(web_page(&piece)));
            }
            received += piece.len();
            if received > DRAINED_BYTES {
                break;
            }
        }
        answer.accepted();
        Ok(())
    }

    /// Whether a refusal shows that the protocol is spoken there: a name may be absent, an index's own config not; at a root
    /// anything counts but the refusal of us.
    fn is_answer(&self, ecosystem: Ecosystem, error: &Error) -> bool {
        match error.kind {
            Kind::Absent => ecosystem != Ecosystem::Crates,
            Kind::Status(status) => !self.sampled && status < 500 && status != 403,
            _ => false,
        }
    }

    /// Roots of proxies, hubs and file servers greet people; registries greet programs.
    fn may_be_a_page(&self, ecosystem: Ecosystem) -> bool {
        let greets_people = matches!(ecosystem, Ecosystem::Go | Ecosystem::Python | Ecosystem::Hub | Ecosystem::File);
        greets_people && !self.sampled
    }
}

/// # Returns the reports in the order of the setup.
pub async fn probe(gateway: &Rc<Gateway>, step: &str, ecosystems: &[Ecosystem], budget: Duration) -> Vec<ProbeReport> {
    let deadline = Instant::now() + budget;
    let asked = |ecosystem: &Ecosystem| ecosystems.is_empty() || ecosystems.contains(ecosystem);
    let setup = &gateway.setup;
    let plain = setup.upstreams.iter().flat_map(|(ecosystem, list)| list.iter().map(|it| (*ecosystem, None, it)));
    let templates = [(Ecosystem::Oci, &setup.registries), (Ecosystem::File, &setup.files)];
    let templates = templates.into_iter().flat_map(|(ecosystem, map)| {
        map.iter().flat_map(move |(name, list)| list.iter().map(move |it| (ecosystem, Some(name.as_str()), it)))
    });
    let mut visits = JoinSet::new();
    for (place, (ecosystem, name, upstream)) in plain.chain(templates).filter(|(it, ..)| asked(it)).enumerate() {
        let trail = Rc::default();
        let visit = Visit {
            client: Rc::new(gateway.client.tracked(Rc::clone(&trail))),
            gateway: Rc::clone(gateway),
            step: step.to_owned(),
            ecosystem,
            name: name.map(str::to_owned),
            upstream: upstream.clone(),
            trail,
            progress: RefCell::default(),
        };
        visits.spawn_local(async move { (place, visit.report(deadline, budget).await) });
    }
    // A visit that panicked is none; the others are worth telling.
    let mut reports: BTreeMap<usize, ProbeReport> = BTreeMap::new();
    while let Some(visit) = visits.join_next().await {
        reports.extend(visit);
    }
    reports.into_values().collect()
}

/// One upstream under examination.
struct Visit {
    gateway: Rc<Gateway>,
    client: Rc<Client>,
    step: String,
    ecosystem: Ecosystem,
    /// Of registries and files: for whom it stands.
    name: Option<String>,
    upstream: Upstream,
    trail: Rc<RefCell<Trail>>,
    progress: RefCell<Progress>,
}

/// How far it came; outside of the work, which may have to be broken off.
#[derive(Default)]
struct Progress {
    /// The upstream itself has answered as it should.
    answered: bool,
    read_bytes: usize,
    /// From the first byte of an artifact on.
    reading_since: Option<Instant>,
    reading: Option<Duration>,
    remarks: Vec<Cause>,
}

/// Why an upstream is not as good as it could be.
enum Trouble {
    /// What it lacks of the lock files.
    Stale(Cause),
    Error(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Visit {
    async fn report(&self, deadline: Instant, budget: Duration) -> ProbeReport {
        let began = Instant::now();
        let ended = tokio::time::timeout_at(deadline.into(), self.examine()).await;
        let mut message = None;
        let (verdict, cause, failed) = match ended {
            Ok(Ok(cause)) => (ProbeVerdict::Ok, cause, None),
            Ok(Err(Trouble::Stale(cause))) => (ProbeVerdict::Stale, cause, None),
            Ok(Err(Trouble::Error(error))) => {
                let (verdict, failed) = self.judged(&error);
                let cause = error.cause();
                message = Some(error.message);
                (verdict, cause, failed)
            }
            Err(_) => self.out_of_time(began.elapsed().min(budget)),
        };
        let (trail, progress) = (self.trail.borrow(), self.progress.borrow());
        let mut message = vec![message.unwrap_or_else(|| english(&cause))];
        message.extend(progress.remarks.iter().map(english));
        let mut causes = vec![cause];
        causes.extend(progress.remarks.iter().cloned());
        let reading = progress.reading.or_else(|| progress.reading_since.map(|since| since.elapsed()));
        let bytes_per_second = reading.filter(|_| progress.read_bytes > 0).map(|time| {
            // What comes at once is one packet's worth of news about a link, and no reason to divide by nothing.
            (progress.read_bytes as f64 / time.as_secs_f64().max(0.001)) as u64
        });
        let can_serve = matches!(verdict, ProbeVerdict::Ok | ProbeVerdict::Stale);
        let connect = trail.connect.unwrap_or_default();
        let first_byte = trail.first_byte.unwrap_or_default();
        ProbeReport {
            ecosystem: self.ecosystem,
            url: match &self.name {
                Some(name) => format!("{name} → {}", self.upstream.url),
                None => self.upstream.url.clone(),
            },
            origin: self.upstream.origin.clone(),
            verdict,
            message: message.join("; "),
            causes,
            hosts: trail.origins.iter().map(Origin::authority).collect(),
            failed_host: failed.map(|origin| origin.authority()),
            address: trail.peer.address.clone(),
            proxy: trail.peer.proxy.clone(),
            tls_issuer: trail.issuer.clone(),
            status: trail.status,
            connect_milliseconds: trail.connect.map(milliseconds),
            first_byte_milliseconds: trail.first_byte.map(milliseconds),
            bytes_per_second,
            score_milliseconds: can_serve
                .then(|| score(planned(&self.gateway.setup, self.ecosystem), connect, first_byte, bytes_per_second)),
        }
    }

    fn home(&self) -> Option<Origin> {
        Url::parse(&self.upstream.url).ok().map(|home| home.origin)
    }

    /// The host that was asked last, if it is another than the upstream's own.
    fn elsewhere(&self) -> Option<Origin> {
        self.trail.borrow().last.clone().filter(|last| Some(last) != self.home().as_ref())
    }

    fn judged(&self, error: &Error) -> (ProbeVerdict, Option<Origin>) {
        let answered = self.progress.borrow().answered;
        let elsewhere = self.elsewhere();
        let limited = matches!(error.kind, Kind::Limited { .. } | Kind::Status(403));
        if let Some(host) = elsewhere {
            // A portal sends everybody to a page of its own: that is no second host of a mirror.
            return match error.kind {
                Kind::Html if !answered => (ProbeVerdict::Html, Some(host)),
                _ => (ProbeVerdict::Partial, Some(host)),
            };
        }
        match error.kind {
            Kind::Html => (ProbeVerdict::Html, None),
            Kind::Tls => (ProbeVerdict::Tls, None),
            _ if limited => (ProbeVerdict::Limited, None),
            _ if answered => (ProbeVerdict::Partial, self.home()),
            _ => (ProbeVerdict::Dead, None),
        }
    }

    /// `had`: how long it was waited for.
    fn out_of_time(&self, had: Duration) -> (ProbeVerdict, Cause, Option<Origin>) {
        let (progress, milliseconds) = (self.progress.borrow(), milliseconds(had));
        if progress.read_bytes > 0 && progress.reading.is_none() {
            return (ProbeVerdict::Ok, Cause::Unfinished { milliseconds }, None);
        }
        let silence = match self.trail.borrow().connect {
            Some(_) => Cause::NoAnswer { milliseconds },
            None => Cause::NoConnection { milliseconds },
        };
        if had < FAIR {
            return (ProbeVerdict::NotMeasured, silence, None);
        }
        if let Some(host) = self.elsewhere() {
            let cause = Cause::LedToSilence { host: host.authority(), milliseconds };
            return (ProbeVerdict::Partial, cause, Some(host));
        }
        if progress.answered {
            return (ProbeVerdict::Limited, Cause::NoArtifact { milliseconds }, None);
        }
        (ProbeVerdict::Dead, silence, None)
    }

    /// # Returns what was asked for, and that it was right; nothing where a greeting was all.
    async fn examine(&self) -> Result<Cause, Trouble> {
        let greeting = greeting(&self.gateway, self.ecosystem, &self.upstream)?;
        if !greeting.sampled {
            greeting.ask(&self.client, self.ecosystem, &self.upstream).await?;
            return Ok(Cause::Greeted);
        }
        let examined = match self.ecosystem {
            Ecosystem::Crates => self.crates(&greeting).await,
            Ecosystem::Go => self.go(&greeting).await,
            Ecosystem::Python => self.python(&greeting).await,
            Ecosystem::Hub => self.hub(&greeting).await,
            Ecosystem::Npm => self.npm(&greeting).await,
            Ecosystem::Apt => self.apt(&greeting).await,
            Ecosystem::Rustup => self.rustup(&greeting).await,
            Ecosystem::Oci | Ecosystem::File => Ok(String::new()),
        };
        examined.map(|text| if text.is_empty() { Cause::Greeted } else { Cause::Said { text } })
    }

    async fn crates(&self, greeting: &Greeting) -> Result<String, Trouble> {
        let config: crates::Config = json(&self.document(&greeting.url, &greeting.artifact).await?)?;
        self.answered();
        let setup = &self.gateway.setup;
        let sample = setup.samples.krate.as_ref().filter(|(name, _)| self.gateway.is_public(Ecosystem::Crates, name));
        let Some((name, version)) = sample else {
            return Ok(String::new());
        };
        let lower = name.to_ascii_lowercase();
        let entry = Url::parse(&self.upstream.url)?.below(&format!("{}/{lower}", prefix(&lower)))?;
        let entry = self.sample(&entry, &format!("index entry of crate {name}"), || format!("crate {name}")).await?;
        if looks_like_a_web_page(&entry.bytes) {
            return Err(web_page(&entry.bytes).into());
        }
        let lines = entry.bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
        let offered: Vec<String> = lines
            .map(|line| serde_json::from_slice::<crates::Line>(line).map(|line| line.vers))
            .collect::<Result<_, _>>()
            .map_err(|cause| Error::new(Kind::Malformed, format!("its answer is not an index entry: {cause}")))?;
        let pinned = self.gateway.crates.pins.get(&lower);
        let missing: Vec<&str> = pinned
            .into_iter()
            .flat_map(|versions| versions.keys())
            .filter(|version| !offered.contains(version))
            .map(String::as_str)
            .collect();
        if !missing.is_empty() {
            return Err(stale(&format!("crate {name}"), &missing.join(", ")));
        }
        let checksum = pinned.and_then(|versions| versions.get(version)).map(String::as_str).unwrap_or_default();
        let home = Url::parse(&self.upstream.url)?.origin;
        let url = home.led_to(Url::parse(&fill(&config.dl, name, version, checksum))?)?;
        let subject = format!("crate {name} {version}");
        let read = self.artifact(&url, &subject).await?;
        read.is_sha256(checksum)?;
        Ok(subject)
    }

    async fn go(&self, greeting: &Greeting) -> Result<String, Trouble> {
        let setup = &self.gateway.setup;
        let Some((module, version)) = &setup.samples.module else { return Ok(String::new()) };
        let base = Url::parse(&self.upstream.url)?;
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Info {
            version: String,
        }
        let info = self.sample(&greeting.url, &greeting.artifact, || greeting.artifact.clone()).await?;
        let info: Info = json(&info)?;
        if info.version != *version {
            let message = format!("asked for {module}@{version} it tells of {}", info.version);
            return Err(Error::new(Kind::Malformed, message).into());
        }
        self.answered();
        let path = module_path(module, version);
        let go_mod = base.below(&format!("{path}.mod"))?;
        let go_mod = self.sample(&go_mod, &format!("go.mod of {module}"), || greeting.artifact.clone()).await?.bytes;
        if looks_like_a_web_page(&go_mod) {
            return Err(web_page(&go_mod).into());
        }
        if let Some(pinned) = setup.pins.go_sums.get(&format!("{module} {version}/go.mod")) {
            // dirhash.Hash1 of the one file.
            let summary = Sha256::digest(format!("{}  go.mod\n", hex(&Sha256::digest(&go_mod))));
            equal(pinned, &format!("h1:{}", base64(&summary)))?;
        }
        if let Some(name) = &setup.samples.checksum_database {
            let url = base.below(&format!("sumdb/{}/supported", encode_path(name)))?;
            match self.document(&url, "checksum database").await {
                Ok(_) => {}
                // go help goproxy: then the database itself is asked.
                Err(error) if error.kind == Kind::Absent => self.remark(Cause::NoDatabase),
                Err(mut error) => {
                    error.message = format!("its checksum database: {}", error.message);
                    return Err(error.into());
                }
            }
        }
        let url = base.below(&format!("{path}.zip"))?;
        self.artifact(&url, &greeting.artifact).await?.begins_with(b"PK")?;
        Ok(greeting.artifact.clone())
    }

    async fn python(&self, greeting: &Greeting) -> Result<String, Trouble> {
        let Some((project, filename, sha256)) = &self.gateway.setup.samples.wheel else { return Ok(String::new()) };
        let page = self.sample(&greeting.url, &greeting.artifact, || format!("project {project}")).await?;
        let files = simple::read(&Kept::of(&page))?;
        self.answered();
        let Some(file) = files.into_iter().find(|file| file.listed.filename == *filename) else {
            return Err(stale(&format!("project {project}"), filename));
        };
        let read = self.artifact(&file.url, filename).await?;
        read.is_sha256(sha256)?;
        Ok(filename.clone())
    }

    async fn hub(&self, greeting: &Greeting) -> Result<String, Trouble> {
        let Some((.., sha256)) = &self.gateway.setup.samples.hub_file else { return Ok(String::new()) };
        let read = match self.artifact(&greeting.url, &greeting.artifact).await {
            Err(Trouble::Error(error)) if error.kind == Kind::Absent => return Err(stale(&greeting.artifact, "it")),
            read => read?,
        };
        read.is_sha256(sha256)?;
        Ok(greeting.artifact.clone())
    }

    async fn npm(&self, greeting: &Greeting) -> Result<String, Trouble> {
        #[derive(Deserialize)]
        struct Packument {
            versions: BTreeMap<String, Version>,
        }
        #[derive(Deserialize)]
        struct Version {
            dist: Dist,
        }
        #[derive(Deserialize)]
        struct Dist {
            tarball: String,
        }
        let Some((name, version)) = &self.gateway.setup.samples.package else { return Ok(String::new()) };
        let packument = self.sample(&greeting.url, &greeting.artifact, || format!("package {name}")).await?;
        let mut versions = json::<Packument>(&packument)?.versions;
        self.answered();
        let Some(Version { dist }) = versions.remove(version) else {
            return Err(stale(&format!("package {name}"), version));
        };
        let subject = format!("package {name} {version}");
        let read = self.artifact(&packument.url.join(&dist.tarball)?, &subject).await?;
        if let Some(pinned) = self.gateway.setup.pins.npm.get(&format!("{name} {version}")).filter(|_| read.whole) {
            let got = ring::digest::digest(&ring::digest::SHA512, &read.bytes);
            equal(pinned, &format!("sha512-{}", base64(got.as_ref())))?;
        }
        Ok(subject)
    }

    async fn apt(&self, greeting: &Greeting) -> Result<String, Trouble> {
        const MAGIC: &[u8] = b"-----BEGIN PGP SIGNED MESSAGE-----";
        let Some(suite) = &self.gateway.setup.samples.suite else { return Ok(String::new()) };
        // The list of a suite is what every `apt-get update` brings: its speed is the archive's.
        let read = match self.artifact(&greeting.url, &greeting.artifact).await {
            Err(Trouble::Error(error)) if error.kind == Kind::Absent => return Err(stale(&greeting.artifact, "it")),
            read => read?,
        };
        read.begins_with(MAGIC)?;
        self.answered();
        if let Some(second) = &self.upstream.second {
            let url = Url::parse(second)?.below(&format!("dists/{}-security/InRelease", encode_path(suite)))?;
            let security = self.document(&url, &format!("suite {suite}-security")).await?;
            Read { bytes: security.bytes.to_vec(), whole: true }.begins_with(MAGIC)?;
        }
        Ok(greeting.artifact.clone())
    }

    async fn rustup(&self, greeting: &Greeting) -> Result<String, Trouble> {
        let setup = &self.gateway.setup;
        let Some(channel) = &setup.samples.channel else { return Ok(String::new()) };
        let hash =
            self.sample(&greeting.url, &greeting.artifact, || format!("channel manifest {channel}")).await?.bytes;
        if looks_like_a_web_page(&hash) {
            return Err(web_page(&hash).into());
        }
        if let Some(pinned) = setup.pins.channels.get(channel) {
            equal(pinned, String::from_utf8_lossy(&hash).split_whitespace().next().unwrap_or_default())?;
        }
        self.answered();
        let base = Url::parse(&self.upstream.url)?;
        let read = self.artifact(&base.below(&format!("dist/{}", encode_path(channel)))?, channel).await?;
        read.begins_with(b"manifest-version")?;
        if let Some(second) = &self.upstream.second {
            let release =
                self.document(&Url::parse(second)?.below("release-stable.toml")?, "release of rustup").await?;
            Read { bytes: release.bytes.to_vec(), whole: true }.begins_with(b"schema-version")?;
        }
        Ok(channel.clone())
    }

    fn answered(&self) {
        self.progress.borrow_mut().answered = true;
    }

    fn remark(&self, remark: Cause) {
        self.progress.borrow_mut().remarks.push(remark);
    }

    async fn document(&self, url: &Url, artifact: &str) -> Result<Document, Error> {
        let headers = headers(self.ecosystem)?;
        let (step, upstream) = (&self.step, &self.upstream);
        let ask = Ask { step, ecosystem: self.ecosystem, artifact, upstream, url, headers };
        self.client.document(ask, MAX_DOCUMENT_BYTES).await
    }

    /// A document that exists for a name of a lock file: where it does not, the upstream lags behind.
    async fn sample(&self, url: &Url, artifact: &str, name: impl Fn() -> String) -> Result<Document, Trouble> {
        match self.document(url, artifact).await {
            Err(error) if error.kind == Kind::Absent => Err(stale(&name(), "it")),
            document => Ok(document?),
        }
    }

    /// The first bytes of an artifact, through every redirect.
    async fn artifact(&self, url: &Url, artifact: &str) -> Result<Read, Trouble> {
        let mut headers = headers(self.ecosystem)?;
        headers.push((header::ACCEPT_ENCODING, HeaderValue::from_static("identity")));
        headers.push((header::RANGE, header_value(&format!("bytes=0-{}", RANGE_BYTES - 1))?));
        let (step, upstream) = (&self.step, &self.upstream);
        let mut answer =
            self.client.get(&Ask { step, ecosystem: self.ecosystem, artifact, upstream, url, headers }).await?;
        let started = Instant::now();
        self.progress.borrow_mut().reading_since = Some(started);
        let mut read = Read { bytes: Vec::new(), whole: false };
        while read.bytes.len() < RANGE_BYTES && started.elapsed() < READING {
            match answer.chunk().await {
                Ok(Some(piece)) => {
                    if read.bytes.is_empty() && (answer.is_web_page() || looks_like_a_web_page(&piece)) {
                        return Err(answer.rejected(web_page(&piece)).into());
                    }
                    read.bytes.extend_from_slice(&piece);
                    self.progress.borrow_mut().read_bytes = read.bytes.len();
                }
                Ok(None) => {
                    read.whole = answer.status == 200 || range_is_all(answer.headers.get(header::CONTENT_RANGE));
                    break;
                }
                Err(error) => return Err(answer.rejected(error).into()),
            }
        }
        self.progress.borrow_mut().reading = Some(started.elapsed());
        answer.accepted();
        Ok(read)
    }
}

/// What was read of an artifact.
struct Read {
    bytes: Vec<u8>,
    whole: bool,
}

impl Read {
    /// # Errors: Hash. What did not come whole has no hash that could be compared.
    fn is_sha256(&self, pinned: &str) -> Result<(), Error> {
        if !self.whole || pinned.is_empty() {
            return Ok(());
        }
        equal(&pinned.to_ascii_lowercase(), &hex(&Sha256::digest(&self.bytes)))
    }

    /// # Errors: Html, Malformed.
    fn begins_with(&self, magic: &[u8]) -> Result<(), Error> {
        if self.bytes.starts_with(magic) {
            return Ok(());
        }
        if looks_like_a_web_page(&self.bytes) {
            return Err(web_page(&self.bytes));
        }
        let message = format!("what came does not begin with `{}`", String::from_utf8_lossy(magic));
        Err(Error::new(Kind::Malformed, message))
    }
}

fn equal(pinned: &str, got: &str) -> Result<(), Error> {
    if pinned == got { Ok(()) } else { Err(Error::hash(pinned, got)) }
}

fn stale(of: &str, missing: &str) -> Trouble {
    let versions = (missing != "it").then(|| missing.to_owned());
    Trouble::Stale(Cause::Lacks { what: of.to_owned(), versions })
}

/// What only a probe finds, for logs.
fn english(cause: &Cause) -> String {
    let within = |milliseconds: &u64| format!("within {:.1} s", *milliseconds as f64 / 1000.0);
    match cause {
        Cause::Said { text } => text.clone(),
        Cause::Greeted => "it answers; no lock file names anything public to ask it for".to_owned(),
        Cause::NoDatabase => "it passes on no checksum database".to_owned(),
        Cause::Lacks { what, versions: None } => format!("a lock file names {what}, and it is not there"),
        Cause::Lacks { what, versions: Some(versions) } => {
            format!("{what}: a lock file names {versions}, and it is not there")
        }
        Cause::Unfinished { milliseconds } => format!("slow: its artifact did not come whole {}", within(milliseconds)),
        Cause::LedToSilence { host, milliseconds } => {
            format!("it leads to {host}, which gave no answer {}", within(milliseconds))
        }
        Cause::NoArtifact { milliseconds } => {
            format!("its documents came, and no byte of an artifact {}", within(milliseconds))
        }
        Cause::NoConnection { milliseconds } => format!("no connection {}", within(milliseconds)),
        Cause::NoAnswer { milliseconds } => format!("no answer {}", within(milliseconds)),
        // The rest are errors, which have words of their own.
        _ => String::new(),
    }
}

fn json<T: DeserializeOwned>(document: &Document) -> Result<T, Error> {
    if looks_like_a_web_page(&document.bytes) {
        return Err(web_page(&document.bytes));
    }
    serde_json::from_slice(&document.bytes)
        .map_err(|cause| Error::new(Kind::Malformed, format!("{} does not speak the protocol: {cause}", document.url)))
}

/// `bytes 0-99/100`.
fn range_is_all(range: Option<&HeaderValue>) -> bool {
    let parsed = || {
        let (range, total) = range?.to_str().ok()?.strip_prefix("bytes 0-")?.split_once('/')?;
        Some(range.parse::<u64>().ok()? + 1 == total.parse::<u64>().ok()?)
    };
    parsed().unwrap_or(false)
}

/// Requests that wait one after the other, and bytes.
type Load = (u64, u64);

/// What a first build asks of an ecosystem. The numbers of names are the lock files'; sizes and requests for a name are what
/// this project's were in the order of magnitude, which is all that comparing two upstreams of one ecosystem takes.
fn planned(setup: &Setup, ecosystem: Ecosystem) -> Load {
    /// How many requests clients keep under way.
    const AT_ONCE: u64 = 8;
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    let pins = &setup.pins;
    let (names, requests, bytes) = match ecosystem {
        Ecosystem::Crates => (pins.crates.len(), 2, 100 * KIB),
        Ecosystem::Go => (pins.go_sums.len() / 2, 3, 300 * KIB),
        Ecosystem::Python => (pins.wheels.len(), 2, MIB),
        Ecosystem::Hub => (pins.hub.len(), 1, 30 * MIB),
        Ecosystem::Npm => (pins.npm.len(), 2, 60 * KIB),
        Ecosystem::Apt => (40, 1, MIB),
        Ecosystem::Rustup => (6, 1, 40 * MIB),
        Ecosystem::Oci => (12, 2, 30 * MIB),
        Ecosystem::File => (4, 1, 30 * MIB),
    };
    let names = (names as u64).max(1);
    ((names * requests).div_ceil(AT_ONCE), names * bytes)
}

/// Expected milliseconds for a load: connect + first byte × requests in a row + bytes / throughput.
fn score((requests, bytes): Load, connect: Duration, first_byte: Duration, bytes_per_second: Option<u64>) -> u64 {
    /// Of whom no throughput is known, because nothing names an artifact: then latency decides.
    const UNKNOWN: u64 = 1 << 20;
    let throughput = bytes_per_second.unwrap_or(UNKNOWN).max(1);
    milliseconds(connect) + milliseconds(first_byte) * requests + bytes.saturating_mul(1000) / throughput
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_and_throughput_both_count() {
        let load = (100, 10 << 20);
        let ms = Duration::from_millis;
        let near_and_narrow = score(load, ms(10), ms(10), Some(1 << 20));
        let far_and_wide = score(load, ms(300), ms(300), Some(10 << 20));
        assert_eq!((near_and_narrow, far_and_wide), (10 + 1000 + 10_000, 300 + 30_000 + 1000));
        // A limiter that sleeps before the first byte loses in spite of its speed.
        assert!(score(load, ms(10), ms(2000), Some(100 << 20)) > near_and_narrow);
    }

    #[test]
    fn only_a_whole_file_has_a_hash() {
        let hash = |range: &'static str| range_is_all(Some(&HeaderValue::from_static(range)));
        assert!(hash("bytes 0-99/100"));
        for part in ["bytes 0-99/101", "bytes 1-99/100", "bytes 0-99/*", "lines 0-1/2"] {
            assert!(!hash(part), "{part}");
        }
        assert!(Read { bytes: b"x".to_vec(), whole: false }.is_sha256("aa").is_ok());
        assert!(Read { bytes: b"x".to_vec(), whole: true }.is_sha256("aa").is_err());
    }
}
