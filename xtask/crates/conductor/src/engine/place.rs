//! Where a container engine may listen, and who says so.
//!
//! Owns: the order: what was typed, DOCKER_HOST, the chosen context, the usual sockets; what somebody chose is never left for another.
//! Never: knock. Rules: Docker's command line reference, "Environment variables" and `docker context`; the layout of
//! `~/.docker/contexts` is that of cli/context/store.

use crate::digest::Digest;
use crate::error::{Code, Error, Result};
use crate::files;
use crate::registry;
use crate::settings::env::{self, Environment};
use crate::tr;
use protocol::engine::{Place, Tls};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A file's bytes; `None`: there is none.
pub type Read<'a> = &'a dyn Fn(&Path) -> Result<Option<Vec<u8>>>;

/// Docker's own name for "no context".
const DEFAULT: &str = "default";

/// The part of `config.json` that chooses.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    current_context: String,
}

/// `contexts/meta/<SHA-256 of the name>/meta.json`
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Context {
    endpoints: Endpoints,
}

#[derive(Deserialize)]
struct Endpoints {
    docker: Endpoint,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    host: String,
    #[serde(default, rename = "SkipTLSVerify")]
    skip_tls_verify: bool,
}

/// Where to knock, one after the other. Only the usual sockets are several: whoever chose one place means no other.
/// # Errors: WrongValue for a context that cannot be used; NoEngine for a way to speak that there is not here.
pub fn places(typed: Option<&str>, environment: &Environment) -> Result<Vec<Place>> {
    places_by(typed, environment, &|path| files::read_if_present(path))
}

fn places_by(typed: Option<&str>, environment: &Environment, read: Read) -> Result<Vec<Place>> {
    let home = environment.get("HOME").map(PathBuf::from);
    let folder =
        environment.get(env::DOCKER_CONFIG).map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".docker")));
    let chosen =
        typed.map(|it| (it, "--engine")).or_else(|| Some((environment.get(env::DOCKER_HOST)?, env::DOCKER_HOST)));
    if let Some((address, origin)) = chosen {
        let verified = environment.get(env::DOCKER_TLS_VERIFY).is_some();
        let certificates = environment.get(env::DOCKER_CERT_PATH).map(PathBuf::from).or(folder);
        let tls = certificates.filter(|_| verified && !address.starts_with("unix:")).map(|folder| tls(&folder));
        return Ok(vec![place(address, origin, tls)?]);
    }
    if let Some(folder) = &folder
        && let Some(context) = context(folder, environment, read)?
    {
        return Ok(vec![context]);
    }
    let usual = usual(environment, home.as_deref());
    Ok(usual
        .into_iter()
        .map(|path| Place { address: format!("unix://{}", path.display()), origin: tr!("usual place"), tls: None })
        .collect())
}

/// The port that buildkitd's own documents use.
const BUILDER_PORT: u16 = 1234;

/// Where a builder listens: `HOST`, `HOST:PORT`, or the path of a socket. What is sent to one holds secrets, so another machine's is
/// spoken to in TLS alone, with the files `ca.pem`, `cert.pem` and `key.pem` of a folder.
pub fn builder(address: &str, environment: &Environment) -> Result<Place> {
    let origin = "--builder".to_owned();
    if address.starts_with('/') {
        return Ok(Place { address: format!("buildkit://{address}"), origin, tls: None });
    }
    let address = address.trim_end_matches('/');
    let port = address.rsplit_once(':').filter(|(host, port)| !host.ends_with(':') && port.parse::<u16>().is_ok());
    let (host, address) = match port {
        Some((host, _)) => (host, address.to_owned()),
        None => (address, format!("{address}:{BUILDER_PORT}")),
    };
    let tls = environment.get(env::BUILDKIT_CERT_PATH).map(|folder| tls(Path::new(folder)));
    if tls.is_none() && !registry::is_loopback(host) {
        let message = tr!("the builder {address} is on another machine, and no certificates are named", address);
        return Err(Error::new(Code::WrongValue, message)
            .hint(tr!("put ca.pem, cert.pem and key.pem into a folder and name it: XTASK_BUILDKIT_CERT_PATH=DIR")));
    }
    Ok(Place { address: format!("buildkit://{address}"), origin, tls })
}

