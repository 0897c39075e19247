"""host:port, in one and in two."""

from __future__ import annotations


def parse_address(text: str) -> tuple[str, int] | None:
    """Host and port of "host:port", "[v6]:port" or ":port" (an empty host); None: it is none of these."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65_535:
        return None
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """The "host:port" of the two, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
