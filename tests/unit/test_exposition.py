"""Which format whoever scrapes gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from bridge_core.exposition import OPENMETRICS, TEXT, kind_of, rendered

# As Prometheus 2.42 and 3.5 send it.
OLDER = (
    b"application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    b"text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
NEWER = (
    b"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    b"application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    b"text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, TEXT),
        (b"", TEXT),
        (b"*/*", TEXT),
        (b"text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
        (OLDER, OPENMETRICS),
        (NEWER, OPENMETRICS),
        (b"application/openmetrics-text", OPENMETRICS),
        (b'Application/OpenMetrics-Text ; Version="1.0.0"', OPENMETRICS),
        (b"application/openmetrics-text;version=2.0.0", TEXT),
        (b"text/plain;version=0.0.4,application/openmetrics-text;version=1.0.0;q=0.9", TEXT),
        (b"text/plain;version=0.0.4;q=0.3,application/openmetrics-text;q=0.301", OPENMETRICS),
        (b"application/openmetrics-text;q=0", TEXT),
        (b"application/openmetrics-text;q=0.000", TEXT),
        (b"application/openmetrics-text;q=1.000", OPENMETRICS),
        (b"application/openmetrics-text;q=nan", TEXT),
        (b"application/openmetrics-text;q=2", TEXT),
        (b"application/openmetrics-text;q=-1", TEXT),
        (b"application/openmetrics-text-more", TEXT),
    ],
)
def test_what_is_asked_for_is_what_is_answered(accept: bytes | None, kind: bytes) -> None:
    assert kind_of(accept) == kind


@given(st.binary(max_size=60) | st.text('atext/plin;,=q.01v"*', max_size=60).map(str.encode))
def test_whatever_is_asked_for_one_of_the_two_is_answered(accept: bytes) -> None:
    assert kind_of(accept) in {TEXT, OPENMETRICS}
    kind, body = rendered(CollectorRegistry(), accept)
    assert (body == b"") is (kind == TEXT)
    assert kind == TEXT or not list(text_string_to_metric_families(body.decode()))
