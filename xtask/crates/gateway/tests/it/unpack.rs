//! Archives cannot escape, lie or explode.

use crate::gateway::{Folder, Gateway, setup};
use crate::server::sha256;
use crate::zips::{Member, deflated, member, zip};
use protocol::{Ecosystem, Failure, FailureKind, Job, Outcome, Unpack, UnpackedFile};
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn unpack(folder: &Folder, archive: &[u8], change: impl FnOnce(&mut Unpack)) -> Result<Vec<UnpackedFile>, Failure> {
    let destination = folder.0.join("destination");
    let _ = fs::remove_dir_all(&destination);
    fs::create_dir(&destination).unwrap();
    fs::write(folder.0.join("a.zip"), archive).unwrap();
    let mut job = Unpack {
        archive: folder.0.join("a.zip"),
        destination,
        strip_prefix: String::new(),
        only: Vec::new(),
        executable: Vec::new(),
        max_bytes: 64 << 20,
        max_entries: 100,
    };
    change(&mut job);
    match Gateway::start(&setup(folder, Ecosystem::File, &[])).perform(Job::Unpack(job))? {
        Outcome::Unpacked { files } => Ok(files),
        other => unreachable!("unpacking ended with {other:?}"),
    }
}

#[test]
fn a_sound_archive_is_unpacked_as_asked() {
    let folder = Folder::new();
    let archive = zip(&[
        Member { mode: 0o040_755, ..member("tool@v1/", "") },
        member("tool@v1/pkg/tool/compile", "code"),
        deflated("tool@v1/src/z.go", vec![b'z'; 100_000]),
        Member { mode: 0o104_755, ..member("tool@v1/src/run.sh", "#!") },
        Member { mode: 0, ..member("tool@v1/test/left.out", "no") },
    ]);
    let files = unpack(&folder, &archive, |job| {
        job.strip_prefix = "tool@v1/".into();
        job.only = vec!["src/".into(), "pkg/".into()];
        job.executable = vec!["pkg/tool/".into()];
    })
    .unwrap();
    let told: Vec<_> = files.iter().map(|file| (file.path.as_str(), file.size_bytes, file.executable)).collect();
    assert_eq!(told, [("pkg/tool/compile", 4, true), ("src/run.sh", 2, true), ("src/z.go", 100_000, false)]);
    for file in &files {
        let path = folder.0.join("destination").join(&file.path);
        assert_eq!(sha256(&fs::read(&path).unwrap()), file.sha256);
        // Set-user-id and everything else but the x bit is dropped.
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            if file.executable { 0o755 } else { 0o644 }
        );
    }
    assert_eq!(folder.files("destination"), ["compile", "run.sh", "z.go"]);
}

#[test]
fn hostile_archives_are_refused_and_leave_the_surroundings_alone() {
    let folder = Folder::new();
    fs::write(folder.0.join("canary"), "alive").unwrap();
    let file = |name: &str| vec![member("fine", "x"), member(name, "evil")];
    let typed = |mode| vec![Member { mode, ..member("link", "../canary") }];
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("parent", zip(&file("../canary"))),
        ("inner parent", zip(&file("a/../../canary"))),
        ("absolute", zip(&file("/tmp/canary"))),
        ("backslash", zip(&file("..\\canary"))),
        ("drive", zip(&file("C:canary"))),
        ("dot", zip(&file("./canary"))),
        ("empty part", zip(&file("a//b"))),
        ("control character", zip(&file("a\nb"))),
        ("NUL", zip(&file("a\0b"))),
        ("not UTF-8", zip(&[member([0xff, 0xfe], "x")])),
        ("long part", zip(&file(&"n".repeat(300)))),
        ("symlink", zip(&typed(0o120_777))),
        ("FIFO", zip(&typed(0o010_644))),
        ("device", zip(&typed(0o060_644))),
        ("folder that is a file", zip(&[Member { mode: 0o040_755, ..member("d", "x") }])),
        ("same name twice", zip(&[member("a", "1"), member("a", "2")])),
        ("file and folder", zip(&[member("a", "1"), member("a/b", "2")])),
        ("encrypted", zip(&[Member { flags: 1, ..member("a", "123456789012345") }])),
        ("two names", zip(&[Member { local_name: Some(b"b".to_vec()), ..member("a", "1") }])),
        ("bomb", zip(&[deflated("zeros", vec![0; 65 << 20])])),
        ("ratio", zip(&[deflated("zeros", vec![0; 20 << 20])])),
        ("too many", zip(&(0..101).map(|n| member(format!("f{n}"), "")).collect::<Vec<_>>())),
        ("cut", zip(&[member("a", "1")])[..40].to_vec()),
        ("a lie about size", zip(&[Member { inflated: Some(vec![0; 10]), ..deflated("a", vec![0; 1000]) }])),
        ("no archive", b"<html>hello</html>".to_vec()),
    ];
    for (case, archive) in cases {
        let failure = unpack(&folder, &archive, |_| {}).expect_err(case);
        assert_eq!(failure.kind, FailureKind::Integrity, "{case}: {}", failure.message);
        assert!(failure.message.len() > 10, "{case}");
        let mut around: Vec<_> = fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        around.sort();
        assert_eq!(around, ["a.zip", "canary", "destination", "downloads"], "{case}");
        assert_eq!(fs::read(folder.0.join("canary")).unwrap(), b"alive", "{case}");
    }
}

#[test]
fn an_entry_outside_the_prefix_and_a_used_destination_are_refused() {
    let folder = Folder::new();
    let archive = zip(&[member("a/x", "1"), member("b/y", "2")]);
    let failure = unpack(&folder, &archive, |job| job.strip_prefix = "a/".into()).unwrap_err();
    assert!(failure.kind == FailureKind::Integrity && failure.message.contains("`b/y`"), "{failure:?}");
    let used = |job: &mut Unpack| fs::write(job.destination.join("here"), "first").unwrap();
    assert_eq!(unpack(&folder, &archive, used).unwrap_err().kind, FailureKind::Disk);
}
