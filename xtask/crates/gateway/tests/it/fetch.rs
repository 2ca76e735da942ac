//! Fetching: fall-over, verification, resume.

use crate::gateway::{Folder, Gateway, setup, shell};
use crate::server::{Blackhole, Hit, Reply, Server, file, noise, refusing, sha256};
use crate::zips::{member, zip};
use protocol::{Artifact, Ecosystem, FailureKind, Job, Outcome, Setup, Verdict};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What Go itself says of [`tiny_module`]: `go mod download -json` on a file proxy that held these two files.
const TINY_H1: &str = "h1:ri+bBmHaahzKbsqNIm9ZK0ocr4x/9EOYPHgYPdJ+QGM=";

fn tiny_module() -> Vec<u8> {
    zip(&[
        member("example.com/tiny@v1.0.0/go.mod", "module example.com/tiny\n"),
        member("example.com/tiny@v1.0.0/a/b.txt", "hello\n"),
    ])
}

fn go_module() -> Artifact {
    Artifact::GoModule { module: "example.com/tiny".into(), version: "v1.0.0".into(), h1: TINY_H1.into() }
}

fn wheel(body: &[u8]) -> Artifact {
    Artifact::Wheel {
        project: "Tiny_Wheel".into(),
        filename: "tiny_wheel-1.0-py3-none-any.whl".into(),
        sha256: sha256(body),
        size_bytes: body.len() as u64,
    }
}

fn hub_file(body: &[u8]) -> Artifact {
    Artifact::HubFile {
        repo: "org/model".into(),
        revision: "abc123".into(),
        path: "onnx/model.bin".into(),
        sha256: sha256(body),
        size_bytes: body.len() as u64,
    }
}

fn package(body: &[u8]) -> Artifact {
    Artifact::Debian {
        path: "base/pool/main/t/tiny/libtiny++_1.0+b1~x_amd64.deb".into(),
        sha256: sha256(body),
        size_bytes: body.len() as u64,
    }
}

/// A complete upstream of every protocol, all with one body.
fn good(body: &[u8]) -> impl Fn(&Hit) -> Reply + Send + Sync + use<> {
    let body = body.to_vec();
    move |hit| match hit.target.as_str() {
        "/simple/tiny-wheel/" => {
            let page = r#"{"meta":{"api-version":"1.0"},"files":[{"filename":"tiny_wheel-1.0-py3-none-any.whl","url":"../../files/tiny_wheel-1.0-py3-none-any.whl","hashes":{}}]}"#;
            Reply::ok(page).with("Content-Type", "application/vnd.pypi.simple.v1+json")
        }
        "/example.com/tiny/@v/v1.0.0.zip"
        | "/files/tiny_wheel-1.0-py3-none-any.whl"
        | "/org/model/resolve/abc123/onnx/model.bin"
        | "/pool/main/t/tiny/libtiny++_1.0+b1~x_amd64.deb" => file(hit, &body, "\"v1\""),
        _ => Reply::status(404),
    }
}

/// The protocols whose artifacts are fetched by a job: base path, artifact, body.
fn protocols() -> Vec<(Ecosystem, &'static str, Artifact, Vec<u8>)> {
    let body = noise(200_000);
    vec![
        (Ecosystem::Go, "", go_module(), tiny_module()),
        (Ecosystem::Python, "/simple/", wheel(&body), body.clone()),
        (Ecosystem::Hub, "", hub_file(&body), body.clone()),
        (Ecosystem::Apt, "", package(&body), body),
    ]
}

/// A server that is good at finding things and bad at sending them.
fn faulty(body: &[u8], fault: impl Fn(Vec<u8>) -> Reply + Send + Sync + 'static) -> Server {
    let (good, body) = (good(body), body.to_vec());
    Server::start(move |hit| match good(hit) {
        Reply::Whole { status: 200 | 206, body: found, .. } if found.len() == body.len() => fault(body.clone()),
        page => page,
    })
}

