//! Which language this process speaks, and its texts in the other one.
//!
//! Owns: the decision, the macro [`tr!`] and the catalogue `zh/`. As with gettext the English text in the code is the key, so English
//! needs no catalogue and a text without an entry appears in English; a test sees to it that there is none. The launcher compiles this
//! file too, so it must never need a crate. Rules: `language/mod.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    #[default]
    English,
    Chinese,
}

/// The words of `--lang`.
pub const WORDS: &[(&str, Language)] = &[("en", Language::English), ("zh", Language::Chinese)];

/// English text → Chinese, a file for each room, so that whoever changes a room changes its file.
pub const CATALOGUE: &[(&str, &str)] = &[
    ("cache", include_str!("zh/cache.toml")),
    ("command", include_str!("zh/command.toml")),
    ("doctor", include_str!("zh/doctor.toml")),
    ("document", include_str!("zh/document.toml")),
    ("emit", include_str!("zh/emit.toml")),
    ("engine", include_str!("zh/engine.toml")),
    ("error", include_str!("zh/error.toml")),
    ("execute", include_str!("zh/execute.toml")),
    ("images", include_str!("zh/images.toml")),
    ("launcher", include_str!("zh/launcher.toml")),
    ("mirror", include_str!("zh/mirror.toml")),
    ("probe", include_str!("zh/probe.toml")),
    ("project", include_str!("zh/project.toml")),
    ("report", include_str!("zh/report.toml")),
];

static CHOSEN: OnceLock<Language> = OnceLock::new();

/// Decides for the whole process, before anything is said; the first choice stays. Without one it is English.
pub fn choose(language: Language) {
    CHOSEN.get_or_init(|| language);
}

/// The language of this process.
pub fn current() -> Language {
    CHOSEN.get().copied().unwrap_or_default()
}

/// What the flag `--lang`, its variable and the locale come to, strongest first. A word that is none is passed over: whoever judges
/// the command line tells it, in the language that is left.
pub fn decide(flag: Option<&str>, variable: Option<&str>, locale: Option<&str>) -> Language {
    let known = |word: &str| WORDS.iter().find(|(known, _)| *known == word).map(|(_, language)| *language);
    let said = flag.and_then(known).or_else(|| variable.and_then(known));
    said.or_else(|| locale.map(of_locale)).unwrap_or_default()
}

/// The language of a locale such as `zh_CN.UTF-8`. In another encoding our Chinese would be unreadable.
fn of_locale(locale: &str) -> Language {
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

/// What stands for `english` where this process does not speak English.
pub fn template(english: &str) -> Option<&'static str> {
    static PARSED: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    if current() == Language::English {
        return None;
    }
    let parsed = PARSED.get_or_init(|| CATALOGUE.iter().flat_map(|(_, file)| entries(file)).collect());
    parsed.get(english).map(String::as_str)
}

/// The lines `"english" = "中文"` of a file of the catalogue.
pub fn entries(file: &str) -> impl Iterator<Item = (String, String)> {
    file.lines().filter_map(|line| {
        let (english, rest) = quoted(line)?;
        let (chinese, _) = quoted(rest.trim_start().strip_prefix('=')?.trim_start())?;
        Some((english, chinese))
    })
}

/// A TOML string at the beginning of `text`, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?.chars();
    let mut value = String::new();
    loop {
        match rest.next()? {
            '"' => return Some((value, rest.as_str())),
            '\\' => value.push(match rest.next()? {
                'n' => '\n',
                't' => '\t',
                c => c,
            }),
            c => value.push(c),
        }
    }
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
    fn a_template_takes_its_values_by_name_in_any_order_and_as_they_are() {
        let values: [(&str, &dyn fmt::Display); 2] = [("name", &"{x}"), ("n", &7)];
        assert_eq!(fill("{n} 个 {name}，{{{n}}} 与 }}{{", &values), "7 个 {x}，{7} 与 }{");
        let (name, count) = ("a", 3);
        assert_eq!(crate::tr!("{count} of {name}{{}} {n}", name, count, n = count + 1), "3 of a{} 4");
    }

    #[test]
    fn a_file_is_read_as_toml_reads_it_and_what_is_no_entry_is_passed_over() {
        let file = "# \"no\" = \"entry\"\n\n\"a \\\"{b}\\\"\\n\" = \"中 \\\\ {b}\"  # why\n";
        assert_eq!(entries(file).collect::<Vec<_>>(), [("a \"{b}\"\n".to_owned(), "中 \\ {b}".to_owned())]);
    }
}
