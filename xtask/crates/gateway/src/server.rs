//! The loopback server: what children of this build may ask of us, and nothing else.
//!
//! Owns: who may ask (a password made for the run) and how a failure is told so that the child prints it. Never: be a
//! proxy to anywhere: one host name, no CONNECT, no other method than GET.
//! Rules: ARCHITECTURE.md, "Invariants".

use crate::Gateway;
use crate::connect::base64;
use crate::crates::{self, HOST, Index};
use crate::downloads::Verified;
use crate::error::Error;
use crate::ledger::emit;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use protocol::{Attempt, Event, Failure};
use std::fs::File;
use std::io::{self, Read};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Receiver, channel};

pub const USER: &str = "xtask";
const PIECE_BYTES: usize = 256 * 1024;

/// Serves until the process ends.
pub async fn serve(gateway: Rc<Gateway>, listener: TcpListener, password: &str) {
    let credential: Rc<str> = format!("Basic {}", base64(format!("{USER}:{password}").as_bytes())).into();
    loop {
        // A failed accept is one lost connection or a full descriptor table; both pass.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        // Head and body are two writes: with Nagle each answer would wait 40 ms for the child's acknowledgement.
        let _ = stream.set_nodelay(true);
        let (gateway, credential) = (gateway.clone(), credential.clone());
        let service = service_fn(move |request| {
            let (gateway, credential) = (gateway.clone(), credential.clone());
            async move { Ok::<_, io::Error>(answer(&gateway, &credential, &request).await) }
        });
        tokio::task::spawn_local(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn answer(gateway: &Rc<Gateway>, credential: &str, request: &Request<Incoming>) -> Response<Reply> {
    let given = request.headers().get(header::PROXY_AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    if !equal(given, credential.as_bytes()) {
        let mut reply = text(
            StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            "this gateway belongs to one build; its password was not given",
        );
        reply
            .headers_mut()
            .insert(header::PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"xtask gateway\""));
        return reply;
    }
    // The absolute form of a request to a proxy; everything else has no host in its target.
    let uri = request.uri();
    if request.method() != Method::GET
        || uri.scheme_str() != Some("http")
        || uri.host() != Some(HOST)
        || uri.port().is_some()
    {
        return text(
            StatusCode::FORBIDDEN,
            &format!("this gateway serves GET http://{HOST}/ only; {} {uri} was asked", request.method()),
        );
    }
    let segments: Vec<&str> = uri.path().split('/').skip(1).collect();
    // A crate may be called `dl…`; its index entry has three parts (`dl/op/dlopen`), a download four.
    match segments.as_slice() {
        ["crates", "config.json"] => whole(StatusCode::OK, crates::config_json()),
        ["crates", "dl", name, version, checksum] if is_word(name) && is_word(version) && is_word(checksum) => {
            match crates::download(gateway, name, version, checksum).await {
                Ok(fetched) => stream(&fetched.verified).unwrap_or_else(|error| {
                    refuse(gateway, &error.failure(&format!("crate {name} {version}"), Vec::new()))
                }),
                Err(failure) => refuse(gateway, &failure),
            }
        }
        ["crates", path @ ..] if matches!(path.len(), 2 | 3) && path.iter().all(|part| is_word(part)) => {
            match crates::index(gateway, &path.join("/"), request.headers().get(header::IF_NONE_MATCH)).await {
                Ok(Index::Entry(entry)) => {
                    let mut reply = whole(StatusCode::OK, entry.bytes);
                    if let Some(etag) = entry.etag {
                        reply.headers_mut().insert(header::ETAG, etag);
                    }
                    reply
                }
                Ok(Index::NotModified) => whole(StatusCode::NOT_MODIFIED, Bytes::new()),
                Ok(Index::Absent) => text(StatusCode::NOT_FOUND, "no registry index of this profile has it"),
                Err(failure) => refuse(gateway, &failure),
            }
        }
        _ => text(StatusCode::NOT_FOUND, &format!("{uri} is nothing that this gateway serves")),
    }
}

/// Letters, digits and `-_.+`: all of a crate's name, a version, a checksum. Never `..` or anything percent-encoded.
fn is_word(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('.')
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte))
}

/// Compares in a time that depends on the lengths only.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// 502 with everything that a person needs: children print the body.
fn refuse(gateway: &Gateway, failure: &Failure) -> Response<Reply> {
    // A child that asks again is answered again; the conductor hears it once.
    if gateway.refused.borrow_mut().insert(failure.subject.clone()) {
        emit(&Event::Refused { artifact: failure.subject.clone(), failure: failure.clone() });
    }
    text(StatusCode::BAD_GATEWAY, &account(failure))
}

fn account(failure: &Failure) -> String {
    let mut told = format!("xtask gateway: cannot deliver {}: {}", failure.subject, failure.message);
    for Attempt { url, origin, address, proxy, error, .. } in &failure.attempts {
        let address = address.as_ref().map(|address| format!(" at {address}")).unwrap_or_default();
        let proxy = proxy.as_ref().map(|proxy| format!(" through proxy {proxy}")).unwrap_or_default();
        told.push_str(&format!("\n  {url} ({origin}){address}{proxy}: {error}"));
    }
    told.push('\n');
    told
}

fn text(status: StatusCode, message: &str) -> Response<Reply> {
    let mut reply = whole(status, Bytes::copy_from_slice(message.as_bytes()));
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}

fn whole(status: StatusCode, bytes: Bytes) -> Response<Reply> {
    let mut reply = Response::new(Reply::Whole(Some(bytes)));
    *reply.status_mut() = status;
    reply
}

/// A verified file, read as fast as the child takes it.
fn stream(verified: &Verified) -> Result<Response<Reply>, Error> {
    let mut file = File::open(&verified.path).map_err(|cause| Error::disk("open", &verified.path, &cause))?;
    let (pieces, arriving) = channel(2);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let read = match file.read(&mut piece) {
                Ok(0) => return,
                Ok(length) => {
                    piece.truncate(length);
                    Ok(Bytes::from(piece))
                }
                Err(cause) => Err(cause),
            };
            let failed = read.is_err();
            if pieces.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    Ok(Response::new(Reply::Pieces { arriving, left_bytes: verified.size_bytes }))
}

/// The body of an answer to a child.
pub enum Reply {
    Whole(Option<Bytes>),
    Pieces { arriving: Receiver<io::Result<Bytes>>, left_bytes: u64 },
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) => {
                Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Pieces { arriving, left_bytes } => arriving.poll_recv(context).map(|piece| {
                piece.map(|piece| {
                    piece.map(|piece| {
                        *left_bytes = left_bytes.saturating_sub(piece.len() as u64);
                        Frame::data(piece)
                    })
                })
            }),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Pieces { left_bytes, .. } => SizeHint::with_exact(*left_bytes),
        }
    }
}
