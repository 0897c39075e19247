"""Whether a subject of a policy or a quota is about somebody: pure.

| subject | is about |
|---|---|
| User | a client or an admin by its name, a token's subject, `local`; or whoever's whole text it is |
| Group | whoever belongs to it |
| Node | a node that asks for itself, and the programs on its loopback |
| ServiceAccount | a program's identity of Kubernetes, by its name |
"""

from __future__ import annotations

from bridge_core.identity.principal import LOCAL_TEXT, Principal
from bridge_core.policy.statements import Subject


def matches(subject: Subject, who: Principal) -> bool:
    """Whether `subject` is about `who`; in its name `*` stands for any characters."""
    return matching(subject, who) != ()


def matching(subject: Subject, who: Principal) -> tuple[str, ...]:
    """The names by which `subject` is about `who`: of a Group, each group of theirs that it names."""
    kind, pattern = subject.kind, subject.name
    if kind == "Group":
        return tuple([group for group in who.groups if like(pattern, group)])
    if kind == "Node":
        found = who.kind in ("node", "local") and like(pattern, who.name)
    elif kind == "ServiceAccount":
        found = who.service_account and like(pattern, who.name)
    elif who.kind == "local":  # its name is its node's
        found = like(pattern, LOCAL_TEXT)
    else:
        found = who.kind != "node" and (like(pattern, who.name) or like(pattern, who.text))
    return (who.name,) if found else ()


def like(pattern: str, text: str) -> bool:
    """Whether `text` is what `pattern` says, in which `*` stands for any characters. Linear in both."""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == text
    last = rest.pop()
    if len(text) < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
        return False
    at, end = len(first), len(text) - len(last)
    for part in rest:  # each as early as it can be: what comes after then has the most room
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
