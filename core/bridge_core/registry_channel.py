"""Reaching a registry: the CA by its pin, then a gRPC channel that trusts that CA alone.

Registries move and are dialled by any address, so a channel does not check the address it dialled
but `REGISTRY_SERVER_NAME`, a name that the CA puts into registries' certificates and into no others.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ssl
from typing import Any, Final

import grpc.aio

from bridge_core.addresses import split_address
from bridge_core.errors import BridgeError, Reaction, Unavailable
from bridge_core.identity.spiffe import REGISTRY_SERVER_NAME

_OPTIONS: Final = (
    ("grpc.ssl_target_name_override", REGISTRY_SERVER_NAME),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 3_000),
)


class WrongAuthority(BridgeError):
    """The registry that answered is not the one of the token."""

    reaction = Reaction.REFUSE


def open_channel(
    address: str, ca_pem: bytes, *, cert_pem: bytes | None = None, key_pem: bytes | None = None
) -> grpc.aio.Channel:
    """A channel to the registry at `address` (host:port); the caller closes it.

    Args:
        address: Where the registry listens.
        ca_pem: The CA (or several) to trust.
        cert_pem: The caller's certificate; without one, only Join can be called.
        key_pem: Its key.
    """
    credentials = grpc.ssl_channel_credentials(ca_pem, key_pem, cert_pem)
    return grpc.aio.secure_channel(address, credentials, options=_OPTIONS)


async def fetch_ca(address: str, pin: str, *, timeout_s: float = 10.0) -> bytes:
    """The PEM of the CA whose certificate hashes to `pin`, from the chain that `address` shows.

    Nothing is sent over this connection, so an impostor learns nothing and can only be refused.

    Raises:
        Unavailable: nobody answers there, or not in TLS 1.3.
        WrongAuthority: the registry there belongs to another mesh.
    """
    host, port = split_address(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the pin, checked below, takes its place
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=REGISTRY_SERVER_NAME
            )
    except TimeoutError as fault:
        raise Unavailable(f"no registry answered at {address} within {timeout_s:g} s") from fault
    except ssl.SSLError as fault:
        raise Unavailable(f"what answers at {address} is no registry: {fault.reason or fault}") from fault
    except OSError as fault:
        raise Unavailable(
            f"no registry answers at {address}: {fault.strerror or fault}",
            hint="check the address, and that bridge-registry runs there",
        ) from fault
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


def _chain(ssl_object: Any) -> list[bytes]:
    # Public since 3.13; before that the same method is there one level down.
    source = ssl_object if hasattr(ssl_object, "get_unverified_chain") else ssl_object._sslobj  # noqa: SLF001
    return [
        bytes(item) if isinstance(item, bytes) else item.public_bytes(2)  # 2: DER
        for item in source.get_unverified_chain() or ()
    ]
