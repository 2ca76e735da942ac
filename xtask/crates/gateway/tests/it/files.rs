//! Plain files: the mirrors of their host, then their own URL.

use crate::gateway::{Folder, Gateway, setup, upstream};
use crate::server::{Reply, Server, file, noise, refusing, sha256};
use protocol::{Artifact, Ecosystem, FailureKind, Setup, Verdict};
use std::collections::BTreeSet;

const FILES: &str = "http://xtask-gateway.invalid/file";

/// `hosts`: prefix → templates.
fn files(folder: &Folder, hosts: &[(&str, &[String])]) -> Setup {
    let mut setup = setup(folder, Ecosystem::File, &[]);
    let of = |templates: &[String]| templates.iter().map(|url| upstream(url)).collect();
    setup.files = hosts.iter().map(|(prefix, templates)| ((*prefix).to_owned(), of(templates))).collect();
    setup
}

#[test]
fn a_file_comes_from_the_mirrors_of_its_longest_prefix_and_then_from_its_own_url() {
    let body = noise(50_000);
    let at = |wanted: &'static str| {
        let body = body.clone();
        Server::start(move |hit| if hit.target == wanted { file(hit, &body, "\"1\"") } else { Reply::status(404) })
    };
    let (mirror, own) = (at("/m/v1/kubectl?x=hunter2"), at("/dist/v1/kubectl?x=hunter2"));
    let host = own.url.strip_prefix("http://").unwrap();
    let template = |url: &str| format!("{url}/m/{{path}}");
    let artifact = Artifact::File {
        url: format!("{}/dist/v1/kubectl?x=hunter2", own.url),
        sha256: sha256(&body),
        size_bytes: body.len() as u64,
    };
    let bad = Server::start(|_| Reply::ok(vec![7; 50_000]));
    let cases: [(&str, Vec<String>, usize, usize); 3] = [
        ("mirror", vec![template(&refusing()), template(&mirror.url)], 1, 0),
        ("own", vec![template(&refusing()), template(&bad.url)], 0, 1),
        ("no mirror", vec![], 0, 1),
    ];
    for (case, templates, mirrored, owned) in cases {
        let folder = Folder::new();
        // The prefix of a part of a name is no prefix.
        let (longest, half, shorter) = (format!("{host}/dist"), format!("{host}/dist/v"), [template(&bad.url)]);
        let prefixes: &[(&str, &[String])] = &[(&longest, &templates), (host, &shorter), (&half, &shorter)];
        let setup = files(&folder, if templates.is_empty() { &[] } else { prefixes });
        let before = (mirror.hits().len(), own.hits().len());
        let mut gateway = Gateway::start(&setup);
        assert_eq!(gateway.fetch(artifact.clone()).unwrap(), body, "{case}");
        let after = (mirror.hits().len() - before.0, own.hits().len() - before.1);
        assert_eq!(after, (mirrored, owned), "{case}");
        gateway.close();
        assert!(!gateway.output.contains("hunter2"), "{case}: {}", gateway.output);
    }

    // With mirrors only, the file's own host is named and not contacted.
    let folder = Folder::new();
    let mut setup = files(&folder, &[(host, &[template(&refusing())])]);
    setup.allowed_hosts = Some(BTreeSet::from(["mirror.example".to_owned()]));
    let before = own.hits().len();
    let mut gateway = Gateway::start(&setup);
    let failure = gateway.fetch(artifact).unwrap_err();
    assert_eq!((failure.kind, own.hits().len()), (FailureKind::Egress, before));
    assert!(failure.attempts.last().unwrap().error.contains("mirrors-only"), "{failure:?}");
    assert!(gateway.verdicts().contains(&Verdict::Forbidden));
}

#[test]
fn children_ask_for_a_file_by_its_hash() {
    let (folder, body) = (Folder::new(), noise(5000));
    let sent = body.clone();
    let mirror = Server::start(move |hit| {
        if hit.target == "/m/release/v1/kubectl" { Reply::ok(sent.as_slice()) } else { Reply::status(404) }
    });
    let mut setup = files(&folder, &[("dl.example", &[format!("{}/m/{{path}}", mirror.url)])]);
    setup.allowed_hosts = Some(BTreeSet::from([mirror.url.replace("http://", "")]));
    let gateway = Gateway::start(&setup);
    let (path, other) = ("dl.example/release/v1/kubectl", "0".repeat(64));
    assert_eq!(gateway.ask("GET", &format!("{FILES}/{}/{path}", sha256(&body)), "").2, body);
    for wrong in [path.to_owned(), format!("{other}/{path}/.."), format!("00/{path}")] {
        assert_eq!(gateway.ask("GET", &format!("{FILES}/{wrong}"), "").0, 404, "{wrong}");
    }
    let (status, _, told) = gateway.ask("GET", &format!("{FILES}/{other}/{path}"), "");
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(status == 502 && told.contains(&format!("expected {other}, got {}", sha256(&body))), "{told}");
}
