//! Which engine answers, and what it can do.
//!
//! Owns: the order in which places are tried, the version of the API, and the facts that decide how images travel. Never: go on with
//! an engine that lacks what is needed, or with a certificate that nobody vouches for.
//! Rules: Docker Engine API 1.41 (`/version`, `/info`); docs/decisions/0015-engine-by-bollard.md.

use crate::wire::{self, Channel, Manner};
use crate::{capability, failure};
use bollard::models::{SystemInfo, SystemVersion};
use bollard::{API_DEFAULT_VERSION, Docker};
use protocol::engine::{Engine, Failure, Place, Silent, SilentCause, Store};
use std::io;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// The API of Docker 20.10 and of podman 3: what every call here is written for.
const NEEDED_API: (u32, u32) = (1, 41);
/// `docker load` reads layers in zstd since Docker 23.0.
const ZSTD_API: (u32, u32) = (1, 42);
/// Scheme of an address that leads to a builder: `buildkit://HOST:PORT`, `buildkit:///PATH`.
const BUILDER: &str = "buildkit://";
/// BuildKit came with Docker 18.09.
const BUILDKIT_API: (u32, u32) = (1, 39);
/// From here on an engine speaks gRPC from the first byte; before, on a connection that is upgraded.
const NATIVE_API: (u32, u32) = (1, 53);
/// How long a place may take to show that an engine is there.
const PATIENCE: Duration = Duration::from_secs(10);
/// Loading has its own watchdog; no answer of an engine may be cut off by a shorter limit.
const WHOLE: Duration = Duration::from_secs(24 * 3600);

/// An engine that answered.
pub struct Connected {
    pub access: Access,
    pub place: Place,
    pub engine: Engine,
}

/// How it is spoken with.
pub enum Access {
    /// By Docker's API.
    Engine(Docker),
    /// By BuildKit's alone.
    Builder,
}

impl Connected {
    /// For messages: `Docker 20.10.24 at unix:///var/run/docker.sock`.
    pub fn name(&self) -> String {
        let Engine { name, version, address, .. } = &self.engine;
        format!("{name} {version} at {address}")
    }

    /// How its BuildKit is spoken with.
    pub fn manner(&self) -> Manner {
        match self.access {
            Access::Engine(_) if api(&self.engine.api) < NATIVE_API => Manner::Upgraded,
            Access::Engine(_) | Access::Builder => Manner::Native,
        }
    }
}

/// The first place that has an engine.
pub async fn connect(places: &[Place]) -> Result<Connected, Failure> {
    let mut silent = Vec::new();
    for place in places {
        let asked = async {
            if place.address.starts_with(BUILDER) {
                return ask_builder(place).await.map(Ok);
            }
            ask(place).await.map(|(docker, version, info)| described(place, docker, &version, &info))
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(cause)) => silent.push(at(place, cause)),
            Err(_) => silent.push(at(place, SilentCause::NoAnswer { seconds: PATIENCE.as_secs() })),
        }
    }
    Err(Failure::NoEngine { silent })
}

fn at(place: &Place, cause: SilentCause) -> Silent {
    Silent { address: place.address.clone(), origin: place.origin.clone(), cause }
}

async fn ask(place: &Place) -> Result<(Docker, SystemVersion, SystemInfo), SilentCause> {
    let said = |error| SilentCause::Said { text: failure::told(&error) };
    let seconds = WHOLE.as_secs();
    // Knocking first: the system's own error says more than the client's, which hides it.
    let docker = match (place.address.split_once("://"), &place.tls) {
        (Some(("unix", path)), _) => {
            UnixStream::connect(path).await.map_err(unreachable)?;
            Docker::connect_with_unix(path, seconds, API_DEFAULT_VERSION)
        }
        (Some(("tcp" | "http" | "https", host)), Some(tls)) => {
            TcpStream::connect(host).await.map_err(unreachable)?;
            let (key, certificate, authority) = (&tls.key, &tls.certificate, &tls.authority);
            Docker::connect_with_ssl(host, key, certificate, authority, seconds, API_DEFAULT_VERSION)
        }
        (Some(("tcp" | "http", host)), None) => {
            TcpStream::connect(host).await.map_err(unreachable)?;
            Docker::connect_with_http(host, seconds, API_DEFAULT_VERSION)
        }
        _ => return Err(SilentCause::Said { text: format!("no way to speak with {}", place.address) }),
    };
    let docker = docker.map_err(said)?.negotiate_version().await.map_err(said)?;
    let (version, info) = (docker.version().await.map_err(said)?, docker.info().await.map_err(said)?);
    Ok((docker, version, info))
}

