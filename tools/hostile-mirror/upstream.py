"""The real registries behind the mirrors: who they are, and a disk cache of what they answered.

Owns: asking each tool for its own default at run time, and every request to the outside.
Never: names a default registry (no such name stands in this repository), holds a body in memory, or gives out an
answer whose bytes do not match the digest stored beside it.
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
import time
import urllib.error
import urllib.request
from functools import cache, cached_property
from pathlib import Path
from typing import BinaryIO

from answers import BINARY, READ_BYTES, Answer, FileBody

PROBE_TIMEOUT_SECONDS = 30
FETCH_TIMEOUT_SECONDS = 60
FETCH_TRIES = 3
CACHED_STATUSES = {200, 404, 410}
FRESH_SECONDS = 3600
# What a tool needs to run at all; a mirror or proxy that is set up here would hide its own default.
PROBE_VARIABLES = ("PATH", "HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "RUSTUP_AUTO_INSTALL")


class UpstreamError(Exception):
    """A real registry could not be named or reached; says which and why."""


class Registries:
    """The default registries of this machine's tools. URLs end in `/`; each is asked once, when first needed."""

    @cached_property
    def crates_index(self) -> str:
        """The sparse index cargo uses when nothing configures it."""
        with tempfile.TemporaryDirectory() as directory:
            package = Path(directory, "package")
            package.joinpath("src").mkdir(parents=True)
            package.joinpath("src/lib.rs").touch()
            # Any dependency makes cargo open the index; the connection is dropped before a name is asked for.
            package.joinpath("Cargo.toml").write_text('[package]\nname = "probe"\n[dependencies]\nlibc = "0.2"\n')
            environment = {"CARGO_HOME": directory, "CARGO_NET_RETRY": "0"}
            return f"https://{host_asked_for(['cargo', 'generate-lockfile'], package, environment)}/"

    @cached_property
    def rustup(self) -> str:
        """Where rustup gets toolchains, below dist/, and itself, below rustup/."""
        with tempfile.TemporaryDirectory() as directory:
            argv = ["rustup", "toolchain", "install", "stable", "--profile", "minimal", "--no-self-update"]
            environment = {"CARGO_HOME": directory, "RUSTUP_HOME": directory, "RUSTUP_MAX_RETRIES": "0"}
            return f"https://{host_asked_for(argv, Path(directory), environment)}/"

    @cached_property
    def npm(self) -> str:
        # In a directory without a project, whose .npmrc would count.
        url = tool_output(["npm", "config", "get", "registry"], dict(os.environ), Path(tempfile.gettempdir()))
        return url.rstrip("/") + "/"

    @cached_property
    def apt_archives(self) -> dict[str, str]:
        """The archives this machine installs from, by the last part of their path: `debian`, `debian-security`."""
        sites = tool_output(["apt-get", "indextargets", "--format", "$(SITE)"], dict(os.environ)).split()
        return {site.rstrip("/").rpartition("/")[2]: site.rstrip("/") + "/" for site in sites}

    def apt_archive(self, name: str) -> str:
        if name not in self.apt_archives:
            raise UpstreamError(f"apt-get names no archive `{name}`, only {', '.join(sorted(self.apt_archives))}")
        return self.apt_archives[name]

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


