"""Hashes of what was asked: the same under the same key, and tied to nothing once the key is gone."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.audit.input_keys import InputKeys
from bridge_core.keyed_hash import KeyedHash

DAY = 86_400.0


def test_a_key_a_period_kept_and_private(tmp_path: Path) -> None:
    keys = InputKeys(tmp_path / "keys")
    first = keys.hashed(b"hi", 10 * DAY + 5, DAY)
    assert (
        first
        == keys.hashed(b"hi", 11 * DAY - 1, DAY)
        == InputKeys(tmp_path / "keys").hashed(b"hi", 10 * DAY, DAY)
    )
    later = keys.hashed(b"hi", 11 * DAY, DAY)
    assert first[0] != later[0]
    assert first[1] == f"{int(10 * DAY)}-{int(11 * DAY)}"
    (path, _) = sorted((tmp_path / "keys").iterdir())
    assert path.stat().st_mode & 0o777 == 0o600
    assert hmac.digest(path.read_bytes(), b"hi", "sha256").hex() == first[0]


def test_a_destroyed_key_does_not_come_back(tmp_path: Path) -> None:
    keys = InputKeys(tmp_path)
    first, _ = keys.hashed(b"hi", 10 * DAY, DAY)
    keys.hashed(b"hi", 11 * DAY, DAY)
    assert keys.forget(11 * DAY - 1) == []
    assert keys.forget(11 * DAY) == [f"{int(10 * DAY)}-{int(11 * DAY)}"]
    assert keys.hashed(b"hi", 10 * DAY, DAY)[0] != first


@pytest.mark.parametrize("there", [b"", b"short", b"x" * 33])
def test_a_damaged_key_is_replaced(tmp_path: Path, there: bytes) -> None:
    keys = InputKeys(tmp_path)
    _, name = keys.hashed(b"hi", 0.0, DAY)
    (tmp_path / f"{name}.key").write_bytes(there)
    InputKeys(tmp_path).hashed(b"hi", 0.0, DAY)
    assert len((tmp_path / f"{name}.key").read_bytes()) == 32


@given(st.binary(max_size=64), st.lists(st.binary(max_size=200), min_size=1))
def test_the_hash_is_the_librarys_hmac(key: bytes, asked: list[bytes]) -> None:
    made = KeyedHash(key)
    expected = [hmac.digest(key, one, "sha256") for one in asked]
    assert [made.of(one) for one in asked] == expected
    assert [made.hex_of(one) for one in asked] == [one.hex() for one in expected]
    assert made.hex_of_all(asked) == [one.hex() for one in expected]
