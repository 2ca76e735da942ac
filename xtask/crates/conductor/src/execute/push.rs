//! Images on their way to a registry: who we are there, and what the gateway is told to push.
//!
//! Nothing but the gateway speaks with the registry, and no mirror takes part: a copy there would be somebody else's image.

use super::outside::Outside;
use crate::error::{Code, Error, Result};
use crate::files;
use crate::process::{self, Invocation};
use crate::registry::{BaseReference, Login, Reference, RegistryPlace, helped, logins};
use crate::report::{Event, Sink};
use crate::satellite::PushedBy;
use crate::settings::{Settings, env};
use crate::tr;
use oci::layout::{Named, Source};
use oci::{Descriptor, image::media_type};
use protocol::{Credentials, Push, PushBlob, PushContent, PushManifest, Pushed};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A helper may ask a person to unlock a keychain.
const HELPER_PATIENCE: Duration = Duration::from_secs(60);

/// What is pushed under which name.
pub struct Delivery<'a> {
    pub image: &'a Named,
    /// Whose layers are not on this machine.
    pub base: Option<&'a BaseReference>,
    pub reference: &'a Reference,
}

/// Pushes images one after the other; what one of them brought is not sent for the next.
pub struct Pusher<'a> {
    outside: &'a Outside<'a>,
    place: &'a RegistryPlace,
    credentials: Option<(Credentials, String)>,
    /// Blob → repository that got it in this run.
    brought: BTreeMap<oci::Digest, String>,
}

impl<'a> Pusher<'a> {
    /// # Errors: where an auth file cannot be read or its helper does not answer.
    pub fn new(settings: &Settings, outside: &'a Outside<'a>, place: &'a RegistryPlace) -> Result<Self> {
        Ok(Self { outside, place, credentials: credentials(settings, place)?, brought: BTreeMap::new() })
    }

    pub fn push(&mut self, sink: &Sink, id: &str, delivery: &Delivery) -> Result<Pushed> {
        let Delivery { image, base, reference } = delivery;
        // The registry of a base may take its layers from there.
        let own_base = base.filter(|base| base.host == reference.host).map(|base| &base.repository);
        let (mut blobs, mut manifests) = (Vec::new(), Vec::new());
        for (descriptor, source) in image.blobs.values() {
            if is_document(descriptor) {
                manifests.push(manifest(descriptor, source)?);
            } else {
                let brought = self.brought.get(&descriptor.digest);
                let of_base = own_base.filter(|_| matches!(source, Source::Elsewhere));
                let mount_from = brought.or(of_base).filter(|it| **it != reference.repository);
                blobs.push(PushBlob {
                    digest: descriptor.digest.to_string(),
                    size_bytes: descriptor.size,
                    content: match source {
                        Source::File(path) => PushContent::File(path.clone()),
                        Source::Bytes(bytes) => PushContent::Text(text(bytes)?),
                        Source::Elsewhere => PushContent::Base(base.map(BaseReference::name).unwrap_or_default()),
                    },
                    mount_from: mount_from.cloned(),
                });
            }
        }
        // An index behind what it names; it is the one with the image's own digest.
        manifests.sort_by_key(|manifest| manifest.digest == image.root.digest.to_string());
        let push = Push {
            registry: self.place.origin(),
            repository: reference.repository.clone(),
            blobs,
            manifests,
            tag: reference.tag.clone(),
            credentials: self.credentials.as_ref().map(|(credentials, _)| credentials.clone()),
        };
        let by = PushedBy {
            reference: reference.to_string(),
            host: self.place.host.clone(),
            named_by: self.credentials.as_ref().map(|(_, source)| source.clone()),
        };
        let progress = |text| sink.send(Event::Progress { id: id.to_owned(), text });
        let pushed = self.outside.gateway()?.push(id, push, &by, progress)?;
        for (descriptor, _) in image.blobs.values().filter(|(descriptor, _)| !is_document(descriptor)) {
            self.brought.insert(descriptor.digest, reference.repository.clone());
        }
        Ok(pushed)
    }
}

fn is_document(descriptor: &Descriptor) -> bool {
    media_type::is_manifest(&descriptor.media_type) || media_type::is_index(&descriptor.media_type)
}

