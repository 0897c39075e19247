"""What one agent is sent next: pure.

Rules:
1. One update is on its way at a time; the next goes when it was acknowledged, and is then to the
   newest snapshot: whatever lay between is skipped, so a slow agent costs no memory and delays
   nobody.
2. An update is a delta when the snapshot the agent has is still known here, else whole.
3. Secrets go with an update: with the first of a stream, and when they are others than those told last;
   where there is nothing else to say, with one that changes nothing.
4. After a rejection a whole one follows; when that is rejected, too, the same is not sent again
   before `RESEND_S`.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

import msgspec

from bridge_core.snapshot import Version

RESEND_S: Final = 2.0


class Subscription(msgspec.Struct, frozen=True):
    """One agent's stream.

    Attributes:
        have: What it last said it has; None: nothing.
        sent: The update on its way; None: none.
        whole: The next or the one on its way is whole.
        rejected: Why the last update was refused; empty: it was not.
        not_before: Monotonic time before which nothing is sent unless there is a newer snapshot.
        refused: The version whose whole update was refused.
    """

    have: Version | None = None
    sent: Version | None = None
    whole: bool = False
    rejected: str = ""
    not_before: float = 0.0
    refused: Version | None = None


class Send(msgspec.Struct, frozen=True):
    """Send the current snapshot; as changes to `base`, or whole when that is None."""

    base: Version | None


def acknowledged(state: Subscription, have: Version | None, rejected: str, now: float) -> Subscription:
    """The agent said what it has."""
    if not rejected:
        return Subscription(have=have)
    twice = state.whole and state.sent is not None
    return Subscription(
        have=have,
        whole=True,
        rejected=rejected,
        not_before=now + RESEND_S if twice else now,
        refused=state.sent if twice else None,
    )


def next_send(
    state: Subscription, current: Version, known: Container[Version], now: float, *, untold: bool = False
) -> tuple[Send | None, Subscription]:
    """What to send now, if anything, and the state after it. `untold`: there are secrets to tell."""
    if state.sent is not None or (state.have == current and not state.rejected and not untold):
        return None, state
    if state.refused == current and now < state.not_before:
        return None, state
    whole = state.whole or state.have is None or state.have not in known
    sent = msgspec.structs.replace(state, sent=current, whole=whole)
    return Send(None if whole else state.have), sent
