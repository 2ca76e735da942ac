"""A rustup server: channel manifests and components below dist/, rustup itself below another root.

Manifests keep the URLs they were published with: rustup puts RUSTUP_DIST_SERVER in their place. Rules: rustup's
"Environment variables" page and src/dist/.
"""

import re

from answers import NOT_FOUND, Answer
from routes import Route

from .base import Request, Sources, fixture

LASTING = re.compile(r"dist/\d{4}-\d\d-\d\d/|dist/channel-rust-\d+\.\d+\.\d+\.toml|rustup/archive/")


def dist(sources: Sources, _route: Route, request: Request) -> Answer:
    return served(sources, request.rest) if request.rest.startswith("dist/") else NOT_FOUND


def update_root(sources: Sources, _route: Route, request: Request) -> Answer:
    return served(sources, f"rustup/{request.rest}")


def served(sources: Sources, path: str) -> Answer:
    if "rustup" in sources.fixtures:
        return fixture(sources.fixtures["rustup"], path)
    return sources.cache.get(sources.registries.rustup + path, lasting=LASTING.match(path) is not None)
