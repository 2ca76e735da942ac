//! What a real apt gets, and what each fault of an archive comes to.

use crate::gateway::{Folder, Gateway, installed, setup, shell};
use crate::server::{Handler, Hit, Reply, Server, refusing, sha256};
use protocol::{Artifact, Ecosystem, Event, FailureKind, Job, Outcome, Setup};
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const APT: &str = "http://xtask-gateway.invalid/apt";

/// A base archive with `hello++` and a security archive with `fix`, in the two forms that archives have.
struct Archive {
    /// Path below the server → content.
    files: BTreeMap<String, Vec<u8>>,
}

/// A throwaway key, and the packages: what all archives of a test share.
struct Key {
    folder: Folder,
}

impl Key {
    fn new() -> Self {
        let folder = Folder::new();
        shell(
            &folder.0,
            "mkdir -m 700 gnupg
             export GNUPGHOME=$PWD/gnupg
             gpg -q --batch --pinentry-mode loopback --passphrase '' --quick-generate-key a@b.example ed25519 sign never
             gpg --armor --export > key.asc
             for name in hello++ fix; do
               mkdir -p $name/DEBIAN
               printf 'Package: %s\\nVersion: 1\\nArchitecture: %s\\nMaintainer: x\\nDescription: x\\n' \\
                 $name $([ $name = fix ] && echo all || dpkg --print-architecture) > $name/DEBIAN/control
               dpkg-deb --root-owner-group --build $name $name.deb
             done",
        );
        Self { folder }
    }

    /// What `script` writes to its standard output, in the key's folder.
    fn run(&self, script: &str) -> Vec<u8> {
        shell(&self.folder.0, &format!("export GNUPGHOME=$PWD/gnupg\n( {script} ) > out"));
        fs::read(self.folder.0.join("out")).unwrap()
    }

    /// `date`, `valid_until`: as `date -d` takes them.
    fn archive(&self, date: &str, valid_until: &str) -> Archive {
        let architecture = String::from_utf8(self.run("dpkg --print-architecture")).unwrap().trim().to_owned();
        let mut files = BTreeMap::new();
        for (archive, suite, package, packer, ending, by_hash) in [
            ("base", "stable", "hello++", "gzip -n", "gz", "no"),
            ("security", "stable-security", "fix", "xz", "xz", "yes"),
        ] {
            let deb = fs::read(self.folder.0.join(format!("{package}.deb"))).unwrap();
            let pool = format!("pool/main/{package}_1.deb");
            let pool =
                pool.replace("_1", if package == "fix" { "_1_all" } else { "_1_ARCH" }).replace("ARCH", &architecture);
            let (size, hash) = (deb.len(), sha256(&deb));
            // Named by every InRelease, served by nobody.
            let plain = self.run(&format!(
                "dpkg-deb -f {package}.deb; printf 'Filename: {pool}\\nSize: {size}\\nSHA256: {hash}\\n\\n'"
            ));
            let sum = |bytes: &[u8], name: &str| format!(" {} {} {name}\\n", sha256(bytes), bytes.len());
            let folder = format!("main/binary-{architecture}/Packages");
            fs::write(self.folder.0.join("Packages"), &plain).unwrap();
            let index = self.run(&format!("{packer} -c Packages"));
            let name = format!("{folder}.{ending}");
            let sums = sum(&plain, &folder) + &sum(&index, &name);
            let release = self.run(&format!(
                "{{ printf 'Suite: {suite}\\nCodename: {suite}\\nArchitectures: {architecture}\\nComponents: main\\n'
                    printf 'Acquire-By-Hash: {by_hash}\\nSHA256:\\n{sums}'
                    LC_ALL=C date -ud '{date}' '+Date: %a, %d %b %Y %T UTC'
                    LC_ALL=C date -ud '{valid_until}' '+Valid-Until: %a, %d %b %Y %T UTC'; }} | gpg -q --clearsign"
            ));
            let dists = format!("/{archive}/dists/{suite}");
            files.insert(format!("{dists}/InRelease"), release);
            if by_hash == "yes" {
                files.insert(
                    format!("{dists}/main/binary-{architecture}/by-hash/SHA256/{}", sha256(&index)),
                    index.clone(),
                );
            }
            files.insert(format!("{dists}/{name}"), index);
            // apt writes a plus sign as a URL must have it in a query.
            files.insert(format!("/{archive}/{}", pool.replace('+', "%2b")), deb);
        }
        Archive { files }
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.run("gpgconf --kill gpg-agent");
    }
}

