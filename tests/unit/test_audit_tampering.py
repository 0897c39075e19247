"""Whatever is done to a log's files is found, and the records are named."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_cli.audit_verifying import Verdict, verify
from bridge_core.audit import merkle, tiles
from bridge_core.audit.entries import AuditRecord, BegunRecord, encode
from bridge_core.audit.notes import Checkpoint, PublicKey, Signer, read_note, with_signatures
from bridge_core.audit.stored import COSIGNED
from bridge_core.audit.writing import LogWriter, public_key
from tests.sealing_bed import SEALER

ORIGIN = "m.local/node/a"
SIZE = 1100  # four bundles and a tail


def entry(number: int) -> bytes:
    return encode(
        AuditRecord(
            1e9 + number, f"r{number}", "local", "local", "POST", "/api/chat", 200, "ok", 1.0, number, 4
        )
    )


def begun(former: str) -> bytes:
    return encode(BegunRecord(1e9, ORIGIN, former))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit") / "log"
    log = LogWriter(folder, ORIGIN, begun)
    log.append([entry(number) for number in range(1, 700)])
    log.checkpoint()
    shutil.copy(folder / "checkpoint", folder / COSIGNED)  # as if somebody had cosigned it
    log.append([entry(number) for number in range(700, SIZE)])
    log.checkpoint()
    return folder


@pytest.fixture
def log(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "log"))


def found(folder: Path) -> list[tuple[str, int, int]]:
    return [(one.what, one.first, one.last) for one in verify(folder).faults]


def bundle(log: Path, number: int) -> list[bytes]:
    return tiles.unpack((log / tiles.bundle_path(number)).read_bytes())[0]


def put_bundle(log: Path, number: int, entries: list[bytes]) -> None:
    (log / tiles.bundle_path(number)).write_bytes(tiles.pack(b"".join(map(tiles.framed, entries))))


def test_a_log_as_it_was_written_has_no_faults(log: Path) -> None:
    verdict = verify(log)
    assert verdict.faults == ()
    assert (verdict.size, verdict.kept, verdict.unsigned) == (SIZE, SIZE, 0)
    assert verdict.origin == ORIGIN
    assert verdict.said == ("it was begun at 2001-09-09 01:46:40",)


def test_an_edited_record_is_named_with_its_time(log: Path) -> None:
    entries = bundle(log, 2)
    entries[5] = entries[5].replace(b'"local"', b'"admin"')
    put_bundle(log, 2, entries)
    (fault,) = verify(log).faults
    assert (fault.what, fault.first, fault.last) == ("edited", 517, 517)
    assert fault.at == "between 2001-09-09 01:55:12 and 2001-09-09 01:59:27"


def test_a_dropped_record_is_named(log: Path) -> None:
    entries = bundle(log, 1)
    del entries[10]
    put_bundle(log, 1, entries)
    assert ("dropped", 266, 266) in found(log)


def test_a_record_that_was_put_in_is_found(log: Path) -> None:
    entries = bundle(log, 1)
    entries.insert(10, entry(99999))
    put_bundle(log, 1, entries)
    assert ("added", 256, 511) in found(log)


def test_records_that_changed_places_are_named(log: Path) -> None:
    entries = bundle(log, 0)
    entries[3], entries[200] = entries[200], entries[3]
    put_bundle(log, 0, entries)
    assert found(log) == [("reordered", 3, 3), ("reordered", 200, 200)]


def test_a_dropped_file_of_records_is_named(log: Path) -> None:
    (log / tiles.bundle_path(1)).unlink()
    assert found(log) == [("dropped", 256, 511)]


def test_files_that_changed_places_are_found(log: Path) -> None:
    one, other = log / tiles.bundle_path(0), log / tiles.bundle_path(3)
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    assert {(what, first // 256) for what, first, _ in found(log)} == {("edited", 0), ("edited", 3)}


@pytest.mark.parametrize("left", [0, 1, 700])
def test_a_truncated_tail_is_named(log: Path, left: int) -> None:
    path = log / tiles.tail_paths(4)[0]
    path.write_bytes(path.read_bytes()[:left])
    there = len(tiles.entries_in(path.read_bytes())[0])
    faults = found(log)
    if there:
        assert {what for what, _, _ in faults} == {"truncated"}
        assert {first for _, first, _ in faults} >= {1024 + there, 1025 + there}
    else:
        assert faults == [("dropped", 1024, SIZE - 1)]


def test_a_log_cut_back_to_an_older_head_contradicts_who_cosigned(log: Path) -> None:
    """The operator, who has the key, takes away what was recorded since."""
    again = LogWriter(log, ORIGIN, begun)
    seen = Checkpoint(ORIGIN, again.size, again.root())
    shutil.copy(log / COSIGNED, log / "checkpoint")
    verdict = verify(log, seen={"node/b": seen})
    assert ("truncated", 700, SIZE - 1) in [(one.what, one.first, one.last) for one in verdict.faults]
    assert "node/b has seen 1100 records, of which 700 are left" in [one.detail for one in verdict.faults]


def rewrite(log: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """What only the operator can: another history, signed with the log's own key."""
    entries = [one for number in range(4) for one in bundle(log, number)]
    entries += tiles.entries_in((log / tiles.tail_paths(4)[0]).read_bytes())[0]
    cosigned, keys = (log / COSIGNED).read_bytes(), [(log / name).read_bytes() for name in ("key", "key.pub")]
    shutil.rmtree(log)
    log.mkdir(mode=0o700)
    for name, data in zip(("key", "key.pub"), keys, strict=True):
        (log / name).write_bytes(data)
    changed = change(entries)
    made = LogWriter(log, ORIGIN, lambda _: changed[0])
    made.append(changed[1:])
    made.checkpoint()
    (log / COSIGNED).write_bytes(cosigned)


