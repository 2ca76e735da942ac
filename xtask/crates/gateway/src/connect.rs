//! Opening one connection to the outside: name, dial, proxy, TLS, each within its bound.
//!
//! Owns: the choice of proxy and the trust store. Never: switch verification off, or send a credential anywhere but to the
//! proxy that it belongs to.
//! Rules: ARCHITECTURE.md, "Invariants".

use crate::error::{Error, Kind};
use crate::names::Names;
use crate::request::milliseconds;
use crate::secrets;
use crate::url::{Origin, Url};
use protocol::bypass::Bypass;
use protocol::coding::{base64, percent_decode};
use protocol::{Cause, Proxy, Setup};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// How long one address may keep the next waiting: a dead IPv6 route must not cost the whole connect bound.
const ADDRESS_STAGGER: Duration = Duration::from_millis(250);
const MAX_PROXY_ANSWER_BYTES: usize = 8 * 1024;

/// Who a request was sent to, for messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    pub url: Option<String>,
    pub address: Option<String>,
    pub proxy: Option<String>,
}

pub trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

pub struct Connection {
    pub stream: Box<dyn Stream>,
    pub peer: Peer,
    /// Set when requests go in absolute form to a plain-http proxy.
    pub forward: Option<Forward>,
}

/// What a request through a plain-http proxy carries in addition.
#[derive(Clone)]
pub struct Forward {
    pub authorization: Option<String>,
}

pub struct Connector {
    proxy: ProxyRules,
    names: Names,
    ca_bundles: Vec<PathBuf>,
    further_authorities: Vec<PathBuf>,
    /// Made on first use: reading a system store costs more than many a whole run over plain http.
    tls: OnceCell<TlsConnector>,
    issuers: Issuers,
    bound: Duration,
}

/// Host → who signed the certificate that it showed last, accepted or not.
type Issuers = Arc<Mutex<HashMap<String, String>>>;

impl Connector {
    /// # Errors: Configuration, for a proxy URL that cannot be used.
    pub fn new(setup: &Setup) -> Result<Self, Error> {
        Ok(Self {
            proxy: ProxyRules::new(&setup.proxy)?,
            names: Names::of_this_machine(),
            ca_bundles: setup.ca_bundles.clone(),
            further_authorities: setup.further_authorities.clone(),
            tls: OnceCell::new(),
            issuers: Issuers::default(),
            bound: Duration::from_secs(setup.limits.connect_seconds),
        })
    }

    pub async fn open(&self, url: &Url) -> Result<Connection, Error> {
        let target = &url.origin;
        let via = self.proxy.for_origin(target);
        let next_hop = via.map_or(target, |via| &via.origin);
        let mut peer = Peer { url: Some(url.to_string()), address: None, proxy: via.map(|via| via.origin.to_string()) };

        let whose = if via.is_some() { "the proxy " } else { "" };
        let what = format!("cannot connect to {whose}{}", next_hop.authority());
        let mut stream = match self.bounded(dial(&self.names, next_hop)).await {
            Ok(stream) => stream,
            Err(cause) => {
                let error = Error::new(Kind::Dead, format!("{what}: {cause}")).at(&peer);
                return Err(error.told(self.cause(&cause, via.is_some())));
            }
        };
        peer.address = stream.peer_addr().ok().map(|address| address.to_string());
        // Requests are small and each is waited for; delaying them buys nothing.
        let _ = stream.set_nodelay(true);

        if !target.https {
            let forward = via.map(|via| Forward { authorization: via.authorization.clone() });
            return Ok(Connection { stream: Box::new(stream), peer, forward });
        }
        if let Some(via) = via {
            self.bounded(tunnel(&mut stream, target, via.authorization.as_deref())).await.map_err(|cause| {
                let message = format!("proxy {} opened no tunnel to {}: {cause}", via.origin, target.authority());
                Error::new(Kind::Dead, message).at(&peer).told(self.cause(&cause, true))
            })?;
        }
        let stream = self.handshake(target, stream).await.map_err(|error| error.at(&peer))?;
        Ok(Connection { stream, peer, forward: None })
    }

