//! The one place that knows whether the user asked us to stop.

use crate::error::{Error, ExitCode, Result};
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
        signal_hook::flag::register_conditional_shutdown(signal, exit_code(signal) as i32, Arc::clone(&again))?;
        signal_hook::flag::register(signal, Arc::clone(&again))?;
        signal_hook::flag::register_usize(signal, Arc::clone(noted), usize::try_from(signal).unwrap_or(0))?;
    }
    Ok(())
}

/// The exit code to leave with, once a signal came.
pub fn requested() -> Option<ExitCode> {
    match SIGNAL.get().map_or(0, |signal| signal.load(Ordering::Relaxed)) {
        0 => None,
        signal => Some(exit_code(i32::try_from(signal).unwrap_or(SIGTERM))),
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
    if let Some(exit) = requested() {
        return Err(Error::new(exit, "stopped; everything finished so far is kept"));
    }
    if ABANDONED.load(Ordering::Relaxed) {
        return Err(Error::new(ExitCode::Child, "given up, because another step failed"));
    }
    Ok(())
}

fn exit_code(signal: i32) -> ExitCode {
    if signal == SIGINT { ExitCode::Interrupted } else { ExitCode::Terminated }
}
