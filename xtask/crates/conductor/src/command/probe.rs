//! `mirror probe`: what each endpoint of a profile is worth from here, measured now or lately.
//!
//! Owns: the table and its JSON. Never: measure what was measured lately, unless asked to, or touch the store.

use super::print;
use crate::cache::measured::{Measured, circumstances};
use crate::cause::{of_report, verdict};
use crate::cli;
use crate::doctor::gather;
use crate::document::did_you_mean;
use crate::error::{Code, Error, Result};
use crate::execute::measure;
use crate::execute::outside::Outside;
use crate::language::columns;
use crate::project::Project;
use crate::report::{self, Sink};
use crate::satellite;
use crate::settings::{Format, MirrorChoice, Origin, Settings, Sourced};
use crate::tr;
use protocol::{Ecosystem, ProbeReport, ProbeVerdict};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// One endpoint, as JSON has it.
#[derive(Serialize)]
struct Told<'a> {
    profile: &'a str,
    #[serde(flatten)]
    report: &'a ProbeReport,
    /// Measured before this run.
    cached: bool,
    age_seconds: u64,
}

/// A report and how old it is; `None`: measured just now.
type Found = (ProbeReport, Option<Duration>);

pub fn probe(settings: &Settings, project: &Project, sink: Sink, asked: &cli::Probe) -> Result<()> {
    let mut settings = settings.clone();
    if let Some(name) = &asked.name {
        settings.mirror = Sourced { value: MirrorChoice::Named(name.clone()), origin: Origin::Flag };
    }
    let wanted = ecosystems(&asked.ecosystem)?;
    let is_wanted = |ecosystem: Ecosystem| wanted.is_empty() || wanted.contains(&ecosystem);
    let log = settings.workspace.logs().join("mirror.log");
    let outside = Outside::new(&settings, project, sink.clone(), log)?.for_every_ecosystem();
    let profile = outside.profile().map_or_else(|| "direct".to_owned(), |profile| profile.name.clone());
    let measured = Measured::open(&settings.cache);
    if settings.offline.value {
        let last = measured.last(&profile).into_iter().filter(|it| is_wanted(it.report.ecosystem));
        let found: Vec<Found> = last.map(|it| (it.report.clone(), Some(it.age()))).collect();
        sink.note(tr!("nothing is contacted with --offline: these are the last measurements"));
        return tell(&settings, &profile, &found);
    }
    let begun = Instant::now();
    let setup = outside.setup();
    let spent = begun.elapsed();
    let endpoints: Vec<_> = measure::endpoints(&setup).into_iter().filter(|(it, _)| is_wanted(*it)).collect();
    if endpoints.is_empty() {
        return Err(Error::new(Code::NoEndpoint, tr!("mirror `{profile}` has no endpoint for that", profile))
            .hint("cargo xtask mirror show"));
    }
    let circumstances = circumstances(&setup)?;
    let lately = |(ecosystem, url): &(Ecosystem, String)| {
        measured.of(*ecosystem, url, circumstances).filter(|it| it.is_fresh() && !asked.fresh)
    };
    let missing: BTreeSet<Ecosystem> = endpoints.iter().filter(|it| lately(it).is_none()).map(|(it, _)| *it).collect();
    if settings.dry_run {
        let urls = endpoints.iter().filter(|(it, _)| missing.contains(it)).map(|(_, url)| url.as_str());
        let urls = urls.collect::<Vec<_>>().join("\n  ");
        sink.note(tr!("would measure:\n  {urls}", urls));
        return Ok(());
    }
    let new = match missing.is_empty() {
        true => {
            sink.note(tr!("measured lately; `--fresh` measures again"));
            Vec::new()
        }
        false => {
            measure::measure(&*outside.gateway_unmeasured()?, &settings, &setup, &profile, &missing, spent, &sink)?
        }
    };
    let found: Vec<Found> = endpoints
        .iter()
        .filter_map(|endpoint| {
            let (ecosystem, url) = endpoint;
            let now = new.iter().find(|it| (it.ecosystem, &it.url) == (*ecosystem, url));
            now.map(|it| (it.clone(), None)).or_else(|| lately(endpoint).map(|it| (it.report.clone(), Some(it.age()))))
        })
        .collect();
    tell(&settings, &profile, &found)?;
    if found.iter().any(|(it, _)| serves(it)) {
        return Ok(());
    }
    let message = match gather::routed() {
        Some(false) => tr!("this machine has no network: there is no route"),
        _ => tr!("no endpoint of mirror `{profile}` can serve", profile),
    };
    Err(Error::new(Code::Unreachable, message).hint("cargo xtask doctor mirrors"))
}

