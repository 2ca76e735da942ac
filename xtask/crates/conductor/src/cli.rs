//! What can be typed: clap types, help and examples, nothing else.

use crate::cache::gc::Size;
use crate::error::{Code, Error, Result};
use crate::language::foreign;
use crate::platform::Platform;
use crate::registry::RegistryPlace;
use crate::tr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum, ValueHint};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    about = "Builds, runs and tests this project, also behind slow or filtered networks",
    after_help = "Examples:\n  cargo xtask build --mirror cn                  build through the mirrors of profile `cn`\n  cargo xtask run --once examples/chat.json      one request through the whole stack\n  cargo xtask why router                         why it would be built again\n  cargo xtask mirror list                        the profiles there are",
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Checkout to work on [default: the one around the current folder]
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub repo: Option<PathBuf>,
    /// Mirror profile; `auto` tries each tool's own default and then every mirror, `off` leaves every tool as you configured it
    #[arg(long, global = true, value_name = MIRROR)]
    pub mirror: Option<String>,
    /// Contact nothing; what is missing is named
    #[arg(long, global = true)]
    pub offline: bool,
    /// `json`: one object a line on standard output
    #[arg(long, global = true, value_name = "human|json")]
    pub format: Option<String>,
    /// Which hosts a profile may fall back to
    #[arg(long, global = true, value_name = "prefer-mirrors|mirrors-only|direct")]
    pub egress: Option<String>,
    /// How progress is shown on standard error
    #[arg(long, global = true, value_name = "auto|tty|plain|quiet")]
    pub progress: Option<String>,
    #[arg(long, global = true, value_name = "auto|always|never", help = "Colours on standard error")]
    pub color: Option<String>,
    /// Language of what is told [default: the locale's]
    #[arg(long, global = true, value_name = "en|zh")]
    pub lang: Option<String>,
    /// Show the plan and change nothing
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// Say for each step why it runs
    #[arg(long, global = true)]
    pub explain: bool,
    /// Errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Show the output of children as it comes
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build native libraries and Go binaries into dist/
    #[command(
        after_help = "Examples:\n  cargo xtask build\n  cargo xtask build router --mirror cn\n  cargo xtask build --platform linux/arm64       needs no foreign compiler or root file system\n  cargo xtask build --mirror cn --dry-run --format json"
    )]
    Build(Build),
    /// Make container images out of what `build` makes
    #[command(
        subcommand_precedence_over_arg = true,
        after_help = "Examples:\n  cargo xtask images\n  cargo xtask images extproc --to tar:extproc.tar      then `docker load` or `podman load`\n  cargo xtask images --to docker\n  cargo xtask images --builder docker --to docker     put together by the engine's BuildKit, which is sent what changed\n  cargo xtask images --builder buildkit://builder.example --to registry:registry.example/team\n  cargo xtask images --builder docker --from source --to docker --mirror cn   compiled by the engine too\n  cargo xtask images --platform linux/amd64,linux/arm64\n  cargo xtask images --mirror cn --to oci:dist/images --tag v1\n  cargo xtask images --to registry:registry.example/team --tag v1   as registry.example/team/extproc:v1, …\n  cargo xtask images extproc --to registry:127.0.0.1:5000/router:v1\n  cargo xtask images diff oci:dist/images:extproc:latest oci:before:extproc:latest\n  cargo xtask images engine"
    )]
    Images(Images),
    /// Write plain files for people who do not use this tool when they build
    #[command(
        subcommand,
        after_help = "Examples:\n  cargo xtask emit dockerfile extproc\n  cargo xtask emit dockerfile --mirror cn"
    )]
    Emit(Emit),
    /// Run the test suites
    #[command(
        after_help = "Examples:\n  cargo xtask test\n  cargo xtask test rust go\n  cargo xtask test --require end-to-end"
    )]
    Test(Test),
    /// Run the linters; nothing is rewritten
    #[command(
        after_help = "Examples:\n  cargo xtask lint\n  cargo xtask lint rustfmt clippy\n  cargo xtask lint --require all"
    )]
    Lint(Lint),
    /// Run the built stack: backend, router and Envoy, until Ctrl-C
    #[command(after_help = "Examples:\n  cargo xtask run\n  cargo xtask run --once examples/chat.json")]
    Run(Run),
    /// Show the steps of a build, with their keys, without doing any
    #[command(after_help = "Examples:\n  cargo xtask plan\n  cargo xtask plan --format json")]
    Plan(Targets),
    /// Say why a target would be built again
    #[command(
        after_help = "Examples:\n  cargo xtask why router\n  cargo xtask why toolchain:go\n  cargo xtask why router --profile dev\n  cargo xtask why candle-binding --format json"
    )]
    Why(Why),
    /// Say what is wrong with this machine, its network and this checkout, and what helps
    #[command(
        after_help = "Examples:\n  cargo xtask doctor\n  cargo xtask doctor mirrors disk\n  cargo xtask doctor --fix                       shows what it would run, and asks\n  cargo xtask doctor --format json"
    )]
    Doctor(Doctor),
    /// Mirror profiles: which there are, what they set
    #[command(subcommand, after_help = "Examples:\n  cargo xtask mirror list\n  cargo xtask mirror use cn")]
    Mirror(Mirror),
    /// The pins of toolchains, wheels and models
    #[command(after_help = "Examples:\n  cargo xtask lock\n  cargo xtask lock update mock-vllm")]
    Lock(Lock),
    /// The cache of results and downloads: what it holds, whether it is sound, making room
    #[command(subcommand, after_help = "Examples:\n  cargo xtask cache stats\n  cargo xtask cache gc --dry-run")]
    Cache(Cache),
    /// Remove what this tool made in this checkout, and nothing else
    #[command(
        after_help = "Examples:\n  cargo xtask clean\n  cargo xtask clean --dry-run\n  cargo xtask clean --all          the caches of this user and the tool itself too"
    )]
    Clean(Clean),
    /// Explain an error's code, such as XT0303; without one, list all
    #[command(after_help = "Examples:\n  cargo xtask explain XT0303\n  cargo xtask explain")]
    Explain(Explain),
    /// Print the JSON Schema of xtask.toml
    #[command(after_help = "Examples:\n  cargo xtask schema\n  cargo xtask schema --format json")]
    Schema,
    /// Print a script that completes commands, flags and this project's names in a shell
    #[command(
        after_help = "Examples:\n  cargo xtask completions bash > ~/.local/share/cargo-xtask.bash    then `source` it in ~/.bashrc\n  cargo xtask completions zsh > ~/.zfunc/_cargo-xtask                with `fpath+=~/.zfunc` before `compinit`\n  cargo xtask completions fish > ~/.config/fish/conf.d/cargo-xtask.fish\n\nbash, zsh and fish complete `cargo xtask …`; PowerShell and Elvish a program or alias named `cargo-xtask`."
    )]
    Completions(Completions),
    /// Print the manual page, or write one for every command
    #[command(after_help = "Examples:\n  cargo xtask man\n  cargo xtask man --output target/man")]
    Man(Man),
    /// Print the help of a command, or what a target of the old Makefiles is called now
    #[command(
        after_help = "Examples:\n  cargo xtask help build\n  cargo xtask help --from-make run-router\n  cargo xtask help --from-make"
    )]
    Help(Help),
}

