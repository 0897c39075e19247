"""OpenAI's and Anthropic's APIs, translated to and from Ollama's own.

Pure: bytes and values in, bytes and values out. An edge reads the request with `translate`, answers
the native request that it holds, and sends what the exchange's `whole`, `stream` or `failure` return.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from bridge_core.dialects import anthropic_messages, openai_common
from bridge_core.dialects.anthropic_messages import Messages
from bridge_core.dialects.openai_chat import ChatCompletion
from bridge_core.dialects.openai_completions import Completion
from bridge_core.dialects.openai_embeddings import Embeddings
from bridge_core.dialects.openai_models import model, model_list
from bridge_core.dialects.openai_responses import Responses
from bridge_core.dialects.wire import BROKEN_OFF, Reply, Stamp, Stream, Translation

__all__ = [
    "BROKEN_OFF",
    "PATHS",
    "Reply",
    "Stamp",
    "Stream",
    "Translation",
    "failure",
    "model",
    "model_list",
    "refusal",
    "translate",
]

PATHS: Final[Mapping[str, Callable[[bytes, Stamp], Translation]]] = MappingProxyType(
    {
        "/v1/chat/completions": ChatCompletion,
        "/v1/completions": Completion,
        "/v1/embeddings": Embeddings,
        "/v1/responses": Responses,
        "/v1/messages": Messages,
    }
)
"""What reads the requests of each POST path."""


def translate(path: str, body: bytes, stamp: Stamp) -> Translation:
    """Reads a request to one of PATHS.

    Raises:
        ApiError: It cannot be translated; `refusal` makes the answer of it.
    """
    return PATHS[path](body, stamp)


def refusal(path: str, status: int, message: str, stamp: Stamp) -> Reply:
    """The answer, in the path's protocol, to a request that was not even understood."""
    if path == "/v1/messages":
        return anthropic_messages.refusal(status, message, stamp)
    return openai_common.refusal(status, message)


def failure(status: int, message: str) -> Reply:
    """The answer to a request for `/v1/models` that failed."""
    return openai_common.failure(status, message)
