"""Full, failing and read-only disks: an own exit code and a message with the path, nothing half-made under a final
name, nothing left behind, and the next run works once the disk does."""

import errno
import os
import re
import subprocess
import tempfile
import time
import unittest
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from rig import LONG, WORKERS, Fault, Models, Operation, Outcome, Rig, Wrong, exhaust, injector, side_by_side
from support import FOLDER, need, tell

DISK = 6
LEAST_POINTS = 200
WRITES = ("write", "pwrite64", "writev", "copy_file_range", "sendfile", "ftruncate", "fallocate")
NAMES = (
    "openat",
    "open",
    "mkdir",
    "mkdirat",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
)
REMOVALS = ("unlink", "unlinkat", "rmdir")
MODES = ("chmod", "fchmod", "fchmodat")
FLUSHES = ("fsync", "fdatasync", "syncfs")
ERRORS = {
    # What fails so, and nothing else does: a full disk still removes, a read-only one has nothing open for writing.
    errno.ENOSPC: (*WRITES, *NAMES, *FLUSHES),
    errno.EDQUOT: (*WRITES, *NAMES),
    errno.EIO: (*WRITES, *NAMES, *MODES, *FLUSHES),
    errno.EROFS: (*NAMES, *REMOVALS, *MODES),
}

NOTES = re.compile(r"(stat-index\.json|\.stats\.json|last-gc|uses)$")


def forget_results(rig: Rig) -> None:
    books = (rig.build / name for name in ("last", "link", "placed"))
    rig.forget(rig.sandbox.cache, rig.repo / "dist", rig.repo / "models", *books)


LIBRARY = Operation("publish a library", ("build", "engine"), forget_results, ("dist/",))
MODEL = Operation("publish a model", Models.given, forget_results, ("models/copied/",))
FETCH = Operation("fetch", Models.fetched, forget_results, ("models/drawn/",))
RESTORE = Operation("restore", ("build", "engine"), lambda rig: rig.forget(rig.repo / "dist"), ("dist/",))
GC = Operation("gc", ("cache", "gc", "--max-size", "0"), lambda rig: rig.restore())


def failed_flushes(run: Outcome) -> list[str]:
    """Those of results: a note that only saves work may be lost. A folder is flushed for what was renamed into it."""
    flushed = [at for at in run.struck_at if run.calls[at].split()[0] in FLUSHES]
    return [
        run.calls[at] for at in flushed if not any(NOTES.search(call) for call in run.calls[max(0, at - 1) : at + 1])
    ]


class FailingCalls(unittest.TestCase):
    points: Counter = Counter()

    @classmethod
    def setUpClass(cls):
        injector()
        cls.models = Models()
        cls.addClassCleanup(cls.models.close)
        cls.rigs = [Rig("disk") for _ in range(WORKERS)]
        side_by_side(cls.rigs, cls.prepare)
        cls.whole = cls.rigs[0].products()

    @classmethod
    def prepare(cls, rig: Rig) -> None:
        cls.models.declare(rig.repo)
        for operation in (LIBRARY, MODEL, FETCH):
            operation.reset(rig)
            run = rig.run(*operation.arguments)
            assert run.exit_code == 0, run
        for operation in (LIBRARY, MODEL):
            assert rig.run(*operation.arguments).exit_code == 0
        rig.save()

    def setUp(self):
        self.wrong = Wrong()

    def failed_everywhere(self, operation: Operation, number: int, onwards: bool, program: str = "conductor") -> None:
        name, calls, outcomes = errno.errorcode[number], ERRORS[number], Counter()

        def trial(rig: Rig, at: int) -> bool:
            if operation is not GC:
                rig.restore()
            operation.reset(rig)
            run = rig.hurt(Fault(("--errno", str(number)), at, onwards, program, calls), *operation.arguments)
            if not run.struck:
                self.assertEqual(run.exit_code, 0, run)
                return False
            with self.wrong.of(run):
                outcomes[run.exit_code] += 1
                self.clean_failure_or_success(rig, operation, run, number)
            return True

        start = time.monotonic()
        count = exhaust(self.rigs, trial)
        self.points[name] += count
        tell(
            f"disk errors: {name} {'from the n-th on' if onwards else 'once'}, {operation.name} ({program}): {count} "
            f"points, exit codes {dict(outcomes)}, {time.monotonic() - start:.0f} s"
        )

    def clean_failure_or_success(self, rig: Rig, operation: Operation, run, number: int) -> None:
        self.assertIn(run.exit_code, (0, DISK))
        if run.exit_code:
            self.assertRegex(run.stderr, r"error\[XT\d+\]: ")
            self.assertIn(os.strerror(number).lower(), run.stderr.lower())
            self.assertRegex(run.stderr, rf"({re.escape(str(rig.sandbox.cache))}|{re.escape(str(rig.repo))})")
        if run.exit_code == 0:
            self.assertEqual(failed_flushes(run), [], "a failed flush became a success")
        if run.exit_code == 0:
            self.assertLessEqual(self.wanted(operation), rig.products().keys())
        self.assertEqual(rig.torn(self.whole), [])
        again = rig.run(*operation.arguments)
        self.assertEqual(again.exit_code, 0, again)
        self.assertLessEqual(self.wanted(operation), rig.products().keys())
        self.assertEqual(rig.torn(self.whole), [])
        self.assertEqual(rig.tidied(), [])

    def wanted(self, operation: Operation) -> set[str]:
        return {path for path in self.whole if operation.makes and path.startswith(operation.makes)}

    def test_every_call_fails_once_and_from_then_on(self):
        for number, onwards in ((errno.ENOSPC, False), (errno.ENOSPC, True), (errno.EIO, False), (errno.EROFS, True)):
            self.failed_everywhere(MODEL, number, onwards)
        self.failed_everywhere(RESTORE, errno.ENOSPC, False)
        self.failed_everywhere(GC, errno.EIO, False)
        self.failed_everywhere(FETCH, errno.EIO, True, "gateway")
        if LONG:
            for number in ERRORS:
                for onwards in (False, True):
                    for operation in (LIBRARY, MODEL, FETCH, RESTORE, GC):
                        self.failed_everywhere(operation, number, onwards)
                    self.failed_everywhere(FETCH, number, onwards, "gateway")
        total = sum(self.points.values())
        tell(
            "disk errors: " + ", ".join(f"{name} {count}" for name, count in self.points.items()) + f"; {total} in all"
        )
        self.wrong.check(self)
        self.assertGreaterEqual(total, LEAST_POINTS)


