"""What a request costs in Python alone: gateways with everything on, without a socket, a peer or a kernel.

Bytes go into a connection's `data_received` and come out of a transport that only keeps them. Beside the
time stands how many instructions of the interpreter a request takes: a figure that does not depend on what
else the machine does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import uvloop

from bench import configs, guarded, results, subjects
from bench.load import PROMPT_BYTES, prompt
from bench.subjects import DOMAIN, Composed, compose
from bridge_agent.routing.resume.tracker import BATCH
from bridge_core.http1.client import ClientConnection
from bridge_core.http1.connection import ServerConnection
from bridge_core.http1.limits import HttpLimits

CONNECTIONS, ROUNDS, EACH, TRACED = 32, 25, 1000, 96
_LAYERS = 5  # named in the table
# The connections of a side are heard late, when all others were made and the machine is busy.
LIMITS = HttpLimits(head_s=3600.0, keep_alive_s=3600.0)


def _ask(number: int, stream: bytes = b"false", lines: bytes = b"") -> bytes:
    """A request of which no two are alike, in length and words, as in real traffic; `lines` for its head."""
    body = b'{"model":"tiny","prompt":"%b","stream":%b}' % (prompt(number), stream)
    head = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return b"%b%bContent-Length: %d\r\n\r\n%b" % (head, lines, len(body), body)


ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Fri, 27 Nov 2026 22:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: keep-alive\r\n\r\n%b"
    % (len(configs.BODY), configs.BODY.encode())
)


_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
    b"Date: Fri, 27 Nov 2026 22:00:00 GMT\r\nTransfer-Encoding: chunked\r\n\r\n"
)


# So many tokens that each stream's tracker has read what it keeps once.
_TRACED_TOKENS = (BATCH // len(subjects.TOKEN) + 1) * CONNECTIONS


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class _Certificate:
    """What a TLS connection's client showed."""

    def __init__(self, identity: str) -> None:
        self._identity = identity

    def getpeercert(self, binary_form: bool = False) -> Any:
        if binary_form:
            return b""
        return {"subjectAltName": (("URI", self._identity),), "serialNumber": "01"}


class _Transport:
    """Keeps what was written last, and tells that it was."""

    def __init__(self, told: Callable[[bytes], None], certificate: _Certificate | None = None) -> None:
        self.write = told
        self._extra = {"peername": ("127.0.0.1", 1), "ssl_object": certificate}

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._extra.get(name, default)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        raise RuntimeError("a connection was closed")

    abort = close


class _Side:
    """One gateway with as many connections to its clients as to its upstream."""

    def __init__(self, made: Composed, caller: str | None) -> None:
        self.made = made
        self._sent: tuple[ClientConnection, bytes] | None = None
        self._answered = b""
        certificate = None if caller is None else _Certificate(caller)
        self._clients = [ServerConnection(made.server) for _ in range(CONNECTIONS)]
        for client in self._clients:
            client.connection_made(_Transport(self._take_answer, certificate))  # type: ignore[arg-type]  # enough of one
        for _ in range(CONNECTIONS):
            for pool in made.pools:
                upstream = ClientConnection(pool)
                upstream.connection_made(_Transport(partial(self._take_request, upstream)))  # type: ignore[arg-type]  # likewise
                pool.release(upstream)

    def open_stream(self, at: int, data: bytes) -> ClientConnection:
        """Has a request of the client `at` answered with a stream; returns where its rest comes from."""
        self._clients[at].data_received(data)
        if self._sent is None:
            raise RuntimeError(f"answered without asking: {self._answered[:200]!r}")
        upstream, _ = self._sent
        upstream.data_received(_STREAM)
        return upstream

    async def end(self) -> None:
        """Closes what is really open."""
        self.made.auditing.cancel()
        for client in self._clients:
            self.made.server.remove(client)  # their transports are none that could be closed
        for pool in self.made.pools:
            await pool.close()
        await self.made.server.close()

    def _take_answer(self, data: bytes) -> None:
        self._answered = data

    def _take_request(self, upstream: ClientConnection, data: bytes) -> None:
        self._sent = upstream, data

    def request(self, at: int, data: bytes, answer: Callable[[bytes], bytes]) -> bytes:
        """One request of the client `at`; `answer` stands for what is behind."""
        self._clients[at].data_received(data)
        if self._sent is None:
            raise RuntimeError(f"answered without asking: {self._answered[:200]!r}")
        upstream, sent = self._sent
        upstream.data_received(answer(sent))
        return self._answered


