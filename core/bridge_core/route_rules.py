"""Which route a path and method name, as Ollama's router does it, at an engine and at a gateway. Pure.

Rules, in this order:
1. A path that is not clean (`//`, `.` and `..` in it) is redirected to the clean one with 307, whatever
   is there; one slash at its end stays.
2. A route of the method is taken. A path that is one but for a slash at its end is redirected there:
   with 301 a GET, with 307 all else.
3. A path that is a route of other methods alone is 405, and names them; all else is 404.
"""

from __future__ import annotations

import http
import posixpath
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeVar
from urllib.parse import quote

T = TypeVar("T")

_ORDER: Final = ("HEAD", "GET", "POST", "DELETE")
_WITH_PARAMETER: Final = ("/api/blobs/", "/v1/models/", "/api/user/keys/")


class Match(NamedTuple):
    """Where a path leads.

    Attributes:
        allow: The methods that it has.
        parameter: The last segment where the route has it variable.
        redirect: Where to go instead; empty for nowhere.
        status: Of the redirect.
    """

    allow: tuple[str, ...] = ()
    parameter: str = ""
    redirect: str = ""
    status: int = 307


def match(routes: Mapping[str, Mapping[str, T]], method: str, path: str) -> tuple[T | None, Match]:
    """Finds the route.

    Args:
        routes: By path, then by method; a path that ends in a slash has a variable last segment.
        method: Of the request.
        path: Of the request, its percent signs decoded.
    """
    clean = _clean(path)
    if clean != path and path.startswith("/"):  # and not the `*` of OPTIONS
        return None, Match(redirect=clean)
    methods, parameter = _lookup(routes, path)
    if method in methods:
        return methods[method], Match(tuple(methods), parameter)
    without = path.removesuffix("/")
    if without not in {"", path} and method in _lookup(routes, without)[0]:
        return None, Match(redirect=without, status=301 if method == "GET" else 307)
    return None, Match(tuple(sorted(methods, key=_ORDER.index)), parameter)


def location(redirect: str, query: str) -> str:
    """A redirect's path as a Location field has it, with the request's query."""
    return quote(redirect, safe="/:@!$&'()*+,;=~") + (f"?{query}" if query else "")


def redirect_body(method: str, status: int, where: str) -> bytes:
    """The page that goes with a redirect, as Go writes it: for those who ask to read one."""
    if method not in {"GET", "HEAD"}:
        return b""
    import html  # the tables of HTML's entities: a third of a MiB, for a page that few ever see

    return f'<a href="{html.escape(where)}">{http.HTTPStatus(status).phrase}</a>.\n\n'.encode()


def _clean(path: str) -> str:
    clean = posixpath.normpath("/" + path.lstrip("/"))
    return clean + "/" if path.endswith("/") and clean != "/" else clean


def _lookup(routes: Mapping[str, Mapping[str, T]], path: str) -> tuple[Mapping[str, T], str]:
    if path in routes and (path == "/" or not path.endswith("/")):
        return routes[path], ""
    for prefix in _WITH_PARAMETER:
        rest = path.removeprefix(prefix)
        # A model's name may have slashes, where Ollama's router stops at the first.
        whole = prefix == "/v1/models/" or "/" not in rest
        if path.startswith(prefix) and rest.strip("/") == rest != "" and whole:
            return routes.get(prefix, {}), rest
    return {}, ""
