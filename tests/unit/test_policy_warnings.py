"""Policies that may not mean what they say."""

from __future__ import annotations

import pytest

from bridge_core.clients import Client
from bridge_core.config import load
from bridge_core.snapshot import Instance, MemberModel
from bridge_registry.traffic.policy_warning_rules import There, suspect_policies
from tests.unit.test_access_policy_documents import a_policy

THERE = There(
    (Instance("n1/0", "n1", models=(MemberModel("m:latest"),)),),
    {"n1"},
    {"ann": Client("ann", ("staff",))},
    {"root"},
)
ROUTE = """apiVersion: bridge.deepseek.io/v1
kind: ModelRoute
metadata: {name: chat}
spec: {backends: [{model: m}]}
"""


def mesh(security: str) -> str:
    return f"""apiVersion: bridge.deepseek.io/v1
kind: Mesh
metadata: {{name: mesh}}
spec: {{security: {{{security}}}}}
"""


def warned(*texts: str) -> list[str]:
    documents = [
        one.parsed for at, text in enumerate(texts) for one in load([(f"{at}", text)], alone=True).documents
    ]
    assert len(documents) == len(texts)
    return [one.removeprefix("policy p: ") for one in suspect_policies(documents[:1], documents, THERE)]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, []),
        ({"subjects": "[{kind: User, name: root}, {kind: Group, name: staff}, {kind: Node, name: n1}]"}, []),
        ({"subjects": "[{kind: User, name: 'b*'}, {kind: Group, name: 'x*'}]"}, []),
        ({"subjects": "[{kind: User, name: bob}]"}, ["there is no client or admin bob"]),
        ({"subjects": "[{kind: Group, name: finance}]"}, ["nobody belongs to the group finance"]),
        ({"subjects": "[{kind: Node, name: n2}]"}, ["there is no node n2"]),
        ({"subjects": "[{kind: User, name: 'corp#ann'}]"}, ["there is no IdentityProvider corp"]),
        ({"resources": "[{kinds: [Model], names: [M, 'x*', chat]}]"}, []),
        (
            {"resources": "[{kinds: [Model], names: [other]}]"},
            ["no node has the model other, and no route is called so"],
        ),
        ({"resources": "[{kinds: [Node], names: [n1, n3]}]", "actions": "[pull]"}, ["there is no node n3"]),
        (
            {"conditions": "[{key: numCtx, operator: Gt, values: ['1']}]"},
            ["numCtx is taken for an attribute of the subject: did you mean num_ctx?"],
        ),
        ({"conditions": "[{key: department, operator: In, values: [x]}]"}, []),
        (
            {"resources": "[{kinds: [Model], names: ['*']}]"},
            ["it closes every model to all whom no policy allows to use it"],
        ),
        ({"resources": "[{kinds: [Model], names: ['*']}]", "actions": "[pull]"}, []),
        ({"resources": "[{kinds: [Model], names: ['*']}]", "effect": "Deny"}, []),
        ({"resources": "[{kinds: [Model], names: ['*']}]", "shadow": "true"}, []),
    ],
)
def test_what_nobody_has_is_warned_of(given: dict[str, str], says: list[str]) -> None:
    assert warned(a_policy(**given), ROUTE) == says


def provider(more: str = "") -> str:
    return (
        "apiVersion: security.deepseek.io/v1\nkind: IdentityProvider\nmetadata: {name: corp}\n"
        "spec:\n  issuer: https://login.example.com\n  audiences: [bridge]\n"
        f"  jwksUri: https://login.example.com/keys\n{more}"
    )


@pytest.mark.parametrize(
    ("subject", "more", "says"),
    [
        ("{kind: User, name: 'corp#ann'}", "", []),
        ("{kind: User, name: 'other#ann'}", "", ["there is no IdentityProvider other"]),
        (
            "{kind: ServiceAccount, name: 'corp#ns:web'}",
            "",
            ["the IdentityProvider corp is not of Kubernetes: it has no service accounts"],
        ),
        ("{kind: ServiceAccount, name: 'corp#ns:web'}", "  kubernetes: true\n", []),
        ("{kind: Group, name: finance}", "", ["nobody belongs to the group finance"]),
        ("{kind: Group, name: finance}", "  claims: {groups: roles}\n", []),
        ("{kind: Group, name: 'fin*'}", "", []),
        ("{kind: User, name: ann}", "", []),
    ],
)
def test_subjects_of_a_provider(subject: str, more: str, says: list[str]) -> None:
    assert warned(a_policy(subjects=f"[{subject}]"), provider(more)) == says


@pytest.mark.parametrize(
    ("resources", "actions", "says"),
    [
        ("{kinds: [Model, Node], names: [n1]}", "pull", []),
        ("{kinds: [Model, Node], names: [m]}", "pull", []),
        (
            "{kinds: [Model, Node], names: [x]}",
            "pull",
            ["no node has the model x, and no route is called so"],
        ),
        ("{kinds: [Node], names: [m]}", "pull", ["there is no node m"]),
        ("{kinds: [Model], names: [n1]}", "pull", ["no node has the model n1, and no route is called so"]),
        ("{kinds: [Node], names: ['*']}", "'*'", []),
    ],
)
def test_resources_that_are_models_or_nodes(resources: str, actions: str, says: list[str]) -> None:
    assert warned(a_policy(resources=f"[{resources}]", actions=f"[{actions}]")) == says


def test_a_condition_on_a_node_or_request_is_no_attribute() -> None:
    given = "[{key: node.zone, operator: In, values: [x]}, {key: num_ctx, operator: Lt, values: ['9']}]"
    assert warned(a_policy(conditions=given)) == [], "m is there"


def test_where_the_default_is_allow_every_model_is_closed_by_a_star() -> None:
    every = a_policy(resources="[{kinds: [Model], names: ['*']}]")
    closes = ["it closes every model to all whom no policy allows to use it"]
    assert warned(every) == closes
    assert warned(every, mesh("defaultEffect: Allow")) == closes


def test_closing_every_model_is_nothing_new_where_the_default_is_deny() -> None:
    every = a_policy(resources="[{kinds: [Model], names: ['*']}]")
    assert warned(every, mesh("defaultEffect: Deny")) == []


def test_a_default_that_the_loopback_is_not_subject_to_is_warned_of() -> None:
    assert "localListener: policy" in warned(mesh("defaultEffect: Deny"))[0]
    assert warned(mesh("defaultEffect: Deny, localListener: policy")) == []
    assert warned(mesh("defaultEffect: Allow")) == []
