"""`cargo xtask images` of the real project: made without an engine, judged by others, run by Docker.

The library is the first build's, since compiling it again would show nothing; everything else is made anew.
"""

import json
import os
import shutil
import stat
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from support import FOLDER, Sandbox, checkout, first_build, need, tell, xtask
from test_stack import keep_only_the_library

NAMES = ["envoy", "extproc", "mock-vllm"]
ASK = """
import json, sys, urllib.request
body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": sys.argv[1]}]}).encode()
url = "http://127.0.0.1:8801/v1/chat/completions"
request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
with urllib.request.urlopen(request, timeout=30) as answer:
    print(json.dumps([answer.status, answer.headers["x-vsr-selected-decision"], json.load(answer)["model"]]))
"""


def why_no_engine() -> str | None:
    if os.geteuid() != 0:
        return "starting a Docker engine needs root"
    missing = [program for program in ("dockerd", "containerd", "runc", "docker") if not shutil.which(program)]
    return f"there is no {', '.join(missing)}" if missing else None


class Engine:
    """A Docker engine of its own: no bridge, no firewall rule, nothing outside its folder."""

    def __init__(self, data: Path | None = None, further: list[str] | None = None):
        self.folder = Path(tempfile.mkdtemp(prefix="docker-", dir=FOLDER))
        self.socket, self.data = self.folder / "socket", data or self.folder / "data"
        self.further = further or []
        self.start()

    def start(self) -> None:
        options = {
            "data-root": self.data,
            "exec-root": self.folder / "exec",
            "pidfile": self.folder / "pid",
            "host": f"unix://{self.socket}",
        }
        argv = [
            "dockerd",
            "--bridge=none",
            "--iptables=false",
            *(f"--{name}={value}" for name, value in options.items()),
            *self.further,
        ]
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 60
        while subprocess.run(self.argv("version"), capture_output=True).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "log").read_text()[-3000:])
            time.sleep(0.1)

    def argv(self, *words) -> list[str]:
        return ["docker", "--host", f"unix://{self.socket}", *map(str, words)]

    def run(self, *words, check=True) -> str:
        run = subprocess.run(self.argv(*words), capture_output=True, text=True)
        if check and run.returncode:
            raise AssertionError(f"{words}: {run.stdout}{run.stderr}")
        return run.stdout + run.stderr

    def close(self) -> None:
        containers = self.run("ps", "--all", "--quiet", check=False).split()
        if containers:
            self.run("rm", "--force", *containers, check=False)
        self.process.terminate()
        self.process.wait(30)


