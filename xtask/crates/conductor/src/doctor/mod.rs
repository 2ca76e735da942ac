//! What is wrong with this machine, its network and this checkout: [`Facts`] in, [`Finding`]s out, the cause first.
//!
//! Owns: every check, its stable code, its severity and the one thing that helps. Never: changes anything (what `--fix` runs are
//! commands of this tool), connects to the outside (the gateway measures), or tells a secret, a home folder or a user's name: a
//! report is made to be pasted in public. Rules: the misleading messages and floors come from measurements of each tool.
//!
//! ```text
//! certificate.rs    what a file of authorities holds
//! check.rs          the codes: group, meaning, order of causes
//! toolchain.rs      what compiles
//! configuration.rs  settings of other tools that do nothing, or harm
//! network.rs        what the gateway measured, and what nothing measured means
//! message.rs        misleading messages of other tools, in the logs of the last run
//! machine.rs        container engines, cache, disk, ports, pins
//! gather.rs         looks; the only part that touches the machine
//! text.rs           the report for a person
//! ```

mod certificate;
mod check;
mod configuration;
pub mod gather;
mod machine;
mod message;
mod network;
mod text;
mod toolchain;

pub use check::{Check, Group, page};
pub use report::Severity;
pub use text::{Style, text};

use crate::error::{Error, masked};
use crate::report;
use std::collections::BTreeSet;

/// What a check came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub check: Check,
    pub severity: Severity,
    pub subject: String,
    /// What is the case, with the evidence.
    pub message: String,
    /// Always there for warnings and errors, never for the rest.
    pub fix: Option<Fix>,
}

/// The one thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fix {
    /// A command of this tool that loses nothing: `--fix` runs it.
    Safe(Vec<String>),
    /// For a person to judge.
    Yours(String),
}

impl Fix {
    pub fn safe(words: &str) -> Self {
        Self::Safe(words.split_whitespace().map(str::to_owned).collect())
    }

    pub fn shown(&self) -> String {
        match self {
            Self::Safe(words) => format!("cargo xtask {}", words.join(" ")),
            Self::Yours(text) => text.clone(),
        }
    }
}

impl Finding {
    fn ok(check: Check, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { check, severity: Severity::Ok, subject: subject.into(), message: message.into(), fix: None }
    }

    fn info(check: Check, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Info, ..Self::ok(check, subject, message) }
    }

    fn warning(check: Check, subject: impl Into<String>, message: impl Into<String>, fix: Fix) -> Self {
        Self { severity: Severity::Warning, fix: Some(fix), ..Self::ok(check, subject, message) }
    }

    fn error(check: Check, subject: impl Into<String>, message: impl Into<String>, fix: Fix) -> Self {
        Self { severity: Severity::Error, fix: Some(fix), ..Self::ok(check, subject, message) }
    }

    /// As every command tells a finding.
    pub fn reported(&self) -> report::Finding {
        report::Finding {
            code: self.check.id().to_owned(),
            severity: self.severity,
            subject: self.subject.clone(),
            message: self.message.clone(),
            fix: self.fix.as_ref().map(Fix::shown),
        }
    }
}

/// What kept a question from being answered: in words, and what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub message: String,
    pub fix: Option<String>,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        let message = std::iter::once(error.to_string()).chain(error.causes()).collect::<Vec<_>>().join(": ");
        Self { message, fix: error.hints().first().map(|hint| masked(hint)) }
    }
}

/// `None`: nothing came in time.
pub type Answer<T> = Option<Result<T, Trouble>>;

/// What was found out, each group where it was asked for.
#[derive(Debug, Default)]
pub struct Facts {
    pub toolchain: Option<toolchain::Facts>,
    pub configuration: Option<configuration::Facts>,
    pub network: Option<network::Facts>,
    /// Misleading lines of the last run: where, and which.
    pub messages: Vec<message::Seen>,
    pub engines: Option<Vec<machine::Engine>>,
    pub cache: Option<machine::Cache>,
    pub disk: Option<Vec<machine::Volume>>,
    pub ports: Option<Vec<machine::Port>>,
    pub project: Option<machine::Project>,
    pub privacy: Privacy,
}

/// What must not be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Privacy {
    pub home: Option<String>,
    pub users: BTreeSet<String>,
}

impl Privacy {
    /// `text` as it may be pasted in public.
    pub fn applied(&self, text: &str) -> String {
        self.without_places(&masked(text))
    }

    fn without_places(&self, text: &str) -> String {
        let mut text = text.to_owned();
        if let Some(home) = self.home.as_deref().filter(|home| home.len() > 1) {
            text = replaced(&text, home, "~");
        }
        for user in self.users.iter().filter(|user| !user.is_empty()) {
            text = text.replace(&format!("/{user}/"), "/USER/");
        }
        text
    }
}

