//! Text for a person, on standard error. `tty` redraws one status line at most ten times a second; `plain` only ever appends,
//! with a sign of life every thirty seconds; `quiet` shows failures.

use super::{Done, Event, PlannedStep, Severity, Status, Summary, Voice, bytes, is_quiet};
use crate::language::{columns, columns_of, right_aligned};
use crate::settings::{Progress, Verbosity};
use crate::tr;
use crate::workspace::Workspace;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

/// Columns that a list of hosts fills: logs are read on terminals of any width.
const WIDTH: usize = 100;
const HEARTBEAT: Duration = Duration::from_secs(30);

pub struct Human {
    progress: Progress,
    verbosity: Verbosity,
    color: bool,
    explain: bool,
    workspace: Workspace,
    /// Steps under way: start, last line, when a person last saw a sign of life.
    running: BTreeMap<String, Running>,
    drawn: bool,
}

struct Running {
    start: Instant,
    text: String,
    told: Instant,
}

#[derive(Clone, Copy)]
enum Tone {
    Good,
    Bad,
    Warning,
    Dim,
}

impl Human {
    pub fn new(progress: Progress, verbosity: Verbosity, color: bool, explain: bool, workspace: Workspace) -> Self {
        Self { progress, verbosity, color, explain, workspace, running: BTreeMap::new(), drawn: false }
    }

    fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32;1",
            Tone::Bad => "31;1",
            Tone::Warning => "33;1",
            Tone::Dim => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A whole line; whatever status line is on screen makes room for it.
    fn say(&mut self, text: &str) {
        let erase = if std::mem::take(&mut self.drawn) { "\r\x1b[K" } else { "" };
        let _ = writeln!(std::io::stderr(), "{erase}{text}");
    }

    /// Cargo's shape: a right-aligned verb in twelve columns, then the subject.
    fn verb(&mut self, tone: Tone, verb: &str, text: &str) {
        let verb = self.paint(tone, &right_aligned(verb, 12));
        self.say(&format!("{verb} {text}"));
    }

    fn quiet(&self) -> bool {
        is_quiet(self.progress, self.verbosity)
    }

    fn plan_line(&mut self, step: &PlannedStep) {
        let status = match step.status {
            Status::Hit => tr!("hit"),
            Status::Restore => tr!("restore"),
            Status::Run => tr!("run"),
            Status::Skip => tr!("skip"),
        };
        let key = step.key.map_or_else(|| "-".repeat(12), |key| key.short());
        let mut line = format!("{} {key} {}", right_aligned(&status, 12), step.id);
        if step.provisional {
            line.push_str(&tr!(" (may turn out unchanged)"));
        }
        if let Some(reason) = &step.reason {
            line.push_str(&tr!(": {message}", message = reason));
        }
        self.say(&line);
        if self.explain || self.verbosity == Verbosity::Verbose {
            for command in &step.commands {
                let command = self.paint(Tone::Dim, &format!("{:>27}$ {command}", ""));
                self.say(&command);
            }
        }
    }
}

fn took(what: &str, seconds: f64) -> String {
    tr!("{what} ({seconds} s)", what, seconds = format_args!("{seconds:.1}"))
}

