"""Asking other nodes about models. Every answer is bounded in size and time, and decoded here."""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec

from bridge_agent.models import wire
from bridge_agent.models.piece_links import PieceLinks
from bridge_agent.models.piece_rules import span
from bridge_agent.peers.upstreams import Upstreams
from bridge_agent.routing.view import MeshView, Target
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import BridgeError, Reaction
from bridge_core.http1 import Pair

T = TypeVar("T")

ANSWER_S: Final = 5.0
PIECE_S: Final = 60.0
HASHES_S: Final = 600.0
_MOST_ANSWER: Final = 4 << 20
_JSON: Final[tuple[Pair, ...]] = ((b"content-type", b"application/json"),)


class PeerFault(BridgeError):
    """A node did not answer, or answered what it may not."""

    reaction = Reaction.ELSEWHERE


class PeerLacks(PeerFault):
    """The node does not have that."""


class PeerBusy(PeerFault):
    """The node serves as many as it will; later it may."""


class PeerClient:
    """Asks the nodes of the mesh.

    Args:
        view: Says who they are.
        upstreams: The links to them.
    """

    def __init__(self, view: MeshView, upstreams: Upstreams) -> None:
        self._view = view
        self._upstreams = upstreams

    @property
    def node(self) -> str:
        """This node's name."""
        return self._view.index.node

    def nodes(self) -> dict[str, Target]:
        """The other nodes that may be asked: none that is revoked or has no address."""
        return {
            node.name: Target(f"{node.name}/*", node.name, False, node.peer, True)
            for node in self._view.current.nodes.values()
            if node.name != self.node and node.peer and node.state != "revoked"
        }

    async def have(self, node: str, hex_: str, *, more: int = -1, wait_s: float = 0.0) -> wire.HaveAnswer:
        """Which pieces a node has; with `wait_s` as soon as it has more than `more`, or that time is over.

        Raises:
            PeerFault: no usable answer; PeerLacks: it has nothing of it.
        """
        target = f"{wire.HAVE}?digest={hex_}&more={more}&wait={wait_s:g}"
        return _decoded(node, await self._get(node, target, ANSWER_S + wait_s), wire.HaveAnswer)

    async def hashes(self, node: str, hex_: str) -> wire.HashesAnswer:
        """What a node's blob hashes to now. Raises PeerFault."""
        return _decoded(
            node, await self._get(node, f"{wire.HASHES}?digest={hex_}", HASHES_S), wire.HashesAnswer
        )

    async def manifest(self, node: str, name: str) -> bytes:
        """A manifest as it lies on a node's disk. Raises PeerFault."""
        return await self._get(node, f"{wire.MANIFEST}?name={quote(name, safe='')}", ANSWER_S)

    async def claim(self, node: str, asked: wire.ClaimRequest) -> wire.ClaimSaid:
        """What the coordinator of a digest says. Raises PeerFault."""
        body = msgspec.json.encode(asked)
        return _decoded(node, await self._get(node, wire.CLAIM, ANSWER_S, body), wire.ClaimSaid)

    async def piece(
        self, node: str, hex_: str, size: int, piece: int, links: PieceLinks
    ) -> tuple[bytes, str]:
        """A piece of a blob of `size` bytes, and the hash that the node names for it.

        Args:
            node: Who is asked.
            hex_: The blob's digest.
            size: Its bytes.
            piece: Which one.
            links: Those of the transfer.

        Raises:
            PeerFault: it did not come whole in time, or has another length.
        """
        _, length = span(size, piece)
        target = f"{wire.PIECE}?digest={hex_}&piece={piece}"
        try:
            async with asyncio.timeout(PIECE_S):
                way = self._upstreams.way(self._target(node))
                answer = await links.ask(way, target, wire.PIECE_HASH.decode(), length)
        except TimeoutError as fault:
            raise PeerFault(f"{node} did not send piece {piece} within {PIECE_S:g} s") from fault
        except PeerFault:
            raise
        except BridgeError as fault:
            raise PeerFault(f"{node} did not send piece {piece}: {fault.message}") from fault
        if answer.status != 200:
            raise _refused(node, answer.status, answer.body)
        if not wire.is_hex(answer.hash):
            raise PeerFault(f"{node} named no hash of piece {piece}")
        return answer.body, answer.hash

    def _target(self, node: str) -> Target:
        target = self.nodes().get(node)
        if target is None:
            raise PeerFault(f"there is no node {node!r} to ask")
        return target

    async def _get(self, node: str, target: str, within_s: float, body: bytes | None = None) -> bytes:
        """A small answer: to a GET, or to a POST of `body`."""
        pool = self._upstreams.pool
        try:
            async with (
                asyncio.timeout(within_s),
                pool(self._target(node)).request(
                    "GET" if body is None else "POST", target, () if body is None else _JSON, body
                ) as answer,
            ):
                data = await answer.read(_MOST_ANSWER)
                if answer.status != 200:
                    raise _refused(node, answer.status, data)
                return data
        except TimeoutError as fault:
            raise PeerFault(f"{node} did not answer within {within_s:g} s") from fault
        except PeerFault:
            raise
        except BridgeError as fault:
            raise PeerFault(f"{node} did not answer: {fault.message}") from fault


def _refused(node: str, status: int, body: bytes) -> PeerFault:
    said = body[:200].decode("utf-8", "replace")
    kind = {404: PeerLacks, 503: PeerBusy}.get(status, PeerFault)
    return kind(f"{node} answered {status}: {said}")


def _decoded(node: str, data: bytes, kind: type[T]) -> T:
    try:
        return decode_json(data, kind, most=_MOST_ANSWER)
    except Undecodable as fault:
        raise PeerFault(f"{node} answered what cannot be used: {fault.message}") from fault
