//! Wheels: which file of a project suits an interpreter, told by its name alone.
//!
//! Source: the "binary distribution format" and "platform compatibility tags" specifications of the Python packaging
//! guide. Only what CPython on Linux needs is here; a wheel that we do not understand is never chosen.

use crate::error::{Code, Error};
use crate::tr;
use std::fmt;
use std::str::FromStr;

/// The interpreter and machine that wheels must suit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// (3, 11)
    pub version: (u32, u32),
    /// As in wheel tags: `x86_64`, `aarch64`.
    pub architecture: String,
    /// glibc (2, 36); `None` on musl, where only pure wheels are chosen.
    pub glibc: Option<(u32, u32)>,
}

/// `cpython3.11-x86_64-glibc2.36`
impl fmt::Display for Interpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.version;
        write!(f, "cpython{major}.{minor}-{}", self.architecture)?;
        self.glibc.map_or(Ok(()), |(major, minor)| write!(f, "-glibc{major}.{minor}"))
    }
}

/// A wheel's file name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WheelName {
    /// Normalised: lower case, runs of `-_.` as one `-`.
    pub project: String,
    pub version: String,
    python: Vec<String>,
    abi: Vec<String>,
    platform: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("{}", tr!("`{name}` is not the name of a wheel", name = .0))]
pub struct NotAWheel(String);

impl FromStr for WheelName {
    type Err = NotAWheel;

    fn from_str(name: &str) -> Result<Self, NotAWheel> {
        let parts: Vec<&str> = name.strip_suffix(".whl").map(|stem| stem.split('-').collect()).unwrap_or_default();
        // project-version(-build)?-python-abi-platform
        let (project, version, tags) = match parts.as_slice() {
            [project, version, tags @ ..] if tags.len() == 3 => (project, version, tags),
            [project, version, _build, tags @ ..] if tags.len() == 3 => (project, version, tags),
            _ => return Err(NotAWheel(name.to_owned())),
        };
        let set = |tag: &str| tag.split('.').map(str::to_owned).collect();
        Ok(Self {
            project: normalized(project),
            version: (*version).to_owned(),
            python: set(tags[0]),
            abi: set(tags[1]),
            platform: set(tags[2]),
        })
    }
}

/// A project's name as the simple index compares it.
pub fn normalized(project: &str) -> String {
    let mut name = String::new();
    for c in project.chars() {
        let c = if matches!(c, '-' | '_' | '.') { '-' } else { c.to_ascii_lowercase() };
        if !(c == '-' && name.ends_with('-')) {
            name.push(c);
        }
    }
    name
}

impl WheelName {
    /// How well it suits; a greater value suits better, `None` not at all.
    pub fn suits(&self, interpreter: &Interpreter) -> Option<u32> {
        let (major, minor) = interpreter.version;
        let exact = format!("cp{major}{minor}");
        let best = |tags: &[String], rank: &dyn Fn(&str) -> Option<u32>| tags.iter().filter_map(|tag| rank(tag)).max();
        let code = best(&self.python, &|python| {
            let abi_ok = |wanted: &str| self.abi.iter().any(|abi| abi == wanted);
            if python == exact && abi_ok(&exact) {
                return Some(400);
            }
            // abi3: made for this or an older minor version.
            if let Some(lowest) = python.strip_prefix("cp3").and_then(|minor| minor.parse::<u32>().ok())
                && major == 3
                && lowest <= minor
                && abi_ok("abi3")
            {
                return Some(300 + lowest);
            }
            let pure = python == "py3" || python == format!("py{major}{minor}") || python == exact;
            (pure && abi_ok("none")).then_some(200)
        })?;
        let place = best(&self.platform, &|platform| self::platform(platform, interpreter))?;
        Some(code * 1000 + place)
    }
}

