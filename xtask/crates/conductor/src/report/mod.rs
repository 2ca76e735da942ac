//! What happened, told. Receives [`Event`]s and knows nothing else: not who sent them, not what will come.
//!
//! Human text goes to standard error and may change; with `--format json` standard output carries one object a line, which is
//! a contract (additive only). Neither ever holds a secret: events are made of names, digests and hosts.

mod human;
mod json;

use crate::cache::key::Key;
use crate::cache::reason::Reason;
use crate::digest::Digest;
use crate::error::{Error, ExitCode, masked};
use crate::settings::{Format, Progress, Settings, Verbosity};
use crate::tr;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// What a plan says of a step before anything is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The result is where it belongs.
    Hit,
    /// The store has the result; it is put where it belongs.
    Restore,
    Run,
    /// Not needed: whoever would use it is a hit.
    Skip,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Done {
    Hit,
    Restored,
    Ran,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedStep {
    pub id: String,
    pub kind: &'static str,
    /// Unknown as long as a step before it has to run.
    pub key: Option<Key>,
    pub status: Status,
    pub reason: Option<Reason>,
    /// Every input that differs from the last result in this checkout.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<Reason>,
    /// The status may become `hit` or `restore` once the steps before have run.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub provisional: bool,
    pub commands: Vec<String>,
}

#[derive(Clone, Debug)]
pub enum Event {
    /// `asked`: a person wants to read it, not only a machine.
    Plan {
        steps: Vec<PlannedStep>,
        /// Hosts by what is fetched from them.
        egress: Vec<(String, Vec<String>)>,
        tools: Vec<ToolMapping>,
        asked: bool,
    },
    Start {
        id: String,
        reason: Option<Reason>,
    },
    /// A line that shows that a step lives: a crate compiled, bytes received.
    Progress {
        id: String,
        text: String,
    },
    /// Output of a child; shown with `--verbose` only.
    Output {
        id: String,
        text: String,
    },
    Waiting {
        id: String,
        holder: String,
        seconds: u64,
    },
    Done {
        id: String,
        done: Done,
        seconds: f64,
        cpu_seconds: f64,
        key: Option<Key>,
        reason: Option<Reason>,
        log: Option<PathBuf>,
    },
    Fail {
        id: String,
        seconds: f64,
        /// Another step failed.
        given_up: bool,
        log: Option<PathBuf>,
    },
    Artifact {
        name: String,
        path: PathBuf,
        digest: Digest,
        size_bytes: u64,
    },
    /// An image at one of its targets.
    Image(Image),
    Finding(Finding),
    Contacted {
        ecosystem: String,
        host: String,
        /// Whether it delivered: an endpoint that was only tried is not the one in use.
        served: bool,
    },
    /// Something a person should read; JSON has no line for it.
    Note(String),
    /// A command of a suite or linter starts.
    Testing {
        /// `suite` or `linter`
        kind: &'static str,
        suite: String,
        command: String,
    },
    /// A suite of `test` or a linter of `lint` has ended.
    Suite {
        kind: &'static str,
        name: String,
        outcome: String,
        seconds: f64,
        message: Option<String>,
    },
    /// The answer of `run --once`.
    Answer {
        status: u16,
        decision: BTreeMap<String, String>,
        body: String,
    },
    /// A service of `run` is ready.
    Ready {
        service: String,
        url: String,
        seconds: f64,
    },
    /// Why the run fails: for a person, and for a program.
    Failed {
        text: String,
        finding: Finding,
    },
}

impl Event {
    fn failed(error: &Error) -> Self {
        // Whoever pressed Ctrl-C knows why it ended.
        let asked_for = matches!(error.exit(), ExitCode::Interrupted | ExitCode::Terminated);
        let hints = error.all_hints();
        let finding = Finding {
            code: error.code().id(),
            severity: if asked_for { Severity::Note } else { Severity::Error },
            subject: masked(error.subject().unwrap_or("cargo xtask")),
            message: masked(&error.line()),
            fix: (!hints.is_empty()).then(|| masked(&hints.join("; "))),
        };
        Self::Failed { text: if asked_for { error.to_string() } else { error.render() }, finding }
    }
}

/// What one tool would get from a profile.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ToolMapping {
    pub tool: String,
    pub set: BTreeMap<String, String>,
    pub removed: Vec<String>,
    pub arguments: Vec<String>,
    /// Files that the tool is given, by their usual name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    pub notes: Vec<String>,
    /// Whether a step that is told with it starts this tool.
    #[serde(skip)]
    pub started: bool,
}

