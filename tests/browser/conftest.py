"""What tests of the page begin with: one browser for all tests of a file."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.browser_bed import Chromium, chromium, find_chromium


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Chromium]:
    """A browser; each of its pages has a profile of its own."""
    program = find_chromium()
    if program is None:
        pytest.skip("SKIPPED LOUDLY: there is no browser (Debian: apt-get install chromium)")
    async with chromium(program, tmp_path_factory.mktemp("profile")) as found:
        yield found
