//! Real packages: our closures beside those of apt, our trees beside those of dpkg, and programs that run in them.
//!
//! Owns: the comparison with the real tools. Without apt, its lists or its archive a test says so and ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use debian::{Index, Package, Pattern, Policy, Source, User, base_tree, resolve};
use oci::{Content, Kind, Tree};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, UNIX_EPOCH};

fn ask(program: &str, arguments: &[&str]) -> Option<Vec<u8>> {
    let output = Command::new(program).args(arguments).env("LC_ALL", "C").output().ok()?;
    output.status.success().then_some(output.stdout)
}

fn text(program: &str, arguments: &[&str]) -> Option<String> {
    String::from_utf8(ask(program, arguments)?).ok()
}

/// The packages of every list here, with the architecture of the machine.
fn index() -> Option<&'static Index> {
    static INDEX: OnceLock<Option<Index>> = OnceLock::new();
    INDEX.get_or_init(read_index).as_ref()
}

fn read_index() -> Option<Index> {
    let architecture = text("dpkg", &["--print-architecture"])?;
    let format = ["indextargets", "--format", "$(FILENAME)", "Created-By: Packages"];
    let mut index = Index::new(architecture.trim());
    let lists = text("apt-get", &format)?;
    for list in lists.lines() {
        let bytes = ask("/usr/lib/apt/apt-helper", &["cat-file", list])?;
        index.read(list, "base", bytes.as_slice()).unwrap();
    }
    (!lists.is_empty()).then_some(index)
}

/// What apt would install on a machine that has nothing.
fn apt(names: &[&str]) -> BTreeSet<String> {
    let nothing = ["-s", "-o", "Dir::State::status=/dev/null", "-o", "APT::Install-Recommends=false", "install"];
    let said = text("apt-get", &[&nothing[..], names].concat()).unwrap();
    // `Inst libc6 (2.36-9+deb12u10 Debian:12.11/stable [amd64])`
    let installed = said.lines().filter_map(|line| line.strip_prefix("Inst "));
    installed.map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ").replace('(', "")).collect()
}

#[test]
fn closures_are_those_of_apt() {
    let Some(index) = index() else {
        eprintln!("skipped: apt or its lists are not on this machine");
        return;
    };
    for names in [
        &["libc6"][..],
        &["ca-certificates", "tzdata"],
        &["python3.11", "libstdc++6"],
        &["git", "curl"],
        &["base-files", "mawk"],
    ] {
        if names.iter().any(|name| index.get(name).is_none()) {
            eprintln!("skipped: these lists have not all of {names:?}");
            continue;
        }
        let ours = resolve(index, &owned(names), &[]).unwrap_or_else(|error| panic!("{names:?}: {error}"));
        let ours: BTreeSet<_> = ours.iter().map(|it| format!("{} {}", it.name, it.version)).collect();
        assert!(ours.len() > names.len() || names == ["libc6"], "{ours:?}");
        assert_eq!(ours, apt(names), "{names:?}");
    }
}

/// A folder that is gone with its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("debian-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("scratch")).unwrap();
        fs::create_dir_all(path.join("root")).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Downloads packages by apt, which verifies them; `None` where no archive answers.
fn download(packages: &[&Package], folder: &Path) -> Option<Vec<Source>> {
    let wanted = packages.iter().map(|it| format!("{}={}", it.name, it.version));
    let output = Command::new("apt-get").args(["-q", "download"]).args(wanted).current_dir(folder).output().ok()?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    let source = |it: &&Package| Source {
        name: it.name.clone(),
        version: it.version.to_string(),
        architecture: it.architecture.clone(),
        file: folder.join(format!("{}_{}_{}.deb", it.name, it.version.as_str().replace(':', "%3a"), it.architecture)),
    };
    Some(packages.iter().map(source).collect())
}

/// Puts a tree onto the disk, as a container engine does.
fn write(tree: &Tree, root: &Path) {
    for (path, entry) in tree.iter() {
        let place = root.join(path.as_str());
        match &entry.kind {
            Kind::Directory => fs::create_dir(&place).unwrap(),
            Kind::Symlink(target) => symlink(target, &place).unwrap(),
            Kind::Hardlink(target) => fs::hard_link(root.join(target.as_str()), &place).unwrap(),
            Kind::File(Content::Bytes(bytes)) => fs::write(&place, bytes).unwrap(),
            Kind::File(Content::File { path, size_bytes }) => {
                assert_eq!(fs::copy(path, &place).unwrap(), *size_bytes);
            }
            other => panic!("{path}: {other:?}"),
        }
        if matches!(entry.kind, Kind::Directory | Kind::File(_)) {
            fs::set_permissions(&place, fs::Permissions::from_mode(entry.mode)).unwrap();
            let modified = UNIX_EPOCH + Duration::from_secs(entry.modified_seconds.try_into().unwrap());
            fs::File::open(&place).unwrap().set_modified(modified).unwrap();
        }
    }
}

/// Path, type, mode without setuid, size or target, of everything below.
fn listing(root: &Path, folder: &Path, lines: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        let shown = path.strip_prefix(root).unwrap().display();
        let mode = metadata.mode() & 0o1777;
        if metadata.is_dir() {
            lines.insert(format!("{shown} d {mode:o}"));
            listing(root, &path, lines);
        } else if metadata.is_symlink() {
            lines.insert(format!("{shown} -> {}", fs::read_link(&path).unwrap().display()));
        } else {
            let bytes = fs::read(&path).unwrap();
            let sum = bytes.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
            lines.insert(format!("{shown} f {mode:o} {} {} {sum:x}", bytes.len(), metadata.mtime()));
        }
    }
}

