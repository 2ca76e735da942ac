"""What the tests of this folder stand on: copies of the checkout under test, empty users, the real `cargo xtask`.

Owns: the folder that everything here writes to, the environment of a run, reading its events.
Never: calls into the tool's own code, uses the caller's caches, or leaves a process or a folder behind.
"""

import atexit
import functools
import hashlib
import html
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOSTILE_MIRROR = ROOT / "tools/hostile-mirror"
sys.path.insert(0, str(HOSTILE_MIRROR))
import hostile_mirror  # noqa: E402
import netns  # noqa: E402
from routes import tomllib  # noqa: E402

FOLDER = Path(tempfile.mkdtemp(prefix="xtask-end-to-end-")).resolve()
UPSTREAM_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hostile-mirror"
END_SECONDS = 2
"""The promise of the tool: within this time of a Ctrl-C every child is gone."""

# What an outer cargo, xtask, Go or Python left for its children; the outside (proxies, CA bundles, mirrors) stays.
FORGOTTEN_PREFIXES = ("CARGO", "XTASK_", "GO", "RUST", "PYTHON", "XDG_", "LD_LIBRARY_PATH", "LANG", "LC_", "CI")
KEPT = {"CARGO_HTTP_CAINFO", "CARGO_HTTP_PROXY", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "GOPROXY", "GOSUMDB"}


def _remove_folder() -> None:
    def make_writable(_function, path, _error):
        os.chmod(os.path.dirname(path), 0o700)
        os.unlink(path) if not os.path.isdir(path) else shutil.rmtree(path, onerror=make_writable)

    shutil.rmtree(FOLDER, onerror=make_writable)


atexit.register(_remove_folder)


def need(part: str, why_not: str | None) -> None:
    """Skips the running test where `why_not` says something; a failure if XTASK_REQUIRE names the part, or is `all`."""
    if why_not is None:
        return
    if {part, "all"} & set(os.environ.get("XTASK_REQUIRE", "").split(",")):
        raise AssertionError(f"{part} is required, and cannot run: {why_not}")
    print(f"skipped: {part}: {why_not}", file=sys.stderr, flush=True)
    raise unittest.SkipTest(why_not)


def why_no_mirrors() -> str | None:
    return None if shutil.which("go") else "there is no `go` to ask for the registry that the mirrors copy"


def why_no_mirrored_network() -> str | None:
    return netns.why_impossible() or why_no_mirrors()


def tell(text: str) -> None:
    """A figure that a test came to, for whoever reads the log."""
    print(f"    {text}", file=sys.stderr, flush=True)


class Sandbox:
    """A user with an empty home and empty caches."""

    def __init__(self, name: str, cache: Path | None = None):
        self.folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=FOLDER))
        self.home = self.folder / "home"
        self.home.mkdir()
        self.cache = cache or self.folder / "cache"

    @property
    def store(self) -> Path:
        return self.cache / "store-v2"

    def environment(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if name in KEPT or not name.startswith(FORGOTTEN_PREFIXES)
        }
        rustup = Path.home() / ".rustup"
        if rustup.is_dir():
            kept.setdefault("RUSTUP_HOME", str(rustup))
        return kept | {
            # A tool that asks rustup for another toolchain must not change this machine's.
            "RUSTUP_AUTO_INSTALL": "0",
            "HOME": str(self.home),
            "CARGO_HOME": str(self.folder / "cargo"),
            "GOPATH": str(self.folder / "go"),
            "GOMODCACHE": str(self.folder / "go/pkg/mod"),
            "GOCACHE": str(self.folder / "go-build"),
            "XTASK_CACHE_DIR": str(self.cache),
        }

    def processes(self) -> dict[int, str]:
        """Process id -> command line of everything still alive that was started for this user."""
        mark = f"HOME={self.home}\0".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes() + b"\0":
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if command:  # A zombie has none.
                        found[int(entry.name)] = command
            except OSError:
                pass  # It has ended meanwhile, or is not ours.
        return found


@dataclass
class Run:
    """A run of `cargo xtask --format json` that has ended."""

    exit_code: int
    events: list[dict]
    stderr: str
    seconds: float
    access: list[dict] = field(default_factory=list)
    """What the mirrors were asked."""

    def of(self, event: str) -> list[dict]:
        return [it for it in self.events if it["event"] == event]

    @property
    def summary(self) -> dict:
        return self.events[-1]

    @property
    def plan(self) -> dict[str, dict]:
        """Step id -> step of the plan."""
        return {step["id"]: step for step in self.of("plan")[0]["steps"]}

    @property
    def done(self) -> dict[str, dict]:
        """Step id -> its last `done` event."""
        return {it["id"]: it for it in self.of("step") if it["state"] == "done"}

    @property
    def ran(self) -> list[str]:
        return [it["id"] for it in self.of("step") if it.get("status") == "ran"]

    @property
    def artifacts(self) -> dict[str, str]:
        """Artifact name -> sha256."""
        return {it["name"]: it["sha256"] for it in self.of("artifact")}

    def __str__(self) -> str:
        return f"exit {self.exit_code} after {self.seconds:.1f} s\n{self.events[-1:]}\n{self.stderr[-6000:]}"


