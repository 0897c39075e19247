"""`/v1/models` and `/v1/models/<name>` by way of `/api/tags` and `/api/show`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from bridge_core.dialects.wire import Reply, whole


def model_list(tags: Mapping[str, Any]) -> Reply:
    """The list, from the answer of `/api/tags`."""
    return whole(
        {"object": "list", "data": [_model(str(one["name"]), one) for one in tags.get("models") or ()]}
    )


def model(name: str, show: Mapping[str, Any]) -> Reply:
    """One model under the name that was asked for, from the answer of `/api/show`."""
    return whole(_model(name, show))


def _model(name: str, native: Mapping[str, Any]) -> dict[str, Any]:
    folders = name.split("/")
    return {
        "id": name,
        "object": "model",
        "created": _unix(str(native.get("modified_at", ""))),
        "owned_by": folders[-2] if len(folders) > 1 else "library",
    }


def _unix(moment: str) -> int:
    """Seconds of an RFC 3339 time; 0 where there is none."""
    whole_part, _, rest = moment.partition(".")
    zone = rest.lstrip("0123456789") if rest else ""
    try:
        return int(dt.datetime.fromisoformat(whole_part + zone).timestamp())
    except ValueError:
        return 0
