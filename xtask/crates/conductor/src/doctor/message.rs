//! Misleading messages of other tools: what is probably meant, and what helps. A table; a test holds each row to the real text.
//!
//! Sources: measured against mirrors that fail in each way; Go, npm, apt, huggingface_hub and containerd as their versions of 2026
//! word it.

use super::{Check, Finding, Fix};
use crate::tr;

/// A line of a log that some row translates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `FILE:LINE`.
    pub place: String,
    pub row: usize,
}

struct Row {
    /// Words that the line must hold, all of them.
    words: &'static [&'static str],
    meaning: fn() -> String,
    fix: fn() -> Fix,
}

fn other_mirror() -> Fix {
    Fix::safe("mirror use auto")
}

fn measure() -> Fix {
    Fix::Yours("cargo xtask doctor mirrors".to_owned())
}

const TABLE: &[Row] = &[
    Row {
        words: &["checksum failed", "<!doctype html"],
        meaning: || {
            tr!(
                "rustup got a web page instead of a checksum: a login page of the network, or a mirror that lacks this file; no bytes were altered"
            )
        },
        fix: measure,
    },
    Row {
        words: &["(from versions: none)"],
        meaning: || {
            tr!(
                "pip read no usable index: a web page, an error or a silent host ends in these words; the package probably exists"
            )
        },
        fix: measure,
    },
    Row {
        words: &["perhaps a crate was updated and forgotten to be re-vendored"],
        meaning: || tr!("nothing is vendored here: the mirror's index is older than Cargo.lock"),
        fix: other_mirror,
    },
    Row {
        words: &["expected value at line 1 column 1"],
        meaning: || tr!("cargo got a web page instead of the index's configuration"),
        fix: measure,
    },
    Row {
        words: &["no matching package named"],
        meaning: || tr!("cargo read an index that is a web page, or lacks this crate; the crate probably exists"),
        fix: other_mirror,
    },
    Row {
        words: &["SECURITY ERROR"],
        meaning: || {
            tr!(
                "the module proxy sent other bytes than go.sum or the checksum database knows: a web page or a repacking mirror far more often than an attack; nothing of it was used"
            )
        },
        fix: other_mirror,
    },
    Row {
        words: &["/@v/", "unexpected EOF"],
        meaning: || tr!("the module proxy broke off in the middle of a download"),
        fix: other_mirror,
    },
    Row {
        words: &["EALLOWREMOTE"],
        meaning: || {
            tr!(
                "package-lock.json names another registry than the one in force, often that of a mirror; npm 12 refuses that"
            )
        },
        fix: || Fix::Yours("npm ci --replace-registry-host=always".to_owned()),
    },
    Row {
        words: &["Clearsigned file isn't valid", "NOSPLIT"],
        meaning: || tr!("apt got a web page instead of a signed list, and asks no other mirror then"),
        fix: measure,
    },
    Row {
        words: &["LocalEntryNotFoundError"],
        meaning: || {
            tr!(
                "huggingface_hub could not ask its endpoint, or a mirror left out the headers that it needs; the file probably exists"
            )
        },
        fix: measure,
    },
    Row {
        words: &["unexpected media type text/html"],
        meaning: || tr!("the registry answered with a web page; containerd asks no other mirror then"),
        fix: measure,
    },
];

/// What Go says before each request: as the last words of a log it means that nothing came after.
const ASKED: &str = "# get https://";

fn is_silence(row: usize) -> bool {
    row == TABLE.len()
}

/// Line numbers, from 1, and rows, each row once.
pub fn translate(log: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = log.lines().collect();
    let matches =
        |row: &Row, line: &str| row.words.iter().all(|words| line.to_lowercase().contains(&words.to_lowercase()));
    let first = |(number, row): (usize, &Row)| Some((lines.iter().position(|line| matches(row, line))? + 1, number));
    let mut seen: Vec<_> = TABLE.iter().enumerate().filter_map(first).collect();
    // The answer, when it comes, is written as `# get URL: 200 OK (0.2s)`.
    if lines.last().is_some_and(|line| line.starts_with(ASKED) && !line.ends_with(')')) {
        seen.push((lines.len(), TABLE.len()));
    }
    seen
}

pub fn examine(seen: &[Seen]) -> Vec<Finding> {
    let finding = |it: &Seen| {
        let (meaning, fix) = match TABLE.get(it.row) {
            Some(row) => ((row.meaning)(), (row.fix)()),
            None if is_silence(it.row) => {
                (tr!("Go asked and nothing ever came: Go itself waits for ever on a silent host"), other_mirror())
            }
            None => return None,
        };
        Some(Finding::warning(Check::Misleading, &it.place, tr!("in the last run: {meaning}", meaning), fix))
    };
    seen.iter().filter_map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &[&str] = &[
        "error: checksum failed for 'https://rust.example/dist/channel-rust-1.95.0.toml', expected: '<!doctype html><html><head>', calculated: '7c3f'",
        "ERROR: Could not find a version that satisfies the requirement six==1.17.0 (from versions: none)",
        "perhaps a crate was updated and forgotten to be re-vendored?",
        "  expected value at line 1 column 1",
        "error: no matching package named `serde` found",
        "SECURITY ERROR",
        "go: golang.org/x/net@v0.44.0: reading https://go.example/golang.org/x/net/@v/v0.44.0.zip: unexpected EOF",
        "npm error code EALLOWREMOTE",
        "E: Failed to fetch http://debian.example/dists/bookworm/InRelease  Clearsigned file isn't valid, got 'NOSPLIT' (does the network require authentication?)",
        "huggingface_hub.errors.LocalEntryNotFoundError: An error happened while trying to locate the file on the Hub",
        "failed to resolve reference \"docker.io/library/x:1\": unexpected media type text/html for sha256:00: not found",
    ];

    #[test]
    fn every_row_translates_its_real_message_and_no_other() {
        assert_eq!(REAL.len(), TABLE.len());
        for (row, message) in REAL.iter().enumerate() {
            let log = format!("$ tool\nsome output\n{message}\nmore output\n");
            assert_eq!(translate(&log), [(3, row)], "{message}");
            let findings = examine(&[Seen { place: "x.log:3".into(), row }]);
            assert_eq!((findings.len(), findings[0].check.id()), (1, "log.misleading"));
            assert!(findings[0].fix.is_some());
        }
        assert_eq!(translate("   Compiling serde v1.0.0\nerror[E0308]: mismatched types\n"), []);
    }

    #[test]
    fn silence_after_a_request_of_go_is_told() {
        let silent = "# get https://go.example/a/@v/list\n";
        assert_eq!(translate(silent), [(1, TABLE.len())]);
        assert!(examine(&[Seen { place: "x".into(), row: TABLE.len() }])[0].message.contains("silent"));
        assert_eq!(
            translate("# get https://go.example/a/@v/list\n# get https://go.example/a/@v/list: 200 OK (0.1s)\n"),
            []
        );
    }
}
