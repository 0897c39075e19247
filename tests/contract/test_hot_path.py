"""What a request costs, in a figure that a busy machine does not change."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.in_memory import GUARDED, HOP, LOCAL, TOKEN, TRACED_HOP, instructions
from bridge_core.form import form

# Counted on CPython 3.11 when this was written: 2,685, 5,899, 6,299, 6,398 and 377; a twentieth is left to
# grow, and a tenth to the last two.
# Who needs more looks first at what a request does twice: `python -m bench in-memory` prints all.
PURE = {LOCAL: 2_820, HOP: 6_190, TRACED_HOP: 6_610, GUARDED: 6_980, TOKEN: 415}
# Of 8, 25, 321, 44 and 0: more are a module of the hot path that is compiled no longer. What reads
# traceparent is not: traces are an option.
COMPILED = {LOCAL: 40, HOP: 80, TRACED_HOP: 480, GUARDED: 120, TOKEN: 20}


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other versions have other instructions")
async def test_a_request_takes_no_more_instructions_than_it_did(tmp_path: Path) -> None:
    most = COMPILED if form().modules else PURE
    found = await instructions(tmp_path)
    assert {name: count for name, count in found.items() if count > most[name]} == {}
