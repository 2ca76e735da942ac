//! Asking: each function looks at one thing. What is missing is answered with the one command that installs it.

use super::{Binary, Compiler, Go, Python, Rust, Wants};
use crate::cache::stat::{Snapshot, Stat, StatIndex, input_error};
use crate::digest::Digest;
use crate::document::did_you_mean;
use crate::error::{Code, Error, Result};
use crate::files;
use crate::platform::Platform;
use crate::process::{self, Invocation};
use crate::project::Project;
use crate::settings::Settings;
use crate::settings::env;
use crate::toolchain::go;
use crate::tr;
use crate::wheel::Interpreter;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

pub struct Probe<'a> {
    pub settings: &'a Settings,
    pub project: &'a Project,
    pub stats: &'a StatIndex,
    /// What was looked at since the last [`Probe::seen`].
    seen: RefCell<Snapshot>,
}

impl<'a> Probe<'a> {
    pub fn new(settings: &'a Settings, project: &'a Project, stats: &'a StatIndex) -> Self {
        Self { settings, project, stats, seen: RefCell::default() }
    }

    pub(super) fn digest(&self, path: &Path) -> Result<Digest> {
        let stat = self.stat(path)?;
        self.stats.digest_of(path, &stat).map_err(|error| input_error(path, error))
    }

    fn stat(&self, path: &Path) -> Result<Stat> {
        let stat = Stat::of(path).map_err(|error| input_error(path, error))?;
        self.seen.borrow_mut().note(path, Some(stat.clone()));
        Ok(stat)
    }

    /// Notes how something looks that is about to be read, or is not there.
    pub(super) fn note(&self, path: &Path) {
        self.seen.borrow_mut().note(path, Stat::of(path).ok());
    }

    pub(super) fn seen(&self) -> Snapshot {
        self.seen.take()
    }

    /// A file of the checkout that an image holds.
    pub(super) fn file(&self, image: &str, path: &str) -> Result<Digest> {
        let whole = self.settings.workspace.root.join(path);
        if whole.is_file() {
            return self.digest(&whole);
        }
        let message = tr!("image.{image}: there is no file {path}", image, path);
        Err(self.project.source.error(Code::Undeclared, &["image", image, path], &message))
    }

    /// The commit that is checked out, if that is all there is: neither an edit nor a file that Git does not know and does not ignore.
    pub(super) fn commit(&self) -> Option<String> {
        let words =
            ["--no-optional-locks", "status", "--porcelain=v2", "--branch", "--untracked-files=normal", "--no-renames"];
        let status = process::ask(&Invocation {
            program: self.settings.environment.find("git")?,
            arguments: words.into_iter().map(Into::into).collect(),
            directory: self.settings.workspace.root.clone(),
            environment: self.settings.environment.only(env::PASSED),
        });
        committed(&status.ok()?)
    }

    /// Digests of the lock files that decide what is fetched for what is wanted.
    pub(super) fn locks(&self, wants: &Wants) -> Result<BTreeMap<String, Digest>> {
        let declaration = &self.project.declaration;
        let libraries = wants
            .libraries
            .iter()
            .filter_map(|name| Some(format!("{}/Cargo.lock", declaration.native_library.get(name)?.path)));
        let binaries = wants
            .binaries
            .iter()
            .filter_map(|name| Some(format!("{}/go.sum", declaration.go_binary.get(name)?.module)));
        let mut locks = BTreeMap::new();
        for path in libraries.chain(binaries).chain(["xtask.lock".to_owned()]) {
            let file = self.settings.workspace.root.join(&path);
            if file.is_file() {
                locks.insert(path, self.digest(&file)?);
            }
        }
        Ok(locks)
    }

    /// A declared variable may name a file, which then is as much an input as the variable.
    pub(super) fn environment_files(&self, variables: &[String]) -> Result<BTreeMap<String, Digest>> {
        let named = |name: &String| {
            let path = PathBuf::from(self.settings.environment.get(name)?);
            (path.is_absolute() && path.is_file()).then(|| (name.clone(), path))
        };
        variables.iter().filter_map(named).map(|(name, path)| Ok((name, self.digest(&path)?))).collect()
    }

