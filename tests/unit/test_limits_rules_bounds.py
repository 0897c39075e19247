"""MPS, seats and changes of a NodeClass at their limits."""

from __future__ import annotations

from typing import Any

import pytest

from bridge_agent.limits import mps_rules as mps
from bridge_agent.limits.domain_rules import Family, Seats, culprit, seat
from bridge_agent.limits.gpu import Gpu, MigSlice
from bridge_agent.limits.live_rules import needs_restart
from bridge_agent.limits.mps_rules import MpsFault, MpsShare, Quarantine
from bridge_core.node_class import GpuSharing, IoLimit, NodeClass, ResourceLimits


@pytest.mark.parametrize(
    ("share", "wrong"),
    [
        (MpsShare(), 0),
        (MpsShare(0), 1),
        (MpsShare(1), 0),
        (MpsShare(100), 0),
        (MpsShare(101), 1),
        (MpsShare(memory_bytes=0), 1),
        (MpsShare(memory_bytes=1), 0),
        (MpsShare(memory_bytes=1000), 0),
        (MpsShare(memory_bytes=1001), 1),
        (MpsShare(0, 0), 2),
    ],
)
def test_a_share_is_1_to_100_percent_and_no_more_than_the_device_has(share: MpsShare, wrong: int) -> None:
    assert len(mps.faults(share, 1000, mig=False)) == wrong
    assert len(mps.faults(share, 1000, mig=True)) == wrong + 1


@pytest.mark.parametrize(("models", "limit"), [(0, 6), (1, 6), (2, 3), (4, 1)])
def test_an_instances_memory_is_shared_out_over_its_models(models: int, limit: int) -> None:
    found = mps.client_environment("/p", "/l", MpsShare(memory_bytes=6 << 20), models)
    assert found["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == f"0={limit}M"
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in found
    plain = mps.client_environment("/p", "/l", MpsShare(25), models)
    assert plain["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "25"
    assert "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT" not in plain


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Failed to accept client 7", MpsFault("refused", 7, "Failed to accept client 7")),
        ("failed to start: no client", MpsFault("refused", 0, "failed to start: no client")),
        ("Failed to open a file", None),
        ("a client came", None),
        ("Failed to receive from client 7, assuming client exit", None),
        ("Server 12 exited with status 1", MpsFault("server_exit", 12, "Server 12 exited with status 1")),
        ("Server 12 exited with status 0", None),
        ("The following client will be ended by a fatal fault: 7", None),
        ("Client 7 hit a fatal fault", MpsFault("client_fault", 7, "Client 7 hit a fatal fault")),
        ("default", None),
    ],
)
def test_what_a_log_line_tells(text: str, fault: MpsFault | None) -> None:
    assert mps.read_log_line(f"[2026-01-01 Server  5] {text}") == fault
    assert mps.read_log_line(text) is None


def test_who_is_named_in_three_of_the_last_five_faults_is_kept_out() -> None:
    def after(names: str) -> Quarantine:
        found = Quarantine()
        for name in names:
            found = found.blame(name)
        return found

    assert not after("aa").quarantined("a")
    assert after("aaa").quarantined("a")
    assert after("aabba").quarantined("a")
    assert not after("abbbba").quarantined("a")
    assert not after("aabbca").quarantined("a"), "the first of six is forgotten"
    assert after("aaabbbbb").out == {"a", "b"}, "who is out stays out"
    assert after("abcdef").named == tuple("bcdef")


def gpu(name: str, *, mig: bool = False, slices: int = 0) -> Gpu:
    parts = tuple(MigSlice(f"{name}-{at}", 1, 1) for at in range(slices))
    return Gpu(0, name, "a GPU", 1, 1, mig=mig, slices=parts)


@pytest.mark.parametrize(
    ("gpus", "devices"),
    [
        ([gpu("a"), gpu("b")], "a b"),
        ([gpu("a", mig=True, slices=2), gpu("b")], "a-0 a-1 b"),
        ([gpu("a", mig=True)], "a"),
        ([gpu("a", slices=2)], "a"),
    ],
)
def test_what_an_engine_may_sit_on(gpus: list[Gpu], devices: str) -> None:
    usable = devices.split()
    instances = [(f"n/{at}", None) for at in range(len(usable))]
    found = seat(instances, gpus, GpuSharing())
    assert list(found.devices.values()) == usable


@pytest.mark.parametrize(
    ("per_gpu", "order"), [(0, "abab"), (1, "abab"), (2, "aabb"), (3, "aaab"), (9, "aaaa")]
)
def test_so_many_sit_on_each_in_order(per_gpu: int, order: str) -> None:
    instances = [(f"n/{at}", None) for at in range(4)]
    found = seat(instances, [gpu("a"), gpu("b")], GpuSharing(per_gpu=per_gpu))
    assert "".join(found.devices.values()) == order
    assert found.on("a") == tuple(f"n/{at}" for at in range(4) if order[at] == "a")


def test_a_named_device_takes_no_turn_and_a_missing_one_is_a_fault() -> None:
    instances = [("n/0", None), ("n/1", "b"), ("n/2", None), ("n/3", "nowhere")]
    found = seat(instances, [gpu("a"), gpu("b")], GpuSharing())
    assert found.devices == {"n/0": "a", "n/1": "b", "n/2": "b"}
    assert set(found.faults) == {"n/3"}
    none = seat([("n/0", None)], [], GpuSharing())
    assert (none.devices, set(none.faults)) == ({}, {"n/0"})
    gone = seat(instances, [gpu("a")], GpuSharing(devices=("nowhere",)))
    assert gone == Seats({}, dict.fromkeys([name for name, _ in instances], gone.faults["n/0"]))


def test_a_faults_client_is_known_by_the_hosts_pid_and_else_only_where_it_is_certain() -> None:
    families = {
        "a": Family(frozenset({1}), frozenset({7, 8})),
        "b": Family(frozenset({7}), frozenset({8, 9})),
    }
    assert [culprit(pid, families) for pid in (0, 1, 7, 8, 9, 10)] == ["", "a", "b", "", "b", ""]
    assert culprit(0, {"a": Family(frozenset({0}), frozenset({0}))}) == ""


@pytest.mark.parametrize(
    ("old", "new", "restarts"),
    [
        ({}, {}, False),
        ({"pids_max": 5}, {"pids_max": 6}, False),
        ({}, {"pids_max": 6}, False),
        ({"pids_max": 5}, {}, True),
        ({}, {"disk_max": 5}, True),
        ({"disk_max": 5}, {"disk_max": 6}, False),
        ({"disk_max": 5}, {}, True),
        ({"io": (IoLimit("/", read_iops=1),)}, {"io": (IoLimit("/", read_iops=2),)}, False),
        ({}, {"io": (IoLimit("/", read_iops=2),)}, False),
        ({"io": (IoLimit("/", read_iops=1),)}, {}, True),
    ],
)
def test_a_limit_that_was_set_stays_set(old: dict[str, Any], new: dict[str, Any], restarts: bool) -> None:
    before, after = (NodeClass(limits=ResourceLimits(**limits)) for limits in (old, new))
    assert bool(needs_restart(before, after)) is restarts
