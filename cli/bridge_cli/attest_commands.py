"""`bridgectl attest`: what a quote of SGX or TDX proves. Asks no registry and no network."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bridge_cli.output import JsonOption, print_json
from bridge_core.command.guard import guarded
from bridge_core.errors import BridgeError, Fatal

if TYPE_CHECKING:
    from bridge_core.attestation import AttestationPolicy

group = typer.Typer(
    help="Quotes of trusted execution (SGX, TDX), verified without a network.", no_args_is_help=True
)


class NotTrusted(BridgeError):
    """A quote that proves something, and not what a policy asks for."""


@group.command("verify")
def verify_command(
    *,
    quote: Annotated[Path, typer.Argument(help="The quote, as the hardware's service made it.")],
    collateral: Annotated[
        Path, typer.Option("--collateral", help="What it is verified by, JSON, as a PCCS serves it.")
    ],
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="A file of AttestationPolicy documents; one has to take the quote."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="The public key (PEM) that the quote has to be bound to.")
    ] = None,
    nonce: Annotated[
        str | None, typer.Option("--nonce", help="With --key: what was asked with, 64 hex digits.")
    ] = None,
    at: Annotated[
        datetime | None, typer.Option("--at", help="Verify as of this time (UTC) instead of now.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a quote, say what it is of, and whether a policy trusts it. Exits 1 when not."""

    def work() -> None:
        from bridge_cli.attestation import attestation_rules, quotes

        if (key is None) != (nonce is None):
            raise Fatal("--key and --nonce go together", hint="give both, or neither")
        now = time.time() if at is None else at.replace(tzinfo=UTC).timestamp()
        read = _read(quote, quotes.MAX_QUOTE_BYTES), _read(collateral, quotes.MAX_COLLATERAL_BYTES)
        evidence = quotes.verify(*read, now)
        bound = None if key is None or nonce is None else _bound(key, nonce)
        checked = policy is not None or bound is not None
        policies = _policies(policy) if policy is not None else []
        refused = ""
        if policy is not None:
            refused = attestation_rules.refusal(evidence, policies, bound)
        elif bound is not None and bound != evidence.report_data:
            refused = "its report data is not of this key and this nonce"
        said = {
            "kind": evidence.kind,
            **evidence.measurements,
            "tcb": evidence.tcb,
            "advisories": list(evidence.advisories),
            "debug": evidence.debug,
            "report_data": evidence.report_data.hex(),
        }
        if as_json:
            print_json({**said, "trusted": not refused if checked else None, "reason": refused})
        else:
            for name, value in said.items():
                shown = ", ".join(value) if isinstance(value, list) else str(value)
                typer.echo(f"{name:12} {shown or '-'}")
        if refused:
            raise NotTrusted(f"the quote is not trusted: {refused}")
        if not as_json:
            typer.echo("The quote is trusted." if checked else "The quote is genuine; no policy was asked.")

    guarded(work)


@group.command("nonce")
def nonce_command() -> None:
    """Print what a node is asked for its quote with: 32 random bytes, used once."""
    import secrets

    from bridge_core.attestation_binding import NONCE_BYTES

    typer.echo(secrets.token_hex(NONCE_BYTES))


@group.command("release")
def release_command(
    *,
    quote: Annotated[Path, typer.Argument(help="The node's quote, of its `bridge-agent attest quote`.")],
    collateral: Annotated[
        Path, typer.Option("--collateral", help="What it is verified by, JSON, as a PCCS serves it.")
    ],
    policy: Annotated[
        Path,
        typer.Option("--policy", help="A file of AttestationPolicy documents; one has to take the quote."),
    ],
    key: Annotated[Path, typer.Option("--key", help="The node.pub that came with the quote.")],
    nonce: Annotated[str, typer.Option("--nonce", help="What the node was asked with, 64 hex digits.")],
    secret: Annotated[Path, typer.Option("--secret", help="A file with what is released.", dir_okay=False)],
    out: Annotated[Path, typer.Option("--out", help="Where it is written, for that node alone.")],
    at: Annotated[
        datetime | None, typer.Option("--at", help="Verify as of this time (UTC) instead of now.")
    ] = None,
) -> None:
    """Release a key to the node whose quote a policy trusts: encrypted to the key that the quote is of.

    Exits 1 when it is not trusted, and writes nothing.
    """

    def work() -> None:
        from bridge_cli.attestation import quotes
        from bridge_cli.attestation.releasing import release
        from bridge_core.attestation_binding import MAX_SECRET_BYTES
        from bridge_core.files import write_atomically

        now = time.time() if at is None else at.replace(tzinfo=UTC).timestamp()
        read = _read(quote, quotes.MAX_QUOTE_BYTES), _read(collateral, quotes.MAX_COLLATERAL_BYTES)
        evidence = quotes.verify(*read, now)
        question = _der(key), _nonce(nonce)
        sealed = release(evidence, _policies(policy), *question, _read(secret, MAX_SECRET_BYTES))
        try:
            write_atomically(out, sealed, mode=0o600)
        except OSError as fault:
            raise Fatal(f"cannot write {out}: {fault.strerror}", hint="--out names another file") from fault
        typer.echo(f"{out}: opened by the node of that quote alone (`bridge-agent attest open`)")

    guarded(work)


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as fault:
        raise Fatal(f"cannot read {path}: {fault.strerror}") from fault


def _bound(key: Path, nonce: str) -> bytes:
    from bridge_core.attestation_binding import report_data

    return report_data(_der(key), _nonce(nonce))


def _der(key: Path) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    try:
        public = load_pem_public_key(_read(key, 65_536))
    except ValueError as fault:
        raise Fatal(f"{key} holds no public key: {fault}") from fault
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _nonce(text: str) -> bytes:
    from bridge_core.attestation_binding import NONCE_BYTES

    try:
        nonce = bytes.fromhex(text)
    except ValueError:
        nonce = b""
    if len(nonce) != NONCE_BYTES:
        raise Fatal(f"--nonce: a nonce has {NONCE_BYTES} bytes, {2 * NONCE_BYTES} hex digits")
    return nonce


def _policies(path: Path) -> list[AttestationPolicy]:
    from bridge_core.config import load
    from bridge_core.config.convert import attestation_policy
    from bridge_core.config.documents import AttestationPolicyDocument

    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as fault:
        raise Fatal(f"cannot read {path}: {fault}") from fault
    loaded = load([(str(path), text)])
    if loaded.faults:
        raise Fatal("; ".join(map(str, loaded.faults)), hint=f"correct {path}")
    parsed = [one.parsed for one in loaded.documents]
    found = [attestation_policy(one) for one in parsed if isinstance(one, AttestationPolicyDocument)]
    if not found:
        raise Fatal(f"{path} holds no AttestationPolicy", hint="docs/operations/encryption.md shows one")
    return found
