"""What a task says of tries that fail."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from bridge_core.errors import BridgeError, Unavailable
from bridge_registry.complaint import Complaint


def test_the_same_failure_is_said_again_only_after_it_went_well_or_for_another_reason() -> None:
    complaint = Complaint("not_done")
    with capture_logs() as logs:
        for reason in ("away", "away", "", "away", "full", "full"):
            with complaint.of_failure():
                if reason:
                    raise Unavailable(reason)
    assert [one["reason"] for one in logs] == ["away", "away", "full"]
    assert {(one["event"], one["log_level"]) for one in logs} == {("not_done", "warning")}


def test_what_is_no_failure_that_is_expected_goes_through() -> None:
    with pytest.raises(ValueError, match="odd"), Complaint("not_done").of_failure():
        raise ValueError("odd")
    with Complaint("not_done").of_failure():
        raise BridgeError("expected")
