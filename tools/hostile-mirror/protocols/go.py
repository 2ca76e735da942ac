"""A module proxy and a checksum database. Rules: Go's "GOPROXY protocol" and "Checksum database" pages."""

import re

from answers import NOT_FOUND, Answer
from routes import Route

from .base import Request, Sources, fixture


def proxy(sources: Sources, route: Route, request: Request) -> Answer:
    if request.rest.startswith("sumdb/") and not route.sumdb:
        return NOT_FOUND
    if "go" in sources.fixtures:
        return fixture(sources.fixtures["go"], request.rest)
    lasting = re.search(r"/@v/v[^/]+\.(mod|zip)$", request.rest) is not None
    return sources.cache.get(sources.registries.go_proxy + request.rest, lasting=lasting)


def checksum_database(sources: Sources, _route: Route, request: Request) -> Answer:
    return sources.cache.get(sources.registries.go_sumdb + request.rest)
