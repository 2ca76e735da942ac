"""Mirrors that are down, lie or lead away: what a build on the small project does, and what the mirrors saw of it.

Two mirrors of everything, the first of them broken; the mirrors' own log is the oracle, not the tool's words.
"""

import json
import re
import unittest
from collections import Counter

from support import ROOT, Sandbox, fixture, fixture_built, lab, tell, xtask

NETWORK, INTEGRITY = 4, 5
ECOSYSTEMS = ("crates", "go", "python")


class Broken(unittest.TestCase):
    """`[bad, good]` for crates, modules and wheels at once, with every cache of downloads empty."""

    @classmethod
    def setUpClass(cls):
        cls.built = fixture_built()
        cls.healthy = cls("run_with").run_with()

    def run_with(self, *faults, more=""):
        """The runs `build` and `test smoke` of an empty user: (runs, entries of the mirrors' log, ledger)."""
        repo, sandbox = fixture("mirrors"), Sandbox("mirrors")
        # Only what is downloaded is cold: compiling Go's library again would hide what a mirror costs.
        (sandbox.folder / "go-build").symlink_to(self.built.sandbox.folder / "go-build")
        with lab(repo, *faults, more=more) as mirror:
            command = lambda *words: xtask(ROOT, *words, "--mirror", "lab", "--repo", repo, sandbox=sandbox)  # noqa: E731
            runs = [command("build"), command("test", "smoke")]
            entries = mirror.log_entries()
            for entry in entries:
                entry["address"] = mirror.url(entry["host"], "http").removeprefix("http://")
        ledgers = sorted((repo / "target/xtask/logs").glob("*/egress.jsonl"))
        lines = [json.loads(line) for ledger in ledgers for line in ledger.read_text().splitlines()]
        return runs, entries, lines

    def rescued(self, *faults, seconds):
        """Everything came from the second mirrors, in at most so many seconds more than from healthy ones."""
        runs, entries, lines = self.run_with(*faults)
        for run in runs:
            self.assertEqual(run.exit_code, 0, run)
        added = sum(run.seconds for run in runs) - sum(run.seconds for run in self.healthy[0])
        tell(f"{', '.join(faults)}: {added:+.1f} s, {Counter(it['host'] for it in entries)}")
        self.assertLess(added, seconds, faults)
        self.assertEqual(self.healthy[0][0].artifacts, runs[0].artifacts)
        return entries, lines

    def files(self, entries, host):
        """What of lasting use a host gave: crates, module zips, wheels."""
        whole = lambda it: it["status"] in (200, 206) and it["fault"] is None  # noqa: E731
        kept = r"/download$|\.zip$|\.whl$"
        return {
            it["path"] for it in entries if it["host"].startswith(host) and whole(it) and re.search(kept, it["path"])
        }

    def all_files(self, entries):
        return {path for name in ECOSYSTEMS for path in self.files(entries, name)}

    def test_dead_first_mirrors_cost_at_most_two_seconds_an_ecosystem(self):
        entries, _ = self.rescued("*-1.lab=dead", seconds=2 * len(ECOSYSTEMS))
        self.assertEqual(self.all_files(entries), self.all_files(self.healthy[1]))

    def test_a_blackhole_costs_one_bound_for_the_whole_run(self):
        self.rescued("*-1.lab=blackhole", seconds=4)

    def test_a_silent_mirror_is_left_within_its_bound_and_asked_once(self):
        entries, _ = self.rescued("*-1.lab=silent", seconds=10 * len(ECOSYSTEMS))
        asked = Counter(it["host"] for it in entries if it["fault"] == "silent")
        self.assertTrue(asked and max(asked.values()) == 1, asked)

    def test_a_dripping_mirror_is_abandoned_and_leaves_nothing_behind(self):
        # Its short answers are healthy: only the files drip, once the mirror has been chosen.
        entries, lines = self.rescued("*-1.lab/*.zip=drip", "*-1.lab/*download=drip", "*-1.lab/*.whl=drip", seconds=45)
        self.assertTrue([it for it in entries if it["fault"] == "drip"])
        self.assertIn("stalled", {line["verdict"] for line in lines})

    def test_a_portal_is_passed_over_and_one_that_is_everywhere_is_named(self):
        self.rescued("*-1.lab/*=html", seconds=6)
        runs, _, _ = self.run_with("*.lab/*=html")
        for run in runs:
            self.assertEqual(run.exit_code, NETWORK, run)
            self.assertLess(run.seconds, 10)
            self.assertIn("mirror.html", {it["code"] for it in run.of("finding")})
            self.assertIn("Sign in to the network", run.stderr)
            self.assertRegex(run.stderr, r"http://127\.0\.0\.1:\d+")
            self.assertIn("log in to this network in a browser", run.stderr)
            pages = [it["message"] for it in run.of("finding") if it["code"] == "mirror.html"]
            mirrors = [re.search(r"http://[^/: ]+:\d+", page)[0] for page in pages]
            self.assertEqual(len(mirrors), len(set(mirrors)), pages)

    def test_a_truncated_body_is_never_kept(self):
        _, lines = self.rescued("*-1.lab/*.zip=trunc", "*-1.lab/*download=trunc", "*-1.lab/*.whl=trunc", seconds=10)
        self.assertIn("truncated", {line["verdict"] for line in lines})

    def test_altered_bytes_never_reach_a_tool(self):
        flips = ["*-1.lab/*.zip=flip", "*-1.lab/*download=flip", "*-1.lab/*.whl=flip"]
        _, lines = self.rescued(*flips, seconds=10)
        self.assertEqual({line["ecosystem"] for line in lines if line["verdict"] == "hash"}, set(ECOSYSTEMS))
        runs, _, lines = self.run_with(*(flip.replace("-1", "-*") for flip in flips))
        for run in runs:
            self.assertEqual(run.exit_code, INTEGRITY, run)
            self.assertRegex(run.stderr, r"expected \S+, got \S+")
        self.assertNotIn("ok", {line["verdict"] for line in lines if re.search(r"^(crate|wheel) ", line["artifact"])})

    def test_retry_after_is_waited_for_when_it_is_short_and_never_when_it_is_long(self):
        entries, _ = self.rescued("*-1.lab/*=429:3600", "*-2.lab/*=429:2", seconds=30)
        self.assertTrue([it for it in entries if it["host"].endswith("-2.lab") and it["status"] == 429])

    def test_a_mirror_that_lacks_a_version_is_passed_over_for_that_version_only(self):
        stale = "crates-1.lab=stale:1.0.5", "crates-files-1.lab=stale:1.0.5"
        entries, lines = self.rescued(*stale, seconds=6)
        served = {path: host for host in ("crates-files-1", "crates-files-2") for path in self.files(entries, host)}
        missing = [path for path in served if "/1.0.5/" in path]
        self.assertTrue(missing and all(served[path] == "crates-files-2" for path in missing), served)
        self.assertIn("absent", {line["verdict"] for line in lines})

    def test_offline_names_all_that_is_missing(self):
        repo, sandbox = fixture("offline"), Sandbox("offline")
        with lab(repo):
            run = xtask(ROOT, "build", "--offline", "--mirror", "lab", "--repo", repo, sandbox=sandbox)
        self.assertEqual(run.exit_code, NETWORK, run)
        self.assertIn("1 of 1 crates of", run.stderr)
        self.assertIn("1 Go modules are not here: github.com/google/uuid@v1.6.0", run.stderr)

    def test_the_ledger_has_every_request_of_the_mirrors_log_and_no_other(self):
        _, entries, lines = self.healthy
        # Where an index names another host, a line has both hosts and the mirrors saw one request.
        told = Counter((line["redirect_hosts"] or [line["host"]])[-1] for line in lines)
        asked = Counter(it["address"] for it in entries)
        self.assertEqual(asked, told)
        # Measuring who is best belongs to no step.
        served = [line for line in lines if line["step"] and re.match("crate |module |wheel ", line["artifact"])]
        self.assertEqual({line["step"].split(":")[0] for line in served}, {"native-library", "go-modules", "wheel-set"})
        self.assertEqual(sum(it["bytes"] for it in entries), sum(line["bytes"] for line in lines))


