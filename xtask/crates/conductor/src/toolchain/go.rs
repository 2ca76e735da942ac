//! Go: versions, the toolchain's artifacts, and which of a module's files enter a program.

use crate::digest::Digest;
use crate::error::{Code, Error, Result};
use crate::files;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// `1.27.3` → (1, 27, 3); a pre-release (`1.27rc1`) counts as older than its release.
pub fn version(text: &str) -> Option<(u32, u32, i32)> {
    let mut parts = text.strip_prefix("go").unwrap_or(text).splitn(3, '.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?;
    if let Some(at) = minor.find(|c: char| !c.is_ascii_digit()) {
        return Some((major, minor[..at].parse().ok()?, -1));
    }
    let patch = parts.next().map_or(Ok(0), str::parse).ok()?;
    Some((major, minor.parse().ok()?, patch))
}

/// The version in the answer of `go version`: `go version go1.27.3 linux/amd64`.
pub fn version_of_answer(answer: &str) -> Option<&str> {
    answer.split_whitespace().find_map(|word| word.strip_prefix("go").filter(|rest| version(rest).is_some()))
}

/// The Go toolchain as a module, as `golang.org/toolchain` publishes it.
pub fn module_version(version: &str, platform: &str) -> String {
    format!("v0.0.1-go{version}.{platform}")
}

pub const TOOLCHAIN_MODULE: &str = "golang.org/toolchain";

/// A module that `go mod download -json` could not bring.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FailedModule {
    pub path: String,
    pub version: String,
    pub error: String,
}

/// The failures among the objects that `go mod download -json` prints one after another.
pub fn failed_modules(answer: &str) -> Vec<FailedModule> {
    let objects = serde_json::Deserializer::from_str(answer).into_iter::<serde_json::Value>();
    objects.map_while(|object| object.ok()).filter_map(|object| serde_json::from_value(object).ok()).collect()
}

/// Whether Go complains about bytes rather than about reaching them: a hash that differs, or an archive that is damaged.
pub fn is_integrity_failure(message: &str) -> bool {
    ["SECURITY ERROR", "checksum mismatch", "zip: ", "not a valid zip", "flate: ", "unexpected EOF"]
        .iter()
        .any(|word| message.contains(word))
}

/// A module's hash in `go.sum`.
pub fn pinned_hash<'a>(sums: &'a str, path: &str, version: &str) -> Option<&'a str> {
    sums.lines().find_map(|line| line.strip_prefix(path)?.strip_prefix(' ')?.strip_prefix(version)?.strip_prefix(' '))
}

/// What of a module decides a program: `label/path` → digest.
pub struct Closure {
    pub sources: BTreeMap<String, Digest>,
    /// Digest of all C headers of the modules, where a package asks for some outside its folder (`#cgo CFLAGS: -I…`).
    pub headers: Option<Digest>,
    /// The folders that were listed: a file that comes and goes leaves its mark there.
    pub folders: BTreeSet<PathBuf>,
}

/// What the go command compiles or includes. Source: go/build, `Package`.
const SOURCES: &[&str] = &[
    "go", "c", "cc", "cpp", "cxx", "m", "h", "hh", "hpp", "hxx", "f", "F", "for", "f90", "s", "S", "sx", "swig",
    "swigcxx", "syso",
];
const HEADERS: &[&str] = &["h", "hh", "hpp", "hxx", "inc"];

