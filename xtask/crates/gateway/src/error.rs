//! What can go wrong with one request to one upstream.
//!
//! Owns: the kinds of trouble, how each is written in the ledger, where the evidence (address, proxy, hashes) is kept, and
//! how much of a mirror's own words a person gets to read. Never: decide what to do next (`upstream::classify` does) or hold
//! a secret.

use crate::connect::Peer;
use crate::secrets;
use crate::url::Url;
use protocol::{Attempt, Cause, Event, Failure, FailureKind, Trouble, Upstream, Verdict};
use std::time::Duration;

/// Messages cite names, versions and parsers' complaints, which a mirror makes as long as it likes; the longest of our own
/// words leave room for two hashes.
const MAX_MESSAGE_CHARS: usize = 400;
/// The longest hash in text, a sha512, has 128.
const MAX_HASH_CHARS: usize = 140;

/// The start of a text that may be a mirror's, without what would command a terminal.
fn cited(text: &str, max_chars: usize) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut cited: String = chars.by_ref().take(max_chars).collect();
    if chars.next().is_some() {
        cited.push('…');
    }
    cited
}

/// With what may be a server's own words treated as a message is.
fn harmless(cause: Cause) -> Cause {
    let cited = |text: String| cited(&secrets::masked(&text), MAX_MESSAGE_CHARS);
    match cause {
        Cause::Said { text } => Cause::Said { text: cited(text) },
        Cause::Tls { issuer, text } => Cause::Tls { issuer, text: cited(text) },
        Cause::Page { words } => Cause::Page { words: cited(words) },
        Cause::Outside { url, host } => Cause::Outside { url: cited(url), host: cited(host) },
        Cause::Proxy { because } => Cause::Proxy { because: Box::new(harmless(*because)) },
        other => other,
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Our side: a malformed URL, an unusable proxy setting, an unreadable CA bundle.
    Configuration,
    /// Name, connection or handshake did not come about.
    Dead,
    /// Not asked: its host failed earlier in this run.
    KnownDead,
    /// A certificate or protocol that is not accepted.
    Tls,
    /// Silence, or fewer bytes than the limits ask for.
    Stalled,
    /// A text that comes so slowly that another upstream is asked for it, while there is one.
    Slow,
    /// Not asked while others are left: an earlier text came too slowly.
    KnownSlow,
    /// Silence in the middle of a body that had come well so far; as for [`Kind::Cut`].
    Lull {
        gained_bytes: u64,
    },
    /// The connection ended before the body did; by how much the partial is longer than it ever was.
    Cut {
        gained_bytes: u64,
    },
    /// 404, 410, or a page that does not list the file.
    Absent,
    /// 429, or 503 with `Retry-After`.
    Limited {
        retry_after: Option<Duration>,
    },
    /// Not asked: its host told somebody to wait, and so long is left of it.
    Asleep {
        left: Duration,
    },
    Status(u16),
    /// A web page where an artifact was asked for.
    Html,
    /// A range answer that does not continue what is here.
    Range,
    /// Not the pinned bytes.
    Hash {
        expected: String,
        got: String,
    },
    /// An answer that does not speak the protocol.
    Malformed,
    /// A host that the profile does not allow; it was not contacted.
    Forbidden,
    /// Reading or writing on this machine.
    Disk,
}

#[derive(Clone, Debug)]
#[must_use]
pub struct Error {
    pub kind: Kind,
    /// What happened, without the URL: the printer has it.
    pub message: String,
    /// The same for a person, where the kind alone does not say it.
    cause: Option<Box<Cause>>,
    /// Who was on the other end, where it came that far.
    /// Boxed, since every result of this program carries the room for it.
    pub peer: Box<Peer>,
}

impl Error {
    pub fn new(kind: Kind, message: impl AsRef<str>) -> Self {
        let message = cited(&secrets::masked(message.as_ref()), MAX_MESSAGE_CHARS);
        Self { kind, message, cause: None, peer: Box::default() }
    }

    pub fn disk(action: &str, path: &std::path::Path, cause: &std::io::Error) -> Self {
        // Nothing of it is a mirror's, and half a path is none.
        let message = format!("cannot {action} {}: {cause}", path.display());
        Self { kind: Kind::Disk, message, cause: None, peer: Box::default() }
    }

    pub fn hash(expected: &str, got: &str) -> Self {
        let got = cited(&secrets::masked(got), MAX_HASH_CHARS);
        let kind = Kind::Hash { expected: expected.to_owned(), got: got.clone() };
        Self::new(kind, format!("these are not the pinned bytes: expected {expected}, got {got}"))
    }

    /// Another job's failure as the reason of this one.
    pub fn of_failure(failure: &Failure) -> Self {
        let kind = match failure.kind {
            FailureKind::Integrity => Kind::Hash { expected: failure.subject.clone(), got: failure.message.clone() },
            FailureKind::Disk => Kind::Disk,
            FailureKind::Egress => Kind::Forbidden,
            FailureKind::Network => Kind::Dead,
            FailureKind::Configuration | FailureKind::Refused | FailureKind::Bug => Kind::Configuration,
        };
        let attempts = failure.attempts.iter().map(|it| format!("; {}: {}", it.endpoint, it.error));
        let message = format!("{}: {}{}", failure.subject, failure.message, attempts.collect::<String>());
        Self::new(kind, &message).told(Cause::Said { text: message })
    }

    pub fn at(mut self, peer: &Peer) -> Self {
        self.peer = Box::new(peer.clone());
        self
    }

    pub fn told(mut self, cause: Cause) -> Self {
        self.cause = Some(Box::new(harmless(cause)));
        self
    }

    /// For a person.
    pub fn cause(&self) -> Cause {
        if let Some(cause) = &self.cause {
            return (**cause).clone();
        }
        let text = self.message.clone();
        match &self.kind {
            Kind::Tls => Cause::Tls { issuer: None, text },
            Kind::Cut { .. } => Cause::Broken,
            Kind::Absent => Cause::Absent,
            Kind::Limited { retry_after } => Cause::Limited { seconds: retry_after.map(|it| it.as_secs()) },
            Kind::Asleep { left } => Cause::Limited { seconds: Some(left.as_secs() + 1) },
            Kind::Status(407) => Cause::ProxyPassword,
            Kind::Status(_) => Cause::Status { text },
            Kind::Html => Cause::Page { words: text },
            Kind::Hash { expected, got } => Cause::OtherBytes { expected: expected.clone(), got: got.clone() },
            Kind::Range | Kind::Malformed => Cause::Malformed { text },
            Kind::Configuration | Kind::Dead | Kind::KnownDead | Kind::Stalled | Kind::Lull { .. } => {
                Cause::Said { text }
            }
            Kind::Slow | Kind::KnownSlow | Kind::Forbidden | Kind::Disk => Cause::Said { text },
        }
    }

    /// What the conductor hears of it while the work goes on. `next`: who is asked now.
    pub fn finding(&self, subject: String, upstream: &Upstream, next: Option<&Upstream>) -> Event {
        let url = self.peer.url.as_deref().unwrap_or(&upstream.url);
        let host = |url: &str| Url::parse(url).ok().map(|url| url.origin.authority());
        let led_to = host(url).filter(|at| {
            let own = [Some(upstream.url.as_str()), upstream.second.as_deref()].into_iter().flatten().filter_map(host);
            !own.into_iter().any(|own| own == *at)
        });
        let trouble = Trouble {
            endpoint: upstream.url.clone(),
            led_to,
            cause: self.cause(),
            next: next.map(|next| next.url.clone()),
        };
        let (code, message) = (self.code().to_owned(), format!("{url}: {}", self.message));
        Event::Finding { code, subject, message, trouble: Some(trouble) }
    }

    pub fn verdict(&self) -> Verdict {
        match self.kind {
            Kind::Dead | Kind::KnownDead | Kind::Configuration => Verdict::Dead,
            Kind::Tls => Verdict::Tls,
            Kind::Stalled | Kind::Lull { .. } | Kind::Slow | Kind::KnownSlow => Verdict::Stalled,
            Kind::Cut { .. } | Kind::Disk => Verdict::Truncated,
            Kind::Absent => Verdict::Absent,
            Kind::Limited { .. } | Kind::Asleep { .. } => Verdict::Limited,
            Kind::Status(_) | Kind::Range | Kind::Malformed => Verdict::Status,
            Kind::Html => Verdict::Html,
            Kind::Hash { .. } => Verdict::Hash,
            Kind::Forbidden => Verdict::Forbidden,
        }
    }

    /// Stable name of a [`protocol::Event::Finding`].
    pub fn code(&self) -> &'static str {
        match self.kind {
            Kind::Configuration => "mirror.configuration",
            Kind::Dead | Kind::KnownDead => "mirror.dead",
            Kind::Tls => "mirror.tls",
            Kind::Stalled | Kind::Lull { .. } | Kind::Slow | Kind::KnownSlow => "mirror.stalled",
            Kind::Cut { .. } => "mirror.truncated",
            Kind::Absent => "mirror.absent",
            Kind::Limited { .. } | Kind::Asleep { .. } => "mirror.limited",
            Kind::Status(_) => "mirror.status",
            Kind::Html => "mirror.html",
            Kind::Range | Kind::Malformed => "mirror.malformed",
            Kind::Hash { .. } => "mirror.hash",
            Kind::Forbidden => "mirror.egress",
            Kind::Disk => "disk",
        }
    }

    pub fn attempt(&self, upstream: &Upstream, tries: u32) -> Attempt {
        let (expected, got) = match &self.kind {
            Kind::Hash { expected, got } => (Some(expected.clone()), Some(got.clone())),
            _ => (None, None),
        };
        let suffix = if tries > 1 { format!(" ({tries} tries)") } else { String::new() };
        Attempt {
            endpoint: upstream.url.clone(),
            url: self.peer.url.clone().unwrap_or_else(|| upstream.url.clone()),
            origin: upstream.origin.clone(),
            address: self.peer.address.clone(),
            proxy: self.peer.proxy.clone(),
            error: format!("{}{suffix}", self.message),
            cause: self.cause(),
            tries,
            expected,
            got,
        }
    }

    /// This error as the end of a job that asked nobody, or that no other upstream can rescue.
    pub fn failure(&self, subject: &str, attempts: Vec<Attempt>) -> Failure {
        let kind = match self.kind {
            Kind::Configuration => FailureKind::Configuration,
            Kind::Forbidden => FailureKind::Egress,
            Kind::Disk => FailureKind::Disk,
            Kind::Hash { .. } => FailureKind::Integrity,
            _ => FailureKind::Network,
        };
        Failure { kind, subject: subject.to_owned(), message: self.message.clone(), attempts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirrors_words_are_cut_and_command_no_terminal() {
        let flood = "\u{1b}[2J".repeat(100_000);
        for error in [Error::new(Kind::Malformed, format!("it names {flood}")), Error::hash(&"a".repeat(64), &flood)] {
            assert!(error.message.chars().count() <= MAX_MESSAGE_CHARS + 1, "{}", error.message.len());
            assert!(!error.message.contains('\u{1b}') && error.message.ends_with('…'), "{}", error.message);
            if let Kind::Hash { got, .. } = error.kind {
                assert_eq!(got.chars().count(), MAX_HASH_CHARS + 1);
            }
        }
        let flood = || flood.clone();
        for cause in [
            Cause::Said { text: flood() },
            Cause::Tls { issuer: None, text: flood() },
            Cause::Page { words: flood() },
            Cause::Outside { url: flood(), host: flood() },
            Cause::Proxy { because: Box::new(Cause::Said { text: flood() }) },
        ] {
            let told = format!("{:?}", Error::new(Kind::Dead, "").told(cause).cause());
            assert!(told.len() < 2 * MAX_MESSAGE_CHARS + 100 && !told.contains("\\u{1b}"), "{}", told.len());
        }
    }
}
