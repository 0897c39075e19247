"""What an admin may turn on for every request: API keys, policies, a quota, a choice among engines."""

from __future__ import annotations

from typing import Final

import msgspec

from bridge_agent.authentication.mesh_secrets import MeshSecrets
from bridge_core.clients import ApiKey, Client
from bridge_core.identity.api_keys import PEPPER, PEPPER_BYTES, RANDOM_BYTES, Pepper, id_of, mint
from bridge_core.policy.statements import AccessPolicy, Condition, Resource, Subject
from bridge_core.quotas import Quota
from bridge_core.snapshot import encode_entry

ENGINES: Final = 3
POLICIES: Final = 50
_CLIENT: Final = "bench"
_GROUP: Final = "team"
_SECRET: Final = bytes(PEPPER_BYTES)
KEY: Final = mint(b"bench".ljust(RANDOM_BYTES, b".")).encode()
"""The API key that its requests show."""


def secrets() -> MeshSecrets:
    """What checks that key."""
    told = MeshSecrets()
    told.take({PEPPER: _SECRET})
    return told


def entries() -> dict[str, bytes]:
    """What the snapshot has besides: one client, policies of which one allows it, and its quota."""
    key = ApiKey(id_of(KEY).decode(), Pepper(_SECRET).hash(KEY).hex())
    found: dict[str, msgspec.Struct] = {
        f"client/{_CLIENT}": Client(_CLIENT, groups=(_GROUP,), keys=(key,)),
        "quota/each": Quota("each", requests=1 << 40, prompt_tokens=1 << 40, output_tokens=1 << 40),
    }
    for number in range(POLICIES):
        ours = number == POLICIES // 2
        policy = AccessPolicy(
            f"policy{number}",
            (Subject("Group", _GROUP if ours else f"team{number}"),),
            (Resource(("Model",), ("tiny" if ours else f"other{number}",)),),
            ("predict",),
            (Condition("images", "Lt", ("9",)),),  # asked of every request: its body is read for it
        )
        found[f"policy/{policy.name}"] = policy
    return {name: encode_entry(document) for name, document in found.items()}
