"""What the watch over peers tells of those that stay silent."""

from __future__ import annotations

import types

from bridge_agent.peers.pulse import PulseWatch
from bridge_agent.routing.link_rules import LinkBook
from bridge_agent.routing.pulse_rules import PulsePolicy
from bridge_core.snapshot import Node


class World:
    """A node n1 whose peers answer or not; ticks are the test's."""

    def __init__(self) -> None:
        self.now = 0.0
        self.nodes = {name: Node(name, f"{name}:1") for name in ("n1", "n2", "n3")}
        self.dead: set[str] = set()
        self.asked = ""
        self.links = LinkBook()
        snapshot = types.SimpleNamespace(nodes=self.nodes)
        view = types.SimpleNamespace(index=types.SimpleNamespace(node="n1", snapshot=snapshot))
        self.watch = PulseWatch(
            view,
            self,
            PulsePolicy(),
            in_use=lambda: set(self.nodes),
            on_answer=lambda _node, _work: None,
            on_silent=lambda _node: None,
            now=lambda: self.now,
        )

    def link(self, node: str, _address: str) -> World:
        self.asked = node
        return self

    def send(self, _head: bytes, question: object) -> None:
        if self.asked not in self.dead:
            self.watch.heard(self.asked, 200, b"{}", self.now)

    def cut(self, _node: str) -> None:
        """Nothing more is sent over it."""

    def mend(self, _node: str) -> None:
        """It is whole."""

    def reset(self, _node: str, _address: str) -> None:
        """The links of a node that is cut."""

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.watch._tick()
            self.now += 0.1


def test_the_silent_are_told_until_they_answer_or_leave() -> None:
    world = World()
    world.run(2)
    assert world.watch.silent == {}
    world.dead = {"n2", "n3"}
    world.run(2)
    assert set(world.watch.silent) == {"n2", "n3"}
    since = dict(world.watch.silent)
    world.run(5)
    assert world.watch.silent == since
    world.watch.heard("n2", 200, b"{}", world.now)
    assert set(world.watch.silent) == {"n3"}
    del world.nodes["n3"]
    world.run(0.2)
    assert world.watch.silent == {}
