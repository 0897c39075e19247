"""A mesh of containers of the project's own images, in a network of their own.

BRIDGE_TEST_IMAGES names the two images, agent's and registry's, as `make images` made them; podman runs
them as root. Each container is as deploy/images/compose.yaml has it: a read-only root, no capabilities, and
a user without rights.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import yaml

from tests.support import eventually

COMPOSE: Final = Path(__file__).parents[1] / "deploy" / "images" / "compose.yaml"
_CONFINED: Final = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp")
_STATE: Final = "/var/lib/bridge"
PKI: Final = f"{_STATE}/registry/pki"
ADMIN: Final = (
    f"--registry registry:11400 --ca {PKI}/ca.pem --cert {PKI}/admin.pem --key {PKI}/admin.key".split()
)
_READY: Final = (
    "import http.client as h,sys;c=h.HTTPConnection('127.0.0.1',int(sys.argv[1]),timeout=3);"
    "c.request('GET',sys.argv[2]);sys.exit(c.getresponse().status!=200)"
)


def missing() -> str:
    """Why no such mesh can run here; empty where one can."""
    if len(os.environ.get("BRIDGE_TEST_IMAGES", "").split()) != 2:
        return "BRIDGE_TEST_IMAGES is not set: make images, then 'bridge:VERSION bridge-registry:VERSION'"
    if shutil.which("podman") is None:
        return "needs podman (Debian: apt-get install podman)"
    return "" if os.geteuid() == 0 else "needs root, for a network of its own"


def podman(*argv: str, given: str = "", timeout_s: float = 120.0) -> str:
    """What podman prints.

    Raises:
        AssertionError: it fails; what it said.
    """
    done = subprocess.run(
        ["podman", *argv], input=given, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"podman {' '.join(argv)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


class Containers:
    """The mesh. Containers have the names of their parts, and find each other by them."""

    def __init__(self) -> None:
        self.agent_image, self.registry_image = os.environ["BRIDGE_TEST_IMAGES"].split()
        self._tag = f"bridge-test-{uuid.uuid4().hex[:8]}"
        self._started: list[str] = []
        self._volumes: set[str] = set()
        self._rounds = itertools.count()

    def called(self, part: str) -> str:
        """A part's container, as podman knows it."""
        return f"{self._tag}-{part}"

    def open(self) -> None:
        """Makes the network."""
        podman("network", "create", self._tag)

    def close(self) -> None:
        """Removes all of it."""
        for name in reversed(self._started):
            with contextlib.suppress(AssertionError):
                podman("rm", "--force", "--time", "2", name)
        for volume in self._volumes:
            with contextlib.suppress(AssertionError):
                podman("volume", "rm", "--force", volume)
        with contextlib.suppress(AssertionError):
            podman("network", "rm", "--force", self._tag)

    def start(self, part: str, command: Sequence[str], *more: str, image: str = "") -> str:
        """Runs one part, until it is stopped; its container."""
        name = self.called(part)
        self._started.append(name)
        podman(
            "run",
            "--detach",
            "--name",
            name,
            *self._options(part),
            *more,
            image or self.registry_image,
            *command,
        )
        return name

    def once(self, command: Sequence[str], *, given: str = "") -> str:
        """Runs a command beside the registry's state; what it prints."""
        options = self._options("registry")
        name = f"{self._tag}-once-{next(self._rounds)}"
        return podman(
            "run", "--rm", "-i", "--name", name, *options, self.registry_image, *command, given=given
        )

    def _options(self, part: str) -> list[str]:
        volumes = {"registry": f"{_STATE}/registry"}
        if part == "etcd":
            volumes["etcd"] = f"{_STATE}/etcd"
        if part.startswith("node"):
            volumes = {part: f"{_STATE}/agent"}
        self._volumes |= {f"{self._tag}-{name}" for name in volumes}
        given = yaml.safe_load(COMPOSE.read_text())["x-bridge"]["environment"]
        return [
            *_CONFINED,
            f"--network={self._tag}",
            f"--network-alias={part}",
            *(f"--volume={self._tag}-{name}:{place}" for name, place in volumes.items()),
            *(f"--env={key}={value}" for key, value in given.items()),
            f"--env=BRIDGE_AGENT_STATE_DIR={_STATE}/agent",
        ]

    def healthy(self, part: str, port: int, path: str) -> bool:
        """Whether the probe of compose.yaml and the chart passes there."""
        argv = ["podman", "exec", self.called(part), "python3", "-ISc", _READY, str(port), path]
        return not subprocess.run(argv, capture_output=True, timeout=60, check=False).returncode

    async def control_plane(self) -> None:
        """Starts all but agents, and returns when the registry is ready."""
        services = yaml.safe_load(COMPOSE.read_text())["services"]
        self.once(services["init"]["command"])
        for part in ("etcd", "guard", "registry"):
            self.start(part, [one.replace("$$", "$") for one in services[part]["command"]])
        await eventually(lambda: self.healthy("registry", 11401, "/readyz"), 180)

    async def agent(self, name: str, drain_s: float = 40.0) -> None:
        """Joins a node by a token and runs it, until it is ready."""
        token = self.once(["bridgectl", "token", "create", *ADMIN]).strip()
        script = (
            f'test -e {_STATE}/agent/agent.json || printf %s "$TOKEN" | '
            f"bridge-agent join registry:11400 --token - --name {name} --advertise {name}; "
            f"exec bridge-agent run --drain {drain_s:.0f}"
        )
        self.start(name, ["sh", "-ec", script], f"--env=TOKEN={token}", image=self.agent_image)
        await eventually(lambda: self.healthy(name, 11446, "/healthz"), 180)


@contextlib.contextmanager
def containers() -> Iterator[Containers]:
    """The mesh, removed with the block."""
    mesh = Containers()
    mesh.open()
    try:
        yield mesh
    finally:
        mesh.close()
