"""API keys: their form, their checksum, and what is kept of them."""

from __future__ import annotations

import hmac
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.identity import api_keys as keys

VECTORS = json.loads((Path(__file__).parent / "vectors" / "api_keys.json").read_text())
RANDOM = st.binary(min_size=keys.RANDOM_BYTES, max_size=keys.RANDOM_BYTES)
PEPPERS = st.binary(min_size=keys.PEPPER_BYTES, max_size=keys.PEPPER_BYTES)


@pytest.mark.parametrize("vector", VECTORS["keys"], ids=lambda vector: vector["random"][:8])
def test_keys_and_hashes_stay_what_they_are(vector: dict[str, str]) -> None:
    key = keys.mint(bytes.fromhex(vector["random"]))
    assert key == vector["key"]
    assert keys.Pepper(bytes.fromhex(VECTORS["pepper"])).hash(key.encode()).hex() == vector["hash"]


@given(RANDOM)
def test_a_key_has_the_form_that_scanners_look_for(randomness: bytes) -> None:
    key = keys.mint(randomness)
    assert re.fullmatch(keys.PATTERN, key)
    assert re.findall(keys.PATTERN, f'{{"key":"{key}"}}') == [key]
    assert keys.is_meant(key.encode())
    assert keys.damage(key.encode()) == ""
    assert keys.id_of(key.encode()) == key[4:16].encode()


@given(RANDOM, RANDOM)
def test_other_randomness_makes_another_key(one: bytes, other: bytes) -> None:
    assert (keys.mint(one)[17:60] == keys.mint(other)[17:60]) == (one[9:] == other[9:])


@given(PEPPERS, st.binary(max_size=200))
def test_the_hash_is_hmac_sha_256(secret: bytes, text: bytes) -> None:
    assert keys.Pepper(secret).hash(text) == hmac.digest(secret, text, "sha256")


@given(RANDOM, st.integers(0, 65), st.integers(0, 255))
def test_one_wrong_character_is_noticed_without_a_look_at_anything(seed: bytes, at: int, other: int) -> None:
    key = bytearray(keys.mint(seed).encode())
    changed = key[at] != other
    key[at] = other
    assert bool(keys.damage(bytes(key))) == changed


@given(st.binary(max_size=300))
def test_whatever_comes_is_looked_at_without_a_fault(text: bytes) -> None:
    assert keys.damage(text) or re.fullmatch(keys.PATTERN.encode(), text)
    assert len(keys.id_of(text)) in {0, 12}
    keys.is_meant(text)


def test_a_pepper_of_another_length_is_none() -> None:
    for length in (0, 31, 33, 64):
        with pytest.raises(ValueError, match="32 bytes"):
            keys.Pepper(bytes(length))


def test_a_key_needs_all_of_its_randomness() -> None:
    with pytest.raises(ValueError, match="41 random bytes"):
        keys.mint(bytes(40))
