"""A models directory that somebody else has written: what cannot be read is set aside, the rest is listed."""

from __future__ import annotations

import contextlib
import functools
import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge_core.dialects.errors import ApiError
from bridge_core.model_store.gguf import GgufHeader, NotGguf, read_header
from bridge_core.model_store.layout import Layer, Manifest, ModelStore
from bridge_core.names import ModelName
from bridge_engine import modelgen
from bridge_engine.catalog import Catalog
from bridge_engine.pools import Pool
from bridge_engine.store.create import create
from bridge_engine.store.details import listed, shown

GOOD, BAD = ModelName.parse("good"), ModelName.parse("bad")
DEEP = b"[" * 5000 + b"]" * 5000
UNREADABLE = [
    b"", b"\xff\xfe", b'{"config":"\xff"}', DEEP, b'{"config":' + DEEP + b"}", b"{}", b"null", bytes(5 << 20),
]  # fmt: skip


@functools.cache
def _gguf() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tiny.gguf"
        modelgen.generate(file, modelgen.PRESETS["tiny"], seed=1, name="tiny", pooling=None)
        return file.read_bytes()


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore(tmp_path)
    layer, _ = store.add_blob("model", _gguf())
    for name in (GOOD, BAD):
        body = {"files": {"tiny.gguf": layer.digest}, "parameters": {"num_ctx": 64}}
        list(create(store, name, body, lambda _: iter(())))
    return store


def _listed(store: ModelStore) -> list[str]:
    """As `/api/tags` answers."""
    pool = Pool("test", 1)
    models = [listed(model) for model in Catalog(store, pool).all()]
    pool.close()
    return sorted(json.loads(msgspec.json.encode(model))["name"] for model in models)


@pytest.mark.parametrize("data", UNREADABLE, ids=lambda data: repr(data[:12]))
def test_a_manifest_that_cannot_be_read_is_set_aside_and_named_once(store: ModelStore, data: bytes) -> None:
    store.manifest_path(BAD).write_bytes(data)
    with structlog.testing.capture_logs() as logs:
        assert _listed(store) == _listed(store) == ["good:latest"]
    assert [log["model"] for log in logs if log["event"] == "model_set_aside"] == ["bad:latest"]
    with pytest.raises(ApiError, match="damaged manifest of bad:latest"):
        store.find(BAD)


@pytest.mark.parametrize(
    "layer",
    [
        Layer("application/vnd.ollama.image.model", "../../etc/passwd", 1),
        Layer("application/vnd.ollama.image.model", "sha256:" + "0" * 64, -1),
        Layer("application/vnd.ollama.image.model", "sha256:" + "0" * 64, 1 << 70),
        Layer("application/vnd.ollama.image.model", "sha256:" + "0" * 64, 1),
    ],
    ids=["digest", "negative size", "huge size", "missing blob"],
)
def test_a_manifest_that_lies_is_set_aside(store: ModelStore, layer: Layer) -> None:
    found = store.find(BAD)
    assert found is not None
    lying = Manifest(config=found.manifest.config, layers=[layer])
    store.manifest_path(BAD).write_bytes(msgspec.json.encode(lying))
    assert _listed(store) == ["good:latest"]


@pytest.mark.parametrize("kind", ["config", "params", "messages"])
@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe", DEEP, b"null", b'"x"', b'{"parser":"\xff"}'], ids=lambda data: repr(data[:12])
)
def test_a_blob_that_cannot_be_read_sets_its_model_aside(store: ModelStore, kind: str, data: bytes) -> None:
    _replace(store, kind, data)
    assert _listed(store) == ["good:latest"]


def _replace(store: ModelStore, kind: str, data: bytes) -> None:
    found = store.find(BAD)
    assert found is not None
    layer, _ = store.add_blob(kind, data)
    manifest = found.manifest
    if kind == "config":
        manifest = msgspec.structs.replace(manifest, config=layer)
    else:
        manifest = msgspec.structs.replace(manifest, layers=[*manifest.layers, layer])
    store.write_manifest(BAD, manifest)


def test_weights_in_the_place_of_a_text_are_not_read_into_memory(store: ModelStore) -> None:
    found = store.find(BAD)
    assert found is not None
    path = store.blob_path("sha256:" + "1" * 64)
    with path.open("wb") as file:
        file.truncate(100 << 30)
    layers = [*found.manifest.layers, Layer("application/vnd.ollama.image.template", "sha256:" + "1" * 64, 9)]
    store.write_manifest(BAD, msgspec.structs.replace(found.manifest, layers=layers))
    assert _listed(store) == ["good:latest"]


