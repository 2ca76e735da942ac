//! Execution obeys: it makes what a plan says, in rounds, until nothing is provisional.
//!
//! A round runs every settled step as soon as the steps that it needs are done, side by side. Then the plan is made anew,
//! now knowing what the round made, and the next round runs. Results that nobody made are published by nobody: only this process,
//! after a child ended well and its inputs are still what they were, hands files to the store.

mod attest;
pub mod base;
mod cross;
mod go;
pub mod image;
pub mod measure;
mod model;
mod native;
pub mod outside;
pub mod push;
pub mod registry_base;
pub mod samples;
mod wheels;

use crate::cache::gate::{Gate, Inside};
use crate::cache::gc::{self, Kind, Live, Survey};
use crate::cache::key::Key;
use crate::cache::lock::{Holder, Patience};
use crate::cache::reason::Reason;
use crate::cache::stat::StatIndex;
use crate::cache::store::{self, Entry, Lock, Lookup, Output, Store};
use crate::crash;
use crate::digest::Digest;
use crate::error::{Code, Error, ExitCode, Result};
use crate::facts::{self, Facts, Wants};
use crate::files;
use crate::interrupt;
use crate::language::right_aligned;
use crate::mirror::Ecosystem;
use crate::plan::{self, Plan, Premise, Step, View, Work};
use crate::process::{self, Deadline, Finished, Invocation, Stream};
use crate::project::{ModelSource, Project};
use crate::report::{self, Done, Event, Sink, Status};
use crate::settings::{Format, Settings};
use crate::tr;
use outside::Outside;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// Everything that execution needs and planning does not.
pub struct Workshop<'a> {
    pub settings: &'a Settings,
    pub project: &'a Project,
    pub stats: StatIndex,
    pub store: Store,
    pub sink: Sink,
    /// Folder of this run's logs.
    pub logs: PathBuf,
    pub outside: Outside<'a>,
    /// Since the first thing that is taken from the store or put there.
    entered: OnceLock<Entered>,
}

/// This run uses the checkout and the store, so that neither `clean` nor `cache gc` takes them away below it.
struct Entered {
    _checkout: Inside,
    store: Inside,
    claimed: Mutex<BTreeSet<Key>>,
}

/// What running one step came to.
pub struct Made {
    entry: Option<Entry>,
    done: Done,
    cpu_seconds: f64,
}

/// The steps of a finished build, all made.
pub struct Results {
    pub plan: Plan,
    pub facts: Facts,
    /// Keys of what this run made, rather than found.
    pub made: BTreeSet<Key>,
}

impl View for Workshop<'_> {
    fn lookup(&self, key: &Key) -> Result<Lookup> {
        // A plan alone writes nothing.
        self.store.lookup(key, &self.stats, self.entered.get().is_some())
    }

    fn is_in_place(&self, path: &Path, output: &Output) -> bool {
        store::is_in_place(path, output, &self.stats)
    }

    fn last_inputs(&self, step: &str) -> Option<BTreeMap<String, String>> {
        let bytes = files::read_if_present(&self.settings.workspace.last_inputs(step)).ok()??;
        serde_json::from_str(std::str::from_utf8(&bytes).ok()?.split_once('\n')?.1).ok()
    }
}

impl<'a> Workshop<'a> {
    pub fn new(settings: &'a Settings, project: &'a Project, sink: Sink) -> Result<Self> {
        let logs = settings.workspace.logs_of_run(&run_name(), settings.offline.value);
        crash::logs_are_in(&logs);
        let outside = Outside::new(settings, project, sink.clone(), logs.join("gateway.log"))?;
        Ok(Self {
            settings,
            project,
            stats: StatIndex::open(settings.workspace.stat_index()),
            store: Store::at(&settings.cache),
            sink,
            logs,
            outside,
            entered: OnceLock::new(),
        })
    }

    pub fn gather(&self, wants: &Wants) -> Result<Facts> {
        facts::gather(self.settings, self.project, wants, &self.stats)
    }

    /// `fresh`: make everything anew except the steps that it names.
    pub fn plan(&self, wants: &Wants, facts: &Facts, fresh: Option<&HashSet<String>>) -> Result<Plan> {
        let Self { settings, project, .. } = self;
        plan::build(&Premise { settings, project, facts, wants, fresh, view: self })
    }

