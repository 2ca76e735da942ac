//! A panic is a defect of ours: what a person is told of it, and what goes to the log.
//!
//! It must never print a secret or a backtrace, and never panic itself. Whoever runs code under [`caught`] gets the panic as an
//! [`Error`] and tells it like any other; elsewhere it is told at once, since nobody else would.

use crate::error::{Error, Result, masked};
use crate::files;
use crate::tr;
use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::io::Write as _;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static LOGS: OnceLock<PathBuf> = OnceLock::new();
static UNCAUGHT: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// `Some` while this thread is inside [`caught`]; then its panic.
    static CAUGHT: RefCell<Option<Option<Error>>> = const { RefCell::new(None) };
}

/// From here on every panic is told in our words.
pub fn install() {
    panic::set_hook(Box::new(|panic| {
        let error = error(panic);
        let untold = CAUGHT.with_borrow_mut(|caught| match caught {
            Some(place) => {
                place.get_or_insert(error);
                None
            }
            None => Some(error),
        });
        if let Some(error) = untold {
            UNCAUGHT.store(true, Ordering::Relaxed);
            let _ = writeln!(std::io::stderr(), "{}", reportable(error).render());
        }
    }));
}

/// The folder of this run's logs, which may not exist yet; the first one stays.
pub fn logs_are_in(folder: &Path) {
    LOGS.get_or_init(|| folder.to_owned());
}

/// What `work` comes to; its panic is an error.
pub fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = CAUGHT.replace(Some(None));
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    let crash = CAUGHT.replace(before).flatten();
    result.unwrap_or_else(|payload| Err(crash.unwrap_or_else(|| Error::bug(said(&*payload)))))
}

/// An error if a thread that nobody watched panicked: what this run made of it cannot be trusted.
pub fn check() -> Result<()> {
    if UNCAUGHT.load(Ordering::Relaxed) {
        Err(Error::bug(tr!("a part of xtask crashed, as told above")))
    } else {
        Ok(())
    }
}

/// A defect's error with where its logs are, and the request to report it.
pub fn reportable(error: Error) -> Error {
    match LOGS.get().filter(|folder| folder.exists()) {
        Some(folder) => error.hint(tr!("the logs of this run are in {folder}", folder = folder.display())),
        None => error,
    }
    .hint(tr!(
        "this is a defect of xtask and nothing half-made was published: please report it with this text and the log"
    ))
}

fn error(panic: &PanicHookInfo) -> Error {
    let place = panic.location().map_or_else(|| tr!("an unknown place"), ToString::to_string);
    let error = Error::bug(tr!("xtask crashed at {place}: {payload}", place, payload = said(panic.payload())));
    let folder = LOGS.get().cloned().unwrap_or_else(std::env::temp_dir);
    let log = folder.join(format!("xtask-crash-{}.log", std::process::id()));
    let text = masked(&format!("{error}\n\n{}", Backtrace::force_capture()));
    match files::write(&log, text.as_bytes()) {
        Ok(()) => error.hint(tr!("where in the program: {log}", log = log.display())),
        // A full disk must not hide the defect.
        Err(_) => error,
    }
}

fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.map_or_else(|| tr!("without a word"), masked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn a_panic_is_an_error_that_says_where_and_hides_credentials() {
        let tests_own = panic::take_hook();
        install();
        let error = caught(|| -> Result<()> { panic!("no answer from https://me:secret@host/") }).unwrap_err();
        let line = line!() - 1;
        panic::set_hook(tests_own);
        let text = reportable(error).render();
        assert!(text.starts_with("error[XT1010]: xtask crashed at "), "{text}");
        assert!(text.contains(&format!("crash.rs:{line}:")) && text.contains("https://*********@host/"), "{text}");
        assert!(text.contains("please report it") && !text.contains("secret"), "{text}");
        let log = text.split("where in the program: ").nth(1).unwrap().lines().next().unwrap();
        let log = PathBuf::from(log);
        let backtrace = std::fs::read_to_string(&log).unwrap();
        assert!(backtrace.contains("crash::tests") && !backtrace.contains("secret"), "{backtrace}");
        files::remove(&log).unwrap();
        // Nothing of it is left for the next one.
        assert_eq!(caught(|| Err::<(), _>(Error::new(Code::Disk, "x"))).unwrap_err().code(), Code::Disk);
        check().unwrap();
    }
}
