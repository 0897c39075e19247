"""The formats, frozen, and checked by code that shares nothing with ours."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.audit import entries as audit_entries
from bridge_core.audit import merkle, tiles
from bridge_core.audit.entries import BegunRecord
from bridge_core.audit.notes import (
    Checkpoint,
    Note,
    PublicKey,
    Signer,
    cosigned_at,
    open_checkpoint,
    read_note,
    signed_by,
    with_signatures,
)
from tests import independent_log

# From the text of C2SP tlog-cosignature: a log's head with its signature.
PUBLISHED = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""  # noqa: E501 - as it is published
OURS = """m.local/node/a
3
NmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsE=

"""


def test_a_published_checkpoint_is_read_and_written_as_it_was() -> None:
    note = read_note(PUBLISHED.encode())
    assert note.data.decode() == PUBLISHED
    assert [one.name for one in note.signatures] == ["example.com/behind-the-sofa", "witness.example.com/w1"]
    assert note.signatures[1].raw[:8] == (1679315147).to_bytes(8, "big")


def test_hashes_of_rfc_6962() -> None:
    # The vectors that Certificate Transparency's implementations share.
    entries = [
        bytes.fromhex(one)
        for one in (
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        )
    ]
    roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]
    hashes = list(map(merkle.leaf_hash, entries))
    assert [merkle.root_of(hashes[: size + 1]).hex() for size in range(8)] == roots
    assert merkle.EMPTY_ROOT.hex() == hashlib.sha256().hexdigest()


def test_our_checkpoint_and_cosignature_are_frozen() -> None:
    log, witness = Signer("m.local/node/a", bytes(range(32))), Signer("m.local/node/b", bytes(32))
    root = merkle.root_of([merkle.leaf_hash(one) for one in (b"a", b"b", b"c")])
    head = Checkpoint("m.local/node/a", 3, root)
    assert head.text.decode() + "\n" == OURS
    note = with_signatures(
        Note(head.text, (log.sign(head.text),)), [witness.cosign(head.text, 1_700_000_000)]
    )
    assert log.public.text == "m.local/node/a+2f71052d+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
    assert hashlib.sha256(note.data).hexdigest() == FROZEN
    assert open_checkpoint(note.data, log.public)[0] == head
    assert independent_log.checkpoint_of(note.data, log.public.text) == ("m.local/node/a", 3, root)
    assert independent_log.cosigners_of(note.data, [witness.public.text]) == {"m.local/node/b": 1_700_000_000}
    assert cosigned_at(note, witness.public) == 1_700_000_000
    assert not signed_by(note, witness.public)
    assert cosigned_at(note, PublicKey("m.local/node/b", bytes(32))) is None


FROZEN = "927e52eed50a63dc28bc234569567ea29f89ec7770900f42af4d28bc42ac20e9"


def test_paths_of_tiles() -> None:
    assert tiles.path_of(0) == "000"
    assert tiles.path_of(999) == "999"
    assert tiles.path_of(1000) == "x001/000"
    assert tiles.path_of(1234067) == "x001/x234/067"  # tlog-tiles' own example
    assert tiles.tile_path(1, 5) == "tile/1/005"


@given(st.lists(st.binary(max_size=300), max_size=tiles.WIDTH))
def test_bundles_come_back_as_they_were(entries: list[bytes]) -> None:
    framed = b"".join(map(tiles.framed, entries))
    assert tiles.framed_all(entries) == framed
    assert tiles.unpack(tiles.pack(framed)) == (entries, True)


@given(st.lists(st.binary(max_size=80), max_size=40))
def test_hashes_of_many_are_those_of_each(entries: list[bytes]) -> None:
    hashes = merkle.leaf_hashes(entries)
    assert hashes == list(map(independent_log.leaf, entries))
    assert merkle.root_of(hashes) == independent_log.tree(hashes)


@given(st.lists(st.tuples(st.text(max_size=30), st.sampled_from([1, 30, 70_000])), max_size=8))
def test_records_that_are_encoded_together_are_as_encoded_alone(made: list[tuple[str, int]]) -> None:
    records = [BegunRecord(1.5, text * many, "a\nb") for text, many in made]
    assert audit_entries.encode_all(records) == list(map(audit_entries.encode, records))


def test_of_records_that_are_encoded_together_none_is_cut_but_the_one_that_is_too_long() -> None:
    short, long = BegunRecord(1.5, "m" * 2000), BegunRecord(1.5, "m" * 70_000)
    data = audit_entries.encode_all([short, long])
    assert [audit_entries.decode(one) for one in data] == [short, BegunRecord(1.5, "m" * 1000)]
    with pytest.raises(ValueError, match="surrogates"):
        audit_entries.encode_all([short, BegunRecord(1.5, "\udcff")])


@given(st.integers(0, 1 << 40))
def test_paths_of_a_log_are_told_from_others(index: int) -> None:
    for path in (tiles.tile_path(0, index), tiles.tile_path(7, index), tiles.bundle_path(index)):
        assert tiles.is_file_of_log(path)
    assert all(map(tiles.is_file_of_log, tiles.tail_paths(index)))


def test_names_that_are_no_files_of_a_log() -> None:
    for path in (
        "",
        "key",
        "../checkpoint",
        "tile/0/../../key",
        "tile/9/000",
        "tile/0/00",
        "tail/-1.entries",
    ):
        assert not tiles.is_file_of_log(path)
    for path in (
        "tail/1.key",
        "tile/entries/000",
        "tile/0/000.zst",
        "tile/0/x00a/000",
        "/etc/passwd",
        "tile//000",
    ):
        assert not tiles.is_file_of_log(path)


class Leaves:
    """A tree in memory."""

    def __init__(self, count: int) -> None:
        self.hashes = [merkle.leaf_hash(b"%d" % number) for number in range(count)]

    def whole(self, level: int, index: int) -> bytes:
        return independent_log.tree(self.hashes[index << level : (index + 1) << level])


@given(st.integers(1, 300), st.data())
def test_proofs_agree_with_the_rfcs_recursion(size: int, data: st.DataObject) -> None:
    tree = Leaves(size)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    root, old_root = independent_log.tree(tree.hashes), independent_log.tree(tree.hashes[:old])
    path = merkle.inclusion_path(tree, index, size)
    assert independent_log._walk(tree.hashes[index], index, size, path) == root
    merkle.check_inclusion(tree.hashes[index], index, size, path, root)
    proof = merkle.consistency_path(tree, old, size)
    merkle.check_consistency(old, old_root, size, root, proof)
    wrong = data.draw(st.integers(0, len(proof) - 1)) if proof else None
    if wrong is not None:
        proof[wrong] = bytes(32)
        try:
            merkle.check_consistency(old, old_root, size, root, proof)
        except merkle.BadProof:
            return
        raise AssertionError("a false proof was taken")
