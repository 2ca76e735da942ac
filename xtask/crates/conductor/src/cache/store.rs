//! Results by key, contents by digest.
//!
//! ```text
//! store-v1/
//!   objects/ab/<digest>      one content, mode 0444; its name is its SHA-256
//!   entries/<key>            which contents a key has, below a line with its own SHA-256; written last, so it never refers to
//!                            what is not there
//!   trees/<key>/…            results of very many files (a toolchain, unpacked wheels), used in place
//!   trees/<key>.stats.json   their stats when they were hashed
//!   locks/<key>              held by whoever makes this key; its text says who
//!   quarantine/              what was found altered, for a person to look at
//! ```
//!
//! Never trusted without a look: an object's stat must be the one it had when its bytes were hashed, else it is hashed again;
//! what is wrong goes to quarantine and counts as absent. Correct, only slower, where file locks do nothing: two makers of one
//! key publish equal bytes under equal names.

use crate::cache::key::Key;
use crate::cache::stat::StatIndex;
use crate::digest::Digest;
use crate::error::{Code, Error, Result};
use crate::files;
use crate::workspace::CacheFolder;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What one step made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub key: Key,
    /// Step id, for people who look into the store.
    pub step: String,
    pub layout: Layout,
    /// Sorted by path.
    pub outputs: Vec<Output>,
    /// What a later step's key takes from this result: library name → digest of its interface.
    #[serde(default)]
    pub interfaces: BTreeMap<String, Digest>,
    pub inputs: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    Objects,
    Tree,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Relative, `/`-separated.
    pub path: String,
    pub digest: Digest,
    pub size_bytes: u64,
    pub executable: bool,
}

/// A finished file on its way into the store.
#[derive(Clone, Debug)]
pub struct Product {
    pub path: String,
    pub file: PathBuf,
    pub executable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    Hit(Entry),
    Absent,
    /// There is an entry, and these files, itself or of its contents, are not what they were.
    Broken(Vec<PathBuf>),
}

/// Who holds a lock that somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder(pub String);

/// Proof that this process may make `key`; released when dropped or when the process dies.
#[derive(Debug)]
pub struct Lock {
    key: Key,
    _file: File,
}

