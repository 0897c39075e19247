"""The last moments of listening sockets that nobody else holds: whoever is connected is let in first.

A socket that is closed resets what waits in its queue: those clients are connected, have asked, and cannot
know whether their request was run. So before that:

1. The kernel drops whoever begins to connect from now on (a filter at the socket; no privilege is needed).
   Such a client is asked nothing and told nothing: it tries again after a second, and is refused then, or
   meets the next process.
2. Handshakes of TCP that are under way get a round trip's time, and the queue is waited for until it is
   empty.

Where the kernel takes no filter the second step stands alone, and misses only those who come at the very
end. A socket that another process holds too must not come here: it would lose its clients for good.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import Collection
from typing import Final

_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h; Python has no name for it
_ROUND_TRIP_S: Final = 0.1
_LOOK_S: Final = 0.01
_FLAGS_AT: Final = 13  # of TCP's header, where a filter begins to count
_SYN, _ACK = 0x02, 0x10
# Classic BPF (linux/filter.h): code, jump if true, jump if false, operand.
_NO_NEWCOMERS: Final = (
    (0x30, 0, 0, _FLAGS_AT),  # load the byte
    (0x54, 0, 0, _SYN | _ACK),  # and
    (0x15, 1, 0, _SYN),  # equal: over the next one
    (0x06, 0, 0, 0xFFFF_FFFF),  # return: keep all of it
    (0x06, 0, 0, 0),  # return: drop it
)
_WAITING_AT: Final = 24  # tcpi_unacked in tcp_info: of a listening socket, those in its queue


async def last_call(sockets: Collection[socket.socket], within_s: float) -> None:
    """Returns once nobody waits in the queues of these sockets, or in time; their owners go on accepting.

    Args:
        sockets: Listening ones, to be closed next and held by this process alone.
        within_s: The longest time to wait.
    """
    for sock in sockets:
        _drop_newcomers(sock)
    try:
        async with asyncio.timeout(within_s):
            await asyncio.sleep(_ROUND_TRIP_S)
            while any(_waiting(sock) for sock in sockets):  # noqa: ASYNC110 - the kernel tells nobody
                await asyncio.sleep(_LOOK_S)
            await asyncio.sleep(_LOOK_S)  # those taken last become connections
    except TimeoutError:
        return


def _drop_newcomers(sock: socket.socket) -> None:
    program = b"".join(struct.pack("=HBBI", *step) for step in _NO_NEWCOMERS)
    held = ctypes.create_string_buffer(program, len(program))
    argument = struct.pack("@HP", len(_NO_NEWCOMERS), ctypes.addressof(held))
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, argument)
    except OSError:
        return  # closed already, or a kernel that has none


def _waiting(sock: socket.socket) -> int:
    """How many connections nobody has accepted yet; 0 where that cannot be told."""
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WAITING_AT + 4)
    except OSError:
        return 0
    return int(struct.unpack_from("=I", told, _WAITING_AT)[0]) if len(told) == _WAITING_AT + 4 else 0
