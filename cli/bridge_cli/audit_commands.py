"""`bridgectl audit`: check nodes' audit logs, prove and trace requests, export and follow records."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from bridge_cli.output import JsonOption, print_json, say, say_aside
from bridge_cli.where import Where, asks_registry
from bridge_core.command.guard import guarded
from bridge_core.command.plain_text import one_line
from bridge_core.command.program import program
from bridge_core.errors import BridgeError, Fatal

if TYPE_CHECKING:
    from bridge_cli.audit_verifying import Verdict
    from bridge_core.audit.proofs import Proof
    from bridge_core.audit.vouchers import Voucher

audit = program("What happened in the mesh, on record: check it, prove it, export it.")

_LONGEST: Final = 4000  # characters of a line

NodeOption = Annotated[str | None, typer.Option("--node", help="Only this node's log.")]
SinceOption = Annotated[
    str | None, typer.Option("--since", help="From then on: 2026-11-30, 2026-11-30T12:00, 90m, 12h, 7d.")
]
RequestId = Annotated[str, typer.Argument(help="X-Request-Id of the answer, or of the client's request.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the command `bridgectl`."""
    app.add_typer(audit, name="audit")


@audit.command("verify")
@asks_registry
def verify_command(
    *,
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="A log's folder on this machine (<state>/audit/log); without it nodes are asked.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    node: NodeOption = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", help="Keep what nodes sent in this folder, a log a node.")
    ] = None,
    seal_key: Annotated[
        str | None,
        typer.Option(
            "--seal-key",
            help="Opens the keyring beside FOLDER, where it is no file there: credential:NAME, file:/PATH, "
            "exec:/PROGRAM ARGUMENTS.",
        ),
    ] = None,
    keyring: Annotated[
        Path | None,
        typer.Option(
            "--keyring", help="The folder of the keyring of FOLDER's records.", exists=True, file_okay=False
        ),
    ] = None,
    tsa_root: Annotated[
        Path | None,
        typer.Option(
            "--tsa-root",
            help="Certificates (PEM) of time-stamp authorities that you trust: checks who stamped the log.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    where: Where,
) -> None:
    """Name every record that was edited, dropped, reordered, added or cut off, and every forked log.

    Exits 1 when there is one. Without FOLDER each node's log is fetched and checked here, against what the
    other nodes have seen of it.
    """

    def work() -> int:
        import asyncio

        from bridge_cli.audit_stamps import roots_in
        from bridge_cli.audit_verifying import verify

        roots = roots_in(tsa_root) if tsa_root is not None else []
        if folder is not None:
            from bridge_cli.audit_keyring import sealer_beside

            sealer, why = sealer_beside(folder, keyring, seal_key)
            if why:
                say_aside(f"bridgectl: sealed records are not read: {why}")
            found = {str(folder): verify(folder, sealer=sealer, stamp_roots=roots)}
            silent: dict[str, str] = {}
        else:
            from bridge_cli.audit_fetching import fetched

            found, silent = asyncio.run(fetched(where.access(), node, keep, roots))
            if not found and not silent:
                raise BridgeError("no node was asked", hint="`bridgectl nodes` lists them")
        if as_json:
            print_json({"logs": found, "silent": silent})
        else:
            for name, verdict in found.items():
                _print_verdict(name, verdict)
            for name, why in sorted(silent.items()):
                _say(f"! {name}: its log was not checked: {why}")
        return 1 if silent or any(verdict.faults for verdict in found.values()) else 0

    raise SystemExit(guarded(work))


@audit.command("prove")
@asks_registry
def prove_command(
    *,
    request_id: RequestId,
    folder: Annotated[
        Path, typer.Option("--to", help="Where the proofs are written.", file_okay=False)
    ] = Path(),
    where: Where,
) -> None:
    """Write a request's records with the proof that they are on record: a file a record, checked by anybody.

    The files are C2SP tlog-proofs. Beside them each node's certificate vouches for the key of its log;
    docs/operations/audit.md says how a stranger checks both.
    """

    def work() -> None:
        import asyncio

        from bridge_cli.audit_fetching import proofs, vouchers

        found, silent = asyncio.run(proofs(where.access(), request_id))
        for name, why in sorted(silent.items()):
            say_aside(f"bridgectl: {name} is left out: {why}")
        if not found:
            raise Fatal(
                f"no node has a record of a request {request_id}",
                hint="records are signed for within a second or two; the id is in X-Request-Id",
            )
        with _writing_into(folder):
            _write_proofs(folder, found)
        told, untold = asyncio.run(vouchers(where.access()))
        with _writing_into(folder):
            _write_vouchers(folder, {name for name, _ in found}, told, untold)

    guarded(work)


@audit.command("check")
def check_command(
    *,
    proof: Annotated[
        Path, typer.Argument(help="What `bridgectl audit prove` wrote.", exists=True, dir_okay=False)
    ],
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="A verifier key that you trust: the log's, or a cosigner's. Repeat it."),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca",
            help="The mesh's root (PEM): trust the key that the certificate beside the proof vouches for.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Check a proof, alone: without the mesh, and against the keys, or the root, that you trust."""

    def work() -> int:
        from bridge_core.audit.notes import PublicKey, cosigned_at, signed_by
        from bridge_core.audit.proofs import read_proof

        read = read_proof(proof.read_bytes())
        read.check()
        trusted = [PublicKey.parse(one) for one in key or ()]
        if ca is not None:
            from bridge_cli import audit_vouching

            name = proof.name.removesuffix(".tlog-proof").rpartition("-")[0]
            vouched, said = audit_vouching.vouched_key(
                audit_vouching.read(proof.parent, name), ca.read_bytes()
            )
            if said.origin != read.head.origin:
                raise Fatal(f"the certificate is {said.origin}'s, and the log is {read.head.origin}'s")
            say(f"the mesh's CA certifies {said.origin}, which vouched for the key of its log")
            trusted.append(vouched)
        by = [one.name for one in trusted if signed_by(read.note, one)]
        by += [one.name for one in trusted if cosigned_at(read.note, one) is not None]
        say(read.extra.record)
        say(f"is record {read.index} of {read.head.origin}, among {read.head.size}")
        if not trusted:
            named = "; ".join(read.extra.keys)
            say(f"! whose signature that is was not checked: name keys that you trust (it says: {named})")
        elif not by:
            say("! none of these keys signed it")
        else:
            say(f"signed by {', '.join(by)}")
        return 0 if by else 1

    raise SystemExit(guarded(work))


@audit.command("trace")
@asks_registry
def trace_command(*, request_id: RequestId, as_json: JsonOption = False, where: Where) -> None:
    """Say what is on record of a request at every node that it passed, in their order."""

    def work() -> None:
        import asyncio

        from bridge_cli.audit_fetching import traced, unconfirmed

        hops, silent = asyncio.run(traced(where.access(), request_id))
        for name, why in sorted(silent.items()):
            say_aside(f"bridgectl: {name} is left out: {why}")
        if not hops:
            raise Fatal(f"no node has a record of a request {request_id}")
        if as_json:
            print_json(hops)
            return
        for hop in hops:
            _print_hop(hop)
        for line in unconfirmed(hops, silent):
            _say(f"! {line}")

    guarded(work)


@audit.command("export")
@asks_registry
def export_command(
    *,
    ocsf: Annotated[bool, typer.Option("--ocsf", help="OCSF: API Activity, a JSON object a line.")] = False,
    ecs: Annotated[bool, typer.Option("--ecs", help="Elastic Common Schema, a JSON object a line.")] = False,
    cef: Annotated[bool, typer.Option("--cef", help="Common Event Format, a line a record.")] = False,
    node: NodeOption = None,
    since: SinceOption = None,
    where: Where,
) -> None:
    """Print records, those of each node in their order; without a format as they are on record (JSON)."""

    def work() -> None:
        import asyncio
        import sys

        from bridge_cli.audit_fetching import records_of
        from bridge_core.audit.exports import FORMATS, moment

        chosen = [name for name, wanted in (("ocsf", ocsf), ("ecs", ecs), ("cef", cef)) if wanted]
        if len(chosen) > 1:
            raise Fatal("one format at a time: --ocsf, --ecs or --cef")
        render = FORMATS[chosen[0] if chosen else "json"]
        begin = moment(since) if since else 0.0

        async def print_all() -> None:
            async for name, index, entry in records_of(where.access(), node, begin):
                line = render(name, index, entry)
                if line:
                    sys.stdout.write(line + "\n")

        asyncio.run(print_all())

    guarded(work)


@audit.command("tail")
@asks_registry
def tail_command(
    *,
    node: NodeOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as records come.")] = False,
    where: Where,
) -> None:
    """Print each node's last records, a JSON object a line."""

    def work() -> None:
        import asyncio
        import sys

        from bridge_cli.audit_fetching import last_records

        async def print_all() -> None:
            async for name, index, entry in last_records(where.access(), node, follow=follow):
                sys.stdout.write(f"{name} {index} {entry}\n")
                sys.stdout.flush()

        asyncio.run(print_all())

    guarded(work)


@contextlib.contextmanager
def _writing_into(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise Fatal(
            f"cannot write into {folder}: {fault.strerror}", hint="--to names another folder"
        ) from fault


def _write_proofs(folder: Path, found: list[tuple[str, Proof]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, proof in found:
        path = folder / f"{name}-{proof.index}.tlog-proof"
        path.write_bytes(proof.text)
        say(f"{path}: record {proof.index} of {proof.head.origin}, among {proof.head.size}")
        for key in proof.extra.keys:
            say(f"  {key}")


def _write_vouchers(
    folder: Path, names: set[str], told: Mapping[str, Voucher], untold: Mapping[str, str]
) -> None:
    """What vouches for the key of each node's log; a node that has said nothing of it is named, with why."""
    from bridge_cli import audit_vouching

    for name in sorted(names):
        if name not in told:
            why = untold.get(name, "the registry does not name it any more")
            say_aside(f"bridgectl: {name} does not vouch for the key of its log: {why}")
            continue
        for path in audit_vouching.write(folder, name, told[name]):
            say(str(path))


def _say(text: str) -> None:
    """Prints a line that has words of nodes and clients in it."""
    say(one_line(text, _LONGEST))


def _print_verdict(name: str, verdict: Verdict) -> None:
    _say(f"{name}: {verdict.origin}, {verdict.size} records signed for, {verdict.kept} there")
    for line in verdict.said:
        _say(f"  {line}")
    if verdict.unsigned:
        _say(f"  {verdict.unsigned} more records are not signed for yet")
    if verdict.cosigned:
        _say(f"  the first {verdict.cosigned_size} are vouched for by {', '.join(sorted(verdict.cosigned))}")
    elif verdict.size:
        _say("  nobody else is known to vouch for it: who has its key could have rewritten it")
    if verdict.stamped_size:
        _say(f"  the first {verdict.stamped_size} were there at {verdict.stamped_at}: {verdict.stamped_by}")
    for fault in verdict.faults:
        at = f" ({fault.at})" if fault.at else ""
        _say(f"! {fault.what}: {fault.detail}{at}")
    _say("  no faults" if not verdict.faults else f"! {len(verdict.faults)} faults")


def _print_hop(hop: dict[str, Any]) -> None:
    via = f", forwarded by {hop['via']}" if hop.get("via") else ""
    who = f"{hop.get('principal', '')} from {hop.get('address', '?')}{via}"
    _say(f"{hop['recorded_by']} (record {hop['index']}): {who}")
    took = f"{hop.get('duration_ms', 0)} ms, first byte after {hop.get('first_ms', 0)} ms"
    _say(f"  {hop.get('method')} {hop.get('path')}: {hop.get('outcome')} ({hop.get('status')}), {took}")
    for label in ("model", "digest", "route", "backend", "instance", "rule", "input"):
        if hop.get(label):
            _say(f"  {label} {hop[label]}")
    for attempt in hop.get("failed_attempts", []):
        _say(f"  failed: {attempt}")