/// `any` 1, an exact machine 2 and upwards with the newness of its glibc.
fn platform(tag: &str, interpreter: &Interpreter) -> Option<u32> {
    if tag == "any" {
        return Some(1);
    }
    let rest = tag.strip_suffix(&interpreter.architecture)?.strip_suffix('_')?;
    let needed = match rest {
        "linux" => return Some(2),
        "manylinux1" => (2, 5),
        "manylinux2010" => (2, 12),
        "manylinux2014" => (2, 17),
        other => {
            let (major, minor) = other.strip_prefix("manylinux_")?.split_once('_')?;
            (major.parse().ok()?, minor.parse().ok()?)
        }
    };
    (needed <= interpreter.glibc?).then_some(10 + needed.1)
}

/// The best of several files of one project.
pub fn choose<'a, T>(wheels: &'a [T], name: impl Fn(&T) -> &str, interpreter: &Interpreter) -> Option<&'a T> {
    wheels
        .iter()
        .filter_map(|wheel| Some((name(wheel).parse::<WheelName>().ok()?.suits(interpreter)?, wheel)))
        .max_by_key(|(rank, _)| *rank)
        .map(|(_, wheel)| wheel)
}

/// The version in a wheel's file name.
pub fn version(filename: &str) -> String {
    filename.parse::<WheelName>().map_or_else(|_| "unknown".to_owned(), |name| name.version)
}

/// `Py_Thing[extra]==1.2` → `py-thing`, `1.2`.
pub fn requirement(line: &str) -> crate::error::Result<(String, String)> {
    let (project, version) = line
        .split_once("==")
        .ok_or_else(|| Error::new(Code::CannotPin, tr!("`{line}` is not `project==version`", line)))?;
    Ok((normalized(project.split('[').next().unwrap_or(project).trim()), version.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interpreter(minor: u32, architecture: &str, glibc: Option<(u32, u32)>) -> Interpreter {
        Interpreter { version: (3, minor), architecture: architecture.into(), glibc }
    }

    /// File names as the index has them for one release of a compiled project.
    const COMPILED: &[&str] = &[
        "pydantic_core-2.41.5-cp310-cp310-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "pydantic_core-2.41.5-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "pydantic_core-2.41.5-cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64.whl",
        "pydantic_core-2.41.5-cp311-cp311-musllinux_1_1_x86_64.whl",
        "pydantic_core-2.41.5-cp314-cp314t-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "pydantic_core-2.41.5-cp311-cp311-win_amd64.whl",
    ];

    #[test]
    fn the_wheel_of_this_interpreter_and_machine_is_chosen() {
        let chosen = |it: &Interpreter| choose(COMPILED, |name| name, it).copied();
        assert_eq!(chosen(&interpreter(11, "x86_64", Some((2, 36)))), Some(COMPILED[1]));
        assert_eq!(chosen(&interpreter(11, "aarch64", Some((2, 36)))), Some(COMPILED[2]));
        assert_eq!(chosen(&interpreter(10, "x86_64", Some((2, 17)))), Some(COMPILED[0]));
        // Too old a glibc, musl, a free-threaded build: none suits.
        assert_eq!(chosen(&interpreter(11, "x86_64", Some((2, 16)))), None);
        assert_eq!(chosen(&interpreter(11, "x86_64", None)), None);
        assert_eq!(chosen(&interpreter(14, "x86_64", Some((2, 36)))), None);
    }

    #[test]
    fn exact_beats_abi3_beats_pure() {
        let wheels =
            ["a-1-py3-none-any.whl", "a-1-cp38-abi3-manylinux_2_28_x86_64.whl", "a-1-cp311-cp311-linux_x86_64.whl"];
        let it = interpreter(11, "x86_64", Some((2, 36)));
        assert_eq!(choose(&wheels, |name| name, &it), Some(&wheels[2]));
        assert_eq!(choose(&wheels[..2], |name| name, &it), Some(&wheels[1]));
        assert_eq!(choose(&wheels[..1], |name| name, &it), Some(&wheels[0]));
    }

    #[test]
    fn names_compare_as_the_index_compares_them() {
        assert_eq!(normalized("Typing_Extensions"), "typing-extensions");
        assert_eq!(normalized("a-_.b"), "a-b");
    }
}
