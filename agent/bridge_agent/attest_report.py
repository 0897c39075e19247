"""`bridge-agent attest`: what this machine has of trusted execution, in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

TSM: Final = "sys/kernel/config/tsm/report"


def trusted_execution(root: Path = Path("/")) -> Iterator[str]:
    """One sentence for each kind of hardware, and what can be done with it.

    Args:
        root: Of the file system that is looked at.
    """
    if (root / "dev/tdx_guest").exists() or (root / "dev/tdx-guest").exists():
        yield "TDX: this machine is a trust domain; what runs on it can be proved by a quote"
        if (root / TSM).is_dir():
            yield (
                f"  one is made in /{TSM}: mkdir a folder there, write 64 bytes of report data to its file "
                "inblob, and read outblob; `bridgectl attest verify` says what it proves"
            )
        else:
            yield f"  the kernel makes quotes in /{TSM}, which is not there: mount configfs, load tsm"
    elif (root / "dev/sev-guest").exists():
        yield "SEV-SNP: this machine is a confidential guest of AMD's, whose reports are not verified here"
    else:
        yield "TDX: no, this machine is no trust domain (there is no /dev/tdx_guest)"
    if (root / "dev/sgx_enclave").exists():
        yield "SGX: the processor has enclaves; neither agent nor engines run in one"
    else:
        yield "SGX: no, the processor has no enclaves or they are off (there is no /dev/sgx_enclave)"
