"""The HTTP gateway: what each listener calls with each request.

view = MeshView(node); upstreams = Upstreams(view, tls)
gateway = Gateway(GatewayConfig(node=node), view, upstreams, group)
await serve(gateway.http_app(ListenerKind.LOCAL), error_body=gateway.error_body,
            stream_body=gateway.unread(ListenerKind.LOCAL), …)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Final, NamedTuple
from urllib.parse import parse_qs

import msgspec

from bridge_agent.authentication.authenticator import Authenticator
from bridge_agent.authentication.refusal import Refused
from bridge_agent.gateway import explain, recent
from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.config import (
    LONGEST_S,
    STRANGERS,
    Caller,
    GatewayConfig,
    ListenerKind,
    Outcome,
    RequestRecord,
)
from bridge_agent.gateway.counters import GatewayCounters
from bridge_agent.gateway.handlers import Handler, RouteHandlers
from bridge_agent.gateway.lingering import Lingering
from bridge_agent.gateway.oci import Registry
from bridge_agent.gateway.oci_push import is_upload
from bridge_agent.gateway.peer_side import PeerSide
from bridge_agent.gateway.ports import ModelLoading, ModelSource, SignedModels
from bridge_agent.gateway.replies import broke_off, note, respond_error, turned_away
from bridge_agent.gateway.routes import BY_PATH, ROUTES, HttpRoute, Kind, protocol_of
from bridge_agent.gateway.shapes import error_body
from bridge_agent.gateway.state import GatewayState, is_request_id
from bridge_agent.gateway.stream_keeper import ResumingKeeper
from bridge_agent.models.receiving import Receiver
from bridge_agent.models.shelf import Shelf
from bridge_agent.peers.hop import PRIORITY, REQUEST_ID
from bridge_agent.peers.pulse import PulseWatch
from bridge_agent.peers.upstreams import Upstreams
from bridge_agent.quotas.meter import Meter
from bridge_agent.routing.admission_rules import PRIORITIES, Priority
from bridge_agent.routing.view import MeshView
from bridge_agent.tracing.tracer import Tracer
from bridge_core.http1 import App, Exchange, Pair, Request, coroutine_app
from bridge_core.http_access import (
    FETCH,
    by_foreign_page,
    cors_headers,
    host_allowed,
    is_address,
    preflight_headers,
    same_origin,
)
from bridge_core.identity.principal import Principal
from bridge_core.identity.spiffe import SpiffeId
from bridge_core.names import canonical_or_same
from bridge_core.quantities import parse_patience
from bridge_core.route_rules import location, match, redirect_body

TIMEOUT: Final = b"x-bridge-timeout"
# What a page may read of an answer beside its body: where it went, and by which name to ask why.
_EXPOSED: Final = (b"access-control-expose-headers", b"X-Request-Id,X-Bridge-Node")
_JSON: Final = ((b"content-type", b"application/json"),)


class _Asked(NamedTuple):
    """What the head of a client's request asks for, the same for all requests that repeat it.

    `route` is None where the path has to be looked at more closely.
    """

    named: bool  # it brings an id of its own
    cors: tuple[Pair, ...]
    seconds: float | None  # that it may take
    priority: Priority
    answer: Handler
    route: HttpRoute | None


class Gateway:
    """One agent's gateway.

    Args:
        config: Its settings.
        view: The mesh; published into by whoever follows snapshots and engines.
        upstreams: Links to engines and peers; closed by whoever made them.
        group: Where the tasks of slow routes run.
        meter: Counts what callers use, and refuses what is beyond their quotas; None: nobody does.
        tracer: Gives requests their places in traces; None: nobody does.
        authenticator: Says who asks at the client listeners; None: one without the mesh's secrets.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        config: GatewayConfig,
        view: MeshView,
        upstreams: Upstreams,
        group: asyncio.TaskGroup,
        *,
        meter: Meter | None = None,
        tracer: Tracer | None = None,
        authenticator: Authenticator | None = None,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._authenticator = authenticator or Authenticator(view, config.node)
        proofs = self._authenticator.proofs
        self._state = GatewayState(config, view, upstreams, group, proofs=proofs, now=now)
        self._state.meter = meter
        self._state.tracer = tracer
        self._group = group
        self._lingering = Lingering(self._state.admission, view, upstreams, group)
        self._state.admission.watch = self._lingering.watch
        self._watch: PulseWatch | None = None
        self._registry: Callable[[Arrival], None] | None = None
        if config.resume is not None:
            self._state.keeper = ResumingKeeper(self._state, config.resume)
        self._answers = RouteHandlers(self._state, group).by_kind
        self._peer_side = PeerSide(self._state, self._answer)
        self._direct = {
            (method, route.path): (self._answers[route.kind], route)
            for route in ROUTES
            if ":" not in route.path
            for method in route.methods
        }

    @property
    def counters(self) -> GatewayCounters:
        """What to export as metrics."""
        return self._state.counters

    @property
    def in_flight(self) -> int:
        """Requests that this agent has at engines and peers now."""
        return sum(self._state.counters.in_flight.values())

    @property
    def own_work(self) -> int:
        """Of those, the requests at this node's own engines."""
        in_flight = self._state.counters.in_flight
        return sum(in_flight.get(target.id, 0) for target in self._state.view.index.local)

    def known_work(self) -> Mapping[str, int]:
        """The work at each instance, own and others', as far as this agent knows."""
        return self._state.loads.work(self._state.now())

    def served(self, instance: str) -> int:
        """Requests that have a slot of an own instance, and whose clients read what comes."""
        held_up = self._state.counters.held_up.get(instance, 0)
        return max(0, self._state.admission.running(instance) - held_up)

    def waiting(self) -> dict[str, int]:
        """Requests that wait for a slot, by instance."""
        return self._state.admission.waiting()

    def suspected(self) -> dict[str, int]:
        """Slots that a request gave up and whose engine may still be busy with it, by instance."""
        return self._state.admission.suspected()

    def ejections(self) -> dict[str, float]:
        """Instances and nodes skipped after failures, and for how many seconds more."""
        return self._state.health.ejections(self._state.now())

    def on_record(self, listener: Callable[[RequestRecord, bytes], None]) -> None:
        """Calls `listener` with the record of each request, and with its body, when it is over."""
        self._state.on_record = listener

    def on_progress(self, listener: Callable[[str, str], None]) -> None:
        """Calls `listener` with instance and model now and then while an own engine's answer streams."""
        self._state.on_progress = listener

    def records(self, request_id: str | None = None) -> Sequence[RequestRecord]:
        """The last requests, newest last; of one id when given."""
        kept = self._state.records
        return [record for record in kept if request_id is None or record.request_id == request_id]

    async def explain(self, exchange: Exchange) -> None:
        """Answers a request of the admin listener: every hop of the request `?id=`, as JSON.

        Of what policies let a program on this node see; an admin's certificate shows the rest, at the
        peer listener.
        """
        request_id = "".join(parse_qs(exchange.request.query).get("id", []))
        if request_id and not is_request_id(request_id):
            message = "a request id has 1 to 128 letters, digits and signs of . _ : / + = -"
            exchange.respond(400, _JSON, msgspec.json.encode({"error": message}))
            return
        hops = await explain.all_reports(self._state, request_id) if request_id else []
        seen = [hop for hop in hops if self._state.access.explains(hop.asked)]
        exchange.respond(200, _JSON, msgspec.json.encode(seen))

    def recent(self, exchange: Exchange) -> None:
        """Answers a request of the admin listener: the last requests that came in here, as JSON; of what
        policies let a program on this node see.
        """
        exchange.respond(200, _JSON, recent.page(self._state, exchange.request, local=True))

    def silent_peers(self) -> dict[str, float]:
        """Nodes that do not answer this one, with the Unix time since when."""
        return self._watch.silent if self._watch is not None else {}

    async def watch_peers(self) -> None:
        """Asks the other nodes whether they are there until cancelled; run it as a task."""
        state = self._state
        policy = state.config.pulse
        try:
            if policy is None:
                await asyncio.Event().wait()  # for the end
            else:
                watch = PulseWatch(
                    state.view,
                    state.upstreams,
                    policy,
                    in_use=state.nodes_in_use,
                    on_answer=state.peer_answered,
                    on_silent=state.health.silent,
                    now=state.now,
                )
                state.node_spoke = watch.alive
                self._watch = watch
                await watch.run()
        except asyncio.CancelledError:  # the end; after a fault it is run again
            state.admission.close()
            self._lingering.close()
            raise

    def running(self, model: str) -> int:
        """How many requests run at those of this node's engines that have a model of this canonical name."""
        index, in_flight = self._state.view.index, self._state.counters.in_flight
        return sum(in_flight.get(id_, 0) for id_, copy in index.copies(model).items() if copy.own)

    def record_admin(self, exchange: Exchange, model: str, began: float) -> None:
        """Writes the record of what an admin did on this node, asked for at `began` (monotonic seconds)."""
        state, request = self._state, exchange.request
        identity = str(request.identity or "")  # with its certificate it could not be written down
        who = Principal("admin", SpiffeId.parse(identity).name, identity)
        arrival = Arrival(exchange, Caller(who, ListenerKind.PEER), None, began, state.request_id(None))
        note(state, arrival, request.path, _outcome(exchange), model=canonical_or_same(model))

    def pull_with(
        self, models: ModelSource, shelf: Shelf | None = None, receiver: Receiver | None = None
    ) -> None:
        """Has models pulled to this node by `models`, and not by an engine.

        What `shelf` has is served to clients of registries; what they push goes to `receiver`.
        """
        self._state.models = models
        if shelf is not None:
            registry = Registry(self._state, shelf, receiver)
            self._registry = lambda arrival: self._as_registry(registry, arrival)

    def sign_with(self, signatures: SignedModels) -> None:
        """Has models that have to be signed kept from whoever asks for them, as `signatures` says."""
        self._state.signatures = signatures

    def load_with(self, loading: ModelLoading) -> None:
        """Has models loaded by `loading`, whoever waits for them, and not by each request for itself."""
        self._state.loading = loading

    def _as_registry(self, registry: Registry, arrival: Arrival) -> None:
        async def handler(_exchange: Exchange) -> None:
            await registry.answer(arrival)

        coroutine_app(handler, self._group)(arrival.exchange)

    def refuse_all(self, reason: str) -> None:
        """Answers no requests (503) from now on, for this reason; an empty one ends it."""
        self._state.unrecorded = reason

    def drain(self, *, draining: bool = True) -> None:
        """Gives this node's engines no new work from now on; what runs goes on.

        What peers forward is refused, they go elsewhere; what clients bring is forwarded to peers, and
        refused (503 with Retry-After) only where no other node can serve it.
        """
        self._state.draining = draining
        self._state.view.drain(draining=draining)

    def error_body(self, status: int, message: str, path: str) -> tuple[bytes, bytes]:
        """Renders what a listener refuses by itself in the shape of the path's protocol."""
        return error_body(protocol_of(path), status, message, self._state.request_id(None), unread=True)

    def unread(self, listener: ListenerKind) -> Callable[[Request], bool]:
        """Says of a listener's requests, by their heads, whose bodies are not read whole before the answer.

        They are passed on as they come, or belong to callers who will be refused: those get their answer
        at once, and nothing of theirs is kept.
        """
        refused = {
            ListenerKind.LOCAL: lambda request: (
                not self._host_passes(request) or self._authenticator.refuses(request, ListenerKind.LOCAL)
            ),
            ListenerKind.TLS: lambda request: self._authenticator.refuses(request, ListenerKind.TLS),
            ListenerKind.PEER: self._peer_side.refuses,
        }[listener]
        return lambda request: _is_blob(request) or is_upload(request) or refused(request)

    def handshake_refused(self, listener: ListenerKind) -> Callable[[str], None]:
        """What is told the address of each handshake that TLS refused at a listener."""
        return partial(broke_off, self._state, listener)

    def refusal(self, request: Request, *, revoked: bool = False) -> Refused | None:
        """Why a request to a client listener over TLS is nobody's, on record; None: it is somebody's.

        Args:
            request: Its head.
            revoked: The certificate that it comes with is.
        """
        refused = None
        if revoked:
            refused = Refused(401, f"the certificate of {request.identity} was revoked", reason="revoked")
        elif self._authenticator.refuses(request, ListenerKind.TLS):
            refused = request.memo.pop(Refused)
        if refused is not None:
            turned_away(self._state, request, ListenerKind.TLS, refused.status, refused.reason)
        return refused

    def http_app(self, listener: ListenerKind) -> App:
        """The application of a client listener: `LOCAL` or `TLS`."""
        return partial(self._arrive, listener)

    @property
    def peer_app(self) -> App:
        """The application of the peer listener."""
        return self._peer_side.app

    def serve_admins(self, path: str, page: App) -> None:
        """Has `page` answer an admin's requests for `path` on the peer listener."""
        self._peer_side.serve_admins(path, page)

    def serve_nodes(self, path: str, page: App) -> None:
        """Has `page` answer other nodes' own requests for `path` on the peer listener."""
        self._peer_side.serve_nodes(path, page)

    # -- listeners

    def _arrive(self, listener: ListenerKind, exchange: Exchange) -> None:
        """A request has come to a client listener."""
        request = exchange.request
        asked: _Asked | None = request.memo.get(_Asked)
        if asked is None and listener is ListenerKind.LOCAL and not self._host_passes(request):
            exchange.respond(403)
            turned_away(self._state, request, listener, 403, "host")
            return
        if request.method == "OPTIONS":  # a preflight shows no credentials, and learns nothing
            caller = STRANGERS[listener]
        else:
            try:
                caller = self._authenticator.caller(request, listener)
            except Refused as refused:
                self._refuse(exchange, listener, refused)
                return
            if request.identity is None and caller.who.kind != "local":
                exchange.proven(caller.who.text)
        if self._state.unrecorded:
            self._refuse_unrecorded(exchange)
            return
        if asked is None:
            asked = self._read_head(exchange, listener)
            if asked is None:
                return
            request.memo[_Asked] = asked
        self._dispatch(exchange, caller, asked)

    def _host_passes(self, request: Request) -> bool:
        config, host = self._state.config, request.headers.get(b"host") or b""
        return host_allowed(host.decode("latin-1"), config.host_name, config.host_names)

    def _refuse(self, exchange: Exchange, listener: ListenerKind, refused: Refused) -> None:
        exchange.request.keep_alive = False  # a stranger holds nothing for longer than it takes to say no
        extra: tuple[Pair, ...] = ()
        if refused.status == 401:
            extra = ((b"www-authenticate", self._authenticator.challenge(refused)),)
        state = self._state
        request_id = state.request_id(None)
        respond_error(
            state,
            exchange,
            refused.status,
            refused.message,
            request_id,
            retry_after=refused.retry_after,
            extra=extra,
        )
        turned_away(state, exchange.request, listener, refused.status, refused.reason, request_id=request_id)

    # -- one request

    def _refuse_unrecorded(self, exchange: Exchange) -> None:
        state = self._state
        respond_error(state, exchange, 503, state.unrecorded, state.request_id(None), retry_after=1)

    def _dispatch(self, exchange: Exchange, caller: Caller, asked: _Asked) -> None:
        state = self._state
        began = state.now()
        given = exchange.request.headers.get(REQUEST_ID) if asked.named else None
        arrival = Arrival(
            exchange,
            caller,
            None,
            began,
            state.request_id(given),
            deadline=None if asked.seconds is None else began + asked.seconds,
            cors=asked.cors,
            priority=asked.priority,
        )
        if state.tracer is not None:
            arrival.trace = state.tracer.begin(exchange.request, began)
        if asked.route is None:
            self._answer(arrival)
        else:
            asked.answer(arrival, asked.route, "")

    def _read_head(self, exchange: Exchange, listener: ListenerKind) -> _Asked | None:
        """What a head asks for; None when it was answered."""
        state, request = self._state, exchange.request
        headers = request.headers
        cors: tuple[Pair, ...] = ()
        origin = headers.get(b"origin")
        if origin and not same_origin(origin, headers.get(b"host") or b""):
            if not self._origin_passes(exchange, listener, origin):
                return None
            cors = (*cors_headers(origin), _EXPOSED)
        elif not origin and by_foreign_page(exchange.request.method, *(headers.get(one) for one in FETCH)):
            exchange.respond(403)
            turned_away(state, exchange.request, listener, 403, "page")
            return None
        seconds = state.config.default_deadline_s
        given = headers.get(TIMEOUT)
        wrong = ""
        if given is not None:
            try:
                seconds = parse_patience(given.decode("latin-1").strip(), LONGEST_S)
            except ValueError as fault:
                wrong = f"malformed X-Bridge-Timeout: {fault}"
        urgency = headers.get(PRIORITY, b"normal")
        priority = PRIORITIES.get(urgency.lower())  # type: ignore[union-attr]  # has a default
        if priority is None and not wrong:
            wrong = "malformed X-Bridge-Priority: it is high, normal or low"
        if wrong or priority is None:
            respond_error(state, exchange, 400, wrong, state.request_id(headers.get(REQUEST_ID)), extra=cors)
            return None
        answer, route = self._direct.get((request.method, request.path), (self._answers[Kind.INFER], None))
        return _Asked(REQUEST_ID in headers, cors, seconds, priority, answer, route)

    def _answer(self, arrival: Arrival) -> None:
        request = arrival.exchange.request
        direct = self._direct.get((request.method, request.path))
        if direct is not None:
            answer, route = direct
            answer(arrival, route, "")
            return
        if self._registry is not None and request.path.startswith("/v2/") and not arrival.over_hop:
            self._registry(arrival)
            return
        known, found = match(BY_PATH, request.method, request.path)
        if known is not None:
            self._answers[known.kind](arrival, known, found.parameter)
            return
        exchange = arrival.exchange
        allow: list[Pair] = [(b"allow", ", ".join(found.allow).encode())] if found.allow else []
        host = (request.headers.get(b"host") or b"").decode("latin-1")
        if (
            request.method == "OPTIONS"
            and arrival.caller is STRANGERS[ListenerKind.LOCAL]
            and not is_address(host)
        ):
            exchange.respond(204, [*allow, *arrival.cors])
        elif found.redirect:
            where = location(found.redirect, request.query)
            body = redirect_body(request.method, found.status, where)
            pairs: list[Pair] = [(b"location", where.encode()), *arrival.cors]
            if body:
                pairs.append((b"content-type", b"text/html; charset=utf-8"))
            exchange.respond(found.status, pairs, body)
        else:
            pairs = [(b"content-type", b"text/plain"), *arrival.cors, *allow]
            text = b"405 method not allowed" if allow else b"404 page not found"
            exchange.respond(405 if allow else 404, pairs, text)

    def _origin_passes(self, exchange: Exchange, listener: ListenerKind, origin: bytes) -> bool:
        """Answers preflights and foreign origins; True for a request that goes on."""
        request = exchange.request
        route, found = match(BY_PATH, request.method, request.path)
        listed = route is None and found.allow
        allow: list[Pair] = [(b"allow", ", ".join(found.allow).encode())] if listed else []
        if not self._state.config.origins.allows(origin.decode("latin-1")):
            exchange.respond(403, allow)
            turned_away(self._state, request, listener, 403, "origin")
            return False
        if request.method == "OPTIONS":
            exchange.respond(204, [*preflight_headers(origin), *allow])
            return False
        return True


def _outcome(exchange: Exchange) -> Outcome:
    """How an admin's request ended."""
    if exchange.disconnected:
        return Outcome.CANCELLED
    if not exchange.finished:
        return Outcome.BROKEN
    return Outcome.OK if exchange.status < 400 else Outcome.REFUSED


def _is_blob(request: Request) -> bool:
    return request.method == "POST" and request.path.startswith("/api/blobs/")
