//! What is meant, each value with who said so: flag > variable > `xtask.local.toml` > `xtask.toml` > built-in.

pub mod env;

use crate::cache::gc::{Limits, Size};
use crate::cli;
use crate::error::{Code, Error, Result};
use crate::mirror::Egress;
use crate::project::{Declaration, Local};
use crate::workspace::{CacheFolder, Workspace};
use env::Environment;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Who set a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Flag,
    Variable(&'static str),
    LocalFile,
    Declaration,
    BuiltIn,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("command line"),
            Self::Variable(name) => f.write_str(name),
            Self::LocalFile => f.write_str("xtask.local.toml"),
            Self::Declaration => f.write_str("xtask.toml"),
            Self::BuiltIn => f.write_str("built in"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sourced<T> {
    pub value: T,
    pub origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Human,
    Json,
}

/// As BuildKit's tools name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Tty,
    Plain,
    Quiet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    Quiet,
    Normal,
    Verbose,
}

/// Which profile is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorChoice {
    /// Nothing is set and nothing is taken away: each tool does what the user configured.
    Off,
    Named(String),
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub workspace: Workspace,
    pub cache: CacheFolder,
    pub mirror: Sourced<MirrorChoice>,
    pub offline: Sourced<bool>,
    pub egress: Option<Sourced<Egress>>,
    pub format: Format,
    pub progress: Progress,
    pub color: bool,
    pub verbosity: Verbosity,
    pub dry_run: bool,
    pub explain: bool,
    pub lock_timeout: Duration,
    pub cache_limits: Limits,
    pub environment: Environment,
    pub local: Local,
    /// Started through the launcher: its path, for satellites.
    pub launcher: Option<PathBuf>,
}

/// The first value that somebody set.
fn first<T>(candidates: impl IntoIterator<Item = (Option<T>, Origin)>, built_in: T) -> Sourced<T> {
    for (value, origin) in candidates {
        if let Some(value) = value {
            return Sourced { value, origin };
        }
    }
    Sourced { value: built_in, origin: Origin::BuiltIn }
}

fn parsed<T>(text: Option<&str>, name: &str, parse: impl Fn(&str) -> Option<T>, valid: &str) -> Result<Option<T>> {
    text.map(|text| {
        parse(text)
            .ok_or_else(|| Error::new(Code::UnknownChoice, format!("{name} is `{text}`; it must be one of: {valid}")))
    })
    .transpose()
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "true" | "yes" => Some(true),
        "0" | "false" | "no" => Some(false),
        _ => None,
    }
}

const PROGRESS_MODES: &str = "auto, tty, plain, quiet";
const COLOR_MODES: &str = "auto, always, never";

