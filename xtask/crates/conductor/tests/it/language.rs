//! English and Chinese, held against each other and against the program.
//!
//! Owns: that the catalogue is complete and holds nothing else, who decides the language, and that a program never notices it.
//! Never: judge the Chinese, which only a reader can. Rules: `language/mod.rs`.

use crate::cli::{Ended, Project, redacted};
use crate::tidy::{conductor_sources, without_tests};
use crate::{read, repository_files};
use conductor::code::{Code, ExitCode};
use conductor::language;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// What stands before a text that a person reads in their language. (That its values are listed, the compiler checks.)
const MARKS: &[&str] = &["tr!(", "disk("];

/// The conductor and the launcher, tests excluded.
fn sources() -> Vec<(PathBuf, String)> {
    let launcher = repository_files().into_iter().filter(|file| file.starts_with("xtask/src"));
    let launcher = launcher.map(|file| (file.clone(), without_tests(&read(&file))));
    conductor_sources().into_iter().chain(launcher).collect()
}

/// English text → the files that have it.
fn texts() -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::<String, Vec<String>>::new();
    for (file, code) in sources().into_iter().filter(|(file, _)| !file.starts_with("language")) {
        for mark in MARKS {
            for text in literals(&code, mark) {
                found.entry(text).or_default().push(file.display().to_string());
            }
        }
    }
    assert!(found.len() > 20, "the texts were not found");
    found
}

/// What the gateway says, of which its fixed sentences are translated on our side; why an upstream failed it says as data.
fn gateway_sources() -> String {
    let gateway = "xtask/crates/gateway/src";
    repository_files().iter().filter(|file| file.starts_with(gateway)).map(|file| without_tests(&read(file))).collect()
}

/// The literals that follow `mark`, as the program has them.
fn literals(code: &str, mark: &str) -> Vec<String> {
    let is_word = |at: usize| code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let found = code.match_indices(mark).filter(|(at, _)| !is_word(*at));
    found.filter_map(|(at, _)| literal(&code[at + mark.len()..])).collect()
}

/// The literal that `code` begins with.
fn literal(code: &str) -> Option<String> {
    let rest = code.trim_start().strip_prefix('"')?;
    let mut escaped = false;
    let end = rest.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    Some(unescaped(&rest[..end?]))
}

fn unescaped(literal: &str) -> String {
    let mut text = String::new();
    let mut rest = literal.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' => match rest.next().unwrap() {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                '\n' => while rest.next_if(|c| c.is_whitespace()).is_some() {},
                c @ ('"' | '\\') => text.push(c),
                c => text.extend(['\\', c]),
            },
            c => text.push(c),
        }
    }
    text
}

/// Names between single braces.
fn placeholders(template: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    let mut rest = template;
    while let Some((_, after)) = rest.split_once('{') {
        rest = match after.strip_prefix('{') {
            Some(after) => after,
            None => {
                let (name, after) = after.split_once('}').unwrap_or_else(|| panic!("an open brace in {template:?}"));
                let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
                assert!(plain, "`{{{name}}}` in {template:?}: a placeholder is a name");
                names.insert(name);
                after
            }
        };
    }
    names
}

/// Letters or punctuation: `（{x}）` is a translation of `({x})`.
fn is_chinese(text: &str) -> bool {
    text.chars().any(|c| language::columns_of(c) == 2)
}

#[test]
fn every_text_has_one_translation_with_the_same_values_and_no_translation_is_left_over() {
    let texts = texts();
    let mut translations = BTreeMap::<String, String>::new();
    for (room, file) in language::CATALOGUE {
        let entries: BTreeMap<String, String> = toml::from_str(file).unwrap_or_else(|error| panic!("{room}: {error}"));
        assert_eq!(language::entries(file).collect::<BTreeMap<_, _>>(), entries, "{room}: read otherwise than TOML");
        for (english, chinese) in entries {
            assert!(is_chinese(&chinese), "{room}: {english:?} is not translated");
            assert_eq!(placeholders(&english), placeholders(&chinese), "{room}: {english:?}");
            assert!(translations.insert(english.clone(), chinese).is_none(), "{room}: {english:?} is there twice");
        }
    }
    let missing = texts.iter().filter(|(text, _)| !translations.contains_key(*text));
    let missing: Vec<String> = missing.map(|(text, files)| format!("{text:?} = \"\" # {files:?}")).collect();
    assert!(missing.is_empty(), "to be added in xtask/crates/conductor/src/language/zh:\n{}", missing.join("\n"));
    let gateway = gateway_sources();
    // A table of fixed texts says them through `translated`.
    let tables: String = sources().into_iter().map(|(_, code)| code).collect();
    let said = |text: &String| {
        texts.contains_key(text) || [&tables, &gateway].iter().any(|it| it.contains(&format!("{text:?}")))
    };
    let unused: Vec<_> = translations.keys().filter(|text| !said(text)).collect();
    assert!(unused.is_empty(), "nothing says any more: {unused:#?}");
}

