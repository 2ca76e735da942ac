"""`cargo xtask images --to registry:…` against Debian's registry: open, behind a password or a token service; killed.

Owns: that what was pushed is pulled again by others, that a rerun sends only what is missing, whose login is used.
The misbehaviours of registries are a table in xtask/crates/gateway/tests/it/push.rs.
"""

import base64
import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from support import FOLDER, ROOT, Sandbox, need, start, tell, xtask

KILL_POINTS = 100
PASSWORD = "correct-horse-7"
DECLARATION = """project.name = "demo"
[image.small]
entrypoint = ["/app/start"]
user = "1000:1000"
[[image.small.layer]]
name = "program"
files = [{ from = { path = "start" }, to = "/app/start", mode = "0755" }]
[[image.small.layer]]
name = "settings"
files = [{ from = { path = "settings" }, to = "/etc/demo/" }]
[image.other]
entrypoint = ["/app/start"]
user = "1000:1000"
[[image.other.layer]]
name = "settings"
files = [{ from = { path = "settings" }, to = "/etc/demo/" }]
[[image.other.layer]]
name = "program"
files = [{ from = { path = "start" }, to = "/app/start", mode = "0755" }]
"""


def project(name: str) -> Path:
    """Two images that share a layer of a few hundred kilobytes."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=FOLDER))
    (folder / "xtask.toml").write_text(DECLARATION)
    (folder / "start").write_text("#!/bin/sh\n")
    (folder / "settings").write_bytes(os.urandom(300_000))
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Registry:
    """Debian's registry with a folder of its own; its log has a line a request."""

    def __init__(self, auth: dict | None = None):
        folder = Path(tempfile.mkdtemp(prefix="registry-", dir=FOLDER))
        self.host = f"127.0.0.1:{free_port()}"
        self.log = folder / "log"
        configuration = {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": self.host, "secret": "s"},
        } | ({"auth": auth} if auth else {})
        # JSON is YAML.
        (folder / "config.yml").write_text(json.dumps(configuration))
        with open(self.log, "wb") as log:
            argv = ["docker-registry", "serve", folder / "config.yml"]
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 30
        while self.status("GET", "") == 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(self.log.read_text()[-3000:])
            time.sleep(0.05)

    def ask(self, method: str, path: str):
        accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        request = urllib.request.Request(f"http://{self.host}/v2/{path}", None, accept, method=method)
        return urllib.request.urlopen(request)

    def status(self, method: str, path: str) -> int:
        try:
            return self.ask(method, path).status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def requests(self) -> list[tuple[str, str]]:
        """Method and path of everything that this tool asked."""
        lines = re.findall(r'"([A-Z]+) (\S+) HTTP/1.1" .*cargo-xtask', self.log.read_text())
        return [(method, path.split("?")[0]) for method, path in lines]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def why_no_registry() -> str | None:
    missing = [program for program in ("docker-registry", "htpasswd", "openssl", "skopeo") if not shutil.which(program)]
    return f"there is no {', '.join(missing)}" if missing else None


