//! The built gateway, driven as the conductor drives it: lines in, lines out.

use crate::server::sha256;
use protocol::{
    Artifact, Ecosystem, Egress, Event, Failure, Job, Limits, Outcome, Pins, Proxy, Request, SCHEMA, Samples, Setup,
    Upstream, Verdict,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// No test waits longer for one event.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder that goes away with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gateway-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Names of the files below a folder of it, sorted.
    pub fn files(&self, below: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut left = vec![self.0.join(below)];
        while let Some(folder) = left.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    left.push(entry.path())
                } else {
                    found.push(entry.file_name().into_string().unwrap())
                }
            }
        }
        found.sort();
        found
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn upstream(url: &str) -> Upstream {
    Upstream {
        url: url.to_owned(),
        second: None,
        last_resort: false,
        origin: "mirror test".to_owned(),
        authorization: None,
        second_authorization: None,
        login: None,
    }
}

/// Short bounds, so that faults are noticed soon; not shorter, so that a good server on a loaded machine keeps them.
pub fn setup(folder: &Folder, ecosystem: Ecosystem, urls: &[&str]) -> Setup {
    Setup {
        schema: SCHEMA,
        downloads: folder.0.join("downloads"),
        upstreams: BTreeMap::from([(ecosystem, urls.iter().map(|url| upstream(url)).collect())]),
        databases: Vec::new(),
        only_after_absence: BTreeSet::new(),
        registries: BTreeMap::new(),
        bases: BTreeMap::new(),
        files: BTreeMap::new(),
        private: BTreeMap::new(),
        allowed_hosts: None,
        pins: Pins::default(),
        samples: Samples::default(),
        measured: Vec::new(),
        proxy: Proxy::default(),
        ca_bundles: Vec::new(),
        further_authorities: Vec::new(),
        limits: Limits {
            connect_seconds: 2,
            first_byte_seconds: 2,
            stall_seconds: 2,
            minimum_bytes: 1024,
            retry_after_seconds: 5,
            // The tables of faults tell who is asked after whom; the race has tests of its own.
            race_milliseconds: 0,
        },
    }
}

pub struct Gateway {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    pub events: Vec<Event>,
    /// Everything it wrote, for searches for what must not be there.
    pub output: String,
    pub address: String,
    pub password: String,
}

impl Gateway {
    pub fn start(setup: &Setup) -> Self {
        let mut child =
            Command::new(env!("CARGO_BIN_EXE_gateway")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{}", serde_json::to_string(setup).unwrap()).unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut gateway = Self {
            child,
            stdin: Some(stdin),
            lines,
            events: Vec::new(),
            output: String::new(),
            address: String::new(),
            password: String::new(),
        };
        match gateway.next() {
            Event::Ready { address, password, .. } => (gateway.address, gateway.password) = (address, password),
            other => unreachable!("the first event is {other:?}"),
        }
        gateway
    }

    fn next(&mut self) -> Event {
        let line = self.lines.recv_timeout(PATIENCE).expect("an event within the test's patience");
        self.output.push_str(&line);
        let event: Event = serde_json::from_str(&line).unwrap();
        self.events.push(event.clone());
        event
    }

    pub fn send(&mut self, id: u64, job: Job) {
        let request = serde_json::to_string(&Request { id, step: "test:step".to_owned(), job }).unwrap();
        writeln!(self.stdin.as_mut().unwrap(), "{request}").unwrap();
    }

    /// Reads events until the given number of jobs has ended; a gateway that never stops trying is a failure too.
    pub fn finish(&mut self, jobs: usize) -> Vec<Result<Outcome, Failure>> {
        let started = Instant::now();
        let mut ended = Vec::new();
        while ended.len() < jobs {
            assert!(started.elapsed() < PATIENCE, "{} of {jobs} jobs have ended", ended.len());
            match self.next() {
                Event::Done { outcome, .. } => ended.push(Ok(outcome)),
                Event::Failed { failure, .. } => ended.push(Err(failure)),
                _ => {}
            }
        }
        ended
    }

    pub fn perform(&mut self, job: Job) -> Result<Outcome, Failure> {
        self.send(1, job);
        self.finish(1).remove(0)
    }

    /// # Returns the fetched bytes; panics if they are not what the outcome says they are.
    pub fn fetch(&mut self, artifact: Artifact) -> Result<Vec<u8>, Failure> {
        match self.perform(Job::Fetch { artifact })? {
            Outcome::Fetched { path, sha256: hash, size_bytes, .. } => {
                let bytes = fs::read(path).unwrap();
                assert_eq!((sha256(&bytes), bytes.len() as u64), (hash, size_bytes));
                Ok(bytes)
            }
            other => unreachable!("a fetch ended with {other:?}"),
        }
    }

