"""What others dial in node3's place, until it is stopped: `python -m bench.detection.relay HOST PEER`.

A stopped relay is a cable that was cut: connections stand, new ones are accepted by the kernel alone, and
nobody ever answers.
"""

from __future__ import annotations

import asyncio
import random
import sys

from bridge_core.addresses import split_address
from tests.bad_link import bad_link


async def _main(host: str, peer: str) -> None:
    async with bad_link(host, split_address(peer), random.Random(1)):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
