"""`/api/create`: a model from GGUF blobs or from another model, as a sequence of status records.

Blocks on the disk: run it in a thread. The manifest is written last, so a create that fails leaves
whatever was there before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from bridge_core.decoding import Undecodable, decode_json
from bridge_core.dialects.errors import ApiError
from bridge_core.errors import BridgeError
from bridge_core.model_signing.content import MEDIA as SIGNATURE
from bridge_core.model_store.gguf import GgufHeader, NotGguf
from bridge_core.model_store.layout import (
    CONFIG_MEDIA,
    MEDIA,
    MOST_TEXT,
    Layer,
    Manifest,
    ModelStore,
    Stored,
    hex_digest,
)
from bridge_core.names import InvalidName, ModelName
from bridge_engine.options import Options, merge
from bridge_engine.store.details import human_count
from bridge_engine.store.model import ModelConfig
from bridge_engine.templates.fault import TemplateFault
from bridge_engine.templates.pick import pick
from bridge_engine.templates.prompt import Template

Records = Iterator[dict[str, Any]]
Fetch = Callable[[ModelName], Records]


def check(body: dict[str, Any]) -> ModelName:
    """What can be refused before anything is done; returns the name of the model to make.

    Raises:
        ApiError: 400.
    """
    for file in body.get("files") or {}:
        if file != "." and not all(part not in {"", ".", ".."} for part in file.split("/")):
            raise ApiError(400, "file path must be relative")
    name = parse_name(str(body.get("model") or body.get("name") or ""))
    for digest in (*(body.get("files") or {}).values(), *(body.get("adapters") or {}).values()):
        hex_digest(str(digest))
    if body.get("quantize"):
        raise ApiError(
            400,
            f"this engine cannot quantize to {str(body['quantize'])[:20]}: make a GGUF file of that type "
            "with llama-quantize, or pull one, and create the model from it",
        )
    return name


def parse_name(name: str) -> ModelName:
    """Reads a model name.

    Raises:
        ApiError: 400 in Ollama's words.
    """
    try:
        return ModelName.parse(name)
    except InvalidName as fault:
        raise ApiError(400, "invalid model name") from fault


def must_pull(store: ModelStore, body: dict[str, Any]) -> bool:
    """Whether making this model would wait for a registry."""
    try:
        return bool(body.get("from")) and store.find(ModelName.parse(str(body["from"]))) is None
    except (InvalidName, ApiError):
        return False  # refused without a network


def create(store: ModelStore, name: ModelName, body: dict[str, Any], fetch: Fetch) -> Records:
    """Makes the model; yields Ollama's status records.

    Args:
        store: Where.
        name: What `check` returned.
        body: The request.
        fetch: Pulls a model that `from` names and the store has not.

    Raises:
        ApiError: 400 or 500; nothing was replaced.
    """
    if body.get("from"):
        config, layers = yield from _from_model(store, str(body["from"]), fetch)
    elif body.get("files"):
        config, layers = yield from _from_files(store, body["files"])
    else:
        raise ApiError(400, "neither 'from' or 'files' was specified", late=True)
    for digest in (body.get("adapters") or {}).values():
        yield {"status": "parsing adapter GGUF"}
        layers.append(_file_layer(store, str(digest))[0])
    yield from _set_texts(store, body, layers)
    config.renderer = body.get("renderer") or config.renderer
    config.parser = body.get("parser") or config.parser
    config.requires = body.get("requires") or config.requires
    blob, _ = store.add_blob(CONFIG_MEDIA, _config_bytes(config, layers))
    yield {"status": "writing manifest"}
    replaced = store.find(name)
    store.write_manifest(name, Manifest(config=blob, layers=layers))
    if replaced is not None:
        store.prune(replaced.manifest)
    yield {"status": "success"}


def _from_model(store: ModelStore, source: str, fetch: Fetch) -> Any:
    try:
        name = parse_name(source)
    except ApiError as fault:
        raise ApiError(400, fault.message, late=True) from fault
    found = store.find(name)
    if found is None:
        yield from fetch(name)
        found = store.find(name)
    if found is None:
        raise ApiError(404, f"model '{source}' not found", late=True)
    return _config_of(store, found), [
        _with_parent(layer, found) for layer in found.manifest.layers if layer.media_type != SIGNATURE
    ]


def _with_parent(layer: Layer, parent: Stored) -> Layer:
    if layer.kind != "model":
        return layer
    return msgspec.structs.replace(layer, from_=parent.name.short())


def _config_of(store: ModelStore, model: Stored) -> ModelConfig:
    try:
        return decode_json(store.read_blob(model.manifest.config), ModelConfig, most=MOST_TEXT)
    except Undecodable as fault:
        raise ApiError(500, f"damaged configuration of {model.name.short()}: {fault}", late=True) from fault


def _from_files(store: ModelStore, files: dict[str, Any]) -> Any:
    config = ModelConfig(model_format="gguf")
    layers: list[Layer] = []
    for digest in files.values():
        yield {"status": "parsing GGUF"}
        layer, header = _file_layer(store, str(digest))
        yield {"status": "verifying conversion"}
        yield {"status": f"using existing layer {layer.digest}"}
        if layer.kind == "model":
            config = ModelConfig(
                model_format="gguf",
                model_family=header.architecture,
                model_families=[header.architecture],
                model_type=human_count(header.parameters),
                file_type=header.file_type,
            )
            layers.insert(0, layer)
            yield from _detect_template(store, header, layers)
        else:
            layers.append(layer)
    return config, layers


def _file_layer(store: ModelStore, digest: str) -> tuple[Layer, GgufHeader]:
    path = store.blob_path(digest)
    try:
        header, size = store.header(digest)
    except NotGguf as fault:
        raise ApiError(400, fault.message, late=True) from fault
    except OSError as fault:
        raise ApiError(400, f"open {path}: {(fault.strerror or str(fault)).lower()}", late=True) from fault
    except ApiError:
        raise
    except BridgeError as fault:
        raise ApiError(500, f"blob {digest} does not open: {fault}", late=True) from fault
    kind = "model"
    if header.metadata.get("general.type") == "adapter":
        kind = "adapter"
    elif header.architecture in ("clip", "mmproj") or header.metadata.get("general.type") == "mmproj":
        kind = "projector"
    layer = Layer(media_type=MEDIA + kind, digest=f"sha256:{hex_digest(digest)}", size=size)
    return layer, header


def _detect_template(store: ModelStore, header: GgufHeader, layers: list[Layer]) -> Records:
    jinja = header.metadata.get("tokenizer.chat_template")
    known = pick(jinja) if isinstance(jinja, str) else None
    if known is None:
        return
    layers.append(store.add_blob("template", known.text.encode())[0])
    yield {"status": f"using autodetected template {known.name}"}
    layers.append(store.add_blob("params", _go_map({"stop": list(known.stop)}))[0])


def _set_texts(store: ModelStore, body: dict[str, Any], layers: list[Layer]) -> Records:
    """Puts the request's template, system, licence, parameters and messages over what was there."""
    if body.get("template"):
        try:
            Template(body["template"])
        except TemplateFault as fault:
            raise ApiError(400, f"template error: {fault.message}", late=True) from fault
        yield from _replace(store, layers, "template", body["template"].encode())
    if body.get("system"):
        yield from _replace(store, layers, "system", body["system"].encode())
    for text in _licenses(body.get("license")):
        layer, new = store.add_blob("license", text.encode())
        layers.append(layer)
        yield _status(layer, new=new)
    if body.get("parameters"):
        merge(Options(), body["parameters"])
        values = {**_parameters(store, layers), **body["parameters"]}
        yield from _replace(store, layers, "params", _go_map(values))
    if body.get("messages"):
        yield from _replace(store, layers, "messages", msgspec.json.encode(body["messages"]))


