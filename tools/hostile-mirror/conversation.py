"""One client's connection: HTTP/1.1 with keep-alive, each request answered as the mirror and its faults decide.

Owns: conditional and range requests, sending, the proxy's side of HTTP, what the access log says of a request.
Never: writes the value of a credential down, or lets a client see a whole answer before the access log has its line.
Rules: RFC 9110, RFC 9112.
"""

import base64
import fcntl
import hmac
import re
import selectors
import socket
import ssl
import struct
import termios
import time
import urllib.parse
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

from answers import Answer, Body, FileBody, pieces
from faults import COUNTING_FAULTS, PROXY_HOST, PROXY_REFUSALS, altered

if TYPE_CHECKING:
    from hostile_mirror import Endpoint, HostileMirror

CHUNK_BYTES = 256 * 1024
IDLE_TIMEOUT_SECONDS = 60
DRIP_BYTES_A_SECOND = 1
RATE_STEPS_A_SECOND = 20
LINK_STEPS_A_SECOND = 200
CREDENTIALS = re.compile(r"(proxy-)?authorization|cookie|x-api-key|(.*-)?(token|auth)(-.*)?", re.IGNORECASE)
HOP_HEADERS = {"connection", "proxy-connection", "proxy-authorization", "keep-alive"}
UNREACHABLE = {"dead": 502, "blackhole": 504}
"""What the proxy says of a host that it cannot reach."""


