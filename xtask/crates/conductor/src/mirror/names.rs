//! Names that are nobody else's business: asked of their own places only, never of a public list.
//!
//! `*` is any run of characters; for Go modules the patterns mean what they mean in `GOPRIVATE`: they match a path from its
//! beginning, element by element. Source: `go help module-private`, `golang.org/x/mod/module.MatchPrefixPatterns`.

use super::endpoint::{MirrorUrl, deserialize_text};
use super::expand::{Expand, Unexpanded, Variables};
use super::profile::Ecosystem;
use serde::{Deserialize, Serialize};

/// `{ names = ["corp-*"], list = ["https://…"] }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Private {
    pub names: Vec<Pattern>,
    /// Empty: asked of nobody.
    #[serde(default)]
    pub list: Vec<MirrorUrl>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(with = "String"))]
pub struct Pattern(String);

deserialize_text!(Pattern);

impl TryFrom<String> for Pattern {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if let Some(wrong) = text.chars().find(|c| c.is_whitespace() || matches!(c, ',' | '[' | ']' | '\\' | '?')) {
            return Err(format!(
                "`{text}` holds `{wrong}`: a pattern is a name in which `*` stands for any characters"
            ));
        }
        if !text.contains(char::is_alphanumeric) {
            return Err(format!("`{text}` would make every name private: name the organisation"));
        }
        Ok(Self(text))
    }
}

impl Private {
    pub fn holds(&self, ecosystem: Ecosystem, name: &str) -> bool {
        self.names.iter().any(|pattern| pattern.matches(ecosystem, name))
    }
}

impl Pattern {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this pattern covers `name` as its ecosystem compares names: Python's are normalised (PEP 503), cargo takes
    /// `-` and `_` for the same, hub and npm names are compared without case.
    pub fn matches(&self, ecosystem: Ecosystem, name: &str) -> bool {
        match ecosystem {
            Ecosystem::Go => {
                let pattern = self.0.trim_end_matches('/');
                let elements = pattern.matches('/').count() + 1;
                let prefix: Vec<&str> = name.split('/').take(elements).collect();
                prefix.len() == elements
                    && pattern
                        .split('/')
                        .zip(prefix)
                        .all(|(pattern, element)| covers(pattern.as_bytes(), element.as_bytes()))
            }
            Ecosystem::Python => covers(normalised(&self.0).as_bytes(), normalised(name).as_bytes()),
            Ecosystem::Crates => {
                let same = |name: &str| name.to_lowercase().replace('_', "-");
                covers(same(&self.0).as_bytes(), same(name).as_bytes())
            }
            _ => covers(self.0.to_lowercase().as_bytes(), name.to_lowercase().as_bytes()),
        }
    }
}

/// `*` in `pattern` is any run of bytes. Linear in practice: only the last `*` is ever tried again.
fn covers(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut position, mut again) = (0, 0, None);
    while position < name.len() {
        if pattern.get(at) == Some(&b'*') {
            again = Some((at + 1, position));
            at += 1;
        } else if pattern.get(at) == Some(&name[position]) {
            (at, position) = (at + 1, position + 1);
        } else if let Some((star, from)) = again {
            (at, position, again) = (star, from + 1, Some((star, from + 1)));
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// Source: PEP 503, "Normalized Names".
fn normalised(name: &str) -> String {
    let mut normalised = String::with_capacity(name.len());
    for c in name.chars().flat_map(char::to_lowercase) {
        match c {
            '-' | '_' | '.' if normalised.ends_with('-') => {}
            '-' | '_' | '.' => normalised.push('-'),
            c => normalised.push(c),
        }
    }
    normalised
}

impl Expand for Pattern {
    fn expand(self, variables: &Variables) -> Result<Option<Self>, Unexpanded> {
        let Some(text) = self.0.expand(variables)? else { return Ok(None) };
        Self::try_from(text).map(Some).map_err(Unexpanded::Text)
    }
}

impl Expand for Private {
    fn expand(self, variables: &Variables) -> Result<Option<Self>, Unexpanded> {
        let names = self.names.expand(variables)?.unwrap_or_default();
        let list = self.list.expand(variables)?.unwrap_or_default();
        Ok(Some(Self { names, list }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Ecosystem::{Crates, Go, Npm, Python};

    #[track_caller]
    fn check(ecosystem: Ecosystem, pattern: &str, private: &[&str], public: &[&str]) {
        let pattern = Pattern::try_from(pattern.to_owned()).unwrap();
        for (names, expected) in [(private, true), (public, false)] {
            for name in names {
                assert_eq!(pattern.matches(ecosystem, name), expected, "{pattern:?} {name}");
            }
        }
    }

    #[test]
    fn a_name_is_compared_as_its_ecosystem_compares_names() {
        check(Python, "Corp_*", &["corp-a", "corp.a-b", "CORP__x"], &["corp", "acorp-a", "corpus"]);
        check(Crates, "corp-*-sys", &["corp-a-sys", "corp_a_b_sys"], &["corp-sys", "corp-a-sys2"]);
        check(Npm, "@corp/*", &["@corp/a", "@Corp/a-b"], &["@corp", "@corpus/a", "a"]);
        check(Npm, "*corp*x", &["corpx", "acorpcorpxx"], &["corp", "cox"]);
    }

    #[test]
    fn go_patterns_match_a_path_from_its_beginning_by_whole_elements() {
        check(
            Go,
            "corp.example/team",
            &["corp.example/team", "corp.example/team/a/b"],
            &["corp.example/teams", "corp.example"],
        );
        check(Go, "*.corp.example", &["git.corp.example/x"], &["corp.example/x", "x/git.corp.example"]);
        check(Go, "github.com/corp-*/", &["github.com/corp-a/b"], &["github.com/corp", "github.com/a/corp-b"]);
    }

    #[test]
    fn a_pattern_that_names_nothing_or_uses_another_grammar_is_refused() {
        for wrong in ["*", "", "**/*", "a,b", "a b", "corp[ab]", "corp?"] {
            assert!(Pattern::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