def test_deleting_a_model_keeps_a_blob_that_another_spells_otherwise(store: ModelStore) -> None:
    """`SHA256` in another case, or with a dash, names the same blob."""
    found = store.find(BAD)
    assert found is not None
    spelled = [
        msgspec.structs.replace(one, digest=one.digest.replace(":", "-")) for one in found.manifest.layers
    ]
    store.write_manifest(BAD, msgspec.structs.replace(found.manifest, layers=spelled))
    good = store.find(GOOD)
    assert good is not None
    store.delete(good)
    assert _listed(store) == ["bad:latest"]


def test_a_name_that_is_too_long_for_a_file_is_not_there(store: ModelStore) -> None:
    assert store.find(ModelName.parse("h" * 340 + "/n/m")) is None


# -- GGUF headers


def _header(entries: bytes = b"", *, count: int = 0, tensors: int = 0, tail: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, count) + entries + tail


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _read(data: bytes) -> GgufHeader:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return read_header(Path(file.name))


ARRAY_HEAD = _text(b"k") + struct.pack("<I", 9)
NESTED = ARRAY_HEAD + struct.pack("<IQ", 9, 1) * 3000


@pytest.mark.parametrize(
    "data",
    [
        b"GGUF", b"GGUF" + bytes(3), _header(count=1 << 63), _header(tensors=1 << 40),
        _header(struct.pack("<Q", 1 << 62), count=1), _header(_text(b"k") + struct.pack("<I", 99), count=1),
        _header(ARRAY_HEAD + struct.pack("<IQ", 8, 1 << 50), count=1),
        _header(ARRAY_HEAD + struct.pack("<IQ", 0, (1 << 64) - 1), count=1),
        _header(ARRAY_HEAD + struct.pack("<IQ", 99, 1), count=1), _header(NESTED, count=1),
        _header(ARRAY_HEAD + struct.pack("<IQ", 8, 1 << 24), count=1, tail=bytes(1 << 27)),
        _header(_text(b"k") + struct.pack("<I", 8) + _text(bytes(17 << 20)), count=1),
        _header(tensors=1, tail=_text(b"t") + struct.pack("<I", 1 << 31)),
        _header(tensors=1, tail=_text(b"t") + struct.pack("<I8QIQ", 8, *[1 << 63] * 8, 0, 0)),
        b"PK\x03\x04" + bytes(100), b"",
    ],
    ids=range(16),
)  # fmt: skip
def test_a_header_that_lies_is_refused_without_much_work(data: bytes) -> None:
    with pytest.raises(NotGguf):
        _read(data)


@settings(max_examples=150)
@given(st.data())
def test_a_header_with_some_bytes_changed_is_read_or_refused(data: st.DataObject) -> None:
    damaged = bytearray(_gguf()[:60_000])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, 4000))
        damaged[at : at + 8] = data.draw(st.binary(min_size=1, max_size=8))
    with contextlib.suppress(NotGguf):
        _describe(_read(bytes(damaged)))


@settings(max_examples=100)
@given(st.binary(max_size=300))
@example(b"")
def test_no_bytes_make_the_reader_raise_anything_else(tail: bytes) -> None:
    with contextlib.suppress(NotGguf):
        _describe(_read(b"GGUF" + struct.pack("<I", 3) + tail))


def _describe(header: GgufHeader) -> None:
    msgspec.json.encode([header.architecture, header.parameters, header.file_type, header.metadata])
    assert header.architecture_count("context_length") >= 0


ODD = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=5) | st.lists(st.integers())
KEYS = st.sampled_from(["general.architecture", "general.file_type", "llama.context_length", "x"])


@settings(max_examples=30)
@given(st.dictionaries(KEYS, ODD))
def test_metadata_of_any_type_is_listed_and_shown(values: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = ModelStore(Path(folder))
        layer, _ = store.add_blob("model", _gguf())
        list(create(store, GOOD, {"files": {"a": layer.digest}}, lambda _: iter(())))
        catalog = Catalog(store, Pool("test", 1))
        (model,) = catalog.all()
        header = model.header._replace(metadata={**model.header.metadata, **values})
        odd = msgspec.structs.replace(model, header=header)
        msgspec.json.encode(listed(odd))
        with contextlib.suppress(OverflowError):  # a number that no GGUF file can hold
            msgspec.json.encode(shown(odd, verbose=False))
