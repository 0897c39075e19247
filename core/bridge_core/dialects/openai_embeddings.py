"""`/v1/embeddings` by way of `/api/embed`."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bridge_core.dialects import openai_common as common
from bridge_core.dialects.errors import ApiError
from bridge_core.dialects.gojson import ANY, INT, STRING, Struct, decode
from bridge_core.dialects.wire import Reply, Stamp, Stream, Translation, whole

_REQUEST: Final = Struct(
    "EmbedRequest",
    {"input": ANY, "model": STRING, "dimensions": INT, "encoding_format": STRING, "keep_alive": ANY},
)


class Embeddings(Translation):
    """One request for embeddings; there is no streamed form."""

    path = "/api/embed"

    def __init__(self, body: bytes, stamp: Stamp) -> None:
        """Reads the request.

        Raises:
            ApiError: It cannot be translated.
        """
        request = decode(body, _REQUEST)
        encoding = request.get("encoding_format", "float").lower()
        if encoding not in {"", "float", "base64"}:
            raise ApiError(
                400,
                f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64'].",
            )
        if "input" not in request or request["input"] == []:
            raise ApiError(400, "invalid input")
        self._base64 = encoding == "base64"
        # An empty text is a text here, where the native API takes it for no text at all.
        texts = [""] if request["input"] == "" else request["input"]
        self.native = {"model": request.get("model", ""), "input": texts, "stream": False}
        for name in ("dimensions", "keep_alive"):
            if name in request:
                self.native[name] = request[name]

    def whole(self, native: Mapping[str, Any]) -> Reply:
        """See Exchange."""
        vectors = native.get("embeddings") or []
        count = int(native.get("prompt_eval_count") or 0)
        return whole(
            {
                "object": "list",
                "data": [
                    {"object": "embedding", "embedding": self._encoded(vector), "index": index}
                    for index, vector in enumerate(vectors)
                ],
                "model": native.get("model") or self.native["model"],
                "usage": {"prompt_tokens": count, "total_tokens": count},
            }
        )

    def _encoded(self, vector: Sequence[float]) -> Any:
        if not self._base64:
            import numpy as np  # the agent, which continues streams with this package, needs none

            # Single precision is what the model computes in: its shortest decimal form says it all.
            return [float(str(number)) for number in np.asarray(vector, dtype=np.float32)]
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()

    def stream(self) -> Stream:
        """Never called: `native` never asks for a stream."""
        raise NotImplementedError("embeddings are not streamed")

    def failure(self, status: int, message: str) -> Reply:
        """See Exchange."""
        return common.failure(status, message)