    /// Makes everything that is wanted; `describe` turns the first plan into an event.
    pub fn make(&self, wants: &Wants, fresh: bool, describe: &dyn Fn(&Plan, &Facts) -> Event) -> Result<Results> {
        let mut done = HashSet::new();
        let mut made = BTreeSet::new();
        let mut told = false;
        loop {
            interrupt::check()?;
            let facts = self.gather(wants)?;
            let plan = self.plan(wants, &facts, fresh.then_some(&done))?;
            // Naming hosts asks the installed tools, which is worth it only for somebody who listens.
            let listened = self.settings.format == Format::Json || self.settings.explain;
            if !told && listened {
                self.sink.send(describe(&plan, &facts));
            }
            told = true;
            // Claimed only now: what the plan saw may have been collected in between, so it is made once more.
            if self.claim(&plan)? {
                continue;
            }
            let settled = plan.steps.iter().filter(|step| !step.provisional);
            for step in settled.clone().filter(|step| step.status == Status::Hit) {
                if done.insert(step.id.clone()) {
                    // What is in place may have come from other inputs that make the same bytes.
                    self.remember(step)?;
                    self.report_hit(step);
                }
            }
            let round: Vec<&Step> = settled
                .filter(|step| matches!(step.status, Status::Run | Status::Restore) && !done.contains(&step.id))
                .collect();
            if round.is_empty() {
                if !plan.is_settled() {
                    return Err(Error::bug(tr!("a provisional step waits for nothing")));
                }
                self.note_uses(&plan);
                self.stats.save();
                self.report_artifacts(&plan);
                // A build that does nothing has not entered, and looks after nothing.
                if self.entered.get().is_some() {
                    self.collect_if_due();
                }
                return Ok(Results { plan, facts, made });
            }
            self.tell_pins(&facts)?;
            self.outside.need(plan.running().flat_map(|step| ecosystems(self.project, step)));
            let result = self.run_round(&round, &facts);
            done.extend(round.iter().map(|step| step.id.clone()));
            made.extend(round.iter().filter(|step| step.status == Status::Run).filter_map(|step| step.key));
            self.stats.save();
            result?;
        }
    }

    /// The hashes that the lock files of this build name: what makes bytes right, whoever sends them.
    fn tell_pins(&self, facts: &Facts) -> Result<()> {
        let crates = facts.libraries.values().flat_map(|library| library.checksums.clone());
        let mut go_sums = BTreeMap::new();
        for binary in self.project.declaration.go_binary.values() {
            let path = self.settings.workspace.root.join(&binary.module).join("go.sum");
            if let Some(bytes) = files::read_if_present(&path)? {
                go_sums.extend(crate::toolchain::go::sums(&String::from_utf8_lossy(&bytes)));
            }
        }
        self.outside.pin(|pins| {
            pins.crates.extend(crates);
            pins.go_sums.extend(go_sums);
        });
        Ok(())
    }

    /// Makes this run a user of checkout and store, and clears what dead processes left half-written.
    pub fn enter(&self) -> Result<()> {
        if self.entered.get().is_some() {
            return Ok(());
        }
        let Settings { workspace, cache, lock_timeout: limit, .. } = self.settings;
        let (limit, root, cache_folder) = (*limit, workspace.root.display().to_string(), cache.0.display().to_string());
        let checkout = Gate::of(&workspace.build()).enter(Patience { limit, tick: &mut self.waiting(&root) })?;
        let store = self.store.enter(cache, Patience { limit, tick: &mut self.waiting(&cache_folder) })?;
        let ours = [workspace.build(), workspace.build().join("last"), workspace.placed_records()];
        let folders =
            ours.into_iter().chain(files::list(&workspace.links())).chain(self.project.output_folders(workspace));
        folders.for_each(|folder| files::sweep(&folder));
        keep_newest(&workspace.logs(), 20);
        let _ = self.entered.set(Entered { _checkout: checkout, store, claimed: Mutex::default() });
        Ok(())
    }

