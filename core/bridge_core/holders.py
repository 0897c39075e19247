"""Which instances are to have a model in memory, and which of them new requests go to.

What an AutoscalePolicy becomes in a snapshot. Agents load and unload their own instances by it; routing
prefers the active ones. It says where a model is ready, never where it may run: with no active instance
left, whoever has the model on disk serves it, as without a policy.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec

from bridge_core.bounds import Name, Text

MAX_HOLDERS: Final = 20_000  # of one model

Ids: TypeAlias = Annotated[tuple[Text, ...], msgspec.Meta(max_length=MAX_HOLDERS)]


class ModelHolders(msgspec.Struct, frozen=True, omit_defaults=True):
    """The holders of one model; see the module.

    Attributes:
        policy: The AutoscalePolicy's name.
        model: As it is written there.
        active: Instances that get its new requests.
        held: Instances that keep it in memory besides: they load it, or finish what they have.
    """

    policy: Name
    model: Name
    active: Ids = ()
    held: Ids = ()
