//! What a suite says of itself: the signed part of its InRelease.
//!
//! Owns: which suite it is, and the hash of each of its indexes. Never: judge a signature, or an age.
//! Source: Debian repository format, "Release files".

use crate::compression::Compression;
use crate::control;
use crate::error::{Error, Result};
use std::collections::BTreeMap;

#[derive(Debug)]
pub struct Release {
    names: Vec<String>,
    by_hash: bool,
    /// Path below the suite → sha256 and size.
    files: BTreeMap<String, (String, u64)>,
}

/// An index that a release names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Below the suite; by its hash where the archive keeps older ones beside the newest.
    pub path: String,
    pub compression: Compression,
    /// 64 lower-case hex digits.
    pub sha256: String,
    pub size_bytes: u64,
}

impl Release {
    /// `text`: what was signed, without the signature. `subject`: its name in messages.
    ///
    /// # Errors: Malformed.
    pub fn read(subject: &str, text: &str) -> Result<Self> {
        let fields = control::single(subject, text.as_bytes())?;
        let mut files = BTreeMap::new();
        for line in fields.need(subject, "SHA256")?.lines().filter(|line| !line.is_empty()) {
            let malformed = || Error::malformed(subject, format!("a line of its SHA256 is {line:?}"));
            let [sha256, size, path] = line.split_whitespace().collect::<Vec<_>>()[..] else { return Err(malformed()) };
            if sha256.len() != 64 || !sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(malformed());
            }
            let size_bytes = size.parse().map_err(|_| malformed())?;
            files.insert(path.to_owned(), (sha256.to_owned(), size_bytes));
        }
        let names = ["Suite", "Codename"].into_iter().filter_map(|name| fields.get(name)).map(str::to_owned);
        Ok(Self { names: names.collect(), by_hash: fields.get("Acquire-By-Hash") == Some("yes"), files })
    }

    /// Whether it is that suite's, by either of its names: another suite's is signed as well.
    pub fn is_of(&self, suite: &str) -> bool {
        self.names.iter().any(|name| name == suite)
    }

    /// The index of a component's packages in its smallest form.
    pub fn packages(&self, component: &str, architecture: &str) -> Option<Listed> {
        let folder = format!("{component}/binary-{architecture}");
        [".xz", ".gz", ""].into_iter().find_map(|ending| {
            let path = format!("{folder}/Packages{ending}");
            let (sha256, size_bytes) = self.files.get(&path)?.clone();
            let path = if self.by_hash { format!("{folder}/by-hash/SHA256/{sha256}") } else { path };
            Some(Listed { path, compression: Compression::of_ending(ending)?, sha256, size_bytes })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(hash: &str) -> String {
        format!(
            "Suite: stable\nCodename: bookworm\nAcquire-By-Hash: yes\nMD5Sum:\n x 1 y\nSHA256:\n {hash} 7 main/binary-all/Packages\n {hash} 8 main/binary-arm64/Packages.gz\n {hash} 9 main/binary-arm64/Packages.xz\n"
        )
    }

    #[test]
    fn a_release_names_itself_and_the_smallest_form_of_each_index() {
        let hash = "a".repeat(64);
        let release = Release::read("x", &text(&hash)).unwrap();
        assert!(release.is_of("stable") && release.is_of("bookworm") && !release.is_of("bullseye"));
        let path = |architecture| release.packages("main", architecture).map(|it| (it.path, it.size_bytes));
        assert_eq!(path("arm64"), Some((format!("main/binary-arm64/by-hash/SHA256/{hash}"), 9)));
        assert_eq!((path("all").unwrap().1, path("amd64")), (7, None));
        let plain = Release::read("x", &text(&hash).replace("By-Hash: yes", "By-Hash: no")).unwrap();
        let listed = plain.packages("main", "arm64").unwrap();
        assert_eq!((listed.path.as_str(), listed.compression), ("main/binary-arm64/Packages.xz", Compression::Xz));
    }

    #[test]
    fn what_is_no_release_is_refused() {
        let good = text(&"a".repeat(64));
        for bad in [
            "",
            "Suite: x",
            &good.replace("aaaa", "AAAA"),
            &good.replace(" 7 ", " "),
            &good.replace(" 7 ", " seven "),
            &format!("{good}\nSuite: y\n"),
        ] {
            assert!(Release::read("x", bad).is_err(), "{bad}");
        }
    }
}
