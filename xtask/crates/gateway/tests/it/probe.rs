//! Measuring upstreams, and the race between those that nobody measured.

use crate::gateway::{Folder, Gateway, setup, upstream};
use crate::outside::Authority;
use crate::server::{Blackhole, Hit, Reply, Server, file, noise, refusing, sha256};
use protocol::{
    Artifact, Ecosystem, Event, Job, Limits, Outcome, Pins, Private, ProbeReport, ProbeVerdict, Samples, Setup, Verdict,
};
use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

/// The bound for a whole probe; room for a loaded machine on top of its budget.
const BUDGET: Duration = Duration::from_millis(2500);
const SLACK: Duration = Duration::from_millis(1500);

fn probe(setup: &Setup) -> (Vec<ProbeReport>, Gateway) {
    probe_within(BUDGET, setup)
}

fn probe_within(budget: Duration, setup: &Setup) -> (Vec<ProbeReport>, Gateway) {
    let mut gateway = Gateway::start(setup);
    let job = Job::Probe { ecosystems: Vec::new(), budget_milliseconds: budget.as_millis() as u64 };
    let started = Instant::now();
    let Ok(Outcome::Probed { reports }) = gateway.perform(job) else { unreachable!("a probe reports") };
    assert!(started.elapsed() < budget + SLACK, "{:?}", started.elapsed());
    (reports, gateway)
}

fn authority(url: &str) -> String {
    url.split("://").nth(1).unwrap().split('/').next().unwrap().to_owned()
}

const WHEEL: &str = "tiny_wheel-1.0-py3-none-any.whl";

/// Samples of every ecosystem whose artifact is `body`.
fn sampled(setup: Setup, body: &[u8]) -> Setup {
    let hash = sha256(body);
    let samples = Samples {
        krate: Some(("tiny".into(), "1.0.0".into())),
        module: Some(("example.com/Tiny".into(), "v1.0.0".into())),
        checksum_database: Some("sum.example".into()),
        wheel: Some(("Tiny_Wheel".into(), WHEEL.into(), hash.clone())),
        hub_file: Some(("org/model".into(), "abc123".into(), "config.json".into(), hash.clone())),
        package: Some(("@scope/tiny".into(), "1.0.0".into())),
        suite: Some("bookworm".into()),
        channel: Some("channel-rust-1.95.0.toml".into()),
        image: None,
    };
    let pins = Pins {
        crates: BTreeMap::from([("tiny 1.0.0".into(), hash.clone())]),
        // `go mod download -json` of a module whose go.mod is `module example.com/tiny\n`.
        go_sums: BTreeMap::from([(
            "example.com/Tiny v1.0.0/go.mod".into(),
            "h1:fFKn0pE9rOHvRxkVEAOmYkCZu8NJKbPjfwAhP5M6EBk=".into(),
        )]),
        wheels: BTreeMap::from([(WHEEL.into(), BTreeSet::from([hash.clone()]))]),
        npm: BTreeMap::from([("@scope/tiny 1.0.0".into(), sha512(body))]),
        channels: BTreeMap::from([("channel-rust-1.95.0.toml".into(), "ab".repeat(32))]),
        hub: BTreeMap::new(),
    };
    // A probe's only bound is its budget.
    let limits = Limits { connect_seconds: 30, first_byte_seconds: 30, stall_seconds: 30, ..setup.limits };
    Setup { samples, pins, limits, ..setup }
}

/// As npm writes it, in coreutils' base64.
fn sha512(body: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA512, body);
    let octal: String = digest.as_ref().iter().map(|byte| format!("\\0{byte:03o}")).collect();
    let coded = std::process::Command::new("sh").args(["-c", &format!("printf '%b' '{octal}' | base64 -w0")]).output();
    format!("sha512-{}", String::from_utf8(coded.unwrap().stdout).unwrap())
}

