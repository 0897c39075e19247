"""Whether a model has the signatures that policies ask for. Pure: what it judges was read before.

Every doubt is a refusal, with a sentence that says what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from bridge_core.errors import BridgeError
from bridge_core.model_signing.bundle import Bundle, read_bundle
from bridge_core.model_signing.content import Content, content_of
from bridge_core.model_signing.fault import BadSignature
from bridge_core.model_signing.keys import hint_of, is_signed_by, public_key
from bridge_core.model_signing.policies import ModelSignaturePolicy, Signer
from bridge_core.model_signing.statement import check_statement
from bridge_core.policy.globs import Glob


class NotSigned(BridgeError):
    """A model without the signature that it needs."""


class Judged(msgspec.Struct, frozen=True):
    """What policies say of a model.

    Attributes:
        by: Whose signatures count, each as "signer (policy)".
        refused: Why it is not served; empty: it is.
        shadowed: Why it would not be, by policies that refuse nothing yet; empty: it would.
    """

    by: tuple[str, ...] = ()
    refused: str = ""
    shadowed: str = ""


def judge(data: bytes, bundles: Mapping[str, bytes], policies: Iterable[ModelSignaturePolicy]) -> Judged:
    """Judges a model.

    Args:
        data: Its manifest, as it lies on the disk.
        bundles: Its signatures, by the digests of their layers; one that is not here cannot be read.
        policies: Those about its name.
    """
    found, fault = _signatures(data, bundles)
    by: list[str] = []
    refused: list[str] = []
    shadowed: list[str] = []
    for policy in policies:
        signer, why = _signer(policy, found)
        if signer:
            by.append(f"{signer} ({policy.name})")
        else:
            names = " or ".join(one.name for one in policy.signers)
            reason = fault or why or "it has no signature (`bridgectl models sign` makes one)"
            said = f"the ModelSignaturePolicy {policy.name} asks for a signature of {names}: {reason}"
            (shadowed if policy.shadow else refused).append(said)
    return Judged(tuple(by), "; ".join(refused), "; ".join(shadowed))


def _signatures(data: bytes, bundles: Mapping[str, bytes]) -> tuple[list[Bundle], str]:
    """The signatures that are of this model, whoever made them; and why none is."""
    found, fault = [], ""
    try:
        content = content_of(data)
        if not content.exact:
            if content.signatures:
                fault = "its manifest has something in it that is not signed: sign the model again"
            return [], fault
    except BadSignature as bad:
        return [], bad.message
    for layer in content.signatures:
        raw = bundles.get(layer.digest)
        if raw is None or len(raw) != layer.size:
            fault = f"its signature {layer.digest[:19]} is not there: pull the model again"
            continue
        try:
            found.append(_checked(raw, content))
        except BadSignature as bad:
            fault = bad.message
    return found, "" if found else fault


def _checked(raw: bytes, content: Content) -> Bundle:
    bundle = read_bundle(raw)
    check_statement(bundle.payload, content)
    return bundle


def _signer(policy: ModelSignaturePolicy, found: Sequence[Bundle]) -> tuple[str, str]:
    """Who of a policy's signers signed, and why nobody did."""
    why = ""
    for bundle in found:
        for signer in policy.signers:
            try:
                if is_by(signer, bundle):
                    return signer.name, ""
            except BadSignature as bad:
                why = bad.message
            else:
                why = why or f"it is signed by somebody else ({_who(bundle)})"
    return "", why


def is_by(signer: Signer, bundle: Bundle) -> bool:
    """Whether a signature is this signer's.

    Raises:
        BadSignature: what it shows does not hold, or the signer's own key cannot be read.
    """
    if signer.public_key:
        if bundle.chain:
            return False
        key = public_key(signer.public_key)
        if bundle.hint and bundle.hint != hint_of(key):
            return False
        if is_signed_by(key, bundle):
            return True
        if not bundle.hint:  # it does not say whose it is
            return False
        raise BadSignature("its signature is damaged, or of something else")
    if not bundle.chain:
        return False
    from bridge_core.model_signing.chains import authorities, checked_signer  # few agents see a certificate

    key, names = checked_signer(bundle.chain, authorities(signer.authorities))
    if not any(Glob(wanted).matches(name) for wanted in signer.identities for name in names):
        raise BadSignature(f"its certificate is of {', '.join(names)[:200] or 'nobody'}")
    if not is_signed_by(key, bundle):
        raise BadSignature("its signature is damaged, or of something else")
    return True


def _who(bundle: Bundle) -> str:
    return "a certificate" if bundle.chain else f"key {bundle.hint[:12] or 'not named'}"