// Value names that stand for names of the project at hand; completions put those in their place.
pub const TARGET: &str = "TARGET";
pub const IMAGE: &str = "IMAGE";
pub const SUITE: &str = "SUITE";
pub const LINTER: &str = "LINTER";
pub const PIN: &str = "PIN";
pub const PROFILE: &str = "PROFILE";
pub const FEATURES: &str = "FEATURES";
const MIRROR: &str = "PROFILE|auto|off";

/// Where images go where nobody says otherwise, below the checkout.
pub const IMAGES_TARGET: &str = "oci:dist/images";

/// What is built where nobody says otherwise.
const DEFAULT_PROFILE: &str = "release";

#[derive(Clone, Debug, Args)]
pub struct Targets {
    /// Names of native libraries and Go binaries in xtask.toml [default: all]
    #[arg(value_name = TARGET)]
    pub targets: Vec<String>,
    /// What they are built for; another than this machine's goes to dist/linux-ARCH [default: this machine]
    #[arg(long, value_name = "linux/ARCH")]
    pub platform: Option<Platform>,
    #[command(flatten)]
    pub variant: Variant,
}

/// How native libraries are built.
#[derive(Clone, Debug, Args)]
pub struct Variant {
    /// Feature set of the native libraries [default: cpu]
    #[arg(long, value_name = FEATURES)]
    pub features: Option<String>,
    /// Cargo profile of the native libraries
    #[arg(long, value_name = "NAME", default_value = DEFAULT_PROFILE)]
    pub profile: String,
}

impl Default for Variant {
    fn default() -> Self {
        Self { features: None, profile: DEFAULT_PROFILE.to_owned() }
    }
}

