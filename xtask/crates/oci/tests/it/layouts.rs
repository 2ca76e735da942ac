//! Layouts and archives: what other people's tools find in them, what survives a kill, and what is refused when they lie.

use crate::layers::{bytes, path};
use crate::{Folder, installed, run};
use oci::image::{Index, Manifest, Written, media_type};
use oci::layout::{Layout, LayoutError, Named, Published, Source, prune, publish};
use oci::read::{Limits, flatten, hash};
use oci::{Blob, Codec, Descriptor, Digest, Entry, Image, Layer, Platform, Referrer, Tree, archive, diff, layer};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

fn tree(rows: &[(&str, &str)]) -> Tree {
    let mut tree = Tree::new();
    for (name, text) in rows {
        tree.insert(path(name), Entry::file(bytes(text.as_bytes()), 0o640, 1_700_000_000)).unwrap();
    }
    tree.add_parents(1_700_000_000);
    tree
}

/// An image of a layer a tree, whose blobs lie in `store` as a store has them: named by digest, read-only.
fn image(store: &Path, architecture: &str, trees: &[Tree]) -> (Written, BTreeMap<Digest, Source>) {
    fs::create_dir_all(store).unwrap();
    let mut image =
        Image { platform: Platform::linux(architecture), created_seconds: 1_700_000_000, ..Image::default() };
    image.execution.entrypoint = vec!["/app/run".into()];
    image.execution.user = "65532".into();
    let mut places = BTreeMap::new();
    for tree in trees {
        let mut packed = Vec::new();
        let layer: Layer = layer::write(tree, Codec::default(), &mut packed).unwrap();
        let place = store.join(layer.descriptor.digest.hex());
        if !place.exists() {
            fs::write(&place, packed).unwrap();
            fs::set_permissions(&place, fs::Permissions::from_mode(0o444)).unwrap();
        }
        places.insert(layer.descriptor.digest, Source::File(place));
        image.push(&layer, "test");
    }
    (image.write(), places)
}

fn named(store: &Path, name: &str, texts: [&str; 2]) -> Named {
    let trees = [tree(&[("etc/base", texts[0])]), tree(&[("app/run", texts[1])])];
    let (written, places) = image(store, "amd64", &trees);
    Named::new(name, &written, &places).unwrap()
}

fn root_of(layout: &Path, name: &str) -> Tree<oci::read::FileDigest> {
    let found = Layout::open(layout).unwrap().image(name, &Platform::linux("amd64")).unwrap();
    flatten(&found.layers, &Limits::default(), hash).unwrap()
}

#[test]
fn a_second_run_adds_only_what_is_missing_and_other_images_stay() {
    let folder = Folder::new();
    let (store, root) = (folder.path("store"), folder.path("a/b/layout"));
    let one = named(&store, "one:1", ["base", "run"]);
    let size_bytes: u64 = one.blobs.values().map(|(descriptor, _)| descriptor.size).sum();
    let first = publish(&root, std::slice::from_ref(&one)).unwrap();
    assert_eq!(first, Published { added: 4, added_bytes: size_bytes, kept: 0 });
    let index = || fs::metadata(root.join("index.json")).unwrap().ino();
    let before = index();
    let again = publish(&root, std::slice::from_ref(&one)).unwrap();
    assert_eq!((again, index()), (Published { added: 0, added_bytes: 0, kept: 4 }, before), "nothing is written again");
    let two = publish(&root, &[named(&store, "two:1", ["base", "other"])]).unwrap();
    assert_eq!((two.added, two.kept), (3, 1), "the base is there");
    // A name moves on; the other image stays what it was.
    publish(&root, &[named(&store, "one:1", ["base", "newer"])]).unwrap();
    let layout = Layout::open(&root).unwrap();
    assert_eq!(layout.images().map(|(name, _)| name).collect::<Vec<_>>(), ["one:1", "two:1"]);
    let differences = diff::diff(&root_of(&root, "one:1"), &root_of(&root, "two:1"));
    let [difference] = differences.as_slice() else { panic!("{differences:?}") };
    assert!(difference.to_string().starts_with("app/run: content sha256:"), "{difference}");
    // The order of images leaves no trace.
    let other = folder.path("other");
    publish(&other, &[named(&store, "two:1", ["base", "other"])]).unwrap();
    publish(&other, &[named(&store, "one:1", ["base", "newer"])]).unwrap();
    let read = |root: &Path| fs::read(root.join("index.json")).unwrap();
    assert_eq!(read(&root), read(&other));
}

