"""Writes down who was tried by address, past the name server: every TCP connection and UDP packet to a foreign address.

Owns: the log of strays, one JSON object a line: {"time", "protocol", "address", "port"}. Needs a network in which every
IPv4 address is routed to the loopback device, where the kernel refuses what nobody listens to.
Never: sees what is sent to the hosts of the mirrors; the filter runs in the kernel, so transfers cost nothing.
Rules: packet(7), Linux' Documentation/networking/filter.rst.
"""

import ctypes
import ipaddress
import json
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

ETH_P_IP = 0x0800
SO_ATTACH_FILTER = 26
HEADERS_BYTES = 128
PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}
LOAD_WORD, LOAD_BYTE, LOAD_BYTE_INDEXED, LOAD_HEADER_LENGTH, AND, JUMP_EQUAL, RETURN = 32, 48, 80, 177, 84, 21, 6


def open_recorder(own: ipaddress.IPv4Network) -> socket.socket:
    """A packet socket on the loopback device of this namespace that gets strays only; needs CAP_NET_RAW there."""

    def leave_out(network: ipaddress.IPv4Network, to_drop: int) -> list[tuple[int, int, int, int]]:
        destination = (LOAD_WORD, 0, 0, 16)
        mask, address = int(network.netmask), int(network.network_address)
        return [destination, (AND, 0, 0, mask), (JUMP_EQUAL, to_drop, 0, address)]

    program = [
        *leave_out(ipaddress.IPv4Network("127.0.0.0/8"), 11),
        *leave_out(own, 8),
        (LOAD_BYTE, 0, 0, 9),
        (JUMP_EQUAL, 5, 0, socket.IPPROTO_UDP),
        (JUMP_EQUAL, 0, 5, socket.IPPROTO_TCP),
        (LOAD_HEADER_LENGTH, 0, 0, 0),
        (LOAD_BYTE_INDEXED, 0, 0, 13),
        (AND, 0, 0, 0x12),  # Of SYN and ACK
        (JUMP_EQUAL, 0, 1, 0x02),  # SYN alone: the first packet of a connection.
        (RETURN, 0, 0, HEADERS_BYTES),
        (RETURN, 0, 0, 0),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    recorder = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    recorder.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code)))
    recorder.bind(("lo", ETH_P_IP))
    return recorder


class Recorder:
    """Reads such a socket until `close`. `now` gives the time of a line."""

    def __init__(self, packets: socket.socket, log_path: Path, now: Callable[[], str]):
        self.packets, self.now = packets, now
        self._log = open(log_path, "w", buffering=1)
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._record, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._waker.close()
        self._thread.join()
        self._wake.close()
        self.packets.close()
        self._log.close()

    def _record(self) -> None:
        """Until it is woken, and what has come by then."""
        self.packets.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            selector.register(self.packets, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self.packets in ready:
                    self._write(self.packets.recv(HEADERS_BYTES))
                elif self._wake in ready:
                    return

    def _write(self, packet: bytes) -> None:
        header_bytes = (packet[0] & 0x0F) * 4
        (port,) = struct.unpack_from("!H", packet, header_bytes + 2)
        stray = {"protocol": PROTOCOLS[packet[9]], "address": socket.inet_ntoa(packet[16:20]), "port": port}
        self._log.write(json.dumps({"time": self.now(), **stray}) + "\n")
