//! `run`: the built stack natively, no container. Services start in the order of their needs, each once those before it are
//! ready; one Ctrl-C ends them all.

use crate::cli;
use crate::error::{Code, Error, Result};
use crate::execute::{Results, Workshop};
use crate::facts::Wants;
use crate::files;
use crate::interrupt;
use crate::language::right_aligned;
use crate::loopback::{self, Response};
use crate::process::{Companion, Invocation};
use crate::project::{self, Program, Project, Service};
use crate::report::{Event, Sink, seconds};
use crate::settings::{Settings, env, variables};
use crate::tr;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Loading a model takes a second or two; a slow disk takes longer.
const READY: Duration = Duration::from_secs(120);
/// A routed answer comes from a local backend.
const ANSWER: Duration = Duration::from_secs(60);

/// `service.ports.name` → port, and the other placeholders.
struct Places(BTreeMap<String, String>);

pub fn run(settings: &Settings, project: &Project, sink: Sink, args: &cli::Run) -> Result<()> {
    variables::refuse_old("run", &settings.environment)?;
    let declared = project.declaration.run.as_ref().ok_or_else(|| {
        project.source.error(
            Code::Undeclared,
            &["run"],
            &tr!("no [run] is declared, which says how to reach the stack"),
        )
    })?;
    // Before anything is built: a request that cannot be read is the cheapest mistake to report.
    let request = args.once.as_deref().map(read_request).transpose()?;
    let order = project.start_order()?;
    let wants = wants(settings, project)?;
    let configuration = configuration(settings, declared)?;
    let workshop = Workshop::new(settings, project, sink.clone())?;
    if settings.dry_run {
        return super::show_plan(&workshop, &wants, false);
    }
    let results = workshop.make(&wants, false, &|plan, facts| super::describe(&workshop, plan, facts, false))?;
    let ports = choose_ports(settings, project, request.is_some(), &sink)?;
    let stack =
        Stack { settings, workshop: &workshop, results: &results, places: places(settings, &ports, configuration) };
    let mut running = Running(Vec::new());
    for name in order {
        let service = &project.declaration.service[name];
        let started = stack.start(name, service, &mut running, &sink)?;
        running.0.push(started);
    }
    match request {
        Some(request) => {
            let port = ports[&(declared.service.clone(), declared.port.clone())];
            let response = ask(port, &declared.path, &request, &workshop.logs)?;
            let decision =
                declared.show_headers.iter().filter_map(|name| Some((name.clone(), response.header(name)?.to_owned())));
            sink.send(Event::Answer {
                status: response.status,
                decision: decision.collect(),
                body: String::from_utf8_lossy(&response.body).into_owned(),
            });
            accepted(&response, &workshop.logs)
        }
        None => {
            for (label, url) in &declared.urls {
                sink.note(format!("{label:>12} {}", stack.places.fill(url)?));
            }
            sink.note(format!(
                "{} {}",
                right_aligned(&tr!("logs"), 12),
                tr!("{folder} (Ctrl-C ends all)", folder = workshop.logs.display())
            ));
            watch(&mut running, &workshop.logs)
        }
    }
}

/// The stack's answer, whatever its status.
fn ask(port: u16, path: &str, request: &[u8], logs: &Path) -> Result<Response> {
    loopback::post_json(port, path, request, ANSWER).map_err(|error| {
        Error::new(Code::BadAnswer, tr!("the stack gave no answer on 127.0.0.1:{port}{path}", port, path))
            .because(error)
            .hint(tr!("logs: {folder}", folder = logs.display()))
    })
}

fn accepted(response: &Response, logs: &Path) -> Result<()> {
    if response.status < 400 {
        return Ok(());
    }
    Err(Error::new(Code::BadAnswer, tr!("the stack answered with HTTP {status}", status = response.status))
        .hint(tr!("logs: {folder}", folder = logs.display())))
}

/// The services of a stack, which end together: all are asked before the first is waited for.
struct Running(Vec<Companion>);

