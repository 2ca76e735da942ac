//! A base: packages unpacked, and what their scripts would have made of them.
//!
//! Owns: the files that no package has and every base needs. Never: overwrite what a package has.
//!
//! | path | from |
//! | --- | --- |
//! | `bin`, `lib`, `sbin` (`lib64` …) | links into `usr/` |
//! | `etc/ssl/certs/ca-certificates.crt` | `usr/share/ca-certificates/mozilla/*.crt`, sorted, as update-ca-certificates joins them |
//! | `usr/lib/ssl/cert.pem` | a link to it: where OpenSSL looks without the package `openssl` |
//! | `etc/passwd`, `etc/group` | root, nobody, and the users of the declaration |
//! | `usr/lib/os-release`, `etc/os-release` | `base-files`, else the suite |
//! | `etc/nsswitch.conf` | files, then DNS |
//! | `var/lib/dpkg/status.d/NAME` | the control file of each package, as in distroless images |
//! | `dev`, `proc`, `run`, `sys`, `root`, `tmp`, `var/tmp`, homes | empty |
//!
//! There is no `etc/ld.so.cache`: Debian's libraries lie where its loader looks without one.

use crate::error::{Error, Result};
use crate::pattern::Pattern;
use crate::unpack::{MERGED, Source, Unpacker};
use oci::{Content, Entry, Kind, Tree, TreePath};
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;

/// A whole bundle of Mozilla's has 220 KB.
const MAX_CERTIFICATE_BYTES: u64 = 64 << 10;
const CERTIFICATES: &str = "usr/share/ca-certificates/mozilla";
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
const NOBODY: u32 = 65534;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `bookworm`: for os-release where no package has one.
    pub suite: String,
    /// What is left out, in the merged tree.
    pub exclude: Vec<Pattern>,
    /// What of it is not.
    pub keep: Vec<Pattern>,
    pub users: Vec<User>,
    /// Of everything that no package has. Seconds since 1970.
    pub modified_seconds: i64,
}

/// Someone beside root and nobody, with a group of the same name and number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub id: u32,
    /// Absolute; made, and theirs alone.
    pub home: String,
}

/// The root file system of the packages, which must be all that a closure has. Contents go into new files in `scratch`, an empty
/// folder that outlives the tree.
///
/// # Errors: Malformed, Other, Refused, Collision, Io.
pub fn base_tree(packages: &[Source], policy: &Policy, scratch: &Path) -> Result<Tree> {
    let mut unpacker = Unpacker::new(&policy.exclude, &policy.keep, scratch);
    let mut packages: Vec<_> = packages.iter().collect();
    packages.sort_by(|left, right| left.name.cmp(&right.name));
    let mut controls = Vec::new();
    for source in packages {
        controls.push((source.name.as_str(), unpacker.unpack(source)?));
    }
    let mut base = Base { tree: unpacker.finish(), modified_seconds: policy.modified_seconds };
    for (name, control) in controls {
        base.file(&format!("var/lib/dpkg/status.d/{name}"), status(&control))?;
    }
    base.links()?;
    base.certificates()?;
    base.release(&policy.suite)?;
    base.file("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n".to_owned())?;
    base.users(&policy.users)?;
    for (path, mode) in [
        ("dev", 0o755),
        ("proc", 0o755),
        ("run", 0o755),
        ("sys", 0o755),
        ("root", 0o700),
        ("tmp", 0o1777),
        ("var/tmp", 0o1777),
    ] {
        base.add(path, Entry::directory(mode, base.modified_seconds))?;
    }
    base.tree.add_parents(policy.modified_seconds);
    Ok(base.tree)
}

struct Base {
    tree: Tree,
    modified_seconds: i64,
}

impl Base {
    /// Unless a package has it.
    fn add(&mut self, path: &str, entry: Entry) -> Result<()> {
        if self.tree.get(path).is_some() {
            return Ok(());
        }
        let refused = |error: oci::TreeError| Error::Refused {
            package: "the base".to_owned(),
            path: path.to_owned(),
            why: format!("cannot be added: {error}"),
        };
        let place = TreePath::new(path).map_err(refused)?;
        self.tree.insert(place, entry).map_err(refused)
    }

    fn file(&mut self, path: &str, text: String) -> Result<()> {
        self.add(path, Entry::file(Content::Bytes(text.into_bytes()), 0o644, self.modified_seconds))
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.add(path, Entry::symlink(target, self.modified_seconds))
    }

