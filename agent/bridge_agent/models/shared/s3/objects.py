"""What is asked of a store by readers and writers alike."""

from __future__ import annotations

from bridge_agent.models.shared.s3 import listing_rules
from bridge_agent.models.shared.s3.client import Answer, S3Client
from bridge_agent.models.shared.s3.fault import S3Fault, is_missing
from bridge_agent.models.shared.s3.listing_rules import BadAnswer, Listing
from bridge_agent.models.shared.storage import Stamp


def head(client: S3Client, key: str) -> Stamp | None:
    """An object's ETag and size; None: there is none, in a bucket that is there. Raises S3Fault."""
    try:
        answer = client.ask("HEAD", key)
    except S3Fault as fault:
        if not is_missing(fault):
            raise
        # An answer to HEAD has no body: whether it is the bucket that is missing says one to GET.
        read(client, key, most=0)
        return None
    if answer.length < 0 or not answer.etag:
        raise S3Fault("it says neither size nor ETag of an object")
    return Stamp(answer.etag, answer.length)


def read(client: S3Client, key: str, *, most: int) -> bytes | None:
    """A small object; None: there is none, in a bucket that is there. Raises S3Fault."""
    try:
        return client.ask("GET", key, most=most).body
    except S3Fault as fault:
        if not is_missing(fault):
            raise
        return None


def listing(answer: Answer) -> Listing:
    """What an answer says in XML. Raises S3Fault."""
    try:
        found = listing_rules.read(answer.body)
    except BadAnswer as fault:
        raise S3Fault(f"it answered what no store answers: {fault}") from None
    if found.root == "Error":  # an upload in parts is said to have failed after the 200
        raise S3Fault("it failed after it had begun to answer", status=500)
    return found
