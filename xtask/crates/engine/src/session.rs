//! What a builder may ask of us while it builds.
//!
//! A builder is the client here: it asks for files, secrets and logins, and sends what it exports.
//! Owns: the answers, and what is known of their progress. Never: give what was not meant for this build.
//! Rules: github.com/moby/buildkit `session/`; docs/decisions/0020-buildkit-session.md.

use crate::sync::{self, Folder};
use crate::wire::{CONNECTION_WINDOW_BYTES, Headers, STREAM_WINDOW_BYTES, Wire, received};
use bollard_buildkit_proto::fsutil::types::Packet;
use bollard_buildkit_proto::health::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};
use bollard_buildkit_proto::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use bollard_buildkit_proto::moby::buildkit::v1::BytesMessage;
use bollard_buildkit_proto::moby::filesync::v1::{CredentialsRequest, CredentialsResponse};
use futures_util::Stream;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use protocol::engine::{BuilderLogin, Secret};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::future::{Future, ready};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

const FILES: &str = "/moby.filesync.v1.FileSync/DiffCopy";
const EXPORT: &str = "/moby.filesync.v1.FileSend/DiffCopy";
const SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const LOGIN: &str = "/moby.filesync.v1.Auth/Credentials";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// Which folder a builder wants.
const FOLDER: &str = "dir-name";

/// One build's.
#[derive(Default)]
pub struct Session {
    pub id: String,
    /// Under which a builder keeps the files that it was sent.
    pub shared_key: String,
    /// By the name that a build gives them.
    pub folders: BTreeMap<&'static str, Arc<Folder>>,
    pub secrets: BTreeMap<String, Secret>,
    pub logins: BTreeMap<String, BuilderLogin>,
    /// Where an export is written to.
    pub export: Option<PathBuf>,
    pub activity: Arc<Activity>,
}

/// What has happened so far; whoever watches sees whether anything does.
#[derive(Debug, Default)]
pub struct Activity {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    /// The first thing on our side that went wrong: a builder tells it in its own words.
    broken: Mutex<Option<String>>,
}

impl Activity {
    pub fn sent(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Grows whenever something moves.
    pub fn moved_bytes(&self) -> u64 {
        self.sent_bytes() + self.received_bytes.load(Ordering::Relaxed)
    }

    pub fn broke(&self, message: &str) {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| message.to_owned());
    }

    pub fn broken(&self) -> Option<String> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Nobody else's: the hasher's keys are random.
pub fn unique() -> String {
    let half = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", half(), half())
}

impl Session {
    /// What we are told to be when we come.
    pub fn headers(&self) -> Headers {
        let methods = [FILES, EXPORT, SECRET, LOGIN, HEALTH];
        let described = [
            ("X-Docker-Expose-Session-Uuid", &self.id),
            ("X-Docker-Expose-Session-Name", &self.shared_key),
            ("X-Docker-Expose-Session-Sharedkey", &self.shared_key),
        ];
        let described = described.map(|(name, value)| (name, value.clone()));
        let exposed = methods.map(|method| ("X-Docker-Expose-Session-Grpc-Method", method.to_owned()));
        described.into_iter().chain(exposed).collect()
    }

    /// Answers until the builder goes.
    pub async fn serve(self: Arc<Self>, wire: Wire) -> Result<(), hyper::Error> {
        let answer = move |request| {
            let session = self.clone();
            async move { Ok::<_, Infallible>(session.answer(request).await) }
        };
        http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .serve_connection(TokioIo::new(wire), service_fn(answer))
            .await
    }

    async fn answer(self: Arc<Self>, request: http::Request<Incoming>) -> http::Response<Body> {
        match request.uri().path() {
            FILES => grpc().streaming(Method(|asked| ready(self.files(asked))), request).await,
            EXPORT => grpc().streaming(Method(|sent| ready(self.receive(sent))), request).await,
            SECRET => grpc().unary(Method(|asked| ready(self.secret(asked))), request).await,
            LOGIN => grpc().unary(Method(|asked| ready(self.login(asked))), request).await,
            HEALTH => grpc().unary(Method(|_: Request<HealthCheckRequest>| ready(Ok(healthy()))), request).await,
            other => Status::unimplemented(other.to_owned()).into_http(),
        }
    }

    fn files(
        &self,
        asked: Request<Streaming<Packet>>,
    ) -> Result<Response<impl Stream<Item = Result<Packet, Status>> + use<>>, Status> {
        let name = asked.metadata().get(FOLDER).and_then(|name| name.to_str().ok()).unwrap_or_default();
        let folder = self.folders.get(name).ok_or_else(|| Status::not_found(format!("there is no folder {name:?}")))?;
        Ok(Response::new(sync::send(folder.clone(), asked.into_inner(), self.activity.clone())))
    }

    fn secret(&self, asked: Request<GetSecretRequest>) -> Result<Response<GetSecretResponse>, Status> {
        let id = &asked.get_ref().id;
        let secret = self.secrets.get(id).ok_or_else(|| Status::not_found(format!("secret {id} not found")))?;
        Ok(Response::new(GetSecretResponse { data: secret.0.clone().into_bytes() }))
    }

    /// Without one a builder asks the registry as nobody.
    fn login(&self, asked: Request<CredentialsRequest>) -> Result<Response<CredentialsResponse>, Status> {
        let login = self.logins.get(&asked.get_ref().host);
        Ok(Response::new(login.map_or_else(CredentialsResponse::default, |it| CredentialsResponse {
            username: it.user.clone(),
            secret: it.password.0.clone(),
        })))
    }

    /// Once: a second export would be written over the first one.
    fn receive(
        &self,
        sent: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<impl Stream<Item = Result<BytesMessage, Status>> + use<>>, Status> {
        let file = self.export.as_deref().ok_or_else(|| Status::failed_precondition("no export was asked for"))?;
        let output = File::create_new(file).map_err(|cause| unwritable(file, &cause)).inspect_err(|status| {
            self.activity.broke(status.message());
        })?;
        let (answers, outgoing) = mpsc::channel(1);
        let (file, activity) = (file.to_owned(), self.activity.clone());
        tokio::spawn(async move {
            if let Err(status) = save(sent.into_inner(), output, &file, &activity).await {
                activity.broke(status.message());
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(received(outgoing)))
    }
}

async fn save(
    mut pieces: Streaming<BytesMessage>,
    mut output: File,
    path: &Path,
    activity: &Activity,
) -> Result<(), Status> {
    while let Some(piece) = pieces.message().await? {
        output.write_all(&piece.data).map_err(|cause| unwritable(path, &cause))?;
        activity.received_bytes.fetch_add(piece.data.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

fn unwritable(path: &Path, cause: &std::io::Error) -> Status {
    Status::data_loss(format!("cannot write {}: {cause}", path.display()))
}

fn healthy() -> Response<HealthCheckResponse> {
    Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() })
}

fn grpc<Q, A>() -> tonic::server::Grpc<ProstCodec<A, Q>>
where
    Q: Message + Default + Send + 'static,
    A: Message + Default + Send + 'static,
{
    tonic::server::Grpc::new(ProstCodec::default())
}

/// A function as a method of a service.
struct Method<F>(F);

impl<F, Q, A, R> tower_service::Service<Request<Q>> for Method<F>
where
    F: FnMut(Request<Q>) -> R,
    R: Future<Output = Result<Response<A>, Status>>,
{
    type Response = Response<A>;
    type Error = Status;
    type Future = R;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Q>) -> R {
        self.0(request)
    }
}
