"""A Python simple index and its files. Rules: PEP 503, 658 and 691."""

import html
import json
import re
import urllib.parse
from pathlib import Path, PurePosixPath

from answers import NOT_FOUND, Answer, FileBody
from routes import Route

from .base import Request, Sources, fixture

SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"


def index_or_file(sources: Sources, route: Route, request: Request) -> Answer:
    fixtures = sources.fixtures.get("simple")
    if request.prefix == route.files:
        if fixtures:
            return fixture(fixtures, request.rest)
        return sources.cache.get(sources.registries.simple_files + request.rest, lasting=True)
    link_base = relative(route.files, request.path)
    if route.absolute:
        link_base = request.base_url(f"https://{route.host}{route.files}")
    if fixtures:
        return wheel_page(fixtures, request.rest.rstrip("/"), link_base, SIMPLE_JSON in request.accept)
    page = sources.cache.get(sources.registries.simple_index + request.rest, request.accept)
    body = bytes(page.body).replace(sources.registries.simple_files.encode(), link_base.encode())
    return Answer(page.status, body, page.content_type)


def wheel_page(directory: Path, project: str, link_base: str, as_json: bool) -> Answer:
    """The simple page of one project, from the wheels in the directory."""
    normalized = normal(project)
    wheels = [wheel for wheel in sorted(directory.glob("*.whl")) if normal(wheel.name.split("-")[0]) == normalized]
    if not wheels:
        return NOT_FOUND
    files = [
        {
            "filename": wheel.name,
            "url": link_base + urllib.parse.quote(wheel.name),
            "hashes": {"sha256": FileBody.whole(wheel).digest()},
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


def normal(project: str) -> str:
    return re.sub(r"[-_.]+", "-", project).lower()


def relative(target: str, page: str) -> str:
    """The link from a page to a directory: ("/pypi/packages/", "/pypi/simple/six/") -> "../../packages/"."""
    below = PurePosixPath(page if page.endswith("/") else page.rpartition("/")[0])
    common = below
    while not PurePosixPath(target).is_relative_to(common):
        common = common.parent
    up = len(below.parts) - len(common.parts)
    return "../" * up + "".join(f"{part}/" for part in PurePosixPath(target).relative_to(common).parts)
