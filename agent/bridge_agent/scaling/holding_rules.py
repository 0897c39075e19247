"""What an instance does next about a model that is scaled: pure.

Rules:
1. A holder has the model in memory for as long as it is one. What a request says of `keep_alive` stands
   over that in the engine, so a holder that would lose the model soon asks for it again.
2. Whoever is no holder any more, or has the model for ever, lets go of it; the engine unloads it when nobody
   uses it. A model that only a request had loaded goes by itself, as everywhere.
3. What was held for a policy that is gone stays as long as a model usually does.
4. After a fault the instance is left alone for a time.
"""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias

SOON_S: Final = 60.0
PAUSE_S: Final = 30.0

Step: TypeAlias = Literal["load", "unload", "unpin", ""]


def step(*, held: bool, scaled: bool, ours: bool, expires_in_s: float | None, since_fault_s: float) -> Step:
    """What to do now; empty: nothing.

    Args:
        held: The instance is a holder.
        scaled: There is a policy for the model.
        ours: This agent has it loaded for a policy.
        expires_in_s: When the engine unloads it if nobody asks; None: it is not in memory.
        since_fault_s: Seconds since the last step failed there.
    """
    if since_fault_s < PAUSE_S:
        return ""
    if held:
        return "load" if expires_in_s is None or expires_in_s < SOON_S else ""
    if expires_in_s is None:
        return ""
    if not scaled:
        return "unpin" if ours else ""
    return "unload" if ours or expires_in_s == math.inf else ""
