//! The Go proxy protocol and the checksum database, with the real go as the child.

use crate::gateway::{Folder, Gateway, installed, setup, upstream};
use crate::server::{Handler, Hit, Reply, Server, refusing};
use crate::zips::{member, zip};
use protocol::{Ecosystem, Egress, Event, FailureKind, Private, Setup};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;

use std::path::Path;
use std::process::{Command, Output};

const PROXY: &str = "http://xtask-gateway.invalid/go";

/// A module proxy as files: `example.com/Tiny v1.0.0`, whose path folds case, needs `example.com/leaf v0.1.0`.
struct Modules {
    files: BTreeMap<String, Vec<u8>>,
    /// As Go itself wrote it from these files.
    go_sum: String,
}

impl Modules {
    fn new(folder: &Folder) -> Self {
        let mut files = BTreeMap::new();
        for (path, name, version, go_mod) in [
            ("example.com/!tiny", "example.com/Tiny", "v1.0.0", "require example.com/leaf v0.1.0\n"),
            ("example.com/leaf", "example.com/leaf", "v0.1.0", ""),
        ] {
            let go_mod = format!("module {name}\n\ngo 1.21\n{go_mod}");
            let import = if go_mod.contains("require") { "import _ \"example.com/leaf\"\n" } else { "" };
            let archive = zip(&[
                member(format!("{name}@{version}/go.mod"), go_mod.as_str()),
                member(format!("{name}@{version}/code.go"), format!("package code\n{import}")),
            ]);
            let info = format!(r#"{{"Version":"{version}","Time":"2026-01-01T00:00:00Z"}}"#);
            files.insert(format!("/{path}/@v/list"), format!("{version}\n").into_bytes());
            files.insert(format!("/{path}/@latest"), info.clone().into_bytes());
            files.insert(format!("/{path}/@v/{version}.info"), info.into_bytes());
            files.insert(format!("/{path}/@v/{version}.mod"), go_mod.into_bytes());
            files.insert(format!("/{path}/@v/{version}.zip"), archive);
        }
        for (name, bytes) in &files {
            let file = folder.0.join("proxy").join(&name[1..]);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, bytes).unwrap();
        }
        consumer(&folder.0.join("first"), "", "");
        let proxy = format!("file://{}", folder.0.join("proxy").display());
        let got = go(folder, "first", &[("GOPROXY", &proxy), ("GONOSUMDB", "*")], &["get", "example.com/Tiny@v1.0.0"]);
        assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
        Self { files, go_sum: fs::read_to_string(folder.0.join("first/go.sum")).unwrap() }
    }

    fn pins(&self) -> BTreeMap<String, String> {
        let pin = |line: &str| line.rsplit_once(' ').map(|(name, h1)| (name.to_owned(), h1.to_owned()));
        self.go_sum.lines().filter_map(pin).collect()
    }

    fn serve(&self) -> impl Fn(&Hit) -> Reply + Send + Sync + Clone + use<> {
        let files = self.files.clone();
        move |hit| files.get(&hit.target).map_or(Reply::status(404), |bytes| Reply::ok(bytes.as_slice()))
    }

    fn setup(&self, folder: &Folder, servers: &[&str]) -> Setup {
        let mut setup = setup(folder, Ecosystem::Go, servers);
        setup.pins.go_sums = self.pins();
        setup
    }

    /// `go mod download` of a project locked to these modules, into an empty module cache.
    fn download(&self, folder: &Folder, gateway: &Gateway, name: &str) -> Output {
        consumer(&folder.0.join(name), "require example.com/Tiny v1.0.0\n", &self.go_sum);
        child(folder, gateway, name, &[], &["mod", "download", "-x"])
    }
}

fn consumer(project: &Path, requires: &str, go_sum: &str) {
    fs::create_dir_all(project).unwrap();
    fs::write(project.join("go.mod"), format!("module consumer\n\ngo 1.21\n{requires}")).unwrap();
    fs::write(project.join("go.sum"), go_sum).unwrap();
    fs::write(project.join("main.go"), "package main\nimport _ \"example.com/Tiny\"\nfunc main() {}\n").unwrap();
}

