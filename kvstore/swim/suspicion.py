"""How long a suspect has to refute (Lifeguard section IV-B).

Whoever suspects alone may itself be the one that is slow, so it waits long. Each independent
accuser makes that less likely, and the time shorter.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvstore.config import SwimConfig
    from kvstore.ids import NodeId


def suspicion_timeout_s(confirmations: int, wanted: int, min_s: float, max_s: float) -> float:
    """Seconds from suspect to dead.

    Args:
        confirmations: how many others accuse as well.
        wanted: so many, or more, make it ``min_s``; 0 if there are no others.
        min_s: the shortest.
        max_s: of a lone accuser.
    """
    if wanted < 1:
        return min_s
    part = math.log(confirmations + 1) / math.log(wanted + 1)
    return max(min_s, max_s - (max_s - min_s) * part)


class Suspicion:
    """One suspect's time, counted from the first accusation that we heard."""

    __slots__ = ("_accusers", "_max_s", "_min_s", "_since", "_wanted")

    def __init__(self, accuser: NodeId, members: int, config: SwimConfig, now: float) -> None:
        """``members`` is N: how many are alive or suspected, ourselves included."""
        self._accusers = {accuser}
        self._wanted = max(0, min(config.suspicion_confirmations, members - 2))
        scale = max(1.0, math.log10(max(1, members)))
        self._min_s = config.suspicion_mult * scale * config.probe_interval_s
        self._max_s = self._min_s * config.suspicion_max_mult
        self._since = now

    def confirm(self, accuser: NodeId) -> bool:
        """Another accuses; whether that is news worth passing on."""
        if accuser in self._accusers or len(self._accusers) > self._wanted:
            return False
        self._accusers.add(accuser)
        return True

    @property
    def deadline(self) -> float:
        """When the suspect is dead."""
        confirmations = len(self._accusers) - 1
        return self._since + suspicion_timeout_s(
            confirmations, self._wanted, self._min_s, self._max_s
        )
