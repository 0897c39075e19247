"""Whether evidence is enough for a policy. Pure.

Rules:
1. What can be debugged is never trusted: its memory is open to whoever runs the machine.
2. The report data has to be what this question and this key make it: else a quote of another day, or of
   another's key, would do.
3. The firmware's state has to be one that the policy names. A revoked one cannot be named.
4. The measurements have to be those of one of the policy's enclaves or machines, all that it gives.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from bridge_core.attestation import AttestationPolicy, Enclave, Evidence, Machine


def refusal(evidence: Evidence, policies: Iterable[AttestationPolicy], bound: bytes | None) -> str:
    """Why evidence is not enough, in a sentence; empty: it is.

    Args:
        evidence: Of a quote that has been verified.
        policies: One of them has to take it.
        bound: What its report data has to be; None: it was not asked for a key.
    """
    if evidence.debug:
        return "it can be debugged, so whoever runs the machine can read its memory"
    if bound is not None and not hmac.compare_digest(bound, evidence.report_data):
        return "its report data is not of this key and this question: it is another's quote, or an old one"
    reasons = [(one.name, _refused(evidence, one)) for one in policies]
    if any(not why for _, why in reasons):
        return ""
    said = "; ".join(f"{name}: {why}" for name, why in reasons)
    return said or "there is no AttestationPolicy that could take it"


def _refused(evidence: Evidence, policy: AttestationPolicy) -> str:
    if evidence.tcb not in policy.tcb:
        advisories = f" ({', '.join(evidence.advisories)})" if evidence.advisories else ""
        return f"its firmware is {evidence.tcb}{advisories}, taken are {', '.join(policy.tcb)}"
    if evidence.kind == "sgx" and any(_is_enclave(evidence, one) for one in policy.enclaves):
        return ""
    if evidence.kind == "tdx" and any(_is_machine(evidence, one) for one in policy.machines):
        return ""
    first = "mr_enclave" if evidence.kind == "sgx" else "mr_td"
    return f"{first} {evidence.measurements[first]} is not among what it trusts"


def _is_enclave(evidence: Evidence, wanted: Enclave) -> bool:
    if not wanted.mr_enclave and not wanted.mr_signer:
        return False
    found = evidence.measurements
    return (
        wanted.mr_enclave in {"", found["mr_enclave"]}
        and wanted.mr_signer in {"", found["mr_signer"]}
        and wanted.product in {None, evidence.product}
        and evidence.version >= wanted.version
    )


def _is_machine(evidence: Evidence, wanted: Machine) -> bool:
    registers = ("rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3")
    found = evidence.measurements
    return found["mr_td"] == wanted.mr_td and all(
        getattr(wanted, name) in {"", found[name]} for name in registers
    )