impl Settings {
    pub fn resolve(
        args: &cli::Global,
        workspace: Workspace,
        environment: Environment,
        local: Local,
        declaration: &Declaration,
        stderr_is_terminal: bool,
    ) -> Result<Self> {
        let mirror = first(
            [
                (args.mirror.clone(), Origin::Flag),
                (environment.get(env::MIRROR).map(str::to_owned), Origin::Variable(env::MIRROR)),
                (local.mirror.selected.clone(), Origin::LocalFile),
                (declaration.mirror.selected.clone(), Origin::Declaration),
            ],
            "off".to_owned(),
        );
        let choice = match mirror.value.as_str() {
            "off" => MirrorChoice::Off,
            name => MirrorChoice::Named(name.to_owned()),
        };
        let offline = first(
            [
                (args.offline.then_some(true), Origin::Flag),
                (
                    parsed(environment.get(env::OFFLINE), env::OFFLINE, parse_bool, "1, 0")?,
                    Origin::Variable(env::OFFLINE),
                ),
                (local.offline, Origin::LocalFile),
            ],
            false,
        );
        let egress_valid = "prefer-mirrors, mirrors-only, direct";
        let parse_egress = |text: &str| match text {
            "prefer-mirrors" => Some(Egress::PreferMirrors),
            "mirrors-only" => Some(Egress::MirrorsOnly),
            "direct" => Some(Egress::Direct),
            _ => None,
        };
        let egress = first(
            [
                (parsed(args.egress.as_deref(), "--egress", parse_egress, egress_valid)?.map(Some), Origin::Flag),
                (
                    parsed(environment.get(env::EGRESS), env::EGRESS, parse_egress, egress_valid)?.map(Some),
                    Origin::Variable(env::EGRESS),
                ),
                (parsed(local.egress.as_deref(), "egress", parse_egress, egress_valid)?.map(Some), Origin::LocalFile),
            ],
            None,
        );
        let format = match args.format.as_deref().or(environment.get(env::FORMAT)) {
            None | Some("human") => Format::Human,
            Some("json") => Format::Json,
            Some(other) => {
                return Err(Error::new(
                    Code::UnknownChoice,
                    format!("there is no format `{other}`; use human or json"),
                ));
            }
        };
        let progress = args.progress.as_deref().or(environment.get(env::PROGRESS)).or(local.progress.as_deref());
        let progress = match progress.unwrap_or("auto") {
            _ if args.quiet => Progress::Quiet,
            "auto" if stderr_is_terminal && environment.get("TERM") != Some("dumb") => Progress::Tty,
            "auto" | "plain" => Progress::Plain,
            "tty" => Progress::Tty,
            "quiet" => Progress::Quiet,
            other => {
                return Err(Error::new(
                    Code::UnknownChoice,
                    format!("there is no progress mode `{other}`; use one of: {PROGRESS_MODES}"),
                ));
            }
        };
        let color = args.color.as_deref().or(environment.get(env::COLOR)).or(local.color.as_deref());
        let color = match color.unwrap_or("auto") {
            "auto" => {
                stderr_is_terminal
                    && environment.get(env::NO_COLOR).is_none()
                    && environment.get("TERM") != Some("dumb")
            }
            "always" => true,
            "never" => false,
            other => {
                return Err(Error::new(
                    Code::UnknownChoice,
                    format!("there is no color mode `{other}`; use one of: {COLOR_MODES}"),
                ));
            }
        };
        let lock_timeout = parsed(
            environment.get(env::LOCK_TIMEOUT),
            env::LOCK_TIMEOUT,
            |text| text.parse().ok(),
            "a number of seconds",
        )?;
        let size = |text: &str| text.parse::<Size>().ok();
        let sizes = "a number with B, KB, MB, GB, KiB, MiB or GiB";
        let max_size = parsed(environment.get(env::CACHE_MAX_SIZE), env::CACHE_MAX_SIZE, size, sizes)?.or(parsed(
            local.cache_max_size.as_deref(),
            "cache-max-size",
            size,
            sizes,
        )?);
        let days = |text: &str| text.parse().ok();
        let max_age =
            parsed(environment.get(env::CACHE_MAX_AGE_DAYS), env::CACHE_MAX_AGE_DAYS, days, "a number of days")?;
        let limits = Limits::default();
        let cache_limits = Limits {
            size: max_size.unwrap_or(limits.size),
            age_days: max_age.or(local.cache_max_age_days).unwrap_or(limits.age_days),
        };
        let cache = cache_folder(&environment, &local, &workspace)?;
        Ok(Self {
            cache,
            mirror: Sourced { value: choice, origin: mirror.origin },
            offline,
            egress: egress.value.map(|value| Sourced { value, origin: egress.origin }),
            format,
            progress,
            color,
            verbosity: match (args.quiet, args.verbose) {
                (true, _) => Verbosity::Quiet,
                (false, true) => Verbosity::Verbose,
                (false, false) => Verbosity::Normal,
            },
            dry_run: args.dry_run,
            explain: args.explain,
            // A result may honestly take long to make; a dead holder's lock is released by the kernel at once.
            lock_timeout: Duration::from_secs(lock_timeout.unwrap_or(3600)),
            cache_limits,
            launcher: environment.get(env::LAUNCHER).map(PathBuf::from),
            workspace,
            environment,
            local,
        })
    }
}

fn cache_folder(environment: &Environment, local: &Local, workspace: &Workspace) -> Result<CacheFolder> {
    if let Some(folder) = environment.get(env::CACHE_DIR).or(local.cache_dir.as_deref()) {
        return Ok(CacheFolder(workspace.root.join(folder)));
    }
    let absolute = |name: &str| environment.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|folder| CacheFolder(folder.join("xtask")))
        .ok_or_else(|| {
            Error::new(Code::NoHome, "there is no place for the cache: neither XDG_CACHE_HOME nor HOME is set")
                .hint("set XTASK_CACHE_DIR to a folder that this user may write")
        })
}

