#!/usr/bin/env python3
"""A test server that plays public package mirrors, healthy or broken, and writes down every request.

Owns: the endpoints (one of each scheme a host, so that a fault of a connection hits one host only) and the access log.
routes.py says who plays what, protocols/ what a healthy mirror answers, faults.py what goes wrong, conversation.py how
it is sent. Beside the hosts of the table there are two of its own: an upstream CDN (fault `leak`) and a proxy.
Never: listens on an address it was not given.

    hostile_mirror.py serve --routes lab.toml --profile xtask.local.toml [--fault 'go-1.lab=dead'] [--fixtures hub=DIR]

prints one JSON line when it is ready:
    {"ca": PATH, "log": PATH, "proxy": URL, "hosts": {"go-1.lab": {"http": "http://127.0.0.1:PORT", "https": …}, …}}
and serves until SIGINT or SIGTERM. The access log has one JSON object a line:
    {"time", "ecosystem", "host", "scheme", "proxied", "method", "path", "status", "bytes", "range", "user_agent",
     "credentials", "fault"}
`status` is 0 where this program answered nothing: silence, a TLS handshake that failed (`method` and `path` are then
null), what an open proxy passed on. `credentials` names the headers that carried one, never their values.
From Python: `with serve_on_loopback(options) as mirror: mirror.url("go-1.lab", "http") …; mirror.log_entries()`.
"""

import argparse
import datetime
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from answers import NOT_FOUND, Answer
from authority import Authority, AuthorityError
from conversation import IDLE_TIMEOUT_SECONDS, Conversation
from faults import CDN_HOST, OWN_HOSTS, PROXY_HOST, Fault, FaultError, FaultPlan
from lab_profile import profile, write_profile
from protocols import Request, Sources, healthy
from routes import ECOSYSTEMS, Route, RouteError, RouteTable
from upstream import Cache, Registries, UpstreamError

DEFAULT_PORTS = {"http": 80, "https": 443}
PROFILE_NAME = "lab"


@dataclass(frozen=True)
class Endpoint:
    """One listening socket: everything that arrives on it is meant for `host`."""

    host: str
    scheme: str
    listener: socket.socket

    @property
    def url(self) -> str:
        address, port = self.listener.getsockname()
        return f"{self.scheme}://{self.host if port == DEFAULT_PORTS[self.scheme] else f'{address}:{port}'}"


@dataclass
class Options:
    """What both commands, `serve` and netns.py's `run`, are told."""

    routes: Path
    state: Path
    cache: Path
    faults: list[str] = field(default_factory=list)
    fixtures: dict[str, Path] = field(default_factory=dict)
    oci_registries: dict[str, str] = field(default_factory=dict)
    proxy_user: str | None = None
    proxy_open: bool = False
    profile: Path | None = None

    @staticmethod
    def declare(parser: argparse.ArgumentParser) -> None:
        here = Path(__file__).resolve().parent
        cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        parser.add_argument("--routes", type=Path, default=here / "cn.toml", help="route table (default: %(default)s)")
        parser.add_argument("--state", type=Path, help="certificates and access log (default: a new directory)")
        parser.add_argument("--cache", type=Path, default=cache_home / "hostile-mirror", help="(default: %(default)s)")
        parser.add_argument("--fault", action="append", default=[], metavar="HOST/GLOB=NAME", help="see faults.py")
        parser.add_argument(
            "--fixtures", action="append", default=[], metavar="ECOSYSTEM=DIR", help="layouts: protocols/__init__.py"
        )
        parser.add_argument(
            "--registry", action="append", default=[], metavar="NAME=URL", help="copy this OCI registry from there"
        )
        parser.add_argument("--proxy-user", metavar="NAME:PASSWORD", help="what the proxy wants to be told")
        parser.add_argument("--proxy-open", action="store_true", help="the proxy also leads to hosts of other people")
        parser.add_argument("--profile", type=Path, metavar="FILE", help=f"write mirror profile `{PROFILE_NAME}` there")

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> "Options":
        """Raises RouteError for an unknown ecosystem."""
        fixtures = {}
        for text in arguments.fixtures:
            ecosystem, _, directory = text.partition("=")
            if ecosystem not in ECOSYSTEMS.values() or not Path(directory).is_dir():
                known = ", ".join(sorted(set(ECOSYSTEMS.values()) - {"redirect"}))
                raise RouteError(f"--fixtures {text}: write one of {known}, `=`, and a directory that exists")
            fixtures[ecosystem] = Path(directory)
        for text in arguments.registry:
            if "=http" not in text:
                raise RouteError(f"--registry {text}: write for example docker.io=http://127.0.0.1:5000")
        return cls(
            arguments.routes,
            arguments.state or Path(tempfile.mkdtemp(prefix="hostile-mirror-")),
            arguments.cache,
            arguments.fault,
            fixtures,
            dict(text.split("=", 1) for text in arguments.registry),
            arguments.proxy_user,
            arguments.proxy_open,
            arguments.profile,
        )


