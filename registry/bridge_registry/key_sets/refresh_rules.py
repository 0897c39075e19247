"""When the key set of a provider is fetched: pure.

Rules:
1. One that was never fetched, or from another address, is fetched at once; any other when it is older than
   its provider says.
2. A fetch that failed is tried again after five seconds, then after twice as long each time, up to five
   minutes. The set that is there stays in use meanwhile, however old: an issuer that is away for a while
   must not lock its users out.
3. A set counts for the address that it was fetched from, and no other: a provider that was pointed
   elsewhere, or was made anew under an old name, begins without.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bridge_registry.records import KeySetRecord

FIRST_RETRY_S: Final = 5.0
LAST_RETRY_S: Final = 300.0


class Failures(msgspec.Struct, frozen=True):
    """Fetches that failed since the last that did not. Times in Unix seconds."""

    source: str
    reason: str
    since: float
    last: float
    count: int = 1


def is_due(
    source: str, refresh_s: float, record: KeySetRecord | None, failures: Failures | None, now: float
) -> bool:
    """Whether the key set at `source` is to be fetched now (Unix seconds)."""
    if failures is not None and failures.source == source:
        pause = min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(failures.count - 1, 16))
        return not failures.last <= now < failures.last + pause
    if record is None or record.source != source:
        return True
    return not record.fetched <= now < record.fetched + refresh_s


def failed(before: Failures | None, source: str, reason: str, now: float) -> Failures:
    """The failures with one more."""
    if before is None or before.source != source:
        return Failures(source, reason, now, now)
    return Failures(source, reason, before.since, now, before.count + 1)


def keys_for(source: str | None, record: KeySetRecord | None) -> str:
    """The fetched set that counts for a provider whose document names this address; empty: none."""
    return "" if record is None or source is None or record.source != source else record.keys


def concern(name: str, record: KeySetRecord | None, failures: Failures, now: float) -> str:
    """What an operator should know of a set that cannot be fetched."""
    kept = (
        f"the one of {_age(now - record.fetched)} ago stays in use"
        if record is not None and record.source == failures.source
        else "none of its tokens count"
    )
    return (
        f"the key set of the identity provider {name} cannot be fetched since {_age(now - failures.since)}: "
        f"{failures.reason}; {kept}"
    )


def _age(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h" if seconds >= 7200 else f"{max(0.0, seconds) / 60:.0f} min"
