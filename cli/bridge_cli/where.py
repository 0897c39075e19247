"""The options that say which registry a command asks, and as whom: defined once, for all of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

from bridge_cli.access import Access, Flags, access
from bridge_core.command.guard import guarded

T = TypeVar("T")

_PANEL: Final = "Which registry, and as whom (else as the current context says)"


class Where:
    """Registries and the identity to call them with, as the options give them."""

    def __init__(
        self,
        *,
        context: Annotated[
            str | None,
            typer.Option("--context", rich_help_panel=_PANEL, help="One of `bridgectl context list`."),
        ] = None,
        state_dir: Annotated[
            Path | None,
            typer.Option(
                "--state-dir",
                envvar="BRIDGE_STATE_DIR",
                rich_help_panel=_PANEL,
                help="Of a mesh that `bridgectl up` made: its mesh.json says all of this.",
            ),
        ] = None,
        registry: Annotated[
            str | None,
            typer.Option(
                "--registry",
                envvar="BRIDGE_REGISTRY",
                rich_help_panel=_PANEL,
                help="HOST:PORT[,HOST:PORT…]; the first that answers is asked.",
            ),
        ] = None,
        ca: Annotated[
            Path | None, typer.Option("--ca", rich_help_panel=_PANEL, help="The mesh's CA certificate.")
        ] = None,
        cert: Annotated[
            Path | None, typer.Option("--cert", rich_help_panel=_PANEL, help="An admin's certificate.")
        ] = None,
        key: Annotated[
            Path | None, typer.Option("--key", rich_help_panel=_PANEL, help="Its private key.")
        ] = None,
    ) -> None:
        state = state_dir.absolute() if state_dir is not None else None
        self.flags = Flags(state, context, registry, ca, cert, key)

    def access(self) -> Access:
        """The same, as addresses and files.

        Raises:
            Fatal: something is missing.
        """
        return access(self.flags)

    def call(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Runs `work` with the Admin stub; see `guarded`."""
        import asyncio

        from bridge_cli.connection import ask

        return guarded(lambda: asyncio.run(ask(self.access(), work)))


def asks_registry(command: Callable[..., None]) -> Callable[..., None]:
    """A command that has a parameter `where: Where`, with that one's options in its place.

    Of two options of one name the command's own counts; the identity then comes from a context.
    """
    own = inspect.signature(command, eval_str=True)
    options = inspect.signature(Where, eval_str=True).parameters
    shared = {name: one for name, one in options.items() if name not in own.parameters}

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(where=Where(**{name: given.pop(name) for name in shared}), **given)

    parameters = [*(one for one in own.parameters.values() if one.name != "where"), *shared.values()]
    # typer reads both, and would find `command` itself through the third.
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]  # a function's may be set
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    del run.__wrapped__
    return run