impl Running {
    /// A service that ended by itself is a failure.
    fn check(&mut self, logs: &Path) -> Result<()> {
        match self.0.iter_mut().find_map(|service| Some((service.name.clone(), service.ended()?))) {
            Some((name, status)) => Err(ended(&name, status, logs)),
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.iter().for_each(Companion::ask_to_end);
    }
}

/// Waits for Ctrl-C, or for a service to end by itself.
fn watch(running: &mut Running, logs: &Path) -> Result<()> {
    loop {
        interrupt::check()?;
        running.check(logs)?;
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn ended(name: &str, status: std::process::ExitStatus, logs: &Path) -> Error {
    let log = logs.join(format!("service-{name}.log"));
    let text = files::read_text(&log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(50)..].join("\n");
    Error::new(Code::ServiceFailed, tr!("service {name} ended ({status})", name, status))
        .excerpt(tail)
        .hint(tr!("whole output: {log}", log = log.display()))
}

fn read_request(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(|error| {
        Error::new(Code::UnreadableRequest, tr!("cannot read the request {path}", path = path.display()))
            .because(error)
            .hint(tr!("name a file with the JSON body of a request, as a client would send it"))
    })?;
    serde_json::from_slice::<serde_json::Value>(&bytes).map_err(|error| {
        Error::new(Code::UnreadableRequest, tr!("{path} is not JSON", path = path.display())).because(error).hint(tr!(
            "the body of a request looks like {example}",
            example = r#"{"model": "auto", "messages": [{"role": "user", "content": "…"}]}"#
        ))
    })?;
    Ok(bytes)
}

/// Everything that the services are made of.
pub(super) fn wants(settings: &Settings, project: &Project) -> Result<Wants> {
    let mut wants = super::no_wants(settings, project, &cli::Variant::default())?;
    for service in project.declaration.service.values() {
        match &service.program {
            Program::Binary(binary) => super::want_binary(&mut wants, project, binary),
            Program::Python { wheel_set } | Program::Wheel { wheel_set, .. } => {
                wants.wheel_sets.insert(wheel_set.clone());
            }
        }
        wants.models.extend(service.models.iter().cloned());
    }
    Ok(wants)
}

type Ports = BTreeMap<(String, String), u16>;

/// Declared ports where they are free. For one request any port will do; a stack that others are to reach must have its own.
fn choose_ports(settings: &Settings, project: &Project, any: bool, sink: &Sink) -> Result<Ports> {
    let mut ports = Ports::new();
    let mut taken = Vec::new();
    for (service, declared) in &project.declaration.service {
        for (name, port) in &declared.ports {
            let local = settings.local.ports.get(service).and_then(|ports| ports.get(name));
            let port = *local.unwrap_or(port);
            if !loopback::is_free(port) {
                taken.push((service.clone(), name.clone(), port));
            }
            ports.insert((service.clone(), name.clone()), port);
        }
    }
    if taken.is_empty() {
        return Ok(ports);
    }
    if !any {
        let (service, name, _) = &taken[0];
        let all: Vec<_> = taken.iter().map(|(service, name, port)| format!("{port} ({service}, {name})")).collect();
        return Err(Error::new(Code::PortTaken, tr!("taken by another program: port {all}", all = all.join(", "))).hint(tr!("end that program, perhaps another `cargo xtask run`, or write `[ports.{service}]` `{name} = …` into xtask.local.toml", service, name)));
    }
    for ((service, name, port), free) in taken.iter().zip(loopback::free_ports(taken.len())?) {
        sink.note(tr!("port {port} for {service} is taken; using {free} for this request", port, service, free));
        ports.insert((service.clone(), name.clone()), free);
    }
    Ok(ports)
}

/// The stack's configuration file: CONFIG_FILE as of old, else the declared one; relative to the checkout.
fn configuration(settings: &Settings, declared: &project::Run) -> Result<Option<String>> {
    let Some(path) = settings.environment.get(env::CONFIG_FILE) else { return Ok(declared.config.clone()) };
    if declared.config.is_some() && settings.workspace.root.join(path).is_file() {
        return Ok(Some(path.to_owned()));
    }
    let name = env::CONFIG_FILE;
    let error = match &declared.config {
        Some(config) => Error::new(Code::OldVariable, tr!("{name} is `{path}`, and there is no such file", name, path))
            .hint(tr!("name a file relative to the checkout, or unset {name} for {config}", name, config)),
        None => Error::new(Code::OldVariable, tr!("{name} is set, and [run] of xtask.toml has no `config`", name))
            .hint(tr!("unset {name}; write instead: `config = …` under [run], `{{run.config}}` in the services", name)),
    };
    Err(error)
}

fn places(settings: &Settings, ports: &Ports, configuration: Option<String>) -> Places {
    let mut places: BTreeMap<String, String> =
        ports.iter().map(|((service, name), port)| (format!("{service}.ports.{name}"), port.to_string())).collect();
    places.extend(configuration.map(|path| ("run.config".to_owned(), path)));
    places.insert("root".to_owned(), settings.workspace.root.display().to_string());
    places.insert("run".to_owned(), settings.workspace.run().display().to_string());
    Places(places)
}

impl Places {
    /// Replaces each `{name}`; those of xtask.toml were checked when it was read.
    fn fill(&self, text: &str) -> Result<String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let found = after.split_once('}').and_then(|(name, behind)| Some((self.0.get(name)?, behind)));
            let (value, behind) = found.ok_or_else(|| Error::bug(tr!("a placeholder of `{text}` is unknown", text)))?;
            filled.push_str(before);
            filled.push_str(value);
            rest = behind;
        }
        filled.push_str(rest);
        Ok(filled)
    }
}

struct Stack<'a> {
    settings: &'a Settings,
    workshop: &'a Workshop<'a>,
    results: &'a Results,
    places: Places,
}

