"""A current BuildKit for the tests, made from its Go module: no package has it, and no public registry is asked.

As a program it makes it beforehand: `python3 buildkit.py`. That takes minutes, so it is kept between runs.
"""

import fcntl
import functools
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

MODULE = "github.com/moby/buildkit"
VERSION = "v0.34.2"
KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xtask-tests"


def why_no_buildkitd() -> str | None:
    if os.geteuid() != 0:
        return "starting a builder needs root"
    missing = [program for program in ("go", "runc") if not shutil.which(program)]
    return f"there is no {', '.join(missing)}" if missing else None


@functools.cache
def buildkitd() -> Path:
    """The program; whoever comes first makes it, the others wait."""
    KEPT.mkdir(parents=True, exist_ok=True)
    program = KEPT / f"buildkitd-{VERSION}"
    with open(KEPT / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _make(program)
    return program


def _make(program: Path) -> None:
    def go(*words, **options) -> str:
        run = subprocess.run(["go", *words], capture_output=True, text=True, **options)
        if run.returncode:
            raise AssertionError(f"go {words}: {run.stderr[-3000:]}")
        return run.stdout

    with tempfile.TemporaryDirectory() as folder:
        source = json.loads(go("mod", "download", "-json", f"{MODULE}@{VERSION}", cwd=folder))["Dir"]
        # It replaces modules, which counts in a main module alone.
        copy = Path(folder) / "source"
        shutil.copytree(source, copy, copy_function=shutil.copyfile)
        for path in [copy, *(it for it in copy.rglob("*") if it.is_dir())]:
            path.chmod(0o755)
        made = program.with_suffix(".new")
        stamp = f"-ldflags=-X {MODULE}/version.Version={VERSION}"
        go("build", "-o", str(made), "-trimpath", stamp, "./cmd/buildkitd", cwd=copy)
        made.rename(program)


class BuildKit:
    """A builder of its own: no network for what it runs, nothing outside its folder."""

    def __init__(self, folder: Path, *further: str):
        self.folder, self.socket = folder, folder / "socket"
        self.further = further
        self.start()

    @property
    def address(self) -> str:
        return f"buildkit://{self.socket}"

    def start(self) -> None:
        argv = [buildkitd(), f"--root={self.folder}/root", f"--addr=unix://{self.socket}"]
        argv += ["--containerd-worker=false", "--oci-worker=true", "--oci-worker-net=host", *self.further]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 30
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "log").read_text()[-3000:])
            time.sleep(0.05)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


if __name__ == "__main__":
    print(buildkitd())
