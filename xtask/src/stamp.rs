//! Whether a built binary is still what its sources would give: one small file of paths, sizes and times.
//!
//! Cargo says which files count (the dep-info beside the binary, path dependencies included); we add the manifests
//! above them, the lock file, cargo's configuration and cargo itself. Checking costs one `stat` a file and starts nothing. A stamp is
//! written only after a build that succeeded, and only if nothing changed while it ran: a stale one would hide an edit
//! for ever, a missing one costs one start of cargo.

use crate::tr;
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// # Errors
/// Why the binary cannot be used, in words that complete "building xtask (…)".
pub fn check(stamp: &Path, root: &Path) -> Result<PathBuf, String> {
    let text = fs::read_to_string(stamp).map_err(|_| tr!("first use"))?;
    let mut lines = text.lines();
    if lines.next() != Some(&identity()) {
        return Err(tr!("another launcher or toolchain"));
    }
    let mut binary = None;
    // A checkout that was copied with its target/ names the files of the one that it was copied from.
    let target = stamp.parent().unwrap_or(root);
    for line in lines {
        let (expected, path) = line.split_once('\t').ok_or_else(|| tr!("its stamp is damaged"))?;
        let path = Path::new(path);
        if state(path).as_deref() != Some(expected) {
            return Err(tr!("{path} changed", path = path.strip_prefix(root).unwrap_or(path).display()));
        }
        let binary = binary.get_or_insert_with(|| path.to_path_buf());
        if !binary.starts_with(target) {
            return Err(tr!("copied from another checkout"));
        }
    }
    binary.ok_or_else(|| tr!("its stamp is damaged"))
}

/// Records that `binary` is what the files that cargo lists give. `started` is when cargo was started: a file changed since may
/// have been read before or after the change, so nothing is recorded then.
pub fn record(stamp: &Path, binary: &Path, workspace: &Path, started: SystemTime) -> io::Result<()> {
    let dep_info = fs::read_to_string(binary.with_extension("d"))?;
    let mut inputs = inputs(&dep_info, workspace);
    let target = stamp.parent().unwrap_or(stamp);
    inputs.retain(|path| !path.starts_with(target));
    let changed = |path: &PathBuf| fs::metadata(path).and_then(|it| it.modified()).is_ok_and(|time| time >= started);
    if inputs.is_empty() || inputs.iter().any(changed) {
        return Ok(());
    }
    let cargo = env::var_os("CARGO").map(PathBuf::from).filter(|path| path.is_absolute());
    let mut text = identity();
    for path in std::iter::once(binary.to_path_buf()).chain(inputs).chain(cargo) {
        match (path.to_str(), state(&path)) {
            (Some(name), Some(state)) if !name.contains('\n') => text += &format!("\n{state}\t{name}"),
            _ => return Ok(()),
        }
    }
    write_atomically(stamp, &text)
}

pub fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension(format!("tmp-{}", std::process::id()));
    fs::write(&beside, text)?;
    fs::rename(&beside, path)
}

/// What the files cannot say: which launcher wrote the stamp, and which toolchain built the binary.
fn identity() -> String {
    let variable = |name| env::var(name).unwrap_or_default();
    format!(
        "xtask {} cargo={} toolchain={}",
        env!("CARGO_PKG_VERSION"),
        variable("CARGO"),
        variable("RUSTUP_TOOLCHAIN")
    )
}

/// `SIZE MTIME_NANOSECONDS`; `absent` for a file that is not there, so that its appearing counts as a change.
fn state(path: &Path) -> Option<String> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some("absent".into()),
        other => other.ok()?,
    };
    let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{} {}", metadata.len(), modified.as_nanos()))
}

/// The sources in cargo's dep-info (`binary: source source …`, spaces escaped) and the manifests that rule them.
fn inputs(dep_info: &str, workspace: &Path) -> BTreeSet<PathBuf> {
    let sources = dep_info.lines().filter_map(|line| line.split_once(": ")).flat_map(|(_, sources)| words(sources));
    let mut inputs: BTreeSet<PathBuf> = sources.map(PathBuf::from).collect();
    let folders: BTreeSet<PathBuf> = inputs
        .iter()
        .flat_map(|source| source.ancestors().skip(1).take_while(|folder| folder.starts_with(workspace)))
        .map(Path::to_path_buf)
        .collect();
    for folder in folders {
        // A manifest or build script that appears is a change, but not every folder will ever have one.
        inputs
            .extend(["Cargo.toml", "build.rs"].map(|name| folder.join(name)).into_iter().filter(|path| path.exists()));
    }
    inputs.extend([workspace.join("Cargo.lock"), workspace.join(".cargo/config.toml")]);
    inputs
}

fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, words.last_mut()) {
            (' ', _) => words.push(String::new()),
            ('\\', Some(word)) if chars.as_str().starts_with(' ') => word.extend(chars.next()),
            (c, Some(word)) => word.push(c),
            (_, None) => {}
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dep_info_with_spaces_in_its_paths_is_split_where_cargo_meant() {
        assert_eq!(words(r"/a/my\ src/main.rs /a/b\c.rs"), [r"/a/my src/main.rs", r"/a/b\c.rs"]);
    }

    #[test]
    fn a_touched_a_missing_and_an_appearing_file_are_each_a_change() {
        let root = env::temp_dir().join(format!("xtask-stamp-{}", std::process::id()));
        let (source, binary, stamp) = (root.join("w/p/src/main.rs"), root.join("t/tool"), root.join("t/tool.stamp"));
        for folder in ["w/p/src", "w/.cargo", "t"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in [&source, &root.join("w/p/Cargo.toml"), &root.join("w/Cargo.lock"), &binary] {
            fs::write(file, "1").unwrap();
        }
        fs::write(binary.with_extension("d"), format!("{}: {}\n", binary.display(), source.display())).unwrap();
        let later = || SystemTime::now() + std::time::Duration::from_secs(1);
        let record = || record(&stamp, &binary, &root.join("w"), later()).unwrap();

        assert_eq!(check(&stamp, &root), Err("first use".into()));
        record();
        assert_eq!(check(&stamp, &root), Ok(binary.clone()));
        for (file, reason) in [
            (&source, "w/p/src/main.rs changed"),
            (&root.join("w/p/Cargo.toml"), "w/p/Cargo.toml changed"),
            (&root.join("w/.cargo/config.toml"), "w/.cargo/config.toml changed"),
            (&binary, "t/tool changed"),
        ] {
            fs::write(file, "22").unwrap();
            assert_eq!(check(&stamp, &root), Err(reason.into()));
            record();
        }
        fs::remove_file(&source).unwrap();
        assert_eq!(check(&stamp, &root), Err("w/p/src/main.rs changed".into()));

        record();
        let copied = root.join("copy/t/tool.stamp");
        fs::create_dir_all(root.join("copy/t")).unwrap();
        fs::copy(&stamp, &copied).unwrap();
        assert_eq!(check(&copied, &root.join("copy")), Err("copied from another checkout".into()));

        fs::write(&source, "changed during the build").unwrap();
        fs::remove_file(&stamp).unwrap();
        super::record(&stamp, &binary, &root.join("w"), UNIX_EPOCH).unwrap();
        assert_eq!(check(&stamp, &root), Err("first use".into()));
        fs::remove_dir_all(&root).unwrap();
    }
}
