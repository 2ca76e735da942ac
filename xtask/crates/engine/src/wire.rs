//! Connections to BuildKit, and gRPC over them.
//!
//! Owns: how its two services are reached: Docker engines take a connection that asks to be upgraded, builders and newer engines
//! speak HTTP/2 from the first byte. Never: know what is asked.
//! Rules: moby `daemon/server/router/grpc` and `session`; gRPC over HTTP/2; docs/decisions/0020-buildkit-session.md.

use bollard_buildkit_proto::moby::buildkit::v1::BytesMessage;
use futures_util::{Stream, stream};
use http::uri::{PathAndQuery, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use protocol::engine::{Place, Tls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::metadata::{MetadataKey, MetadataValue};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// Of one stream and of a connection: with the 64 KiB of HTTP/2 a layer would wait for an answer 16 times a megabyte.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;
pub const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const HEAD_BYTES: usize = 16 << 10;
const PIECE_BYTES: usize = 64 << 10;
/// Names of headers with their values.
pub type Headers = Vec<(&'static str, String)>;

pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}
pub type Wire = Box<dyn Io>;

/// How BuildKit is spoken with at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// `POST /grpc` and `POST /session`, each a connection of its own that is upgraded.
    Upgraded,
    /// gRPC from the first byte, the session inside a call.
    Native,
}

/// Opens a connection.
pub async fn dial(place: &Place, manner: Manner) -> io::Result<Wire> {
    let (_, rest) = place.address.split_once("://").unwrap_or_default();
    if rest.starts_with('/') {
        return Ok(Box::new(UnixStream::connect(rest).await?));
    }
    let tcp = TcpStream::connect(rest).await?;
    tcp.set_nodelay(true)?;
    let Some(tls) = &place.tls else { return Ok(Box::new(tcp)) };
    let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host).trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    Ok(Box::new(connector(tls, manner)?.connect(name, tcp).await?))
}

fn connector(tls: &Tls, manner: Manner) -> io::Result<TlsConnector> {
    let certificates = |path: &Path| {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        read.map_err(|cause| io::Error::other(format!("{}: {cause}", path.display())))
    };
    let mut roots = rustls::RootCertStore::empty();
    for authority in certificates(&tls.authority)? {
        roots.add(authority).map_err(io::Error::other)?;
    }
    let key = PrivateKeyDer::from_pem_file(&tls.key)
        .map_err(|cause| io::Error::other(format!("{}: {cause}", tls.key.display())))?;
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&tls.certificate)?, key)
        .map_err(io::Error::other)?;
    if manner == Manner::Native {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Asks an engine to speak HTTP/2 from now on.
pub async fn upgrade(mut wire: Wire, path: &str, headers: &Headers) -> io::Result<Wire> {
    let mut head = format!("POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    wire.write_all((head + "\r\n").as_bytes()).await?;
    wire.flush().await?;
    // Byte by byte: what follows the head belongs to the next protocol.
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") && answer.len() < HEAD_BYTES {
        answer.push(wire.read_u8().await?);
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    match answer.split_whitespace().nth(1) {
        Some("101") => Ok(wire),
        _ => Err(io::Error::other(format!("{path}: {}", answer.lines().next().unwrap_or_default()))),
    }
}

/// gRPC on a connection; clones share it.
#[derive(Clone)]
pub struct Channel(SendRequest<Body>);

impl Channel {
    pub async fn over(wire: Wire) -> io::Result<Self> {
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(TokioIo::new(wire))
            .await
            .map_err(io::Error::other)?;
        // Its end is seen by whoever waits for an answer.
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    async fn ready(&self) -> Result<Grpc<Self>, Status> {
        // HTTP/2 wants to know whom it speaks with; a connection leads to one only.
        let mut grpc = Grpc::with_origin(self.clone(), Uri::from_static("http://buildkit"));
        grpc.ready().await.map_err(|cause| Status::unavailable(cause.to_string()))?;
        Ok(grpc)
    }

    /// One message for one.
    pub async fn ask<Q, A>(&self, method: &'static str, question: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.ask_with(method, question, &Vec::new()).await
    }

    /// The same with something said beside the message.
    pub async fn ask_with<Q, A>(&self, method: &'static str, question: Q, headers: &Headers) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.ready().await?;
        let (request, path) = (with_headers(question, headers), PathAndQuery::from_static(method));
        Ok(grpc.unary(request, path, ProstCodec::default()).await?.into_inner())
    }

    /// Many messages for one.
    pub async fn follow<Q, A>(&self, method: &'static str, question: Q) -> Result<Streaming<A>, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.ready().await?;
        let path = PathAndQuery::from_static(method);
        Ok(grpc.server_streaming(Request::new(question), path, ProstCodec::default()).await?.into_inner())
    }

    /// A connection inside a call.
    pub async fn tunnel(&self, method: &'static str, headers: &Headers) -> Result<Wire, Status> {
        let (ours, inside) = tokio::io::duplex(4 * PIECE_BYTES);
        let (mut from_us, mut to_us) = tokio::io::split(inside);
        let (pieces, outgoing) = mpsc::channel::<BytesMessage>(4);
        let request = with_headers(received(outgoing), headers);
        let mut grpc = self.ready().await?;
        // The other end may wait for our first bytes before it answers, so they flow already.
        tokio::spawn(async move {
            let mut piece = vec![0; PIECE_BYTES];
            while let Ok(length @ 1..) = from_us.read(&mut piece).await {
                if pieces.send(BytesMessage { data: piece[..length].to_vec() }).await.is_err() {
                    return;
                }
            }
        });
        let path = PathAndQuery::from_static(method);
        let codec = ProstCodec::<BytesMessage, BytesMessage>::default();
        let mut incoming = grpc.streaming(request, path, codec).await?.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                if to_us.write_all(&message.data).await.is_err() {
                    return;
                }
            }
        });
        Ok(Box::new(ours))
    }
}

fn with_headers<T>(message: T, headers: &Headers) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in headers {
        let key = MetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes());
        let value = MetadataValue::try_from(value.as_str());
        if let (Ok(key), Ok(value)) = (key, value) {
            request.metadata_mut().append(key, value);
        }
    }
    request
}

/// What comes out of a queue.
pub fn received<T>(queue: mpsc::Receiver<T>) -> impl Stream<Item = T> {
    stream::unfold(queue, |mut queue| async move { queue.recv().await.map(|it| (it, queue)) })
}

impl tower_service::Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
