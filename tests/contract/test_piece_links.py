"""The links that threads read pieces of blobs from: kept, made anew, bounded, and given up at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import msgspec
import pytest

from bridge_agent.models.piece_links import MOST_IDLE, LinkFault, PieceAnswer, PieceLinks
from bridge_agent.peers.way import PeerWay
from tests.contract.http1_bed import ScriptedServer, read_request, scripted
from tests.support import eventually

HASH = "x-hash"
PIECE = bytes(range(256)) * 300
ANSWER = b"HTTP/1.1 200 OK\r\nX-Hash: abc\r\nContent-Length: %d\r\n\r\n%b"


def way_to(port: int) -> PeerWay:
    return PeerWay("b", ("127.0.0.1", port), None, lambda _: None)


@pytest.fixture
def links() -> Iterator[PieceLinks]:
    found = PieceLinks(2)
    yield found
    found.close()


async def ask(links: PieceLinks, port: int, length: int = len(PIECE)) -> PieceAnswer:
    return await links.ask(way_to(port), "/piece?piece=0", HASH, length)


def answering(data: bytes, times: int = 100):
    async def script(
        seen: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        for _ in range(times):
            seen.requests.append(await read_request(reader))
            writer.write(data)
            await writer.drain()

    return script


async def test_a_link_serves_one_piece_after_the_other(links: PieceLinks) -> None:
    async with scripted(answering(ANSWER % (len(PIECE), PIECE))) as server:
        for _ in range(3):
            assert await ask(links, server.port) == PieceAnswer(200, PIECE, "abc")
        assert server.connections == 1
        assert server.requests[0].startswith(b"GET /piece?piece=0 HTTP/1.1\r\n")


async def test_a_link_that_was_closed_while_it_lay_idle_is_made_anew(links: PieceLinks) -> None:
    async with scripted(answering(ANSWER % (len(PIECE), PIECE), times=1)) as server:
        for number in range(1, 4):
            assert (await ask(links, server.port)).body == PIECE
            await eventually(lambda number=number: server.ended == number)
        assert server.connections == 3


async def test_a_refusal_is_handed_on_with_its_words(links: PieceLinks) -> None:
    refusal = b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\nlater, ok"
    async with scripted(answering(refusal)) as server:
        assert await ask(links, server.port) == PieceAnswer(503, b"later, ok")


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER % (len(PIECE) + 1, PIECE + b"x"),
        ANSWER % (len(PIECE) - 1, PIECE[1:]),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n",
    ],
)
async def test_an_answer_of_another_length_or_none_at_all_is_refused(
    links: PieceLinks, answer: bytes
) -> None:
    async with scripted(answering(answer, times=1)) as server:
        with pytest.raises(LinkFault):
            await ask(links, server.port)
        assert server.connections == 1


async def test_an_answer_that_breaks_off_is_not_asked_for_again(links: PieceLinks) -> None:
    async with scripted(answering(ANSWER % (len(PIECE), PIECE[:-1]), times=1)) as server:
        with pytest.raises(LinkFault):
            await ask(links, server.port)
        assert server.connections == 1


async def test_where_nobody_listens_it_fails_at_once(links: PieceLinks) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(LinkFault, match="refused"):
            await ask(links, free.getsockname()[1])


async def test_what_nobody_waits_for_any_more_lets_go_of_its_link(links: PieceLinks) -> None:
    async with scripted(answering(b"HTTP/1.1 200 OK\r\n")) as server:  # and no more of it
        asking = asyncio.create_task(ask(links, server.port))
        await eventually(lambda: server.requests)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        await eventually(lambda: server.ended)


async def test_no_more_links_are_kept_than_may_be_to_however_many_nodes(links: PieceLinks) -> None:
    async with scripted(answering(ANSWER % (len(PIECE), PIECE))) as server:
        ways = [msgspec.structs.replace(way_to(server.port), node=f"n{i}") for i in range(MOST_IDLE + 2)]
        for way in ways:
            await links.ask(way, "/piece?piece=0", HASH, len(PIECE))
        await eventually(lambda: server.ended == 2)
        await links.ask(ways[-1], "/piece?piece=0", HASH, len(PIECE))
        assert server.connections == len(ways)
        await links.ask(ways[0], "/piece?piece=0", HASH, len(PIECE))
        assert server.connections == len(ways) + 1


async def test_idle_links_end_with_the_transfer() -> None:
    links = PieceLinks(2)
    async with scripted(answering(ANSWER % (len(PIECE), PIECE))) as server:
        await ask(links, server.port)
        assert not server.ended
        links.close()
        await eventually(lambda: server.ended)
