"""When the first token may be expected, by instance: what a move costs against what waiting costs.

Rules:
1. A conversation's cache lies where its last turns were answered. To have it answered elsewhere costs the
   time to compute again what is cached; to stay costs the wait for a slot. Whichever is less is chosen.
2. The wait is what is ahead beyond the slots, times the mean time a slot is held, shared by the slots.
3. What is to be computed is the prompt less what the instance has cached of it, at the observed pace. A
   cache is gone with the model: at an instance that does not have it in memory, nothing is cached.
4. A far node's answers take as much longer as the way there and back.
5. Of those where it is to be expected equally soon the strategy's order stays.

Sizes are bytes of request bodies: they are known before any token is counted, and only compared with
one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from bridge_agent.routing.outlook import Outlook, Pace
from bridge_agent.routing.view import Target

LOAD_S: Final = 5.0  # until a model is in memory, where nothing more is known
WARM_LOAD_S: Final = LOAD_S / 4  # the same of one in the page cache: measured 4.4 times as fast
_SMOOTHING: Final = 0.2
_LEAST: Final = 256  # bytes from which on a prompt tells of the pace
_PLACES: Final = 3  # where a conversation may be cached


def first_token_s(target: Target, model: str, busy: int, outlook: Outlook) -> float:
    """Seconds until the first token, as far as can be told, with so many requests there already."""
    pace = outlook.pace
    resident = model in target.loaded
    cached = outlook.cached.get(target.id, 0) if resident else 0
    wait = max(0, busy - target.slots + 1) / target.slots * pace.held_s
    load_s = WARM_LOAD_S if model in target.warm else LOAD_S
    compute = max(0, outlook.size - cached) / pace.prefill
    return outlook.far.get(target.node, 0.0) + wait + compute + (0.0 if resident else load_s)


def soonest_first(
    order: Sequence[Target], model: str, work: Mapping[str, int], outlook: Outlook
) -> list[tuple[float, Target]]:
    """Each with its time, in the order of these (rule 5)."""
    timed = [(first_token_s(one, model, work.get(one.id, 0), outlook), one) for one in order]
    timed.sort(key=lambda pair: pair[0])
    return timed


class Conversations:
    """Where conversations were answered lately, and how quickly models go.

    Args:
        most: Conversations that are remembered; the one not heard of for longest goes first.
    """

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._places: dict[bytes, dict[str, int]] = {}
        self._paces: dict[str, Pace] = {}

    def cached(self, key: bytes) -> Mapping[str, int]:
        """How much of the conversation's prompt lies where; empty where it is not known."""
        return self._places.get(key, _NOWHERE)

    def pace(self, model: str) -> Pace:
        """How quickly a model goes."""
        return self._paces.get(model, _UNKNOWN)

    def answered(self, key: bytes, instance: str, size: int) -> None:
        """A prompt of this size was answered there: it is cached now."""
        places = self._places.pop(key, {})
        places.pop(instance, None)
        places[instance] = size
        if len(places) > _PLACES:
            del places[next(iter(places))]
        self._places[key] = places
        if len(self._places) > self._most:
            del self._places[next(iter(self._places))]

    def observed(self, model: str, *, size: int, cached: int, prefill_s: float, held_s: float) -> None:
        """A request found a free slot; its first token came after so long, its last one after so long.

        `prefill_s` of 0: when its first token came is not known. One that was mostly cached tells little of
        the pace: what else there is to do takes as long.
        """
        computed = size - cached
        known = self._paces.get(model)
        pace = known or Pace(held_s=max(held_s, 1e-3))
        held = pace.held_s + (held_s - pace.held_s) * _SMOOTHING
        prefill = pace.prefill
        if prefill_s > 0 and computed >= max(_LEAST, size // 2):
            seen = computed / prefill_s
            prefill = seen if known is None else prefill + (seen - prefill) * _SMOOTHING
        if known is None and len(self._paces) >= self._most:
            self._paces.clear()
        self._paces[model] = Pace(prefill, held)


_NOWHERE: Final[Mapping[str, int]] = {}
_UNKNOWN: Final = Pace()