#[derive(Debug, Args)]
pub struct Build {
    #[command(flatten)]
    pub targets: Targets,
    /// Build again even where the result is known
    #[arg(long)]
    pub fresh: bool,
}

#[derive(Debug, Args)]
pub struct Images {
    #[command(subcommand)]
    pub command: Option<ImagesCommand>,
    /// Images to make [default: all]
    #[arg(value_name = IMAGE)]
    pub images: Vec<String>,
    #[command(flatten)]
    pub variant: Variant,
    /// Where they go; repeatable. `oci:DIR` is an OCI layout, `tar:FILE` an archive for `docker load` and
    /// `podman load`, `docker` the engine of this machine, `registry:HOST/PATH` pushes each image as
    /// HOST/PATH/IMAGE:TAG, and with one image `registry:HOST/PATH:TAG`
    #[arg(long, value_name = "TARGET", default_value = IMAGES_TARGET)]
    pub to: Vec<ImageTarget>,
    /// What the images are for, separated by commas; several become one index [default: this machine]
    #[arg(long, value_name = "linux/ARCH", value_delimiter = ',')]
    pub platform: Vec<Platform>,
    /// Tag of each image [default: latest]
    #[arg(long, value_name = "TAG")]
    pub tag: Option<String>,
    /// Who makes them: `embedded` is this program; `docker` the BuildKit of the engine; `buildkit://HOST[:PORT]` or
    /// `buildkit:///SOCKET` one elsewhere [default: embedded]
    #[arg(long, value_name = "BUILDER", default_value = "auto", hide_default_value = true)]
    pub builder: ImageBuilder,
    /// What they are made of: `native` takes what `build` makes here; `source` has everything compiled by the builder, in the
    /// stages that `emit dockerfile` writes down
    #[arg(long, value_name = "ORIGIN", default_value = "native")]
    pub from: ImageOrigin,
    /// Make everything again that a builder has in its cache
    #[arg(long)]
    pub no_cache: bool,
    /// Where the engine of `--to docker` and `--builder docker` listens: `unix:///PATH` or `tcp://HOST:PORT` [default: as for `docker`]
    #[arg(long, value_name = "ADDRESS")]
    pub engine: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Emit {
    /// Write a Dockerfile that makes an image from source, the list of what it is sent, and its root file system
    #[command(
        after_help = "Examples:\n  cargo xtask emit dockerfile\n  cargo xtask emit dockerfile extproc --output docker\n  cargo xtask emit dockerfile --mirror cn           with the mirrors' settings beside it, to be given as secrets"
    )]
    Dockerfile(EmitDockerfile),
}

#[derive(Debug, Args)]
pub struct EmitDockerfile {
    /// Images to write [default: all]
    #[arg(value_name = IMAGE)]
    pub images: Vec<String>,
    #[command(flatten)]
    pub variant: Variant,
    /// Folder of the checkout that they are written into [default: dist/docker]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: Option<PathBuf>,
    /// Write credentials of the mirror profile too
    #[arg(long)]
    pub show_secrets: bool,
}

/// What images are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImageOrigin {
    Native,
    Source,
}

/// Who puts images together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageBuilder {
    Auto,
    /// This program.
    Embedded,
    /// The BuildKit of the engine of this machine.
    Engine,
    /// A BuildKit by itself: `HOST`, `HOST:PORT`, or the path of its socket.
    BuildKit(String),
}

impl FromStr for ImageBuilder {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "embedded" => Ok(Self::Embedded),
            "docker" => Ok(Self::Engine),
            _ => match text.strip_prefix("buildkit://").filter(|place| !place.is_empty()) {
                Some(place) => Ok(Self::BuildKit(place.to_owned())),
                None => Err(tr!("write auto, embedded, docker, or buildkit://HOST for a builder elsewhere")),
            },
        }
    }
}

/// Where images go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageTarget {
    /// An OCI layout that holds each image under its reference.
    Layout(PathBuf),
    /// One archive of all images, for `docker load` and its like.
    Archive(PathBuf),
    /// The store of a container engine.
    Engine,
    Registry(RegistryPlace),
}

impl fmt::Display for ImageTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout(folder) => write!(f, "oci:{}", folder.display()),
            Self::Archive(file) => write!(f, "tar:{}", file.display()),
            Self::Engine => f.write_str("docker"),
            Self::Registry(place) => write!(f, "registry:{place}"),
        }
    }
}