class Started:
    """A run under way, in a process group of its own."""

    def __init__(self, checkout: Path, arguments: tuple, sandbox: Sandbox, environment: dict, wrapper: list[str]):
        words = ["cargo", "xtask", *map(str, arguments), "--format", "json"]
        files = sandbox.folder / f"run-{time.monotonic_ns()}"
        self.out_path, self.err_path = files.with_suffix(".jsonl"), files.with_suffix(".err")
        self.start = time.monotonic()
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.process = subprocess.Popen(
                [*wrapper, *words],
                cwd=checkout,
                env=sandbox.environment() | environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def signal_group(self, number: int) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def events(self) -> list[dict]:
        complete = self.out_path.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in complete.splitlines()]

    def wait_for(self, condition, what: str, timeout_seconds: float = 600):
        """The first true value of `condition()`; fails if the run ends before, or takes longer."""
        deadline = time.monotonic() + timeout_seconds
        while not (value := condition()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{what} did not happen: {self.finish(1)}")
            time.sleep(0.02)
        return value

    def finish(self, timeout_seconds: float) -> Run:
        try:
            code = self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.signal_group(signal.SIGKILL)
            self.process.wait()
            raise AssertionError(
                f"no end after {timeout_seconds} s: {self.process.args}\n{self.err_path.read_text()[-4000:]}"
            ) from None
        seconds = time.monotonic() - self.start
        return Run(code, self.events(), self.err_path.read_text(errors="replace"), seconds)


def start(checkout: Path, *arguments, sandbox: Sandbox, environment: dict | None = None, wrapper=()) -> Started:
    return Started(checkout, arguments, sandbox, environment or {}, list(wrapper))


def xtask(checkout: Path, *arguments, sandbox: Sandbox, environment=None, wrapper=(), timeout_seconds=1800) -> Run:
    """Runs `cargo xtask ARGUMENTS --format json` in a checkout, to its end."""
    started = start(checkout, *arguments, sandbox=sandbox, environment=environment, wrapper=wrapper)
    return started.finish(timeout_seconds)


def unplugged(**variables: str) -> list[str]:
    """The wrapper of a run with loopback and nothing else."""
    return _netns("empty", [], variables)


@functools.cache
def warm_mirrors() -> None:
    """Lets cargo and Go fill the cache behind the mirrors with what the lock files name, once for each state of them.

    A mirror asks the registry when it is asked itself, and sends nothing before it has the whole: on a machine that
    never ran these tests it would be slower to begin than any bound of the tool allows.
    """
    manifests = [ROOT / "xtask/crates/Cargo.toml", ROOT / "candle-binding/Cargo.toml"]
    modules = [ROOT / "src/semantic-router", ROOT / "tests/fixture/service"]
    locks = [it.with_name("Cargo.lock") for it in manifests] + [it / "go.sum" for it in modules] + [ROOT / "xtask.lock"]
    state = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()
    mark = UPSTREAM_CACHE / f"warm-{state}"
    if mark.exists():
        return
    sandbox = Sandbox("warm")
    options = hostile_mirror.Options(HOSTILE_MIRROR / "cn.toml", sandbox.folder / "mirrors", UPSTREAM_CACHE)
    with hostile_mirror.serve_on_loopback(options) as mirror:
        index = f"sparse+{mirror.url('rsproxy.cn', 'http')}/index/"
        patient = {
            "CARGO_HTTP_TIMEOUT": "300",
            "CARGO_HTTP_LOW_SPEED_LIMIT": "1",
            "CARGO_NET_RETRY": "10",
            "GOPROXY": mirror.url("goproxy.cn", "http"),
            "GOTOOLCHAIN": "local",
            "GOFLAGS": "-mod=mod",
        }
        environment = sandbox.environment() | patient
        source = ["--config", 'source.crates-io.replace-with="warm"', "--config", f'source.warm.registry="{index}"']
        for manifest in manifests:
            subprocess.run(
                ["cargo", "fetch", "--quiet", "--locked", "--manifest-path", manifest, *source],
                env=environment,
                check=True,
            )
        version = re.search(r'\[go\]\nversion = "([^"]+)"', (ROOT / "xtask.lock").read_text())[1]
        toolchain = (
            f"golang.org/toolchain@v0.0.1-go{version}.linux-{'arm64' if os.uname().machine == 'aarch64' else 'amd64'}"
        )
        for module, what in [*((module, []) for module in modules), (sandbox.folder, [toolchain])]:
            subprocess.run(["go", "mod", "download", *what], cwd=module, env=environment, check=True)
        index = f"{mirror.url('mirrors.aliyun.com', 'http')}/pypi/simple"
        for project, filename in wheels_of_this_machine():
            page = f"{index}/{project}/"
            with urllib.request.urlopen(page, timeout=300) as answer:
                link = re.search(rf'href="([^"]*{re.escape(filename)}[^"]*)"', answer.read().decode())[1]
            with urllib.request.urlopen(urllib.parse.urljoin(page, html.unescape(link)), timeout=600) as answer:
                shutil.copyfileobj(answer, io.BytesIO())
    mark.touch()


def wheels_of_this_machine() -> list[tuple[str, str]]:
    """Project and file name of each pinned wheel that this interpreter and machine would be given."""
    pins = tomllib.loads((ROOT / "xtask.lock").read_text())
    wheels = [it for name, pinned in pins["wheel-set"].items() if name != "zig" for it in pinned]
    wheels += [model["wheel"] for model in pins["model"].values() if "wheel" in model]
    interpreter, machine = f"-cp{sys.version_info.major}{sys.version_info.minor}-", os.uname().machine
    return [
        (it["project"], it["filename"])
        for it in wheels
        if it["filename"].endswith("-any.whl")
        or machine in it["filename"]
        and ("-py3-none-" in it["filename"] or interpreter in it["filename"])
    ]


def mirrored(sandbox: Sandbox, *named_faults: str, **variables: str) -> list[str]:
    """The wrapper of a run whose network is the hosts of profile `cn`; they log to `access(sandbox)`."""
    warm_mirrors()
    options = ["--state", str(sandbox.folder / "mirrors"), "--cache", str(UPSTREAM_CACHE)]
    for fault in named_faults:
        options += ["--fault", fault]
    return _netns("run", options, variables)


def in_the_lab(repo: Path, sandbox: Sandbox, **variables: str) -> list[str]:
    """The wrapper of a run whose network is the lab's mirrors; the project's xtask.local.toml has them as `lab`."""
    warm_mirrors()
    places = {"state": sandbox.folder / "mirrors", "cache": UPSTREAM_CACHE, "profile": repo / "xtask.local.toml"}
    options = [word for name, place in places.items() for word in (f"--{name}", str(place))]
    return _netns("run", [*options, "--routes", str(HOSTILE_MIRROR / "lab.toml")], variables)


def mirrors_log(sandbox: Sandbox, name: str) -> list[dict]:
    """`access`, `lookups` or `strays`: what the network around a run was asked."""
    return [json.loads(line) for line in (sandbox.folder / f"mirrors/{name}.jsonl").read_text().splitlines()]


def _netns(network: str, options: list[str], variables: dict[str, str]) -> list[str]:
    assignments = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    return [sys.executable, "-B", str(HOSTILE_MIRROR / "netns.py"), network, *options, *assignments, "--"]


def access(sandbox: Sandbox) -> list[dict]:
    return mirrors_log(sandbox, "access")


def path_without(*programs: str) -> str:
    """A PATH like ours without these programs: a folder that holds one is replaced by a folder of links."""
    folders = []
    for entry in dict.fromkeys(os.environ["PATH"].split(os.pathsep)):
        if any((Path(entry) / program).exists() for program in programs):
            links = Path(tempfile.mkdtemp(prefix="path-", dir=FOLDER))
            for file in Path(entry).iterdir():
                if file.name not in programs:
                    (links / file.name).symlink_to(file)
            entry = str(links)
        folders.append(entry)
    return os.pathsep.join(folders)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false"]
    run = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return run.stdout


def checkout(name: str) -> Path:
    """A fresh clone of what is being tested, edits that are not committed yet included."""
    folder = FOLDER / name
    for file in git(ROOT, "ls-files", "-co", "--exclude-standard", "-z").split("\0"):
        if file and (ROOT / file).is_file():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, folder / file)
    _commit(folder)
    return folder


