#!/usr/bin/env python3
"""A test server that plays public package mirrors, healthy or broken, and writes down every request.

Owns: the endpoints (one of each scheme a host, so that a fault of a connection hits one host only), sending, and the
access log. routes.py says who plays what, protocols.py what a healthy mirror answers, faults.py what goes wrong.
Never: listens on an address it was not given, or lets a client see a whole answer before the access log has its line.

    hostile_mirror.py serve --routes cn.toml --state DIR [--fault 'rsproxy.cn/*.crate=flip'] [--fixtures hub=DIR]

prints one JSON line when it is ready:
    {"ca": PATH, "log": PATH, "hosts": {"rsproxy.cn": {"http": "http://127.0.0.1:PORT", "https": "https://…"}, …}}
and serves until SIGINT or SIGTERM. The access log has one JSON object a line:
    {"time", "ecosystem", "host", "scheme", "method", "path", "status", "bytes", "range", "user_agent", "fault"}
`status` is 0 where nothing was answered: silence, or a TLS handshake that failed (`method` and `path` are then null).
From Python: `with serve_on_loopback(options) as mirror: mirror.url("rsproxy.cn", "http") …; mirror.log_entries()`.
"""

import argparse
import datetime
import hashlib
import json
import os
import re
import selectors
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from authority import Authority, AuthorityError
from faults import COUNTING_FAULTS, Fault, FaultError, FaultPlan, altered
from protocols import NOT_FOUND, Answer, Protocols, Request
from routes import ECOSYSTEMS, Route, RouteError, RouteTable
from upstream import Cache, Registries, UpstreamError

DEFAULT_PORTS = {"http": 80, "https": 443}
CHUNK_BYTES = 64 * 1024
IDLE_TIMEOUT_SECONDS = 60
DRIP_INTERVAL_SECONDS = 1.0


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

    @staticmethod
    def declare(parser: argparse.ArgumentParser) -> None:
        here = Path(__file__).resolve().parent
        cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        parser.add_argument("--routes", type=Path, default=here / "cn.toml", help="route table (default: %(default)s)")
        parser.add_argument("--state", type=Path, help="certificates and access log (default: a new directory)")
        parser.add_argument("--cache", type=Path, default=cache_home / "hostile-mirror", help="(default: %(default)s)")
        parser.add_argument("--fault", action="append", default=[], metavar="HOST/GLOB=NAME", help="see faults.py")
        parser.add_argument("--fixtures", action="append", default=[], metavar="ECOSYSTEM=DIR", help="see protocols.py")

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> "Options":
        """Raises RouteError for an unknown ecosystem."""
        fixtures = {}
        for text in arguments.fixtures:
            ecosystem, _, directory = text.partition("=")
            if ecosystem not in ECOSYSTEMS.values() or not Path(directory).is_dir():
                raise RouteError(
                    f"--fixtures {text}: write crates, go, simple or hub, `=`, and a directory that exists"
                )
            fixtures[ecosystem] = Path(directory)
        state = arguments.state or Path(tempfile.mkdtemp(prefix="hostile-mirror-"))
        return cls(arguments.routes, state, arguments.cache, arguments.fault, fixtures)


