//! What a layer, or the whole root file system of an image, holds.
//!
//! Owns: which paths and entries there can be at all, and their order. Never: touch a disk; hold a path that leads out of
//! the root, an entry below something that is no folder, or a device.
//! Rules: OCI image specification, layer.md.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::path::PathBuf;

/// Linux's PATH_MAX and NAME_MAX: what no container could open is not written.
const MAX_PATH_BYTES: usize = 4096;
const MAX_NAME_BYTES: usize = 255;
/// What a name beginning so means: something of a lower layer is gone (layer.md, "Whiteouts").
pub(crate) const WHITEOUT_PREFIX: &str = ".wh.";
const PERMISSION_BITS: u32 = 0o7777;

/// A path relative to the root, `usr/lib/x`: UTF-8, no leading or trailing `/`, no empty, `.` or `..` part, no NUL, no part
/// that the format reads as a whiteout. The root itself has no path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(String);

impl TreePath {
    /// # Errors: Path, with the rule that it breaks.
    pub fn new(path: impl Into<String>) -> Result<Self, TreeError> {
        let path = path.into();
        match broken_rule(&path) {
            None => Ok(Self(path)),
            Some(why) => Err(TreeError::Path { path, why }),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder that holds it; none directly below the root.
    pub fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(parent, _)| Self(parent.to_owned()))
    }

    /// The folders on the way to it, outermost first.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(end, _)| &self.0[..end])
    }

    /// The last part of it.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(self.as_str(), |(_, name)| name)
    }
}

impl Borrow<str> for TreePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names come from strangers' archives and go to terminals.
        write!(f, "{}", self.0.escape_debug())
    }
}

fn broken_rule(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        return Some("it is empty");
    }
    if path.len() > MAX_PATH_BYTES {
        return Some("it is longer than 4096 bytes");
    }
    if path.contains('\0') {
        return Some("it holds a NUL");
    }
    if path.starts_with('/') {
        return Some("it is absolute");
    }
    path.split('/').find_map(|part| match part {
        "" => Some("it has an empty part"),
        "." | ".." => Some("it walks through `.` or `..`"),
        part if part.len() > MAX_NAME_BYTES => Some("it has a part of more than 255 bytes"),
        part if part.starts_with(WHITEOUT_PREFIX) => Some("a part of it begins with `.wh.`, which marks removals"),
        _ => None,
    })
}

/// Path → entry, in the order in which it is written: by the bytes of the path, so that a folder comes before what is in it.
///
/// `C` is what is known of a file's content: [`Content`] where a layer is written from it, a digest where trees are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree<C = Content> {
    entries: BTreeMap<TreePath, Entry<C>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<C = Content> {
    pub kind: Kind<C>,
    /// Permission bits with setuid, setgid and sticky, at most 0o7777. Of links and whiteouts it means nothing.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970; the caller clamps.
    pub modified_seconds: i64,
    /// Full name (`security.capability`) → value, which is not empty.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind<C = Content> {
    Directory,
    File(C),
    /// Its target as it stands there; it may lead anywhere, since it is resolved in the container's own root.
    Symlink(String),
    /// Another name of the file at that path of the same tree, whose owner, mode and time count.
    Hardlink(TreePath),
    /// What lower layers have at this path is gone.
    Whiteout,
    /// A folder; what lower layers have in it is gone.
    OpaqueWhiteout,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Bytes(Vec<u8>),
    /// A regular file that does not change while the tree is used; its size is checked when it is read.
    File {
        path: PathBuf,
        size_bytes: u64,
    },
}

impl Content {
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { size_bytes, .. } => *size_bytes,
        }
    }
}

