//! The folder of verified downloads and of partials that wait to be continued.
//!
//! ```text
//! downloads/
//!   sha256/<2>/<64 hex>      complete, verified, 0444; the name is the hash of the bytes
//!   h1/<64 hex>              the sha256 of the module zip that has this Go directory hash
//!   pins/<64 hex>            the sha256 of the file that another kind of pin means
//!   partial/<pin>            bytes of a download under way, locked by the process that writes them
//!   partial/<pin>.source     which URL and validator they came from
//!   partial/<pin>-<pid>      the same beside one whose holder does nothing; never continued
//!   quarantine/<64 hex>.<n>  what was found under a name that it does not deserve
//! ```
//! Owns: these names, their locks, publishing. Never: give out bytes that were not hashed by this process since they were
//! opened, put anything under a final name that is not complete and verified, or tell the conductor of bytes that are not on
//! the disk.
//! All calls block; callers are on blocking threads.

use crate::error::{Error, Kind};
use protocol::coding::{base64, base64_decoded};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA512};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What decides whether bytes are the wanted ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// 64 lower-case hex digits.
    Sha256(String),
    /// Go's directory hash, `h1:` and base64 of 32 bytes: the same for every zip with the same contents.
    H1(String),
    /// `module@version` of a Go module that no go.sum names: any sound zip whose entries are below it. It decides nothing,
    /// so what is stored under it serves only when nobody can be asked.
    Module(String),
    /// A hash of the bytes that is no sha256: `sha512-` and base64 (npm's `integrity`), `sha1-` and hex (npm's old
    /// `shasum`), `gitblob-` and hex (a hub's small files).
    Other(String),
}

