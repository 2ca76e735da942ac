//! Files of a hub repository at a pinned revision.
//!
//! Owns: the shape of a `resolve` URL. Never: ask for a branch, or send a token to where a redirect leads.
//! Rules: ARCHITECTURE.md, "Invariants".

use crate::Gateway;
use crate::downloads::Pin;
use crate::fetch::{Errand, Fetched, fetch};
use crate::url::{Url, encode_path};
use protocol::{Ecosystem, Failure, Upstream};

pub async fn file(
    gateway: &Gateway,
    errand: &Errand,
    place: Place<'_>,
    sha256: &str,
    size_bytes: u64,
) -> Result<Fetched, Failure> {
    let subject = format!("model file {}@{} {}", place.repo, place.revision, place.path);
    let pin = Pin::sha256(sha256).map_err(|error| error.failure(&subject, Vec::new()))?;
    let wanted = errand.wanted(Ecosystem::Hub, subject, pin, Some(size_bytes));
    let relative =
        format!("{}/resolve/{}/{}", encode_path(place.repo), encode_path(place.revision), encode_path(place.path));
    let upstreams = gateway.upstreams(Ecosystem::Hub, place.repo).await;
    fetch(gateway, &wanted, &upstreams, async |upstream: &Upstream| Url::parse(&upstream.url)?.below(&relative)).await
}

pub struct Place<'a> {
    pub repo: &'a str,
    pub revision: &'a str,
    pub path: &'a str,
}
