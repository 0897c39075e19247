"""Pieces of a blob from other nodes, over connections of their own, read by threads.

At full speed a transfer decrypts and copies hundreds of MB a second. Done in the event loop, which serves
requests meanwhile, that costs more processor time and delays everybody; in a thread OpenSSL decrypts each
record to where it belongs, beside the loop (docs/adr/models-between-nodes.md).

A transfer has links of its own and ends them with itself. What a node answers is bounded here: its head by
`http.client`, its body by the piece's length, its time by who asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

import msgspec

from bridge_agent.peers.way import PeerWay
from bridge_core.addresses import without_localhost
from bridge_core.errors import BridgeError, Reaction

CONNECT_S: Final = 2.0
HEAD_S: Final = 5.0
BODY_S: Final = 60.0
MOST_IDLE: Final = 32
"""Links of a transfer that are kept, to all nodes together; then the one that lay idle longest ends."""
_MOST_SAID: Final = 400


_Place: TypeAlias = tuple[str, tuple[str, int]]


class LinkFault(BridgeError):
    """A node did not answer, or answered what is no answer."""

    reaction = Reaction.ELSEWHERE


class PieceAnswer(msgspec.Struct, frozen=True):
    """What a node answered.

    Attributes:
        status: Of HTTP.
        body: The piece; a sentence where the status is not 200.
        hash: The hash that it names for it.
    """

    status: int
    body: bytes
    hash: str = ""


class _Link:
    """One connection; used by one thread at a time, ended by any."""

    def __init__(self, way: PeerWay) -> None:
        host, port = without_localhost(way.address[0]), way.address[1]
        self.began = False  # an answer has begun on it
        sock = socket.create_connection((host, port), CONNECT_S)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if way.context is not None:
                sock = way.context.wrap_socket(sock, server_hostname=way.address[0])
                way.check(sock)
        except BaseException:
            sock.close()
            raise
        self._sock = sock
        self._http = http.client.HTTPConnection(host, port)
        self._http.sock = sock
        self._http.auto_open = 0  # it never connects by itself, which would be in the clear

    def ask(self, target: str, header: str, length: int) -> tuple[PieceAnswer, bool]:
        """An answer, and whether the connection can take another question.

        Raises:
            LinkFault: it has another length.
            OSError, http.client.HTTPException: it did not come.
        """
        self.began = False
        self._sock.settimeout(HEAD_S)
        self._http.request("GET", target)
        with self._http.getresponse() as answer:
            self.began = True
            if answer.status != 200:
                return PieceAnswer(answer.status, answer.read(_MOST_SAID)), False
            if answer.length != length:
                raise LinkFault(f"announced {answer.length} bytes as a piece that has {length}")
            self._sock.settimeout(BODY_S)
            body = answer.read(length)  # straight into its bytes, a record at a time
            if len(body) != length:
                raise LinkFault(f"sent {len(body)} bytes of {length}")
            return PieceAnswer(200, body, answer.headers.get(header, "")), not answer.will_close

    def end(self) -> None:
        """Has whoever reads from it stop at once."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Lets go of it; nobody uses it any more."""
        self._http.close()
        self._sock.close()


class _Asking:
    """A question under way, which may be given up from outside its thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given_up = False
        self._link: _Link | None = None

    def over(self, link: _Link | None) -> None:
        """It goes over this link now; over none any more with None. Raises LinkFault: it was given up."""
        with self._lock:
            self._link = link
            if self._given_up and link is not None:
                raise LinkFault("nobody waits for it any more")

    def give_up(self) -> None:
        """Nobody waits for the answer any more."""
        with self._lock:
            self._given_up = True
            if self._link is not None:
                self._link.end()


class PieceLinks:
    """The links of one transfer. `ask` belongs to the event loop.

    Args:
        together: How many questions may be under way.
    """

    def __init__(self, together: int) -> None:
        self._threads = ThreadPoolExecutor(together, "pieces")
        self._lock = threading.Lock()
        self._idle: list[tuple[_Place, _Link]] = []  # the one that lay longest first
        self._closed = False

    async def ask(self, way: PeerWay, target: str, header: str, length: int) -> PieceAnswer:
        """What a node answers to a GET.

        Args:
            way: The way to it.
            target: Path and query.
            header: The field that names the piece's hash.
            length: Bytes that a piece must have.

        Raises:
            LinkFault: no usable answer.
            BridgeError: it is not the node that it should be.
        """
        asking = _Asking()
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._ask, asking, way, target, header, length
            )
        except asyncio.CancelledError:
            asking.give_up()
            raise

    def close(self) -> None:
        """Ends the links; those at work end with their question."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, link in idle:
            link.close()
        self._threads.shutdown(wait=False)

    # -- in threads

    def _ask(self, asking: _Asking, way: PeerWay, target: str, header: str, length: int) -> PieceAnswer:
        while True:
            link = self._taken(way)
            reused = link is not None
            try:
                if link is None:
                    link = _Link(way)
                try:
                    asking.over(link)
                    answer, again = link.ask(target, header, length)
                finally:
                    asking.over(None)
            except (OSError, ValueError, http.client.HTTPException) as fault:
                began = link is not None and link.began
                self._dropped(link)
                if reused and not began:
                    continue  # the node had closed it meanwhile
                raise LinkFault(str(fault) or type(fault).__name__) from fault
            except BaseException:
                self._dropped(link)
                raise
            if again:
                self._left(way, link)
            else:
                link.close()
            return answer

    def _taken(self, way: PeerWay) -> _Link | None:
        with self._lock:
            for index in reversed(range(len(self._idle))):
                if self._idle[index][0] == (way.node, way.address):
                    return self._idle.pop(index)[1]
        return None

    def _left(self, way: PeerWay, link: _Link) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(((way.node, way.address), link))
                if len(self._idle) <= MOST_IDLE:
                    return
                _, link = self._idle.pop(0)
        link.close()

    @staticmethod
    def _dropped(link: _Link | None) -> None:
        if link is not None:
            link.close()
