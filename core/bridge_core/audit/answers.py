"""What agents answer about their audit logs, and what bridgectl reads."""

from __future__ import annotations

from typing import Final

import msgspec

KEY: Final = "/bridge/audit/key"
SEEN: Final = "/bridge/audit/seen"
FILES: Final = "/bridge/audit/files"
FIND: Final = "/bridge/audit/find"
ENTRIES: Final = "/bridge/audit/entries"
VOUCHER: Final = "/bridge/audit/voucher"
STAMPS: Final = "/bridge/audit/stamps"
MOST_FILES: Final = 64
LOGGED: Final = ("node", "registry")  # kinds of identities that have logs
MOST_ENTRIES: Final = 4096


def file_of(kind: str, name: str) -> str:
    """What a log is called among others: a node's by its name, another one's by its kind, too."""
    return name if kind == "node" else f"{kind}={name}"


class KeyAnswer(msgspec.Struct, frozen=True):
    """What a node says of its log: the verifier key, and the newest heads."""

    key: str
    head: str = ""
    cosigned: str = ""


class FoundRecord(msgspec.Struct, frozen=True):
    """A record, where it is, and the text of its proof; empty: no head speaks for it yet."""

    index: int
    entry: str
    proof: str


class EntriesAnswer(msgspec.Struct, frozen=True):
    """Records, the index behind them, and how many there are in all."""

    entries: list[str]
    next: int
    size: int
