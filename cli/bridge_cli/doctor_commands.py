"""`bridgectl doctor`: looks this machine and the mesh over, and says what to do."""

from __future__ import annotations

import typer

from bridge_cli.access import state_folder
from bridge_cli.output import JsonOption, print_json, say
from bridge_cli.where import Where, asks_registry
from bridge_core.command.guard import guarded
from bridge_core.command.plain_text import one_line

_MARKS = {"ok": "ok    ", "warn": "warn  ", "bad": "BAD   ", "skipped": "-     "}


def register(app: typer.Typer) -> None:
    """Adds the command to the command `bridgectl`."""
    app.command("doctor")(doctor_command)


@asks_registry
def doctor_command(*, as_json: JsonOption = False, where: Where) -> None:
    """Find what a first installation gets wrong, here and in the mesh. Exits 1 when something is bad."""

    def work() -> int:
        import asyncio
        import os

        from bridge_cli.doctor.doctor_rules import diagnose, well
        from bridge_cli.doctor.facts import machine_facts, mesh_facts

        state = state_folder(where.flags).absolute()
        mesh = asyncio.run(mesh_facts(where))
        findings = diagnose(machine_facts(state, os.environ), mesh)
        if as_json:
            print_json({"well": well(findings), "findings": findings})
        else:
            for one in findings:
                say(f"{_MARKS[one.level]}{one.topic:<13} {one_line(one.says)}")
                if one.do:
                    say(f"{'':<19} → {one_line(one.do)}")
            counted = [sum(one.level == level for one in findings) for level in ("bad", "warn")]
            say(f"\n{counted[0]} bad, {counted[1]} to look at, of {len(findings)} checks.")
        return 0 if well(findings) else 1

    raise SystemExit(guarded(work))
