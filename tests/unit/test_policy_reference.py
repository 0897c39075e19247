"""The engine against a deliberately simple reference: random policies, random questions, no difference.

`BRIDGE_POLICY_CASES=100000 pytest tests/unit/test_policy_reference.py` (`make policies`) asks more.
"""

from __future__ import annotations

import os
import random
from typing import Any

from bridge_core.identity.principal import Principal
from bridge_core.names import canonical
from bridge_core.policy.engine import PolicyBook
from bridge_core.policy.facts import UNREADABLE, Facts
from bridge_core.policy.statements import AccessPolicy, Condition, Resource, Subject
from bridge_core.security_settings import SecuritySettings
from tests.policy_reference import Question, decide

CASES = int(os.environ.get("BRIDGE_POLICY_CASES", "4000"))
ASKED_OF_EACH = 20

NAMES = ("ann", "bob", "an", "corp#ann", "corp#a#b", "c2#ann")
GROUPS = ("finance", "fin", "ops")
NODES = ("n1", "n2", "gpu-1")
MODELS = (
    "a",
    "A:latest",
    "library/a",
    "a:7b",
    "team/a",
    "hf.co/team/a",
    "ab",
    "registry.ollama.ai/library/a",
)
MODEL_PATTERNS = (
    "*",
    "a*",
    "*:7b",
    "team/*",
    "*/a",
    "hf.co/*/*",
    "library/*",
    "A*",
    "*b",
    "registry.ollama.ai/*/*",
)
ACTIONS = ("predict", "embed", "list", "show", "pull", "copy", "delete", "unload", "explain")
EDGE_S = (0.0, 8 * 3600.0, 8 * 3600.0 + 1, 86_399.0, 4 * 86_400.0, 1_700_000_000.0)


def subject(draw: random.Random) -> Subject:
    kind = draw.choice(("User", "User", "Group", "Group", "Node", "ServiceAccount"))
    names: tuple[str, ...] = {
        "User": (*NAMES, "*", "a*", "corp#*", "*#ann", "*n", "corp#system:*", "c*#a*"),
        "Group": (*GROUPS, "*", "fin*"),
        "Node": (*NODES, "*", "gpu-*"),
        "ServiceAccount": ("k8s#default:web", "*", "k8s#*", "*:web", "*#default:*"),
    }[kind]
    return Subject(kind, draw.choice(names))


def resource(draw: random.Random) -> Resource:
    kinds = draw.choice((("Model",), ("Model",), ("Model",), ("Node",), ("Model", "Node"), ("Config",)))
    names = (*MODELS, *MODEL_PATTERNS) if "Model" in kinds else (*NODES, "*", "gpu-*", "n*")
    return Resource(kinds, tuple(draw.sample(names, draw.randint(1, 2))))


def condition(draw: random.Random) -> Condition:
    key = draw.choice(
        (
            "department",
            "level",
            "level",
            "time",
            "weekday",
            "network",
            "num_ctx",
            "keep_alive",
            "images",
            "node.zone",
            "node.name",
        )
    )
    if key == "time":
        return Condition(key, draw.choice(("Gt", "Lt")), (draw.choice(("00:00", "08:00", "23:59")),))
    if key == "weekday":
        return Condition(key, draw.choice(("In", "NotIn")), tuple(draw.sample(("Mon", "Thu", "Tue"), 2)))
    if key == "network":
        if draw.random() < 0.1:
            return Condition(key, "Exists")
        return Condition(key, "CIDR", tuple(draw.sample(("10.0.0.0/8", "192.168.1.1/32", "fd00::/8"), 2)))
    numeric = key in {"num_ctx", "keep_alive", "images"}
    operators = (
        ("In", "NotIn", "Exists", "Gt", "Lt") if numeric else ("In", "NotIn", "Exists", "Gt", "Lt", "Matches")
    )
    operator: Any = draw.choice(operators)
    if operator == "Exists":
        return Condition(key, operator)
    if operator in {"Gt", "Lt"}:
        return Condition(key, operator, (draw.choice(("0", "3", "4096", "-1", "2.5")),))
    words = ("0", "3", "4096") if numeric else ("finance", "eu", "3", "f*", "*", "*an*", "n1", "")
    return Condition(key, operator, tuple(draw.sample(words, draw.randint(1, 2))))