    fn links(&mut self) -> Result<()> {
        for (position, name) in MERGED.iter().enumerate() {
            let target = format!("usr/{name}");
            if position < 3 {
                self.add(&target, Entry::directory(0o755, self.modified_seconds))?;
            }
            if self.tree.get(&target).is_some() || self.tree.below(&target).next().is_some() {
                self.link(name, &target)?;
            }
        }
        Ok(())
    }

    fn certificates(&mut self) -> Result<()> {
        let mut bundle = String::new();
        for (path, entry) in self.tree.below(CERTIFICATES) {
            let Kind::File(content) = &entry.kind else { continue };
            if path.as_str().ends_with(".crt") {
                bundle.push_str(&certificate(path, content)?);
            }
        }
        if bundle.is_empty() {
            return Ok(());
        }
        self.file(BUNDLE, bundle)?;
        self.link("usr/lib/ssl/cert.pem", &format!("/{BUNDLE}"))
    }

    fn release(&mut self, suite: &str) -> Result<()> {
        let numbers = [("bullseye", 11), ("bookworm", 12), ("trixie", 13), ("forky", 14), ("duke", 15)];
        let number = numbers.iter().find(|(name, _)| *name == suite).map(|(_, number)| number);
        let version = number.map_or_else(String::new, |it| format!("VERSION_ID=\"{it}\"\n"));
        let text = format!("NAME=\"Debian GNU/Linux\"\n{version}VERSION_CODENAME={suite}\nID=debian\n");
        self.file("usr/lib/os-release", text)?;
        self.link("etc/os-release", "../usr/lib/os-release")
    }

    fn users(&mut self, users: &[User]) -> Result<()> {
        let (mut passwd, mut group) = ("root:x:0:0:root:/root:/sbin/nologin\n".to_owned(), "root:x:0:\n".to_owned());
        let mut users: Vec<_> = users.iter().collect();
        users.sort_by_key(|user| user.id);
        for User { name, id, home } in &users {
            let named = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
            let sound =
                name.len() <= 32 && name.bytes().all(named) && name.starts_with(|c: char| c.is_ascii_lowercase());
            let place = home.strip_prefix('/').filter(|home| !home.contains(|c: char| c == ':' || c.is_control()));
            let (true, Some(place)) = (sound, place) else {
                let why = format!(
                    "name `{}` or home `{}` cannot stand in /etc/passwd",
                    name.escape_debug(),
                    home.escape_debug()
                );
                return Err(Error::malformed(format!("user {id}"), why));
            };
            let same = users.iter().filter(|it| it.id == *id || it.name == *name).count() > 1;
            if same || [0, NOBODY].contains(id) || ["root", "nobody", "nogroup"].contains(&name.as_str()) {
                return Err(Error::malformed(format!("user {name}"), "its name or number is another's"));
            }
            // Writing to a String cannot fail.
            let _ = writeln!(passwd, "{name}:x:{id}:{id}::{home}:/sbin/nologin");
            let _ = writeln!(group, "{name}:x:{id}:");
            let mut folder = Entry::directory(0o700, self.modified_seconds);
            (folder.uid, folder.gid) = (*id, *id);
            self.add(place, folder)?;
        }
        let _ = writeln!(passwd, "nobody:x:{NOBODY}:{NOBODY}:nobody:/nonexistent:/sbin/nologin");
        let _ = writeln!(group, "nogroup:x:{NOBODY}:");
        self.file("etc/passwd", passwd)?;
        self.file("etc/group", group)
    }
}

/// A control file as dpkg's database has it.
fn status(control: &str) -> String {
    format!("{}\nStatus: install ok installed\n", control.trim_end())
}

/// One certificate, ended by a line feed.
fn certificate(path: &TreePath, content: &Content) -> Result<String> {
    let (Content::File { path: place, size_bytes }, subject) = (content, path.to_string()) else {
        return Ok(String::new());
    };
    if *size_bytes > MAX_CERTIFICATE_BYTES {
        return Err(Error::malformed(subject, format!("a certificate of {size_bytes} bytes")));
    }
    let failed = |cause| Error::Io { action: "read", path: place.clone(), cause };
    let file = std::fs::File::open(place).map_err(failed)?;
    let mut text = String::new();
    file.take(MAX_CERTIFICATE_BYTES).read_to_string(&mut text).map_err(failed)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