/// The checkout to work on: `--repo`, else the nearest folder upwards with an `xtask.toml`, else the launcher's own.
pub fn find_workspace(repo: Option<&Path>, environment: &Environment, current: &Path) -> Result<Workspace> {
    if let Some(repo) = repo {
        let root = current.join(repo);
        let root = root.canonicalize().map_err(|error| {
            Error::new(Code::NoProject, format!("--repo {}: there is no such folder", repo.display())).because(error)
        })?;
        return Ok(Workspace { root });
    }
    let declared = |folder: &&Path| folder.join("xtask.toml").is_file();
    let root = current
        .ancestors()
        .find(declared)
        .map(Path::to_owned)
        .or_else(|| environment.get(env::REPO_ROOT).map(PathBuf::from));
    root.map(|root| Workspace { root }).ok_or_else(|| {
        Error::new(
            Code::NoProject,
            format!("{} is not inside a project: no xtask.toml upwards of it", current.display()),
        )
        .hint("run this inside a checkout, or name one with --repo DIR")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn resolve(words: &[&str], variables: &[(&str, &str)], local: &str, declaration: &str) -> Result<Settings> {
        let args = cli::Cli::try_parse_from(["xtask"].iter().chain(words).chain(&["build"])).unwrap();
        let environment =
            [("HOME", "/home/me")].iter().chain(variables).map(|(name, value)| ((*name).to_owned(), value.into()));
        let parse = |text: &str| toml::from_str::<Local>(text).unwrap();
        let declaration: Declaration = toml::from_str(&format!("{declaration}\n[project]\nname = 'x'")).unwrap();
        Settings::resolve(
            &args.global,
            Workspace { root: "/repo".into() },
            Environment(environment.collect()),
            parse(local),
            &declaration,
            false,
        )
    }

    #[test]
    fn flag_beats_variable_beats_local_file_beats_declaration_beats_built_in() {
        let flag: &[&str] = &["--mirror", "a"];
        let variable: &[(&str, &str)] = &[("XTASK_MIRROR", "b")];
        let (local, declaration) = ("mirror = 'c'", "mirror.use = 'd'");
        let named = |name: &str| MirrorChoice::Named(name.to_owned());
        let cases = [
            (flag, variable, local, declaration, named("a"), Origin::Flag),
            (&[], variable, local, declaration, named("b"), Origin::Variable("XTASK_MIRROR")),
            (&[], &[], local, declaration, named("c"), Origin::LocalFile),
            (&[], &[], "", declaration, named("d"), Origin::Declaration),
            (&[], &[], "", "", MirrorChoice::Off, Origin::BuiltIn),
        ];
        for (words, variables, local, declaration, value, origin) in cases {
            assert_eq!(resolve(words, variables, local, declaration).unwrap().mirror, Sourced { value, origin });
        }
    }

    #[test]
    fn a_wrong_value_is_answered_with_the_valid_ones() {
        let error = resolve(&["--egress", "none"], &[], "", "").unwrap_err();
        assert!(error.to_string().contains("--egress is `none`"), "{error}");
        let error = resolve(&[], &[("XTASK_OFFLINE", "maybe")], "", "").unwrap_err();
        assert!(error.to_string().contains("XTASK_OFFLINE is `maybe`"), "{error}");
    }

    #[test]
    fn the_cache_is_the_users_unless_somebody_moves_it() {
        let folder = |variables: &[(&str, &str)], local: &str| resolve(&[], variables, local, "").unwrap().cache.0;
        assert_eq!(folder(&[], ""), Path::new("/home/me/.cache/xtask"));
        assert_eq!(folder(&[("XDG_CACHE_HOME", "/c")], ""), Path::new("/c/xtask"));
        assert_eq!(folder(&[], "cache-dir = 'mine'"), Path::new("/repo/mine"));
        assert_eq!(folder(&[("XTASK_CACHE_DIR", "/x")], "cache-dir = 'mine'"), Path::new("/x"));
    }
}
