"""`lock update` of a Debian base, from archives and keys of our own: what is pinned, and whose word counts."""

import hashlib
import http.server
import shutil
import subprocess
import tempfile
import threading
import unittest
from pathlib import Path

# support first: it is what makes the hostile mirror's modules importable.
from support import FOLDER, ROOT, Sandbox, fixture_built, need, path_without, xtask  # isort: skip
from routes import tomllib

CONFIGURATION, INTEGRITY, MISSING = 3, 5, 8
TOOLS = ("gpg", "gpgv", "xz")

DECLARED = """
project.name = "demo"
[debian-base.small]
suite = "stable"
packages = ["app"]
without = ["debconf"]
keyring = "keyring.gpg"
[mirror.lab]
egress = "mirrors-only"
[mirror.lab.apt]
list = [["{url}/base/", "{url}/security/"]]
"""

# Archive, suite -> name, version, fields of each package.
PACKAGES = {
    ("base", "stable"): [
        ("app", "1", "Depends: liba (>= 1), debconf | debconf-2.0"),
        ("liba", "1", "Pre-Depends: libb:any"),
        ("libb", "1", ""),
        ("debconf", "1", ""),
        ("unused", "9", ""),
    ],
    ("base", "stable-updates"): [("libb", "1.1", "")],
    ("security", "stable-security"): [("liba", "1-1+deb1u1", "Depends: libb (>= 1.1)")],
}


class Archive:
    """Suites with signed indexes; the packages themselves are asked for by nobody."""

    def __init__(self, key: Path, packages: dict):
        self.key, self.files = key, {}
        files = self.files

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = files.get(self.path)
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        for (archive, suite), entries in packages.items():
            self.suite(archive, suite, entries)

    def suite(self, archive: str, suite: str, entries: list, says: str = "") -> None:
        place, sums = f"/{archive}/dists/{suite}", []
        for architecture in ("amd64", "arm64"):
            pool = "pool" if archive == "base" else "pool/updates"
            text = "".join(
                f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n"
                f"Filename: {pool}/main/{name}_{version}_{architecture}.deb\nSize: 7\n"
                f"SHA256: {sha256(name + version)}\n{fields}{chr(10) if fields else ''}\n"
                for name, version, fields in entries
            )
            packed = subprocess.run(["xz", "-c"], input=text.encode(), capture_output=True, check=True).stdout
            path = f"main/binary-{architecture}/Packages.xz"
            self.files[f"{place}/{path}"] = packed
            sums.append(f" {hashlib.sha256(packed).hexdigest()} {len(packed)} {path}\n")
        release = f"Codename: {says or suite}\nDate: Fri, 01 Nov 2024 00:00:00 UTC\nSHA256:\n{''.join(sums)}"
        self.files[f"{place}/InRelease"] = gpg(self.key, "--clearsign", text=release)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def gpg(key: Path, *arguments: str, text: str = "") -> bytes:
    words = ["gpg", "--homedir", str(key), "-q", "--batch", "--pinentry-mode", "loopback", "--passphrase", ""]
    return subprocess.run([*words, *arguments], input=text.encode(), capture_output=True, check=True).stdout


def new_key() -> Path:
    # Sockets of its agent lie in it, and their paths must be short.
    folder = Path(tempfile.mkdtemp(prefix="key-"))
    gpg(folder, "--quick-generate-key", "a@b.example", "ed25519", "sign", "never")
    return folder


