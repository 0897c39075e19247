"""Quota documents: what is refused, with file and line, and what is warned of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bridge_core.config import load
from bridge_core.config.convert import quota
from bridge_core.config.documents import QuotaDocument
from bridge_core.policy.statements import Subject
from bridge_core.quotas import Quota
from bridge_core.snapshot import Instance, MemberModel
from bridge_registry.traffic.warning_rules import unserved

FOLDER = Path(__file__).parents[2] / "mesh_config"


def a_quota(spec: str, name: str = "q") -> str:
    indented = "\n".join(f"  {line}" for line in spec.splitlines())
    return (
        "apiVersion: bridge.deepseek.io/v1\n"  # line 1
        "kind: Quota\n"
        f"metadata: {{name: {name}}}\n"
        f"spec:\n{indented}\n"  # its first line is 5
    )


def faults(*texts: str) -> list[str]:
    return [str(fault) for fault in load([(f"{at}.yaml", text) for at, text in enumerate(texts)]).faults]


def test_a_whole_quota_becomes_what_a_snapshot_has() -> None:
    text = a_quota(
        "subjects: [{kind: Group, name: staff}]\nmodels: [m, 'k*']\nwindow: 1h\nper: group\n"
        "requests: 1\npromptTokens: 2\noutputTokens: 3\nconcurrency: 4\nshadow: true"
    )
    (document,) = load([("q.yaml", text)]).documents
    assert isinstance(document.parsed, QuotaDocument)
    assert quota(document.parsed) == Quota(
        "q", (Subject("Group", "staff"),), ("m", "k*"), 3600.0, "group", 1, 2, 3, 4, True
    )


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("window: 1m", "0.yaml:4: spec: nothing is limited: give requests, promptTokens"),
        ("requests: 1\nper: group", "0.yaml:6: spec.per: per: group counts the groups among the subjects"),
        (
            "requests: 1\nper: group\nsubjects:\n- {kind: Group, name: a}\n- {kind: User, name: b}",
            "0.yaml:9: spec.subjects[1].kind: per: group counts groups, and a User is none",
        ),
        (
            "requests: 1\nsubjects:\n- {kind: User, name: a}\n- {kind: User, name: a}",
            "0.yaml:8: spec.subjects[1]: User a is there twice",
        ),
        (
            "requests: 1\nsubjects: [{kind: User, name: 'spiffe://m/client/a'}]",
            "0.yaml:6: spec.subjects[0].name: write the name alone: a",
        ),
        ("requests: 1\nmodels: [m, 'M:latest']", "0.yaml:6: spec.models[1]: M:latest is there twice"),
        ("requests: 1\nmodels: ['a b']", "0.yaml:6: spec.models[0]: 'a b' is not a model name"),
        ("requests: 1\nwindow: 500ms", "0.yaml:6: spec.window"),
        ("requests: -1", "0.yaml:5: spec.requests"),
        ("request: 1", "did you mean requests?"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_stands(spec: str, fault: str) -> None:
    found = faults(a_quota(spec))
    assert any(fault in one for one in found), found


def test_two_that_are_about_the_same_are_one_too_many_but_for_a_shadow() -> None:
    first, second = a_quota("requests: 1\nmodels: [m]"), a_quota("outputTokens: 9\nmodels: ['m:latest']", "r")
    assert any("q is about the same in the same window" in one for one in faults(first, second))
    assert faults(first, a_quota("outputTokens: 9\nmodels: ['m:latest']\nshadow: true", "r")) == []
    assert faults(first, a_quota("outputTokens: 9\nmodels: [m]\nwindow: 1h", "r")) == []


def test_the_commented_example_is_valid() -> None:
    lines = (FOLDER / "quotas.yaml").read_text().splitlines()
    text = "\n".join(line.removeprefix("#") for line in lines if not re.match(r"# \S", line))
    loaded = load([("quotas.yaml", text)])
    assert loaded.faults == ()
    assert [one.key for one in loaded.documents] == ["Quota/analysts-a-minute", "Quota/everybody-a-day"]


def test_a_model_that_nobody_has_is_warned_of() -> None:
    loaded = load([("q.yaml", a_quota("requests: 1\nmodels: [m, gone, assistant, 'x*']"))])
    there = [Instance("a/0", "a", models=(MemberModel("m:latest"),))]
    warnings = unserved([one.parsed for one in loaded.documents], there, ["assistant"])
    assert warnings == ("quota q: no node has the model gone, and no route is called so",)