def fixture(name: str) -> Path:
    """A fresh clone of the small project in `fixture/`."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=FOLDER))
    for file in git(ROOT, "ls-files", "-co", "--exclude-standard", "-z", "tests/fixture").split("\0"):
        if file:
            target = folder / Path(file).relative_to("tests/fixture")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, target)
    _commit(folder)
    return folder


def _commit(folder: Path) -> None:
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "as it is")


@dataclass(frozen=True)
class Built:
    checkout: Path
    sandbox: Sandbox
    run: Run


def headline() -> Built:
    """`cargo xtask build --mirror cn`, a first build of everything behind the mirrors of `cn` and nothing else."""
    need("netns", why_no_mirrored_network())
    return first_build()


def first_build() -> Built:
    """The headline build, or one straight from the registries where no network can be made for it.

    Made once, since it compiles the real library; later tests go on with its checkout, and must leave it as it was.
    Where it failed they have nothing to say, and fail with what it said.
    """
    built = _first_build()
    if built.run.exit_code != 0:
        raise AssertionError(str(built.run))
    return built


@functools.cache
def _first_build() -> Built:
    it = checkout("first"), Sandbox("first")
    if why_no_mirrored_network():
        return Built(*it, xtask(it[0], "build", sandbox=it[1]))
    run = xtask(it[0], "build", "--mirror", "cn", sandbox=it[1], wrapper=mirrored(it[1]))
    run.access = access(it[1])
    return Built(*it, run)


@functools.cache
def fixture_built() -> Built:
    """The first build of the small project, straight from the registries; its caches keep later ones short.

    It runs the tool of the checkout under test, which `cargo xtask test` has just built, by `--repo`.
    """
    it = fixture("fixture"), Sandbox("fixture")
    wheel = xtask(ROOT, "test", "smoke", "--repo", it[0], sandbox=it[1])
    if wheel.exit_code != 0:
        raise AssertionError(f"the fixture's suite: {wheel}")
    return Built(*it, xtask(ROOT, "build", "--repo", it[0], sandbox=it[1]))


def beside(built: Built, name: str) -> Sandbox:
    """Another user with a store of his own and the cargo and Go caches of `built`: only our part is cold."""
    sandbox = Sandbox(name)
    for cache in ("cargo", "go", "go-build"):
        (sandbox.folder / cache).symlink_to(built.sandbox.folder / cache)
    return sandbox


@contextmanager
def lab_mirror(repo: Path, *named_faults: str, **fixtures: Path) -> Iterator[hostile_mirror.HostileMirror]:
    """Mirrors on loopback, and a profile `lab` in the project's xtask.local.toml with one of each ecosystem.

    `fixtures`: ecosystem -> folder to serve it from instead of the registry.
    """
    need("mirror", why_no_mirrors())
    state = Path(tempfile.mkdtemp(prefix="lab-", dir=FOLDER))
    options = hostile_mirror.Options(HOSTILE_MIRROR / "cn.toml", state, UPSTREAM_CACHE, list(named_faults), fixtures)
    with hostile_mirror.serve_on_loopback(options) as mirror:
        crates, go, python = (mirror.url(host, "http") for host in ("rsproxy.cn", "goproxy.cn", "mirrors.aliyun.com"))
        (repo / "xtask.local.toml").write_text(
            f'[mirror.lab]\negress = "mirrors-only"\n'
            f'[mirror.lab.crates]\nlist = ["sparse+{crates}/index/"]\n'
            f'[mirror.lab.go]\nproxy = ["{go}"]\n'
            f'[mirror.lab.python]\nlist = ["{python}/pypi/simple/"]\n'
        )
        yield mirror


@contextmanager
def lab(repo: Path, *named_faults: str, more: str = "", **fixtures: Path) -> Iterator[hostile_mirror.HostileMirror]:
    """Two mirrors of everything on loopback, and profile `lab` with both, the first one first; nothing else is allowed.

    `more`: further TOML of the project's xtask.local.toml. `fixtures`: ecosystem -> folder to serve it from.
    """
    need("mirror", why_no_mirrors())
    state = Path(tempfile.mkdtemp(prefix="lab-", dir=FOLDER))
    options = hostile_mirror.Options(HOSTILE_MIRROR / "lab.toml", state, UPSTREAM_CACHE, list(named_faults), fixtures)
    with hostile_mirror.serve_on_loopback(options) as mirror:
        (repo / "xtask.local.toml").write_text(mirror.profile("http") + more)
        yield mirror


def tree(*folders: Path) -> dict[str, tuple]:
    """Path -> what a write would change of each file and folder."""
    seen = {}
    for folder in folders:
        for parent, names, files in os.walk(folder):
            for name in [*names, *files]:
                path = os.path.join(parent, name)
                stat = os.lstat(path)
                seen[path] = (stat.st_mode, stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return seen


def changed(before: dict, after: dict) -> list[str]:
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def flip(path: Path, at: int | None = None) -> None:
    """Changes one byte in the middle of a file, as a failing disk would: permissions stay."""
    mode = path.stat().st_mode
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 0x01
    path.chmod(0o600)
    path.write_bytes(content)
    path.chmod(mode)