impl Archive {
    fn serve(&self) -> impl Fn(&Hit) -> Reply + Send + Sync + use<> {
        let files = self.files.clone();
        move |hit| files.get(&hit.target).map_or(Reply::status(404), |body| Reply::ok(body.as_slice()))
    }

    /// Path and content of the one file whose path has a part.
    fn file(&self, part: &str) -> (&str, &[u8]) {
        let (path, bytes) = self.files.iter().find(|(path, _)| path.contains(part)).unwrap();
        (path, bytes)
    }

    /// Changes what a good server answers for paths that have a part.
    fn spoilt(&self, part: &'static str, spoil: fn(Vec<u8>) -> Reply) -> Handler {
        let good = self.serve();
        Box::new(move |hit| match good(hit) {
            Reply::Whole { body, status: 200, .. } if hit.target.contains(part) => spoil(body),
            other => other,
        })
    }
}

fn apt_setup(folder: &Folder, servers: &[&str]) -> Setup {
    let urls: Vec<String> = servers.iter().map(|url| format!("{url}/base")).collect();
    let mut setup = setup(folder, Ecosystem::Apt, &urls.iter().map(String::as_str).collect::<Vec<_>>());
    for (upstream, url) in setup.upstreams.get_mut(&Ecosystem::Apt).unwrap().iter_mut().zip(servers) {
        upstream.second = Some(format!("{url}/security"));
    }
    setup
}

/// apt in a root of its own: it reads nothing of this machine's configuration and lists.
fn apt(key: &Key, folder: &Folder, root: &str, gateway: &Gateway, arguments: &[&str]) -> Output {
    let root = folder.0.join(root);
    for below in ["etc/apt", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "var/lib/dpkg", "out"] {
        fs::create_dir_all(root.join(below)).unwrap();
    }
    let signed = format!("[signed-by={}/key.asc]", key.folder.0.display());
    let sources = format!("deb {signed} {APT}/base stable main\ndeb {signed} {APT}/security stable-security main\n");
    fs::write(root.join("etc/apt/sources.list"), sources).unwrap();
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let (root, proxy) = (root.display(), format!("http://step:{}@{}", gateway.password, gateway.address));
    let configuration = format!(
        "Dir \"{root}\";\nDir::State::status \"{root}/var/lib/dpkg/status\";\nAPT::Sandbox::User \"root\";\n\
         APT::Update::Error-Mode \"any\";\nAcquire::Languages \"none\";\nAcquire::Retries \"0\";\n\
         Acquire::http::Proxy \"{proxy}\";\n"
    );
    fs::write(folder.0.join("apt.conf"), configuration).unwrap();
    Command::new("apt-get")
        .args(arguments)
        .current_dir(folder.0.join(format!("{root}/out")))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("APT_CONFIG", folder.0.join("apt.conf"))
        .output()
        .unwrap()
}

const BOTH: [&[&str]; 2] = [&["update"], &["download", "hello++", "fix"]];

fn tools() -> bool {
    ["apt-get", "dpkg-deb", "gpg", "xz"].iter().all(|tool| installed(tool))
}

#[test]
fn apt_updates_and_downloads_past_each_fault_and_again_when_every_mirror_is_gone() {
    if !tools() {
        return;
    }
    let key = Key::new();
    let good = key.archive("now", "now + 5 days");
    let flip = |mut body: Vec<u8>| {
        let middle = body.len() / 2;
        body[middle] ^= 1;
        Reply::ok(body)
    };
    let portal: Handler = Box::new(|_| Reply::html());
    let cases: Vec<(&str, Handler, &str)> = vec![
        ("portal", portal, "mirror.html"),
        ("stale", Box::new(key.archive("now - 9 days", "now - 2 days").serve()), "mirror.absent"),
        ("flipped index", good.spoilt("Packages", flip), "mirror.hash"),
        ("flipped package", good.spoilt("pool", flip), "mirror.hash"),
        ("no index by hash", good.spoilt("by-hash", |_| Reply::status(404)), "mirror.absent"),
    ];
    for (case, bad, finding) in cases {
        let folder = Folder::new();
        let (bad, fine) = (Server::start(bad), Server::start(good.serve()));
        let (alive, dead) = ([bad.url.clone(), fine.url.clone()], [refusing(), refusing()]);
        // At last from lists that apt got through an earlier gateway.
        for (root, upstreams, commands) in
            [("first", &alive, &BOTH[..]), ("second", &dead, &BOTH), ("first", &dead, &BOTH[1..])]
        {
            let _ = fs::remove_dir_all(folder.0.join(root).join("out"));
            let setup = apt_setup(&folder, &upstreams.each_ref().map(String::as_str));
            let mut gateway = Gateway::start(&setup);
            for arguments in commands.iter().copied() {
                let output = apt(&key, &folder, root, &gateway, arguments);
                let told = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{case}, {root}, {arguments:?}: {told}");
            }
            for (name, package) in [("hello", "hello%2b"), ("fix", "fix")] {
                let file =
                    folder.files(&format!("{root}/out")).into_iter().find(|file| file.starts_with(name)).unwrap();
                let bytes = fs::read(folder.0.join(root).join("out").join(file)).unwrap();
                assert_eq!(bytes, good.file(&format!("/{package}")).1, "{case}");
            }
            gateway.close();
            assert!(upstreams == &dead || gateway.findings().contains(&finding), "{case}: {:?}", gateway.findings());
        }
    }
}

