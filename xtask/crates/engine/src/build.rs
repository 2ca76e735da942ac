//! A build by BuildKit, from the question to the image.
//!
//! Owns: one build: its session, its progress, the watchdog and what went wrong. Never: leave a build running that nobody waits for
//! (a builder ends it with the session); call something built that the engine does not have.
//! Rules: github.com/moby/buildkit `api/services/control`; docs/decisions/0020-buildkit-session.md.

use crate::connect::{Access, Connected};
use crate::recipe::{self, CONFIGURATION, CONTEXT, DOCKERFILE, DOCKERFILE_NAME};
use crate::session::{Activity, Session, unique};
use crate::sync::{Folder, Source};
use crate::wire::{self, Channel, Manner, Wire};
use crate::{emit, failure};
use bollard_buildkit_proto::google::rpc;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::{
    self, PingRequest, PongResponse, ReturnRequest, ReturnResponse,
};
use bollard_buildkit_proto::moby::buildkit::v1::{SolveRequest, SolveResponse, StatusRequest, StatusResponse};
use bollard_buildkit_proto::pb::Definition;
use oci::Digest;
use protocol::engine::{Build, Event, Export, Failure, Lack, Outcome, Recipe, Store};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::error::Error as _;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tonic::{Code, Status};

const SOLVE: &str = "/moby.buildkit.v1.Control/Solve";
const STATUS: &str = "/moby.buildkit.v1.Control/Status";
const SESSION: &str = "/moby.buildkit.v1.Control/Session";
const PING: &str = "/moby.buildkit.v1.frontend.LLBBridge/Ping";
const BRIDGE_SOLVE: &str = "/moby.buildkit.v1.frontend.LLBBridge/Solve";
const BRIDGE_RETURN: &str = "/moby.buildkit.v1.frontend.LLBBridge/Return";
/// Which build a frontend belongs to.
const BUILD_ID: &str = "buildkit-controlapi-buildid";
/// Within this time of its request a build has begun.
const EXPECTED: Duration = Duration::from_secs(10);
/// Unpacking and compressing say nothing while they last.
const STALL: Duration = Duration::from_secs(600);
/// An instruction that compiles may be as silent for longer.
const STALL_IN_INSTRUCTION: Duration = Duration::from_secs(3600);
/// Ends the name of an archive in zstd; engines that do not know it would put the archive itself into the image.
const ZSTD: &str = ".zst";
/// How long the last of the progress may take when the result is there.
const REST: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);
/// Of what a step printed, for the message when it fails.
const LAST_LINES: usize = 20;

pub async fn build(connected: &Connected, build: Build) -> Result<Outcome, Failure> {
    let exporter = exporter(connected, &build)?;
    let unreadable = |cause: io::Error| Failure::Unreadable { message: cause.to_string() };
    let (activity, mut progress) = (Arc::new(Activity::default()), Progress::default());
    let session = Arc::new(Session {
        id: unique(),
        shared_key: build.name.clone(),
        folders: folders(&build).map_err(unreadable)?,
        secrets: build.secrets.clone(),
        logins: build.logins.clone(),
        export: match &build.export {
            Export::Archive { file } => Some(file.clone()),
            Export::Store { .. } => None,
        },
        activity: activity.clone(),
    });
    let (request, frontend) = (recipe::request(&build, &session.id, exporter), frontend(&build));
    let stall = match build.recipe {
        Recipe::Layers { .. } => STALL,
        Recipe::Dockerfile { .. } => STALL_IN_INSTRUCTION,
    };
    let solved = solve(connected, &session, request, frontend, &mut progress, stall).await;
    let answer = solved.map_err(|status| explain(connected, status, &activity, &mut progress))?;
    let id = id(&answer);
    if let Export::Store { reference } = &build.export {
        must_be_there(connected, reference, &id).await?;
    }
    let (cached, ran) = progress.counted();
    Ok(Outcome::Built { id, sent_bytes: activity.sent_bytes(), cached, ran })
}

