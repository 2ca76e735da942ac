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
        self.among(ecosystem, name, self.setup.upstreams.get(&ecosystem)).await
    }

    /// Where repositories of one registry are pulled from; private patterns are about `docker.io/library/rust`.
    pub async fn registry(&self, registry: &str, repo: &str) -> Vec<Upstream> {
        self.among(Ecosystem::Oci, &format!("{registry}/{repo}"), self.setup.registries.get(registry)).await
    }

    /// Where the files of one prefix are also found.
    pub async fn file_host(&self, prefix: &str) -> Vec<Upstream> {
        self.among(Ecosystem::File, prefix, self.setup.files.get(prefix)).await
    }

    async fn among(&self, ecosystem: Ecosystem, name: &str, public: Option<&Vec<Upstream>>) -> Vec<Upstream> {
        if let Some(own) = self.private(ecosystem, name) {
            return own.upstreams.clone();
        }
        let mut upstreams = public.cloned().unwrap_or_default();
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
        // A registry's or a file host's report says what it stands for: `docker.io → template`.
        let same = |told: &str| told.rsplit(" → ").next() == Some(&upstream.url);
        let report = self.setup.measured.iter().find(|it| it.ecosystem == ecosystem && same(&it.url));
        match report {
            Some(report) if report.verdict == ProbeVerdict::Ok => (0, report.score_milliseconds.unwrap_or(u64::MAX)),
            None => (0, u64::MAX),
            Some(report) => (1, report.score_milliseconds.unwrap_or(u64::MAX)),
        }
    }
}
