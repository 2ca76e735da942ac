"""`cargo xtask build` on the real project: behind mirrors only, again, elsewhere, after edits, interrupted.

One first build behind the mirrors (support.first_build) and one without any, cut off again and again, are all that is
compiled from nothing; what is asserted of their bytes is asserted of two mirrors, two paths and two CARGO_HOMEs.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import time
import unittest
from pathlib import Path

from support import (
    END_SECONDS,
    HOSTILE_MIRROR,
    Sandbox,
    access,
    changed,
    checkout,
    first_build,
    git,
    headline,
    hostile_mirror,
    mirrored,
    mirrors_log,
    start,
    tell,
    tree,
    unplugged,
    xtask,
)

LIBRARY, ROUTER = "native-library:candle-binding", "go-binary:router"
KILLS = 10


class Mirrored(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.it = headline()

    def build(self, *arguments, **options):
        run = xtask(self.it.checkout, "build", "--mirror", "cn", *arguments, sandbox=self.it.sandbox, **options)
        self.assertEqual(run.exit_code, 0, run)
        return run

    def edit(self, path, old, new):
        """Replaces text in a file of the checkout until the test ends."""
        path = self.it.checkout / path
        before = path.read_text()
        self.assertIn(old, before)
        self.addCleanup(path.write_text, before)
        path.write_text(before.replace(old, new, 1))

    def test_a_first_build_through_the_mirrors_alone_succeeds_and_leaves_the_tree_clean(self):
        run = self.it.run
        self.assertEqual(run.exit_code, 0, run)
        self.assertTrue(run.summary["ok"])
        self.assertEqual(set(run.artifacts), {"libcandle_semantic_router.so", "router"})
        self.assertEqual(git(self.it.checkout, "status", "--porcelain"), "")

        served = [it for it in run.access if it["status"] in (200, 206) and it["method"] == "GET"]
        counts = {kind: sum(it["ecosystem"] == kind for it in served) for kind in ("crates", "go")}
        tell(f"first build: {run.seconds:.0f} s; answered by the mirrors: {counts}")
        self.assertTrue(all(counts.values()), counts)
        toolchain = r"/golang\.org/toolchain/@v/v0\.0\.1-go[0-9.]+\.linux-\w+\.zip"
        self.assertTrue([it for it in served if re.fullmatch(toolchain, it["path"])], "Go did not come as its module")

        # The ledger is honest: it names the hosts that were asked, all of the profile, and none besides.
        known = set(hostile_mirror.RouteTable.load(HOSTILE_MIRROR / "cn.toml").hosts)
        self.assertLessEqual(set(run.summary["hosts_contacted"]), known)
        # The tool's own crates came before there was a ledger, by the cargo that the launcher started.
        asked = {it["host"] for it in served if not (it["user_agent"] or "").startswith("cargo")}
        self.assertLessEqual(asked, set(run.summary["hosts_contacted"]))

    def test_nobody_but_the_mirrors_is_looked_up_or_tried(self):
        known = set(hostile_mirror.RouteTable.load(HOSTILE_MIRROR / "cn.toml").hosts)
        names = {it["name"] for it in mirrors_log(self.it.sandbox, "lookups")}
        self.assertTrue(names)
        self.assertLessEqual(names, known, self.it.run)
        self.assertEqual(mirrors_log(self.it.sandbox, "strays"), [])

    def test_first_endpoints_that_are_down_or_lie_or_lag_cost_seconds(self):
        """Everything is fetched anew, only compilers find their results of the headline build."""
        first = ("rsproxy.cn", "goproxy.cn", "mirrors.aliyun.com/pypi/*")
        version = re.search(r'name = "candle-core"\nversion = "([^"]+)"', self.lock())[1]
        lagging = [f"rsproxy.cn/*=stale:{version}", "goproxy.cn/golang.org/*=stale:v0.0.1-go" + self.go_version()]
        healthy = self.fetched_anew()
        for name, faults in {
            "dead": [f"{host}=dead" for host in first[:2]],
            "silent": [f"{host}=silent" for host in first],
            "html": [f"{host.removesuffix('/*')}/*=html" for host in first],
            "stale": lagging,
        }.items():
            with self.subTest(name):
                run = self.fetched_anew(*faults)
                tell(f"first endpoints {name}: {run.seconds:.1f} s, {healthy.seconds:.1f} s with healthy ones")
                self.assertEqual(run.artifacts, self.it.run.artifacts)
                self.assertLess(run.seconds, 1.2 * healthy.seconds + 10)

    def fetched_anew(self, *faults):
        folder, cache = self.it.sandbox.folder, Sandbox("anew").cache
        for downloads in filter(Path.exists, (folder / "cargo/registry", folder / "go/pkg/mod")):
            subprocess.run(["chmod", "-R", "u+w", downloads], check=True)
            shutil.rmtree(downloads)
        sandbox = Sandbox("faulty")
        run = self.build(environment={"XTASK_CACHE_DIR": str(cache)}, wrapper=mirrored(sandbox, *faults))
        self.assertGreater(len([it for it in access(sandbox) if it["path"].endswith("/download")]), 50)
        return run

    def lock(self):
        return (self.it.checkout / "candle-binding/Cargo.lock").read_text()

    def go_version(self):
        return re.search(r'\[go\]\nversion = "([^"]+)"', (self.it.checkout / "xtask.lock").read_text())[1]

    def test_the_second_build_is_all_hits(self):
        self.build()  # The tests before may have left results of their edits in place.
        run = self.build()
        self.assertEqual(run.ran, [])
        counts = run.summary["cache"]
        self.assertEqual((counts["ran"], counts["restored"]), (0, 0), counts)
        self.assertGreaterEqual(counts["hit"], 2)
        self.assertEqual(run.artifacts, self.it.run.artifacts)
        tell(f"second build: {run.seconds:.2f} s, {counts}")

    def test_without_dist_and_build_folders_everything_is_restored_with_the_network_unplugged(self):
        shutil.rmtree(self.it.checkout / "dist")
        build, aside = self.it.checkout / "target/xtask", self.it.sandbox.folder / "aside"
        # The compiled dependencies are put back for the tests that edit the library; that fails if any were made again.
        os.rename(build / "native", aside)
        self.addCleanup(os.rename, aside, build / "native")
        for name in ("last", "link"):
            shutil.rmtree(build / name)
        (build / "stat-index.json").unlink()
        run = self.build(wrapper=unplugged())
        self.assert_restored(run)

    def test_a_clone_elsewhere_has_the_same_keys_and_is_restored_unplugged(self):
        clone = checkout("elsewhere")
        run = self.build("--repo", clone, "--offline", wrapper=unplugged())
        self.assert_restored(run)
        for step in (LIBRARY, ROUTER):
            self.assertEqual(run.done[step]["key"], self.it.run.done[step]["key"])
        self.assertEqual(git(clone, "status", "--porcelain"), "")

    def assert_restored(self, run):
        self.assertEqual((run.ran, run.summary["cache"]["ran"]), ([], 0))
        self.assertEqual({run.done[step]["status"] for step in (LIBRARY, ROUTER)}, {"restored"})
        self.assertEqual(run.artifacts, self.it.run.artifacts)
        tell(f"restored in {run.seconds:.2f} s, {run.summary['cache']}")

    def test_a_comment_in_rust_remakes_the_library_and_does_not_relink_the_router(self):
        self.edit("candle-binding/src/lib.rs", "", "// A remark.\n")
        run = self.build(wrapper=unplugged())
        self.assertEqual(run.ran, [LIBRARY])
        self.assertIn("src/lib.rs", run.done[LIBRARY]["reason"]["input"])
        self.assertEqual(run.done[ROUTER]["status"], "hit")
        tell(f"comment changed: {run.seconds:.1f} s, reason: {run.done[LIBRARY]['reason']}")

    def test_a_constant_of_the_library_is_seen_through_the_router_that_was_not_linked_again(self):
        before = self.router_without_a_model()
        self.assertIn("cannot open the model", before)
        self.edit("candle-binding/src/error.rs", "cannot open the model", "cannot unfold that model")
        run = self.build(wrapper=unplugged())
        self.assertEqual(run.ran, [LIBRARY])
        self.assertEqual(run.artifacts["router"], self.it.run.artifacts["router"])
        after = self.router_without_a_model()
        self.assertEqual(after, before.replace("cannot open the model", "cannot unfold that model"))

    def router_without_a_model(self) -> str:
        """What the router says when the library finds no model in a folder."""
        config, empty = self.it.sandbox.folder / "config.yaml", self.it.sandbox.folder / "empty"
        empty.mkdir(exist_ok=True)
        text = (self.it.checkout / "config/config.yaml").read_text()
        config.write_text(text.replace("models/all-MiniLM-L6-v2", str(empty)))
        argv = [self.it.checkout / "dist/bin/router", "--config", config]
        for port in ("--port", "--api-port", "--metrics-port"):
            argv += [port, "0"]
        run = subprocess.run(argv, capture_output=True, text=True, timeout=60, env={})
        self.assertEqual(run.returncode, 1, run)
        return run.stderr.splitlines()[-1]

    def test_a_dependency_of_the_tool_alone_leaves_every_key_as_it_was(self):
        clone = checkout("bumped")
        lock = clone / "xtask/crates/Cargo.lock"
        before = self.build("--repo", clone, "--dry-run").plan
        text, count = re.subn(r'(name = "clap"\nversion = ")[^"]+', r"\g<1>99.0.0", lock.read_text())
        self.assertEqual(count, 1)
        lock.write_text(text)
        after = self.build("--repo", clone, "--dry-run").plan
        keys = lambda plan: {id: step["key"] for id, step in plan.items()}  # noqa: E731
        self.assertEqual(keys(after), keys(before))
        self.assertIsNotNone(after[LIBRARY]["key"])

    def test_a_dry_run_names_the_hosts_and_each_tools_environment_and_touches_nothing(self):
        clone, sandbox = checkout("dry"), Sandbox("dry")
        # Go counts its own runs there, whatever it is asked, and the tool asks for its default proxy.
        (sandbox.home / ".config/go/telemetry").mkdir(parents=True)
        watched = [clone, sandbox.home, sandbox.cache, sandbox.folder / "go", sandbox.folder / "go-build"]
        before = tree(*watched)
        run = self.build_as(sandbox, clone, unplugged())
        mirrored_run = self.build_as(sandbox, clone, mirrored(sandbox))
        self.assertEqual([path for path in changed(before, tree(*watched)) if "/.config/go/telemetry" not in path], [])
        self.assertEqual(access(sandbox), [], "a mirror was asked")
        for it in (run, mirrored_run):
            self.assertEqual(it.summary["hosts_contacted"], [])

        plan = run.of("plan")[0]
        self.assertEqual(plan, mirrored_run.of("plan")[0])
        really = set(self.it.run.summary["hosts_contacted"])
        self.assertLessEqual(really, set(plan["egress"]), "the headline build contacted what the dry run does not name")
        self.assertEqual({run.plan[step]["status"] for step in (LIBRARY, "toolchain:go")}, {"run"})

        tools = {it["tool"]: it for it in plan["tools"]}
        self.assertEqual(tools["go"]["set"]["GOPROXY"], "http://xtask-gateway.invalid/go")
        self.assertRegex(tools["go"]["set"]["HTTP_PROXY"], r"^http://STEP:\*\*\*@127\.0\.0\.1:PORT$")
        self.assertNotIn("off", tools["go"]["set"].get("GOSUMDB", ""))
        self.assertIn("--config", tools["cargo"]["arguments"])
        shown = xtask(self.it.checkout, "mirror", "env", "--mirror", "cn", "--repo", clone, sandbox=sandbox)
        self.assertEqual(shown.exit_code, 0, shown)

    def build_as(self, sandbox, repo, wrapper):
        arguments = ("build", "--repo", repo, "--mirror", "cn", "--dry-run")
        run = xtask(self.it.checkout, *arguments, sandbox=sandbox, wrapper=wrapper)
        self.assertEqual(run.exit_code, 0, run)
        return run


class Interrupted(unittest.TestCase):
    """A first build straight from the registries, elsewhere and with another CARGO_HOME, that is not left alone."""

    @classmethod
    def setUpClass(cls):
        cls.it = first_build()
        cls.repo, cls.sandbox = checkout("another place"), Sandbox("direct")

    def start(self):
        # The tool of the headline's checkout: compiling it again would show nothing new.
        return start(self.it.checkout, "build", "--repo", self.repo, sandbox=self.sandbox)

    def test_kills_and_ctrl_c_leave_nothing_half_made_and_the_bytes_are_those_of_the_mirrored_build(self):
        moments, compiling = random.Random(7), 0
        for index in range(KILLS):
            started = self.start()
            if index % 2:  # Otherwise most would hit the fetching, which comes first.
                started.wait_for(self.is_compiling, "a compiler")
            time.sleep(moments.uniform(0, 4))
            compiling += self.is_compiling()
            started.signal_group(signal.SIGKILL)
            started.process.wait()
            # How fast the system buries them on a busy machine is no promise of ours.
            self.nothing_left(within_seconds=30)
        tell(f"{KILLS} kills of the group, {compiling} of them with compilers running")

        started = self.start()
        started.wait_for(self.is_compiling, "a compiler")
        children = len(self.sandbox.processes())
        sent = time.monotonic()
        started.signal_group(signal.SIGINT)
        run = started.finish(30)
        ended_seconds = time.monotonic() - sent
        self.nothing_left()
        self.assertEqual(run.exit_code, 130, run)
        self.assertEqual(run.summary["exit_code"], 130)
        self.assertLess(ended_seconds, END_SECONDS)
        tell(f"Ctrl-C with {children} processes running: all ended after {ended_seconds:.2f} s")

        run = self.start().finish(1800)
        self.assertEqual((self.it.run.exit_code, run.exit_code), (0, 0), f"{self.it.run}\n{run}")
        self.assertEqual(run.artifacts, self.it.run.artifacts)
        self.assertEqual(git(self.repo, "status", "--porcelain"), "")

    def is_compiling(self) -> bool:
        return any("--crate-name" in command for command in self.sandbox.processes().values())

    def nothing_left(self, within_seconds=END_SECONDS):
        """No process at once, no result: none was finished, so none may stand under its final name."""
        deadline = time.monotonic() + within_seconds
        while left := self.sandbox.processes():
            self.assertLess(time.monotonic(), deadline, left)
            time.sleep(0.02)
        self.assertEqual([path for path in self.repo.glob("dist/*/*") if not path.name.startswith(".")], [])
        entries = [path.read_text() for path in self.sandbox.store.glob("entries/*") if not path.name.startswith(".")]
        self.assertEqual([it for it in entries if '"step":"native-library:' in it], [])
