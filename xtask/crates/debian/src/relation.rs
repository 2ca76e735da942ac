//! Relations between packages: `Depends`, `Pre-Depends`, `Provides`, `Conflicts`, `Breaks`.
//!
//! Owns: their grammar, and whether a version satisfies one. Never: know which packages there are.
//! Source: Debian Policy 7.1 and 7.5. Restrictions (`[arm64]`, `<cross>`) belong to source packages and are refused.

use crate::error::{Error, Result};
use crate::version::Version;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Earlier,
    EarlierOrEqual,
    Equal,
    LaterOrEqual,
    Later,
}

/// `libc6:any (>= 2.34)`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub name: String,
    /// `any`, `native` or an architecture.
    pub qualifier: Option<String>,
    pub version: Option<(Operator, Version)>,
}

/// What one element between commas asks for: one of these.
pub type Clause = Vec<Relation>;

impl Relation {
    /// Whether a package of this version, or one that provides it in this version, is what is meant.
    pub fn accepts(&self, version: Option<&Version>) -> bool {
        let Some((operator, wanted)) = &self.version else { return true };
        let Some(version) = version else { return false };
        match operator {
            Operator::Earlier => version < wanted,
            Operator::EarlierOrEqual => version <= wanted,
            Operator::Equal => version == wanted,
            Operator::LaterOrEqual => version >= wanted,
            Operator::Later => version > wanted,
        }
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let (word, rest) = text.split_at(text.find(|c: char| c.is_whitespace() || c == '(').unwrap_or(text.len()));
        let (name, qualifier) = word.split_once(':').map_or((word, None), |(name, it)| (name, Some(it)));
        if !is_package_name(name) {
            return Err(format!("`{name}` is no name of a package"));
        }
        if !qualifier.is_none_or(|it| !it.is_empty() && it.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')) {
            return Err(format!("`{word}` has a qualifier that is no architecture"));
        }
        let version = match rest.trim() {
            "" => None,
            rest => {
                let inner = rest.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).map(str::trim);
                let inner = inner.ok_or_else(|| format!("`{rest}` after {name} is no version in brackets"))?;
                let number = inner.trim_start_matches(['<', '=', '>']);
                let operator = match &inner[..inner.len() - number.len()] {
                    "<<" => Operator::Earlier,
                    "<=" | "<" => Operator::EarlierOrEqual,
                    "=" => Operator::Equal,
                    ">=" | ">" => Operator::LaterOrEqual,
                    ">>" => Operator::Later,
                    other => return Err(format!("`{other}` compares no versions")),
                };
                Some((operator, Version::parse(number.trim()).map_err(|error| error.to_string())?))
            }
        };
        Ok(Self { name: name.to_owned(), qualifier: qualifier.map(str::to_owned), version })
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(qualifier) = &self.qualifier {
            write!(f, ":{qualifier}")?;
        }
        let Some((operator, version)) = &self.version else { return Ok(()) };
        let operator = match operator {
            Operator::Earlier => "<<",
            Operator::EarlierOrEqual => "<=",
            Operator::Equal => "=",
            Operator::LaterOrEqual => ">=",
            Operator::Later => ">>",
        };
        write!(f, " ({operator} {version})")
    }
}

/// As it stands in a field.
pub fn shown(clause: &[Relation]) -> String {
    clause.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
}

/// The clauses of a field. `subject`: the package and the field, for messages.
///
/// # Errors: Malformed.
pub fn clauses(subject: &str, field: &str) -> Result<Vec<Clause>> {
    let elements = field.split(',').map(str::trim).filter(|element| !element.is_empty());
    let clause = |element: &str| -> std::result::Result<Clause, String> {
        element.split('|').map(|it| Relation::parse(it.trim())).collect()
    };
    elements.map(|element| clause(element).map_err(|why| Error::malformed(subject, why))).collect()
}

/// Source: Debian Policy 5.6.1.
pub fn is_package_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
    name.len() >= 2 && name.as_bytes()[0].is_ascii_alphanumeric() && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses_read_back_as_they_stand() {
        for (text, read) in [
            ("", ""),
            ("libc6", "libc6"),
            ("libc6 (>= 2.34), debconf (>= 0.5) | debconf-2.0", "libc6 (>= 2.34); debconf (>= 0.5) | debconf-2.0"),
            ("python3:any(<<3.12),\n g++-12:arm64 ( = 1:2-3 ) ,", "python3:any (<< 3.12); g++-12:arm64 (= 1:2-3)"),
            // Obsolete, and still read by dpkg: not what it looks like.
            ("aa (< 1), bb (> 1)", "aa (<= 1); bb (>= 1)"),
        ] {
            let clauses = clauses("x", text).unwrap();
            assert_eq!(clauses.iter().map(|clause| shown(clause)).collect::<Vec<_>>().join("; "), read);
        }
    }

    #[test]
    fn what_is_no_relation_is_refused() {
        for text in [
            "a",
            "A1",
            "-aa",
            "aa bb",
            "aa (1)",
            "aa (>= )",
            "aa (>= 1",
            "aa (=> 1)",
            "aa (>= 1) x",
            "aa [arm64]",
            "aa <cross>",
            "aa | ",
            "aa:",
            "aa:x y",
            "../aa",
            "aa (>= 1_2)",
        ] {
            assert!(clauses("x", text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_version_is_accepted_on_its_side() {
        let accepts = |text: &str| {
            let clauses = clauses("x", text).unwrap();
            ["1", "2", "3"].map(|it| clauses[0][0].accepts(Some(&Version::parse(it).unwrap())))
        };
        assert_eq!(accepts("aa (<< 2)"), [true, false, false]);
        assert_eq!(accepts("aa (<= 2)"), [true, true, false]);
        assert_eq!(accepts("aa (= 2)"), [false, true, false]);
        assert_eq!(accepts("aa (>= 2)"), [false, true, true]);
        assert_eq!(accepts("aa (>> 2)"), [false, false, true]);
        assert_eq!(accepts("aa"), [true; 3]);
        assert!(!clauses("x", "aa (>= 2)").unwrap()[0][0].accepts(None), "provided without a version");
    }
}
