"""A log whose records lie sealed is the same log; a lost key and tampering are told apart."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge_cli.audit_verifying import Fault, verify
from bridge_core.audit import merkle, sealed, tiles
from bridge_core.audit.sealed import KeyGone
from bridge_core.audit.stored import FAULT, StoredLog, fault_text
from bridge_core.audit.tiles import Damaged
from bridge_core.audit.writing import LogWriter
from bridge_core.sealing import Sealer
from bridge_core.sealing.keyring import DataKey, Keyring
from tests import independent_log

ORIGIN = "m.local/node/a"
SIZE = 700  # two bundles and a tail
FIRST = DataKey(b"data-one", bytes(range(32)), 0.0)
SECOND = DataKey(b"data-two", bytes(range(1, 33)), 1.0)
SEALER = Sealer(Keyring((FIRST,)))
OTHERS = Sealer(Keyring((SECOND,)))


def entry(number: int) -> bytes:
    return b"who asked is secret %d" % number


def writer(folder: Path, sealer: Sealer | None = SEALER, *, wanted: bool = True) -> LogWriter:
    return LogWriter(
        folder, ORIGIN, lambda former: b"begun " + former.encode(), sealer=sealer, wanted=lambda: wanted
    )


def everything(folder: Path, sealer: Sealer | None = SEALER) -> list[bytes]:
    stored = StoredLog(folder, sealer)
    return [one for index in range(stored.length() // 256 + 1) for one in stored.entries(index)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed") / "log"
    log = writer(folder)
    for first in range(1, SIZE, 50):  # the tail in pieces
        log.append([entry(number) for number in range(first, min(first + 50, SIZE))])
    log.checkpoint()
    return folder


@pytest.fixture
def log(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "log"))


def only(faults: tuple[Fault, ...]) -> Fault:
    (fault,) = faults
    return fault


def test_no_record_can_be_read_on_the_disk_and_all_with_the_key(log: Path) -> None:
    assert b"secret" not in b"".join(one.read_bytes() for one in log.rglob("*") if one.is_file())
    assert sorted(one.name for one in log.rglob("*.sealed")) == [
        "000.zst.sealed",
        "001.zst.sealed",
        "2.sealed",
    ]
    assert everything(log) == [b"begun ", *map(entry, range(1, SIZE))]
    assert verify(log, sealer=SEALER).faults == ()
    key = (log / "key.pub").read_text().strip()
    _, size, root = independent_log.checkpoint_of((log / "checkpoint").read_bytes(), key)
    assert size == SIZE
    assert independent_log.tree(list(map(independent_log.leaf, everything(log)))) == root


def test_what_is_asked_for_by_name_is_the_file_as_it_was_before_it_was_sealed(log: Path) -> None:
    stored = StoredLog(log, SEALER)
    assert tiles.unpack(stored.read("tile/entries/001.zst"))[0] == [
        entry(number) for number in range(256, 512)
    ]
    assert tiles.entries_in(stored.read("tail/2.entries"))[0] == [
        entry(number) for number in range(512, SIZE)
    ]
    for path in ("tile/entries/002.zst", "tail/3.entries", "tail/3.hashes", "tile/0/002"):
        with pytest.raises(FileNotFoundError):
            stored.read(path)


def test_without_its_key_a_log_is_proved_and_the_key_named(log: Path) -> None:
    for sealer, says in ((None, "no keyring was given"), (OTHERS, "which the keyring does not hold")):
        verdict = verify(log, sealer=sealer)
        fault = only(verdict.faults)
        assert (fault.what, fault.first, fault.last) == ("sealed", 0, SIZE - 1)
        assert f"sealed with the data key {FIRST.id.hex()}, " in fault.detail
        assert says in fault.detail
        assert (verdict.size, verdict.kept) == (SIZE, 0)
    tile = bytearray((log / "tile/0/001").read_bytes())
    tile[7] ^= 1
    (log / "tile/0/001").write_bytes(tile)
    assert "edited" in {one.what for one in verify(log).faults}  # the hashes are checked though nothing opens


@pytest.mark.parametrize(
    ("at", "says"),
    [
        (0, "its head is another one"),
        (10, f"the id of its data key was changed: that is {FIRST.id.hex()}"),
        (20, "its head was changed"),
        (50, "its head was changed"),
        (100, "chunk 0 was changed"),
    ],
)
def test_tampering_is_told_from_a_lost_key(log: Path, at: int, says: str) -> None:
    path = log / sealed.bundle_path(1)
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)
    fault = only(verify(log, sealer=SEALER).faults)
    assert (fault.what, fault.first, fault.last) == ("edited", 256, 511)
    assert says in fault.detail


def test_sealed_files_that_changed_places_do_not_open_there(log: Path) -> None:
    one, other = log / sealed.bundle_path(0), log / sealed.bundle_path(1)
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    faults = verify(log, sealer=SEALER).faults
    assert [(fault.what, fault.first, fault.last) for fault in faults] == [
        ("edited", 0, 255),
        ("edited", 256, 511),
    ]


def test_a_piece_of_the_tail_that_was_changed_is_named_from_its_first_record_on(log: Path) -> None:
    path = log / sealed.tail_path(2)
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:4], "big")
    data[4 + length + 120] ^= 1
    path.write_bytes(data)
    in_front = len(sealed.open_tail(SEALER, 2, bytes(data)).entries)
    assert 0 < in_front < 188
    fault = only(verify(log, sealer=SEALER).faults)
    assert (fault.what, fault.first, fault.last) == ("edited", 512 + in_front, SIZE - 1)
    assert "chunk 0 was changed" in fault.detail


def test_every_byte_of_a_sealed_tail_counts(tmp_path: Path) -> None:
    made = writer(tmp_path)
    made.append([b"a"])
    made.append([b"b"])
    made.checkpoint()
    path = tmp_path / sealed.tail_path(0)
    data = path.read_bytes()
    for at in range(len(data)):
        edited = bytearray(data)
        edited[at] ^= 1 << at % 8
        path.write_bytes(edited)
        faults = verify(tmp_path, sealer=SEALER).faults
        assert faults, f"byte {at} was edited unseen"
        assert {0} <= {fault.last // 256 for fault in faults}


def test_a_new_data_key_seals_what_comes_and_nothing_is_written_anew(log: Path) -> None:
    before = {path: path.read_bytes() for path in log.rglob("*.zst.sealed")}
    both = Sealer(Keyring((FIRST, SECOND)))
    again = writer(log, both)
    again.append([entry(number) for number in range(SIZE, 1100)])
    again.checkpoint()
    assert all(path.read_bytes() == data for path, data in before.items())
    assert (log / sealed.bundle_path(2)).read_bytes()[8:16] == SECOND.id
    assert everything(log, both) == [b"begun ", *map(entry, range(1, 1100))]
    assert verify(log, sealer=both).faults == ()
    fault = only(verify(log, sealer=OTHERS).faults)
    assert (fault.what, fault.first, fault.last) == ("sealed", 0, 511)


def test_a_log_whose_tail_does_not_open_is_put_aside_with_the_name_of_the_key(log: Path) -> None:
    again = writer(log, OTHERS)
    (aside,) = log.parent.glob("log-until-*")
    assert again.size == 1
    (first,) = everything(log, OTHERS)
    assert f"its tail: it is sealed with the data key {FIRST.id.hex()}" in first.decode()
    assert aside.name in first.decode()
    assert everything(aside) == [b"begun ", *map(entry, range(1, SIZE))]  # nothing of it was touched


def test_a_tail_that_a_crash_tore_is_cut_at_a_whole_piece(log: Path) -> None:
    again = writer(log)
    again.append([entry(SIZE), entry(SIZE + 1)])
    again.append([b"torn"])
    path = log / sealed.tail_path(2)
    path.write_bytes(path.read_bytes()[:-1])
    third = writer(log)
    assert third.size == SIZE + 2
    third.append([b"goes on"])
    third.checkpoint()
    assert everything(log)[-2:] == [entry(SIZE + 1), b"goes on"]
    assert verify(log, sealer=SEALER).faults == ()


def test_a_crash_while_the_tail_moves_loses_nothing(tmp_path: Path) -> None:
    made = writer(tmp_path, wanted=False)
    made.append([b"one", b"two"])
    made.checkpoint()
    plain = tmp_path / tiles.tail_paths(0)[0]
    data = plain.read_bytes()
    both = writer(tmp_path)
    both.append([b"three"])
    plain.write_bytes(data)  # as if it had not gone yet
    again = writer(tmp_path)
    assert again.size == 4
    assert not plain.exists()
    again.checkpoint()
    assert everything(tmp_path) == [b"begun ", b"one", b"two", b"three"]


def test_retention_takes_sealed_bundles_too(log: Path) -> None:
    again = writer(log)
    again.forget_bundle()
    assert [one.name for one in (log / "tile/entries").iterdir()] == ["001.zst.sealed"]
    assert writer(log).oldest == 1


def test_why_a_file_does_not_open_travels_with_a_copy_of_the_log(log: Path) -> None:
    """As `bridgectl audit verify` gets it from a node: the copy is in the clear."""
    for path in ("tile/entries/000.zst", "tail/2.entries"):
        (log / path).write_bytes(StoredLog(log, SEALER).read(path))
    for path in log.rglob("*.sealed"):
        path.unlink()
    where = log / ("tile/entries/001.zst" + FAULT)
    for fault, what in (
        (KeyGone("it is sealed with a key"), "sealed"),
        (Damaged("it does not open"), "edited"),
    ):
        where.write_bytes(fault_text(fault))
        found = only(verify(log).faults)
        assert (found.what, found.first, found.last) == (what, 256, 511)
        assert fault.message.removeprefix("it ") in found.detail


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(1, 200), st.booleans(), st.sampled_from(["", "sign", "restart", "key"])),
        min_size=1,
        max_size=8,
    )
)
@example(steps=[(55, False, ""), (200, True, "")])  # 256 with the one that it begins with
def test_whenever_it_is_switched_a_log_stays_the_same(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bool, str]]
) -> None:
    folder, sealer, wanted = tmp_path_factory.mktemp("switched") / "log", SEALER, False

    def taken_up() -> LogWriter:
        return LogWriter(folder, ORIGIN, lambda _: b"begun", sealer=sealer, wanted=lambda: wanted)

    log, expected = taken_up(), [b"begun"]
    for many, wanted, after in steps:
        more = [entry(len(expected) + at) for at in range(many)]
        log.append(more)
        expected += more
        tail = folder / "tail"
        assert {path.suffix for path in tail.glob("*.*")} <= {
            ".hashes",
            ".sealed" if wanted else ".entries",
        } or (
            len(expected)
            >= 256  # what a full bundle was begun with stays as it was until a head speaks for it
        )
        if after == "sign":
            log.checkpoint()
        elif after:
            if after == "key":
                sealer = Sealer(Keyring((FIRST, SECOND)))
            log = taken_up()
        assert everything(folder, sealer) == expected
        assert log.root() == merkle.root_of(list(map(merkle.leaf_hash, expected)))
    log.checkpoint()
    assert verify(folder, sealer=sealer).faults == ()
