"""Quotes of SGX and TDX against published samples, and what a policy makes of them."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from bridge_cli.attestation import quotes
from bridge_cli.attestation.attestation_rules import refusal
from bridge_cli.attestation.quotes import QuoteRefused, verify
from bridge_cli.main import app
from bridge_core.attestation import AttestationPolicy, Enclave, Evidence, Machine
from bridge_core.attestation_binding import report_data
from bridge_core.config import load
from bridge_core.identity.certificates import generate_key

pytest.importorskip(
    "dcap_qvl", reason="SKIPPED LOUDLY: the library dcap-qvl is not installed (see requirements)"
)
# The samples of github.com/Phala-Network/dcap-qvl (MIT): real quotes, with the collateral of their month.
FOLDER = Path(__file__).parent / "vectors" / "attestation"
THEN = 1_750_800_000.0  # 2025-06-24
SGX, TDX = ((FOLDER / f"{name}_quote").read_bytes() for name in ("sgx", "tdx"))
SGX_COLLATERAL, TDX_COLLATERAL = (
    (FOLDER / f"{name}_quote_collateral.json").read_bytes() for name in ("sgx", "tdx")
)
ENCLAVE = "33d8736db756ed4997e04ba358d27833188f1932ff7b1d156904d3f560452fbb"
SIGNER = "815f42f11cf64430c30bab7816ba596a1da0130c3b028b673133a66cf9a3e0e6"
MACHINE = "91eb2b44d141d4ece09f0c75c2c53d247a3c68edd7fafe8a3520c942a604a407de03ae6dc5f87f27428b2538873118b7"


def test_a_published_sgx_quote_verifies_and_says_what_it_is_of() -> None:
    evidence = verify(SGX, SGX_COLLATERAL, THEN)
    assert evidence.measurements == {"mr_enclave": ENCLAVE, "mr_signer": SIGNER}
    assert (evidence.kind, evidence.debug, evidence.product, evidence.version) == ("sgx", False, 0, 0)
    assert evidence.report_data.rstrip(b"\0") == b"Hello, world!"
    assert evidence.tcb == "ConfigurationAndSWHardeningNeeded"
    assert evidence.advisories == ("INTEL-SA-00289", "INTEL-SA-00615")


def test_a_published_tdx_quote_verifies_and_says_what_it_is_of() -> None:
    evidence = verify(TDX, TDX_COLLATERAL, THEN)
    assert evidence.measurements["mr_td"] == MACHINE
    assert (evidence.kind, evidence.debug, evidence.tcb) == ("tdx", False, "UpToDate")


@pytest.mark.parametrize("now", [0.0, THEN - 365 * 86_400, THEN + 365 * 86_400, 2.0**63])
def test_collateral_counts_in_its_time_alone(now: float) -> None:
    with pytest.raises(QuoteRefused, match="proves nothing"):
        verify(TDX, TDX_COLLATERAL, now)


def test_a_quote_with_anothers_collateral_proves_nothing() -> None:
    with pytest.raises(QuoteRefused):
        verify(TDX, SGX_COLLATERAL, THEN)
    with pytest.raises(QuoteRefused):
        verify(SGX, TDX_COLLATERAL, THEN)


@given(st.integers(0, 1000), st.integers(1, 255))
def test_no_byte_of_what_the_hardware_signed_can_be_changed(at: int, by: int) -> None:
    for quote, collateral in ((SGX, SGX_COLLATERAL), (TDX, TDX_COLLATERAL)):
        signed = quotes_signed(quote)
        changed = bytearray(quote)
        changed[at % signed] ^= by
        with pytest.raises(QuoteRefused):
            verify(bytes(changed), collateral, THEN)


def quotes_signed(quote: bytes) -> int:
    return 48 + (384 if quote is SGX else 584)  # header and report body


@given(st.binary(max_size=2000))
def test_what_is_no_quote_is_refused_in_a_sentence(data: bytes) -> None:
    for quote, collateral in ((data, TDX_COLLATERAL), (TDX, data), (TDX[: len(data)], TDX_COLLATERAL)):
        with pytest.raises(QuoteRefused):
            verify(quote, collateral, THEN)


def test_a_quote_of_any_length_is_refused_before_it_is_read() -> None:
    with pytest.raises(QuoteRefused, match="longer than any quote"):
        verify(bytes(quotes.MAX_QUOTE_BYTES + 1), TDX_COLLATERAL, THEN)


# -- policies

KEY, NONCE = b"public key", b"n" * 32
BOUND = report_data(KEY, NONCE)
GOOD = Evidence(
    "tdx",
    {"mr_td": "aa", "rt_mr0": "b0", "rt_mr1": "b1", "rt_mr2": "b2", "rt_mr3": "b3"},
    0,
    0,
    debug=False,
    report_data=BOUND,
    tcb="UpToDate",
)
TRUSTED = AttestationPolicy("prod", machines=(Machine("aa", rt_mr1="b1"),))
ONE = Evidence(
    "sgx", {"mr_enclave": "e", "mr_signer": "s"}, 3, 5, debug=False, report_data=BOUND, tcb="UpToDate"
)


def other(evidence: Evidence = GOOD, **fields: object) -> Evidence:
    return msgspec.structs.replace(evidence, **fields)


def test_a_quote_that_a_policy_names_is_enough() -> None:
    assert refusal(GOOD, [TRUSTED], BOUND) == ""
    assert refusal(GOOD, [AttestationPolicy("other"), TRUSTED], BOUND) == ""


@pytest.mark.parametrize(
    ("evidence", "says"),
    [
        (other(debug=True), "can be debugged"),
        (other(report_data=report_data(b"another's", NONCE)), "another's quote, or an old one"),
        (other(report_data=report_data(KEY, b"o" * 32)), "another's quote, or an old one"),
        (other(tcb="OutOfDate", advisories=("INTEL-SA-1",)), "prod: its firmware is OutOfDate (INTEL-SA-1)"),
        (other(tcb="Revoked"), "its firmware is Revoked"),
        (other(measurements={**GOOD.measurements, "mr_td": "ab"}), "mr_td ab is not among"),
        (other(measurements={**GOOD.measurements, "rt_mr1": "b2"}), "not among"),
        (ONE, "mr_enclave e is not among"),
    ],
)
def test_anything_else_is_not(evidence: Evidence, says: str) -> None:
    assert re.search(re.escape(says), refusal(evidence, [TRUSTED], BOUND))


def test_without_a_policy_nothing_is_trusted() -> None:
    assert "no AttestationPolicy" in refusal(GOOD, [], BOUND)


@pytest.mark.parametrize(
    ("enclave", "trusted"),
    [
        (Enclave("e"), True),
        (Enclave("e", "s"), True),
        (Enclave("", "s"), True),
        (Enclave("", "s", 3, 5), True),
        (Enclave("", "s", 4), False),
        (Enclave("", "s", 3, 6), False),
        (Enclave("x", "s"), False),
        (Enclave("e", "x"), False),
        (Enclave(), False),
    ],
)
def test_all_that_is_said_of_an_enclave_has_to_be_so(enclave: Enclave, trusted: bool) -> None:
    assert (refusal(ONE, [AttestationPolicy("p", (enclave,))], BOUND) == "") is trusted


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_report_data_is_of_one_key_and_one_question(one: bytes, two: bytes) -> None:
    assert (report_data(one, NONCE) == report_data(two, NONCE)) is (one == two)
    assert len(report_data(one, NONCE)) == 64


# -- documents and the command

DOCUMENT = f"""apiVersion: security.deepseek.io/v1
kind: AttestationPolicy
metadata: {{name: prod}}
spec:
  sgx: [{{mrEnclave: "{ENCLAVE}"}}]
  tdx: [{{mrTd: "{MACHINE}"}}]
