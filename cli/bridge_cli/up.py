"""`bridgectl up`: a mesh on this machine, from nothing or from whatever is left of it.

Every step is skipped where its result is there already, so `up` is also the repair: what runs is left
alone, what is missing is made or started, and identities, tokens and configuration stay.
"""

from __future__ import annotations

import asyncio
import fcntl
import http.client
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bridge_cli import parts
from bridge_cli.access import Access
from bridge_cli.connection import ask
from bridge_cli.etcd_ready import ready as etcd_ready
from bridge_cli.layout import Layout, MeshFile, MeshOptions, check_options, combined
from bridge_cli.ports import check_free, resolved
from bridge_cli.processes import ProcessTable, end, rotate, start_detached
from bridge_cli.progress import Progress
from bridge_core.errors import BridgeError, Fatal, Unavailable
from bridge_core.files import write_atomically
from bridge_core.logs.files import FILE as LOG_FILE
from bridge_core.store.etcd import ClientTls
from bridge_wire.v1 import registry_pb2 as wire

_OPTIONS_FILE = "up.json"
_TABLE_FILE = "processes.json"
READY_DEADLINE_S = 60.0
_ORDER_DEADLINE_S = 30.0  # a dead leader's lease runs out meanwhile
_TOKEN_TTL_S = 600
_FOREIGN_ETCD_DEADLINE_S = 5.0
_ENDING_S = 5.0
_PAUSE_S, _MOST_PAUSE_S = 0.05, 0.25  # between two looks: what is waited for needs the processor, too


def load_layout(state: Path) -> Layout | None:
    """The mesh that was made in `state`; None if none was.

    Raises:
        Fatal: what is there cannot be read.
    """
    try:
        options = msgspec.json.decode((state / _OPTIONS_FILE).read_bytes(), type=MeshOptions)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as fault:
        raise Fatal(f"cannot read {state / _OPTIONS_FILE}: {fault}") from fault
    return Layout(state, options)


def load_table(state: Path) -> ProcessTable:
    """The processes that were started for the mesh in `state`. Raises Fatal."""
    return ProcessTable(state / _TABLE_FILE)


def _settled(state: Path) -> MeshOptions | None:
    """The options that a mesh is bound to: its nodes have written them into what they hold.

    Before a node has joined, a first try that failed (a taken port, a mistyped etcd) binds nobody.
    """
    layout = load_layout(state)
    if layout is None or not any(_joined(layout, name) for name in layout.names):
        return None
    return layout.options


