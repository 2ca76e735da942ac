"""A user with a secret in every place that holds one: what the tool shows, keeps and starts holds none of them.

Owns: the places, the commands, the search.
Never: counts a secret as kept that nobody was to get: whoever it is for got it.
"""

import base64
import http.server
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
import unittest
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from support import FOLDER, ROOT, Sandbox, fixture, lab, tell

SAMPLES_PER_SECOND = 50
FAILED = range(1, 10)
"""Exit codes of what cannot be done; a crash is none of them."""
CRASH = ["sh", "-c", 'ulimit -v 1600000 && RUST_MIN_STACK=1073741824 exec "$@"', "sh"]
"""A thread that cannot start, in the middle of a command: a crash that needs no door in the program."""


@dataclass
class Canary:
    """A user and a password that occur nowhere else; the password holds what a URL must encode."""

    user: str = field(default_factory=lambda: f"user{secrets.token_hex(4)}")
    password: str = field(default_factory=lambda: f"p@{secrets.token_hex(4)}/{secrets.token_hex(4)}%")

    @property
    def in_url(self) -> str:
        return f"{self.user}:{quote(self.password, safe='')}"

    @property
    def basic(self) -> str:
        return base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    @property
    def forms(self) -> set[str]:
        """Every way of writing it that would give it away; of base64 what does not depend on the neighbours."""
        encoded = quote(self.password, safe="")
        padded = (base64.b64encode(b"\0" * shift + self.password.encode()).decode() for shift in range(3))
        inner = {text[4 : len(text) // 4 * 4 - 4] for text in padded}
        return {self.password, encoded, encoded.lower(), self.basic, self.basic.rstrip("="), *inner}


class Recorder(http.server.BaseHTTPRequestHandler):
    """A proxy that opens no way to anywhere, and notes what asked with which secret."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        self.server.asked.append((self.command, self.headers))
        self.send_response(403 if self.command == "CONNECT" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_CONNECT = answer

    def log_message(self, *_):
        pass


@contextmanager
def recorder():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@contextmanager
def command_lines():
    """Every command line of this machine's processes while it lasts, and how often they were looked at."""
    seen, looks, end = set(), [], threading.Event()

    def watch():
        begin = time.monotonic()
        while not end.wait(max(0, begin + len(looks) / SAMPLES_PER_SECOND - time.monotonic())):
            looks.append(time.monotonic())
            for entry in os.listdir("/proc"):
                if entry.isdigit():
                    try:
                        with open(f"/proc/{entry}/cmdline", "rb") as file:
                            seen.add(file.read())
                    except OSError:
                        pass  # It has ended meanwhile.

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen, looks
    finally:
        end.set()
        watcher.join()


class Secrets(unittest.TestCase):
    def setUp(self):
        self.canaries = defaultdict(Canary)
        self.planted: set[Path] = set()
        self.outputs: list[tuple[str, str]] = []

    def plant(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        self.planted.add(path)

    def user(self, sandbox: Sandbox) -> None:
        """The files that the tools of every ecosystem keep secrets in."""
        of = self.canaries
        netrc = "".join(
            f"machine {host} login {of['netrc'].user} password {of['netrc'].password}\n"
            for host in ("127.0.0.1", "localhost", "xtask-gateway.invalid")
        )
        self.plant(sandbox.home / ".netrc", netrc)
        pip = f"[global]\nindex-url = https://{of['pip.conf'].in_url}@pip.example/simple/\n"
        self.plant(sandbox.home / ".config/pip/pip.conf", pip)
        npm = f"registry=https://npm.example/\n//npm.example/:_authToken={of['npmrc'].password}\n"
        self.plant(sandbox.home / ".npmrc", npm)
        token = of["credentials.toml"].password
        credentials = f'[registry]\ntoken = "{token}"\n[registries.corp]\ntoken = "{token}"\n'
        self.plant(sandbox.folder / "cargo/credentials.toml", credentials)

    def environment(self, sandbox: Sandbox, proxy: str) -> dict[str, str]:
        of = self.canaries
        return {
            "HTTP_PROXY": f"http://{of['HTTP_PROXY'].in_url}@{proxy}",
            "http_proxy": f"http://{of['HTTP_PROXY'].in_url}@{proxy}",
            "HTTPS_PROXY": f"http://{of['HTTPS_PROXY'].in_url}@{proxy}",
            "https_proxy": f"http://{of['HTTPS_PROXY'].in_url}@{proxy}",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "HF_TOKEN": of["HF_TOKEN"].password,
            "GOAUTH": f"/usr/bin/printf {of['GOAUTH'].password}",
            "XTASK_CORP_HOST": f"{of['XTASK_CORP_HOST'].in_url}@corp.example:8443",
            "CARGO_REGISTRIES_CORP_TOKEN": of["CARGO_REGISTRIES_CORP_TOKEN"].password,
            "TMPDIR": str(sandbox.folder / "tmp"),
        }

    def profiles(self, repo: Path, mirror) -> None:
        """Profile `lab` with a secret in each endpoint; `names` is reached by proxies alone, `dead` not at all."""
        of = self.canaries
        text = mirror.profile("http")
        for host, name in [
            ("crates-1.lab", "crates"),
            ("go-1.lab", "go"),
            ("python-1.lab", "python"),
            ("npm-1.lab", "npm"),
        ]:
            url = mirror.url(host, "http")
            assert url in text, f"{url} in {text}"
            text = text.replace(f"{url}/", f"{url.replace('//', f'//{of[name].in_url}@')}/")
            text = text.replace(f'{url}"', f'{url.replace("//", f"//{of[name].in_url}@")}"')
        crates, go, python, npm = (of[it].in_url for it in ("crates", "go", "python", "npm"))
        for name, scheme, host in [
            ("names", "http", "mirror.example"),
            ("hidden", "https", "mirror.example"),
            ("dead", "http", "127.0.0.1:9"),
        ]:
            text += (
                f"[mirror.{name}]\n"
                f'[mirror.{name}.crates]\nlist = ["sparse+{scheme}://{crates}@{host}/index/"]\n'
                f'[mirror.{name}.go]\nproxy = ["{scheme}://{go}@{host}/go"]\n'
                f'[mirror.{name}.python]\nlist = ["{scheme}://{python}@{host}/simple/"]\n'
                f'[mirror.{name}.npm]\nlist = ["{scheme}://{npm}@{host}/npm/"]\n'
            )
        self.plant(repo / "xtask.local.toml", text)

    def told(self, *words, program, environment: dict, codes) -> None:
        """Runs a command as a script and as a person start it, and keeps what it said."""
        for form in [[]] if "--shell" in words else [["--format", "json"], []]:
            run = subprocess.run(
                [*program, *words, *form], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True
            )
            text = (run.stdout + run.stderr).decode(errors="replace")
            self.outputs.append((" ".join(map(str, [*words, *form])), text))
            self.assertIn(run.returncode, codes, f"{words}: {text[-4000:]}")

    def test_no_secret_is_shown_kept_or_started(self):
        repo, sandbox = fixture("canary"), Sandbox("canary")
        # Another user with an empty cache: what he builds has to be fetched, by the gateway that is built already.
        failing = Sandbox("canary-failing")
        for user in (sandbox, failing):
            self.user(user)
            (user.folder / "tmp").mkdir()
        with recorder() as proxy, lab(repo) as mirror, command_lines() as (started, looks):
            address = f"127.0.0.1:{proxy.server_address[1]}"
            self.profiles(repo, mirror)

            def told(*words, user=sandbox, program=("cargo", "xtask"), codes=(0,)):
                environment = user.environment() | self.environment(user, address)
                self.told(*words, "--repo", repo, program=program, environment=environment, codes=codes)

            told("build", "--mirror", "lab", "-v")
            told("test", "smoke", "--mirror", "lab", "-v")
            got = {it["host"] for it in mirror.log_entries() if it["credentials"] == ["authorization"]}
            others = [it for it in mirror.log_entries() if it["credentials"] not in ([], ["authorization"])]
            shutil.rmtree(failing.folder / "cargo/registry", ignore_errors=True)
            (failing.folder / "cargo/registry").symlink_to(sandbox.folder / "cargo/registry")
            for profile in ("dead", "names", "hidden"):
                told("build", "--mirror", profile, user=failing, codes=FAILED)
            told("mirror", "probe", "names", "--fresh", codes=(0, *FAILED))
            told("mirror", "probe", "corporate", "--fresh", codes=(0, *FAILED))
            for profile in ("lab", "corporate"):
                told("mirror", "show", profile)
                told("mirror", "env", "--mirror", profile)
                for shell in ("sh", "fish", "powershell", "dotenv", "docker"):
                    told("mirror", "env", "--mirror", profile, "--shell", shell)
            told("mirror", "list", "--mirror", "lab")
            told("build", "--mirror", "lab", "--dry-run")
            told("plan", "--mirror", "lab", "-v")
            told("why", "reader", "--mirror", "lab")
            told("doctor", "--mirror", "lab", codes=(0, *FAILED))
            told("explain", "XT0403")
            # Cargo and the launcher would crash first.
            conductor = next((ROOT / "target/xtask/tool").glob("*/conductor"))
            told("plan", "--mirror", "lab", program=(*CRASH, conductor), codes=(101,))
        self.assertIn("xtask crashed", self.outputs[-1][1])
        # Who is to have one got it, and nobody else did.
        self.assertEqual(others, [])
        self.assertEqual(got, {"crates-1.lab", "go-1.lab", "python-1.lab"})
        asked = defaultdict(set)
        for method, headers in proxy.asked:
            asked[headers.get("Proxy-Authorization"), method == "CONNECT"].add(headers.get("Authorization"))
        basic = lambda name: f"Basic {self.canaries[name].basic}"  # noqa: E731
        self.assertEqual(set(asked), {(basic("HTTP_PROXY"), False), (basic("HTTPS_PROXY"), True)})
        self.assertEqual(asked[basic("HTTPS_PROXY"), True], {None})
        through = asked[basic("HTTP_PROXY"), False]
        self.assertEqual(through - {None}, {basic(name) for name in ("crates", "go", "python", "npm")})
        self.search(repo, [sandbox, failing], started)
        rate = len(looks) / (looks[-1] - looks[0])
        tell(
            f"{len(self.canaries)} secrets, {len(self.outputs)} commands, {len(started)} command lines at {rate:.0f} Hz"
        )

    def search(self, repo: Path, users: list[Sandbox], started: set[bytes]) -> None:
        self.assertGreaterEqual(len(self.canaries), 12)
        forms = {form: name for name, canary in self.canaries.items() for form in canary.forms}
        found = [
            f"{forms[form]} in the output of {words}" for words, text in self.outputs for form in forms if form in text
        ]
        lines = b"\n".join(started).decode(errors="replace")
        found += [f"{forms[form]} in a command line" for form in forms if form in lines]
        patterns = Path(tempfile.mkdtemp(dir=FOLDER)) / "forms"
        patterns.write_text("".join(f"{form}\n" for form in forms))
        places = [repo, *(user.folder for user in users)]
        grep = [
            "grep",
            "--recursive",
            "--files-with-matches",
            "--text",
            "--fixed-strings",
            f"--file={patterns}",
            *places,
        ]
        files = subprocess.run(
            grep, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"}
        ).stdout.splitlines()
        # Where it stood before is found: the search sees it.
        self.assertLessEqual(self.planted, {Path(file) for file in files})
        found += [f"a secret in {file}" for file in files if Path(file) not in self.planted]
        self.assertEqual(found, [])


if __name__ == "__main__":
    unittest.main()
