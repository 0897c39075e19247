"""Who may reach an admin listener, which asks for no credentials: pure.

Rules:
1. The Host header has to name this machine: what `http_access.host_allowed` takes, or a name that
   begins with the machine's own, which its domain follows. A page of another site that reaches the
   listener through a name re-pointed at this machine (DNS rebinding) says another one. Who says none,
   as HTTP/1.0 may, is no browser.
2. Nothing here is for pages of any origin: a request with an Origin is refused.
"""

from __future__ import annotations

from bridge_core.http_access import host_allowed


def refusal(host: bytes | None, origin: bytes | None, own_name: str) -> str:
    """Why a request with these headers is not answered, in a sentence; empty: it is."""
    if origin is not None:
        return "the admin listener is not for web pages: send no Origin"
    if host is None:
        return ""
    named = host.decode("latin-1").strip().lower()
    own = own_name.lower().partition(".")[0]
    if host_allowed(named, own_name) or (own and named.startswith(f"{own}.")):
        return ""
    return "the Host header names another machine than this one"
