"""Models that lie sealed on the disk, loaded by the real engine with keys from the agent's socket."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from bridge_agent.models.key_socket import KeySocket
from bridge_core.dialects.errors import ApiError
from bridge_core.model_store.blob_keys import SOCKET, KeyGiven
from bridge_core.model_store.layout import ModelStore
from bridge_core.model_store.weights import weights_layer
from bridge_core.names import ModelName
from bridge_core.sealing import blobs
from bridge_engine.runner.plaintext import SPARE, opened
from bridge_engine.seed import seed
from bridge_engine.store.blob_keys import AskedKeys, KeyNotGiven
from tests.contract.ollama_target import Engine, Received, ask, engine
from tests.contract.sealed_bed import SealedStore
from tests.runner_bed import runner_spec
from tests.support import eventually

MODEL = "tiny"
MIB = 1 << 20
DATA = random.Random(1).randbytes(3 * MIB + 1000)
HEX = hashlib.sha256(DATA).hexdigest()


class Bed(SealedStore):
    """With a running engine."""

    running: Engine

    async def ask(self, path: str, **body: Any) -> Received:
        data = json.dumps({"model": MODEL, "stream": False, **body}).encode()
        return await asyncio.to_thread(ask, self.running.base, "POST", path, data)

    async def text(self, **options: Any) -> str:
        options = {"temperature": 0, "num_predict": 12, "seed": 1, **options}
        answer = await self.ask("/api/generate", prompt="Once", options=options)
        assert answer.status == 200, answer.body
        return str(answer.json()["response"])

    async def fault(self) -> str:
        """Why the model is not loaded."""
        answer = await self.ask("/api/generate", prompt="Once")
        assert answer.status == 500, answer.body
        return str(answer.json()["error"])

    async def unload(self) -> None:
        await self.ask("/api/generate", keep_alive=0)
        await eventually(lambda: not self.runners())

    def runners(self) -> list[psutil.Process]:
        return [one for one in psutil.Process(self.running.pid).children() if one.status() != "zombie"]

    @property
    def weights(self) -> str:
        """The digits of the weights' digest."""
        stored = ModelStore(self.root).find(ModelName.parse(MODEL))
        assert stored is not None
        return weights_layer(stored).digest.removeprefix("sha256:")


def open_in_memory(process: psutil.Process) -> list[str]:
    return [
        line
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        if "sealed-weights" in line
    ]


