//! The hub protocol: a table of faults, and huggingface_hub itself.

use crate::gateway::{Folder, Gateway, brought, setup};
use crate::server::{Handler, Hit, Reply, Server, file, noise, refusing, sha256};
use protocol::{Artifact, Ecosystem, FailureKind, Private, Setup};
use std::fs;
use std::process::{Command, Output};

const HUB: &str = "http://xtask-gateway.invalid/hub";
const COMMIT: &str = "3333333333333333333333333333333333333333";
const CLIENT: &str = "huggingface_hub==2.4.0";

/// A repository `o/m` with a small file and a large one, in one commit.
#[derive(Clone)]
struct Repo {
    small: Vec<u8>,
    small_hash: String,
    large: Vec<u8>,
}

impl Repo {
    fn new(folder: &Folder) -> Self {
        let small = b"{\"hidden_size\": 4}\n".to_vec();
        fs::write(folder.0.join("config.json"), &small).unwrap();
        let git = Command::new("git").arg("hash-object").arg(folder.0.join("config.json")).output().unwrap();
        let small_hash = String::from_utf8(git.stdout).unwrap().trim().to_owned();
        Self { small, small_hash, large: noise(700_000) }
    }

    /// As the hub itself answers: small files behind a relative redirect, large ones at `storage`, the tree in two pages.
    fn serve(&self, storage: &str) -> impl Fn(&Hit) -> Reply + Send + Sync + use<> {
        let (repo, storage) = (self.clone(), storage.to_owned());
        move |hit| {
            let cached = format!("/api/resolve-cache/models/o/m/{COMMIT}/config.json");
            let tree = format!("/api/models/o/m/tree/{COMMIT}?recursive=true&expand=false");
            let revisions = ["main", COMMIT];
            let of = |path: &str| revisions.iter().any(|it| hit.target == format!("/o/m/resolve/{it}/{path}"));
            let moved =
                |status, place: String| Reply::status(status).with("Location", place).with("X-Repo-Commit", COMMIT);
            if of("config.json") {
                moved(307, cached).with("Content-Length-Of", "nothing")
            } else if hit.target == cached {
                file(hit, &repo.small, &format!("\"{}\"", repo.small_hash)).with("X-Repo-Commit", COMMIT)
            } else if of("onnx/model.bin") {
                moved(302, format!("{storage}/blob?X-Signature=hunter3"))
                    .with("X-Linked-Etag", format!("\"{}\"", sha256(&repo.large)))
                    .with("X-Linked-Size", repo.large.len().to_string())
                    .with("X-Xet-Hash", "77".repeat(32))
                    .with("Link", "<https://xet.example/auth>; rel=\"xet-auth\"")
            } else if hit.target.starts_with("/o/m/resolve/") {
                Reply::status(404).with("X-Error-Code", "EntryNotFound").with("X-Repo-Commit", COMMIT)
            } else if hit.target == "/api/models/o/m/revision/main" {
                Reply::ok(format!(
                    r#"{{"id":"o/m","sha":"{COMMIT}","siblings":[{{"rfilename":"config.json"}},{{"rfilename":"onnx/model.bin"}}]}}"#
                ))
            } else if hit.target == tree {
                let next = format!("<https://hub.example{tree}&cursor=two>; rel=\"next\"");
                let (oid, size) = (&repo.small_hash, repo.small.len());
                Reply::ok(format!(r#"[{{"type":"file","path":"config.json","oid":"{oid}","size":{size}}}]"#))
                    .with("Link", next)
            } else if hit.target == format!("{tree}&cursor=two") {
                let (oid, size, xet) = (sha256(&repo.large), repo.large.len(), "77".repeat(32));
                Reply::ok(format!(
                    r#"[{{"type":"file","path":"onnx/model.bin","oid":"{COMMIT}","size":{size},"xetHash":"{xet}","lfs":{{"oid":"{oid}","size":{size},"pointerSize":134}}}}]"#
                ))
            } else {
                Reply::status(404).with("X-Error-Code", "RepoNotFound")
            }
        }
    }

    fn storage(&self) -> Server {
        let large = self.large.clone();
        Server::start(move |hit| file(hit, &large, "\"0123456789abcdef0123456789abcdef-2\""))
    }
}

fn hub_setup(folder: &Folder, urls: &[&str]) -> Setup {
    setup(folder, Ecosystem::Hub, urls)
}

/// A Python program that has huggingface_hub, with an empty cache of its own below `home`.
fn python(folder: &Folder, gateway: &Gateway, home: &str, program: &str) -> Output {
    Command::new("python3")
        .args(["-c", program])
        .env_clear()
        .envs(["PATH", "HOME", "PYENV_VERSION"].iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .env("PYTHONPATH", brought(CLIENT))
        .env("HF_HOME", folder.0.join(home))
        .env("HF_ENDPOINT", HUB)
        .env("HF_TOKEN", "hf_hunter2")
        .env("HTTP_PROXY", format!("http://test.step:{}@{}", gateway.password, gateway.address))
        .output()
        .unwrap()
}

#[test]
fn huggingface_hub_downloads_a_snapshot_and_again_when_everything_is_dead() {
    let folder = Folder::new();
    let repo = Repo::new(&folder);
    let storage = repo.storage();
    let hub = Server::start(repo.serve(&storage.url));
    let program = format!(
        "from huggingface_hub import snapshot_download, hf_hub_download\n\
         from huggingface_hub.errors import EntryNotFoundError\n\
         print(snapshot_download('o/m'))\n\
         print(hf_hub_download('o/m', 'onnx/model.bin', revision='{COMMIT}'))\n\
         try: hf_hub_download('o/m', 'adapter_config.json')\n\
         except EntryNotFoundError: print('no adapter')\n"
    );
    let mut dead = hub_setup(&folder, &[&refusing()]);
    dead.limits.connect_seconds = 1;
    for (home, setup) in [("warm", hub_setup(&folder, &[&refusing(), &hub.url])), ("dead", dead)] {
        let mut gateway = Gateway::start(&setup);
        let output = python(&folder, &gateway, home, &program);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{home}: {told}");
        let cache = folder.0.join(home).join("hub/models--o--m");
        let printed = String::from_utf8(output.stdout).unwrap();
        let snapshot = cache.join("snapshots").join(COMMIT);
        let expected = format!("{}\n{}\nno adapter\n", snapshot.display(), snapshot.join("onnx/model.bin").display());
        assert_eq!(printed, expected, "{home}");
        assert_eq!(fs::read(snapshot.join("config.json")).unwrap(), repo.small);
        assert_eq!(fs::read(snapshot.join("onnx/model.bin")).unwrap(), repo.large);
        // The blobs are named by their hashes, as without a gateway.
        let mut blobs = [repo.small_hash.clone(), sha256(&repo.large)];
        blobs.sort();
        assert_eq!(folder.files(&format!("{home}/hub/models--o--m/blobs")), blobs);
        assert_eq!(fs::read_to_string(cache.join("refs/main")).unwrap(), COMMIT);
        gateway.close();
        assert!(!gateway.output.contains("hunter"), "{}", gateway.output);
        assert!(gateway.egress().iter().all(|egress| egress.step == "test:step"));
    }
    assert_eq!(storage.hits().len(), 1, "{:?}", storage.hits());
    let authorized = |hit: &Hit| hit.headers.contains_key("authorization");
    assert!(!hub.hits().iter().chain(&storage.hits()).any(authorized));
    assert!(!hub.hits().iter().any(|hit| hit.target.contains("xet")));
}

#[test]
fn each_fault_of_a_hub_falls_over_to_the_next() {
    let folder = Folder::new();
    let repo = Repo::new(&folder);
    let storage = repo.storage();
    let changed = |change: fn(&Hit, Reply) -> Reply| -> Handler {
        let good = repo.serve(&storage.url);
        Box::new(move |hit| change(hit, good(hit)))
    };
    let flipped = |hit: &Hit, reply| match reply {
        Reply::Whole { mut body, headers, status: 200 }
            if hit.method == "GET" && hit.target.contains("resolve-cache") =>
        {
            body[3] ^= 1;
            Reply::Whole { status: 200, headers, body }
        }
        other => other,
    };
    let without = |name: &'static str| {
        move |reply| match reply {
            Reply::Whole { status, headers, body } => Reply::Whole {
                status,
                headers: headers.into_iter().filter(|(header, _)| *header != name).collect(),
                body,
            },
            other => other,
        }
    };
    let bad_storage: Handler = {
        let mut large = repo.large.clone();
        large[5] ^= 1;
        Box::new(move |hit| file(hit, &large, "\"x\""))
    };
    let bad_storage = Server::start(bad_storage);
    let nameless: Handler = {
        let good = repo.serve(&storage.url);
        Box::new(move |hit| without("X-Repo-Commit")(good(hit)))
    };
    let unhashed: Handler = {
        let good = repo.serve(&storage.url);
        Box::new(move |hit| without("X-Linked-Etag")(without("ETag")(good(hit))))
    };
    let (small, large) = ("o/m/resolve/main/config.json", "o/m/resolve/main/onnx/model.bin");
    let cases: Vec<(&str, &str, Handler, &str)> = vec![
        ("flip of a small file", small, changed(flipped), "mirror.hash"),
        ("flip in the storage", large, Box::new(repo.serve(&bad_storage.url)), "mirror.hash"),
        ("storage refuses", large, Box::new(repo.serve(&refusing())), "mirror.dead"),
        ("portal", small, Box::new(|_| Reply::html()), "mirror.html"),
        ("no commit", small, nameless, "mirror.malformed"),
        ("no hash", small, unhashed, "mirror.malformed"),
        ("silent", small, Box::new(|_| Reply::Silent), "mirror.stalled"),
        ("limited", small, Box::new(|_| Reply::status(429).with("Retry-After", "3600")), "mirror.limited"),
        ("gated", small, Box::new(|_| Reply::status(401)), "mirror.status"),
        ("stale", small, Box::new(|_| Reply::status(404).with("X-Error-Code", "RevisionNotFound")), "mirror.absent"),
    ];
    for (case, path, bad, finding) in cases {
        let (folder, bad, fine) = (Folder::new(), Server::start(bad), Server::start(repo.serve(&storage.url)));
        let mut gateway = Gateway::start(&hub_setup(&folder, &[&bad.url, &fine.url]));
        let (status, head, _) = gateway.ask("HEAD", &format!("{HUB}/{path}"), "");
        let body = if path == small { &repo.small } else { &repo.large };
        assert_eq!(status, 200, "{case}");
        for line in [format!("x-repo-commit: {COMMIT}"), format!("content-length: {}", body.len())] {
            assert!(head.contains(&line), "{case}: {head}");
        }
        assert!(!head.contains("xet") && !head.contains("location"), "{case}: {head}");
        assert!(!fine.hits().iter().any(|hit| hit.method == "GET"), "{case}: a HEAD downloads nothing");
        let (status, _, got) = gateway.ask("GET", &format!("{HUB}/{path}"), "");
        assert_eq!((status, &got), (200, body), "{case}");
        let (status, head, got) = gateway.ask("GET", &format!("{HUB}/{path}"), "Range: bytes=4-7\r\n");
        assert_eq!((status, got.as_slice()), (206, &body[4..8]), "{case}: {head}");
        gateway.close();
        assert!(gateway.findings().contains(&finding), "{case}: {:?}", gateway.findings());
    }
}

#[test]
fn altered_bytes_of_the_right_length_never_arrive() {
    let folder = Folder::new();
    let repo = Repo::new(&folder);
    let mut large = repo.large.clone();
    large[500_000] ^= 1;
    let got = sha256(&large);
    let storage = Server::start(move |hit| file(hit, &large, "\"x\""));
    let hub = Server::start(repo.serve(&storage.url));
    let mut gateway = Gateway::start(&hub_setup(&folder, &[&hub.url]));
    let (status, _, told) = gateway.ask("GET", &format!("{HUB}/o/m/resolve/{COMMIT}/onnx/model.bin"), "");
    let told = String::from_utf8_lossy(&told).into_owned();
    assert_eq!(status, 502);
    assert!(told.contains(&format!("expected {}, got {got}", sha256(&repo.large))), "{told}");
    gateway.close();
    assert_eq!(gateway.refusals()[0].kind, FailureKind::Integrity);
}

#[test]
fn the_lock_file_outweighs_what_a_hub_says() {
    let folder = Folder::new();
    let repo = Repo::new(&folder);
    let storage = repo.storage();
    let (hub, ask) = (Server::start(repo.serve(&storage.url)), format!("{HUB}/o/m/resolve/{COMMIT}/onnx/model.bin"));
    // The hub's own hash differs from the lock's, in the file's head and in the listing.
    let mut setup = hub_setup(&folder, &[&hub.url]);
    setup.pins.hub.insert(format!("o/m@{COMMIT} onnx/model.bin"), "0".repeat(64));
    let mut gateway = Gateway::start(&setup);
    assert_eq!(gateway.ask("HEAD", &ask, "").0, 502);
    let tree = format!("{HUB}/api/models/o/m/tree/{COMMIT}?recursive=true&expand=false");
    assert_eq!(gateway.ask("GET", &tree, "").0, 200);
    assert_eq!(gateway.ask("GET", &format!("{tree}&cursor=two"), "").0, 502);
    gateway.close();
    assert!(gateway.refusals().iter().all(|failure| failure.kind == FailureKind::Integrity));
    assert!(storage.hits().is_empty());

    // What a commit was said to lack is asked for again once the lock file names it.
    let (folder, absent) = (Folder::new(), format!("{HUB}/o/m/resolve/{COMMIT}/new.bin"));
    let setup = hub_setup(&folder, &[&hub.url]);
    assert_eq!(Gateway::start(&setup).ask("HEAD", &absent, "").0, 404);
    let found = Server::start(|_| Reply::ok("new").with("ETag", format!("\"{}\"", sha256(b"new"))));
    let mut setup = hub_setup(&folder, &[&found.url]);
    setup.pins.hub.insert(format!("o/m@{COMMIT} new.bin"), sha256(b"new"));
    assert_eq!(Gateway::start(&setup).ask("GET", &absent, "").2, b"new");

    // A listing that lacks a pinned file is stale.
    let folder = Folder::new();
    let mut setup = hub_setup(&folder, &[&hub.url]);
    setup.pins.hub.insert(format!("o/m@{COMMIT} new.bin"), "0".repeat(64));
    let mut gateway = Gateway::start(&setup);
    let (status, head, _) = gateway.ask("GET", &format!("{HUB}/api/models/o/m/revision/main"), "");
    assert_eq!((status, head.contains("x-error-code: revisionnotfound")), (404, true), "{head}");
    gateway.close();
    assert_eq!(gateway.findings(), ["mirror.absent"]);
}

#[test]
fn what_a_job_fetched_is_there_for_a_child_when_nobody_answers() {
    let folder = Folder::new();
    let repo = Repo::new(&folder);
    let storage = repo.storage();
    let hub = Server::start(repo.serve(&storage.url));
    let mut gateway = Gateway::start(&hub_setup(&folder, &[&hub.url]));
    let artifact = Artifact::HubFile {
        repo: "o/m".into(),
        revision: COMMIT.into(),
        path: "onnx/model.bin".into(),
        sha256: sha256(&repo.large),
        size_bytes: repo.large.len() as u64,
    };
    assert!(gateway.fetch(artifact).unwrap() == repo.large);
    let mut dead = hub_setup(&folder, &[&refusing()]);
    dead.pins.hub.insert(format!("o/m@{COMMIT} onnx/model.bin"), sha256(&repo.large));
    let gateway = Gateway::start(&dead);
    let file = format!("{HUB}/o/m/resolve/{COMMIT}/onnx/model.bin");
    let (status, head, _) = gateway.ask("HEAD", &file, "");
    assert!(status == 200 && head.contains(&format!("content-length: {}", repo.large.len())), "{head}");
    assert!(gateway.ask("GET", &file, "").2 == repo.large);
}

#[test]
fn a_length_that_nobody_told_is_not_made_up() {
    let folder = Folder::new();
    // Without a length, as some mirrors that pass bodies on in chunks.
    let hub = Server::start(|_| {
        let etag = format!("\"{}\"", sha256(b"x"));
        Reply::Whole { status: 302, headers: Vec::new(), body: Vec::new() }
            .with("X-Linked-Etag", etag)
            .with("X-Linked-Size", "unknown")
            .with("X-Repo-Commit", COMMIT)
            .with("Location", "http://127.0.0.1:9/")
    });
    let gateway = Gateway::start(&hub_setup(&folder, &[&hub.url]));
    let (status, head, _) = gateway.ask("HEAD", &format!("{HUB}/o/m/resolve/{COMMIT}/x"), "");
    assert!(status == 200 && !head.contains("content-length"), "{head}");
}

#[test]
fn links_stay_below_the_gateway_and_nothing_of_xet_is_left() {
    let folder = Folder::new();
    let repo = Repo::new(&folder);
    let storage = repo.storage();
    let hub = Server::start(repo.serve(&storage.url));
    let gateway = Gateway::start(&hub_setup(&folder, &[&hub.url]));
    let tree = format!("/api/models/o/m/tree/{COMMIT}?recursive=true&expand=false");
    let (_, head, _) = gateway.ask("GET", &format!("{HUB}{tree}&other=1"), "");
    assert!(head.contains(&format!("link: <{HUB}{}&cursor=two>; rel=\"next\"", tree.to_ascii_lowercase())), "{head}");
    let (status, _, body) = gateway.ask("GET", &format!("{HUB}{tree}&cursor=two"), "");
    assert_eq!((status, String::from_utf8_lossy(&body).contains("xet")), (200, false));
    for outside in ["api/models/o/m/xet-read-token/main", "o/m/resolve/main", "o/m/resolve/main/..%2fx", "o/m/x/main/y"]
    {
        assert_eq!(gateway.ask("GET", &format!("{HUB}/{outside}"), "").0, 404, "{outside}");
    }
    assert_eq!(hub.hits().len(), 2);
}

#[test]
fn a_private_owners_datasets_and_spaces_are_private_too() {
    let (folder, public) = (Folder::new(), Server::start(|_| Reply::status(404)));
    let mut setup = hub_setup(&folder, &[&public.url]);
    setup.private.insert(Ecosystem::Hub, vec![Private { names: vec!["corp/*".to_owned()], upstreams: Vec::new() }]);
    let gateway = Gateway::start(&setup);
    for kind in ["", "datasets/", "spaces/"] {
        assert_eq!(gateway.ask("GET", &format!("{HUB}/{kind}corp/m/resolve/main/f"), "").0, 502, "{kind}");
    }
    for kind in ["models", "datasets", "spaces"] {
        assert_eq!(gateway.ask("GET", &format!("{HUB}/api/{kind}/corp/m"), "").0, 502, "{kind}");
    }
    assert!(public.hits().is_empty(), "{:?}", public.hits());
}
