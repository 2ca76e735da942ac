//! What can go wrong, one [`Code`] a kind of failure that a person could look up, with the text that `explain` prints.
//!
//! A code decides the exit code, so the two cannot disagree. Its number is a contract like the exit codes: `XT0` and the exit
//! code, then a counter (XT0601 ends with 6); of the exit codes above 99 all three digits (XT1010 ends with 101). A number is
//! never given a second meaning; what is no longer needed leaves a gap. docs/errors.md is written from here.

/// The process's exit codes: a contract with scripts, never renumbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ExitCode {
    Ok = 0,
    Usage = 2,
    Configuration = 3,
    Network = 4,
    Integrity = 5,
    Disk = 6,
    LockTimeout = 7,
    Missing = 8,
    Child = 9,
    Bug = 101,
    Interrupted = 130,
    Terminated = 143,
}

impl ExitCode {
    pub const ALL: &[Self] = &[
        Self::Ok,
        Self::Usage,
        Self::Configuration,
        Self::Network,
        Self::Integrity,
        Self::Disk,
        Self::LockTimeout,
        Self::Missing,
        Self::Child,
        Self::Bug,
        Self::Interrupted,
        Self::Terminated,
    ];

    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "what was asked for is done",
            Self::Usage => "the command line cannot be used as it is",
            Self::Configuration => {
                "a file or a variable holds something that cannot be used, or lacks something needed"
            }
            Self::Network => "nothing usable could be reached",
            Self::Integrity => "bytes arrived or were found that are not the pinned ones",
            Self::Disk => "reading or writing on this machine failed",
            Self::LockTimeout => "another process held a lock for too long",
            Self::Missing => "a program that must be installed is not, or does not work",
            Self::Child => "a build, test or service that was started failed; its own code is in the message",
            Self::Bug => "a defect of this tool",
            Self::Interrupted => "ended by Ctrl-C",
            Self::Terminated => "ended by SIGTERM or SIGHUP",
        }
    }
}

/// One line a code: variant, number, title. The text below it says what it means, what usually causes it and what to do.
macro_rules! codes {
    ($($variant:ident = $number:literal, $title:literal, $explanation:literal;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Code {
            $($variant = $number,)*
        }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// What happened, in a line.
            pub const fn title(self) -> &'static str {
                match self {
                    $(Self::$variant => $title,)*
                }
            }

            /// Paragraphs for whoever looks the code up, in Markdown that also reads well in a terminal.
            pub const fn explanation(self) -> &'static str {
                match self {
                    $(Self::$variant => $explanation.trim_ascii(),)*
                }
            }
        }
    };
}

