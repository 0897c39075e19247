"""Getting a key set: HTTPS alone, small, soon, and from no address that is not public.

An admin writes the address, but whoever answers for its name decides where it leads: a registry that
followed it anywhere could be made to ask the services beside it. So the address that is connected to is
the one that was looked at, and an answer that sends elsewhere (a redirect) is a failure.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from typing import Final
from urllib.parse import SplitResult, urlsplit

from bridge_core.addresses import without_localhost
from bridge_core.errors import Unavailable
from bridge_core.http1 import Pool
from bridge_core.identity.key_sets import MAX_BYTES, read_key_set, write_key_set

TIMEOUT_S: Final = 10.0
_ACCEPT: Final = ((b"accept", b"application/jwk-set+json, application/json"), (b"user-agent", b"bridge"))
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


async def fetch_key_set(url: str, *, private: bool = False, context: ssl.SSLContext | None = None) -> str:
    """The key set at `url`, with nothing in it that no check needs.

    Args:
        url: https.
        private: Addresses that are not public may be asked, too.
        context: Whom to trust; None: what the system does (`SSL_CERT_FILE` names another file).

    Raises:
        BridgeError: it could not be got, or is none.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise Unavailable("only https is fetched from")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            if context is None:
                context = await asyncio.to_thread(ssl.create_default_context)
            address = await _resolve(parts.hostname, parts.port or 443, private=private)
            body = await _get(parts, address, context)
    except TimeoutError as fault:
        raise Unavailable(f"{parts.hostname} did not answer within {TIMEOUT_S:g} s") from fault
    try:
        return write_key_set(read_key_set(body.decode()))
    except UnicodeDecodeError as fault:
        raise Unavailable("the answer is no UTF-8") from fault


async def _resolve(host: str, port: int, *, private: bool) -> tuple[str, int]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(without_localhost(host), port, proto=6)
    except (OSError, UnicodeError) as fault:
        raise Unavailable(f"the name {host} does not resolve: {fault}") from fault
    addresses = [str(one[4][0]) for one in found]
    for address in addresses:
        if private or is_public(ipaddress.ip_address(address.partition("%")[0])):
            return address, port
    raise Unavailable(
        f"{host} is {addresses[0]}, which is no public address",
        hint="spec.allowPrivateAddress lets the registry ask it",
    )


def is_public(address: _Address) -> bool:
    """Whether an address is one of the public Internet, also by what is embedded in it."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
        if address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


async def _get(parts: SplitResult, address: tuple[str, int], context: ssl.SSLContext) -> bytes:
    host = parts.netloc
    pool = Pool(
        address, ssl=context, server_hostname=parts.hostname, host=host.encode("ascii", "replace"), label=host
    )
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        async with pool.request("GET", target.encode("utf-8"), _ACCEPT) as response:
            if response.status != 200:
                raise Unavailable(f"{host} answered {response.status}, and a key set comes with 200")
            return await response.read(MAX_BYTES)
    except ValueError as fault:  # an address that no request line can hold
        raise Unavailable(f"{host} cannot be asked: {fault}") from fault
    finally:
        await pool.close()