fn place(address: &str, origin: &str, tls: Option<Tls>) -> Result<Place> {
    let (scheme, rest) = address.split_once("://").unwrap_or_default();
    let origin = origin.to_owned();
    match scheme {
        "unix" if rest.starts_with('/') => Ok(Place { address: address.to_owned(), origin, tls: None }),
        "tcp" | "http" | "https" if tls.is_some() || scheme != "https" => {
            let host = rest.trim_end_matches('/');
            // Docker's own ports.
            let port = if tls.is_some() { 2376 } else { 2375 };
            let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let host = if has_port { host.to_owned() } else { format!("{host}:{port}") };
            Ok(Place { address: format!("tcp://{host}"), origin, tls })
        }
        "ssh" => Err(unusable(address, &origin).hint(tr!(
            "bring its socket here: ssh -nNT -L /tmp/docker.sock:/var/run/docker.sock {host}; then use unix:///tmp/docker.sock",
            host = rest
        ))),
        _ => Err(unusable(address, &origin).hint(tr!("write unix:///PATH or tcp://HOST:PORT"))),
    }
}

fn unusable(address: &str, origin: &str) -> Error {
    Error::new(Code::NoEngine, tr!("cannot speak with the engine {address}, which {origin} names", address, origin))
}

fn tls(folder: &Path) -> Tls {
    let file = |name: &str| folder.join(name);
    Tls { authority: file("ca.pem"), certificate: file("cert.pem"), key: file("key.pem") }
}

/// The context that is in force, unless that is Docker's own default.
fn context(folder: &Path, environment: &Environment, read: Read) -> Result<Option<Place>> {
    let config = folder.join("config.json");
    let name = match environment.get(env::DOCKER_CONTEXT) {
        Some(name) => name.to_owned(),
        None => match read(&config)? {
            Some(bytes) => parsed::<Config>(&config, &bytes)?.current_context,
            None => return Ok(None),
        },
    };
    if name.is_empty() || name == DEFAULT {
        return Ok(None);
    }
    let digest = Digest::of(name.as_bytes()).to_string();
    let path = folder.join("contexts/meta").join(&digest).join("meta.json");
    let bytes = read(&path)?.ok_or_else(|| {
        Error::new(Code::WrongValue, tr!("there is no context {name} for Docker", name))
            .because(tr!("there is no file {path}", path = path.display()))
            .hint(tr!("`docker context ls` lists them; `docker context use default` leaves it"))
    })?;
    let endpoint = parsed::<Context>(&path, &bytes)?.endpoints.docker;
    if endpoint.skip_tls_verify {
        let message = tr!("context {name} switches the verification of certificates off", name);
        return Err(Error::new(Code::WrongValue, message)
            .hint(tr!("give it the authority of its engine: docker context update {name} --docker host={host},ca=FILE,cert=FILE,key=FILE", name, host = endpoint.host)));
    }
    let certificates = folder.join("contexts/tls").join(&digest).join("docker");
    let tls = read(&certificates.join("ca.pem"))?.map(|_| tls(&certificates));
    place(&endpoint.host, &tr!("context {name}", name), tls).map(Some)
}

fn parsed<T: for<'a> Deserialize<'a>>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::new(Code::WrongValue, tr!("cannot read {path}", path = path.display())).because(error))
}

