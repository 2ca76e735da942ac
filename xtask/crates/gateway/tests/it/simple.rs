//! The Python simple index, with the real pip and uv as children.

use crate::gateway::{Folder, Gateway, brought, installed, setup, upstream};
use crate::server::{Handler, Hit, Reply, Server, file, refusing, sha256};
use crate::zips::{Member, member, zip};
use protocol::{Ecosystem, Egress, Event, Private, Setup};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Output};

const JSON: &str = "application/vnd.pypi.simple.v1+json";
const INDEX: &str = "http://xtask-gateway.invalid/python";

/// An index with `outer 1.0`, which needs `in-ner 2.0`, as wheels.
#[derive(Clone)]
struct Index {
    /// File name → bytes, `.metadata` included.
    files: BTreeMap<String, Vec<u8>>,
    json: bool,
    /// Whether the page says the hash of each `.metadata`.
    metadata: bool,
}

impl Index {
    fn new() -> Self {
        let mut files = BTreeMap::new();
        for (name, version, requires) in [("outer", "1.0", "Requires-Dist: in-ner>=2\n"), ("in_ner", "2.0", "")] {
            let metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}");
            let info = format!("{name}-{version}.dist-info");
            let wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
            let record = format!("{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n");
            let filename = format!("{name}-{version}-py3-none-any.whl");
            let entries: [Member; 4] = [
                member(format!("{name}.py"), "answer = 42\n"),
                member(format!("{info}/METADATA"), metadata.as_str()),
                member(format!("{info}/WHEEL"), wheel),
                member(format!("{info}/RECORD"), record),
            ];
            files.insert(format!("{filename}.metadata"), metadata.into_bytes());
            files.insert(filename, zip(&entries));
        }
        Self { files, json: true, metadata: true }
    }

    fn pins(&self) -> BTreeMap<String, BTreeSet<String>> {
        let wheels = self.files.iter().filter(|(name, _)| name.ends_with(".whl"));
        wheels.map(|(name, bytes)| (name.clone(), BTreeSet::from([sha256(bytes)]))).collect()
    }

    fn page(&self, wheel: &str) -> Reply {
        let (hash, meta) = (sha256(&self.files[wheel]), sha256(&self.files[&format!("{wheel}.metadata")]));
        if self.json {
            let core = if self.metadata { format!(r#","core-metadata":{{"sha256":"{meta}"}}"#) } else { String::new() };
            let size = self.files[wheel].len();
            let page = format!(
                r#"{{"meta":{{"api-version":"1.1"}},"name":"x","files":[{{"filename":"{wheel}","url":"../../files/{wheel}","hashes":{{"sha256":"{hash}"}},"requires-python":">=3.8","size":{size},"yanked":false{core}}}]}}"#
            );
            Reply::ok(page).with("Content-Type", JSON)
        } else {
            let core = if self.metadata { format!("data-dist-info-metadata=\"sha256={meta}\"") } else { String::new() };
            let page = format!(
                "<!DOCTYPE html><html><body><a href=\"../../files/{wheel}#sha256={hash}\" data-requires-python=\"&gt;=3.8\" {core}>{wheel}</a></body></html>"
            );
            Reply::ok(page).with("Content-Type", "text/html")
        }
    }

    fn serve(&self) -> impl Fn(&Hit) -> Reply + Send + Sync + use<> {
        let index = self.clone();
        move |hit| match hit.target.as_str() {
            "/simple/outer/" => index.page("outer-1.0-py3-none-any.whl"),
            "/simple/in-ner/" => index.page("in_ner-2.0-py3-none-any.whl"),
            path => match path.strip_prefix("/files/").and_then(|name| index.files.get(name)) {
                Some(bytes) => file(hit, bytes, "\"1\""),
                None => Reply::status(404),
            },
        }
    }

    fn spoilt(&self, part: &'static str, spoil: impl Fn(Vec<u8>) -> Reply + Send + Sync + 'static) -> Handler {
        let good = self.serve();
        Box::new(move |hit| match good(hit) {
            Reply::Whole { body, status: 200, .. } if hit.target.contains(part) => spoil(body),
            reply => reply,
        })
    }
}

fn index_setup(folder: &Folder, servers: &[&str], pins: BTreeMap<String, BTreeSet<String>>) -> Setup {
    let urls: Vec<String> = servers.iter().map(|url| format!("{url}/simple/")).collect();
    let mut setup = setup(folder, Ecosystem::Python, &urls.iter().map(String::as_str).collect::<Vec<_>>());
    setup.pins.wheels = pins;
    setup
}

/// uv is brought, pip is what brings it.
fn there(child: &str) -> bool {
    child == "uv" || installed(child)
}

fn path_with_uv() -> OsString {
    let path = std::env::var_os("PATH").unwrap();
    std::env::join_paths([brought("uv").join("bin")].into_iter().chain(std::env::split_paths(&path))).unwrap()
}

/// pip or uv with nothing of the machine's, as the build starts it.
fn child(folder: &Folder, gateway: &Gateway, name: &str, arguments: &[&str]) -> Output {
    let proxy = format!("http://wheels.tools:{}@{}", gateway.password, gateway.address);
    Command::new(arguments[0])
        .args(&arguments[1..])
        .current_dir(&folder.0)
        .env_clear()
        .env("PATH", path_with_uv())
        .env("HOME", folder.0.join(name))
        .env("PIP_CONFIG_FILE", "/dev/null")
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_RETRIES", "0")
        .env("PIP_INDEX_URL", "http://localhost/python/simple/")
        .env("PIP_PROXY", &proxy)
        .env("UV_NO_CONFIG", "1")
        .env("UV_PYTHON_DOWNLOADS", "never")
        .env("UV_HTTP_RETRIES", "0")
        .env("UV_DEFAULT_INDEX", format!("{INDEX}/simple/"))
        .env("HTTP_PROXY", &proxy)
        .env("ALL_PROXY", &proxy)
        .output()
        .unwrap()
}

const WHEELS: [&str; 2] = ["in_ner-2.0-py3-none-any.whl", "outer-1.0-py3-none-any.whl"];

/// The children take `outer` and what it needs, with empty caches. # Returns what was said by who failed.
fn take(folder: &Folder, gateway: &Gateway, name: &str, children: &[&str]) -> Result<(), String> {
    let (wheels, target) = (format!("{name}/wheels"), format!("{name}/target"));
    for arguments in [
        ["pip", "download", "--dest", &wheels, "outer==1.0"].as_slice(),
        &["uv", "pip", "install", "--python", "python3", "--target", &target, "outer==1.0"],
    ] {
        if !children.contains(&arguments[0]) || !there(arguments[0]) {
            continue;
        }
        let taken = child(folder, gateway, name, arguments);
        if !taken.status.success() {
            let told = [taken.stdout, taken.stderr].concat();
            return Err(format!("{}: {}", arguments[0], String::from_utf8_lossy(&told)));
        }
    }
    for child in children {
        match *child {
            child if !there(child) => {}
            "pip" => assert_eq!(folder.files(&wheels), WHEELS),
            _ => assert!(["in_ner.py", "outer.py"].iter().all(|file| folder.0.join(&target).join(file).exists())),
        }
    }
    Ok(())
}

#[test]
fn pip_and_uv_install_whatever_fault_the_first_index_has() {
    let index = Index::new();
    let html = Index { json: false, ..index.clone() };
    let bare = Index { metadata: false, ..index.clone() };
    let flip = |mut body: Vec<u8>| {
        let middle = body.len() / 2;
        body[middle] ^= 1;
        Reply::ok(body)
    };
    let cut = |body: Vec<u8>| Reply::Cut { after: 50, body, status: 200, headers: Vec::new() };
    let other = |_| {
        let page = r#"{"meta":{"api-version":"1.0"},"files":[{"filename":"outer-0.9-py3-none-any.whl","url":"x.whl","hashes":{}}]}"#;
        Reply::ok(page).with("Content-Type", JSON)
    };
    let evil = |body: Vec<u8>| {
        let page = String::from_utf8(body).unwrap();
        let start = page.find(r#""hashes":{"sha256":""#).unwrap() + 20;
        Reply::ok([&page[..start], &"0".repeat(64), &page[start + 64..]].concat()).with("Content-Type", JSON)
    };
    let cases: Vec<(&str, Handler, &Index, &str)> = vec![
        ("flipped wheel", index.spoilt(".whl", flip), &index, "mirror.hash"),
        ("cut", index.spoilt("/files/", cut), &index, "mirror.truncated"),
        ("portal", Box::new(|_| Reply::html()), &html, "mirror.html"),
        ("portal instead of files", index.spoilt("/files/", |_| Reply::html()), &bare, "mirror.html"),
        ("stale page", index.spoilt("/simple/outer/", other), &index, "mirror.absent"),
        ("another hash than the lock file's", index.spoilt("/simple/", evil), &bare, "mirror.hash"),
        (
            "no JSON",
            index.spoilt("/simple/", |_| Reply::ok("{}").with("Content-Type", JSON)),
            &html,
            "mirror.malformed",
        ),
        ("failing", Box::new(|_| Reply::status(500)), &index, "mirror.status"),
        ("silent", Box::new(|_| Reply::Silent), &bare, "mirror.stalled"),
    ];
    for (number, (case, bad, good, finding)) in cases.into_iter().enumerate() {
        // pip takes a second to start; every second fault is enough of it.
        let children = if number % 2 == 0 { ["pip", "uv"].as_slice() } else { &["uv"] };
        let folder = Folder::new();
        let (bad, fine) = (Server::start(bad), Server::start(good.serve()));
        let mut gateway = Gateway::start(&index_setup(&folder, &[&bad.url, &fine.url], index.pins()));
        take(&folder, &gateway, "first", children).unwrap_or_else(|told| panic!("{case}: {told}"));
        gateway.close();
        assert!(gateway.findings().contains(&finding), "{case}: {:?}", gateway.findings());
        assert_eq!(gateway.egress().len(), bad.hits().len() + fine.hits().len(), "{case}");
        assert!(gateway.egress().iter().all(|line| line.step == "wheels:tools"), "{case}");

        let mut alone = Gateway::start(&index_setup(&folder, &[&refusing()], index.pins()));
        take(&folder, &alone, "second", children).unwrap_or_else(|told| panic!("{case}, nobody to ask: {told}"));
        alone.close();
        assert_eq!(alone.egress(), Vec::<&Egress>::new(), "{case}");
    }
}

#[test]
fn what_no_lock_pins_is_verified_against_its_page_and_compiled_by_uv() {
    let index = Index::new();
    for index in [index.clone(), Index { metadata: false, ..index.clone() }, Index { json: false, ..index }] {
        let folder = Folder::new();
        let server = Server::start(index.serve());
        let gateway = Gateway::start(&index_setup(&folder, &[&server.url], BTreeMap::new()));
        take(&folder, &gateway, "first", &["pip", "uv"]).unwrap();
        let dead = Gateway::start(&index_setup(&folder, &[&refusing()], BTreeMap::new()));
        take(&folder, &dead, "again", &["uv"]).unwrap();
        fs::write(folder.0.join("requirements.in"), "outer\n").unwrap();
        let compile = ["uv", "pip", "compile", "--generate-hashes", "--python", "python3", "requirements.in"];
        let compiled = child(&folder, &gateway, "compile", &compile);
        let told = String::from_utf8_lossy(&compiled.stdout);
        for (filename, hashes) in index.pins() {
            assert!(
                hashes.iter().all(|hash| told.contains(hash)),
                "{filename} in {told}{}",
                String::from_utf8_lossy(&compiled.stderr)
            );
        }
        assert!(!told.contains("xtask-gateway") && !told.contains("127.0.0.1"), "{told}");
    }
}

#[test]
fn metadata_that_is_not_what_the_page_says_is_no_metadata() {
    let index = Index::new();
    let bad = Server::start(index.spoilt(".metadata", |body| Reply::ok(body.to_ascii_uppercase())));
    let (folder, fine) = (Folder::new(), Server::start(index.serve()));
    let mut gateway = Gateway::start(&index_setup(&folder, &[&bad.url, &fine.url], BTreeMap::new()));
    take(&folder, &gateway, "first", &["pip", "uv"]).unwrap();
    gateway.close();
    assert!(gateway.findings().contains(&"mirror.hash"), "{:?}", gateway.findings());
}

#[test]
fn a_pinned_wheel_says_itself_what_it_needs_and_what_no_lock_pins_is_told() {
    let mut index = Index::new();
    let outer = "outer-1.0-py3-none-any.whl";
    let metadata = index.files.get_mut(&format!("{outer}.metadata")).unwrap();
    metadata.extend_from_slice(b"Requires-Dist: evil\n");
    let stored = metadata.clone();
    for json in [true, false] {
        let (folder, hostile) = (Folder::new(), Server::start(Index { json, ..index.clone() }.serve()));
        let mut pins = index.pins();
        pins.remove("in_ner-2.0-py3-none-any.whl");
        let mut gateway = Gateway::start(&index_setup(&folder, &[&hostile.url], pins));
        take(&folder, &gateway, "project", &["pip", "uv"]).unwrap();
        // Whoever remembers that place hears that it is none.
        let path = format!("{INDEX}/files/outer/{}/{}/{outer}.metadata", "0".repeat(64), sha256(&stored));
        assert_eq!(gateway.get(&path, &gateway.password).0, 404);
        gateway.close();
        let asked: Vec<String> = hostile.hits().into_iter().map(|hit| hit.target).collect();
        assert!(
            asked
                .iter()
                .all(|target| !target.contains("evil") && !target.contains("outer-1.0-py3-none-any.whl.metadata")),
            "{asked:?}"
        );
        let unpinned: Vec<&Event> = gateway
            .events
            .iter()
            .filter(|event| matches!(event, Event::Finding { code, .. } if code == "mirror.unpinned"))
            .collect();
        assert!(
            matches!(unpinned.as_slice(), [Event::Finding { subject, .. }] if subject == "file in_ner-2.0-py3-none-any.whl"),
            "{unpinned:?}"
        );
    }
}

#[test]
fn a_wrong_wheel_alone_is_refused_and_pip_says_why() {
    let (folder, index) = (Folder::new(), Index { metadata: false, ..Index::new() });
    let bad = Server::start(index.spoilt("outer-1.0-py3-none-any.whl", |_| Reply::ok("other bytes")));
    let gateway = Gateway::start(&index_setup(&folder, &[&bad.url], index.pins()));
    let told = take(&folder, &gateway, "project", &["pip"]).err().unwrap_or_default();
    assert!(
        !installed("pip")
            || told.contains("cannot deliver file outer-1.0-py3-none-any.whl: what came is not what is pinned"),
        "{told}"
    );
    assert!(folder.files("project/wheels").iter().all(|name| !name.starts_with("outer")));
    let get = |path: &str| gateway.get(&format!("{INDEX}/{path}"), &gateway.password);
    let hash = index.pins()["outer-1.0-py3-none-any.whl"].first().unwrap().clone();
    let (status, told) = get(&format!("files/outer/{hash}/-/outer-1.0-py3-none-any.whl"));
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(status == 502 && told.contains(&format!("expected {hash}, got ")) && told.contains(&bad.url), "{told}");
    // What the lock file pins is not for the child's path to say.
    let (status, told) = get(&format!("files/outer/{}/-/outer-1.0-py3-none-any.whl", "0".repeat(64)));
    assert!(status == 502 && String::from_utf8_lossy(&told).contains(&format!("expected {hash}")), "{status}");
}

#[test]
fn pages_keep_what_their_index_says_and_name_no_mirror() {
    let folder = Folder::new();
    let hash = "ab".repeat(32);
    let (because, uploaded) = ("broken <\"on\"> 3.14", "2026-01-02T03:04:05Z");
    let files = format!(
        r#"[{{"filename":"odd-1.0+x.tar.gz","url":"https://elsewhere.example/odd-1.0%2Bx.tar.gz","hashes":{{"sha256":"{hash}"}},"requires-python":">=3.8,<4","yanked":"broken <\"on\"> 3.14","size":7,"upload-time":"{uploaded}"}},{{"filename":"odd-2.0.tar.gz","url":"a/odd-2.0.tar.gz","hashes":{{"md5":"1"}},"yanked":true}}]"#
    );
    let page = format!(r#"{{"meta":{{"api-version":"1.1"}},"name":"odd","files":{files}}}"#);
    let server = Server::start(move |hit| match hit.target.as_str() {
        "/simple/odd/" => Reply::ok(page.as_str()).with("Content-Type", JSON),
        _ => Reply::status(404),
    });
    let corp = Server::start(|_| Reply::status(404));
    let mut setup = index_setup(&folder, &[&server.url], BTreeMap::new());
    let private = Private { names: vec!["corp-*".to_owned()], upstreams: vec![upstream(&corp.url)] };
    setup.private.insert(Ecosystem::Python, vec![private]);
    let gateway = Gateway::start(&setup);
    let secret =
        format!("Proxy-Authorization: Basic {}\r\n", crate::gateway::base64(&format!("x:{}", gateway.password)));
    let get = |method: &str, path: &str, headers: &str| {
        let (status, body) = gateway.raw(method, &format!("{INDEX}/{path}"), &format!("{secret}{headers}"));
        (status, String::from_utf8(body).unwrap())
    };
    let (status, page) = get("GET", "simple/Odd/", &format!("Accept: {JSON}\r\n"));
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    let url = format!("{INDEX}/files/odd/{hash}/-/odd-1.0+x.tar.gz");
    let expected = serde_json::json!({"meta": {"api-version": "1.0"}, "name": "odd", "files": [
        {"filename": "odd-1.0+x.tar.gz", "url": url, "hashes": {"sha256": hash}, "requires-python": ">=3.8,<4",
         "yanked": because, "size": 7, "upload-time": uploaded},
        {"filename": "odd-2.0.tar.gz", "url": format!("{INDEX}/files/odd/-/-/odd-2.0.tar.gz"), "hashes": {},
         "requires-python": null, "yanked": true},
    ]});
    assert_eq!((status, page), (200, expected));
    let (_, page) = get("GET", "simple/odd/", "Accept: text/html\r\n");
    let anchor = format!(
        "<a href=\"{url}#sha256={hash}\" data-requires-python=\"&gt;=3.8,&lt;4\" data-yanked=\"broken &lt;&quot;on&quot;&gt; 3.14\">odd-1.0+x.tar.gz</a>"
    );
    assert!(page.contains(&anchor) && page.contains("data-yanked=\"\">odd-2.0.tar.gz</a>"), "{page}");

    // The size is known, so nothing is downloaded for a HEAD; bytes without any hash are refused.
    let asked = server.hits().len();
    assert_eq!(get("HEAD", &url[INDEX.len() + 1..], "").0, 200);
    assert!(server.hits()[asked..].iter().all(|hit| hit.target.starts_with("/simple/")));
    let mut stream = TcpStream::connect(&gateway.address).unwrap();
    write!(stream, "HEAD {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{secret}\r\n").unwrap();
    let head = std::io::read_to_string(stream).unwrap().to_ascii_lowercase();
    assert!(head.contains("content-length: 7\r\n") && !head.contains("accept-ranges"), "{head}");
    let (status, told) = get("GET", "files/odd/-/-/odd-2.0.tar.gz", "");
    assert!(status == 502 && told.contains("its sha256"), "{status} {told}");
    let asked = server.hits().len() + corp.hits().len();
    for nonsense in [
        "simple/",
        "simple/../x/",
        "simple/%2e%2e/",
        "simple/a%2fb/",
        "files/odd/x",
        "files/odd/-/-/..%2fx",
        "other/odd/",
    ] {
        assert_eq!(get("GET", nonsense, "").0, 404, "{nonsense}");
    }
    assert_eq!(server.hits().len() + corp.hits().len(), asked);
    assert_eq!(get("GET", "simple/Corp.Thing/", "").0, 404);
    assert!(server.hits().iter().all(|hit| !hit.target.contains("corp")) && corp.hits().len() == 1);
}