class HostileMirror:
    """Serves on sockets that others opened (`listen`). `plan` may be replaced at any time."""

    def __init__(self, options: Options):
        """Raises RouteError, FaultError, AuthorityError, OSError."""
        self.table = RouteTable.load(options.routes)
        self.plan = FaultPlan([Fault.parse(text) for text in options.faults])
        self.authority = Authority(options.state.resolve() / "authority")
        self.log_path = options.state.resolve() / "access.jsonl"
        self.endpoints: dict[tuple[str, str], Endpoint] = {}
        self._protocols = Protocols(Cache(options.cache), Registries(), options.fixtures)
        self._log = open(self.log_path, "w", buffering=1)
        self._log_lock = threading.Lock()
        self._wake, self._waker = socket.socketpair()
        self._acceptor = threading.Thread(target=self._accept, daemon=True)

    def start(self, endpoints: list[Endpoint]) -> None:
        self.endpoints = {(endpoint.host, endpoint.scheme): endpoint for endpoint in endpoints}
        self._acceptor.start()

    def close(self) -> None:
        self._waker.close()
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
        return self.url(parts.hostname, scheme) + parts.path

    def answer(self, found: tuple[Route, str] | None, scheme: str, path: str, accept: str) -> Answer:
        """What a healthy mirror answers to `path`, which `found` was found for."""
        if found is None:
            return NOT_FOUND
        route, prefix = found
        request = Request(path, prefix, path[len(prefix) :], accept, lambda url: self.rebase(url, scheme))
        try:
            return self._protocols.answer(route, request)
        except UpstreamError as error:
            print(f"hostile-mirror: {route.host}{path}: {error}", file=sys.stderr)
            return Answer(502, f"{error}\n".encode())

    def log(self, **entry) -> None:
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        with self._log_lock:
            if not self._log.closed:
                self._log.write(json.dumps({"time": now, **entry}) + "\n")

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
                    threading.Thread(target=self._converse, args=(connection, key.data), daemon=True).start()

    def _converse(self, connection: socket.socket, endpoint: Endpoint) -> None:
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
                method=None,
                path=None,
                status=0,
                bytes=0,
                range=None,
                user_agent=None,
                fault=fault,
            )
            connection.close()
            return
        try:
            with connection:
                Handler(connection, self, endpoint)
        except OSError:
            pass  # The client hung up; what it was sent is in the log.