def test_a_rewritten_history_contradicts_who_cosigned(log: Path) -> None:
    rewrite(log, lambda entries: [*entries[:500], entry(12345), *entries[501:]])
    assert found(log) == [("forked", 0, 699)]
    (log / COSIGNED).unlink()
    assert found(log) == []  # alone it cannot be told: that is what cosigners are for


def test_what_was_rewritten_since_the_last_cosignature_needs_a_later_witness(log: Path, whole: Path) -> None:
    rewrite(log, lambda entries: [*entries[:900], entry(12345), *entries[901:]])
    assert found(log) == []
    again = LogWriter(whole, ORIGIN, begun)
    verdict = verify(log, seen={"node/b": Checkpoint(ORIGIN, again.size, again.root())})
    assert [(one.what, one.last) for one in verdict.faults] == [("forked", SIZE - 1)]


def test_another_key_is_found(log: Path, tmp_path: Path) -> None:
    expected = public_key(log)
    other = LogWriter(tmp_path / "other", ORIGIN, begun)
    other.checkpoint()
    faults = verify(tmp_path / "other", expected=expected).faults
    assert [one.what for one in faults] == ["forked"]
    assert expected.text in faults[0].detail


def test_a_record_changed_with_its_hash_is_narrowed_down_by_older_heads(log: Path) -> None:
    entries = bundle(log, 3)
    entries[10] = entry(5)
    put_bundle(log, 3, entries)
    tile = bytearray((log / tiles.tile_path(0, 3)).read_bytes())
    tile[320:352] = merkle.leaf_hash(entries[10])
    (log / tiles.tile_path(0, 3)).write_bytes(tile)
    assert found(log) == [("edited", 700, SIZE - 1)]


def test_a_missing_or_false_head_is_found(log: Path) -> None:
    data = (log / "checkpoint").read_bytes()
    (log / "checkpoint").write_bytes(data.replace(b"\n1100\n", b"\n1099\n"))
    assert found(log) == [("forked", -1, -1)]
    (log / "checkpoint").unlink()
    assert found(log) == [("truncated", -1, -1)]


def positions(path: Path, rng: random.Random, many: int) -> list[int]:
    size = path.stat().st_size
    ends = {*range(min(8, size)), *range(max(0, size - 8), size)}
    return sorted(ends | {rng.randrange(size) for _ in range(many)})


def test_single_byte_edits_of_any_file_are_found_and_named(log: Path) -> None:
    """A sample of them; `python -m bench audit-edits` does every one of a log of 10,000 records."""
    rng = random.Random(5)
    for path in sorted(one for one in log.rglob("*") if one.is_file() and one.name != "key"):
        data = path.read_bytes()
        for at in positions(path, rng, 6):
            edited = bytearray(data)
            edited[at] ^= 1 << rng.randrange(8)
            path.write_bytes(edited)
            check(verdict_of(log), path.relative_to(log), at)
        path.write_bytes(data)
    assert found(log) == []


def verdict_of(log: Path) -> Verdict | None:
    try:
        return verify(log)
    except tiles.BridgeError:
        return None  # it says that the folder holds no log any more: its key cannot be read


