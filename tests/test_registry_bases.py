"""Images on a base from a registry: pinned by a tag, pulled from whoever has it, and its layers left as they are.

The base is an image of ours that skopeo put into Debian's registry; others read what comes out.
Owns: what is asked of the registry and when, what of a base is in an image. What of an archive is refused is a table in
xtask/crates/oci/tests/it/hostile.rs.
"""

import base64
import gzip
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
import unittest
import urllib.error
import urllib.request
from pathlib import Path

from support import FOLDER, ROOT, Sandbox, need, tomllib, xtask
from test_push import PASSWORD, Registry, TokenService, why_no_registry

MADE = """project.name = "base"
[image.base]
entrypoint = ["/usr/bin/start", "--all"]
arguments = ["--more"]
user = "1000:1000"
working-directory = "/srv"
environment = { KEPT = "1", PATH = "/usr/bin" }
labels = { of = "base" }
ports = [80]
[[image.base.layer]]
name = "system"
files = [
  { from = { path = "status" }, to = "/var/lib/dpkg/status" },
  { from = { path = "os-release" }, to = "/etc/os-release" },
]
[[image.base.layer]]
name = "noise"
files = [{ from = { path = "noise" }, to = "/usr/share/noise" }]
"""
STATUS = """Package: libx
Status: install ok installed
Architecture: amd64
Version: 1.2-3

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""
APP = """project.name = "app"
[image.app]
base = "{base}"
{own}
[[image.app.layer]]
name = "data"
files = [{{ from = {{ path = "data" }}, to = "/srv/data" }}]
"""
OWN = """environment = { OWN = "2", PATH = "/app" }
labels = { own = "x" }
ports = [81]
"""
GZIP, ZSTD = (f"application/vnd.oci.image.layer.v1.tar+{codec}" for codec in ("gzip", "zstd"))


def folder(name: str, **files: str | bytes) -> Path:
    made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=FOLDER))
    for path, content in files.items():
        (made / path.replace("_", ".")).write_bytes(content if isinstance(content, bytes) else content.encode())
    return made


def skopeo(*words) -> None:
    ran = subprocess.run(["skopeo", "--insecure-policy", *map(str, words)], capture_output=True, text=True)
    if ran.returncode:
        raise AssertionError(ran.stderr)


def tar(**files: str) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as it:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            it.addfile(entry, io.BytesIO(content.encode()))
    return archive.getvalue()


def zstd(content: bytes) -> bytes:
    """One frame of blocks that are kept as they are (RFC 8878, 3.1.1)."""
    blocks = [content[at : at + 0x10000] for at in range(0, len(content), 0x10000)]
    heads = [(index == len(blocks) - 1) | len(block) << 3 for index, block in enumerate(blocks)]
    packed = (head.to_bytes(3, "little") + block for head, block in zip(heads, blocks, strict=True))
    return b"\x28\xb5\x2f\xfd\x00\x38" + b"".join(packed)


def layout_of(layer: bytes, pack=lambda layer: gzip.compress(layer, mtime=0), media_type: str = GZIP) -> Path:
    """An image of one layer that this tool would not make."""
    made, packed = folder("layout"), pack(layer)
    (made / "blobs/sha256").mkdir(parents=True)

    def blob(content: bytes, kind: str) -> dict:
        digest = hashlib.sha256(content).hexdigest()
        (made / "blobs/sha256" / digest).write_bytes(content)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": [blob(packed, media_type.removeprefix("application/vnd.oci.image."))],
    }
    described = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    described["annotations"] = {"org.opencontainers.image.ref.name": "x"}
    (made / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
    (made / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return made


class Mirror:
    """Passes on what a registry has; one that lies alters the last byte of each blob."""

    def __init__(self, registry: Registry, lies: bool = False):
        self.asked: list[str] = []
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                mirror.asked.append(self.path)
                request = urllib.request.Request(f"http://{registry.host}{self.path}")
                request.add_header("Accept", self.headers.get("Accept", "*/*"))
                try:
                    with urllib.request.urlopen(request) as answer:
                        status, body, headers = answer.status, answer.read(), answer.headers
                except urllib.error.HTTPError as error:
                    status, body, headers = error.code, error.read(), error.headers
                if lies and "/blobs/" in self.path:
                    body = body[:-1] + bytes([body[-1] ^ 1])
                self.send_response(status)
                self.send_header("Content-Type", headers["Content-Type"])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class RegistryBases(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need("registry", why_no_registry())
        project = folder("base", xtask_toml=MADE, status=STATUS, noise=os.urandom(200_000))
        (project / "os-release").write_text('ID=debian\nVERSION_CODENAME="bookworm"\n')
        cls.made = project / "made"
        run = xtask(ROOT, "images", "--repo", project, "--to", f"oci:{cls.made}", sandbox=Sandbox("made"))
        if run.exit_code:
            raise AssertionError(run)
        (cls.told,) = run.of("image")
        cls.registry = Registry()
        cls.addClassCleanup(cls.registry.close)
        cls.put(cls.registry, "team/base:1")

    @classmethod
    def put(cls, registry: Registry, name: str, *words, layout: Path | None = None, tag: str = "base:latest"):
        source = f"oci:{layout}:x" if layout else f"oci:{cls.made}:{tag}"
        skopeo("copy", "--dest-tls-verify=false", *words, source, f"docker://{registry.host}/{name}")

    def project(self, base: str, own: str = OWN, more: str = "") -> Path:
        return folder("app", xtask_toml=APP.format(base=base, own=own) + more, data="data\n")

    def pinned(self, base: str, sandbox: Sandbox, *words, own: str = OWN, more: str = "") -> Path:
        project = self.project(base, own, more)
        run = xtask(ROOT, "lock", "update", base, "--repo", project, *words, sandbox=sandbox)
        self.assertEqual(run.exit_code, 0, run)
        return project

    def images(self, project: Path, sandbox: Sandbox, *words, to: str | None = None):
        to = to or f"oci:{project / 'out'}"
        return xtask(ROOT, "images", "--repo", project, "--to", to, *words, sandbox=sandbox)

    def document(self, project: Path, digest: str) -> dict:
        return json.loads((project / "out/blobs/sha256" / digest.removeprefix("sha256:")).read_bytes())

    def test_the_layers_of_a_base_lie_below_as_they_are_and_what_is_here_is_asked_for_once(self):
        sandbox, base = Sandbox("bases"), f"{self.registry.host}/team/base:1"
        before = len(self.registry.requests())
        project = self.pinned(base, sandbox)
        pin = tomllib.loads((project / "xtask.lock").read_text())["registry-base"][base]
        self.assertEqual(pin["digest"], self.told["digest"])
        # Its layers are of no interest for that.
        layers = {it["digest"] for it in self.told["layers"]}
        asked = {path.rsplit("/")[-1] for _, path in self.registry.requests()[before:]}
        self.assertEqual((asked & layers, asked >= {"1"}), (set(), True), asked)
        before = len(self.registry.requests())
        run = self.images(project, sandbox)
        self.assertEqual(run.exit_code, 0, run)
        (told,) = run.of("image")
        same = ("digest", "diff_id", "media_type", "size_bytes")
        below = [{key: layer[key] for key in same} for layer in told["layers"][:-1]]
        self.assertEqual(below, [{key: layer[key] for key in same} for layer in self.told["layers"]])
        self.assertEqual(len(self.registry.requests()) - before, len(below))
        for layer in below:
            self.assertGreater((project / "out/blobs/sha256" / layer["digest"][7:]).stat().st_nlink, 1)

        config = self.document(project, self.document(project, told["digest"])["config"]["digest"])
        self.assertEqual(
            config["config"],
            {
                "User": "1000:1000",
                "ExposedPorts": {"80/tcp": {}, "81/tcp": {}},
                "Env": ["KEPT=1", "PATH=/app", "OWN=2"],
                "Entrypoint": ["/usr/bin/start", "--all"],
                "Cmd": ["--more"],
                "WorkingDir": "/srv",
                "Labels": {"of": "base", "own": "x"},
            },
        )
        # Arguments belong to an entrypoint: another one does not get them.
        other = self.pinned(base, sandbox, own='entrypoint = ["/own"]\nuser = "2:2"\n')
        (image,) = self.images(other, sandbox).of("image")
        own = self.document(other, self.document(other, image["digest"])["config"]["digest"])["config"]
        self.assertEqual((own["Entrypoint"], own.get("Cmd"), own["User"]), (["/own"], None, "2:2"))
        root = folder("unpacked") / "root"
        unpack = ["umoci", "unpack", "--rootless", "--image", f"{project / 'out'}:app:latest", root]
        subprocess.run(unpack, check=True, capture_output=True)
        self.assertEqual((root / "rootfs/srv/data").read_text(), "data\n")
        self.assertEqual((root / "rootfs/var/lib/dpkg/status").read_text(), STATUS)

        before = len(self.registry.requests())
        again = self.images(project, sandbox)
        self.assertEqual((again.exit_code, again.ran, len(self.registry.requests())), (0, [], before), again)
        # Nobody needs the bytes of a base while everything that is made of it is here.
        shutil.rmtree(sandbox.cache / "downloads-v1")
        (project / "data").write_text("other\n")
        other = self.images(project, sandbox)
        self.assertEqual((other.exit_code, len(self.registry.requests())), (0, before), other)
        up_to_date = xtask(ROOT, "lock", "update", base, "--repo", project, sandbox=sandbox)
        self.assertIn("xtask.lock is up to date", up_to_date.stderr)

    def test_a_bill_of_materials_lists_the_packages_of_a_base_or_says_that_it_cannot(self):
        sandbox = Sandbox("bases-bom")
        self.put(self.registry, "team/bare:1", layout=layout_of(tar(file="")))
        own = 'entrypoint = ["/x"]\nuser = "1:1"\n'
        for name, packages in (("base", ["libx"]), ("bare", [])):
            project = self.pinned(f"{self.registry.host}/team/{name}:1", sandbox, own=own)
            run = self.images(project, sandbox)
            self.assertEqual(run.exit_code, 0, run)
            (image,) = run.of("image")
            documents = {it["artifact_type"]: self.document(project, it["digest"]) for it in image["attestations"]}
            bom, spdx, provenance = (
                self.document(project, documents[kind]["layers"][0]["digest"])
                for kind in ("application/vnd.cyclonedx+json", "application/spdx+json", "application/vnd.in-toto+json")
            )
            listed = {it["purl"]: it for it in bom["components"] if "purl" in it}
            (base,) = (purl for purl in listed if purl.startswith("pkg:oci/"))
            found = [it["name"] for purl, it in listed.items() if purl.startswith("pkg:deb/debian/")]
            self.assertEqual(found, packages)
            self.assertEqual("not listed" in listed[base].get("description", ""), not packages)
            self.assertEqual("not listed" in json.dumps(spdx), not packages)
            self.assertIn(base, json.dumps(provenance))

    def test_compression_of_a_base_is_kept_and_a_digest_needs_nobody_to_say_what_it_is(self):
        sandbox, layer = Sandbox("bases-zstd"), tar(**{"etc/os-release": "ID=x\n", "noise": "noise" * 50_000})
        own, images = 'entrypoint = ["/x"]\nuser = "1:1"\n', []
        for media_type, layout in ((GZIP, layout_of(layer)), (ZSTD, layout_of(layer, zstd, ZSTD))):
            name = f"packed/{media_type[-4:]}"
            self.put(self.registry, f"{name}:1", layout=layout)
            (manifest,) = json.loads((layout / "index.json").read_text())["manifests"]
            for reference in (f"{name}:1", f"{name}@{manifest['digest']}"):
                project = self.pinned(f"{self.registry.host}/{reference}", sandbox, own=own)
                run = self.images(project, sandbox)
                self.assertEqual(run.exit_code, 0, run)
                images += run.of("image")
                self.assertEqual([it["media_type"] for it in images[-1]["layers"]], [media_type, GZIP])
        by_tag_and_digest = [[it["digest"] for it in images[:2]], [it["digest"] for it in images[2:]]]
        self.assertEqual([len(set(it)) for it in by_tag_and_digest], [1, 1])
        self.assertEqual(*([layer["diff_id"] for layer in images[at]["layers"]] for at in (0, 2)))

    def test_a_registry_that_has_the_base_gets_none_of_it_and_another_gets_it_from_there(self):
        sandbox, base = Sandbox("bases-push"), f"{self.registry.host}/team/base:1"
        project = self.pinned(base, sandbox)
        self.assertEqual(self.images(project, sandbox).exit_code, 0)
        shutil.rmtree(sandbox.cache / "downloads-v1")
        before = len(self.registry.requests())
        run = self.images(project, sandbox, to=f"registry:{self.registry.host}/apps")
        self.assertEqual(run.exit_code, 0, run)
        (image,) = run.of("image")
        self.assertEqual((image["pushed"]["mounted"], image["pushed"]["sent"]), (2, 2), image)
        self.assertNotIn("GET", {method for method, path in self.registry.requests()[before:]})
        elsewhere = Registry()
        self.addCleanup(elsewhere.close)
        run = self.images(project, sandbox, to=f"registry:{elsewhere.host}/apps")
        self.assertEqual(run.exit_code, 0, run)
        self.assertEqual(run.of("image")[0]["pushed"]["sent"], 4)
        copy = folder("pulled") / "copy"
        skopeo("copy", "--src-tls-verify=false", f"docker://{elsewhere.host}/apps/app:latest", f"oci:{copy}:x")
        (manifest,) = json.loads((copy / "index.json").read_text())["manifests"]
        self.assertEqual(manifest["digest"], image["digest"])

    def test_mirrors_serve_a_base_and_one_that_lies_is_passed_over(self):
        good, liar = Mirror(self.registry), Mirror(self.registry, lies=True)
        self.addCleanup(good.close)
        self.addCleanup(liar.close)
        places = ", ".join(f'"{it.url}/{{repo}}"' for it in (liar, good))
        more = f'[mirror.lab]\negress = "mirrors-only"\n[mirror.lab.oci]\n"registry.example" = [{places}]\n'
        sandbox, base = Sandbox("bases-mirrors"), "registry.example/team/base:1"
        project = self.pinned(base, sandbox, "--mirror", "lab", more=more)
        run = self.images(project, sandbox, "--mirror", "lab")
        self.assertEqual(run.exit_code, 0, run)
        self.assertIn("mirror.hash", {it["code"] for it in run.of("finding")})
        self.assertTrue(any("/blobs/" in path for path in good.asked), good.asked)
        (image,) = run.of("image")
        self.assertEqual([it["digest"] for it in image["layers"][:-1]], [it["digest"] for it in self.told["layers"]])

    def test_what_a_base_lacks_by_itself_is_a_warning_and_what_our_files_lack_is_an_error(self):
        sandbox, broken = Sandbox("bases-gate"), "\x7fELF and nothing more"
        self.put(self.registry, "team/broken:1", layout=layout_of(tar(**{"lib/broken.so": broken})))
        own = 'entrypoint = ["/x"]\nuser = "1:1"\n'
        project = self.pinned(f"{self.registry.host}/team/broken:1", sandbox, own=own)
        for content, exit_code, expected in (
            ("text", 0, {("app:/lib/broken.so", "warning")}),
            (broken, 3, {("app:/lib/broken.so", "warning"), ("app:/srv/data", "error")}),
        ):
            (project / "data").write_text(content)
            run = self.images(project, sandbox)
            self.assertEqual(run.exit_code, exit_code, run)
            found = {
                (it["subject"], it["severity"]) for it in run.of("finding") if it["code"] == "image.would-not-start"
            }
            self.assertEqual(found, expected)

    def test_a_hostile_base_is_refused_by_layer_and_entry(self):
        self.put(self.registry, "team/hostile:1", layout=layout_of(tar(**{"../escaped": ""})))
        sandbox = Sandbox("bases-hostile")
        project = self.pinned(f"{self.registry.host}/team/hostile:1", sandbox)
        run = self.images(project, sandbox)
        self.assertEqual(run.exit_code, 3, run)
        self.assertIn("error[XT0318]", run.stderr)
        self.assertIn("../escaped", run.stderr)
        self.assertFalse((project / "out").exists())

    def test_what_hinders_a_base_is_named_with_what_helps(self):
        passwords = folder("passwords") / "htpasswd"
        passwords.write_bytes(subprocess.check_output(["htpasswd", "-Bbn", "me", "word-7"]))
        closed = Registry({"htpasswd": {"realm": "x", "path": str(passwords)}})
        self.addCleanup(closed.close)
        self.put(closed, "team/base:1", "--dest-creds", "me:word-7")
        sandbox = Sandbox("bases-errors")

        def update(base: str, sandbox: Sandbox = sandbox, **options):
            return xtask(ROOT, "lock", "update", base, "--repo", self.project(base), sandbox=sandbox, **options)

        unknown = update(f"{self.registry.host}/team/base:9")
        self.assertEqual(unknown.exit_code, 4, unknown)
        self.assertIn("team/base:9", unknown.stderr)
        stranger = update(f"{closed.host}/team/base:1")
        self.assertEqual(stranger.exit_code, 4, stranger)
        self.assertIn(f"`docker login {closed.host}`", stranger.stderr)
        known = Sandbox("bases-known")
        (known.home / ".docker").mkdir()
        auth = base64.b64encode(b"me:word-7").decode()
        (known.home / ".docker/config.json").write_text(json.dumps({"auths": {closed.host: {"auth": auth}}}))
        base = f"{closed.host}/team/base:1"
        run = self.images(self.pinned(base, known), known)
        self.assertEqual(run.exit_code, 0, run)

        unpinned = self.images(self.project(f"{self.registry.host}/team/base:1"), sandbox)
        self.assertIn("error[XT0310]", unpinned.stderr)
        self.assertIn(f"cargo xtask lock update {self.registry.host}/team/base:1", unpinned.stderr)
        project = self.pinned(f"{self.registry.host}/team/base:1", sandbox)
        other = self.images(project, sandbox, "--platform", "linux/arm64")
        self.assertIn("error[XT0310]", other.stderr)
        self.assertIn("linux-arm64", other.stderr)

        self.put(self.registry, "team/root:1", layout=layout_of(tar(file="")))
        for own, words in (("", "starts nothing"), ('entrypoint = ["/x"]\n', 'user = "65532:65532"')):
            run = self.images(self.pinned(f"{self.registry.host}/team/root:1", sandbox, own=own), sandbox)
            self.assertIn("error[XT0304]", run.stderr)
            self.assertIn(words, run.stderr)

    def test_a_token_service_elsewhere_is_told_who_pulls_a_base(self):
        certificates = folder("certificates")
        key, certificate = certificates / "key.pem", certificates / "certificate.pem"
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tokens", "-keyout", key]
        subprocess.run([*make, "-out", certificate], check=True, capture_output=True)
        service = TokenService(key, certificate)
        self.addCleanup(service.server_close)
        self.addCleanup(service.shutdown)
        realm = f"http://127.0.0.1:{service.server_port}/token"
        told = {"realm": realm, "service": "reg", "issuer": "tokens", "rootcertbundle": str(certificate)}
        closed = Registry({"token": told})
        self.addCleanup(closed.close)
        self.put(closed, "team/base:1", "--dest-creds", f"me:{PASSWORD}")
        sandbox, auth = Sandbox("bases-token"), base64.b64encode(f"me:{PASSWORD}".encode()).decode()
        (sandbox.home / ".docker").mkdir()
        (sandbox.home / ".docker/config.json").write_text(json.dumps({"auths": {closed.host: {"auth": auth}}}))
        service.scopes.clear()
        run = self.images(self.pinned(f"{closed.host}/team/base:1", sandbox), sandbox)
        self.assertEqual(run.exit_code, 0, run)
        self.assertEqual({scope for asked in service.scopes for scope in asked}, {"repository:team/base:pull"})
        self.assertNotIn(auth, closed.log.read_text())

    def test_an_emitted_dockerfile_begins_with_the_base_by_digest(self):
        sandbox, base = Sandbox("bases-emit"), f"{self.registry.host}/team/base:1"
        project = self.pinned(base, sandbox)
        run = xtask(ROOT, "emit", "dockerfile", "app", "--repo", project, sandbox=sandbox)
        self.assertEqual(run.exit_code, 0, run)
        text = (project / "dist/docker/app.Dockerfile").read_text()
        self.assertIn(f"FROM {self.registry.host}/team/base@{self.told['digest']}\n", text)
        for instruction in ("USER", "ENTRYPOINT", "WORKDIR"):
            self.assertNotIn(instruction, text)


if __name__ == "__main__":
    unittest.main()