/// Why something cannot be in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum TreeError {
    Path {
        path: String,
        why: &'static str,
    },
    /// An entry is there already.
    Taken {
        path: TreePath,
    },
    /// Something that is no folder would have entries below it.
    NotADirectory {
        path: TreePath,
        below: TreePath,
    },
    /// An attribute that no archive can hold.
    Attribute {
        path: TreePath,
        why: String,
    },
    /// A hard link to what is no file of this tree.
    Dangling {
        path: TreePath,
        target: TreePath,
    },
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path { path, why } => write!(f, "`{}` is no path of a layer: {why}", path.escape_debug()),
            Self::Taken { path } => write!(f, "`{path}` stands twice"),
            Self::NotADirectory { path, below } => write!(f, "`{below}` cannot be below `{path}`, which is no folder"),
            Self::Attribute { path, why } => write!(f, "`{path}`: {why}"),
            Self::Dangling { path, target } => write!(f, "`{path}` links to `{target}`, which is no file here"),
        }
    }
}

impl std::error::Error for TreeError {}

impl Tree {
    /// An empty tree whose files are bytes or files of this machine.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<C> Default for Tree<C> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<C> Tree<C> {
    /// Adds an entry; its folders may come later or never (see [`Self::add_parents`]), the target of a hard link too.
    /// # Errors: Taken, NotADirectory, Attribute; the tree stays as it was.
    pub fn insert(&mut self, path: TreePath, entry: Entry<C>) -> Result<(), TreeError> {
        if self.entries.contains_key(&path) {
            return Err(TreeError::Taken { path });
        }
        let other = path.ancestors().find(|it| self.entries.get(*it).is_some_and(|it| !it.is_directory()));
        if let Some(other) = other.map(str::to_owned) {
            return Err(TreeError::NotADirectory { path: TreePath(other), below: path });
        }
        let below = if entry.is_directory() { None } else { self.below(path.as_str()).next() };
        if let Some(below) = below.map(|(below, _)| below.clone()) {
            return Err(TreeError::NotADirectory { path, below });
        }
        if let Some(why) = entry.impossible() {
            return Err(TreeError::Attribute { path, why });
        }
        self.entries.insert(path, entry);
        Ok(())
    }

    pub fn get(&self, path: &str) -> Option<&Entry<C>> {
        self.entries.get(path)
    }

    /// Removes one entry, not what is below it.
    pub fn remove(&mut self, path: &str) -> Option<Entry<C>> {
        self.entries.remove(path)
    }

    /// Removes an entry and everything below it.
    pub fn remove_all(&mut self, path: &str) {
        self.entries.remove(path);
        self.clear(path);
    }

    /// Removes everything below a folder.
    pub fn clear(&mut self, folder: &str) {
        let below: Vec<TreePath> = self.below(folder).map(|(path, _)| path.clone()).collect();
        for path in below {
            self.entries.remove(&path);
        }
    }

    /// Entries in the order in which they are written.
    pub fn iter(&self) -> impl Iterator<Item = (&TreePath, &Entry<C>)> {
        self.entries.iter()
    }

    /// Everything below a folder, the folder itself excluded.
    pub fn below<'a>(&'a self, folder: &str) -> impl Iterator<Item = (&'a TreePath, &'a Entry<C>)> + use<'a, C> {
        let prefix = format!("{folder}/");
        let from = self.entries.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
        from.take_while(move |(path, _)| path.0.starts_with(&prefix))
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// No entry is later than this (`SOURCE_DATE_EPOCH`).
    pub fn clamp_times(&mut self, latest_seconds: i64) {
        for entry in self.entries.values_mut() {
            entry.modified_seconds = entry.modified_seconds.min(latest_seconds);
        }
    }

    /// Declares folders that have entries and were not declared with the attributes that `base` gives them, so that a layer
    /// on top of it changes none of them (`/tmp` stays 1777).
    /// # Errors: NotADirectory where the base has something else: a folder in the place of its link would hide what is there.
    pub fn add_parents_of<D>(&mut self, base: &Tree<D>) -> Result<(), TreeError> {
        for path in self.undeclared() {
            let Some(entry) = base.get(path.as_str()) else { continue };
            if !entry.is_directory() {
                let below = self.below(path.as_str()).next().map_or(path.clone(), |(below, _)| below.clone());
                return Err(TreeError::NotADirectory { path, below });
            }
            let Entry { mode, uid, gid, modified_seconds, ref xattrs, .. } = *entry;
            let entry = Entry { kind: Kind::Directory, mode, uid, gid, modified_seconds, xattrs: xattrs.clone() };
            self.entries.insert(path, entry);
        }
        Ok(())
    }

    /// Declares each folder that has entries and was not declared: root's, 0755, with this time.
    pub fn add_parents(&mut self, modified_seconds: i64) {
        for path in self.undeclared() {
            self.entries.insert(path, Entry::directory(0o755, modified_seconds));
        }
    }

    /// Outermost first.
    fn undeclared(&self) -> BTreeSet<TreePath> {
        let folders = self.entries.keys().flat_map(TreePath::ancestors);
        folders.filter(|path| !self.entries.contains_key(*path)).map(|path| TreePath(path.to_owned())).collect()
    }
}