"""


def test_a_policys_document_is_read_and_its_faults_are_named() -> None:
    assert load([("p.yaml", DOCUMENT)]).faults == ()
    (fault,) = load([("p.yaml", DOCUMENT.replace(ENCLAVE, ENCLAVE.upper()))]).faults
    assert "spec.sgx[0].mrEnclave" in str(fault)
    (fault,) = load([("p.yaml", DOCUMENT + "  tcb: [Revoked]\n")]).faults
    assert "spec.tcb[0]" in str(fault)


def verified(tmp_path: Path, name: str, *more: str) -> tuple[int, str]:
    (tmp_path / "policy.yaml").write_text(DOCUMENT)
    files = [str(FOLDER / f"{name}_quote"), "--collateral", str(FOLDER / f"{name}_quote_collateral.json")]
    done = CliRunner().invoke(app, ["attest", "verify", *files, "--at", "2025-06-24", *more])
    return done.exit_code, done.stdout + done.stderr


def test_the_command_says_what_a_quote_is_of_and_whether_it_is_trusted(tmp_path: Path) -> None:
    policy = ("--policy", str(tmp_path / "policy.yaml"))
    code, said = verified(tmp_path, "tdx")
    assert (code, MACHINE in said, "no policy was asked" in said) == (0, True, True)
    assert verified(tmp_path, "tdx", *policy)[1].endswith("The quote is trusted.\n")
    code, said = verified(tmp_path, "sgx", *policy)
    assert (code, "its firmware is ConfigurationAndSWHardeningNeeded" in said) == (1, True)
    code, said = verified(tmp_path, "sgx", "--at", "2026-06-24")
    assert (code, "proves nothing" in said, "Traceback" in said) == (1, True, False)


def test_the_command_refuses_a_quote_that_is_not_of_the_key(tmp_path: Path) -> None:
    public = generate_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(public)
    key = ("--key", str(tmp_path / "key.pem"), "--nonce", "00" * 32)
    code, said = verified(tmp_path, "tdx", *key)
    assert (code, "not of this key" in said) == (1, True)
    code, said = verified(tmp_path, "tdx", *key[:2])
    assert (code, "go together" in said) == (1, True)
    code, said = verified(tmp_path, "tdx", *key[:3], "00")
    assert (code, "a nonce has 32 bytes" in said) == (1, True)
