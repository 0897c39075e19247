"""The saved snapshot: whole, or moved aside."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge_core.snapshot import EMPTY, Node, Snapshot, Version, encode_entry
from bridge_core.snapshot_file import SnapshotFile, decode, encode
from tests.sealing_bed import SEALER

SNAPSHOT = Snapshot(Version(3, 14), {"node/n1": encode_entry(Node(name="n1", peer="127.0.0.1:1"))})
FROZEN = (
    b'{"version":{"epoch":3,"revision":14},"base":null,"changed":'
    b'{"node/n1":"eyJuYW1lIjoibjEiLCJwZWVyIjoiMTI3LjAuMC4xOjEifQ=="},"removed":[],'
    b'"digest":"mXJJ5hYylPfho0rO3BGQJn4NQhLCSsLip7UpOU9qj/A="}'
)


def file_in(folder: Path) -> SnapshotFile:
    return SnapshotFile(folder / "snapshot.sealed", SEALER, now=lambda: 1_700_000_000.0)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    file_in(tmp_path).save(SNAPSHOT)
    loaded = file_in(tmp_path).load()
    assert (loaded.version, loaded.entries) == (SNAPSHOT.version, SNAPSHOT.entries)
    assert b"node/n1" not in (tmp_path / "snapshot.sealed").read_bytes()
    assert (tmp_path / "snapshot.sealed").stat().st_mode & 0o777 == 0o600


def test_a_file_of_an_earlier_release_is_still_read() -> None:
    assert decode(FROZEN).nodes["n1"].peer == "127.0.0.1:1"
    assert encode(SNAPSHOT) == FROZEN


def test_without_a_file_there_is_the_empty_snapshot(tmp_path: Path) -> None:
    assert file_in(tmp_path).load() is EMPTY


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"\x00" * len(data),
        lambda data: data.replace(b'"n1', b'"n2'),
        lambda data: data.replace(b"node/n1", b"node/n2"),
    ],
    ids=["cut", "empty", "zeroes", "damaged value", "damaged key"],
)
@pytest.mark.parametrize("seal", [lambda data: SEALER.seal(data, "snapshot"), lambda data: data])
def test_a_damaged_file_is_moved_aside_and_the_agent_starts_empty(tmp_path: Path, damage, seal) -> None:
    damaged = damage(encode(SNAPSHOT))
    if damaged == encode(SNAPSHOT):
        damaged = damaged.replace(b"eyJ", b"eyK")
    (tmp_path / "snapshot.sealed").write_bytes(seal(damaged))
    assert file_in(tmp_path).load() is EMPTY
    assert [entry.name for entry in tmp_path.iterdir()] == ["snapshot.sealed.damaged-1700000000"]


def test_a_snapshot_that_cannot_be_saved_is_not_the_end(tmp_path: Path) -> None:
    SnapshotFile(tmp_path / "missing" / "snapshot.sealed", SEALER, now=lambda: 0.0).save(SNAPSHOT)
