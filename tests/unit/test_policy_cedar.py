"""The engine against Cedar, where both can say it: random policies, random questions, no difference.

Cedar has no default but Deny and no closed models, so the mesh's default is Deny here; it knows neither
shadow nor what is unknown; what is absent is asked about as our operators mean it. `make policies` asks
100,000.
"""

from __future__ import annotations

import json
import os
import random
from typing import Any

import pytest

from bridge_core.identity.principal import Principal
from bridge_core.names import canonical, display
from bridge_core.policy.engine import PolicyBook
from bridge_core.policy.facts import Facts
from bridge_core.policy.statements import AccessPolicy, Condition, Resource, Subject
from bridge_core.security_settings import SecuritySettings

cedarpy = pytest.importorskip("cedarpy", reason="cedarpy is not installed: nothing says what Cedar would")

CASES = int(os.environ.get("BRIDGE_POLICY_CASES", "2000"))
ASKED_OF_EACH = 25
MODELS = ("a", "ab", "b", "a:7b", "risk-v3", "Risk-V3:latest")
PATTERNS = ("a*", "*", "*:7b", "r*-v*", "*b")
ACTIONS = ("predict", "embed", "list", "show", "pull", "delete")
CLIENTS = ("ann", "bob", "eve")
GROUPS = ("finance", "ops")
NODES = ("n1", "n2")


def condition(draw: random.Random) -> Condition:
    kind = draw.choice(("text", "text", "number", "network"))
    if kind == "network":
        return Condition("network", "CIDR", (draw.choice(("10.0.0.0/8", "192.168.1.0/24")),))
    if kind == "number":
        return Condition("num_ctx", draw.choice(("Gt", "Lt")), (draw.choice(("0", "4096", "8192")),))
    operator: Any = draw.choice(("In", "NotIn", "Exists", "Matches"))
    values: Any = draw.sample(("finance", "sales", "fin*", "*"), 2) if operator != "Exists" else ()
    return Condition("department", operator, tuple(values))


def policy(draw: random.Random, number: int) -> AccessPolicy:
    kind, named = draw.choice((("User", (*CLIENTS, "*")), ("Group", GROUPS), ("Node", (*NODES, "*"))))
    names = tuple(draw.sample((*MODELS, *PATTERNS), draw.randint(1, 2)))
    return AccessPolicy(
        f"p{number}",
        (Subject(kind, draw.choice(named)),),  # type: ignore[arg-type]
        (Resource(("Model",), names),),
        tuple(draw.sample((*ACTIONS, "*"), draw.randint(1, 2))),
        tuple(condition(draw) for _ in range(draw.choice((0, 0, 1, 2)))),
        draw.choice(("Allow", "Allow", "Deny")),
    )


def in_cedar(one: AccessPolicy) -> str:
    """A policy in Cedar's words."""
    (subject,) = one.subjects
    deny = one.effect == "Deny"
    kind = {"User": "Client", "Group": "Group", "Node": "Node"}[subject.kind]
    who = (
        f"principal is {kind}" if subject.name == "*" else f"principal == {kind}::{json.dumps(subject.name)}"
    )
    if kind == "Group":
        who = f"principal in Group::{json.dumps(subject.name)}"
    actions = {
        *one.actions,
        *(("list", "show") if not deny and {"predict", "embed"} & {*one.actions} else ()),
    }
    named = ", ".join(f"Action::{json.dumps(action)}" for action in sorted(actions))
    what = "action" if "*" in actions else f"action in [{named}]"
    about = " || ".join(map(_about, one.resources[0].names))
    conditions = "".join(f" && ({_condition(condition, deny=deny)})" for condition in one.conditions)
    return f"{'forbid' if deny else 'permit'} ({who}, {what}, resource) when {{ ({about}){conditions} }};"


def _about(name: str) -> str:
    if "*" not in name:
        return f"resource == Model::{json.dumps(canonical(name))}"
    return " || ".join(f"resource.{spelling} like {json.dumps(name)}" for spelling in ("whole", "bare"))


