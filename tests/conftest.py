"""What every test gets."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from typing import TextIO

import hypothesis
import pytest
import structlog

from tests.chart_bed import find_helm
from tests.waiting_tasks import where_tasks_wait

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("bridge", deadline=None)
hypothesis.settings.load_profile("bridge")


_WHOLE_MESHES = ("cluster", "faults", "attacks")
_MESH_S = 400.0  # of which making the mesh takes half a minute, and minutes on a busy machine
# Begun first, so that at the end no worker has minutes to go while the other one has nothing left.
_LONGEST = (
    "test_mesh_under_load",
    "test_up_down_status",
    "test_mesh_rollout_faults",
    "test_mesh_surviving_streams",
    "test_mesh_wrong_answers",
    "test_mesh_isolation",
    "test_mesh_partition",
    "test_mesh_starting_badly",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives tests of whole meshes more time, where they do not say how much; the longest come first."""
    for item in items:
        if item.path.parent.name in _WHOLE_MESHES and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_MESH_S))
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds to a test's failure for want of time what its tasks wait for."""
    report = yield
    if call.excinfo is not None and "from pytest-timeout" in str(call.excinfo.value):
        report.sections.append(("Tasks that wait", where_tasks_wait()))
    return report


@pytest.fixture(scope="session", autouse=True)
def contexts_of_nobody(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Meshes that tests start are not what the commands of whoever runs them ask afterwards."""
    os.environ["BRIDGE_CONTEXT"] = str(tmp_path_factory.mktemp("contexts") / "context.json")


@pytest.fixture(scope="session")
def helm() -> str:
    """A real helm."""
    found = find_helm()
    if found is None:
        pytest.skip("no helm: `go install helm.sh/helm/v3/cmd/helm@v3.22.0`, then BRIDGE_TEST_HELM or PATH")
    return found


class NotOfACommand:
    """Standard output as it is, but not that of a command which `CliRunner` runs in another thread.

    That one is closed at the command's end, and a server in this process that logs there ends of it.
    """

    def __init__(self) -> None:
        self._own = sys.stdout

    def _now(self) -> TextIO:
        return self._own if type(sys.stdout).__module__.startswith(("click", "typer")) else sys.stdout

    def write(self, text: str) -> int:
        return self._now().write(text)

    def flush(self) -> None:
        self._now().flush()


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A command run in this process that sets logging up sets it up for itself alone.

    Else the next test that reads what was logged finds nothing, depending on the order of the files.
    Tracebacks come without the values of variables, as our programs' do: to draw those of a worker that has
    run thousands of tests may take minutes.
    """
    before = structlog.get_config()
    lines = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[*before["processors"][:-1], lines],
        logger_factory=structlog.PrintLoggerFactory(NotOfACommand()),  # type: ignore[arg-type]
    )
    yield
    structlog.configure(**before)
