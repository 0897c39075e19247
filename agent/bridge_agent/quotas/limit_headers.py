"""What an answer says of the quotas that its request counts in: pure.

`x-ratelimit-{limit,remaining,reset}-requests`, `-prompt-tokens`, `-output-tokens` and `-concurrency`, each of
the quota that has the least left; `-tokens`, which OpenAI's clients look at, is whichever of the two kinds
of tokens has the least left. Anthropic's clients get the names of theirs besides.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from bridge_agent.quotas.cell_rules import Cell
from bridge_core.http1 import Pair
from bridge_core.quotas import Resource

Standing = tuple[int, int, int]  # left, limit, when the window ends in Unix milliseconds (0: it has none)


def _template(name: bytes) -> bytes:
    """One name's three lines, to be filled in: this is done with every answer."""
    fields = ((b"limit", b"%d"), (b"remaining", b"%d"), (b"reset", b"%b"))
    return b"".join([b"x-ratelimit-%b-%b: %b\r\n" % (field, name, sign) for field, sign in fields])


_TEMPLATES: Final[dict[Resource, bytes]] = {
    "requests": _template(b"requests"),
    "prompt_tokens": _template(b"prompt-tokens"),
    "output_tokens": _template(b"output-tokens"),
}
_TOKENS: Final = _template(b"tokens")
_AT_ONCE: Final = b"x-ratelimit-limit-concurrency: %d\r\nx-ratelimit-remaining-concurrency: %d\r\n"
_ANTHROPIC: Final[dict[Resource, bytes]] = {
    "requests": b"requests",
    "prompt_tokens": b"input-tokens",
    "output_tokens": b"output-tokens",
}


def limit_lines(cells: Iterable[tuple[Cell, int]], now_ms: int, *, anthropic: bool) -> bytes:
    """The header lines.

    Args:
        cells: Those that the request counts in, each with its window in milliseconds.
        now_ms: Unix milliseconds.
        anthropic: Whether the client speaks Anthropic's protocol.
    """
    found: dict[Resource, Standing] = {}
    for cell, window_ms in cells:
        bucket, left = cell.bucket, cell.left
        known = found.get(bucket.resource)
        if known is None or left < known[0]:
            found[bucket.resource] = (left, cell.amount, bucket.begins and bucket.begins + window_ms)
    text = b""
    tokens: Standing | None = None
    for resource, standing in found.items():
        left, limit, ends = standing
        if resource == "concurrency":
            text += _AT_ONCE % (limit, left)
            continue
        text += _TEMPLATES[resource] % (limit, left, _until(ends, now_ms))
        if resource != "requests" and (tokens is None or left < tokens[0]):
            tokens = standing
        if anthropic:
            text += _anthropic(_ANTHROPIC[resource], standing)
    if tokens is not None:
        text += _TOKENS % (tokens[1], tokens[0], _until(tokens[2], now_ms))
    return text


def pairs_of(text: bytes) -> list[Pair]:
    """The same as names and values."""
    found = []
    for line in text.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b": ")
        found.append((name, value))
    return found


def _anthropic(name: bytes, standing: Standing) -> bytes:
    left, limit, ends = standing
    return b"".join(
        [
            b"anthropic-ratelimit-%b-limit: %d\r\n" % (name, limit),
            b"anthropic-ratelimit-%b-remaining: %d\r\n" % (name, left),
            b"anthropic-ratelimit-%b-reset: %b\r\n" % (name, _moment(ends // 1000)),
        ]
    )


@lru_cache(maxsize=1024)
def _moment(unix: int) -> bytes:
    return dt.datetime.fromtimestamp(unix, dt.UTC).isoformat().replace("+00:00", "Z").encode()


def _until(ends_ms: int, now_ms: int) -> bytes:
    left = ends_ms - now_ms
    return b"%dms" % max(0, left) if left < 1000 else _span(-(-left // 1000))


@lru_cache(maxsize=4096)
def _span(seconds: int) -> bytes:
    """As OpenAI writes it: `6s`, `1m30s`, `2h0m5s`."""
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, seconds)
    return b"%dm%ds" % (minutes, seconds) if minutes else b"%ds" % seconds
