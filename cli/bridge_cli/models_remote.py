"""What `bridgectl models` asks of nodes, over their peer listeners."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from bridge_cli.access import Access
from bridge_cli.agents import link
from bridge_cli.models_command import copies_by_name
from bridge_core import model_answers
from bridge_core.decoding import MAX_RECORD_BYTES, Undecodable, decode_json
from bridge_core.errors import BridgeError, Fatal
from bridge_core.http1 import ClientResponse
from bridge_core.model_answers import BlobChecked, ModelAsked, Removed, SharedSaid
from bridge_core.model_digests import is_meant, meant
from bridge_core.names import canonical_or_same
from bridge_core.snapshot import Instance, Node, Snapshot
from bridge_core.tls import client_context

T = TypeVar("T")

Show: TypeAlias = Callable[[str, dict[str, Any]], None]
"""Told of each record of a node as it comes."""

# Pages that answer in records, and what their success is called.
_RECORDS: Final = {
    model_answers.PULL: "pulled",
    model_answers.WARM: "warm",
    model_answers.PUBLISH: "published",
    model_answers.UNPUBLISH: "removed from the shared storage",
}
_MOST_LINE: Final = 1 << 20
_MOST_ANSWER: Final = 16 << 20
_ANSWER_S: Final = 60.0
_MOST_SHARED: Final = 4 << 20
_MOST_FAULTS: Final = 100
_SILENCE_S: Final = 600.0  # to hash a large blob takes minutes, of which nothing is heard


class Outcome(msgspec.Struct, omit_defaults=True):
    """What came of it at a node: what was done, or why it was not, and what is wrong with which blob.

    `shared`: how its shared storage stands, where that was asked.
    """

    node: str
    done: str = ""
    fault: str = ""
    faults: list[str] = msgspec.field(default_factory=list)
    shared: SharedSaid | None = None


class Place(msgspec.Struct, frozen=True):
    """A copy of a model: where, which weights, how large; whether its name means it, and it is in memory.

    `warm`: its file is in its node's page cache. `sealed`: it lies sealed on its node's disk.
    `signed`: by whom, where a policy asks for it. `withheld`: why its node does not serve it.
    """

    instance: str
    node: str
    digest: str
    size: int
    meant: bool
    loaded: bool
    warm: bool = False
    sealed: bool = False
    signed: tuple[str, ...] = ()
    withheld: str = ""


def copies_of(snapshot: Snapshot, name: str) -> list[Place]:
    """Every copy of a model, by instance."""
    wanted = canonical_or_same(name)
    copies = copies_by_name(snapshot).get(wanted, [])

    def having(field: Callable[[Instance], tuple[str, ...]]) -> set[str]:
        instances = snapshot.instances.values()
        return {one.id for one in instances if any(canonical_or_same(name) == wanted for name in field(one))}

    loaded, warm = having(lambda one: one.loaded), having(lambda one: one.warm)
    sealed = having(lambda one: one.sealed)
    digest = meant(copies)
    places = [
        Place(
            copy.instance,
            copy.node,
            copy.model.digest,
            copy.model.size,
            is_meant(copy, digest),
            copy.instance in loaded,
            copy.instance in warm,
            copy.instance in sealed,
            _signed_by(snapshot.instances[copy.instance], wanted),
        )
        for copy in copies
    ]
    places += [
        Place(one.id, one.node, model.digest, 0, False, False, withheld=model.why)
        for one in snapshot.instances.values()
        for model in one.withheld
        if canonical_or_same(model.name) == wanted
    ]
    return sorted(places, key=lambda place: place.instance)


def nodes_having(snapshot: Snapshot, name: str, *, only_meant: bool = False) -> list[str]:
    """The nodes that have a model; `only_meant`: with the weights that the mesh means by its name.

    Raises:
        Fatal: nobody has it.
    """
    having = {place.node for place in copies_of(snapshot, name) if place.meant or not only_meant}
    if not having:
        raise Fatal(f"nobody has {name}", hint="`bridgectl models` lists what there is")
    return sorted(having)


def _signed_by(instance: Instance, wanted: str) -> tuple[str, ...]:
    return next((one.by for one in instance.signed if canonical_or_same(one.name) == wanted), ())


def chosen(snapshot: Snapshot, wanted: list[str]) -> list[Node]:
    """The nodes that have one of these labels, or names; all that are active where none is given.

    Raises:
        Fatal: one of them fits no node.
    """
    nodes = sorted(
        (one for one in snapshot.nodes.values() if one.state != "revoked"), key=lambda one: one.name
    )
    if not wanted:
        return [one for one in nodes if one.state == "active"]
    found: dict[str, Node] = {}
    for text in wanted:
        key, equals, value = text.partition("=")
        fit = [one for one in nodes if (one.labels.get(key) == value if equals else one.name == text)]
        if not fit:
            raise Fatal(f"--nodes {text!r} fits no node", hint="`bridgectl nodes` lists them")
        found.update((one.name, one) for one in fit)
    return list(found.values())


@contextlib.asynccontextmanager
async def _answered(
    context: ssl.SSLContext, domain: str, node: Node, path: str, asked: msgspec.Struct
) -> AsyncIterator[ClientResponse]:
    """What a node answers to a question, while the context lasts.

    Raises:
        BridgeError: it is an error, or the node cannot be reached.
        OSError, TimeoutError: the node went away.
    """
    pool = link(node.name, node.peer, context, domain)
    try:
        body = msgspec.json.encode(asked)
        async with pool.request("POST", path, ((b"content-type", b"application/json"),), body) as answer:
            if answer.status != 200:
                refused = _error_in(await answer.read(_MOST_LINE))
                raise BridgeError(refused or f"it answered {answer.status}")
            yield answer
    finally:
        await pool.close()


async def ask_node(
    to: Access, snapshot: Snapshot, node: Node, *, path: str, asked: msgspec.Struct, kind: type[T]
) -> T:
    """A small answer of one node to a question.

    Raises:
        BridgeError: there is none that can be used, or it is an error.
    """
    context = client_context(to.cert, to.key, to.ca)
    try:
        async with (
            asyncio.timeout(_ANSWER_S),
            _answered(context, snapshot.mesh.trust_domain, node, path, asked) as answer,
        ):
            return _decoded(await answer.read(_MOST_ANSWER), kind, most=_MOST_ANSWER)
    except (OSError, TimeoutError) as fault:
        raise BridgeError(str(fault) or "it did not answer in time") from fault


async def ask_nodes(
    to: Access,
    snapshot: Snapshot,
    wanted: list[str],
    *,
    path: str,
    asked: ModelAsked,
    show: Show,
    in_turn: bool = False,
) -> list[Outcome]:
    """Asks the nodes that fit, all at once or one after the other; what came of it, by node.

    Raises:
        Fatal: no node fits, or the identity cannot be used.
    """
    nodes = chosen(snapshot, wanted)
    context = client_context(to.cert, to.key, to.ca)
    domain = snapshot.mesh.trust_domain

    async def one(node: Node) -> Outcome:
        outcome = Outcome(node.name)
        try:
            async with _answered(context, domain, node, path, asked) as answer:
                await _read(answer, path, outcome, show)
        except (BridgeError, OSError, TimeoutError) as fault:
            outcome.fault = str(fault) or "it did not answer in time"
        return outcome

    if in_turn:
        return [await one(node) for node in nodes]
    return list(await asyncio.gather(*(one(node) for node in nodes)))


async def _read(answer: ClientResponse, path: str, outcome: Outcome, show: Show) -> None:
    if path == model_answers.RM:
        removed = _decoded(await answer.read(_MOST_LINE), Removed)
        outcome.fault = removed.refused
        outcome.done = "" if removed.refused else f"removed, {removed.freed} bytes are free again"
    elif path == model_answers.SHARED:
        outcome.shared = _decoded(await answer.read(_MOST_SHARED), SharedSaid)
    elif path in _RECORDS:
        last: dict[str, Any] = {}
        async for line in _lines(answer):
            last = _decoded(line, dict)
            show(outcome.node, last)
        if last.get("status") == "success":
            outcome.done = _RECORDS[path]
        else:
            outcome.fault = str(last.get("error") or "its answer ended early")
    else:
        await _checked(answer, outcome, show)


async def _checked(answer: ClientResponse, outcome: Outcome, show: Show) -> None:
    count = sealed = wrong = 0
    signed: dict[str, str] = {}
    async for line in _lines(answer):
        blob = _decoded(line, BlobChecked)
        count += not blob.of_manifest
        sealed += blob.sealed
        show(outcome.node, {"status": f"read {blob.digest[7:19]} of {blob.model}"})
        wrong += bool(blob.fault) and not blob.of_manifest
        if blob.fault and len(outcome.faults) < _MOST_FAULTS:
            outcome.faults.append(f"{blob.model} {blob.digest[:19]}: {blob.fault}")
        if blob.signed:
            signed[blob.model] = blob.signed
    outcome.done = f"{count} blobs read, {wrong} of them wrong"
    if sealed:
        outcome.done += f", {sealed} sealed"
    for model, by in sorted(signed.items())[:_MOST_FAULTS]:
        outcome.done += f"; {model} is signed by {by}"


async def _lines(answer: ClientResponse) -> AsyncIterator[bytes]:
    rest = b""
    parts = aiter(answer)
    while True:
        try:
            async with asyncio.timeout(_SILENCE_S):
                part = await anext(parts)
        except StopAsyncIteration:
            return
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) > _MOST_LINE:
            raise BridgeError(f"it answered a line of more than {_MOST_LINE} bytes")
        for line in lines:
            if line:
                yield line


def _decoded(data: bytes, kind: type[T], *, most: int = MAX_RECORD_BYTES) -> T:
    try:
        return decode_json(data, kind, most=most)
    except Undecodable as fault:
        raise BridgeError(f"its answer cannot be used: {fault.message}") from fault


def _error_in(body: bytes) -> str:
    try:
        return str(decode_json(body, dict).get("error") or "")
    except Undecodable:
        return ""
