"""What an operator should look at, a sentence each, of what the agent's parts know: pure.

A concern says what is wrong, since when or for how long where that is known, and what to do about it where
that is not plain. What belongs to one part alone (walls, GPUs) that part says itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from bridge_core.quantities import say_size, say_span

if TYPE_CHECKING:
    from bridge_agent.engines.instance import InstanceStatus

CRASHED_LATELY_S: Final = 600.0
LOW_DISK: Final = 0.05  # of a file system
LOW_DISK_BYTES: Final = 1 << 30
_MOST_NOTES: Final = 1024


class Disk(msgspec.Struct, frozen=True):
    """A file system that the agent or its engines write to."""

    path: str
    free: int
    total: int


class FailureNotes:
    """What last went wrong at each instance, for who asks why it is passed over."""

    def __init__(self) -> None:
        self._notes: dict[str, str] = {}

    def take(self, subject: str, detail: str) -> None:
        """Notes a failure."""
        if len(self._notes) >= _MOST_NOTES and subject not in self._notes:
            self._notes.clear()  # of instances long gone, most of it
        self._notes[subject] = detail[:200]

    def of(self, subject: str) -> str:
        """The last failure of an instance, or of any of a node; empty: none is known."""
        own = self._notes.get(subject, "")
        return own or next((note for at, note in self._notes.items() if at.startswith(f"{subject}/")), "")


def ejection_concerns(ejections: Mapping[str, float], notes: FailureNotes) -> list[str]:
    """Who is passed over, for how many seconds more, and why."""
    return [
        f"{subject} is passed over for {say_span(left)} more: {notes.of(subject) or 'it does not answer'}"
        for subject, left in sorted(ejections.items())
    ]


def engine_concerns(instances: Iterable[InstanceStatus]) -> list[str]:
    """Engines that crash, or did a short while ago."""
    found = []
    for one in instances:
        ready_for = one.phase_s if one.phase == "ready" else 0.0
        if one.reason and one.failures and ready_for < CRASHED_LATELY_S:
            times = "once" if one.failures == 1 else f"{one.failures} times in a row"
            log = f"; its log is {one.log}" if one.log else ""
            found.append(f"{one.id} failed {times} and is {one.phase}: {one.reason}{log}")
    return found


def disk_concerns(disks: Iterable[Disk]) -> list[str]:
    """File systems that are nearly full."""
    return [
        f"{one.path} has {say_size(one.free)} of {say_size(one.total)} free: remove models, or what fills it"
        for one in disks
        if one.free < min(LOW_DISK_BYTES, LOW_DISK * one.total)
    ]


def why_not_a_member(member: bool | None, refusal: str) -> str:
    """Why a node is none of its mesh any more; empty: nothing says that.

    Args:
        member: Whether the mesh's snapshot has it; None: no registry has said yet.
        refusal: How a registry refused it; empty: none did.
    """
    if refusal or member is not False:
        return refusal
    return "the mesh's snapshot does not have it, or has it as revoked"


def member_concern(why_not: str, back: str) -> list[str]:
    """A node that its mesh does not know any more, and what makes it a member again."""
    return [f"this node is not a member of the mesh: {why_not}; {back}"] if why_not else []


def store_concern(down_s: float, ttl_s: float, reason: str) -> list[str]:
    """A node that cannot renew its lease, for so long; its life is `ttl_s`."""
    if down_s <= ttl_s:
        return []
    what = f"no store guard has answered for {say_span(down_s)} ({reason}): this node's lease has run out"
    return [f"{what}. While those of others go on, nobody sends it requests; its own clients are served"]
