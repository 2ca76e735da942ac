"""Real clients judge what the mirrors play: npm, apt-get, rustup, huggingface_hub, skopeo; cargo, go and pip are in
test_hostile_mirror.py.

Where a registry can be asked it is the real one, else a directory of fixtures in the registry's own form. A client or a
registry that is not there is skipped, or fails if XTASK_REQUIRE names `clients` or is `all`.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path

from rig import DIRECTORY, TEST_TIMEOUT_SECONDS, LoopbackTest, unavailable

# isort: split
# rig says where these are.
import hostile_mirror
import upstream

SHARED_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hostile-mirror"
PACKAGE, PACKAGE_VERSION = "is-number", "7.0.0"
HUB_CLIENT = "huggingface_hub==2.4.0"


def need(tool: str) -> str:
    path = shutil.which(tool)
    if path is None:
        unavailable("clients", f"{tool} not found")
    return path


class ClientTest(LoopbackTest):
    TABLE = "lab.toml"

    def run_client(self, *argv, **environment) -> subprocess.CompletedProcess:
        """In a home of its own, with no proxy, mirror or registry of the caller's."""
        home = self.root / "home"
        home.mkdir(exist_ok=True)
        environment = {"PATH": os.environ["PATH"], "HOME": home, "LC_ALL": "C.UTF-8", **environment}
        return subprocess.run(
            [str(word) for word in argv],
            cwd=home,
            env={name: str(value) for name, value in environment.items()},
            capture_output=True,
            text=True,
            timeout=TEST_TIMEOUT_SECONDS,
        )

    def assert_done(self, done: subprocess.CompletedProcess):
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def assert_refused(self, done: subprocess.CompletedProcess, pattern: str):
        self.assertNotEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stdout + done.stderr, pattern)

    def served(self, host: str) -> list[str]:
        return [it["path"] for it in self.mirror.log_entries() if it["host"] == host and it["status"] in (200, 206)]

    def forward(self, *faults: str) -> hostile_mirror.HostileMirror:
        return self.serve(*faults, fixtures={}, cache=SHARED_CACHE)


def reachable(name_url) -> None:
    """Skips unless the tool names its registry, and that answers."""
    try:
        upstream.fetch(name_url(upstream.Registries()), "*/*", io.BytesIO())
    except upstream.UpstreamError as error:
        unavailable("clients", f"the real registry cannot be reached: {error}")


