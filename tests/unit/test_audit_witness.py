"""A cosigner signs what continues what it signed, and convicts what does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_agent.audit.witness import Witness
from bridge_core.audit import merkle
from bridge_core.audit.entries import FindingRecord
from bridge_core.audit.notes import BadNote, Note, Signer, read_note
from bridge_core.audit.proofs import prove, read_proof
from bridge_core.audit.stored import StoredLog
from bridge_core.audit.witness_rules import Asked, read_request
from bridge_core.audit.writing import LogWriter
from tests import independent_log

ORIGIN = "m.local/node/a"


class Bed:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = LogWriter(folder / "log", ORIGIN, lambda _: b"begun")
        self.recorded: list[FindingRecord] = []
        self.signer = Signer("m.local/node/b", bytes(32))
        self.witness = self.remembering()

    def remembering(self) -> Witness:
        return Witness(self.folder / "witness", self.recorded.append, lambda: 5e8)

    def asked(self, log: LogWriter, old: int) -> Asked:
        log.checkpoint()
        stored = StoredLog(log.folder)
        path = merkle.consistency_path(stored, old, log.size)
        return Asked(old, tuple(path), stored.read("checkpoint"))

    def ask(self, log: LogWriter, old: int, node: str = "node/a") -> tuple[int, bytes]:
        key = log.signer.public.text
        return self.witness._add(f"spiffe://m.local/{node}", key, self.asked(log, old).data, self.signer)


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


def test_heads_that_continue_the_last_one_are_cosigned(bed: Bed) -> None:
    old = 0
    for number in (1, 255, 256, 3, 700):
        bed.log.append([b"x"] * number)
        status, line = bed.ask(bed.log, old)
        assert status == 200
        note = (bed.log.folder / "checkpoint").read_bytes() + line
        assert independent_log.cosigners_of(note, [bed.signer.public.text]) == {"m.local/node/b": 500_000_000}
        old = bed.log.size
    assert bed.ask(bed.log, old)[0] == 200  # once more the same
    assert bed.witness.concerns() == []


def test_who_does_not_know_what_was_cosigned_is_told(bed: Bed) -> None:
    bed.log.append([b"x"] * 20)
    assert bed.ask(bed.log, 0)[0] == 200
    bed.log.append([b"x"] * 20)
    assert bed.ask(bed.log, 0) == (409, b"21\n")
    assert bed.ask(bed.log, 21)[0] == 200
    assert bed.recorded == []


def forked(bed: Bed, kept: int, then: int) -> LogWriter:
    """The same log, by the same key, with another history after its first records."""
    folder = bed.folder / "fork"
    folder.mkdir(mode=0o700)
    for name in ("key", "key.pub"):
        shutil.copy(bed.log.folder / name, folder / name)
    made = LogWriter(folder, ORIGIN, lambda _: b"begun")
    made.append([b"x"] * (kept - 1) + [b"other"] * then)
    return made


@pytest.mark.parametrize(
    ("then", "status", "what"), [(5, 409, "rolled back"), (20, 409, "forked"), (300, 422, "forked")]
)
def test_another_history_is_refused_named_and_remembered(bed: Bed, then: int, status: int, what: str) -> None:
    bed.log.append([b"x"] * 30)
    assert bed.ask(bed.log, 0)[0] == 200
    other = forked(bed, 11, then)
    assert bed.ask(other, min(31, other.size))[0] == status
    (found,) = bed.recorded
    assert (found.origin, found.what) == (ORIGIN, what)
    for note in found.evidence:  # each is signed by the log's own key: together they convict it
        independent_log.checkpoint_of(note.encode(), bed.log.signer.public.text)
    assert bed.ask(other, min(31, other.size))[0] == status
    assert len(bed.recorded) == 1, "said again each time"
    assert "m.local/node/a is not to be trusted" in bed.remembering().concerns()[0]
    bed.log.append([b"x"])
    assert bed.ask(bed.log, 31)[0] == 200  # the true history goes on


def test_another_key_is_taken_and_said(bed: Bed, tmp_path: Path) -> None:
    bed.log.append([b"x"] * 30)
    assert bed.ask(bed.log, 0)[0] == 200
    other = LogWriter(tmp_path / "new", ORIGIN, lambda _: b"begun")
    assert bed.ask(other, 0)[0] == 200
    assert [one.what for one in bed.recorded] == ["new key"]


def test_nobody_speaks_for_another_nodes_log(bed: Bed) -> None:
    assert bed.ask(bed.log, 0, node="node/c")[0] == 404
    assert bed.ask(bed.log, 0, node="node/../a")[0] == 400


def test_what_the_logs_key_did_not_sign_convicts_nobody(bed: Bed) -> None:
    bed.log.append([b"x"] * 30)
    assert bed.ask(bed.log, 0)[0] == 200
    forged = Signer(ORIGIN, b"1" * 32)
    note = read_note((bed.log.folder / "checkpoint").read_bytes())
    text = note.text.replace(b"\n31\n", b"\n32\n")
    asked = Asked(31, (), Note(text, (forged.sign(text),)).data)
    key = bed.log.signer.public.text
    assert bed.witness._add("spiffe://m.local/node/a", key, asked.data, bed.signer)[0] == 403
    assert bed.recorded == []


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1200), st.data())
def test_every_record_is_proved_to_a_stranger(
    tmp_path_factory: pytest.TempPathFactory, size: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("proved")
    log = LogWriter(folder, ORIGIN, lambda _: b"begun")
    entries = [b"begun", *(b"%d" % number for number in range(1, size))]
    log.append(entries[1:])
    log.checkpoint()
    index = data.draw(st.integers(0, size - 1))
    note = read_note((folder / "checkpoint").read_bytes())
    text = prove(StoredLog(folder), entries[index], index, note, (log.signer.public.text,)).text
    found, checkpoint = independent_log.included(entries[index], text.decode())
    assert found == index
    assert independent_log.checkpoint_of(checkpoint, log.signer.public.text)[:2] == (ORIGIN, size)
    read = read_proof(text)
    read.check()
    assert read.extra.record.encode() == entries[index]
    with pytest.raises((BadNote, merkle.BadProof)):
        read_proof(text.replace(b"index %d\n" % index, b"index %d\n" % (index + 1))).check()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"old 1",
        b"old x\n\nnote",
        b"old 01234567890123456789\n\n",
        b"old 1\nAAAA\n\nx",
        b"old 1\n\xff\n\nx",
    ],
)
def test_a_request_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(BadNote):
        read_request(data)
