//! Reading our TOML files: a mistake is answered with file, line, the line itself and the nearest valid spelling.
//!
//! Whoever finds a mistake in a value that was read, such as a name declared nowhere, says where it stands in terms of keys; only
//! this module turns that into a line. It never guesses a place from the text alone: comments and other tables hold the same words.

use crate::error::{Code, Error, Result};
use serde::de::DeserializeOwned;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A file of ours as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    path: PathBuf,
    text: String,
}

/// Parses `text` of `path` into `T`, whose structs all say `deny_unknown_fields`.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    Source::new(path, text.as_bytes()).parse()
}

impl Source {
    pub fn new(path: &Path, bytes: &[u8]) -> Self {
        Self { path: path.to_owned(), text: String::from_utf8_lossy(bytes).into_owned() }
    }

    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        toml::from_str(&self.text).map_err(|error| {
            let message = error.message();
            let code = match DeTable::parse(&self.text) {
                Err(_) => Code::Syntax,
                Ok(_) if message.starts_with("unknown field") => Code::UnknownKey,
                Ok(_) => Code::WrongValue,
            };
            let it = self.show(code, error.span(), &first_line(message));
            match suggestion(message) {
                Some(near) => it.hint(format!("did you mean `{near}`?")),
                None => it,
            }
        })
    }

    /// An error about what stands at `place`: keys from the top down; in a list, a text's own words or an item's number; in a
    /// text, a part of it. Shown is what of the place can be found.
    pub fn error(&self, code: Code, place: &[&str], message: &str) -> Error {
        let span = DeTable::parse(&self.text).ok().and_then(|document| in_table(document.get_ref(), place, &self.text));
        self.show(code, span, message)
    }

    /// As rustc shows a place: path, line and column, then the line with a mark below.
    fn show(&self, code: Code, span: Option<Range<usize>>, message: &str) -> Error {
        let path = self.path.display();
        let it = Error::new(code, message);
        let Some(span) = span else { return it.excerpt(format!("  --> {path}")).about(path.to_string()) };
        let (line, column, source) = position(&self.text, span.start);
        let place = format!("{path}:{line}:{column}");
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        // Tabs stay, so that the mark stands below what it marks.
        let indent: String = source.chars().take(column - 1).map(|c| if c == '\t' { c } else { ' ' }).collect();
        let marked = self.text.get(span).unwrap_or_default().lines().next().unwrap_or_default();
        let mark = "^".repeat(marked.chars().count().max(1));
        it.excerpt(format!("{margin}--> {place}\n{margin} |\n{number} | {source}\n{margin} | {indent}{mark}"))
            .about(place)
    }
}

fn in_table(table: &DeTable, place: &[&str], text: &str) -> Option<Range<usize>> {
    let (first, rest) = place.split_first()?;
    let (key, value) = table.iter().find(|(key, _)| key.get_ref() == first)?;
    // A whole table would be marked at its first line anyway, so its name is better.
    let own = if value.get_ref().is_table() { key.span() } else { value.span() };
    in_value(value, rest, text).or(Some(own))
}

fn in_value(value: &Spanned<DeValue>, place: &[&str], text: &str) -> Option<Range<usize>> {
    let (first, rest) = place.split_first()?;
    match value.get_ref() {
        DeValue::Table(table) => in_table(table, place, text),
        DeValue::Array(items) => {
            let same = items.iter().find(|item| item.get_ref().as_str() == Some(first));
            let item = same.or_else(|| items.get(first.parse::<usize>().ok()?))?;
            in_value(item, rest, text).or(Some(item.span()))
        }
        DeValue::String(_) => {
            let start = value.span().start + text.get(value.span())?.find(first)?;
            Some(start..start + first.len())
        }
        _ => None,
    }
}

/// 1-based line and column (in characters) of a byte offset, and the line itself.
fn position(text: &str, offset: usize) -> (usize, usize, &str) {
    let before = text.get(..offset.min(text.len())).unwrap_or("");
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before[start..].chars().count() + 1;
    (line, column, text[start..].lines().next().unwrap_or(""))
}

fn first_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// serde words an unknown key as: unknown field `x`, expected one of `a`, `b`.
fn suggestion(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("unknown ")?;
    let mut quoted = rest.split('`').skip(1).step_by(2);
    let wrong = quoted.next()?;
    nearest(wrong, quoted).map(str::to_owned)
}