class Npm(ClientTest):
    def npm(self, *words):
        directory = self.root / "project"
        directory.mkdir(exist_ok=True)
        quiet = ("--no-audit", "--no-fund", "--no-update-notifier", "--fetch-retries=0")
        caches = ("--cache", self.root / "npm-cache", "--userconfig", "/dev/null", "--registry")
        url = self.mirror.url("npm-1.lab", "http") + "/"
        return self.run_client(need("npm"), *words, "--prefix", directory, *quiet, *caches, url)

    def pack(self, name: str, version: str, **fields) -> None:
        """A tarball as `npm pack` names it."""
        tarball = self.root / "npm" / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
        tarball.parent.mkdir(exist_ok=True)
        with tarfile.open(tarball, "w:gz") as archive:
            for path, content in (
                ("package.json", json.dumps({"name": name, "version": version, **fields})),
                ("index.js", f"module.exports = {version!r}"),
            ):
                member = tarfile.TarInfo(f"package/{path}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content.encode()))

    def fixtures(self, *faults: str):
        self.pack("leaf", "1.9.0")
        self.pack("leaf", "1.10.0")
        self.pack("@lab/tree", "2.0.0", description="not abbreviated", dependencies={"leaf": "^1.0.0"})
        self.serve(*faults, fixtures={"npm": self.root / "npm"})

    def installed(self, name: str) -> dict:
        return json.loads((self.root / "project/node_modules" / name / "package.json").read_text())

    def test_installs_from_the_real_registry_through_the_mirror_alone(self):
        need("npm")
        reachable(lambda registries: registries.npm + PACKAGE)
        self.forward()
        self.assert_done(self.npm("install", f"{PACKAGE}@{PACKAGE_VERSION}"))
        self.assertEqual(self.installed(PACKAGE)["version"], PACKAGE_VERSION)
        self.assertEqual(self.served("npm-1.lab"), [f"/{PACKAGE}", f"/{PACKAGE}/-/{PACKAGE}-{PACKAGE_VERSION}.tgz"])
        # The full document, which no installation asks for.
        full = json.loads(self.get("npm-1.lab", f"/{PACKAGE}")[2])
        self.assertIn("time", full)
        base = self.mirror.url("npm-1.lab", "http") + "/"
        self.assertTrue(all(it["dist"]["tarball"].startswith(base) for it in full["versions"].values()))

    def test_installs_scopes_and_dependencies_from_fixtures_and_again_from_the_lock(self):
        need("npm")
        self.fixtures()
        self.assert_done(self.npm("install", "@lab/tree"))
        self.assertEqual(self.installed("leaf")["version"], "1.10.0")
        shutil.rmtree(self.root / "project/node_modules")
        shutil.rmtree(self.root / "npm-cache")
        self.assert_done(self.npm("ci"))
        self.assertEqual(self.installed("@lab/tree")["version"], "2.0.0")

    def test_abbreviated_packuments_have_what_an_installation_needs(self):
        self.fixtures()
        accept = "application/vnd.npm.install-v1+json"
        _, headers, body = self.get("npm-1.lab", "/@lab%2ftree", {"Accept": f"{accept}; q=1.0, */*"})
        tarball = f"{self.mirror.url('npm-1.lab', 'http')}/@lab/tree/-/lab-tree-2.0.0.tgz"
        self.assertEqual(headers["Content-Type"], accept)
        packument = json.loads(body)
        dist = packument["versions"]["2.0.0"].pop("dist")
        self.assertEqual((set(dist), dist["tarball"]), ({"tarball", "shasum", "integrity"}, tarball))
        version = {"name": "@lab/tree", "version": "2.0.0", "dependencies": {"leaf": "^1.0.0"}}
        self.assertEqual(
            packument, {"name": "@lab/tree", "dist-tags": {"latest": "2.0.0"}, "versions": {"2.0.0": version}}
        )

    def test_refuses_a_flipped_tarball(self):
        need("npm")
        self.fixtures("npm-1.lab/*.tgz=flip")
        self.assert_refused(self.npm("install", "leaf"), "EINTEGRITY|Z_DATA_ERROR|TAR_BAD_ARCHIVE|incorrect")

    def test_a_stale_registry_has_the_version_before(self):
        need("npm")
        self.fixtures("npm-1.lab/*=stale:1.10.0")
        self.assert_done(self.npm("install", "leaf"))
        self.assertEqual(self.installed("leaf")["version"], "1.9.0")
        self.assert_refused(self.npm("install", "leaf@1.10.0"), "ETARGET|notarget")


class Apt(ClientTest):
    """The security archive's own suite, which is small; the keyring is the machine's."""

    KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

    def setUp(self):
        super().setUp()
        need("apt-get")
        if not self.KEYRING.exists():
            unavailable("clients", f"{self.KEYRING} not found")
        targets = upstream.tool_output(
            ["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME) $(SUITE) $(RELEASE)"], dict(os.environ)
        )
        releases = re.findall(r"/debian-security \S* ?\S* ?(\S+-security)$", targets, re.MULTILINE)
        if not releases:
            unavailable("clients", "apt-get names no release of the archive `debian-security`")
        self.release = releases[0]
        reachable(lambda registries: registries.apt_archive("debian-security") + f"dists/{self.release}/InRelease")
        for folder in ("lists/partial", "archives/partial", "etc"):
            (self.root / "apt" / folder).mkdir(parents=True)
        (self.root / "apt/status").touch()

    def apt(self, *words):
        root = self.root / "apt"
        url = self.mirror.url("apt-1.lab", "http") + "/debian-security"
        (root / "sources.list").write_text(f"deb [signed-by={self.KEYRING}] {url} {self.release} main\n")
        settings = {
            "Dir::Etc": root / "etc",
            "Dir::Etc::SourceList": root / "sources.list",
            "Dir::State": root,
            "Dir::State::Lists": root / "lists",
            "Dir::State::Status": root / "status",
            "Dir::Cache": root,
            "Acquire::Languages": "none",
            "Acquire::Retries": "0",
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",
        }
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        return self.run_client(*words, *options)

    def smallest_package(self) -> str:
        sizes = {}
        for record in self.apt("apt-cache", "dumpavail").stdout.split("\n\n"):
            fields = dict(re.findall(r"^(Package|Size): (.*)$", record, re.MULTILINE))
            if len(fields) == 2:
                sizes[fields["Package"]] = int(fields["Size"])
        return min(sizes, key=sizes.get)

    def test_updates_and_downloads_through_the_mirror_alone(self):
        self.forward()
        self.assert_done(self.apt("apt-get", "update"))
        self.assertIn(f"/debian-security/dists/{self.release}/InRelease", self.served("apt-1.lab"))
        self.assertTrue([path for path in self.served("apt-1.lab") if "/by-hash/" in path])
        package = self.smallest_package()
        self.assert_done(self.apt("apt-get", "download", package))
        self.assertTrue(list((self.root / "home").glob("*.deb")))
        self.assertRegex(self.served("apt-1.lab")[-1], r"^/debian-security/pool/.*\.deb$")
        self.mirror.plan = type(self.mirror.plan)([hostile_mirror.Fault.parse("apt-1.lab/*.deb=flip")])
        for deb in (self.root / "home").glob("*.deb"):
            deb.unlink()
        self.assert_refused(self.apt("apt-get", "download", package), "Hash Sum mismatch|unexpected size")

    def test_stops_at_a_portal_page(self):
        self.forward("apt-1.lab/*=html")
        self.assert_refused(self.apt("apt-get", "update"), "NOSPLIT|Clearsigned file isn't valid")


class Rustup(ClientTest):
    """A channel of one empty component, since a real one is hundreds of megabytes; the rustup is the machine's."""

    VERSION = "9.9.9"

    def channel(self) -> Path:
        """A rustup server's directory. Rules: rustup's src/dist/manifest.rs and rust-installer's component format."""
        dist = self.root / "rustup/dist"
        (dist / "2030-01-01").mkdir(parents=True)
        host = subprocess.run(["rustup", "show", "active-toolchain"], capture_output=True, text=True).stdout
        self.target = re.search(r"\w+-unknown-linux-\w+", host)[0]
        components = {}
        for name in ("rustc", "cargo", "rust-std"):
            folder = f"{name}-{self.VERSION}-{self.target}"
            part = f"rust-std-{self.target}" if name == "rust-std" else name
            files = {
                "rust-installer-version": "3\n",
                "components": f"{part}\n",
                f"{part}/manifest.in": f"file:lib/{name}.txt\n",
                f"{part}/lib/{name}.txt": f"{name} {self.VERSION}\n",
            }
            archive_path = dist / "2030-01-01" / f"{folder}.tar.xz"
            with tarfile.open(archive_path, "w:xz") as archive:
                for path, content in files.items():
                    member = tarfile.TarInfo(f"{folder}/{path}")
                    member.size, member.mode = len(content), 0o644
                    archive.addfile(member, io.BytesIO(content.encode()))
            components[name] = hashlib.sha256(archive_path.read_bytes()).hexdigest()
        lines = [
            'manifest-version = "2"',
            'date = "2030-01-01"',
            "[profiles]",
            'minimal = ["rustc","cargo","rust-std"]',
        ]
        for name, digest in components.items():
            lines += [f"[pkg.{name}]", f'version = "{self.VERSION}"', f"[pkg.{name}.target.{self.target}]"]
            # Whatever host stands here, rustup puts RUSTUP_DIST_SERVER in the place of its own default only.
            url = f"{self.mirror_url()}/dist/2030-01-01/{name}-{self.VERSION}-{self.target}.tar.xz"
            lines += ["available = true", f'url = "{url}"', f'hash = "{digest}"']
            lines += [f'xz_url = "{url}"', f'xz_hash = "{digest}"']
        lines += ["[pkg.rust]", f'version = "{self.VERSION}"', f"[pkg.rust.target.{self.target}]", "available = true"]
        for name in components:
            lines += [f"[[pkg.rust.target.{self.target}.components]]", f'pkg = "{name}"', f'target = "{self.target}"']
        manifest = "".join(f"{line}\n" for line in lines).encode()
        path = dist / f"channel-rust-{self.VERSION}.toml"
        path.write_bytes(manifest)
        path.with_name(f"{path.name}.sha256").write_text(f"{hashlib.sha256(manifest).hexdigest()}  {path.name}\n")
        return self.root / "rustup"

    def mirror_url(self) -> str:
        return self.mirror.url("rustup-1.lab", "http")

    def rustup(self, *words):
        home = self.root / "rustup-home"
        return self.run_client(
            need("rustup"),
            *words,
            RUSTUP_HOME=home,
            CARGO_HOME=home,
            RUSTUP_DIST_SERVER=self.mirror_url(),
            RUSTUP_UPDATE_ROOT=self.mirror_url() + "/rustup",
            RUSTUP_MAX_RETRIES="0",
        )

    def serve_channel(self, *faults: str):
        need("rustup")
        (self.root / "rustup").mkdir()
        self.serve(*faults, fixtures={"rustup": self.root / "rustup"})
        self.channel()

    def install(self):
        return self.rustup("toolchain", "install", self.VERSION, "--profile", "minimal", "--no-self-update")

    def test_installs_a_toolchain(self):
        self.serve_channel()
        self.install()  # Its rustc cannot run, which rustup minds only after everything is in place.
        installed = self.root / f"rustup-home/toolchains/{self.VERSION}-{self.target}/lib/rustc.txt"
        self.assertEqual(installed.read_text(), f"rustc {self.VERSION}\n")
        self.assertEqual(len(self.served("rustup-1.lab")), 5, self.served("rustup-1.lab"))

    def test_refuses_a_flipped_component(self):
        self.serve_channel("rustup-1.lab/*.tar.xz=flip")
        self.assert_refused(self.install(), "checksum")

    def test_calls_a_portal_page_a_wrong_checksum(self):
        self.serve_channel("rustup-1.lab/*=html")
        self.assert_refused(self.install(), "checksum")

    def test_real_manifests_and_rustups_own_root_are_forwarded(self):
        need("rustup")
        reachable(lambda registries: registries.rustup + "rustup/release-stable.toml")
        self.forward()
        manifest, stated = (
            self.get("rustup-1.lab", f"/dist/channel-rust-1.95.0.toml{suffix}")[2] for suffix in ("", ".sha256")
        )
        self.assertEqual(hashlib.sha256(manifest).hexdigest(), stated.split()[0].decode())
        self.rustup("check")  # Its exit code says whether this machine's rustup is the newest.
        self.assertIn("/rustup/release-stable.toml", self.served("rustup-1.lab"))


class Hub(ClientTest):
    FILES = {
        "config.json": b'{"hidden_size": 4}',
        "onnx/model.onnx": b"onnx" * 1000,
        "model.safetensors": bytes(range(256)) * 4000,
    }

    @classmethod
    def setUpClass(cls):
        """The client is installed once and kept; pip decides where from."""
        cls.packages = SHARED_CACHE / "clients" / f"{HUB_CLIENT}-python{sys.version_info[0]}.{sys.version_info[1]}"
        if not cls.packages.exists():
            beside = cls.packages.with_name(f"{cls.packages.name}.{os.getpid()}")
            argv = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(beside), HUB_CLIENT]
            done = subprocess.run(argv, capture_output=True, text=True)
            if done.returncode != 0:
                shutil.rmtree(beside, ignore_errors=True)
                unavailable("clients", f"pip cannot install {HUB_CLIENT}: {done.stderr.strip()}")
            with contextlib.suppress(OSError):  # Somebody else was first.
                beside.rename(cls.packages)

    def setUp(self):
        super().setUp()
        for name, content in self.FILES.items():
            path = self.root / "hub/lab/model" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def hub(self, script: str, *faults: str, **variables):
        self.serve(*faults, fixtures={"hub": self.root / "hub"})
        return self.run_client(
            sys.executable,
            "-c",
            f"import huggingface_hub, pathlib\n{script}",
            PYTHONPATH=self.packages,
            HF_ENDPOINT=self.mirror.url("hub-1.lab", "http"),
            HF_HUB_DISABLE_TELEMETRY="1",
            **variables,
        )

    def test_snapshot_download_gets_every_file_and_verifies_as_complete(self):
        done = self.hub(
            "folder = pathlib.Path(huggingface_hub.snapshot_download('lab/model'))\n"
            "for path in sorted(folder.rglob('*')):\n"
            "    if path.is_file(): print(path.relative_to(folder), path.resolve().name, path.stat().st_size)\n"
        )
        self.assert_done(done)
        large = {name: hashlib.sha256(content).hexdigest() for name, content in self.FILES.items() if "model" in name}
        small = self.FILES["config.json"]
        names = {"config.json": hashlib.sha1(b"blob %d\0" % len(small) + small).hexdigest(), **large}
        self.assertEqual(
            done.stdout.splitlines(),
            [f"{name} {names[name]} {len(self.FILES[name])}" for name in sorted(self.FILES)],
        )

    def test_the_client_believes_a_flipped_blob(self):
        """The reason why others must verify: if this fails, huggingface_hub has learned to."""
        done = self.hub(
            "path = huggingface_hub.hf_hub_download('lab/model', 'model.safetensors')\n"
            "print(pathlib.Path(path).stat().st_size)",
            "hub-1.lab/*.safetensors=flip",
        )
        self.assert_done(done)
        self.assertEqual(int(done.stdout), len(self.FILES["model.safetensors"]))
        self.assertEqual(self.mirror.log_entries()[-1]["fault"], "flip")

    def test_a_token_is_named_in_the_log_and_not_shown(self):
        done = self.hub("huggingface_hub.hf_hub_download('lab/model', 'config.json')", HF_TOKEN="hf_canary")
        self.assert_done(done)
        self.assertEqual({tuple(entry["credentials"]) for entry in self.mirror.log_entries()}, {("authorization",)})
        self.assertNotIn("canary", self.mirror.log_path.read_text())