/// What becomes of the result, in the builder's words. What it cannot do is said before anything is sent.
fn exporter(connected: &Connected, build: &Build) -> Result<&'static str, Failure> {
    let unable = |lacks| Err(Failure::Unable { engine: connected.name(), lacks });
    let engine = &connected.engine;
    if !engine.buildkit {
        return unable(Lack::BuildKit);
    }
    if let Recipe::Layers { archives, .. } = &build.recipe
        && !engine.zstd
        && archives.iter().any(|archive| archive.ends_with(ZSTD))
    {
        return Err(Failure::NoZstd { engine: connected.name(), reference: build.name.clone() });
    }
    match (&build.export, engine.store) {
        (Export::Store { .. }, Store::None) => unable(Lack::Store),
        (Export::Store { .. }, _) => Ok("moby"),
        (Export::Archive { .. }, Store::Docker) => unable(Lack::OciExport),
        (Export::Archive { .. }, _) => Ok("oci"),
    }
}

fn folders(build: &Build) -> io::Result<BTreeMap<&'static str, Arc<Folder>>> {
    let files = build.context.iter().map(|(path, file)| (path.clone(), Source::File(file.clone())));
    let mut folders = BTreeMap::from([(CONTEXT, Arc::new(Folder::new(&files.collect())?))]);
    if let Recipe::Dockerfile { text, .. } = &build.recipe {
        let time = i64::from_str_radix(&Digest::of(text.as_bytes()).hex()[..12], 16).unwrap_or_default();
        let file = (DOCKERFILE_NAME.to_owned(), Source::Text { text: text.clone(), time });
        folders.insert(DOCKERFILE, Arc::new(Folder::new(&[file].into())?));
    }
    Ok(folders)
}

/// A connection for questions, and one that brings the builder to us.
pub async fn attach(connected: &Connected, session: &Session) -> Result<(Channel, Wire), Status> {
    let manner = connected.manner();
    let lost = |cause: io::Error| Status::unavailable(cause.to_string());
    let dial = || wire::dial(&connected.place, manner);
    let wire = dial().await.map_err(lost)?;
    match manner {
        Manner::Native => {
            let channel = Channel::over(wire).await.map_err(lost)?;
            let tunnel = channel.tunnel(SESSION, &session.headers()).await?;
            Ok((channel, tunnel))
        }
        Manner::Upgraded => {
            let upgraded = wire::upgrade(wire, "/grpc", &Vec::new()).await.map_err(lost)?;
            let channel = Channel::over(upgraded).await.map_err(lost)?;
            let wire = dial().await.map_err(lost)?;
            Ok((channel, wire::upgrade(wire, "/session", &session.headers()).await.map_err(lost)?))
        }
    }
}

