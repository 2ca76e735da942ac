//! Our side of the gateway: started when the first byte is needed, spoken to in JSON lines, gone when we are.
//!
//! This module knows the protocol and nothing of what is fetched or why.

use crate::cause;
use crate::error::{Code, Error, Result, disk_code};
use crate::interrupt;
use crate::language::{self, translated};
use crate::process::{Companion, Invocation};
use crate::registry::BaseReference;
use crate::report::{Event as Report, Finding, Severity, Sink, bytes};
use crate::tr;
use protocol::{
    Artifact, Attempt, Cause, Ecosystem, Event, Failure, FailureKind, Job, ListedFile, Outcome, ProbeReport, Push,
    Pushed, Request, Setup, Trouble, Unpack, UnpackedFile, Verdict,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

/// The egress ledger of a run, beside its logs: a JSON object for each request to an upstream.
pub const LEDGER: &str = "egress.jsonl";
/// How long a started gateway may take to answer.
const READY_SECONDS: u64 = 20;

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    stdin: Mutex<ChildStdin>,
    shared: Arc<Shared>,
    next_id: AtomicU64,
    /// Where children reach it.
    pub door: Door,
}

/// Where children reach the gateway, for this run only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    pub address: String,
    pub password: String,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<HashMap<u64, mpsc::Sender<Answer>>>,
    /// What the gateway refused to children of each step.
    refused: Mutex<Vec<(String, Failure)>>,
    /// Upstream → what is fetched from it: the name of its list in a profile.
    lists: Lists,
    /// What a person has been told of an upstream once.
    told: Mutex<BTreeSet<(String, String, String)>>,
    /// How the gateway ended, and its log.
    ended: Mutex<Option<(ExitStatus, PathBuf)>>,
}

type Lists = BTreeMap<String, String>;

fn lists(setup: &Setup) -> Lists {
    let plain = setup.upstreams.iter().flat_map(|(it, list)| list.iter().map(|upstream| (*it, upstream)));
    let of = |ecosystem, map: &BTreeMap<String, Vec<protocol::Upstream>>| {
        map.values().flatten().map(|upstream| (ecosystem, upstream.clone())).collect::<Vec<_>>()
    };
    let templates = [of(Ecosystem::Oci, &setup.registries), of(Ecosystem::File, &setup.files)].concat();
    let all = plain.chain(templates.iter().map(|(it, upstream)| (*it, upstream)));
    all.map(|(it, upstream)| (upstream.url.clone(), name(&it))).collect()
}

#[derive(Debug)]
enum Answer {
    Progress { received_bytes: u64, total_bytes: Option<u64> },
    Done(Outcome),
    Failed(Failure),
}

