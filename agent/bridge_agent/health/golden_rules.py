"""Whether a golden prompt may be asked of an own instance now, and of which models. Pure.

The node that is asked decides, as only it knows how busy and how used its instance is:

1. Load pushes it back: without a free slot nothing is asked, for `PUT_OFF_S` at most. An instance that is
   busy and wrong is worse than one answer that waits in a queue.
2. A model that nobody uses is asked for `IDLE_S` only: an answer puts off its unloading. Then nobody gets
   wrong answers of it either; with its next request it is asked again.
3. An instance that was taken out is asked in any case, as what it answers is how it comes back.
4. However many ask: once in `APART_S`.
5. What an instance does not have in memory is loaded for the sake of the others only while it has nothing to
   do and nothing in memory, and once in `REFERENCE_S`: its answers stay good.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from bridge_core.names import canonical_or_same
from bridge_core.snapshot import MemberModel

PUT_OFF_S: Final = 60.0
IDLE_S: Final = 120.0
APART_S: Final = 2.0
MOST_MODELS: Final = 3  # asked in one round
REFERENCE_S: Final = 6 * 3600.0

_COMPLETES: Final = "completion"


def not_now(*, work: int, slots: int, asked: float, now: float, out: bool) -> str:
    """Why the instance is not asked; empty: it is. `asked` is when it last was, monotonic seconds."""
    if now - asked < APART_S:
        return "it was asked just now"
    if work >= slots and now - asked < PUT_OFF_S and not out:
        return "it has no free slot"
    return ""


def reference_to_load(
    wanted: str, models: Iterable[MemberModel], loaded: Iterable[str], *, work: int, given: float, now: float
) -> str:
    """The model that is loaded to be compared with (rule 5); empty: none. `given` is when that was last."""
    if not wanted or work or tuple(loaded) or now - given < REFERENCE_S:
        return ""
    return wanted if wanted in able(models) else ""


def able(models: Iterable[MemberModel]) -> frozenset[str]:
    """Canonical names of those that complete text."""
    return frozenset(
        canonical_or_same(one.name)
        for one in models
        if not one.capabilities or _COMPLETES in one.capabilities
    )


def models_to_ask(
    models: Iterable[MemberModel],
    loaded: Iterable[str],
    used: Mapping[str, float],
    *,
    round_: int,
    now: float,
    out: bool,
) -> tuple[str, ...]:
    """Canonical names of those of its models that are asked in a round.

    Args:
        models: On its disk.
        loaded: In its memory.
        used: When each was last used, or first seen loaded, by canonical name; monotonic seconds.
        round_: Which of more than `MOST_MODELS` are asked hangs on it.
        now: Monotonic seconds.
        out: The instance was taken out: asked is what it has in memory, or else what it has.
    """
    fit = able(models)
    resident = sorted(fit & {canonical_or_same(name) for name in loaded})
    if out:
        wanted = resident or sorted(fit & used.keys())
    else:
        wanted = [name for name in resident if now - used.get(name, now) <= IDLE_S]
    first = round_ * MOST_MODELS % len(wanted) if len(wanted) > MOST_MODELS else 0
    return tuple((wanted[first:] + wanted[:first])[:MOST_MODELS])
