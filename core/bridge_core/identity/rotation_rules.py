"""When a certificate is renewed, and whether it may be used at all.

Times are Unix seconds. Clocks of the mesh may differ by `CLOCK_SKEW_S`: a certificate is issued that
much backdated, and is taken as valid that much before and after its own bounds when its holder
judges it (TLS itself does not).
"""

from __future__ import annotations

import enum
from typing import Final

CLOCK_SKEW_S: Final = 20.0
RENEW_AT: Final = 0.70  # of its life
JITTER: Final = 0.05  # of its life, to either side: a mesh enrolled at once does not renew at once


class CertificateState(enum.Enum):
    """What a certificate's holder should do about it."""

    NOT_YET_VALID = "not yet valid"  # this machine's clock is behind the registry's
    FRESH = "fresh"
    DUE = "due"  # valid; renew now
    EXPIRED = "expired"  # peers refuse it; a renewal needs a new join


def renew_at(not_before: float, not_after: float, jitter: float) -> float:
    """When to renew: at 70 % of life, moved by up to 5 % of life either way.

    Args:
        not_before: Start of validity.
        not_after: End of validity.
        jitter: A number of [0, 1), drawn once per certificate.
    """
    life = not_after - not_before
    return not_before + life * (RENEW_AT + (2.0 * jitter - 1.0) * JITTER)


def certificate_state(not_before: float, not_after: float, now: float, jitter: float) -> CertificateState:
    """The state at `now`, clock skew allowed for."""
    if now < not_before - CLOCK_SKEW_S:
        return CertificateState.NOT_YET_VALID
    if now > not_after + CLOCK_SKEW_S:
        return CertificateState.EXPIRED
    if now >= renew_at(not_before, not_after, jitter):
        return CertificateState.DUE
    return CertificateState.FRESH