/// Follows imports from the main package through the module and its local replacements, without Go and without the
/// modules that must be downloaded. Files are taken whatever their build constraints say: a few too many inputs are harmless,
/// one too few is not.
pub fn closure(module_folder: &Path, main: &str, digest: &dyn Fn(&Path) -> Result<Digest>) -> Result<Closure> {
    let mut modules = Vec::new();
    let root = Module::read(module_folder)?;
    for (path, folder) in &root.replacements {
        let mut module = Module::read(folder)?;
        module.path.clone_from(path);
        modules.push(module);
    }
    modules.push(root);
    let mut closure = Closure { sources: BTreeMap::new(), headers: None, folders: BTreeSet::new() };
    let mut seen = BTreeSet::new();
    let mut includes = false;
    let take = |sources: &mut BTreeMap<String, Digest>, module: &Module, file: &Path| -> Result<()> {
        let relative = file.strip_prefix(&module.folder).unwrap_or(file);
        sources.insert(format!("{}/{}", module.path, relative.display()), digest(file)?);
        Ok(())
    };
    let mut used_modules = BTreeSet::new();
    let mut open = vec![module_folder.join(main.trim_start_matches("./"))];
    while let Some(folder) = open.pop() {
        if !seen.insert(folder.clone()) {
            continue;
        }
        let Some(module) = modules
            .iter()
            .filter(|module| folder.starts_with(&module.folder))
            .max_by_key(|module| module.folder.as_os_str().len())
        else {
            continue;
        };
        used_modules.insert(module.path.clone());
        closure.folders.insert(folder.clone());
        for name in names(&folder)? {
            let file = folder.join(&name);
            let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or("");
            if name.ends_with("_test.go") || !SOURCES.contains(&extension) {
                continue;
            }
            take(&mut closure.sources, module, &file)?;
            if extension != "go" {
                continue;
            }
            let text = files::read_text(&file)?;
            includes |= text
                .lines()
                .any(|line| line.trim_start_matches(['/', ' ', '*']).starts_with("#cgo ") && line.contains("-I"));
            for import in imports(&text) {
                let owner = modules.iter().find(|module| {
                    import.strip_prefix(&module.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                });
                if let Some(owner) = owner {
                    open.push(owner.folder.join(import[owner.path.len()..].trim_start_matches('/')));
                }
            }
            for pattern in embeds(&text) {
                for path in embedded(&folder, pattern)? {
                    closure.folders.extend(path.parent().map(Path::to_owned));
                    take(&mut closure.sources, module, &path)?;
                }
            }
        }
    }
    let used: Vec<&Module> = modules.iter().filter(|module| used_modules.contains(&module.path)).collect();
    for module in &used {
        for name in ["go.mod", "go.sum"] {
            let file = module.folder.join(name);
            if file.is_file() {
                take(&mut closure.sources, module, &file)?;
            }
        }
    }
    if includes {
        let mut headers = BTreeMap::new();
        for module in &used {
            // Cargo's folder holds generated headers by the hundred, none of which is the module's.
            for file in files::walk(&module.folder, &|path| path.ends_with("target"))? {
                if file.extension().is_some_and(|it| HEADERS.iter().any(|header| it == *header)) {
                    take(&mut headers, module, &module.folder.join(file))?;
                }
            }
        }
        let text: String = headers.iter().map(|(path, digest)| format!("{path} {digest}\n")).collect();
        closure.headers = Some(Digest::of(text.as_bytes()));
        closure.sources.append(&mut headers);
    }
    Ok(closure)
}

struct Module {
    path: String,
    folder: PathBuf,
    /// Module path → folder, for `replace … => ../somewhere`.
    replacements: BTreeMap<String, PathBuf>,
}

impl Module {
    fn read(folder: &Path) -> Result<Self> {
        let file = folder.join("go.mod");
        let text = files::read_text(&file).map_err(|error| {
            Error::new(Code::BadPackage, format!("{} is no Go module", folder.display())).because(error)
        })?;
        let mut path = None;
        let mut replacements = BTreeMap::new();
        for line in text.lines() {
            let line = line.split("//").next().unwrap_or("").trim();
            if let Some(rest) = line.strip_prefix("module ") {
                path = Some(rest.trim().trim_matches('"').to_owned());
            } else if let Some((left, right)) = line.split_once("=>") {
                let name = left.trim().trim_start_matches("replace").split_whitespace().next().unwrap_or("");
                let target = right.split_whitespace().next().unwrap_or("");
                if target.starts_with("./") || target.starts_with("../") {
                    replacements.insert(name.to_owned(), normalize(&folder.join(target)));
                }
            }
        }
        let path = path.ok_or_else(|| Error::new(Code::BadPackage, format!("{} names no module", file.display())))?;
        Ok(Self { path, folder: normalize(folder), replacements })
    }
}

/// Takes `..` out of a path by its text: `a/b/../c` → `a/c`.
fn normalize(path: &Path) -> PathBuf {
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

fn names(folder: &Path) -> Result<Vec<String>> {
    let error = |error| Error::disk("list the Go package", folder, error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(error)? {
        let entry = entry.map_err(error)?;
        if entry.path().is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The import paths of a Go file. Reads only as far as imports can stand; a stray match in a comment adds an input at worst.
fn imports(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        let line = line.trim();
        if in_block {
            if line.starts_with(')') {
                in_block = false;
            } else {
                found.extend(quoted(line));
            }
        } else if line.starts_with("import (") {
            in_block = true;
        } else if let Some(rest) = line.strip_prefix("import ") {
            found.extend(quoted(rest));
        } else if line.starts_with("func ") || line.starts_with("type ") {
            break;
        }
    }
    found
}

fn quoted(line: &str) -> Option<&str> {
    let mut parts = line.split('"');
    parts.next()?;
    parts.next()
}

fn embeds(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.trim().strip_prefix("//go:embed ")).flat_map(str::split_whitespace)
}

/// Files that a `//go:embed` pattern may name: a file, or everything below the folders before its first wildcard.
fn embedded(folder: &Path, pattern: &str) -> Result<Vec<PathBuf>> {
    let pattern = pattern.trim_matches(['"', '`']).trim_start_matches("all:");
    let path = folder.join(pattern);
    if path.is_file() {
        return Ok(vec![path]);
    }
    let fixed: PathBuf =
        Path::new(pattern).iter().take_while(|part| !part.to_string_lossy().contains(['*', '?', '['])).collect();
    let parent = folder.join(fixed);
    if !parent.is_dir() {
        return Ok(Vec::new());
    }
    let found = files::walk_with_hidden(&parent)?;
    Ok(found.into_iter().map(|relative| parent.join(relative)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_go_compares_them() {
        let sorted = ["1.9", "1.26rc1", "1.26", "1.26.8", "1.26.9", "1.27rc1", "1.27.0", "1.27.3"];
        for pair in sorted.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
        assert_eq!(version("go1.26.8"), Some((1, 26, 8)));
        assert_eq!(version("devel"), None);
        assert_eq!(version_of_answer("go version go1.27.3 linux/amd64\n"), Some("1.27.3"));
    }

    #[test]
    fn failed_modules_are_named_with_their_pin() {
        let answer = r#"{"Path": "a.example/x", "Version": "v1.0.0", "Sum": "h1:a="}
            {"Path": "a.example/y", "Version": "v1.2.0", "Error": "zip: checksum error"}"#;
        let failed = failed_modules(answer);
        assert_eq!(failed.iter().map(|it| it.path.as_str()).collect::<Vec<_>>(), ["a.example/y"]);
        assert!(is_integrity_failure(&failed[0].error));
        assert!(!is_integrity_failure("dial tcp: connection refused"));
        let sums = "a.example/y v1.2.0/go.mod h1:m=\na.example/y v1.2.0 h1:z=\n";
        assert_eq!(pinned_hash(sums, "a.example/y", "v1.2.0"), Some("h1:z="));
    }

    #[test]
    fn headers_outside_a_package_count_where_cgo_asks_for_them_and_wildcards_reach_every_file() {
        let root = files::temporary_folder(&std::env::temp_dir(), "headers").unwrap();
        let put = |path: &str, text: &str| files::write(&root.join(path), text.as_bytes()).unwrap();
        put("go.mod", "module example.com/m\n");
        put(
            "cmd/main.go",
            "package main\n// #cgo CFLAGS: -I${SRCDIR}/../inc\n// #include \"x.h\"\nimport \"C\"\n//go:embed d/*/f.txt\nvar s string\n",
        );
        put("cmd/d/one/f.txt", "1");
        put("inc/x.h", "#define X 1\n");
        put("target/generated.h", "");
        let digest = |path: &Path| Ok(Digest::of(&std::fs::read(path).unwrap()));
        let before = closure(&root, "./cmd", &digest).unwrap();
        let names: Vec<_> = before.sources.keys().map(|name| name.trim_start_matches("example.com/m/")).collect();
        assert_eq!(names, ["cmd/d/one/f.txt", "cmd/main.go", "go.mod", "inc/x.h"]);
        put("inc/x.h", "#define X 2\n");
        assert_ne!(closure(&root, "./cmd", &digest).unwrap().headers, before.headers);
        files::remove(&root).unwrap();
    }

    #[test]
    fn the_closure_follows_imports_through_local_replacements_and_embeds() {
        let root = files::temporary_folder(&std::env::temp_dir(), "closure").unwrap();
        let put = |path: &str, text: &str| files::write(&root.join(path), text.as_bytes()).unwrap();
        put("router/go.mod", "module example.com/router\n\nreplace example.com/lib => ../lib\n");
        put("router/go.sum", "");
        put(
            "router/cmd/main.go",
            "package main\n\nimport (\n\t\"fmt\"\n\tx \"example.com/router/internal/a\"\n)\nfunc main() {}\n",
        );
        put("router/cmd/main_test.go", "package main\n");
        put("router/internal/a/a.go", "package a\nimport \"example.com/lib\"\n//go:embed data\nvar d string\n");
        put("router/internal/a/data/x.txt", "x");
        put("router/internal/a/data/deep/.hidden", "x");
        put("router/internal/unused/u.go", "package unused\n");
        put("lib/go.mod", "module example.com/lib\n");
        put("lib/lib.go", "package lib\n// #include \"lib.h\"\nimport \"C\"\n");
        put("lib/lib.h", "");
        put("lib/README.md", "");
        let digest = |path: &Path| Ok(Digest::of(path.display().to_string().as_bytes()));
        let closure = closure(&root.join("router"), "./cmd", &digest).unwrap();
        assert_eq!(
            closure.sources.keys().collect::<Vec<_>>(),
            [
                "example.com/lib/go.mod",
                "example.com/lib/lib.go",
                "example.com/lib/lib.h",
                "example.com/router/cmd/main.go",
                "example.com/router/go.mod",
                "example.com/router/go.sum",
                "example.com/router/internal/a/a.go",
                "example.com/router/internal/a/data/deep/.hidden",
                "example.com/router/internal/a/data/x.txt",
            ]
        );
        files::remove(&root).unwrap();
    }
}
