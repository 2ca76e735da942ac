//! Large downloads over bad connections: each byte once, the right ones, in little memory.

use crate::gateway::{Folder, Gateway, setup, shell, upstream};
use crate::server::{Hit, Reply, Server, file, noise, sha256};
use protocol::{Artifact, Ecosystem, Event, Job, Outcome, Setup, Upstream};
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// A file that any number of upstreams may have, as [`artifact`] asks for it.
fn mirrored(folder: &Folder, urls: &[&str]) -> Setup {
    let mut setup = setup(folder, Ecosystem::File, &[]);
    let templates: Vec<Upstream> = urls.iter().map(|url| upstream(&format!("{url}/{{path}}"))).collect();
    setup.files = BTreeMap::from([("files.example".to_owned(), templates)]);
    // Its own URL is nowhere.
    setup.allowed_hosts = Some(urls.iter().map(|url| url.replace("http://", "")).collect());
    setup
}

fn artifact(body: &[u8]) -> Artifact {
    Artifact::File {
        url: "https://files.example/model.bin".to_owned(),
        sha256: sha256(body),
        size_bytes: body.len() as u64,
    }
}

type Ending = fn(u16, Vec<(&'static str, String)>, Vec<u8>, usize) -> Reply;

/// A good answer that ends early, in one of the server's ways.
fn early(reply: Reply, after: usize, end: Ending) -> Reply {
    match reply {
        Reply::Whole { status: status @ (200 | 206), headers, body } => end(status, headers, body, after),
        other => other,
    }
}

fn cut(status: u16, headers: Vec<(&'static str, String)>, body: Vec<u8>, after: usize) -> Reply {
    Reply::Cut { status, headers, body, after }
}

fn reset(status: u16, headers: Vec<(&'static str, String)>, body: Vec<u8>, after: usize) -> Reply {
    Reply::Reset { status, headers, body, after }
}

fn hold(status: u16, headers: Vec<(&'static str, String)>, body: Vec<u8>, after: usize) -> Reply {
    Reply::Hold { status, headers, body, after }
}

#[test]
fn a_reset_every_mebibyte_moves_each_byte_once() {
    let (folder, body) = (Folder::new(), noise(64 * MIB));
    let sent = body.clone();
    let server = Server::start(move |hit| early(file(hit, &sent, "\"1\""), MIB, reset));
    let mut gateway = Gateway::start(&mirrored(&folder, &[&server.url]));
    assert!(gateway.fetch(artifact(&body)).unwrap() == body);
    let share = server.sent_bytes() as f64 / body.len() as f64;
    assert!(share <= 1.1, "{share}");
    assert_eq!(server.hits().len(), 64);
}

#[test]
fn a_gateway_killed_every_mebibyte_moves_each_byte_once() {
    let (folder, body) = (Folder::new(), noise(64 * MIB));
    let sent = body.clone();
    let server = Server::start(move |hit| early(file(hit, &sent, "\"1\""), MIB, hold));
    let mut setup = mirrored(&folder, &[&server.url]);
    setup.limits.stall_seconds = 20;
    let partial = folder.0.join("downloads/partial").join(sha256(&body));
    for mebibytes in 1..64 {
        let mut gateway = Gateway::start(&setup);
        gateway.send(1, Job::Fetch { artifact: artifact(&body) });
        let started = Instant::now();
        while fs::metadata(&partial).map_or(0, |file| file.len()) < mebibytes * MIB as u64 {
            assert!(started.elapsed() < Duration::from_secs(20), "{mebibytes}");
            std::thread::sleep(Duration::from_millis(1));
        }
        gateway.kill();
    }
    assert!(Gateway::start(&setup).fetch(artifact(&body)).unwrap() == body);
    let share = server.sent_bytes() as f64 / body.len() as f64;
    assert!(share <= 1.1, "{share}");
}

#[test]
fn a_pause_after_progress_is_not_the_end_of_an_only_upstream() {
    let (folder, body, asked) = (Folder::new(), noise(MIB), AtomicUsize::new(0));
    let sent = body.clone();
    // More pauses than rounds, each after some progress.
    let server = Server::start(move |hit| match asked.fetch_add(1, Ordering::Relaxed) {
        0..4 => early(file(hit, &sent, "\"1\""), MIB / 8, hold),
        _ => file(hit, &sent, "\"1\""),
    });
    let mut setup = mirrored(&folder, &[&server.url]);
    setup.limits.stall_seconds = 1;
    let mut gateway = Gateway::start(&setup);
    assert!(gateway.fetch(artifact(&body)).unwrap() == body);
    assert_eq!((server.hits().len(), server.sent_bytes()), (5, MIB as u64));
    let stalls = gateway.findings().iter().filter(|code| **code == "mirror.stalled").count();
    assert_eq!(stalls, 4);
}

#[test]
fn what_an_upstream_says_of_ranges_is_not_believed() {
    let body = noise(4 * MIB);
    let half = body.len() / 2;
    /// What the server does to one that has the first half; the most it may send, relative to the size.
    type Case = (&'static str, fn(&Hit, &[u8]) -> Reply, f64);
    let cases: [Case; 7] = [
        ("no ranges", |_, body| Reply::ok(body), 1.0),
        ("another entity tag", |hit, body| file(hit, body, "\"2\""), 1.0),
        ("another start", |hit, body| lie(hit, body, 1, 1, 0), 1.0),
        ("other bytes than it says", |hit, body| lie(hit, body, 0, 1, 0), 1.5),
        ("another length", |hit, body| lie(hit, body, 0, 0, 7), 1.1),
        (
            "no range satisfies",
            |hit, body| if hit.headers.contains_key("range") { Reply::status(416) } else { Reply::ok(body) },
            1.0,
        ),
        (
            "a quarter at a time",
            |hit, body| match file(hit, body, "\"1\"") {
                Reply::Whole { status: 206, headers, body: rest } => {
                    let from = body.len() - rest.len();
                    let end = (from + body.len() / 4).min(body.len());
                    let says = format!("bytes {from}-{}/{}", end - 1, body.len());
                    let headers = headers.into_iter().filter(|(name, _)| *name == "ETag").collect();
                    Reply::Whole { status: 206, headers, body: body[from..end].to_vec() }.with("Content-Range", says)
                }
                other => other,
            },
            0.5,
        ),
    ];
    for (case, reply, most) in cases {
        let (folder, sent) = (Folder::new(), body.clone());
        let server = Server::start(move |hit| reply(hit, &sent));
        let share = continued(&folder, case, &server, &body[..half], &body);
        assert!(share <= most, "{case}: {share}");
    }
}

/// Downloads where a partial lies already. Returns what came over the network, relative to the size; nobody is blamed.
fn continued(folder: &Folder, case: &str, server: &Server, held: &[u8], body: &[u8]) -> f64 {
    let partial = folder.0.join("downloads/partial").join(sha256(body));
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    fs::write(&partial, held).unwrap();
    let source = format!(r#"{{"url":"{}/model.bin","etag":"\"1\""}}"#, server.url);
    fs::write(partial.with_extension("source"), source).unwrap();
    let mut gateway = Gateway::start(&mirrored(folder, &[&server.url]));
    assert!(gateway.fetch(artifact(body)).unwrap() == body, "{case}");
    // Less than was asked for is no fault, and no whole either.
    assert!(gateway.findings().iter().all(|code| *code == "mirror.truncated"), "{case}: {:?}", gateway.findings());
    gateway.egress().iter().map(|line| line.bytes).sum::<u64>() as f64 / body.len() as f64
}

#[test]
fn a_wrong_partial_costs_no_more_than_the_file() {
    let body = noise(4 * MIB);
    let half = body.len() / 2;
    let mut spoilt = body[..half].to_vec();
    spoilt[MIB] ^= 1;
    let longer = [&body[..], b"more"].concat();
    let whole = [&spoilt, &body[half..body.len() - 1]].concat();
    let deaf = |_: &Hit, body: &[u8]| Reply::ok(body);
    let ranged = |hit: &Hit, body: &[u8]| file(hit, body, "\"1\"");
    // The last byte shows that the partial was wrong; it is begun again over a connection that breaks off.
    let flaky = |hit: &Hit, body: &[u8]| early(file(hit, body, "\"1\""), MIB / 2, cut);
    type Case<'a> = (&'a str, &'a [u8], fn(&Hit, &[u8]) -> Reply, f64);
    let cases: [Case<'_>; 4] = [
        ("spoilt, and no ranges", &spoilt, deaf, 1.0),
        ("right, and longer", &longer, ranged, 1.0),
        ("longer, and no ranges", &longer, deaf, 1.0),
        ("spoilt to the last byte", &whole, flaky, 1.01),
    ];
    for (case, held, reply, most) in cases {
        let (folder, sent) = (Folder::new(), body.clone());
        let server = Server::start(move |hit| reply(hit, &sent));
        let share = continued(&folder, case, &server, held, &body);
        assert!(share <= most, "{case}: {share}");
    }
}

/// A range answer that says another start, sends bytes from another place or says another length of the whole, each off by
/// this much; without a range the whole.
fn lie(hit: &Hit, body: &[u8], start: usize, place: usize, length: usize) -> Reply {
    match file(hit, body, "\"1\"") {
        Reply::Whole { status: 206, body: rest, .. } => {
            let from = body.len() - rest.len();
            let bytes = &body[from - place..body.len() - place];
            let says = format!("bytes {}-{}/{}", from - start, body.len() - 1, body.len() + length);
            Reply::Whole { status: 206, headers: Vec::new(), body: bytes.to_vec() }.with("Content-Range", says)
        }
        other => other,
    }
}

#[test]
fn what_one_upstream_brought_is_not_undone_by_another() {
    let (folder, body) = (Folder::new(), noise(4 * MIB));
    let (sent, again) = (body.clone(), body.clone());
    // The first knows no ranges and breaks off; the second continues, and breaks off too.
    let deaf = Server::start(move |_| cut(200, Vec::new(), again.clone(), MIB));
    let flaky = Server::start(move |hit| {
        let reply = file(hit, &sent, "\"1\"");
        if hit.headers.contains_key("range") { early(reply, 40_000, cut) } else { reply }
    });
    let setup = mirrored(&folder, &[&deaf.url, &flaky.url]);
    let partial = folder.0.join("downloads/partial").join(sha256(&body));
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    fs::write(&partial, &body[..body.len() - 80_000]).unwrap();
    assert!(Gateway::start(&setup).fetch(artifact(&body)).unwrap() == body);
    assert!(flaky.sent_bytes() <= 80_000, "{}", flaky.sent_bytes());
}

/// A generator of numbers whose seed a failed test prints.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap()
    }
}

/// What a server does with one request.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Cut(usize),
    Reset(usize),
    Status(u16),
    /// As if ranges were unknown, to the end or not.
    Deaf(usize),
    NewTag,
    Flip(usize),
    WrongStart,
    WrongBytes,
    WrongLength,
    Html,
}

impl Fault {
    /// One that a server may have without being wrong.
    fn honest(chance: &mut Chance, size: usize) -> Self {
        let after = chance.below(size + 1);
        [Self::Cut(after), Self::Reset(after), Self::Status(502), Self::Deaf(after), Self::NewTag][chance.below(5)]
    }

    fn any(chance: &mut Chance, size: usize) -> Self {
        match chance.below(10) {
            0 => Self::Flip(chance.below(size)),
            1 => Self::WrongStart,
            2 => Self::WrongBytes,
            3 => Self::WrongLength,
            4 => Self::Html,
            5 => Self::Status([404, 416, 503, 429][chance.below(4)]),
            _ => Self::honest(chance, size),
        }
    }

    fn reply(self, hit: &Hit, body: &[u8]) -> Reply {
        let good = || file(hit, body, "\"1\"");
        match self {
            Self::Cut(after) => early(good(), after, cut),
            Self::Reset(after) => early(good(), after, reset),
            Self::Status(status) => Reply::status(status),
            Self::Deaf(after) => cut(200, Vec::new(), body.to_vec(), after),
            Self::NewTag => file(hit, body, "\"2\""),
            Self::Flip(at) => {
                let mut body = body.to_vec();
                body[at] ^= 1;
                file(hit, &body, "\"1\"")
            }
            Self::WrongStart => lie(hit, body, 1, 1, 0),
            Self::WrongBytes => lie(hit, body, 0, 1, 0),
            Self::WrongLength => lie(hit, body, 0, 0, 7),
            Self::Html => Reply::html(),
        }
    }
}

/// One download from up to two servers with any faults and one that is honest and recovers; the gateway may be killed on
/// the way. Whatever the order, the right bytes arrive and nobody is blamed for another's bytes.
fn survive(seed: u64) {
    let mut chance = Chance(seed);
    let size = 1 + chance.below(2 * MIB);
    let (folder, body) = (Folder::new(), noise(size));
    let mut schedules: Vec<Vec<Fault>> =
        (0..chance.below(3)).map(|_| (0..chance.below(6)).map(|_| Fault::any(&mut chance, size)).collect()).collect();
    let honest: Vec<Fault> = (0..chance.below(3)).map(|_| Fault::honest(&mut chance, size)).collect();
    let place = chance.below(schedules.len() + 1);
    schedules.insert(place, honest);
    let told = format!("seed {seed}: {size} bytes, honest {place}: {schedules:?}");
    let servers: Vec<Server> = schedules
        .into_iter()
        .map(|schedule| {
            let (body, asked) = (body.clone(), AtomicUsize::new(0));
            Server::start(move |hit| match schedule.get(asked.fetch_add(1, Ordering::Relaxed)) {
                Some(fault) => fault.reply(hit, &body),
                None => file(hit, &body, "\"1\""),
            })
        })
        .collect();
    let setup = mirrored(&folder, &servers.iter().map(|server| server.url.as_str()).collect::<Vec<_>>());
    for _ in 0..chance.below(3) {
        let mut gateway = Gateway::start(&setup);
        gateway.send(1, Job::Fetch { artifact: artifact(&body) });
        std::thread::sleep(Duration::from_millis(chance.below(20) as u64));
        gateway.kill();
    }
    let mut gateway = Gateway::start(&setup);
    match gateway.perform(Job::Fetch { artifact: artifact(&body) }) {
        Ok(Outcome::Fetched { path, .. }) => assert!(fs::read(path).unwrap() == body, "{told}"),
        other => panic!("{told}: {other:?}"),
    }
    gateway.close();
    let honest = servers[place].url.strip_prefix("http://").unwrap().to_owned();
    let blamed = gateway.events.iter().filter(|event| match event {
        Event::Finding { code, message, .. } => code == "mirror.hash" && message.contains(&honest),
        _ => false,
    });
    let blamed = blamed.count();
    assert_eq!(blamed, 0, "{told}");
    assert_eq!(folder.files("downloads/partial"), Vec::<String>::new(), "{told}");
}

#[test]
fn two_hundred_schedules_of_faults_are_survived() {
    // Another start, for longer searches: GATEWAY_SEED=1000.
    let first = std::env::var("GATEWAY_SEED").map_or(0, |seed| seed.parse().unwrap());
    let next = AtomicU64::new(first);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + 200 {
                        return;
                    }
                    survive(seed);
                }
            });
        }
    });
}

