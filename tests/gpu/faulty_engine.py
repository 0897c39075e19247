#!/usr/bin/env python3
"""An engine with a CUDA context that writes wildly when told to: POST /fault {"cuda": "wild"}."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from cuda_client import Cuda

_SPEC = importlib.util.spec_from_file_location(
    "fake_ollama", Path(__file__).parent.parent / "fakes" / "fake_ollama.py"
)
fake_ollama = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fake_ollama)


class Handler(fake_ollama.Handler):
    cuda: Cuda

    def body(self) -> dict:
        body = super().body()
        if "cuda" in body:
            print(f"CUDA says {self.cuda.write_wildly()}", file=sys.stderr, flush=True)
            os.abort()  # as llama.cpp does when CUDA fails
        return body


def main() -> None:
    # Connected before it answers: it is a client of its MPS server from then on.
    Handler.cuda = Cuda()
    if not Handler.cuda.take(1 << 20):
        sys.exit("no memory on the GPU")
    fake_ollama.Handler = Handler
    fake_ollama.main()


if __name__ == "__main__":
    main()
