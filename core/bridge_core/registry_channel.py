"""Reaching a registry: the CA by its pin, then a gRPC channel that trusts that CA alone.

Registries move and are dialled by any address, so a channel does not check the address it dialled
but who answers: its certificate has to be of the kind registry, of the CA's mesh, and has to have the
name `REGISTRY_SERVER_NAME`. gRPC's own TLS can check no more than a name, takes TLS 1.2, keeps the
reason of a refusal to itself and writes it past the log. So TLS ends here, and gRPC speaks through an
abstract Unix socket that takes one connection, of this very process.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import grpc.aio

from bridge_core.addresses import split_address, without_localhost
from bridge_core.errors import BridgeError, Reaction, Unavailable
from bridge_core.identity.own_certificate import uris_of
from bridge_core.identity.spiffe import REGISTRY_SERVER_NAME
from bridge_core.tls import peer

_OPTIONS: Final = (
    ("grpc.default_authority", REGISTRY_SERVER_NAME),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # How long its end may take to begin: there is no second connection to try in place of a slow one.
    ("grpc.min_reconnect_backoff_ms", 60_000),
    # What runs in this process is not reached through anybody's proxy.
    ("grpc.enable_http_proxy", 0),
)
_CONNECT_S: Final = 10.0
_CHUNK: Final = 64 * 1024
_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which `ssl` has no name for
_NOT_YET_VALID: Final = 9  # X509_V_ERR_CERT_NOT_YET_VALID
_EXPIRED: Final = 10  # X509_V_ERR_CERT_HAS_EXPIRED


class WrongAuthority(BridgeError):
    """What answered is not the registry that was to be reached: another CA's, or no registry."""

    reaction = Reaction.REFUSE


class ClockFault(Unavailable):
    """A certificate's time is not now: this machine's clock is wrong, or the registry's."""


class CertificateRefused(Unavailable):
    """The registry hung up before it said anything: most often it does not accept the certificate."""


