//! What is meant, each value with who said so: flag > variable > `xtask.local.toml` > `xtask.toml` > built-in.

pub mod env;
pub mod variables;

use crate::cache::gc::Limits;
use crate::cli;
use crate::document::did_you_mean;
use crate::error::{Code, Error, Result};
use crate::language::{self, Language};
use crate::mirror::Egress;
use crate::project::{Declaration, Local};
use crate::tr;
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
            Self::Flag => f.write_str(&tr!("command line")),
            Self::Variable(name) => f.write_str(name),
            Self::LocalFile => f.write_str("xtask.local.toml"),
            Self::Declaration => f.write_str("xtask.toml"),
            Self::BuiltIn => f.write_str(&tr!("built in")),
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
    /// The time stamp of what goes into images, seconds since 1970.
    pub source_date_epoch: u64,
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

/// What a setting's words mean: as a value, and as a list for whoever wrote another one.
struct Words<'a, T> {
    parse: &'a dyn Fn(&str) -> Option<T>,
    valid: &'a str,
    /// The words themselves, where they are few.
    known: &'a [&'a str],
}

/// Where settings may be said, beside a flag.
struct Said<'a> {
    environment: &'a Environment,
    local: &'a Local,
}

impl Said<'_> {
    /// The strongest of flag, variable and `xtask.local.toml` that says something, understood. `key` names the flag too.
    fn setting<T>(
        &self,
        key: &str,
        flag: Option<&str>,
        variable: &'static str,
        file: Option<&str>,
        words: &Words<T>,
    ) -> Result<Option<Sourced<T>>> {
        let variable = (self.environment.get(variable), Origin::Variable(variable));
        let said = [(flag, Origin::Flag), variable, (file, Origin::LocalFile)];
        let Some((text, origin)) = said.into_iter().find_map(|(text, origin)| Some((text?, origin))) else {
            return Ok(None);
        };
        if let Some(value) = (words.parse)(text) {
            return Ok(Some(Sourced { value, origin }));
        }
        let message = |name: &str| tr!("{name} is `{text}`; it must be {valid}", name, text, valid = words.valid);
        let error = match origin {
            Origin::Flag => Error::new(Code::UnknownChoice, message(&format!("--{key}"))),
            Origin::Variable(name) => Error::new(Code::BadVariable, message(name)),
            _ => self.local.source.error(Code::WrongValue, &[key], &message(key)),
        };
        let error = did_you_mean(error, text, words.known.iter().copied());
        Err(match origin {
            Origin::Variable(name) if error.hints().is_empty() => error.hint(tr!("unset {name}, or correct it", name)),
            _ => error,
        })
    }

    /// A setting that is one of a few words.
    fn choice<T: Copy>(
        &self,
        key: &str,
        flag: Option<&String>,
        variable: &'static str,
        file: Option<&String>,
        words: &[(&str, T)],
    ) -> Result<Option<Sourced<T>>> {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let parse = |text: &str| words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        let words = Words { parse: &parse, valid: &tr!("one of: {known}", known = known.join(", ")), known: &known };
        self.setting(key, flag.map(String::as_str), variable, file.map(String::as_str), &words)
    }
}

