"""A real browser: Chromium without a window, driven over its DevTools protocol through two pipes.

Nothing is waited for by time: `until` asks the page again until it says so, as `eventually` does.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from tests.support import eventually

_FLAGS: Final = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--password-store=basic",
    # Nothing but this machine: a page that asks for anything else is to fail.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
# Chromium reads commands from its file 3 and writes answers to its file 4.
_LAUNCH: Final = (
    "import os, sys; r, w = map(int, sys.argv[1:3]); "
    "os.dup2(r, 13); os.dup2(w, 14); os.dup2(13, 3); os.dup2(14, 4); os.execvp(sys.argv[3], sys.argv[3:])"
)
_MOST: Final = 64 << 20  # of one answer
_ANSWER_S: Final = 120.0
KEYS: Final = {"Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, ""), " ": (32, " ")}


def find_chromium() -> str | None:
    """The browser's program; None: there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    return None


def axe() -> str | None:
    """The text of axe-core, as `make setup-dev` installs it; None: it did not."""
    found = find_spec("axe_playwright_python")
    if found is None or not found.submodule_search_locations:
        return None
    return (Path(found.submodule_search_locations[0]) / "axe.min.js").read_text()


def button(words: str) -> str:
    """The expression that gives the button with these words."""
    return f"[...document.querySelectorAll('button')].find((one) => one.innerText === {json.dumps(words)})"


class PageFault(AssertionError):
    """A script in the page failed, or the browser refused a command."""


class Chromium:
    """See the module; made by `chromium`."""

    def __init__(self, to: asyncio.StreamWriter, of: asyncio.StreamReader) -> None:
        self._to = to
        self._of = of
        self._number = 0
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}

    async def read(self) -> None:
        """Hands out what the browser says, until it ends."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                said = json.loads((await self._of.readuntil(b"\0"))[:-1])
                if "id" in said:
                    waiting = self._waiting.pop(said["id"], None)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(said)
                elif (page := self._pages.get(said.get("sessionId", ""))) is not None:
                    page.heard(said["method"], said["params"])
        for waiting in self._waiting.values():
            waiting.cancel()

    async def command(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """What the browser answers.

        Raises:
            PageFault: it refuses.
        """
        self._number += 1
        asked = {"id": self._number, "method": method, "params": params}
        waiting = self._waiting[self._number] = asyncio.get_running_loop().create_future()
        self._to.write(json.dumps(asked | ({"sessionId": session} if session else {})).encode() + b"\0")
        async with asyncio.timeout(_ANSWER_S):
            said = await waiting
        if "error" in said:
            raise PageFault(f"{method}: {said['error']['message']}")
        return dict(said["result"])

    @contextlib.asynccontextmanager
    async def page(
        self, url: str, *, width: int = 1280, height: int = 900, **media: str
    ) -> AsyncIterator[Page]:
        """A page in a profile of its own; `media` are features such as prefers_color_scheme."""
        context = (await self.command("Target.createBrowserContext"))["browserContextId"]
        target = await self.command("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = self._pages[attached["sessionId"]] = Page(self, attached["sessionId"])
        try:
            for domain in ("Page", "Runtime", "Log", "Network"):
                await page.command(f"{domain}.enable")
            await page.resize(width, height)
            await page.prefer(**media)
            await page.open(url)
            yield page
        finally:
            del self._pages[attached["sessionId"]]
            await self.command("Target.disposeBrowserContext", browserContextId=context)


class Page:
    """A tab.

    Attributes:
        faults: Exceptions that scripts let out, and what the browser logged as an error.
        asked: Addresses that were asked for.
    """

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session
        self.faults: list[str] = []
        self.asked: list[str] = []

    def heard(self, method: str, params: dict[str, Any]) -> None:
        """Something happened in the tab."""
        if method == "Runtime.exceptionThrown":
            self.faults.append(json.dumps(params["exceptionDetails"])[:2000])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.faults.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        """See `Chromium.command`."""
        return await self._browser.command(method, self._session, **params)

    async def open(self, url: str) -> None:
        """Goes to an address."""
        await self.command("Page.navigate", url=url)

    async def reload(self) -> None:
        """Loads the page anew: what is seen afterwards is of the new one."""
        await self.js("window.before = true")
        await self.command("Page.reload")
        await self.until("!window.before && document.readyState === 'complete'")

    async def prefer(self, **media: str) -> None:
        """What whoever looks prefers, such as prefers_color_scheme="dark"; all of it."""
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        await self.command("Emulation.setEmulatedMedia", features=features)

    async def resize(self, width: int, height: int) -> None:
        """The window's inside, in CSS pixels."""
        await self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def js(self, script: str) -> Any:
        """The value of an expression, awaited where it is a promise.

        Raises:
            PageFault: it threw.
        """
        said = await self.command(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in said:
            raise PageFault(f"{script[:200]}: {json.dumps(said['exceptionDetails'])[:2000]}")
        return said["result"].get("value")

    async def until(self, script: str, deadline_s: float = 60.0) -> None:
        """Waits until the expression is true, as JavaScript has it."""

        async def asked() -> Any:
            return await self.js(f"!!({script})")

        try:
            await eventually(asked, deadline_s)
        except AssertionError as fault:
            seen = (await self.text())[:1500]
            raise AssertionError(f"{script}\nwas never true; faults: {self.faults}; seen:\n{seen}") from fault

    async def text(self) -> str:
        """What there is to read."""
        return str(await self.js("document.body.innerText"))

    async def shows(self, words: str, deadline_s: float = 60.0) -> None:
        """Waits until `words` can be read."""
        await self.until(f"document.body.innerText.includes({json.dumps(words)})", deadline_s)

    async def press(self, key: str, *, shift: bool = False) -> None:
        """Presses a key, as a hand would."""
        code, text = KEYS.get(key, (ord(key.upper()[0]), key))
        about = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        typed = {"text": text} if text else {}
        await self.command(
            "Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **about, **typed
        )
        await self.command("Input.dispatchKeyEvent", type="keyUp", **about)

    async def type(self, text: str) -> None:
        """Types into what has the focus."""
        await self.command("Input.insertText", text=text)

    async def click(self, script: str) -> None:
        """Clicks the element that an expression gives, once it is there."""
        await self.until(script)
        await self.js(f"({script}).click()")

    async def shoot(self, to: Path) -> None:
        """Writes what is seen, as PNG."""
        said = await self.command("Page.captureScreenshot", format="png", optimizeForSpeed=False)
        to.write_bytes(base64.b64decode(said["data"]))


@contextlib.asynccontextmanager
async def chromium(program: str, profile: Path) -> AsyncIterator[Chromium]:
    """A browser, ended with the block; its files are in the folder `profile`."""
    loop = asyncio.get_running_loop()
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    flags = [*_FLAGS, f"--user-data-dir={profile}"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # which it has for users alone
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", _LAUNCH, str(theirs_in), str(theirs_out), program, *flags),
        pass_fds=(theirs_in, theirs_out),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    reader = asyncio.StreamReader(limit=_MOST)
    hears, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours_in, "rb")
    )
    says, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(ours_out, "wb")
    )
    browser = Chromium(asyncio.StreamWriter(says, protocol, None, loop), reader)
    reading = asyncio.create_task(browser.read())
    try:
        yield browser
    finally:
        says.close()  # it ends when nobody can tell it anything any more
        try:
            async with asyncio.timeout(20):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        hears.close()
