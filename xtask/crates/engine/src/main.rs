//! The engine satellite: the only process of this tool that speaks with a container engine.
//!
//! Reads [`Request`] lines from standard input, does one after the other, writes [`Event`] lines to standard output, and ends when
//! its input does: a conductor that was killed takes it along, and an engine drops what was half sent.
//! Owns: the loop below. Never: parse arguments, read the environment or look for an engine: where one may be is in the request.
//! Rules: ARCHITECTURE.md, "Invariants"; Docker Engine API 1.41.
//!
//! Reading order: `connect` (who answers) → `load` (images into it); `build` (an image by BuildKit) → `recipe` (what is asked of it),
//! `session` (what it asks of us) → `sync` (files) → `wire` (how it is reached); `capability` (what a BuildKit can do); `failure` (why not).

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod build;
mod capability;
mod connect;
mod failure;
mod load;
mod recipe;
mod session;
mod sync;
mod wire;

use protocol::engine::{Event, Failure, Job, Outcome, Request, SCHEMA};
use std::io::{BufRead, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(cause) => {
            let message = format!("no event loop: {cause}");
            emit(&Event::Failed { failure: Failure::Bug { message } });
            return ExitCode::FAILURE;
        }
    };
    let (lines, mut requests) = tokio::sync::mpsc::unbounded_channel::<String>();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
        // Whoever asked is gone: what is under way is for nobody.
        std::process::exit(0);
    });
    runtime.block_on(async {
        while let Some(line) = requests.recv().await {
            emit(&perform(&line).await.unwrap_or_else(|failure| Event::Failed { failure }));
        }
    });
    ExitCode::SUCCESS
}

async fn perform(line: &str) -> Result<Event, Failure> {
    let request: Request =
        serde_json::from_str(line).map_err(|cause| Failure::Bug { message: format!("no request: {cause}") })?;
    if request.schema != SCHEMA {
        let message = format!("conductor and engine are of two builds ({} and {SCHEMA})", request.schema);
        return Err(Failure::Bug { message });
    }
    let connected = connect::connect(&request.places).await?;
    let outcome = match request.job {
        Job::Probe => Outcome::Probed { builder: capability::probe(&connected).await? },
        Job::Build(build) => build::build(&connected, build).await?,
        Job::Load { images } => load::load(&connected, &images).await?,
    };
    Ok(Event::Done { engine: connected.engine, outcome })
}

/// Writes one event line. A conductor that no longer listens has died: so do we.
pub fn emit(event: &Event) {
    let Ok(mut line) = serde_json::to_vec(event) else { return };
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(&line).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(141);
    }
}
