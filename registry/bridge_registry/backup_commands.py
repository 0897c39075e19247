"""`bridge-registry backup|restore`: the control plane into one sealed file, and back."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bridge_core.command.guard import guarded
from bridge_core.command.labels import listed
from bridge_core.errors import Fatal
from bridge_core.hardening import keep_memory_private
from bridge_core.sealing.key_source import KeySource
from bridge_core.systemd.manager import VARIABLES_FOLDER
from bridge_registry.systemd import STATE, VARIABLES

if TYPE_CHECKING:
    from bridge_registry.backup.backup_rules import Backup

_ETCD: Final = "BRIDGE_REGISTRY_ETCD"
StateDir = Annotated[Path, typer.Option("--state-dir", help="The registry's state folder.")]
BackupKey = Annotated[
    str,
    typer.Option(
        "--backup-key",
        envvar="BRIDGE_BACKUP_KEY",
        help="What the file is sealed with: file:/PATH (made at the first backup), credential:NAME, or "
        "exec:/PROGRAM ARGUMENTS.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands to the command `bridge-registry`."""
    app.command("backup")(backup_command)
    app.command("restore")(restore_command)


def backup_command(
    *,
    file: Annotated[Path, typer.Argument(help="Where to; what is there is replaced, whole or not at all.")],
    backup_key: BackupKey,
    state_dir: StateDir = STATE,
    etcd: Annotated[
        str,
        typer.Option(
            "--etcd", envvar=_ETCD, help="Endpoints; without, those of the service on this machine."
        ),
    ] = "",
) -> None:
    """Write CA, nodes, clients, tokens, revocations, configuration and its history to one sealed file."""
    keep_memory_private()

    def work() -> None:
        source = KeySource.parse(backup_key)
        made = _make_key(source)
        from bridge_registry.backup import backup_rules as rules

        backup = _taken(state_dir, etcd or _of_the_service())
        content = rules.content_of(backup)
        from bridge_core.files import write_atomically
        from bridge_core.sealing.framing import SALT_BYTES

        sealed = rules.seal(content, source.read(os.environ), os.urandom(SALT_BYTES))
        try:
            write_atomically(file, sealed)
        except OSError as fault:
            raise Fatal(f"cannot write {file}: {fault.strerror or fault}") from fault
        typer.echo(f"{file}: {_summary(backup)}; {len(sealed)} bytes, content {rules.digest_of(content)}")
        if made:
            typer.echo(f"Made its key: {made}. Keep a copy elsewhere: without it no backup opens.")
        if "kek" not in backup.files:
            typer.echo(
                "The key that opens the registry's keyring is kept elsewhere, so it is not in the file."
            )

    guarded(work)


def restore_command(
    *,
    file: Annotated[Path, typer.Argument(help="What `backup` wrote.")],
    backup_key: BackupKey,
    state_dir: StateDir = STATE,
    replace: Annotated[
        bool, typer.Option("--replace", help="Move the state that is there aside, into the same folder.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether the file opens, and what is in it.")
    ] = False,
) -> None:
    """Put a backup into the state folder of a registry that does not run.

    At its next start an etcd that is empty is filled with what the backup holds; one that holds the mesh
    stays as it is.
    """
    keep_memory_private()

    def work() -> None:
        import time

        from bridge_registry.backup import backup_rules as rules
        from bridge_registry.backup.placing import place

        content = rules.unseal(_read(file), KeySource.parse(backup_key).read(os.environ))
        backup = rules.decode(content)
        typer.echo(f"{file}: {_summary(backup)}; content {rules.digest_of(content)}")
        if check:
            return
        for line in place(backup, state_dir, replace=replace, now=time.time()):
            typer.echo(line)
        typer.echo("Next: start etcd, store guard and registry. An empty etcd is filled by itself.")

    guarded(work)


def _taken(state_dir: Path, etcd: str) -> Backup:
    import asyncio
    import time
    from importlib.metadata import version

    from bridge_core.store.etcd import EtcdStore
    from bridge_registry.backup.taking import take
    from bridge_registry.enrolment.pki_files import Pki

    endpoints = listed(etcd)
    if not endpoints:
        raise Fatal("no etcd is named", hint=f"--etcd https://HOST:2379, or {_ETCD}")
    pki = Pki(state_dir / "pki", "any")

    async def work() -> Backup:
        store = EtcdStore(endpoints, pki.etcd_client("registry"))
        try:
            return await take(pki.folder, store, version=version("deepseek-ollama-bridge"), now=time.time())
        finally:
            await store.close()

    return asyncio.run(work())


def _make_key(source: KeySource) -> str:
    """Makes a key file that is not there yet; returns its path where it did."""
    from bridge_core.files import write_atomically
    from bridge_core.sealing.framing import KEY_BYTES

    path = Path(source.value)
    if source.kind != "file" or path.exists() or path.is_symlink():
        return ""
    try:
        write_atomically(path, os.urandom(KEY_BYTES))
    except OSError as fault:
        raise Fatal(f"cannot make the key {path}: {fault.strerror or fault}") from fault
    return str(path)


def _of_the_service() -> str:
    """The endpoints that the service on this machine is told; empty where there is none."""
    try:
        lines = (VARIABLES_FOLDER / VARIABLES).read_text().splitlines()
    except OSError:
        return ""
    found = [line.partition("=")[2] for line in lines if line.startswith(f"{_ETCD}=")]
    return "".join(shlex.split(found[-1])) if found else ""


def _read(file: Path) -> bytes:
    from bridge_registry.backup.backup_rules import MAX_FILE_BYTES

    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except OSError as fault:
        raise Fatal(f"cannot read {file}: {fault.strerror}") from fault
    if len(data) > MAX_FILE_BYTES:
        raise Fatal(f"{file} is longer than {MAX_FILE_BYTES} bytes, which no backup is")
    return data


def _summary(backup: Backup) -> str:
    from datetime import UTC, datetime

    from bridge_core import keyspace

    made = datetime.fromtimestamp(backup.made, UTC).strftime("%Y-%m-%d %H:%M:%S")
    kinds = {
        "nodes": keyspace.NODES,
        "clients": keyspace.CLIENTS,
        "join tokens": keyspace.TOKENS,
        "revocations": keyspace.REVOKED,
    }
    counts = [
        f"{sum(key.startswith(prefix) for key in backup.records)} {what}" for what, prefix in kinds.items()
    ]
    revisions = sum(key.startswith(keyspace.REVISIONS) for key in backup.history)
    return f"mesh {backup.trust_domain} at {made} UTC, {', '.join(counts)}, {revisions} revisions"
