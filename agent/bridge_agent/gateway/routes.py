"""Every route of an engine's API, and what Ollama's router answers to everything else.

Which of them a request names is `bridge_core.route_rules`'s to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, Literal, TypeAlias

import msgspec

from bridge_agent.gateway.peek import Shape
from bridge_core.policy.statements import Action

Protocol: TypeAlias = Literal["ollama", "openai", "anthropic"]


class Kind(Enum):
    """What the gateway does with a route."""

    INFER = "infer"  # peeked, decided, relayed to one instance
    SHOW = "show"  # asked of an owner of the model
    MUTATE = "mutate"  # on this node, or where X-Bridge-Node says
    BLOB = "blob"  # as MUTATE, with a streamed body
    TAGS = "tags"
    MODELS = "models"
    MODEL = "model"
    PS = "ps"
    ROOT = "root"
    LOCAL = "local"  # passed to a local engine as it is


class Framing(Enum):
    """How a streamed answer of the route ends."""

    NDJSON = "ndjson"
    CHAT_SSE = "chat_sse"  # data: [DONE]
    RESPONSES_SSE = "responses_sse"  # response.completed
    MESSAGES_SSE = "messages_sse"  # message_stop
    PROGRESS = "progress"  # NDJSON of pull, push and create: {"status":"success"}
    NONE = "none"


class HttpRoute(msgspec.Struct, frozen=True):
    """One path of the API.

    Attributes:
        path: As registered; a last segment `:name` matches one segment, `*name` the rest.
        methods: Allowed methods, in the order of the `Allow` header.
        shape: How its body is read; None: it has none to read.
        missing: The answer's wording when the model is not known (`{0}` is the name as asked,
            `{1}` its short canonical spelling).
        action: What policies are asked for; empty: it is open to whoever may call, as it tells of no model.
    """

    path: str
    methods: tuple[str, ...]
    kind: Kind
    protocol: Protocol = "ollama"
    framing: Framing = Framing.NONE
    shape: Shape | None = None
    missing: str = "model '{0}' not found"
    action: Action | Literal[""] = ""


_TUNING: Final = frozenset({"model", "stream", "options", "keep_alive", "format"})


def _infer(
    path: str,
    go_type: str,
    keys: set[str],
    *,
    protocol: Protocol = "ollama",
    framing: Framing = Framing.NONE,
    streams: bool = False,
    missing: str = "model '{0}' not found",
    action: Action = "predict",
) -> HttpRoute:
    shape = Shape(go_type, _TUNING | keys, ("model",), streams)
    return HttpRoute(path, ("POST",), Kind.INFER, protocol, framing, shape, missing, action)


_EMBED_MISSING: Final = 'model "{0}" not found, try pulling it first'
_NAMED: Final = ("model", "name")
_NAME_KEYS: Final = frozenset({"model", "name", "stream"})


def _mutate(
    path: str, go_type: str, action: Action, *, method: str = "POST", streams: bool = False
) -> HttpRoute:
    keys = _NAME_KEYS | {"source", "destination", "from", "files", "insecure", "username", "password"}
    framing = Framing.PROGRESS if streams else Framing.NONE
    model_keys = ("source",) if action == "copy" else _NAMED
    shape = Shape(go_type, keys, model_keys, streams)
    return HttpRoute(path, (method,), Kind.MUTATE, "ollama", framing, shape, action=action)


ROUTES: Final = (
    HttpRoute("/", ("HEAD", "GET"), Kind.ROOT),
    HttpRoute("/api/version", ("HEAD", "GET"), Kind.LOCAL),
    HttpRoute("/api/status", ("GET",), Kind.LOCAL),
    HttpRoute("/api/tags", ("HEAD", "GET"), Kind.TAGS, action="list"),
    HttpRoute("/api/ps", ("GET",), Kind.PS, action="list"),
    HttpRoute(
        "/api/show",
        ("POST",),
        Kind.SHOW,
        shape=Shape("ShowRequest", _NAME_KEYS, _NAMED),
        missing="model '{1}' not found",
        action="show",
    ),
    _mutate("/api/pull", "PullRequest", "pull", streams=True),
    _mutate("/api/push", "PushRequest", "push", streams=True),
    _mutate("/api/create", "CreateRequest", "create", streams=True),
    _mutate("/api/copy", "CopyRequest", "copy"),
    _mutate("/api/delete", "DeleteRequest", "delete", method="DELETE"),
    HttpRoute("/api/blobs/:digest", ("POST", "HEAD"), Kind.BLOB, action="create"),
    _infer(
        "/api/generate",
        "GenerateRequest",
        {"prompt", "system", "raw", "suffix", "images", "think", "template", "context"},
        framing=Framing.NDJSON,
        streams=True,
    ),
    _infer(
        "/api/chat",
        "ChatRequest",
        {"messages", "tools", "think"},
        framing=Framing.NDJSON,
        streams=True,
    ),
    _infer("/api/embed", "EmbedRequest", {"input"}, missing=_EMBED_MISSING, action="embed"),
    _infer("/api/embeddings", "EmbeddingRequest", {"prompt"}, missing=_EMBED_MISSING, action="embed"),
    # The account that the node has at ollama.com, and what is paid with it.
    HttpRoute("/api/me", ("POST",), Kind.LOCAL, action="admin"),
    HttpRoute("/api/signout", ("POST",), Kind.LOCAL, action="admin"),
    HttpRoute("/api/user/keys/:encodedKey", ("DELETE",), Kind.LOCAL, action="admin"),
    HttpRoute("/api/experimental/web_search", ("POST",), Kind.LOCAL, action="admin"),
    HttpRoute("/api/experimental/web_fetch", ("POST",), Kind.LOCAL, action="admin"),
    HttpRoute("/api/experimental/model-recommendations", ("GET",), Kind.LOCAL, action="list"),
    _infer(
        "/v1/chat/completions",
        "ChatCompletionRequest",
        {"messages", "tools", "max_tokens", "response_format", "stream_options"},
        protocol="openai",
        framing=Framing.CHAT_SSE,
    ),
    _infer(
        "/v1/completions",
        "CompletionRequest",
        {"prompt", "max_tokens", "suffix", "stream_options"},
        protocol="openai",
        framing=Framing.CHAT_SSE,
    ),
    _infer(
        "/v1/embeddings",
        "EmbedRequest",
        {"input"},
        protocol="openai",
        missing=_EMBED_MISSING,
        action="embed",
    ),
    _infer(
        "/v1/responses",
        "ResponsesRequest",
        {"input", "instructions", "tools", "max_output_tokens"},
        protocol="openai",
        framing=Framing.RESPONSES_SSE,
    ),
    _infer(
        "/v1/audio/transcriptions",
        "TranscriptionRequest",
        set(),
        protocol="openai",
    ),
    HttpRoute("/v1/models", ("GET",), Kind.MODELS, "openai", action="list"),
    HttpRoute(
        "/v1/models/:model", ("GET",), Kind.MODEL, "openai", missing="model '{1}' not found", action="show"
    ),
    _infer(
        "/v1/messages",
        "MessagesRequest",
        {"messages", "system", "tools", "max_tokens", "thinking"},
        protocol="anthropic",
        framing=Framing.MESSAGES_SSE,
    ),
)

BY_PATH: Final[Mapping[str, Mapping[str, HttpRoute]]] = {
    route.path.partition(":")[0]: dict.fromkeys(route.methods, route) for route in ROUTES
}
"""The routes as `route_rules.match` takes them."""


def protocol_of(path: str) -> Protocol:
    """The protocol whose error shape a path's answers have, routed or not."""
    if path.startswith("/v1/messages"):
        return "anthropic"
    return "openai" if path.startswith("/v1/") else "ollama"
