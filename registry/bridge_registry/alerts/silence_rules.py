"""What people said not to be told of: silences by hand, after Alertmanager's. Pure functions of (state, now).

Rules:
1. A silence is for alerts whose labels its matchers mean, from when it was made until it ends. What it
   silences is shown, and told to nobody.
2. It says who made it and why: one without a reason is refused.
3. One that would mean every alert is refused: one matcher at least does not mean a label that is not there.
4. There are `MOST` at a time, each of `SHORTEST_S` to `LONGEST_S`. One that is over is gone; it is on the
   audit record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final

import msgspec

from bridge_core.bounds import Moment, Text, Word
from bridge_core.command.plain_text import one_line
from bridge_core.errors import BridgeError
from bridge_core.moments import utc_text
from bridge_core.quantities import say_duration
from bridge_registry.alerts.matcher_rules import MOST_MATCHERS, Matchers, fits, fits_one, matcher_of

MOST: Final = 64
MOST_REASON: Final = 256
SHORTEST_S: Final = 60.0
LONGEST_S: Final = 30 * 86_400.0


class Silence(msgspec.Struct, frozen=True):
    """Nobody is told of some alerts for a while. Times are Unix seconds."""

    id: Word
    matchers: Matchers
    by: Text
    reason: Annotated[str, msgspec.Meta(max_length=MOST_REASON)]
    made: Moment
    ends: Moment

    def says(self) -> str:
        """Why an alert that it means is silent."""
        until = utc_text(self.ends)
        return one_line(f"silence {self.id} by {self.by} until {until}: {self.reason}", 500)


class SilenceRefused(BridgeError):
    """It is not made; says why."""


def made(
    known: Mapping[str, Silence],
    id_: str,
    matchers: Sequence[str],
    *,
    by: str,
    reason: str,
    lasts_s: float,
    now: float,
) -> Silence:
    """A silence beside those that are known.

    Raises:
        SilenceRefused: it would be none that the rules know.
    """
    why = one_line(reason.strip(), MOST_REASON + 1)
    if not why:
        raise SilenceRefused("a silence says why: whoever is on call next reads it", hint="--reason '…'")
    if len(why) > MOST_REASON:
        raise SilenceRefused(f"the reason has more than {MOST_REASON} characters")
    if not SHORTEST_S <= lasts_s <= LONGEST_S:
        span = f"{say_duration(SHORTEST_S)} to {say_duration(LONGEST_S)}"
        raise SilenceRefused(f"a silence lasts {span}", hint="--for 2h")
    if not 1 <= len(matchers) <= MOST_MATCHERS:
        raise SilenceRefused(f"a silence has 1 to {MOST_MATCHERS} matchers, not {len(matchers)}")
    if len(known) >= MOST:
        raise SilenceRefused(
            f"there are {MOST} silences already, which is all that there may be",
            hint="`bridgectl alerts silences` lists them, `bridgectl alerts unsilence ID` ends one",
        )
    try:
        found = tuple(map(matcher_of, matchers))
    except ValueError as fault:
        raise SilenceRefused(str(fault), hint="bridgectl alerts silence disk node=n1 …") from None
    if all(fits_one(one, "") for one in found):
        raise SilenceRefused(
            "these matchers mean alerts that have no such label, so every alert",
            hint="name what is to be silent: alertname=…, node=…, severity=…",
        )
    return Silence(id_, found, by[:256], why, now, now + lasts_s)


def lasting(known: Iterable[Silence], now: float) -> dict[str, Silence]:
    """Those that are not over, by id, the first to end first."""
    there = [one for one in known if now < one.ends]
    return {one.id: one for one in sorted(there, key=lambda one: (one.ends, one.id))}


def silent(silences: Iterable[Silence], labels: Mapping[str, str]) -> str:
    """Why an alert with these labels is told to nobody: the silence that lasts longest; empty: none does."""
    meant = [one for one in silences if fits(one.matchers, labels)]
    return max(meant, key=lambda one: (one.ends, one.id)).says() if meant else ""
