"""What `bridgectl doctor` says of what a first installation gets wrong."""

from __future__ import annotations

import msgspec
import pytest

from bridge_cli.doctor.doctor_rules import (
    BUILT_UNIX,
    ENDS_SOON_S,
    FILES_WARN,
    FREE_BAD,
    FREE_WARN,
    MEMORY_WARN,
    SKEW_BAD_S,
    SKEW_WARN_S,
    AgentFacts,
    Finding,
    MachineFacts,
    MeshFacts,
    Port,
    diagnose,
    well,
)

NOW = BUILT_UNIX + 1e7
MACHINE = MachineFacts(
    now=NOW,
    synchronised=True,
    state="/s",
    free=FREE_WARN,
    total=FREE_WARN * 2,
    inodes_free=0.5,
    memory=MEMORY_WARN,
    memory_total=1 << 34,
    files=(1024, FILES_WARN),
    etcd="/usr/bin/etcd",
    cgroup="v2",
    gpu_devices=("/dev/nvidia0",),
    localhost=("127.0.0.1",),
    ports=(Port("node1's http", "127.0.0.1:11434"),),
)
MESH = MeshFacts(asked="r:1", skew_s=0.0, identity_ends=NOW + ENDS_SOON_S, leader="r1")


def worst(machine: dict[str, object] | None = None, mesh: dict[str, object] | None = None) -> list[Finding]:
    """What is not well, of a machine and a mesh on which all else is."""
    found = diagnose(
        msgspec.structs.replace(MACHINE, **(machine or {})), msgspec.structs.replace(MESH, **(mesh or {}))
    )
    return [one for one in found if one.level not in {"ok", "skipped"}]


def test_where_all_is_well_nothing_is_to_be_done() -> None:
    assert worst() == []
    assert well(diagnose(MACHINE, MESH))
    assert all(not one.do for one in diagnose(MACHINE, MESH))


@pytest.mark.parametrize(
    ("machine", "mesh", "topic", "level", "says"),
    [
        ({"missing": ("bridge-engine",)}, {}, "commands", "bad", "bridge-engine"),
        ({"etcd": ""}, {}, "etcd program", "bad", "no etcd"),
        ({"engine_fault": "libgomp.so.1"}, {}, "engine", "warn", "libgomp.so.1"),
        ({"now": BUILT_UNIX - 1.0}, {"identity_ends": 0.0}, "clock", "bad", "never set"),
        ({"synchronised": False}, {}, "clock", "warn", "no NTP"),
        ({}, {"skew_s": SKEW_BAD_S + 1}, "clock", "bad", "joins are refused"),
        ({}, {"skew_s": -SKEW_BAD_S - 1}, "clock", "bad", "joins are refused"),
        ({}, {"skew_s": SKEW_BAD_S}, "clock", "warn", "differs"),
        ({}, {"skew_s": -SKEW_WARN_S - 1}, "clock", "warn", "differs"),
        ({"state_fault": "Permission denied"}, {}, "state folder", "bad", "/s cannot be written"),
        ({"state_mode": 0o750}, {}, "state folder", "bad", "mode 750"),
        ({"free": FREE_BAD - 1}, {}, "disk", "bad", "only"),
        ({"free": FREE_BAD}, {}, "disk", "warn", "only"),
        ({"free": FREE_WARN, "total": FREE_WARN * 21}, {}, "disk", "warn", "only"),
        ({"inodes_free": 0.01}, {}, "disk", "warn", "inode"),
        ({"memory": MEMORY_WARN - 1}, {}, "memory", "warn", "only"),
        ({"files": (10, FILES_WARN - 1)}, {}, "open files", "warn", "4095"),
        ({"ports": (Port("p", "a:1", " (by x)"),)}, {}, "port", "bad", "a:1 for p: it is taken (by x)"),
        ({"ports": (Port("p", "a:1", fault="no such"),)}, {}, "port", "bad", "no such"),
        ({"proxies": ("HTTP_PROXY",)}, {}, "proxy", "warn", "HTTP_PROXY"),
        ({"localhost": ("192.0.2.1",)}, {}, "names", "warn", "192.0.2.1"),
        ({"localhost": ()}, {}, "names", "warn", "not known"),
        ({"cgroup_fault": "not yours"}, {}, "limits", "warn", "not yours"),
        ({"namespaces_fault": "closed"}, {}, "walls", "warn", "closed"),
        ({"gpu_fault": "no driver"}, {}, "GPU", "bad", "/dev/nvidia0"),
        ({}, {"fault": "nobody answers", "hint": "start it"}, "mesh", "bad", "nobody answers"),
        ({}, {"leader": ""}, "mesh", "bad", "no registry leads"),
        ({}, {"store_fault": "for 3 s"}, "etcd", "bad", "for 3 s"),
        ({}, {"identity_ends": NOW + ENDS_SOON_S - 1}, "certificate", "warn", "ends in"),
        ({}, {"identity_ends": NOW - 1}, "certificate", "warn", "HAS ENDED"),
        ({}, {"troubles": ("n9: away",)}, "mesh", "warn", "n9: away"),
        ({}, {"agents": (AgentFacts("n1", False, False),)}, "agent", "bad", "n1 does not run"),
        ({}, {"agents": (AgentFacts("n1", True, False, "why"),)}, "agent", "bad", "why"),
        ({}, {"agents": (AgentFacts("n1", True, True, "", ("c",)),)}, "agent", "warn", "n1: c"),
    ],
)
def test_each_thing_that_goes_wrong_is_the_one_that_is_named(
    machine: dict[str, object], mesh: dict[str, object], topic: str, level: str, says: str
) -> None:
    (one,) = worst(machine, mesh)
    assert (one.topic, one.level) == (topic, level)
    assert says in one.says
    assert well([one]) == (level != "bad")


def test_ports_that_the_mesh_itself_holds_are_in_order() -> None:
    ours = (Port("a", "h:1", " (by bridge-agent)", ours=True), Port("b", "h:2", " (by etcd)", ours=True))
    assert worst({"ports": ours}) == []
    said = [one.says for one in diagnose(msgspec.structs.replace(MACHINE, ports=ours), MESH)]
    assert "the mesh has its 2 ports" in said


def test_before_a_mesh_there_is_none_to_complain_of() -> None:
    found = diagnose(MACHINE, MeshFacts())
    assert well(found)
    assert found[-1].topic == "mesh"
    assert "`bridgectl up`" in found[-1].do
