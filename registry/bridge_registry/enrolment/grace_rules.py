"""Whether a node whose certificate has ended may still renew it, and how often anybody may ask: pure.

Rules:
1. It may for as long after the end as the mesh allows (`renewalGrace` of the Mesh document); by default not
   at all, and a token brings it back.
2. The certificate is of a CA that the mesh trusts, nobody revoked it or its node, and its key is the one
   that was certified for the node last: of an older key there may be copies.
3. Who asks proves that it has the key, for this one request: it signs what the registry gave it a moment
   ago, which counts once, together with the request and the certificate.
4. Nobody asks without end: there is a budget for each node, and for each address of who shows none.
"""

from __future__ import annotations

from typing import Final

from bridge_core.quantities import say_span
from bridge_registry.enrolment.join_rules import EnrolmentRefused, JoinRefusal
from bridge_registry.records import NodeRecord

_MOST_KEYS: Final = 65_536


def check_grace(
    name: str, record: NodeRecord | None, key: str, *, expired: float, now: float, grace_s: float
) -> NodeRecord:
    """The node's record, when a certificate that ended at `expired` may renew itself (rules 1 and 2).

    Raises:
        EnrolmentRefused: it may not; the message says why, and that a token is needed.
    """
    hint = f"an admin makes a token: `bridgectl token create --node {name}`"
    if not grace_s:
        raise EnrolmentRefused(
            JoinRefusal.DENIED, "this mesh renews no certificate after its end (renewalGrace is 0)", hint=hint
        )
    if record is None or record.state == "revoked":
        raise EnrolmentRefused(JoinRefusal.DENIED, f"{name} is not a node of this mesh any more", hint=hint)
    if record.key != key:
        raise EnrolmentRefused(
            JoinRefusal.DENIED, f"the certificate's key is not the one that {name} got last", hint=hint
        )
    if now > expired + grace_s:
        raise EnrolmentRefused(
            JoinRefusal.DENIED,
            f"the certificate ended {say_span(now - expired)} ago, and this mesh renews it for "
            f"{say_span(grace_s)} after its end",
            hint=hint,
        )
    return record


class Budgets:
    """How often each of many may ask: `burst` times at once, and then once in `every_s` (rule 4)."""

    def __init__(self, burst: int, every_s: float, most: int = _MOST_KEYS) -> None:
        self._burst = burst
        self._every_s = every_s
        self._most = most
        self._until: dict[str, float] = {}  # when each has all of its budget back

    def take(self, key: str, now: float, every_s: float | None = None) -> bool:
        """Whether `key` may ask at `now`, in seconds; asking that is refused costs nothing.

        After a clock that was set back nobody waits longer than who has used up all of it.
        """
        every = self._every_s if every_s is None else every_s
        if key not in self._until and len(self._until) >= self._most:
            self._until = {name: until for name, until in self._until.items() if until > now}
            if len(self._until) >= self._most:
                return False
        most = now + self._burst * every
        until = min(max(now, self._until.get(key, now)), most)
        may = until + every <= most
        self._until[key] = until + every if may else until
        return may
