"""When the end of a certificate is somebody's business, before it is late: pure. Times are Unix seconds.

Rules:
1. What renews itself is at fault once most of its life is over: it should have been renewed long before.
2. A CA does not renew itself: an admin rotates it, and needs time for that, for a root more than for an
   intermediate.
3. Of one that lives shorter than that altogether, the last tenth of its life counts.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bridge_core.quantities import say_span

OVERDUE_AT: Final = 0.9  # of its life
_DAY_S: Final = 86_400.0
NOTICE_S: Final = {"root": 90 * _DAY_S, "intermediate": 30 * _DAY_S, "etcd-ca": 90 * _DAY_S}


class Expiry(msgspec.Struct, frozen=True):
    """The life of one certificate.

    Attributes:
        kind: root, intermediate, etcd-ca, or what it is used for: node, registry, guard, admin, …
        name: Which of them.
        begins: Start of validity.
        ends: End of validity.
    """

    kind: str
    name: str
    begins: float
    ends: float


def expiry_concern(one: Expiry, now: float) -> str:
    """What to do about it; empty: nothing."""
    what = f"{one.kind} {one.name}".rstrip()
    if now >= one.ends:
        return f"the certificate of {what} ended {say_span(now - one.ends)} ago{_remedy(one)}"
    if now < _notice(one):
        return ""
    return f"the certificate of {what} ends in {say_span(one.ends - now)}{_remedy(one)}"


def _notice(one: Expiry) -> float:
    late = one.begins + OVERDUE_AT * (one.ends - one.begins)
    notice_s = NOTICE_S.get(one.kind)
    if notice_s is None or one.ends - one.begins <= notice_s:
        return late
    return one.ends - notice_s


def _remedy(one: Expiry) -> str:
    match one.kind:
        case "root":
            return ": `bridgectl ca rotate begin --new-root`"
        case "intermediate":
            return ": `bridgectl ca rotate begin`"
        case "etcd-ca":
            return ": remove etcd-ca.* from pki/, run init, restart etcd, registry and guard"
        case _:
            return " and could not be renewed yet"
