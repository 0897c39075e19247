"""Alerts from rule to receiver: a registry, a node that reports, a receiver behind HTTP, and a fail-over."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from bridge_cli.alerting_commands import status_lines
from bridge_cli.silence_commands import silence_lines
from bridge_core import keyspace
from bridge_core.http1 import Exchange, serve
from bridge_core.store.api import KeyValue
from bridge_wire.v1 import alerting_pb2, health_pb2
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1.alerting_pb2_grpc import AlertingStub
from tests.fakes.store import FakeEtcd, FakeStore
from tests.registry_bed import Bed, Node, make_settings, refused, running
from tests.support import eventually

pytestmark = pytest.mark.timeout(400)  # on a machine that does much else

BRIDGECTL = str(Path(sys.executable).with_name("bridgectl"))


class Hook:
    """A receiver of webhooks that can be away."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.status = 200

    def __call__(self, exchange: Exchange) -> None:
        if self.status == 200:
            self.messages.append(json.loads(exchange.request.body))
        exchange.respond(self.status, (), b"so it is")

    def told(self, status: str) -> list[str]:
        """Names of alerts that it was told of with this status, in order; those of the rule alone."""
        return [
            one["labels"]["of"]
            for message in self.messages
            for one in message["alerts"]
            if one["labels"]["alertname"] == "full" and one["status"] == status
        ]


@contextlib.asynccontextmanager
async def receiver() -> AsyncIterator[tuple[Hook, str]]:
    hook = Hook()
    server = await serve(hook, name="hook", host="127.0.0.1", port=0)
    try:
        yield hook, f"http://127.0.0.1:{server.port}/hook"
    finally:
        await server.close(0.0)


def documents(url: str) -> str:
    return f"""\
apiVersion: bridge.deepseek.io/v1
kind: AlertRule
metadata: {{name: full}}
spec: {{figure: disk_used_bytes, above: 90%, clear: 80%, for: 0s, severity: critical, receivers: [hook]}}
---
apiVersion: bridge.deepseek.io/v1
kind: AlertReceiver
metadata: {{name: hook}}
spec:
  type: webhook
  url: {url}
  severities: [critical]
  groupWait: 0s
  groupInterval: 1s
  allowPrivateAddress: true
"""


async def apply(bed: Bed, text: str) -> list[str]:
    async with bed.admin() as admin:
        answer = await admin.Apply(pb.ApplyRequest(files=[pb.ConfigFile(name="a.yaml", text=text)]))
        return [one.message for one in answer.faults]


async def status(bed: Bed) -> list[str]:
    """What `bridgectl alerting status` says."""
    cert, key = (path.read_bytes() for path in bed.registry.settings.pki.pair("admin"))
    async with bed.called_by(cert, key) as channel:
        answer = await AlertingStub(channel).AlertingStatus(alerting_pb2.AlertingStatusRequest())
    return list(status_lines(answer))


