//! Whom a half-written file or a claim belongs to, and whether that process still lives.
//!
//! A process id alone would lie: caches are shared with containers, where the same number means another process, and with other
//! machines, where it means nothing. So an owner carries the place where its number counts, and its start. Locks are not asked:
//! some file systems grant them to everybody.

use std::fmt;
use std::fs;
use std::str::FromStr;
use std::sync::LazyLock;

/// A process, told apart from every other one of this and of other machines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// This boot of this kernel, and the process-id namespace in it: `1f0c9a3e.4026531836`.
    domain: String,
    pub process: i32,
    /// In clock ticks since boot; 0 where the system does not tell.
    started: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Alive,
    Dead,
    /// Another machine's, an earlier boot's or another container's: it cannot be asked.
    Elsewhere,
}

static THIS: LazyLock<Owner> = LazyLock::new(|| {
    let process = i32::try_from(std::process::id()).unwrap_or(0);
    Owner { domain: domain(), process, started: start_of(process).unwrap_or(0) }
});

impl Owner {
    pub fn this_process() -> &'static Self {
        &THIS
    }

    pub fn life(&self) -> Life {
        if self.domain != THIS.domain {
            return Life::Elsewhere;
        }
        let exists = rustix::process::Pid::from_raw(self.process)
            .is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH));
        // A number is given again: the start tells the new process from ours.
        let same = || start_of(self.process).is_none_or(|started| started == self.started);
        if exists && same() { Life::Alive } else { Life::Dead }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.process, self.started)
    }
}

impl FromStr for Owner {
    type Err = ();

    /// The owner at the start of `text`; what follows the third dash is somebody else's.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('-');
        let domain = parts.next().filter(|domain| domain.contains('.')).ok_or(())?.to_owned();
        let process = parts.next().and_then(|text| text.parse().ok()).ok_or(())?;
        let started = parts.next().and_then(|text| text.parse().ok()).ok_or(())?;
        Ok(Self { domain, process, started })
    }
}

fn domain() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot = boot.split('-').next().unwrap_or_default();
    // `pid:[4026531836]`
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let namespace: String = namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    format!("{boot}.{namespace}")
}

/// Field 22 of `/proc/<pid>/stat`, counted behind the name, which may hold anything.
fn start_of(process: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_alive_dead_or_out_of_reach() {
        let this = Owner::this_process();
        assert_eq!(this.life(), Life::Alive);
        assert_eq!(Owner { process: i32::MAX - 1, ..this.clone() }.life(), Life::Dead);
        // The number was given again.
        assert_eq!(Owner { started: this.started + 1, ..this.clone() }.life(), Life::Dead);
        assert_eq!(Owner { domain: "0.0".into(), ..this.clone() }.life(), Life::Elsewhere);
    }

    #[test]
    fn an_owner_survives_its_name() {
        let this = Owner::this_process();
        assert_eq!(format!("{this}-7-libx.so").parse(), Ok(this.clone()));
        assert_eq!("123-0-x".parse::<Owner>(), Err(()));
    }
}
