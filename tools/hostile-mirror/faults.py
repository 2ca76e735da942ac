"""The named faults: how each is written on a command line, whom it hits, and what it does to a healthy answer.

Never: opens a socket or reads a file. hostile_mirror.py plays what is decided here.

    fault                hits      what a client meets
    dead                 host      connection refused                                              (also: refuse)
    blackhole            host      SYN packets dropped
    tls                  host      a self-signed certificate
    silent               request   accepted, never answered
    html                 request   200 and a captive portal's page
    429[:SECONDS]        request   429 with Retry-After until that long after the first refusal of this path; 1
    5xx-then-fine[:N]    request   502 the first N times this path is asked for; 1              (also: 502-then-ok)
    stale:VERSION        request   index, list and page without that version, its files 404. What is signed stays whole
    flip                 request   one byte of the body changed, same length, same ETag
    leak                 request   302 to the upstream CDN, a host of this program in no table, which has the file
    redirect:URL         request   302 to URL, path appended
    proxy-required[:407] request   407 or 403, unless it came through this program's proxy
    norange              request   Range ignored, the whole file with 200
    slow:MS              request   that long before the first byte
    drip                 request   headers, then one byte a second
    rate:BYTES           request   so many bytes a second
    link:MS:BYTES        request   a sound line: a journey of MS there and back before each answer, one more on a new
                                   connection, and so many bytes a second for all connections together
    trunc                request   half of the announced body, then the end of the connection
    reset:BYTES          request   that much of the announced body arrives, then a TCP reset
"""

import fnmatch
import json
import re
import threading
import time
import urllib.parse
from dataclasses import dataclass, replace

from answers import NOT_FOUND, Answer, FileBody, flip
from protocols.simple import SIMPLE_JSON

CONNECTION_FAULTS = {"dead", "blackhole", "tls"}
COUNTING_FAULTS = {"429", "5xx-then-fine"}
SENDING_FAULTS = {"slow", "drip", "rate", "link", "trunc", "reset"}
ALIASES = {"refuse": "dead", "502-then-ok": "5xx-then-fine"}
DEFAULT_ARGUMENTS = {
    **dict.fromkeys([*sorted(CONNECTION_FAULTS), "silent", "html", "flip", "leak", "norange", "drip", "trunc"], ""),
    **dict.fromkeys(sorted(COUNTING_FAULTS), "1"),
    "proxy-required": "407",
}
NEEDS_ARGUMENT = {
    "redirect": "URL",
    "stale": "VERSION",
    "slow": "MS",
    "rate": "BYTES",
    "link": "MS:BYTES",
    "reset": "BYTES",
}
NUMBERS = {*COUNTING_FAULTS, "proxy-required", "slow", "rate", "reset"}
CDN_HOST = "upstream-cdn.test"
"""Where `leak` leads: /<host><path> there is what <host> has at <path>. Its lines in the access log are the count."""
PROXY_HOST = "proxy.test"
OWN_HOSTS = (CDN_HOST, PROXY_HOST)
PROXY_REFUSALS = {"407": {"Proxy-Authenticate": 'Basic realm="proxy.test"'}, "403": {}}
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
        name = ALIASES.get(name, name)
        host, slash, path = where.partition("/")
        if not equals or not host:
            raise FaultError(f"fault `{text}`: write HOST/GLOB=NAME, for example rsproxy.cn/*=html")
        if name in NEEDS_ARGUMENT and not argument:
            raise FaultError(f"fault `{text}`: write {name}:{NEEDS_ARGUMENT[name]}")
        if name not in DEFAULT_ARGUMENTS and name not in NEEDS_ARGUMENT:
            known = ", ".join([*DEFAULT_ARGUMENTS, *(f"{name}:{what}" for name, what in NEEDS_ARGUMENT.items())])
            raise FaultError(f"fault `{text}`: unknown name `{name}`; known: {known}")
        if DEFAULT_ARGUMENTS.get(name) == "" and argument:
            raise FaultError(f"fault `{text}`: `{name}` takes no argument")
        argument = argument or DEFAULT_ARGUMENTS[name]
        if name in NUMBERS and not (argument.isdecimal() and int(argument) > 0):
            raise FaultError(f"fault `{text}`: `{name}` takes a number")
        if name == "link" and not re.fullmatch(r"[1-9]\d*:[1-9]\d*", argument):
            raise FaultError(f"fault `{text}`: `link` takes two numbers, for example link:40:12500000")
        if name == "proxy-required" and argument not in PROXY_REFUSALS:
            raise FaultError(f"fault `{text}`: `{name}` takes 407 or 403")
        path = f"/{path}" if slash else "/*"
        if name in CONNECTION_FAULTS and path != "/*":
            raise FaultError(f"fault `{text}`: `{name}` happens before a path is known; write {host}={name}")
        return cls(host, path, name, argument)

    def hits_host(self, host: str) -> bool:
        """The hosts of no table are hit by their own name only: `*=dead` leaves the proxy and the CDN alone."""
        return host == self.host if host in OWN_HOSTS else fnmatch.fnmatchcase(host, self.host)

    def hits(self, host: str, path: str) -> bool:
        return self.name not in CONNECTION_FAULTS and self.hits_host(host) and fnmatch.fnmatchcase(path, self.path)


