"""Moments as other programs read them: pure."""

from __future__ import annotations

import datetime as dt


def utc_text(unix: float) -> str:
    """Unix seconds in UTC, to the millisecond: 2026-11-30T12:00:00.000Z."""
    return dt.datetime.fromtimestamp(unix, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