    /// A tool's answer, asked again when the tool's own file (links followed) or `also` changed.
    fn ask(&self, program: &Path, arguments: &[&str], also: &str) -> Result<String> {
        let invocation = Invocation {
            program: program.to_owned(),
            arguments: arguments.iter().map(Into::into).collect(),
            // Not the checkout: a toolchain file or go.mod there would change the answer.
            directory: PathBuf::from("/"),
            environment: self.settings.environment.only(env::PASSED),
        };
        let real = std::fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
        let depends_on = format!("{:?} {also}", self.stat(&real)?);
        self.stats.answer(&invocation.command_line(), &depends_on, || process::ask(&invocation))
    }

    /// The first line of what a compiler or linker says of itself; of a script, which may pass the question on and flags besides, the
    /// digest too.
    fn identity(&self, program: &Path) -> Result<String> {
        let mut identity = self.ask(program, &["--version"], "")?.lines().next().unwrap_or("").to_owned();
        let mut start = [0; 2];
        let is_script = std::fs::File::open(program).and_then(|mut file| file.read_exact(&mut start)).is_ok();
        if is_script && start == *b"#!" {
            identity.push_str(&format!(" by script {}", self.digest(program)?.short()));
        }
        Ok(identity)
    }

    pub fn rust(&self) -> Result<Rust> {
        let environment = &self.settings.environment;
        // `cargo run` says which cargo it is: the real one, past any rustup proxy, with rustc beside it.
        let cargo = environment.get("CARGO").map(PathBuf::from).filter(|path| path.is_file());
        let cargo = cargo.or_else(|| environment.find("cargo")).ok_or_else(|| {
            Error::new(Code::NoRust, tr!("there is no cargo on PATH")).hint(install_rust(self.settings))
        })?;
        let beside = cargo.with_file_name("rustc");
        let rustc = if beside.is_file() { beside } else { environment.find("rustc").unwrap_or(beside) };
        let toolchain = environment.get("RUSTUP_TOOLCHAIN").unwrap_or("");
        let version = self.ask(&rustc, &["-vV"], toolchain)?;
        let cargo_version = self.ask(&cargo, &["-V"], toolchain)?;
        let host = version
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .ok_or_else(|| Error::new(Code::NoRust, tr!("`{rustc} -vV` names no host", rustc = rustc.display())))?
            .to_owned();
        let sysroot = self.ask(&rustc, &["--print", "sysroot"], toolchain)?;
        let standard_sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
        let home = || environment.get("HOME").map(|home| Path::new(home).join(".cargo"));
        let cargo_home = environment.get("CARGO_HOME").map(PathBuf::from).or_else(home).ok_or_else(|| {
            Error::new(Code::NoHome, tr!("neither CARGO_HOME nor HOME is set"))
                .hint(tr!("set CARGO_HOME to a folder that this user may write"))
        })?;
        Ok(Rust { cargo, rustc, version, cargo_version, host, standard_sources, cargo_home, seen: self.seen() })
    }

    /// Whether this Rust has the standard library of another platform.
    pub fn must_compile_for(&self, rust: &Rust, platform: Platform) -> Result<()> {
        let target = platform.rust_target();
        let toolchain = self.settings.environment.get("RUSTUP_TOOLCHAIN").unwrap_or("");
        let folder = self.ask(&rust.rustc, &["--print", "target-libdir", "--target", &target], toolchain)?;
        if files::list(Path::new(folder.trim())).iter().any(|file| file.extension().is_some_and(|it| it == "rlib")) {
            return Ok(());
        }
        let message = tr!("Rust has no standard library for {target} ({platform})", target, platform);
        Err(Error::new(Code::NoRust, message).hint(tr!(
            "`rustup target add {target}`; behind a mirror first `eval \"$(cargo xtask mirror env --mirror NAME)\"`",
            target
        )))
    }

