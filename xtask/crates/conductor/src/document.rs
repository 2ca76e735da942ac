//! Reading our TOML files: a mistake is answered with file, line, key and the nearest valid spelling.

use crate::error::{Code, Error, Result};
use serde::de::DeserializeOwned;
use std::path::Path;

/// Parses `text` of `path` into `T`, whose structs all say `deny_unknown_fields`.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| explain(path, text, &error))
}

fn explain(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let message = error.message();
    let (line, column, source) = position(text, error.span().map_or(0, |span| span.start));
    let mut it = Error::new(Code::WrongValue, format!("{}:{line}:{column}: {}", path.display(), first_line(message)));
    if !source.trim().is_empty() {
        let marker = " ".repeat(column.saturating_sub(1));
        it = it.excerpt(format!("  {line:>4} | {source}\n       | {marker}^"));
    }
    match suggestion(message) {
        Some(near) => it.hint(format!("did you mean `{near}`?")),
        None => it,
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

    #[test]
    fn a_mistake_is_answered_with_file_line_key_and_the_nearest_spelling() {
        let error = parse::<Example>(Path::new("xtask.toml"), "path = \"x\"\n  featurs = []\n").unwrap_err();
        expect_test::expect![[r#"
            error[XT0304]: xtask.toml:2:3: unknown field `featurs`, expected `features` or `path`
                 2 |   featurs = []
                   |   ^
            hint: did you mean `features`?"#]]
        .assert_eq(&error.render());
        let error = parse::<Example>(Path::new("xtask.toml"), "path = 3\n").unwrap_err();
        assert!(
            error.render().contains("xtask.toml:1:8: invalid type: integer `3`, expected a string"),
            "{}",
            error.render()
        );
    }
}