/// What a person must hear of a push that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedBy {
    /// `registry.example/team/extproc:v1`
    pub reference: String,
    pub host: String,
    /// The file or the helper that knows who we are there.
    pub named_by: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub path: PathBuf,
    pub upstream: Option<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gateway {
    pub fn start(invocation: Invocation, setup: &Setup, log: PathBuf, sink: Sink) -> Result<Self> {
        let shared = Arc::new(Shared { lists: lists(setup), ..Shared::default() });
        let setup = line(setup)?;
        let heard = Arc::clone(&shared);
        let (sender, started) = mpsc::channel();
        // The thread that starts the gateway also lives for it: the kernel ends a companion with its thread.
        thread::spawn(move || live(&invocation, &setup, &log, &heard, &sink, &sender));
        let (stdin, door) = match started.recv_timeout(Duration::from_secs(READY_SECONDS)) {
            Ok(started) => started?,
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(shared.gone()),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Err(Error::bug(tr!(
                    "the gateway did not answer within {ready_seconds} s",
                    ready_seconds = READY_SECONDS
                )));
            }
        };
        Ok(Self { stdin: Mutex::new(stdin), shared, next_id: AtomicU64::new(1), door })
    }

    /// Brings an artifact into the downloads folder; `progress` hears how far it is.
    pub fn fetch(&self, step: &str, artifact: Artifact, progress: impl FnMut(String)) -> Result<Fetched> {
        match self.request(step, Job::Fetch { artifact }, progress)? {
            Outcome::Fetched { path, upstream, .. } => Ok(Fetched { path, upstream }),
            other => Err(unexpected(&other)),
        }
    }

    pub fn unpack(&self, unpack: Unpack) -> Result<Vec<UnpackedFile>> {
        match self.request("", Job::Unpack(unpack), |_| {})? {
            Outcome::Unpacked { files } => Ok(files),
            other => Err(unexpected(&other)),
        }
    }

    pub fn list(&self, project: &str) -> Result<Vec<ListedFile>> {
        match self.request("lock", Job::List { project: project.to_owned() }, |_| {})? {
            Outcome::Listed { files } => Ok(files),
            other => Err(unexpected(&other)),
        }
    }

    /// The newest InRelease of a suite (`base/dists/bookworm`) as it came: nobody checked its signature.
    pub fn release(&self, suite: &str) -> Result<String> {
        match self.request("lock", Job::Release { suite: suite.to_owned() }, |_| {})? {
            Outcome::Released { text } => Ok(text),
            other => Err(unexpected(&other)),
        }
    }

    /// Measures upstreams, all within the budget.
    pub fn probe(&self, ecosystems: Vec<Ecosystem>, budget: Duration) -> Result<Vec<ProbeReport>> {
        let budget_milliseconds = u64::try_from(budget.as_millis()).unwrap_or(u64::MAX);
        match self.request("probe", Job::Probe { ecosystems, budget_milliseconds }, |_| {})? {
            Outcome::Probed { reports } => Ok(reports),
            other => Err(unexpected(&other)),
        }
    }

    /// What a step's children asked for and no upstream had in the pinned form, since the last call for it.
    pub fn refused(&self, step: &str) -> Option<Error> {
        self.shared.refused(step)
    }

    /// A blob of a base.
    pub fn pull(
        &self,
        step: &str,
        base: &BaseReference,
        artifact: Artifact,
        progress: impl FnMut(String),
    ) -> Result<Fetched> {
        match self.answer(step, Job::Fetch { artifact }, progress)? {
            Ok(Outcome::Fetched { path, upstream, .. }) => Ok(Fetched { path, upstream }),
            Ok(other) => Err(unexpected(&other)),
            Err(failure) => Err(not_pulled(&failure, base, &self.shared.lists)),
        }
    }

    /// A manifest or index of a base, by tag or digest: media type, text, and who gave it.
    pub fn manifest(&self, base: &BaseReference, reference: &str) -> Result<(String, String, String)> {
        let job = Job::Manifest { repository: base.name(), reference: reference.to_owned() };
        match self.answer("lock", job, |_| {})? {
            Ok(Outcome::Manifest { media_type, text, upstream }) => Ok((media_type, text, upstream)),
            Ok(other) => Err(unexpected(&other)),
            Err(failure) => Err(not_pulled(&failure, base, &self.shared.lists)),
        }
    }

    /// Puts an image into a registry.
    pub fn push(&self, step: &str, push: Push, by: &PushedBy, progress: impl FnMut(String)) -> Result<Pushed> {
        match self.answer(step, Job::Push(push), progress)? {
            Ok(Outcome::Pushed(pushed)) => Ok(pushed),
            Ok(other) => Err(unexpected(&other)),
            Err(failure) => Err(not_pushed(&failure, by)),
        }
    }

    fn request(&self, step: &str, job: Job, progress: impl FnMut(String)) -> Result<Outcome> {
        self.answer(step, job, progress)?.map_err(|failure| explain(&failure, &self.shared.lists))
    }

    /// # Errors: where there is no answer, whatever it says.
    fn answer(
        &self,
        step: &str,
        job: Job,
        mut progress: impl FnMut(String),
    ) -> Result<std::result::Result<Outcome, Failure>> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel();
        locked(&self.shared.waiting).insert(id, sender);
        let text = line(&Request { id, step: step.to_owned(), job })?;
        locked(&self.stdin).write_all(text.as_bytes()).map_err(|error| self.shared.gone().because(error))?;
        loop {
            interrupt::check()?;
            match receiver.recv_timeout(Duration::from_millis(100)) {
                Ok(Answer::Progress { received_bytes, total_bytes }) => progress(match total_bytes {
                    Some(total) => tr!("{received} of {total}", received = bytes(received_bytes), total = bytes(total)),
                    None => bytes(received_bytes),
                }),
                Ok(Answer::Done(outcome)) => return Ok(Ok(outcome)),
                Ok(Answer::Failed(failure)) => return Ok(Err(failure)),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(self.shared.gone());
                }
            }
        }
    }
}

type Started = mpsc::Sender<Result<(ChildStdin, Door)>>;

