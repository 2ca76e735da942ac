//! The loopback server: what children of this build may ask of us, and nothing else.
//!
//! A child reaches us in one of two ways. As a proxy, for the constant host name [`HOST`] (or `localhost`, which is what
//! pip accepts without TLS): nothing that a tool stores then depends on port or password. Or directly, for tools that
//! speak to registries only, with the same user and password as ordinary credentials.
//! Owns: who may ask (a password made for the run) and which protocol answers. Never: be a proxy to anywhere, accept
//! CONNECT, or change anything.
//! Rules: ARCHITECTURE.md, "Invariants".

use crate::Gateway;
use crate::apt;
use crate::downloads::Pin;
use crate::fetch::Wanted;
use crate::reply::{Reply, absent, refuse, text};
use crate::{crates, file, go, hub, npm, oci, rustup, simple};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use protocol::coding::base64_decoded;
use protocol::{Ecosystem, Failure};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// What children are told to use. The name never changes, so what they store under it is found again.
pub const HOST: &str = "xtask-gateway.invalid";

/// A request of a child that proved to belong to this build.
#[derive(Clone)]
pub struct Asked {
    /// On whose behalf: the user name that the child was given.
    pub step: String,
    pub method: Method,
    /// Below the protocol's folder and without a slash at its head, percent-encoded as it came: `se/rd/serde`.
    pub path: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
    /// The protocol's folder as this child reaches it, with its last slash: what links in answers begin with.
    pub folder: String,
}

impl Asked {
    /// The parts of the path; `None` where one is empty, hides a slash or dot segment, or is no plain text.
    pub fn segments(&self) -> Option<Vec<&str>> {
        let segments: Vec<&str> = self.path.split('/').collect();
        let plain = |part: &&str| {
            let encoded = part.to_ascii_lowercase();
            let hidden = ["%2f", "%5c", "%2e", "%00"].iter().any(|code| encoded.contains(code));
            !part.is_empty() && !matches!(*part, "." | "..") && !hidden && !part.contains('\\')
        };
        segments.iter().all(plain).then_some(segments)
    }

    /// An artifact on this child's behalf: nobody hears of its progress.
    pub fn wanted(&self, ecosystem: Ecosystem, subject: String, pin: Pin, size_bytes: Option<u64>) -> Wanted {
        Wanted { step: self.step.clone(), ecosystem, subject, pin, size_bytes, job: None }
    }

    /// The child's own user agent, which some mirrors decide by, and the named headers where the child sent them.
    pub fn forwarded(&self, names: &[HeaderName]) -> Vec<(HeaderName, HeaderValue)> {
        let of = |name: &HeaderName| Some((name.clone(), self.headers.get(name)?.clone()));
        std::iter::once(&header::USER_AGENT).chain(names).filter_map(of).collect()
    }
}

/// How long a connection may last without a request that knows the password. A child has it with its first.
const ANONYMOUS: Duration = Duration::from_secs(10);
/// As many of them are held; the oldest makes room, since every user of this machine can open them.
const MAX_ANONYMOUS: usize = 128;

/// The connections that have not given the password yet, oldest first.
#[derive(Default)]
struct Strangers {
    count: u64,
    waiting: VecDeque<(u64, AbortHandle)>,
}

impl Strangers {
    fn number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn admit(&mut self, number: u64, connection: AbortHandle) {
        self.waiting.push_back((number, connection));
        if self.waiting.len() > MAX_ANONYMOUS
            && let Some((_, oldest)) = self.waiting.pop_front()
        {
            oldest.abort();
        }
    }

    /// Whether it was one.
    fn forget(&mut self, number: u64) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|(other, _)| *other != number);
        self.waiting.len() < before
    }
}

/// Serves until the process ends.
pub async fn serve(gateway: Rc<Gateway>, listener: TcpListener, password: &str) {
    let password: Rc<str> = password.into();
    let strangers: Rc<RefCell<Strangers>> = Rc::default();
    loop {
        // A failed accept is one lost connection or a full descriptor table; both pass.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        // Head and body are two writes: with Nagle each answer would wait 40 ms for the child's acknowledgement.
        let _ = stream.set_nodelay(true);
        let number = strangers.borrow_mut().number();
        let (gateway, password, others) = (gateway.clone(), password.clone(), strangers.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (gateway, password, others) = (gateway.clone(), password.clone(), others.clone());
            async move {
                let step = step_of(&request, &password);
                if step.is_some() {
                    others.borrow_mut().forget(number);
                }
                Ok::<_, io::Error>(answer(&gateway, step, &request).await)
            }
        });
        let others = strangers.clone();
        let connection = tokio::task::spawn_local(async move {
            let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let mut serving = std::pin::pin!(serving);
            let ended = tokio::time::timeout(ANONYMOUS, &mut serving).await.is_ok();
            if !others.borrow_mut().forget(number) && !ended {
                let _ = serving.await;
            }
        });
        strangers.borrow_mut().admit(number, connection.abort_handle());
    }
}

