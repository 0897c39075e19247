"""Encryption at rest: one framing for every sealed file, and the keys that it is done with.

`framing` is the published format, `files` are small ones in it, `blobs` those of models; `key_source` says
where the key-encryption key comes from, `keyring` holds the data keys under it, and a `Sealer` is what
the rest of a program works with. Why it is this way is in docs/adr/encryption-at-rest.md.
"""

from bridge_core.sealing.framing import SealBroken
from bridge_core.sealing.sealer import Sealer, open_sealer

__all__ = ["SealBroken", "Sealer", "open_sealer"]
