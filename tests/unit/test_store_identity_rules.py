"""Which store is the mesh's: judged, and remembered over restarts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core import keyspace
from bridge_core.errors import Unavailable
from bridge_core.snapshot import (
    GENERATION_BITS,
    MeshConfig,
    Snapshot,
    SnapshotRejected,
    Version,
    apply,
    encode_entry,
    whole,
)
from bridge_core.store.api import Changes, KeyListing, KeyValue
from bridge_registry.membership.store_identity_rules import (
    StoreIdentity,
    StoreRecord,
    Verdict,
    epoch_of,
    judge,
    restored,
)
from bridge_registry.records import encode
from bridge_registry.store_memory import StoreMemory

KNOWN = StoreIdentity("aa", 1, 7, 100)
SAME, OTHER, BACK = Verdict.SAME, Verdict.OTHER, Verdict.ROLLED_BACK


@pytest.mark.parametrize(
    ("known", "seen", "verdict"),
    [
        (None, StoreIdentity("", 0, 1, 1), SAME),  # the first there ever was
        (KNOWN, KNOWN, SAME),
        (KNOWN, StoreIdentity("aa", 1, 7, 101), SAME),
        (KNOWN, StoreIdentity("aa", 1, 7, 99), BACK),
        (KNOWN, StoreIdentity("", 0, 7, 5), OTHER),  # came back empty, as the same cluster
        (KNOWN, StoreIdentity("", 0, 7, 500), OTHER),  # … and outgrew what was known
        (KNOWN, StoreIdentity("bb", 0, 7, 500), OTHER),
        (KNOWN, StoreIdentity("aa", 1, 8, 500), OTHER),  # etcd's own restore makes a new cluster
        (KNOWN, StoreIdentity("aa", 0, 7, 500), BACK),  # older than the last restore
        (KNOWN, StoreIdentity("aa", 2, 8, 5), SAME),  # an admin restored it
        (StoreIdentity("", 0, 7, 5), StoreIdentity("aa", 0, 7, 6), SAME),  # was just founded
        (StoreIdentity("", 0, 0, 5), StoreIdentity("", 0, 7, 6), SAME),  # the cluster was not known
        (StoreIdentity("aa", revision=5), StoreIdentity("aa", 0, 7, 6), SAME),  # nor does it say so itself
    ],
)
def test_verdicts(known: StoreIdentity | None, seen: StoreIdentity, verdict: Verdict) -> None:
    assert judge(known, seen) is verdict


identities = st.builds(
    StoreIdentity,
    st.sampled_from(["", "a", "b"]),
    st.integers(0, 3),
    st.sampled_from([0, 1, 2]),
    st.integers(1, 9),
)


@given(identities, identities)
def test_a_restored_store_is_the_mesh_s_to_everybody_who_knew_either(known, seen) -> None:
    record = restored(known, seen)
    for cluster in (0, 1, 2):
        now = StoreIdentity(record.id, record.generation, cluster, 1)
        assert judge(known, now) is SAME
        assert judge(seen, now) is SAME


@given(st.integers(0, 9), st.integers(1, 1 << 40), st.integers(1, 1 << 40))
def test_epochs_go_up_over_a_restore_whatever_the_revisions(generation, before, after) -> None:
    assert epoch_of(generation + 1, after) > epoch_of(generation, before)
    assert epoch_of(0, before) == before


def a_listing(*items: KeyValue, revision: int = 5, cluster_id: int = 1) -> KeyListing:
    return KeyListing(items, revision, cluster_id)


def founding(of: str, generation: int = 0) -> KeyValue:
    return KeyValue(keyspace.STORE, encode(StoreRecord(of, generation)), 3, 3)


def test_nothing_is_written_before_the_store_was_seen_or_into_another_one(tmp_path: Path) -> None:
    memory = StoreMemory(tmp_path / "store.json")
    with pytest.raises(Unavailable, match="not read yet"):
        memory.check("k")
    assert memory.look(a_listing(), "k")
    memory.check("k")
    with pytest.raises(Unavailable, match="not read yet"):
        memory.check("a later candidacy")
    assert memory.follow(Changes((founding("aa"),), 6))
    memory.save({"k": b"v"}, 0.0)
    again = StoreMemory(tmp_path / "store.json")
    assert (again.mesh_id, again.records) == ("aa", {"k": b"v"})
    with pytest.raises(Unavailable, match="not read yet"):
        again.check("k")
    assert not again.look(a_listing(revision=900), "k")
    with pytest.raises(Unavailable, match=r"came back empty.*bridgectl restore --from-snapshot"):
        again.check("k")
    assert not again.follow(Changes((founding("bb"),), 901))
    assert not again.due({}, 1e9)  # what is not the mesh's is not remembered as its
    assert again.look(a_listing(founding("aa", 1), revision=902), "k")
    again.check("k")


def test_a_mere_revision_waits_to_be_saved_and_a_record_does_not(tmp_path: Path) -> None:
    memory = StoreMemory(tmp_path / "store.json")
    memory.look(a_listing(founding("aa")), "k")
    assert memory.due({}, 100.0)
    memory.save({}, 100.0)
    assert not memory.due({}, 1000.0)
    memory.follow(Changes((KeyValue("/x", b"", 6, 6),), 6))
    assert not memory.due({}, 101.0)
    assert memory.due({}, 131.0)
    assert memory.due({"k": b"v"}, 101.0)


@pytest.mark.parametrize("damage", [b"", b"\xff", b"[" * 5000, b'{"store":3}'])
def test_a_damaged_memory_is_moved_aside(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "store.json").write_bytes(damage)
    assert StoreMemory(tmp_path / "store.json").known is None
    assert [entry.name.partition("-")[0] for entry in tmp_path.iterdir()] == ["store.json.damaged"]


def test_the_file_is_what_it_was_in_earlier_releases(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_bytes(
        b'{"store":{"id":"aa","generation":1,"cluster_id":7,"revision":100},"records":{"k":"dg=="}}'
    )
    memory = StoreMemory(tmp_path / "store.json")
    assert (memory.known, memory.records) == (KNOWN, {"k": b"v"})


def of_store(store_id: str, epoch: int, revision: int = 1) -> Snapshot:
    return Snapshot(Version(epoch, revision), {"mesh": encode_entry(MeshConfig(store_id=store_id))})


def test_an_agent_takes_no_snapshot_of_another_store_until_an_admin_restored() -> None:
    known = of_store("aa", 9)
    for other in ("bb", ""):
        with pytest.raises(SnapshotRejected, match="not of aa"):
            apply(known, whole(of_store(other, 500)))
    assert apply(known, whole(of_store("aa", 10))).version == Version(10, 1)
    accepted = apply(known, whole(of_store("bb", 1 << GENERATION_BITS | 3)))
    assert accepted.mesh.store_id == "bb"
    assert apply(of_store("", 9), whole(of_store("aa", 10))).mesh.store_id == "aa"


def test_generations_end_where_epochs_would_no_longer_fit_into_63_bits() -> None:
    last = restored(StoreIdentity("a", 32_766), StoreIdentity("a", 3)).generation
    assert last == restored(StoreIdentity("a", 32_767), StoreIdentity("a", 3)).generation == 32_767
    assert epoch_of(last, (1 << 48) - 1) == (1 << 63) - 1
