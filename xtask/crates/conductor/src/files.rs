//! The rim towards the disk: the only place that makes, replaces or removes files for good.
//!
//! Publishing is one discipline: write beside, flush the file, rename, flush the folder. A reader sees the old file, the
//! new one or none, never half of one, also after a power cut. Temporary names carry their [`Owner`], so that
//! [`sweep`] can tell a dead writer's leftovers from a living one's.

use crate::error::{Error, Result};
use crate::owner::{Life, Owner};
use crate::tr;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

const TEMPORARY: &str = ".xtask-tmp-";
/// After this time nobody still writes: what another machine or container left here may go.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::disk("read", path, error))
}

/// Whether a file begins with these bytes.
pub fn begins_with(path: &Path, bytes: &[u8]) -> Result<bool> {
    let error = |error| Error::disk("read", path, error);
    let mut start = Vec::new();
    fs::File::open(path).map_err(error)?.take(bytes.len() as u64).read_to_end(&mut start).map_err(error)?;
    Ok(start == bytes)
}

pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| Error::disk("read", path, error))
}

/// `None` where there is no such file; every other failure is one.
pub fn read_if_present(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::disk("read", path, error)),
    }
}

/// Makes a folder and those above it, each name flushed: a file is only as durable as the folders that lead to it.
pub fn create_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_folder(parent)?;
    match fs::create_dir(path) {
        // Another process was first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.and_then(|()| sync_folder(parent)),
    }
    .map_err(|error| Error::disk("create the folder", path, error))
}

/// A new file in a scratch folder, to be written in pieces; nobody else looks there before it is complete.
pub fn create_scratch(path: &Path) -> Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| Error::disk("write", path, error))
}

/// A name beside `target` that no other process uses.
pub fn temporary_beside(target: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let (owner, count) = (Owner::this_process(), COUNT.fetch_add(1, Ordering::Relaxed));
    let mut name = OsString::from(format!("{TEMPORARY}{owner}-{count}-"));
    name.push(target.file_name().unwrap_or(OsStr::new("file")));
    target.with_file_name(name)
}

/// Publishes `bytes` under `path`, making parent folders.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with_mode(path, bytes, 0o644)
}

pub fn write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    publish_with(path, mode, |file| file.write_all(bytes)).map_err(|error| error.needing(bytes.len() as u64))
}

/// A finished, flushed file under a temporary name: a last chance to look at its bytes before they get their final one.
pub struct Draft(Temporary);

impl Draft {
    /// What `fill` writes, in `folder`, which is made if it is not there.
    fn write(folder: &Path, name: &OsStr, mode: u32, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<Self> {
        create_folder(folder)?;
        let temporary = Temporary(temporary_beside(&folder.join(name)));
        let attempt = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).read(true).create_new(true).mode(0o600).open(&temporary.0)?;
            fill(&mut file)?;
            file.set_permissions(Permissions::from_mode(mode))?;
            // A failed fsync is never retried: the kernel may have dropped the pages already.
            file.sync_all()
        };
        attempt().map_err(|error| Error::disk("write", &folder.join(name), error))?;
        Ok(Self(temporary))
    }

    /// A copy of `from`: shared blocks where the file system can, a plain copy elsewhere. Never a hard link: whoever edits one in place
    /// must not reach the other.
    pub fn copy(from: &Path, folder: &Path, mode: u32) -> Result<Self> {
        let mut source = File::open(from).map_err(|error| Error::disk("read", from, error))?;
        Self::write(folder, from.file_name().unwrap_or(OsStr::new("copy")), mode, |file| {
            if rustix::fs::ioctl_ficlone(&*file, &source).is_err() {
                io::copy(&mut source, file)?;
            }
            Ok(())
        })
        .map_err(|error| error.needing(from.metadata().map_or(0, |metadata| metadata.len())))
    }

    pub fn path(&self) -> &Path {
        &self.0.0
    }

    pub fn publish(self, to: &Path) -> Result<()> {
        rename(self.path(), to)
    }
}

