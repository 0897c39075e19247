"""The admin's status of a large mesh: shared things are gone through once."""

from __future__ import annotations

from collections.abc import Iterator

from bridge_core.snapshot import Instance, Node, Snapshot, Version, encode_entry
from bridge_registry.membership.load_book import NodeLoad
from bridge_registry.membership.node_status import standings
from bridge_registry.records import NodeRecord


class Counted:
    """An iterable that counts what is taken of it."""

    def __init__(self, items: list[object]) -> None:
        self.items, self.taken = items, 0

    def __iter__(self) -> Iterator[object]:
        for item in self.items:
            self.taken += 1
            yield item


def test_members_are_gone_through_once_for_a_thousand_nodes() -> None:
    names = [f"n{at:04}" for at in range(1000)]
    version = Version(1, 1)
    published = {version: Snapshot(version, {f"node/{n}": encode_entry(Node(n)) for n in names})}
    members = Counted([Instance(f"{name}/{k}", name) for name in names for k in (1, 0)])
    heard = Counted([version] * 1000)
    found = list(standings([NodeRecord(n) for n in names], members, published, heard, {}, now=0.0))  # type: ignore[arg-type]
    assert (members.taken, heard.taken) == (2000, 1000)
    assert found[7].instances == ("n0007/0", "n0007/1")
    assert not found[7].safe_to_stop


def test_a_drained_node_is_safe_once_everybody_heard_and_nothing_runs() -> None:
    before, after = Version(1, 1), Version(1, 2)
    drained = Snapshot(after, {"node/a": encode_entry(Node("a", state="drained"))})
    published = {before: Snapshot(before, {"node/a": encode_entry(Node("a"))}), after: drained}
    idle = NodeLoad(10.0, 1, 0, after)

    def safe(heard: list[Version | None], load: NodeLoad) -> bool:
        (found,) = standings([NodeRecord("a", state="drained")], [], published, heard, {"a": load}, now=11.0)
        return found.safe_to_stop

    assert safe([after], idle)
    assert not safe([after, before], idle)
    assert not safe([after, None], idle)
    assert not safe([after], NodeLoad(10.0, 1, 1, after))
    assert not safe([after], NodeLoad(10.0, 1, 0, before))
