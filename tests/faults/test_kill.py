"""Whatever is killed, at whichever call: final names hold whole bytes, and the next run needs no manual step."""

import random
import time
import unittest
from collections import Counter

from rig import LONG, SEED, WORKERS, Fault, Models, Operation, Rig, Wrong, exhaust, injector, side_by_side
from support import tell

LEAST_POINTS = 500
RANDOM_KILLS = 200 if LONG else 16
"""Of each: the conductor alone, and its group."""
COMPILED = ("native-library:", "go-binary:")
ORPHANS_SECONDS = 10
"""A compiler that lost its parent may finish the file that it is at."""


def forget_results(rig: Rig) -> None:
    books = (rig.build / name for name in ("last", "link", "placed"))
    rig.forget(rig.store, rig.repo / "dist", rig.repo / "models", *books)


def forget_fetched(rig: Rig) -> None:
    rig.forget(rig.sandbox.cache, rig.repo / "models")


BUILD = Operation("build", ("build",), forget_results, ("dist/bin/", "dist/lib/"))
LIBRARY = Operation("publish a library", ("build", "engine"), forget_results, ("dist/lib/",))
MODEL = Operation("publish a model", Models.given, forget_results, ("models/copied/",))
RESTORE = Operation("restore", ("build",), lambda rig: rig.forget(rig.repo / "dist"), BUILD.makes)
FETCH = Operation("fetch", Models.fetched, forget_fetched, ("models/drawn/",))

LAYOUT = Operation("write a layout", ("images",), lambda rig: rig.forget(rig.repo / "dist"), ("dist/images/",))


def forget_images(rig: Rig) -> None:
    """Keeps what is compiled and what was downloaded."""
    rig.forget(rig.repo / "dist")
    rig.forget(*(rig.store / "entries" / it["key"] for it in rig.entries() if not it["step"].startswith(COMPILED)))


IMAGE = Operation("make an image", ("images",), forget_images, ("dist/images/",))


def restore_everything(rig: Rig) -> None:
    rig.restore()
    for command in (("build",), Models.given):
        run = rig.run(*command)
        assert run.exit_code == 0, run


GC = Operation("gc", ("cache", "gc", "--max-size", "0"), lambda rig: rig.restore(), then=Models.given)
CLEAN = Operation("clean", ("clean",), restore_everything, then=Models.given)
CLEAN_ALL = Operation("clean", ("clean", "--all"), restore_everything, then=Models.given)


