#!/usr/bin/env python3
"""Runs a command in a network of its own: the hosts of a route table and nothing else, or nothing at all.

    netns.py run [--routes cn.toml] [--fault HOST/GLOB=NAME] [--env K=V] -- COMMAND…
    netns.py empty [--env K=V] -- COMMAND…

Owns: the namespaces (network, mount, process) around the command, its resolver files, its environment.
Never: changes an interface, a file or a process outside of them, so there is nothing to clean up: the sockets are
opened inside and handed to this process, which serves them from the outside, where the real registries are. The
network inside has the loopback device only. When either side ends, however it ends, the kernel ends the rest.

Every host has an address of its own in 10.231.0.0/16 on that device, which a name server of ours gives out. It writes
every name that is looked up to lookups.jsonl beside the access log (nameserver.py); no other names exist. Whoever tries
an address without asking is refused, and named in strays.jsonl (recorder.py; IPv4: the network has no other). The
command's environment is the caller's, less every variable that names a proxy, a CA bundle or a mirror; SSL_CERT_FILE
names the test authority alone.
Needs Linux, util-linux and iproute2, and root or unprivileged user namespaces. Exits with the command's own code.
"""

import argparse
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable

from authority import AuthorityError
from faults import FaultError
from hostile_mirror import DEFAULT_PORTS, Endpoint, HostileMirror, Options, listen, now
from nameserver import NameServer
from recorder import Recorder, open_recorder
from routes import RouteError

OWN_NETWORK = ipaddress.IPv4Network("10.231.0.0/16")
NAME_SERVER = ("10.231.255.53", 53)
LOCAL_NAMES = "127.0.0.1 localhost\n"
READY, START = b"ready", b"start"

# What would lead the command to the caller's own mirrors, proxies or authorities.
REMOVED_VARIABLES = {
    "ALL_PROXY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CARGO_HTTP_CAINFO",
    "CARGO_HTTP_PROXY",
    "GOPROXY",
    "GOSUMDB",
    "GOFLAGS",
    "GONOSUMDB",
    "GONOPROXY",
    "GOPRIVATE",
    "HF_ENDPOINT",
    "RUSTUP_DIST_SERVER",
    "RUSTUP_UPDATE_ROOT",
}
REMOVED_PREFIXES = ("PIP_", "UV_", "NPM_CONFIG_")


class NamespaceError(Exception):
    """Namespaces cannot be made here; says what refused."""


def why_impossible() -> str | None:
    """Why this machine cannot run a command this way, or None."""
    try:
        probe = subprocess.run(
            [*unshare_argv(), "sh", "-c", "ip link set lo up && mount --bind /etc/hosts /etc/hosts"],
            capture_output=True,
            text=True,
        )
    except OSError as error:
        return str(error)
    return None if probe.returncode == 0 else probe.stderr.strip()


def unshare_argv() -> list[str]:
    argv = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return argv if os.geteuid() == 0 else [*argv, "--map-root-user"]


def run(options: Options | None, assignments: dict[str, str], command: list[str]) -> int:
    """Runs the command with the mirrors of `options`, or with none; returns its exit code, 128 + N for a signal.

    Raises NamespaceError, and what HostileMirror raises.
    """
    mirror = HostileMirror(options) if options else None
    faults = {host: mirror.plan.of_connection(host) for host in mirror.hosts} if mirror else {}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in REMOVED_VARIABLES and not name.upper().startswith(REMOVED_PREFIXES)
    }
    ours, theirs = socket.socketpair()
    if mirror:
        # Without the second variable Go and OpenSSL would also trust the system's directory; curl reads only that one.
        trusted = mirror.authority
        environment |= {"SSL_CERT_FILE": str(trusted.bundle), "SSL_CERT_DIR": str(trusted.certificates)}
    init = [sys.executable, "-B", __file__, "_inside", str(theirs.fileno()), json.dumps(faults), *command]
    with (
        ours,
        subprocess.Popen(
            [*unshare_argv(), *init], env=environment | assignments, pass_fds=[theirs.fileno()]
        ) as process,
    ):
        theirs.close()
        try:
            message, descriptors, _, _ = socket.recv_fds(ours, len(READY), 2 * len(faults) + 2)
            if message != READY:
                raise NamespaceError(f"the namespaces could not be made (exit {process.wait()})")
            if mirror:
                names = [(host, scheme) for host in faults for scheme in DEFAULT_PORTS]
                listeners = [socket.socket(fileno=descriptor) for descriptor in descriptors]
                recorder = Recorder(listeners.pop(), mirror.log_path.with_name("strays.jsonl"), now)
                lookups = mirror.log_path.with_name("lookups.jsonl")
                name_server = NameServer(listeners.pop(), addresses_of(faults), lookups, now)
                endpoints = [Endpoint(*name, listener) for name, listener in zip(names, listeners, strict=True)]
                mirror.start(endpoints, profile_scheme="https")
                print(f"netns: access log {mirror.log_path}", file=sys.stderr)
            ours.sendall(START)
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:
                    pass  # The terminal sent it to the command as well, and the command decides.
        finally:
            process.kill()
            if mirror and mirror.endpoints:
                recorder.close()
                name_server.close()
                mirror.close()


