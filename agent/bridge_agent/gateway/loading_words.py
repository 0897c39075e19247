"""What clients are told of the load that they wait for: `X-Bridge-Loading`, a dictionary of RFC 9651.

    X-Bridge-Loading: waited=4.213                             of an answer: seconds that it waited for a load
    X-Bridge-Loading: waited=20.0, progress=0.42, rest=27.5    of a stream whose model is still being loaded

`progress` and `rest` (seconds) are what earlier loads make likely; they are missing where nobody knows.
"""

from __future__ import annotations

import re
from typing import Final

from bridge_agent.peers.hop import LOADING
from bridge_core.snapshot import LoadingModel

_WAITED: Final = re.compile(rb"waited=(\d{1,9}\.\d{1,3})")


def loading_line(waited_s: float) -> bytes:
    """The field's line on an answer."""
    return b"%b: waited=%.3f\r\n" % (LOADING, waited_s)


def waited_in(value: bytes | None) -> float:
    """The seconds that a peer says that an answer waited for a load; 0: it says nothing that can be read."""
    found = None if value is None else _WAITED.fullmatch(value)
    return 0.0 if found is None else float(found[1])


def loading_value(waited_s: float, load: LoadingModel | None, now_unix: float) -> bytes:
    """The field's value while the load goes on; `load`: what is known of it."""
    value = f"waited={waited_s:.1f}"
    if load is not None and load.expected_s > 0:
        value += f", progress={load.progress(now_unix):.2f}, rest={load.rest_s(now_unix):.1f}"
    return value.encode()


def loading_comment(model: str, load: LoadingModel | None, now_unix: float) -> bytes:
    """A comment of an event stream that says the same to people."""
    words = f": loading {model}"
    if load is not None and load.expected_s > 0:
        words += f", about {load.progress(now_unix):.0%}, {load.rest_s(now_unix):.0f} s more"
    return words.encode() + b"\n\n"