class Registry(ClientTest):
    def setUp(self):
        super().setUp()
        self.layout = self.root / "oci/docker.io/library/x"
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as archive:
            member = tarfile.TarInfo("file")
            member.size = 100_000
            archive.addfile(member, io.BytesIO(bytes(100_000)))
        self.layer = self.blob(layer.getvalue())
        config = {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [self.layer["digest"]]},
        }
        kind = "application/vnd.oci.image"
        self.manifest = self.blob(
            json.dumps(
                {
                    "schemaVersion": 2,
                    "mediaType": f"{kind}.manifest.v1+json",
                    "config": {
                        "mediaType": f"{kind}.config.v1+json",
                        **self.blob(json.dumps(config).encode()),
                    },
                    "layers": [{"mediaType": f"{kind}.layer.v1.tar", **self.layer}],
                }
            ).encode()
        )
        named = {"org.opencontainers.image.ref.name": "1"}
        entry = {"mediaType": f"{kind}.manifest.v1+json", "annotations": named, **self.manifest}
        (self.layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        (self.layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, content: bytes) -> dict:
        digest = hashlib.sha256(content).hexdigest()
        path = self.layout / "blobs/sha256" / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    def serve_layout(self, *faults: str):
        need("skopeo")
        return self.serve(*faults, fixtures={"oci": self.root / "oci"})

    def copy(self, mirror, host: str, reference: str):
        target = self.root / "copied"
        shutil.rmtree(target, ignore_errors=True)
        address = mirror.url(host, "http").removeprefix("http://")
        policy = self.root / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        return self.run_client(
            *(need("skopeo"), "--policy", policy, "copy", "--src-tls-verify=false"),
            *(f"docker://{address}/{reference}", f"dir:{target}"),
        )

    def test_pulls_by_tag_and_digest_by_path_prefix_and_host_swap(self):
        mirror = self.serve_layout()
        for host, repository in (("oci-1.lab", "docker.io/library/x"), ("oci-2.lab", "library/x")):
            for reference in (f"{repository}:1", f"{repository}@{self.manifest['digest']}"):
                with self.subTest(host=host, reference=reference):
                    self.assert_done(self.copy(mirror, host, reference))
        tags = json.loads(self.get("oci-2.lab", "/v2/library/x/tags/list")[2])
        self.assertEqual(tags["tags"], ["1"])
        status, headers, body = self.get(
            "oci-2.lab", f"/v2/library/x/blobs/{self.layer['digest']}", {"Range": "bytes=512-1023"}
        )
        self.assertEqual((status, headers["Content-Range"]), (206, f"bytes 512-1023/{self.layer['size']}"))
        self.assertEqual(len(body), 512)
        self.assert_refused(self.copy(mirror, "oci-2.lab", "library/x:2"), "manifest unknown|MANIFEST_UNKNOWN")

    def test_refuses_a_flipped_layer(self):
        mirror = self.serve_layout(f"oci-1.lab/*{self.layer['digest'][7:]}=flip")
        self.assert_refused(self.copy(mirror, "oci-1.lab", "docker.io/library/x:1"), "[Dd]igest did not match")

    def test_copies_another_registry(self):
        origin = self.serve_layout()
        url = origin.url("oci-2.lab", "http")
        copy = self.serve(
            fixtures={}, oci_registries={"docker.io": url}, state=self.root / "second", cache=self.root / "cache"
        )
        for _ in range(2):
            self.assert_done(self.copy(copy, "oci-1.lab", f"docker.io/library/x@{self.manifest['digest']}"))
        asked = [it["path"] for it in origin.log_entries() if self.layer["digest"] in it["path"]]
        self.assertEqual(len(asked), 1, "the layer was not kept")


class Streaming(ClientTest):
    SIZE_BYTES = 256 * 1024 * 1024
    FLOOR_BYTES_A_SECOND = 200_000_000

    def test_large_files_are_fast_and_never_in_memory(self):
        big = self.root / "files/dl.example/big"
        big.parent.mkdir(parents=True)
        with open(big, "wb") as file:
            file.truncate(self.SIZE_BYTES)
        argv = [sys.executable, "-B", DIRECTORY / "hostile_mirror.py", "serve", "--routes", DIRECTORY / "lab.toml"]
        argv += ["--state", self.root / "state", "--fixtures", f"files={self.root / 'files'}"]
        with subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE, text=True) as process:
            self.addCleanup(process.kill)
            url = json.loads(process.stdout.readline())["hosts"]["files-1.lab"]["http"] + "/dl.example/big"
            seconds = []
            for _ in range(3):
                started, buffer, received = time.monotonic(), bytearray(1024 * 1024), 0
                with urllib.request.urlopen(url, timeout=60) as response:
                    while count := response.readinto(buffer):
                        received += count
                self.assertEqual(received, self.SIZE_BYTES)
                seconds.append(time.monotonic() - started)
            peak = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
            process.terminate()
        self.assertGreater(self.SIZE_BYTES / min(seconds), self.FLOOR_BYTES_A_SECOND)
        self.assertLess(int(peak[1]) * 1024, 64 * 1024 * 1024)
