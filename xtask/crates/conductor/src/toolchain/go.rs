//! Go: versions, the toolchain's artifacts, and which of a module's files enter a program.

use crate::digest::Digest;
use crate::error::{Code, Error, Result};
use crate::files;
use crate::tr;
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

/// The lines of a go.sum: `module version` and `module version/go.mod` → `h1:…`.
pub fn sums(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| line.rsplit_once(' ').map(|(module, hash)| (module.to_owned(), hash.to_owned()));
    text.lines().filter_map(|it| line(it.trim_end())).filter(|(_, hash)| hash.starts_with("h1:")).collect()
}

/// A module's hash in `go.sum`.
pub fn pinned_hash<'a>(sums: &'a str, path: &str, version: &str) -> Option<&'a str> {
    sums.lines().find_map(|line| line.strip_prefix(path)?.strip_prefix(' ')?.strip_prefix(version)?.strip_prefix(' '))
}

/// What of a module decides a program: `label/path` → digest.
pub struct Closure {
    /// Path → folder of the main module and of those that it replaces by folders.
    pub modules: BTreeMap<String, PathBuf>,
    pub sources: BTreeMap<String, Digest>,
    /// Digest of the C files that cgo may read and that Go's own cache does not look at: all of [`C_FILES`] in the modules that are
    /// no sources of a package.
    pub headers: Option<Digest>,
    /// The folders that were listed: a file that comes and goes leaves its mark there.
    pub folders: BTreeSet<PathBuf>,
}

/// What the go command compiles or includes. Source: go/build, `Package`.
const SOURCES: &[&str] = &[
    "go", "c", "cc", "cpp", "cxx", "m", "h", "hh", "hpp", "hxx", "f", "F", "for", "f90", "s", "S", "sx", "swig",
    "swigcxx", "syso",
];
/// What a C compiler or a linker reads where a package imports "C", from wherever `#include` and `#cgo` reach.
const C_FILES: &[&str] = &[
    "h", "hh", "hpp", "hxx", "inc", "inl", "def", "tcc", "c", "cc", "cpp", "cxx", "s", "S", "m", "a", "o", "so", "syso",
];
/// Installed software: what is there counts as the C library does, by the compiler's version.
const SYSTEM: &[&str] = &["/usr", "/opt", "/lib", "/lib64"];

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
    let mut closure = Closure {
        modules: modules.iter().map(|module| (module.path.clone(), module.folder.clone())).collect(),
        sources: BTreeMap::new(),
        headers: None,
        folders: BTreeSet::new(),
    };
    let mut seen = BTreeSet::new();
    let mut asked = Vec::new();
    let mut imports_c = false;
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
            let header = Header::of(&text);
            if header.imports.iter().any(|import| import == "C") {
                imports_c = true;
                asked.extend(header.asked(&folder).into_iter().map(|path| (file.clone(), path)));
            }
            for import in &header.imports {
                let owner = modules.iter().find(|module| {
                    import.strip_prefix(&module.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                });
                if let Some(owner) = owner {
                    open.push(owner.folder.join(import[owner.path.len()..].trim_start_matches('/')));
                }
            }
            for pattern in embeds(&text) {
                for path in embedded(&folder, &pattern)? {
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
    if imports_c {
        let mut files = BTreeMap::new();
        for module in &used {
            // Cargo's folder holds generated headers by the hundred, none of which is the module's.
            for file in files::walk(&module.folder, &is_target)? {
                if is_c_file(&file) {
                    let file = module.folder.join(file);
                    closure.folders.extend(file.parent().map(Path::to_owned));
                    take(&mut files, module, &file)?;
                }
            }
        }
        for (asking, path) in asked {
            match used.iter().find(|module| module.holds(&path)) {
                Some(module) if path.is_file() => take(&mut files, module, &path)?,
                Some(_) => {}
                None => return Err(out_of_reach(&asking, &path)),
            }
        }
        files.retain(|name, _| !closure.sources.contains_key(name));
        let text: String = files.iter().map(|(path, digest)| format!("{path} {digest}\n")).collect();
        closure.headers = (!files.is_empty()).then(|| Digest::of(text.as_bytes()));
        closure.sources.append(&mut files);
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
            Error::new(Code::BadPackage, tr!("{folder} is no Go module", folder = folder.display())).because(error)
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
                    replacements.insert(name.to_owned(), files::normalize(&folder.join(target)));
                }
            }
        }
        let path =
            path.ok_or_else(|| Error::new(Code::BadPackage, tr!("{file} names no module", file = file.display())))?;
        Ok(Self { path, folder: files::normalize(folder), replacements })
    }
}

