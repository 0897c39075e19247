"""What admins ask of AlertRules and AlertReceivers."""

# ruff: noqa: N802 - the methods are named by gRPC

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from bridge_core.errors import BridgeError
from bridge_registry.alerts import silence_rules, threshold_rules
from bridge_registry.alerts.alert_rules import Alert, Seen
from bridge_registry.alerts.delivery_rules import ReceiverPlan, Telling
from bridge_registry.alerts.made import Alerting
from bridge_registry.alerts.threshold_rules import RulePlan, Watched
from bridge_registry.rpc.gate import Context, Gate
from bridge_wire.v1 import alerting_pb2 as pb
from bridge_wire.v1 import alerting_pb2_grpc as rpc

_SILENT_S: Final = 10.0


class AlertingService(rpc.AlertingServicer):
    """See alerting.proto.

    Args:
        gate: Admits calls.
        alerting: Knows.
        check_serving: Raises Unavailable when another registry leads.
    """

    def __init__(self, gate: Gate, alerting: Alerting, check_serving: Callable[[], None]) -> None:
        self._gate = gate
        self._alerting = alerting
        self._check_serving = check_serving

    async def AlertingStatus(
        self, request: pb.AlertingStatusRequest, context: Context
    ) -> pb.AlertingStatusResponse:
        """See alerting.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            self._check_serving()
            plans = [one for one in self._alerting.rules() if request.rule in {"", one.name}]
            if request.rule and not plans:
                raise BridgeError(
                    f"there is no AlertRule {request.rule[:80]!r}",
                    hint="`bridgectl alerting status` lists them",
                )
            desk, tellings = self._alerting.desk, self._alerting.courier.tellings
            return pb.AlertingStatusResponse(
                rules=[_rule(one, desk.watched(one.name), series=bool(request.rule)) for one in plans],
                receivers=[
                    _receiver(plan, tellings.get(name, Telling()))
                    for name, plan in sorted(self._alerting.receivers().items())
                ],
            )

    async def TryReceiver(self, request: pb.TryReceiverRequest, context: Context) -> pb.TryReceiverResponse:
        """See alerting.proto."""
        async with self._gate.admit(context, "admin", role="operator"):
            self._check_serving()
            plan = self._alerting.receivers().get(request.receiver)
            if plan is None:
                raise BridgeError(
                    f"there is no AlertReceiver {request.receiver[:80]!r}",
                    hint="`bridgectl alerting status` lists them",
                )
            answer = await self._alerting.courier.try_out(plan, _made_up(time.time()))
            return pb.TryReceiverResponse(taken=answer.taken, status=answer.status, says=answer.says)

    async def Silence(self, request: pb.SilenceRequest, context: Context) -> pb.SilenceResponse:
        """See alerting.proto."""
        async with self._gate.admit(context, "admin", role="operator") as peer:
            self._check_serving()
            made = await self._alerting.desk.silences.add(
                request.matchers,
                by=peer.identity.name if peer is not None else "",
                reason=request.reason,
                lasts_s=request.seconds,
            )
            return pb.SilenceResponse(silence=self._told([made])[0])

    async def Silences(self, request: pb.SilencesRequest, context: Context) -> pb.SilencesResponse:
        """See alerting.proto."""
        async with self._gate.admit(context, "admin", role="viewer"):
            self._check_serving()
            lasting = self._alerting.desk.silences.lasting
            return pb.SilencesResponse(silences=self._told(lasting))

    async def Unsilence(self, request: pb.UnsilenceRequest, context: Context) -> pb.UnsilenceResponse:
        """See alerting.proto."""
        async with self._gate.admit(context, "admin", role="operator"):
            self._check_serving()
            ended = await self._alerting.desk.silences.end(request.id)
            return pb.UnsilenceResponse(silence=self._told([ended])[0])

    def _told(self, silences: Sequence[silence_rules.Silence]) -> list[pb.AlertSilence]:
        return [
            pb.AlertSilence(
                id=one.id,
                matchers=map(str, one.matchers),
                by=one.by,
                reason=one.reason,
                made_unix=one.made,
                ends_unix=one.ends,
                silences=meant,
            )
            for one, meant in zip(silences, self._alerting.desk.meant_by(silences), strict=True)
        ]


def _made_up(now: float) -> Alert:
    summary = "this is a test: nothing is wrong, and somebody asked whether alerts arrive"
    seen = Seen("BridgeTest", "warning", "none", "", summary, "bridgectl alerts", "Nothing is wrong.")
    return Alert(seen, now, now)


def _rule(plan: RulePlan, watched: Mapping[str, Watched], *, series: bool) -> pb.AlertRuleStatus:
    now = time.monotonic()
    return pb.AlertRuleStatus(
        name=plan.name,
        figure=plan.figure,
        threshold=threshold_rules.bounds(plan),
        lasting_seconds=plan.lasting_s,
        severity=plan.severity,
        paused=plan.paused,
        watched=len(watched),
        raised=sum(one.raised is not None for one in watched.values()),
        series=[_series(plan, one, now) for _, one in sorted(watched.items())] if series else [],
    )


def _series(plan: RulePlan, one: Watched, now: float) -> pb.AlertSeries:
    silent = now - one.heard >= _SILENT_S
    raised = "silent" if silent else "raised"
    state = raised if one.raised is not None else "beyond" if one.beyond is not None else "ok"
    sample = one.sample
    return pb.AlertSeries(
        node=sample.node,
        instance=sample.instance,
        of=sample.of,
        value=sample.value,
        limit=sample.limit,
        state=state,
        says=threshold_rules.say(plan.figure, sample.value, sample.limit, relative=plan.threshold.relative),
        beyond_seconds=now - one.beyond if one.beyond is not None else 0.0,
    )


def _receiver(plan: ReceiverPlan, telling: Telling) -> pb.AlertReceiverStatus:
    parts = urlsplit(plan.url)
    return pb.AlertReceiverStatus(
        name=plan.name,
        type=plan.kind,
        where=f"{parts.scheme}://{parts.netloc}",
        delivered=telling.delivered,
        failed=telling.failed,
        waiting=len(telling.waiting),
        dropped=telling.dropped,
        reason=telling.reason,
    )