/// What a failure is built of; a command as it can be typed needs no translation.
#[test]
fn no_text_of_a_failure_passes_the_macro_by() {
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        let marks = ["hint(", "hint(format!(", "bug(", "bug(format!(", "context(", "note(", "because("];
        let mut texts: Vec<String> = marks.iter().flat_map(|mark| literals(&code, mark)).collect();
        let built = code.split("Error::new(").skip(1).filter_map(|rest| Some(rest.split_once(',')?.1));
        texts.extend(built.filter_map(|rest| literal(rest.trim_start().trim_start_matches("format!("))));
        let commands = ["cargo xtask ", "apt-get ", "{"];
        let is_prose = |text: &String| text.contains(' ') && !commands.iter().any(|start| text.starts_with(start));
        wrong.extend(texts.into_iter().filter(is_prose).map(|text| format!("{}: {text:?}", file.display())));
    }
    assert!(wrong.is_empty(), "write tr!(…):\n{}", wrong.join("\n"));
}

#[test]
fn a_word_at_the_margin_has_at_most_twelve_columns_in_both_languages() {
    let marks =
        ["right_aligned(&tr!(", "Tone::Good, &tr!(", "Tone::Bad, &tr!(", "Tone::Warning, &tr!(", "Tone::Dim, &tr!("];
    let entries: BTreeMap<_, _> = language::CATALOGUE.iter().flat_map(|(_, file)| language::entries(file)).collect();
    let code: String = conductor_sources().into_iter().map(|(_, code)| code).collect();
    let words: BTreeSet<String> = marks.iter().flat_map(|mark| literals(&code, mark)).collect();
    assert!(words.len() > 10, "the words were not found: {words:?}");
    for word in words {
        let widths = [&word, &entries[&word]].map(|text| language::columns(text));
        assert!(widths.iter().all(|width| *width <= 12), "{word}: {widths:?}");
    }
}

#[test]
fn texts_are_found_however_they_are_written() {
    let code = "x(tr!(\"a \\\"{n}\\\" \\\n      b\", n = 1)); tr!(\n  \"c\"\n); Error::disk(\"d\", p); shdisk(\"no\"); disk(e);";
    assert_eq!(literals(code, "tr!("), ["a \"{n}\" b", "c"]);
    assert_eq!(literals(code, "disk("), ["d"]);
    assert!(!without_tests("x\n#[cfg(test)]\nmod tests {\n tr!(\"t\")").contains("tr!"));
}

/// The project of the other tests with a lock file that cannot be read, so that we have something to say.
fn broken() -> Project {
    let project = Project::new();
    std::fs::create_dir(project.folder.0.join("xtask.lock")).unwrap();
    project
}

/// What stands between single backquotes: names, commands, files.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_code_is_explained_in_both_languages_with_the_same_commands_and_names() {
    let project = Project::new();
    for code in Code::ALL {
        let ended = project.run(&format!("explain {} --lang zh", code.id()));
        assert_eq!(ended.exit, 0, "{}", ended.stderr);
        let (title, text) = ended.stdout.split_once("\n\n").unwrap();
        let exit = code.exit() as i32;
        assert!(
            title.starts_with(&format!("{}：", code.id())) && title.ends_with(&format!("（退出码 {exit}）")),
            "{title}"
        );
        assert!(is_chinese(title.rsplit_once('（').unwrap().0), "{title}");
        for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.starts_with("    ")) {
            assert!(is_chinese(paragraph), "{}: {paragraph}", code.id());
        }
        assert_eq!(quoted(text), quoted(code.explanation()), "{}", code.id());
        let examples = |text: &str| text.lines().filter(|line| line.starts_with("    ")).count();
        assert_eq!(examples(text), examples(code.explanation()), "{}", code.id());
    }
    let sections = language::ERRORS.split("\n## XT").skip(1).map(|section| format!("XT{}", &section[..4]));
    assert!(sections.eq(Code::ALL.iter().map(|code| code.id())), "errors.md has other codes, or another order");
    let exits =
        language::ERRORS.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse::<i32>().ok());
    assert!(exits.eq(ExitCode::ALL.iter().map(|exit| *exit as i32)), "errors.md has other exit codes");
}