/// An image in an OCI layout: `oci:DIR`, `oci:DIR:NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePlace {
    pub folder: PathBuf,
    pub name: Option<String>,
}

impl FromStr for ImagePlace {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.strip_prefix("oci:").map(|rest| rest.split_once(':').unwrap_or((rest, ""))) {
            Some((folder, name)) if !folder.is_empty() => {
                Ok(Self { folder: folder.into(), name: Some(name.to_owned()).filter(|name| !name.is_empty()) })
            }
            _ => Err(tr!("write oci:DIR:IMAGE, as in oci:dist/images:extproc:latest")),
        }
    }
}

impl fmt::Display for ImagePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci:{}", self.folder.display())?;
        self.name.iter().try_for_each(|name| write!(f, ":{name}"))
    }
}

impl FromStr for ImageTarget {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "docker" {
            return Ok(Self::Engine);
        }
        match text.split_once(':').filter(|(_, place)| !place.is_empty()) {
            Some(("oci", folder)) => Ok(Self::Layout(folder.into())),
            Some(("tar", file)) => Ok(Self::Archive(file.into())),
            Some(("registry", place)) => place.parse().map(Self::Registry),
            _ => Err(tr!(
                "write oci:DIR for an OCI layout, tar:FILE for an archive that engines load, docker for the engine of this machine, or registry:HOST/PATH"
            )),
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum ImagesCommand {
    /// Name what differs between two images, file by file; fails if anything does
    #[command(
        after_help = "Examples:\n  cargo xtask images diff oci:dist/images:extproc:latest oci:before:extproc:latest\n  cargo xtask images diff oci:a oci:b"
    )]
    Diff(ImagesDiff),
    /// Say which container engine answers, who named it, and what it can do
    #[command(
        after_help = "Examples:\n  cargo xtask images engine\n  cargo xtask images engine unix:///run/user/1000/docker.sock\n  cargo xtask images engine --format json"
    )]
    Engine(ImagesEngine),
}

#[derive(Debug, Args)]
pub struct ImagesEngine {
    /// Where it listens: `unix:///PATH`, `tcp://HOST:PORT` or `buildkit://HOST` [default: as for `docker`]
    #[arg(value_name = "ADDRESS")]
    pub address: Option<String>,
}

#[derive(Debug, Args)]
pub struct ImagesDiff {
    /// `oci:DIR:IMAGE`, or `oci:DIR` where there is only one
    #[arg(value_name = "A")]
    pub left: ImagePlace,
    /// The image that it is compared with
    #[arg(value_name = "B")]
    pub right: ImagePlace,
    /// Which of the platforms of each is compared [default: this machine]
    #[arg(long, value_name = "linux/ARCH")]
    pub platform: Option<Platform>,
}

