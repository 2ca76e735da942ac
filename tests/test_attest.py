"""What is attached to the images of the real project: passed by the validators of both formats, and held against what
other programs find in the same files.
"""

import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import unittest
from pathlib import Path

from support import FOLDER, Sandbox, checkout, first_build, git, need, tell, xtask
from test_stack import keep_only_the_library

NAMES = ["envoy", "extproc", "mock-vllm"]
CYCLONEDX, SPDX, IN_TOTO = "application/vnd.cyclonedx+json", "application/spdx+json", "application/vnd.in-toto+json"
# They bring the published schemas of the formats.
VALIDATORS = ["cyclonedx-python-lib[json-validation]==11.12.0", "spdx-tools==0.8.5"]


def validators() -> None:
    folder = FOLDER / "validators"
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-warn-conflicts", "--root-user-action=ignore"]
    run = subprocess.run([*argv, "--target", folder, *VALIDATORS], capture_output=True, text=True)
    need("validators", run.stderr.strip().splitlines()[-1] if run.returncode else None)
    sys.path.insert(0, str(folder))


class Layout:
    def __init__(self, folder: Path):
        self.folder = folder
        self.index = json.loads((folder / "index.json").read_text())

    def blob(self, descriptor: dict) -> bytes:
        content = (self.folder / "blobs/sha256" / descriptor["digest"].removeprefix("sha256:")).read_bytes()
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == descriptor["digest"]
        return content

    def image(self, name: str) -> dict:
        """The descriptor of the image."""
        name_of = "org.opencontainers.image.ref.name"
        (found,) = (it for it in self.index["manifests"] if it.get("annotations", {}).get(name_of) == f"{name}:latest")
        return found

    def attached(self, name: str) -> dict[str, dict]:
        """Artifact type -> document."""
        found = {}
        for descriptor in self.index["manifests"]:
            if "artifactType" not in descriptor:
                continue
            manifest = json.loads(self.blob(descriptor))
            if manifest["subject"]["digest"] == self.image(name)["digest"]:
                assert manifest["artifactType"] == descriptor["artifactType"] not in found
                found[manifest["artifactType"]] = json.loads(self.blob(manifest["layers"][0]))
        return found

    def files(self, name: str, layers: slice) -> dict[str, bytes]:
        found = {}
        for layer in json.loads(self.blob(self.image(name)))["layers"][layers]:
            with tarfile.open(fileobj=io.BytesIO(self.blob(layer))) as archive:
                for member in filter(tarfile.TarInfo.isfile, archive):
                    found[f"/{member.name}"] = archive.extractfile(member).read()
        return found


def purls(document: dict, kind: str) -> list[str]:
    return sorted(it["purl"] for it in document["components"] if it.get("purl", "").startswith(f"pkg:{kind}/"))


