"""An OCI registry in memory: pulls, pushes in parts, and tokens as the distribution spec has them.

It is strict where real registries are: a part must begin where the last one ended, a blob must have
the digest that it was closed with, a manifest may name only blobs that are there, a token counts for
the one repository and the actions that its scope named.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit


class OciRegistry(http.server.ThreadingHTTPServer):
    """The registry; `wants_token` has it challenge, `realm` says where tokens are.

    Attributes:
        blobs: By digest.
        manifests: Bytes by `namespace/model:tag`.
        seen: Of each request: method, path, and whether it had credentials.
        part_most: A longer part is refused.
        sent: Bytes of blobs that were sent.
        ranges: It serves parts of blobs.
        cut_after: Connections end after so many bytes of a blob.
        sends: While it is not set, no byte of a blob is sent.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.uploads: dict[str, bytes] = {}
        self.tokens: dict[str, str] = {}
        self.seen: list[tuple[str, str, bool]] = []
        self.wants_token = False
        self.expire_after = 1_000_000
        self.realm = ""
        self.token: str | None = None
        self.blob_redirect = ""
        self.part_most = 1 << 30
        self.sent = 0
        self.ranges = True
        self.cut_after: int | None = None
        self.sends = threading.Event()
        self.sends.set()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """A client that leaves is part of the tests."""


@contextmanager
def oci_registry() -> Iterator[OciRegistry]:
    with OciRegistry() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: OciRegistry
    protocol_version = "HTTP/1.1"

    def _route(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._body = self.rfile.read(length)
        authorization = self.headers.get("Authorization") or ""
        self.server.seen.append((self.command, self.path, bool(authorization)))
        parts = urlsplit(self.path)
        if parts.path == "/token":
            self._give_token(parse_qs(parts.query))
            return
        found = re.fullmatch(r"/v2/([^/]+/[^/]+)/(blobs|manifests)/(.+)", parts.path)
        if found is None or not self._may(found[1], authorization.removeprefix("Bearer ")):
            self._answer(404) if found is None else self._challenge(found[1])
            return
        repository, kind, reference = found.groups()
        if reference.startswith("uploads/"):
            self._upload(repository, reference.removeprefix("uploads/"), parse_qs(parts.query))
        elif kind == "blobs":
            self._blob(reference)
        else:
            self._manifest(f"{repository}:{reference}")

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = _route  # noqa: N815 -- the base class calls them so

    # -- tokens

    def _scope(self, repository: str) -> str:
        actions = "pull" if self.command in ("GET", "HEAD") else "pull,push"
        return f"repository:{repository}:{actions}"

    def _may(self, repository: str, token: str) -> bool:
        if not self.server.wants_token:
            return True
        self.server.expire_after -= 1
        if self.server.expire_after == 0:
            self.server.tokens.clear()
        scope = self.server.tokens.get(token, "")
        return scope == self._scope(repository) or scope == f"repository:{repository}:pull,push"

    def _challenge(self, repository: str) -> None:
        realm = self.server.realm or f"http://{self.server.host}/token"
        about = f'Bearer realm="{realm}",service="registry.test",scope="{self._scope(repository)}"'
        self._answer(401, headers={"WWW-Authenticate": about})

    def _give_token(self, query: dict[str, list[str]]) -> None:
        token = self.server.token
        if token is None:
            token = f"token-{len(self.server.tokens)}-{len(self.server.seen)}"
            self.server.tokens[token] = query["scope"][0]
        self._answer(200, json.dumps({"token": token, "expires_in": 60}).encode())

    # -- content

    def _blob(self, digest: str) -> None:
        if digest not in self.server.blobs:
            self._answer(404)
        elif self.server.blob_redirect and self.command == "GET":
            self._answer(307, headers={"Location": f"{self.server.blob_redirect}{self.path}"})
        else:
            self._send_blob(self.server.blobs[digest])

    def _send_blob(self, data: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        begin = int(wanted[1]) if wanted and self.server.ranges else 0
        part = memoryview(data)[begin:]  # gigabytes are not copied for each who asks
        self.send_response(206 if wanted and self.server.ranges else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.server.sends.wait(60)
        if self.server.cut_after is not None:
            part = part[: self.server.cut_after]
            self.close_connection = True
        for at in range(0, len(part), 1 << 20):
            self.server.sent += len(part[at : at + (1 << 20)])
            self.wfile.write(part[at : at + (1 << 20)])

    def _manifest(self, name: str) -> None:
        if self.command == "PUT":
            about = json.loads(self._body)
            named = [about["config"]["digest"], *(layer["digest"] for layer in about["layers"])]
            known = all(digest in self.server.blobs for digest in named)
            if known:
                self.server.manifests[name] = self._body
            self._answer(201 if known else 400)
        elif name in self.server.manifests:
            self._answer(200, self.server.manifests[name])
        else:
            self._answer(404)

    def _upload(self, repository: str, session: str, query: dict[str, list[str]]) -> None:
        uploads = self.server.uploads
        if self.command == "POST":
            session = f"s{len(uploads)}"
            uploads[session] = b""
        elif session not in uploads:
            self._answer(404)
            return
        elif self.command == "PATCH":
            begin = int((self.headers.get("Content-Range") or "-1-").partition("-")[0] or -1)
            if begin != len(uploads[session]) or len(self._body) > self.server.part_most:
                self._answer(416)
                return
            uploads[session] += self._body
        else:
            data = uploads.pop(session) + self._body
            digest = query.get("digest", [""])[0]
            good = digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
            if good:
                self.server.blobs[digest] = data
            self._answer(201 if good else 400)
            return
        # Relative, and with a query of its own: both are allowed.
        self._answer(202, headers={"Location": f"/v2/{repository}/blobs/uploads/{session}?state=x"})

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""
