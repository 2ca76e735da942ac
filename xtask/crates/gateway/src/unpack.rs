//! Zip archives: one meaning, bounded size, no way out of the destination.
//!
//! Owns: what an archive may contain, and writing it. Never: create a link or a special file, follow one, write outside
//! the destination, take a mode from the archive beyond its x bit, or trust a size that the archive states.
//! Rules: ARCHITECTURE.md, "Invariants"; PEP 427 for wheels, golang.org/ref/mod for module zips.

use crate::downloads::hex;
use protocol::{FailureKind, Unpack, UnpackedFile};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use zip::ZipArchive;
use zip::read::ZipFile;

/// Above this an archive is a bomb: text deflates by 10, Go's toolchain by 4.
const MAX_RATIO: u64 = 200;
/// Small archives of zeros are allowed to be silly.
const RATIO_FREE_BYTES: u64 = 16 << 20;
const MAX_PATH_BYTES: usize = 1024;
const MAX_NAME_BYTES: usize = 255;
const MAX_THREADS: usize = 4;
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;

/// Why an archive was not unpacked.
#[derive(Debug)]
pub struct Refusal {
    pub kind: FailureKind,
    pub message: String,
}

impl Refusal {
    fn archive(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Integrity, message: message.into() }
    }

    fn disk(action: &str, path: &Path, cause: &io::Error) -> Self {
        Self { kind: FailureKind::Disk, message: format!("cannot {action} {}: {cause}", path.display()) }
    }
}

/// A zip file whose listing has been checked: the same entries for every reader, each with a plain relative path.
pub struct Archive {
    zip: ZipArchive<Window>,
    size_bytes: u64,
}

pub type Entry<'a> = ZipFile<'a, Window>;

impl Archive {
    /// # Errors: Integrity for what is not one unambiguous archive of files and folders; Disk.
    pub fn open(path: &Path, max_entries: u64) -> Result<Self, Refusal> {
        let failed = |cause| Refusal::disk("read", path, &cause);
        let file = File::open(path).map_err(failed)?;
        let size_bytes = file.metadata().map_err(failed)?.len();
        let window = Window { file: Arc::new(file), size_bytes, position: 0, buffer: Vec::new(), buffer_start: 0 };
        let invalid =
            |cause: zip::result::ZipError| Refusal::archive(format!("it is not a sound zip archive: {cause}"));
        let mut zip = ZipArchive::new(window).map_err(invalid)?;
        if zip.len() as u64 > max_entries {
            return Err(Refusal::archive(format!("it has {} entries, more than the {max_entries} allowed", zip.len())));
        }
        // Names that stand twice, local headers that disagree with the directory, entries that overlap or hide.
        zip.validate_header_consistency().map_err(invalid)?;
        Ok(Self { zip, size_bytes })
    }

    /// Path of each entry; a folder's ends with `/`.
    /// # Errors: Integrity, naming the first entry that is not a plain file or folder below the root.
    pub fn names(&mut self) -> Result<Vec<String>, Refusal> {
        let mut names = Vec::with_capacity(self.zip.len());
        for index in 0..self.zip.len() {
            let entry =
                self.zip.by_index_raw(index).map_err(|cause| Refusal::archive(format!("entry {index}: {cause}")))?;
            let name = std::str::from_utf8(entry.name_raw())
                .map_err(|_| Refusal::archive(format!("entry {index} has a name that is not UTF-8")))?;
            let refuse = |why: &str| Err(Refusal::archive(format!("entry `{}` {why}", name.escape_debug())));
            if let Err(why) = plain_path(name) {
                return refuse(why);
            }
            match entry.unix_mode().map_or(0, |mode| mode & S_IFMT) {
                0 => {}
                S_IFREG if !name.ends_with('/') => {}
                S_IFDIR if name.ends_with('/') => {}
                _ => {
                    return refuse("is a link or a special file, or its type contradicts its name");
                }
            }
            if entry.encrypted() {
                return refuse("is encrypted");
            }
            names.push(name.to_owned());
        }
        Ok(names)
    }

