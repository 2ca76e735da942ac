"""What every protocol is given: a request, and where healthy answers come from."""

import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from answers import BINARY, NOT_FOUND, Answer, FileBody
from upstream import Cache, Registries


@dataclass(frozen=True)
class Request:
    """`rest` is the path below `prefix`, percent-encoding as it came; `base_url` turns a mirror URL into the one under
    which this client reaches the same host."""

    path: str
    prefix: str
    rest: str
    accept: str
    base_url: Callable[[str], str]


@dataclass(frozen=True)
class Sources:
    """The real registries, or directories of fixtures in their place, by ecosystem.

    `oci_registries`: the URLs that registries without a default are copied from, by the name they are called in a
    reference.
    """

    cache: Cache
    registries: Registries
    fixtures: dict[str, Path]
    oci_registries: dict[str, str] = field(default_factory=dict)


def below(directory: Path, rest: str) -> Path | None:
    """The path `rest`, percent-encoded, below the directory; None if it leads out of it."""
    path = (directory / urllib.parse.unquote(rest)).resolve()
    return path if path.is_relative_to(directory.resolve()) else None


def fixture(directory: Path, rest: str) -> Answer:
    path = below(directory, rest)
    return Answer(200, FileBody.whole(path), BINARY) if path is not None and path.is_file() else NOT_FOUND
