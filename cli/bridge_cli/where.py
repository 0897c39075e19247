"""The options that say which registry a command asks, and as whom: defined once, for all of them."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from bridge_cli.connection import Access, access, admin, default_state_dir
from bridge_core.command.guard import guarded

T = TypeVar("T")


class Where:
    """A registry and the identity to call it with, as the options give them."""

    def __init__(
        self,
        *,
        state_dir: Annotated[
            Path,
            typer.Option(
                "--state-dir",
                envvar="BRIDGE_STATE_DIR",
                default_factory=default_state_dir,
                show_default="~/.local/state/bridge",
                help="Of the mesh that `bridgectl up` made: its mesh.json says all that is asked for below.",
            ),
        ],
        registry: Annotated[
            str | None, typer.Option("--registry", envvar="BRIDGE_REGISTRY", help="The registry, HOST:PORT.")
        ] = None,
        ca: Annotated[Path | None, typer.Option("--ca", help="The mesh's CA certificate.")] = None,
        cert: Annotated[Path | None, typer.Option("--cert", help="An admin's certificate.")] = None,
        key: Annotated[Path | None, typer.Option("--key", help="Its private key.")] = None,
    ) -> None:
        self._given = (state_dir.absolute(), registry, ca, cert, key)

    def access(self) -> Access:
        """The same, as addresses and files.

        Raises:
            Fatal: something is missing.
        """
        return access(*self._given)

    def call(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Runs `work` with the Admin stub; see `guarded`."""
        # gRPC's own lines come before our sentence and say the same less clearly.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")

        async def run() -> T:
            async with admin(self.access()) as stub:
                return await work(stub)

        return guarded(lambda: asyncio.run(run()))


def asks_registry(command: Callable[..., None]) -> Callable[..., None]:
    """A command that has a parameter `where: Where`, with that one's options in its place."""
    own = inspect.signature(command, eval_str=True)
    shared = inspect.signature(Where, eval_str=True).parameters

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(where=Where(**{name: given.pop(name) for name in shared}), **given)

    parameters = [*(one for one in own.parameters.values() if one.name != "where"), *shared.values()]
    # typer reads both, and would find `command` itself through the third.
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]  # a function's may be set
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    del run.__wrapped__
    return run
