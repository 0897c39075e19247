"""What only the leader may do: the condition of its writes, and whom to ask otherwise."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import Unavailable
from bridge_core.store.api import Unchanged
from bridge_registry.election import Election
from bridge_registry.records import Candidate


class Leadership:
    """Reads an election.

    Args:
        election: The election this registry stands in.
        own: This registry as it stands there.
        now: Monotonic seconds.
        check_store: Raises Unavailable while the store is not known to be the mesh's, told the key of
            the candidacy under which this registry leads.
    """

    def __init__(
        self,
        election: Election,
        own: Candidate,
        now: Callable[[], float],
        check_store: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._election = election
        self._own = own
        self._now = now
        self._check_store = check_store

    def leads(self) -> bool:
        """Whether this registry leads now."""
        return self._election.leads(self._now())

    @property
    def leader(self) -> Candidate | None:
        """Who leads, as last heard from the store; None: nobody, or one that cannot be read."""
        raw = self._election.office.leader
        if raw is None or (self._election.office.fence is not None and not self.leads()):
            return None
        try:
            return msgspec.json.decode(raw, type=Candidate)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def fence(self) -> Unchanged:
        """The condition under which this registry may write.

        Raises:
            Unavailable: the store is not the mesh's, or this registry does not lead; the message says so,
                or names who does.
        """
        fence = self.office_fence()
        self._check_store(fence.key)
        return fence

    def office_fence(self) -> Unchanged:
        """The same in whatever store it is: for the restore of one that is not the mesh's.

        Raises:
            Unavailable: this registry does not lead; the message names who does.
        """
        fence = self._election.office.fence
        if fence is None or not self.leads():
            raise self._elsewhere()
        return fence

    def check_serving(self) -> None:
        """Returns unless another registry leads: without any leader, what is known is served on.

        Raises:
            Unavailable: another leads; the message names it.
        """
        office = self._election.office
        if office.leader is not None and office.fence is None:
            raise self._elsewhere()

    def _elsewhere(self) -> Unavailable:
        raw, own = self._election.office.leader, self._election.office.fence is not None
        if raw is None or own:
            return Unavailable("no registry leads at present", hint="try again in some seconds")
        try:
            leader = decode_json(raw, Candidate)
        except Undecodable:
            return Unavailable("another registry leads")
        if leader.name == self._own.name:  # its own candidacy from before its lease was lost
            return Unavailable("no registry leads at present", hint="try again in some seconds")
        return Unavailable(f"the registry {leader.name} leads: ask it at {leader.address}")
