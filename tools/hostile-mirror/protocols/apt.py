"""A Debian archive: dists/, pool/ and by-hash/, with every byte as it was signed. Rules: DebianRepository/Format."""

from answers import Answer
from routes import Route

from .base import Request, Sources, fixture


def archive(sources: Sources, route: Route, request: Request) -> Answer:
    if "apt" in sources.fixtures:
        return fixture(sources.fixtures["apt"] / route.archive, request.rest)
    lasting = request.rest.startswith("pool/") or "/by-hash/" in request.rest
    return sources.cache.get(sources.registries.apt_archive(route.archive) + request.rest, lasting=lasting)