class Conversation(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, connection: socket.socket, mirror: "HostileMirror", endpoint: "Endpoint", proxied: bool = False):
        self.mirror, self.arrived_at, self.tunnelled = mirror, endpoint, proxied
        self.connected = False  # Whether the journey of a link's first packet is behind us.
        super().__init__(connection, connection.getpeername(), None)

    def version_string(self) -> str:
        return "hostile-mirror"

    def log_message(self, *_arguments) -> None:
        """Silences the base class; the access log has its own form."""

    def do_GET(self) -> None:
        self._begin()
        if self.arrived_at.host == PROXY_HOST and not self._pass_proxy():
            return
        mirror, host, scheme = self.mirror, self.endpoint.host, self.endpoint.scheme
        path = self.path.partition("?")[0]
        found = mirror.find(host, path)
        self.ecosystem = found[0].ecosystem if found else None
        fault = mirror.plan.of_answer(host, path)
        instead = mirror.plan.instead(fault, host, path, self.proxied) if fault else None
        if fault and instead is None and fault.name in {*COUNTING_FAULTS, "proxy-required"}:
            fault = None  # Its turns are over, or it is content.
        self.fault, self.sending = fault, mirror.plan.of_sending(host, path)
        if fault and fault.name == "silent":
            self._log(0, 0)
            self._await_hangup()
            return
        if instead is not None:
            answer = instead
        else:
            answer = mirror.answer(found, scheme, path, self.headers.get("Accept", "*/*")).with_etag()
            answer = altered(fault, answer, path) if fault else answer
            answer = self._conditional(answer)
        if "Location" in answer.headers:
            answer = answer.with_headers(Location=mirror.rebase(answer.headers["Location"], scheme))
        self._send(answer)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Mirrors are read only; the body is taken in so that the client gets to read this."""
        self._begin()
        remaining = int(self.headers.get("Content-Length", 0))
        while remaining > 0 and (piece := self.rfile.read(min(remaining, CHUNK_BYTES))):
            remaining -= len(piece)
        self._send(Answer(405, b"mirrors are read only\n"))

    do_PUT = do_PATCH = do_DELETE = do_POST

    def do_CONNECT(self) -> None:
        self._begin()
        if self.arrived_at.host != PROXY_HOST:
            self._send(Answer(405, b"this is not a proxy\n"))
            return
        host, _, port = self.path.rpartition(":")
        beyond = self._beyond_proxy(host.strip("[]"), int(port) if port.isdecimal() else 0)
        if beyond is None:
            return
        self.close_connection = True
        self._log(200, 0)
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        if isinstance(beyond, socket.socket):
            relay(self.connection, beyond)
        else:
            self.mirror.converse(self.connection, beyond, proxied=True)

    def _begin(self) -> None:
        self.endpoint, self.proxied = self.arrived_at, self.tunnelled
        self.ecosystem = self.fault = self.sending = None

    def _pass_proxy(self) -> bool:
        """Whether the request is one to a host of this program, which from here on it is."""
        url = urllib.parse.urlsplit(self.path)
        if url.scheme != "http" or not url.hostname:
            self._send(Answer(400, b"this is a proxy: ask it for http://HOST/PATH, or CONNECT\n"))
            return False
        beyond = self._beyond_proxy(url.hostname, url.port or 80)
        if beyond is None:
            return False
        path = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))
        if isinstance(beyond, socket.socket):
            self.close_connection = True
            self._log(0, 0)
            passed_on = [f"{name}: {value}" for name, value in self.headers.items() if name.lower() not in HOP_HEADERS]
            request = [f"{self.command} {path} HTTP/1.1", *passed_on, "Connection: close", "", ""]
            beyond.sendall("\r\n".join(request).encode("latin-1"))
            relay(self.connection, beyond)
            return False
        self.endpoint, self.path, self.proxied = beyond, path, True
        return True

    def _beyond_proxy(self, host: str, port: int) -> "Endpoint | socket.socket | None":
        """A host of this program, or a connection to one outside if the proxy is open. None: the client was refused."""
        options, endpoint = self.mirror.options, self.mirror.endpoint_at(host, port)
        wanted, given = options.proxy_user, self.headers.get("Proxy-Authorization", "").partition(" ")[2]
        if wanted and not hmac.compare_digest(given, base64.b64encode(wanted.encode()).decode()):
            self._send(Answer(407, b"proxy password wanted\n", headers=PROXY_REFUSALS["407"]))
        elif endpoint and (unreachable := UNREACHABLE.get(self.mirror.plan.of_connection(endpoint.host))):
            self._send(Answer(unreachable, f"{host} cannot be reached\n".encode()))
        elif endpoint:
            return endpoint
        elif not options.proxy_open:
            self._send(Answer(403, f"{host}:{port} is not a host of this network\n".encode()))
        else:
            try:
                return socket.create_connection((host, port), IDLE_TIMEOUT_SECONDS)
            except OSError as error:
                self._send(Answer(502, f"{host}:{port}: {error}\n".encode()))
        return None

    def _conditional(self, answer: Answer) -> Answer:
        """RFC 9110: If-None-Match, then one byte range, with If-Range."""
        if answer.status != 200:
            return answer
        etag = answer.headers["ETag"]
        if self.headers.get("If-None-Match") == etag:
            return replace(answer, status=304, body=b"")
        if (self.fault and self.fault.name == "norange") or self.command == "HEAD":
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
        sending = self.sending.name if self.sending else None
        numbers = self.sending.argument.split(":") if self.sending and self.sending.argument else ["0"]
        amount = int(numbers[-1])
        if sending == "slow":
            time.sleep(amount / 1000)
        elif sending == "link":
            time.sleep(int(numbers[0]) / 1000 * (1 if self.connected else 2))
            self.connected = True
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        if answer.status != 304:
            self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        body = b"" if self.command == "HEAD" else answer.body
        cut_at = {"trunc": len(body) // 2, "reset": amount}.get(sending, len(body))
        cut = cut_at < len(body)
        body = body[:cut_at]
        bytes_a_second = {"drip": DRIP_BYTES_A_SECOND, "rate": amount}.get(sending)
        piece_bytes = max(1, bytes_a_second // RATE_STEPS_A_SECOND) if bytes_a_second else CHUNK_BYTES
        if sending == "link":
            piece_bytes = max(1, amount // LINK_STEPS_A_SECOND)
        in_one_piece = len(body) <= piece_bytes
        sent_bytes, started = 0, time.monotonic()
        try:
            if in_one_piece:  # Some clients go by the headers alone.
                self._log(answer.status, len(body))
            self.end_headers()
            for piece in pieces(body, piece_bytes):
                sent_bytes += len(piece)
                if sent_bytes == len(body) and not in_one_piece:
                    self._log(answer.status, sent_bytes)
                if sending == "link":
                    time.sleep(self.mirror.plan.passage(self.sending, len(piece)))
                self._write(piece)
                if bytes_a_second:
                    time.sleep(max(0.0, started + sent_bytes / bytes_a_second - time.monotonic()))
            if cut:
                self.close_connection = True
                if sending == "reset":
                    self._arm_reset()
        except OSError:
            self.close_connection = True
            if sent_bytes < len(body) and not in_one_piece:
                self._log(answer.status, sent_bytes)

    def _write(self, piece: Body) -> None:
        plain = not isinstance(self.connection, ssl.SSLSocket)
        if not isinstance(piece, FileBody) or not plain or piece.holds_flipped():
            self.wfile.write(bytes(piece))
            return
        with open(piece.path, "rb") as file:
            if self.connection.sendfile(file, piece.start, len(piece)) != len(piece):
                raise ConnectionError(f"{piece.path} became shorter")

    def _arm_reset(self) -> None:
        """Makes the coming close a reset, once the client has what was sent: a reset throws away what still waits."""
        deadline = time.monotonic() + IDLE_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            waiting = fcntl.ioctl(self.connection, termios.TIOCOUTQ, struct.pack("i", 0))
            if struct.unpack("i", waiting) == (0,):
                break
            time.sleep(0.0005)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

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
            proxied=self.proxied,
            method=self.command,
            path=self.path,
            status=status,
            bytes=sent_bytes,
            range=self.headers.get("Range"),
            user_agent=self.headers.get("User-Agent"),
            credentials=sorted({name.lower() for name in self.headers if CREDENTIALS.fullmatch(name)}),
            fault="+".join(fault.name for fault in (self.fault, self.sending) if fault) or None,
        )


def relay(client: socket.socket, outside: socket.socket) -> None:
    """Copies both ways until either side has ended."""
    with outside, selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ, outside)
        selector.register(outside, selectors.EVENT_READ, client)
        while ready := selector.select(IDLE_TIMEOUT_SECONDS):
            for key, _ in ready:
                content = key.fileobj.recv(CHUNK_BYTES)
                if not content:
                    return
                key.data.sendall(content)