#[test]
fn what_is_attached_goes_with_its_image_and_is_replaced_by_its_successor() {
    let folder = Folder::new();
    let (store, root) = (folder.path("store"), folder.path("layout"));
    let with = |name: &str, run: &str, documents: &[(&str, &str)]| {
        let mut image = named(&store, name, ["base", run]);
        let attach = |(kind, text): &(&str, &str)| {
            Referrer::new(&image.root, kind, text.as_bytes().to_vec(), Default::default())
        };
        image.referrers = documents.iter().map(attach).collect();
        image
    };
    // Artifact type, text and digest of the subject of each.
    let attached = || {
        let layout = Layout::open(&root).unwrap();
        let index = Index::parse(&fs::read(root.join("index.json")).unwrap(), media_type::INDEX).unwrap();
        let manifests = index.manifests.into_iter().filter(|it| it.artifact_type.is_some());
        let mut found: Vec<(String, String, Digest)> = manifests
            .map(|it| {
                let manifest = Manifest::parse(&layout.document(&it).unwrap(), media_type::MANIFEST).unwrap();
                let text = String::from_utf8(layout.document(&manifest.layers[0]).unwrap()).unwrap();
                (it.artifact_type.unwrap(), text, manifest.subject.unwrap().digest)
            })
            .collect();
        found.sort();
        found
    };
    let one = with("one:1", "run", &[("a/b", "first"), ("c/d", "other")]);
    let two = with("two:1", "else", &[("a/b", "of two")]);
    publish(&root, &[one.clone(), two.clone()]).unwrap();
    let row = |kind: &str, text: &str, image: &Named| (kind.to_owned(), text.to_owned(), image.root.digest);
    assert_eq!(attached(), [row("a/b", "first", &one), row("a/b", "of two", &two), row("c/d", "other", &one)]);
    assert_eq!(one.root, named(&store, "one:1", ["base", "run"]).root, "the image is what it was");
    // The same image again, with another document of one type.
    publish(&root, &[with("one:1", "run", &[("a/b", "second")])]).unwrap();
    assert_eq!(attached(), [row("a/b", "of two", &two), row("a/b", "second", &one), row("c/d", "other", &one)]);
    assert!(prune(&root).unwrap() > 0);
    assert_eq!(attached().len(), 3, "what is attached is needed");
    // Another image of the name takes what was attached to the first away.
    publish(&root, &[named(&store, "one:1", ["base", "newer"])]).unwrap();
    assert_eq!(attached(), [row("a/b", "of two", &two)]);
    // For several platforms it is attached to the image for one.
    let both = Named::platforms("both:1", vec![one.clone(), two.clone()]);
    publish(&root, &[both]).unwrap();
    assert_eq!(attached(), [row("a/b", "first", &one), row("a/b", "of two", &two), row("c/d", "other", &one)]);
    // An archive is for engines, which would take a document for an image.
    let mut packed = Vec::new();
    archive::write(std::slice::from_ref(&one), &Platform::linux("amd64"), &mut packed).unwrap();
    let holds = |text: &str| packed.windows(text.len()).any(|it| it == text.as_bytes());
    assert!(holds("index.json") && !holds("first") && !holds("subject"));
}

