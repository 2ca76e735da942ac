//! What a BuildKit can do, asked of it rather than concluded from a version.
//!
//! There is no call for it, and what some lack they ignore without a word. But each looks up exporter and cache before it looks at
//! what is to be built: a question that can never be built is answered with what is missing first.
//! Rules: github.com/moby/buildkit `control/control.go`, `Solve`.

use crate::build::attach;
use crate::connect::Connected;
use crate::session::{Session, unique};
use crate::wire::Channel;
use bollard_buildkit_proto::moby::buildkit::v1::{
    CacheOptions, CacheOptionsEntry, InfoRequest, InfoResponse, ListWorkersRequest, ListWorkersResponse, SolveRequest,
    SolveResponse,
};
use protocol::engine::{Builder, Failure};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use tonic::{Code, Status};

const INFO: &str = "/moby.buildkit.v1.Control/Info";
const WORKERS: &str = "/moby.buildkit.v1.Control/ListWorkers";
const SOLVE: &str = "/moby.buildkit.v1.Control/Solve";
/// No frontend is called that.
const NOBODY: &str = "xtask.nobody";
const EXPORTERS: [&str; 3] = ["moby", "oci", "image"];
const CACHES: [&str; 2] = ["inline", "registry"];

/// Its version, empty where it is too old to say, and the platforms of its workers, its own first.
pub async fn who(channel: &Channel) -> Result<(String, Vec<String>), Status> {
    let version = match channel.ask::<_, InfoResponse>(INFO, InfoRequest {}).await {
        Ok(info) => info.buildkit_version.map(|it| it.version).unwrap_or_default(),
        Err(status) if status.code() == Code::Unimplemented => String::new(),
        Err(status) => return Err(status),
    };
    let workers: ListWorkersResponse = channel.ask(WORKERS, ListWorkersRequest::default()).await?;
    let mut platforms = Vec::new();
    for it in workers.record.iter().flat_map(|worker| &worker.platforms) {
        let variant = if it.variant.is_empty() { String::new() } else { format!("/{}", it.variant) };
        let platform = format!("{}/{}{variant}", it.os, it.architecture);
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok((version, platforms))
}

/// `None`: there is no BuildKit.
pub async fn probe(connected: &Connected) -> Result<Option<Builder>, Failure> {
    if !connected.engine.buildkit {
        return Ok(None);
    }
    let lost = |status: Status| Failure::Lost { engine: connected.name(), message: status.message().to_owned() };
    let session = Arc::new(Session { id: unique(), ..Session::default() });
    let (channel, wire) = attach(connected, &session).await.map_err(lost)?;
    tokio::spawn(session.clone().serve(wire));
    let (version, platforms) = who(&channel).await.map_err(lost)?;
    let question = |exporter: &str, cache: &str| SolveRequest {
        r#ref: unique(),
        session: session.id.clone(),
        exporter_deprecated: exporter.to_owned(),
        frontend: NOBODY.to_owned(),
        cache: (!cache.is_empty()).then(|| cache_export(cache)),
        ..SolveRequest::default()
    };
    let mut able = BTreeSet::new();
    let questions = EXPORTERS.map(|it| (it, "")).into_iter().chain(CACHES.map(|it| ("", it)));
    for (exporter, cache) in questions {
        if let Err(status) = channel.ask::<_, SolveResponse>(SOLVE, question(exporter, cache)).await {
            let missing = ["could not be found", "unknown cache exporter"];
            if status.message().contains(NOBODY) || !missing.iter().any(|it| status.message().contains(it)) {
                able.insert(if cache.is_empty() { exporter } else { cache });
            }
        }
    }
    let of = |all: &[&str]| all.iter().filter(|it| able.contains(**it)).map(|it| (*it).to_owned()).collect();
    // Named contexts and the call that says a version came in the same months; no version, no named contexts.
    let named_contexts = !version.is_empty();
    Ok(Some(Builder { version, platforms, exporters: of(&EXPORTERS), caches: of(&CACHES), named_contexts }))
}

fn cache_export(kind: &str) -> CacheOptions {
    // Never written: the build ends before it begins.
    let attrs = HashMap::from([("ref".to_owned(), "xtask.invalid/cache".to_owned())]);
    CacheOptions { exports: vec![CacheOptionsEntry { r#type: kind.to_owned(), attrs }], ..CacheOptions::default() }
}