class Kill(unittest.TestCase):
    points: Counter = Counter()

    @classmethod
    def setUpClass(cls):
        injector()
        cls.models = Models()
        cls.addClassCleanup(cls.models.close)
        cls.rigs = [Rig("kill") for _ in range(WORKERS)]
        side_by_side(cls.rigs, cls.prepare)
        cls.whole = cls.rigs[0].products()

    @classmethod
    def prepare(cls, rig: Rig) -> None:
        cls.models.declare(rig.repo)
        for operation in (BUILD, MODEL, FETCH, LAYOUT):
            run = rig.run(*operation.arguments)
            assert run.exit_code == 0, run
        rig.save()

    def setUp(self):
        self.wrong = Wrong()

    def killed_everywhere(self, operation: Operation, mode: str, program: str = "conductor") -> None:
        def trial(rig: Rig, at: int) -> bool:
            operation.reset(rig)
            run = rig.hurt(Fault(("--kill", mode), at, program=program), *operation.arguments)
            if not run.struck:
                self.assertEqual(run.exit_code, 0, run)
                return False
            with self.wrong.of(run):
                self.assertNotEqual(run.exit_code, 0)
                self.sound_and_whole_again(rig, operation)
            return True

        start = time.monotonic()
        count = exhaust(self.rigs, trial)
        self.points[operation.name] += count
        tell(f"kill points: {operation.name}, {program} killed ({mode}): {count} in {time.monotonic() - start:.0f} s")
        self.assertGreater(count, 10)

    def sound_and_whole_again(self, rig: Rig, operation: Operation) -> None:
        self.assertEqual(rig.torn(self.whole), [])
        self.assertEqual((again := rig.run(*operation.arguments)).exit_code, 0, again)
        self.assertEqual(rig.torn(self.whole), [])
        if operation is GC:
            self.assertEqual(rig.entries(), [])
        if operation in (CLEAN, CLEAN_ALL):
            self.assertEqual(rig.products(), {})
        if operation is CLEAN_ALL:
            self.assertFalse(rig.sandbox.cache.exists())
        if operation.then:
            self.assertEqual((then := rig.run(*operation.then)).exit_code, 0, then)
            self.assertEqual(rig.torn(self.whole), [])
        self.assertLessEqual({path for path in self.whole if path.startswith(operation.makes)}, rig.products().keys())
        self.assertEqual(rig.tidied(), [])

    def test_publish_killed_at_every_call(self):
        self.killed_everywhere(LIBRARY, "group")
        self.killed_everywhere(MODEL, "process")
        if LONG:
            self.killed_everywhere(LIBRARY, "process")
            self.killed_everywhere(MODEL, "group")
            self.killed_everywhere(BUILD, "group")
            self.killed_everywhere(BUILD, "process")
        self.wrong.check(self)

    def test_restore_killed_at_every_call(self):
        for mode in ("process", "group"):
            self.killed_everywhere(RESTORE, mode)
        self.wrong.check(self)

    def test_images_killed_at_every_call(self):
        self.killed_everywhere(LAYOUT, "process")
        if LONG:
            self.killed_everywhere(IMAGE, "process")
        self.wrong.check(self)

    def test_gc_and_clean_killed_at_every_call(self):
        for operation in (GC, CLEAN, CLEAN_ALL):
            self.killed_everywhere(operation, "process")
        self.wrong.check(self)

    def test_fetch_killed_at_every_call(self):
        self.killed_everywhere(FETCH, "process", "gateway")
        self.killed_everywhere(FETCH, "process")
        if LONG:
            self.killed_everywhere(FETCH, "group")
        self.wrong.check(self)

    def test_orphans_of_a_conductor_killed_at_any_time_publish_nothing_by_themselves(self):
        moments = random.Random(SEED)
        seconds = []
        for rig in self.rigs:
            forget_results(rig)
            seconds.append(rig.run("build").seconds)
        outcomes = Counter()

        def work(rig: Rig) -> None:
            for kill in range(2 * RANDOM_KILLS // len(self.rigs)):
                forget_results(rig)
                # Something to compile, so that there are orphans.
                source = rig.repo / "engine/src/lib.rs"
                source.write_text(source.read_text() + f"// {kill}\n")
                started = rig.start("build")
                time.sleep(moments.uniform(0.1, 1.1) * max(seconds))
                if kill % 2:
                    started.process.kill()
                else:
                    started.kill_group()
                run = started.finish()
                held = {path: path.stat().st_mtime_ns for path in rig.store.rglob("*")}
                deadline = time.monotonic() + ORPHANS_SECONDS
                while left := rig.sandbox.processes():
                    self.assertLess(time.monotonic(), deadline, left)
                    time.sleep(0.02)
                self.assertEqual({path: path.stat().st_mtime_ns for path in rig.store.rglob("*")}, held, run)
                outcomes["ended before" if run.exit_code == 0 else "killed"] += 1
                self.sound_and_whole_again(rig, BUILD)

        side_by_side(self.rigs, work)
        tell(f"kills at random times (seed {SEED}): {dict(outcomes)}")
        self.assertGreaterEqual(outcomes["killed"], RANDOM_KILLS)

    def test_zz_no_operation_was_left_out(self):
        """Runs last: what the others counted, against what a silent drop would leave."""
        total = sum(self.points.values())
        tell(
            "kill points: " + ", ".join(f"{name} {count}" for name, count in self.points.items()) + f"; {total} in all"
        )
        self.assertGreaterEqual(total, LEAST_POINTS)


if __name__ == "__main__":
    unittest.main()