class Disk:
    """A node that reports how full its disks are, until the end of the block."""

    def __init__(self, node: Node, **used: float) -> None:
        self.node, self.used = node, used

    async def report(self, bed: Bed) -> None:
        async with self.node.mesh(bed) as mesh:
            call = mesh.ReportLoad()
            while True:
                gauges = [
                    health_pb2.Gauge(name="disk_used_bytes", of=of, value=share * 1000, limit=1000)
                    for of, share in self.used.items()
                ]
                await call.write(pb.LoadReport(began_unix_ms=1, gauges=gauges))
                await asyncio.sleep(0.2)  # as agents do, if faster

    @contextlib.asynccontextmanager
    async def reporting(self, bed: Bed) -> AsyncIterator[None]:
        task = asyncio.create_task(self.report(bed))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_full_disk_is_told_of_once_and_its_end_and_what_silence_means(
    bed: Bed, etcd: FakeEtcd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGE_CONTEXT", str(tmp_path / "none/context.json"))
    pki = bed.registry.settings.pki
    cert, key = pki.pair("admin")
    where = ["--registry", bed.address, "--ca", str(pki.ca), "--cert", str(cert), "--key", str(key)]

    async def bridgectl(*argv: str, exits: int = 0) -> str:
        process = await asyncio.create_subprocess_exec(
            BRIDGECTL, *argv, *where, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await process.communicate()
        assert process.returncode == exits, said.decode()
        return said.decode()

    async with receiver() as (hook, url):
        hook.status = 503
        assert await apply(bed, documents(url)) == []
        disk = Disk(await bed.join("n1"), models=0.95, audit=0.5)
        async with disk.reporting(bed):
            courier = bed.registry.alerting.courier
            await eventually(lambda: any(one.failed for one in courier.tellings.values()), 90)
            assert any("it answered 503: so it is" in line for line in await status(bed))
            hook.status = 200
            await eventually(lambda: "models" in hook.told("firing"), 90)
            (alert,) = [one for one in bed.registry.alerting.desk.alerts if one.seen.rule]
            assert alert.seen.summary.startswith("node n1: disk_used_bytes of models was 95.0 % of 1000 B")
            told = await bridgectl("alerting", "explain", "full", exits=1)
            assert "full: critical where disk_used_bytes is above 90 %" in told
            assert [line.split()[1:3] for line in told.splitlines()[2:]] == [
                ["models", "95.0"],
                ["audit", "50.0"],
            ]
            assert "hook took the test alert, it answered 200: so it is" in await bridgectl(
                "alerting", "test", "hook"
            )
            assert [one["alerts"][0]["labels"]["alertname"] for one in hook.messages].count("BridgeTest") == 1
            disk.used["models"] = 0.5
            async with bed.admin() as admin:
                await admin.Drain(pb.DrainRequest(node_name="n1", drained=True))
            await eventually(lambda: bed.registry.publisher.hub.current.nodes["n1"].state == "drained")
            disk.used["audit"] = 0.99
            await eventually(
                lambda: (
                    [one.silenced for one in bed.registry.alerting.desk.alerts if not one.ended]
                    == ["node n1 is drained"]
                ),
                90,
            )
            assert "audit" not in hook.told("firing")
            async with bed.admin() as admin:
                await admin.Drain(pb.DrainRequest(node_name="n1", drained=False))
            await eventually(lambda: hook.told("firing")[-1] == "audit", 90)
            await eventually(lambda: "models" in hook.told("resolved"), 90)
    metrics = "\n".join(
        f"{sample.name} {sample.labels} {sample.value:g}"
        for family in bed.registry.alert_figures.collect()
        for sample in family.samples
    )
    assert "bridge_alert_messages_total {'receiver': 'hook', 'outcome': 'delivered'}" in metrics
    assert "bridge_alerts_dropped_total {'receiver': 'hook'} 0" in metrics
    assert "bridge_alerts {'severity': 'critical'} 1" in metrics


async def test_what_somebody_silenced_is_shown_and_told_to_nobody_by_who_leads_next_neither(
    tmp_path: Path, etcd: FakeEtcd
) -> None:
    store = FakeStore(etcd)
    async with receiver() as (hook, url):
        settings = make_settings(tmp_path)
        async with running(settings, store) as bed:
            await bed.leads()
            assert await apply(bed, documents(url)) == []
            cert, key = (path.read_bytes() for path in settings.pki.pair("admin"))
            async with bed.called_by(cert, key) as channel:
                desk = AlertingStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as refusal:
                    await desk.Silence(alerting_pb2.SilenceRequest(matchers=["full"], seconds=3600))
                assert "a silence says why" in str(refusal.value.details())
                asked = alerting_pb2.SilenceRequest(
                    matchers=["full", "of=~mod.*"], seconds=3600, reason="a new disk is on its way"
                )
                made = (await desk.Silence(asked)).silence
            assert (made.by, made.reason, made.silences) == ("admin", "a new disk is on its way", 0)
            disk = Disk(await bed.join("n1"), models=0.95, audit=0.95)
            async with disk.reporting(bed):
                await eventually(lambda: "audit" in hook.told("firing"), 90)
                found = {one.seen.of: one.silenced for one in bed.registry.alerting.desk.alerts}
                assert found["models"].startswith(f"silence {made.id} by admin until ")
                assert found["audit"] == ""
        async with running(settings, store) as bed:
            await bed.leads()
            async with disk.reporting(bed):
                await eventually(lambda: bed.registry.alerting.desk.silences.lasting != (), 90)
                async with bed.called_by(cert, key) as channel:
                    desk = AlertingStub(channel)
                    (kept,) = (await desk.Silences(alerting_pb2.SilencesRequest())).silences
                    assert (kept.id, list(kept.matchers)) == (made.id, ['alertname="full"', 'of=~"mod.*"'])
                    lines = list(silence_lines([kept], kept.made_unix))
                    assert lines[1].split()[:4] == [made.id, "60", "min", str(kept.silences)]
                    assert "models" not in hook.told("firing")
                    await desk.Unsilence(alerting_pb2.UnsilenceRequest(id=made.id))
                    with pytest.raises(grpc.aio.AioRpcError, match="there is no silence"):
                        await desk.Unsilence(alerting_pb2.UnsilenceRequest(id=made.id))
                await eventually(lambda: "models" in hook.told("firing"), 90)
            assert not [key for key in etcd.items if "silences/" in key]
    await store.close()


async def test_who_leads_next_tells_nobody_again(tmp_path: Path, etcd: FakeEtcd) -> None:
    store = FakeStore(etcd)
    async with receiver() as (hook, url):
        settings = make_settings(tmp_path)
        async with running(settings, store) as bed:
            await bed.leads()
            assert await apply(bed, documents(url)) == []
            disk = Disk(await bed.join("n1"), models=0.95)
            async with disk.reporting(bed):
                await eventually(lambda: "models" in hook.told("firing"), 90)
                stored = {keyspace.ALERTS + "told/hook", keyspace.ALERTS + "known"}
                await eventually(lambda: stored <= etcd.items.keys())
                (first,) = [one for one in bed.registry.alerting.desk.alerts if one.seen.rule]
        before = len(hook.messages)
        async with running(settings, store) as bed:
            await bed.leads()
            disk.used["audit"] = 0.99
            async with disk.reporting(bed):
                await eventually(lambda: "audit" in hook.told("firing"), 90)
            (kept,) = [one for one in bed.registry.alerting.desk.alerts if one.seen.id == first.seen.id]
            assert (kept.since, kept.ended) == (first.since, 0.0)
            again = [{one["labels"].get("of") for one in each["alerts"]} for each in hook.messages[before:]]
            assert all("audit" in told for told in again), (
                "with the new one all that lasts, nothing before that"
            )
    await store.close()


@pytest.mark.parametrize("nonsense", [b"", b"nonsense", b"\x28\xb5\x2f\xfd" + b"x" * 40])
async def test_records_that_do_not_decode_are_left_out(
    tmp_path: Path, etcd: FakeEtcd, nonsense: bytes
) -> None:
    for key in (keyspace.ALERTS + one for one in ("known", "told/hook", "silences/ab12")):
        etcd.items[key] = KeyValue(key, nonsense, 1, 1)
    store = FakeStore(etcd)
    async with running(make_settings(tmp_path), store) as bed, receiver() as (hook, url):
        await bed.leads()
        assert await apply(bed, documents(url)) == []
        async with Disk(await bed.join("n1"), models=0.95).reporting(bed):
            await eventually(lambda: set(hook.told("firing")) == {"models"}, 90)  # twice, where nobody knew
    await store.close()


async def test_faults_are_told_at_once_and_nodes_ask_in_vain(bed: Bed) -> None:
    faults = await apply(
        bed, documents("http://127.0.0.1/x").replace("90%", "2s").replace("  allowPri", "  ca: x\n  #")
    )
    assert len(faults) == 4
    node = await bed.join("n1")
    async with bed.called_by(node.cert_pem, node.key_pem) as channel:
        for call in (
            AlertingStub(channel).AlertingStatus(alerting_pb2.AlertingStatusRequest()),
            AlertingStub(channel).TryReceiver(alerting_pb2.TryReceiverRequest(receiver="x")),
            AlertingStub(channel).Silence(
                alerting_pb2.SilenceRequest(matchers=["x"], seconds=60, reason="r")
            ),
            AlertingStub(channel).Silences(alerting_pb2.SilencesRequest()),
            AlertingStub(channel).Unsilence(alerting_pb2.UnsilenceRequest(id="x")),
        ):
            assert (await refused(call))[0] is grpc.StatusCode.PERMISSION_DENIED
    cert, key = (path.read_bytes() for path in bed.registry.settings.pki.pair("admin"))
    async with bed.called_by(cert, key) as channel:
        stub = AlertingStub(channel)
        for call in (
            stub.AlertingStatus(alerting_pb2.AlertingStatusRequest(rule="x")),
            stub.TryReceiver(alerting_pb2.TryReceiverRequest(receiver="x")),
        ):
            assert "there is no Alert" in (await refused(call))[1]
    assert msgspec.json.encode(faults)
