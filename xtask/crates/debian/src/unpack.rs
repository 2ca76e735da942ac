//! What of a package becomes part of a tree.
//!
//! Owns: the policy. Never: run a script, write outside the scratch folder, hold a content in memory, or take a path on trust.
//! Source: deb(5); Debian Policy 9.1 and 10.6; the merged /usr as the package `usrmerge` makes it.
//!
//! | in a package | becomes |
//! | --- | --- |
//! | a file, folder, link | itself; below `bin`, `sbin`, `lib*` moved below `usr/` |
//! | setuid and setgid bits | nothing: nobody in an image gains rights |
//! | a path that is left out | nothing |
//! | a folder that two packages have alike | one |
//! | its `control` file | a fragment in `var/lib/dpkg/status.d`, which scanners read |
//! | its scripts, triggers, hashes | nothing |
//! | a path of two packages, one below a link, one with a control character | an error |
//! | a device, a pipe; a link that leads out of the root | an error |

use crate::ar::Deb;
use crate::control::{self, Paragraph};
use crate::error::{Error, Result};
use crate::pattern::Pattern;
use crate::tar::{Archive, Header, Kind, Problem};
use oci::{Content, Entry, Tree, TreeError, TreePath};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Folders that are links into `usr/` on every Debian since 12. The last four are there only where something is in them.
pub(crate) const MERGED: [&str; 7] = ["bin", "lib", "sbin", "lib32", "lib64", "libx32", "libo32"];

/// The longest of Debian's own have some KiB.
const MAX_CONTROL_BYTES: u64 = 1 << 20;
/// The largest package of Debian unpacks to 3 GB, and has 60 000 entries.
const MAX_PACKAGE_BYTES: u64 = 4 << 30;
const MAX_ENTRIES: usize = 250_000;
/// Text packs to a tenth; what claims to have been packed to less than a hundredth is there to fill a disk.
const MAX_RATIO: u64 = 100;
const ALWAYS_ALLOWED_BYTES: u64 = 64 << 20;

/// A fetched package, and what it is pinned as.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    pub version: String,
    pub architecture: String,
    pub file: PathBuf,
}

/// Grows package by package.
pub(crate) struct Unpacker<'a> {
    pub tree: Tree,
    exclude: &'a [Pattern],
    keep: &'a [Pattern],
    scratch: &'a Path,
    written: usize,
    /// Which package each path is from.
    owners: BTreeMap<TreePath, String>,
    /// Folders that are left out unless something in them is kept.
    offered: BTreeMap<TreePath, Entry>,
}

impl<'a> Unpacker<'a> {
    pub fn new(exclude: &'a [Pattern], keep: &'a [Pattern], scratch: &'a Path) -> Self {
        let (tree, owners, offered) = (Tree::new(), BTreeMap::new(), BTreeMap::new());
        Self { tree, exclude, keep, scratch, written: 0, owners, offered }
    }

    /// Adds what a package has; returns its control file.
    ///
    /// # Errors: Malformed, Other, Refused, Collision, Io.
    pub fn unpack(&mut self, source: &Source) -> Result<String> {
        let failed = |cause| Error::Io { action: "read", path: source.file.clone(), cause };
        let file = File::open(&source.file).map_err(failed)?;
        let subject = format!("{} {}", source.name, source.version);
        let mut deb = Deb::new(&subject, io::BufReader::new(file))?;
        let control = deb.archive("control.tar", |tar, size_bytes| {
            control_file(&subject, &mut Archive::new(Bounded::new(tar, size_bytes)))
        })?;
        check(source, &control::single(&subject, control.as_bytes())?)?;
        deb.archive("data.tar", |tar, size_bytes| {
            let mut archive = Archive::new(Bounded::new(tar, size_bytes));
            let mut entries = 0;
            while let Some(header) = archive.next().map_err(|problem| explain(&subject, problem))? {
                entries += 1;
                if entries > MAX_ENTRIES {
                    return Err(Error::malformed(&subject, format!("it has more than {MAX_ENTRIES} entries")));
                }
                self.take(source, header, &mut archive)?;
            }
            Ok(())
        })?;
        deb.end()?;
        Ok(control)
    }

