//! Looking up names: each once for everybody who wants it, and again where no answer comes.
//!
//! Owns: what is known of a name for a few seconds. Never: ask for a name twice at once without a reason to.
//!
//! Resolvers of home routers and of filtered networks drop questions that come in a burst, and glibc repeats a lost one only
//! after 5 s: longer than a probe or a connection may take. A probe of all ecosystems at once was such a burst, and
//! called sound upstreams dead.
//! Rules: resolv.conf(5), `timeout` and `attempts`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

/// Those who come together share an answer; a later retry gets its own.
const HOLDS: Duration = Duration::from_secs(5);
/// A question without an answer by then is taken for lost. Resolvers that have to ask around need less as a rule.
const LOST_AFTER: Duration = Duration::from_secs(1);
const MAX_QUESTIONS: usize = 3;

/// Blocks its thread.
type Resolve = fn(&str) -> io::Result<Vec<IpAddr>>;
/// Errors cannot be cloned as they are.
type Answer = Result<Vec<IpAddr>, (io::ErrorKind, String)>;

pub struct Names {
    resolve: Resolve,
    known: RefCell<HashMap<String, Known>>,
}

#[derive(Clone)]
struct Known {
    since: Instant,
    answer: Rc<OnceCell<Answer>>,
}

impl Names {
    pub fn of_this_machine() -> Self {
        Self::new(|host| Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
    }

    fn new(resolve: Resolve) -> Self {
        Self { resolve, known: RefCell::default() }
    }

    /// # Errors: the resolver's.
    pub async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let answer = {
            let mut known = self.known.borrow_mut();
            known.retain(|_, it| it.since.elapsed() < HOLDS);
            let new = || Known { since: Instant::now(), answer: Rc::default() };
            Rc::clone(&known.entry(host.to_owned()).or_insert_with(new).answer)
        };
        let answer = answer.get_or_init(|| self.ask(host)).await;
        answer.clone().map_err(|(kind, message)| io::Error::new(kind, message))
    }

    async fn ask(&self, host: &str) -> Answer {
        let mut questions = JoinSet::new();
        loop {
            if questions.len() < MAX_QUESTIONS {
                let (resolve, host) = (self.resolve, host.to_owned());
                questions.spawn_blocking(move || resolve(&host));
            }
            let told = |cause: io::Error| (cause.kind(), cause.to_string());
            match tokio::time::timeout(LOST_AFTER, questions.join_next()).await {
                Ok(Some(Ok(answer))) => return answer.map_err(told),
                Ok(Some(Err(cause))) => return Err(told(cause.into())),
                Ok(None) | Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    static QUESTIONS: AtomicUsize = AtomicUsize::new(0);

    /// As a resolver of a filtered network was seen to: from a burst it drops what is beyond so many, and who asked waits.
    fn limited(host: &str) -> io::Result<Vec<IpAddr>> {
        if QUESTIONS.fetch_add(1, Ordering::SeqCst) == 18 {
            thread::sleep(Duration::from_secs(5));
        }
        match host.starts_with("good") {
            true => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
            false => Err(io::Error::other("Name or service not known")),
        }
    }

    #[test]
    fn many_upstreams_on_a_few_hosts_are_no_burst_and_a_lost_question_is_asked_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let started = Instant::now();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let names = Rc::new(Names::new(limited));
            let mut lookups = JoinSet::new();
            for place in 0..57 {
                let (names, kind) = (Rc::clone(&names), if place % 2 == 0 { "good" } else { "bad" });
                lookups.spawn_local(async move {
                    let answer = names.addresses(&format!("{kind}-{}", place % 19)).await;
                    assert_eq!(answer.is_ok(), kind == "good", "{answer:?}");
                });
            }
            while let Some(lookup) = lookups.join_next().await {
                lookup.unwrap();
            }
        });
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
        // 38 names (each number with both words), and the lost one again.
        assert_eq!(QUESTIONS.load(Ordering::SeqCst), 39);
        runtime.shutdown_background();
    }
}
