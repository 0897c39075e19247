"""What a real Prometheus (Debian's `prometheus`) makes of an agent's metrics: it asks for OpenMetrics, and
keeps which request was as slow as a bucket says.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from bridge_agent.admin import admin_app
from bridge_agent.gateway.config import Caller, ListenerKind, Outcome, RequestRecord
from bridge_agent.gateway.counters import GatewayCounters
from bridge_agent.telemetry.metrics import metrics_of
from bridge_agent.telemetry.sources import Sources
from bridge_agent.tracing.context_rules import Trace
from bridge_core import exposition
from bridge_core.audit.queue import AuditLog
from bridge_core.errors import BridgeError
from bridge_core.http1 import Exchange, Pool, serve
from bridge_core.identity.principal import Principal
from bridge_core.snapshot import Snapshot, Version
from tests.ports import free_port
from tests.support import eventually

PROGRAM = shutil.which("prometheus")
pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no prometheus on PATH (Debian's package)"),
    pytest.mark.timeout(300),
]

CONFIG = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
storage: {{exemplars: {{max_exemplars: 1000}}}}
scrape_configs: [{{job_name: agent, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""
TRACE = "0af7651916cd43dd8448eb211c80319c"


def agent_metrics() -> CollectorRegistry:
    """Of an agent that has just answered a request."""
    counters, at = GatewayCounters(), time.monotonic()
    caller = Caller(Principal("client", "ann", "client:ann"), ListenerKind.TLS)
    counters.settled(
        RequestRecord(
            *("slow-1", caller, "POST", "/api/chat", "m:latest", 200, Outcome.OK),
            *(at - 3.0, at - 2.0, at - 1.0, at, None, "n/0", (), 1, 1),
            trace=Trace(TRACE.encode(), b"b7ad6b7169203331", sampled=True),
        )
    )
    return metrics_of(
        Sources(
            counters=counters,
            ejections=dict,
            links=tuple,
            snapshot=lambda: Snapshot(Version(1, 1), {}),
            instances=tuple,
            expires_unix=dict,
            audit=AuditLog(Path("unused"), "m/node/n", lambda record, _: (record,)),
        )
    )


@pytest.fixture
async def prometheus(tmp_path: Path) -> AsyncIterator[tuple[Pool, list[bytes]]]:
    """One that scrapes such an agent, and what it asks that for."""
    accepted = list[bytes]()
    app = admin_app(
        metrics=partial(exposition.answer, registry=agent_metrics()),
        report=lambda: None,  # type: ignore[arg-type, return-value]  # nobody asks for it here
        not_ready=lambda: "",
        own_name="n",
    )

    def noted(exchange: Exchange) -> None:
        accepted.append(exchange.request.headers.get(b"accept") or b"")
        app(exchange)

    server = await serve(noted, name="admin", host="127.0.0.1", port=0)
    config, port = tmp_path / "prometheus.yml", free_port()
    config.write_text(CONFIG.format(port=server.port))
    process = await asyncio.create_subprocess_exec(
        str(PROGRAM),
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    pool = Pool(("127.0.0.1", port))
    try:
        yield pool, accepted
    finally:
        await pool.close()
        process.terminate()
        await process.wait()
        await server.close(0.0)


async def test_it_keeps_which_request_was_so_slow(prometheus: tuple[Pool, list[bytes]]) -> None:
    pool, accepted = prometheus

    async def asked(path: str) -> list[Any]:
        try:
            async with pool.request("GET", f"/api/v1/{path}") as response:
                body = await response.read(1 << 20)
                return list(json.loads(body).get("data", ())) if response.status == 200 else []
        except (BridgeError, OSError):  # it starts still
            return []

    query = "query_exemplars?query=bridge_request_duration_seconds_bucket&start=0&end=9999999999"
    (series,) = await eventually(lambda: asked(query), 120)
    assert series["seriesLabels"]["le"] == "5.0"
    (exemplar,) = series["exemplars"]
    assert exemplar["labels"] == {"trace_id": TRACE, "request_id": "slow-1"}
    assert float(exemplar["value"]) == pytest.approx(3.0)
    assert abs(float(exemplar["timestamp"]) - time.time()) < 3600
    assert b"application/openmetrics-text" in accepted[0]
