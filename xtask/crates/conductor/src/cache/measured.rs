//! What probes of mirrors found, kept until it is too old to go by.
//!
//! ```text
//! measured-v1.json   a record for each profile and endpoint: when, under which circumstances, the report
//! ```
//! Owns: that file, and how long a report holds. Never: a credential (reports have none), or trust: a report says whom to ask
//! first, and what comes from there is verified as ever. A file that cannot be read is none: measuring again costs seconds.

use crate::cache::lock::now_seconds;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::tr;
use crate::workspace::CacheFolder;
use protocol::{Ecosystem, ProbeReport, ProbeVerdict, Setup};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

const VERSION: u32 = 1;
/// A mirror that serves well is not gone the next minute.
const GOOD_HOLDS: Duration = Duration::from_secs(60 * 60);
/// One that failed may be back soon, and whoever repairs a network wants to see it.
const BAD_HOLDS: Duration = Duration::from_secs(10 * 60);
/// What is older tells nobody anything, not even where nothing can be measured.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub profile: String,
    /// Seconds since 1970.
    pub at: u64,
    pub circumstances: Digest,
    pub report: ProbeReport,
}

impl Record {
    pub fn age(&self) -> Duration {
        Duration::from_secs(now_seconds().saturating_sub(self.at))
    }

    pub fn is_fresh(&self) -> bool {
        // A clock that was set back leaves records of the future, which would hold for long.
        self.at <= now_seconds() && self.age() < holds(self.report.verdict)
    }
}

fn holds(verdict: ProbeVerdict) -> Duration {
    if verdict == ProbeVerdict::Ok { GOOD_HOLDS } else { BAD_HOLDS }
}

/// What a measurement depends on besides the endpoint: another network's is worth nothing.
/// Without credentials: a digest of a short password would tell it.
pub fn circumstances(setup: &Setup) -> Result<Digest> {
    let host = |proxy: &Option<String>| proxy.as_ref().map(|url| url.rsplit('@').next().unwrap_or(url).to_owned());
    let proxies = (host(&setup.proxy.https), host(&setup.proxy.http), &setup.proxy.no_proxy);
    let trust = (&setup.ca_bundles, &setup.further_authorities);
    let text = serde_json::to_vec(&(&setup.samples, proxies, trust, &setup.allowed_hosts))
        .map_err(|error| Error::bug(tr!("the circumstances of a probe")).because(error))?;
    Ok(Digest::of(&text))
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    measured: Vec<Record>,
}

/// The measurements of this user.
#[derive(Clone, Debug)]
pub struct Measured {
    path: PathBuf,
    records: Vec<Record>,
}

impl Measured {
    pub fn open(cache: &CacheFolder) -> Self {
        let path = cache.measured();
        let read = files::read_if_present(&path).ok().flatten();
        let file =
            read.and_then(|bytes| serde_json::from_slice::<File>(&bytes).ok()).filter(|it| it.version == VERSION);
        Self { path, records: file.map(|file| file.measured).unwrap_or_default() }
    }

    /// The newest that is known of an endpoint, whatever the profile that it was measured for.
    pub fn of(&self, ecosystem: Ecosystem, url: &str, circumstances: Digest) -> Option<&Record> {
        let same =
            |it: &&Record| (it.report.ecosystem, &*it.report.url, it.circumstances) == (ecosystem, url, circumstances);
        self.records.iter().filter(same).max_by_key(|it| it.at)
    }

    /// Everything that still holds.
    pub fn fresh(&self, circumstances: Digest) -> Vec<ProbeReport> {
        let mut fresh: Vec<&Record> =
            self.records.iter().filter(|it| it.circumstances == circumstances && it.is_fresh()).collect();
        fresh.sort_by_key(|it| std::cmp::Reverse(it.at));
        let mut reports: Vec<ProbeReport> = Vec::new();
        for Record { report, .. } in fresh {
            if !reports.iter().any(|it| (it.ecosystem, &it.url) == (report.ecosystem, &report.url)) {
                reports.push(report.clone());
            }
        }
        reports
    }

    /// The last of a profile, however old; by ecosystem, and in the profile's order: ecosystems are measured as a whole.
    pub fn last(&self, profile: &str) -> Vec<&Record> {
        let mut last: Vec<_> = self.records.iter().filter(|it| it.profile == profile).collect();
        last.sort_by_key(|it| it.report.ecosystem);
        last
    }