    /// Claims every result that the next round takes from the store or makes, and those that are used in place; whether there was a new one.
    fn claim(&self, plan: &Plan) -> Result<bool> {
        let in_use = |step: &&Step| match step.status {
            Status::Run | Status::Restore => !step.provisional,
            Status::Hit => step.place == plan::Place::Store,
            Status::Skip => false,
        };
        let steps = plan.steps.iter().filter(in_use);
        let keys: BTreeSet<Key> =
            steps.clone().flat_map(|step| step.key.into_iter().chain(step.linked.iter().map(|it| it.key))).collect();
        if keys.is_empty() && steps.count() == 0 {
            return Ok(false);
        }
        if let Err(error) = self.enter() {
            // A store that cannot be written still serves what it has: nobody can collect it either.
            let reads_only = plan.running().next().is_none();
            return if reads_only && error.exit() == ExitCode::Disk { Ok(false) } else { Err(error) };
        }
        let Some(entered) = self.entered.get() else { return Ok(false) };
        let mut claimed = entered.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<Key> = keys.difference(&claimed).copied().collect();
        if new.is_empty() {
            return Ok(false);
        }
        let store = tr!("the store");
        let patience = Patience { limit: self.settings.lock_timeout, tick: &mut self.waiting(&store) };
        entered.store.uses(new.iter().map(Key::to_string), patience)?;
        claimed.extend(new);
        Ok(true)
    }

    /// Tells the store what was of use: once a day and checkout, so that a build that does nothing writes nothing.
    fn note_uses(&self, plan: &Plan) {
        let used = plan.steps.iter().filter(|step| step.status == Status::Hit).filter_map(|step| step.key);
        let keys: Vec<Key> = used.collect();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let depends_on = format!("{} {keys:?}", now.as_secs() / (24 * 3600));
        // A store that cannot be written has no order of uses either.
        let _ = self.stats.answer("uses noted", &depends_on, || self.store.used(&keys).map(|()| String::new()));
    }

    /// Keeps the cache within its limits: once a day, after a run that used the store.
    fn collect_if_due(&self) {
        let stamp = self.settings.cache.last_collection();
        match files::age(&stamp) {
            Some(age) if age < Duration::from_secs(24 * 3600) => return,
            // The first day.
            None => return drop(files::write(&stamp, b"")),
            Some(_) => {}
        }
        let collected = files::write(&stamp, b"").and_then(|()| self.collect());
        if let Ok((count, size_bytes)) = collected
            && count > 0
        {
            let size = report::bytes(size_bytes);
            self.sink.note(format!(
                "{} {}",
                right_aligned(&tr!("Removed"), 12),
                tr!("{count} unused items from the cache, {size} (`cargo xtask cache stats`)", count, size)
            ));
        }
    }

    fn collect(&self) -> Result<(usize, u64)> {
        let patience = Patience { limit: Duration::ZERO, tick: &mut |_, _| Ok(()) };
        let closed = self.store.gate.close(patience)?;
        let survey = Survey::of(&self.settings.cache, &self.store);
        let mut live = Live::of(&self.store);
        if let Some(entered) = self.entered.get() {
            let claimed = entered.claimed.lock().unwrap_or_else(PoisonError::into_inner);
            live.keys.extend(claimed.iter().map(Key::to_string));
        }
        let mut removals = survey.plan(&self.settings.cache_limits, &live);
        // Another version of this tool may still be in use; only a person can know.
        removals.retain(|removal| removal.kind != Kind::Bucket);
        let moved = gc::collect(&self.store, &closed, &survey, &removals)?;
        drop(closed);
        gc::finish(&moved)?;
        Ok((removals.len(), removals.iter().map(|removal| removal.size_bytes).sum()))
    }

    fn report_hit(&self, step: &Step) {
        self.sink.send(Event::Done {
            id: step.id.clone(),
            done: Done::Hit,
            seconds: 0.0,
            cpu_seconds: 0.0,
            key: step.key,
            reason: None,
            log: None,
        });
    }

