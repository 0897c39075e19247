"""Which weights a model's name means to a node, where the copies in the mesh differ.

Rules:
1. A name means one digest. A node that has a copy of its own means that one's, also while its engine
   starts again: what it lists is what its clients get.
2. A node without one means what most nodes have; of equally many the newest; of equally new ones the
   digest that comes first in order. One node can thus not give a name another meaning for all.
3. Copies at what is leaving (drained, draining, stopped) count only where there are no others.
4. Of a copy without a digest nothing is known: it is taken for what is meant.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Final

import msgspec

from bridge_core.snapshot import MemberModel

_SHORT: Final = 12


class Copy(msgspec.Struct, frozen=True):
    """A model on the disk of one instance.

    Attributes:
        instance: Its id.
        node: Its node.
        model: As the instance lists it.
        own: The node is the one that decides.
        leaving: Nothing new is to go there.
    """

    instance: str
    node: str
    model: MemberModel
    own: bool = False
    leaving: bool = False


def meant(copies: Iterable[Copy]) -> str:
    """The digest that the name of these copies means; empty where none is known."""
    known = [copy for copy in copies if copy.model.digest]
    staying = [copy for copy in known if not copy.leaving]
    own = [copy for copy in staying if copy.own]
    return _of_most(own or staying or known)


def is_meant(copy: Copy, digest: str) -> bool:
    """Whether this copy is of the digest that its name means (rule 4)."""
    return not digest or copy.model.digest in ("", digest)


def difference(copy: Copy, digest: str) -> str:
    """Why a copy does not serve requests for its name."""
    other, ours = copy.model.digest[:_SHORT], digest[:_SHORT]
    return f"has other weights by this name: digest {other}, {ours} is meant here"


def moment(stamp: str) -> float:
    """Seconds since 1970 of a time as Go writes it; 0 where it is none."""
    try:
        # Go writes nanoseconds, which fromisoformat takes as far as microseconds.
        read = dt.datetime.fromisoformat(stamp)
        return (read if read.tzinfo else read.replace(tzinfo=dt.UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _of_most(copies: list[Copy]) -> str:
    nodes: dict[str, set[str]] = {}
    newest: dict[str, float] = {}
    for copy in copies:
        digest = copy.model.digest
        nodes.setdefault(digest, set()).add(copy.node)
        newest[digest] = max(newest.get(digest, 0.0), moment(copy.model.modified_at))
    return min(nodes, key=lambda one: (-len(nodes[one]), -newest[one], one), default="")