@pytest.mark.llamacpp
async def test_a_sealed_model_answers_as_in_the_clear_with_a_key_that_may_be_withdrawn(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bed = Bed(tmp_path)
    seed(bed.root, [MODEL], tmp_path_factory.getbasetemp() / "seed-cache")
    with engine(bed.root) as bed.running:
        async with bed.served():
            said = await bed.text()
            await bed.unload()
            await lies_nowhere_but_in_memory(bed, said)
            await withdrawn_while_loaded(bed, said)
        # Its agent is gone.
        await bed.unload()
        (bed.root / SOCKET).unlink()
        assert f"the agent at {bed.root / SOCKET} gives no key" in await bed.fault()


async def lies_nowhere_but_in_memory(bed: Bed, said: str) -> None:
    text = bed.path(bed.weights).read_bytes()
    assert bed.seal_all() > len(text)
    assert await bed.text() == said
    (runner,) = bed.runners()
    assert open_in_memory(runner)
    found = b"".join(path.read_bytes() for path in bed.root.rglob("*") if path.is_file())
    for at in range(0, len(text), 1 << 14):
        assert text[at : at + 32] == bytes(32) or text[at : at + 32] not in found
    await bed.unload()
    assert await bed.text(use_mmap=False) == said
    assert open_in_memory(bed.runners()[0]) == []  # it was read, and given back
    await bed.unload()


async def withdrawn_while_loaded(bed: Bed, said: str) -> None:
    assert await bed.text() == said
    kek = bed.where.folder / "kek"
    kek.rename(kek.with_name("withdrawn"))
    bed.later()
    assert await bed.text() == said  # what is loaded stays
    await bed.unload()
    assert f"file:{kek} cannot be read" in await bed.fault()
    kek.with_name("withdrawn").rename(kek)
    bed.later()
    assert await bed.text() == said


# -- what an engine does not open


def cut(path: Path, _other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_to_a_segment(path: Path, _other: Path) -> None:
    path.write_bytes(path.read_bytes()[: blobs.segment_at(1)])


def added_to(path: Path, _other: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def segments_in_another_order(path: Path, _other: Path) -> None:
    data, (first, second, third) = path.read_bytes(), map(blobs.segment_at, range(3))
    path.write_bytes(data[:first] + data[second:third] + data[first:second] + data[third:])


def chunks_in_another_order(path: Path, _other: Path) -> None:
    data, at, length = path.read_bytes(), blobs.segment_at(1) + 56, (16 << 10) + 16
    first, second = data[at : at + length], data[at + length : at + 2 * length]
    path.write_bytes(data[:at] + second + first + data[at + 2 * length :])


def another_blob(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def another_blobs_header(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes()[: blobs.HEADER_BYTES] + path.read_bytes()[blobs.HEADER_BYTES :])


def another_blobs_segment(path: Path, other: Path) -> None:
    data, first, second = path.read_bytes(), blobs.segment_at(1), blobs.segment_at(2)
    path.write_bytes(data[:first] + other.read_bytes()[first:second] + data[second:])


def one_bit(path: Path, _other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


ATTACKS = [
    cut,
    cut_to_a_segment,
    added_to,
    segments_in_another_order,
    chunks_in_another_order,
    another_blob,
    another_blobs_header,
    another_blobs_segment,
    one_bit,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda one: one.__name__)
async def test_what_somebody_changed_reaches_no_runner(
    tmp_path: Path, attack: Callable[[Path, Path], None]
) -> None:
    store = SealedStore(tmp_path)
    other = store.put(DATA[::-1])
    path = store.put(DATA)
    store.seal_all()
    attack(path, other)
    with pytest.raises(ApiError, match="sealed weights do not open"):
        async with opened(runner_spec(path), store.keys.unseal):
            raise AssertionError
    assert other.read_bytes()


async def test_memory_that_is_not_there_is_refused_before_any_of_it_is_taken(tmp_path: Path) -> None:
    store = SealedStore(tmp_path)
    spec = runner_spec(store.put(DATA))
    store.seal_all()
    with pytest.raises(ApiError, match=r"system memory: .* takes 3\.001 MiB beside 256 MiB that stay"):
        async with opened(spec, store.keys.unseal, lambda: SPARE + len(DATA) - 1):
            raise AssertionError
    async with opened(spec, store.keys.unseal, lambda: SPARE + len(DATA)) as given:
        assert given.private
        assert Path(given.model).read_bytes() == DATA
        with pytest.raises(PermissionError), Path(given.model).open("r+b", buffering=0) as file:
            file.write(b"y")


async def test_who_is_cancelled_twice_leaves_no_memory_behind(tmp_path: Path) -> None:
    store = SealedStore(tmp_path)
    spec = runner_spec(store.put(DATA))
    store.seal_all()
    entered, released = threading.Event(), threading.Event()

    def room() -> int:
        entered.set()
        released.wait(60)
        return SPARE + len(DATA)

    async def open_it() -> None:
        async with opened(spec, store.keys.unseal, room):
            raise AssertionError

    task = asyncio.create_task(open_it())
    await eventually(entered.is_set)
    for _ in range(2):
        task.cancel()
        await asyncio.wait([task], timeout=0)
    await eventually(task.done)
    released.set()
    await asyncio.get_running_loop().shutdown_default_executor()  # its thread is over, what it made is there
    await eventually(lambda: not _memory_open())


def _memory_open() -> list[str]:
    links = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(str(path.readlink()))
    return [one for one in links if "sealed-weights" in one]


async def test_what_lies_in_the_clear_is_handed_on_as_it_is(tmp_path: Path) -> None:
    store = SealedStore(tmp_path)
    spec = runner_spec(store.put(DATA))
    async with opened(spec, None, lambda: 0) as given:
        assert given == spec
    async with opened(runner_spec(tmp_path / "none"), None, lambda: 0) as given:
        assert not given.private


async def test_an_engine_is_given_the_key_of_a_blob_for_its_own_header_alone(tmp_path: Path) -> None:
    store = SealedStore(tmp_path)
    async with store.served():
        for data in (b"{}\n", b"\xff\n", b"{" * 20_000, b'{"digest": "../x", "header": ""}\n'):
            refused = msgspec.json.decode(await raw(store, data), type=KeyGiven)
            assert (refused.secret, "no question for a key" in refused.fault) == (b"", True)
        path = store.put(DATA)
        store.seal_all()
        header = path.read_bytes()[: blobs.HEADER_BYTES]
        given = await asyncio.to_thread(AskedKeys(store.root), HEX, header)
        assert (given.size, given) == (len(DATA), store.keys.unseal(HEX, header))
        with pytest.raises(KeyNotGiven, match="it is another blob"):
            await asyncio.to_thread(AskedKeys(store.root), "1" * 64, header)
        assert (store.root / SOCKET).stat().st_mode & 0o777 == 0o600


async def test_a_socket_is_there_only_where_something_is_sealed(tmp_path: Path) -> None:
    store = SealedStore(tmp_path)
    await KeySocket(store.root, store.keys, sealing=False).run()
    store.put(DATA)
    await KeySocket(store.root, store.keys, sealing=False).run()
    assert not (store.root / SOCKET).exists()
    await KeySocket(tmp_path / "none", store.keys, sealing=False).run()
    store.seal_all()  # it was sealed once, and opens still
    task = asyncio.create_task(KeySocket(store.root, store.keys, sealing=False).run())
    await eventually((store.root / SOCKET).is_socket)
    task.cancel()
    await asyncio.wait([task])


async def raw(store: SealedStore, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(store.root / SOCKET)
    writer.write(data)
    answer = await reader.read(1 << 16)
    writer.close()
    return answer
