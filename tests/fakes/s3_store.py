"""An S3-compatible store in memory: as strict as a real one about signatures, ranges, conditions and parts.

It passes the contract suite that a real radosgw passes (`test_shared_s3.py`).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import http.server
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

from bridge_agent.models.shared.s3.signature_rules import Signer, authorization

ACCESS, SECRET, BUCKET = "bridgetest", "not/a+secret", "models"
_PAGE = 1000


class S3Store(http.server.ThreadingHTTPServer):
    """The store.

    Attributes:
        objects: Bytes by key.
        uploads: Of each upload its key, its parts by number, and when it began.
        seen: Method, key and Range of each request.
        misbehaves: Called with a request before it is answered; True: it has answered as it liked.
        keeps_conditions: It knows If-Match and If-None-Match when objects are put.
        page: How many keys one listing has.
        sent: Bytes of objects that were sent.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, tuple[str, dict[int, bytes], str]] = {}
        self.seen: list[tuple[str, str, str]] = []
        self.misbehaves: Callable[[_Handler, str], bool] = lambda _handler, _key: False
        self.keeps_conditions = True
        self.bucket = BUCKET
        self.page = _PAGE
        self.sent = 0
        self.lock = threading.Lock()
        self.tls = False

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.server_address[1]}"

    def settings(self, **more: Any) -> dict[str, Any]:
        """What a file of settings says."""
        return {
            "endpoint": self.endpoint,
            "bucket": BUCKET,
            "access_key": ACCESS,
            "secret_key": SECRET,
            "prefix": "bridge/x",
            **more,
        }

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients leave when they like."""


def etag_of(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


class _Handler(http.server.BaseHTTPRequestHandler):
    server: S3Store
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        bucket, _, key = unquote(parts.path).removeprefix("/").partition("/")
        with self.server.lock:
            self.server.seen.append((self.command, key, self.headers.get("Range", "")))
        if self.server.misbehaves(self, key):
            return
        if (why := self._unsigned(unquote(parts.path), body)) is not None:
            self.fail(403, why)
        elif bucket != self.server.bucket:
            self.fail(404, "NoSuchBucket")
        else:
            self._object(key, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815

    def _unsigned(self, path: str, body: bytes) -> str | None:
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request,"
            r"SignedHeaders=([a-z0-9;-]+),"
            r"Signature=[0-9a-f]{64}",
            self.headers.get("Authorization", ""),
        )
        if found is None or found[1] != ACCESS:
            return "InvalidAccessKeyId"
        headers = {name: self.headers.get(name, "") for name in found[4].split(";")}
        now = dt.datetime.now(dt.UTC)
        at = dt.datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
        if abs((now - at).total_seconds()) > 900:
            return "RequestTimeTooSkewed"
        if headers["x-amz-content-sha256"] != hashlib.sha256(body).hexdigest():
            return "XAmzContentSHA256Mismatch"
        signer = Signer(ACCESS, SECRET, found[3])
        said = authorization(signer, self.command, path, list(self.query.items()), headers)
        return None if said == self.headers["Authorization"] else "SignatureDoesNotMatch"

    def _object(self, key: str, body: bytes) -> None:
        if not key:
            self._list()
        elif "uploads" in self.query or "uploadId" in self.query:
            self._upload(key, body)
        elif self.command == "PUT":
            self._put(key, body)
        elif self.command == "DELETE":
            self.server.objects.pop(key, None)
            self.give(204)
        else:
            self._get(key)

    def _put(self, key: str, body: bytes) -> None:
        with self.server.lock:
            there = self.server.objects.get(key)
            if self.server.keeps_conditions:
                wanted = self.headers.get("If-Match")
                if wanted is not None and (there is None or etag_of(there) != wanted):
                    self.fail(
                        412 if there is not None else 404, "PreconditionFailed" if there else "NoSuchKey"
                    )
                    return
                if self.headers.get("If-None-Match") == "*" and there is not None:
                    self.fail(412, "PreconditionFailed")
                    return
            self.server.objects[key] = body
        self.give(200, headers={"ETag": etag_of(body)})

    def _get(self, key: str) -> None:
        data = self.server.objects.get(key)
        if data is None:
            self.fail(404, "NoSuchKey")
            return
        etag = etag_of(data)
        if self.headers.get("If-Match", etag) != etag:
            self.fail(412, "PreconditionFailed")
            return
        headers = {"ETag": etag, "Accept-Ranges": "bytes"}
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if found is None:
            self.give(200, data, headers)
            return
        begin, end = int(found[1]), min(int(found[2]), len(data) - 1)
        if begin >= len(data):
            self.fail(416, "InvalidRange")
            return
        part = data[begin : end + 1]
        self.server.sent += len(part)
        self.give(206, part, {**headers, "Content-Range": f"bytes {begin}-{end}/{len(data)}"})

    def _upload(self, key: str, body: bytes) -> None:
        upload, uploads = self.query.get("uploadId", ""), self.server.uploads
        if self.command == "POST" and "uploads" in self.query:
            upload = f"upload-{len(uploads)}~x"
            uploads[upload] = (key, {}, dt.datetime.now(dt.UTC).isoformat())
            self.give(
                200,
                f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>".encode(),
            )
        elif upload not in uploads or uploads[upload][0] != key:
            self.fail(404, "NoSuchUpload")
        elif self.command == "PUT":
            uploads[upload][1][int(self.query["partNumber"])] = body
            self.give(200, headers={"ETag": etag_of(body)})
        elif self.command == "DELETE":
            del uploads[upload]
            self.give(204)
        else:
            self._complete(key, upload, body)

    def _complete(self, key: str, upload: str, body: bytes) -> None:
        parts = self.server.uploads[upload][1]
        named = re.findall(rb"<PartNumber>(\d+)</PartNumber><ETag>([^<]+)</ETag>", body)
        for number, tag in named:
            data = parts.get(int(number))
            if data is None or etag_of(data).encode() != tag.replace(b"&quot;", b'"'):
                self.fail(400, "InvalidPart")
                return
            if number != named[-1][0] and len(data) < 5 << 20:
                self.fail(400, "EntityTooSmall")
                return
        self.server.objects[key] = b"".join(parts[int(number)] for number, _ in named)
        del self.server.uploads[upload]
        self.give(200, b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")

    def _list(self) -> None:
        prefix = self.query.get("prefix", "")
        if "uploads" in self.query:
            found = "".join(
                f"<Upload><Key>{escape(key)}</Key><UploadId>{upload}</UploadId><Initiated>{begun}</Initiated></Upload>"
                for upload, (key, _, begun) in self.server.uploads.items()
                if key.startswith(prefix)
            )
            self.give(200, f"<ListMultipartUploadsResult>{found}</ListMultipartUploadsResult>".encode())
            return
        after = self.query.get("continuation-token", "")
        keys = sorted(key for key in self.server.objects if key.startswith(prefix) and key > after)
        page, more = keys[: self.server.page], len(keys) > self.server.page
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[key])}</Size></Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        self.give(
            200,
            f"<?xml version='1.0'?><ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{rows}</ListBucketResult>".encode(),
        )

    def fail(self, status: int, code: str) -> None:
        self.give(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())

    def give(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextlib.contextmanager
def s3_store(tls: ssl.SSLContext | None = None) -> Iterator[S3Store]:
    """A store that serves while the context lasts, over TLS where a context is given."""
    store = S3Store()
    if tls is not None:
        store.tls = True
        store.socket = tls.wrap_socket(store.socket, server_side=True, do_handshake_on_connect=False)
    serving = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    serving.start()
    try:
        yield store
    finally:
        store.shutdown()
        serving.join()
        store.server_close()
