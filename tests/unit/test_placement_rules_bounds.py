"""The planner at its limits: what a model takes to the byte, and where one choice becomes another."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from bridge_agent.limits import placement_rules as rules
from bridge_agent.limits.placement_rules import Demand, Device, EngineSizing, ModelShape, Planned, need

MIB, GIB = 1 << 20, 1 << 30
SHAPE = ModelShape("m", 2 * GIB, 22, 4, 64, 32, 2048, 32_000, 8192)


def device(room: int, **more: Any) -> Device:
    """A device of which just `room` bytes may be used."""
    return Device(more.pop("uuid", "GPU-0"), math.ceil(room / 0.85), **more)


def one(demand: Demand, where: Device) -> rules.Placement:
    (placement,) = rules.plan([demand], [where]).placements
    return placement


def test_what_a_model_takes_to_the_byte() -> None:
    assert SHAPE.kv_bytes("f16") == 22 * 4 * 96 * 2
    assert SHAPE.kv_bytes("q8_0") == 22 * 4 * 96 * 34 / 32
    assert SHAPE.kv_bytes("q4_0") == 22 * 4 * 96 * 18 / 32
    assert msgspec.structs.replace(SHAPE, mla_row=576).kv_bytes("f16") == 22 * 576 * 2
    assert SHAPE.compute_bytes(512) == 512 * (32_000 + 16 * 2048) * 4
    way = EngineSizing(4, 1024, "f16", 512)
    each = 2 * GIB + 512 * (32_000 + 16 * 2048) * 4
    cache = 4 * 1024 * 22 * 4 * 96 * 2
    assert need(SHAPE, way) == 640 * MIB + each + cache + 1
    assert need(SHAPE, way, processes=3, overhead=7) == 3 * (7 + each) + cache + 1


def test_a_process_takes_its_context_or_only_its_own_memory() -> None:
    assert Device("g", 0).overhead == 640 * MIB
    assert Device("c", 0, cpu=True).overhead == 192 * MIB


@pytest.mark.parametrize(
    ("demand", "slots", "contexts"),
    [
        (Demand(SHAPE), (4, 2, 1), (4096, 2048)),
        (Demand(SHAPE, slots=6, min_slots=2), (6, 3, 2), (4096, 2048)),
        (Demand(SHAPE, slots=4, min_slots=4), (4,), (4096, 2048)),
        (Demand(SHAPE, slots=1, context=100_000, min_context=1), (1,), (8192, 4096, 2048)),
        (Demand(SHAPE, slots=1, context=1000, min_context=2000), (1,), (1000,)),
        (Demand(SHAPE, slots=1, min_slots=3), (1,), (4096, 2048)),
        (Demand(SHAPE, slots=1, context=0, min_context=0), (1,), (1,)),
    ],
)
def test_the_levels_halve_down_to_the_least(
    demand: Demand, slots: tuple[int, ...], contexts: tuple[int, ...]
) -> None:
    found = rules.levels(demand)
    assert tuple(dict.fromkeys(level.slots for level in found)) == slots
    assert tuple(dict.fromkeys(level.context for level in found))[: len(contexts)] == contexts
    assert tuple(dict.fromkeys(level.kv_type for level in found)) == ("f16", "q8_0")
    assert {level.batch for level in found} == {512}
    assert len(found) == len(set(found))


def test_it_fits_to_the_last_byte_and_not_one_more() -> None:
    demand = Demand(SHAPE, slots=1, context=2048, kv_types=("f16",))
    size = need(SHAPE, EngineSizing(1, 2048, "f16", 512))
    assert one(demand, device(size)).bytes == size
    planned = rules.plan([demand], [device(size - 1)])
    assert (planned.placements, len(planned.unplaced)) == ((), 1)
    assert len(rules.plan([demand], []).unplaced) == 1


def test_a_level_fits_to_the_last_byte_and_not_one_more() -> None:
    demand = Demand(SHAPE, slots=2, context=2048, kv_types=("f16",), walled=True)
    size = need(SHAPE, EngineSizing(2, 2048, "f16", 512))
    assert one(demand, device(size)).settings.slots == 2
    assert one(demand, device(size - 1)).settings.slots == 1


def test_what_one_demand_leaves_is_what_another_gets() -> None:
    first = Demand(SHAPE, slots=2, context=2048, kv_types=("f16",), walled=True)
    second = msgspec.structs.replace(first, model=msgspec.structs.replace(SHAPE, name="n"))
    least, more = (need(SHAPE, EngineSizing(slots, 2048, "f16", 512)) for slots in (1, 2))
    for room, slots in ((2 * more, [2, 2]), (2 * more - 1, [2, 1]), (least + more - 1, [1, 1])):
        found = rules.plan([first, second], [device(room)]).placements
        assert [placement.settings.slots for placement in found] == slots


def test_a_demand_goes_where_most_is_left_and_of_equals_to_the_first() -> None:
    demands = [Demand(msgspec.structs.replace(SHAPE, name=name), slots=1) for name in "abc"]
    equal = [Device("one", 40 * GIB), Device("two", 40 * GIB)]
    found = rules.plan(demands, equal).placements
    assert [placement.device for placement in found] == ["one", "two", "one"]
    unequal = [Device("one", 40 * GIB), Device("two", 80 * GIB)]
    assert {placement.device for placement in rules.plan(demands, unequal).placements} == {"two"}


@pytest.mark.parametrize(
    ("weights", "slots", "processes"),
    [
        (3_000_000_000, 2, 1),  # 6e9 bytes and more: slots
        (2_999_999_999, 2, 2),
        (1_000_000_000, 1, 1),
        (700_000_000, 8, 8),
        (750_000_000, 8, 1),
    ],
)
def test_small_weights_times_slots_are_processes(weights: int, slots: int, processes: int) -> None:
    shape = msgspec.structs.replace(SHAPE, weight_bytes=weights)
    demand = Demand(shape, slots=slots, min_slots=slots, context=1024)
    placement = one(demand, Device("g", 100 * GIB))
    assert (placement.processes, placement.slots) == (processes, slots // processes)
    assert placement.bytes == need(shape, placement.settings, processes=processes)


@pytest.mark.parametrize(
    ("demand", "where"),
    [
        ({"walled": True}, {}),
        ({}, {"mps": False}),
        ({}, {"cpu": True}),
    ],
)
def test_walls_the_cpu_and_a_gpu_without_mps_have_one_process(
    demand: dict[str, Any], where: dict[str, Any]
) -> None:
    shape = msgspec.structs.replace(SHAPE, weight_bytes=GIB)
    assert one(Demand(shape, slots=2), Device("g", 100 * GIB)).processes == 2
    assert one(Demand(shape, slots=2, **demand), Device("g", 100 * GIB, **where)).processes == 1


def test_processes_are_bought_with_what_is_left_to_the_last_byte() -> None:
    shape = msgspec.structs.replace(SHAPE, weight_bytes=GIB)
    demand = Demand(shape, slots=2, context=2048, kv_types=("f16",))
    size = need(shape, EngineSizing(2, 2048, "f16", 512), processes=2)
    assert one(demand, device(size)).processes == 2
    assert one(demand, device(size - 1)).processes == 1
    other = msgspec.structs.replace(demand, model=msgspec.structs.replace(shape, name="n"))
    both = rules.plan([demand, other], [device(2 * size)]).placements
    assert [placement.processes for placement in both] == [2, 2]
    both = rules.plan([demand, other], [device(2 * size - 1)]).placements
    assert [placement.processes for placement in both] == [2, 1]


@pytest.mark.parametrize(
    ("neighbours", "percentage"),
    [(0, 100), (1, 100), (2, 75), (3, 75), (4, 75), (7, 75), (8, 40), (15, 40), (16, 25), (99, 25)],
)
def test_the_share_of_threads_by_neighbours(neighbours: int, percentage: int) -> None:
    assert rules.thread_percentage(neighbours) == percentage


def neighbours(count: int, **where: Any) -> Planned:
    demands = [Demand(msgspec.structs.replace(SHAPE, name=f"m{at}"), slots=1) for at in range(count)]
    return rules.plan(demands, [Device("g", 100 * GIB, **where)])


@pytest.mark.parametrize(
    ("count", "where", "share", "warned"),
    [
        (1, {}, 100, False),
        (2, {}, 75, False),
        (8, {}, 40, False),
        (1, {"mps": False}, 100, False),
        (2, {"mps": False}, 100, True),
        (2, {"mps": False, "cpu": True}, 100, False),
    ],
)
def test_neighbours_share_the_threads_under_mps_and_are_warned_of_without(
    count: int, where: dict[str, Any], share: int, warned: bool
) -> None:
    planned = neighbours(count, **where)
    assert {placement.thread_percentage for placement in planned.placements} == {share}
    assert bool(planned.warnings) is warned
    told = any("share the device under MPS" in why for one in planned.placements for why in one.why)
    assert told is (share < 100)


def test_neighbours_are_those_of_the_same_device() -> None:
    demands = [Demand(msgspec.structs.replace(SHAPE, name=name), slots=1) for name in "ab"]
    planned = rules.plan(demands, [Device("one", 40 * GIB), Device("two", 40 * GIB)])
    assert {placement.thread_percentage for placement in planned.placements} == {100}


@pytest.mark.parametrize(
    ("first", "second", "slots"),
    [
        ({}, {}, [5]),
        ({"walled": True}, {}, [2, 3]),
        ({}, {"walled": True}, [2, 3]),
    ],
)
def test_copies_without_walls_are_slots_of_one(
    first: dict[str, Any], second: dict[str, Any], slots: list[int]
) -> None:
    merged = rules.merge([Demand(SHAPE, slots=2, **first), Demand(SHAPE, slots=3, **second)])
    assert [demand.slots for demand in merged] == slots
    other = Demand(msgspec.structs.replace(SHAPE, name="n"))
    assert rules.merge([Demand(SHAPE), other]) == (Demand(SHAPE), other)


def unplaced(shape: ModelShape, room: int) -> str:
    (said,) = rules.plan([Demand(shape, slots=1, context=2048, kv_types=("f16",))], [device(room)]).unplaced
    return said


@pytest.mark.parametrize(
    ("bits", "name"),
    [(16.0, "F16"), (8.5, "Q8_0"), (6.6, "Q6_K"), (5.7, "Q5_K_M"), (4.85, "Q4_K_M"), (3.9, "Q3_K_M")],
)
def test_the_best_precision_that_would_fit_is_told(bits: float, name: str) -> None:
    shape = msgspec.structs.replace(SHAPE, weight_bytes=4_000_000_000, parameters=1_000_000_000)
    smaller = msgspec.structs.replace(shape, weight_bytes=int(1_000_000_000 * bits / 8))
    size = need(smaller, EngineSizing(1, 2048, "f16", 512))
    assert f"a file of it in {name} would need {size / MIB:,.0f} MiB" in unplaced(shape, size)
    assert f"in {name} " not in unplaced(shape, size - 1)


def test_no_file_is_told_that_is_no_smaller_or_not_known() -> None:
    shape = msgspec.structs.replace(SHAPE, weight_bytes=487_500_000, parameters=1_000_000_000)
    assert "a file of it" not in unplaced(shape, 0)
    least = need(shape, EngineSizing(1, 2048, "f16", 512))
    assert "a file of it" not in unplaced(shape, least - 1), "Q3_K_M is as large as what there is"
    assert "a file of it" not in unplaced(SHAPE, least - 1), "how many parameters it has is not known"
    said = unplaced(SHAPE, 100 * MIB)
    assert f"needs at least {need(SHAPE, EngineSizing(1, 2048, 'f16', 512)) / MIB:,.0f} MiB" in said
    assert "the most that any device has left is 100 MiB" in said
    demand = Demand(SHAPE)
    assert "has left is 0 MiB" in rules.plan([demand], []).unplaced[0]


def test_a_placement_says_what_it_takes_and_why() -> None:
    shape = msgspec.structs.replace(SHAPE, weight_bytes=3 * GIB, precision="Q8_0")
    why = one(Demand(shape, slots=2, context=8192), Device("g", 100 * GIB)).why
    cache = 2 * 8192 * 22 * 4 * 96 * 2 / MIB
    assert f"3,072 MiB of Q8_0 weights, {cache:,.0f} MiB of f16 cache for 2 slots of 8192 tokens" in why[0]
    assert "640 MiB for CUDA, within 87,040 MiB" in why[0]
    assert "times" not in why[0]
    assert any("one reading of the weights serves them all" in reason for reason in why)
    assert not any("trained" in reason for reason in why)
    single = one(Demand(shape, slots=1, context=8193), Device("c", 100 * GIB, cpu=True)).why
    assert "192 MiB for the process" in single[0]
    assert any("trained for 8192 tokens, 8193 were asked for" in reason for reason in single)
    assert not any("serves them all" in reason for reason in single)
    small = one(Demand(msgspec.structs.replace(SHAPE, weight_bytes=GIB), slots=2), Device("g", 100 * GIB)).why
    assert small[0].startswith("2 times 1,024 MiB of weights")
    assert any("2 processes of one slot" in reason for reason in small)


def test_the_three_best_levels_that_did_not_fit_are_told() -> None:
    demand = Demand(SHAPE, slots=4, context=8192, walled=True)
    least = need(SHAPE, rules.levels(demand)[-1])
    why = one(demand, device(least)).why
    told = [reason for reason in why if "would need" in reason]
    sizes = [f"{need(SHAPE, level) / MIB:,.0f} MiB" for level in rules.levels(demand)[:3]]
    assert [reason.rpartition("would need ")[2] for reason in told] == sizes


def test_what_is_said_of_nothing() -> None:
    shape = ModelShape("m", 1, 1, 1, 1, 1, 1, 1, 1)
    assert shape.kv_bytes("f16") == 4.0
    assert (shape.mla_row, shape.parameters, shape.precision, shape.embeds) == (0, 0, "", False)
    demand = Demand(shape)
    assert (demand.slots, demand.min_slots, demand.context, demand.min_context) == (4, 1, 4096, 2048)
    assert (demand.batch, demand.walled, demand.kv_types) == (512, False, ("f16", "q8_0"))
    assert (Device("g", 1).mps, Device("g", 1).cpu) == (True, False)
