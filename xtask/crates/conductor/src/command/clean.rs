//! `clean [--all]`: removes what this tool made, nothing else.
//!
//! What lies in `dist/` and `models/` goes only if a step put it at that very place with these very bytes; what somebody else put
//! there, changed or copied stays and is named, and no symbolic link is followed. `target/xtask/` is ours whole. With `--all` this tool's
//! own build folder and the caches of this user go too, if they carry our tag. Whoever is building meanwhile is waited for.

use super::{cache, print};
use crate::cache::gate::{Closed, Gate};
use crate::cache::lock::Patience;
use crate::cache::store::{Store, TAG};
use crate::digest::Digest;
use crate::error::{Code, Error, Result};
use crate::files;
use crate::interrupt;
use crate::project::Project;
use crate::report::{self, Event, Sink};
use crate::settings::{Settings, env};
use crate::tr;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What goes, and what in our output folders is not ours.
struct Cleaning {
    ours: Vec<PathBuf>,
    foreign: Vec<PathBuf>,
}

pub fn clean(settings: &Settings, project: &Project, sink: &Sink, all: bool) -> Result<()> {
    let workspace = &settings.workspace;
    let store = Store::at(&settings.cache);
    if settings.dry_run {
        let Cleaning { ours, foreign } = plan(settings, project, &store, all);
        let sizes = ours.iter().map(|path| files::size_of(path)).collect::<Vec<_>>();
        return tell(settings, ours.into_iter().zip(sizes).collect(), &foreign);
    }
    let close = |gate: &Gate, folder: PathBuf, whose: &Path| match folder.is_dir() {
        true => close_when_unused(settings, sink, gate, whose).map(Some),
        false => Ok(None),
    };
    let checkout = close(&Gate::of(&workspace.build()), workspace.build(), &workspace.root)?;
    let all_of_cache = all && is_tagged(settings);
    let cache = if all_of_cache { close(&store.gate, settings.cache.store(), &settings.cache.0)? } else { None };
    let Cleaning { ours, foreign } = plan(settings, project, &store, all);
    let mut gone = Vec::new();
    let mut remove = |path: &Path| {
        interrupt::check()?;
        let size_bytes = files::size_of(path);
        files::remove(path)?;
        gone.push((path.to_owned(), size_bytes));
        Ok(())
    };
    // The tag says that the rest may go: it goes last, so that a run that was killed can be repeated.
    let tag = settings.cache.tag();
    ours.iter().filter(|path| **path != tag).try_for_each(|path| remove(path))?;
    [checkout, cache].into_iter().flatten().try_for_each(Closed::dismantle)?;
    let folders = project.output_folders(workspace).into_iter().chain(all.then(|| workspace.target()));
    folders.inspect(|folder| files::sweep(folder)).try_for_each(|folder| files::remove_if_empty(&folder))?;
    ours.iter().filter(|path| **path == tag).try_for_each(|path| remove(path))?;
    if all {
        files::sweep(&settings.cache.0);
        files::remove_if_empty(&settings.cache.0)?;
    }
    tell(settings, gone, &foreign)
}

fn plan(settings: &Settings, project: &Project, store: &Store, all: bool) -> Cleaning {
    let Cleaning { mut ours, foreign } = outputs(settings, project, store);
    ours.extend(but_for_gate(&settings.workspace.build(), &[settings.workspace.tool()]));
    if all {
        let cache = &settings.cache;
        ours.push(settings.workspace.tool());
        ours.extend(launcher(settings));
        if is_tagged(settings) {
            ours.extend(but_for_gate(&cache.store(), &[]));
            ours.push(cache.downloads());
            ours.push(cache.measured());
            ours.extend(cache.other_buckets());
            ours.push(cache.tag());
        }
        ours.retain(|path| path.exists());
    }
    Cleaning { ours, foreign }
}

