"""Every view of the console in a real browser, over a mesh that is made up.

Driven by what can be read and by keys. Nothing waits for a time.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

import msgspec
import pytest

from bridge_core.explanation import Considered, HopReport, PassedOver, Tried
from bridge_core.http1 import App, Exchange
from bridge_core.mesh_picture import AlertPicture, GpuPicture, MeshPicture, ModelPicture, RoutePicture
from bridge_core.recent import Recent
from tests.browser_bed import Chromium, Page, axe, button
from tests.console_bed import BEGAN, HOSTILE, Console, console, node, picture

pytestmark = pytest.mark.asyncio(loop_scope="module")

VIEWS = {
    "mesh": "75 % of 80 GiB, 65 °C",
    "mesh/node1": "GPU-1a: 75 %",
    "models": "First byte p50",
    "heat": "the fuller the colour",
    "requests": "Who asks whom",
    "requests/r1": "Why not",
    "alerts": "memory is full",
    "events": "What happened",
    "rollouts": "in this step",
    "history": "ModelRoute/chat",
    "clients": "is shown to admins",
    "playground": "Send 20 test requests",
    "sign-in": "bridgectl console",
}
AXE = axe()
RULES = {
    "light": "['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']",
    "dark": "{type: 'rule', values: ['color-contrast']}",  # where alone it differs
}
_FOUND = "found.violations.map((one) => one.id + ': ' + one.nodes.map((node) => node.html).join(' / '))"


def alert(name: str = "full@node1", **more: object) -> AlertPicture:
    said = {"kind": "memory", "severity": "critical", "summary": f"{name}: memory is full", "node": "node1"}
    return AlertPicture(name, **(said | more), since_unix=BEGAN, command="bridgectl alerts", well="none")  # type: ignore[arg-type]  # test shorthand


def mesh() -> MeshPicture:
    gpu = GpuPicture("GPU-1a", 80 * 2**30, 75, 65)
    return picture(
        node(1, gpus=(gpu,)),
        node(2),
        node(3, "drained"),
        alerts=(alert(), alert("old", ended_unix=BEGAN + 60)),
    )


def answers(word: str = "node1") -> dict[str, App]:
    """What node1 remembers of one request, its foreign words being `word`."""
    recent = Recent("r1", BEGAN, "node1", word, "/api/chat", word, "", "node1/0", 200, "ok", 2, 1.0, 2.0, 3)
    hop = HopReport(
        *("node1", "r1", word, "", "/api/chat", word, word, "chat", "stable", "residency", "00"),
        panic=False,
        candidates=(Considered("node1/0", 1, 4, 100, resident=True),),
        passed_over=(PassedOver("node2/0", word),),
        failed=(Tried("node1/0", 0.5, "refused", word),),
        instance="node1/0",
        status=200,
        outcome="ok",
        waited_ms=0.0,
        sent_ms=1.0,
        first_byte_ms=5.0,
        ended_ms=9.0,
        bytes_in=10,
        bytes_out=10,
    )

    def answer(exchange: Exchange) -> None:
        found = [recent] if "recent" in exchange.request.path else [hop]
        exchange.respond(200, (), msgspec.json.encode(found))

    return {"node1": answer}


@contextlib.asynccontextmanager
async def opened(
    browser: Chromium, first: MeshPicture, view: str = "#mesh", *, word: str = "node1", **look: object
) -> AsyncIterator[tuple[Console, Page]]:
    """A console, and a page at one of its views, which does nothing that it should not."""
    async with console(first, answers(word)) as bed:
        bed.busy_hour()
        async with browser.page(f"{bed.url}{view}", **look) as page:  # type: ignore[arg-type]  # test shorthand
            yield bed, page
            assert page.faults == []
            assert {one.split("/")[2] for one in page.asked} == {f"127.0.0.1:{bed.port}"}


async def go(page: Page, view: str) -> None:
    await page.js(f"location.hash = '#{view}'")
    await page.shows(VIEWS[view])


async def test_every_view_shows_what_it_has_and_shuts_nobody_out(browser: Chromium) -> None:
    """axe-core finds nothing, by day and by night; and nothing sticks out of a phone."""
    if AXE is None:
        pytest.skip("SKIPPED LOUDLY: there is no axe-core (make setup-dev)")
    found = {}
    async with opened(browser, mesh()) as (_, page):
        await page.js(AXE)
        for view in VIEWS:
            await page.resize(1280, 900)
            await go(page, view)
            for scheme, rules in RULES.items():
                await page.prefer(prefers_color_scheme=scheme)
                ran = f"axe.run(document, {{runOnly: {rules}}})"
                found[view, scheme] = await page.js(f"{ran}.then((found) => {_FOUND})")
            await page.resize(360, 740)
            await page.until("innerWidth === 360")
            assert await page.js("document.documentElement.scrollWidth") <= 360, view
    assert not {where: one for where, one in found.items() if one}


async def test_a_node_that_dies_is_seen_while_one_watches(browser: Chromium) -> None:
    async with opened(browser, picture(node(1), node(2))) as (bed, page):
        await page.shows("2 / 2")
        await page.until("document.querySelectorAll('article.node.good').length === 2")
        bed.show(picture(node(1, busy=3), node(2)))
        await page.until("document.querySelector('[aria-label=\"3 of 4 slots busy\"]')")
        bed.show(picture(node(1, busy=3), node(2, "away")))
        await page.shows("1 in trouble")
        # By a word and a mark beside the colour, first in the list, and in the navigation.
        await page.until(
            "document.querySelector('article.node').getAttribute('aria-label') === 'node2, away'"
        )
        assert "✕" in await page.js("document.querySelector('article.node').innerText")
        await page.until("document.querySelector('nav [aria-label=\"1 bad\"]')")
        await page.js("location.hash = '#events'")
        await page.shows("node2 is away")
        bed.show(picture(node(1), node(2)))
        await page.shows("node2 serves")
        await page.js("location.hash = '#mesh'")
        await page.shows("2 / 2")


async def test_a_registry_that_is_away_is_said_and_what_it_said_last_stays(browser: Chromium) -> None:
    async with console(mesh()) as bed, browser.page(bed.url) as page:
        await page.shows("node3")
        await page.until("document.querySelector('.link').innerText.includes('live')")
        bed.streams.close()  # ends every page's stream; pages ask again
        await page.until("document.querySelector('.link').innerText.includes('live')")
        await page.command(
            "Network.emulateNetworkConditions",
            offline=True,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )
        bed.streams.close()
        await page.shows("The registry is away. This is what it said last")
        assert "node3" in await page.text()
        bed.show(picture(node(4)))
        await page.command(
            "Network.emulateNetworkConditions",
            offline=False,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )
        await page.shows("node4")
        await page.until("!document.body.innerText.includes('The registry is away')")


async def test_a_thousand_nodes_are_a_map_that_lives_and_can_be_searched(browser: Chromium) -> None:
    many = [node(n) for n in range(1000)]
    async with opened(browser, picture(*many)) as (bed, page):
        await page.until("document.querySelectorAll('a.cell').length === 1000")
        bed.show(picture(*many[:-1], node(999, "away")))
        await page.until(
            "document.querySelector('a.cell').getAttribute('aria-label') === 'node999: away, 0 % busy'"
        )
        await page.js("document.querySelector('input[type=search]').focus()")
        await page.type("node77")
        await page.until("document.querySelectorAll('article.node').length === 11")
        await page.click("document.querySelector('article.node a')")
        await page.shows("Safe to stop")


async def test_everything_is_reached_by_keys(browser: Chromium) -> None:
    """`moves` counts the changes of view that the page has seen to, the focus included."""
    async with opened(browser, mesh(), "") as (_, page):  # with a fragment it would begin there
        await page.shows("node3")
        await page.js("window.moves = 0; addEventListener('hashchange', () => { moves++; })")
        await page.press("Tab")
        assert await page.js("document.activeElement.innerText") == "Skip to content"
        await page.press("Enter")
        await page.until("moves === 1 && document.activeElement.tagName === 'MAIN'")
        # Every view by the navigation, each with a ring around what has the focus.
        await page.js("document.querySelector('nav a').focus()")
        many = await page.js("document.querySelectorAll('nav a').length")
        names = []
        for moves in range(1, many + 1):
            name = await page.js("document.activeElement.hash")
            names.append(name)
            assert await page.js("getComputedStyle(document.activeElement).outlineStyle") == "solid", name
            await page.press("Enter")
            await page.until(f"moves === {moves}")
            await page.until(f"document.querySelector('nav [aria-current]').hash === '{name}'")
            await page.js(f"document.querySelector('nav a[href=\"{name}\"]').focus()")
            await page.press("Tab")
        assert len(set(names)) == many
        # A node, and back, without a mouse.
        await page.js("location.hash = '#mesh'")
        await page.until(f"moves === {many + 1} && document.querySelector('article.node a')")
        for _ in range(3):
            await page.press("Tab")
            if await page.js("document.activeElement.closest('article') !== null"):
                break
        await page.press("Enter")
        await page.until(f"moves === {many + 2}")
        await page.shows("Safe to stop")
        await page.press("Tab")
        assert "all nodes" in await page.js("document.activeElement.innerText")


async def test_hostile_names_are_text_in_every_view(browser: Chromium) -> None:
    bad = msgspec.structs.replace(
        node(1, "away", rejected=HOSTILE, gpus=(GpuPicture(HOSTILE, 1, 0),), silent_to={HOSTILE: 1}),
        version=HOSTILE,
        labels={HOSTILE: HOSTILE},
    )
    there = node(2)
    engine = msgspec.structs.replace(
        there.instances[0],
        models=(HOSTILE,),
        loaded=(HOSTILE,),
        engine=HOSTILE,
        health="failing",
        why=(HOSTILE,),
    )
    route = RoutePicture(HOSTILE, HOSTILE, ())
    seen = picture(
        msgspec.structs.replace(there, name=HOSTILE, instances=(engine,)),
        bad,
        alerts=(alert(HOSTILE, kind=HOSTILE, runbook=HOSTILE),),
    )
    rollout = msgspec.structs.replace(
        seen.rollouts[0], name=HOSTILE, reason=HOSTILE, events=((1.0, HOSTILE),)
    )
    seen = msgspec.structs.replace(
        seen,
        models=(ModelPicture(HOSTILE, 1),),
        routes=(route,),
        rollouts=(rollout,),
        registry=msgspec.structs.replace(seen.registry, mesh=HOSTILE, concerns=(HOSTILE,)),
    )
    async with opened(browser, seen, word=HOSTILE) as (bed, page):
        await page.shows("<img src=x onerror=")
        bed.show(msgspec.structs.replace(seen, nodes=seen.nodes[1:]))
        for view in [*VIEWS, "mesh/" + HOSTILE, "%E0%A4%A", "requests/" + HOSTILE]:
            await page.js(f"location.hash = {json.dumps('#' + view)}")
            name = view.split("/")[0] if view in VIEWS or "/" in view else "mesh"
            await page.until(f"document.querySelector('main').id === {json.dumps(name)}")
            await page.shows("<img src=x onerror=")
            assert await page.js("[...document.images].map((one) => one.getAttribute('src'))") == ["icon.svg"]
            assert await page.js("document.title !== '1'")
            assert await page.js("document.querySelectorAll('script').length") == 1


async def test_who_wants_no_motion_gets_none(browser: Chromium) -> None:
    lasts = "parseFloat(getComputedStyle(one).transitionDuration)"
    moving = f"[...document.querySelectorAll('*')].filter((one) => {lasts} > 0).length"
    async with opened(browser, mesh(), prefers_reduced_motion="reduce") as (_, page):
        await page.shows("node3")
        assert await page.js(moving) == 0


async def test_the_test_traffic_shows_where_requests_go(browser: Chromium) -> None:
    """Through an agent at the browser's machine: one that is made up, and answers at once."""
    asked = 0

    def agent(exchange: Exchange) -> None:
        nonlocal asked
        asked += 1
        fields = [
            (b"access-control-allow-origin", exchange.request.headers.get(b"origin") or b""),
            (b"access-control-expose-headers", b"x-request-id, x-bridge-node"),
            (b"x-request-id", b"r1"),
            (b"x-bridge-node", b"node1" if asked % 4 else b"node2"),
        ]
        exchange.respond(200, fields, b'{"message": {"content": "Paris"}, "done": true}\n')

    async with console(mesh(), {"node1": agent}) as bed, browser.page(f"{bed.url}#playground") as page:
        port = bed.ports["node1"]
        await page.until("document.querySelector('select')?.value")
        await page.js("document.querySelector('input').select()")
        await page.type(f"http://127.0.0.1:{port}")
        await page.js("document.querySelector('form button.main').focus()")
        await page.press("Enter")
        await page.shows("Paris")
        await page.shows("answered by node1")
        await page.click(button("Send 20 test requests"))
        await page.shows("Where they went")
        await page.until("document.querySelector('progress[aria-label=\"node1: 15\"]')")
        await page.until("document.querySelector('progress[aria-label=\"node2: 5\"]')")
        assert asked == 21
        assert page.faults == []