    pub fn compiler(&self) -> Result<Compiler> {
        let environment = &self.settings.environment;
        // `ccache gcc -m32` is two programs, of which the last compiles.
        let mut words = environment.get("CC").unwrap_or("cc").split_whitespace();
        let name = words.next().unwrap_or("cc");
        let wrapper = environment.find(name).ok_or_else(|| {
            Error::new(Code::NoCompiler, tr!("there is no C compiler: `{name}` is not on PATH", name)).hint(install(
                self.settings,
                &[
                    ("apt-get", "gcc libc6-dev"),
                    ("dnf", "gcc glibc-devel"),
                    ("apk", "gcc musl-dev"),
                    ("pacman", "gcc"),
                    ("zypper", "gcc glibc-devel"),
                ],
            ))
        })?;
        let mut version = self.identity(&wrapper)?;
        let mut path = wrapper;
        for program in words.take_while(|word| !word.starts_with('-')).filter_map(|word| environment.find(word)) {
            version.push_str(&format!("; {}", self.identity(&program)?));
            path = program;
        }
        // The compiler names the linker that it calls, by a path or as a word for PATH.
        let linker = self.ask(&path, &["-print-prog-name=ld"], "")?;
        let linker =
            environment.find(linker.trim()).or_else(|| Some(PathBuf::from(linker.trim())).filter(|it| it.is_file()));
        if let Some(linker) = linker {
            version.push_str(&format!("; {}", self.identity(&linker)?));
        }
        // The file that the linker would take; its stat stands for the installed C library.
        let libc = self.ask(&path, &["-print-file-name=libc.so.6"], "")?;
        self.note(Path::new(libc.trim()));
        let libc = match environment.find("getconf") {
            Some(getconf) => {
                let stat = Stat::of(Path::new(libc.trim())).map(|stat| format!("{stat:?}")).unwrap_or_default();
                self.ask(&getconf, &["GNU_LIBC_VERSION"], &stat).unwrap_or_else(|_| "unknown".to_owned())
            }
            None => "unknown".to_owned(),
        };
        Ok(Compiler { path, version, libc: libc.trim().to_owned(), seen: self.seen() })
    }

    pub fn go(&self) -> Result<Go> {
        let minimum = &self.project.declaration.toolchain.go.minimum;
        let wanted = go::version(minimum).ok_or_else(|| {
            let message = tr!("toolchain.go.minimum is `{minimum}`, which is no version", minimum);
            let error = self.project.source.error(Code::WrongValue, &["toolchain", "go", "minimum"], &message);
            error.hint(tr!("write a version such as 1.26.9"))
        })?;
        let mut passed_over = None;
        if let Some(path) = self.settings.environment.find("go") {
            // A `go` that does not answer is as good as none.
            let answer = self.ask(&path, &["version"], "").unwrap_or_default();
            if let Some(version) = go::version_of_answer(&answer) {
                if go::version(version) >= Some(wanted) {
                    return Ok(Go::Installed { path, version: version.to_owned() });
                }
                passed_over = Some(version.to_owned());
            }
        }
        let platform = Platform::name_here();
        let pinned = self.project.pins.go.as_ref().filter(|pins| pins.platform.contains_key(&platform));
        let declared = &self.project.declaration.toolchain.go.version;
        match pinned {
            Some(pins) if pins.version != *declared => {
                let message =
                    tr!("Go {declared} is asked for, and xtask.lock pins {version}", declared, version = pins.version);
                let error = self.project.source.error(Code::NotPinned, &["toolchain", "go", "version"], &message);
                Err(error.hint(tr!("run `cargo xtask lock update {name}`", name = "go")))
            }
            Some(pins) => Ok(Go::Pinned { version: pins.version.clone(), platform, passed_over }),
            None => Err(Error::new(
                Code::NoGo,
                tr!(
                    "there is no Go {minimum} or newer on PATH, and xtask.lock pins none for {platform}",
                    minimum,
                    platform
                ),
            )
            .hint(tr!("install Go, or add the pin with `cargo xtask lock update go`"))),
        }
    }

