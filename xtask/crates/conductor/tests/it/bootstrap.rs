//! The script for a machine without Rust, run by the real shells against loopback servers, with a recorder for rustup-init.
//!
//! Owns: what the script promises. Never: install a toolchain, or reach the outside. Rules: `mirror/bootstrap.sh`.

use crate::cli::{Ended, Project};
use crate::repository;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const MANIFEST: &str = "manifest-version = \"2\"\n";

/// As rustup-init: says how it was called, and keeps the beginning of the hash of the manifest that it was served.
const RECORDER: &str = r#"#!/bin/sh
echo "init $* from $RUSTUP_DIST_SERVER and $RUSTUP_UPDATE_ROOT"
mkdir -p "$HOME/.rustup/update-hashes"
printf %s "$SERVED" > "$HOME/.rustup/update-hashes/1.95.0-x"
mkdir -p "$HOME/.cargo/bin"
echo 'PATH="$HOME/.cargo/bin:$PATH"' > "$HOME/.cargo/env"
printf '#!/bin/sh\necho "cargo 1.95.0 (x)"\n' > "$HOME/.cargo/bin/cargo"
chmod +x "$HOME/.cargo/bin/cargo"
"#;

/// As the system's rustup and its cargo: a toolchain that is no default is found by its name only.
const SYSTEMS_RUSTUP: &str = r#"#!/bin/sh
case "$*" in
  default) cat "$HOME/default" 2>/dev/null || { echo "error: no default toolchain is configured" >&2; exit 1; } ;;
  "default "*) echo "$2 (default)" > "$HOME/default" ;;
  "toolchain install"*) mkdir -p "$HOME/.rustup/update-hashes"; printf %s "$SERVED" > "$HOME/.rustup/update-hashes/1.95.0-x" ;;
esac
"#;
const SYSTEMS_CARGO: &str = r#"#!/bin/sh
case "$1" in
  +*) echo "cargo ${1#+} (x)" ;;
  *) [ -s "$HOME/default" ] || exit 1; read -r version _ < "$HOME/default"; echo "cargo $version (x)" ;;
esac
"#;

fn sha256(text: &str) -> String {
    let mut child = Command::new("sha256sum");
    let mut child = child.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()[..64].to_owned()
}

/// A server that answers by path; `None` is 404.
fn serve(content: impl Fn(&str) -> Option<String> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            while lines.next().is_some_and(|header| !header.is_empty()) {}
            let body = content(request.split(' ').nth(1).unwrap_or_default());
            let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
            let body = body.unwrap_or_default();
            let head = format!("HTTP/1.0 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes());
        }
    });
    url
}

/// A mirror of rustup's two servers, with rustup-init at `archive` or `dist`.
fn mirror(manifest: &str, init: &str, place: &'static str) -> String {
    let (manifest, init) = (manifest.to_owned(), init.to_owned());
    serve(move |path| match path {
        "/dist/channel-rust-1.95.0.toml" => Some(manifest.clone()),
        _ if path.starts_with(&format!("/rustup/{place}/")) && path.ends_with("/rustup-init") => Some(init.clone()),
        _ => None,
    })
}

/// The script for a profile with these servers, as the program prints it.
fn printed(project: &Project, servers: &[&str], arguments: &str) -> Ended {
    let pairs: Vec<String> = servers.iter().map(|url| format!("['{url}/', '{url}/rustup']")).collect();
    project
        .folder
        .write("xtask.local.toml", &format!("[mirror.lab.rustup]\nlist = [{}, 'direct']\n", pairs.join(", ")));
    let platforms =
        ["x86_64", "aarch64"].map(|machine| format!("{machine}-unknown-linux-gnu = \"{}\"\n", sha256(RECORDER)));
    let lock = format!(
        "version = 1\n[rustup]\nversion = \"1.29.0\"\ntoolchain = \"1.95.0\"\nmanifest = \"{}\"\n[rustup.init]\n{}",
        sha256(MANIFEST),
        platforms.concat()
    );
    project.folder.write("xtask.lock", &lock);
    project.run(&format!("mirror bootstrap --mirror lab {arguments}"))
}

fn run(project: &Project, shell: &str, script: &str, path: &str, served: &str) -> Output {
    run_with(project, shell, script, path, served, &["--", "--no-modify-path"], "")
}