impl Module {
    /// Whether a walk of the module comes by this path: it is inside, links followed, and nothing on the way is hidden or cargo's.
    fn holds(&self, path: &Path) -> bool {
        let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| files::normalize(path));
        let hidden = |part: &std::ffi::OsStr| part == "target" || part.as_encoded_bytes().starts_with(b".");
        real(path).strip_prefix(real(&self.folder)).is_ok_and(|inside| !inside.iter().any(hidden))
    }
}

fn is_target(path: &Path) -> bool {
    path.ends_with("target")
}

fn is_c_file(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    let extension = path.extension().and_then(|extension| extension.to_str());
    // A shared library's version may stand behind: `libx.so.1`.
    extension.is_some_and(|extension| C_FILES.contains(&extension)) || name.contains(".so.")
}

fn out_of_reach(asking: &Path, path: &Path) -> Error {
    let message =
        tr!("{asking} makes cgo read {path}, which is no input", asking = asking.display(), path = path.display());
    Error::new(Code::UndeclaredInput, message).hint(tr!(
        "move it into the Go module (not below a hidden folder or `target`), or install it below /usr or /opt"
    ))
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

/// What stands before the first declaration of a Go file.
#[derive(Debug, Default)]
struct Header<'a> {
    imports: Vec<String>,
    /// Texts of the comments: cgo reads those before `import "C"`.
    comments: Vec<&'a str>,
}

impl<'a> Header<'a> {
    fn of(text: &'a str) -> Self {
        let mut header = Self::default();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let (token, after) = match first {
                '/' if rest.starts_with("//") => rest.split_at(rest.find('\n').unwrap_or(rest.len())),
                '/' if rest.starts_with("/*") => rest.split_at(rest[2..].find("*/").map_or(rest.len(), |at| at + 4)),
                '"' | '`' => rest.split_at(literal(rest)),
                c if is_word(c) => rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len())),
                c => rest.split_at(c.len_utf8()),
            };
            match first {
                // Only import paths are strings up to here.
                '"' | '`' => header.imports.push(unquoted(token)),
                '/' if token.len() > 1 => header.comments.push(token[2..].trim_end_matches("*/")),
                _ if ["const", "func", "type", "var"].contains(&token) => break,
                _ => {}
            }
            rest = after;
        }
        header
    }

    /// Paths that are there and that the preamble of a package in `folder` names: included files, and files and folders of `#cgo`.
    /// Without what the system has installed.
    fn asked(&self, folder: &Path) -> Vec<PathBuf> {
        let lines = self.comments.iter().flat_map(|comment| comment.lines()).map(str::trim);
        let named = lines.filter_map(|line| line.strip_prefix('#')).flat_map(|line| {
            if let Some(rest) = line.trim_start().strip_prefix("include") {
                let rest = rest.trim_start();
                let name = rest.strip_prefix('"').and_then(|rest| rest.split('"').next());
                let absolute = rest.strip_prefix("</").and_then(|_| rest[1..].split('>').next());
                return name.or(absolute).into_iter().collect();
            }
            let flags = line.strip_prefix("cgo ").and_then(|line| line.split_once(':')).map_or("", |(_, flags)| flags);
            let flags = flags.split_whitespace().map(|flag| flag.trim_matches(['"', '\'']));
            flags.filter_map(path_of_flag).collect::<Vec<_>>()
        });
        named
            .filter(|name| !SYSTEM.iter().any(|system| Path::new(name).starts_with(system)))
            .map(|name| folder.join(name.trim_start_matches("${SRCDIR}/").replace("${SRCDIR}", ".")))
            .filter(|path| path.exists())
            .collect()
    }
}