    fn report_artifacts(&self, plan: &Plan) {
        for step in &plan.steps {
            let Some(entry) = &step.entry else { continue };
            for output in &entry.outputs {
                if let (Some(path), Work::NativeLibrary { .. } | Work::GoBinary { .. }) =
                    (step.place.of(output), &step.work)
                {
                    self.sink.send(Event::Artifact {
                        name: output.path.clone(),
                        path,
                        digest: output.digest,
                        size_bytes: output.size_bytes,
                    });
                }
            }
        }
    }

    /// Starts each step once those of this round that it needs are done. With the first failure the others are given up, which is no
    /// failure of theirs. Several are told in the order of the plan. Only where `--offline` is what failed it the others go on: all that is missing is told at once.
    fn run_round(&self, round: &[&Step], facts: &Facts) -> Result<()> {
        let ids: BTreeSet<&str> = round.iter().map(|step| step.id.as_str()).collect();
        let (sender, finished) = mpsc::channel();
        std::thread::scope(|scope| {
            let mut waiting = round.to_vec();
            let mut made: BTreeSet<&str> = BTreeSet::new();
            let mut running = 0;
            let mut failures: BTreeMap<Option<usize>, Error> = BTreeMap::new();
            let mut goes_on = true;
            loop {
                let is_ready = |step: &&Step| {
                    step.needs.iter().all(|need| !ids.contains(need.as_str()) || made.contains(need.as_str()))
                };
                if goes_on {
                    let (ready, rest): (Vec<&Step>, _) = waiting.into_iter().partition(is_ready);
                    waiting = rest;
                    running += ready.len();
                    for step in ready {
                        let sender = sender.clone();
                        scope.spawn(move || {
                            let result = crash::caught(|| self.run_step(step, facts));
                            // The receiver lives until the last step has answered.
                            let _ = sender.send((step, result));
                        });
                    }
                }
                if running == 0 {
                    let mut failures = failures.into_values();
                    return match failures.next() {
                        Some(first) => Err(first.beside(failures)),
                        None if waiting.is_empty() => Ok(()),
                        None => Err(Error::bug(tr!("{id} waits for itself", id = waiting[0].id))),
                    };
                }
                let (step, result) =
                    finished.recv().map_err(|error| Error::bug(tr!("no step answers")).because(error))?;
                running -= 1;
                match result {
                    Ok(()) => {
                        made.insert(&step.id);
                    }
                    Err(error) => {
                        if error.code() != Code::Offline {
                            goes_on = false;
                            interrupt::abandon();
                        }
                        if failures.is_empty() || !error.is_given_up() {
                            failures.insert(round.iter().position(|it| it.id == step.id), error);
                        }
                    }
                }
            }
        })
    }

    fn run_step(&self, step: &Step, facts: &Facts) -> Result<()> {
        let start = Instant::now();
        let log = self.log(&step.id);
        if step.status == Status::Run {
            self.sink.send(Event::Start { id: step.id.clone(), reason: step.reason.clone() });
        }
        let result = self.make_step(step, facts);
        let seconds = report::seconds(start.elapsed());
        let log = log.exists().then_some(log);
        match result {
            Ok(made) => {
                self.sink.send(Event::Done {
                    id: step.id.clone(),
                    done: made.done,
                    seconds,
                    cpu_seconds: made.cpu_seconds,
                    key: step.key,
                    reason: step.reason.clone(),
                    log,
                });
                Ok(())
            }
            Err(error) => {
                self.sink.send(Event::Fail { id: step.id.clone(), seconds, given_up: error.is_given_up(), log });
                Err(error.context(tr!("cannot make {id}", id = step.id)))
            }
        }
    }

