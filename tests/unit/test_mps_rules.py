"""What MPS is told, and what its logs mean."""

import pytest

from bridge_agent.limits import mps_rules as rules
from bridge_agent.limits.gpu import Gpu, MigSlice, select
from bridge_agent.limits.mps_rules import MpsFault, MpsShare, Quarantine

GIB = 1 << 30
GOODBYE = (
    "[2026-11-24 03:14:36.911 Server  1219] Server failed to recevie command with status 806,"
    " assuming client {PID: 1215, Context ID: 1} exit"
)


def test_the_memory_limit_is_shared_out_over_an_engines_processes() -> None:
    environment = rules.client_environment("/run/p", "/run/l", MpsShare(75, 8 * GIB), models=2)
    assert environment == {
        "CUDA_MPS_PIPE_DIRECTORY": "/run/p",
        "CUDA_MPS_LOG_DIRECTORY": "/run/l",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "75",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=4096M",
    }


@pytest.mark.parametrize(
    ("share", "mig", "says"),
    [
        (MpsShare(thread_percentage=0), False, "1 to 100"),
        (MpsShare(thread_percentage=101), False, "1 to 100"),
        (MpsShare(memory_bytes=0), False, "more than 0"),
        (MpsShare(memory_bytes=9 * GIB), False, "the device has"),
        (MpsShare(), True, "MIG is enabled"),
    ],
)
def test_shares_that_cannot_be_given_are_named(share: MpsShare, mig: bool, says: str) -> None:
    assert any(says in fault for fault in rules.faults(share, 8 * GIB, mig=mig))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (
            "[2026-11-23 10:00:00.000 Server   812] Received fatal exception from client process 901",
            MpsFault("client_fault", 901, "Received fatal exception from client process 901"),
        ),
        (
            "[2026-11-23 10:00:00.000 Control   800] Server 812 exited with status 1",
            MpsFault("server_exit", 812, "Server 812 exited with status 1"),
        ),
        # As driver 580 tells of a wild write on an H200.
        (
            "[2026-11-24 03:14:36 Server  1219] Client {PID: 1, Context: 1} encountered a fatal GPU error.",
            MpsFault("client_fault", 1, "Client {PID: 1, Context: 1} encountered a fatal GPU error."),
        ),
        (
            "[2026-11-24 03:14:36.864 Server  1219] Server is handling a fatal GPU error.",
            MpsFault("client_fault", 0, "Server is handling a fatal GPU error."),
        ),
        (
            "[2026-11-24 03:14:36.864 Server  1219] The following client process have a sticky error set:",
            None,
        ),
        (GOODBYE, None),
        ("[2026-11-24 03:14:33.827 Control  1165] Cmd:get_default_active_thread_percentage", None),
        ("[2026-11-24 03:14:34.268 Control  1165] User did not send valid credentials", None),
        ("[2026-11-23 10:00:00.000 Control   800] Server 812 exited with status 0", None),
        ("[2026-11-23 10:00:00.000 Control   800] Accepting connection...", None),
        ("no log line at all", None),
    ],
)
def test_log_lines_are_read(line: str, fault: MpsFault | None) -> None:
    assert rules.read_log_line(line) == fault


def test_an_instance_that_faults_again_and_again_is_quarantined() -> None:
    state = Quarantine()
    for _ in range(3):
        assert not state.quarantined("n/0")
        state = state.blame("n/0")
    assert state.quarantined("n/0")
    assert not state.quarantined("n/1")


def test_one_that_is_named_now_and_then_is_not() -> None:
    state = Quarantine()
    for name in ("n/0", "n/1", "n/0", "n/2", "n/3", "n/0", "n/1", "n/2", "n/0"):
        state = state.blame(name)
    assert not state.out
    for _ in range(3):
        state = state.blame("n/1")
    assert state.out == {"n/1"}
    for _ in range(5):
        state = state.blame("n/2")
    assert state.quarantined("n/1"), "others' faults do not bring it back"


def test_a_gpu_is_named_by_index_uuid_prefix_or_slice() -> None:
    gpus = [Gpu(0, "GPU-aa11", "A", 1, 1), Gpu(1, "GPU-bb22", "B", 1, 1, slices=(MigSlice("MIG-cc", 1, 1),))]
    assert select(gpus, "1") == gpus[1]
    assert select(gpus, "GPU-aa") == gpus[0]
    assert select(gpus, "MIG-cc") == gpus[1].slices[0]
    for wanted, says in (("7", "is not there"), ("GPU-", "fits several"), ("", "is not there")):
        with pytest.raises(LookupError, match=says):
            select(gpus, wanted)
