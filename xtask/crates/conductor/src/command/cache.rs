//! `cache stats|verify|gc`.

use super::print;
use crate::cache::gc::{self, Kind, Limits, Live, Removal, Survey};
use crate::cache::lock::{Holder, Patience};
use crate::cache::store::Store;
use crate::cache::verify;
use crate::cli;
use crate::error::{Code, Error, Result};
use crate::interrupt;
use crate::language::right_aligned;
use crate::report::{self, Event, Sink};
use crate::settings::Settings;
use crate::tr;
use serde_json::json;
use std::time::{Duration, Instant};

/// How often a long look at the cache shows that it lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

pub fn cache(settings: &Settings, sink: &Sink, command: &cli::Cache) -> Result<()> {
    let store = Store::at(&settings.cache);
    match command {
        cli::Cache::Stats => stats(settings, &store),
        cli::Cache::Verify => verify(settings, sink, &store),
        cli::Cache::Gc { max_size, max_age } => {
            let limits = Limits {
                size: max_size.unwrap_or(settings.cache_limits.size),
                age_days: max_age.unwrap_or(settings.cache_limits.age_days),
            };
            gc(settings, sink, &store, &limits)
        }
    }
}

fn stats(settings: &Settings, store: &Store) -> Result<()> {
    let survey = Survey::of(&settings.cache, store);
    let limits = &settings.cache_limits;
    let users = store.gate.others();
    let totals = survey.totals();
    let size = report::bytes;
    let mut text = format!("{}\n", settings.cache.0.display());
    for (kind, (count, bytes)) in &totals {
        text.push_str(&format!("{:>12}  {count:>6} {}\n", size(*bytes), plural(*kind, *count)));
    }
    text.push_str(&format!(
        "{:>12}  {}\n",
        size(survey.size_bytes()),
        tr!(
            "in all, kept below {size} and {age_days} days without use",
            size = size(limits.size.0),
            age_days = limits.age_days
        )
    ));
    for user in &users {
        text.push_str(&format!("{:>12}  {}\n", "", tr!("in use: {holder}", holder = user.holder)));
    }
    let kinds: Vec<_> = totals
        .iter()
        .map(|(kind, (count, bytes))| json!({ "kind": kind, "count": count, "size_bytes": bytes }))
        .collect();
    let value = json!({
        "path": settings.cache.0,
        "size_bytes": survey.size_bytes(),
        "max_size_bytes": limits.size.0,
        "max_age_days": limits.age_days,
        "kinds": kinds,
        "users": users.iter().map(|user| user.owner.process).collect::<Vec<_>>(),
    });
    print(settings, "cache", &value, &text)
}

fn plural(kind: Kind, count: usize) -> String {
    match kind {
        Kind::Quarantine => tr!("in quarantine, for you to look at"),
        Kind::Bucket => tr!("of other versions of this tool"),
        kind if count == 1 => kind.to_string(),
        kind => tr!("{kind}s", kind),
    }
}

fn verify(settings: &Settings, sink: &Sink, store: &Store) -> Result<()> {
    let mut told = Instant::now();
    let mut tick = |bytes| {
        if told.elapsed() >= SIGN_OF_LIFE {
            told = Instant::now();
            sink.note(format!(
                "{} {}",
                right_aligned(&tr!("Verified"), 12),
                tr!("{size} so far", size = report::bytes(bytes))
            ));
        }
    };
    let repair = !settings.dry_run && settings.cache.store().is_dir();
    let result = if repair {
        // A collection in between would look like damage.
        let mut wait = waiting(sink, tr!("the cache"));
        let _open = store.gate.hold_open(Patience { limit: settings.lock_timeout, tick: &mut wait })?;
        verify::verify(&settings.cache, store, true, &mut tick)?
    } else {
        verify::verify(&settings.cache, store, false, &mut tick)?
    };
    let mut text = String::new();
    for damage in &result.damages {
        let step = damage.step.as_deref().map(|step| format!(" ({step})")).unwrap_or_default();
        text.push_str(&format!("{}{step}: {}\n", damage.path.display(), damage.problem));
    }
    let modes = if result.modes > 0 { tr!(", {modes} modes put right", modes = result.modes) } else { String::new() };
    let (results, files, bytes) = (result.results, result.files, report::bytes(result.bytes));
    text.push_str(&tr!("verified {results} results, {files} files, {bytes}{modes}", results, files, bytes, modes));
    print(settings, "verified", &result, &text)?;
    match result.damages.len() {
        0 => Ok(()),
        count => {
            let (message, hint) = if repair {
                (
                    tr!("{count} altered in the cache, set aside", count),
                    tr!("nothing else is needed: what is missing now is made or fetched again when it is next wanted"),
                )
            } else {
                (
                    tr!("{count} altered in the cache, left as it is", count),
                    tr!("cargo xtask cache verify    sets it aside, so that it is made or fetched again"),
                )
            };
            Err(Error::new(Code::AlteredObject, message).hint(hint))
        }
    }
}

fn gc(settings: &Settings, sink: &Sink, store: &Store, limits: &Limits) -> Result<()> {
    if settings.dry_run {
        let survey = Survey::of(&settings.cache, store);
        let removals = survey.plan(limits, &Live::of(store));
        return tell(settings, &survey, &removals);
    }
    if !settings.cache.store().is_dir() && Survey::of(&settings.cache, store).items.is_empty() {
        return tell(settings, &Survey::default(), &[]);
    }
    let mut wait = waiting(sink, tr!("the cache"));
    let closed = store.gate.close(Patience { limit: settings.lock_timeout, tick: &mut wait })?;
    let survey = Survey::of(&settings.cache, store);
    let removals = survey.plan(limits, &Live::of(store));
    let moved = gc::collect(store, &closed, &survey, &removals)?;
    drop(closed);
    gc::finish(&moved)?;
    tell(settings, &survey, &removals)
}

fn tell(settings: &Settings, survey: &Survey, removals: &[Removal]) -> Result<()> {
    let verb = if settings.dry_run { tr!("would remove") } else { tr!("removed") };
    for removal in removals {
        let Removal { kind, name, size_bytes, why, .. } = removal;
        let text = format!("{verb} {kind} {name} ({}): {why}", report::bytes(*size_bytes));
        print(settings, "removal", removal, &text)?;
    }
    let gone: u64 = removals.iter().map(|removal| removal.size_bytes).sum();
    let left = survey.size_bytes().saturating_sub(gone);
    let value = json!({ "removed": removals.len(), "removed_bytes": gone, "size_bytes": left });
    let (count, gone, left) = (removals.len(), report::bytes(gone), report::bytes(left));
    print(settings, "collected", &value, &tr!("{verb} {count} items, {gone}; {left} stay", verb, count, gone, left))
}

/// What to do while somebody else is in the way: say so, and hear Ctrl-C.
pub(super) fn waiting<'a>(sink: &'a Sink, what: String) -> impl FnMut(Option<&Holder>, Duration) -> Result<()> + 'a {
    move |holder, waited| {
        if let Some(holder) = holder {
            let (id, holder) = (what.clone(), holder.to_string());
            sink.send(Event::Waiting { id, holder, seconds: waited.as_secs() });
        }
        interrupt::check()
    }
}
