"""The keyring that the sealed records of a log's folder open with."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bridge_core.errors import Fatal
from bridge_core.sealing import Sealer, open_sealer
from bridge_core.sealing.key_source import key_source
from bridge_core.sealing.sealer import SealFolder

_BESIDE: Final = ("seal", "pki")  # an agent's, a registry's


def sealer_beside(log: Path, keyring: Path | None, seal_key: str | None) -> tuple[Sealer | None, str]:
    """What opens the records of the log at `<state dir>/audit/log`, or None and why not.

    Args:
        log: The log's folder.
        keyring: The folder of its keyring; None: that of the state dir that the log lies in.
        seal_key: Where the key comes from that opens the keyring; None: a file beside it.

    Raises:
        Fatal: `seal_key` names no key.
    """
    source = key_source(seal_key)
    folders = [keyring] if keyring else [log.absolute().parent.parent / name for name in _BESIDE]
    for folder in folders:
        where = SealFolder(folder, source)
        if where.keyring.exists():
            try:
                return open_sealer(where), ""
            except Fatal as fault:
                return None, fault.message
    # Only said where it was asked for: most logs are not sealed.
    return None, f"there is no keyring in {keyring}" if keyring else ""
