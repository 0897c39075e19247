"""Which mesh makes which rounds. Pure.

A fault that has to be learnt first (three times the latency) shares its meshes with those that leave the
traffic alone (a disk, a clock), which have their rounds while it is learnt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

LOW, HIGH = 9.0, 54.0
"""Requests a second of a mesh of three."""


@dataclass(frozen=True)
class Kind:
    """A kind of mesh.

    Attributes:
        faults: Its rounds, one after the other, again and again.
        rate: Requests a second.
        failing: Whether its node3 has the engine that can fail.
        after: Faults whose rounds begin when enough is learnt, in place of the others.
        share: How many of the meshes, as a weight.
    """

    faults: tuple[str, ...]
    rate: float = LOW
    failing: bool = False
    after: tuple[str, ...] = ()
    share: int = 1


KINDS: Final = (
    Kind(("disk", "clock"), after=("slow",), share=8),
    Kind(("killed", "hung", "gpu", "network"), share=4),
    Kind(("errors",), rate=HIGH, failing=True, share=2),
    Kind(("wrong",), share=2),
)


@dataclass(frozen=True)
class Share:
    """What one mesh does."""

    kind: Kind
    faults: tuple[str, ...]
    after: tuple[str, ...]


def shares(wanted: Sequence[str], meshes: int) -> Iterator[Share]:
    """What each of so many meshes does; kinds of which nothing is wanted have none."""
    kinds = [
        Share(
            kind,
            tuple(one for one in kind.faults if one in wanted),
            tuple(one for one in kind.after if one in wanted),
        )
        for kind in KINDS
    ]
    kinds = [one for one in kinds if one.faults or one.after]
    given = [0] * len(kinds)
    for _ in range(max(meshes, len(kinds))):
        at = min(range(len(kinds)), key=lambda one: (given[one] / kinds[one].kind.share, one))
        given[at] += 1
        yield kinds[at]
