"""The hostile mirror, asked by plain HTTP clients and by cargo, go and pip themselves.

`Loopback*` needs nothing but openssl. `InNamespace*` runs the real tools against the real registries, through the
mirror, in a network that holds nothing else; where namespaces or registries cannot be had it is skipped, or fails if
XTASK_REQUIRE names `netns` or is `all`.
"""

import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from rig import DIRECTORY, TEST_TIMEOUT_SECONDS, LoopbackTest, TimedTest, unavailable

# isort: split
# rig says where these are.
import netns
import upstream
from faults import Fault, FaultError
from protocols.simple import relative
from routes import Route, RouteError, RouteTable, tomllib

CRATE, CRATE_VERSION = "fnv", "1.0.7"
MODULE, MODULE_VERSION = "github.com/pkg/errors", "v0.9.1"
WHEEL, WHEEL_VERSION = "six", "1.16.0"


class Tables(TimedTest):
    def test_longest_prefix_wins_and_unknown_paths_have_no_route(self):
        table = RouteTable.load(DIRECTORY / "cn.toml")
        cases = {
            ("mirrors.aliyun.com", "/goproxy/x/@v/list"): ("go", "/goproxy/"),
            ("mirrors.aliyun.com", "/pypi/packages/x.whl"): ("simple", "/pypi/packages/"),
            ("mirrors.aliyun.com", "/crates/api/v1/crates/a/1/download"): ("crates-files", "/crates/api/v1/crates/"),
        }
        for (host, path), expected in cases.items():
            route, prefix = table.find(host, path)
            self.assertEqual((route.kind, prefix), expected)
        nested = RouteTable([Route("h", "/", "go"), Route("h", "/a/b/", "sumdb"), Route("h", "/a/", "hub")])
        self.assertEqual(nested.find("h", "/a/b/c")[0].kind, "sumdb")
        self.assertIsNone(table.find("pypi.tuna.tsinghua.edu.cn", "/elsewhere"))
        self.assertIn("golang.google.cn", table.hosts)

    def test_broken_tables_are_named_with_file_and_entry(self):
        cases = {
            "routes = [": "table.toml: ",
            'routes = [{ host = "a", path = "/", kind = "gopher" }]': "kind is one of",
            'routes = [{ host = "a", path = "/", kind = "simple" }]': "needs `files`",
            'routes = [{ host = "a", path = "/", kind = "go", colour = "red" }]': "colour",
        }
        path = self.temporary_directory() / "table.toml"
        for text, message in cases.items():
            path.write_text(text)
            with self.subTest(text), self.assertRaisesRegex(RouteError, re.escape(message)) as caught:
                RouteTable.load(path)
            self.assertIn(str(path), str(caught.exception))

    def test_faults_are_parsed_or_refused_with_the_right_spelling(self):
        self.assertEqual(Fault.parse("a/*.whl=flip"), Fault("a", "/*.whl", "flip", ""))
        self.assertEqual(Fault.parse("a=429"), Fault("a", "/*", "429", "1"))
        self.assertEqual(Fault.parse("a=refuse"), Fault.parse("a=dead"))
        self.assertEqual(Fault.parse("a=502-then-ok:3"), Fault("a", "/*", "5xx-then-fine", "3"))
        self.assertEqual(Fault.parse("a/x=redirect:https://b/?c=d"), Fault("a", "/x", "redirect", "https://b/?c=d"))
        cases = {
            "flip": "write HOST/GLOB=NAME",
            "a/*=flop": "unknown name `flop`; known: ",
            "a/*=stale": "stale:VERSION",
            "a/x=refuse": "write a=dead",
            "a/*=flip:2": "takes no argument",
            "a/*=429:soon": "takes a number",
            "a/*=reset": "reset:BYTES",
            "a/*=rate:0": "takes a number",
            "a/*=link:40": "takes two numbers",
            "a/*=proxy-required:500": "takes 407 or 403",
        }
        for text, message in cases.items():
            with self.subTest(text), self.assertRaisesRegex(FaultError, re.escape(message)):
                Fault.parse(text)

    def test_relative_links(self):
        cases = [
            ("/pypi/packages/", "/pypi/simple/six/", "../../packages/"),
            ("/packages/", "/simple/six/", "../../packages/"),
            ("/packages/", "/simple/six", "../packages/"),
        ]
        for target, page, expected in cases:
            self.assertEqual(relative(target, page), expected)
            self.assertEqual(urllib.parse.urljoin(f"https://h{page}", expected), f"https://h{target}")


