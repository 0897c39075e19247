"""How requests of a route are treated, and which of its backends each goes to: pure.

Rules of the split:
1. A key goes to each backend with the probability of its weight among the weights; the same key
   goes the same way in every process.
2. Raising one backend's weight moves keys to that backend alone, lowering it moves keys away from
   it alone: of a canary's ten percent nobody changes sides when it gets twenty.
3. A backend of weight 0 gets nothing.

It is a weighted rendezvous: every backend draws an exponential variate of its weight as the rate,
seeded by salt, backend and key, and the smallest wins.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from bridge_core.bounds import MAX_BACKENDS, Count, Factor, Labels, Name, Names, Seconds, Share, Small

Strategy: TypeAlias = Literal["round_robin", "least_request", "ring_hash", "residency"]
Affinity: TypeAlias = Literal["conversation", "session", "client", "none"]

_RANGE: Final = float(1 << 64)


class Retries(msgspec.Struct, frozen=True, omit_defaults=True):
    """When an attempt that failed before its first byte is made again elsewhere.

    Attributes:
        attempts: Tries in all, the first included.
        per_try_timeout_s: An attempt without a first byte after this long failed; None: no limit.
        budget: Retries in progress, as a share of the requests in progress.
        budget_floor: Retries in progress that are always allowed.
    """

    attempts: Small = 3
    per_try_timeout_s: Seconds | None = None
    budget: Share = 0.2
    budget_floor: Small = 3


class Outlier(msgspec.Struct, frozen=True, omit_defaults=True):
    """When an instance is ejected for what it did to requests.

    Attributes:
        consecutive_failures: That many in a row eject it.
        base_ejection_s: The first ejection's length; each further one is twice as long.
        max_ejection_s: The longest.
        max_ejected: Never a larger share of the instances at once (one is always allowed).
        panic_threshold: With a smaller share of healthy instances, health is not regarded.
        success_rate: Also eject those whose success rate lies far below the others'.
    """

    consecutive_failures: Small = 3
    base_ejection_s: Seconds = 1.0
    max_ejection_s: Seconds = 30.0
    max_ejected: Share = 0.5
    panic_threshold: Share = 0.5
    success_rate: bool = True


class Breaker(msgspec.Struct, frozen=True, omit_defaults=True):
    """When an instance's circuit opens; half open it lets one request through at a time.

    Attributes:
        failure_share: It opens when at least this share of the recent requests failed,
        min_requests: of at least that many,
        window_s: within this time.
        open_s: How long it stays open.
    """

    failure_share: Share = 0.5
    min_requests: Small = 20
    window_s: Seconds = 10.0
    open_s: Seconds = 5.0


class AdmissionPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """The queue in front of an instance.

    Attributes:
        queue_per_slot: Requests that may wait for each slot. As patient as Ollama by default, whose
            clients expect to be queued, not refused.
        max_wait_s: A request that waited this long is refused.
    """

    queue_per_slot: Small = 128
    max_wait_s: Seconds = 300.0


class RoutePolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """How requests are treated. In a snapshot always whole: the mesh's defaults are worked in.

    Attributes:
        strategy: How an instance is chosen.
        affinity: What makes up the key that keeps requests together; a session that the client
            names wins over the conversation, and that over the client. "none": nothing does.
        bounded_load: ε: an instance over (1 + ε) times its fair share is passed over.
        retries: See there.
        deadline_s: A whole request may take this long; None: no limit.
        hedge_after_s: A short call that does not stream and has no answer after this long is also
            sent to a second instance; None: never.
        outlier: See there.
        breaker: See there.
        admission: See there.
        slow_start_s: An instance that came (back) gets its full share only after this long.
        keep_alive_bytes_s: A client that waits for a stream's first byte gets bytes that its protocol
            ignores at this interval; an error after them is told in the stream, under 200. None: never.
    """

    strategy: Strategy = "ring_hash"
    affinity: Affinity = "conversation"
    bounded_load: Factor = 0.25
    retries: Retries = Retries()
    deadline_s: Seconds | None = None
    hedge_after_s: Seconds | None = None
    outlier: Outlier = Outlier()
    breaker: Breaker = Breaker()
    admission: AdmissionPolicy = AdmissionPolicy()
    slow_start_s: Seconds = 10.0
    keep_alive_bytes_s: Seconds | None = None


class Backend(msgspec.Struct, frozen=True, omit_defaults=True):
    """One target of a route.

    Attributes:
        model: What its instances are asked for.
        weight: Its share among the route's weights.
        name: Tells backends of the same model apart; empty: the model's name is its own.
        labels: Only instances on nodes with all of these.
        instances: Only these, by id; empty: any.
        on_trial: A rollout is trying it out: a request that fails there is made good by another backend.
    """

    model: Name
    weight: Count = 100
    name: Name = ""
    labels: Labels = {}
    instances: Names = ()
    on_trial: bool = False

    @property
    def key(self) -> str:
        """What it is called in reports and rollouts; unique within its route."""
        return self.name or self.model

    @property
    def narrowed(self) -> bool:
        """Whether it takes some instances of its model only."""
        return bool(self.labels or self.instances)


class Route(msgspec.Struct, frozen=True, omit_defaults=True):
    """A virtual model: what ModelRoute documents and the rollouts on them become.

    Attributes:
        name: As written.
        backends: With the weights in force now.
        policy: Whole.
        fallback: The model or route asked when no backend can answer.
        salt: Seeds the split; empty: the name. It stays the same through a rollout.
    """

    name: Name
    backends: Annotated[tuple[Backend, ...], msgspec.Meta(max_length=MAX_BACKENDS)] = ()
    policy: RoutePolicy = RoutePolicy()
    fallback: Name | None = None
    salt: Name = ""

    @property
    def deadline_s(self) -> float | None:
        """The policy's."""
        return self.policy.deadline_s


def split(route: Route, key: bytes) -> tuple[Backend, ...]:
    """The backends in the order in which a request of this key asks them; see the module's rules."""
    if len(route.backends) == 1:
        return route.backends if route.backends[0].weight > 0 else ()
    salt = (route.salt or route.name).encode()
    drawn = [
        (_draw(salt, backend, key), at) for at, backend in enumerate(route.backends) if backend.weight > 0
    ]
    return tuple(route.backends[at] for _, at in sorted(drawn))


def shares(backends: Sequence[Backend]) -> dict[str, float]:
    """Each backend's share of the requests, by its key."""
    total = sum(backend.weight for backend in backends)
    return {backend.key: backend.weight / total if total else 0.0 for backend in backends}


def _draw(salt: bytes, backend: Backend, key: bytes) -> float:
    seed = b"\0".join((salt, backend.key.encode(), key))
    number = int.from_bytes(hashlib.blake2b(seed, digest_size=8).digest(), "little")
    return -math.log((number + 1) / _RANGE) / backend.weight
