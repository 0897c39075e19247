"""A stored model, opened: what its layers say, ready to be shown and run."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec

from bridge_core.decoding import Undecodable, decode_json
from bridge_core.dialects.errors import ApiError
from bridge_core.model_signing.content import MEDIA as SIGNATURE
from bridge_core.model_store.gguf import Array, GgufHeader
from bridge_core.model_store.layout import MOST_TEXT, Layer, ModelStore, Stored
from bridge_core.model_store.weights import read_weights, weights_layer
from bridge_core.names import ModelName
from bridge_engine.options import Options, merge
from bridge_engine.prompt_rules import Manifested, PromptPlan, plan_prompts
from bridge_engine.templates.prompt import Template

_MOST_HEADERS: Final = 256
DEFAULT_TEMPLATE: Final = "{{ .Prompt }}"


class ModelConfig(msgspec.Struct, omit_defaults=True):
    """The config blob: what listings show without opening the weights."""

    model_format: str = ""
    model_family: str = ""
    model_families: list[str] | None = None
    model_type: str = ""
    file_type: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    remote_host: str = ""
    remote_model: str = ""


class OpenedModel(msgspec.Struct, frozen=True):
    """Everything about a model but its weights."""

    stored: Stored
    config: ModelConfig
    weights: Path
    header: GgufHeader
    projectors: tuple[Path, ...]
    adapters: tuple[Path, ...]
    template: str
    system: str
    parameters: dict[str, Any]
    messages: list[dict[str, Any]]
    licenses: list[str]
    parent: str
    prompts: PromptPlan

    @property
    def name(self) -> ModelName:
        """Its name as stored."""
        return self.stored.name

    @property
    def options(self) -> Options:
        """The defaults with the model file's parameters over them."""
        return merge(Options(), self.parameters)

    @property
    def capabilities(self) -> list[str]:
        """What it can do, in Ollama's words and order."""
        if self.header.architecture_value("pooling_type") is not None:
            return ["embedding"]
        found = ["completion"]
        if self.projectors or self.header.architecture_value("vision.block_count") is not None:
            found.append("vision")
        if self.header.architecture_value("audio.block_count") is not None:
            found.append("audio")
        found += self.prompts.capabilities
        return found

    @property
    def trained_context(self) -> int:
        """The context length that the weights were trained for, 0 where the file does not say."""
        return self.header.architecture_count("context_length")

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""
        tokens = self.header.metadata.get("tokenizer.ggml.tokens")
        return tokens.length if isinstance(tokens, Array) else 0

    @property
    def adds_bos(self) -> bool:
        """Whether tokenising a prompt puts the begin-of-sequence token before it."""
        return bool(self.header.metadata.get("tokenizer.ggml.add_bos_token", False))


@lru_cache(maxsize=256)
def parsed_template(text: str) -> Template:
    """A template, parsed once.

    Raises:
        TemplateFault: it is not a template.
    """
    return Template(text)


class Models:
    """Opens models of a store; headers are kept by digest, because a blob never changes."""

    def __init__(self, store: ModelStore) -> None:
        self.store = store
        self._headers: dict[str, GgufHeader] = {}
        self._opened: dict[str, OpenedModel] = {}

    def open(self, stored: Stored) -> OpenedModel:
        """Opens a stored model.

        Raises:
            ApiError: 500; a blob is missing or damaged.
        """
        key = f"{stored.name}@{stored.digest}@{stored.modified_ns}"
        found = self._opened.get(key)
        if found is None or not found.weights.exists():
            if len(self._opened) > 512:
                self._opened.clear()
            found = self._opened[key] = self._open(stored)
        return found

    def _open(self, stored: Stored) -> OpenedModel:
        layers: dict[str, list[Layer]] = {}
        for layer in stored.manifest.layers:
            if layer.media_type == SIGNATURE:  # of those who made it, for the agent: nothing of it is run
                continue
            layers.setdefault(layer.kind, []).append(layer)
        weights = weights_layer(stored)
        template = self._text(layers, "template") or self._text(layers, "prompt")
        config, header = self._json(stored.manifest.config, ModelConfig), self._header(weights)
        jinja = header.metadata.get("tokenizer.chat_template")
        decides = Manifested(
            template=template,
            jinja=jinja if isinstance(jinja, str) else "",
            renderer=config.renderer,
            parser=config.parser,
            remote=config.remote_host or config.remote_model,
            family=config.model_family,
            kinds=tuple(layers),
        )
        return OpenedModel(
            stored=stored,
            config=config,
            weights=self.store.blob_path(weights.digest),
            header=header,
            projectors=self._paths(layers, "projector"),
            adapters=self._paths(layers, "adapter"),
            template=template or DEFAULT_TEMPLATE,
            system=self._text(layers, "system"),
            parameters=self._json(layers["params"][-1], dict[str, Any]) if "params" in layers else {},
            messages=self._json(layers["messages"][-1], list[dict[str, Any]]) if "messages" in layers else [],
            licenses=[
                self.store.read_blob(layer).decode("utf-8", "replace") for layer in layers.get("license", ())
            ],
            parent=weights.from_,
            prompts=plan_prompts(decides),
        )

    def _header(self, layer: Layer) -> GgufHeader:
        header = self._headers.get(layer.digest)
        if header is None:
            header, _ = read_weights(self.store, layer)
            if len(self._headers) > _MOST_HEADERS:
                self._headers.clear()
            self._headers[layer.digest] = header
        return header

    def _paths(self, layers: dict[str, list[Layer]], kind: str) -> tuple[Path, ...]:
        return tuple(self.store.blob_path(layer.digest) for layer in layers.get(kind, ()))

    def _text(self, layers: dict[str, list[Layer]], kind: str) -> str:
        found = layers.get(kind)
        return self.store.read_blob(found[-1]).decode("utf-8", "replace") if found else ""

    def _json(self, layer: Layer, kind: Any) -> Any:
        try:
            return decode_json(self.store.read_blob(layer), kind, most=MOST_TEXT)
        except Undecodable as fault:
            raise ApiError(500, f"damaged blob {layer.digest}: {fault}") from fault
