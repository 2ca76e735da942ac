//! Why a step is not a hit: the inputs that differ from the last result, old → new.

use crate::tr;
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
            (None, Some(new)) => f.write_str(&tr!("{input} is new ({new})", input = self.input, new)),
            (Some(old), None) => f.write_str(&tr!("{input} is gone (was {old})", input = self.input, old)),
            (Some(old), Some(new)) => write!(f, "{}: {old} → {new}", self.input),
        }
    }
}

/// A value fit for a line on screen: digests short, several lines as one. What may hold a credential is not among the values.
fn shown(value: &str) -> String {
    let is_digest = |word: &str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    if value.is_empty() {
        return "(empty)".to_owned();
    }
    let line = value.lines().map(str::trim).collect::<Vec<_>>().join(", ");
    line.split(' ').map(|word| if is_digest(word) { &word[..12] } else { word }).collect::<Vec<_>>().join(" ")
}

/// Whether free text (flags, as they stand in a variable) must not be written down or shown. It errs towards yes: a flag that is hidden
/// costs a look into one's own shell, a token that is shown must be revoked.
pub fn may_hold_a_credential(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "token",
        "secret",
        "passw",
        "credential",
        "auth",
        "apikey",
        "api_key",
        "api-key",
        "bearer",
        "cookie",
        "private",
    ];
    let lower = text.to_ascii_lowercase();
    let url_with_user =
        || lower.split("://").skip(1).any(|rest| rest.split('/').next().is_some_and(|it| it.contains('@')));
    WORDS.iter().any(|word| lower.contains(word)) || url_with_user() || text.split(is_no_token_character).any(is_random)
}

fn is_no_token_character(c: char) -> bool {
    !(c.is_ascii_alphanumeric() || c == '_')
}

/// Long, with digits and letters of both cases or nothing but hexadecimal: nobody names a path or a flag so.
fn is_random(word: &str) -> bool {
    let has = |of: fn(&u8) -> bool| word.as_bytes().iter().any(of);
    let mixed = has(u8::is_ascii_digit) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase);
    let hexadecimal = has(u8::is_ascii_digit) && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    word.len() >= 16 && (mixed || hexadecimal) || word.len() >= 16 && word.starts_with("AKIA")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_reads_as_old_to_new() {
        let old = BTreeMap::from([("rustc".to_owned(), "rustc 1\nhost: x".to_owned())]);
        let new = BTreeMap::from([("rustc".to_owned(), "rustc 2\nhost: x".to_owned())]);
        let reasons = Reason::compare(&old, &new);
        assert_eq!(reasons.len(), 1);
        assert_eq!(reasons[0].to_string(), "rustc: rustc 1, host: x → rustc 2, host: x");
    }

    #[test]
    fn flags_are_shown_and_what_may_be_a_credential_is_not() {
        let flags = [
            "-C target-cpu=native -C link-arg=-Wl,-z,now",
            "-O2 -g -I/usr/include/x86_64-linux-gnu --sysroot=/opt/a@b",
            "--remap-path-prefix=/home/me/project=/source",
            "1700000000",
        ];
        flags.iter().for_each(|text| assert!(!may_hold_a_credential(text), "{text}"));
        let credentials = [
            "-Wl,https://me:hunter2@host/x",
            "-DURL=https://hunter2@host",
            "--cfg token=\"abc\"",
            "-DAWS_SECRET_ACCESS_KEY=abc",
            "-DHEADER='Authorization: Basic abc'",
            "-DKEY=ghp_16C7e42F292c6912E7710c838347Ae178B4a",
            "-DKEY=AKIAIOSFODNN7EXAMPLE",
            "-DKEY=0123456789abcdef0123456789abcdef",
        ];
        credentials.iter().for_each(|text| assert!(may_hold_a_credential(text), "{text}"));
    }
}
