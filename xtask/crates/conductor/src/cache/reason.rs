//! Why a step is not a hit: the inputs that differ from the last result, old → new.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// One input that differs. `None` means that it was not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub input: String,
    pub old: Option<String>,
    pub new: Option<String>,
}

impl Reason {
    /// Every input that differs, in the order of their names.
    pub fn compare(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<Self> {
        let names: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
        names
            .into_iter()
            .filter(|name| old.get(*name) != new.get(*name))
            .map(|name| Self {
                input: name.clone(),
                old: old.get(name).map(|value| shown(value)),
                new: new.get(name).map(|value| shown(value)),
            })
            .collect()
    }

    /// A reason that is not a changed input: `first build here`, `asked for by --fresh`.
    pub fn because(input: impl Into<String>) -> Self {
        Self { input: input.into(), old: None, new: None }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.old, &self.new) {
            (None, None) => f.write_str(&self.input),
            (None, Some(new)) => write!(f, "{} is new ({new})", self.input),
            (Some(old), None) => write!(f, "{} is gone (was {old})", self.input),
            (Some(old), Some(new)) => write!(f, "{}: {old} → {new}", self.input),
        }
    }
}

/// A value fit for a line on screen: digests short, several lines as one, credentials in URLs masked.
fn shown(value: &str) -> String {
    if value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return value[..12].to_owned();
    }
    let line = value.lines().map(str::trim).collect::<Vec<_>>().join(", ");
    line.split(' ').map(masked).collect::<Vec<_>>().join(" ")
}

/// `scheme://user:password@host` → `scheme://****@host`.
fn masked(word: &str) -> String {
    match word.split_once("://") {
        Some((scheme, rest)) => match rest.split_once('@') {
            Some((userinfo, host)) if !userinfo.contains('/') => format!("{scheme}://****@{host}"),
            _ => word.to_owned(),
        },
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_reads_as_old_to_new_without_credentials() {
        let old = BTreeMap::from([("environment: X".to_owned(), "-a https://me:secret@host/x".to_owned())]);
        let new = BTreeMap::from([("environment: X".to_owned(), "-b".to_owned())]);
        let reasons = Reason::compare(&old, &new);
        assert_eq!(reasons.len(), 1);
        assert_eq!(reasons[0].to_string(), "environment: X: -a https://****@host/x → -b");
    }
}
