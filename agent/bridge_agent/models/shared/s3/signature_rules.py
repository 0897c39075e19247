"""Signs requests as S3 wants them: AWS Signature Version 4, in the `Authorization` header. Pure.

Source: "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)" of the Amazon S3
API reference; its examples are the frozen vectors of the tests.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote

import msgspec

ALGORITHM: Final = "AWS4-HMAC-SHA256"
EMPTY: Final = hashlib.sha256(b"").hexdigest()
"""The hash of no body."""


class Signer(msgspec.Struct, frozen=True):
    """Who signs.

    Attributes:
        access_key: The key's name, which the store sees.
        secret_key: The key, which never leaves this process.
        region: Where the bucket is.
    """

    access_key: str
    secret_key: str
    region: str

    def __repr__(self) -> str:
        """Without the key."""
        return f"Signer({self.access_key!r}, region={self.region!r})"


def target(path: str, query: Sequence[tuple[str, str]]) -> str:
    """Path and query as they are sent, which is also how they are signed: each byte escaped but those that
    never need it, and parameters in order.
    """
    encoded = _query(query)
    return f"{_path(path)}?{encoded}" if encoded else _path(path)


def authorization(
    signer: Signer,
    method: str,
    path: str,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
) -> str:
    """The value of `Authorization`.

    Args:
        signer: Who signs.
        method: Of the request.
        path: Unescaped.
        query: Unescaped.
        headers: Which are sent and signed, names in lower case; among them `host`, `x-amz-date` (a time of
            the form 20130524T000000Z) and `x-amz-content-sha256`.
    """
    at = headers["x-amz-date"]
    scope = f"{at[:8]}/{signer.region}/s3/aws4_request"
    signed = ";".join(sorted(headers))
    canonical = "\n".join(
        (
            method,
            _path(path),
            _query(query),
            *(f"{name}:{' '.join(headers[name].split())}" for name in sorted(headers)),
            "",
            signed,
            headers["x-amz-content-sha256"],
        )
    )
    text = "\n".join((ALGORITHM, at, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{signer.secret_key}".encode()
    for part in (at[:8], signer.region, "s3", "aws4_request"):
        key = _mac(key, part)
    return (
        f"{ALGORITHM} Credential={signer.access_key}/{scope},SignedHeaders={signed},"
        f"Signature={_mac(key, text).hex()}"
    )


def _mac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def _path(path: str) -> str:
    return quote(path, safe="/-_.~")


def _query(query: Sequence[tuple[str, str]]) -> str:
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query)
    return "&".join(f"{name}={value}" for name, value in pairs)
