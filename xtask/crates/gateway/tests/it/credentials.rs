//! Where credentials go: each to its own origin, whatever an answer leads to and however it writes that.
//!
//! Owns: the table of places that an answer may lead to, in redirects, project pages and packuments, and the places that
//! each protocol leads to by itself. Every name is reached through a proxy that records, so that any name can be played.

use crate::gateway::{Folder, Gateway, base64, setup, upstream};
use crate::server::{Hit, Reply, Server, noise, sha256};
use protocol::{Artifact, Ecosystem, Job, Proxy, Setup, Upstream};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const GATEWAY: &str = "http://xtask-gateway.invalid";
/// What a child brings of its own.
const CHILD: &str = "Authorization: Bearer hunter-child\r\nCookie: hunter-child\r\nX-Api-Key: hunter-child\r\n";

/// The credentials of a name; what is sent anywhere else is stray.
fn secret(name: &str) -> String {
    format!("Bearer hunter-{name}")
}

fn home(name: &str, path: &str) -> Upstream {
    Upstream { authorization: Some(secret(name)), ..upstream(&format!("http://{name}{path}")) }
}

/// A network in which every name is `answer(name, path)`, and no TLS is to be had.
struct World {
    /// What was asked over http, of any name.
    names: Server,
    /// What tunnels were asked for.
    tunnels: Server,
    /// A server of loopback, which no proxy is asked for.
    direct: Server,
}

impl World {
    fn new(direct: Server, answer: impl Fn(&str, &str) -> Reply + Send + Sync + 'static) -> Self {
        let names = Server::start(move |hit| {
            let name = &hit.headers["host"];
            let path = hit.target.strip_prefix(&format!("http://{name}")).unwrap();
            answer(name, path).with("Set-Cookie", "session=hunter-cookie; Domain=example; Path=/")
        });
        Self { names, tunnels: Server::start(|_| Reply::status(403)), direct }
    }

    fn setup(&self, folder: &Folder) -> Setup {
        let with_password = |server: &Server| Some(server.url.replace("//", "//me:hunter-proxy@"));
        let proxy = Proxy { http: with_password(&self.names), https: with_password(&self.tunnels), no_proxy: None };
        Setup { proxy, upstreams: BTreeMap::new(), ..setup(folder, Ecosystem::Hub, &[]) }
    }

    fn hits(&self) -> Vec<Hit> {
        [&self.names, &self.tunnels, &self.direct].into_iter().flat_map(Server::hits).collect()
    }

    /// Every name that was asked, with the `Authorization` values that it got. Fails for any other secret that went out, and
    /// for any that was told.
    fn authorizations(&self, gateway: &mut Gateway) -> BTreeMap<String, BTreeSet<String>> {
        let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let known = ["test", "xtask"].map(|user| base64(&format!("{user}:{}", gateway.password)));
        let proxied = Some(format!("Basic {}", base64("me:hunter-proxy")));
        for (server, proxy_secret) in [(&self.names, &proxied), (&self.tunnels, &proxied), (&self.direct, &None)] {
            for hit in server.hits() {
                assert_eq!(hit.headers.get("proxy-authorization"), proxy_secret.as_ref(), "{hit:?}");
                let text = format!("{hit:?}");
                let foreign = ["hunter-child", "hunter-cookie", "hunter-user", &gateway.password, &known[0], &known[1]];
                assert!(!foreign.iter().any(|secret| text.contains(*secret)), "{text}");
                let got = hit.headers.get("authorization");
                seen.entry(hit.headers["host"].clone()).or_default().insert(got.cloned().unwrap_or_default());
            }
        }
        gateway.close();
        assert!(!gateway.output.contains("hunter"), "{}", gateway.output);
        seen
    }
}

/// Where the bytes of a shape have to come from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Home,
    Away(&'static str),
    Direct,
    Refused,
}
use End::{Away, Direct, Home, Refused};

