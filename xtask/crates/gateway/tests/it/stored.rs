//! What remains in the store of one upstream's word: nothing that a later run, another profile or a private name believes.

use crate::gateway::{Folder, Gateway, setup, upstream};
use crate::server::{Hit, Reply, Server, refusing, sha256};
use crate::zips::{member, zip};
use protocol::{Ecosystem, Event, Private, Setup};
use std::collections::{BTreeMap, BTreeSet};

const HOME: &str = "http://xtask-gateway.invalid";
const COMMIT: &str = "3333333333333333333333333333333333333333";
const JSON: &str = "application/vnd.pypi.simple.v1+json";

/// A hub that has these bytes as every file, and says that they are so long.
fn hub(body: &'static [u8], size: &'static str) -> Server {
    Server::start(move |_| {
        let etag = format!("\"{}\"", sha256(body));
        let reply = Reply::ok(body).with("ETag", etag.as_str()).with("X-Linked-Etag", etag.as_str());
        reply.with("X-Repo-Commit", COMMIT).with("X-Linked-Size", size)
    })
}

#[test]
fn a_size_that_a_hub_made_up_refuses_no_bytes_and_is_not_kept() {
    let file = format!("{HOME}/hub/o/m/resolve/{COMMIT}/f.bin");
    let (wrong, sound) = (hub(b"model bytes", "5"), hub(b"model bytes", "11"));
    for pinned in [true, false] {
        let folder = Folder::new();
        let with = |urls: &[&str]| {
            let mut setup = setup(&folder, Ecosystem::Hub, urls);
            if pinned {
                setup.pins.hub.insert(format!("o/m@{COMMIT} f.bin"), sha256(b"model bytes"));
            }
            setup
        };
        let length = |gateway: &Gateway| gateway.ask("HEAD", &file, "").1.contains("content-length: 11");
        assert!(!length(&Gateway::start(&with(&[&wrong.url]))), "one mirror's word");
        assert!(length(&Gateway::start(&with(&[&sound.url]))), "pinned: {pinned}");
        // In the run that was told so, and from then on by the file itself.
        let gateway = Gateway::start(&with(&[&wrong.url]));
        assert_eq!(gateway.ask("GET", &file, "").2, b"model bytes", "pinned: {pinned}");
        assert!(length(&gateway), "pinned: {pinned}");
    }
}

#[test]
fn what_one_hub_lacks_or_altered_is_asked_of_the_next_and_in_the_next_run() {
    let gone = |_: &Hit| Reply::status(404).with("X-Error-Code", "EntryNotFound").with("X-Repo-Commit", COMMIT);
    let (liar, evil, sound) = (Server::start(gone), hub(b"evil", "4"), hub(b"sound", "5"));
    for bad in [&liar, &evil] {
        let folder = Folder::new();
        let get = |urls: &[&str], file: &str| {
            let gateway = Gateway::start(&setup(&folder, Ecosystem::Hub, urls));
            gateway.ask("GET", &format!("{HOME}/hub/o/m/resolve/{COMMIT}/{file}"), "")
        };
        if bad.url == liar.url {
            assert_eq!(get(&[&bad.url, &sound.url], "a").2, b"sound");
        }
        get(&[&bad.url], "b");
        assert_eq!(get(&[&sound.url], "b").2, b"sound");
        // What everybody lacks is told as a hub tells it, and again when nobody answers.
        if bad.url == liar.url {
            for urls in [&liar.url, &refusing()] {
                let (status, head, _) = get(&[urls], "c");
                assert_eq!((status, head.contains(&format!("x-repo-commit: {COMMIT}"))), (404, true), "{head}");
            }
            // A commit loses no file because a mirror lags behind.
            assert_eq!(get(&[&liar.url], "b").0, 404);
            assert_eq!(get(&[&refusing()], "b").2, b"sound");
        }
    }
}

#[test]
fn how_long_a_blob_is_is_asked_for_in_each_run() {
    let folder = Folder::new();
    let digest = "a".repeat(64);
    let length = |server: &Server| {
        let mut setup = setup(&folder, Ecosystem::Oci, &[]);
        let template = upstream(&format!("{}/v2/{{repo}}", server.url));
        setup.registries = BTreeMap::from([("docker.io".to_owned(), vec![template])]);
        let gateway = Gateway::start(&setup);
        let ask = || gateway.ask("HEAD", &format!("{HOME}/v2/docker.io/library/x/blobs/sha256:{digest}"), "").1;
        let head = ask();
        assert_eq!(head, ask());
        let told = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        told.and_then(|told| told.parse::<usize>().ok())
    };
    let blob = |size: usize| Server::start(move |_| Reply::ok(vec![0; size]));
    let (wrong, sound) = (blob(7), blob(1234));
    assert_eq!((length(&wrong), length(&sound)), (Some(7), Some(1234)));
    assert_eq!((wrong.hits().len(), sound.hits().len()), (1, 1), "once a run");
}