type Fault = (&'static str, fn(Vec<u8>) -> Reply, Verdict);

const FAULTS: [Fault; 8] = [
    ("silent", |_| Reply::Silent, Verdict::Stalled),
    ("drip", |body| Reply::Drip { body, after: 100 }, Verdict::Stalled),
    (
        "truncated",
        |body| Reply::Cut { status: 200, headers: Vec::new(), after: body.len() / 2, body },
        Verdict::Truncated,
    ),
    ("bad gateway", |_| Reply::status(502), Verdict::Status),
    ("absent", |_| Reply::status(404), Verdict::Absent),
    ("html", |_| Reply::html(), Verdict::Html),
    ("html that says it is a file", |_| Reply::ok("\n<html><body>Sign in"), Verdict::Html),
    (
        "flip",
        |mut body| {
            let middle = body.len() / 2;
            body[middle] ^= 1;
            Reply::ok(body)
        },
        Verdict::Hash,
    ),
];

#[test]
fn every_fault_falls_over_to_the_next_upstream_in_every_protocol() {
    std::thread::scope(|scope| {
        for (ecosystem, path, artifact, body) in protocols() {
            scope.spawn(move || {
                for (fault, reply, verdict) in FAULTS {
                    let (folder, bad, fine) = (Folder::new(), faulty(&body, reply), Server::start(good(&body)));
                    let mut gateway = Gateway::start(&setup(
                        &folder,
                        ecosystem,
                        &[&format!("{}{path}", bad.url), &format!("{}{path}", fine.url)],
                    ));
                    let started = Instant::now();
                    assert_eq!(gateway.fetch(artifact.clone()).unwrap(), body, "{fault} {ecosystem:?}");
                    assert!(
                        started.elapsed() < Duration::from_secs(8),
                        "{fault} {ecosystem:?} took {:?}",
                        started.elapsed()
                    );
                    assert!(gateway.verdicts().contains(&verdict), "{fault} {ecosystem:?}: {:?}", gateway.verdicts());
                    assert_eq!(gateway.verdicts().last(), Some(&Verdict::Ok));
                    assert_eq!(
                        gateway.egress().len(),
                        bad.hits().len() + fine.hits().len(),
                        "the ledger is the servers' logs"
                    );
                    assert_eq!(folder.files("downloads/partial"), Vec::<String>::new());
                }
            });
        }
    });
}

#[test]
fn a_refused_connection_costs_nothing_and_a_page_instead_of_an_index_is_named() {
    for (ecosystem, path, artifact, body) in protocols() {
        let (folder, portal, fine) = (Folder::new(), Server::start(|_| Reply::html()), Server::start(good(&body)));
        let urls = [refusing(), portal.url.clone(), fine.url.clone()].map(|url| format!("{url}{path}"));
        let mut gateway = Gateway::start(&setup(&folder, ecosystem, &urls.each_ref().map(String::as_str)));
        let started = Instant::now();
        assert_eq!(gateway.fetch(artifact).unwrap(), body);
        assert!(started.elapsed() < Duration::from_secs(2));
        assert_eq!(gateway.findings(), ["mirror.dead", "mirror.html"]);
    }
}

#[test]
fn wrong_bytes_alone_are_refused_with_what_was_expected_and_what_came() {
    for (ecosystem, path, artifact, body) in protocols() {
        let folder = Folder::new();
        let bad = faulty(&body, FAULTS[7].1);
        let mut gateway = Gateway::start(&setup(&folder, ecosystem, &[&format!("{}{path}", bad.url)]));
        let failure = gateway.fetch(artifact).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Integrity);
        let attempt = &failure.attempts[0];
        assert!(
            attempt.url.starts_with(&bad.url) && attempt.address.is_some() && attempt.origin == "mirror test",
            "{attempt:?}"
        );
        let (expected, got) = (attempt.expected.clone().unwrap(), attempt.got.clone().unwrap());
        assert_ne!(expected, got);
        assert!(expected == TINY_H1 || expected == sha256(&body));
        assert!(folder.files("downloads/sha256").is_empty() && folder.files("downloads/partial").is_empty());
    }
}

