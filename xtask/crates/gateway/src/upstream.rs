//! Which upstream is asked next, and which is not asked again.
//!
//! Owns: order, retries, the memory of dead hosts, and the account of every attempt. Never: lower a check to make an
//! upstream pass, or wait longer than the limits allow.
//! Rules: ARCHITECTURE.md, "Invariants".

use crate::error::{Error, Kind};
use crate::ledger::emit;
use crate::url::Origin;
use protocol::{Failure, FailureKind, Limits, Upstream};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// Passes over the list that bring nothing: a mirror that answered 502 gets another chance after the others had theirs.
const ROUNDS: u32 = 3;
const ROUND_PAUSE: Duration = Duration::from_millis(400);
/// An interrupted body that moved at least this far is continued at once, as often as it takes.
pub const PROGRESS_BYTES: u64 = 64 * 1024;
/// How often one upstream's `Retry-After` is obeyed for one artifact, and a host's before it gives anything.
const MAX_WAITS: u32 = 2;

/// The message of a failure in which every upstream answered that it does not have the artifact.
pub const NOBODY_HAS_IT: &str =
    "no upstream has it; a mirror may lag behind, or the pin names something that was withdrawn";

tokio::task_local! {
    /// Of the attempt that this task makes. Every protocol has attempts of its own, and most are of no interest to them.
    static OTHERS_LEFT: bool;
}

/// Whether the attempt that is under way may end early, since somebody else is asked after it.
pub fn others_left() -> bool {
    OTHERS_LEFT.try_with(|others| *others).unwrap_or_default()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// The same upstream, now: it was cut off while it made progress.
    Continue,
    /// The same upstream, after the time that it asked for.
    Wait(Duration),
    /// The next upstream, and this one again in the next round.
    Transient,
    /// The next upstream; this one has given its answer.
    NextUpstream,
    /// Nobody can help.
    Fatal,
}

pub fn classify(error: &Error, limits: &Limits) -> Reaction {
    match &error.kind {
        // Each continuation made the partial longer than it ever was, so there is an end to them.
        Kind::Cut { gained_bytes } if *gained_bytes >= PROGRESS_BYTES => Reaction::Continue,
        // Overload and restarts pass.
        Kind::Cut { .. } | Kind::Lull { .. } | Kind::Status(500 | 502 | 503 | 504 | 408) => Reaction::Transient,
        // Slow is better than nothing, and comes after everybody else.
        Kind::Slow | Kind::KnownSlow => Reaction::Transient,
        Kind::Limited { retry_after: Some(wait) } if *wait <= Duration::from_secs(limits.retry_after_seconds) => {
            Reaction::Wait(*wait)
        }
        Kind::Asleep { left } => Reaction::Wait(*left),
        // Longer than a build should wait, or the server does not say.
        Kind::Limited { .. } => Reaction::NextUpstream,
        // Remembered as dead for the run; asking again would cost the same bound again.
        Kind::Dead | Kind::KnownDead | Kind::Stalled => Reaction::NextUpstream,
        // A certificate does not get better by asking twice.
        Kind::Tls => Reaction::NextUpstream,
        // A definite answer, though a useless one.
        Kind::Absent | Kind::Status(_) | Kind::Html | Kind::Malformed | Kind::Range => Reaction::NextUpstream,
        // From zero and still wrong: this upstream has other bytes.
        Kind::Hash { .. } => Reaction::NextUpstream,
        // It leads outside the profile; another may not.
        Kind::Forbidden => Reaction::NextUpstream,
        // This upstream's settings; another's may be sound.
        Kind::Configuration => Reaction::NextUpstream,
        // A full disk is full for every upstream.
        Kind::Disk => Reaction::Fatal,
    }
}

/// When the next upstream's turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    AfterAnyError,
    /// Whoever failed otherwise had the last word.
    AfterAbsence,
}

/// Asks the upstreams in their order until one attempt succeeds.
/// # Errors: the failure with the last error of each upstream; Integrity where any of them sent wrong bytes.
pub async fn ask_each<T>(
    subject: &str,
    upstreams: &[Upstream],
    limits: &Limits,
    attempt: impl AsyncFnMut(&Upstream) -> Result<T, Error>,
) -> Result<T, Failure> {
    ask_in_turn(subject, upstreams, limits, Next::AfterAnyError, attempt).await
}

