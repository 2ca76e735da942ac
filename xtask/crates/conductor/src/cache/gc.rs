//! What the cache holds, what of it may go, and letting it go.
//!
//! [`Survey`] looks, [`Survey::plan`] decides (purely: a dry run shows this very plan), [`collect`] obeys behind a closed gate. What a
//! living process uses stays, whatever its age and size. Order comes from the list of uses, never from a clock; only the bound on age
//! asks what time it is. Killed in the middle it leaves a result whole, absent, or without its entry, which the next collection
//! finds. An entry goes before its contents, so no reader meets one whose contents were taken on purpose.

use crate::cache::gate::Closed;
use crate::cache::key::Key;
use crate::cache::lock;
use crate::cache::store::{self, Entry, Layout, Store};
use crate::digest::Digest;
use crate::error::Result;
use crate::files;
use crate::tr;
use crate::workspace::CacheFolder;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// A time in which nothing at all was used counts no longer than this: a clock that ran wrong for one run must not make everything old.
const LONGEST_PAUSE_SECONDS: u64 = 30 * DAY_SECONDS;
/// An object or tree without an entry may be one that is just being published where locks do nothing: it gets this long.
const GRACE: Duration = Duration::from_secs(3600);
const DAY_SECONDS: u64 = 24 * 3600;

/// Bytes, written `10GiB`, `500MB`, `0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || tr!("`{text}` is no size: a number with B, KB, MB, GB, KiB, MiB or GiB behind it", text);
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        Ok(Self((number * factor as f64) as u64))
    }
}

/// How much may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub size: Size,
    /// Results that nobody used for longer may go.
    pub age_days: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { size: Size(10 << 30), age_days: 90 }
    }
}

/// What lies in the cache, one kind a room of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// What a step made.
    Result,
    /// A verified file, as it was fetched.
    Download,
    /// A download that was broken off and can be continued.
    Partial,
    /// Contents that no entry names.
    Orphan,
    /// Half-written by a process that died.
    Leftover,
    /// Found altered, set aside for a person.
    Quarantine,
    /// The folder of another version of this tool.
    Bucket,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match self {
            Self::Result => tr!("result"),
            Self::Download => tr!("download"),
            Self::Partial => tr!("partial download"),
            Self::Orphan => tr!("orphan"),
            Self::Leftover => tr!("leftover"),
            Self::Quarantine => tr!("quarantine"),
            Self::Bucket => tr!("other version"),
        })
    }
}

/// One thing that stays or goes as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub kind: Kind,
    /// Step id and short key of a result, else a file name.
    pub name: String,
    pub size_bytes: u64,
    /// The key, for a result.
    key: Option<Key>,
    /// In the order in which they are removed.
    paths: Vec<PathBuf>,
    /// Objects that it shares with other results.
    objects: Vec<Digest>,
    /// Place in the order of uses; greater is later.
    used: usize,
    /// Since it was last of use; since it was written, where that is not noted.
    age: Duration,
}

/// What goes, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removal {
    pub kind: Kind,
    pub name: String,
    pub size_bytes: u64,
    pub why: String,
    #[serde(skip)]
    key: Option<Key>,
    #[serde(skip)]
    paths: Vec<PathBuf>,
}

/// Everything that the cache holds.
#[derive(Debug, Default)]
pub struct Survey {
    pub items: Vec<Item>,
    /// Objects that results name → size and how many name it.
    objects: BTreeMap<Digest, (u64, usize)>,
    /// Uses by key, oldest first.
    uses: Vec<(u64, Key)>,
    object_paths: BTreeMap<Digest, PathBuf>,
}

/// What living processes, this one left out, say that they use.
#[derive(Debug, Default)]
pub struct Live {
    pub keys: BTreeSet<String>,
    /// Somebody is inside and may be fetching.
    pub anybody: bool,
}

impl Live {
    pub fn of(store: &Store) -> Self {
        let users = store.gate.others();
        Self { anybody: !users.is_empty(), keys: users.into_iter().flat_map(|user| user.uses).collect() }
    }
}

impl Survey {
    pub fn of(cache: &CacheFolder, store: &Store) -> Self {
        let mut it = Self { uses: uses(&store.root.join("uses")), ..Self::default() };
        it.results(store);
        it.orphans(store);
        it.store_rest(store);
        it.downloads(&cache.downloads());
        it.buckets(cache);
        it
    }

