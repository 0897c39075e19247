"""TLS contexts of the mesh: TLS 1.3 only, the mesh's own CAs, identities in place of host names.

A server's certificate names its holder by SPIFFE id, so a client inside the mesh checks that
(`verify_peer`) after the handshake instead of the host name it dialled; addresses may then change
and be forwarded freely. Clients from outside still find host names and addresses in it.

Members trust the CAs that issue certificates of members, not the roots above these: a CA whose key leaked
is then done with when it is out of the file, whatever its root.

Contexts of a `TlsIdentity` follow its files: listeners and pools keep theirs, and every handshake after
`reload` uses the new certificate and trusts whom the file names now, and nobody else.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from bridge_core.errors import BridgeError, Reaction
from bridge_core.identity.certificate_info import CertificateInfo, CertifiedName, single_identity
from bridge_core.identity.own_certificate import ends_of, serial_of, shown_by, uris_of
from bridge_core.identity.rotation_rules import CLOCK_SKEW_S
from bridge_core.identity.spiffe import IdentityFault, SpiffeId
from bridge_core.quantities import say_span

C = TypeVar("C", bound=ssl.SSLContext)


class TlsFault(BridgeError):
    """A key, certificate or CA file that cannot be used."""

    reaction = Reaction.STOP


class PeerRefused(BridgeError):
    """The other side is not who it has to be."""

    reaction = Reaction.ELSEWHERE


class SslObject(Protocol):
    """What `transport.get_extra_info("ssl_object")` gives."""

    def getpeercert(self) -> Any:
        """The peer's verified certificate, parsed."""


class ShowsDer(Protocol):
    """The same object, asked for the certificate itself."""

    def getpeercert(self, binary_form: Literal[True], /) -> bytes | None:
        """DER."""


class Peer(msgspec.Struct, frozen=True):
    """Who is at the other end: from its verified certificate.

    Attributes:
        identity: Its name.
        serial: In lower-case hexadecimal.
        ends: When the certificate ends, Unix seconds; 0: not known.
    """

    identity: SpiffeId
    serial: str
    ends: int = 0


class TlsIdentity:
    """A certificate, its key and the CA on disk, and the contexts made of them.

    One that has expired is taken too: its holder goes on with what needs none, and says so.

    Args:
        cert: Leaf first, PEM.
        key: PEM, readable by its owner alone.
        ca: Every CA to trust, PEM; an intermediate may be one.
    """

    def __init__(self, cert: Path, key: Path, ca: Path) -> None:
        self.cert, self.key, self.ca = cert, key, ca
        self._servers: list[tuple[_Followed, bool]] = []
        self._clients: list[_Followed] = []
        self.info = _loaded(ssl.PROTOCOL_TLS_CLIENT, cert, key, ca)[1]

    def server(self, *, require_client: bool) -> ssl.SSLContext:
        """A listener's context, kept current by `reload`."""
        context = self._filled(_Followed(ssl.PROTOCOL_TLS_SERVER))
        self._servers.append((context, require_client))
        return _as_server(context, require_client=require_client)

    def client(self) -> ssl.SSLContext:
        """A client's context, kept current by `reload`."""
        context = self._filled(_Followed(ssl.PROTOCOL_TLS_CLIENT))
        self._clients.append(context)
        return _as_client(context)

    def reload(self) -> CertificateInfo:
        """Takes the files as they are now into every context handed out.

        Raises:
            TlsFault: they cannot be used; the contexts stay as they were.
        """
        info = _loaded(ssl.PROTOCOL_TLS_CLIENT, self.cert, self.key, self.ca)[1]
        servers = [
            _as_server(self._filled(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)), require_client=require)
            for _, require in self._servers
        ]
        clients = [_as_client(self._filled(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))) for _ in self._clients]
        for (context, _), server in zip(self._servers, servers, strict=True):
            context.follow(server)
        for context, client in zip(self._clients, clients, strict=True):
            context.follow(client)
        self.info = info
        return info

    def _filled(self, context: C) -> C:
        _fill(context, self.cert, self.key, self.ca)
        return context


class _Followed(ssl.SSLContext):
    """A context whose connections are made by the newest one: what a context trusts cannot be taken back."""

    _newest: ssl.SSLContext | None = None
    _protocols: tuple[str, ...] = ()

    def follow(self, newest: ssl.SSLContext) -> None:
        if self._protocols:
            newest.set_alpn_protocols(self._protocols)
        self._newest = newest

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        self._protocols = tuple(alpn_protocols)
        super().set_alpn_protocols(self._protocols)

    def wrap_bio(self, *args: Any, **named: Any) -> ssl.SSLObject:
        newest = self._newest
        return super().wrap_bio(*args, **named) if newest is None else newest.wrap_bio(*args, **named)

    def wrap_socket(self, *args: Any, **named: Any) -> ssl.SSLSocket:
        newest = self._newest
        return super().wrap_socket(*args, **named) if newest is None else newest.wrap_socket(*args, **named)


def server_context(
    cert: Path | str, key: Path | str, ca: Path | str, *, require_client: bool
) -> ssl.SSLContext:
    """A listener's context. A client certificate is demanded, or taken and checked when offered.

    Raises:
        TlsFault: a file is missing, unreadable, malformed or expired.
    """
    return _as_server(_fresh(ssl.PROTOCOL_TLS_SERVER, cert, key, ca)[0], require_client=require_client)


