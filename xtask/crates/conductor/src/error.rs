//! Every failure of this program: what failed, why, and what to do about it.
//!
//! An [`Error`] is what travels to `main`; modules whose callers branch on a failure have an enum of their own and turn
//! it into an `Error` at their border. Hints are a channel of their own, never part of the message.

pub use crate::code::{Code, ExitCode};
use crate::language::translated;
use crate::tr;
use std::collections::BTreeSet;
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
    /// For programs: the path, the place in a file or the step that failed.
    subject: Option<String>,
    /// What failed beside it, told below it.
    others: Vec<Error>,
    /// Nothing is wrong with this: it was ended because something else is.
    given_up: bool,
}

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let (source, hints, excerpt, subject, others, given_up) = (None, Vec::new(), None, None, Vec::new(), false);
        Self(Box::new(Inner { code, message: message.into(), source, hints, excerpt, subject, others, given_up }))
    }

    /// A state that this program's own logic rules out.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Code::Bug, message)
    }

    /// `action` is a verb phrase without its object: `read`, `write`, `create the folder`.
    pub fn disk(action: &str, path: &Path, error: io::Error) -> Self {
        let hint = match error.kind() {
            io::ErrorKind::StorageFull => Some(space(path)),
            io::ErrorKind::QuotaExceeded => {
                Some(tr!("this user's quota for {path} is used up: delete something", path = path.display()))
            }
            io::ErrorKind::ReadOnlyFilesystem => {
                Some(tr!("make it writable, or work on a copy; XTASK_CACHE_DIR moves the cache elsewhere"))
            }
            io::ErrorKind::PermissionDenied => Some(owner(path)),
            _ => None,
        };
        let code = disk_code(error.kind());
        let message = tr!("cannot {action} {path}", action = translated(action), path = path.display());
        let mut it = Self::new(code, message).because(error);
        it.0.hints.extend(hint);
        it.about(path.display().to_string())
    }

    /// How much was to be written, where that may be why it failed.
    pub fn needing(self, size_bytes: u64) -> Self {
        match self.code() {
            Code::DiskFull if size_bytes > 0 => self.hint(tr!("this file alone needs {size_bytes} bytes", size_bytes)),
            _ => self,
        }
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

    pub fn beside(mut self, others: impl IntoIterator<Item = Error>) -> Self {
        self.0.others.extend(others);
        self
    }

    pub fn given_up(mut self) -> Self {
        self.0.given_up = true;
        self
    }

    pub fn is_given_up(&self) -> bool {
        let source = self.0.source.as_ref().and_then(|source| source.downcast_ref::<Self>());
        self.0.given_up || source.is_some_and(Self::is_given_up)
    }

    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.0.subject = Some(subject.into());
        self
    }

    /// The same failure as a cause of `message`, which says what the user wanted; everything else stays.
    pub fn context(mut self, message: impl Into<String>) -> Self {
        let mut outer = Self::new(self.0.code, message);
        outer.0.others = std::mem::take(&mut self.0.others);
        outer.0.hints.clone_from(&self.0.hints);
        outer.0.excerpt.clone_from(&self.0.excerpt);
        outer.0.subject.clone_from(&self.0.subject);
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

    /// With those of what failed beside it, each once.
    pub fn all_hints(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        let all = std::iter::once(self).chain(&self.0.others).flat_map(|error| &error.0.hints);
        all.map(String::as_str).filter(|hint| seen.insert(*hint)).collect()
    }

    pub fn excerpt_text(&self) -> Option<&str> {
        self.0.excerpt.as_deref()
    }

    pub fn subject(&self) -> Option<&str> {
        self.0.subject.as_deref()
    }

    /// The printed form: code and message, each cause on a line, excerpt, what failed beside it, hints. Holds no credentials.
    pub fn render(&self) -> String {
        let mut text = self.explained();
        for other in &self.0.others {
            text.push('\n');
            // What the same helps against has one reason, if it is the network.
            let alike = other.code() == Code::Unreachable && self.code() == Code::Unreachable;
            text.push_str(&match alike && other.hints() == self.hints() {
                true => tr!("{message}: for the same reason", message = other.0.message),
                false => other.explained(),
            });
        }
        for hint in self.all_hints() {
            text.push('\n');
            text.push_str(&tr!("hint: {hint}", hint));
        }
        masked(&text)
    }

    fn explained(&self) -> String {
        let mut text = tr!("error[{code}]: {message}", code = self.0.code.id(), message = self.0.message);
        for cause in self.causes() {
            text.push_str("\n  ");
            text.push_str(&tr!("caused by: {cause}", cause = cause.trim_end().replace('\n', "\n    ")));
        }
        if let Some(excerpt) = &self.0.excerpt {
            text.push('\n');
            text.push_str(excerpt.trim_end());
        }
        text
    }

    /// Message and causes of it and of what failed beside it, on one line.
    pub fn line(&self) -> String {
        let chain = std::iter::once(self.to_string()).chain(self.causes()).collect::<Vec<_>>().join(": ");
        std::iter::once(chain).chain(self.0.others.iter().map(Self::line)).collect::<Vec<_>>().join("; ")
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

/// The code of a failure that the system gave this kind.
pub fn disk_code(kind: io::ErrorKind) -> Code {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::DiskFull,
        io::ErrorKind::ReadOnlyFilesystem => Code::ReadOnly,
        io::ErrorKind::PermissionDenied => Code::PermissionDenied,
        _ => Code::Disk,
    }
}

/// The nearest folder above `path` that is there, or `path` itself.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(path)
}

