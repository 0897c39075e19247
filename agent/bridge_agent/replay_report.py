"""The last hour's requests, decided again under another mesh_config.

`bridge-agent replay` decides those of its own node. `bridgectl replay` collects those of all nodes and
runs `bridge-agent replay --collected` with them on standard input, so that no agent spends its time on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bridge_agent.audit.made import LOG
from bridge_agent.audit.past import PastAnswer, past_requests
from bridge_agent.config import StateDir, load_config
from bridge_agent.routing.replay_rules import Past, Placed, ReplayTally, replay, tally
from bridge_agent.routing.view import Index
from bridge_core.audit.stored import StoredLog
from bridge_core.config import load, mesh_settings, route
from bridge_core.config.documents import MeshDocument, ModelRouteDocument
from bridge_core.errors import BridgeError, Fatal
from bridge_core.names import display
from bridge_core.sealing import open_sealer
from bridge_core.snapshot import MESH_KEY, Snapshot, encode_entry
from bridge_core.snapshot_file import decode
from bridge_core.snapshot_file import read as read_snapshot


class Collected(msgspec.Struct, frozen=True):
    """What `bridgectl replay` hands over on standard input: nodes' pasts and a snapshot of the mesh."""

    snapshot: msgspec.Raw
    nodes: dict[str, PastAnswer]


class Comparison(msgspec.Struct, frozen=True):
    """The same requests as they went, as they would go now, and as they would go with the change.

    Attributes:
        requests: How many were decided again.
        moved: Of them, those that the change sends to another instance than the present
            configuration does.
        agreed: Of them, those that the replay of the present configuration sends where they went:
            how far the replay can be believed.
        was, now, then: By name asked for.
    """

    requests: int
    moved: int
    agreed: int
    was: dict[str, ReplayTally]
    now: dict[str, ReplayTally]
    then: dict[str, ReplayTally]


def changed(snapshot: Snapshot, files: Iterable[tuple[str, str]]) -> Snapshot:
    """The snapshot with the routes and mesh settings of these documents in place of its own.

    Raises:
        Fatal: the documents have faults; all are named.
    """
    loaded = load(files, trust_domain=snapshot.mesh.trust_domain)
    if loaded.faults:
        raise Fatal("mesh_config has faults:\n" + "\n".join(f"  {fault}" for fault in loaded.faults))
    entries = {key: value for key, value in snapshot.entries.items() if not key.startswith("route/")}
    parsed = [document.parsed for document in loaded.documents]
    meshes = [one.spec for one in parsed if isinstance(one, MeshDocument)]
    mesh = mesh_settings(
        meshes[0] if meshes else None, snapshot.mesh.trust_domain, snapshot.mesh.revoked_serials
    )
    entries[MESH_KEY] = encode_entry(mesh)
    for one in parsed:
        if isinstance(one, ModelRouteDocument):
            made = route(one, mesh.defaults)
            entries[f"route/{made.name}"] = encode_entry(made)
    return Snapshot(snapshot.version, entries)


def compare(node: str, snapshot: Snapshot, other: Snapshot, past: list[Past]) -> Comparison:
    """Decides the same requests under both."""
    # No local instances: in a snapshot this node's own are instances like all others.
    now = replay(Index(f"{node}?", snapshot, ()), past)
    then = replay(Index(f"{node}?", other, ()), past)
    was = [Placed(one.instance, "", 0) for one in past]
    return Comparison(
        len(past),
        sum(a.instance != b.instance for a, b in zip(now, then, strict=True)),
        sum(a.instance == one.instance for a, one in zip(now, past, strict=True)),
        tally(past, was),
        tally(past, now),
        tally(past, then),
    )


def replay_files(state: StateDir, folder: Path, since: float) -> Comparison:
    """What the mesh_config in `folder` would have done to this node's requests since then.

    Raises:
        Fatal: no node, no snapshot, no requests, or documents with faults.
    """
    settings = load_config(state)
    sealer = open_sealer(state.seal_folder(settings.seal))
    try:
        snapshot = read_snapshot(state.snapshot, sealer)
    except (OSError, BridgeError) as fault:
        raise Fatal(f"{state.snapshot} cannot be used: {fault}") from fault
    past = past_requests(StoredLog(state.root / "audit" / LOG, sealer), since)
    if not past:
        raise Fatal("no requests to replay: the audit log has none of that time")
    return compare(settings.name, snapshot, changed(snapshot, documents(folder)), past)


def read_collected(data: bytes) -> Collected:
    """What `bridgectl replay` handed over.

    Raises:
        Fatal: it does not decode.
    """
    try:
        return msgspec.json.decode(data, type=Collected)
    except msgspec.DecodeError as fault:
        raise Fatal(f"what the nodes sent does not decode: {fault}") from fault


def replay_collected(collected: Collected, folder: Path) -> Comparison:
    """What the mesh_config in `folder` would have done to the requests of all these nodes.

    Raises:
        Fatal: no requests, or documents with faults.
    """
    try:
        snapshot = decode(bytes(collected.snapshot))
    except (msgspec.DecodeError, BridgeError) as fault:
        raise Fatal(f"the snapshot that a node sent cannot be used: {fault}") from fault
    past = sorted((one for node in collected.nodes.values() for one in node.requests), key=lambda one: one.at)
    other = changed(snapshot, documents(folder))
    if not past:
        raise Fatal("no requests to replay: the nodes have served none in that time")
    return compare("", snapshot, other, past)


def documents(folder: Path) -> list[tuple[str, str]]:
    """The YAML files of a folder, by name.

    Raises:
        Fatal: there are none.
    """
    paths = sorted(path for kind in ("*.yaml", "*.yml") for path in folder.rglob(kind))
    if not paths:
        raise Fatal(f"no YAML files in {folder}")
    return [(str(path), path.read_text(encoding="utf-8")) for path in paths]


def print_comparison(found: Comparison, console: Console) -> None:
    """Prints it for people."""
    console.print(
        f"{found.requests} requests; the change moves {found.moved} to another instance; "
        f"{found.agreed} go where they went when the present configuration is replayed",
        soft_wrap=True,
    )
    for asked in found.was:
        table = Table(
            "", "as it was", "replayed now", "with the change", title=display(asked), title_justify="left"
        )
        columns = [one[asked] for one in (found.was, found.now, found.then)]
        for name in sorted({name for one in columns for name in one.by_instance}):
            table.add_row(name, *(_share(one.by_instance[name], one) for one in columns))
        for name in sorted({name for one in columns for name in one.by_backend}):
            table.add_row(f"backend {name}", *(_share(one.by_backend[name], one) for one in columns))
        table.add_row("nobody", *(_share(one.unserved, one) for one in columns))
        table.add_row("had to wait", "", *(_share(one.queued, one) for one in columns[1:]))
        console.print(table)


def _share(count: int, of: ReplayTally) -> str:
    return f"{count} ({count / of.requests:.1%})" if of.requests else "0"