    /// Reads the entries with these indices on a few threads, each whole; results come in the given order.
    /// `work` gets a reader that fails beyond `max_bytes` in total, whatever sizes the archive states.
    pub fn read_each<T: Send>(
        &self,
        indices: &[usize],
        max_bytes: u64,
        work: impl Fn(usize, bool, &mut dyn Read) -> Result<T, Refusal> + Sync,
    ) -> Result<Vec<T>, Refusal> {
        let max_bytes = max_bytes.min(RATIO_FREE_BYTES.max(self.size_bytes.saturating_mul(MAX_RATIO)));
        let next = AtomicUsize::new(0);
        let total = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_THREADS));
        let worker = || {
            let mut zip = self.zip.clone();
            let mut done = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let place = next.fetch_add(1, Ordering::Relaxed);
                let Some(&index) = indices.get(place) else {
                    break;
                };
                let result = match zip.by_index(index) {
                    Ok(entry) => {
                        let executable = entry.unix_mode().is_some_and(|mode| mode & 0o100 != 0);
                        work(place, executable, &mut Metered { entry, total: &total, max_bytes })
                    }
                    Err(cause) => Err(Refusal::archive(format!("entry {index}: {cause}"))),
                };
                if result.is_err() {
                    stop.store(true, Ordering::Relaxed);
                }
                done.push((place, result));
            }
            done
        };
        let mut results: Vec<(usize, Result<T, Refusal>)> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
        });
        results.sort_by_key(|(place, _)| *place);
        let results = results.into_iter().map(|(_, result)| result).collect::<Result<Vec<T>, Refusal>>()?;
        if results.len() == indices.len() {
            Ok(results)
        } else {
            Err(Refusal { kind: FailureKind::Bug, message: "a reading thread ended early".into() })
        }
    }
}

/// Writes an archive into an empty folder, on the disk when this returns.
/// # Errors: Integrity for a hostile archive, Disk; what was written stays in the destination.
pub fn unpack(job: &Unpack) -> Result<Vec<UnpackedFile>, Refusal> {
    let root = &job.destination;
    let metadata = fs::symlink_metadata(root).map_err(|cause| Refusal::disk("open", root, &cause))?;
    let empty = fs::read_dir(root).map_err(|cause| Refusal::disk("list", root, &cause))?.next().is_none();
    // Nobody but us can put a link below it: so a path made of folders that we created leads where it says.
    if !metadata.is_dir() || !empty || metadata.uid() != own_uid() {
        let message = format!("{} must be an empty folder of this user", root.display());
        return Err(Refusal { kind: FailureKind::Disk, message });
    }
    fs::set_permissions(root, fs::Permissions::from_mode(0o700))
        .map_err(|cause| Refusal::disk("protect", root, &cause))?;

    let mut archive = Archive::open(&job.archive, job.max_entries)?;
    let mut folders: BTreeSet<String> = BTreeSet::new();
    let mut indices = Vec::new();
    let mut paths = Vec::new();
    for (index, name) in archive.names()?.iter().enumerate() {
        let Some(path) = name.strip_prefix(&job.strip_prefix) else {
            if job.strip_prefix.starts_with(name.as_str()) {
                continue; // A folder above the prefix.
            }
            return Err(Refusal::archive(format!(
                "entry `{}` is not below `{}`",
                name.escape_debug(),
                job.strip_prefix
            )));
        };
        if path.is_empty()
            || path.ends_with('/')
            || !(job.only.is_empty() || job.only.iter().any(|prefix| path.starts_with(prefix.as_str())))
        {
            continue; // Folders follow from files; an empty one means nothing to a build.
        }
        // The prefix may have cut a name open: what is left must be plain by itself.
        plain_path(path).map_err(|why| Refusal::archive(format!("entry `{}` {why}", name.escape_debug())))?;
        folders.extend(path.match_indices('/').map(|(end, _)| path[..end].to_owned()));
        indices.push(index);
        paths.push(path.to_owned());
    }
    if let Some(path) = paths.iter().find(|path| folders.contains(*path)) {
        return Err(Refusal::archive(format!("entry `{}` is a file and a folder", path.escape_debug())));
    }
    // Sorted, so each folder comes after the one that holds it.
    for folder in &folders {
        let folder = root.join(folder);
        DirBuilder::new().mode(0o755).create(&folder).map_err(|cause| Refusal::disk("create", &folder, &cause))?;
    }
    let mut files = archive.read_each(&indices, job.max_bytes, |place, executable, reader| {
        let path = &paths[place];
        let executable = executable || job.executable.iter().any(|prefix| path.starts_with(prefix.as_str()));
        write_file(&root.join(path), path, executable, reader)
    })?;
    sync_tree(root, &files, &folders)?;
    files.sort();
    Ok(files)
}

