//! Waiting for another process: a lock file that says who holds it, and a wait that is visible and ends.
//!
//! The kernel releases a lock with its holder, however that one died. A file that was removed while somebody waited for it guards
//! nothing: whoever gets its lock looks whether the name still means that file, and starts again if not. So lock files may be
//! removed, by whoever holds them.

use crate::error::{Code, Error, Result};
use crate::files;
use crate::tr;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long to wait, and what to do meanwhile: the caller hears who is in the way after one second and then ever less often, and may
/// end the wait with an error at every look.
pub struct Patience<'a> {
    pub limit: Duration,
    pub tick: &'a mut dyn FnMut(Option<&Holder>, Duration) -> Result<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Beside others who ask for the same.
    Shared,
    Exclusive,
}

/// Who holds a lock that somebody waits for, as that one wrote it down: process id, seconds since 1970, command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder(String);

/// Released when dropped, or when this process dies. The file says who holds it, or the last of several; nobody who has gone.
#[derive(Debug)]
pub struct Held {
    file: File,
    said: String,
}

impl Held {
    fn by_this_process(mut file: File) -> Self {
        let said = Holder::this_process().0;
        // Only a courtesy to those who wait: a failure to say who we are stops nobody.
        let _ = file.set_len(0).and_then(|()| file.write_all(said.as_bytes()));
        Self { file, said }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut text = vec![0; self.said.len()];
        let read = self.file.read_exact_at(&mut text, 0);
        if read.is_ok() && text == self.said.as_bytes() {
            let _ = self.file.set_len(0);
        }
    }
}

impl Holder {
    /// As it was written down.
    pub fn said(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    pub fn written(&self) -> &str {
        &self.0
    }

    pub fn this_process() -> Self {
        let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        Self(format!("{} {} {command}", std::process::id(), now_seconds()))
    }

    fn of(path: &Path) -> Self {
        Self::said(&fs::read_to_string(path).unwrap_or_default())
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = self.0.splitn(3, ' ');
        let (Some(process), Some(Ok(since))) = (words.next(), words.next().map(str::parse::<u64>)) else {
            return f.write_str(&tr!("another process"));
        };
        let command = words.next().unwrap_or_default();
        let seconds = now_seconds().saturating_sub(since);
        f.write_str(&tr!("process {process} (`{command}`), for {seconds} s", process, command, seconds))
    }
}

pub(super) fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// Waits for the lock on `path`, making the file and its folder.
/// # Errors
/// LockTimeout after `patience.limit`; Disk where there can be no such file; what `patience.tick` returns.
pub fn lock(path: &Path, mode: Mode, patience: Patience) -> Result<Held> {
    let start = Instant::now();
    let mut due_at = Duration::from_secs(1);
    loop {
        let file = open(path)?;
        let taken = match mode {
            Mode::Shared => file.try_lock_shared(),
            Mode::Exclusive => file.try_lock(),
        };
        match taken {
            // No working locks here (some network file systems): duplicate work, equal bytes.
            Ok(()) | Err(TryLockError::Error(_)) if is_still(path, &file) => {
                return Ok(Held::by_this_process(file));
            }
            Ok(()) | Err(TryLockError::Error(_)) => continue,
            Err(TryLockError::WouldBlock) => {}
        }
        let waited = start.elapsed();
        if waited >= patience.limit {
            let held = tr!("{path} is held by {holder}", path = path.display(), holder = Holder::of(path));
            return Err(Error::new(
                Code::LockTimeout,
                tr!("waited {seconds} s for nothing", seconds = waited.as_secs()),
            )
            .because(Error::new(Code::LockTimeout, held))
            .hint(tr!("wait for that process, or end it; XTASK_LOCK_TIMEOUT sets the limit in seconds")));
        }
        let due = waited >= due_at;
        if due {
            due_at *= 3;
        }
        (patience.tick)(due.then(|| Holder::of(path)).as_ref(), waited)?;
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The lock if nobody holds it.
pub fn try_lock(path: &Path) -> Option<Held> {
    let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
    (file.try_lock().is_ok() && is_still(path, &file)).then(|| Held::by_this_process(file))
}

/// Whether somebody holds the lock on `path`; `None` where locks tell nothing.
pub fn is_held(path: &Path) -> Option<bool> {
    let open = || OpenOptions::new().read(true).write(true).open(path).ok();
    let (first, second) = (open()?, open()?);
    match first.try_lock() {
        Err(TryLockError::WouldBlock) => Some(true),
        Err(TryLockError::Error(_)) => None,
        // Granted to both: then it would be granted to anybody.
        Ok(()) => matches!(second.try_lock(), Err(TryLockError::WouldBlock)).then_some(false),
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut tries = 100;
    loop {
        match options.open(path) {
            Ok(file) => return Ok(file),
            // Its folder is not there yet, or was just removed by `clean`.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && tries > 0 => {
                tries -= 1;
                files::create_folder(path.parent().unwrap_or(Path::new(".")))?;
            }
            Err(error) => return Err(Error::disk("open the lock", path, error)),
        }
    }
}

fn is_still(path: &Path, file: &File) -> bool {
    let (Ok(named), Ok(held)) = (fs::metadata(path), file.metadata()) else { return false };
    (named.dev(), named.ino()) == (held.dev(), held.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_hears_who_holds_the_lock_and_gives_up_in_time() {
        let folder = files::temporary_folder(&std::env::temp_dir(), "lock").unwrap();
        let path = folder.join("deep/lock");
        let held = lock(&path, Mode::Exclusive, Patience { limit: Duration::ZERO, tick: &mut |_, _| Ok(()) }).unwrap();
        let mut heard = String::new();
        let mut tick = |holder: Option<&Holder>, _| {
            heard.extend(holder.map(Holder::to_string));
            Ok(())
        };
        let error =
            lock(&path, Mode::Shared, Patience { limit: Duration::from_millis(1500), tick: &mut tick }).unwrap_err();
        assert_eq!(error.code(), Code::LockTimeout);
        assert!(heard.starts_with(&format!("process {} (`", std::process::id())), "{heard}");
        assert!(try_lock(&path).is_none());
        assert_eq!(is_held(&path), Some(true));
        drop(held);
        assert_eq!(Holder::of(&path).to_string(), "another process", "nobody who has gone is named");
        // A child that another test is just forking may hold the file for a moment, until it execs.
        let mut patient = |_: Option<&Holder>, _| Ok(());
        lock(&path, Mode::Exclusive, Patience { limit: Duration::from_secs(10), tick: &mut patient }).unwrap();
        files::remove(&folder).unwrap();
    }

    #[test]
    fn the_lock_of_a_removed_file_is_worth_nothing() {
        let folder = files::temporary_folder(&std::env::temp_dir(), "lock").unwrap();
        let path = folder.join("lock");
        let mut tick = |_: Option<&Holder>, _| Ok(());
        let first = lock(&path, Mode::Exclusive, Patience { limit: Duration::ZERO, tick: &mut tick }).unwrap();
        fs::remove_file(&path).unwrap();
        // Another file of the same name: free.
        let second = lock(&path, Mode::Exclusive, Patience { limit: Duration::ZERO, tick: &mut tick }).unwrap();
        assert!(is_still(&path, &second.file));
        assert!(!is_still(&path, &first.file));
        files::remove(&folder).unwrap();
    }
}
