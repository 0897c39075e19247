"""What the mesh tells an agent beside the snapshot, and how it is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bridge_agent.authentication.last_use import LastUse
from bridge_agent.authentication.mesh_secrets import MeshSecrets
from bridge_agent.gateway.config import Caller, ListenerKind
from bridge_core.identity.api_keys import PEPPER, Pepper
from bridge_core.identity.principal import Principal, local
from tests.sealing_bed import SEALER

SECRET = bytes(range(32))
FROZEN = b'{"api-key-pepper":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}'


def test_it_is_kept_for_the_next_start_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "secrets.sealed"
    MeshSecrets((path, SEALER)).take({PEPPER: SECRET})
    assert SEALER.open(path.read_bytes(), "mesh secrets") == FROZEN
    assert path.stat().st_mode & 0o777 == 0o600
    again = MeshSecrets((path, SEALER))
    assert again.pepper is not None
    assert again.pepper.hash(b"x") == Pepper(SECRET).hash(b"x")


@pytest.mark.parametrize(
    "found",
    [b"", b"{", b"[]", b'{"api-key-pepper":"AA=="}', b'{"api-key-pepper":1}', b"\xff", b"[" * 100_000],
)
@pytest.mark.parametrize("sealed", [lambda data: SEALER.seal(data, "mesh secrets"), lambda data: data])
def test_a_damaged_file_is_as_none(tmp_path: Path, found: bytes, sealed: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "secrets.sealed"
    path.write_bytes(sealed(found))
    secrets = MeshSecrets((path, SEALER))
    assert secrets.pepper is None
    secrets.take({PEPPER: SECRET})
    assert SEALER.open(path.read_bytes(), "mesh secrets") == FROZEN


def test_a_file_that_cannot_be_written_keeps_nobody_from_calling(tmp_path: Path) -> None:
    secrets = MeshSecrets((tmp_path / "missing" / "secrets", SEALER))
    secrets.take({PEPPER: SECRET})
    assert secrets.pepper is not None


def test_a_flood_of_secrets_is_not_taken() -> None:
    secrets = MeshSecrets()
    secrets.take({PEPPER: SECRET})
    before = secrets.pepper
    secrets.take({str(n): b"" for n in range(65)})
    secrets.take({"x": bytes(65 * 1024)})
    assert secrets.pepper is before


def test_last_use_counts_where_a_client_came_in() -> None:
    now = 5.9
    used = LastUse(lambda: now)
    anna = Principal("client", "anna", "spiffe://m/client/anna")
    used.take(Caller(local("n"), ListenerKind.LOCAL))
    used.take(Caller(anna, ListenerKind.PEER, "n2"))
    assert used.clients == {}
    used.take(Caller(anna, ListenerKind.TLS))
    assert used.clients == {"anna": 5}
    for n in range(10_000):
        used.take(Caller(Principal("client", f"c{n}", ""), ListenerKind.TLS))
    assert len(used.clients) <= 10_000
