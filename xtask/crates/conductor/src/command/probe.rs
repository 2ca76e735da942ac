//! `mirror probe`: what each endpoint of a profile is worth from here, measured now or lately.
//!
//! Owns: the table and its JSON. Never: measure what was measured lately, unless asked to, or touch the store.

use super::print;
use crate::cache::measured::{Measured, circumstances};
use crate::cli;
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
        let last = measured.last(&profile).filter(|it| is_wanted(it.report.ecosystem));
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
    tell(&settings, &profile, &found)
}

fn ecosystems(names: &[String]) -> Result<BTreeSet<Ecosystem>> {
    let ecosystem = |name: &String| {
        serde_json::from_value(name.as_str().into()).map_err(|_| {
            let known = ALL.iter().map(satellite::name).collect::<Vec<_>>().join(", ");
            Error::new(Code::UnknownChoice, tr!("there is no ecosystem `{name}`; there are {known}", name, known))
        })
    };
    names.iter().map(ecosystem).collect()
}

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
    print(settings, "probe", &(), &table(found))
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
            satellite::name(&report.verdict),
            milliseconds(report.connect_milliseconds),
            milliseconds(report.first_byte_milliseconds),
            report.bytes_per_second.map_or_else(|| "-".to_owned(), |speed| format!("{}/s", report::bytes(speed))),
            report.score_milliseconds.map_or_else(|| "-".to_owned(), seconds),
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
    let mut parts = vec![report.message.clone()];
    if let Some(host) = &report.failed_host {
        parts.push(tr!("failed host: {host}", host));
    }
    if let Some(proxy) = &report.proxy {
        parts.push(tr!("through proxy {proxy}", proxy));
    }
    if let (ProbeVerdict::Tls, Some(issuer)) = (report.verdict, &report.tls_issuer) {
        parts.push(tr!("certificate signed by {issuer}", issuer));
    }
    parts.join("; ")
}

fn spoken(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}
