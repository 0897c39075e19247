"""Files of a page at an admin listener, as they are served: the program's own, and those that pages share."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from bridge_core.http1.exchange import App, Exchange
from bridge_core.http1.headers import Pair

_TYPES: Final = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
}


def safe(connect: bytes = b"'self'") -> tuple[Pair, ...]:
    """Fields that let a page run its own files alone, and call `connect`."""
    policy = (
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src %b; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return (
        (b"content-security-policy", policy % connect),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-opener-policy", b"same-origin"),
    )


def page_apps(root: str, package: str, fields: tuple[Pair, ...]) -> dict[str, App]:
    """By path below `root` the files of the folder `page` of a package, and those that pages share.

    What asks for `/` or for `root` itself is sent there.

    Args:
        root: Such as "/console"; its own page is `index.html`.
        package: The importable one that has the folder.
        fields: Of `safe`, for each answer.
    """

    def there(exchange: Exchange) -> None:
        exchange.respond(302, [(b"location", f"{root}/".encode())])

    found: dict[str, App] = {"/": there}
    for folder in (files("bridge_core") / "page", files(package) / "page"):
        for one in folder.iterdir():
            kind = _TYPES.get(f".{one.name.rpartition('.')[2]}")
            if kind is not None:
                found[f"{root}/{one.name}"] = _served(kind, one.read_bytes(), fields)
    found[f"{root}/"] = found[f"{root}/index.html"]
    found[root] = there
    return found


def _served(kind: bytes, body: bytes, fields: tuple[Pair, ...]) -> App:
    headers = [*fields, (b"content-type", kind), (b"cache-control", b"no-cache")]
    return lambda exchange: exchange.respond(200, headers, body)