#[test]
fn a_portal_everywhere_is_named_by_its_first_words() {
    let (folder, portal) = (Folder::new(), Server::start(|_| Reply::html()));
    let failure = Gateway::start(&setup(&folder, Ecosystem::Go, &[&portal.url])).fetch(go_module()).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Network);
    assert!(failure.attempts[0].error.contains("Guest network Please sign in"), "{failure:?}");
}

#[test]
fn retry_after_is_honoured_up_to_the_limit() {
    let body = tiny_module();
    for (seconds, served_by_first) in [(1, true), (3600, false)] {
        let (folder, asked, good_one) = (Folder::new(), AtomicUsize::new(0), good(&body));
        let limited = Server::start(move |hit| match asked.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::status(429).with("Retry-After", seconds.to_string()),
            _ => good_one(hit),
        });
        let fine = Server::start(good(&body));
        let mut gateway = Gateway::start(&setup(&folder, Ecosystem::Go, &[&limited.url, &fine.url]));
        let started = Instant::now();
        assert_eq!(gateway.fetch(go_module()).unwrap(), body);
        assert_eq!(started.elapsed() >= Duration::from_secs(1), served_by_first);
        assert_eq!(fine.hits().is_empty(), served_by_first);
        assert_eq!(gateway.verdicts(), [Verdict::Limited, Verdict::Ok]);
    }
}

#[test]
fn a_passing_error_of_the_only_upstream_is_retried() {
    let (folder, body, asked) = (Folder::new(), tiny_module(), AtomicUsize::new(0));
    let good_one = good(&body);
    let server =
        Server::start(
            move |hit| if asked.fetch_add(1, Ordering::Relaxed) == 0 { Reply::status(502) } else { good_one(hit) },
        );
    let mut gateway = Gateway::start(&setup(&folder, Ecosystem::Go, &[&server.url]));
    assert_eq!(gateway.fetch(go_module()).unwrap(), body);
    assert_eq!(gateway.verdicts(), [Verdict::Status, Verdict::Ok]);
}

#[test]
fn a_blackhole_or_a_silent_host_costs_one_bound_a_run() {
    let bodies: Vec<Vec<u8>> = (0..50_u8).map(|n| [noise(1000), vec![n]].concat()).collect();
    let artifact = |body: &[u8]| Artifact::HubFile {
        repo: "o/m".into(),
        revision: "r".into(),
        path: sha256(body),
        sha256: sha256(body),
        size_bytes: body.len() as u64,
    };
    let blackhole = Blackhole::start();
    let silent = Server::start(|_| Reply::Silent);
    for bad in [&blackhole.url, &silent.url] {
        let folder = Folder::new();
        let served = bodies.clone();
        let fine = Server::start(move |hit| {
            file(hit, served.iter().find(|body| hit.target.ends_with(&sha256(body))).unwrap(), "\"1\"")
        });
        let mut gateway = Gateway::start(&setup(&folder, Ecosystem::Hub, &[bad, &fine.url]));
        let started = Instant::now();
        // Half of them at once, the others one after the other.
        for (id, body) in bodies[..25].iter().enumerate() {
            gateway.send(id as u64, Job::Fetch { artifact: artifact(body) });
        }
        assert!(gateway.finish(25).iter().all(Result::is_ok));
        for body in &bodies[25..] {
            assert_eq!(&gateway.fetch(artifact(body)).unwrap(), body);
        }
        assert!(started.elapsed() >= Duration::from_secs(2), "the bad host was not asked");
        // Without the memory the later half alone would wait 50 s.
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
        assert_eq!(fine.hits().len(), 50);
        assert_eq!(gateway.egress().iter().filter(|egress| egress.verdict != Verdict::Ok).count(), 1);
    }
}

