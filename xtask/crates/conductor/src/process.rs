//! The rim towards other programs: the only place that starts one.
//!
//! Short questions (`rustc -vV`) go through xshell. A build or a service needs what xshell does not do (docs/decisions/0003):
//! a process group of its own, output streamed line by line into a log that is kept whole, a deadline, and an end within
//! two seconds when the user asks for it. Every child gets its whole environment from its [`Invocation`]; nothing is inherited.

use crate::error::{Code, Error, Result};
use crate::files;
use crate::interrupt;
use crate::tr;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long children may take to end after SIGTERM.
const GRACE: Duration = Duration::from_millis(1500);
/// How often a running child is looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long a child's pipes may be silent after its end.
const DRAIN: Duration = Duration::from_millis(500);
/// How long a captured question may take.
const CAPTURE: Duration = Duration::from_secs(10);
/// How long a program that was just put in place may be held open for writing by a child that another thread is starting:
/// between fork and exec it has what we have open, and until then nobody may start that program (golang/go#22315).
const BUSY: Duration = Duration::from_secs(2);
/// Lines of a failed child that are shown.
const TAIL_LINES: usize = 50;

/// A program with everything that decides what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub directory: PathBuf,
    pub environment: BTreeMap<String, OsString>,
}

impl Invocation {
    /// As one would type it, quoted for a POSIX shell; the environment is not part of it.
    pub fn command_line(&self) -> String {
        std::iter::once(self.program.as_os_str())
            .chain(self.arguments.iter().map(OsString::as_os_str))
            .map(quoted)
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(&self.directory).env_clear().envs(&self.environment).process_group(0);
        // SAFETY: between fork and exec only `prctl`, an async-signal-safe system call, is made; nothing is allocated.
        unsafe {
            command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        command
    }

    fn spawn(&self, command: &mut Command) -> Result<Child> {
        unless_busy(|| command.spawn(), io::Error::kind).map_err(|error| self.not_started(error))
    }

    fn not_started(&self, error: io::Error) -> Error {
        Error::new(Code::CannotStart, tr!("cannot start `{program}`", program = self.program.display())).because(error)
    }
}

/// Starts something again for as long as its program is busy.
fn unless_busy<T, E>(
    mut start: impl FnMut() -> std::result::Result<T, E>,
    kind: impl Fn(&E) -> io::ErrorKind,
) -> std::result::Result<T, E> {
    let began = Instant::now();
    loop {
        match start() {
            Err(error) if kind(&error) == io::ErrorKind::ExecutableFileBusy && began.elapsed() < BUSY => {
                thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

/// Quotes one word for a POSIX shell, only where it is needed.
pub fn quoted(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Bounds on a child: all of its life, and the longest silence.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    pub whole: Duration,
    pub silence: Option<Duration>,
}

impl Deadline {
    /// A compiler may be silent for long, but not for ever.
    pub const BUILD: Self = Self { whole: Duration::from_secs(3 * 3600), silence: None };
    /// A question to an installed tool.
    pub const QUESTION: Self = Self { whole: Duration::from_secs(60), silence: None };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    /// User and system time of the child and of all the children that it waited for.
    pub cpu_seconds: f64,
    /// The last lines, for the person who has to find the cause.
    pub tail: Vec<String>,
    pub log: PathBuf,
}

impl Finished {
    /// The failure of a build that we started: exit code 9, its own code in the message, its last lines below.
    pub fn into_result(self, what: &str) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        let end = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => tr!("exit {code}", code),
            (None, Some(signal)) => tr!("signal {signal}", signal),
            (None, None) => tr!("no status"),
        };
        Err(Error::new(Code::ChildFailed, tr!("`{what}` failed ({end})", what, end))
            .excerpt(self.tail.join("\n"))
            .hint(tr!("whole output: {log}", log = self.log.display())))
    }
}

/// Runs a child to its end; `line` hears each line of its output, which also goes to `log`, appended.
pub fn run(
    invocation: &Invocation,
    deadline: Deadline,
    log: &Path,
    mut line: impl FnMut(Stream, &str),
) -> Result<Finished> {
    interrupt::check()?;
    if let Some(folder) = log.parent() {
        files::create_folder(folder)?;
    }
    let mut log_file =
        File::options().create(true).append(true).open(log).map_err(|error| Error::disk("write", log, error))?;
    let _ = writeln!(log_file, "$ cd {} && {}", quoted(invocation.directory.as_os_str()), invocation.command_line());
    let mut child =
        invocation.spawn(invocation.command().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let (sender, receiver) = mpsc::channel();
    if let Some(pipe) = child.stdout.take() {
        read_lines(pipe, Stream::Out, sender.clone());
    }
    if let Some(pipe) = child.stderr.take() {
        read_lines(pipe, Stream::Err, sender);
    }
    let start = Instant::now();
    let mut heard = start;
    let mut tail = VecDeque::new();
    loop {
        match receiver.recv_timeout(TICK) {
            Ok((stream, text)) => {
                heard = Instant::now();
                let _ = writeln!(log_file, "{text}");
                // A machine-readable line is for `line`, not for a person.
                if !(stream == Stream::Out && text.starts_with('{')) {
                    if tail.len() == TAIL_LINES {
                        tail.pop_front();
                    }
                    tail.push_back(text.clone());
                }
                line(stream, &text);
            }
            // A daemon that the child left behind may hold the pipes for ever: once the child has ended, silence is the end.
            Err(mpsc::RecvTimeoutError::Timeout) if has_ended(&child) && heard.elapsed() > DRAIN => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        let stop = interrupt::check().err().or_else(|| {
            let silent = deadline.silence.is_some_and(|limit| heard.elapsed() > limit);
            (silent || start.elapsed() > deadline.whole).then(|| {
                let seconds = if silent { heard.elapsed() } else { start.elapsed() }.as_secs();
                let command = invocation.command_line();
                let message = match silent {
                    true => tr!("`{command}` said nothing for {seconds} s and was ended", command, seconds),
                    false => tr!("`{command}` ran for {seconds} s and was ended", command, seconds),
                };
                Error::new(Code::Silent, message).hint(tr!("whole output: {log}", log = log.display()))
            })
        });
        if let Some(error) = stop {
            end(&mut child);
            return Err(error);
        }
    }
    let cpu_seconds = cpu_seconds_of_ended(&child);
    let status = child.wait().map_err(|error| invocation.not_started(error))?;
    Ok(Finished { status, cpu_seconds, tail: tail.into(), log: log.to_owned() })
}

/// Asks an installed tool a short question and gives its standard output.
pub fn ask(invocation: &Invocation) -> Result<String> {
    let command_line = invocation.command_line();
    // The question shares our terminal, so Ctrl-C ends it too: that is then the reason.
    let failed = |error: xshell::Error| match interrupt::check() {
        Err(interrupted) => interrupted,
        Ok(()) => Error::new(Code::NoAnswer, tr!("`{command_line}` does not answer", command_line)).because(error),
    };
    let shell = xshell::Shell::new().map_err(failed)?;
    let (sender, answer) = mpsc::channel();
    let asked = invocation.clone();
    // xshell has no deadline, so it waits on a thread of its own; a tool that hangs ends with this process.
    thread::spawn(move || {
        shell.change_dir(&asked.directory);
        let command = shell.cmd(&asked.program).args(&asked.arguments).env_clear().envs(&asked.environment);
        let command = command.quiet().ignore_stderr();
        let _ = sender.send(unless_busy(|| command.read(), kind_told));
    });
    let seconds = Deadline::QUESTION.whole.as_secs();
    let silent = |_| {
        Error::new(Code::NoAnswer, tr!("`{command_line}` did not answer within {seconds} s", command_line, seconds))
    };
    answer.recv_timeout(Deadline::QUESTION.whole).map_err(silent)?.map_err(failed)
}

/// xshell has the kind of an error of the system in its text only.
fn kind_told(error: &xshell::Error) -> io::ErrorKind {
    let busy = io::Error::from(rustix::io::Errno::TXTBSY);
    if error.to_string().ends_with(&busy.to_string()) { busy.kind() } else { io::ErrorKind::Other }
}

/// Runs a short question to its end and gives everything it said, whatever its status; ended after a few seconds.
pub fn capture(invocation: &Invocation) -> io::Result<std::process::Output> {
    capture_within(CAPTURE, invocation)
}

/// [`capture`] of an answer that is not worth more time than `patience`.
pub fn capture_within(patience: Duration, invocation: &Invocation) -> io::Result<std::process::Output> {
    ask_within(patience, invocation, b"")
}

/// The same of a program that reads its question, which must fit a pipe.
pub fn ask_within(patience: Duration, invocation: &Invocation, question: &[u8]) -> io::Result<std::process::Output> {
    let stdin = if question.is_empty() { Stdio::null() } else { Stdio::piped() };
    let mut child = invocation.command().stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who answers without reading it has closed it.
        let _ = stdin.write_all(question);
    }
    let start = Instant::now();
    // Answers are lines, far smaller than a pipe's buffer, so waiting before reading cannot block the child.
    while child.try_wait()?.is_none() {
        if start.elapsed() > patience {
            end(&mut child);
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output()
}

/// A child that lives beside us until it is ended: a satellite, a service. Ends with us, also when we are killed.
#[derive(Debug)]
pub struct Companion {
    child: Child,
    pub name: String,
}

impl Companion {
    /// Starts with its output appended to `log`; `pipes` keeps standard input and output for the caller instead.
    /// Must be called on a thread that lives as long as the companion: the kernel ends it with that thread.
    pub fn start(name: &str, invocation: &Invocation, log: &Path, pipes: bool) -> Result<Self> {
        if let Some(folder) = log.parent() {
            files::create_folder(folder)?;
        }
        let open =
            || File::options().create(true).append(true).open(log).map_err(|error| Error::disk("write", log, error));
        let mut command = invocation.command();
        if pipes {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        } else {
            command.stdin(Stdio::null()).stdout(open()?);
        }
        let child = invocation.spawn(command.stderr(open()?))?;
        Ok(Self { child, name: name.to_owned() })
    }

    pub fn pipes(&mut self) -> Option<(std::process::ChildStdin, std::process::ChildStdout)> {
        self.child.stdin.take().zip(self.child.stdout.take())
    }

    /// Its status, once it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Its status, once it has ended; what it reads and writes must have its end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let failed = |error| Error::bug(tr!("nobody knows how {name} ended", name = self.name)).because(error);
        self.child.wait().map_err(failed)
    }

    /// SIGTERM to its whole group; dropping it waits.
    pub fn ask_to_end(&self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, Signal::TERM);
        }
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        if self.ended().is_none() {
            end(&mut self.child);
        }
    }
}

/// Ends a child with its whole process group: SIGTERM, a moment of grace, SIGKILL.
fn end(child: &mut Child) {
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return };
    let _ = rustix::process::kill_process_group(pid, Signal::TERM);
    let start = Instant::now();
    while start.elapsed() < GRACE {
        // The group is gone when no member can be signalled any more; the leader must be reaped for that.
        let reaped = matches!(child.try_wait(), Ok(Some(_)));
        if reaped && rustix::process::test_kill_process_group(pid).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    let _ = child.wait();
}

fn read_lines(pipe: impl io::Read + Send + 'static, stream: Stream, sender: mpsc::Sender<(Stream, String)>) {
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while matches!(reader.read_until(b'\n', &mut bytes), Ok(count) if count > 0) {
            let text = String::from_utf8_lossy(&bytes);
            if sender.send((stream, text.trim_end_matches(['\n', '\r']).to_owned())).is_err() {
                return;
            }
            bytes.clear();
        }
    });
}

/// Whether the child has ended, without reaping it.
fn has_ended(child: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| matches!(rustix::process::waitid(WaitId::Pid(pid), options), Ok(Some(_))))
}

