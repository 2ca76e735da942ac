"""Which files a step really reads, seen by the kernel, against the inputs that it declares.

Owns: the allow-list of what may be read without being an input, each pattern with its reason.
Never: asks the tool which files it read. What it declares is what it keeps as the inputs of its last result.
"""

import json
import os
import re
import subprocess
from pathlib import Path

STRACE = ["strace", "-f", "-y", "--seccomp-bpf", "-e", "trace=open,openat,openat2,execve,clone,clone3,fork,vfork", "-o"]
OPENED = re.compile(r'^(\d+) +open(?:at2?)?\((?:AT_FDCWD<[^>]*>, |\d+<[^>]*>, )?"[^"]*", ([^)]*)\) += \d+<(/[^>]*)>')
EXECUTED = re.compile(r'^(\d+) +execve\("([^"]*)", .*\) += 0')
STARTED = re.compile(r"^(\d+) +(?:<\.\.\. )?(?:clone3?|v?fork)\b.* += (\d+)(?:<[^>]*>)?$")
RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")


def ask(*words: str, environment=None) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, env=environment, cwd="/").stdout.strip()


def allowed(repo: Path, sandbox, program: str) -> list[tuple[str, str]]:
    """(regular expression of a whole path, why it needs not be declared), for the steps made by cargo or by go."""
    home = {
        name: re.escape(os.path.realpath(sandbox.environment()[name]))
        for name in ("CARGO_HOME", "GOMODCACHE", "GOCACHE")
    }
    build, store = re.escape(f"{repo}/target/xtask"), re.escape(os.path.realpath(sandbox.store))
    common = [
        (r"/(proc|sys|dev)/.*", "the kernel's view of this process and machine"),
        (r"/etc/(ld\.so\..*|localtime|nsswitch\.conf|passwd|group|host.*|resolv\.conf|gai\.conf|mime\.types|apache2/.*)", "the C library's own configuration"),
        (r"/etc/ssl/.*|/usr/share/ca-certificates/.*", "who is trusted when fetching: every byte that arrives has a pin"),
        (r"/usr/(local/)?lib(64|32|exec)?/.*|/lib(64)?/.*", "compiler, linker and C library: their versions are in the key"),
        (r"/usr/(local/)?include/.*", "headers of the C library and of installed ones, which the compiler searches by itself"),
        (r"/usr/(local/)?bin/.*|/bin/.*", "installed programs: compiler, linker, shell"),
        (r"/usr/share/(locale|zoneinfo|mime)/.*", "messages and times, which reach no bytes"),
        (rf"{build}/(native|link|logs|\.xtask-tmp-[^/]*)/.*", "folders of our own builds: made from inputs"),
        (r"/tmp/(rustc|cargo|go-build|go-link-|cgo-|cc)[^/]*(/.*)?", "temporary files of the compilers themselves"),
        (r"/tmp/\.xtask-tmp-[^/]*-direct/.*", "an empty CARGO_HOME, in which a tool is asked for its default registry"),
    ]  # fmt: skip
    cargo = [
        (rf"{re.escape(ask('rustc', '--print', 'sysroot'))}/.*", "the toolchain: `rustc -vV` and `cargo -V` are in the key"),
        (rf"{home['CARGO_HOME']}/registry/(index|cache)/.*", "index and archives: cargo checks them against the lock"),
        (rf"{home['CARGO_HOME']}/\.(package-cache.*|global-cache.*)", "cargo's locks and its use statistics"),
        (rf"{home['CARGO_HOME']}/registry/(CACHEDIR\.TAG|src/[^/]*/[^/]*/\.cargo-ok)", "marks of a finished unpacking"),
    ]  # fmt: skip
    cargo += [
        (rf"{re.escape(str(repo))}/\.git/(HEAD|config|index|info/exclude)|.*/\.?gitconfig", "how cargo lists the files of a package with a build script"),
    ]  # fmt: skip
    go = [
        (rf"{re.escape(ask('go', 'env', 'GOROOT'))}/.*", "the toolchain: its version is in the key"),
        (rf"{home['GOCACHE']}/.*", "Go's build cache, keyed by content"),
        (rf"{home['GOMODCACHE']}/cache/.*", "archives and their hashes: Go checks them against go.sum"),
        (rf"{store}/objects/.*", "a library out of the store: its interface is in the key"),
        (r".*/\.config/go/.*", "Go's counters of itself"),
    ]  # fmt: skip
    return common + (cargo if program == "cargo" else go)


