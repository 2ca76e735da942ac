//! The few flags that matter before the conductor exists. Every argument still reaches the conductor unchanged, and it
//! is the conductor that judges the rest.

use crate::language::{self, Language};
use std::ffi::OsString;
use std::path::PathBuf;

/// What the caller typed or exported. Flags win over `XTASK_*` variables.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `--build-satellite NAME`, hidden: build that package of the nested workspace and print its path.
    pub satellite: Option<String>,
    pub mirror: Option<String>,
    pub egress: Option<String>,
    /// Whose `xtask.toml` declares the profiles; `None`: the launcher's own checkout.
    pub repo: Option<PathBuf>,
    /// `None`: nobody said.
    pub offline: Option<bool>,
    pub language: Language,
}

impl Request {
    /// Reads up to `--`: what follows belongs to somebody else's command line.
    /// A flag without its value is left for the conductor to complain about.
    pub fn read(arguments: &[OsString], variable: impl Fn(&str) -> Option<String>) -> Self {
        let mut it = Self {
            mirror: variable("XTASK_MIRROR"),
            egress: variable("XTASK_EGRESS"),
            offline: variable("XTASK_OFFLINE").map(|value| !matches!(value.as_str(), "0" | "false" | "no")),
            ..Self::default()
        };
        let (mut format, mut lang) = (variable("XTASK_FORMAT"), None);
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            // Not UTF-8: cannot be one of these flags.
            let Some(argument) = argument.to_str() else { continue };
            let (flag, attached) = match argument.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (argument, None),
            };
            let mut value = || {
                attached.clone().or_else(|| rest.next()?.to_str().map(str::to_owned)).filter(|value| !value.is_empty())
            };
            match flag {
                "--" => break,
                "--build-satellite" => it.satellite = value(),
                "--mirror" => it.mirror = value(),
                "--egress" => it.egress = value(),
                "--repo" => it.repo = value().map(PathBuf::from),
                "--offline" => it.offline = Some(true),
                "--format" => format = value(),
                "--lang" => lang = value(),
                _ => {}
            }
        }
        // Whoever reads JSON reads English.
        if format.as_deref() != Some("json") {
            let locale = ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().find_map(&variable);
            let said = variable("XTASK_LANG");
            it.language = language::decide(lang.as_deref(), said.as_deref(), locale.as_deref());
        }
        it
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str], mirror: Option<&str>) -> Request {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        Request::read(&arguments, |name| mirror.filter(|_| name == "XTASK_MIRROR").map(str::to_owned))
    }

    #[test]
    fn the_flag_wins_over_the_variable_and_is_not_looked_for_after_the_separator() {
        let mirror = |arguments: &[&str], variable| read(arguments, variable).mirror;
        assert_eq!(mirror(&["build"], Some("lab")), Some("lab".into()));
        assert_eq!(mirror(&["build", "--mirror", "cn"], Some("lab")), Some("cn".into()));
        assert_eq!(mirror(&["--mirror=cn", "build", "--", "--mirror", "other"], None), Some("cn".into()));
        assert_eq!(mirror(&["build", "--", "--mirror=cn"], None), None);
        assert_eq!(mirror(&["build", "--mirror"], None), None);
        assert_eq!(mirror(&["build", "--mirror="], None), None);
    }
}
