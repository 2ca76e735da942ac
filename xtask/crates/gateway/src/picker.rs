//! Who is asked, in which order.
//!
//! Owns: the order of an ecosystem's upstreams, and that a private name is asked of nobody but its own places. Never:
//! decide whether an answer is right, or add an upstream that the setup does not have.
//! Rules: ARCHITECTURE.md, "Invariants".

use crate::Gateway;
use crate::upstream::Next;
use protocol::names::covers;
use protocol::{Ecosystem, Private, ProbeVerdict, Upstream};

impl Gateway {
    /// The upstreams for a name (a crate, module, project, package, repository), best first.
    pub async fn upstreams(&self, ecosystem: Ecosystem, name: &str) -> Vec<Upstream> {
        if let Some(own) = self.private(ecosystem, name) {
            return own.upstreams.clone();
        }
        let mut upstreams = self.setup.upstreams.get(&ecosystem).cloned().unwrap_or_default();
        // A stable sort: what was not measured keeps its place behind what was found good.
        upstreams.sort_by_key(|upstream| self.measured(ecosystem, upstream));
        upstreams
    }

    pub fn next(&self, ecosystem: Ecosystem) -> Next {
        let strict = self.setup.only_after_absence.contains(&ecosystem);
        if strict { Next::AfterAbsence } else { Next::AfterAnyError }
    }

    /// Who may be asked for a name that is not for the public.
    pub fn private(&self, ecosystem: Ecosystem, name: &str) -> Option<&Private> {
        let private = self.setup.private.get(&ecosystem).into_iter().flatten();
        private.into_iter().find(|it| it.names.iter().any(|pattern| covers(ecosystem, pattern, name)))
    }

    fn measured(&self, ecosystem: Ecosystem, upstream: &Upstream) -> (u8, u64) {
        let report = self.setup.measured.iter().find(|it| it.ecosystem == ecosystem && it.url == upstream.url);
        match report {
            Some(report) if report.verdict == ProbeVerdict::Ok => (0, report.score_milliseconds.unwrap_or(u64::MAX)),
            None => (0, u64::MAX),
            Some(report) => (1, report.score_milliseconds.unwrap_or(u64::MAX)),
        }
    }
}