#[test]
fn a_gibibyte_passes_through_little_memory() {
    const SIZE: u64 = 1 << 30;
    const MOST_KIB: u64 = 48 << 10;
    let folder = Folder::new();
    shell(&folder.0, &format!("truncate -s {SIZE} zeros; sha256sum zeros | cut -c1-64 >hash"));
    let hash = fs::read_to_string(folder.0.join("hash")).unwrap().trim().to_owned();
    let etag = format!("\"{hash}\"");
    let server = Server::start(move |hit| {
        let described = Reply::ok("").with("X-Linked-Etag", etag.clone()).with("X-Linked-Size", SIZE.to_string());
        if hit.method == "HEAD" { described } else { Reply::Zeros { size_bytes: SIZE } }
    });
    let gateway = Gateway::start(&setup(&folder, Ecosystem::Hub, &[&server.url]));
    // First as it comes, then from the store; the child counts and forgets.
    for _ in 0..2 {
        let url = format!("http://xtask-gateway.invalid/hub/o/m/resolve/{}/model.bin", "1".repeat(40));
        assert_eq!(gateway.length(&url), SIZE);
        assert!(gateway.peak_kib() < MOST_KIB, "{} KiB", gateway.peak_kib());
    }
    println!("peak: {} KiB", gateway.peak_kib());
    assert_eq!(server.hits().len(), 2);
}
