"""Options that several of bridge-agent's commands have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def default_state_dir() -> Path:
    """Root's under /var/lib, anybody else's among their own state."""
    if os.geteuid() == 0:
        return Path("/var/lib/bridge/agent")
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(base) / "bridge/agent"


StateOption = Annotated[
    Path,
    typer.Option(
        "--state-dir",
        envvar="BRIDGE_AGENT_STATE_DIR",
        default_factory=default_state_dir,
        show_default="/var/lib/bridge/agent for root, else ~/.local/state/bridge/agent",
        help="Where the node's identity, settings, models and logs lie.",
    ),
]
