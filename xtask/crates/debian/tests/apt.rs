//! Our closures beside those of apt, from the lists that this machine has.
//!
//! Owns: the comparison with the real tool. Never: download; without apt or its lists it says so and ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use debian::{Index, resolve};
use std::collections::BTreeSet;
use std::process::Command;

fn ask(program: &str, arguments: &[&str]) -> Option<Vec<u8>> {
    let output = Command::new(program).args(arguments).env("LC_ALL", "C").output().ok()?;
    output.status.success().then_some(output.stdout)
}

fn text(program: &str, arguments: &[&str]) -> Option<String> {
    String::from_utf8(ask(program, arguments)?).ok()
}

/// The packages of every list here, with the architecture of the machine.
fn index() -> Option<Index> {
    let architecture = text("dpkg", &["--print-architecture"])?;
    let format = ["indextargets", "--format", "$(FILENAME)", "Created-By: Packages"];
    let mut index = Index::new(architecture.trim());
    let lists = text("apt-get", &format)?;
    for list in lists.lines() {
        let bytes = ask("/usr/lib/apt/apt-helper", &["cat-file", list])?;
        index.read(list, "base", bytes.as_slice()).unwrap();
    }
    (!lists.is_empty()).then_some(index)
}

/// What apt would install on a machine that has nothing.
fn apt(names: &[&str]) -> BTreeSet<String> {
    let nothing = ["-s", "-o", "Dir::State::status=/dev/null", "-o", "APT::Install-Recommends=false", "install"];
    let said = text("apt-get", &[&nothing[..], names].concat()).unwrap();
    // `Inst libc6 (2.36-9+deb12u10 Debian:12.11/stable [amd64])`
    let installed = said.lines().filter_map(|line| line.strip_prefix("Inst "));
    installed.map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ").replace('(', "")).collect()
}

#[test]
fn closures_are_those_of_apt() {
    let Some(index) = index() else {
        eprintln!("skipped: apt or its lists are not on this machine");
        return;
    };
    for names in [
        &["libc6"][..],
        &["ca-certificates", "tzdata"],
        &["python3.11", "libstdc++6"],
        &["git", "curl"],
        &["base-files", "mawk"],
    ] {
        let owned = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let known = owned.iter().all(|name| index.get(name).is_some());
        if !known {
            eprintln!("skipped: these lists have not all of {names:?}");
            continue;
        }
        let ours = resolve(&index, &owned, &[]).unwrap_or_else(|error| panic!("{names:?}: {error}"));
        let ours: BTreeSet<_> = ours.iter().map(|it| format!("{} {}", it.name, it.version)).collect();
        assert!(ours.len() > names.len() || names == ["libc6"], "{ours:?}");
        assert_eq!(ours, apt(names), "{names:?}");
    }
}
