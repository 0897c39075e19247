"""What an agent does with the models of its own instances that are scaled."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from bridge_agent.engines.client import EngineFault, ResidentModel
from bridge_agent.engines.view import LocalInstance
from bridge_agent.scaling.holding import ModelHolding
from bridge_agent.scaling.holding_rules import PAUSE_S, Step, step
from bridge_core.holders import ModelHolders
from bridge_core.snapshot import MemberModel, Snapshot, Version, encode_entry


@pytest.mark.parametrize(
    ("held", "scaled", "ours", "expires", "since", "wanted"),
    [
        (True, True, False, None, 30.0, "load"),
        (True, True, False, None, 29.9, ""),
        (True, True, True, 59.9, 30.0, "load"),
        (True, True, True, 60.0, 30.0, ""),
        (True, True, True, math.inf, 30.0, ""),
        (False, True, False, None, 30.0, ""),
        (False, True, False, 300.0, 30.0, ""),  # a request had it loaded
        (False, True, True, 300.0, 30.0, "unload"),
        (False, True, False, math.inf, 30.0, "unload"),
        (False, False, False, math.inf, 30.0, ""),
        (False, False, True, math.inf, 30.0, "unpin"),
        (False, False, True, None, 30.0, ""),
    ],
)
def test_the_step(
    held: bool, scaled: bool, ours: bool, expires: float | None, since: float, wanted: Step
) -> None:
    assert step(held=held, scaled=scaled, ours=ours, expires_in_s=expires, since_fault_s=since) == wanted


class FakeEngine:
    """Memory of one engine; what Ollama does with `keep_alive`."""

    def __init__(self) -> None:
        self.memory: dict[str, str | int | None] = {}
        self.calls: list[tuple[str, str | int | None]] = []
        self.fails = False
        self.closed = 0
        self.warmed: list[str] = []

    async def loaded(self) -> tuple[ResidentModel, ...]:
        ends = datetime.now(UTC) + timedelta(seconds=300)
        never = "2318-01-01T00:00:00Z"
        return tuple(
            ResidentModel(name, expires_at=never if alive == -1 else ends.isoformat())
            for name, alive in self.memory.items()
        )

    async def load(self, model: str, *, keep_alive: str | int | None = None) -> None:
        self.calls.append((model, keep_alive))
        if self.fails:
            raise EngineFault("no room", 500)
        if keep_alive == 0:
            self.memory.pop(model, None)
        else:
            self.memory[model] = keep_alive

    async def warm_up(self, model: str, *, embedding: bool = False) -> None:
        self.warmed.append(model)
        if self.fails:
            raise EngineFault("it generates nothing", 400)

    async def close(self) -> None:
        self.closed += 1


class Node:
    """An agent's holding over two instances; only the first one is a holder of anything."""

    def __init__(self) -> None:
        self.engines = {"n/0": FakeEngine(), "n/1": FakeEngine()}
        self.snapshot = Snapshot(Version(), {})
        self.now = 1000.0
        self.changed: list[str] = []
        self.holding = ModelHolding(
            lambda: self.snapshot,
            lambda: tuple(
                LocalInstance(id_, "127.0.0.1", 1, "ready", models=(MemberModel("m:latest"),))
                for id_ in self.engines
            ),
            lambda one: self.engines[one.id],
            changed=self.changed.append,
            clock=lambda: self.now,
        )

    def told(self, *holders: ModelHolders) -> None:
        self.snapshot = Snapshot(Version(), {f"holders/{one.policy}": encode_entry(one) for one in holders})


async def test_a_holder_loads_and_one_that_is_none_any_more_lets_go() -> None:
    node = Node()
    await node.holding.look()
    assert not node.engines["n/0"].closed  # nobody is asked while nothing is scaled
    node.told(ModelHolders("p", "m", active=("n/0",)))
    await node.holding.look()
    await node.holding.look()
    assert node.engines["n/0"].calls == [("m:latest", -1)]
    assert node.engines["n/1"].calls == []
    assert node.changed == ["n/0"]
    # Taken out it keeps the model; released it does not, whatever a request's keep_alive was meanwhile.
    node.told(ModelHolders("p", "m", held=("n/0",)))
    await node.holding.look()
    assert node.engines["n/0"].memory == {"m:latest": -1}
    node.engines["n/0"].memory["m:latest"] = "5m"
    node.told(ModelHolders("p", "m"))
    await node.holding.look()
    assert node.engines["n/0"].memory == {}
    # What a request has loaded since goes by itself.
    node.engines["n/0"].memory["m:latest"] = "5m"
    await node.holding.look()
    assert len(node.engines["n/0"].calls) == 2
    assert all(engine.closed for engine in node.engines.values())


async def test_of_a_policy_that_is_gone_the_model_stays_as_long_as_usual() -> None:
    node = Node()
    node.engines["n/1"].memory["m:latest"] = -1  # an operator's own
    node.told(ModelHolders("p", "m", active=("n/0", "n/1")))
    await node.holding.look()
    node.told()
    await node.holding.look()
    assert node.engines["n/0"].memory == {"m:latest": "5m"}
    assert node.engines["n/1"].memory == {"m:latest": -1}
    looked = node.engines["n/0"].closed
    await node.holding.look()
    assert node.engines["n/0"].closed == looked


async def test_a_load_that_failed_is_tried_again_after_a_pause() -> None:
    node = Node()
    node.engines["n/0"].fails = True
    node.told(ModelHolders("p", "m", active=("n/0",)))
    await node.holding.look()
    await node.holding.look()
    assert len(node.engines["n/0"].calls) == 1
    node.now += PAUSE_S
    node.engines["n/0"].fails = False
    await node.holding.look()
    assert node.engines["n/0"].memory == {"m:latest": -1}
