//! The two texts of a Debian archive that name files with their hashes: InRelease and Packages.
//!
//! Owns: reading them, and the age of an InRelease. Never: open a socket, or hold a Packages file in memory.
//! Rules: Debian's repository format; RFC 5322 section 3.3 (dates).

use crate::downloads::Pin;
use crate::error::{Error, Kind};
use crate::request::{looks_like_a_web_page, web_page};
use bytes::Bytes;
use flate2::read::GzDecoder;
use lzma_rust2::{Action, Status, XzStream};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Clocks differ; an archive that is newer than ours by more than this is no archive.
const FUTURE: Duration = Duration::from_secs(24 * 60 * 60);
/// xz of level 9 takes 65 MiB.
const MAX_XZ_KIBIBYTES: u32 = 128 << 10;
/// Debian's own have 55 MB; nobody has checked the signature yet, so that a mirror could have made what unpacks to more.
const MAX_INDEX_BYTES: u64 = 256 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// 64 lower-case hex digits.
    pub sha256: String,
    pub size_bytes: Option<u64>,
}

#[derive(Debug)]
pub struct Release {
    /// As it came: apt checks its signature.
    pub bytes: Bytes,
    date: SystemTime,
    valid_until: Option<SystemTime>,
    by_hash: bool,
    /// Path below the suite → index.
    pub files: BTreeMap<String, File>,
}

impl Release {
    /// # Errors: Html, Malformed.
    pub fn read(bytes: &Bytes) -> Result<Self, Error> {
        if looks_like_a_web_page(bytes) {
            return Err(web_page(bytes));
        }
        let malformed = |why: &str| Error::new(Kind::Malformed, format!("its answer is not an InRelease file: {why}"));
        let text = std::str::from_utf8(bytes).map_err(|_| malformed("it is not text"))?;
        let signed = text
            .strip_prefix("-----BEGIN PGP SIGNED MESSAGE-----")
            .filter(|_| text.trim_end().ends_with("-----END PGP SIGNATURE-----"))
            .and_then(|text| text.split_once("-----BEGIN PGP SIGNATURE-----"));
        let (signed, _) = signed.ok_or_else(|| malformed("it is not signed from its first line to its last"))?;
        let field =
            |name: &str| signed.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let time = |name| field(name).map(|text| date(text).ok_or_else(|| malformed(&format!("{name} is `{text}`"))));
        let sums = signed.lines().skip_while(|line| line.trim_end() != "SHA256:").skip(1);
        let mut files = BTreeMap::new();
        for line in sums.take_while(|line| line.starts_with(' ')) {
            let [sha256, size, path] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                return Err(malformed(&format!("a line of its SHA256 section is `{line}`")));
            };
            let pin = Pin::sha256(sha256).map_err(|error| malformed(&error.message))?;
            files.insert(path.to_owned(), File { sha256: pin.text().to_owned(), size_bytes: size.parse().ok() });
        }
        if files.is_empty() {
            return Err(malformed("it has no SHA256 section"));
        }
        Ok(Self {
            bytes: bytes.clone(),
            date: time("Date").ok_or_else(|| malformed("it has no Date"))??,
            valid_until: time("Valid-Until").transpose()?,
            by_hash: field("Acquire-By-Hash") == Some("yes"),
            files,
        })
    }

    /// # Errors: Absent for one that apt would refuse for its age, or that another upstream has newer.
    pub fn fresh(&self, now: SystemTime, seen: Option<&Self>) -> Result<(), Error> {
        let days = |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default().as_secs() / 86_400;
        let stale = |why: String| Err(Error::new(Kind::Absent, format!("its InRelease is stale: {why}")));
        if let Some(until) = self.valid_until.filter(|until| *until < now) {
            return stale(format!("by this machine's clock it expired {} days ago", days(until, now)));
        }
        if self.date > now + FUTURE {
            return stale(format!("by this machine's clock it is from {} days ahead", days(now, self.date)));
        }
        match seen.filter(|seen| seen.date > self.date) {
            Some(seen) => stale(format!("another upstream has one that is {} days newer", days(self.date, seen.date))),
            None => Ok(()),
        }
    }

    /// The indexes of packages for an architecture, each in the form that unpacks to the same and is smallest.
    ///
    /// Packages for `all` stand in the index of every architecture.
    pub fn indexes<'a>(&'a self, architecture: &'a str) -> impl Iterator<Item = (&'a str, &'a File)> {
        let forms = ["Packages.xz", "Packages.gz", "Packages"];
        let folders = self.files.keys().filter_map(|path| path.rsplit_once('/')?.0.rsplit_once("binary-"));
        let mut folders: Vec<String> = folders
            .filter(|(_, it)| *it == architecture || architecture == "all")
            .map(|(above, it)| format!("{above}binary-{it}"))
            .collect();
        folders.dedup();
        folders.into_iter().filter_map(move |folder| {
            let of = |form: &&str| self.files.get_key_value(&format!("{folder}/{form}"));
            forms.iter().find_map(of).map(|(path, file)| (path.as_str(), file))
        })
    }

    /// Where an index is below an upstream: by its hash where the archive keeps older ones beside the newest.
    pub fn place_of(&self, suite: &str, name: &str, index: &File) -> String {
        match name.rsplit_once('/').filter(|_| self.by_hash) {
            Some((folder, _)) => format!("{suite}/{folder}/by-hash/SHA256/{}", index.sha256),
            None => format!("{suite}/{name}"),
        }
    }
}