class Profile(LoopbackTest):
    TABLE = "lab.toml"

    def test_has_every_ecosystem_where_it_is_played(self):
        (self.root / "oci/docker.io").mkdir(parents=True)
        path = self.root / "xtask.local.toml"
        mirror = self.serve(fixtures={"oci": self.root / "oci", "files": self.root / "oci"}, profile=path)
        profile = tomllib.loads(path.read_text())["mirror"]["lab"]
        url = lambda name: mirror.url(f"{name}.lab", "http")  # noqa: E731
        first = {
            ("crates", "list"): f"sparse+{url('crates-1')}/index/",
            ("go", "proxy"): url("go-1"),
            ("python", "list"): f"{url('python-1')}/simple/",
            ("npm", "list"): f"{url('npm-1')}/",
            ("hub", "endpoints"): url("hub-1"),
            ("apt", "list"): [f"{url('apt-1')}/debian", f"{url('apt-1')}/debian-security"],
            ("rustup", "list"): [url("rustup-1"), f"{url('rustup-1')}/rustup"],
            ("files", "docker.io"): f"{url('files-1')}/docker.io/{{path}}",
            ("oci", "docker.io"): f"{url('oci-1')}/docker.io/{{repo}}",
        }
        self.assertEqual(profile.pop("egress"), "mirrors-only")
        # The index of crates names another host for the files: strict mode has to allow it.
        files = [mirror.url(f"crates-files-{which}.lab", "http").partition("://")[2] for which in (1, 2)]
        self.assertEqual(profile.pop("hosts"), files)
        lists = {(table, key): entries for table, keys in profile.items() for key, entries in keys.items()}
        self.assertEqual({place: entries[0] for place, entries in lists.items()}, first)
        self.assertEqual({len(entries) for entries in lists.values()}, {2})
        self.assertEqual(profile["oci"]["docker.io"][1], f"{url('oci-2')}/{{repo}}")

    def test_does_not_replace_what_somebody_else_wrote(self):
        path = self.root / "xtask.local.toml"
        path.write_text('mirror = "mine"\n')
        with self.assertRaisesRegex(RouteError, "was not written by this program"):
            self.serve(profile=path)
        self.assertEqual(path.read_text(), 'mirror = "mine"\n')
        path.unlink()
        for _ in range(2):
            self.serve(profile=path)


