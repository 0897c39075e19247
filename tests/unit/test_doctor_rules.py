"""What `bridgectl doctor` says of what a first installation gets wrong."""

from __future__ import annotations

import msgspec
import pytest

from bridge_cli.doctor.doctor_rules import (
    AgentFacts,
    Finding,
    MachineFacts,
    MeshFacts,
    Port,
    diagnose,
    well,
)

NOW = 1_767_225_600 + 1e7
MACHINE = MachineFacts(
    now=NOW,
    synchronised=True,
    state="/s",
    free=5 << 30,
    total=(5 << 30) * 2,
    inodes_free=0.5,
    memory=2 << 30,
    memory_total=1 << 34,
    files=(1024, 4096),
    etcd="/usr/bin/etcd",
    cgroup="v2",
    gpu_devices=("/dev/nvidia0",),
    localhost=("127.0.0.1",),
    ports=(Port("node1's http", "127.0.0.1:11434"),),
)
MESH = MeshFacts(asked="r:1", skew_s=0.0, identity_ends=NOW + (7 * 86_400.0), leader="r1")


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
        ({"now": 1_767_225_600 - 1.0}, {"identity_ends": 0.0}, "clock", "bad", "never set"),
        ({"synchronised": False}, {}, "clock", "warn", "no NTP"),
        ({}, {"skew_s": 20.0 + 1}, "clock", "bad", "joins are refused"),
        ({}, {"skew_s": -20.0 - 1}, "clock", "bad", "joins are refused"),
        ({}, {"skew_s": 20.0}, "clock", "warn", "differs"),
        ({}, {"skew_s": -2.0 - 1}, "clock", "warn", "differs"),
        ({"state_fault": "Permission denied"}, {}, "state folder", "bad", "/s cannot be written"),
        ({"state_mode": 0o750}, {}, "state folder", "bad", "mode 750"),
        ({"free": (1 << 30) - 1}, {}, "disk", "bad", "only"),
        ({"free": 1 << 30}, {}, "disk", "warn", "only"),
        ({"free": 5 << 30, "total": (5 << 30) * 21}, {}, "disk", "warn", "only"),
        ({"inodes_free": 0.01}, {}, "disk", "warn", "inode"),
        ({"memory": (2 << 30) - 1}, {}, "memory", "warn", "only"),
        ({"files": (10, 4096 - 1)}, {}, "open files", "warn", "4095"),
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
        ({}, {"identity_ends": NOW + (7 * 86_400.0) - 1}, "certificate", "warn", "ends in"),
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


def lines(machine: MachineFacts, mesh: MeshFacts) -> list[str]:
    return [f"{one.topic}: {one.level}: {one.says}" for one in diagnose(machine, mesh)]


def test_all_that_is_said_where_all_is_well() -> None:
    assert lines(MACHINE, MESH) == [
        "commands: ok: all commands of the Bridge are installed",
        "etcd program: ok: /usr/bin/etcd",
        "engine: ok: the embedded engine loads",
        "clock: ok: this machine's clock is synchronised, and agrees with the registry's",
        "state folder: ok: /s",
        "disk: ok: 5 GiB of 10 GiB free at /s",
        "memory: ok: 2 GiB of 16 GiB can be had",
        "open files: ok: 1024, and up to 4096 where asked for",
        "ports: ok: all 1 that `up` needs are free",
        "names: ok: localhost is 127.0.0.1",
        "limits: ok: control groups (v2) can be made",
        "walls: ok: namespaces can be made",
        "GPU: ok: 1 with a driver that answers",
        "mesh: ok: r1 leads, asked at r:1",
        "etcd: ok: answers the registry",
        "certificate: ok: yours is valid for 7 d",
    ]


def test_all_that_is_said_where_nothing_could_be_found_out() -> None:
    assert lines(MachineFacts(now=1_767_225_600.0, state="/s", own_etcd=False), MeshFacts()) == [
        "commands: ok: all commands of the Bridge are installed",
        "etcd program: skipped: the mesh uses an etcd that somebody else runs",
        "engine: ok: the embedded engine loads",
        "clock: ok: this machine's clock is set",
        "state folder: ok: /s",
        "disk: skipped: the disk of /s could not be looked at",
        "memory: skipped: memory could not be looked at",
        "open files: skipped: the limit could not be read",
        "names: warn: the name localhost is not known",
        "limits: ok: control groups () can be made",
        "walls: ok: namespaces can be made",
        "GPU: skipped: there is no NVIDIA GPU here: models run on the CPU",
        "mesh: skipped: no mesh is known yet",
    ]


@pytest.mark.parametrize(
    ("machine", "mesh"),
    [
        ({}, {"skew_s": 2.0}),
        ({}, {"skew_s": None}),
        ({"synchronised": None}, {}),
        ({"free": 6 << 30, "total": 120 << 30}, {}),
        ({"inodes_free": 0.02}, {}),
        ({"inodes_free": None}, {}),
        ({"free": None}, {}),
        ({"total": None}, {}),
        ({"memory": None}, {}),
        ({"memory_total": None}, {}),
        ({"state_mode": 0o40700}, {}),
        ({"gpu_devices": ()}, {}),
        ({"gpu_devices": (), "gpu_fault": "no library"}, {}),
        ({"ports": ()}, {}),
        ({"localhost": ("::1", "127.0.0.1")}, {}),
        ({}, {"identity_ends": 0.0}),
        ({}, {"agents": (AgentFacts("n1", True, True),)}),
    ],
)
def test_what_is_no_reason_to_complain(machine: dict[str, object], mesh: dict[str, object]) -> None:
    assert worst(machine, mesh) == []


def test_figures_in_what_is_said() -> None:
    assert worst({"state_mode": 0o40750})[0].says == "/s is open to others (mode 750): it holds keys"
    assert worst({"state_mode": 0o701})[0].do == "chmod 700 /s"
    assert worst(mesh={"identity_ends": NOW})[0].says == "yours HAS ENDED"
    assert worst(mesh={"identity_ends": NOW + 0.5})[0].says.startswith("yours ends in")
    assert worst({"free": (6 << 30) - 1, "total": 120 << 30})[0].level == "warn"
    half = (Port("a", "h:1", " (by etcd)", ours=True), Port("b", "h:2", " (by x)"))
    (taken,) = worst({"ports": half})
    assert taken.says == "h:2 for b: it is taken (by x)"
    silent = [one.topic for one in diagnose(MACHINE, msgspec.structs.replace(MESH, leader=""))]
    young = [one.topic for one in diagnose(MACHINE, MeshFacts(asked="r:1", leader="r1"))]
    assert "certificate" not in young, "nobody said when it ends"
    assert "etcd" not in silent, "nobody who leads is asked about it"
