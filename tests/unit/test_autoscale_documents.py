"""AutoscalePolicy documents: what is refused, with file and line, all at once."""

from __future__ import annotations

import pytest

from bridge_core.config import load
from bridge_core.config.documents import AutoscalePolicyDocument
from bridge_registry.scaling.plan import ScalingPlan, plan_of

ROUTE = """\
apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata: {name: chat}
spec: {backends: [{model: m}]}
"""


def policy(spec: str, name: str = "p") -> str:
    indented = "\n".join(f"  {line}" for line in spec.splitlines())
    return (
        "apiVersion: bridge.deepseek.io/v1\n"  # line 1
        "kind: AutoscalePolicy\n"
        f"metadata: {{name: {name}}}\n"
        f"spec:\n{indented}\n"  # its first line is 5
    )


def faults(*texts: str) -> list[str]:
    return [str(fault) for fault in load([(f"{at}.yaml", text) for at, text in enumerate(texts)]).faults]


def test_a_whole_policy_becomes_a_plan() -> None:
    text = policy(
        "model: m\nmin: 0\nmax: 9\n"
        "goals: {slotUtilization: 0.6, queuedPerInstance: null, ttftP95: 2s}\n"
        "scaleToZero: {after: 10m, wakeBudget: 20s}\ncoolDowns: {scaleOut: 1s, scaleIn: 1m}\n"
        "measuredOver: 20s\nkeepWarm: 2m\nloadsAtOnce: 3\nforecast: false\n"
        "budgets: [{nodeClass: gpu, max: 4}]\npaused: true"
    )
    (document,) = load([("p.yaml", text)]).documents
    assert isinstance(document.parsed, AutoscalePolicyDocument)
    assert plan_of(document.parsed) == ScalingPlan(
        "p", "m", 9, 0, 0.6, None, 2.0, 20.0, 600.0, 20.0, 1.0, 60.0, 120.0, 3, False, {"gpu": 4}, True
    )


def test_the_least_that_can_be_said_is_a_model_and_a_max() -> None:
    (document,) = load([("p.yaml", policy("model: m\nmax: 3"))]).documents
    assert isinstance(document.parsed, AutoscalePolicyDocument)
    assert plan_of(document.parsed) == ScalingPlan("p", "m", 3)


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("model: chat\nmax: 3", "spec.model: chat is a route: write a policy for each model"),
        ("model: 'a b'\nmax: 3", "spec.model: 'a b' is not a model name"),
        ("model: m\nmin: 4\nmax: 3", "0.yaml:6: spec.min: min 4 is above max 3"),
        ("model: m\nmin: 0\nmax: 3", "spec.min: a min of 0 needs scaleToZero"),
        ("model: m\nmax: 3\nscaleToZero: {}", "spec.scaleToZero: is without effect while min is 1"),
        (
            "model: m\nmin: 0\nmax: 3\nscaleToZero: {after: 1m}\ncoolDowns: {scaleIn: 61s}",
            "spec.scaleToZero.after: is shorter than coolDowns.scaleIn",
        ),
        (
            "model: m\nmax: 3\nbudgets: [{nodeClass: a, max: 1}, {nodeClass: a, max: 1}]",
            "spec.budgets[1].nodeClass: a is there twice",
        ),
        (
            "model: m\nmin: 3\nmax: 3\nbudgets: [{nodeClass: a, max: 2}]",
            "spec.budgets: leave room for 2 instances together, and min is 3",
        ),
        ("model: m\nmax: 0", "spec.max"),
        ("model: m\nmax: 3\ngoals: {slotUtilization: 70}", "spec.goals.slotUtilization"),
        ("model: m\nmax: 3\ngoals: {slotUtilization: 0}", "spec.goals.slotUtilization"),
        ("model: m\nmax: 3\ncooldowns: {}", "spec.cooldowns"),
        ("model: m\nmax: 3\nmin: -1", "spec.min"),
        ("model: m\nmax: 3\nkeepWarm: -5s", "spec.keepWarm"),
    ],
)
def test_an_impossible_policy_is_refused(spec: str, fault: str) -> None:
    found = faults(policy(spec), ROUTE)
    assert len(found) == 1, found
    assert fault in found[0]


def test_every_fault_is_told_at_once() -> None:
    found = faults(
        policy("model: chat\nmin: 9\nmax: 3\nscaleToZero: {after: 1m}\ncoolDowns: {scaleIn: 2m}"), ROUTE
    )
    assert len(found) == 4


def test_one_policy_a_model() -> None:
    found = faults(policy("model: m\nmax: 3"), policy("model: M:latest\nmax: 2", "q"))
    assert [one for one in found if "has the policy p already" in one]
    assert not faults(policy("model: m\nmax: 3"), policy("model: n\nmax: 2", "q"))
