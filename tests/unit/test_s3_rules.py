"""Requests to an S3 store are signed as its vendor's examples are; what it says in XML is bounded."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.models.shared.s3.listing_rules import BadAnswer, Entry, Listing, read
from bridge_agent.models.shared.s3.signature_rules import EMPTY, Signer, authorization, target

# The examples of "Authenticating Requests: Using the Authorization Header" in the API reference of Amazon S3.
EXAMPLE = Signer("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
HOST = {"host": "examplebucket.s3.amazonaws.com", "x-amz-date": "20130524T000000Z"}
ODD = "aZ/ +=&%?é~"
NONE = {"x-amz-content-sha256": EMPTY}
PUT = {
    "date": "Fri, 24 May 2013 00:00:00 GMT",
    "x-amz-storage-class": "REDUCED_REDUNDANCY",
    "x-amz-content-sha256": hashlib.sha256(b"Welcome to Amazon S3.").hexdigest(),
}


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "signature"),
    [
        (
            "GET",
            "/test.txt",
            [],
            {"range": "bytes=0-9", **NONE},
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            "/test$file.text",
            [],
            PUT,
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET",
            "/",
            [("lifecycle", "")],
            NONE,
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "GET",
            "/",
            [("max-keys", "2"), ("prefix", "J")],
            NONE,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_the_published_examples_are_signed_alike(
    method: str, path: str, query: list[tuple[str, str]], headers: dict[str, str], signature: str
) -> None:
    said = authorization(EXAMPLE, method, path, query, {**HOST, **headers})
    names = ";".join(sorted({**HOST, **headers}))
    assert said == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        f"SignedHeaders={names},Signature={signature}"
    )


@given(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=40),
    st.lists(
        st.tuples(st.text("aZ/ +=&%?é~", min_size=1, max_size=8), st.text("aZ/ +=&%?é~", max_size=8)),
        max_size=4,
    ),
)
def test_a_target_has_nothing_in_it_that_ends_a_line_or_a_path(
    path: str, query: list[tuple[str, str]]
) -> None:
    said = target(f"/{path}", query)
    assert said.isascii()
    assert said.isprintable()
    assert " " not in said
    assert "#" not in said
    assert said.count("?") == bool(query)
    assert target(f"/{path}", query[::-1]) == said


def test_a_signature_depends_on_all_that_is_signed() -> None:
    base = authorization(EXAMPLE, "GET", "/a", [("x", "1")], {**HOST, **NONE})
    assert "wJalr" not in base
    assert "wJalr" not in repr(EXAMPLE)
    for other in (
        authorization(EXAMPLE, "HEAD", "/a", [("x", "1")], {**HOST, **NONE}),
        authorization(EXAMPLE, "GET", "/b", [("x", "1")], {**HOST, **NONE}),
        authorization(EXAMPLE, "GET", "/a", [("x", "2")], {**HOST, **NONE}),
        authorization(EXAMPLE, "GET", "/a", [("x", "1")], {**HOST, **NONE, "if-match": '"1"'}),
        authorization(Signer("A", "B", "eu"), "GET", "/a", [("x", "1")], {**HOST, **NONE}),
    ):
        assert other != base


def test_what_a_listing_says_is_read_and_the_rest_passed_over() -> None:
    document = b"""<?xml version="1.0" encoding="UTF-8"?>
    <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>
      <IsTruncated>true</IsTruncated><NextContinuationToken>to&amp;ken</NextContinuationToken>
      <Contents><Key>a&lt;b</Key><Size>12</Size><Owner><ID>x</ID></Owner></Contents>
      <Contents><Key>c</Key><ETag>"1"</ETag></Contents></ListBucketResult>"""
    assert read(document) == Listing("ListBucketResult", (Entry("a<b", 12), Entry("c", 0)), "to&ken")
    assert read(document.replace(b"true", b"false")).next == ""
    assert read(b"<I><UploadId>u</UploadId></I>") == Listing("I", (), "", "u")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_listing_or_refused(data: bytes) -> None:
    for document in (data, b"<r><Contents>" + data + b"</Contents></r>"):
        with contextlib.suppress(BadAnswer):
            assert len(read(document).entries) <= 1000
