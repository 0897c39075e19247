"""Who may reach the local listener: Ollama's Host and CORS rules.

Rules:
1. On a loopback listener the Host header must name this machine: a loopback, private or
   unspecified address, one of its own addresses, `localhost`, its host name, or a name under
   `.localhost`, `.local` or `.internal`; else 403 without a body. This keeps pages of other sites
   from reaching it by a rebound DNS name.
2. A request with an Origin must come from an allowed one, else 403 without a body; an allowed
   one gets its CORS headers, and OPTIONS is answered at once, whatever else it asks for.
3. A page of the very host that it calls is of no other origin: it is answered like who sends none.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

import msgspec

Header = tuple[bytes, bytes]

_HOSTS: Final = ("localhost", "127.0.0.1", "0.0.0.0")
_APP_SCHEMES: Final = ("app://", "file://", "tauri://", "vscode-webview://", "vscode-file://")
_ALLOWED_HEADERS: Final = (
    b"Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
    b"X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,"
    b"X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,"
    b"X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout"
)
_METHODS: Final = b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"


class Origins(msgspec.Struct, frozen=True):
    """Origins allowed besides this machine's own; `*` in an entry matches anything."""

    extra: tuple[str, ...] = ()

    def allows(self, origin: str) -> bool:
        """Whether pages of this origin may call."""
        return _allows(origin, self.extra)


@lru_cache(maxsize=256)
def _allows(origin: str, extra: tuple[str, ...]) -> bool:
    lowered = origin.lower()
    if lowered.startswith(_APP_SCHEMES):
        return True
    for pattern in extra:
        head, star, tail = pattern.lower().partition("*")
        if lowered == head or (star and lowered.startswith(head) and lowered.endswith(tail)):
            return True
    try:
        parts = urlsplit(lowered)
        return parts.scheme in ("http", "https") and parts.hostname in _HOSTS and parts.path == ""
    except ValueError:
        return False


@lru_cache(maxsize=256)
def host_allowed(host: str, own_name: str) -> bool:
    """Whether a Host header names this machine."""
    name = _host_only(host).lower().rstrip(".")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name in ("", "localhost", own_name.lower()) or name.endswith(
            (".localhost", ".local", ".internal")
        )
    return address.is_loopback or address.is_private or address.is_unspecified


def same_origin(origin: bytes, host: bytes) -> bool:
    """Whether a page calls the server that it came from."""
    return origin in (b"http://" + host, b"https://" + host)


def _host_only(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]


def cors_headers(origin: bytes) -> tuple[Header, ...]:
    """What an answer to an allowed origin carries."""
    return ((b"access-control-allow-origin", origin), (b"vary", b"Origin"))


def preflight_headers(origin: bytes) -> tuple[Header, ...]:
    """What the answer to an allowed preflight carries."""
    return (
        (b"access-control-allow-headers", _ALLOWED_HEADERS),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-origin", origin),
        (b"access-control-max-age", b"43200"),
        (b"vary", b"Access-Control-Request-Headers"),
    )
