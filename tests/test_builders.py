"""`cargo xtask images --builder …`: images put together by the BuildKit of Docker 20.10 and by a current buildkitd."""

import hashlib
import io
import json
import os
import signal
import subprocess
import tarfile
import tempfile
import unittest
from pathlib import Path

from buildkit import BuildKit, why_no_buildkitd
from support import FOLDER, ROOT, Sandbox, need, start, tell, xtask
from test_engine import Between, certificates
from test_images import Engine, why_no_engine

DECLARATION = """project.name = "demo"
[image.small]
entrypoint = ["/app/start"]
arguments = ["--quiet"]
environment = { GREETING = "hello there" }
labels = { kind = "demo" }
ports = [8080]
working-directory = "/app"
user = "1000:1000"
[[image.small.layer]]
name = "program"
files = [
  { from = { path = "start" }, to = "/app/start", mode = "0755" },
  { from = { path = "start" }, to = "/app/private/start", mode = "0700", owner = "7:8" },
]
[[image.small.layer]]
name = "large"
files = [{ from = { path = "large" }, to = "/app/large" }]
[[image.small.layer]]
name = "settings"
files = [
  { from = { path = "settings.toml" }, to = "/etc/demo/" },
  { from = { path = "settings.toml" }, to = "/app/start", mode = "0644" },
]
"""
LARGE_BYTES = 4_000_000
DATED = {"SOURCE_DATE_EPOCH": "1700000000"}


def project() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="builders-", dir=FOLDER))
    (folder / "xtask.toml").write_text(DECLARATION)
    (folder / "start").write_bytes(b"#!/bin/true\n")
    (folder / "large").write_bytes(hashlib.shake_256(b"large").digest(LARGE_BYTES))
    (folder / "settings.toml").write_text("a = 1\n")
    return folder


def images(repo: Path, sandbox: Sandbox, *arguments, **environment):
    return xtask(ROOT, "images", "--repo", repo, *arguments, sandbox=sandbox, environment=DATED | environment)


def done(run):
    if run.exit_code != 0:
        raise AssertionError(str(run))
    return run


def seen(layers: list[bytes]) -> dict[str, tuple]:
    """Path -> everything that a container sees of it, where layers lie over each other; of folders not their times."""
    found = {}
    for layer in layers:
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            for it in tar:
                content = hashlib.sha256(tar.extractfile(it).read()).hexdigest() if it.isreg() else ""
                time = None if it.isdir() else it.mtime
                mode = oct(it.mode & 0o7777)
                found[it.name.strip("/")] = it.type, mode, it.uid, it.gid, it.linkname, time, content
    return found


def of_layout(folder: Path) -> tuple[dict, dict]:
    """The files of the only image of a layout, and its configuration."""

    def blob(digest: str) -> bytes:
        return (folder / "blobs" / digest.replace(":", "/")).read_bytes()

    # What is attached to it lies beside it.
    roots = json.loads((folder / "index.json").read_text())["manifests"]
    (root,) = [it for it in roots if "artifactType" not in it]
    manifest = json.loads(blob(root["digest"]))
    config = json.loads(blob(manifest["config"]["digest"]))
    return seen([blob(it["digest"]) for it in manifest["layers"]]), config


