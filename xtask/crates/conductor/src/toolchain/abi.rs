//! Whether a root file system can start its programs: what each ELF file asks of others, and whether they are there and offer it.
//!
//! Owns: reading what the dynamic linker would read, and looking for libraries where it would look. Never: touch a disk, or guess: a
//! file that cannot be read as ELF and begins like one is a finding too.
//! Rules: ELF gABI chapter 5; ld.so(8) for the order of search. `LD_LIBRARY_PATH`, `dlopen` and unversioned symbols are not looked at.

use crate::platform::Platform;
use crate::tr;
use object::elf;
use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _};
use object::{Endianness, Object as _, ObjectSymbol as _};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

const MAGIC: &[u8] = b"\x7fELF";
/// Symbolic links that a path may lead through; Linux's own bound.
const MAX_LINKS: usize = 40;

/// What an ELF file asks for and offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linkage {
    /// `e_machine`: 62 is x86-64, 183 AArch64.
    pub machine: u16,
    pub interpreter: Option<String>,
    pub needed: Vec<String>,
    /// Folders of DT_RUNPATH, else of DT_RPATH, as they stand there.
    pub run_path: Vec<String>,
    /// Library → version of symbols that must come from it → one symbol that asks for it.
    pub wanted: BTreeMap<String, BTreeMap<String, String>>,
    /// Versions of the symbols that it defines.
    pub offered: BTreeSet<String>,
}

/// What one layer adds to the root, as far as a dynamic linker could notice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Path without a leading `/` → what it asks for and offers.
    pub files: BTreeMap<String, Linkage>,
    /// Path of a symbolic link → its target.
    pub links: BTreeMap<String, String>,
    /// Files that begin like ELF and cannot be read.
    pub unreadable: BTreeMap<String, String>,
    /// Paths at which nothing remains of the layers below.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub removed: BTreeSet<String>,
}

/// Why a program in the root would not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// The file that asks.
    pub subject: String,
    pub message: String,
}

impl Parts {
    /// Adds a file; one that is no ELF file is none of our business.
    pub fn add_file(&mut self, path: &str, bytes: &[u8]) {
        if !bytes.starts_with(MAGIC) {
            return;
        }
        match linkage(bytes) {
            Ok(linkage) => drop(self.files.insert(path.to_owned(), linkage)),
            Err(error) => drop(self.unreadable.insert(path.to_owned(), error.to_string())),
        }
    }

    /// Lays another layer over this one.
    pub fn add_layer(&mut self, above: &Self) {
        for path in &above.removed {
            let remains = |it: &String| {
                it.strip_prefix(path.as_str()).is_none_or(|rest| !(rest.is_empty() || rest.starts_with('/')))
            };
            self.files.retain(|it, _| remains(it));
            self.links.retain(|it, _| remains(it));
            self.unreadable.retain(|it, _| remains(it));
        }
        for path in above.files.keys().chain(above.links.keys()).chain(above.unreadable.keys()) {
            self.files.remove(path);
            self.links.remove(path);
            self.unreadable.remove(path);
        }
        self.files.extend(above.files.clone());
        self.links.extend(above.links.clone());
        self.unreadable.extend(above.unreadable.clone());
    }

    /// Whether a subject of a lack is a file of these.
    pub fn has(&self, subject: &str) -> bool {
        let path = subject.trim_start_matches('/');
        self.files.contains_key(path) || self.unreadable.contains_key(path)
    }

    /// Everything that is lacking on a machine of this kind, file by file.
    pub fn lacks(&self, machine: u16) -> Vec<Lack> {
        let mut lacks: Vec<Lack> = self
            .unreadable
            .iter()
            .map(|(path, error)| Lack {
                subject: format!("/{path}"),
                message: tr!("is no sound ELF file: {error}", error),
            })
            .collect();
        for (path, file) in &self.files {
            lacks.extend(
                self.lacks_of(path, file, machine).map(|message| Lack { subject: format!("/{path}"), message }),
            );
        }
        lacks
    }

