"""Lists over the whole mesh: /api/tags, /v1/models, and what an instance's /api/ps adds up to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from bridge_agent.routing.view import Index
from bridge_core.model_digests import Copy, is_meant, meant, moment
from bridge_core.names import InvalidName, ModelName, canonical, canonical_or_same, display
from bridge_core.snapshot import MemberModel, Route

Sees: TypeAlias = Callable[[str], bool]
_NAME_MOST: Final = 600  # more than any name has
OLLAMA_JSON: Final = b"application/json; charset=utf-8"
OPENAI_JSON: Final = b"application/json"
_EPOCH: Final = "0001-01-01T00:00:00Z"  # Go's zero time


class _LoadedModels(msgspec.Struct):
    models: list[dict[str, Any]] | None = None


_loaded_models: Final = msgspec.json.Decoder(_LoadedModels).decode


class Listed(NamedTuple):
    """A model as it is listed, and the copies by its name that have another digest."""

    model: MemberModel
    different: tuple[Copy, ...] = ()


def models_of(index: Index, sees: Sees, *, only_local: bool = False) -> list[Listed]:
    """Every model once, and every route that somebody can answer under its own name, newest first.

    Of these, those whose canonical names the caller sees; a route needs no right to what is behind it.

    Of a model that several instances have, the entry of the first one by id counts that serves it.
    """
    found: dict[str, Listed] = {}
    for name in index.models:
        copies = [copy for copy in index.copies(name).values() if copy.own or not only_local]
        digest = meant(copies)
        first = next((copy for copy in copies if is_meant(copy, digest)), None)
        if first is not None:
            different = (copy for copy in copies if not is_meant(copy, digest))
            found[name] = Listed(first.model, () if only_local else tuple(different))
    if not only_local:
        for name, route in index.routes.items():
            behind = (found.get(_canonical(model)) for model in _models_behind(index, route))
            listed = next((one for one in behind if one is not None), None)
            if listed is not None:
                found[name] = Listed(msgspec.structs.replace(listed.model, name=display(route.name)))
    seen = (listed for name, listed in found.items() if sees(name))
    return sorted(seen, key=lambda one: one.model.modified_at, reverse=True)


def _models_behind(index: Index, route: Route) -> Iterator[str]:
    """What a route's requests are answered by: its backends, then what its fallback leads to."""
    seen = set[str]()
    current: Route | None = route
    while current is not None and current.name not in seen:
        seen.add(current.name)
        yield from (backend.model for backend in current.backends)
        if current.fallback is None:
            return
        follow = index.routes.get(_canonical(current.fallback))
        if follow is None:
            yield current.fallback
        current = follow


def tags_body(models: Iterable[Listed]) -> bytes:
    """The answer of /api/tags; who has other weights by a model's name is in its `different`."""
    return msgspec.json.encode({"models": [_tag(*listed) for listed in models]})


def openai_models_body(models: Iterable[Listed]) -> bytes:
    """The answer of /v1/models."""
    entries = [_openai(listed.model) for listed in models]
    return msgspec.json.encode({"object": "list", "data": entries or None}) + b"\n"


def openai_model_body(index: Index, name: str) -> bytes | None:
    """The answer of /v1/models/:model; None when nobody has it."""
    wanted = _canonical(name)
    for model, _ in models_of(index, lambda model: model == wanted):
        if wanted and _canonical(model.name) == wanted:
            return msgspec.json.encode({**_openai(model), "id": name}) + b"\n"
    return None


def merged_ps(answers: Iterable[tuple[str, bytes]], sees: Sees) -> bytes:
    """One /api/ps from several, each entry with its node; an answer that does not decode is left out.

    So are models that the caller does not see, by either of the names that an entry has.
    """
    entries: list[dict[str, Any]] = []
    for node, body in answers:
        try:
            listed = _loaded_models(body).models or []
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        entries += [{**entry, "node": entry.get("node", node)} for entry in listed if _is_seen(entry, sees)]
    return msgspec.json.encode({"models": entries})


def _is_seen(entry: dict[str, Any], sees: Sees) -> bool:
    names = [name for key in ("name", "model") if isinstance(name := entry.get(key), str)]
    return bool(names) and all(sees(canonical_or_same(name[:_NAME_MOST])) for name in names)


def _tag(model: MemberModel, different: Iterable[Copy]) -> dict[str, Any]:
    details = model.details
    described: dict[str, Any] = {
        "parent_model": details.parent_model,
        "format": details.format,
        "family": details.family,
        "families": details.families,
        "parameter_size": details.parameter_size,
        "quantization_level": details.quantization_level,
    }
    if details.context_length:
        described["context_length"] = details.context_length
    if details.embedding_length:
        described["embedding_length"] = details.embedding_length
    entry: dict[str, Any] = {
        "name": model.name,
        "model": model.name,
        "modified_at": model.modified_at or _EPOCH,
        "size": model.size,
        "digest": model.digest,
        "details": described,
    }
    if model.capabilities:
        entry["capabilities"] = model.capabilities
    others = [{"node": copy.node, "digest": copy.model.digest} for copy in different]
    if others:
        entry["different"] = others
    return entry


def _openai(model: MemberModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": int(moment(model.modified_at)),
        "owned_by": ModelName.parse(model.name).namespace,
    }


def _canonical(name: str) -> str:
    try:
        return canonical(name)
    except InvalidName:
        return ""
