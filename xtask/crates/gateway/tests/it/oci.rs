//! Registries, pull only: a table of faults, tokens, and skopeo itself.

use crate::gateway::{Folder, Gateway, base64, setup, shell, upstream};
use crate::server::{Handler, Hit, Reply, Server, file, refusing, sha256};
use protocol::{Ecosystem, FailureKind, Setup, Verdict};
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const V2: &str = "http://xtask-gateway.invalid/v2";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// `library/tiny:1.0`, an index of two platforms with a layer each.
#[derive(Clone, Default)]
struct Image {
    /// By digest and, for the index, by tag: content type and bytes.
    manifests: BTreeMap<String, (&'static str, Vec<u8>)>,
    blobs: BTreeMap<String, Vec<u8>>,
    index: String,
    /// Of the last platform.
    manifest: String,
    layer: String,
}

impl Image {
    fn new(folder: &Folder) -> Self {
        let mut image = Self::default();
        let mut entries = Vec::new();
        for platform in ["amd64", "arm64"] {
            shell(
                &folder.0,
                &format!(
                    "mkdir -p {platform}; echo {platform} >{platform}/file; tar cf {platform}.tar {platform}; gzip -nkf {platform}.tar"
                ),
            );
            let plain = sha256(&fs::read(folder.0.join(format!("{platform}.tar"))).unwrap());
            let layer = fs::read(folder.0.join(format!("{platform}.tar.gz"))).unwrap();
            let config = format!(
                r#"{{"architecture":"{platform}","os":"linux","rootfs":{{"type":"layers","diff_ids":["sha256:{plain}"]}}}}"#
            );
            let (config, layer) = (config.into_bytes(), layer);
            let manifest = format!(
                r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:{}","size":{}}}]}}"#,
                sha256(&config),
                config.len(),
                sha256(&layer),
                layer.len()
            );
            let digest = sha256(manifest.as_bytes());
            entries.push(format!(
                r#"{{"mediaType":"{MANIFEST}","digest":"sha256:{digest}","size":{},"platform":{{"architecture":"{platform}","os":"linux"}}}}"#,
                manifest.len()
            ));
            image.layer = sha256(&layer);
            image.manifest.clone_from(&digest);
            image.blobs.extend([config, layer].map(|bytes| (sha256(&bytes), bytes)));
            image.manifests.insert(format!("sha256:{digest}"), (MANIFEST, manifest.into_bytes()));
        }
        let index = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#, entries.join(","));
        image.index = sha256(index.as_bytes());
        for name in ["1.0".to_owned(), format!("sha256:{}", image.index)] {
            image.manifests.insert(name, (INDEX, index.clone().into_bytes()));
        }
        image
    }

    /// A registry with the image below `/v2{prefix}/library/tiny`, whose blobs are at `storage` if there is one.
    fn serve(&self, storage: Option<&str>) -> impl Fn(&Hit) -> Reply + Send + Sync + use<> {
        let (image, storage) = (self.clone(), storage.map(str::to_owned));
        move |hit| {
            let Some(asked) = hit.target.strip_prefix("/v2/docker.io/library/tiny/") else { return Reply::status(404) };
            let blob = asked.strip_prefix("blobs/sha256:").and_then(|digest| Some((digest, image.blobs.get(digest)?)));
            let manifest = asked.strip_prefix("manifests/").and_then(|reference| image.manifests.get(reference));
            match (manifest, blob, &storage) {
                (Some((content_type, bytes)), ..) => Reply::ok(bytes.as_slice())
                    .with("Content-Type", *content_type)
                    .with("Docker-Content-Digest", format!("sha256:{}", sha256(bytes))),
                (None, Some((digest, _)), Some(storage)) => {
                    Reply::status(307).with("Location", format!("{storage}/{digest}?X-Signature=hunter3"))
                }
                (None, Some((_, bytes)), None) => file(hit, bytes, "\"1\""),
                _ => Reply::status(404),
            }
        }
    }

