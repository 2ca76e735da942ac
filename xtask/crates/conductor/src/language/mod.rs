//! What a person reads, in English or Chinese.
//!
//! Owns: which language this process speaks, the macro [`tr!`] and the catalogue `zh/`. As with gettext the English text in the code
//! is the key, so English needs no catalogue and a text without an entry appears in English; a test sees to it that there is none.
//! Never: translate codes, flags, paths, JSON, a log, or anything that is compared, hashed or sent to another program.

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    English,
    Chinese,
}

/// The words of `--lang`.
pub const WORDS: &[(&str, Language)] = &[("en", Language::English), ("zh", Language::Chinese)];

/// English text → Chinese, a file for each room of the conductor, so that whoever changes a room changes its file.
pub const CATALOGUE: &[(&str, &str)] = &[
    ("cache", include_str!("zh/cache.toml")),
    ("command", include_str!("zh/command.toml")),
    ("doctor", include_str!("zh/doctor.toml")),
    ("document", include_str!("zh/document.toml")),
    ("error", include_str!("zh/error.toml")),
    ("execute", include_str!("zh/execute.toml")),
    ("mirror", include_str!("zh/mirror.toml")),
    ("probe", include_str!("zh/probe.toml")),
    ("project", include_str!("zh/project.toml")),
    ("report", include_str!("zh/report.toml")),
];

/// What clap, serde and the parser of TOML say of a mistake, as templates of their own texts.
pub const FOREIGN: &str = include_str!("zh/foreign.toml");

/// The page of error codes in Chinese, which `explain` prints by sections.
pub const ERRORS: &str = include_str!("zh/errors.md");

static CHOSEN: OnceLock<Language> = OnceLock::new();

/// Decides for the whole process, before anything is said; the first choice stays. Without one it is English.
pub fn choose(language: Language) {
    CHOSEN.get_or_init(|| language);
}

/// The language of a locale such as `zh_CN.UTF-8`. In another encoding our Chinese would be unreadable.
pub fn of_locale(locale: &str) -> Language {
    let (name, encoding) = locale.split_once('.').unwrap_or((locale, "UTF-8"));
    let utf8 = encoding.split('@').next().is_some_and(|it| matches!(&*it.to_ascii_lowercase(), "utf-8" | "utf8"));
    let language = name.split(['_', '-', '@']).next();
    if utf8 && language == Some("zh") { Language::Chinese } else { Language::English }
}

/// The text for a person, as a `String`: `tr!("there is no target `{name}`; xtask.toml declares {known}", name, known = names.join(", "))`.
///
/// Every placeholder has a name and is listed; a format such as `{:.1}` belongs into the value: `x = format_args!("{x:.1}")`.
#[macro_export]
macro_rules! tr {
    ($english:literal $(, $name:ident $(= $value:expr)?)* $(,)?) => {
        match $crate::language::template($english) {
            // `concat!` forbids the format string to capture what is not listed.
            None => format!(concat!($english) $(, $name = $crate::tr!(@ $name $($value)?))*),
            Some(template) => $crate::language::fill(
                template,
                &[$((stringify!($name), &$crate::tr!(@ $name $($value)?) as &dyn std::fmt::Display)),*],
            ),
        }
    };
    (@ $name:ident) => { $name };
    (@ $name:ident $value:expr) => { $value };
}

/// A fixed text that the code keeps in a table, in the language of this process.
pub fn translated(english: &str) -> &str {
    template(english).unwrap_or(english)
}

/// What stands for `english` where this process does not speak English.
pub fn template(english: &str) -> Option<&'static str> {
    static PARSED: OnceLock<HashMap<String, String>> = OnceLock::new();
    if !is_chinese() {
        return None;
    }
    PARSED
        .get_or_init(|| CATALOGUE.iter().flat_map(|(_, text)| parsed(text)).collect())
        .get(english)
        .map(String::as_str)
}

fn is_chinese() -> bool {
    CHOSEN.get() == Some(&Language::Chinese)
}

/// A file that cannot be parsed leaves English; a test parses each.
fn parsed(text: &str) -> HashMap<String, String> {
    toml::from_str(text).unwrap_or_default()
}

/// A library's text about a mistake, translated if it is one that we know. The template with the most letters of its own fits best.
pub fn foreign(text: &str) -> String {
    if !is_chinese() {
        return text.to_owned();
    }
    let entries = parsed(FOREIGN);
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
    let (title, text) = section.filter(|_| is_chinese())?.split_once('\n')?;
    Some((title, text.trim()))
}

/// `template` with every `{name}` replaced; `{{` and `}}` are braces.
pub fn fill(template: &str, values: &[(&str, &dyn fmt::Display)]) -> String {
    let mut text = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            text.push_str(brace);
            rest = after;
        } else if let Some((name, after)) = rest.split_once('}') {
            if let Some((_, value)) = values.iter().find(|(known, _)| *known == name) {
                text.push_str(&value.to_string());
            }
            rest = after;
        }
    }
    text + rest
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
    fn a_locale_is_chinese_by_its_language_and_readable_by_its_encoding() {
        for locale in ["zh", "zh_CN.UTF-8", "zh_TW.utf8", "zh_CN", "zh-Hans", "zh_CN.UTF-8@pinyin"] {
            assert_eq!(of_locale(locale), Language::Chinese, "{locale}");
        }
        for locale in ["", "C", "C.UTF-8", "POSIX", "en_US.UTF-8", "zh_CN.GB18030", "zh_TW.Big5", "zhx"] {
            assert_eq!(of_locale(locale), Language::English, "{locale}");
        }
    }

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

    #[test]
    fn a_template_takes_its_values_by_name_in_any_order_and_as_they_are() {
        let values: [(&str, &dyn fmt::Display); 2] = [("name", &"{x}"), ("n", &7)];
        assert_eq!(fill("{n} 个 {name}，{{{n}}} 与 }}{{", &values), "7 个 {x}，{7} 与 }{");
        let (name, count) = ("a", 3);
        assert_eq!(crate::tr!("{count} of {name}{{}} {n}", name, count, n = count + 1), "3 of a{} 4");
    }
}
