"""`--platform`: what is made here for another machine, judged by readelf, by other tools and by running it under qemu.

The small project carries what is asserted of bytes; the real router is built once, quickly rather than well, to answer
`/health`.
"""

import json
import re
import shutil
import socket
import subprocess
import time
import unittest
import urllib.request
from pathlib import Path

from support import ROOT, Sandbox, beside, checkout, first_build, fixture, fixture_built, need, tell, xtask

PLATFORM, MACHINE = "linux/arm64", "AArch64"
FLOOR = (2, 36)
"""The C library of the bases of both projects."""
QUICK = {
    "CARGO_PROFILE_RELEASE_OPT_LEVEL": "1",
    "CARGO_PROFILE_RELEASE_LTO": "off",
    "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
}


def why_no_qemu() -> str | None:
    return None if shutil.which("qemu-aarch64-static") else "there is no qemu-aarch64-static"


def need_judges() -> None:
    need("qemu", why_no_qemu())
    for program in ("skopeo", "umoci"):
        need(program, None if shutil.which(program) else f"there is no {program}")


def readelf(option: str, file: Path) -> str:
    return subprocess.run(["readelf", "--wide", option, file], check=True, capture_output=True, text=True).stdout


def unpacked(layout: Path, reference: str, folder: Path) -> Path:
    argv = ["umoci", "unpack", "--rootless", "--image", f"{layout}:{reference}", folder]
    subprocess.run(argv, check=True, capture_output=True)
    return folder / "rootfs"


