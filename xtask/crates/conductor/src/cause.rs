//! Why an endpoint does not serve, in the language of this process.
//!
//! Owns: a sentence for each [`Cause`]. Never: who failed and what helps, which whoever tells it knows. The gateway's own English
//! stays the evidence in logs and in answers to children.

use crate::tr;
use protocol::{Cause, ProbeVerdict};

/// A clause without its subject, which is an endpoint or a host.
pub fn told(cause: &Cause) -> String {
    // With one decimal where it has one.
    let seconds = |milliseconds: &u64| ((*milliseconds + 50) / 100) as f64 / 10.0;
    match cause {
        Cause::UnknownName => tr!("no name server knows this name"),
        Cause::NoNameServer => tr!("no name server answers"),
        Cause::Refused => tr!("the connection was refused"),
        Cause::NoConnection { milliseconds } => {
            tr!("no connection within {seconds} s", seconds = seconds(milliseconds))
        }
        Cause::Unreachable => tr!("no way leads to this host"),
        Cause::Proxy { because } => tr!("the proxy does not serve: {cause}", cause = told(because)),
        Cause::ProxyPassword => tr!("the proxy wants a user and a password, or other ones (407)"),
        Cause::Tls { issuer: Some(issuer), text } => tr!(
            "TLS was refused: {text}, signed by “{issuer}”; if a proxy of yours re-signs traffic, name its CA in SSL_CERT_FILE",
            text,
            issuer
        ),
        Cause::Tls { issuer: None, text } => tr!("TLS was refused: {text}", text),
        Cause::Broken => tr!("the connection ended before the answer did"),
        Cause::NoAnswer { milliseconds } => tr!("no answer within {seconds} s", seconds = seconds(milliseconds)),
        Cause::Slow { bytes, seconds } => tr!("too slow: {bytes} bytes in {seconds} s", bytes, seconds),
        Cause::Absent => tr!("it is not there (404)"),
        Cause::Limited { seconds: Some(seconds) } => tr!("asked to wait {seconds} s", seconds),
        Cause::Limited { seconds: None } => tr!("asked to come back later (429)"),
        Cause::Status { text } => tr!("answered {text}", text),
        Cause::Page { words } => tr!("a web page came instead, a captive portal or a login: “{words}”", words),
        Cause::OtherBytes { expected, got } => {
            tr!("these are not the pinned bytes: expected {expected}, got {got}", expected, got)
        }
        Cause::Unauthorized { named: false, text } => {
            tr!("it wants to know who asks, and nobody is named: {text}", text)
        }
        Cause::Unauthorized { named: true, text } => tr!("it does not let this user in: {text}", text),
        Cause::Malformed { text } => tr!("its answer is of no use: {text}", text),
        Cause::Outside { url, host } => {
            tr!("{url} is outside the profile, and `mirrors-only` forbids to contact {host}", url, host)
        }
        Cause::Lacks { what, versions: None } => tr!("a lock file names {what}, and it is not there", what),
        Cause::Lacks { what, versions: Some(versions) } => {
            tr!("{what}: a lock file names {versions}, and it is not there", what, versions)
        }
        Cause::NoArtifact { milliseconds } => {
            tr!("its documents came, and no byte of an artifact within {seconds} s", seconds = seconds(milliseconds))
        }
        Cause::Unfinished { milliseconds } => {
            tr!("slow: its artifact did not come whole within {seconds} s", seconds = seconds(milliseconds))
        }
        Cause::LedToSilence { host, milliseconds } => {
            tr!("it leads to {host}, which gave no answer within {seconds} s", host, seconds = seconds(milliseconds))
        }
        Cause::Greeted => tr!("it answers; no lock file names anything public to ask it for"),
        Cause::NoDatabase => tr!("it passes on no checksum database"),
        Cause::Said { text } => text.clone(),
    }
}

/// A verdict in one or two words.
pub fn verdict(verdict: ProbeVerdict) -> String {
    match verdict {
        ProbeVerdict::Ok => tr!("ok"),
        ProbeVerdict::Stale => tr!("stale"),
        ProbeVerdict::Partial => tr!("partial"),
        ProbeVerdict::Html => tr!("html"),
        ProbeVerdict::Tls => tr!("tls"),
        ProbeVerdict::Limited => tr!("limited"),
        ProbeVerdict::Dead => tr!("dead"),
        ProbeVerdict::NotMeasured => tr!("not measured"),
    }
}

/// What a probe found of an endpoint. Reports of older versions have nothing but words.
pub fn of_report(report: &protocol::ProbeReport) -> String {
    match report.causes.is_empty() {
        true => report.message.clone(),
        false => report.causes.iter().map(told).collect::<Vec<_>>().join(&tr!("; ")),
    }
}
