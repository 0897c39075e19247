"""What Prometheus and Grafana are given asks for series that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy/grafana"
MADE_BY_CODE = re.compile(r'f"bridge_registry_\{name\}"')


def dashboards() -> Iterator[dict[str, Any]]:
    for path in sorted((GRAFANA / "dashboards").glob("*.json")):
        yield json.loads(path.read_text())


def asked() -> Iterator[str]:
    """Every query."""
    for panel in (panel for one in dashboards() for panel in one["panels"]):
        yield from (target["expr"] for target in panel["targets"])
    for group in yaml.safe_load((GRAFANA / "bridge.rules.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def test_every_series_that_is_asked_for_is_one_that_a_registry_shows() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "registry").rglob("*.py"))
    assert MADE_BY_CODE.search(code)
    names = {name for query in asked() for name in re.findall(r"bridge_\w+", query)}
    assert len(names) > 8
    for name in names:
        plain = re.sub(r"_(total|bucket|sum|count)$", "", name)
        shown = plain.removeprefix("bridge_registry_") if plain.startswith("bridge_registry_") else plain
        assert f'"{shown}"' in code, name


@pytest.mark.parametrize("dashboard", list(dashboards()), ids=lambda one: str(one["uid"]))
def test_every_panel_takes_the_data_source_that_is_chosen(dashboard: dict[str, Any]) -> None:
    assert [one["type"] for one in dashboard["templating"]["list"]] == ["datasource"]
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_prometheus_takes_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian's prometheus)")
    ran = subprocess.run(
        [promtool, "check", "rules", str(GRAFANA / "bridge.rules.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