#[test]
fn the_strongest_word_decides_the_language() {
    let project = broken();
    let chinese = |ended: &Ended| ended.stderr.contains("错误[XT");
    type Variables<'a> = &'a [(&'a str, &'a str)];
    let cases: &[(&str, Variables, bool)] = &[
        ("", &[], false),
        ("--lang zh", &[], true),
        ("--lang=zh", &[("XTASK_LANG", "en")], true),
        ("--lang en", &[("XTASK_LANG", "zh")], false),
        ("", &[("XTASK_LANG", "zh"), ("LC_ALL", "en_US.UTF-8")], true),
        ("", &[("LC_ALL", "C.UTF-8"), ("LANG", "zh_CN.UTF-8")], false),
        ("", &[("LC_MESSAGES", "zh_CN.UTF-8"), ("LANG", "en_US.UTF-8")], true),
        ("", &[("LANG", "zh_CN.UTF-8")], true),
        ("", &[("LANG", "zh_CN.GBK")], false),
        ("", &[("LANG", "zh_CN.UTF-8"), ("XTASK_FORMAT", "json")], false),
    ];
    for (flag, variables, expected) in cases {
        let ended = project.run_with(&format!("plan {flag}"), variables);
        assert_ne!(ended.exit, 0);
        assert_eq!(chinese(&ended), *expected, "{flag} {variables:?}: {}", ended.stderr);
    }
    // A command line and a language that cannot be understood are told too.
    assert!(chinese(&project.run("buidl --lang zh")));
    assert!(project.run_with("plan --lang fr", &[("LANG", "zh_CN.UTF-8")]).stderr.contains("错误[XT"));
}

#[test]
fn a_program_that_reads_json_never_notices_the_language() {
    let told = |project: &Project, line: &str, variables: &[(&str, &str)]| {
        let ended = project.run_with(&format!("{line} --format json"), variables);
        (ended.stdout.lines().map(redacted).collect::<Vec<_>>(), ended.stderr, ended.exit)
    };
    for (project, line) in [
        (broken(), "plan"),
        (Project::new(), "plan"),
        (Project::new(), "mirror show cn"),
        (Project::new(), "explain"),
        (Project::new(), "buidl"),
        (Project::new(), "mirror show nobody"),
    ] {
        let english = told(&project, line, &[]);
        assert_eq!(told(&project, &format!("{line} --lang zh"), &[]), english, "{line}");
        assert_eq!(told(&project, line, &[("LC_ALL", "zh_CN.UTF-8"), ("XTASK_LANG", "zh")]), english, "{line}");
    }
}

#[test]
fn a_mistake_that_a_library_finds_is_told_in_chinese() {
    let mut wrong = Vec::new();
    let mut check = |project: &Project, line: &str| {
        let ended = project.run(&format!("{line} --lang zh"));
        let ours: Vec<&str> =
            ended.stderr.lines().filter(|line| line.starts_with("错误") || line.starts_with("提示")).collect();
        let told = ours.iter().all(|line| line.split_once('：').is_some_and(|(_, text)| is_chinese(text)));
        if ended.exit == 0 || ours.is_empty() || !told {
            wrong.push(format!("{line}:\n{}", ended.stderr));
        }
    };
    let project = Project::new();
    for line in [
        "buidl",
        "zzz",
        "plan --no-such",
        "plan --featurs x",
        "completions nosuch",
        "completions bsh",
        "completions",
        "plan --format",
        "cache gc --max-age x",
        "cache gc --max-size x",
        "-q -v plan",
        "run x.json",
        "help --from-make a b",
        "plan --offline=1",
        "plan --repo a --repo b",
        "mirror",
        "mirror sho",
    ] {
        check(&project, line);
    }
    for text in [
        "[projekt]",
        "[project]\nname = 3",
        "[project]",
        "project = { name = 'x' }\nproject = 1",
        "[project]\nname = 'x'\nnames = 1",
        "project = { name = 'x' }\n[mirror.x.go]\nfallthrough = 'no'",
        "project = { name = 'x' }\n[service.x]\nready = { port = 'x', pth = 1 }",
    ] {
        let project = Project::new();
        project.folder.write("xtask.toml", text);
        check(&project, "plan");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_foreign_text_is_translated_with_all_that_it_says() {
    let entries: BTreeMap<String, String> = toml::from_str(language::FOREIGN).unwrap();
    for (english, chinese) in entries {
        assert!(is_chinese(&chinese), "{english:?}");
        assert_eq!(placeholders(&english), placeholders(&chinese), "{english:?}");
    }
}
