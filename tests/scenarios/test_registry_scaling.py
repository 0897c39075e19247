"""Scaling through a registry's gRPC: from a policy to holders, what KEDA is told, and a new leader."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import msgspec
import pytest

from bridge_core import keyspace
from bridge_registry.scaling.plan import ScalingPosition
from bridge_wire.v1 import externalscaler_pb2 as keda
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1 import scaling_pb2 as scaling
from bridge_wire.v1.scaling_pb2_grpc import ScalingStub
from tests.fakes.store import FakeEtcd
from tests.fleet_bed import POLICY, Fleet, apply
from tests.registry_bed import Bed, refused


@pytest.fixture
async def fleet(bed: Bed, etcd: FakeEtcd) -> AsyncIterator[Fleet]:
    async with contextlib.AsyncExitStack() as stack:
        found = Fleet(bed, etcd)
        await found.begin(stack)
        yield found


def scaler(channel: grpc.aio.Channel) -> Any:
    """The service by its wire names alone, as a client that knows nothing of this project calls it."""

    class Calls:
        is_active = channel.unary_unary(
            "/externalscaler.ExternalScaler/IsActive",
            request_serializer=keda.ScaledObjectRef.SerializeToString,
            response_deserializer=keda.IsActiveResponse.FromString,
        )
        stream_is_active = channel.unary_stream(
            "/externalscaler.ExternalScaler/StreamIsActive",
            request_serializer=keda.ScaledObjectRef.SerializeToString,
            response_deserializer=keda.IsActiveResponse.FromString,
        )
        get_metric_spec = channel.unary_unary(
            "/externalscaler.ExternalScaler/GetMetricSpec",
            request_serializer=keda.ScaledObjectRef.SerializeToString,
            response_deserializer=keda.GetMetricSpecResponse.FromString,
        )
        stream_metric_spec = channel.unary_stream(
            "/externalscaler.ExternalScaler/StreamMetricSpec",
            request_serializer=keda.ScaledObjectRef.SerializeToString,
            response_deserializer=keda.GetMetricSpecResponse.FromString,
        )
        get_metrics = channel.unary_unary(
            "/externalscaler.ExternalScaler/GetMetrics",
            request_serializer=keda.GetMetricsRequest.SerializeToString,
            response_deserializer=keda.GetMetricsResponse.FromString,
        )

    return Calls


def asked(**metadata: str) -> keda.ScaledObjectRef:
    return keda.ScaledObjectRef(
        name="agents", namespace="bridge", scalerMetadata={"scalerAddress": "r:11400", **metadata}
    )


async def test_a_policy_has_instances_loaded_and_says_so_to_whoever_asks(bed: Bed, fleet: Fleet) -> None:
    await apply(bed)
    await fleet.until(lambda: len(fleet.holders.active) == 1)
    fleet.queued = dict.fromkeys(fleet.queued, 40)
    await fleet.until(lambda: len(fleet.holders.active) > 1)
    cert, key = bed._admin
    async with bed.called_by(cert, key) as channel:
        stub = ScalingStub(channel)  # type: ignore[no-untyped-call]  # generated
        (found,) = (await stub.Autoscaling(scaling.AutoscalingRequest(policy="p"))).policies
        assert (found.policy, found.model, found.min, found.max) == ("p", "m", 1, 3)
        assert found.wanted >= 1
        assert found.reason
        assert {one.part for one in found.instances} <= {"active", "loading", "warm", "idle"}
        assert found.lead_seconds["disk"] >= 0.0
        code, says = await refused(stub.Autoscaling(scaling.AutoscalingRequest(policy="q")))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "no AutoscalePolicy 'q'" in says


async def test_keda_is_told_what_is_wanted(bed: Bed, fleet: Fleet) -> None:
    await apply(bed)
    await fleet.until(lambda: len(fleet.holders.active) == 1)
    cert, key = bed._admin
    async with bed.called_by(cert, key) as channel:
        calls = scaler(channel)
        assert (await calls.is_active(asked(policy="p"))).result
        async for first in calls.stream_is_active(asked(policy="p")):
            assert first.result
            break
        (spec,) = (await calls.get_metric_spec(asked(policy="p"))).metricSpecs
        assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == ("bridge-instances-p", 1, 1.0)
        async for told in calls.stream_metric_spec(asked(policy="p")):
            assert list(told.metricSpecs) == [spec]
            break
        request = keda.GetMetricsRequest(scaledObjectRef=asked(policy="p"), metricName=spec.metricName)
        (value,) = (await calls.get_metrics(request)).metricValues
        assert (value.metricName, value.metricValue, value.metricValueFloat) == (spec.metricName, 1, 1.0)
        for metadata, says in [
            ({}, "policy is missing"),
            ({"policy": "q"}, "no AutoscalePolicy 'q'"),
            ({"policy": "p", "metric": "cpu"}, "'cpu' is none of"),
        ]:
            code, why = await refused(calls.get_metric_spec(asked(**metadata)))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert says in why
        other = keda.GetMetricsRequest(scaledObjectRef=asked(policy="p"), metricName="s0-cpu")
        assert (await refused(calls.get_metrics(other)))[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_node_s_certificate_moves_no_pods(bed: Bed, fleet: Fleet) -> None:
    node = fleet.nodes["n1"]
    async with bed.called_by(node.cert_pem, node.key_pem) as channel:
        code, _ = await refused(scaler(channel).is_active(asked(policy="p")))
        assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_what_is_not_known_yet_is_not_made_up(bed: Bed) -> None:
    await apply(bed)
    cert, key = bed._admin
    bed.registry.scaling._ticks = -1_000_000  # however often the registry itself ticks meanwhile
    async with bed.called_by(cert, key) as channel:
        code, _ = await refused(scaler(channel).is_active(asked(policy="p")))
        assert code is grpc.StatusCode.UNAVAILABLE


async def test_a_policy_that_cannot_be_saved_keeps_no_other_from_moving(
    bed: Bed, fleet: Fleet, etcd: FakeEtcd
) -> None:
    etcd.refused_prefix = keyspace.SCALING + "a"
    await apply(
        bed, f"{POLICY.replace('{name: p}', '{name: a}').replace('model: m', 'model: x')}---\n{POLICY}"
    )
    await fleet.until(lambda: keyspace.SCALING + "p" in etcd.items)
    assert keyspace.SCALING + "a" not in etcd.items


async def test_a_policy_that_is_removed_is_forgotten(bed: Bed, fleet: Fleet, etcd: FakeEtcd) -> None:
    await apply(bed)
    await fleet.until(lambda: len(fleet.holders.active) == 1)
    stored = etcd.items[keyspace.SCALING + "p"].value
    assert msgspec.json.decode(stored, type=ScalingPosition).active == fleet.holders.active
    async with bed.admin() as admin:
        route = pb.ConfigFile(
            name="r.yaml",
            text="apiVersion: bridge.deepseek.io/v1\nkind: ModelRoute\nmetadata: {name: c}\n"
            "spec: {backends: [{model: m}]}\n",
        )
        await admin.Apply(pb.ApplyRequest(files=[route], prune=True))
    await fleet.until(lambda: keyspace.SCALING + "p" not in etcd.items and not fleet.holders.policy)
