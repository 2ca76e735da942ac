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

/// An error as soon as the user asked us to stop.
pub fn check() -> Result<()> {
    requested().map_or(Ok(()), |exit| Err(Error::new(exit, "interrupted; everything finished so far is kept")))
}

fn exit_code(signal: i32) -> ExitCode {
    if signal == SIGINT { ExitCode::Interrupted } else { ExitCode::Terminated }
}