impl ToolMapping {
    /// For a person, below the tool's name.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.set.iter().map(|(name, value)| format!("{name}={value}")).collect();
        lines.extend(self.removed.iter().map(|name| format!("unset {name}")));
        lines.extend((!self.arguments.is_empty()).then(|| self.arguments.join(" ")));
        for (name, text) in &self.files {
            lines.push(format!("{name}:"));
            lines.extend(text.lines().map(|line| format!("  {line}")));
        }
        lines.extend(self.notes.iter().map(|note| tr!("{subject}: {message}", subject = tr!("note"), message = note)));
        lines
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Image {
    pub name: String,
    /// Where it was put, as the target was written: `oci:dist/images`, with the tag behind it.
    pub reference: String,
    /// Of the manifest.
    pub digest: String,
    /// `linux/amd64`
    pub platform: String,
    pub layers: Vec<ImageLayer>,
    /// What is attached to it where the target can hold that: bills of materials, provenance.
    pub attestations: Vec<ImageAttestation>,
    pub builder: &'static str,
    /// In an engine: by what it knows it, and whether it had it before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
    /// What became of its blobs at a registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pushed: Option<protocol::Pushed>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImageAttestation {
    /// Of the artifact manifest that attaches it.
    pub digest: String,
    /// `application/spdx+json`
    pub artifact_type: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImageLayer {
    /// Of the compressed blob.
    pub digest: String,
    /// Of the tar archive in it.
    pub diff_id: String,
    pub size_bytes: u64,
    pub media_type: String,
    /// Whether it was known before this run.
    pub reused: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    pub code: String,
    pub severity: Severity,
    pub subject: String,
    pub message: String,
    pub fix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    Error,
    Warning,
    Note,
    Info,
    Ok,
}

/// The last line.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    pub ok: bool,
    pub exit_code: i32,
    pub seconds: f64,
    pub cache: Counts,
    /// Ecosystem → endpoint that served it.
    pub mirror: BTreeMap<String, String>,
    pub hosts_contacted: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub hit: u32,
    pub restored: u32,
    pub ran: u32,
}

/// Where anybody may drop an event; cheap to clone, never blocks, never fails.
#[derive(Clone, Debug)]
pub struct Sink(mpsc::Sender<Event>);

impl Sink {
    pub fn send(&self, event: Event) {
        // The reporter lives until the last sink is gone; if it died of a bug there is nobody left to tell.
        let _ = self.0.send(event);
    }

    pub fn note(&self, text: impl Into<String>) {
        self.send(Event::Note(text.into()));
    }

    /// A host that the launcher's own fetch contacted, as the launcher writes it: `HOST`, `HOST=served`.
    pub fn contacted_by_launcher(&self, word: &str) {
        let (host, served) = word.strip_suffix("=served").map_or((word, false), |host| (host, true));
        if !host.is_empty() {
            self.send(Event::Contacted { ecosystem: "crates".to_owned(), host: host.to_owned(), served });
        }
    }

    /// A sink, and what is dropped into it.
    pub fn heard() -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel();
        (Self(sender), receiver)
    }

    /// A sink that nobody listens to.
    pub fn nowhere() -> Self {
        Self(mpsc::channel().0)
    }
}

