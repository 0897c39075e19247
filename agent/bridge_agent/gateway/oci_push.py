"""Pushes to this node as a registry: uploads in parts that can be resumed, and the manifests that name them.

What the OCI distribution spec has for it (1.1, "Push"): a blob whole, in one request or in parts, or mounted
from another repository; then its manifest, by tag. Whoever pushes needs the right to create the model at this
node; an upload does not say its tag, so for that it is the one of `latest`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias
from urllib.parse import parse_qs

from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.config import ListenerKind
from bridge_agent.gateway.replies import admits, noting_who_leaves
from bridge_agent.gateway.routes import HttpRoute, Kind
from bridge_agent.gateway.state import GatewayState
from bridge_agent.models.manifest_rules import MOST_MANIFEST
from bridge_agent.models.receiving import Receiver
from bridge_agent.models.upload_rules import DIGEST, Upload, UploadRefused, span_of
from bridge_core.bounds import number
from bridge_core.errors import BridgeError
from bridge_core.http1 import Disconnected, Pair, Request
from bridge_core.model_store.layout import Layer
from bridge_core.names import DEFAULT_HOST, InvalidName, ModelName

PUSH: Final = HttpRoute("/v2/", ("POST", "PATCH", "PUT", "DELETE"), Kind.LOCAL, action="create")
_UPLOADS: Final = re.compile(r"/v2/([^/]+)/([^/]+)/blobs/uploads(?:/([0-9a-f]{32})?)?")
_MANIFEST: Final = re.compile(r"/v2/([^/]+)/([^/]+)/manifests/([^/]+)")
_HOST: Final = re.compile(r"[A-Za-z0-9.:\[\]_-]{1,255}")
_LONGEST: Final = 1 << 62

Respond: TypeAlias = Callable[[Arrival, int, list[Pair], bytes, str], None]
Refuse: TypeAlias = Callable[[Arrival, int, str, str], None]
MayHave: TypeAlias = Callable[[Arrival, ModelName, str], Awaitable[bool]]


def is_upload(request: Request) -> bool:
    """Whether a request's body is a part of a blob, which is written as it comes."""
    return request.method in PUSH.methods and _UPLOADS.fullmatch(request.path) is not None


