"""A node's certificate vouches for the key of its log: what counts, and what does not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_cli.audit_fetching import unconfirmed
from bridge_cli.audit_vouching import NotVouchedFor, read, vouched_key, write
from bridge_core.audit.notes import BadNote, PublicKey
from bridge_core.audit.vouchers import Statement, Voucher, read_statement
from bridge_core.errors import BridgeError
from bridge_core.identity import SpiffeId
from bridge_core.identity import certificates as x509

NOW, DAY = 1_800_000_000, 86_400.0
DOMAIN = "bridge.local"
ORIGIN = f"{DOMAIN}/node/a"
KEY = PublicKey(ORIGIN, bytes(range(32)))
STATEMENT = Statement(ORIGIN, KEY, NOW)
ROOT = x509.create_root(DOMAIN, now=NOW, ttl_s=100 * DAY)
CA = x509.create_intermediate(ROOT, DOMAIN, now=NOW, ttl_s=50 * DAY)
OTHER = x509.create_root(DOMAIN, now=NOW, ttl_s=100 * DAY)
NODE_KEY = x509.generate_key()


def voucher(
    said: Statement = STATEMENT,
    *,
    kind: str = "node",
    name: str = "a",
    ca: x509.Authority = CA,
    signer: x509.PrivateKey = NODE_KEY,
) -> Voucher:
    leaf = x509.issue(ca, NODE_KEY.public_key(), SpiffeId(DOMAIN, kind, name), now=NOW, ttl_s=DAY)
    chain = (x509.to_pem(leaf) + ca.pem).decode()
    return Voucher(said.text, x509.sign(signer, said.text.encode()), chain)


def test_what_a_statement_says_is_frozen() -> None:
    assert STATEMENT.text == (
        "bridge audit log key v1\n"
        "log bridge.local/node/a\n"
        "key bridge.local/node/a+4cfcaeb4+AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n"
        "at 2027-01-15T08:00:00Z\n"
    )
    assert read_statement(STATEMENT.text) == STATEMENT


def test_the_mesh_root_is_enough_to_know_the_logs_key(tmp_path: Path) -> None:
    write(tmp_path, "a", voucher())
    assert vouched_key(read(tmp_path, "a"), ROOT.pem) == (KEY, STATEMENT)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (voucher(name="b"), "another's"),
        (voucher(kind="client"), "another's"),
        (voucher(signer=x509.generate_key()), "signature"),
        (voucher(Statement(ORIGIN, KEY, NOW + 2 * int(DAY))), "no node's"),
        (voucher(Statement(ORIGIN, KEY, NOW - 3600)), "no node's"),
        (voucher(ca=x509.create_intermediate(OTHER, DOMAIN, now=NOW, ttl_s=DAY)), "no node's"),
        (msgspec.structs.replace(voucher(), signature=b""), "signature"),
        (msgspec.structs.replace(voucher(), chain=""), "no node's"),
        (msgspec.structs.replace(voucher(), chain="-----BEGIN CERTIFICATE-----\nAA\n"), "no node's"),
        (
            msgspec.structs.replace(voucher(), statement=Statement(ORIGIN, KEY, NOW + 1).text),
            "signature",
        ),
    ],
)
def test_what_does_not_vouch_is_named(bad: Voucher, why: str) -> None:
    with pytest.raises(NotVouchedFor, match=why):
        vouched_key(bad, ROOT.pem)


def test_a_key_of_another_log_is_no_statement() -> None:
    other = PublicKey(f"{DOMAIN}/node/b", KEY.raw)
    with pytest.raises(BadNote, match="another log's"):
        read_statement(Statement(ORIGIN, other, NOW).text)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match="voucher of a cannot be read"):
        read(tmp_path, "a")


@given(
    st.text(max_size=300)
    | st.builds(
        lambda at, one: STATEMENT.text[:at] + one + STATEMENT.text[at + 1 :],
        st.integers(0, len(STATEMENT.text) - 1),
        st.characters(),
    )
)
def test_every_other_text_is_refused(text: str) -> None:
    try:
        assert read_statement(text).text == text
    except BadNote:
        assert text != STATEMENT.text


def test_a_hop_that_its_entry_node_has_no_record_of_is_named() -> None:
    entry = {"recorded_by": "a", "principal": "ann"}
    owner = {"recorded_by": "b", "principal": "ann", "via": "a"}
    assert unconfirmed([entry, owner], {}) == []
    assert unconfirmed([owner], {"a": "it does not answer"}) == []
    (said,) = unconfirmed([owner], {})
    assert said.startswith("b was asked by a for ann, and a has no record of it")
    (said,) = unconfirmed([owner, {"recorded_by": "a", "via": "c"}], {"c": "away"})
    assert "a has no record" in said