/// `Sat, 21 Nov 2026 00:53:02 UTC`, in any of UTC's names.
fn date(text: &str) -> Option<SystemTime> {
    let [_, day, month, year, clock, "UTC" | "GMT" | "+0000"] = text.split_whitespace().collect::<Vec<_>>()[..] else {
        return None;
    };
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|name| *name == month)? as u64;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let seconds = clock.split(':').try_fold(0, |seconds, part| Some(seconds * 60 + part.parse::<u64>().ok()?))?;
    if !(1970..10_000).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    // Years that begin in March end with their leap day, and their months follow one rule (Gauss).
    let (shifted, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + (153 * month + 2) / 5 + day - 1;
    UNIX_EPOCH.checked_add(Duration::from_secs((days - 719_468) * 86_400 + seconds))
}

/// Path below the archives → package, of a Packages file that was verified. `packed`: `xz`, `gz` or nothing.
///
/// # Errors: Disk, Malformed.
pub fn packages(path: &Path, packed: Option<&str>, archive: &str) -> Result<Vec<(String, File)>, Error> {
    let failed = |cause: &std::io::Error| Error::disk("read", path, cause);
    let file = BufReader::new(std::fs::File::open(path).map_err(|cause| failed(&cause))?);
    let unpacked: Box<dyn Read> = match packed {
        Some("xz") => Box::new(Xz { packed: file, stream: XzStream::new_mem_limit(true, MAX_XZ_KIBIBYTES) }),
        Some("gz") => Box::new(GzDecoder::new(file)),
        _ => Box::new(file),
    };
    let mut lines = BufReader::new(unpacked.take(MAX_INDEX_BYTES));
    let mut packages = Vec::new();
    let (mut name, mut sha256, mut size_bytes, mut line) = (None, None, None, Vec::new());
    loop {
        line.clear();
        let read = lines.read_until(b'\n', &mut line).map_err(|cause| failed(&cause))?;
        let text = line.trim_ascii_end();
        if text.is_empty() {
            if let (Some(name), Some(sha256)) = (name.take(), sha256.take()) {
                packages.push((format!("{archive}/{name}"), File { sha256, size_bytes: size_bytes.take() }));
            }
            if read == 0 {
                return Ok(packages);
            }
        }
        let value =
            |field: &[u8]| text.strip_prefix(field).map(|value| String::from_utf8_lossy(value).trim().to_owned());
        if let Some(value) = value(b"Filename:") {
            name = Some(value);
        } else if let Some(value) = value(b"SHA256:") {
            sha256 = Pin::sha256(&value).ok().map(|pin| pin.text().to_owned());
        } else if let Some(value) = value(b"Size:") {
            size_bytes = value.parse().ok();
        }
    }
}

/// The crate's own reader is generic, so that its work would be compiled here, where nothing is optimised.
struct Xz {
    packed: BufReader<std::fs::File>,
    stream: XzStream,
}

impl Read for Xz {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let packed = self.packed.fill_buf()?;
            let (length, action) = (packed.len(), if packed.is_empty() { Action::Finish } else { Action::Run });
            let done = self.stream.process(packed, buffer, action)?;
            self.packed.consume(done.bytes_consumed);
            if done.bytes_produced > 0 || done.status == Status::StreamEnd || buffer.is_empty() {
                return Ok(done.bytes_produced);
            }
            if length == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(text: &str) -> Bytes {
        let signature = "-----BEGIN PGP SIGNATURE-----\n\nxx\n-----END PGP SIGNATURE-----\n";
        format!("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{text}{signature}").into()
    }

