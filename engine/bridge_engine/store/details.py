"""What `/api/tags`, `/api/ps` and `/api/show` say of a model. Pure."""

from __future__ import annotations

import datetime as dt
from typing import Any

from bridge_core.dialects.errors import ApiError
from bridge_core.model_store.gguf import Array
from bridge_engine.store.model import OpenedModel


def timestamp(nanoseconds: int) -> str:
    """A wall-clock time (since 1970) as Go prints it in UTC, trailing zeros dropped."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    try:
        moment = dt.datetime.fromtimestamp(seconds, tz=dt.UTC)
    except (OverflowError, ValueError):
        moment = dt.datetime.max.replace(tzinfo=dt.UTC)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def human_count(count: int) -> str:
    """A number of parameters: 116K, 134.52M, 7B."""
    for size, unit, digits in ((10**12, "T", 1), (10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if count >= size:
            number = count / size
            return f"{number:.{0 if number.is_integer() else digits}f}{unit}"
    return str(count)


def details(model: OpenedModel) -> dict[str, Any]:
    """The `details` object."""
    config = model.config
    return {
        "parent_model": model.parent,
        "format": config.model_format,
        "family": config.model_family,
        "families": config.model_families,
        "parameter_size": config.model_type,
        "quantization_level": config.file_type,
    }


def listed(model: OpenedModel) -> dict[str, Any]:
    """One entry of `/api/tags`."""
    about = details(model)
    for name, value in (
        ("context_length", model.trained_context),
        ("embedding_length", model.header.architecture_count("embedding_length")),
    ):
        if value:
            about[name] = value
    name = model.name.short()
    return {
        "name": name,
        "model": name,
        "modified_at": timestamp(model.stored.modified_ns),
        "size": model.stored.size,
        "digest": model.stored.digest,
        "details": about,
        "capabilities": model.capabilities,
    }


def shown(model: OpenedModel, *, verbose: bool, system: str | None = None) -> dict[str, Any]:
    """The answer of `/api/show`.

    Raises:
        ApiError: 500; the weights are no longer readable.
    """
    parameters = _parameters(model.parameters)
    answer = {
        "license": "\n".join(model.licenses),
        "modelfile": _modelfile(model, system),
        "parameters": "\n".join(f"{name:<30} {_quoted(value)}" for name, value in parameters),
        "template": model.template,
        "system": system if system is not None else model.system,
        "renderer": model.config.renderer,
        "parser": model.config.parser,
        "details": details(model),
        "messages": model.messages,
        "model_info": _model_info(model, verbose=verbose),
        "tensors": [{"name": one.name, "type": one.type, "shape": one.shape} for one in model.header.tensors],
        "capabilities": model.capabilities,
        "modified_at": timestamp(model.stored.modified_ns),
        "requires": model.config.requires,
    }
    always = {"modelfile", "details", "model_info", "capabilities", "modified_at"}
    return {key: value for key, value in answer.items() if value or key in always}


def _model_info(model: OpenedModel, *, verbose: bool) -> dict[str, Any]:
    info: dict[str, Any] = {}
    metadata = {
        key: value
        for key, value in model.header.metadata.items()
        if key not in ("general.name", "tokenizer.chat_template")
    }
    metadata["general.parameter_count"] = model.header.parameters
    for key in sorted(metadata):
        value = metadata[key]
        if isinstance(value, Array):
            try:
                value = model.header.array(key) if verbose else None
            except (OSError, ValueError) as fault:
                raise ApiError(500, f"weights are damaged: {fault}") from fault
        info[key] = _float32(value)
    return info


def _float32(value: Any) -> Any:
    """A metadata float has 32 bits: show its shortest decimal form, a whole number without fraction."""
    if not isinstance(value, float):
        return value
    import numpy as np

    shortest = float(str(np.float32(value)))
    return int(shortest) if shortest.is_integer() and abs(shortest) < 1e15 else shortest


def _parameters(values: dict[str, Any]) -> list[tuple[str, Any]]:
    """Name and value pairs in order; a list is one pair an element."""
    pairs = []
    for name in sorted(values):
        value = values[name]
        pairs += [(name, item) for item in value] if isinstance(value, list) else [(name, value)]
    return pairs


def _quoted(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return _bare(value)


def _bare(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _modelfile(model: OpenedModel, system: str | None) -> str:
    name = model.name.short()
    lines = [
        '# Modelfile generated by "ollama show"',
        "# To build a new Modelfile based on this, replace FROM with:",
        f"# FROM {name}",
        "",
        f"FROM {model.weights}",
    ]
    lines += [f"ADAPTER {path}" for path in model.adapters]
    lines += [f"FROM {path}" for path in model.projectors]
    lines.append(f"TEMPLATE {_file_quoted(model.template)}")
    system = system if system is not None else model.system
    if system:
        lines.append(f"SYSTEM {_file_quoted(system)}")
    if model.config.renderer:
        lines.append(f"RENDERER {model.config.renderer}")
    if model.config.parser:
        lines.append(f"PARSER {model.config.parser}")
    lines += [f"PARAMETER {key} {_file_quoted(_bare(value))}" for key, value in _parameters(model.parameters)]
    lines += [f"LICENSE {_file_quoted(text)}" for text in model.licenses]
    lines += [
        f"MESSAGE {one.get('role', '')} {_file_quoted(str(one.get('content', '')))}" for one in model.messages
    ]
    return "\n".join(lines) + "\n"


def _file_quoted(text: str) -> str:
    """A value as a model file needs it: quoted only where its line breaks or edges ask for it."""
    if "\n" in text or text != text.strip():
        return f'"""{text}"""' if '"' in text else f'"{text}"'
    return text
