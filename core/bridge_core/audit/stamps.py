"""Time stamps of a log's heads (RFC 3161), which lie beside it.

| file | what |
|---|---|
| `stamps/<size>.checkpoint` | a signed head, as it was |
| `stamps/<size>.tsr` | what a time-stamp authority answered for that file |

So a stranger checks one with `openssl ts -verify -data 7.checkpoint -in 7.tsr -CAfile root.pem`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bridge_core.errors import BridgeError

if TYPE_CHECKING:
    from cryptography import x509

FOLDER: Final = "stamps"
HEAD: Final = ".checkpoint"
ANSWER: Final = ".tsr"
MAX_ANSWER: Final = 64 * 1024
_GRANTED: Final = 0
_SHA256: Final = "2.16.840.1.101.3.4.2.1"


class BadStamp(BridgeError):
    """A time stamp that cannot be used; the message says why."""


def paths(size: int) -> tuple[str, str]:
    """Where the head of so many records and its stamp lie."""
    return f"{FOLDER}/{size}{HEAD}", f"{FOLDER}/{size}{ANSWER}"


def sizes(folder: Path) -> list[int]:
    """Of the stamped heads in a log's folder, ascending. Raises OSError."""
    found = (folder / FOLDER).glob(f"*{ANSWER}")
    return sorted(int(one.stem) for one in found if one.stem.isascii() and one.stem.isdigit())


def is_file_of_stamps(path: str) -> bool:
    """Whether a log may have a file of this name below `stamps`."""
    kind, _, name = path.partition("/")
    number = name.removesuffix(HEAD if name.endswith(HEAD) else ANSWER)
    return kind == FOLDER and number != name and number.isascii() and number.isdigit() and len(number) < 17


def request(head: bytes) -> tuple[bytes, int]:
    """What an authority is asked for a head, DER, and the nonce in it.

    Raises:
        BadStamp: the library for it is not installed.
    """
    library = _library()
    made = (
        library.TimestampRequestBuilder()
        .data(head)
        .hash_algorithm(library.HashAlgorithm.SHA256)
        .nonce(nonce=True)
        .cert_request(cert_request=True)
        .build()
    )
    return made.as_bytes(), made.nonce


def read(answer: bytes, head: bytes, nonce: int | None = None) -> float:
    """The time (Unix seconds) that an answer says for a head. Who signed it is not looked at.

    Raises:
        BadStamp: it is no stamp of this head, or (if given) of another request.
    """
    return _read(answer, head, nonce)[1]


def check(answer: bytes, head: bytes, roots: Sequence[x509.Certificate]) -> None:
    """Checks that an authority below one of these roots stamped the head.

    Raises:
        BadStamp: none did.
    """
    found, _ = _read(answer, head, None)
    library = _library()
    # A builder of its own: the library's keeps its lists from one to the next.
    verifier = library.VerifierBuilder(roots=list(roots), intermediates=[]).build()
    try:
        verifier.verify(found, hashlib.sha256(head).digest())
    except (library.VerificationError, ValueError) as fault:
        raise BadStamp(f"it is not signed by an authority that you trust: {fault}") from fault


def _read(answer: bytes, head: bytes, nonce: int | None) -> tuple[Any, float]:
    if len(answer) > MAX_ANSWER:
        raise BadStamp(f"an answer of more than {MAX_ANSWER} bytes")
    library = _library()
    try:
        found = library.decode_timestamp_response(answer)
        if found.status != _GRANTED:
            said = "; ".join(map(str, found.status_string))[:200]
            raise BadStamp(f"the authority did not stamp it (status {found.status}) {said}".rstrip())
        told = found.tst_info
        imprint = told.message_imprint
        algorithm, hashed = imprint.hash_algorithm.dotted_string, imprint.message
        at, given = told.gen_time.timestamp(), told.nonce
    except (ValueError, TypeError, OverflowError) as fault:
        raise BadStamp(f"not a time stamp: {fault}") from fault
    if algorithm != _SHA256 or hashed != hashlib.sha256(head).digest():
        raise BadStamp("it is the stamp of something else")
    if nonce is not None and given != nonce:
        raise BadStamp("it is the answer to another request")
    return found, at


def _library() -> Any:
    try:
        import rfc3161_client  # few meshes have their logs stamped
    except ImportError as fault:
        raise BadStamp(
            "rfc3161-client is not installed", hint='pip install "deepseek-ollama-bridge[timestamps]"'
        ) from fault
    return rfc3161_client
