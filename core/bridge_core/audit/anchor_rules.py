"""When a log's head is taken to a time-stamp authority (RFC 3161). Pure.

Rules:
1. Once an hour, and only where the log has grown since.
2. What fails is tried again after half a minute, then after twice as long each time, up to an hour; jitter
   keeps the nodes of a mesh from asking together.
3. An hour's head that nobody stamped within three hours is late, which is said.
"""

from __future__ import annotations

from typing import Final

import msgspec

EVERY_S: Final = 3600.0
_FIRST_RETRY_S: Final = 30.0
_MOST_DOUBLED: Final = 7
_LATE_S: Final = 3 * EVERY_S


class Anchored(msgspec.Struct, frozen=True):
    """How far a log is stamped.

    Attributes:
        size: Records that the newest stamp speaks for.
        at: When it was got; Unix seconds as all times here. 0: never.
        due: When to ask next.
        failures: In a row, since then.
        waiting_since: Since when there is something to stamp; 0: there is nothing.
        reason: Why the last try failed.
    """

    size: int = 0
    at: float = 0.0
    due: float = 0.0
    failures: int = 0
    waiting_since: float = 0.0
    reason: str = ""


def seen(state: Anchored, size: int, now: float) -> Anchored:
    """With a look at how long the log is. One that is shorter than it was stamped is another one."""
    if size < state.size:
        return Anchored(waiting_since=now)
    if size <= state.size:
        return msgspec.structs.replace(state, waiting_since=0.0)
    return state if state.waiting_since else msgspec.structs.replace(state, waiting_since=now)


def is_due(state: Anchored, now: float) -> bool:
    """Whether to ask now. A clock that was set back asks too early once rather than not for years."""
    return state.waiting_since > 0.0 and (now >= state.due or state.due - now > 2 * EVERY_S)


def stamped(state: Anchored, size: int, now: float, jitter: float) -> Anchored:
    """After a stamp of so many records; `jitter` is from 0 to 1."""
    return Anchored(size, now, now + EVERY_S * (0.95 + 0.1 * jitter))


def failed(state: Anchored, reason: str, now: float, jitter: float) -> Anchored:
    """After a try that came to nothing; `jitter` is from 0 to 1."""
    wait = min(EVERY_S, _FIRST_RETRY_S * 2.0 ** min(state.failures, _MOST_DOUBLED)) * (0.5 + 0.5 * jitter)
    return msgspec.structs.replace(state, due=now + wait, failures=state.failures + 1, reason=reason)


def is_late(state: Anchored, now: float) -> bool:
    """Whether an operator should know that there is no stamp."""
    return state.waiting_since > 0.0 and now - max(state.at, state.waiting_since) > _LATE_S