def _joined(layout: Layout, name: str) -> bool:
    return (layout.node_state(name) / "agent.json").exists()


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Keeps a second `up` or `down` of the same mesh out.

    Raises:
        Fatal: one is at work, or the state dir cannot be made or written.
    """
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as fault:
        raise Fatal(
            f"cannot write to {state}: {fault.strerror}", hint="--state-dir names another place"
        ) from fault
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Fatal(f"another `bridgectl up` or `bridgectl down` is at work in {state}") from None
    finally:
        os.close(handle)


async def bring_up(state: Path, given: dict[str, object], progress: Progress) -> tuple[MeshFile, bool]:
    """Makes the mesh run.

    Args:
        state: Where its files are.
        given: Options of `MeshOptions` named on the command line.
        progress: Where to show the steps.

    Returns:
        What mesh.json now says, and whether anything had to be started.

    Raises:
        BridgeError: it could not; what this call had started is ended again.
    """
    options = combined(_settled(state), given)
    check_options(options)
    options = msgspec.structs.replace(options, address=options.address or resolved(options.host))
    parts.check_engine(options.engine)
    raising = _Raising(Layout(state, options), load_table(state), progress)
    try:
        changed = await raising.run()
    except BaseException:
        # Whoever presses Ctrl-C twice wants an end, too, but not half a mesh left running. It stays ignored:
        # the command ends by this fault, and a later interrupt would take its last sentence away.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        records = [record for record in map(raising.table.get, raising.started) if record]
        if records:
            progress.say("Ending what was started …")
        await end(records, _ENDING_S)
        raise
    return raising.write(), changed


class _Raising:
    def __init__(self, layout: Layout, table: ProcessTable, progress: Progress) -> None:
        self.layout = layout
        self.table = table
        self.started: list[str] = []
        self._progress = progress
        self._access = Access(
            (layout.registry_grpc,), layout.pki / "ca.pem", layout.pki / "admin.pem", layout.pki / "admin.key"
        )

    async def run(self) -> bool:
        """All steps; returns whether there was anything to do."""
        layout = self.layout
        nodes = layout.names
        own_etcd = [] if layout.options.etcd else ["etcd"]
        missing = [part for part in (*own_etcd, "guard", "registry", *nodes) if self.table.get(part) is None]
        unjoined = [name for name in nodes if not _joined(layout, name)]
        if not missing and not unjoined:
            await self._led()
            await self._nodes_ready("every node is ready")
            return False
        check_free(
            (f"{part}'s {what} listener", address)
            for part in missing
            for what, address in layout.addresses(part).items()
        )
        self._keep_options()
        async with asyncio.TaskGroup() as group:
            seeding = group.create_task(self._seed())
            with self._progress.step("certificate authority and first identities"):
                await parts.run_to_end(parts.init_command(layout))
            with self._progress.step(f"etcd at {', '.join(layout.etcd_urls)}"):
                await self._etcd()
            with self._progress.step(f"store guard at {layout.guard}"):
                self._start("guard")
                await self._wait("guard", self._guard_answers)
            with self._progress.step(f"registry at {layout.registry_grpc}"):
                self._start("registry")
                # What an etcd that was away brings back is known once a registry leads in it.
                leading = bool(unjoined) or "etcd" in missing
                await self._wait("registry", self._registry_answers(leading=leading))
            if unjoined:
                with self._progress.step(f"joined: {', '.join(unjoined)}"):
                    await self._join(unjoined)
            with self._progress.step("models"):
                await seeding
        for name in nodes:
            self._start(name)
        await self._led()
        await self._nodes_ready(f"{len(nodes)} nodes serve and see each other")
        self._all_run([*own_etcd, "registry", *nodes])
        return True

    def write(self) -> MeshFile:
        """Writes mesh.json and returns what it says."""
        mesh = self.layout.mesh(self.table.pids())
        text = msgspec.json.format(msgspec.json.encode(mesh), indent=2) + b"\n"
        write_atomically(self.layout.mesh_file, text)
        return mesh

    def _keep_options(self) -> None:
        try:
            self.layout.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
            text = msgspec.json.format(msgspec.json.encode(self.layout.options), indent=2) + b"\n"
            write_atomically(self.layout.state / _OPTIONS_FILE, text)
        except OSError as fault:
            raise Fatal(f"cannot write to {self.layout.state}: {fault.strerror}") from fault

    def _start(self, part: str) -> None:
        if self.table.get(part) is not None:
            return
        argv, environment = parts.launch(self.layout, part)
        log = self._log(part)
        rotate(log)
        if part != "etcd":  # ours put their own logs aside while they run
            environment = {**environment, LOG_FILE: str(log)}
        self.table.put(part, start_detached(argv, log, env=environment))
        self.started.append(part)

    def _log(self, part: str) -> Path:
        return self.layout.logs / f"{part}.log"

    async def _etcd(self) -> None:
        pki = self.layout.pki
        tls = ClientTls(pki / "registry-etcd.pem", pki / "registry-etcd.key", pki / "etcd-ca.pem")
        if self.layout.options.etcd:
            try:
                await etcd_ready(self.layout.etcd_urls, tls, _FOREIGN_ETCD_DEADLINE_S)
            except BridgeError as fault:
                raise Fatal(
                    fault.message,
                    hint=f"it has to trust {pki / 'etcd-ca.pem'} (--trusted-ca-file) and to hold a "
                    f"certificate of it, such as {pki / 'etcd.pem'}; its log says more",
                ) from fault
            return
        self.layout.etcd_data.mkdir(mode=0o700, exist_ok=True)
        self._start("etcd")

        async def answers() -> None:
            await etcd_ready(self.layout.etcd_urls, tls, 0.0)

        await self._wait("etcd", answers)

    async def _guard_answers(self) -> None:
        try:
            ready, words = await parts.ask(self.layout.guard_admin, "/readyz")
        except (OSError, http.client.HTTPException) as fault:
            raise Unavailable(f"the store guard does not answer: {fault}") from fault
        if ready != 200:
            raise Unavailable(words.decode(errors="replace").strip())

    def _registry_answers(self, *, leading: bool) -> Callable[[], Awaitable[None]]:
        # Only a leader enrols nodes; after a hard end the former one's lease has to run out first,
        # and a mesh whose nodes are all enrolled does not wait for that.
        async def answers() -> None:
            status = await self._status()
            if leading and not status.leader:
                raise Unavailable("it does not lead")

        return answers

    async def _status(self) -> wire.StatusResponse:
        found: wire.StatusResponse = await ask(
            self._access, lambda stub: stub.Status(wire.StatusRequest(), timeout=2.0)
        )
        return found

    async def _join(self, names: list[str]) -> None:
        token = ""

        async def created() -> None:  # a leader that was just elected may step down once more
            nonlocal token
            request = wire.CreateTokenRequest(ttl_seconds=_TOKEN_TTL_S, uses=len(names))
            token = (await ask(self._access, lambda stub: stub.CreateToken(request, timeout=10.0))).token

        await self._wait("registry", created)
        await asyncio.gather(
            *(parts.run_to_end(parts.join_command(self.layout, name), given=token + "\n") for name in names)
        )

    async def _seed(self) -> None:
        # One after the other: the first fills the cache that the others link from.
        for name in self.layout.names:
            seed = parts.seed_command(self.layout, name)
            # Once: a model that somebody has deleted since is not brought back.
            done = self.layout.node_state(name) / "seeded"
            if seed is not None and not done.exists():
                await parts.run_to_end(seed)
                write_atomically(done, b"")

    async def _led(self) -> None:
        """Nodes serve without a registry, too: that they do says nothing of it."""
        concerns: list[str] = []

        async def in_order() -> None:
            status = await self._status()
            concerns[:] = status.concerns
            if status.store_fault:
                raise Unavailable(f"etcd does not answer it {status.store_fault}")
            if not (status.leader or status.leader_name):  # another one may lead, too
                raise Unavailable("no registry leads")
            known = {node.name for node in status.nodes if node.state != "revoked"}
            lost = [name for name in self.layout.names if name not in known]
            if lost and not concerns:  # those say why, and what to do while all of it runs
                raise Unavailable(f"it knows nothing of {', '.join(lost)}, as if its etcd were another one")

        with self._progress.step("a registry leads, etcd answers, and they know every node"):
            await self._wait("registry", in_order, within_s=_ORDER_DEADLINE_S)
        for concern in concerns:
            self._progress.say(f"! {concern}")

    def _all_run(self, expected: list[str]) -> None:
        """What began well may have ended since."""
        for part in expected:
            if self.table.get(part) is None:
                raise parts.ended(part, self._log(part))

    async def _nodes_ready(self, what: str) -> None:
        with self._progress.step(what):
            await asyncio.gather(*(self._wait(name, self._node_ready(name)) for name in self.layout.names))

    def _node_ready(self, name: str) -> Callable[[], Awaitable[None]]:
        async def ready() -> None:
            state = await parts.agent_state(self.layout.listeners(name)["admin"])
            if not state.ready:
                raise Unavailable(f"{name} is not ready: {state.reason}")
            if state.instances < len(self.layout.names):
                raise Unavailable(f"{name} sees {state.instances} of {len(self.layout.names)} engines")

        return ready

    async def _wait(
        self, part: str, answers: Callable[[], Awaitable[None]], *, within_s: float = READY_DEADLINE_S
    ) -> None:
        """Until `answers` raises no longer; raises itself when the process ends or takes too long."""
        until, pause = time.monotonic() + within_s, _PAUSE_S
        while True:
            if self.table.get(part) is None:
                raise parts.ended(part, self._log(part))
            try:
                await answers()
                return
            except BridgeError as fault:
                if time.monotonic() > until:
                    raise Fatal(
                        f"{part} was not ready within {within_s:g} s: {fault.message}",
                        hint=f"its log is {self._log(part)}",
                    ) from fault
            await asyncio.sleep(pause)
            pause = min(pause * 1.3, _MOST_PAUSE_S)
