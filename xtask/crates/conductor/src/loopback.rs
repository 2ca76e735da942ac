//! The rim towards services that we started ourselves: HTTP/1.1 over a loopback socket, the only kind this program opens.

use crate::error::{Code, Error, Result};
use crate::tr;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Answers of local services are small; a larger one is a mistake.
const MAX_BYTES: u64 = 64 << 20;

#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names in lower case, in the order of arrival.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

pub fn get(port: u16, path: &str, limit: Duration) -> io::Result<Response> {
    request(port, "GET", path, None, limit)
}

pub fn post_json(port: u16, path: &str, body: &[u8], limit: Duration) -> io::Result<Response> {
    request(port, "POST", path, Some(body), limit)
}

fn request(port: u16, method: &str, path: &str, body: Option<&[u8]>, limit: Duration) -> io::Result<Response> {
    let stream = TcpStream::connect_timeout(&address(port), limit.min(Duration::from_secs(2)))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    exchange(stream, &format!("127.0.0.1:{port}"), method, path, body)
}

/// Asks whoever listens on a socket in the file system; without a path only whether anybody does.
pub fn get_unix(socket: &Path, path: Option<&str>, limit: Duration) -> io::Result<Option<Response>> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    path.map(|path| exchange(stream, "localhost", "GET", path, None)).transpose()
}

fn exchange(
    mut stream: impl Read + Write,
    host: &str,
    method: &str,
    path: &str,
    body: Option<&[u8]>,
) -> io::Result<Response> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    if let Some(body) = body {
        head.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.unwrap_or_default())?;
    let mut bytes = Vec::new();
    stream.take(MAX_BYTES).read_to_end(&mut bytes)?;
    parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, tr!("not an HTTP/1.1 answer")))
}

/// A whole answer, read up to the end of the connection.
fn parse(bytes: &[u8]) -> Option<Response> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let rest = &bytes[end + 4..];
    let chunked =
        headers.iter().any(|(name, value)| name == "transfer-encoding" && value.eq_ignore_ascii_case("chunked"));
    let body = if chunked { dechunked(rest)? } else { rest.to_vec() };
    Some(Response { status, headers, body })
}

fn dechunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = &rest[line + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

/// Whether nobody listens on `port`.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(address(port)).is_ok()
}

/// Free ports, all different.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let failed = |error| Error::new(Code::PortTaken, tr!("there is no free TCP port on 127.0.0.1")).because(error);
    // All are held until all are known, so that none is given twice.
    let listeners: io::Result<Vec<_>> = (0..count).map(|_| TcpListener::bind(address(0))).collect();
    listeners.and_then(|listeners| listeners.iter().map(|it| Ok(it.local_addr()?.port())).collect()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_chunked_answers_are_understood() {
        let plain = parse(b"HTTP/1.1 200 OK\r\nX-Vsr-Selected-Model: m\r\ncontent-length: 2\r\n\r\nhi").unwrap();
        assert_eq!((plain.status, plain.header("x-vsr-selected-model"), &*plain.body), (200, Some("m"), &b"hi"[..]));
        let chunked =
            parse(b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n");
        assert_eq!(chunked.map(|it| (it.status, it.body)), Some((404, b"abcd".to_vec())));
        for broken in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab"] {
            assert_eq!(parse(broken.as_bytes()), None, "{broken}");
        }
    }
}
