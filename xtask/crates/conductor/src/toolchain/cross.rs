//! Compiling for another machine: what each tool calls it, and zig as C compiler and linker.
//!
//! Zig brings the headers and stubs of every glibc, so that no foreign root file system is needed and results run with the C library
//! named, however new the one of this machine is. It comes as a wheel, pinned like any other.
//! Source: zig 0.15, `zig cc -target`; cargo's page "Configuration", `target.<triple>`; Go's `go help environment`.

use crate::platform::Platform;
use std::collections::BTreeMap;
use std::path::Path;

/// A platform that is not this machine's, and the oldest glibc that results have to run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cross {
    pub platform: Platform,
    pub glibc: (u32, u32),
}

impl Cross {
    /// `glibc 2.36`, as for compilers of this machine.
    pub fn libc(&self) -> String {
        let (major, minor) = self.glibc;
        format!("glibc {major}.{minor}")
    }

    /// `linux-arm64-glibc2.36`
    pub fn name(&self) -> String {
        format!("{}-{}", self.platform.name(), self.libc().replace(' ', ""))
    }

    /// The programs that stand for zig, by name. They are found on PATH: Go notes the name of its compiler in what it makes, and a path
    /// would make the bytes depend on the checkout. Zig with a target does not read LIBRARY_PATH.
    pub fn programs(&self, zig: &Path) -> BTreeMap<String, String> {
        let (major, minor) = self.glibc;
        let zig = format!("'{}'", zig.display().to_string().replace('\'', "'\\''"));
        let target = format!("{}-linux-gnu.{major}.{minor}", self.platform.machine_name());
        let compiler = |word: &str| {
            format!("#!/bin/sh\nexec {zig} {word} -target {target} \"$@\" ${{LIBRARY_PATH:+\"-L$LIBRARY_PATH\"}}\n")
        };
        [
            (self.program("cc"), compiler("cc")),
            (self.program("c++"), compiler("c++")),
            (self.program("ar"), format!("#!/bin/sh\nexec {zig} ar \"$@\"\n")),
        ]
        .into()
    }

    fn program(&self, tool: &str) -> String {
        format!("{}-linux-gnu-zig-{tool}", self.platform.machine_name())
    }

    /// What cargo, and build scripts that compile C, need besides PATH.
    pub fn cargo_variables(&self) -> BTreeMap<String, String> {
        let target = self.platform.rust_target();
        let name = target.replace('-', "_");
        [
            ("CARGO_BUILD_TARGET".to_owned(), target),
            (format!("CARGO_TARGET_{}_LINKER", name.to_uppercase()), self.program("cc")),
            (format!("CC_{name}"), self.program("cc")),
            (format!("CXX_{name}"), self.program("c++")),
            (format!("AR_{name}"), self.program("ar")),
        ]
        .into()
    }

    /// What go needs besides PATH.
    pub fn go_variables(&self) -> BTreeMap<String, String> {
        [
            ("GOOS", "linux".to_owned()),
            ("GOARCH", self.platform.architecture().to_owned()),
            ("CC", self.program("cc")),
            ("CXX", self.program("c++")),
            ("AR", self.program("ar")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tool_hears_its_own_name_of_a_platform() {
        let cross = Cross { platform: "linux/arm64".parse().unwrap(), glibc: (2, 36) };
        assert_eq!(cross.platform.rust_target(), "aarch64-unknown-linux-gnu");
        assert_eq!(cross.name(), "linux-arm64-glibc2.36");
        assert_eq!(cross.go_variables()["GOARCH"], "arm64");
        let cargo = cross.cargo_variables();
        assert_eq!(cargo["CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER"], "aarch64-linux-gnu-zig-cc");
        assert_eq!(cargo["CC_aarch64_unknown_linux_gnu"], "aarch64-linux-gnu-zig-cc");
        let programs = cross.programs(Path::new("/a b/it's/zig"));
        assert!(
            programs["aarch64-linux-gnu-zig-cc"].contains("'/a b/it'\\''s/zig' cc -target aarch64-linux-gnu.2.36 ")
        );
    }
}
