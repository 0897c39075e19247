"""The admin's contexts: which registries there are, and as whom to call them, each under a name.

They are kept in one file, `~/.config/bridge/context.json` unless BRIDGE_CONTEXT names another. It holds
paths, no keys.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from bridge_core.errors import Fatal
from bridge_core.files import write_atomically


class Context(msgspec.Struct, frozen=True):
    """One mesh as an admin reaches it.

    Attributes:
        registries: host:port of each registry; the first that answers is asked.
        ca: The mesh's CA certificate.
        cert: An admin's certificate.
        key: Its key.
        state: Where `bridgectl up` keeps this mesh, if it does, on this machine.
    """

    registries: tuple[str, ...]
    ca: str
    cert: str
    key: str
    state: str = ""


class ContextFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of them; `current` is the one that commands use unless told otherwise; empty: none."""

    current: str = ""
    contexts: dict[str, Context] = {}

    def named(self, name: str) -> Context:
        """The context of that name.

        Raises:
            Fatal: there is none; the message lists those there are.
        """
        found = self.contexts.get(name)
        if found is None:
            there = ", ".join(sorted(self.contexts)) or "there is none yet"
            raise Fatal(f"no context {name!r} in {context_path()}", hint=f"contexts: {there}")
        return found


def context_path() -> Path:
    """Where the file lies."""
    if given := os.environ.get("BRIDGE_CONTEXT"):
        return Path(given)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "bridge/context.json"


def load_contexts() -> ContextFile:
    """What the file says; without one, no contexts.

    Raises:
        Fatal: it cannot be read.
    """
    path = context_path()
    try:
        return msgspec.json.decode(path.read_bytes(), type=ContextFile)
    except FileNotFoundError:
        return ContextFile()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise Fatal(f"cannot read {path}: {fault}", hint="remove it, and set the contexts anew") from fault


def save_contexts(file: ContextFile) -> None:
    """Writes it, readable by its owner alone.

    Raises:
        Fatal: it cannot be written.
    """
    path = context_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n", mode=0o600)
    except OSError as fault:
        raise Fatal(f"cannot write {path}: {fault.strerror}", hint="BRIDGE_CONTEXT names another") from fault


def put_context(name: str, context: Context, *, use: bool) -> ContextFile:
    """Keeps a context under a name; it becomes the current one with `use`, or where there is none.

    Returns:
        The file as it was before.

    Raises:
        Fatal: it cannot be read or written.
    """
    before = load_contexts()
    current = name if use or not before.current else before.current
    after = ContextFile(current, {**before.contexts, name: context})
    if after != before:
        save_contexts(after)
    return before
