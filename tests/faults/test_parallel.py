"""Any number of processes at once: one making of each key, right bytes, no hang. Locks only save work: bytes are right
without them. Whoever waits says for whom, and not for ever."""

import json
import os
import random
import signal
import threading
import time
import unittest
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from rig import LONG, SEED, Fault, Outcome, Rig, injector, launch_environment
from support import FOLDER, tell

PROCESSES = 16
ROUNDS = 250 if LONG else 25
VARIANTS = 4
GC_ROUNDS = 500 if LONG else 50
LOCKLESS_ROUNDS = 50 if LONG else 8
STEP = "native-library:engine"

# What is promised to whoever waits.
MESSAGE_SECONDS, RELEASE_SECONDS, INTERRUPT_SECONDS = 2.0, 1.0, 0.2


class Crowd(unittest.TestCase):
    """Checkouts of one user, each with cargo's part warm, in VARIANTS of the library."""

    @classmethod
    def setUpClass(cls):
        injector()
        first = Rig("crowd")
        cls.rigs = [first, *(Rig("crowd", cache=first.sandbox.cache) for _ in range(PROCESSES - 1))]
        for number, rig in enumerate(cls.rigs):
            source = rig.repo / "engine/src/lib.rs"
            # In the bytes of the library, so that another variant's result would show.
            variant = f"\n#[no_mangle]\npub static VARIANT: u32 = {number % VARIANTS};\n"
            source.write_text(source.read_text() + variant)
        with ThreadPoolExecutor(2) as pool:
            runs = list(pool.map(lambda rig: rig.run("build", "engine"), cls.rigs))
        assert all(run.exit_code == 0 for run in runs), "\n".join(map(str, runs))
        cls.whole = [rig.products() for rig in cls.rigs]
        assert len({str(products) for products in cls.whole}) == VARIANTS, cls.whole

    def round(self, numbers: list[int], wrapper=lambda rig: ()) -> list[Outcome]:
        """A run in each of these checkouts, all started at once; what they left is checked."""
        started = [self.rigs[number].start("build", "engine", wrapper=wrapper(self.rigs[number])) for number in numbers]
        runs = [it.finish() for it in started]
        for number, run in zip(numbers, runs, strict=True):
            self.assertEqual(run.exit_code, 0, run)
            self.assertEqual(self.rigs[number].products(), self.whole[number], run)
        return runs

    def forget_places(self) -> None:
        for rig in self.rigs:
            rig.forget(rig.repo / "dist")

    def torn(self) -> list[str]:
        return [problem for rig, whole in zip(self.rigs, self.whole, strict=True) for problem in rig.torn(whole)]

    def test_sixteen_at_once_make_each_key_once(self):
        chance, made, expected = random.Random(SEED), 0, 0
        one_key = [number for number in range(PROCESSES) if number % VARIANTS == 0]
        start = time.monotonic()
        for turn in range(ROUNDS):
            self.forget_places()
            # Either all want one key, some in one checkout, or the keys are several; the store knows none, or some.
            numbers = chance.choices(one_key, k=PROCESSES) if turn % 2 else list(range(PROCESSES))
            if chance.random() < 0.7:
                self.rigs[0].forget(self.rigs[0].store)
            known = {entry["key"] for entry in self.rigs[0].entries()}
            runs = self.round(numbers)
            keys = {it["key"] for run in runs for it in run.of("step") if it["id"] == STEP and it["state"] == "done"}
            made += sum(run.ran.count(STEP) for run in runs)
            expected += len(keys - known)
            self.assertEqual(made, expected, f"round {turn} of seed {SEED}")
        self.assertEqual(self.torn(), [])
        self.assertGreater(expected, ROUNDS)
        seconds = time.monotonic() - start
        tell(
            f"parallel (seed {SEED}): {PROCESSES} processes x {ROUNDS} rounds, "
            f"{made} made of {expected} keys, {seconds:.0f} s"
        )

    def test_collecting_and_cleaning_beside_them_takes_nothing_in_use(self):
        """`gc` removes all that it may and `clean` a whole checkout, again and again, while builds come and go."""
        chance, counts, over = random.Random(SEED), Counter(), threading.Event()
        spare = Rig("spare", cache=self.rigs[0].sandbox.cache)

        def collect() -> None:
            while not over.is_set():
                run = spare.run("cache", "gc", "--max-size", "0")
                counts["gc" if run.exit_code == 0 else str(run)] += 1
                counts["removed"] += sum(it["removed"] for it in run.of("collected"))
                over.wait(0.1)

        def build_and_clean() -> None:
            while not over.is_set():
                for command in (("build", "engine"), ("clean",)):
                    run = spare.run(*command)
                    counts[command[0] if run.exit_code == 0 else str(run)] += 1

        with ThreadPoolExecutor(2) as pool:
            others = [pool.submit(collect), pool.submit(build_and_clean)]
            try:
                for _ in range(GC_ROUNDS):
                    self.forget_places()
                    self.round(chance.sample(range(PROCESSES), PROCESSES))
            finally:
                over.set()
            for other in others:
                other.result()
        self.assertEqual(self.torn(), [])
        # The store is whole to the last: what its entries refer to is there, and the next collection leaves nothing.
        self.assertEqual((run := spare.run("cache", "gc", "--max-size", "0")).exit_code, 0, run)
        self.assertEqual((spare.entries(), list(spare.store.glob("objects/*/*"))), ([], []))
        tell(
            f"parallel with gc and clean (seed {SEED}): {PROCESSES} processes x {GC_ROUNDS} rounds "
            f"beside {dict(counts)}"
        )
        self.assertLessEqual(counts.keys(), {"gc", "build", "clean", "removed"})
        self.assertGreater(counts["removed"], 0)

    def test_where_locks_do_nothing_bytes_are_right_all_the_same(self):
        report = FOLDER / "lockless"
        fault = Fault(("--pretend",), calls=("flock",), everywhere=True)
        made = keys = 0
        for turn in range(LOCKLESS_ROUNDS):
            self.forget_places()
            self.rigs[0].forget(self.rigs[0].store)
            numbers = [4 * (number % 4) for number in range(PROCESSES)] if turn % 2 else list(range(PROCESSES))
            runs = self.round(numbers, lambda rig: rig.injected(fault, report.with_suffix(f".{rig.repo.name}")))
            keys += 1 if turn % 2 else VARIANTS
            made += sum(run.ran.count(STEP) for run in runs)
        self.assertEqual(self.torn(), [])
        self.assertGreater(made, keys, "nothing was made twice: the locks did work")
        tell(
            f"without locks: {PROCESSES} processes x {LOCKLESS_ROUNDS} rounds, "
            f"{made} made of {keys} keys, 0 wrong bytes"
        )