    pub fn python(&self) -> Result<Python> {
        let path = self.settings.environment.find("python3").ok_or_else(|| {
            Error::new(Code::NoPython, tr!("there is no python3 on PATH")).hint(install(
                self.settings,
                &[
                    ("apt-get", "python3"),
                    ("dnf", "python3"),
                    ("apk", "python3"),
                    ("pacman", "python"),
                    ("zypper", "python3"),
                ],
            ))
        })?;
        // The interpreter itself says where it really is (a version manager's shim is a shell script) and what it is.
        let script = "import sys, platform, os; libc = platform.libc_ver(); \
            print(os.path.realpath(sys.executable), *sys.version_info[:2], platform.machine(), \
            libc[1] if libc[0] == 'glibc' else '-', sep='|')";
        let also = self.settings.environment.get("PYENV_VERSION").unwrap_or("");
        let answer = self.ask(&path, &["-I", "-S", "-c", script], also)?;
        let understood = || {
            let mut fields = answer.trim().split('|');
            let path = PathBuf::from(fields.next()?);
            let version = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            let architecture = fields.next()?.to_owned();
            let glibc = fields
                .next()?
                .split_once('.')
                .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
            Some(Python { path, interpreter: Interpreter { version, architecture, glibc } })
        };
        let python = understood().ok_or_else(|| {
            Error::new(Code::NoAnswer, tr!("{path} gives an unknown answer: {answer}", path = path.display(), answer))
        })?;
        if python.interpreter.version < (3, 10) {
            let (major, minor) = python.interpreter.version;
            return Err(Error::new(
                Code::NoPython,
                tr!(
                    "{path} is Python {major}.{minor}; 3.10 or newer is needed",
                    path = python.path.display(),
                    major,
                    minor
                ),
            )
            .hint(tr!("install a newer python3 and put it first on PATH")));
        }
        Ok(python)
    }

    /// The folder that is written at `place` of xtask.toml must be there, with `file` in it unless that is empty.
    pub(super) fn must_hold(&self, folder: &Path, file: &str, place: [&str; 3]) -> Result<()> {
        let (code, missing) = if !folder.is_dir() {
            (Code::Undeclared, format!("folder {}", folder.display()))
        } else if !file.is_empty() && !folder.join(file).is_file() {
            (Code::BadPackage, format!("{file} in {}", folder.display()))
        } else {
            return Ok(());
        };
        let error = self.project.source.error(
            code,
            &place,
            &tr!("{place}: there is no {missing}", place = place.join("."), missing),
        );
        let beside = folder.parent().and_then(|parent| std::fs::read_dir(parent).ok()).into_iter().flatten().flatten();
        let folders = beside.filter(|entry| entry.path() != folder && entry.path().join(file).exists());
        let names: Vec<String> = folders
            .filter(|entry| entry.path().is_dir())
            .map(|it| it.file_name().to_string_lossy().into_owned())
            .collect();
        let wrong = folder.file_name().unwrap_or_default().to_string_lossy();
        Err(did_you_mean(error, &wrong, names.iter().map(String::as_str)))
    }

    pub fn binary(&self, name: &str) -> Result<Binary> {
        let declared =
            self.project.declaration.go_binary.get(name).ok_or_else(|| Error::bug(tr!("no binary {name}", name)))?;
        let folder = self.settings.workspace.root.join(&declared.module);
        self.must_hold(&folder, "go.mod", ["go-binary", name, "module"])?;
        self.must_hold(&folder.join(&declared.main), "", ["go-binary", name, "main"])?;
        let closure = go::closure(&folder, &declared.main, &|path| self.digest(path))
            .map_err(|error| error.context(tr!("cannot tell what go-binary.{name} is made of", name)))?;
        closure.folders.iter().for_each(|folder| self.note(folder));
        let environment_files = self.environment_files(&declared.environment)?;
        let go::Closure { modules, sources, headers, .. } = closure;
        Ok(Binary { folder, modules, sources, headers, environment_files, seen: self.seen() })
    }
}

/// The commit in the answer of `git status --porcelain=v2 --branch`, where that tells of no change.
fn committed(status: &str) -> Option<String> {
    let clean = status.lines().all(|line| line.starts_with('#'));
    let commit = status.lines().find_map(|line| line.strip_prefix("# branch.oid "))?;
    (clean && commit != "(initial)").then(|| commit.to_owned())
}

/// The one command that installs something here, by whichever package manager this machine has.
pub fn install(settings: &Settings, packages: &[(&str, &str)]) -> String {
    for (manager, names) in packages {
        if settings.environment.find(manager).is_some() {
            return match *manager {
                "apk" => format!("apk add {names}"),
                "pacman" => format!("pacman -S --noconfirm {names}"),
                "apt-get" => format!("apt-get install -y {names}"),
                manager => format!("{manager} install -y {names}"),
            };
        }
    }
    let names = packages.first().map_or("", |(_, names)| names);
    tr!("install {names} with this system's package manager", names)
}

fn install_rust(settings: &Settings) -> String {
    install(
        settings,
        &[("apt-get", "cargo"), ("dnf", "cargo"), ("apk", "cargo"), ("pacman", "rust"), ("zypper", "cargo")],
    )
}