#[derive(Debug, Args)]
pub struct Test {
    /// Suites to run [default: all]
    #[arg(value_name = SUITE)]
    pub suites: Vec<String>,
    /// A part that cannot run here is a failure instead of a skip; `all` for every part
    #[arg(long, value_name = "NAME")]
    pub require: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Lint {
    /// Linters to run [default: all]
    #[arg(value_name = LINTER)]
    pub linters: Vec<String>,
    /// A linter that cannot run here is a failure instead of a skip; `all` for every one
    #[arg(long, value_name = "NAME")]
    pub require: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Run {
    /// Send this request, print the answer and the decision, and end
    #[arg(long, value_name = "REQUEST.json", value_hint = ValueHint::FilePath)]
    pub once: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Why {
    /// Name of a native library, Go binary, wheel set or model in xtask.toml, or a step of the plan: `toolchain:go`
    #[arg(value_name = TARGET)]
    pub target: String,
    #[command(flatten)]
    pub variant: Variant,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// What to look at: toolchain, mirrors, engine, cache, disk, ports, project [default: all]
    #[arg(value_name = "GROUP")]
    pub groups: Vec<String>,
    /// Show which commands of this tool would repair something, and run them after a yes
    #[arg(long)]
    pub fix: bool,
    /// Agree beforehand to what --fix shows
    #[arg(long, requires = "fix")]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct Explain {
    /// Code of an error or a finding, such as XT0303 or disk.full [default: all errors, in a list]
    #[arg(value_name = "CODE")]
    pub code: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Mirror {
    /// The profiles there are, and which is in force
    #[command(after_help = "Examples:\n  cargo xtask mirror list\n  cargo xtask mirror list --format json")]
    List,
    /// A profile's endpoints, ecosystem by ecosystem
    #[command(after_help = "Examples:\n  cargo xtask mirror show cn\n  cargo xtask mirror show direct --format json")]
    Show {
        /// Name of a profile [default: the one in force]
        #[arg(value_name = PROFILE)]
        name: Option<String>,
    },
    /// What each tool would get: variables set and removed, arguments
    #[command(
        after_help = "Examples:\n  cargo xtask mirror env --mirror cn\n  cargo xtask mirror env --mirror cn --shell sh           lines for `eval`, for tools used by hand\n  cargo xtask mirror env --mirror cn --shell docker       for `eval \"docker build $(…) .\"`"
    )]
    Env {
        /// Lines for this shell or file, to use the tools by hand; there is no fallback in these
        #[arg(long, value_enum)]
        shell: Option<crate::mirror::Shell>,
        /// Write values that hold credentials too
        #[arg(long, requires = "shell")]
        show_secrets: bool,
    },
    /// Print a shell script that gets Rust through a profile, for a machine that has none
    #[command(
        after_help = "Examples:\n  cargo xtask mirror bootstrap --mirror cn > bootstrap.sh\n  cargo xtask mirror bootstrap --mirror cn --format json"
    )]
    Bootstrap {
        /// Write a script that holds credentials
        #[arg(long)]
        show_secrets: bool,
    },
    /// Measure a profile's endpoints from here: who serves what this project needs, and how fast
    #[command(
        after_help = "Examples:\n  cargo xtask mirror probe\n  cargo xtask mirror probe cn --ecosystem crates --ecosystem go\n  cargo xtask mirror probe auto --fresh --format json"
    )]
    Probe(Probe),
    /// Write the choice of a profile into xtask.local.toml
    #[command(after_help = "Examples:\n  cargo xtask mirror use cn\n  cargo xtask mirror use off")]
    Use {
        /// Name of a profile; `off` leaves every tool as you configured it
        #[arg(value_name = "PROFILE|off")]
        name: String,
    },
}

#[derive(Debug, Args)]
pub struct Probe {
    /// Name of a profile [default: the one in force]
    #[arg(value_name = PROFILE)]
    pub name: Option<String>,
    /// Only this ecosystem: crates, go, python, hub, npm, apt, rustup, oci, file [default: all]
    #[arg(long, value_name = "NAME")]
    pub ecosystem: Vec<String>,
    /// Measure again what was measured lately
    #[arg(long)]
    pub fresh: bool,
}

#[derive(Debug, Args)]
pub struct Lock {
    #[command(subcommand)]
    pub command: Option<LockCommand>,
}

#[derive(Debug, Subcommand)]
pub enum LockCommand {
    /// Resolve pins anew and write xtask.lock
    #[command(after_help = "Examples:\n  cargo xtask lock update\n  cargo xtask lock update go --dry-run")]
    Update {
        /// `go`, `rustup`, a wheel set, a model, a Debian base, or the reference of a base from a registry [default: all]
        #[arg(value_name = PIN)]
        names: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Cache {
    /// What the cache holds and how much of it
    #[command(after_help = "Examples:\n  cargo xtask cache stats\n  cargo xtask cache stats --format json")]
    Stats,
    /// Read every byte; what is altered is set aside and made again when it is next needed
    #[command(after_help = "Examples:\n  cargo xtask cache verify\n  cargo xtask cache verify --dry-run    look only")]
    Verify,
    /// Remove what is old or too much; nothing that a running build uses
    #[command(
        after_help = "Examples:\n  cargo xtask cache gc --dry-run\n  cargo xtask cache gc --max-size 2GiB\n  cargo xtask cache gc --max-age 30"
    )]
    Gc {
        /// Size that the cache is brought below, downloads and the least recently used first [default: 10GiB]
        #[arg(long, value_name = "SIZE")]
        max_size: Option<Size>,
        /// Days without use after which a result may go; a time without any use counts 30 at most [default: 90]
        #[arg(long, value_name = "DAYS", value_parser = days)]
        max_age: Option<u64>,
    },
}

#[derive(Debug, Args)]
pub struct Clean {
    /// Also the caches of this user, and this tool's own build folder
    #[arg(long)]
    pub all: bool,
}

/// Shells that have a completion script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
    Powershell,
    Elvish,
}

