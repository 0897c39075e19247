"""Who may reach a listener that asks for no credentials: Ollama's Host and CORS rules. Pure.

Rules:
1. The Host header must name this machine: a loopback, private or unspecified address, `localhost`,
   the machine's own name, or a name under `.localhost`, `.local` or `.internal`; else 403 without a
   body. No foreign name server can forge one of these, so that no page of another site reaches the
   listener through a name that was re-pointed at this machine (DNS rebinding).
2. A request with an Origin must come from an allowed one, else 403 without a body; an allowed one
   gets its CORS headers, and OPTIONS is answered at once, whatever else it asks for. Allowed are pages
   of this machine (`localhost`, 127.0.0.1, 0.0.0.0, `[::1]`, any port), applications with a scheme of
   their own, and what the admin names.
3. A page of the very host that it calls is of no other origin: it is answered like who sends none.
4. Names are compared in lower case, without port, brackets, and the dot that ends an absolute name.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Final

import msgspec

Header = tuple[bytes, bytes]

_LOCAL_NAMES: Final = frozenset(["localhost", "127.0.0.1", "0.0.0.0", "::1"])
_LOCAL_SUFFIXES: Final = (".localhost", ".local", ".internal")
_APP_SCHEMES: Final = ("app://", "file://", "tauri://", "vscode-webview://", "vscode-file://")
_PAGE: Final = re.compile(r"https?://(\[[0-9a-f:.]+\]|[^:/@?#\[\]]+)(?::[0-9]{1,5})?")
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
        fits = lowered.startswith(head) and lowered.endswith(tail) and len(lowered) >= len(head) + len(tail)
        if fits if star else lowered == head:
            return True
    page = _PAGE.fullmatch(lowered)
    return page is not None and _bare(page[1]) in _LOCAL_NAMES


@lru_cache(maxsize=256)
def host_allowed(host: str, own_name: str) -> bool:
    """Whether a Host header names this machine."""
    name = _bare(host.strip().lower())
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name in {"", "localhost", _bare(own_name.lower())} or name.endswith(_LOCAL_SUFFIXES)
    return address.is_loopback or address.is_private or address.is_unspecified


def is_address(host: str) -> bool:
    """Whether a Host header names an address and not a name."""
    try:
        ipaddress.ip_address(_bare(host.strip()))
    except ValueError:
        return False
    return True


def same_origin(origin: bytes, host: bytes) -> bool:
    """Whether a page calls the server that it came from."""
    return origin in (b"http://" + host, b"https://" + host)


def _bare(host: str) -> str:
    """The name or address alone: no brackets, no port, no dot at the end."""
    if host.startswith("["):
        address, _, rest = host[1:].partition("]")
        return address if not rest or rest.startswith(":") else host
    name = host if host.count(":") > 1 else host.partition(":")[0]
    return name.removesuffix(".")


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