async fn solve(
    connected: &Connected,
    session: &Arc<Session>,
    request: SolveRequest,
    frontend: Option<Frontend>,
    progress: &mut Progress,
    stall: Duration,
) -> Result<SolveResponse, Status> {
    let (channel, wire) = attach(connected, session).await?;
    let reference = request.r#ref.clone();
    let news = AtomicU64::new(0);
    let follow = async {
        let Ok(mut statuses) = channel.follow(STATUS, StatusRequest { r#ref: reference }).await else { return };
        while let Ok(Some(status)) = statuses.message().await {
            news.fetch_add(1, Ordering::Relaxed);
            progress.hear(&status);
        }
    };
    // What fails in it, the answer to the whole build says.
    let lead = async {
        if let Some(frontend) = frontend {
            let _ = frontend.lead(&channel, &session.id).await;
        }
    };
    let solve = channel.ask::<_, SolveResponse>(SOLVE, request);
    let watch = async {
        let moved = || (news.load(Ordering::Relaxed), session.activity.moved_bytes());
        let (mut last, mut since) = (moved(), Instant::now());
        while since.elapsed() < stall {
            tokio::time::sleep(TICK).await;
            if moved() != last {
                (last, since) = (moved(), Instant::now());
            }
        }
    };
    let serve = session.clone().serve(wire);
    tokio::pin!(serve, follow, lead, solve, watch);
    let (mut followed, mut served, mut led) = (false, false, false);
    let answer = loop {
        tokio::select! {
            answer = &mut solve => break answer,
            () = &mut watch => break Err(Status::deadline_exceeded(stall.as_secs().to_string())),
            () = &mut follow, if !followed => followed = true,
            () = &mut lead, if !led => led = true,
            // Why it went, its answer says.
            _ = &mut serve, if !served => served = true,
        }
    };
    if !followed {
        let _ = tokio::time::timeout(REST, &mut follow).await;
    }
    answer
}

fn frontend(build: &Build) -> Option<Frontend> {
    match &build.recipe {
        Recipe::Layers { archives, config } => {
            Some(Frontend { graph: recipe::layers(archives, &build.name, build.no_cache), config: config.clone() })
        }
        Recipe::Dockerfile { .. } => None,
    }
}

/// What a frontend of BuildKit does: it has a graph built, and says what the image over the result is like.
struct Frontend {
    graph: Definition,
    config: String,
}

impl Frontend {
    async fn lead(self, channel: &Channel, build: &str) -> Result<(), Status> {
        let belongs = vec![(BUILD_ID, build.to_owned())];
        // The builder takes a moment to expect us.
        let deadline = Instant::now() + EXPECTED;
        while let Err(status) = channel.ask_with::<_, PongResponse>(PING, PingRequest {}, &belongs).await {
            if Instant::now() > deadline {
                return Err(status);
            }
            tokio::time::sleep(TICK / 10).await;
        }
        let question = frontend::SolveRequest {
            definition: Some(self.graph),
            allow_result_return: true,
            allow_result_array_ref: true,
            evaluate: true,
            ..frontend::SolveRequest::default()
        };
        let returned = match channel.ask_with::<_, frontend::SolveResponse>(BRIDGE_SOLVE, question, &belongs).await {
            Ok(solved) => {
                let mut result = solved.result.unwrap_or_default();
                result.metadata.insert(CONFIGURATION.to_owned(), self.config.into_bytes());
                ReturnRequest { result: Some(result), error: None }
            }
            Err(status) => {
                let (code, message) = (status.code().into(), status.message().to_owned());
                ReturnRequest { result: None, error: Some(rpc::Status { code, message, details: Vec::new() }) }
            }
        };
        channel.ask_with::<_, ReturnResponse>(BRIDGE_RETURN, returned, &belongs).await.map(drop)
    }
}

fn id(answer: &SolveResponse) -> String {
    answer.exporter_response.get("containerimage.digest").cloned().unwrap_or_default()
}

/// The result is looked at, not believed.
async fn must_be_there(connected: &Connected, reference: &str, id: &str) -> Result<(), Failure> {
    let Access::Engine(docker) = &connected.access else { return Ok(()) };
    let engine = connected.name();
    let found = docker.inspect_image(reference).await.map_err(|error| failure::of(&engine, &error))?;
    let found = found.id.unwrap_or_default();
    if found == id {
        return Ok(());
    }
    let message = format!("it says that it built {id}, and has {found} as {reference}");
    Err(Failure::Refused { engine, message })
}

fn explain(connected: &Connected, status: Status, activity: &Activity, progress: &mut Progress) -> Failure {
    let engine = connected.name();
    // Builders put the chain of their calls before what happened.
    let message = status.message().trim_start_matches("failed to solve: ").to_owned();
    if let Some(message) = activity.broken() {
        return Failure::Unreadable { message };
    }
    if status.code() == Code::DeadlineExceeded
        && let Ok(seconds) = message.parse()
    {
        return Failure::Stalled { engine, seconds };
    }
    if let Some((step, output)) = progress.failed() {
        return match failure::refused(engine, message) {
            Failure::Refused { engine, message } => Failure::StepFailed { engine, step, message, output },
            full => full,
        };
    }
    // What a builder says has no cause on our side; a connection that breaks under its answer has.
    match (status.code(), status.source()) {
        (_, Some(cause)) => Failure::Lost { engine, message: format!("{message}: {cause}") },
        (Code::Unavailable | Code::Cancelled, None) => Failure::Lost { engine, message },
        _ => failure::refused(engine, message),
    }
}

/// What a builder tells of its steps.
#[derive(Default)]
struct Progress {
    /// Digest of a step → its name.
    names: HashMap<String, String>,
    told: BTreeSet<String>,
    cached: BTreeSet<String>,
    ran: BTreeSet<String>,
    /// The first step that failed.
    failed: Option<String>,
    /// The last lines of each step.
    printed: HashMap<String, VecDeque<String>>,
}

impl Progress {
    fn hear(&mut self, status: &StatusResponse) {
        for vertex in &status.vertexes {
            self.names.insert(vertex.digest.clone(), vertex.name.clone());
            // A builder's own housekeeping is no step of the build: it reads what it is sent, looks images up, and exports.
            let is_internal = vertex.name.starts_with("[internal]")
                || vertex.name == recipe::FILES
                || vertex.name.contains("] FROM ")
                || vertex.name.starts_with("exporting to ");
            if vertex.started.is_some() && self.told.insert(vertex.digest.clone()) {
                emit(&Event::Building { name: vertex.name.clone() });
            }
            if vertex.cached && !is_internal {
                self.cached.insert(vertex.digest.clone());
            } else if vertex.completed.is_some() && !is_internal {
                self.ran.insert(vertex.digest.clone());
            }
            // Those that wait for the failed one are cancelled, and say so as an error of theirs.
            if !vertex.error.is_empty() && !vertex.error.ends_with("context canceled") {
                self.failed.get_or_insert_with(|| vertex.digest.clone());
            }
        }
        for log in &status.logs {
            let text = String::from_utf8_lossy(&log.msg).into_owned();
            let lines = self.printed.entry(log.vertex.clone()).or_default();
            lines.extend(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned));
            lines.drain(..lines.len().saturating_sub(LAST_LINES));
            // The conductor keeps it as this build's log.
            let _ = io::stderr().write_all(text.as_bytes());
        }
    }

    /// Steps that were there already, and the others.
    fn counted(&self) -> (usize, usize) {
        (self.cached.len(), self.ran.difference(&self.cached).count())
    }

    /// The step that failed and the last that it printed.
    fn failed(&mut self) -> Option<(String, String)> {
        let digest = self.failed.take()?;
        let lines: Vec<String> = self.printed.remove(&digest).unwrap_or_default().into();
        Some((self.names.remove(&digest).unwrap_or_default(), lines.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard_buildkit_proto::google::protobuf::Timestamp;
    use bollard_buildkit_proto::moby::buildkit::v1::{Vertex, VertexLog};

    fn vertex(digest: &str, cached: bool, error: &str) -> Vertex {
        let time = Some(Timestamp::default());
        let (digest, name) = (digest.to_owned(), format!("step {digest}"));
        Vertex { digest, name, cached, started: time, completed: time, error: error.to_owned(), ..Vertex::default() }
    }

    #[test]
    fn the_step_that_failed_is_named_with_its_last_lines_and_not_those_that_were_cancelled_for_it() {
        let mut progress = Progress::default();
        let text: String = (0..30).map(|line| format!("line {line}\n\n")).collect();
        let log = VertexLog { vertex: "b".to_owned(), msg: text.into_bytes(), ..VertexLog::default() };
        let cancelled = vertex("a", false, "rpc error: context canceled");
        let vertexes = vec![cancelled, vertex("b", false, "exit code: 1"), vertex("c", true, "")];
        progress.hear(&StatusResponse { vertexes, logs: vec![log], ..StatusResponse::default() });
        assert_eq!(progress.counted(), (1, 2));
        let (step, output) = progress.failed().unwrap();
        assert_eq!((step.as_str(), output.lines().next()), ("step b", Some("line 10")));
    }
}
