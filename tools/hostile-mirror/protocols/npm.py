"""An npm registry: packuments, full and abbreviated, whose tarballs are at this mirror. Rules: npm/registry, docs/.

A fixture's packument says what the package.json inside each tarball says.
"""

import base64
import json
import re
import tarfile
import urllib.parse
from functools import cache
from pathlib import Path

from answers import JSON, NOT_FOUND, Answer, FileBody
from routes import Route

from .base import Request, Sources, fixture

ABBREVIATED = "application/vnd.npm.install-v1+json"
# package-metadata.md, "Abbreviated version object".
ABBREVIATED_FIELDS = {
    *("name", "version", "deprecated", "bin", "dist", "engines", "directories", "os", "cpu", "libc", "funding"),
    *("dependencies", "devDependencies", "optionalDependencies", "peerDependencies", "peerDependenciesMeta"),
    *("bundleDependencies", "acceptDependencies", "hasInstallScript", "_hasShrinkwrap"),
}


def packument_or_tarball(sources: Sources, route: Route, request: Request) -> Answer:
    fixtures, base = sources.fixtures.get("npm"), request.base_url(f"https://{route.host}{route.path}")
    package, slash, file = request.rest.partition("/-/")
    if slash:
        if fixtures:
            return fixture(fixtures, file)
        return sources.cache.get(sources.registries.npm + request.rest, lasting=True)
    if fixtures:
        return packument(fixtures, urllib.parse.unquote(package), base, ABBREVIATED in request.accept)
    answer = sources.cache.get(sources.registries.npm + request.rest, request.accept)
    body = bytes(answer.body).replace(sources.registries.npm.encode(), base.encode())
    return Answer(answer.status, body, answer.content_type)


def packument(directory: Path, name: str, base: str, abbreviated: bool) -> Answer:
    versions = {}
    for tarball in sorted(directory.glob("*.tgz"), key=lambda path: [*map(int, re.findall(r"\d+", path.name))]):
        body = FileBody.whole(tarball)
        package = json.loads(package_json(tarball, body.digest()))
        if package["name"] != name:
            continue
        package["dist"] = {
            "tarball": f"{base}{name}/-/{urllib.parse.quote(tarball.name)}",
            "shasum": body.digest("sha1"),
            "integrity": "sha512-" + base64.b64encode(bytes.fromhex(body.digest("sha512"))).decode(),
        }
        if abbreviated:
            package = {field: value for field, value in package.items() if field in ABBREVIATED_FIELDS}
        versions[package["version"]] = package
    if not versions:
        return NOT_FOUND
    document = {"name": name, "dist-tags": {"latest": list(versions)[-1]}, "versions": versions}
    if not abbreviated:
        document["_id"] = name
    return Answer(200, json.dumps(document).encode(), ABBREVIATED if abbreviated else JSON)


@cache
def package_json(tarball: Path, _digest: str) -> bytes:
    with tarfile.open(tarball) as archive:
        return archive.extractfile("package/package.json").read()
