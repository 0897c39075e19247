"""Records in the words of other systems: OCSF, the Elastic Common Schema, ArcSight's CEF."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from bridge_core.errors import BridgeError
from bridge_core.logs.ecs_rules import ECS_VERSION
from bridge_core.moments import utc_text

_SPAN: Final = re.compile(r"(\d{1,9})([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_VENDOR, _PRODUCT = "DeepSeek", "Ollama Bridge"
_OCSF_VERSION: Final = "1.3.0"
_WRITES: Final = {"POST": 1, "GET": 2, "HEAD": 2, "PUT": 3, "PATCH": 3, "DELETE": 4}


def moment(text: str) -> float:
    """Unix seconds of a date, a time, or so long ago.

    Raises:
        BridgeError: it is none of them.
    """
    span = _SPAN.fullmatch(text.strip())
    if span is not None:
        return time.time() - int(span.group(1)) * _UNITS[span.group(2)]
    try:
        found = dt.datetime.fromisoformat(text.strip())
    except ValueError as fault:
        raise BridgeError(
            f"{text!r} is no time", hint="2026-11-30, 2026-11-30T12:00, 90m, 12h or 7d"
        ) from fault
    return (found if found.tzinfo is not None else found.astimezone()).timestamp()


def as_json(node: str, index: int, record: Mapping[str, Any]) -> str:
    """As it is on record, with where."""
    return _json({"recorded_by": node, "index": index, **record})


def as_ocsf(node: str, index: int, record: Mapping[str, Any]) -> str:
    """As an API Activity (class 6003) of OCSF; empty for records of the log itself."""
    kind = record.get("kind")
    if kind not in ("request", "admin"):
        return ""
    failed = _failed(record)
    activity = _WRITES.get(str(record.get("method", "")), 99) if kind == "request" else 99
    at = int(float(record.get("at", 0)) * 1000)
    return _json(
        {
            "metadata": {
                "version": _OCSF_VERSION,
                "product": {"name": _PRODUCT, "vendor_name": _VENDOR},
                "uid": f"{node}/{index}",
                "correlation_uid": record.get("request_id", ""),
                "log_name": "audit",
            },
            "category_uid": 6,
            "class_uid": 6003,
            "activity_id": activity,
            "type_uid": 600_300 + activity,
            "severity_id": 3 if failed else 1,
            "status_id": 2 if failed else 1,
            "status_code": str(record.get("status", record.get("outcome", ""))),
            "status_detail": record.get("reason", record.get("rule", "")),
            "time": at,
            "start_time": at,
            "duration": int(record.get("duration_ms", 0)),
            "actor": {"user": {"name": record.get("principal", ""), "uid": record.get("principal", "")}},
            "src_endpoint": {"ip": record.get("address", "")},
            "dst_endpoint": {"name": node},
            "api": {
                "operation": record.get("call") or f"{record.get('method')} {record.get('path')}",
                "request": {"uid": record.get("request_id", "")},
                "service": {"name": _PRODUCT},
            },
            "resources": [{"type": "model", "name": record["model"]}] if record.get("model") else [],
            "unmapped": _rest(record),
        }
    )


def as_ecs(node: str, index: int, record: Mapping[str, Any]) -> str:
    """As an event of the Elastic Common Schema; empty for records of the log itself."""
    kind = record.get("kind")
    if kind not in ("request", "admin"):
        return ""
    return _json(
        {
            "@timestamp": utc_text(float(record.get("at", 0))),
            "ecs": {"version": ECS_VERSION},
            "event": {
                "id": f"{node}/{index}",
                "kind": "event",
                "category": ["api"] if kind == "request" else ["configuration"],
                "type": ["denied" if _denied(record) else "allowed" if kind == "request" else "change"],
                "action": record.get("call") or f"{record.get('method')} {record.get('path')}",
                "outcome": _ecs_outcome(record),
                "duration": int(float(record.get("duration_ms", 0)) * 1e6),
                "reason": record.get("reason", ""),
                "provider": "bridge",
            },
            "user": {"name": record.get("principal", "")},
            "source": {"ip": record["address"]} if record.get("address") else {},
            "http": {
                "request": {
                    "id": record.get("request_id", ""),
                    "method": record.get("method", ""),
                    "body": {"bytes": record.get("bytes_in", 0)},
                },
                "response": {
                    "status_code": record.get("status", 0),
                    "body": {"bytes": record.get("bytes_out", 0)},
                },
            },
            "url": {"path": record.get("path", "")},
            "rule": {"name": record.get("rule", "")},
            "host": {"name": node},
            "trace": {"id": record.get("request_id", "")},
            "bridge": _rest(record),
        }
    )


def as_cef(node: str, index: int, record: Mapping[str, Any]) -> str:
    """As a line of the Common Event Format; empty for records of the log itself."""
    kind = record.get("kind")
    if kind not in ("request", "admin"):
        return ""
    name = record.get("call") or f"{record.get('method')} {record.get('path')}"
    extension = {
        "rt": int(float(record.get("at", 0)) * 1000),
        "externalId": f"{node}/{index}",
        "suser": record.get("principal", ""),
        "src": record.get("address", ""),
        "dvchost": node,
        "requestMethod": record.get("method", ""),
        "request": record.get("path", ""),
        "outcome": record.get("outcome", ""),
        "reason": record.get("reason", record.get("rule", "")),
        "in": record.get("bytes_in", 0),
        "out": record.get("bytes_out", 0),
        "cs1Label": "requestId",
        "cs1": record.get("request_id", ""),
        "cs2Label": "model",
        "cs2": record.get("model", ""),
        "cs3Label": "instance",
        "cs3": record.get("instance", ""),
        "cn1Label": "durationMs",
        "cn1": int(float(record.get("duration_ms", 0))),
    }
    pairs = " ".join(f"{key}={_extension(str(value))}" for key, value in extension.items() if value != "")
    severity = 6 if _denied(record) else 4 if _failed(record) else 2
    header = "|".join(map(_header, (_VENDOR, _PRODUCT, "1", str(kind), str(name), str(severity))))
    return f"CEF:0|{header}|{pairs}"


FORMATS: Final[Mapping[str, Callable[[str, int, Mapping[str, Any]], str]]] = {
    "json": as_json,
    "ocsf": as_ocsf,
    "ecs": as_ecs,
    "cef": as_cef,
}


def _failed(record: Mapping[str, Any]) -> bool:
    status = record.get("status", 0)
    return bool((isinstance(status, int) and status >= 400) or record.get("outcome") not in ("ok", "OK"))


def _ecs_outcome(record: Mapping[str, Any]) -> str:
    if record.get("outcome") == "cancelled":  # who left by himself neither failed nor succeeded
        return "unknown"
    return "failure" if _failed(record) else "success"


def _denied(record: Mapping[str, Any]) -> bool:
    denied = record.get("outcome") in ("PERMISSION_DENIED", "UNAUTHENTICATED")
    return denied or record.get("status") in (401, 403, 429)


def _rest(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a schema has no place for."""
    placed = {"kind", "at", "request_id", "principal", "method", "path", "status", "duration_ms", "address"}
    return {key: value for key, value in record.items() if key not in placed}


def _json(value: Mapping[str, Any]) -> str:
    return msgspec.json.encode(value).decode()


def _header(text: str) -> str:
    return _one_line(text).replace("\\", "\\\\").replace("|", "\\|")


def _extension(text: str) -> str:
    return _one_line(text.replace("\\", "\\\\").replace("=", "\\="))


def _one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")
