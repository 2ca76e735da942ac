//! Drives the built launcher on small checkouts of its own, with the real cargo behind a script that records how it was
//! called. No test needs a network: every host is a loopback port.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

const CONDUCTOR: &str = r#"
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    println!("{{\"arguments\":{arguments:?}}}");
    for name in ["XTASK_LAUNCHER", "XTASK_REPO_ROOT", "XTASK_CONTACTED", "LD_LIBRARY_PATH"] {
        eprintln!("{name}={:?}", std::env::var(name).ok());
    }
    std::process::exit(arguments.iter().find_map(|it| it.strip_prefix("--exit=")?.parse().ok()).unwrap_or(0));
}
"#;

/// Records its arguments and the settings of interest, refuses the endpoints it is told to, else is cargo.
const RECORDER: &str = r#"#!/bin/sh
{
  printf 'run'
  for argument; do printf '\t%s' "$argument"; done
  printf '\n'
  env | grep -E '^(CARGO_(HTTP|NET|TARGET|BUILD)|NO_PROXY)' | sort
} >>"$RECORD"
case "$*" in
  *--offline*)
    if [ -n "$UNCACHED" ]; then
      printf 'error: failed to get `leaf`\n\nCaused by:\n  attempting to make an HTTP request, but --offline was specified\n' >&2
      exit 101
    fi ;;
  *)
    for refused in $REFUSE; do
      case "$*" in
        *"$refused"*)
          printf 'error: failed to get `leaf`\n\nCaused by:\n  [7] refused by the test\n' >&2
          exit 101 ;;
      esac
    done ;;
esac
exec "$REAL_CARGO" "$@"
"#;

struct Checkout {
    root: PathBuf,
    environment: BTreeMap<&'static str, String>,
}