/// The absolute form of a request to a proxy has a scheme; everything else comes to us as the server.
fn as_proxy(request: &Request<Incoming>) -> bool {
    request.uri().scheme().is_some() || request.method() == Method::CONNECT
}

/// On whose behalf a request is made; `None` without the password.
fn step_of(request: &Request<Incoming>, password: &str) -> Option<String> {
    let given = if as_proxy(request) { header::PROXY_AUTHORIZATION } else { header::AUTHORIZATION };
    request.headers().get(given).and_then(|given| user(given, password))
}

async fn answer(gateway: &Rc<Gateway>, step: Option<String>, request: &Request<Incoming>) -> Response<Reply> {
    let (uri, as_proxy) = (request.uri(), as_proxy(request));
    let Some(step) = step else { return unknown_child(as_proxy) };
    let ours = uri.scheme_str() == Some("http")
        && matches!(uri.host(), Some(HOST | "localhost"))
        && uri.port_u16().is_none_or(|port| port == 80);
    if !matches!(*request.method(), Method::GET | Method::HEAD) || (as_proxy && !ours) {
        let message = format!("this gateway serves GET http://{HOST}/ only; {} {uri} was asked", request.method());
        return text(StatusCode::FORBIDDEN, &message);
    }
    let home = match (as_proxy, request.headers().get(header::HOST).and_then(|host| host.to_str().ok())) {
        (true, _) => format!("http://{}", uri.host().unwrap_or(HOST)),
        (false, Some(host)) => format!("http://{host}"),
        (false, None) => String::new(),
    };
    let (protocol, path) = uri.path().trim_start_matches('/').split_once('/').unwrap_or((uri.path(), ""));
    let asked = Asked {
        step,
        method: request.method().clone(),
        path: path.to_owned(),
        query: uri.query().map(str::to_owned),
        headers: request.headers().clone(),
        folder: format!("{home}/{protocol}/"),
    };
    let answered: Result<Response<Reply>, Failure> = match protocol {
        "crates" => crates::serve(gateway, &asked).await,
        "go" => go::serve(gateway, &asked).await,
        "apt" => apt::serve(gateway, &asked).await,
        "npm" => npm::serve(gateway, &asked).await,
        "file" => file::serve(gateway, &asked).await,
        "hub" => hub::serve(gateway, &asked).await,
        "v2" => oci::serve(gateway, &asked).await,
        "rustup" => rustup::serve(gateway, &asked).await,
        "python" => simple::serve(gateway, &asked).await,
        _ => Ok(absent(&format!("{uri} is nothing that this gateway serves"))),
    };
    answered.unwrap_or_else(|failure| refuse(gateway, &asked.step, &failure))
}

fn unknown_child(as_proxy: bool) -> Response<Reply> {
    let (status, challenge) = if as_proxy {
        (StatusCode::PROXY_AUTHENTICATION_REQUIRED, header::PROXY_AUTHENTICATE)
    } else {
        (StatusCode::UNAUTHORIZED, header::WWW_AUTHENTICATE)
    };
    let mut reply = text(status, "this gateway belongs to one build; its password was not given");
    reply.headers_mut().insert(challenge, HeaderValue::from_static("Basic realm=\"xtask gateway\""));
    reply
}

/// The user name of `Basic` credentials with this run's password.
fn user(given: &HeaderValue, password: &str) -> Option<String> {
    let (scheme, coded) = given.to_str().ok()?.split_once(' ')?;
    let coded = scheme.eq_ignore_ascii_case("Basic").then_some(coded)?;
    let plain = String::from_utf8(base64_decoded(coded)?).ok()?;
    let (user, given) = plain.split_once(':')?;
    equal(given.as_bytes(), password.as_bytes()).then(|| protocol::step_of_user(user))
}

/// Compares in a time that depends on the lengths only.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}
