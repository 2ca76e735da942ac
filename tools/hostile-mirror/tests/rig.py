"""What the tests of this folder share: a mirror over a directory of fixtures, time limits, honest skipping."""

import http.client
import os
import signal
import sys
import tempfile
import time
import unittest
from pathlib import Path

DIRECTORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(DIRECTORY))

import hostile_mirror  # noqa: E402

TEST_TIMEOUT_SECONDS = 120


def unavailable(part: str, reason: str):
    """Skips the class or test, loudly; fails it where XTASK_REQUIRE names the part, or is `all`."""
    if {part, "all"} & set(os.environ.get("XTASK_REQUIRE", "").split(",")):
        raise RuntimeError(f"{part} is required, and cannot run: {reason}")
    print(f"skipped: {part}: {reason}", file=sys.stderr)
    raise unittest.SkipTest(reason)


class TimedTest(unittest.TestCase):
    def setUp(self):
        def expire(_number, _frame):
            raise TimeoutError(f"the test took longer than {TEST_TIMEOUT_SECONDS} s")

        signal.signal(signal.SIGALRM, expire)
        signal.alarm(TEST_TIMEOUT_SECONDS)
        self.addCleanup(signal.alarm, 0)

    def temporary_directory(self) -> Path:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return Path(directory.name)

    def await_condition(self, condition, what: str):
        deadline = time.monotonic() + 10
        while not (result := condition()):
            self.assertLess(time.monotonic(), deadline, f"never came true: {what}")
            time.sleep(0.02)
        return result


class LoopbackTest(TimedTest):
    """A mirror over a directory of fixtures; `serve(*faults)` starts it."""

    CONTENT = bytes(range(256)) * 400

    def setUp(self):
        super().setUp()
        self.root = self.temporary_directory()
        files = {
            "crates/index/fn/v/fnv": b'{"name":"fnv","vers":"1.0.6"}\n{"name":"fnv","vers":"1.0.7"}\n',
            "crates/fnv-1.0.7.crate": self.CONTENT,
            "go/sumdb/x/supported": b"",
            "go/example.org/m/@v/list": b"v1.0.0\nv1.1.0\n",
            "go/example.org/m/@v/v1.1.0.zip": self.CONTENT,
            "simple/Some_Pkg-1.0-py3-none-any.whl": b"wheel one",
            "simple/some_pkg-2.0-py3-none-any.whl": self.CONTENT,
            "hub/org/repo/model.safetensors": self.CONTENT,
            "secret": b"outside of every fixture directory",
        }
        for name, content in files.items():
            path = self.root / "fixtures" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    TABLE = "cn.toml"

    def serve(self, *faults: str, fixtures=None, **options) -> hostile_mirror.HostileMirror:
        """`fixtures`: instead of those of `setUp`; `options`: further fields of Options."""
        if fixtures is None:
            fixtures = {name: self.root / "fixtures" / name for name in ("crates", "go", "simple", "hub")}
        options = {"state": self.root / "state", "cache": self.root / "cache", **options}
        options = hostile_mirror.Options(DIRECTORY / self.TABLE, faults=list(faults), fixtures=fixtures, **options)
        serving = hostile_mirror.serve_on_loopback(options)
        self.mirror = serving.__enter__()
        self.addCleanup(serving.__exit__, None, None, None)
        return self.mirror

    def get(self, host, path, headers=None, method="GET", timeout=10):
        """Returns (status, headers, body), redirects not followed."""
        connection = http.client.HTTPConnection(self.mirror.url(host, "http").removeprefix("http://"), timeout=timeout)
        try:
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    CRATE_PATH = "/api/v1/crates/fnv/1.0.7/download"