    fn release(date: &str, until: &str, sums: &[&str]) -> Result<Release, Error> {
        let sums = sums.iter().map(|path| format!(" {} 7 {path}\n", "a".repeat(64))).collect::<String>();
        Release::read(&signed(&format!("Suite: s\nDate: {date}\n{until}Acquire-By-Hash: yes\nSHA256:\n{sums}")))
    }

    const DATE: &str = "Sat, 21 Nov 2026 00:53:02 UTC";

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn dates_are_read_as_date_reads_them() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 +0000", Some(0)),
            ("Thu, 29 Feb 2024 12:00:00 GMT", Some(1_709_208_000)),
            ("Fri, 01 Mar 2024 00:00:00 UTC", Some(1_709_251_200)),
            (DATE, Some(1_795_222_382)),
            ("Tue, 31 Dec 2199 23:59:59 UTC", Some(7_258_118_399)),
            ("Sat, 21 Nov 2026 00:53:02 CET", None),
            ("Sat, 00 Nov 2026 00:53:02 UTC", None),
            ("tomorrow", None),
        ] {
            assert_eq!(date(text), seconds.map(at), "{text}");
        }
    }

    #[test]
    fn an_inrelease_is_signed_dated_and_has_hashes() {
        let verdict = |bytes: &Bytes| Release::read(bytes).map(drop).map_err(|error| error.code());
        let sums = format!("SHA256:\n {} 7 main/Contents\n", "a".repeat(64));
        let good = signed(&format!("Date: {DATE}\n{sums}"));
        assert_eq!(verdict(&good), Ok(()));
        for bad in [
            good.slice(..good.len() - 3),
            good.slice(1..),
            signed(&sums),
            signed(&format!("Date: now\n{sums}")),
            signed(&format!("Date: {DATE}\nValid-Until: never\n{sums}")),
            signed(&format!("Date: {DATE}\n")),
            signed(&format!("Date: {DATE}\nSHA256:\n xyz 7 main/Contents\n")),
            signed(&format!("Date: {DATE}\nSHA256:\n one word\n")),
        ] {
            assert_eq!(verdict(&bad), Err("mirror.malformed"), "{bad:?}");
        }
        assert_eq!(verdict(&Bytes::from("<html>Welcome</html>")), Err("mirror.html"));
    }

    #[test]
    fn an_inrelease_has_its_time() {
        let day = 86_400;
        let until = "Valid-Until: Sat, 28 Nov 2026 00:53:02 UTC\n";
        let (made, newer) =
            (release(DATE, until, &["x"]).unwrap(), release("Sun, 22 Nov 2026 00:53:02 UTC", "", &["x"]).unwrap());
        let fresh = |seconds, seen| made.fresh(at(seconds), seen).is_ok();
        assert!(fresh(1_795_222_382, None) && fresh(1_795_222_382 + 7 * day, Some(&made)));
        assert!(!fresh(1_795_222_382 + 7 * day + 1, None), "expired");
        assert!(fresh(1_795_222_382 - day, None) && !fresh(1_795_222_382 - day - 1, None), "from the future");
        assert!(!fresh(1_795_222_382, Some(&newer)), "older than another");
        assert!(newer.fresh(at(1_795_222_382 + 900 * day), None).is_ok(), "it says nothing of expiring");
    }

    #[test]
    fn the_indexes_of_a_package_are_those_of_its_architecture() {
        let sums = [
            "main/Contents-amd64",
            "main/binary-amd64/Packages",
            "main/binary-amd64/Packages.gz",
            "main/binary-amd64/Packages.xz",
            "main/binary-amd64/Release",
            "main/binary-arm64/Packages.gz",
            "x/binary-amd64/Packages",
        ];
        let made = release(DATE, "", &sums).unwrap();
        let of = |architecture| made.indexes(architecture).map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(of("amd64"), ["main/binary-amd64/Packages.xz", "x/binary-amd64/Packages"]);
        assert_eq!(of("arm64"), ["main/binary-arm64/Packages.gz"]);
        assert_eq!(of("all").len(), 3);
        let place = made.place_of(
            "base/dists/s",
            "main/binary-amd64/Packages.xz",
            &made.files["main/binary-amd64/Packages.xz"],
        );
        assert_eq!(place, format!("base/dists/s/main/binary-amd64/by-hash/SHA256/{}", "a".repeat(64)));
    }
}
