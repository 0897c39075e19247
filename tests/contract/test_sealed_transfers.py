"""Blobs that come to a node that seals them: from outside, from nodes, by pushes; and what lay there."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge_agent.models.sealing import Sealing
from bridge_core import model_answers
from bridge_core.clients import Admin
from bridge_core.model_answers import ModelAsked
from bridge_core.sealing.blobs import HEADER_BYTES, wrapped_with
from bridge_core.sealing.sealer import SealFolder, new_data_key, rewrap
from tests.contract.models_bed import MIB, ModelsBed, bytes_of, digest_of, models_bed, offer, settled
from tests.contract.test_models_admin_commands import ask
from tests.contract.test_models_push import CONFIG, Client, layer, listed, manifest_of
from tests.support import eventually

BLOB = bytes_of(5 * MIB + 12_345)  # two pieces
SAMPLES = [BLOB[at : at + 48] for at in range(0, len(BLOB), 512 << 10)]


@pytest.fixture
async def models(tmp_path: Path) -> AsyncIterator[ModelsBed]:
    """a and b seal, each with keys of its own; c does not."""
    async with models_bed(tmp_path, "a", "b", "c", sealing=frozenset("ab")) as bed:
        bed.bed.publish(admin__op=Admin("op", "operator"))
        yield bed


def in_the_clear(models: ModelsBed, node: str) -> bool:
    """Whether anything of the blob can be read on a node's disk."""
    found = b"".join(path.read_bytes() for path in models.root(node).rglob("*") if path.is_file())
    return any(sample in found for sample in SAMPLES)


def text(models: ModelsBed, node: str, data: bytes = BLOB, *, damaged: bool = False) -> bytes:
    """A sealed blob, opened; `damaged`: one slot of its header is."""
    hex_ = digest_of(data)[7:]
    found = models.desks[node].blobs.open(hex_)
    assert found is not None
    with found:
        assert found.sealed
        assert bool(found.header_fault()) is damaged
        return found.read(0, found.size)


def sealing_of(models: ModelsBed, node: str) -> Sealing:
    sealing = models.desks[node].sealing
    assert sealing is not None
    return sealing


