"""Keys are complete and nothing but: what decides a result moves its key and is named, what cannot does not.

Owns: the tables of inputs, of what is no input, and of edits while something is made. Facts come from the real tools; where an
input is a tool's version, a fake tool in front of the real one gives another answer. The audit of files is in `audit.py`.
Never: reads the tool's memory to know what it did. A reason counts as it is told, in JSON and in words.
"""

import functools
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import audit
from support import FOLDER, ROOT, beside, fixture, fixture_built, need, tell, xtask

LIBRARY, BINARY, WHEELS, MODEL = "native-library:engine", "go-binary:reader", "wheel-set:plated", "model:pebble"
TARGETS = {LIBRARY: "reader", BINARY: "reader", WHEELS: "plated", MODEL: "pebble"}
CHILD, CONFIGURATION, USAGE = 9, 3, 2


class Tools:
    """A folder for PATH with fakes of installed tools. Each passes everything on to the real one."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="tools-", dir=FOLDER))
        self.environment = {"PATH": f"{self.folder}:{os.environ['PATH']}"}

    def fake(self, name: str, script: str) -> Path:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def answering(self, name: str, real: str | Path, old: str, new: str) -> Path:
        """A tool in whose answers `old` reads `new`."""
        return self.fake(name, f"'{real}' \"$@\" | sed 's/{old}/{new}/'")

    def rust(self, rustc: str, cargo: str = 'exec "$real" "$@"') -> None:
        """A toolchain, which the conductor takes from the variable that cargo sets for what it runs."""
        for name, script in (("rustc", rustc), ("cargo", cargo)):
            self.fake(name, f"real='{Path(launcher()[1]['CARGO']).with_name(name)}'\n{script}")
        self.environment |= {"CARGO": str(self.folder / "cargo")}


@functools.cache
def launcher() -> tuple[Path, dict[str, str]]:
    """The program behind `cargo xtask`, and what cargo, rustup and its launcher tell it: seen by a C compiler that it asks."""
    tools = Tools()
    seen = tools.folder / "seen"
    parent = 'readlink /proc/$PPID/exe; tr "\\0" "\\n" < /proc/$PPID/environ'
    tools.fake("cc", f'[ -e {seen} ] || {{ {parent}; }} > {seen}\nexec {shutil.which("cc")} "$@"')
    words = ["cargo", "xtask", "plan", "--repo", ROOT / "tests/fixture"]
    subprocess.run(words, cwd=ROOT, env=os.environ | tools.environment, capture_output=True, check=True)
    program, *lines = seen.read_text().splitlines()
    told = dict(line.split("=", 1) for line in lines if "=" in line)
    names = ("CARGO", "RUSTUP_TOOLCHAIN", "XTASK_LAUNCHER", "XTASK_REPO_ROOT")
    return Path(program), {name: told[name] for name in names if name in told}


def tool(*arguments, repo: Path, sandbox, environment=None, wrapper=()):
    """`cargo xtask ARGUMENTS` without cargo, which would obey the variables itself and compile the tool anew for them."""
    program, told = launcher()
    instead = ["sh", "-c", 'shift 2; exec "$0" "$@"', str(program)]
    environment = told | (environment or {})
    words = (*arguments, "--repo", repo)
    return xtask(ROOT, *words, sandbox=sandbox, environment=environment, wrapper=[*wrapper, *instead])


class Change:
    """One input made different, to be taken back."""

    def __init__(self, repo: Path, sandbox):
        self.repo, self.sandbox = repo, sandbox
        self.environment: dict[str, str] = {}
        self.arguments: tuple[str, ...] = ()
        self._undo = []

    def put(self, path: str | Path, text: str | None) -> None:
        """Writes a file, or removes it."""
        path = self.repo / path
        before = path.read_text() if path.exists() else None
        self._undo.append(lambda: write(path, before))
        write(path, text)

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.repo / path).read_text()
        assert old in text, f"{old} in {path}"
        self.put(path, text.replace(old, new, 1))

    def cargo_home(self, text: str) -> None:
        self.put(self.sandbox.folder / "cargo/config.toml", text)

    def fake(self, name: str, old: str, new: str) -> None:
        tools = Tools()
        tools.answering(name, shutil.which(name), old, new)
        self.environment |= tools.environment

    def linker(self) -> None:
        tools = Tools()
        ld = tools.answering("ld-of-another-age", shutil.which("ld"), "[0-9.]*$", "9.99")
        tools.fake("cc", f'case $1 in -print-prog-name=ld) echo {ld} ;; *) exec {shutil.which("cc")} "$@" ;; esac')
        self.environment |= tools.environment

    def rust(self, rustc: str, cargo: str = 'exec "$real" "$@"') -> None:
        tools = Tools()
        tools.rust(rustc, cargo)
        self.environment |= tools.environment

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()


def write(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink(missing_ok=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def edit(path, old, new):
    return lambda it: it.edit(path, old, new)


def put(path, text):
    return lambda it: it.put(path, text)


def variable(**values):
    return lambda it: it.environment.update(values)


def argument(*words):
    return lambda it: setattr(it, "arguments", words)


def pins(line: str) -> str:
    """A line of the wheel set, for a project more."""
    return f'plated = [\n  {{ project = "added", filename = "added-1-py3-none-any.whl", sha256 = "{line * 64}", size-bytes = 1 }},'


AS_IT_IS, ANOTHER = 'exec "$real" "$@"', '"$real" "$@" | sed "s/1[.][0-9]*[.][0-9]*/1.999.0/"'
SUM = "NIvaJDMOsjHA8n1jAhLSgzrAzy1Hgr+hNrb57e+94F0="

# (what is changed, how, the name of the one input that must be told)
INPUTS = {
    LIBRARY: [
        ("a source", edit("engine/src/lib.rs", "no room", "room"), "sources: src/lib.rs"),
        ("a source more", put("engine/src/more.rs", ""), "sources: src/more.rs"),
        ("a source of a path dependency", edit("engine/part/src/lib.rs", "8", "9"), "sources: part/src/lib.rs"),
        ("the manifest of a path dependency", edit("engine/part/Cargo.toml", "2021", "2024"), "sources: part/Cargo.toml"),
        ("the build script", edit("engine/build.rs", "//! Tells", "//! Says"), "sources: build.rs"),
        ("a declared file", edit("engine/limit.txt", "64", "32"), "sources: limit.txt"),
        ("the header", edit("service/gauge/gauge.h", "void", "void "), "sources: //service/gauge/gauge.h"),
        ("edition", edit("engine/Cargo.toml", "2021", "2024"), "sources: Cargo.toml"),
        ("profile in the manifest", edit("engine/Cargo.toml", "[lib]", "[profile.release]\nlto = true\n\n[lib]"), "sources: Cargo.toml"),
        ("a checksum", edit("engine/Cargo.lock", "3bd1574e", "00000000"), "locked: itoa 1.0.19"),
        ("a package more in the closure", edit("engine/Cargo.lock", 'checksum = "3bd1574e617a9a6c1f8f8181bd7e841e1f20e4277607ef28945765188d6284d4"\n', 'checksum = "3bd1574e617a9a6c1f8f8181bd7e841e1f20e4277607ef28945765188d6284d4"\ndependencies = [\n "cfg-if",\n]\n'), "locked: cfg-if 1.0.5"),
        ("features", edit("xtask.toml", 'cpu = ["wide"]', 'cpu = []'), "features"),
        ("feature set", lambda it: (it.edit("xtask.toml", 'cpu = ["wide"]', 'cpu = ["wide"]\nslim = []'), argument("--features", "slim")(it)), "features"),
        ("profile", argument("--profile", "dev"), "profile"),
        ("rustc", lambda it: it.rust(ANOTHER), "rustc"),
        ("cargo", lambda it: it.rust(AS_IT_IS, ANOTHER), "cargo"),
        ("C compiler", lambda it: it.fake("cc", "[0-9][0-9.]*$", "99.9"), "c_compiler"),
        ("linker", lambda it: it.linker(), "c_compiler"),
        ("libc", lambda it: it.fake("getconf", "[0-9.]*$", "9.99"), "libc"),
        *((name, variable(**{name: value}), f"environment: {name}") for name, value in {
            "RUSTFLAGS": "-Ctarget-cpu=native", "CARGO_ENCODED_RUSTFLAGS": "-g", "CARGO_BUILD_RUSTFLAGS": "-g",
            "CARGO_PROFILE_RELEASE_LTO": "true", "CARGO_PROFILE_RELEASE_OPT_LEVEL": "1",
            "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "1", "CARGO_PROFILE_RELEASE_DEBUG": "1",
            "CARGO_PROFILE_RELEASE_STRIP": "true", "CFLAGS": "-O1", "CXXFLAGS": "-O1", "LDFLAGS": "-s", "AR": "ar",
            "CUDA_COMPUTE_CAP": "80", "SOURCE_DATE_EPOCH": "1",
        }.items()),
        ("a declared variable", variable(GAUGE_LABEL="another"), "declared_environment: GAUGE_LABEL"),
        ("flags in a configuration file", put(".cargo/config.toml", '[build]\nrustflags = ["-g"]\n'), "cargo_configuration: 1 above the package, config.toml: build.rustflags"),
        ("flags in CARGO_HOME", lambda it: it.cargo_home('[target."cfg(unix)"]\nrustflags = ["-g"]\n'), "cargo_configuration: CARGO_HOME, config.toml: target.cfg(unix)"),
        ("profile in a configuration file", put("engine/.cargo/config.toml", "[profile.release]\nopt-level = 1\n"), "cargo_configuration: 0 above the package, config.toml: profile.release"),
        ("environment in a configuration file", put(".cargo/config.toml", '[env]\nX = "1"\n'), "cargo_configuration: 1 above the package, config.toml: env.X"),
    ],
    BINARY: [
        ("a source", edit("service/gauge/gauge.go", "in decimal", "as decimal"), "sources: example.invalid/service/gauge/gauge.go"),
        ("a source more", put("service/gauge/more.go", "package gauge\n"), "sources: example.invalid/service/gauge/more.go"),
        ("a source less", put("service/app/reader/banner.go", None), "sources: example.invalid/service/app/reader/banner.go"),
        ("a header in a subfolder", put("service/gauge/inc/extra.h", ""), "sources: example.invalid/service/gauge/inc/extra.h"),
        ("a C source of no package", put("service/csrc/more.c", ""), "sources: example.invalid/service/csrc/more.c"),
        ("an archive", put("service/csrc/libmore.a", ""), "sources: example.invalid/service/csrc/libmore.a"),
        ("an embedded file", put("service/app/reader/words.txt", "other\n"), "sources: example.invalid/service/app/reader/words.txt"),
        ("go.mod", edit("service/go.mod", "go 1.21", "go 1.22"), "sources: example.invalid/service/go.mod"),
        ("go.sum", edit("service/go.sum", SUM, "0" + SUM[1:]), "sources: example.invalid/service/go.sum"),
        ("tags", edit("xtask.toml", 'tags = ["banner"]', "tags = []"), "tags"),
        ("ldflags", edit("xtask.toml", "1.2.3", "1.2.4"), "ldflags"),
        ("the main package", edit("xtask.toml", "./app/reader", "./app/reader/"), "main"),
        ("go", lambda it: it.fake("go", "go1[.][0-9.]*", "go1.999.0"), "go"),
        *((name, variable(**{name: value}), f"environment: {name}") for name, value in {
            "CGO_CFLAGS": "-O1", "CGO_CPPFLAGS": "-DX", "CGO_CXXFLAGS": "-O1", "CGO_LDFLAGS": "-s", "GOAMD64": "v2",
            "GOARM64": "v8.1", "GOEXPERIMENT": "none", "GOOS": "linux", "GOARCH": "amd64",
        }.items()),
    ],
    WHEELS: [
        ("a pinned hash", lambda it: it.put("xtask.lock", re.sub(r"(markupsafe-3.*sha256 = \")....", r"\g<1>0000", (it.repo / "xtask.lock").read_text())), "pins: markupsafe"),
        ("a wheel more", edit("xtask.lock", "plated = [", pins("0")), "pins: added"),
        ("the interpreter's version", lambda it: it.fake("python3", "|3|[0-9]*|", f"|3|{other_python()}|"), "pins: markupsafe"),
        ("the platform", lambda it: it.fake("python3", "|x86_64|", "|aarch64|"), "pins: markupsafe"),
        ("files to be executable", edit("xtask.toml", '"markupsafe==3.0.3"]', '"markupsafe==3.0.3"]\nexecutable = ["markupsafe/x"]'), "executable"),
    ],
    MODEL: [
        ("a file's hash", edit("xtask.lock", "3608bf42", "00000000"), "pins: weights.txt"),
        ("a file more", edit("xtask.lock", '  { path = "weights', '  { path = "more.txt", sha256 = "' + "0" * 64 + '", size-bytes = 1 },\n  { path = "weights'), "pins: more.txt"),
    ],
}  # fmt: skip


# What decides two steps at once: compiler, linker and libc make the symbol versions that both need.
BOTH = {"c_compiler", "libc", "environment: CC", "environment: CXX", "environment: LD_LIBRARY_PATH"}

# (what is changed, how): no key moves.
NO_INPUTS = [
    ("mtime", lambda it: [os.utime(path) for path in it.repo.rglob("*") if ".git" not in path.parts]),
    ("HOME and USER", lambda it: variable(HOME=str(Tools().folder), USER="somebody", LOGNAME="somebody")(it)),
    ("mirror profile", argument("--mirror", "cn")),
    ("offline", argument("--offline")),
    ("time zone", variable(TZ="Asia/Shanghai")),
    ("locale", variable(LANG="zh_CN.UTF-8", LC_ALL="zh_CN.UTF-8")),
    ("proxy", variable(HTTPS_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9", NO_PROXY="x")),
    ("CA bundle", lambda it: variable(SSL_CERT_FILE=str(it.repo / "xtask.toml"), PIP_CERT="/nowhere")(it)),
    ("Go's registries", variable(GOPROXY="https://go.example.invalid", GOSUMDB="off", GOPRIVATE="example.invalid")),
    ("a variable that nobody declared", variable(CI="true", GOFLAGS="-race", RUSTFLAGS_EXTRA="-g", ANY="thing")),
    ("a dev-dependency's lock entry", edit("engine/Cargo.lock", "4e7648175b45a9a4", "0" * 16)),
    ("a remark in a configuration file", put(".cargo/config.toml", "# A remark.\n")),
    ("registries in a configuration file", lambda it: it.cargo_home('[net]\nretry = 9\n[source.x]\nregistry = "sparse+https://x.example.invalid/"\n')),
    ("number of jobs", put(".cargo/config.toml", "[build]\njobs = 1\n")),
    ("a Go test", put("service/gauge/gauge_test.go", "package gauge\n")),
    ("a Go package that nobody imports", put("service/other/other.go", "package other\n")),
    ("a page beside the sources", put("engine/README.md", "# Engine\n")),
    ("a hidden file of an editor", put("engine/src/.lib.rs.swp", "x")),
    ("a remark in xtask.toml", edit("xtask.toml", "[project]", "# A remark.\n[project]")),
    ("where a model comes from", edit("xtask.toml", '{ directory = "pebble" }', '{ hub = { repo = "x/pebble", revision = "1" } }')),
]  # fmt: skip


def other_python() -> int:
    """The minor version of an interpreter that is not the one in force."""
    return 12 if sys.version_info[1] == 11 else 11


class Matrix(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.sandbox = beside(fixture_built(), "keys")
        cargo = cls.sandbox.folder / "cargo"
        target = cargo.resolve()
        cargo.unlink()  # A folder of its own for config.toml, with the shared registry in it.
        cargo.mkdir()
        (cargo / "registry").symlink_to(target / "registry")
        cls.repo = fixture("keys")
        for words in (["build"], ["test", "pieces"]):
            run = tool(*words, repo=cls.repo, sandbox=cls.sandbox)
            assert run.exit_code == 0, run
        cls.base = cls.plans(Change(cls.repo, cls.sandbox), TARGETS)
        statuses = {id: step["status"] for id, step in cls.base.items()}
        assert {statuses[step] for step in TARGETS} == {"hit"}, statuses

    @classmethod
    def why(cls, change, step):
        target = TARGETS[step]
        return tool(
            "why", target, *change.arguments, repo=change.repo, sandbox=cls.sandbox, environment=change.environment
        )

    @classmethod
    def plans(cls, change, steps):
        plans = {}
        for step in {TARGETS[step]: step for step in steps}.values():
            run = cls.why(change, step)
            assert run.exit_code == 0, run
            plans |= run.plan
        return plans

    def changed(self, how):
        change = Change(self.repo, self.sandbox)
        self.addCleanup(change.undo)
        how(change)
        return change

    def test_each_input_alone_moves_the_key_and_is_named_and_nothing_else(self):
        flipped = Counter()
        for step, rows in INPUTS.items():
            for what, how, name in rows:
                with self.subTest(step=step, what=what):
                    change = self.changed(how)
                    run = self.why(change, step)
                    change.undo()
                    self.assertEqual(run.exit_code, 0, run)
                    plan = run.plan
                    it = plan[step]
                    self.assertNotEqual(it["key"], self.base[step]["key"])
                    self.assertEqual([reason["input"] for reason in it["changed"]], [name])
                    (reason,) = it["changed"]
                    self.assertEqual((reason["input"], it["reason"]), (name, reason))
                    self.assertNotEqual(reason["old"], reason["new"])
                    self.said_in_words(run, step, reason)
                    self.others_stay(plan, step, name)
                    flipped[step] += 1
        told = {"library": LIBRARY, "binary": BINARY, "wheel set": WHEELS, "model": MODEL}
        tell("inputs flipped: " + ", ".join(f"{kind} {flipped[step]}" for kind, step in told.items()))
        self.assertGreaterEqual(flipped.total(), 25)

    def said_in_words(self, run, step, reason):
        lines = [line for line in run.stderr.splitlines() if line.split()[:2] == ["why", f"{step}:"]]
        self.assertEqual(len(lines), 1, run.stderr)
        old, new = reason["old"], reason["new"]
        if old is not None and new is not None:
            self.assertTrue(lines[0].endswith(f"{step}: {reason['input']}: {old} → {new}"), lines)
        else:
            self.assertRegex(lines[0], rf"{re.escape(reason['input'])} is (new \(|gone \(was ).*")

    def others_stay(self, plan, step, name):
        for id, other in plan.items():
            both = id in (LIBRARY, BINARY) and (name in BOTH or name.endswith("gauge.h"))
            if id != step and not both:
                self.assertEqual(other.get("changed", []), [], id)
                if not other.get("provisional"):
                    self.assertEqual(other["key"], self.base[id]["key"])

    def test_what_cannot_reach_the_bytes_moves_no_key(self):
        for what, how in NO_INPUTS:
            with self.subTest(what=what):
                change = self.changed(how)
                plans = self.plans(change, TARGETS)
                change.undo()
                self.assert_as_before(plans)
        elsewhere = Path(tempfile.mkdtemp(dir=FOLDER)) / "a longer path"
        shutil.copytree(self.repo, elsewhere, ignore=shutil.ignore_patterns("target", "dist", "models"))
        self.assert_as_before(self.plans(Change(elsewhere, self.sandbox), TARGETS))
        mask = os.umask(0o077)
        self.addCleanup(os.umask, mask)
        private = elsewhere.with_name("private")
        shutil.copytree(elsewhere, private, copy_function=shutil.copyfile)
        self.assert_as_before(self.plans(Change(private, self.sandbox), TARGETS))
        tell(f"left as they are by: {len(NO_INPUTS) + 2} changes that cannot reach the bytes")

    def assert_as_before(self, plans):
        self.assertEqual({id: plans[id]["key"] for id in TARGETS}, {id: self.base[id]["key"] for id in TARGETS})

    def test_the_words_without_json_are_the_same(self):
        change = self.changed(variable(RUSTFLAGS="-g"))
        said = self.words("why", LIBRARY, environment=self.sandbox.environment() | change.environment, repo=self.repo)
        self.assertEqual(said.count("environment: RUSTFLAGS is new (-g)"), 2, said)
        self.assertNotIn(BINARY, said)

    def words(self, *arguments, environment, repo):
        """What a person sees on both streams."""
        program, told = launcher()
        argv = [program, *arguments, "--repo", repo]
        options = {"cwd": ROOT, "env": environment | told, "text": True, "check": True}
        return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options).stdout

    def test_a_file_that_a_declared_variable_names_is_an_input(self):
        file = self.sandbox.folder / "label.txt"
        change = self.changed(variable(GAUGE_LABEL=str(file)))
        file.write_text("one")
        one = self.plans(change, [LIBRARY])[LIBRARY]
        file.write_text("two")
        two = self.plans(change, [LIBRARY])[LIBRARY]
        self.assertEqual(
            {it["input"] for it in one["changed"]}, {"declared_environment: GAUGE_LABEL", "declared_files: GAUGE_LABEL"}
        )
        self.assertNotEqual(one["key"], two["key"])

    def test_what_cannot_be_meant_is_answered_with_the_nearest(self):
        for words, near in [
            (["why", "enginee"], "engine"),
            (["why", "toolchain:goo"], "toolchain:go"),
            (["build", "--profile", "relese", "--dry-run"], "release"),
            (["why", "reader", "--features", "cpuu"], "cpu"),
        ]:
            run = tool(*words, repo=self.repo, sandbox=self.sandbox)
            self.assertEqual(run.exit_code, USAGE, run)
            self.assertIn(f"hint: did you mean `{near}`?", run.stderr)
        for step in (*TARGETS, "toolchain:go", "go-modules:reader", "pebble"):
            self.assertEqual(tool("why", step, repo=self.repo, sandbox=self.sandbox).exit_code, 0)

    def test_a_credential_in_an_input_is_never_shown_or_written(self):
        secret = "hunter2-" + "x" * 8
        sandbox, repo = beside(fixture_built(), "secret"), fixture("secret")
        build = lambda *words, **more: tool(*words, repo=repo, sandbox=sandbox, environment=more)  # noqa: E731
        self.assertEqual(build("build").exit_code, 0)
        (repo / ".cargo").mkdir()
        (repo / ".cargo/config.toml").write_text(
            f'[env]\nAWS_SECRET_ACCESS_KEY = "{secret}"\n[registries.x]\nindex = "sparse+https://me:{secret}@x.example.invalid/"\n'
            f'token = "{secret}"\n[http]\nproxy = "http://me:{secret}@127.0.0.1:9"\n'
        )
        environment = {
            "RUSTFLAGS": f'--cfg token="{secret}"',
            "CFLAGS": f"-DHEADER=Authorization:{secret}",
            "CGO_CFLAGS": f"-DPASSWORD={secret}",
            "CGO_LDFLAGS": f"-Wl,--defsym=u=0 -L/nowhere/https://me:{secret}@host",
            "GAUGE_LABEL": secret,
            "GOPROXY": f"https://me:{secret}@go.example.invalid",
            "HTTPS_PROXY": f"http://me:{secret}@127.0.0.1:9",
        }
        runs = [
            build(*words, **environment) for words in (["plan"], ["why", "reader"], ["build"], ["build", "--dry-run"])
        ]
        environment["RUSTFLAGS"] += " --cfg x"
        said = self.words("why", "reader", environment=sandbox.environment() | environment, repo=repo)
        self.assertIn("environment: RUSTFLAGS: hidden", said)
        texts = {"why": said}
        for index, run in enumerate(runs):
            self.assertEqual(run.exit_code, 0, run)
            texts[f"run {index}"] = f"{run.events} {run.stderr}"
        self.assertTrue({LIBRARY, BINARY} <= set(runs[2].ran), runs[2])
        for folder in (repo / "target/xtask/last", repo / "target/xtask/logs", sandbox.store / "entries"):
            texts |= {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}
        texts["index"] = (repo / "target/xtask/stat-index.json").read_text()
        self.assertGreater(len(texts), 10)
        self.assertEqual([place for place, text in texts.items() if secret in text], [])

    def test_an_exported_symbol_relinks_the_binary_and_a_comment_does_not(self):
        def build(old, new):
            change = self.changed(edit("engine/src/lib.rs", old, new))
            run = tool("build", repo=self.repo, sandbox=self.sandbox)
            change.undo()
            self.assertEqual(run.exit_code, 0, run)
            return run

        self.assertEqual(build("no room for", "no room at all for").ran, [LIBRARY])
        symbol = '#[no_mangle]\npub extern "C" fn gauge_more() {}\n\n/// The capacity'
        run = build("/// The capacity", symbol)
        self.assertEqual(run.done[BINARY]["reason"]["input"], "interfaces: engine", run)
        self.assertIn(BINARY, run.ran)
        self.assertEqual(tool("build", repo=self.repo, sandbox=self.sandbox).ran, [])


class Reach(unittest.TestCase):
    """What a compiler or a build script reads that no source shows: in the key and compiled anew, or refused."""

    def setUp(self):
        self.repo, self.sandbox = fixture("reach"), beside(fixture_built(), "reach")
        self.change = Change(self.repo, None)

    def build(self, what, code=0, **environment):
        run = tool("build", what, repo=self.repo, sandbox=self.sandbox, environment=environment)
        self.assertEqual(run.exit_code, code, run)
        return run

    def refused(self, what, *said, **environment):
        run = self.build(what, CONFIGURATION, **environment)
        for words in ("XT0313", *said):
            self.assertIn(words, run.stderr)

    def test_whatever_cgo_reads_in_the_module_is_compiled_anew(self):
        archive = self.repo / "service/gauge/libst.a"

        def static(number):
            source = archive.with_name("st.txt")
            source.write_text(f"int st(void) {{ return {number}; }}\n")
            subprocess.run(["cc", "-x", "c", "-c", source, "-o", source.with_suffix(".out")], check=True)
            archive.unlink(missing_ok=True)
            subprocess.run(["ar", "rcD", archive, source.with_suffix(".out")], check=True)

        preamble = '#cgo CFLAGS: -I${SRCDIR}/../csrc\n#cgo LDFLAGS: ${SRCDIR}/libst.a\n#include "inc/extra.h"\n#include "part.inl"\nint st(void);\n'
        self.change.edit("service/gauge/gauge.go", "#include", f"{preamble}#include")
        self.change.edit(
            "service/gauge/gauge.go",
            "return C.GoString(&text[0])",
            "return C.GoString(&text[0]) + string(rune(C.EXTRA)) + string(rune(C.part())) + string(rune(C.st()))",
        )
        extra, part = self.repo / "service/gauge/inc/extra.h", self.repo / "service/csrc/part.inl"
        write(extra, f"#define EXTRA {ord('a')}\n")
        write(part, f"static int part(void) {{ return {ord('b')}; }}\n")
        static(ord("c"))

        def said():
            run = self.build("reader")
            environment = os.environ | {"LD_LIBRARY_PATH": str(self.repo / "dist/lib")}
            answer = subprocess.run(
                [self.repo / "dist/bin/reader"], env=environment, capture_output=True, text=True, check=True
            )
            return run.ran, re.search(r"capacity=\d+(\w*)", answer.stdout)[1]

        self.assertEqual(said()[1], "abc")
        for act, expected in [
            (lambda: write(extra, f"#define EXTRA {ord('x')}\n"), "xbc"),
            (lambda: write(part, f"static int part(void) {{ return {ord('y')}; }}\n"), "xyc"),
            (lambda: static(ord("z")), "xyz"),
        ]:
            act()
            ran, answer = said()
            self.assertEqual(answer, expected)
            self.assertIn(BINARY, ran)
        self.assertEqual(said(), ([], "xyz"))

    def test_cgo_that_leaves_the_module_is_refused(self):
        outside = self.sandbox.folder / "outside.h"
        outside.write_text("")
        self.change.edit("service/gauge/gauge.go", "#include", f'#include "{outside}"\n#include')
        self.refused("reader", str(outside), "move it into the Go module")

    def test_go_is_scanned_as_go_reads_it(self):
        words = '/*\nprints the\ntype of value\n*/\npackage main\n\nimport `example.invalid/service/quoted`; import _ "embed"\n'
        self.change.put(
            "service/app/reader/q.go", f'{words}\n//go:embed "a b.txt"\nvar blank string\n\nvar _ = quoted.Number\n'
        )
        self.change.put("service/app/reader/a b.txt", "x")
        self.change.put(
            "service/quoted/quoted.go",
            "// Package quoted is imported in backquotes.\npackage quoted\n\n// Number is one.\nconst Number = 1\n",
        )
        self.build("reader")

    def script(self, *lines):
        self.change.put("engine/build.rs", "fn main() {\n" + "".join(f"    {line}\n" for line in lines) + "}\n")

    def test_what_a_build_script_depends_on_is_declared_or_refused(self):
        limit = 'std::fs::write(std::env::var("OUT_DIR").unwrap() + "/limit.rs", "64").unwrap();'
        say = lambda *words: [f'println!("cargo:{word}");' for word in words]  # noqa: E731
        self.change.put("engine/other.txt", "1")
        self.script(limit)
        self.refused("engine", "does not say what it reads", "print cargo:rerun-if-changed=")
        self.script(limit, *say("rerun-if-changed=other.txt"))
        self.refused("engine", "other.txt, which is not declared", "`sources`")
        self.script(limit, *say("rerun-if-changed=absent.txt"))
        self.refused("engine", "absent.txt, which is not there")
        self.script(limit, *say("rerun-if-env-changed=LANG"))
        self.refused("engine", "the variable LANG", "`environment`", LANG="C")
        self.script(limit, *say("rerun-if-changed=limit.txt", "rerun-if-changed=src", "rerun-if-changed=../service/gauge/gauge.h",
            "rerun-if-env-changed=CC", "rerun-if-env-changed=GAUGE_LABEL", "rustc-env=NN=5"))  # fmt: skip
        self.change.edit("engine/src/lib.rs", "const LABEL", 'pub const NN: &str = env!("NN");\nconst LABEL')
        self.build("engine")
        self.script(limit, *say("rustc-env=NN=5"))
        self.change.edit("xtask.toml", 'sources = ["limit.txt"]', 'sources = ["."]')
        self.build("engine")

    def test_a_compiler_behind_a_script_counts_by_its_text_and_behind_another_by_both_answers(self):
        def key(change):
            run = tool("why", "reader", repo=self.repo, sandbox=self.sandbox, environment=change.environment)
            self.assertEqual(run.exit_code, 0, run)
            return run.plan[LIBRARY]["key"]

        tools = Tools()
        path = str(tools.fake("wrapper", f'exec {shutil.which("cc")} "$@"'))
        self.change.environment = {"CC": path}
        before = key(self.change)
        tools.fake("wrapper", f'exec {shutil.which("cc")} -O0 "$@"')
        self.assertNotEqual(key(self.change), before)
        behind = tools.answering("gcc-of-another-age", shutil.which("cc"), "[0-9][0-9.]*$", "99.9")
        env = shutil.which("env")
        self.change.environment = {"CC": f"{env} {behind}"}
        before = key(self.change)
        tools.answering("gcc-of-another-age", shutil.which("cc"), "[0-9][0-9.]*$", "88.8")
        self.assertNotEqual(key(self.change), before)


# What happens to a file while it is compiled: (what, commands of a shell in the checkout, what the message names).
APPEND = "printf '// later\\n' >> {0}"
PUT_BACK = "cp {0} {0}.kept && printf '// meanwhile\\n' >> {0} && cat {0}.kept > {0} && rm {0}.kept"
RENAMED = "cp {0} {0}.new && mv {0}.new {0}"
COMES_AND_GOES = "echo '{1}' > {0} && rm {0}"


def edits(path):
    return [(f"{kind}: {path}", script.format(path), Path(path).name) for kind, script in
            [("edited", APPEND), ("edited and put back", PUT_BACK), ("replaced by its equal", RENAMED)]]  # fmt: skip


MEANWHILE = {
    LIBRARY: [
        *itertools.chain(*map(edits, ["engine/src/lib.rs", "engine/part/src/lib.rs", "engine/build.rs", "engine/limit.txt", "service/gauge/gauge.h"])),
        *((what, script.replace("//", "#"), name) for what, script, name in itertools.chain(*map(edits, ["engine/Cargo.toml", "engine/Cargo.lock"]))),
        ("removed", "rm engine/src/spare.rs", "spare.rs"),
        ("added", "echo > engine/src/late.rs", "src"),
        ("comes and goes", COMES_AND_GOES.format("engine/src/late.rs", ""), "src"),
        ("configuration comes", "mkdir -p .cargo && echo '[build]' > .cargo/config.toml", "config.toml"),
        ("the declared variable's file", "echo more >> label.txt", "label.txt"),
        ("rustc is another", "echo '# another' >> {tools}/rustc", "rustc"),
        ("rustc is replaced by its equal", RENAMED.format("{tools}/rustc"), "rustc"),
        ("cargo is another", "echo '# another' >> {tools}/cargo", "cargo"),
    ],
    BINARY: [
        *itertools.chain(*map(edits, ["service/app/reader/main.go", "service/gauge/gauge.go", "service/gauge/gauge.h", "service/app/reader/words.txt", "service/go.mod"])),
        ("edited: go.sum", "cat service/go.sum service/go.sum > sums && cat sums > service/go.sum && rm sums", "go.sum"),
        ("removed", "rm service/app/reader/spare.go", "spare.go"),
        ("comes and goes", COMES_AND_GOES.format("service/gauge/late.go", "package gauge"), "gauge"),
        ("added", "echo package main > service/app/reader/late.go", "reader"),
        ("go is another", "echo '# another' >> {tools}/go", "go"),
        ("cc is replaced by its equal", RENAMED.format("{tools}/cc"), "cc"),
    ],
}  # fmt: skip


class Meanwhile(unittest.TestCase):
    """A tool that edits an input before it does its work: what it made of that must not be published."""

    def test_no_result_of_inputs_edited_while_it_was_made_is_published(self):
        fixture_built()
        with ThreadPoolExecutor(len(MEANWHILE)) as pool:
            counts = list(pool.map(lambda item: self.refuse_all(*item), MEANWHILE.items()))
        tell(f"edited while being made: {sum(counts)}, published: 0")
        self.assertGreaterEqual(sum(counts), 50)

    def refuse_all(self, step, rows):
        sandbox, repo, tools = beside(fixture_built(), "meanwhile"), fixture("meanwhile"), Tools()
        act = tools.folder / "act"
        tools.fake("cc", f'exec {shutil.which("cc")} "$@"')
        if step == LIBRARY:
            tools.rust(f'case "$*" in *"--crate-name gauge "*) . {act} ;; esac\nexec "$real" "$@"')
            source = repo / "engine/src/lib.rs"
        else:
            tools.fake("go", f'case "$*" in *" -o "*) (. {act}) ;; esac\nexec {shutil.which("go")} "$@"')
            source = repo / "service/app/reader/main.go"
        environment = tools.environment | {"GAUGE_LABEL": str(repo / "label.txt")}
        build = lambda: tool("build", repo=repo, sandbox=sandbox, environment=environment)  # noqa: E731
        entries = lambda: {path.name for path in sandbox.store.glob("entries/*") if step in path.read_text()}  # noqa: E731
        original = source.read_text()
        for name, text in [
            ("engine/src/spare.rs", ""),
            ("service/app/reader/spare.go", "package main\n"),
            ("label.txt", "x\n"),
        ]:
            (repo / name).write_text(text)
        kept = {path: path.read_bytes() for path in repo.rglob("*") if path.is_file() and ".git" not in path.parts}
        made = {path: path.read_bytes() for path in tools.folder.iterdir()}
        act.write_text("")
        run = build()
        assert run.exit_code == 0, run
        for index, (what, script, name) in enumerate(rows):
            with self.subTest(step=step, what=what):
                source.write_text(f"{original}// {index}\n")  # Not made yet, by us or by the tool.
                act.write_text(f"cd {repo}\n{script.format(tools=tools.folder)}\ncd - > /dev/null\n")
                before = entries()
                run = build()
                self.assertEqual((run.exit_code, entries() - before), (CHILD, set()), f"{what}: {run}")
                self.assertRegex(run.stderr, rf"caused by: .*\b{re.escape(name)}\b.* changed while {step} was made")
                self.assertIn("run the command again", run.stderr)
                act.write_text("")
                for path, content in [*kept.items(), *made.items()]:
                    if path != source and (not path.exists() or path.read_bytes() != content):
                        path.write_bytes(content)
                for late in (
                    repo / "engine/src/late.rs",
                    repo / "service/app/reader/late.go",
                    repo / ".cargo/config.toml",
                ):
                    late.unlink(missing_ok=True)
                if what.startswith(("edited and put back", "replaced")):
                    continue  # The next run is that of a file that was edited.
                again = build()
                self.assertEqual((again.exit_code, len(entries() - before)), (0, 1), f"{what}, again: {again}")
        return len(rows)


class Audit(unittest.TestCase):
    """The kernel's list of files read, against the declared inputs."""

    def traced(self, repo, *words, code=0):
        need("strace", None if shutil.which("strace") else "there is no strace")
        sandbox = beside(fixture_built(), "audit")
        trace = sandbox.folder / "trace"
        run = tool(*words, repo=repo, sandbox=sandbox, wrapper=[*audit.STRACE, str(trace)])
        self.assertEqual(run.exit_code, code, run)
        return sandbox, trace.read_text(errors="replace"), run

    def test_every_file_that_a_compilation_reads_is_declared_or_allowed_with_a_reason(self):
        repo = fixture("audit")
        sandbox, trace, _run = self.traced(repo, "build")
        for step in (LIBRARY, BINARY):
            strange, count = audit.undeclared(trace, step, repo, sandbox)
            tell(f"{step}: {count} files read, {len(strange)} of them neither declared nor allowed")
            self.assertEqual(strange, [])
            self.assertGreater(count, 50)

    def test_wheels_and_models_are_made_of_pinned_bytes_alone(self):
        repo = fixture("audit")
        _sandbox, trace, run = self.traced(repo, "test", "pieces")
        self.assertEqual(set(run.ran), {WHEELS, MODEL})
        own = (f"{repo}/target/xtask/", f"{repo}/models/")
        read = {path for path in audit.read_by(trace, None) if path.startswith(f"{repo}/") and not path.startswith(own)}
        # The gateway is told which bytes are right by every lock file; what it lets through is pinned, whoever asked.
        pins = ("xtask.lock", "engine/Cargo.lock", "service/go.sum")
        self.assertEqual(read, {f"{repo}/{name}" for name in ("xtask.toml", "pebble/weights.txt", *pins)})

    def test_a_header_by_its_absolute_path_and_a_file_read_by_a_build_script_are_found(self):
        repo, outside = fixture("audit"), Path(tempfile.mkdtemp(dir=FOLDER)) / "outside.h"
        outside.write_text("")
        change = Change(repo, None)
        change.edit("service/gauge/gauge.h", "#include", f'#include "{outside}"\n#include')
        change.edit("engine/build.rs", "fn main() {", f'fn main() {{\n    std::fs::read("{outside}").expect("a file");')
        sandbox, trace, _run = self.traced(repo, "build")
        for step in (LIBRARY, BINARY):
            self.assertEqual(audit.undeclared(trace, step, repo, sandbox)[0], [str(outside)])

    def test_a_variable_that_is_read_undeclared_is_refused_by_its_name(self):
        for name in ("SOME_LABEL", "CARGO_HOME"):
            repo = fixture("audit")
            Change(repo, None).edit("engine/src/lib.rs", '"GAUGE_LABEL"', f'"{name}"')
            run = tool("build", "engine", repo=repo, sandbox=beside(fixture_built(), "audit"))
            self.assertEqual(run.exit_code, CONFIGURATION, run)
            self.assertIn(f"the variable {name} at compile time", run.stderr)
