//! Our side of the engine satellite: started when an engine is needed, spoken to in JSON lines, gone when we are.
//!
//! Owns: where an engine is looked for (`place`), and its failures as ours. Never: know what an image is made of.

pub mod place;

use crate::error::{Code, Error, Result};
use crate::interrupt;
use crate::process::{Companion, Invocation};
use crate::report::bytes;
use crate::tr;
use protocol::engine::{
    Build, Builder, Engine, Event, Failure, Image, Job, Lack, Loaded, Outcome, Place, Request, SCHEMA, Silent,
    SilentCause, Store,
};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Who answers at these places, and what it can do.
pub fn probe(invocation: Invocation, log: &Path, places: Vec<Place>) -> Result<(Engine, Option<Builder>)> {
    match ask(invocation, log, places, Job::Probe, |_| {})? {
        (engine, Outcome::Probed { builder }) => Ok((engine, builder)),
        (_, other) => Err(unexpected(&other)),
    }
}

/// Brings images into the engine that answers; what it has already does not travel. `progress` hears how far it is.
/// Gives the engine, each image as it has it, and how many bytes were sent.
pub fn load(
    invocation: Invocation,
    log: &Path,
    places: Vec<Place>,
    images: Vec<Image>,
    progress: impl FnMut(String),
) -> Result<(Engine, Vec<Loaded>, u64)> {
    match ask(invocation, log, places, Job::Load { images }, progress)? {
        (engine, Outcome::Loaded { images, sent_bytes }) => Ok((engine, images, sent_bytes)),
        (_, other) => Err(unexpected(&other)),
    }
}

/// What came of a build.
pub struct Built {
    pub engine: Engine,
    /// By which the engine knows the image, or the digest of what was exported.
    pub id: String,
    pub sent_bytes: u64,
    /// Of its steps, those that the builder had and the others.
    pub cached: usize,
    pub ran: usize,
}

/// Has an image made by the BuildKit that answers. `progress` hears its steps; what they print is in the log.
pub fn build(
    invocation: Invocation,
    log: &Path,
    places: Vec<Place>,
    build: Build,
    progress: impl FnMut(String),
) -> Result<Built> {
    match ask(invocation, log, places, Job::Build(build), progress)? {
        (engine, Outcome::Built { id, sent_bytes, cached, ran }) => Ok(Built { engine, id, sent_bytes, cached, ran }),
        (_, other) => Err(unexpected(&other)),
    }
}

fn unexpected(outcome: &Outcome) -> Error {
    Error::bug(tr!("the engine satellite answered another question: {outcome}", outcome = format_args!("{outcome:?}")))
}

/// One process for one question: it costs a few milliseconds, and nothing is left of it.
fn ask(
    invocation: Invocation,
    log: &Path,
    places: Vec<Place>,
    job: Job,
    mut progress: impl FnMut(String),
) -> Result<(Engine, Outcome)> {
    let request = serde_json::to_string(&Request { schema: SCHEMA, places, job })
        .map_err(|error| Error::bug(tr!("cannot serialise a request")).because(error))?;
    let mut companion = Companion::start("engine", &invocation, log, true)?;
    let (mut stdin, stdout) = companion.pipes().ok_or_else(|| Error::bug(tr!("the engine satellite has no pipes")))?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let broken =
        |error| Error::bug(tr!("the engine satellite ended; its log: {log}", log = log.display())).because(error);
    writeln!(stdin, "{request}").map_err(|error| broken(error.to_string()))?;
    loop {
        interrupt::check()?;
        let line = match lines.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Timeout) => continue,
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(gone(&mut companion, log)),
        };
        match serde_json::from_str(&line).map_err(|error| broken(error.to_string()))? {
            Event::Progress { sent_bytes, total_bytes } => {
                progress(tr!("{received} of {total}", received = bytes(sent_bytes), total = bytes(total_bytes)));
            }
            Event::Building { name } => progress(name),
            Event::Done { engine, outcome } => return Ok((engine, outcome)),
            Event::Failed { failure } => return Err(explain(failure)),
        }
    }
}

/// Its output ends just before it does. Somebody may have killed it (a machine out of memory does); only a crash is a defect.
fn gone(companion: &mut Companion, log: &Path) -> Error {
    let status = (0..20).find_map(|_| {
        thread::sleep(Duration::from_millis(10));
        companion.ended()
    });
    match status {
        Some(status) if status.signal().is_some() => {
            Error::new(Code::ChildFailed, tr!("the engine satellite was killed ({status})", status))
                .hint(tr!("run the command again: what the engine has by then is not sent twice"))
        }
        _ => Error::bug(tr!("the engine satellite ended; its log: {log}", log = log.display())),
    }
}

/// Which engine answered and who named it, in a line.
pub fn told(engine: &Engine) -> String {
    let Engine { name, version, api, address, origin, .. } = engine;
    if api.is_empty() {
        return tr!("{name} {version} at {address} ({origin})", name, version, address, origin);
    }
    tr!("{name} {version} (API {api}) at {address} ({origin})", name, version, api, address, origin)
}