#[test]
fn a_token_stays_at_its_origin_and_redirects_are_told() {
    let (folder, body) = (Folder::new(), noise(5000));
    let sent = body.clone();
    let cdn = Server::start(move |hit| file(hit, &sent, "\"1\""));
    let place = cdn.url.replace("127.0.0.1", "localhost");
    let front = Server::start(move |hit| {
        Reply::status(307).with("Location", format!("{place}{}?X-Signature=hunter3", hit.target))
    });
    let mut with_token = setup(&folder, Ecosystem::Hub, &[&front.url]);
    with_token.upstreams.get_mut(&Ecosystem::Hub).unwrap()[0].authorization = Some("Bearer hunter2".into());
    let mut gateway = Gateway::start(&with_token);
    assert_eq!(gateway.fetch(hub_file(&body)).unwrap(), body);
    assert_eq!(front.hits()[0].headers.get("authorization").map(String::as_str), Some("Bearer hunter2"));
    assert_eq!(cdn.hits()[0].headers.get("authorization"), None);
    let authority = |url: &str| url.strip_prefix("http://").unwrap().to_owned();
    assert_eq!(
        (gateway.egress()[0].host.clone(), gateway.egress()[0].redirect_hosts.clone()),
        (authority(&front.url), vec![authority(&cdn.url).replace("127.0.0.1", "localhost")])
    );
    gateway.close();
    assert!(!gateway.output.contains("hunter"), "{}", gateway.output);

    let folder = Folder::new();
    let endless = Server::start(|hit| Reply::status(302).with("Location", format!("{}x", hit.target)));
    let failure = Gateway::start(&setup(&folder, Ecosystem::Hub, &[&endless.url])).fetch(hub_file(&body)).unwrap_err();
    assert!(failure.attempts[0].error.contains("more than 10 redirects"), "{failure:?}");
    assert_eq!(endless.hits().len(), 11);
}

fn big_file(setup: &Setup, body: &[u8]) -> Artifact {
    let url = format!("{}/big.bin", setup.upstreams[&Ecosystem::File][0].url);
    Artifact::File { url, sha256: sha256(body), size_bytes: body.len() as u64 }
}

