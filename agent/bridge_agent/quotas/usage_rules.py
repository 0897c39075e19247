"""What was used at this node since it began, by principal, groups, model and UTC day: pure.

The counts only grow, and are told as they stand: a report that is lost or repeated, or told to another
registry, loses and doubles nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bridge_agent.quotas.uses import Use, UseKey

MAX_USES: Final = 4096  # kept at a time; what comes beyond is counted as everybody else's
OTHERS: Final = "(others)"
_DAY_MS: Final = 86_400_000
_KEPT_DAYS: Final = 2  # a registry that was away so long misses what came before


class UsageBook:
    """See the module."""

    def __init__(self) -> None:
        self._uses: dict[UseKey, Use] = {}

    @property
    def uses(self) -> Mapping[UseKey, Use]:
        """All that is kept."""
        return self._uses

    def count(
        self,
        principal: str,
        groups: tuple[str, ...],
        model: str,
        now_ms: int,
        *,
        prompt: int = 0,
        output: int = 0,
        refused: bool = False,
    ) -> None:
        """A request is over, or was refused by a quota."""
        day = now_ms // _DAY_MS
        key = UseKey(principal, groups, model, day)
        before = self._uses.get(key)
        if before is None:
            if len(self._uses) >= MAX_USES:
                self._forget(day)
                if len(self._uses) >= MAX_USES:
                    key = UseKey(OTHERS, (), OTHERS, day)
            before = self._uses.get(key, Use())
        self._uses[key] = Use(
            before.requests + (not refused),
            before.refused + refused,
            before.prompt_tokens + prompt,
            before.output_tokens + output,
        )

    def news(self, told: Mapping[UseKey, Use], now_ms: int) -> dict[UseKey, Use]:
        """What differs from `told`; forgets days that are long over."""
        self._forget(now_ms // _DAY_MS)
        return {key: use for key, use in self._uses.items() if told.get(key) != use}

    def _forget(self, day: int) -> None:
        for key in [key for key in self._uses if key.day < day - _KEPT_DAYS]:
            del self._uses[key]