/// The life of one gateway: greets it, hands its input over once it is ready, and passes on what it says until it ends.
fn live(invocation: &Invocation, setup: &str, log: &Path, shared: &Shared, sink: &Sink, started: &Started) {
    let greet = || -> Result<(Companion, ChildStdin, std::process::ChildStdout)> {
        let mut companion = Companion::start("gateway", invocation, log, true)?;
        let (mut stdin, stdout) = companion.pipes().ok_or_else(|| Error::bug(tr!("the gateway has no pipes")))?;
        stdin
            .write_all(setup.as_bytes())
            .map_err(|error| Error::bug(tr!("the gateway does not listen")).because(error))?;
        Ok((companion, stdin, stdout))
    };
    let (mut companion, stdin, stdout) = match greet() {
        Ok(greeted) => greeted,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let mut stdin = Some(stdin);
    // The whole account of this run's requests; what a summary says of hosts is drawn from the same lines.
    let mut ledger = File::options().create(true).append(true).open(log.with_file_name(LEDGER)).ok();
    for text in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
        match serde_json::from_str(&text) {
            Ok(Event::Ready { address, password, .. }) => {
                if let Some(stdin) = stdin.take() {
                    let _ = started.send(Ok((stdin, Door { address, password })));
                }
            }
            // It cannot start: its folder, its certificates.
            Ok(Event::Failed { id: 0, failure }) if stdin.is_some() => {
                let _ = started.send(Err(explain(&failure, &shared.lists)));
            }
            Ok(event) => {
                if let (Event::Egress(_), Some(ledger)) = (&event, &mut ledger) {
                    // A full disk loses lines of a log, never the build.
                    let _ = writeln!(ledger, "{text}");
                }
                shared.hear(event, sink)
            }
            Err(_) => sink.note(tr!("gateway: {text}", text)),
        }
    }
    // Its output ends just before it does.
    for _ in 0..20 {
        if let Some(status) = companion.ended() {
            *locked(&shared.ended) = Some((status, log.to_owned()));
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    // Whoever still waits hears that nobody will answer.
    locked(&shared.waiting).clear();
}

impl Shared {
    /// Nobody answers any more. Somebody may have killed it (a machine out of memory does); only a crash is a defect.
    fn gone(&self) -> Error {
        match &*locked(&self.ended) {
            Some((status, log)) if status.signal().is_some() => {
                Error::new(Code::ChildFailed, tr!("the gateway was killed ({status})", status))
                    .hint(tr!("run the command again: what was fetched is kept; its log: {log}", log = log.display()))
            }
            Some((status, log)) => {
                Error::bug(tr!("the gateway ended ({status}); its log: {log}", status, log = log.display()))
            }
            None => Error::bug(tr!("the gateway does not listen any more")),
        }
    }

    /// Steps run side by side: what one was refused is no other's cause.
    fn refused(&self, step: &str) -> Option<Error> {
        let mut all = locked(&self.refused);
        let failures = all.extract_if(.., |(of, _)| of == step).map(|(_, failure)| failure);
        let worst = failures.max_by_key(|failure| failure.kind == FailureKind::Integrity)?;
        Some(explain(&worst, &self.lists))
    }

    fn hear(&self, event: Event, sink: &Sink) {
        let answer = |id: u64, answer: Answer| {
            if let Some(sender) = locked(&self.waiting).get(&id) {
                let _ = sender.send(answer);
            }
        };
        match event {
            Event::Progress { id, received_bytes, total_bytes } => {
                answer(id, Answer::Progress { received_bytes, total_bytes })
            }
            Event::Done { id, outcome } => {
                answer(id, Answer::Done(outcome));
                locked(&self.waiting).remove(&id);
            }
            Event::Failed { id, failure } => {
                answer(id, Answer::Failed(failure));
                locked(&self.waiting).remove(&id);
            }
            Event::Egress(egress) => {
                let mut led_to = egress.redirect_hosts;
                if egress.verdict == Verdict::Forbidden {
                    // We refused the last step of the way; who was asked before answered with a redirect.
                    led_to.pop();
                    if egress.status.is_none() {
                        return;
                    }
                }
                let ecosystem = name(&egress.ecosystem);
                let served = egress.verdict == Verdict::Ok;
                for host in led_to {
                    sink.send(Report::Contacted { ecosystem: format!("{ecosystem} (redirect)"), host, served });
                }
                sink.send(Report::Contacted { ecosystem, host: egress.host, served });
            }
            Event::Finding { code, subject, trouble: Some(trouble), .. } => {
                // Bytes are wrong one by one; whatever else is wrong with an upstream is wrong with all that it sends.
                let of_one = if code == "mirror.hash" { subject.clone() } else { String::new() };
                if !locked(&self.told).insert((trouble.endpoint.clone(), code.clone(), of_one)) {
                    return;
                }
                let subject = match (&trouble.cause, self.lists.get(&trouble.endpoint)) {
                    (Cause::Absent | Cause::OtherBytes { .. } | Cause::Malformed { .. }, _) | (_, None) => subject,
                    (_, Some(list)) => list.clone(),
                };
                let message = passed_over(&trouble);
                sink.send(Report::Finding(Finding { code, severity: Severity::Warning, subject, message, fix: None }));
            }
            Event::Finding { code, subject, message, trouble: None } => {
                // The evidence stays in its sender's words.
                let message = match language::template(&code) {
                    Some(sentence) => format!("{sentence}：{message}"),
                    None => message,
                };
                sink.send(Report::Finding(Finding { code, severity: Severity::Warning, subject, message, fix: None }));
            }
            Event::Refused { step, failure, .. } => locked(&self.refused).push((step, failure)),
            Event::Ready { .. } => {}
        }
    }
}

/// A plain enum value's name, as serde writes it.
pub fn name(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn line(value: &impl serde::Serialize) -> Result<String> {
    let text =
        serde_json::to_string(value).map_err(|error| Error::bug(tr!("cannot serialise a request")).because(error))?;
    Ok(text + "\n")
}

fn unexpected(outcome: &Outcome) -> Error {
    Error::bug(tr!("the gateway answered another question: {outcome}", outcome = format_args!("{outcome:?}")))
}

/// Who did not serve and why, and who is asked now.
fn passed_over(Trouble { endpoint, led_to, cause, next }: &Trouble) -> String {
    let cause = cause::told(cause);
    let what = match led_to {
        Some(host) => tr!("{endpoint}, which leads to {host}: {cause}", endpoint, host, cause),
        None => tr!("{endpoint}: {cause}", endpoint, cause),
    };
    match next {
        Some(next) if next == endpoint => tr!("{what}; it is asked again", what),
        Some(next) => tr!("{what}; {next} is asked instead", what, next),
        None => what,
    }
}

fn code_of(failure: &Failure) -> Code {
    match failure.kind {
        FailureKind::Network => Code::Unreachable,
        FailureKind::Integrity => Code::OtherBytes,
        FailureKind::Disk => os_error(&failure.message).map_or(Code::Disk, |error| disk_code(error.kind())),
        FailureKind::Configuration => Code::NoEndpoint,
        FailureKind::Egress => Code::OutsideProfile,
        FailureKind::Refused => Code::NotPushed,
        FailureKind::Bug => Code::Bug,
    }
}

fn with_attempts(error: Error, failure: &Failure) -> Error {
    let attempts: Vec<String> = failure.attempts.iter().map(|attempt| format!("  - {}", describe(attempt))).collect();
    if attempts.is_empty() { error } else { error.excerpt(attempts.join("\n")) }
}

/// Why a registry did not get an image, and what to do.
pub fn not_pushed(failure: &Failure, by: &PushedBy) -> Error {
    let PushedBy { reference, host, named_by } = by;
    let told = tr!("cannot push {reference}", reference);
    let error = match failure.attempts.is_empty() {
        true => Error::new(code_of(failure), told).because(std::io::Error::other(translated(&failure.message))),
        false => with_attempts(Error::new(code_of(failure), told), failure),
    };
    let cause = failure.attempts.first().map(|attempt| &attempt.cause);
    match (cause, named_by) {
        (Some(Cause::Unauthorized { named: true, .. }), Some(named_by)) => error.hint(tr!(
            "{named_by} says who you are: log in again with `docker login {host}` or `podman login {host}`, or ask for the right to push there",
            named_by,
            host
        )),
        (Some(Cause::Unauthorized { .. }), _) => {
            error.hint(tr!("log in: `docker login {host}` or `podman login {host}`", host))
        }
        (Some(Cause::Outside { host, .. }), _) => error.hint(let_in(host, "NAME")),
        _ => error.hint(tr!("what the registry has by now is not sent again; a tag is set last, so that it never names half an image")),
    }
}

/// Why a base of images does not come, and what to do.
pub fn not_pulled(failure: &Failure, base: &BaseReference, lists: &Lists) -> Error {
    let error = explain(failure, lists).context(tr!("cannot get {reference}", reference = base.to_string()));
    let host = &base.host;
    let unauthorized = failure.attempts.iter().find_map(|it| match it.cause {
        Cause::Unauthorized { named, .. } => Some(named),
        _ => None,
    });
    let nobody_has_it =
        failure.kind == FailureKind::Network && failure.attempts.iter().all(|it| matches!(it.cause, Cause::Absent));
    match (unauthorized, &base.tag) {
        (Some(true), _) => error.hint(tr!(
            "log in again with `docker login {host}` or `podman login {host}`, or ask for the right to pull {name}",
            host,
            name = base.name()
        )),
        (Some(false), _) => error.hint(tr!("log in: `docker login {host}` or `podman login {host}`", host)),
        (None, Some(_)) if nobody_has_it => error.hint(tr!(
            "`cargo xtask lock update {reference}` pins what the tag names now; if there is none, name another, or log in: some registries hide from strangers what they have",
            reference = base.to_string()
        )),
        (None, None) if nobody_has_it => {
            error.hint(tr!("nobody who was asked has it any more: name another digest, or add a mirror that keeps it"))
        }
        _ => error,
    }
}

/// How a profile that forbids a host is told to allow it.
pub fn let_in(host: &str, profile: &str) -> String {
    tr!(
        "add `hosts = [\"{host}\"]` to [mirror.{profile}] in xtask.local.toml, or push with --egress prefer-mirrors",
        host,
        profile
    )
}

/// A gateway's failure as ours: what was wanted, each upstream's part in it, and what to do.
pub fn explain(failure: &Failure, lists: &Lists) -> Error {
    let code = code_of(failure);
    let error = Error::new(
        code,
        tr!("{subject}: {message}", subject = failure.subject, message = translated(&failure.message)),
    );
    let error = with_attempts(error, failure);
    let list = list_of(failure, lists);
    match failure.kind {
        FailureKind::Network => error.hint(way_out(failure, &list)),
        FailureKind::Integrity => error.hint(
            tr!("the bytes are not the pinned ones and were thrown away; take that mirror out of the list, or use another with --mirror"),
        ),
        FailureKind::Egress => {
            let host = failure.attempts.iter().find_map(|it| match &it.cause {
                Cause::Outside { host, .. } => Some(host.as_str()),
                _ => None,
            });
            error.hint(tr!(
                "add `hosts = [\"{host}\"]` to [mirror.{name}] in xtask.local.toml, set egress = \"prefer-mirrors\" there, or put an \
                 endpoint first that keeps its files itself",
                host = host.unwrap_or("HOST"),
                name = profile_of(failure)
            ))
        }
        FailureKind::Configuration => error.hint(tr!("list one under {list} in xtask.local.toml", list)),
        FailureKind::Disk if code == Code::DiskFull => {
            error.hint(tr!("free some space there; what was received so far is kept and continued by the next run"))
        }
        _ => error,
    }
}

/// The table of the profile in force whose endpoints were asked, as far as that is known: `[mirror.cn.go]`.
fn list_of(failure: &Failure, lists: &Lists) -> String {
    let ecosystem = failure.attempts.iter().find_map(|it| lists.get(&it.endpoint)).map_or("ECOSYSTEM", String::as_str);
    format!("[mirror.{name}.{ecosystem}]", name = profile_of(failure))
}

fn profile_of(failure: &Failure) -> &str {
    failure.attempts.iter().find_map(|it| it.origin.strip_prefix("mirror ")).unwrap_or("NAME")
}

/// What helps where nobody delivered. Where all failed alike it is not their choice that is wrong.
fn way_out(failure: &Failure, list: &str) -> String {
    let causes = || failure.attempts.iter().map(|attempt| &attempt.cause);
    let all = |is: fn(&Cause) -> bool| !failure.attempts.is_empty() && causes().all(is);
    // The first of them that may be asked again.
    let wait = causes().filter_map(|cause| match cause {
        Cause::Limited { seconds } => *seconds,
        _ => None,
    });
    match wait.min() {
        _ if all(|it| matches!(it, Cause::Proxy { .. })) => tr!(
            "the proxy does not answer: start it, or unset the variable that names it (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY)"
        ),
        _ if all(|it| matches!(it, Cause::ProxyPassword)) => {
            tr!("put the user and the password that the proxy wants into HTTPS_PROXY: http://USER:PASSWORD@HOST:PORT")
        }
        _ if all(|it| matches!(it, Cause::Page { .. })) => {
            tr!("log in to this network in a browser, then run again; `cargo xtask doctor mirrors` looks closer")
        }
        Some(seconds) if all(|it| matches!(it, Cause::Limited { .. })) => tr!("run again in {seconds} s", seconds),
        _ => tr!(
            "`cargo xtask doctor mirrors` looks closer; or name other endpoints under {list} in xtask.local.toml, choose a \
             profile with --mirror, or set HTTPS_PROXY",
            list
        ),
    }
}

/// The system's own error in the gateway's words: std ends them with `(os error 28)`.
fn os_error(message: &str) -> Option<std::io::Error> {
    let (_, rest) = message.rsplit_once("(os error ")?;
    rest.split_once(')')?.0.parse().ok().map(std::io::Error::from_raw_os_error)
}

fn describe(attempt: &Attempt) -> String {
    let mut text = tr!("{url} ({origin})", url = attempt.url, origin = attempt.origin);
    if let Some(address) = &attempt.address {
        text.push_str(&tr!(" at {address}", address));
    }
    if let Some(proxy) = &attempt.proxy {
        text.push_str(&tr!(" through {proxy}", proxy));
    }
    text.push_str(&tr!(": {message}", message = cause::told(&attempt.cause)));
    if attempt.tries > 1 {
        text.push_str(&tr!(" ({tries} tries)", tries = attempt.tries));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(endpoint: &str, cause: Cause) -> Attempt {
        Attempt {
            endpoint: endpoint.into(),
            url: endpoint.into(),
            origin: "mirror lab".into(),
            address: None,
            proxy: None,
            error: String::new(),
            cause,
            tries: 1,
            expected: None,
            got: None,
        }
    }

    #[test]
    fn an_upstream_is_warned_of_once_a_reason_with_who_is_asked_next() {
        let shared = Shared { lists: [("http://a".to_owned(), "go".to_owned())].into(), ..Shared::default() };
        let (sink, heard) = Sink::heard();
        let tell = |code: &str, subject: &str, endpoint: &str, cause: Cause, next: Option<&str>| {
            let (led_to, next) = (None, next.map(str::to_owned));
            let trouble = Some(Trouble { endpoint: endpoint.into(), led_to, cause, next });
            let (code, subject) = (code.to_owned(), subject.to_owned());
            shared.hear(Event::Finding { code, subject, message: "the evidence".into(), trouble }, &sink);
        };
        tell("mirror.dead", "go endpoint http://a", "http://a", Cause::Refused, Some("http://b"));
        tell("mirror.dead", "module m@v1", "http://a", Cause::Refused, Some("http://b"));
        for part in ["module m@v1 (go.mod)", "module m@v1"] {
            tell("mirror.absent", part, "http://a", Cause::Absent, Some("http://b"));
        }
        for part in ["crate x 1", "crate y 1"] {
            let cause = Cause::OtherBytes { expected: "e".into(), got: "g".into() };
            tell("mirror.hash", part, "http://c", cause, Some("http://c"));
        }
        tell("mirror.limited", "crate x 1", "http://c", Cause::Limited { seconds: Some(60) }, None);
        let told: Vec<String> = heard
            .try_iter()
            .map(|event| match event {
                Report::Finding(it) => format!("{}: {}", it.subject, it.message),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            told,
            [
                "go: http://a: the connection was refused; http://b is asked instead",
                "module m@v1 (go.mod): http://a: it is not there (404); http://b is asked instead",
                "crate x 1: http://c: these are not the pinned bytes: expected e, got g; it is asked again",
                "crate y 1: http://c: these are not the pinned bytes: expected e, got g; it is asked again",
                "crate x 1: http://c: asked to wait 60 s",
            ]
        );
    }

    #[test]
    fn what_helps_depends_on_why_nobody_delivered() {
        let page = || Cause::Page { words: "Sign in".into() };
        let limited = |seconds| Cause::Limited { seconds: Some(seconds) };
        let proxy = || Cause::Proxy { because: Box::new(Cause::Refused) };
        for (causes, hint) in [
            ([page(), page()], "log in to this network in a browser"),
            ([page(), Cause::Refused], "under [mirror.lab.go] in xtask.local.toml"),
            ([limited(60), limited(90)], "run again in 60 s"),
            ([limited(60), Cause::Absent], "[mirror.lab.go]"),
            ([proxy(), proxy()], "the proxy does not answer"),
            ([Cause::ProxyPassword, Cause::ProxyPassword], "http://USER:PASSWORD@HOST:PORT"),
            ([Cause::Refused, Cause::NoNameServer], "`cargo xtask doctor mirrors`"),
        ] {
            let attempts = causes.into_iter().map(|cause| attempt("http://a", cause)).collect();
            let (subject, message) = ("module m".to_owned(), "no upstream delivered it".to_owned());
            let failure = Failure { kind: FailureKind::Network, subject, message, attempts };
            let error = explain(&failure, &[("http://a".to_owned(), "go".to_owned())].into());
            assert!(error.hints()[0].contains(hint), "{hint}: {}", error.render());
        }
    }

    #[test]
    fn a_host_outside_the_profile_is_answered_with_the_line_that_lets_it_in() {
        let outside = Cause::Outside { url: "https://cdn.example/x".into(), host: "cdn.example".into() };
        let attempts = vec![attempt("http://a", outside)];
        let (subject, message) = ("crate x 1".to_owned(), "y".to_owned());
        let error = explain(&Failure { kind: FailureKind::Egress, subject, message, attempts }, &Lists::new());
        assert!(
            error.hints()[0].starts_with("add `hosts = [\"cdn.example\"]` to [mirror.lab] in"),
            "{}",
            error.render()
        );
    }

    #[test]
    fn a_push_that_failed_says_what_was_answered_and_what_helps() {
        let told = |kind, cause, named_by: Option<&str>| {
            let url = "https://registry.example/v2/team/app/blobs/uploads/".into();
            let attempts = vec![Attempt { origin: "registry".into(), ..attempt("https://registry.example", cause) }];
            let attempts = attempts.into_iter().map(|it| Attempt { url: String::clone(&url), ..it }).collect();
            let failure = Failure { kind, subject: String::new(), message: String::new(), attempts };
            let by = PushedBy {
                reference: "registry.example/team/app:v1".into(),
                host: "registry.example".into(),
                named_by: named_by.map(str::to_owned),
            };
            let error = not_pushed(&failure, &by);
            format!("{:?}\n{}", error.code(), error.render())
        };
        let unauthorized = |named| Cause::Unauthorized { named, text: "401 Unauthorized".into() };
        expect_test::expect![[r#"
            NotPushed
            error[XT0406]: cannot push registry.example/team/app:v1
              - https://registry.example/v2/team/app/blobs/uploads/ (registry): it wants to know who asks, and nobody is named: 401 Unauthorized
            hint: log in: `docker login registry.example` or `podman login registry.example`"#]]
        .assert_eq(&told(FailureKind::Refused, unauthorized(false), None));
        let named = told(FailureKind::Refused, unauthorized(true), Some("/home/me/.docker/config.json"));
        assert!(named.contains("hint: /home/me/.docker/config.json says who you are: log in again"), "{named}");
        let denied = Cause::Status { text: "403 Forbidden: “DENIED not yours”".into() };
        assert!(told(FailureKind::Refused, denied, None).starts_with(&format!("{:?}", Code::NotPushed)));
        assert!(told(FailureKind::Network, Cause::Refused, None).starts_with(&format!("{:?}", Code::Unreachable)));
        let outside = Cause::Outside { url: "https://auth.example/".into(), host: "auth.example".into() };
        assert!(told(FailureKind::Egress, outside, None).contains("`hosts = [\"auth.example\"]`"));
    }

    #[test]
    fn a_base_that_does_not_come_says_what_helps() {
        let hint = |text: &str, kind, causes: &[Cause]| {
            let attempts = causes.iter().map(|cause| attempt("https://registry.example", cause.clone())).collect();
            let (subject, message) = ("manifest of it".to_owned(), "why".to_owned());
            let failure = Failure { kind, subject, message, attempts };
            let error = not_pulled(&failure, &BaseReference::try_from(text.to_owned()).unwrap(), &Lists::new());
            assert_eq!(error.to_string(), format!("cannot get {text}"));
            error.hints().last().cloned().unwrap_or_default()
        };
        let tagged = "registry.example/team/base:1";
        let digested = format!("registry.example/team/base@{}", oci::Digest::of(b"x"));
        let unauthorized = |named| Cause::Unauthorized { named, text: "401".into() };
        for (text, kind, causes, expected) in [
            (
                tagged,
                FailureKind::Network,
                vec![Cause::Absent],
                "`cargo xtask lock update registry.example/team/base:1`",
            ),
            (tagged, FailureKind::Network, vec![], "`cargo xtask lock update registry.example/team/base:1`"),
            (
                &digested,
                FailureKind::Network,
                vec![Cause::Absent, Cause::Absent],
                "nobody who was asked has it any more",
            ),
            (
                tagged,
                FailureKind::Network,
                vec![Cause::Absent, unauthorized(false)],
                "log in: `docker login registry.example`",
            ),
            (
                tagged,
                FailureKind::Network,
                vec![unauthorized(true)],
                "log in again with `docker login registry.example`",
            ),
            (tagged, FailureKind::Integrity, vec![Cause::Absent], "the bytes are not the pinned ones"),
        ] {
            let hint = hint(text, kind, &causes);
            assert!(hint.starts_with(expected), "{expected}: {hint}");
        }
    }

    #[test]
    fn whoever_was_asked_was_contacted_and_where_we_refused_to_go_was_not() {
        let contacted = |host: &str, led_to: &[&str], status: Option<u16>, verdict: Verdict| -> Vec<String> {
            let (sink, heard) = Sink::heard();
            let egress = serde_json::json!({
                "ecosystem": "go", "artifact": "", "host": host, "redirect_hosts": led_to, "status": status, "bytes": 0,
                "milliseconds": 0, "verdict": verdict,
            });
            Shared::default().hear(Event::Egress(serde_json::from_value(egress).unwrap()), &sink);
            let host = |event| if let Report::Contacted { host, .. } = event { host } else { panic!("{event:?}") };
            heard.try_iter().map(host).collect()
        };
        assert_eq!(contacted("a", &["b"], Some(200), Verdict::Ok), ["b", "a"]);
        assert_eq!(contacted("a", &["outside"], Some(302), Verdict::Forbidden), ["a"]);
        assert_eq!(contacted("a", &["b", "outside"], Some(302), Verdict::Forbidden), ["b", "a"]);
        assert_eq!(contacted("a", &["outside"], None, Verdict::Forbidden), [""; 0]);
    }

    #[test]
    fn what_one_step_was_refused_is_no_other_steps_cause() {
        let shared = Shared::default();
        for (step, artifact) in
            [("native-library:engine", "crate cfg-if"), ("go-modules:reader", "module example.com/m")]
        {
            let (step, artifact) = (step.to_owned(), artifact.to_owned());
            let (subject, kind) = (artifact.clone(), FailureKind::Network);
            let failure = Failure { kind, subject, message: "y".into(), attempts: Vec::new() };
            shared.hear(Event::Refused { step, artifact, failure }, &Sink::nowhere());
        }
        let subject = |step| shared.refused(step).map(|error| error.to_string());
        assert_eq!(subject("go-modules:other"), None);
        assert_eq!(subject("go-modules:reader").as_deref(), Some("module example.com/m: y"));
        assert_eq!(subject("native-library:engine").as_deref(), Some("crate cfg-if: y"));
        assert_eq!(subject("go-modules:reader"), None, "told once");
    }

    #[test]
    fn each_kind_of_failure_has_its_code() {
        for (kind, code) in [
            (FailureKind::Network, Code::Unreachable),
            (FailureKind::Configuration, Code::NoEndpoint),
            (FailureKind::Egress, Code::OutsideProfile),
            (FailureKind::Disk, Code::Disk),
            (FailureKind::Bug, Code::Bug),
        ] {
            let failure = Failure { kind, subject: "x".into(), message: "y".into(), attempts: Vec::new() };
            assert_eq!(explain(&failure, &Lists::new()).code(), code);
        }
        let full = std::io::Error::from(rustix::io::Errno::NOSPC);
        let message = format!("cannot write /cache/x: {full}");
        let failure = Failure { kind: FailureKind::Disk, subject: "x".into(), message, attempts: Vec::new() };
        let error = explain(&failure, &Lists::new());
        assert_eq!((error.code(), error.hints().len()), (Code::DiskFull, 1));
    }

    #[test]
    fn an_integrity_failure_names_artifact_mirror_expected_and_got() {
        let failure = Failure {
            kind: FailureKind::Integrity,
            subject: "wheel six-1.17.0-py2.py3-none-any.whl".into(),
            message: "no upstream has the pinned bytes".into(),
            attempts: vec![Attempt {
                url: "https://mirror.example/six.whl".into(),
                address: Some("192.0.2.1:443".into()),
                ..attempt("https://mirror.example/", Cause::OtherBytes { expected: "aa".into(), got: "bb".into() })
            }],
        };
        let error = explain(&failure, &Lists::new());
        assert_eq!(error.code(), Code::OtherBytes);
        expect_test::expect![[r#"
            error[XT0501]: wheel six-1.17.0-py2.py3-none-any.whl: no upstream has the pinned bytes
              - https://mirror.example/six.whl (mirror lab) at 192.0.2.1:443: these are not the pinned bytes: expected aa, got bb
            hint: the bytes are not the pinned ones and were thrown away; take that mirror out of the list, or use another with --mirror"#]]
        .assert_eq(&error.render());
    }
}
