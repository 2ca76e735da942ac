//! A tool's variables as a shell, a `.env` file or `docker build` reads them: the only place that quotes for somebody else.
//!
//! A value that holds a credential is left out unless it was asked for by name. Sources: POSIX 2.2.2, fish's "Quotes",
//! PowerShell's about_Quoting_Rules, the "Interpolation" and "`.env` file syntax" pages of Docker Compose.

use super::endpoint::Masked;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    /// bash, dash, zsh and every other POSIX shell
    #[value(aliases = ["bash", "zsh", "dash"])]
    Sh,
    Fish,
    Powershell,
    /// For `docker compose --env-file`
    Dotenv,
    /// Words of a `docker build` command line, for `eval`
    Docker,
}

/// What was left out because it holds a credential stands in `withheld`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Exported {
    pub text: String,
    pub withheld: Vec<String>,
}

impl Shell {
    /// Lines that set and remove variables.
    pub fn export(self, set: &BTreeMap<String, Masked>, remove: &BTreeSet<String>, show_secrets: bool) -> Exported {
        let mut exported = Exported::default();
        for name in remove.iter().filter(|name| !set.contains_key(*name)) {
            exported.text += &self.unset(name);
        }
        for (name, value) in set {
            if value.expose() == value.to_string() || show_secrets {
                exported.text += &self.set(name, value.expose());
            } else {
                exported.withheld.push(name.clone());
            }
        }
        exported
    }

    /// A line that does nothing; `docker build` knows none.
    pub fn comment(self, text: &str) -> String {
        if self == Self::Docker { String::new() } else { format!("# {text}\n") }
    }

    fn set(self, name: &str, value: &str) -> String {
        match self {
            Self::Sh => format!("export {name}={}\n", posix(value)),
            Self::Fish => format!("set -gx {name} '{}'\n", value.replace('\\', "\\\\").replace('\'', "\\'")),
            // PowerShell takes typographic quotes for quotes; doubled they stand for themselves, as `'` does.
            Self::Powershell => {
                let quote = |c: char| matches!(c, '\'' | '‘' | '’' | '‚' | '‛');
                let doubled: String =
                    value.chars().flat_map(|c| [Some(c), Some(c).filter(|&c| quote(c))]).flatten().collect();
                format!("$env:{name} = '{doubled}'\n")
            }
            Self::Dotenv => {
                let mut quoted = String::new();
                for c in value.chars() {
                    match c {
                        '\n' => quoted.push_str("\\n"),
                        '\\' | '"' | '$' => quoted.extend(['\\', c]),
                        c => quoted.push(c),
                    }
                }
                format!("{name}=\"{quoted}\"\n")
            }
            Self::Docker => format!("--build-arg {name}={} ", posix(value)),
        }
    }

    fn unset(self, name: &str) -> String {
        match self {
            Self::Sh => format!("unset {name}\n"),
            Self::Fish => format!("set -e {name}\n"),
            Self::Powershell => format!("Remove-Item Env:{name} -ErrorAction SilentlyContinue\n"),
            // Neither can take a variable away: compose and the build get what the file or the words say.
            Self::Dotenv | Self::Docker => String::new(),
        }
    }
}

