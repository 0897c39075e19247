"""This node as a registry: `ollama pull HOST:PORT/NAMESPACE/MODEL:TAG`, and any client of OCI distribution.

Served are `GET` and `HEAD` of `/v2/`, of a manifest by tag and of a blob by digest, with Range; of every
model that the mesh has, from whichever node has it. Whoever asks needs the right to pull the model; a blob
is given only as part of a manifest that the caller may have: it is asked for below a model's name, and has
to be one of that model's. What is pushed is `oci_push`'s.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

import msgspec

from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.config import Outcome
from bridge_agent.gateway.oci_push import Pushing
from bridge_agent.gateway.replies import admits, fields, note, noting_who_leaves
from bridge_agent.gateway.routes import HttpRoute, Kind
from bridge_agent.gateway.state import GatewayState
from bridge_agent.models.manifest_rules import BadManifest, blobs_of, read_manifest
from bridge_agent.models.range_rules import Unsatisfiable, wanted
from bridge_agent.models.receiving import Receiver
from bridge_agent.models.shelf import Found, Shelf
from bridge_core.decoding import Undecodable
from bridge_core.errors import BridgeError
from bridge_core.http1 import Disconnected, Pair
from bridge_core.model_store.layout import MANIFEST_MEDIA
from bridge_core.names import DEFAULT_HOST, InvalidName, ModelName

ROUTE: Final = HttpRoute("/v2/", ("HEAD", "GET"), Kind.LOCAL, action="pull")
_VERSION: Final = (b"docker-distribution-api-version", b"registry/2.0")
_PATH: Final = re.compile(r"/v2/([^/]+)/([^/]+)/(manifests|blobs)/([^/]+)")
_PART: Final = 256 << 10


class Registry:
    """The registry of one node.

    Args:
        state: What the gateway's requests share.
        shelf: Where manifests and blobs are read.
        receiver: Who takes what is pushed; None: nobody.
    """

    def __init__(self, state: GatewayState, shelf: Shelf, receiver: Receiver | None = None) -> None:
        self._state = state
        self._shelf = shelf
        self._receiver = receiver
        self._pushing: Pushing | None = None
        if receiver is not None:
            self._pushing = Pushing(
                state, receiver, respond=self._respond, refuse=self._error, may_have=self._may_have
            )

    async def answer(self, arrival: Arrival) -> None:
        """Answers a request whose path begins with `/v2/`."""
        request = arrival.exchange.request
        if self._pushing is not None and await self._pushing.answer(arrival):
            return
        if request.method not in ROUTE.methods:
            self._error(arrival, 405, "UNSUPPORTED", "this registry does not do that")
            return
        if request.path == "/v2/":
            if admits(self._state, arrival, ROUTE, ("",)):
                self._respond(arrival, 200, [(b"content-type", b"application/json")], b"{}")
            return
        found = _PATH.fullmatch(request.path)
        if found is None:
            self._error(arrival, 404, "NAME_UNKNOWN", "no such page of a registry")
            return
        namespace, model, kind, reference = found.groups()
        tag = reference if kind == "manifests" else "latest"
        try:
            name = ModelName.parse(f"{DEFAULT_HOST}/{namespace}/{model}:{tag}")
        except InvalidName:
            self._error(arrival, 400, "NAME_INVALID", "no model has such a name")
            return
        if kind == "manifests":
            await self._manifest(arrival, name)
        else:
            await self._blob(arrival, name, reference)

    async def _manifest(self, arrival: Arrival, name: ModelName) -> None:
        if not admits(self._state, arrival, ROUTE, (str(name).lower(),)):
            return
        with noting_who_leaves(self._state, arrival, ROUTE.path, model=str(name).lower()):
            data = await self._shelf.manifest(name)
        if data is None:
            self._error(arrival, 404, "MANIFEST_UNKNOWN", f"the mesh has no model {name.short()}")
            return
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        pairs = [(b"content-type", MANIFEST_MEDIA.encode()), (b"docker-content-digest", digest.encode())]
        self._respond(arrival, 200, pairs, data, str(name).lower())

    async def _blob(self, arrival: Arrival, name: ModelName, digest: str) -> None:
        """A blob of any tag of a model that the caller may pull."""
        state, exchange = self._state, arrival.exchange
        with noting_who_leaves(state, arrival, ROUTE.path):
            tagged = await self._tag_with(arrival, name, digest)
        if tagged is None:
            if not exchange.finished and not await self._just_pushed(arrival, digest):
                self._error(arrival, 404, "BLOB_UNKNOWN", f"no model {name.namespace}/{name.model} has it")
            return
        with noting_who_leaves(state, arrival, ROUTE.path, model=tagged):
            blob = await self._shelf.find(digest.removeprefix("sha256:"))
        if blob is None:
            self._error(arrival, 404, "BLOB_UNKNOWN", "no node that answers has it")
            return
        try:
            part = wanted(exchange.request.headers.get(b"range"), blob.size)
        except Unsatisfiable:
            pairs: list[Pair] = [(b"content-range", b"bytes */%d" % blob.size)]
            self._error(arrival, 416, "SIZE_INVALID", f"it has {blob.size} bytes", pairs)
            return
        begin, end = part or (0, blob.size)
        pairs = [_VERSION, *fields(state, arrival)]
        pairs += [(b"content-type", b"application/octet-stream"), (b"accept-ranges", b"bytes")]
        pairs.append((b"docker-content-digest", digest.encode()))
        if part is not None:
            pairs.append((b"content-range", b"bytes %d-%d/%d" % (begin, end - 1, blob.size)))
        exchange.start(206 if part is not None else 200, pairs, end - begin)
        with noting_who_leaves(state, arrival, ROUTE.path, model=tagged):
            whole = await self._send(arrival, blob, begin, end)
        note(state, arrival, ROUTE.path, Outcome.OK if whole else Outcome.BROKEN, model=tagged)

    async def _just_pushed(self, arrival: Arrival, digest: str) -> bool:
        """Tells the one who pushed a blob a moment ago that it is here: no manifest names it yet."""
        if self._receiver is None or arrival.exchange.request.method != "HEAD":
            return False
        size = await self._receiver.proven(arrival.caller.principal, digest.removeprefix("sha256:"))
        if size is None:
            return False
        pairs = [_VERSION, *fields(self._state, arrival), (b"docker-content-digest", digest.encode())]
        arrival.exchange.start(200, pairs, size)
        arrival.exchange.finish()
        note(self._state, arrival, ROUTE.path, Outcome.OK)
        return True

    async def _may_have(self, arrival: Arrival, name: ModelName, digest: str) -> bool:
        """Whether the caller may pull a model of this name, whatever its tag, that has the blob."""
        tagged, _ = await self._tags_with(arrival, name, digest)
        return tagged is not None

    async def _send(self, arrival: Arrival, blob: Found, begin: int, end: int) -> bool:
        """Sends a part of a blob; False where it was cut because it cannot be read on."""
        exchange = arrival.exchange
        try:
            if exchange.request.method == "GET":
                async for data in self._shelf.read(blob, begin, end):
                    for at in range(0, len(data), _PART):
                        exchange.write(data[at : at + _PART])
                        await exchange.drain()
            exchange.finish()
        except Disconnected:
            raise
        except BridgeError:  # the client sees that it is not whole
            exchange.abort()
            return False
        return True

    async def _tag_with(self, arrival: Arrival, name: ModelName, digest: str) -> str | None:
        """The first model of this name that has the blob and that the caller may pull.

        None where there is none; where that is the caller's fault it was answered.
        """
        tagged, denied = await self._tags_with(arrival, name, digest)
        if tagged is None and denied:
            admits(self._state, arrival, ROUTE, (denied,))
        return tagged

    async def _tags_with(self, arrival: Arrival, name: ModelName, digest: str) -> tuple[str | None, str]:
        """That, and one of those of this name, whatever their tags, that the caller may not pull."""
        stem = str(name).lower().rpartition(":")[0] + ":"
        known = sorted(one for one in self._state.view.index.models if one.startswith(stem))
        denied = ""
        for model in dict.fromkeys((*known, str(name).lower())):
            if not self._state.access.verdict(arrival, "pull", model).allowed:
                denied = denied or model
                continue
            data = await self._shelf.manifest(ModelName.parse(model))
            try:
                manifest = None if data is None else read_manifest(data)
            except (Undecodable, BadManifest):
                continue
            if manifest is not None and any(layer.digest == digest for layer in blobs_of(manifest)):
                return model, ""
        return None, denied

    def _respond(
        self, arrival: Arrival, status: int, pairs: list[Pair], body: bytes, model: str = ""
    ) -> None:
        arrival.exchange.respond(status, [_VERSION, *fields(self._state, arrival), *pairs], body)
        outcome = Outcome.OK if status < 400 else Outcome.REFUSED
        note(self._state, arrival, ROUTE.path, outcome, model=model)

    def _error(
        self, arrival: Arrival, status: int, code: str, message: str, more: list[Pair] | None = None
    ) -> None:
        """An error as the distribution spec writes it."""
        body = msgspec.json.encode({"errors": [{"code": code, "message": message}]})
        self._respond(arrival, status, [(b"content-type", b"application/json"), *(more or [])], body)