def in_memory(folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """The row `in-memory`."""
    rows = uvloop.run(_measure(folder))
    text = (
        f"{CONNECTIONS} connections in turn, no two requests alike, prompts of {PROMPT_BYTES - 200} to "
        f"{PROMPT_BYTES + 200} bytes; audit records are rendered and "
        f"written by their own thread. The best and the median of {ROUNDS} rounds of {EACH}.\n\n"
    )
    head = ("what", "µs each, best / median", "instructions of the interpreter", "most of them in")
    results.record(
        "in-memory", "A request in Python alone", command, versions, text + results.table(head, rows)
    )


LOCAL, HOP, TOKEN = "local hop", "entry and owner together, TLS left out", "a token of a stream, local hop"
GUARDED = "local hop with an API key, policies, a quota and several engines"
TRACED_HOP = "entry and owner together, with traces, of a client that sends traceparent"
_PARENT_LINE = b"traceparent: 00-%032x-%016x-00\r\n"
_KEY_LINE = b"Authorization: Bearer %b\r\n" % guarded.KEY


@contextlib.asynccontextmanager
async def _ways(folder: Path) -> AsyncIterator[dict[str, Callable[[int], None]]]:
    """What sends one request through each of the two ways, on a connection of this number."""
    async with asyncio.TaskGroup() as group:
        peer = f"spiffe://{DOMAIN}/node/entry"  # who calls the owner
        sides = {
            role: _Side(await compose(role, folder, group, limits=LIMITS), peer if role == "owner" else None)
            for role in ("agent", "entry", "owner", "guarded")
        }
        for role in ("entry", "owner"):
            made = await compose(role, folder / "traced", group, limits=LIMITS, traced=True)
            sides[f"traced {role}"] = _Side(made, peer if role == "owner" else None)
        sides["streams"] = _Side(await compose("agent", folder / "streams", group, limits=LIMITS), None)
        numbers = itertools.count()

        def local(at: int) -> None:
            sides["agent"].request(at, _ask(next(numbers)), lambda _: ANSWER)

        def guarded_hop(at: int) -> None:
            sides["guarded"].request(at, _ask(next(numbers), lines=_KEY_LINE), lambda _: ANSWER)

        def hop(at: int) -> None:
            behind = sides["owner"]
            ask = _ask(next(numbers))
            sides["entry"].request(at, ask, lambda sent: behind.request(at, sent, lambda _: ANSWER))

        def traced_hop(at: int) -> None:
            behind, number = sides["traced owner"], next(numbers)
            ask = _ask(number, lines=_PARENT_LINE % (number + 1, number + 1))
            sides["traced entry"].request(at, ask, lambda sent: behind.request(at, sent, lambda _: ANSWER))

        streams: dict[int, ClientConnection] = {}

        def token(at: int) -> None:
            if at not in streams:
                streams[at] = sides["streams"].open_stream(at, _ask(at, b"true"))
            streams[at].data_received(_chunk(subjects.TOKEN))

        yield {LOCAL: local, HOP: hop, TRACED_HOP: traced_hop, GUARDED: guarded_hop, TOKEN: token}
        for upstream in streams.values():
            upstream.data_received(_chunk(subjects.LAST) + b"0\r\n\r\n")
        for side in sides.values():
            await side.end()


async def instructions(folder: Path) -> dict[str, float]:
    """How many instructions of the interpreter a request takes in each way."""
    found = {}
    async with _ways(folder) as ways:
        for name, one in ways.items():
            _run(one, 4 * CONNECTIONS)
            found[name] = _instructions(name, one).total()
    return found


async def _measure(folder: Path) -> list[tuple[str, str, str, str]]:
    rows = []
    async with _ways(folder) as ways:
        for name, one in ways.items():
            _run(one, 2 * EACH)
            gc.collect()
            gc.freeze()
            times = []
            for _ in range(ROUNDS):
                times.append(_run(one, EACH))
                await asyncio.sleep(0.01)  # the audit's turn
            best, median = min(times) * 1e6, statistics.median(times) * 1e6
            counted = _instructions(name, one)
            layers = ", ".join(f"{layer} {count:,.0f}" for layer, count in counted.most_common(_LAYERS))
            rows.append((name, f"{best:.1f} / {median:.1f}", f"{counted.total():,.0f}", layers))
    return rows


def _run(one: Callable[[int], None], times: int) -> float:
    began = time.perf_counter()
    for number in range(times):
        one(number % CONNECTIONS)
    return (time.perf_counter() - began) / times


def _instructions(name: str, one: Callable[[int], None]) -> Counter[str]:
    """How many each takes, by the package that they are of; library code in Python included."""
    times = _TRACED_TOKENS if name == TOKEN else TRACED
    with counting() as modules:
        _run(one, times)
    found: Counter[str] = Counter()
    for module, count in modules.items():
        found[module.rpartition(".")[0]] += count
    del found["bench"]  # the clients and the upstream
    return Counter({layer: count / times for layer, count in found.items()})  # type: ignore[misc]  # of floats


@contextlib.contextmanager
def counting() -> Iterator[Counter[str]]:
    """Counts the interpreter's instructions meanwhile, by the module that they are of."""
    found: Counter[str] = Counter()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode":
            found[frame.f_globals["__name__"]] += 1
        return trace

    sys.settrace(trace)
    try:
        yield found
    finally:
        sys.settrace(None)