    /// Keeps new reports in the place of older ones, unless nobody at all was reached: that tells of a cable that is out, and
    /// the next minute nothing. Who had no time told nothing. Two runs at once may lose one's: it is measured again.
    pub fn add(&mut self, profile: &str, circumstances: Digest, reports: &[ProbeReport]) -> Result<()> {
        let reports = || reports.iter().filter(|it| it.verdict != ProbeVerdict::NotMeasured);
        let reached = |it: &ProbeReport| it.connect_milliseconds.is_some() || it.verdict != ProbeVerdict::Dead;
        if !reports().any(reached) {
            return Ok(());
        }
        let at = now_seconds();
        let replaced = |old: &Record| {
            let same = |new: &ProbeReport| (new.ecosystem, &new.url) == (old.report.ecosystem, &old.report.url);
            old.profile == profile && reports().any(same)
        };
        self.records.retain(|old| !replaced(old) && old.age() < KEPT);
        let record =
            |report: &ProbeReport| Record { profile: profile.to_owned(), at, circumstances, report: report.clone() };
        self.records.extend(reports().map(record));
        let file = File { version: VERSION, measured: self.records.clone() };
        let text = serde_json::to_vec(&file)
            .map_err(|error| Error::bug(tr!("cannot serialise measurements")).because(error))?;
        if let Some(folder) = self.path.parent() {
            files::create_folder(folder)?;
        }
        files::write(&self.path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn report(url: &str, verdict: ProbeVerdict) -> ProbeReport {
        let text = serde_json::json!({
            "ecosystem": "go", "url": url, "origin": "mirror lab", "verdict": verdict, "message": "", "hosts": [],
        });
        serde_json::from_value(text).unwrap()
    }

    fn cache() -> (PathBuf, CacheFolder) {
        let folder = files::temporary_folder(&std::env::temp_dir(), "measured").unwrap();
        (folder.clone(), CacheFolder(folder))
    }

    #[test]
    fn what_was_measured_holds_for_its_time_and_circumstances_only() {
        let (folder, cache) = cache();
        let (here, there) = (Digest::of(b"here"), Digest::of(b"there"));
        let (good, bad) = (report("https://a", ProbeVerdict::Ok), report("https://b", ProbeVerdict::Dead));
        Measured::open(&cache).add("lab", here, &[good.clone(), bad.clone()]).unwrap();
        let aged = |seconds: u64| {
            let mut measured = Measured::open(&cache);
            measured.records.iter_mut().for_each(|it| it.at -= seconds);
            measured.fresh(here)
        };
        assert_eq!(Measured::open(&cache).fresh(there), []);
        assert_eq!(aged(9 * 60), [good.clone(), bad]);
        assert_eq!(aged(11 * 60), [good]);
        assert_eq!(aged(61 * 60), []);
        let mut ahead = Measured::open(&cache);
        ahead.records.iter_mut().for_each(|it| it.at += 7200);
        assert_eq!(ahead.fresh(here), []);
        files::remove(&folder).unwrap();
    }

    #[test]
    fn the_newest_report_of_an_endpoint_counts_and_a_broken_file_is_none() {
        let (folder, cache) = cache();
        let here = Digest::of(b"here");
        let mut measured = Measured::open(&cache);
        measured.add("lab", here, &[report("https://a", ProbeVerdict::Html)]).unwrap();
        measured.add("lab", here, &[report("https://a", ProbeVerdict::Ok)]).unwrap();
        let again = Measured::open(&cache);
        assert_eq!((again.records.len(), again.last("lab").len(), again.last("cn").len()), (1, 1, 0));
        assert_eq!(again.fresh(here)[0].verdict, ProbeVerdict::Ok);
        for text in ["", "{}", r#"{"version":2,"measured":[]}"#] {
            files::write(&cache.measured(), text.as_bytes()).unwrap();
            assert_eq!(Measured::open(&cache).records, []);
        }
        files::remove(&folder).unwrap();
    }

    #[test]
    fn what_was_measured_without_a_network_is_not_kept() {
        let (folder, cache) = cache();
        let (here, dead) = (Digest::of(b"here"), report("https://b", ProbeVerdict::Dead));
        let good = report("https://a", ProbeVerdict::Ok);
        Measured::open(&cache).add("lab", here, &[good.clone(), dead.clone()]).unwrap();
        Measured::open(&cache).add("lab", here, &[report("https://a", ProbeVerdict::Dead), dead.clone()]).unwrap();
        assert_eq!(Measured::open(&cache).fresh(here), [good.clone(), dead.clone()]);
        Measured::open(&cache).add("lab", here, &[report("https://a", ProbeVerdict::NotMeasured)]).unwrap();
        assert_eq!(Measured::open(&cache).fresh(here), [good.clone(), dead.clone()]);
        // Somebody was there, who then said nothing.
        let silent = ProbeReport { connect_milliseconds: Some(1), ..dead };
        Measured::open(&cache).add("lab", here, std::slice::from_ref(&silent)).unwrap();
        assert_eq!(Measured::open(&cache).fresh(here), [good, silent]);
        files::remove(&folder).unwrap();
    }

    #[test]
    fn another_network_is_another_circumstance_and_a_password_is_none() {
        let setup = |proxy: &str| {
            let text = serde_json::json!({
                "schema": 0, "downloads": "/", "upstreams": {}, "proxy": { "https": proxy, "http": null, "no_proxy": null },
            });
            serde_json::from_value::<Setup>(text).unwrap()
        };
        let of = |proxy: &str| circumstances(&setup(proxy)).unwrap();
        assert_eq!(
            of("http://u:canary@p.example:3128"),
            of("p.example:3128".replace("p.", "http://u:other@p.").as_str())
        );
        assert_ne!(of("http://p.example:3128"), of("http://q.example:3128"));
    }
}