#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    pub fn at(cache: &CacheFolder) -> Self {
        Self { root: cache.store() }
    }

    /// Makes the folders, private to this user, and clears what dead processes left half-written.
    pub fn prepare(&self, cache: &CacheFolder) -> Result<()> {
        if !cache.tag().exists() {
            files::write(
                &cache.tag(),
                b"Signature: 8a477f597d28d172789f06886806bc55\n# Made by cargo xtask; may be deleted at any time.\n",
            )?;
        }
        for folder in ["objects", "entries", "trees", "locks", "quarantine"] {
            files::create_folder(&self.root.join(folder))?;
        }
        let mode = fs::metadata(&self.root).map(|metadata| metadata.permissions().mode() & 0o777);
        if !mode.is_ok_and(|mode| mode == 0o700) {
            fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700))
                .map_err(|error| Error::disk("protect", &self.root, error))?;
        }
        files::sweep(&self.root.join("entries"));
        files::sweep(&self.root.join("trees"));
        Ok(())
    }

    fn entry_path(&self, key: &Key) -> PathBuf {
        self.root.join("entries").join(key.to_string())
    }

    fn object(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join("objects").join(&name[..2]).join(name)
    }

    /// Where a tree's files are, for use in place.
    pub fn tree(&self, key: &Key) -> PathBuf {
        self.root.join("trees").join(key.to_string())
    }

    pub fn file_of(&self, entry: &Entry, output: &Output) -> PathBuf {
        match entry.layout {
            Layout::Objects => self.object(&output.digest),
            Layout::Tree => self.tree(&entry.key).join(&output.path),
        }
    }

    /// What is known of `key`, every file checked. Changes nothing, except that a tree's stats are written down with `remember`.
    pub fn lookup(&self, key: &Key, stats: &StatIndex, remember: bool) -> Result<Lookup> {
        let path = self.entry_path(key);
        let Some(entry) = read_entry(&path, key)? else {
            return Ok(if fs::symlink_metadata(&path).is_ok() { Lookup::Broken(vec![path]) } else { Lookup::Absent });
        };
        // A tree's stats stay beside it: thousands of lines that only whoever uses the tree should have to read.
        let beside = match entry.layout {
            Layout::Objects => None,
            Layout::Tree => Some(StatIndex::open(self.tree(key).with_extension("stats.json"))),
        };
        let stats = beside.as_ref().unwrap_or(stats);
        let mut broken = Vec::new();
        for output in &entry.outputs {
            let file = self.file_of(&entry, output);
            let regular = fs::symlink_metadata(&file).is_ok_and(|metadata| {
                let executable = metadata.permissions().mode() & 0o111 != 0;
                metadata.is_file() && (entry.layout == Layout::Objects || executable == output.executable)
            });
            if !regular || !stats.digest(&file).is_ok_and(|digest| digest == output.digest) {
                broken.push(file);
            }
        }
        if let Some(beside) = beside.filter(|_| remember) {
            beside.save();
        }
        Ok(if broken.is_empty() { Lookup::Hit(entry) } else { Lookup::Broken(broken) })
    }

    /// Waits until this process may make `key`. While it waits `tick` may end it with an error; it hears who is in the way after
    /// one second and then ever less often.
    pub fn lock(
        &self,
        key: &Key,
        limit: Duration,
        tick: impl FnMut(Option<&Holder>, Duration) -> Result<()>,
    ) -> Result<Lock> {
        let path = self.root.join("locks").join(key.to_string());
        Ok(Lock { key: *key, _file: lock_file(&path, limit, tick)? })
    }

    /// Publishes finished files under the locked key, contents first, entry last.
    pub fn publish(
        &self,
        lock: &Lock,
        step: &str,
        inputs: BTreeMap<String, String>,
        interfaces: BTreeMap<String, Digest>,
        products: &[Product],
    ) -> Result<Entry> {
        let mut outputs = Vec::new();
        for product in products {
            let (digest, size_bytes) =
                Digest::of_file(&product.file).map_err(|error| Error::disk("read", &product.file, error))?;
            let object = self.object(&digest);
            // An object of this name may be an altered one that nobody has looked at yet: its bytes decide.
            let known = is_regular(&object) && Digest::of_file(&object).is_ok_and(|(found, _)| found == digest);
            if !known {
                self.quarantine(&object)?;
                files::copy(&product.file, &object, 0o444)?;
            }
            outputs.push(Output { path: product.path.clone(), digest, size_bytes, executable: product.executable });
        }
        outputs.sort_by(|a, b| a.path.cmp(&b.path));
        self.record(Entry {
            key: lock.key,
            step: step.to_owned(),
            layout: Layout::Objects,
            outputs,
            interfaces,
            inputs,
        })
    }

    /// A fresh folder on the store's file system, to be filled and handed to [`Store::publish_tree`].
    pub fn new_tree(&self, lock: &Lock) -> Result<PathBuf> {
        files::temporary_folder(&self.root.join("trees"), &lock.key.short())
    }

    /// Publishes a filled folder whose files are written through to disk already.
    pub fn publish_tree(
        &self,
        lock: &Lock,
        step: &str,
        inputs: BTreeMap<String, String>,
        folder: &Path,
        mut outputs: Vec<Output>,
    ) -> Result<Entry> {
        outputs.sort_by(|a, b| a.path.cmp(&b.path));
        let place = self.tree(&lock.key);
        if place.exists() {
            self.quarantine(&place)?;
        }
        files::rename(folder, &place)?;
        let interfaces = BTreeMap::new();
        self.record(Entry { key: lock.key, step: step.to_owned(), layout: Layout::Tree, outputs, interfaces, inputs })
    }

    fn record(&self, entry: Entry) -> Result<Entry> {
        let body =
            serde_json::to_string(&entry).map_err(|error| Error::bug("cannot serialise an entry").because(error))?;
        let text = format!("{}\n{body}", Digest::of(body.as_bytes()));
        files::write(&self.entry_path(&entry.key), text.as_bytes())?;
        Ok(entry)
    }

    /// Puts a result's file where a person wants it; the bytes are hashed on the way.
    pub fn restore(&self, entry: &Entry, output: &Output, to: &Path) -> Result<()> {
        let from = self.file_of(entry, output);
        let (digest, _) = Digest::of_file(&from).map_err(|error| Error::disk("read", &from, error))?;
        if digest != output.digest {
            return Err(Error::new(Code::AlteredObject, format!("{} was altered in the store", output.path))
                .because(Error::new(Code::AlteredObject, format!("expected {}, got {digest}", output.digest)))
                .hint("run the command again: the altered object is set aside and made anew"));
        }
        files::copy(&from, to, if output.executable { 0o755 } else { 0o644 })
    }

    /// Takes what was found altered out of the way, and the entry with it, so that the result is made again.
    pub fn set_aside(&self, key: &Key, broken: &[PathBuf]) -> Result<()> {
        let _ = self.quarantine(&self.entry_path(key));
        for path in broken {
            self.quarantine(path)?;
        }
        Ok(())
    }

    fn quarantine(&self, path: &Path) -> Result<()> {
        if fs::symlink_metadata(path).is_err() {
            return Ok(());
        }
        let place = files::temporary_beside(&self.root.join("quarantine").join(path.file_name().unwrap_or_default()));
        files::rename(path, &place)
    }
}