/// Quoted only where it has to be, so that plain values read well.
/// A word of a POSIX shell.
pub fn posix(value: &str) -> String {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | ':' | '.' | '-' | '_' | '=' | ',' | '+' | '@' | '%');
    if !value.is_empty() && value.chars().all(plain) {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    const NASTY: [&str; 6] = [
        "https://a.example/go,direct|x",
        "it's \"$HOME\" `id` \\ \\' $(id) ${X:-y}",
        "two\nlines #, and !important ; & > <",
        "",
        "‘curly’ ünïcode 中文",
        "C:\\new\\table%PATH%~*?[]{}",
    ];

    fn values() -> BTreeMap<String, Masked> {
        NASTY.iter().enumerate().map(|(index, value)| (format!("V{index}"), Masked::from(*value))).collect()
    }

    /// What `program` makes of the lines, as a child of it sees its environment; `None`: it is not here.
    fn seen(program: &str, script: &str) -> Option<Vec<String>> {
        let show = (0..NASTY.len()).map(|index| format!("printenv V{index}; printf '\\0'\n")).collect::<String>();
        let mut command = Command::new(program);
        command
            .args(["-c", &format!("{script}{show}printenv GONE\n")])
            .env("GONE", "still here")
            .stderr(Stdio::inherit());
        let output = command.output().ok()?;
        let text = String::from_utf8(output.stdout).unwrap();
        let mut values: Vec<String> =
            text.split('\0').map(|value| value.strip_suffix('\n').unwrap_or(value).to_owned()).collect();
        assert_eq!(values.pop().as_deref(), Some(""), "GONE was not removed");
        Some(values)
    }

    #[test]
    fn real_shells_read_every_value_as_it_was_and_lose_what_is_removed() {
        for (shell, programs) in [(Shell::Sh, &["sh", "bash", "zsh"][..]), (Shell::Fish, &["fish"])] {
            let script = shell.comment("it's a comment $(id)")
                + &shell.export(&values(), &["GONE".to_owned()].into(), false).text;
            for program in programs {
                match seen(program, &script) {
                    Some(values) => assert_eq!(values, NASTY, "{program}"),
                    None => eprintln!("skipped: there is no {program} here"),
                }
            }
        }
    }

    #[test]
    fn a_build_that_evaluates_the_words_gets_every_value_as_it_was() {
        let words = Shell::Docker.export(&values(), &["GONE".to_owned()].into(), false).text;
        let output =
            Command::new("sh").args(["-c", r#"eval "printf '%s\\0' $WORDS .""#]).env("WORDS", words).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let expected: Vec<String> = values()
            .iter()
            .flat_map(|(name, value)| ["--build-arg".to_owned(), format!("{name}={}", value.expose())])
            .collect();
        assert_eq!(text.split('\0').take(expected.len()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn docker_compose_reads_every_value_of_the_env_file_as_it_was() {
        let folder = crate::files::temporary_folder(&std::env::temp_dir(), "dotenv").unwrap();
        let variables: String = values().keys().map(|name| format!("      {name}: ${{{name}}}\n")).collect();
        std::fs::write(
            folder.join("compose.yaml"),
            format!("services:\n  a:\n    image: a\n    environment:\n{variables}"),
        )
        .unwrap();
        std::fs::write(folder.join(".env"), Shell::Dotenv.export(&values(), &BTreeSet::new(), false).text).unwrap();
        let mut docker = Command::new("docker");
        docker.args(["compose", "--env-file", ".env", "config", "--format", "json"]).current_dir(&folder);
        let output = docker.output();
        std::fs::remove_dir_all(&folder).unwrap();
        let Some(output) = output.ok().filter(|output| output.status.success()) else {
            eprintln!("skipped: there is no docker compose here");
            return;
        };
        let config: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for (name, value) in values() {
            // compose writes `$` as `$$`, for whoever reads its output as a file again.
            let read = config["services"]["a"]["environment"][&name].as_str().unwrap().replace("$$", "$");
            assert_eq!(read, value.expose(), "{name}");
        }
    }

    #[test]
    fn powershell_doubles_every_quote_that_it_takes_for_one_and_docker_gets_words() {
        let one = |value: &str| BTreeMap::from([("V".to_owned(), Masked::from(value))]);
        let text = |shell: Shell, value: &str| shell.export(&one(value), &["GONE".to_owned()].into(), false).text;
        let gone = "Remove-Item Env:GONE -ErrorAction SilentlyContinue\n";
        assert_eq!(text(Shell::Powershell, "it's ‘$x’ `n"), format!("{gone}$env:V = 'it''s ‘‘$x’’ `n'\n"));
        assert_eq!(text(Shell::Docker, "https://a/,direct"), "--build-arg V=https://a/,direct ");
        assert_eq!(text(Shell::Docker, "a|b"), "--build-arg V='a|b' ");
        assert_eq!(Shell::Docker.comment("x"), "");
    }

    #[test]
    fn a_credential_is_written_only_when_it_is_asked_for() {
        let secret = BTreeMap::from([("V".to_owned(), Masked::new("https://u:canary@a/", "https://****@a/"))]);
        for shell in [Shell::Sh, Shell::Fish, Shell::Powershell, Shell::Dotenv, Shell::Docker] {
            let hidden = shell.export(&secret, &BTreeSet::new(), false);
            assert_eq!((hidden.text.as_str(), &hidden.withheld[..]), ("", &["V".to_owned()][..]));
            assert!(shell.export(&secret, &BTreeSet::new(), true).text.contains("https://u:canary@a/"));
        }
    }
}
