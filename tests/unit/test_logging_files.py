"""`deploy/logging` names the fields that lines have, and nothing else."""

from __future__ import annotations

import fnmatch
import json
import re
from typing import Any

import yaml

from bridge_core.logs.ecs_rules import FIELDS, Source, event_document, line_of
from tests.search_panels import body_of, fields_of
from tools.logging_files import FOLDER, PATTERN, STREAM, rendered, saved_objects

FLUENTD = (FOLDER / "fluentd" / "fluent.conf").read_text(encoding="utf-8")
FLUENT_BIT = yaml.safe_load((FOLDER / "fluent-bit" / "fluent-bit.yaml").read_text(encoding="utf-8"))


def _json(*parts: str) -> Any:
    return json.loads(FOLDER.joinpath(*parts).read_text(encoding="utf-8"))


def test_what_is_generated_is_what_the_fields_of_lines_give() -> None:
    """`python -m tools.logging_files` makes it so."""
    for path, text in rendered().items():
        assert path.read_text(encoding="utf-8") == text, path


def test_every_field_of_every_panel_is_one_that_lines_have() -> None:
    for saved in saved_objects():
        if saved["type"] in ("visualization", "search"):
            assert fields_of(saved) <= FIELDS.keys(), saved["id"]
            assert len(fields_of(saved)) > 1, saved["id"]  # the reading of queries finds some
            assert body_of(saved)


def test_sums_and_percentiles_are_of_numbers_and_buckets_of_what_is_not_analysed() -> None:
    for saved in saved_objects():
        if saved["type"] != "visualization":
            continue
        for one in json.loads(saved["attributes"]["visState"])["aggs"]:
            kind = FIELDS.get(one["params"].get("field", ""))
            wanted = {"terms": {"keyword"}, "date_histogram": {"date"}, "count": {None}}
            assert kind in wanted.get(one["type"], {"long", "float"}), (saved["id"], one)


def test_the_dashboard_shows_all_of_them_and_nothing_twice() -> None:
    *others, dashboard = saved_objects()
    shown = [one["id"] for one in dashboard["references"]]
    assert shown == [one["id"] for one in others if one["type"] != "index-pattern"]
    assert len(set(shown)) == len(shown)
    panels = json.loads(dashboard["attributes"]["panelsJSON"])
    places = [panel["gridData"] for panel in panels]
    taken = [
        (x, y)
        for at in places
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(taken) == len(set(taken))
    for saved in others[1:]:
        assert [one["id"] for one in saved["references"]] == [others[0]["id"]]


def test_pipelines_templates_and_policies_speak_of_one_stream() -> None:
    assert fnmatch.fnmatch(STREAM, PATTERN)
    assert f"'{STREAM}'" in FLUENTD
    assert "env" not in FLUENT_BIT, "what it says there would win over the environment"
    assert f"STREAM={STREAM}" in (FOLDER / "fluent-bit" / "fluent-bit.yaml").read_text(encoding="utf-8")
    (output,) = FLUENT_BIT["pipeline"]["outputs"]
    assert (output["index"], output["write_operation"]) == ("${STREAM}", "create")
    for engine in ("opensearch", "elasticsearch"):
        assert _json(engine, "index-template.json")["index_patterns"] == [PATTERN]
    (ism,) = _json("opensearch", "ism-policy.json")["policy"]["ism_template"]
    assert PATTERN in ism["index_patterns"]
    states = _json("opensearch", "ism-policy.json")["policy"]["states"]
    named = {state["name"] for state in states}
    assert {to["state_name"] for state in states for to in state["transitions"]} <= named
    assert set(_json("elasticsearch", "ilm-policy.json")["policy"]["phases"]) == {"hot", "warm", "delete"}
    settings = _json("elasticsearch", "index-template.json")["template"]["settings"]
    assert settings["index.lifecycle.name"] == "bridge-logs"


def test_pipelines_read_and_add_fields_that_lines_have() -> None:
    made = set(re.findall(r"'([@a-z][\w.]*)' =>", FLUENTD))
    assert made == {"@timestamp", "event.dataset", "message"}
    foreign, parser = FLUENT_BIT["parsers"]
    first, modify = FLUENT_BIT["pipeline"]["filters"]
    assert first["parser"] == [foreign["name"], parser["name"]]
    named = {
        parser["time_key"],
        modify["rename"].split()[1],
        modify["add"].split()[0],
        modify["condition"].split()[1],
    }
    assert named | made <= FIELDS.keys()
    # Its expressions are Onigmo's, which are Python's but for how groups are named.
    theirs = re.compile(foreign["regex"].replace("(?<message>", "(?P<message>"))
    ours = line_of(event_document({"event": "x"}, level="info", at=1.0, source=Source("a", "b", "c", 1)))
    assert not theirs.match(ours.decode())
    for line in ("an engine's own words", '{"level":"info","event":"starting"}', '{"@timestamp', ""):
        found = theirs.match(line)
        assert found is not None
        assert found["message"] == line
