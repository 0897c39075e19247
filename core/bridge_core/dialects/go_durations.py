"""Durations as Go reads them, in which Ollama's API speaks: `5m`, `-1s`, `1h30m`, `.5s`, `0`. Pure.

One place reads them, for the engine that keeps a model loaded and for the policies that say how long one may:
what one of them understood and the other did not would be a way around a policy.

Source: Go's `time.ParseDuration`.
"""

from __future__ import annotations

import re
from typing import Final

MAX_TEXT: Final = 128  # characters; no honest duration is longer
# Go counts nanoseconds in 63 bits, and refuses what does not fit: about 292 years.
_MOST_S: Final = (1 << 63) / 1e9

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION: Final = re.compile(rf"[-+]?(?:0|(?:{_PART.pattern})+)")


def parse_go_duration(text: str) -> float:
    """Seconds, negative ones too.

    Raises:
        ValueError: it is not a duration, or longer than Go can count.
    """
    if len(text) > MAX_TEXT or not _DURATION.fullmatch(text):
        raise ValueError("not a duration such as 5m or 1h30m")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if seconds >= _MOST_S:
        raise ValueError("a duration of more than 292 years")
    return -seconds if text.startswith("-") else seconds