/// A redirect's status and its `Location`; `HOME` and `LANDING` are replaced for each carrier.
const SHAPES: &[(u16, &str, End)] = &[
    // One origin, written in many ways.
    (302, "/LANDING", Home),
    (307, "LANDING", Home),
    (301, "../../../../../../../../LANDING", Home),
    (308, "/a/./b/../../../LANDING#//cdn.example/", Home),
    (303, "?LANDING", Home),
    (302, "//HOME/LANDING", Home),
    (302, "http://HOME:80/LANDING", Home),
    (302, "HTTP://HOME./LANDING", Home),
    (302, "http://UPPER/LANDING", Home),
    (302, "http://HOME/@cdn.example/LANDING", Home),
    (302, "http://HOME?@cdn.example/LANDING", Home),
    (307, "\\\\cdn.example\\LANDING", Home),
    (307, "/\\cdn.example/LANDING", Home),
    (302, "http://cdn.example/back/HOME/LANDING", Home),
    // Another one.
    (301, "http://cdn.example/LANDING", Away("cdn.example")),
    (302, "http://cdn.example/LANDING", Away("cdn.example")),
    (303, "http://cdn.example/LANDING", Away("cdn.example")),
    (307, "http://cdn.example/LANDING", Away("cdn.example")),
    (308, "http://cdn.example/LANDING", Away("cdn.example")),
    (302, "//cdn.example/LANDING", Away("cdn.example")),
    (302, "http://CDN.Example.:80/a/../LANDING", Away("cdn.example")),
    (302, "http://HOME:8080/LANDING", Away("HOME:8080")),
    (302, "//HOME:8080/LANDING", Away("HOME:8080")),
    (302, "http://HOME:080/LANDING", Home),
    (302, "http://HOME.cdn.example/LANDING", Away("HOME.cdn.example")),
    (302, "http://a.HOME/LANDING", Away("a.HOME")),
    (302, "http://aHOME/LANDING", Away("aHOME")),
    (302, "http://example/LANDING", Away("example")),
    (302, "http://xn--hb-xka.example/LANDING", Away("xn--hb-xka.example")),
    (302, "http://cdn.example/http://HOME/LANDING", Away("cdn.example")),
    (302, "http://cdn.example/a/b/../LANDING?next=http://HOME/", Away("cdn.example")),
    (302, "http://DIRECT/LANDING", Direct),
    // Nobody's, or a secret of its own.
    (302, "http://HOME@cdn.example/LANDING", Refused),
    (302, "http://user:hunter-user@HOME/LANDING", Refused),
    (302, "//user:hunter-user@cdn.example/LANDING", Refused),
    (302, "http://cdn.example\\@HOME/LANDING", Refused),
    (302, "http://HOME\\.cdn.example/LANDING", Refused),
    (302, "http://h\u{fc}b.example/LANDING", Refused),
    (302, "http://HOME%2ecdn.example/LANDING", Refused),
    (302, "http://HOME%00.cdn.example/LANDING", Refused),
    (302, "http://HOME\t.cdn.example/LANDING", Refused),
    (302, "http://cdn.example/a\tb/LANDING", Refused),
    (302, "http://cdn.example\r\n /LANDING", Refused),
    (302, "///cdn.example/LANDING", Refused),
    (302, "http:cdn.example/LANDING", Refused),
    (302, "http:/cdn.example/LANDING", Refused),
    (302, "http://HOME:99999/LANDING", Refused),
    (302, "ftp://HOME/LANDING", Refused),
    (302, "file:///etc/hostname", Refused),
    (302, "data:,LANDING", Refused),
    // Of one host, by another scheme: there is no tunnel, and who opens it is told no more than the host.
    (302, "https://HOME/LANDING", Refused),
    (302, "https://HOME:80/LANDING", Refused),
];

