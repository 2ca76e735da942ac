//! One place to ask. Credentials in a URL stay inside: whatever prints an endpoint prints it masked, and only methods
//! whose name begins with `expose` give them out.

use super::expand::{self, Expand, Unexpanded, Variables};
use crate::tr;
use protocol::coding::{base64, percent_decode};
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

/// `https://user:password@host:port/path`, for a Cargo index with `sparse+` before it. In the tables of a file it may hold
/// `${NAME}`; in a profile that was resolved it never does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "Masked")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(with = "String"))]
pub struct MirrorUrl(Masked);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    #[error("{}", tr!("`{url}` is not a URL: expected `https://HOST/PATH`", url = .0))]
    Shape(Masked),
    /// These characters separate entries or end strings where tools read them.
    #[error("{}", tr!("`{url}` holds `{character}`, which must be written as %{number} in a URL", url = .0, character = .1, number = format_args!("{:02X}", .2)))]
    Character(Masked, char, u32),
    #[error("`{0}`: {1}")]
    Variable(Masked, String),
}

impl MirrorUrl {
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        let url = Self::checked(text);
        if !text.contains("${") {
            return url;
        }
        let masked = url.map_or_else(|wrong| wrong.text().clone(), |url| url.0);
        match expand::plausible(text) {
            Err(_) => {
                Err(InvalidUrl::Variable(masked, tr!("`${{` begins a variable as `${{NAME}}` or `${{NAME:-text}}`")))
            }
            Ok(text) => Self::checked(&text).map(|_| Self(masked)),
        }
    }

    fn checked(text: &str) -> Result<Self, InvalidUrl> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let after_user = rest.rfind('@').map(|at| at + 1);
        // Content networks and package services put tokens into queries.
        let end = rest.find(['?', '#']).filter(|end| after_user.is_none_or(|user| user <= *end)).unwrap_or(rest.len());
        let shown = match after_user {
            Some(user) => format!("{scheme}://****@{}", &rest[user..end]),
            None if scheme.is_empty() => rest[..end].to_owned(),
            None => format!("{scheme}://{}", &rest[..end]),
        };
        let hidden = rest[end..].chars().next().map(|mark| format!("{mark}…")).unwrap_or_default();
        let masked = Masked::new(text, shown + &hidden);
        // A password with such a character would end before it, and the rest of it would be shown, and asked for as a path.
        let early = rest[..after_user.unwrap_or(0)].find(['/', '?', '#']).and_then(|at| rest[at..].chars().next());
        if let Some(c) = early {
            return Err(InvalidUrl::Character(masked, c, u32::from(c)));
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
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
        Some(format!("Basic {}", base64(&percent_decode(user))))
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

    /// As the gateway's ledger writes it: in lower case, the port only where it is not the scheme's own.
    pub fn host_with_port(&self) -> String {
        let authority = self.authority();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_lowercase();
        let usual = if self.expose().trim_start_matches("sparse+").starts_with("https:") { ":443" } else { ":80" };
        host.strip_suffix(usual).unwrap_or(&host).to_owned()
    }

    /// `https://user:password@host:port` and `path`, without the slash between them.
    pub fn split_at_path(&self) -> (Self, String) {
        let start = self.expose().len() - self.expose().split_once("://").map_or("", |(_, rest)| rest).len();
        let path = self.expose()[start..].split_once('/').map_or("", |(_, path)| path).to_owned();
        let end = |text: &str| text.strip_suffix(&path).unwrap_or(text).trim_end_matches('/').to_owned();
        (Self(self.0.map(end)), path)
    }

    pub fn is_loopback(&self) -> bool {
        let host = self.host().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    pub fn is_sparse_index(&self) -> bool {
        self.expose().starts_with("sparse+")
    }

    fn authority(&self) -> &str {
        let rest = self.expose().split_once("://").map_or("", |(_, rest)| rest);
        rest.split(['/', '?', '#']).next().unwrap_or(rest)
    }
}

impl InvalidUrl {
    fn text(&self) -> &Masked {
        let (Self::Shape(text) | Self::Character(text, ..) | Self::Variable(text, _)) = self;
        text
    }
}

impl Expand for MirrorUrl {
    fn expand(self, variables: &Variables) -> Result<Option<Self>, Unexpanded> {
        let text = expand::text(self.expose(), variables)?;
        if text.is_empty() { Ok(None) } else { Ok(Some(Self::checked(&text)?)) }
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "Masked")]
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

impl Expand for Endpoint {
    fn expand(self, variables: &Variables) -> Result<Option<Self>, Unexpanded> {
        match self {
            Self::Direct => Ok(Some(self)),
            Self::Url(url) => Ok(url.expand(variables)?.map(Self::Url)),
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

/// `Deserialize` by `TryFrom<String>` while the text itself is read, so that a mistake is blamed on its own line rather than
/// on the list around it, which serde's `try_from` would do.
macro_rules! deserialize_text {
    ($($type:ty),+ $(,)?) => {
        $(impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("a string")
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        <$type>::try_from(text.to_owned()).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        })+
    };
}
pub(super) use deserialize_text;

deserialize_text!(MirrorUrl, Endpoint);

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

impl Expand for UrlPair {
    fn expand(self, variables: &Variables) -> Result<Option<Self>, Unexpanded> {
        let Self::Urls(first, second) = self else { return Ok(Some(self)) };
        Ok(first.expand(variables)?.zip(second.expand(variables)?).map(|(first, second)| Self::Urls(first, second)))
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
                f.write_str(&tr!("\"direct\" or a pair of URLs"))
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
                    _ => Err(A::Error::custom(tr!("a pair holds exactly two URLs"))),
                }
            }
        }
        deserializer.deserialize_any(Entry)
    }
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
        assert_eq!((url.host(), url.host_with_port().as_str()), ("corp.example", "corp.example:8443"));
        for (text, shown) in [
            ("https://corp/go?token=hunter2", "https://corp/go?…"),
            ("https://u:p@corp?token=hunter2", "https://****@corp?…"),
            ("https://corp/#hunter2", "https://corp/#…"),
        ] {
            let url = MirrorUrl::parse(text).unwrap();
            assert_eq!((url.expose(), url.to_string().as_str(), url.host()), (text, shown, "corp"));
        }
        for (text, place) in
            [("sparse+https://A.example:443/", "a.example"), ("http://a:80/x", "a"), ("http://a:443/", "a:443")]
        {
            assert_eq!(MirrorUrl::parse(text).unwrap().host_with_port(), place);
        }
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
        for (secret, character) in [("/", '/'), ("?", '?'), ("#", '#'), ("a@b/", '/')] {
            let wrong = MirrorUrl::parse(&format!("sparse+https://u:hunter{secret}2@corp/index/")).unwrap_err();
            assert!(matches!(wrong, InvalidUrl::Character(_, c, _) if c == character), "{wrong}");
            assert!(wrong.to_string().starts_with("`sparse+https://****@corp/index/`"), "{wrong}");
        }
        let wrong = MirrorUrl::parse("https://u:secret@a/|https://b/").unwrap_err().to_string();
        assert_eq!(wrong, "`https://****@a/|https://b/` holds `|`, which must be written as %7C in a URL");
        assert_eq!(MirrorUrl::parse("sparse+http://[::1]:8080/index/").unwrap().host(), "[::1]");
    }

    #[test]
    fn a_variable_may_stand_where_the_rest_makes_a_url() {
        for written in
            ["${BASE}/go", "https://${HOST}:8443/go", "https://${USER}:${TOKEN}@corp/", "sparse+${BASE}/index/"]
        {
            assert_eq!(MirrorUrl::parse(written).map(|url| url.expose().to_owned()).as_deref(), Ok(written));
        }
        for wrong in ["${BASE", "corp/${X}", "${BASE}/a b", "ftp://${X}/"] {
            assert!(MirrorUrl::parse(wrong).is_err(), "{wrong}");
        }
        let url = |written: &str, value: &str| {
            MirrorUrl::parse(written).unwrap().expand(&Variables::from([("X".to_owned(), value.to_owned())]))
        };
        let corp = url("${X}/go", "https://u:secret@corp/art").unwrap().unwrap();
        assert_eq!(
            (corp.expose(), corp.to_string().as_str()),
            ("https://u:secret@corp/art/go", "https://****@corp/art/go")
        );
        assert_eq!(url("${Y:-}", ""), Ok(None));
        let wrong = url("${X}/go", "u:secret@corp").unwrap_err().to_string();
        assert!(wrong.contains("****@corp") && !wrong.contains("secret"), "{wrong}");
    }

    #[test]
    fn base64_pads_as_the_rfc_examples_do() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