#[test]
fn wrong_bytes_and_portals_alone_are_named_and_never_reach_apt() {
    if !tools() {
        return;
    }
    let key = Key::new();
    let good = key.archive("now", "now + 5 days");
    let cases: Vec<(&str, Handler, FailureKind, &str)> = vec![
        ("/Packages", good.spoilt("Packages.", |_| Reply::ok("other bytes")), FailureKind::Integrity, "expected"),
        ("/pool", good.spoilt("pool", |_| Reply::ok("other bytes")), FailureKind::Integrity, "expected"),
        ("/InRelease", Box::new(|_| Reply::html()), FailureKind::Network, "“Guest network Please sign in”"),
        ("/InRelease", good.spoilt("InRelease", |_| Reply::ok("Hello")), FailureKind::Network, "not an InRelease"),
        (
            "/InRelease",
            Box::new(key.archive("now - 9 days", "now - 2 days").serve()),
            FailureKind::Network,
            "expired 2 days ago",
        ),
        (
            "/InRelease",
            Box::new(key.archive("now + 3 days", "now + 9 days").serve()),
            FailureKind::Network,
            "2 days ahead",
        ),
    ];
    for (part, handler, kind, words) in cases {
        let (folder, server) = (Folder::new(), Server::start(handler));
        let mut gateway = Gateway::start(&apt_setup(&folder, &[&server.url]));
        let get = |path: &str| gateway.get(&format!("{APT}{path}"), &gateway.password);
        get("/base/dists/stable/InRelease");
        let path = good.files.keys().find(|path| path.starts_with("/base") && path.contains(part)).unwrap();
        let (status, told) = get(path);
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(status == 502 && told.contains(words), "{path}: {status} {told}");
        gateway.close();
        let refused = |event: &Event| matches!(event, Event::Refused { failure, .. } if failure.kind == kind);
        assert!(gateway.events.iter().any(refused), "{path}: {:?}", gateway.events);
    }
}