/// Go with nothing of the machine's but its own binary.
fn go(folder: &Folder, project: &str, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    Command::new("go")
        .args(arguments)
        .current_dir(folder.0.join(project))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", &folder.0)
        .env("GOENV", "off")
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-modcacherw")
        .env("GOPATH", folder.0.join(format!("{project} path")))
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

/// Go as a child of the build.
fn child(
    folder: &Folder,
    gateway: &Gateway,
    project: &str,
    environment: &[(&str, &str)],
    arguments: &[&str],
) -> Output {
    let proxy = format!("http://go-modules.router:{}@{}", gateway.password, gateway.address);
    go(folder, project, &[&[("GOPROXY", PROXY), ("HTTP_PROXY", &proxy)], environment].concat(), arguments)
}

/// The good files with every zip and go.mod, or what `spoil` makes of them.
fn spoilt(
    modules: &Modules,
    ending: &'static str,
    spoil: impl Fn(Vec<u8>) -> Reply + Send + Sync + 'static,
) -> Handler {
    let good = modules.serve();
    Box::new(move |hit| match good(hit) {
        Reply::Whole { body, status: 200, .. } if hit.target.ends_with(ending) => spoil(body),
        reply => reply,
    })
}

#[test]
fn what_go_sum_names_is_brought_once_its_go_mod_is_asked_for() {
    if !installed("go") {
        return;
    }
    let folder = Folder::new();
    let modules = Modules::new(&folder);
    let server = Server::start(modules.serve());
    let gateway = Gateway::start(&modules.setup(&folder, &[&server.url]));
    let asked = |ending: &str| server.hits().iter().filter(|hit| hit.target.ends_with(ending)).count();
    let tiny = |kind: &str| gateway.ask("GET", &format!("{PROXY}/example.com/!tiny/@v/v1.0.0.{kind}"), "").0;
    assert_eq!(tiny("mod"), 200);
    let started = std::time::Instant::now();
    while asked(".zip") == 0 {
        assert!(started.elapsed() < std::time::Duration::from_secs(20), "nobody asks for the zip");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!((tiny("info"), tiny("zip")), (200, 200));
    assert_eq!(asked("/@v/v1.0.0.info") + asked("/@v/v1.0.0.zip"), 2, "{:?}", server.hits());
    // Of a version that go.sum does not name, or whose zip it does not, nothing else is asked for.
    let mut setup = modules.setup(&folder, &[&server.url]);
    (setup.downloads, setup.pins.go_sums) = (folder.0.join("other"), BTreeMap::new());
    let before = server.hits().len();
    let gateway = Gateway::start(&setup);
    assert_eq!(gateway.ask("GET", &format!("{PROXY}/example.com/leaf/@v/v0.1.0.mod"), "").0, 200);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(server.hits().len(), before + 1);
}

#[test]
fn go_downloads_a_locked_project_whatever_fault_the_first_proxy_has() {
    if !installed("go") {
        return;
    }
    let folder = Folder::new();
    let modules = Modules::new(&folder);
    let flip = |mut body: Vec<u8>| {
        let middle = body.len() / 2;
        body[middle] ^= 1;
        Reply::ok(body)
    };
    let cut = |body: Vec<u8>| Reply::Cut { after: 50, body, status: 200, headers: Vec::new() };
    let cases: Vec<(&str, Handler, &str)> = vec![
        ("flipped zip", spoilt(&modules, ".zip", flip), "mirror.hash"),
        ("flipped go.mod", spoilt(&modules, ".mod", flip), "mirror.hash"),
        ("cut", spoilt(&modules, ".zip", cut), "mirror.truncated"),
        ("portal", Box::new(|_| Reply::html()), "mirror.html"),
        ("portal that says it is a zip", spoilt(&modules, ".zip", |_| Reply::ok("<html>sign in")), "mirror.html"),
        ("another version", spoilt(&modules, ".info", |_| Reply::ok(r#"{"Version":"v9.0.0"}"#)), "mirror.malformed"),
        ("behind", Box::new(|_| Reply::status(404)), "mirror.absent"),
        ("failing", Box::new(|_| Reply::status(500)), "mirror.status"),
        ("silent", Box::new(|_| Reply::Silent), "mirror.stalled"),
    ];
    for (number, (case, bad, finding)) in cases.into_iter().enumerate() {
        let own = Folder::new();
        let (bad, fine) = (Server::start(bad), Server::start(modules.serve()));
        let mut gateway = Gateway::start(&modules.setup(&own, &[&bad.url, &fine.url]));
        let downloaded = modules.download(&folder, &gateway, &format!("project {number}"));
        assert!(downloaded.status.success(), "{case}: {}", String::from_utf8_lossy(&downloaded.stderr));
        gateway.close();
        assert!(gateway.findings().contains(&finding), "{case}: {:?}", gateway.findings());
        assert_eq!(gateway.egress().len(), bad.hits().len() + fine.hits().len(), "{case}");
        assert!(gateway.egress().iter().all(|line| line.step == "go-modules:router"), "{case}");

        // Another child, nobody to ask: everything that was fetched is served again.
        let mut alone = Gateway::start(&modules.setup(&own, &[&refusing()]));
        let again = modules.download(&folder, &alone, &format!("project {number} again"));
        assert!(again.status.success(), "{case}: {}", String::from_utf8_lossy(&again.stderr));
        alone.close();
        assert_eq!(alone.egress(), Vec::<&Egress>::new(), "{case}");
    }
}

#[test]
fn go_prints_which_proxy_sent_the_wrong_module() {
    if !installed("go") {
        return;
    }
    let folder = Folder::new();
    let modules = Modules::new(&folder);
    let other = zip(&[member("example.com/Tiny@v1.0.0/go.mod", "module evil\n")]);
    let bad = Server::start(spoilt(&modules, "!tiny/@v/v1.0.0.zip", move |_| Reply::ok(other.as_slice())));
    let mut gateway = Gateway::start(&modules.setup(&folder, &[&bad.url]));
    let refused = modules.download(&folder, &gateway, "project");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    let expected = &modules.pins()["example.com/Tiny v1.0.0"];
    for part in
        ["502", "module example.com/Tiny@v1.0.0", &bad.url, "mirror test", &format!("expected {expected}, got h1:")]
    {
        assert!(told.contains(part), "`{part}` is not in: {told}");
    }
    gateway.close();
    let refusals = gateway
        .events
        .iter()
        .filter_map(|event| if let Event::Refused { failure, .. } = event { Some(failure.kind) } else { None });
    assert_eq!(refusals.collect::<Vec<_>>(), [FailureKind::Integrity]);
}

/// A checksum database with one record: a tree of size one, whose root is the record's hash.
struct Database {
    /// What `GOSUMDB` is to be.
    verifier: String,
    files: BTreeMap<String, Vec<u8>>,
}

impl Database {
    /// `record`: the lines of go.sum for one module version, escaped as `module@version`.
    fn new(escaped: &str, record: &str) -> Self {
        const NAME: &str = "sums.example";
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let key = [&[1], pair.public_key().as_ref()].concat();
        let hash = &Sha256::digest([format!("{NAME}\n").as_bytes(), &key].concat())[..4];
        let root = Sha256::digest([&[0], record.as_bytes()].concat());
        let tree = format!("go.sum database tree\n1\n{}\n", encoded(&root));
        let signature = encoded(&[hash, pair.sign(tree.as_bytes()).as_ref()].concat());
        let signed = format!("{tree}\n\u{2014} {NAME} {signature}\n");
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let files = BTreeMap::from([
            ("/supported".to_owned(), Vec::new()),
            ("/latest".to_owned(), signed.clone().into_bytes()),
            (format!("/lookup/{escaped}"), format!("0\n{record}\n{signed}").into_bytes()),
            ("/tile/8/0/000.p/1".to_owned(), root.to_vec()),
        ]);
        Self { verifier: format!("{NAME}+{hash}+{}", encoded(&key)), files }
    }

    fn serve(&self, below: &'static str) -> Handler {
        let files = self.files.clone();
        Box::new(move |hit| {
            let file = hit.target.strip_prefix(below).and_then(|path| files.get(path));
            file.map_or(Reply::status(404), |bytes| Reply::ok(bytes.as_slice()))
        })
    }
}

/// Bytes through coreutils: the shell's `base64` takes any.
fn encoded(bytes: &[u8]) -> String {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = Command::new("base64").arg("-w0").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn a_module_that_nothing_pins_is_verified_by_go_through_the_checksum_database() {
    if !installed("go") {
        return;
    }
    let folder = Folder::new();
    let modules = Modules::new(&folder);
    let leaf: String =
        modules.go_sum.lines().filter(|line| line.contains("leaf")).map(|line| format!("{line}\n")).collect();
    let database = Database::new("example.com/leaf@v0.1.0", &leaf);
    let proxy = Server::start({
        let (modules, database) = (modules.serve(), database.serve("/sumdb/sums.example"));
        move |hit| if hit.target.starts_with("/sumdb/") { database(hit) } else { modules(hit) }
    });
    let plain = Server::start(modules.serve());
    let own = Server::start(database.serve(""));
    let other = Server::start({
        let files = database.files.clone();
        move |hit| match files.get(&hit.target).map(|bytes| String::from_utf8_lossy(bytes).into_owned()) {
            Some(text) if text.contains("sums.example") => Reply::ok(text.replace("sums.example", "other.example")),
            _ => Reply::status(404),
        }
    });
    let portal = Server::start(|_| Reply::html());
    let sumdb = [("GOSUMDB", database.verifier.as_str())];
    let get = |folder: &Folder, gateway: &Gateway, name: &str| {
        consumer(&folder.0.join(name), "", "");
        let got = child(folder, gateway, name, &sumdb, &["get", "example.com/leaf@latest"]);
        (got.status.success(), String::from_utf8_lossy(&got.stderr).into_owned())
    };
    for (case, servers, databases) in [
        ("passed on", vec![&proxy], vec![]),
        ("by the second", vec![&plain, &proxy], vec![]),
        ("a portal first", vec![&portal, &proxy], vec![]),
        ("a host of its own", vec![&plain], vec![&portal, &other, &own]),
    ] {
        let folder = Folder::new();
        let urls: Vec<&str> = servers.iter().map(|server| server.url.as_str()).collect();
        let mut setup = setup(&folder, Ecosystem::Go, &urls);
        setup.databases = databases.iter().map(|server: &&Server| upstream(&server.url)).collect();
        let (fine, told) = get(&folder, &Gateway::start(&setup), "project");
        assert!(fine, "{case}: {told}");
        assert_eq!(fs::read_to_string(folder.0.join("project/go.sum")).unwrap(), leaf, "{case}");
        setup.upstreams.insert(Ecosystem::Go, vec![upstream(&refusing())]);
        setup.databases.clear();
        let (fine, told) = get(&folder, &Gateway::start(&setup), "again");
        assert!(fine, "{case}, nobody to ask: {told}");
    }

    // What a proxy makes up is not believed, is not kept for the next run, and no proxy can make Go ask past us.
    let stray =
        zip(&[member("example.com/leaf@v0.1.0/go.mod", "module example.com/leaf\n\ngo 1.21\n"), member("evil", "")]);
    let evil = zip(&[member("example.com/leaf@v0.1.0/go.mod", "module example.com/leaf\n\ngo 1.21\n// evil\n")]);
    for (case, archive, expected) in
        [("stray", stray, "entry `evil` is not below"), ("evil", evil, "checksum mismatch")]
    {
        let own = Folder::new();
        let bad = Server::start({
            let good = proxied(&modules, &database);
            move |hit| if hit.target.ends_with(".zip") { Reply::ok(archive.as_slice()) } else { good(hit) }
        });
        let (fine, told) = get(&own, &Gateway::start(&setup(&own, Ecosystem::Go, &[&bad.url])), "project");
        assert!(!fine && told.contains(expected), "{case}: {told}");
        let (fine, told) = get(&own, &Gateway::start(&setup(&own, Ecosystem::Go, &[&proxy.url])), "healed");
        assert!(fine, "{case}: {told}");
    }
    let (fine, told) = get(&folder, &Gateway::start(&setup(&folder, Ecosystem::Go, &[&plain.url])), "unsupported");
    assert!(!fine && told.contains("/go/sumdb/sums.example/lookup/") && told.contains("404"), "{told}");
}

fn proxied(modules: &Modules, database: &Database) -> impl Fn(&Hit) -> Reply + Send + Sync + use<> {
    let (modules, database) = (modules.serve(), database.serve("/sumdb/sums.example"));
    move |hit| if hit.target.starts_with("/sumdb/") { database(hit) } else { modules(hit) }
}

#[test]
fn what_is_nowhere_is_404_and_what_cannot_be_had_502() {
    if !installed("go") {
        return;
    }
    let folder = Folder::new();
    let modules = Modules::new(&folder);
    let server = Server::start(modules.serve());
    let behind = Server::start(|hit| match hit.target.as_str() {
        "/example.com/leaf/@v/list" => Reply::ok("v0.0.9\n"),
        _ => Reply::status(404),
    });
    let mut setup = modules.setup(&folder, &[&behind.url, &server.url]);
    let corp = Server::start(modules.serve());
    let of_corp = Private { names: vec!["example.com/T*".to_owned()], upstreams: vec![upstream(&corp.url)] };
    setup.private.insert(Ecosystem::Go, vec![of_corp]);
    let mut gateway = Gateway::start(&setup);
    let get = |gateway: &Gateway, path: &str| {
        let (status, body) = gateway.get(&format!("{PROXY}/{path}"), &gateway.password);
        (status, String::from_utf8_lossy(&body).into_owned())
    };
    assert_eq!(get(&gateway, "example.com/leaf/@v/list"), (200, "v0.1.0\n".to_owned()), "the first list is stale");
    assert_eq!(get(&gateway, "example.com/%21tiny/@v/list"), (200, "v1.0.0\n".to_owned()));
    assert!(
        server.hits().iter().chain(&behind.hits()).all(|hit| !hit.target.contains("tiny")),
        "a private name is asked elsewhere"
    );
    let asked = server.hits().len() + corp.hits().len() + behind.hits().len();
    for odd in [
        "example.com/%2e%2e/@v/list",
        "example.com/leaf/@v/..%2f..%2fx.zip",
        "@v/list",
        "example.com/leaf/@v/v1.0.0.exe",
        "example.com/Tiny/@v/list",
        "example.com/le%00af/@latest",
        "example.com/le%3faf/@latest",
        "sumdb/supported",
        "sumdb/x/lookup/example.com/!tiny@v1.0.0",
    ] {
        assert_eq!(get(&gateway, odd).0, 404, "{odd}");
    }
    assert_eq!(
        server.hits().len() + corp.hits().len() + behind.hits().len(),
        asked,
        "nonsense and private records are asked of nobody"
    );
    for nowhere in [
        "example.com/none/@v/list",
        "example.com/none/@v/v1.0.0.info",
        "example.com/none/@v/v1.0.0.mod",
        "example.com/none/@v/v1.0.0.zip",
    ] {
        assert_eq!(get(&gateway, nowhere).0, 404, "{nowhere}");
    }
    gateway.close();
    assert!(
        !gateway.events.iter().any(|event| matches!(event, Event::Refused { .. })),
        "what nothing pins may be nowhere"
    );

    // A list that every proxy agrees on is the truth, though a tag went away.
    let own = Folder::new();
    let gateway = Gateway::start(&modules.setup(&own, &[&behind.url]));
    assert_eq!(get(&gateway, "example.com/leaf/@v/list"), (200, "v0.0.9\n".to_owned()));
    // A pinned module that is nowhere: Go hears 404, the conductor hears why.
    let (status, told) = get(&gateway, "example.com/leaf/@v/v0.1.0.zip");
    assert!(status == 404 && told.contains(&behind.url), "{status} {told}");
    assert_eq!(get(&gateway, "example.com/leaf/@v/v0.1.0.mod").0, 404);
    let own = Folder::new();
    let gateway = Gateway::start(&modules.setup(&own, &[&refusing()]));
    for file in ["list", "v0.1.0.mod", "v0.1.0.zip"] {
        assert_eq!(get(&gateway, &format!("example.com/leaf/@v/{file}")).0, 502, "{file}");
    }
}

#[test]
fn a_list_with_commas_ends_at_the_first_error_that_is_not_absence() {
    if !installed("go") {
        return;
    }
    let folder = Folder::new();
    let modules = Modules::new(&folder);
    let fine = Server::start(modules.serve());
    for (status, next_is_asked) in [(404, true), (410, true), (500, false), (403, false)] {
        let own = Folder::new();
        let first = Server::start(move |_| Reply::status(status));
        let mut setup = modules.setup(&own, &[&first.url, &fine.url]);
        setup.only_after_absence.insert(Ecosystem::Go);
        let gateway = Gateway::start(&setup);
        for file in ["list", "v0.1.0.zip"] {
            let before = fine.hits().len();
            let got = gateway.get(&format!("{PROXY}/example.com/leaf/@v/{file}"), &gateway.password).0;
            assert_eq!(got, if next_is_asked { 200 } else { 502 }, "{status} {file}");
            assert_eq!(fine.hits().len() > before, next_is_asked, "{status} {file}");
        }
    }
}