impl Voice for Human {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Failed { text, finding } if finding.severity == Severity::Error => {
                // `error[XT0402]` stands out, in whatever language.
                let (head, rest) = text.split_at(text.find(']').map_or(0, |at| at + 1));
                let head = self.paint(Tone::Bad, head);
                self.say(&format!("{head}{rest}"));
            }
            Event::Fail { id, seconds, given_up, .. } => {
                self.running.remove(id);
                let what = tr!("{id} after {seconds} s", id, seconds = format_args!("{seconds:.1}"));
                match given_up {
                    true => self.verb(Tone::Dim, &tr!("Stopped"), &tr!("{what}: another step failed", what)),
                    false => self.verb(Tone::Bad, &tr!("Failed"), &what),
                }
            }
            Event::Finding(finding) if finding.severity != Severity::Note || !self.quiet() => {
                let (tone, word) = match finding.severity {
                    Severity::Error => (Tone::Bad, tr!("error")),
                    Severity::Warning => (Tone::Warning, tr!("warning")),
                    Severity::Note | Severity::Info | Severity::Ok => (Tone::Dim, tr!("note")),
                };
                let word = self.paint(tone, &word);
                self.say(&tr!(
                    "{word}: {subject}: {message}",
                    word,
                    subject = finding.subject,
                    message = finding.message
                ));
                if let Some(fix) = &finding.fix {
                    self.say(&tr!("hint: {hint}", hint = fix));
                }
            }
            // What was asked for is shown in every mode.
            Event::Answer { status, decision, body } => {
                self.verb(
                    if *status < 400 { Tone::Good } else { Tone::Bad },
                    &tr!("Answer"),
                    &format!("HTTP {status}"),
                );
                for (name, value) in decision {
                    self.say(&format!("{:>12} {name}: {value}", ""));
                }
                // A reader that went away (`| head`) is not our failure.
                let _ = writeln!(std::io::stdout(), "{body}");
            }
            Event::Suite { name, outcome, seconds, message, .. } => {
                self.running.remove(name);
                let (tone, word) = match outcome.as_str() {
                    "ok" => (Tone::Good, tr!("ok")),
                    "skipped" => (Tone::Warning, tr!("skipped")),
                    _ => (Tone::Bad, tr!("FAILED")),
                };
                let message = message.as_deref().map(|message| tr!(": {message}", message)).unwrap_or_default();
                let took = took(name, *seconds);
                self.verb(tone, &word, &(took + &message));
            }
            _ if self.quiet() => {}
            Event::Plan { asked, .. } if !asked && !self.explain => {}
            Event::Plan { steps, egress, tools, .. } => {
                for step in steps {
                    self.plan_line(step);
                }
                let verbose = self.verbosity == Verbosity::Verbose;
                for tool in tools.iter().filter(|tool| tool.started || verbose) {
                    self.say(&format!("{} {}", right_aligned(&tr!("tool"), 12), tool.tool));
                    tool.lines().iter().for_each(|line| self.say(&format!("{:>14} {line}", "")));
                }
                for (number, (what, hosts)) in egress.iter().enumerate() {
                    let word = if number == 0 { tr!("may contact") } else { String::new() };
                    let mut line = format!("{} {what}:", right_aligned(&word, 12));
                    for (number, host) in hosts.iter().enumerate() {
                        let comma = if number + 1 < hosts.len() { "," } else { "" };
                        if columns(&line) + host.len() + 2 > WIDTH {
                            self.say(&line);
                            line = format!("{:>14}", "");
                        }
                        line.push_str(&format!(" {host}{comma}"));
                    }
                    self.say(&line);
                }
            }
            Event::Testing { kind, suite, command } => {
                let now = Instant::now();
                self.running.insert(suite.clone(), Running { start: now, text: String::new(), told: now });
                self.verb(
                    Tone::Good,
                    &if *kind == "linter" { tr!("Linting") } else { tr!("Testing") },
                    &format!("{suite}: {command}"),
                );
            }
            Event::Start { id, reason } => {
                let now = Instant::now();
                self.running.insert(id.clone(), Running { start: now, text: String::new(), told: now });
                let reason = reason.as_ref().map(|reason| tr!(" ({reason})", reason)).unwrap_or_default();
                self.verb(Tone::Good, &tr!("Making"), &format!("{id}{reason}"));
            }
            Event::Progress { id, text } => {
                if let Some(running) = self.running.get_mut(id) {
                    running.text.clone_from(text);
                }
            }
            Event::Output { text, .. } if self.verbosity == Verbosity::Verbose => self.say(text),
            Event::Waiting { id, holder, seconds } => {
                self.verb(
                    Tone::Warning,
                    &tr!("Waiting"),
                    &tr!("{id} is held by {holder} (waited {seconds} s)", id, holder, seconds),
                );
            }
            Event::Done { id, done, seconds, cpu_seconds, .. } => {
                self.running.remove(id);
                match done {
                    Done::Hit => {
                        let verb = self.paint(Tone::Dim, &right_aligned(&tr!("CACHED"), 12));
                        self.say(&format!("{verb} {id}"));
                    }
                    Done::Restored => self.verb(Tone::Good, &tr!("Restored"), &took(id, *seconds)),
                    Done::Ran => {
                        let (seconds, cpu) = (format_args!("{seconds:.1}"), format_args!("{cpu_seconds:.1}"));
                        self.verb(Tone::Good, &tr!("Made"), &tr!("{id} ({seconds} s, {cpu} CPU-s)", id, seconds, cpu));
                    }
                }
            }
            Event::Artifact { path, digest, size_bytes, .. } => {
                let path = self.workspace.relative(path).display().to_string();
                self.say(&format!("{:>12} {path} sha256:{} {}", "", digest.short(), bytes(*size_bytes)));
            }
            Event::Image(image) => {
                let size_bytes = image.layers.iter().map(|layer| layer.size_bytes).sum();
                let short = image.digest.get(..19).unwrap_or(&image.digest);
                let held = match (image.platform.contains(','), image.layers.is_empty()) {
                    (true, _) => tr!("for {platforms}", platforms = image.platform),
                    // An engine keeps them unpacked.
                    (false, true) => image.platform.clone(),
                    (false, false) => format!("{} {}", bytes(size_bytes), image.platform),
                };
                let sent = image.pushed.map(|it| tr!(", {sent} sent", sent = bytes(it.sent_bytes))).unwrap_or_default();
                self.say(&format!("{:>12} {} {short} {held}{sent}", "", image.reference));
            }
            Event::Ready { service, url, seconds } => {
                self.verb(Tone::Good, &tr!("Ready"), &took(&format!("{service} {url}"), *seconds));
            }
            Event::Note(text) | Event::Failed { text, .. } => self.say(text),
            Event::Output { .. } | Event::Finding(_) | Event::Contacted { .. } => {}
        }
    }

    fn tick(&mut self) {
        match self.progress {
            Progress::Quiet => {}
            Progress::Plain => {
                let now = Instant::now();
                let mut lines = Vec::new();
                for (id, running) in &mut self.running {
                    if now.duration_since(running.told) >= HEARTBEAT {
                        running.told = now;
                        let seconds = running.start.elapsed().as_secs();
                        let told = tr!("{id} for {seconds} s: {text}", id, seconds, text = running.text);
                        lines.push(format!("{} {told}", right_aligned(&tr!("still at"), 12)));
                    }
                }
                if !self.quiet() {
                    lines.iter().for_each(|line| self.say(line));
                }
            }
            Progress::Tty if self.running.is_empty() || self.quiet() => {}
            Progress::Tty => {
                let status = self
                    .running
                    .iter()
                    .map(|(id, running)| {
                        let seconds = running.start.elapsed().as_secs();
                        tr!("{id} {seconds} s {text}", id, seconds, text = running.text)
                    })
                    .collect::<Vec<_>>()
                    .join(" | ");
                let width = rustix::termios::tcgetwinsize(std::io::stderr())
                    .map_or(80, |size| usize::from(size.ws_col.max(20)));
                let mut room = width.saturating_sub(1);
                let fits = |c: &char| room.checked_sub(columns_of(*c)).map(|left| room = left).is_some();
                let status: String = status.chars().take_while(fits).collect();
                let mut stderr = std::io::stderr();
                let _ = write!(stderr, "\r\x1b[K{status}").and_then(|()| stderr.flush());
                self.drawn = true;
            }
        }
    }

    fn summary(&mut self, summary: &Summary) {
        let counts = summary.cache;
        let steps = counts.hit + counts.restored + counts.ran;
        // A command that only told something has nothing to sum up.
        if self.quiet() || !summary.ok || steps == 0 {
            if std::mem::take(&mut self.drawn) {
                let _ = write!(std::io::stderr(), "\r\x1b[K");
            }
            return;
        }
        let mut text = tr!("in {seconds} s", seconds = format_args!("{:.1}", summary.seconds));
        text.push_str(&tr!(
            ": {hit} cached, {restored} restored, {ran} made",
            hit = counts.hit,
            restored = counts.restored,
            ran = counts.ran
        ));
        if !summary.hosts_contacted.is_empty() {
            let hosts = summary.hosts_contacted.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            text.push_str(&tr!("; contacted {hosts}", hosts));
        }
        self.verb(Tone::Good, &tr!("Finished"), &text);
    }
}
