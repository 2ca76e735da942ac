//! The gateway: the only process of this tool with sockets to the outside, and the only holder of credentials.
//!
//! Reads one [`Setup`] line and then [`Request`] lines from standard input, writes [`Event`] lines to standard output and
//! serves children of the build on loopback. It ends when its input does, so it never outlives the conductor; a download
//! that this interrupts is continued by the next run.
//!
//! Owns: the loop below. Never: parse arguments or read the environment; all that it may know is in the setup line.
//! Rules: ARCHITECTURE.md, "Invariants".
//!
//! One thread does the talking, so state is shared without locks; hashing, inflating and disks are on blocking threads.
//! Reading order: `server` and `crates`, `go`, `simple`, `npm`, `apt`, `rustup`, `hub`, `oci`, `file` (a file a protocol) →
//! `fetch` (one pinned artifact), `documents` (a text that leads to artifacts) and `reply` (what the child gets) → `picker` (in
//! which order), `probe` (what they are worth) and `upstream` (who is asked next); `push` (an image to a registry) → `request` (one request) → `connect` (one
//! connection) and `names`; beside them `downloads` (the folder), `unpack` (archives), `tarball` (what a crate may hold), `ledger`
//! (standard output), `secrets` (what no message may hold), `url`, `error`.

mod apt;
mod connect;
mod crates;
mod documents;
mod downloads;
mod error;
mod fetch;
mod file;
mod go;
mod hub;
mod ledger;
mod names;
mod npm;
mod oci;
mod picker;
mod probe;
mod push;
mod reply;
mod request;
mod rustup;
mod secrets;
mod server;
mod simple;
mod tarball;
mod unpack;
mod upstream;
mod url;

use crate::apt::Apt;
use crate::connect::Connector;
use crate::crates::Crates;
use crate::documents::Documents;
use crate::downloads::Downloads;
use crate::error::{Error, Kind};
use crate::fetch::{Errand, Turns};
use crate::go::Ahead;
use crate::ledger::emit;
use crate::picker::Races;
use crate::request::Client;
use crate::rustup::Rustup;
use crate::simple::Pages;
use protocol::{Artifact, Event, Failure, FailureKind, Job, Limits, Outcome, ProbeReport, Request, SCHEMA, Setup};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io::BufRead;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What every task of a run shares.
pub struct Gateway {
    client: Rc<Client>,
    downloads: Downloads,
    limits: Limits,
    setup: Setup,
    documents: Documents,
    crates: Crates,
    rustup: Rustup,
    pages: Pages,
    races: Races,
    /// What a probe of this run or an earlier one found.
    measured: RefCell<Vec<ProbeReport>>,
    apt: Apt,
    /// Subjects whose refusal the conductor has heard of.
    refused: RefCell<HashSet<(String, String)>>,
    sizes: oci::Sizes,
    /// Subjects that nothing pins, of which the conductor has heard.
    unpinned: RefCell<HashSet<String>>,
    /// Processes that hold partials and do nothing: pid → what it had done when it was found so.
    stopped: RefCell<HashMap<u32, u64>>,
    turns: Turns,
    go: Ahead,
}

impl Gateway {
    fn new(setup: Setup) -> Result<Self, Error> {
        if setup.schema != SCHEMA {
            let message = format!(
                "conductor and gateway are of two builds (protocol {} and {SCHEMA}); run `cargo xtask` again",
                setup.schema
            );
            return Err(Error::new(Kind::Configuration, message));
        }
        secrets::learn_all(&setup);
        let connector = Connector::new(&setup)?;
        Ok(Self {
            client: Rc::new(Client::new(connector, setup.limits.clone(), setup.allowed_hosts.clone())),
            downloads: Downloads::open(&setup.downloads)?,
            limits: setup.limits.clone(),
            documents: Documents::open(&setup.downloads)?,
            crates: Crates::new(&setup.pins.crates),
            rustup: Rustup::default(),
            pages: Pages::default(),
            races: Races::default(),
            measured: RefCell::new(setup.measured.clone()),
            apt: Apt::default(),
            refused: RefCell::default(),
            sizes: oci::Sizes::default(),
            unpinned: RefCell::default(),
            stopped: RefCell::default(),
            turns: Turns::default(),
            go: Ahead::default(),
            setup,
        })
    }

    /// Tells once that nobody but a place itself says which bytes of a thing are right.
    fn tell_unpinned(&self, subject: &str, advice: &str) {
        if self.unpinned.borrow_mut().insert(subject.to_owned()) {
            emit(&Event::Finding {
                code: "mirror.unpinned".to_owned(),
                subject: subject.to_owned(),
                message: format!("nothing but its own server vouches for it; {advice}"),
                trouble: None,
            });
        }
    }
}

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(cause) => {
            return own_failure("start", &format!("no event loop: {cause}"), FailureKind::Bug);
        }
    };
    let (lines, requests) = unbounded_channel();
    std::thread::spawn(move || read_lines(&lines));
    let code = tokio::task::LocalSet::new().block_on(&runtime, run(requests));
    // Blocking threads may sit in a name lookup; nobody waits for them.
    runtime.shutdown_background();
    code
}

fn read_lines(lines: &UnboundedSender<String>) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if lines.send(line).is_err() {
            return;
        }
    }
}

