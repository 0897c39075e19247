"""What a node writes that is no record: it is set aside and named, and nothing ends or grows by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bridge_agent.membership.follow_rules import judge
from bridge_agent.membership.registry_api import Update
from bridge_core.clients import Client
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.node_class import NodeClass
from bridge_core.probe import Probe
from bridge_core.snapshot import (
    EMPTY,
    Backend,
    Instance,
    MemberModel,
    MeshConfig,
    Node,
    Route,
    Snapshot,
    Version,
    apply,
    diff,
    encode_entry,
    whole,
)
from bridge_core.snapshot_file import SnapshotFile
from bridge_core.store.api import Changes, Deleted, KeyListing, KeyValue
from bridge_registry.membership.mesh_table import MAX_FAULTS, MeshTable
from bridge_registry.publication.builder import checked
from bridge_registry.rpc.load_messages import report_of
from bridge_registry.upkeep import ended
from bridge_wire.v1 import registry_pb2 as pb
from tests.sealing_bed import SEALER

DEEP = b'{"id":"a/0","node":"a","x":' + b"[" * 5000 + b"]" * 5000 + b"}"
HUGE = b'{"id":"a/0","node":"a","models":[' + b'{"name":"m"},' * 300_000 + b'{"name":"m"}]}'
BAD = {
    "not UTF-8": b'{"id":"a/0","node":"a","engine":"\xff\xfe"}',
    "no JSON": b"\x00\x01",
    "deep": DEEP,
    "long": HUGE,
    "a lone surrogate": b'{"id":"a/0","node":"a","engine":"\\ud800"}',
    "a number past 64 bits": b'{"id":"a/0","node":"a","slots":99999999999999999999999}',
    "a number of 200,000 digits": b'{"id":"a/0","node":"a","slots":' + b"9" * 200_000 + b"}",
}


def put(key: str, value: bytes, revision: int = 5) -> KeyValue:
    return KeyValue(f"/bridge/v1/{key}", value, revision, revision)


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD.keys())
def test_every_way_not_to_decode_is_one_error(raw: bytes) -> None:
    with pytest.raises(Undecodable):
        decode_json(raw, Instance)


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("place", ["members/a/0", "nodes/a", "ca/revoked/1", "rollouts/r", "config"])
def test_a_record_that_does_not_decode_is_named_and_set_aside(place: str, raw: bytes) -> None:
    table = MeshTable(())
    good = put("members/b/0", encode_entry(Instance("b/0", "b")))
    table.apply(KeyListing((put(place, raw), good), 5), 0.0)
    assert set(table.membership.members) == {"b/0"}
    assert list(table.faults) == [f"/bridge/v1/{place}"]
    table.apply(Changes((put(place, raw, 6),), 6), 0.0)
    table.apply(Changes((Deleted(f"/bridge/v1/{place}", 7),), 7), 0.0)
    assert table.faults == {}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD.keys())
def test_records_without_an_end_in_sight_are_not_cleared_away(raw: bytes) -> None:
    assert ended([put("tokens/t", raw)], now=1e12) == []


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD.keys())
def test_an_agent_refuses_a_snapshot_with_such_an_entry(raw: bytes) -> None:
    told = Snapshot(Version(1, 1), {"instance/a/0": raw})
    judged = judge(EMPTY, Update(whole(told), b""))
    assert judged.snapshot is EMPTY
    assert "instance/a/0" in judged.rejected


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD.keys())
def test_a_saved_snapshot_of_such_bytes_is_moved_aside(raw: bytes, tmp_path: Path) -> None:
    SEALER.write(tmp_path / "snapshot", raw, "snapshot")
    assert SnapshotFile(tmp_path / "snapshot", SEALER, now=lambda: 1.0).load() is EMPTY
    assert [entry.name for entry in tmp_path.iterdir()] == ["snapshot.damaged-1"]


MODEL = MemberModel("m")
UNBOUNDED: dict[str, Callable[[], Instance]] = {
    "weight": lambda: Instance("a/0", "a", weight=2_000_000),
    "a weight below nothing": lambda: Instance("a/0", "a", weight=-1),
    "slots": lambda: Instance("a/0", "a", slots=1 << 40),
    "size": lambda: Instance("a/0", "a", models=(MemberModel("m", size=1 << 70),)),
    "models": lambda: Instance("a/0", "a", models=(MODEL,) * 5000),
    "loaded": lambda: Instance("a/0", "a", loaded=("m",) * 5000),
    "a long name": lambda: Instance("a/0", "a", models=(MemberModel("m" * 1000),)),
    "a long engine": lambda: Instance("a/0", "a", engine="e" * 1000),
    "a long domain": lambda: Instance("a/0", "a", failure_domain="e" * 10_000),
    "capabilities": lambda: Instance("a/0", "a", models=(MemberModel("m", capabilities=("x",) * 1000),)),
}


@pytest.mark.parametrize("made", UNBOUNDED.values(), ids=UNBOUNDED.keys())
def test_every_field_of_a_member_is_bounded_at_the_registry_and_at_the_agent(
    made: Callable[[], Instance],
) -> None:
    raw = encode_entry(made())
    table = MeshTable(())
    table.apply(KeyListing((put("members/a/0", raw),), 5), 0.0)
    assert table.membership.members == {}
    assert "$." in table.faults["/bridge/v1/members/a/0"]  # names the field
    update = Update(whole(Snapshot(Version(1, 1), {"instance/a/0": raw})), b"")
    assert "$." in judge(EMPTY, update).rejected


def test_no_field_of_a_snapshot_entry_is_without_bounds() -> None:
    """Whoever adds a field says how large it may be."""
    for kind in (Instance, Node, MeshConfig, Route, NodeClass, Probe):
        assert unbounded(msgspec.inspect.type_info(kind), kind.__name__) == []


def unbounded(kind: object, path: str) -> list[str]:
    inspect = msgspec.inspect
    match kind:
        case inspect.StructType(fields=fields):
            return [found for one in fields for found in unbounded(one.type, f"{path}.{one.name}")]
        case inspect.UnionType(types=types):
            return [found for one in types for found in unbounded(one, path)]
        case inspect.VarTupleType(item_type=item, max_length=most):
            return ([] if most else [path]) + unbounded(item, f"{path}[]")
        case inspect.DictType(key_type=key, value_type=value, max_length=most):
            return ([] if most else [path]) + unbounded(key, f"{path}[]") + unbounded(value, f"{path}[]")
        case inspect.StrType(max_length=most):
            return [] if most else [path]
        case inspect.IntType(ge=least, le=most) | inspect.FloatType(ge=least, le=most):
            return [path] if least is None or most is None else []
    return []


@pytest.mark.parametrize("place", ["a/256", "a/-1", "a/00", "a/x", "a/1_0", "a/\u0663", "a/1/2", "a/"])
def test_a_node_has_no_more_instances_than_numbers_below_the_bound(place: str) -> None:
    table = MeshTable(())
    raw = encode_entry(Instance(place, place.rpartition("/")[0]))
    table.apply(KeyListing((put(f"members/{place}", raw),), 5), 0.0)
    assert table.membership.members == {}
    assert list(table.faults) == [f"/bridge/v1/members/{place}"]


def test_the_list_of_faults_is_bounded_and_says_how_many_there_are() -> None:
    table = MeshTable(())
    junk = tuple(put(f"members/a/x{at}", b"\xff") for at in range(MAX_FAULTS + 500))
    table.apply(KeyListing(junk, 5), 0.0)
    assert len(table.faults) == MAX_FAULTS
    gone = tuple(Deleted(one.key, 6) for one in junk)
    table.apply(Changes(gone, 6), 0.0)
    assert table.faults == {}


def test_an_agent_refuses_a_ring_that_would_not_fit() -> None:
    entries = {f"instance/a/{n}": encode_entry(Instance(f"a/{n}", "a", weight=1000)) for n in range(400)}
    entries["mesh"] = encode_entry(MeshConfig(ring_points=4096))
    rejected = judge(EMPTY, Update(whole(Snapshot(Version(1, 1), entries)), b"")).rejected
    assert "points" in rejected


def test_an_entry_that_agents_would_refuse_is_not_published() -> None:
    good, worse = encode_entry(Route("r")), encode_entry(Route("r" * 1000))
    made, faults = checked({"route/r": worse, "route/new": worse, "route/s": good}, {"route/r": good})
    assert made == {"route/r": good, "route/s": good}
    assert set(faults) == {"route/r", "route/new"}


SNAPSHOT = Snapshot(
    Version(1, 1),
    {
        "route/r": encode_entry(Route("r", (Backend("m"),))),
        "instance/a/0": encode_entry(Instance("a/0", "a")),
        "probe/p/canary": encode_entry(Probe("p", 1, "m")),
    },
)


def counted(**fields: object) -> pb.BackendLoad:
    return pb.BackendLoad(**({"route": "r", "backend": "m", "requests": 1} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "lie",
    [
        counted(route="x" * 100_000),
        counted(backend="other"),
        counted(requests=1 << 63),
        counted(tokens=(1 << 64) - 1),
        counted(ttft_buckets=[1] * 100_000),
        counted(ttft_buckets=[1 << 60]),
        counted(ttft_seconds=float("nan")),
        counted(ttft_seconds=float("inf")),
        counted(generating_seconds=-1.0),
    ],
    ids=["route", "backend", "requests", "tokens", "buckets", "bucket", "nan", "inf", "negative"],
)
def test_a_count_that_cannot_be_is_left_out_of_a_load_report(lie: pb.BackendLoad) -> None:
    assert report_of(pb.LoadReport(backends=[lie]), "a", SNAPSHOT, 1e9).backends == {}
    assert set(report_of(pb.LoadReport(backends=[counted()]), "a", SNAPSHOT, 1e9).backends) == {("r", "m")}


def test_results_of_rollouts_and_instances_that_are_not_there_are_left_out() -> None:
    def results(rollout: str, instance: str) -> int:
        probe = pb.ProbeResult(rollout=rollout, round=1, instance=instance, passed=True)
        return len(report_of(pb.LoadReport(probes=[probe]), "a", SNAPSHOT, 1e9).results)

    assert results("p", "a/0") == 1
    assert results("p", "a/7") == results("other", "a/0") == results("p", "b/0") == 0


def test_the_records_of_one_node_are_bounded_together() -> None:
    model = MemberModel("m" * 500)

    def record(n: int, models: int) -> KeyValue:
        return put(f"members/a/{n}", encode_entry(Instance(f"a/{n}", "a", models=(model,) * models)))

    table = MeshTable(())
    table.apply(KeyListing(tuple(record(n, 2100) for n in range(6)), 5), 0.0)
    assert set(table.membership.members) == {"a/0", "a/1", "a/2"}  # a MiB and some each
    assert len(table.faults) == 3
    gone, small = Deleted("/bridge/v1/members/a/0", 6), record(1, 1)
    table.apply(Changes((gone, small, record(4, 2100)), 6), 0.0)
    assert set(table.membership.members) == {"a/1", "a/2", "a/4"}
    table.apply(KeyListing((record(0, 2100), record(1, 2100)), 7), 0.0)
    assert table.faults == {}


def test_what_an_update_leaves_as_it_is_is_not_decoded_again() -> None:
    first = Snapshot(
        Version(1, 1), {"client/a": encode_entry(Client("a")), "client/b": encode_entry(Client("b"))}
    )
    entries = {**first.entries, "client/b": encode_entry(Client("b", blocked=True))}
    del entries["client/a"]
    entries["client/c"] = encode_entry(Client("c"))
    assert first.clients["a"].name == "a"
    second = apply(first, diff(first, Snapshot(Version(1, 2), entries)))
    assert {name: one.blocked for name, one in second.clients.items()} == {"b": True, "c": False}
    third = apply(
        second, diff(second, Snapshot(Version(1, 3), {**entries, "client/d": encode_entry(Client("d"))}))
    )
    assert third.clients["b"] is second.clients["b"]
    assert list(third.clients) == ["b", "c", "d"]
    assert "client/a" not in third._decoded
