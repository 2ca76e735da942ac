//! Who is asked, in which order.
//!
//! Owns: the order of a list of upstreams, by what was measured before or else by a race at the first request; and that a
//! private name is asked of nobody but its own places. Never: decide whether an artifact is right, add an upstream that the
//! setup does not have, or let a private name into a race.
//!
//! A race greets every upstream of a list at once. The profile's order is a preference and stays among those that answer
//! about as fast as the fastest; who is slower, silent or refused comes later, and the dead are remembered as such.
//! Rules: ARCHITECTURE.md, "Invariants".

use crate::Gateway;
use crate::error::Kind;
use crate::ledger::emit;
use crate::probe::greeting;
use crate::upstream::Next;
use crate::url::Url;
use protocol::names::covers;
use protocol::{Ecosystem, Private, ProbeReport, ProbeVerdict, Upstream};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A preferred upstream keeps its place up to this many times the best figure…
const FACTOR: u32 = 2;
/// … and this much: below it, differences are the weather of one connection.
const GRACE: Duration = Duration::from_millis(100);

fn still_preferred(best: Duration) -> Duration {
    best.saturating_mul(FACTOR).saturating_add(GRACE)
}

/// The races of this run, by ecosystem and who takes part.
#[derive(Default)]
pub struct Races(RefCell<HashMap<Runners, Rc<Race>>>);

type Runners = (Ecosystem, Vec<String>);

impl Gateway {
    /// The upstreams for a name (a crate, module, project, package, repository), in the order of the profile.
    pub async fn upstreams(&self, ecosystem: Ecosystem, name: &str) -> Vec<Upstream> {
        self.among(ecosystem, name, self.setup.upstreams.get(&ecosystem)).await
    }

    /// Where repositories of one registry are pulled from; private patterns are about `docker.io/library/rust`.
    pub async fn registry(&self, registry: &str, repo: &str) -> Vec<Upstream> {
        self.among(Ecosystem::Oci, &format!("{registry}/{repo}"), self.setup.registries.get(registry)).await
    }

    /// Where we pull a base of images from.
    pub fn base(&self, repository: &str) -> Vec<Upstream> {
        self.setup.bases.get(repository).cloned().unwrap_or_default()
    }

    /// Where the files of one prefix are also found.
    pub async fn file_host(&self, prefix: &str) -> Vec<Upstream> {
        self.among(Ecosystem::File, prefix, self.setup.files.get(prefix)).await
    }

    async fn among(&self, ecosystem: Ecosystem, name: &str, public: Option<&Vec<Upstream>>) -> Vec<Upstream> {
        if let Some(own) = self.private(ecosystem, name) {
            return own.upstreams.clone();
        }
        public.cloned().unwrap_or_default()
    }

    pub fn next(&self, ecosystem: Ecosystem) -> Next {
        let strict = self.setup.only_after_absence.contains(&ecosystem);
        if strict { Next::AfterAbsence } else { Next::AfterAnyError }
    }

    /// Who may be asked for a name that is not for the public.
    pub fn private(&self, ecosystem: Ecosystem, name: &str) -> Option<&Private> {
        let private = self.setup.private.get(&ecosystem).into_iter().flatten();
        // A hub's owner is the same for datasets and spaces, whose names say their kind first.
        let kinds = ["datasets/", "spaces/"].iter().filter(|_| ecosystem == Ecosystem::Hub);
        let owned = kinds.filter_map(|kind| name.strip_prefix(kind)).next().unwrap_or(name);
        let covered = |pattern: &String| covers(ecosystem, pattern, name) || covers(ecosystem, pattern, owned);
        private.into_iter().find(|it| it.names.iter().any(covered))
    }