class HostileMirror:
    """Serves on sockets that others opened (`listen`). `plan` may be replaced at any time."""

    def __init__(self, options: Options):
        """Raises RouteError, FaultError, AuthorityError, OSError."""
        self.options = options
        self.table = RouteTable.load(options.routes)
        self.hosts = [*self.table.hosts, *OWN_HOSTS]
        self.plan = FaultPlan([Fault.parse(text) for text in options.faults])
        self.authority = Authority(options.state.resolve() / "authority")
        self.log_path = options.state.resolve() / "access.jsonl"
        self.endpoints: dict[tuple[str, str], Endpoint] = {}
        self._sources = Sources(Cache(options.cache), Registries(), options.fixtures, options.oci_registries)
        self._log = open(self.log_path, "w", buffering=1)
        self._log_lock = threading.Lock()
        self._wake, self._waker = socket.socketpair()
        self._acceptor = threading.Thread(target=self._accept, daemon=True)

    def start(self, endpoints: list[Endpoint], profile_scheme: str = "http") -> None:
        self.endpoints = {(endpoint.host, endpoint.scheme): endpoint for endpoint in endpoints}
        self._by_address = {
            (name, port): endpoint
            for endpoint in endpoints
            for name, port in (
                endpoint.listener.getsockname(),
                (endpoint.host, DEFAULT_PORTS[endpoint.scheme]),
            )
        }
        if self.options.profile:
            write_profile(self.options.profile, self.profile(profile_scheme))
        self._acceptor.start()

    def close(self) -> None:
        self._waker.close()
        if self._acceptor.is_alive():
            self._acceptor.join()
        self._wake.close()
        for endpoint in self.endpoints.values():
            endpoint.listener.close()
        with self._log_lock:
            self._log.close()

    def url(self, host: str, scheme: str) -> str:
        """Under which a client reaches a host: its own name on the usual port, else address and port. No final `/`."""
        return self.endpoints[host, scheme].url

    def rebase(self, url: str, scheme: str) -> str:
        """A mirror's URL as this server's client must spell it; URLs of other hosts stay."""
        parts = urllib.parse.urlsplit(url)
        if (parts.hostname, scheme) not in self.endpoints:
            return url
        return self.url(parts.hostname, scheme) + urllib.parse.urlunsplit(("", "", parts.path, parts.query, ""))

    def endpoint_at(self, host: str, port: int) -> Endpoint | None:
        """Who listens there, by the host's own name and usual port or by address."""
        return self._by_address.get((host, port))

    def profile(self, scheme: str) -> str:
        """TOML for xtask.local.toml: a mirror profile of everything that is played here."""
        below = {
            ecosystem: sorted(
                {path.name for path in self.options.fixtures.get(ecosystem, Path(os.devnull)).glob("*")}
                | (self.options.oci_registries.keys() if ecosystem == "oci" else set())
            )
            for ecosystem in ("files", "oci")
        }
        return profile(PROFILE_NAME, self.table, lambda host: self.url(host, scheme), below)

    def find(self, host: str, path: str) -> tuple[Route, str] | None:
        """The route and the prefix of `path` that it was found by; the CDN has every host's below its name."""
        if host != CDN_HOST:
            return self.table.find(host, path)
        origin, _, rest = path[1:].partition("/")
        found = self.table.find(origin, f"/{rest}")
        return found and (found[0], f"/{origin}{found[1]}")

    def answer(self, found: tuple[Route, str] | None, scheme: str, path: str, accept: str) -> Answer:
        """What a healthy mirror answers to `path`, which `found` was found for."""
        if found is None:
            return NOT_FOUND
        route, prefix = found
        request = Request(path, prefix, path[len(prefix) :], accept, lambda url: self.rebase(url, scheme))
        try:
            return healthy(self._sources, route, request)
        except UpstreamError as error:
            print(f"hostile-mirror: {route.host}{path}: {error}", file=sys.stderr)
            return Answer(502, f"{error}\n".encode())

    def log(self, **entry) -> None:
        with self._log_lock:
            if not self._log.closed:
                self._log.write(json.dumps({"time": now(), **entry}) + "\n")

    def log_entries(self) -> list[dict]:
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            for endpoint in self.endpoints.values():
                if self.plan.of_connection(endpoint.host) in (None, "tls"):
                    endpoint.listener.setblocking(False)
                    selector.register(endpoint.listener, selectors.EVENT_READ, endpoint)
            while True:
                for key, _ in selector.select():
                    if key.data is None:
                        return
                    try:
                        connection, _ = key.data.listener.accept()
                    except OSError:  # The client went away between select and accept.
                        continue
                    threading.Thread(target=self.converse, args=(connection, key.data), daemon=True).start()

    def converse(self, connection: socket.socket, endpoint: Endpoint, proxied: bool = False) -> None:
        """Serves one connection until it ends, and closes it."""
        connection.setblocking(True)
        connection.settimeout(IDLE_TIMEOUT_SECONDS)
        fault = self.plan.of_connection(endpoint.host)
        try:
            if endpoint.scheme == "https":
                context = self.authority.server_context(endpoint.host, self_signed=fault == "tls")
                connection = context.wrap_socket(connection, server_side=True)
        except OSError:
            self.log(
                ecosystem=None,
                host=endpoint.host,
                scheme=endpoint.scheme,
                proxied=proxied,
                method=None,
                path=None,
                status=0,
                bytes=0,
                range=None,
                user_agent=None,
                credentials=[],
                fault=fault,
            )
            connection.close()
            return
        try:
            with connection:
                Conversation(connection, self, endpoint, proxied)
        except OSError:
            pass  # The client hung up; what it was sent is in the log.


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")