class Frozen:
    """Stands before a registry and passes on so many bytes of its client; then it is silent and says so."""

    def __init__(self, registry: Registry, limit_bytes: int):
        self.target, self.left, self.reached = registry.host.split(":"), limit_bytes, threading.Event()
        self.passed, self.lock, self.copying, self.ends = 0, threading.Lock(), [], []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.accepting = threading.Thread(target=self.accept, daemon=True)
        self.accepting.start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection((self.target[0], int(self.target[1])))
                self.ends += [client, server]
                for ends in ((client, server, True), (server, client, False)):
                    self.copying.append(threading.Thread(target=self.copy, args=ends, daemon=True))
                    self.copying[-1].start()

    def copy(self, source: socket.socket, sink: socket.socket, counted: bool):
        with contextlib.suppress(OSError):
            while piece := source.recv(4096):
                with self.lock:
                    frozen = False
                    if counted:
                        self.passed += len(piece)
                        piece, self.left = piece[: max(self.left, 0)], self.left - len(piece)
                        frozen = self.left < 0
                sink.sendall(piece)
                if frozen:
                    self.reached.set()
                    while source.recv(1 << 16):
                        pass
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self):
        """Once the client is gone and the registry is through with what it got."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in [self.accepting, *self.copying]:
            thread.join(30)
        for end in self.ends:
            end.close()


class Push(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need("registry", why_no_registry())
        cls.repo, cls.sandbox = project("push"), Sandbox("push")

    def push(self, host, *arguments, images=("small",), sandbox=None, **options):
        words = ["images", *images, "--repo", self.repo, "--to", f"registry:{host}"]
        return xtask(ROOT, *words, *arguments, sandbox=sandbox or self.sandbox, **options)

    def registry(self, auth=None) -> Registry:
        registry = Registry(auth)
        self.addCleanup(registry.close)
        return registry

    def pulled(self, reference: str, *credentials: str) -> str:
        """By skopeo, which checks every blob."""
        place = Path(tempfile.mkdtemp(dir=FOLDER)) / "pulled"
        argv = ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", *credentials]
        copied = subprocess.run([*argv, f"docker://{reference}", f"oci:{place}:x"], capture_output=True, text=True)
        self.assertEqual(copied.returncode, 0, copied.stderr)
        (manifest,) = json.loads((place / "index.json").read_text())["manifests"]
        return manifest["digest"]

    def test_what_was_pushed_is_pulled_again_and_pushing_it_again_sends_nothing(self):
        registry = self.registry()
        run = self.push(f"{registry.host}/team", "--tag", "v1", images=())
        self.assertEqual(run.exit_code, 0, run)
        told = {it["name"]: it for it in run.of("image")}
        self.assertEqual(sorted(told), ["other", "small"])
        for name, image in told.items():
            self.assertEqual(image["reference"], f"registry:{registry.host}/team/{name}:v1")
            self.assertEqual(self.pulled(f"{registry.host}/team/{name}:v1"), image["digest"])
        # The second image's layers are the first one's, in another order.
        self.assertEqual({(it["pushed"]["mounted"], it["pushed"]["sent"]) for it in told.values()}, {(0, 3), (2, 1)})

        before = len(registry.requests())
        again = self.push(f"{registry.host}/team", "--tag", "v1", images=())
        self.assertEqual((again.exit_code, again.ran), (0, []), again)
        for image in again.of("image"):
            self.assertEqual(image["pushed"], {"sent": 0, "sent_bytes": 0, "mounted": 0, "present": 3})
        asked = registry.requests()[before:]
        self.assertEqual({method for method, _ in asked}, {"HEAD"})
        self.assertEqual(len(asked), 2 * (1 + 3), asked)
        tell(f"an unchanged image: {len(asked) // 2} requests, {again.seconds:.2f} s for two")

        full = self.push(f"{registry.host}/elsewhere/router:v2")
        self.assertEqual(full.exit_code, 0, full)
        self.assertEqual(self.pulled(f"{registry.host}/elsewhere/router:v2"), told["small"]["digest"])

    def test_who_may_not_leave_the_machine_or_the_profile_asks_nobody(self):
        registry = self.registry()
        planned = self.push(registry.host, "--dry-run")
        self.assertEqual(planned.exit_code, 0, planned)
        self.assertIn(registry.host, json.dumps(planned.of("plan")))
        for words, code in ((["--offline"], "XT0402"), (["--mirror", "cn", "--egress", "mirrors-only"], "XT0405")):
            run = self.push(registry.host, *words)
            self.assertIn(f"error[{code}]", run.stderr)
            self.assertIn(registry.host, run.stderr)
        two = self.push(f"{registry.host}/team:v1", images=())
        self.assertIn("error[XT0201]", two.stderr)
        twice = self.push(f"{registry.host}/team:v1", "--tag", "v2")
        self.assertIn("error[XT0201]", twice.stderr)
        self.assertEqual(registry.requests(), [])

    def login(self, sandbox: Sandbox, path: str, file: dict) -> Path:
        place = sandbox.home / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(file))
        return place

    def nothing_is_told(self, *runs):
        """Of the password: in what was said, and in every log of this checkout."""
        encoded = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
        logs = [path.read_text(errors="replace") for path in self.repo.glob("target/xtask/logs/**/*") if path.is_file()]
        self.assertTrue(logs)
        for text in [*map(str, runs), *logs]:
            self.assertNotIn(PASSWORD, text)
            self.assertNotIn(encoded, text)

    def test_a_password_comes_from_the_files_of_docker_and_podman_or_from_a_helper(self):
        passwords = Path(tempfile.mkdtemp(dir=FOLDER)) / "htpasswd"
        passwords.write_bytes(subprocess.check_output(["htpasswd", "-Bbn", "me", PASSWORD]))
        registry = self.registry({"htpasswd": {"realm": "x", "path": str(passwords)}})
        known = lambda password: {  # noqa: E731
            "auths": {registry.host: {"auth": base64.b64encode(f"me:{password}".encode()).decode()}}
        }
        nobody = self.push(registry.host)
        self.assertEqual(nobody.exit_code, 4, nobody)
        self.assertIn("error[XT0406]", nobody.stderr)
        self.assertIn(f"docker login {registry.host}", nobody.stderr)

        sandbox = Sandbox("push-wrong")
        file = self.login(sandbox, ".docker/config.json", known("wrong-" + PASSWORD))
        wrong = self.push(registry.host, sandbox=sandbox)
        self.assertIn("error[XT0406]", wrong.stderr)
        self.assertIn(str(file), wrong.stderr)
        self.assertEqual(registry.status("GET", "small/manifests/latest"), 401)

        helpers = Path(tempfile.mkdtemp(dir=FOLDER))
        helper = helpers / "docker-credential-mine"
        answer = json.dumps({"ServerURL": registry.host, "Username": "me", "Secret": PASSWORD})
        helper.write_text(f"#!/bin/sh\n[ \"$1\" = get ] && [ \"$(cat)\" = '{registry.host}' ] && echo '{answer}'\n")
        helper.chmod(0o755)
        with_helper = {"PATH": f"{helpers}:{os.environ['PATH']}"}
        cases = {
            "docker": (".docker/config.json", known(PASSWORD), {}),
            "podman": (".config/containers/auth.json", known(PASSWORD), {}),
            "named": ("elsewhere.json", known(PASSWORD), {"REGISTRY_AUTH_FILE": "{home}/elsewhere.json"}),
            "folder": ("of-docker/config.json", known(PASSWORD), {"DOCKER_CONFIG": "{home}/of-docker"}),
            "helper": (".docker/config.json", {"credHelpers": {registry.host: "mine"}}, with_helper),
            "store": (".docker/config.json", {"auths": {registry.host: {}}, "credsStore": "mine"}, with_helper),
        }
        runs = []
        for name, (path, file, variables) in cases.items():
            with self.subTest(name):
                sandbox = Sandbox(f"push-{name}", cache=self.sandbox.cache)
                self.login(sandbox, path, file)
                variables = {key: value.format(home=sandbox.home) for key, value in variables.items()}
                run = self.push(f"{registry.host}/{name}", sandbox=sandbox, environment=variables)
                self.assertEqual(run.exit_code, 0, run)
                (image,) = run.of("image")
                reference = f"{registry.host}/{name}/small:latest"
                self.assertEqual(self.pulled(reference, "--src-creds", f"me:{PASSWORD}"), image["digest"])
                runs.append(run)
        self.nothing_is_told(nobody, wrong, *runs)

        sandbox = Sandbox("push-no-helper", cache=self.sandbox.cache)
        self.login(sandbox, ".docker/config.json", {"credsStore": "nowhere"})
        missing = self.push(registry.host, sandbox=sandbox)
        self.assertIn("error[XT0806]", missing.stderr)
        self.assertIn("docker-credential-nowhere", missing.stderr)
        self.login(sandbox, ".docker/config.json", ["no", PASSWORD])
        broken = self.push(registry.host, sandbox=sandbox)
        self.assertIn("error[XT0304]", broken.stderr)
        self.nothing_is_told(broken)

    def test_a_token_service_elsewhere_gets_the_password_and_the_registry_never(self):
        folder = Path(tempfile.mkdtemp(dir=FOLDER))
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tokens", "-keyout", key]
        subprocess.run([*make, "-out", certificate], check=True, capture_output=True)
        service = TokenService(key, certificate)
        self.addCleanup(service.server_close)
        self.addCleanup(service.shutdown)
        realm = f"http://127.0.0.1:{service.server_port}/token"
        told = {"realm": realm, "service": "reg", "issuer": "tokens", "rootcertbundle": str(certificate)}
        registry = self.registry({"token": told})
        sandbox = Sandbox("push-token", cache=self.sandbox.cache)
        anonymous = self.push(f"{registry.host}/team", sandbox=sandbox)
        self.assertIn("error[XT0406]", anonymous.stderr)
        auth = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
        self.login(sandbox, ".docker/config.json", {"auths": {registry.host: {"auth": auth}}})
        run = self.push(f"{registry.host}/team", sandbox=sandbox, images=())
        self.assertEqual(run.exit_code, 0, run)
        for image in run.of("image"):
            reference = f"{registry.host}/team/{image['name']}:latest"
            self.assertEqual(self.pulled(reference, "--src-creds", f"me:{PASSWORD}"), image["digest"])
        self.assertIn(["repository:team/small:pull,push", "repository:team/other:pull"], service.scopes)
        self.assertEqual({it["pushed"]["mounted"] for it in run.of("image")}, {0, 2})
        self.nothing_is_told(anonymous, run)
        self.assertNotIn(auth, registry.log.read_text())

    def test_killed_at_a_hundred_points_a_tag_is_never_there_before_all_of_it_and_a_rerun_sends_what_is_missing(self):
        registry = self.registry()
        whole = Frozen(registry, 1 << 40)
        first = self.push(f"{whole.host}/whole")
        self.assertEqual(first.exit_code, 0, first)
        (image,) = first.of("image")
        manifest = json.load(registry.ask("GET", "whole/small/manifests/latest"))
        blobs = [it["digest"] for it in [manifest["config"], *manifest["layers"]]]
        whole.close()
        outcomes = {"tagged": 0, "untagged": 0}
        # Half of them all over the bytes, half within the documents at their end.
        half, tail = KILL_POINTS // 2, 3000
        points = [whole.passed * number // half for number in range(half)]
        points += [whole.passed - tail + tail * number // half for number in range(half)]
        for point, at in enumerate(points):
            frozen, name = Frozen(registry, at), f"at{point}/small"
            words = ["images", "small", "--repo", self.repo, "--to", f"registry:{frozen.host}/at{point}"]
            run = start(ROOT, *words, sandbox=self.sandbox)
            try:
                self.assertTrue(frozen.reached.wait(60), f"{at} of {whole.passed} bytes were never sent")
            finally:
                run.signal_group(signal.SIGKILL)
                run.process.wait()
                frozen.close()
            there = [digest for digest in blobs if registry.status("HEAD", f"{name}/blobs/{digest}") == 200]
            tagged = registry.status("HEAD", f"{name}/manifests/latest") == 200
            outcomes["tagged" if tagged else "untagged"] += 1
            if tagged or registry.status("HEAD", f"{name}/manifests/{image['digest']}") == 200:
                self.assertEqual(there, blobs, f"{at}: a manifest before its blobs")
            rerun = self.push(f"{registry.host}/at{point}")
            self.assertEqual(rerun.exit_code, 0, f"{at}: {rerun}")
            pushed = rerun.of("image")[0]["pushed"]
            expected = (len(there), len(blobs) - len(there))
            self.assertEqual((pushed["present"], pushed["sent"]), expected, f"{at}: {pushed}")
            headers = registry.ask("HEAD", f"{name}/manifests/latest").headers
            self.assertEqual(headers["Docker-Content-Digest"], image["digest"])
        self.assertGreater(outcomes["untagged"], KILL_POINTS // 2, outcomes)
        tell(f"killed at {KILL_POINTS} points of {whole.passed} bytes: {outcomes}")


class TokenService(http.server.ThreadingHTTPServer):
    """Gives tokens as the registry's reference implementation says: signed, for the scopes that a user may have."""

    def __init__(self, key: Path, certificate: Path):
        super().__init__(("127.0.0.1", 0), TokenRequest)
        self.key, self.scopes = key, []
        self.chain = "".join(certificate.read_text().splitlines()[1:-1])
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def token(self, scopes: list[str], user: str) -> str:
        access = []
        for scope in scopes if user else []:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        times = {"exp": now + 300, "nbf": now - 10, "iat": now}
        claims = {"iss": "tokens", "sub": user, "aud": "reg", "jti": os.urandom(8).hex(), "access": access} | times
        encode = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=")  # noqa: E731
        head = {"typ": "JWT", "alg": "RS256", "x5c": [self.chain]}
        text = b".".join(encode(json.dumps(part).encode()) for part in (head, claims))
        signature = subprocess.check_output(["openssl", "dgst", "-sha256", "-sign", str(self.key)], input=text)
        return (text + b"." + encode(signature)).decode()


class TokenRequest(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if kind and base64.b64decode(value).decode() != f"me:{PASSWORD}":
            self.send_error(401)
            return
        self.server.scopes.append(query["scope"])
        body = json.dumps({"token": self.server.token(query["scope"], "me" if kind else "")}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    unittest.main()
