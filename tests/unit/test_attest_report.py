"""What a node says of its hardware."""

from __future__ import annotations

from pathlib import Path

from bridge_agent.attest_report import trusted_execution


def said(root: Path, *there: str) -> str:
    for one in there:
        (root / one).mkdir(parents=True)
    return "\n".join(trusted_execution(root))


def test_a_machine_without_such_hardware_says_so(tmp_path: Path) -> None:
    text = said(tmp_path)
    assert "TDX: no" in text
    assert "SGX: no" in text


def test_a_trust_domain_says_how_a_quote_is_made(tmp_path: Path) -> None:
    text = said(tmp_path, "dev/tdx_guest")
    assert "is not there: mount configfs" in text
    assert "write 64 bytes" in said(tmp_path, "sys/kernel/config/tsm/report")


def test_hardware_that_nothing_is_done_with_is_named_as_that(tmp_path: Path) -> None:
    text = said(tmp_path, "dev/sev-guest", "dev/sgx_enclave")
    assert "not verified here" in text
    assert "neither agent nor engines run in one" in text
