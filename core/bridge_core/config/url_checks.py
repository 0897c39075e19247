"""Addresses of other services in documents: pure."""

from __future__ import annotations

from urllib.parse import urlsplit


def url_fault(text: str, *, key: str = "") -> str:
    """What is wrong with the http or https address of a service that the mesh calls; empty: nothing.

    Args:
        text: The address.
        key: The key whose file has the secret that does not belong into an address, if there is one.
    """
    if not text.isascii() or not text.isprintable() or " " in text:
        return "has characters that no address has"
    try:
        parts = urlsplit(text)
        good = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return f"{text[:200]!r} is no address"
    if not good or parts.scheme not in {"https", "http"}:
        return "has to be an https:// address"
    if parts.username is not None or parts.password is not None or parts.fragment:
        fault = "is an address without user, password and fragment"
        return f"{fault}: {key} has the secret" if key else fault
    return ""


def is_https(text: str) -> bool:
    """Whether an address without fault is an https one."""
    return urlsplit(text).scheme == "https"
