"""The planner never over-commits, never takes back from an earlier demand, and says why."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_agent.limits import placement_rules as rules
from bridge_agent.limits.placement_rules import Demand, Device, ModelShape

GIB = 1 << 30
H200 = Device("GPU-0", 139 * GIB)


def model(name: str = "llama-1b", weights: int = 2 * GIB, context: int = 131_072) -> ModelShape:
    return ModelShape(name, weights, 22, 4, 64, 64, 2048, 32_000, context)


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    shape = ModelShape(
        name=f"m{draw(st.integers(0, 3))}",
        weight_bytes=draw(st.integers(1 << 20, 20 * GIB)),
        layers=draw(st.integers(1, 80)),
        kv_heads=draw(st.sampled_from([1, 2, 4, 8, 32])),
        key_length=draw(st.sampled_from([64, 128])),
        value_length=draw(st.sampled_from([64, 128])),
        embedding_length=draw(st.sampled_from([64, 1024, 8192])),
        vocabulary=draw(st.sampled_from([260, 32_000, 150_000])),
        trained_context=draw(st.sampled_from([512, 8192, 131_072])),
        mla_row=draw(st.sampled_from([0, 576])),
    )
    return Demand(
        shape,
        slots=draw(st.integers(1, 16)),
        context=draw(st.sampled_from([2048, 8192, 65_536])),
        walled=draw(st.booleans()),
    )


devices = st.lists(st.integers(0, 140 * GIB), max_size=4).map(
    lambda sizes: [Device(f"GPU-{n}", size) for n, size in enumerate(sizes)]
)


@given(st.lists(demands(), max_size=6), devices)
def test_never_over_vram_and_every_demand_is_accounted_for(asked: list[Demand], gpus: list[Device]) -> None:
    planned = rules.plan(asked, gpus)
    for gpu in gpus:
        used = sum(placement.bytes for placement in planned.placements if placement.device == gpu.uuid)
        assert used <= gpu.free_bytes * rules.USABLE
    assert len(planned.placements) + len(planned.unplaced) == len(rules.merge(asked))
    assert all(placement.why for placement in planned.placements)
    for placement in planned.placements:
        assert placement.slots * placement.processes == placement.settings.slots


@settings(max_examples=300)
@given(st.lists(demands(), min_size=1, max_size=5), st.integers(0, 80 * GIB), st.integers(0, 80 * GIB))
def test_more_vram_is_never_worse(asked: list[Demand], free: int, more: int) -> None:
    """Which demands are placed counts first, then their levels; both in the order of demands."""
    merged = [
        msgspec.structs.replace(demand, model=msgspec.structs.replace(demand.model, name=f"m{n}"))
        for n, demand in enumerate(rules.merge(asked))
    ]

    def outcome(size: int) -> tuple[list[bool], list[int]]:
        placed = {
            placement.model: placement for placement in rules.plan(merged, [Device("GPU-0", size)]).placements
        }
        there = [demand for demand in merged if demand.model.name in placed]
        levels = [-rules.levels(demand).index(placed[demand.model.name].settings) for demand in there]
        return [demand in there for demand in merged], levels

    assert outcome(free + more) >= outcome(free)


def test_copies_of_one_model_become_slots_of_one_process() -> None:
    planned = rules.plan([Demand(model(), slots=2), Demand(model(), slots=6)], [Device("GPU-0", 100 * GIB)])
    assert [placement.settings.slots for placement in planned.placements] == [8]


def test_models_that_differ_share_a_gpu_under_mps_with_fewer_threads_each() -> None:
    asked = [Demand(model(f"m{n}")) for n in range(4)]
    planned = rules.plan(asked, [Device("GPU-0", 100 * GIB)])
    assert [placement.thread_percentage for placement in planned.placements] == [75] * 4
    assert not planned.warnings


def test_sharing_without_mps_is_warned_about() -> None:
    asked = [Demand(model("a")), Demand(model("b"))]
    planned = rules.plan(asked, [Device("GPU-0", 100 * GIB, mps=False)])
    assert "without MPS" in planned.warnings[0]
    assert {placement.thread_percentage for placement in planned.placements} == {100}


def test_walled_copies_go_to_different_devices_first() -> None:
    asked = [Demand(model(), walled=True), Demand(model(), walled=True)]
    planned = rules.plan(asked, [Device("GPU-0", 50 * GIB), Device("GPU-1", 50 * GIB)])
    assert {placement.device for placement in planned.placements} == {"GPU-0", "GPU-1"}


def test_precision_goes_before_slots_and_slots_before_context() -> None:
    tight = Demand(model(weights=1 << 20), slots=4, context=32_768, min_context=8192)
    full = rules.levels(tight)[0]
    gpu = Device("GPU-0", int((rules.need(tight.model, full) - (1 << 20)) / rules.USABLE))
    chosen = rules.plan([tight], [gpu]).placements[0]
    assert (chosen.settings.kv_type, chosen.settings.slots, chosen.settings.context) == ("q8_0", 4, 32_768)
    assert any("f16" in reason for reason in chosen.why[1:])


def test_what_does_not_fit_says_what_it_needs() -> None:
    planned = rules.plan([Demand(model(weights=50 * GIB))], [Device("GPU-0", 10 * GIB)])
    assert not planned.placements
    assert "needs at least" in planned.unplaced[0]


def test_mla_keeps_one_row_a_token() -> None:
    deepseek = ModelShape("deepseek2", GIB, 60, 128, 192, 128, 5120, 102_400, 163_840, mla_row=576)
    assert deepseek.kv_bytes("f16") == 60 * 576 * 2


# What an H200 gave (bench/RESULTS.md): weights, copies, tokens/s as slots, as processes under MPS.
MEASURED = [
    (138e6, 2, 1783, 2167),
    (138e6, 4, 3134, 3778),
    (138e6, 8, 3798, 6010),
    (138e6, 16, 4716, 8369),
    (490e6, 2, 1182, 1825),
    (490e6, 4, 1961, 2727),
    (490e6, 8, 3065, 3367),
    (490e6, 16, 4713, 3599),
    (2200e6, 2, 794, 1006),
    (2200e6, 4, 1418, 1291),
    (2200e6, 8, 2416, 1370),
    (2200e6, 16, 3753, 1388),
]


@pytest.mark.parametrize(("weights", "copies", "as_slots", "as_processes"), MEASURED)
def test_it_chooses_what_was_measured_to_be_faster(
    weights: float, copies: int, as_slots: int, as_processes: int
) -> None:
    placement = rules.plan([Demand(model(weights=int(weights)), slots=copies)], [H200]).placements[0]
    assert placement.processes == (copies if as_processes > as_slots else 1)
    assert any("process" in reason for reason in placement.why[1:])


def test_processes_are_not_bought_with_what_others_need() -> None:
    small, other = Demand(model("small", 100 << 20), slots=4), Demand(model("other", 8 * GIB), slots=4)
    together = rules.plan([small, other], [Device("GPU-0", 16 * GIB)]).placements
    assert together[1].settings == rules.plan([other], [H200]).placements[0].settings
    assert sum(one.bytes for one in together) <= 16 * GIB * rules.USABLE


def test_without_mps_or_a_gpu_there_is_one_process() -> None:
    for device in (Device("GPU-0", 100 * GIB, mps=False), Device("cpu", 100 * GIB, mps=False, cpu=True)):
        planned = rules.plan([Demand(model(weights=1 << 20), slots=8)], [device])
        assert [placement.processes for placement in planned.placements] == [1]
        assert not planned.warnings
    cpu = rules.plan(
        [Demand(model("a")), Demand(model("b"))], [Device("cpu", 100 * GIB, mps=False, cpu=True)]
    )
    assert not cpu.warnings, "a CPU is shared without harm"


def test_a_model_that_fits_in_a_smaller_precision_is_told_so() -> None:
    large = msgspec.structs.replace(model(weights=16 * GIB), parameters=8 << 30, precision="F16")
    said = rules.plan([Demand(large)], [Device("GPU-0", 12 * GIB)]).unplaced[0]
    assert "in Q8_0 would need" in said
    assert "would need" not in rules.plan([Demand(large)], [Device("GPU-0", 3 * GIB)]).unplaced[0]


LARGE = model("llama-70b", 260 * GIB)


def two(free: int = 139 * GIB) -> list[Device]:
    return [Device("GPU-0", free), Device("GPU-1", free)]


def test_a_model_that_no_gpu_has_room_for_is_split_over_as_few_as_it_takes() -> None:
    (placement,) = rules.plan(
        [Demand(model("m", 200 * GIB))], [*two(), Device("GPU-2", 138 * GIB)]
    ).placements
    assert placement.device == "GPU-0,GPU-1"
    assert placement.thread_percentage == 100
    assert placement.processes == 1
    assert placement.bytes >= 200 * GIB + 2 * rules.CUDA_CONTEXT_BYTES
    assert any("split over 2" in why and "--split-mode layer" in why for why in placement.why)
    three = rules.plan([Demand(LARGE)], [*two(), Device("GPU-2", 138 * GIB)]).placements[0]
    assert three.device == "GPU-0,GPU-1,GPU-2"


def test_what_fits_on_one_gpu_is_never_split() -> None:
    planned = rules.plan([Demand(model("m", 100 * GIB)), Demand(model("n", 1 * GIB))], two())
    assert [placement.device for placement in planned.placements] == ["GPU-0", "GPU-1"]


def test_a_split_model_has_its_gpus_to_itself() -> None:
    small, large = Demand(model("n", 1 * GIB)), Demand(model("m", 200 * GIB))
    planned = rules.plan([large, small], two())
    assert [placement.model for placement in planned.placements] == ["m"]
    assert len(planned.unplaced) == 1
    planned = rules.plan([small, large], two())
    assert [placement.model for placement in planned.placements] == ["n"], (
        "a GPU that is taken is not split over"
    )
    planned = rules.plan([large, small], [*two(), Device("GPU-2", 20 * GIB)])
    assert [placement.device for placement in planned.placements] == ["GPU-0,GPU-1", "GPU-2"]


def test_what_is_too_large_for_all_of_them_together_is_refused() -> None:
    planned = rules.plan([Demand(LARGE)], two())
    assert not planned.placements
    assert "needs at least" in planned.unplaced[0]


def test_the_cpu_is_no_part_of_a_split() -> None:
    planned = rules.plan([Demand(LARGE)], [*two(), Device("CPU", 200 * GIB, mps=False, cpu=True)])
    assert not planned.placements


@given(st.lists(demands(), max_size=6), devices)
def test_no_gpu_of_a_split_has_anybody_else(asked: list[Demand], gpus: list[Device]) -> None:
    placements = rules.plan(asked, gpus).placements
    free = {gpu.uuid: gpu.free_bytes for gpu in gpus}
    for placement in placements:
        parts = placement.device.split(",")
        if len(parts) > 1:
            assert placement.bytes <= sum(free[part] for part in parts) * rules.USABLE
            assert not [
                one for one in placements if one is not placement and set(one.device.split(",")) & set(parts)
            ]