def policy(draw: random.Random, number: int) -> AccessPolicy:
    return AccessPolicy(
        f"p{draw.randrange(100):02}-{number}",
        tuple(subject(draw) for _ in range(draw.randint(1, 2))),
        tuple(resource(draw) for _ in range(draw.randint(1, 2))),
        tuple(draw.sample((*ACTIONS, "*"), draw.randint(1, 3))),
        tuple(condition(draw) for _ in range(draw.choice((0, 0, 0, 1, 1, 2)))),
        draw.choice(("Allow", "Allow", "Deny")),
        draw.random() < 0.2,
    )


def question(draw: random.Random) -> tuple[Principal, Question, Facts]:
    kind: Any = draw.choice(("client", "client", "client", "user", "user", "admin", "node", "local"))
    groups = tuple(draw.sample(GROUPS, draw.randint(0, 2)))
    attributes = {
        key: draw.choice(("finance", "eu", "3", "4.5", "x", "", "2"))
        for key in draw.sample(("department", "level", "time"), draw.randint(0, 2))
    }
    account = role = ""
    if kind == "user":
        text = draw.choice(("corp#ann", "corp#a#b", "c2#ann", "k8s#system:serviceaccount:default:web"))
        if ":web" in text and draw.random() < 0.8:
            account = "k8s#default:web"
        who = Principal(kind, text.partition("#")[2], text, groups, attributes, service_account=bool(account))
        name = text
    elif kind in {"node", "local"}:
        name = draw.choice(NODES)
        who = Principal(kind, name, "local" if kind == "local" else f"spiffe://m/node/{name}")
        groups, attributes = (), {}
    else:
        name = draw.choice(NAMES[:3])
        if kind == "admin":
            role = draw.choice(("viewer", "operator", "admin"))
            groups, attributes = (), {"role": role}
        who = Principal(kind, name, f"spiffe://m/{kind}/{name}", groups, attributes)
    on: Any = draw.choice(("Model",) * 8 + ("Node", "Config"))
    if on == "Model":
        asked = "" if draw.random() < 0.05 else canonical(draw.choice(MODELS))
    else:
        asked = draw.choice(NODES)
    facts: dict[str, Any] = {
        key: value
        for key, value in (
            ("network", draw.choice((None, "", "10.1.2.3", "192.168.1.1", "fd00::1", "8.8.8.8"))),
            ("num_ctx", draw.choice((None, 3.0, 4096.0, 2.0, UNREADABLE))),
            ("keep_alive", draw.choice((None, 0.0, 300.0, float("inf")))),
            ("images", draw.choice((0.0, 3.0, 4.0))),
        )
        if value is not None
    }
    labels = draw.choice((None, {"name": "n1"}, {"name": "gpu-1", "zone": "eu"}, {"zone": "3", "name": "x"}))
    now = draw.choice(EDGE_S)
    its = Question(kind, name, groups, attributes, role, account, draw.choice(ACTIONS), asked, on, now, facts)
    if labels is not None:
        its.node = labels
    given = Facts(now, node=labels, **facts)
    return who, its, given


def test_the_engine_and_a_simple_reference_agree_on_random_policies() -> None:
    draw = random.Random(os.environ.get("BRIDGE_POLICY_SEED", "20"))
    seen = {True: 0, False: 0}
    for _ in range(max(1, CASES // ASKED_OF_EACH)):
        policies = [policy(draw, number) for number in range(draw.randint(0, 6))]
        settings = SecuritySettings(
            draw.choice(("Allow", "Allow", "Deny")), draw.choice(("open", "open", "policy", "off"))
        )
        book = PolicyBook(policies, settings)
        for _ in range(ASKED_OF_EACH):
            who, asked, facts = question(draw)
            engines = book.decide(who, asked.action, asked.resource_kind, asked.resource, facts)  # type: ignore[arg-type]
            simple = decide(policies, settings.default_effect, settings.local_listener, asked)
            told = (policies, settings, who, asked, engines, simple)
            assert engines.allowed == simple.allowed, told
            assert engines.by_node == simple.by_node, told
            assert engines.policy == simple.policy, told
            assert engines.shadowed == simple.shadowed, told
            seen[engines.allowed] += 1
    assert min(seen.values()) > sum(seen.values()) // 10  # both happen, often
