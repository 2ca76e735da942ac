"""What the tests of this folder stand on: the small project, a user, and runs of the real conductor that can be hurt.

Owns: starting the built conductor with what the launcher would hand it, the injector, the look at everything that a run
may leave behind. Never: mends anything between a fault and the next run, or waits longer than WATCHDOG_SECONDS.

The launcher is no subject here; starting the conductor itself makes a run of 10 ms one of 10 ms.
"""

import functools
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import support  # noqa: E402
from support import FOLDER, HOSTILE_MIRROR, ROOT, Sandbox, hostile_mirror, need  # noqa: E402

LONG = os.environ.get("XTASK_FAULTS", "") == "long"
"""The loop before a release: an order of magnitude more of everything that is not exhausted anyway."""
SEED = int(os.environ.get("XTASK_FAULTS_SEED", "0")) or random.randrange(1, 1 << 31)
"""Printed by every test that draws from it."""
WATCHDOG_SECONDS = 60
WORKERS = 2
TEMPORARY = ".xtask-tmp-"
BOOKS = ("gate", "last", "link", "logs", "placed", "stat-index.json", "users")
"""What is ours in the build folder of a checkout."""


@functools.cache
def conductor() -> Path:
    """The conductor of the checkout under test, built if need be."""
    return Path(_said(["cargo", "xtask", "--build-satellite", "conductor"])[-1])


@functools.cache
def launch_environment() -> dict[str, str]:
    """What cargo, rustup's or another, and the launcher hand to the conductor; the gateway is built by the way."""
    messages = _said(["cargo", "build", "--quiet", "--package", "xtask", "--message-format=json"])
    launcher = next(it["executable"] for line in messages if (it := json.loads(line)).get("executable"))
    said = {"XTASK_LAUNCHER": launcher, "XTASK_REPO_ROOT": str(ROOT), "CARGO": shutil.which("cargo")}
    if shutil.which("rustup"):
        said["RUSTUP_TOOLCHAIN"] = _said(["rustup", "show", "active-toolchain"])[0].split()[0]
        said["CARGO"] = _said(["rustup", "which", "cargo"])[0]
    _said(["cargo", "xtask", "--build-satellite", "gateway"])
    return said


def _said(words: list[str]) -> list[str]:
    return subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