/// In a home of its own, where `default` is rustup's default toolchain; nothing may stay in its folder for temporary files.
fn run_with(
    project: &Project,
    shell: &str,
    script: &str,
    path: &str,
    served: &str,
    words: &[&str],
    default: &str,
) -> Output {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let home = project.folder.0.join(format!("home-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir_all(home.join("tmp")).unwrap();
    fs::write(home.join("bootstrap.sh"), script).unwrap();
    if !default.is_empty() {
        fs::write(home.join("default"), format!("{default} (default)\n")).unwrap();
    }
    let mut command = Command::new(format!("/bin/{shell}"));
    command.arg("bootstrap.sh").args(words).current_dir(&home).env_clear();
    command.env("PATH", path).env("HOME", &home).env("TMPDIR", home.join("tmp")).env("SERVED", served);
    let output = command.output().unwrap();
    assert_eq!(fs::read_dir(home.join("tmp")).unwrap().count(), 0, "something was left behind: {output:?}");
    output
}

/// PATH with the basic programs and one of those that download, and no rustup.
fn path_with(project: &Project, downloader: &str) -> Option<String> {
    let folder = project.folder.0.join(format!("bin-{downloader}"));
    fs::create_dir_all(&folder).unwrap();
    for program in [
        "uname",
        "ldd",
        "grep",
        "sha256sum",
        "cut",
        "head",
        "tr",
        "rm",
        "mktemp",
        "chmod",
        "cat",
        "mkdir",
        "sh",
        downloader,
    ] {
        let found = ["/usr/bin", "/bin"].map(|folder| std::path::Path::new(folder).join(program));
        let found = found.iter().find(|path| path.exists())?;
        let _ = std::os::unix::fs::symlink(found, folder.join(program));
    }
    Some(folder.display().to_string())
}

#[test]
fn every_downloader_passes_dead_silent_html_and_wrong_servers_and_runs_the_pinned_init_from_the_good_one() {
    let project = Project::new();
    let dead = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let html = serve(|_| Some("<!doctype html>log in".to_owned()));
    let stale = mirror("manifest-version = \"1\"\n", RECORDER, "archive");
    let flipped = mirror(MANIFEST, &RECORDER.replace("init", "evil"), "archive");
    // One that keeps the newest rustup only.
    let good = mirror(MANIFEST, RECORDER, "dist");
    let script = printed(&project, &[&dead, &silent_url, &html, &stale, &flipped, &good], "");
    assert_eq!(script.exit, 0, "{}", script.stderr);
    let check = &|shell, downloader| {
        let Some(path) = path_with(&project, downloader) else {
            eprintln!("skipped: there is no {downloader} here");
            return;
        };
        let started = Instant::now();
        let output = run(&project, shell, &script.stdout, &path, &sha256(MANIFEST)[..20]);
        let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{downloader}: {stderr}");
        assert!(started.elapsed() < Duration::from_secs(30), "{downloader}: {:?}", started.elapsed());
        let options = "-y --profile minimal -c rustfmt -c clippy --default-toolchain 1.95.0 --no-modify-path";
        assert_eq!(stdout, format!("init {options} from {good} and {good}/rustup\n"), "{downloader}");
        for (url, reason) in [
            (&dead, if downloader == "curl" { "curl: (7) " } else { "Connection refused" }),
            (&silent_url, if downloader == "curl" { "curl: (28) " } else { "timed out" }),
            (&html, "other bytes than the pinned ones (<!doctype html>...)"),
            (&stale, "other bytes"),
            (&flipped, "rustup-init: other bytes"),
        ] {
            let told = stderr.lines().any(|line| line.contains(url.as_str()) && line.contains(reason));
            assert!(told, "{downloader} {url}: {stderr}");
        }
        assert!(stderr.contains("/.cargo/env\" && cargo xtask build --mirror lab\n"), "{downloader}: {stderr}");
    };
    // Side by side, as each waits for the silent server.
    thread::scope(|scope| {
        for (shell, downloader) in [("sh", "curl"), ("bash", "wget"), ("sh", "python3")] {
            scope.spawn(move || check(shell, downloader));
        }
    });
}

#[test]
fn a_manifest_that_changes_between_the_check_and_the_installation_is_found() {
    let project = Project::new();
    let good = mirror(MANIFEST, RECORDER, "archive");
    let script = printed(&project, &[&good], "").stdout;
    let path = path_with(&project, "curl").or_else(|| path_with(&project, "python3")).unwrap();
    for served in ["0123456789abcdef0123", ""] {
        let output = run(&project, "sh", &script, &path, served);
        assert_eq!(output.status.code(), Some(5), "{output:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("another manifest"));
    }
    let nobody = printed(&project, &["http://127.0.0.1:1"], "").stdout;
    let output = run(&project, "sh", &nobody, &path, "");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(4) && stderr.contains("\nhint: check the network or the proxy"), "{stderr}");
}

#[test]
fn help_is_told_and_an_unknown_word_refused_before_any_contact() {
    let project = Project::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let script = printed(&project, &[&url], "").stdout;
    let path = path_with(&project, "curl").or_else(|| path_with(&project, "python3")).unwrap();
    for word in ["-h", "--help"] {
        let output = run_with(&project, "sh", &script, &path, "", &[word], "");
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{stdout}");
        for told in [&*url, "/.rustup (toolchain)", "/.cargo (cargo)", "https_proxy", "exit codes: 0 done, 2"] {
            assert!(stdout.contains(told), "{told}: {stdout}");
        }
    }
    for word in ["--dry-run", "install"] {
        let output = run_with(&project, "sh", &script, &path, "", &[word], "");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && stderr.contains(&format!("`{word}`")), "{stderr}");
    }
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "a server was contacted");
}

