//! What a Go program says of itself: the toolchain that made it and the modules that it is linked from.
//!
//! Never: guess. A program without build information, or with one that is not understood, is an error.
//! Rules: Go's own reader, `debug/buildinfo`, for the form since Go 1.18; `runtime/debug.BuildInfo` for the lines.

use crate::error::{Code, Error, Result};
use crate::files;
use crate::tr;
use object::{Object as _, ObjectSection as _};
use std::path::Path;

const MAGIC: &[u8] = b"\xff Go buildinf:";
/// The flag that says that both texts follow.
const INLINE: u8 = 2;
const HEADER_BYTES: usize = 32;
/// Around the list of modules, so that it is found in a core dump too.
const MARK_BYTES: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildInfo {
    /// `1.27.3`
    pub go: String,
    /// The main module first.
    pub modules: Vec<Module>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    pub path: String,
    /// None for what lies in the checkout.
    pub version: Option<String>,
}

pub fn of_file(program: &Path) -> Result<BuildInfo> {
    let bytes = files::read(program)?;
    let section = object::File::parse(&*bytes).ok().and_then(|file| {
        let section = file.section_by_name(".go.buildinfo")?;
        section.data().ok().map(<[u8]>::to_vec)
    });
    section.as_deref().and_then(parse).ok_or_else(|| {
        let program = program.display();
        Error::new(Code::BadPackage, tr!("{program} does not say which Go modules it is made of", program))
            .hint(tr!("build it with Go 1.18 or newer, and leave it its section .go.buildinfo"))
    })
}

fn parse(section: &[u8]) -> Option<BuildInfo> {
    let flags = *section.strip_prefix(MAGIC)?.get(1)?;
    if flags & INLINE == 0 {
        return None;
    }
    let (go, rest) = text(section.get(HEADER_BYTES..)?)?;
    let (modules, _) = text(rest)?;
    let go = std::str::from_utf8(go).ok()?.strip_prefix("go")?;
    // `go1.27.3 X:experiment`
    let go = go.split(' ').next()?.to_owned();
    let marked = modules.get(MARK_BYTES..modules.len().checked_sub(MARK_BYTES)?)?;
    let mut found: Vec<Module> = Vec::new();
    for line in std::str::from_utf8(marked).ok()?.lines() {
        let mut words = line.split('\t');
        let kind = words.next()?;
        if !matches!(kind, "mod" | "dep" | "=>") {
            continue;
        }
        let (path, version) = (words.next()?, words.next().filter(|it| !matches!(*it, "" | "(devel)")));
        if kind != "=>" {
            found.push(Module { path: path.to_owned(), version: version.map(str::to_owned) });
            continue;
        }
        // What stands in for the module before.
        let replaced = found.last_mut()?;
        replaced.version = version.map(str::to_owned);
        if version.is_some() {
            path.clone_into(&mut replaced.path);
        }
    }
    (!found.is_empty()).then_some(BuildInfo { go, modules: found })
}

/// A length as a varint, and as many bytes.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length = 0_usize;
    for (index, byte) in bytes.iter().enumerate().take(9) {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return bytes.get(index + 1..)?.split_at_checked(length);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(modules: &str) -> Vec<u8> {
        let text =
            |text: &[u8]| [vec![(text.len() & 0x7f | 0x80) as u8, (text.len() >> 7) as u8], text.to_vec()].concat();
        let marked = [&[7; MARK_BYTES], modules.as_bytes(), &[9; MARK_BYTES]].concat();
        [MAGIC, &[8, INLINE], &[0; 16], &text(b"go1.27.3 X:none"), &text(&marked)].concat()
    }

    #[test]
    fn modules_are_those_that_are_linked_replacements_in_place_of_what_they_replace() {
        let lines = "path\tsemantic-router/cmd\nmod\tsemantic-router\t(devel)\t\ndep\tbinding\tv0.0.0\n=>\t../../binding\t(devel)\t\n\
            dep\ta.example/b\tv1.2.0\th1:x=\ndep\tc.example/d\tv1.0.0\n=>\te.example/d\tv1.1.0\th1:y=\nbuild\t-compiler=gc\n";
        let info = parse(&section(lines)).unwrap();
        assert_eq!(info.go, "1.27.3");
        let modules: Vec<_> = info.modules.iter().map(|it| (it.path.as_str(), it.version.as_deref())).collect();
        let expected = [
            ("semantic-router", None),
            ("binding", None),
            ("a.example/b", Some("v1.2.0")),
            ("e.example/d", Some("v1.1.0")),
        ];
        assert_eq!(modules, expected);
    }

    #[test]
    fn what_is_no_build_information_is_not_guessed_at() {
        let whole = section("mod\tx\tv1.0.0\n");
        assert!(parse(&whole).is_some());
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), None, "{end}");
        }
        assert_eq!(parse(&section("path\tx\n")), None);
        let mut pointers = whole;
        pointers[MAGIC.len() + 1] = 0;
        assert_eq!(parse(&pointers), None);
    }
}
