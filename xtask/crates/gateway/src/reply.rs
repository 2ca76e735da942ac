//! What a child is answered with: a text, a stored document, a verified file that is read as fast as the child takes it.
//!
//! Owns: the bodies of our answers, ranges, and the wait for a long download. Never: send the last byte of an artifact
//! that was not verified, or hold a file in memory.
//! Rules: RFC 9110 section 14 (ranges); ARCHITECTURE.md, "Invariants".

use crate::Gateway;
use crate::downloads::{Pin, Verified};
use crate::error::Error;
use crate::fetch::Fetched;
use crate::ledger::emit;
use crate::server::Asked;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::ext::ReasonPhrase;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use protocol::{Attempt, Event, Failure};
use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin as Pinned;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};

const PIECE_BYTES: usize = 256 * 1024;
/// Children give up on a silent server after 10 (huggingface_hub) to 30 seconds (uv).
const SILENCE: Duration = Duration::from_secs(3);
/// What a child gets every [`SILENCE`] of a download that is not verified yet, so that it goes on waiting.
const TRICKLE_BYTES: u64 = 64;

pub fn text(status: StatusCode, message: &str) -> Response<Reply> {
    typed(status, "text/plain; charset=utf-8", Bytes::copy_from_slice(message.as_bytes()))
}

pub fn typed(status: StatusCode, content_type: &str, bytes: Bytes) -> Response<Reply> {
    let mut reply = whole(status, bytes);
    if let Ok(value) = HeaderValue::from_str(content_type) {
        reply.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    reply
}

pub fn whole(status: StatusCode, bytes: Bytes) -> Response<Reply> {
    let mut reply = Response::new(Reply::Whole(Some(bytes)));
    *reply.status_mut() = status;
    reply
}

/// The answer to a HEAD, of something that was not downloaded for it.
pub fn head(headers: Vec<(HeaderName, HeaderValue)>, size_bytes: Option<u64>) -> Response<Reply> {
    let mut reply = whole(StatusCode::OK, Bytes::new());
    reply.headers_mut().extend(headers);
    reply.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(size) = size_bytes {
        reply.headers_mut().insert(header::CONTENT_LENGTH, size.into());
    }
    reply
}

/// 404, with what was looked for.
pub fn absent(what: &str) -> Response<Reply> {
    text(StatusCode::NOT_FOUND, &format!("xtask gateway: {what}\n"))
}

/// 502 with everything that a person needs: children print the body.
pub fn refuse(gateway: &Gateway, step: &str, failure: &Failure) -> Response<Reply> {
    let (step, artifact) = (step.to_owned(), failure.subject.clone());
    // A child that asks again is answered again; the conductor hears it once.
    if gateway.refused.borrow_mut().insert((step.clone(), artifact.clone())) {
        emit(&Event::Refused { step, artifact, failure: failure.clone() });
    }
    let mut reply = text(StatusCode::BAD_GATEWAY, &account(failure));
    // pip and apt print the reason only.
    let reason = format!("cannot deliver {}: {}", failure.subject, failure.message);
    if let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes()) {
        reply.extensions_mut().insert(reason);
    }
    reply
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

/// An artifact for a child. Until it is verified the child waits; where that takes longer than a child's patience, the
/// first bytes trickle, and the answer breaks off if what was verified in the end begins otherwise.
///
/// `size_bytes`: where it is known before the download. `headers`: what the child looks at besides the length; it is the
/// child's request whose range is obeyed.
pub async fn delivered(
    gateway: &Rc<Gateway>,
    asked: &Asked,
    headers: Vec<(HeaderName, HeaderValue)>,
    pin: &Pin,
    size_bytes: Option<u64>,
    fetching: impl Future<Output = Result<Fetched, Failure>> + 'static,
) -> Result<Response<Reply>, Failure> {
    let mut fetching = Box::pin(fetching);
    let mut reply = match tokio::time::timeout(SILENCE, &mut fetching).await {
        Ok(fetched) => {
            let verified = fetched?.verified;
            file(&verified, asked.headers.get(header::RANGE))
                .map_err(|error| error.failure(&verified.path.display().to_string(), Vec::new()))?
        }
        // Which part of it a range is can only be said of a whole.
        Err(_) => {
            let (pieces, arriving) = channel(2);
            let partial = gateway.downloads.partial_path(pin);
            let (gateway, step) = (gateway.clone(), asked.step.clone());
            let trickling = async move { trickle(&gateway, &step, &partial, fetching, size_bytes, &pieces).await };
            tokio::task::spawn_local(trickling);
            Response::new(Reply::Pieces { arriving, left_bytes: size_bytes })
        }
    };
    for (name, value) in headers {
        reply.headers_mut().insert(name, value);
    }
    Ok(reply)
}

/// Sends the first bytes of a growing partial, few at a time, and the rest once the file is verified.
async fn trickle(
    gateway: &Gateway,
    step: &str,
    partial: &Path,
    mut fetching: Pinned<Box<impl Future<Output = Result<Fetched, Failure>>>>,
    announced_bytes: Option<u64>,
    pieces: &Sender<io::Result<Bytes>>,
) {
    let mut sent = Vec::new();
    let fetched = loop {
        if let Ok(fetched) = tokio::time::timeout(SILENCE, &mut fetching).await {
            break fetched;
        }
        // With the last byte that was announced an answer is complete, so that one waits.
        let unsent = announced_bytes.unwrap_or(u64::MAX).saturating_sub(sent.len() as u64 + 1);
        let mut piece = vec![0; TRICKLE_BYTES.min(unsent) as usize];
        let read = File::open(partial).and_then(|file| file.read_at(&mut piece, sent.len() as u64)).unwrap_or_default();
        piece.truncate(read);
        sent.extend_from_slice(&piece);
        if read > 0 && pieces.send(Ok(piece.into())).await.is_err() {
            return; // The child went away; the partial waits for the next one.
        }
    };
    let broken = |why: &str| io::Error::other(why.to_owned());
    let verified = match fetched {
        Ok(fetched) => fetched.verified,
        Err(failure) => {
            // The status is long sent: the conductor hears it, the child sees its connection end.
            drop(refuse(gateway, step, &failure));
            let _ = pieces.send(Err(broken(&failure.message))).await;
            return;
        }
    };
    if announced_bytes.is_some_and(|announced| announced != verified.size_bytes) {
        let _ = pieces.send(Err(broken("it is not as long as was announced"))).await;
        return;
    }
    let rest = File::open(&verified.path).and_then(|mut file| {
        let mut start = vec![0; sent.len()];
        file.read_exact(&mut start)?;
        if start == sent { Ok(file) } else { Err(broken("what was sent first came from another file")) }
    });
    match rest {
        Ok(file) => read_out(file, u64::MAX, pieces.clone()),
        Err(cause) => drop(pieces.send(Err(cause)).await),
    }
}

/// A verified file, or the range of it that was asked for.
fn file(verified: &Verified, range: Option<&HeaderValue>) -> Result<Response<Reply>, Error> {
    let failed = |cause| Error::disk("open", &verified.path, &cause);
    let mut file = File::open(&verified.path).map_err(failed)?;
    let total = verified.size_bytes;
    let asked = range.and_then(|range| byte_range(range.to_str().ok()?, total));
    let (status, start, end) = match asked {
        None => (StatusCode::OK, 0, total),
        Some(Some((start, end))) => (StatusCode::PARTIAL_CONTENT, start, end),
        Some(None) => {
            let mut reply = whole(StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new());
            insert(&mut reply, header::CONTENT_RANGE, &format!("bytes */{total}"));
            return Ok(reply);
        }
    };
    file.seek(SeekFrom::Start(start)).map_err(failed)?;
    let (pieces, arriving) = channel(2);
    read_out(file, end - start, pieces);
    let mut reply = Response::new(Reply::Pieces { arriving, left_bytes: Some(end - start) });
    *reply.status_mut() = status;
    if status == StatusCode::PARTIAL_CONTENT {
        insert(&mut reply, header::CONTENT_RANGE, &format!("bytes {start}-{}/{total}", end - 1));
    }
    reply.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    Ok(reply)
}

fn insert(reply: &mut Response<Reply>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
}

/// `Some(None)`: a range outside the file. `None`: not one range of bytes, which a server may answer with the whole.
fn byte_range(text: &str, total: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (start, end) = match (first.trim(), last.trim()) {
        ("", last) => (total.saturating_sub(last.parse().ok()?), total),
        (first, "") => (first.parse().ok()?, total),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.saturating_add(1).min(total)),
    };
    Some((start < end).then_some((start, end)))
}

