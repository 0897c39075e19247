"""Alerts as their receivers take them: Alertmanager's API v2, and its webhook format (version 4). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any, Final

from bridge_core.command.plain_text import one_line
from bridge_core.moments import utc_text
from bridge_registry.alerts.alert_rules import Alert, Seen
from bridge_registry.alerts.delivery_rules import RESEND_S, Message, ReceiverPlan

_MISSED: Final = 5
"""Messages after which an Alertmanager that hears nothing more takes an alert for over."""
_ZERO: Final = "0001-01-01T00:00:00Z"  # how Go says "not yet"


def body_of(plan: ReceiverPlan, message: Message, mesh: str, now: float) -> Any:
    """What is posted, as what JSON can say; `mesh` is the trust domain."""
    if plan.kind == "alertmanager":
        return [_to_alertmanager(one, mesh, now) for one in message.alerts]
    return _to_webhook(plan, message, mesh)


def labels_of(seen: Seen, mesh: str) -> dict[str, str]:
    """What tells an alert apart, and what receivers route by and silences mean."""
    found = {
        **seen.labels,
        "alertname": seen.name,
        "severity": seen.severity,
        "mesh": mesh,
        "node": seen.node,
        "instance": seen.instance,
        "of": seen.of,
    }
    return {name: one_line(value, 256) for name, value in found.items() if value}


def annotations_of(alert: Alert) -> dict[str, str]:
    """What people read."""
    seen = alert.seen
    found = {
        "summary": seen.summary,
        "command": seen.command,
        "well": seen.well,
        "runbook": seen.runbook,
    }
    return {name: one_line(value) for name, value in found.items() if value}


def _to_alertmanager(alert: Alert, mesh: str, now: float) -> dict[str, Any]:
    ends = alert.ended or now + _MISSED * RESEND_S
    return {
        "labels": labels_of(alert.seen, mesh),
        "annotations": annotations_of(alert),
        "startsAt": _moment(alert.since),
        "endsAt": _moment(ends),
    }


def _to_webhook(plan: ReceiverPlan, message: Message, mesh: str) -> dict[str, Any]:
    alerts = [
        {
            "status": "resolved" if one.ended else "firing",
            "labels": labels_of(one.seen, mesh),
            "annotations": annotations_of(one),
            "startsAt": _moment(one.since),
            "endsAt": _moment(one.ended) if one.ended else _ZERO,
            "generatorURL": "",
            "fingerprint": sha256(one.seen.id.encode("utf-8", "replace")).hexdigest()[:16],
        }
        for one in message.alerts
    ]
    name = {"node": "node", "alert": "alertname", "mesh": "mesh"}[plan.group_by]
    value = mesh if plan.group_by == "mesh" else one_line(message.group, 256)
    return {
        "version": "4",
        "groupKey": f"{name}:{value}",
        "truncatedAlerts": message.more,
        "status": "resolved" if all(one.ended for one in message.alerts) else "firing",
        "receiver": plan.name,
        "groupLabels": {name: value},
        "commonLabels": _common(one["labels"] for one in alerts),
        "commonAnnotations": _common(one["annotations"] for one in alerts),
        "externalURL": "",
        "alerts": alerts,
    }


def _common(found: Iterable[Any]) -> dict[str, str]:
    first, *others = found
    return {name: value for name, value in first.items() if all(one.get(name) == value for one in others)}


def _moment(unix: float) -> str:
    return utc_text(min(max(unix, 0.0), 1e11))
