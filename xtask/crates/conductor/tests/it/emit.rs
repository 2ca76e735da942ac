//! `cargo xtask emit dockerfile` where nothing has to be fetched: what is written, where, and over what it is not.
//!
//! Owns: the driven program on an image out of plain files. What BuildKit makes of a Dockerfile is tested in tests/test_source.py.

use crate::cli::{Ended, Project};
use std::fs;
use std::path::PathBuf;

const IMAGE: &str = r#"project.name = "demo"
[image.small]
entrypoint = ["/app/start"]
user = "1000:1000"
[[image.small.layer]]
name = "program"
files = [{ from = { path = "start" }, to = "/app/start", mode = "0755" }]
[mirror.lab.go]
proxy = ["https://me:hunter2@go.lab"]
[mirror.lab.python]
list = ["https://python.lab/simple/"]
"#;

fn project() -> Project {
    let project = Project::new();
    project.folder.write("xtask.toml", IMAGE);
    project.folder.write("start", "#!/bin/sh\n");
    project
}

fn written(project: &Project, path: &str) -> String {
    fs::read_to_string(project.folder.0.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn must_succeed(ended: &Ended) {
    assert_eq!(ended.exit, 0, "{}", ended.stderr);
}

/// Files below the checkout's folder, if there is one.
fn names(project: &Project, folder: &str) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(project.folder.0.join(folder)).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

#[test]
fn the_files_say_what_was_declared_and_are_the_same_each_time() {
    let project = project();
    let ended = project.run("emit dockerfile --format json");
    must_succeed(&ended);
    let artifacts: Vec<_> = ended.json().into_iter().filter(|line| line["event"] == "artifact").collect();
    let named: Vec<_> = artifacts.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(named, ["dist/docker/small.Dockerfile", "dist/docker/small.Dockerfile.dockerignore"]);
    let text = written(&project, named[0]);
    let said: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let wanted = [
        "FROM scratch",
        "COPY --chmod=0755 start /app/start",
        "WORKDIR /",
        "USER 1000:1000",
        "ENTRYPOINT [\"/app/start\"]",
    ];
    assert_eq!(said, wanted);
    assert!(!text.contains("syntax="), "{text}");
    let ignore = written(&project, named[1]);
    assert_eq!(ignore.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>(), ["*", "!start"]);

    let before = fs::metadata(project.folder.0.join(named[0])).unwrap().modified().unwrap();
    must_succeed(
        &project.run_with("emit dockerfile small", &[("LANG", "zh_CN.UTF-8"), ("HTTPS_PROXY", "http://proxy.lab")]),
    );
    assert_eq!(
        fs::metadata(project.folder.0.join(named[0])).unwrap().modified().unwrap(),
        before,
        "it was written again"
    );

    must_succeed(&project.run("clean"));
    assert!(names(&project, "dist/docker").is_empty());
}

#[test]
fn what_somebody_wrote_or_edited_stays_as_it_is() {
    let project = project();
    for text in ["FROM debian\n", "edited"] {
        if text == "edited" {
            must_succeed(&project.run("emit dockerfile --output docker"));
            let edited = written(&project, "docker/small.Dockerfile") + "LABEL a=b\n";
            project.folder.write("docker/small.Dockerfile", &edited);
        } else {
            project.folder.write("docker/small.Dockerfile", text);
        }
        let before = (written(&project, "docker/small.Dockerfile"), names(&project, "docker"));
        let ended = project.run("emit dockerfile --output docker");
        assert_eq!(ended.exit, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains("is not as this tool wrote it"), "{}", ended.stderr);
        assert_eq!((written(&project, "docker/small.Dockerfile"), names(&project, "docker")), before);
        fs::remove_file(project.folder.0.join("docker/small.Dockerfile")).unwrap();
    }
}

#[test]
fn a_dry_run_writes_nothing_and_a_folder_outside_is_refused() {
    let project = project();
    let ended = project.run("emit dockerfile --dry-run");
    must_succeed(&ended);
    assert!(ended.stderr.contains("would write dist/docker/small.Dockerfile"), "{}", ended.stderr);
    assert!(names(&project, "dist").is_empty());
    for outside in ["/tmp", ".."] {
        let ended = project.run(&format!("emit dockerfile --output {outside}"));
        assert_eq!(ended.exit, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains("is no folder inside"), "{}", ended.stderr);
    }
    let ended = project.run("emit dockerfile smal");
    assert_eq!(ended.exit, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("`small`"), "{}", ended.stderr);
}

#[test]
fn a_mirror_is_in_files_beside_the_dockerfile_and_its_credential_only_where_it_was_asked_for() {
    let project = project();
    must_succeed(&project.run("emit dockerfile"));
    let plain = written(&project, "dist/docker/small.Dockerfile");
    let ended = project.run("emit dockerfile --mirror lab");
    must_succeed(&ended);
    assert!(ended.stderr.contains("go.env of mirror lab holds a credential"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    assert!(
        written(&project, "dist/docker/lab/pip.conf").ends_with("[global]\nindex-url = https://python.lab/simple/\n")
    );
    assert!(!project.folder.0.join("dist/docker/lab/go.env").exists());
    must_succeed(&project.run("emit dockerfile --mirror lab --show-secrets"));
    assert!(written(&project, "dist/docker/lab/go.env").contains("GOPROXY=https://me:hunter2@go.lab"));
    assert_eq!(written(&project, "dist/docker/small.Dockerfile"), plain);
}
