"""What a healthy mirror answers: one function a route kind, from the real registry or from a directory of fixtures.

Never: breaks anything (faults.py does), or opens a socket (upstream.py does).
Rules: cargo's registry index and web API pages, Go's GOPROXY protocol, PEP 503, 658 and 691, the hub's `resolve`.

Fixture directories, by ecosystem:
    crates   cargo's local registry: index/<sparse path> and <crate>-<version>.crate
    go       $GOMODCACHE/cache/download, which is a module proxy as files
    simple   wheels, flat
    hub      <org>/<repo>/<file>; the revision asked for is taken as it comes
"""

import hashlib
import html
import json
import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from routes import Route
from upstream import Cache, Fetched, Registries

SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"
BINARY = "application/octet-stream"


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, fetched: Fetched) -> "Answer":
        return cls(fetched.status, fetched.body, fetched.content_type, {"ETag": fetched.etag} if fetched.etag else {})


NOT_FOUND = Answer(404, b"not found\n")


@dataclass(frozen=True)
class Request:
    """`rest` is the path below `prefix`, percent-encoding as it came; `base_url` turns a mirror URL into the one under
    which this client reaches the same host."""

    path: str
    prefix: str
    rest: str
    accept: str
    base_url: Callable[[str], str]


class Protocols:
    def __init__(self, cache: Cache, registries: Registries, fixtures: dict[str, Path]):
        self.cache, self.registries, self.fixtures = cache, registries, fixtures

    def answer(self, route: Route, request: Request) -> Answer:
        """Raises UpstreamError when the real registry is needed and does not answer."""
        handlers = {
            "crates-index": self._crates_index,
            "crates-files": self._crates_file,
            "go": self._go,
            "hub": self._hub,
            "sumdb": self._sumdb,
            "simple": self._simple,
            "redirect": self._redirect,
        }
        return handlers[route.kind](route, request)

    def _crates_index(self, route: Route, request: Request) -> Answer:
        fixtures = self.fixtures.get("crates")
        if request.rest == "config.json" and (route.dl or fixtures):
            return Answer(200, json.dumps({"dl": request.base_url(route.dl)}).encode(), "application/json")
        if fixtures:
            return fixture(fixtures / "index", request.rest)
        return Answer.of(self.cache.get(self.registries.crates_index + request.rest))

    def _crates_file(self, _route: Route, request: Request) -> Answer:
        shape = re.fullmatch(r"([\w-]+)/([\w.+%-]+)/download", request.rest)
        if not shape:
            return NOT_FOUND
        crate, version = shape.groups()
        if "crates" in self.fixtures:
            return fixture(self.fixtures["crates"], f"{crate}-{version}.crate")
        dl = json.loads(self.cache.get(self.registries.crates_index + "config.json").body)["dl"]
        if "{" not in dl:
            dl += "/{crate}/{version}/download"
        return Answer.of(self.cache.get(dl.replace("{crate}", crate).replace("{version}", version)))

    def _go(self, route: Route, request: Request) -> Answer:
        if request.rest.startswith("sumdb/") and not route.sumdb:
            return NOT_FOUND
        if "go" in self.fixtures:
            return fixture(self.fixtures["go"], request.rest)
        return Answer.of(self.cache.get(self.registries.go_proxy + request.rest))

    def _sumdb(self, _route: Route, request: Request) -> Answer:
        return Answer.of(self.cache.get(self.registries.go_sumdb + request.rest))

    def _simple(self, route: Route, request: Request) -> Answer:
        fixtures = self.fixtures.get("simple")
        if request.prefix == route.files:
            if fixtures:
                return fixture(fixtures, request.rest)
            return Answer.of(self.cache.get(self.registries.simple_files + request.rest))
        link_base = relative(route.files, request.path)
        if route.absolute:
            link_base = request.base_url(f"https://{route.host}{route.files}")
        if fixtures:
            return wheel_page(fixtures, request.rest.rstrip("/"), link_base, SIMPLE_JSON in request.accept)
        page = self.cache.get(self.registries.simple_index + request.rest, request.accept)
        body = page.body.replace(self.registries.simple_files.encode(), link_base.encode())
        return Answer(page.status, body, page.content_type)

    def _hub(self, _route: Route, request: Request) -> Answer:
        shape = re.fullmatch(r"([^/]+/[^/]+)/resolve/([^/]+)/(.+)", request.rest)
        if not shape or "hub" not in self.fixtures:
            return NOT_FOUND
        repo, revision, file = shape.groups()
        answer = fixture(self.fixtures["hub"], f"{repo}/{file}")
        if answer.status != 200:
            return answer
        # A branch or tag has no commit here; any 40 hex digits that stay the same do.
        commit = revision if re.fullmatch(r"[0-9a-f]{40}", revision) else hashlib.sha1(revision.encode()).hexdigest()
        etag = f'"{hashlib.sha256(answer.body).hexdigest()}"'
        headers = {"X-Repo-Commit": commit, "ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(len(answer.body))}
        return Answer(200, answer.body, answer.content_type, headers)

    @staticmethod
    def _redirect(route: Route, request: Request) -> Answer:
        return Answer(302, b"", headers={"Location": route.to + request.rest})


def fixture(directory: Path, rest: str) -> Answer:
    """The file at `rest` below the directory; a path that leads out of it is not found."""
    path = (directory / urllib.parse.unquote(rest)).resolve()
    if not path.is_relative_to(directory.resolve()) or not path.is_file():
        return NOT_FOUND
    return Answer(200, path.read_bytes(), BINARY)


def wheel_page(directory: Path, project: str, link_base: str, as_json: bool) -> Answer:
    """The simple page of one project, from the wheels in the directory."""
    normalized = re.sub(r"[-_.]+", "-", project).lower()
    wheels = [
        wheel
        for wheel in sorted(directory.glob("*.whl"))
        if re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower() == normalized
    ]
    if not wheels:
        return NOT_FOUND
    files = [
        {
            "filename": wheel.name,
            "url": link_base + urllib.parse.quote(wheel.name),
            "hashes": {"sha256": hashlib.sha256(wheel.read_bytes()).hexdigest()},
        }
        for wheel in wheels
    ]
    if as_json:
        page = {"meta": {"api-version": "1.0"}, "name": normalized, "files": files}
        return Answer(200, json.dumps(page).encode(), SIMPLE_JSON)
    links = "".join(
        f'<a href="{html.escape(file["url"])}#sha256={file["hashes"]["sha256"]}">{file["filename"]}</a><br/>\n'
        for file in files
    )
    return Answer(200, f"<!DOCTYPE html>\n<html><body>\n{links}</body></html>\n".encode(), "text/html; charset=utf-8")


def relative(target: str, page: str) -> str:
    """The link from a page to a directory: ("/pypi/packages/", "/pypi/simple/six/") -> "../../packages/"."""
    below = PurePosixPath(page if page.endswith("/") else page.rpartition("/")[0])
    common = below
    while not PurePosixPath(target).is_relative_to(common):
        common = common.parent
    up = len(below.parts) - len(common.parts)
    return "../" * up + "".join(f"{part}/" for part in PurePosixPath(target).relative_to(common).parts)
