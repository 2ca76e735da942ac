//! Who is using a folder, so that nobody removes what is in use.
//!
//! ```text
//! <folder>/gate            locked by whoever lets nobody in or out for a moment: `cache gc`, `clean`
//! <folder>/users/<owner>   a living process inside: first line, who it is; each other one, something that it uses
//! ```
//! Entering, and naming one more thing, wait for an open gate. A user's life is told from its [`Owner`]; one that cannot be asked, in
//! another container or of an earlier boot, is told from the lock that it holds on its own file. Where file locks do nothing the gate
//! always stands open, yet what is in use is still named, and a user elsewhere is believed for a day.

use super::lock::{self, Held, Holder, Mode, Patience};
use crate::error::{Error, Result};
use crate::files;
use crate::owner::{Life, Owner};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A user that cannot be asked, being elsewhere where locks do nothing, is believed for this long.
const BELIEVED: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Debug)]
pub struct Gate {
    folder: PathBuf,
}

/// This process is inside; over when dropped, or when it dies.
#[derive(Debug)]
pub struct Inside {
    gate: Gate,
    file: PathBuf,
    _lives: File,
}

/// Nobody enters, and nobody names one more thing, until this is dropped.
#[derive(Debug)]
pub struct Closed {
    gate: Gate,
    _lock: Held,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub owner: Owner,
    pub holder: Holder,
    /// What it named.
    pub uses: BTreeSet<String>,
    /// Where it says so.
    pub file: PathBuf,
}

impl Gate {
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn file(&self) -> PathBuf {
        self.folder.join("gate")
    }

    fn register(&self) -> PathBuf {
        self.folder.join("users")
    }

    pub fn enter(&self, patience: Patience) -> Result<Inside> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let _open = self.hold_open(patience)?;
        let name = format!("{}-{}", Owner::this_process(), COUNT.fetch_add(1, Ordering::Relaxed));
        let file = self.register().join(name);
        files::create_folder(&self.register())?;
        files::append(&file, &format!("{}\n", Holder::this_process().written()))?;
        let lives = File::open(&file).map_err(|error| Error::disk("open", &file, error))?;
        // Refused only where locks do nothing.
        let _ = lives.try_lock();
        Ok(Inside { gate: self.clone(), file, _lives: lives })
    }

    /// As long as this is held nobody closes the gate.
    pub fn hold_open(&self, patience: Patience) -> Result<Held> {
        lock::lock(&self.file(), Mode::Shared, patience)
    }

    pub fn close(&self, patience: Patience) -> Result<Closed> {
        Ok(Closed { gate: self.clone(), _lock: lock::lock(&self.file(), Mode::Exclusive, patience)? })
    }

    /// Everybody who is inside and lives, this process left out. Those who died are forgotten.
    pub fn others(&self) -> Vec<User> {
        let mut users = Vec::new();
        for path in fs::read_dir(self.register()).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Ok(owner) = name.parse::<Owner>() else { continue };
            // A pipe would be waited for.
            if !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
                continue;
            }
            let lives = match owner.life() {
                Life::Alive => owner != *Owner::this_process(),
                Life::Dead => false,
                Life::Elsewhere => {
                    lock::is_held(&path).unwrap_or_else(|| files::age(&path).is_some_and(|age| age < BELIEVED))
                }
            };
            if lives {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let (holder, uses) = text.split_once('\n').unwrap_or_default();
                let uses = uses.lines().map(str::to_owned).collect();
                users.push(User { owner, holder: Holder::said(holder), uses, file: path });
            } else if owner != *Owner::this_process() {
                let _ = files::remove(&path);
            }
        }
        users
    }
}

impl Inside {
    /// From here on these are in use by this process.
    pub fn uses(&self, names: impl IntoIterator<Item = String>, patience: Patience) -> Result<()> {
        let lines: String = names.into_iter().map(|name| name + "\n").collect();
        let _open = self.gate.hold_open(patience)?;
        files::append(&self.file, &lines)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = files::remove(&self.file);
    }
}

impl Closed {
    /// Removes the gate itself and what stood beside it for its sake; whoever waits makes a new one.
    pub fn dismantle(self) -> Result<()> {
        files::remove_if_empty(&self.gate.register())?;
        files::remove(&self.gate.file())?;
        files::remove_if_empty(&self.gate.folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn who_is_inside_is_known_until_it_leaves_or_dies() {
        let folder = files::temporary_folder(&std::env::temp_dir(), "gate").unwrap();
        let gate = Gate::of(&folder.join("deep"));
        let mut tick = |_: Option<&Holder>, _| Ok(());
        let inside = gate.enter(Patience { limit: Duration::from_secs(10), tick: &mut tick }).unwrap();
        inside.uses(["a".into(), "b".into()], Patience { limit: Duration::from_secs(10), tick: &mut tick }).unwrap();
        assert_eq!(gate.others(), [], "this process is no other");
        // The same file under the name of a process that died, and of one that cannot be asked.
        let text = fs::read_to_string(&inside.file).unwrap();
        let name = inside.file.file_name().unwrap().to_str().unwrap();
        let number = format!("-{}-", std::process::id());
        let dead = inside.file.with_file_name(name.replacen(&number, &format!("-{}-", i32::MAX - 1), 1));
        let elsewhere = inside.file.with_file_name(format!("1.2-{}", name.split_once('-').unwrap().1));
        fs::write(&dead, &text).unwrap();
        fs::write(&elsewhere, &text).unwrap();
        assert_eq!(gate.others(), [], "locks work here, and nobody holds its");
        assert!(!elsewhere.exists());
        fs::write(&elsewhere, &text).unwrap();
        let held = File::open(&elsewhere).unwrap();
        held.try_lock().unwrap();
        let others = gate.others();
        assert_eq!(others.len(), 1);
        assert_eq!(others[0].uses, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        assert!(!dead.exists());
        drop((inside, held));
        files::remove(&elsewhere).unwrap();

        // Nobody enters through a closed gate; once it is gone a new one stands open.
        let closed = gate.close(Patience { limit: Duration::from_secs(10), tick: &mut tick }).unwrap();
        let mut give_up = |_: Option<&Holder>, _| Err(Error::new(Code::LockTimeout, "closed"));
        assert!(gate.enter(Patience { limit: Duration::from_secs(10), tick: &mut give_up }).is_err());
        closed.dismantle().unwrap();
        assert!(!folder.join("deep").exists());
        gate.enter(Patience { limit: Duration::from_secs(10), tick: &mut tick }).unwrap();
        files::remove(&folder).unwrap();
    }
}
