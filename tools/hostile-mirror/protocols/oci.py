"""A registry to pull from: over OCI image layouts, or copied from a registry given by URL.

A route with `registry` stands in for that one (host swap); without, the first part of a name says which (path prefix).
Rules: the OCI distribution specification, "Pull"; image layout: image-spec, image-layout.md.
"""

import hashlib
import json
import re
from pathlib import Path

from answers import JSON, Answer, FileBody
from routes import REGISTRY_ROOT, Route

from .base import Request, Sources, below, fixture

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
NAME_ANNOTATION = "org.opencontainers.image.ref.name"
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


def registry(sources: Sources, route: Route, request: Request) -> Answer:
    if request.path == REGISTRY_ROOT:
        return Answer(200, b"{}", JSON).with_headers(Docker_Distribution_Api_Version="registry/2.0")
    shape = re.fullmatch(r"(?P<name>.+)/(?P<what>manifests|blobs|tags)/(?P<reference>[^/]+)", request.rest)
    if not shape or request.prefix != route.path:
        return error("NAME_UNKNOWN", request.rest)
    name = shape["name"]
    named, repository = (route.registry, name) if route.registry else name.partition("/")[::2]
    what, reference = shape["what"], shape["reference"]
    if "oci" in sources.fixtures:
        answer = from_layout(below(sources.fixtures["oci"], f"{named}/{repository}"), what, reference)
    elif named in sources.oci_registries:
        url = f"{sources.oci_registries[named].rstrip('/')}/v2/{repository}/{what}/{reference}"
        answer = sources.cache.get(url, request.accept, lasting=DIGEST.fullmatch(reference) is not None)
    else:
        answer = error("NAME_UNKNOWN", f"{named}/{repository}")
    if answer.status == 200 and what != "tags":
        digest = reference if DIGEST.fullmatch(reference) else f"sha256:{sha256(answer)}"
        answer = answer.with_headers(Docker_Content_Digest=digest, ETag=f'"{digest}"')
    return answer


def from_layout(layout: Path | None, what: str, reference: str) -> Answer:
    if layout is None or not (layout / "index.json").is_file():
        return error("NAME_UNKNOWN", "the repository")
    described = json.loads((layout / "index.json").read_bytes())["manifests"]
    tags = {entry.get("annotations", {}).get(NAME_ANNOTATION): entry["digest"] for entry in described}
    if what == "tags":
        named = sorted(tag for tag in tags if tag)
        return Answer(200, json.dumps({"name": layout.name, "tags": named}).encode(), JSON)
    digest = DIGEST.fullmatch(tags.get(reference, reference) if what == "manifests" else reference)
    answer = fixture(layout / "blobs/sha256", digest[1]) if digest else None
    if answer is None or answer.status != 200:
        return error("MANIFEST_UNKNOWN" if what == "manifests" else "BLOB_UNKNOWN", reference)
    return Answer(200, answer.body, media_type(answer.body)) if what == "manifests" else answer


def media_type(body: FileBody) -> str:
    manifest = json.loads(bytes(body))
    return manifest.get("mediaType", INDEX_TYPE if "manifests" in manifest else MANIFEST_TYPE)


def sha256(answer: Answer) -> str:
    body = answer.body
    return body.digest() if isinstance(body, FileBody) else hashlib.sha256(body).hexdigest()


def error(code: str, subject: str) -> Answer:
    document = {"errors": [{"code": code, "message": f"{subject} is not known here"}]}
    return Answer(404, json.dumps(document).encode(), JSON)