    fn take(&mut self, source: &Source, header: Header, content: &mut impl Read) -> Result<()> {
        let written = header.path.clone();
        let refused = |why: &str| Error::Refused {
            package: source.name.clone(),
            path: written.escape_debug().to_string(),
            why: why.to_owned(),
        };
        let relative = below_root(&header.path);
        let relative = if header.kind == Kind::Directory { relative.trim_end_matches('/') } else { relative };
        if ["", "."].contains(&relative) {
            // The root itself; its mode is ours.
            return if header.kind == Kind::Directory { Ok(()) } else { Err(refused("is the root and no folder")) };
        }
        if header.path.contains(char::is_control) {
            return Err(refused("has a control character"));
        }
        if let Kind::Special(what) = header.kind {
            return Err(refused(&format!("is a {what}")));
        }
        if MERGED.contains(&relative) && header.kind != Kind::Directory {
            // Since Debian 13 a package brings these links.
            let ours = Kind::Symlink(format!("usr/{relative}"));
            return if header.kind == ours { Ok(()) } else { Err(refused("is a link into usr/ in every base")) };
        }
        let path = place(relative).map_err(|error| refused(&format!("is no path of a tree: {error}")))?;
        let left_out = |path: &TreePath| {
            let covered = |patterns: &[Pattern]| patterns.iter().any(|it| it.covers(path.as_str()));
            covered(self.exclude) && !covered(self.keep)
        };
        if left_out(&path) && header.kind != Kind::Directory {
            return Ok(());
        }
        let kind = match header.kind {
            Kind::Directory => oci::Kind::Directory,
            Kind::Symlink(target) => {
                if leads_out(&path, &target) {
                    return Err(refused(&format!("links to `{}`, out of the root", target.escape_debug())));
                }
                oci::Kind::Symlink(target)
            }
            Kind::Hardlink(target) => {
                let linked = place(below_root(&target));
                let linked = linked.map_err(|error| refused(&format!("links to no path of a tree: {error}")))?;
                let is_own_file =
                    matches!(self.tree.get(linked.as_str()), Some(Entry { kind: oci::Kind::File(_), .. }))
                        && self.owners.get(&linked) == Some(&source.name);
                if !is_own_file {
                    return Err(refused(&format!("links to `{linked}`, no file that came before it in this package")));
                }
                oci::Kind::Hardlink(linked)
            }
            Kind::File { size_bytes } => oci::Kind::File(self.content(source, &header.path, size_bytes, content)?),
            Kind::Special(what) => return Err(refused(&format!("is a {what}"))),
        };
        let mut entry = Entry::new(kind, header.mode & !0o6000, header.modified_seconds);
        (entry.uid, entry.gid) = (header.uid, header.gid);
        if left_out(&path) {
            self.offered.insert(path, entry);
            return Ok(());
        }
        self.insert(source, path, entry)
    }

    fn insert(&mut self, source: &Source, path: TreePath, entry: Entry) -> Result<()> {
        let refused =
            |path: &TreePath, why: String| Error::Refused { package: source.name.clone(), path: path.to_string(), why };
        if let (Some(here), Some(owner)) = (self.tree.get(path.as_str()), self.owners.get(&path)) {
            let marks = |it: &Entry| (it.is_directory(), it.mode, it.uid, it.gid);
            if !here.is_directory() || !entry.is_directory() {
                return Err(Error::Collision {
                    path: path.to_string(),
                    packages: [owner.clone(), source.name.clone()],
                });
            }
            if marks(here) != marks(&entry) {
                let mark = |it: &Entry| format!("mode {:o}, owner {}:{}", it.mode, it.uid, it.gid);
                let why = format!("is a folder of {}; in {owner} of {}", mark(&entry), mark(here));
                return Err(refused(&path, why));
            }
            // The later time, so that no order of packages is in the result.
            let modified_seconds = here.modified_seconds.max(entry.modified_seconds);
            self.tree.remove(path.as_str());
            let merged = Entry { modified_seconds, ..entry };
            return self.tree.insert(path.clone(), merged).map_err(|error| refused(&path, error.to_string()));
        }
        self.tree.insert(path.clone(), entry).map_err(|error| match error {
            TreeError::NotADirectory { path: above, below } => {
                let other = if above == path { below } else { above };
                let owner = self.owners.get(&other).map_or_else(String::new, |owner| format!(" (of {owner})"));
                refused(&path, format!("cannot be beside `{other}`{owner}: one is no folder and would hold the other"))
            }
            error => refused(&path, error.to_string()),
        })?;
        self.owners.insert(path, source.name.clone());
        Ok(())
    }

