"""Quotes of SGX and TDX, verified without a network: from the quote, and collateral that was fetched before.

The proof (certificates up to Intel's root, revocation lists, TCB info, the quoting enclave's identity, the
signatures) is checked by the library `dcap-qvl`, an extra of its own: few machines have such hardware.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from bridge_core.attestation import Evidence
from bridge_core.decoding import decode_json
from bridge_core.errors import BridgeError, Fatal

MAX_QUOTE_BYTES: Final = 64 * 1024
MAX_COLLATERAL_BYTES: Final = 1024 * 1024
_MEASUREMENTS: Final = {
    "sgx": ("mr_enclave", "mr_signer"),
    "tdx": ("mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3"),
}
# ATTRIBUTES.DEBUG of an enclave is bit 1, of a machine bit 0, of little-endian numbers.
_DEBUG: Final = {"sgx": 2, "tdx": 1}

_Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{2,256}$")]


class QuoteRefused(BridgeError):
    """A quote that proves nothing."""


class _Enclave(msgspec.Struct):
    mr_enclave: _Hex
    mr_signer: _Hex
    attributes: _Hex
    report_data: _Hex
    isv_prod_id: int
    isv_svn: int


class _Machine10(msgspec.Struct):
    mr_td: _Hex
    rt_mr0: _Hex
    rt_mr1: _Hex
    rt_mr2: _Hex
    rt_mr3: _Hex
    td_attributes: _Hex
    report_data: _Hex


class _Machine15(msgspec.Struct):
    base: _Machine10


class _Reports(msgspec.Struct):
    sgx: _Enclave | None = msgspec.field(default=None, name="SgxEnclave")
    td10: _Machine10 | None = msgspec.field(default=None, name="TD10")
    td15: _Machine15 | None = msgspec.field(default=None, name="TD15")


class _Verified(msgspec.Struct):
    status: Annotated[str, msgspec.Meta(max_length=64)]
    advisory_ids: Annotated[tuple[str, ...], msgspec.Meta(max_length=256)]
    report: _Reports


def verify(quote: bytes, collateral: bytes, now: float) -> Evidence:
    """What a quote proves at a time.

    Args:
        quote: As the hardware's service made it.
        collateral: JSON: certificates, revocation lists, TCB info and the quoting enclave's identity, as a
            PCCS serves them; good for about a month.
        now: Unix seconds.

    Raises:
        QuoteRefused: it is none, it or the collateral was changed, is not Intel's, has expired, or its
            platform is revoked.
        Fatal: the library that verifies is not installed.
    """
    library = _library()
    if len(quote) > MAX_QUOTE_BYTES or len(collateral) > MAX_COLLATERAL_BYTES:
        raise QuoteRefused("it is longer than any quote, or its collateral than any")
    try:
        found = library.QuoteCollateralV3.from_json(collateral.decode())
        said = library.verify(quote, found, int(now)).to_json()
    except (ValueError, OverflowError) as fault:  # UnicodeDecodeError is one
        raise QuoteRefused(f"the quote proves nothing: {str(fault)[:300]}") from fault
    verified = decode_json(said.encode(), _Verified)
    report = verified.report
    if report.sgx is not None:
        return _evidence("sgx", verified, report.sgx, report.sgx.attributes)
    machine = report.td15.base if report.td15 is not None else report.td10
    if machine is None:
        raise QuoteRefused("it is a quote of neither SGX nor TDX")
    return _evidence("tdx", verified, machine, machine.td_attributes)


def _evidence(kind: Any, verified: _Verified, report: _Enclave | _Machine10, attributes: str) -> Evidence:
    return Evidence(
        kind,
        {name: getattr(report, name) for name in _MEASUREMENTS[kind]},
        getattr(report, "isv_prod_id", 0),
        getattr(report, "isv_svn", 0),
        bool(bytes.fromhex(attributes)[0] & _DEBUG[kind]),
        bytes.fromhex(report.report_data),
        verified.status,
        verified.advisory_ids,
    )


def _library() -> Any:
    try:
        import dcap_qvl
    except ImportError as fault:
        raise Fatal(
            "quotes cannot be verified here: the library dcap-qvl is not installed",
            hint='pip install "deepseek-ollama-bridge[attestation]"',
        ) from fault
    return dcap_qvl
