"""`cargo xtask doctor` where something fundamental is broken: the first finding is exactly that, within five seconds.

Owns: the real program in networks, on file systems and behind proxies that are broken in one way each.
Never: needs the outside: what is to be reached is on loopback or in a namespace.
"""

import base64
import functools
import os
import socket
import subprocess
import threading
import unittest
from contextlib import contextmanager

from support import FOLDER, ROOT, Sandbox, mirrored, need, netns, tell, unplugged, xtask

LIMIT_SECONDS = 5
"""The promise; the start of cargo and of the launcher is inside, that of a namespace is not."""
TIMED = [
    "sh",
    "-c",
    'start=$(date +%s%N); "$@"; code=$?; echo $(($(date +%s%N) - start)) > "$DOCTOR_TIME"; exit $code',
    "sh",
]


@functools.cache
def built() -> Sandbox:
    """A user for whom conductor and gateway are built and warm."""
    sandbox = Sandbox("doctor")
    run = xtask(ROOT, "doctor", "disk", sandbox=sandbox)
    if run.exit_code != 0:
        raise AssertionError(str(run))
    words = ["cargo", "xtask", "--build-satellite", "gateway"]
    subprocess.run(words, cwd=ROOT, env=sandbox.environment(), stdout=subprocess.DEVNULL, check=True)
    return sandbox


def doctor(*arguments, environment=None, wrapper=(), code: int | None = None):
    time = built().folder / "time"
    environment = {"DOCTOR_TIME": str(time)} | (environment or {})
    run = xtask(ROOT, "doctor", *arguments, sandbox=built(), environment=environment, wrapper=[*wrapper, *TIMED])
    seconds = int(time.read_text()) / 1e9
    findings = run.of("finding")
    if not findings or run.events[-1]["event"] != "summary":
        raise AssertionError(f"no findings, or no summary: {run}")
    if seconds > LIMIT_SECONDS:
        raise AssertionError(f"{seconds:.1f} s: {run}")
    if code is not None and run.exit_code != code:
        raise AssertionError(f"exit {run.exit_code}, expected {code}: {run}")
    tell(f"{findings[0]['code']}: {findings[0]['message'][:100]} ({seconds:.1f} s)")
    return run, findings


