"""Getting a key set: HTTPS alone, small, soon, and from no address that is not public.

An admin writes the address, but whoever answers for its name decides where it leads: a registry that
followed it anywhere could be made to ask the services beside it. So the address that is connected to is
the one that was looked at, and an answer that sends elsewhere (a redirect) is a failure.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final
from urllib.parse import SplitResult, urlsplit

from bridge_core.errors import Unavailable
from bridge_core.http1 import Pool
from bridge_core.identity.key_sets import MAX_BYTES, read_key_set, write_key_set
from bridge_registry.outside import resolve

TIMEOUT_S: Final = 10.0
_ACCEPT: Final = ((b"accept", b"application/jwk-set+json, application/json"), (b"user-agent", b"bridge"))


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
            address = await resolve(parts.hostname, parts.port or 443, private=private)
            body = await _get(parts, address, context)
    except TimeoutError as fault:
        raise Unavailable(f"{parts.hostname} did not answer within {TIMEOUT_S:g} s") from fault
    try:
        return write_key_set(read_key_set(body.decode()))
    except UnicodeDecodeError as fault:
        raise Unavailable("the answer is no UTF-8") from fault


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
