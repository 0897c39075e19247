"""Identities that look like the mesh's own and come from another CA."""

from __future__ import annotations

import time
from pathlib import Path

from bridge_core.identity import SpiffeId
from bridge_core.identity.certificates import create_authority, generate_key, issue, key_to_pem, to_pem


def stranger(folder: Path, identity: str = "spiffe://mesh.local/client/mallory") -> tuple[str, str, str]:
    """Writes CA, certificate and key of a client of another mesh; returns their paths."""
    now = time.time()
    authority = create_authority(SpiffeId.parse(identity).trust_domain, now=now, ttl_s=3600)
    key = generate_key()
    leaf = issue(authority, key.public_key(), SpiffeId.parse(identity), now=now, ttl_s=3600)
    paths = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(to_pem(authority.certificate))
    paths[1].write_bytes(to_pem(leaf))
    paths[2].write_bytes(key_to_pem(key))
    ca, cert, private = map(str, paths)
    return ca, cert, private
