"""An agent's own page in a real browser, over a node that is made up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from bridge_agent.admin import admin_app
from bridge_agent.limits.gpu import Gpu
from bridge_agent.membership.link_status import LinkReport
from bridge_agent.status_report import AgentReport, CertificateReport, InstanceReport, SnapshotReport
from bridge_core.http1 import Exchange, serve
from bridge_core.recent import Recent
from bridge_core.snapshot import LoadingModel
from bridge_core.verdicts import Reason, Verdict
from tests.browser_bed import Chromium, Page, axe
from tests.console_bed import HOSTILE

pytestmark = pytest.mark.asyncio(loop_scope="module")

AXE = axe()
NOW = time.time()


def report(word: str = "n1") -> AgentReport:
    sick = Verdict(
        "n1/1", (Reason("infrastructure", "disk", "degraded", f"the disk is nearly full: {word}", NOW - 60),)
    )
    return AgentReport(
        word,
        "lab.example",
        "0.1.0",
        7,
        "serving",
        NOW - 3600,
        {"http": "127.0.0.1:11434"},
        SnapshotReport(3, 41, 2, 2, 1),
        CertificateReport("1", NOW + 7200),
        (LinkReport("registry", True, NOW, ""), LinkReport("etcd", False, NOW - 5, f"no answer {word}")),
        (
            InstanceReport(
                "n1/0", "ready", ("m:latest", word), ("m:latest",), 4, pid=9, health=Verdict("n1/0")
            ),
            InstanceReport(
                "n1/1",
                "starting",
                (),
                (),
                4,
                f"begins {word}",
                health=sick,
                loading=(LoadingModel(word, int(NOW)),),
            ),
        ),
        concerns=(f"a concern: {word}",),
        gpus=(
            Gpu(0, "GPU-1a", word, 80 << 30, 20 << 30, 63),
            Gpu(1, "GPU-2b", "H", 80 << 30, 80 << 30, fault="lost"),
        ),
    )


@contextlib.asynccontextmanager
async def opened(browser: Chromium, word: str = "n1") -> AsyncIterator[tuple[list[AgentReport], Page]]:
    """What the agent says of itself, which may be changed, and the page."""
    said = [report(word)]
    last = Recent("r 1", NOW, "n1", word, "/api/chat", word, "", "n1/0", 502, "failed", 2, -1.0, 2.0, 3)

    def recent(exchange: Exchange) -> None:
        exchange.respond(200, (), msgspec.json.encode([last]))

    app = admin_app(
        metrics=recent, report=lambda: said[0], not_ready=lambda: "", own_name="n1",
        explain=recent, recent=recent,
    )  # fmt: skip
    server = await serve(app, name="admin", host="127.0.0.1", port=0)
    try:
        async with browser.page(f"http://127.0.0.1:{server.port}/") as page:
            yield said, page
            assert page.faults == []
            assert {one.split("/")[2] for one in page.asked} == {f"127.0.0.1:{server.port}"}
    finally:
        await server.close(0.0)


async def test_it_shows_this_node_and_follows_it(browser: Chromium) -> None:
    async with opened(browser) as (said, page):
        for words in (
            "the disk is nearly full",
            "60.0 GiB of 80.0 GiB, 63 °C",
            "✕ lost",
            "in memory",
            "502 failed",
        ):
            await page.shows(words)
        assert (
            await page.js("document.querySelector('a[href*=explain]').getAttribute('href')")
            == "../explain?id=r%201"
        )
        marked = "[...document.querySelectorAll('article')].map((one) => one.getAttribute('aria-label'))"
        assert await page.js(marked) == ["n1/0, ready, ok", "n1/1, starting, degraded"]
        if AXE is not None:
            await page.js(AXE)
            for scheme in ("light", "dark"):
                await page.prefer(prefers_color_scheme=scheme)
                found = await page.js(
                    "axe.run(document).then((found) => found.violations.map((one) => one.id))"
                )
                assert found == []
        await page.resize(360, 740)
        await page.until("innerWidth === 360")
        assert await page.js("document.documentElement.scrollWidth") <= 360
        said[0] = msgspec.structs.replace(said[0], state="draining", instances=())
        await page.shows("This node has no engine.")
        await page.shows("draining")


async def test_hostile_names_are_text(browser: Chromium) -> None:
    async with opened(browser, HOSTILE) as (_, page):
        await page.shows("a concern: <img src=x onerror=")
        assert await page.js("[...document.images].map((one) => one.getAttribute('src'))") == ["icon.svg"]
        assert await page.js("document.title !== '1'")
        assert await page.js("document.querySelectorAll('script').length") == 1
