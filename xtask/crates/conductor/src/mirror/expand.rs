//! `${NAME}` and `${NAME:-text}` in the texts of a profile.
//!
//! A text is checked when its file is read, with every variable standing for something plausible, and expanded when its
//! profile is chosen: a profile that nobody uses may name variables that nobody set. A text that ends up empty says
//! nothing: it leaves its list. Grammar: the shell's, of which only these two forms exist here.

use super::endpoint::InvalidUrl;
use crate::tr;
use std::collections::BTreeMap;

pub type Variables = BTreeMap<String, String>;

/// Why a text of a profile has no value here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unexpanded {
    #[error("{}", tr!("`{name}` is not set", name = .0))]
    Unset(String),
    #[error("{}", tr!("`${{` begins a variable as `${{NAME}}` or `${{NAME:-text}}`"))]
    Malformed,
    /// What the variables hold does not make a value.
    #[error("{}", tr!("with its variables put in, {error}", error = .0))]
    Url(#[from] InvalidUrl),
    #[error("{}", tr!("with its variables put in, {error}", error = .0))]
    Text(String),
}

/// A value whose texts may hold variables. `None`: it says nothing here.
pub trait Expand: Sized {
    fn expand(self, variables: &Variables) -> Result<Option<Self>, Unexpanded>;
}

impl<T: Expand> Expand for Vec<T> {
    fn expand(self, variables: &Variables) -> Result<Option<Self>, Unexpanded> {
        self.into_iter().filter_map(|it| it.expand(variables).transpose()).collect::<Result<_, _>>().map(Some)
    }
}

impl<K: Ord, T: Expand> Expand for BTreeMap<K, T> {
    fn expand(self, variables: &Variables) -> Result<Option<Self>, Unexpanded> {
        let entry = |(key, it): (K, T)| it.expand(variables).map(|it| it.map(|it| (key, it))).transpose();
        self.into_iter().filter_map(entry).collect::<Result<_, _>>().map(Some)
    }
}

impl Expand for String {
    fn expand(self, variables: &Variables) -> Result<Option<Self>, Unexpanded> {
        text(&self, variables).map(|text| Some(text).filter(|text| !text.is_empty()))
    }
}

/// `text` with every variable replaced; an unset one, or an empty one, by the text after its `:-`.
pub fn text(text: &str, variables: &Variables) -> Result<String, Unexpanded> {
    replaced(text, |name, otherwise| {
        let value = variables.get(name).filter(|value| !value.is_empty()).map(String::as_str);
        value.or(otherwise).map(str::to_owned).ok_or_else(|| Unexpanded::Unset(name.to_owned()))
    })
}

/// `text` with something in the place of every variable that lets the rest of it be checked: a URL's beginning where a URL
/// may begin, a word elsewhere.
pub fn plausible(text: &str) -> Result<String, Unexpanded> {
    let scheme = if text.trim_start_matches("sparse+").starts_with("${") { "https://" } else { "" };
    let mut first = true;
    replaced(text, |_, _| {
        Ok(if std::mem::take(&mut first) { format!("{scheme}variable") } else { "variable".to_owned() })
    })
}

fn replaced(
    text: &str,
    mut value: impl FnMut(&str, Option<&str>) -> Result<String, Unexpanded>,
) -> Result<String, Unexpanded> {
    let mut parts = text.split("${");
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (inner, rest) = part.split_once('}').ok_or(Unexpanded::Malformed)?;
        let (name, otherwise) = inner.split_once(":-").map_or((inner, None), |(name, text)| (name, Some(text)));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !name.bytes().all(plain) || name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(Unexpanded::Malformed);
        }
        whole = whole + &value(name, otherwise)? + rest;
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_replaced_and_what_is_neither_is_refused() {
        let variables = Variables::from([("A".to_owned(), "a".to_owned()), ("EMPTY".to_owned(), String::new())]);
        let check = |written: &str, expected: Result<&str, Unexpanded>| {
            assert_eq!(text(written, &variables), expected.map(str::to_owned), "{written}");
        };
        check("x/${A}/${B:-b}/${EMPTY:-}$", Ok("x/a/b/$"));
        check("${B}", Err(Unexpanded::Unset("B".into())));
        check("${EMPTY}", Err(Unexpanded::Unset("EMPTY".into())));
        for malformed in ["${A", "${}", "${1A}", "${A-b}", "${A:-${B}}"] {
            check(malformed, Err(Unexpanded::Malformed));
        }
    }

    #[test]
    fn a_text_that_ends_up_empty_leaves_its_list() {
        let list = vec!["${A:-}".to_owned(), "b".to_owned()];
        assert_eq!(list.expand(&Variables::new()), Ok(Some(vec!["b".to_owned()])));
    }
}
