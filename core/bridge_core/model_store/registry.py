"""Talking to an OCI registry: its addresses, its tokens, its redirects.

Blocks on the network: run it in a thread.

A registry that wants a token answers 401 with `WWW-Authenticate: Bearer realm=…,service=…,scope=…`;
the token is fetched from the realm without credentials (this engine has none) and goes to the
registry's own host alone: never to the target of a redirect, and only an https realm, or one on the
registry itself, is asked.
"""

from __future__ import annotations

import http.client
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode, urljoin, urlsplit

import msgspec

from bridge_core.decoding import Undecodable, decode_json
from bridge_core.dialects.errors import ApiError
from bridge_core.names import ModelName

STALL_S: Final = 30.0
_MOST_TOKEN_ANSWER: Final = 64 << 10
_PARAMETER: Final = re.compile(r'([A-Za-z]{1,32})="([^"]{0,2048})"')
_TOKEN: Final = re.compile(r"[!-~]{1,16384}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but none that leaves TLS."""

    def redirect_request(  # noqa: PLR0917 -- urllib calls it so
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """See urllib; headers that are not to be redirected (the token) stay behind."""
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise urllib.error.HTTPError(req.full_url, code, f"{msg} to {newurl} without TLS", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """HTTP, HTTPS and the environment's proxies; no `file:` or `ftp:` that a redirect could name."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        _Redirects(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


_OPENER: Final = _opener()


class _TokenAnswer(msgspec.Struct):
    token: str = ""
    access_token: str = ""


class Registry:
    """The repository of one model at its registry.

    Attributes:
        base: URL below which its manifests and blobs are.
    """

    def __init__(self, name: ModelName, *, insecure: bool = False) -> None:
        scheme = "http" if insecure else "https"
        self.base = f"{scheme}://{name.host}/v2/{name.namespace}/{name.model}"
        self._origin = (scheme, name.host)
        self._token = ""

    def open(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, data: bytes | None = None
    ) -> Any:
        """Asks, with a token where one is wanted; `url` may be relative to `base`.

        Raises:
            urllib.error.HTTPError, OSError, http.client.HTTPException: no answer, or a refusal.
        """
        whole = urljoin(f"{self.base}/", url)
        try:
            return self._ask(method, whole, headers or {}, data)
        except urllib.error.HTTPError as refusal:
            if refusal.code != 401 or self._of(whole) != self._origin:
                raise
            self._fetch_token(refusal)
            refusal.close()
        return self._ask(method, whole, headers or {}, data)

    def _ask(self, method: str, url: str, headers: Mapping[str, str], data: bytes | None) -> Any:
        request = urllib.request.Request(url, data=data, headers=dict(headers), method=method)  # noqa: S310 -- see _opener
        if self._token and self._of(url) == self._origin:
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        return _OPENER.open(request, timeout=STALL_S)

    def _of(self, url: str) -> tuple[str, str]:
        parts = urlsplit(url)
        return parts.scheme, parts.netloc

    def _fetch_token(self, refusal: urllib.error.HTTPError) -> None:
        """Gets the token that a refusal asks for.

        Raises:
            urllib.error.HTTPError: the refusal, where no token can be had.
        """
        kind, _, rest = (refusal.headers.get("WWW-Authenticate") or "").partition(" ")
        about = dict(_PARAMETER.findall(rest))
        realm = about.get("realm", "")
        if kind.lower() != "bearer" or not self._trusted(realm):
            raise refusal
        query = urlencode({name: about[name] for name in ("service", "scope") if name in about})
        request = urllib.request.Request(f"{realm}{'&' if '?' in realm else '?'}{query}")  # noqa: S310 -- see _trusted
        try:
            with _OPENER.open(request, timeout=STALL_S) as answer:
                found = decode_json(answer.read(_MOST_TOKEN_ANSWER), _TokenAnswer)
        except (Undecodable, OSError, http.client.HTTPException) as fault:
            raise refusal from fault
        token = found.token or found.access_token
        if _TOKEN.fullmatch(token) is None:
            raise refusal
        self._token = token

    def _trusted(self, realm: str) -> bool:
        try:
            parts = urlsplit(realm)
        except ValueError:
            return False
        return parts.scheme == "https" or (parts.scheme, parts.netloc) == self._origin


def refuse_plain(asked: str, *, insecure: bool) -> None:
    """Refuses a name that asks for plain HTTP in a request that does not.

    Raises:
        ApiError: 500 in Ollama's words.
    """
    if asked.lower().startswith("http://") and not insecure:
        raise ApiError(500, 'insecure protocol http: say "insecure": true to use it', late=True)


def reason(fault: Exception, url: str) -> str:
    """Why a request failed, in the words Ollama's users know from Go."""
    host = urlsplit(url)
    cause = fault.reason if isinstance(fault, urllib.error.URLError) else fault
    if isinstance(cause, socket.gaierror):
        return f"dial tcp: lookup {host.hostname}: no such host"
    if isinstance(cause, ConnectionRefusedError):
        port = host.port or (443 if host.scheme == "https" else 80)
        return f"dial tcp {host.hostname}:{port}: connect: connection refused"
    if isinstance(cause, TimeoutError):
        return "i/o timeout"
    if isinstance(fault, urllib.error.HTTPError):
        fault.close()
        login = "; the registry wants a login, and this engine has none" if fault.code in (401, 403) else ""
        return f"{fault.code} {fault.reason}{login}"
    return str(cause) or type(cause).__name__
