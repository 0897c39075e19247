"""NVIDIA's GPUs through NVML (nvidia-ml-py)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pynvml

from bridge_agent.limits.gpu import Gpu, GpuInventory, GpuProcess, MigSlice, NoGpus, Xid

_PCI: Final = Path("/sys/bus/pci/devices")
_ONLINE: Final = Path("/sys/devices/system/cpu/online")

# What a device or an old driver does not know of is no fault.
_NO_FAULT: Final = frozenset({pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND})
_SLOWED: Final = {
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "it is too hot",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "the power supply brakes it",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "it is kept from growing too hot",
}
_ACTIONS: Final = {
    pynvml.NVML_GPU_RECOVERY_ACTION_GPU_RESET: "a reset of the GPU",
    pynvml.NVML_GPU_RECOVERY_ACTION_NODE_REBOOT: "a reboot of the machine",
    pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_P2P: "its links to other GPUs drained",
    pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_AND_RESET: "a drain, then a reset of the GPU",
}


def open_inventory() -> tuple[GpuInventory, str]:
    """NVML's inventory, or an empty one with the reason why NVML is not to be had."""
    try:
        return Nvml(), ""
    except pynvml.NVMLError as fault:
        return NoGpus(), str(fault)


class Nvml:
    """See `GpuInventory`. Raises pynvml.NVMLError where the driver is missing."""

    def __init__(self) -> None:
        pynvml.nvmlInit()
        self._known: dict[int, Gpu] = {}
        self._open = True
        self._events = pynvml.nvmlEventSetCreate()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            _optional(
                pynvml.nvmlDeviceRegisterEvents, handle, pynvml.nvmlEventTypeXidCriticalError, self._events
            )

    def read(self) -> tuple[Gpu, ...]:
        """Every GPU; one that was seen before and answers no more keeps its place with a fault."""
        try:
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as fault:  # the driver itself is gone
            self._known = {index: _lost(gpu, fault) for index, gpu in self._known.items()}
            count = 0
        for index in range(count):
            try:
                self._known[index] = _read(index)
            except pynvml.NVMLError as fault:
                if index in self._known:
                    self._known[index] = _lost(self._known[index], fault)
        return tuple(self._known[index] for index in sorted(self._known))

    def wait_xid(self, timeout_s: float) -> Xid | None:
        """The next critical error; None after `timeout_s`, also where events are not supported."""
        try:
            event = pynvml.nvmlEventSetWait_v2(self._events, int(timeout_s * 1000))
            return Xid(_text(pynvml.nvmlDeviceGetUUID(event.device)), int(event.eventData))
        except pynvml.NVMLError as fault:
            if fault.value != pynvml.NVML_ERROR_TIMEOUT:  # comes at once, and again and again
                time.sleep(timeout_s)
            return None

    def close(self) -> None:
        """Frees the event set and shuts NVML down, once."""
        if not self._open:
            return
        self._open = False
        _optional(pynvml.nvmlEventSetFree, self._events)
        _optional(pynvml.nvmlShutdown)


def _lost(gpu: Gpu, fault: Exception) -> Gpu:
    return Gpu(gpu.index, gpu.uuid, gpu.name, gpu.memory_bytes, 0, fault=f"it answers no more: {fault}")


class _Questions:
    """Asks one device, and keeps what it could not answer: only what it does not support is no fault.

    Whatever else NVML says, nobody knows any more what the device does, so that it counts against it.
    """

    def __init__(self) -> None:
        self.fault = ""

    def ask(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        """What NVML answers, or None where it has no answer."""
        try:
            return ask(*arguments)
        except pynvml.NVMLError as fault:
            if fault.value not in _NO_FAULT and not self.fault:
                self.fault = f"NVML cannot read it: {fault}"
            return None


def _read(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    questions = _Questions()
    total, free, reserved = _memory(handle)
    mode = _optional(pynvml.nvmlDeviceGetMigMode, handle)
    mig = bool(mode and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE)
    milliwatts = questions.ask(pynvml.nvmlDeviceGetPowerUsage, handle)
    # A device that is cut into slices has no utilisation of its own to tell.
    rates = None if mig else questions.ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    temperature = questions.ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    slowed = questions.ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle) or 0
    ecc = questions.ask(
        pynvml.nvmlDeviceGetTotalEccErrors,
        handle,
        pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
        pynvml.NVML_VOLATILE_ECC,
    )
    return Gpu(
        index=index,
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        memory_bytes=total,
        free_bytes=free,
        temperature_c=temperature,
        power_w=None if milliwatts is None else milliwatts / 1000,
        utilization=None if rates is None else int(rates.gpu),
        ecc_uncorrected=ecc,
        mig=mig,
        slices=_slices(handle) if mig else (),
        processes=_processes(handle),
        compute_capability=_optional(pynvml.nvmlDeviceGetCudaComputeCapability, handle) or (0, 0),
        fault=_fault(handle, questions, ecc),
        throttled=", ".join(words for bit, words in _SLOWED.items() if slowed & bit),
        reserved_bytes=reserved,
        cpus=_cpus(handle),
    )


def _fault(handle: Any, questions: _Questions, ecc: int | None) -> str:
    """Why the device may not be used; empty: it may."""
    if ecc:
        return f"{ecc} uncorrectable memory errors since it was reset"
    action = _recovery_action(handle)
    return questions.fault or (f"the driver calls for it: {action}" if action else "")


def _recovery_action(handle: Any) -> str:
    """What the driver says has to be done to the device; empty: nothing, or it cannot say (before 550)."""
    told = _optional(pynvml.nvmlDeviceGetFieldValues, handle, [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
    if not told or told[0].nvmlReturn != pynvml.NVML_SUCCESS:
        return ""
    return _ACTIONS.get(int(told[0].value.uiVal), "")


def _memory(handle: Any) -> tuple[int, int, int]:
    """Total, free and reserved bytes. Only the second version parts what the driver keeps from what is
    in use, as nvidia-smi does; drivers before 510 and some slices know the first one alone.
    """
    try:
        told = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        return int(told.total), int(told.free), int(told.reserved)
    except pynvml.NVMLError:
        told = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return int(told.total), int(told.free), 0


def _cpus(handle: Any) -> str:
    """The CPUs of the device's NUMA node; empty where the machine has one node, or none is told."""
    pci = _optional(pynvml.nvmlDeviceGetPciInfo, handle)
    if pci is None:
        return ""
    # NVML writes the PCI domain with eight digits, the kernel with four.
    folder = _PCI / _text(pci.busId).lower()[-12:]
    try:
        node = int((folder / "numa_node").read_text())
        near = (folder / "local_cpulist").read_text().strip()
        return near if node >= 0 and near != _ONLINE.read_text().strip() else ""
    except (OSError, ValueError):
        return ""


def _slices(handle: Any) -> tuple[MigSlice, ...]:
    found = []
    for number in range(_optional(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = _optional(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
        if part is not None:
            total, free, _ = _memory(part)
            found.append(MigSlice(_text(pynvml.nvmlDeviceGetUUID(part)), total, free))
    return tuple(found)


def _processes(handle: Any) -> tuple[GpuProcess, ...]:
    listed = _optional(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
    return tuple(GpuProcess(int(process.pid), process.usedGpuMemory) for process in listed)


def _optional(ask: Callable[..., Any], *arguments: Any) -> Any:
    """What NVML answers, or None where this device does not support the question."""
    try:
        return ask(*arguments)
    except pynvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