/// What leads to a place: the home of its credentials, and how the bytes behind shape `number` are asked for.
type Carrier = (&'static str, fn(&mut Gateway, usize) -> Option<Vec<u8>>);

const CARRIERS: [Carrier; 3] = [("hub.example", redirected), ("python.example", listed), ("npm.example", packed)];

fn body(number: usize) -> Vec<u8> {
    format!("what is behind shape {number}").into()
}

fn redirected(gateway: &mut Gateway, number: usize) -> Option<Vec<u8>> {
    let body = body(number);
    let (repo, revision, path) = ("o/m".to_owned(), "r".to_owned(), format!("shape-{number:03}"));
    let (sha256, size_bytes) = (sha256(&body), body.len() as u64);
    gateway.fetch(Artifact::HubFile { repo, revision, path, sha256, size_bytes }).ok()
}

fn wheel(number: usize) -> String {
    format!("shape_{number:03}-1.0-py3-none-any.whl")
}

fn listed(gateway: &mut Gateway, number: usize) -> Option<Vec<u8>> {
    let body = body(number);
    let (project, filename) = (format!("shape-{number:03}"), wheel(number));
    let (sha256, size_bytes) = (sha256(&body), body.len() as u64);
    gateway.fetch(Artifact::Wheel { project, filename, sha256, size_bytes }).ok()
}

fn packed(gateway: &mut Gateway, number: usize) -> Option<Vec<u8>> {
    let name = format!("shape-{number:03}");
    let (status, _, body) = gateway.ask("GET", &format!("{GATEWAY}/npm/{name}/-/{name}-1.0.0.tgz"), CHILD);
    (status == 200).then_some(body)
}

/// The number behind a mark in a path.
fn number(path: &str, mark: &str) -> Option<usize> {
    path.split_once(mark)?.1.get(..3)?.parse().ok()
}

/// Status and place of a shape. `direct`: a server that is reached without the proxy.
fn place(number: usize, direct: &str) -> (u16, String) {
    let ((home, _), (status, shape, _)) = (CARRIERS[number / 100], SHAPES[number % 100]);
    let landing = format!("landing-{number:03}");
    let words = [("UPPER", &*home.to_uppercase()), ("HOME", home), ("LANDING", &landing), ("DIRECT", direct)];
    (status, words.iter().fold(shape.to_owned(), |place, (word, text)| place.replace(word, text)))
}

fn shape_of(name: &str, path: &str, direct: &str) -> Reply {
    if let Some((_, way)) = path.split_once("/back/") {
        return Reply::status(302).with("Location", format!("http://{way}"));
    }
    if let Some(number) = number(path, "landing-") {
        return Reply::ok(body(number));
    }
    let Some(number) = number(path, "/shape-").filter(|_| !path.contains("/-/")) else { return Reply::status(404) };
    let (status, place) = place(number, direct);
    match name {
        "hub.example" => Reply::status(status).with("Location", place),
        "python.example" => {
            let file = json!({"filename": wheel(number), "url": place, "hashes": {}});
            let page = json!({"meta": {"api-version": "1.0"}, "name": "x", "files": [file]});
            Reply::ok(page.to_string()).with("Content-Type", "application/vnd.pypi.simple.v1+json")
        }
        _ => {
            let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &body(number));
            let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            let (name, dist) = (format!("shape-{number:03}"), json!({"tarball": place, "shasum": hash}));
            let manifest = json!({"name": name, "version": "1.0.0", "dist": dist});
            Reply::ok(json!({"name": name, "versions": {"1.0.0": manifest}}).to_string())
        }
    }
}

#[test]
fn no_shape_of_a_place_takes_a_credential_to_another_origin() {
    let (folder, direct) = (Folder::new(), Server::start(|hit| shape_of("direct", &hit.target, "")));
    let address = direct.url.strip_prefix("http://").unwrap().to_owned();
    let world = World::new(direct, move |name, path| shape_of(name, path, &address));
    let mut setup = world.setup(&folder);
    for (ecosystem, (name, _)) in [Ecosystem::Hub, Ecosystem::Python, Ecosystem::Npm].into_iter().zip(CARRIERS) {
        let path = if ecosystem == Ecosystem::Python { "/simple/" } else { "" };
        setup.upstreams.insert(ecosystem, vec![home(name, path)]);
    }
    let mut gateway = Gateway::start(&setup);
    for (carrier, (home, ask)) in CARRIERS.into_iter().enumerate() {
        for (index, (status, shape, end)) in SHAPES.iter().enumerate() {
            let number = carrier * 100 + index;
            let got = ask(&mut gateway, number);
            let landing = format!("landing-{number:03}");
            let landed =
                world.hits().into_iter().filter(|hit| hit.target.contains(&landing) && !hit.target.contains("/back/"));
            let landed: Vec<String> = landed.map(|hit| hit.headers["host"].clone()).collect();
            let expected = match end {
                Home => vec![home.to_owned()],
                Away(name) => vec![name.replace("HOME", home)],
                Direct => vec![world.direct.url.strip_prefix("http://").unwrap().to_owned()],
                Refused => Vec::new(),
            };
            assert_eq!(landed, expected, "{home}: {status} {shape}");
            assert_eq!(got, Some(body(number)).filter(|_| *end != Refused), "{home}: {status} {shape}");
        }
    }
    for (name, got) in world.authorizations(&mut gateway) {
        let own = CARRIERS.iter().any(|(home, _)| *home == name);
        assert_eq!(got, BTreeSet::from([if own { secret(&name) } else { String::new() }]), "{name}");
    }
}