    fn storage(&self) -> Server {
        let blobs = self.blobs.clone();
        Server::start(move |hit| file(hit, &blobs[&hit.target[1..65]], "\"1\""))
    }
}

fn registries(folder: &Folder, urls: &[&str]) -> Setup {
    let mut setup = setup(folder, Ecosystem::Oci, &[]);
    let templates = urls.iter().map(|url| upstream(&format!("{url}/v2/docker.io/{{repo}}"))).collect();
    setup.registries = BTreeMap::from([("docker.io".to_owned(), templates)]);
    setup
}

/// Copies all platforms of the image, by tag, into an OCI layout that is not there yet.
fn skopeo(folder: &Folder, gateway: &Gateway, layout: &str) -> Output {
    Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--multi-arch", "all", "--src-tls-verify=false", "--src-creds"])
        .arg(format!("test.step:{}", gateway.password))
        .arg(format!("docker://{}/docker.io/library/tiny:1.0", gateway.address))
        .arg(format!("oci:{}:1.0", folder.0.join(layout).display()))
        .env("HOME", &folder.0)
        .env("TMPDIR", &folder.0)
        .output()
        .unwrap()
}

#[test]
fn skopeo_pulls_every_platform_and_again_when_everything_is_dead() {
    let folder = Folder::new();
    let image = Image::new(&folder);
    let storage = image.storage();
    let registry = Server::start(image.serve(Some(&storage.url)));
    for (layout, setup) in
        [("warm", registries(&folder, &[&refusing(), &registry.url])), ("dead", registries(&folder, &[&refusing()]))]
    {
        let mut gateway = Gateway::start(&setup);
        let output = skopeo(&folder, &gateway, layout);
        assert!(output.status.success(), "{layout}: {}", String::from_utf8_lossy(&output.stderr));
        let digests = image
            .blobs
            .keys()
            .cloned()
            .chain(image.manifests.keys().filter_map(|name| Some(name.strip_prefix("sha256:")?.to_owned())));
        let mut digests: Vec<String> = digests.collect();
        digests.sort();
        assert_eq!(folder.files(&format!("{layout}/blobs/sha256")), digests, "{layout}");
        gateway.close();
        assert!(gateway.egress().iter().all(|egress| egress.step == "test:step"));
        assert!(!gateway.output.contains("hunter"), "{}", gateway.output);
    }
    // Two platforms' manifests and the index by its tag; each blob once.
    let asked = |part: &str| registry.hits().iter().filter(|hit| hit.target.contains(part)).count();
    assert_eq!((asked("/manifests/"), asked("/blobs/"), storage.hits().len()), (3, 4, 4));
}

#[test]
fn each_fault_of_a_registry_falls_over_to_the_next() {
    let folder = Folder::new();
    let image = Image::new(&folder);
    let storage = image.storage();
    let altered = |part: &'static str| -> Handler {
        let good = image.serve(None);
        Box::new(move |hit| match good(hit) {
            Reply::Whole { mut body, status: 200, headers } if hit.target.contains(part) => {
                let middle = body.len() / 2;
                body[middle] ^= 1;
                Reply::Whole { status: 200, headers, body }
            }
            other => other,
        })
    };
    let on_blobs = |fault: fn(Vec<u8>) -> Reply| -> Handler {
        let good = image.serve(None);
        Box::new(move |hit| match good(hit) {
            Reply::Whole { body, status: 200, .. } if hit.target.contains("/blobs/") => fault(body),
            other => other,
        })
    };
    let denied = r#"{"errors":[{"code":"DENIED","message":"This image docker.io/library/tiny is not in the allowlist, please see the list of images that are mirrored"}]}"#;
    let refused = move |status: u16| Reply::Whole { status, headers: Vec::new(), body: denied.into() };
    let cases: Vec<(&str, Handler, &str)> = vec![
        ("altered manifest", altered("/manifests/"), "mirror.hash"),
        ("altered blob", altered("/blobs/"), "mirror.hash"),
        (
            "cut blob",
            on_blobs(|body| Reply::Cut { after: body.len() / 2, status: 200, headers: Vec::new(), body }),
            "mirror.truncated",
        ),
        ("page for a blob", on_blobs(|_| Reply::html()), "mirror.html"),
        ("storage refuses", Box::new(image.serve(Some(&refusing()))), "mirror.dead"),
        ("portal", Box::new(|_| Reply::html()), "mirror.html"),
        ("no manifest", Box::new(|_| Reply::ok("{\"error\":\"busy\"}")), "mirror.malformed"),
        ("not allowed", Box::new(move |_| refused(403)), "mirror.status"),
        ("limited", Box::new(move |_| refused(429)), "mirror.limited"),
        ("no credentials", Box::new(move |_| refused(401)), "mirror.status"),
        ("absent", Box::new(move |_| refused(404)), "mirror.absent"),
        ("silent", Box::new(|_| Reply::Silent), "mirror.stalled"),
    ];
    for (case, bad, finding) in cases {
        let (folder, bad, fine) = (Folder::new(), Server::start(bad), Server::start(image.serve(Some(&storage.url))));
        let mut gateway = Gateway::start(&registries(&folder, &[&bad.url, &fine.url]));
        let (status, head, body) = gateway.ask("GET", &format!("{V2}/docker.io/tiny/manifests/1.0"), "");
        assert_eq!((status, sha256(&body)), (200, image.index.clone()), "{case}");
        for line in [format!("content-type: {INDEX}"), format!("docker-content-digest: sha256:{}", image.index)] {
            assert!(head.contains(&line), "{case}: {head}");
        }
        let (status, _, body) = gateway.ask("GET", &format!("{V2}/docker.io/tiny/blobs/sha256:{}", image.layer), "");
        assert_eq!((status, sha256(&body)), (200, image.layer.clone()), "{case}");
        gateway.close();
        assert!(gateway.findings().contains(&finding), "{case}: {:?}", gateway.findings());
        assert_eq!(
            gateway.output.contains("not in the allowlist"),
            matches!(case, "not allowed" | "limited" | "no credentials" | "absent"),
            "{case}"
        );
    }
}

