"""A log checked from its files alone, by code that shares nothing with the Bridge's own.

Written from C2SP's tlog-tiles, tlog-checkpoint, signed-note, tlog-cosignature and tlog-proof and from RFC
6962, with the plainest means: every tree is hashed anew from its leaves, by the recursion in the RFC's text.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from pathlib import Path

import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def tree(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, over leaf hashes."""
    count = len(leaves)
    if count == 0:
        return hashlib.sha256().digest()
    if count == 1:
        return leaves[0]
    half = 1
    while half * 2 < count:
        half *= 2
    return hashlib.sha256(b"\1" + tree(leaves[:half]) + tree(leaves[half:])).digest()


def leaf(entry: bytes) -> bytes:
    return hashlib.sha256(b"\0" + entry).digest()


def entries_of(folder: Path) -> list[bytes]:
    """Every entry of a log that was never pruned."""
    found: list[bytes] = []
    number = 0
    while (path := folder / "tile" / "entries" / f"{_number(number)}.zst").exists():
        data = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
        found += _framed(data)
        number += 1
    tail = folder / "tail" / f"{number}.entries"
    return found + (_framed(tail.read_bytes()) if tail.exists() else [])


def checkpoint_of(data: bytes, verifier_key: str) -> tuple[str, int, bytes]:
    """Origin, size and root of a checkpoint that this key signed."""
    text, signatures = data.decode().rsplit("\n\n", 1)
    name, key_id, encoded = verifier_key.split("+", 2)
    key = base64.b64decode(encoded)
    assert key[0] == 1
    assert hashlib.sha256(f"{name}\n".encode() + key).hexdigest()[:8] == key_id
    for line in signatures.splitlines():
        _, who, blob = line.split(" ")
        raw = base64.b64decode(blob)
        if who == name and raw[:4].hex() == key_id:
            Ed25519PublicKey.from_public_bytes(key[1:]).verify(raw[4:], f"{text}\n".encode())
            origin, size, root = text.split("\n")
            return origin, int(size), base64.b64decode(root)
    raise AssertionError("no signature of this key")


def cosigners_of(data: bytes, verifier_keys: list[str]) -> dict[str, int]:
    """Which of these keys cosigned a checkpoint, and when."""
    text, signatures = data.decode().rsplit("\n\n", 1)
    found = {}
    for verifier_key in verifier_keys:
        name, _, encoded = verifier_key.split("+", 2)
        key = base64.b64decode(encoded)[1:]
        key_id = hashlib.sha256(f"{name}\n".encode() + b"\4" + key).digest()[:4]
        for line in signatures.splitlines():
            _, who, blob = line.split(" ")
            raw = base64.b64decode(blob)
            if who == name and raw[:4] == key_id:
                (when,) = struct.unpack(">Q", raw[4:12])
                message = f"cosignature/v1\ntime {when}\n{text}\n".encode()
                Ed25519PublicKey.from_public_bytes(key).verify(raw[12:], message)
                found[name] = when
    return found


def included(entry: bytes, proof: str) -> tuple[int, bytes]:
    """The index of an entry that a tlog-proof proves, and the checkpoint it is proved in."""
    head, checkpoint = proof.split("\n\n", 1)
    lines = head.split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    lines = [line for line in lines[1:] if not line.startswith("extra ")]
    index = int(lines[0].removeprefix("index "))
    path = [base64.b64decode(line) for line in lines[1:]]
    _, size, root = checkpoint.split("\n")[:3]
    assert _walk(leaf(entry), index, int(size), path) == base64.b64decode(root)
    return index, checkpoint.encode()


def _walk(found: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that PATH(index, D[size]) leads to: the RFC's recursion, read backwards."""
    if size == 1:
        assert not path
        return found
    half = 1
    while half * 2 < size:
        half *= 2
    if index < half:
        return hashlib.sha256(b"\1" + _walk(found, index, half, path[:-1]) + path[-1]).digest()
    return hashlib.sha256(b"\1" + path[-1] + _walk(found, index - half, size - half, path[:-1])).digest()


def _number(number: int) -> str:
    text = f"{number:03d}" if number < 1000 else f"{number:06d}"
    groups = [text[at : at + 3] for at in range(0, len(text), 3)]
    return "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])


def _framed(data: bytes) -> list[bytes]:
    found = []
    while data:
        (length,) = struct.unpack(">H", data[:2])
        found.append(data[2 : 2 + length])
        data = data[2 + length :]
    return found