impl Checkout {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("xtask launcher {} {}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let root = env::temp_dir().canonicalize().unwrap().join(name);
        let it = Self { root, environment: BTreeMap::new() };
        it.write("xtask/crates/Cargo.toml", "[workspace]\nresolver = '3'\nmembers = ['conductor', 'gateway']\n");
        for package in ["conductor", "gateway"] {
            let manifest = format!("[package]\nname = '{package}'\nversion = '0.1.0'\nedition = '2024'\n");
            it.write(&format!("xtask/crates/{package}/Cargo.toml"), &manifest);
            it.write(&format!("xtask/crates/{package}/src/main.rs"), CONDUCTOR);
        }
        it.write("bin/cargo", RECORDER);
        fs::set_permissions(it.root.join("bin/cargo"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(it.root.join("home")).unwrap();
        it.lock(&[]);
        // Sources are older than any build of them, as in a clone.
        it.age();
        it
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn age(&self) {
        for source in ["conductor/src/main.rs", "conductor/Cargo.toml", "Cargo.lock", "Cargo.toml"] {
            let file = fs::File::options().append(true).open(self.root.join("xtask/crates").join(source)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        }
    }

    fn lock(&self, arguments: &[&str]) {
        let mut cargo = Command::new(real_cargo());
        cargo.arg("generate-lockfile").args(arguments).current_dir(self.root.join("xtask/crates"));
        let output = cargo.env("CARGO_HOME", self.root.join("home")).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        for name in
            ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "http_proxy", "CARGO_HTTP_PROXY", "XTASK_MIRROR"]
        {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .current_dir(&self.root)
            .env("CARGO_MANIFEST_DIR", self.root.join("xtask"))
            .env("CARGO_HOME", self.root.join("home"))
            .env("CARGO", self.root.join("bin/cargo"))
            .env("REAL_CARGO", real_cargo())
            .env("RECORD", self.record())
            .env("XTASK_LANG", "en")
            .envs(&self.environment);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn record(&self) -> PathBuf {
        self.root.join("record")
    }

    /// How cargo was called since the last question, one call a line.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.record()).unwrap_or_default();
        let _ = fs::remove_file(self.record());
        text.lines().filter_map(|line| Some(line.strip_prefix("run\t")?.to_owned())).collect()
    }

    fn stamp(&self) -> PathBuf {
        self.root.join("target/xtask/tool/conductor.stamp")
    }

    /// Declares a profile `lab` with these crates endpoints.
    fn lab(&self, endpoints: &[&str]) {
        self.write("xtask.toml", &format!("[mirror.lab.crates]\nlist = {endpoints:?}\n"));
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn real_cargo() -> String {
    env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn check(output: &Output, exit: i32) -> (String, String) {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(exit), "stdout: {stdout}\nstderr: {stderr}");
    (stdout, stderr)
}

/// A host that accepts connections and says nothing, for the probe; and one whose port is closed.
fn alive_and_dead() -> (TcpListener, String, String) {
    let alive = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = |address| format!("sparse+http://{address}/index/");
    let (alive_url, dead_url) = (url(alive.local_addr().unwrap()), url(dead));
    (alive, alive_url, dead_url)
}

#[test]
fn the_first_run_builds_and_the_second_starts_no_cargo() {
    let checkout = Checkout::new();
    let (stdout, stderr) = check(&checkout.run(&["build"]), 0);
    assert_eq!(stdout, "{\"arguments\":[\"build\"]}\n", "standard output is the conductor's alone");
    assert!(stderr.starts_with("building xtask (first use)\n"), "{stderr}");
    assert!(stderr.contains(&format!("XTASK_REPO_ROOT={:?}\n", checkout.root.to_str())), "{stderr}");
    assert!(stderr.contains(&format!("XTASK_LAUNCHER={:?}\n", Some(env!("CARGO_BIN_EXE_xtask")))), "{stderr}");
    let message_format = "--message-format=json-render-diagnostics";
    assert_eq!(
        checkout.calls(),
        [format!("build\t--locked\t--package\tconductor\t--bin\tconductor\t{message_format}")]
    );

    let (_, stderr) = check(&checkout.run(&["--mirror", "cn", "build"]), 0);
    assert!(!stderr.contains("building"), "{stderr}");
    assert_eq!(checkout.calls(), [""; 0]);
}

#[test]
fn an_edit_is_built_and_named_and_a_failed_build_leaves_no_stamp() {
    let checkout = Checkout::new();
    check(&checkout.run(&[]), 0);
    let main = "xtask/crates/conductor/src/main.rs";
    checkout.write(main, &CONDUCTOR.replace("arguments\\\"", "edited\\\""));
    let (stdout, stderr) = check(&checkout.run(&[]), 0);
    assert_eq!(stdout, "{\"edited\":[]}\n");
    assert!(stderr.starts_with(&format!("building xtask ({main} changed)\n")), "{stderr}");

    fs::remove_file(checkout.stamp()).unwrap();
    checkout.write(main, "fn main() { let x: u8 = \"\"; }");
    let (stdout, stderr) = check(&checkout.run(&["--format", "json"]), 9);
    assert_eq!(stdout, "");
    assert!(
        stderr.contains("error[E0308]: mismatched types") && stderr.contains("cannot build xtask\n  caused by:"),
        "{stderr}"
    );
    assert!(!checkout.stamp().exists());
    checkout.write(main, CONDUCTOR);
    check(&checkout.run(&[]), 0);
}

#[test]
fn arguments_exit_code_and_folder_are_passed_on_as_they_are() {
    let checkout = Checkout::new();
    let deep = checkout.root.join("xtask/crates/conductor/src");
    let arguments = ["a b", "", "--exit=7", "--", "--mirror", "nobody", "\"quoted\" \\ $HOME"];
    let output = checkout.command(&arguments).current_dir(deep).output().unwrap();
    let (stdout, _) = check(&output, 7);
    assert_eq!(stdout, format!("{{\"arguments\":{arguments:?}}}\n"));
}

#[test]
fn the_library_path_that_cargo_run_adds_ends_here_and_the_callers_goes_on() {
    let checkout = Checkout::new();
    fs::create_dir_all(checkout.root.join("lib/rustlib")).unwrap();
    let built = PathBuf::from(env!("CARGO_BIN_EXE_xtask")).with_file_name("deps");
    for (callers, expected) in
        [("", "LD_LIBRARY_PATH=None\n"), (":/opt/cuda/lib", "LD_LIBRARY_PATH=Some(\"/opt/cuda/lib\")\n")]
    {
        let path = format!("{}:{}{callers}", built.display(), checkout.root.join("lib/rustlib/x/lib").display());
        let output = checkout.command(&[]).env("LD_LIBRARY_PATH", path).output().unwrap();
        assert!(check(&output, 0).1.contains(expected), "{output:?}");
    }
}

#[test]
fn a_satellite_is_built_beside_with_a_stamp_of_its_own_and_only_its_path_is_printed() {
    let checkout = Checkout::new();
    let (stdout, _) = check(&checkout.run(&["--build-satellite", "gateway"]), 0);
    let binary = checkout.root.join("target/xtask/tool/debug/gateway");
    assert_eq!(stdout, format!("{}\n", binary.display()));
    assert!(binary.is_file() && !checkout.stamp().exists());
    // Its sources are as young as the fixture, so cargo is asked again unless they are older than the build.
    let (stdout, _) = check(&checkout.run(&["--build-satellite", "gateway"]), 0);
    assert_eq!(stdout, format!("{}\n", binary.display()));
    assert!(check(&checkout.run(&["--build-satellite", "../gateway"]), 2).1.contains("there is no package"));
}

#[test]
fn a_failure_is_told_in_the_language_of_the_reader_and_of_json_in_english() {
    let checkout = Checkout::new();
    let told = |words: &[&str], locale: &str| {
        let mut command = checkout.command(&[&["plan", "--mirror", "nosuch"], words].concat());
        let output = command.env_remove("XTASK_LANG").env("LC_ALL", locale).output().unwrap();
        check(&output, 3).1
    };
    let (english, chinese) = (told(&[], "C"), told(&[], "zh_CN.UTF-8"));
    assert!(english.starts_with("error: there is no mirror profile `nosuch`\nhint: "), "{english}");
    assert!(chinese.starts_with("错误：") && chinese.contains("`nosuch`") && chinese.contains("\n提示："), "{chinese}");
    assert_eq!(told(&["--lang", "zh"], "C"), chinese);
    assert_eq!(told(&["--lang=en"], "zh_CN.UTF-8"), english);
    assert_eq!(told(&["--format", "json"], "zh_CN.UTF-8"), english);
}

fn source(url: &str) -> String {
    format!(
        "--config\tsource.crates-io.replace-with=\"xtask-mirror\"\t--config\tsource.xtask-mirror.registry=\"{url}\""
    )
}

#[test]
fn a_dead_endpoint_costs_a_probe_and_the_one_that_served_is_first_next_time() {
    let mut checkout = Checkout::new();
    let (_alive, alive, dead) = alive_and_dead();
    checkout.lab(&[&dead, &alive, "direct"]);
    checkout.environment.insert("UNCACHED", "1".into());
    let (_, stderr) = check(&checkout.run(&["build", "--mirror", "lab"]), 0);
    assert!(stderr.starts_with("building xtask (first use), crates through mirror `lab`\n"), "{stderr}");
    let settings = fs::read_to_string(checkout.record()).unwrap();
    for setting in ["CARGO_HTTP_TIMEOUT=5\n", "CARGO_HTTP_LOW_SPEED_LIMIT=1000\n", "CARGO_NET_RETRY=1\n"] {
        assert!(settings.contains(setting), "{settings}");
    }
    let target = checkout.root.join("target/xtask/tool");
    assert!(settings.contains(&format!("CARGO_TARGET_DIR={}\n", target.display())), "{settings}");
    let calls = checkout.calls();
    let [first, second, third, online] = calls.as_slice() else { panic!("{calls:?}") };
    assert!(first.contains("--offline") && first.ends_with(&source(&dead)), "{calls:?}");
    assert!(second.contains("--offline") && second.ends_with(&source(&alive)), "{calls:?}");
    assert!(third.ends_with("--offline"), "`direct` sets nothing: {calls:?}");
    assert!(!online.contains("--offline") && online.ends_with(&source(&alive)), "{calls:?}");

    // Another mirror's URL would compile every crate again, so the last one is first now, profile or not.
    checkout.environment.remove("UNCACHED");
    for arguments in [&["--mirror", "lab"][..], &[]] {
        fs::remove_file(checkout.stamp()).unwrap();
        check(&checkout.run(arguments), 0);
        let calls = checkout.calls();
        assert!(calls.len() == 1 && calls[0].contains("--offline") && calls[0].ends_with(&source(&alive)), "{calls:?}");
    }
    fs::remove_file(checkout.stamp()).unwrap();
    check(&checkout.run(&["--mirror", "off"]), 0);
    assert!(!checkout.calls()[0].contains("--config"));
}

#[test]
fn where_everything_fails_each_endpoint_has_its_line_and_standard_output_stays_empty() {
    let mut checkout = Checkout::new();
    let (_alive, alive, dead) = alive_and_dead();
    checkout.lab(&[&dead, &alive.replace("127", "user:secret@127")]);
    checkout.environment.insert("UNCACHED", "1".into());
    checkout.environment.insert("REFUSE", "--config".into());
    let (stdout, stderr) = check(&checkout.run(&["--mirror=lab", "--format", "json"]), 4);
    assert_eq!(stdout, "");
    let masked = alive.replace("127", "****@127");
    for line in [
        "error: cannot build xtask: its crates could not be fetched\n",
        &format!("  caused by: {dead}: {}", dead.trim_start_matches("sparse+http://").trim_end_matches("/index/")),
        &format!("  caused by: {masked}: [7] refused by the test\n"),
        "[mirror.lab.crates] in xtask.local.toml",
        "--mirror NAME` (cn, corporate, direct, lab), or set HTTPS_PROXY",
    ] {
        assert!(stderr.contains(line), "{line:?} is missing in: {stderr}");
    }
    assert!(!stderr.contains("secret") && !stderr.contains("patience"), "{stderr}");
    // Arguments can be read by everybody on the machine, and the private file that they name is gone.
    let calls = checkout.calls().join("\n");
    assert!(!calls.contains("secret"), "{calls}");
    let file = calls.split(['\t', '\n']).find(|word| word.contains("/endpoint-")).unwrap();
    assert!(!PathBuf::from(file).exists(), "{file}");
    assert_eq!(stderr.matches("caused by").count(), 2, "what is not cached is no failure: {stderr}");
    assert!(!checkout.stamp().exists());

    let (_, stderr) = check(&checkout.run(&["--offline", "--mirror=lab"]), 4);
    assert!(stderr.contains("run it once without `--offline`"), "{stderr}");
    checkout.environment.insert("REFUSE", "build".into());
    let (_, stderr) = check(&checkout.run(&[]), 4);
    assert!(
        stderr.contains("caused by: cargo's own registry: [7] refused") && stderr.contains("`--mirror NAME`"),
        "{stderr}"
    );
}

#[test]
fn behind_a_proxy_and_where_no_probe_succeeds_cargo_itself_decides() {
    let mut checkout = Checkout::new();
    let (_alive, alive, dead) = alive_and_dead();
    checkout.environment.insert("UNCACHED", "1".into());
    let online = |checkout: &Checkout| -> Vec<String> {
        checkout.calls().into_iter().filter(|call| !call.contains("--offline")).collect()
    };
    checkout.lab(&[&dead, "direct"]);
    check(&checkout.run(&["--mirror=lab"]), 0);
    assert!(online(&checkout)[0].ends_with(&source(&dead)));

    checkout.lab(&[&dead, &alive]);
    fs::remove_dir_all(checkout.root.join("target")).unwrap();
    let proxy = ("HTTPS_PROXY", "http://127.0.0.1:9".to_owned());
    let (name, value) = proxy;
    checkout.environment.insert(name, value);
    checkout.environment.insert("REFUSE", dead.clone());
    let (_, stderr) = check(&checkout.run(&["--mirror=lab"]), 0);
    let line = format!("crates from {alive}; passed over: {dead} ([7] refused by the test)\n");
    assert!(stderr.contains(&line), "{line} is missing in: {stderr}");
    let calls = online(&checkout);
    assert!(calls.len() == 2 && calls[0].ends_with(&source(&dead)) && calls[1].ends_with(&source(&alive)), "{calls:?}");
}

#[test]
fn the_profile_comes_from_flag_variable_local_file_and_tracked_file_in_this_order() {
    let mut checkout = Checkout::new();
    let list = |name: &str| format!("[mirror.{name}.crates]\nlist = ['sparse+http://127.0.0.1:1/{name}/']\n");
    checkout.write("xtask.toml", &format!("mirror.use = 'd'\n{}{}", list("a"), list("b")));
    let names = |checkout: &Checkout, arguments: &[&str]| {
        let _ = fs::remove_dir_all(checkout.root.join("target"));
        check(&checkout.run(arguments), 0);
        checkout.calls()[0].rsplit('/').nth(1).unwrap_or_default().to_owned()
    };
    checkout.write("xtask.local.toml", &format!("# mine\nmirror.use = 'c'\n{}", list("c")));
    checkout.environment.insert("XTASK_MIRROR", "b".into());
    assert_eq!(names(&checkout, &["--mirror", "a"]), "a");
    assert_eq!(names(&checkout, &["--", "--mirror", "a"]), "b");
    checkout.environment.remove("XTASK_MIRROR");
    assert_eq!(names(&checkout, &[]), "c");
    checkout.write("xtask.local.toml", &list("d"));
    assert_eq!(names(&checkout, &[]), "d");

    fs::remove_dir_all(checkout.root.join("target")).unwrap();
    let (_, stderr) = check(&checkout.run(&["--mirror", "e"]), 3);
    assert!(stderr.contains("hint: known profiles: a, b, cn, corporate, d, direct;"), "{stderr}");
    // Another checkout declares profiles of its own.
    checkout.write("other/xtask.toml", &list("e"));
    assert_eq!(names(&checkout, &["--mirror", "e", "--repo", "other"]), "e");
}

#[test]
fn launchers_that_start_together_all_succeed() {
    let checkout = Checkout::new();
    let children: Vec<_> = (0..4)
        .map(|_| checkout.command(&["x"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    for child in children {
        assert_eq!(check(&child.wait_with_output().unwrap(), 0).0, "{\"arguments\":[\"x\"]}\n");
    }
    checkout.calls();
    check(&checkout.run(&[]), 0);
    assert_eq!(checkout.calls(), [""; 0]);
}

/// A sparse registry with one crate, `leaf`, and the log of what it was asked.
struct Registry {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    /// Its files are behind another name than its index.
    fn start(package: Vec<u8>, index_line: String) -> Self {
        Self::serve(move |path, port| match path {
            "/index/config.json" => Some(format!("{{\"dl\":\"http://localhost:{port}/dl\"}}").into_bytes()),
            "/index/le/af/leaf" => Some(index_line.clone().into_bytes()),
            "/dl/leaf/0.1.0/download" => Some(package.clone()),
            _ => None,
        })
    }

    fn serve(content: impl Fn(&str, u16) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::answering(move |path, port| match content(path, port) {
            Some(body) => ("200 OK".to_owned(), body),
            None => ("404 Not Found".to_owned(), Vec::new()),
        })
    }

    /// With a status of its own, which further header lines may follow.
    fn answering(content: impl Fn(&str, u16) -> (String, Vec<u8>) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, content) = (Arc::clone(&asked), Arc::new(content));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (log, content) = (Arc::clone(&log), Arc::clone(&content));
                thread::spawn(move || answer(stream, &log, &|path| content(path, address.port())));
            }
        });
        Self { url: format!("sparse+http://{address}/index/"), asked }
    }
}

fn answer(stream: TcpStream, log: &Mutex<Vec<String>>, content: &dyn Fn(&str) -> (String, Vec<u8>)) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let mut stream = stream;
    while let Some(request) = lines.next() {
        let headers: Vec<String> = lines.by_ref().take_while(|header| !header.is_empty()).collect();
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let (status, body) = content(&path);
        let proxy_secret = headers.iter().find(|header| header.to_lowercase().starts_with("proxy-authorization"));
        log.lock().unwrap().push(proxy_secret.map_or(path.clone(), |secret| format!("{path} {secret}")));
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).is_err() {
            return;
        }
    }
}

/// The crate `leaf`, its line in an index and its hash; `checkout`'s conductor needs it, and CARGO_HOME is empty.
fn leaf(checkout: &Checkout) -> (Vec<u8>, String, String) {
    checkout.write("leaf/Cargo.toml", "[package]\nname = 'leaf'\nversion = '0.1.0'\nedition = '2024'\n[workspace]\n");
    checkout.write("leaf/src/lib.rs", "pub fn answer() -> u32 { 42 }\n");
    let mut cargo = Command::new(real_cargo());
    cargo.args(["package", "--no-verify", "--offline", "--allow-dirty"]).current_dir(checkout.root.join("leaf"));
    assert!(cargo.env("CARGO_TARGET_DIR", checkout.root.join("packed")).output().unwrap().status.success());
    let archive = checkout.root.join("packed/package/leaf-0.1.0.crate");
    let sha256 = text(&Command::new("sha256sum").arg(&archive).output().unwrap().stdout)[..64].to_owned();
    let index_line = format!(
        "{{\"name\":\"leaf\",\"vers\":\"0.1.0\",\"deps\":[],\"cksum\":\"{sha256}\",\"features\":{{}},\"yanked\":false}}\n"
    );
    let bytes = fs::read(archive).unwrap();
    let manifest =
        "[package]\nname = 'conductor'\nversion = '0.1.0'\nedition = '2024'\n[dependencies]\nleaf = '0.1.0'\n";
    checkout.write("xtask/crates/conductor/Cargo.toml", manifest);
    let tell = "eprintln!(\"contacted {:?}\", std::env::var(\"XTASK_CONTACTED\").ok());";
    let main = format!("fn main() {{ {tell} println!(\"{{}}\", leaf::answer()); }}");
    checkout.write("xtask/crates/conductor/src/main.rs", &main);
    let registry = Registry::start(bytes.clone(), index_line.clone());
    checkout.lock(&source(&registry.url).split('\t').collect::<Vec<_>>());
    fs::remove_dir_all(checkout.root.join("home")).unwrap();
    checkout.age();
    (bytes, index_line, sha256)
}

#[test]
fn dead_silent_html_and_stale_endpoints_cost_seconds_and_are_named_on_the_line_of_the_one_that_served() {
    let checkout = Checkout::new();
    let (bytes, index_line, _) = leaf(&checkout);
    // Connections to a listener that accepts none are accepted by the kernel, and nobody ever answers.
    let (silent_host, silent, dead) = alive_and_dead();
    let page = b"<!doctype html><title>Please log in</title>".to_vec();
    let html = Registry::serve(move |_, _| Some(page.clone()));
    let stale =
        Registry::serve(|path, _| (path == "/index/config.json").then(|| b"{\"dl\":\"http://127.0.0.1:1\"}".to_vec()));
    let good = Registry::start(bytes, index_line);
    checkout.lab(&[&silent, &dead, &html.url, &stale.url, &good.url, "direct"]);
    let (stdout, stderr) = check(&checkout.run(&["--mirror", "lab"]), 0);
    assert_eq!(stdout, "42\n", "{stderr}");
    silent_host.set_nonblocking(true).unwrap();
    let connections = std::iter::from_fn(|| silent_host.accept().ok()).count();
    assert_eq!(connections, 2, "the probe and one try, whose timeout is cargo's only wait");
    let line = stderr.lines().find(|line| line.starts_with(&format!("crates from {}; passed over: ", good.url)));
    let line = line.unwrap_or_else(|| panic!("{stderr}"));
    for (url, reason) in [
        (&silent, "Less than 1000 bytes/sec"),
        (&dead, "Connection refused"),
        (&html.url, "page that is no index"),
        (&stale.url, "its index lacks a crate"),
    ] {
        let place = line.split_once(url.as_str()).map_or("", |(_, rest)| rest);
        assert!(place.split("sparse+").next().is_some_and(|it| it.contains(reason)), "{url} {reason}: {line}");
    }
    // The index led to another host for its files.
    assert!(stderr.contains("127.0.0.1=served localhost\")"), "{stderr}");

    // Nothing is contacted once the crates are here, and the conductor is told of nobody.
    fs::remove_file(checkout.stamp()).unwrap();
    let (_, stderr) = check(&checkout.command(&["--mirror", "lab"]).env("XTASK_CONTACTED", "old").output().unwrap(), 0);
    assert!(stderr.contains("contacted None") && !stderr.contains("crates from"), "{stderr}");
}

#[test]
fn a_profiles_proxy_and_authorities_reach_cargo_and_the_callers_do_not() {
    let mut checkout = Checkout::new();
    checkout.environment.insert("UNCACHED", "1".into());
    checkout.environment.insert("CARGO_HTTP_PROXY", "http://mine:1".into());
    checkout.environment.insert("SSL_CERT_FILE", checkout.root.join("machine.pem").display().to_string());
    checkout.write("machine.pem", "machine\n");
    checkout.write("corp.pem", "corp");
    let profile = "[mirror.lab]\nproxy = 'http://u:secret@proxy.example:3128'\nno_proxy = ['.lab']\nca_bundle = 'corp.pem'\n\
                   [mirror.lab.crates]\nlist = ['sparse+https://nobody.example/']\n";
    checkout.write("xtask.toml", profile);
    let (_, stderr) = check(&checkout.run(&["--mirror", "lab"]), 0);
    assert!(!stderr.contains("no connection"), "a probe past the proxy: {stderr}");
    let settings = fs::read_to_string(checkout.record()).unwrap();
    let bundle = checkout.root.join("target/xtask/tool/authorities.pem");
    for line in [
        "CARGO_HTTP_PROXY=http://u:secret@proxy.example:3128\n",
        "NO_PROXY=.lab\n",
        &format!("CARGO_HTTP_CAINFO={}\n", bundle.display()),
    ] {
        assert!(settings.contains(line), "{line} is missing in: {settings}");
    }
    assert_eq!(fs::read_to_string(bundle).unwrap(), "corp\nmachine\n");
    assert!(!stderr.contains("secret"), "{stderr}");

    fs::remove_file(checkout.root.join("corp.pem")).unwrap();
    fs::remove_file(checkout.stamp()).unwrap();
    assert!(check(&checkout.run(&["--mirror", "lab"]), 3).1.contains("corp.pem"));
}

#[test]
fn from_an_empty_cargo_home_a_real_crate_comes_past_a_dead_and_a_forging_endpoint() {
    let checkout = Checkout::new();
    let (bytes, index_line, sha256) = leaf(&checkout);
    let mut flipped = bytes.clone();
    flipped[40] ^= 1;
    let other = format!("{:064}", 0);
    let altered = Registry::start(bytes.clone(), index_line.replace(&sha256, &other));
    let (good, forging) = (Registry::start(bytes, index_line.clone()), Registry::start(flipped, index_line));
    let (_alive, _, dead) = alive_and_dead();

    checkout.lab(&[&dead, &forging.url]);
    let (_, stderr) = check(&checkout.run(&["--mirror", "lab"]), 5);
    let forged = format!(
        "  caused by: {}: it sent `leaf v0.1.0` with other bytes than Cargo.lock pins (sha256 {sha256})\n",
        forging.url
    );
    assert!(stderr.contains(&forged), "{forged} is missing in: {stderr}");

    checkout.lab(&[&altered.url, &dead]);
    let (_, stderr) = check(&checkout.run(&["--mirror", "lab"]), 5);
    let told = format!(
        "  caused by: {}: its index gives `leaf v0.1.0` another checksum than Cargo.lock pins (sha256 {sha256})\n",
        altered.url
    );
    assert!(stderr.contains(&told) && !stderr.contains("corrupt"), "{told} is missing in: {stderr}");

    checkout.lab(&[&altered.url, &dead, &forging.url, &good.url]);
    let (stdout, stderr) = check(&checkout.run(&["--mirror", "lab"]), 0);
    assert_eq!(stdout, "42\n", "{stderr}");
    let line = stderr.lines().find(|line| line.starts_with("crates from ")).unwrap_or_default();
    for words in [format!("{} (its index gives", altered.url), format!("{} (it sent `leaf v0.1.0`", forging.url)] {
        assert!(line.contains(&words), "{words}: {stderr}");
    }
    assert!(good.asked.lock().unwrap().contains(&"/dl/leaf/0.1.0/download".to_owned()));

    // Everything is in CARGO_HOME now: a new build asks nobody, and the source folder keeps its name.
    good.asked.lock().unwrap().clear();
    fs::remove_file(checkout.stamp()).unwrap();
    let (_, stderr) = check(&checkout.run(&["--mirror", "lab"]), 0);
    assert!(!stderr.contains("Compiling leaf"), "{stderr}");
    assert_eq!(*good.asked.lock().unwrap(), [""; 0]);
}

#[test]
fn a_proxy_that_is_down_and_authorities_of_no_use_are_named_with_their_variable() {
    let mut checkout = Checkout::new();
    leaf(&checkout);
    checkout.lab(&["sparse+https://mirror.example/"]);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    checkout.environment.insert("NO_PROXY", String::new());
    checkout.environment.insert("no_proxy", String::new());
    for scheme in ["http", "socks5"] {
        checkout.environment.insert("HTTPS_PROXY", format!("{scheme}://u:secret@{closed}"));
        let (_, stderr) = check(&checkout.run(&["--mirror", "lab"]), 4);
        let shown = format!("{scheme}://****@{closed}");
        let cause = format!("  caused by: the proxy {shown} that HTTPS_PROXY names does not answer: {closed}: ");
        let hint = format!("HTTPS_PROXY={shown} is in force: start that proxy");
        assert!(stderr.contains(&cause) && stderr.contains(&hint), "{cause} {hint}: {stderr}");
        assert!(!stderr.contains("secret") && !stderr.contains("or set HTTPS_PROXY"), "{stderr}");
    }
    checkout.environment.remove("HTTPS_PROXY");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    checkout.lab(&[&format!("sparse+https://{}/", listener.local_addr().unwrap())]);
    checkout.environment.insert("CARGO_HTTP_CAINFO", "/etc/hostname".into());
    let (_, stderr) = check(&checkout.run(&["--mirror", "lab"]), 4);
    assert!(stderr.contains("CARGO_HTTP_CAINFO=/etc/hostname is all that cargo trusts here"), "{stderr}");
}

#[test]
fn a_machine_without_a_network_is_told_so_before_any_advice_about_mirrors() {
    let checkout = Checkout::new();
    leaf(&checkout);
    checkout.lab(&["sparse+https://mirror.example/"]);
    let launcher = checkout.command(&["--mirror", "lab"]);
    let mut apart = Command::new("unshare");
    apart.arg("-rn").arg(launcher.get_program()).args(launcher.get_args()).current_dir(&checkout.root);
    for (name, value) in launcher.get_envs() {
        match value {
            Some(value) => apart.env(name, value),
            None => apart.env_remove(name),
        };
    }
    if !Command::new("unshare").args(["-rn", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no network namespace can be made here");
        return;
    }
    let (_, stderr) = check(&apart.output().unwrap(), 4);
    assert!(stderr.contains("\nhint: this machine has no network: "), "{stderr}");
}

#[test]
fn under_mirrors_only_neither_a_redirect_nor_an_index_leads_cargo_outside_the_profile() {
    let mut checkout = Checkout::new();
    // As on most machines with a proxy; with it curl would go around ours.
    checkout.environment.insert("NO_PROXY", "localhost,127.0.0.1".into());
    let (bytes, index_line, _) = leaf(&checkout);
    let (good, far) = (Registry::start(bytes.clone(), index_line.clone()), Registry::start(bytes, index_line.clone()));
    let elsewhere = far.url.trim_start_matches("sparse+http://").trim_end_matches("/index/").to_owned();
    let port = good.url.trim_end_matches("/index/").rsplit(':').next().unwrap();
    let redirect = {
        let place = format!("http://{elsewhere}");
        Registry::answering(move |path, _| (format!("302 Found\r\nlocation: {place}{path}?sig=secret"), Vec::new()))
    };
    let leading = |dl: String| {
        let index_line = index_line.clone();
        Registry::serve(move |path, _| match path {
            "/index/config.json" => Some(format!("{{\"dl\":\"{dl}\"}}").into_bytes()),
            "/index/le/af/leaf" => Some(index_line.clone().into_bytes()),
            _ => None,
        })
    };
    let (plain, tls) = (leading(format!("http://{elsewhere}/dl")), leading(format!("https://{elsewhere}/dl")));
    let lab = |endpoints: &[&str], hosts: &[&str]| {
        checkout.write(
            "xtask.toml",
            &format!("[mirror.lab]\nhosts = {hosts:?}\n[mirror.lab.crates]\nlist = {endpoints:?}\n"),
        );
        let _ = fs::remove_dir_all(checkout.root.join("home"));
        checkout.run(&["--mirror", "lab", "--egress", "mirrors-only"])
    };
    for (registry, url) in [
        (&redirect, format!("http://{elsewhere}/index/config.json")),
        (&plain, format!("http://{elsewhere}/dl/leaf/0.1.0/download")),
        (&tls, format!("https://{elsewhere}/…")),
    ] {
        let (stdout, stderr) = check(&lab(&[&registry.url], &[]), 4);
        for words in [
            "error[XT0405]: cannot build xtask: only a host outside the profile could deliver its crates\n",
            &format!("caused by: {}: it leads to {url}, outside the profile", registry.url),
            &format!("hint: if that host may be contacted: `hosts = [\"{elsewhere}\"]` under [mirror.lab]"),
        ] {
            assert!(stderr.contains(words), "{words:?} is missing in: {stderr}");
        }
        assert!(stdout.is_empty() && !stderr.contains("secret"), "{stderr}");
        assert_eq!(*far.asked.lock().unwrap(), [""; 0], "{url}");
    }
    // Its own files are behind the name `localhost`, which the profile has to say.
    let (_, stderr) = check(&lab(&[&plain.url, &good.url], &[]), 4);
    assert!(stderr.contains(&format!("it leads to http://localhost:{port}/dl/leaf/0.1.0/download")), "{stderr}");
    let (stdout, stderr) = check(&lab(&[&plain.url, &good.url], &[&format!("LOCALHOST:{port}")]), 0);
    assert_eq!(stdout, "42\n", "{stderr}");
    let line = stderr.lines().find(|line| line.starts_with("crates from ")).unwrap_or_default();
    assert!(line.contains(&format!("passed over: {} (it leads to http://{elsewhere}/", plain.url)), "{stderr}");
}

#[test]
fn under_mirrors_only_a_persons_proxy_is_used_and_asked_for_nothing_else() {
    let mut checkout = Checkout::new();
    let (bytes, index_line, _) = leaf(&checkout);
    let proxy = Registry::answering(move |url, _| {
        let ok = |body: &[u8]| ("200 OK".to_owned(), body.to_owned());
        match url {
            "http://mirror.example/index/config.json" => ok(b"{\"dl\":\"http://mirror.example/dl\"}"),
            "http://mirror.example/index/le/af/leaf" => ok(index_line.as_bytes()),
            "http://mirror.example/dl/leaf/0.1.0/download" => ok(&bytes),
            url if url.ends_with(":443") => ("503 Go away".to_owned(), Vec::new()),
            _ => ("302 Found\r\nlocation: http://away.example/".to_owned(), Vec::new()),
        }
    });
    let address = proxy.url.trim_start_matches("sparse+http://").trim_end_matches("/index/").to_owned();
    let lab = |checkout: &Checkout, endpoint: &str| {
        checkout.lab(&[endpoint]);
        proxy.asked.lock().unwrap().clear();
        let output = checkout.run(&["--mirror", "lab", "--egress", "mirrors-only"]);
        assert!(!text(&output.stderr).contains("secret"), "{}", text(&output.stderr));
        (output, proxy.asked.lock().unwrap().clone())
    };
    // Nobody but the host of the endpoint is asked for, in the person's name and with none of our own secrets.
    let secret = "Proxy-Authorization: Basic bWU6c2VjcmV0";
    checkout.environment.insert("http_proxy", format!("http://me:secret@{address}"));
    checkout.environment.insert("NO_PROXY", "elsewhere.example".into());
    let (led_away, asked) = lab(&checkout, "sparse+http://mirror.example/gone/");
    assert!(check(&led_away, 4).1.contains("it leads to http://away.example/, outside the profile"));
    assert_eq!(asked, [format!("http://mirror.example/gone/config.json {secret}")]);

    checkout.environment.insert("https_proxy", format!("http://me:secret@{address}"));
    let (refused, asked) = lab(&checkout, "sparse+https://mirror.example/index/");
    assert!(check(&refused, 4).1.contains(&format!("the proxy {address}: it answered `HTTP/1.1 503 Go away`")));
    assert!(!asked.is_empty() && asked.iter().all(|it| *it == format!("mirror.example:443 {secret}")), "{asked:?}");

    // As in cargo, its own setting outweighs the variables.
    checkout.environment.insert("http_proxy", "socks5://127.0.0.1:9".into());
    let (socks, asked) = lab(&checkout, "sparse+http://mirror.example/index/");
    assert!(check(&socks, 3).1.contains("`mirrors-only` cannot be kept through the proxy socks5://127.0.0.1:9"));
    assert!(asked.is_empty(), "{asked:?}");
    checkout.write("home/config.toml", &format!("[http]\nproxy = 'me:secret@{address}'\n"));
    let (built, asked) = lab(&checkout, "sparse+http://mirror.example/index/");
    assert_eq!(check(&built, 0).0, "42\n");
    assert!(asked.len() == 3 && asked.iter().all(|it| it.ends_with(secret)), "{asked:?}");
}

#[test]
fn what_an_endpoint_answers_is_told_with_its_status_and_without_the_password() {
    let checkout = Checkout::new();
    leaf(&checkout);
    for (status, told) in [
        ("401 Unauthorized\r\nwww-authenticate: Basic realm=x", "it answered 401: it wants a user and a password"),
        ("403 Forbidden", "it answered 403 for http://****@127.0.0.1"),
        ("404 Not Found", "it answered 404 for config.json: there is no index at this place"),
        ("429 Too Many Requests", "it answered 429 for http://****@127.0.0.1"),
    ] {
        let page = "secret page\nof two lines";
        let registry = Registry::answering(move |_, _| (status.to_owned(), page.into()));
        checkout.lab(&[&registry.url.replace("//", "//user:hunter2@")]);
        let (_, stderr) = check(&checkout.run(&["--mirror", "lab"]), 4);
        let place = format!("{}: {told}", registry.url.replace("//", "//****@"));
        assert!(stderr.contains(&place), "{place} is missing in: {stderr}");
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
}

#[test]
fn where_every_mirror_is_slow_they_are_asked_again_with_more_patience_before_the_default_is() {
    let mut checkout = Checkout::new();
    let (bytes, index_line, _) = leaf(&checkout);
    // One try each time, so that the haste costs this test five seconds once.
    checkout.environment.insert("CARGO_NET_RETRY", "0".into());
    let slow_answers = AtomicUsize::new(2);
    let slow = Registry::serve(move |path, port| {
        if slow_answers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            thread::sleep(Duration::from_secs(7));
        }
        match path {
            "/index/config.json" => Some(format!("{{\"dl\":\"http://127.0.0.1:{port}/dl\"}}").into_bytes()),
            "/index/le/af/leaf" => Some(index_line.clone().into_bytes()),
            _ => Some(bytes.clone()),
        }
    });
    let (_alive, _, dead) = alive_and_dead();
    checkout.lab(&[&slow.url, &dead, "direct"]);
    let (stdout, stderr) = check(&checkout.run(&["--mirror", "lab"]), 0);
    assert_eq!(stdout, "42\n", "{stderr}");
    let told = format!("slow: {}; asked again with more patience\n", slow.url);
    assert!(stderr.contains(&told), "{told} is missing in: {stderr}");
    let online: Vec<String> = checkout.calls().into_iter().filter(|call| !call.contains("--offline")).collect();
    assert!(online.len() == 2 && online.iter().all(|call| call.ends_with(&source(&slow.url))), "{online:?}");
}