/// Holds `path` locked until the file is dropped or this process dies.
pub fn lock_file(
    path: &Path,
    limit: Duration,
    mut tick: impl FnMut(Option<&Holder>, Duration) -> Result<()>,
) -> Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| Error::disk("open the lock", path, error))?;
    let start = Instant::now();
    let mut due_at = Duration::from_secs(1);
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {}
            // No working locks here (some network file systems): duplicate work, equal bytes.
            Err(TryLockError::Error(_)) => break,
        }
        let waited = start.elapsed();
        let holder = || Holder(fs::read_to_string(path).unwrap_or_default().trim().to_owned());
        if waited >= limit {
            let message = format!("{} held {} for more than {} s", holder().0, path.display(), limit.as_secs());
            return Err(Error::new(Code::LockTimeout, message)
                .hint("wait for that process, or end it; XTASK_LOCK_TIMEOUT sets the limit in seconds"));
        }
        let due = waited >= due_at;
        if due {
            due_at *= 3;
        }
        tick(due.then(holder).as_ref(), waited)?;
        std::thread::sleep(Duration::from_millis(50));
    }
    let holder = format!("process {} ({})", std::process::id(), std::env::args().skip(1).collect::<Vec<_>>().join(" "));
    // Only a courtesy to those who wait: a failure to say who we are stops nobody.
    let _ = file.set_len(0).and_then(|()| file.write_all(holder.as_bytes()));
    Ok(file)
}

/// An entry that is whole: a regular file whose first line is the SHA-256 of the rest, of this key, with outputs that stay where they
/// are put. Anything else is as good as none.
fn read_entry(path: &Path, key: &Key) -> Result<Option<Entry>> {
    if !is_regular(path) {
        return Ok(None);
    }
    let bytes = files::read_if_present(path)?.unwrap_or_default();
    let whole = std::str::from_utf8(&bytes).ok().and_then(|text| text.split_once('\n'));
    let body = whole.filter(|(digest, body)| digest.parse() == Ok(Digest::of(body.as_bytes()))).map(|(_, body)| body);
    let entry: Option<Entry> = body.and_then(|body| serde_json::from_str(body).ok());
    let stays = |output: &Output| {
        let mut parts = Path::new(&output.path).components().peekable();
        parts.peek().is_some() && parts.all(|part| matches!(part, std::path::Component::Normal(_)))
    };
    Ok(entry.filter(|entry| entry.key == *key && entry.outputs.iter().all(stays)))
}

