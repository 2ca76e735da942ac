//! The borders between the processes, as cargo sees them.
//!
//! Owns: which crates may be linked where. Never: guess from manifests what `cargo tree` can say.
//! Rules: ARCHITECTURE.md, "Invariants".

use crate::{read, repository};
use std::collections::BTreeSet;
use std::process::Command;

/// Crates that speak TLS, whoever calls them.
const TLS: &[&str] =
    &["rustls", "tokio-rustls", "native-tls", "openssl", "openssl-sys", "boring", "s2n-tls", "ring", "aws-lc-rs"];
const ASYNC_RUNTIMES: &[&str] = &["tokio", "async-std", "smol", "async-executor", "futures-executor", "mio"];

/// Names of the crates that `package` is made of on this platform, its own included. `edges` as `cargo tree -e` takes them.
fn crates(workspace: &str, package: &str, edges: &str) -> BTreeSet<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--package", package, "--edges", edges, "--prefix", "none", "--format", "{p}"])
        .current_dir(repository().join(workspace))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    // Two versions of one crate are two; `(*)` and `(proc-macro)` are remarks.
    let name = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    text.lines().filter(|line| !line.is_empty()).map(name).collect()
}

fn linked<'a>(crates: &BTreeSet<String>, names: &[&'a str]) -> Vec<&'a str> {
    let linked = |name: &&str| crates.iter().any(|it| it.split(' ').next() == Some(*name));
    names.iter().copied().filter(linked).collect()
}

#[test]
fn the_launcher_is_one_crate() {
    let crates = crates(".", "xtask", "all");
    assert_eq!(crates.len(), 1, "the launcher must compile with no index reachable: {crates:?}");
}

#[test]
fn the_conductor_links_no_tls_and_no_async_runtime_and_the_gateway_both() {
    let conductor = crates("xtask/crates", "conductor", "normal,build");
    assert_eq!(linked(&conductor, TLS), [""; 0]);
    assert_eq!(linked(&conductor, ASYNC_RUNTIMES), [""; 0]);
    // The same question finds them where they belong, so it would find them above.
    let gateway = crates("xtask/crates", "gateway", "normal,build");
    assert_eq!(linked(&gateway, &["rustls", "tokio"]), ["rustls", "tokio"]);
    let engine = crates("xtask/crates", "engine", "normal,build");
    assert_eq!(linked(&engine, &["bollard", "tokio"]), ["bollard", "tokio"]);
    for satellite in [gateway, engine] {
        let others = linked(&satellite, &["aws-lc-rs", "openssl-sys"]);
        assert_eq!(others, [""; 0], "one TLS provider, and no C build of minutes");
    }
}

#[test]
fn the_c_of_libzstd_is_for_those_who_ask_for_it() {
    for package in ["conductor", "engine", "gateway"] {
        assert_eq!(linked(&crates("xtask/crates", package, "normal,build"), &["zstd-sys"]), [""; 0], "{package}");
    }
    assert_eq!(linked(&crates("xtask/crates", "packer", "normal,build"), &["zstd-sys"]), ["zstd-sys"]);
}

#[test]
fn neither_satellite_nor_library_depends_on_the_conductor() {
    for package in ["debian", "engine", "gateway", "oci", "packer", "protocol"] {
        assert_eq!(linked(&crates("xtask/crates", package, "all"), &["conductor"]), [""; 0], "{package}");
    }
}

#[test]
fn the_image_format_knows_no_other_crate_of_ours_no_tls_and_no_async_runtime() {
    let oci = crates("xtask/crates", "oci", "normal,build");
    assert_eq!(linked(&oci, &["oci", "conductor", "gateway", "protocol"]), ["oci"]);
    assert_eq!(linked(&oci, TLS), [""; 0]);
    assert_eq!(linked(&oci, ASYNC_RUNTIMES), [""; 0]);
}

#[test]
fn a_base_knows_the_image_format_no_tls_and_no_async_runtime() {
    let debian = crates("xtask/crates", "debian", "normal,build");
    assert_eq!(linked(&debian, &["debian", "oci", "conductor", "gateway", "protocol"]), ["debian", "oci"]);
    assert_eq!(linked(&debian, TLS), [""; 0]);
    assert_eq!(linked(&debian, ASYNC_RUNTIMES), [""; 0]);
}

