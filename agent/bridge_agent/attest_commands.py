"""`bridge-agent attest`: what this machine has of trusted execution, a quote of it, a key released to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bridge_core.command.guard import guarded
from bridge_core.errors import Fatal

attest = typer.Typer(help="Say what this machine has of trusted execution (TDX, SGX), and use it.")

NonceOption = Annotated[
    str, typer.Option("--nonce", help="What whoever has the key asks with, 64 hex digits.")
]
FolderOption = Annotated[
    Path, typer.Option("--to", help="Where key pair and quote lie; in memory, as /run is.", file_okay=False)
]


@attest.callback(invoke_without_command=True)
def attest_command(context: typer.Context) -> None:
    """Say what this machine has of trusted execution (TDX, SGX)."""
    if context.invoked_subcommand is not None:
        return
    from bridge_agent.attest_report import trusted_execution

    for line in trusted_execution():
        typer.echo(line)


@attest.command("quote")
def quote_command(*, nonce: NonceOption, folder: FolderOption) -> None:
    """Make a key pair here, and have the hardware quote it: node.key, node.pub and quote, in a folder."""

    def work() -> None:
        from bridge_agent.attest_quote import make

        for path in make(folder, _bytes(nonce)):
            typer.echo(path)

    guarded(work)


@attest.command("open")
def open_command(
    *,
    released: Annotated[Path, typer.Argument(help="What `bridgectl attest release` wrote.", dir_okay=False)],
    key: Annotated[Path, typer.Option("--key", help="The node.key that the quote was made of.")],
    nonce: NonceOption,
) -> None:
    """Print a key that was released to this node, as it is: an `exec:` source of a key, or for a file."""

    def work() -> None:
        from bridge_core.attestation_binding import opened

        try:
            sealed, pem = released.read_bytes(), key.read_bytes()
        except OSError as fault:
            raise Fatal(f"cannot read {fault.filename}: {fault.strerror}") from fault
        sys.stdout.buffer.write(opened(sealed, pem, _bytes(nonce)))

    guarded(work)


def _bytes(nonce: str) -> bytes:
    try:
        return bytes.fromhex(nonce)
    except ValueError as fault:
        raise Fatal("--nonce is 64 hex digits") from fault