fn serves(report: &ProbeReport) -> bool {
    matches!(report.verdict, ProbeVerdict::Ok | ProbeVerdict::Stale)
}

fn ecosystems(names: &[String]) -> Result<BTreeSet<Ecosystem>> {
    let ecosystem = |name: &String| {
        let name = TOOLS.iter().find(|(tool, _)| tool == name).map_or(name.as_str(), |(_, ecosystem)| ecosystem);
        serde_json::from_value(name.into()).map_err(|_| {
            let known = ALL.iter().map(satellite::name).collect::<Vec<_>>();
            let message = tr!("there is no ecosystem `{name}`; there are {known}", name, known = known.join(", "));
            did_you_mean(Error::new(Code::UnknownChoice, message), name, known.iter().map(String::as_str))
        })
    };
    names.iter().map(ecosystem).collect()
}

/// Tools by which people call an ecosystem.
const TOOLS: [(&str, &str); 8] = [
    ("cargo", "crates"),
    ("golang", "go"),
    ("pip", "python"),
    ("uv", "python"),
    ("huggingface", "hub"),
    ("node", "npm"),
    ("debian", "apt"),
    ("docker", "oci"),
];

const ALL: [Ecosystem; 9] = [
    Ecosystem::Crates,
    Ecosystem::Go,
    Ecosystem::Python,
    Ecosystem::Hub,
    Ecosystem::Npm,
    Ecosystem::Apt,
    Ecosystem::Rustup,
    Ecosystem::Oci,
    Ecosystem::File,
];

fn tell(settings: &Settings, profile: &str, found: &[Found]) -> Result<()> {
    if settings.format == Format::Json {
        for (report, age) in found {
            let age_seconds = age.unwrap_or_default().as_secs();
            print(settings, "probe", &Told { profile, report, cached: age.is_some(), age_seconds }, "")?;
        }
        return Ok(());
    }
    let text = [vec![table(found)], conclusion(found)].concat().join("\n");
    print(settings, "probe", &(), &text)
}

/// What a person takes home: who can serve, why most of the others cannot, how to read a score.
fn conclusion(found: &[Found]) -> Vec<String> {
    let mut serving: BTreeMap<Ecosystem, (usize, usize)> = BTreeMap::new();
    let mut causes: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (report, _) in found {
        let (can, all) = serving.entry(report.ecosystem).or_default();
        *can += usize::from(serves(report));
        *all += 1;
        let host = report.failed_host.as_ref().or(report.hosts.first());
        if let (false, Some(host)) = (serves(report), host) {
            causes.entry(of_report(report)).or_default().insert(host);
        }
    }
    let told =
        |(ecosystem, (can, all)): (&Ecosystem, &(usize, usize))| format!("{} {can}/{all}", satellite::name(ecosystem));
    let list = serving.iter().map(told).collect::<Vec<_>>().join(", ");
    let mut lines = vec![tr!("can serve: {list}", list)];
    if let Some((cause, hosts)) = causes.iter().max_by_key(|(_, hosts)| hosts.len()).filter(|(_, it)| it.len() > 1) {
        lines.push(tr!("{count} hosts failed alike: {cause}", count = hosts.len(), cause));
    }
    if found.iter().any(|(report, _)| expected(report).is_some()) {
        lines.push(tr!("score: the time that all downloads of this project would take from there"));
    }
    lines
}

/// Without a measured speed a score is good for an order only, and no time that anybody should expect.
fn expected(report: &ProbeReport) -> Option<u64> {
    report.score_milliseconds.filter(|_| report.bytes_per_second.is_some())
}

