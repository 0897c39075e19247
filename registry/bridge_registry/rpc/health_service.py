"""What admins ask of health."""

# ruff: noqa: N802 - the methods are named by gRPC

from __future__ import annotations

from collections.abc import Callable

from bridge_core.snapshot import Instance, Snapshot
from bridge_core.verdicts import Verdict
from bridge_registry.alerts.alert_rules import Alert
from bridge_registry.alerts.desk import AlertDesk
from bridge_registry.health.keeper import HealthKeeper
from bridge_registry.rpc.gate import Context, Gate
from bridge_wire.v1 import health_pb2 as pb
from bridge_wire.v1 import health_pb2_grpc as rpc


class HealthService(rpc.HealthServicer):
    """See health.proto.

    Args:
        gate: Admits calls.
        keeper: Has the verdicts.
        desk: Has the alerts.
        snapshot: The published one.
        check_serving: Raises Unavailable when another registry leads: nodes report there.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        gate: Gate,
        keeper: HealthKeeper,
        desk: AlertDesk,
        snapshot: Callable[[], Snapshot],
        *,
        check_serving: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self._gate = gate
        self._keeper = keeper
        self._desk = desk
        self._snapshot = snapshot
        self._check_serving = check_serving
        self._now = now

    async def Instances(self, request: pb.InstancesRequest, context: Context) -> pb.InstancesResponse:
        """See health.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            self._check_serving()
            now, verdicts = self._now(), {one.instance: one for one in self._keeper.verdicts()}
            return pb.InstancesResponse(
                instances=[
                    self._instance(one, verdicts.get(one.id), now)
                    for one in self._snapshot().instances.values()
                    if request.node in {"", one.node}
                ],
                nodes=[
                    pb.NodeGauges(
                        node=node,
                        gauges=[
                            pb.Gauge(name=one.name, of=one.of, value=one.value, limit=one.limit)
                            for one in heard.gauges
                        ],
                    )
                    for node, heard in sorted(self._keeper.heard.items())
                    if request.node in {"", node} and self._keeper.reports(node, now)
                ],
            )

    async def Alerts(self, request: pb.AlertsRequest, context: Context) -> pb.AlertsResponse:
        """See health.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            self._check_serving()
            return pb.AlertsResponse(
                alerts=[_alert(one) for one in self._desk.alerts if request.past or not one.ended],
            )

    def _instance(self, one: Instance, verdict: Verdict | None, now: float) -> pb.InstanceVerdict:
        reports = self._keeper.reports(one.node, now)
        level = verdict.level if verdict is not None else "ok" if reports else "unknown"
        return pb.InstanceVerdict(
            instance=one.id,
            node=one.node,
            level=level,
            out=verdict is not None and verdict.out,
            reasons=[
                pb.HealthReason(
                    aspect=reason.aspect,
                    code=reason.code,
                    level=reason.level,
                    text=reason.text,
                    since_unix=reason.since,
                )
                for reason in (verdict.reasons if verdict is not None else ())
            ],
            compared=self._keeper.compared(one.id),
        )


def _alert(one: Alert) -> pb.Alert:
    seen = one.seen
    return pb.Alert(
        id=seen.id,
        name=seen.name,
        severity=seen.severity,
        node=seen.node,
        instance=seen.instance,
        summary=seen.summary,
        since_unix=one.since,
        ended_unix=one.ended,
        command=seen.command,
        well=seen.well,
        silenced=one.silenced,
    )
