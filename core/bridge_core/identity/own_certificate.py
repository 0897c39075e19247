"""What a key pair's certificate says, as the other side of a connection would see it.

The standard library parses a certificate for whoever verified it in a handshake, and `cryptography`,
which parses any, keeps 8 MiB for as long as the process lives. So the pair shows its certificate to
itself, in a handshake in memory.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bridge_core.identity.certificate_info import CertificateInfo, single_identity


def shown_by(cert: Path | str, key: Path | str, ca: Path | str) -> CertificateInfo | None:
    """What a peer that trusts `ca` is told by `cert`; None where it would refuse it, for any reason.

    Most often that is time: a clock that is behind or ahead.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as a peer's, see `bridge_core.tls`
    try:
        server.load_cert_chain(cert, key)
        client.load_verify_locations(ca)
        return _read(_seen(server, client))
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        return None


def _seen(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    """The server's certificate, as the client has it once it has verified it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = client.wrap_bio(to_client, to_server)
    answerer = server.wrap_bio(to_server, to_client, server_side=True)
    _go_on(caller)  # its hello
    _go_on(answerer)  # the certificate
    caller.do_handshake()
    return caller.getpeercert() or {}


def _go_on(side: ssl.SSLObject) -> None:
    """As far as it comes without the other side."""
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return


def _read(certificate: dict[str, Any]) -> CertificateInfo:
    names = certificate.get("subjectAltName", ())
    return CertificateInfo(
        identity=single_identity(uris_of(certificate)),
        serial=serial_of(certificate),
        not_before=float(ssl.cert_time_to_seconds(certificate["notBefore"])),
        not_after=float(ssl.cert_time_to_seconds(certificate["notAfter"])),
        dns_names=_of_kind(names, "DNS"),
        addresses=tuple(str(ipaddress.ip_address(one)) for one in _of_kind(names, "IP Address")),
    )


def serial_of(certificate: dict[str, Any]) -> str:
    """The serial of a parsed certificate, as `CertificateInfo` has it."""
    return str(certificate.get("serialNumber", "")).lower().lstrip("0")


def ends_of(certificate: dict[str, Any]) -> int:
    """When a parsed certificate ends, Unix seconds; 0: it does not say."""
    text = certificate.get("notAfter")
    return ssl.cert_time_to_seconds(text) if isinstance(text, str) else 0


def uris_of(certificate: dict[str, Any]) -> tuple[str, ...]:
    """The URIs among a parsed certificate's names."""
    return _of_kind(certificate.get("subjectAltName", ()), "URI")


def _of_kind(names: Iterable[tuple[str, str]], wanted: str) -> tuple[str, ...]:
    return tuple(value for kind, value in names if kind == wanted)
