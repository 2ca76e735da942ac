//! `images --from source`: the stages of `emit dockerfile`, built by a BuildKit with what this machine knows of networks.
//!
//! Owns: what a build is sent and told: files by name, settings of mirrors, authorities and proxies as secrets. Never: put one of
//! those where it would become part of an image, a cache key or a command line. Rules: docs/decisions/0018, 0020.

use super::building::{Order, build};
use super::reference;
use crate::cli;
use crate::command;
use crate::emit::{self, Stages, dockerfile, mirrors};
use crate::error::{Code, Error, Result};
use crate::execute::Workshop;
use crate::execute::outside::DEBIAN_RELEASE;
use crate::facts::Wants;
use crate::files;
use crate::mirror::OciPlace;
use crate::platform::Platform;
use crate::settings::env;
use crate::tr;
use protocol::engine::{Build, Recipe, Secret};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Of the context, where the root file systems of images lie.
const BASES: &str = ".bases";
/// Docker's own name for its registry, where its official images are.
const HUB: &str = "docker.io";
/// Where OpenSSL and whoever follows it looks for authorities.
const SSL_CERT_FILE: &str = "SSL_CERT_FILE";
/// What listens there a container reaches in the network of its host alone.
const LOOPBACK: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// One order an image, for this machine's platform.
pub fn orders<'a>(
    workshop: &Workshop,
    args: &cli::Images,
    names: &[&'a str],
    wanted: &[(Option<Platform>, Wants)],
) -> Result<Vec<Order<'a>>> {
    let (settings, project) = (workshop.settings, workshop.project);
    let Some((_, wants)) = wanted.first() else { return Ok(Vec::new()) };
    let facts = workshop.gather(wants)?;
    let root = &settings.workspace.root;
    let stages = names
        .iter()
        .map(|name| emit::stages(project, &facts, root, &wants.profile, DEBIAN_RELEASE, name))
        .collect::<Result<Vec<_>>>()?;
    let mut bases = command::no_wants(settings, project, &args.variant)?;
    bases.bases = stages.iter().filter_map(|stages| stages.base).map(str::to_owned).collect();
    let bases = command::emit::bases(workshop, &bases)?;
    let platform = Platform::here().map(|it| it.to_string()).unwrap_or_default();
    let mut orders = Vec::new();
    for (name, stages) in names.iter().zip(&stages) {
        let mut context = context(workshop, stages)?;
        if let (Some(base), Some(here)) = (stages.base, Platform::here()) {
            let (blob, _) = bases.get(base).ok_or_else(|| Error::bug(tr!("base {name} was not made", name = base)))?;
            let archive = dockerfile::base_archive(base, here.architecture());
            context.insert(format!("{BASES}/{archive}"), blob.clone());
        }
        let secrets = secrets(workshop, stages)?;
        let arguments = arguments(workshop, stages)?;
        let is_near = |secret: &Secret| LOOPBACK.iter().any(|host| secret.0.contains(host));
        let host_network = secrets.values().chain(arguments.values()).any(is_near);
        let text = dockerfile::dockerfile(stages, BASES);
        let recipe = Recipe::Dockerfile { text, arguments, host_network };
        orders.push(Order {
            name,
            reference: reference(settings, name, args.tag.as_deref()),
            platform: platform.clone(),
            build: Build { context, secrets, ..build(workshop, args, name, &platform, recipe) },
        });
    }
    Ok(orders)
}

/// Every file that a stage copies, and no other: those of a folder where a stage copies one.
fn context(workshop: &Workshop, stages: &Stages) -> Result<BTreeMap<String, PathBuf>> {
    let root = &workshop.settings.workspace.root;
    let mut context = BTreeMap::new();
    for path in stages.context() {
        let place = root.join(&path);
        if !place.is_dir() {
            context.insert(path, place);
            continue;
        }
        for inside in files::walk_with_hidden(&place)? {
            // As in the list beside an emitted Dockerfile.
            if stages.binaries.is_empty() || !inside.to_string_lossy().ends_with("_test.go") {
                context.insert(format!("{path}/{}", inside.display()), place.join(&inside));
            }
        }
    }
    Ok(context)
}

/// What a profile, and this machine's authorities, mean to the tools of a build.
fn secrets(workshop: &Workshop, stages: &Stages) -> Result<BTreeMap<String, Secret>> {
    let read = dockerfile::secrets(stages);
    let mut secrets = BTreeMap::new();
    if workshop.outside.profile().is_some() {
        for it in mirrors::settings(|tool| workshop.outside.plain(tool)) {
            // The mirrors' list is of one release.
            if read.contains_key(it.id) && (it.id != "apt" || stages.suite == DEBIAN_RELEASE) {
                secrets.insert(it.id.to_owned(), Secret(it.text.expose().to_owned()));
            }
        }
    }
    if let Some(file) = workshop.settings.environment.get(SSL_CERT_FILE).filter(|_| read.contains_key("ca")) {
        secrets.insert("ca".to_owned(), Secret(files::read_text(&PathBuf::from(file))?));
    }
    Ok(secrets)
}

/// Proxies, which BuildKit keeps to itself; variables that sources read; where the tools come from.
fn arguments(workshop: &Workshop, stages: &Stages) -> Result<BTreeMap<String, Secret>> {
    let environment = &workshop.settings.environment;
    let declared = stages.libraries.values().flat_map(|stage| &stage.facts.environment);
    let declared = declared.chain(stages.binaries.values().flat_map(|stage| &stage.declared.environment));
    let named = env::PROXIES.iter().map(|name| (*name).to_owned()).chain(declared.cloned());
    let mut arguments: BTreeMap<String, Secret> =
        named.filter_map(|name| Some((name.clone(), Secret(environment.get(&name)?.to_owned())))).collect();
    if let Some(tools) = tools(workshop, stages)? {
        arguments.insert("TOOLS".to_owned(), Secret(tools));
    }
    Ok(arguments)
}

/// The image of the tools, where it is not the one that the Dockerfile names: the profile's first place for it. A builder knows no
/// second one.
fn tools(workshop: &Workshop, stages: &Stages) -> Result<Option<String>> {
    if let Some(image) = workshop.settings.environment.get(env::TOOLS_IMAGE) {
        return Ok(Some(image.to_owned()));
    }
    let Some(profile) = workshop.outside.profile() else { return Ok(None) };
    let (repository, tag) = dockerfile::tools_image(stages);
    match profile.oci_places(HUB, &format!("library/{repository}")).first() {
        Some(OciPlace::Mirror { registry, repository }) => {
            Ok(Some(format!("{}/{repository}:{tag}", registry.host_with_port())))
        }
        Some(OciPlace::Direct) => Ok(None),
        None => Err(Error::new(
            Code::OutsideProfile,
            tr!(
                "mirror {name} has no place for the image of the tools, {repository}:{tag}",
                name = profile.name,
                repository,
                tag
            ),
        )
        .hint(tr!("name one that the builder reaches: XTASK_TOOLS_IMAGE=HOST/IMAGE:TAG"))),
    }
}
