//! Where two root file systems differ, path by path.
//!
//! Owns: what counts as a difference, and its name. Never: read a content: digests say whether it is the same.

use crate::read::FileDigest;
use crate::tree::{Entry, Kind, Tree, TreePath};
use std::collections::BTreeSet;
use std::fmt;

/// What differs at one path, first to second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    OnlyInFirst,
    OnlyInSecond,
    Type(&'static str, &'static str),
    Mode(u32, u32),
    /// Uid and gid.
    Owner((u32, u32), (u32, u32)),
    ModifiedSeconds(i64, i64),
    Content(FileDigest, FileDigest),
    Link(String, String),
    /// Names of the extended attributes that differ.
    Xattrs(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub path: TreePath,
    pub change: Change,
}

impl fmt::Display for Difference {
    /// `usr/bin/tool: mode 755 → 644`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path)?;
        match &self.change {
            Change::OnlyInFirst => write!(f, "only in the first"),
            Change::OnlyInSecond => write!(f, "only in the second"),
            Change::Type(a, b) => write!(f, "{a} → {b}"),
            Change::Mode(a, b) => write!(f, "mode {a:o} → {b:o}"),
            Change::Owner(a, b) => write!(f, "owner {}:{} → {}:{}", a.0, a.1, b.0, b.1),
            Change::ModifiedSeconds(a, b) => write!(f, "modified {a} → {b}"),
            Change::Content(a, b) => {
                write!(f, "content {} ({} bytes) → {} ({} bytes)", a.digest, a.size_bytes, b.digest, b.size_bytes)
            }
            Change::Link(a, b) => write!(f, "target {} → {}", a.escape_debug(), b.escape_debug()),
            Change::Xattrs(names) => write!(f, "extended attributes {}", names.join(", ").escape_debug()),
        }
    }
}

/// Every difference, in the order of paths; the first one is the first. An empty list means the same file system.
pub fn diff(first: &Tree<FileDigest>, second: &Tree<FileDigest>) -> Vec<Difference> {
    let paths: BTreeSet<&TreePath> = first.iter().chain(second.iter()).map(|(path, _)| path).collect();
    let mut differences = Vec::new();
    for path in paths {
        let changes = match (first.get(path.as_str()), second.get(path.as_str())) {
            (Some(a), Some(b)) => changes(a, b),
            (Some(_), None) => vec![Change::OnlyInFirst],
            _ => vec![Change::OnlyInSecond],
        };
        differences.extend(changes.into_iter().map(|change| Difference { path: path.clone(), change }));
    }
    differences
}

fn changes(a: &Entry<FileDigest>, b: &Entry<FileDigest>) -> Vec<Change> {
    let mut changes = Vec::new();
    let is_link = matches!(a.kind, Kind::Symlink(_));
    match (&a.kind, &b.kind) {
        (Kind::File(a), Kind::File(b)) if a != b => changes.push(Change::Content(*a, *b)),
        (Kind::Symlink(a), Kind::Symlink(b)) if a != b => changes.push(Change::Link(a.clone(), b.clone())),
        (Kind::Hardlink(a), Kind::Hardlink(b)) if a != b => {
            changes.push(Change::Link(a.as_str().to_owned(), b.as_str().to_owned()));
        }
        // A type of its own makes every other comparison idle.
        (a, b) if kind(a) != kind(b) => return vec![Change::Type(kind(a), kind(b))],
        _ => {}
    }
    // Nobody can set the mode of a link.
    if a.mode != b.mode && !is_link {
        changes.push(Change::Mode(a.mode, b.mode));
    }
    if (a.uid, a.gid) != (b.uid, b.gid) {
        changes.push(Change::Owner((a.uid, a.gid), (b.uid, b.gid)));
    }
    if a.modified_seconds != b.modified_seconds {
        changes.push(Change::ModifiedSeconds(a.modified_seconds, b.modified_seconds));
    }
    let names: BTreeSet<&String> = a.xattrs.keys().chain(b.xattrs.keys()).collect();
    let names: Vec<String> = names.into_iter().filter(|it| a.xattrs.get(*it) != b.xattrs.get(*it)).cloned().collect();
    if !names.is_empty() {
        changes.push(Change::Xattrs(names));
    }
    changes
}

fn kind<C>(kind: &Kind<C>) -> &'static str {
    match kind {
        Kind::Directory => "folder",
        Kind::File(_) => "file",
        Kind::Symlink(_) => "symbolic link",
        Kind::Hardlink(_) => "hard link",
        Kind::Whiteout => "removal",
        Kind::OpaqueWhiteout => "folder that hides",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn tree(rows: &[(&str, Entry<FileDigest>)]) -> Tree<FileDigest> {
        let mut tree = Tree::default();
        rows.iter().for_each(|(path, entry)| tree.insert(TreePath::new(*path).unwrap(), entry.clone()).unwrap());
        tree
    }

    #[test]
    fn each_difference_has_a_name_and_the_first_comes_first() {
        let file = |text: &str| {
            let content = FileDigest { digest: Digest::of(text.as_bytes()), size_bytes: text.len() as u64 };
            Entry::file(content, 0o644, 1)
        };
        let xattrs = [("user.a".to_owned(), vec![1])].into();
        let first = tree(&[
            ("a", file("1")),
            ("b", file("1")),
            ("c", Entry::symlink("x", 0)),
            ("d", Entry::directory(0o755, 5)),
            ("e", file("1")),
            ("same", file("1")),
        ]);
        let second = tree(&[
            ("b", Entry { mode: 0o600, uid: 1, modified_seconds: 2, xattrs, ..file("22") }),
            ("c", Entry { mode: 0, ..Entry::symlink("y\n", 0) }),
            ("d", file("1")),
            ("e", file("1")),
            ("f", file("1")),
            ("same", file("1")),
        ]);
        let shown: Vec<String> = diff(&first, &second).iter().map(ToString::to_string).collect();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"22"));
        let expected = [
            "a: only in the first".to_owned(),
            format!("b: content {one} (1 bytes) → {two} (2 bytes)"),
            "b: mode 644 → 600".into(),
            "b: owner 0:0 → 1:0".into(),
            "b: modified 1 → 2".into(),
            "b: extended attributes user.a".into(),
            "c: target x → y\\n".into(),
            "d: folder → file".into(),
            "f: only in the second".into(),
        ];
        assert_eq!(shown, expected);
        assert_eq!(diff(&first, &first), []);
    }
}
