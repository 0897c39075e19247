"""The console's page and streams at the admin listener."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any, Self

import msgspec
import pytest

from bridge_core.http1 import Exchange, Pool
from bridge_core.mesh_picture import AlertPicture
from bridge_core.recent import Recent
from bridge_registry.console import pages, streams
from tests.console_bed import HOSTILE, Console, console, node, picture
from tests.support import eventually

CANONICAL = "registry.ollama.ai/library/m:latest"


@pytest.fixture
async def bed() -> AsyncIterator[Console]:
    async with console(picture(node(1), node(2))) as made:
        yield made


class Reader:
    """Reads server-sent events."""

    def __init__(self, bed: Console, last: str = "") -> None:
        self._bed = bed
        self._last = last

    async def __aenter__(self) -> Self:
        self._in, self._out = await asyncio.open_connection("127.0.0.1", self._bed.port)
        more = f"last-event-id: {self._last}\r\n" if self._last else ""
        self._out.write(f"GET /console/api/stream HTTP/1.0\r\nhost: localhost\r\n{more}\r\n".encode())
        self.head = (await self._in.readuntil(b"\r\n\r\n")).decode()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._out.close()

    async def next(self) -> tuple[str, str, Any]:
        """Event, id and data of the next one."""
        async with asyncio.timeout(30):
            while True:
                block = (await self._in.readuntil(b"\n\n")).decode()
                fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
                if "data" in fields:
                    return fields["event"], fields.get("id", ""), json.loads(fields["data"])


async def get(
    bed: Console, path: str, *headers: tuple[bytes, bytes]
) -> tuple[int, dict[bytes, bytes], bytes]:
    pool = Pool(("127.0.0.1", bed.port))
    try:
        async with pool.request("GET", path, headers) as response:
            return response.status, dict(response.headers.pairs), await response.read(1 << 20)
    finally:
        await pool.close()


async def test_a_page_gets_the_whole_and_then_what_changes(bed: Console) -> None:
    async with Reader(bed) as reader:
        kind, _, data = await reader.next()
        assert (kind, sorted(data["parts"])[:2]) == ("whole", ["model/smollm2:135m", "model/tiny:latest"])
        assert data["parts"]["node/node2"]["state"] == "serving"
        bed.show(picture(node(1), node(2, "away")))
        kind, _, data = await reader.next()
        assert (kind, set(data["parts"])) == ("change", {"node/node2"})
        assert [one["kind"] for one in data["events"]] == ["node_away"]
        bed.show(picture(node(1)))
        _, _, data = await reader.next()
        assert data["removed"] == ["node/node2"]
    await eventually(lambda: bed.streams.open == 0)


async def test_who_comes_back_is_told_what_it_missed_alone(bed: Console) -> None:
    async with Reader(bed) as reader:
        _, last, _ = await reader.next()
    bed.show(picture(node(1, busy=3), node(2)))
    async with Reader(bed, last) as reader:
        kind, _, data = await reader.next()
        assert (kind, set(data["parts"])) == ("change", {"node/node1"})


@pytest.mark.parametrize("last", ["other-1-0", "x", "", "-1-1", "9" * 5000])
async def test_whoever_says_what_is_not_known_gets_all(bed: Console, last: str) -> None:
    async with Reader(bed, last) as reader:
        kind, _, data = await reader.next()
    assert kind == "whole"
    assert "node/node1" in data["parts"]


async def test_a_page_that_nothing_changes_for_is_pinged(bed: Console) -> None:
    async with Reader(bed) as reader:
        await reader.next()
        bed.streams.tell(1e12)
        assert (await reader.next())[0] == "ping"


async def test_too_many_pages_are_refused(bed: Console) -> None:
    async with Reader(bed) as first:
        await first.next()
        readers = [await Reader(bed).__aenter__() for _ in range(streams.MOST - 1)]
        async with Reader(bed) as last:
            assert " 503 " in last.head
        for one in readers:
            await one.__aexit__()


async def test_the_page_runs_nothing_but_its_own_files(bed: Console) -> None:
    status, headers, body = await get(bed, "/console/")
    assert status == 200
    policy = headers[b"content-security-policy"]
    assert b"default-src 'none'" in policy
    assert b"unsafe" not in policy
    assert b"<style" not in body
    assert b"onload" not in body
    for name in ("app.js", "console.css", "icon.svg", "vendor-preact-htm.js"):
        status, headers, _ = await get(bed, f"/console/{name}")
        assert (status, headers[b"x-content-type-options"]) == (200, b"nosniff")
    assert (await get(bed, "/console/README.md"))[0] == 404
    assert (await get(bed, "/console/../app.py"))[0] == 404
    status, headers, _ = await get(bed, "/")
    assert (status, headers[b"location"]) == (302, b"/console/")


async def test_pages_of_other_sites_get_nothing(bed: Console) -> None:
    assert (await get(bed, "/console/api/hour", (b"origin", b"http://evil.example")))[0] == 403
    assert (await get(bed, "/console/api/hour", (b"host", b"evil.example")))[0] == 403


async def test_the_files_are_small_and_the_vendored_one_is_the_one_that_is_named() -> None:
    shared = files("bridge_core") / "page"
    for package in ("bridge_registry.console", "bridge_agent.view"):
        folder = files(package) / "page"
        own = {one.name: len(one.read_bytes()) for one in folder.iterdir()}
        sizes = own | {one.name: len(one.read_bytes()) for one in shared.iterdir()}
        assert sum(sizes.values()) < 150_000
        assert {one.name for one in shared.iterdir()} & own.keys() <= {"README.md"}, "no second copy"
    digest = hashlib.sha256((shared / "vendor-preact-htm.js").read_bytes()).hexdigest()
    assert digest in (shared / "README.md").read_text()


async def test_the_hour_the_history_and_no_requests(bed: Console) -> None:
    bed.busy_hour()
    hour = json.loads((await get(bed, "/console/api/hour"))[2])
    assert len(hour) == 60
    assert set(hour[0][1]) == {"smollm2:135m", "tiny:latest"}
    day = json.loads((await get(bed, "/console/api/day"))[2])
    assert sum(cell[2] for _, cells in day for cell in cells if cell[0] == "tiny:latest") > 60
    (revision,) = json.loads((await get(bed, "/console/api/history"))[2])
    assert (revision["number"], revision["author"]) == (7, "spiffe://lab/admin/ann")
    assert json.loads((await get(bed, "/console/api/requests"))[2]) == {
        "requests": [],
        "nodes": 0,
        "asked": 0,
    }
    assert json.loads((await get(bed, "/console/api/explain?id=x"))[2])["hops"] == []


@pytest.mark.parametrize("nonsense", [b"", b"{", b"[1]", b'[{"at": "now"}]', b"[" * 100_000, b"\xff"])
async def test_a_node_that_answers_nonsense_is_left_out_alone(nonsense: bytes) -> None:
    one = Recent("r1", 5.0, "good", "", "/api/chat", CANONICAL, "", "good/0", 200, "ok", 1, 1.0, 2.0, 3)

    def good(exchange: Exchange) -> None:
        exchange.respond(200, (), msgspec.json.encode([one] if "recent" in exchange.request.path else []))

    answers = {"bad": lambda exchange: exchange.respond(200, (), nonsense), "good": good}
    async with console(picture(), answers) as bed:
        told = json.loads((await get(bed, "/console/api/requests"))[2])
        assert (told["nodes"], told["asked"]) == (1, 2)
        assert told["requests"] == [{**msgspec.to_builtins(one), "model": "m:latest"}]
        assert json.loads((await get(bed, "/console/api/explain?id=x"))[2]) == {"hops": [], "nodes": 1}


async def test_a_hostile_name_stays_one_line_of_data(bed: Console) -> None:
    bad = msgspec.structs.replace(node(3), name=HOSTILE, version="\n\nevent: whole\ndata: {}\n\n")
    async with Reader(bed) as reader:
        await reader.next()
        bed.show(picture(bad))
        kind, _, data = await reader.next()
        assert kind == "change"
        assert data["parts"][f"node/{HOSTILE}"]["version"] == bad.version
    assert pages.ROOT == "/console"


async def test_alerts_come_and_go_as_pieces_of_their_own_and_a_hostile_one_is_data(bed: Console) -> None:
    bad = AlertPicture(
        f"full@{HOSTILE}", HOSTILE, "critical", HOSTILE, HOSTILE, 5, command=HOSTILE, well=HOSTILE
    )
    async with Reader(bed) as reader:
        await reader.next()
        bed.show(picture(node(1), node(2), alerts=(bad,)))
        kind, _, data = await reader.next()
        assert (kind, set(data["parts"])) == ("change", {f"alert/{bad.name}"})
        assert data["parts"][f"alert/{bad.name}"] == msgspec.to_builtins(bad)
        bed.show(picture(node(1), node(2)))
        assert (await reader.next())[2]["removed"] == [f"alert/{bad.name}"]