/// What it can do, a line each.
pub fn abilities(engine: &Engine, builder: Option<&Builder>) -> Vec<String> {
    let store = match engine.store {
        Store::Docker => tr!("images: kept by Docker itself; only layers that it lacks are sent"),
        Store::Containerd => tr!("images: kept by containerd; an image that it lacks is sent whole"),
        Store::Containers => tr!("images: kept as podman does; an image that it lacks is sent whole"),
        Store::None => tr!("images: not kept; it builds and hands out"),
    };
    let codecs = if engine.zstd { "gzip, zstd" } else { "gzip" };
    let mut lines =
        vec![tr!("platform: {platform}", platform = engine.platform), store, tr!("layers: {codecs}", codecs)];
    let Some(builder) = builder else {
        lines.push(tr!("builds: no BuildKit"));
        return lines;
    };
    let version = if builder.version.is_empty() { tr!("before 0.11") } else { builder.version.clone() };
    let list = |words: &[String]| if words.is_empty() { tr!("none") } else { words.join(", ") };
    lines.extend([
        tr!("builds: BuildKit {version}, for {platforms}", version, platforms = list(&builder.platforms)),
        tr!("results: {exporters}", exporters = list(&builder.exporters)),
        tr!("cache for others: {caches}", caches = list(&builder.caches)),
        if builder.named_contexts { tr!("named contexts: yes") } else { tr!("named contexts: no") },
    ]);
    lines
}

/// The satellite's failure as ours: what happened, and what to do.
fn explain(failure: Failure) -> Error {
    match failure {
        Failure::NoEngine { silent } => no_engine(&silent),
        Failure::TooOld { engine, api, needed } => Error::new(
            Code::EngineFailed,
            tr!("{engine} speaks version {api} of Docker's API, and {needed} is needed", engine, api, needed),
        )
        .hint(tr!("update it: Docker 20.10 or podman 3 are new enough; or write an archive for it: --to tar:images.tar")),
        Failure::Full { engine, message } => {
            Error::new(Code::DiskFull, tr!("the disk of the engine is full: {engine}", engine))
                .because(message)
                .hint(tr!("make room there and run the command again: `docker system df` shows what it keeps, `docker image prune` removes images without a name"))
        }
        Failure::Refused { engine, message } => {
            Error::new(Code::EngineFailed, tr!("{engine} refused", engine)).because(message).hint(tr!(
                "its own log says more: `journalctl --unit docker`; the same images as an archive: --to tar:images.tar"
            ))
        }
        Failure::NoZstd { engine, reference } => Error::new(
            Code::EngineFailed,
            tr!("{engine} takes no layers in zstd, and {reference} has some", engine, reference),
        )
        .hint(tr!("update it (Docker 23 and podman take them), or declare codec = \"gzip\" for that image")),
        Failure::Lost { engine, message } => {
            Error::new(Code::EngineFailed, tr!("{engine} went away in the middle of its work", engine))
                .because(message)
                .hint(tr!("start it again and run the command again: what it has by then is not sent twice"))
        }
        Failure::Stalled { engine, seconds } => {
            Error::new(Code::EngineFailed, tr!("{engine} did nothing for {seconds} s", engine, seconds))
                .hint(tr!("restart it and run the command again: what it has by then is not sent twice"))
        }
        Failure::Unable { engine, lacks } => unable(&engine, lacks),
        Failure::StepFailed { engine, step, message, output } => {
            let error = Error::new(Code::ChildFailed, tr!("{step} failed on {engine}", step, engine)).because(message);
            if output.is_empty() { error } else { error.excerpt(output) }
        }
        Failure::Unreadable { message } => Error::new(Code::AlteredObject, tr!("a layer cannot be sent"))
            .because(message)
            .hint(tr!("`cargo xtask cache verify` looks at what is stored; what is broken there is made anew")),
        Failure::Bug { message } => Error::bug(tr!("the engine satellite failed: {message}", message)),
    }
}

/// What an engine cannot do is refused by name.
fn unable(engine: &str, lacks: Lack) -> Error {
    let (message, hint) = match lacks {
        Lack::BuildKit => (
            tr!("{engine} has no BuildKit", engine),
            tr!("leave the building to this tool: --builder embedded; or name a builder: --builder buildkit://HOST"),
        ),
        Lack::OciExport => (
            tr!("{engine} does not hand out what it builds (it has no exporter `oci`)", engine),
            tr!(
                "keep the image there: --to docker; or choose another builder: --builder embedded, --builder buildkit://HOST"
            ),
        ),
        Lack::Store => (
            tr!("{engine} keeps no images", engine),
            tr!("say where they go: --to oci:DIR, --to registry:HOST/PATH; --to docker brings them into an engine"),
        ),
    };
    Error::new(Code::EngineFailed, message).hint(hint)
}

