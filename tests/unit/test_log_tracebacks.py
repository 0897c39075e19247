"""What the programs write of an exception: where it was, never what the variables held."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
import typer

from bridge_agent.cli import app as agent
from bridge_cli.main import app as bridgectl
from bridge_core.command.logs import log_readably
from bridge_core.logs.ecs_rules import Source
from bridge_core.logs.setup import ProgramLog, log_for_people, log_into
from bridge_core.logs.sink import LogSink
from bridge_core.logs.tracebacks import short_traceback
from bridge_engine.cli import app as engine
from bridge_registry.cli import app as registry

SECRET = "what the client asked for"


def _dive(depth: int, prompt: str) -> None:
    if depth:
        _dive(depth - 1, prompt)
    else:
        raise RecursionError("too deep")


class Stderr(io.TextIOWrapper):
    """Standard error, of a terminal or not, that can be read."""

    def __init__(self, *, terminal: bool) -> None:
        self._raw = io.BytesIO()
        self._terminal = terminal
        super().__init__(self._raw, write_through=True)

    def isatty(self) -> bool:
        return self._terminal

    def text(self) -> str:
        self.flush()
        return self._raw.getvalue().decode()


@pytest.fixture(params=[False, True], ids=["file", "terminal"])
def stderr(request: pytest.FixtureRequest) -> Stderr:
    return Stderr(terminal=request.param)


def _log_of(stderr: Stderr, set_up: Callable[[], None], depth: int) -> str:
    with contextlib.redirect_stderr(stderr):
        set_up()
        try:
            _dive(depth, SECRET)
        except RecursionError:
            structlog.get_logger().exception("failed", path="/api/generate")
    return stderr.text()


@pytest.mark.parametrize("set_up", [log_readably, lambda: log_for_people("info")])
def test_an_exception_is_logged_short_and_without_values(stderr: Stderr, set_up: Callable[[], None]) -> None:
    text = _log_of(stderr, set_up, 600)
    assert "too deep" in text
    assert "_dive" in text
    assert SECRET not in text
    assert text.count("_dive(depth - 1, prompt)") <= 12
    assert len(text) < 8000


@pytest.mark.parametrize("command", [agent, bridgectl, engine, registry])
def test_every_command_sets_its_log_up_before_it_does_anything(stderr: Stderr, command: typer.Typer) -> None:
    """Neither typer nor structlog draws a traceback with values where rich is installed."""
    structlog.reset_defaults()
    assert not command.pretty_exceptions_enable
    text = _log_of(stderr, command.registered_callback.callback, 3)
    assert "too deep" in text
    assert SECRET not in text


def test_a_message_that_quotes_the_request_is_left_out() -> None:
    try:
        {}[SECRET * 10_000]
    except KeyError as fault:
        text = short_traceback((type(fault), fault, fault.__traceback__))
    assert len(text) < 7000
    assert "KeyError: '…'" in text
    assert SECRET not in text


@pytest.mark.parametrize("stderr", [False], indirect=True)
def test_a_collector_gets_one_line_a_record(stderr: Stderr, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        sink = LogSink(told=lambda _: b"", fd=file.fileno())
        sink.start()
        assert not _log_of(stderr, lambda: log_into(ProgramLog(Source("p", "n", "1", 1), sink), "info"), 600)
        sink.close(60.0)
    (line,) = path.read_text().splitlines()
    found = json.loads(line)
    assert (found["event.action"], found["log.level"]) == ("failed", "error")
    assert found["labels.path"] == "/api/generate"
    assert (found["error.type"], found["error.message"]) == ("RecursionError", "too deep")
    assert found["error.stack_trace"].count("_dive(depth - 1, prompt)") <= 12
    assert SECRET not in line


def test_a_command_s_lines_go_where_standard_error_is_when_they_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command that runs inside of another program has a standard error that is closed after it."""
    first, then = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", first)
    log_readably()
    log = structlog.get_logger()
    log.warning("meanwhile")
    monkeypatch.setattr(sys, "stderr", then)
    first.close()
    log.warning("afterwards")
    assert "afterwards" in then.getvalue()