@contextmanager
def listener(handle):
    """Answers every connection on a port of loopback by `handle(socket)`."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def wants_password(connection):
    with connection:
        connection.recv(4096)
        connection.sendall(
            b"HTTP/1.1 407 Proxy Authentication Required\r\n"
            b"proxy-authenticate: Basic realm=x\r\ncontent-length: 0\r\n\r\n"
        )


class First(unittest.TestCase):
    """What the first finding names."""

    def setUp(self):
        need("netns", netns.why_impossible())

    def test_unplugged(self):
        _, findings = doctor(wrapper=unplugged(), code=4)
        self.assertEqual(findings[0]["code"], "network.unplugged")
        self.assertEqual(findings[0]["severity"], "error")
        self.assertIn("no route", findings[0]["message"])
        self.assertIn("cargo xtask doctor mirrors", findings[0]["fix"])

    def test_a_proxy_that_wants_a_password(self):
        with listener(wants_password) as port:
            environment = {"HTTPS_PROXY": f"http://127.0.0.1:{port}", "https_proxy": "", "NO_PROXY": "localhost"}
            _, findings = doctor(environment=environment, code=4)
        self.assertEqual(findings[0]["code"], "network.proxy-password")
        self.assertIn(f"USER:PASSWORD@127.0.0.1:{port}", findings[0]["fix"])

    def test_a_wrong_authority(self):
        other = FOLDER / "other.pem"
        words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=other"
        subprocess.run([*words.split(), "-keyout", "/dev/null", "-out", other], check=True, stderr=subprocess.DEVNULL)
        wrapper = mirrored(built(), SSL_CERT_FILE=str(other))
        _, findings = doctor("mirrors", "--mirror", "cn", wrapper=wrapper, code=4)
        self.assertEqual(findings[0]["code"], "network.tls")
        self.assertIn("hostile-mirror test authority", findings[0]["message"])
        self.assertIn("export SSL_CERT_FILE=", findings[0]["fix"])

    def test_every_host_is_a_black_hole(self):
        routed = ["sh", "-c", 'ip route add default dev lo && exec "$@"', "sh"]
        wrapper = [*mirrored(built(), "*=blackhole"), *routed]
        _, findings = doctor("--mirror", "cn", wrapper=wrapper, code=4)
        self.assertEqual(findings[0]["code"], "network.blocked")
        groups = {it["code"].split(".")[0] for it in findings}
        self.assertLessEqual({"toolchain", "mirror", "cache", "disk", "ports", "project"}, groups)

    def test_every_host_is_silent(self):
        routed = ["sh", "-c", 'ip route add default dev lo && exec "$@"', "sh"]
        _, findings = doctor("--mirror", "cn", wrapper=[*mirrored(built(), "*/*=silent"), *routed], code=4)
        self.assertEqual(findings[0]["code"], "network.blocked")

    def test_a_login_page_in_place_of_every_host(self):
        wrapper = mirrored(built(), "*/*=html")
        _, findings = doctor("mirrors", "--mirror", "cn", wrapper=wrapper, code=4)
        self.assertEqual(findings[0]["code"], "mirror.html")
        self.assertIn("browser", findings[0]["fix"])

    def test_a_full_disk(self):
        full = FOLDER / "full"
        full.mkdir(exist_ok=True)
        mount = f'mount -t tmpfs -o size=1m tmpfs {full} && head -c 2m /dev/zero > {full}/fill; exec "$@"'
        wrapper = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c", mount, "sh"]
        environment = {"XTASK_CACHE_DIR": str(full), "TMPDIR": str(full)}
        _, findings = doctor(environment=environment, wrapper=wrapper, code=6)
        self.assertEqual(findings[0]["code"], "disk.full")
        self.assertIn("full", findings[0]["message"])

    def test_a_file_of_authorities_without_one(self):
        empty = FOLDER / "empty.pem"
        empty.write_text("# nothing\n")
        _, findings = doctor("mirrors", environment={"SSL_CERT_FILE": str(empty)}, code=4)
        self.assertEqual(findings[0]["code"], "setting.ca-file")


class Report(unittest.TestCase):
    def test_settings_that_cargo_ignores_are_reported_with_the_working_form(self):
        environment = {"CARGO_SOURCE_CRATES_IO_REPLACE_WITH": "mirror"}
        _, findings = doctor("mirrors", "--offline", environment=environment, code=0)
        found = {it["subject"]: it for it in findings}["CARGO_SOURCE_CRATES_IO_REPLACE_WITH"]
        self.assertEqual((found["code"], found["severity"]), ("setting.ineffective", "warning"))
        self.assertIn("ignored by cargo", found["message"])
        self.assertIn("--mirror NAME", found["fix"])

    def test_nothing_private_is_in_a_report(self):
        secret = base64.b64encode(os.urandom(9)).decode().replace("/", "_")
        environment = {
            "HTTPS_PROXY": f"http://{secret}:{secret}@127.0.0.1:9",
            "PIP_INDEX_URL": f"https://{secret}@index.example/simple",
            "GIT_SSL_NO_VERIFY": "1",
            "HF_TOKEN": secret,
            "XTASK_CACHE_DIR": str(built().home / ".cache/xtask"),
        }
        run, _ = doctor(environment=environment)
        words = ["cargo", "xtask", "doctor"]
        human = subprocess.run(words, cwd=ROOT, env=built().environment() | environment, capture_output=True, text=True)
        for text in (str(run.events), run.stderr, human.stdout, human.stderr):
            self.assertNotIn(secret, text)
            self.assertNotIn(str(built().home), text)
        self.assertIn("~/.cache/xtask", human.stdout)

    def test_fix_shows_its_plan_and_runs_nothing_without_a_yes(self):
        folder = built().cache / "store-v2/quarantine"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "altered").write_text("x")
        self.addCleanup((folder / "altered").unlink)
        run, findings = doctor("cache", "--fix")
        self.assertIn("cache.quarantine", [it["code"] for it in findings])
        self.assertIn("would run: cargo xtask cache verify", run.stderr)
        self.assertIn("nothing was run", run.stderr)
        run, _ = doctor("cache", "--fix", "--yes", code=0)
        self.assertIn("run `cargo xtask doctor` again", run.stderr)


if __name__ == "__main__":
    unittest.main()
