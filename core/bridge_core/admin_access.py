"""Who may reach an admin listener, which asks for no credentials: pure.

Rules:
1. The Host header has to name this machine, as `http_access.host_allowed` has it. A page of another site
   that reaches the listener through a name re-pointed at this machine (DNS rebinding) says another one,
   also where it begins with the machine's own. Who says none, as HTTP/1.0 may, is no browser.
2. Nothing here is for pages of another origin: a request with an Origin that is not the very host that it
   calls (as browsers send for the console's own files) is refused, and so is one that a page of another site
   made without.
"""

from __future__ import annotations

from bridge_core.http1.request import Request
from bridge_core.http_access import FETCH, by_foreign_page, host_allowed, same_origin


def refusal(request: Request, own_name: str) -> str:
    """Why a request is not answered, in a sentence; empty: it is."""
    fields = request.headers
    host, fetch = fields.get(b"host"), (fields.get(name) for name in FETCH)
    origin = fields.get(b"origin")
    if origin is not None and (host is None or not same_origin(origin, host)):
        return "the admin listener is not for pages of other origins: send no Origin"
    if by_foreign_page(request.method, *fetch):
        return "the admin listener is not for pages of other sites"
    if host is None or host_allowed(host.decode("latin-1"), own_name):
        return ""
    return "the Host header names another machine than this one"
