"""The header of a GGUF file: metadata and tensor list, without the weights.

Written here because the wheel's reader builds a numpy view for every array element: 2.3 s for the
49,152 tokens of a small model, seconds for a large one, where listing models needs a dozen scalars.
Long arrays are skipped and remembered by their position; `array` reads one when it is asked for.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from bridge_core.errors import BridgeError

if TYPE_CHECKING:
    from bridge_core.model_store.open_blob import OpenBlob

_MAGIC: Final = b"GGUF"
_SCALARS: Final = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_STRING: Final = 8
_ARRAY: Final = 9
# What a header may claim: whoever uploads one must not get memory or hours for a few bytes.
_MAX_ENTRIES: Final = 1 << 17  # the largest models have 50,000 tensors
_MAX_STRINGS: Final = 16 << 20  # bytes of all keys, names and texts together
_MAX_ELEMENTS: Final = 1 << 23  # of all arrays of strings together; the largest vocabularies have 2^18
_MAX_WEIGHTS: Final = 1 << 63
_MAX_SEALED_HEADER: Final = 256 << 20  # of a sealed file it is opened into memory, in growing steps
_FIRST_STEP: Final = 4 << 20
_DAMAGE: Final = (struct.error, LookupError, ValueError, OverflowError)  # what reading one may raise

_Data: TypeAlias = "mmap.mmap | bytes"

TENSOR_TYPES: Final = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K",
    11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32",
    27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip
FILE_TYPES: Final = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 38: "MXFP4",
}  # fmt: skip


class NotGguf(BridgeError):
    """The file is not GGUF, or its header is cut off or senseless."""


class Array(NamedTuple):
    """An array of the metadata that was not read: where it is and how long."""

    element: int
    length: int
    offset: int


class GgufTensor(NamedTuple):
    """One tensor: name, type by name, dimensions as the file lists them."""

    name: str
    type: str
    shape: list[int]


class GgufHeader(NamedTuple):
    """What the header says; arrays of `metadata` are `Array`s."""

    path: Path
    metadata: dict[str, Any]
    tensors: list[GgufTensor]
    data: Callable[[], AbstractContextManager[_Data]]

    @property
    def architecture(self) -> str:
        """`general.architecture`, or "unknown"."""
        return str(self.metadata.get("general.architecture", "unknown"))

    def architecture_value(self, key: str) -> Any:
        """The metadata value `<architecture>.<key>`, or None."""
        return self.metadata.get(f"{self.architecture}.{key}")

    def architecture_count(self, key: str) -> int:
        """The same where it is a number that a count can be, else 0."""
        value = self.architecture_value(key)
        return value if type(value) is int and 0 < value < 1 << 31 else 0

    @property
    def parameters(self) -> int:
        """How many weights all tensors have."""
        total = 0
        for tensor in self.tensors:
            count = 1
            for size in tensor.shape:
                count *= size
            total += count
        return total

    @property
    def file_type(self) -> str:
        """The quantisation by name, or "unknown"."""
        kind = self.metadata.get("general.file_type")
        return FILE_TYPES.get(kind, "unknown") if isinstance(kind, int) else "unknown"

    def array(self, key: str) -> list[Any]:
        """Reads an array of the metadata; empty where there is none under `key`.

        Raises:
            NotGguf: the file changed since the header was read.
        """
        where = self.metadata.get(key)
        if not isinstance(where, Array):
            return []
        with self.data() as data:
            reader = _Reader(data, where.offset)
            return [reader.value(where.element) for _ in range(where.length)]


def read_header(path: Path) -> GgufHeader:
    """Reads metadata and tensor list.

    Raises:
        NotGguf: the file is no GGUF file or is damaged.
        OSError: it cannot be read.
    """

    @contextlib.contextmanager
    def mapped() -> Iterator[mmap.mmap]:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data

    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise NotGguf("supplied file was not in GGUF format")
    try:
        with mapped() as data:
            return GgufHeader(path, *_parse(_Reader(data, 4)), mapped)
    except _DAMAGE as fault:
        raise NotGguf(f"damaged GGUF header: {fault}") from fault


def read_sealed_header(path: Path, blob: OpenBlob) -> GgufHeader:
    """The same of a sealed blob: only its beginning is opened, and stays in memory as far as the header goes.

    So the arrays take no key later on, which may be withdrawn by then.

    Args:
        path: Of the file.
        blob: What it holds.

    Raises:
        NotGguf: what is in it is no GGUF file, is damaged, or has a header beyond all measure.
        BridgeError: it does not open.
        OSError: it cannot be read.
    """
    if blob.read(0, 4) != _MAGIC:
        raise NotGguf("supplied file was not in GGUF format")
    length, most = _FIRST_STEP, min(blob.size, _MAX_SEALED_HEADER)
    while True:
        reader = _Reader(blob.read(0, min(length, most)), 4)
        try:
            metadata, tensors = _parse(reader)
        except NotGguf:
            if length >= most:
                raise
        except _DAMAGE as fault:
            if length >= most:
                raise NotGguf(f"damaged GGUF header: {fault}") from fault
        else:
            return GgufHeader(path, metadata, tensors, _held(reader.done()))
        length *= 4


def _held(data: bytes) -> Callable[[], AbstractContextManager[bytes]]:
    return lambda: contextlib.nullcontext(data)


def _parse(reader: _Reader) -> tuple[dict[str, Any], list[GgufTensor]]:
    version = reader.u32()
    if version not in (2, 3):
        raise NotGguf(f"unsupported GGUF version {version}")
    tensors, entries = reader.u64(), reader.u64()
    if tensors > _MAX_ENTRIES or entries > _MAX_ENTRIES:
        raise NotGguf("damaged GGUF header: senseless number of entries")
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        key = reader.string()
        metadata[key] = reader.value(reader.u32())
    return metadata, [reader.tensor() for _ in range(tensors)]


class _Reader:
    """A cursor over the file, mapped or in memory; every read past the end raises."""

    def __init__(self, data: _Data, offset: int) -> None:
        self.data = data
        self._at = offset
        self._strings = 0  # bytes read so far
        self._elements = 0

    def done(self) -> bytes:
        """All that was read."""
        return self.data[: self._at]

    def u32(self) -> int:
        value: int = _U32.unpack_from(self.data, self._at)[0]
        self._at += 4
        return value

    def u64(self) -> int:
        value: int = _U64.unpack_from(self.data, self._at)[0]
        self._at += 8
        return value

    def string(self) -> str:
        length = self.u64()
        self._strings += length
        if self._strings > _MAX_STRINGS:
            raise NotGguf("damaged GGUF header: senseless amount of text")
        self._advance(length)
        return self.data[self._at - length : self._at].decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        scalar = _SCALARS[kind]
        value = scalar.unpack_from(self.data, self._at)[0]
        self._at += scalar.size
        return value

    def tensor(self) -> GgufTensor:
        name = self.string()
        dimensions = self.u32()
        if dimensions > 8:
            raise NotGguf(f"damaged GGUF header: tensor with {dimensions} dimensions")
        shape = [self.u64() for _ in range(dimensions)]
        kind = self.u32()
        self.u64()  # offset into the data
        if math.prod(shape) >= _MAX_WEIGHTS:
            raise NotGguf(f"damaged GGUF header: tensor of {math.prod(shape)} weights")
        return GgufTensor(name, TENSOR_TYPES.get(kind, f"unknown type {kind}"), shape)

    def _array(self) -> Array:
        element, length = self.u32(), self.u64()
        found = Array(element, length, self._at)
        if element == _STRING:
            self._elements += length
            if self._elements > _MAX_ELEMENTS:
                raise NotGguf("damaged GGUF header: senseless number of strings")
            unpack, data, at, end = _U64.unpack_from, self.data, self._at, len(self.data)
            for _ in range(length):
                at += 8 + unpack(data, at)[0]
                if at > end:
                    raise NotGguf("damaged GGUF header: it ends early")
            self._at = at
        elif element == _ARRAY:
            raise NotGguf("damaged GGUF header: arrays of arrays are not read")
        else:
            self._advance(length * _SCALARS[element].size)
        return found

    def _advance(self, size: int) -> None:
        self._at += size
        if self._at > len(self.data):
            raise NotGguf("damaged GGUF header: it ends early")