def _replace(store: ModelStore, layers: list[Layer], kind: str, data: bytes) -> Records:
    layers[:] = [layer for layer in layers if layer.kind != kind]
    layer, new = store.add_blob(kind, data)
    layers.append(layer)
    yield _status(layer, new=new)


def _status(layer: Layer, *, new: bool) -> dict[str, Any]:
    return {"status": f"{'creating new' if new else 'using existing'} layer {layer.digest}"}


def _parameters(store: ModelStore, layers: list[Layer]) -> dict[str, Any]:
    for layer in layers:
        if layer.kind == "params":
            try:
                return decode_json(store.read_blob(layer), dict[str, Any], most=MOST_TEXT)
            except Undecodable as fault:
                raise ApiError(500, f"damaged blob {layer.digest}: {fault}", late=True) from fault
    return {}


def _licenses(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value else []
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return value
    if value is None:
        return []
    raise ApiError(400, "license must be a string or a list of strings", late=True)


def _go_map(value: dict[str, Any]) -> bytes:
    """A map as Go's encoder writes it, so that equal parameters share one blob with Ollama's."""
    data = msgspec.json.encode(value, order="sorted")
    return data.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026") + b"\n"


def _config_bytes(config: ModelConfig, layers: list[Layer]) -> bytes:
    about = msgspec.to_builtins(config)
    about |= {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    return msgspec.json.encode(about)
