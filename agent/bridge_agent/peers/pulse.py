"""Asks the other nodes whether they are there, what work their instances have, and whom they reach.

A question is a GET on the peer link, so that it proves all that a request needs: the network, the
mutual TLS, and a loop that turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, time
from typing import Annotated, Final

import msgspec
import structlog

from bridge_agent.peers.upstreams import Upstreams
from bridge_agent.routing.pulse_rules import Pulse, PulsePolicy
from bridge_agent.routing.view import MeshView
from bridge_core.bounds import Small, Text, Word
from bridge_core.errors import BridgeError
from bridge_core.http1 import ConnectFailed, UpstreamError
from bridge_core.http1.client import ResponseHead, ResponseSink
from bridge_core.http1.heads import content_length, request_head

log = structlog.get_logger()

PATH: Final = "/bridge/pulse"
_MOST: Final = 64 * 1024
_NODES_MOST: Final = 256


class PulseAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node answers.

    Attributes:
        work: Of its instances, by id.
        unreached: Nodes that it cannot reach.
    """

    work: dict[Text, Small] = {}
    unreached: Annotated[tuple[Word, ...], msgspec.Meta(max_length=_NODES_MOST)] = ()


_ANSWER: Final = msgspec.json.Decoder(PulseAnswer)
_NOTHING: Final = PulseAnswer()


def answer_body(work: Mapping[str, int], unreached: Sequence[str] = ()) -> bytes:
    """What a node answers: the work of its instances by id, and whom it cannot reach."""
    return msgspec.json.encode(PulseAnswer(dict(work), tuple(unreached[:_NODES_MOST])))


class PulseWatch:
    """Keeps asking, and tells what follows.

    Args:
        view: Who is there.
        upstreams: The links; those of a node that stays silent are dropped, and what is known of them.
        policy: How often, how long.
        in_use: Nodes that have requests of this agent, or had some lately.
        on_answer: Called with node and the work of its instances.
        on_silent: Called with each node that stopped answering.
        now: Monotonic seconds.

    Attributes:
        silent: Nodes that do not answer, with the Unix time since when.
    """

    def __init__(
        self,
        view: MeshView,
        upstreams: Upstreams,
        policy: PulsePolicy,
        *,
        in_use: Callable[[], set[str]],
        on_answer: Callable[[str, dict[str, int]], None],
        on_silent: Callable[[str], None],
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._view = view
        self._upstreams = upstreams
        self._policy = policy
        self._in_use = in_use
        self._on_answer = on_answer
        self._on_silent = on_silent
        self._now = now
        self._pulse = Pulse(policy)
        self.silent: dict[str, float] = {}

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
            self._tick()
            await asyncio.sleep(self._policy.tick_s)

    def _tick(self) -> None:
        index = self._view.index
        nodes = {
            node.name: node.peer
            for node in index.snapshot.nodes.values()
            if node.name != index.node and node.peer and node.state != "revoked"
        }
        if self.silent:
            self.silent = {node: since for node, since in self.silent.items() if node in nodes}
        verdicts = self._pulse.tick(nodes, self._in_use(), self._now())
        for node in verdicts.silent:
            log.warning("peer_silent", node=node)
            self.silent[node] = time()
            self._upstreams.links.fell_silent(node)
            self._upstreams.cut(node)
            self._on_silent(node)
        for node in verdicts.cut:
            log.warning("peer_link_cut", node=node)
            self._upstreams.reset(node, nodes[node])
        for node in verdicts.ask:
            self._ask(node, nodes[node])

    def _ask(self, node: str, address: str) -> None:
        head = request_head(b"GET", PATH.encode(), b"host: %b\r\n" % address.encode(), content_length(0))
        try:
            self._upstreams.link(node, address).send(head, _Question(self, node, self._now()))
        except BridgeError:  # also of one node whose address is none: the others are asked all the same
            self._pulse.failed(node)

    def heard(self, node: str, status: int, body: bytes, asked: float) -> None:
        """An answer came to what was asked then."""
        # Any answer proves a loop that turns; what does not decode says nothing else.
        if self._pulse.answered(node):
            log.info("peer_answers_again", node=node)
            self.silent.pop(node, None)
        try:
            answer = _ANSWER.decode(body) if status == 200 else _NOTHING
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            answer = _NOTHING
        self._upstreams.links.answered(node, self._now() - asked, answer.unreached)
        self._upstreams.mend(node)
        self._on_answer(node, answer.work)

    def alive(self, node: str) -> None:
        """The node sent something else: it may be too busy to answer questions, but it is there."""
        self._pulse.alive(node, self._now())

    def unheard(self, node: str, fault: UpstreamError) -> None:
        """None will come."""
        self._pulse.failed(node)
        if isinstance(fault, ConnectFailed):
            self._upstreams.links.not_brought(node, fault.message)
            self._upstreams.cut(node)


class _Question(ResponseSink):
    __slots__ = ("_asked", "_body", "_node", "_status", "_watch")

    def __init__(self, watch: PulseWatch, node: str, asked: float) -> None:
        self._watch = watch
        self._node = node
        self._asked = asked
        self._status = 0
        self._body = b""

    def on_head(self, head: ResponseHead) -> None:
        self._status = head.status

    def on_data(self, data: bytes) -> None:
        if len(self._body) < _MOST:
            self._body += data

    def on_end(self) -> None:
        self._watch.heard(self._node, self._status, self._body, self._asked)

    def on_error(self, error: UpstreamError) -> None:
        self._watch.unheard(self._node, error)
