"""Uploads: whose they are, where parts go, who has proven to have what."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.models.piece_rules import MOST_BYTES
from bridge_agent.models.upload_rules import (
    Span,
    UploadRefused,
    Uploads,
    span_of,
)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 120), st.none() | st.integers(0, 120))
def test_a_part_goes_on_at_the_end_or_takes_the_place_of_what_is_there(
    size: int, first: int, last: int, length: int | None
) -> None:
    try:
        span = span_of(b"%d-%d" % (first, last), length, size)
    except UploadRefused as fault:
        if fault.status == 416:
            assert first > size
        else:
            assert last < first or (length is not None and length != last - first + 1)
        return
    assert first <= size
    assert span == Span(first, last - first + 1)
    assert length in (None, span.length)


@given(st.integers(0, 100), st.binary(max_size=30))
def test_any_header_is_a_part_or_a_refusal(size: int, header: bytes) -> None:
    with contextlib.suppress(UploadRefused):
        assert span_of(header, None, size).begin <= size


def test_without_a_range_a_part_goes_to_the_end() -> None:
    assert span_of(None, 5, 7) == Span(7, 5)
    assert span_of(None, None, 7) == Span(7, None)
    assert span_of(b"bytes 7-9/10", 3, 7) == Span(7, 3)


def test_nothing_is_larger_than_a_blob_may_be() -> None:
    assert span_of(None, MOST_BYTES - 7, 7).length == MOST_BYTES - 7
    with pytest.raises(UploadRefused) as refused:
        span_of(None, MOST_BYTES - 6, 7)
    assert refused.value.status == 413
    with pytest.raises(UploadRefused):
        span_of(b"0-%d" % MOST_BYTES, None, 0)


def test_an_upload_is_its_callers_in_its_repository() -> None:
    uploads = Uploads()
    upload = uploads.begin("id", "team/big", "eve", 0.0)
    assert uploads.find("id", "team/big", "eve", 1.0) is upload
    for repository, caller in (("team/other", "eve"), ("team/big", "mallory")):
        with pytest.raises(UploadRefused) as refused:
            uploads.find("id", repository, caller, 1.0)
        assert refused.value.status == 404
    upload.busy = True
    with pytest.raises(UploadRefused) as refused:
        uploads.find("id", "team/big", "eve", 1.0)
    assert refused.value.status == 409
    uploads.ended(upload)
    uploads.ended(upload)
    with pytest.raises(UploadRefused):
        uploads.find("id", "team/big", "eve", 1.0)


def test_no_caller_takes_all_and_all_have_an_end() -> None:
    uploads = Uploads()
    for number in range(16):
        uploads.begin(f"eve-{number}", "r", "eve", 0.0)
    with pytest.raises(UploadRefused):
        uploads.begin("one more", "r", "eve", 0.0)
    for number in range(64 - 16):
        uploads.begin(f"other-{number}", "r", f"caller{number}", 0.0)
    with pytest.raises(UploadRefused):
        uploads.begin("one more", "r", "nobody", 0.0)


def test_what_nothing_came_for_is_gone_unless_it_is_being_written() -> None:
    uploads = Uploads()
    idle, busy = uploads.begin("idle", "r", "eve", 0.0), uploads.begin("busy", "r", "eve", 0.0)
    uploads.begin("fresh", "r", "eve", 1.0)
    busy.busy = True
    assert uploads.expire(3600.0 - 0.1) == ([], set())
    assert uploads.expire(3600.0) == ([idle], set())


def test_a_proof_is_the_callers_alone_and_ends() -> None:
    uploads = Uploads()
    uploads.proved("eve", "aa", 0.0)
    assert uploads.has_proved("eve", "aa", 86_400.0 - 0.1)
    assert not uploads.has_proved("eve", "aa", 86_400.0)
    assert not uploads.has_proved("mallory", "aa", 0.0)
    assert not uploads.has_proved("eve", "bb", 0.0)
    uploads.proved("mallory", "aa", 1.0)
    assert uploads.expire(86_400.0) == ([], set())  # mallory claims it still
    assert uploads.expire(86_400.0 + 1.0) == ([], {"aa"})


def test_proofs_are_bounded() -> None:
    uploads = Uploads()
    for number in range(16_384 + 2):
        uploads.proved("eve", f"{number}", 0.0)
    assert not uploads.has_proved("eve", "1", 0.0)
    assert uploads.has_proved("eve", "2", 0.0)


@pytest.mark.parametrize(
    ("header", "length", "status"),
    [(b"x", 1, 400), (b"0-1", 1, 400), (b"5-4", None, 400), (b"8-9", 2, 416)],
)
def test_what_a_refusal_says(header: bytes, length: int | None, status: int) -> None:
    with pytest.raises(UploadRefused) as refused:
        span_of(header, length, 7)
    assert refused.value.status == status


def test_a_new_upload_is_empty_and_one_too_many_may_come_again() -> None:
    uploads = Uploads()
    assert uploads.begin("id", "r", "eve", 0.0).size == 0
    for number in range(15):
        uploads.begin(f"{number}", "r", "eve", 0.0)
    with pytest.raises(UploadRefused) as refused:
        uploads.begin("one more", "r", "eve", 0.0)
    assert refused.value.status == 429
    assert span_of(None, None, MOST_BYTES) == Span(MOST_BYTES, None)
