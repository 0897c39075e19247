"""The embedding requests that wait for slots of this node's instances, and the batches made of them.

Owned by the gateway's loop, as the attempts are: no task, no await, no timer. `batching_rules` says who goes
together and what each is answered.

The slot of whoever a batch is made for is the batch's until it ends. A client that leaves takes its request
out of the batch; the last one to leave ends it. What a batch cannot be answered with is asked for one by
one: the first with the batch's slot, the others in the queue again, where they have been already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from bridge_agent.batching.batching_rules import (
    BatchingPolicy,
    Parts,
    Reach,
    Wish,
    batch_body,
    company,
    take_apart,
    wish,
)
from bridge_core.http1 import ClientExchange, Headers, ResponseHead, ResponseSink, UpstreamError
from bridge_core.http1.heads import content_length, request_head

if TYPE_CHECKING:
    from bridge_agent.gateway.attempt import Attempt
    from bridge_agent.gateway.state import GatewayState

BATCH: Final = b"x-bridge-batch"
"""The field that says how many requests one went to its engine with, itself included."""

_PATH: Final = b"/api/embed"
_JSON: Final = (b"content-type", b"application/json")
_MOST_ANSWER: Final = 64 << 20
_MOST_REACHES: Final = 1024


class Gathering:
    """Who waits, by instance; see the module.

    Attributes:
        policy: How much goes together.
    """

    def __init__(self, policy: BatchingPolicy, state: GatewayState) -> None:
        self.policy = policy
        self.state = state
        self._waiting: dict[str, dict[Attempt, Wish]] = {}
        self._reaches: dict[tuple[str, bytes], Reach] = {}
        self._uncounted: set[str] = set()

    # -- told by attempts

    def queued(self, attempt: Attempt) -> None:
        """It waits for a slot."""
        request, instance = attempt.request, attempt.tried.target.id
        if request.asked.packed or instance in self._uncounted or self.policy.max_size < 2:
            return
        found = wish(request.route.path, request.asked.body)
        if found is not None:
            self._waiting.setdefault(instance, {})[attempt] = found

    def left(self, attempt: Attempt) -> None:
        """It waits no longer."""
        instance = attempt.tried.target.id
        waiting = self._waiting.get(instance)
        if waiting is not None and waiting.pop(attempt, None) is not None and not waiting:
            del self._waiting[instance]

    def departs(self, attempt: Attempt) -> bool:
        """It has a slot now: sends it with those that fit; False: it goes alone."""
        request, target = attempt.request, attempt.tried.target
        waiting = self._waiting.get(target.id, {})
        first = waiting.get(attempt)
        self.left(attempt)
        if first is None or not self._is_loaded(attempt):
            return False
        urgency = request.arrival.priority
        others = ((one, its) for one, its in waiting.items() if one.request.arrival.priority == urgency)
        reach = self._reaches.get((target.id, first.key)) or Reach()
        found = company(first, others, self.policy, reach)
        if not found:
            return False
        return Batch(self, [(attempt, first), *found]).sent()

    def _is_loaded(self, attempt: Attempt) -> bool:
        """Whether its model is in memory: a load is waited for by each request itself."""
        state = self.state
        target = state.view.index.targets.get(attempt.tried.target.id)
        return state.loading is None or (
            target is not None and attempt.request.serving.model in target.loaded
        )

    # -- told by batches

    def went(self, instance: str, key: bytes, texts: int, took_s: float) -> None:
        """A batch of so many texts was answered."""
        before = self._reaches.pop((instance, key), None) or Reach()
        self._reaches[instance, key] = before.after(texts, took_s, self.policy)  # the newest last
        if len(self._reaches) > _MOST_REACHES:
            del self._reaches[next(iter(self._reaches))]

    def uncounted(self, instance: str) -> None:
        """Its engine does not tell what each text came to: what it answers is nobody's bill."""
        self._uncounted.add(instance)
        self._waiting.pop(instance, None)


class Ride:
    """What one attempt has of a batch, in the place of a request of its own."""

    __slots__ = ("_attempt", "_batch")

    def __init__(self, batch: Batch, attempt: Attempt) -> None:
        self._batch = batch
        self._attempt = attempt

    def cancel(self) -> None:
        """Gives it up: nothing more comes for this attempt."""
        self._batch.leave(self._attempt)

    def pause(self) -> None:
        """Nothing: its answer comes whole."""

    def resume(self) -> None:
        """Nothing, likewise."""