class Small(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need_judges()
        cls.built = fixture_built()
        cls.repo, cls.sandbox = fixture("cross"), beside(cls.built, "cross")
        cls.layout = cls.sandbox.folder / "layout"
        cls.run_ = cls.images(
            cls.repo, cls.sandbox, "--platform", f"linux/amd64,{PLATFORM}", "--to", f"oci:{cls.layout}"
        )

    @staticmethod
    def images(repo, sandbox, *arguments, **options):
        run = xtask(ROOT, "images", "--repo", repo, *arguments, sandbox=sandbox, **options)
        if run.exit_code != 0:
            raise AssertionError(str(run))
        return run

    def test_programs_of_both_platforms_run_and_print_the_same(self):
        printed = []
        for architecture, emulator in (("amd64", []), ("arm64", ["qemu-aarch64-static", "-L", "{root}"])):
            layout = self.sandbox.folder / f"only-{architecture}"
            self.images(self.repo, self.sandbox, "--platform", f"linux/{architecture}", "--to", f"oci:{layout}")
            root = unpacked(layout, "reader:latest", self.sandbox.folder / f"bundle-{architecture}")
            argv = [word.format(root=root) for word in emulator] + [str(root / "app/bin/reader")]
            run = subprocess.run(argv, capture_output=True, text=True)
            self.assertEqual(run.returncode, 0, run.stderr)
            printed += [run.stdout.strip(), (root / "app/printed.txt").read_text()]
        self.assertIn("version=1.2.3 banner=on", printed[0])
        self.assertEqual(len(set(printed)), 1, printed)

    def test_one_name_leads_to_both_platforms(self):
        raw = subprocess.run(
            ["skopeo", "inspect", "--raw", f"oci:{self.layout}:reader:latest"], check=True, capture_output=True
        ).stdout
        found = {it["platform"]["architecture"]: it["digest"] for it in json.loads(raw)["manifests"]}
        told = {it["platform"]: it["digest"] for it in self.run_.of("image")}
        self.assertEqual({name: told[f"linux/{name}"] for name in ("amd64", "arm64")}, found)
        self.assertEqual(len(told), 3, told)
        for architecture in found:
            shown = subprocess.run(
                ["skopeo", "inspect", "--override-arch", architecture, f"oci:{self.layout}:reader:latest"],
                check=True,
                capture_output=True,
            ).stdout
            self.assertEqual(json.loads(shown)["Architecture"], architecture)

    def test_what_is_linked_needs_no_newer_libc_than_the_base_and_names_no_folder(self):
        folder = self.repo / "dist/linux-arm64"
        for file in (folder / "lib/libgauge.so", folder / "bin/reader"):
            with self.subTest(file.name):
                self.assertIn(MACHINE, readelf("--file-header", file))
                needed = re.findall(r"\(NEEDED\).*\[(.*)\]", readelf("--dynamic", file))
                self.assertTrue(needed)
                self.assertEqual([name for name in needed if "/" in name], [])
                wanted = re.findall(r"GLIBC_(\d+)\.(\d+)", readelf("--version-info", file))
                self.assertLessEqual(max((int(major), int(minor)) for major, minor in wanted), FLOOR)

    def test_the_bytes_are_the_same_whatever_varies_around_them_and_nothing_is_made_twice(self):
        """All of it made anew with another path, home, user, umask, number of cores, clock, time zone and locale."""
        need("faketime", None if shutil.which("faketime") else "there is no `faketime`")
        both = f"linux/amd64,{PLATFORM}"
        again = self.images(self.repo, self.sandbox, "--platform", both, "--to", f"oci:{self.layout}-2")
        self.assertEqual((again.ran, again.summary["hosts_contacted"]), ([], []))
        elsewhere, sandbox = fixture("another path quite different"), Sandbox("cross-elsewhere")
        (sandbox.folder / "go").symlink_to(self.built.sandbox.folder / "go")
        varied = ["unshare", "--user", "--map-user=1234", "--map-group=1234", "taskset", "--cpu-list", "0"]
        varied += ["env", "NO_FAKE_STAT=1", "faketime", "-f", "+9d", "sh", "-c", 'umask 077; exec "$@"', "sh"]
        run = self.images(
            elsewhere,
            sandbox,
            "--platform",
            both,
            "--to",
            f"oci:{sandbox.folder}/layout",
            environment={"TZ": "Asia/Tokyo", "LC_ALL": "tr_TR.UTF-8", "CARGO_HOME": f"{sandbox.folder}/other cargo"},
            wrapper=varied,
        )
        compiled = [step for step in run.ran if step.startswith(("native-library:", "go-binary:", "image:"))]
        self.assertGreaterEqual(len(compiled), 6, run.ran)
        digests = [{it["platform"]: it["digest"] for it in made.of("image")} for made in (self.run_, run)]
        self.assertEqual((len(digests[0]), digests[0]), (3, digests[1]))

    def test_the_first_file_that_differs_is_named(self):
        repo, planted = fixture("cross-planted"), self.sandbox.folder / "planted"
        declaration = repo / "xtask.toml"
        text = declaration.read_text()
        self.assertEqual(text.count('to = "/app/printed.txt"'), 1)
        declaration.write_text(
            text.replace('to = "/app/printed.txt"', 'to = "/app/printed.txt", mode = "0640", owner = "7:8"')
        )
        self.images(repo, self.sandbox, "--platform", "linux/amd64", "--to", f"oci:{planted}")
        places = [f"oci:{it}:reader:latest" for it in (self.layout, planted)]
        same = xtask(ROOT, "images", "diff", places[0], places[0], sandbox=self.sandbox)
        self.assertEqual((same.exit_code, same.events[0]["differences"]), (0, []), same)
        run = xtask(ROOT, "images", "diff", *places, sandbox=self.sandbox)
        changes = ["app/printed.txt: mode 644 → 640", "app/printed.txt: owner 0:0 → 7:8"]
        self.assertEqual((run.exit_code, run.events[0]["differences"]), (9, changes), run)
        self.assertIn("the first is at app/printed.txt", run.stderr)

    def test_a_platform_without_zig_or_with_another_name_is_refused_with_the_way_out(self):
        repo = fixture("cross without zig")
        declaration = repo / "xtask.toml"
        text = declaration.read_text()
        start = text.index("[toolchain.zig]")
        declaration.write_text(text[:start] + text[text.index("[native-library.engine]") :])
        run = xtask(ROOT, "build", "--platform", PLATFORM, "--repo", repo, sandbox=self.sandbox)
        self.assertEqual(run.exit_code, 3, run)
        self.assertIn("error[XT0305]", run.stderr)
        self.assertIn("[toolchain.zig]", run.stderr)
        run = xtask(ROOT, "build", "--platform", "linux/riscv64", "--repo", repo, sandbox=self.sandbox)
        self.assertEqual(run.exit_code, 2, run)
        self.assertIn("linux/amd64, linux/arm64", run.stderr)


class Real(unittest.TestCase):
    def test_the_routers_image_for_arm64_answers_health(self):
        need_judges()
        first = first_build()
        repo, sandbox = checkout("cross-real"), Sandbox("cross-real")
        for name in ("go", "cargo"):
            (sandbox.folder / name).symlink_to(first.sandbox.folder / name)
        layout = sandbox.folder / "layout"
        arguments = ["images", "extproc", "--platform", PLATFORM, "--to", f"oci:{layout}", "--repo", repo]
        run = xtask(first.checkout, *arguments, sandbox=sandbox, environment=QUICK)
        self.assertEqual(run.exit_code, 0, run)
        root = unpacked(layout, "extproc:latest", sandbox.folder / "bundle")
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
            ports = [str(it.getsockname()[1]) for it in (one, two)]
        config = sandbox.folder / "config.yaml"
        config.write_text((root / "app/config/config.yaml").read_text())
        program = [str(root / "app/extproc-server"), "--config", str(config)]
        program += ["--listen-address", "127.0.0.1", "--api-port", ports[0], "--metrics-port", ports[1], "--port", "0"]
        with open(sandbox.folder / "router.log", "w") as log:
            argv = ["qemu-aarch64-static", "-L", str(root), *program]
            router = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log)  # The suite's model is there.
        try:
            started = time.monotonic()
            status = None
            while status is None and router.poll() is None and time.monotonic() - started < 120:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/health", timeout=5) as answer:
                        status = answer.status
                except OSError:
                    time.sleep(0.2)
            self.assertEqual(status, 200, (sandbox.folder / "router.log").read_text()[-3000:])
            tell(f"arm64 under qemu: healthy after {time.monotonic() - started:.1f} s")
        finally:
            router.terminate()
            router.wait(30)
