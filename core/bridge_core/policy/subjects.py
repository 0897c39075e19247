"""Whom policies name, and what of it a principal is. Pure.

| subject | is |
|---|---|
| `User ann` | the client or the admin of this name |
| `User corp#ann` | `ann` of the identity provider `corp` |
| `Group staff` | whoever belongs to it |
| `Node node1` | that node itself, and whoever calls its loopback listener |
| `ServiceAccount cluster#default:web` | `web` in the namespace `default`, by tokens of `cluster` |

A service account is a User as well, by its whole name: `cluster#system:serviceaccount:default:web`.
`*` stands for any characters; but of a User it does not go over the `#`, so that `a*` names clients and
admins alone: whom a provider calls what is not this mesh's to say. `*` alone is every one of its kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bridge_core.identity.principal import Principal
from bridge_core.policy.globs import ANY, Glob
from bridge_core.policy.statements import Subject, SubjectKind

_OF_PROVIDER: Final = "#"
_PROVIDED: Final = frozenset({"User", "ServiceAccount"})
_SERVICE_ACCOUNT: Final = "system:serviceaccount:"


class Subjects:
    """Whom one policy is about."""

    __slots__ = ("_exact", "_patterns")

    def __init__(self, named: Iterable[Subject]) -> None:
        named = tuple(named)
        self._exact = {(one.kind, one.name) for one in named if ANY not in one.name}
        self._patterns = [_Pattern(one) for one in named if ANY in one.name]

    def include(self, identities: Iterable[tuple[SubjectKind, str]]) -> bool:
        """Whether any of what a principal is, is named."""
        if not self._exact.isdisjoint(identities):
            return True
        return any(one.matches(kind, name) for one in self._patterns for kind, name in identities)


class _Pattern:
    __slots__ = ("_before", "_behind", "_kind")

    def __init__(self, subject: Subject) -> None:
        self._kind = subject.kind
        name, mark, behind = subject.name, "", ""
        if subject.kind in _PROVIDED and name != ANY:
            name, mark, behind = name.partition(_OF_PROVIDER)
        self._before = Glob(name)
        self._behind = Glob(behind) if mark else None

    def matches(self, kind: SubjectKind, name: str) -> bool:
        if kind != self._kind:
            return False
        if kind not in _PROVIDED or (self._before.pattern == ANY and self._behind is None):
            return self._before.matches(name)
        provider, mark, subject = name.partition(_OF_PROVIDER)
        if self._behind is None:
            return not mark and self._before.matches(name)
        return bool(mark) and self._before.matches(provider) and self._behind.matches(subject)


def identities(who: Principal) -> tuple[tuple[SubjectKind, str], ...]:
    """Everything that a principal is to a policy."""
    own: list[tuple[SubjectKind, str]] = [("Group", group) for group in who.groups]
    if who.kind in {"node", "local"}:
        own.append(("Node", who.name))
    elif who.kind == "user":
        own.append(("User", who.text))
        provider, mark, subject = who.text.partition(_OF_PROVIDER)
        if who.service_account and subject.startswith(_SERVICE_ACCOUNT):
            own.append(("ServiceAccount", f"{provider}{mark}{subject.removeprefix(_SERVICE_ACCOUNT)}"))
    elif _OF_PROVIDER not in who.name:  # else a client could be called as somebody of a provider is
        own.append(("User", who.name))
    return tuple(own)