/// A line an endpoint, best of each ecosystem first as a build would ask them; below it what is wrong.
fn table(found: &[Found]) -> String {
    let headings = [
        tr!("ecosystem"),
        tr!("endpoint"),
        tr!("verdict"),
        tr!("connect"),
        tr!("first byte"),
        tr!("speed"),
        tr!("score"),
        tr!("age"),
    ];
    let mut rows = vec![(headings, None)];
    let mut last = None;
    for (report, age) in found {
        let milliseconds = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value} ms"));
        let seconds = |value: u64| format!("{:.1} s", value as f64 / 1000.0);
        let name = satellite::name(&report.ecosystem);
        let row = [
            if last == Some(report.ecosystem) { String::new() } else { name },
            report.url.clone(),
            verdict(report.verdict),
            milliseconds(report.connect_milliseconds),
            milliseconds(report.first_byte_milliseconds),
            report.bytes_per_second.map_or_else(|| "-".to_owned(), |speed| format!("{}/s", report::bytes(speed))),
            expected(report).map_or_else(|| "-".to_owned(), seconds),
            age.map_or_else(|| tr!("now"), spoken),
        ];
        last = Some(report.ecosystem);
        rows.push((row, (report.verdict != ProbeVerdict::Ok).then(|| problem(report))));
    }
    let mut widths: BTreeMap<usize, usize> = BTreeMap::new();
    for (at, cell) in rows.iter().flat_map(|(row, _)| row.iter().enumerate()) {
        let width = widths.entry(at).or_default();
        *width = (*width).max(columns(cell));
    }
    let mut text = String::new();
    for (row, problem) in &rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let blanks = " ".repeat(widths[&at] - columns(cell));
            // Words to the left, figures to the right.
            let cell = if at < 3 { format!("{cell}{blanks}") } else { format!("{blanks}{cell}") };
            line.push_str(&format!("{cell}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
        if let Some(problem) = problem {
            text.push_str(&format!("{}  {problem}\n", " ".repeat(widths[&0])));
        }
    }
    text
}

fn problem(report: &ProbeReport) -> String {
    let mut parts = vec![of_report(report)];
    if let Some(host) = &report.failed_host {
        parts.push(tr!("failed host: {host}", host));
    }
    if let Some(proxy) = &report.proxy {
        parts.push(tr!("through proxy {proxy}", proxy));
    }
    if let (ProbeVerdict::Tls, Some(issuer)) = (report.verdict, &report.tls_issuer) {
        parts.push(tr!("certificate signed by {issuer}", issuer));
    }
    parts.join(&tr!("; "))
}

fn spoken(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(ecosystem: &str, host: &str, verdict: &str, message: &str, speed: Option<u64>) -> Found {
        let report = serde_json::json!({
            "ecosystem": ecosystem, "url": format!("https://{host}/"), "origin": "", "verdict": verdict, "message": message,
            "hosts": [host], "bytes_per_second": speed, "score_milliseconds": 360_100,
        });
        (serde_json::from_value(report).unwrap(), None)
    }

    #[test]
    fn the_conclusion_counts_who_serves_and_tells_a_common_cause_once() {
        let unknown = |host: &str| format!("cannot connect to {host}: Name or service not known");
        let named = |(mut report, age): Found| {
            report.causes = vec![protocol::Cause::UnknownName];
            (report, age)
        };
        let mut all = vec![
            named(found("crates", "a.example", "dead", &unknown("a.example"), None)),
            named(found("go", "a.example", "dead", &unknown("a.example"), None)),
            named(found("go", "b.example", "dead", &unknown("b.example"), None)),
            found("go", "c.example", "html", "a web page", None),
            found("go", "d.example", "ok", "", None),
        ];
        assert_eq!(
            conclusion(&all),
            ["can serve: crates 0/1, go 1/4", "2 hosts failed alike: no name server knows this name"]
        );
        assert!(!table(&all).contains("360.1 s"));
        all.push(found("oci", "e.example", "ok", "", Some(1 << 20)));
        assert!(table(&all).contains("360.1 s"));
        assert!(conclusion(&all).last().unwrap().starts_with("score: "));
    }

    #[test]
    fn an_ecosystem_is_known_by_its_tools() {
        let named = |name: &str| ecosystems(&[name.to_owned()]);
        for (tool, ecosystem) in TOOLS {
            assert_eq!(named(tool).unwrap(), named(ecosystem).unwrap());
        }
        assert_eq!(named("pyhton").unwrap_err().hints(), ["did you mean `python`?"]);
    }
}