    /// Puts a content into a file of its own in the scratch folder.
    fn content(&mut self, source: &Source, path: &str, size_bytes: u64, content: &mut impl Read) -> Result<Content> {
        let place = self.scratch.join(format!("{:06}", self.written));
        self.written += 1;
        let disk = |cause| Error::Io { action: "write", path: place.clone(), cause };
        let mut file = File::create_new(&place).map_err(disk)?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = content.read(&mut buffer).map_err(|cause| {
                Error::malformed(format!("{} {}", source.name, source.version), format!("{path}: {cause}"))
            })?;
            if length == 0 {
                break;
            }
            io::Write::write_all(&mut file, &buffer[..length]).map_err(disk)?;
        }
        Ok(Content::File { path: place, size_bytes })
    }

    /// Hard links lead to what is written before them, and folders that hold something kept are back.
    pub fn finish(mut self) -> Tree {
        let links = self.tree.iter().filter_map(|(path, entry)| match &entry.kind {
            oci::Kind::Hardlink(target) => Some((target.clone(), path.clone())),
            _ => None,
        });
        let mut names: BTreeMap<TreePath, Vec<TreePath>> = BTreeMap::new();
        links.for_each(|(target, path)| names.entry(target).or_default().push(path));
        for (target, mut names) in names {
            names.push(target.clone());
            names.sort();
            if names.first() == Some(&target) {
                continue;
            }
            let file = self.tree.remove(target.as_str());
            let Some((file, (first, others))) = file.zip(names.split_first()) else { continue };
            let link = Entry { kind: oci::Kind::Hardlink(first.clone()), ..file.clone() };
            for (name, entry) in others.iter().map(|it| (it, &link)).chain([(first, &file)]) {
                self.tree.remove(name.as_str());
                // It was there a moment ago.
                let _ = self.tree.insert(name.clone(), entry.clone());
            }
        }
        for (path, entry) in std::mem::take(&mut self.offered) {
            if self.tree.below(path.as_str()).next().is_some() {
                let _ = self.tree.insert(path, entry);
            }
        }
        self.tree
    }
}

/// Without the `./` that a package's paths begin with.
fn below_root(path: &str) -> &str {
    path.strip_prefix("./").unwrap_or(path)
}

/// Where a path of a package is in a merged tree.
fn place(relative: &str) -> std::result::Result<TreePath, TreeError> {
    let first = relative.split('/').next().unwrap_or_default();
    TreePath::new(if MERGED.contains(&first) { format!("usr/{relative}") } else { relative.to_owned() })
}

/// Whether a link at `path` climbs above the root. (A kernel would stop there; nothing honest tries.)
fn leads_out(path: &TreePath, target: &str) -> bool {
    let mut depth = if target.starts_with('/') { 0 } else { path.ancestors().count() };
    target.split('/').any(|part| match part {
        "" | "." => false,
        ".." if depth == 0 => true,
        ".." => {
            depth -= 1;
            false
        }
        _ => {
            depth += 1;
            false
        }
    })
}

/// The text of `control` in a control archive; everything else in it is for dpkg.
fn control_file(subject: &str, archive: &mut Archive<impl Read>) -> Result<String> {
    let mut found = None;
    while let Some(header) = archive.next().map_err(|problem| explain(subject, problem))? {
        if below_root(&header.path) != "control" {
            continue;
        }
        match header.kind {
            Kind::File { size_bytes } if size_bytes <= MAX_CONTROL_BYTES && found.is_none() => {}
            _ => return Err(Error::malformed(subject, "its control file is none, too long, or there twice")),
        }
        let mut text = String::new();
        let read = archive.read_to_string(&mut text);
        read.map_err(|cause| Error::malformed(subject, format!("its control file: {cause}")))?;
        found = Some(text);
    }
    found.ok_or_else(|| Error::malformed(subject, "it has no control file"))
}

/// The hash says that it is the pinned file; this says that the pins name it rightly.
fn check(source: &Source, control: &Paragraph) -> Result<()> {
    let Source { name, version, architecture, .. } = source;
    for (field, expected) in [("Package", name), ("Version", version), ("Architecture", architecture)] {
        let got = control.need(name, field)?;
        if got != expected {
            let (package, expected, got) = (name.clone(), expected.clone(), got.to_owned());
            return Err(Error::Other { package, field, expected, got });
        }
    }
    Ok(())
}

fn explain(subject: &str, problem: Problem) -> Error {
    match problem {
        Problem::Malformed(why) => Error::malformed(subject, why),
        Problem::Unreadable(cause) => Error::malformed(subject, format!("it cannot be read to its end: {cause}")),
    }
}

/// A reader that fails where more comes out than a package may have.
struct Bounded<R> {
    inner: R,
    left_bytes: u64,
}

impl<R> Bounded<R> {
    fn new(inner: R, packed_bytes: u64) -> Self {
        let left_bytes = packed_bytes.saturating_mul(MAX_RATIO).saturating_add(ALWAYS_ALLOWED_BYTES);
        Self { inner, left_bytes: left_bytes.min(MAX_PACKAGE_BYTES) }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        match self.left_bytes.checked_sub(length as u64) {
            Some(left) => self.left_bytes = left,
            None => return Err(io::Error::other("it unpacks to more than a package of its size may")),
        }
        Ok(length)
    }
}