#[test]
fn pruning_removes_what_no_image_needs_and_nothing_where_an_image_is_broken() {
    let folder = Folder::new();
    let (store, root) = (folder.path("store"), folder.path("layout"));
    let of = |architecture: &str| {
        let (written, places) = image(&store, architecture, &[tree(&[("arch", architecture)])]);
        Named::new("", &written, &places).unwrap()
    };
    let many = Named::platforms("many:1", vec![of("amd64"), of("arm64")]);
    let old = named(&store, "one:1", ["base", "old"]);
    publish(&root, &[many, old.clone(), named(&store, "two:1", ["base", "two"])]).unwrap();
    assert_eq!(prune(&root).unwrap(), 0);
    publish(&root, &[named(&store, "one:1", ["base", "new"])]).unwrap();
    let base = Digest::of(&fs::read(&places_of(&old)[0]).unwrap());
    let gone = old.blobs.values().filter(|(it, _)| it.digest != base).map(|(it, _)| it.size).sum::<u64>();
    let manifest = Layout::open(&root).unwrap().path(&Layout::open(&root).unwrap().images().next().unwrap().1.digest);
    let sound = fs::read(&manifest).unwrap();
    fs::write(&manifest, b"{}").unwrap();
    assert!(prune(&root).is_err());
    fs::write(&manifest, sound).unwrap();
    assert_eq!(prune(&root).unwrap(), gone, "everything is still there, and the base is another image's too");
    ["one:1", "two:1", "many:1"].iter().for_each(|name| drop(root_of(&root, name)));
}

/// Where its layers lie, bottom first.
fn places_of(image: &Named) -> Vec<std::path::PathBuf> {
    let Source::Bytes(manifest) = &image.blobs[&image.root.digest].1 else { panic!() };
    let manifest = oci::image::Manifest::parse(manifest, media_type::MANIFEST).unwrap();
    let place = |layer: &Descriptor| match &image.blobs[&layer.digest].1 {
        Source::File(path) => path.clone(),
        Source::Bytes(_) | Source::Elsewhere => panic!(),
    };
    manifest.layers.iter().map(place).collect()
}

#[test]
fn a_layer_is_a_hard_link_or_a_verified_copy() {
    let folder = Folder::new();
    let store = folder.path("store");
    let image = named(&store, "a", ["base", "run"]);
    publish(&folder.path("layout"), std::slice::from_ref(&image)).unwrap();
    for file in places_of(&image) {
        let linked = folder.path("layout/blobs/sha256").join(file.file_name().unwrap());
        assert_eq!(file.metadata().unwrap().ino(), linked.metadata().unwrap().ino());
    }
    // Another file system takes no hard link.
    let elsewhere = Path::new("/dev/shm").join(format!("oci-test-{}", std::process::id()));
    if fs::create_dir_all(&elsewhere)
        .is_ok_and(|()| elsewhere.metadata().unwrap().dev() != store.metadata().unwrap().dev())
    {
        let image = named(&elsewhere, "a", ["base", "run"]);
        publish(&folder.path("copy"), std::slice::from_ref(&image)).unwrap();
        assert_eq!(root_of(&folder.path("copy"), "a"), root_of(&folder.path("layout"), "a"));
        let file = &places_of(&image)[0];
        let mut altered = fs::read(file).unwrap();
        altered[20] ^= 1;
        fs::remove_file(file).unwrap();
        fs::write(file, &altered).unwrap();
        let error = publish(&folder.path("altered"), std::slice::from_ref(&image)).unwrap_err();
        assert!(matches!(error, LayoutError::Blob { .. }), "{error}");
        assert!(!folder.path("altered/index.json").exists());
        let left = fs::read_dir(folder.path("altered/blobs/sha256")).unwrap().count();
        publish(&folder.path("altered"), &[named(&store, "a", ["base", "run"])]).unwrap();
        let blobs = fs::read_dir(folder.path("altered/blobs/sha256")).unwrap().count();
        assert_eq!(blobs, 4, "the copy that failed is swept away; {left} were left");
    } else {
        eprintln!("skipped: /dev/shm is no other file system");
    }
    let _ = fs::remove_dir_all(&elsewhere);
    fs::remove_file(&places_of(&image)[0]).unwrap();
    fs::write(&places_of(&image)[0], b"short").unwrap();
    let error = publish(&folder.path("short"), &[image]).unwrap_err().to_string();
    assert!(error.ends_with(" bytes") && error.contains("is 5 bytes, not"), "{error}");
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let folder = Folder::new();
    fs::create_dir(folder.path("home")).unwrap();
    folder.file("home/letter", b"x");
    let image = named(&folder.path("store"), "a", ["base", "run"]);
    let error = publish(&folder.path("home"), &[image]).unwrap_err().to_string();
    assert!(error.ends_with("is no image layout: it holds `letter` and no `oci-layout`"), "{error}");
    assert_eq!(fs::read_dir(folder.path("home")).unwrap().count(), 1);
}

