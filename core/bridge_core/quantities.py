"""Durations and sizes as people write and read them: the one place that knows their units. Pure.

Rules:
1. A duration is one or more numbers, each with its unit: 250ms, 1.5s, 1h30m, 7d. Where a client says how
   long it waits it may leave the unit out, and means seconds; whatever is longer than is ever waited is as
   good as that.
2. A size is one number with a unit that is a power of 1024: 512MiB, 1.5GiB. `GB`, which means two
   things, is none.
3. What is longer than `MAX_TEXT`, or beyond the largest duration or size, is refused like any other
   nonsense: it is read from files, flags and headers that anybody may have written.

Go's durations, which Ollama's API and its options speak, are another language: the dialects read those.
"""

from __future__ import annotations

import math
import re
from typing import Final

MAX_TEXT: Final = 64  # characters
MAX_DURATION_S: Final = 100 * 365 * 86_400.0
MAX_SIZE: Final = 1 << 60

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_BYTES: Final = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"
_DURATION_PART: Final = re.compile(rf"({_NUMBER})(ms|s|m|h|d)")
_SIZE: Final = re.compile(rf"({_NUMBER})(KiB|MiB|GiB|TiB)")

# For schemas that other programs read.
DURATION_PATTERN: Final = rf"(?:{_NUMBER}(?:ms|s|m|h|d))+"
SIZE_PATTERN: Final = rf"({_NUMBER})(KiB|MiB|GiB|TiB)"

_DURATION: Final = re.compile(DURATION_PATTERN)


def parse_duration(text: str) -> float:
    """Seconds of "90s", "1h30m", "250ms".

    Raises:
        ValueError: it is not a duration, or longer than `MAX_DURATION_S`.
    """
    seconds = _seconds(text)
    if seconds > MAX_DURATION_S:
        raise ValueError("a duration of more than a hundred years")
    return seconds


def parse_patience(text: str, most_s: float) -> float:
    """Seconds that a client waits, `most_s` at most, of "30", "1.5m" or "1h30m".

    Raises:
        ValueError: it is not a duration, or none at all.
    """
    seconds = _seconds(f"{text}s" if text[-1:].isdecimal() else text)
    if not seconds:
        raise ValueError("a duration of nothing")
    return min(seconds, most_s)


def _seconds(text: str) -> float:
    if len(text) > MAX_TEXT or not _DURATION.fullmatch(text):
        raise ValueError("not a duration such as 5s, 250ms or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def parse_size(text: str) -> int:
    """Bytes of "512MiB" or "1.5GiB".

    Raises:
        ValueError: it is not a size, or larger than `MAX_SIZE`.
    """
    match = _SIZE.fullmatch(text) if len(text) <= MAX_TEXT else None
    if match is None:
        raise ValueError("not a size such as 512MiB or 1.5GiB")
    size = float(match[1]) * _BYTES[match[2]]
    if size > MAX_SIZE:
        raise ValueError("a size of more than 1 EiB")
    return int(size)


def say_duration(seconds: float) -> str:
    """A duration as `parse_duration` reads it, to the millisecond: 90.5 is "1m30.5s"; "-" before a negative.

    What is no number of seconds is said as Python does.
    """
    if not math.isfinite(seconds):
        return str(seconds)
    left = round(abs(seconds) * 1000)
    if left < 1000:
        return f"{'-' if seconds < 0 and left else ''}{left}ms" if left else "0s"
    said = "-" if seconds < 0 else ""
    for unit, each in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000)):
        count, left = divmod(left, each)
        said += f"{count}{unit}" if count else ""
    return said + (f"{left / 1000:.3f}".rstrip("0").rstrip(".") + "s" if left else "")


def say_span(seconds: float) -> str:
    """About how long something took or takes, in its largest fitting unit: "3 d", "47 min", "12 s"."""
    whole = max(0, int(seconds))
    for unit, each in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if whole >= 2 * each:
            return f"{whole // each} {unit}"
    return f"{whole} s"


def say_size(count: int) -> str:
    """Bytes in the largest unit that leaves something before the point: "1.5 GiB"."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"
