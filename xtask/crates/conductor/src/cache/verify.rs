//! Looks at every byte of the cache: no memory of stats is believed here.
//!
//! What is altered goes to quarantine with every result that needs it, so that whoever asks for it next makes it again. Modes are
//! only put right: they are no part of a content.

use crate::cache::key::Key;
use crate::cache::store::{self, Entry, Layout, Output, Store};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::interrupt;
use crate::tr;
use crate::workspace::CacheFolder;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Default, Serialize)]
pub struct Verified {
    pub results: usize,
    pub files: usize,
    pub bytes: u64,
    /// Files whose permissions were put right.
    pub modes: usize,
    pub damages: Vec<Damage>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    pub path: PathBuf,
    pub problem: String,
    /// The step whose result is lost with it.
    pub step: Option<String>,
}

/// `repair`: set aside what is altered. `tick` hears after each file how many bytes have been looked at.
pub fn verify(cache: &CacheFolder, store: &Store, repair: bool, tick: &mut dyn FnMut(u64)) -> Result<Verified> {
    let mut look = Look { store, repair, tick, it: Verified::default() };
    let sound = look.named_contents(&store.root.join("objects"))?;
    look.entries(&sound)?;
    // Those that a result names went with it.
    for (path, _) in sound.iter().filter(|(path, sound)| repair && !**sound && path.symlink_metadata().is_ok()) {
        store.quarantine(path)?;
    }
    let downloads = cache.downloads();
    let altered = look.named_contents(&downloads.join("sha256"))?;
    if repair {
        for (path, _) in altered.iter().filter(|(_, sound)| !**sound) {
            let place = files::unused_name(&downloads.join("quarantine"), path);
            files::rename(path, &place)?;
        }
    }
    Ok(look.it)
}

struct Look<'a> {
    store: &'a Store,
    repair: bool,
    tick: &'a mut dyn FnMut(u64),
    it: Verified,
}

impl Look<'_> {
    /// Folders of folders of files that are named by their digest: path → whether it deserves its name.
    fn named_contents(&mut self, root: &Path) -> Result<BTreeMap<PathBuf, bool>> {
        let mut found = BTreeMap::new();
        let paths = files::list(root).into_iter().flat_map(|folder| files::list(&folder));
        for path in paths.filter(|path| !files::is_temporary(path)) {
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<Digest>().ok());
            let problem = match name {
                Some(digest) => self.problem(&path, &digest, None)?,
                None => Some(tr!("its name is no digest")),
            };
            if problem.is_none() {
                self.put_mode_right(&path)?;
            }
            found.insert(path.clone(), problem.is_none());
            self.it.damages.extend(problem.map(|problem| Damage { path, problem, step: None }));
        }
        Ok(found)
    }

    fn put_mode_right(&mut self, path: &Path) -> Result<()> {
        let mode = fs::symlink_metadata(path).map_or(0o444, |metadata| metadata.permissions().mode() & 0o777);
        if mode != 0o444 && self.repair {
            let wanted = fs::Permissions::from_mode(0o444);
            fs::set_permissions(path, wanted).map_err(|error| Error::disk("protect", path, error))?;
            self.it.modes += 1;
        }
        Ok(())
    }

    fn entries(&mut self, objects: &BTreeMap<PathBuf, bool>) -> Result<()> {
        for path in files::list(&self.store.root.join("entries")) {
            if files::is_temporary(&path) {
                continue;
            }
            let key = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<Key>().ok());
            let entry = match &key {
                Some(key) => store::read_entry(&path, key)?,
                None => None,
            };
            let (Some(key), Some(entry)) = (key, entry) else {
                self.it.damages.push(Damage { path: path.clone(), problem: tr!("is no whole entry"), step: None });
                if self.repair {
                    self.store.quarantine(&path)?;
                }
                continue;
            };
            self.it.results += 1;
            let broken = match entry.layout {
                Layout::Objects => self.objects_of(&entry, objects)?,
                Layout::Tree => self.tree_of(&entry)?,
            };
            // Whoever is using it would stumble over the gap; that run has looked at it itself.
            let in_use = || self.store.gate.others().iter().any(|user| user.uses.contains(&key.to_string()));
            if self.repair && !broken.is_empty() && !in_use() {
                self.store.set_aside(&key, &broken)?;
            }
        }
        Ok(())
    }

    fn objects_of(&mut self, entry: &Entry, objects: &BTreeMap<PathBuf, bool>) -> Result<Vec<PathBuf>> {
        let mut broken = Vec::new();
        for output in &entry.outputs {
            let path = self.store.file_of(entry, output);
            match objects.get(&path) {
                Some(true) => continue,
                // Two results may name one object: each is lost with it.
                Some(false) => {
                    let known = self.it.damages.iter_mut().find(|damage| damage.path == path && damage.step.is_none());
                    known.into_iter().for_each(|damage| damage.step = Some(entry.step.clone()));
                }
                // Gone, or published since the objects were listed.
                None => {
                    let Some(problem) = self.problem(&path, &output.digest, None)? else { continue };
                    let step = Some(entry.step.clone());
                    self.it.damages.push(Damage { path: path.clone(), problem, step });
                }
            }
            broken.push(path);
        }
        Ok(broken)
    }

    fn tree_of(&mut self, entry: &Entry) -> Result<Vec<PathBuf>> {
        let tree = self.store.tree(&entry.key);
        let mut broken = Vec::new();
        let mut damage = |it: &mut Verified, path: PathBuf, problem: String| {
            it.damages.push(Damage { path: path.clone(), problem, step: Some(entry.step.clone()) });
            broken.push(path);
        };
        for output in &entry.outputs {
            let path = tree.join(&output.path);
            if let Some(problem) = self.problem(&path, &output.digest, Some(output))? {
                damage(&mut self.it, path, problem);
            }
        }
        for stranger in self.store.strangers(entry) {
            damage(&mut self.it, stranger, tr!("is not part of the result"));
        }
        // A tree is used as it lies there: one wrong file and all of it goes.
        Ok(if broken.is_empty() { broken } else { vec![tree] })
    }

    /// What is wrong with a file that should hold `digest`.
    fn problem(&mut self, path: &Path, digest: &Digest, output: Option<&Output>) -> Result<Option<String>> {
        interrupt::check()?;
        self.it.files += 1;
        let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(Some(tr!("is gone"))) };
        if !metadata.is_file() {
            return Ok(Some(tr!("is no regular file")));
        }
        if output.is_some_and(|output| output.executable != (metadata.permissions().mode() & 0o111 != 0)) {
            return Ok(Some(tr!("has another mode")));
        }
        let (found, size_bytes) = match Digest::of_file(path) {
            Ok(read) => read,
            Err(error) => return Ok(Some(tr!("cannot be read: {error}", error))),
        };
        self.it.bytes += size_bytes;
        (self.tick)(self.it.bytes);
        Ok((found != *digest).then(|| tr!("expected {expected}, got {digest}", expected = digest, digest = found)))
    }
}
