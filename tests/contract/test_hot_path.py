"""What a request costs, in a figure that a busy machine does not change."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.in_memory import HOP, LOCAL, TOKEN, instructions
from bridge_core.form import form

# What was counted on CPython 3.11 when this was written is 2,685, 5,899 and 301; a twentieth is left to grow,
# to the token a tenth.
# Who needs more looks first at what a request does twice: `python -m bench in-memory` prints all.
PURE = {LOCAL: 2_820, HOP: 6_190, TOKEN: 330}
# Of 62, 144 and 31: more are a module of the hot path that is compiled no longer.
COMPILED = {LOCAL: 150, HOP: 300, TOKEN: 60}


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other versions have other instructions")
async def test_a_request_takes_no_more_instructions_than_it_did(tmp_path: Path) -> None:
    most = COMPILED if form().modules else PURE
    found = await instructions(tmp_path)
    assert {name: count for name, count in found.items() if count > most[name]} == {}
