//! The launcher behind `cargo xtask`: starts the conductor and builds it first where it is missing or stale.
//!
//! It owns the first fetch, which nothing of ours could serve yet: with a mirror profile chosen it tries the profile's
//! crates endpoints in turn. It must never gain a dependency (it has to compile with no index reachable), never write to
//! standard output on the way to the conductor (scripts read JSON there) and never start cargo while the binary is
//! fresh. Rules: exit codes and flags are those of `cargo xtask` itself; the profiles are the conductor's.

mod arguments;
mod bootstrap;
/// As the gateway reads `NO_PROXY`.
#[path = "../crates/protocol/src/bypass.rs"]
mod bypass;
#[path = "../crates/protocol/src/coding.rs"]
#[allow(dead_code, reason = "the gateway decodes base64 too")]
mod coding;
mod failure;
mod guard;
/// English or Chinese, as the conductor has it.
#[path = "../crates/conductor/src/language/text.rs"]
mod language;
mod profile;
mod stamp;
mod toml;

use arguments::Request;
use bootstrap::{Built, Tool};
use failure::Failure;
use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// For the conductor, which asks us to build its satellites.
const LAUNCHER_VARIABLE: &str = "XTASK_LAUNCHER";
const ROOT_VARIABLE: &str = "XTASK_REPO_ROOT";
/// For the conductor's summary: the hosts that our own fetch contacted, separated by blanks; `HOST=served` delivered.
const CONTACTED_VARIABLE: &str = "XTASK_CONTACTED";
const LIBRARY_PATH_VARIABLE: &str = "LD_LIBRARY_PATH";

fn main() -> ExitCode {
    let failure = match run(env::args_os().skip(1).collect()) {
        Ok(code) => return code,
        Err(failure) => failure,
    };
    eprintln!("{failure}");
    ExitCode::from(failure.exit)
}

fn run(arguments: Vec<OsString>) -> Result<ExitCode, Failure> {
    let request = Request::read(&arguments, |name| env::var(name).ok().filter(|value| !value.is_empty()));
    language::choose(request.language);
    let root = repository_root();
    let tool = Tool::new(&root, request.satellite.as_deref().unwrap_or("conductor"))?;
    let Built { binary, contacted } = match tool.fresh() {
        Ok(binary) => Built { binary, contacted: Vec::new() },
        Err(reason) => tool.build(&request, &reason)?,
    };
    if request.satellite.is_some() {
        for host in contacted {
            println!("contacted {host}");
        }
        println!("{}", binary.display());
        return Ok(ExitCode::SUCCESS);
    }
    start(conductor(&binary, &arguments, &root, &contacted))
}

/// The checkout that this run belongs to. Cargo says it at run time; the path compiled in serves whoever starts the
/// binary without cargo, and is wrong for one that two clones share through a common target folder.
fn repository_root() -> PathBuf {
    let said = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).filter(|package| package.join("crates").is_dir());
    let package = said.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    package.parent().map(Path::to_path_buf).unwrap_or(package)
}

/// Becomes the conductor: its exit code, signals and terminal are then the caller's own.
#[cfg(unix)]
fn start(mut conductor: Command) -> Result<ExitCode, Failure> {
    use std::os::unix::process::CommandExt;
    let error = conductor.exec();
    Err(cannot_start(&conductor, error))
}

#[cfg(not(unix))]
fn start(mut conductor: Command) -> Result<ExitCode, Failure> {
    let status = conductor.status().map_err(|error| cannot_start(&conductor, error))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(failure::BUG)))
}

fn cannot_start(conductor: &Command, error: std::io::Error) -> Failure {
    let program = Path::new(conductor.get_program()).display();
    Failure::new(failure::MISSING, tr!("cannot start {program}", program)).because(error)
}

fn conductor(binary: &Path, arguments: &[OsString], root: &Path, contacted: &[String]) -> Command {
    let mut command = Command::new(binary);
    let launcher = env::current_exe().unwrap_or_else(|_| OsStr::new("xtask").into());
    if let Some(path) = callers_library_path(&launcher) {
        command.env(LIBRARY_PATH_VARIABLE, path);
    } else {
        command.env_remove(LIBRARY_PATH_VARIABLE);
    }
    if contacted.is_empty() {
        command.env_remove(CONTACTED_VARIABLE);
    } else {
        command.env(CONTACTED_VARIABLE, contacted.join(" "));
    }
    command.args(arguments).env(LAUNCHER_VARIABLE, launcher).env(ROOT_VARIABLE, root);
    command
}

/// The library path without what `cargo run` put before it: the compiler's libraries are not for the programs that the
/// conductor starts.
fn callers_library_path(launcher: &Path) -> Option<OsString> {
    let path = env::var_os(LIBRARY_PATH_VARIABLE)?;
    let cargo = env::var_os("CARGO").map(PathBuf::from);
    let toolchain = cargo.as_deref().and_then(|cargo| cargo.parent()?.parent());
    let added = [launcher.parent(), toolchain.filter(|it| it.join("lib").join("rustlib").is_dir())];
    let is_callers = |entry: &PathBuf| !added.iter().flatten().any(|folder| entry.starts_with(folder));
    env::join_paths(env::split_paths(&path).filter(is_callers)).ok().filter(|path| !path.is_empty())
}