@contextlib.asynccontextmanager
async def open_channel(
    address: str,
    ca_pem: bytes,
    *,
    cert_pem: bytes | None = None,
    key_pem: bytes | None = None,
    any_time: bool = False,
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the registry at `address` (host:port), on one connection: when that is lost, open another.

    Args:
        address: Where the registry listens.
        ca_pem: The CA (or several) to trust.
        cert_pem: The caller's certificate; without one, only Enrolment can be called.
        key_pem: Its key.
        any_time: Take certificates whose time is not now: for asking what time it is.

    Raises:
        Unavailable: nobody answers there; a `ClockFault` where a certificate's time is the reason. At the
            end, in place of the call's own fault, `CertificateRefused`: the registry did not take it.
        WrongAuthority: who answers is not a registry of this CA's mesh.
        BridgeError: the certificates or the address cannot be used.
    """
    context = _context(ca_pem, cert_pem, key_pem, any_time=any_time)
    reader, writer = await _dial(address, context)
    try:
        tunnel = _Tunnel(address, reader, writer)
    except OSError as fault:  # no descriptor is left
        writer.transport.abort()
        raise Unavailable(f"no socket to call the registry at {address}: {fault.strerror}") from fault
    try:
        async with grpc.aio.insecure_channel(tunnel.target, options=_OPTIONS) as channel:
            yield channel
    except (grpc.aio.AioRpcError, Unavailable) as fault:
        if tunnel.fault is not None:  # the call only knows that its connection went
            raise tunnel.fault from fault
        raise
    finally:
        await tunnel.close()


async def fetch_ca(address: str, pin: str, *, timeout_s: float = _CONNECT_S) -> bytes:
    """The PEM of the CA whose certificate hashes to `pin`, from the chain that `address` shows.

    Nothing is sent over this connection, so an impostor learns nothing and can only be refused.

    Raises:
        Unavailable: nobody answers there, or not in TLS 1.3.
        WrongAuthority: the registry there belongs to another mesh.
    """
    context = _bare_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the pin, checked below, takes its place
    _, writer = await _connect(address, context, timeout_s)
    try:
        chain = _chain(writer.get_extra_info("ssl_object"))
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()
    for der in chain:
        if hmac.compare_digest(hashlib.sha256(der).hexdigest(), pin):
            return ssl.DER_cert_to_PEM_cert(der).encode("ascii")
    raise WrongAuthority(
        f"the registry at {address} has another CA than the one the join token names",
        hint="the token is of another mesh, or somebody answers in the registry's place",
    )


class _Tunnel:
    """Carries one connection of gRPC's over one that is verified."""

    def __init__(self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._address = address
        self._reader, self._writer = reader, writer
        self.fault: Unavailable | None = None  # why there was never an answer
        name = f"bridge-{secrets.token_hex(16)}"
        self.target = f"unix-abstract:{name}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.setblocking(False)
        self._listener.bind(f"\0{name}")
        self._listener.listen(1)
        self._carrying = asyncio.create_task(self._carry(), name="registry-channel")

    async def close(self) -> None:
        """Ends the connection."""
        self._carrying.cancel()
        self._writer.transport.abort()  # before anything is awaited, as below
        await asyncio.gather(self._carrying, return_exceptions=True)
        self._listener.close()

    async def _carry(self) -> None:
        try:
            inner_reader, inner = await asyncio.open_unix_connection(sock=await self._accepted())
        finally:
            self._listener.close()  # who waits there is refused, and does not wait for ever
        pumps = [
            asyncio.create_task(self._outwards(inner_reader)),
            asyncio.create_task(self._inwards(inner)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            inner.close()  # before anything is awaited: whoever is cancelled once more would leave it open
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _accepted(self) -> socket.socket:
        while True:
            await self._somebody_waits()
            try:
                end, _ = self._listener.accept()
            except BlockingIOError:  # gone again
                continue
            end.setblocking(False)
            credentials = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if struct.unpack("3i", credentials)[0] == os.getpid():
                return end
            end.close()  # an abstract name is no secret to who can read /proc/net/unix

    async def _somebody_waits(self) -> None:
        # The loop's `sock_accept` loses the socket where it is cancelled in the moment of its answer.
        loop, known = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._listener, known.set)
        try:
            await known.wait()
        finally:
            loop.remove_reader(self._listener)

    async def _outwards(self, inner: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):  # told by the other direction
            await _pump(inner, self._writer)

    async def _inwards(self, inner: asyncio.StreamWriter) -> None:
        try:
            first = await self._reader.read(_CHUNK)
        except OSError:
            first = b""
        if not first:  # in TLS 1.3 a caller learns only now that its certificate is not taken
            self.fault = CertificateRefused(
                f"the registry at {self._address} hung up: "
                "it is stopping, or does not accept this certificate"
            )
            return
        with contextlib.suppress(OSError):
            inner.write(first)
            await _pump(self._reader, inner)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK):
        sink.write(data)
        await sink.drain()


async def _dial(address: str, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to a registry of the mesh of the CA in `context`; see `open_channel`."""
    reader, writer = await _connect(address, context, _CONNECT_S)
    found = peer(writer.get_extra_info("ssl_object"))
    if (
        found is None
        or found.identity.kind != "registry"
        or found.identity.trust_domain not in _meshes(context)
    ):
        writer.transport.abort()
        who = "nobody" if found is None else str(found.identity)
        raise WrongAuthority(
            f"what answers at {address} is not a registry of this mesh: its certificate is of {who}",
            hint="look who listens there: it may have a registry's name without being one",
        )
    return reader, writer


async def _connect(
    address: str, context: ssl.SSLContext, timeout_s: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = split_address(address)
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.open_connection(
                without_localhost(host), port, ssl=context, server_hostname=REGISTRY_SERVER_NAME
            )
    except TimeoutError as fault:
        raise Unavailable(f"no registry answered at {address} within {timeout_s:g} s") from fault
    except ssl.SSLCertVerificationError as fault:
        raise _unverified(address, fault) from fault
    except ssl.SSLError as fault:
        raise Unavailable(f"what answers at {address} is no registry: {fault.reason or fault}") from fault
    except OSError as fault:
        raise Unavailable(
            f"no registry answers at {address}: {_words(fault)}",
            hint="check the address, and that bridge-registry runs there",
        ) from fault


def _words(fault: OSError) -> str:
    if isinstance(fault, socket.gaierror) or not fault.errno:
        return str(fault) or "what is there hangs up"  # as who speaks no TLS 1.3 does
    return os.strerror(fault.errno)  # asyncio's own words repeat the address


def _unverified(address: str, fault: ssl.SSLCertVerificationError) -> BridgeError:
    if fault.verify_code in {_NOT_YET_VALID, _EXPIRED}:
        word = "not valid yet" if fault.verify_code == _NOT_YET_VALID else "valid no more"
        now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        return ClockFault(
            f"the certificate of the registry at {address} is {word} by this machine's clock ({now})",
            hint="set this machine's clock, or look at the registry's",
        )
    return WrongAuthority(
        f"what answers at {address} is not a registry of this mesh: {fault.verify_message}",
        hint="check the address; the registry may have been set up anew, with another CA",
    )


def _bare_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    return context


def _context(
    ca_pem: bytes, cert_pem: bytes | None, key_pem: bytes | None, *, any_time: bool
) -> ssl.SSLContext:
    context = _bare_context()
    if any_time:
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    try:
        context.load_verify_locations(cadata=ca_pem.decode("ascii", "replace"))
        if cert_pem is not None and key_pem is not None:
            with _in_memory(cert_pem) as cert, _in_memory(key_pem) as key:
                context.load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as fault:
        raise BridgeError(f"the certificates to call a registry with cannot be used: {fault}") from fault
    return context


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A file's name for `data`, which is on no disk."""
    handle = os.memfd_create("bridge-pem")
    try:
        with os.fdopen(os.dup(handle), "wb") as file:
            file.write(data)
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)


def _meshes(context: ssl.SSLContext) -> set[str]:
    """The trust domains of the CAs that `context` trusts."""
    found: Any = context.get_ca_certs()
    return {uri.removeprefix("spiffe://") for ca in found for uri in uris_of(ca)}


def _chain(ssl_object: Any) -> list[bytes]:
    # Public since 3.13; before that the same method is there one level down.
    source = ssl_object if hasattr(ssl_object, "get_unverified_chain") else ssl_object._sslobj  # noqa: SLF001
    return [
        bytes(item) if isinstance(item, bytes) else item.public_bytes(2)  # 2: DER
        for item in source.get_unverified_chain() or ()
    ]
