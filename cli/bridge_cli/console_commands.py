"""`bridgectl console`: signs a browser in to the console."""

from __future__ import annotations

from typing import Any, Final

import typer

from bridge_cli.output import JsonOption, print_json, say, say_aside
from bridge_cli.where import Where, asks_registry

_TIMEOUT_S: Final = 10.0


def register(app: typer.Typer) -> None:
    """Adds the command to the command `bridgectl`."""
    app.command("console")(console_command)


@asks_registry
def console_command(*, as_json: JsonOption = False, where: Where) -> None:
    """Sign a browser in to the console: prints an address that is good once, for a minute."""

    async def work(stub: Any) -> Any:
        from bridge_wire.v1 import console_pb2 as wire
        from bridge_wire.v1.console_pb2_grpc import ConsoleStub

        console = ConsoleStub(stub.channel)  # type: ignore[no-untyped-call]  # generated
        return await console.SignIn(wire.SignInRequest(), timeout=_TIMEOUT_S)

    made = where.call(work)
    page = f"http://127.0.0.1:{made.admin_port}/console/#sign-in/{made.code}"
    if as_json:
        print_json(
            {
                "url": page,
                "code": made.code,
                "seconds": made.seconds,
                "adminPort": made.admin_port,
                "registry": made.registry,
                "role": made.role,
            }
        )
        return
    say(page)
    port = made.admin_port
    say_aside(
        f"Good once, for {made.seconds} s, in a browser on {made.registry}'s machine; role {made.role}.\n"
        f"From another machine first: ssh -L {port}:127.0.0.1:{port} <{made.registry}'s machine>"
    )
