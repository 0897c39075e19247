"""Spans of two nodes, read back from a real OpenTelemetry collector."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge_agent.audit.rendering import audited
from bridge_agent.tracing.made import tracing_of
from bridge_agent.tracing.section import TracesSection
from tests.contract.gateway_bed import mesh
from tests.fakes.recorded_engine import RecordedEngine
from tests.ports import free_port
from tests.support import eventually

PROGRAM = os.environ.get("BRIDGE_TEST_OTELCOL") or shutil.which("otelcol")
pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no otelcol on PATH, and BRIDGE_TEST_OTELCOL names none"),
    pytest.mark.timeout(300),
]
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CONFIG = """
receivers: {otlp: {protocols: {http: {endpoint: "127.0.0.1:PORT"}}}}
exporters: {debug: {verbosity: detailed}}
service:
  telemetry: {metrics: {level: none}}
  pipelines: {traces: {receivers: [otlp], exporters: [debug]}}
"""


@pytest.fixture
async def collector(tmp_path: Path) -> AsyncIterator[tuple[int, Path]]:
    """Its port, and the file that tells what it took."""
    port, config, said = free_port(), tmp_path / "collector.yaml", tmp_path / "collector.log"
    config.write_text(CONFIG.replace("PORT", str(port)))
    with said.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(PROGRAM), "--config", f"file:{config}", stdout=log, stderr=log
        )
    try:
        await eventually(lambda: "Everything is ready" in said.read_text(), 60)
        yield port, said
    finally:
        process.terminate()
        await process.wait()


async def test_both_nodes_spans_are_of_the_client_s_trace(
    collector: tuple[int, Path], tmp_path: Path
) -> None:
    port, said = collector
    section = TracesSection(endpoint=f"http://127.0.0.1:{port}/v1/traces")
    made = {name: tracing_of(section, name, "bed.local", random.Random(name)) for name in "ab"}
    parts = {name: one for name, one in made.items() if one is not None}
    engines = {"a": RecordedEngine(()), "b": RecordedEngine()}
    async with mesh(tmp_path, engines, tracers={name: one.tracer for name, one in parts.items()}) as bed:
        for name, one in parts.items():
            bed[name].gateway.on_record(
                lambda record, _, take=one.maker.take: take(record, audited(record, time.time()))
            )
        sending = [asyncio.create_task(one.exporter.run()) for one in parts.values()]
        given = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=a"}
        assert (await bed["a"].infer(headers=given)).status == 200
        await eventually(lambda: all(one.queue.sent == 1 for one in parts.values()))
        for task in sending:
            task.cancel()
        await asyncio.wait(sending)
    text = await eventually(lambda: found if (found := said.read_text()).count("Span #") == 2 else "")
    assert re.findall(r"Trace ID +: (\w+)", text) == [TRACE, TRACE]
    parents, ids = re.findall(r"Parent ID +: (\w+)", text), re.findall(r"\n +ID +: (\w+)", text)
    entry = parents.index(SPAN)
    assert parents[1 - entry] == ids[entry]
    assert text.count("TraceState     : vendor=a") == 2
    assert text.count("-> gen_ai.operation.name: Str(chat)") == 2