#[test]
fn a_download_killed_half_way_is_continued_by_the_next_process() {
    let body = noise(8 << 20);
    // What the server does on the second visit, and the most it may send in both together, relative to the size.
    type Case = (&'static str, fn(&Hit, &[u8]) -> Reply, f64);
    let cases: [Case; 3] = [
        ("ranges", |hit, body| file(hit, body, "\"1\""), 1.1),
        ("no ranges", |_, body| Reply::ok(body), 1.6),
        ("another entity tag", |hit, body| file(hit, body, "\"2\""), 1.6),
    ];
    for (case, second, most) in cases {
        let folder = Folder::new();
        let (first_visit, sent) = (AtomicBool::new(true), body.clone());
        let server = Server::start(move |hit| {
            if first_visit.swap(false, Ordering::Relaxed) {
                Reply::Drip { after: sent.len() / 2, body: sent.clone() }
            } else {
                second(hit, &sent)
            }
        });
        let mut setup = setup(&folder, Ecosystem::File, &[&server.url]);
        setup.limits.stall_seconds = 20;
        let mut gateway = Gateway::start(&setup);
        gateway.send(1, Job::Fetch { artifact: big_file(&setup, &body) });
        let partial = folder.0.join("downloads/partial").join(sha256(&body));
        wait_until(|| fs::metadata(&partial).is_ok_and(|file| file.len() >= body.len() as u64 / 2));
        gateway.kill();
        if case == "another entity tag" {
            let source = format!(r#"{{"url":"{}/big.bin","etag":"\"1\""}}"#, server.url);
            fs::write(partial.with_extension("source"), source).unwrap();
        }

        let mut gateway = Gateway::start(&setup);
        assert_eq!(gateway.fetch(big_file(&setup, &body)).unwrap(), body, "{case}");
        let share = server.sent_bytes() as f64 / body.len() as f64;
        assert!(share <= most, "{case}: {share}");
        assert_eq!(server.hits()[1].headers.get("range"), Some(&format!("bytes={}-", body.len() / 2)), "{case}");
        assert_eq!(gateway.findings(), Vec::<&str>::new(), "{case}");
        assert_eq!(folder.files("downloads/partial"), Vec::<String>::new(), "{case}");
    }
}

#[test]
fn a_connection_cut_every_mebibyte_moves_each_byte_once() {
    let (folder, body) = (Folder::new(), noise(8 << 20));
    let sent = body.clone();
    let server = Server::start(move |hit| match file(hit, &sent, "\"1\"") {
        Reply::Whole { status, headers, body } => Reply::Cut { status, headers, body, after: 1 << 20 },
        other => other,
    });
    let setup = setup(&folder, Ecosystem::File, &[&server.url]);
    assert_eq!(Gateway::start(&setup).fetch(big_file(&setup, &body)).unwrap(), body);
    assert!(server.sent_bytes() as f64 <= 1.1 * body.len() as f64, "{}", server.sent_bytes());
}

#[test]
fn a_server_that_ignores_ranges_and_always_breaks_off_is_given_up() {
    let (folder, body) = (Folder::new(), noise(4 << 20));
    let sent = body.clone();
    let server =
        Server::start(move |_| Reply::Cut { status: 200, headers: Vec::new(), body: sent.clone(), after: 1 << 20 });
    let setup = setup(&folder, Ecosystem::File, &[&server.url]);
    let failure = Gateway::start(&setup).fetch(big_file(&setup, &body)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Network);
    assert!(server.hits().len() <= 4, "{}", server.hits().len());
}

#[test]
fn a_spoilt_partial_is_thrown_away_before_the_upstream_is_blamed() {
    let (folder, body) = (Folder::new(), noise(300_000));
    let sent = body.clone();
    let server = Server::start(move |hit| file(hit, &sent, "\"1\""));
    let setup = setup(&folder, Ecosystem::File, &[&server.url]);
    fs::create_dir_all(folder.0.join("downloads/partial")).unwrap();
    // Wrong bytes; too many of them; a whole file of them.
    for spoilt in [100_000, 400_000, body.len()] {
        let _ = fs::remove_dir_all(folder.0.join("downloads/sha256"));
        fs::write(folder.0.join("downloads/partial").join(sha256(&body)), vec![7; spoilt]).unwrap();
        let mut gateway = Gateway::start(&setup);
        assert_eq!(gateway.fetch(big_file(&setup, &body)).unwrap(), body, "{spoilt}");
        assert_eq!(gateway.findings(), Vec::<&str>::new(), "{spoilt}");
    }
}

#[test]
fn what_is_here_is_hashed_again_and_quarantined_if_it_was_altered() {
    for (ecosystem, path, artifact, body) in protocols() {
        let (folder, server) = (Folder::new(), Server::start(good(&body)));
        let setup = setup(&folder, ecosystem, &[&format!("{}{path}", server.url)]);
        let Ok(Outcome::Fetched { path: place, .. }) =
            Gateway::start(&setup).perform(Job::Fetch { artifact: artifact.clone() })
        else {
            unreachable!("a good server failed")
        };
        assert!(fs::metadata(&place).unwrap().permissions().readonly());
        let asked = server.hits().len();
        assert_eq!(Gateway::start(&setup).fetch(artifact.clone()).unwrap(), body);
        assert_eq!(server.hits().len(), asked, "what is here is not fetched");

        let mut altered = body.clone();
        altered[10] ^= 1;
        fs::remove_file(&place).unwrap();
        fs::write(&place, &altered).unwrap();
        let mut gateway = Gateway::start(&setup);
        assert_eq!(gateway.fetch(artifact).unwrap(), body);
        assert_eq!(gateway.findings(), ["downloads.altered"]);
        assert_eq!(
            fs::read(folder.0.join("downloads/quarantine").join(format!("{}.0", sha256(&body)))).unwrap(),
            altered
        );
    }
}

/// What a power cut leaves of things whose flush nobody waits for.
#[test]
fn a_torn_file_or_pointer_is_fetched_again() {
    let body = tiny_module();
    let (folder, server) = (Folder::new(), Server::start(good(&body)));
    let setup = setup(&folder, Ecosystem::Go, &[&server.url]);
    assert_eq!(Gateway::start(&setup).fetch(go_module()).unwrap(), body);
    let pointer = folder.0.join("downloads/h1").join(folder.files("downloads/h1").remove(0));
    let sha256 = sha256(&body);
    let file = folder.0.join("downloads/sha256").join(&sha256[..2]).join(&sha256);
    for (torn, asked) in [(&pointer, 2), (&file, 3)] {
        fs::remove_file(torn).unwrap();
        fs::write(torn, "").unwrap();
        assert_eq!(Gateway::start(&setup).fetch(go_module()).unwrap(), body);
        assert_eq!(server.hits().len(), asked, "{}", torn.display());
    }
}

#[test]
fn two_processes_share_one_download() {
    let (folder, body) = (Folder::new(), noise(4 << 20));
    let sent = body.clone();
    let server = Server::start(move |hit| file(hit, &sent, "\"1\""));
    let setup = setup(&folder, Ecosystem::File, &[&server.url]);
    let mut gateways = [Gateway::start(&setup), Gateway::start(&setup), Gateway::start(&setup)];
    for gateway in &mut gateways {
        gateway.send(1, Job::Fetch { artifact: big_file(&setup, &body) });
    }
    for gateway in &mut gateways {
        assert!(gateway.finish(1)[0].is_ok());
    }
    assert_eq!(server.hits().len(), 1);
}

#[test]
fn a_stopped_process_that_holds_a_download_is_waited_for_once_and_told_by_its_pid() {
    let folder = Folder::new();
    let bodies = [("/big", noise(1 << 20)), ("/small", noise(100)), ("/cut", noise(50))];
    let of = {
        let bodies = bodies.clone();
        move |hit: &Hit| bodies.iter().find(|(path, _)| *path == hit.target).unwrap().1.clone()
    };
    let halves = of.clone();
    let held = Server::start(move |hit| Reply::Drip { after: halves(hit).len() / 2, body: halves(hit) });
    let fine = Server::start(move |hit| match hit.target.as_str() {
        "/cut" => Reply::Cut { after: 20, body: of(hit), status: 200, headers: Vec::new() },
        _ => file(hit, &of(hit), "\"1\""),
    });
    let artifact = |server: &Server, (path, body): &(&str, Vec<u8>)| {
        let (url, sha256) = (format!("{}{path}", server.url), sha256(body));
        Artifact::File { url, sha256, size_bytes: body.len() as u64 }
    };
    let mut slow = setup(&folder, Ecosystem::File, &[&held.url]);
    slow.limits.stall_seconds = 60;
    let mut holder = Gateway::start(&slow);
    for (id, body) in (1..).zip(&bodies) {
        holder.send(id, Job::Fetch { artifact: artifact(&held, body) });
    }
    let partials = folder.0.join("downloads/partial");
    let written = |(_, body): &(_, Vec<u8>)| fs::metadata(partials.join(sha256(body))).is_ok_and(|file| file.len() > 0);
    wait_until(|| bodies.iter().all(written));
    shell(&folder.0, &format!("kill -STOP {}", holder.pid()));

    let mut gateway = Gateway::start(&setup(&folder, Ecosystem::File, &[&fine.url]));
    let [big, small, cut] = &bodies;
    let started = Instant::now();
    assert_eq!(gateway.fetch(artifact(&fine, big)).unwrap(), big.1);
    // Its bounds are of two seconds each.
    let waited = started.elapsed();
    assert!((6..12).contains(&waited.as_secs()), "{waited:?}");
    assert_eq!(gateway.findings(), ["downloads.waiting", "downloads.held"]);
    let pid = holder.pid();
    for words in [
        format!("process {pid} is downloading it"),
        format!("process {pid} holds it at {} bytes and has done nothing for 6 s", big.1.len() / 2),
        format!("`kill -CONT {pid}`"),
    ] {
        assert!(gateway.output.contains(&words), "{words}: {}", gateway.output);
    }
    let started = Instant::now();
    assert_eq!(gateway.fetch(artifact(&fine, small)).unwrap(), small.1);
    assert_eq!(gateway.fetch(artifact(&fine, cut)).unwrap_err().kind, FailureKind::Network);
    assert!(started.elapsed() < Duration::from_secs(5), "the same process again: {:?}", started.elapsed());
    // What the stopped one has is left to it, and nothing else is there.
    let mut left: Vec<String> = bodies.iter().map(|(_, body)| sha256(body)).collect();
    left.sort();
    let partials = || folder.files("downloads/partial").into_iter().filter(|name| !name.ends_with(".source"));
    assert_eq!(partials().collect::<Vec<_>>(), left);
    holder.kill();
}

#[test]
fn the_index_lists_a_project_in_either_format() {
    let html = Server::start(|_| {
        let page = r#"<html><body><a href="../../f/tiny_wheel-1.0-py3-none-any.whl#sha256=HASH" data-requires-python="&gt;=3.9">tiny_wheel-1.0-py3-none-any.whl</a></body></html>"#;
        Reply::ok(page.replace("HASH", &"ab".repeat(32))).with("Content-Type", "text/html")
    });
    let json = Server::start(good(b"x"));
    let list = |server: &Server| {
        let folder = Folder::new();
        let mut gateway = Gateway::start(&setup(&folder, Ecosystem::Python, &[&format!("{}/simple", server.url)]));
        match gateway.perform(Job::List { project: "Tiny.Wheel".into() }).unwrap() {
            Outcome::Listed { files } => files,
            other => unreachable!("a list ended with {other:?}"),
        }
    };
    let (from_html, from_json) = (list(&html), list(&json));
    assert_eq!(html.hits()[0].target, "/simple/tiny-wheel/");
    assert_eq!(from_html[0].filename, from_json[0].filename);
    assert_eq!(
        (from_html[0].sha256.as_deref(), from_html[0].requires_python.as_deref()),
        (Some("ab".repeat(32).as_str()), Some(">=3.9"))
    );
}

#[test]
fn nothing_is_asked_where_no_upstream_is_configured() {
    let folder = Folder::new();
    let failure = Gateway::start(&setup(&folder, Ecosystem::Go, &[])).fetch(go_module()).unwrap_err();
    assert_eq!(
        (failure.kind, failure.subject.as_str()),
        (FailureKind::Configuration, "module example.com/tiny@v1.0.0")
    );
}

fn wait_until(condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "the condition never came");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a child gets of `go.mod` number N, through a gateway that asks these upstreams in their order.
fn go_mods(gateway: &Gateway, numbers: std::ops::Range<usize>) -> Vec<u16> {
    let ask = |number| {
        gateway.ask("GET", &format!("http://xtask-gateway.invalid/go/example.com/m{number}/@v/v1.0.0.mod"), "")
    };
    numbers.map(|number| ask(number).0).collect()
}

#[test]
fn who_asks_to_wait_in_vain_is_waited_for_once_and_not_by_each_artifact() {
    let limited = || Server::start(|_| Reply::status(429).with("Retry-After", "2"));
    let (folder, busy, fine) = (Folder::new(), limited(), Server::start(|_| Reply::ok("module example.com/m\n")));
    let gateway = Gateway::start(&setup(&folder, Ecosystem::Go, &[&busy.url, &fine.url]));
    let started = Instant::now();
    assert_eq!(go_mods(&gateway, 0..6), [200; 6]);
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert_eq!((busy.hits().len(), fine.hits().len()), (2, 6), "what one was told holds for all");

    // Alone it is waited for, and no longer once that was in vain.
    let (folder, busy) = (Folder::new(), limited());
    let gateway = Gateway::start(&setup(&folder, Ecosystem::Go, &[&busy.url]));
    assert_eq!(go_mods(&gateway, 0..1), [502]);
    let (started, asked) = (Instant::now(), busy.hits().len());
    assert_eq!(go_mods(&gateway, 1..4), [502; 3]);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!((asked, busy.hits().len()), (3, 3));
}

#[test]
fn an_error_page_that_does_not_come_costs_little_and_once() {
    let mute = Server::start(|_| Reply::Hold { body: vec![b'x'; 1000], status: 404, headers: Vec::new(), after: 1 });
    let fine = Server::start(|_| Reply::ok("module example.com/m\n"));
    let folder = Folder::new();
    let gateway = Gateway::start(&setup(&folder, Ecosystem::Go, &[&mute.url, &fine.url]));
    let started = Instant::now();
    assert_eq!(go_mods(&gateway, 0..5), [200; 5]);
    assert!(started.elapsed() < Duration::from_millis(1900), "{:?}", started.elapsed());
}

#[test]
fn a_text_that_drips_is_left_while_another_upstream_is_there_and_its_host_comes_last() {
    let text = |bytes: usize| format!("module example.com/m\n//{}\n", "x".repeat(bytes)).into_bytes();
    for announced in [true, false] {
        // More than the least of every window; the whole would take a minute.
        let drip = Server::start(move |_| Reply::Slow { body: text(60_000), bytes_a_second: 1000, announced });
        let fine = Server::start(|_| Reply::ok("module example.com/m\n"));
        let folder = Folder::new();
        let mut setup = setup(&folder, Ecosystem::Go, &[&drip.url, &fine.url]);
        setup.limits.minimum_bytes = 500;
        let mut gateway = Gateway::start(&setup);
        let started = Instant::now();
        assert_eq!(go_mods(&gateway, 0..5), [200; 5]);
        let waited = started.elapsed();
        assert!((4..9).contains(&waited.as_secs()), "{announced}: {waited:?}");
        assert_eq!((drip.hits().len(), fine.hits().len()), (1, 5));
        gateway.close();
        assert_eq!(gateway.findings(), ["mirror.stalled"]);
        assert_eq!(gateway.verdicts(), [vec![Verdict::Stalled], vec![Verdict::Ok; 5]].concat());
    }

    // Where nobody else has it, it may take its time; and one that will be there in time is not left.
    let drip = Server::start(move |hit| match hit.target.contains("m0/") {
        true => Reply::Slow { body: text(16_000), bytes_a_second: 1000, announced: true },
        false => Reply::Slow { body: text(16_000), bytes_a_second: 2500, announced: true },
    });
    let absent = Server::start(|_| Reply::status(404));
    let folder = Folder::new();
    let mut setup = setup(&folder, Ecosystem::Go, &[&drip.url, &absent.url]);
    setup.limits.minimum_bytes = 500;
    let gateway = Gateway::start(&setup);
    assert_eq!(go_mods(&gateway, 1..2), [200]);
    assert_eq!((drip.hits().len(), absent.hits().len()), (1, 0));
    assert_eq!(go_mods(&gateway, 0..1), [200]);
    assert_eq!((drip.hits().len(), absent.hits().len()), (3, 1));
}