/// Sockets of Docker, Docker rootless, Docker Desktop, Colima, Rancher Desktop, podman and podman rootless.
fn usual(environment: &Environment, home: Option<&Path>) -> Vec<PathBuf> {
    let runtime = environment.get("XDG_RUNTIME_DIR").map(Path::new);
    let below = |folder: Option<&Path>, socket: &str| folder.map(|folder| folder.join(socket));
    [
        Some(PathBuf::from("/var/run/docker.sock")),
        below(runtime, "docker.sock"),
        below(home, ".docker/run/docker.sock"),
        below(home, ".docker/desktop/docker.sock"),
        below(home, ".colima/default/docker.sock"),
        below(home, ".rd/docker.sock"),
        Some(PathBuf::from("/run/podman/podman.sock")),
        below(runtime, "podman/podman.sock"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const META: &str = "contexts/meta";

    fn check(typed: Option<&str>, variables: &[(&str, &str)], files: &[(&str, &str)]) -> Result<Vec<String>> {
        let variables =
            variables.iter().chain(&[("HOME", "/h")]).map(|(name, value)| ((*name).to_owned(), value.into()));
        let files: BTreeMap<PathBuf, Vec<u8>> =
            files.iter().map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec())).collect();
        let found = places_by(typed, &Environment(variables.collect()), &|path| Ok(files.get(path).cloned()))?;
        let tls = |place: &Place| place.tls.as_ref().map(|tls| format!(" {}", tls.authority.display()));
        Ok(found.iter().map(|it| format!("{} ({}){}", it.address, it.origin, tls(it).unwrap_or_default())).collect())
    }

    /// A configuration folder in `/h/.docker` whose context `office` is in force.
    fn office(meta: &str) -> Vec<(String, String)> {
        let digest = Digest::of(b"office");
        vec![
            ("/h/.docker/config.json".to_owned(), r#"{"currentContext": "office", "auths": {}}"#.to_owned()),
            (format!("/h/.docker/{META}/{digest}/meta.json"), meta.to_owned()),
            (format!("/h/.docker/contexts/tls/{digest}/docker/ca.pem"), String::new()),
        ]
    }

    fn borrowed(files: &[(String, String)]) -> Vec<(&str, &str)> {
        files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect()
    }

    #[test]
    fn whoever_chose_one_place_means_no_other() {
        let host = ("DOCKER_HOST", "tcp://127.0.0.1:2375");
        for (typed, variables, expected) in [
            (Some("unix:///a"), vec![host], "unix:///a (--engine)"),
            (None, vec![host], "tcp://127.0.0.1:2375 (DOCKER_HOST)"),
            (
                None,
                vec![("DOCKER_HOST", "tcp://build"), ("DOCKER_TLS_VERIFY", "1")],
                "tcp://build:2376 (DOCKER_HOST) /h/.docker/ca.pem",
            ),
            (
                None,
                vec![("DOCKER_HOST", "tcp://build:1"), ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", "/c")],
                "tcp://build:1 (DOCKER_HOST) /c/ca.pem",
            ),
            (None, vec![("DOCKER_HOST", "unix:///a"), ("DOCKER_TLS_VERIFY", "1")], "unix:///a (DOCKER_HOST)"),
        ] {
            assert_eq!(check(typed, &variables, &[]).unwrap(), [expected]);
        }
    }

    #[test]
    fn a_context_is_where_it_says_with_its_authority_and_docker_host_wins_over_it() {
        let files = office(
            r#"{"Name": "office", "Endpoints": {"docker": {"Host": "tcp://build:2376", "SkipTLSVerify": false}}}"#,
        );
        let files = borrowed(&files);
        let authority = format!("/h/.docker/contexts/tls/{}/docker/ca.pem", Digest::of(b"office"));
        assert_eq!(check(None, &[], &files).unwrap(), [format!("tcp://build:2376 (context office) {authority}")]);
        assert_eq!(check(None, &[("DOCKER_HOST", "unix:///a")], &files).unwrap(), ["unix:///a (DOCKER_HOST)"]);
        let usual = check(None, &[("DOCKER_CONTEXT", "default")], &files).unwrap();
        assert_eq!(usual[0], "unix:///var/run/docker.sock (usual place)");
        let elsewhere = check(None, &[("DOCKER_CONTEXT", "home")], &files).unwrap_err();
        assert_eq!((elsewhere.code(), elsewhere.hints().len()), (Code::WrongValue, 1));
    }

    #[test]
    fn a_place_that_cannot_be_used_is_refused_with_what_helps() {
        for (address, hint) in [
            ("ssh://me@build", "ssh -nNT -L /tmp/docker.sock:/var/run/docker.sock me@build"),
            ("npipe:////./pipe/docker_engine", "unix:///PATH or tcp://HOST:PORT"),
            ("https://build", "unix:///PATH or tcp://HOST:PORT"),
            ("/var/run/docker.sock", "unix:///PATH or tcp://HOST:PORT"),
        ] {
            let error = check(Some(address), &[], &[]).unwrap_err();
            assert_eq!(error.code(), Code::NoEngine);
            assert!(error.hints()[0].contains(hint), "{}", error.render());
        }
        let files = office(r#"{"Endpoints": {"docker": {"Host": "tcp://build:2376", "SkipTLSVerify": true}}}"#);
        let error = check(None, &[], &borrowed(&files)).unwrap_err();
        assert!(error.to_string().contains("switches the verification of certificates off"), "{}", error.render());
    }

    #[test]
    fn without_a_choice_the_usual_sockets_of_docker_and_podman_are_tried_in_order() {
        let found = check(None, &[("XDG_RUNTIME_DIR", "/run/user/7")], &[]).unwrap();
        let sockets: Vec<&str> = found.iter().map(|it| it.split(' ').next().unwrap()).collect();
        expect_test::expect![[r#"
            unix:///var/run/docker.sock
            unix:///run/user/7/docker.sock
            unix:///h/.docker/run/docker.sock
            unix:///h/.docker/desktop/docker.sock
            unix:///h/.colima/default/docker.sock
            unix:///h/.rd/docker.sock
            unix:///run/podman/podman.sock
            unix:///run/user/7/podman/podman.sock"#]]
        .assert_eq(&sockets.join("\n"));
    }
}