    fn make_step(&self, step: &Step, facts: &Facts) -> Result<Made> {
        let Some(key) = step.key else {
            return match &step.work {
                Work::GoModules { binary, cross } => self.go_modules(&step.id, binary, *cross, facts),
                _ => Err(Error::bug(tr!("{id} has no key and is to be run", id = step.id))),
            };
        };
        if let (Status::Restore, Some(entry)) = (step.status, &step.entry) {
            match self.put_in_place(step, entry) {
                Ok(()) => {
                    self.remember(step)?;
                    return Ok(Made { entry: None, done: Done::Restored, cpu_seconds: 0.0 });
                }
                Err(error) if matches!(self.lookup(&key)?, Lookup::Hit(_)) => return Err(error),
                // Gone or altered since it was planned, so it is made like one that never was.
                Err(_) => {}
            }
        }
        let patience = Patience { limit: self.settings.lock_timeout, tick: &mut self.waiting(&step.id) };
        let lock = self.store.lock(&key, patience)?;
        // Somebody else may have made it while we waited.
        let made = match self.lookup(&key)? {
            Lookup::Hit(entry) if !step.anew => Made { entry: Some(entry), done: Done::Restored, cpu_seconds: 0.0 },
            Lookup::Broken(broken) => {
                for path in &broken {
                    self.sink.note(tr!("set aside, altered in the store: {path}", path = path.display()));
                }
                self.store.set_aside(&key, &broken)?;
                self.perform(step, facts, &lock)?
            }
            _ => self.perform(step, facts, &lock)?,
        };
        if let Some(entry) = &made.entry {
            self.put_in_place(step, entry)?;
        }
        self.remember(step)?;
        Ok(made)
    }

    /// What to do while another process holds a lock: say so, and hear Ctrl-C.
    fn waiting<'s>(&'s self, id: &'s str) -> impl FnMut(Option<&Holder>, Duration) -> Result<()> + 's {
        move |holder, waited| {
            if let Some(holder) = holder {
                let (id, holder) = (id.to_owned(), holder.to_string());
                self.sink.send(Event::Waiting { id, holder, seconds: waited.as_secs() });
            }
            interrupt::check()
        }
    }

    fn perform(&self, step: &Step, facts: &Facts, lock: &Lock) -> Result<Made> {
        match &step.work {
            Work::NativeLibrary { name, cross } => self.native_library(step, name, *cross, facts, lock),
            Work::GoBinary { name, cross } => self.go_binary(step, name, *cross, facts, lock),
            Work::GoToolchain { version, platform } => self.go_toolchain(step, version, platform, lock),
            Work::WheelSet { name, interpreter } => self.wheel_set(step, name, interpreter.as_ref(), facts, lock),
            Work::DebianBase { name, platform } => self.debian_base(step, name, platform, lock),
            Work::RegistryBase { reference, image } => self.registry_base(step, reference, image, lock),
            Work::BaseLayer { reference, layer } => self.base_layer(step, reference, layer, lock),
            Work::Layer { image, layer, cross } => self.layer(step, image, layer, *cross, facts, lock),
            Work::Image { name } => self.image(step, name, lock),
            Work::Attestation { image } => self.attestation(step, image, lock),
            Work::Model { name } => self.model(step, name, lock),
            Work::GoModules { .. } => Err(Error::bug(tr!("Go modules have no key"))),
        }
    }

