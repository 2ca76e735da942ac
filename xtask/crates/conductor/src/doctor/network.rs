//! What the gateway measured of each endpoint, and the cause where nothing can be reached.
//!
//! Never: opens a connection. Without a gateway there is what the launcher's cargo said while it tried to build one.

use super::{Check, Finding, Fix};
use crate::cause;
use crate::report::bytes;
use crate::satellite;
use crate::tr;
use protocol::{Ecosystem, ProbeReport, ProbeVerdict};
use std::collections::BTreeSet;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Name of the profile in force.
    pub profile: Option<String>,
    /// Whether this machine has a route to other machines; `None` where the system does not say.
    pub routed: Option<bool>,
    /// Beside loopback.
    pub interfaces: Vec<String>,
    pub name_servers: Vec<String>,
    pub proxy: Option<SetProxy>,
    /// What SSL_CERT_FILE names.
    pub ca_file: Option<String>,
    /// What builds of this project fetch from.
    pub needed: BTreeSet<Ecosystem>,
    pub measured: Measured,
}

/// The proxy for https as a variable names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetProxy {
    pub variable: String,
    /// Without credentials.
    pub url: String,
    pub has_password: bool,
}

impl SetProxy {
    fn host(&self) -> &str {
        self.url.rsplit("://").next().unwrap_or(&self.url).trim_end_matches('/')
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measured {
    /// `--offline`.
    Forbidden,
    Reports(Vec<ProbeReport>),
    /// There was no measuring: what kept it, and the lines that were said meanwhile.
    Not {
        why: String,
        evidence: Vec<String>,
    },
}

pub fn examine(facts: &Facts) -> Vec<Finding> {
    match &facts.measured {
        Measured::Forbidden => vec![Finding::info(Check::Offline, "--offline", tr!("nothing was contacted"))],
        Measured::Reports(reports) => endpoints(facts, reports),
        Measured::Not { why, evidence } => {
            let mut findings: Vec<_> = cause_in_words(facts, evidence).into_iter().collect();
            // A cause says why; without one it stays open.
            let message = tr!("nobody was asked: {why}", why);
            let found = !findings.is_empty();
            findings.push(match found {
                true => Finding::info(Check::NotMeasured, tr!("mirrors"), message),
                false => {
                    let fix = Fix::Yours("cargo xtask mirror probe".to_owned());
                    Finding::warning(Check::NotMeasured, tr!("mirrors"), message, fix)
                }
            });
            findings.extend((!found).then(|| Finding::info(Check::NotMeasured, tr!("network"), known(facts))));
            findings
        }
    }
}

/// What the machine says of its network by itself.
fn known(facts: &Facts) -> String {
    let none = || tr!("none");
    let servers = Some(facts.name_servers.join(", ")).filter(|list| !list.is_empty()).unwrap_or_else(none);
    let proxy = facts.proxy.as_ref().map_or_else(none, |proxy| proxy.url.clone());
    match facts.routed {
        Some(_) => tr!("there is a route; name servers: {servers}; proxy: {proxy}", servers, proxy),
        None => tr!("name servers: {servers}; proxy: {proxy}", servers, proxy),
    }
}

/// What an upstream stands for: its ecosystem, and of registries and files the name before the arrow.
fn purpose(report: &ProbeReport) -> (Ecosystem, &str) {
    (report.ecosystem, report.url.split_once(" → ").map_or("", |(name, _)| name))
}

fn endpoints(facts: &Facts, reports: &[ProbeReport]) -> Vec<Finding> {
    let cause = cause(facts, reports);
    // Who had no time may serve as well.
    let may_serve = |it: &&ProbeReport| matches!(it.verdict, ProbeVerdict::Ok | ProbeVerdict::NotMeasured);
    let served: BTreeSet<_> = reports.iter().filter(may_serve).map(purpose).collect();
    let mut lost = BTreeSet::new();
    let mut findings: Vec<_> = cause.iter().cloned().collect();
    let late = reports.iter().filter(|it| it.verdict == ProbeVerdict::NotMeasured).count();
    if late > 0 {
        let (subject, all) = (tr!("mirrors"), reports.len());
        let message = tr!("{late} of {all} endpoints had no time to answer, as on a machine under load", late, all);
        let fix = Fix::Yours("cargo xtask mirror probe".to_owned());
        findings.push(Finding::warning(Check::NotMeasured, subject, message, fix));
    }
    // Of who had no time there is nothing more to say.
    for report in reports.iter().filter(|it| it.verdict != ProbeVerdict::NotMeasured) {
        let (check, subject, message) = (of_verdict(report.verdict), report.url.clone(), described(report));
        findings.push(match report.verdict {
            ProbeVerdict::Ok => Finding::ok(check, subject, message),
            // What one cause explains is its evidence, not a list of faults.
            _ if cause.is_some() => Finding::info(check, subject, message),
            // The first stands for its list, and what no build needs is nobody's failure.
            _ if facts.needed.contains(&report.ecosystem)
                && !served.contains(&purpose(report))
                && lost.insert(purpose(report)) =>
            {
                let message = tr!("{message}; no other endpoint serves this either", message);
                let other = if facts.profile.as_deref() == Some("auto") { "mirror use cn" } else { "mirror use auto" };
                Finding::error(check, subject, message, Fix::safe(other))
            }
            ProbeVerdict::Stale | ProbeVerdict::Partial | ProbeVerdict::Html => {
                Finding::warning(check, subject, message, Fix::Yours(leave_out(facts, report)))
            }
            _ => Finding::info(check, subject, message),
        });
    }
    findings
}

fn leave_out(facts: &Facts, report: &ProbeReport) -> String {
    match &facts.profile {
        Some(name) => {
            let ecosystem = satellite::name(&report.ecosystem);
            tr!("leave it out of [mirror.{name}.{ecosystem}] in xtask.local.toml", name, ecosystem)
        }
        None => "cargo xtask mirror use auto".to_owned(),
    }
}

fn of_verdict(verdict: ProbeVerdict) -> Check {
    match verdict {
        ProbeVerdict::Ok => Check::Served,
        ProbeVerdict::Stale => Check::Stale,
        ProbeVerdict::Partial => Check::Partial,
        ProbeVerdict::Html => Check::Html,
        ProbeVerdict::Tls => Check::Tls,
        ProbeVerdict::Limited => Check::Limited,
        ProbeVerdict::Dead => Check::Dead,
        ProbeVerdict::NotMeasured => Check::NotMeasured,
    }
}

/// Everything that was seen on the way, in the order of the way: proxy, address, TLS, status, hosts, times.
fn described(report: &ProbeReport) -> String {
    let mut parts = vec![satellite::name(&report.ecosystem)];
    parts.extend(Some(cause::of_report(report)).filter(|it| !it.is_empty()));
    parts.extend(report.failed_host.as_ref().map(|host| tr!("the host that failed is {host}", host)));
    parts.extend(report.proxy.as_ref().map(|proxy| tr!("through proxy {proxy}", proxy)));
    parts.extend(report.address.as_ref().map(|address| tr!("at {address}", address)));
    parts.extend(report.tls_issuer.as_ref().map(|issuer| tr!("certificate by {issuer}", issuer)));
    parts.extend(report.status.map(|status| format!("HTTP {status}")));
    if report.hosts.len() > 1 {
        parts.push(tr!("leads to {hosts}", hosts = report.hosts[1..].join(", ")));
    }
    parts.extend(report.connect_milliseconds.map(|time| tr!("connected in {time} ms", time)));
    parts.extend(report.first_byte_milliseconds.map(|time| tr!("first byte after {time} ms", time)));
    parts.extend(report.bytes_per_second.map(|speed| format!("{}/s", bytes(speed))));
    parts.join(&tr!("; "))
}

/// Why nothing at all can be reached. What was seen goes before what is concluded from silence.
fn cause(facts: &Facts, reports: &[ProbeReport]) -> Option<Finding> {
    use ProbeVerdict::{Dead, Html, Limited, NotMeasured, Ok, Partial, Stale, Tls};
    // Who had no time is no evidence of anything.
    let measured: Vec<_> = reports.iter().filter(|it| it.verdict != NotMeasured).cloned().collect();
    let reports = measured.as_slice();
    // One that answers, however wrongly, shows that there is a network.
    let answers = |it: &&ProbeReport| matches!(it.verdict, Ok | Stale | Limited | Partial);
    // A network's login page takes the place of most answers; where nothing is asked for but a greeting, it passes for one.
    let pages: Vec<_> = reports.iter().filter(|it| it.verdict == Html).collect();
    let delivered = reports.iter().any(|it| answers(&it) && it.bytes_per_second.is_some());
    if let Some(page) = pages
        .first()
        .filter(|_| !delivered && pages.len() * 2 >= reports.iter().filter(|it| it.status.is_some()).count())
    {
        return Some(portal(&cause::of_report(page)));
    }
    // Over plain http neither a certificate nor a tunnel is needed.
    let secure: Vec<_> = reports.iter().filter(|it| it.url.contains("https://")).collect();
    if !secure.iter().copied().any(|it| answers(&it)) {
        if let Some(refused) = secure.iter().find(|it| it.status == Some(407) || says(&it.message, &PASSWORD)) {
            return Some(proxy_password(facts, refused.proxy.as_deref()));
        }
        let refused: Vec<_> = secure.iter().filter(|it| it.verdict == Tls).collect();
        if !refused.is_empty() && secure.iter().all(|it| matches!(it.verdict, Tls | Dead)) {
            let issuer = refused.iter().find_map(|it| it.tls_issuer.as_deref());
            return Some(wrong_authority(facts, issuer, &cause::of_report(refused[0])));
        }
    }
    if reports.is_empty() || reports.iter().any(|it| answers(&it)) {
        return None;
    }
    let words: Vec<String> = reports.iter().map(|it| it.message.clone()).collect();
    let unresolved = words.iter().all(|line| says(line, &LOOKUP));
    Some(silence(facts, &words, unresolved, |line| {
        reports.iter().find(|it| it.message == line).map_or_else(|| line.to_owned(), cause::of_report)
    }))
}

const PASSWORD: [&str; 3] = [" 407", "Proxy Authentication Required", "wants other credentials"];
const CERTIFICATE: [&str; 5] = ["certificate", "UnknownIssuer", "self-signed", "unable to get local issuer", "x509:"];
const LOOKUP: [&str; 6] = [
    "failed to lookup address",
    "Could not resolve host",
    "Couldn't resolve host",
    "Name or service not known",
    "Temporary failure in name resolution",
    "has no address",
];
/// What the launcher and its cargo say of an endpoint that does not deliver.
const FAILED: [&str; 8] = [
    "cargo's own registry: ",
    "network error",
    "download of",
    "failed to fetch",
    "cannot connect",
    "could not connect",
    "no connection within",
    "timed out",
];
const PAGE: [&str; 3] = ["expected value at line 1 column 1", "<!doctype html", "<html"];

fn says(text: &str, any: &[&str]) -> bool {
    let text = text.to_lowercase();
    any.iter().any(|words| text.contains(&words.to_lowercase()))
}

/// The cause in what other programs said, where any of it names one.
fn cause_in_words(facts: &Facts, evidence: &[String]) -> Option<Finding> {
    if let Some(proxy) = facts.proxy.as_ref().filter(|proxy| proxy.url.starts_with("socks")) {
        return Some(Finding::error(
            Check::ProxyUnusable,
            &proxy.url,
            tr!(
                "{variable} names a SOCKS proxy, and this tool speaks to http proxies only; the same program mostly has an http port too",
                variable = proxy.variable
            ),
            Fix::Yours("export HTTPS_PROXY=http://127.0.0.1:PORT".to_owned()),
        ));
    }
    let line = |any: &[&str]| evidence.iter().find(|line| says(line, any));
    if line(&PASSWORD).is_some() {
        return Some(proxy_password(facts, None));
    }
    if let Some(line) = line(&CERTIFICATE) {
        return Some(wrong_authority(facts, None, line.trim()));
    }
    if let Some(line) = line(&PAGE) {
        return Some(portal(line.trim()));
    }
    (facts.routed == Some(false) || line(&FAILED).is_some())
        .then(|| silence(facts, evidence, line(&LOOKUP).is_some(), str::to_owned))
}

fn portal(page: &str) -> Finding {
    Finding::error(
        Check::Html,
        tr!("network"),
        tr!("a web page answers in place of every endpoint, as a login page does: {page}", page),
        Fix::Yours(tr!("open any http:// page in a browser, log in, then run `cargo xtask doctor mirrors`")),
    )
}

fn proxy_password(facts: &Facts, seen: Option<&str>) -> Finding {
    let set = facts.proxy.as_ref();
    let url = seen.or(set.map(|it| &*it.url)).unwrap_or("http://PROXY:PORT").trim_end_matches('/').to_owned();
    let host = url.rsplit("://").next().unwrap_or(&url).to_owned();
    let message = match set.filter(|it| it.has_password) {
        Some(set) => tr!("the proxy refuses the user and the password in {variable} (407)", variable = set.variable),
        None => tr!("the proxy wants a user and a password (407)"),
    };
    let variable = set.map_or("HTTPS_PROXY", |set| &*set.variable);
    Finding::error(
        Check::ProxyPassword,
        url,
        message,
        Fix::Yours(format!("export {variable}=http://USER:PASSWORD@{host}")),
    )
}

fn wrong_authority(facts: &Facts, issuer: Option<&str>, evidence: &str) -> Finding {
    let mut message = match issuer {
        Some(issuer) => tr!(
            "every TLS connection is refused: the certificates are signed by {issuer}, which is not trusted here",
            issuer
        ),
        None => tr!("every TLS connection is refused: {evidence}", evidence),
    };
    if let Some(path) = &facts.ca_file {
        message += &tr!("; nothing is trusted but what SSL_CERT_FILE={path} holds", path);
    }
    Finding::error(
        Check::WrongAuthority,
        "TLS",
        message,
        Fix::Yours("export SSL_CERT_FILE=/path/to/organisation-and-public-authorities.pem".to_owned()),
    )
}

/// Nothing answers and nothing says why: what the machine itself knows decides.
/// `told`: how a person is told what these words say.
fn silence(facts: &Facts, words: &[String], unresolved: bool, told: impl Fn(&str) -> String) -> Finding {
    let retry = "cargo xtask doctor mirrors";
    if let Some(proxy) = &facts.proxy {
        let host = proxy.host();
        // The gateway's words, and curl's inside of cargo.
        let (name, port) = host.rsplit_once(':').unwrap_or((host, "80"));
        let refused = [
            format!("cannot connect to {host}"),
            format!("cannot connect to the proxy {host}"),
            format!("to {name} port {port}"),
            format!("to proxy {name}"),
        ];
        if words.iter().any(|line| refused.iter().any(|it| line.contains(it)) || says(line, &["resolve proxy"])) {
            return Finding::error(
                Check::ProxyDead,
                &proxy.url,
                tr!("the proxy that {variable} names accepts no connection", variable = proxy.variable),
                Fix::Yours(tr!("start that proxy, or unset {variable}", variable = proxy.variable)),
            );
        }
    }
    if facts.routed == Some(false) {
        let message = match facts.interfaces.is_empty() {
            true => tr!("this machine has no network: there is no route, and no interface beside loopback"),
            false => tr!(
                "this machine has no network: there is no route; interfaces: {interfaces}",
                interfaces = facts.interfaces.join(", ")
            ),
        };
        return Finding::error(
            Check::Unplugged,
            tr!("network"),
            message,
            Fix::Yours(tr!("connect this machine to a network, then run `{retry}`", retry)),
        );
    }
    if unresolved {
        let servers = match facts.name_servers.is_empty() {
            true => tr!("none"),
            false => facts.name_servers.join(", "),
        };
        // The servers answer: it is these names that they do not know.
        if facts.profile.as_deref().is_some_and(|name| name != "auto")
            && words.iter().all(|line| says(line, &["Name or service not known"]))
        {
            return Finding::error(
                Check::NameLookup,
                tr!("network"),
                tr!(
                    "the name servers ({servers}) know none of the hosts that were asked: mirrors that have ended, or a network that filters names",
                    servers
                ),
                Fix::safe("mirror use auto"),
            );
        }
        return Finding::error(
            Check::NameLookup,
            "/etc/resolv.conf",
            tr!("no name of a host can be looked up; name servers: {servers}", servers),
            Fix::Yours("export HTTPS_PROXY=http://HOST:PORT".to_owned()),
        );
    }
    let fix = match &facts.profile {
        None => Fix::safe("mirror use cn"),
        Some(_) => Fix::Yours("export HTTPS_PROXY=http://HOST:PORT".to_owned()),
    };
    // The failed lookup of one name says less than any other silence.
    let telling = |line: &&String| !says(line, &LOOKUP) && says(line, &FAILED);
    let evidence = words.iter().find(telling).or(words.first()).map(|line| told(line)).unwrap_or_default();
    Finding::error(
        Check::Blocked,
        tr!("network"),
        tr!(
            "there is a route and no endpoint answers: a firewall, or a network that allows its proxy only: {evidence}",
            evidence = evidence.trim()
        ),
        fix,
    )
}

impl Facts {
    /// For tests: no route, and an endpoint that says so.
    #[cfg(test)]
    pub fn unplugged() -> Self {
        Self {
            profile: None,
            routed: Some(false),
            interfaces: Vec::new(),
            name_servers: Vec::new(),
            proxy: None,
            ca_file: None,
            needed: [Ecosystem::Crates].into(),
            measured: Measured::Not { why: "x".into(), evidence: Vec::new() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    fn report(url: &str, verdict: ProbeVerdict, message: &str) -> ProbeReport {
        ProbeReport {
            ecosystem: Ecosystem::Crates,
            url: url.to_owned(),
            origin: "direct".to_owned(),
            verdict,
            message: message.to_owned(),
            causes: Vec::new(),
            hosts: vec!["a.example".to_owned()],
            failed_host: None,
            address: None,
            proxy: None,
            tls_issuer: None,
            status: None,
            connect_milliseconds: None,
            first_byte_milliseconds: None,
            bytes_per_second: None,
            score_milliseconds: None,
        }
    }

    fn plugged(measured: Measured) -> Facts {
        Facts {
            routed: Some(true),
            interfaces: vec!["eth0".into()],
            name_servers: vec!["192.0.2.1".into()],
            measured,
            ..Facts::unplugged()
        }
    }

    fn proxy(url: &str, has_password: bool) -> Option<SetProxy> {
        Some(SetProxy { variable: "all_proxy".into(), url: url.into(), has_password })
    }

    fn first(facts: &Facts) -> (String, Severity, String, String) {
        let it = examine(facts).remove(0);
        (
            it.check.id().to_owned(),
            it.severity,
            format!("{}: {}", it.subject, it.message),
            it.fix.map(|fix| fix.shown()).unwrap_or_default(),
        )
    }

    fn check(facts: &Facts, code: &str, severity: Severity, words: &[&str]) {
        let (found, of, message, fix) = first(facts);
        assert_eq!((found.as_str(), of), (code, severity), "{message}");
        let all = format!("{message}\n{fix}");
        assert!(words.iter().all(|words| all.contains(words)), "{words:?}: {all}");
    }

    const REFUSED: &str = "cannot connect to a.example:443: 192.0.2.1: Connection refused (os error 111)";
    const NO_NAME: &str =
        "cannot connect to a.example:443: failed to lookup address information: Temporary failure in name resolution";

    #[test]
    fn each_cause_is_named_from_what_the_gateway_saw() {
        let dead = |message: &str| Measured::Reports(vec![report("https://a.example/", ProbeVerdict::Dead, message)]);
        check(
            &Facts { measured: dead(NO_NAME), ..Facts::unplugged() },
            "network.unplugged",
            Severity::Error,
            &["no route", "doctor mirrors"],
        );
        check(&plugged(dead(NO_NAME)), "network.dns", Severity::Error, &["192.0.2.1", "HTTPS_PROXY"]);
        let unknown = Facts {
            profile: Some("old".into()),
            ..plugged(dead(&NO_NAME.replace("Temporary failure in name resolution", "Name or service not known")))
        };
        check(&unknown, "network.dns", Severity::Error, &["192.0.2.1", "know none", "mirror use auto"]);
        check(&plugged(dead(REFUSED)), "network.blocked", Severity::Error, &["refused", "cargo xtask mirror use cn"]);

        let password = "proxy http://127.0.0.1:3128 opened no tunnel to a.example:443: it wants other credentials (HTTP/1.1 407 Proxy Authentication Required)";
        let mut asked = report("https://a.example/", ProbeVerdict::Dead, password);
        asked.proxy = Some("http://127.0.0.1:3128".into());
        // Where the proxy is on loopback there need not be a route.
        let facts = Facts { measured: Measured::Reports(vec![asked]), ..Facts::unplugged() };
        check(
            &facts,
            "network.proxy-password",
            Severity::Error,
            &["http://127.0.0.1:3128: ", "wants", "HTTPS_PROXY=http://USER:PASSWORD@127.0.0.1:3128"],
        );
        let given = Facts { proxy: proxy("http://127.0.0.1:3128", true), ..facts };
        check(&given, "network.proxy-password", Severity::Error, &["refuses the user and the password in all_proxy"]);

        let mut signed = report("https://a.example/", ProbeVerdict::Tls, "invalid peer certificate: UnknownIssuer");
        signed.tls_issuer = Some("CN=Corporate Inspection".into());
        let facts = plugged(Measured::Reports(vec![signed]));
        check(&facts, "network.tls", Severity::Error, &["CN=Corporate Inspection", "SSL_CERT_FILE"]);
        let facts = Facts { ca_file: Some("/tmp/ca.pem".into()), ..facts };
        check(&facts, "network.tls", Severity::Error, &["what SSL_CERT_FILE=/tmp/ca.pem holds"]);

        let page = Measured::Reports(vec![report(
            "https://a.example/",
            ProbeVerdict::Html,
            "answered with a page: Please log in",
        )]);
        check(&plugged(page), "mirror.html", Severity::Error, &["Please log in", "browser"]);

        for words in ["cannot connect to the proxy 10.0.0.1:3128: refused", "cannot connect to 10.0.0.1:3128: refused"]
        {
            let facts = Facts { proxy: proxy("http://10.0.0.1:3128", false), ..plugged(dead(words)) };
            check(&facts, "network.proxy-dead", Severity::Error, &["http://10.0.0.1:3128", "unset all_proxy"]);
        }
    }

    #[test]
    fn a_cause_is_not_hidden_by_answers_that_prove_nothing() {
        let ok = |url: &str| ProbeReport { status: Some(200), ..report(url, ProbeVerdict::Ok, "") };
        let tls = report("https://a.example/", ProbeVerdict::Tls, "UnknownIssuer");
        let plain = ok("http://apt.example/");
        check(&plugged(Measured::Reports(vec![tls.clone(), plain])), "network.tls", Severity::Error, &[]);
        let healthy = plugged(Measured::Reports(vec![tls, ok("https://b.example/")]));
        check(&healthy, "mirror.tls", Severity::Info, &[]);
        let page = |url| ProbeReport { status: Some(200), ..report(url, ProbeVerdict::Html, "Sign in") };
        // An answer to a greeting may be the page as well; bytes of an artifact are not.
        let portal = vec![page("https://a.example/"), ok("https://b.example/")];
        check(&plugged(Measured::Reports(portal.clone())), "mirror.html", Severity::Error, &["browser"]);
        let proven = ProbeReport { bytes_per_second: Some(1), ..ok("https://b.example/") };
        check(
            &plugged(Measured::Reports(vec![portal[0].clone(), proven])),
            "mirror.html",
            Severity::Warning,
            &["mirror use auto"],
        );
        // Names that nobody has among black holes do not make it the name server's fault.
        let dead = |message| report("https://a.example/", ProbeVerdict::Dead, message);
        let holes = vec![dead(NO_NAME), dead("no connection within 2.1 s")];
        check(&plugged(Measured::Reports(holes)), "network.blocked", Severity::Error, &[]);
    }

    #[test]
    fn who_had_no_time_is_neither_dead_nor_evidence_of_a_firewall() {
        let of = |verdict| report("https://a.example/", verdict, "no answer within 0.0 s");
        let (late, dead) = (of(ProbeVerdict::NotMeasured), of(ProbeVerdict::Dead));
        let codes = |reports: Vec<ProbeReport>| -> Vec<_> {
            examine(&plugged(Measured::Reports(reports))).iter().map(|it| (it.check.id(), it.severity)).collect()
        };
        let unknown = ("network.not-measured", Severity::Warning);
        assert_eq!(codes(vec![late.clone()]), [unknown]);
        // One of a list that is dead leaves the other to be known.
        let alive = ProbeReport { ecosystem: Ecosystem::Go, ..of(ProbeVerdict::Ok) };
        let found = codes(vec![dead.clone(), late, alive]);
        assert_eq!(found, [unknown, ("mirror.dead", Severity::Info), ("mirror.ok", Severity::Ok)]);
        assert_eq!(codes(vec![dead])[0], ("network.blocked", Severity::Error));
    }

    #[test]
    fn without_a_gateway_the_words_of_the_launchers_cargo_are_the_evidence() {
        let said = |lines: &[&str]| Measured::Not {
            why: "the gateway is not built".into(),
            evidence: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        let unresolved = "warning: spurious network error (3 tries remaining): [6] Could not resolve hostname (Could not resolve host: index.example)";
        check(
            &Facts { measured: said(&[unresolved]), ..Facts::unplugged() },
            "network.unplugged",
            Severity::Error,
            &[],
        );
        check(&plugged(said(&[unresolved])), "network.dns", Severity::Error, &[]);
        check(
            &plugged(said(&["  [56] CONNECT tunnel failed, response 407"])),
            "network.proxy-password",
            Severity::Error,
            &[],
        );
        let ca = "[60] SSL peer certificate or SSH remote key was not OK (SSL certificate problem: unable to get local issuer certificate)";
        check(&plugged(said(&[ca])), "network.tls", Severity::Error, &["local issuer"]);
        let building = plugged(said(&["   Compiling gateway v0.1.0"]));
        check(&building, "network.not-measured", Severity::Warning, &["not built", "cargo xtask mirror probe"]);
        assert_eq!(examine(&building)[1].message, "there is a route; name servers: 192.0.2.1; proxy: none");
        let refused = said(&[
            "  caused by: cargo's own registry: [7] Could not connect to server (Failed to connect to 10.0.0.1 port 3128 after 0 ms)",
        ]);
        let facts = Facts { proxy: proxy("http://10.0.0.1:3128", false), ..plugged(refused) };
        check(&facts, "network.proxy-dead", Severity::Error, &["http://10.0.0.1:3128"]);
        let facts = Facts { proxy: proxy("socks5://127.0.0.1:1080", false), ..plugged(said(&[])) };
        check(
            &facts,
            "network.proxy-unusable",
            Severity::Error,
            &["socks5://127.0.0.1:1080", "all_proxy names a SOCKS proxy", "HTTPS_PROXY=http://127.0.0.1:PORT"],
        );
        check(&plugged(Measured::Forbidden), "network.offline", Severity::Info, &["nothing was contacted"]);
    }

    #[test]
    fn one_bad_endpoint_among_good_ones_is_no_failure_and_an_ecosystem_without_any_is_one() {
        let mut good = report("https://good.example/", ProbeVerdict::Ok, "");
        (good.address, good.status, good.bytes_per_second) = (Some("192.0.2.7:443".into()), Some(200), Some(1 << 20));
        good.hosts.push("cdn.example".into());
        for (verdict, code, severity) in [
            (ProbeVerdict::Dead, "mirror.dead", Severity::Info),
            (ProbeVerdict::Tls, "mirror.tls", Severity::Info),
            (ProbeVerdict::Limited, "mirror.limited", Severity::Info),
            (ProbeVerdict::Stale, "mirror.stale", Severity::Warning),
            (ProbeVerdict::Partial, "mirror.partial", Severity::Warning),
            (ProbeVerdict::Html, "mirror.html", Severity::Warning),
        ] {
            let bad = report("https://bad.example/", verdict, "why");
            check(
                &plugged(Measured::Reports(vec![bad.clone(), good.clone()])),
                code,
                severity,
                &["bad.example", "why"],
            );
            // Nothing else for crates is an error, unless no build needs them.
            let other = ProbeReport { ecosystem: Ecosystem::Go, ..good.clone() };
            let mut facts = plugged(Measured::Reports(vec![bad.clone(), bad, other]));
            check(&facts, code, Severity::Error, &["no other endpoint", "cargo xtask mirror use auto"]);
            let errors = examine(&facts).iter().filter(|it| it.severity == Severity::Error).count();
            assert_eq!(errors, 1, "one finding a list");
            facts.needed.clear();
            check(&facts, code, severity, &["bad.example"]);
        }
        let (code, severity, message, _) = first(&plugged(Measured::Reports(vec![good])));
        assert_eq!((code.as_str(), severity), ("mirror.ok", Severity::Ok));
        assert_eq!(
            message,
            "https://good.example/: crates; at 192.0.2.7:443; HTTP 200; leads to cdn.example; 1.0 MiB/s"
        );
    }
}
