"""Which model an instance loads next, who waits for it, and how long it will take. Pure.

Rules:
1. One load of a model with the same runner options at an instance, however many wait; whoever asks while
   it is going on waits for what is left of it.
2. An instance loads one model at a time, in the order in which they were first asked for: engines do no more
   at once, and so no more than one load of an instance is ever left behind by clients that went.
3. A load that began goes on when everybody who waited has left. One that did not begin goes with the last.
4. Whoever asks within `FRESH_S` of its end is not made to wait: the engine's own list lags behind.
5. A load is expected to take as long as the last one of that model here; before there was one, as long as
   its size takes at the pace of the others; before there was any, nobody knows.
   What was there at once was there before, and what its engine refused was no load: neither teaches anything.
6. Models that wait are bounded, and so is what is remembered of them: nobody's names pile up.
7. A load may take as long as its size takes off a slow disk, and `STALL_S` more: one that hangs holds up the
   other models of its instance, and is given up then.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

import msgspec

from bridge_agent.loading.load_options import LoadOptions

W = TypeVar("W")

FRESH_S: Final = 3.0
MOST_WAITING: Final = 32  # loads of one instance that have not begun
MOST_KNOWN: Final = 256  # models whose last load is remembered
STALL_S: Final = 300.0  # what Ollama allows a load without progress (OLLAMA_LOAD_TIMEOUT)
LONGEST_S: Final = 3600.0
_SLOW_DISK: Final = 16 << 20  # bytes a second
_SMOOTHING: Final = 0.3
_LEAST_S: Final = 0.02  # no model comes off a disk, or is mapped and set up, in less


class LoadKey(msgspec.Struct, frozen=True):
    """What is loaded: a model's canonical name, and the runner options that it is loaded with, as JSON."""

    model: str
    options: bytes = b"{}"


class ModelLoad(Generic[W]):
    """One load, going on or still to begin.

    Attributes:
        key: What.
        options: Those of its runner.
        name: The model as its engine spells it.
        size: Its bytes on disk; 0: not known.
        embedding: It was asked for by a route of embeddings.
        waiters: Who waits for it.
        begun: When it began; None: it did not.
        expected_s: How long it is expected to take; 0: nobody knows.
        refused: Its engine will not load it; each request is told why by the engine itself.
    """

    __slots__ = ("begun", "embedding", "expected_s", "key", "name", "options", "refused", "size", "waiters")

    def __init__(self, model: str, options: LoadOptions, name: str, size: int, *, embedding: bool) -> None:
        self.key = LoadKey(model, options.encoded())
        self.options = options
        self.name = name
        self.size = size
        self.embedding = embedding
        self.waiters: dict[W, None] = {}
        self.begun: float | None = None
        self.expected_s = 0.0
        self.refused = False

    @property
    def longest_s(self) -> float:
        """After how long it is given up (rule 7)."""
        return min(LONGEST_S, STALL_S + self.size / _SLOW_DISK) if self.size > 0 else LONGEST_S


class InstanceLoads(Generic[W]):
    """The loads of one instance; waiters are any hashable things.

    Attributes:
        running: The one that is going on.
    """

    def __init__(self) -> None:
        self.running: ModelLoad[W] | None = None
        self._waiting: dict[LoadKey, ModelLoad[W]] = {}
        self._fresh: dict[LoadKey, float] = {}
        self._took: dict[str, float] = {}
        self._pace = 0.0  # bytes a second

    @property
    def waiting(self) -> int:
        """Loads that have not begun."""
        return len(self._waiting)

    def join(self, load: ModelLoad[W], waiter: W, now: float) -> bool:
        """Has `waiter` wait for this load or the one of the same key; False: it need not, or cannot."""
        key, running = load.key, self.running
        if running is not None and running.key == key:
            running.waiters[waiter] = None
            return True
        if self._fresh.get(key, now) > now:
            return False
        known = self._waiting.get(key)
        if known is None:
            if len(self._waiting) >= MOST_WAITING:
                return False
            known = self._waiting[key] = load
        known.waiters[waiter] = None
        return True

    def leave(self, waiter: W) -> None:
        """It waits no longer (rule 3)."""
        if self.running is not None:
            self.running.waiters.pop(waiter, None)
        for key, load in list(self._waiting.items()):
            load.waiters.pop(waiter, None)
            if not load.waiters:
                del self._waiting[key]

    def begin(self, now: float) -> ModelLoad[W] | None:
        """The load that begins now; None while another one goes on, or where there is none."""
        if self.running is not None or not self._waiting:
            return None
        load = self.running = self._waiting.pop(next(iter(self._waiting)))
        load.begun = now
        load.expected_s = self.expected_s(load.key.model, load.size)
        return load

    def ended(self, now: float, *, loaded: bool) -> tuple[W, ...]:
        """The running load ended; returns who waited for it."""
        load, self.running = self.running, None
        if load is None:
            return ()
        if loaded and not load.refused:
            self._learn(load, now)
            self._fresh = {key: until for key, until in self._fresh.items() if until > now}
            self._fresh[load.key] = now + FRESH_S
        return tuple(load.waiters)

    def unloaded(self, model: str) -> None:
        """Somebody had it taken out of memory: who asks next waits for a load again."""
        self._fresh = {key: until for key, until in self._fresh.items() if key.model != model}

    def expected_s(self, model: str, size: int) -> float:
        """How long a load of this model would take (rule 5); 0: nobody knows."""
        took = self._took.get(model)
        if took is not None:
            return took
        return size / self._pace if self._pace > 0 else 0.0

    def awaits_its_turn(self, waiter: W) -> bool:
        """Whether what it waits for has not begun: others are loaded first."""
        return any(waiter in load.waiters for load in self._waiting.values())

    def rest_s(self, now: float) -> float:
        """Seconds until the running load is done, as far as can be told; 0: nobody knows."""
        load = self.running
        if load is None or load.begun is None:
            return 0.0
        return max(0.0, load.begun + load.expected_s - now)

    def _learn(self, load: ModelLoad[W], now: float) -> None:
        took = now - (now if load.begun is None else load.begun)
        if took < _LEAST_S:
            return
        self._took.pop(load.key.model, None)
        if len(self._took) >= MOST_KNOWN:
            del self._took[next(iter(self._took))]
        self._took[load.key.model] = took
        if load.size > 0:
            seen = load.size / took
            self._pace = seen if self._pace <= 0 else self._pace + (seen - self._pace) * _SMOOTHING


class ColdModels:
    """Where this entry has sent models' first requests: where, then, they are being loaded.

    A model's load is published by its node, which takes a moment; until then the requests of one burst
    must meet at one instance. It is believed for `BELIEVED_S`, or until the mesh says that it is loaded.
    """

    BELIEVED_S: Final = 5.0
    _MOST: Final = 1024

    def __init__(self) -> None:
        self._sent: dict[str, tuple[str, float]] = {}

    def sent(self, model: str, instance: str, now: float) -> None:
        """A request for a model that is not in memory there went to this instance."""
        known = self._sent.get(model)
        if known is not None and known[0] == instance and known[1] > now:
            return  # the first one's time counts: a steady stream of them must not prolong it
        self._sent.pop(model, None)
        if len(self._sent) >= self._MOST:
            del self._sent[next(iter(self._sent))]
        self._sent[model] = instance, now + self.BELIEVED_S

    def instance(self, model: str, now: float) -> str:
        """Where that was; empty: nowhere of late."""
        instance, until = self._sent.get(model, ("", 0.0))
        return instance if until > now else ""
