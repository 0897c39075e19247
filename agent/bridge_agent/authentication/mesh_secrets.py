"""What the mesh tells its agents beside the snapshot, and nobody else."""

from __future__ import annotations

from collections.abc import Mapping

from bridge_core.identity.api_keys import PEPPER, PEPPER_BYTES, Pepper


class MeshSecrets:
    """The present secrets.

    Attributes:
        pepper: Of API keys; None: not told yet.
    """

    __slots__ = ("pepper",)

    def __init__(self, secrets: Mapping[str, bytes] | None = None) -> None:
        self.pepper: Pepper | None = None
        self.take(secrets or {})

    def take(self, secrets: Mapping[str, bytes]) -> None:
        """Takes over what the mesh says now."""
        given = secrets.get(PEPPER, b"")
        self.pepper = Pepper(given) if len(given) == PEPPER_BYTES else None