    fn lacks_of(&self, path: &str, file: &Linkage, machine: u16) -> impl Iterator<Item = String> + use<> {
        let mut lacks = Vec::new();
        if file.machine != machine {
            lacks.push(tr!(
                "was made for {found}, and this image is for {wanted}",
                found = machine_name(file.machine),
                wanted = machine_name(machine)
            ));
            return lacks.into_iter();
        }
        if let Some(interpreter) = &file.interpreter
            && self.resolve(interpreter.trim_start_matches('/')).is_none()
        {
            lacks.push(tr!("is started by {interpreter}, which is not in the image", interpreter));
        }
        for library in &file.needed {
            let searched = self.folders(path, file);
            let found = searched.iter().find_map(|folder| self.resolve(&format!("{folder}/{library}")));
            let Some((place, offer)) = found else {
                let searched: Vec<String> = searched.iter().map(|folder| format!("/{folder}")).collect();
                lacks.push(tr!(
                    "needs {library}, which is in none of {searched}",
                    library,
                    searched = searched.join(", ")
                ));
                continue;
            };
            for (version, symbol) in file.wanted.get(library).into_iter().flatten() {
                if !offer.offered.contains(version) {
                    lacks.push(tr!(
                        "needs {symbol}@{version} of {library}; /{place} offers up to {newest}",
                        symbol,
                        version,
                        library,
                        place,
                        newest = newest_like(&offer.offered, version)
                    ));
                }
            }
        }
        lacks.into_iter()
    }

    /// Folders in which a library is looked for, without a leading `/`.
    fn folders(&self, path: &str, file: &Linkage) -> Vec<String> {
        let origin = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let own = file.run_path.iter().map(|folder| {
            let folder = folder.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", &format!("/{origin}"));
            plain(&folder)
        });
        let triple = match file.machine {
            AARCH64 => "aarch64-linux-gnu",
            _ => "x86_64-linux-gnu",
        };
        let usual = ["lib", "usr/lib"].into_iter().flat_map(|folder| [format!("{folder}/{triple}"), folder.to_owned()]);
        let wide = ["lib64", "usr/lib64"].map(str::to_owned);
        own.chain(usual).chain(wide).collect()
    }

    /// The file that a path leads to through links of folders and files, within the root.
    fn resolve(&self, path: &str) -> Option<(String, &Linkage)> {
        let mut rest: Vec<String> = plain(path).split('/').rev().map(str::to_owned).collect();
        let mut at = String::new();
        let mut followed = 0;
        while let Some(part) = rest.pop() {
            if part == ".." {
                at.truncate(at.rfind('/').unwrap_or(0));
                continue;
            }
            if part.is_empty() || part == "." {
                continue;
            }
            let next = if at.is_empty() { part } else { format!("{at}/{part}") };
            match self.links.get(&next) {
                None => at = next,
                Some(target) => {
                    followed += 1;
                    if followed > MAX_LINKS {
                        return None;
                    }
                    if target.starts_with('/') {
                        at.clear();
                    }
                    rest.extend(target.split('/').rev().map(str::to_owned));
                }
            }
        }
        let file = self.files.get(&at)?;
        Some((at, file))
    }
}

pub const X86_64: u16 = elf::EM_X86_64.0;
pub const AARCH64: u16 = elf::EM_AARCH64.0;

pub fn machine_of(platform: Platform) -> u16 {
    match platform {
        Platform::Amd64 => X86_64,
        Platform::Arm64 => AARCH64,
    }
}

fn machine_name(machine: u16) -> String {
    match machine {
        X86_64 => "x86-64".to_owned(),
        AARCH64 => "arm64".to_owned(),
        other => format!("ELF machine {other}"),
    }
}

