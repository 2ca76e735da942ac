//! Versions of packages and their order.
//!
//! Source: Debian Policy 5.6.12, `[epoch:]upstream[-revision]`; `verrevcmp` of dpkg where the policy is silent.

use crate::error::{Error, Result};
use std::cmp::Ordering;
use std::fmt;
use std::iter::once;

/// Two that differ in writing only are equal: `1.0` and `0:1.00-0`.
#[derive(Clone, Debug)]
pub struct Version {
    text: String,
    epoch: u32,
    /// Of the upstream part in `text`.
    upstream: std::ops::Range<usize>,
}

impl Version {
    /// # Errors: Malformed.
    pub fn parse(text: &str) -> Result<Self> {
        let malformed = |why: &str| Error::malformed(format!("version `{text}`"), why);
        let (epoch, start) = match text.split_once(':') {
            Some((epoch, _)) if epoch.bytes().all(|byte| byte.is_ascii_digit()) => {
                let number = epoch.parse::<u32>().ok().filter(|number| i32::try_from(*number).is_ok());
                (number.ok_or_else(|| malformed("its epoch is no number that dpkg takes"))?, epoch.len() + 1)
            }
            Some(_) => return Err(malformed("its epoch is no number")),
            None => (0, 0),
        };
        let end = text.rfind('-').unwrap_or(text.len()).max(start);
        let upstream = start..end;
        let (first, revision) = (&text[upstream.clone()], text.get(end + 1..));
        if first.is_empty() || revision == Some("") {
            return Err(malformed("a part of it is empty"));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".+~".contains(&byte);
        if !first.bytes().all(|byte| allowed(byte) || b"-:".contains(&byte))
            || !revision.unwrap_or_default().bytes().all(allowed)
        {
            return Err(malformed("it has a character that no version has"));
        }
        Ok(Self { text: text.to_owned(), epoch, upstream })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn revision(&self) -> &str {
        self.text.get(self.upstream.end + 1..).unwrap_or_default()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let upstream = |it: &Self| it.text[it.upstream.clone()].to_owned();
        self.epoch
            .cmp(&other.epoch)
            .then_with(|| compare(&upstream(self), &upstream(other)))
            .then_with(|| compare(self.revision(), other.revision()))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version {}

/// Alternates between the part before the next digit, by [`weight`], and the number after it.
fn compare(mut left: &str, mut right: &str) -> Ordering {
    while !left.is_empty() || !right.is_empty() {
        let (words, numbers) = (word(&mut left).cmp(word(&mut right)), number(&mut left).cmp(&number(&mut right)));
        let order = words.then(numbers);
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// A part without digits, its end included: `~` comes even before that.
fn word<'a>(text: &mut &'a str) -> impl Iterator<Item = u16> + use<'a> {
    let (word, rest) = text.split_at(text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len()));
    *text = rest;
    word.bytes().map(weight).chain(once(1))
}

/// `~` < end (1) < letters < everything else.
fn weight(byte: u8) -> u16 {
    match byte {
        b'~' => 0,
        byte if byte.is_ascii_alphabetic() => 1 + u16::from(byte),
        byte => 0x100 + u16::from(byte),
    }
}

/// Digits without leading zeros, of any length; the longer is the greater.
fn number<'a>(text: &mut &'a str) -> (usize, &'a str) {
    let (number, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    *text = rest;
    let number = number.trim_start_matches('0');
    (number.len(), number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each is older than the next.
    const ASCENDING: &[&str] = &[
        "0",
        "0.1~~",
        "0.1~~a",
        "0.1~",
        "0.1",
        "0.1-1~bpo1",
        "0.1-1",
        "0.1-1+b1",
        "0.1-1.1",
        "0.1-2",
        "0.1-10",
        "0.1a",
        "0.1+b",
        "0.2",
        "0.10",
        "1",
        "1-0a",
        "1-a",
        "1A",
        "1a",
        "1aa",
        "1+",
        "1.",
        "1.-1",
        "1.1",
        "1:0~",
        "1:0",
        "1:0-1",
        "1:9.99999999999999999999999999",
        "1:9.100000000000000000000000000",
        "2:0:1",
        "2:0:1-1",
        "2:1-1-1",
    ];

    #[test]
    fn versions_have_the_order_of_the_policy() {
        let versions: Vec<_> = ASCENDING.iter().map(|text| Version::parse(text).unwrap()).collect();
        for (i, left) in versions.iter().enumerate() {
            for (j, right) in versions.iter().enumerate() {
                assert_eq!(left.cmp(right), i.cmp(&j), "{left} {right}");
            }
        }
        for (left, right) in [("1.0", "0:1.00-0"), ("1", "1-0"), ("1.0a00", "1.0a0"), ("a", "a0")] {
            assert_eq!(Version::parse(left).unwrap(), Version::parse(right).unwrap());
        }
    }

    #[test]
    fn versions_have_the_order_of_dpkg() {
        let dpkg = |left: &str, right: &str| {
            let status = std::process::Command::new("dpkg").args(["--compare-versions", left, "lt", right]).status();
            status.ok().map(|status| status.success())
        };
        if dpkg("1", "2").is_none() {
            eprintln!("skipped: there is no dpkg to compare with");
            return;
        }
        // Every pair of neighbours at a distance of up to three, both ways round.
        for (i, left) in ASCENDING.iter().enumerate() {
            for right in &ASCENDING[i.saturating_sub(3)..(i + 4).min(ASCENDING.len())] {
                let ours = Version::parse(left).unwrap() < Version::parse(right).unwrap();
                assert_eq!(Some(ours), dpkg(left, right), "{left} < {right}");
            }
        }
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in ["", "-1", "1-", ":1", "a:1", "1:", "4294967296:1", "1 2", "1_2", "1-1:1", "ä", "1-1_1"] {
            assert!(Version::parse(text).is_err(), "{text}");
        }
    }
}
