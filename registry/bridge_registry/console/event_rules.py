"""What happened between two pictures of a mesh, in sentences: pure.

Rules:
1. Only what people would act on, or ask about later: nodes and instances coming and going, who leads, whether
   etcd answers, steps of rollouts, and concerns. Figures that move all the time are no events.
2. What is said of a node says its instances' fate with it.
3. The first picture is where telling begins: it is no event that something is there.
4. A registry that stops or begins to lead hears other nodes' reports than before: of nodes only those are
   told then that are new or gone, which every registry knows of.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bridge_core.mesh_picture import MeshPicture, NodePicture, RegistryPicture, RolloutPicture

_NODE_TURNS = {
    "serving": ("node_serves", "info", "serves"),
    "away": ("node_away", "bad", "is away: not heard of, and its instances are off the ring"),
    "no engine": ("node_no_engine", "bad", "has no engine that is ready"),
    "drained": ("node_drained", "info", "is drained: it gets nothing new"),
    "revoked": ("node_revoked", "warn", "is revoked: its certificate is no longer taken"),
}
_BAD_PHASES = frozenset({"rolled-back", "aborted"})


class Told(NamedTuple):
    """An event before it has a number and a time."""

    kind: str
    level: str
    subject: str
    text: str


def happened(before: MeshPicture, after: MeshPicture) -> list[Told]:
    """What became different, worst first within each kind."""
    if before.registry.leads != after.registry.leads:
        return [*_registry(before.registry, after.registry), *_came_and_went(before, after)]
    return [
        *_registry(before.registry, after.registry),
        *_came_and_went(before, after),
        *_turned(before, after),
        *_rollouts(before, after),
        *_concerns(before.registry, after.registry),
    ]


def _registry(before: RegistryPicture, after: RegistryPicture) -> Iterator[Told]:
    if before.leader != after.leader:
        if after.leader:
            yield Told("leader", "info", "registry", f"{after.leader} leads")
        else:
            yield Told("no_leader", "bad", "registry", "no registry leads: nothing can be changed")
    if bool(before.store_fault) != bool(after.store_fault):
        if after.store_fault:
            yield Told("etcd_away", "bad", "etcd", f"etcd does not answer {after.store_fault}")
        else:
            yield Told("etcd_back", "info", "etcd", "etcd answers again")


def _came_and_went(before: MeshPicture, after: MeshPicture) -> Iterator[Told]:
    was = {one.name for one in before.nodes}
    now = {one.name: one for one in after.nodes}
    for name in sorted(was - now.keys()):
        yield Told("node_left", "info", f"node/{name}", f"{name} has left the mesh")
    for name in sorted(now.keys() - was):
        yield Told(
            "node_joined", "info", f"node/{name}", f"{name} joined at {now[name].address or 'no address'}"
        )


def _turned(before: MeshPicture, after: MeshPicture) -> Iterator[Told]:
    was = {one.name: one for one in before.nodes}
    for now in after.nodes:
        if now.name in was:
            yield from _node(was[now.name], now)


def _node(was: NodePicture, now: NodePicture) -> Iterator[Told]:
    subject = f"node/{now.name}"
    if was.state != now.state:
        kind, level, words = _NODE_TURNS.get(now.state, ("node_state", "warn", f"is {now.state}"))
        yield Told(kind, level, subject, f"{now.name} {words}")
    elif now.state == "serving":
        yield from _instances(was, now)
    if now.rejected and now.rejected != was.rejected:
        yield Told("snapshot_refused", "bad", subject, f"{now.name} refused the snapshot: {now.rejected}")
    for peer in sorted(now.silent_to.keys() - was.silent_to.keys()):
        yield Told("peer_silent", "warn", subject, f"{now.name} gets no answer from {peer}")
    for peer in sorted(was.silent_to.keys() - now.silent_to.keys()):
        yield Told("peer_answers", "info", subject, f"{now.name} hears {peer} again")
    if was.version and now.version and was.version != now.version:
        yield Told("version", "info", subject, f"{now.name} runs {now.version}, no longer {was.version}")


def _instances(was: NodePicture, now: NodePicture) -> Iterator[Told]:
    before = {one.id: one for one in was.instances}
    after = {one.id: one for one in now.instances}
    for id_ in sorted(before.keys() - after.keys()):
        yield Told("instance_gone", "bad", f"instance/{id_}", f"{id_} is off the ring")
    for id_ in sorted(after.keys() - before.keys()):
        yield Told("instance_joined", "info", f"instance/{id_}", f"{id_} is on the ring")
    for id_ in sorted(after.keys() & before.keys()):
        if before[id_].state != after[id_].state:
            level = "info" if after[id_].state == "ready" else "warn"
            yield Told("instance_state", level, f"instance/{id_}", f"{id_} is {after[id_].state}")


def _rollouts(before: MeshPicture, after: MeshPicture) -> Iterator[Told]:
    was = {one.name: one for one in before.rollouts}
    for now in after.rollouts:
        yield from _rollout(was.pop(now.name, None), now)
    for name in sorted(was):
        yield Told("rollout_gone", "info", f"rollout/{name}", f"the rollout {name} is gone")


def _rollout(was: RolloutPicture | None, now: RolloutPicture) -> Iterator[Told]:
    subject, why = f"rollout/{now.name}", f": {now.reason}" if now.reason else ""
    if was is None:
        yield Told("rollout", "info", subject, f"the rollout {now.name} of {now.route} begins")
    elif was.phase != now.phase:
        level = "bad" if now.phase in _BAD_PHASES else "warn" if now.phase == "paused" else "info"
        yield Told("rollout_phase", level, subject, f"the rollout {now.name} is {now.phase}{why}")
    elif was.step != now.step:
        yield Told(
            "rollout_step",
            "info",
            subject,
            f"the rollout {now.name} is at step {now.step + 1} of {now.steps}",
        )


def _concerns(before: RegistryPicture, after: RegistryPicture) -> Iterator[Told]:
    # What a concern counts changes while it lasts: only the words around its numbers make it another one.
    was = {_words(one): one for one in before.concerns}
    now = {_words(one): one for one in after.concerns}
    for words in sorted(now.keys() - was.keys()):
        yield Told("concern", "warn", "registry", now[words])
    for words in sorted(was.keys() - now.keys()):
        yield Told("concern_over", "info", "registry", f"no longer: {was[words]}")


def _words(text: str) -> str:
    return "".join(one for one in text if not one.isdigit())
