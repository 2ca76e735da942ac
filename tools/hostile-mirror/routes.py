"""The route table: which mirror host and path plays which ecosystem, read from TOML (cn.toml documents the fields).

Never: names a registry that a mirror copies; those come from the tools (upstream.py).
"""

from dataclasses import dataclass
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10: the same parser, as pip carries it.
    from pip._vendor import tomli as tomllib

ECOSYSTEMS = {
    "crates-index": "crates",
    "crates-files": "crates",
    "go": "go",
    "sumdb": "go",
    "simple": "simple",
    "npm": "npm",
    "apt": "apt",
    "rustup-dist": "rustup",
    "rustup-self": "rustup",
    "hub": "hub",
    "oci": "oci",
    "files": "files",
    "redirect": "redirect",
}
"""Route kind -> the ecosystem that the access log names."""

REQUIRED_FIELDS = {"simple": "files", "redirect": "to", "apt": "archive"}
REGISTRY_ROOT = "/v2/"


class RouteError(Exception):
    """A route table that cannot be meant; names the file and the entry."""


@dataclass(frozen=True)
class Route:
    host: str
    path: str
    kind: str
    dl: str | None = None
    sumdb: bool = False
    files: str | None = None
    absolute: bool = False
    to: str | None = None
    archive: str | None = None
    registry: str | None = None
    origin: str | None = None

    @property
    def ecosystem(self) -> str:
        return ECOSYSTEMS[self.kind]

    @property
    def prefixes(self) -> list[str]:
        """Where it answers: a simple index also has files, and every registry is first asked for its root."""
        if self.kind == "oci":
            return [self.path, REGISTRY_ROOT]
        return [self.path, self.files] if self.files else [self.path]


class RouteTable:
    def __init__(self, routes: list[Route], bare_hosts: list[str] = ()):
        self.routes = routes
        self.hosts = sorted({route.host for route in routes} | set(bare_hosts))

    @classmethod
    def load(cls, path: Path) -> "RouteTable":
        """Raises RouteError naming the file and the entry, OSError if the file cannot be read."""
        try:
            document = tomllib.loads(path.read_text())
        except tomllib.TOMLDecodeError as error:
            raise RouteError(f"{path}: {error}") from error
        routes = []
        for entry in document.get("routes", []):
            try:
                route = Route(**entry)
            except TypeError as error:
                raise RouteError(f"{path}: route {entry}: {error}") from error
            if route.kind not in ECOSYSTEMS:
                raise RouteError(f"{path}: route {entry}: kind is one of {', '.join(ECOSYSTEMS)}")
            required = REQUIRED_FIELDS.get(route.kind)
            if required and not getattr(route, required):
                raise RouteError(f"{path}: route {entry}: kind `{route.kind}` needs `{required}`")
            routes.append(route)
        return cls(routes, document.get("bare_hosts", []))

    def find(self, host: str, path: str) -> tuple[Route, str] | None:
        """The route with the longest matching prefix, and that prefix."""
        matches = [
            (route, prefix)
            for route in self.routes
            if route.host == host
            for prefix in route.prefixes
            if path.startswith(prefix)
        ]
        return max(matches, key=lambda match: len(match[1]), default=None)