def listen(address: str, port: int, fault: str | None) -> list[socket.socket]:
    """A listening socket, first, with what must stay open as long as it; `fault` is one of a connection, or None.

    A bound socket that does not listen refuses. A queue of no length, filled by one idle client, lets the kernel drop
    every further SYN.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    if fault == "dead":
        return [listener]
    if fault == "blackhole":
        listener.listen(0)
        return [listener, socket.create_connection(listener.getsockname())]
    listener.listen(socket.SOMAXCONN)
    return [listener]


@contextmanager
def serve_on_loopback(options: Options, address: str = "127.0.0.1") -> Iterator[HostileMirror]:
    """A running mirror, each host on ports of its own."""
    with ExitStack() as held:
        mirror = HostileMirror(options)
        endpoints = []
        for host in mirror.hosts:
            for scheme in DEFAULT_PORTS:
                sockets = listen(address, 0, mirror.plan.of_connection(host))
                for opened in sockets:
                    held.enter_context(opened)
                endpoints.append(Endpoint(host, scheme, sockets[0]))
        held.callback(mirror.close)  # Before its sockets.
        mirror.start(endpoints)
        yield mirror


def serve(options: Options, address: str) -> int:
    # Blocked before any thread starts, so that only sigwait below receives them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with serve_on_loopback(options, address) as mirror:
        hosts = {host: {scheme: mirror.url(host, scheme) for scheme in DEFAULT_PORTS} for host in mirror.hosts}
        ready = {
            "ca": str(mirror.authority.bundle),
            "log": str(mirror.log_path),
            "proxy": mirror.url(PROXY_HOST, "http"),
            "hosts": hosts,
        }
        print(json.dumps(ready), flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Plays public package mirrors, healthy or broken.")
    command = parser.add_subparsers(required=True, metavar="COMMAND").add_parser("serve", help="serve on loopback")
    Options.declare(command)
    command.add_argument("--listen", default="127.0.0.1", metavar="ADDRESS", help="(default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        return serve(Options.from_arguments(arguments), arguments.listen)
    except (RouteError, FaultError, AuthorityError, OSError) as error:
        print(f"hostile-mirror: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
