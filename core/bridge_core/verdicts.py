"""How an instance is, in one word with its reasons: what agents, registries and consoles say alike. Pure.

Three levels are looked at, each by whoever can see it: infrastructure and service by the instance's own
agent, business (whether its answers are right) by the other nodes. The verdict is the worst of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from bridge_core.bounds import Moment, Text, Word

Level: TypeAlias = Literal["ok", "degraded", "failing"]
Aspect: TypeAlias = Literal["infrastructure", "service", "business"]

ASPECTS: Final[tuple[Aspect, ...]] = ("infrastructure", "service", "business")
LEVELS: Final[tuple[Level, ...]] = ("ok", "degraded", "failing")
MAX_REASONS: Final = 16
"""That one instance has at once."""

_BADNESS: Final = {level: place for place, level in enumerate(LEVELS)}


class Reason(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why an instance is not well.

    Attributes:
        aspect: Which level of health it is of.
        code: One of few words that the code knows, such as "disk" or "wrong-answers".
        level: How bad it is.
        text: A sentence without a period. Of what changes by the second it gives what it was at first, so
            that a snapshot does not change with it.
        since: Since when, Unix seconds.
    """

    aspect: Aspect
    code: Word
    level: Level
    text: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    since: Moment = 0.0


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What there is to say against an instance; who is well has none in a snapshot.

    Attributes:
        instance: "<node>/<n>".
        reasons: Why, the worst first.
        out: No request goes there.
    """

    instance: Text
    reasons: Annotated[tuple[Reason, ...], msgspec.Meta(max_length=MAX_REASONS)] = ()
    out: bool = False

    @property
    def level(self) -> Level:
        """The worst of the reasons'."""
        return worst(one.level for one in self.reasons)

    @property
    def why(self) -> str:
        """The reasons in a line."""
        return "; ".join(one.text or one.code for one in self.reasons)


def worst(levels: Iterable[Level]) -> Level:
    """The worst of some levels; of none: "ok"."""
    return max(levels, key=_BADNESS.__getitem__, default="ok")


def ordered(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """The worst first, then by aspect and code; not more than a verdict has room for."""
    found = sorted(reasons, key=lambda one: (-_BADNESS[one.level], ASPECTS.index(one.aspect), one.code))
    return tuple(found[:MAX_REASONS])
