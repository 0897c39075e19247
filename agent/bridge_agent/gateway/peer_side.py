"""What the peer listener answers: requests that other agents forward, their questions, and admins' pages.

Rules:
1. Only proven, unrevoked nodes of this mesh may forward, and only requests that carry a hop, which names
   the node that the link's certificate does and proves for whom it asks (`authentication/hop_proofs.py`).
2. The certificate of an admin whom the mesh has opens the pages for admins, and nothing else; a registry's
   those on which a node is asked to vouch for its log, and what its console shows of requests.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import parse_qs

import msgspec

from bridge_agent.authentication.principals import NotToldYet, UnknownPrincipal
from bridge_agent.gateway import explain, recent
from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.config import Caller, ListenerKind
from bridge_agent.gateway.replies import respond_error, turned_away
from bridge_agent.gateway.state import GatewayState
from bridge_agent.peers import pulse
from bridge_agent.peers.hop import HOP, BadHop, Hop, read_hop
from bridge_core import snapshot_file
from bridge_core.http1 import App, Exchange, Request
from bridge_core.identity.spiffe import IdentityFault, SpiffeId
from bridge_core.snapshot import Snapshot

SNAPSHOT: Final = "/bridge/snapshot"
_JSON: Final = ((b"content-type", b"application/json"),)


class _Forwarder(NamedTuple):
    """Which certificate was found to be a node's that may forward, and by which snapshot."""

    identity: str | None
    snapshot: Snapshot