impl<C> Entry<C> {
    /// A folder of root's.
    pub fn directory(mode: u32, modified_seconds: i64) -> Self {
        Self::new(Kind::Directory, mode, modified_seconds)
    }

    pub fn file(content: C, mode: u32, modified_seconds: i64) -> Self {
        Self::new(Kind::File(content), mode, modified_seconds)
    }

    pub fn symlink(target: impl Into<String>, modified_seconds: i64) -> Self {
        Self::new(Kind::Symlink(target.into()), 0o777, modified_seconds)
    }

    /// Root's, without extended attributes.
    pub fn new(kind: Kind<C>, mode: u32, modified_seconds: i64) -> Self {
        Self { kind, mode, uid: 0, gid: 0, modified_seconds, xattrs: BTreeMap::new() }
    }

    pub fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory | Kind::OpaqueWhiteout)
    }

    /// What is wrong with its attributes.
    pub(crate) fn impossible(&self) -> Option<String> {
        if self.mode & !PERMISSION_BITS != 0 {
            return Some(format!("mode {:o} has more than permission bits", self.mode));
        }
        if let Kind::Symlink(target) = &self.kind
            && (target.is_empty() || target.contains('\0') || target.len() > MAX_PATH_BYTES)
        {
            return Some("its target is empty, holds a NUL or is longer than 4096 bytes".into());
        }
        let name = |name: &str| !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.contains(['=', '\0']);
        self.xattrs.iter().find(|(it, value)| !name(it) || value.is_empty()).map(|(name, _)| {
            format!("extended attribute `{}` has no value or a name that no archive can hold", name.escape_debug())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    fn file() -> Entry {
        Entry::file(Content::Bytes(b"x".to_vec()), 0o644, 0)
    }

    fn paths(tree: &Tree) -> Vec<&str> {
        tree.iter().map(|(path, _)| path.as_str()).collect()
    }

    #[test]
    fn a_path_stays_below_the_root() {
        for good in ["a", "usr/lib/x", "a b/ü", "..a/b..", ".hidden", "a\\b", ".wh"] {
            assert_eq!(TreePath::new(good).map(|it| it.0), Ok(good.to_owned()));
        }
        let long = ["a".repeat(256), format!("{}b", "ab/".repeat(1400))];
        for bad in ["", "/a", "a/", "a//b", ".", "..", "./a", "a/../b", "a/.", "a\0b", ".wh.a", "a/.wh..wh..opq/b"] {
            assert!(matches!(TreePath::new(bad), Err(TreeError::Path { .. })), "{bad}");
        }
        assert!(long.into_iter().all(|bad| TreePath::new(bad).is_err()));
        let error = TreePath::new("/a\u{1b}[2J").unwrap_err();
        assert_eq!(error.to_string(), "`/a\\u{1b}[2J` is no path of a layer: it is absolute");
    }

    #[test]
    fn parts_of_a_path() {
        let path = path("usr/lib/x");
        assert_eq!(path.ancestors().collect::<Vec<_>>(), ["usr", "usr/lib"]);
        assert_eq!((path.parent().unwrap().as_str(), path.name()), ("usr/lib", "x"));
        assert_eq!(TreePath::new("usr").unwrap().parent(), None);
    }

    #[test]
    fn entries_come_in_the_order_of_bytes_and_folders_before_what_they_hold() {
        let mut tree = Tree::new();
        for name in ["usr/b", "usr-a", "usr", "usr/a/x", "Z"] {
            let entry = if name == "usr" { Entry::directory(0o700, 1) } else { file() };
            tree.insert(path(name), entry).unwrap();
        }
        tree.add_parents(7);
        assert_eq!(paths(&tree), ["Z", "usr", "usr-a", "usr/a", "usr/a/x", "usr/b"]);
        assert_eq!(tree.get("usr").unwrap(), &Entry::directory(0o700, 1), "a declared folder stays");
        assert_eq!(tree.get("usr/a").unwrap(), &Entry::directory(0o755, 7));
        assert_eq!(tree.below("usr").map(|(it, _)| it.as_str()).collect::<Vec<_>>(), ["usr/a", "usr/a/x", "usr/b"]);
        tree.clamp_times(3);
        assert_eq!(tree.get("usr/a").unwrap().modified_seconds, 3);
        assert_eq!(tree.get("usr").unwrap().modified_seconds, 1);
    }

    #[test]
    fn a_layer_on_a_base_leaves_its_folders_as_they_are() {
        let mut base = Tree::<()>::default();
        base.insert(path("tmp"), Entry { uid: 7, ..Entry::directory(0o1777, 3) }).unwrap();
        base.insert(path("usr"), Entry::new(Kind::OpaqueWhiteout, 0o700, 4)).unwrap();
        let mut tree = Tree::new();
        ["tmp/a/b", "usr/c", "new/d"].iter().for_each(|name| tree.insert(path(name), file()).unwrap());
        tree.insert(path("usr"), Entry::directory(0o711, 5)).unwrap();
        tree.add_parents_of(&base).unwrap();
        assert_eq!(paths(&tree), ["new/d", "tmp", "tmp/a/b", "usr", "usr/c"]);
        assert_eq!(tree.get("tmp").unwrap(), &Entry { uid: 7, ..Entry::directory(0o1777, 3) });
        assert_eq!(tree.get("usr").unwrap(), &Entry::directory(0o711, 5), "what is declared counts");
        tree.add_parents(9);
        assert_eq!(tree.get("tmp/a").unwrap(), &Entry::directory(0o755, 9));
    }

    #[test]
    fn nothing_stands_twice_or_below_what_is_no_folder() {
        let mut tree = Tree::new();
        tree.insert(path("a"), Entry::symlink("/etc", 0)).unwrap();
        tree.insert(path("d/e"), file()).unwrap();
        assert_eq!(tree.insert(path("a"), file()), Err(TreeError::Taken { path: path("a") }));
        let below = |it, below| Err(TreeError::NotADirectory { path: path(it), below: path(below) });
        assert_eq!(tree.insert(path("a/passwd"), file()), below("a", "a/passwd"));
        assert_eq!(tree.insert(path("d"), file()), below("d", "d/e"));
        tree.insert(path("d"), Entry::new(Kind::OpaqueWhiteout, 0o755, 0)).unwrap();
        assert_eq!(paths(&tree), ["a", "d", "d/e"], "a refused entry leaves no trace");
    }

    #[test]
    fn attributes_that_no_archive_holds_are_refused() {
        let with_xattr = |name: &str, value: &[u8]| Entry { xattrs: [(name.into(), value.into())].into(), ..file() };
        let cases = [
            Entry { mode: 0o100_644, ..file() },
            Entry::symlink("", 0),
            Entry::symlink("a\0", 0),
            with_xattr("user.a=b", b"1"),
            with_xattr("", b"1"),
            with_xattr("user.a", b""),
        ];
        for entry in cases {
            let refused = Tree::new().insert(path("a"), entry.clone());
            assert!(matches!(refused, Err(TreeError::Attribute { .. })), "{entry:?}");
        }
        Tree::new().insert(path("a"), with_xattr("security.capability", &[0, 61, 10])).unwrap();
    }
}
