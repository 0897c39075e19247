"""The console's page in a real browser: how soon there is something to see, and whether it keeps up."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench.results import record, table
from bridge_core.mesh_picture import MeshPicture
from tests.browser_bed import Chromium, Page, chromium, find_chromium
from tests.console_bed import console, node, picture

LOADS: Final = 10
PICTURES: Final = 20
EVERY_S: Final = 1.0  # as a registry paints
MANY: Final = 1000
# Runs before the page's own scripts. The frame after the mesh is there is when it is seen.
WATCH: Final = """
window.seen = new Promise((told) => {
  const look = () => document.querySelector('article.node, a.cell')
    ? requestAnimationFrame(() => setTimeout(() => told(performance.now()))) : requestAnimationFrame(look);
  requestAnimationFrame(look);
});
window.tasks = [];
new PerformanceObserver((list) => tasks.push(...list.getEntries().map((one) => one.duration)))
  .observe({entryTypes: ['longtask']});
window.gaps = [];
let last = 0;
const frame = (at) => { if (last) gaps.push(at - last); last = at; requestAnimationFrame(frame); };
requestAnimationFrame(frame);
"""
PAINT: Final = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
KEPT: Final = "performance.getEntriesByType('resource').reduce((sum, one) => sum + one.encodedBodySize, 0)"


@asynccontextmanager
async def opened(browser: Chromium, url: str) -> AsyncIterator[Page]:
    """A page in a fresh profile that is watched from its first moment."""
    async with browser.page("about:blank") as page:
        await page.command("Performance.enable", timeDomain="threadTicks")
        await page.command("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        await page.open(url)
        await page.until("window.seen")
        yield page


async def worked(page: Page) -> float:
    """Milliseconds of processor time of the page's main thread: other programs do not make them more."""
    said = (await page.command("Performance.getMetrics"))["metrics"]
    return next(1000.0 * one["value"] for one in said if one["name"] == "TaskDuration")


async def loads(browser: Chromium, seen: MeshPicture) -> dict[str, Any]:
    """Milliseconds from the click to a first paint, and to the mesh; and the page's bytes."""
    paints, meshes, works, size = list[float](), list[float](), list[float](), 0
    async with console(seen) as bed:
        for _ in range(LOADS):
            async with opened(browser, bed.url) as page:
                meshes.append(await page.js("window.seen"))
                works.append(await worked(page))
                await page.until(PAINT)
                paints.append(await page.js(PAINT))
                size = await page.js(KEPT)
    return {"paint": paints, "mesh": meshes, "work": works, "bytes": size}


async def changes(browser: Chromium) -> dict[str, Any]:
    """What frames do while all of many nodes change with every picture."""

    def many(busy: int) -> MeshPicture:
        return picture(*(node(number, busy=(number + busy) % 5) for number in range(MANY)))

    async with console(many(0)) as bed, opened(browser, bed.url) as page:
        await page.js("window.seen")
        await page.js("tasks.length = gaps.length = 0")
        before = await worked(page)
        for at in range(1, PICTURES + 1):
            bed.show(many(at))
            await asyncio.sleep(EVERY_S)
        work = (await worked(page) - before) / PICTURES
        return {"gaps": await page.js("gaps"), "tasks": await page.js("tasks"), "work": work}


def rows(folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """The row; a minute."""
    program = find_chromium()
    if program is None:
        raise SystemExit("no browser on PATH (Debian: apt-get install chromium)")

    async def work() -> list[tuple[str, object]]:
        async with chromium(program, folder / "profile") as browser:
            few = await loads(browser, picture(node(1), node(2), node(3)))
            many = await loads(browser, picture(*(node(number) for number in range(MANY))))
            moving = await changes(browser)
        gaps = sorted(moving["gaps"]) or [0.0]
        late = sum(one > 100.0 for one in gaps)
        frames = (
            f"{statistics.median(gaps):.0f} / {gaps[int(0.99 * (len(gaps) - 1))]:.0f} / {gaps[-1]:.0f} ms"
        )
        tasks = f"{len(moving['tasks'])}, {max(moving['tasks'], default=0):.0f} ms"
        return [
            ("bytes that a load fetches, as they travel", few["bytes"]),
            *_shown("3 nodes", few),
            *_shown(f"{MANY} nodes", many),
            (
                f"{MANY} nodes, all changed once a second: processor time a picture",
                f"{moving['work']:.0f} ms",
            ),
            ("… between two frames, median / 99th percentile / longest", frames),
            ("… gaps over 100 ms, of all frames", f"{late} of {len(gaps)}"),
            ("… tasks over 50 ms, and the longest", tasks),
        ]

    found = asyncio.run(work())
    text = (
        f"{__doc__}\nHeadless Chromium with a fresh profile each time, the registry's listener and feed in "
        "the bench's own process, both on this machine. A first paint is the browser's own measure "
        "(first-contentful-paint); the mesh is on the page a frame after its nodes. Processor time "
        "is that of the page's main thread: other programs on a busy machine make the other figures longer, "
        f"and this one not. {LOADS} loads each, median / slowest; "
        f"{PICTURES} pictures.\n\n"
        f"{table(('what', 'figure'), found)}"
    )
    record("console", "The console's page in a browser", command, versions, text)


def _shown(what: str, found: dict[str, Any]) -> list[tuple[str, object]]:
    return [
        (f"{what}: first paint", _of(found["paint"])),
        (f"{what}: the mesh is on the page", _of(found["mesh"])),
        (f"{what}: … processor time until then", _of(found["work"])),
    ]


def _of(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} / {max(values):.0f} ms"
