"""Processes that the kernel kills at a write while they seal: the old blob is there, or the new, whole."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bridge_agent.models.blob_files import PartialBlob
from bridge_agent.models.piece_rules import piece_count, span
from bridge_core.sealing.blobs import HEADER_BYTES, SEGMENT_BYTES, sealed_size, segment_at
from bridge_core.sealing.sealer import new_data_key
from tests.contract.sealed_bed import SealedStore

SIZE = 5 * SEGMENT_BYTES + 700  # two pieces
DATA = random.Random(7).randbytes(SIZE)
HEX = hashlib.sha256(DATA).hexdigest()
# Where in a file a write is cut: in the header and around it, in segments and at their seams, in the last.
CUTS = [
    1,
    100,
    HEADER_BYTES // 2,
    HEADER_BYTES // 2 + 90,
    HEADER_BYTES,
    HEADER_BYTES + 60,
    segment_at(1),
    segment_at(3) + 5000,
    segment_at(4),
    segment_at(5) + 3,
    sealed_size(SIZE) - 1,
]


def killed_at(limit: int, work: Callable[[], object]) -> bool:
    """Does something in a process that the kernel kills at a write beyond `limit` bytes of a file."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            work()
            status = 0
        finally:
            os._exit(status)
    _, ended = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(ended) or os.WEXITSTATUS(ended) == 0, ended
    return os.WIFSIGNALED(ended)


def opened(store: SealedStore) -> tuple[bool, bytes]:
    """Whether the blob lies sealed, and its text."""
    found = store.blobs.open(HEX)
    assert found is not None
    with found:
        return found.sealed, found.read(0, found.size)


def seal_what_was_there(folder: Path) -> None:
    for limit in CUTS:
        store = SealedStore(folder / f"seal-{limit}")
        store.put(DATA)
        assert killed_at(limit, store.seal_all)
        assert opened(store) == (False, DATA)
        store.seal_all()
        assert opened(store) == (True, DATA)
        assert list((store.root / "bridge-partial").iterdir()) == []


def wrap_anew(folder: Path) -> None:
    store = SealedStore(folder / "wrap")
    store.put(DATA)
    store.seal_all()
    for limit in CUTS[:5]:
        new_data_key(store.where)
        store.later()
        store.keys.ring()  # as an agent has it by then
        assert killed_at(limit, store.seal_all) is (limit < HEADER_BYTES)
        assert opened(store) == (True, DATA)
        store.seal_all()
        assert opened(store) == (True, DATA)


def fetch(folder: Path) -> None:
    def all_of_it(store: SealedStore) -> None:
        partial = PartialBlob(store.root, HEX, SIZE, keys=store.keys)
        for piece in range(piece_count(SIZE)):
            if piece not in partial.hashes:
                begin, length = span(SIZE, piece)
                data = DATA[begin : begin + length]
                partial.write(piece, data, hashlib.sha256(data).hexdigest())
        assert partial.digest(lambda: False) == HEX
        partial.commit()
        partial.close()

    for limit in CUTS:
        store = SealedStore(folder / f"fetch-{limit}")
        assert killed_at(limit, lambda store=store: all_of_it(store))
        assert store.blobs.open(HEX) is None
        all_of_it(store)
        assert opened(store) == (True, DATA)


def test_killed_at_any_write_the_old_blob_or_the_new_one_is_there(tmp_path: Path) -> None:
    # In a process of its own: this one has threads, which a fork leaves behind.
    command = f"from {__name__} import main; main()"
    subprocess.run([sys.executable, "-c", command, str(tmp_path)], check=True, timeout=300)


def main() -> None:
    for work in (seal_what_was_there, wrap_anew, fetch):
        work(Path(sys.argv[1]))
