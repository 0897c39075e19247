"""Signing in to a real registry's console in a real browser, by hand: keys, a code, a cookie, an act."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bridge_wire.v1 import clients_pb2, console_pb2
from bridge_wire.v1.console_pb2_grpc import ConsoleStub
from tests.browser_bed import Chromium, Page, button
from tests.fakes.store import FakeEtcd
from tests.registry_bed import Bed, leading
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with leading(tmp_path, FakeEtcd()) as found:
        yield found


async def code_of(bed: Bed) -> str:
    cert, key = (path.read_bytes() for path in bed.registry.settings.pki.pair("admin"))
    async with bed.called_by(cert, key) as channel:
        return str((await ConsoleStub(channel).SignIn(console_pb2.SignInRequest())).code)


async def signed_in(page: Page) -> None:
    """Uses the code that the page has."""
    await page.until(
        "document.querySelector('form button') && !document.querySelector('form button').disabled"
    )
    await page.click("document.querySelector('form button')")
    await page.shows("signed in as admin")


def url(bed: Bed, view: str) -> str:
    return f"http://127.0.0.1:{bed.registry.admin_port}/console/#{view}"


async def test_an_admin_signs_in_drains_a_node_by_keys_and_signs_out(browser: Chromium, bed: Bed) -> None:
    await bed.join("n1")
    async with bed.clients() as clients:
        await clients.CreateClient(clients_pb2.CreateClientRequest(name="app"))
    code = await code_of(bed)
    async with browser.page(url(bed, f"sign-in/{code}")) as page:
        # The code is out of the address before it is of any use there, and nothing happens without a hand.
        await page.until("location.hash === '#sign-in' && document.querySelector('input')?.value")
        visited = (await page.command("Page.getNavigationHistory"))["entries"]
        assert not any(code in one["url"] for one in visited)
        await page.js("document.querySelector('input').focus()")
        await page.press("Enter")
        await page.shows("Signed in")
        await page.shows("signed in as admin")
        assert await page.js("document.cookie") == ""
        await page.js("location.hash = '#clients'")
        await page.until(
            "document.querySelector('[aria-label=\"Clients, a table\"]')?.innerText.includes('may call')"
        )
        await page.shows("No use is on record of the last 7 days.")

        await page.js("location.hash = '#mesh/n1'")
        await page.until(button("Drain"))
        await page.js(f"{button('Drain')}.focus()")
        await page.press("Enter")
        await page.shows("Send nothing new to n1?")
        await page.until("document.activeElement.innerText === 'Yes'")
        await page.press("Escape")
        await page.until("!document.body.innerText.includes('Send nothing new')")
        assert bed.registry.publisher.table.nodes["n1"].state == "active"
        await page.press("Tab")
        await page.until("document.activeElement.innerText === 'Drain'")
        await page.press("Enter")
        await page.until("document.activeElement.innerText === 'Yes'")
        await page.press("Enter")
        await page.shows("n1 is drained: it gets nothing new.")
        await eventually(lambda: bed.registry.publisher.table.nodes["n1"].state == "drained")
        await page.shows("Put back into service")

        await page.reload()
        await page.shows("signed in as admin")
        await page.js("location.hash = '#sign-in'")
        await page.click(button("Sign out"))
        await page.shows("read-only")
        await page.js("location.hash = '#mesh/n1'")
        await page.shows("bridgectl drain n1")
        assert "Put back" not in await page.text()
        assert page.faults == []


async def test_a_code_that_is_none_is_said_and_a_tab_that_has_half_a_session_is_read_only(
    browser: Chromium, bed: Bed
) -> None:
    async with browser.page(url(bed, "sign-in/wrong.code")) as page:
        await page.click("document.querySelector('form button')")
        await page.shows("this code was used already, or is none of this registry's")
        await page.js(f"location.hash = '#sign-in/{await code_of(bed)}'")
        await signed_in(page)
        # The cookie is there; what another tab has not got is the token.
        await page.js("sessionStorage.clear()")
        await page.reload()
        await page.shows("read-only")
        answered = (
            "fetch('api/act', {method: 'POST', headers: {'content-type': 'application/json'}, body: '{}'})"
        )
        assert await page.js(f"{answered}.then((answer) => answer.status)") == 401


async def test_an_alert_is_silenced_by_keys_and_the_silence_ended(browser: Chromium, bed: Bed) -> None:
    """The alert is that the node, which only joined, does not report."""
    await bed.join("n1")
    await eventually(lambda: bed.registry.alerting.desk.alerts != (), 60)
    async with browser.page(url(bed, f"sign-in/{await code_of(bed)}")) as page:
        await signed_in(page)
        await page.js("location.hash = '#alerts'")
        await page.until("document.querySelector('.hush summary')")
        await page.js("document.querySelector('.hush summary').focus()")
        await page.press("Enter")
        await page.js("document.querySelector('.hush input').focus()")
        await page.type("it is moved to another rack")
        await page.click(button("Tell nobody"))
        await page.shows("Tell nobody of node-away@n1?")
        await page.until("document.activeElement.innerText === 'Yes'")
        await page.press("Enter")
        await page.shows("Nobody is told until")
        await page.shows("Silenced by hand")
        await page.shows("nobody is told: silence")
        (made,) = bed.registry.alerting.desk.silences.lasting
        assert [str(one) for one in made.matchers] == ['alertname="node-away"', 'node="n1"']
        await page.click(button(f"End {made.id}"))
        await page.until("document.activeElement.innerText === 'Yes'")
        await page.press("Enter")
        await page.shows(f"The silence {made.id} is over.")
        assert bed.registry.alerting.desk.silences.lasting == ()
        assert page.faults == []
