"""What a request costs, in a figure that a busy machine does not change."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.in_memory import HOP, LOCAL, instructions

# What was counted on CPython 3.11 when this was written is 2,768 and 6,478; a tenth is left to grow into.
# Who needs more looks first at what a request does twice: `python -m bench in-memory` prints both.
MOST = {LOCAL: 3_050, HOP: 7_100}


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other versions have other instructions")
async def test_a_request_takes_no_more_instructions_than_it_did(tmp_path: Path) -> None:
    found = await instructions(tmp_path)
    assert {name: count for name, count in found.items() if count > MOST[name]} == {}
