//! What can be wrong with an archive, a package or a declaration.
//!
//! Owns: the failures and their English. Never: a hint; who calls knows which file the user can change.

use std::fmt;
use std::io;
use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Error>;

#[must_use]
#[derive(Debug)]
pub enum Error {
    /// Bytes that are not what their format says. `subject`: a file, or a package and a field of it.
    Malformed { subject: String, why: String },
    /// A package that the declaration names and no index has.
    Unknown { name: String },
    /// `needed_by`: from a named package to the one whose dependency it is.
    Unsatisfied { needed_by: Vec<String>, clause: String, found: Vec<String> },
    /// Several packages provide what is needed and nothing says which.
    Ambiguous { needed_by: Vec<String>, clause: String, providers: Vec<String> },
    /// Two packages of one closure that cannot be installed together.
    Conflict { package: String, other: String, clause: String },
    /// An entry of `without` that cuts nothing.
    Unused { name: String },
    /// Another package than the pinned one.
    Other { package: String, field: &'static str, expected: String, got: String },
    /// An entry that the policy keeps out of every image.
    Refused { package: String, path: String, why: String },
    /// Two packages bring the same path.
    Collision { path: String, packages: [String; 2] },
    /// `action` is a verb: `read`, `write`.
    Io { action: &'static str, path: PathBuf, cause: io::Error },
}

impl Error {
    pub(crate) fn malformed(subject: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Malformed { subject: subject.into(), why: why.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { subject, why } => write!(f, "{subject}: {why}"),
            Self::Unknown { name } => write!(f, "no index has a package `{name}`"),
            Self::Unsatisfied { needed_by, clause, found } => {
                write!(f, "{} needs `{clause}`, ", needed_by.join(" → "))?;
                match found.as_slice() {
                    [] => write!(f, "which no index has"),
                    found => write!(f, "the indexes have {}", found.join(", ")),
                }
            }
            Self::Ambiguous { needed_by, clause, providers } => {
                write!(f, "{} needs `{clause}`, which each of {} provides", needed_by.join(" → "), providers.join(", "))
            }
            Self::Conflict { package, other, clause } => {
                write!(f, "{package} cannot be beside {other}: it says `{clause}`")
            }
            Self::Unused { name } => write!(f, "`without` names `{name}`, which nothing here depends on"),
            Self::Other { package, field, expected, got } => {
                write!(f, "{package}: its {field} is `{got}`, pinned is `{expected}`")
            }
            Self::Refused { package, path, why } => write!(f, "{package}: `{path}` {why}"),
            Self::Collision { path, packages: [first, second] } if first == second => {
                write!(f, "`{path}` stands twice in {first}")
            }
            Self::Collision { path, packages: [first, second] } => {
                write!(f, "`{path}` is in {first} and in {second}")
            }
            Self::Io { action, path, .. } => write!(f, "cannot {action} {}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { cause, .. } => Some(cause),
            _ => None,
        }
    }
}