/// How full the file system of `path` is.
fn space(path: &Path) -> String {
    let kept = tr!("everything finished so far is kept");
    let place = path.display();
    match rustix::fs::statvfs(existing(path)) {
        Ok(it) if it.f_files > 0 && it.f_favail == 0 => tr!(
            "the file system of {place} can hold no more files ({count} there are): delete some; {kept}",
            place,
            count = it.f_files,
            kept
        ),
        Ok(it) => {
            let mebibytes = |blocks: u64| blocks.saturating_mul(it.f_frsize) >> 20;
            tr!(
                "free some space on the file system of {place} ({free} of {all} MiB are free); {kept}",
                place,
                free = mebibytes(it.f_bavail),
                all = mebibytes(it.f_blocks),
                kept
            )
        }
        Err(_) => tr!("free some space on the file system of {place}; {kept}", place, kept),
    }
}

/// Who may do what with the part of `path` that is there.
fn owner(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt as _;
    let path = existing(path);
    match path.metadata() {
        Ok(it) => tr!(
            "{path} belongs to user {owner} (mode {mode}), this is user {me}: `chown` it, or delete it",
            path = path.display(),
            owner = it.uid(),
            mode = format_args!("{:o}", it.mode() & 0o7777),
            me = rustix::process::geteuid().as_raw()
        ),
        Err(_) => tr!("check who owns {path}", path = path.display()),
    }
}

/// `text` with stars where URLs have credentials, one a character, so that what stands below a column still does.
pub fn masked(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        let end = after.find(|c: char| c.is_whitespace() || "/?#\"'`<>".contains(c)).unwrap_or(after.len());
        let credentials = after[..end].rfind('@').map_or("", |at| &after[..at]);
        // What stands for them in a command to type must stay readable.
        let placeholder = credentials == "USER:PASSWORD";
        shown.push_str(before);
        shown.push_str("://");
        shown.extend(credentials.chars().map(|c| if placeholder { c } else { '*' }));
        rest = &after[credentials.len()..];
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_chain_is_printed_once_and_the_hint_stands_apart() {
        let error = Error::disk("read", Path::new("/x"), io::Error::from(io::ErrorKind::ReadOnlyFilesystem))
            .context("cannot publish the library");
        expect_test::expect![[r#"
            error[XT0602]: cannot publish the library
              caused by: cannot read /x
              caused by: read-only filesystem or storage medium
            hint: make it writable, or work on a copy; XTASK_CACHE_DIR moves the cache elsewhere"#]]
        .assert_eq(&error.render());
        assert_eq!((error.code(), error.exit(), error.subject()), (Code::ReadOnly, ExitCode::Disk, Some("/x")));
    }

    #[test]
    fn what_failed_beside_it_is_explained_too_unless_the_same_helps() {
        let failed = |step: &str, cause: &str, hint: &str| {
            let error = Error::new(Code::Unreachable, cause).hint(hint).excerpt(format!("  - {cause} at length"));
            error.context(format!("cannot make {step}"))
        };
        let first = failed("go-modules:x", "no module", "log in");
        let all =
            first.beside([failed("native-library:y", "no crate", "log in"), failed("wheel-set:z", "no wheel", "wait")]);
        expect_test::expect![[r#"
            error[XT0401]: cannot make go-modules:x
              caused by: no module
              - no module at length
            cannot make native-library:y: for the same reason
            error[XT0401]: cannot make wheel-set:z
              caused by: no wheel
              - no wheel at length
            hint: log in
            hint: wait"#]]
        .assert_eq(&all.render());
        assert!(!all.is_given_up());
        let ended = Error::new(Code::ChildFailed, "given up").given_up().context("cannot make w");
        assert!(Error::new(Code::Unreachable, "x").because(ended).is_given_up());
    }

    #[test]
    fn a_failing_disk_is_answered_with_what_can_be_measured() {
        let missing = std::env::temp_dir().join("no/such/folder");
        let hint = |kind: io::ErrorKind| {
            let error = Error::disk("write", &missing, kind.into());
            (error.code(), error.hints().first().cloned().unwrap_or_default())
        };
        let (code, full) = hint(io::ErrorKind::StorageFull);
        assert!(code == Code::DiskFull && full.contains("MiB are free"), "{full}");
        let full = Error::disk("write", &missing, io::ErrorKind::StorageFull.into()).needing(4096);
        assert_eq!(full.hints()[1], "this file alone needs 4096 bytes");
        let (code, denied) = hint(io::ErrorKind::PermissionDenied);
        let folder = std::env::temp_dir();
        assert!(code == Code::PermissionDenied && denied.starts_with(&folder.display().to_string()), "{denied}");
        assert!(denied.contains("this is user "), "{denied}");
        assert_eq!(hint(io::ErrorKind::QuotaExceeded).0, Code::DiskFull);
        assert_eq!(hint(io::ErrorKind::NotADirectory), (Code::Disk, String::new()));
    }

    #[test]
    fn credentials_in_urls_are_masked_and_nothing_else_is() {
        for (text, shown) in [
            ("GET https://me:s@cret@host/a@b failed", "GET https://*********@host/a@b failed"),
            ("sparse+https://host/x/@v/1.zip, http://t@h:1", "sparse+https://host/x/@v/1.zip, http://*@h:1"),
            ("list = [\"https://ä:ö@h/\"]", "list = [\"https://***@h/\"]"),
            ("no URL: a@b ://", "no URL: a@b ://"),
            ("export X=http://USER:PASSWORD@h:1", "export X=http://USER:PASSWORD@h:1"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }
}
