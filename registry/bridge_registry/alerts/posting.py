"""Sending one message to one receiver: to the address of its document alone, and with its own secret."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from bridge_core.command.plain_text import one_line
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.http1 import Pool
from bridge_core.key_files import read_key_file
from bridge_registry.alerts.delivery_rules import ReceiverPlan
from bridge_registry.outside import resolve

TIMEOUT_S: Final = 10.0
SECRETS: Final = "alerts"
"""The folder in a registry's state folder that has the receivers' secrets."""
_MOST_SECRET: Final = 8192
_MOST_ANSWER: Final = 16 * 1024
_MOST_SAID: Final = 200


class Answer(msgspec.Struct, frozen=True):
    """What a receiver answered: its status, a word of it, and how long it asks to be left alone."""

    status: int
    says: str = ""
    wait_s: float = 0.0

    @property
    def taken(self) -> bool:
        """Whether it has the message."""
        return 200 <= self.status < 300


async def post(plan: ReceiverPlan, body: bytes, secrets: Path) -> Answer:
    """Posts JSON to a receiver. What it redirects to is not followed.

    Args:
        plan: Which.
        body: The message.
        secrets: The folder of the receivers' secrets.

    Raises:
        BridgeError: nobody answered, or the secret cannot be read; never with the secret in it.
    """
    parts = urlsplit(plan.url)
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    headers = [(b"content-type", b"application/json"), (b"user-agent", b"bridge")]
    if plan.authorization_file:
        headers.append(
            (b"authorization", await asyncio.to_thread(_secret, secrets / plan.authorization_file))
        )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            context = await asyncio.to_thread(_context, plan.ca) if secure else None
            address = await resolve(host, port, private=plan.private)
            name = parts.netloc.encode("ascii", "replace")
            pool = Pool(address, ssl=context, server_hostname=host if secure else None, host=name)
            try:
                return await _ask(pool, parts.path or "/", parts.query, headers, body)
            finally:
                await pool.close()
    except TimeoutError as fault:
        raise Unavailable(f"{host} did not answer within {TIMEOUT_S:g} s") from fault
    except ValueError as fault:  # an address that no request line can hold
        raise Unavailable(f"{host} cannot be asked: {fault}") from fault


async def _ask(pool: Pool, path: str, query: str, headers: list[tuple[bytes, bytes]], body: bytes) -> Answer:
    target = path + (f"?{query}" if query else "")
    async with pool.request("POST", target.encode("utf-8"), headers, body) as response:
        wait = (response.headers.get(b"retry-after") or b"")[:10]
        try:
            said = (await response.read(_MOST_ANSWER)).decode("utf-8", "replace")
        except BridgeError:  # it says too much; that it answered is what counts
            said = ""
        wait_s = float(wait) if wait.isdigit() else 0.0
        return Answer(response.status, one_line(" ".join(said.split()), _MOST_SAID), wait_s)


def _context(ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=ca or None)
    except ssl.SSLError as fault:
        raise BridgeError(f"spec.ca holds no certificate that can be read: {fault.reason}") from fault


def _secret(path: Path) -> bytes:
    try:
        value = read_key_file(path, most=_MOST_SECRET).strip()
    except OSError as fault:
        raise BridgeError(
            f"{path} cannot be read: {fault.strerror or fault}",
            hint="authorizationFile names a file there, mode 0600: the Authorization header's value",
        ) from fault
    if not value or any(not 0x20 <= one < 0x7F for one in value):
        raise BridgeError(f"{path} holds no value of a header", hint="one line, such as: Bearer TOKEN")
    return value
