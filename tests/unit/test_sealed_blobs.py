"""Sealed blobs: their format, whoever changes one, and a header wrapped anew when the power is cut."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_agent.models.blob_sealing import rewrite_header
from bridge_core.model_store.open_blob import OpenBlob, SealedWithoutKey, is_sealed
from bridge_core.sealing import SealBroken, blobs
from bridge_core.sealing.blobs import (
    HEADER_BYTES,
    SEGMENT_BYTES,
    BlobKey,
    SealedBlob,
    header_of,
    seal_segment,
    sealed_size,
    segment_at,
    text_size,
    unwrap,
    wrapped_with,
)
from bridge_core.sealing.files import KeyMissing
from bridge_core.sealing.keyring import DataKey, Keyring

OLD, NEW = DataKey(b"o" * 8, bytes(range(32)), 0.0), DataKey(b"n" * 8, bytes(range(1, 33)), 1.0)
RING, BOTH = Keyring((OLD,)), Keyring((OLD, NEW))
SECRET, SALT = b"s" * 32, b"t" * 24
FROZEN = "e424e8f70a2402df87a2bbcebc7133d617165b2b59f1988bbd34f1002be8776c"


def text_of(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


def sealed_of(text: bytes, ring: Keyring = RING) -> bytes:
    key = BlobKey(hashlib.sha256(text).digest(), len(text), SECRET)
    segments = (
        seal_segment(SECRET, number, SALT, text[at : at + SEGMENT_BYTES])
        for number, at in enumerate(range(0, len(text), SEGMENT_BYTES))
    )
    return header_of(ring, key, SALT) + b"".join(segments)


@contextmanager
def file_of(data: bytes) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.fileno()


def faults(data: bytes, text: bytes) -> str:
    """What a check of the blob says, as `bridgectl models verify` has it; empty: nothing is wrong."""
    hex_ = hashlib.sha256(text).hexdigest()
    with file_of(data) as handle:
        try:
            with OpenBlob(
                os.dup(handle), hex_, lambda _, header: unwrap(RING, header, bytes.fromhex(hex_))
            ) as it:
                found = it.header_fault()
                return found or ("" if it.read(0, it.size + 1) == text else "other bytes")
        except SealBroken as fault:
            return fault.message


def test_a_sealed_blob_stays_as_it_is_from_version_to_version() -> None:
    """Frozen: a later version reads what this one wrote."""
    sealed = sealed_of(b"frozen")
    assert hashlib.sha256(sealed).hexdigest() == FROZEN
    assert len(sealed) == sealed_size(6) == 8192 + 78
    key = unwrap(RING, sealed[:HEADER_BYTES])
    assert (key.digest, key.size, key.secret) == (hashlib.sha256(b"frozen").digest(), 6, SECRET)


@given(st.integers(0, 40 * SEGMENT_BYTES))
def test_a_files_length_says_how_long_its_text_is(size: int) -> None:
    assert text_size(sealed_size(size)) == size
    for other in (sealed_size(size) - 1, sealed_size(size) + 1):
        assert text_size(other) != size
    assert text_size(sealed_size(size) + 15) is None or size % SEGMENT_BYTES


def test_no_whole_blob_is_shorter_than_a_header() -> None:
    assert [text_size(length) for length in (0, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 72)] == [
        None,
        None,
        0,
        None,
    ]


SMALL = text_of(40_000)
SEALED = sealed_of(SMALL)


@settings(max_examples=250, deadline=None)
@given(st.integers(0, len(SEALED) * 8 - 1))
def test_every_single_bit_that_is_changed_is_found(bit: int) -> None:
    changed = bytearray(SEALED)
    changed[bit // 8] ^= 1 << bit % 8
    assert faults(bytes(changed), SMALL)


def test_each_byte_of_header_heads_and_tags_counts() -> None:
    """What a draw of bits might miss: the few bytes that are no text."""
    slot, half = 168, HEADER_BYTES // 2
    begin = HEADER_BYTES
    few = [*range(slot + 8), *range(half - 4, half + slot), *range(begin - 4, begin + 60), len(SEALED) - 1]
    for at in (*few, begin + 56 + 16_384, begin + 56 + 16_384 + 15):
        changed = bytearray(SEALED)
        changed[at] ^= 0x10
        assert faults(bytes(changed), SMALL), at
    assert not faults(SEALED, SMALL)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, len(SEALED)), st.binary(max_size=20))
def test_a_blob_cut_anywhere_or_added_to_is_found(length: int, more: bytes) -> None:
    if length < len(SEALED) or more:
        assert faults(SEALED[:length] + (more if length == len(SEALED) else b""), SMALL)


@settings(max_examples=20, deadline=None)
@given(
    size=st.sampled_from([0, 1, 16_384, 16_385, SEGMENT_BYTES, SEGMENT_BYTES + 1, 2 * SEGMENT_BYTES]),
    spans=st.lists(
        st.tuples(st.integers(0, 2 * SEGMENT_BYTES + 9), st.integers(0, 2 * SEGMENT_BYTES)), max_size=6
    ),
)
def test_it_is_read_from_anywhere(size: int, spans: list[tuple[int, int]]) -> None:
    text = text_of(size)
    with file_of(sealed_of(text)) as handle:
        blob = SealedBlob(handle, unwrap(RING, os.pread(handle, HEADER_BYTES, 0)))
        assert blob.size == size
        for offset, length in [*spans, (0, size)]:
            assert blob.read(offset, length) == text[offset : offset + length]


def test_a_segment_opens_at_its_own_place_and_in_its_own_blob_alone() -> None:
    text = text_of(3 * SEGMENT_BYTES)
    sealed = bytearray(sealed_of(text))
    first, second = segment_at(0), segment_at(1)
    sealed[first:second], sealed[second : segment_at(2)] = (
        sealed[second : segment_at(2)],
        sealed[first:second],
    )
    assert "segment 0: " in faults(bytes(sealed), text)
    other = text_of(3 * SEGMENT_BYTES + 1)[1:]
    assert "it is another blob" in faults(sealed_of(other), text)


def test_a_segment_that_is_written_again_does_not_repeat_itself() -> None:
    """Two texts under one key and nonce would give both away."""
    one, again = (seal_segment(SECRET, 0, os.urandom(24), b"\0" * 64) for _ in range(2))
    assert one[56:] != again[56:]


def test_a_ring_without_the_key_is_told_from_a_changed_header() -> None:
    with pytest.raises(KeyMissing, match="which the keyring does not hold"):
        unwrap(Keyring((NEW,)), SEALED[:HEADER_BYTES])
    with pytest.raises(SealBroken, match="later version"):
        unwrap(RING, b"BRBLOB2\n" + SEALED[8:4096] + b"BRBLOB2\n" + SEALED[4104:HEADER_BYTES])


def test_what_has_no_key_says_who_opens_it() -> None:
    with file_of(SEALED) as handle, pytest.raises(SealedWithoutKey, match="was given no key"):
        OpenBlob(os.dup(handle), "0" * 64, None)


class Cut(Exception):
    """The power is gone."""


@settings(max_examples=120, deadline=None)
@given(st.integers(0, HEADER_BYTES), st.booleans())
def test_a_header_wrapped_anew_opens_wherever_the_power_is_cut(bytes_written: int, torn: bool) -> None:
    """Up to any byte of either write; torn, the rest of the block that was being written is rubbish."""
    key = unwrap(RING, SEALED[:HEADER_BYTES])
    wrapped = header_of(BOTH, key, b"u" * 24)
    half = HEADER_BYTES // 2
    order = [(half, wrapped[half:]), (0, wrapped[:half])]
    state, left = bytearray(SEALED[:HEADER_BYTES]), bytes_written
    for at, block in order:
        written = min(left, half)
        state[at : at + written] = block[:written]
        left -= written
        if 0 < written < half and torn:
            state[at + written : at + half] = bytes(b ^ 0x5A for b in state[at + written : at + half])
    assert unwrap(BOTH, bytes(state), key.digest) == key
    with file_of(bytes(state)) as handle:
        assert is_sealed(handle)


def test_the_writes_come_in_that_order_each_synced_before_the_next() -> None:
    key = unwrap(RING, SEALED[:HEADER_BYTES])
    wrapped, seen = header_of(BOTH, key, b"u" * 24), []
    with file_of(SEALED) as handle:
        rewrite_header(
            handle, wrapped, sync=lambda it: seen.append(wrapped_with(os.pread(it, HEADER_BYTES, 0)))
        )
        # After the first sync the slots differ, after the second they agree on the new key.
        assert seen == [None, NEW.id]
        with OpenBlob(os.dup(handle), key.digest.hex(), lambda _, header: unwrap(BOTH, header)) as blob:
            assert blob.read(0, blob.size) == SMALL
    assert segment_at(1) - segment_at(0) == blobs.STRIDE