@functools.cache
def injector() -> Path:
    need("faults", None if shutil.which("cc") else "there is no `cc` to compile the injector")
    program = FOLDER / "inject"
    subprocess.run(["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, HERE / "inject.c"], check=True)
    trial = subprocess.run([program, "--report", FOLDER / "trial", "--", "true"], capture_output=True, text=True)
    need(
        "faults",
        None if trial.returncode == 0 else f"the kernel lets nobody hold a system call: {trial.stderr.strip()}",
    )
    return program


@functools.cache
def warm_caches() -> Path:
    """Caches of cargo and Go that have built the project once; kept, since nothing here is about them."""
    folder = ROOT / "target/xtask/test/faults"
    sandbox = Sandbox("warm")
    for name in ("cargo", "go", "go-build"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (sandbox.folder / name).symlink_to(folder / name)
    run = support.xtask(ROOT, "build", "--repo", support.fixture("warm"), sandbox=sandbox)
    if run.exit_code != 0:
        raise AssertionError(f"the small project cannot be built: {run}")
    return folder


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a run; `action` in the injector's words, `at` counts from 1, 0 means every call."""

    action: tuple[str, ...] = ()
    at: int = 0
    onwards: bool = False
    program: str = "conductor"
    """Whose calls; everybody's where it is empty."""
    calls: tuple[str, ...] = ()
    everywhere: bool = False
    """Not only below what is ours."""


@dataclass
class Outcome:
    """A run that has ended."""

    exit_code: int
    events: list[dict]
    stderr: str
    seconds: float
    calls: list[str] = field(default_factory=list)
    """What an injector counted: `CALL PATH`."""
    struck_at: list[int] = field(default_factory=list)
    """Which of `calls` went wrong."""

    @property
    def struck(self) -> list[str]:
        return [self.calls[at] for at in self.struck_at]

    def of(self, event: str) -> list[dict]:
        return [it for it in self.events if it.get("event") == event]

    @property
    def ran(self) -> list[str]:
        return [it["id"] for it in self.of("step") if it.get("status") == "ran"]

    def __str__(self) -> str:
        return f"exit {self.exit_code} after {self.seconds:.1f} s, struck {self.struck[:3]}\n{self.stderr[-4000:]}"


class Running:
    """A run under way, in a process group of its own."""

    def __init__(self, rig: "Rig", words: list[str], environment: dict[str, str]):
        self.rig, self.start = rig, time.monotonic()
        self.out, self.err = (tempfile.TemporaryFile(dir=FOLDER) for _ in range(2))
        self.process = subprocess.Popen(
            words,
            cwd=rig.repo,
            env=rig.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=self.out,
            stderr=self.err,
            start_new_session=True,
        )

    def stderr(self) -> str:
        return os.pread(self.err.fileno(), 1 << 20, 0).decode(errors="replace")

    def events(self) -> list[dict]:
        """Of the lines that are complete: a killed run may have been cut within one."""
        text = os.pread(self.out.fileno(), 1 << 24, 0).decode(errors="replace")
        return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]

    def kill_group(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def finish(self, timeout_seconds: float = WATCHDOG_SECONDS) -> Outcome:
        try:
            code = self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            alive = self.rig.sandbox.processes()
            for pid in [self.process.pid, *alive]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.process.wait()
            raise AssertionError(f"no end after {timeout_seconds} s: {alive}\n{self.stderr()[-4000:]}") from None
        seconds = time.monotonic() - self.start
        outcome = Outcome(code, self.events(), self.stderr(), seconds)
        self.out.close()
        self.err.close()
        return outcome


class Rig:
    """A clone of the small project and a user whose caches of cargo and Go are warm; what is ours starts cold."""

    def __init__(self, name: str, cache: Path | None = None, repo: Path | None = None):
        self.repo = repo or support.fixture(name)
        self.sandbox = Sandbox(name, cache)
        for warm in ("cargo", "go", "go-build"):
            (self.sandbox.folder / warm).symlink_to(warm_caches() / warm)
        self.environment = self.sandbox.environment() | launch_environment()

    @property
    def store(self) -> Path:
        return self.sandbox.store

    @property
    def build(self) -> Path:
        return self.repo / "target/xtask"

    @property
    def downloads(self) -> Path:
        return self.sandbox.cache / "downloads-v1"

    def start(self, *arguments, environment: dict | None = None, wrapper: tuple = ()) -> Running:
        words = [
            *map(str, wrapper),
            str(conductor()),
            *map(str, arguments),
            "--repo",
            str(self.repo),
            "--format",
            "json",
        ]
        return Running(self, words, environment or {})

    def run(self, *arguments, environment: dict | None = None, wrapper: tuple = ()) -> Outcome:
        return self.start(*arguments, environment=environment, wrapper=wrapper).finish()

    def injected(self, fault: Fault, report: Path) -> tuple:
        """The wrapper of a run to which `fault` happens."""
        watched = [self.sandbox.cache, self.repo / "dist", self.repo / "models"]
        # Of the build folder what is ours; the rest is cargo's.
        watched += [self.build / name for name in BOOKS]
        wrapper = [injector(), "--report", report, *fault.action]
        wrapper += ["--program", fault.program] if fault.program else []
        wrapper += [] if fault.everywhere else [word for path in watched for word in ("--below", path)]
        wrapper += ["--calls", ",".join(fault.calls)] if fault.calls else []
        wrapper += ["--at", str(fault.at)] if fault.at else []
        wrapper += ["--onwards"] if fault.onwards else []
        return (*wrapper, "--")

    def hurt(self, fault: Fault, *arguments, environment: dict | None = None) -> Outcome:
        """A run to which `fault` happens, and its children's end: of a killed run they are orphans."""
        report = self.sandbox.folder / "injected"
        outcome = self.run(*arguments, environment=environment, wrapper=self.injected(fault, report))
        for line in report.read_text().splitlines():
            number, call = line.split(" ", 1)
            if number.endswith("!"):
                outcome.struck_at.append(len(outcome.calls))
            outcome.calls.append(call)
        return outcome

    def forget(self, *paths: Path) -> None:
        for path in paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def save(self) -> None:
        """Keeps the caches as they are, for `restore`."""
        self._saved = Path(tempfile.mkdtemp(prefix="saved-", dir=FOLDER)) / "cache"
        shutil.copytree(self.sandbox.cache, self._saved)

    def restore(self) -> None:
        if self.sandbox.cache.exists():
            shutil.rmtree(self.sandbox.cache)
        shutil.copytree(self._saved, self.sandbox.cache)

    def products(self) -> dict[str, str]:
        """Path in the checkout -> SHA-256 of everything that was put in place."""
        return {
            str(path.relative_to(self.repo)): sha256(path)
            for folder in ("dist", "models")
            for path in (self.repo / folder).rglob("*")
            if path.is_file() and not _temporary(path)
        }

    def trees(self) -> dict[str, str]:
        """The same of the trees that are used inside the store, without the keys."""
        found = {}
        for entry in self.entries():
            if entry["layout"] == "tree":
                folder = self.store / "trees" / entry["key"]
                found |= {it["path"]: sha256(folder / it["path"]) for it in entry["outputs"]}
        return found

    def entries(self) -> list[dict]:
        """Those that are whole."""
        paths = (path for path in self.store.glob("entries/*") if not path.name.startswith("."))
        return [json.loads(text.partition("\n")[2]) for path in paths if (text := path.read_text())]

    def torn(self, whole: dict[str, str]) -> list[str]:
        """What no fault may leave: anything under a final name that is not what its name promises.

        `whole`: what the products are when they are right; each may be absent.
        """
        wrong = []
        for path in _settled(self.store.glob("objects/*/*")):
            if sha256(path) != path.name:
                wrong.append(f"object {path}")
        for path in _settled(self.store.glob("entries/*")):
            digest, _, body = path.read_text().partition("\n")
            if hashlib.sha256(body.encode()).hexdigest() != digest:
                wrong.append(f"entry {path}")
                continue
            entry = json.loads(body)
            for output in entry["outputs"]:
                file = self.store / "objects" / output["digest"][:2] / output["digest"]
                if entry["layout"] == "tree":
                    file = self.store / "trees" / entry["key"] / output["path"]
                if not file.is_file() or sha256(file) != output["digest"]:
                    wrong.append(f"{file}, which the entry of {entry['step']} refers to")
        for path in _settled(self.downloads.glob("sha256/*/*")):
            if sha256(path) != path.name:
                wrong.append(f"download {path}")
        for path in _settled(self.downloads.glob("h1/*")):
            if len(path.read_text().strip()) != 64:
                wrong.append(f"pointer {path}")
        for book in ("last", "placed"):
            wrong += [f"book {path}" for path in _settled((self.build / book).glob("*")) if not _is_json(path)]
        for path, digest in self.products().items():
            if whole.get(path) != digest:
                wrong.append(f"product {path}")
        return wrong

    def leftovers(self) -> list[str]:
        """Temporary files and folders, and what belongs to downloads under way."""
        folders = [self.sandbox.cache, self.repo / "dist", self.repo / "models", self.build]
        names = (
            Path(parent) / name
            for folder in folders
            for parent, dirs, files in os.walk(folder)
            for name in dirs + files
        )
        return sorted(str(path) for path in names if _temporary(path) or path.parent.name == "partial")

    def tidied(self) -> list[str]:
        """What is left of temporaries: a run with nothing to do clears nothing up, so another gets something to do."""
        if self.leftovers():
            self.forget(self.repo / "dist")
            run = self.run("build", "engine")
            assert run.exit_code == 0, run
        return self.leftovers()


def _settled(paths) -> Iterator[Path]:
    return (path for path in paths if not path.name.startswith("."))


def _temporary(path: Path) -> bool:
    """Whether nobody takes it for a product: ours, or a file of an image layout that is being written."""
    return path.name.startswith(TEMPORARY) or path.name.endswith(".partial")


def _is_json(path: Path) -> bool:
    """Whether a file ends with a line of JSON."""
    try:
        json.loads(path.read_text().rpartition("\n")[2])
    except ValueError:
        return False
    return True


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if sys.version_info >= (3, 11) else _sha256(file)


def _sha256(file) -> str:
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


MODEL_FILES = {"config.json": 700, "weights/part-1.bin": 300_000, "weights/part-2.bin": 4096}
"""Path in the model -> size in bytes; bytes that are the same each time."""


class Models:
    """A model in two ways, and a wheel: what results need that no compiler makes.

    `test given` takes the model from a folder of the checkout. `test fetched --mirror lab` fetches it from mirrors on
    loopback and unpacks a wheel of the real registry.
    """

    given = ("test", "given")
    fetched = ("test", "fetched", "--mirror", "lab")

    def __init__(self):
        need("mirror", support.why_no_mirrors())
        state = Path(tempfile.mkdtemp(prefix="models-", dir=FOLDER))
        self.files = {}
        for path, size in MODEL_FILES.items():
            file = state / "hub/lab/model" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(random.Random(path).randbytes(size))
            self.files[path] = file
        options = hostile_mirror.Options(
            HOSTILE_MIRROR / "cn.toml", state, support.UPSTREAM_CACHE, [], {"hub": state / "hub"}
        )
        self._serving = hostile_mirror.serve_on_loopback(options)
        self.mirror = self._serving.__enter__()

    def close(self) -> None:
        self._serving.__exit__(None, None, None)

    def declare(self, repo: Path) -> None:
        """Adds models, suites and profile to a project."""
        shutil.copytree(next(iter(self.files.values())).parent, repo / "given")
        python, hub = (self.mirror.url(host, "http") for host in ("mirrors.aliyun.com", "hf-mirror.com"))
        with open(repo / "xtask.toml", "a") as file:
            file.write(
                '\n[model.drawn]\nsources = [{ hub = { repo = "lab/model", revision = "' + "0" * 40 + '" } }]\n'
                '\n[suite.fetched]\nabout = "Fetches a model and a wheel"\nmodels = ["drawn"]\nwheel-sets = ["tiny"]\n'
                '\n[model.copied]\nsources = [{ directory = "given" }]\n'
                '\n[suite.given]\nabout = "Takes a model from a folder"\nmodels = ["copied"]\n'
            )
        with open(repo / "xtask.lock", "a") as file:
            pins = "".join(
                f'  {{ path = "{path}", sha256 = "{sha256(source)}", size-bytes = {source.stat().st_size} }},\n'
                for path, source in self.files.items()
            )
            file.write("".join(f"\n[model.{name}]\nfile = [\n{pins}]\n" for name in ("drawn", "copied")))
        (repo / "xtask.local.toml").write_text(
            '[mirror.lab]\negress = "mirrors-only"\n'
            f'[mirror.lab.python]\nlist = ["{python}/pypi/simple/"]\n'
            f'[mirror.lab.hub]\nendpoints = ["{hub}"]\n'
        )


@dataclass(frozen=True)
class Operation:
    """Something that changes the disk, from a state that `reset` makes."""

    name: str
    arguments: tuple[str, ...]
    reset: Callable[[Rig], None]
    makes: tuple[str, ...] = ()
    """Where in the checkout its results go; nothing for one that removes."""
    then: tuple[str, ...] = ()
    """A command that must work after it."""


def side_by_side(rigs: list[Rig], work: Callable[[Rig], None]) -> None:
    """`work` on every rig at once; the first failure is raised once all have ended."""
    with ThreadPoolExecutor(len(rigs)) as pool:
        for done in [pool.submit(work, rig) for rig in rigs]:
            done.result()


def exhaust(rigs: list[Rig], trial: Callable[[Rig, int], bool]) -> int:
    """Calls `trial(rig, n)` for n = 1, 2, … until one says that n was beyond the last; how many were not."""
    lock, following, end = threading.Lock(), 1, 1 << 31

    def work(rig: Rig) -> None:
        nonlocal following, end
        while True:
            with lock:
                at, following = following, following + 1
            if at >= end:
                return
            try:
                beyond = not trial(rig, at)
            except BaseException:
                beyond = True
                raise
            finally:
                if beyond:
                    with lock:
                        end = min(end, at)

    side_by_side(rigs, work)
    return end - 1


class Wrong:
    """What did not hold, of very many trials: each is one line, the first twenty are told, and the first in full."""

    def __init__(self):
        self.lines: list[str] = []
        self.first = ""

    @contextmanager
    def of(self, run: Outcome) -> Iterator[None]:
        try:
            yield
        except AssertionError as error:
            self.lines.append(f"{' '.join(run.struck[:1])}: {str(error).splitlines()[0]}")
            self.first = self.first or f"{error}\nafter {run}"

    def check(self, case: unittest.TestCase) -> None:
        case.assertEqual(len(self.lines), 0, "\n".join([*self.lines[:20], "the first:", self.first]))
