//! The way out: TLS, proxies, and what must never happen on it.

use crate::gateway::{Folder, Gateway, base64, setup, upstream};
use crate::server::{Hit, Reply, Server, file, noise, read_head, serve, sha256};
use protocol::{Artifact, Ecosystem, FailureKind, Proxy, Setup, Verdict};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::fs;
use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

fn artifact(body: &[u8]) -> Artifact {
    Artifact::HubFile {
        repo: "o/m".into(),
        revision: "r".into(),
        path: "f".into(),
        sha256: sha256(body),
        size_bytes: body.len() as u64,
    }
}

/// A CA of the test's own, its certificate as a PEM file in the folder.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(folder: &Folder) -> Self {
        Self::named(folder, "Test")
    }

    pub fn named(folder: &Folder, name: &str) -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        fs::write(folder.0.join("ca.pem"), issuer.pem()).unwrap();
        Self(issuer)
    }

    /// A TLS server whose certificate is for `name`; its port.
    pub fn serve(&self, name: &str, handler: impl Fn(&Hit) -> Reply + Send + Sync + 'static) -> u16 {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        let (config, handler) = (Arc::new(config), Arc::new(handler));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, handler) = (config.clone(), handler.clone());
                thread::spawn(move || {
                    let tls = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
                    serve(tls, &Mutex::default(), &Mutex::default(), &*handler);
                });
            }
        });
        port
    }
}

fn trusting(folder: &Folder, urls: &[&str]) -> Setup {
    Setup { ca_bundles: vec![folder.0.join("ca.pem")], ..setup(folder, Ecosystem::Hub, urls) }
}

#[test]
fn a_certificate_that_is_not_trusted_is_never_talked_around() {
    let folder = Folder::new();
    let authority = Authority::new(&folder);
    let body = noise(100_000);
    let good = {
        let body = body.clone();
        move |hit: &Hit| file(hit, &body, "\"1\"")
    };
    let plain = Server::start(good.clone());
    let named = format!("https://localhost:{}", authority.serve("localhost", good.clone()));
    let misnamed = format!("https://localhost:{}", authority.serve("other.example", good));

    // The system's store does not know our CA; a wrong name is wrong under a known one too.
    for unacceptable in
        [setup(&folder, Ecosystem::Hub, &[&named, &plain.url]), trusting(&folder, &[&misnamed, &plain.url])]
    {
        let own = Folder::new();
        let mut gateway = Gateway::start(&Setup { downloads: own.0.clone(), ..unacceptable });
        assert_eq!(gateway.fetch(artifact(&body)).unwrap(), body);
        assert_eq!(gateway.verdicts(), [Verdict::Tls, Verdict::Ok]);
    }
    let mut gateway = Gateway::start(&trusting(&folder, &[&named]));
    assert_eq!(gateway.fetch(artifact(&body)).unwrap(), body);
    assert_eq!(gateway.verdicts(), [Verdict::Ok]);
}

