"""What Prometheus and Grafana are given asks for series that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy/grafana"
MADE_BY_CODE = re.compile(r'f"bridge_registry_\{name\}"')


def asked() -> Iterator[str]:
    """Every query."""
    dashboard = json.loads((GRAFANA / "dashboards/bridge-mesh.json").read_text())
    for panel in dashboard["panels"]:
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


def test_every_panel_takes_the_data_source_that_is_chosen() -> None:
    dashboard = json.loads((GRAFANA / "dashboards/bridge-mesh.json").read_text())
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
