"""A DNS server that knows the hosts of the mirrors and nobody else, and writes down every name it is asked.

Owns: the lookup log, one JSON object a line: {"time", "name", "type", "answer"}; `answer` is an address, "none" (the
name is known, but has no such record) or "nxdomain". Rules: RFC 1035, section 4.
Never: asks another server.
"""

import json
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

TYPES = {1: "A", 5: "CNAME", 28: "AAAA", 33: "SRV", 65: "HTTPS"}
NXDOMAIN, AUTHORITATIVE_RESPONSE, RECURSION_DESIRED, RECURSION_AVAILABLE = 3, 0x8400, 0x0100, 0x0080
LARGEST_QUERY_BYTES = 512


class NameServer:
    """Answers on a UDP socket that others opened, until `close`. `now` gives the time of a line."""

    def __init__(self, listener: socket.socket, addresses: dict[str, str], log_path: Path, now: Callable[[], str]):
        self.listener, self.addresses, self.now = listener, addresses, now
        self._log = open(log_path, "w", buffering=1)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """A socket in another network namespace is woken by shutdown, which fails on UDP and still ends recv."""
        try:
            self.listener.shutdown(socket.SHUT_RD)
        except OSError:
            pass
        self._thread.join()
        self.listener.close()
        self._log.close()

    def _serve(self) -> None:
        while True:
            query, client = self.listener.recvfrom(LARGEST_QUERY_BYTES)
            if not client:
                return  # Shut down.
            try:
                answer = self._answer(query)
            except (struct.error, IndexError, UnicodeDecodeError):
                continue  # Not a question; its sender asks again or gives up.
            self.listener.sendto(answer, client)

    def _answer(self, query: bytes) -> bytes:
        identity, flags, _ = struct.unpack_from("!HHH", query)
        labels, end = [], 12
        while length := query[end]:
            labels.append(query[end + 1 : end + 1 + length].decode("ascii"))
            end += 1 + length
        question = query[12 : end + 5]
        kind, _ = struct.unpack_from("!HH", query, end + 1)
        name = ".".join(labels).lower()
        address = self.addresses.get(name)
        found = address if kind == 1 else None
        record = {"name": name, "type": TYPES.get(kind, str(kind))}
        outcome = found or ("none" if address else "nxdomain")
        self._log.write(json.dumps({"time": self.now(), **record, "answer": outcome}) + "\n")
        flags = (
            AUTHORITATIVE_RESPONSE | RECURSION_AVAILABLE | (flags & RECURSION_DESIRED) | (0 if address else NXDOMAIN)
        )
        header = struct.pack("!HHHHHH", identity, flags, 1, 1 if found else 0, 0, 0)
        if found is None:
            return header + question
        # The answer's name is a pointer to the question's; class IN, no time to live.
        return header + question + struct.pack("!HHHIH", 0xC00C, kind, 1, 0, 4) + socket.inet_aton(found)