/// As [`ask_each`], with the rule for an ecosystem's next upstream.
pub async fn ask_in_turn<T>(
    subject: &str,
    upstreams: &[Upstream],
    limits: &Limits,
    next: Next,
    mut attempt: impl AsyncFnMut(&Upstream) -> Result<T, Error>,
) -> Result<T, Failure> {
    if upstreams.is_empty() {
        let message = "there is no upstream that may be asked for it".to_owned();
        return Err(Failure {
            kind: FailureKind::Configuration,
            subject: subject.to_owned(),
            message,
            attempts: Vec::new(),
        });
    }
    let mut last: Vec<Option<(Error, u32)>> = upstreams.iter().map(|_| None).collect();
    let mut pending: Vec<usize> = (0..upstreams.len()).collect();
    let account = |last: &[Option<(Error, u32)>]| {
        let told = upstreams
            .iter()
            .zip(last)
            .filter_map(|(upstream, last)| last.as_ref().map(|(error, tries)| error.attempt(upstream, *tries)));
        told.collect::<Vec<_>>()
    };
    let (mut fruitless, mut waits) = (0, vec![0; upstreams.len()]);
    while fruitless < ROUNDS {
        if fruitless > 0 {
            tokio::time::sleep(ROUND_PAUSE * fruitless).await;
        }
        fruitless += 1;
        let mut again = Vec::new();
        let mut left = pending.into_iter();
        while let Some(index) = left.next() {
            loop {
                let others = next == Next::AfterAnyError && fruitless < ROUNDS && !left.as_slice().is_empty();
                let error = match OTHERS_LEFT.scope(others, attempt(&upstreams[index])).await {
                    Ok(value) => return Ok(value),
                    Err(error) => error,
                };
                let reaction = classify(&error, limits);
                if let Kind::Cut { gained_bytes } | Kind::Lull { gained_bytes } = error.kind
                    && gained_bytes >= PROGRESS_BYTES
                {
                    fruitless = 1;
                }
                let final_word = next == Next::AfterAbsence && error.kind != Kind::Absent;
                if reaction != Reaction::Fatal
                    && !matches!(error.kind, Kind::KnownDead | Kind::KnownSlow | Kind::Asleep { .. })
                {
                    let after = left.as_slice().first().filter(|_| !final_word).or(again.first());
                    let who = match reaction {
                        Reaction::Continue => Some(index),
                        Reaction::Wait(_) if waits[index] < MAX_WAITS => Some(index),
                        Reaction::Transient if fruitless < ROUNDS => Some(after.copied().unwrap_or(index)),
                        _ => after.copied(),
                    };
                    let who = who.map(|who| &upstreams[who]);
                    emit(&error.finding(subject.to_owned(), &upstreams[index], who));
                }
                let tries = last[index].as_ref().map_or(0, |(_, tries)| *tries) + 1;
                last[index] = Some((error.clone(), tries));
                match reaction {
                    Reaction::Continue => {}
                    // It sleeps since it told somebody else so, or waiting was in vain: another one may be awake.
                    Reaction::Wait(_)
                        if (waits[index] > 0 || matches!(error.kind, Kind::Asleep { .. }))
                            && !(final_word || left.as_slice().is_empty() || fruitless == ROUNDS) =>
                    {
                        again.push(index);
                        break;
                    }
                    Reaction::Wait(time) if waits[index] < MAX_WAITS => {
                        waits[index] += 1;
                        tokio::time::sleep(time).await;
                    }
                    Reaction::Transient => {
                        again.push(index);
                        if final_word {
                            again.extend(left.by_ref());
                        }
                        break;
                    }
                    Reaction::Wait(_) | Reaction::NextUpstream if final_word => {
                        return Err(verdict(subject, &last, account(&last)));
                    }
                    Reaction::Wait(_) | Reaction::NextUpstream => break,
                    Reaction::Fatal => return Err(error.failure(subject, account(&last))),
                }
            }
        }
        pending = again;
        if pending.is_empty() {
            break;
        }
    }
    Err(verdict(subject, &last, account(&last)))
}

/// The failure of a whole list: wrong bytes outweigh absence, since somebody has to look at them.
fn verdict(subject: &str, last: &[Option<(Error, u32)>], attempts: Vec<protocol::Attempt>) -> Failure {
    let errors = || last.iter().flatten().map(|(error, _)| error);
    let (kind, message) = if errors().any(|error| matches!(error.kind, Kind::Hash { .. })) {
        (FailureKind::Integrity, "what came is not what is pinned, and no other upstream has it")
    } else if errors().all(|error| error.kind == Kind::Configuration) {
        (FailureKind::Configuration, "no upstream's settings are usable")
    } else if errors().any(|error| error.kind == Kind::Forbidden) {
        (FailureKind::Egress, "only a host outside the profile could deliver it")
    } else if errors().all(|error| error.kind == Kind::Absent) {
        (FailureKind::Network, NOBODY_HAS_IT)
    } else {
        (FailureKind::Network, "no upstream delivered it")
    };
    Failure { kind, subject: subject.to_owned(), message: message.to_owned(), attempts }
}

/// What this run has learnt about hosts.
#[derive(Default)]
pub struct Hosts(RefCell<HashMap<Origin, Rc<Host>>>);