class SmallDisks(unittest.TestCase):
    """Real file systems without room, for the caches or for the checkout's results."""

    @classmethod
    def setUpClass(cls):
        need("power-cuts", None if os.geteuid() == 0 else "only root may mount a file system")
        cls.models = Models()
        cls.addClassCleanup(cls.models.close)
        cls.rig = Rig("small")
        cls.models.declare(cls.rig.repo)
        run = cls.rig.run(*MODEL.arguments)
        assert run.exit_code == 0, run
        cls.whole = cls.rig.products()

    @contextmanager
    def mounted(self, *words: str, at: Path):
        at.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", *words, at], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", at], check=True)

    def until_it_fits(self, options: str, steps: list[int], grow: str) -> tuple[int, int]:
        """Runs with each size of cache, smallest first, then gives it room; how many failed, how many went well."""
        failed = fitted = 0
        cache = self.rig.sandbox.cache
        for size in steps:
            forget_results(self.rig)
            with self.subTest(options=options, size=size):
                with self.mounted("-t", "tmpfs", "-o", f"{options}={size}", "cache", at=cache):
                    run = self.rig.run(*MODEL.arguments)
                    if run.exit_code == 0:
                        fitted += 1
                        continue
                    failed += 1
                    self.assertEqual(run.exit_code, DISK, run)
                    self.assertIn("No space left on device", run.stderr)
                    self.assertIn(str(cache), run.stderr)
                    self.assertRegex(run.stderr, r"hint: .*(free|inodes|files)")
                    self.assertEqual(self.rig.torn(self.whole), [])
                    subprocess.run(["mount", "-o", f"remount,{grow}", cache], check=True)
                    again = self.rig.run(*MODEL.arguments)
                    self.assertEqual(again.exit_code, 0, again)
                    self.assertEqual(self.rig.torn(self.whole), [])
                    self.assertEqual(self.rig.tidied(), [])
        return failed, fitted

    def test_sizes_and_inodes_that_do_not_suffice(self):
        pages = self.until_it_fits("size", [page << 12 for page in range(1, 121, 1 if LONG else 6)], "size=64m")
        inodes = self.until_it_fits("nr_inodes", list(range(2, 32, 1 if LONG else 2)), "nr_inodes=4096")
        tell(
            f"small disks: sizes {pages[0]} too small, {pages[1]} enough; "
            f"inodes {inodes[0]} too few, {inodes[1]} enough"
        )
        self.assertGreater(min(*pages, *inodes), 0)

    def test_a_disk_that_says_only_at_the_flush_that_it_is_full(self):
        """An image on a full file system takes every write; what tells is the flush."""
        outer = Path(tempfile.mkdtemp(prefix="outer-", dir=FOLDER))
        forget_results(self.rig)
        with self.mounted("-t", "tmpfs", "-o", "size=24m", "outer", at=outer):
            image, filler = outer / "image", outer / "filler"
            with open(image, "wb") as file:
                file.truncate(64 << 20)
            subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,nodiscard", image], check=True)
            with self.mounted("-o", "loop", image, at=self.rig.sandbox.cache):
                os.sync()
                self.fill(filler)
                run = self.rig.run(*MODEL.arguments)
                self.assertEqual(run.exit_code, DISK, run)
                self.assertIn(str(self.rig.sandbox.cache), run.stderr)
                filler.unlink()
        tell(f"late errors: exit {run.exit_code}, {run.stderr.splitlines()[-1]}")

    def fill(self, filler: Path) -> None:
        with open(filler, "wb", buffering=0) as file:
            try:
                while file.write(bytes(1 << 16)):
                    pass
            except OSError as error:
                self.assertEqual(error.errno, errno.ENOSPC)


if __name__ == "__main__":
    unittest.main()
