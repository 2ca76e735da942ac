//! Why an engine did not do what it was asked, as the conductor is told.
//!
//! Owns: the difference between an engine that refuses, one whose disk is full and one that went away. Never: advise.

use bollard::errors::Error;
use protocol::engine::Failure;
use std::error::Error as StdError;

/// What is asked of an engine whose name is `engine` failed.
pub fn of(engine: &str, error: &Error) -> Failure {
    let engine = engine.to_owned();
    match error {
        Error::DockerResponseServerError { message, .. } | Error::DockerStreamError { error: message } => {
            refused(engine, message.trim().to_owned())
        }
        Error::HyperLegacyError { .. } | Error::HyperResponseError { .. } | Error::IOError { .. } => {
            Failure::Lost { engine, message: told(error) }
        }
        error => refused(engine, told(error)),
    }
}

/// The engine's own words.
pub fn refused(engine: String, message: String) -> Failure {
    // The daemon's own words for ENOSPC and EDQUOT, wherever in its chain.
    let full = ["no space left on device", "disk quota exceeded"].iter().any(|it| message.contains(it));
    if full { Failure::Full { engine, message } } else { Failure::Refused { engine, message } }
}

/// An error with its causes, each once.
pub fn told(error: &Error) -> String {
    // bollard's own words for it name a crate, and nothing of what happened.
    let error: &dyn StdError = if let Error::HyperLegacyError { err } = error { err } else { error };
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_a_refusal_and_an_engine_that_went_away_are_told_apart() {
        let said = |error: &str| of("e", &Error::DockerStreamError { error: error.to_owned() });
        assert!(matches!(said("write /var/lib/x: no space left on device"), Failure::Full { .. }));
        assert!(matches!(said("invalid archive\n"), Failure::Refused { message, .. } if message == "invalid archive"));
        let gone = Error::IOError { err: std::io::ErrorKind::ConnectionReset.into() };
        assert!(matches!(of("e", &gone), Failure::Lost { .. }));
    }
}
