"""The agent's own page at its admin listener: read-only, and of this node alone.

It asks for /status, for the last requests and for /explain, which say no more than those do without it.
"""

from __future__ import annotations

from typing import Final

from bridge_core.http1 import App
from bridge_core.page_files import page_apps, safe

ROOT: Final = "/view"


def view_pages(recent: App) -> dict[str, App]:
    """By path; `recent` answers what the last requests were."""
    return {**page_apps(ROOT, "bridge_agent.view", safe()), f"{ROOT}/recent": recent}
