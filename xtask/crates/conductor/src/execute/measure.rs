//! Measuring mirrors, and what to keep of it.
//!
//! Owns: which endpoints are measured when, and the line that tells it. Never: decide what is asked of an endpoint (the
//! gateway does), or let a measurement that could not be kept stop anything.

use crate::cache::measured::{Measured, circumstances};
use crate::error::Result;
use crate::mirror::AUTO;
use crate::report::Sink;
use crate::satellite::{self, Gateway};
use crate::settings::Settings;
use crate::tr;
use protocol::{Ecosystem, ProbeReport, ProbeVerdict, Setup};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What a person waits for a whole probe, of which some goes by before it can begin: each tool is asked for its default, the
/// gateway starts.
const WHOLE: Duration = Duration::from_millis(4500);
/// Less would call slow mirrors dead.
const LEAST: Duration = Duration::from_secs(2);

/// Every endpoint of a setup as reports name it, in its order.
pub fn endpoints(setup: &Setup) -> Vec<(Ecosystem, String)> {
    let plain = setup.upstreams.iter().flat_map(|(ecosystem, list)| list.iter().map(|it| (*ecosystem, it.url.clone())));
    let templates = [(Ecosystem::Oci, &setup.registries), (Ecosystem::File, &setup.files)];
    let named = templates.into_iter().flat_map(|(ecosystem, map)| {
        map.iter().flat_map(move |(name, list)| list.iter().map(move |it| (ecosystem, format!("{name} → {}", it.url))))
    });
    plain.chain(named).collect()
}

/// Measures whole ecosystems and keeps what was found. `spent`: how long the person has waited already.
pub fn measure(
    gateway: &Gateway,
    settings: &Settings,
    setup: &Setup,
    profile: &str,
    ecosystems: &BTreeSet<Ecosystem>,
    spent: Duration,
    sink: &Sink,
) -> Result<Vec<ProbeReport>> {
    let budget = WHOLE.saturating_sub(spent).max(LEAST);
    let reports = gateway.probe(ecosystems.iter().copied().collect(), budget)?;
    // Where nobody answers it is this machine's network that was measured, and that may be back in a minute.
    if reports.iter().all(|it| matches!(it.verdict, ProbeVerdict::Dead | ProbeVerdict::NotMeasured)) {
        return Ok(reports);
    }
    if let Err(error) = Measured::open(&settings.cache).add(profile, circumstances(setup)?, &reports) {
        sink.note(tr!("what was measured could not be kept: {error}", error));
    }
    Ok(reports)
}

/// The ecosystems with a choice that nobody has measured lately.
pub fn unmeasured(setup: &Setup) -> BTreeSet<Ecosystem> {
    let known: BTreeSet<(Ecosystem, &str)> = setup.measured.iter().map(|it| (it.ecosystem, &*it.url)).collect();
    let choice = |ecosystem: &Ecosystem| setup.upstreams.get(ecosystem).is_some_and(|list| list.len() > 1);
    let new = |(ecosystem, url): &(Ecosystem, String)| choice(ecosystem) && !known.contains(&(*ecosystem, &**url));
    endpoints(setup).iter().filter(|it| new(it)).map(|(ecosystem, _)| *ecosystem).collect()
}

/// For `--mirror auto`, before anything is fetched: every endpoint that has a rival, measured now or lately, in one line.
/// `needed`: the ecosystems that this run fetches from; no endpoint of another is contacted.
pub fn choose(
    gateway: &Gateway,
    settings: &Settings,
    setup: &Setup,
    needed: &BTreeSet<Ecosystem>,
    spent: Duration,
    sink: &Sink,
) -> Result<()> {
    let started = Instant::now();
    let ecosystems = &unmeasured(setup) & needed;
    let mut reports = setup.measured.clone();
    if !ecosystems.is_empty() {
        let found = measure(gateway, settings, setup, AUTO, &ecosystems, spent, sink)?;
        reports.retain(|old| !found.iter().any(|new| (new.ecosystem, &new.url) == (old.ecosystem, &old.url)));
        reports.extend(found);
    }
    let of_setup: BTreeSet<(Ecosystem, String)> =
        endpoints(setup).into_iter().filter(|(ecosystem, _)| needed.contains(ecosystem)).collect();
    reports.retain(|it| of_setup.contains(&(it.ecosystem, it.url.clone())));
    let mut best: BTreeMap<Ecosystem, &ProbeReport> = BTreeMap::new();
    for report in reports.iter().filter(|it| it.verdict == ProbeVerdict::Ok) {
        let place = best.entry(report.ecosystem).or_insert(report);
        if report.score_milliseconds < place.score_milliseconds {
            *place = report;
        }
    }
    let host = |report: &ProbeReport| report.hosts.first().cloned().unwrap_or_else(|| report.url.clone());
    let chosen: Vec<String> =
        best.into_iter().map(|(ecosystem, it)| format!("{} {}", satellite::name(&ecosystem), host(it))).collect();
    let (fastest, answer, all) =
        (chosen.join(", "), reports.iter().filter(|it| it.verdict == ProbeVerdict::Ok).count(), reports.len());
    sink.note(if ecosystems.is_empty() {
        tr!(
            "mirror auto: as measured lately, {answer} of {all} endpoints serve; fastest: {fastest}",
            answer,
            all,
            fastest
        )
    } else {
        let seconds = started.elapsed().as_secs_f64();
        tr!(
            "mirror auto: measured in {seconds} s, {answer} of {all} endpoints serve; fastest: {fastest}",
            seconds = format_args!("{seconds:.1}"),
            answer,
            all,
            fastest
        )
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ecosystem_with_a_choice_and_something_new_is_measured() {
        let upstream = |url: &str| serde_json::json!({ "url": url, "origin": "" });
        let setup = |measured: &[&str]| -> Setup {
            let report = |url: &&str| serde_json::json!({ "ecosystem": "go", "url": url, "origin": "", "verdict": "dead", "message": "", "hosts": [] });
            let text = serde_json::json!({
                "schema": 0, "downloads": "/", "measured": measured.iter().map(report).collect::<Vec<_>>(),
                "upstreams": { "go": [upstream("http://a"), upstream("http://b")], "python": [upstream("http://c")] },
                "registries": { "docker.io": [upstream("http://d/{repo}")] },
            });
            serde_json::from_value(text).unwrap()
        };
        assert_eq!(unmeasured(&setup(&[])), [Ecosystem::Go].into());
        assert_eq!(unmeasured(&setup(&["http://a"])), [Ecosystem::Go].into());
        assert_eq!(unmeasured(&setup(&["http://a", "http://b"])), BTreeSet::new());
        let names: Vec<String> = endpoints(&setup(&[])).into_iter().map(|(_, url)| url).collect();
        assert_eq!(names, ["http://a", "http://b", "http://c", "docker.io → http://d/{repo}"]);
    }
}
