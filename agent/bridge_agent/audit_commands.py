"""`bridge-agent audit`: what is done to a node's audit log on the node itself."""

from __future__ import annotations

from typing import Annotated

import typer

from bridge_agent.cli_options import StateOption
from bridge_agent.config import StateDir
from bridge_core.command.guard import guarded
from bridge_core.command.program import program
from bridge_core.command.units import say

group = program("This node's audit log.")


@group.command("forget")
def forget_command(
    *,
    state_dir: StateOption,
    before: Annotated[
        str, typer.Option("--before", help="2026-11-30, 2026-11-30T12:00, or so long ago: 12h, 30d.")
    ],
) -> None:
    """Destroy the keys of the hashes of what was asked until then: nobody can tie them to a prompt any more.

    Keys of a period go when it was over by then. The records stay, and the log verifies as before.
    """

    def work() -> None:
        from bridge_agent.audit.input_keys import InputKeys
        from bridge_agent.audit.made import INPUT_KEYS
        from bridge_core.audit.exports import moment

        gone = InputKeys(StateDir(state_dir).root / "audit" / INPUT_KEYS).forget(moment(before))
        say([f"{len(gone)} keys are destroyed: {', '.join(gone)}"])

    guarded(work)