#[test]
fn writers_at_the_same_time_lose_no_image() {
    let folder = Folder::new();
    let (store, root) = (folder.path("store"), folder.path("layout"));
    let images: Vec<Named> =
        (0..8).map(|i| named(&store, &format!("image:{i}"), ["base", &format!("run {i}")])).collect();
    std::thread::scope(|scope| {
        for image in &images {
            scope.spawn(|| publish(&root, std::slice::from_ref(image)).unwrap());
        }
    });
    let layout = Layout::open(&root).unwrap();
    assert_eq!(layout.images().count(), 8);
    images.iter().for_each(|image| drop(root_of(&root, &image.name)));
}

/// The child of the test below.
#[test]
fn publishes_what_the_test_of_kills_wants() {
    let Some(folder) = std::env::var_os("OCI_TEST_OF_KILLS") else { return };
    let folder = Path::new(&folder);
    publish(&folder.join("layout"), &[of_many_layers(&folder.join("store"))]).unwrap();
}

/// One of its layers is that of another image too.
fn of_many_layers(store: &Path) -> Named {
    let trees: Vec<Tree> = (0..40).map(|i| tree(&[("etc/base", &format!("layer {i}"))])).collect();
    let (written, places) = image(store, "amd64", &trees);
    Named::new("new:1", &written, &places).unwrap()
}

#[test]
fn killed_at_every_call_a_layout_has_the_images_of_before_or_all_and_the_next_run_adds_the_rest() {
    if !installed("strace") {
        return;
    }
    let folder = Folder::new();
    let (store, root) = (folder.path("store"), folder.path("layout"));
    let (old, new) = (named(&store, "old:1", ["layer 0", "old"]), of_many_layers(&store));
    let test = std::env::current_exe().unwrap();
    let mut kills = 0;
    for call in ["mkdir", "openat", "write", "fchmod", "fsync", "link,linkat", "rename", "unlink", "flock"] {
        for nth in 1.. {
            let _ = fs::remove_dir_all(&root);
            publish(&root, std::slice::from_ref(&old)).unwrap();
            let mut strace = Command::new("strace");
            strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
            // Only calls on the layout count: the harness makes others.
            for name in ["", "blobs", "blobs/sha256", "index.json", "index.json.partial"] {
                strace.arg("-P").arg(root.join(name));
            }
            for digest in new.blobs.keys() {
                strace.arg("-P").arg(root.join("blobs/sha256").join(digest.hex()));
                strace.arg("-P").arg(root.join("blobs/sha256").join(format!("{}.partial", digest.hex())));
            }
            strace.args(["-e", &format!("inject={call}:signal=KILL:when={nth}")]).arg(&test);
            strace.args(["--exact", "layouts::publishes_what_the_test_of_kills_wants", "--test-threads=1"]);
            let output = strace.env("OCI_TEST_OF_KILLS", folder.path("")).output().unwrap();
            let layout = Layout::open(&root).unwrap();
            let names: Vec<&str> = layout.images().map(|(name, _)| name).collect();
            names.iter().for_each(|name| drop(root_of(&root, name)));
            if output.status.success() {
                assert_eq!(names, ["new:1", "old:1"]);
                break;
            }
            assert!(nth < 100, "{call}: {}", String::from_utf8_lossy(&output.stdout));
            assert!(names == ["old:1"] || names == ["new:1", "old:1"], "{call} {nth}: {names:?}");
            kills += 1;
            let there = new.blobs.keys().filter(|digest| layout.path(digest).exists()).count();
            let rerun = publish(&root, std::slice::from_ref(&new)).unwrap();
            assert_eq!((rerun.kept, rerun.added), (there, new.blobs.len() - there), "{call} {nth}");
            assert_eq!(Layout::open(&root).unwrap().images().count(), 2);
            let blobs = fs::read_dir(root.join("blobs/sha256")).unwrap().count();
            assert_eq!(blobs, old.blobs.len() + new.blobs.len() - 1, "{call} {nth}: nothing half-made is left");
        }
    }
    assert!(kills >= 100, "{kills} kills are too few: the calls were not met");
    eprintln!("killed at {kills} calls");
}

