"""`bridgectl models sign`: signs a model (OpenSSF Model Signing), here, and keeps the signature with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bridge_cli.models_commands import ModelName, NodesOption
from bridge_cli.output import JsonOption, print_json, say, say_aside
from bridge_cli.where import Where, asks_registry
from bridge_core.command.guard import guarded
from bridge_core.command.plain_text import one_line
from bridge_core.errors import Fatal

if TYPE_CHECKING:
    from bridge_cli.signing import Signed

KeyOption = Annotated[
    Path | None,
    typer.Option("--key", help="The private key, PEM: P-256, P-384 or P-521, readable by you alone (0600)."),
]
CertificateOption = Annotated[
    Path | None,
    typer.Option("--certificate", help="Of that key, PEM, and after it those between it and its CA."),
]
SignatureOption = Annotated[
    Path | None,
    typer.Option("--signature", help="Keep this one, which `model_signing` made, in place of making one."),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--manifest-out", help="Write what is to be signed into this folder, and nothing else."),
]


@asks_registry
def sign_command(
    *,
    name: ModelName,
    key: KeyOption = None,
    certificate: CertificateOption = None,
    signature: SignatureOption = None,
    manifest_out: OutOption = None,
    nodes: NodesOption = None,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Sign a model where nodes have it (all of them without --nodes), with a key that stays on this machine.

    The signature is a part of the model from then on: it has another digest, and every pull, push and copy of
    it brings the signature along. With --manifest-out and --signature the key can be anywhere else: sign that
    folder by `model_signing sign`.
    """

    def work() -> list[Signed]:
        import asyncio

        from bridge_cli import signing
        from bridge_cli.models_command import snapshot_of

        if sum(one is not None for one in (key, signature, manifest_out)) != 1:
            raise Fatal(
                "name one of --key, --signature and --manifest-out", hint="`--help` says what they do"
            )
        if certificate is not None and key is None:
            raise Fatal("--certificate goes with --key", hint="`--help` says what they do")

        async def ask() -> list[Signed]:
            to = where.access()
            snapshot = await snapshot_of(to)
            there = await signing.signable(to, snapshot, name, nodes or [])
            if manifest_out is not None:
                signing.write_out(there, manifest_out)
                return []
            if signature is not None:
                bundle = signing.read_signature(there, signature)
            else:
                assert key is not None  # noqa: S101 - one of three, as was counted
                bundle = signing.make_signature(there, key, certificate)
            return await signing.bring(to, snapshot, there, bundle)

        return asyncio.run(ask())

    done = guarded(work)
    if manifest_out is not None:
        say(
            f"{manifest_out / 'manifest.json'} is what is to be signed, where the key is: "
            f"model_signing sign key {manifest_out} --private_key KEY --signature model.sig"
        )
        say_aside(f"Then `bridgectl models sign {name} --signature model.sig`.")
        return
    if as_json:
        print_json(done)
    else:
        for one in done:
            said = f"failed: {one.fault}" if one.fault else f"signed; its digest is {one.digest[:12]} now"
            say(one_line(f"{one.node}: {said}"))
    failed = sum(bool(one.fault) for one in done)
    if failed:
        say_aside(f"{failed} of {len(done)} nodes failed.")
        raise typer.Exit(1)


def register(group: typer.Typer) -> None:
    """Adds the command to the commands of `bridgectl models`."""
    group.command("sign")(sign_command)
