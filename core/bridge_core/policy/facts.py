"""What conditions of policies ask about besides who asks. Pure.

What is not there is None; a number that was given and is none is `UNREADABLE`. What the agent that decides
cannot know is marked as unknown: then nothing is decided by it there (see the package's docstring).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

import msgspec

UNREADABLE: Final = math.nan
DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY_S: Final = 86_400
_THURSDAY: Final = 3  # the first of January 1970
_CLOCK: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_NUMBER: Final = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,9})?", re.ASCII)


class Facts(msgspec.Struct, frozen=True, gc=False):
    """Of one request.

    Attributes:
        now: Unix seconds.
        network: The client's address; empty: it has none; None: not known here.
        num_ctx: Tokens of context that it asks for.
        keep_alive: For how many seconds it has the model kept; infinite: for ever.
        images: How many it brings.
        node: Labels of the node that answers, and its `name`; None: not known here.
    """

    now: float = 0.0
    network: str | None = None
    num_ctx: float | None = None
    keep_alive: float | None = None
    images: float | None = 0.0
    node: Mapping[str, str] | None = None

    @property
    def second_of_day(self) -> float:
        """Since midnight, UTC."""
        return self.now % _DAY_S

    @property
    def weekday(self) -> str:
        """Mon … Sun, UTC."""
        return DAYS[(int(self.now // _DAY_S) + _THURSDAY) % 7]


def node_facts(name: str, labels: Mapping[str, str]) -> dict[str, str]:
    """What a condition on `node.<label>` is about: the node's labels, and its name under `name`."""
    return {**labels, "name": name}


def clock(text: str) -> float | None:
    """Seconds since midnight of "HH:MM"; None: it is none."""
    found = _CLOCK.fullmatch(text)
    return None if found is None else int(found[1]) * 3600.0 + int(found[2]) * 60.0


def number(text: str) -> float | None:
    """What a decimal number says; None: it is none."""
    return float(text) if _NUMBER.fullmatch(text) else None
