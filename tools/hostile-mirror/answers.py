"""What is sent to a client: status, headers, and a body that is either in memory or a part of a file.

Never: reads a large file at once; `bytes(body)` is for the indexes and pages that a protocol or a fault rewrites.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

BINARY = "application/octet-stream"
JSON = "application/json"
READ_BYTES = 1024 * 1024


@dataclass(frozen=True)
class FileBody:
    """The bytes from `start` to `stop` of a file, read while they are sent. `body[a:b]` is a smaller part.

    `flipped` is the position in the file of a byte that is sent with its lowest bit inverted.
    """

    path: Path
    start: int
    stop: int
    flipped: int | None = None

    @classmethod
    def whole(cls, path: Path) -> "FileBody":
        return cls(path, 0, path.stat().st_size)

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice) -> "FileBody":
        first, last, _ = part.indices(len(self))
        return replace(self, start=self.start + first, stop=self.start + max(first, last))

    def __bytes__(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.start)
            content = file.read(len(self))
        if not self.holds_flipped():
            return content
        position = self.flipped - self.start
        return flip(content, position)

    def holds_flipped(self) -> bool:
        return self.flipped is not None and self.start <= self.flipped < self.stop

    def digest(self, algorithm: str = "sha256", prefix: bytes = b"") -> str:
        """Hex digest of `prefix` and the whole file as it is on disk; computed once for each state of a file."""
        facts = os.stat(self.path)
        return _digest(self.path, algorithm, prefix, facts.st_ino, facts.st_size, facts.st_mtime_ns)


Body = bytes | FileBody


@cache
def _digest(path: Path, algorithm: str, prefix: bytes, *_state: int) -> str:
    digest = hashlib.new(algorithm, prefix)
    with open(path, "rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


@dataclass(frozen=True)
class Answer:
    status: int
    body: Body
    content_type: str = "text/plain; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)

    def with_headers(self, **headers: str) -> "Answer":
        """With more headers; `_` in a name stands for `-`."""
        return replace(
            self, headers={**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        )

    def with_etag(self) -> "Answer":
        """The registry's own ETag, else one of the healthy bytes: a mirror that alters bytes leaves its ETag alone."""
        if self.status != 200 or "ETag" in self.headers:
            return self
        body = self.body
        digest = body.digest() if isinstance(body, FileBody) else hashlib.sha256(body).hexdigest()
        return self.with_headers(ETag=f'"{digest[:32]}"')


NOT_FOUND = Answer(404, b"not found\n")


def flip(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def pieces(body: Body, piece_bytes: int) -> Iterator[Body]:
    """The body in parts of this size; an empty body has none."""
    return (body[start : start + piece_bytes] for start in range(0, len(body), piece_bytes))