    /// Who signed the certificate that a host showed last; `None` before any.
    pub fn issuer(&self, host: &str) -> Option<String> {
        self.issuers.lock().unwrap_or_else(PoisonError::into_inner).get(host.trim_matches(['[', ']'])).cloned()
    }

    async fn handshake(&self, target: &Origin, stream: TcpStream) -> Result<Box<dyn Stream>, Error> {
        let connector = self
            .tls
            .get_or_try_init(|| async { tls_connector(&self.ca_bundles, &self.further_authorities, &self.issuers) })
            .await?;
        let host = target.host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host).map_err(|cause| Error::new(Kind::Tls, cause.to_string()))?;
        match self.bounded(connector.connect(name, stream)).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(cause) if cause.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
                let signed =
                    self.issuer(&target.host).map(|issuer| format!(" (signed by “{issuer}”)")).unwrap_or_default();
                let message = format!(
                    "TLS with {} was refused: {cause}{signed}; if a proxy of yours re-signs traffic, name its CA in \
                     SSL_CERT_FILE",
                    target.authority()
                );
                let told = Cause::Tls { issuer: self.issuer(&target.host), text: cause.to_string() };
                Err(Error::new(Kind::Tls, message).told(told))
            }
            Err(cause) => {
                let message = format!("TLS handshake with {}: {cause}", target.authority());
                Err(Error::new(Kind::Dead, message).told(self.cause(&cause, false)))
            }
        }
    }

    /// Why there is no connection.
    fn cause(&self, error: &io::Error, by_proxy: bool) -> Cause {
        use io::ErrorKind as Kind;
        let text = error.to_string();
        let cause = match error.kind() {
            // Of `tunnel`.
            Kind::PermissionDenied if by_proxy => return Cause::ProxyPassword,
            Kind::ConnectionRefused => Cause::Refused,
            Kind::TimedOut => Cause::NoConnection { milliseconds: milliseconds(self.bound) },
            Kind::HostUnreachable | Kind::NetworkUnreachable => Cause::Unreachable,
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::UnexpectedEof | Kind::BrokenPipe => Cause::Broken,
            // The resolver's kinds are none: gai_strerror(3) in its own words.
            _ if text.contains("Name or service not known") || text.contains("has no address") => Cause::UnknownName,
            _ if text.contains("Temporary failure in name resolution") => Cause::NoNameServer,
            _ => Cause::Said { text },
        };
        if by_proxy { Cause::Proxy { because: Box::new(cause) } } else { cause }
    }

    async fn bounded<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        match tokio::time::timeout(self.bound, work).await {
            Ok(result) => result,
            Err(_) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing within {} s", self.bound.as_secs())))
            }
        }
    }
}

/// The first of a name's addresses to answer; each gets a head start over the next.
async fn dial(names: &Names, origin: &Origin) -> io::Result<TcpStream> {
    let host = origin.host.trim_matches(['[', ']']);
    let mut addresses = names.addresses(host).await?.into_iter().map(|address| SocketAddr::new(address, origin.port));
    let mut dials = JoinSet::new();
    let mut failures = Vec::new();
    let mut kind = io::ErrorKind::Other;
    loop {
        if let Some(address) = addresses.next() {
            dials.spawn(async move { TcpStream::connect(address).await.map_err(|cause| (address, cause)) });
        }
        match tokio::time::timeout(ADDRESS_STAGGER, dials.join_next()).await {
            Err(_) => {}
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err((address, cause))))) => {
                kind = cause.kind();
                failures.push(describe(address, &cause));
            }
            Ok(Some(Err(cause))) => failures.push(cause.to_string()),
            Ok(None) if failures.is_empty() => {
                return Err(io::Error::other("the name has no address"));
            }
            Ok(None) => return Err(io::Error::new(kind, failures.join("; "))),
        }
    }
}

