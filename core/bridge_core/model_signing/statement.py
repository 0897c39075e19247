"""What a signature says: in-toto's statement v1 with OpenSSF Model Signing's predicate v1.0. Pure.

The files that it names are those of a folder with one model in it:

| file | what |
|---|---|
| `manifest.json` | the manifest without signatures, as `content` encodes it |
| `blobs/sha256-<hex>` | each blob that it names |

Rules:
1. It has to name `manifest.json`, with the digest of this model's. That says every blob by its digest, so a
   statement may leave blobs out; one that it names has to be this model's, with the digest in its name.
2. Every file is hashed whole, by SHA-256.

Source: https://github.com/sigstore/model-transparency (model-signing 1.1), https://github.com/in-toto/attestation.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Final

import msgspec

from bridge_core.bounds import Name, Text
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.model_signing.content import MOST_BUNDLE, Content
from bridge_core.model_signing.fault import BadSignature

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
MANIFEST: Final = "manifest.json"
_BLOB: Final = "blobs/sha256-"
_TYPE: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "https://model_signing/signature/v1.0"
_MOST_FILES: Final = 2048

_HEX: Final = re.compile("[0-9a-f]{64}")


class _Subject(msgspec.Struct):
    name: Name
    digest: Annotated[dict[Text, Text], msgspec.Meta(max_length=4)]


class _Serialization(msgspec.Struct):
    method: Text
    hash_type: Text


class _Resource(msgspec.Struct):
    name: Name
    algorithm: Text
    digest: Annotated[str, msgspec.Meta(max_length=256)]


class _Predicate(msgspec.Struct):
    serialization: _Serialization
    resources: Annotated[list[_Resource], msgspec.Meta(max_length=_MOST_FILES)]


class _Statement(msgspec.Struct, rename={"type_": "_type", "predicate_type": "predicateType"}):
    type_: Text
    subject: Annotated[list[_Subject], msgspec.Meta(max_length=16)]
    predicate_type: Text
    predicate: _Predicate


def check_statement(payload: bytes, content: Content) -> None:
    """Returns when a statement is about this model.

    Raises:
        BadSignature: it is not, or is no statement that is taken.
    """
    try:
        said = decode_json(payload, _Statement, most=MOST_BUNDLE)
    except Undecodable as fault:
        raise BadSignature(f"what is signed is no statement about files: {fault.message}") from fault
    if (said.type_, said.predicate_type) != (_TYPE, _PREDICATE):
        raise BadSignature(f"what is signed is a {said.predicate_type[:80]!r}, and no model")
    how = said.predicate.serialization
    if (how.method, how.hash_type) != ("files", "sha256"):
        raise BadSignature(
            f"its files are hashed as {how.method[:20]!r} by {how.hash_type[:20]!r}, and only whole files by "
            "sha256 are taken"
        )
    if len(said.subject) != 1 or said.subject[0].digest != {"sha256": _root(said.predicate.resources)}:
        raise BadSignature("its subject is not what its files add up to")
    _check_files(said.predicate.resources, content)


def _check_files(resources: list[_Resource], content: Content) -> None:
    blobs, seen = content.blobs, set[str]()
    for one in resources:
        if one.algorithm != "sha256" or one.name in seen:
            raise BadSignature(f"its file {one.name[:80]!r} is there twice, or not hashed by sha256")
        seen.add(one.name)
        if one.name == MANIFEST:
            if one.digest != content.digest:
                raise BadSignature("it is of a model with another manifest")
        elif one.name != f"{_BLOB}{one.digest}" or one.digest not in blobs:
            raise BadSignature(f"its file {one.name[:80]!r} is none of this model's")
    if MANIFEST not in seen:
        raise BadSignature(f"it says nothing of the model's {MANIFEST}")


def write_statement(name: str, content: Content) -> bytes:
    """The statement about a model, which it calls by this name: of its manifest and every blob."""
    files = {f"{_BLOB}{hex_}": hex_ for hex_ in content.blobs} | {MANIFEST: content.digest}
    resources = [_Resource(file, "sha256", files[file]) for file in sorted(files)]
    serialization = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    return msgspec.json.encode(
        {
            "_type": _TYPE,
            "subject": [_Subject(name, {"sha256": _root(resources)})],
            "predicateType": _PREDICATE,
            "predicate": {"serialization": serialization, "resources": resources},
        }
    )


def _root(resources: list[_Resource]) -> str:
    """The digest over all digests, in the order in which they stand.

    Raises:
        BadSignature: one of them is none.
    """
    whole = hashlib.sha256()
    for one in resources:
        if _HEX.fullmatch(one.digest) is None:
            raise BadSignature(f"the digest of its file {one.name[:80]!r} is not one of sha256")
        whole.update(bytes.fromhex(one.digest))
    return whole.hexdigest()
