"""What admins ask to sign a model that lies on this node: `bridge_core.model_answers` lists the pages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import structlog

from bridge_agent.models.admin_replies import MOST_ASKED, Recorded, admits, answer, error
from bridge_agent.models.blobs import Blobs
from bridge_agent.routing.view import MeshView
from bridge_agent.signing.store_signatures import add_signature, placed
from bridge_core import model_answers
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import BridgeError
from bridge_core.http1 import App, Exchange, coroutine_app
from bridge_core.model_answers import ModelAsked, Signable, SignatureBrought, SignatureTaken
from bridge_core.model_signing.content import MOST_BUNDLE, content_of
from bridge_core.model_store.layout import ModelStore
from bridge_core.names import InvalidName, ModelName

log = structlog.get_logger()

_MOST_BROUGHT: Final = 2 * MOST_BUNDLE  # in base64, with what is around it

_Page: TypeAlias = Callable[[Exchange], Awaitable[None]]


class SigningPages:
    """The pages; they take an admin of the role operator.

    Args:
        blobs: Those of the models folder.
        store: Gives the store in it; asked on the loop.
        view: Says who the admins are.
        changed: Called when the store has another model.
        recorded: Puts what an admin did to a model on record, and since when.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        blobs: Blobs,
        store: Callable[[], ModelStore],
        view: MeshView,
        *,
        changed: Callable[[], None],
        recorded: Recorded,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._blobs = blobs
        self._store = store
        self._view = view
        self._changed = changed
        self._recorded = recorded
        self._now = now

    def apps(self, group: asyncio.TaskGroup) -> dict[str, App]:
        """The pages by path."""
        return {
            model_answers.SIGNABLE: coroutine_app(self._for_operators(self._signable), group),
            model_answers.SIGN: coroutine_app(self._for_operators(self._sign), group),
        }

    def _for_operators(self, page: _Page) -> _Page:
        async def asks(exchange: Exchange) -> None:
            if not admits(exchange, self._view, changes=True):
                return
            try:
                await page(exchange)
            except (Undecodable, InvalidName) as fault:
                error(exchange, 400, fault.message)
            except BridgeError as fault:
                error(exchange, 409, str(fault))

        return asks

    async def _signable(self, exchange: Exchange) -> None:
        asked = decode_json(exchange.request.body, ModelAsked, most=MOST_ASKED)
        name = ModelName.parse(asked.model)
        found = await asyncio.to_thread(placed, self._store(), name)
        if found is None:
            error(exchange, 404, f"this node has no model {asked.model!r}")
            return
        content = content_of(found.data)
        answer(exchange, Signable(found.digest, content.data, len(content.signatures)))

    async def _sign(self, exchange: Exchange) -> None:
        began = self._now()
        brought = decode_json(exchange.request.body, SignatureBrought, most=_MOST_BROUGHT)
        name = ModelName.parse(brought.model)
        try:
            made = await asyncio.to_thread(
                add_signature, self._blobs, self._store(), name, brought.content, brought.bundle
            )
        finally:
            self._recorded(exchange, brought.model, began)
        self._changed()
        log.info("model_signed", model=name.short(), digest=made.digest[:12])
        answer(exchange, SignatureTaken(made.digest))
