"""What a schema cannot say of an AlertRule or an AlertReceiver, and what a threshold's text means. Pure.

Rules:
1. A rule has one threshold, in a unit of its figure; `clear` lies on the side where all is well.
2. `window` and `minRequests` are of counted figures, `quantile` of times; elsewhere they would be without
   effect, and are refused.
3. Labels have names as Prometheus has them, none of those that every alert has.
4. The receivers that a rule names are there.
5. A receiver's address is https, or http where private addresses are allowed, without user and password.
6. What Alertmanager does itself (groups, repeating) is not for a receiver that is one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Final

import msgspec

from bridge_core import gauges
from bridge_core.config.alert_spec import AlertReceiverSpec, AlertRuleSpec
from bridge_core.config.url_checks import is_https, url_fault
from bridge_core.quantities import parse_duration, parse_size

WINDOWS_S: Final = (60.0, 300.0, 900.0)
COUNTED: Final = frozenset({gauges.TTFT, gauges.ERRORS, gauges.TOKENS})
"""What the registry makes of counters."""
OWN_LABELS: Final = frozenset({"alertname", "severity", "mesh", "node", "instance", "of"})

_BYTES: Final = frozenset({gauges.DISK, gauges.MEMORY, gauges.VRAM})
_LIMITED: Final = _BYTES | {gauges.IN_FLIGHT}
_PERCENT: Final = frozenset({gauges.PRESSURE_CPU, gauges.PRESSURE_MEMORY, gauges.PRESSURE_IO})
_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}")
_MOST: Final = 1e18
_GROUPED: Final = ("group_by", "group_wait", "group_interval", "repeat", "send_resolved")


class Level(msgspec.Struct, frozen=True):
    """A threshold. `relative`: a share of the figure's limit."""

    value: float
    relative: bool = False


def level_of(figure: str, text: str) -> Level:
    """What a threshold's text means for a figure.

    Raises:
        ValueError: nothing; the message says what it should be.
    """
    if text.endswith("%"):
        share = _number(text[:-1], "a number before the %")
        if figure in _PERCENT:
            return Level(share)
        if figure == gauges.ERRORS:
            return Level(share / 100.0)
        if figure in _LIMITED:
            return Level(share / 100.0, relative=True)
        raise ValueError(f"{figure} has no limit that {text} could be of")
    if figure in _BYTES:
        return Level(float(parse_size(text)))
    if figure == gauges.TTFT:
        return Level(parse_duration(text))
    return Level(_number(text, "a number"))


def rule_faults(spec: AlertRuleSpec, receivers: Collection[str]) -> Iterator[tuple[str, str]]:
    """Every fault of a rule, as the path below `spec` and a sentence; `receivers` are those there are."""
    if (spec.above is None) == (spec.below is None):
        yield "", "give either above or below"
    levels = dict[str, Level]()
    for side in ("above", "below", "clear"):
        text = getattr(spec, side)
        if text is not None:
            try:
                levels[side] = level_of(spec.figure, text)
            except ValueError as fault:
                yield side, f"should be {_wanted(spec.figure)}, not {text!r} ({fault})"
    yield from _clears(levels)
    if spec.figure not in COUNTED:
        for field, name in (("window", "window"), ("min_requests", "minRequests")):
            if field in spec.model_fields_set:
                yield name, f"is without effect: {spec.figure} is measured and not counted"
    elif spec.window not in WINDOWS_S:
        yield "window", "is one of 1m, 5m and 15m"
    if spec.figure != gauges.TTFT and "quantile" in spec.model_fields_set:
        yield "quantile", f"is of ttft_seconds, not of {spec.figure}"
    for name in spec.labels:
        if not _LABEL.fullmatch(name) or name.startswith("__"):
            yield f"labels.{name}", "is no label's name: letters, digits and _, no digit first"
        elif name in OWN_LABELS:
            yield f"labels.{name}", "is what every alert has of itself"
    for at, receiver in enumerate(spec.receivers):
        if receiver not in receivers:
            yield f"receivers[{at}]", f"there is no AlertReceiver {receiver}"
        elif receiver in spec.receivers[:at]:
            yield f"receivers[{at}]", f"{receiver} is there twice"


def receiver_faults(spec: AlertReceiverSpec) -> Iterator[tuple[str, str]]:
    """Every fault of a receiver, as the path below `spec` and a sentence."""
    if fault := _address_fault(spec):
        yield "url", fault
    if spec.type == "alertmanager":
        for field in _GROUPED:
            if field in spec.model_fields_set:
                name = type(spec).model_fields[field].alias or field
                yield name, "is Alertmanager's own to say: its configuration groups, waits and repeats"
        if spec.url.rstrip("/").endswith("/api/v2/alerts"):
            yield "url", "is the address before /api/v2/alerts, which is added"
        if "?" in spec.url:
            yield "url", "has a query, which no address before /api/v2/alerts has"
    if spec.ca is not None and "-----BEGIN CERTIFICATE-----" not in spec.ca:
        yield "ca", "holds no certificate in PEM"
    if spec.ca is not None and spec.url.startswith("http:"):
        yield "ca", "is without effect: http has no certificates"


def _clears(levels: dict[str, Level]) -> Iterator[tuple[str, str]]:
    clear = levels.get("clear")
    side = "above" if "above" in levels else "below"
    threshold = levels.get(side)
    if clear is None or threshold is None:
        return
    if clear.relative != threshold.relative:
        yield "clear", f"is in another unit than {side}"
    elif clear.value > threshold.value if side == "above" else clear.value < threshold.value:
        yield "clear", f"is beyond the threshold: it would be over while it is {side} it"


def _number(text: str, wanted: str) -> float:
    if not _NUMBER.fullmatch(text) or float(text) > _MOST:
        raise ValueError(f"not {wanted}")
    return float(text)


def _wanted(figure: str) -> str:
    if figure in _BYTES:
        return "a share of the limit such as 90%, or a size such as 20GiB"
    if figure == gauges.TTFT:
        return "a duration such as 2s"
    if figure == gauges.ERRORS:
        return "a share such as 5%"
    return "a number, or a share such as 90%" if figure == gauges.IN_FLIGHT else "a number"


def _address_fault(spec: AlertReceiverSpec) -> str:
    if fault := url_fault(spec.url, key="authorizationFile"):
        return fault
    if not is_https(spec.url) and not spec.allow_private_address:
        return "is http, which is read on its way: https, or allowPrivateAddress for a network of your own"
    return ""