impl Stack<'_> {
    /// Starts a service and waits until it is ready; an early end of it or of one before it is the error.
    fn start(&self, name: &str, service: &Service, before: &mut Running, sink: &Sink) -> Result<Companion> {
        let start = Instant::now();
        let invocation = self.invocation(name, service)?;
        let log = self.workshop.logs.join(format!("service-{name}.log"));
        let mut companion = Companion::start(name, &invocation, &log, false)?;
        let port = &service.ready.port;
        let port: u16 = self
            .places
            .fill(&format!("{{{name}.ports.{port}}}"))?
            .parse()
            .map_err(|_| Error::bug(tr!("a port is no number")))?;
        loop {
            interrupt::check()?;
            if let Some(status) = companion.ended() {
                return Err(ended(name, status, &self.workshop.logs));
            }
            before.check(&self.workshop.logs)?;
            let answer = loopback::get(port, &service.ready.path, Duration::from_secs(2));
            if answer.is_ok_and(|answer| answer.status == 200) {
                break;
            }
            if start.elapsed() > READY {
                return Err(Error::new(
                    Code::ServiceFailed,
                    tr!("service {name} was not ready after {seconds} s", name, seconds = READY.as_secs()),
                )
                .hint(tr!("whole output: {log}", log = log.display())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let url = format!("http://127.0.0.1:{port}");
        sink.send(Event::Ready { service: name.to_owned(), url, seconds: seconds(start.elapsed()) });
        Ok(companion)
    }

    fn invocation(&self, name: &str, service: &Service) -> Result<Invocation> {
        let mut places = Places(self.places.0.clone());
        for port in service.ports.keys() {
            let value = self.places.fill(&format!("{{{name}.ports.{port}}}"))?;
            places.0.insert(format!("ports.{port}"), value);
        }
        if let Some(config) = &service.config {
            let path = self.settings.workspace.run().join(format!("{name}.yaml"));
            let text = crate::process::ask(&Invocation {
                program: self.settings.workspace.dist_bin(None).join(&config.binary),
                arguments: config.arguments.iter().map(|word| Ok(places.fill(word)?.into())).collect::<Result<_>>()?,
                directory: self.settings.workspace.root.clone(),
                environment: self.settings.environment.only(env::PASSED),
            })?;
            files::write(&path, text.as_bytes())?;
            places.0.insert("config".to_owned(), path.display().to_string());
        }
        let mut environment = self.settings.environment.only(env::PASSED);
        environment.extend(self.settings.environment.only(env::PASSED_TO_RUN));
        for (name, value) in &service.environment {
            environment.insert(name.clone(), places.fill(value)?.into());
        }
        let mut arguments: Vec<OsString> = Vec::new();
        let program = match &service.program {
            Program::Binary(binary) => self.settings.workspace.dist_bin(None).join(binary),
            Program::Python { wheel_set } => {
                let (program, first) = self.python(wheel_set, &mut environment)?;
                arguments = first;
                program
            }
            Program::Wheel { wheel_set, path } => {
                self.workshop.root_of(self.results, &format!("wheel-set:{wheel_set}"))?.join(path)
            }
        };
        for word in &service.arguments {
            arguments.push(places.fill(word)?.into());
        }
        let directory = self.settings.workspace.root.join(service.directory.as_deref().unwrap_or("."));
        Ok(Invocation { program, arguments, directory, environment })
    }

    /// The interpreter with exactly the wheel set and the working folder to import from.
    fn python(
        &self,
        wheel_set: &str,
        environment: &mut BTreeMap<String, OsString>,
    ) -> Result<(PathBuf, Vec<OsString>)> {
        let python =
            self.results.facts.python.as_ref().ok_or_else(|| Error::bug(tr!("nobody asked which Python there is")))?;
        let tree = self.workshop.root_of(self.results, &format!("wheel-set:{wheel_set}"))?;
        python_environment(self.workshop, &tree, Some(Path::new(".")), environment)?;
        Ok((python.path.clone(), python_flags(python.interpreter.version)))
    }
}

/// No site packages: what is installed on this machine must not decide what runs. From 3.11 on the script's folder stays out too.
pub(super) fn python_flags(version: (u32, u32)) -> Vec<OsString> {
    let flags: &[&str] = if version >= (3, 11) { &["-S", "-P"] } else { &["-S"] };
    flags.iter().map(OsString::from).collect()
}

pub(super) fn python_environment(
    workshop: &Workshop,
    tree: &Path,
    source: Option<&Path>,
    environment: &mut BTreeMap<String, OsString>,
) -> Result<()> {
    let folders = source.map(Path::to_owned).into_iter().chain(workshop.wheel_folders(tree)?);
    let path =
        std::env::join_paths(folders).map_err(|error| Error::bug(tr!("a folder's name has a colon")).because(error))?;
    environment.insert("PYTHONPATH".to_owned(), path);
    // Byte code beside the wheels would alter what the store verifies.
    environment.insert("PYTHONDONTWRITEBYTECODE".to_owned(), "1".into());
    environment.insert("PYTHONUNBUFFERED".to_owned(), "1".into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Source;
    use crate::project::Local;
    use crate::settings::env::Environment;
    use crate::workspace::Workspace;
    use std::os::unix::process::ExitStatusExt as _;

    #[test]
    fn a_taken_port_is_named_and_any_other_serves_one_request() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let text = format!(
            "project.name = 'x'\n[service.web]\nprogram.binary = 'web'\nready = {{ port = 'http', path = '/' }}\nports.http = {port}\n"
        );
        let source = Source::new(Path::new("xtask.toml"), text.as_bytes());
        let project = Project { declaration: source.parse().unwrap(), pins: Default::default(), source };
        let environment = Environment([("HOME".to_owned(), "/home/me".into())].into());
        let workspace = Workspace { root: "/repo".into() };
        let args = cli::Global::default();
        let settings =
            Settings::resolve(&args, workspace, environment, Local::default(), &project.declaration, false).unwrap();
        let error = choose_ports(&settings, &project, false, &Sink::nowhere()).unwrap_err();
        assert_eq!(error.code(), Code::PortTaken);
        assert!(error.to_string().contains(&format!("{port} (web, http)")), "{error}");
        assert!(error.hints()[0].contains("`[ports.web]` `http = …`"), "{:?}", error.hints());
        let ports = choose_ports(&settings, &project, true, &Sink::nowhere()).unwrap();
        assert_ne!(ports[&("web".to_owned(), "http".to_owned())], port);
    }

    #[test]
    fn an_ended_service_shows_its_last_lines_and_its_log() {
        let logs = files::temporary_folder(&std::env::temp_dir(), "logs").unwrap();
        let lines: Vec<String> = (1000..1100).map(|line| line.to_string()).collect();
        files::write(&logs.join("service-web.log"), lines.join("\n").as_bytes()).unwrap();
        let error = ended("web", std::process::ExitStatus::from_raw(256), &logs);
        assert_eq!(error.code(), Code::ServiceFailed);
        let text = error.render();
        assert!(!text.contains("1049") && text.contains("1050\n") && text.contains("1099\n"), "{text}");
        assert!(text.contains(&format!("whole output: {}", logs.join("service-web.log").display())), "{text}");
        files::remove(&logs).unwrap();
    }

    #[test]
    fn no_answer_and_a_refusal_are_failures() {
        let free = loopback::free_ports(1).unwrap()[0];
        assert_eq!(ask(free, "/", b"{}", Path::new("logs")).unwrap_err().code(), Code::BadAnswer);
        let response = |status| Response { status, headers: Vec::new(), body: Vec::new() };
        accepted(&response(200), Path::new("logs")).unwrap();
        let error = accepted(&response(503), Path::new("logs")).unwrap_err();
        assert!(error.code() == Code::BadAnswer && error.to_string().contains("503"), "{error}");
    }
}