fn outputs(settings: &Settings, project: &Project, store: &Store) -> Cleaning {
    let workspace = &settings.workspace;
    let mut placed: BTreeMap<PathBuf, BTreeSet<Digest>> = BTreeMap::new();
    for record in files::list(&workspace.placed_records()) {
        let text = files::read_text(&record).unwrap_or_default();
        let record: BTreeMap<PathBuf, Digest> = serde_json::from_str(&text).unwrap_or_default();
        for (path, digest) in record {
            placed.entry(path).or_default().insert(digest);
        }
    }
    // Where the records are gone, with target/, the store still knows what is called so in dist/.
    for output in store.outputs() {
        for folder in workspace.dist_built() {
            placed.entry(folder.join(&output.path)).or_default().insert(output.digest);
        }
    }
    let (mut ours, mut foreign) = (Vec::new(), Vec::new());
    let is_linked = |folder: &Path| folder.ancestors().take_while(|it| *it != workspace.root).any(|it| it.is_symlink());
    for folder in project.output_folders(workspace).into_iter().filter(|folder| !is_linked(folder)) {
        for path in files::list(&folder).into_iter().filter(|path| !path.is_dir() || path.is_symlink()) {
            let digest = (!path.is_symlink()).then(|| Digest::of_file(&path).ok()).flatten().map(|(digest, _)| digest);
            let is_ours =
                digest.is_some_and(|digest| placed.get(&path).is_some_and(|digests| digests.contains(&digest)));
            match is_ours {
                true => ours.push(path),
                false if files::is_temporary(&path) => {}
                false => foreign.push(path),
            }
        }
    }
    Cleaning { ours, foreign }
}

/// Whether the cache's folder says that it is ours: a variable may name any folder.
fn is_tagged(settings: &Settings) -> bool {
    files::read_text(&settings.cache.tag()).is_ok_and(|text| text == TAG)
}

/// All of a folder but these and the gate, which is closed as long as somebody cleans.
fn but_for_gate(folder: &Path, kept: &[PathBuf]) -> Vec<PathBuf> {
    let gate = [folder.join("gate"), folder.join("users")];
    files::list(folder).into_iter().filter(|path| !gate.contains(path) && !kept.contains(path)).collect()
}

/// What is in `target/` beside our own folder, where the launcher that started us belongs to this checkout: it is the only package of
/// its workspace.
fn launcher(settings: &Settings) -> Vec<PathBuf> {
    let workspace = &settings.workspace;
    let own = settings.environment.get(env::REPO_ROOT).is_some_and(|root| Path::new(root) == workspace.root);
    let built_there = settings.launcher.as_ref().is_some_and(|launcher| launcher.starts_with(workspace.target()));
    let beside = files::list(&workspace.target()).into_iter().filter(|path| *path != workspace.build());
    if own && built_there { beside.collect() } else { Vec::new() }
}

/// Closes a gate behind which nobody is.
fn close_when_unused(settings: &Settings, sink: &Sink, gate: &Gate, what: &Path) -> Result<Closed> {
    let name = what.display().to_string();
    let start = Instant::now();
    let mut due_at = Duration::from_secs(1);
    loop {
        let mut wait = cache::waiting(sink, name.clone());
        let closed = gate.close(Patience { limit: settings.lock_timeout, tick: &mut wait })?;
        let Some(user) = gate.others().into_iter().next() else { return Ok(closed) };
        drop(closed);
        let waited = start.elapsed();
        if waited >= settings.lock_timeout {
            let message = tr!(
                "waited {seconds} s, and {name} is still used by {holder}",
                seconds = waited.as_secs(),
                name,
                holder = user.holder
            );
            return Err(Error::new(Code::LockTimeout, message).hint(tr!(
                "wait for that process, or end it; if there is none, remove {file}",
                file = user.file.display()
            )));
        }
        if waited >= due_at {
            due_at *= 3;
            let holder = user.holder.to_string();
            sink.send(Event::Waiting { id: name.clone(), holder, seconds: waited.as_secs() });
        }
        interrupt::check()?;
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn tell(settings: &Settings, gone: Vec<(PathBuf, u64)>, foreign: &[PathBuf]) -> Result<()> {
    let verb = if settings.dry_run { tr!("would remove") } else { tr!("removed") };
    let shown = |path: &Path| settings.workspace.relative(path).display().to_string();
    for (path, size_bytes) in &gone {
        let value = json!({ "kind": "path", "name": shown(path), "size_bytes": size_bytes });
        print(settings, "removal", &value, &format!("{verb} {} ({})", shown(path), report::bytes(*size_bytes)))?;
    }
    for path in foreign {
        let value = json!({ "path": shown(path) });
        print(settings, "kept", &value, &tr!("kept {path}: not made here, or changed since", path = shown(path)))?;
    }
    let bytes: u64 = gone.iter().map(|(_, size_bytes)| size_bytes).sum();
    let value = json!({ "removed": gone.len(), "removed_bytes": bytes, "kept": foreign.len() });
    print(
        settings,
        "cleaned",
        &value,
        &tr!("{verb} {count} paths, {size}", verb, count = gone.len(), size = report::bytes(bytes)),
    )
}
