"""A certificate authority for tests, made by the openssl command line.

Never: signs anything that a real client trusts.

    <directory>/ca.pem, ca.key              the authority; ca.pem is the bundle that clients are given
    <directory>/trusted/<subject hash>.0    the same in the form of a certificate directory
    <directory>/<host>.pem, <host>.key      a host's certificate, for its name and for 127.0.0.1
    <directory>/<host>.self-signed.pem      the same, signed by no authority (fault `tls`)
"""

import shutil
import ssl
import subprocess
import threading
from pathlib import Path

VALID_DAYS = "3650"
# The system's openssl.cnf would add extensions of its own, some of them twice.
EMPTY_CONFIGURATION = "[req]\ndistinguished_name = subject\n[subject]\n"


class AuthorityError(Exception):
    """openssl is missing or failed; carries what it said."""


class Authority:
    def __init__(self, directory: Path):
        self.directory = directory
        self.bundle = directory / "ca.pem"
        self.certificates = directory / "trusted"
        self._issuing = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.bundle.exists():
            self._issue("ca", "/CN=hostile-mirror test authority", ["keyUsage=critical,keyCertSign,cRLSign"], ca=True)
            self.certificates.mkdir(exist_ok=True)
            subject_hash = self._openssl(["x509", "-in", "ca.pem", "-noout", "-subject_hash"]).strip()
            shutil.copy(self.bundle, self.certificates / f"{subject_hash}.0")

    def server_context(self, host: str, self_signed: bool) -> ssl.SSLContext:
        """The TLS server side of one host, made when first asked for; HTTP/1.1 only. Raises AuthorityError."""
        name = f"{host}.self-signed" if self_signed else host
        with self._issuing:
            if not (self.directory / f"{name}.pem").exists():
                extensions = [f"subjectAltName=DNS:{host},IP:127.0.0.1", "extendedKeyUsage=serverAuth"]
                self._issue(name, f"/CN={host}", extensions, signed=not self_signed)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        context.set_alpn_protocols(["http/1.1"])
        return context

    def _issue(self, name: str, subject: str, extensions: list[str], ca: bool = False, signed: bool = True) -> None:
        arguments = [
            "req",
            "-config",
            "/dev/stdin",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            VALID_DAYS,
            "-subj",
            subject,
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.pem",
            "-addext",
            f"basicConstraints=critical,CA:{'TRUE' if ca else 'FALSE'}",
        ]
        for extension in extensions:
            arguments += ["-addext", extension]
        if signed and not ca:
            arguments += ["-CA", "ca.pem", "-CAkey", "ca.key"]
        self._openssl(arguments)

    def _openssl(self, arguments: list[str]) -> str:
        try:
            return subprocess.run(
                ["openssl", *arguments],
                cwd=self.directory,
                input=EMPTY_CONFIGURATION,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        except subprocess.CalledProcessError as error:
            raise AuthorityError(f"openssl {' '.join(arguments)}: {error.stderr.strip()}") from error
        except OSError as error:
            raise AuthorityError(f"openssl cannot be run: {error}") from error
