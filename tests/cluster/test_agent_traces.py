"""Traces of an agent as a process: from what `agent.json` says to the collector."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from bridge_agent.config import save_config
from bridge_agent.tracing.section import TracesSection
from bridge_core.http1 import Pool
from tests.cluster.agent_bed import AgentBed, open_agent_bed
from tests.fakes.collector import collecting
from tests.support import eventually

pytestmark = pytest.mark.cluster
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SECRET = "s3cret-of-the-tenant"


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[AgentBed]:
    async with open_agent_bed(tmp_path) as bed:
        yield bed


async def test_a_request_is_a_span_that_its_log_names_and_no_secret_is_told(
    bed: AgentBed, tmp_path: Path
) -> None:
    headers = tmp_path / "headers"
    headers.write_text(f"Authorization: Bearer {SECRET}\n")
    headers.chmod(0o600)
    async with collecting() as collector:
        traces = TracesSection(endpoint=collector.url, headers=str(headers))
        save_config(bed.state, msgspec.structs.replace(bed.settings, traces=traces))
        agent = bed.start()
        await agent.ready()
        host, _, port = agent.settings.listeners.http.rpartition(":")
        pool = Pool((host, int(port)))
        bed.engine.release.set()
        for number in (1, 2):
            pairs = [(b"traceparent", b"00-%b-%016x-01" % (TRACE.encode(), number))]
            body = b'{"model":"held","prompt":"my diagnosis is private"}'
            async with pool.request("POST", "/api/generate", pairs, body) as response:
                assert response.status == 200
                await response.read(1 << 20)
        await pool.close()
        await eventually(lambda: len(collector.spans) == 2)
        metrics = (await agent.get("/metrics"))[1].decode()
        assert 'bridge_trace_spans_dropped_total{reason="queue"} 0.0' in metrics
        agent.process.send_signal(signal.SIGTERM)
        assert await agent.ended() == 0
        first, second = sorted(collector.spans, key=lambda one: str(one["parentSpanId"]))
    assert (first["parentSpanId"], second["parentSpanId"]) == (f"{1:016x}", f"{2:016x}")
    assert {first["traceId"], second["traceId"]} == {TRACE}
    lines = [one for one in agent.records() if one.get("event.dataset") == "bridge.requests"]
    assert [(one["trace.id"], one["span.id"]) for one in lines] == [
        (TRACE, first["spanId"]),
        (TRACE, second["spanId"]),
    ]
    assert {asked[b"authorization"] for asked in collector.asked} == {f"Bearer {SECRET}".encode()}
    told = agent.log.read_text() + metrics + str(collector.spans)
    assert SECRET not in told
    assert "diagnosis" not in told
