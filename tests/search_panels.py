"""What OpenSearch or Kibana would ask for a saved visualization or search, for tests against a real one."""

from __future__ import annotations

import json
import re
from typing import Any


def state_of(saved: dict[str, Any]) -> tuple[str, list[dict[str, Any]], list[str]]:
    """A saved object's query, aggregations and columns."""
    attributes = saved["attributes"]
    source = json.loads(attributes["kibanaSavedObjectMeta"]["searchSourceJSON"])
    assert source["query"]["language"] == "lucene"
    aggregations = json.loads(attributes["visState"])["aggs"] if "visState" in attributes else []
    return source["query"]["query"], aggregations, attributes.get("columns", [])


def fields_of(saved: dict[str, Any]) -> set[str]:
    """Every field that it names."""
    query, aggregations, columns = state_of(saved)
    found = {*columns, "@timestamp"}
    found |= set(re.findall(r"_exists_:([\w.@]+)", query))
    found |= {name for name in re.findall(r"([\w.@]+):", query) if name != "_exists_"}
    return found | {one["params"]["field"] for one in aggregations if "field" in one["params"]}


def body_of(saved: dict[str, Any]) -> dict[str, Any]:
    """The search that shows it."""
    query, aggregations, _ = state_of(saved)
    metrics = {
        one["id"]: _metric(one)
        for one in aggregations
        if one["schema"] == "metric" and one["type"] != "count"
    }
    nested: dict[str, Any] = metrics
    for one in reversed([one for one in aggregations if one["schema"] != "metric"]):
        inner = {"aggs": nested} if nested else {}
        nested = {one["id"]: {**_bucket(one, metrics), **inner}}
    body: dict[str, Any] = {"query": {"query_string": {"query": query}}, "track_total_hits": True}
    return body | (
        {"size": 0, "aggs": nested} if aggregations else {"size": 50, "sort": [{"@timestamp": "desc"}]}
    )


def _metric(one: dict[str, Any]) -> dict[str, Any]:
    return {one["type"]: {key: one["params"][key] for key in ("field", "percents") if key in one["params"]}}


def _bucket(one: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    params = one["params"]
    if one["type"] == "date_histogram":
        if params["interval"] == "auto":
            return {"auto_date_histogram": {"field": params["field"], "buckets": 50}}
        return {
            "date_histogram": {
                "field": params["field"],
                "calendar_interval": f"1{params['interval']}",
                "min_doc_count": 1,
            }
        }
    by = params["orderBy"]
    order = by if by == "_key" or by in metrics else "_count"
    return {"terms": {"field": params["field"], "size": params["size"], "order": {order: params["order"]}}}