class FaultPlan:
    """The faults of one server and what the counting ones remember. Safe from many threads.

    A connection has at most one fault. An answer has at most one that decides it and one that is about sending it,
    `norange` and `reset:4096` for instance; of each the first that hits.
    """

    def __init__(self, faults: list[Fault]):
        self.faults = list(faults)
        self._lock = threading.Lock()
        self._refusals: dict[tuple[Fault, str, str], list[float]] = {}
        self._links_free: dict[Fault, float] = {}

    def of_connection(self, host: str) -> str | None:
        return next((f.name for f in self.faults if f.name in CONNECTION_FAULTS and f.hits_host(host)), None)

    def of_answer(self, host: str, path: str) -> Fault | None:
        return next((f for f in self.faults if f.name not in SENDING_FAULTS and f.hits(host, path)), None)

    def of_sending(self, host: str, path: str) -> Fault | None:
        return next((f for f in self.faults if f.name in SENDING_FAULTS and f.hits(host, path)), None)

    def instead(self, fault: Fault, host: str, path: str, proxied: bool) -> Answer | None:
        """The answer that takes the place of a healthy one, if this fault gives one now."""
        match fault.name:
            case "html":
                return Answer(200, PORTAL_PAGE, "text/html; charset=utf-8")
            case "redirect":
                return Answer(302, b"", headers={"Location": fault.argument.rstrip("/") + path})
            case "leak":
                return Answer(302, b"", headers={"Location": f"https://{CDN_HOST}/{host}{path}"})
            case "proxy-required" if not proxied:
                return Answer(int(fault.argument), b"use the proxy\n", headers=PROXY_REFUSALS[fault.argument])
            case "429" if self._refuse_until(fault, host, path):
                return Answer(429, b"too many requests\n", headers={"Retry-After": fault.argument})
            case "5xx-then-fine" if self._refuse_times(fault, host, path):
                return Answer(502, b"bad gateway\n")
            case "stale" if names_version(path, fault.argument):
                return NOT_FOUND
        return None

    def passage(self, link: Fault, size_bytes: int) -> float:
        """Seconds until so many bytes have come through a link, behind those that others sent before them."""
        bytes_a_second, now = int(link.argument.partition(":")[2]), time.monotonic()
        with self._lock:
            free = max(now, self._links_free.get(link, now)) + size_bytes / bytes_a_second
            self._links_free[link] = free
        return free - now

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


def altered(fault: Fault, answer: Answer, path: str) -> Answer:
    """A healthy answer with the bytes this fault changes."""
    if answer.status != 200 or not answer.body:
        return answer
    if fault.name == "flip":
        body, middle = answer.body, len(answer.body) // 2
        flipped = replace(body, flipped=middle) if isinstance(body, FileBody) else flip(body, middle)
        return replace(answer, body=flipped)
    if fault.name == "stale" and not ARTEFACT.search(path):
        return replace(answer, body=without_version(answer, fault.argument))
    return answer


ARTEFACT = re.compile(r"/download$|\.(crate|zip|mod|info|whl|metadata|gz|xz|tgz|deb)$|/(blobs|by-hash|resolve)/")
"""Paths of single files, which list no versions."""


def names_version(path: str, version: str) -> bool:
    """Whether a path names an artefact of this version, as each ecosystem spells it."""
    spelled = re.escape(version)
    artefacts = (
        rf"/{spelled}/download$",
        rf"/@v/v?{spelled}\.(info|mod|zip)$",
        rf"-{spelled}((-[^/]*)?\.(whl|tar\.[gx]z|tgz)|\.toml)",
        rf"_{spelled}_[^/]*\.deb$",
        rf"/(resolve|revision|tree)/{spelled}(/|$)",
        rf"/manifests/{spelled}$",
    )
    return re.search("|".join(artefacts), urllib.parse.unquote(path)) is not None


def without_version(answer: Answer, version: str) -> bytes:
    """An index, a version list, a simple page, a packument or a list of tags without the entries of one version."""
    content = bytes(answer.body)
    if "json" in answer.content_type:
        document = json.loads(content)
        if answer.content_type.startswith(SIMPLE_JSON):
            document["files"] = [it for it in document["files"] if not names_version(f"/{it['filename']}", version)]
            document["versions"] = [listed for listed in document.get("versions", []) if listed != version]
        elif "dist-tags" in document:
            document["versions"].pop(version, None)
            left = list(document["versions"])[-1:]
            for tag in [tag for tag, named in document["dist-tags"].items() if named == version]:
                document["dist-tags"] |= {tag: left[0]} if left else {}
        elif "tags" in document:
            document["tags"] = [tag for tag in document["tags"] if tag != version]
        return json.dumps(document).encode()
    lines = content.decode("utf-8", "surrogateescape").splitlines(keepends=True)
    kept = [line for line in lines if not line_lists(line, version)]
    return "".join(kept).encode("utf-8", "surrogateescape")


def line_lists(line: str, version: str) -> bool:
    spelled = re.escape(version)
    patterns = (rf'"vers":\s*"{spelled}"', rf"^v?{spelled}$", rf"<a .*-{spelled}(-|\.tar\.gz)")
    return any(re.search(pattern, line.strip()) for pattern in patterns)
