"""Who may reach a listener that asks for no credentials: Ollama's Host and CORS rules. Pure.

Rules:
1. The Host header must name this machine: a loopback, private or unspecified address, `localhost` or a
   name under it, the machine's own name (also under `.local` and `.internal`), one of those by which
   containers and virtual machines call their host, or one that the admin names; else 403 without a body.
   Ollama takes every name under `.local` and `.internal`; but who is in the same network answers for
   those, and could re-point one at this machine under a page of its own (DNS rebinding).
2. A request with an Origin must come from an allowed one, else 403 without a body; an allowed one
   gets its CORS headers, and OPTIONS is answered at once, whatever else it asks for. Allowed are pages
   of this machine (`localhost`, 127.0.0.1, 0.0.0.0, `[::1]`, any port), applications with a scheme of
   their own, and what the admin names.
3. A page of the very host that it calls is of no other origin: it is answered like who sends none.
4. A browser says of each request to this machine whether another site's page made it (Sec-Fetch-Site).
   Such a request without an Origin (an image, a script, a frame) is refused; following a link is not.
5. Names are compared in lower case, without port, brackets, and the dot that ends an absolute name.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Annotated, Final

import msgspec

Header = tuple[bytes, bytes]

_LOCAL_NAMES: Final = frozenset(["localhost", "127.0.0.1", "0.0.0.0", "::1"])
_OWN_SUFFIXES: Final = ("", ".local", ".internal", ".localhost")
_HOSTS_OF_GUESTS: Final = frozenset(
    f"{name}.internal"
    for name in (
        *("host.docker", "gateway.docker", "kubernetes.docker", "host.containers", "gateway.containers"),
        *("host.lima", "host.orb", "host.minikube", "host.k3d", "host.rancher-desktop"),
    )
)
_APP_SCHEMES: Final = ("app://", "file://", "tauri://", "vscode-webview://", "vscode-file://")
_PAGE: Final = re.compile(r"https?://(\[[0-9a-f:.]+\]|[^:/@?#\[\]]+)(?::[0-9]{1,5})?")
_ALLOWED_HEADERS: Final = (
    b"Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
    b"X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,"
    b"X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,"
    b"X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout"
)
_METHODS: Final = b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"


class Origins(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Origins allowed besides this machine's own; one `*` in an entry matches anything."""

    extra: Annotated[tuple[str, ...], msgspec.Meta(max_length=1000)] = ()

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
def host_allowed(host: str, own_name: str, extra: tuple[str, ...] = ()) -> bool:
    """Whether a Host header names this machine; `extra`: names that the admin gave it besides."""
    name = _bare(host.strip().lower())
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return (
            name in {"", "localhost", _bare(own_name.lower())}
            or name.endswith(".localhost")
            or name in _own_names(own_name)
            or name in _HOSTS_OF_GUESTS
            or name in map(str.lower, extra)
        )
    return address.is_loopback or address.is_private or address.is_unspecified


def _own_names(own_name: str) -> list[str]:
    label = own_name.lower().partition(".")[0]
    return [label + suffix for suffix in _OWN_SUFFIXES] if label else []


FETCH: Final = (b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest")
"""The fields in which a browser says who made a request, and for what."""


def by_foreign_page(method: str, site: bytes | None, mode: bytes | None, dest: bytes | None) -> bool:
    """Whether a page of another site made a request, by what it says in the fields of `FETCH`."""
    if site is None or site.lower() != b"cross-site":
        return False
    return (method, mode, dest) != ("GET", b"navigate", b"document")


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
    return (
        (b"access-control-allow-origin", origin),
        (b"vary", b"Origin"),
    )


def preflight_headers(origin: bytes) -> tuple[Header, ...]:
    """What the answer to an allowed preflight carries."""
    return (
        (b"access-control-allow-headers", _ALLOWED_HEADERS),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-origin", origin),
        (b"access-control-max-age", b"43200"),
        (b"vary", b"Access-Control-Request-Headers"),
    )
