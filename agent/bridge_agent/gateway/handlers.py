"""What each kind of route does with a request that was let in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import islice
from typing import Any, Final, TypeAlias

from bridge_agent.gateway import fanout, listing, pulls, signed_models
from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.config import Outcome
from bridge_agent.gateway.elsewhere import found_elsewhere
from bridge_agent.gateway.inference import infer, send_to
from bridge_agent.gateway.replies import admits, fields, note, refuse
from bridge_agent.gateway.routes import HttpRoute, Kind
from bridge_agent.gateway.state import GatewayState
from bridge_agent.gateway.unknown import unknown_model
from bridge_agent.routing.choose import MAX_CANDIDATES
from bridge_agent.routing.view import Target
from bridge_core.http1 import Exchange, coroutine_app
from bridge_core.names import canonical_or_same

WHERE: Final = b"x-bridge-node"
_TEXT: Final = b"text/plain; charset=utf-8"
_RUNNING: Final = b"Ollama is running"

Handler: TypeAlias = Callable[[Arrival, HttpRoute, str], None]
"""Answers a request by its route; the last argument is the parameter in its path, if any."""


class RouteHandlers:
    """Answers requests by the kinds of their routes.

    Args:
        state: What the gateway's requests share.
        group: Where the tasks of slow routes run.

    Attributes:
        by_kind: Who answers which kind.
    """

    def __init__(self, state: GatewayState, group: asyncio.TaskGroup) -> None:
        self._state = state
        self._group = group
        self.by_kind: Mapping[Kind, Handler] = {
            Kind.INFER: partial(infer, state),
            Kind.SHOW: partial(infer, state),
            Kind.MUTATE: self.mutate,
            Kind.BLOB: self.mutate,
            Kind.LOCAL: self.local,
            Kind.TAGS: self.tags,
            Kind.MODELS: self.models,
            Kind.MODEL: self.model,
            Kind.PS: self.ps,
            Kind.ROOT: self.root,
        }

    def local(self, arrival: Arrival, route: HttpRoute, _parameter: str) -> None:
        """Answered by an engine as it is."""
        state, candidates = self._state, self._own()
        if not arrival.over_hop and "GET" in route.methods:
            # What clients look at to see whether they are connected: they are, also without own engine.
            peers = fanout.that_answer(state, fanout.peer_targets(state))
            ready = tuple(target for target in candidates[:1] if target.available)
            candidates = (*ready, *islice(peers, MAX_CANDIDATES - 1)) or candidates
        nodes = (state.config.node,) if route.action == "admin" else ()
        send_to(self._state, arrival, route, candidates, nodes)

    def mutate(self, arrival: Arrival, route: HttpRoute, _parameter: str) -> None:
        """Changes what a node has: this one, or where `X-Bridge-Node` says."""
        state = self._state
        where = (arrival.exchange.request.headers.get(WHERE) or b"").decode("latin-1")
        if arrival.over_hop:
            self._mutate_here(arrival, route)
        elif where != "all":
            self._mutate_at(arrival, route, where)
        elif route.kind is Kind.BLOB:
            message = "blobs go to one node at a time: name it in X-Bridge-Node"
            refuse(state, arrival, route, 400, message)
        elif state.draining:
            refuse(state, arrival, route, 503, "this node is draining")
        else:
            nodes = [*self._own()[:1], *fanout.peer_targets(state)]
            self._spawn(arrival, lambda: fanout.mutate_all(state, arrival, route, nodes))

    def _mutate_here(self, arrival: Arrival, route: HttpRoute) -> None:
        state = self._state
        if route.path == signed_models.COPY and signed_models.to_be_signed(state, arrival, route):
            copying = self._group.create_task(signed_models.copy(state, arrival, route))
            arrival.exchange.on_disconnect = copying.cancel  # type: ignore[assignment]  # as below
            return
        if pulls.takes(state, route):
            by_engine = partial(self._by_engine, arrival, route)
            task = self._group.create_task(pulls.pull(state, arrival, route, by_engine))
            arrival.exchange.on_disconnect = task.cancel  # type: ignore[assignment]  # the result is not needed
            return
        self._by_engine(arrival, route)

    def _by_engine(self, arrival: Arrival, route: HttpRoute) -> None:
        unsigned = signed_models.to_be_signed(self._state, arrival, route)
        if unsigned:
            signed_models.refuse_unsigned(self._state, arrival, route, unsigned)
            return
        # One instance of the node does it: they share the node's store.
        send_to(self._state, arrival, route, self._own()[:1], (self._state.config.node,))

    def _mutate_at(self, arrival: Arrival, route: HttpRoute, where: str) -> None:
        """On the node of this name; empty: on this one, or where the model is."""
        state = self._state
        lacks = found_elsewhere(state, route, arrival.exchange.request.body, where or state.config.node)
        if lacks is not None:
            if not admits(state, arrival, route, lacks.names):
                return
            if where or not state.config.ask_owner or len(lacks.owners) != 1:
                refuse(state, arrival, route, 404, lacks.message, model=lacks.name)
                return
            where = lacks.owners[0]
        if where in ("", state.config.node):
            self._mutate_here(arrival, route)
            return
        node = state.view.index.node_record(where)
        if node is None or not node.peer or node.state == "revoked":
            refuse(state, arrival, route, 404, f"node '{where}' not found")
            return
        send_to(state, arrival, route, (fanout.node_target(where, node.peer),), (where,))

    def _own(self) -> tuple[Target, ...]:
        """This node's engines for what needs no slot: where none takes requests, those that may answer."""
        local = self._state.view.index.local
        ready = tuple(target for target in local if target.available)
        if ready or self._state.draining:
            return ready
        return tuple(target for target in local if not target.address.endswith(":0"))

    def tags(self, arrival: Arrival, route: HttpRoute, _parameter: str) -> None:
        """Ollama's list of models."""
        state = self._state
        sees = state.access.sees_of(arrival)
        models = listing.models_of(state.view.index, sees, only_local=arrival.over_hop)
        self._respond(arrival, route, listing.OLLAMA_JSON, listing.tags_body(models))

    def models(self, arrival: Arrival, route: HttpRoute, _parameter: str) -> None:
        """OpenAI's list of models."""
        state = self._state
        sees = state.access.sees_of(arrival)
        models = listing.models_of(state.view.index, sees, only_local=arrival.over_hop)
        self._respond(arrival, route, listing.OPENAI_JSON, listing.openai_models_body(models))

    def model(self, arrival: Arrival, route: HttpRoute, parameter: str) -> None:
        """One entry of OpenAI's list."""
        name = canonical_or_same(parameter)
        verdict = arrival.verdict = self._state.access.verdict(arrival, "show", name)
        body = listing.openai_model_body(self._state.view.index, parameter) if verdict.allowed else None
        if body is None:
            tag = "" if ":" in parameter.rpartition("/")[2] else ":latest"
            known = name if verdict.allowed else ""
            refusal = unknown_model(
                self._state, route, parameter, parameter + tag, arrival.began, model=known
            )
            refuse(
                self._state,
                arrival,
                route,
                refusal.status,
                refusal.message,
                retry_after=refusal.retry_after,
            )
            return
        self._respond(arrival, route, listing.OPENAI_JSON, body)

    def ps(self, arrival: Arrival, _route: HttpRoute, _parameter: str) -> None:
        """What is in memory, over the mesh."""
        self._spawn(arrival, lambda: fanout.ps(self._state, arrival))

    def root(self, arrival: Arrival, route: HttpRoute, _parameter: str) -> None:
        """Whether anybody is there."""
        self._respond(arrival, route, _TEXT, _RUNNING)

    def _respond(self, arrival: Arrival, route: HttpRoute, content_type: bytes, body: bytes) -> None:
        state = self._state
        arrival.exchange.respond(200, [(b"content-type", content_type), *fields(state, arrival)], body)
        note(state, arrival, route.path, Outcome.OK)

    def _spawn(self, arrival: Arrival, work: Callable[[], Awaitable[Any]]) -> None:
        async def handler(_exchange: Exchange) -> None:
            await work()

        coroutine_app(handler, self._group)(arrival.exchange)
