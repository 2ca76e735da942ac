//! Reading our TOML files: a mistake is answered with file, line, the line itself and the nearest valid spelling.
//!
//! Whoever finds a mistake in a value that was read, such as a name declared nowhere, says where it stands in terms of keys; only
//! this module turns that into a line. It never guesses a place from the text alone: comments and other tables hold the same words.

use crate::error::{Code, Error, Result};
use crate::language::{columns, columns_of, foreign};
use crate::tr;
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
    /// Offset of the first byte that is no UTF-8.
    broken: Option<usize>,
}

/// Parses `text` of `path` into `T`, whose structs all say `deny_unknown_fields`.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    Source::new(path, text.as_bytes()).parse()
}

impl Source {
    pub fn new(path: &Path, bytes: &[u8]) -> Self {
        let broken = std::str::from_utf8(bytes).err().map(|error| error.valid_up_to());
        Self { path: path.to_owned(), text: String::from_utf8_lossy(bytes).into_owned(), broken }
    }

    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        if let Some(offset) = self.broken {
            let error = self.show(Code::Syntax, Some(offset..offset + 1), &tr!("this is not UTF-8"));
            return Err(error.hint(tr!("save the file as UTF-8")));
        }
        toml::from_str(&self.text).map_err(|error| {
            let message = error.message();
            let code = match DeTable::parse(&self.text) {
                Err(_) => Code::Syntax,
                Ok(_) if message.starts_with("unknown field") => Code::UnknownKey,
                Ok(_) => Code::WrongValue,
            };
            let it = self.show(code, error.span(), &foreign(&first_line(message)));
            match suggestion(message).map(|near| tr!("did you mean `{near}`?", near)).or_else(|| remedy(message)) {
                Some(hint) => it.hint(hint),
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
        let before = source.chars().take(column - 1);
        let indent: String = before.map(|c| if c == '\t' { "\t" } else { &"  "[..columns_of(c)] }).collect();
        let marked = self.text.get(span).unwrap_or_default().lines().next().unwrap_or_default();
        let mark = "^".repeat(columns(marked).max(1));
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

/// What to write instead, in TOML's words where serde's and the parser's are Rust's.
fn remedy(message: &str) -> Option<String> {
    let line = message.lines().next()?;
    if let Some(field) = line.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return Some(match field {
            "project" => tr!("add two lines: [project], and below it name = \"…\""),
            _ => tr!("add `{field} = …` to this table", field),
        });
    }
    let wanted = line.rsplit_once(", expected ").map(|(_, wanted)| wanted);
    let hint = match (line, wanted) {
        // Other tools' word for it; lists of different files join by themselves.
        (line, _) if line.starts_with("unknown field `extends`") => {
            tr!("nothing extends: a table such as [mirror.cn.go] replaces that part of a profile, and the rest stays")
        }
        ("duplicate key", _) => tr!("keep one of the two"),
        (_, Some("u16")) => tr!("write a port: a whole number, 1 to 65535, without quotes"),
        (_, Some("u32" | "u64" | "usize")) => tr!("write a whole number, without quotes"),
        (_, Some("a string")) => tr!("write a text, in quotes: \"…\""),
        (_, Some("a sequence")) => tr!("write a list: [\"…\"]"),
        (_, Some("a boolean")) => tr!("write true or false, without quotes"),
        (_, Some("a map")) => tr!("write a table: {{ key = … }}, or a [header] with keys below it"),
        (_, Some(wanted)) if wanted.starts_with("struct ") => {
            tr!("write a table: {{ key = … }}, or a [header] with keys below it")
        }
        // What the parser takes a bare word for.
        (line, _)
            if ["boolean", "string", "float", "integer"]
                .iter()
                .any(|it| line.starts_with(&format!("invalid {it}, "))) =>
        {
            tr!("a text needs quotes: \"…\"")
        }
        (line, _) if line.starts_with("string values must be quoted") => tr!("a text needs quotes: \"…\""),
        (line, _) if line.starts_with("invalid basic string") => tr!("close the text with a quote"),
        (line, _) if line.starts_with("key with no value") => tr!("write `key = value`"),
        _ => return None,
    };
    Some(hint)
}

/// The error with the nearest valid spelling as its hint, where there is one.
pub fn did_you_mean<'a>(error: Error, wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Error {
    match nearest(wrong, candidates) {
        Some(near) => error.hint(tr!("did you mean `{near}`?", near)),
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
                  |        ^
                hint: write a text, in quotes: "…""#]],
        );
        check(
            "path = \"x\"\n",
            parsed,
            expect_test::expect![[r#"
                error[XT0304]: missing field `features`
                 --> xtask.toml:1:1
                  |
                1 | path = "x"
                  | ^
                hint: add `features = …` to this table"#]],
        );
        check(
            "path = \"x\nfeatures = []\n",
            parsed,
            expect_test::expect![[r#"
                error[XT0302]: invalid basic string, expected `"`
                 --> xtask.toml:1:10
                  |
                1 | path = "x
                  |          ^
                hint: close the text with a quote"#]],
        );
        check(
            "features = []\npath = \"x\"\npath = \"y\"\n",
            parsed,
            expect_test::expect![[r#"
                error[XT0302]: duplicate key
                 --> xtask.toml:3:1
                  |
                3 | path = "y"
                  | ^^^^
                hint: keep one of the two"#]],
        );
        check(
            "features = \"https://me:secret@host/\"\n",
            parsed,
            expect_test::expect![[r#"
                error[XT0304]: invalid type: string "https://*********@host/", expected a sequence
                 --> xtask.toml:1:12
                  |
                1 | features = "https://*********@host/"
                  |            ^^^^^^^^^^^^^^^^^^^^^^^^^
                hint: write a list: ["…"]"#]],
        );
    }

    #[test]
    fn each_usual_mistake_is_answered_with_what_to_write() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only parsed")]
        struct All {
            text: Option<String>,
            list: Option<Vec<String>>,
            flag: Option<bool>,
            port: Option<u16>,
            days: Option<u64>,
            table: Option<Example>,
        }
        for (text, hint) in [
            ("text = 3", "write a text, in quotes: \"…\""),
            ("text = fixture", "a text needs quotes: \"…\""),
            ("text = x.y", "a text needs quotes: \"…\""),
            ("text = 'a'\ntext = 'b'", "keep one of the two"),
            ("text = \"a", "close the text with a quote"),
            ("garbage", "write `key = value`"),
            ("list = 'a'", "write a list: [\"…\"]"),
            ("flag = 'yes'", "write true or false, without quotes"),
            ("port = 'eight'", "write a port: a whole number, 1 to 65535, without quotes"),
            ("port = 99999", "write a port: a whole number, 1 to 65535, without quotes"),
            ("days = -1", "write a whole number, without quotes"),
            ("table = 1", "write a table: { key = … }, or a [header] with keys below it"),
            ("table = {}", "add `features = …` to this table"),
            (
                "extends = 'cn'",
                "nothing extends: a table such as [mirror.cn.go] replaces that part of a profile, and the rest stays",
            ),
        ] {
            let error = parse::<All>(Path::new("x.toml"), text).unwrap_err();
            assert_eq!(error.hints(), [hint], "{}", error.render());
        }
        let error = Source::new(Path::new("x.toml"), b"text = 'a'\nlist = ['\xff']").parse::<All>().unwrap_err();
        assert_eq!((error.code(), error.subject()), (Code::Syntax, Some("x.toml:2:10")), "{}", error.render());
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
