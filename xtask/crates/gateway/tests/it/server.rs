//! An upstream with named faults: plain HTTP/1.1 on loopback, its log is the oracle.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// One request as the server saw it; header names in lower case.
#[derive(Clone, Debug)]
pub struct Hit {
    pub method: String,
    pub target: String,
    pub headers: BTreeMap<String, String>,
}

pub enum Reply {
    Whole {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// Announces the whole body, sends its first bytes and closes.
    Cut {
        body: Vec<u8>,
        status: u16,
        headers: Vec<(&'static str, String)>,
        after: usize,
    },
    /// The same, ended by a reset instead of an orderly close, once the first bytes have arrived.
    Reset {
        body: Vec<u8>,
        status: u16,
        headers: Vec<(&'static str, String)>,
        after: usize,
    },
    /// Announces the whole body, sends its first bytes and no more until the other side goes away.
    Hold {
        body: Vec<u8>,
        status: u16,
        headers: Vec<(&'static str, String)>,
        after: usize,
    },
    /// A body of zeros that nobody holds in memory.
    Zeros {
        size_bytes: u64,
    },
    /// Announces the body, sends its first bytes and then one byte a second.
    Drip {
        body: Vec<u8>,
        after: usize,
    },
    /// The whole body, ten pieces a second.
    Slow {
        body: Vec<u8>,
        bytes_a_second: usize,
        /// Whether the head says its length.
        announced: bool,
    },
    /// Never answers.
    Silent,
}

impl Reply {
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::Whole { status: 200, headers: Vec::new(), body: body.into() }
    }

    pub fn status(status: u16) -> Self {
        Self::Whole { status, headers: Vec::new(), body: Vec::new() }
    }

    pub fn with(self, name: &'static str, value: impl Into<String>) -> Self {
        match self {
            Self::Whole { status, mut headers, body } => {
                headers.push((name, value.into()));
                Self::Whole { status, headers, body }
            }
            other => other,
        }
    }

    pub fn html() -> Self {
        Self::ok("<!DOCTYPE html><title>Guest network</title><p>Please sign in</p>")
            .with("Content-Type", "text/html; charset=utf-8")
    }
}

pub type Handler = Box<dyn Fn(&Hit) -> Reply + Send + Sync>;

pub struct Server {
    pub url: String,
    hits: Arc<Mutex<Vec<Hit>>>,
    sent_bytes: Arc<Mutex<u64>>,
}

impl Server {
    pub fn start(handler: impl Fn(&Hit) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { url, hits: Arc::default(), sent_bytes: Arc::default() };
        let (hits, sent_bytes, handler) = (server.hits.clone(), server.sent_bytes.clone(), Arc::new(handler));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (hits, sent_bytes, handler) = (hits.clone(), sent_bytes.clone(), handler.clone());
                thread::spawn(move || {
                    let socket = stream.try_clone();
                    if serve(stream, &hits, &sent_bytes, &*handler) == End::Reset {
                        reset(&socket.unwrap());
                    }
                });
            }
        });
        server
    }

    pub fn hits(&self) -> Vec<Hit> {
        self.hits.lock().unwrap().clone()
    }

    /// Body bytes handed to the network, cut ones included.
    pub fn sent_bytes(&self) -> u64 {
        *self.sent_bytes.lock().unwrap()
    }
}

/// An address that refuses connections. Its port stays taken, or a server of another test would get it.
pub fn refusing() -> String {
    use std::os::fd::{FromRawFd, IntoRawFd};
    let loopback = u32::from(std::net::Ipv4Addr::LOCALHOST).to_be();
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: loopback },
        sin_zero: [0; 8],
    };
    // SAFETY: a new descriptor that nobody else has; the address lives through the call and has the length that is said.
    let bound = unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        let length = libc::socklen_t::try_from(size_of_val(&address)).unwrap();
        assert_eq!(libc::bind(socket, (&raw const address).cast(), length), 0);
        TcpListener::from_raw_fd(socket)
    };
    let url = format!("http://{}", bound.local_addr().unwrap());
    // Bound and never listening, for as long as the tests run.
    let _ = bound.into_raw_fd();
    url
}

/// An address that drops every SYN: its queue is full and nobody accepts.
pub struct Blackhole {
    pub url: String,
    _listener: TcpListener,
    _fill: Vec<TcpStream>,
}

impl Blackhole {
    pub fn start() -> Self {
        use std::os::fd::AsRawFd;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // SAFETY: the descriptor is open; listening again only shortens its queue.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let fill =
            (0..4).filter_map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok()).collect();
        Self { url: format!("http://{address}"), _listener: listener, _fill: fill }
    }
}

pub fn read_head(stream: &mut impl BufRead) -> Option<Hit> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        match line.trim().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => return Some(Hit { method, target, headers }),
        };
    }
}

