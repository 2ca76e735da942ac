"""Damage to what is stored, of every kind and to every object, is noticed by `cache verify` and by whoever wants the
result, set aside, and made again; where it cannot be made again the message says so."""

import os
import random
import unittest
from collections import Counter
from pathlib import Path

from rig import Models, Outcome, Rig, sha256
from support import flip, tell

FILES = 25
LEAST_CASES = 200
INTEGRITY, NETWORK = 5, 4
STEP = "model:many"


def replaced(path: Path, make) -> None:
    path.unlink()
    make()


def swapped(path: Path, other: Path) -> None:
    beside = path.with_name("beside")
    os.rename(path, beside)
    os.rename(other, path)
    os.rename(beside, other)


# Kind -> what it does to an object; `other` is another of the same result.
DAMAGES = {
    "bit flip": lambda path, _: flip(path),
    "truncated": lambda path, _: os.truncate(path, path.stat().st_size // 2),
    "zeros": lambda path, _: replaced(path, lambda: path.write_bytes(bytes(len(path.name)))),
    "swapped": swapped,
    "mode": lambda path, _: path.chmod(0o666),
    "link": lambda path, other: replaced(path, lambda: path.symlink_to(other)),
    "folder": lambda path, _: replaced(path, path.mkdir),
    "pipe": lambda path, _: replaced(path, lambda: os.mkfifo(path)),
    "gone": lambda path, _: path.unlink(),
}


class Verify(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.rig = Rig("verify")
        folder = cls.rig.repo / "many"
        folder.mkdir()
        pins = ""
        for number in range(FILES):
            file = folder / f"file-{number}"
            file.write_bytes(random.Random(number).randbytes(100 + 400 * number))
            pins += f'  {{ path = "{file.name}", sha256 = "{sha256(file)}", size-bytes = {file.stat().st_size} }},\n'
        with open(cls.rig.repo / "xtask.toml", "a") as file:
            file.write(
                '\n[model.many]\nsources = [{ directory = "many" }]\n'
                '\n[suite.many]\nabout = "Takes a model from a folder"\nmodels = ["many"]\n'
            )
        with open(cls.rig.repo / "xtask.lock", "a") as file:
            file.write(f"\n[model.many]\nfile = [\n{pins}]\n")
        run = cls.make()
        assert run.ran == [STEP], run
        cls.objects = sorted(cls.rig.store.glob("objects/*/*"))
        cls.whole = cls.rig.products()

    @classmethod
    def make(cls) -> Outcome:
        run = cls.rig.run("test", "many")
        assert run.exit_code == 0, run
        return run

    def set_aside(self, path: Path) -> bool:
        return any(path.name in it.name for it in self.rig.store.glob("quarantine/*"))

    def test_every_damage_to_every_object_is_noticed_set_aside_and_made_good(self):
        self.assertEqual(len(self.objects), FILES)
        counts = Counter()
        for kind, damage in DAMAGES.items():
            for number, path in enumerate(self.objects):
                # Half of the damages are met by a look at everything, half by a run that wants the result.
                looks = number % 2 == 0
                with self.subTest(kind=kind, object=path.name[:12], looks=looks):
                    self.rig.forget(self.rig.store / "quarantine", self.rig.repo / "models")
                    damage(path, self.objects[number - 1])
                    if looks:
                        self.noticed_by_a_look(kind, path)
                    run = self.make()
                    if kind == "mode":
                        self.assertEqual(run.ran, [], "a mode is no content")
                    else:
                        self.assertEqual(run.ran, [STEP], run)
                        self.assertIn(kind == "gone", (True, not self.set_aside(path)))
                    self.assertEqual(self.rig.torn(self.whole), [])
                    self.assertEqual(self.rig.products(), self.whole)
                    counts[kind] += 1
        tell(
            f"damaged objects: {sum(counts.values())} cases, "
            + ", ".join(f"{kind} {count}" for kind, count in counts.items())
        )
        self.assertGreaterEqual(sum(counts.values()), LEAST_CASES)

    def noticed_by_a_look(self, kind: str, path: Path) -> None:
        before = sorted(self.rig.sandbox.cache.rglob("*"))
        shown = self.rig.run("cache", "verify", "--dry-run")
        self.assertEqual(sorted(self.rig.sandbox.cache.rglob("*")), before)
        run = self.rig.run("cache", "verify")
        (event,) = run.of("verified")
        if kind == "mode":
            self.assertEqual((run.exit_code, path.stat().st_mode & 0o777), (0, 0o444), run)
            self.assertGreater(event["modes"], 0)
            return
        self.assertEqual((shown.exit_code, run.exit_code), (INTEGRITY, INTEGRITY), f"{shown}\n{run}")
        self.assertIn(str(path), [it["path"] for it in event["damages"]], run)
        self.assertEqual(self.rig.run("cache", "verify").exit_code, 0, "once set aside it is sound again")

    def test_offline_what_cannot_be_made_again_is_named(self):
        models = Models()
        self.addCleanup(models.close)
        rig = Rig("offline")
        models.declare(rig.repo)
        self.assertEqual((run := rig.run(*models.fetched)).exit_code, 0, run)
        (path,) = rig.store.glob(f"objects/*/{sha256(models.files['config.json'])}")
        flip(path)
        rig.forget(rig.downloads)
        run = rig.run(*models.fetched, "--offline")
        self.assertEqual(run.exit_code, NETWORK, run)
        for part in ("model:drawn", "config.json", "--offline"):
            self.assertIn(part, run.stderr)
        self.assertEqual(rig.torn(rig.products()), [])
        self.assertEqual((run := rig.run(*models.fetched)).exit_code, 0, run)


if __name__ == "__main__":
    unittest.main()
