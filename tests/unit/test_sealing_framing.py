"""Chunked encryption against the published vectors, and against whoever changes a sealed file."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from bridge_core.sealing import SealBroken, framing
from bridge_core.sealing.files import open_bytes, seal_bytes
from bridge_core.sealing.framing import CHUNK_BYTES, STRIDE
from bridge_core.sealing.keyring import DataKey, Keyring

# Project Wycheproof's, Apache-2.0: testvectors_v1/c2sp_chunked_encryption_aes_256_gcm_test.json
VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "vectors" / "chunked_encryption.json").read_text()
)["testGroups"][0]["tests"]
RING = Keyring((DataKey(b"k" * 8, bytes(range(32)), 0.0),))
SALT = b"s" * 24


@pytest.mark.parametrize("vector", VECTORS, ids=lambda one: f"{one['tcId']}-{one['comment']}")
def test_the_published_vectors_open_or_are_refused_as_they_say(vector: dict[str, Any]) -> None:
    key, context = bytes.fromhex(vector["key"]), bytes.fromhex(vector["ctx"])
    sealed = zlib.decompress(bytes.fromhex(vector["ct"]))
    if vector["result"] != "valid":
        with pytest.raises(ValueError if "InvalidKeySize" in vector["flags"] else SealBroken):
            framing.open_sealed(key, context, sealed)
        return
    text = framing.open_sealed(key, context, sealed)
    assert (len(text), hashlib.sha512(text).hexdigest()) == (vector["msgLength"], vector["msgSha512"])
    assert framing.seal(key, sealed[:24], context, text) == sealed


@pytest.mark.parametrize("vector", VECTORS, ids=lambda one: f"{one['tcId']}-{one['comment']}")
def test_the_published_vectors_open_chunk_by_chunk_as_they_do_whole(vector: dict[str, Any]) -> None:
    if "InvalidKeySize" in vector["flags"]:
        return
    sealed = zlib.decompress(bytes.fromhex(vector["ct"]))

    def chunks() -> bytes:
        key, context = bytes.fromhex(vector["key"]), bytes.fromhex(vector["ctx"])
        cipher = framing.cipher_of(sealed[: framing.HEAD_BYTES], key, context)
        last, _ = framing.shape(len(sealed))
        at = (framing.HEAD_BYTES + number * STRIDE for number in range(last + 1))
        return b"".join(cipher.open_chunk(number, sealed[a : a + STRIDE]) for number, a in enumerate(at))

    if vector["result"] != "valid":
        with pytest.raises(SealBroken):
            chunks()
        return
    text = chunks()
    assert (len(text), hashlib.sha512(text).hexdigest()) == (vector["msgLength"], vector["msgSha512"])


def test_no_byte_of_a_sealed_file_can_be_changed_unseen() -> None:
    sealed = seal_bytes(RING, "test", SALT, b"what is kept")
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(SealBroken):
            open_bytes(RING, "test", bytes(changed))


def test_a_file_cut_anywhere_or_added_to_is_refused() -> None:
    sealed = seal_bytes(RING, "test", SALT, b"x" * (CHUNK_BYTES + 5))
    for length in [*range(200), *range(len(sealed) - 200, len(sealed))]:
        with pytest.raises(SealBroken):
            open_bytes(RING, "test", sealed[:length])
    for more in (b"\0", b"x" * 16, b"x" * STRIDE):
        with pytest.raises(SealBroken):
            open_bytes(RING, "test", sealed + more)


def test_a_file_of_another_purpose_or_keyring_is_refused_before_anything_is_decrypted() -> None:
    sealed = seal_bytes(RING, "snapshot", SALT, b"text")
    with pytest.raises(framing.WrongKey, match="another purpose"):
        open_bytes(RING, "ca-key", sealed)
    with pytest.raises(framing.WrongKey):
        open_bytes(Keyring((DataKey(b"k" * 8, bytes(32), 0.0),)), "snapshot", sealed)
    with pytest.raises(SealBroken, match=f"data key {(b'k' * 8).hex()}, which the keyring does not hold"):
        open_bytes(Keyring((DataKey(b"o" * 8, bytes(32), 0.0),)), "snapshot", sealed)


def test_a_sealed_file_stays_as_it_is_from_version_to_version() -> None:
    sealed = seal_bytes(RING, "test", SALT, b"frozen")
    assert sealed.hex() == (
        "42525345414c310a6b6b6b6b6b6b6b6b737373737373737373737373737373737373737373737373"
        "ddf1af8dd4a353409b875cb8232e970f090a57d12c5ec20a507af7908d29941acb3243daba86a4e3857eb084f4649f902dc0e0f64b15"
    )