class Attestations(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.first = first_build()
        cls.repo, cls.sandbox = checkout("attested"), Sandbox("attested")
        keep_only_the_library(cls.first.sandbox.store, cls.sandbox.store)
        for name in ("go", "go-build"):
            (cls.sandbox.folder / name).symlink_to(cls.first.sandbox.folder / name)
        cls.run_ = cls.images(cls.repo, cls.repo / "dist/images")
        cls.layout = Layout(cls.repo / "dist/images")

    @classmethod
    def images(cls, repo: Path, layout: Path, **options):
        arguments = ["images", "--repo", repo, "--to", f"oci:{layout}"]
        run = xtask(cls.first.checkout, *arguments, sandbox=cls.sandbox, **options)
        if run.exit_code != 0:
            raise AssertionError(str(run))
        return run

    def test_the_validators_of_both_formats_pass_every_document(self):
        validators()
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator
        from packageurl import PackageURL
        from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
        from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

        validator = JsonStrictValidator(SchemaVersion.V1_6)
        self.assertIsNotNone(validator.validate_str('{"bomFormat": "CycloneDX", "specVersion": "1.6", "x": 1}'))
        for name in NAMES:
            documents = self.layout.attached(name)
            self.assertEqual(set(documents), {CYCLONEDX, SPDX, IN_TOTO})
            with self.subTest(name):
                bom = documents[CYCLONEDX]
                self.assertIsNone(validator.validate_str(json.dumps(bom)))
                parsed = JsonLikeDictParser().parse(documents[SPDX])
                self.assertEqual([it.validation_message for it in validate_full_spdx_document(parsed)], [])
                # Both list the same, SPDX the image itself besides.
                self.assertEqual(len(parsed.packages), len(bom["components"]) + 1)
                for component in [bom["metadata"]["component"], *bom["components"]]:
                    if "purl" in component:
                        self.assertEqual(PackageURL.from_string(component["purl"]).to_string(), component["purl"])

    def test_crates_modules_packages_wheels_and_files_are_those_that_other_programs_find(self):
        boms = {name: self.layout.attached(name)[CYCLONEDX] for name in NAMES}
        edges = ["tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}|{l}"]
        tree = subprocess.run(
            ["cargo", *edges],
            cwd=self.first.checkout / "candle-binding",
            env=self.first.sandbox.environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        crates = {}
        for line in tree.stdout.splitlines():
            package, licence = line.removesuffix(" (*)").split("|")
            name, version = package.split(" ")[:2]
            crates[f"pkg:cargo/{name}@{version.removeprefix('v')}"] = licence.replace("/", " OR ")
        licences = {
            it["purl"]: it.get("licenses", [{}])[0].get("expression", "")
            for it in boms["extproc"]["components"]
            if "purl" in it
        }
        self.assertEqual({purl: licences[purl] for purl in purls(boms["extproc"], "cargo")}, crates)

        router = self.layout.files("extproc", slice(1, None))["/app/extproc-server"]
        program = self.sandbox.folder / "router"
        program.write_bytes(router)
        go = shutil.which("go") or next(self.first.sandbox.store.glob("trees/*/bin/go"))
        said = subprocess.run([go, "version", "-m", program], capture_output=True, text=True, check=True).stdout
        modules = {f"pkg:golang/stdlib@{re.search(r': go([0-9.]+)', said)[1]}"}
        for kind, path, version in re.findall(r"^\t(mod|dep|=>)\t(\S+)\t(\S*)", said, re.MULTILINE):
            self.assertNotEqual((kind, version != "(devel)"), ("=>", True), "no module stands in for another here")
            local = version in ("", "(devel)") or f"{path}\t{version}\n\t=>" in said
            if kind != "=>":
                modules.add(f"pkg:golang/{path.lower()}" + ("" if local else f"@{version.replace('+', '%2B')}"))
        self.assertEqual(set(purls(boms["extproc"], "golang")), modules)

        for name in NAMES:
            installed = set()
            for path, content in self.layout.files(name, slice(0, 1)).items():
                if path.startswith("/var/lib/dpkg/status") and not path.endswith(".md5sums"):
                    fields = dict(
                        line.split(": ", 1) for line in content.decode().splitlines() if re.match(r"[A-Z]\S*: ", line)
                    )
                    installed.add((fields["Package"], fields["Version"], fields["Architecture"]))
            listed = [it for it in boms[name]["components"] if it.get("purl", "").startswith("pkg:deb/")]
            arch = re.compile(r"\?arch=(\w+)&distro=bookworm$")
            self.assertEqual({(it["name"], it["version"], arch.search(it["purl"])[1]) for it in listed}, installed)
            self.assertGreater(len(installed), 4)

        files = self.layout.files("mock-vllm", slice(1, None))
        metadata = [path for path in files if path.endswith(".dist-info/METADATA")]
        wheels = {re.search(r"/([^/]+)-([^/-]+)\.dist-info/", path).groups() for path in metadata}
        expected = sorted(f"pkg:pypi/{re.sub('[-_.]+', '-', name).lower()}@{version}" for name, version in wheels)
        self.assertEqual(purls(boms["mock-vllm"], "pypi"), expected)
        for name in NAMES:
            listed = {it["name"]: it["hashes"][0]["content"] for it in boms[name]["components"] if it["type"] == "file"}
            files = self.layout.files(name, slice(1, None))
            self.assertEqual(listed, {path: hashlib.sha256(content).hexdigest() for path, content in files.items()})
        tell(f"{len(crates)} crates, {len(modules)} Go modules, {len(wheels)} wheels")

    def test_provenance_names_image_commit_locks_and_nothing_of_this_machine(self):
        for name in NAMES:
            statement = self.layout.attached(name)[IN_TOTO]
            (told,) = (it for it in self.run_.of("image") if it["name"] == name)
            self.assertEqual(len(told["attestations"]), 3)
            self.assertEqual(statement["subject"][0]["digest"], {"sha256": told["digest"].removeprefix("sha256:")})
            self.assertEqual(statement["predicateType"], "https://slsa.dev/provenance/v1")
            definition = statement["predicate"]["buildDefinition"]
            inputs = {it["name"]: it for it in definition["resolvedDependencies"]}
            self.assertEqual(inputs["source"]["digest"], {"gitCommit": git(self.repo, "rev-parse", "HEAD").strip()})
            locks = {"extproc": ["candle-binding/Cargo.lock", "src/semantic-router/go.sum"]}.get(name, [])
            for path in ["xtask.lock", *locks]:
                sha256 = hashlib.sha256((self.repo / path).read_bytes()).hexdigest()
                self.assertEqual(inputs[path]["digest"], {"sha256": sha256})
        documents = json.dumps([self.layout.attached(name) for name in NAMES])
        for private in (str(FOLDER), socket.gethostname(), str(Path.home()) + "/", os.environ.get("USER") or "\0"):
            self.assertNotIn(private, documents)

    def test_an_edit_is_told_as_one_and_a_commit_moves_the_statement_alone(self):
        before = self.layout.index
        again = self.images(self.repo, self.repo / "dist/images")
        self.assertEqual(Layout(self.repo / "dist/images").index, before)
        self.assertEqual(again.ran, [])
        note = self.repo / "a note"
        note.write_text("not committed\n")
        self.addCleanup(note.unlink)
        edited = self.sandbox.folder / "edited"
        self.assertEqual(set(self.images(self.repo, edited).ran), {f"attestation:{name}" for name in NAMES})
        for name in NAMES:
            self.assertEqual(Layout(edited).image(name), self.layout.image(name))
            now, then = Layout(edited).attached(name), self.layout.attached(name)
            self.assertEqual((now[CYCLONEDX], now[SPDX]), (then[CYCLONEDX], then[SPDX]))
            definition = now[IN_TOTO]["predicate"]["buildDefinition"]
            self.assertEqual(definition["internalParameters"]["checkout"], "modified")
            self.assertNotIn("source", {it["name"] for it in definition["resolvedDependencies"]})