fn write_file(target: &Path, path: &str, executable: bool, reader: &mut dyn Read) -> Result<UnpackedFile, Refusal> {
    let mode = if executable { 0o755 } else { 0o644 };
    // create_new: an existing name, a link included, is an error and is not followed.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(target)
        .map_err(|cause| Refusal::disk("create", target, &cause))?;
    let mut hasher = Sha256::new();
    let mut size_bytes = 0;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = reader
            .read(&mut buffer)
            .map_err(|cause| Refusal::archive(format!("entry `{}`: {cause}", path.escape_debug())))?;
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
        file.write_all(&buffer[..length]).map_err(|cause| Refusal::disk("write", target, &cause))?;
        size_bytes += length as u64;
    }
    // The mode given at creation was narrowed by the umask.
    file.set_permissions(fs::Permissions::from_mode(mode))
        .map_err(|cause| Refusal::disk("set the mode of", target, &cause))?;
    Ok(UnpackedFile { path: path.to_owned(), sha256: hex(&hasher.finalize()), size_bytes, executable })
}

/// Whether a name is a relative path that every system reads alike: this is the border, so it allows rather than forbids.
fn plain_path(name: &str) -> Result<(), &'static str> {
    let path = name.strip_suffix('/').unwrap_or(name);
    if name.len() > MAX_PATH_BYTES {
        return Err("has a path that is too long");
    }
    if name.contains('\\') || name.chars().any(char::is_control) {
        return Err("has a backslash or a control character in its name");
    }
    if name.as_bytes().get(1) == Some(&b':') {
        return Err("begins with a drive");
    }
    for part in path.split('/') {
        match part {
            "" => return Err("is absolute or has an empty part in its path"),
            "." | ".." => return Err("walks through `.` or `..`"),
            part if part.len() > MAX_NAME_BYTES => {
                return Err("has a part that is too long in its path");
            }
            _ => {}
        }
    }
    Ok(())
}

fn own_uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

/// After this a power cut leaves the tree whole.
#[cfg(target_os = "linux")]
fn sync_tree(root: &Path, _: &[UnpackedFile], _: &BTreeSet<String>) -> Result<(), Refusal> {
    use std::os::fd::AsRawFd;
    let folder = File::open(root).map_err(|cause| Refusal::disk("open", root, &cause))?;
    // One call for the file system instead of one fsync for each of the 15,000 files of a Go toolchain. Since Linux 5.8 it
    // reports write errors as fsync does.
    // SAFETY: the descriptor is open for as long as `folder` lives.
    if unsafe { libc::syncfs(folder.as_raw_fd()) } == 0 {
        Ok(())
    } else {
        Err(Refusal::disk("sync", root, &io::Error::last_os_error()))
    }
}

#[cfg(not(target_os = "linux"))]
fn sync_tree(root: &Path, files: &[UnpackedFile], folders: &BTreeSet<String>) -> Result<(), Refusal> {
    for path in files
        .iter()
        .map(|file| root.join(&file.path))
        .chain(folders.iter().map(|folder| root.join(folder)))
        .chain([root.to_owned()])
    {
        crate::downloads::sync_folder(&path).map_err(|cause| Refusal::disk("sync", &path, &cause))?;
    }
    Ok(())
}

/// Fails once all entries together exceed the bound.
struct Metered<'a> {
    entry: Entry<'a>,
    total: &'a AtomicU64,
    max_bytes: u64,
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.entry.read(buffer)?;
        if self.total.fetch_add(length as u64, Ordering::Relaxed) + length as u64 > self.max_bytes {
            return Err(io::Error::other(format!("the archive unpacks to more than {} bytes", self.max_bytes)));
        }
        Ok(length)
    }
}

/// A cursor over a shared file, so that threads read one descriptor without moving each other's position.
#[derive(Clone)]
pub struct Window {
    file: Arc<File>,
    size_bytes: u64,
    position: u64,
    buffer: Vec<u8>,
    buffer_start: u64,
}

impl Read for Window {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let buffered = self
            .position
            .checked_sub(self.buffer_start)
            .and_then(|skip| self.buffer.get(usize::try_from(skip).ok()?..))
            .filter(|rest| !rest.is_empty());
        let length = match buffered {
            Some(rest) => {
                let length = rest.len().min(out.len());
                out[..length].copy_from_slice(&rest[..length]);
                length
            }
            // Headers are read a few bytes at a time.
            None if out.len() < 4096 => {
                self.buffer.resize(32 * 1024, 0);
                let length = self.file.read_at(&mut self.buffer, self.position)?;
                self.buffer.truncate(length);
                self.buffer_start = self.position;
                let length = length.min(out.len());
                out[..length].copy_from_slice(&self.buffer[..length]);
                length
            }
            None => self.file.read_at(out, self.position)?,
        };
        self.position += length as u64;
        Ok(length)
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.size_bytes.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
