"""A Hugging Face endpoint over a directory: `resolve`, and what the API says of a model.

As on the hub, weights are large files (ETag: their sha256, with X-Linked-*), the others Git blobs (ETag: their sha1).
Rules: huggingface_hub, file_download.py (`get_hf_file_metadata`) and hf_api.py (`model_info`, `list_repo_tree`).
"""

import hashlib
import json
import re
import urllib.parse
from pathlib import Path

from answers import JSON, NOT_FOUND, Answer, FileBody
from routes import Route

from .base import Request, Sources, below, fixture

LARGE_FILES = {".bin", ".gguf", ".h5", ".onnx", ".ot", ".pt", ".safetensors"}
CHANGED = "2025-01-01T00:00:00.000Z"


def resolve_or_api(sources: Sources, _route: Route, request: Request) -> Answer:
    shape = re.fullmatch(
        r"(?:(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)"
        r"|api/models/(?P<api_repo>[^/]+/[^/]+?)(?:/(?P<ask>revision|tree)/(?P<api_revision>[^/]+)(?P<folder>/.*)?)?)",
        request.rest,
    )
    if not shape or "hub" not in sources.fixtures:
        return NOT_FOUND
    directory = below(sources.fixtures["hub"], shape["repo"] or shape["api_repo"])
    if directory is None or not directory.is_dir():
        return NOT_FOUND.with_headers(X_Error_Code="RepoNotFound")
    commit = commit_of(shape["revision"] or shape["api_revision"] or "main")
    if shape["file"]:
        return resolved(directory, shape["file"], commit)
    files = [(path.relative_to(directory).as_posix(), path) for path in sorted(directory.rglob("*")) if path.is_file()]
    if shape["ask"] == "tree":
        folder = urllib.parse.unquote(shape["folder"] or "").strip("/")
        return tree([entry for entry in files if not folder or entry[0].startswith(f"{folder}/")])
    model = {
        "id": shape["api_repo"],
        "modelId": shape["api_repo"],
        "sha": commit,
        "lastModified": CHANGED,
        "private": False,
        "gated": False,
        "disabled": False,
        "tags": [],
        "siblings": [{"rfilename": name} for name, _ in files],
    }
    return Answer(200, json.dumps(model).encode(), JSON).with_headers(X_Repo_Commit=commit)


def commit_of(revision: str) -> str:
    """A branch or tag has no commit here; any 40 hex digits that stay the same do."""
    return revision if re.fullmatch(r"[0-9a-f]{40}", revision) else hashlib.sha1(revision.encode()).hexdigest()


def resolved(directory: Path, file: str, commit: str) -> Answer:
    answer = fixture(directory, file)
    if answer.status != 200:
        return answer.with_headers(X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
    etag = f'"{identity(answer.body)}"'
    answer = answer.with_headers(X_Repo_Commit=commit, ETag=etag)
    if answer.body.path.suffix not in LARGE_FILES:
        return answer
    return answer.with_headers(X_Linked_Etag=etag, X_Linked_Size=str(len(answer.body)))


def tree(files: list[tuple[str, Path]]) -> Answer:
    """Every file below the folder, as for `recursive=true`; clients that want fewer leave the others out."""
    entries = []
    for name, path in files:
        body = FileBody.whole(path)
        entry = {"type": "file", "path": name, "size": len(body), "oid": identity(body)}
        if path.suffix in LARGE_FILES:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{entry['oid']}\nsize {len(body)}\n"
            entry["lfs"] = {"oid": entry["oid"], "size": len(body), "pointerSize": len(pointer)}
            entry["oid"] = hashlib.sha1(f"blob {len(pointer)}\0{pointer}".encode()).hexdigest()
        entries.append(entry)
    return Answer(200, json.dumps(entries).encode(), JSON)


def identity(body: FileBody) -> str:
    """What the hub calls a file by: the sha256 of a large one, the name that Git has for another."""
    if body.path.suffix in LARGE_FILES:
        return body.digest()
    return body.digest("sha1", f"blob {len(body)}\0".encode())