#[test]
fn with_the_systems_rustup_the_next_step_is_one_that_works() {
    use std::os::unix::fs::PermissionsExt;
    let project = Project::new();
    let script = printed(&project, &[&mirror(MANIFEST, RECORDER, "archive")], "").stdout;
    let path = path_with(&project, "curl").or_else(|| path_with(&project, "python3")).unwrap();
    for (program, text) in [("rustup", SYSTEMS_RUSTUP), ("cargo", SYSTEMS_CARGO)] {
        let file = std::path::Path::new(&path).join(program);
        fs::write(&file, text).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let served = &sha256(MANIFEST)[..20];
    let ended = |default| {
        let output = run_with(&project, "sh", &script, &path, served, &["--", "--no-modify-path"], default);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (default, step) in [("", "cargo"), ("1.95.0", "cargo"), ("1.70.0", "cargo +1.95.0")] {
        let (exit, stderr) = ended(default);
        let next = format!("done; now: {step} xtask build --mirror lab\n");
        assert!(exit == Some(0) && stderr.ends_with(&next), "{default}: {stderr}");
        assert!(stderr.contains("not used: --no-modify-path"), "{stderr}");
    }
    fs::write(std::path::Path::new(&path).join("cargo"), "#!/bin/sh\necho broken >&2; exit 1\n").unwrap();
    let (exit, stderr) = ended("");
    assert!(exit == Some(8) && stderr.contains("does not start: broken\n") && stderr.contains("hint: "), "{stderr}");
}

#[test]
fn a_credential_goes_into_a_script_only_when_it_is_asked_for() {
    let project = Project::new();
    let hidden = printed(&project, &["http://u:canary@127.0.0.1:1"], "");
    assert!(
        hidden.exit == 2 && !hidden.stdout.contains("canary") && !hidden.stderr.contains("canary"),
        "{}",
        hidden.stderr
    );
    assert!(hidden.stderr.contains("--show-secrets"), "{}", hidden.stderr);
    let shown = printed(&project, &["http://u:canary@127.0.0.1:1"], "--show-secrets");
    assert!(shown.exit == 0 && shown.stdout.contains("echo 'http://u:canary@127.0.0.1:1 "), "{}", shown.stderr);
}

#[test]
fn the_checked_in_script_is_what_the_command_prints_for_cn() {
    let checked_in = fs::read_to_string(repository().join("bootstrap.sh")).unwrap_or_default();
    let output = Command::new(env!("CARGO_BIN_EXE_conductor"))
        .args(["mirror", "bootstrap", "--mirror", "cn", "--repo"])
        .arg(repository())
        .env_remove("XTASK_MIRROR")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed == checked_in, "write it anew: cargo xtask mirror bootstrap --mirror cn > bootstrap.sh");
    let syntax = Command::new("sh").arg("-n").arg(repository().join("bootstrap.sh")).status().unwrap();
    assert!(syntax.success(), "{printed}");
    let holes = printed.split('@').skip(1).filter(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase())).count();
    assert_eq!(holes, 0, "{printed}");
}
