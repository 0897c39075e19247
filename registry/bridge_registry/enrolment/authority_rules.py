"""The mesh's CAs and how one takes another's place, with no certificate refused meanwhile: pure.

An issuer is a CA that signs certificates of members, under a root. Members trust issuers; a join token,
and whoever comes from outside, trusts a root.

Rules:
1. There is always exactly one issuer that is `issuing`, and at most one other.
2. A new one is `announced`: every member is told to trust it, and nobody shows a certificate of it yet.
3. It becomes `issuing` when every live node has said that it trusts it; the one before is then `retired`:
   it signs nothing more and is trusted as long as somebody holds a certificate of it.
4. Nobody trusts the retired one any more when no live certificate is of it; its key is then gone.
   A token that names its root has to be over by then, too.
5. Going back is a rotation as well: an announced one is simply taken away; one that issues already
   changes places with the retired one, which rule 3 has everybody still trust.
6. A node is live while its certificate is valid and nobody revoked it. One that was off for longer
   than that holds nothing that anybody would take, and keeps nobody waiting.

So at any time every live node trusts the issuer of every live node's certificate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from bridge_core.errors import BridgeError

State: TypeAlias = Literal["announced", "issuing", "retired"]

PAIRS: Final = ("registry", "guard", "admin", "etcd", "registry-etcd", "guard-etcd")
"""Whom a registry makes certificates and keys for, by the names of their files."""

_NAMED: Final = 10  # of those who are waited for, in a message


class Issuer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A CA that signs certificates of members.

    Attributes:
        pin: SHA-256 of its certificate's DER, hexadecimal.
        certificate: PEM.
        root: Its root's certificate, PEM.
        root_pin: As `pin`.
        sealed_key: Its key, sealed.
        further: Certificates that lead from it to another root than its own, PEM.
        state: See the module.
        since: When it came into this state, Unix seconds.
    """

    pin: str
    certificate: str
    root: str
    root_pin: str
    sealed_key: bytes
    further: str = ""
    state: State = "issuing"
    since: float = 0.0


class Authorities(msgspec.Struct, frozen=True):
    """All of a mesh's CAs, as the store and every registry's folder have them."""

    issuers: tuple[Issuer, ...]

    @property
    def issuing(self) -> Issuer:
        """The one that signs."""
        return next(one for one in self.issuers if one.state == "issuing")

    @property
    def other(self) -> Issuer | None:
        """The one that is announced or retired."""
        return next((one for one in self.issuers if one.state != "issuing"), None)

    @property
    def roots(self) -> dict[str, str]:
        """The roots' certificates by their pins, the issuing one's first."""
        return {one.root_pin: one.root for one in (self.issuing, *self.issuers)}

    @property
    def sound(self) -> bool:
        """Whether rule 1 holds: of what is read from a disk or a store."""
        return len(self.issuers) <= 2 and sum(one.state == "issuing" for one in self.issuers) == 1


class NodeTrust(msgspec.Struct, frozen=True):
    """A live node: who issued its certificate, and the issuers that it says it trusts."""

    issuer: str
    trusts: frozenset[str] = frozenset()


class Holders(msgspec.Struct, frozen=True):
    """Who holds what now.

    Attributes:
        nodes: Live nodes by name.
        others: Live certificates of admins and clients: whose, and by which issuer.
        tokens: Tokens that can still be used, and the root that each names.
    """

    nodes: Mapping[str, NodeTrust] = {}
    others: Mapping[str, str] = {}
    tokens: Mapping[str, str] = {}


class StepRefused(BridgeError):
    """A step of a rotation that is not to be taken now."""


def begin(now: Authorities, new: Issuer, at: float) -> Authorities:
    """With `new` announced (rule 2).

    Raises:
        StepRefused: another rotation is under way, or it is there already.
    """
    if now.other is not None:
        raise StepRefused(
            "a rotation is under way already", hint="`bridgectl ca status` says what it waits for"
        )
    if new.pin == now.issuing.pin:
        raise StepRefused("this is the CA that issues now")
    return Authorities((now.issuing, msgspec.structs.replace(new, state="announced", since=at)))


def issue(now: Authorities, holders: Holders, at: float, *, force: bool = False) -> Authorities:
    """With the announced one issuing (rule 3).

    Raises:
        StepRefused: none is announced, or somebody does not trust it yet.
    """
    new = now.other
    if new is None or new.state != "announced":
        raise StepRefused("no CA is announced", hint="`bridgectl ca rotate begin` announces one")
    waiting = without_trust(new, holders)
    if waiting and not force:
        raise StepRefused(
            f"{_some(waiting)} did not say yet that they trust the new CA",
            hint="wait for them; one that is gone for good is waited for until its certificate ends, "
            "or until `bridgectl revoke`",
        )
    return _exchanged(now, new, at)


def finish(now: Authorities, holders: Holders, *, force: bool = False) -> Authorities:
    """Without the retired one (rule 4).

    Raises:
        StepRefused: none is retired, or somebody still holds what is of it.
    """
    old = now.other
    if old is None or old.state != "retired":
        raise StepRefused("no CA is retired", hint="`bridgectl ca status` says what is next")
    held = still_held(now, old, holders)
    if held and not force:
        raise StepRefused(
            f"{_some(held)} still hold what the retired CA signed, and would be cut off",
            hint="nodes renew by themselves; give admins and clients new certificates, revoke tokens",
        )
    return Authorities((now.issuing,))


def abort(now: Authorities, at: float) -> Authorities:
    """Back to the CA that was before (rule 5).

    Raises:
        StepRefused: no rotation is under way.
    """
    other = now.other
    if other is None:
        raise StepRefused("no rotation is under way")
    return Authorities((now.issuing,)) if other.state == "announced" else _exchanged(now, other, at)


def without_trust(issuer: Issuer, holders: Holders) -> list[str]:
    """The live nodes that did not say that they trust it."""
    return sorted(name for name, one in holders.nodes.items() if issuer.pin not in one.trusts)


def still_held(now: Authorities, old: Issuer, holders: Holders) -> list[str]:
    """Whose certificates and tokens end with `old`."""
    held = sorted(name for name, one in holders.nodes.items() if one.issuer != now.issuing.pin)
    held += sorted(who for who, issuer in holders.others.items() if issuer != now.issuing.pin)
    if old.root_pin != now.issuing.root_pin:
        held += sorted(
            f"the token {name}" for name, root in holders.tokens.items() if root != now.issuing.root_pin
        )
    return held


def next_step(now: Authorities, holders: Holders) -> str:
    """What an admin does next, in words."""
    other = now.other
    if other is None:
        return "nothing: no rotation is under way"
    if other.state == "announced":
        if waiting := without_trust(other, holders):
            return f"wait for {_some(waiting)} to say that they trust the new CA"
        return "every node trusts the new CA: `bridgectl ca rotate issue`"
    if held := still_held(now, other, holders):
        return f"wait for {_some(held)}: they hold what the retired CA signed"
    return "nobody holds what the retired CA signed: `bridgectl ca rotate finish`"


def _exchanged(now: Authorities, new: Issuer, at: float) -> Authorities:
    return Authorities(
        (
            msgspec.structs.replace(new, state="issuing", since=at),
            msgspec.structs.replace(now.issuing, state="retired", since=at),
        )
    )


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more
