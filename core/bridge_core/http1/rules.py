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


class Refusal(Exception):
    """A request that cannot be served: the status and the sentence to answer with."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class CheckedHead:
    """A head that passed: what the connection needs to know of it.

    Attributes:
        target: The target in origin form (or `*`).
        headers: The fields; `host` is the authority of an absolute target where there was one.
        length: Declared body length; None where there is no body or it is chunked.
        chunked: The body is chunked.
        expects_continue: The client waits for 100 before it sends the body.
    """

    __slots__ = ("chunked", "expects_continue", "headers", "length", "target")

    def __init__(self, target: bytes, headers: Headers) -> None:
        self.target = target
        self.headers = headers
        self.length: int | None = None
        self.chunked = False
        self.expects_continue = False


def check_head(method: bytes, version: str, target: bytes, pairs: list[Pair]) -> CheckedHead:
    """Checks a request head.

    Args:
        method: The method, upper case.
        version: "1.0" or "1.1" (anything else is refused).
        target: The target as sent.
        pairs: The fields, names lower-cased; given up to the result.

    Raises:
        Refusal: the head breaks a rule.
    """
    if version not in {"1.1", "1.0"}:
        raise Refusal(505, f"HTTP version {version} is not supported")
    index = dict(pairs)
    if len(index) != len(pairs):
        _check_repeated(pairs, index)
        index = dict(reversed(pairs))
    host = index.get(b"host")
    if host is None:
        if version == "1.1":
            raise Refusal(400, "the Host header is missing")
    elif _HOST.fullmatch(host) is None:
        raise Refusal(400, "the Host header is malformed")
    checked = CheckedHead(target, Headers(pairs, index))
    if target[:1] != b"/":
        _check_unusual_target(checked, method, target)
    length = index.get(b"content-length")
    if length is not None:
        if not length.isdigit() or len(length) > 18:
            raise Refusal(400, "the Content-Length header is malformed")
        checked.length = int(length)
    coding = index.get(b"transfer-encoding")
    if coding is not None:
        _check_coding(checked, coding, version)
    expect = index.get(b"expect")
    if expect is not None and version == "1.1":
        if expect.lower() != b"100-continue":
            raise Refusal(417, "only Expect: 100-continue is supported")
        checked.expects_continue = checked.chunked or bool(checked.length)
    return checked


def _check_repeated(pairs: list[Pair], index: dict[bytes, bytes]) -> None:
    for name in (b"host", b"content-length", b"transfer-encoding", b"expect"):
        if name in index and sum(1 for key, _ in pairs if key == name) > 1:
            raise Refusal(400, f"the {name.decode('ascii').title()} header is repeated")


def _check_coding(checked: CheckedHead, coding: bytes, version: str) -> None:
    if checked.length is not None:
        raise Refusal(400, "Content-Length and Transfer-Encoding exclude each other")
    if version == "1.0":
        raise Refusal(400, "Transfer-Encoding needs HTTP/1.1")
    if coding.lower() != b"chunked":
        raise Refusal(501, "the only transfer coding supported is chunked")
    checked.chunked = True


def _check_unusual_target(checked: CheckedHead, method: bytes, target: bytes) -> None:
    if method == b"CONNECT":
        raise Refusal(501, "the method CONNECT is not supported")
    if target == b"*":
        if method != b"OPTIONS":
            raise Refusal(400, "the request target * needs the method OPTIONS")
        return
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise Refusal(400, "the request target is malformed")
    authority, rest = absolute.group(1), absolute.group(2) or b"/"
    if _HOST.fullmatch(authority) is None:
        raise Refusal(400, "the request target is malformed")
    checked.target = rest if rest[:1] == b"/" else b"/" + rest
    # RFC 9112 3.2.2: the authority of the target replaces whatever Host says.
    others = [pair for pair in checked.headers.pairs if pair[0] != b"host"]
    checked.headers = Headers([(b"host", authority), *others])