fn read_out(file: File, length: u64, pieces: Sender<io::Result<Bytes>>) {
    tokio::task::spawn_blocking(move || {
        let mut file = file.take(length);
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
}

/// The body of an answer to a child.
pub enum Reply {
    Whole(Option<Bytes>),
    /// `left_bytes`: `None` where the length is not known; the body is chunked then.
    Pieces {
        arriving: Receiver<io::Result<Bytes>>,
        left_bytes: Option<u64>,
    },
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pinned<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) => {
                Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Pieces { arriving, left_bytes } => arriving.poll_recv(context).map(|piece| {
                piece.map(|piece| {
                    piece.map(|piece| {
                        *left_bytes = left_bytes.map(|left| left.saturating_sub(piece.len() as u64));
                        Frame::data(piece)
                    })
                })
            }),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Pieces { left_bytes: Some(left), .. } => SizeHint::with_exact(*left),
            Self::Pieces { left_bytes: None, .. } => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::byte_range;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        for (text, range) in [
            ("bytes=0-0", Some(Some((0, 1)))),
            ("bytes=5-", Some(Some((5, 10)))),
            ("bytes=-3", Some(Some((7, 10)))),
            ("bytes=-30", Some(Some((0, 10)))),
            ("bytes=8-99", Some(Some((8, 10)))),
            ("bytes=10-", Some(None)),
            ("bytes=0-18446744073709551615", Some(Some((0, 10)))),
            ("bytes=1-2,4-5", None),
            ("lines=1-2", None),
        ] {
            assert_eq!(byte_range(text, 10), range, "{text}");
        }
    }
}
