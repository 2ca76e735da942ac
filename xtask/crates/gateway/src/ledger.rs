//! Standard output: the event lines that the conductor reads, and the egress ledger among them.
//!
//! Owns: that each request to an upstream leaves exactly one egress line, whatever way it ends. Never: write a secret, a
//! query string or a header.
//! Rules: ARCHITECTURE.md, "Invariants".

use protocol::{Ecosystem, Egress, Event, Verdict};
use std::io::Write;
use std::time::Instant;

/// Writes one event line. A conductor that no longer listens has died: so do we, rather than download for nobody.
pub fn emit(event: &Event) {
    let Ok(mut line) = serde_json::to_vec(event) else {
        return;
    };
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(&line).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(141);
    }
}

/// One request under way. Dropping it writes its line, so no early return can lose one.
pub struct Entry {
    egress: Egress,
    started: Instant,
    withdrawn: bool,
}

impl Entry {
    pub fn begin(step: &str, ecosystem: Ecosystem, artifact: &str, host: &str) -> Self {
        let egress = Egress {
            step: step.to_owned(),
            ecosystem,
            artifact: artifact.to_owned(),
            host: host.to_owned(),
            redirect_hosts: Vec::new(),
            status: None,
            bytes: 0,
            sent_bytes: 0,
            milliseconds: 0,
            // What it stays where the asker gives up: silence before an answer, half an answer after it.
            verdict: Verdict::Stalled,
        };
        Self { egress, started: Instant::now(), withdrawn: false }
    }

    pub fn redirected_to(&mut self, host: &str) {
        self.egress.redirect_hosts.push(host.to_owned());
    }

    pub fn answered(&mut self, status: u16) {
        self.egress.status = Some(status);
        self.egress.verdict = Verdict::Truncated;
    }

    pub fn received(&mut self, bytes: usize) {
        self.egress.bytes += bytes as u64;
    }

    pub fn sent(&mut self, bytes: u64) {
        self.egress.sent_bytes += bytes;
    }

    pub fn received_bytes(&self) -> u64 {
        self.egress.bytes
    }

    /// Takes the line back where no request was made: the host was known to be dead. A redirect that led to such a host
    /// was one, and keeps its line.
    pub fn withdraw_unless_answered(&mut self) {
        self.withdrawn = self.egress.status.is_none();
    }

    pub fn judged(&mut self, verdict: Verdict) {
        self.egress.verdict = verdict;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.withdrawn {
            return;
        }
        self.egress.milliseconds = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        emit(&Event::Egress(self.egress.clone()));
    }
}
