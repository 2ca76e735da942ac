"""Clocks may lie: results are the same, found again, and collected in the order of their use."""

import shutil
import unittest

from rig import Models, Rig
from support import need, tell

YEARS = ("-10y", "+10y")
RESULTS = {("build", "engine"): "native-library:engine", Models.given: "model:copied"}
"""Command -> what it makes, oldest use first."""


def at(clock: str) -> tuple[str, ...]:
    """The wrapper of a run whose clock is wrong; the times of files stay what they are."""
    return ("env", "NO_FAKE_STAT=1", "faketime", "-f", clock)


class Clocks(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need("faketime", None if shutil.which("faketime") else "there is no `faketime`")
        cls.models = Models()
        cls.addClassCleanup(cls.models.close)
        cls.rig = Rig("clock")
        cls.models.declare(cls.rig.repo)

    def setUp(self):
        """Everything made under the right clock."""
        self.rig.forget(self.rig.sandbox.cache, self.rig.repo / "dist", self.rig.repo / "models")
        for command, step in RESULTS.items():
            self.assertEqual((run := self.rig.run(*command)).ran, [step], run)
        self.whole = self.rig.products()

    def test_bytes_and_hits_are_the_same_ten_years_off(self):
        for clock in YEARS:
            for command in RESULTS:
                run = self.rig.run(*command, wrapper=at(clock))
                self.assertEqual((run.exit_code, run.ran), (0, []), f"{clock}: {run}")
            self.rig.forget(self.rig.store, self.rig.repo / "dist", self.rig.repo / "models")
            for command, step in RESULTS.items():
                run = self.rig.run(*command, wrapper=at(clock))
                self.assertEqual((run.exit_code, run.ran), (0, [step]), f"{clock}: {run}")
            self.assertEqual(self.rig.products(), self.whole, clock)
            self.assertEqual((run := self.rig.run("cache", "verify")).exit_code, 0, run)
        tell(f"clocks: {len(YEARS)} x {len(RESULTS)} results, same bytes and hits")

    def test_a_run_ten_years_ahead_takes_nothing_from_the_next_one(self):
        """Neither by what it removes nor by what it notes."""
        for clock in YEARS:
            first, second = RESULTS
            self.assertEqual((run := self.rig.run(*first, wrapper=at(clock))).exit_code, 0, run)
            self.rig.forget(self.rig.repo / "models", self.rig.store / "last-gc")
            self.assertEqual((run := self.rig.run(*second)).ran, [], f"after {clock}: {run}")

    def test_results_are_collected_in_the_order_of_their_use_whatever_the_clock_was(self):
        for clocks in (("+0", "+10y"), ("+10y", "-10y"), ("-10y", "+0")):
            for clock, command in zip(clocks, reversed(RESULTS), strict=True):
                self.rig.forget(self.rig.repo / "dist", self.rig.repo / "models")
                self.assertEqual((run := self.rig.run(*command, wrapper=at(clock))).exit_code, 0, run)
            run = self.rig.run("cache", "gc", "--dry-run", "--max-size", "0", "--max-age", "36500")
            steps = [it["name"].split()[0] for it in run.of("removal") if it["kind"] == "result"]
            self.assertEqual(steps, list(reversed(RESULTS.values())), f"{clocks}: {run}")


if __name__ == "__main__":
    unittest.main()
