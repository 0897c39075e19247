"""Which route a path and method name. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

T = TypeVar("T")


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