#[test]
fn an_image_for_several_platforms_is_one_name() {
    let folder = Folder::new();
    let store = folder.path("store");
    let of = |architecture: &str| {
        let (written, places) = image(&store, architecture, &[tree(&[("arch", architecture)])]);
        Named::new("", &written, &places).unwrap()
    };
    let all = Named::platforms("app:1", vec![of("amd64"), of("arm64")]);
    publish(&folder.path("layout"), std::slice::from_ref(&all)).unwrap();
    let layout = Layout::open(&folder.path("layout")).unwrap();
    for architecture in ["amd64", "arm64"] {
        let found = layout.image("app:1", &Platform::linux(architecture)).unwrap();
        assert_eq!(found.config.architecture, architecture);
    }
    let absent = layout.image("app:1", &Platform::linux("riscv64")).unwrap_err().to_string();
    assert_eq!(absent, "there is no image `app:1 for linux/riscv64`, but: app:1");
    let untagged = Named { name: "app".into(), ..all.clone() };
    let untagged = archive::write(&[untagged], &Platform::linux("amd64"), std::io::sink()).unwrap_err().to_string();
    assert_eq!(untagged, "`app` is no `repository:tag`, by which engines would know the image");
    let wrong = archive::write(&[all], &Platform::linux("s390x"), std::io::sink()).unwrap_err().to_string();
    assert_eq!(wrong, "there is no image `app:1 for linux/s390x`, but: linux/amd64, linux/arm64");
}

/// Puts a document into a layout under the name `x`, whatever it is.
fn plant(root: &Path, descriptor: &Descriptor, bytes: &[u8]) {
    fs::write(root.join("blobs/sha256").join(descriptor.digest.hex()), bytes).unwrap();
    let mut root_descriptor = descriptor.clone();
    root_descriptor.annotations.insert(oci::image::REF_NAME.into(), "x".into());
    fs::write(root.join("index.json"), Index::new(vec![root_descriptor]).blob().bytes).unwrap();
}

