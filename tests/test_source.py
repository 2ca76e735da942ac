"""`cargo xtask emit dockerfile`: the written file, built by a Docker engine of its own, against what `images` makes.

The tools come out of the packages of this machine, as an image without certificates: whoever reaches a registry by
https was given the authorities as a secret. Mirrors and the proxy listen on loopback.
"""

import functools
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import threading
import unittest
import urllib.parse
from pathlib import Path

from support import (
    FOLDER,
    HOSTILE_MIRROR,
    ROOT,
    UPSTREAM_CACHE,
    beside,
    checkout,
    fixture,
    fixture_built,
    git,
    hostile_mirror,
    need,
    tell,
    why_no_mirrors,
    xtask,
)
from test_images import Engine, why_no_engine
from upstream import Registries

CANARY = "canary-5f0c3a"
MORE = """
[[image.reader.layer]]
name = "more"
files = [
  { from = { wheel-set = "tiny" }, to = "/app/packages/" },
  { from = { path = "pebble/weights.txt" }, to = "/app/pebble/", mode = "0755" },
  { from = { wheel-set = "tiny" }, to = "/srv/packages/", mode = "0440", owner = "7:8" },
]
"""
SETTINGS = """environment = { PRICE = "$5 a piece" }
arguments = ["--once"]
ports = [8000]
working-directory = "/app"
"""
CA = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
COMPILED = {"app/bin/reader", "app/lib/libgauge.so"}


@functools.cache
def docker() -> str | None:
    """A client that builds with BuildKit: one before 23, or one with the plugin for it."""
    for program in filter(None, [shutil.which("docker"), "/usr/bin/docker"]):
        version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        major = re.search(r"version (\d+)", version)
        plugin = subprocess.run([program, "buildx", "version"], capture_output=True).returncode == 0
        if major and (int(major[1]) < 23 or plugin):
            return program
    return None


def why_no_source() -> str | None:
    if docker() is None:
        return "there is no docker client with BuildKit"
    return None if shutil.which("dpkg-query") else "the tools are taken out of Debian's packages, which are not here"


def installed() -> dict[str, tuple[dict, str]]:
    """Package -> fields and whole paragraph of dpkg's database."""
    found = {}
    for paragraph in Path("/var/lib/dpkg/status").read_text().split("\n\n"):
        fields = dict(re.findall(r"^(\S+): (.*)$", paragraph, re.M))
        if fields.get("Status", "").endswith(" installed"):
            found[fields["Package"]] = fields, paragraph
    return found


def closure(wanted: list[str]) -> dict[str, str]:
    """Package -> paragraph: those that are wanted or essential, with all that they depend on."""
    packages, found = installed(), {}
    providers = {
        name.split("(")[0].strip(): package
        for package, (fields, _) in packages.items()
        for name in fields.get("Provides", "").split(",")
    }
    essential = [name for name, (fields, _) in packages.items() if fields.get("Priority") == "required"]
    todo = [*wanted, *essential]
    while todo:
        name = todo.pop()
        name = name if name in packages else providers.get(name)
        if name is None or name in found:
            continue
        fields, found[name] = packages[name]
        for needed in f"{fields.get('Depends', '')},{fields.get('Pre-Depends', '')}".split(","):
            choices = [choice.split("(")[0].split(":")[0].strip() for choice in needed.split("|")]
            todo += [choice for choice in choices if choice in packages or choice in providers][:1]
    return found