def check(verdict: Verdict | None, path: Path, at: int) -> None:
    if verdict is None:
        assert path.name == "key.pub"
        return
    assert verdict.faults, f"byte {at} of {path} was edited unseen"
    if path.parts[0] == "tile":
        number = int(path.stem)
        assert any(number * 256 <= one.first <= one.last < (number + 1) * 256 for one in verdict.faults)
    elif path.parts[0] == "tail":
        assert all(one.first >= 1024 for one in verdict.faults)


def test_every_byte_of_a_cosignature_counts(tmp_path: Path) -> None:
    """A cosigner's line that was changed is a fault; one whose name was is nobody's who is known."""
    log, cosigner = tmp_path / "log", Signer("m.local/node/b", bytes(32))
    LogWriter(log, ORIGIN, begun).checkpoint()
    note = read_note((log / "checkpoint").read_bytes())
    data = with_signatures(note, [cosigner.cosign(note.text, 1_800_000_000)]).data
    (log / COSIGNED).write_bytes(data)
    assert verify(log, witnesses=[cosigner.public]).cosigned == {"m.local/node/b": 1_800_000_000}
    for at in range(len(note.data), len(data)):
        edited = bytearray(data)
        edited[at] ^= 1 << at % 8
        (log / COSIGNED).write_bytes(edited)
        verdict = verify(log, witnesses=[cosigner.public])
        assert not verdict.cosigned
        if not verdict.faults:
            assert any("whose key is not known now" in one for one in verdict.said), f"byte {at}"


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same records in the clear and sealed."""
    folders = []
    for wanted in (False, True):
        folder = tmp_path_factory.mktemp("edits") / "log"
        made = LogWriter(folder, ORIGIN, begun, sealer=SEALER, wanted=lambda wanted=wanted: wanted)
        made.append([entry(number) for number in range(1, 400)])
        made.checkpoint()
        folders.append(folder)
    return folders


@settings(max_examples=80, deadline=None)
@given(
    which=st.integers(0, 1),
    file=st.integers(0, 99),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_any_single_bit_of_a_log_sealed_or_not_counts(
    logs: list[Path], which: int, file: int, place: float, bit: int
) -> None:
    log = logs[which]
    files = sorted(one for one in log.rglob("*") if one.is_file() and one.name != "key")
    path = files[file % len(files)]
    data = path.read_bytes()
    edited = bytearray(data)
    edited[int(place * len(data))] ^= 1 << bit
    path.write_bytes(edited)
    try:
        verdict = verify(log, sealer=SEALER)
    except tiles.BridgeError:
        assert path.name == "key.pub"
    else:
        assert verdict.faults
        if path.name not in {"key.pub", "checkpoint"}:
            part = int(path.name.partition(".")[0])
            assert {one.first // 256 for one in verdict.faults} == {part}
    finally:
        path.write_bytes(data)


def test_a_log_with_65536_records_and_more_has_tiles_of_tiles(tmp_path: Path) -> None:
    log = LogWriter(tmp_path, ORIGIN, begun)
    log.append([b"%d" % number for number in range(65_800)])
    log.checkpoint()
    assert (tmp_path / "tile/1/000").stat().st_size == 8192
    assert verify(tmp_path).faults == ()
    again = LogWriter(tmp_path, ORIGIN, begun)
    assert (again.size, again.root()) == (65_801, log.root())
    tile = bytearray((tmp_path / "tile/1/000").read_bytes())
    tile[77] ^= 1
    (tmp_path / "tile/1/000").write_bytes(tile)
    assert [(one.what, one.detail) for one in verify(tmp_path).faults] == [
        ("altered", "tile/1/000 is not the one of the tiles below it")
    ]


def test_a_bundle_that_would_become_huge_is_not_believed(log: Path) -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(400 << 20))
    (log / tiles.bundle_path(0)).write_bytes(bomb)
    assert found(log)[0][:2] in {("edited", 0), ("added", 0)}


def test_verifier_keys_are_read_strictly(log: Path) -> None:
    text = public_key(log).text
    assert PublicKey.parse(text).text == text
    for wrong in (
        "",
        "a+b",
        text[:-4],
        text.replace(ORIGIN, "m.local/node/b"),
        text.upper(),
        "a\udce1" + text,
    ):
        with pytest.raises(tiles.BridgeError):
            PublicKey.parse(wrong)
