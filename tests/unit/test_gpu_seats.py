"""Which engine sits on which GPU, and whose process a fault is laid to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.limits.domain_rules import Family, culprit, seat
from bridge_agent.limits.gpu import Gpu, MigSlice
from bridge_core.node_class import GpuSharing

GIB = 1 << 30


def gpus(count: int) -> list[Gpu]:
    return [Gpu(n, f"GPU-{n}{n}{n}{n}", "G", 80 * GIB, 80 * GIB) for n in range(count)]


def engines(count: int) -> list[tuple[str, str | None]]:
    return [(f"n/{n}", None) for n in range(count)]


@given(st.integers(0, 20), st.integers(0, 4), st.integers(-1, 5))
def test_every_engine_has_a_seat_or_a_reason(count: int, devices: int, per_gpu: int) -> None:
    seats = seat(engines(count), gpus(devices), GpuSharing(per_gpu=per_gpu))
    assert set(seats.devices) | set(seats.faults) == {f"n/{n}" for n in range(count)}
    assert not set(seats.devices) & set(seats.faults)
    assert bool(seats.faults) == (count > 0 and devices == 0)
    if 0 < count <= devices * max(1, per_gpu):
        assert max(len(seats.on(gpu.uuid)) for gpu in gpus(devices)) <= max(1, per_gpu)


def test_a_gpu_is_filled_before_the_next_and_the_first_again_when_all_are() -> None:
    seats = seat(engines(5), gpus(2), GpuSharing(per_gpu=2))
    assert seats.on("GPU-0000") == ("n/0", "n/1", "n/4")
    assert seats.on("GPU-1111") == ("n/2", "n/3")


def test_an_engine_that_names_its_device_takes_nobodys_turn() -> None:
    seats = seat([("n/0", "GPU-11"), ("n/1", None), ("n/2", "7")], gpus(2), GpuSharing())
    assert seats.devices == {"n/0": "GPU-1111", "n/1": "GPU-0000"}
    assert "'7' is not there" in seats.faults["n/2"]


def test_only_the_devices_of_the_node_class_are_given_out_in_its_order() -> None:
    assert seat(engines(2), gpus(3), GpuSharing(devices=("2", "GPU-0"))).devices == {
        "n/0": "GPU-2222",
        "n/1": "GPU-0000",
    }
    refused = seat(engines(2), gpus(1), GpuSharing(devices=("0", "9")))
    assert not refused.devices
    assert set(refused.faults) == {"n/0", "n/1"}, "half of what was asked for is not what was asked for"


def test_slices_are_seats_of_their_own() -> None:
    parted = Gpu(
        0,
        "GPU-a",
        "G",
        80 * GIB,
        80 * GIB,
        mig=True,
        slices=(MigSlice("MIG-0", 1, 1), MigSlice("MIG-1", 1, 1)),
    )
    assert seat(engines(2), [parted], GpuSharing()).devices == {"n/0": "MIG-0", "n/1": "MIG-1"}


def test_a_fault_is_laid_to_whoever_had_the_process() -> None:
    families = {
        "n/0": Family(frozenset({100, 101}), frozenset({1, 8})),
        "n/1": Family(frozenset({200, 201}), frozenset({1, 9})),
    }
    assert culprit(201, families) == "n/1"
    assert culprit(9, families) == "n/1", "as it numbers itself"
    assert not culprit(1, families), "both have a process 1 of their own"
    assert not culprit(0, families), "nobody was named"
    assert not culprit(999, families)


def test_an_engine_that_names_several_devices_sits_on_all_of_them() -> None:
    seats = seat([("n/0", "0, GPU-2"), ("n/1", None), ("n/2", "0,7")], gpus(3), GpuSharing())
    assert seats.devices == {"n/0": "GPU-0000,GPU-2222", "n/1": "GPU-0000"}
    assert (seats.on("GPU-0000"), seats.on("GPU-1111"), seats.on("GPU-2222")) == (
        ("n/0", "n/1"),
        (),
        ("n/0",),
    )
    assert "'7' is not there" in seats.faults["n/2"]


def test_engines_are_spread_evenly_one_on_each_gpu_in_turn() -> None:
    seats = seat(engines(5), gpus(2), GpuSharing())
    assert [len(seats.on(gpu.uuid)) for gpu in gpus(2)] == [3, 2]
    assert seats.devices["n/0"] != seats.devices["n/1"], "replicas die apart"
