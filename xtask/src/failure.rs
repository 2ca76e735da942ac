//! What went wrong before the conductor could run: goal, causes, and what to do, in the conductor's own form.

use crate::tr;
use std::fmt;

/// Exit codes: those of `cargo xtask`.
pub const USAGE: u8 = 2;
pub const CONFIGURATION: u8 = 3;
pub const NETWORK: u8 = 4;
pub const INTEGRITY: u8 = 5;
pub const DISK: u8 = 6;
pub const MISSING: u8 = 8;
pub const CHILD: u8 = 9;
#[cfg(not(unix))]
pub const BUG: u8 = 101;

/// What `cargo xtask explain` tells more about: only a host outside the profile could deliver it.
pub const OUTSIDE_PROFILE: &str = "XT0405";

#[must_use]
#[derive(Debug)]
pub struct Failure {
    pub exit: u8,
    code: Option<&'static str>,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    pub fn new(exit: u8, message: impl Into<String>) -> Self {
        Self { exit, code: None, message: message.into(), causes: Vec::new(), hint: None }
    }

    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    pub fn because(mut self, cause: impl ToString) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match self.code {
            Some(code) => tr!("error[{code}]: {message}", code, message = self.message),
            None => tr!("error: {message}", message = self.message),
        })?;
        for cause in &self.causes {
            write!(f, "\n  {}", tr!("caused by: {cause}", cause))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n{}", tr!("hint: {hint}", hint))?;
        }
        Ok(())
    }
}
