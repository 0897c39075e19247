"""What a request head must be, beyond what llhttp already refuses. Pure.

llhttp (strict, as httptools builds it) refuses bare LF, obs-fold, control characters in fields,
blanks around names, unknown methods, a repeated or malformed Content-Length, Content-Length beside
Transfer-Encoding, and malformed chunk sizes. It lets through what is refused here: HTTP/0.9 and 2.0
lines, several Transfer-Encoding fields, a missing or repeated Host, and targets of a wrong form.
"""

from __future__ import annotations

import re

from bridge_core.http1.headers import Headers, Pair

_HOST = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]]*")
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)([/?][^#]*)?", re.IGNORECASE)

_SLASH = ord("/")


class HeadRefusal(Exception):
    """A request that cannot be served: the status and the sentence to answer with."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


CHUNKED = -1  # in place of a body length


def check_head(
    method: bytes, minor: int, target: bytes, pairs: list[Pair]
) -> tuple[bytes, Headers, int, bool]:
    """Checks the head of an HTTP/1.x request.

    Args:
        method: The method, upper case.
        minor: The x.
        target: The target as sent.
        pairs: The fields, names lower-cased; given up to the result.

    Returns:
        The target in origin form (or `*`), the fields (`host` being the authority of an absolute
        target where there was one), the length of the body that follows (0 or `CHUNKED`), and
        whether the client waits for 100 before it sends it.

    Raises:
        Refusal: the head breaks a rule.
    """
    index = dict(pairs)
    if len(index) != len(pairs):
        _check_repeated(pairs)
        index = dict(reversed(pairs))
    host = index.get(b"host")
    if host is None:
        if minor:
            raise HeadRefusal(400, "the Host header is missing")
    elif _HOST.fullmatch(host) is None:
        raise HeadRefusal(400, "the Host header is malformed")
    headers = Headers(pairs, index)
    if target[0] != _SLASH:
        target, headers = _check_unusual_target(method, target, headers)
    expects = b"expect" in index and _expects_continue(index, minor)
    if b"transfer-encoding" in index:
        _check_coding(index, minor)
        return target, headers, CHUNKED, expects
    length = index.get(b"content-length")
    if length is None:
        return target, headers, 0, False
    # llhttp has refused all but digits; an absurd number would only cost time here.
    if not length.isdigit() or len(length) > 18:
        raise HeadRefusal(400, "the Content-Length header is malformed")
    return target, headers, int(length), expects


def _expects_continue(index: dict[bytes, bytes], minor: int) -> bool:
    if not minor:
        return False
    if index[b"expect"].lower() != b"100-continue":
        raise HeadRefusal(417, "only Expect: 100-continue is supported")
    return True


def _check_repeated(pairs: list[Pair]) -> None:
    names = [name for name, _ in pairs]
    for name in (b"host", b"content-length", b"transfer-encoding", b"expect"):
        if names.count(name) > 1:
            raise HeadRefusal(400, f"the {name.decode('ascii').title()} header is repeated")


def _check_coding(index: dict[bytes, bytes], minor: int) -> None:
    if b"content-length" in index:
        raise HeadRefusal(400, "Content-Length and Transfer-Encoding exclude each other")
    if not minor:
        raise HeadRefusal(400, "Transfer-Encoding needs HTTP/1.1")
    if index[b"transfer-encoding"].lower() != b"chunked":
        raise HeadRefusal(501, "the only transfer coding supported is chunked")


def _check_unusual_target(method: bytes, target: bytes, headers: Headers) -> tuple[bytes, Headers]:
    if method == b"CONNECT":
        raise HeadRefusal(501, "the method CONNECT is not supported")
    if target == b"*":
        if method != b"OPTIONS":
            raise HeadRefusal(400, "the request target * needs the method OPTIONS")
        return target, headers
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or _HOST.fullmatch(absolute.group(1)) is None:
        raise HeadRefusal(400, "the request target is malformed")
    rest = absolute.group(2) or b"/"
    # RFC 9112 3.2.2: the authority of the target replaces whatever Host says.
    others = [pair for pair in headers.pairs if pair[0] != b"host"]
    fields = Headers([(b"host", absolute.group(1)), *others])
    return rest if rest[0] == _SLASH else b"/" + rest, fields
