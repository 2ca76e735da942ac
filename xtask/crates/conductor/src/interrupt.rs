//! The one place that knows whether the user asked us to stop.

use crate::error::{Code, Error, Result};
use crate::tr;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

static SIGNAL: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// From here on the first SIGINT, SIGTERM or SIGHUP is noted and the second ends the process at once.
pub fn install() -> io::Result<()> {
    let noted = SIGNAL.get_or_init(Arc::default);
    let again = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, code(signal).exit() as i32, Arc::clone(&again))?;
        signal_hook::flag::register(signal, Arc::clone(&again))?;
        signal_hook::flag::register_usize(signal, Arc::clone(noted), usize::try_from(signal).unwrap_or(0))?;
    }
    Ok(())
}

/// What to end with, once a signal came.
pub fn requested() -> Option<Code> {
    match SIGNAL.get().map_or(0, |signal| signal.load(Ordering::Relaxed)) {
        0 => None,
        signal => Some(code(i32::try_from(signal).unwrap_or(SIGTERM))),
    }
}

/// Set once a step failed: what still runs beside it ends, so that the reason is told at once.
static ABANDONED: AtomicBool = AtomicBool::new(false);

/// From here on every [`check`] fails.
pub fn abandon() {
    ABANDONED.store(true, Ordering::Relaxed);
}

/// An error as soon as the user asked us to stop, or another step failed.
pub fn check() -> Result<()> {
    if let Some(code) = requested() {
        return Err(Error::new(code, tr!("stopped; everything finished so far is kept")));
    }
    if ABANDONED.load(Ordering::Relaxed) {
        return Err(Error::new(Code::ChildFailed, tr!("given up, because another step failed")).given_up());
    }
    Ok(())
}

fn code(signal: i32) -> Code {
    if signal == SIGINT { Code::Interrupted } else { Code::Terminated }
}