/// The path in a flag for compiler or linker, if it is one.
fn path_of_flag(flag: &str) -> Option<&str> {
    let with = ["-I", "-L", "-isystem", "-iquote", "-idirafter"];
    let path = with.iter().find_map(|with| flag.strip_prefix(with)).unwrap_or(flag);
    (!path.is_empty() && !path.starts_with('-')).then_some(path)
}

/// Length of the string literal that `text` begins with.
fn literal(text: &str) -> usize {
    let quote = text.as_bytes().first();
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        if !escaped && Some(&byte) == quote {
            return at + 1;
        }
        escaped = byte == b'\\' && !escaped && quote == Some(&b'"');
    }
    text.len()
}

/// What a string literal of Go says. JSON's escapes are those that a path can need.
fn unquoted(literal: &str) -> String {
    let plain = || literal.trim_matches(['"', '`']).to_owned();
    if literal.starts_with('"') { serde_json::from_str(literal).unwrap_or_else(|_| plain()) } else { plain() }
}

/// The patterns of all `//go:embed` lines. A stray match in a comment adds an input at worst.
fn embeds(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("//go:embed"));
    let mut found = Vec::new();
    for mut rest in lines.filter(|rest| rest.starts_with([' ', '\t'])).map(str::trim) {
        while !rest.is_empty() {
            let is_quoted = rest.starts_with(['"', '`']);
            let length = if is_quoted { literal(rest) } else { rest.find(char::is_whitespace).unwrap_or(rest.len()) };
            let (pattern, after) = rest.split_at(length);
            found.push(if is_quoted { unquoted(pattern) } else { pattern.to_owned() });
            rest = after.trim_start();
        }
    }
    found
}

