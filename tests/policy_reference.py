"""A second opinion on access policies: written to be read, not to be quick; shares nothing with the engine.

It goes through every policy for every question, and knows patterns as regular expressions.
"""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass, field
from typing import Any

DAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
UNKNOWN = object()
"""What the one who asks cannot know."""


@dataclass
class Question:
    """Who asks (as plain values), what for, about what, and what else is so."""

    kind: str  # client, admin, node, local, user
    name: str
    groups: tuple[str, ...]
    attributes: dict[str, str]
    role: str  # an admin's
    service_account: str  # its ServiceAccount name, or ""
    action: str
    resource: str
    resource_kind: str = "Model"
    now: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)  # network, num_ctx, keep_alive, images
    node: Any = UNKNOWN  # labels


@dataclass
class Opinion:
    allowed: bool
    policy: str
    shadowed: tuple[str, ...]
    by_node: bool


def decide(policies: list[Any], default_effect: str, local_listener: str, asked: Question) -> Opinion:
    """What the rules say."""
    if asked.kind == "local" and local_listener == "off":
        return Opinion(False, "", (), False)
    policies = sorted(policies, key=lambda one: one.name)
    in_force = [one for one in policies if not one.shadow]
    allowed, policy, by_node = _by(in_force, default_effect, local_listener, asked)
    shadowed = [
        one.name
        for one in policies
        if allowed and one.shadow and _would_refuse(one, asked, by_default=not policy)
    ]
    return Opinion(allowed, policy, tuple(shadowed), by_node)


def _by(
    policies: list[Any], default_effect: str, local_listener: str, asked: Question
) -> tuple[bool, str, bool]:
    denies = [(one.name, _holds(one, asked)) for one in policies if one.effect == "Deny"]
    for name, answer in denies:
        if answer is True:
            return False, name, False
    by_node = any(answer is UNKNOWN for _, answer in denies)
    allows = [(one.name, _holds(one, asked)) for one in policies if one.effect == "Allow"]
    for name, answer in allows:
        if answer is True:
            return True, name, by_node
    if _by_role(asked) or (not _closed(policies, asked) and _default(default_effect, local_listener, asked)):
        return True, "", by_node
    for name, answer in allows:
        if answer is UNKNOWN:
            return True, name, True
    return False, "", False


def _would_refuse(policy: Any, asked: Question, *, by_default: bool) -> bool:
    """Whether one in shadow surely would have, put in force: by what it denies, or by closing a model."""
    if policy.effect == "Deny":
        return _holds(policy, asked) is True
    closes = by_default and not _by_role(asked) and _closed([policy], asked)
    return closes and _holds(policy, asked) is False


def _closed(policies: list[Any], asked: Question) -> bool:
    if asked.resource_kind != "Model" or not asked.resource:
        return False
    return any(
        one.effect == "Allow" and {"predict", "embed", "*"} & set(one.actions) and _is_about(one, asked)
        for one in policies
    )


def _by_role(asked: Question) -> bool:
    if asked.kind != "admin":
        return False
    return asked.role in {"operator", "admin"} or asked.action in {"list", "show", "explain"}


def _default(default_effect: str, local_listener: str, asked: Question) -> bool:
    if asked.resource_kind == "Config":
        return False
    if asked.resource_kind == "Node":
        if asked.kind == "local":
            return asked.resource == asked.name
        return asked.action in {"pull", "push", "create", "copy", "delete"}
    if asked.kind == "local" and local_listener == "open":
        return True
    return default_effect == "Allow" and asked.action in {
        "predict",
        "embed",
        "list",
        "show",
        "unload",
        "explain",
    }


def _holds(policy: Any, asked: Question) -> Any:
    actions = set(policy.actions)
    if policy.effect == "Allow" and actions & {"predict", "embed"}:
        actions |= {"list", "show"}
    if not actions & {asked.action, "*"}:
        return False
    if not _is_about(policy, asked) or not any(_is_subject(one, asked) for one in policy.subjects):
        return False
    answers = []
    for one in policy.conditions:
        answer = _condition(one, asked)
        if answer == "undecided":
            answer = policy.effect == "Deny"
        answers.append(answer)
    if any(answer is False for answer in answers):
        return False
    return UNKNOWN if any(answer is UNKNOWN for answer in answers) else True


