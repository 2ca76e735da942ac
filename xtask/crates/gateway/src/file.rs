//! A file behind a URL of its own, from the mirrors that the profile names for its host, or from that URL.
//!
//! Owns: which mirrors a URL has, and the route by which children ask, `file/SHA256/HOST/PATH` for `https://HOST/PATH`.
//! Never: fetch a file without knowing its sha256, or send a credential to the URL itself.
//! Rules: ARCHITECTURE.md, "Invariants".

use crate::Gateway;
use crate::downloads::Pin;
use crate::fetch::{Errand, Fetched, Wanted, fetch};
use crate::reply::{Reply, absent, delivered, head};
use crate::server::Asked;
use crate::url::Url;
use hyper::{Method, Response};
use protocol::{Ecosystem, Failure, Upstream};
use std::rc::Rc;

/// A file for a job.
pub async fn file(
    gateway: &Gateway,
    errand: &Errand,
    url: &str,
    sha256: &str,
    size_bytes: u64,
) -> Result<Fetched, Failure> {
    let subject = subject(url);
    let pin = Pin::sha256(sha256).map_err(|error| error.failure(&subject, Vec::new()))?;
    bring(gateway, errand.wanted(Ecosystem::File, subject, pin, Some(size_bytes)), url).await
}

pub async fn serve(gateway: &Rc<Gateway>, asked: &Asked) -> Result<Response<Reply>, Failure> {
    let place = asked.segments().and_then(|_| asked.path.split_once('/'));
    let Some((pin, place)) = place.and_then(|(sha256, place)| Some((Pin::sha256(sha256).ok()?, place))) else {
        return Ok(absent("a file is asked for by file/SHA256/HOST/PATH"));
    };
    let url = format!("https://{place}");
    if asked.method == Method::HEAD {
        return Ok(head(Vec::new(), None));
    }
    let wanted = asked.wanted(Ecosystem::File, subject(&url), pin.clone(), None);
    let own = gateway.clone();
    let fetching = async move { bring(&own, wanted, &url).await };
    delivered(gateway, asked, Vec::new(), &pin, None, fetching).await
}

fn subject(url: &str) -> String {
    let name = url.split(['?', '#']).next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    format!("file {name}")
}

async fn bring(gateway: &Gateway, wanted: Wanted, url: &str) -> Result<Fetched, Failure> {
    let parsed = Url::parse(url).map_err(|error| error.failure(&wanted.subject, Vec::new()))?;
    let upstreams = upstreams(gateway, &parsed).await;
    // Queries may hold signatures: they are asked for, and are no part of an upstream's name.
    let query = url.split('#').next().and_then(|url| url.split_once('?')).map(|(_, query)| format!("?{query}"));
    let query = query.unwrap_or_default();
    fetch(gateway, &wanted, &upstreams, async |upstream: &Upstream| Url::parse(&format!("{}{query}", upstream.url)))
        .await
}

/// The URL of the file at each place that may have it, its own last: the egress rule decides whether that is asked.
async fn upstreams(gateway: &Gateway, url: &Url) -> Vec<Upstream> {
    let name = format!("{}{}", url.origin.authority(), url.path);
    let prefixes = gateway.setup.files.keys();
    let within = |prefix: &&String| name.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('/'));
    let mut upstreams = Vec::new();
    if let Some(prefix) = prefixes.filter(within).max_by_key(|prefix| prefix.len()) {
        let path = &name[prefix.len() + 1..];
        upstreams = gateway.file_host(prefix).await;
        for upstream in &mut upstreams {
            upstream.url = upstream.url.replace("{path}", path);
        }
    }
    let itself = format!("{}{}", url.origin, url.path);
    upstreams.push(Upstream {
        url: itself,
        second: None,
        last_resort: false,
        origin: "its own URL".to_owned(),
        authorization: None,
        second_authorization: None,
        login: None,
    });
    upstreams
}