def write_tools(output) -> None:
    """A Debian with compilers, as a tar; the certificates are missing."""
    packages = closure(["apt", "debian-archive-keyring", "gcc", "libc6-dev", "python3-pip", "unzip"])
    packages.pop("ca-certificates", None)
    info, paths = Path("/var/lib/dpkg/info"), {"/bin", "/sbin", "/lib", "/lib64", "/etc/passwd", "/etc/group"}
    paths |= {"/usr/bin/cc", "/etc/alternatives/cc", str(info / "format")}
    for package in packages:
        for file in [*info.glob(f"{package}.*"), *info.glob(f"{package}:*")]:
            paths.add(str(file))
            paths.update(file.read_text().splitlines() if file.suffix == ".list" else [])
    left_out = ("/usr/share/doc", "/usr/share/man", "/usr/share/locale")
    rust = subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True).stdout.strip()
    with tarfile.open(fileobj=output, mode="w|") as tools:
        for path in sorted(paths):
            link = os.path.islink(path)
            if path.startswith(left_out) or not (link or os.path.isfile(path)):
                continue
            # /bin is a link, whatever packages say.
            folder, name = os.path.split(path)
            tools.add(path, arcname=os.path.join(os.path.realpath(folder), name).lstrip("/"))
        for folder in ("bin", "lib"):
            tools.add(f"{rust}/{folder}", arcname=f"usr/local/{folder}")
        # Certificates of Debian itself are not asked for: packages are signed.
        sources = Path("/etc/apt/sources.list.d/debian.sources")
        if sources.is_file():
            tools.add(sources)
        status = tarfile.TarInfo("var/lib/dpkg/status")
        content = ("\n\n".join(packages.values()) + "\n").encode()
        status.size = len(content)
        tools.addfile(status, io.BytesIO(content))
        of_apt = ("var/log/apt", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial")
        for folder in ("tmp", "var/tmp", "root", *of_apt):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder.endswith("tmp") else 0o755
            tools.addfile(entry)


class Source(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need("engine", why_no_engine() or why_no_source())
        need("mirror", why_no_mirrors())
        cls.engine = Engine()
        cls.addClassCleanup(cls.engine.close)
        argv = cls.engine.argv("import", "-", "tools")
        tools = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        importing = threading.Thread(target=lambda: (write_tools(tools.stdin), tools.stdin.close(), tools.wait()))
        importing.start()
        cls.repo, cls.sandbox = fixture("source"), beside(fixture_built(), "source")
        declaration = (cls.repo / "xtask.toml").read_text()
        entrypoint = 'entrypoint = ["/app/bin/reader"]\n'
        assert entrypoint in declaration
        (cls.repo / "xtask.toml").write_text(declaration.replace(entrypoint, entrypoint + SETTINGS) + MORE)
        state = Path(tempfile.mkdtemp(prefix="lab-", dir=FOLDER))
        options = hostile_mirror.Options(
            HOSTILE_MIRROR / "lab.toml", state, UPSTREAM_CACHE, proxy_user=f"me:{CANARY}", proxy_open=True
        )
        cls.mirror = cls.enterClassContext(hostile_mirror.serve_on_loopback(options))
        # Cargo and apt take a password elsewhere; pip and Go in the address.
        profile = cls.mirror.profile("http")
        for host in ("go-1.lab", "python-1.lab"):
            url = cls.mirror.url(host, "http")
            assert url in profile
            profile = profile.replace(url, url.replace("://", f"://me:{CANARY}@"))
        (cls.repo / "xtask.local.toml").write_text(profile)
        cls.emitted = cls.xtask("emit", "dockerfile", "--mirror", "lab", "--show-secrets")
        importing.join()
        assert tools.returncode == 0
        folder = cls.repo / "dist/docker/lab"
        names = {"apt": "debian.sources", "cargo": "config.toml", "go": "go.env", "pip": "pip.conf"}
        cls.secrets = [word for id, name in names.items() for word in ("--secret", f"id={id},src={folder / name}")]
        cls.log = cls.build("first", *cls.secrets)
        cls.asked = {(it["ecosystem"], bool(it.get("credentials"))) for it in cls.mirror.log_entries()}

    @classmethod
    def xtask(cls, *arguments):
        run = xtask(ROOT, *arguments, "--repo", cls.repo, sandbox=cls.sandbox)
        if run.exit_code != 0:
            raise AssertionError(str(run))
        return run

    @classmethod
    def build(cls, tag, *words, file="dist/docker/reader.Dockerfile", repo=None) -> str:
        """What BuildKit said."""
        argv = [docker(), "--host", f"unix://{cls.engine.socket}", "build", "--network=host", "--progress=plain"]
        repo = repo or cls.repo
        argv += ["--build-arg=TOOLS=tools", f"--file={repo / file}", f"--tag={tag}", *words, str(repo)]
        environment = os.environ | {"DOCKER_BUILDKIT": "1"}
        run = subprocess.run(argv, capture_output=True, text=True, env=environment)
        if run.returncode:
            raise AssertionError(run.stdout[-5000:] + run.stderr[-5000:])
        return run.stdout + run.stderr

    def files(self, image: str) -> dict[str, tuple]:
        """Path -> type, mode, owner, link and content of everything in an image."""
        container = self.engine.run("create", image, "-").strip()
        exported = subprocess.run(self.engine.argv("export", container), check=True, capture_output=True).stdout
        self.engine.run("rm", container)
        found = {}
        with tarfile.open(fileobj=io.BytesIO(exported)) as tar:
            for it in tar:
                content = tar.extractfile(it).read() if it.isreg() else b""
                found[it.name] = it.type, oct(it.mode), it.uid, it.gid, it.linkname, content
        # The engine's own, in every container.
        own = {".dockerenv", "dev/console", "dev/pts", "dev/shm", "etc/hostname", "etc/hosts", "etc/resolv.conf"}
        return {path: it for path, it in found.items() if path not in own}

    def same_as_native(self, native: str, source: str) -> set[str]:
        """Asserts that two images are the same but for bytes, and names the files that have others."""
        (left, right), configs = map(self.files, (native, source)), []
        self.assertEqual(sorted(right), sorted(left))
        shown = {path: it[:-1] for path, it in left.items()}
        self.assertEqual({path: it[:-1] for path, it in right.items()}, shown)
        for image in (native, source):
            config = json.loads(self.engine.run("inspect", "--format={{json .Config}}", image))
            # BuildKit gives every image a PATH.
            variables = [it for it in config.get("Env") or [] if not it.startswith("PATH=")]
            names = ("Entrypoint", "Cmd", "User", "WorkingDir", "ExposedPorts", "Labels")
            configs.append([variables, *((name, config.get(name) or None) for name in names)])
        self.assertEqual(configs[1], configs[0])
        return {path for path, it in left.items() if it[-1] != right[path][-1]}

    def test_it_holds_what_xtask_makes_itself(self):
        archive = self.sandbox.folder / "native.tar"
        self.xtask("images", "reader", "--to", f"tar:{archive}", "--tag", "native")
        self.engine.run("load", "--input", archive)
        differing = self.same_as_native("reader:native", "first")
        self.assertLessEqual(differing, COMPILED)
        tell(f"other bytes in: {', '.join(sorted(differing)) or 'nothing'}")
        self.assertIn("version=1.2.3 banner=on capacity=64", self.engine.run("run", "--rm", "--network=none", "first"))

    def from_source(self, *words, exit_code=0, **environment):
        arguments = ["images", "reader", "--from", "source", "--builder", "docker", "--to", "docker", "--mirror", "lab"]
        arguments += ["--engine", f"unix://{self.engine.socket}", "--repo", self.repo, *words]
        told = {"XTASK_TOOLS_IMAGE": "tools", **environment}
        run = xtask(ROOT, *arguments, sandbox=self.sandbox, environment=told)
        self.assertEqual(run.exit_code, exit_code, run)
        return run

    def test_xtask_has_the_same_stages_built_and_leaves_as_little_behind(self):
        first = self.from_source("--tag", "told")
        # What the client of the engine had built is there, whatever the mirrors: their settings are secrets for both.
        self.assertRegex(first.stderr, r"[1-9]\d* of \d+ steps were there")
        differing = self.same_as_native("first", "reader:told")
        self.assertLessEqual(differing, COMPILED)
        again = self.from_source("--tag", "told")
        (built,) = [it for it in again.of("step") if it["id"] == "build:reader" and it["state"] == "done"]
        self.assertEqual(built["status"], "hit", again)
        self.assertEqual([it["id"] for it in again.of("image")], [it["id"] for it in first.of("image")])
        source = self.repo / "service/app/reader/banner.go"
        before = source.read_text()
        self.addCleanup(source.write_text, before)
        source.write_text(f"{before}\n// Told.\n")
        logs = self.repo / "target/xtask/logs"
        before_logs = set(logs.glob("*/build-reader.log"))
        changed = self.from_source("--tag", "told")
        (log,) = set(logs.glob("*/build-reader.log")) - before_logs
        self.assertNotIn("go: downloading", log.read_text())
        (built,) = [it for it in changed.of("step") if it["id"] == "build:reader" and it["state"] == "done"]
        self.assertEqual(built["status"], "ran", changed)
        logs = subprocess.run(
            ["grep", "-rlF", CANARY, self.repo / "target", self.repo / "dist/images"], capture_output=True
        )
        self.assertEqual((logs.stdout, self.found_in_engine(CANARY)), (b"", ""))

    def test_a_step_that_fails_is_named_with_what_it_printed(self):
        source = self.repo / "service/app/reader/banner.go"
        before = source.read_text()
        self.addCleanup(source.write_text, before)
        source.write_text(f'{before}\nvar broken int = "text"\n')
        run = self.from_source("--tag", "broken", exit_code=9)
        self.assertIn("go build", run.stderr)
        self.assertIn("banner.go", run.stderr)
        self.assertIn("cannot use", run.stderr)

    def test_who_is_asked_to_compile_must_be_able_to(self):
        for words, said in (
            ([], "--from source needs a builder that compiles"),
            (["--builder", "docker", "--platform", "linux/arm64,linux/amd64"], "for this machine, not for"),
        ):
            run = xtask(ROOT, "images", "--from", "source", *words, "--repo", self.repo, sandbox=self.sandbox)
            self.assertEqual(run.exit_code, 2, run)
            self.assertIn(said, run.stderr)

    def test_wheels_with_programs_in_them_lie_there_as_xtask_lays_them(self):
        repo, archive = checkout("source real"), self.sandbox.folder / "real.tar"
        for words in (
            ["emit", "dockerfile", "mock-vllm"],
            ["images", "mock-vllm", "--to", f"tar:{archive}", "--tag", "native"],
        ):
            run = xtask(ROOT, *words, "--repo", repo, sandbox=self.sandbox)
            self.assertEqual(run.exit_code, 0, run)
        self.engine.run("load", "--input", archive)
        self.build("mock-vllm", "--secret", f"id=ca,src={CA}", file="dist/docker/mock-vllm.Dockerfile", repo=repo)
        self.assertEqual(self.same_as_native("mock-vllm:native", "mock-vllm"), set())

    def found_in_engine(self, mark: str) -> str:
        """Files of layers, caches and documents of the engine that hold something."""
        return subprocess.run(["grep", "-rlF", mark, self.engine.data], capture_output=True, text=True).stdout

    def test_secrets_lead_to_the_mirrors_and_leave_no_trace(self):
        # Go keeps a password from a host that it asks without TLS.
        self.assertLessEqual({("apt", False), ("crates", False), ("go", False), ("simple", True)}, self.asked)
        saved = self.sandbox.folder / "saved.tar"
        self.engine.run("save", "--output", saved, "first")
        image = saved.read_bytes() + self.engine.run("history", "--no-trunc", "first").encode()
        written = "".join(path.read_text() for path in (self.repo / "dist/docker").glob("*ockerfile*"))
        for mark in [CANARY, *re.findall(r"127\.0\.0\.1:\d+", (self.repo / "xtask.local.toml").read_text())]:
            self.assertNotIn(mark.encode(), image)
            self.assertNotIn(mark, written)
        self.assertNotIn(CANARY, self.log)
        self.assertEqual(self.found_in_engine(CANARY), "")

    def test_other_settings_make_nothing_anew(self):
        other = self.sandbox.folder / "other"
        other.write_text("# another mirror\n")
        secrets = [word for id in ("apt", "ca", "cargo", "go", "pip") for word in ("--secret", f"id={id},src={other}")]
        log = self.build("other", *secrets, "--build-arg=HTTPS_PROXY=http://127.0.0.1:9")
        runs = re.findall(r"^#(\d+) .*\bRUN\b", log, re.M)
        self.assertGreater(len(runs), 5)
        self.assertEqual([run for run in runs if f"#{run} CACHED" not in log], [])

    def throw_away(self, *caches: str) -> None:
        """Caches of RUN steps, by their folders, as an engine does by itself that has too many. It keeps the steps."""
        starts = [f"cached mount {cache} from exec" for cache in caches]
        for cache in json.loads(self.engine.run("system", "df", "--verbose", "--format={{json .BuildCache}}")):
            if cache["CacheType"] == "exec.cachemount" and cache["Description"].startswith(tuple(starts)):
                self.engine.run("builder", "prune", "--force", f"--filter=id={cache['ID']}")

    def test_a_changed_source_keeps_the_stages_before_it_and_finds_what_was_fetched(self):
        source = self.repo / "service/app/reader/banner.go"
        before = source.read_text()
        self.addCleanup(source.write_text, before)
        self.throw_away("/go/pkg/mod")
        for change, fetched in (("once", True), ("twice", False)):
            source.write_text(f"{before}\n// Changed {change}.\n")
            log = self.build("changed", *self.secrets)
            steps = dict(re.findall(r"^#(\d+) (\[.*)$", log, re.M))
            ran = [step for number, step in steps.items() if "RUN" in step and f"#{number} CACHED" not in log]
            stages = [step.split(" ")[0].strip("[") for step in ran]
            self.assertEqual(sorted(stages), ["binary-reader", "printed-1"])
            self.assertEqual("go: downloading" in log, fetched, change)

    def test_a_build_is_sent_what_it_copies_and_nothing_else(self):
        for path in ("secret.txt", "service/app/reader/main_test.go", "engine/target/debug/x", "service/other/x.go"):
            (self.repo / path).parent.mkdir(parents=True, exist_ok=True)
            (self.repo / path).write_text("x")
            self.addCleanup((self.repo / path).unlink)
        probe = self.repo / "dist/docker/probe.Dockerfile"
        probe.write_text("FROM scratch\nCOPY . /\n")
        ignore = probe.with_name("probe.Dockerfile.dockerignore")
        shutil.copy(self.repo / "dist/docker/reader.Dockerfile.dockerignore", ignore)
        self.addCleanup(lambda: (probe.unlink(), ignore.unlink()))
        self.build("probe", file="dist/docker/probe.Dockerfile")
        sent = {path for path, it in self.files("probe").items() if it[0] == tarfile.REGTYPE}
        listed = git(self.repo, "ls-files", "engine", "service", "pebble").split()
        (base,) = (self.repo / "dist/docker").glob("base-floor-*.tar.gz")
        self.assertEqual(sent, {*listed, str(base.relative_to(self.repo))})

    def test_a_module_proxy_that_does_not_answer_is_named_at_once(self):
        settings, module = self.sandbox.folder / "deaf.env", self.repo / "service/go.mod"
        settings.write_text(f"GOPROXY=http://me:{CANARY}@127.0.0.1:9\nGOSUMDB=sum.golang.google.cn\n")
        self.addCleanup(module.write_text, module.read_text())
        module.write_text(module.read_text() + "// Deaf.\n")
        self.throw_away("/go/pkg/mod")
        with self.assertRaises(AssertionError) as failed:
            self.build("deaf", "--target=modules-reader", "--secret", f"id=go,src={settings}")
        said = "github.com/google/uuid@v1.6.0 does not come by GOPROXY=http://127.0.0.1:9 GOSUMDB=sum.golang.google.cn"
        self.assertIn(f"error: {said}; --secret id=go,src=FILE names another proxy", str(failed.exception))
        self.assertNotIn(CANARY, str(failed.exception))

    def test_a_proxy_and_its_authority_reach_every_tool_and_leave_no_trace(self):
        self.throw_away("/go/pkg/mod", "/cargo/registry", "/root/.cache/pip", "/var/cache/apt", "/var/lib/apt/lists")
        before = len(self.mirror.log_entries())
        proxy = self.mirror.url(hostile_mirror.PROXY_HOST, "http").replace("://", f"://me:{CANARY}@")
        proxies = [f"--build-arg={name}={proxy}" for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")]
        authority = ["--secret", f"id=ca,src={CA}"]
        log = self.build("wheels-tiny", "--no-cache", "--target=wheels-tiny", *authority, *proxies)
        # What no build has had yet, so that these stages alone are made anew.
        module = self.repo / "service/go.mod"
        self.addCleanup(module.write_text, module.read_text())
        module.write_text(module.read_text() + "// Proxied.\n")
        for stage in ("library-engine", "modules-reader"):
            log += self.build(stage, "--build-arg=GAUGE_LABEL=x", f"--target={stage}", *authority, *proxies)
        asked = [it["path"] for it in self.mirror.log_entries()[before:]]
        registries = Registries()
        urls = [registries.crates_index, registries.go_proxy, registries.simple_index, registries.apt_archive("debian")]
        for host in (urllib.parse.urlsplit(url).hostname for url in urls):
            self.assertTrue(any(host in path for path in asked), f"{host} not in {asked}")
        for stage in ("library-engine", "modules-reader", "wheels-tiny"):
            log += self.engine.run("history", "--no-trunc", stage) + self.engine.run("inspect", stage)
        self.assertNotIn(CANARY, log)
        self.assertEqual(self.found_in_engine(CANARY), "")


if __name__ == "__main__":
    unittest.main()