class Handler(BaseHTTPRequestHandler):
    """One connection, HTTP/1.1 with keep-alive."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, connection: socket.socket, mirror: HostileMirror, endpoint: Endpoint):
        self.mirror, self.endpoint = mirror, endpoint
        super().__init__(connection, connection.getpeername(), None)

    def version_string(self) -> str:
        return "hostile-mirror"

    def log_message(self, *_arguments) -> None:
        """Silences the base class; the access log has its own form."""

    def do_GET(self) -> None:
        mirror, host, scheme = self.mirror, self.endpoint.host, self.endpoint.scheme
        path = self.path.partition("?")[0]
        found = mirror.table.find(host, path)
        self.ecosystem = found[0].ecosystem if found else None
        fault = mirror.plan.of_request(host, path)
        instead = mirror.plan.instead(fault, host, path) if fault else None
        if fault and instead is None and fault.name in COUNTING_FAULTS:
            fault = None  # Its turns are over.
        self.fault = fault.name if fault else None
        if self.fault == "silent":
            self._log(0, 0)
            self._await_hangup()
            return
        if instead is not None:
            answer = instead
        else:
            answer = with_etag(mirror.answer(found, scheme, path, self.headers.get("Accept", "*/*")))
            answer = altered(fault, answer) if fault else answer
            answer = self._conditional(answer)
        if "Location" in answer.headers:
            location = mirror.rebase(answer.headers["Location"], scheme)
            answer = replace(answer, headers={**answer.headers, "Location": location})
        self._send(answer)

    do_HEAD = do_GET

    def _conditional(self, answer: Answer) -> Answer:
        """RFC 9110: If-None-Match, then one byte range, with If-Range."""
        if answer.status != 200:
            return answer
        etag = answer.headers["ETag"]
        if self.headers.get("If-None-Match") == etag:
            return replace(answer, status=304, body=b"")
        if self.fault == "norange" or self.command == "HEAD":
            return answer
        answer = replace(answer, headers={**answer.headers, "Accept-Ranges": "bytes"})
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not wanted or wanted.groups() == ("", "") or self.headers.get("If-Range", etag) != etag:
            return answer
        size, (first, last) = len(answer.body), wanted.groups()
        start = int(first) if first else max(0, size - int(last))
        end = min(int(last), size - 1) if first and last else size - 1
        if start > end:
            return Answer(416, b"", headers={"Content-Range": f"bytes */{size}"})
        headers = {**answer.headers, "Content-Range": f"bytes {start}-{end}/{size}"}
        return replace(answer, status=206, body=answer.body[start : end + 1], headers=headers)

    def _send(self, answer: Answer) -> None:
        """The log line is written before the last bytes leave, so whoever has the whole answer also finds its line."""
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        if answer.status != 304:
            self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        body = b"" if self.command == "HEAD" else answer.body
        if self.fault == "trunc":
            body = body[: len(body) // 2]
            self.close_connection = True
        piece_bytes = 1 if self.fault == "drip" else CHUNK_BYTES
        pieces = [body[start : start + piece_bytes] for start in range(0, len(body), piece_bytes)]
        sent_bytes = 0
        try:
            if not pieces:
                self._log(answer.status, 0)
            self.end_headers()
            for piece in pieces:
                sent_bytes += len(piece)
                if sent_bytes == len(body):
                    self._log(answer.status, sent_bytes)
                self.wfile.write(piece)
                if self.fault == "drip":
                    time.sleep(DRIP_INTERVAL_SECONDS)
        except OSError:
            self.close_connection = True
            if sent_bytes < len(body):
                self._log(answer.status, sent_bytes)

    def _await_hangup(self) -> None:
        self.close_connection = True
        self.connection.settimeout(None)
        while self.connection.recv(CHUNK_BYTES):
            pass

    def _log(self, status: int, sent_bytes: int) -> None:
        self.mirror.log(
            ecosystem=self.ecosystem,
            host=self.endpoint.host,
            scheme=self.endpoint.scheme,
            method=self.command,
            path=self.path,
            status=status,
            bytes=sent_bytes,
            range=self.headers.get("Range"),
            user_agent=self.headers.get("User-Agent"),
            fault=self.fault,
        )


def with_etag(answer: Answer) -> Answer:
    """The registry's own ETag, else one of the healthy bytes: a mirror that alters bytes does not alter its ETag."""
    etag = f'"{hashlib.sha256(answer.body).hexdigest()[:32]}"'
    return replace(answer, headers={"ETag": etag, **answer.headers}) if answer.status == 200 else answer


def listen(address: str, port: int, fault: str | None) -> list[socket.socket]:
    """A listening socket, first, with what must stay open as long as it; `fault` is one of a connection, or None.

    A bound socket that does not listen refuses. A queue of no length, filled by one idle client, lets the kernel drop
    every further SYN.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    if fault == "refuse":
        return [listener]
    if fault == "blackhole":
        listener.listen(0)
        return [listener, socket.create_connection(listener.getsockname())]
    listener.listen(socket.SOMAXCONN)
    return [listener]


@contextmanager
def serve_on_loopback(options: Options, address: str = "127.0.0.1") -> Iterator[HostileMirror]:
    """A running mirror, each host on ports of its own."""
    mirror = HostileMirror(options)
    opened, endpoints = [], []
    for host in mirror.table.hosts:
        for scheme in DEFAULT_PORTS:
            opened.append(listen(address, 0, mirror.plan.of_connection(host)))
            endpoints.append(Endpoint(host, scheme, opened[-1][0]))
    mirror.start(endpoints)
    try:
        yield mirror
    finally:
        mirror.close()
        for sockets in opened:
            for held in sockets:
                held.close()


def serve(options: Options, address: str) -> int:
    # Blocked before any thread starts, so that only sigwait below receives them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with serve_on_loopback(options, address) as mirror:
        hosts = {host: {scheme: mirror.url(host, scheme) for scheme in DEFAULT_PORTS} for host in mirror.table.hosts}
        ready = {"ca": str(mirror.authority.bundle), "log": str(mirror.log_path), "hosts": hosts}
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
