//! What a person reads, in English or Chinese.
//!
//! Owns: the rule for all rooms. Whatever is written for a person goes through [`tr!`](crate::tr) (see `text.rs`); codes, flags, paths,
//! JSON, logs, and all that is compared, hashed or sent to another program never do. Here stands what only the conductor needs: the
//! page of codes, what libraries say, and how wide a text is.

mod text;

pub use text::{CATALOGUE, Language, WORDS, choose, current, decide, entries, fill, template};

use std::fmt;

/// What clap, serde and the parser of TOML say of a mistake, as templates of their own texts.
pub const FOREIGN: &str = include_str!("zh/foreign.toml");

/// The page of error codes in Chinese, which `explain` prints by sections.
pub const ERRORS: &str = include_str!("zh/errors.md");

/// A fixed text that the code keeps in a table, in the language of this process.
pub fn translated(english: &str) -> &str {
    template(english).unwrap_or(english)
}

/// A library's text about a mistake, translated if it is one that we know. The template with the most letters of its own fits best.
pub fn foreign(text: &str) -> String {
    if current() == Language::English {
        return text.to_owned();
    }
    let entries: Vec<_> = entries(FOREIGN).collect();
    let fitting = entries.iter().filter_map(|(template, chinese)| Some((template, chinese, values(template, text)?)));
    let letters = |template: &str, values: &[(&str, &str)]| {
        template.len() - values.iter().map(|(name, _)| name.len() + 2).sum::<usize>()
    };
    match fitting.max_by_key(|(template, _, values)| letters(template, values)) {
        Some((_, chinese, values)) => {
            let shown: Vec<_> = values.iter().map(|(name, value)| (*name, value as &dyn fmt::Display)).collect();
            fill(chinese, &shown)
        }
        None => text.to_owned(),
    }
}

/// What stands in `text` for each placeholder of `template`; nothing if `text` is none of it.
fn values<'a>(template: &'a str, text: &'a str) -> Option<Vec<(&'a str, &'a str)>> {
    let (start, mut template) = template.split_once('{').unwrap_or((template, ""));
    let mut text = text.strip_prefix(start)?;
    let mut values = Vec::new();
    while let Some((name, after)) = template.split_once('}') {
        let (between, rest) = after.split_once('{').unwrap_or((after, ""));
        let (value, left) = if rest.is_empty() { (text.strip_suffix(between)?, "") } else { text.split_once(between)? };
        values.push((name, value));
        (text, template) = (left, rest);
    }
    text.is_empty().then_some(values)
}

/// Title and explanation of an error's code where this process does not speak English.
pub fn explanation(id: &str) -> Option<(&'static str, &'static str)> {
    let section = ERRORS.split("\n## ").find_map(|section| section.strip_prefix(id)?.strip_prefix('：'));
    let (title, text) = section.filter(|_| current() == Language::Chinese)?.split_once('\n')?;
    Some((title, text.trim()))
}

/// How wide a terminal shows `text`, in columns.
pub fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// Two for what East Asian scripts and their punctuation take, as Unicode's East Asian Width has them (UAX #11), one for the rest.
pub fn columns_of(c: char) -> usize {
    let wide = matches!(c, '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe4f}' | '\u{ff00}'..='\u{ff60}' | '\u{ffe0}'..='\u{ffe6}' | '\u{20000}'..='\u{3fffd}');
    if wide { 2 } else { 1 }
}

/// `text` with blanks before it up to a width of `width` columns.
pub fn right_aligned(text: &str, width: usize) -> String {
    " ".repeat(width.saturating_sub(columns(text))) + text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chinese_letters_and_their_punctuation_are_two_columns_wide() {
        assert_eq!(["", "abc", "ä…“", "完成", "（x）：", "カ한"].map(columns), [0, 3, 3, 4, 7, 4]);
        assert_eq!(right_aligned("完成", 6), "  完成");
        assert_eq!(right_aligned("too long", 3), "too long");
    }

    #[test]
    fn a_template_gives_back_its_values() {
        let fits = |template, text| {
            values(template, text).map(|values| values.into_iter().map(|(_, it)| it).collect::<Vec<_>>())
        };
        assert_eq!(fits("no '{a}' in {b}", "no 'x' in y z"), Some(vec!["x", "y z"]));
        assert_eq!(fits("{a} ends", "it ends"), Some(vec!["it"]));
        assert_eq!(fits("whole", "whole"), Some(Vec::new()));
        for (template, text) in [("no '{a}' in {b}", "no x"), ("{a} ends", "it does"), ("whole", "whole more")] {
            assert_eq!(fits(template, text), None, "{template}");
        }
    }
}
