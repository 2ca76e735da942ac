//! What children get: the crates protocol, with a real cargo where it matters.

use crate::gateway::{Folder, Gateway, setup, shell};
use crate::server::{Handler, Hit, Reply, Server, refusing, sha256};
use protocol::{Ecosystem, Event, FailureKind, Setup, Verdict};
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const INDEX: &str = "http://xtask-gateway.invalid/crates";

/// A registry with `outer 1.0.0`, which needs `inner 1.0.0`, as `.crate` files that tar and gzip made.
struct Registry {
    crates: BTreeMap<&'static str, Vec<u8>>,
}

impl Registry {
    fn new(folder: &Folder) -> Self {
        let pack = |name: &'static str, dependencies: &str| {
            let source = folder.0.join(format!("{name}-1.0.0"));
            fs::create_dir_all(source.join("src")).unwrap();
            fs::write(source.join("src/lib.rs"), "").unwrap();
            let manifest = format!(
                "[package]\nname = \"{name}\"\nversion = \"1.0.0\"\nedition = \"2021\"\n[dependencies]\n{dependencies}"
            );
            fs::write(source.join("Cargo.toml"), manifest).unwrap();
            shell(&folder.0, &format!("tar czf {name}.crate {name}-1.0.0"));
            (name, fs::read(folder.0.join(format!("{name}.crate"))).unwrap())
        };
        Self { crates: BTreeMap::from([pack("inner", ""), pack("outer", "inner = \"1.0.0\"\n")]) }
    }

    fn pins(&self) -> BTreeMap<String, String> {
        self.crates.iter().map(|(name, bytes)| (format!("{name} 1.0.0"), sha256(bytes))).collect()
    }

    fn entry(&self, name: &str) -> String {
        let dependency = r#"{"name":"inner","req":"^1.0.0","features":[],"optional":false,"default_features":true,"target":null,"kind":"normal"}"#;
        let dependencies = if name == "outer" { dependency } else { "" };
        let cksum = sha256(&self.crates[name]);
        format!(
            "{{\"name\":\"{name}\",\"vers\":\"1.0.0\",\"deps\":[{dependencies}],\"cksum\":\"{cksum}\",\"features\":{{}},\"yanked\":false}}\n"
        )
    }

    /// Answers as a registry whose index points `dl` to `downloads`, or to itself.
    fn serve(&self, downloads: Option<String>) -> impl Fn(&Hit) -> Reply + Send + Sync + use<> {
        let crates = self.crates.clone();
        let entries: BTreeMap<&str, String> = crates.keys().map(|name| (*name, self.entry(name))).collect();
        move |hit| {
            let here = format!("http://{}/files/{{prefix}}/{{crate}}-{{version}}.crate", hit.headers["host"]);
            match hit.target.as_str() {
                "/index/config.json" => Reply::ok(format!(r#"{{"dl":"{}"}}"#, downloads.as_ref().unwrap_or(&here))),
                "/index/in/ne/inner" | "/index/ou/te/outer" => {
                    let entry = &entries[&hit.target[13..]];
                    let etag = format!("\"{}\"", entry.len());
                    if hit.headers.get("if-none-match") == Some(&etag) {
                        Reply::status(304)
                    } else {
                        Reply::ok(entry.as_str()).with("ETag", etag)
                    }
                }
                "/files/in/ne/inner-1.0.0.crate" => Reply::ok(crates["inner"].as_slice()),
                "/files/ou/te/outer-1.0.0.crate" => Reply::ok(crates["outer"].as_slice()),
                _ => Reply::status(404),
            }
        }
    }
}

fn crates_setup(folder: &Folder, registry: &Registry, servers: &[&str]) -> Setup {
    let urls: Vec<String> = servers.iter().map(|url| format!("{url}/index/")).collect();
    let mut setup = setup(folder, Ecosystem::Crates, &urls.iter().map(String::as_str).collect::<Vec<_>>());
    setup.pins.crates = registry.pins();
    setup
}

/// A consumer of `outer`, with a CARGO_HOME of its own.
fn cargo(folder: &Folder, gateway: &Gateway, home: &str, arguments: &[&str]) -> Output {
    let project = folder.0.join("project");
    if !project.exists() {
        fs::create_dir_all(project.join("src")).unwrap();
        fs::write(project.join("src/lib.rs"), "").unwrap();
        let manifest = "[package]\nname = \"consumer\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\nouter = \"1\"\n[workspace]\n";
        fs::write(project.join("Cargo.toml"), manifest).unwrap();
    }
    Command::new(env!("CARGO"))
        .args([
            "--config",
            "source.crates-io.replace-with=\"xtask\"",
            "--config",
            &format!("source.xtask.registry=\"sparse+{INDEX}/\""),
        ])
        .args(arguments)
        .current_dir(project)
        .env("CARGO_HOME", folder.0.join(home))
        .env("CARGO_HTTP_PROXY", format!("http://xtask:{}@{}", gateway.password, gateway.address))
        .env("CARGO_NET_RETRY", "0")
        .env_remove("HTTPS_PROXY")
        .output()
        .unwrap()
}

#[test]
fn cargo_fetches_a_locked_project_through_the_gateway() {
    let folder = Folder::new();
    let registry = Registry::new(&folder);
    let server = Server::start(registry.serve(None));
    let setup = crates_setup(&folder, &registry, &[&refusing(), &server.url]);
    let mut gateway = Gateway::start(&setup);
    let locked = cargo(&folder, &gateway, "home", &["generate-lockfile"]);
    assert!(locked.status.success(), "{}", String::from_utf8_lossy(&locked.stderr));
    let lock = fs::read(folder.0.join("project/Cargo.lock")).unwrap();
    assert!(!String::from_utf8_lossy(&lock).contains("xtask"), "the lock names no mirror");

    for home in ["home", "another home"] {
        let fetched = cargo(&folder, &gateway, home, &["fetch", "--locked"]);
        assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
        assert_eq!(folder.files(&format!("{home}/registry/cache")), ["inner-1.0.0.crate", "outer-1.0.0.crate"]);
    }
    assert_eq!(fs::read(folder.0.join("project/Cargo.lock")).unwrap(), lock);
    let asked: Vec<_> = server.hits().into_iter().map(|hit| hit.target).collect();
    for once in
        ["/index/config.json", "/index/in/ne/inner", "/files/in/ne/inner-1.0.0.crate", "/files/ou/te/outer-1.0.0.crate"]
    {
        assert_eq!(asked.iter().filter(|target| *target == once).count(), 1, "{once} in {asked:?}");
    }
    gateway.close();
    assert_eq!(
        gateway.verdicts().iter().filter(|verdict| **verdict != Verdict::Ok).count(),
        1,
        "the dead mirror is tried once"
    );
}

#[test]
fn cargo_prints_which_mirror_sent_the_wrong_crate() {
    let folder = Folder::new();
    let registry = Registry::new(&folder);
    let good = registry.serve(None);
    let server = Server::start(move |hit| match good(hit) {
        Reply::Whole { mut body, .. } if hit.target.ends_with("inner-1.0.0.crate") => {
            body[40] ^= 1;
            Reply::ok(body)
        }
        page => page,
    });
    let mut gateway = Gateway::start(&crates_setup(&folder, &registry, &[&server.url]));
    assert!(cargo(&folder, &gateway, "home", &["generate-lockfile"]).status.success());
    let refused = cargo(&folder, &gateway, "home", &["fetch", "--locked"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    let expected = sha256(&registry.crates["inner"]);
    for part in ["inner 1.0.0", &server.url, "mirror test", &format!("expected {expected}, got ")] {
        assert!(told.contains(part), "`{part}` is not in: {told}");
    }
    assert!(!folder.files("home/registry/cache").contains(&"inner-1.0.0.crate".to_owned()));
    gateway.close();
    let refusals: Vec<_> = gateway
        .events
        .iter()
        .filter_map(|event| if let Event::Refused { failure, .. } = event { Some(failure) } else { None })
        .collect();
    assert_eq!(refusals.len(), 1);
    assert_eq!(
        (refusals[0].kind, refusals[0].attempts[0].expected.as_ref()),
        (FailureKind::Integrity, Some(&expected))
    );
}

#[test]
fn each_fault_of_index_or_download_falls_over() {
    let folder = Folder::new();
    let registry = Registry::new(&folder);
    let flipped: Handler = {
        let good = registry.serve(None);
        Box::new(move |hit| match good(hit) {
            Reply::Whole { mut body, status: 200, .. } if hit.target.starts_with("/files") => {
                body[40] ^= 1;
                Reply::ok(body)
            }
            page => page,
        })
    };
    let stale: Handler = {
        let good = registry.serve(None);
        Box::new(move |hit| {
            if hit.target == "/index/in/ne/inner" {
                Reply::ok("{\"vers\":\"0.9.0\",\"cksum\":\"00\"}\n")
            } else {
                good(hit)
            }
        })
    };
    let cut: Handler = {
        let good = registry.serve(None);
        Box::new(move |hit| match good(hit) {
            Reply::Whole { body, status: 200, headers } if hit.target.starts_with("/files") => {
                Reply::Cut { after: 50, body, status: 200, headers }
            }
            page => page,
        })
    };
    let cases: Vec<(&str, Handler, &str)> = vec![
        ("flip", flipped, "mirror.hash"),
        ("stale", stale, "mirror.absent"),
        ("cut", cut, "mirror.truncated"),
        ("second host refuses", Box::new(registry.serve(Some(refusing()))), "mirror.dead"),
        ("portal", Box::new(|_| Reply::html()), "mirror.html"),
        ("silent", Box::new(|_| Reply::Silent), "mirror.stalled"),
    ];
    let checksum = sha256(&registry.crates["inner"]);
    for (case, bad, finding) in cases {
        let (folder, bad, fine) = (Folder::new(), Server::start(bad), Server::start(registry.serve(None)));
        let mut gateway = Gateway::start(&crates_setup(&folder, &registry, &[&bad.url, &fine.url]));
        assert_eq!(
            gateway.get(&format!("{INDEX}/in/ne/inner"), &gateway.password),
            (200, registry.entry("inner").into_bytes()),
            "{case}"
        );
        let (status, body) = gateway.get(&format!("{INDEX}/dl/inner/1.0.0/{checksum}"), &gateway.password);
        assert_eq!((status, sha256(&body)), (200, checksum.clone()), "{case}");
        gateway.close();
        assert!(gateway.findings().contains(&finding), "{case}: {:?}", gateway.findings());
        assert_eq!(
            gateway.egress().len(),
            bad.hits().len() + fine.hits().len() + usize::from(case.starts_with("second host")),
            "{case}"
        );
    }
}

#[test]
fn an_altered_stored_crate_and_an_unpinned_one_never_reach_cargo() {
    let folder = Folder::new();
    let registry = Registry::new(&folder);
    let server = Server::start(registry.serve(None));
    let setup = crates_setup(&folder, &registry, &[&server.url]);
    let gateway = Gateway::start(&setup);
    let checksum = sha256(&registry.crates["inner"]);
    let download = format!("{INDEX}/dl/inner/1.0.0/{checksum}");
    assert_eq!(gateway.get(&download, &gateway.password).1, registry.crates["inner"]);
    let stored = setup.downloads.join("sha256").join(&checksum[..2]).join(&checksum);
    fs::remove_file(&stored).unwrap();
    fs::write(&stored, "altered").unwrap();
    assert_eq!(gateway.get(&download, &gateway.password).1, registry.crates["inner"]);

    let (status, told) = gateway.get(&format!("{INDEX}/dl/inner/2.0.0/{checksum}"), &gateway.password);
    assert!(status == 502 && String::from_utf8_lossy(&told).contains("no lock file"), "{status}");
    let (status, told) = gateway.get(&format!("{INDEX}/dl/inner/1.0.0/{}", "0".repeat(64)), &gateway.password);
    assert!(status == 502 && String::from_utf8_lossy(&told).contains(&format!("expected {checksum}")), "{status}");
    assert_eq!(gateway.get(&format!("{INDEX}/no/ne/none"), &gateway.password).0, 404);
}

#[test]
fn only_this_build_is_served_and_only_its_registry() {
    let folder = Folder::new();
    let registry = Registry::new(&folder);
    let server = Server::start(registry.serve(None));
    let gateway = Gateway::start(&crates_setup(&folder, &registry, &[&server.url]));
    let config = format!("{INDEX}/config.json");
    let right =
        format!("Proxy-Authorization: Basic {}\r\n", crate::gateway::base64(&format!("xtask:{}", gateway.password)));
    let wrong = gateway.password.replace(|digit: char| digit.is_ascii_digit(), "x");
    assert_eq!(gateway.get(&config, &wrong).0, 407);
    assert_eq!(gateway.raw("GET", &config, "").0, 407);
    // As the server itself the password is asked for as a server asks.
    assert_eq!(gateway.raw("GET", "/crates/config.json", &right).0, 401);
    let (status, told) = gateway.raw("GET", "/crates/config.json", right.strip_prefix("Proxy-").unwrap());
    assert!(status == 200 && String::from_utf8_lossy(&told).contains("\"http://x/crates/dl/"), "{status}");
    assert_eq!(gateway.raw("CONNECT", "xtask-gateway.invalid:443", &right).0, 403);
    assert_eq!(gateway.raw("POST", &config, &right).0, 403);
    assert_eq!(gateway.get(&format!("{}/index/config.json", server.url), &gateway.password).0, 403);
    assert_eq!(gateway.get(&format!("{INDEX}/../../etc/passwd"), &gateway.password).0, 404);
    assert_eq!(gateway.get(&config, &gateway.password).0, 200);
    assert!(server.hits().is_empty());
}

#[test]
fn a_crate_that_reaches_out_of_its_folder_is_refused_though_its_hash_is_right() {
    let folder = Folder::new();
    let cases = [
        ("symbolic link", "ln -s ../../canary evil-1.0.0/link; tar cz evil-1.0.0", "evil-1.0.0/link"),
        ("hard link", "ln evil-1.0.0/lib.rs evil-1.0.0/same; tar cz evil-1.0.0", "is a hard link"),
        ("pipe", "mkfifo evil-1.0.0/pipe; tar cz evil-1.0.0", "evil-1.0.0/pipe"),
        ("parent", "touch canary; tar czP evil-1.0.0 evil-1.0.0/../canary", "evil-1.0.0/../canary"),
        ("absolute", "touch canary; tar czP evil-1.0.0 $PWD/canary", "is not below `evil-1.0.0/`"),
        ("another crate's", "mkdir serde-1.0.0; tar cz evil-1.0.0 serde-1.0.0", "serde-1.0.0"),
        (
            "long name",
            "n=$(printf %0150d 1); mkdir $n; touch $n/x; tar cz --format=gnu evil-1.0.0 $n/x",
            "000001/x` is not below",
        ),
        (
            "pax name",
            "n=$(printf %0150d 1); mkdir $n; touch $n/x; tar cz --format=pax evil-1.0.0 $n/x",
            "000001/x` is not below",
        ),
        (
            "long link",
            "ln -s $(printf %0150d 1) evil-1.0.0/link; tar cz --format=gnu evil-1.0.0",
            "is of a kind that no crate needs",
        ),
        (
            "behind the end",
            "tar cf a evil-1.0.0; touch canary; tar cfP b ../${PWD##*/}/canary; cat a b | gzip",
            "canary",
        ),
        ("cut", "tar c evil-1.0.0 | head -c 700 | gzip", "cut"),
        ("no archive", "echo hello | gzip", "cut"),
        ("no gzip", "tar c evil-1.0.0", "gzip"),
        ("sound, GNU", "n=$(printf %0150d 1); touch evil-1.0.0/$n; tar cz --format=gnu evil-1.0.0", ""),
        ("sound, pax", "n=$(printf %0150d 1); touch evil-1.0.0/$n; tar cz --format=pax evil-1.0.0", ""),
        ("sound, ustar", "mkdir -p evil-1.0.0/$(printf %090d 1)/b; tar cz --format=ustar evil-1.0.0", ""),
    ];
    for (case, script, expected) in cases {
        let own = folder.0.join(case.replace(' ', "-"));
        fs::create_dir_all(own.join("evil-1.0.0")).unwrap();
        fs::write(own.join("evil-1.0.0/lib.rs"), "").unwrap();
        // The last command's output is the crate.
        shell(&own, &format!("exec > evil.crate; {script}"));
        let body = fs::read(own.join("evil.crate")).unwrap();
        let hash = sha256(&body);
        let server = Server::start(move |hit| match hit.target.as_str() {
            "/index/config.json" => Reply::ok(format!(r#"{{"dl":"http://{}/files"}}"#, hit.headers["host"])),
            _ => Reply::ok(body.as_slice()),
        });
        let mut setup = setup(&folder, Ecosystem::Crates, &[&format!("{}/index/", server.url)]);
        setup.pins.crates = BTreeMap::from([("evil 1.0.0".to_owned(), hash.clone())]);
        let gateway = Gateway::start(&setup);
        // Once when it is fetched, once when it is found.
        for _ in 0..2 {
            let (status, told) = gateway.get(&format!("{INDEX}/dl/evil/1.0.0/{hash}"), &gateway.password);
            let told = String::from_utf8_lossy(&told);
            assert_eq!(status, if expected.is_empty() { 200 } else { 502 }, "{case}: {told}");
            assert!(expected.is_empty() || told.contains(expected), "{case}: {told}");
        }
    }
}

#[test]
fn entries_that_a_lock_file_needs_are_asked_for_ahead_and_once() {
    let folder = Folder::new();
    let names: Vec<String> = (0..40).map(|number| format!("crate{number:02}")).collect();
    let server = Server::start(|_| Reply::ok(format!("{{\"vers\":\"1.0.0\",\"cksum\":\"{}\"}}\n", "0".repeat(64))));
    let mut setup = setup(&folder, Ecosystem::Crates, &[&format!("{}/index/", server.url)]);
    setup.pins.crates = names.iter().map(|name| (format!("{name} 1.0.0"), "0".repeat(64))).collect();
    let gateway = Gateway::start(&setup);
    let get = |gateway: &Gateway, name: &str| gateway.get(&format!("{INDEX}/cr/at/{name}"), &gateway.password).0;
    assert_eq!(get(&gateway, "crate17"), 200);
    let started = Instant::now();
    while server.hits().len() < names.len() {
        assert!(started.elapsed() < Duration::from_secs(20), "{} were asked for ahead", server.hits().len());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(names.iter().all(|name| get(&gateway, name) == 200));
    // Nothing is missing in the next run, so nothing is asked for.
    let again = Gateway::start(&setup);
    assert!(names.iter().all(|name| get(&again, name) == 200));
    assert_eq!(server.hits().len(), names.len());
}

#[test]
fn crates_that_a_build_needs_are_brought_before_cargo_asks_and_once() {
    let folder = Folder::new();
    let registry = Registry::new(&folder);
    let good = registry.serve(None);
    let server = Server::start(move |hit| {
        if hit.target.ends_with("inner-1.0.0.crate") {
            // Longer than a second process is waited for in silence.
            std::thread::sleep(Duration::from_millis(1500));
        }
        good(hit)
    });
    let mut gateway = Gateway::start(&crates_setup(&folder, &registry, &[&server.url]));
    let asked = |name: &str| server.hits().iter().filter(|hit| hit.target.ends_with(name)).count();
    for path in ["in/ne/inner", "ou/te/outer"] {
        assert_eq!(gateway.get(&format!("{INDEX}/{path}"), &gateway.password).0, 200);
    }
    let get = |name: &str| {
        let checksum = sha256(&registry.crates[name]);
        gateway.get(&format!("{INDEX}/dl/{name}/1.0.0/{checksum}"), &gateway.password).1
    };
    assert_eq!(get("outer"), registry.crates["outer"]);
    let started = Instant::now();
    while asked("inner-1.0.0.crate") == 0 {
        assert!(started.elapsed() < Duration::from_secs(20), "nobody asks for what `outer` needs");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(get("inner"), registry.crates["inner"]);
    assert_eq!((asked("inner-1.0.0.crate"), asked("outer-1.0.0.crate")), (1, 1));
    gateway.close();
    assert!(gateway.findings().is_empty(), "{:?}", gateway.findings());
}

#[test]
fn a_crate_that_is_harmless_under_one_name_is_examined_under_another() {
    let folder = Folder::new();
    let registry = Registry::new(&folder);
    let (body, checksum) = (registry.crates["inner"].clone(), sha256(&registry.crates["inner"]));
    let server = Server::start(registry.serve(None));
    let mut setup = crates_setup(&folder, &registry, &[&server.url]);
    setup.pins.crates.insert("other 1.0.0".to_owned(), checksum.clone());
    let get = |name: &str| {
        let gateway = Gateway::start(&setup);
        gateway.get(&format!("{INDEX}/dl/{name}/1.0.0/{checksum}"), &gateway.password)
    };
    assert_eq!(get("inner"), (200, body.clone()));
    let (status, told) = get("other");
    assert!(status == 502 && String::from_utf8_lossy(&told).contains("is not below `other-1.0.0/`"), "{status}");
    assert_eq!(get("inner"), (200, body));
}

#[test]
fn connections_without_the_password_keep_nobody_out() {
    let folder = Folder::new();
    let gateway = Gateway::start(&setup(&folder, Ecosystem::Crates, &[]));
    let config = || gateway.ask("GET", "http://xtask-gateway.invalid/crates/config.json", "").0;
    let strangers: Vec<_> = (0..300)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(&gateway.address).unwrap();
            std::io::Write::write_all(&mut stream, b"GET / HT").unwrap();
            stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
            stream
        })
        .collect();
    assert_eq!(config(), 200);
    let held = || std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count();
    assert!(held() < 200, "{} descriptors for 300 strangers", held());
    // The last of them is shown the door as well.
    assert!(matches!(std::io::Read::read(&mut &strangers[299], &mut [0; 1]), Ok(0)));
    assert!(held() < 50, "{}", held());
    assert_eq!(config(), 200);
}
