"""What every inventory of GPUs keeps to: the fake that other tests use, none at all, and NVML."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from bridge_agent.limits.gpu import GpuInventory, NoGpus, select
from bridge_agent.limits.nvml import open_inventory
from bridge_core.gpu_visibility import VISIBLE_DEVICES
from tests.fakes.fake_gpus import FakeGpus
from tests.gpu.agent_bed import cuda

MIB = 1 << 20


class World:
    """An inventory, and how a process takes memory in its world."""

    def __init__(self, inventory: GpuInventory, hold: Callable[[int], int]) -> None:
        self.inventory = inventory
        self.hold = hold


@pytest.fixture(params=["fake", "fake-amd", "none", pytest.param("nvml", marks=pytest.mark.gpu)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    clients: list[subprocess.Popen[str]] = []

    def hold_really(size: int) -> int:
        client = cuda("hold", str(size))
        clients.append(client)
        assert client.stdout.readline().strip() == "holding"
        return client.pid

    def hold(size: int) -> int:
        inventory.hold(0, os.getpid(), size)
        return os.getpid()

    inventory: GpuInventory
    if request.param == "nvml":
        inventory, reason = open_inventory()
        if reason:
            pytest.skip(f"SKIPPED LOUDLY: no NVML: {reason}")
        yield World(inventory, hold_really)
    elif request.param == "none":
        inventory = NoGpus()
        yield World(inventory, hold)
    else:
        inventory = FakeGpus(2, "amd" if request.param == "fake-amd" else "nvidia")
        yield World(inventory, hold)
    for client in clients:
        client.communicate("")
    inventory.close()


def test_every_gpu_has_its_place_and_a_name_of_its_own(world: World) -> None:
    gpus = world.inventory.read()
    assert [gpu.index for gpu in gpus] == list(range(len(gpus)))
    assert len({gpu.uuid for gpu in gpus}) == len(gpus)
    assert [gpu.uuid for gpu in world.inventory.read()] == [gpu.uuid for gpu in gpus]
    for gpu in gpus:
        assert gpu.vendor in VISIBLE_DEVICES
        assert select(gpus, str(gpu.index)) == select(gpus, gpu.uuid) == gpu
        assert gpu.holds(gpu.uuid)
        assert not gpu.holds("")


def test_memory_adds_up(world: World) -> None:
    for gpu in world.inventory.read():
        assert 0 < gpu.free_bytes <= gpu.memory_bytes
        assert 0 <= gpu.reserved_bytes < gpu.memory_bytes
        assert 0 <= gpu.used_bytes <= gpu.memory_bytes
        assert not gpu.fault


def test_what_a_process_takes_is_seen(world: World) -> None:
    gpus = world.inventory.read()
    if not gpus:
        pytest.skip("there is no GPU to take memory of")
    pid = world.hold(512 * MIB)
    now = world.inventory.read()[0]
    assert now.used_bytes - gpus[0].used_bytes >= 512 * MIB
    assert gpus[0].free_bytes - now.free_bytes >= 512 * MIB
    assert pid in {process.pid for process in now.processes}


def test_waiting_for_an_error_that_does_not_come_ends_in_time_and_not_before(world: World) -> None:
    if isinstance(world.inventory, NoGpus):
        pytest.skip("nobody waits for errors of no GPU")
    began = time.monotonic()
    assert world.inventory.wait_xid(0.05) is None
    assert time.monotonic() - began >= 0.04, "whoever waits in a loop would spin"


def test_letting_go_twice_is_harmless(world: World) -> None:
    world.inventory.close()
    with contextlib.suppress(Exception):  # what comes after it is not promised, but that it ends
        world.inventory.read()
    world.inventory.close()
