//! Names that are nobody else's business: asked of their own places only, never of a public list.
//! What a pattern covers is said in one place for this side and the gateway: [`covers`].

use super::endpoint::{MirrorUrl, deserialize_text};
use super::expand::{Expand, Unexpanded, Variables};
use super::profile::Ecosystem;
use crate::tr;
use protocol::names::covers;
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
            return Err(tr!(
                "`{text}` holds `{wrong}`: a pattern is a name in which `*` stands for any characters",
                text,
                wrong
            ));
        }
        if !text.contains(char::is_alphanumeric) {
            return Err(tr!("`{text}` would make every name private: name the organisation", text));
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

    pub fn matches(&self, ecosystem: Ecosystem, name: &str) -> bool {
        ecosystem.protocol().is_some_and(|ecosystem| covers(ecosystem, &self.0, name))
    }
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