#[test]
fn https_is_never_followed_down_to_http() {
    let folder = Folder::new();
    let authority = Authority::new(&folder);
    let body = noise(1000);
    let plain = Server::start(|_| Reply::status(404));
    let target = plain.url.clone();
    let port = authority.serve("localhost", move |_| Reply::status(302).with("Location", format!("{target}/f")));
    let failure =
        Gateway::start(&trusting(&folder, &[&format!("https://localhost:{port}")])).fetch(artifact(&body)).unwrap_err();
    assert!(failure.attempts[0].error.contains("leads from https to http://"), "{failure:?}");
    assert!(plain.hits().is_empty());

    // Nor is a link: the places that an index names for its files and crates.
    let (target, hash) = (plain.url.clone(), sha256(b"x"));
    let index = authority.serve("localhost", move |hit| match hit.target.as_str() {
        "/config.json" => Reply::ok(format!(r#"{{"dl":"{target}/dl"}}"#)),
        _ => Reply::ok(format!(r#"{{"files":[{{"filename":"x-1.whl","url":"{target}/x-1.whl","hashes":{{}}}}]}}"#))
            .with("Content-Type", "application/vnd.pypi.simple.v1+json"),
    });
    let index = format!("https://localhost:{index}/");
    let mut setup = trusting(&folder, &[]);
    setup.upstreams.extend([Ecosystem::Python, Ecosystem::Crates].map(|it| (it, vec![upstream(&index)])));
    setup.pins.crates.insert("x 1.0.0".into(), hash.clone());
    let gateway = Gateway::start(&setup);
    for file in [format!("python/files/x/{hash}/-/x-1.whl"), format!("crates/dl/x/1.0.0/{hash}")] {
        let (status, _, told) = gateway.ask("GET", &format!("http://xtask-gateway.invalid/{file}"), "");
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(status == 502 && told.contains("leads from https to http://"), "{status} {told}");
    }
    assert!(plain.hits().is_empty());
}

/// A proxy that opens every tunnel to one port and notes what it was asked.
fn tunnels_to(port: u16) -> (String, Arc<Mutex<Vec<Hit>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://user:p%40ss@{}", listener.local_addr().unwrap());
    let hits: Arc<Mutex<Vec<Hit>>> = Arc::default();
    let log = hits.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let log = log.clone();
            thread::spawn(move || {
                log.lock().unwrap().push(read_head(&mut BufReader::new(&stream)).unwrap());
                (&stream).write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                let (mut from, mut to) = (stream.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || std::io::copy(&mut from, &mut to));
                std::io::copy(&mut &server, &mut &stream)
            });
        }
    });
    (url, hits)
}

#[test]
fn proxies_are_used_with_their_credentials_and_told_without_them() {
    let folder = Folder::new();
    let authority = Authority::new(&folder);
    let body = noise(100_000);
    let sent = body.clone();
    let (https_proxy, connects) = tunnels_to(authority.serve("mirror.example", move |hit| file(hit, &sent, "\"1\"")));
    let sent = body.clone();
    let forward = Server::start(move |hit| {
        if hit.target.starts_with("http://plain.example/") { file(hit, &sent, "\"1\"") } else { Reply::status(400) }
    });
    let proxy = Proxy {
        https: Some(https_proxy),
        http: Some(forward.url.replace("//", "//user:p%40ss@")),
        no_proxy: Some("direct.example".into()),
    };
    for url in ["https://mirror.example", "http://plain.example"] {
        let own = Folder::new();
        let mut gateway =
            Gateway::start(&Setup { proxy: proxy.clone(), downloads: own.0.clone(), ..trusting(&folder, &[url]) });
        assert_eq!(gateway.fetch(artifact(&body)).unwrap(), body, "{url}");
    }
    let credentials = format!("Basic {}", base64("user:p@ss"));
    let connect = connects.lock().unwrap()[0].clone();
    assert_eq!((connect.method.as_str(), connect.target.as_str()), ("CONNECT", "mirror.example:443"));
    for hit in [&connect, &forward.hits()[0]] {
        assert_eq!(hit.headers.get("proxy-authorization"), Some(&credentials));
    }
    assert_eq!(forward.hits()[0].headers["host"], "plain.example");

    // A host outside the proxy's reach by NO_PROXY; a proxy that is not there.
    let refusing = Proxy { http: Some(crate::server::refusing().replace("//", "//user:hunter2@")), ..proxy };
    let mut gateway = Gateway::start(&Setup {
        proxy: refusing,
        ..setup(&folder, Ecosystem::Hub, &["http://direct.example", "http://plain.example"])
    });
    let failure = gateway.fetch(artifact(&body)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Network);
    assert_eq!(failure.attempts.iter().map(|attempt| attempt.proxy.is_some()).collect::<Vec<_>>(), [false, true]);
    gateway.close();
    assert!(!gateway.output.contains("hunter2") && !gateway.output.contains("p%40ss"), "{}", gateway.output);
}
