"""`cargo xtask images --to docker`: a small image into a Docker engine of its own, and what happens when that fails."""

import contextlib
import hashlib
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path

from support import END_SECONDS, FOLDER, ROOT, Sandbox, need, start, tell, xtask
from test_images import Engine, why_no_engine

DECLARATION = """project.name = "demo"
[image.small]
entrypoint = ["/app/start"]
user = "1000:1000"
[[image.small.layer]]
name = "program"
files = [{ from = { path = "start" }, to = "/app/start", mode = "0755" }]
[[image.small.layer]]
name = "settings"
files = [{ from = { path = "settings.toml" }, to = "/etc/demo/" }]
"""
LARGE_BYTES = 40_000_000


def project(program: bytes) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="engine-", dir=FOLDER))
    (folder / "xtask.toml").write_text(DECLARATION)
    (folder / "start").write_bytes(program)
    (folder / "settings.toml").write_text("a = 1\n")
    return folder


def certificates(folder: Path) -> Path:
    """An authority with a certificate for a server on loopback and one for a client, as Docker names them."""
    folder.mkdir()

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ["-newkey", "rsa:2048", "-nodes"]
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=lab", "-days", "2")
    for name, key, usage in (("server", "server.key", "serverAuth"), ("cert", "key.pem", "clientAuth")):
        openssl("req", *new, "-keyout", key, "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "extensions").write_text(f"subjectAltName=IP:127.0.0.1\nextendedKeyUsage={usage}\n")
        authority = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions"]
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", "-days", "2", *authority)
    return folder


def packed(program: bytes) -> Path:
    """The same with its layers in zstd."""
    folder = project(program)
    declared = (folder / "xtask.toml").read_text()
    (folder / "xtask.toml").write_text(declared.replace("[image.small]", '[image.small]\ncodec = "zstd"'))
    return folder


class Between:
    """A socket in front of an engine's, which counts what is sent to it."""

    def __init__(self, socket_path: Path, heard=lambda sent_bytes: None):
        self.socket_path, self.heard, self.sent_bytes = socket_path, heard, 0
        self.path = Path(tempfile.mkdtemp(prefix="between-", dir=FOLDER)) / "socket"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def address(self) -> str:
        return f"unix://{self.path}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._connect, args=(self.listener.accept()[0],), daemon=True).start()

    def _connect(self, client):
        with client, socket.socket(socket.AF_UNIX) as engine, contextlib.suppress(OSError):
            engine.connect(str(self.socket_path))
            back = threading.Thread(target=self._pass_on, args=(engine, client, False), daemon=True)
            back.start()
            self._pass_on(client, engine, True)
            back.join()

    def _pass_on(self, source, target, counted):
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                if counted:
                    self.sent_bytes += len(piece)
                    self.heard(self.sent_bytes)
                target.sendall(piece)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def images(repo: Path, sandbox: Sandbox, *arguments, **environment):
    return xtask(ROOT, "images", "--repo", repo, *arguments, sandbox=sandbox, environment=environment)


class WithoutAnEngine(unittest.TestCase):
    def test_nothing_is_made_and_it_says_where_was_looked(self):
        repo, sandbox = project(b"#!/bin/sh\n"), Sandbox("no-engine")
        run = images(repo, sandbox, "--to", "docker", DOCKER_HOST=f"unix://{sandbox.folder}/nobody")
        self.assertEqual((run.exit_code, run.ran), (8, []), run)
        self.assertIn("XT0807", run.stderr)
        self.assertIn(f"{sandbox.folder}/nobody (DOCKER_HOST): there is no such socket", run.stderr)
        self.assertIn("--to tar:images.tar", run.stderr)

    def test_an_engine_that_takes_no_zstd_is_refused_an_image_of_it_by_name(self):
        asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            """What Docker 20.10 without an image answers to those who look."""

            def do_GET(self):
                asked.append(self.path)
                version = {"ApiVersion": "1.41", "Version": "20.10.24", "Os": "linux", "Arch": "amd64"}
                known = {"version": version, "info": {"Driver": "overlay2"}, "_ping": {}}
                answer = known.get(self.path.split("/")[-1])
                self.send_response(404 if answer is None else 200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps({"message": "no such image"} if answer is None else answer).encode())

            def do_POST(self):
                asked.append(self.path)
                self.send_error(500)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        address = f"tcp://127.0.0.1:{server.server_port}"
        run = images(packed(b"x"), Sandbox("no-zstd"), "--to", "docker", "--engine", address)
        self.assertEqual(run.exit_code, 8, run)
        self.assertIn("XT0808", run.stderr)
        self.assertIn("takes no layers in zstd, and small:latest has some", run.stderr)
        self.assertFalse([path for path in asked if "load" in path], asked)

    def test_a_socket_behind_which_nobody_or_no_engine_is_says_so(self):
        repo, sandbox = project(b"#!/bin/sh\n"), Sandbox("deaf")
        path = sandbox.folder / "socket"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        with self.subTest("nobody listens"):
            run = images(repo, sandbox, "--to", "docker", "--engine", f"unix://{path}")
            self.assertEqual(run.exit_code, 8, run)
            self.assertIn("the connection was refused", run.stderr)
        listener.listen()

        def greet():
            with contextlib.suppress(OSError):
                while True:
                    with listener.accept()[0] as client:
                        client.recv(1000)
                        client.sendall(b"220 mail.example ready\r\n")

        threading.Thread(target=greet, daemon=True).start()
        with self.subTest("a server of something else"):
            run = images(repo, sandbox, "--to", "docker", "--engine", f"unix://{path}")
            self.assertEqual(run.exit_code, 8, run)
            self.assertIn("XT0807", run.stderr)
        listener.close()


class WithAnEngine(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need("engine", why_no_engine())
        cls.engine = Engine()
        cls.addClassCleanup(cls.engine.close)

    def load(self, repo, sandbox, engine, *arguments, exit_code=0):
        run = images(repo, sandbox, "--to", "docker", "--engine", engine, *arguments)
        self.assertEqual(run.exit_code, exit_code, run)
        return run

    def content(self, path: Path, image: str, inside: str) -> bytes:
        """A file of an image, as the engine gives it out."""
        container = self.engine.run("create", image).strip()
        try:
            self.engine.run("cp", f"{container}:{inside}", path)
        finally:
            self.engine.run("rm", container)
        return path.read_bytes()

    def test_what_the_engine_has_is_not_sent_again(self):
        program = os.urandom(LARGE_BYTES)
        repo, sandbox = project(program), Sandbox("load")
        with Between(self.engine.socket) as first:
            (told,) = self.load(repo, sandbox, first.address).of("image")
        self.assertEqual((told["reference"], told["present"]), ("docker:small:latest", False))
        self.assertGreater(first.sent_bytes, LARGE_BYTES)
        ids = self.engine.run("image", "ls", "--no-trunc", "--format={{.Repository}}:{{.Tag}} {{.ID}}").split("\n")
        self.assertIn(f"small:latest {told['id']}", ids)
        self.assertEqual(self.content(sandbox.folder / "start", "small", "/app/start"), program)

        with Between(self.engine.socket) as again:
            run = self.load(repo, sandbox, again.address, "--tag", "v2")
        (same,) = run.of("image")
        self.assertEqual((same["id"], same["present"], run.ran), (told["id"], True, []))
        self.assertLess(again.sent_bytes, 10_000)
        self.assertIn(told["id"], self.engine.run("image", "inspect", "--format={{.Id}}", "small:v2"))

        (repo / "settings.toml").write_text("a = 2\n")
        with Between(self.engine.socket) as changed:
            (other,) = self.load(repo, sandbox, changed.address).of("image")
        self.assertNotEqual(other["id"], told["id"])
        self.assertLess(changed.sent_bytes, 100_000)
        self.assertEqual(self.content(sandbox.folder / "settings", "small", "/etc/demo/settings.toml"), b"a = 2\n")
        self.assertEqual(self.content(sandbox.folder / "start", "small", "/app/start"), program)
        tell(f"sent: {first.sent_bytes} bytes, nothing changed {again.sent_bytes}, one file {changed.sent_bytes}")

    def test_what_it_can_do_is_told(self):
        place = {"DOCKER_HOST": f"unix://{self.engine.socket}"}
        run = xtask(ROOT, "images", "engine", "--repo", project(b"x"), sandbox=Sandbox("ask"), environment=place)
        self.assertEqual(run.exit_code, 0, run)
        (told,) = run.of("engine")
        version = json.loads(self.engine.run("version", "--format={{json .Server}}"))
        self.assertEqual((told["version"], told["api"]), (version["Version"], version["ApiVersion"]))
        self.assertEqual((told["origin"], told["platform"]), ("DOCKER_HOST", f"{version['Os']}/{version['Arch']}"))

    def test_layers_in_zstd_are_loaded_where_the_engine_says_that_it_takes_them(self):
        program = os.urandom(1_000_000)
        repo, sandbox = packed(program), Sandbox("zstd")
        place = {"DOCKER_HOST": f"unix://{self.engine.socket}"}
        (told,) = xtask(ROOT, "images", "engine", "--repo", repo, sandbox=sandbox, environment=place).of("engine")
        self.load(repo, sandbox, place["DOCKER_HOST"], "--tag", "packed", exit_code=0 if told["zstd"] else 8)
        if told["zstd"]:
            self.assertEqual(self.content(sandbox.folder / "start", "small:packed", "/app/start"), program)

    def test_an_engine_that_dies_in_the_middle_is_told_and_the_next_run_goes_on(self):
        program = os.urandom(LARGE_BYTES)
        repo, sandbox, engine = project(program), Sandbox("killed"), Engine()
        # Whoever is killed leaves its data folder mounted upon itself.
        self.addCleanup(lambda: subprocess.run(["umount", engine.data], capture_output=True))
        self.addCleanup(engine.close)
        with Between(engine.socket, lambda sent: sent > LARGE_BYTES // 4 and engine.process.kill()) as between:
            run = self.load(repo, sandbox, between.address, exit_code=8)
        self.assertIn("XT0808", run.stderr)
        self.assertIn("went away in the middle of its work", run.stderr)
        self.assertLess(between.sent_bytes, LARGE_BYTES)
        engine.process.wait(30)
        # Its containerd has died with it; where nobody reaps orphans its process id looks alive for ever.
        (engine.folder / "exec/containerd/containerd.pid").unlink()
        engine.start()
        self.assertNotIn("small", engine.run("image", "ls", "--quiet", "--all"))
        (told,) = self.load(repo, sandbox, f"unix://{engine.socket}").of("image")
        self.assertIn(told["id"], engine.run("image", "inspect", "--format={{.Id}}", "small"))

    def test_a_full_disk_of_the_engine_is_told_as_its_own(self):
        folder = Path(tempfile.mkdtemp(prefix="full-", dir=FOLDER))
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=30m", "none", folder], capture_output=True, text=True
        )
        need("engine", mounted.stderr.strip() or None)
        self.addCleanup(lambda: subprocess.run(["umount", folder], check=True))
        engine = Engine(data=folder)
        self.addCleanup(engine.close)
        repo, sandbox = project(os.urandom(LARGE_BYTES)), Sandbox("full")
        run = self.load(repo, sandbox, f"unix://{engine.socket}", exit_code=6)
        self.assertIn("XT0601", run.stderr)
        self.assertIn("the disk of the engine is full", run.stderr)

    def test_a_context_with_tls_is_found_and_one_whose_authority_did_not_sign_is_refused(self):
        repo, sandbox = project(b"#!/bin/sh\n"), Sandbox("tls")
        good, other = (certificates(sandbox.folder / name) for name in ("good", "other"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        files = {"tlscacert": "ca.pem", "tlscert": "server.pem", "tlskey": "server.key"}
        tls = [f"--{option}={good / name}" for option, name in files.items()]
        engine = Engine(further=[f"--host={address}", "--tlsverify", *tls])
        self.addCleanup(engine.close)
        for name, exit_code in (("good", 0), ("other", 8)):
            folder, digest = sandbox.folder / f"{name}-docker", hashlib.sha256(name.encode()).hexdigest()
            meta, material = folder / "contexts/meta" / digest, folder / "contexts/tls" / digest / "docker"
            meta.mkdir(parents=True)
            meta.joinpath("meta.json").write_text(
                json.dumps({"Name": name, "Endpoints": {"docker": {"Host": address, "SkipTLSVerify": False}}})
            )
            material.mkdir(parents=True)
            for file in ("ca.pem", "cert.pem", "key.pem"):
                shutil.copy((good if name == "good" else other) / file, material / file)
            (folder / "config.json").write_text(json.dumps({"currentContext": name}))
            with self.subTest(name):
                run = images(repo, sandbox, "--to", "docker", DOCKER_CONFIG=str(folder))
                self.assertEqual(run.exit_code, exit_code, run)
                self.assertIn(f"{address} (context {name})", run.stderr)
        self.assertIn("invalid peer certificate", run.stderr)
        self.assertIn("small", engine.run("image", "ls"))

    def test_ctrl_c_in_the_middle_ends_within_its_promise(self):
        repo, sandbox = project(os.urandom(LARGE_BYTES)), Sandbox("ctrl-c")
        ended = threading.Event()
        self.addCleanup(ended.set)
        with Between(self.engine.socket, lambda sent: sent > LARGE_BYTES // 4 and ended.wait(60)) as between:
            run = start(ROOT, "images", "--repo", repo, "--to", "docker", "--engine", between.address, sandbox=sandbox)
            run.wait_for(lambda: between.sent_bytes > LARGE_BYTES // 4, "sending")
            asked = time.monotonic()
            run.signal_group(signal.SIGINT)
            finished = run.finish(30)
        self.assertEqual(finished.exit_code, 130, finished)
        self.assertLess(time.monotonic() - asked, END_SECONDS)
        self.assertEqual(sandbox.processes(), {})