def of_engine(engine: Engine, name: str) -> tuple[dict, dict]:
    saved = subprocess.run(engine.argv("save", name), check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as tar:
        (manifest,) = json.load(tar.extractfile("manifest.json"))
        layers = []
        for layer in manifest["Layers"]:
            # Where two are the same, one is a link to the other.
            member = tar.getmember(layer)
            layers.append(tar.extractfile(member).read())
        return seen(layers), json.load(tar.extractfile(manifest["Config"]))


class Builders(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need("engine", why_no_engine())
        need("buildkit", why_no_buildkitd())
        cls.engine = Engine()
        cls.addClassCleanup(cls.engine.close)
        cls.buildkit = BuildKit(Path(tempfile.mkdtemp(prefix="buildkit-", dir=FOLDER)))
        cls.addClassCleanup(cls.buildkit.close)
        cls.to_engine = ["--builder", "docker", "--to", "docker", "--engine", f"unix://{cls.engine.socket}"]

    def layout(self) -> Path:
        return Path(tempfile.mkdtemp(dir=FOLDER)) / "layout"

    def embedded(self, repo, sandbox) -> tuple[dict, dict]:
        layout = self.layout()
        done(images(repo, sandbox, "--to", f"oci:{layout}"))
        return of_layout(layout)

    def test_each_builder_makes_the_same_files_and_the_same_settings(self):
        repo, sandbox, layout = project(), Sandbox("same"), self.layout()
        files, config = self.embedded(repo, sandbox)
        done(images(repo, sandbox, *self.to_engine))
        handed_out = done(images(repo, sandbox, "--builder", self.buildkit.address, "--to", f"oci:{layout}"))
        (told,) = handed_out.of("image")
        self.assertEqual((told["builder"], len(told["layers"])), ("buildkit", 3))
        for builder, (theirs, other) in {
            "docker": of_engine(self.engine, "small:latest"),
            "buildkit": of_layout(layout),
        }.items():
            with self.subTest(builder):
                self.assertEqual(theirs, files)
                for config_ in (config, other):
                    config_["config"] = {name: value for name, value in config_["config"].items() if value}
                names = ("Entrypoint", "Cmd", "Env", "Labels", "User", "WorkingDir", "ExposedPorts")
                of = [{name: it["config"].get(name) for name in names} for it in (config, other)]
                self.assertEqual(of[1], of[0])
                self.assertEqual(len(other["rootfs"]["diff_ids"]), 3)
                made_by = [[it.get("created_by") for it in config_["history"]] for config_ in (config, other)]
                self.assertEqual(made_by[1], made_by[0])
        self.assertEqual(files["app/start"][1:4], ("0o644", 0, 0))
        self.assertEqual(files["app/private/start"][1:4], ("0o700", 7, 8))

    def test_another_engine_and_another_checkout_make_the_same_digest(self):
        ids, other = set(), Engine()
        self.addCleanup(other.close)
        for engine in (self.engine, other):
            repo, sandbox = project(), Sandbox("reproduced")
            for path in repo.iterdir():
                os.utime(path, (1, 1 + len(ids)))
            arguments = [*self.to_engine[:-1], f"unix://{engine.socket}", "--tag", "reproduced"]
            (told,) = done(images(repo, sandbox, *arguments)).of("image")
            self.assertEqual(engine.run("inspect", "--format={{.Id}}", "small:reproduced").strip(), told["id"])
            ids.add(told["id"])
        self.assertEqual(len(ids), 1)

    def test_an_engine_is_sent_what_changed_and_nothing_twice(self):
        repo, sandbox = project(), Sandbox("sent")
        with Between(self.engine.socket) as between:
            arguments = ["--builder", "docker", "--to", "docker", "--engine", between.address, "--tag", "sent"]

            def sent() -> int:
                before = between.sent_bytes
                done(images(repo, sandbox, *arguments))
                return between.sent_bytes - before

            sent()
            # Others of these tests may have brought the same layers.
            (repo / "large").write_bytes(hashlib.shake_256(b"sent").digest(LARGE_BYTES))
            all_bytes, nothing = sent(), sent()
            (repo / "settings.toml").write_text("a = 2\n")
            settings = sent()
        self.assertGreater(all_bytes, LARGE_BYTES)
        self.assertLess(max(nothing, settings), 40_000)
        tell(f"to the engine: {all_bytes} B, then {nothing} B, after another file {settings} B")

    def test_what_an_engine_cannot_do_is_refused_by_name(self):
        repo, sandbox = project(), Sandbox("refused")
        run = images(repo, sandbox, "--builder", "docker", "--engine", self.to_engine[-1])
        self.assertEqual(run.exit_code, 8, run)
        self.assertIn("Docker 20.10", run.stderr)
        self.assertIn("no exporter `oci`", run.stderr)
        self.assertIn("--to docker", run.stderr)
        self.assertFalse((repo / "dist/images").exists())
        run = images(repo, sandbox, "--builder", "buildkit://builder.example")
        self.assertEqual(run.exit_code, 3, run)
        self.assertIn("XTASK_BUILDKIT_CERT_PATH", run.stderr)

    def test_what_each_can_do_is_told(self):
        for address, exporters, caches in (
            (self.to_engine[-1], ["moby"], ["inline"]),
            (self.buildkit.address, ["oci", "image"], ["inline", "registry"]),
        ):
            run = done(images(project(), Sandbox("told"), "engine", address))
            (told,) = run.of("engine")
            builder = told["builder"]
            self.assertEqual((builder["exporters"], builder["caches"]), (exporters, caches))
            self.assertIn("linux/amd64" if os.uname().machine == "x86_64" else "linux/arm64", builder["platforms"])

    def test_a_builder_behind_tls_is_given_our_certificate_and_no_other(self):
        folder = certificates(Path(tempfile.mkdtemp(dir=FOLDER)) / "certificates")
        tls = [f"--tlscacert={folder}/ca.pem", f"--tlscert={folder}/server.pem", f"--tlskey={folder}/server.key"]
        builder = BuildKit(Path(tempfile.mkdtemp(dir=FOLDER)), "--addr=tcp://127.0.0.1:21234", *tls)
        self.addCleanup(builder.close)
        repo, sandbox = project(), Sandbox("tls")
        arguments = ["--builder", "buildkit://127.0.0.1:21234", "--to", f"oci:{self.layout()}"]
        done(images(repo, sandbox, *arguments, XTASK_BUILDKIT_CERT_PATH=str(folder)))
        strangers = certificates(folder.parent / "strangers")
        for what, environment in (("nothing", {}), ("a stranger", {"XTASK_BUILDKIT_CERT_PATH": str(strangers)})):
            with self.subTest(what):
                run = images(repo, sandbox, *arguments, **environment)
                self.assertEqual(run.exit_code, 8, run)
                self.assertIn("buildkit://127.0.0.1:21234 (--builder)", run.stderr)

    def test_killed_and_ended_in_the_middle_leaves_nothing_and_the_next_run_works(self):
        folder = Path(tempfile.mkdtemp(prefix="mortal-", dir=FOLDER))
        builder = BuildKit(folder)
        self.addCleanup(lambda: builder.close())
        repo, sandbox, layout = project(), Sandbox("mortal"), self.layout()
        (repo / "large").write_bytes(hashlib.shake_256(b"mortal").digest(8 * LARGE_BYTES))
        done(images(repo, sandbox, "--to", f"oci:{self.layout()}"))

        def at_half(act):
            def heard(sent_bytes):
                if sent_bytes > 2 * LARGE_BYTES:
                    act()

            return Between(builder.socket, heard)

        def build(between):
            arguments = ["images", "--repo", repo, "--builder", f"buildkit://{between.path}", "--to", f"oci:{layout}"]
            return start(ROOT, *arguments, sandbox=sandbox, environment=DATED)

        with self.subTest("the builder is killed"), at_half(lambda: builder.process.kill()) as between:
            run = build(between).finish(60)
            self.assertEqual(run.exit_code, 8, run)
            self.assertIn("went away", run.stderr)
        builder.process.wait()
        builder.socket.unlink()
        builder.start()
        with self.subTest("Ctrl-C"):
            started = []
            with at_half(lambda: started[0].signal_group(signal.SIGINT)) as between:
                started.append(build(between))
                self.assertEqual(started[0].finish(60).exit_code, 130)
        self.assertFalse(layout.exists())
        self.assertEqual(list((repo / "target/xtask").glob("**/built*")), [])
        with Between(builder.socket) as between:
            done(build(between).finish(120))
        self.assertTrue((layout / "index.json").exists())


if __name__ == "__main__":
    unittest.main()
