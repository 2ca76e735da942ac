//! The few URL operations that fetching needs: parse, join, compare origins, print without secrets.
//!
//! Owns: what counts as one origin, and how a relative reference resolves. Never: user information in a URL (credentials
//! travel beside it, bound to an origin), other schemes than http and https, or printing a query (content networks put
//! signatures there).
//! Rules: RFC 3986 section 5.2.

use crate::error::{Error, Kind};
use protocol::coding::percent_decode;
use std::fmt;
use std::net::IpAddr;

/// Scheme, host and port: the unit to which credentials, connections and the memory of dead hosts belong.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    pub https: bool,
    /// Lower case; an IPv6 address keeps its brackets.
    pub host: String,
    pub port: u16,
}

impl Origin {
    /// `host` or `host:port` where the port is not the scheme's own, as the `Host` header wants it.
    pub fn authority(&self) -> String {
        if self.port == if self.https { 443 } else { 80 } {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    pub fn is_loopback(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }

    /// Where a redirect or a link of this origin leads.
    /// # Errors: Tls where that is from https down to http.
    pub fn led_to(&self, target: Url) -> Result<Url, Error> {
        if self.https && !target.origin.https {
            let message = format!("it leads from https to {}; that is never followed", target.origin);
            return Err(Error::new(Kind::Tls, message));
        }
        Ok(target)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.https { "https" } else { "http" }, self.authority())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub origin: Origin,
    /// Begins with `/`, dot segments resolved.
    pub path: String,
    query: Option<String>,
}

/// URLs stand in messages and ledgers; signed ones have two thousand bytes.
const MAX_URL_BYTES: usize = 8 << 10;

impl Url {
    /// # Errors: Configuration, naming what is wrong without repeating credentials.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_URL_BYTES {
            return Err(Error::new(Kind::Configuration, format!("a URL of {} bytes is not usable", text.len())));
        }
        let wrong =
            |why: &str| Error::new(Kind::Configuration, format!("`{}` is not a usable URL: {why}", redacted(text)));
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("it has no http:// or https://"))?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(wrong("only http and https are spoken")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(wrong("credentials inside a URL end up in logs; give them apart from it"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong("its port is not a number below 65536"))?)
            }
            _ => (authority, if https { 443 } else { 80 }),
        };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
        if host.is_empty() || !host.chars().all(plain) || (host.contains(':') && !host.starts_with('[')) {
            return Err(wrong("its host is not a name or an address"));
        }
        if !tail.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(wrong("its path holds characters that must be percent-encoded"));
        }
        let (path, query) = tail.split_once('?').map_or((tail, None), |(path, query)| (path, Some(query.to_owned())));
        Ok(Self { origin: Origin { https, host, port }, path: without_dots(path), query })
    }

    /// Resolves a `Location` or `href` seen in an answer to this URL.
    pub fn join(&self, reference: &str) -> Result<Self, Error> {
        let reference = reference.split('#').next().unwrap_or_default();
        let scheme = if self.origin.https { "https" } else { "http" };
        let scheme_end = reference.find(':').filter(|end| !reference[..*end].contains(['/', '?']));
        if scheme_end.is_some() {
            return Self::parse(reference);
        }
        if reference.starts_with("//") {
            return Self::parse(&format!("{scheme}:{reference}"));
        }
        let path = match reference {
            "" => self.path_and_query(),
            absolute if absolute.starts_with('/') => absolute.to_owned(),
            query if query.starts_with('?') => format!("{}{query}", self.path),
            relative => format!("{}{relative}", &self.path[..=self.path.rfind('/').unwrap_or(0)]),
        };
        Self::parse(&format!("{}{path}", self.origin))
    }

    /// This URL taken as a folder, whether or not it was written with a final slash.
    pub fn below(&self, relative: &str) -> Result<Self, Error> {
        Self::parse(&format!("{}{}/{relative}", self.origin, self.path.trim_end_matches('/')))
    }

    /// With a further `name=value` at the end of its query.
    pub fn with_parameter(mut self, parameter: &str) -> Self {
        self.query = Some(match self.query {
            Some(query) if !query.is_empty() => format!("{query}&{parameter}"),
            _ => parameter.to_owned(),
        });
        self
    }

    pub fn path_and_query(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.origin, self.path, if self.query.is_some() { "?…" } else { "" })
    }
}

