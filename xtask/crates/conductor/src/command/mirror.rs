//! `mirror list|show|env|bootstrap|use`; `probe` has a file of its own.

use super::print;
use crate::cli::Mirror;
use crate::error::{Code, Error, Result};
use crate::execute::outside::{self, Outside};
use crate::files;
use crate::language::translated;
use crate::mirror::Ecosystem;
use crate::mirror::env::Tool;
use crate::mirror::{self, Shell};
use crate::project::Project;
use crate::project::pins::Rustup;
use crate::report::{Event, Sink};
use crate::satellite;
use crate::settings::{Format, MirrorChoice, Settings};
use crate::tr;
use std::collections::{BTreeMap, BTreeSet};

pub fn mirror(settings: &Settings, project: &Project, sink: Sink, command: &Mirror) -> Result<()> {
    // Listing and choosing must work although a name that nobody knows is in force: they are the way out.
    let profiles = outside::profiles(settings, project)?;
    let outside = || Outside::new(settings, project, sink.clone(), settings.workspace.logs().join("mirror.log"));
    let chosen = match &settings.mirror.value {
        MirrorChoice::Named(name) => Some(name.as_str()),
        MirrorChoice::Off => None,
    };
    match command {
        Mirror::List => {
            for profile in profiles.list(chosen) {
                let mark = if profile.selected { "*" } else { " " };
                let date = profile.as_of.as_deref().map(|date| tr!(", as of {date}", date)).unwrap_or_default();
                let origins: Vec<&str> = profile.origins.iter().map(|origin| translated(origin)).collect();
                let purpose = purpose(&profile.name).map(|text| tr!(": {message}", message = text)).unwrap_or_default();
                let text = format!("{mark} {:<12} {}{date}{purpose}", profile.name, origins.join(", "));
                print(settings, "mirror", &profile, &text)?;
            }
            match chosen {
                Some(mirror::AUTO) => sink.note(tr!("mirror auto is in force: each tool's own default, then every mirror here")),
                Some(name) => drop(outside::resolve(&profiles, name, None, outside::chosen_in(settings, project))?),
                None => sink.note(tr!("no profile is in force: each tool does what you configured (`cargo xtask mirror use NAME` chooses one)")),
            }
        }
        Mirror::Show { name } => {
            let Some(name) = name.as_deref().or(chosen) else {
                return Err(Error::new(Code::CommandLine, tr!("no profile is in force; name one"))
                    .hint(tr!("cargo xtask mirror list shows them")));
            };
            let profile = outside()?.resolved(name)?;
            print(settings, "mirror", &profile, &described(&profile))?;
        }
        Mirror::Env { shell: Some(shell), show_secrets } => {
            let text = exported(&outside()?, *shell, *show_secrets, &sink);
            print(settings, "mirror", &serde_json::json!({ "text": text }), text.trim_end())?;
        }
        Mirror::Bootstrap { show_secrets } => {
            let outside = outside()?;
            let profile = outside.profile().ok_or_else(|| {
                Error::new(Code::NoProfile, tr!("a script needs the mirrors of a profile, and none is in force"))
                    .hint("cargo xtask mirror bootstrap --mirror cn")
            })?;
            let text = bootstrap(profile, project, *show_secrets)?;
            print(settings, "mirror", &serde_json::json!({ "text": text }), text.trim_end())?;
        }
        Mirror::Env { shell: None, .. } => {
            let outside = outside()?;
            let tools = outside.plain_mappings();
            if settings.format == Format::Json {
                let (steps, egress) = (Vec::new(), Vec::new());
                sink.send(Event::Plan { steps, egress, tools, asked: true });
                return Ok(());
            }
            let mut lines = remarks(&outside);
            if outside.profile().is_some() {
                lines.push(tr!(
                    "a build asks all endpoints in turn instead; `cargo xtask build --dry-run` shows its settings"
                ));
            }
            for tool in &tools {
                lines.push(tool.tool.clone());
                lines.extend(tool.lines().iter().map(|line| format!("  {line}")));
            }
            print(settings, "mirror", &(), &lines.join("\n"))?;
        }
        Mirror::Probe(asked) => super::probe::probe(settings, project, sink, asked)?,
        Mirror::Use { name } => {
            if name != "off" {
                outside::resolve(&profiles, name, None, None)?;
            }
            let path = settings.workspace.local();
            let before = files::read_if_present(&path)?
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .unwrap_or_default();
            let after = mirror::select(&before, name);
            if settings.dry_run {
                sink.note(tr!("would write {path}:\n{after}", path = path.display(), after));
            } else {
                files::write(&path, after.as_bytes())?;
                sink.note(tr!(
                    "{path} now says: mirror {name}",
                    path = settings.workspace.relative(&path).display(),
                    name
                ));
            }
        }
    }
    Ok(())
}