impl Pin {
    /// # Errors: Configuration, for a pin that is not well formed and so could name a file outside the folder.
    pub fn sha256(hex: &str) -> Result<Self, Error> {
        let hex = hex.to_ascii_lowercase();
        if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self::Sha256(hex))
        } else {
            Err(Error::new(Kind::Configuration, format!("`{hex}` is not a sha256: 64 hex digits are wanted")))
        }
    }

    pub fn h1(text: &str) -> Result<Self, Error> {
        let digits = text.strip_prefix("h1:").filter(|digits| digits.len() == 44 && digits.ends_with('='));
        let sound = digits.is_some_and(|digits| {
            digits[..43].bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte))
        });
        if sound {
            Ok(Self::H1(text.to_owned()))
        } else {
            Err(Error::new(
                Kind::Configuration,
                format!("`{text}` is not a Go module hash: h1: and 44 base64 digits are wanted"),
            ))
        }
    }

    /// The strongest hash of a Subresource Integrity list (`sha512-…`), as npm writes it.
    pub fn integrity(text: &str) -> Result<Self, Error> {
        let strongest = text.split_whitespace().map(|it| it.split('?').next().unwrap_or(it)).max_by_key(|it| {
            ["sha1-", "sha256-", "sha384-", "sha512-"].iter().position(|algorithm| it.starts_with(algorithm))
        });
        let digest = strongest.and_then(|it| {
            let (algorithm, coded) = it.split_once('-')?;
            let bytes = base64_decoded(coded)?;
            match (algorithm, bytes.len()) {
                ("sha512", 64) => Some(Self::Other(it.to_owned())),
                ("sha256", 32) => Some(Self::Sha256(hex(&bytes))),
                ("sha1", 20) => Some(Self::Other(format!("sha1-{}", hex(&bytes)))),
                _ => None,
            }
        });
        digest
            .ok_or_else(|| Error::new(Kind::Configuration, format!("`{text}` is not an integrity: sha512-… is wanted")))
    }

    /// `name`: `sha1` or `gitblob`.
    pub fn sha1(name: &str, digits: &str) -> Result<Self, Error> {
        let digits = digits.to_ascii_lowercase();
        if digits.len() == 40 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self::Other(format!("{name}-{digits}")))
        } else {
            Err(Error::new(Kind::Configuration, format!("`{digits}` is not a sha1: 40 hex digits are wanted")))
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Self::Sha256(text) | Self::H1(text) | Self::Module(text) | Self::Other(text) => text,
        }
    }

    /// The file's hash in this pin's own terms. For [`Pin::H1`] see [`crate::go::directory_hash`].
    pub fn hash_of(&self, path: &Path) -> Result<String, Error> {
        let failed = |cause| Error::disk("read", path, &cause);
        let mut file = File::open(path).map_err(failed)?;
        let (name, _) = self.text().split_once('-').unwrap_or(("sha256", ""));
        let mut digest = Context::new(match name {
            "sha512" => &SHA512,
            "sha1" | "gitblob" => &SHA1_FOR_LEGACY_USE_ONLY,
            _ => &SHA256,
        });
        if name == "gitblob" {
            digest.update(format!("blob {}\0", file.metadata().map_err(failed)?.len()).as_bytes());
        }
        copy(&mut file, &mut |chunk| digest.update(chunk)).map_err(failed)?;
        let digest = digest.finish();
        Ok(match name {
            "sha512" => format!("sha512-{}", base64(digest.as_ref())),
            "sha1" | "gitblob" => format!("{name}-{}", hex(digest.as_ref())),
            _ => hex(digest.as_ref()),
        })
    }

    /// Base64 holds `/`, and file systems may fold case: names are hex throughout.
    fn file_name(&self) -> String {
        match self {
            Self::Sha256(hex) => hex.clone(),
            Self::H1(text) | Self::Module(text) | Self::Other(text) => hex(&Sha256::digest(text.as_bytes())),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub path: PathBuf,
    pub sha256: String,
    pub size_bytes: u64,
}

pub enum Found {
    Verified(Verified),
    Absent,
    /// What lay there was not what its name says; it was moved here.
    Quarantined(PathBuf),
}

#[derive(Clone, Debug)]
pub struct Downloads {
    root: PathBuf,
}

impl Downloads {
    pub fn open(root: &Path) -> Result<Self, Error> {
        for folder in ["sha256", "h1", "pins", "partial", "quarantine"] {
            let folder = root.join(folder);
            // Nobody else may put files where we look for verified ones.
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(|cause| Error::disk("create", &folder, &cause))?;
        }
        // What a publisher that was killed left beside a partial that is a finished file now, and what nobody continues.
        for path in fs::read_dir(root.join("partial")).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let is_own = path.extension().is_none() && is_beside(&path);
            if is_own && File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
                let _ = fs::remove_file(&path);
            }
            let is_note = path.extension().is_some_and(|extension| extension == "source");
            if is_note && !path.with_extension("").exists() {
                let _ = fs::remove_file(path);
            }
        }
        Ok(Self { root: root.to_owned() })
    }

    /// The name under which the bytes of a pin are, if they are here.
    fn name(&self, pin: &Pin) -> Result<Option<String>, Error> {
        match pin {
            Pin::Sha256(sha256) => Ok(Some(sha256.clone())),
            Pin::H1(_) | Pin::Module(_) | Pin::Other(_) => match fs::read_to_string(self.pointer(pin)) {
                Ok(text) => Ok(Pin::sha256(text.trim()).ok().map(|pin| pin.text().to_owned())),
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(cause) => Err(Error::disk("read", &self.pointer(pin), &cause)),
            },
        }
    }

    /// How long the bytes of a pin are, unread: whoever gives them out takes them from [`Downloads::find`].
    pub fn length(&self, pin: &Pin) -> Result<Option<u64>, Error> {
        let Some(sha256) = self.name(pin)? else { return Ok(None) };
        let metadata = self.final_path(&sha256).symlink_metadata();
        Ok(metadata.ok().filter(fs::Metadata::is_file).map(|metadata| metadata.len()))
    }

    /// The verified bytes of a pin, hashed again.
    pub fn find(&self, pin: &Pin) -> Result<Found, Error> {
        let Some(sha256) = self.name(pin)? else { return Ok(Found::Absent) };
        let path = self.final_path(&sha256);
        let failed = |cause| Error::disk("read", &path, &cause);
        let mut file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Found::Absent),
            Err(cause) if cause.raw_os_error() == Some(libc::ELOOP) => {
                return self.quarantine(&path, &sha256);
            }
            Err(cause) => return Err(failed(cause)),
        };
        if !file.metadata().map_err(failed)?.is_file() {
            return self.quarantine(&path, &sha256);
        }
        let mut hasher = Sha256::new();
        let size_bytes = copy(&mut file, &mut |chunk| hasher.update(chunk)).map_err(failed)?;
        if hex(&hasher.finalize()) == sha256 {
            Ok(Found::Verified(Verified { path, sha256, size_bytes }))
        } else {
            self.quarantine(&path, &sha256)
        }
    }

    /// Where the bytes of a download under way are, for whoever may look at them before they are verified.
    pub fn partial_path(&self, pin: &Pin) -> PathBuf {
        self.root.join("partial").join(pin.file_name())
    }

    /// Takes the partial of a pin, or `None` while another process holds it.
    pub fn adopt(&self, pin: &Pin) -> Result<Option<Partial>, Error> {
        self.take(self.partial_path(pin))
    }

    /// A partial of this process's own for the same pin; `None` while another task of it has that one.
    pub fn adopt_beside(&self, pin: &Pin) -> Result<Option<Partial>, Error> {
        let name = format!("{}-{}", pin.file_name(), std::process::id());
        self.take(self.root.join("partial").join(name))
    }

    /// Who holds the partial of a pin, as far as this machine tells.
    pub fn holder(&self, pin: &Pin) -> Holder {
        let metadata = fs::metadata(self.partial_path(pin)).ok();
        let pid = metadata.as_ref().and_then(|metadata| {
            // `1: FLOCK  ADVISORY  WRITE 4242 fe:00:1234567 0 EOF`. Source: proc_locks(5).
            let locks = fs::read_to_string("/proc/locks").ok()?;
            let inode = format!(":{}", metadata.ino());
            let mut held = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            held.find(|words| words.get(5).is_some_and(|place| place.ends_with(&inode)))?.get(4)?.parse().ok()
        });
        let len = metadata.map_or(0, |metadata| metadata.len());
        Holder { pid, len, ticks: pid.and_then(ticks) }
    }

    fn take(&self, path: PathBuf) -> Result<Option<Partial>, Error> {
        let failed = |cause| Error::disk("open", &path, &cause);
        loop {
            let mut options = OpenOptions::new();
            let mut file = options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path)
                .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(cause)) => return Err(failed(cause)),
            }
            // Between open and lock its owner may have published it: then this is a finished file, not a partial.
            let same = fs::metadata(&path).is_ok_and(|named| {
                file.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (named.dev(), named.ino()))
            });
            if !same {
                continue;
            }
            let mut hasher = Sha256::new();
            let len = copy(&mut file, &mut |chunk| hasher.update(chunk)).map_err(failed)?;
            let source = fs::read(source_path(&path)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            return Ok(Some(Partial { path, file, hasher, len, source }));
        }
    }

    /// Gives verified bytes their final name.
    /// The caller has compared [`Partial::sha256`], and for a Go module its directory hash, with the pin.
    ///
    /// `lasting`: whether it must survive a power cut. What is lost or torn costs a child another download, since no bytes are
    /// given out that were not hashed again; waiting for the disk at each of a thousand crates costs every build.
    pub fn publish(&self, partial: &Partial, pin: &Pin, lasting: bool) -> Result<Verified, Error> {
        let sha256 = partial.sha256();
        let path = self.final_path(&sha256);
        let folder = path.parent().unwrap_or(&self.root);
        let failed = |cause| Error::disk("publish", &path, &cause);
        let settle = |folder: &Path| if lasting { sync_folder(folder) } else { Ok(()) };
        if let Err(cause) = fs::DirBuilder::new().mode(0o700).create(folder) {
            if cause.kind() != io::ErrorKind::AlreadyExists {
                return Err(failed(cause));
            }
        } else {
            settle(&self.root.join("sha256")).map_err(failed)?;
        }
        if lasting {
            partial.file.sync_all().map_err(failed)?;
        }
        // What was hashed came from the network; what counts is what is in the file. They differ where a file system
        // grants the lock to two processes at once, or where memory or disk is failing.
        if partial.sha256_on_disk().map_err(failed)? != sha256 {
            return Err(failed(io::Error::other("its bytes changed between writing and publishing")));
        }
        fs::rename(&partial.path, &path).map_err(failed)?;
        // After the rename: a partial that a crash left read-only could not be continued.
        partial.file.set_permissions(fs::Permissions::from_mode(0o444)).map_err(failed)?;
        settle(folder).map_err(failed)?;
        if !matches!(pin, Pin::Sha256(_)) {
            let pointer = self.pointer(pin);
            let beside = partial.path.with_extension("pointer");
            let failed = |cause| Error::disk("publish", &pointer, &cause);
            let mut file = File::create(&beside).map_err(failed)?;
            file.write_all(sha256.as_bytes()).map_err(failed)?;
            if lasting {
                file.sync_all().map_err(failed)?;
            }
            let names = pointer.parent().unwrap_or(&self.root);
            fs::rename(&beside, &pointer).and_then(|()| settle(names)).map_err(failed)?;
        }
        let _ = fs::remove_file(source_path(&partial.path));
        Ok(Verified { path, sha256, size_bytes: partial.len })
    }

    /// Makes what a child brought as lasting as what the conductor asks for.
    pub fn settle(&self, verified: &Verified) -> Result<(), Error> {
        let path = &verified.path;
        let folder = path.parent().unwrap_or(&self.root);
        let settled = File::open(path).and_then(|file| file.sync_all()).and_then(|()| sync_folder(folder));
        settled
            .and_then(|()| sync_folder(&self.root.join("sha256")))
            .map_err(|cause| Error::disk("publish", path, &cause))
    }

    fn final_path(&self, sha256: &str) -> PathBuf {
        self.root.join("sha256").join(&sha256[..2]).join(sha256)
    }

    fn pointer(&self, pin: &Pin) -> PathBuf {
        self.root.join(if matches!(pin, Pin::H1(_)) { "h1" } else { "pins" }).join(pin.file_name())
    }

    fn quarantine(&self, path: &Path, name: &str) -> Result<Found, Error> {
        let mut number = 0;
        let mut place = self.root.join("quarantine").join(format!("{name}.0"));
        while place.symlink_metadata().is_ok() {
            number += 1;
            place = self.root.join("quarantine").join(format!("{name}.{number}"));
        }
        match fs::rename(path, &place) {
            Ok(()) => Ok(Found::Quarantined(place)),
            // Another process saw the same and was first.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Found::Absent),
            Err(cause) => Err(Error::disk("quarantine", path, &cause)),
        }
    }
}