class PeerSide:
    """The application of the peer listener.

    Args:
        state: What the gateway's requests share.
        answer: Answers a forwarded request.
    """

    def __init__(self, state: GatewayState, answer: Callable[[Arrival], None]) -> None:
        self._state = state
        self._answer = answer
        self._between_agents: dict[str, Callable[[Request], bytes]] = {
            pulse.PATH: self._pulse,
            explain.PATH: self._explain,
        }
        self._for_nodes: dict[str, App] = {}
        recent_page = _page(lambda request: recent.page(state, request))
        self._for_registries: dict[str, App] = {
            explain.PATH: _page(self._explain),
            recent.PATH: recent_page,
        }
        self._for_admins: dict[str, App] = {
            explain.PATH: _page(self._explain),
            recent.PATH: recent_page,
            SNAPSHOT: _page(lambda _request: snapshot_file.encode(state.view.current)),
        }

    def serve_admins(self, path: str, page: App) -> None:
        """Has `page` answer an admin's requests for `path`."""
        self._for_admins[path] = page

    def serve_nodes(self, path: str, page: App) -> None:
        """Has `page` answer other nodes' own requests for `path`."""
        self._for_nodes[path] = page

    def app(self, exchange: Exchange) -> None:
        """Answers one request; see the module's rules."""
        request = exchange.request
        known: _Forwarder | None = request.memo.get(_Forwarder)
        snapshot = self._state.view.current
        if known is None or known.identity is not request.identity or known.snapshot is not snapshot:
            path, identity = request.path, request.identity
            page = self._for_admins.get(path)
            if page is not None and self._is_admin(identity):
                page(exchange)
                return
            page = self._for_nodes.get(path) or self._for_registries.get(path)
            if page is not None and self._is_registry(identity):
                page(exchange)
                return
            refusal = self._refusal(identity)
            if refusal is not None:
                self._refuse(exchange, *refusal)
                return
            if path in self._between_agents:
                exchange.respond(200, _JSON, self._between_agents[path](request))
                return
            if path in self._for_nodes:
                self._for_nodes[path](exchange)
                return
            known = None
        try:
            hop = read_hop(request.headers, request.memo)
        except BadHop as fault:
            self._refuse(exchange, 400, fault.message)
            return
        if hop is None:
            message = f"the peer listener takes forwarded requests only ({HOP.decode()} is missing)"
            self._refuse(exchange, 400, message)
            return
        try:
            if known is None:
                self._check_entry(request, hop)
                request.memo[_Forwarder] = _Forwarder(request.identity, snapshot)
            caller = self._state.callers.over_hop(hop.principal, hop.entry, hop.proof)
        except NotToldYet as early:
            self._refuse_for_now(exchange, hop, early.message)
            turned_away(self._state, request, ListenerKind.PEER, 503, "unproven", request_id=hop.request_id)
            return
        except UnknownPrincipal as unproven:
            self._refuse(exchange, 403, unproven.message, "unproven")
            return
        if self._state.unrecorded:
            self._refuse_for_now(exchange, hop, self._state.unrecorded)
            return
        self._answer(self._arrival(exchange, hop, caller))

    def _refuse_for_now(self, exchange: Exchange, hop: Hop, message: str) -> None:
        """The node that forwards it may ask elsewhere."""
        respond_error(self._state, exchange, 503, message, hop.request_id, retry_after=1, refused=True)

    def refuses(self, request: Request) -> bool:
        """Whether the caller may send nothing here, whatever it asks."""
        identity = request.identity
        known = self._is_admin(identity) or self._is_registry(identity)
        return not known and self._refusal(identity) is not None

    def _refuse(self, exchange: Exchange, status: int, message: str, reason: str = "peer") -> None:
        state, request = self._state, exchange.request
        request_id = state.request_id(None)
        respond_error(state, exchange, status, message, request_id)
        turned_away(state, request, ListenerKind.PEER, status, reason, request_id=request_id)

    @staticmethod
    def _check_entry(request: Request, hop: Hop) -> None:
        """Returns when a request came in at the node that forwards it, as it says.

        Raises:
            UnknownPrincipal: it names another one.
        """
        proven = _spiffe_id(request.identity or "").name
        if hop.entry != proven:
            raise UnknownPrincipal(
                f"{HOP.decode()} says {hop.entry}, but the certificate of this link is {proven}'s"
            )

    def _arrival(self, exchange: Exchange, hop: Hop, caller: Caller) -> Arrival:
        state = self._state
        began = state.now()
        arrival = Arrival(
            exchange,
            caller,
            hop,
            began,
            state.request_id(hop.request_id.encode()),
            deadline=None if hop.remaining_s is None else began + hop.remaining_s,
            priority=hop.priority,
        )
        if state.tracer is not None:
            arrival.trace = state.tracer.begin(exchange.request, began, trusted=True)
        return arrival

    def _is_admin(self, identity: str | None) -> bool:
        peer = self._of_mesh(identity)
        # Whatever its role: each may see everything.
        return peer is not None and peer.kind == "admin" and peer.name in self._state.view.current.admins

    def _is_registry(self, identity: str | None) -> bool:
        peer = self._of_mesh(identity)
        return peer is not None and peer.kind == "registry"

    def _of_mesh(self, identity: str | None) -> SpiffeId | None:
        """Who shows this identity; None: nobody of this mesh."""
        if identity is None:
            return None
        try:
            peer = _spiffe_id(identity)
        except IdentityFault:
            return None
        return peer if peer.trust_domain == self._state.view.current.mesh.trust_domain else None

    def _refusal(self, identity: str | None) -> tuple[int, str] | None:
        """Why this caller may not forward; None: it may."""
        if identity is None:
            return 401, "a node certificate of this mesh is needed"
        peer = self._of_mesh(identity)
        if peer is None or peer.kind != "node":
            return 403, "not a node of this mesh"
        record = self._state.view.current.nodes.get(peer.name)
        # A node that joined a moment ago may not be in our snapshot yet; its certificate proves it.
        if record is not None and record.state == "revoked":
            return 403, f"node {peer.name} is revoked"
        return None

    def _pulse(self, _request: Request) -> bytes:
        state = self._state
        work = {one.id: state.work(one.id) for one in state.view.index.local}
        return pulse.answer_body(work, state.upstreams.links.unreached())

    def _explain(self, request: Request) -> bytes:
        request_id = "".join(parse_qs(request.query).get("id", []))
        return msgspec.json.encode(explain.own_reports(self._state, request_id))


def _page(render: Callable[[Request], bytes]) -> App:
    return lambda exchange: exchange.respond(200, _JSON, render(exchange.request))


@lru_cache(maxsize=1024)
def _spiffe_id(identity: str) -> SpiffeId:
    return SpiffeId.parse(identity)
