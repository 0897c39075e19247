"""A model in shared storage: reading it cold, copying it as a pull does, 4 KiB reads; and storage that hangs.

Needs root, a Ceph (`bench/ceph_one_node.sh` and `bench/rados_gateway.sh` say which packages), nfs-ganesha
with libnfs, and fio.
"""

from __future__ import annotations

import functools
import hashlib
import json
import mmap
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import nfs_client
from bench.processes import version
from bench.results import record, table
from bridge_agent.models.blob_files import PartialBlob
from bridge_agent.models.piece_rules import piece_count, span
from bridge_agent.models.shared.patience import Patience
from bridge_agent.models.shared.s3.client import S3Client
from bridge_agent.models.shared.s3.settings import SettingsFile
from bridge_agent.models.shared.section import SharedSection
from bridge_agent.models.shared.storages import storage_of
from bridge_agent.models.shared.tier import SharedTier, TierFault
from bridge_agent.models.shared.tiered_origin import TieredOrigin

SIZE, ROUNDS = 768 << 20, 3
_SCRIPT = Path(__file__).parent / "ceph_one_node.sh"
_GATEWAY = Path(__file__).parent / "rados_gateway.sh"
_PART, _BLOCK, _WRITTEN = 4 << 20, 4096, 64 << 20
_PATIENCE_S = 2.0
_NOTE = (
    f"A blob of {SIZE >> 20} MiB; medians of {ROUNDS} rounds (least to most), caches dropped before each. "
    "Read: one thread, 4 MiB at a time; of S3 by the agent's own client, each a GET of that range. "
    "Copied: as a pull does, read there, written here, hashed, synced, "
    "renamed, one piece after the other. 4 KiB: random reads a second, no block twice; 16 at a time are 16 "
    "processes; `O_DIRECT` on the disk and CephFS; of S3 each is a GET. fio: the same reads by fio "
    "(`--rw=randread --bs=4k --direct=1`, psync one deep, libaio 16 deep), for 4 s, where files are mounted. "
    "Servers and clients are on this machine and its one disk, "
    "so this says what the ways there cost, and nothing of a network. CephFS: ceph-fuse, one OSD, one copy. "
    "NFS: nfs-ganesha of a local folder, NFSv4.0 by libnfs: this kernel has no NFS, and pulls copy only from "
    "what is mounted. S3: radosgw over the same OSD, HTTP on loopback; a copy has four ranges on their way."
)