codes! {
    CommandLine = 201, "the command line cannot be understood", "
A command or flag is unknown, lacks its value, or contradicts another one. Nothing was done.

`cargo xtask help` lists the commands, `--help` after a command its flags with examples.
";
    UnknownName = 202, "nothing has the name that was given", "
The command line names a target, feature set, suite, pin or code that there is not. Nothing was done.

Usually a typing mistake: the message lists the names there are and the nearest one. Names of targets, feature sets, suites
and models come from `xtask.toml`.
";
    UnknownChoice = 203, "a flag has a value that there is not", "
The flag chooses among fixed values, and was given another one. Nothing was done.

The message lists the values there are.
";
    UnreadableRequest = 204, "the request file cannot be used", "
The file given to `run --once` cannot be read or is not JSON. It is read before anything is built, so nothing was done.

`examples/chat.json` is one that works.
";

    NoProject = 301, "there is no project here", "
The tool works on a checkout with an `xtask.toml` and found none: neither in the current folder nor above it, nor where
`--repo` points.

Go into the checkout, or name it with `--repo DIR`.
";
    Syntax = 302, "a file is not TOML", "
`xtask.toml`, `xtask.local.toml`, `xtask.lock` or a `Cargo.lock` cannot be parsed. The message says where parsing stopped; the
mistake is there or shortly before it. Usual ones: a missing quote or bracket, a table or key that is there twice, a merge left
undone.

`xtask.lock` is written by this tool: if it was damaged, take the committed one back with Git.
";
    UnknownKey = 303, "a file has a key that there is not", "
Keys are never ignored: a misspelt one would silently do nothing. The message lists the keys that its table may have.

Usually a typing mistake, a key in the wrong table, or a file written for another version of this tool. `cargo xtask schema`
prints the JSON Schema of `xtask.toml`; editors check and complete with it.
";
    WrongValue = 304, "a file holds a value that cannot be used", "
The key exists, but its value has the wrong type, is none of the possible ones, or is missing.

    path = 3            # a number where a text must be
    path = \"binding\"    # right

The message says what was found and what is expected.
";
    Undeclared = 305, "something is named that is declared nowhere", "
A table of `xtask.toml` refers to another one by name, or a placeholder such as `{router.http}` to a port or a folder, and
there is nothing of that name; or it names a file that does not exist.

    [go-binary.router]
    links = [\"bindng\"]          # declared is [native-library.binding]

Correct the name, or declare what it means.
";
    BadName = 306, "a name cannot be used", "
Names in `xtask.toml` become file names and what is typed on the command line. They are made of letters, digits, `-`, `_` and
`.`, begin with no `.`, and no two things that could be meant by one word may share one: neither a native library and a Go
binary, nor the files of two libraries.

Choose another name, also where the old one is referred to.
";
    NoProfile = 308, "there is no such mirror profile", "
A profile is named that is neither built in nor defined, or a flag such as `--egress` needs one and none is in force. The
order is `--mirror`, `XTASK_MIRROR`, `mirror.use` in `xtask.local.toml`, then in `xtask.toml`.

`cargo xtask mirror list` shows the profiles. One of your own is a table in `xtask.local.toml`:

    [mirror.office.go]
    proxy = [\"https://packages.example.com/go\"]
";
    BadVariable = 307, "a variable holds a value that cannot be used", "
One of our variables (`XTASK_…`) chooses among fixed values, or is a number, and holds something else. Nothing was done.

The message lists what it may hold. It may have been set long ago: look for `XTASK_` in the output of `env`, and unset it.
";
    NoHome = 309, "there is no place for caches", "
Neither a variable that names a cache folder nor `HOME` is set, as happens in a bare container or service.

Set `XTASK_CACHE_DIR` (this tool) or `CARGO_HOME` (cargo) to a folder that this user may write.
";
    NotPinned = 310, "xtask.lock does not pin what is needed", "
Everything that is fetched is fixed by its hash in `xtask.lock` before it is fetched. Something that `xtask.toml` declares has
no entry there: usually it was added, or its version changed, and the lock was not updated.

`cargo xtask lock update NAME` asks the sources and writes the entry; read the change and commit it.
";
    CannotPin = 311, "what is declared cannot be pinned", "
`lock update` found nothing in the declaration that it could pin: a requirement that is no `project==version`, a model none of
whose sources is at hand, or one whose wheel differs from machine to machine. Or a base of Debian packages: one that no suite has,
needs what is not there, or cannot be beside another; or nothing here can check Debian's signature. Or a base from a registry that
is for none of the platforms that images are made for.

Correct the entry in `xtask.toml` that the message names.
";
    BadPackage = 312, "a package is not what xtask.toml says it is", "
A native library must be a Cargo package with a `cdylib` and a `Cargo.lock` of its own, a Go binary a main package in a Go
module, and everything that enters it must lie inside the repository. `Cargo.lock`, or `go.mod` and `go.sum`, must fit what is
built: after an edit of `Cargo.toml`, `cargo update --workspace` in its folder brings them together, after a new import in Go
`go mod tidy`.

    [lib]
    crate-type = [\"cdylib\"]

The message names the file that is missing or says something else. A Debian package of a base must be what its pin says and hold
files, folders and links below the root alone, none of them in two packages; `exclude` of its table leaves a path out.
";
    UndeclaredInput = 313, "a build reads something that is not declared", "
A compiler, cgo or a build script reads a file or a variable that is not an input of the step, so a change of it would go
unnoticed and a stale result would be used. Nothing was published.

Add the file to `sources`, the variable to `environment`, of the table in `xtask.toml` that the message names. A build script
prints `cargo:rerun-if-changed=` for each file that it reads; what cgo reads is in a Go module of the project or installed.
";
    ServiceCycle = 314, "services wait for each other", "
`after` says which services must be ready before one is started. Those in the message form a circle, so none can be first.

Take one of them out of the other's `after` in `xtask.toml`.
";
    PortTaken = 315, "a port is not free", "
Another program listens on a port of this stack, often another `cargo xtask run`. `run --once` takes free ports by itself; a
stack that stays up does not, since somebody relies on them.

End that program, or write another port into `xtask.local.toml`:

    [ports.envoy]
    http = 8802
";
    NoEndpoint = 316, "nothing says where to fetch from", "
An artifact has to be fetched, and for its ecosystem there is no usable endpoint: the profile lists none, its settings or the
proxy's cannot be used, or without a profile no installed tool told its default.

Choose a profile with `--mirror NAME`, or list endpoints under `[mirror.NAME.ECOSYSTEM]` in `xtask.local.toml`.
";
    OldVariable = 317, "a variable of the old Makefiles cannot be obeyed", "
A variable is set that the old Makefile obeyed where this command stands now, and this command cannot. Passing over it in
silence would give you something else than you asked for. Nothing was done.

Unset it; the hint says what to write instead. docs/variables.md has all of them.
";

    BadImage = 318, "an image cannot be made as it is declared", "
Two things of an image want the same path, a path cannot be in an image, a Debian package or a layer of a base from a registry
holds what no image may hold (a device, a path that leads outside, what two readers of archives would understand differently), or
the image is larger than its `max-megabytes`.

The message names the path or the size. Change `[image.NAME]` or `[debian-base.NAME]` in xtask.toml.
";
    WouldNotStart = 319, "a program would not start in the image", "
Before an image is put anywhere, every ELF file in it is looked at as the dynamic linker would: its interpreter, the libraries
that it needs, the symbol versions that it wants of them, the kind of processor. Something of that is not in the image.

A library that is missing belongs into `packages` of the base, or into a layer. A symbol version that is newer than what the
base offers (`GLIBC_2.38`) means that it was built on a newer system than the base: use a base of a newer suite, or build on
an older system.
";
    LeakedSecret = 320, "an image would give a credential away", "
Before images are put anywhere, the credentials of this run are looked for in the files of their layers, in configuration and
manifest, and in what is attached: those of the mirror profile and its proxy, of variables such as `HF_TOKEN` and
`HTTPS_PROXY`, and of the files in which Docker and podman keep them. One was found; it is named by who told it, and never
shown. What is shorter than 8 characters stands everywhere by chance and is not looked for.

Take it out of the file that is named, and revoke it if that file was handed out before. Where the text only looks like the
credential, choose a credential that is none of the image's words.
";
    LacksFeature = 321, "an image's configuration asks for what its library was built without", "
A file of the image holds a setting that the library can obey only if it was built with a cargo feature
(`feature-of-setting` of `[native-library.NAME]` in xtask.toml), and it was built without. It would be started all the same, and
do something else than was asked for: compute on the CPU, for instance, while everybody thinks that it is the GPU.

Build the images with a feature set that has it (`cargo xtask images --features cuda`), or change the setting.
";
    ImagesDiffer = 907, "two images differ", "
`images diff` found files that are not the same in both. It is a result, not a fault.

Each line says what differs: kind, mode, owner, time or content.
";
    Unreachable = 401, "nothing usable could be reached", "
Each endpoint was tried, in the profile's order, with a bound on every wait. The lines below the message say of each: address,
proxy, how it ended. Usual causes: no network, a proxy that has to be named in `HTTPS_PROXY`, a firewall that drops packets
silently, a certificate of your organisation that has to be named in `SSL_CERT_FILE`.

`cargo xtask mirror list` shows the profiles; `--mirror NAME` chooses one for this run. What was received so far is kept and
continued by the next run.
";
    Offline = 402, "something is missing and --offline forbids fetching it", "
`--offline`, `XTASK_OFFLINE` or `offline` in `xtask.local.toml` allows no connection, and the caches of this user do not hold
what the message names.

Run the same command once without it: from then on it is there, for every checkout of this user.
";
    Silent = 403, "a program waited for the network for too long", "
A tool that fetches by itself said nothing for so long that it was ended, as happens behind a firewall that drops packets
silently. The log has everything it said.

Choose a mirror profile with `--mirror NAME`, or name your proxy in `HTTPS_PROXY`.
";
    IndexLacks = 404, "the index does not have what is to be pinned", "
`lock update` reached the index, and it has no such version, no wheel for the supported machines, or no hash and size of it.

Check the version in `xtask.toml`. If the index is a mirror, it may lag behind or leave the hashes out: choose another one with
`--mirror NAME` for this command.
";

    OutsideProfile = 405, "only a host outside the profile could deliver it", "
`--egress mirrors-only` (or a profile that says so itself) is a promise that nothing outside the profile is contacted. An
endpoint led there, by a redirect or by the links of its index, and the connection was not made. The lines below the message
name each URL that wanted out.

If that host may be contacted, add it to `hosts` of the profile: `[mirror.NAME] hosts = [\"cdn.example.com\"]` in
`xtask.local.toml`. If it may not, put an endpoint that keeps the files itself first.
";
    NotPushed = 406, "a registry does not take an image", "
`images --to registry:…` reached the registry, and it refused: no login or a wrong one, no right to push there, a tag that may
not be moved, a limit on sizes, or answers that no registry gives. The line below the message says what it answered to which
URL.

Log in with `docker login HOST` or `podman login HOST`: their files and helpers are read. The tag is set last, so that it
names the image of before or the whole new one; the next run sends only what the registry does not have yet.
";

    OtherBytes = 501, "the bytes are not the pinned ones", "
Something arrived, or was found in a folder of yours, whose hash differs from the one in `xtask.lock` or in a lock file of
cargo or Go. It was thrown away and used by nobody. No setting switches this check off.

Either the sender altered it: a mirror that repacks, a proxy that answers with a page of its own, an attack. Leave that mirror
out of the profile, or use another with `--mirror NAME`. Or the pin is wrong: compare it with the publisher's hash before
you change it with `cargo xtask lock update NAME`.
";
    AlteredObject = 502, "a stored result was altered", "
A file in the cache no longer has the hash that is its name: somebody edited it, or the disk is failing. It was set aside in
`quarantine` and is not used.

Run the command again: the result is made anew. If it happens again, check the disk.
";

    DiskFull = 601, "the file system is full", "
Writing failed for lack of space or of quota. No half-written file was left under a final name, and everything finished so far
is kept: the next run goes on from there.

Free some space, or move the cache to another file system with `XTASK_CACHE_DIR`. A build tree may be deleted at any time:
`target/xtask` costs a rebuild, the cache a download.
";
    ReadOnly = 602, "the file system is read-only", "
Results are written into the checkout (`dist`, `models`, `target/xtask`) and into the cache. One of them cannot be written at
all: a mount without write access, or one that the system made read-only after an error.

`XTASK_CACHE_DIR` moves the cache elsewhere; for the checkout, use a copy that can be written.
";
    PermissionDenied = 603, "this user may not do that", "
A file or folder belongs to somebody else, or its mode forbids it. Often an earlier run as root, or a container, left it behind.

Give it back with `chown`, or delete it if the message names something in `target/xtask` or in the cache.
";
    Disk = 604, "reading or writing failed", "
The system refused an operation on a file; its own words are the cause in the message. Usual ones: a file where a folder must
be, something deleted while it was used, a name that is too long, an input/output error of a failing disk.

Look at the path in the message with `ls -ld`; after an input/output error, at the system's log with `dmesg`.
";

    LockTimeout = 701, "another process kept a lock for too long", "
Each result is made by one process at a time; the others wait, visibly, and use what it made. This one gave up. The message says
who holds the lock: usually another `cargo xtask` in the middle of a long build. A process that ended, however it ended,
holds nothing.

Wait for it, or end it. `XTASK_LOCK_TIMEOUT` sets the limit in seconds.
";

    NoRust = 801, "there is no working Rust", "
`cargo` and `rustc` build the native library and were not found on `PATH`, or `rustc` does not say what it is.

With rustup: `rustup default stable`. In China: `RUSTUP_DIST_SERVER=https://rsproxy.cn rustup default stable`.
";
    NoCompiler = 802, "there is no C compiler", "
Rust and Go link with it. `CC` names one; otherwise `cc` or `gcc` must be on `PATH`.

Debian and Ubuntu: the packages `gcc` and `libc6-dev`. Fedora: `gcc` and `glibc-devel`. Alpine: `gcc` and `musl-dev`.
";
    NoGo = 803, "there is no usable Go", "
No `go` on `PATH` is new enough for `toolchain.go.minimum` in `xtask.toml`, and `xtask.lock` pins no toolchain for this machine.

Install Go, or add the pin on a machine that has one, with `cargo xtask lock update go`.
";
    NoPython = 804, "there is no usable Python", "
`python3` is not on `PATH`, older than 3.10, or of a version or machine for which `xtask.lock` pins no wheels. Only the
interpreter is needed: no pip, no virtual environment.

Install one between 3.10 and 3.14 and put it first on `PATH`.
";
    NoAnswer = 805, "an installed program gives no usable answer", "
A short question (`rustc -vV`, `go version`) failed, took a minute, or was answered with something else. Often a wrapper script,
or a toolchain manager that wants to fetch something first.

The message has the command as it can be typed: run it by hand to see more.
";
    CannotStart = 806, "a program cannot be started", "
The system did not start it: it is not there, this user may not execute it, or it is made for another machine. The cause in the
message has the system's words.

If it is one of this project's own (`dist/bin`), build it again; otherwise install it, or correct `PATH`.
";
    NoEngine = 807, "there is no container engine that answers", "
`images --to docker` puts images into a container engine, and none answers. What was typed with `--engine` is asked alone, then
what `DOCKER_HOST` names, then the Docker context in force, then the usual sockets of Docker, Colima, Rancher Desktop and podman.
The message lists where was looked and why nobody answered there.

Start the engine, or say where it listens: `--engine unix:///PATH`. No engine is needed to make images: `--to oci:DIR` and
`--to tar:FILE` write them to disk.
";
    EngineFailed = 808, "the container engine did not do what it was asked", "
The engine answered, and then refused, speaks an API that is too old, went away in the middle, or did nothing any more. Its own
words are the cause in the message. Nothing half-loaded has a name in it.

Look at its log (`journalctl --unit docker`), restart it if it is gone, and run the command again: what it has is not sent twice.
`cargo xtask images engine` says which one it is.
";

    ChildFailed = 901, "a program that was started failed", "
A compiler or another tool ended with a failure. Its own exit code is in the message, its last lines are below, and the log that
the hint names has all of it, with the command as it can be typed.

The cause is in what was built: correct it and run the same command again. What was finished before is not made again.
";
    ServiceFailed = 902, "a service of the stack did not stay up", "
A service ended by itself, or was not ready in time. Its last lines are below; the log that the hint names has all of it.

Usual causes: a mistake in its configuration, a port that somebody else took meanwhile, too little memory for the model.
";
    BadAnswer = 903, "the stack gave no good answer", "
Every service is up, the request of `run --once` was sent, and it came back with an error or not at all.

The logs of all services are in the folder that the hint names; begin with the one that was asked.
";
    SuiteFailed = 904, "a test suite failed", "
At least one suite that ran failed, or one that `--require` names could not run. What failed is in the output above and whole
in the logs.

`cargo xtask test SUITE` runs one of them alone.
";
    Findings = 906, "a linter has findings", "
At least one linter found something, had nothing to look at, or is named by `--require` and could not run. The findings are
in the output above and whole in the logs. No file was changed.

`cargo xtask lint NAME` runs one of them alone.
";
    InputsChanged = 905, "a source was edited while it was built", "
The inputs of a step were not the same after the work as before it, so nobody could say what the result was made of. Nothing was
published.

Run the command again.
";

    Bug = 1010, "a defect of this tool", "
The program met a state that its own logic rules out. It is not your mistake, and nothing half-made was published: results appear
under their names only when they are whole.

Please report it with the message and the log that it names. Trying again does no harm.
";
    Interrupted = 1300, "ended by Ctrl-C", "
You ended it. Children were ended too; everything finished so far is kept, and the next run goes on from there.
";
    Terminated = 1430, "ended by a signal", "
The process received SIGTERM or SIGHUP: somebody ended it, or its terminal went away. Children were ended too; everything
finished so far is kept, and the next run goes on from there.
";
}

impl Code {
    /// `XT` and four digits, for ever.
    pub fn id(self) -> String {
        format!("XT{:04}", self as u16)
    }

    pub const fn exit(self) -> ExitCode {
        match self as u16 {
            200..300 => ExitCode::Usage,
            300..400 => ExitCode::Configuration,
            400..500 => ExitCode::Network,
            500..600 => ExitCode::Integrity,
            600..700 => ExitCode::Disk,
            700..800 => ExitCode::LockTimeout,
            800..900 => ExitCode::Missing,
            900..1000 => ExitCode::Child,
            1300..1310 => ExitCode::Interrupted,
            1430..1440 => ExitCode::Terminated,
            _ => ExitCode::Bug,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_holds_its_exit_code() {
        for code in Code::ALL {
            let (number, exit) = (*code as i32, code.exit() as i32);
            assert!(number / 100 == exit || number / 10 == exit, "{} ends with {exit}", code.id());
        }
    }
}