fn no_engine(silent: &[Silent]) -> Error {
    // Of the usual places only those are of interest where there is something.
    let found = |it: &&Silent| silent.len() == 1 || it.cause != SilentCause::Absent;
    let looked = silent.iter().filter(found).collect::<Vec<_>>();
    let denied = looked.iter().copied().find(|it| it.cause == SilentCause::Denied);
    let (code, message) = match (denied, looked.as_slice()) {
        (Some(it), _) => {
            let socket = it.address.trim_start_matches("unix://");
            (Code::PermissionDenied, tr!("this user may not open {socket}, where a container engine listens", socket))
        }
        (None, [only]) => (
            Code::NoEngine,
            tr!("no container engine answers at {address} ({origin})", address = only.address, origin = only.origin),
        ),
        (None, _) => (Code::NoEngine, tr!("no container engine answers")),
    };
    let listed = if looked.is_empty() { silent.iter().collect() } else { looked };
    let lines = listed.iter().map(|it| format!("  - {} ({}): {}", it.address, it.origin, cause(&it.cause)));
    let error = Error::new(code, message).excerpt(lines.collect::<Vec<_>>().join("\n"));
    match denied {
        Some(_) => error.hint(tr!(
            "join the group that owns it, and log in again: sudo usermod --append --groups docker \"$USER\" (its members are as mighty as root); or run an engine of your own, without root"
        )),
        None => error.hint(tr!(
            "start one (`sudo systemctl start docker`), or say where it listens: --engine unix:///PATH; with no engine at all write an archive: --to tar:images.tar"
        )),
    }
}

fn cause(cause: &SilentCause) -> String {
    match cause {
        SilentCause::Absent => tr!("there is no such socket"),
        SilentCause::Refused => tr!("the connection was refused"),
        SilentCause::Denied => tr!("this user may not open it"),
        SilentCause::NoAnswer { seconds } => tr!("no answer within {seconds} s", seconds),
        SilentCause::Said { text } => text.clone(),
    }
}

/// Where nothing can answer nothing is built to ask.
pub fn must_be_somewhere(places: &[Place]) -> Result<()> {
    let absent = |place: &Place| {
        let path = place.address.strip_prefix("unix://").or_else(|| place.address.strip_prefix("buildkit://"))?;
        let path = Some(path).filter(|path| path.starts_with('/'))?;
        // A socket that this user may not even see is there.
        let missing = std::fs::metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        missing.then(|| Silent {
            address: place.address.clone(),
            origin: place.origin.clone(),
            cause: SilentCause::Absent,
        })
    };
    let silent: Vec<Silent> = places.iter().filter_map(absent).collect();
    if silent.len() < places.len() { Ok(()) } else { Err(no_engine(&silent)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str, cause: SilentCause) -> Silent {
        Silent { address: address.to_owned(), origin: "usual place".to_owned(), cause }
    }

    #[test]
    fn a_socket_that_this_user_may_not_open_is_the_reason_before_those_that_are_not_there() {
        let silent = vec![
            at("unix:///run/user/7/docker.sock", SilentCause::Absent),
            at("unix:///var/run/docker.sock", SilentCause::Denied),
        ];
        let error = explain(Failure::NoEngine { silent });
        assert_eq!(error.code(), Code::PermissionDenied);
        expect_test::expect![[r#"
            error[XT0603]: this user may not open /var/run/docker.sock, where a container engine listens
              - unix:///var/run/docker.sock (usual place): this user may not open it
            hint: join the group that owns it, and log in again: sudo usermod --append --groups docker "$USER" (its members are as mighty as root); or run an engine of your own, without root"#]]
        .assert_eq(&error.render());
    }

    #[test]
    fn each_failure_of_an_engine_has_its_code_and_its_way_out() {
        let engine = || "Docker 20.10.24 at unix:///s".to_owned();
        let message = || "because".to_owned();
        for (failure, code) in [
            (Failure::Full { engine: engine(), message: message() }, Code::DiskFull),
            (Failure::Refused { engine: engine(), message: message() }, Code::EngineFailed),
            (Failure::NoZstd { engine: engine(), reference: message() }, Code::EngineFailed),
            (Failure::Lost { engine: engine(), message: message() }, Code::EngineFailed),
            (Failure::Stalled { engine: engine(), seconds: 600 }, Code::EngineFailed),
            (Failure::TooOld { engine: engine(), api: "1.40".into(), needed: "1.41".into() }, Code::EngineFailed),
            (Failure::NoEngine { silent: vec![at("tcp://h:1", SilentCause::Refused)] }, Code::NoEngine),
            (Failure::Unreadable { message: message() }, Code::AlteredObject),
            (Failure::Unable { engine: engine(), lacks: Lack::BuildKit }, Code::EngineFailed),
            (Failure::Unable { engine: engine(), lacks: Lack::OciExport }, Code::EngineFailed),
            (Failure::Unable { engine: engine(), lacks: Lack::Store }, Code::EngineFailed),
        ] {
            let error = explain(failure);
            assert_eq!((error.code(), error.hints().len()), (code, 1), "{}", error.render());
        }
    }
}
