"""Vouchers of log keys: written beside proofs, and checked against a mesh's root alone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from bridge_core.audit.notes import PublicKey
from bridge_core.audit.vouchers import Statement, Voucher, read_statement
from bridge_core.errors import BridgeError
from bridge_core.identity.certificates import is_signed_by, uris_of

STATEMENT, SIGNATURE, CHAIN = ".log-key", ".log-key.sig", ".pem"
_MOST: Final = 65_536


class NotVouchedFor(BridgeError):
    """A log's key that no node of the mesh has vouched for."""


def write(folder: Path, name: str, voucher: Voucher) -> list[Path]:
    """Writes a voucher as the three files that OpenSSL checks."""
    parts = {
        STATEMENT: voucher.statement.encode(),
        SIGNATURE: voucher.signature,
        CHAIN: voucher.chain.encode(),
    }
    for ending, data in parts.items():
        (folder / f"{name}{ending}").write_bytes(data)
    return [folder / f"{name}{ending}" for ending in parts]


def read(folder: Path, name: str) -> Voucher:
    """The voucher in the three files of a node.

    Raises:
        BridgeError: they cannot be read.
    """
    try:
        statement, signature, chain = (
            (folder / f"{name}{ending}").read_bytes()[:_MOST] for ending in (STATEMENT, SIGNATURE, CHAIN)
        )
        return Voucher(statement.decode(), signature, chain.decode("ascii"))
    except (OSError, UnicodeDecodeError) as fault:
        raise BridgeError(f"the voucher of {name} cannot be read: {fault}") from fault


def vouched_key(voucher: Voucher, roots: bytes) -> tuple[PublicKey, Statement]:
    """The log's key that a node of the mesh has vouched for, and what it said.

    Args:
        voucher: The node's.
        roots: PEM of whom to trust: the mesh's root.

    Raises:
        NotVouchedFor: no node of that mesh has.
        BadNote: the statement is none.
    """
    said = read_statement(voucher.statement)
    try:
        trusted = Store(x509.load_pem_x509_certificates(roots))
        leaf, *between = x509.load_pem_x509_certificates(voucher.chain.encode())
        verifier = PolicyBuilder().store(trusted).time(datetime.fromtimestamp(said.at, UTC))
        verifier.build_client_verifier().verify(leaf, between)
    except (VerificationError, ValueError) as fault:
        raise NotVouchedFor(
            f"the certificate beside the statement is no node's of that mesh at {said.at}: {fault}",
            hint="is the root the mesh's own? `bridgectl ca status` names it",
        ) from fault
    if uris_of(leaf) != (f"spiffe://{said.origin}",):
        raise NotVouchedFor(f"the certificate is another's than {said.origin}'s")
    if not is_signed_by(leaf, voucher.signature, voucher.statement.encode()):
        raise NotVouchedFor(f"the signature under the statement is not {said.origin}'s")
    return said.key, said
