"""Writes what is generated of `deploy/logging`: index templates and dashboards, from the fields of lines.

`python -m tools.logging_files` writes; the test of the same name holds that what is there is what would be.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bridge_core.logs.ecs_rules import FIELDS, LABELS

FOLDER: Final = Path(__file__).parents[1] / "deploy" / "logging"
PATTERN: Final = "logs-bridge-*"
STREAM: Final = "logs-bridge-default"
_VIEW: Final = "bridge-logs"
_VERSION: Final = {
    "index-pattern": "7.6.0",
    "visualization": "7.10.0",
    "search": "7.9.3",
    "dashboard": "7.9.3",
}

_REQUESTS: Final = 'event.dataset:"bridge.requests" AND NOT _exists_:bridge.via'
"""Each request once: a forwarded one has a line at either node."""


def mappings() -> dict[str, Any]:
    """The types of all fields; what a line should not have is kept, and not indexed."""
    properties: dict[str, Any] = {}
    for name, kind in FIELDS.items():
        *parents, leaf = name.split(".")
        at = properties
        for parent in parents:
            at = at.setdefault(parent, {"properties": {}})["properties"]
        at[leaf] = (
            {"type": kind} if kind not in ("keyword", "wildcard") else {"type": kind, "ignore_above": 8191}
        )
    properties[LABELS.rstrip(".")] = {"type": "object", "dynamic": True}
    labels = {"path_match": f"{LABELS}*", "mapping": {"type": "keyword", "ignore_above": 1024}}
    return {"dynamic": False, "dynamic_templates": [{"labels": labels}], "properties": properties}


def template(settings: Mapping[str, Any]) -> dict[str, Any]:
    """An index template of a data stream."""
    return {
        "index_patterns": [PATTERN],
        "data_stream": {},
        "priority": 500,
        "template": {
            "settings": {
                "index.codec": "best_compression",
                "index.mapping.ignore_malformed": True,
                "index.mapping.total_fields.limit": 1000,
                **settings,
            },
            "mappings": mappings(),
        },
    }


def _terms(field: str, size: int, schema: str, *, by: str = "1") -> dict[str, Any]:
    params = {"field": field, "size": size, "order": "desc", "orderBy": by, "otherBucket": False}
    return {"type": "terms", "schema": schema, "params": {**params, "missingBucket": False}}


def _hours(schema: str = "segment", interval: str = "h") -> dict[str, Any]:
    params = {
        "field": "@timestamp",
        "interval": interval,
        "min_doc_count": 1,
        "useNormalizedEsInterval": True,
    }
    return {"type": "date_histogram", "schema": schema, "params": params}


def _metric(kind: str, field: str = "", **params: Any) -> dict[str, Any]:
    return {"type": kind, "schema": "metric", "params": {**({"field": field} if field else {}), **params}}


_COUNT: Final = _metric("count")

Panel = tuple[str, str, str, str, Sequence[dict[str, Any]]]
VISUALS: Final[Sequence[Panel]] = (
    (
        "requests-heatmap",
        "Requests: hour × model × node",
        "heatmap",
        _REQUESTS,
        (_COUNT, _hours(), _terms("bridge.model", 20, "group"), _terms("bridge.served_by", 10, "split")),
    ),
    (
        "requests-outcome",
        "Requests by how they ended",
        "histogram",
        _REQUESTS,
        (_COUNT, _hours(interval="auto"), _terms("bridge.outcome", 10, "group")),
    ),
    (
        "errors-by-class",
        "Errors by class",
        "table",
        "_exists_:error.type",
        (
            _COUNT,
            _terms("error.type", 20, "bucket"),
            _terms("service.name", 10, "bucket"),
            _terms("host.name", 20, "bucket"),
        ),
    ),
    (
        "duration-by-model",
        "How long requests took, by model (nanoseconds)",
        "line",
        _REQUESTS,
        (
            _metric("percentiles", "event.duration", percents=[50, 95, 99]),
            _hours(interval="auto"),
            _terms("bridge.model", 5, "group", by="_key"),
        ),
    ),
    (
        "first-byte-by-node",
        "Time to the first byte, by node (milliseconds)",
        "line",
        f"{_REQUESTS} AND _exists_:bridge.first_byte_ms",
        (
            _metric("percentiles", "bridge.first_byte_ms", percents=[50, 99]),
            _hours(interval="auto"),
            _terms("bridge.served_by", 10, "group", by="_key"),
        ),
    ),
    (
        "tokens-by-model",
        "Tokens generated, by model",
        "histogram",
        _REQUESTS,
        (_metric("sum", "bridge.tokens"), _hours(), _terms("bridge.model", 20, "group")),
    ),
    (
        "events",
        "What happened, by event and program",
        "table",
        'event.dataset:"bridge.events" AND log.level:(warning OR error)',
        (
            _COUNT,
            _terms("event.action", 30, "bucket"),
            _terms("log.level", 5, "bucket"),
            _terms("host.name", 20, "bucket"),
        ),
    ),
    (
        "forecasts",
        "Forecasts: seconds until a limit is likely to be hit, by node and figure",
        "line",
        "event.action:forecast",
        (
            _metric("min", "bridge.forecast.likely_s"),
            _hours(interval="auto"),
            _terms("bridge.forecast.node", 20, "group", by="_key"),
            _terms("bridge.forecast.figure", 4, "group", by="_key"),
        ),
    ),
    (
        "alerts",
        "Alerts, and that they were over",
        "table",
        "event.action:(alert OR alert_over)",
        (_COUNT, _terms("bridge.alert", 50, "bucket"), _terms("event.action", 2, "bucket")),
    ),
    (
        "lines-dropped",
        "Lines of logs that were left out, by node",
        "table",
        "event.action:log_lines_dropped",
        (
            _metric("sum", "bridge.dropped.request"),
            _metric("sum", "bridge.dropped.error"),
            _metric("sum", "bridge.dropped.warning"),
            _metric("sum", "bridge.dropped.info"),
            _terms("host.name", 50, "bucket"),
        ),
    ),
)

Listing = tuple[str, str, str, Sequence[str]]
SEARCHES: Final[Sequence[Listing]] = (
    (
        "forecasts-list",
        "Forecasts in words: what will be full, when, and how sure that is",
        "event.action:forecast",
        (
            "bridge.forecast.node",
            "bridge.forecast.figure",
            "bridge.forecast.of",
            "event.reason",
            "bridge.forecast.earliest_s",
            "bridge.forecast.latest_s",
        ),
    ),
    (
        "failed-requests",
        "Failed requests, with the trail of their tries",
        'event.dataset:"bridge.requests" AND event.outcome:failure',
        (
            "http.request.id",
            "bridge.model",
            "host.name",
            "bridge.served_by",
            "http.response.status_code",
            "error.type",
            "error.message",
            "bridge.failed_attempts",
        ),
    ),
    (
        "stack-traces",
        "Stack traces; `http.request.id` where it was a request that fell",
        "_exists_:error.stack_trace",
        ("service.name", "host.name", "event.action", "http.request.id", "error.type", "error.stack_trace"),
    ),
)


def _source(query: str) -> str:
    return _dumps(
        {
            "query": {"query": query, "language": "lucene"},
            "filter": [],
            "indexRefName": "kibanaSavedObjectMeta.searchSourceJSON.index",
        }
    )


def _saved(
    kind: str, name: str, attributes: dict[str, Any], references: list[dict[str, str]]
) -> dict[str, Any]:
    version = {kind: _VERSION[kind]}
    return {
        "attributes": attributes,
        "id": name,
        "migrationVersion": version,
        "references": references,
        "type": kind,
    }


_OF_VIEW: Final = {
    "name": "kibanaSavedObjectMeta.searchSourceJSON.index",
    "type": "index-pattern",
    "id": _VIEW,
}


def saved_objects() -> list[dict[str, Any]]:
    """Index pattern, visualizations, searches and the dashboard, as OpenSearch and Kibana import them."""
    found = [_saved("index-pattern", _VIEW, {"title": PATTERN, "timeFieldName": "@timestamp"}, [])]
    for name, title, kind, query, aggregations in VISUALS:
        numbered = [{"id": str(at + 1), "enabled": True, **one} for at, one in enumerate(aggregations)]
        state = {"title": title, "type": kind, "aggs": numbered, "params": _params(kind)}
        attributes = {
            "title": title,
            "description": "",
            "visState": _dumps(state),
            "uiStateJSON": "{}",
            "version": 1,
            "kibanaSavedObjectMeta": {"searchSourceJSON": _source(query)},
        }
        found.append(_saved("visualization", f"bridge-{name}", attributes, [dict(_OF_VIEW)]))
    for name, title, query, columns in SEARCHES:
        attributes = {
            "title": title,
            "description": "",
            "columns": list(columns),
            "sort": [["@timestamp", "desc"]],
            "version": 1,
            "kibanaSavedObjectMeta": {"searchSourceJSON": _source(query)},
        }
        found.append(_saved("search", f"bridge-{name}", attributes, [dict(_OF_VIEW)]))
    return [*found, _dashboard(found[1:])]


def _params(kind: str) -> dict[str, Any]:
    if kind == "heatmap":
        colors = {"colorSchema": "Blues", "colorsNumber": 6, "colorsRange": [], "setColorRange": False}
        axis = {
            "id": "ValueAxis-1",
            "type": "value",
            "show": False,
            "scale": {"type": "linear"},
            "labels": {"show": False},
        }
        return {
            "type": kind,
            "addTooltip": True,
            "addLegend": True,
            "legendPosition": "right",
            **colors,
            "valueAxes": [axis],
        }
    if kind == "table":
        return {"perPage": 20, "showPartialRows": False, "showTotal": True, "totalFunc": "sum"}
    return {"type": kind, "addTooltip": True, "addLegend": True, "legendPosition": "right", "times": []}


def _dashboard(shown: Sequence[dict[str, Any]]) -> dict[str, Any]:
    panels, references = [], []
    for at, one in enumerate(shown):
        wide = at == 0 or one["type"] == "search"
        # The heatmap above, what is listed below, two of the others side by side between them.
        x, y = (0, 0) if at == 0 else (0, 15 * at) if wide else (24 * ((at + 1) % 2), 15 * ((at + 1) // 2))
        place = {"x": x, "y": y, "w": 48 if wide else 24, "h": 15, "i": str(at)}
        panels.append(
            {
                "version": "7.10.0",
                "gridData": place,
                "panelIndex": str(at),
                "embeddableConfig": {},
                "panelRefName": f"panel_{at}",
            }
        )
        references.append({"name": f"panel_{at}", "type": one["type"], "id": one["id"]})
    attributes = {
        "title": "Bridge: requests, failures, logs",
        "description": "",
        "panelsJSON": _dumps(panels),
        "optionsJSON": _dumps({"useMargins": True, "hidePanelTitles": False}),
        "timeRestore": True,
        "timeFrom": "now-24h",
        "timeTo": "now",
        "version": 1,
        "kibanaSavedObjectMeta": {
            "searchSourceJSON": _dumps({"query": {"query": "", "language": "lucene"}, "filter": []})
        },
    }
    return _saved("dashboard", "bridge-logs", attributes, references)


def rendered() -> dict[Path, str]:
    """Each generated file and what is in it."""
    lifecycle = {"index.lifecycle.name": "bridge-logs"}
    lines = "".join(_dumps(one) + "\n" for one in saved_objects())
    return {
        FOLDER / "opensearch" / "index-template.json": _pretty(template({})),
        FOLDER / "elasticsearch" / "index-template.json": _pretty(template(lifecycle)),
        FOLDER / "dashboards.ndjson": lines,
    }


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _pretty(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def main() -> None:
    """Writes them."""
    for path, text in rendered().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