#[test]
fn a_layout_that_lies_is_refused() {
    let folder = Folder::new();
    let root = folder.path("layout");
    let image = named(&folder.path("store"), "x", ["base", "run"]);
    publish(&root, std::slice::from_ref(&image)).unwrap();
    let (manifest, Source::Bytes(bytes)) = image.blobs[&image.root.digest].clone() else { panic!() };
    let read = || {
        let found = Layout::open(&root).and_then(|layout| layout.image("x", &Platform::linux("amd64")));
        match found {
            Ok(found) => match flatten(&found.layers, &Limits::default(), hash) {
                Ok(_) => "accepted".to_owned(),
                Err(error) => error.to_string(),
            },
            Err(error) => match std::error::Error::source(&error) {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            },
        }
    };
    let refused = |reason: &str| {
        let error = read();
        assert!(error.contains(reason), "`{reason}`: {error}");
    };
    plant(&root, &manifest, &bytes);
    assert_eq!(read(), "accepted", "the way of planting is sound");

    let mut flipped = bytes.clone();
    flipped[30] ^= 1;
    plant(&root, &manifest, &flipped);
    refused("not sha256:");
    plant(&root, &manifest, &bytes[1..]);
    refused("bytes or more, not");
    plant(&root, &manifest, &[bytes.as_slice(), b" "].concat());
    refused("bytes or more, not");
    plant(&root, &Descriptor { size: 100 << 20, ..manifest.clone() }, &bytes);
    refused("a document of 104857600 bytes");
    let blob = |media_type: &str, text: &[u8]| Blob::new(media_type, text.to_vec());
    // A manifest that was announced as an index, and the other way round.
    let confused = blob(media_type::INDEX, &bytes);
    plant(&root, &confused.descriptor, &confused.bytes);
    refused("of another kind of document");
    let index = Index::new(vec![manifest.clone()]).blob();
    let confused = blob(media_type::MANIFEST, &index.bytes);
    plant(&root, &confused.descriptor, &confused.bytes);
    refused("of another kind of document");
    // Indexes in indexes, a hundred deep; that one holds itself cannot be, since its digest would have to be known before.
    let mut nested = index;
    for depth in 0..100 {
        fs::write(root.join("blobs/sha256").join(nested.descriptor.digest.hex()), &nested.bytes).unwrap();
        plant(&root, &nested.descriptor, &nested.bytes);
        assert_eq!(read() == "accepted", depth < 3, "{depth}: {}", read());
        nested = Index::new(vec![nested.descriptor.clone()]).blob();
    }
    refused("an index 3 deep in others");

    plant(&root, &manifest, &bytes);
    assert_eq!(read(), "accepted");
    let text = String::from_utf8(bytes.clone()).unwrap();
    let layers: Vec<Digest> = image.blobs.keys().copied().filter(|it| text.contains(&it.hex())).collect();
    for digest in &layers {
        let place = root.join("blobs/sha256").join(digest.hex());
        let before = fs::read(&place).unwrap();
        let mut flipped = before.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::remove_file(&place).unwrap();
        refused("cannot");
        fs::write(&place, &flipped).unwrap();
        assert_ne!(read(), "accepted", "a flipped byte of {digest}");
        fs::write(&place, &before).unwrap();
    }
    // Two layers change places: each is sound, the image is not.
    let swapped = {
        let mut manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        manifest["layers"].as_array_mut().unwrap().swap(0, 1);
        blob(media_type::MANIFEST, &serde_json::to_vec(&manifest).unwrap())
    };
    plant(&root, &swapped.descriptor, &swapped.bytes);
    refused("digest of the unpacked layer");
    let short = {
        let mut manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        manifest["layers"].as_array_mut().unwrap().pop();
        blob(media_type::MANIFEST, &serde_json::to_vec(&manifest).unwrap())
    };
    plant(&root, &short.descriptor, &short.bytes);
    refused("another number of layers");
    fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    refused("version is not 1.0.0");
}