class Bases(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        absent = [tool for tool in TOOLS if not shutil.which(tool)]
        need("signatures", f"{', '.join(absent)} not on PATH" if absent else None)
        # The tool itself is built by then: the profile of these tests has no crates.
        fixture_built()
        cls.keys = [new_key(), new_key()]

    @classmethod
    def tearDownClass(cls):
        for key in cls.keys:
            subprocess.run(["gpgconf", "--homedir", str(key), "--kill", "gpg-agent"], check=False)
            shutil.rmtree(key)

    def archive(self, packages=None) -> Archive:
        archive = Archive(self.keys[0], PACKAGES | (packages or {}))
        self.addCleanup(archive.close)
        return archive

    def project(self, archive: Archive) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="base-", dir=FOLDER))
        (folder / "keyring.gpg").write_bytes(gpg(self.keys[0], "--export"))
        (folder / "xtask.toml").write_text(DECLARED.format(url=archive.url))
        return folder

    def update(self, project: Path, **environment):
        arguments = ("lock", "update", "small", "--mirror", "lab", "--repo", project)
        # An index that an earlier run had and verified is asked of nobody again.
        return xtask(ROOT, *arguments, sandbox=Sandbox("bases"), environment=environment)

    def test_the_closure_of_all_suites_is_pinned_and_a_second_time_nothing_changes(self):
        project = self.project(self.archive())
        run = self.update(project)
        self.assertEqual(run.exit_code, 0, run)
        lock = (project / "xtask.lock").read_text()
        pinned = tomllib.loads(lock)["debian-base"]["small"]
        for platform, architecture in (("linux-amd64", "amd64"), ("linux-arm64", "arm64")):
            expected = {
                ("app", "1", f"base/pool/main/app_1_{architecture}.deb"),
                ("liba", "1-1+deb1u1", f"security/pool/updates/main/liba_1-1+deb1u1_{architecture}.deb"),
                ("libb", "1.1", f"base/pool/main/libb_1.1_{architecture}.deb"),
            }
            self.assertEqual({(it["name"], it["version"], it["path"]) for it in pinned[platform]}, expected)
            for it in pinned[platform]:
                self.assertEqual((it["sha256"], it["size-bytes"]), (sha256(it["name"] + it["version"]), 7))
        self.assertNotIn("127.0.0.1", lock)
        again = self.update(project)
        self.assertEqual(again.exit_code, 0, again)
        self.assertIn("xtask.lock is up to date", again.stderr)
        self.assertEqual((project / "xtask.lock").read_text(), lock)

    def test_what_the_key_did_not_sign_is_believed_of_nobody(self):
        stranger = self.archive()
        stranger.key = self.keys[1]
        stranger.suite("security", "stable-security", [("liba", "6", "")])
        altered = self.archive()
        place = "/base/dists/stable/InRelease"
        altered.files[place] = altered.files[place].replace(b"Codename: stable\n", b"Codename: stable\nX: y\n")
        other = self.archive()
        other.suite("base", "stable-updates", [("libb", "6", "")], says="oldstable-updates")
        twice = self.archive()
        twice.files[place] = twice.files[place] + twice.files[place]
        index = self.archive()
        packages = "/base/dists/stable/main/binary-amd64/Packages.xz"
        index.files[packages] = index.files[packages][:-1] + b"!"
        for archive, words in (
            (stranger, "keyring.gpg signed what the mirrors give as security/dists/stable-security"),
            (altered, "keyring.gpg signed what the mirrors give as base/dists/stable"),
            (twice, "keyring.gpg signed what the mirrors give as base/dists/stable"),
            (other, "base/dists/stable-updates is signed for another suite"),
            (index, "expected"),
        ):
            with self.subTest(words=words):
                project = self.project(archive)
                run = self.update(project)
                self.assertEqual(run.exit_code, INTEGRITY, run)
                self.assertIn(words, run.stderr)
                self.assertFalse((project / "xtask.lock").exists())

    def test_what_cannot_be_resolved_or_verified_says_what_to_do(self):
        archive = self.archive({("security", "stable-security"): [("liba", "2", "Depends: libz (>= 3) | liby")]})
        run = self.update(self.project(archive))
        self.assertEqual(run.exit_code, CONFIGURATION, run)
        self.assertIn("app → liba needs `libz (>= 3) | liby`, which no index has", run.stderr)
        self.assertIn('add "libz" to `without` of [debian-base.small]', run.stderr)
        project = self.project(self.archive())
        run = self.update(project, PATH=path_without("gpgv"))
        self.assertEqual(run.exit_code, MISSING, run)
        self.assertIn("hint: install the package gpgv", run.stderr)
        (project / "keyring.gpg").unlink()
        run = self.update(project)
        self.assertEqual(run.exit_code, CONFIGURATION, run)
        self.assertIn("name a keyring in `keyring` of [debian-base.small]", run.stderr)


if __name__ == "__main__":
    unittest.main()
