//! Pins of Debian bases: a suite's signed indexes → the closure of the declared packages → name, version and hash of each.
//!
//! Owns: that nothing is believed of an archive but what a key of the keyring signed: InRelease by gpgv, each index by the hash in
//! it, each package later by the hash in the index. Never: choose a package; `debian` does.
//! Rules: Debian repository format; gpgv(1), and GnuPG's doc/DETAILS for what it says on its status channel.

use crate::error::{Code, Error, Result};
use crate::execute::Workshop;
use crate::execute::base::explain;
use crate::files;
use crate::platform::Platform;
use crate::process::{self, Invocation};
use crate::project::DebianBase;
use crate::project::pins::DebianPin;
use crate::settings::env;
use crate::tr;
use debian::{Decoder, Index, Release};
use protocol::Artifact;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

const COMPONENT: &str = "main";
/// Where the package `debian-archive-keyring` puts it, on other distributions too.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Debian's largest unpacks to 55 MB.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// What of the archives was asked for and verified in this run: bases share suites.
pub struct Archives<'a> {
    workshop: &'a Workshop<'a>,
    /// Archive, suite and keyring → what it says.
    releases: BTreeMap<(&'static str, String, PathBuf), Rc<Release>>,
    /// Suite, architecture and keyring → its packages with all updates.
    indexes: BTreeMap<(String, &'static str, PathBuf), Rc<Index>>,
}

impl<'a> Archives<'a> {
    pub fn new(workshop: &'a Workshop<'a>) -> Self {
        Self { workshop, releases: BTreeMap::new(), indexes: BTreeMap::new() }
    }

    /// The closure of a base on each platform, sorted by name.
    pub fn pins(&mut self, name: &str, base: &DebianBase) -> Result<BTreeMap<String, Vec<DebianPin>>> {
        let keyring = self.keyring(name, base)?;
        let mut pins = BTreeMap::new();
        for platform in Platform::ALL {
            let index = self.index(name, &base.suite, platform.architecture(), &keyring)?;
            let closure = debian::resolve(&index, &base.packages, &base.without);
            let closure = closure.map_err(|error| explain(name, error))?;
            pins.insert(platform.name(), closure.into_iter().map(pin).collect::<Result<_>>()?);
        }
        Ok(pins)
    }

    fn keyring(&self, name: &str, base: &DebianBase) -> Result<PathBuf> {
        let root = &self.workshop.settings.workspace.root;
        let keyring = base.keyring.as_ref().map_or_else(|| PathBuf::from(KEYRING), |path| root.join(path));
        if keyring.is_file() {
            return Ok(keyring);
        }
        let message = tr!("there is no keyring {keyring} to verify Debian with", keyring = keyring.display());
        Err(Error::new(Code::CannotPin, message).hint(tr!(
            "install the package debian-archive-keyring, or name a keyring in `keyring` of [debian-base.{name}]",
            name
        )))
    }

    fn index(&mut self, name: &str, suite: &str, architecture: &'static str, keyring: &Path) -> Result<Rc<Index>> {
        let key = (suite.to_owned(), architecture, keyring.to_owned());
        if let Some(index) = self.indexes.get(&key) {
            return Ok(Rc::clone(index));
        }
        let mut index = Index::new(architecture);
        for (archive, suite) in [
            ("base", suite.to_owned()),
            ("base", format!("{suite}-updates")),
            ("security", format!("{suite}-security")),
        ] {
            self.read(name, &mut index, archive, &suite, keyring)?;
        }
        let index = Rc::new(index);
        self.indexes.insert(key, Rc::clone(&index));
        Ok(index)
    }

    /// Takes in one suite's packages.
    fn read(
        &mut self,
        name: &str,
        index: &mut Index,
        archive: &'static str,
        suite: &str,
        keyring: &Path,
    ) -> Result<()> {
        let place = format!("{archive}/dists/{suite}");
        let listed = self.release(name, archive, suite, keyring)?.packages(COMPONENT, &index.architecture);
        let listed = listed.ok_or_else(|| {
            let architecture = &index.architecture;
            Error::new(Code::IndexLacks, tr!("{place} has no packages for {architecture}", place, architecture))
        })?;
        let path = format!("{place}/{path}", path = listed.path);
        let artifact = Artifact::Debian { path, sha256: listed.sha256, size_bytes: listed.size_bytes };
        let outside = &self.workshop.outside;
        let fetched = outside.gateway()?.fetch("lock", artifact, |_| {});
        let path = fetched.map_err(|error| outside.with_ways(error))?.path;
        let unreadable = |error| Error::disk("read", &path, error);
        let file = File::open(&path).map_err(unreadable)?;
        let text = Decoder::new(listed.compression, file).map_err(unreadable)?;
        let text = BufReader::new(text.take(MAX_INDEX_BYTES));
        let subject = format!("Packages of {place} for {}", index.architecture);
        index.read(&subject, archive, text).map_err(|error| explain(name, error))
    }

    fn release(&mut self, name: &str, archive: &'static str, suite: &str, keyring: &Path) -> Result<Rc<Release>> {
        let key = (archive, suite.to_owned(), keyring.to_owned());
        if let Some(release) = self.releases.get(&key) {
            return Ok(Rc::clone(release));
        }
        let place = format!("{archive}/dists/{suite}");
        let outside = &self.workshop.outside;
        let text = outside.gateway()?.release(&place).map_err(|error| outside.with_ways(error))?;
        let signed = self.verified(&place, &text, keyring)?;
        let release = Release::read(&format!("InRelease of {place}"), &signed);
        let release = release.map_err(|error| explain(name, error))?;
        if !release.is_of(suite) {
            let message = tr!("what the mirrors give as {place} is signed for another suite", place);
            return Err(Error::new(Code::OtherBytes, message));
        }
        let release = Rc::new(release);
        self.releases.insert(key, Rc::clone(&release));
        Ok(release)
    }

    /// What of an InRelease a key of the keyring signed.
    fn verified(&self, place: &str, text: &str, keyring: &Path) -> Result<String> {
        let settings = self.workshop.settings;
        let program = settings.environment.find("gpgv").ok_or_else(|| {
            Error::new(Code::CannotStart, tr!("verifying Debian's signatures needs `gpgv`"))
                .hint(tr!("install the package gpgv (Debian, Ubuntu) or gnupg2 (Fedora)"))
        })?;
        let folder = files::temporary_folder(&settings.workspace.build(), "lock")?;
        let (signed, plain) = (folder.join("InRelease"), folder.join("Release"));
        let answer = files::write(&signed, text.as_bytes()).and_then(|()| {
            let fixed = ["--status-fd", "1", "--keyring"].map(OsString::from);
            let paths = [keyring.into(), "--output".into(), plain.clone().into(), signed.clone().into()];
            let invocation = Invocation {
                program,
                arguments: fixed.into_iter().chain(paths).collect(),
                directory: folder.clone(),
                environment: settings.environment.only(env::PASSED),
            };
            let output = process::capture(&invocation).map_err(|error| {
                let message = tr!("`{command_line}` does not answer", command_line = invocation.command_line());
                Error::new(Code::NoAnswer, message).because(error)
            })?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            if !is_signed(&said, text) {
                let message = tr!(
                    "no key of {keyring} signed what the mirrors give as {place}",
                    place,
                    keyring = keyring.display()
                );
                return Err(Error::new(Code::OtherBytes, message)
                    .excerpt(String::from_utf8_lossy(&output.stderr).into_owned())
                    .hint(tr!("a newer debian-archive-keyring may have the key; if not, leave that mirror out")));
            }
            files::read_text(&plain)
        });
        files::remove(&folder)?;
        answer
    }
}

/// Whether gpgv found a good signature of a valid key and no bad one. It judges each signature by itself: one of several may be by a
/// key that is newer than the keyring. A text of several messages is none of Debian's, and who signed which would be open.
fn is_signed(status: &str, text: &str) -> bool {
    let says = |word: &str| {
        let found = |line: &str| line.strip_prefix("[GNUPG:] ").and_then(|line| line.split(' ').next()) == Some(word);
        status.lines().any(found)
    };
    let once = |mark: &str| text.matches(mark).count() == 1;
    says("GOODSIG")
        && says("VALIDSIG")
        && !says("BADSIG")
        && once("-----BEGIN PGP SIGNED MESSAGE-----")
        && once("-----BEGIN PGP SIGNATURE-----")
}

fn pin(package: &debian::Package) -> Result<DebianPin> {
    let sha256 = package.sha256.parse();
    Ok(DebianPin {
        name: package.name.clone(),
        version: package.version.to_string(),
        architecture: package.architecture.clone(),
        path: format!("{}/{}", package.archive, package.path),
        sha256: sha256.map_err(|error| Error::new(Code::IndexLacks, tr!("a hash of the index")).because(error))?,
        size_bytes: package.size_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_signature_counts_and_a_bad_one_beside_it_undoes_it() {
        let text = "-----BEGIN PGP SIGNED MESSAGE-----\nx\n-----BEGIN PGP SIGNATURE-----\n";
        let good = "[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG 1 a\n[GNUPG:] VALIDSIG 2\n";
        assert!(is_signed(good, text));
        assert!(is_signed(&format!("[GNUPG:] ERRSIG 3 1 8 01 1 9 -\n[GNUPG:] NO_PUBKEY 3\n{good}"), text));
        for status in [
            "",
            "GOODSIG\nVALIDSIG\n",
            "[GNUPG:] ERRSIG 3 1 8 01 1 9 -\n[GNUPG:] NO_PUBKEY 3\n",
            "[GNUPG:] EXPKEYSIG 1 a\n[GNUPG:] VALIDSIG 2\n",
            "[GNUPG:] REVKEYSIG 1 a\n[GNUPG:] VALIDSIG 2\n",
            &format!("{good}[GNUPG:] BADSIG 1 a\n"),
        ] {
            assert!(!is_signed(status, text), "{status}");
        }
        assert!(!is_signed(good, &text.repeat(2)));
    }
}
