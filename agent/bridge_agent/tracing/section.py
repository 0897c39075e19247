"""The part of `agent.json` that says where traces go, and which."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from bridge_core.addresses import is_loopback

_LONGEST: Final = 2000
_Ratio = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
_Rate = Annotated[float, msgspec.Meta(ge=0.0, le=10_000.0)]
_File = Annotated[str, msgspec.Meta(max_length=4096)]


class TracesSection(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Where spans are sent, and of which requests.

    Attributes:
        endpoint: An OTLP/HTTP collector's, whole: http://localhost:4318/v1/traces.
        ratio: The share of the traces that begin here which is kept.
        slow_s: A request whose answer began later than that is always kept; seconds.
        flagged_per_s: How many traces a second are kept because a client marked them as sampled.
        most_per_s: Spans a second of each kind (failed, retried, slow, sampled).
        ca: A file of the certificates (PEM) that the collector's is verified by; empty: the system's.
        headers: A file, mode 0600, of header lines that every request to the collector has.
    """

    endpoint: Annotated[str, msgspec.Meta(min_length=1, max_length=_LONGEST)]
    ratio: _Ratio = 0.1
    slow_s: Annotated[float, msgspec.Meta(gt=0.0, le=86_400.0)] = 10.0
    flagged_per_s: _Rate = 10.0
    most_per_s: _Rate = 100.0
    ca: _File = ""
    headers: _File = ""

    def __post_init__(self) -> None:
        """Refuses an endpoint that cannot be asked, or would be told secrets for everybody to read.

        Raises:
            ValueError: which becomes msgspec.ValidationError when decoding.
        """
        parts = self.parts
        if parts.scheme == "http" and self.headers and not is_loopback(parts.hostname or ""):
            raise ValueError(
                "traces.headers are secrets, and go to an https:// endpoint or one of this machine alone"
            )
        if self.ca and parts.scheme == "http":
            raise ValueError("traces.ca is for an https:// endpoint")

    @property
    def parts(self) -> SplitResult:
        """The endpoint's.

        Raises:
            ValueError: what is wrong with it.
        """
        text = self.endpoint
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("traces.endpoint has characters that no address has")
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("traces.endpoint is an address such as http://localhost:4318/v1/traces")
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise ValueError("traces.endpoint has no user, password and fragment: traces.headers has secrets")
        return parts