/// Tells the end of a run that had no reporter: it failed before there could be one, or needs none.
pub fn finish_without_reporter(result: Result<(), &Error>, format: Format) -> ExitCode {
    let exit = result.map_or_else(Error::exit, |()| ExitCode::Ok);
    let event = result.err().map(Event::failed);
    match format {
        Format::Json => {
            let mut json = json::Json::new(std::io::stdout(), Verbosity::Normal);
            event.iter().for_each(|event| json.event(event));
            json.summary(&Summary { ok: exit == ExitCode::Ok, exit_code: exit as i32, ..Summary::default() });
        }
        Format::Human => {
            if let Some(Event::Failed { text, .. }) = event {
                let _ = writeln!(std::io::stderr(), "{text}");
            }
        }
    }
    exit
}

/// A way of showing events.
trait Voice: Send {
    fn event(&mut self, event: &Event);
    /// Called ten times a second while nothing happens.
    fn tick(&mut self) {}
    fn summary(&mut self, summary: &Summary);
}

/// The running reporter; [`Reporter::finish`] prints the last line.
pub struct Reporter {
    sink: Sink,
    thread: thread::JoinHandle<(Box<dyn Voice>, Summary)>,
    start: Instant,
    format: Format,
}

impl Reporter {
    pub fn start(settings: &Settings) -> Self {
        let voice: Box<dyn Voice> = match settings.format {
            Format::Json => Box::new(json::Json::new(std::io::stdout(), settings.verbosity)),
            Format::Human => Box::new(human::Human::new(
                settings.progress,
                settings.verbosity,
                settings.color,
                settings.explain,
                settings.workspace.clone(),
            )),
        };
        let (sender, receiver) = mpsc::channel();
        let thread = thread::spawn(move || listen(voice, &receiver));
        Self { sink: Sink(sender), thread, start: Instant::now(), format: settings.format }
    }

    pub fn sink(&self) -> Sink {
        self.sink.clone()
    }

    /// All other sinks must be gone.
    pub fn finish(self, result: Result<(), &Error>) -> ExitCode {
        let exit = result.map_or_else(Error::exit, |()| ExitCode::Ok);
        if let Err(error) = result {
            self.sink.send(Event::failed(error));
        }
        drop(self.sink);
        match self.thread.join() {
            Ok((mut voice, mut summary)) => {
                summary.ok = exit == ExitCode::Ok;
                summary.exit_code = exit as i32;
                summary.seconds = seconds(self.start.elapsed());
                voice.summary(&summary);
                exit
            }
            // The reporter itself crashed, which its panic told; the last line is owed all the same.
            Err(_) => finish_without_reporter(Err(&Error::bug(tr!("the reporter crashed"))), self.format),
        }
    }
}

fn listen(mut voice: Box<dyn Voice>, receiver: &mpsc::Receiver<Event>) -> (Box<dyn Voice>, Summary) {
    let mut summary = Summary::default();
    loop {
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(event) => {
                match &event {
                    Event::Done { done: Done::Hit, .. } => summary.cache.hit += 1,
                    Event::Done { done: Done::Restored, .. } => summary.cache.restored += 1,
                    Event::Done { done: Done::Ran, .. } => summary.cache.ran += 1,
                    Event::Contacted { ecosystem, host, served } => {
                        summary.hosts_contacted.insert(host.clone());
                        if *served {
                            summary.mirror.insert(ecosystem.clone(), host.clone());
                        }
                    }
                    _ => {}
                }
                voice.event(&event);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => voice.tick(),
            Err(mpsc::RecvTimeoutError::Disconnected) => return (voice, summary),
        }
    }
}

/// Rounded to milliseconds: more digits would only be noise.
pub fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

/// Bytes with a unit that keeps three digits.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.2} GiB")
}

fn is_quiet(progress: Progress, verbosity: Verbosity) -> bool {
    progress == Progress::Quiet || verbosity == Verbosity::Quiet
}