def client_context(cert: Path | str, key: Path | str, ca: Path | str) -> ssl.SSLContext:
    """A mesh member's context. The chain is verified, the host name is not: call `verify_peer`.

    Raises:
        TlsFault: a file is missing, unreadable, malformed or expired.
    """
    return _as_client(_fresh(ssl.PROTOCOL_TLS_CLIENT, cert, key, ca)[0])


def peer(ssl_object: SslObject | None) -> Peer | None:
    """Who the peer's verified certificate names; None without TLS, certificate or single SPIFFE id."""
    certificate = ssl_object.getpeercert() if ssl_object is not None else None
    if not certificate:
        return None
    identity = single_identity(uris_of(certificate))
    return None if identity is None else Peer(identity, serial_of(certificate), ends_of(certificate))


def peer_identity(ssl_object: Any) -> str | None:
    """The SPIFFE id of the peer's verified certificate, a `CertifiedName`; or None."""
    found = peer(ssl_object)
    return None if found is None or ssl_object is None else certified(found, ssl_object)


def certified(found: Peer, ssl_object: ShowsDer) -> CertifiedName:
    """Who the peer is, with the certificate that `peer` read."""
    return CertifiedName(str(found.identity), ssl_object.getpeercert(True) or b"")


def verify_peer(
    ssl_object: SslObject | None, *, trust_domain: str, kind: str, name: str | None = None
) -> Peer:
    """The peer, when it is of this mesh and kind (and has this name).

    Raises:
        PeerRefused: it is not; the message says who it is.
    """
    found = peer(ssl_object)
    wanted = f"spiffe://{trust_domain}/{kind}/{name or '…'}"
    if found is None:
        raise PeerRefused(f"the peer shows no identity where {wanted} is expected")
    identity = found.identity
    if (identity.trust_domain, identity.kind) != (trust_domain, kind) or name not in {None, identity.name}:
        raise PeerRefused(f"the peer is {identity} where {wanted} is expected")
    return found


def check_files(
    cert: Path | str, key: Path | str, ca: Path | str, *, now: float | None = None
) -> CertificateInfo:
    """Reads all three and says what the certificate says.

    Raises:
        TlsFault: a file is missing, unreadable or malformed, the key is not the certificate's, or
            the certificate has expired.
    """
    return _fresh(ssl.PROTOCOL_TLS_CLIENT, cert, key, ca, now=now)[1]


def _as_server(context: ssl.SSLContext, *, require_client: bool) -> ssl.SSLContext:
    context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_OPTIONAL
    # A resumed session is not verified again: an expired or revoked certificate would live on in it.
    context.num_tickets = 0
    return context


def _as_client(context: ssl.SSLContext) -> ssl.SSLContext:
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _fresh(
    protocol: int, cert: Path | str, key: Path | str, ca: Path | str, *, now: float | None = None
) -> tuple[ssl.SSLContext, CertificateInfo]:
    """As `_loaded`, of a certificate that has not expired."""
    context, info = _loaded(protocol, cert, key, ca)
    at = time.time() if now is None else now
    if at > info.not_after + CLOCK_SKEW_S:
        raise TlsFault(
            f"the certificate in {cert} expired {say_span(at - info.not_after)} ago",
            hint="get a new one, or set this machine's clock",
        )
    return context, info


def _loaded(
    protocol: int, cert: Path | str, key: Path | str, ca: Path | str
) -> tuple[ssl.SSLContext, CertificateInfo]:
    context = ssl.SSLContext(protocol)
    return context, _fill(context, cert, key, ca)


def _fill(context: ssl.SSLContext, cert: Path | str, key: Path | str, ca: Path | str) -> CertificateInfo:
    pem = _read(cert, "certificate")
    _read(key, "key")
    trusted = _read(ca, "CA")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    info = shown_by(cert, key, ca) or _described(pem, cert)
    try:
        context.load_cert_chain(cert, key)
    except ssl.SSLError as fault:
        raise TlsFault(
            f"{key} is not the key of {cert}: {fault.reason or fault}", hint="join again, or restore the pair"
        ) from fault
    try:
        context.load_verify_locations(cadata=trusted.decode("ascii", "replace"))
    except ssl.SSLError as fault:
        raise TlsFault(f"{ca} holds no CA certificate", hint="join again, or restore the file") from fault
    return info


def _described(pem: bytes, cert: Path | str) -> CertificateInfo:
    """What a certificate says that a peer would refuse, or whose key or CA is not its own."""
    from bridge_core.identity.certificates import describe  # large, and for a whole and valid set not needed

    try:
        return describe(pem)
    except IdentityFault as fault:
        raise TlsFault(f"{cert} holds no certificate", hint="join again, or restore the file") from fault


def _read(path: Path | str, what: str) -> bytes:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise TlsFault(f"there is no {what} file {path}", hint="join (or init) first") from None
    except OSError as fault:
        raise TlsFault(
            f"cannot read the {what} file {path}: {fault.strerror}",
            hint="it has to be readable by the user that runs this process",
        ) from fault
    if not data.strip():
        raise TlsFault(f"the {what} file {path} is empty", hint="join again, or restore the file")
    return data
