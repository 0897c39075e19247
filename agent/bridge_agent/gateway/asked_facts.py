"""What conditions of policies may ask about a request, read out of its body: only where one does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.peek import Peek
from bridge_core.dialects.go_durations import parse_go_duration
from bridge_core.policy.facts import UNREADABLE, Facts

_UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_IMAGES: Final = frozenset({"image", "image_url", "input_image"})
_WITH_IMAGES: Final = ("images", "messages", "input")


def facts_of(arrival: Arrival, peeked: Peek | None, now: float, node: Mapping[str, str] | None) -> Facts:
    """The facts of a request.

    Args:
        arrival: The request.
        peeked: Its body, where it has one that was read.
        now: Unix seconds.
        node: The labels and the name of the node that answers; None: it is not known yet.
    """
    remote = arrival.exchange.request.remote
    network = None if arrival.over_hop else (remote[0] if remote else "")
    if peeked is None:
        return Facts(now, network, node=node)
    fields = peeked.fields
    return Facts(
        now,
        network,
        _num_ctx(fields.get("options")),
        _keep_alive(fields.get("keep_alive")),
        _images(fields),
        node,
    )


def _num_ctx(raw: msgspec.Raw | None) -> float | None:
    options = None if raw is None else _decoded(raw)
    if options is None:
        return None
    if not isinstance(options, dict):
        return UNREADABLE
    value = options.get("num_ctx")
    return None if value is None else _number(value)


def _keep_alive(raw: msgspec.Raw | None) -> float | None:
    value = None if raw is None else _decoded(raw)
    if value is None:
        return None
    seconds = _go_seconds(value) if isinstance(value, str) else _number(value)
    return math.inf if seconds < 0 else seconds  # what the engine takes a negative one for


def _images(fields: Mapping[str, msgspec.Raw]) -> float:
    """How many there are, in any of the protocols' shapes."""
    count = 0
    for key in _WITH_IMAGES:
        raw = fields.get(key)
        value = None if raw is None else _decoded(raw)
        if isinstance(value, float) and math.isnan(value):
            return UNREADABLE
        if key == "images":
            count += len(value) if isinstance(value, list) else 0
            continue
        left: list[Any] = [value]
        while left:
            one = left.pop()
            if isinstance(one, list):
                left += one
            elif isinstance(one, dict):
                count += _images_at(one)
                left += [value for value in one.values() if isinstance(value, list)]
    return float(count)


def _images_at(part: dict[str, Any]) -> int:
    # Ollama's keys are read by Go, which takes them in any case.
    named = (value for key, value in part.items() if key.casefold() == "images")
    kind = part.get("type")
    is_one = isinstance(kind, str) and kind in _IMAGES
    return is_one + sum(len(value) for value in named if isinstance(value, list))


def _go_seconds(text: str) -> float:
    try:
        return parse_go_duration(text)
    except ValueError:
        return UNREADABLE


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return UNREADABLE
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _decoded(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except _UNDECODABLE:
        return UNREADABLE
