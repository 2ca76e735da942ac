//! One place to ask. Credentials in a URL stay inside: whatever prints an endpoint prints it masked, and only methods
//! whose name begins with `expose` give them out.

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Text that may hold a secret, together with what may be shown of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Masked {
    exposed: String,
    shown: String,
}

impl Masked {
    pub fn new(exposed: impl Into<String>, shown: impl Into<String>) -> Self {
        Self { exposed: exposed.into(), shown: shown.into() }
    }

    /// The whole text, for the environment of a child and nothing else.
    pub fn expose(&self) -> &str {
        &self.exposed
    }

    /// `f` applied to the text and to what is shown of it.
    pub fn map(&self, f: impl Fn(&str) -> String) -> Self {
        Self { exposed: f(&self.exposed), shown: f(&self.shown) }
    }
}

impl From<&str> for Masked {
    fn from(text: &str) -> Self {
        Self::new(text, text)
    }
}

impl From<String> for Masked {
    fn from(text: String) -> Self {
        Self::new(text.clone(), text)
    }
}

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.shown, f)
    }
}

impl Serialize for Masked {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown)
    }
}

/// `https://user:password@host:port/path`, for a Cargo index with `sparse+` before it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "Masked")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(with = "String"))]
pub struct MirrorUrl(Masked);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    #[error("`{0}` is not a URL: expected `https://HOST/PATH`")]
    Shape(Masked),
    /// These characters separate entries or end strings where tools read them.
    #[error("`{0}` holds `{1}`, which must be written as %{2:02X} in a URL")]
    Character(Masked, char, u32),
}

impl MirrorUrl {
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let (authority, path) = rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let shown = match (user, path) {
            (None, _) => text.to_owned(),
            (Some(_), None) => format!("{scheme}://****@{host}"),
            (Some(_), Some(path)) => format!("{scheme}://****@{host}/{path}"),
        };
        let masked = Masked::new(text, shown);
        if !matches!(scheme, "https" | "http" | "sparse+https" | "sparse+http")
            || host.is_empty()
            || host.starts_with(':')
        {
            return Err(InvalidUrl::Shape(masked));
        }
        let forbidden = |c: &char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '\\' | '|' | ',');
        match text.chars().find(forbidden) {
            Some(c) => Err(InvalidUrl::Character(masked, c, u32::from(c))),
            None => Ok(Self(masked)),
        }
    }

    /// With credentials.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// The value of an `Authorization` header, if the URL holds credentials.
    pub fn expose_authorization(&self) -> Option<String> {
        let (user, _) = self.authority().rsplit_once('@')?;
        Some(format!("Basic {}", base64(&percent_decoded(user))))
    }

    pub fn masked(&self) -> &Masked {
        &self.0
    }

    pub fn without_credentials(&self) -> String {
        match self.authority().rsplit_once('@') {
            Some((user, _)) => self.expose().replacen(&format!("{user}@"), "", 1),
            None => self.expose().to_owned(),
        }
    }

    /// Without port.
    pub fn host(&self) -> &str {
        let authority = self.authority();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        match host.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => host,
        }
    }

    pub fn is_sparse_index(&self) -> bool {
        self.expose().starts_with("sparse+")
    }

    fn authority(&self) -> &str {
        let rest = self.expose().split_once("://").map_or("", |(_, rest)| rest);
        rest.split('/').next().unwrap_or(rest)
    }
}

impl TryFrom<String> for MirrorUrl {
    type Error = InvalidUrl;
    fn try_from(text: String) -> Result<Self, InvalidUrl> {
        Self::parse(&text)
    }
}

impl From<MirrorUrl> for Masked {
    fn from(url: MirrorUrl) -> Self {
        url.0
    }
}

impl fmt::Display for MirrorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An entry of a list of places.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "Masked")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(with = "String"))]
pub enum Endpoint {
    /// The tool's own default, see [`direct`](super::direct).
    Direct,
    Url(MirrorUrl),
}