/// Who downloads what is wanted here too; equal to what it was before where it did nothing in between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// `None` where it is out of sight: in a container of its own, or on another machine.
    pub pid: Option<u32>,
    /// Of the partial.
    pub len: u64,
    /// Time that it spent on a processor.
    pub ticks: Option<u64>,
}

/// User and system time of a process. Source: proc_pid_stat(5), fields 14 and 15.
fn ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Its name stands in parentheses and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Where the bytes of a partial came from, so that a range request can name their validator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub url: String,
    /// A strong entity tag; a weak one cannot stand in `If-Range`.
    pub etag: Option<String>,
}

/// A download under way; holding it is holding its lock.
pub struct Partial {
    path: PathBuf,
    file: File,
    /// Of the first `len` bytes.
    hasher: Sha256,
    len: u64,
    source: Option<Source>,
}

impl Partial {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether no other process would continue it.
    pub fn is_own(&self) -> bool {
        is_beside(&self.path)
    }

    pub fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    pub fn sha256(&self) -> String {
        hex(&self.hasher.clone().finalize())
    }

    fn sha256_on_disk(&self) -> io::Result<String> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        let mut hasher = Sha256::new();
        copy(&mut file, &mut |chunk| hasher.update(chunk))?;
        Ok(hex(&hasher.finalize()))
    }

    /// Takes bytes that a server sent from `at` on. Where they are here already they are compared, and the first that
    /// differs ends what was here: the server's file is another one.
    pub fn take(&mut self, mut at: u64, mut chunk: &[u8]) -> Result<(), Error> {
        let mut here = vec![0; usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX).min(chunk.len())];
        self.file.read_exact_at(&mut here, at).map_err(|cause| Error::disk("read", &self.path, &cause))?;
        let same = here.iter().zip(chunk).take_while(|(here, there)| here == there).count();
        (at, chunk) = (at + same as u64, &chunk[same..]);
        if chunk.is_empty() {
            return Ok(());
        }
        self.shorten(at)?;
        self.append(chunk)
    }

    /// Forgets what is behind the first `len` bytes.
    pub fn shorten(&mut self, len: u64) -> Result<(), Error> {
        if len >= self.len {
            return Ok(());
        }
        let failed = |cause| Error::disk("truncate", &self.path, &cause);
        self.file.set_len(len).map_err(failed)?;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut hasher = Sha256::new();
        self.len = copy(&mut file, &mut |chunk| hasher.update(chunk)).map_err(failed)?;
        self.hasher = hasher;
        Ok(())
    }

    pub fn append(&mut self, chunk: &[u8]) -> Result<(), Error> {
        self.file.write_all(chunk).map_err(|cause| Error::disk("write", &self.path, &cause))?;
        self.hasher.update(chunk);
        self.len += chunk.len() as u64;
        Ok(())
    }

    /// Forgets every byte.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.hasher = Sha256::new();
        self.len = 0;
        self.source = None;
        let _ = fs::remove_file(source_path(&self.path));
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)).map(drop))
            .map_err(|cause| Error::disk("truncate", &self.path, &cause))
    }

    /// Notes where the bytes come from. A torn note only costs the conditional request; it needs no fsync.
    pub fn set_source(&mut self, source: Source) -> Result<(), Error> {
        if self.source.as_ref() != Some(&source) {
            let path = source_path(&self.path);
            let bytes = serde_json::to_vec(&source).unwrap_or_default();
            fs::write(&path, bytes).map_err(|cause| Error::disk("write", &path, &cause))?;
            self.source = Some(source);
        }
        Ok(())
    }

    /// Gives the space back after an error of this machine's disk.
    pub fn discard(&mut self) {
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(source_path(&self.path));
    }
}