/// Files that a `//go:embed` pattern may name: a file, or everything below the folders before its first wildcard.
fn embedded(folder: &Path, pattern: &str) -> Result<Vec<PathBuf>> {
    let pattern = pattern.trim_start_matches("all:");
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
    fn imports_and_patterns_are_read_as_go_reads_them() {
        let imports: &[(&str, &[&str])] = &[
            ("package a; import \"x\"; import b \"y\"\n", &["x", "y"]),
            ("package a\nimport (\"x\"; . \"y\"; _ `z`)\n", &["x", "y", "z"]),
            ("/*\nprints the\ntype of value\nfunc \"no\"\n*/\npackage a\nimport `x`\n", &["x"]),
            ("package a\n// import \"no\"\nimport /* \"no\" */ \"x\" // \"no\"\n", &["x"]),
            ("package a\nimport (\n\t\"x\"\n\t/* ) */\n\t\"y\"\n)\ntype T string\nvar v = \"no\"\n", &["x", "y"]),
            ("\u{feff}package typed\r\nimport\r\n\t\"x\"\r\nimport()\nconst c = `no`\n", &["x"]),
            ("package a\nimport \"unfinished", &["unfinished"]),
            ("/* unfinished", &[]),
        ];
        for (text, expected) in imports {
            assert_eq!(Header::of(text).imports, *expected, "{text}");
        }
        let text =
            "//go:embed \"a b.txt\" `c d` all:e  f*.txt\n\t//go:embed\tg \"h\\\"i\"\n//go:embedded no\nvar s string\n";
        assert_eq!(embeds(text), ["a b.txt", "c d", "all:e", "f*.txt", "g", "h\"i"]);
    }

    /// A module with one cgo package in `cmd`, whose preamble is given.
    fn cgo_module(preamble: &str, files: &[&str]) -> PathBuf {
        let root = files::temporary_folder(&std::env::temp_dir(), "cgo").unwrap().join("module");
        let main = format!("package main\n/*\n{preamble}\n*/\nimport \"C\"\n//go:embed d/*/f.txt\nvar s string\n");
        files::write(&root.join("go.mod"), b"module example.com/m\n").unwrap();
        files::write(&root.join("cmd/main.go"), main.as_bytes()).unwrap();
        files.iter().for_each(|file| files::write(&root.join(file), b"1").unwrap());
        root
    }

    fn digest(path: &Path) -> Result<Digest> {
        Ok(Digest::of(&std::fs::read(path).unwrap()))
    }

    #[test]
    fn whatever_a_c_compiler_may_read_in_the_module_counts_where_a_package_imports_c_and_wildcards_reach_every_file() {
        let elsewhere = ["cmd/inc/x.h", "csrc/x.c", "csrc/x.inl", "cmd/libx.a", "lib/libx.so.1", "cmd/table.txt"];
        let others = ["cmd/d/one/f.txt", "cmd/beside.h", "target/generated.h", ".git/x.h", "README.md"];
        let preamble = "#include \"inc/x.h\"\n#include \"table.txt\"";
        let root = cgo_module(preamble, &[&elsewhere[..], &others].concat());
        let before = closure(&root, "./cmd", &digest).unwrap();
        let names: BTreeSet<_> = before.sources.keys().map(|it| it.trim_start_matches("example.com/m/")).collect();
        let more = ["cmd/d/one/f.txt", "cmd/beside.h", "cmd/main.go", "go.mod"];
        assert_eq!(names, elsewhere.into_iter().chain(more).collect());
        for file in elsewhere {
            assert!(before.folders.contains(root.join(file).parent().unwrap()), "{file}");
            files::write(&root.join(file), b"2").unwrap();
            assert_ne!(closure(&root, "./cmd", &digest).unwrap().headers, before.headers, "{file}");
            files::write(&root.join(file), b"1").unwrap();
        }
        // Go itself looks at it.
        files::write(&root.join("cmd/beside.h"), b"2").unwrap();
        assert_eq!(closure(&root, "./cmd", &digest).unwrap().headers, before.headers);
        // Without cgo, none of this is read.
        files::write(&root.join("cmd/main.go"), b"package main\n").unwrap();
        assert_eq!(closure(&root, "./cmd", &digest).unwrap().sources.len(), 3);
        files::remove(root.parent().unwrap()).unwrap();
    }

    #[test]
    fn cgo_may_read_the_module_and_the_system_and_nothing_else() {
        let files = ["../outside/x.h", "../outside/libx.a", "inc/x.h", "target/release/libx.a", ".hidden/x.h"];
        let rows = [
            (
                "#include \"../inc/x.h\"\n#cgo CFLAGS: -I${SRCDIR}/../inc -I. -DX=\"/no\" -O2\n#cgo LDFLAGS: -L${SRCDIR} -lm",
                true,
            ),
            ("#include </usr/include/stdio.h>\n#cgo linux LDFLAGS: -L/usr/lib -Wl,-rpath,/nowhere -L/nowhere", true),
            ("#cgo noescape f", true),
            ("#include \"../../outside/x.h\"", false),
            ("# include <{outside}/x.h>", false),
            ("#cgo CFLAGS: -I${SRCDIR}/../../outside", false),
            ("#cgo amd64 CFLAGS: -I {outside}", false),
            ("#cgo LDFLAGS: \"${SRCDIR}/../../outside/libx.a\"", false),
            ("#cgo LDFLAGS: -L${SRCDIR}/../target/release -lx", false),
            ("#include \"../.hidden/x.h\"", false),
        ];
        for (preamble, accepted) in rows {
            let root = cgo_module("", &files);
            let outside = root.with_file_name("outside").display().to_string();
            let preamble = preamble.replace("{outside}", &outside);
            let comment = preamble.lines().map(|line| format!("// {line}\n")).collect::<String>();
            files::write(&root.join("cmd/main.go"), format!("package main\n{comment}import \"C\"\n").as_bytes())
                .unwrap();
            let refused = closure(&root, "./cmd", &digest).err();
            assert_eq!(
                refused.as_ref().map(|error| error.code()),
                (!accepted).then_some(Code::UndeclaredInput),
                "{preamble}"
            );
            files::remove(root.parent().unwrap()).unwrap();
        }
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