    /// The same upstreams, best first. Waits for a race where none was run and nobody was measured, so it belongs where
    /// something has to be asked, not before.
    pub async fn ranked(&self, ecosystem: Ecosystem, upstreams: &[Upstream]) -> Vec<Upstream> {
        // What a protocol adds to its list (databases of their own) speaks otherwise and stays behind.
        let list = self.setup.upstreams.get(&ecosystem).filter(|list| upstreams.starts_with(list));
        let (upstreams, added) = upstreams.split_at(list.map_or(upstreams.len(), Vec::len));
        let same = |(a, b): (&Upstream, &Upstream)| identity(ecosystem, &a.url) == identity(ecosystem, &b.url);
        let is_list = |list: &[Upstream]| list.len() == upstreams.len() && list.iter().zip(upstreams).all(same);
        let own = self.setup.private.get(&ecosystem).into_iter().flatten().any(|it| is_list(&it.upstreams));
        // Where only an absence leads on, the order is a rule and no preference.
        if upstreams.len() < 2 || own || self.next(ecosystem) == Next::AfterAbsence {
            return [upstreams, added].concat();
        }
        // Whoever chose a profile did so because of these: they do not even hear of a build that can do without them.
        let resort = upstreams.iter().rposition(|upstream| !upstream.last_resort).map_or(0, |last| last + 1);
        let (upstreams, resorts) = upstreams.split_at(if resort == 0 { upstreams.len() } else { resort });
        let mut places: Vec<usize> = (0..upstreams.len()).collect();
        let measured: Vec<_> = upstreams.iter().map(|upstream| self.measured(ecosystem, upstream)).collect();
        let best = measured
            .iter()
            .filter_map(|it| it.and_then(|(verdict, score)| (verdict == ProbeVerdict::Ok).then_some(score)));
        if let Some(best) = best.min() {
            let limit = still_preferred(best);
            places.sort_by_key(|place| match measured[*place] {
                Some((ProbeVerdict::Ok, score)) if score <= limit => (0, Duration::ZERO),
                Some((ProbeVerdict::Ok, score)) => (1, score),
                None => (2, Duration::ZERO),
                Some((ProbeVerdict::Stale, score)) => (3, score),
                Some((ProbeVerdict::Limited | ProbeVerdict::Partial, _)) => (4, Duration::ZERO),
                Some(_) => (5, Duration::ZERO),
            });
        } else if self.limits.race_milliseconds > 0 && upstreams.len() > 1 {
            let race = self.race(ecosystem, upstreams);
            race.decided(Duration::from_millis(self.limits.race_milliseconds)).await;
            places.sort_by_key(|place| race.class(*place));
        }
        places.into_iter().map(|place| &upstreams[place]).chain(resorts).chain(added).cloned().collect()
    }

    /// Whether anybody may be asked for a name: not where it is private, or may be and the order of the list keeps it from the
    /// public.
    pub fn is_public(&self, ecosystem: Ecosystem, name: &str) -> bool {
        self.private(ecosystem, name).is_none() && self.next(ecosystem) != Next::AfterAbsence
    }

    /// What an earlier probe found, with the score.
    fn measured(&self, ecosystem: Ecosystem, upstream: &Upstream) -> Option<(ProbeVerdict, Duration)> {
        let measured = self.measured.borrow();
        let same = |url: &str| identity(ecosystem, url) == identity(ecosystem, &upstream.url);
        let report = measured.iter().find(|it| it.ecosystem == ecosystem && same(&it.url))?;
        Some((report.verdict, Duration::from_millis(report.score_milliseconds.unwrap_or(u64::MAX))))
    }

    /// What a probe found holds for the rest of the run.
    pub fn learn(&self, reports: &[ProbeReport]) {
        let mut measured = self.measured.borrow_mut();
        let reports = || reports.iter().filter(|it| it.verdict != ProbeVerdict::NotMeasured);
        measured.retain(|old| !reports().any(|new| (new.ecosystem, &new.url) == (old.ecosystem, &old.url)));
        measured.extend(reports().cloned());
    }