def declared(repo: Path, sandbox, step: str, program: str) -> list[str]:
    """Patterns of the inputs of a step's last result, and of the packages that its locks pin."""
    # The key stands in the first line.
    _key, inputs = (repo / f"target/xtask/last/{step.replace(':', '-')}.json").read_text().split("\n", 1)
    inputs = json.loads(inputs)
    labels = [name.removeprefix("sources: ") for name in inputs if name.startswith("sources: ")]
    environment = sandbox.environment()
    if program == "cargo":
        paths = [repo / label[2:] if label.startswith("//") else repo / "engine" / label for label in labels]
        paths.append(repo / "engine/Cargo.lock")  # Its closure is in the key, package by package.
        packages = [name.removeprefix("locked: ").replace(" ", "-") for name in inputs if name.startswith("locked: ")]
        folder = os.path.realpath(environment["CARGO_HOME"])
        # Cargo reads the manifests of all locked packages before it knows which it needs.
        return [re.escape(str(path)) for path in paths] + [
            rf"{re.escape(folder)}/registry/src/[^/]*/{re.escape(package)}/.*" for package in packages
        ] + [rf"{re.escape(folder)}/registry/src/[^/]*/[^/]*/Cargo\.toml"]  # fmt: skip
    paths = [repo / "service" / label.removeprefix("example.invalid/service/") for label in labels]
    modules = {tuple(line.split()[:2]) for line in (repo / "service/go.sum").read_text().splitlines()}
    folder = os.path.realpath(environment["GOMODCACHE"])
    return [re.escape(str(path)) for path in paths] + [
        rf"{re.escape(folder)}/{re.escape(f'{module}@{version}')}/.*" for module, version in modules
    ]


def read_by(trace: str, program: str | None) -> set[str]:
    """Real paths of the regular files that `program` and all of its descendants opened or executed; `None` for everybody."""
    pending, parents, opened, roots = {}, {}, {}, set()
    for line in trace.splitlines():
        if line.endswith("<unfinished ...>"):
            pid, rest = line.split(None, 1)
            pending[pid] = rest.removesuffix("<unfinished ...>")
            continue
        if resumed := RESUMED.match(line):
            line = f"{resumed[1]} {pending.pop(resumed[1], '')}{resumed[3]}"
        if it := OPENED.match(line):
            pid, flags, path = it.groups()
            if "O_WRONLY" not in flags and "O_DIRECTORY" not in flags:
                opened.setdefault(pid, set()).add(path)
        elif it := EXECUTED.match(line):
            pid, path = it.groups()
            opened.setdefault(pid, set()).add(os.path.realpath(path))
            if os.path.basename(path) == program:
                roots.add(pid)
        elif it := STARTED.match(line):
            parents[it[2]] = it[1]

    def descends(pid):
        while pid is not None:
            if program is None or pid in roots:
                return True
            pid = parents.get(pid)
        return False

    found = set().union(*(paths for pid, paths in opened.items() if descends(pid)), set())
    return {path.removesuffix(" (deleted)") for path in found if not os.path.isdir(path)}


def undeclared(trace: str, step: str, repo: Path, sandbox) -> tuple[list[str], int]:
    """The files that a step read outside of its inputs and of the allow-list, and how many it read at all."""
    program = "cargo" if step.startswith("native-library") else "go"
    patterns = [pattern for pattern, _reason in allowed(repo, sandbox, program)] + declared(
        repo, sandbox, step, program
    )
    known = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    files = read_by(trace, program)
    return sorted(path for path in files if not known.fullmatch(path)), len(files)