/// Publishes what `fill` writes, under `path` with `mode`, making parent folders.
pub fn publish_with(path: &Path, mode: u32, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    Draft::write(parent(path)?, path.file_name().unwrap_or_default(), mode, fill)?.publish(path)
}

/// Publishes a finished file or folder by renaming it; both must be on one file system.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    create_folder(parent(to)?)?;
    fs::rename(from, to)
        .and_then(|()| sync_folder(to.parent().unwrap_or(Path::new("."))))
        .map_err(|error| Error::disk("publish", to, error))
}

/// Removes a file or a whole folder; absent is fine.
pub fn remove(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::disk("remove", path, error)),
        _ => Ok(()),
    }
}

/// Makes a fresh, empty folder inside `parent` under a temporary name.
pub fn temporary_folder(parent: &Path, label: &str) -> Result<PathBuf> {
    create_folder(parent)?;
    loop {
        let path = temporary_beside(&parent.join(label));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            // Left by a killed process that had our id; each try has another name.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::disk("create the folder", &path, error)),
        }
    }
}

/// What dead processes of ours left half-written directly inside `folder`.
pub fn leftovers(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_left = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let Some(owner) = name.to_str().and_then(|name| name.strip_prefix(TEMPORARY)) else { return false };
        match owner.parse::<Owner>().map_or(Life::Elsewhere, |owner| owner.life()) {
            Life::Alive => false,
            Life::Dead => true,
            Life::Elsewhere => age(&entry.path()).is_some_and(|age| age > ABANDONED),
        }
    };
    entries.filter(is_left).map(|entry| entry.path()).collect()
}

/// Removes them. Best effort: a leftover costs space only.
pub fn sweep(folder: &Path) {
    for path in leftovers(folder) {
        let _ = remove(&path);
    }
}

/// How long ago a file was changed; a clock that was set back meanwhile counts the same way.
pub fn age(path: &Path) -> Option<Duration> {
    let changed = fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    Some(SystemTime::now().duration_since(changed).unwrap_or_else(|ahead| ahead.duration()))
}

/// What lies directly inside a folder, sorted; nothing where there is no such folder.
pub fn list(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Bytes of a file, or of all files below a folder.
pub fn size_of(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => list(path).iter().map(|path| size_of(path)).sum(),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    }
}

/// The first free name of the form `<name of path>.<number>` in `folder`.
pub fn unused_name(folder: &Path, path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut number = 0_u32;
    loop {
        let place = folder.join(format!("{name}.{number}"));
        if fs::symlink_metadata(&place).is_err() {
            return place;
        }
        number += 1;
    }
}

/// Whether a relative path stays below the folder that it is put into.
pub fn stays_below(path: &str) -> bool {
    let mut parts = Path::new(path).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, std::path::Component::Normal(_)))
}

pub fn is_temporary(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes()))
}

/// Removes a folder if nothing is in it.
pub fn remove_if_empty(folder: &Path) -> Result<()> {
    match fs::remove_dir(folder) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory
            ) =>
        {
            Err(Error::disk("remove the folder", folder, error))
        }
        _ => Ok(()),
    }
}

/// Adds lines to a file in one write: whoever else adds does so before or after. Not flushed: for notes whose loss costs little.
pub fn append(path: &Path, lines: &str) -> Result<()> {
    let attempt = || OpenOptions::new().append(true).create(true).mode(0o600).open(path)?.write_all(lines.as_bytes());
    attempt().map_err(|error| Error::disk("write", path, error))
}

/// All regular files below `folder`, as sorted paths relative to it. Hidden names and those that `skip` names are left out;
/// a symbolic link to a file counts as that file.
pub fn walk(folder: &Path, skip: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    walk_all(folder, &|path| hidden(path) || skip(path))
}

