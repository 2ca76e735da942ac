//! The library, its header, the header's copy and a C program agree.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const HEADER: &str = "include/candle_semantic_router.h";

/// The directory of this build's shared library: tests run from `<profile>/deps`, beside or below it.
fn library_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.ancestors()
        .skip(1)
        .find(|dir| dir.join("libcandle_semantic_router.so").exists())
        .expect("cargo builds the cdylib before the tests")
        .to_owned()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn cc() -> Command {
    let mut command = Command::new(std::env::var_os("CC").unwrap_or("cc".into()));
    command.args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Iinclude"]);
    command
}

/// The functions that the header declares.
fn declared() -> BTreeSet<String> {
    let header = fs::read_to_string(HEADER).unwrap();
    let mut code = String::new();
    for (index, part) in header.split("/*").enumerate() {
        code += if index == 0 { part } else { part.split_once("*/").unwrap().1 };
    }
    let is_code = |line: &&str| !line.starts_with('#') && !line.starts_with("CANDLE_ASSERT");
    let code: String = code.lines().filter(is_code).collect::<Vec<_>>().join("\n");
    code.split(';')
        .filter_map(|statement| statement.split_once('('))
        .map(|(before, _)| before.rsplit([' ', '*', '\n']).next().unwrap().to_owned())
        .collect()
}

#[test]
fn library_exports_what_the_header_declares() {
    let library = library_dir().join("libcandle_semantic_router.so");
    let symbols = run(Command::new("nm").args(["-D", "--defined-only", "-P"]).arg(&library));
    let exported: BTreeSet<String> =
        symbols.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(exported, declared());
    assert!(exported.contains("get_text_embedding"));
}

#[test]
fn library_needs_only_the_c_runtime() {
    let library = library_dir().join("libcandle_semantic_router.so");
    let dynamic = run(Command::new("readelf").arg("-d").arg(&library));
    let known = ["libc.so", "libm.so", "libgcc_s.so", "libdl.so", "libpthread.so", "ld-linux"];
    for line in dynamic.lines().filter(|line| line.contains("(NEEDED)")) {
        assert!(known.iter().any(|name| line.contains(&format!("[{name}"))), "{line}");
    }
}

#[test]
fn copy_for_go_equals_the_header() {
    let copy = fs::read_to_string("candle_semantic_router.h").unwrap();
    assert!(
        copy == fs::read_to_string(HEADER).unwrap(),
        "run: cp {HEADER} candle_semantic_router.h"
    );
}

#[test]
fn header_is_strict_c_and_cpp() {
    for (language, standard) in [("c", "-std=c11"), ("c++", "-std=c++11")] {
        // gcc's C++ front end is a package of its own.
        if language == "c++" && Command::new("c++").arg("--version").output().is_err() {
            println!("skipped: no c++ on this machine");
            continue;
        }
        run(cc().args(["-x", language, standard, "-fsyntax-only", HEADER]));
    }
}

#[test]
fn c_program_runs_against_header_and_library() {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("smoke");
    let libraries = library_dir();
    run(cc()
        .args(["-std=c11", "tests/c/smoke.c", "-o"])
        .arg(&program)
        .arg("-L")
        .arg(&libraries)
        .args(["-lcandle_semantic_router", "-lm"]));
    let smoke = || {
        let mut command = Command::new(&program);
        command.env("LD_LIBRARY_PATH", &libraries);
        command
    };
    // One thread: the allocator's arenas of others would blur the count.
    run(smoke().arg(common::tiny_model()).arg("10000").env("RAYON_NUM_THREADS", "1"));
    if let Some(dir) = common::minilm() {
        run(smoke().arg(dir));
    }
}
