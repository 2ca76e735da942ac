//! `emit dockerfile`: files beside which nothing of ours is needed to make an image from source.
//!
//! Everything is known before anything is written, and nobody's file is written over: neither one of somebody else, nor one of ours
//! that was edited.

use super::{gates, images, mirror};
use crate::cli;
use crate::digest::Digest;
use crate::emit::{self, dockerfile, mirrors};
use crate::error::{Code, Error, Result};
use crate::execute::Workshop;
use crate::execute::outside::DEBIAN_RELEASE;
use crate::facts::Wants;
use crate::files;
use crate::platform::Platform;
use crate::project::Project;
use crate::report::{Event, Sink};
use crate::settings::Settings;
use crate::tr;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Whoever builds may read them; what a profile says is for its owner alone.
const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;

pub fn dockerfile(settings: &Settings, project: &Project, sink: Sink, args: &cli::EmitDockerfile) -> Result<()> {
    let root = &settings.workspace.root;
    let output = match &args.output {
        Some(folder) => std::path::absolute(folder).map_err(|error| Error::disk("read", folder, error))?,
        None => settings.workspace.docker(),
    };
    let output = files::normalize(&output);
    let folder = output.strip_prefix(root).ok().and_then(Path::to_str).filter(|folder| !folder.is_empty());
    let folder = folder.ok_or_else(|| {
        let message = tr!("{output} is no folder inside {root}", output = output.display(), root = root.display());
        Error::new(Code::CommandLine, message)
            .hint(tr!("name one of the checkout: a build is sent nothing from outside it"))
    })?;
    let names = images::chosen(project, &args.images)?;
    names.iter().try_for_each(|name| images::can_be_made_for(project, name, &[]))?;
    let wants = images::wants(settings, project, &names, None, &args.variant)?;
    gates::features_suffice(settings, project, &wants, &names)?;
    let workshop = Workshop::new(settings, project, sink.clone())?;
    let facts = workshop.gather(&wants)?;

    let mut texts: BTreeMap<PathBuf, (String, u32)> = BTreeMap::new();
    let mut stages = Vec::new();
    for name in names {
        let it = emit::stages(project, &facts, root, &wants.profile, DEBIAN_RELEASE, name)?;
        let path = output.join(dockerfile::file_name(name));
        let ignore = path.with_file_name(format!("{}.dockerignore", dockerfile::file_name(name)));
        texts.insert(path, (dockerfile::dockerfile(&it, folder), PUBLIC));
        texts.insert(ignore, (dockerfile::ignore(&it, folder), PUBLIC));
        stages.push(it);
    }
    let mut secrets: Vec<(&str, String)> = Vec::new();
    if let Some(profile) = workshop.outside.profile() {
        mirror::remarks(&workshop.outside).into_iter().for_each(|remark| sink.note(remark));
        for it in mirrors::settings(|tool| workshop.outside.plain(tool)) {
            if it.holds_credential() && !args.show_secrets {
                let (file, name) = (it.file_name, &profile.name);
                sink.note(tr!(
                    "{file} of mirror {name} holds a credential and is left out; --show-secrets writes it",
                    file,
                    name
                ));
                continue;
            }
            if let Some(other) = stages.iter().find(|stages| it.id == "apt" && stages.suite != DEBIAN_RELEASE) {
                let (file, suite) = (it.file_name, other.suite);
                sink.note(tr!(
                    "{file} would be of {release}, not of {suite}, and is left out",
                    file,
                    release = DEBIAN_RELEASE,
                    suite
                ));
                continue;
            }
            let place = format!("{folder}/{}/{}", profile.name, it.file_name);
            texts.insert(root.join(&place), (dockerfile::sealed(it.text.expose()), PRIVATE));
            secrets.push((it.id, format!("id={},src={place}", it.id)));
        }
    }
    texts.keys().try_for_each(|path| must_be_ours(path))?;

    let mut bases = super::no_wants(settings, project, &args.variant)?;
    bases.bases = stages.iter().filter_map(|stages| stages.base).map(str::to_owned).collect();
    if settings.dry_run {
        for path in texts.keys() {
            sink.note(tr!("would write {path}", path = settings.workspace.relative(path).display()));
        }
        return super::show_plan(&workshop, &bases, false);
    }
    let mut placed = base_archives(&workshop, &bases, &output)?;
    for (path, (text, mode)) in &texts {
        if files::read_if_present(path)?.as_deref() != Some(text.as_bytes()) {
            files::write_with_mode(path, text.as_bytes(), *mode)?;
        }
        placed.insert(path.clone(), Digest::of(text.as_bytes()));
    }
    for (path, digest) in &placed {
        let name = settings.workspace.relative(path).display().to_string();
        let size_bytes = files::size_of(path);
        sink.send(Event::Artifact { name, path: path.clone(), digest: *digest, size_bytes });
    }
    // `clean` removes what lies in dist/ where we put it with the bytes that we gave it.
    let record =
        serde_json::to_vec(&placed).map_err(|error| Error::bug(tr!("cannot serialise outputs")).because(error))?;
    files::write(&settings.workspace.placed("emit"), &record)?;
    for it in &stages {
        let read = dockerfile::secrets(it);
        let options: Vec<String> =
            secrets.iter().filter(|(id, _)| read.contains_key(id)).map(|(_, option)| option.clone()).collect();
        sink.note(tr!("now: {command}", command = dockerfile::command(it, folder, &options)));
    }
    Ok(())
}

/// What is there and not as we wrote it stays.
fn must_be_ours(path: &Path) -> Result<()> {
    match files::read_if_present(path)? {
        Some(bytes) if !std::str::from_utf8(&bytes).is_ok_and(dockerfile::is_untouched) => {
            let message = tr!("{path} is there already, and is not as this tool wrote it", path = path.display());
            Err(Error::new(Code::CommandLine, message).hint(tr!("move it away, or name another folder with --output")))
        }
        _ => Ok(()),
    }
}

/// Puts the root file systems beside the Dockerfiles: path → digest.
fn base_archives(workshop: &Workshop, wants: &Wants, output: &Path) -> Result<BTreeMap<PathBuf, Digest>> {
    let mut placed = BTreeMap::new();
    let architecture = Platform::here().map_or(std::env::consts::ARCH, Platform::architecture);
    for (name, (blob, digest)) in bases(workshop, wants)? {
        let path = output.join(dockerfile::base_archive(&name, architecture));
        let is_there = Digest::of_file(&path).is_ok_and(|(there, _)| there == digest);
        if !is_there {
            files::Draft::copy(&blob, output, PUBLIC)?.publish(&path)?;
        }
        placed.insert(path, digest);
    }
    Ok(placed)
}

/// Makes root file systems for this machine's platform: name → compressed tar and its digest.
pub(super) fn bases(workshop: &Workshop, wants: &Wants) -> Result<BTreeMap<String, (PathBuf, Digest)>> {
    let results = workshop.make(wants, false, &|plan, facts| super::describe(workshop, plan, facts, false))?;
    let Some(platform) = Platform::here().map(Platform::name) else { return Ok(BTreeMap::new()) };
    let made = |name: &String| {
        let step = results.plan.step(&format!("debian-base:{name}/{platform}"));
        let unmade = || Error::bug(tr!("base {name} was not made", name));
        let layer = workshop.made_layer(&step.and_then(|step| step.key).ok_or_else(unmade)?)?;
        let digest = layer.record.descriptor.digest.hex().parse().map_err(|_| unmade())?;
        Ok((name.clone(), (layer.blob.ok_or_else(unmade)?, digest)))
    };
    wants.bases.iter().map(made).collect()
}