async fn run(mut requests: UnboundedReceiver<String>) -> ExitCode {
    let Some(line) = requests.recv().await else {
        return ExitCode::SUCCESS;
    };
    // The line holds credentials: serde's message names a position, never the text around it.
    let setup: Setup = match serde_json::from_str(&line) {
        Ok(setup) => setup,
        Err(cause) => {
            return own_failure(
                "setup",
                &format!("the first line is not a setup: line 1, column {}", cause.column()),
                FailureKind::Bug,
            );
        }
    };
    let gateway = match Gateway::new(setup) {
        Ok(gateway) => Rc::new(gateway),
        Err(error) => {
            emit(&Event::Failed { id: 0, failure: error.failure("gateway", Vec::new()) });
            return ExitCode::FAILURE;
        }
    };
    let bound = async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?.to_string();
        Ok::<_, std::io::Error>((listener, address))
    };
    let (listener, address) = match bound.await {
        Ok(bound) => bound,
        Err(cause) => {
            return own_failure("loopback listener", &cause.to_string(), FailureKind::Network);
        }
    };
    let mut secret = [0; 16];
    if rustls::crypto::ring::default_provider().secure_random.fill(&mut secret).is_err() {
        return own_failure("password", "the system gives no random bytes", FailureKind::Bug);
    }
    let password = downloads::hex(&secret);
    emit(&Event::Ready { schema: SCHEMA, address, password: password.clone() });
    let serving = gateway.clone();
    tokio::task::spawn_local(async move { server::serve(serving, listener, &password).await });

    while let Some(line) = requests.recv().await {
        match serde_json::from_str::<Request>(&line) {
            Ok(request) => {
                let gateway = gateway.clone();
                tokio::task::spawn_local(async move { perform(&gateway, request).await });
            }
            Err(cause) => {
                own_failure("request", &format!("it cannot be read: {cause}"), FailureKind::Bug);
            }
        }
    }
    ExitCode::SUCCESS
}

/// Job 0 is the gateway itself.
fn own_failure(subject: &str, message: &str, kind: FailureKind) -> ExitCode {
    let failure = Failure { kind, subject: subject.to_owned(), message: message.to_owned(), attempts: Vec::new() };
    emit(&Event::Failed { id: 0, failure });
    ExitCode::FAILURE
}

async fn perform(gateway: &Rc<Gateway>, Request { id, step, job }: Request) {
    let errand = Errand { id, step };
    let outcome = match job {
        Job::Fetch { artifact } => fetch_artifact(gateway, &errand, &artifact).await,
        Job::List { project } => simple::list(gateway, &errand, &project).await.map(|files| Outcome::Listed { files }),
        Job::Release { suite } => apt::release(gateway, &errand, &suite).await.map(|text| Outcome::Released { text }),
        Job::Manifest { repository, reference } => oci::base_manifest(gateway, &errand, &repository, &reference).await,
        Job::Probe { ecosystems, budget_milliseconds } => {
            let budget = Duration::from_millis(budget_milliseconds);
            let reports = probe::probe(gateway, &errand.step, &ecosystems, budget).await;
            gateway.learn(&reports);
            Ok(Outcome::Probed { reports })
        }
        Job::Push(job) => push::push(gateway, &errand, job).await.map(Outcome::Pushed),
        Job::Unpack(job) => {
            let subject = format!("archive {}", job.archive.display());
            let unpacked = tokio::task::spawn_blocking(move || unpack::unpack(&job)).await;
            let failed = |kind, message| Failure { kind, subject, message, attempts: Vec::new() };
            match unpacked {
                Ok(Ok(files)) => Ok(Outcome::Unpacked { files }),
                Ok(Err(refusal)) => Err(failed(refusal.kind, refusal.message)),
                Err(cause) => Err(failed(FailureKind::Bug, cause.to_string())),
            }
        }
    };
    emit(&match outcome {
        Ok(outcome) => Event::Done { id, outcome },
        Err(failure) => Event::Failed { id, failure },
    });
}

async fn fetch_artifact(gateway: &Gateway, errand: &Errand, artifact: &Artifact) -> Result<Outcome, Failure> {
    let fetched = match artifact {
        Artifact::GoModule { module, version, h1 } => go::module(gateway, errand, module, version, h1).await,
        Artifact::Wheel { project, filename, sha256, size_bytes } => {
            simple::wheel(gateway, errand, project, filename, sha256, *size_bytes).await
        }
        Artifact::HubFile { repo, revision, path, sha256, size_bytes } => {
            hub::file(gateway, errand, hub::Place { repo, revision, path }, sha256, *size_bytes).await
        }
        Artifact::Debian { path, sha256, size_bytes } => apt::pinned(gateway, errand, path, sha256, *size_bytes).await,
        Artifact::Blob { repository, sha256, size_bytes } => {
            oci::base_blob(gateway, errand, repository, sha256, *size_bytes).await
        }
        Artifact::File { url, sha256, size_bytes } => file::file(gateway, errand, url, sha256, *size_bytes).await,
    }?;
    let verified = fetched.verified;
    Ok(Outcome::Fetched {
        path: verified.path,
        sha256: verified.sha256,
        size_bytes: verified.size_bytes,
        upstream: fetched.upstream,
    })
}