/// How a connection is to be ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Close,
    Reset,
}

/// Makes the coming close a reset. What was sent must have arrived: a reset throws away the rest.
fn reset(socket: &TcpStream) {
    use std::os::fd::AsRawFd;
    let mut unsent = 1;
    while unsent > 0 {
        // SAFETY: the descriptor is open and the call writes one integer.
        assert_eq!(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut unsent) }, 0);
        thread::sleep(Duration::from_millis(1));
    }
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = libc::socklen_t::try_from(size_of_val(&at_once)).unwrap();
    // SAFETY: the option's value lives through the call and has the length that is said.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const at_once).cast(), length)
    };
    assert_eq!(set, 0);
}

pub fn serve(
    stream: impl Read + Write,
    hits: &Mutex<Vec<Hit>>,
    sent_bytes: &Mutex<u64>,
    handler: &dyn Fn(&Hit) -> Reply,
) -> End {
    let mut stream = BufReader::new(stream);
    while let Some(hit) = read_head(&mut stream) {
        hits.lock().unwrap().push(hit.clone());
        let (status, headers, body, end) = match handler(&hit) {
            Reply::Whole { status, headers, body } => (status, headers, body, None),
            Reply::Cut { status, headers, body, after } => {
                (status, headers, body, Some((after, After::End(End::Close))))
            }
            Reply::Reset { status, headers, body, after } => {
                (status, headers, body, Some((after, After::End(End::Reset))))
            }
            Reply::Hold { status, headers, body, after } => (status, headers, body, Some((after, After::Hold))),
            Reply::Drip { body, after } => (200, Vec::new(), body, Some((after, After::Drip))),
            Reply::Zeros { size_bytes } => {
                let head = format!("HTTP/1.1 200 X\r\nContent-Length: {size_bytes}\r\n\r\n");
                let sent = stream.get_mut().write_all(head.as_bytes());
                if sent
                    .and_then(|()| std::io::copy(&mut std::io::repeat(0).take(size_bytes), stream.get_mut()))
                    .is_err()
                {
                    return End::Close;
                }
                continue;
            }
            Reply::Slow { body, bytes_a_second, announced } => {
                let length = if announced { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
                let mut sent = stream.get_mut().write_all(format!("HTTP/1.1 200 X\r\n{length}\r\n").as_bytes());
                for piece in body.chunks(bytes_a_second / 10) {
                    thread::sleep(Duration::from_millis(100));
                    sent = sent.and_then(|()| stream.get_mut().write_all(piece));
                }
                if !announced || sent.is_err() {
                    return End::Close;
                }
                continue;
            }
            Reply::Silent => {
                thread::sleep(Duration::from_secs(60));
                return End::Close;
            }
        };
        let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let out = stream.get_mut();
        // The answer to a HEAD is its head.
        let now = if hit.method == "HEAD" { 0 } else { end.map_or(body.len(), |(after, _)| after.min(body.len())) };
        if out.write_all(format!("{head}\r\n").as_bytes()).is_err() {
            return End::Close;
        }
        for piece in body[..now].chunks(64 * 1024) {
            if out.write_all(piece).is_err() {
                return End::Close;
            }
            *sent_bytes.lock().unwrap() += piece.len() as u64;
        }
        let _ = out.flush();
        match end {
            None => {}
            Some((_, After::End(end))) => return end,
            Some((_, After::Hold)) => {
                let _ = stream.read(&mut [0]);
                return End::Close;
            }
            Some((_, After::Drip)) => {
                for byte in body[now..].chunks(1).take(60) {
                    thread::sleep(Duration::from_secs(1));
                    if out.write_all(byte).is_err() {
                        return End::Close;
                    }
                }
                return End::Close;
            }
        }
    }
    End::Close
}

/// What follows the first bytes of a body.
#[derive(Clone, Copy)]
enum After {
    End(End),
    Hold,
    Drip,
}

/// A file as a good server gives it: entity tag, ranges, `If-Range`.
pub fn file(hit: &Hit, body: &[u8], etag: &str) -> Reply {
    let unchanged = hit.headers.get("if-range").is_none_or(|tag| tag == etag);
    let from = hit
        .headers
        .get("range")
        .filter(|_| unchanged)
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match from {
        Some(from) if from >= body.len() => Reply::status(416),
        Some(from) => Reply::Whole { status: 206, headers: Vec::new(), body: body[from..].to_vec() }
            .with("Content-Range", format!("bytes {from}-{}/{}", body.len() - 1, body.len()))
            .with("ETag", etag),
        None => Reply::ok(body).with("ETag", etag),
    }
}

/// Bytes that differ everywhere, so that a piece in the wrong place changes the hash.
pub fn noise(size_bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size_bytes + 8);
    while bytes.len() < size_bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size_bytes);
    bytes
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
