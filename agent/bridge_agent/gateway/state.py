"""What every request of one gateway shares."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic
from typing import Final

from bridge_agent.authentication.hop_proofs import HopProofs
from bridge_agent.batching.gathering import Gathering
from bridge_agent.gateway.access import Access
from bridge_agent.gateway.admission import Admission
from bridge_agent.gateway.callers import Callers
from bridge_agent.gateway.config import Caller, GatewayConfig, ListenerKind, RequestRecord
from bridge_agent.gateway.counters import GatewayCounters
from bridge_agent.gateway.ports import ModelLoading, ModelSource, SignedModels, StreamKeeper
from bridge_agent.loading.load_rules import ColdModels
from bridge_agent.peers.upstreams import Upstreams
from bridge_agent.quotas.meter import Meter
from bridge_agent.routing.choose import Decision, Load
from bridge_agent.routing.health_rules import HealthBook, retry_allowed
from bridge_agent.routing.load_rules import LoadBook
from bridge_agent.routing.outlook import Outlook
from bridge_agent.routing.outlook_rules import Conversations
from bridge_agent.routing.strategies import Turns
from bridge_agent.routing.unheard import Unheard
from bridge_agent.routing.view import Index, MeshView, Target
from bridge_agent.tracing.tracer import Tracer
from bridge_core.snapshot import RoutePolicy

FRESH_S: Final = 5.0
"""A model that was just made is listed by then, here and in the snapshot."""
_GIVEN_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


def is_request_id(text: str) -> bool:
    """Whether a request can have this id."""
    return text.isascii() and _GIVEN_ID.fullmatch(text.encode()) is not None


class GatewayState:
    """The gateway's shared state: view, links, counters, health and recent records.

    Owned by the loop that serves the listeners; nothing in it is touched from elsewhere.

    Attributes:
        group: Where the tasks of slow routes, and of streams that are continued, run.
        retrying: Requests that were tried again or hedged, and are not over.
        draining: This node's engines get no new work.
        unrecorded: Why nothing is answered, since it would go unrecorded; empty: all is.
        keeper: Who continues streams that died; None: nobody.
        models: Who pulls models to this node; None: its engines do.
        gathering: Who asks for embeddings of several requests at once; None: each goes alone.
        loading: Who has its engines load models; None: whichever request needs one.
        signatures: Who knows which models have to be signed; None: nobody, and none has.
        cold: Where models are being loaded for requests that came in here.
        meter: Who counts what callers use and refuses what is beyond their quotas; None: nobody.
        tracer: Who gives requests their places in traces; None: traces pass through as they come.
        on_record: Told of each request when it is over, and what it asked.
        on_progress: Told of instance and model now and then while an own engine's answer streams.
        node_spoke: Told of a node whose long answer goes on.
    """

    def __init__(
        self,
        config: GatewayConfig,
        view: MeshView,
        upstreams: Upstreams,
        group: asyncio.TaskGroup,
        *,
        proofs: HopProofs,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self.config = config
        self.view = view
        self.upstreams = upstreams
        self.group = group
        # Of its own: what the default one does may wait for names and files.
        self.bodies = ThreadPoolExecutor(2, "bodies")
        self.now = now
        self.counters = GatewayCounters()
        self.health = HealthBook()
        self.admission = Admission(config.suspect_s)
        self.loads = LoadBook(self.counters.in_flight)
        self.conversations = Conversations()
        self.retrying = 0
        self._turns = Turns()
        self._draw = secrets.randbits(64)
        self.records: deque[RequestRecord] = deque(maxlen=config.explained)
        self.on_record: Callable[[RequestRecord, bytes], None] | None = None
        self.on_progress: Callable[[str, str], None] | None = None
        self.node_spoke: Callable[[str], None] | None = None
        self.keeper: StreamKeeper | None = None
        self.meter: Meter | None = None
        self.tracer: Tracer | None = None
        self.models: ModelSource | None = None
        self.loading: ModelLoading | None = None
        self.signatures: SignedModels | None = None
        batching = config.batching
        self.gathering: Gathering | None = None if batching is None else Gathering(batching, self)
        self.cold = ColdModels()
        self.draining = False
        self.unrecorded = ""
        self.node = config.node.encode()
        self.callers = Callers(view, proofs)
        self.access = Access(view, config.node)
        self._made: dict[str, tuple[Target, float]] = {}
        self._prefix = secrets.token_hex(6)
        self._sequence = 0
        self.unheard = Unheard(view.index, now())
        self._follow(view.index)
        view.subscribe(self._follow)

    def request_id(self, given: bytes | None) -> str:
        """The client's own id where it is a sane one, else a new one."""
        if given is not None and _GIVEN_ID.fullmatch(given):
            return given.decode()
        self._sequence += 1
        return f"{self._prefix}{self._sequence:08x}"

    def load(self, now: float, outlook: Outlook | None = None) -> Load:
        """What a choice at this moment takes into account."""
        health, loads = self.health, self.loads
        # Any number will do, so long as it is another one for each request.
        self._draw = (self._draw * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        ages = loads.ages(now, self.view.index.slow_start_s)
        draw = self._draw >> 20
        work = loads.work(now)
        suspected = self.admission.suspected()
        if suspected:  # what others know from what this node tells them
            work = {**work, **{id_: work.get(id_, 0) + count for id_, count in suspected.items()}}
        cold = None if self.loading is None else partial(self.cold.instance, now=now)
        if health.quiet:
            return Load(work, None, None, ages, self._turns, draw, outlook, cold)
        return Load(
            work,
            lambda subject: health.ejected(subject, now),
            lambda subject: health.down(subject, now),
            ages,
            self._turns,
            draw,
            outlook,
            cold,
        )

    def sent_cold(self, decision: Decision, now: float) -> bool:
        """Whether a request goes where its model has yet to be loaded: those after it are to go there."""
        if self.loading is None or not decision.candidates:
            return False
        first = decision.candidates[0]
        if decision.model in first.loaded:
            return False
        self.cold.sent(decision.model, first.id, now)
        return True

    def outlook(self, model: str, key: bytes, size: int) -> Outlook | None:
        """What is known of a request for a model with a prompt of this size; None: nothing that matters."""
        cached, far = self.conversations.cached(key), self.upstreams.links.far
        if not cached and not far:
            return None
        return Outlook(size, cached, self.conversations.pace(model), far)

    def retry_allowed(self, policy: RoutePolicy) -> bool:
        """Whether the retry budget has room: retries must not become a storm of their own."""
        budget = policy.retries
        requests = sum(self.counters.in_flight.values())
        return retry_allowed(requests, self.retrying, budget.budget, budget.budget_floor)

    def work(self, instance: str) -> int:
        """All the work of one of this node's instances, to tell the peers."""
        return max(self.counters.in_flight.get(instance, 0), self.admission.work(instance))

    def nodes_in_use(self) -> set[str]:
        """Nodes that have requests of this agent now."""
        targets = self.view.index.targets
        return {targets[id_].node for id_ in self.counters.in_flight if id_ in targets}

    def peer_answered(self, node: str, work: dict[str, int]) -> None:
        """A node said that it is there, and what work its instances have."""
        now = self.now()
        if not self.health.quiet:
            self.health.spoke(node, now)
        for instance, total in work.items():
            if instance.partition("/")[0] == node:
                self.loads.heard(instance, total, now)

    def _follow(self, index: Index) -> None:
        self.loads.present([target.id for target in index.targets.values() if target.available], self.now())
        self.health.forget({*index.targets, *(target.node for target in index.targets.values())})
        self.admission.follow(index)
        self.unheard.follow(index, self.now())
        self.counters.keep_routes({route.name for route in index.routes.values()})
        self._prefer_made(index)

    def count_backend(self, decision: Decision, caller: Caller, status: int) -> None:
        """A request that came in here by a route is over."""
        if decision.route and caller.listener is not ListenerKind.PEER:
            self.counters.by_backend[decision.route, decision.backend, status] += 1

    def settle(self, record: RequestRecord, body: bytes) -> None:
        """A request with this body is over."""
        self.counters.settled(record)
        if not self.health.quiet:
            self.health.tidy(record.ended)
        self.records.append(record)
        if self.on_record is not None:
            self.on_record(record, body)

    def turned_away(self, record: RequestRecord) -> None:
        """A request was nobody's who may call. Such ones crowd nothing out of what `explain` has."""
        self.counters.turned_away[record.reason] += 1
        self.counters.ended.turned_away(record)
        if self.on_record is not None:
            self.on_record(record, b"")

    def made(self, names: Iterable[str], target: Target) -> None:
        """Models of these canonical names were just made there: who asks next is quicker than lists."""
        now = self.now()
        made = dict.fromkeys(names, (target, now + FRESH_S))
        self._made = {other: entry for other, entry in self._made.items() if entry[1] > now} | made
        self._prefer_made(self.view.index)
        if made and target.local:
            asyncio.get_running_loop().call_later(FRESH_S, self._list_made, made)

    def _prefer_made(self, index: Index) -> None:
        """What was just made here is what its name means here, whatever others have by it."""
        for name, (target, _) in self._made.items():
            known = index.targets.get(target.id)
            if self._withheld(name):
                continue
            if known is not None and known.local and known.available and name not in index.routes:
                policy = index.defaults
                index.settled[name] = Decision(name, (known,), True, strategy="just_made", policy=policy)

    def _list_made(self, made: dict[str, tuple[Target, float]]) -> None:
        """By now the lists know it."""
        for name, entry in made.items():
            if self._made.get(name) == entry:
                del self._made[name]
                self.view.index.settled.pop(name, None)

    def _withheld(self, name: str) -> bool:
        return self.signatures is not None and self.signatures.refuses(name)

    def maker(self, name: str) -> Target | None:
        """Where a model was made a moment ago; None where none of this name was that may be served."""
        target, until = self._made.get(name, (None, 0.0))
        if target is not None and self._withheld(name):
            return None
        return target if until > self.now() else None