fn manifest(descriptor: &Descriptor, source: &Source) -> Result<PushManifest> {
    let bytes = match source {
        Source::Bytes(bytes) => bytes.clone(),
        Source::File(path) => files::read(path)?,
        Source::Elsewhere => {
            return Err(Error::bug(tr!("image {name} does not hang together", name = descriptor.digest)));
        }
    };
    let (media_type, digest) = (descriptor.media_type.clone(), descriptor.digest.to_string());
    Ok(PushManifest { media_type, digest, text: text(&bytes)? })
}

/// Documents are JSON.
fn text(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|error| Error::bug(tr!("cannot serialise")).because(error))
}

/// The first that an auth file names, and which file: podman's before docker's, as podman itself reads them.
pub(super) fn credentials(settings: &Settings, place: &RegistryPlace) -> Result<Option<(Credentials, String)>> {
    for file in auth_files(settings) {
        if !file.is_file() {
            continue;
        }
        let text = String::from_utf8_lossy(&files::read(&file)?).into_owned();
        let found = logins(&text, place).map_err(|at| {
            Error::new(Code::WrongValue, tr!("{file} is no file of registry logins: {at}", file = file.display(), at))
                .hint(tr!("`docker login {host}` or `podman login {host}` writes it anew", host = place.host))
        })?;
        for login in found {
            match login {
                Login::Known(credentials) => return Ok(Some((credentials, file.display().to_string()))),
                Login::Helper(name) => {
                    if let Some(credentials) = ask_helper(settings, &name, place)? {
                        return Ok(Some((credentials, program_of(&name))));
                    }
                }
            }
        }
    }
    Ok(None)
}

/// Where logins are kept, whether or not there is such a file.
pub fn auth_files(settings: &Settings) -> Vec<PathBuf> {
    let set = |name| settings.environment.get(name).map(PathBuf::from);
    let home = set(env::HOME);
    let below = |folder: Option<PathBuf>, path: &str| folder.map(|folder| folder.join(path));
    let at_home = |path: &str| below(home.clone(), path);
    let podmans = match set(env::REGISTRY_AUTH_FILE) {
        Some(file) => vec![Some(file)],
        None => vec![
            below(set(env::XDG_RUNTIME_DIR), "containers/auth.json"),
            below(set(env::XDG_CONFIG_HOME), "containers/auth.json")
                .or_else(|| at_home(".config/containers/auth.json")),
        ],
    };
    let docker = below(set(env::DOCKER_CONFIG), "config.json").or_else(|| at_home(".docker/config.json"));
    podmans.into_iter().chain([docker]).flatten().collect()
}

fn program_of(helper: &str) -> String {
    format!("docker-credential-{helper}")
}

/// `None`: it knows nobody for this registry.
fn ask_helper(settings: &Settings, name: &str, place: &RegistryPlace) -> Result<Option<Credentials>> {
    let program = program_of(name);
    let path = Some(&program).filter(|_| !name.contains('/')).and_then(|program| settings.environment.find(program));
    let path = path.ok_or_else(|| {
        Error::new(
            Code::CannotStart,
            tr!("`{program}`, which knows the login of {host}, is not on PATH", program, host = place.host),
        )
        .hint(tr!("install it, or log in without it: `podman login {host}`", host = place.host))
    })?;
    let invocation = Invocation {
        program: path,
        arguments: vec!["get".into()],
        directory: settings.workspace.root.clone(),
        // The user's own program for the user's own secrets: keychains and clouds are found by whatever variables they have.
        environment: settings.environment.0.clone(),
    };
    let silent = |error| {
        let seconds = HELPER_PATIENCE.as_secs();
        Error::new(
            Code::NoAnswer,
            tr!("`{program}` gave no login for {host} within {seconds} s", program, host = place.host, seconds),
        )
        .because(error)
    };
    let answer = process::ask_within(HELPER_PATIENCE, &invocation, place.server().as_bytes()).map_err(silent)?;
    if answer.status.success() {
        return Ok(helped(&answer.stdout));
    }
    // The helpers' own words for it, in all of them.
    let told = String::from_utf8_lossy(&answer.stdout).to_lowercase();
    if told.contains("credentials not found") {
        return Ok(None);
    }
    Err(Error::new(Code::NoAnswer, tr!("`{program} get` failed ({status})", program, status = answer.status))
        .hint(tr!("try it: echo {server} | {program} get", server = place.server(), program)))
}