/// They are handed files and folders; whoever links them decides what the machine is asked. Only a layout makes and removes
/// files of its own, and a clock would show in digests.
#[test]
fn packages_and_images_are_made_with_no_process_no_socket_no_clock_and_no_environment() {
    let files = crate::repository_files();
    let never = ["Command", "Tcp", "Udp", "env::", "unsafe {", "SystemTime", "Instant", "thread"];
    for (package, at_least) in [("debian", 8), ("oci", 8)] {
        let folder = format!("xtask/crates/{package}/src");
        let sources: Vec<_> = files.iter().filter(|file| file.starts_with(&folder)).collect();
        assert!(sources.len() > at_least, "the sources of {package} were not found");
        for file in sources {
            let text = crate::tidy::without_tests(&read(file));
            let on_disk: &[&str] =
                if file.ends_with("oci/src/layout.rs") { &[] } else { &["set_permissions", "remove_file"] };
            for call in never.iter().chain(on_disk) {
                assert!(!text.contains(call), "{}: `{call}`", file.display());
            }
        }
    }
}

#[test]
fn the_conductor_stays_within_a_hundred_crates() {
    let crates = crates("xtask/crates", "conductor", "normal,build");
    assert!(crates.len() <= 100, "{} crates; every newcomer compiles each: {crates:?}", crates.len());
    // A listing that came out empty must not pass.
    assert_eq!(linked(&crates, &["conductor", "protocol", "clap"]), ["conductor", "protocol", "clap"]);
}

/// File (without `.rs`), function, and what its body must hold.
type Call = (&'static str, &'static str, &'static str);

/// xshell, cargo_metadata and clap do real work in every `cargo xtask build`: each row is the way from `main` to one of them, call
/// by call.
#[test]
fn xshell_cargo_metadata_and_clap_are_on_the_way_of_every_build() {
    let way: &[(&str, &[Call])] = &[
        ("clap", &[("main", "main", "Cli::try_parse()"), ("main", "main", "command::run(cli")]),
        (
            "cargo_metadata",
            &[
                ("command/mod", "build", "workshop.make("),
                ("execute/mod", "make", "self.gather("),
                ("execute/mod", "gather", "facts::gather("),
                ("facts/mod", "gather", "probe.library("),
                ("facts/native", "library", "self.manifest("),
                ("facts/native", "manifest", "Manifest::of_metadata("),
                ("toolchain/cargo", "of_metadata", "cargo_metadata::MetadataCommand::parse("),
            ],
        ),
        (
            "xshell",
            &[
                ("facts/mod", "gather", "probe.rust("),
                ("facts/probe", "rust", "self.ask("),
                ("facts/probe", "ask", "process::ask("),
                ("process", "ask", "xshell::Shell::new("),
            ],
        ),
    ];
    let direct = read("xtask/crates/conductor/Cargo.toml");
    let dependencies = direct.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    for (package, calls) in way {
        assert!(
            dependencies.lines().any(|line| line.starts_with(&format!("{package} = "))),
            "{package} is no direct dependency"
        );
        for (file, function, call) in *calls {
            let body = body(file, function);
            assert!(body.contains(call), "{package}: `{function}` in {file}.rs no longer calls `{call}…`");
        }
    }
}

/// The body of the first function of that name, tests excluded.
fn body(file: &str, function: &str) -> String {
    let text = read(format!("xtask/crates/conductor/src/{file}.rs"));
    let text = text.split("#[cfg(test)]").next().unwrap();
    let start =
        text.find(&format!("fn {function}(")).unwrap_or_else(|| panic!("{file}.rs has no function `{function}`"));
    let indent = start - text[..start].rfind('\n').map_or(0, |at| at + 1);
    let indent = text[start - indent..].chars().take_while(|c| *c == ' ').collect::<String>();
    text[start..].split(&format!("\n{indent}}}\n")).next().unwrap().to_owned()
}