/// A builder has no API but BuildKit's own.
async fn ask_builder(place: &Place) -> Result<Connected, SilentCause> {
    let wire = wire::dial(place, Manner::Native).await.map_err(unreachable)?;
    let said = |error: &dyn std::fmt::Display| SilentCause::Said { text: error.to_string() };
    let channel = Channel::over(wire).await.map_err(|error| said(&error))?;
    let (version, platforms) =
        capability::who(&channel).await.map_err(|status| SilentCause::Said { text: status.message().to_owned() })?;
    let engine = Engine {
        address: place.address.clone(),
        origin: place.origin.clone(),
        name: "BuildKit".to_owned(),
        version: version.trim_start_matches('v').to_owned(),
        api: String::new(),
        platform: platforms.first().cloned().unwrap_or_default(),
        store: Store::None,
        zstd: true,
        buildkit: true,
    };
    Ok(Connected { access: Access::Builder, place: place.clone(), engine })
}

fn unreachable(error: io::Error) -> SilentCause {
    match error.kind() {
        io::ErrorKind::NotFound => SilentCause::Absent,
        io::ErrorKind::ConnectionRefused => SilentCause::Refused,
        io::ErrorKind::PermissionDenied => SilentCause::Denied,
        _ => SilentCause::Said { text: error.to_string() },
    }
}

fn described(place: &Place, docker: Docker, version: &SystemVersion, info: &SystemInfo) -> Result<Connected, Failure> {
    let engine = describe(place, version, info);
    if api(&engine.api) < NEEDED_API {
        let (major, minor) = NEEDED_API;
        return Err(Failure::TooOld {
            engine: format!("{} {} at {}", engine.name, engine.version, engine.address),
            api: engine.api,
            needed: format!("{major}.{minor}"),
        });
    }
    Ok(Connected { access: Access::Engine(docker), place: place.clone(), engine })
}

fn describe(place: &Place, version: &SystemVersion, info: &SystemInfo) -> Engine {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let podman = version.components.iter().flatten().any(|it| it.name.starts_with("Podman"));
    // Docker names the snapshotter of containerd where the classic store is not in use.
    let snapshotter = |pair: &Vec<String>| pair.iter().any(|it| it.starts_with("io.containerd.snapshotter"));
    let store = match podman {
        true => Store::Containers,
        false if info.driver_status.iter().flatten().any(snapshotter) => Store::Containerd,
        false => Store::Docker,
    };
    let number = api(&text(&version.api_version));
    Engine {
        address: place.address.clone(),
        origin: place.origin.clone(),
        name: if podman { "Podman" } else { "Docker" }.to_owned(),
        version: text(&version.version),
        api: text(&version.api_version),
        platform: format!("{}/{}", text(&version.os), text(&version.arch)),
        store,
        zstd: podman || number >= ZSTD_API,
        buildkit: !podman && number >= BUILDKIT_API,
    }
}

/// `1.41`; what is no version is older than all.
fn api(text: &str) -> (u32, u32) {
    let parsed = text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    parsed.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::SystemVersionComponents;

    fn place() -> Place {
        Place { address: "unix:///s".to_owned(), origin: "DOCKER_HOST".to_owned(), tls: None }
    }

    fn version(api: &str, component: &str) -> SystemVersion {
        let component = SystemVersionComponents { name: component.to_owned(), ..Default::default() };
        let (api_version, components) = (Some(api.to_owned()), Some(vec![component]));
        SystemVersion { api_version, components, ..Default::default() }
    }

    #[test]
    fn what_an_engine_can_do_follows_from_what_it_says() {
        let containerd = ["driver-type", "io.containerd.snapshotter.v1"].map(str::to_owned).to_vec();
        for (api, component, status, expected) in [
            ("1.41", "Engine", vec![], ("Docker", Store::Docker, false, true)),
            ("1.41", "Podman Engine", vec![], ("Podman", Store::Containers, true, false)),
            ("1.9", "Engine", vec![], ("Docker", Store::Docker, false, false)),
            ("1.56", "Engine", vec![containerd], ("Docker", Store::Containerd, true, true)),
        ] {
            let info = SystemInfo { driver_status: Some(status), ..Default::default() };
            let engine = describe(&place(), &version(api, component), &info);
            assert_eq!(
                (engine.name.as_str(), engine.store, engine.zstd, engine.buildkit),
                expected,
                "{api} {component}"
            );
        }
    }

    #[test]
    fn an_engine_older_than_what_is_needed_is_refused_with_both_versions() {
        let docker = Docker::connect_with_http("127.0.0.1:9", 1, API_DEFAULT_VERSION).unwrap();
        let Err(failure) = described(&place(), docker, &version("1.9", "Engine"), &SystemInfo::default()) else {
            panic!("1.9 is older than 1.41")
        };
        let (engine, api, needed) = ("Docker  at unix:///s".to_owned(), "1.9".to_owned(), "1.41".to_owned());
        assert_eq!(failure, Failure::TooOld { engine, api, needed });
    }
}