    /// Ends it as the conductor does, and takes in what it still said.
    pub fn close(&mut self) {
        self.stdin = None;
        self.child.wait().unwrap();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.output.push_str(&line);
            self.events.push(serde_json::from_str(&line).unwrap());
        }
    }

    /// What the conductor heard of children that were refused.
    pub fn refusals(&self) -> Vec<&Failure> {
        self.events
            .iter()
            .filter_map(|event| if let Event::Refused { failure, .. } = event { Some(failure) } else { None })
            .collect()
    }

    /// The most memory that it ever had.
    pub fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn egress(&self) -> Vec<&Egress> {
        self.events
            .iter()
            .filter_map(|event| if let Event::Egress(egress) = event { Some(egress) } else { None })
            .collect()
    }

    pub fn verdicts(&self) -> Vec<Verdict> {
        self.egress().iter().map(|egress| egress.verdict).collect()
    }

    pub fn findings(&self) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|event| if let Event::Finding { code, .. } = event { Some(code.as_str()) } else { None })
            .collect()
    }

    /// `GET` through it as cargo sends it: status and body.
    pub fn get(&self, target: &str, password: &str) -> (u16, Vec<u8>) {
        self.raw("GET", target, &format!("Proxy-Authorization: Basic {}\r\n", base64(&format!("xtask:{password}"))))
    }

    pub fn raw(&self, method: &str, target: &str, headers: &str) -> (u16, Vec<u8>) {
        let (status, _, body) = self.answer(method, target, headers);
        (status, body)
    }

    /// With the head, its names in lower case, as a child of this run asks a proxy.
    pub fn ask(&self, method: &str, target: &str, headers: &str) -> (u16, String, Vec<u8>) {
        let known = base64(&format!("test:{}", self.password));
        self.answer(method, target, &format!("Proxy-Authorization: Basic {known}\r\n{headers}"))
    }

    /// How many bytes a child of this run gets, none of which it keeps.
    pub fn length(&self, target: &str) -> u64 {
        let known = base64(&format!("test:{}", self.password));
        let stream = TcpStream::connect(&self.address).unwrap();
        let head = format!("GET {target} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic {known}\r\n\r\n");
        (&stream).write_all(head.as_bytes()).unwrap();
        let mut stream = BufReader::new(stream);
        let mut lines = String::new();
        while !lines.ends_with("\r\n\r\n") {
            assert_ne!(stream.read_line(&mut lines).unwrap(), 0, "{lines}");
        }
        let length = lines.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = std::io::Read::take(stream, length.unwrap_or_else(|| panic!("{lines}")).parse().unwrap());
        std::io::copy(&mut body, &mut std::io::sink()).unwrap()
    }

    fn answer(&self, method: &str, target: &str, headers: &str) -> (u16, String, Vec<u8>) {
        use std::io::Read;
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let head_end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let status = String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
        let head = String::from_utf8_lossy(&answer[..head_end]).to_ascii_lowercase();
        (status, head, answer[head_end + 4..].to_vec())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Through coreutils, an independent encoder.
pub fn base64(text: &str) -> String {
    let mut child = Command::new("base64").arg("-w0").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

pub fn shell(folder: &Path, script: &str) {
    let output = Command::new("sh").args(["-euc", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether a real client is installed; where not, the test says so, and fails if XTASK_REQUIRE names it or is `all`.
pub fn installed(program: &str) -> bool {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|folder| folder.join(program).exists());
    let required = std::env::var("XTASK_REQUIRE").unwrap_or_default();
    assert!(found || !required.split(',').any(|it| it == program || it == "all"), "{program} is required");
    if !found {
        // Past libtest, which shows nothing of a test that passes.
        let _ = writeln!(std::io::stderr(), "skipped: {program}: it is not installed");
    }
    found
}

/// A folder with a package of the Python index and what it needs, brought by pip once for all tests.
pub fn brought(package: &str) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(package);
    if !place.exists() {
        let beside = place.with_extension(std::process::id().to_string());
        let script = format!("python3 -m pip install -q --target '{}' '{package}' >&2", beside.display());
        shell(place.parent().unwrap(), &script);
        // Another test run may have been first.
        let _ = fs::rename(&beside, &place);
    }
    place
}
