"""`bridgectl backup`, and what `bridgectl restore FILE` does: both run beside the registry's own files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bridge_core.command.guard import guarded
from bridge_core.errors import Fatal

if TYPE_CHECKING:
    from bridge_cli.layout import MeshFile

_SERVICE: Final = Path("/var/lib/bridge/registry")
BackupKey = Annotated[
    str | None,
    typer.Option(
        "--backup-key",
        envvar="BRIDGE_BACKUP_KEY",
        help="What the file is sealed with: file:/PATH (made at the first backup), credential:NAME, or "
        "exec:/PROGRAM ARGUMENTS.",
    ),
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        envvar="BRIDGE_STATE_DIR",
        help="Of a mesh that `bridgectl up` made. Without, the registry's service on this machine, "
        "/var/lib/bridge/registry, where there is one.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the command to the command `bridgectl`."""
    app.command("backup")(backup_command)


def backup_command(
    *,
    file: Annotated[Path, typer.Argument(help="Where to; what is there is replaced, whole or not at all.")],
    backup_key: BackupKey = None,
    state_dir: StateDir = None,
) -> None:
    """Write the control plane to one sealed file, on a registry's machine. Nothing is stopped for it."""

    def work() -> int:
        registry, mesh = registry_state(state_dir)
        argv = [str(file), "--backup-key", _named(backup_key), "--state-dir", str(registry)]
        return _run("backup", [*argv, "--etcd", ",".join(mesh.etcd.endpoints)] if mesh else argv)

    raise SystemExit(guarded(work))


def restore_file(
    file: Path, backup_key: str | None, state_dir: Path | None, *, replace: bool, check: bool
) -> int:
    """Puts a backup into the state folder of this machine's registry; returns the exit status.

    Raises:
        Fatal: no key is named, or the mesh's file cannot be read.
    """
    registry, _ = registry_state(state_dir)
    argv = [str(file), "--backup-key", _named(backup_key), "--state-dir", str(registry)]
    flags = [flag for flag, given in (("--replace", replace), ("--check", check)) if given]
    return _run("restore", [*argv, *flags])


def registry_state(given: Path | None) -> tuple[Path, MeshFile | None]:
    """The state folder of the registry on this machine, and the mesh that `up` keeps there, if it does.

    Raises:
        Fatal: mesh.json cannot be read.
    """
    from bridge_cli.access import default_state_dir, read_mesh

    state = (given or default_state_dir()).absolute()
    if given is None and _is_there(_SERVICE / "pki"):
        return _SERVICE, None
    path = state / "mesh.json"
    return state / "registry", read_mesh(path) if path.exists() else None


def _named(key: str | None) -> str:
    if not key:
        raise Fatal(
            "a backup holds the mesh's CA, so it is sealed: name the key",
            hint="--backup-key file:/root/bridge-backup.key makes one; keep a copy elsewhere",
        )
    return key


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:  # it is, and who asks is not root: the command says so
        return True


def _run(verb: str, argv: list[str]) -> int:
    import subprocess

    from bridge_cli.parts import command

    return subprocess.run([command("bridge-registry"), verb, *argv], check=False).returncode