/// The child's processor time, read from its entry in /proc once it has ended and before it is reaped; 0 where there is none.
fn cpu_seconds_of_ended(child: &Child) -> f64 {
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return 0.0 };
    let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", child.id())) else { return 0.0 };
    // proc(5): utime, stime, cutime and cstime are fields 14 to 17; the second field may hold blanks, so count after its `)`.
    let ticks: u64 = stat
        .rsplit_once(") ")
        .map_or("", |(_, rest)| rest)
        .split(' ')
        .skip(11)
        .take(4)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Invocation {
        Invocation {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            directory: std::env::temp_dir(),
            environment: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".into())]),
        }
    }

    fn log() -> PathBuf {
        files::temporary_beside(&std::env::temp_dir().join("log"))
    }

    #[test]
    fn output_is_heard_line_by_line_and_kept_whole() {
        let log = log();
        let mut heard = Vec::new();
        let finished = run(&shell("echo one; echo two >&2; printf three"), Deadline::QUESTION, &log, |stream, text| {
            heard.push((stream, text.to_owned()));
        })
        .unwrap();
        assert!(finished.status.success());
        heard.sort_by_key(|(stream, _)| *stream == Stream::Err);
        let expected = [(Stream::Out, "one"), (Stream::Out, "three"), (Stream::Err, "two")];
        assert_eq!(heard, expected.map(|(stream, text)| (stream, text.to_owned())));
        assert!(std::fs::read_to_string(&log).unwrap().contains("two"));
        files::remove(&log).unwrap();
    }

    #[test]
    fn a_silent_child_is_ended_with_its_grandchildren() {
        let log = log();
        let deadline = Deadline { whole: Duration::from_secs(60), silence: Some(Duration::from_millis(300)) };
        let start = Instant::now();
        let mut grandchild = 0;
        let error =
            run(&shell("sleep 1000 & echo $!; wait"), deadline, &log, |_, text| grandchild = text.parse().unwrap())
                .unwrap_err();
        assert_eq!(error.code(), Code::Silent);
        assert!(start.elapsed() < Duration::from_secs(5));
        let alive = Pid::from_raw(grandchild).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok());
        assert!(!alive || zombie(grandchild));
        files::remove(&log).unwrap();
    }

    #[test]
    fn a_daemon_that_keeps_the_pipes_open_does_not_keep_us() {
        let log = log();
        let start = Instant::now();
        let mut daemon = 0;
        let finished =
            run(&shell("sleep 1000 & echo $!"), Deadline::BUILD, &log, |_, text| daemon = text.parse().unwrap());
        assert!(finished.unwrap().status.success());
        assert!(start.elapsed() < Duration::from_secs(10));
        rustix::process::kill_process(Pid::from_raw(daemon).unwrap(), Signal::KILL).unwrap();
        files::remove(&log).unwrap();
    }

    #[test]
    fn a_program_that_is_still_being_written_is_waited_for() {
        let program = log();
        std::fs::copy("/bin/true", &program).unwrap();
        let invocation = Invocation { program: program.clone(), arguments: Vec::new(), ..shell("") };
        let started: [&dyn Fn() -> bool; 2] = [&|| ask(&invocation).is_ok(), &|| {
            let log = log();
            let ended = run(&invocation, Deadline::QUESTION, &log, |_, _| ()).is_ok_and(|it| it.status.success());
            files::remove(&log).unwrap();
            ended
        }];
        for start in started {
            let writer = File::options().append(true).open(&program).unwrap();
            let done = thread::spawn(move || {
                thread::sleep(Duration::from_millis(200));
                drop(writer);
            });
            assert!(start());
            done.join().unwrap();
        }
        files::remove(&program).unwrap();
    }

    fn zombie(pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    }

    #[test]
    fn a_child_gets_no_variable_that_it_was_not_given() {
        let answer = ask(&shell("env | cut -d= -f1 | grep -v -e ^PWD -e ^_ -e ^SHLVL -e ^OLDPWD")).unwrap();
        assert_eq!(answer.trim(), "PATH");
    }

    #[test]
    fn a_failed_build_reports_its_own_code_its_last_lines_and_its_log() {
        let log = log();
        let finished = run(&shell("seq 1000 1099; exit 7"), Deadline::BUILD, &log, |_, _| {}).unwrap();
        let error = finished.into_result("cargo build").unwrap_err();
        assert_eq!(error.code(), Code::ChildFailed);
        let text = error.render();
        assert!(text.contains("`cargo build` failed (exit 7)"), "{text}");
        assert!(
            !text.contains("1049") && text.contains("1050\n") && text.contains("1099\n"),
            "the last 50 lines: {text}"
        );
        assert_eq!(error.hints(), [format!("whole output: {}", log.display())]);
        assert!(std::fs::read_to_string(&log).unwrap().contains("1000\n"));
        files::remove(&log).unwrap();
    }

    #[test]
    fn a_program_that_cannot_be_started_is_named() {
        let log = log();
        let missing = Invocation { program: "/no/such/program".into(), ..shell("") };
        let error = run(&missing, Deadline::QUESTION, &log, |_, _| {}).unwrap_err();
        assert!(error.code() == Code::CannotStart && error.to_string().contains("/no/such/program"), "{error}");
        files::remove(&log).unwrap();
    }

    #[test]
    fn words_are_quoted_so_that_a_shell_reads_them_back() {
        for word in ["plain", "two words", "it's", "$HOME", "", "a\nb", "*"] {
            let answer = ask(&shell(&format!("printf %s {}", quoted(OsStr::new(word))))).unwrap();
            assert_eq!(answer, word);
        }
    }
}