def _condition(one: Condition, *, deny: bool) -> str:
    holder = "principal" if one.key == "department" else "context"
    has = f"{holder} has {one.key}"
    value = f"{holder}.{one.key}"
    if one.operator == "Exists":
        return has
    if one.operator == "NotIn":
        differs = f"!({json.dumps(list(one.values))}.contains({value}))"
        return f"!({has}) || {differs}" if deny else f"{has} && {differs}"
    says = {
        "In": f"{json.dumps(list(one.values))}.contains({value})",
        "Matches": " || ".join(f"{value} like {json.dumps(pattern)}" for pattern in one.values),
        "Gt": f"{value} > {one.values and one.values[0]}",
        "Lt": f"{value} < {one.values and one.values[0]}",
        "CIDR": f"ip({value}).isInRange(ip({json.dumps(one.values[0] if one.values else '')}))",
    }[one.operator]
    return f"{has} && ({says})"


def models() -> list[dict[str, Any]]:
    found = {canonical(name): name for name in MODELS}
    return [
        {
            "uid": {"type": "Model", "id": name},
            "attrs": {"whole": display(name), "bare": display(name).removesuffix(":latest")},
            "parents": [],
        }
        for name in found
    ]


def question(draw: random.Random) -> tuple[Principal, dict[str, Any], Facts, dict[str, Any]]:
    """A principal, that one as Cedar's entity, facts, and those as Cedar's context."""
    if draw.random() < 0.2:
        name = draw.choice(NODES)
        who = Principal("node", name, f"spiffe://m/node/{name}")
        kind = "Node"
    else:
        name, kind = draw.choice(CLIENTS), "Client"
        attributes = draw.choice(({}, {"department": "finance"}, {"department": "sales"}))
        groups = tuple(draw.sample(GROUPS, draw.randint(0, 2)))
        who = Principal("client", name, f"spiffe://m/client/{name}", groups, attributes)
    entity = {
        "uid": {"type": kind, "id": name},
        "attrs": dict(who.attributes),
        "parents": [{"type": "Group", "id": group} for group in who.groups],
    }
    context: dict[str, Any] = {}
    num_ctx = draw.choice((None, 0, 4096, 8193))
    network = draw.choice(("", "10.1.2.3", "192.168.1.7", "8.8.8.8"))
    if num_ctx is not None:
        context["num_ctx"] = num_ctx
    if network:
        context["network"] = network
    facts = Facts(0.0, network, None if num_ctx is None else float(num_ctx))
    return who, entity, facts, context


def test_the_engine_and_cedar_agree_on_random_policies() -> None:
    draw = random.Random(os.environ.get("BRIDGE_POLICY_SEED", "21"))
    seen = {True: 0, False: 0}
    for _ in range(max(1, CASES // ASKED_OF_EACH)):
        policies = [policy(draw, number) for number in range(draw.randint(1, 6))]
        book = PolicyBook(policies, SecuritySettings("Deny"))
        text = "\n".join(map(in_cedar, policies))
        for _ in range(ASKED_OF_EACH // 5):
            who, entity, facts, context = question(draw)
            asked = [(draw.choice(ACTIONS), canonical(draw.choice(MODELS))) for _ in range(5)]
            requests = [
                {
                    "principal": f"{entity['uid']['type']}::{json.dumps(entity['uid']['id'])}",
                    "action": f"Action::{json.dumps(action)}",
                    "resource": f"Model::{json.dumps(model)}",
                    "context": context,
                }
                for action, model in asked
            ]
            cedars = cedarpy.is_authorized_batch(requests, text, [entity, *models()])
            for (action, model), cedar in zip(asked, cedars, strict=True):
                ours = book.decide(who, action, "Model", model, facts)  # type: ignore[arg-type]
                told = (text, entity, context, action, model, ours, cedar.diagnostics.errors)
                assert not cedar.diagnostics.errors, told
                assert ours.allowed is (cedar.decision == cedarpy.Decision.Allow), told
                seen[ours.allowed] += 1
    assert min(seen.values()) > sum(seen.values()) // 20  # both happen