/// A file itself: no link, no folder, nothing that blocks whoever opens it.
fn is_regular(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// Whether the bytes at `path` are already `digest`, and its x bit as wanted.
pub fn is_in_place(path: &Path, output: &Output, stats: &StatIndex) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| {
        metadata.is_file()
            && metadata.len() == output.size_bytes
            && (metadata.permissions().mode() & 0o111 != 0) == output.executable
    }) && stats.digest(path).is_ok_and(|digest| digest == output.digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::{Inputs, tests::library};

    struct Fixture {
        folder: PathBuf,
        store: Store,
        key: Key,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = files::temporary_folder(&std::env::temp_dir(), "store").unwrap();
            let cache = CacheFolder(folder.join("cache"));
            let store = Store::at(&cache);
            store.prepare(&cache).unwrap();
            Self { folder, store, key: Inputs::NativeLibrary(library()).key() }
        }

        fn publish(&self) -> Entry {
            let file = self.folder.join("lib.so");
            fs::write(&file, "library").unwrap();
            let lock = self.store.lock(&self.key, Duration::from_secs(1), |_, _| Ok(())).unwrap();
            let product = Product { path: "lib.so".into(), file, executable: false };
            self.store.publish(&lock, "native-library:x", BTreeMap::new(), BTreeMap::new(), &[product]).unwrap()
        }

        fn lookup(&self) -> Lookup {
            self.store.lookup(&self.key, &StatIndex::default(), false).unwrap()
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            files::remove(&self.folder).unwrap();
        }
    }

    #[test]
    fn what_was_published_is_found_and_restored() {
        let it = Fixture::new();
        assert_eq!(it.lookup(), Lookup::Absent);
        let entry = it.publish();
        assert_eq!(it.lookup(), Lookup::Hit(entry.clone()));
        let to = it.folder.join("dist/lib.so");
        it.store.restore(&entry, &entry.outputs[0], &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"library");
    }

    /// Each way of damaging an object is noticed, set aside, and repaired by publishing again.
    #[test]
    fn an_altered_object_is_never_a_hit() {
        type Damage = (&'static str, fn(&Path));
        let damages: [Damage; 6] = [
            ("flip", |path| {
                let mut bytes = fs::read(path).unwrap();
                bytes[3] ^= 1;
                fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
                fs::write(path, bytes).unwrap();
            }),
            ("truncate", |path| {
                fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
                File::options().write(true).open(path).unwrap().set_len(2).unwrap();
            }),
            ("remove", |path| fs::remove_file(path).unwrap()),
            ("folder", |path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            }),
            ("dangling link", |path| {
                fs::remove_file(path).unwrap();
                std::os::unix::fs::symlink("nowhere", path).unwrap();
            }),
            ("link to equal bytes", |path| {
                let elsewhere = path.with_extension("elsewhere");
                fs::rename(path, &elsewhere).unwrap();
                std::os::unix::fs::symlink(elsewhere, path).unwrap();
            }),
        ];
        for (name, damage) in damages {
            let it = Fixture::new();
            let entry = it.publish();
            let object = it.store.file_of(&entry, &entry.outputs[0]);
            damage(&object);
            let Lookup::Broken(broken) = it.lookup() else { panic!("{name}: {:?}", it.lookup()) };
            assert_eq!(broken, [object], "{name}");
            it.store.set_aside(&it.key, &broken).unwrap();
            assert_eq!(it.lookup(), Lookup::Absent, "{name}");
            assert_eq!(it.publish(), entry, "{name}");
            assert_eq!(it.lookup(), Lookup::Hit(entry), "{name}");
        }
    }

    #[test]
    fn an_altered_entry_is_never_a_hit() {
        type Damage = fn(&Path, &[u8]);
        let damages: [Damage; 5] = [
            |path, _| fs::write(path, "{").unwrap(),
            |path, bytes| {
                let text = String::from_utf8(bytes.to_vec()).unwrap();
                fs::write(path, text.replace("lib.so", "../lib.so")).unwrap();
            },
            |path, bytes| {
                // Whole by its digest, but it would put a file elsewhere.
                let body = String::from_utf8(bytes[65..].to_vec()).unwrap().replace("lib.so", "../lib.so");
                fs::write(path, format!("{}\n{body}", Digest::of(body.as_bytes()))).unwrap();
            },
            |path, _| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            },
            |path, _| {
                fs::remove_file(path).unwrap();
                rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
                    .unwrap();
            },
        ];
        for damage in damages {
            let it = Fixture::new();
            let entry = it.publish();
            let path = it.store.entry_path(&it.key);
            damage(&path, &fs::read(&path).unwrap());
            assert_eq!(it.lookup(), Lookup::Broken(vec![path.clone()]));
            it.store.set_aside(&it.key, &[path]).unwrap();
            assert_eq!(it.lookup(), Lookup::Absent);
            assert_eq!(it.publish(), entry);
        }
    }

    #[test]
    fn a_second_maker_waits_hears_who_holds_the_lock_and_gives_up_in_time() {
        let it = Fixture::new();
        let held = it.store.lock(&it.key, Duration::ZERO, |_, _| Ok(())).unwrap();
        let mut heard = String::new();
        let error = it
            .store
            .lock(&it.key, Duration::from_millis(1500), |holder, _| {
                heard.extend(holder.map(|holder| holder.0.clone()));
                Ok(())
            })
            .unwrap_err();
        assert_eq!(error.code(), Code::LockTimeout);
        assert!(heard.contains(&format!("process {}", std::process::id())), "{heard}");
        drop(held);
        // A child that another test is just forking may hold the file for a moment, until it execs.
        it.store.lock(&it.key, Duration::from_secs(10), |_, _| Ok(())).unwrap();
    }
}