def host_asked_for(argv: list[str], directory: Path, environment: dict[str, str]) -> str:
    """The host that a tool names to a proxy, which hangs up: nothing leaves the machine. Raises UpstreamError."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(PROBE_TIMEOUT_SECONDS)
        inherited = {name: os.environ[name] for name in PROBE_VARIABLES if name in os.environ}
        proxied = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.getsockname()[1]}"}
        try:
            with subprocess.Popen(
                argv,
                cwd=directory,
                env=inherited | environment | proxied,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as tool:
                try:
                    connection, _ = proxy.accept()
                    with connection:
                        request_line = connection.recv(4096).decode("ascii", "replace").split("\r\n")[0]
                finally:
                    tool.kill()
        except OSError as error:
            raise UpstreamError(f"{argv[0]} did not name its registry's host: {error}") from error
    method, _, rest = request_line.partition(" ")
    if method != "CONNECT":
        raise UpstreamError(f"{argv[0]} did not name its registry's host: it sent {request_line!r} to its proxy")
    return rest.split(":")[0]


def go_env(name: str) -> str:
    return tool_output(["go", "env", name], {**os.environ, "GOTOOLCHAIN": "local"})


def tool_output(argv: list[str], environment: dict[str, str], directory: Path | None = None) -> str:
    try:
        return subprocess.run(
            argv,
            cwd=directory,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_SECONDS,
        ).stdout.strip()
    except subprocess.CalledProcessError as error:
        raise UpstreamError(f"{' '.join(argv)} failed (exit {error.returncode}): {error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UpstreamError(f"{' '.join(argv)}: {error}") from error


class Cache:
    """Answers of the real registries, by URL and Accept header.

    <directory>/v2/answers/<first two hex digits>/<sha256 of the request>.json   status, type, etag, body's sha256, time
    <directory>/v2/bodies/<first two hex digits>/<sha256 of the bytes>           published before the answer names it

    A body's name is its content, so a reader of one answer never meets the bytes of another, whoever else writes. An
    answer that may change is asked for again after an hour, and serves on while its registry cannot be reached.
    """

    def __init__(self, directory: Path):
        self.directory = directory / "v2"
        self._locks: dict[str, threading.Lock] = {}
        self._locks_guard = threading.Lock()

    def get(self, url: str, accept: str = "*/*", lasting: bool = False) -> Answer:
        """`lasting`: what is found under this URL never changes. Raises UpstreamError when there is no answer."""
        key = hashlib.sha256(f"{url}\n{accept}".encode()).hexdigest()
        with self._locks_guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            path = self.directory / "answers" / key[:2] / f"{key}.json"
            kept = self._read(path)
            if kept is not None:
                answer, age_seconds = kept
                if age_seconds < FRESH_SECONDS or (lasting and answer.status == 200):
                    return answer
            try:
                answer = self._fetch(url, accept)
            except UpstreamError:
                if kept is not None:
                    return kept[0]
                raise
            if answer.status in CACHED_STATUSES:
                facts = {
                    "url": url,
                    "time": time.time(),
                    "status": answer.status,
                    "content_type": answer.content_type,
                    "etag": answer.headers.get("ETag"),
                    "sha256": answer.body.path.name,
                }
                with self._beside() as beside:
                    beside.write(json.dumps(facts).encode())
                publish(beside.name, path)
            return answer

    def _read(self, path: Path) -> tuple[Answer, float] | None:
        """An answer and its age. None where there is none, or where its body is not what it was."""
        try:
            facts = json.loads(path.read_text())
            body = FileBody.whole(self._body_path(facts["sha256"]))
        except (FileNotFoundError, ValueError):
            return None
        if body.digest() != facts["sha256"]:
            return None
        headers = {"ETag": facts["etag"]} if facts["etag"] else {}
        return Answer(facts["status"], body, facts["content_type"], headers), time.time() - facts["time"]

    def _fetch(self, url: str, accept: str) -> Answer:
        with self._beside() as beside:
            try:
                status, content_type, etag, digest = fetch(url, accept, beside)
            except BaseException:
                os.unlink(beside.name)
                raise
        body = self._body_path(digest)
        publish(beside.name, body)
        return Answer(status, FileBody.whole(body), content_type, {"ETag": etag} if etag else {})

    def _body_path(self, digest: str) -> Path:
        return self.directory / "bodies" / digest[:2] / digest

    def _beside(self) -> BinaryIO:
        self.directory.mkdir(parents=True, exist_ok=True)
        return tempfile.NamedTemporaryFile(dir=self.directory, prefix="part-", delete=False)


def publish(written: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(written, path)


@cache
def opener() -> urllib.request.OpenerDirector:
    """Reads the CA bundle once; `urlopen` would for every request."""
    return urllib.request.build_opener(urllib.request.HTTPSHandler(context=ssl.create_default_context()))


def fetch(url: str, accept: str, into: BinaryIO) -> tuple[int, str, str | None, str]:
    """GET through the caller's proxy and CA variables, redirects followed: status, content type, ETag, sha256.

    The body goes into the file. HTTP errors are answers, not exceptions. Raises UpstreamError.
    """
    request = urllib.request.Request(url, headers={"Accept": accept, "User-Agent": "hostile-mirror (test server)"})
    failures = []
    for _ in range(FETCH_TRIES):
        into.seek(0)
        into.truncate()
        digest = hashlib.sha256()
        try:
            try:
                response = opener().open(request, timeout=FETCH_TIMEOUT_SECONDS)
            except urllib.error.HTTPError as error:
                response = error
            with response:
                headers = response.headers
                while piece := response.read(READ_BYTES):
                    digest.update(piece)
                    into.write(piece)
            announced = headers.get("Content-Length")
            if announced is not None and into.tell() != int(announced):
                raise ConnectionError(f"{into.tell()} of {announced} bytes")
            return response.status, headers.get("Content-Type", BINARY), headers.get("ETag"), digest.hexdigest()
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            failures.append(f"{type(error).__name__}: {error}")
    raise UpstreamError(f"GET {url}: {'; '.join(failures)}")
