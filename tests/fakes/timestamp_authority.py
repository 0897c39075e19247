"""A time-stamp authority (RFC 3161) of a test's own: OpenSSL answers, with certificates made here."""

from __future__ import annotations

import datetime as dt
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CONFIG = """
[tsa]
default_tsa = own
[own]
dir = {folder}
serial = $dir/serial
crypto_device = builtin
signer_cert = $dir/tsa.pem
signer_key = $dir/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


class TimestampAuthority:
    """Answers as one does.

    Attributes:
        root: What it is trusted by, PEM.
        asked: Requests that came over HTTP.
        answers: What to say to them over HTTP instead, status and body, oldest first.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        root_key, key = (rsa.generate_private_key(65_537, 2048) for _ in range(2))
        root = _certificate("root", "root", root_key, root_key, ca=True)
        self.root = root.public_bytes(serialization.Encoding.PEM)
        leaf = _certificate("tsa", "root", key, root_key, ca=False)
        (folder / "root.pem").write_bytes(self.root)
        (folder / "tsa.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / "tsa.key").write_bytes(private)
        (folder / "serial").write_text("01\n")
        (folder / "tsa.conf").write_text(_CONFIG.format(folder=folder))
        self.asked: list[bytes] = []
        self.answers: list[tuple[int, bytes]] = []

    def answer(self, request: bytes) -> bytes:
        """What it says to a request, DER."""
        (self._folder / "query").write_bytes(request)
        command = ["openssl", "ts", "-reply", "-config", "tsa.conf", "-queryfile", "query", "-out", "reply"]
        subprocess.run(command, cwd=self._folder, check=True, capture_output=True, timeout=60)
        return (self._folder / "reply").read_bytes()

    @contextmanager
    def listening(self) -> Iterator[str]:
        """Its address while the block runs."""
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                authority.asked.append(body)
                status, said = (
                    authority.answers.pop(0) if authority.answers else (200, authority.answer(body))
                )
                self.send_response(status)
                self.send_header("Content-Type", "application/timestamp-reply")
                self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: object) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/tsa"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def _certificate(
    name: str, issuer: str, key: rsa.RSAPrivateKey, signer: rsa.RSAPrivateKey, *, ca: bool
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    subject, by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (name, issuer))
    made = (
        x509.CertificateBuilder(by, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    usage = [
        ca if one in ("key_cert_sign", "crl_sign") else not ca and one == "digital_signature" for one in _USES
    ]
    made = made.add_extension(x509.KeyUsage(*usage), critical=True)
    if not ca:
        stamping = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        made = made.add_extension(stamping, critical=True)
    return made.sign(signer, hashes.SHA256())


_USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