/// The same with hidden names.
pub fn walk_with_hidden(folder: &Path) -> Result<Vec<PathBuf>> {
    walk_all(folder, &|_| false)
}

/// Everything below `folder` that is no folder itself, links not followed, as sorted relative paths.
pub fn everything_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        let path = folder.join(&relative);
        for entry in fs::read_dir(&path).map_err(|error| Error::disk("list", &path, error))? {
            let entry = entry.map_err(|error| Error::disk("list", &path, error))?;
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let list = if is_folder { &mut open } else { &mut found };
            list.push(relative.join(entry.file_name()));
        }
    }
    found.sort();
    Ok(found)
}

fn walk_all(folder: &Path, skip: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        let path = folder.join(&relative);
        let entries = fs::read_dir(&path).map_err(|error| Error::disk("list", &path, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| Error::disk("list", &path, error))?;
            let child = relative.join(entry.file_name());
            if skip(&child) {
                continue;
            }
            let mut kind = entry.file_type().map_err(|error| Error::disk("list", &path, error))?;
            if kind.is_symlink() {
                match fs::metadata(entry.path()) {
                    Ok(target) => kind = target.file_type(),
                    Err(_) => continue,
                }
                if kind.is_dir() {
                    continue;
                }
            }
            if kind.is_dir() {
                open.push(child);
            } else if kind.is_file() {
                found.push(child);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Takes `..` out of a path by its text: `a/b/../c` → `a/c`.
pub fn normalize(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// Reads `path` in pieces, without holding it in memory.
pub fn read_pieces(path: &Path, mut take: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                take(&buffer[..count]);
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn parent(path: &Path) -> Result<&Path> {
    path.parent().ok_or_else(|| Error::bug(tr!("{path} has no parent folder", path = path.display())))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removed when dropped, unless the rename took it away.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_a_dead_writer_are_swept_and_a_living_ones_are_kept() {
        let folder = temporary_folder(&std::env::temp_dir(), "sweep").unwrap();
        let alive = temporary_beside(&folder.join("x"));
        let number = std::process::id().to_string();
        let name = alive.file_name().unwrap().to_str().unwrap();
        let dead = folder.join(name.replacen(&format!("-{number}-"), &format!("-{}-", i32::MAX - 1), 1));
        fs::write(&dead, "half").unwrap();
        fs::write(&alive, "half").unwrap();
        sweep(&folder);
        assert!(!dead.exists());
        assert!(alive.exists());
        remove(&folder).unwrap();
    }

    #[test]
    fn a_temporary_folder_is_new_although_a_dead_process_left_one_of_the_next_name() {
        let parent = std::env::temp_dir();
        let first = temporary_folder(&parent, "taken").unwrap();
        let name = first.file_name().unwrap().to_str().unwrap().to_owned();
        let count: u64 = name.split('-').nth_back(1).unwrap().parse().unwrap();
        let ahead: Vec<_> = (1..200)
            .map(|step| parent.join(name.replace(&format!("-{count}-"), &format!("-{}-", count + step))))
            .collect();
        ahead.iter().for_each(|path| fs::create_dir(path).unwrap());
        let second = temporary_folder(&parent, "taken").unwrap();
        assert!(!ahead.contains(&second));
        ahead.iter().chain([&first, &second]).for_each(|path| remove(path).unwrap());
    }

    #[test]
    fn a_copy_does_not_share_its_bytes_with_the_original() {
        let folder = temporary_folder(&std::env::temp_dir(), "copy").unwrap();
        let (from, to) = (folder.join("from"), folder.join("deep/to"));
        write(&from, b"one").unwrap();
        Draft::copy(&from, &folder.join("deep"), 0o755).unwrap().publish(&to).unwrap();
        OpenOptions::new().append(true).open(&to).unwrap().write_all(b"two").unwrap();
        assert_eq!(read(&from).unwrap(), b"one");
        assert_eq!(read(&to).unwrap(), b"onetwo");
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o755);
        remove(&folder).unwrap();
    }
}