/// A public index and a module proxy whose things have the names of private ones.
fn squatter(mark: &'static str) -> Server {
    Server::start(move |hit| {
        match hit.target.as_str() {
        "/simple/corp-lib/" => Reply::ok(format!(
            r#"{{"meta":{{"api-version":"1.0"}},"name":"corp-lib","files":[{{"filename":"corp_lib-{mark}.whl","url":"/x.whl","hashes":{{"sha256":"{}"}}}}]}}"#,
            "b".repeat(64)
        ))
        .with("Content-Type", JSON),
        "/corp.example/lib/@v/v1.0.0.zip" => {
            Reply::ok(zip(&[member("corp.example/lib@v1.0.0/go.mod", format!("module corp.example/lib // {mark}\n"))]))
        }
        "/corp.example/lib/@v/v1.0.0.info" => Reply::ok(format!(r#"{{"Version":"v1.0.0","Origin":"{mark}"}}"#)),
        _ => Reply::status(404),
    }
    })
}

#[test]
fn what_the_public_gave_is_no_answer_for_a_private_name() {
    let folder = Folder::new();
    let (public, own) = (squatter("public"), squatter("own"));
    let with = |own: Option<&[&str]>, public: &str| -> Setup {
        let mut setup = setup(&folder, Ecosystem::Go, &[public]);
        setup.upstreams.insert(Ecosystem::Python, vec![upstream(&format!("{public}/simple/"))]);
        for (ecosystem, name, below) in
            [(Ecosystem::Go, "corp.example/*", ""), (Ecosystem::Python, "corp-*", "/simple/")]
        {
            let upstreams = own.map(|urls| urls.iter().map(|url| upstream(&format!("{url}{below}"))).collect());
            let private = upstreams.map(|upstreams| Private { names: vec![name.to_owned()], upstreams });
            setup.private.extend(private.map(|private| (ecosystem, vec![private])));
        }
        setup
    };
    let answers = |setup: &Setup| {
        let gateway = Gateway::start(setup);
        let files =
            ["python/simple/corp-lib/", "go/corp.example/lib/@v/v1.0.0.info", "go/corp.example/lib/@v/v1.0.0.zip"];
        files.map(|file| {
            let (status, _, body) = gateway.ask("GET", &format!("{HOME}/{file}"), &format!("Accept: {JSON}\r\n"));
            let body = String::from_utf8_lossy(&body).into_owned();
            let marks = ["public", "own"].into_iter().filter(|mark| {
                body.contains(&format!("-{mark}."))
                    || body.contains(&format!("\"{mark}\""))
                    || body.contains(&format!("// {mark}"))
            });
            (status, marks.collect::<String>())
        })
    };
    let all = |status: u16, mark: &str| [(); 3].map(|()| (status, mark.to_owned()));
    let dead = refusing();
    assert_eq!(answers(&with(None, &public.url)), all(200, "public"));
    assert_eq!(answers(&with(None, &dead)), all(200, "public"), "the store is what remains of the public");
    // Since this run the name is private: its place is down, or it has none.
    for own in [&[dead.as_str()][..], &[]] {
        assert_eq!(answers(&with(Some(own), &public.url)), all(502, ""), "{own:?}");
    }
    assert_eq!(answers(&with(Some(&[&own.url]), &public.url)), all(200, "own"));
    assert_eq!(answers(&with(Some(&[&dead, &own.url]), &public.url)), all(200, "own"));
    // Nor is what a private place gave for the public, or for who has another place.
    assert_eq!(answers(&with(Some(&[&dead]), &public.url)), all(502, ""));
    assert_eq!(answers(&with(None, &dead)), all(502, ""));
}

#[test]
fn a_first_place_that_is_down_has_the_last_word_over_the_store_too() {
    let folder = Folder::new();
    let public = squatter("public");
    let info = format!("{HOME}/go/corp.example/lib/@v/v1.0.0");
    let status = |urls: &[&str], strict: bool| {
        let mut setup = setup(&folder, Ecosystem::Go, urls);
        setup.only_after_absence = if strict { BTreeSet::from([Ecosystem::Go]) } else { BTreeSet::new() };
        let gateway = Gateway::start(&setup);
        [".info", ".zip"].map(|ending| gateway.ask("GET", &format!("{info}{ending}"), "").0)
    };
    assert_eq!(status(&[&public.url], false), [200, 200]);
    assert_eq!(status(&[&refusing(), &public.url], true), [502, 502]);
    assert_eq!(status(&[&refusing()], false), [200, 200]);
}

#[test]
fn a_flood_of_a_mirrors_words_reaches_no_message() {
    let folder = Folder::new();
    let flood = "A\u{1b}[2J".repeat(1 << 20).replace('\u{1b}', "\\u001b");
    let registry = Server::start(move |_| Reply::ok(format!(r#"{{"name":"{flood}","versions":{{}}}}"#)));
    let mut gateway = Gateway::start(&setup(&folder, Ecosystem::Npm, &[&registry.url]));
    let (status, _, told) = gateway.ask("GET", &format!("{HOME}/npm/left-pad"), "");
    assert!(status == 502 && told.len() < 2000 && !told.contains(&0x1b), "{status}: {} bytes", told.len());
    gateway.close();
    for event in gateway.events.iter().filter(|event| !matches!(event, Event::Ready { .. })) {
        assert!(serde_json::to_string(event).unwrap().len() < 4000);
    }
    assert!(!gateway.findings().is_empty());
}