#[test]
fn bytes_without_their_digest_never_arrive() {
    let folder = Folder::new();
    let mut image = Image::new(&folder);
    let wanted = image.layer.clone();
    image.blobs.get_mut(&wanted).unwrap()[9] ^= 1;
    let digest = format!("sha256:{}", image.index);
    image.manifests.get_mut(&digest).unwrap().1[9] ^= 1;
    let registry = Server::start(image.serve(None));
    let mut gateway = Gateway::start(&registries(&folder, &[&registry.url]));
    for (kind, expected) in [("blobs", &wanted), ("manifests", &image.index)] {
        let (status, _, told) = gateway.ask("GET", &format!("{V2}/docker.io/tiny/{kind}/sha256:{expected}"), "");
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(status == 502 && told.contains(&format!("expected {expected}, got ")), "{status}: {told}");
    }
    gateway.close();
    assert!(gateway.refusals().iter().all(|failure| failure.kind == FailureKind::Integrity));
}

/// A registry that wants a token of `realm`, and takes `Bearer token-N` for the latest N given out.
fn guarded(image: &Image, realm: String, expired: &'static str) -> impl Fn(&Hit) -> Reply + Send + Sync + use<> {
    let good = image.serve(None);
    move |hit| match hit.headers.get("authorization") {
        Some(token) if token.starts_with("Bearer hunter-token") && token != expired => good(hit),
        _ => Reply::status(401).with(
            "WWW-Authenticate",
            format!("Bearer realm=\"{realm}/token\",service=\"reg\",scope=\"repository:library/tiny:pull\""),
        ),
    }
}

#[test]
fn a_token_is_fetched_where_the_registry_says_and_credentials_stay_at_home() {
    let folder = Folder::new();
    let image = Image::new(&folder);
    let grants = || {
        let given = std::sync::atomic::AtomicUsize::new(0);
        Server::start(move |_| {
            let number = given.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Reply::ok(format!("{{\"token\":\"hunter-token-{number}\"}}"))
        })
    };
    let basic = format!("Basic {}", base64("me:hunter2"));
    // Whether the realm is the upstream's second origin, and whether the upstream has credentials.
    for (named, authorized) in [(false, false), (false, true), (true, true)] {
        let (folder, realm) = (Folder::new(), grants());
        let registry = Server::start(guarded(&image, realm.url.clone(), "Bearer hunter-token-0"));
        let mut setup = registries(&folder, &[&registry.url]);
        let upstream = &mut setup.registries.get_mut("docker.io").unwrap()[0];
        upstream.authorization = authorized.then(|| basic.clone());
        // Each root has credentials of its own, which may be the same.
        upstream.second = named.then(|| realm.url.clone());
        upstream.second_authorization = upstream.second.is_some().then(|| basic.clone());
        let mut gateway = Gateway::start(&setup);
        // The first token is taken for expired: the second request of the two asks for another.
        let manifest = format!("{V2}/docker.io/tiny/manifests/1.0");
        assert_eq!(gateway.ask("GET", &manifest, "Authorization: Bearer hunter-child\r\n").0, 502);
        let (status, _, body) = gateway.ask("GET", &manifest, "");
        assert_eq!((status, sha256(&body)), (200, image.index.clone()));
        let layer = format!("{V2}/docker.io/tiny/blobs/sha256:{}", image.layer);
        assert_eq!(sha256(&gateway.ask("GET", &layer, "").2), image.layer);
        assert_eq!(realm.hits().len(), 2);
        for hit in realm.hits() {
            assert_eq!(hit.target, "/token?service=reg&scope=repository%3Alibrary/tiny%3Apull");
            assert_eq!(hit.headers.get("authorization"), Some(&basic).filter(|_| named && authorized));
        }
        gateway.close();
        assert!(!gateway.output.contains("hunter"), "{}", gateway.output);
        assert!(!registry.hits().iter().any(|hit| hit.headers.values().any(|value| value.contains("hunter-child"))));
        assert_eq!(gateway.egress().len(), registry.hits().len() + realm.hits().len());
    }
}