#[test]
fn unpacked_packages_are_those_of_dpkg() {
    let Some(index) = index() else {
        eprintln!("skipped: apt or its lists are not on this machine");
        return;
    };
    let folder = Folder::new("dpkg");
    let wanted = ["base-files", "libc6", "ca-certificates", "tzdata", "perl-base", "login", "zlib1g"];
    let packages: Vec<_> = wanted.iter().filter_map(|name| index.get(name)).collect();
    let Some(sources) = download(&packages, &folder.0) else {
        eprintln!("skipped: apt reaches no archive");
        return;
    };
    let policy = Policy { suite: "x".into(), exclude: vec![], keep: vec![], users: vec![], modified_seconds: 0 };
    let tree = base_tree(&sources, &policy, &folder.0.join("scratch")).unwrap();
    assert_eq!(tree.iter().find(|(_, entry)| entry.mode & 0o6000 != 0), None, "setuid or setgid");
    write(&tree, &folder.0.join("root"));
    // dpkg follows the links of a merged /usr when they are there first.
    let theirs = folder.0.join("theirs");
    for name in ["bin", "lib", "sbin", "lib64"] {
        fs::create_dir_all(theirs.join("usr").join(name)).unwrap();
        symlink(format!("usr/{name}"), theirs.join(name)).unwrap();
    }
    for source in &sources {
        let tar = format!("dpkg-deb --fsys-tarfile {} | tar -xp --keep-directory-symlink", source.file.display());
        let status = Command::new("sh").args(["-c", &tar]).current_dir(&theirs).status().unwrap();
        assert!(status.success(), "{}", source.name);
    }
    let (mut ours, mut expected) = (BTreeSet::new(), BTreeSet::new());
    listing(&folder.0.join("root"), &folder.0.join("root"), &mut ours);
    listing(&theirs, &theirs, &mut expected);
    assert!(expected.len() > 1000);
    let missing: Vec<_> = expected.difference(&ours).take(20).collect();
    assert_eq!(missing, [""; 0], "in dpkg's and not in ours");
    let more: Vec<_> = ours.difference(&expected).map(|line| line.split(' ').next().unwrap()).collect();
    let made = |path: &&str| {
        let policy =
            ["etc/passwd", "etc/group", "etc/nsswitch.conf", "etc/ssl/certs/ca-certificates.crt", "usr/lib/ssl"];
        path.starts_with("var/lib/dpkg/status.d") || policy.iter().any(|it| path.starts_with(it))
    };
    assert_eq!(more.into_iter().filter(|path| !made(path)).collect::<Vec<_>>(), [""; 0], "in ours alone");
}

#[test]
fn python_runs_in_a_base_without_a_shell() {
    let packages = ["base-files", "ca-certificates", "libpython3.11-stdlib", "python3.11-minimal", "tzdata"];
    let Some(index) = index().filter(|index| packages.iter().all(|name| index.get(name).is_some())) else {
        eprintln!("skipped: apt or its lists are not on this machine, or they have another Python");
        return;
    };
    let closure =
        resolve(index, &owned(&packages), &owned(&["awk", "debconf", "libnsl2", "libreadline8", "openssl"])).unwrap();
    let folder = Folder::new("python");
    let Some(sources) = download(&closure, &folder.0) else {
        eprintln!("skipped: apt reaches no archive");
        return;
    };
    let pattern = |text: &&str| Pattern::new(text).unwrap();
    let policy = Policy {
        suite: "bookworm".into(),
        exclude: ["usr/share/doc", "usr/share/man", "usr/share/zoneinfo/right"].iter().map(pattern).collect(),
        keep: ["usr/share/doc/*/copyright"].iter().map(pattern).collect(),
        users: vec![User { name: "nonroot".into(), id: 65532, home: "/home/nonroot".into() }],
        modified_seconds: 1,
    };
    let tree = base_tree(&sources, &policy, &folder.0.join("scratch")).unwrap();
    for path in ["usr/bin/sh", "usr/bin/dpkg", "usr/bin/openssl", "usr/share/doc/libc6/changelog.Debian.gz"] {
        assert_eq!(tree.get(path), None, "{path}");
    }
    for source in &sources {
        let fragment = format!("var/lib/dpkg/status.d/{}", source.name);
        assert!(tree.get(&fragment).is_some(), "{fragment}");
    }
    // Base and updates are read from the same bytes whatever the order in which they are named.
    let (again, mut reversed) = (folder.0.join("again"), sources.clone());
    fs::create_dir(&again).unwrap();
    reversed.reverse();
    let shape = |tree: &Tree| {
        let line = |(path, entry): (&oci::TreePath, &oci::Entry)| match &entry.kind {
            Kind::File(content) => {
                format!("{path} {:o} {} {}", entry.mode, entry.modified_seconds, content.size_bytes())
            }
            kind => format!("{path} {:o} {} {kind:?}", entry.mode, entry.modified_seconds),
        };
        tree.iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(shape(&base_tree(&reversed, &policy, &again).unwrap()), shape(&tree));
    let root = folder.0.join("root");
    write(&tree, &root);
    let program = "import asyncio, ctypes, json, lzma, pwd, sqlite3, ssl, zoneinfo; \
        print(ssl.create_default_context().cert_store_stats()['x509_ca'] > 50, pwd.getpwuid(65532).pw_dir, \
        zoneinfo.ZoneInfo('Asia/Shanghai'), open('/etc/os-release').read().split('VERSION_CODENAME=')[1].split()[0])";
    let mut chroot = Command::new("/usr/sbin/chroot");
    let output = chroot.arg(&root).args(["/usr/bin/python3.11", "-c", program]).env_clear().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("cannot change root directory") {
        eprintln!("skipped: only root can change the root");
        return;
    }
    assert_eq!(String::from_utf8_lossy(&output.stdout), "True /home/nonroot Asia/Shanghai bookworm\n", "{said}");
}
