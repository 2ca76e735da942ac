"""Layers in zstd: by whom they are read, what stays the same, what moves the digest."""

import hashlib
import json
import subprocess
import tempfile
import unittest
from pathlib import Path

from support import FOLDER, ROOT, Sandbox, need, xtask
from test_push import why_no_registry

DECLARED = """project.name = "demo"
[image.app]
entrypoint = ["/app/start"]
user = "1:1"
{image}
[[image.app.layer]]
name = "text"
files = [{{ from = {{ path = "text" }}, to = "/app/text" }}]
{layer}
[[image.app.layer]]
name = "more"
files = [{{ from = {{ path = "more" }}, to = "/app/more" }}]
"""
GZIP, ZSTD = (f"application/vnd.oci.image.layer.v1.tar+{codec}" for codec in ("gzip", "zstd"))


class Codecs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need("registry", why_no_registry())
        cls.sandbox = Sandbox("codecs")

    def made(self, image: str = "", layer: str = "", sandbox: Sandbox | None = None) -> tuple[dict, Path]:
        folder = Path(tempfile.mkdtemp(prefix="codecs-", dir=FOLDER))
        (folder / "xtask.toml").write_text(DECLARED.format(image=image, layer=layer))
        for name in ("text", "more"):
            (folder / name).write_text("".join(f"{name} {number * number}\n" for number in range(40_000)))
        run = xtask(ROOT, "images", "--repo", folder, "--to", f"oci:{folder / 'out'}", sandbox=sandbox or self.sandbox)
        self.assertEqual(run.exit_code, 0, run)
        return run.of("image")[0], folder / "out"

    def test_zstd_is_for_whom_it_is_declared_and_the_tars_stay_what_they_are(self):
        gzip, _ = self.made()
        cases = {
            ('codec = "zstd"', ""): [ZSTD, ZSTD],
            ("", 'codec = "zstd-9"'): [ZSTD, GZIP],
            ('codec = "zstd"', 'codec = "gzip-9"'): [GZIP, ZSTD],
        }
        digests = {gzip["digest"]}
        for (image, layer), media_types in cases.items():
            told, layout = self.made(image, layer)
            self.assertEqual([it["media_type"] for it in told["layers"]], media_types)
            self.assertEqual(*([it["diff_id"] for it in made["layers"]] for made in (gzip, told)))
            digests.add(told["digest"])
            for blob in told["layers"]:
                start = (layout / "blobs/sha256" / blob["digest"][7:]).read_bytes()[:4]
                self.assertEqual(start == b"\x28\xb5\x2f\xfd", blob["media_type"] == ZSTD)
        self.assertEqual(len(digests), 4)

    def test_another_user_gets_the_same_bytes_and_others_read_them(self):
        told, layout = self.made('codec = "zstd"')
        again, _ = self.made('codec = "zstd"', sandbox=Sandbox("codecs-other"))
        self.assertEqual(told["digest"], again["digest"])
        copied = layout.parent / "copied"
        argv = ["skopeo", "--insecure-policy", "copy", f"oci:{layout}:app:latest", f"oci:{copied}:x"]
        subprocess.run(argv, check=True, capture_output=True)
        (manifest,) = json.loads((copied / "index.json").read_text())["manifests"]
        self.assertEqual(manifest["digest"], told["digest"])
        # Debian's umoci knows no zstd.
        plain = layout.parent / "plain"
        unpack = [
            "skopeo",
            "--insecure-policy",
            "copy",
            "--dest-decompress",
            f"oci:{layout}:app:latest",
            f"dir:{plain}",
        ]
        subprocess.run(unpack, check=True, capture_output=True)
        tars = {f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}" for file in plain.iterdir()}
        self.assertLessEqual({it["diff_id"] for it in told["layers"]}, tars)


if __name__ == "__main__":
    unittest.main()
