"""Draws the pictures of docs/operations/console.md anew: python -m tests.browser.shots

The mesh is made up, as in the tests beside this.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

from bridge_core.mesh_picture import MeshPicture
from bridge_core.snapshot import LoadingModel
from tests.browser_bed import chromium, find_chromium
from tests.console_bed import console, node, picture

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
# Name, view, what it is waited for, dark or light, width and height.
SHOTS: Final = (
    ("console-mesh", "mesh", "loading", "light", 1280, 760),
    ("console-models-dark", "models", "residency", "dark", 1280, 760),
    ("console-heatmap", "heat", "the fuller the colour", "light", 1280, 420),
    ("console-phone", "mesh", "loading", "dark", 390, 760),
)


def mesh() -> MeshPicture:
    """Six nodes, of which some are ill."""
    nodes = [node(n, busy=n % 4) for n in range(1, 5)]
    loading = LoadingModel(name="smollm2:135m", since_unix=time.time() - 4, expected_s=12.0)
    engine = msgspec.structs.replace(nodes[3].instances[0], loading=(loading,), loaded=())
    nodes[3] = msgspec.structs.replace(nodes[3], instances=(engine,))
    slow = msgspec.structs.replace(
        nodes[1].instances[0], health="degraded", why=("first byte 2.4 s, usual is 0.3 s",), queued=2
    )
    nodes[1] = msgspec.structs.replace(nodes[1], instances=(slow,))
    return picture(*nodes, node(5, "away", silent_to={}), node(6, "drained"))


async def main() -> None:
    """Draws them.

    Raises:
        SystemExit: there is no browser.
    """
    program = find_chromium()
    if program is None:
        raise SystemExit("there is no browser: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        async with chromium(program, Path(profile)) as browser, console(mesh()) as bed:
            bed.busy_hour()
            for name, view, words, scheme, width, height in SHOTS:
                where = f"{bed.url}#{view}"
                size = {"width": width, "height": height}
                async with browser.page(where, **size, prefers_color_scheme=scheme) as page:
                    await page.shows(words)
                    await page.until("document.querySelector('.link').innerText.includes('live')")
                    await page.shoot(DOCS / f"{name}.png")


if __name__ == "__main__":
    asyncio.run(main())
