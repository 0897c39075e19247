"""The house as it is meant: rules are held pure, and core holds only what two programs use."""

from __future__ import annotations

import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {
    "agent": "bridge_agent",
    "engine": "bridge_engine",
    "registry": "bridge_registry",
    "cli": "bridge_cli",
}


def test_every_module_of_rules_is_held_to_be_pure() -> None:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    held = next(one["source_modules"] for one in linter["contracts"] if "decide" in one["name"])
    rules = [
        ".".join(path.relative_to(ROOT / top).with_suffix("").parts)
        for top in (*PROGRAMS, "core")
        for path in (ROOT / top).rglob("*_rules.py")
    ]
    assert [one for one in rules if not any(f"{one}.".startswith(f"{name}.") for name in held)] == []


def test_core_holds_only_what_two_programs_use() -> None:
    graph = grimp.build_graph(
        *PROGRAMS.values(), "bridge_core", cache_dir=None
    )  # a cache may be of other code
    lonely = {}
    for module in sorted(graph.modules):
        path = ROOT / "core" / Path(*module.split("."))
        if not module.startswith("bridge_core.") or path.is_dir():
            continue
        users = {one.partition(".")[0] for one in graph.find_downstream_modules(module)} - {"bridge_core"}
        if len(users) < 2:
            lonely[module] = sorted(users)
    lonely.pop("bridge_core.config.schema")  # writes the JSON Schemas beside mesh_config
    assert lonely == {}