/// The error with the nearest valid spelling as its hint, where there is one.
pub fn did_you_mean<'a>(error: Error, wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Error {
    match nearest(wrong, candidates) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error,
    }
}

/// The candidate that a typing mistake most likely stands for.
fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&wrong.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Example {
        features: Vec<String>,
        path: String,
    }

    fn check(text: &str, error: impl FnOnce(&Source) -> Error, expect: expect_test::Expect) {
        let source = Source::new(Path::new("xtask.toml"), text.as_bytes());
        expect.assert_eq(&error(&source).render());
    }

    #[test]
    fn a_mistake_is_answered_with_file_line_key_and_the_nearest_spelling() {
        let parsed = |source: &Source| source.parse::<Example>().unwrap_err();
        check(
            "path = \"x\"\n  featurs = []\n",
            parsed,
            expect_test::expect![[r#"
            error[XT0303]: unknown field `featurs`, expected `features` or `path`
             --> xtask.toml:2:3
              |
            2 |   featurs = []
              |   ^^^^^^^
            hint: did you mean `features`?"#]],
        );
        check(
            "path = 3\n",
            parsed,
            expect_test::expect![[r#"
            error[XT0304]: invalid type: integer `3`, expected a string
             --> xtask.toml:1:8
              |
            1 | path = 3
              |        ^"#]],
        );
        check(
            "path = \"x\"\n",
            parsed,
            expect_test::expect![[r#"
            error[XT0304]: missing field `features`
             --> xtask.toml:1:1
              |
            1 | path = "x"
              | ^"#]],
        );
        check(
            "path = \"x\nfeatures = []\n",
            parsed,
            expect_test::expect![[r#"
            error[XT0302]: invalid basic string, expected `"`
             --> xtask.toml:1:10
              |
            1 | path = "x
              |          ^"#]],
        );
        check(
            "features = []\npath = \"x\"\npath = \"y\"\n",
            parsed,
            expect_test::expect![[r#"
            error[XT0302]: duplicate key
             --> xtask.toml:3:1
              |
            3 | path = "y"
              | ^^^^"#]],
        );
        check(
            "features = \"https://me:secret@host/\"\n",
            parsed,
            expect_test::expect![[r#"
            error[XT0304]: invalid type: string "https://*********@host/", expected a sequence
             --> xtask.toml:1:12
              |
            1 | features = "https://*********@host/"
              |            ^^^^^^^^^^^^^^^^^^^^^^^^^"#]],
        );
    }

    #[test]
    fn a_place_is_found_by_its_keys_however_the_file_is_written() {
        let text = "# envoy after router\n[service.envoy]\n\tafter = ['router']\n[service]\nrouter = { list = [{ x = \"{a} {bö}\" }] }\n";
        let at = |place: &'static [&'static str]| move |source: &Source| source.error(Code::Undeclared, place, "it");
        check(
            text,
            at(&["service", "envoy"]),
            expect_test::expect![[r#"
            error[XT0305]: it
             --> xtask.toml:2:10
              |
            2 | [service.envoy]
              |          ^^^^^"#]],
        );
        check(
            text,
            at(&["service", "envoy", "after", "router"]),
            expect_test::expect![[r#"
            error[XT0305]: it
             --> xtask.toml:3:11
              |
            3 | 	after = ['router']
              | 	         ^^^^^^^^"#]],
        );
        check(
            text,
            at(&["service", "router", "list", "0", "x", "{bö}"]),
            expect_test::expect![[r#"
            error[XT0305]: it
             --> xtask.toml:5:31
              |
            5 | router = { list = [{ x = "{a} {bö}" }] }
              |                               ^^^^"#]],
        );
        check(
            text,
            at(&["service", "router", "no", "such"]),
            expect_test::expect![[r#"
            error[XT0305]: it
             --> xtask.toml:5:1
              |
            5 | router = { list = [{ x = "{a} {bö}" }] }
              | ^^^^^^"#]],
        );
        check(
            text,
            at(&["no"]),
            expect_test::expect![[r#"
            error[XT0305]: it
              --> xtask.toml"#]],
        );
        check(
            "no = TOML",
            at(&["no"]),
            expect_test::expect![[r#"
            error[XT0305]: it
              --> xtask.toml"#]],
        );
    }
}