    /// The race between these upstreams; the first who asks for it starts it.
    fn race(&self, ecosystem: Ecosystem, upstreams: &[Upstream]) -> Rc<Race> {
        let runners = upstreams.iter().map(|upstream| identity(ecosystem, &upstream.url)).collect();
        let mut races = self.races.0.borrow_mut();
        let race = races.entry((ecosystem, runners)).or_insert_with(|| {
            let race = Rc::new(Race::new(upstreams.len()));
            let all: Rc<[Upstream]> = upstreams.into();
            for (place, upstream) in upstreams.iter().enumerate() {
                let (race, client, upstream, all) = (race.clone(), self.client.clone(), upstream.clone(), all.clone());
                let greeting = greeting(self, ecosystem, &upstream);
                // Losers run on after the decision: what they show in the end is their place in the list.
                tokio::task::spawn_local(async move {
                    let result = async { greeting?.ask(&client, ecosystem, &upstream).await }.await;
                    race.arrived(place, result.is_ok());
                    let next = race.first_left();
                    // Nobody misses a spare.
                    if let Err(error) = result
                        && next.is_none_or(|next| place < next)
                        && !matches!(error.kind, Kind::KnownDead | Kind::Asleep { .. })
                    {
                        let subject =
                            format!("{} endpoint {}", format!("{ecosystem:?}").to_ascii_lowercase(), upstream.url);
                        emit(&error.finding(subject, &upstream, next.map(|next| &all[next])));
                    }
                });
            }
            race
        });
        race.clone()
    }
}

/// What is one upstream in the eyes of a race or a report. Behind a template (`docker.io → template` in reports) that is its
/// host: the rest of the URL changes with each name.
fn identity(ecosystem: Ecosystem, url: &str) -> String {
    let url = url.rsplit(" → ").next().unwrap_or(url);
    match ecosystem {
        Ecosystem::Oci | Ecosystem::File => {
            Url::parse(url).map_or_else(|_| url.to_owned(), |url| url.origin.to_string())
        }
        _ => url.to_owned(),
    }
}

struct Race {
    started: Instant,
    lanes: RefCell<Vec<Lane>>,
    decided: Cell<bool>,
    news: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Running,
    Healthy(Duration),
    Failed,
}

impl Race {
    fn new(runners: usize) -> Self {
        Self {
            started: Instant::now(),
            lanes: RefCell::new(vec![Lane::Running; runners]),
            decided: Cell::new(false),
            news: Notify::new(),
        }
    }

    fn arrived(&self, place: usize, healthy: bool) {
        self.lanes.borrow_mut()[place] = if healthy { Lane::Healthy(self.started.elapsed()) } else { Lane::Failed };
        self.news.notify_waiters();
    }

    /// The first in the order of the profile who has not failed yet.
    fn first_left(&self) -> Option<usize> {
        self.lanes.borrow().iter().position(|lane| *lane != Lane::Failed)
    }

    /// Waits until the winner cannot change any more, or for `limit`.
    async fn decided(&self, limit: Duration) {
        loop {
            let news = self.news.notified();
            let until = self.until(limit);
            let left = until.saturating_sub(self.started.elapsed());
            if self.decided.get() || left.is_zero() {
                self.decided.set(true);
                return;
            }
            let _ = tokio::time::timeout(left, news).await;
        }
    }

    /// How long after the start it is worth waiting, as far as is known now.
    fn until(&self, limit: Duration) -> Duration {
        let lanes = self.lanes.borrow();
        let Some(best) = fastest(&lanes) else {
            return if lanes.contains(&Lane::Running) { limit } else { Duration::ZERO };
        };
        let window = still_preferred(best);
        // Nobody whom the profile prefers to the first of the good ones is still under way.
        let first_good = lanes.iter().position(|lane| matches!(lane, Lane::Healthy(time) if *time <= window));
        match lanes.iter().position(|lane| *lane == Lane::Running) {
            Some(running) if first_good.is_none_or(|good| running < good) => window.min(limit),
            _ => Duration::ZERO,
        }
    }

    /// Small is good; equal ones keep the order of the profile.
    fn class(&self, place: usize) -> u8 {
        let lanes = self.lanes.borrow();
        let window = fastest(&lanes).map(still_preferred).unwrap_or_default();
        match lanes[place] {
            Lane::Healthy(time) if time <= window => 0,
            Lane::Healthy(_) => 1,
            Lane::Running => 2,
            Lane::Failed => 3,
        }
    }
}

fn fastest(lanes: &[Lane]) -> Option<Duration> {
    lanes.iter().filter_map(|lane| if let Lane::Healthy(time) = lane { Some(*time) } else { None }).min()
}
