"""A key for the node whose quote is trusted, and for nobody else."""

from __future__ import annotations

from collections.abc import Iterable

from bridge_cli.attestation.attestation_rules import refusal
from bridge_core.attestation import AttestationPolicy, Evidence
from bridge_core.attestation_binding import report_data, sealed_to
from bridge_core.errors import BridgeError


class NotReleased(BridgeError):
    """A node that a key is not for; the message says why."""


def release(
    evidence: Evidence,
    policies: Iterable[AttestationPolicy],
    public_key: bytes,
    nonce: bytes,
    secret: bytes,
) -> bytes:
    """The secret, for the node that a quote is of.

    Args:
        evidence: Of its quote, verified.
        policies: One of them has to take it.
        public_key: That the quote has to be of: P-256, SubjectPublicKeyInfo, DER.
        nonce: What the node was asked with.
        secret: What is released.

    Raises:
        NotReleased: the quote is not trusted, or of another key or question.
        BridgeError: nothing can be encrypted to that key, or the secret is too long.
    """
    refused = refusal(evidence, policies, report_data(public_key, nonce))
    if refused:
        raise NotReleased(f"the key is not released: {refused}")
    try:
        return sealed_to(public_key, nonce, secret)
    except ValueError as fault:
        raise BridgeError(str(fault)) from fault
