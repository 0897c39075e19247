"""Why a signature does not count."""

from __future__ import annotations

from bridge_core.errors import BridgeError


class BadSignature(BridgeError):
    """It is none that is taken, or not of what it should be of; the message says why."""