    /// What the limit on size is about; folders of other versions are not ours to count.
    pub fn size_bytes(&self) -> u64 {
        let objects: u64 = self.objects.values().map(|(size_bytes, _)| size_bytes).sum();
        let ours = self.items.iter().filter(|item| item.kind != Kind::Bucket);
        objects + ours.map(Item::own_bytes).sum::<u64>()
    }

    /// Kind → count and bytes; contents that several results share count once.
    pub fn totals(&self) -> BTreeMap<Kind, (usize, u64)> {
        let mut totals = BTreeMap::<Kind, (usize, u64)>::new();
        for item in &self.items {
            let total = totals.entry(item.kind).or_default();
            total.0 += 1;
            total.1 += item.own_bytes();
        }
        if let Some(total) = totals.get_mut(&Kind::Result) {
            total.1 += self.objects.values().map(|(size_bytes, _)| size_bytes).sum::<u64>();
        }
        totals
    }

    fn results(&mut self, store: &Store) {
        let order = last_uses(&self.uses, lock::now_seconds());
        for path in files::list(&store.root.join("entries")) {
            let key = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<Key>().ok());
            let entry = key.and_then(|key| store::read_entry(&path, &key).ok().flatten());
            let Some(Entry { key, step, layout, outputs, .. }) = entry else {
                if !files::is_temporary(&path) {
                    self.push(Kind::Orphan, &path, files::age(&path).unwrap_or_default());
                }
                continue;
            };
            let (used, age) = order.get(&key).copied().unwrap_or_else(|| (0, files::age(&path).unwrap_or_default()));
            let mut item = Item {
                kind: Kind::Result,
                name: format!("{step} {}", key.short()),
                size_bytes: outputs.iter().map(|output| output.size_bytes).sum(),
                key: Some(key),
                paths: vec![path],
                objects: Vec::new(),
                used,
                age,
            };
            match layout {
                Layout::Objects => {
                    for output in outputs {
                        let named = self.objects.entry(output.digest).or_insert((output.size_bytes, 0));
                        if !item.objects.contains(&output.digest) {
                            named.1 += 1;
                            item.objects.push(output.digest);
                        }
                        self.object_paths.insert(output.digest, store.object(&output.digest));
                    }
                }
                Layout::Tree => {
                    let tree = store.tree(&key);
                    item.paths.extend([tree.clone(), tree.with_extension("stats.json")]);
                }
            }
            self.items.push(item);
        }
    }

    /// Objects and trees that no entry names.
    fn orphans(&mut self, store: &Store) {
        let trees: BTreeSet<PathBuf> = self.items.iter().flat_map(|item| item.paths.iter().cloned()).collect();
        let objects = files::list(&store.root.join("objects")).into_iter().flat_map(|folder| files::list(&folder));
        let objects: Vec<PathBuf> = objects
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                !name.parse().is_ok_and(|digest: Digest| self.objects.contains_key(&digest))
            })
            .collect();
        let trees: Vec<PathBuf> =
            files::list(&store.root.join("trees")).into_iter().filter(|path| !trees.contains(path)).collect();
        for path in objects.into_iter().chain(trees).filter(|path| !files::is_temporary(path)) {
            self.push(Kind::Orphan, &path, files::age(&path).unwrap_or_default());
        }
    }

    fn store_rest(&mut self, store: &Store) {
        for folder in store.folders_of_temporaries() {
            for path in files::leftovers(&folder) {
                self.push(Kind::Leftover, &path, Duration::ZERO);
            }
        }
        for path in files::list(&store.root.join("quarantine")) {
            self.push(Kind::Quarantine, &path, files::age(&path).unwrap_or_default());
        }
    }

    /// The gateway's folder; its layout is in the gateway's `downloads.rs`.
    fn downloads(&mut self, root: &Path) {
        for path in files::list(&root.join("sha256")).into_iter().flat_map(|folder| files::list(&folder)) {
            self.push(Kind::Download, &path, files::age(&path).unwrap_or_default());
        }
        for path in files::list(&root.join("partial")) {
            let age = files::age(&path).unwrap_or_default();
            if path.extension().is_none() {
                self.push(Kind::Partial, &path, age);
                if let Some(item) = self.items.last_mut() {
                    item.paths.push(path.with_extension("source"));
                }
            } else if !path.with_extension("").exists() && age > GRACE {
                self.push(Kind::Leftover, &path, age);
            }
        }
        for path in files::list(&root.join("quarantine")) {
            self.push(Kind::Quarantine, &path, files::age(&path).unwrap_or_default());
        }
    }

    fn buckets(&mut self, cache: &CacheFolder) {
        for path in cache.other_buckets() {
            let age = ["entries", "locks", ""].iter().filter_map(|inside| files::age(&path.join(inside))).min();
            self.push(Kind::Bucket, &path, age.unwrap_or_default());
        }
    }

    fn push(&mut self, kind: Kind, path: &Path, age: Duration) {
        self.items.push(Item {
            kind,
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            size_bytes: files::size_of(path),
            key: None,
            paths: vec![path.to_owned()],
            objects: Vec::new(),
            used: 0,
            age,
        });
    }

    /// What goes so that `limits` hold. Leftovers and orphans always; then what is older; then, until the size is right, downloads
    /// (whose results stay), then results, the least recently used first.
    pub fn plan(&self, limits: &Limits, live: &Live) -> Vec<Removal> {
        let mut plan =
            Plan { survey: self, objects: self.objects.clone(), removals: Vec::new(), left: self.size_bytes() };
        let is_live = |item: &Item| match item.kind {
            Kind::Result => item.key.is_some_and(|key| live.keys.contains(&key.to_string())),
            Kind::Download | Kind::Partial => live.anybody,
            Kind::Orphan => item.age < GRACE && live.anybody,
            Kind::Leftover | Kind::Quarantine | Kind::Bucket => false,
        };
        let mut stays: Vec<&Item> = Vec::new();
        for item in &self.items {
            let days = item.age.as_secs() / DAY_SECONDS;
            let old = days >= limits.age_days && (limits.age_days > 0 || item.kind != Kind::Bucket);
            let why = match item.kind {
                _ if is_live(item) => None,
                Kind::Leftover => Some(tr!("left by a process that died")),
                Kind::Orphan => Some(tr!("no result needs it")),
                // Nobody notes when a download is read again: only their size is bounded.
                Kind::Download => None,
                _ if old => Some(tr!("unused for {days} days", days)),
                _ => None,
            };
            match why {
                Some(why) => plan.remove(item, why),
                None if !is_live(item) => stays.push(item),
                None => {}
            }
        }
        stays.sort_by(|a, b| {
            let rank = |item: &Item| match item.kind {
                Kind::Quarantine => 0,
                Kind::Partial => 1,
                Kind::Download => 2,
                _ => 3,
            };
            (rank(a), a.used).cmp(&(rank(b), b.used)).then(b.age.cmp(&a.age)).then(a.name.cmp(&b.name))
        });
        for item in stays.into_iter().filter(|item| item.kind != Kind::Bucket) {
            if plan.left <= limits.size.0 {
                break;
            }
            plan.remove(item, tr!("over the size limit"));
        }
        plan.removals
    }
}

