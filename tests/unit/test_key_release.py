"""A key goes to the node whose quote is trusted, encrypted to the key that the quote is of; else nowhere."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from bridge_agent.attest_quote import make
from bridge_agent.attest_report import TSM
from bridge_cli.attestation.quotes import verify
from bridge_cli.attestation.releasing import NotReleased, release
from bridge_cli.main import app
from bridge_core.attestation import AttestationPolicy, Evidence, Machine
from bridge_core.attestation_binding import MAX_SECRET_BYTES, NotOpened, opened, report_data, sealed_to
from bridge_core.errors import BridgeError, Fatal
from bridge_core.identity.certificates import generate_key, key_to_pem

FOLDER = Path(__file__).parent / "vectors" / "attestation"
MACHINE = "91eb2b44d141d4ece09f0c75c2c53d247a3c68edd7fafe8a3520c942a604a407de03ae6dc5f87f27428b2538873118b7"
POLICY = AttestationPolicy("production", machines=(Machine(MACHINE),))
DOCUMENT = f"""\
apiVersion: security.deepseek.io/v1
kind: AttestationPolicy
metadata: {{name: production}}
spec: {{tdx: [{{mrTd: "{MACHINE}"}}]}}
"""
NONCE, SECRET = bytes(range(32)), b"k" * 32
PAIR, OTHER = generate_key(), generate_key()
FORM = PublicFormat.SubjectPublicKeyInfo
PUBLIC = PAIR.public_key().public_bytes(Encoding.DER, FORM)
EVIDENCE = Evidence(
    "tdx",
    {"mr_td": MACHINE, "rt_mr0": "", "rt_mr1": "", "rt_mr2": "", "rt_mr3": ""},
    0,
    0,
    debug=False,
    report_data=report_data(PUBLIC, NONCE),
    tcb="UpToDate",
)


def test_a_trusted_node_opens_what_was_released_to_it_and_nobody_else_does() -> None:
    sealed = release(EVIDENCE, [POLICY], PUBLIC, NONCE, SECRET)
    assert SECRET not in sealed
    assert opened(sealed, key_to_pem(PAIR), NONCE) == SECRET
    for wrong in (
        (sealed, key_to_pem(OTHER), NONCE),
        (sealed, key_to_pem(PAIR), bytes(32)),
        (sealed[:-1] + bytes([sealed[-1] ^ 1]), key_to_pem(PAIR), NONCE),
        (b"", key_to_pem(PAIR), NONCE),
    ):
        with pytest.raises(NotOpened):
            opened(*wrong)


@pytest.mark.parametrize(
    ("evidence", "policies", "public", "nonce", "why"),
    [
        (EVIDENCE, [], PUBLIC, NONCE, "no AttestationPolicy"),
        (EVIDENCE, [AttestationPolicy("p", machines=(Machine("00"),))], PUBLIC, NONCE, "is not among"),
        (msgspec.structs.replace(EVIDENCE, debug=True), [POLICY], PUBLIC, NONCE, "debugged"),
        (msgspec.structs.replace(EVIDENCE, tcb="OutOfDate"), [POLICY], PUBLIC, NONCE, "OutOfDate"),
        (EVIDENCE, [POLICY], OTHER.public_key().public_bytes(Encoding.DER, FORM), NONCE, "another's"),
        (EVIDENCE, [POLICY], PUBLIC, bytes(32), "an old one"),
    ],
    # Keys differ in every process: as parts of names, no two workers of xdist would have the same tests.
    ids=["no-policy", "machine", "debugged", "level", "key", "nonce"],
)
def test_who_is_not_trusted_gets_nothing(
    evidence: Evidence, policies: list[AttestationPolicy], public: bytes, nonce: bytes, why: str
) -> None:
    with pytest.raises(NotReleased, match=why):
        release(evidence, policies, public, nonce, SECRET)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_nothing_is_encrypted_to_what_is_no_key(public: bytes) -> None:
    with pytest.raises(BridgeError):
        sealed_to(public, NONCE, SECRET)


@pytest.mark.parametrize("secret", [b"", b"x" * (MAX_SECRET_BYTES + 1)], ids=["none", "large"])
def test_what_is_released_is_bounded(secret: bytes) -> None:
    with pytest.raises(BridgeError, match="1 to 4096 bytes"):
        release(EVIDENCE, [POLICY], PUBLIC, NONCE, secret)


def commanded(folder: Path, quote: Path, public: bytes) -> tuple[int, str, bool]:
    (folder / "policy.yaml").write_text(DOCUMENT)
    (folder / "node.pub").write_bytes(public)
    (folder / "secret").write_bytes(SECRET)
    given = {
        "--collateral": str(FOLDER / "tdx_quote_collateral.json"),
        "--policy": str(folder / "policy.yaml"),
        "--key": str(folder / "node.pub"),
        "--nonce": NONCE.hex(),
        "--secret": str(folder / "secret"),
        "--out": str(folder / "released"),
        "--at": "2025-06-24",
    }
    words = [word for pair in given.items() for word in pair]
    done = CliRunner().invoke(app, ["attest", "release", str(quote), *words])
    return done.exit_code, done.output, (folder / "released").exists()


def test_a_published_quote_that_is_genuine_and_trusted_is_not_this_nodes(tmp_path: Path) -> None:
    pytest.importorskip("dcap_qvl", reason="SKIPPED LOUDLY: the library dcap-qvl is not installed")
    public = PAIR.public_key().public_bytes(Encoding.PEM, FORM)
    status, said, written = commanded(tmp_path, FOLDER / "tdx_quote", public)
    assert (status, written) == (1, False)
    assert "another's quote, or an old one" in " ".join(said.split())


def test_a_quote_that_was_changed_releases_nothing(tmp_path: Path) -> None:
    pytest.importorskip("dcap_qvl", reason="SKIPPED LOUDLY: the library dcap-qvl is not installed")
    data = bytearray((FOLDER / "tdx_quote").read_bytes())
    data[600] ^= 1  # in its report data
    (tmp_path / "quote").write_bytes(data)
    public = PAIR.public_key().public_bytes(Encoding.PEM, FORM)
    status, said, written = commanded(tmp_path, tmp_path / "quote", public)
    assert (status, written) == (1, False)
    assert "proves nothing" in said


def test_a_published_quote_bound_to_a_question_gets_the_key(tmp_path: Path) -> None:
    """All but the hardware: a real quote's evidence, as if its report data had been ours."""
    pytest.importorskip("dcap_qvl", reason="SKIPPED LOUDLY: the library dcap-qvl is not installed")
    (tmp_path / TSM / "bridge").mkdir(parents=True)
    (tmp_path / TSM / "bridge" / "outblob").write_bytes((FOLDER / "tdx_quote").read_bytes())
    key, public, quote = make(tmp_path / "made", NONCE, tmp_path)
    bound = (tmp_path / TSM / "bridge" / "inblob").read_bytes()
    found = verify(quote.read_bytes(), (FOLDER / "tdx_quote_collateral.json").read_bytes(), 1_750_800_000.0)
    evidence = msgspec.structs.replace(found, report_data=bound)
    der = load_pem_public_key(public.read_bytes()).public_bytes(Encoding.DER, FORM)
    sealed = release(evidence, [POLICY], der, NONCE, SECRET)
    assert opened(sealed, key.read_bytes(), NONCE) == SECRET
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_machine_without_such_hardware_says_so_and_makes_no_key(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="no quote can be made here: TDX: no"):
        make(tmp_path / "made", NONCE, tmp_path)
    with pytest.raises(Fatal, match="64 hex digits"):
        make(tmp_path / "made", b"short", tmp_path)
    assert not (tmp_path / "made").exists()