/// A complete upstream of every protocol; `artifacts` is where its artifacts are, its own host where empty.
fn good(body: &[u8], artifacts: &str) -> impl Fn(&Hit) -> Reply + Send + Sync + use<> {
    let (body, artifacts) = (body.to_vec(), artifacts.to_owned());
    move |hit| match hit.target.as_str() {
        "/config.json" if artifacts.is_empty() => {
            Reply::ok(format!(r#"{{"dl":"http://{}/dl/{{crate}}"}}"#, hit.headers["host"]))
        }
        "/config.json" => Reply::ok(format!(r#"{{"dl":"{artifacts}/dl/{{crate}}"}}"#)),
        "/ti/ny/tiny" => Reply::ok(format!("{{\"vers\":\"1.0.0\",\"cksum\":\"{}\"}}\n", sha256(&body))),
        "/example.com/!tiny/@v/v1.0.0.info" => Reply::ok(r#"{"Version":"v1.0.0"}"#),
        "/example.com/!tiny/@v/v1.0.0.mod" => Reply::ok("module example.com/tiny\n"),
        "/example.com/!tiny/@v/v1.0.0.zip" => Reply::ok("PK\u{3}\u{4}"),
        "/sumdb/sum.example/supported" => Reply::ok(""),
        "/tiny-wheel/" => Reply::ok(format!(r#"{{"files":[{{"filename":"{WHEEL}","url":"{artifacts}/files/w"}}]}}"#))
            .with("Content-Type", "application/vnd.pypi.simple.v1+json"),
        "/org/model/resolve/abc123/config.json" if !artifacts.is_empty() => {
            Reply::status(302).with("Location", format!("{artifacts}/files/m?secret=1"))
        }
        "/@scope%2ftiny" => {
            Reply::ok(format!(r#"{{"versions":{{"1.0.0":{{"dist":{{"tarball":"{artifacts}/files/t"}}}}}}}}"#))
        }
        "/dists/bookworm/InRelease" | "/dists/bookworm-security/InRelease" => {
            Reply::ok("-----BEGIN PGP SIGNED MESSAGE-----\n")
        }
        "/dist/channel-rust-1.95.0.toml.sha256" => Reply::ok(format!("{}  x\n", "ab".repeat(32))),
        "/dist/channel-rust-1.95.0.toml" => Reply::ok("manifest-version = \"2\"\n"),
        "/release-stable.toml" => Reply::ok("schema-version = \"1\"\n"),
        "/dl/tiny" | "/files/w" | "/files/m?secret=1" | "/files/t" | "/org/model/resolve/abc123/config.json" => {
            ranged(hit, &body)
        }
        _ => Reply::status(404),
    }
}

fn ranged(hit: &Hit, body: &[u8]) -> Reply {
    let asked = hit.headers.get("range").and_then(|range| range.strip_prefix("bytes=0-")?.parse::<usize>().ok());
    let last = asked.unwrap_or(usize::MAX).min(body.len() - 1);
    Reply::Whole { status: 206, headers: Vec::new(), body: body[..=last].to_vec() }
        .with("Content-Range", format!("bytes 0-{last}/{}", body.len()))
}

const SAMPLED: [Ecosystem; 7] = [
    Ecosystem::Crates,
    Ecosystem::Go,
    Ecosystem::Python,
    Ecosystem::Hub,
    Ecosystem::Npm,
    Ecosystem::Apt,
    Ecosystem::Rustup,
];

/// Every ecosystem has these upstreams.
fn everywhere(folder: &Folder, urls: &[&str], body: &[u8]) -> Setup {
    let mut all = sampled(setup(folder, Ecosystem::Crates, urls), body);
    for ecosystem in SAMPLED {
        let of = |url: &&str| protocol::Upstream { second: Some((*url).to_owned()), ..upstream(url) };
        all.upstreams.insert(ecosystem, urls.iter().map(of).collect());
    }
    all
}

#[test]
fn a_good_upstream_of_every_protocol_is_ok_and_nothing_of_it_is_kept() {
    let (folder, body) = (Folder::new(), noise(400_000));
    let server = Server::start(good(&body, ""));
    let (reports, mut gateway) = probe(&everywhere(&folder, &[&server.url], &body));
    assert_eq!(reports.iter().map(|it| it.ecosystem).collect::<BTreeSet<_>>(), SAMPLED.into());
    for report in &reports {
        assert_eq!((report.verdict, &report.failed_host), (ProbeVerdict::Ok, &None), "{report:?}");
        assert_eq!(report.hosts, [authority(&server.url)]);
        assert!(report.score_milliseconds.is_some() && report.connect_milliseconds.is_some(), "{report:?}");
        assert!(report.bytes_per_second.is_some_and(|speed| speed > 0), "{report:?}");
        assert_eq!(report.address, Some(authority(&server.url)));
    }
    gateway.close();
    // One line of the ledger for each request that the server saw.
    assert_eq!(gateway.egress().len(), server.hits().len());
    assert!(gateway.verdicts().iter().all(|verdict| *verdict == Verdict::Ok), "{:?}", gateway.egress());
    // A range of each artifact and no more, and none of it below the downloads folder.
    assert!(server.sent_bytes() < 5 * 300_000, "{}", server.sent_bytes());
    assert_eq!(folder.files("downloads").iter().filter(|name| name.len() >= 64).count(), 0, "{:?}", folder.files(""));
    let hits = server.hits();
    let agents: BTreeSet<&str> = hits.iter().map(|hit| hit.headers["user-agent"].split('/').next().unwrap()).collect();
    let clients = ["Debian APT-HTTP", "Go-http-client", "cargo", "cargo-xtask-gateway", "npm", "pip", "rustup"];
    assert_eq!(agents.into_iter().collect::<Vec<_>>(), clients);
}

#[test]
fn each_fault_has_its_verdict() {
    type Fault = (&'static str, fn() -> Reply, ProbeVerdict, &'static str);
    let faults: [Fault; 6] = [
        ("portal", Reply::html, ProbeVerdict::Html, "Please sign in"),
        ("silent", || Reply::Silent, ProbeVerdict::Dead, "no answer within"),
        ("limited", || Reply::status(429).with("Retry-After", "3600"), ProbeVerdict::Limited, "3600"),
        ("refused by name", || Reply::status(403), ProbeVerdict::Limited, "403"),
        ("broken", || Reply::status(502), ProbeVerdict::Dead, "502"),
        ("another protocol", || Reply::ok("[]").with("Content-Type", "application/json"), ProbeVerdict::Dead, ""),
    ];
    let body = noise(1000);
    thread::scope(|scope| {
        for (name, fault, verdict, words) in faults {
            let body = &body;
            scope.spawn(move || {
                let folder = Folder::new();
                let server = Server::start(move |_| fault());
                for report in probe(&everywhere(&folder, &[&server.url], body)).0 {
                    // The hub's sample is any file: its hash is what tells.
                    assert_eq!(report.verdict, verdict, "{name}: {report:?}");
                    assert!(report.message.contains(words), "{name}: {report:?}");
                    assert_eq!(report.score_milliseconds, None, "{name}: {report:?}");
                }
            });
        }
        let body = &body;
        scope.spawn(move || {
            let (folder, blackhole) = (Folder::new(), Blackhole::start());
            let urls = [&*refusing(), &blackhole.url];
            for report in probe(&everywhere(&folder, &urls, body)).0 {
                assert_eq!((report.verdict, report.connect_milliseconds), (ProbeVerdict::Dead, None), "{report:?}");
                assert!(report.message.contains("connect"), "{report:?}");
                assert_eq!(report.score_milliseconds, None, "{report:?}");
            }
        });
    });
}

#[test]
fn a_mirror_without_the_locked_version_is_stale_and_says_which() {
    let (folder, body) = (Folder::new(), noise(1000));
    let complete = good(&body, "");
    let server = Server::start(move |hit| match hit.target.as_str() {
        "/ti/ny/tiny" => Reply::ok("{\"vers\":\"0.9.0\",\"cksum\":\"aa\"}\n"),
        "/tiny-wheel/" => Reply::ok(r#"{"files":[]}"#).with("Content-Type", "application/vnd.pypi.simple.v1+json"),
        "/@scope%2ftiny" => Reply::ok(r#"{"versions":{"0.9.0":{"dist":{"tarball":"/files/t"}}}}"#),
        "/config.json" => complete(hit),
        _ => Reply::status(404),
    });
    let mut all = everywhere(&folder, &[&server.url], &body);
    all.pins.crates.insert("tiny 1.1.0".into(), sha256(&body));
    let (reports, _) = probe(&all);
    assert_eq!(reports.len(), SAMPLED.len());
    for report in reports {
        let missing = match report.ecosystem {
            Ecosystem::Crates => "1.0.0, 1.1.0",
            Ecosystem::Go => "example.com/Tiny@v1.0.0",
            Ecosystem::Python => WHEEL,
            Ecosystem::Hub => "org/model",
            Ecosystem::Npm => "1.0.0",
            Ecosystem::Apt => "bookworm",
            _ => "channel-rust-1.95.0.toml",
        };
        assert_eq!(report.verdict, ProbeVerdict::Stale, "{report:?}");
        assert!(report.message.contains(missing), "{report:?}");
    }
}

#[test]
fn a_second_host_that_does_not_deliver_makes_a_mirror_partial_and_is_named() {
    let body = noise(1000);
    let (portal, blackhole) = (Server::start(|_| Reply::html()), Blackhole::start());
    for second in [refusing(), blackhole.url.clone(), portal.url.clone()] {
        let folder = Folder::new();
        let server = Server::start(good(&body, &second));
        let mut all = everywhere(&folder, &[&server.url], &body);
        for ecosystem in [Ecosystem::Apt, Ecosystem::Rustup] {
            all.upstreams
                .insert(ecosystem, vec![protocol::Upstream { second: Some(second.clone()), ..upstream(&server.url) }]);
        }
        let (reports, _) = probe(&all);
        for report in reports.iter().filter(|it| it.ecosystem != Ecosystem::Go) {
            // A hub that redirects to a portal has shown nothing of itself.
            let portal_hub = second == portal.url && report.ecosystem == Ecosystem::Hub;
            let expected = if portal_hub { ProbeVerdict::Html } else { ProbeVerdict::Partial };
            assert_eq!((report.verdict, report.score_milliseconds), (expected, None), "{report:?}");
            assert_eq!(report.failed_host.as_deref(), Some(&*authority(&second)), "{report:?}");
            assert_eq!(report.hosts, [authority(&server.url), authority(&second)]);
        }
    }
}

#[test]
fn a_server_that_knows_no_ranges_is_read_no_further_than_one() {
    let (folder, body) = (Folder::new(), noise(8 << 20));
    let complete = good(&body, "");
    let server = Server::start(move |hit| match complete(hit) {
        Reply::Whole { status: 206, .. } => Reply::ok(&*body),
        document => document,
    });
    let (reports, mut gateway) = probe(&sampled(setup(&folder, Ecosystem::Npm, &[&server.url]), b""));
    assert_eq!(reports[0].verdict, ProbeVerdict::Ok, "{reports:?}");
    gateway.close();
    let received: u64 = gateway.egress().iter().map(|line| line.bytes).sum();
    assert!(received < 1 << 20, "{received}");
}

#[test]
fn a_sleep_before_the_first_byte_is_a_limit_and_a_thin_stream_is_only_slow() {
    type Way = (fn(Vec<u8>) -> Reply, ProbeVerdict);
    let ways: [Way; 2] =
        [(|_| Reply::Silent, ProbeVerdict::Limited), (|body| Reply::Drip { body, after: 100 }, ProbeVerdict::Ok)];
    let (folder, body) = (Folder::new(), noise(1000));
    for (way, verdict) in ways {
        let complete = good(&body, "");
        let server = Server::start(move |hit| match complete(hit) {
            Reply::Whole { status: 206, body, .. } => way(body),
            document => document,
        });
        let report = probe(&sampled(setup(&folder, Ecosystem::Npm, &[&server.url]), &body)).0.remove(0);
        assert_eq!(report.verdict, verdict, "{report:?}");
        assert!(report.bytes_per_second.is_none_or(|speed| speed < 1000), "{report:?}");
    }
}

#[test]
fn a_checksum_database_may_be_missing_but_not_broken() {
    let (folder, body) = (Folder::new(), noise(1000));
    for (status, verdict) in [(404, ProbeVerdict::Ok), (502, ProbeVerdict::Partial)] {
        let complete = good(&body, "");
        let server = Server::start(move |hit| match hit.target.starts_with("/sumdb/") {
            true => Reply::status(status),
            false => complete(hit),
        });
        let (reports, _) = probe(&sampled(setup(&folder, Ecosystem::Go, &[&server.url]), &body));
        assert_eq!(reports[0].verdict, verdict, "{reports:?}");
        assert!(reports[0].message.contains("checksum database"), "{reports:?}");
    }
}

#[test]
fn other_bytes_than_the_pinned_ones_are_never_ok() {
    let (folder, body) = (Folder::new(), noise(1000));
    let mut altered = body.clone();
    altered[500] ^= 1;
    let (complete, wrong) = (good(&body, ""), altered);
    let server = Server::start(move |hit| match hit.target.as_str() {
        "/example.com/!tiny/@v/v1.0.0.mod" => Reply::ok("module example.com/tinx\n"),
        "/dist/channel-rust-1.95.0.toml.sha256" => Reply::ok("cd".repeat(32)),
        "/dists/bookworm/InRelease" => Reply::ok("Origin: Debian\n"),
        _ => match complete(hit) {
            Reply::Whole { status: 206, .. } => ranged(hit, &wrong),
            document => document,
        },
    });
    for report in probe(&everywhere(&folder, &[&server.url], &body)).0 {
        assert!(matches!(report.verdict, ProbeVerdict::Partial | ProbeVerdict::Dead), "{report:?}");
        let word = if report.ecosystem == Ecosystem::Apt { "begin with" } else { "pinned bytes" };
        assert!(report.message.contains(word), "{report:?}");
    }
}

#[test]
fn twenty_endpoints_half_of_them_silent_take_one_budget() {
    let (folder, body) = (Folder::new(), noise(1000));
    let good: Vec<Server> = (0..10).map(|_| Server::start(good(&body, ""))).collect();
    let silent: Vec<Server> = (0..10).map(|_| Server::start(|_| Reply::Silent)).collect();
    let urls: Vec<&str> = silent.iter().zip(&good).flat_map(|(silent, good)| [&*silent.url, &*good.url]).collect();
    let (reports, _) = probe(&sampled(setup(&folder, Ecosystem::Crates, &urls), &body));
    // In the order of the setup, whoever answered first.
    assert_eq!(reports.iter().map(|it| &*it.url).collect::<Vec<_>>(), urls);
    let verdicts: Vec<ProbeVerdict> = reports.iter().map(|it| it.verdict).collect();
    assert_eq!(verdicts, [ProbeVerdict::Dead, ProbeVerdict::Ok].repeat(10));
}

#[test]
fn who_had_no_time_is_not_measured_and_not_dead() {
    let (folder, body) = (Folder::new(), noise(1000));
    let silent = Server::start(|_| Reply::Silent);
    let setup = sampled(setup(&folder, Ecosystem::Crates, &[&silent.url]), &body);
    for (milliseconds, verdict) in
        [(0, ProbeVerdict::NotMeasured), (300, ProbeVerdict::NotMeasured), (1500, ProbeVerdict::Dead)]
    {
        let report = probe_within(Duration::from_millis(milliseconds), &setup).0.remove(0);
        assert_eq!((report.verdict, report.score_milliseconds), (verdict, None), "{milliseconds} ms: {report:?}");
    }
}

#[test]
fn the_issuer_of_a_refused_certificate_is_named() {
    let (folder, body) = (Folder::new(), noise(1000));
    let authority = Authority::named(&folder, "Corp Traffic Inspection");
    let url = format!("https://localhost:{}", authority.serve("localhost", good(&body, "")));
    let untrusting = sampled(setup(&folder, Ecosystem::Npm, &[&url]), &body);
    let trusting = Setup { ca_bundles: vec![folder.0.join("ca.pem")], ..untrusting.clone() };
    for (setup, verdict) in [(untrusting, ProbeVerdict::Tls), (trusting, ProbeVerdict::Ok)] {
        let report = probe(&setup).0.remove(0);
        assert_eq!(report.verdict, verdict, "{report:?}");
        assert_eq!(report.tls_issuer.as_deref(), Some("Corp Traffic Inspection"));
        assert!(verdict == ProbeVerdict::Ok || report.message.contains("Corp Traffic Inspection"), "{report:?}");
    }
}

#[test]
fn without_a_sample_only_the_root_is_asked_and_the_message_says_so() {
    let folder = Folder::new();
    let server =
        Server::start(|hit| if hit.target == "/config.json" { Reply::ok(r#"{"dl":"x"}"#) } else { Reply::status(404) });
    let all = Setup { samples: Samples::default(), pins: Pins::default(), ..everywhere(&folder, &[&server.url], b"x") };
    for report in probe(&all).0 {
        assert_eq!(report.verdict, ProbeVerdict::Ok, "{report:?}");
        assert!(report.message.contains("no lock file names"), "{report:?}");
    }
    assert_eq!(server.hits().len(), SAMPLED.len());
}

/// A race as builds run it.
fn racing(setup: Setup) -> Setup {
    Setup {
        limits: Limits { race_milliseconds: 2000, connect_seconds: 4, first_byte_seconds: 10, ..setup.limits },
        ..setup
    }
}

fn hub_file(name: &str, body: &[u8]) -> Artifact {
    Artifact::HubFile {
        repo: "org/model".into(),
        revision: "abc123".into(),
        path: name.into(),
        sha256: sha256(body),
        size_bytes: body.len() as u64,
    }
}

/// A hub that holds every file, and answers after a while.
fn hub(body: &[u8], after: Duration) -> Server {
    let body = body.to_vec();
    Server::start(move |hit| {
        thread::sleep(after);
        file(hit, &body, "\"1\"")
    })
}

#[test]
fn three_dead_upstreams_before_two_good_ones_cost_less_than_two_seconds_once() {
    let (folder, body) = (Folder::new(), noise(1000));
    let (blackhole, silent) = (Blackhole::start(), Server::start(|_| Reply::Silent));
    let (good, other) = (hub(&body, Duration::ZERO), hub(&body, Duration::ZERO));
    let urls = [&*refusing(), &blackhole.url, &silent.url, &good.url, &other.url];
    let mut gateway = Gateway::start(&racing(sampled(setup(&folder, Ecosystem::Hub, &urls), &body)));
    let started = Instant::now();
    for file in ["a", "b", "c"] {
        gateway.send(1, Job::Fetch { artifact: hub_file(file, &body) });
    }
    assert!(gateway.finish(3).iter().all(Result::is_ok), "{:?}", gateway.events);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(gateway.findings().contains(&"mirror.dead"));
    // The preferred one of the good two delivers; the other was greeted and is needed no more.
    assert_eq!(other.hits().len(), 1);
    gateway.close();
    // Each is greeted once; the file came once, since its bytes are the same. Every request has its line.
    let seen = good.hits().len() + other.hits().len() + silent.hits().len();
    assert_eq!(gateway.egress().iter().filter(|line| line.status.is_some()).count() + silent.hits().len(), seen);
    assert_eq!(gateway.egress().iter().filter(|line| line.step.is_empty()).count(), urls.len());
}

#[test]
fn the_preferred_upstream_keeps_its_place_unless_another_is_much_faster() {
    let body = noise(1000);
    for (delay, preferred) in [(30, true), (900, false)] {
        let folder = Folder::new();
        let (first, second) = (hub(&body, Duration::from_millis(delay)), hub(&body, Duration::ZERO));
        let setup = racing(sampled(setup(&folder, Ecosystem::Hub, &[&first.url, &second.url]), &body));
        let mut gateway = Gateway::start(&setup);
        assert_eq!(gateway.fetch(hub_file("x", &body)).unwrap(), body);
        let delivered = gateway.events.iter().find_map(|event| match event {
            Event::Done { outcome: Outcome::Fetched { upstream, .. }, .. } => upstream.clone(),
            _ => None,
        });
        assert_eq!(delivered.unwrap() == first.url, preferred, "{delay} ms");
    }
}

#[test]
fn a_last_resort_hears_of_nothing_until_the_others_failed() {
    let body = noise(1000);
    for (mirrors_work, asked) in [(true, false), (false, true)] {
        let folder = Folder::new();
        let serve = |slow| if mirrors_work { hub(&body, slow) } else { Server::start(|_| Reply::html()) };
        let (first, second) = (serve(Duration::from_millis(300)), serve(Duration::from_millis(300)));
        let own = hub(&body, Duration::ZERO);
        let mut setup = racing(sampled(setup(&folder, Ecosystem::Hub, &[&first.url, &second.url, &own.url]), &body));
        setup.upstreams.get_mut(&Ecosystem::Hub).unwrap()[2].last_resort = true;
        assert_eq!(Gateway::start(&setup).fetch(hub_file("x", &body)).unwrap(), body);
        assert_eq!(!own.hits().is_empty(), asked, "mirrors work: {mirrors_work}");
    }
}

#[test]
fn who_lost_the_race_is_asked_when_the_winner_fails() {
    let (folder, body) = (Folder::new(), noise(1000));
    let lost = hub(&body, Duration::from_millis(600));
    let winner =
        Server::start(|hit| if hit.target.ends_with("config.json") { Reply::ok("x") } else { Reply::status(404) });
    let mut gateway =
        Gateway::start(&racing(sampled(setup(&folder, Ecosystem::Hub, &[&lost.url, &winner.url]), &body)));
    assert_eq!(gateway.fetch(hub_file("x", &body)).unwrap(), body);
    assert!(winner.hits().iter().any(|hit| hit.target.ends_with("/x")), "the winner was asked first");
}

#[test]
fn a_measurement_takes_the_place_of_the_race_and_is_no_promise() {
    let (folder, body) = (Folder::new(), noise(1000));
    let (slow, fast, gone) = (hub(&body, Duration::ZERO), hub(&body, Duration::ZERO), refusing());
    let urls = [&*slow.url, &gone, &fast.url];
    let report = |url: &str, verdict, score| ProbeReport {
        ecosystem: Ecosystem::Hub,
        url: url.to_owned(),
        origin: String::new(),
        verdict,
        message: String::new(),
        causes: Vec::new(),
        hosts: Vec::new(),
        failed_host: None,
        address: None,
        proxy: None,
        tls_issuer: None,
        status: None,
        connect_milliseconds: None,
        first_byte_milliseconds: None,
        bytes_per_second: None,
        score_milliseconds: score,
    };
    let mut measured = racing(sampled(setup(&folder, Ecosystem::Hub, &urls), &body));
    measured.measured = vec![
        report(&slow.url, ProbeVerdict::Ok, Some(9000)),
        report(&gone, ProbeVerdict::Ok, Some(100)),
        report(&fast.url, ProbeVerdict::Ok, Some(1000)),
    ];
    let mut gateway = Gateway::start(&measured);
    assert_eq!(gateway.fetch(hub_file("x", &body)).unwrap(), body);
    assert_eq!(gateway.verdicts(), [Verdict::Dead, Verdict::Ok]);
    assert_eq!((slow.hits().len(), fast.hits().len()), (0, 1));
}

#[test]
fn registries_are_greeted_by_host_and_a_token_is_not_fetched_for_that() {
    let (folder, body) = (Folder::new(), noise(1000));
    let tokens = Server::start(|_| Reply::ok("{}"));
    let realm = tokens.url.clone();
    let asking =
        Server::start(move |_| Reply::status(401).with("WWW-Authenticate", format!("Bearer realm=\"{realm}\"")));
    let portal = Server::start(|_| Reply::html());
    let mut setup = sampled(setup(&folder, Ecosystem::Hub, &[]), &body);
    let templates = [&asking.url, &portal.url].map(|url| upstream(&format!("{url}/v2/x/{{repo}}")));
    setup.registries.insert("docker.io".into(), templates.to_vec());
    setup.files.insert("dl.example".into(), vec![upstream(&format!("{}/{{path}}", portal.url))]);
    let reports = probe(&setup).0;
    let told: Vec<_> =
        reports.iter().map(|it| (it.ecosystem, it.url.split(" → ").next().unwrap(), it.verdict)).collect();
    assert_eq!(
        told,
        [
            (Ecosystem::Oci, "docker.io", ProbeVerdict::Ok),
            (Ecosystem::Oci, "docker.io", ProbeVerdict::Html),
            // What a file host shows at its root is no business of ours.
            (Ecosystem::File, "dl.example", ProbeVerdict::Ok),
        ]
    );
    assert_eq!((tokens.hits().len(), &*asking.hits()[0].target), (0, "/v2/"));
}

#[test]
fn what_a_probe_found_holds_for_the_run() {
    let (folder, body) = (Folder::new(), noise(1000));
    let (portal, fine) = (Server::start(|_| Reply::html()), hub(&body, Duration::ZERO));
    let mut setup = sampled(setup(&folder, Ecosystem::Hub, &[&portal.url, &fine.url]), &body);
    setup.samples.hub_file = Some(("org/model".into(), "abc123".into(), "x".into(), sha256(&body)));
    let (_, mut gateway) = probe(&setup);
    let asked = portal.hits().len();
    assert_eq!(gateway.fetch(hub_file("x", &body)).unwrap(), body);
    assert_eq!((asked, portal.hits().len()), (1, 1));
}

#[test]
fn a_private_name_is_in_no_race_and_no_probe() {
    let (folder, body) = (Folder::new(), noise(1000));
    let (own, public, other) = (hub(&body, Duration::ZERO), hub(&body, Duration::ZERO), hub(&body, Duration::ZERO));
    let mut setup = racing(sampled(setup(&folder, Ecosystem::Hub, &[&public.url, &other.url]), &body));
    let private = Private { names: vec!["org/*".into()], upstreams: vec![upstream(&own.url), upstream(&refusing())] };
    setup.private = BTreeMap::from([(Ecosystem::Hub, vec![private])]);
    let mut gateway = Gateway::start(&setup);
    assert_eq!(gateway.fetch(hub_file("x", &body)).unwrap(), body);
    assert_eq!((public.hits().len(), other.hits().len(), own.hits().len()), (0, 0, 1));
    // Samples are names too, and so are those of a list whose order keeps them from the public.
    probe(&setup);
    setup.private.clear();
    setup.only_after_absence.insert(Ecosystem::Hub);
    let mut gateway = probe(&setup).1;
    assert_eq!((public.hits().len(), other.hits().len()), (2, 2));
    Gateway::kill(&mut gateway);
    for hit in [public.hits(), other.hits()].concat() {
        assert!(!hit.target.contains("org"), "{hit:?}");
    }
    // Such an order is a rule: nobody behind the first is greeted before it has failed.
    let own_downloads = Folder::new();
    setup.downloads = own_downloads.0.join("downloads");
    assert_eq!(Gateway::start(&racing(setup)).fetch(hub_file("x", &body)).unwrap(), body);
    assert_eq!((public.hits().len(), other.hits().len()), (3, 2));
}

#[test]
fn what_is_in_the_store_starts_no_race() {
    let (folder, body) = (Folder::new(), noise(1000));
    let (good, other) = (hub(&body, Duration::ZERO), hub(&body, Duration::ZERO));
    let setup = racing(sampled(setup(&folder, Ecosystem::Hub, &[&good.url, &other.url]), &body));
    Gateway::start(&setup).fetch(hub_file("x", &body)).unwrap();
    let seen = other.hits().len();
    let started = Instant::now();
    Gateway::start(&setup).fetch(hub_file("x", &body)).unwrap();
    assert_eq!((other.hits().len(), seen), (1, 1));
    assert!(started.elapsed() < Duration::from_secs(1));
}
