"""Forecasts asked of a registry, by `bridgectl` and over gRPC."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from bridge_cli.forecast_commands import forecast_lines
from bridge_cli.main import app
from bridge_core import gauges
from bridge_core.gauges import Gauge
from bridge_registry.forecasts.series import NOTHING
from bridge_registry.health.keeper import Heard
from bridge_registry.health.reported import NodeHealthReport
from bridge_wire.v1 import forecast_pb2
from bridge_wire.v1.forecast_pb2_grpc import ForecastsStub
from tests.registry_bed import Bed, refused
from tests.support import eventually

pytestmark = pytest.mark.timeout(400)  # on a machine that does much else


def watched(bed: Bed, node: str, *, fill: float) -> None:
    """Two hours of a node's disk, which fills by so much a minute, and of one that does not."""
    forecaster, snapshot = bed.registry.alerting.desk.forecaster, bed.registry.publisher.hub.current
    for minute in range(120):
        used = 0.2 + fill * minute
        told = (
            Gauge(gauges.DISK, "models", used * 1e12, 1e12),
            Gauge(gauges.DISK, "audit", 0.2e12, 1e12),
        )
        now, clock = time.time() + 60.0 * minute, time.monotonic()
        heard = {node: Heard(NodeHealthReport((), told), clock)}
        forecaster.look(gauges.DISK, snapshot, heard, (), now=now, clock=clock)


async def test_when_a_disk_is_full_is_said_by_command_and_call(
    bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGE_CONTEXT", str(tmp_path / "none/context.json"))
    pki = bed.registry.settings.pki
    cert, key = pki.pair("admin")
    where = ["--registry", bed.address, "--ca", str(pki.ca), "--cert", str(cert), "--key", str(key)]

    known = False

    async def bridgectl(*argv: str, exits: int = 0) -> str:
        # Who lost its office for a moment, on a busy machine, has forgotten.
        await eventually(lambda: bool(bed.registry.alerting.desk.term), 90)
        if known and not bed.registry.alerting.desk.forecasts():
            watched(bed, "n1", fill=0.005)
        ended = await asyncio.to_thread(CliRunner().invoke, app, ["forecast", *argv, *where])
        assert ended.exit_code == exits, ended.output
        return ended.stdout

    node = await bed.join("n1")
    await eventually(lambda: "n1" in bed.registry.publisher.hub.current.nodes, 90)
    assert (await bridgectl()).startswith("Nothing is known yet")
    known = True
    told = await bridgectl(exits=1)
    head, line, more = told.splitlines()
    assert head.split()[:3] == ["WHERE", "WHAT", "OF"]
    assert line.split()[:3] == ["n1", "disk", "models"]
    assert ", alert" in line
    assert more.startswith("2 series are watched")
    assert [one.split()[2] for one in (await bridgectl("n1", exits=1)).splitlines()[1:]] == [
        "models",
        "audit",
    ]
    first, second = json.loads(await bridgectl("--all", "--json", exits=1))["series"]
    assert first["raised"]
    assert first["earliestSeconds"] < 41 * 60 < first["latestSeconds"]
    assert "will be full in" in first["says"]
    assert "likelySeconds" not in second
    assert (await bridgectl("n2")).startswith("Nothing is known yet")
    for call_cert, call_key, status in (
        (node.cert_pem, node.key_pem, grpc.StatusCode.PERMISSION_DENIED),
        (cert.read_bytes(), key.read_bytes(), None),
    ):
        async with bed.called_by(call_cert, call_key) as channel:
            call = ForecastsStub(channel).Forecast(forecast_pb2.ForecastRequest())
            if status is None:
                assert [one.of for one in (await call).series] == ["models"]
            else:
                assert (await refused(call))[0] is status


def test_who_comes_to_no_limit_is_told_so_in_the_words_that_alerts_promise() -> None:
    one = forecast_pb2.SeriesForecast(figure="queue", node="b", instance="b/0", value=3, limit=512, hourly=-2)
    fast = forecast_pb2.SeriesForecast(figure="tokens_per_second", node="b", instance="b/0", value=40)
    now = forecast_pb2.SeriesForecast(
        figure="disk_used_bytes", node="b", limit=2**30, value=2**30, likely_seconds=0, earliest_seconds=0
    )
    said, head, *rows = forecast_lines(forecast_pb2.ForecastResponse(series=[one, fast], watched=2))
    assert said == NOTHING
    assert "not within a day" in rows[0]
    assert "has none" in rows[1]
    assert head.startswith("WHERE")
    _, row = forecast_lines(forecast_pb2.ForecastResponse(series=[now], watched=1))
    assert " now " in row
