//! Every failure of this program: what failed, why, and what to do about it.
//!
//! An [`Error`] is what travels to `main`; modules whose callers branch on a failure have an enum of their own and turn
//! it into an `Error` at their border. Hints are a channel of their own, never part of the message.

pub use crate::code::{Code, ExitCode};
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::Path;

pub type Result<T> = std::result::Result<T, Error>;

/// A failure on its way to the person at the keyboard.
#[must_use]
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    code: Code,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    hints: Vec<String>,
    /// Lines shown as they are, below the chain: a snippet of the user's file, the end of a log.
    excerpt: Option<String>,
}

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { code, message: message.into(), source: None, hints: Vec::new(), excerpt: None }))
    }

    /// A state that this program's own logic rules out.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Code::Bug, message).hint("this is a defect of xtask: please report it together with the log")
    }

    /// `action` is a verb phrase without its object: `read`, `write`, `create the folder`.
    pub fn disk(action: &str, path: &Path, error: io::Error) -> Self {
        let (code, hint) = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
                Code::DiskFull,
                Some(format!(
                    "free some space on the file system of {}; everything finished so far is kept",
                    path.display()
                )),
            ),
            io::ErrorKind::ReadOnlyFilesystem => (
                Code::ReadOnly,
                Some("the file system is read-only; XTASK_CACHE_DIR moves the cache elsewhere".to_owned()),
            ),
            io::ErrorKind::PermissionDenied => {
                (Code::PermissionDenied, Some(format!("check who owns {}", path.display())))
            }
            _ => (Code::Disk, None),
        };
        let mut it = Self::new(code, format!("cannot {action} {}", path.display())).because(error);
        it.0.hints.extend(hint);
        it
    }

    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hints.push(hint.into());
        self
    }

    pub fn excerpt(mut self, lines: impl Into<String>) -> Self {
        self.0.excerpt = Some(lines.into());
        self
    }

    /// The same failure as a cause of `message`, which says what the user wanted; hints and code stay.
    pub fn context(self, message: impl Into<String>) -> Self {
        let (hints, excerpt) = (self.0.hints.clone(), self.0.excerpt.clone());
        let mut outer = Self::new(self.0.code, message);
        outer.0.hints = hints;
        outer.0.excerpt = excerpt;
        outer.0.source = Some(Box::new(self));
        outer
    }

    pub fn code(&self) -> Code {
        self.0.code
    }

    pub fn exit(&self) -> ExitCode {
        self.0.code.exit()
    }

    pub fn hints(&self) -> &[String] {
        &self.0.hints
    }

    pub fn excerpt_text(&self) -> Option<&str> {
        self.0.excerpt.as_deref()
    }

    /// The printed form: message, each cause on a line, excerpt, hints.
    pub fn render(&self) -> String {
        let mut text = format!("error: {}", self.0.message);
        for cause in self.causes() {
            text.push_str("\n  caused by: ");
            text.push_str(&cause.trim_end().replace('\n', "\n    "));
        }
        if let Some(excerpt) = &self.0.excerpt {
            text.push('\n');
            text.push_str(excerpt.trim_end());
        }
        for hint in &self.0.hints {
            text.push_str("\nhint: ");
            text.push_str(hint);
        }
        text
    }

    /// The chain below the message, outermost first.
    pub fn causes(&self) -> Vec<String> {
        let mut chain = Vec::new();
        let mut next = self.source();
        while let Some(error) = next {
            chain.push(error.to_string());
            next = error.source();
        }
        chain
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| source.as_ref() as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_chain_is_printed_once_and_the_hint_stands_apart() {
        let error = Error::disk("write", Path::new("/x"), io::Error::from(io::ErrorKind::StorageFull))
            .context("cannot publish the library");
        expect_test::expect![[r#"
            error: cannot publish the library
              caused by: cannot write /x
              caused by: no storage space
            hint: free some space on the file system of /x; everything finished so far is kept"#]]
        .assert_eq(&error.render());
        assert_eq!(error.exit(), ExitCode::Disk);
    }
}
