"""A key pair that exists on this machine alone, and the hardware's quote of it: TDX, by configfs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from bridge_agent.attest_report import TSM, trusted_execution
from bridge_core.attestation_binding import NONCE_BYTES, report_data
from bridge_core.errors import Fatal
from bridge_core.files import write_atomically

_ENTRY: Final = "bridge"
_MOST: Final = 64 * 1024


def make(folder: Path, nonce: bytes, root: Path = Path("/")) -> list[Path]:
    """Writes node.key, node.pub and quote; the paths of them.

    Args:
        folder: Where.
        nonce: What was asked with.
        root: Of the file system that the hardware is looked for in.

    Raises:
        Fatal: this machine makes no quotes, or the nonce is none; the message says which.
    """
    if len(nonce) != NONCE_BYTES:
        raise Fatal(f"a nonce has {NONCE_BYTES} bytes: {2 * NONCE_BYTES} hex digits")
    reports = root / TSM
    if not reports.is_dir():
        raise Fatal(
            f"no quote can be made here: {' '.join(line.strip() for line in trusted_execution(root))}",
            hint="keys are released to trust domains (TDX) alone; other nodes take them from a file",
        )
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from bridge_core.identity.certificates import generate_key, key_to_pem

    key = generate_key()
    form = PublicFormat.SubjectPublicKeyInfo
    quote = _quote(reports, report_data(key.public_key().public_bytes(Encoding.DER, form), nonce))
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        folder / "node.key": key_to_pem(key),
        folder / "node.pub": key.public_key().public_bytes(Encoding.PEM, form),
        folder / "quote": quote,
    }
    for path, data in made.items():
        write_atomically(path, data, mode=0o600)
    return list(made)


def _quote(reports: Path, data: bytes) -> bytes:
    """See Documentation/ABI/testing/configfs-tsm of the Linux kernel."""
    entry = reports / _ENTRY
    try:
        entry.mkdir(exist_ok=True)
        (entry / "inblob").write_bytes(data)
        with (entry / "outblob").open("rb") as file:
            quote = file.read(_MOST + 1)
    except OSError as fault:
        raise Fatal(f"the kernel makes no quote in {entry}: {fault.strerror}") from fault
    finally:
        with contextlib.suppress(OSError):
            entry.rmdir()
    if not 0 < len(quote) <= _MOST:
        raise Fatal(f"the kernel's quote has {len(quote)} bytes")
    return quote
