"""Scrapes of an agent's metrics: what renders them is loaded once, whoever asks first."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from bridge_agent.gateway.counters import GatewayCounters
from bridge_agent.telemetry.scrapes import Scrapes
from bridge_agent.telemetry.sources import Sources
from bridge_core.audit.queue import AuditLog
from bridge_core.http1 import coroutine_app, serve
from bridge_core.snapshot import Snapshot, Version


async def test_those_who_scrape_first_and_at_once_are_all_answered(tmp_path: Path) -> None:
    counters = GatewayCounters()
    sources = Sources(
        counters=counters,
        ejections=dict,
        links=tuple,
        snapshot=lambda: Snapshot(Version(2, 9), {}),
        instances=tuple,
        expires_unix=dict,
        audit=AuditLog(tmp_path, "m.local/node/n", lambda record, _: (record,), capacity=1),
    )
    scrapes = Scrapes(sources)
    async with asyncio.TaskGroup() as group:
        server = await serve(coroutine_app(scrapes.answer, group), name="admin", host="127.0.0.1", port=0)
        url = f"http://127.0.0.1:{server.port}/metrics"
        try:
            async with httpx.AsyncClient(timeout=60) as client:
                answers = await asyncio.gather(*(client.get(url) for _ in range(4)))
                page = await scrapes._page.get()
                counters.attempts_failed["n/0", "connect"] += 2
                later = await client.get(url)
        finally:
            await server.close(0.0)
    for answer in answers:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "bridge_snapshot_revision 9.0" in answer.text
    assert 'bridge_attempts_failed_total{failure="connect",instance="n/0"} 2.0' in later.text
    assert await scrapes._page.get() is page
