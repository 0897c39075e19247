"""`InferenceResponse` as bytes on the wire: the runtime's objects cost more than writing it here."""

from __future__ import annotations

from collections.abc import Mapping


def response(output: bytes, metadata: Mapping[str, str], *, done: bool) -> bytes:
    """The message that `InferenceResponse(output_data=output, metadata=metadata, done=done)` is.

    Raises:
        UnicodeEncodeError: a name or a value is no text.
    """
    made = b"\x0a%b%b" % (_varint(len(output)), output) if output else b""
    for name, value in metadata.items():
        key, text = name.encode(), value.encode()
        size = len(key) + len(text) + 4
        if size < 0x80:  # as nearly always: lengths of one octet
            made += b"\x12%c\x0a%c%b\x12%c%b" % (size, len(key), key, len(text), text)
            continue
        entry = b"\x0a%b%b\x12%b%b" % (_varint(len(key)), key, _varint(len(text)), text)
        made += b"\x12%b%b" % (_varint(len(entry)), entry)
    return made + b"\x18\x01" if done else made


def framed(message: bytes) -> bytes:
    """A message as gRPC sends it, not compressed."""
    return b"\0%b%b" % (len(message).to_bytes(4, "big"), message)


def _varint(number: int) -> bytes:
    """A length as protobuf writes it."""
    if number < 0x80:
        return b"%c" % number
    if number < 0x4000:
        return b"%c%c" % (number & 0x7F | 0x80, number >> 7)
    octets = bytearray()
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)
