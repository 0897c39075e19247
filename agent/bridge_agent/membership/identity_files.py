"""The node's key and certificate, and the CAs that it trusts, on disk, replaced together.

`identity` is a link to a folder that holds one matching set; a new set is written beside it and
the link is renamed over, so that a crash never leaves a key with another key's certificate.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from bridge_core.files import sync_folder, write_atomically


def write_identity(
    link: Path, *, key: bytes, certificate_chain: bytes, trust_bundle: bytes, issuers: bytes
) -> None:
    """Makes `link` hold exactly this set; the former set is removed.

    Raises:
        OSError: the folder is missing, not writable or full; the former set stays.
    """
    folder = link.with_name(f".{link.name}-{secrets.token_hex(4)}")
    folder.mkdir(mode=0o700)
    try:
        write_atomically(folder / "key.pem", key)
        write_atomically(folder / "cert.pem", certificate_chain)
        write_atomically(folder / "ca.pem", trust_bundle)
        write_atomically(folder / "issuers.pem", issuers)
        former = _target(link)
        temporary = link.with_name(f"{folder.name}.link")
        temporary.symlink_to(folder.name)
        temporary.replace(link)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    sync_folder(link.parent)
    if former is not None:
        shutil.rmtree(former, ignore_errors=True)


def remove_identity(link: Path) -> None:
    """Removes the set; harmless when there is none. Raises OSError."""
    former = _target(link)
    if former is None:
        return
    link.unlink()
    shutil.rmtree(former)
    sync_folder(link.parent)


def _target(link: Path) -> Path | None:
    return link.parent / os.readlink(link) if link.is_symlink() else None  # noqa: PTH115 - kept relative