fn describe(address: SocketAddr, cause: &io::Error) -> String {
    format!("{}: {cause}", address.ip())
}

/// Asks an HTTP proxy for a tunnel. RFC 9110, section 9.3.6.
async fn tunnel(stream: &mut TcpStream, target: &Origin, authorization: Option<&str>) -> io::Result<()> {
    let host_port = format!("{}:{}", target.host, target.port);
    let credentials = authorization.map(|value| format!("Proxy-Authorization: {value}\r\n")).unwrap_or_default();
    let request = format!("CONNECT {host_port} HTTP/1.1\r\nHost: {host_port}\r\n{credentials}\r\n");
    stream.write_all(request.as_bytes()).await?;
    // The server behind a tunnel waits for our ClientHello, so nothing can follow the proxy's answer yet.
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut answer).await? == 0 || answer.len() > MAX_PROXY_ANSWER_BYTES {
            return Err(io::Error::other("it closed the connection without a complete answer"));
        }
    }
    let status_line =
        String::from_utf8_lossy(answer.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    match status_line.split(' ').nth(1) {
        Some(status) if status.starts_with('2') => Ok(()),
        Some("407") => {
            let message = format!("it wants other credentials ({status_line})");
            Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
        }
        _ => Err(io::Error::other(format!("it answered `{}`", status_line.escape_debug()))),
    }
}

/// `further`: trusted in addition to the bundles, or to the system's store where there are none.
fn tls_connector(ca_bundles: &[PathBuf], further: &[PathBuf], issuers: &Issuers) -> Result<TlsConnector, Error> {
    let mut roots = rustls::RootCertStore::empty();
    let configuration = |message: String| Error::new(Kind::Configuration, message);
    if ca_bundles.is_empty() {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let causes = found.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            return Err(configuration(format!(
                "the system has no CA certificates ({causes}); install them or set SSL_CERT_FILE"
            )));
        }
    }
    for path in ca_bundles.iter().chain(further) {
        let unreadable = |cause| configuration(format!("cannot read the CA bundle {}: {cause}", path.display()));
        let certificates = CertificateDer::pem_file_iter(path)
            .map_err(unreadable)?
            .collect::<Result<Vec<_>, _>>()
            .map_err(unreadable)?;
        let (added, _) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(configuration(format!("the CA bundle {} holds no certificate", path.display())));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|cause| configuration(cause.to_string()))?;
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|cause| configuration(cause.to_string()))?
        // rustls calls every verifier of one's own dangerous; this one is its own, with a witness before it.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Witness { verifier, issuers: issuers.clone() }))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Notes who signed a certificate and leaves the judgement to rustls: a person behind a proxy that re-signs traffic has to
/// hear its name above all when it is refused.
#[derive(Debug)]
struct Witness {
    verifier: Arc<WebPkiServerVerifier>,
    issuers: Issuers,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(issuer) = issuer(end_entity) {
            let mut issuers = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
            issuers.insert(server_name.to_str().into_owned(), issuer);
        }
        self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// The organisation and common name of a certificate's issuer. RFC 5280, section 4.1.
fn issuer(certificate: &[u8]) -> Option<String> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    // Object identifiers 2.5.4.10 and 2.5.4.3.
    const ORGANISATION: &[u8] = &[0x55, 0x04, 0x0a];
    const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    let (_, certificate, _) = element(certificate)?;
    let (_, to_be_signed, _) = element(certificate)?;
    let (tag, _, rest) = element(to_be_signed)?;
    let after_version = if tag == VERSION { rest } else { to_be_signed };
    let (_, _serial_number, rest) = element(after_version)?;
    let (_, _algorithm, rest) = element(rest)?;
    let (tag, mut names, _) = element(rest)?;
    let mut told = Vec::new();
    while tag == SEQUENCE && !names.is_empty() {
        let (_, set, rest) = element(names)?;
        let (_, attribute, _) = element(set)?;
        let (_, kind, value) = element(attribute)?;
        let (_, value, _) = element(value)?;
        if kind == ORGANISATION || kind == COMMON_NAME {
            // It goes to a terminal, and whoever is in the middle wrote it.
            told.push(String::from_utf8_lossy(value).chars().filter(|c| !c.is_control()).take(80).collect::<String>());
        }
        names = rest;
    }
    Some(told.join(", ")).filter(|told| !told.is_empty())
}

