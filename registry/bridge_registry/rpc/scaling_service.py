"""What admins, and KEDA on behalf of a cluster, ask of the autoscaler.

KEDA calls as any admin does, with a certificate; the role viewer is enough. It asks whichever registry it was
pointed at: one that does not lead answers UNAVAILABLE and names the leader, so a Service in front of several
should have their readiness decide, or KEDA is given the leader's name.
"""

# ruff: noqa: N802 - the methods are named by gRPC

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from bridge_core.errors import BridgeError
from bridge_registry.rpc.gate import Context, Gate
from bridge_registry.scaling import outside_rules
from bridge_registry.scaling.controller import TICK_S, ScalingController, Standing
from bridge_registry.scaling.outside_rules import Asked
from bridge_registry.scaling.placement_rules import way_of
from bridge_registry.scaling.plan import ScalingPosition
from bridge_wire.v1 import externalscaler_pb2 as keda
from bridge_wire.v1 import externalscaler_pb2_grpc as keda_rpc
from bridge_wire.v1 import scaling_pb2 as pb
from bridge_wire.v1 import scaling_pb2_grpc as rpc


class ScalingService(rpc.ScalingServicer):
    """See scaling.proto.

    Args:
        gate: Admits calls.
        controller: Knows.
    """

    def __init__(self, gate: Gate, controller: ScalingController) -> None:
        self._gate = gate
        self._controller = controller

    async def Autoscaling(self, request: pb.AutoscalingRequest, context: Context) -> pb.AutoscalingResponse:
        """See scaling.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            found = [one for one in self._controller.standings() if request.policy in {"", one.plan.name}]
            if request.policy and not found:
                raise _unknown(request.policy)
            return pb.AutoscalingResponse(policies=[_message(one) for one in found])


class ExternalScalerService(keda_rpc.ExternalScalerServicer):
    """See externalscaler.proto.

    Args:
        gate: Admits calls.
        controller: Knows.
    """

    def __init__(self, gate: Gate, controller: ScalingController) -> None:
        self._gate = gate
        self._controller = controller

    async def IsActive(self, request: keda.ScaledObjectRef, context: Context) -> keda.IsActiveResponse:
        """Whether there is to be any pod."""
        async with self._gate.admit(context, "admin", role="viewer"):
            _, standing = self._asked(request)
            return keda.IsActiveResponse(result=outside_rules.is_active(standing.position))

    async def StreamIsActive(self, request: keda.ScaledObjectRef, context: Context) -> None:
        """The same, whenever it changes: a wake does not wait for KEDA's polling."""
        async with self._gate.admit(context, "admin", role="viewer"):
            said: bool | None = None
            while self._gate.still_admitted(context, "admin"):
                _, standing = self._asked(request)
                active = outside_rules.is_active(standing.position)
                if active != said:
                    await context.write(keda.IsActiveResponse(result=active))
                    said = active
                await asyncio.sleep(TICK_S)

    async def GetMetricSpec(
        self, request: keda.ScaledObjectRef, context: Context
    ) -> keda.GetMetricSpecResponse:
        """What is measured, and what of it one pod stands for."""
        async with self._gate.admit(context, "admin", role="viewer"):
            return _spec(*self._asked(request))

    async def StreamMetricSpec(self, request: keda.ScaledObjectRef, context: Context) -> None:
        """The same at once and whenever it changes."""
        async with self._gate.admit(context, "admin", role="viewer"):
            said: keda.GetMetricSpecResponse | None = None
            while self._gate.still_admitted(context, "admin"):
                found = _spec(*self._asked(request))
                if found != said:
                    await context.write(found)
                    said = found
                await asyncio.sleep(TICK_S)

    async def GetMetrics(self, request: keda.GetMetricsRequest, context: Context) -> keda.GetMetricsResponse:
        """What there is of it now. UNAVAILABLE where that is not known: KEDA then holds."""
        async with self._gate.admit(context, "admin", role="viewer"):
            asked, standing = self._asked(request.scaledObjectRef)
            if request.metricName not in {"", asked.metric_name}:
                raise BridgeError(
                    f"there is no metric {request.metricName[:100]!r} here, there is {asked.metric_name}"
                )
            found = outside_rules.value(asked, standing.position)
            # The whole number is for KEDA before 2.9.
            one = keda.MetricValue(
                metricName=asked.metric_name, metricValue=round(found), metricValueFloat=found
            )
            return keda.GetMetricsResponse(metricValues=[one])

    def _asked(self, request: keda.ScaledObjectRef) -> tuple[Asked, Standing]:
        asked = outside_rules.asked_of(dict(request.scalerMetadata))
        return asked, _named(self._controller.standings(), asked.policy)


def _spec(asked: Asked, standing: Standing) -> keda.GetMetricSpecResponse:
    size = outside_rules.target(asked, standing.plan, standing.sight)
    one = keda.MetricSpec(metricName=asked.metric_name, targetSize=max(1, round(size)), targetSizeFloat=size)
    return keda.GetMetricSpecResponse(metricSpecs=[one])


def _named(standings: Iterable[Standing], name: str) -> Standing:
    for one in standings:
        if one.plan.name == name:
            return one
    raise _unknown(name)


def _unknown(name: str) -> BridgeError:
    return BridgeError(
        f"there is no AutoscalePolicy {name[:100]!r}, or it has only just been applied",
        hint="`bridgectl autoscale status` lists them",
    )


def _message(standing: Standing) -> pb.AutoscaleStatus:
    plan, position, sight = standing.plan, standing.position, standing.sight
    return pb.AutoscaleStatus(
        policy=plan.name,
        model=plan.model,
        min=plan.min,
        max=plan.max,
        wanted=position.wanted,
        unmet=position.unmet,
        floor=position.floor,
        needed_slots=max(0.0, position.need),
        queued=position.queued,
        target=plan.target,
        reason=position.reason,
        paused=plan.paused,
        lead_seconds=position.leads,
        last_out_unix=int(position.out_at),
        last_in_unix=int(position.in_at),
        instances=[
            pb.ScaledInstance(
                instance=one.id,
                part=_part(one.id, position),
                way=_way(one.id, position) or way_of(one, position, position.measured_at),
                slots=one.slots,
                in_flight=one.in_flight,
                queued=one.queued,
                loaded=one.loaded,
                available=one.available,
                known=one.known,
                node_class=one.node_class,
                since_unix=_since(one.id, position),
            )
            for one in sight.instances
        ],
    )


def _part(instance: str, position: ScalingPosition) -> str:
    if instance in position.active:
        return "active"
    if instance in position.loading:
        return "loading"
    return "warm" if instance in position.warm else "idle"


def _way(instance: str, position: ScalingPosition) -> str:
    load = position.loading.get(instance)
    return "" if load is None else load.way


def _since(instance: str, position: ScalingPosition) -> int:
    load = position.loading.get(instance)
    return int(load.since if load is not None else position.warm.get(instance, 0.0))
