"""Uploads: whose they are, where parts go, who has proven to have what."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    assert span_of(None, (1 << 43) - 7, 7).length == (1 << 43) - 7
    with pytest.raises(UploadRefused) as refused:
        span_of(None, (1 << 43) - 6, 7)
    assert refused.value.status == 413
    with pytest.raises(UploadRefused):
        span_of(b"0-%d" % (1 << 43), None, 0)


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
    for number in range(48):
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
    assert uploads.has_proved("eve", "aa", (24 * 3600.0) - 0.1)
    assert not uploads.has_proved("eve", "aa", 24 * 3600.0)
    assert not uploads.has_proved("mallory", "aa", 0.0)
    assert not uploads.has_proved("eve", "bb", 0.0)
    uploads.proved("mallory", "aa", 1.0)
    assert uploads.expire(24 * 3600.0) == ([], set())  # mallory claims it still
    assert uploads.expire((24 * 3600.0) + 1.0) == ([], {"aa"})


def test_proofs_are_bounded() -> None:
    uploads = Uploads()
    uploads.proved("mallory", "hers", 0.0)
    for number in range(2048 + 2):
        uploads.proved("eve", f"{number}", 0.0)
    assert not uploads.has_proved("eve", "1", 0.0)
    assert uploads.has_proved("eve", "2", 0.0)
    assert uploads.has_proved("mallory", "hers", 0.0), "who brings much has others forgotten by nobody"
    assert uploads.expire(1.0) == ([], {"0", "1"})
    assert uploads.expire(1.0) == ([], set())
    for caller in range(8):
        for number in range(2048):
            uploads.proved(f"c{caller}", f"{caller}-{number}", 0.0)
    assert len(uploads._proven) == 16_384


def test_an_upload_as_it_begins_and_what_lasts_by_being_asked_for() -> None:
    uploads = Uploads()
    upload = uploads.begin("id", "r", "eve", 5.0)
    assert (upload.size, upload.touched, upload.busy) == (0, 5.0, False)
    uploads.find("id", "r", "eve", 3600.0)
    assert uploads.expire(5.0 + 3600.0) == ([], set())
    assert uploads.expire(7200.0) == ([upload], set())


def test_a_part_has_a_byte_at_least_where_it_says_its_range() -> None:
    assert span_of(b"5-5", 1, 5) == Span(5, 1)
    for header, length, size, status in (
        (b"6-6", 1, 5, 416),
        (b"5-4", 0, 5, 400),
        (b"5-5", 2, 5, 400),
        (b"x", 1, 5, 400),
    ):
        with pytest.raises(UploadRefused) as refused:
            span_of(header, length, size)
        assert refused.value.status == status
    assert span_of(b"0-%d" % ((1 << 43) - 1), None, 0).length == 1 << 43
    assert span_of(None, None, 1 << 43) == Span(1 << 43, None)


def test_sixty_four_uploads_of_a_node_and_sixteen_of_a_caller() -> None:
    uploads = Uploads()
    for number in range(64):
        uploads.begin(f"{number}", "r", f"c{number // 16}", 0.0)
    with pytest.raises(UploadRefused, match="0 uploads of yours and 64 in all") as refused:
        uploads.begin("more", "r", "eve", 0.0)
    assert refused.value.status == 429