/// Percent-encodes one path segment, or several when `/` is to stay.
pub fn encode_path(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!+=@/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A percent-encoded path in plain text; `None` where that is no text, or holds control characters.
pub fn decode_path(path: &str) -> Option<String> {
    String::from_utf8(percent_decode(path)).ok().filter(|plain| !plain.chars().any(char::is_control))
}

fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    for (index, segment) in segments.iter().enumerate() {
        match *segment {
            "." | ".." => {
                if *segment == ".." {
                    kept.pop();
                }
                // `a/..` names a folder, so its slash stays.
                if index + 1 == segments.len() {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

/// `text` without user information and query, for messages about URLs that did not parse.
fn redacted(text: &str) -> String {
    let text = text.split('?').next().unwrap_or_default();
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("{}…{}", &text[..scheme + 3], &text[at..])
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(base: &str, reference: &str) -> String {
        match Url::parse(base).and_then(|base| base.join(reference)) {
            Ok(url) => format!("{}{}", url.origin, url.path_and_query()),
            Err(error) => error.message,
        }
    }

    #[test]
    fn references_resolve_as_rfc_3986_says() {
        for (base, reference, expected) in [
            ("https://a.example/simple/pip/", "../../packages/p.whl#sha256=1", "https://a.example/packages/p.whl"),
            ("https://a.example/simple/pip/", "p.whl", "https://a.example/simple/pip/p.whl"),
            ("https://a.example/x?y=1", "?z=2", "https://a.example/x?z=2"),
            ("https://a.example:8443/x", "/y", "https://a.example:8443/y"),
            ("http://a.example/x", "//B.example./y", "http://b.example/y"),
            ("http://a.example", "https://[::1]:80/y/..", "https://[::1]:80/"),
            ("http://a.example/", "../../../etc", "http://a.example/etc"),
            (
                "http://a.example/p",
                "file:///etc/passwd",
                "`file:///etc/passwd` is not a usable URL: only http and https are spoken",
            ),
        ] {
            assert_eq!(joined(base, reference), expected, "{base} + {reference}");
        }
    }

    #[test]
    fn no_link_leads_from_https_down_to_http() {
        for (from, to, allowed) in
            [("https", "http", false), ("https", "https", true), ("http", "http", true), ("http", "https", true)]
        {
            let led = Url::parse(&format!("{from}://a.example/"))
                .and_then(|home| home.origin.led_to(Url::parse(&format!("{to}://b.example/x"))?));
            assert_eq!(led.map_err(|error| error.kind).is_ok(), allowed, "{from} to {to}");
        }
    }

    #[test]
    fn what_is_printed_holds_no_secret() {
        let url = Url::parse("https://cdn.example/blob?X-Signature=hunter2");
        assert_eq!(url.map(|url| url.to_string()).ok().as_deref(), Some("https://cdn.example/blob?…"));
        let error = Url::parse("https://me:hunter2@a.example/?k=hunter2").err().map(|error| error.message);
        assert!(error.is_some_and(|message| !message.contains("hunter2")));
    }

    #[test]
    fn a_base_is_a_folder_with_or_without_its_slash() {
        for base in ["https://goproxy.example", "https://goproxy.example/"] {
            let url = Url::parse(base).and_then(|url| url.below("m/@v/v1.zip"));
            assert_eq!(url.map(|url| url.to_string()).ok().as_deref(), Some("https://goproxy.example/m/@v/v1.zip"));
        }
    }
}
