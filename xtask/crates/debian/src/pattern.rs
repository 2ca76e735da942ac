//! Paths that a base leaves out: `usr/share/doc`, `usr/share/doc/*/copyright`.
//!
//! Owns: what such a pattern covers: the path and everything below it; `*` stands for any characters of one part.

use crate::error::{Error, Result};
use oci::TreePath;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(TreePath);

impl Pattern {
    /// # Errors: Malformed where it is no path below the root.
    pub fn new(text: &str) -> Result<Self> {
        let path = TreePath::new(text);
        path.map(Self).map_err(|error| Error::malformed(format!("pattern `{text}`"), error.to_string()))
    }

    pub fn covers(&self, path: &str) -> bool {
        let mut parts = path.split('/');
        self.0.as_str().split('/').all(|pattern| parts.next().is_some_and(|part| matches(pattern, part)))
    }
}

fn matches(pattern: &str, part: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == part };
    let Some(part) = part.strip_prefix(start) else { return false };
    let mut ends = part.char_indices().map(|(at, _)| at).chain([part.len()]);
    ends.any(|at| matches(rest, &part[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_its_path_and_what_is_below() {
        for (pattern, covered, others) in [
            ("usr/share/doc", &["usr/share/doc", "usr/share/doc/x/y"][..], &["usr/share", "usr/share/docs", "usr"][..]),
            (
                "usr/share/doc/*/copyright",
                &["usr/share/doc/ä/copyright"],
                &["usr/share/doc/copyright", "usr/share/doc/x"],
            ),
            ("usr/bin/py*", &["usr/bin/py", "usr/bin/python3"], &["usr/bin/idle", "usr/bin/x/py"]),
            ("a/*b*c", &["a/bc", "a/xbxbxc", "a/bcc"], &["a/xb", "a/cb", "a/b/c"]),
        ] {
            let pattern = Pattern::new(pattern).unwrap();
            assert!(covered.iter().all(|path| pattern.covers(path)), "{pattern:?}");
            assert!(!others.iter().any(|path| pattern.covers(path)), "{pattern:?}");
        }
        for text in ["", "/usr", "usr/", "usr/../etc", "./usr"] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }
}
