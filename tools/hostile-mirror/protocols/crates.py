"""A sparse index and its crate files. Rules: cargo's "Registry Index" and "Registry Web API" pages."""

import json
import re

from answers import JSON, NOT_FOUND, Answer
from routes import Route

from .base import Request, Sources, fixture


def index(sources: Sources, route: Route, request: Request) -> Answer:
    fixtures = sources.fixtures.get("crates")
    if request.rest == "config.json" and (route.dl or fixtures):
        return Answer(200, json.dumps({"dl": request.base_url(route.dl)}).encode(), JSON)
    if fixtures:
        return fixture(fixtures / "index", request.rest)
    return sources.cache.get(sources.registries.crates_index + request.rest)


def file(sources: Sources, _route: Route, request: Request) -> Answer:
    shape = re.fullmatch(r"([\w-]+)/([\w.+%-]+)/download", request.rest)
    if not shape:
        return NOT_FOUND
    crate, version = shape.groups()
    if "crates" in sources.fixtures:
        return fixture(sources.fixtures["crates"], f"{crate}-{version}.crate")
    dl = json.loads(bytes(sources.cache.get(sources.registries.crates_index + "config.json").body))["dl"]
    if "{" not in dl:
        dl += "/{crate}/{version}/download"
    return sources.cache.get(dl.replace("{crate}", crate).replace("{version}", version), lasting=True)