class Pushing:
    """See the module.

    Args:
        state: What the gateway's requests share.
        receiver: Who takes blobs and manifests.
        respond: Answers as a registry does.
        refuse: Answers with an error as a registry does.
        may_have: Whether a caller may pull a model of a name that has a blob of a digest.
    """

    def __init__(
        self,
        state: GatewayState,
        receiver: Receiver,
        *,
        respond: Respond,
        refuse: Refuse,
        may_have: MayHave,
    ) -> None:
        self._state = state
        self._receiver = receiver
        self._respond = respond
        self._refuse = refuse
        self._may_have = may_have

    async def answer(self, arrival: Arrival) -> bool:
        """Answers what has to do with a push; False: it is none."""
        request = arrival.exchange.request
        uploads = _UPLOADS.fullmatch(request.path)
        manifest = _MANIFEST.fullmatch(request.path) if request.method == "PUT" else None
        found = uploads or manifest
        if found is None:
            return False
        namespace, model, rest = found.groups()
        tag = rest if manifest is not None else "latest"
        try:
            name = ModelName.parse(f"{DEFAULT_HOST}/{namespace}/{model}:{tag}")
        except InvalidName:
            self._refuse(arrival, 400, "NAME_INVALID", "no model has such a name or tag")
            return True
        key = str(name).lower()
        if not admits(self._state, arrival, PUSH, (key,), nodes=(self._state.config.node,)):
            return True
        if self._state.draining:
            self._refuse(arrival, 503, "UNSUPPORTED", "this node is draining")
            return True
        try:
            with noting_who_leaves(self._state, arrival, PUSH.path, model="" if manifest is None else key):
                if manifest is not None:
                    await self._manifest(arrival, name)
                else:
                    await self._upload(arrival, name, rest or "")
        except UploadRefused as fault:
            self._refuse(arrival, fault.status, fault.code, fault.message)
        except Disconnected:
            raise
        except BridgeError as fault:  # the disk's, or its budget's
            self._refuse(arrival, 507, "DENIED", str(fault))
        return True

    # -- uploads

    async def _upload(self, arrival: Arrival, name: ModelName, id_: str) -> None:
        request = arrival.exchange.request
        repository, caller = _repository(name), arrival.caller.principal
        if not id_:
            if request.method != "POST":
                raise UploadRefused(405, "UNSUPPORTED", "an upload begins with POST")
            await self._begin(arrival, name)
            return
        upload = self._receiver.find(id_, repository, caller)
        if request.method == "PATCH":
            await self._take(arrival, upload)
            self._goes_on(arrival, name, upload, 202)
        elif request.method == "PUT":
            digest = _digest_in(request)
            if request.headers.get(b"content-length") != b"0":
                await self._take(arrival, upload)
            await self._finish(arrival, name, upload, digest)
        elif request.method in ("GET", "HEAD"):
            self._goes_on(arrival, name, upload, 204)
        elif request.method == "DELETE":
            await self._receiver.cancel(upload)
            self._respond(arrival, 204, [], b"", "")
        else:
            raise UploadRefused(405, "UNSUPPORTED", "an upload goes on with PATCH, ends with PUT or DELETE")

    async def _begin(self, arrival: Arrival, name: ModelName) -> None:
        request, caller = arrival.exchange.request, arrival.caller.principal
        asked = _query(request)
        mount, source = asked.get("mount", [""])[0], asked.get("from", [""])[0]
        if mount and await self._mount(arrival, mount, source):
            self._is_there(arrival, name, mount)
            return
        upload = await self._receiver.begin(_repository(name), caller)
        if "digest" not in asked:
            self._goes_on(arrival, name, upload, 202)
            return
        came = False
        try:
            digest = _digest_in(request)
            await self._take(arrival, upload)
            came = True
        finally:
            if not came:  # nobody was told where it would go on
                await self._receiver.cancel(upload)
        await self._finish(arrival, name, upload, digest)

    async def _mount(self, arrival: Arrival, digest: str, source: str) -> bool:
        """Whether the blob is here, and of a model that the caller may pull: it need not be sent then."""
        found = DIGEST.fullmatch(digest)
        try:
            name = ModelName.parse(f"{DEFAULT_HOST}/{source}:latest")
        except InvalidName:
            return False
        if found is None or not await self._may_have(arrival, name, digest):
            return False
        return await self._receiver.prove(arrival.caller.principal, found[1])

    async def _take(self, arrival: Arrival, upload: Upload) -> None:
        request = arrival.exchange.request
        length = number(request.headers.get(b"content-length"), _LONGEST)
        span = span_of(request.headers.get(b"content-range"), length, upload.size)
        await self._receiver.take(upload, span, request.body_parts())

    async def _finish(self, arrival: Arrival, name: ModelName, upload: Upload, digest: str) -> None:
        await self._receiver.finish(upload, digest.removeprefix("sha256:"))
        self._is_there(arrival, name, digest)

    def _is_there(self, arrival: Arrival, name: ModelName, digest: str) -> None:
        where = f"/v2/{_repository(name)}/blobs/{digest}"
        pairs = [_location(arrival, where), (b"docker-content-digest", digest.encode())]
        self._respond(arrival, 201, pairs, b"", "")

    def _goes_on(self, arrival: Arrival, name: ModelName, upload: Upload, status: int) -> None:
        where = f"/v2/{_repository(name)}/blobs/uploads/{upload.id}"
        pairs = [
            _location(arrival, where),
            (b"range", b"0-%d" % max(0, upload.size - 1)),
            (b"docker-upload-uuid", upload.id.encode()),
        ]
        self._respond(arrival, status, pairs, b"", "")

    # -- manifests

    async def _manifest(self, arrival: Arrival, name: ModelName) -> None:
        body = arrival.exchange.request.body
        if len(body) > MOST_MANIFEST:
            raise UploadRefused(413, "MANIFEST_INVALID", f"a manifest has {MOST_MANIFEST} bytes at most")

        async def may(layer: Layer) -> bool:
            return await self._may_have(arrival, name, layer.digest)

        digest = await self._receiver.put(name, body, arrival.caller.principal, may)
        own = self._state.view.index.local
        if own:
            self._state.made((str(name).lower(),), own[0])
        where = f"/v2/{_repository(name)}/manifests/{name.tag}"
        pairs = [_location(arrival, where), (b"docker-content-digest", digest.encode())]
        self._respond(arrival, 201, pairs, b"", str(name).lower())


def _repository(name: ModelName) -> str:
    return f"{name.namespace}/{name.model}"


def _query(request: Request) -> dict[str, list[str]]:
    """What an address asks for. Raises UploadRefused."""
    try:
        return parse_qs(request.query, max_num_fields=16)
    except ValueError as fault:
        raise UploadRefused(400, "UNSUPPORTED", "the address asks for too much at once") from fault


def _digest_in(request: Request) -> str:
    """The digest that a request ends an upload with. Raises UploadRefused."""
    digest = _query(request).get("digest", [""])[0]
    if DIGEST.fullmatch(digest) is None:
        raise UploadRefused(400, "DIGEST_INVALID", "a digest is sha256: and 64 lower-case digits")
    return digest


def _location(arrival: Arrival, path: str) -> Pair:
    """Where it goes on, whole: some clients take nothing less."""
    host = (arrival.exchange.request.headers.get(b"host") or b"").decode("latin-1")
    scheme = "http" if arrival.caller.listener is ListenerKind.LOCAL else "https"
    base = f"{scheme}://{host}" if _HOST.fullmatch(host) else ""
    return b"location", f"{base}{path}".encode()
