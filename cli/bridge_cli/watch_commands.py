"""`bridgectl top`, `bridgectl events`, `bridgectl logs`: the mesh while one watches."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from bridge_cli.output import JsonOption, print_json, say
from bridge_cli.where import Where, asks_registry
from bridge_core.command.guard import guarded
from bridge_core.command.plain_text import one_line
from bridge_core.errors import BridgeError, Fatal, Unavailable

if TYPE_CHECKING:
    from bridge_cli.access import Access
    from bridge_core.mesh_picture import MeshPicture

_ANSWER_S: Final = 5.0
_AGAIN_S: Final = 1.0  # until a registry is asked again that went away
_SLOWEST_S: Final = 60.0
_REMEMBERED: Final = 1000  # events: as many as a registry remembers

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the command `bridgectl`."""
    app.command("top")(top_command)
    app.command("events")(events_command)
    app.command("logs")(logs_command)


@asks_registry
def top_command(
    *,
    every: Annotated[float, typer.Option("--every", help="Seconds between two looks.", min=0.2)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print it once and end.")] = False,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Watch nodes, engines and models at work: requests, queues, failures, tokens. Ctrl-C ends it."""

    def work() -> None:
        import asyncio

        to = where.access()
        if as_json:
            print_json(asyncio.run(_look(to)))
        elif once or not sys.stdout.isatty():
            _print_picture(asyncio.run(_look(to)))
        else:
            asyncio.run(_live(to, min(every, _SLOWEST_S)))

    _until_interrupted(work)


@asks_registry
def events_command(
    *,
    follow: Follow = False,
    last: Annotated[int, typer.Option("--last", help="At most so many of the past.", min=0)] = 50,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Say what happened in the mesh: nodes that came and went, who leads, rollouts, concerns.

    The registry that leads remembers the last thousand since it began. With --json each is a line.
    """

    def work() -> None:
        import asyncio

        asyncio.run(_events(where.access(), follow=follow, last=last, as_json=as_json))

    _until_interrupted(work)


@asks_registry
def logs_command(
    *,
    follow: Follow = False,
    node: Annotated[
        str | None, typer.Option("--node", help="Only this part: a node, registry, guard.")
    ] = None,
    last: Annotated[int, typer.Option("--last", help="So many lines of the past of each.", min=0)] = 20,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Show the logs of a mesh that `bridgectl up` runs on this machine. Services log to journald."""

    def work() -> None:
        from bridge_cli.access import mesh_here
        from bridge_cli.log_files import follow_files, log_files

        here = mesh_here(where.flags, where.access())
        if here is None:
            raise Fatal(
                "this mesh's logs are not on this machine",
                hint="on its machines: journalctl -u bridge-agent -u bridge-registry -f",
            )
        files = log_files(here[0] / "logs", node)
        for line in follow_files(files, last=last, follow=follow):
            first, *trace = line.text.split("\n")
            say(line.raw if as_json else f"{line.part:<10} {one_line(first, 4000)}")
            for more in () if as_json else trace:
                say(f"{'':<10} {one_line(more, 4000)}")
            sys.stdout.flush()

    _until_interrupted(work)


def _until_interrupted(work: Any) -> None:
    try:
        guarded(work)
    except SystemExit as end:
        if end.code == 130:  # how watching ends
            raise SystemExit(0) from None
        raise


async def _look(to: Access) -> MeshPicture:
    import msgspec

    from bridge_cli.connection import ask
    from bridge_core.mesh_picture import MeshPicture
    from bridge_wire.v1 import console_pb2 as wire
    from bridge_wire.v1.console_pb2_grpc import ConsoleStub

    async def work(stub: Any) -> bytes:
        console = ConsoleStub(stub.channel)  # type: ignore[no-untyped-call]  # generated
        return bytes((await console.Look(wire.LookRequest(), timeout=_ANSWER_S)).picture)

    try:
        return msgspec.json.decode(await ask(to, work), type=MeshPicture)
    except msgspec.DecodeError as fault:
        raise BridgeError(f"the registry's answer does not decode: {fault}", hint="is it newer?") from fault


def _print_picture(picture: MeshPicture) -> None:
    from rich.console import Console

    from bridge_cli.top_screen import screen

    console = Console(highlight=False)
    console.print(screen(picture, rows=len(picture.nodes) + len(picture.models)))


async def _live(to: Access, every: float) -> None:
    import asyncio

    from rich.console import Console
    from rich.live import Live

    from bridge_cli.top_screen import screen

    console = Console(highlight=False)
    picture, fault = await _look(to), ""
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(screen(picture, rows=console.height - 8, fault=fault, now=time.time()), refresh=True)
            await asyncio.sleep(every)
            try:
                picture, fault = await _look(to), ""
            except Unavailable as away:
                fault = away.message


async def _events(to: Access, *, follow: bool, last: int, as_json: bool) -> None:
    """Those of the past, then, where asked for, those to come; a registry that goes away is asked again."""
    import asyncio

    from bridge_cli.connection import ask

    told: deque[tuple[float, str]] = deque(maxlen=_REMEMBERED)
    first = True

    def tell(batch: list[Any]) -> None:
        nonlocal first
        known = set(told)  # what one registry says twice at once did happen twice
        new = [one for one in batch if (one.at_unix, one.text) not in known]
        told.extend((one.at_unix, one.text) for one in new)
        for one in new[max(0, len(new) - last) :] if first else new:
            _print_event(one, as_json=as_json)
        first = False

    while True:
        try:
            return await ask(to, lambda stub: _watch(stub, tell, follow=follow))
        except Unavailable as fault:
            if not follow:
                raise
            sys.stderr.write(f"bridgectl: {one_line(fault.message)}; asking again\n")
        await asyncio.sleep(_AGAIN_S)


async def _watch(stub: Any, tell: Callable[[list[Any]], None], *, follow: bool) -> None:
    """Tells the past as one batch, then every event as one."""
    from bridge_wire.v1 import console_pb2 as wire
    from bridge_wire.v1.console_pb2_grpc import ConsoleStub

    console = ConsoleStub(stub.channel)  # type: ignore[no-untyped-call]  # generated
    past = [one async for one in console.WatchEvents(wire.WatchEventsRequest(), timeout=_ANSWER_S)]
    tell(past)
    if follow:
        at = past[-1].id if past else 0
        async for one in console.WatchEvents(wire.WatchEventsRequest(after=at, follow=True)):
            tell([one])


def _print_event(event: Any, *, as_json: bool) -> None:
    import datetime as dt

    if as_json:
        import msgspec

        from bridge_core.mesh_picture import Happening

        told = Happening(event.id, event.at_unix, event.kind, event.level, event.subject, event.text)
        say(msgspec.json.encode(told).decode())
    else:
        at = dt.datetime.fromtimestamp(event.at_unix, dt.UTC).astimezone()
        say(
            f"{at:%Y-%m-%d %H:%M:%S}  {event.level:<4}  {one_line(event.kind, 30):<16} {one_line(event.text)}"
        )
    sys.stdout.flush()