class MirrorsOnly(unittest.TestCase):
    """Nothing outside the profile is contacted, whoever leads there."""

    @classmethod
    def setUpClass(cls):
        cls.built = fixture_built()

    def test_a_mirror_that_leads_away_is_not_followed_and_the_url_is_named(self):
        repo, sandbox = fixture("leak"), Sandbox("leak")
        with lab(repo, "*.lab/*download=leak", "*.lab/*.zip=leak", "*.lab/*.whl=leak") as mirror:
            runs = [
                xtask(ROOT, *words, "--mirror", "lab", "--repo", repo, sandbox=sandbox)
                for words in (["build", "engine"], ["build"], ["test", "smoke"])
            ]
            outside = mirror.url("upstream-cdn.test", "http")
            hits = [it for it in mirror.log_entries() if it["host"] == "upstream-cdn.test"]
        self.assertEqual(hits, [])
        for run in runs:
            self.assertEqual(run.exit_code, NETWORK, run)
            self.assertIn("error[XT0405]", run.stderr)
            self.assertIn(f"{outside}/", run.stderr, "the URL that wanted out")
            self.assertNotIn(outside.removeprefix("http://"), run.summary["hosts_contacted"])

    def test_the_same_mirror_is_followed_where_mirrors_are_only_preferred(self):
        repo, sandbox = fixture("leak"), Sandbox("leak")
        with lab(repo, "crates-files-*.lab/*download=leak") as mirror:
            flags = ("--mirror", "lab", "--egress", "prefer-mirrors", "--repo", repo)
            run = xtask(ROOT, "build", "engine", *flags, sandbox=sandbox)
            outside = mirror.url("upstream-cdn.test", "http").removeprefix("http://")
        self.assertEqual(run.exit_code, 0, run)
        self.assertIn(outside, run.summary["hosts_contacted"])

    def test_the_plan_names_every_host_that_the_run_then_contacts(self):
        repo, sandbox = fixture("hosts"), Sandbox("hosts")
        with lab(repo):
            flags = ("--mirror", "lab", "--repo", repo)
            plan = xtask(ROOT, "build", "--dry-run", *flags, sandbox=sandbox).of("plan")[0]
            run = xtask(ROOT, "build", *flags, sandbox=sandbox)
        self.assertEqual(run.exit_code, 0, run)
        led_to = set(run.summary["hosts_contacted"]) - set(plan["egress"])
        self.assertEqual(led_to, set(), "contacted and not planned")


if __name__ == "__main__":
    unittest.main()