impl Item {
    /// What goes with it for certain.
    fn own_bytes(&self) -> u64 {
        if self.objects.is_empty() { self.size_bytes } else { 0 }
    }
}

/// A plan in the making.
struct Plan<'a> {
    survey: &'a Survey,
    objects: BTreeMap<Digest, (u64, usize)>,
    removals: Vec<Removal>,
    /// Bytes that stay.
    left: u64,
}

impl Plan<'_> {
    fn remove(&mut self, item: &Item, why: String) {
        let mut paths = item.paths.clone();
        let mut size_bytes = item.own_bytes();
        for digest in &item.objects {
            if let Some((bytes, names)) = self.objects.get_mut(digest) {
                *names -= 1;
                if *names == 0 {
                    size_bytes += *bytes;
                    paths.extend(self.survey.object_paths.get(digest).cloned());
                }
            }
        }
        self.left = self.left.saturating_sub(size_bytes);
        self.removals.push(Removal { kind: item.kind, name: item.name.clone(), size_bytes, why, key: item.key, paths });
    }
}

/// Removes what a plan names, made behind this very gate. Big folders only leave their names; [`finish`] does the rest.
pub fn collect(store: &Store, _closed: &Closed, survey: &Survey, removals: &[Removal]) -> Result<Vec<PathBuf>> {
    let mut moved = Vec::new();
    for path in removals.iter().flat_map(|removal| &removal.paths) {
        if path.is_dir() && !path.is_symlink() {
            let aside = files::temporary_beside(path);
            files::rename(path, &aside)?;
            moved.push(aside);
        } else {
            files::remove(path)?;
        }
    }
    for key in removals.iter().filter_map(|removal| removal.key) {
        // Held while it is removed: whoever waits for it looks for a new one.
        if let Some(_held) = lock::try_lock(&store.lock_path(&key)) {
            files::remove(&store.lock_path(&key))?;
        }
    }
    let gone: BTreeSet<Key> = removals.iter().filter_map(|removal| removal.key).collect();
    let mut kept = BTreeSet::new();
    let mut lines: Vec<String> = survey
        .uses
        .iter()
        .rev()
        .filter(|(_, key)| !gone.contains(key) && kept.insert(*key))
        .map(|(time, key)| format!("{time} {key}\n"))
        .collect();
    lines.reverse();
    if lines.len() < survey.uses.len() {
        files::write(&store.root.join("uses"), lines.concat().as_bytes())?;
    }
    Ok(moved)
}