fn skopeo(arguments: &[&str]) -> String {
    let output = run(Command::new("skopeo").arg("--insecure-policy").args(arguments));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn skopeo_and_umoci_find_the_same_image_in_our_layout() {
    let folder = Folder::new();
    let (store, root) = (folder.path("store"), folder.path("layout"));
    let trees = [tree(&[("etc/base", "base"), ("etc/gone", "x")]), {
        let mut tree = tree(&[("app/run", "run")]);
        tree.insert(path("etc/gone"), Entry::new(oci::Kind::Whiteout, 0, 0)).unwrap();
        tree.insert(path("app/link"), Entry::symlink("run", 1_700_000_000)).unwrap();
        tree.insert(path("app/same"), Entry::new(oci::Kind::Hardlink(path("app/run")), 0, 0)).unwrap();
        tree.add_parents(1_700_000_000);
        tree
    }];
    let (written, places) = image(&store, "amd64", &trees);
    let image = Named::new("app:1", &written, &places).unwrap();
    publish(&root, std::slice::from_ref(&image)).unwrap();
    if installed("skopeo") {
        let from = format!("oci:{}:app:1", root.display());
        let shown: serde_json::Value = serde_json::from_str(&skopeo(&["inspect", &from])).unwrap();
        assert_eq!(shown["Digest"], image.root.digest.to_string());
        assert_eq!(shown["Created"], "2023-11-14T22:13:20Z");
        // A copy reads and verifies every blob; ours reads what skopeo then writes.
        let copy = folder.path("copy");
        skopeo(&["copy", "--quiet", &from, &format!("oci:{}:app:1", copy.display())]);
        assert_eq!(root_of(&copy, "app:1"), root_of(&root, "app:1"));
    }
    if installed("umoci") {
        let bundle = folder.path("bundle");
        let from = format!("{}:app:1", root.display());
        run(Command::new("umoci").args(["unpack", "--rootless", "--image", &from]).arg(&bundle));
        let at = |name: &str| bundle.join("rootfs").join(name);
        assert_eq!(fs::read(at("etc/base")).unwrap(), b"base");
        assert!(!at("etc/gone").exists());
        assert_eq!(fs::read_link(at("app/link")).unwrap(), Path::new("run"));
        assert_eq!(at("app/same").metadata().unwrap().ino(), at("app/run").metadata().unwrap().ino());
        assert_eq!(at("app/run").metadata().unwrap().mode() & 0o7777, 0o640);
        assert_eq!(at("app/run").metadata().unwrap().mtime(), 1_700_000_000);
    }
}

#[test]
fn one_archive_is_a_docker_archive_and_a_layout() {
    let folder = Folder::new();
    let store = folder.path("store");
    let images = [named(&store, "one:1", ["base", "one"]), named(&store, "two:1", ["base", "two"])];
    let write = |name: &str, images: &[Named]| {
        archive::write(images, &Platform::linux("amd64"), File::create(folder.path(name)).unwrap()).unwrap();
        folder.path(name)
    };
    let both = write("both.tar", &images);
    assert_eq!(fs::read(&both).unwrap(), fs::read(write("again.tar", &images)).unwrap());
    let mut entries = Vec::new();
    let mut reader = oci::read::Reader::new(File::open(&both).unwrap(), Limits::default());
    while let Some((path, _)) = reader.next().unwrap() {
        entries.push(path.as_str().split("sha256/").next().unwrap().to_owned());
    }
    entries.dedup();
    assert_eq!(entries, ["blobs", "blobs/sha256", "blobs/", "index.json", "manifest.json", "oci-layout"]);
    if !installed("skopeo") {
        return;
    }
    for image in &images {
        let (digests, name) = (&image.blobs, &image.name);
        let from = format!("docker-archive:{}:{name}", both.display());
        let shown: serde_json::Value = serde_json::from_str(&skopeo(&["inspect", &from])).unwrap();
        assert_eq!(shown["Architecture"], "amd64");
        let copy = folder.path("copy");
        skopeo(&["copy", "--quiet", &from, &format!("oci:{}:{name}", copy.display())]);
        let config = Layout::open(&copy).unwrap().image(name, &Platform::linux("amd64")).unwrap().config;
        let id = digests.values().find(|(it, _)| it.media_type == media_type::CONFIG).unwrap().0.digest;
        let Some((_, Source::Bytes(bytes))) = digests.get(&id) else { panic!() };
        assert_eq!(config.rootfs, oci::image::Config::parse(bytes).unwrap().rootfs, "diff ids survive the load");
        let from = format!("oci-archive:{}:{name}", both.display());
        let shown: serde_json::Value = serde_json::from_str(&skopeo(&["inspect", &from])).unwrap();
        assert_eq!(shown["Digest"], image.root.digest.to_string());
    }
}
