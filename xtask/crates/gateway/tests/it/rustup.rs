//! What a real rustup gets, and what each fault of its servers comes to.

use crate::gateway::{Folder, Gateway, installed, setup, shell};
use crate::server::{Handler, Hit, Reply, Server, refusing, sha256};
use protocol::{Ecosystem, Event, FailureKind, Setup};
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output};

const DIST: &str = "http://xtask-gateway.invalid/rustup/dist-server";
const UPDATE: &str = "http://xtask-gateway.invalid/rustup/update-root";
const CHANNEL: &str = "channel-rust-1.2.3.toml";

/// A distribution server with toolchain 1.2.3: `rustc`, and `extra` that is installed on demand.
struct Dist {
    /// Path below the server → content.
    files: BTreeMap<String, Vec<u8>>,
}

impl Dist {
    /// `server`: whose URLs the manifest has.
    fn new(folder: &Folder, server: &str) -> Self {
        let version = String::from_utf8(Command::new(env!("CARGO")).arg("-vV").output().unwrap().stdout).unwrap();
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        let mut files = BTreeMap::new();
        let mut manifest = format!(
            "manifest-version = \"2\"\ndate = \"2026-01-02\"\n[renames]\n[profiles]\nminimal = [\"rustc\"]\n\
             [pkg.rust]\nversion = \"1.2.3\"\n[pkg.rust.target.{host}]\navailable = true\n\
             url = \"{server}/dist/none\"\nhash = \"{0}\"\n[[pkg.rust.target.{host}.components]]\npkg = \"rustc\"\n\
             target = \"{host}\"\n[[pkg.rust.target.{host}.extensions]]\npkg = \"extra\"\ntarget = \"{host}\"\n",
            "0".repeat(64)
        );
        for name in ["rustc", "extra"] {
            let package = format!("{name}-1.2.3-{host}");
            let source = folder.0.join(&package);
            fs::create_dir_all(source.join(name).join("bin")).unwrap();
            for (path, text) in [
                ("rust-installer-version", "3\n".to_owned()),
                ("components", format!("{name}\n")),
                (&format!("{name}/manifest.in"), format!("file:bin/{name}\n")),
                (&format!("{name}/bin/{name}"), format!("#!/bin/sh\necho {name} 1.2.3\n")),
            ] {
                fs::write(source.join(path), text).unwrap();
            }
            shell(&folder.0, &format!("tar czf {name}.tar.gz {package}"));
            let (path, bytes) = (
                format!("/dist/2026-01-02/{package}.tar.gz"),
                fs::read(folder.0.join(format!("{name}.tar.gz"))).unwrap(),
            );
            manifest.push_str(&format!(
                "[pkg.{name}]\nversion = \"1.2.3\"\n[pkg.{name}.target.{host}]\navailable = true\n\
                 url = \"{server}{path}\"\nhash = \"{}\"\n",
                sha256(&bytes)
            ));
            files.insert(path, bytes);
        }
        files.insert(format!("/dist/{CHANNEL}.sha256"), format!("{}  {CHANNEL}\n", sha256(manifest.as_bytes())).into());
        files.insert(format!("/dist/{CHANNEL}"), manifest.into());
        Self { files }
    }

    fn manifest(&self) -> &[u8] {
        &self.files[&format!("/dist/{CHANNEL}")]
    }

    /// Path and content of the component `rustc`.
    fn rustc(&self) -> (&str, &[u8]) {
        let (path, bytes) = self.files.iter().find(|(path, _)| path.contains("/rustc-")).unwrap();
        (path, bytes)
    }

    fn serve(&self) -> impl Fn(&Hit) -> Reply + Send + Sync + use<> {
        let files = self.files.clone();
        move |hit| files.get(&hit.target).map_or(Reply::status(404), |body| Reply::ok(body.as_slice()))
    }

    fn setup(&self, folder: &Folder, servers: &[&str]) -> Setup {
        let mut setup = setup(folder, Ecosystem::Rustup, servers);
        setup.pins.channels.insert(CHANNEL.to_owned(), sha256(self.manifest()));
        setup
    }
}

