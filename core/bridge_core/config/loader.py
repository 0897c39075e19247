"""Files of documents, read and checked whole: every fault at once, each with its file and line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, get_args

import msgspec
from pydantic import BaseModel, ValidationError

from bridge_core.config.base import Bytes, Seconds
from bridge_core.config.convert import node_class
from bridge_core.config.cross_checks import cross_check
from bridge_core.config.documents import (
    API_VERSION,
    MODELS,
    SECURITY_API_VERSION,
    SECURITY_KINDS,
    Document,
    Fault,
    NodeClassSpec,
    line_at,
)
from bridge_core.config.node_class_checks import faults as node_class_faults
from bridge_core.config.yaml_lines import RawDocument, read
from bridge_core.node_class import NodeClass
from bridge_core.quantities import parse_duration, say_duration, say_size
from bridge_core.spelling import did_you_mean, shortened

# What pydantic says, in the words of somebody who reads YAML.
_WORDS: Final = {
    "missing": "is missing",
    "extra_forbidden": "is not a known key",
    "string_type": "should be a string: put it in quotes",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "list_type": "should be a list",
    "dict_type": "should be a mapping",
    "model_type": "should be a mapping",
    "model_attributes_type": "should be a mapping",
    "too_long": "has more than {max_length} entries",
    "finite_number": "should be a finite number",
}
# Bounds, with where pydantic keeps them.
_BOUNDS: Final = {
    "greater_than_equal": ("ge", "should be greater than or equal to {}"),
    "greater_than": ("gt", "should be greater than {}"),
    "less_than_equal": ("le", "should be less than or equal to {}"),
    "less_than": ("lt", "should be less than {}"),
}
_LONGEST_PATH: Final = 200
_LARGE: Final = 200  # bits of a number that is not written out


class LoadedDocuments(msgspec.Struct, frozen=True):
    """What files hold. Documents are to be used only when there are no faults."""

    documents: tuple[Document, ...]
    faults: tuple[Fault, ...]


def load(
    files: Iterable[tuple[str, str]],
    *,
    trust_domain: str | None = None,
    applied: Mapping[str, str] | None = None,
    alone: bool = False,
) -> LoadedDocuments:
    """The documents of `files`, pairs of name and text.

    Args:
        files: What to read.
        trust_domain: The mesh's own; a Mesh document that names another is at fault.
        applied: Other documents that will be in force beside these ("<kind>/<name>" to YAML), for
            the checks between documents. One that `files` also has is replaced by it.
        alone: Leave out what documents have to be to each other: they were checked together before.
    """
    documents: list[Document] = []
    faults: list[Fault] = []
    for file, text in files:
        raw, found = read(file, text)
        faults += found
        for item in raw:
            result = _document(file, item)
            if isinstance(result, Document):
                documents.append(result)
            else:
                faults += result
    if alone:
        return LoadedDocuments(tuple(documents), tuple(sorted(set(faults))))
    beside = _applied_documents(applied or {}, {document.key for document in documents})
    faults += cross_check(documents, beside, trust_domain)
    return LoadedDocuments(tuple(documents), tuple(sorted(set(faults))))


def _document(file: str, raw: RawDocument) -> Document | list[Fault]:
    def fault(path: str, message: str) -> Fault:
        return Fault(file, line_at(raw.lines, path, raw.line), shortened(path, _LONGEST_PATH), message)

    if not isinstance(raw.data, dict):
        return [fault("", "a document is a mapping with apiVersion, kind, metadata and spec")]
    kind, version = raw.data.get("kind"), raw.data.get("apiVersion")
    if not isinstance(kind, str) or kind not in MODELS:
        known = ", ".join(MODELS)
        says = "is missing" if kind is None else f"{_shown(kind)} is not a known kind"
        return [fault("kind", f"{says}: one of {known}")]
    wanted = SECURITY_API_VERSION if kind in SECURITY_KINDS else API_VERSION
    if version != wanted:
        says = "is missing" if version is None else f"{_shown(version)} is not known"
        return [fault("apiVersion", f"{says}: {kind} has {wanted}")]
    try:
        parsed = MODELS[kind].model_validate(raw.data)
    except ValidationError as error:
        return [fault(path, message) for path, message in _said(error, MODELS[kind])]
    return Document(parsed, file, raw.line, raw.text, raw.lines)


def own_node_class(data: object) -> NodeClass:
    """The NodeClass of a spec that a node has for itself, outside mesh_config.

    Raises:
        ValueError: every fault of it, each with its path.
    """
    try:
        spec = NodeClassSpec.model_validate(data)
    except ValidationError as error:
        faults = _said(error, NodeClassSpec)
    else:
        faults = list(node_class_faults(spec))
    if faults:
        raise ValueError("; ".join(f"{path}: {message}" if path else message for path, message in faults))
    return node_class("own", spec)


def _said(error: ValidationError, model: type[BaseModel]) -> list[tuple[str, str]]:
    return [(_path(item["loc"]), _say(item, model)) for item in error.errors(include_url=False)]


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _say(item: Mapping[str, Any], model: type[BaseModel]) -> str:
    kind, given, context = item["type"], item.get("input"), item.get("ctx", {})
    if kind == "extra_forbidden":
        *above, key = item["loc"]
        return _WORDS[kind] + did_you_mean(str(key), _keys(model, tuple(above)))
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{words.format(_alike(given, context[name]))}, not {_alike(given, given)}"
    words = _WORDS.get(kind, "").format(**context)
    if not words:
        message: str = item["msg"]
        words = message.removeprefix("Input ").removeprefix("Value ")
    shown = kind != "missing" and isinstance(given, str | int | float)
    return f"{words}, not {_shown(given)}" if shown and "quotes" not in words else words


def _alike(given: object, value: object) -> str:
    """A value or bound of a field in the field's own unit; what was `given` tells which that is."""
    if isinstance(given, str):  # as it was written: a duration or a size, for nothing else is compared
        try:
            given = Seconds(parse_duration(given))
        except ValueError:
            given = Bytes()
    if isinstance(given, Seconds) and isinstance(value, int | float):
        return say_duration(value)
    if isinstance(given, Bytes) and isinstance(value, int | float):
        return say_size(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else _shown(value)


def _shown(value: object) -> str:
    """What somebody wrote, short enough for a message."""
    if isinstance(value, int) and value.bit_length() > _LARGE:
        return f"a number of about {int(value.bit_length() * math.log10(2)):,} digits"
    return shortened(repr(value))


def _keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that may stand at a place of a document."""
    here = model
    for part in location:
        if isinstance(part, int):
            continue  # an entry of the list that the field before it is
        field = next((one for one in here.model_fields.values() if one.alias == part), None)
        below = next(_models(field.annotation), None) if field is not None else None
        if below is None:
            return []
        here = below
    return [one.alias or name for name, one in here.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation such as `list[Spec] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _applied_documents(applied: Mapping[str, str], replaced: set[str]) -> list[Document]:
    documents = []
    for key, text in applied.items():
        if key in replaced:
            continue
        for raw in read(key, text)[0]:
            result = _document(key, raw)
            # What an older version applied and this one cannot read is not this caller's fault.
            if isinstance(result, Document):
                documents.append(result)
    return documents
