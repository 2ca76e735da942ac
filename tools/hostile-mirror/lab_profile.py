"""A mirror profile for xtask.local.toml, with every route of a table where this server plays it.

Never: lists a host that the table does not have (what no route plays is not in the profile), or replaces a file that
somebody else wrote.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from routes import REGISTRY_ROOT, Route, RouteError, RouteTable

MARK = "# Written by hostile-mirror, for as long as it serves."

# A table of the profile, its key, the kind of route it lists, and how it writes one.
LISTS = (
    ("crates", "list", "crates-index", "sparse+{url}"),
    ("go", "proxy", "go", "{bare_url}"),
    ("python", "list", "simple", "{url}"),
    ("hub", "endpoints", "hub", "{bare_url}"),
    ("npm", "list", "npm", "{url}"),
)


def profile(name: str, table: RouteTable, base_url: Callable[[str], str], below: dict[str, Iterable[str]]) -> str:
    """TOML. `base_url`: host -> URL without final `/`; `below`: what a registry by path prefix (`oci`) and a place for
    files (`files`) have below them, which routes leave open.
    """

    def url(route: Route) -> str:
        return base_url(route.host) + route.path

    def of_kind(kind: str) -> list[Route]:
        return [route for route in table.routes if route.kind == kind]

    tables: dict[str, dict[str, list]] = {}
    for ecosystem, key, kind, form in LISTS:
        tables[ecosystem] = {
            key: [form.format(url=url(route), bare_url=url(route).rstrip("/")) for route in of_kind(kind)]
        }
    tables["rustup"] = {"list": pairs(of_kind("rustup-dist"), of_kind("rustup-self"), url)}
    base, security = ([r for r in of_kind("apt") if r.archive.endswith("-security") is it] for it in (False, True))
    tables["apt"] = {"list": pairs(base, security, url)}
    tables["files"], tables["oci"] = {}, {}
    for route in of_kind("files"):
        for origin in [route.origin] if route.origin else below["files"]:
            inside = "" if route.origin else f"{origin}/"
            tables["files"].setdefault(origin, []).append(f"{url(route)}{inside}{{path}}")
    for route in of_kind("oci"):
        # A reference, which is reached by https; plain http has to be said.
        place = url(route).replace(REGISTRY_ROOT, "/", 1).removeprefix("https://")
        for registry in [route.registry] if route.registry else below["oci"]:
            inside = "" if route.registry else f"{registry}/"
            tables["oci"].setdefault(registry, []).append(f"{place}{inside}{{repo}}")
    lines = [MARK, f"[mirror.{name}]", 'egress = "mirrors-only"']
    if led_to := [base_url(route.host).partition("://")[2] for route in of_kind("crates-files")]:
        lines.append(f"hosts = {json.dumps(led_to)}")
    for ecosystem, entries in tables.items():
        filled = {key: values for key, values in entries.items() if values}
        if filled:
            lines += ["", f"[mirror.{name}.{ecosystem}]"]
            lines += [
                f"{json.dumps(key) if '.' in key else key} = {json.dumps(values)}" for key, values in filled.items()
            ]
    return "\n".join(lines) + "\n"


def write_profile(path: Path, text: str) -> None:
    """Raises RouteError if the file there is not one of ours, OSError."""
    if path.exists() and not path.read_text().startswith(MARK):
        raise RouteError(
            f"--profile {path}: there is such a file, and it was not written by this program; move it aside"
        )
    path.write_text(text)


def pairs(firsts: list[Route], seconds: list[Route], url: Callable[[Route], str]) -> list[list[str]]:
    """Each route of one kind with that of the other kind on the same host, as base URLs without their final `/`."""
    by_host = {route.host: route for route in seconds}
    return [[url(first).rstrip("/"), url(by_host[first.host]).rstrip("/")] for first in firsts if first.host in by_host]
