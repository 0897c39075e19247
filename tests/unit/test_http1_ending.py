"""A connection that has ended is not closed again: asyncio's TLS could then not be aborted any more."""

from __future__ import annotations

from typing import Any

from bridge_core.http1 import Exchange
from bridge_core.http1.connection import ServerConnection
from bridge_core.http1.limits import HttpLimits
from bridge_core.http1.server import Server, json_error


class Lost:
    """The transport of a connection that is lost, before the protocol has been told."""

    def __init__(self) -> None:
        self.lost = False
        self.closed = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def write(self, data: bytes) -> None:
        assert data.startswith(b"HTTP/1.1 200 OK\r\n")
        self.lost = True

    def close(self) -> None:
        self.closed += 1

    def is_closing(self) -> bool:
        return self.lost


def answer(exchange: Exchange) -> None:
    exchange.respond(200, (), b"")


async def test_an_answer_to_a_connection_that_is_lost_closes_nothing() -> None:
    server = Server(
        answer,
        name="test",
        limits=HttpLimits(),
        stream_body=None,
        identify=None,
        error_body=json_error,
        varying=frozenset(),
    )
    connection, transport = ServerConnection(server), Lost()
    connection.connection_made(transport)
    connection.data_received(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert transport.closed == 0
