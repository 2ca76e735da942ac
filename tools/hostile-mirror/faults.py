"""The named faults: how each is written on a command line, whom it hits, and what it does to a healthy answer.

Never: opens a socket or reads a file. hostile_mirror.py plays what is decided here.

    fault              hits       what a client meets
    refuse             host       connection refused
    blackhole          host       SYN packets dropped
    tls                host       a self-signed certificate
    silent             request    accepted, never answered
    drip               request    headers, then one byte a second
    html               request    200 and a captive portal's page
    trunc              request    half of the announced body, then the end of the connection
    429[:SECONDS]      request    429 with Retry-After until that long after the first refusal [1]
    502-then-ok[:N]    request    502 the first N times a path is asked for [1]
    flip               request    one byte of the body changed, same length
    redirect:URL       request    302 to URL, path appended
    norange            request    Range ignored, the whole file with 200
    stale:VERSION      request    index, list and page without that version, its files 404
"""

import fnmatch
import json
import re
import threading
import time
from dataclasses import dataclass, replace

from protocols import NOT_FOUND, SIMPLE_JSON, Answer

CONNECTION_FAULTS = {"refuse", "blackhole", "tls"}
COUNTING_FAULTS = {"429", "502-then-ok"}
DEFAULT_ARGUMENTS = {
    **dict.fromkeys([*sorted(CONNECTION_FAULTS), "silent", "drip", "html", "trunc", "flip", "norange"], ""),
    **dict.fromkeys(sorted(COUNTING_FAULTS), "1"),
}
NEEDS_ARGUMENT = {"redirect": "redirect:URL", "stale": "stale:VERSION"}
PORTAL_PAGE = (
    b"<!doctype html>\n<html><head><title>Sign in to the network</title></head>"
    b"<body>Please accept the terms to continue.</body></html>\n"
)


class FaultError(Exception):
    """A fault that cannot be meant; says what is wrong and what would be right."""


@dataclass(frozen=True)
class Fault:
    """`host` and `path` are shell globs in which `*` also matches `/`; `path` has its leading slash."""

    host: str
    path: str
    name: str
    argument: str

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """`HOST/GLOB=NAME[:ARGUMENT]`, or `HOST=NAME` for everything on that host. Raises FaultError."""
        where, equals, what = text.rpartition("=") if "=redirect:" not in text else text.partition("=")
        name, _, argument = what.partition(":")
        host, slash, path = where.partition("/")
        if not equals or not host:
            raise FaultError(f"fault `{text}`: write HOST/GLOB=NAME, for example rsproxy.cn/*=html")
        if name in NEEDS_ARGUMENT and not argument:
            raise FaultError(f"fault `{text}`: write {NEEDS_ARGUMENT[name]}")
        if name not in DEFAULT_ARGUMENTS and name not in NEEDS_ARGUMENT:
            known = ", ".join([*DEFAULT_ARGUMENTS, *NEEDS_ARGUMENT.values()])
            raise FaultError(f"fault `{text}`: unknown name `{name}`; known: {known}")
        if DEFAULT_ARGUMENTS.get(name) == "" and argument:
            raise FaultError(f"fault `{text}`: `{name}` takes no argument")
        if name in COUNTING_FAULTS and not re.fullmatch(r"\d*", argument):
            raise FaultError(f"fault `{text}`: `{name}` takes a number")
        path = f"/{path}" if slash else "/*"
        if name in CONNECTION_FAULTS and path != "/*":
            raise FaultError(f"fault `{text}`: `{name}` happens before a path is known; write {host}={name}")
        return cls(host, path, name, argument or DEFAULT_ARGUMENTS.get(name, ""))

    def hits_host(self, host: str) -> bool:
        return fnmatch.fnmatchcase(host, self.host)

    def hits(self, host: str, path: str) -> bool:
        return self.name not in CONNECTION_FAULTS and self.hits_host(host) and fnmatch.fnmatchcase(path, self.path)


class FaultPlan:
    """The faults of one server, first match wins, and what the counting ones remember. Safe from many threads."""

    def __init__(self, faults: list[Fault]):
        self.faults = list(faults)
        self._lock = threading.Lock()
        self._refusals: dict[tuple[Fault, str, str], list[float]] = {}

    def of_connection(self, host: str) -> str | None:
        return next((f.name for f in self.faults if f.name in CONNECTION_FAULTS and f.hits_host(host)), None)

    def of_request(self, host: str, path: str) -> Fault | None:
        return next((fault for fault in self.faults if fault.hits(host, path)), None)

    def instead(self, fault: Fault, host: str, path: str) -> Answer | None:
        """The answer that takes the place of a healthy one, if this fault gives one now."""
        if fault.name == "html":
            return Answer(200, PORTAL_PAGE, "text/html; charset=utf-8")
        if fault.name == "redirect":
            return Answer(302, b"", headers={"Location": fault.argument.rstrip("/") + path})
        if fault.name == "429" and self._refuse_until(fault, host, path):
            return Answer(429, b"too many requests\n", headers={"Retry-After": fault.argument})
        if fault.name == "502-then-ok" and self._refuse_times(fault, host, path):
            return Answer(502, b"bad gateway\n")
        if fault.name == "stale" and names_version(path, fault.argument):
            return NOT_FOUND
        return None

    def _refuse_until(self, fault: Fault, host: str, path: str) -> bool:
        now = time.monotonic()
        with self._lock:
            (first,) = self._refusals.setdefault((fault, host, path), [now])
        return now - first < int(fault.argument)

    def _refuse_times(self, fault: Fault, host: str, path: str) -> bool:
        with self._lock:
            refusals = self._refusals.setdefault((fault, host, path), [])
            refusals.append(time.monotonic())
            return len(refusals) <= int(fault.argument)


def altered(fault: Fault, answer: Answer) -> Answer:
    """A healthy answer with the bytes this fault changes; the other faults are about how it is sent."""
    if answer.status != 200 or not answer.body:
        return answer
    if fault.name == "flip":
        middle = len(answer.body) // 2
        changed = bytes([answer.body[middle] ^ 1])
        return replace(answer, body=answer.body[:middle] + changed + answer.body[middle + 1 :])
    if fault.name == "stale":
        return replace(answer, body=without_version(answer, fault.argument))
    return answer


def names_version(path: str, version: str) -> bool:
    """Whether the last parts of a path name an artefact of this version, as crates, modules and wheels spell it."""
    spelled = re.escape(version)
    return bool(
        re.search(rf"/{spelled}/download$|/@v/v?{spelled}\.(info|mod|zip)$|-{spelled}(-[^/]*\.whl|\.tar\.gz)", path)
    )


def without_version(answer: Answer, version: str) -> bytes:
    """An index, a version list or a simple page without the entries of one version."""
    if answer.content_type.startswith(SIMPLE_JSON):
        page = json.loads(answer.body)
        page["files"] = [file for file in page["files"] if not names_version(f"/{file['filename']}", version)]
        page["versions"] = [listed for listed in page.get("versions", []) if listed != version]
        return json.dumps(page).encode()
    lines = answer.body.decode("utf-8", "surrogateescape").splitlines(keepends=True)
    kept = [line for line in lines if not line_lists(line, version)]
    return "".join(kept).encode("utf-8", "surrogateescape")


def line_lists(line: str, version: str) -> bool:
    spelled = re.escape(version)
    patterns = (rf'"vers":\s*"{spelled}"', rf"^v?{spelled}$", rf"<a .*-{spelled}(-|\.tar\.gz)")
    return any(re.search(pattern, line.strip()) for pattern in patterns)