def addresses_of(hosts: Iterable[str]) -> dict[str, str]:
    return {host: str(address) for host, address in zip(hosts, OWN_NETWORK.hosts(), strict=False)}


def inside(control: socket.socket, faults: dict[str, str | None], command: list[str]) -> int:
    """Process 1 of the new namespaces: opens the sockets, hands them out, runs the command, reaps what it leaves."""
    addresses = addresses_of(faults)
    local = [*addresses.values(), NAME_SERVER[0]]
    commands = ["link set lo up", *(f"address add {address}/32 dev lo" for address in local)]
    if faults:
        commands.append("route add local default dev lo")
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)
    replace_file("/etc/hosts", LOCAL_NAMES)
    if faults:
        replace_file("/etc/resolv.conf", f"nameserver {NAME_SERVER[0]}\n")
        if os.path.exists("/etc/nsswitch.conf"):
            replace_file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    opened = [listen(addresses[host], port, fault) for host, fault in faults.items() for port in DEFAULT_PORTS.values()]
    if faults:
        name_server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        name_server.bind(NAME_SERVER)
        opened += [[name_server], [open_recorder(OWN_NETWORK)]]
    socket.send_fds(control, [READY], [sockets[0].fileno() for sockets in opened])
    if control.recv(len(START)) != START:
        return 1
    threading.Thread(target=end_with, args=(control,), daemon=True).start()
    # Process 1 would otherwise die of the terminal's Ctrl-C before the command has cleaned up after itself.
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    child = subprocess.Popen(command)
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def replace_file(path: str, content: str) -> None:
    """For this mount namespace; the file that is mounted there needs no name."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(content)
        file.flush()
        os.chmod(file.name, 0o644)
        subprocess.run(["mount", "--bind", file.name, path], check=True)


def end_with(control: socket.socket) -> None:
    """Ends process 1, and with it everything inside, when the process outside is gone."""
    control.recv(1)
    os._exit(1)


def main(argv: list[str]) -> int:
    if argv[:1] == ["_inside"]:
        try:
            return inside(socket.socket(fileno=int(argv[1])), json.loads(argv[2]), argv[3:])
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"netns: {error}", file=sys.stderr)
            return 127 if isinstance(error, FileNotFoundError) else 126
    parser = argparse.ArgumentParser(description="Runs a command with the mirrors as its only network, or with none.")
    commands = parser.add_subparsers(dest="network", required=True, metavar="run|empty")
    for name, text in (
        ("run", "the mirrors of a route table and nothing else"),
        ("empty", "loopback and nothing else"),
    ):
        command = commands.add_parser(name, help=text)
        if name == "run":
            Options.declare(command)
        command.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
        command.add_argument("command", nargs="+", metavar="-- COMMAND")
    arguments = parser.parse_args(argv)
    assignments = dict(text.partition("=")[::2] for text in arguments.env)
    try:
        options = Options.from_arguments(arguments) if arguments.network == "run" else None
        return run(options, assignments, arguments.command)
    except (NamespaceError, RouteError, FaultError, AuthorityError, OSError) as error:
        print(f"netns: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
