//! Which file had which digest when it looked like this: the reason why a no-op reads no content.
//!
//! A memo never decides when a stat differs: path, size, inode, mtime and ctime must all be as they were, and the file must have
//! been still for a while when it was hashed, or a write within one clock tick could hide (git's "racily clean" entries).
//! Losing this file costs one reading of the sources.
//!
//! The same stats tell afterwards whether an input was touched while something was made of it: a [`Snapshot`].

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

/// How long a file must have been untouched when it was hashed. Kernel time stamps move in steps of some milliseconds.
const STILL_NANOSECONDS: i128 = 100_000_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    size_bytes: u64,
    inode: u64,
    mtime_nanoseconds: i64,
    ctime_nanoseconds: i64,
    mode: u32,
}

impl Stat {
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Ok(Self {
            size_bytes: metadata.len(),
            inode: metadata.ino(),
            mtime_nanoseconds: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime_nanoseconds: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            mode: metadata.mode(),
        })
    }

    fn last_touched(&self) -> i128 {
        i128::from(self.mtime_nanoseconds.max(self.ctime_nanoseconds))
    }
}

/// How the files and folders behind a key looked when it was computed. An edit that is taken back while a compiler runs leaves every
/// digest as it was, yet the compiler may have read the other text: only stats can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<PathBuf, Option<Stat>>);

impl Snapshot {
    /// Notes how a path looks, `None` where there is nothing. The first look counts: it came before the reading.
    pub fn note(&mut self, path: &Path, stat: Option<Stat>) {
        self.0.entry(path.to_owned()).or_insert(stat);
    }

    pub fn add(&mut self, other: Self) {
        other.0.into_iter().for_each(|(path, stat)| self.note(&path, stat));
    }

    /// The paths that look different by now.
    pub fn touched(&self) -> Vec<&Path> {
        let touched = self.0.iter().filter(|(path, stat)| Stat::of(path).ok() != **stat);
        touched.map(|(path, _)| path.as_path()).collect()
    }
}

/// Digests of files and answers of tools, remembered by stat; shared by all threads of a run.
#[derive(Debug, Default)]
pub struct StatIndex {
    path: PathBuf,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Memory {
    #[serde(default)]
    files: BTreeMap<PathBuf, (Stat, Digest)>,
    /// Question → (what it depends on, answer).
    #[serde(default)]
    answers: BTreeMap<String, (String, String)>,
    #[serde(skip)]
    changed: bool,
}

impl StatIndex {
    /// An unreadable or foreign index is an empty one.
    pub fn open(path: PathBuf) -> Self {
        let memory = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { path, memory: Mutex::new(memory) }
    }

    pub fn digest(&self, path: &Path) -> io::Result<Digest> {
        self.digest_of(path, &Stat::of(path)?)
    }

    /// The digest of a file that looked like `before` a moment ago.
    pub fn digest_of(&self, path: &Path, before: &Stat) -> io::Result<Digest> {
        if let Some((stat, digest)) = self.lock().files.get(path)
            && stat == before
        {
            return Ok(*digest);
        }
        let now = now_nanoseconds();
        let (digest, _) = Digest::of_file(path)?;
        let after = Stat::of(path)?;
        let mut memory = self.lock();
        memory.changed = true;
        if *before == after && before.last_touched() + STILL_NANOSECONDS < now {
            memory.files.insert(path.to_owned(), (after, digest));
        } else {
            memory.files.remove(path);
        }
        Ok(digest)
    }

    /// A tool's answer, asked again whenever `depends_on` differs from last time.
    pub fn answer(&self, question: &str, depends_on: &str, ask: impl FnOnce() -> Result<String>) -> Result<String> {
        if let Some((known, answer)) = self.lock().answers.get(question)
            && known == depends_on
        {
            return Ok(answer.clone());
        }
        let answer = ask()?;
        let mut memory = self.lock();
        memory.answers.insert(question.to_owned(), (depends_on.to_owned(), answer.clone()));
        memory.changed = true;
        Ok(answer)
    }

    /// Writes the index back if it learned something. A failure costs time on the next run only, so it is not one here.
    pub fn save(&self) {
        let mut memory = self.lock();
        if !memory.changed {
            return;
        }
        memory.files.retain(|path, _| path.exists());
        if let Ok(bytes) = serde_json::to_vec(&*memory)
            && files::write(&self.path, &bytes).is_ok()
        {
            memory.changed = false;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Memory> {
        // A panicking thread cannot leave a map half-changed in a way that matters: every entry is checked by stat.
        self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Turns a failed look at a declared input into an error that names it.
pub fn input_error(path: &Path, error: io::Error) -> Error {
    Error::disk("read the input", path, error)
}

fn now_nanoseconds() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos() as i128)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, FileTimes};
    use std::time::Duration;

    #[test]
    fn a_changed_file_with_its_old_size_and_mtime_is_still_noticed() {
        let folder = files::temporary_folder(&std::env::temp_dir(), "stat").unwrap();
        let file = folder.join("input");
        let old = SystemTime::now() - Duration::from_secs(3600);
        let put = |content: &str| {
            fs::write(&file, content).unwrap();
            File::options().write(true).open(&file).unwrap().set_times(FileTimes::new().set_modified(old)).unwrap();
        };
        let index = StatIndex::open(folder.join("index.json"));
        put("one");
        assert_eq!(index.digest(&file).unwrap(), Digest::of(b"one"));
        put("two");
        assert_eq!(index.digest(&file).unwrap(), Digest::of(b"two"));
        files::remove(&folder).unwrap();
    }

    #[test]
    fn an_edit_that_is_taken_back_and_a_file_that_comes_and_goes_are_noticed() {
        let folder = files::temporary_folder(&std::env::temp_dir(), "snapshot").unwrap();
        let (file, absent) = (folder.join("input"), folder.join("absent"));
        fs::write(&file, "one").unwrap();
        let mut snapshot = Snapshot::default();
        for path in [&folder, &file, &absent] {
            snapshot.note(path, Stat::of(path).ok());
        }
        assert_eq!(snapshot.touched(), Vec::<&Path>::new());
        std::thread::sleep(Duration::from_nanos(STILL_NANOSECONDS as u64));
        fs::write(&file, "two").unwrap();
        fs::write(&file, "one").unwrap();
        assert_eq!(snapshot.touched(), [&file]);
        fs::write(&absent, "").unwrap();
        assert_eq!(snapshot.touched(), [&folder, &absent, &file]);
        fs::remove_file(&absent).unwrap();
        assert_eq!(snapshot.touched(), [&folder, &file]);
        files::remove(&folder).unwrap();
    }

    #[test]
    fn an_answer_is_asked_again_when_what_it_depends_on_differs() {
        let index = StatIndex::default();
        let ask = |answer: &'static str| move || Ok(answer.to_owned());
        assert_eq!(index.answer("rustc -vV", "a", ask("1")).unwrap(), "1");
        assert_eq!(index.answer("rustc -vV", "a", ask("2")).unwrap(), "1");
        assert_eq!(index.answer("rustc -vV", "b", ask("3")).unwrap(), "3");
    }
}
