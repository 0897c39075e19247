"""How much of a node was used, by whom: see `usage_rules`.

Apart from the rules, which are compiled: there a Struct would not be frozen, and could be no key.
"""

from __future__ import annotations

import msgspec


class UseKey(msgspec.Struct, frozen=True):
    """Whose use of what, and when.

    Attributes:
        principal: Their text.
        groups: Theirs at the time.
        model: In canonical form, as it was asked for: a model or a route.
        day: Days since 1970.
    """

    principal: str
    groups: tuple[str, ...]
    model: str
    day: int


class Use(msgspec.Struct, frozen=True):
    """How much."""

    requests: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