/// What whoever uses these settings by hand must know.
pub(super) fn remarks(outside: &Outside) -> Vec<String> {
    let Some(profile) = outside.profile() else {
        return vec![tr!("no profile is in force: each tool does what you configured")];
    };
    let mut lines = vec![tr!("mirror {name}: its first endpoints; there is no fallback in these", name = profile.name)];
    for ecosystem in [Ecosystem::Crates, Ecosystem::Go, Ecosystem::Python, Ecosystem::Hub, Ecosystem::Npm] {
        let names: Vec<_> =
            profile.private_names(ecosystem).iter().flat_map(|it| &it.names).map(satellite::name).collect();
        if !names.is_empty() {
            let (ecosystem, names) = (satellite::name(&ecosystem), names.join(", "));
            lines.push(tr!(
                "{names} ({ecosystem}) are private, which no setting here tells a tool: by hand it would ask the public list for them",
                names,
                ecosystem
            ));
        }
    }
    lines
}

/// Without a gateway nothing falls back: these are the settings of the best endpoint, and say so.
fn exported(outside: &Outside, shell: Shell, show_secrets: bool, sink: &Sink) -> String {
    let mut text = String::new();
    let mut say = |line: String| {
        match shell.comment(&line) {
            comment if comment.is_empty() => sink.note(line),
            comment => text += &comment,
        };
    };
    remarks(outside).into_iter().for_each(&mut say);
    let (mut set, mut remove, mut arguments) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
    for tool in Tool::ALL {
        let it = outside.plain(tool);
        set.extend(it.set);
        remove.extend(it.remove);
        arguments.extend(it.arguments.into_iter().filter(|argument| argument.expose() != "--config"));
    }
    let exported = shell.export(&set, &remove, show_secrets);
    for name in &exported.withheld {
        say(tr!("{name} holds a credential and is left out; --show-secrets writes it", name));
    }
    if !arguments.is_empty() {
        say(tr!("cargo has no variable for its registry: put this into $CARGO_HOME/config.toml"));
        for argument in arguments {
            say(if show_secrets { argument.expose().to_owned() } else { argument.to_string() });
        }
    }
    text + &exported.text
}

fn bootstrap(profile: &mirror::Profile, project: &Project, show_secrets: bool) -> Result<String> {
    let Some(pins) = &project.pins.rustup else {
        return Err(Error::new(Code::NotPinned, tr!("xtask.lock pins no Rust"))
            .hint(tr!("name versions under [toolchain.rust] in xtask.toml, then `cargo xtask lock update rustup`")));
    };
    let credential = |url: &&mirror::MirrorUrl| url.expose() != url.without_credentials();
    let mut urls = profile.rustup.list.iter().filter_map(|pair| pair.urls()).flat_map(|(dist, root)| [dist, root]);
    if let Some(url) = urls.find(credential).filter(|_| !show_secrets) {
        let message = tr!("the script would hold the credential of {url}", url);
        return Err(Error::new(Code::CommandLine, message).hint(tr!("--show-secrets writes it all the same")));
    }
    let Rustup { version, toolchain, manifest, init } = pins;
    let wanted = mirror::Wanted { toolchain, manifest, rustup: version, init };
    mirror::script(profile, &wanted).ok_or_else(|| {
        let message = tr!("mirror `{name}` names no server of rustup's", name = profile.name);
        Error::new(Code::NoProfile, message).hint(tr!("choose a profile that has [mirror.NAME.rustup]: --mirror cn"))
    })
}

/// What a built-in profile is for.
fn purpose(name: &str) -> Option<String> {
    match name {
        "cn" => Some(tr!("public mirrors in China")),
        "corporate" => Some(tr!("your organisation's own repository manager, at XTASK_CORP_HOST")),
        "direct" => Some(tr!("each tool's own default")),
        _ => None,
    }
}

/// What is said of the whole profile, then each ecosystem with who says so.
fn described(profile: &mirror::Profile) -> String {
    let value = serde_json::to_value(profile).unwrap_or_default();
    let mut lines = Vec::new();
    for (key, value) in value.as_object().into_iter().flatten().filter(|(key, _)| *key != "sources") {
        describe(key, value, &mut lines);
        let source = profile.sources.iter().find(|(ecosystem, _)| satellite::name(*ecosystem) == *key);
        if let Some((_, declared)) = source {
            let provenance = declared.provenance.as_ref().map(|text| format!(": {text}")).unwrap_or_default();
            lines.push((format!("{key}.from"), format!("{}{provenance}", translated(&declared.origin))));
        }
    }
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    lines.iter().map(|(name, value)| format!("{name:<width$} {value}")).collect::<Vec<_>>().join("\n")
}

/// One line a value: `crates.list  sparse+https://…`.
fn describe(name: &str, value: &serde_json::Value, lines: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                describe(&format!("{name}.{key}"), value, lines);
            }
        }
        serde_json::Value::Array(items) => {
            for item in items {
                match item.as_array() {
                    // Two addresses that belong together.
                    Some(pair) => {
                        let pair: Vec<&str> = pair.iter().filter_map(|url| url.as_str()).collect();
                        lines.push((name.to_owned(), pair.join(" + ")));
                    }
                    None => describe(name, item, lines),
                }
            }
        }
        serde_json::Value::String(text) => lines.push((name.to_owned(), text.clone())),
        other => lines.push((name.to_owned(), other.to_string())),
    }
}