impl Settings {
    pub fn resolve(
        args: &cli::Global,
        workspace: Workspace,
        environment: Environment,
        local: Local,
        declaration: &Declaration,
        stderr_is_terminal: bool,
    ) -> Result<Self> {
        if let Some(name) = environment.unreadable() {
            return Err(Error::new(Code::WrongValue, tr!("{name} holds bytes that are no text", name))
                .hint(tr!("unset {name}, or give it a value in UTF-8", name)));
        }
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
        let said = Said { environment: &environment, local: &local };
        let words = [("1", true), ("0", false), ("true", true), ("false", false), ("yes", true), ("no", false)];
        let variable = said.choice("offline", None, env::OFFLINE, None, &words)?;
        let offline = first(
            [
                (args.offline.then_some(true), Origin::Flag),
                (variable.map(|it| it.value), Origin::Variable(env::OFFLINE)),
                (local.offline, Origin::LocalFile),
            ],
            false,
        );
        let words = [
            ("prefer-mirrors", Egress::PreferMirrors),
            ("mirrors-only", Egress::MirrorsOnly),
            ("direct", Egress::Direct),
        ];
        let egress = said.choice("egress", args.egress.as_ref(), env::EGRESS, local.egress.as_ref(), &words)?;
        let words = [("human", Format::Human), ("json", Format::Json)];
        let format = said.choice("format", args.format.as_ref(), env::FORMAT, None, &words)?;
        // Obeyed long before; here a wrong word is refused.
        said.choice("lang", args.lang.as_ref(), env::LANG, None, language::WORDS)?;
        let dumb = environment.get("TERM") == Some("dumb");
        let auto = if stderr_is_terminal && !dumb { Progress::Tty } else { Progress::Plain };
        let words = [("auto", auto), ("tty", Progress::Tty), ("plain", Progress::Plain), ("quiet", Progress::Quiet)];
        let progress =
            said.choice("progress", args.progress.as_ref(), env::PROGRESS, local.progress.as_ref(), &words)?;
        let progress = progress.map_or(auto, |it| it.value);
        let auto = stderr_is_terminal && !dumb && environment.get(env::NO_COLOR).is_none();
        let words = [("auto", auto), ("always", true), ("never", false)];
        let color = said.choice("color", args.color.as_ref(), env::COLOR, local.color.as_ref(), &words)?;
        let seconds = Words { parse: &|text| text.parse().ok(), valid: &tr!("a number of seconds"), known: &[] };
        let lock_timeout = said.setting("lock-timeout", None, env::LOCK_TIMEOUT, None, &seconds)?;
        let epoch = said.setting("source-date-epoch", None, env::SOURCE_DATE_EPOCH, None, &seconds)?;
        let sizes = Words {
            parse: &|text| text.parse().ok(),
            valid: &tr!("a number with B, KB, MB, GB, KiB, MiB or GiB"),
            known: &[],
        };
        let file = local.cache_max_size.as_deref();
        let max_size = said.setting("cache-max-size", None, env::CACHE_MAX_SIZE, file, &sizes)?;
        let days = Words { parse: &|text| text.parse().ok(), valid: &tr!("a number of days"), known: &[] };
        let max_age = said.setting("cache-max-age-days", None, env::CACHE_MAX_AGE_DAYS, None, &days)?;
        let limits = Limits::default();
        let cache_limits = Limits {
            size: max_size.map_or(limits.size, |it| it.value),
            age_days: max_age.map(|it| it.value).or(local.cache_max_age_days).unwrap_or(limits.age_days),
        };
        let cache = cache_folder(&environment, &local, &workspace)?;
        Ok(Self {
            cache,
            mirror: Sourced { value: choice, origin: mirror.origin },
            offline,
            egress,
            format: format.map_or(Format::Human, |it| it.value),
            progress: if args.quiet { Progress::Quiet } else { progress },
            color: color.map_or(auto, |it| it.value),
            verbosity: match (args.quiet, args.verbose) {
                (true, _) => Verbosity::Quiet,
                (false, true) => Verbosity::Verbose,
                (false, false) => Verbosity::Normal,
            },
            dry_run: args.dry_run,
            explain: args.explain,
            // A result may honestly take long to make; a dead holder's lock is released by the kernel at once.
            lock_timeout: Duration::from_secs(lock_timeout.map_or(3600, |it| it.value)),
            cache_limits,
            source_date_epoch: epoch.map_or(0, |it| it.value),
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
            Error::new(Code::NoHome, tr!("there is no place for the cache: neither XDG_CACHE_HOME nor HOME is set"))
                .hint(tr!("set XTASK_CACHE_DIR to a folder that this user may write"))
        })
}

/// The language of this run, from bare words: it must be known before anything, a mistake in these words included, is told. Whoever
/// reads JSON reads English.
pub fn language(words: &[String], environment: &Environment) -> Language {
    let locale = env::LOCALE.iter().find_map(|name| environment.get(name));
    match format(words, environment) {
        Format::Json => Language::English,
        Format::Human => language::decide(flag(words, "--lang"), environment.get(env::LANG), locale),
    }
}

/// Whether somebody reads lines, told from bare words and variables: where there are no settings.
pub fn format(words: &[String], environment: &Environment) -> Format {
    let json = flag(words, "--format").or_else(|| environment.get(env::FORMAT)) == Some("json");
    if json { Format::Json } else { Format::Human }
}

/// What stands behind `name` on a command line that may be wrong.
fn flag<'a>(words: &'a [String], name: &str) -> Option<&'a str> {
    let inline = |word: &'a String| word.strip_prefix(name)?.strip_prefix('=');
    let next = |pair: &'a [String]| (pair[0] == name).then_some(pair[1].as_str());
    words.iter().find_map(inline).or_else(|| words.windows(2).find_map(next))
}

/// The checkout to work on: `--repo`, else the nearest folder upwards with an `xtask.toml`, else the launcher's own.
pub fn find_workspace(repo: Option<&Path>, environment: &Environment, current: &Path) -> Result<Workspace> {
    if let Some(repo) = repo {
        let root = current.join(repo);
        let root = root.canonicalize().map_err(|error| {
            Error::new(Code::NoProject, tr!("--repo {repo}: there is no such folder", repo = repo.display()))
                .because(error)
                .hint(tr!("name a checkout that has an xtask.toml"))
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
            tr!("{current} is not inside a project: no xtask.toml upwards of it", current = current.display()),
        )
        .hint(tr!("run this inside a checkout, or name one with --repo DIR"))
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