class Batch(ResponseSink):
    """One request to an engine for several clients.

    Args:
        gathering: Whose it is.
        asked: Who goes with it and what for, the one with the slot first.
    """

    __slots__ = ("_asked", "_began", "_gathering", "_parts", "_rides", "_size", "_status", "_upstream")

    def __init__(self, gathering: Gathering, asked: list[tuple[Attempt, Wish]]) -> None:
        self._gathering = gathering
        self._asked = asked
        self._rides: dict[Attempt, Ride] = {}
        self._began = 0.0
        self._upstream: ClientExchange | None = None
        self._status = 0
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def _instance(self) -> str:
        return self._asked[0][0].tried.target.id

    def sent(self) -> bool:
        """Sends it; False where that could not be, and nothing has changed."""
        state = self._gathering.state
        body = batch_body([one for _, one in self._asked])
        try:
            pool = state.upstreams.pool(self._asked[0][0].tried.target)
            head = request_head(b"POST", _PATH, [(b"host", pool.host), _JSON], content_length(len(body)))
            self._upstream = pool.send_whole(head, body, self)
        except UpstreamError:
            return False  # the one with the slot finds out by itself, and says so
        self._began = state.now()
        for attempt, _ in self._asked:
            ride = self._rides[attempt] = Ride(self, attempt)
            attempt.rides(ride, self._began)
        state.counters.batches += 1
        state.counters.batched += len(self._asked)
        return True

    def leave(self, attempt: Attempt) -> None:
        """A client went away, or its time is up: the others stay."""
        if self._rides.pop(attempt, None) is not None and not self._rides and self._upstream is not None:
            self._upstream.cancel()
            self._give_slot_back(suspect=True)

    # -- from the engine

    def on_whole(self, head: ResponseHead, body: bytes) -> bool:
        """See `ResponseSink`."""
        self._answered(head.status, body)
        return True

    def on_head(self, head: ResponseHead) -> None:
        """See `ResponseSink`."""
        self._status = head.status

    def on_data(self, data: bytes) -> None:
        """See `ResponseSink`: no more is kept than an answer can have."""
        self._parts.append(data)
        self._size += len(data)
        if self._size > _MOST_ANSWER and self._upstream is not None:
            self._upstream.cancel()
            self._one_by_one()

    def on_end(self) -> None:
        """See `ResponseSink`."""
        self._answered(self._status, b"".join(self._parts))

    def on_error(self, error: UpstreamError) -> None:
        """See `ResponseSink`: its engine may have died of one of them, and each finds out by itself."""
        self._one_by_one()

    def _answered(self, status: int, body: bytes) -> None:
        gathering, wishes = self._gathering, [one for _, one in self._asked]
        parts = take_apart(body, wishes) if status == 200 else Parts([])
        if parts.uncounted:
            gathering.uncounted(self._instance)
        if not parts.bodies:
            self._one_by_one()
            return
        took_s = gathering.state.now() - self._began
        gathering.went(self._instance, wishes[0].key, sum(len(one.texts) for one in wishes), took_s)
        self._give_slot_back()
        together, left = b"%d" % len(wishes), dict(self._taken())
        for (attempt, its), part in zip(self._asked, parts.bodies, strict=True):
            if attempt in left:
                headers = Headers([(b"content-type", its.shape.content_type), (BATCH, together)])
                head = ResponseHead(200, headers, len(part), keep_alive=True)
                self._soon(attempt, left[attempt], attempt.on_whole, head, part)

    def _one_by_one(self) -> None:
        """One of them may be to blame, and the others are not: each asks for itself."""
        self._gathering.state.counters.batches_failed += 1
        left = self._taken()
        for attempt, _ in left:
            attempt.asks_alone()
        for attempt, ride in left[1:]:
            self._soon(attempt, ride, attempt.asks_again, False)
        if left:
            left[0][0].asks_again(True)  # at once: the slot is never nobody's
        else:
            self._give_slot_back()

    def _taken(self) -> list[tuple[Attempt, Ride]]:
        """Who still goes with it, and does no longer."""
        rides, self._rides = self._rides, {}
        return list(rides.items())

    def _give_slot_back(self, *, suspect: bool = False) -> None:
        state = self._gathering.state
        state.admission.give_back(self._instance, state.now() - self._began, suspect=suspect)

    @staticmethod
    def _soon(attempt: Attempt, ride: Ride, told: Callable[..., Any], *what: Any) -> None:
        """Tells one of them, from the loop: what goes wrong with it is not the others' fault."""

        def tell() -> None:
            if attempt.upstream is ride:  # else it was let go meanwhile
                told(*what)

        asyncio.get_running_loop().call_soon(tell)
