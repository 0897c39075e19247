"""What a schema cannot say of a ModelSignaturePolicy. Pure.

Rules:
1. A signer has a public key, or CAs and identities, and not both. A CA without identities would let everybody
   sign whom it certified, for whatever purpose.
2. Keys and certificates are such, and of a kind that signs models.
3. What is there twice is a slip; what is no model's name would be about nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from bridge_core.config.signature_spec import ModelSignaturePolicySpec, SignerSpec
from bridge_core.model_signing.chains import authorities
from bridge_core.model_signing.fault import BadSignature
from bridge_core.model_signing.keys import public_key
from bridge_core.policy.resources import is_model, is_pattern


def faults(spec: ModelSignaturePolicySpec) -> Iterator[tuple[str, str]]:
    """Every fault, as the path below `spec` and a sentence."""
    for at, name in enumerate(spec.models):
        if not is_pattern(name) and not is_model(name):
            yield f"models[{at}]", f"{name!r} is not a model name"
        elif name in spec.models[:at]:
            yield f"models[{at}]", f"{name} is there twice"
    names = [signer.name for signer in spec.signers]
    for at, signer in enumerate(spec.signers):
        if signer.name in names[:at]:
            yield f"signers[{at}].name", f"{signer.name} is there twice"
        yield from _signer(f"signers[{at}]", signer)


def _signer(path: str, signer: SignerSpec) -> Iterator[tuple[str, str]]:
    if bool(signer.public_key) == bool(signer.authorities):
        yield path, "give a publicKey, or authorities and identities, and not both"
    elif signer.public_key:
        if signer.identities:
            yield f"{path}.identities", "are those of certificates: a publicKey has none"
        if "PRIVATE" in signer.public_key:
            yield f"{path}.publicKey", "is a private key, which nobody may see: make another one"
            return
        try:
            public_key(signer.public_key)
        except BadSignature as fault:
            yield f"{path}.publicKey", fault.message
    else:
        if not signer.identities:
            yield f"{path}.identities", "name who may sign; else everybody whom these CAs certify could"
        try:
            authorities(signer.authorities)
        except BadSignature as fault:
            yield f"{path}.authorities", fault.message
