"""In which order the parts of a mesh are renewed, and what speaks against it: pure.

Rules:
1. The control plane first: store guards and the registries that follow, then the one that leads. Then
   agents, one at a time, so that each model has somebody to answer for it.
2. Of agents those first whose restart costs least: drained ones (cordoned: nobody is sent there), those
   without a model, those whose models all run elsewhere too; last those that alone have a model. Of alike
   ones the one with the fewest requests first.
3. Agents that cannot read one another's requests (their `hop` formats differ, one is not read by the other)
   are renewed together: between them forwarded requests of clients would be refused.
4. Nothing is begun while no registry leads, etcd is away or an agent refuses snapshots, while traffic is
   being shifted, or towards a version that is older than, or not the next of, what runs: such reasons are all
   told at once. That a node is away is told, and refuses nothing: it may be so for good.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from bridge_core.formats import FORMATS, HOP, differences
from bridge_core.names import natural

_UNDECIDED: Final = frozenset({"progressing", "paused"})

_Holders: TypeAlias = Mapping[str, set[str]]
"""Who in service has a model, by its name."""


class Part(msgspec.Struct, frozen=True):
    """An agent, as the registry tells of it.

    Attributes:
        name: Its node's.
        state: As in `mesh_report.NodeLine`.
        version: Of the agent; empty: not known.
        speaks: Which version of each format it writes; empty: not heard of.
        models: What its instances have.
        in_flight: Requests there.
        rejected: Why it refused the last snapshot; empty: it did not.
    """

    name: str
    state: str
    version: str
    speaks: Mapping[str, int]
    models: tuple[str, ...] = ()
    in_flight: int = 0
    rejected: str = ""


class Whole(msgspec.Struct, frozen=True):
    """The mesh before an upgrade.

    Attributes:
        registry: Who was asked.
        leader: Who leads; empty: nobody.
        registry_version: Of the registry that was asked.
        speaks: Which version of each format that one writes; empty: it tells none.
        store_fault: Why etcd does not answer; empty: it does.
        parts: Its agents.
        rollouts: Phases of its rollouts, by name.
    """

    registry: str
    leader: str
    registry_version: str
    speaks: Mapping[str, int]
    store_fault: str
    parts: tuple[Part, ...]
    rollouts: Mapping[str, str] = {}


class Step(msgspec.Struct, frozen=True):
    """One thing to do, after the one before it is done and well.

    Attributes:
        what: "backup", "registries", "agent" or "agents together".
        names: Of what is renewed.
        why: What decided the place, or what to mind; empty: nothing.
        keep_drained: Of those names the nodes that stay drained afterwards.
    """

    what: str
    names: tuple[str, ...]
    why: str = ""
    keep_drained: tuple[str, ...] = ()


class UpgradePlan(msgspec.Struct, frozen=True):
    """What to do, in order.

    Attributes:
        target: The version to come.
        steps: See there; empty: all is of that version.
        refused: Why it must not be begun now, a sentence each; empty: it may.
        differ: Versions and formats that differ from the target's, a sentence each.
        notes: What else is to be known.
    """

    target: str
    steps: tuple[Step, ...]
    refused: tuple[str, ...]
    differ: tuple[str, ...]
    notes: tuple[str, ...]


def plan(mesh: Whole, target: str, *, again: bool = False) -> UpgradePlan:
    """The plan to bring a mesh to `target`, which is the version of the program that plans.

    `again`: also what tells that version already, as a checkout of another commit does.
    """
    alive = [one for one in mesh.parts if one.state not in {"revoked", "away"}]
    due = [one for one in alive if again or _is_due(one.version, one.speaks, target)]
    control = again or _is_due(mesh.registry_version, mesh.speaks, target)
    steps: list[Step] = []
    if control or due:
        steps.append(Step("backup", (), "what a restore would need, should anything go wrong"))
    if control:
        others = "" if mesh.leader in {"", mesh.registry} else f"; {mesh.leader}, which leads, last"
        steps.append(Step("registries", (mesh.registry,), f"all of them, and their store guards{others}"))
    holders = _holders(alive)
    if _speak_apart(due):
        steps.append(
            Step(
                "agents together",
                tuple(one.name for one in _ordered(due, holders)),
                "agents of the version before show no proof of who asks, and those after it refuse clients' "
                "requests without: renew all agents of the mesh together",
                tuple(one.name for one in due if one.state == "drained"),
            )
        )
    else:
        steps += [_step(one, holders) for one in _ordered(due, holders)]
    return UpgradePlan(
        target,
        tuple(steps),
        tuple(_refusals(mesh, alive, target)),
        tuple(_differences(mesh, alive, target)),
        tuple(_notes(mesh, due)),
    )


def _is_due(version: str, speaks: Mapping[str, int], target: str) -> bool:
    return version != target or bool(differences(speaks))


def _speak_apart(parts: Iterable[Part]) -> bool:
    """Whether requests of one of them would not be read by a renewed one."""
    return any(one.name == HOP and not one.readable for part in parts for one in differences(part.speaks))


def _holders(alive: Iterable[Part]) -> _Holders:
    found = defaultdict[str, set[str]](set)
    for one in alive:
        if one.state == "serving":
            for model in one.models:
                found[model].add(one.name)
    return found


def _alone(part: Part, holders: _Holders) -> list[str]:
    """Models that nobody else in service has."""
    return [model for model in part.models if holders.get(model, set()) <= {part.name}]


def _ordered(parts: Sequence[Part], holders: _Holders) -> list[Part]:
    def cost(part: Part) -> tuple[bool, bool, int, object]:
        busy = part.state != "drained" and bool(part.models)
        return busy, busy and bool(_alone(part, holders)), part.in_flight, natural(part.name)

    return sorted(parts, key=cost)


def _step(part: Part, holders: _Holders) -> Step:
    if part.state == "drained":
        return Step("agent", (part.name,), "it is drained, and stays so", (part.name,))
    alone = _alone(part, holders)
    if alone:
        more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
        why = f"it alone has {alone[0]}{more}: who asks for it meanwhile waits, or is refused with 503"
        return Step("agent", (part.name,), why)
    why = f"{part.in_flight} requests there end first" if part.in_flight else ""
    return Step("agent", (part.name,), why)


def _told(mesh: Whole, alive: Iterable[Part]) -> list[tuple[str, str, Mapping[str, int]]]:
    """Whoever tells what they run: their name, the version, and which version of each format they write."""
    agents = [(one.name, one.version, one.speaks) for one in alive]
    return [("the registry", mesh.registry_version, mesh.speaks), *agents]


def _refusals(mesh: Whole, alive: Sequence[Part], target: str) -> Iterable[str]:
    if not mesh.leader:
        yield "no registry leads: see `bridgectl status`"
    if mesh.store_fault:
        yield f"etcd does not answer {mesh.store_fault}"
    for name, phase in sorted(mesh.rollouts.items()):
        if phase in _UNDECIDED:
            yield f"the rollout {name} is {phase}: `bridgectl rollout promote` or `abort` ends it first"
    for one in alive:
        if one.rejected:
            yield f"{one.name} refused the last snapshot: {one.rejected}"
    told = _told(mesh, alive)
    for who, version, _ in told:
        if reason := _step_refused(version, target):
            yield f"{who} runs {version}: {reason}"
    for who, _, speaks in told:
        for one_format in differences(speaks):
            if one_format.newer:
                known = FORMATS.get(one_format.name)
                most = f"up to {known.written}" if known is not None else "none of that name"
                yield (
                    f"{who} writes version {one_format.theirs} of the format {one_format.name!r}, and this "
                    f"program knows {most}: plan with the newest version's bridgectl"
                )


def _step_refused(version: str, target: str) -> str:
    """Why one may not go from this version to the target; empty: one may, or cannot tell."""
    here, there = _numbers(version), _numbers(target)
    if here is None or there is None or here == there:
        return ""
    if here > there:
        return f"that is newer than {target}; go back with the backup of that time, not by an upgrade"
    if there[0] - here[0] > 1:
        return f"{target} works with the version before it alone; renew to {here[0] + 1}.x first"
    return ""


def _numbers(version: str) -> tuple[int, ...] | None:
    parts = version.split(".")[:3]
    return tuple(map(int, parts)) if all(part.isascii() and part.isdecimal() for part in parts) else None


def _differences(mesh: Whole, alive: Sequence[Part], target: str) -> Iterable[str]:
    for who, version, speaks in _told(mesh, alive):
        if version != target:
            yield f"{who} runs {version or 'a version that it does not tell'}, not {target}"
        for one in differences(speaks):
            if not one.newer:
                known = FORMATS[one.name]
                reads = "which this program reads" if one.readable else "which this program does not read"
                yield f"{who} writes {one.name} {one.theirs}, not {known.written} ({known.between}), {reads}"


def _notes(mesh: Whole, due: Sequence[Part]) -> Iterable[str]:
    for one in mesh.parts:
        if one.state == "away":
            yield f"{one.name} is away: renew it before it comes back, or when it does"
    cordoned = [one.name for one in mesh.parts if one.state == "drained"]
    if cordoned:
        yield f"cordoned, and to stay so: {', '.join(sorted(cordoned, key=natural))}"
    if due and sum(one.state == "serving" for one in mesh.parts) == 1:
        yield "one node alone serves: while its agent restarts, requests wait in systemd's sockets"
    if not mesh.speaks:
        yield "the registry tells no formats: it is of a version before they were told"