/// The other names are hex.
fn is_beside(partial: &Path) -> bool {
    partial.file_name().is_some_and(|name| name.to_string_lossy().contains('-'))
}

fn source_path(partial: &Path) -> PathBuf {
    partial.with_extension("source")
}

pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads to the end in pieces; returns how many bytes there were.
pub fn copy(reader: &mut impl Read, sink: &mut impl FnMut(&[u8])) -> io::Result<u64> {
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(length) => {
                sink(&buffer[..length]);
                total += length as u64;
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_that_could_leave_the_folder_are_refused() {
        assert!(Pin::sha256("../../etc/passwd").is_err());
        assert!(Pin::sha256(&"A".repeat(64)).is_ok_and(|pin| pin.text() == "a".repeat(64)));
        assert!(Pin::integrity("sha512-../../x").is_err() && Pin::sha1("gitblob", "../../x").is_err());
        assert!(Pin::h1("h1:short=").is_err());
        assert!(Pin::h1("h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=").is_ok());
    }

    #[test]
    fn a_partial_beside_another_goes_with_its_process() -> Result<(), Error> {
        let root = std::env::temp_dir().join(format!("gateway-beside-{}", std::process::id()));
        let (pin, downloads) = (Pin::sha256(&"a".repeat(64))?, Downloads::open(&root)?);
        let held = downloads.adopt(&pin)?;
        assert!(held.is_some() && downloads.adopt(&pin)?.is_none());
        assert_eq!(downloads.holder(&pin).pid, Some(std::process::id()));
        let mut beside = downloads.adopt_beside(&pin)?;
        let path = beside.as_ref().map(|partial| partial.path().to_owned()).unwrap_or_default();
        if let Some(partial) = &mut beside {
            partial.append(b"some")?;
        }
        Downloads::open(&root)?;
        assert!(path.exists() && downloads.adopt_beside(&pin)?.is_none(), "it is in use");
        drop(beside);
        Downloads::open(&root)?;
        assert!(!path.exists() && downloads.partial_path(&pin).exists());
        fs::remove_dir_all(&root).map_err(|cause| Error::disk("remove", &root, &cause))
    }
}
