"""The store's promises on the small project: damage is noticed, a result is made once, a kill needs no mending."""

import collections
import hashlib
import random
import signal
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from support import ROOT, beside, fixture, fixture_built, flip, lab_mirror, start, tell, xtask

BUILDERS = 8
KILLS = 10
MADE = {"native-library:engine", "go-binary:reader"}


def half_written(sandbox, repo) -> list[str]:
    """What no run may leave under a final name: objects and results whose bytes are not those of their name."""
    objects = sandbox.store.glob("objects/*/*")
    altered = [str(path) for path in objects if not path.name.startswith(".") and sha256(path) != path.name]
    dist = {sha256(path) for path in repo.glob("dist/*/*") if not path.name.startswith(".")}
    return altered + sorted(dist - {path.name for path in sandbox.store.glob("objects/*/*")})


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Store(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.built = fixture_built()

    def build(self, repo, sandbox, *arguments):
        run = xtask(ROOT, "build", "--repo", repo, *arguments, sandbox=sandbox)
        self.assertEqual(run.exit_code, 0, run)
        return run

    def test_one_flipped_byte_in_any_object_is_noticed_set_aside_and_made_again(self):
        sandbox, repo = beside(self.built, "flip"), fixture("flip")
        whole = self.build(repo, sandbox).artifacts
        objects = sorted(sandbox.store.glob("objects/*/*"))
        self.assertEqual({path.name for path in objects}, set(whole.values()))
        for path in objects:
            with self.subTest(object=path.name[:12]):
                flip(path)
                run = self.build(repo, sandbox)
                damaged = next(name for name, digest in whole.items() if digest == path.name)
                made = MADE & set(run.ran)
                self.assertEqual(len(made), 1, f"{damaged}: {run.ran}")
                self.assertIn("altered", f"{run.done[made.pop()]['reason']} {run.stderr}")
                self.assertEqual(run.artifacts, whole)
                self.assertEqual(sha256(path), path.name)
        quarantined = [path.name for path in sandbox.store.glob("quarantine/*")]
        for path in objects:
            self.assertTrue(any(path.name in name for name in quarantined), quarantined)

    def test_a_flipped_byte_in_dist_is_restored_from_the_store(self):
        sandbox, repo = beside(self.built, "dist"), fixture("dist")
        whole = self.build(repo, sandbox)
        for path in sorted(repo.glob("dist/*/*")):
            flip(path)
        run = self.build(repo, sandbox)
        self.assertEqual((run.ran, set(run.done), run.summary["cache"]["restored"]), ([], MADE, 2), run)
        self.assertEqual({path.name: sha256(path) for path in repo.glob("dist/*/*")}, whole.artifacts)

    def test_a_flipped_byte_in_an_unpacked_wheel_is_noticed_set_aside_and_unpacked_again(self):
        sandbox, repo = beside(self.built, "wheel"), fixture("wheel")
        use = lambda: xtask(ROOT, "test", "smoke", "--repo", repo, sandbox=sandbox)  # noqa: E731
        self.assertEqual(use().exit_code, 0)
        (module,) = sandbox.store.glob("trees/*/**/six.py")
        whole = sha256(module)
        flip(module)
        run = use()
        self.assertEqual((run.exit_code, run.ran), (0, ["wheel-set:tiny"]), run)
        self.assertEqual(sha256(module), whole)
        self.assertTrue(list(sandbox.store.glob("quarantine/*")))

    def test_the_bytes_are_equal_whatever_mirror_path_and_cargo_home(self):
        elsewhere, sandbox = fixture("a quite different path "), beside(self.built, "elsewhere")
        for cache in ("cargo", "go"):
            (sandbox.folder / cache).unlink()
        with lab_mirror(elsewhere) as mirror:
            run = self.build(elsewhere, sandbox, "--mirror", "lab")
            served = {it["ecosystem"] for it in mirror.log_entries() if it["status"] == 200}
        self.assertEqual(served, {"crates", "go"})
        self.assertEqual(set(run.ran) & MADE, MADE)
        self.assertEqual(run.artifacts, self.built.run.artifacts)

    def test_eight_builds_at_once_make_each_result_once(self):
        sandbox = beside(self.built, "concurrent")
        clones = [fixture("concurrent") for _ in range(BUILDERS)]
        with ThreadPoolExecutor(BUILDERS) as pool:
            runs = list(pool.map(lambda repo: self.build(repo, sandbox), clones))
        made = collections.Counter(step for run in runs for step in run.ran if step in MADE)
        tell(f"{BUILDERS} builds at once, compilations: {dict(made)}")
        self.assertEqual(made, {step: 1 for step in MADE})
        self.assertEqual(len({str(run.artifacts) for run in runs}), 1)
        keys = {(step, run.done[step]["key"]) for run in runs for step in MADE}
        self.assertEqual(len(keys), len(MADE))

    def test_after_each_of_ten_kills_of_the_group_the_next_run_succeeds_by_itself(self):
        whole, moments = self.built.run.artifacts, random.Random(20)
        work_seconds = self.build(fixture("timing"), beside(self.built, "timing")).summary["seconds"]
        outcomes = []
        for _ in range(KILLS):
            repo, sandbox = fixture("kill"), beside(self.built, "kill")
            started = start(ROOT, "build", "--repo", repo, sandbox=sandbox)
            time.sleep(moments.uniform(0.1, 1.1) * work_seconds)
            started.signal_group(signal.SIGKILL)
            started.process.wait()
            self.no_process_left(sandbox)
            states = [it["state"] for it in started.events() if it["event"] == "step"]
            outcomes.append(f"{states.count('start')}/{states.count('done')}")
            self.assertEqual(half_written(sandbox, repo), [])
            self.assertEqual(self.build(repo, sandbox).artifacts, whole)
        tell(f"{KILLS} kills in a build of {work_seconds:.1f} s; steps started/done before each: {' '.join(outcomes)}")

    def no_process_left(self, sandbox):
        deadline = time.monotonic() + 2
        while left := sandbox.processes():
            self.assertLess(time.monotonic(), deadline, left)
            time.sleep(0.05)