impl Endpoint {
    pub fn url(&self) -> Option<&MirrorUrl> {
        match self {
            Self::Direct => None,
            Self::Url(url) => Some(url),
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = InvalidUrl;
    fn try_from(text: String) -> Result<Self, InvalidUrl> {
        if text == "direct" { Ok(Self::Direct) } else { MirrorUrl::parse(&text).map(Self::Url) }
    }
}

impl From<Endpoint> for Masked {
    fn from(endpoint: Endpoint) -> Self {
        match endpoint {
            Endpoint::Direct => "direct".into(),
            Endpoint::Url(url) => url.0,
        }
    }
}

/// An entry of a list whose places need two URLs: `["https://first", "https://second"]` or `"direct"`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(untagged))]
pub enum UrlPair {
    #[cfg_attr(test, schemars(with = "String"))]
    Direct,
    Urls(MirrorUrl, MirrorUrl),
}

impl UrlPair {
    pub fn urls(&self) -> Option<(&MirrorUrl, &MirrorUrl)> {
        match self {
            Self::Direct => None,
            Self::Urls(first, second) => Some((first, second)),
        }
    }
}

impl Serialize for UrlPair {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Direct => serializer.serialize_str("direct"),
            Self::Urls(first, second) => (first, second).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for UrlPair {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;
        impl<'de> Visitor<'de> for Entry {
            type Value = UrlPair;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"direct\" or a pair of URLs")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<UrlPair, E> {
                if text == "direct" {
                    Ok(UrlPair::Direct)
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<UrlPair, A::Error> {
                match (pair.next_element()?, pair.next_element()?, pair.next_element::<MirrorUrl>()?) {
                    (Some(first), Some(second), None) => Ok(UrlPair::Urls(first, second)),
                    _ => Err(A::Error::custom("a pair holds exactly two URLs")),
                }
            }
        }
        deserializer.deserialize_any(Entry)
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = tail.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

/// Source: RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for sextet in 0..4 {
            let index = (bits >> (18 - 6 * sextet)) as usize & 63;
            text.push(if sextet > chunk.len() { '=' } else { char::from(ALPHABET[index]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_show_only_where_a_method_is_named_for_it() {
        let url = MirrorUrl::parse("https://alice:p%40ss@corp.example:8443/go/").unwrap();
        assert_eq!(url.expose(), "https://alice:p%40ss@corp.example:8443/go/");
        // printf 'alice:p@ss' | base64
        assert_eq!(url.expose_authorization().as_deref(), Some("Basic YWxpY2U6cEBzcw=="));
        assert_eq!(url.without_credentials(), "https://corp.example:8443/go/");
        assert_eq!(url.host(), "corp.example");
        let endpoint = Endpoint::Url(url.clone());
        let json = serde_json::to_string(&endpoint).unwrap();
        let pair = serde_json::to_string(&UrlPair::Urls(url.clone(), url.clone())).unwrap();
        for shown in [url.to_string(), format!("{endpoint:?}"), json, pair, format!("{:?}", url.masked())] {
            assert!(shown.contains("****@corp.example:8443/go/") && !shown.contains("alice"), "{shown}");
        }
    }

    #[test]
    fn a_list_separator_or_a_quote_cannot_hide_in_a_url() {
        for wrong in ["corp.example", "ftp://corp.example/", "https:///path", "https://:1/", "off", ""] {
            assert!(matches!(MirrorUrl::parse(wrong), Err(InvalidUrl::Shape(_))), "{wrong}");
        }
        let wrong = MirrorUrl::parse("https://u:secret@a/|https://b/").unwrap_err().to_string();
        assert_eq!(wrong, "`https://****@a/|https://b/` holds `|`, which must be written as %7C in a URL");
        assert_eq!(MirrorUrl::parse("sparse+http://[::1]:8080/index/").unwrap().host(), "[::1]");
    }

    #[test]
    fn base64_pads_as_the_rfc_examples_do() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