class Images(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.first = first_build()
        cls.repo, cls.sandbox = checkout("images"), Sandbox("images")
        keep_only_the_library(cls.first.sandbox.store, cls.sandbox.store)
        (cls.sandbox.folder / "go-build").symlink_to(cls.first.sandbox.folder / "go-build")
        (cls.sandbox.folder / "go").symlink_to(cls.first.sandbox.folder / "go")
        cls.layout, cls.archive = cls.repo / "dist/images", cls.sandbox.folder / "all.tar"
        cls.run_ = cls.images("--to", "oci:dist/images", "--to", f"tar:{cls.archive}")

    @classmethod
    def images(cls, *arguments, **options):
        run = xtask(cls.first.checkout, "images", "--repo", cls.repo, *arguments, sandbox=cls.sandbox, **options)
        if run.exit_code != 0:
            raise AssertionError(str(run))
        return run

    def test_all_three_are_made_with_no_engine_and_within_their_budget(self):
        told = self.run_.of("image")
        self.assertEqual(sorted({it["name"] for it in told}), NAMES)
        for it in told:
            self.assertEqual((it["builder"], it["platform"].split("/")[0]), ("embedded", "linux"))
        sizes = {it["name"]: sum(layer["size_bytes"] for layer in it["layers"]) for it in told}
        self.assertLess(sizes["extproc"], 60_000_000)
        tell("compressed: " + ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items()))

    def test_nothing_changed_makes_nothing_and_another_place_time_zone_and_umask_make_the_same(self):
        digests = {it["name"]: it["digest"] for it in self.run_.of("image")}
        again = self.images("--to", "oci:dist/images")
        self.assertEqual((again.ran, again.summary["hosts_contacted"]), ([], []))
        self.assertTrue(all(layer["reused"] for it in again.of("image") for layer in it["layers"]))
        tell(f"nothing changed: {again.seconds:.2f} s")

        elsewhere, sandbox = checkout("images elsewhere"), Sandbox("images-elsewhere")
        keep_only_the_library(self.first.sandbox.store, sandbox.store)
        for name in ("go", "go-build"):
            (sandbox.folder / name).symlink_to(self.first.sandbox.folder / name)
        run = xtask(
            self.first.checkout,
            "images",
            "--repo",
            elsewhere,
            "--to",
            f"oci:{sandbox.folder}/layout",
            sandbox=sandbox,
            environment={"TZ": "Asia/Tokyo", "LC_ALL": "C"},
            wrapper=["sh", "-c", 'umask 077; exec "$@"', "sh"],
        )
        self.assertEqual(run.exit_code, 0, run)
        self.assertEqual({it["name"]: it["digest"] for it in run.of("image")}, digests)
        # So are the bills of materials; provenance names the commit, which is another one there.
        boms = [
            [
                it["digest"]
                for image in images.of("image")
                for it in image["attestations"]
                if "in-toto" not in it["artifact_type"]
            ]
            for images in (again, run)
        ]
        self.assertEqual((len(boms[0]), boms[0]), (6, boms[1]))

    def test_other_tools_read_the_layout(self):
        for name in NAMES:
            place = f"{self.layout}:{name}:latest"
            with self.subTest(name):
                need("skopeo", None if shutil.which("skopeo") else "there is no skopeo")
                shown = subprocess.run(["skopeo", "inspect", f"oci:{place}"], capture_output=True, text=True)
                self.assertEqual(shown.returncode, 0, shown.stderr)
                (told,) = {it["digest"] for it in self.run_.of("image") if it["name"] == name}
                self.assertEqual(json.loads(shown.stdout)["Digest"], told)
                need("umoci", None if shutil.which("umoci") else "there is no umoci")
                root = self.sandbox.folder / f"bundle-{name}"
                argv = ["umoci", "unpack", "--rootless", "--image", place, str(root)]
                unpacked = subprocess.run(argv, capture_output=True, text=True)
                self.assertEqual(unpacked.returncode, 0, unpacked.stderr)
                self.no_shell_and_nobody_becomes_root(root / "rootfs", name)

    def no_shell_and_nobody_becomes_root(self, root: Path, name: str) -> None:
        for path in root.rglob("*"):
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                self.assertFalse(mode & (stat.S_ISUID | stat.S_ISGID), path)
                self.assertNotIn(path.name, {"sh", "bash", "dash", "busybox"}, name)

    def test_the_stack_of_these_images_answers_a_chat_through_envoy(self):
        need("engine", why_no_engine())
        engine = Engine()
        self.addCleanup(engine.close)
        loaded = engine.run("load", "--input", self.archive)
        for name in NAMES:
            self.assertIn(f"Loaded image: {name}:latest", loaded)
        model = self.first.checkout / "models"
        got = xtask(self.first.checkout, "run", "--once", "examples/chat.json", sandbox=self.first.sandbox)
        self.assertEqual(got.exit_code, 0, got)  # The model is in its place then.
        locked = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
        # One network namespace without a way out, in which the containers have their names.
        names = [f"--add-host={name}:127.0.0.1" for name in ("semantic-router", "mock-vllm")]
        engine.run("run", "--detach", "--name=mock", "--network=none", *names, *locked, "mock-vllm")
        beside = ["--network=container:mock", *locked]
        engine.run("run", "--detach", "--name=router", *beside, f"--volume={model}:/app/models:ro", "extproc")
        engine.run("run", "--detach", "--name=envoy", *beside, "envoy")
        answer, deadline = "", time.monotonic() + 60
        while not answer.startswith("[200"):
            if time.monotonic() > deadline:
                logs = {name: engine.run("logs", name, check=False)[-1500:] for name in ("mock", "router", "envoy")}
                raise AssertionError(f"{answer}\n{logs}")
            time.sleep(0.3)
            answer = engine.run("exec", "mock", "/usr/bin/python3.11", "-c", ASK, "urgent: an outage", check=False)
        self.assertEqual(json.loads(answer), [200, "urgent_first", "big-thinker"])
        for name in ("mock", "router", "envoy"):
            process = engine.run("inspect", "--format={{.State.Pid}}", name).strip()
            self.assertEqual(os.stat(f"/proc/{process}").st_uid, 65532, name)
