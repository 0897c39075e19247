"""The console's page and what it asks for: at the registry's admin listener, for who is on its machine.

What it shows asks for no more than /metrics and /status beside it do; what it changes needs a session of an
admin (`sign_in`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, quote

import msgspec
import structlog

from bridge_core.decoding import decode_json
from bridge_core.errors import BridgeError
from bridge_core.explanation import PATH, HopReport
from bridge_core.http1 import App, Exchange, Pool, coroutine_app
from bridge_core.http1.headers import Pair
from bridge_core.names import display_or_same, natural
from bridge_core.page_files import page_apps, safe
from bridge_core.recent import PATH as RECENT
from bridge_core.recent import Recent
from bridge_core.snapshot import Node
from bridge_registry.console.streams import Streams
from bridge_registry.console.traffic_rules import TrafficBook
from bridge_registry.records import RevisionRecord

log = structlog.get_logger()

T = TypeVar("T")

ROOT: Final = "/console"
_ASK_S: Final = 3.0
_ANSWER_MOST: Final = 4 << 20
_AT_ONCE: Final = 32  # answers of so many nodes are held at the same time
_ASKED_NODES: Final = 32  # of which recent requests are shown: those that were called last
_SHOWN: Final = 200
_REVISIONS: Final = 50
# The playground calls agents on this machine, as any page of this machine may.
_SAFE: Final = safe(b"'self' http://127.0.0.1:* http://localhost:*")
_JSON: Final = (*_SAFE, (b"content-type", b"application/json"), (b"cache-control", b"no-store"))


class ConsolePages:
    """See the module.

    Args:
        streams: Told what changes.
        traffic: The last hour.
        nodes: Those that are published.
        link: The way to a node.
        history: The newest revisions of the configuration.
    """

    def __init__(
        self,
        streams: Streams,
        traffic: TrafficBook,
        nodes: Callable[[], Mapping[str, Node]],
        link: Callable[[Node], Pool],
        history: Callable[[int], Awaitable[list[RevisionRecord]]],
    ) -> None:
        self._streams = streams
        self._traffic = traffic
        self._nodes = nodes
        self._link = link
        self._history = history

    def apps(self, group: asyncio.TaskGroup) -> dict[str, App]:
        """The pages by path; what they wait for runs in `group`."""
        return {
            **page_apps(ROOT, "bridge_registry.console", _SAFE),
            f"{ROOT}/api/stream": self._streams.app,
            f"{ROOT}/api/hour": self._hour,
            f"{ROOT}/api/day": self._day,
            f"{ROOT}/api/requests": coroutine_app(_answering(self._requests), group),
            f"{ROOT}/api/explain": coroutine_app(_answering(self._explain), group),
            f"{ROOT}/api/history": coroutine_app(_answering(self._revisions), group),
        }

    def _hour(self, exchange: Exchange) -> None:
        """The last hour by minute: [minute, {model: [requests, failed]}, {node: …}]."""
        minutes = [
            (at, {display_or_same(name): cell for name, cell in models.items()}, nodes)
            for at, models, nodes in self._traffic.minutes
        ]
        answer_json(exchange, minutes)

    def _day(self, exchange: Exchange) -> None:
        """The last day by hour: [hour since 1970, [[model, node, requests, failed], …]]."""
        hours = [
            (at, [(display_or_same(model), node, *cell) for (model, node), cell in pairs.items()])
            for at, pairs in self._traffic.hours
        ]
        answer_json(exchange, hours)

    async def _requests(self, _query: dict[str, list[str]]) -> Any:
        called = [name for name in self._called() if name in self._nodes()]
        answers = await self._ask_all(called[:_ASKED_NODES], f"{RECENT}?most={_SHOWN}", list[Recent])
        found = [
            msgspec.structs.replace(one, model=display_or_same(one.model))
            for told in answers.values()
            for one in told
        ]
        found.sort(key=lambda one: -one.at)
        return {"requests": found[:_SHOWN], "nodes": len(answers), "asked": len(called[:_ASKED_NODES])}

    async def _explain(self, query: dict[str, list[str]]) -> Any:
        asked = "".join(query.get("id", []))[:200]
        path = f"{PATH}?id={quote(asked, safe='')}"
        answers = await self._ask_all(list(self._nodes()), path, list[HopReport])
        hops = [
            msgspec.structs.replace(hop, asked=display_or_same(hop.asked), model=display_or_same(hop.model))
            for told in answers.values()
            for hop in told
        ]
        return {"hops": sorted(hops, key=lambda hop: bool(hop.via)), "nodes": len(answers)}

    async def _revisions(self, _query: dict[str, list[str]]) -> Any:
        records = await self._history(_REVISIONS)
        return [
            {
                "number": one.number,
                "author": one.author,
                "applied": one.applied,
                "changed": one.changed,
                "diff": one.diff,
                "restores": one.restores,
            }
            for one in records
        ]

    def _called(self) -> list[str]:
        """Nodes that clients called in the last hour, the newest first, then the others."""
        newest: dict[str, None] = {}
        for _, _, nodes in reversed(self._traffic.minutes):
            newest.update(dict.fromkeys(nodes))
        return [*newest, *(name for name in sorted(self._nodes(), key=natural) if name not in newest)]

    async def _ask_all(self, names: list[str], path: str, kind: type[T]) -> dict[str, T]:
        """What nodes answer; who does not, or with what is no `kind`, is left out."""
        nodes = self._nodes()
        found: dict[str, T] = {}
        room = asyncio.Semaphore(_AT_ONCE)

        async def ask(name: str) -> None:
            try:
                async with (
                    room,
                    asyncio.timeout(_ASK_S),
                    self._link(nodes[name]).request("GET", path, ()) as response,
                ):
                    body = await response.read(_ANSWER_MOST)
                if response.status == 200:
                    found[name] = decode_json(body, kind, most=_ANSWER_MOST)
            except (BridgeError, OSError, TimeoutError) as fault:
                log.debug("console_node_left_out", node=name, reason=str(fault) or "timed out")

        await asyncio.gather(*(ask(name) for name in names if name in nodes))
        return found


def _answering(
    work: Callable[[dict[str, list[str]]], Awaitable[Any]],
) -> Callable[[Exchange], Awaitable[None]]:
    async def answer(exchange: Exchange) -> None:
        try:
            answer_json(exchange, await work(parse_qs(exchange.request.query)))
        except (BridgeError, msgspec.DecodeError, ValueError) as fault:
            refuse(exchange, 503, str(fault))

    return answer


def answer_json(exchange: Exchange, value: Any, status: int = 200, *more: Pair) -> None:
    """What the page asked for, which nobody keeps; `more` are fields of its head."""
    exchange.respond(status, (*_JSON, *more), msgspec.json.encode(value))


def refuse(exchange: Exchange, status: int, reason: str) -> None:
    """Why the page does not get it, in a sentence that it shows."""
    answer_json(exchange, {"error": reason[:1000]}, status)
