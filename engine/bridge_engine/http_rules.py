"""Which hosts and origins may call, and which route a path and method name. Pure.

The engine has no authentication: a web page must not reach it through somebody's browser, neither
from a foreign origin nor through a name that was re-pointed at this machine (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import posixpath
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "0.0.0.0", "[::1]", "::1")
_LOCAL_SUFFIXES: Final = (".localhost", ".local", ".internal")
_APP_SCHEMES: Final = ("app", "file", "tauri", "vscode-webview", "vscode-file")
_REQUEST_HEADERS: Final = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
    "X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,"
    "X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,"
    "X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout"
)
_METHODS: Final = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"

Pairs = list[tuple[bytes, bytes]]


def host_allowed(host: str, own_name: str) -> bool:
    """Whether a Host field names this machine in a way that no foreign name server can forge."""
    name = host.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return not name or name in ("localhost", own_name.lower()) or name.endswith(_LOCAL_SUFFIXES)
    return address.is_loopback or address.is_private or address.is_unspecified


def origin_allowed(origin: str, host: str) -> bool:
    """Whether a page of `origin` may call a server that it addresses as `host`."""
    parts = urlsplit(origin)
    if parts.scheme in _APP_SCHEMES:
        return True
    if parts.scheme not in ("http", "https"):
        return False
    return parts.netloc == host or (parts.hostname or "") in _LOCAL_NAMES


def cors_headers(origin: str) -> Pairs:
    """What an answer to an allowed cross-origin request carries."""
    return [(b"access-control-allow-origin", origin.encode("latin-1", "replace")), (b"vary", b"Origin")]


def preflight_headers(origin: str) -> Pairs:
    """What the answer to an allowed preflight carries."""
    return [
        (b"access-control-allow-headers", _REQUEST_HEADERS.encode()),
        (b"access-control-allow-methods", _METHODS.encode()),
        (b"access-control-allow-origin", origin.encode("latin-1", "replace")),
        (b"access-control-max-age", b"43200"),
        (b"vary", b"Access-Control-Request-Headers"),
    ]


class Match(NamedTuple):
    """Where a path leads: its methods, and the last segment where the route has it variable."""

    methods: Mapping[str, object] | None
    parameter: str
    redirect: str


def match(routes: Mapping[str, Mapping[str, T]], path: str) -> Match:
    """Finds a path's route; a path that is one after cleaning is to be redirected there."""
    methods, parameter = _lookup(routes, path)
    if methods is not None:
        return Match(methods, parameter, "")
    clean = posixpath.normpath("/" + path.lstrip("/"))
    if clean != path and not path.endswith("/") and _lookup(routes, clean)[0] is not None:
        return Match(None, "", clean)
    return Match(None, "", "")


def _lookup(routes: Mapping[str, Mapping[str, T]], path: str) -> tuple[Mapping[str, T] | None, str]:
    if path in routes and (path == "/" or not path.endswith("/")):
        return routes[path], ""
    for prefix in ("/api/blobs/", "/v1/models/", "/api/user/keys/"):
        rest = path.removeprefix(prefix)
        if path.startswith(prefix) and rest and (prefix == "/v1/models/" or "/" not in rest):
            return routes.get(prefix), rest
    return None, ""
