//! `cargo xtask images` where no base and no tool is needed: files of the checkout become an image, and what is refused.
//!
//! Owns: the driven program on images out of plain files. The real images, run by real engines, are tested in tests/test_images.py.

use crate::cli::{Ended, Project};
use conductor::digest::Digest;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// An image of two files, that runs as nobody in particular.
const IMAGE: &str = r#"project.name = "demo"
[image.small]
entrypoint = ["/app/start"]
user = "1000:1000"
environment = { LANG = "C.UTF-8" }
ports = [8080]
labels = { "org.example.team" = "a" }
[[image.small.layer]]
name = "program"
files = [{ from = { path = "start" }, to = "/app/start", mode = "0755" }]
[[image.small.layer]]
name = "settings"
files = [{ from = { path = "settings.toml" }, to = "/etc/demo/" }]
"#;

fn project(declaration: &str) -> Project {
    let project = Project::new();
    for (path, text) in [("xtask.toml", declaration), ("start", "#!/bin/sh\n"), ("settings.toml", "a = 1\n")] {
        project.folder.write(path, text);
    }
    project
}

/// The images that a run told.
fn images(ended: &Ended) -> Vec<Value> {
    assert_eq!(ended.exit, 0, "{}", ended.stderr);
    ended.json().into_iter().filter(|line| line["event"] == "image").collect()
}

fn blob(layout: &Path, digest: &str) -> Value {
    let file = layout.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
    assert_eq!(format!("sha256:{}", Digest::of_file(&file).unwrap().0), digest);
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

#[test]
fn declared_files_become_an_image_that_says_what_was_declared() {
    let project = project(IMAGE);
    let ended = project.run("images --to oci:out --to tar:out.tar --tag v1 --format json");
    let told = images(&ended);
    assert_eq!(told.len(), 2, "one a target");
    assert_eq!((&told[0]["name"], &told[0]["reference"]), (&"small".into(), &"oci:out:small:v1".into()));
    assert_eq!((&told[1]["reference"], &told[0]["digest"]), (&"tar:out.tar:small:v1".into(), &told[1]["digest"]));
    assert_eq!(told[0]["builder"], "embedded");
    let layers = told[0]["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    assert!(layers.iter().all(|layer| layer["reused"] == false), "{layers:?}");

    let layout = project.folder.0.join("out");
    let manifest = blob(&layout, told[0]["digest"].as_str().unwrap());
    let config = blob(&layout, manifest["config"]["digest"].as_str().unwrap());
    let execution = &config["config"];
    assert_eq!(execution["Entrypoint"], serde_json::json!(["/app/start"]));
    assert_eq!(execution["User"], "1000:1000");
    assert_eq!(execution["Env"], serde_json::json!(["LANG=C.UTF-8"]));
    assert_eq!(execution["ExposedPorts"], serde_json::json!({ "8080/tcp": {} }));
    assert_eq!(execution["Labels"]["org.example.team"], "a");
    assert_eq!(config["created"], "1970-01-01T00:00:00Z");
    assert_eq!(config["rootfs"]["diff_ids"][0], layers[0]["diff_id"]);
    assert!(fs::metadata(project.folder.0.join("out.tar")).unwrap().len() > 1024);
}

#[test]
fn the_same_files_make_the_same_image_and_a_changed_one_only_its_layer_and_those_above() {
    let one = project(IMAGE);
    let first = images(&one.run("images --to oci:out --format json"));
    let again = images(&one.run("images --to oci:out --format json"));
    assert!(again[0]["layers"].as_array().unwrap().iter().all(|layer| layer["reused"] == true));
    let elsewhere = images(&project(IMAGE).run_with("images --to oci:out --format json", &[("TZ", "Asia/Tokyo")]));
    for other in [&again, &elsewhere] {
        assert_eq!(other[0]["digest"], first[0]["digest"]);
    }
    let dated = images(&one.run_with("images --to oci:dated --format json", &[("SOURCE_DATE_EPOCH", "1700000000")]));
    assert_ne!(dated[0]["digest"], first[0]["digest"]);

    one.folder.write("settings.toml", "a = 2\n");
    let edited = images(&one.run("images --to oci:edited --format json"));
    let reused: Vec<_> = edited[0]["layers"].as_array().unwrap().iter().map(|it| it["reused"].clone()).collect();
    assert_eq!(reused, [true, false]);
    let ended = one.run("images diff oci:out oci:edited");
    assert_eq!(ended.exit, 9, "{}", ended.stderr);
    assert!(ended.stdout.starts_with("etc/demo/settings.toml: content "), "{}", ended.stdout);
    let same = one.run("images diff oci:out:small:latest oci:out");
    assert_eq!((same.exit, same.stdout.trim()), (0, "no difference"), "{}", same.stderr);
}

#[test]
fn a_layout_keeps_the_images_that_it_had_and_clean_takes_what_is_ours() {
    let project = project(IMAGE);
    assert_eq!(project.run("images").exit, 0);
    assert_eq!(project.run("images --tag v2").exit, 0);
    let index = fs::read_to_string(project.folder.0.join("dist/images/index.json")).unwrap();
    assert!(index.contains("small:latest") && index.contains("small:v2"), "{index}");
    let blobs = || fs::read_dir(project.folder.0.join("dist/images/blobs/sha256")).unwrap().count();
    // Two layers and two documents; three attached ones with a manifest each, and the empty configuration of these.
    assert_eq!(blobs(), 4 + 7, "both names are of one image");
    project.folder.write("settings.toml", "a = 3\n");
    for tag in ["latest", "v2"] {
        assert_eq!(project.run(&format!("images --tag {tag}")).exit, 0);
    }
    assert_eq!(blobs(), 4 + 7, "nothing of the replaced image is left");
    project.folder.write("dist/images/notes", "mine");
    assert_eq!(project.run("clean").exit, 0);
    let left: Vec<_> = fs::read_dir(project.folder.0.join("dist/images")).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_dry_run_makes_nothing_and_names_the_steps() {
    let project = project(IMAGE);
    let ended = project.run("images --dry-run --format json");
    let plan = &ended.json()[0];
    let ids: Vec<_> = plan["steps"].as_array().unwrap().iter().map(|step| step["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["layer:small/program", "layer:small/settings", "image:small", "attestation:small"]);
    assert!(!project.folder.0.join("dist").exists());
}
