"""What a node tells of its last requests, and whom."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import pytest

from bridge_agent.gateway import recent
from bridge_core.clients import Admin
from bridge_core.http1 import Pool
from bridge_core.snapshot import encode_entry
from tests.contract.gateway_bed import Bed, foreign_context, mesh
from tests.fakes.recorded_engine import RecordedEngine

SECRET = "what nobody else is to read"


async def told(bed: Bed, name: str, context: ssl.SSLContext, query: str = "") -> tuple[int, Any]:
    pool = Pool(("127.0.0.1", bed[name].peer.port), ssl=context)
    try:
        async with pool.request("GET", f"{recent.PATH}{query}") as response:
            body = await response.read()
            return response.status, json.loads(body) if response.status == 200 else body
    finally:
        await pool.close()


async def test_registries_and_admins_are_told_who_asked_for_what_and_never_the_words(tmp_path: Path) -> None:
    engines = {"a": RecordedEngine(("other",)), "b": RecordedEngine(("smollm2:135m",))}
    async with mesh(tmp_path, engines) as bed:
        bed.entries["admin/root"] = encode_entry(Admin("root"))
        bed.publish()
        asked = {"model": "smollm2:135m", "messages": [{"role": "user", "content": SECRET}]}
        for id_ in ("one", "two"):
            assert (await bed["a"].ask("POST", "/api/chat", asked, {"X-Request-Id": id_})).status == 200
        registry = foreign_context(tmp_path, "registry", "r1")
        status, requests = await told(bed, "a", registry)
        assert status == 200
        newest, oldest = requests
        assert (newest["id"], oldest["id"]) == ("two", "one")
        assert (newest["entry"], newest["path"], newest["status"], newest["outcome"]) == (
            "a",
            "/api/chat",
            200,
            "ok",
        )
        assert newest["instance"].startswith("b/")
        assert 0 <= newest["ttft_ms"] <= newest["total_ms"]
        assert SECRET not in json.dumps(requests)
        # A forwarded one is its entry's to tell.
        assert await told(bed, "b", registry) == (200, [])
        for query, count in (("?most=1", 1), ("?most=x", 2), ("?most=99999999", 2), ("?most=-1", 2)):
            assert len((await told(bed, "a", registry, query))[1]) == count
        assert (await told(bed, "a", foreign_context(tmp_path, "admin", "root")))[0] == 200


@pytest.mark.parametrize(("kind", "name"), [("node", "x"), ("admin", "stranger"), ("client", "ann")])
async def test_nobody_else_is_told(tmp_path: Path, kind: str, name: str) -> None:
    async with mesh(tmp_path, {"a": RecordedEngine(("smollm2:135m",))}) as bed:
        status, _ = await told(bed, "a", foreign_context(tmp_path, kind, name))
        assert status in {400, 403}