def _is_about(policy: Any, asked: Question) -> bool:
    names = [name for one in policy.resources if asked.resource_kind in one.kinds for name in one.names]
    if not asked.resource:
        return "*" in names if policy.effect == "Deny" else bool(names)
    if asked.resource_kind != "Model":
        return any(_glob(name, ".*").fullmatch(asked.resource) for name in names)
    spellings = _spellings(asked.resource)
    for name in names:
        if name == "*" or (name.strip("*") == "" and not spellings):
            return True
        if "*" in name:
            if any(_glob(name.lower(), "[^/]*").fullmatch(one) for one in spellings):
                return True
        elif _full(name) == asked.resource:
            return True
    return False


def _full(name: str) -> str:
    """`x` as registry.ollama.ai/library/x:latest, for names without faults."""
    path, colon, tag = name.lower().rpartition(":")
    if not colon or "/" in tag:
        path, tag = name.lower(), "latest"
    parts = path.split("/")
    return "/".join(["registry.ollama.ai", "library"][: 3 - len(parts)] + parts) + ":" + tag


def _spellings(full: str) -> list[str]:
    found = [full]
    for prefix in ("registry.ollama.ai/", "library/"):
        if found[-1].startswith(prefix):
            found.append(found[-1].removeprefix(prefix))
        else:
            break
    return found + [one.removesuffix(":latest") for one in found if one.endswith(":latest")]


def _is_subject(subject: Any, asked: Question) -> bool:
    is_user = asked.kind in {"client", "admin", "user"}
    if subject.kind == "Group":
        return any(_glob(subject.name, ".*").fullmatch(group) for group in asked.groups)
    if subject.kind == "Node":
        return asked.kind in {"node", "local"} and bool(_glob(subject.name, ".*").fullmatch(asked.name))
    if subject.kind == "User":
        return is_user and _is_user(subject.name, asked.name)
    return bool(asked.service_account) and _is_user(subject.name, asked.service_account)


def _is_user(pattern: str, name: str) -> bool:
    if pattern == "*":
        return True
    if "#" in pattern:
        first, _, last = pattern.partition("#")
        return bool(
            re.fullmatch(_glob(first, "[^#]*").pattern + "#" + _glob(last, ".*").pattern, name, re.DOTALL)
        )
    return bool(_glob(pattern, "[^#]*").fullmatch(name)) if "*" in pattern else pattern == name


def _glob(pattern: str, star: str) -> re.Pattern[str]:
    return re.compile("(?:" + star.join(map(re.escape, pattern.split("*"))) + ")", re.DOTALL)


def _condition(condition: Any, asked: Question) -> Any:
    key, operator, values = condition.key, condition.operator, list(condition.values)
    if key == "time":
        hours, minutes = values[0].split(":")
        than = (int(hours) * 60 + int(minutes)) * 60
        return asked.now % 86400 > than if operator == "Gt" else asked.now % 86400 < than
    if key == "weekday":
        day = DAYS[(int(asked.now // 86400) + 3) % 7]
        return (day in values) == (operator == "In")
    if key == "network":
        address = asked.facts.get("network", UNKNOWN)
        if address is UNKNOWN:
            return UNKNOWN
        if operator == "Exists" or not address:
            return bool(address)
        return any(ipaddress.ip_address(address) in ipaddress.ip_network(value) for value in values)
    if key.startswith("node."):
        if asked.node is UNKNOWN:
            return UNKNOWN
        given = asked.node.get(key[5:])
    elif key in {"num_ctx", "keep_alive", "images"}:
        given = asked.facts.get(key)
    else:
        given = asked.attributes.get(key)
    if given is None:
        return "undecided" if operator == "NotIn" else False
    if operator == "Exists":
        return True
    if operator == "Matches":
        return any(_glob(value, ".*").fullmatch(given) for value in values)
    if operator in {"In", "NotIn"} and isinstance(given, str):
        return (given in values) == (operator == "In")
    if isinstance(given, str):
        if not re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,9})?", given, re.ASCII):
            return "undecided"
        given = float(given)
    if math.isnan(given):
        return "undecided"
    if operator in {"In", "NotIn"}:
        return (given in [float(value) for value in values]) == (operator == "In")
    return given > float(values[0]) if operator == "Gt" else given < float(values[0])
