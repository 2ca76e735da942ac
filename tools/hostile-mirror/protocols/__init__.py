"""What a healthy mirror answers: a file a protocol, from the real registry or from a directory of fixtures.

Never: breaks anything (faults.py does), or opens a socket (upstream.py does).

Fixture directories, by ecosystem:
    crates   cargo's local registry: index/<sparse path> and <crate>-<version>.crate
    go       $GOMODCACHE/cache/download, which is a module proxy as files
    simple   wheels, flat
    npm      tarballs as `npm pack` writes them, flat
    apt      <archive>/dists/… and <archive>/pool/…
    rustup   dist/… and rustup/… of a rustup server
    hub      <org>/<repo>/<file>; the revision asked for is taken as it comes
    oci      <registry>/<repository>/, an OCI image layout each
    files    <host>/<path>
"""

from answers import Answer
from routes import Route

from . import apt, crates, files, go, hub, npm, oci, rustup, simple
from .base import Request, Sources

HANDLERS = {
    "crates-index": crates.index,
    "crates-files": crates.file,
    "go": go.proxy,
    "sumdb": go.checksum_database,
    "simple": simple.index_or_file,
    "npm": npm.packument_or_tarball,
    "apt": apt.archive,
    "rustup-dist": rustup.dist,
    "rustup-self": rustup.update_root,
    "hub": hub.resolve_or_api,
    "oci": oci.registry,
    "files": files.file,
    "redirect": files.redirect,
}


def healthy(sources: Sources, route: Route, request: Request) -> Answer:
    """Raises UpstreamError when the real registry is needed and does not answer."""
    return HANDLERS[route.kind](sources, route, request)