class LoopbackProtocols(LoopbackTest):
    def test_crates_index_names_this_mirror_as_download_host(self):
        mirror = self.serve()
        config = json.loads(self.get("rsproxy.cn", "/index/config.json")[2])
        self.assertEqual(config, {"dl": mirror.url("rsproxy.cn", "http") + "/api/v1/crates"})
        second_host = json.loads(self.get("mirrors.ustc.edu.cn", "/crates.io-index/config.json")[2])["dl"]
        self.assertEqual(second_host, mirror.url("crates-io.proxy.ustclug.org", "http") + "/api/v1/crates")
        self.assertIn(b'"1.0.7"', self.get("rsproxy.cn", "/index/fn/v/fnv")[2])
        self.assertEqual(self.get("rsproxy.cn", self.CRATE_PATH)[2], self.CONTENT)

    def test_go_proxy_passes_the_checksum_database_only_where_the_table_says(self):
        self.serve()
        self.assertEqual(self.get("goproxy.cn", "/example.org/m/@v/list")[2], b"v1.0.0\nv1.1.0\n")
        self.assertEqual(self.get("mirrors.aliyun.com", "/goproxy/example.org/m/@v/v1.1.0.zip")[2], self.CONTENT)
        self.assertEqual(self.get("goproxy.cn", "/sumdb/x/supported")[0], 200)
        self.assertEqual(self.get("mirrors.aliyun.com", "/goproxy/sumdb/x/supported")[0], 404)

    def test_simple_pages_link_to_this_mirror_in_html_and_json(self):
        mirror = self.serve()
        digest = hashlib.sha256(self.CONTENT).hexdigest()
        wanted = {"Accept": "application/vnd.pypi.simple.v1+json"}
        for host, path in (
            ("mirrors.aliyun.com", "/pypi/simple/some-pkg/"),
            ("mirrors.ustc.edu.cn", "/pypi/simple/some-pkg/"),
        ):
            with self.subTest(host):
                page_url = mirror.url(host, "http") + path
                expected = mirror.url(host, "http") + "/pypi/packages/some_pkg-2.0-py3-none-any.whl"
                _, headers, page = self.get(host, path)
                self.assertTrue(headers["Content-Type"].startswith("text/html"))
                links = re.findall(r'href="([^"#]+)#sha256=(\w+)"', page.decode())
                self.assertEqual((urllib.parse.urljoin(page_url, links[1][0]), links[1][1]), (expected, digest))
                _, headers, page = self.get(host, path, wanted)
                self.assertEqual(headers["Content-Type"], wanted["Accept"])
                file = json.loads(page)["files"][1]
                self.assertEqual(urllib.parse.urljoin(page_url, file["url"]), expected)
                self.assertEqual(file["hashes"], {"sha256": digest})
        self.assertEqual(
            self.get("mirrors.aliyun.com", "/pypi/packages/some_pkg-2.0-py3-none-any.whl")[2], self.CONTENT
        )
        self.assertEqual(self.get("mirrors.aliyun.com", "/pypi/simple/unknown/")[0], 404)

    def test_hub_resolve_has_the_headers_clients_need(self):
        self.serve()
        digest = hashlib.sha256(self.CONTENT).hexdigest()
        for method, body in (("HEAD", b""), ("GET", self.CONTENT)):
            status, headers, got = self.get("hf-mirror.com", "/org/repo/resolve/main/model.safetensors", method=method)
            self.assertEqual((status, got), (200, body))
            self.assertRegex(headers["X-Repo-Commit"], r"^[0-9a-f]{40}$")
            self.assertEqual((headers["ETag"], headers["X-Linked-Size"]), (f'"{digest}"', str(len(self.CONTENT))))

    def test_redirect_routes_lead_to_another_host_of_the_table(self):
        mirror = self.serve()
        status, headers, _ = self.get("mirrors.cernet.edu.cn", "/pypi/web/simple/some-pkg/")
        expected = mirror.url("mirrors.tuna.tsinghua.edu.cn", "http") + "/pypi/web/simple/some-pkg/"
        self.assertEqual((status, headers["Location"]), (302, expected))

    def test_fixtures_cannot_be_left(self):
        self.serve()
        for path in ("/org/repo/resolve/main/../../../secret", "/org/repo/resolve/main/..%2f..%2f..%2fsecret"):
            self.assertEqual(self.get("hf-mirror.com", path)[0], 404)

    def test_ranges(self):
        self.serve()
        size = len(self.CONTENT)
        etag = self.get("rsproxy.cn", self.CRATE_PATH)[1]["ETag"]
        cases = [
            ({"Range": "bytes=10-19"}, 206, f"bytes 10-19/{size}", self.CONTENT[10:20]),
            ({"Range": f"bytes={size - 5}-"}, 206, f"bytes {size - 5}-{size - 1}/{size}", self.CONTENT[-5:]),
            ({"Range": "bytes=-7"}, 206, f"bytes {size - 7}-{size - 1}/{size}", self.CONTENT[-7:]),
            ({"Range": f"bytes={size}-"}, 416, f"bytes */{size}", b""),
            ({"Range": "bytes=10-19", "If-Range": etag}, 206, f"bytes 10-19/{size}", self.CONTENT[10:20]),
            ({"Range": "bytes=10-19", "If-Range": '"old"'}, 200, None, self.CONTENT),
            ({"If-None-Match": etag}, 304, None, b""),
        ]
        for headers, status, content_range, body in cases:
            with self.subTest(headers):
                got = self.get("rsproxy.cn", self.CRATE_PATH, headers)
                self.assertEqual((got[0], got[1]["Content-Range"], got[2]), (status, content_range, body))

    def test_tls_by_the_test_authority_only(self):
        mirror = self.serve()
        url = mirror.url("rsproxy.cn", "https")
        context = ssl.create_default_context(cafile=mirror.authority.bundle)
        with urllib.request.urlopen(f"{url}/index/config.json", context=context, timeout=10) as response:
            self.assertEqual(json.load(response), {"dl": f"{url}/api/v1/crates"})
        with self.assertRaises(ssl.SSLCertVerificationError):
            self.handshake("rsproxy.cn", ssl.create_default_context())
        self.handshake("rsproxy.cn", context)
        with self.assertRaisesRegex(ssl.SSLCertVerificationError, "mismatch"):
            self.handshake("rsproxy.cn", context, name="goproxy.cn")

    def handshake(self, host, context, name=None):
        address = urllib.parse.urlsplit(self.mirror.url(host, "https"))
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            with context.wrap_socket(connection, server_hostname=name or host):
                pass

    def test_log_has_one_line_for_every_answer_by_the_time_the_client_has_it(self):
        mirror = self.serve("rsproxy.cn/index/*=html")
        headers = {"User-Agent": "probe", "Authorization": "canary", "X-Hub-Token": "canary", "Accept": "*/*"}
        for _ in range(50):
            self.get("goproxy.cn", "/example.org/m/@v/list", headers)
        self.get("rsproxy.cn", self.CRATE_PATH, {"Range": "bytes=0-9"})
        self.get("rsproxy.cn", "/index/fn/v/fnv")
        self.get("golang.google.cn", "/nowhere")
        entries = mirror.log_entries()
        self.assertEqual(len(entries), 53)
        self.assertNotIn("canary", mirror.log_path.read_text())
        self.assertEqual(
            {name: value for name, value in entries[0].items() if name != "time"},
            {
                "ecosystem": "go",
                "host": "goproxy.cn",
                "scheme": "http",
                "proxied": False,
                "method": "GET",
                "path": "/example.org/m/@v/list",
                "status": 200,
                "bytes": 14,
                "range": None,
                "user_agent": "probe",
                "credentials": ["authorization", "x-hub-token"],
                "fault": None,
            },
        )
        facts = [(e["ecosystem"], e["status"], e["bytes"], e["range"], e["fault"]) for e in entries[50:]]
        portal_bytes = facts[1][2]
        self.assertEqual(
            facts,
            [
                ("crates", 206, 10, "bytes=0-9", None),
                ("crates", 200, portal_bytes, None, "html"),
                (None, 404, 10, None, None),
            ],
        )

    def test_serve_announces_itself_in_one_line_and_stops_on_sigterm(self):
        argv = [
            sys.executable,
            "-B",
            str(DIRECTORY / "hostile_mirror.py"),
            "serve",
            "--state",
            str(self.root / "cli"),
            "--fixtures",
            f"go={self.root / 'fixtures/go'}",
            "--fault",
            "goproxy.io/*=html",
        ]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            self.addCleanup(process.kill)
            ready = json.loads(process.stdout.readline())
            with urllib.request.urlopen(
                ready["hosts"]["goproxy.cn"]["http"] + "/example.org/m/@v/list", timeout=10
            ) as got:
                self.assertEqual(got.read(), b"v1.0.0\nv1.1.0\n")
            with urllib.request.urlopen(
                ready["hosts"]["goproxy.io"]["http"] + "/example.org/m/@v/list", timeout=10
            ) as got:
                self.assertIn(b"<html>", got.read())
            self.assertEqual(len(Path(ready["log"]).read_text().splitlines()), 2)
            process.terminate()
            self.assertEqual((process.wait(10), process.stdout.read()), (0, ""))
        broken = subprocess.run([*argv, "--fault", "x=y"], capture_output=True, text=True, timeout=30)
        self.assertEqual(broken.returncode, 2)
        self.assertIn("unknown name `y`", broken.stderr)


