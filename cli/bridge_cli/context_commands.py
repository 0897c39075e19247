"""`bridgectl context …`: the meshes that an admin works with, each under a name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bridge_cli.output import JsonOption, print_json, say
from bridge_core.command.guard import guarded

contexts = typer.Typer(
    help="Contexts: which registries there are and as whom to call them, under a name.", no_args_is_help=True
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The context's name, of your choice.")]


@contexts.command("set")
def set_command(
    *,
    name: NameArgument,
    registry: Annotated[
        str, typer.Option("--registry", help="HOST:PORT[,HOST:PORT…]; the first that answers is asked.")
    ],
    pki: Annotated[
        Path | None,
        typer.Option("--pki", help="A folder with ca.pem, admin.pem and admin.key, as a registry has one."),
    ] = None,
    ca: Annotated[Path | None, typer.Option("--ca", help="The mesh's CA certificate.")] = None,
    cert: Annotated[Path | None, typer.Option("--cert", help="An admin's certificate.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Its private key.")] = None,
) -> None:
    """Keep a mesh under a name. The first one is also the current one."""

    def work() -> None:
        from bridge_cli.access import IDENTITY_HINT
        from bridge_cli.context import Context, load_contexts, put_context
        from bridge_core.addresses import split_address
        from bridge_core.command.labels import listed
        from bridge_core.errors import Fatal
        from bridge_core.tls import TlsFault, check_files

        registries = listed(registry)
        if not registries:
            raise Fatal("--registry is empty", hint="HOST:PORT, several with commas")
        for address in registries:
            split_address(address)
        files = [
            given or (pki / usual if pki is not None else None)
            for given, usual in ((ca, "ca.pem"), (cert, "admin.pem"), (key, "admin.key"))
        ]
        named = [file.absolute() for file in files if file is not None]
        if len(named) < 3:
            raise Fatal("an identity is missing", hint="--pki FOLDER, or --ca, --cert and --key")
        try:
            check_files(named[1], named[2], named[0])
        except TlsFault as fault:
            raise Fatal(fault.message, hint=IDENTITY_HINT) from fault
        put_context(name, Context(registries, *map(str, named)), use=False)
        say(_line(name, load_contexts().current == name))

    guarded(work)


@contexts.command("use")
def use_command(*, name: NameArgument) -> None:
    """Make a context the one that commands use."""

    def work() -> None:
        from bridge_cli.context import ContextFile, load_contexts, save_contexts

        file = load_contexts()
        file.named(name)
        save_contexts(ContextFile(name, file.contexts))
        say(_line(name, current=True))

    guarded(work)


@contexts.command("list")
def list_command(*, as_json: JsonOption = False) -> None:
    """List the contexts; * is the current one."""

    def work() -> None:
        from bridge_cli.context import context_path, load_contexts

        file = load_contexts()
        if as_json:
            print_json(file)
            return
        if not file.contexts:
            say(f"No context in {context_path()}. `bridgectl context set` and `bridgectl up` write some.")
        for name, one in sorted(file.contexts.items()):
            say(f"{'*' if name == file.current else ' '} {name}  {', '.join(one.registries)}")

    guarded(work)


@contexts.command("show")
def show_command(
    *,
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Another than the current one.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Say what a context names."""

    def work() -> None:
        from bridge_cli.context import context_path, load_contexts
        from bridge_core.errors import Fatal

        file = load_contexts()
        if not (name or file.current):
            raise Fatal(f"no context in {context_path()}", hint="`bridgectl context set` writes one")
        found = file.named(name or file.current)
        if as_json:
            print_json(found)
            return
        say(_line(name or file.current, current=(name or file.current) == file.current))
        say(f"  registries  {', '.join(found.registries)}")
        for what in ("ca", "cert", "key", "state"):
            if value := getattr(found, what):
                say(f"  {what:<10}  {value}")

    guarded(work)


@contexts.command("remove")
def remove_command(*, name: NameArgument) -> None:
    """Forget a context. The mesh, and the files that it names, stay."""

    def work() -> None:
        from bridge_cli.context import ContextFile, load_contexts, save_contexts

        file = load_contexts()
        file.named(name)
        left = {other: one for other, one in file.contexts.items() if other != name}
        save_contexts(ContextFile("" if file.current == name else file.current, left))
        say(f"The context {name} is forgotten.")

    guarded(work)


def _line(name: str, current: bool) -> str:
    return (
        f"Context {name}, the current one" if current else f"Context {name} (`bridgectl context use {name}`)"
    )
