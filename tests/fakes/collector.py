"""A collector of traces: OTLP over HTTP, on a real socket; it keeps what comes and answers as it is told."""

from __future__ import annotations

import contextlib
import gzip
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import trustme

from bridge_core.http1 import Exchange, serve

AUTHORITY = trustme.CA()
"""Of a collector over TLS."""


class FakeCollector:
    """See the module.

    Attributes:
        status: What it answers; with `fields` and `body`.
        silent: It never answers.
        asked: The header fields of each message; `targets` are their addresses.
        batches: The spans of each message.
        url: Where it takes them.
    """

    def __init__(self) -> None:
        self.status = 200
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b"{}"
        self.silent = False
        self.asked: list[dict[bytes, bytes]] = []
        self.targets: list[bytes] = []
        self.batches: list[list[dict[str, Any]]] = []
        self.url = ""

    @property
    def spans(self) -> list[dict[str, Any]]:
        """All that came."""
        return [one for batch in self.batches for one in batch]

    def __call__(self, exchange: Exchange) -> None:
        request = exchange.request
        self.asked.append(dict(request.headers.pairs))
        self.targets.append(request.target)
        document = json.loads(gzip.decompress(request.body))
        self.batches.append(document["resourceSpans"][0]["scopeSpans"][0]["spans"])
        if not self.silent:
            exchange.respond(self.status, self.fields, self.body)


@contextlib.asynccontextmanager
async def collecting(*, secure: bool = False) -> AsyncIterator[FakeCollector]:
    """One that runs."""
    fake, context = FakeCollector(), None
    if secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        AUTHORITY.issue_cert("localhost").configure_cert(context)
    server = await serve(fake, name="collector", host="127.0.0.1", port=0, ssl=context)
    fake.url = f"{'https' if secure else 'http'}://localhost:{server.port}/v1/traces"
    try:
        yield fake
    finally:
        await server.close(0.0)