#[derive(Debug, Args)]
pub struct Completions {
    /// Shell that reads the script
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct Man {
    /// Folder for a page of every command [default: the first page on standard output]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Help {
    /// Words of a command: `mirror use`
    #[arg(value_name = "COMMAND", conflicts_with = "from_make")]
    pub command: Vec<String>,
    /// A target of the old Makefiles [default: all, in groups]
    #[arg(long, value_name = "MAKE-TARGET", num_args = 0..=1)]
    pub from_make: Option<Option<String>>,
}

fn days(text: &str) -> std::result::Result<u64, String> {
    text.parse().map_err(|_| tr!("it must be a number of days"))
}

/// What clap says instead of a command: help goes out as it is, a mistake becomes an error of ours.
pub fn told(error: clap::Error) -> Result<()> {
    if !error.use_stderr() {
        // Help that cannot be printed is nobody's loss.
        let _ = error.print();
        return Ok(());
    }
    let text = error.render().to_string();
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Err(Error::new(Code::CommandLine, tr!("a command is missing")).excerpt(text));
    }
    // Paragraphs: the message, tips, the usage, where to find help.
    let mut paragraphs = text.trim_end().split("\n\n").map(|paragraph| paragraph.trim_matches('\n'));
    let message = paragraphs.next().unwrap_or_default();
    let mut it = Error::new(Code::CommandLine, foreign(message.strip_prefix("error: ").unwrap_or(message)));
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        Some(ContextValue::Strings(all)) => all.first().map(String::as_str),
        _ => None,
    };
    let command = context(ContextKind::InvalidSubcommand).zip(context(ContextKind::SuggestedSubcommand));
    let far_fetched = command.is_some_and(|(typed, near)| !is_slip(typed, near));
    let mut help = format!("{} --help", named_command());
    let mut hints = Vec::new();
    for paragraph in paragraphs {
        if let Some(usage) = paragraph.strip_prefix("Usage: ") {
            let is_command = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase());
            let words = usage.split_whitespace().take_while(is_command);
            help = words.chain(["--help"]).collect::<Vec<_>>().join(" ");
            it = it.excerpt(paragraph);
        } else {
            let tips = paragraph.lines().filter_map(|line| line.trim_start().strip_prefix("tip: "));
            // No name of ours begins with a dash.
            hints.extend(tips.filter(|tip| !tip.starts_with("to pass '") && !far_fetched).map(foreign));
        }
    }
    let unknown = context(ContextKind::InvalidArg).unwrap_or_default();
    if unknown.ends_with(".json") && help.starts_with("cargo xtask run ") {
        hints.push(tr!("did you mean `--once {unknown}`?", unknown));
    }
    if message.contains("'--release'") {
        hints.push(tr!("release is what is built where nothing else is said; --profile NAME chooses another"));
    }
    if hints.is_empty() {
        hints.push(tr!("`{help}` shows what can be said", help));
    }
    Err(hints.into_iter().fold(it, Error::hint))
}

/// The command that the words of this process name, as far as they do: a wrong value's error does not say it.
fn named_command() -> String {
    let (mut command, mut name) = (Cli::command(), "cargo xtask".to_owned());
    for word in std::env::args().skip(1) {
        let Some(below) = command.find_subcommand(&word).cloned() else { continue };
        name = format!("{name} {word}");
        command = below;
    }
    name
}

/// A third of the letters may be wrong; with more, another word was meant.
fn is_slip(typed: &str, near: &str) -> bool {
    strsim::damerau_levenshtein(typed, near) * 3 <= typed.len().max(near.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_word_gets_the_word_that_was_meant_and_no_far_fetched_one() {
        for (line, hint) in [
            ("xtask buidl", "a similar subcommand exists: 'build'"),
            ("xtask tset", "a similar subcommand exists: 'test'"),
            ("xtask docker", "`cargo xtask --help` shows what can be said"),
            ("xtask init", "`cargo xtask --help` shows what can be said"),
            ("xtask install", "`cargo xtask --help` shows what can be said"),
            ("xtask run examples/chat.json", "did you mean `--once examples/chat.json`?"),
            ("xtask plan --featurs cpu", "a similar argument exists: '--features'"),
        ] {
            let error = told(Cli::try_parse_from(line.split(' ')).unwrap_err()).unwrap_err();
            assert_eq!(error.hints(), [hint], "{}", error.render());
        }
    }

    #[test]
    fn global_flags_are_understood_before_and_after_the_command() {
        for words in [["xtask", "--mirror", "cn", "build"], ["xtask", "build", "--mirror", "cn"]] {
            assert_eq!(Cli::try_parse_from(words).unwrap().global.mirror.as_deref(), Some("cn"));
        }
    }
}
