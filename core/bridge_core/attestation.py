"""What quotes say and what an AttestationPolicy asks of them. Measurements are lower-case hexadecimal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

import msgspec

from bridge_core.bounds import Name

# As Intel's TCB info names them; from the best to the worst, as far as they have an order.
TcbStatus: TypeAlias = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
]


class Evidence(msgspec.Struct, frozen=True):
    """What a verified quote proves.

    Attributes:
        kind: "sgx": an enclave; "tdx": a whole virtual machine.
        measurements: By name: mr_enclave, mr_signer; mr_td, rt_mr0 to rt_mr3.
        product: Of the enclave, as its signer numbers it.
        version: Of that product; grows with each mended fault.
        debug: Whoever runs the machine can look into it.
        report_data: 64 bytes that the enclave or machine chose; binds the quote to a key and a question.
        tcb: What Intel says of the processor's firmware.
        advisories: Intel's, that apply to it.
    """

    kind: Literal["sgx", "tdx"]
    measurements: Mapping[str, str]
    product: int
    version: int
    debug: bool
    report_data: bytes
    tcb: str
    advisories: tuple[str, ...] = ()


class Enclave(msgspec.Struct, frozen=True, omit_defaults=True):
    """An SGX enclave that is trusted.

    Attributes:
        mr_enclave: Its exact code; empty: any of the signer's.
        mr_signer: Who signed it; empty: anybody.
        product: Number of the signer's product; None: any.
        version: The least version of it.
    """

    mr_enclave: Name = ""
    mr_signer: Name = ""
    product: int | None = None
    version: int = 0


class Machine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A TDX machine that is trusted; of its run-time measurements those that are not empty count."""

    mr_td: Name
    rt_mr0: Name = ""
    rt_mr1: Name = ""
    rt_mr2: Name = ""
    rt_mr3: Name = ""


class AttestationPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is trusted; anything else is not.

    Attributes:
        name: The document's.
        enclaves, machines: One of them has to be what the quote is of.
        tcb: States of the firmware that are taken.
    """

    name: Name
    enclaves: Annotated[tuple[Enclave, ...], msgspec.Meta(max_length=256)] = ()
    machines: Annotated[tuple[Machine, ...], msgspec.Meta(max_length=256)] = ()
    tcb: Annotated[tuple[TcbStatus, ...], msgspec.Meta(max_length=8)] = ("UpToDate",)
