"""A CUDA program of its own, over the driver's library alone.

cuda_client.py hold BYTES   takes memory, prints "holding", keeps it until its input ends
cuda_client.py take BYTES   takes memory in pieces of 64 MiB until refused or BYTES; prints free, total, taken
cuda_client.py fault        writes to an address that is nobody's; prints the driver's error code
"""

from __future__ import annotations

import ctypes
import sys

PIECE = 64 << 20
WILD_WRITE = b"""
.version 7.0
.target sm_75
.address_size 64
.visible .entry wild()
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    mov.u64 %rd1, 16;
    mov.u32 %r1, 1;
    st.global.u32 [%rd1], %r1;
    ret;
}
"""


class Cuda:
    """The first visible device, with a context."""

    def __init__(self) -> None:
        self.cuda = ctypes.CDLL("libcuda.so.1")
        context = ctypes.c_void_p()
        self.check(self.cuda.cuInit(0))
        device = ctypes.c_int()
        self.check(self.cuda.cuDeviceGet(ctypes.byref(device), 0))
        self.check(self.cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
        self.context = context
        self.check(self.cuda.cuCtxSetCurrent(context))

    def check(self, code: int) -> None:
        if code:
            raise SystemExit(f"CUDA error {code}")

    def take(self, size: int) -> bool:
        pointer = ctypes.c_uint64()
        return self.cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size)) == 0

    def memory(self) -> tuple[int, int]:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.check(self.cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
        return free.value, total.value

    def write_wildly(self) -> int:
        self.check(self.cuda.cuCtxSetCurrent(self.context))  # in whichever thread this is
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.check(self.cuda.cuModuleLoadData(ctypes.byref(module), WILD_WRITE))
        self.check(self.cuda.cuModuleGetFunction(ctypes.byref(function), module, b"wild"))
        self.check(self.cuda.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, None, None, None))
        return int(self.cuda.cuCtxSynchronize())


def main() -> None:
    cuda = Cuda()
    if sys.argv[1] == "fault":
        print(cuda.write_wildly(), flush=True)
    elif sys.argv[1] == "hold":
        print("holding" if cuda.take(int(sys.argv[2])) else "refused", flush=True)
        sys.stdin.read()
    else:
        free, total = cuda.memory()
        pieces = 0
        while (pieces + 1) * PIECE <= int(sys.argv[2]) and cuda.take(PIECE):
            pieces += 1
        print(free, total, pieces * PIECE, flush=True)


if __name__ == "__main__":
    main()