/// Tag, content and what follows of one DER element.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*first) {
        short @ 0..0x80 => (short, rest),
        long => {
            let (digits, rest) = rest.split_at_checked(long - 0x80).filter(|(digits, _)| digits.len() <= 4)?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// Which origins are reached through which proxy.
struct ProxyRules {
    https: Option<ProxyServer>,
    http: Option<ProxyServer>,
    bypass: Vec<Bypass>,
}

struct ProxyServer {
    origin: Origin,
    authorization: Option<String>,
}

impl ProxyRules {
    fn new(proxy: &Proxy) -> Result<Self, Error> {
        let parse =
            |url: &Option<String>| url.as_deref().filter(|url| !url.is_empty()).map(ProxyServer::parse).transpose();
        Ok(Self {
            https: parse(&proxy.https)?,
            http: parse(&proxy.http)?,
            bypass: proxy.no_proxy.as_deref().unwrap_or_default().split([',', ' ']).filter_map(Bypass::parse).collect(),
        })
    }

    fn for_origin(&self, origin: &Origin) -> Option<&ProxyServer> {
        let proxy = if origin.https { self.https.as_ref() } else { self.http.as_ref() }?;
        let host = origin.host.trim_matches(['[', ']']);
        // No proxy can reach this machine's own loopback for us.
        (!origin.is_loopback() && !self.bypass.iter().any(|rule| rule.covers(host, origin.port))).then_some(proxy)
    }
}

impl ProxyServer {
    fn parse(text: &str) -> Result<Self, Error> {
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let (scheme, rest) = with_scheme.split_once("://").unwrap_or_default();
        let (user, host) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
        let url = Url::parse(&format!("{scheme}://{host}"))
            .map_err(|error| Error::new(Kind::Configuration, format!("proxy setting: {}", error.message)))?;
        if url.origin.https {
            let message = format!(
                "proxy {}: a TLS connection to the proxy itself is not spoken; name its http:// port",
                url.origin
            );
            return Err(Error::new(Kind::Configuration, message));
        }
        let authorization = user.map(|user| format!("Basic {}", base64(&percent_decode(user))));
        authorization.iter().for_each(|it| secrets::learn(it));
        Ok(Self { origin: url.origin, authorization })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_is_read_as_curl_and_go_read_it() {
        let rules = ProxyRules::new(&Proxy {
            https: Some("http://us%65r:p%40ss@proxy.example:3128".into()),
            http: None,
            no_proxy: Some("corp.example, .dot.example,10.0.0.0/8,only.example:8443".into()),
        });
        let Ok(rules) = rules else { unreachable!("the settings above are well formed") };
        assert_eq!(
            rules.https.as_ref().and_then(|proxy| proxy.authorization.clone()),
            Some(format!("Basic {}", base64(b"user:p@ss")))
        );
        for (url, through_proxy) in [
            ("https://a.example", true),
            ("http://a.example", false),
            ("https://corp.example", false),
            ("https://git.corp.example", false),
            ("https://notcorp.example", true),
            ("https://x.dot.example", false),
            ("https://10.1.2.3", false),
            ("https://11.1.2.3", true),
            ("https://only.example:8443", false),
            ("https://only.example", true),
            ("https://127.0.0.1", false),
        ] {
            let used = Url::parse(url).is_ok_and(|url| rules.for_origin(&url.origin).is_some());
            assert_eq!(used, through_proxy, "{url}");
        }
    }
}