/// Removes the folders that [`collect`] took out of sight; the gate may be open again.
pub fn finish(moved: &[PathBuf]) -> Result<()> {
    moved.iter().try_for_each(|path| files::remove(path))
}

/// Key → place of its last use, and how long ago that was: the sum of the steps from use to use, none counting more than a pause.
fn last_uses(uses: &[(u64, Key)], now: u64) -> BTreeMap<Key, (usize, Duration)> {
    let mut last = BTreeMap::new();
    let (mut later, mut age) = (now, 0);
    for (at, (time, key)) in uses.iter().enumerate().rev() {
        age += later.saturating_sub(*time).min(LONGEST_PAUSE_SECONDS);
        later = *time;
        last.entry(*key).or_insert((at + 1, Duration::from_secs(age)));
    }
    last
}

/// `seconds key` a line; a torn line is one use less.
fn uses(path: &Path) -> Vec<(u64, Key)> {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let use_of = |line: &str| {
        let (time, key) = line.split_once(' ')?;
        Some((time.parse().ok()?, key.parse().ok()?))
    };
    text.lines().filter_map(use_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::{Inputs, Pinned};
    use crate::cache::lock::Patience;
    use crate::cache::stat::StatIndex;
    use crate::cache::store::{Lookup, Product};

    fn patience() -> Patience<'static> {
        Patience { limit: Duration::from_secs(10), tick: Box::leak(Box::new(|_: Option<&_>, _| Ok(()))) }
    }

    struct World {
        folder: PathBuf,
        cache: CacheFolder,
        store: Store,
    }

    impl World {
        fn new() -> Self {
            let folder = files::temporary_folder(&std::env::temp_dir(), "gc").unwrap();
            let cache = CacheFolder(folder.join("cache"));
            let store = Store::at(&cache);
            drop(store.enter(&cache, patience()).unwrap());
            Self { folder, cache, store }
        }

        /// A result of this name with these contents.
        fn publish(&self, name: &str, contents: &[&str]) -> Key {
            let key = Inputs::Model(Pinned { name: name.into(), ..Pinned::default() }).key();
            let lock = self.store.lock(&key, patience()).unwrap();
            let product = |content: &&str| {
                let file = self.folder.join(content);
                fs::write(&file, content.repeat(1000)).unwrap();
                Product { path: (*content).to_owned(), file, executable: false, expected: None }
            };
            let products: Vec<Product> = contents.iter().map(product).collect();
            self.store.publish(&lock, name, BTreeMap::new(), Default::default(), &products).unwrap();
            key
        }

        fn names(&self, limits: Limits, live: &Live) -> Vec<(Kind, String)> {
            let removals = Survey::of(&self.cache, &self.store).plan(&limits, live);
            removals.iter().map(|it| (it.kind, it.name.split(' ').next().unwrap().to_owned())).collect()
        }

        fn has(&self, key: &Key) -> bool {
            matches!(self.store.lookup(key, &StatIndex::default(), false), Ok(Lookup::Hit(_)))
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            files::remove(&self.folder).unwrap();
        }
    }

    const ALL: Limits = Limits { size: Size(0), age_days: 90 };

    #[test]
    fn the_least_recently_used_goes_first_and_shared_contents_stay_with_their_last_result() {
        let it = World::new();
        let first = it.publish("first", &["a", "shared"]);
        let second = it.publish("second", &["b", "shared"]);
        let third = it.publish("third", &["c"]);
        it.store.used(&[first]).unwrap();
        let result = |name: &str| (Kind::Result, name.to_owned());
        let order = [result("second"), result("third"), result("first")];
        assert_eq!(it.names(ALL, &Live::default()), order);
        // A build that uses it is alive.
        let live = Live { keys: [third.to_string()].into(), anybody: true };
        assert_eq!(it.names(ALL, &live), [result("second"), result("first")]);

        // 4000 + 6000 bytes are shared or not: one result less is enough.
        let survey = Survey::of(&it.cache, &it.store);
        assert_eq!(survey.size_bytes(), 3 * 1000 + 6 * 1000);
        let limits = Limits { size: Size(8999), ..ALL };
        let removals = survey.plan(&limits, &Live::default());
        assert_eq!(removals.iter().map(|removal| removal.size_bytes).collect::<Vec<_>>(), [1000]);
        let closed = it.store.gate.close(patience()).unwrap();
        let moved = collect(&it.store, &closed, &survey, &removals).unwrap();
        drop(closed);
        finish(&moved).unwrap();
        assert!(!it.has(&second) && it.has(&first) && it.has(&third));
        let survey = Survey::of(&it.cache, &it.store);
        assert_eq!(survey.size_bytes(), 8000);
        assert_eq!(survey.plan(&limits, &Live::default()), []);
        assert_eq!(it.names(ALL, &Live::default()), [result("third"), result("first")]);
    }

    #[test]
    fn what_nothing_needs_goes_whatever_the_limits() {
        let it = World::new();
        let kept = it.publish("kept", &["a"]);
        let gone = it.publish("gone", &["b"]);
        fs::remove_file(it.store.entry_path(&gone)).unwrap();
        fs::write(it.store.root.join("entries/garbage"), "x").unwrap();
        fs::create_dir(it.store.root.join("trees/abandoned")).unwrap();
        let plenty = Limits { size: Size(u64::MAX), age_days: u64::MAX };
        let kinds: Vec<Kind> = it.names(plenty, &Live::default()).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [Kind::Orphan; 3]);
        // They may be just on their way, where locks do nothing.
        assert_eq!(it.names(plenty, &Live { keys: BTreeSet::new(), anybody: true }), []);
        assert!(it.has(&kept));
    }

    #[test]
    fn a_torn_line_in_the_list_of_uses_is_one_use_less() {
        let it = World::new();
        let (first, second) = (it.publish("first", &["a"]), it.publish("second", &["b"]));
        files::append(&it.store.root.join("uses"), "17").unwrap();
        it.store.used(&[second]).unwrap();
        it.store.used(&[first]).unwrap();
        let names: Vec<String> = it.names(ALL, &Live::default()).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["second", "first"]);
    }

    #[test]
    fn a_clock_that_was_wrong_for_one_run_makes_nothing_old() {
        let key = |name: &str| Inputs::Model(Pinned { name: name.into(), ..Pinned::default() }).key();
        let (first, second, third) = (key("first"), key("second"), key("third"));
        let years = 10 * 365 * DAY_SECONDS;
        let now = 2 * years;
        let days = |uses: &[(u64, Key)], key: Key| last_uses(uses, now)[&key].1.as_secs() / DAY_SECONDS;
        let honest = [(now - 50 * DAY_SECONDS, first), (now - 30 * DAY_SECONDS, second), (now - DAY_SECONDS, third)];
        assert_eq!([first, second, third].map(|key| days(&honest, key)), [50, 30, 1]);
        // Ten years ahead, ten years behind: the run in between had the wrong time.
        for wrong in [now + years, now - years] {
            let uses = [(now - DAY_SECONDS, first), (wrong, second), (now, third)];
            assert!(uses.iter().all(|(_, key)| days(&uses, *key) <= 31), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [("10GiB", 10 << 30), ("500MB", 500_000_000), ("0", 0), ("1.5 KiB", 1536)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        assert!("ten".parse::<Size>().is_err() && "10XB".parse::<Size>().is_err());
    }
}
