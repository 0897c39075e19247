"""ModelAccessPolicy documents: what is refused, and where the fault is said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge_core.config import access_policy, load
from bridge_core.config.documents import ModelAccessPolicyDocument
from bridge_core.policy.statements import AccessPolicy, Condition, Resource, Subject

GUIDE = """apiVersion: security.deepseek.io/v1
kind: ModelAccessPolicy
metadata: {name: finance-team-policy}
spec:
  subjects: [{kind: Group, name: finance-analysts}]
  resources: [{kinds: ["Model"], names: ["risk-assessment-v3"]}]
  actions: ["predict", "explain"]
  conditions: [{key: "department", operator: In, values: ["finance"]}]
"""


def a_policy(**given: str) -> str:
    parts = {
        "subjects": "[{kind: User, name: ann}]",
        "resources": "[{kinds: [Model], names: [m]}]",
        "actions": "[predict]",
        **given,
    }
    spec = "\n".join(f"  {key}: {value}" for key, value in parts.items())
    return (
        "apiVersion: security.deepseek.io/v1\nkind: ModelAccessPolicy\nmetadata: {name: p}\n"
        f"spec:\n{spec}\n"
    )


def faults(text: str) -> list[str]:
    return [str(fault) for fault in load([("p.yaml", text)]).faults]


def test_the_guides_policy_is_taken_as_it_stands() -> None:
    loaded = load([("guide.yaml", GUIDE)])
    assert loaded.faults == ()
    (document,) = loaded.documents
    assert isinstance(document.parsed, ModelAccessPolicyDocument)
    assert access_policy(document.parsed) == AccessPolicy(
        "finance-team-policy",
        (Subject("Group", "finance-analysts"),),
        (Resource(("Model",), ("risk-assessment-v3",)),),
        ("predict", "explain"),
        (Condition("department", "In", ("finance",)),),
    )


def test_the_commented_policies_in_mesh_config_are_valid() -> None:
    lines = (Path(__file__).parents[2] / "mesh_config/policies.yaml").read_text().splitlines()
    loaded = load([("policies.yaml", "\n".join(line.removeprefix("#") for line in lines))])
    assert loaded.faults == ()
    assert [one.name for one in loaded.documents] == [
        "finance-team-policy",
        "pipeline",
        "no-large-contexts-by-day",
    ]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"actions": "[drain]"},
            "p.yaml:7: spec.actions[0]: who may drain nodes is said by the roles of admins",
        ),
        (
            {"resources": "[{kinds: [Config], names: [x]}]"},
            "p.yaml:6: spec.resources[0].kinds[0]: who may change",
        ),
        (
            {"actions": "[predict, admin]"},
            "spec.actions[1]: admin is done to a Node, and this is about a Model",
        ),
        (
            {"resources": "[{kinds: [Node], names: [n1]}]"},
            "spec.actions[0]: predict is done to a Model, and this is about a Node",
        ),
        (
            {"resources": "[{kinds: [Model], names: ['a b']}]"},
            "spec.resources[0].names[0]: 'a b' is not a model",
        ),
        (
            {"resources": "[{kinds: [Model, Model], names: [a]}]"},
            "spec.resources[0].kinds[1]: Model is there twice",
        ),
        (
            {"subjects": "[{kind: User, name: 'spiffe://m/client/ann'}]"},
            "spec.subjects[0].name: write the name alone: ann",
        ),
        (
            {"subjects": "[{kind: ServiceAccount, name: web}]"},
            "a ServiceAccount is <IdentityProvider>#<namespace>:<name>",
        ),
        ({"subjects": "[]"}, "spec.subjects"),
        (
            {"conditions": "[{key: network, operator: CIDR, values: [10.0.0.0/40]}]"},
            "p.yaml:8: spec.conditions[0]: ",
        ),
        ({"conditions": "[{key: x, operator: In}]"}, "spec.conditions[0]: In needs a value"),
        (
            {"conditions": "[{key: x, operator: Exists, values: [y]}]"},
            "spec.conditions[0]: Exists takes no values",
        ),
        ({"conditions": "[{key: x, operator: Is, values: [y]}]"}, "spec.conditions[0].operator: "),
        ({"conditions": "[{key: x, value: [y], operator: In}]"}, "did you mean values?"),
        ({"effect": "Refuse"}, "spec.effect: "),
    ],
)
def test_what_would_have_no_sense_is_refused_with_its_place(given: dict[str, str], says: str) -> None:
    found = faults(a_policy(**given))
    assert any(says in one for one in found), found


@pytest.mark.parametrize(
    "given",
    [
        {"actions": '["*"]'},
        {"resources": '[{kinds: [Model, Node], names: ["*"]}]', "actions": "[pull, predict]"},
        {"resources": "[{kinds: [Node], names: [n1]}]", "actions": "[admin, pull]"},
        {"subjects": '[{kind: ServiceAccount, name: "k8s#default:web"}, {kind: ServiceAccount, name: "*"}]'},
        {
            "resources": '[{kinds: [Model], names: ["hf.co/*/*", "team/x:7b"]}]',
            "effect": "Deny",
            "shadow": "true",
        },
    ],
)
def test_what_makes_sense_is_taken(given: dict[str, str]) -> None:
    assert faults(a_policy(**given)) == []


def test_two_of_one_name_are_refused() -> None:
    found = [str(fault) for fault in load([("a.yaml", GUIDE), ("b.yaml", GUIDE)]).faults]
    assert found == ["b.yaml:3: metadata.name: ModelAccessPolicy finance-team-policy is already in a.yaml:1"]


@pytest.mark.parametrize("part", ["subjects", "values"])
def test_a_policy_has_as_many_parts_as_are_taken_and_no_more(part: str) -> None:
    def named(count: int) -> list[str]:
        if part == "subjects":
            many = ", ".join(f"{{kind: User, name: u{number}}}" for number in range(count))
            return faults(a_policy(subjects=f"[{many}]"))
        values = ", ".join(f"v{number}" for number in range(count))
        return faults(a_policy(conditions=f"[{{key: department, operator: In, values: [{values}]}}]"))

    assert named(256) == []
    assert len(named(257)) == 1
