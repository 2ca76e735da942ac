"""The real registries behind the mirrors: who they are, and a disk cache of what they answered.

Owns: asking each tool for its own default at run time, and every request to the outside.
Never: names a default registry (no such name stands in this repository), or keeps an answer whose bytes do not match
the digest stored beside it.
"""

import hashlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path

PROBE_TIMEOUT_SECONDS = 30
FETCH_TIMEOUT_SECONDS = 60
FETCH_TRIES = 3
CACHED_STATUSES = {200, 404, 410}


class UpstreamError(Exception):
    """A real registry could not be named or reached; says which and why."""


@dataclass(frozen=True)
class Fetched:
    status: int
    content_type: str
    etag: str | None
    body: bytes


class Registries:
    """The default registries of this machine's tools. URLs end in `/`; each is asked once, when first needed."""

    @cached_property
    def crates_index(self) -> str:
        """The sparse index cargo uses when nothing configures it: the host it names to a proxy that refuses."""
        with socket.create_server(("127.0.0.1", 0)) as proxy, tempfile.TemporaryDirectory() as directory:
            proxy.settimeout(PROBE_TIMEOUT_SECONDS)
            package = Path(directory, "package")
            package.joinpath("src").mkdir(parents=True)
            package.joinpath("src/lib.rs").touch()
            # Any dependency makes cargo open the index; the connection is dropped before a name is asked for.
            package.joinpath("Cargo.toml").write_text('[package]\nname = "probe"\n[dependencies]\nlibc = "0.2"\n')
            environment = {name: os.environ[name] for name in ("PATH", "HOME", "RUSTUP_HOME") if name in os.environ}
            environment |= {
                "CARGO_HOME": directory,
                "CARGO_NET_RETRY": "0",
                "HTTPS_PROXY": f"http://127.0.0.1:{proxy.getsockname()[1]}",
            }
            try:
                with subprocess.Popen(
                    ["cargo", "generate-lockfile"],
                    cwd=package,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                ) as cargo:
                    try:
                        connection, _ = proxy.accept()
                        with connection:
                            request_line = connection.recv(4096).decode("ascii", "replace").split("\r\n")[0]
                    finally:
                        cargo.kill()
            except OSError as error:
                raise UpstreamError(f"cargo did not name its index host: {error}") from error
        method, _, rest = request_line.partition(" ")
        if method != "CONNECT":
            raise UpstreamError(f"cargo did not name its index host: it sent {request_line!r} to its proxy")
        return f"https://{rest.split(':')[0]}/"

    @cached_property
    def go_proxy(self) -> str:
        proxies = go_env("GOPROXY").replace("|", ",").split(",")
        remote = [proxy for proxy in proxies if proxy not in ("direct", "off", "")]
        if not remote:
            raise UpstreamError(f"GOPROXY={','.join(proxies)} names no module proxy")
        return remote[0].rstrip("/") + "/"

    @cached_property
    def go_sumdb(self) -> str:
        """The checksum database as the module proxy passes it through, which is how Go itself prefers to reach it."""
        name = go_env("GOSUMDB").split("+")[0]
        if name in ("", "off"):
            raise UpstreamError("GOSUMDB names no checksum database")
        return f"{self.go_proxy}sumdb/{name}/"

    @cached_property
    def simple_index(self) -> str:
        return self._pip_constants[0].rstrip("/") + "/"

    @cached_property
    def simple_files(self) -> str:
        """Where the index keeps its files; its pages link there."""
        return f"https://{self._pip_constants[1]}/packages/"

    @cached_property
    def _pip_constants(self) -> list[str]:
        script = "from pip._internal.models.index import PyPI; print(PyPI.simple_url, PyPI.file_storage_domain)"
        # Debian strips pip from its Python, yet keeps the wheel that new virtual environments get.
        folders = (Path(os.__file__).parent / "ensurepip/_bundled", Path("/usr/share/python-wheels"))
        wheels = [str(wheel) for folder in folders for wheel in sorted(folder.glob("pip-*.whl"))]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(wheels)}
        return tool_output([sys.executable, "-c", script], environment).split()


def go_env(name: str) -> str:
    return tool_output(["go", "env", name], {**os.environ, "GOTOOLCHAIN": "local"})


def tool_output(argv: list[str], environment: dict[str, str]) -> str:
    try:
        return subprocess.run(
            argv, env=environment, check=True, capture_output=True, text=True, timeout=PROBE_TIMEOUT_SECONDS
        ).stdout.strip()
    except subprocess.CalledProcessError as error:
        raise UpstreamError(f"{' '.join(argv)} failed (exit {error.returncode}): {error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UpstreamError(f"{' '.join(argv)}: {error}") from error


class Cache:
    """Answers of the real registries, by URL and Accept header. Kept until its directory is deleted.

    <directory>/<first two hex digits>/<sha256 of the request>.json   status, content type, etag, sha256 of the body
    <directory>/<first two hex digits>/<sha256 of the request>.body   the bytes; published before the .json
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._locks: dict[str, threading.Lock] = {}
        self._locks_guard = threading.Lock()

    def get(self, url: str, accept: str = "*/*") -> Fetched:
        """Raises UpstreamError when the registry cannot be reached."""
        key = hashlib.sha256(f"{url}\n{accept}".encode()).hexdigest()
        with self._locks_guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            stem = self.directory / key[:2] / key
            fetched = self._read(stem)
            if fetched is None:
                fetched = fetch(url, accept)
                if fetched.status in CACHED_STATUSES:
                    self._publish(stem, url, fetched)
            return fetched

    @staticmethod
    def _read(stem: Path) -> Fetched | None:
        try:
            facts = json.loads(stem.with_suffix(".json").read_text())
            body = stem.with_suffix(".body").read_bytes()
        except (FileNotFoundError, ValueError):
            return None
        if hashlib.sha256(body).hexdigest() != facts["sha256"]:
            return None
        return Fetched(facts["status"], facts["content_type"], facts["etag"], body)

    @staticmethod
    def _publish(stem: Path, url: str, fetched: Fetched) -> None:
        facts = asdict(fetched)
        digest = hashlib.sha256(facts.pop("body")).hexdigest()
        stem.parent.mkdir(parents=True, exist_ok=True)
        described = json.dumps({"url": url, "sha256": digest, **facts})
        for suffix, content in ((".body", fetched.body), (".json", described.encode())):
            with tempfile.NamedTemporaryFile(dir=stem.parent, delete=False) as beside:
                beside.write(content)
            os.replace(beside.name, stem.with_suffix(suffix))


@cache
def opener() -> urllib.request.OpenerDirector:
    """Reads the CA bundle once; `urlopen` would for every request."""
    return urllib.request.build_opener(urllib.request.HTTPSHandler(context=ssl.create_default_context()))


def fetch(url: str, accept: str) -> Fetched:
    """GET through the caller's proxy and CA variables, redirects followed. HTTP errors are answers, not exceptions."""
    request = urllib.request.Request(url, headers={"Accept": accept, "User-Agent": "hostile-mirror (test server)"})
    failures = []
    for _ in range(FETCH_TRIES):
        try:
            try:
                response = opener().open(request, timeout=FETCH_TIMEOUT_SECONDS)
            except urllib.error.HTTPError as error:
                response = error
            with response:
                body = response.read()
                headers = response.headers
            return Fetched(
                response.status, headers.get("Content-Type", "application/octet-stream"), headers.get("ETag"), body
            )
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            failures.append(f"{type(error).__name__}: {error}")
    raise UpstreamError(f"GET {url}: {'; '.join(failures)}")
