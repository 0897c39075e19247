"""Metrics in the format that whoever scrapes asks for: OpenMetrics 1.0, else Prometheus' text format 0.0.4.

Exemplars, which say of a bucket of a histogram which request fell into it, are in OpenMetrics alone.
"""

from __future__ import annotations

import re
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from bridge_core.http1 import Exchange

TEXT: Final = b"text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = b"application/openmetrics-text; version=1.0.0; charset=utf-8"
_KINDS: Final = {b"text/plain": TEXT, b"application/openmetrics-text": OPENMETRICS}
_VERSIONS: Final = {TEXT: (b"", b"0.0.4"), OPENMETRICS: (b"", b"1.0.0", b"0.0.1")}
_SHARE: Final = re.compile(rb"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")  # a quality value (RFC 9110, 12.4.2)


def kind_of(accept: bytes | None) -> bytes:
    """The content type for an Accept field: what is wanted most of the two; text where it names neither."""
    best, most = TEXT, 0.0
    for one in (accept or b"").split(b","):
        name, *parameters = (part.strip().lower() for part in one.split(b";"))
        kind = _KINDS.get(name)
        found = dict(part.partition(b"=")[::2] for part in parameters)
        share = found.get(b"q", b"1")
        if kind is None or found.get(b"version", b"").strip(b'"') not in _VERSIONS[kind]:
            continue
        wanted = float(share) if _SHARE.fullmatch(share) else 0.0
        if wanted > most:
            best, most = kind, wanted
    return best


def rendered(registry: CollectorRegistry, accept: bytes | None) -> tuple[bytes, bytes]:
    """The content type for an Accept field, and the metrics in it."""
    kind = kind_of(accept)
    if kind is OPENMETRICS:
        return kind, openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]  # has no types
    return kind, generate_latest(registry)


def answer(exchange: Exchange, registry: CollectorRegistry) -> None:
    """Answers a scrape."""
    kind, body = rendered(registry, exchange.request.headers.get(b"accept"))
    exchange.respond(
        200, [(b"content-type", kind), (b"cache-control", b"no-store"), (b"vary", b"accept")], body
    )
