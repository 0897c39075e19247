"""The last requests that came in at a node, as its agent tells them and the console shows them."""

from __future__ import annotations

from typing import Final

import msgspec

PATH: Final = "/bridge/recent"


class Recent(msgspec.Struct, frozen=True):
    """One request. `at` is Unix seconds of its end; times are milliseconds, -1: it did not happen."""

    id: str
    at: float
    entry: str
    principal: str
    path: str
    model: str
    route: str
    instance: str
    status: int
    outcome: str
    attempts: int
    ttft_ms: float
    total_ms: float
    tokens: int