class InNamespaceTest(TimedTest):
    @classmethod
    def setUpClass(cls):
        if reason := netns.why_impossible():
            unavailable("netns", f"no network namespaces here: {reason}")

    def setUp(self):
        super().setUp()
        self.directory = self.temporary_directory()
        self.state = self.directory / "state"

    def run_inside(self, command, *options, network="run", environment=None):
        """Runs the command in the namespace; returns the finished process, output as text."""
        argv = [sys.executable, "-B", str(DIRECTORY / "netns.py"), network]
        if network == "run":
            argv += ["--state", str(self.state)]
        argv += [word for option in options for word in ("--fault", option)]
        argv += [word for name, value in (environment or {}).items() for word in ("--env", f"{name}={value}")]
        return subprocess.run(
            [*argv, "--", *command], cwd=self.directory, capture_output=True, text=True, timeout=TEST_TIMEOUT_SECONDS
        )

    def log(self):
        return [json.loads(line) for line in (self.state / "access.jsonl").read_text().splitlines()]


class InNamespaceIsolation(InNamespaceTest):
    def test_only_the_hosts_of_the_table_resolve_and_nothing_else_is_routed(self):
        script = """
import socket, sys
for host in ("rsproxy.cn", "goproxy.cn"):
    print(socket.gethostbyname(host).rpartition(".")[0])
for attempt in (lambda: socket.gethostbyname("example.com"), lambda: socket.create_connection(sys.argv[1].split(), 3)):
    try:
        print(attempt())
    except OSError as error:
        print("failed")
"""
        outside = socket.create_server(("0.0.0.0", 0))
        self.addCleanup(outside.close)
        route = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(route.close)
        try:
            route.connect(("203.0.113.1", 9))  # Sends nothing; names the address this machine would send from.
            address = route.getsockname()[0]
        except OSError:
            address = "203.0.113.1"
        target = f"{address} {outside.getsockname()[1]}"
        done = self.run_inside([sys.executable, "-c", script, target])
        self.assertEqual(done.stdout.split(), ["10.231.0", "10.231.0", "failed", "failed"], done.stderr)
        done = self.run_inside(
            [sys.executable, "-c", script.replace("rsproxy.cn", "localhost").replace('"goproxy.cn"', ""), target],
            network="empty",
        )
        self.assertEqual(done.stdout.split(), ["127.0.0", "failed", "failed"], done.stderr)

    def test_every_name_that_is_looked_up_is_logged_and_others_do_not_exist(self):
        script = """
import socket
for host in ("go-1.lab", "GO-1.lab", "example.com", "localhost"):
    try:
        print(socket.gethostbyname(host))
    except OSError as error:
        print(error.errno == socket.EAI_NONAME)
"""
        options = [sys.executable, "-B", str(DIRECTORY / "netns.py"), "run", "--state", str(self.state)]
        profile = self.directory / "profile.toml"
        options += ["--routes", str(DIRECTORY / "lab.toml"), "--profile", str(profile), "--", sys.executable]
        done = subprocess.run([*options, "-c", script], capture_output=True, text=True, timeout=TEST_TIMEOUT_SECONDS)
        address, again, *others = done.stdout.split()
        self.assertEqual((again, others), (address, ["True", "127.0.0.1"]), done.stderr)
        lookups = [json.loads(line) for line in (self.state / "lookups.jsonl").read_text().splitlines()]
        self.assertEqual(
            [(it["name"], it["type"], it["answer"]) for it in lookups],
            [("go-1.lab", "A", address)] * 2 + [("example.com", "A", "nxdomain")],
        )
        self.assertEqual(tomllib.loads(profile.read_text())["mirror"]["lab"]["go"]["proxy"][0], "https://go-1.lab")

    def test_whoever_tries_an_address_is_named_and_nothing_of_the_mirrors_is(self):
        script = """
import socket, urllib.request
try:
    socket.create_connection(("203.0.113.7", 443), 3)
except ConnectionRefusedError:
    print("refused")
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("198.51.100.9", 53))
socket.create_connection(("goproxy.cn", 80), 3)
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname(), 3)
"""
        done = self.run_inside([sys.executable, "-c", script])
        self.assertEqual(done.stdout.split(), ["refused"], done.stderr)
        strays = [json.loads(line) for line in (self.state / "strays.jsonl").read_text().splitlines()]
        self.assertEqual(
            [(it["protocol"], it["address"], it["port"]) for it in strays],
            [("tcp", "203.0.113.7", 443), ("udp", "198.51.100.9", 53)],
        )

    def test_environment_keeps_no_mirror_proxy_or_real_authority(self):
        hostile = {"PIP_INDEX_URL": "http://x", "https_proxy": "http://x", "CURL_CA_BUNDLE": "/x", "GOPROXY": "off"}
        for name, value in hostile.items():
            self.addCleanup(os.environ.__setitem__, name, os.environ[name]) if name in os.environ else self.addCleanup(
                os.environ.pop, name, None
            )
            os.environ[name] = value
        done = self.run_inside(["env", "-0"], environment={"ADDED": "a=b"})
        seen = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
        self.assertEqual(hostile.keys() & seen.keys(), set())
        self.assertEqual(seen["ADDED"], "a=b")
        self.assertEqual(seen["SSL_CERT_FILE"], str(self.state / "authority/ca.pem"))

    def test_exit_codes_are_the_commands_own(self):
        self.assertEqual(self.run_inside(["sh", "-c", "exit 7"], network="empty").returncode, 7)
        self.assertEqual(self.run_inside(["sh", "-c", "kill -9 $$"], network="empty").returncode, 137)
        missing = self.run_inside(["no-such-command"], network="empty")
        self.assertEqual(missing.returncode, 127)
        self.assertIn("no-such-command", missing.stderr)

    def test_nothing_survives_the_command_or_the_death_of_netns_itself(self):
        marker = f"{os.getpid()}{time.monotonic_ns()}"
        self.run_inside(["sh", "-c", f"sleep {marker} & exit 0"], network="empty")
        self.await_condition(lambda: not processes_named(marker), "the background process is gone")
        argv = [
            sys.executable,
            "-B",
            str(DIRECTORY / "netns.py"),
            "run",
            "--state",
            str(self.state),
            "--",
            "sleep",
            marker,
        ]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            self.await_condition(lambda: ["sleep", marker] in processes_named(marker), "the command runs")
            process.kill()
        self.await_condition(lambda: not processes_named(marker), "the command is gone")

    def test_refused_and_blackholed_hosts(self):
        script = """
import socket, sys
for host in ("rsproxy.cn", "goproxy.io", "goproxy.cn"):
    try:
        socket.create_connection((host, 443), 1).close()
        print("connected")
    except OSError as error:
        print(type(error).__name__)
"""
        done = self.run_inside([sys.executable, "-c", script], "rsproxy.cn=refuse", "goproxy.io=blackhole")
        self.assertEqual(done.stdout.split(), ["ConnectionRefusedError", "TimeoutError", "connected"], done.stderr)


