//! A file behind a URL of its own.
//!
//! Owns: nothing but that such a URL is its own only upstream. Never: send a credential to it.
//! Rules: ARCHITECTURE.md, "Invariants".

use crate::Gateway;
use crate::downloads::Pin;
use crate::fetch::{Errand, Fetched, fetch};
use crate::url::Url;
use protocol::{Ecosystem, Failure, Upstream};

pub async fn file(
    gateway: &Gateway,
    errand: &Errand,
    url: &str,
    sha256: &str,
    size_bytes: u64,
) -> Result<Fetched, Failure> {
    let name = url.split(['?', '#']).next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    let subject = format!("file {name}");
    let pin = Pin::sha256(sha256).map_err(|error| error.failure(&subject, Vec::new()))?;
    let parsed = Url::parse(url).map_err(|error| error.failure(&subject, Vec::new()))?;
    let wanted = errand.wanted(Ecosystem::File, subject, pin, Some(size_bytes));
    let itself = Upstream {
        url: parsed.origin.to_string(),
        second: None,
        origin: "its own URL".to_owned(),
        authorization: None,
    };
    fetch(gateway, &wanted, &[itself], async |_: &Upstream| Ok(parsed.clone())).await
}