class Waiting(unittest.TestCase):
    """A process that makes a key for as long as it is let, and a second that wants the same."""

    def setUp(self):
        self.holder = Rig("holder")
        self.waiter = Rig("waiter", cache=self.holder.sandbox.cache)
        for rig in (self.holder, self.waiter):  # Cargo's part warm, so that seconds are those of the waiting.
            self.assertEqual((run := rig.run("build", "engine")).exit_code, 0, run)
        for rig in (self.holder, self.waiter):
            rig.forget(rig.store, rig.repo / "dist", rig.build / "logs")
        self.addCleanup(self.let_go)

    def hold(self) -> None:
        """Starts a build whose compiler does not come back before `let_go`."""
        gate, cargo = self.holder.sandbox.folder / "gate", self.holder.sandbox.folder / "bin/cargo"
        os.mkfifo(gate)
        cargo.parent.mkdir()
        real = launch_environment()["CARGO"]
        cargo.write_text(f'#!/bin/sh\ncase "$1" in rustc) read line <{gate} ;; esac\nexec {real} "$@"\n')
        cargo.chmod(0o755)
        self.held = self.holder.start("build", "engine", environment={"CARGO": str(cargo)})
        self.eventually(
            lambda: "cargo rustc " in "".join(log.read_text() for log in self.logs()), "the compiler's start"
        )

    def logs(self):
        return (self.holder.build / "logs").glob("*/native-library-engine.log")

    def let_go(self) -> None:
        self.held.process.kill()
        self.held.finish()

    def eventually(self, condition, what: str, timeout_seconds: float = 20) -> float:
        start = time.monotonic()
        while not condition():
            self.assertLess(time.monotonic() - start, timeout_seconds, what)
            time.sleep(0.01)
        return time.monotonic() - start

    def test_a_waiter_says_for_whom_and_goes_on_when_the_holder_is_killed(self):
        self.hold()
        waiter = self.waiter.start("build", "engine")
        said = self.eventually(lambda: any(it["event"] == "waiting" for it in waiter.events()), "a word about waiting")
        (event,) = (it for it in waiter.events() if it["event"] == "waiting")
        self.assertLess(said, MESSAGE_SECONDS)
        for part in (str(self.held.process.pid), "build engine", r"for \d+ s"):
            self.assertRegex(json.dumps(event), part)
        alone = self.holder_free_seconds()
        killed = time.monotonic()
        self.held.process.kill()
        run = waiter.finish()
        took = time.monotonic() - killed
        self.assertEqual((run.exit_code, run.ran.count(STEP)), (0, 1), run)
        self.assertLess(took - alone, RELEASE_SECONDS)
        tell(f"waiting: said so after {said:.1f} s, went on {max(0, took - alone):.2f} s after the holder was killed")

    def holder_free_seconds(self) -> float:
        """How long the waiter's own work takes, from a store of its own."""
        rig = Rig("alone", repo=self.waiter.repo)
        return rig.run("build", "engine").seconds

    def test_the_limit_ends_the_waiting_with_its_own_exit_code(self):
        self.hold()
        run = self.waiter.run("build", "engine", environment={"XTASK_LOCK_TIMEOUT": "2"})
        self.assertEqual(run.exit_code, 7, run)
        self.assertTrue(2 <= run.seconds < 3, run)
        self.assertIn(str(self.held.process.pid), run.stderr)
        self.assertIn("XTASK_LOCK_TIMEOUT", run.stderr)

    def test_ctrl_c_ends_the_waiting_at_once(self):
        self.hold()
        waiter = self.waiter.start("build", "engine")
        self.eventually(lambda: any(it["event"] == "waiting" for it in waiter.events()), "a word about waiting")
        start = time.monotonic()
        waiter.process.send_signal(signal.SIGINT)
        run = waiter.finish()
        took = time.monotonic() - start
        self.assertEqual(run.exit_code, 130, run)
        self.assertLess(took, INTERRUPT_SECONDS)
        tell(f"waiting: Ctrl-C ended it after {1000 * took:.0f} ms")


if __name__ == "__main__":
    unittest.main()
