//! Results by key, contents by digest.
//!
//! ```text
//! store-v2/
//!   objects/ab/<digest>      one content, mode 0444; its name is its SHA-256
//!   entries/<key>            which contents a key has, below a line with its own SHA-256; written last, so it never refers to
//!                            what is not there
//!   trees/<key>/…            results of very many files (a toolchain, unpacked wheels), used in place
//!   trees/<key>.stats.json   their stats when they were hashed
//!   locks/<key>              held by whoever makes this key; its text says who
//!   gate, users/             who is using what, see `gate.rs`
//!   uses                     a line a use, seconds since 1970 and key: their order is the order in which `gc` removes
//!   quarantine/              what was found altered, for a person to look at
//! ```
//!
//! Never trusted without a look: an object's stat must be the one it had when its bytes were hashed, else it is hashed again;
//! what is wrong goes to quarantine and counts as absent. Correct, only slower, where file locks do nothing: two makers of one
//! key publish equal bytes under equal names. Another format gets another folder, `store-v3`: old and new tools work side by side.

use crate::cache::gate::{Gate, Inside};
use crate::cache::key::Key;
use crate::cache::lock::{self, Held, Mode, Patience};
use crate::cache::stat::StatIndex;
use crate::digest::Digest;
use crate::error::{Code, Error, Result};
use crate::files::{self, Draft};
use crate::interrupt;
use crate::tr;
use crate::workspace::CacheFolder;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Marks the cache for backup tools, and as ours. Source: <https://bford.info/cachedir/>.
pub const TAG: &str =
    "Signature: 8a477f597d28d172789f06886806bc55\n# Made by cargo xtask; may be deleted at any time.\n";

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
    /// What is linked into a library, as only its build knew: crate (`name version`) → licence, empty where it names none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub crates: BTreeMap<String, String>,
    pub inputs: BTreeMap<String, String>,
}

/// What making a result taught, beside its files; the fields are those of [`Entry`].
#[derive(Clone, Debug, Default)]
pub struct Learned {
    pub interfaces: BTreeMap<String, Digest>,
    pub crates: BTreeMap<String, String>,
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
    /// Its pin, where it has one.
    pub expected: Option<Digest>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    Hit(Entry),
    Absent,
    /// There is an entry, and these files, itself or of its contents, are not what they were.
    Broken(Vec<PathBuf>),
}

/// Proof that this process may make `key`; released when dropped or when the process dies.
#[derive(Debug)]
pub struct Lock {
    key: Key,
    _held: Held,
}

/// How long publishing waits for a collection: that one only looks and unlinks.
const COLLECTION: Duration = Duration::from_secs(300);

#[derive(Clone, Debug)]
pub struct Store {
    pub(super) root: PathBuf,
    pub gate: Gate,
}

impl Store {
    pub fn at(cache: &CacheFolder) -> Self {
        Self { root: cache.store(), gate: Gate::of(&cache.store()) }
    }

