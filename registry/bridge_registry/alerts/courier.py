"""Tells receivers of alerts, while this registry leads.

One task looks once a second what each receiver is still to be told, and sends to each one message at a time;
a receiver that is slow holds up nobody else. What was told is stored after every message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final, Protocol

import msgspec
import structlog

from bridge_core.backoff import Rng
from bridge_core.errors import BridgeError
from bridge_registry.alerts import delivery_rules as rules
from bridge_registry.alerts.alert_rules import Alert
from bridge_registry.alerts.alert_store import AlertStore
from bridge_registry.alerts.delivery_rules import Message, ReceiverPlan, Telling
from bridge_registry.alerts.message_rules import body_of
from bridge_registry.alerts.posting import Answer
from bridge_registry.complaint import Complaint

log = structlog.get_logger()

TICK_S: Final = 1.0


class Desk(Protocol):
    """Has the alerts; see `desk.AlertDesk`."""

    @property
    def known(self) -> Mapping[str, Alert]:
        """By id."""

    @property
    def term(self) -> str:
        """For which term of office they are known."""


class Courier:
    """See the module; `run` is its one task, and the parent of those that send.

    Args:
        desk: Has the alerts.
        store: Where it is kept who was told of what.
        plans: The receivers, by name.
        send: Posts a body to a receiver; raises BridgeError.
        mesh: The trust domain.
        now: Unix seconds.
        rng: Spreads retries.
    """

    def __init__(
        self,
        desk: Desk,
        store: AlertStore,
        plans: Callable[[], Mapping[str, ReceiverPlan]],
        send: Callable[[ReceiverPlan, bytes], Awaitable[Answer]],
        mesh: str,
        *,
        now: Callable[[], float],
        rng: Rng,
    ) -> None:
        self._desk = desk
        self._store = store
        self._plans = plans
        self._send = send
        self._mesh = mesh
        self._now = now
        self._rng = rng
        self._term = ""
        self._tellings: dict[str, Telling] = {}
        self._busy: set[str] = set()

    @property
    def tellings(self) -> Mapping[str, Telling]:
        """What each receiver was told; nothing while another registry leads."""
        return self._tellings

    def concerns(self) -> Iterator[str]:
        """What an admin should look after."""
        for name, telling in sorted(self._tellings.items()):
            yield from rules.concern(name, telling)

    async def run(self) -> None:
        """Works until cancelled."""
        self._busy.clear()
        complaint = Complaint("alerts_not_told")
        async with asyncio.TaskGroup() as group:
            while True:
                with complaint.of_failure():
                    await self.look(group)
                await asyncio.sleep(TICK_S)

    async def look(self, group: asyncio.TaskGroup) -> None:
        """Looks once; what is to be sent is sent by tasks of `group`.

        Raises:
            BridgeError: the store does not say what was told, or does not take it.
        """
        term = self._store.term
        if not term or self._desk.term != term:
            self._term, self._tellings = "", {}
            return
        if self._term != term:
            self._tellings = await self._store.told()
            self._term = term
        plans, alerts, now = self._plans(), self._desk.known, self._now()
        for name in [name for name in self._tellings if name not in plans]:
            await self._store.save_told(name, None)
            self._tellings.pop(name, None)
        for name, plan in plans.items():
            if name in self._busy:
                continue
            telling = rules.look(plan, self._tellings.get(name, Telling()), alerts)
            self._tellings[name] = telling
            message = rules.due(plan, telling, alerts, now)
            if message is not None:
                self._busy.add(name)
                group.create_task(self._tell(plan, message, term))

    async def try_out(self, plan: ReceiverPlan, alert: Alert) -> Answer:
        """Sends an alert that is made up, and says what came of it.

        Raises:
            BridgeError: nobody answered.
        """
        message = Message(plan.group_of(alert), (alert,))
        return await self._send(plan, self._body(plan, message))

    async def _tell(self, plan: ReceiverPlan, message: Message, term: str) -> None:
        try:
            try:
                answer = await self._send(plan, self._body(plan, message))
                reason = "" if answer.taken else f"it answered {answer.status}: {answer.says}"
            except BridgeError as fault:
                answer, reason = Answer(0), str(fault)
            if self._term == term and (telling := self._tellings.get(plan.name)) is not None:
                self._tellings[plan.name] = self._after(plan, telling, message, answer, reason)
                await self._save(plan.name)
        finally:
            self._busy.discard(plan.name)

    def _after(
        self, plan: ReceiverPlan, telling: Telling, message: Message, answer: Answer, reason: str
    ) -> Telling:
        now = self._now()
        if not reason:
            log.info("alerts_told", receiver=plan.name, alerts=len(message.alerts), group=message.group)
            return rules.delivered(plan, telling, message, now)
        if not telling.failing or telling.reason != reason:
            log.warning("alerts_not_delivered", receiver=plan.name, reason=reason)
        if rules.is_final(answer.status):
            return rules.refused(plan, telling, message, reason, now)
        jitter = self._rng.uniform(0.0, 1.0)
        return rules.failed(telling, reason, now, jitter=jitter, wait_s=answer.wait_s)

    async def _save(self, receiver: str) -> None:
        try:
            await self._store.save_told(receiver, self._tellings.get(receiver))
        except BridgeError as fault:  # the next message stores it, or another leader tells it once more
            log.warning("alerts_told_not_stored", receiver=receiver, reason=str(fault))

    def _body(self, plan: ReceiverPlan, message: Message) -> bytes:
        return msgspec.json.encode(body_of(plan, message, self._mesh, self._now()))
