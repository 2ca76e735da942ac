"""What was reported as done is there after the plug is pulled, and whole.

A power cut is the file system's own shutdown call on an image in memory: with the journal flushed, new names are there
and the data that nobody flushed is not; without, the names are missing too. What was never written stays lost.
"""

import fcntl
import os
import random
import shutil
import struct
import subprocess
import tempfile
import time
import unittest
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rig import LONG, SEED, Fault, Models, Operation, Rig
from support import FOLDER, fixture, need, tell

SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN; the argument is one of FLAGS."""
FLAGS = {"journal flushed": 1, "journal lost": 2}
ROUNDS = 10 if LONG else 1
LEAST_CUTS = 30 * ROUNDS
MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class FileSystem:
    name: str
    make: tuple[str, ...]
    size_bytes: int
    options: str = "defaults"


FILE_SYSTEMS = [
    FileSystem("ext4", ("mkfs.ext4", "-q"), 160 << 20),
    # Default ext4 flushes a file that is renamed over another; without that courtesy replacing is as hard as making.
    FileSystem("ext4 noauto_da_alloc", ("mkfs.ext4", "-q"), 160 << 20, "noauto_da_alloc"),
    FileSystem("xfs", ("mkfs.xfs", "-q"), 320 << 20),
]


def why_no_cuts() -> str | None:
    missing = [tool for tool in ("mkfs.ext4", "mkfs.xfs", "losetup", "mount") if not shutil.which(tool)]
    if missing:
        return f"there is no {', '.join(missing)}"
    if os.geteuid() != 0:
        return "only root may mount an image"
    trial = subprocess.run(["losetup", "--find"], capture_output=True, text=True)
    return None if trial.returncode == 0 else f"no loop device: {trial.stderr.strip()}"


class Machine:
    """A checkout and its caches on a file system in memory whose power can be cut."""

    def __init__(self, file_system: FileSystem, models: Models):
        self.file_system = file_system
        # Not below FOLDER: what is no longer mounted there is removed with it.
        self.folder = Path(tempfile.mkdtemp(prefix="xtask-power-", dir=MEMORY))
        self.mount_point = Path(tempfile.mkdtemp(prefix="power-", dir=FOLDER))
        self.base, self.image = self.folder / "base", self.folder / "image"
        with open(self.base, "wb") as file:
            file.truncate(file_system.size_bytes)
        subprocess.run([*file_system.make, self.base], check=True, capture_output=True)
        repo = self.mount_point / "repo"
        with self.powered(self.base):
            shutil.copytree(fixture("power"), repo, symlinks=True)
            models.declare(repo)
            self.rig = Rig("power", cache=self.mount_point / "cache", repo=repo)
            for operation in (LIBRARY, MODEL, FETCH):
                run = self.rig.run(*operation.arguments)
                assert run.exit_code == 0, run
            self.whole, self.trees = self.rig.products(), self.rig.trees()
            os.sync()

    def close(self) -> None:
        shutil.rmtree(self.folder)

    @contextmanager
    def powered(self, image: Path):
        options = f"loop,{self.file_system.options}"
        subprocess.run(["mount", "-o", options, image, self.mount_point], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", self.mount_point], check=True)

    def cut(self, flag: int) -> None:
        descriptor = os.open(self.mount_point, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", flag))
        finally:
            os.close(descriptor)


def forget_results(rig: Rig) -> None:
    rig.forget(rig.store, rig.repo / "dist", rig.repo / "models", rig.build / "last", rig.build / "placed")


LIBRARY = Operation("publish a library", ("build", "engine"), forget_results, ("dist/",))
MODEL = Operation("publish a model", Models.given, forget_results, ("models/copied/",))
FETCH = Operation(
    "fetch", Models.fetched, lambda rig: rig.forget(rig.sandbox.cache, rig.repo / "models"), ("models/drawn/",)
)
RESTORE = Operation("restore", ("build", "engine"), lambda rig: rig.forget(rig.repo / "dist"), ("dist/",))
COMPILE = Operation("compile and publish", ("build", "engine"), lambda rig: edit(rig), ("dist/",))
REPLACE = Operation("replace", Models.given, lambda rig: spoil(rig), ("models/copied/",))


def spoil(rig: Rig) -> None:
    """What is in place has other bytes, so that it is replaced: the case in which a file system may help."""
    for path in (rig.repo / "models/copied").rglob("*.*"):
        path.write_bytes(b"other")


def edit(rig: Rig) -> None:
    """Cargo has to write, and cargo flushes nothing: what it leaves is no better than the cut allows."""
    forget_results(rig)
    source = rig.repo / "engine/src/lib.rs"
    source.write_text(source.read_text() + "// Edited.\n")


class PowerCuts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need("power-cuts", why_no_cuts())
        cls.models = Models()
        cls.addClassCleanup(cls.models.close)
        cls.machines = []
        for file_system in FILE_SYSTEMS:
            cls.machines.append(machine := Machine(file_system, cls.models))
            cls.addClassCleanup(machine.close)

    def trial(self, machine: Machine, operation: Operation, flag: int, after_seconds=None, wrapper=()) -> bool:
        """One cut, after success or after a time; whether the operation had been acknowledged."""
        rig = machine.rig
        shutil.copy(machine.base, machine.image)
        with machine.powered(machine.image):
            operation.reset(rig)
            os.sync()
            if after_seconds is None:
                run = rig.run(*operation.arguments, wrapper=wrapper)
                self.assertEqual(run.exit_code, 0, run)
                acknowledged = True
            else:
                started = rig.start(*operation.arguments)
                time.sleep(after_seconds)
                acknowledged = started.process.poll() == 0
            machine.cut(flag)
            if after_seconds is not None:
                started.finish()
        with machine.powered(machine.image):
            self.assertEqual(rig.torn(machine.whole), [], "torn")
            if acknowledged:
                wanted = {path: digest for path, digest in machine.whole.items() if path.startswith(operation.makes)}
                have = rig.products()
                self.assertEqual({path: have.get(path) for path in wanted}, wanted, "acknowledged and missing")
            again = rig.run(*operation.arguments)
            self.assertEqual(again.exit_code, 0, again)
            if acknowledged:
                self.assertEqual(again.ran, [], "acknowledged and made again")
            self.assertEqual(rig.torn(machine.whole), [], "torn after the next run")
        return acknowledged

    def test_what_was_reported_as_done_survives_a_cut_right_after(self):
        counts, wrong = Counter(), []
        for _ in range(ROUNDS):
            for machine in self.machines:
                for name, flag in FLAGS.items():
                    for operation in (LIBRARY, MODEL, FETCH, RESTORE, REPLACE):
                        counts[machine.file_system.name] += 1
                        try:
                            self.trial(machine, operation, flag)
                        except AssertionError as error:
                            wrong.append(f"{machine.file_system.name}, {name}, {operation.name}: {error}")
        tell("power cuts after success: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
        self.assertEqual(len(wrong), 0, "\n".join(wrong))
        self.assertGreaterEqual(sum(counts.values()), LEAST_CUTS)

    def test_without_flushing_the_same_cuts_lose_results(self):
        """The measure of this file: were the tool's flushes gone, these tests would say so on every file system."""
        fault = Fault(("--pretend",), program="", calls=("fsync", "fdatasync", "syncfs"), everywhere=True)
        counts = Counter()
        for machine in self.machines:
            wrapper = machine.rig.injected(fault, machine.folder / "injected")
            for flag in FLAGS.values():
                for operation in (MODEL, FETCH):
                    try:
                        self.trial(machine, operation, flag, wrapper=wrapper)
                        counts["kept"] += 1
                    except AssertionError:
                        counts["lost"] += 1
        tell(f"power cuts without flushes: {dict(counts)}")
        self.assertEqual(counts["kept"], 0)

    def test_a_cut_in_the_middle_tears_nothing(self):
        moments, counts, wrong = random.Random(SEED), Counter(), []
        for _ in range(2 * ROUNDS):
            for machine in self.machines:
                for name, flag in FLAGS.items():
                    for operation, seconds in ((LIBRARY, 0.3), (COMPILE, 1.2), (FETCH, 0.4)):
                        try:
                            acknowledged = self.trial(machine, operation, flag, moments.uniform(0.02, seconds))
                            counts["after the end" if acknowledged else "in the middle"] += 1
                        except AssertionError as error:
                            wrong.append(f"{machine.file_system.name}, {name}, {operation.name}: {error}")
        tell(f"power cuts at random times (seed {SEED}): {dict(counts)}")
        self.assertEqual(len(wrong), 0, "\n".join(wrong))
        self.assertGreater(counts["in the middle"], 0)


if __name__ == "__main__":
    unittest.main()
