"""Whom and what a quota is about: pure."""

from __future__ import annotations

from collections.abc import Iterator

from bridge_core.identity.principal import Principal
from bridge_core.policy.resources import exact, is_pattern, pattern, spellings
from bridge_core.policy.subjects import Subjects, identities
from bridge_core.quotas import Quota


class Scope:
    """One quota's.

    Args:
        quota: Which.
    """

    __slots__ = ("_exact", "_groups", "_patterns", "_subjects", "quota")

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self._exact = {exact("Model", name) for name in quota.models if not is_pattern(name)}
        self._patterns = [pattern("Model", name) for name in quota.models if is_pattern(name)]
        self._subjects = Subjects(quota.subjects)
        self._groups = Subjects(subject for subject in quota.subjects if subject.kind == "Group")

    def covers(self, model: str) -> bool:
        """Whether it is about a model or route of this canonical name; without any named, about all."""
        if not self.quota.models or model in self._exact:
            return True
        names = spellings("Model", model)
        return any(one.matches(name) for one in self._patterns for name in names)

    def counted(self, who: Principal) -> Iterator[str]:
        """Of whom it counts what somebody uses; nobody where it is not about them."""
        quota = self.quota
        if quota.per == "group":
            # Of each group by itself: whoever is in two uses up both.
            yield from sorted(group for group in who.groups if self._groups.include([("Group", group)]))
        elif not quota.subjects or self._subjects.include(identities(who)):
            yield who.text if quota.per == "client" else ""
