//! The few flags that matter before the conductor exists. Every argument still reaches the conductor unchanged, and it
//! is the conductor that judges the rest.

use crate::failure::{self, Failure};
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
}

impl Request {
    /// Reads up to `--`: what follows belongs to somebody else's command line.
    pub fn read(arguments: &[OsString], variable: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let mut it = Self {
            mirror: variable("XTASK_MIRROR"),
            egress: variable("XTASK_EGRESS"),
            offline: variable("XTASK_OFFLINE").map(|value| !matches!(value.as_str(), "0" | "false" | "no")),
            ..Self::default()
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            // Not UTF-8: cannot be one of these flags.
            let Some(argument) = argument.to_str() else { continue };
            let (flag, attached) = match argument.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (argument, None),
            };
            let mut value = || {
                attached
                    .clone()
                    .or_else(|| rest.next()?.to_str().map(str::to_owned))
                    .filter(|value| !value.is_empty())
                    .ok_or_else(|| Failure::new(failure::USAGE, format!("`{flag}` needs a value")))
            };
            match flag {
                "--" => break,
                "--build-satellite" => it.satellite = Some(value()?),
                "--mirror" => it.mirror = Some(value()?),
                "--egress" => it.egress = Some(value()?),
                "--repo" => it.repo = Some(value()?.into()),
                "--offline" => it.offline = Some(true),
                _ => {}
            }
        }
        Ok(it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str], mirror: Option<&str>) -> Result<Request, u8> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        Request::read(&arguments, |name| mirror.filter(|_| name == "XTASK_MIRROR").map(str::to_owned))
            .map_err(|failure| failure.exit)
    }

    #[test]
    fn the_flag_wins_over_the_variable_and_is_not_looked_for_after_the_separator() {
        let mirror = |arguments: &[&str], variable| read(arguments, variable).map(|request| request.mirror);
        assert_eq!(mirror(&["build"], Some("lab")), Ok(Some("lab".into())));
        assert_eq!(mirror(&["build", "--mirror", "cn"], Some("lab")), Ok(Some("cn".into())));
        assert_eq!(mirror(&["--mirror=cn", "build", "--", "--mirror", "other"], None), Ok(Some("cn".into())));
        assert_eq!(mirror(&["build", "--", "--mirror=cn"], None), Ok(None));
        assert_eq!(mirror(&["build", "--mirror"], None), Err(failure::USAGE));
        assert_eq!(mirror(&["build", "--mirror="], None), Err(failure::USAGE));
    }
}
