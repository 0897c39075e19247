"""Options that the commands `seal rotate` of the programs have in common."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

ToOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--to",
        help="Seal the keyring with the key from there: file:/PATH, credential:NAME or exec:/PROGRAM "
        "ARGUMENTS. Without, with a new one of our own.",
    ),
]
DataKeyOption: TypeAlias = Annotated[
    bool, typer.Option("--data-key", help="Add a data key for what is written from the next start on.")
]