/// `path` where it is a whole path or the beginning of one.
fn replaced(text: &str, path: &str, by: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(path) {
        let (before, after) = (&rest[..at], &rest[at + path.len()..]);
        let is_name = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        let inside = before.ends_with(|c: char| is_name(c) || c == '/') || after.starts_with(is_name);
        shown.push_str(before);
        shown.push_str(if inside { path } else { by });
        rest = after;
    }
    shown + rest
}

/// Every finding, in the order in which a person should read them: the cause first, its group with it, then the groups in their
/// order, the worst first within each.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(facts.toolchain.iter().flat_map(toolchain::examine));
    findings.extend(facts.configuration.iter().flat_map(configuration::examine));
    findings.extend(facts.network.iter().flat_map(network::examine));
    findings.extend(message::examine(&facts.messages));
    findings.extend(facts.engines.iter().flat_map(|it| machine::examine_engines(it)));
    findings.extend(facts.cache.iter().flat_map(machine::examine_cache));
    findings.extend(facts.disk.iter().flat_map(|it| machine::examine_disk(it)));
    findings.extend(facts.ports.iter().flat_map(|it| machine::examine_ports(it)));
    findings.extend(facts.project.iter().flat_map(machine::examine_project));
    // Without authorities no endpoint can be asked: what a network would be blamed for follows from that.
    if findings.iter().any(|it| it.check == Check::CaFile) {
        findings.retain(|it| !matches!(it.check, Check::Blocked | Check::WrongAuthority));
    }
    for finding in &mut findings {
        finding.subject = facts.privacy.applied(&finding.subject);
        finding.message = facts.privacy.applied(&finding.message);
        if let Some(Fix::Yours(text)) = &mut finding.fix {
            // What stands for a password in a command to type must stay readable.
            *text = facts.privacy.without_places(text);
        }
    }
    let rank = |finding: &Finding| (finding.severity, finding.check.depth());
    findings.sort_by_key(|finding| rank(finding));
    let leading = findings.first().filter(|it| it.severity == Severity::Error).map(|it| it.check.group());
    findings.sort_by_key(|finding| (Some(finding.check.group()) != leading, finding.check.group()));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_comes_first_with_its_group_and_the_worst_of_each_group_after_it() {
        let full = machine::Volume { free_bytes: 0, ..machine::Volume::good("cache") };
        let port = machine::Port { number: 1, service: "web".into(), name: "http".into(), holder: None, taken: true };
        let facts = Facts {
            disk: Some(vec![machine::Volume::good("tmp"), full]),
            ports: Some(vec![port]),
            network: Some(network::Facts::unplugged()),
            ..Facts::default()
        };
        let codes: Vec<_> = examine(&facts).iter().map(|it| it.check.id()).collect();
        let expected = ["disk.full", "disk.space", "network.unplugged", "network.not-measured", "ports.busy"];
        assert_eq!(codes, expected);
    }

    #[test]
    fn a_file_without_authorities_is_the_only_cause() {
        let ca_file = configuration::CaFile { path: "/etc/hostname".into(), certificates: Ok((0, 0)) };
        let why = "cannot connect to a.example".to_owned();
        let facts = |ca_file| Facts {
            configuration: Some(configuration::Facts { ca_file, ..Default::default() }),
            network: Some(network::Facts {
                routed: Some(true),
                measured: network::Measured::Not { why: why.clone(), evidence: vec![why.clone()] },
                ..network::Facts::unplugged()
            }),
            ..Facts::default()
        };
        let codes = |facts: &Facts| examine(facts).iter().map(|it| it.check.id()).collect::<Vec<_>>();
        assert_eq!(codes(&facts(None)), ["network.blocked", "network.not-measured"]);
        assert_eq!(codes(&facts(Some(ca_file))), ["setting.ca-file", "network.not-measured"]);
    }

    #[test]
    fn nothing_private_is_told() {
        let privacy = Privacy { home: Some("/home/mei".into()), users: ["mei".to_owned()].into() };
        for (text, shown) in [
            ("/home/mei/.cache/xtask", "~/.cache/xtask"),
            ("in /home/mei.", "in /home/mei."),
            ("in `/home/mei`", "in `~`"),
            ("/home/meiling/x /backup/home/mei/x", "/home/meiling/x /backup/home/USER/x"),
            ("/run/user/mei/docker.sock", "/run/user/USER/docker.sock"),
            ("https://mei:secret@host/", "https://**********@host/"),
        ] {
            assert_eq!(privacy.applied(text), shown);
        }
    }
}