#[test]
fn only_what_an_inrelease_leads_to_is_served_and_the_newest_one_stays() {
    if !tools() {
        return;
    }
    let key = Key::new();
    let (new, old) = (key.archive("now", "now + 5 days"), key.archive("now - 3 days", "now + 2 days"));
    let there = Arc::new(AtomicBool::new(true));
    let (serve, here) = (new.serve(), there.clone());
    let first = Server::start(move |hit| if here.load(Ordering::Relaxed) { serve(hit) } else { Reply::status(404) });
    let (second, folder) = (Server::start(old.serve()), Folder::new());
    let mut setup = apt_setup(&folder, &[&refusing(), &first.url, &second.url]);
    // A profile may have no security archive in one of its places.
    setup.upstreams.get_mut(&Ecosystem::Apt).unwrap()[0] = crate::gateway::upstream(&first.url);
    let mut gateway = Gateway::start(&setup);
    let get = |path: &str| gateway.get(&format!("{APT}{path}"), &gateway.password);
    let (pool, _) = new.file("hello");
    assert!(get(pool).0 == 502 && first.hits().is_empty(), "no index has named it");
    let expected = new.file("/security/dists/stable-security/InRelease");
    assert_eq!(get(expected.0), (200, expected.1.to_vec()));
    there.store(false, Ordering::Relaxed);
    assert_eq!(get(expected.0), (200, expected.1.to_vec()), "an older one is not passed on");
    there.store(true, Ordering::Relaxed);
    let by_hash = new.file("by-hash").0;
    assert_eq!(get(by_hash).0, 200);
    let (package, bytes) = new.file("/fix");
    let (status, head, _) = gateway.ask("HEAD", &format!("{APT}{package}"), "");
    assert!(status == 200 && head.contains(&format!("content-length: {}", bytes.len())), "{head}");
    assert!(!first.hits().iter().any(|hit| hit.target == package), "its size is in the index");
    for path in [
        "/base/dists/stable/InRelease/x",
        "/base/dists/other/InRelease",
        "/security/dists/stable-security/Release",
        "/security/dists/stable-security/Release.gpg",
        "/security/dists/stable-security/main/binary-none/Packages.xz",
        &by_hash.replace("SHA256", "SHA512"),
        &format!("{}{}", &by_hash[..by_hash.len() - 64], "0".repeat(64)),
        "/elsewhere/dists/stable/InRelease",
        "/base/../secret",
        "/base/pool/%2e%2e/secret",
    ] {
        assert_eq!(get(path).0, 404, "{path}");
    }
    assert_eq!(get("/security/pool/main/none_1_all.deb").0, 502);
    gateway.close();
    let findings = gateway.findings();
    assert!(findings.contains(&"mirror.absent") && !findings.contains(&"mirror.configuration"), "{findings:?}");
}

/// An InRelease that nobody signed: its signature is for the conductor to check.
fn unsigned(day: &str) -> String {
    let sum = format!(" {} 7 main/binary-amd64/Packages.xz", "a".repeat(64));
    format!(
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nCodename: stable\nDate: {day} 00:00:00 UTC\nSHA256:\n{sum}\n\
         -----BEGIN PGP SIGNATURE-----\n\nx\n-----END PGP SIGNATURE-----\n"
    )
}

#[test]
fn the_conductor_gets_an_inrelease_as_it_came_and_is_told_why_not() {
    let (good, early) = (unsigned("Mon, 04 Nov 2024"), unsigned("Fri, 01 Jan 2199"));
    let release = |bad: &str, suite: &str| {
        let (folder, bad, body) = (Folder::new(), bad.to_owned(), good.clone());
        let bad = Server::start(move |_| if bad.is_empty() { Reply::status(404) } else { Reply::ok(bad.as_bytes()) });
        let fine = Server::start(move |hit| match hit.target.as_str() {
            "/base/dists/stable/InRelease" => Reply::ok(body.as_bytes()),
            _ => Reply::status(404),
        });
        let mut gateway = Gateway::start(&apt_setup(&folder, &[&bad.url, &fine.url]));
        gateway.perform(Job::Release { suite: suite.to_owned() })
    };
    for bad in ["", "<html>Sign in", "Codename: stable", &early] {
        assert_eq!(release(bad, "base/dists/stable").unwrap(), Outcome::Released { text: good.clone() });
    }
    let failure = release("", "security/dists/stable-security").unwrap_err();
    assert_eq!(failure.subject, "InRelease of security/dists/stable-security");
    assert!(failure.message.starts_with("no upstream has it"), "{failure:?}");
}

#[test]
fn a_security_update_that_only_the_base_archive_has_left_is_found_there() {
    let body = b"a package".as_slice();
    let server = Server::start(|hit| match hit.target.as_str() {
        "/base/pool/main/f/fix_1_all.deb" => Reply::ok("a package"),
        _ => Reply::status(404),
    });
    let artifact =
        |path: &str| Artifact::Debian { path: path.into(), sha256: sha256(body), size_bytes: body.len() as u64 };
    let fetch = |path: &str| {
        let folder = Folder::new();
        Gateway::start(&apt_setup(&folder, &[&server.url])).fetch(artifact(path))
    };
    assert_eq!(fetch("security/pool/updates/main/f/fix_1_all.deb").unwrap(), body);
    let failure = fetch("security/pool/updates/main/f/gone_1_all.deb").unwrap_err();
    assert_eq!(failure.subject, "Debian file security/pool/updates/main/f/gone_1_all.deb");
    assert_eq!((failure.kind, failure.attempts.len()), (FailureKind::Network, 1));
    assert!(fetch("base/pool/main/f/gone_1_all.deb").is_err());
}
