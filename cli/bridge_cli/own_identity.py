"""A key made on this machine and the certificate for it: three files in a folder."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from bridge_core.errors import Fatal
from bridge_core.files import write_atomically


class IdentityFolder(msgspec.Struct, frozen=True):
    """Where they are: `cert.pem`, `key.pem` and `ca.pem`."""

    folder: Path

    @property
    def cert(self) -> Path:
        """The certificate, with the CAs between it and the root."""
        return self.folder / "cert.pem"

    @property
    def key(self) -> Path:
        """Its key, which never leaves this machine."""
        return self.folder / "key.pem"

    @property
    def ca(self) -> Path:
        """Whom its holder trusts."""
        return self.folder / "ca.pem"

    def check_free(self) -> None:
        """Returns when nothing would be overwritten.

        Raises:
            Fatal: there is a key or certificate already.
        """
        for path in (self.key, self.cert):
            if path.exists():
                raise Fatal(f"{path} is there already", hint="--out names another folder")

    async def fill(self, kind: str, name: str, certify: Callable[[bytes], Awaitable[Any]]) -> Any:
        """Makes the key, has it certified, and writes the files; what `certify` answered.

        Args:
            kind: Of identity.
            name: Its name.
            certify: Is given a CSR.

        Raises:
            Fatal: a file cannot be written.
        """
        from bridge_core.identity import SpiffeId
        from bridge_core.identity.certificates import create_csr, generate_key, key_to_pem

        key = generate_key()
        # What the registry grants goes by the name of the request, not by what the CSR says.
        answer = await certify(create_csr(key, SpiffeId("mesh", kind, name)))
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self.key, key_to_pem(key))
            write_atomically(self.cert, answer.certificate_chain_pem)
            write_atomically(self.ca, answer.trust_bundle_pem, mode=0o644)
        except OSError as fault:
            raise Fatal(
                f"cannot write into {self.folder}: {fault.strerror}",
                hint="the certificate is made all the same; --out names another folder, for another one",
            ) from fault
        return answer
