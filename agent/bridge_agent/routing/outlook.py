"""What is known when it is asked how soon a first token may come: see `outlook_rules`.

Apart from the rules, which are compiled: there a Struct would not be frozen, and could be no default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

_PACE: Final = 2_000.0  # bytes a second, until one was observed: a small model on a processor
_HELD_S: Final = 2.0  # likewise


class Pace(msgspec.Struct, frozen=True):
    """How quickly a model was observed to go.

    Attributes:
        prefill: Bytes of prompt computed a second.
        held_s: How long a request holds a slot.
    """

    prefill: float = _PACE
    held_s: float = _HELD_S


class Outlook(msgspec.Struct, frozen=True):
    """What is known of one request when it is decided where it goes.

    Attributes:
        size: Of its prompt.
        cached: How much of it instances have cached, by id.
        pace: Its model's.
        far: Seconds to far nodes and back, by node.
    """

    size: int = 0
    cached: Mapping[str, int] = {}
    pace: Pace = Pace()
    far: Mapping[str, float] = {}