def processes_named(word: str) -> list[list[str]]:
    """The argument lists of all processes that have this argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().decode("utf-8", "replace").split("\0")[:-1]
        except OSError:
            continue
        if any(word in argument for argument in arguments):
            found.append(arguments)
    return found


class InNamespaceTools(InNamespaceTest):
    """The tools' own words are asserted only where a fault shall stop them; who was asked for what is in the log."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        missing = [tool for tool in ("cargo", "go") if shutil.which(tool) is None]
        missing += ["pip"] if importlib.util.find_spec("pip") is None else []
        if missing:
            unavailable("netns", f"{', '.join(missing)} not found")
        registries = upstream.Registries()
        try:
            for url in (registries.crates_index + "config.json", registries.go_proxy, registries.simple_index + "six/"):
                upstream.fetch(url, "*/*", io.BytesIO())
        except upstream.UpstreamError as error:
            unavailable("netns", f"the real registries cannot be reached: {error}")

    def cargo(self, *faults, index="https://rsproxy.cn/index/"):
        package = self.directory / "package"
        (package / "src").mkdir(parents=True)
        (package / "src/lib.rs").touch()
        (package / "Cargo.toml").write_text(
            f'[package]\nname = "tiny"\nedition = "2021"\n[dependencies]\n{CRATE} = "={CRATE_VERSION}"\n'
        )
        command = [
            "cargo",
            "fetch",
            "--manifest-path",
            str(package / "Cargo.toml"),
            "--config",
            'source.crates-io.replace-with="mirror"',
            "--config",
            f'source.mirror.registry="sparse+{index}"',
        ]
        cargo_home = self.directory / "cargo-home"
        return self.run_inside(command, *faults, environment={"CARGO_HOME": cargo_home, "CARGO_NET_RETRY": "1"})

    def go(self, *faults, proxy="https://goproxy.cn", **environment):
        (self.directory / "go.mod").write_text("module tiny\n\ngo 1.20\n")
        environment = {
            "GOPROXY": proxy,
            "GOMODCACHE": self.directory / "modules",
            "GOPATH": self.directory / "gopath",
            "GOENV": "off",
            "GOTOOLCHAIN": "local",
            "GOFLAGS": "-modcacherw",
            **environment,
        }
        command = ["go", "mod", "download", f"{MODULE}@{MODULE_VERSION}"]
        return self.run_inside(command, *faults, environment=environment)

    def pip(self, *faults, index="https://mirrors.aliyun.com/pypi/simple/"):
        command = [
            sys.executable,
            "-m",
            "pip",
            "--isolated",
            "--disable-pip-version-check",
            "download",
            "--no-cache-dir",
            "--no-deps",
            "--retries",
            "0",
            "--index-url",
            index,
            "--cert",
            str(self.state / "authority/ca.pem"),
            "--dest",
            str(self.directory / "wheels"),
            f"{WHEEL}=={WHEEL_VERSION}",
        ]
        return self.run_inside(command, *faults)

    def assert_done(self, done):
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def assert_refused(self, done, message):
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(message, done.stdout + done.stderr)

    def requests(self, host):
        return [entry["path"] for entry in self.log() if entry["host"] == host and entry["status"] == 200]

    def hosts(self):
        return {entry["host"] for entry in self.log()}

    def test_cargo_fetches_from_an_empty_home(self):
        self.assert_done(self.cargo())
        self.assertEqual(
            self.requests("rsproxy.cn"),
            [
                "/index/config.json",
                "/index/3/f/fnv",
                f"/api/v1/crates/{CRATE}/{CRATE_VERSION}/download",
            ],
        )
        self.assertEqual(self.hosts(), {"rsproxy.cn"})
        crates = list(self.directory.glob(f"cargo-home/registry/cache/*/{CRATE}-{CRATE_VERSION}.crate"))
        self.assertEqual(len(crates), 1)

    def test_cargo_follows_dl_to_the_second_host(self):
        self.assert_done(self.cargo(index="https://mirrors.ustc.edu.cn/crates.io-index/"))
        self.assertEqual(self.hosts(), {"mirrors.ustc.edu.cn", "crates-io.proxy.ustclug.org"})

    def test_cargo_refuses_a_flipped_crate(self):
        self.assert_refused(self.cargo("rsproxy.cn/*/download=flip"), "failed to verify the checksum")
        self.assertEqual([entry["fault"] for entry in self.log()][-1], "flip")

    def test_cargo_calls_a_stale_index_a_missing_version(self):
        self.assert_refused(self.cargo(f"rsproxy.cn/*=stale:{CRATE_VERSION}"), "failed to select a version")

    def test_cargo_retries_a_502(self):
        self.assert_done(self.cargo("rsproxy.cn/*/download=502-then-ok"))
        statuses = [entry["status"] for entry in self.log() if entry["path"].endswith("/download")]
        self.assertEqual(statuses, [502, 200])

    def test_go_downloads_with_the_checksum_database_through_the_proxy(self):
        self.assert_done(self.go())
        paths = self.requests("goproxy.cn")
        self.assertIn(f"/{MODULE}/@v/{MODULE_VERSION}.zip", paths)
        self.assertTrue(any(re.match(rf"/sumdb/[^/]+/lookup/{MODULE}@{MODULE_VERSION}", path) for path in paths), paths)
        self.assertEqual(self.hosts(), {"goproxy.cn"})

    def test_go_downloads_with_a_checksum_database_of_its_own_host(self):
        self.assert_done(self.go(proxy="https://mirrors.aliyun.com/goproxy/", GOSUMDB="sum.golang.google.cn"))
        self.assertIn(f"/lookup/{MODULE}@{MODULE_VERSION}", self.requests("sum.golang.google.cn"))
        self.assertEqual(self.hosts(), {"mirrors.aliyun.com", "sum.golang.google.cn"})

    def test_go_refuses_a_flipped_module(self):
        done = self.go("goproxy.cn/*.zip=flip")
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, "SECURITY ERROR|checksum error|invalid|flate")
        self.assertFalse((self.directory / "modules" / f"{MODULE}@{MODULE_VERSION}").exists())

    def test_go_stops_at_a_portal_page(self):
        self.assert_refused(self.go("goproxy.cn/*=html"), "errors@v0.9.1")

    def test_pip_downloads_a_wheel(self):
        self.assert_done(self.pip())
        self.assertEqual(
            [path.name for path in (self.directory / "wheels").iterdir()], ["six-1.16.0-py2.py3-none-any.whl"]
        )
        index, *metadata, wheel = self.requests("mirrors.aliyun.com")
        self.assertIn(metadata, ([], [f"{wheel}.metadata"]))  # Newer pips ask for the metadata first.
        self.assertEqual(index, "/pypi/simple/six/")
        self.assertRegex(wheel, r"^/pypi/packages/.*/six-1\.16\.0-py2\.py3-none-any\.whl$")
        self.assertEqual(self.hosts(), {"mirrors.aliyun.com"})

    def test_pip_follows_a_redirecting_mirror(self):
        self.assert_done(self.pip(index="https://mirrors.cernet.edu.cn/pypi/web/simple/"))
        self.assertEqual(self.hosts(), {"mirrors.cernet.edu.cn", "mirrors.tuna.tsinghua.edu.cn"})

    def test_pip_refuses_a_flipped_wheel(self):
        self.assert_refused(self.pip("mirrors.aliyun.com/*.whl=flip"), "DO NOT MATCH THE HASHES")

    def test_pip_calls_a_portal_page_no_such_package(self):
        self.assert_refused(self.pip("mirrors.aliyun.com/*=html"), "from versions: none")


if __name__ == "__main__":
    unittest.main()
