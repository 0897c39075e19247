"""What an answer says of the quotas that its request counts in: pure.

`x-ratelimit-{limit,remaining,reset}-requests`, `-prompt-tokens`, `-output-tokens` and `-concurrency`, each of
the quota that has the least left; `-tokens`, which OpenAI's clients look at, is whichever of the two kinds
of tokens has the least left. Anthropic's clients get the names of theirs besides.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Final

import msgspec

from bridge_agent.quotas.cell_rules import Cell
from bridge_core.http1 import Pair
from bridge_core.quotas import Resource

_NAMES: Final[dict[Resource, bytes]] = {
    "requests": b"requests",
    "prompt_tokens": b"prompt-tokens",
    "output_tokens": b"output-tokens",
    "concurrency": b"concurrency",
}
_ANTHROPIC: Final[dict[Resource, bytes]] = {
    "requests": b"requests",
    "prompt_tokens": b"input-tokens",
    "output_tokens": b"output-tokens",
}


class Standing(msgspec.Struct, frozen=True):
    """How a bucket stands."""

    limit: int
    left: int
    resets_ms: int  # Unix; 0: it has no window


def limit_pairs(cells: Iterable[tuple[Cell, int]], now_ms: int, *, anthropic: bool) -> list[Pair]:
    """The header fields.

    Args:
        cells: Those that the request counts in, each with its window in milliseconds.
        now_ms: Unix milliseconds.
        anthropic: Whether the client speaks Anthropic's protocol.
    """
    found: dict[Resource, Standing] = {}
    for cell, window_ms in cells:
        bucket = cell.bucket
        resets = bucket.begins + window_ms if bucket.begins else 0
        standing = Standing(cell.amount, cell.left, resets)
        known = found.get(bucket.resource)
        if known is None or standing.left < known.left:
            found[bucket.resource] = standing
    pairs: list[Pair] = []
    for resource, standing in found.items():
        pairs += _openai(_NAMES[resource], standing, now_ms)
    tokens = [one for resource, one in found.items() if resource.endswith("_tokens")]
    if tokens:
        pairs += _openai(b"tokens", min(tokens, key=lambda one: one.left), now_ms)
    if anthropic:
        for resource, name in _ANTHROPIC.items():
            if resource in found:
                pairs += _anthropic(name, found[resource])
    return pairs


def _openai(name: bytes, standing: Standing, now_ms: int) -> list[Pair]:
    pairs = [
        (b"x-ratelimit-limit-" + name, b"%d" % standing.limit),
        (b"x-ratelimit-remaining-" + name, b"%d" % standing.left),
    ]
    if standing.resets_ms:
        pairs.append((b"x-ratelimit-reset-" + name, _span(max(0, standing.resets_ms - now_ms))))
    return pairs


def _anthropic(name: bytes, standing: Standing) -> list[Pair]:
    moment = dt.datetime.fromtimestamp(standing.resets_ms / 1000, dt.UTC)
    at = moment.replace(microsecond=0).isoformat().replace("+00:00", "Z")
    return [
        (b"anthropic-ratelimit-" + name + b"-limit", b"%d" % standing.limit),
        (b"anthropic-ratelimit-" + name + b"-remaining", b"%d" % standing.left),
        (b"anthropic-ratelimit-" + name + b"-reset", at.encode()),
    ]


def _span(milliseconds: int) -> bytes:
    """As OpenAI writes it: `850ms`, `6s`, `1m30s`, `2h0m5s`."""
    if milliseconds < 1000:
        return b"%dms" % milliseconds
    seconds = -(-milliseconds // 1000)
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, seconds)
    return b"%dm%ds" % (minutes, seconds) if minutes else b"%ds" % seconds
