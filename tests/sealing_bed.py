"""What tests seal with."""

from __future__ import annotations

from bridge_agent.config import SealSection, StateDir
from bridge_core.sealing import Sealer, open_sealer
from bridge_core.sealing.keyring import DataKey, Keyring

SEALER = Sealer(Keyring((DataKey(b"test key", bytes(range(32)), 0.0),)))


def sealer_of(state: StateDir) -> Sealer:
    """What a node with a key file of its own seals with."""
    return open_sealer(state.seal_folder(SealSection()))