#[derive(Default)]
struct Host {
    state: RefCell<State>,
    /// When it may be asked again, and how often in a row it put that off.
    asleep: Cell<Option<(Instant, u32)>>,
    /// Whether it ever told anybody to wait.
    limits: Cell<bool>,
    /// Whether a text of it came too slowly while others were left.
    slow: Cell<bool>,
    /// Held by the first request to a host: fifty modules must not wait fifty times for the same silence.
    probation: std::sync::Arc<Mutex<()>>,
}

#[derive(Clone, Default)]
enum State {
    #[default]
    Unknown,
    Alive,
    /// By what.
    Dead(Box<Error>),
}

/// Permission to ask a host; the first asker holds the others back until it knows.
pub struct Admission {
    _probation: Option<OwnedMutexGuard<()>>,
}

impl Hosts {
    /// # Errors: KnownDead, with the reason of its death, without any request being made.
    pub async fn admit(&self, origin: &Origin) -> Result<Admission, Error> {
        let host = self.host(origin);
        let is_unknown = || matches!(*host.state.borrow(), State::Unknown);
        let mut probation = None;
        if is_unknown() {
            let guard = host.probation.clone().lock_owned().await;
            probation = is_unknown().then_some(guard);
        }
        match &*host.state.borrow() {
            State::Dead(by) => {
                let message = format!("not asked again in this run: {}", by.message);
                Err(Error::new(Kind::KnownDead, message).told(by.cause()))
            }
            State::Unknown | State::Alive => {
                match host.asleep.get().map(|(until, _)| until.saturating_duration_since(Instant::now())) {
                    Some(left) if !left.is_zero() => {
                        let message = format!("not asked: it told others to wait, {} s are left", left.as_secs() + 1);
                        Err(Error::new(Kind::Asleep { left }, message))
                    }
                    _ => Ok(Admission { _probation: probation }),
                }
            }
        }
    }

    pub fn alive(&self, origin: &Origin) {
        self.host(origin).asleep.set(None);
        self.learn(origin, State::Alive);
    }

    /// Whether some host counts what it is asked: nothing is asked of such a one before a child wants it, since what is asked ahead would
    /// use up the patience of what is wanted now.
    pub fn limit_anybody(&self) -> bool {
        self.0.borrow().values().any(|host| host.limits.get())
    }

    /// It answers, and asks everybody to wait. Who has done so often enough for nothing does so for no one else.
    pub fn asleep(&self, origin: &Origin, wait: Duration) {
        let host = self.host(origin);
        host.limits.set(true);
        let (until, naps) = host.asleep.get().unwrap_or((Instant::now(), 0));
        // What was under way when it fell asleep hears the same, and is no new putting-off.
        if until <= Instant::now() {
            host.asleep.set(Some((Instant::now() + wait, naps + 1)));
            if naps >= MAX_WAITS {
                let limited = Kind::Limited { retry_after: Some(wait) };
                self.dead(origin, &Error::new(limited, "it asked to wait, and again after that"));
            }
        }
        self.learn(origin, State::Alive);
    }

    pub fn slow(&self, origin: &Origin) {
        self.host(origin).slow.set(true);
    }

    pub fn is_slow(&self, origin: &Origin) -> bool {
        self.host(origin).slow.get()
    }

    pub fn dead(&self, origin: &Origin, by: &Error) {
        self.learn(origin, State::Dead(Box::new(by.clone())));
    }

    fn host(&self, origin: &Origin) -> Rc<Host> {
        self.0.borrow_mut().entry(origin.clone()).or_default().clone()
    }

    fn learn(&self, origin: &Origin, state: State) {
        let host = self.host(origin);
        // Words that came from a death must not become the reason of the next one.
        if !matches!(*host.state.borrow(), State::Dead(_)) {
            *host.state.borrow_mut() = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_trouble_has_its_consequence() {
        let limits = Limits { retry_after_seconds: 20, ..Limits::default() };
        let after = |seconds| Kind::Limited { retry_after: Some(Duration::from_secs(seconds)) };
        for (kind, reaction) in [
            (Kind::Cut { gained_bytes: 1 << 20 }, Reaction::Continue),
            (Kind::Cut { gained_bytes: 1 }, Reaction::Transient),
            (Kind::Lull { gained_bytes: 1 << 20 }, Reaction::Transient),
            (Kind::Stalled, Reaction::NextUpstream),
            (Kind::Slow, Reaction::Transient),
            (Kind::Status(502), Reaction::Transient),
            (Kind::Status(403), Reaction::NextUpstream),
            (after(2), Reaction::Wait(Duration::from_secs(2))),
            (after(3600), Reaction::NextUpstream),
            (Kind::Limited { retry_after: None }, Reaction::NextUpstream),
            (Kind::Tls, Reaction::NextUpstream),
            (Kind::Disk, Reaction::Fatal),
        ] {
            assert_eq!(classify(&Error::new(kind.clone(), ""), &limits), reaction, "{kind:?}");
        }
    }
}