async def test_what_comes_from_outside_is_sealed_from_its_first_byte_on(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    models.registry.cut_after, models.registry.ranges = 4 * MIB + 9, False
    assert "error" in (await models.pull("a"))[-1]
    await eventually(lambda: settled(models))
    partial = models.root("a") / "bridge-partial" / digest_of(BLOB)[7:]
    assert partial.stat().st_size > len(BLOB)
    assert not in_the_clear(models, "a")
    models.registry.cut_after, models.registry.ranges = None, True
    before = models.registry.sent
    assert (await models.pull("a"))[-1] == {"status": "success"}
    assert models.registry.sent - before < len(BLOB)  # the piece that had come was kept
    assert text(models, "a") == BLOB
    assert not in_the_clear(models, "a")
    assert list((models.root("a") / "bridge-partial").iterdir()) == []


async def test_a_piece_that_came_wrong_is_fetched_and_sealed_again(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    wrong = BLOB[: 2 * MIB] + b"\xff" + BLOB[2 * MIB + 1 :]
    models.put("c", wrong, digest_of(BLOB))
    assert (await models.pull("a"))[-1] == {"status": "success"}
    assert text(models, "a") == BLOB


async def test_nodes_give_each_other_the_text_and_seal_it_with_their_own_keys(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    await models.pull("a")
    before = models.registry.sent
    for node in "bc":
        assert (await models.pull(node))[-1] == {"status": "success"}
    assert models.registry.sent == before
    assert text(models, "b") == BLOB
    assert models.blob("c", digest_of(BLOB)).read_bytes() == BLOB
    assert models.blob("a", digest_of(BLOB)).read_bytes() != models.blob("b", digest_of(BLOB)).read_bytes()


async def test_a_client_of_registries_reads_any_part_and_pushes_in_any_parts(models: ModelsBed) -> None:
    client = Client(models)
    where = await client.begin()
    for begin, end in ((0, 1_000_000), (1_000_000, 1_100_003), (1_100_003, 3 * MIB), (3 * MIB, len(BLOB))):
        answer = await client.ask("PATCH", where, BLOB[begin:end], content_range=f"{begin}-{end - 1}")
        assert answer.status == 202, answer.body
    # The last part once more, as Ollama's client does when it broke off.
    again = await client.ask("PATCH", where, BLOB[3 * MIB :], content_range=f"{3 * MIB}-{len(BLOB) - 1}")
    assert again.status == 202, again.body
    assert not in_the_clear(models, "a")
    done = await client.ask("PUT", f"{where}?digest={digest_of(BLOB)}")
    assert done.status == 201, done.body
    await client.upload(CONFIG)
    assert (await client.put(manifest_of(layer(BLOB)))).status == 201
    assert text(models, "a") == BLOB
    assert text(models, "a", CONFIG) == CONFIG
    assert not in_the_clear(models, "a")
    listed(models)
    for begin, end in ((0, 1), (MIB - 3, MIB + 3), (4 * MIB - 3, 4 * MIB + 3), (len(BLOB) - 5, len(BLOB))):
        headers = {"range": f"bytes={begin}-{end - 1}"}
        answer = await models.bed["a"].ask("GET", f"/v2/team/big/blobs/{digest_of(BLOB)}", headers=headers)
        assert (answer.status, answer.body) == (206, BLOB[begin:end])


async def test_a_push_of_another_digest_leaves_nothing(models: ModelsBed) -> None:
    client = Client(models)
    where = await client.begin()
    answer = await client.ask("PUT", f"{where}?digest={digest_of(BLOB)}", BLOB[:-1])
    assert answer.status == 400
    assert list((models.root("a") / "bridge-partial").iterdir()) == []
    assert not models.blob("a", digest_of(BLOB)).exists()


async def test_what_lay_there_in_the_clear_is_sealed_and_named(models: ModelsBed) -> None:
    manifest = offer(models.registry, "team/big:v1", BLOB)
    for one in models.registry.blobs.values():
        models.put("a", one)
    path = models.manifest_path("a")
    path.parent.mkdir(parents=True)
    path.write_bytes(manifest)
    rotten = models.put("a", b"rotten", "sha256:" + "0" * 64)
    mapped = models.blob("a", digest_of(BLOB)).open("rb")  # as a runner has it
    sealing = sealing_of(models, "a")
    assert (await models.pull("c"))[-1] == {"status": "success"}
    await sealing.look()
    assert text(models, "a") == BLOB
    assert not in_the_clear(models, "a")
    assert mapped.read(48) == BLOB[:48]
    mapped.close()
    assert sealing.models == {models.name().lower()}
    # What is not what its name says stays as it is, and is named.
    assert rotten.read_bytes() == b"rotten"
    assert [one for one in sealing.concerns() if "blob 000000000000 has other bytes" in one]
    (at_a,), _ = await ask(models, model_answers.VERIFY, ModelAsked(), "a")
    assert (at_a.done, at_a.faults) == ("2 blobs read, 0 of them wrong, 2 sealed", [])
    sealed = models.blob("a", digest_of(BLOB))
    data = bytearray(sealed.read_bytes())
    data[-1] ^= 1
    sealed.write_bytes(data)
    (at_a,), _ = await ask(models, model_answers.VERIFY, ModelAsked(), "a")
    assert "segment 5: chunk" in at_a.faults[0]
    data[-1] ^= 1
    data[4096 + 20] ^= 1  # of the header's second slot: it opens, and is worth a word
    sealed.write_bytes(data)
    (at_a,), _ = await ask(models, model_answers.VERIFY, ModelAsked(), "a")
    assert "data key" in at_a.faults[0]
    assert text(models, "a", damaged=True) == BLOB


async def test_a_blob_whose_file_was_replaced_counts_as_sealed_no_more(
    models: ModelsBed,
) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    await models.pull("a")
    sealing = sealing_of(models, "a")
    await sealing.look()
    assert sealing.models == {models.name().lower()}
    path = models.blob("a", digest_of(BLOB))
    path.unlink()
    models.put("a", b"rotten", digest_of(BLOB))  # which cannot be sealed
    await sealing.look()
    assert sealing.models == frozenset()
    assert path.read_bytes() == b"rotten"


async def test_a_blob_that_cannot_be_opened_keeps_no_other_one_in_the_clear(models: ModelsBed) -> None:
    models.put("a", BLOB)
    os.mknod(models.blob("a", "sha256:" + "0" * 64), stat.S_IFSOCK | 0o600)
    sealing = sealing_of(models, "a")
    await sealing.look()
    assert text(models, "a") == BLOB
    assert [one for one in sealing.concerns() if "cannot read blob 000000000000" in one]


async def test_another_key_rewraps_and_rewrites_no_blob(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    await models.pull("a")
    path, where = models.blob("a", digest_of(BLOB)), SealFolder(models.folder / "a" / "seal")
    inode, segments = path.stat().st_ino, path.read_bytes()[HEADER_BYTES:]
    before = path.read_bytes()
    rewrap(where)  # another key-encryption key: no blob is touched
    models.later()
    assert (path.read_bytes(), text(models, "a")) == (before, BLOB)
    active = new_data_key(where).active.id  # another key that wraps: the header alone
    models.later()
    await sealing_of(models, "a").look()
    after = path.read_bytes()
    assert (path.stat().st_ino, after[HEADER_BYTES:]) == (inode, segments)
    assert wrapped_with(after[:HEADER_BYTES]) == active != wrapped_with(before[:HEADER_BYTES])
    assert text(models, "a") == BLOB


async def test_a_key_that_is_withheld_opens_and_takes_nothing_until_it_is_back(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    await models.pull("a")
    kek = models.folder / "a" / "seal" / "kek"
    kek.rename(kek.with_name("away"))
    models.later()
    client = Client(models)
    refused = await client.ask("POST", "/v2/team/big/blobs/uploads/?digest=" + digest_of(CONFIG), CONFIG)
    assert refused.status >= 400
    offer(models.registry, "team/big:v1", BLOB[1:])
    assert "sealed models do not open" in (await models.pull("a"))[-1]["error"]
    (at_a,), _ = await ask(models, model_answers.VERIFY, ModelAsked(), "a")
    assert all("sealed models do not open" in one for one in at_a.faults)
    assert "sealed models do not open" in sealing_of(models, "a").concerns()[0]
    assert not in_the_clear(models, "a")
    kek.with_name("away").rename(kek)
    models.later()
    assert (await models.pull("a"))[-1] == {"status": "success"}
    assert sealing_of(models, "a").concerns() == []


async def test_a_blob_that_is_removed_while_it_is_sealed_does_not_come_back(models: ModelsBed) -> None:
    path = models.put("a", BLOB)
    desk, sealing = models.desks["a"], sealing_of(models, "a")
    with desk.store().changing:  # as who removes it holds it
        looking = asyncio.create_task(sealing.look())
        temporary = models.root("a") / "bridge-partial" / f"sealing-{digest_of(BLOB)[7:]}"
        await eventually(lambda: temporary.exists() and temporary.stat().st_size > len(BLOB))
        path.unlink()
    await looking
    assert not path.exists()
    assert list(temporary.parent.iterdir()) == []


async def test_a_blob_of_a_later_format_is_named_and_not_read(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    await models.pull("a")
    path = models.blob("a", digest_of(BLOB))
    data = path.read_bytes()
    path.write_bytes(b"BRBLOB2\n" + data[8:4096] + b"BRBLOB2\n" + data[4104:])
    (at_a,), _ = await ask(models, model_answers.VERIFY, ModelAsked(), "a")
    assert json.dumps(at_a.faults).count("later version than this program reads") == 1