def shared_storage(folder: Path, seconds: float, versions: list[str], command: str) -> None:
    """The row `shared-storage`."""
    if lacks := nfs_client.missing():
        raise SystemExit(f"shared-storage needs {lacks}")
    ceph, export = folder / "ceph", folder / "export"
    local = folder / "local"
    part, whole = os.urandom(_WRITTEN), hashlib.sha256()
    for _ in range(SIZE // _WRITTEN):
        whole.update(part)
    hex_ = whole.hexdigest()
    try:
        subprocess.run([str(_SCRIPT), "up", str(ceph), "8"], check=True)
        for root in (local, ceph / "cephfs", export):
            _put(root, part, hex_)
        bucket = _bucket(ceph, part, hex_)
        (folder / "nfs").mkdir()
        with nfs_client.exported(folder / "nfs", export) as url:
            rows = _rows(folder, hex_, ceph, url, bucket, max(1.0, min(seconds, 5.0)))
        hung = _hung(ceph, hex_)
    finally:
        subprocess.run([str(_GATEWAY), "down", str(ceph)], check=False)
        subprocess.run([str(_SCRIPT), "down", str(ceph)], check=False)
    head = (
        "where",
        "read cold, s",
        "MB/s",
        "copied and verified, s",
        "4 KiB, 1 at a time",
        "16 at a time",
        "fio, 1 deep",
        "16 deep",
    )
    text = f"{table(head, rows)}\n\n{_NOTE}\n\n{hung}"
    print(text, flush=True)
    versions = [*versions, _version("ceph"), _version("ganesha.nfsd", "-v"), _version("fio")]
    record("shared-storage", "A model in shared storage", command, versions, text)


def _version(program: str, flag: str = "--version") -> str:
    return version([program, flag]).partition(" (")[0].replace(" Release = V", " ")


def _put(root: Path, part: bytes, hex_: str) -> None:
    (root / "blobs").mkdir(parents=True)
    (root / "manifests").mkdir()
    with _blob(root, hex_).open("wb") as file:
        for _ in range(SIZE // _WRITTEN):
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def _blob(root: Path, hex_: str) -> Path:
    return root / "blobs" / f"sha256-{hex_}"


def _rows(
    folder: Path, hex_: str, ceph: Path, url: str, bucket: SharedSection, seconds: float
) -> list[Sequence[str]]:
    local, export = folder / "local", folder / "export"
    mounted = ceph / "cephfs"
    name = f"/blobs/sha256-{hex_}"

    def cold_ceph() -> None:
        subprocess.run([str(_SCRIPT), "cold", str(ceph)], check=True)

    def cold_s3() -> None:
        subprocess.run(["ceph", "-c", str(ceph / "ceph.conf"), "tell", "osd.0", "cache", "drop"], check=True)

    places: list[tuple[str, Callable[[], None], Callable[[], _Reader], SharedSection | None, str]] = [
        (
            "local disk (ext4)",
            functools.partial(_drop, _blob(local, hex_)),
            functools.partial(_Posix, _blob(local, hex_)),
            SharedSection(str(local), timeout_s=300.0),
            str(_blob(local, hex_)),
        ),
        (
            "CephFS (ceph-fuse)",
            cold_ceph,
            functools.partial(_Posix, _blob(mounted, hex_)),
            SharedSection(str(mounted), timeout_s=300.0),
            str(_blob(mounted, hex_)),
        ),
        (
            "NFS (ganesha, libnfs)",
            functools.partial(_drop, _blob(export, hex_)),
            _nfs(url, name),
            None,
            "",
        ),
        ("S3 (radosgw)", cold_s3, functools.partial(_S3, bucket, hex_), bucket, ""),
    ]
    rows: list[Sequence[str]] = []
    for label, cold, reader, section, fio in places:
        reads, copies = [], []
        for _ in range(ROUNDS):
            cold()
            reads.append(_timed(functools.partial(_read_all_of, reader)))
            if section is not None:
                cold()
                copies.append(_timed(functools.partial(_copy, folder / "store", section, hex_)))
                shutil.rmtree(folder / "store")
        rates = []
        for many in (1, 16):
            cold()
            rates.append(f"{_random_reads(reader, many, seconds):,.0f}")
        for deep in (1, 16):
            cold()
            rates.append(_fio(fio, deep) if fio else "no file")
        rate = SIZE / 1e6 / statistics.median(reads)
        copied = _spread(copies) if copies else "not mounted"
        rows.append((label, _spread(reads), f"{rate:,.0f}", copied, *rates))
    return rows


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


class _Reader:
    def read(self, offset: int, length: int, *, direct: bool = False) -> int:
        raise NotImplementedError

    def close(self) -> None:
        return


class _Posix(_Reader):
    """A file of a mounted file system."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self._direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
        self._buffer = mmap.mmap(-1, _PART)  # aligned, as O_DIRECT wants it

    def read(self, offset: int, length: int, *, direct: bool = False) -> int:
        """See `NfsFile.read`."""
        return os.preadv(self._direct if direct else self._file, [memoryview(self._buffer)[:length]], offset)

    def close(self) -> None:
        os.close(self._file)
        os.close(self._direct)


def _nfs(url: str, name: str) -> Callable[[], _Reader]:
    class Nfs(_Reader):
        def __init__(self) -> None:
            self._file = nfs_client.NfsFile(url, name)

        def read(self, offset: int, length: int, *, direct: bool = False) -> int:
            return self._file.read(offset, length)

    return Nfs


class _S3(_Reader):
    """An object, by the client that pulls use."""

    def __init__(self, section: SharedSection, hex_: str) -> None:
        found = storage_of(section, {}).open(hex_)
        assert found is not None
        self._blob = found

    def read(self, offset: int, length: int, *, direct: bool = False) -> int:
        """See `NfsFile.read`."""
        return len(self._blob.read(offset, length))


def _bucket(ceph: Path, part: bytes, hex_: str) -> SharedSection:
    """A radosgw over that Ceph, with the blob in it."""
    subprocess.run([str(_GATEWAY), "up", str(ceph)], check=True)
    section = SharedSection(s3=f"file:{ceph / 's3.json'}", timeout_s=300.0)
    S3Client(SettingsFile(section.s3, {}), 60.0).ask("PUT", "", most=1 << 16)
    writer = storage_of(section, {}).writer(Patience(300.0))

    def piece(number: int) -> bytes:
        begin, length = span(SIZE, number)
        return part[begin % _WRITTEN : begin % _WRITTEN + length]

    writer.blob(hex_, SIZE, piece, goes_on=lambda _: None)
    return section


def _fio(path: str, deep: int) -> str:
    """4 KiB random reads of a file a second, by fio."""
    said = subprocess.run(
        [
            *("fio", "--name=reads", "--readonly", "--rw=randread", "--bs=4k", "--direct=1", "--time_based"),
            *("--runtime=4", f"--ioengine={'psync' if deep == 1 else 'libaio'}", f"--iodepth={deep}"),
            *("--output-format=json", f"--filename={path}"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(said.stdout[said.stdout.index("{") :])
    return f"{found['jobs'][0]['read']['iops']:,.0f}"


def _drop(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _read_all_of(reader: Callable[[], _Reader]) -> None:
    _read_whole(reader())


def _read_whole(reader: _Reader) -> None:
    for offset in range(0, SIZE, _PART):
        at = offset
        while at < offset + _PART:
            at += reader.read(at, offset + _PART - at)
    reader.close()


def _copy(store: Path, section: SharedSection, hex_: str) -> None:
    """What the transfer of a pull does with the tier, in one thread."""
    (store / "blobs").mkdir(parents=True)
    origin = TieredOrigin(SharedTier(section), None)
    blob, partial = origin.open(f"sha256:{hex_}", SIZE, 0), PartialBlob(store, hex_, SIZE)
    try:
        for piece in range(piece_count(SIZE)):
            data = blob.read(piece)
            partial.write(piece, data, hashlib.sha256(data).hexdigest())
        assert partial.digest(lambda: False) == hex_
        partial.commit()
    finally:
        blob.close()
        partial.close()


def _random_reads(reader: Callable[[], _Reader], many: int, seconds: float) -> float:
    """4 KiB reads a second, of so many processes together."""
    context = multiprocessing.get_context("fork")
    ready, answers = context.Barrier(many), context.Queue()

    def work(seed: int) -> None:
        own, order = reader(), random.Random(seed)
        blocks = order.sample(range(seed, SIZE // _BLOCK, many), SIZE // _BLOCK // many)
        ready.wait()
        began, done = time.monotonic(), 0
        for block in blocks:
            own.read(block * _BLOCK, _BLOCK, direct=True)
            done += 1
            if not done % 16 and time.monotonic() - began >= seconds:
                break
        answers.put(done / (time.monotonic() - began))

    workers = [context.Process(target=work, args=(seed,)) for seed in range(many)]
    for one in workers:
        one.start()
    total = sum(answers.get() for _ in workers)
    for one in workers:
        one.join()
    return float(total)


def _hung(ceph: Path, hex_: str) -> str:
    """What a pull sees of a CephFS whose OSD was stopped."""
    subprocess.run([str(_SCRIPT), "cold", str(ceph)], check=True)
    clock = [0.0]
    tier = SharedTier(SharedSection(str(ceph / "cephfs"), timeout_s=_PATIENCE_S), lambda: clock[0])
    blob = tier.open(hex_, SIZE)
    osd = int((ceph / "osd.pid").read_text())
    os.kill(osd, signal.SIGSTOP)
    try:
        given_up = _timed(lambda: _refused(lambda: blob.piece(100)))
        again = _timed(lambda: _refused(lambda: tier.open(hex_, SIZE)))
        hanging = tier.said().hanging
    finally:
        os.kill(osd, signal.SIGCONT)
    blob.close()
    back = _timed(functools.partial(_until_back, tier, clock, hex_))
    return (
        f"The OSD stopped (SIGSTOP) in the middle of a read, `timeout_s` {_PATIENCE_S:g}: the read was given "
        f"up after {given_up:.2f} s, {hanging} thread was left at it, and the next ask was refused in "
        f"{again * 1e6:.0f} µs. {back:.1f} s after the OSD went on the blob was read again; threads left: "
        f"{tier.said().hanging}."
    )


def _refused(work: Callable[[], object]) -> None:
    try:
        work()
    except TierFault:
        return
    raise AssertionError("it was not given up")


def _until_back(tier: SharedTier, clock: list[float], hex_: str) -> None:
    while True:
        clock[0] += 1000.0  # its rest is over
        try:
            blob = tier.open(hex_, SIZE)
            blob.piece(100)
        except TierFault:
            time.sleep(0.1)
            continue
        blob.close()
        if not tier.said().hanging:
            return
