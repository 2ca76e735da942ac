"""Plain files by the host they are published on, and mirrors that only know another one."""

from answers import Answer
from routes import Route

from .base import Request, Sources, fixture


def file(sources: Sources, route: Route, request: Request) -> Answer:
    """Fixtures first; then the host that the path, or the route's `origin`, begins with."""
    place = f"{route.origin}/{request.rest}" if route.origin else request.rest
    if "files" in sources.fixtures:
        return fixture(sources.fixtures["files"], place)
    return sources.cache.get(f"https://{place}")


def redirect(_sources: Sources, route: Route, request: Request) -> Answer:
    return Answer(302, b"", headers={"Location": route.to + request.rest})