/// rustup in a home of its own: it never looks at this machine's toolchains.
fn rustup(folder: &Folder, home: &str, environment: &[(&str, String)], arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    for (name, below) in [("HOME", ""), ("RUSTUP_HOME", "rustup"), ("CARGO_HOME", "cargo")] {
        command.env(name, folder.0.join(home).join(below));
    }
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

fn through(folder: &Folder, gateway: &Gateway, home: &str, arguments: &[&str]) -> Output {
    let proxy = format!("http://step:{}@{}", gateway.password, gateway.address);
    let environment = [
        ("http_proxy", proxy),
        ("RUSTUP_DIST_SERVER", DIST.to_owned()),
        ("RUSTUP_UPDATE_ROOT", UPDATE.to_owned()),
        ("RUSTUP_MAX_RETRIES", "0".to_owned()),
    ];
    rustup(folder, home, &environment, arguments).output().unwrap()
}

const INSTALL: [&str; 5] = ["toolchain", "install", "1.2.3", "--profile=minimal", "--no-self-update"];

/// The server whose URLs rustup replaces in manifests: its own, which it names when it is told of none.
fn own_server(folder: &Folder) -> String {
    let proxy = Server::start(|_| Reply::status(403));
    let environment = [("https_proxy", proxy.url.clone()), ("RUSTUP_MAX_RETRIES", "0".to_owned())];
    assert!(!rustup(folder, "asked", &environment, &INSTALL).output().unwrap().status.success());
    format!("https://{}", proxy.hits()[0].target.strip_suffix(":443").unwrap())
}

#[test]
fn rustup_installs_a_pinned_toolchain_and_again_when_every_server_is_gone() {
    if !installed("rustup") {
        return;
    }
    let folder = Folder::new();
    let dist = Dist::new(&folder, &own_server(&folder));
    let server = Server::start(dist.serve());
    for (home, upstreams) in [("first", [refusing(), server.url.clone()]), ("second", [refusing(), refusing()])] {
        let setup = dist.setup(&folder, &upstreams.each_ref().map(String::as_str));
        let run = |arguments: &[&str]| {
            // What is added to a toolchain is named by the manifest that rustup kept: each gateway starts without it.
            let output = through(&folder, &Gateway::start(&setup), home, arguments);
            assert!(output.status.success(), "{home}: {}", String::from_utf8_lossy(&output.stderr));
        };
        run(&INSTALL);
        run(&["component", "add", "extra", "--toolchain=1.2.3"]);
        let tools = folder.files(&format!("{home}/rustup/toolchains"));
        assert!(["extra", "rustc"].iter().all(|tool| tools.contains(&(*tool).to_owned())), "{home}: {tools:?}");
    }
    let asked: Vec<_> = server.hits().into_iter().map(|hit| hit.target).collect();
    assert_eq!(asked.len(), 3, "manifest, rustc and extra, once each: {asked:?}");
}

/// Changes what a good server answers for paths that end in a given way.
fn spoilt(dist: &Dist, ending: &'static str, spoil: fn(Vec<u8>) -> Reply) -> Handler {
    let good = dist.serve();
    Box::new(move |hit| match good(hit) {
        Reply::Whole { body, status: 200, .. } if hit.target.ends_with(ending) => spoil(body),
        other => other,
    })
}

fn flipped(mut body: Vec<u8>) -> Reply {
    body[40] ^= 1;
    Reply::ok(body)
}

#[test]
fn each_fault_of_manifest_or_component_falls_over() {
    let folder = Folder::new();
    let dist = Dist::new(&folder, "https://mirror.example/rust-static");
    let cut = |body| Reply::Cut { after: 50, body, status: 200, headers: Vec::new() };
    let cases: Vec<(&str, Handler, &str)> = vec![
        ("flipped manifest", spoilt(&dist, ".toml", flipped), "mirror.hash"),
        ("flipped component", spoilt(&dist, ".gz", flipped), "mirror.hash"),
        ("cut", spoilt(&dist, ".gz", cut), "mirror.truncated"),
        ("portal", Box::new(|_| Reply::html()), "mirror.html"),
        ("portal for components", spoilt(&dist, ".gz", |_| Reply::html()), "mirror.html"),
        ("silent", Box::new(|_| Reply::Silent), "mirror.stalled"),
        ("nothing here", Box::new(|_| Reply::status(404)), "mirror.absent"),
    ];
    for (case, bad, finding) in cases {
        let (folder, bad, fine) = (Folder::new(), Server::start(bad), Server::start(dist.serve()));
        let mut gateway = Gateway::start(&dist.setup(&folder, &[&bad.url, &fine.url]));
        let get = |path: &str| gateway.get(&format!("{DIST}{path}"), &gateway.password);
        let (path, rustc) = dist.rustc();
        assert_eq!(get(&format!("/dist/{CHANNEL}")), (200, dist.manifest().to_vec()), "{case}");
        assert_eq!(get(path), (200, rustc.to_vec()), "{case}");
        let sum = String::from_utf8(get(&format!("/dist/{CHANNEL}.sha256")).1).unwrap();
        assert_eq!(sum, format!("{}  {CHANNEL}\n", sha256(dist.manifest())), "{case}");
        gateway.close();
        assert!(gateway.findings().contains(&finding), "{case}: {:?}", gateway.findings());
        assert_eq!(gateway.egress().len(), bad.hits().len() + fine.hits().len(), "{case}");
    }
}

#[test]
fn wrong_bytes_and_portals_alone_are_named_and_never_reach_rustup() {
    let folder = Folder::new();
    let dist = Dist::new(&folder, "https://mirror.example");
    let cases: Vec<(&str, Handler, FailureKind, &str)> = vec![
        ("manifest", spoilt(&dist, ".toml", flipped), FailureKind::Integrity, "not the pinned bytes: expected"),
        ("component", spoilt(&dist, ".gz", flipped), FailureKind::Integrity, "not the pinned bytes: expected"),
        ("portal", Box::new(|_| Reply::html()), FailureKind::Network, "“Guest network Please sign in”"),
    ];
    for (case, handler, kind, words) in cases {
        let (folder, server) = (Folder::new(), Server::start(handler));
        let mut gateway = Gateway::start(&dist.setup(&folder, &[&server.url]));
        if installed("rustup") {
            assert!(!through(&folder, &gateway, "home", &INSTALL).status.success(), "{case}");
        }
        let (status, told) = gateway.get(&format!("{DIST}{}", dist.rustc().0), &gateway.password);
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(status == 502 && told.contains(words) && told.contains(&server.url), "{case}: {status} {told}");
        gateway.close();
        let refused = |event: &Event| matches!(event, Event::Refused { failure, .. } if failure.kind == kind);
        assert!(gateway.events.iter().any(refused), "{case}");
    }
}

#[test]
fn what_nothing_vouches_for_is_passed_with_a_finding_if_its_server_agrees_with_itself() {
    let folder = Folder::new();
    let dist = Dist::new(&folder, "https://mirror.example");
    let (path, rustc) = dist.rustc();
    let at = |path: &str| format!("{DIST}{path}");
    let channel = format!("/dist/{CHANNEL}");
    for (ending, bad) in [(".sha256", "0".repeat(64)), (".toml", "no manifest".to_owned()), (".sha256", "x".to_owned())]
    {
        let good = dist.serve();
        let server =
            Server::start(move |hit| if hit.target.ends_with(ending) { Reply::ok(bad.as_str()) } else { good(hit) });
        let folder = Folder::new();
        let mut setup = dist.setup(&folder, &[&server.url]);
        setup.pins.channels.clear();
        let gateway = Gateway::start(&setup);
        assert_eq!(gateway.get(&at(&channel), &gateway.password).0, 502, "{ending}");
        assert_eq!(gateway.get(&at(path), &gateway.password).0, 502, "{ending}");
    }
    let folder = Folder::new();
    let server = Server::start(dist.serve());
    let mut setup = dist.setup(&folder, &[&server.url]);
    setup.pins.channels.clear();
    let mut gateway = Gateway::start(&setup);
    let get = |path: &str| gateway.get(&at(path), &gateway.password);
    assert!(get(path).0 == 502 && server.hits().is_empty(), "no manifest has named it yet");
    assert!(get(&format!("{channel}.sha256")).1.starts_with(sha256(dist.manifest()).as_bytes()));
    assert_eq!(get(&channel), (200, dist.manifest().to_vec()));
    assert_eq!(get(path), (200, rustc.to_vec()));
    for path in
        ["/dist/channel-rust-1.2.3", "/dist/channel-rust-9.9.9.toml", "/dist/../secret", "/secret", "/dist/%2e%2e/x"]
    {
        assert_eq!(get(path).0, 404, "{path}");
    }
    gateway.close();
    assert!(gateway.findings().contains(&"mirror.unpinned"));

    // Kept without a pin, it is no answer under one.
    let mut setup = dist.setup(&folder, &[&refusing()]);
    setup.pins.channels.insert(CHANNEL.to_owned(), "0".repeat(64));
    let gateway = Gateway::start(&setup);
    assert_eq!(gateway.get(&at(&channel), &gateway.password).0, 502);
}

#[test]
fn a_pinned_manifest_is_not_overruled_by_another_channel() {
    let folder = Folder::new();
    let dist = Dist::new(&folder, "https://mirror.example");
    let (path, rustc) = dist.rustc();
    let evil = String::from_utf8(dist.manifest().to_vec()).unwrap().replace(&sha256(rustc), &"0".repeat(64));
    let good = dist.serve();
    let server = Server::start(move |hit| match hit.target.as_str() {
        "/dist/channel-rust-nightly.toml" => Reply::ok(evil.as_str()),
        "/dist/channel-rust-nightly.toml.sha256" => Reply::ok(sha256(evil.as_bytes())),
        _ => good(hit),
    });
    let gateway = Gateway::start(&dist.setup(&folder, &[&server.url]));
    for path in [&format!("/dist/{CHANNEL}"), "/dist/channel-rust-nightly.toml"] {
        assert_eq!(gateway.get(&format!("{DIST}{path}"), &gateway.password).0, 200, "{path}");
    }
    assert_eq!(gateway.get(&format!("{DIST}{path}"), &gateway.password), (200, rustc.to_vec()));
}

#[test]
fn the_update_root_is_another_server_and_has_rustup_itself() {
    let folder = Folder::new();
    let program = b"\x7fELF and so on".as_slice();
    let serve = move |wrong: bool| {
        move |hit: &Hit| match hit.target.as_str() {
            "/rustup/release-stable.toml" => Reply::ok("schema-version = '1'\nversion = '1.29.0'\n"),
            "/rustup/archive/1.29.0/host/rustup-init.sha256" => {
                Reply::ok(format!("{} *rustup-init\n", sha256(program)))
            }
            "/rustup/archive/1.29.0/host/rustup-init" if wrong => Reply::ok("other bytes"),
            "/rustup/archive/1.29.0/host/rustup-init" => Reply::ok(program),
            _ => Reply::status(404),
        }
    };
    let (portal, other) = (Server::start(|_| Reply::html()), Server::start(|_| Reply::ok("Welcome")));
    let (wrong, good) = (Server::start(serve(true)), Server::start(serve(false)));
    for dead in [false, true] {
        let mut setup = setup(&folder, Ecosystem::Rustup, &["http://127.0.0.1:1"; 5]);
        let roots = [None, Some(&portal.url), Some(&other.url), Some(&wrong.url), Some(&good.url)];
        for (upstream, root) in setup.upstreams.get_mut(&Ecosystem::Rustup).unwrap().iter_mut().zip(roots) {
            upstream.second = root.map(|root| if dead { refusing() } else { format!("{root}/rustup") });
        }
        let mut gateway = Gateway::start(&setup);
        let get = |path: &str| gateway.get(&format!("{UPDATE}/{path}"), &gateway.password);
        assert_eq!(get("release-stable.toml").1, b"schema-version = '1'\nversion = '1.29.0'\n", "dead: {dead}");
        assert_eq!(get("archive/1.29.0/host/rustup-init"), (200, program.to_vec()), "dead: {dead}");
        assert!(get("archive/1.29.0/host/rustup-init.sha256").1.starts_with(sha256(program).as_bytes()));
        if !dead {
            assert_eq!(get("archive/9.9.9/host/rustup-init").0, 502, "one root is a portal");
            assert_eq!(get("other").0, 404);
        }
        gateway.close();
        assert!(
            gateway.findings().contains(&"mirror.unpinned") && (dead || gateway.findings().contains(&"mirror.html"))
        );
    }
}

#[test]
fn each_root_of_a_pair_gets_its_own_credentials_and_never_the_other_ones() {
    let (dist, update) = (Server::start(|_| Reply::status(404)), Server::start(|_| Reply::status(404)));
    for own in [Some("Basic dXBkYXRl"), None] {
        let folder = Folder::new();
        let mut setup = setup(&folder, Ecosystem::Rustup, &[&dist.url]);
        let pair = &mut setup.upstreams.get_mut(&Ecosystem::Rustup).unwrap()[0];
        pair.authorization = Some("Basic ZGlzdA==".to_owned());
        pair.second = Some(format!("{}/rustup", update.url));
        pair.second_authorization = own.map(str::to_owned);
        let gateway = Gateway::start(&setup);
        gateway.get(&format!("{UPDATE}/release-stable.toml"), &gateway.password);
        let sent = update.hits().last().unwrap().headers.get("authorization").cloned();
        assert_eq!(sent.as_deref(), own);
        gateway.get(&UPDATE.replace("update-root", "dist-server/dist/channel-rust-stable.toml"), &gateway.password);
        let sent = dist.hits().last().unwrap().headers.get("authorization").cloned();
        assert_eq!(sent.as_deref(), Some("Basic ZGlzdA=="));
    }
}