#[test]
fn a_registry_that_sleeps_before_a_blob_is_waited_for() {
    let folder = Folder::new();
    let image = Image::new(&folder);
    let good = image.serve(None);
    let asleep = Server::start(move |hit| {
        if hit.target.contains("/blobs/") {
            std::thread::sleep(Duration::from_secs(4));
        }
        good(hit)
    });
    let fine = Server::start(image.serve(None));
    let mut gateway = Gateway::start(&registries(&folder, &[&asleep.url, &fine.url]));
    let started = Instant::now();
    let manifest = format!("{V2}/docker.io/tiny/manifests/sha256:{}", image.manifest);
    assert_eq!(gateway.ask("GET", &manifest, "").0, 200);
    let (_, _, body) = gateway.ask("GET", &format!("{V2}/docker.io/tiny/blobs/sha256:{}", image.layer), "");
    assert_eq!(sha256(&body), image.layer);
    // Twice the first-byte limit of this run.
    assert!(started.elapsed() >= Duration::from_secs(4));
    gateway.close();
    assert_eq!((fine.hits().len(), gateway.verdicts()), (0, vec![Verdict::Ok, Verdict::Ok]));

    // A registry that never was heard of gets no such patience.
    let folder = Folder::new();
    let (silent, fine) = (Server::start(|_| Reply::Silent), Server::start(image.serve(None)));
    let gateway = Gateway::start(&registries(&folder, &[&silent.url, &fine.url]));
    let started = Instant::now();
    let (_, _, body) = gateway.ask("GET", &format!("{V2}/docker.io/tiny/blobs/sha256:{}", image.layer), "");
    assert_eq!(sha256(&body), image.layer);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
}

#[test]
fn heads_namespaces_and_what_is_no_pull() {
    let folder = Folder::new();
    let image = Image::new(&folder);
    let registry = Server::start(image.serve(None));
    let gateway = Gateway::start(&registries(&folder, &[&registry.url]));
    // The way a registry client speaks: to us as the server.
    let known = base64(&format!("test:{}", gateway.password));
    assert_eq!(gateway.raw("GET", "/v2/", "").0, 401);
    assert_eq!(gateway.raw("GET", "/v2/", &format!("Authorization: Basic {known}\r\n")).0, 200);

    let (status, head, body) = gateway.ask("HEAD", &format!("{V2}/library/tiny/manifests/1.0?ns=docker.io"), "");
    let length = format!("content-length: {}", image.manifests["1.0"].1.len());
    assert!(status == 200 && head.contains(&length) && body.is_empty(), "{head}");
    let (status, head, body) = gateway.ask("HEAD", &format!("{V2}/docker.io/tiny/blobs/sha256:{}", image.layer), "");
    let length = format!("content-length: {}", image.blobs[&image.layer].len());
    assert!(status == 200 && head.contains(&length) && body.is_empty(), "{head}");
    let asked = registry.hits();
    assert_eq!(asked.iter().map(|hit| hit.method.as_str()).collect::<Vec<_>>(), ["GET", "HEAD"]);
    // What the tag led to is known by its digest.
    assert_eq!(gateway.ask("GET", &format!("{V2}/docker.io/tiny/manifests/sha256:{}", image.index), "").0, 200);
    assert_eq!(registry.hits().len(), 2);
    for outside in [
        "quay.io/x/manifests/1",
        "docker.io/tiny/tags/list",
        "docker.io/tiny/blobs/1.0",
        "docker.io/tiny/manifests/..",
        "docker.io/tiny/manifests/a%20b",
    ] {
        assert_eq!(gateway.ask("GET", &format!("{V2}/{outside}"), "").0, 404, "{outside}");
    }
    assert_eq!(registry.hits().len(), 2);
}
