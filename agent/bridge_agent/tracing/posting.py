"""Sending a batch to the collector: to the address in `agent.json` alone, nowhere that it redirects to."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Final

from bridge_agent.tracing.delivery_rules import Answer
from bridge_agent.tracing.section import TracesSection
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.http1 import Pair, Pool, PoolLimits
from bridge_core.key_files import read_key_file

TIMEOUT_S: Final = 10.0
_MOST_ANSWER: Final = 16 << 10
_MOST_HEADERS: Final = 16 << 10
_LIMITS: Final = PoolLimits(connections=1, waiting=1, idle=1, idle_s=30.0, silence_s=30.0)
_OWN: Final = frozenset(
    {b"connection", b"content-encoding", b"content-length", b"content-type", b"host", b"transfer-encoding"}
)
_TOKEN: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")


class Collector:
    """The one that spans go to.

    Args:
        section: Where it is, and how it is asked.
        timeout_s: How long an answer may take, from the first step on.
    """

    def __init__(self, section: TracesSection, *, timeout_s: float = TIMEOUT_S) -> None:
        parts = section.parts
        self._section = section
        self._timeout_s = timeout_s
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._secure else 80)
        self._name = parts.netloc
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._pool: Pool | None = None

    async def post(self, body: bytes) -> Answer:
        """Posts a gzipped batch.

        Raises:
            BridgeError: nobody answered in time, or a file of the section cannot be used; never with a
                secret in it.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                # Read anew each time: a token that is renewed counts from the next batch on.
                headers = await asyncio.to_thread(header_lines, self._section.headers)
                pool = await self._opened()
                return await self._ask(pool, headers, body)
        except TimeoutError as fault:
            await self.close()
            raise Unavailable(f"{self._name} did not answer within {self._timeout_s:g} s") from fault
        except BridgeError:
            # Whatever it was, the next try begins with certificates and names as they are then.
            await self.close()
            raise

    async def close(self) -> None:
        """Closes the connection."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def _opened(self) -> Pool:
        if self._pool is None:
            context = await asyncio.to_thread(_context, self._section.ca) if self._secure else None
            self._pool = Pool(
                (self._host, self._port),
                ssl=context,
                server_hostname=self._host if self._secure else None,
                host=self._name.encode("ascii"),
                limits=_LIMITS,
            )
        return self._pool

    async def _ask(self, pool: Pool, headers: list[Pair], body: bytes) -> Answer:
        fields = [
            (b"content-type", b"application/json"),
            (b"content-encoding", b"gzip"),
            (b"user-agent", b"bridge-agent"),
            *headers,
        ]
        async with pool.request("POST", self._target, fields, body) as response:
            after = response.headers.get(b"retry-after") or b""
            try:
                said = await response.read(_MOST_ANSWER)
            except BridgeError:  # it says too much, or broke off; its status is what counts
                said = b""
            return Answer(response.status, after[:40], said)


def header_lines(path: str) -> list[Pair]:
    """The header fields that a file says, a line each, `Name: value`; none where there is no file.

    Raises:
        BridgeError: it cannot be read, others may read it, or a line is none; never with a value in it.
    """
    if not path:
        return []
    try:
        data = read_key_file(Path(path), most=_MOST_HEADERS)
    except OSError as fault:
        raise BridgeError(
            f"traces.headers: {path} cannot be read: {fault.strerror or fault}",
            hint="it has a header line for each, such as: Authorization: Bearer TOKEN",
        ) from fault
    found = []
    for number, line in enumerate(data.splitlines(), 1):
        name, colon, value = (part.strip(b" \t") for part in line.partition(b":"))
        name = name.lower()
        if not line.strip() or line.startswith(b"#"):
            continue
        good = name and _TOKEN.issuperset(name) and all(0x20 <= one < 0x7F for one in value)
        if not colon or not value or not good or name in _OWN:
            raise BridgeError(
                f"traces.headers: line {number} of {path} is no header line that may be added",
                hint="one line each, such as: Authorization: Bearer TOKEN",
            )
        found.append((name, value))
    return found


def _context(ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca or None)
    except (ssl.SSLError, OSError) as fault:
        reason = (
            fault.strerror if isinstance(fault, OSError) and not isinstance(fault, ssl.SSLError) else fault
        )
        raise BridgeError(
            f"traces.ca: {ca} has no certificate that can be read: {reason}",
            hint="a PEM file of the authority that signed the collector's certificate",
        ) from fault