/// Without `.`, `..` and empty parts, and without a leading `/`.
fn plain(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The newest version of the same series, `GLIBC_2.36` for `GLIBC_2.38`.
fn newest_like(offered: &BTreeSet<String>, version: &str) -> String {
    let series = |version: &str| version.rsplit_once('_').map(|(series, _)| series.to_owned());
    let number = |version: &str| -> Vec<u32> {
        let digits = version.rsplit_once('_').map_or("", |(_, number)| number);
        digits.split('.').map(|part| part.parse().unwrap_or(0)).collect()
    };
    let same = offered.iter().filter(|it| series(it) == series(version));
    same.max_by_key(|it| number(it)).cloned().unwrap_or_else(|| tr!("no version of that kind"))
}

fn linkage(bytes: &[u8]) -> object::Result<Linkage> {
    let file = ElfFile64::<Endianness>::parse(bytes)?;
    let endian = file.endian();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut found = Linkage { machine: file.elf_header().e_machine(endian).0, ..Linkage::default() };
    for segment in file.elf_program_headers() {
        found.interpreter = found.interpreter.or(segment.interpreter(endian, bytes)?.map(text));
    }
    let dynamic = file.elf_dynamic_table()?;
    let (mut run_path, mut old_run_path) = (Vec::new(), Vec::new());
    for entry in &dynamic {
        let list = |bytes| text(bytes).split(':').map(str::to_owned).collect();
        match entry.tag {
            elf::DT_NEEDED => found.needed.push(text(dynamic.string(entry)?)),
            elf::DT_RUNPATH => run_path = list(dynamic.string(entry)?),
            elf::DT_RPATH => old_run_path = list(dynamic.string(entry)?),
            _ => {}
        }
    }
    found.run_path = if run_path.is_empty() { old_run_path } else { run_path };
    let Some(versions) = file.elf_section_table().versions(endian, bytes)? else { return Ok(found) };
    for symbol in file.dynamic_symbols() {
        let index = versions.version_index(endian, symbol.index()).index();
        let Some(version) = versions.version(index)? else { continue };
        let name = text(version.name());
        match version.file() {
            Some(library) if symbol.is_undefined() && !symbol.is_weak() => {
                let symbols = found.wanted.entry(text(library)).or_default();
                symbols.entry(name).or_insert_with(|| symbol.name().unwrap_or_default().to_owned());
            }
            None => drop(found.offered.insert(name)),
            Some(_) => {}
        }
    }
    // A version may be defined for compatibility alone, without a symbol of its own.
    if let Some((mut definitions, _)) = file.elf_section_table().gnu_verdef(endian, bytes)? {
        let strings = file.elf_dynamic_symbol_table().strings();
        while let Some((_, mut names)) = definitions.next()? {
            if let Some(name) = names.next()? {
                found.offered.insert(text(name.name(endian, strings)?));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(offered: &[&str]) -> Linkage {
        let offered = offered.iter().map(|it| (*it).to_owned()).collect();
        Linkage { machine: X86_64, offered, ..Linkage::default() }
    }

    fn program() -> Linkage {
        let wanted = [("libc.so.6", "GLIBC_2.34", "__libc_start_main"), ("libc.so.6", "GLIBC_2.2.5", "free")];
        let mut program = Linkage {
            machine: X86_64,
            interpreter: Some("/lib64/ld-linux-x86-64.so.2".to_owned()),
            needed: vec!["libown.so".to_owned(), "libc.so.6".to_owned()],
            run_path: vec!["$ORIGIN/../lib".to_owned()],
            ..Linkage::default()
        };
        for (library, version, symbol) in wanted {
            program.wanted.entry(library.to_owned()).or_default().insert(version.to_owned(), symbol.to_owned());
        }
        program
    }

    /// As in merged-/usr: every usual folder is a link.
    fn root() -> Parts {
        let mut parts = Parts::default();
        for (link, target) in [
            ("lib", "usr/lib"),
            ("lib64", "usr/lib64"),
            ("usr/lib64/ld-linux-x86-64.so.2", "../lib/x86_64-linux-gnu/ld.so"),
        ] {
            parts.links.insert(link.to_owned(), target.to_owned());
        }
        for (path, linkage) in [
            (
                "usr/lib/x86_64-linux-gnu/libc.so.6",
                library(&["GLIBC_2.2.5", "GLIBC_2.34", "GLIBC_2.4", "GLIBC_PRIVATE"]),
            ),
            ("usr/lib/x86_64-linux-gnu/ld.so", library(&[])),
            ("app/lib/libown.so", library(&[])),
            ("app/bin/program", program()),
        ] {
            parts.files.insert(path.to_owned(), linkage);
        }
        parts
    }

    #[test]
    fn a_root_that_has_everything_lacks_nothing() {
        assert_eq!(root().lacks(X86_64), []);
    }

    #[test]
    fn each_thing_that_is_missing_is_named_with_the_file_that_asks() {
        type Damage = fn(&mut Parts);
        let cases: [(Damage, &str); 7] = [
            (
                |it| drop(it.files.remove("app/lib/libown.so")),
                "needs libown.so, which is in none of /app/lib, /lib/x86_64-linux-gnu",
            ),
            (
                |it| drop(it.links.remove("lib64")),
                "is started by /lib64/ld-linux-x86-64.so.2, which is not in the image",
            ),
            (
                |it| {
                    let libc = it.files.get_mut("usr/lib/x86_64-linux-gnu/libc.so.6").unwrap();
                    libc.offered.remove("GLIBC_2.34");
                },
                "needs __libc_start_main@GLIBC_2.34 of libc.so.6; /usr/lib/x86_64-linux-gnu/libc.so.6 offers up to GLIBC_2.4",
            ),
            (
                |it| it.files.get_mut("app/bin/program").unwrap().machine = AARCH64,
                "was made for arm64, and this image is for x86-64",
            ),
            (
                |it| it.files.get_mut("app/bin/program").unwrap().run_path.clear(),
                "needs libown.so, which is in none of",
            ),
            (|it| drop(it.links.insert("lib".to_owned(), "lib".to_owned())), ""),
            (|it| it.add_file("app/bin/program2", b"\x7fELF and nothing more"), "is no sound ELF file"),
        ];
        for (damage, message) in cases {
            let mut root = root();
            damage(&mut root);
            let lacks = root.lacks(X86_64);
            if message.is_empty() {
                assert_eq!(lacks, [], "usr/lib is searched too");
                continue;
            }
            assert_eq!(lacks.len(), 1, "{lacks:?}");
            assert!(lacks[0].subject.starts_with("/app/bin/program"));
            assert!(lacks[0].message.starts_with(message), "{lacks:?}");
        }
    }

    #[test]
    fn what_a_higher_layer_puts_there_counts() {
        let (mut below, mut above) = (root(), Parts::default());
        above.links.insert("app/lib/libown.so".to_owned(), "nowhere".to_owned());
        below.add_layer(&above);
        assert_eq!(below.lacks(X86_64).len(), 1);
    }

    #[test]
    fn what_a_higher_layer_removes_is_not_there() {
        for (removed, lacks) in [("app/lib", 1), ("app/lib/libown.so", 1), ("app/li", 0), ("app", 0), ("lib64", 1)] {
            let (mut below, mut above) = (root(), Parts::default());
            above.removed.insert(removed.to_owned());
            below.add_layer(&above);
            assert_eq!(below.lacks(X86_64).len(), lacks, "{removed}");
        }
    }

    #[test]
    fn the_running_test_asks_for_the_libc_of_this_machine() {
        let mut parts = Parts::default();
        parts.add_file("x", &std::fs::read(std::env::current_exe().unwrap()).unwrap());
        let linkage = &parts.files["x"];
        assert!(linkage.needed.contains(&"libc.so.6".to_owned()), "{linkage:?}");
        assert!(linkage.interpreter.as_ref().unwrap().contains("ld-linux"));
        assert!(linkage.wanted["libc.so.6"].keys().all(|version| version.starts_with("GLIBC_")), "{linkage:?}");
        parts.add_file("text", b"#!/bin/sh\n");
        assert_eq!(parts.files.len(), 1);
    }
}