    /// Makes this process a user: the folders, private to this user, without what dead processes left half-written.
    pub fn enter(&self, cache: &CacheFolder, patience: Patience) -> Result<Inside> {
        let inside = self.gate.enter(patience)?;
        if !cache.tag().exists() {
            files::write(&cache.tag(), TAG.as_bytes())?;
        }
        for folder in ["objects", "entries", "trees", "locks", "quarantine"] {
            files::create_folder(&self.root.join(folder))?;
        }
        let mode = fs::metadata(&self.root).map(|metadata| metadata.permissions().mode() & 0o777);
        if !mode.is_ok_and(|mode| mode == 0o700) {
            fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700))
                .map_err(|error| Error::disk("protect", &self.root, error))?;
        }
        self.folders_of_temporaries().iter().chain([&cache.0]).for_each(|folder| files::sweep(folder));
        Ok(inside)
    }

    /// Every output of every result.
    pub fn outputs(&self) -> Vec<Output> {
        let entries = files::list(&self.root.join("entries"));
        let entry = |path: &PathBuf| {
            let key = path.file_name()?.to_str()?.parse().ok()?;
            read_entry(path, &key).ok().flatten()
        };
        entries.iter().filter_map(entry).flat_map(|entry| entry.outputs).collect()
    }

    /// Every folder in which something half-written may lie.
    pub(super) fn folders_of_temporaries(&self) -> Vec<PathBuf> {
        let objects = fs::read_dir(self.root.join("objects")).into_iter().flatten().flatten();
        let fixed = ["", "entries", "trees", "objects"].map(|folder| self.root.join(folder));
        objects.map(|entry| entry.path()).chain(fixed).collect()
    }

    /// Notes that these results were of use just now.
    pub fn used(&self, keys: &[Key]) -> Result<()> {
        let now = lock::now_seconds();
        let lines: String = keys.iter().map(|key| format!("{now} {key}\n")).collect();
        files::append(&self.root.join("uses"), &lines)
    }

    pub(super) fn entry_path(&self, key: &Key) -> PathBuf {
        self.root.join("entries").join(key.to_string())
    }

    pub(super) fn object(&self, digest: &Digest) -> PathBuf {
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
        if entry.layout == Layout::Tree {
            broken.extend(self.strangers(&entry));
        }
        if let Some(beside) = beside.filter(|_| remember) {
            beside.save();
        }
        Ok(if broken.is_empty() { Lookup::Hit(entry) } else { Lookup::Broken(broken) })
    }

    /// What lies in a tree and is no part of the result: who uses the tree would use it too.
    pub(super) fn strangers(&self, entry: &Entry) -> Vec<PathBuf> {
        let tree = self.tree(&entry.key);
        let named: BTreeSet<&Path> = entry.outputs.iter().map(|output| Path::new(&output.path)).collect();
        let found = files::everything_in(&tree).unwrap_or_default();
        found.iter().filter(|path| !named.contains(path.as_path())).map(|path| tree.join(path)).collect()
    }

    /// Waits until this process may make `key`.
    pub fn lock(&self, key: &Key, patience: Patience) -> Result<Lock> {
        Ok(Lock { key: *key, _held: lock::lock(&self.lock_path(key), Mode::Exclusive, patience)? })
    }

    pub(super) fn lock_path(&self, key: &Key) -> PathBuf {
        self.root.join("locks").join(key.to_string())
    }

    /// As long as this is held nothing is collected.
    fn publishing(&self) -> Result<Held> {
        self.gate.hold_open(Patience { limit: COLLECTION, tick: &mut |_, _| interrupt::check() })
    }

    /// Publishes finished files under the locked key, contents first, entry last.
    pub fn publish(
        &self,
        lock: &Lock,
        step: &str,
        inputs: BTreeMap<String, String>,
        learned: Learned,
        products: &[Product],
    ) -> Result<Entry> {
        let _open = self.publishing()?;
        let mut outputs = Vec::new();
        for product in products {
            // The bytes that get the name are those that were hashed, whatever happens to the original meanwhile.
            let copy = Draft::copy(&product.file, &self.root.join("objects"), 0o444)?;
            let (digest, size_bytes) =
                Digest::of_file(copy.path()).map_err(|error| Error::disk("read", copy.path(), error))?;
            if let Some(expected) = product.expected.filter(|expected| *expected != digest) {
                return Err(Error::new(
                    Code::OtherBytes,
                    tr!("{path} changed while it was taken over", path = product.path),
                )
                .because(Error::new(Code::OtherBytes, tr!("expected {expected}, got {digest}", expected, digest)))
                .hint(tr!("nothing was published; run the command again")));
            }
            let object = self.object(&digest);
            // An object of this name may be an altered one that nobody has looked at yet: its bytes decide.
            let known = is_regular(&object) && Digest::of_file(&object).is_ok_and(|(found, _)| found == digest);
            if !known {
                self.quarantine(&object)?;
                copy.publish(&object)?;
            }
            outputs.push(Output { path: product.path.clone(), digest, size_bytes, executable: product.executable });
        }
        outputs.sort_by(|a, b| a.path.cmp(&b.path));
        self.record(Entry {
            key: lock.key,
            step: step.to_owned(),
            layout: Layout::Objects,
            outputs,
            interfaces: learned.interfaces,
            crates: learned.crates,
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
        let _open = self.publishing()?;
        outputs.sort_by(|a, b| a.path.cmp(&b.path));
        let place = self.tree(&lock.key);
        if place.exists() {
            self.quarantine(&place)?;
        }
        files::rename(folder, &place)?;
        let Learned { interfaces, crates } = Learned::default();
        let (key, step) = (lock.key, step.to_owned());
        self.record(Entry { key, step, layout: Layout::Tree, outputs, interfaces, crates, inputs })
    }

    fn record(&self, entry: Entry) -> Result<Entry> {
        let body = serde_json::to_string(&entry)
            .map_err(|error| Error::bug(tr!("cannot serialise an entry")).because(error))?;
        let text = format!("{}\n{body}", Digest::of(body.as_bytes()));
        files::write(&self.entry_path(&entry.key), text.as_bytes())?;
        self.used(&[entry.key])?;
        Ok(entry)
    }

    /// Puts a result's file where a person wants it; the bytes are hashed on the way.
    pub fn restore(&self, entry: &Entry, output: &Output, to: &Path) -> Result<()> {
        let from = self.file_of(entry, output);
        let folder = to.parent().unwrap_or(Path::new("."));
        let copy = Draft::copy(&from, folder, if output.executable { 0o755 } else { 0o644 })?;
        let (digest, _) = Digest::of_file(copy.path()).map_err(|error| Error::disk("read", copy.path(), error))?;
        if digest != output.digest {
            return Err(Error::new(Code::AlteredObject, tr!("{path} was altered in the store", path = output.path))
                .because(Error::new(
                    Code::AlteredObject,
                    tr!("expected {expected}, got {digest}", expected = output.digest, digest),
                ))
                .hint(tr!("run the command again: the altered object is set aside and made anew")));
        }
        copy.publish(to)
    }

    /// Takes what was found altered out of the way, and the entry with it, so that the result is made again.
    pub fn set_aside(&self, key: &Key, broken: &[PathBuf]) -> Result<()> {
        let _ = self.quarantine(&self.entry_path(key));
        for path in broken {
            self.quarantine(path)?;
        }
        Ok(())
    }

    pub(super) fn quarantine(&self, path: &Path) -> Result<()> {
        if fs::symlink_metadata(path).is_err() {
            return Ok(());
        }
        let place = files::unused_name(&self.root.join("quarantine"), path);
        files::rename(path, &place)
    }
}

/// An entry that is whole: a regular file whose first line is the SHA-256 of the rest, of this key, with outputs that stay where they
/// are put. Anything else is as good as none.
pub(super) fn read_entry(path: &Path, key: &Key) -> Result<Option<Entry>> {
    if !is_regular(path) {
        return Ok(None);
    }
    let bytes = files::read_if_present(path)?.unwrap_or_default();
    let whole = std::str::from_utf8(&bytes).ok().and_then(|text| text.split_once('\n'));
    let body = whole.filter(|(digest, body)| digest.parse() == Ok(Digest::of(body.as_bytes()))).map(|(_, body)| body);
    let entry: Option<Entry> = body.and_then(|body| serde_json::from_str(body).ok());
    Ok(entry.filter(|entry| entry.key == *key && entry.outputs.iter().all(|it| files::stays_below(&it.path))))
}

/// A file itself: no link, no folder, nothing that blocks whoever opens it.
pub(super) fn is_regular(path: &Path) -> bool {
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

    macro_rules! patience {
        () => {
            Patience { limit: Duration::from_secs(10), tick: &mut |_, _| Ok(()) }
        };
    }

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
            store.enter(&cache, patience!()).unwrap();
            Self { folder, store, key: Inputs::NativeLibrary(library()).key() }
        }

        fn publish(&self) -> Entry {
            let file = self.folder.join("lib.so");
            fs::write(&file, "library").unwrap();
            let lock = self.store.lock(&self.key, patience!()).unwrap();
            let product = Product { path: "lib.so".into(), file, executable: false, expected: None };
            self.store.publish(&lock, "native-library:x", BTreeMap::new(), Learned::default(), &[product]).unwrap()
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
        // Altered after the lookup: noticed on the way, and what was there stays.
        let object = it.store.file_of(&entry, &entry.outputs[0]);
        fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&object, "Library").unwrap();
        assert_eq!(it.store.restore(&entry, &entry.outputs[0], &to).unwrap_err().code(), Code::AlteredObject);
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
                fs::File::options().write(true).open(path).unwrap().set_len(2).unwrap();
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

    /// A tree is used as it lies there: what is in it beside the result would be used too.
    #[test]
    fn a_stranger_in_a_tree_is_never_part_of_a_hit() {
        let it = Fixture::new();
        let publish = || {
            let lock = it.store.lock(&it.key, patience!()).unwrap();
            let folder = it.store.new_tree(&lock).unwrap();
            fs::create_dir(folder.join("lib")).unwrap();
            fs::write(folder.join("lib/module.py"), "1").unwrap();
            let path = "lib/module.py".to_owned();
            let outputs = vec![Output { path, digest: Digest::of(b"1"), size_bytes: 1, executable: false }];
            it.store.publish_tree(&lock, "wheel-set:x", BTreeMap::new(), &folder, outputs).unwrap()
        };
        let strangers: [fn(&Path); 4] = [
            |lib| fs::write(lib.join("stranger.py"), "2").unwrap(),
            |lib| std::os::unix::fs::symlink("nowhere", lib.join("dangling")).unwrap(),
            |lib| std::os::unix::fs::symlink("/", lib.join("linked")).unwrap(),
            |lib| {
                let elsewhere = lib.with_file_name("elsewhere");
                fs::rename(lib, &elsewhere).unwrap();
                std::os::unix::fs::symlink("elsewhere", lib).unwrap();
            },
        ];
        for stranger in strangers {
            publish();
            assert!(matches!(it.lookup(), Lookup::Hit(_)));
            stranger(&it.store.tree(&it.key).join("lib"));
            let Lookup::Broken(broken) = it.lookup() else { panic!("{:?}", it.lookup()) };
            it.store.set_aside(&it.key, &broken).unwrap();
            assert_eq!(it.lookup(), Lookup::Absent);
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
}