    /// Puts every output where it belongs, unless it is there already. What is about to be put there is noted first, for `clean`; what
    /// somebody else put there is not ours.
    fn put_in_place(&self, step: &Step, entry: &Entry) -> Result<()> {
        let outputs = entry.outputs.iter().filter_map(|output| Some((step.place.of(output)?, output)));
        let missing: Vec<(PathBuf, &Output)> =
            outputs.filter(|(path, output)| !self.is_in_place(path, output)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let record = self.settings.workspace.placed(&step.id);
        let known = files::read_if_present(&record)?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut placed: BTreeMap<PathBuf, Digest> = known.unwrap_or_default();
        placed.extend(missing.iter().map(|(path, output)| (path.clone(), output.digest)));
        let bytes =
            serde_json::to_vec(&placed).map_err(|error| Error::bug(tr!("cannot serialise outputs")).because(error))?;
        files::write(&record, &bytes)?;
        missing.into_iter().try_for_each(|(path, output)| self.store.restore(entry, output, &path))
    }

    /// Notes what the result that is in place was made of: its key, so that nothing is written twice, and its inputs, for reasons.
    fn remember(&self, step: &Step) -> Result<()> {
        let (Some(inputs), Some(key)) = (&step.inputs, step.key) else { return Ok(()) };
        let path = self.settings.workspace.last_inputs(&step.id);
        let key = format!("{key}\n");
        if files::read_if_present(&path)?.is_some_and(|bytes| bytes.starts_with(key.as_bytes())) {
            return Ok(());
        }
        let inputs = serde_json::to_string(&inputs.flat())
            .map_err(|error| Error::bug(tr!("cannot serialise inputs")).because(error))?;
        files::write(&path, format!("{key}{inputs}").as_bytes())
    }

    /// The inputs once more, after the work: what was edited meanwhile must not name this result. The key is made anew from facts gathered
    /// anew; files that look different although it is the same were edited and put back, and nobody knows which text was compiled.
    fn still_the_same(&self, step: &Step, facts: &Facts, wants: &Wants) -> Result<()> {
        let changed = |what: String| {
            Error::new(Code::InputsChanged, tr!("{what} changed while {id} was made", what, id = step.id))
                .hint(tr!("nothing was published; run the command again"))
        };
        let seen = facts.seen(wants);
        let touched: Vec<_> = seen.touched().into_iter().map(|path| path.display().to_string()).collect();
        if !touched.is_empty() {
            return Err(changed(touched.join(", ")));
        }
        let now = self.gather(wants).map_err(|error| changed(tr!("an input")).because(error))?;
        let fresh = None;
        let premise = Premise { settings: self.settings, project: self.project, facts: &now, wants, fresh, view: self };
        let inputs = plan::inputs_again(&premise, step)?.flat();
        match Reason::compare(&step.flat_inputs(), &inputs).first() {
            None => Ok(()),
            Some(reason) => Err(changed(reason.to_string())),
        }
    }

    pub fn log(&self, id: &str) -> PathBuf {
        self.logs.join(format!("{}.log", id.replace([':', '/'], "-")))
    }

    /// Runs a build's child; its output goes to the step's log, `progress` may turn a line into a sign of life.
    fn child(
        &self,
        id: &str,
        invocation: &Invocation,
        deadline: Deadline,
        mut progress: impl FnMut(Stream, &str) -> Option<String>,
    ) -> Result<Finished> {
        process::run(invocation, deadline, &self.log(id), |stream, text| match progress(stream, text) {
            Some(text) => self.sink.send(Event::Progress { id: id.to_owned(), text }),
            None if stream == Stream::Err => self.sink.send(Event::Output { id: id.to_owned(), text: text.to_owned() }),
            None => {}
        })
    }

    /// Where a settled step's files are used from.
    pub fn root_of(&self, results: &Results, id: &str) -> Result<PathBuf> {
        let entry = results.plan.step(id).and_then(|step| step.entry.as_ref());
        entry.map(|entry| self.store.tree(&entry.key)).ok_or_else(|| Error::bug(tr!("{id} was not made", id)))
    }
}

/// Sorted by time, unique a process: the start in milliseconds and the process id.
fn run_name() -> String {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{:013}-{}", elapsed.as_millis(), std::process::id())
}

/// Removes all but the newest `count` folders; names sort by time.
fn keep_newest(folder: &Path, count: usize) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    names.sort();
    for old in names.iter().rev().skip(count) {
        let _ = files::remove(old);
    }
}
/// Which ecosystems a step fetches from.
pub fn ecosystems(project: &Project, step: &Step) -> BTreeSet<Ecosystem> {
    match &step.work {
        Work::NativeLibrary { .. } => [Ecosystem::Crates].into(),
        Work::GoModules { .. } => [Ecosystem::Go].into(),
        Work::GoBinary { .. } | Work::Layer { .. } | Work::Image { .. } | Work::Attestation { .. } => BTreeSet::new(),
        Work::DebianBase { .. } => [Ecosystem::Apt].into(),
        Work::RegistryBase { .. } | Work::BaseLayer { .. } => [Ecosystem::Oci].into(),
        Work::GoToolchain { .. } => [Ecosystem::Go, Ecosystem::Python].into(),
        Work::WheelSet { .. } => [Ecosystem::Python].into(),
        Work::Model { name } => {
            let sources = project.declaration.model.get(name).map_or(&[][..], |model| &model.sources);
            let ecosystem = |source: &ModelSource| match source {
                ModelSource::Directory(_) => None,
                ModelSource::Wheel { .. } => Some(Ecosystem::Python),
                ModelSource::Hub { .. } => Some(Ecosystem::Hub),
            };
            sources.iter().filter_map(ecosystem).collect()
        }
    }
}