#[test]
fn each_root_token_service_and_storage_of_a_protocol_gets_its_own_credentials_or_none() {
    let (folder, body) = (Folder::new(), noise(2000));
    let (sent, hash) = (body.clone(), sha256(&body));
    let world = World::new(Server::start(|_| Reply::status(404)), move |name, path| {
        let moved = |to: &str| Reply::status(307).with("Location", format!("http://{to}{path}"));
        match name {
            "crates.example" if path == "/index/config.json" => {
                Reply::ok(r#"{"dl":"http://crates-files.example/{crate}/{version}"}"#)
            }
            "go.example" => moved("go-storage.example"),
            "oci.example" if path.contains("/blobs/") => moved("oci-token.example"),
            "oci.example" => Reply::status(401)
                .with("WWW-Authenticate", "Bearer realm=\"http://oci-token.example/token\",service=\"oci.example\""),
            "oci-token.example" if path.contains("/blobs/") => moved("oci-storage.example"),
            "oci-token.example" => Reply::ok(r#"{"token":"hunter-token"}"#),
            "oci-storage.example" => Reply::ok(sent.as_slice()),
            _ => Reply::status(404),
        }
    });
    let mut setup = world.setup(&folder);
    let second = |first, second: &str, own: bool| Upstream {
        second: Some(format!("http://{second}")),
        second_authorization: own.then(|| secret(second)),
        ..first
    };
    setup.upstreams.extend([
        (Ecosystem::Crates, vec![home("crates.example", "/index/")]),
        (Ecosystem::Go, vec![home("go.example", "")]),
        (Ecosystem::Rustup, vec![second(home("rustup.example", ""), "rustup-update.example", false)]),
        (Ecosystem::Apt, vec![second(home("apt.example", ""), "apt-security.example", true)]),
    ]);
    let registry = second(home("oci.example", "/v2/{repo}"), "oci-token.example", true);
    setup.registries.insert("docker.io".to_owned(), vec![registry]);
    setup.files.insert("dl.example".to_owned(), vec![home("files.example", "/{path}")]);
    setup.pins.crates.insert("inner 1.0.0".to_owned(), hash.clone());
    setup.pins.channels.insert("channel-rust-1.2.3.toml".to_owned(), hash.clone());
    let mut gateway = Gateway::start(&setup);
    for path in [
        &format!("crates/dl/inner/1.0.0/{hash}"),
        "go/example.com/x/@v/v1.0.0.info",
        "rustup/dist-server/dist/channel-rust-1.2.3.toml",
        "rustup/update-root/release-stable.toml",
        "apt/base/dists/stable/InRelease",
        "apt/security/dists/stable-security/InRelease",
        "v2/docker.io/o/m/manifests/1.0",
    ] {
        assert_ne!(gateway.ask("GET", &format!("{GATEWAY}/{path}"), CHILD).0, 200, "{path}");
    }
    // Now with a token, which is the registry's alone: its storage is at the token service.
    let blob = format!("{GATEWAY}/v2/docker.io/o/m/blobs/sha256:{hash}");
    assert_eq!(gateway.ask("GET", &blob, CHILD).2, body);
    let (url, sha256) = ("http://dl.example/f".to_owned(), sha256(b"other"));
    assert!(gateway.fetch(Artifact::File { url, sha256, size_bytes: 5 }).is_err());

    let own = |name: &str| (name.to_owned(), BTreeSet::from([secret(name)]));
    let none = |name: &str| (name.to_owned(), BTreeSet::from([String::new()]));
    let mut expected = BTreeMap::from([
        own("crates.example"),
        none("crates-files.example"),
        own("go.example"),
        none("go-storage.example"),
        own("rustup.example"),
        none("rustup-update.example"),
        own("apt.example"),
        own("apt-security.example"),
        own("oci.example"),
        own("oci-token.example"),
        none("oci-storage.example"),
        own("files.example"),
        none("dl.example"),
    ]);
    expected.get_mut("oci.example").unwrap().insert("Bearer hunter-token".to_owned());
    assert_eq!(world.authorizations(&mut gateway), expected);
}

#[test]
fn a_page_that_repeats_what_it_was_sent_is_cited_without_it() {
    let spoken = "hunter 2 & you";
    let sent = format!("Basic {}", base64(&format!("reader:{spoken}")));
    let page = {
        let password = base64(spoken);
        move |hit: &Hit| {
            let got = |name: &str| hit.headers.get(name).cloned().unwrap_or_default();
            let (own, proxy) = (got("authorization"), got("proxy-authorization"));
            let told = format!("“{spoken}” hunter%202%20%26%20you hunter 2 &amp; you {password} is wrong");
            let denied = |body: String| Reply::Whole { status: 403, headers: Vec::new(), body: body.into_bytes() };
            match hit.target.split(['/', '?']).nth(1) {
                Some("page") => Reply::ok(format!("<!DOCTYPE html><p>{told}")).with("Content-Type", "text/html"),
                Some("json") => Reply::ok(json!({ "name": told }).to_string()),
                Some("token") => Reply::ok(r#"{"token":"hunter-made"}"#),
                Some("v2") if own.starts_with("Bearer") => denied(
                    json!({"errors": [{"code": "DENIED", "message": format!("reader {told} {own}")}]}).to_string(),
                ),
                Some("v2") => Reply::status(401)
                    .with("WWW-Authenticate", format!("Bearer realm=\"http://{}/token\"", hit.headers["host"])),
                _ => denied(format!("{own} {proxy} reader")),
            }
        }
    };
    let (folder, server) = (Folder::new(), Server::start(page));
    let known = |url: String, authorization: &str| {
        vec![Upstream { authorization: Some(authorization.to_owned()), ..upstream(&url) }]
    };
    let mut setup = setup(&folder, Ecosystem::Go, &[]);
    // Of a name, so that the proxy is asked.
    setup.proxy.http = Some(server.url.replace("//", "//me:hunter-proxy@"));
    setup.upstreams.extend([
        (Ecosystem::Go, known("http://go.example/text".to_owned(), &sent)),
        (Ecosystem::Python, known(format!("{}/page/simple/", server.url), &sent)),
        (Ecosystem::Npm, known(format!("{}/json", server.url), &sent)),
        (Ecosystem::Hub, known(format!("{}/hub", server.url), "Bearer hunter-token")),
    ]);
    setup.registries.insert("docker.io".to_owned(), known(format!("{}/v2/{{repo}}", server.url), &sent));
    let mut gateway = Gateway::start(&setup);
    let mut told = String::new();
    for path in [
        "go/example.com/x/@v/v1.0.0.mod",
        "python/simple/x/",
        "npm/x",
        "hub/api/models/o/m",
        "v2/docker.io/o/m/manifests/1.0",
    ] {
        let (status, _, body) = gateway.ask("GET", &format!("{GATEWAY}/{path}"), CHILD);
        let body = String::from_utf8(body).unwrap();
        assert!(status == 502 && body.contains("***"), "{path}: {status} {body}");
        told.push_str(&body);
    }
    let reports = gateway.perform(Job::Probe { ecosystems: Vec::new(), budget_milliseconds: 5000 });
    gateway.close();
    told.push_str(&format!("{}{reports:?}", gateway.output));
    let basic = |pair: &str| base64(pair).trim_end_matches('=').to_owned();
    let spellings = ["hunter", "reader", &basic(spoken), &basic("me:hunter-proxy"), sent.trim_start_matches("Basic ")];
    for secret in spellings {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
}
