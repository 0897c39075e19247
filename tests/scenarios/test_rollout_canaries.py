"""Canaries in virtual time: bad ones go back by themselves, and what that cost users; good ones arrive."""

from __future__ import annotations

import random

import msgspec
import pytest

from bridge_core import keyspace
from bridge_core.snapshot import Snapshot
from bridge_core.store.api import Delete
from bridge_core.traffic import split
from tests.scenarios.rollout_world import PROBE, Behaviour, World

# What the first step sends to a canary is 10 % of 15 requests a second: its 20th request, before
# which it is not judged, comes after some 14 s.


@pytest.mark.parametrize(
    ("canary", "reason", "within_s", "may_fail"),
    [
        (Behaviour(error=0.2), "error rate", 60, 20),
        (Behaviour(broken=0.2), "in-stream error rate", 60, 20),
        (Behaviour(ttft_s=0.6), "time to first byte p50", 30, 0),
        (Behaviour(speed=20.0), "tokens/s", 60, 0),
        (Behaviour(answer="5"), "the probe failed on n1/0: '2+2' was answered '5'", 10, 0),
    ],
    ids=["errors", "broken streams", "3x TTFT", "slow", "wrong"],
)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_bad_canary_is_rolled_back_by_itself(canary, reason, within_s, may_fail, seed) -> None:
    world = World(seed=seed)
    world.behaviours["new"] = canary
    world.apply(PROBE)
    seconds = await world.until(lambda: world.phase == "rolled-back", within_s)
    assert reason in world.reason, (seconds, world.reason)
    assert world.failed <= may_fail
    for _ in range(2):  # until the snapshot is everywhere
        await world.second()
    failed = world.failed
    await world.until(lambda: world.now > 1000 + 2 * within_s, 3 * within_s)
    assert world.failed == failed


async def test_a_canary_that_turns_bad_half_way_is_rolled_back_from_there() -> None:
    world = World()
    world.apply(", increment: 20, every: 1m")
    await world.until(lambda: "50%" in world.line(), 300)
    world.behaviours["new"] = Behaviour(error=0.2)
    await world.until(lambda: world.phase == "rolled-back", 60)


async def test_a_healthy_canary_reaches_everything_without_a_failed_request() -> None:
    world = World()
    world.apply(PROBE)
    seconds = await world.until(lambda: world.phase == "complete", 3200)
    assert 3000 <= seconds <= 3100  # ten steps of five minutes
    await world.second()
    assert world.line().endswith("n1 100%, n2 100%, n3 100%")
    assert world.failed == 0


async def test_noise_alone_rolls_nothing_back() -> None:
    for seed in range(10):
        world = World(seed=seed)
        world.behaviours = {side: Behaviour(error=0.01, broken=0.01) for side in ("old", "new")}
        world.apply(", every: 30s")
        await world.until(lambda world=world: world.phase == "complete", 800)


@pytest.mark.parametrize("seed", range(6))
async def test_a_machine_that_has_other_work_at_times_rolls_nothing_back(seed: int) -> None:
    """Both sides are ten times slower for some seconds, and the canary has few requests a second."""
    world, chance = World(seed=seed, rate=2), random.Random(seed)
    world.apply(", every: 2m, increment: 30")
    while world.phase != "complete":
        assert world.phase in {"none", "progressing"}, world.reason
        if chance.random() < 0.2:
            ttft_s = 2.0 if chance.random() < 0.15 else 0.2
            world.behaviours = {side: Behaviour(ttft_s=ttft_s) for side in ("old", "new")}
        await world.second()


async def test_conversations_change_sides_once_and_only_towards_the_canary() -> None:
    world = World(rate=2)
    world.apply(", every: 20s, guards: {minRequests: 0}")
    seen: list[Snapshot] = []
    while world.phase != "complete":
        await world.second()
        if not seen or world.agents[0].snapshot is not seen[-1]:
            seen.append(world.agents[0].snapshot)
    routes = [snapshot.routes["chat"] for snapshot in seen if "chat" in snapshot.routes]
    for number in range(300):
        sides = [split(route, b"%d" % number)[0].key for route in routes]
        assert sides == sorted(sides, reverse=True)  # "old" … then "new"


async def test_a_rollout_that_is_removed_and_applied_again_begins_anew() -> None:
    world = World()
    world.behaviours["new"] = Behaviour(answer="5")
    world.apply(PROBE)
    await world.until(lambda: world.phase == "rolled-back", 10)
    world.etcd.apply([Delete(keyspace.CONFIG + "Rollout/roll")])
    world.apply()  # before anybody has looked
    await world.until(lambda: world.phase == "progressing", 3)


async def test_another_leader_goes_on_in_the_middle_of_a_step() -> None:
    world = World()
    world.apply()
    for _ in range(450):  # 150 s into the second step
        await world.second()
    before = world.line()
    assert "step 2/10 at 14" in before
    world.registries["r1"].alive = False
    world.elect("r2")
    await world.second()
    assert "r2 leads; roll progressing, step 2/10 at 1" in world.line()
    (_, position), *_ = world.registries["r2"].controller.positions()
    assert position.elapsed_s >= 140  # five seconds at most are measured again
    assert position.canary.requests > 0
    assert msgspec.json.decode(msgspec.json.encode(position), type=type(position)) == position
    await world.until(lambda: "step 3/10" in world.line(), 170)
